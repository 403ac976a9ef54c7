r"""Evaluation: how probable a trained model finds data it has not seen.

The evidence :math:`p_\theta(x)` of a VAE is an integral without a closed form. Importance sampling from the encoder
estimates it, and the logarithm of the estimate is, in expectation, a lower bound on :math:`\log p_\theta(x)` that rises
with the number of samples K.

Annealed importance sampling (AIS) gets closer. Write the start of the path, a Gaussian :math:`q(z)`, by its noise,
:math:`z = \mu + \sigma \odot \epsilon`, and let :math:`r(\epsilon) = \log p(x, z) - \log q(z)` be the log-weight of
importance sampling. Between the start and the posterior lie the densities

.. math:: f_\beta(\epsilon) = N(\epsilon; 0, I) \, e^{\beta r(\epsilon)}, \qquad
    0 = \beta_0 < \beta_1 < \dots < \beta_T = 1, \qquad \int f_0 = 1, \quad \int f_1 = p(x),

and a chain passes through them. From :math:`\epsilon_0 \sim N(0, I)`, each :math:`\epsilon_t` is drawn by a transition
that leaves :math:`f_{\beta_t}` invariant: Hamiltonian Monte Carlo (HMC) with an accept-or-reject step. The weight

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, r(\epsilon_{t-1}), \qquad \mathbb{E}[w] = p(x)

is unbiased for any number of steps; T = 1 is importance sampling. The same path walked backwards from an exact sample of
the posterior has :math:`\mathbb{E}[1 / w] = 1 / p(x)`. So :math:`\log \frac1K \sum_k w_k` is in expectation a lower bound,
and :math:`-\log \frac1K \sum_k 1 / w_k` of the backward chains an upper one. All this needs step sizes that do not depend
on the chains they serve: they are tuned on other noise, then frozen.

Shapes: x is (N, \*D), or (B, \*D) where a batch is meant. The results are in nats, one per data point; the caller averages.
"""

import datetime
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vae_tutorial import bounds, gaussian
from vae_tutorial.models import VAE

MAX_NUMBERS = 2**22  # in one tensor that compares points with all posteriors


@torch.no_grad()
def log_likelihood(
    model: VAE,
    x: Tensor,
    *,
    num_samples: int,
    batch_size: int = 100,
    chunk_size: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance-weighted estimate of the log-evidence of each data point, in nats.

    .. math:: \log p(x) \approx \log \frac1K \sum_{k=1}^K w_k, \qquad
        w_k = \frac{p(x \mid z_k) \, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    In expectation it is a lower bound, and it rises to log p(x) as K grows. The samples come in chunks whose sums are
    combined as they come, so memory does not grow with K.

    Args:
        model: a VAE, on its device.
        x: data, (N, \*D), bytes or floats, on any device.
        num_samples: K, at least 1.
        batch_size: data points evaluated at once.
        chunk_size: samples drawn at once; changes the memory, and the order in which the noise is drawn.
        generator: source of the noise, on the model's device.

    Returns:
        The estimate for each data point, (N,), on the CPU.

    Raises:
        ValueError: if ``num_samples``, ``batch_size`` or ``chunk_size`` is below 1, or for data the model does not
            describe.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3.

    >>> from vae_tutorial import models
    >>> vae = models.linear_vae((4,), num_latents=2)
    >>> log_likelihood(vae, torch.ones(3, 4), num_samples=10).shape
    torch.Size([3])
    """
    if min(num_samples, batch_size, chunk_size) < 1:
        given = f"num_samples {num_samples}, batch_size {batch_size}, chunk_size {chunk_size}"
        raise ValueError(f"num_samples, batch_size and chunk_size must each be at least 1, got {given}")
    model.check_data(x)
    model.eval()
    parameter = next(model.parameters())
    estimates = []
    for batch in x.split(batch_size):
        batch = batch.to(parameter.device, parameter.dtype)
        log_sum = batch.new_full((len(batch),), -math.inf)  # log of the sum of the weights so far
        for start in range(0, num_samples, chunk_size):
            log_w = model.log_weights(batch, min(chunk_size, num_samples - start), generator=generator)
            log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
        estimates.append(log_sum.cpu() - math.log(num_samples))
    return torch.cat(estimates)


class AggregatedPosteriorTerms(NamedTuple):
    """The terms of ``mean_kl = mutual_information + marginal_kl``, scalars in nats, and the last two's standard errors."""

    mean_kl: Tensor
    mutual_information: Tensor
    marginal_kl: Tensor
    mutual_information_error: Tensor
    marginal_kl_error: Tensor


def kl_per_dimension(mu: Tensor, log_var: Tensor) -> Tensor:
    r"""KL divergence from q to N(0, 1) in each latent dimension, in nats.

    .. math:: \mathrm{KL}_j = \tfrac12 \big( \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1 \big)

    Their sum over j is the KL of the whole, because both distributions factorise.

    Args:
        mu: mean of q, (..., J).
        log_var: log-variance of q, (..., J), (..., 1) or a scalar.

    Returns:
        KL divergence of each dimension, (..., J); the caller averages over the data.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma and Welling (2014), appendix B.

    >>> kl_per_dimension(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
    tensor([[0., 2.]])
    """
    try:
        fits = mu.dim() > 0 and torch.broadcast_shapes(mu.shape, log_var.shape)[-1] == mu.shape[-1]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"shapes do not fit: mu {tuple(mu.shape)}, log_var {tuple(log_var.shape)}; expected (..., J)")
    return gaussian.kl_to_standard_normal(mu.unsqueeze(-1), log_var.unsqueeze(-1))


def active_units(mu: Tensor, *, threshold: float = 0.01) -> Tensor:
    r"""Which latent dimensions answer to the data: the variance of the posterior mean over them exceeds a threshold.

    .. math:: \frac1N \sum_{n=1}^N \big( \mu_{nj} - \bar\mu_j \big)^2 > \text{threshold}

    A dimension that has collapsed has the prior for its q at every data point, so that its mean does not move.

    Args:
        mu: posterior mean of each data point, (N, J), N at least 2.
        threshold: on the variance.

    Returns:
        Truth values, (J,); their sum is the number of active units.

    Raises:
        ValueError: if ``mu`` is not (N, J) with N at least 2.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.2.

    >>> active_units(torch.tensor([[-1.0, 0.05], [1.0, -0.05]]))
    tensor([ True, False])
    """
    if mu.dim() != 2 or len(mu) < 2:
        raise ValueError(f"mu must have shape (N, J) with N at least 2, got {tuple(mu.shape)}")
    return mu.var(0, correction=0) > threshold


@torch.no_grad()
def log_aggregated_posterior(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    r"""Log-density of the aggregated posterior, the mixture of the posteriors of all data points, in nats.

    .. math:: \log q(z) = \log \frac1N \sum_{n=1}^N N(z; \mu_n, \sigma_n^2)

    Every point meets every posterior; the points come in chunks, so that memory grows with neither number.

    Args:
        z: points, (..., J).
        mu: posterior mean of each data point, (N, J).
        log_var: posterior log-variance of each data point, (N, J).

    Returns:
        Log-density, (...).

    Raises:
        ValueError: if the shapes do not fit.

    Source: Hoffman and Johnson (2016), section 2.

    >>> mu, log_var = torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1)
    >>> log_aggregated_posterior(torch.zeros(3, 1), mu, log_var)  # log N(1; 0, 1), from both sides
    tensor([-1.4189, -1.4189, -1.4189])
    """
    _check_posteriors(mu, log_var)
    if z.dim() == 0 or z.shape[-1] != mu.shape[1]:
        raise ValueError(f"shapes do not fit: z {tuple(z.shape)}, mu {tuple(mu.shape)}; expected (..., J) and (N, J)")
    chunks = z.reshape(-1, 1, mu.shape[1]).split(max(1, MAX_NUMBERS // mu.numel()))
    log_q = [gaussian.log_prob(chunk, mu, log_var).logsumexp(-1) for chunk in chunks]  # (M, 1, J) -> (M,)
    return torch.cat(log_q).view(z.shape[:-1]) - math.log(len(mu))


@torch.no_grad()
def aggregated_posterior_terms(
    mu: Tensor, log_var: Tensor, z: Tensor, log_weight: Tensor | None = None
) -> AggregatedPosteriorTerms:
    r"""What the average KL pays for: information about the data point, and the misfit of the aggregated posterior.

    .. math:: \frac1N \sum_{n=1}^N \mathrm{KL}(q_n \,\|\, p) = I_q(n; z) + \mathrm{KL}(q \,\|\, p), \qquad
        q(z) = \frac1N \sum_{n=1}^N q_n(z)

    for the posteriors :math:`q_n = q(z \mid x_n)` of a *finite* set of data points, drawn with equal probability. The
    left side is in closed form. The two terms on the right are averages over z from each posterior:

    .. math:: I_q(n; z) = \frac1N \sum_{n=1}^N \mathbb{E}_{q_n} \Big[ \log \frac{q_n(z)}{q(z)} \Big], \qquad
        \mathrm{KL}(q \,\|\, p) = \frac1N \sum_{n=1}^N \mathbb{E}_{q_n} \Big[ \log \frac{q(z)}{p(z)} \Big].

    The information is at most :math:`\log N`, and so is its every sample, because q is at least :math:`q_n / N`. A
    minibatch in place of the set has its own size for N: its estimate cannot exceed the log of the batch size, however
    much the code tells about the whole set.

    The density q needs every posterior at every sample, :math:`K N^2 J` numbers, which are made a few million at a time.

    Args:
        mu: posterior mean of each data point, (N, J).
        log_var: posterior log-variance of each data point, (N, J).
        z: samples of each posterior, (K, N, J) with K at least 2, or nodes from
            :func:`~vae_tutorial.quadrature.gaussian_nodes`. In double precision where the posteriors are narrow: the
            digits of z carry its distance from mu.
        log_weight: log-weights of the nodes, (K,); ``None`` for samples.

    Returns:
        ``AggregatedPosteriorTerms``, five scalars. The standard errors are those of sampling z, the data points being
        the whole set; with nodes they are 0.

    Raises:
        ValueError: if the shapes do not fit, or z holds a single sample of each posterior.

    Source: Hoffman and Johnson (2016), with the expectation over the index of the data point.

    >>> mu, log_var = torch.tensor([[-20.0], [20.0]]), torch.zeros(2, 1)
    >>> terms = aggregated_posterior_terms(mu, log_var, gaussian.sample(mu, log_var, 10))
    >>> terms.mean_kl, terms.mutual_information  # two posteriors far apart: one bit, log 2
    (tensor(200.), tensor(0.6931))
    """
    _check_posteriors(mu, log_var)
    if z.dim() != 3 or z.shape[1:] != mu.shape or len(z) < (2 if log_weight is None else 1):
        raise ValueError(f"z must have shape (K, *{tuple(mu.shape)}), with K at least 2 for samples: {tuple(z.shape)}")
    if log_weight is not None and log_weight.shape != z.shape[:1]:
        raise ValueError(f"shapes do not fit: z {tuple(z.shape)}, log_weight {tuple(log_weight.shape)}")
    zero = torch.zeros_like(mu)
    log_q = log_aggregated_posterior(z, mu, log_var)  # (K, N)
    information = gaussian.log_prob(z, mu, log_var) - log_q
    marginal = log_q - gaussian.log_prob(z, zero, zero)
    averages = [_average(values, log_weight) for values in (information, marginal)]
    (information, information_error), (marginal, marginal_error) = averages
    mean_kl = gaussian.kl_to_standard_normal(mu, log_var).mean()
    return AggregatedPosteriorTerms(mean_kl, information, marginal, information_error, marginal_error)


@torch.no_grad()
def aggregated_posterior_integrals(
    mu: Tensor, log_var: Tensor, *, num_points: int = 1001, num_sigma: float = 9.0
) -> AggregatedPosteriorTerms:
    r"""The same three terms without a random number, for one or two latent dimensions, by integration on grids.

    .. math:: I_q(n; z) = \int \Big( \frac1N \sum_{n=1}^N q_n(z) \log q_n(z) - q(z) \log q(z) \Big) dz, \qquad
        \mathrm{KL}(q \,\|\, p) = \int q(z) \log \frac{q(z)}{p(z)} \, dz

    The integrals are sums over a rectangle of equally spaced points, the trapezoidal rule, whose error falls faster than
    any power of the spacing for smooth functions that vanish at both ends. **Each of the two has its own grid**, so that
    the identity ``mean_kl = mutual_information + marginal_kl``, whose left side is in closed form, is a check of both:
    it fails where the points are too far apart for the narrowest posterior. A third of its :math:`\sigma` gives ten digits.

    Args:
        mu: posterior mean of each data point, (N, 1) or (N, 2).
        log_var: posterior log-variance of each data point, (N, 1) or (N, 2).
        num_points: of the first grid along each axis, at least 2; the second has one more.
        num_sigma: how far the grids reach beyond the outermost posteriors, in their largest :math:`\sigma`.

    Returns:
        ``AggregatedPosteriorTerms``, five scalars, the standard errors 0.

    Raises:
        ValueError: if the shapes do not fit, J is above 2, or a number is out of range.

    Source: Hoffman and Johnson (2016) for the identity; Trefethen and Weideman (2014) for the rule.

    >>> mu, log_var = torch.tensor([[-20.0], [20.0]]), torch.zeros(2, 1)
    >>> terms = aggregated_posterior_integrals(mu, log_var)
    >>> terms.mean_kl, terms.mutual_information, terms.marginal_kl
    (tensor(200.), tensor(0.6931), tensor(199.3069))
    """
    _check_posteriors(mu, log_var)
    if mu.shape[1] > 2 or num_points < 2 or not num_sigma > 0:
        given = f"mu {tuple(mu.shape)}, num_points {num_points}, num_sigma {num_sigma}"
        raise ValueError(f"expected mu (N, 1) or (N, 2), num_points at least 2 and num_sigma positive: {given}")
    grids = [_grid(mu.double(), log_var.double(), n, num_sigma) for n in (num_points, num_points + 1)]
    information = grids[0].integral_q_n_log_q_n() - grids[0].integral_q_log_q()
    marginal = grids[1].integral_q_log_q() - grids[1].integral_q_log_p()
    mean_kl, zero = gaussian.kl_to_standard_normal(mu, log_var).mean(), mu.new_zeros(())
    return AggregatedPosteriorTerms(mean_kl, information.to(mu.dtype), marginal.to(mu.dtype), zero, zero)


class _Grid(NamedTuple):
    """The posteriors on a rectangle of points: along each axis their densities, as logarithms, and the prior's."""

    log_q: tuple[Tensor, Tensor]  # (N, G), (N, H)
    log_p: tuple[Tensor, Tensor]  # (G,), (H,)
    cell: float  # area of one cell

    def aggregated(self) -> Tensor:
        """q at every point, (G, H): a product of matrices, since every posterior is a product over the axes."""
        a, b = (log_q.exp() for log_q in self.log_q)
        return a.mT @ b / len(a)

    def integral_q_n_log_q_n(self) -> Tensor:
        """The mean over n of the integral, by its factors: log q_n is a sum over the axes."""
        a, b = (log_q.exp().sum(-1) for log_q in self.log_q)  # (N,)
        a_log_a, b_log_b = ((log_q.exp() * log_q).sum(-1) for log_q in self.log_q)
        return self.cell * (a_log_a * b + a * b_log_b).mean()

    def integral_q_log_q(self) -> Tensor:
        q = self.aggregated()
        return self.cell * torch.xlogy(q, q).sum()  # 0 log 0 = 0 where every posterior underflows

    def integral_q_log_p(self) -> Tensor:
        q = self.aggregated()
        return self.cell * (q.sum(1) @ self.log_p[0] + q.sum(0) @ self.log_p[1])


def _grid(mu: Tensor, log_var: Tensor, num_points: int, num_sigma: float) -> _Grid:
    axes = [_axis(mu[:, [j]], log_var[:, [j]], num_points, num_sigma) for j in range(mu.shape[1])]
    point = (mu.new_zeros(len(mu), 1), mu.new_zeros(1), 1.0)  # in place of the second axis, where there is one only
    (log_q_a, log_p_a, step_a), (log_q_b, log_p_b, step_b) = (*axes, point)[:2]
    return _Grid((log_q_a, log_q_b), (log_p_a, log_p_b), step_a * step_b)


def _axis(mu: Tensor, log_var: Tensor, num_points: int, num_sigma: float) -> tuple[Tensor, Tensor, float]:
    """One axis, for mu and log_var (N, 1): log q (N, G), log p (G,), and the spacing of its points."""
    reach = num_sigma * log_var.max().mul(0.5).exp()
    low, high = (mu.min() - reach).item(), (mu.max() + reach).item()
    points = torch.linspace(low, high, num_points, dtype=mu.dtype, device=mu.device)[:, None]  # (G, 1)
    zero = mu.new_zeros(1)
    log_q = gaussian.log_prob(points, mu[:, None], log_var[:, None])
    return log_q, gaussian.log_prob(points, zero, zero), (high - low) / (num_points - 1)


def _average(values: Tensor, log_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Average over nodes or samples, and over the data, of values (K, N); with its standard error."""
    if log_weight is not None:
        return (log_weight.exp() @ values).mean(), values.new_zeros(())
    return values.mean(), (values.var(0) / len(values)).sum().sqrt() / values.shape[1]


def _check_posteriors(mu: Tensor, log_var: Tensor) -> None:
    if mu.dim() != 2 or mu.shape != log_var.shape or mu.numel() == 0:
        raise ValueError(f"mu and log_var must both be (N, J), not empty: {tuple(mu.shape)}, {tuple(log_var.shape)}")
    if not (mu.isfinite().all() and log_var.isfinite().all()):
        raise ValueError("mu or log_var holds a number that is not finite")


class AIS(NamedTuple):
    """What the chains of annealed importance sampling leave: a log-weight each, and how often they accepted."""

    log_w: Tensor  # (K, B), in nats
    acceptance: Tensor  # mean acceptance probability of each transition, (T - 1, B)


def temperatures(num_steps: int, *, sharpness: float = 4.0) -> Tensor:
    r"""The :math:`\beta_t` of an annealing path: dense near 0 and near 1, where the densities change fastest.

    .. math:: \beta_t = \frac{s(u_t) - s(-\delta)}{s(\delta) - s(-\delta)}, \qquad
        u_t = \delta \Big( \frac{2 t}{T} - 1 \Big), \quad s(u) = \frac{1}{1 + e^{-u}}

    Args:
        num_steps: T, at least 1.
        sharpness: :math:`\delta`, positive; near 0 the temperatures are equally spaced.

    Returns:
        The temperatures, rising from 0 to 1, (T + 1,), in double precision.

    Raises:
        ValueError: if ``num_steps`` is below 1 or ``sharpness`` is not positive.

    Source: Grosse, Ghahramani and Adams (2015); Wu, Burda, Salakhutdinov and Grosse (2017).

    >>> temperatures(2)
    tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    if num_steps < 1 or not 0 < sharpness < math.inf:
        raise ValueError(f"num_steps must be at least 1, sharpness positive: {num_steps}, {sharpness}")
    s = torch.sigmoid(torch.linspace(-sharpness, sharpness, num_steps + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def ais(
    model: VAE,
    x: Tensor,
    *,
    start: tuple[Tensor, Tensor],
    betas: Tensor,
    step_size: Tensor | float,
    num_chains: int,
    num_leapfrog: int = 10,
    generator: torch.Generator | None = None,
) -> AIS:
    r"""Annealed importance sampling: K chains from ``start`` towards the posterior of each data point.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, r(\epsilon_{t-1}), \qquad \mathbb{E}[w] = p(x)

    ``bounds.iwae`` of the log-weights is, in expectation, a lower bound on log p(x).

    Args:
        model: a VAE, on its device; only its likelihood is used.
        x: data, (B, \*D), bytes or floats.
        start: mean and log-variance of the Gaussian where the path begins, each (B, J): ``model.encode(x)``, or zeros
            for the prior.
        betas: the temperatures, (T + 1,), rising from 0 to 1, such as :func:`temperatures`.
        step_size: of the HMC transitions, (T - 1, B) or anything that broadcasts to it, from :func:`tune_step_size` or
            fixed beforehand; it must not come from the chains drawn here.
        num_chains: K, at least 1.
        num_leapfrog: leapfrog steps in one transition; each costs a decoding and its gradient for every chain.
        generator: source of the noise, on the model's device.

    Returns:
        ``AIS(log_w, acceptance)``.

    Raises:
        ValueError: if the counts are below 1, the shapes do not fit, the temperatures do not rise from 0 to 1, a step
            size is not positive, or for data that the model does not describe.

    Source: Neal (2001), with the HMC transitions of Wu, Burda, Salakhutdinov and Grosse (2017).

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=2), torch.ones(3, 4)
    >>> ais(vae, x, start=vae.encode(x), betas=temperatures(5), step_size=0.5, num_chains=7).log_w.shape
    torch.Size([7, 3])
    """
    path = _path(model, x, start, betas, step_size, num_leapfrog)
    if num_chains < 1:
        raise ValueError(f"num_chains must be at least 1, got {num_chains}")
    return AIS(*_anneal(path, _noise((num_chains, *path.mu.shape), path.mu, generator), generator))


def reverse_ais(
    model: VAE,
    x: Tensor,
    z: Tensor,
    *,
    start: tuple[Tensor, Tensor],
    betas: Tensor,
    step_size: Tensor | float,
    num_leapfrog: int = 10,
    generator: torch.Generator | None = None,
) -> AIS:
    r"""The path of :func:`ais` walked backwards, from exact samples of the posterior to ``start``.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, r(\epsilon_{t-1}), \qquad
        \mathbb{E}\Big[ \frac1w \Big] = \frac{1}{p(x)}

    The chain visits :math:`\epsilon_{T-1}, \dots, \epsilon_0`. ``-bounds.iwae(-log_w)`` is, in expectation, an upper bound
    on log p(x), if each z is an exact sample of the posterior. A pair (z, x) drawn from the model gives one.

    Args:
        model: a VAE, on its device; only its likelihood is used.
        x: data, (B, \*D), bytes or floats.
        z: exact samples of the posterior of each data point, (K, B, J).
        start: mean and log-variance of the Gaussian where the path ends, each (B, J).
        betas: the temperatures, (T + 1,), rising from 0 to 1, as in :func:`ais`.
        step_size: as in :func:`ais`, in the same order.
        num_leapfrog: leapfrog steps in one transition.
        generator: source of the noise, on the model's device.

    Returns:
        ``AIS(log_w, acceptance)``, in the order of ``betas``.

    Raises:
        ValueError: as for :func:`ais`, and if z is not (K, B, J).

    Source: Grosse, Ghahramani and Adams (2015); Wu, Burda, Salakhutdinov and Grosse (2017).

    >>> from vae_tutorial import models
    >>> vae, z = models.linear_vae((4,), num_latents=2), torch.randn(1, 3, 2)
    >>> x = torch.bernoulli(torch.sigmoid(vae.decode(z[0])))  # so z is a sample of the posterior
    >>> reverse_ais(vae, x, z, start=vae.encode(x), betas=temperatures(5), step_size=0.5).log_w.shape
    torch.Size([1, 3])
    """
    path = _path(model, x, start, betas, step_size, num_leapfrog)
    z = z.to(path.mu)
    if z.dim() != 3 or z.shape[1:] != path.mu.shape or len(z) == 0:
        raise ValueError(f"z must be (K, B, J) = (K, {', '.join(map(str, path.mu.shape))}), got {tuple(z.shape)}")
    eps = (z - path.mu) * torch.exp(-0.5 * path.log_var)
    backward = path._replace(betas=path.betas.flip(0), step_size=path.step_size.flip(0))
    log_inverse, acceptance = _anneal(backward, eps, generator)  # falling temperatures: the log of 1 / w
    return AIS(-log_inverse, acceptance.flip(0))


def tune_step_size(
    model: VAE,
    x: Tensor,
    *,
    start: tuple[Tensor, Tensor],
    betas: Tensor,
    num_chains: int = 10,
    num_leapfrog: int = 10,
    num_rounds: int = 2,
    target: float = 0.8,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Step sizes for :func:`ais`, one a transition and data point, from a preliminary run that is then thrown away.

    Its chains walk the same path. After each of ``num_rounds`` transitions at a temperature the step size h follows the
    acceptance probability a, averaged over the chains:

    .. math:: \log h \leftarrow \log h + \tfrac12 (a - a_{\text{target}})

    Args:
        model: a VAE, on its device.
        x: data, (B, \*D), bytes or floats.
        start: mean and log-variance of the Gaussian where the path begins, each (B, J).
        betas: the temperatures, (T + 1,), rising from 0 to 1.
        num_chains: chains of the preliminary run, at least 1.
        num_leapfrog: leapfrog steps in one transition.
        num_rounds: transitions at each temperature, at least 1.
        target: the acceptance probability to aim at, between 0 and 1.
        generator: source of the noise, on the model's device.

    Returns:
        Step sizes, (T - 1, B).

    Raises:
        ValueError: as for :func:`ais`, and for a ``num_rounds`` below 1 or a ``target`` outside (0, 1).

    Source: Wu, Burda, Salakhutdinov and Grosse (2017), in spirit; Neal (2011) on acceptance rates.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=2), torch.ones(3, 4)
    >>> tune_step_size(vae, x, start=vae.encode(x), betas=temperatures(5)).shape
    torch.Size([4, 3])
    """
    path = _path(model, x, start, betas, 0.5, num_leapfrog)
    if min(num_chains, num_rounds) < 1 or not 0 < target < 1:
        given = f"num_chains {num_chains}, num_rounds {num_rounds}, target {target}"
        raise ValueError(f"num_chains and num_rounds must be at least 1, target between 0 and 1: {given}")
    state = _state(path, _noise((num_chains, *path.mu.shape), path.mu, generator))
    step_size, tuned = path.mu.new_full((len(path.mu),), 0.5), torch.empty_like(path.step_size)
    for t, beta in enumerate(path.betas[1:-1]):
        for _ in range(num_rounds):
            state, acceptance = _hmc(path, state, beta, step_size, generator)
            step_size = step_size * torch.exp(0.5 * (acceptance - target))
        tuned[t] = step_size
    return tuned


class Summary(NamedTuple):
    """What importance sampling says of each data point, from one set of samples."""

    kl: Tensor  # to the prior, in nats, (B,)
    bounds: Tensor  # the K-sample bound for each K asked for, in nats, (len(num_samples), B)
    effective_sample_size: Tensor  # of all the samples, (B,)


@torch.no_grad()
def summarize(
    model: VAE,
    x: Tensor,
    *,
    num_samples: Sequence[int],
    chunk_size: int = 50,
    generator: torch.Generator | None = None,
) -> Summary:
    r"""The K-sample bound for several K at once, from the samples of the largest, M.

    .. math:: \widehat{\mathcal L}_K = \frac{1}{M / K} \sum_{g=1}^{M/K} \log \frac1K \sum_{k=1}^K w_{gk}

    The M samples are dealt into M / K groups, so the estimates for small K are averages of many, and each is unbiased
    for its own bound. K = 1 is the ELBO.

    Args:
        model: a VAE, on its device.
        x: data, (B, \*D), bytes or floats.
        num_samples: the K; each divides the largest.
        chunk_size: samples drawn at once.
        generator: source of the noise, on the model's device.

    Returns:
        ``Summary(kl, bounds, effective_sample_size)``.

    Raises:
        ValueError: if a K is below 1 or does not divide the largest, or for data that the model does not describe.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3.

    >>> from vae_tutorial import models
    >>> summarize(models.linear_vae((4,), num_latents=2), torch.ones(3, 4), num_samples=[1, 10]).bounds.shape
    torch.Size([2, 3])
    """
    if min(num_samples, default=0) < 1 or any(max(num_samples) % k for k in num_samples) or chunk_size < 1:
        raise ValueError(
            f"each of num_samples must divide the largest, got {list(num_samples)}, chunk_size {chunk_size}"
        )
    model.check_data(x)
    model.eval()
    x = x.to(next(model.parameters()))
    chunks = [min(chunk_size, max(num_samples) - done) for done in range(0, max(num_samples), chunk_size)]
    log_w = torch.cat([model.log_weights(x, k, generator=generator) for k in chunks])  # (M, B)
    by_k = [bounds.iwae(log_w.unflatten(0, (k, -1))).mean(0) for k in num_samples]
    kl = gaussian.kl_to_standard_normal(*model.encode(x))
    return Summary(kl, torch.stack(by_k), bounds.effective_sample_size(log_w))


def evaluate(
    model: VAE,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    num_samples: Sequence[int] = (1, 10, 100, 1000, 5000),
    num_annealed: int = 100,
    simulated: tuple[Tensor, Tensor],
    num_steps: int = 200,
    num_chains: int = 5,
    num_leapfrog: int = 5,
    batch_size: int = 20,
    seed: int = 0,
    progress: bool = True,
    **facts: Any,
) -> dict[str, Any]:
    r"""A full evaluation, recorded in one small file, batch by batch: a call that was interrupted goes on where it was.

    Three parts: ``importance``, what :func:`summarize` finds for every data point; ``annealed``, log-weights of
    :func:`ais` from the encoder's q for the first ``num_annealed`` of them; ``simulated``, on data drawn from the model
    itself, log-weights of the chains in both directions, which enclose
    the log-evidence in expectation.

    The cost is one decoding for each sample of importance sampling, and for each chain of each direction
    ``num_steps * num_leapfrog`` decodings with their gradient, each worth about three; the tuning of the step sizes costs
    as much as one direction.

    Args:
        model: a VAE, on its device.
        x: data, (N, \*D), bytes or floats.
        path: the file to write, and to resume from.
        num_samples: the K of the bounds; each divides the largest.
        num_annealed: how many of the data points are annealed.
        simulated: a pair x (M, \*D) and z (M, J), drawn from the model.
        num_steps: T, with the temperatures of :func:`temperatures`.
        num_chains: chains for each data point.
        num_leapfrog: leapfrog steps in one transition.
        batch_size: data points at once.
        seed: of the noise; every batch has its own generator.
        progress: show a progress bar.
        facts: anything worth recording: numbers and strings.

    Returns:
        The record: the three parts, each a dictionary of tensors whose last axis are the data points, ``seconds`` for
        each part, ``settings`` and ``facts``.

    Raises:
        ValueError: if the file holds the record of another model or of other settings.

    >>> import tempfile
    >>> from vae_tutorial import models
    >>> vae, z = models.linear_vae((4,), num_latents=2), torch.randn(3, 2)
    >>> x = torch.bernoulli(vae.decode(z).sigmoid())
    >>> few = {"num_samples": (1, 4), "num_annealed": 2, "num_steps": 3, "progress": False}
    >>> record = evaluate(vae, torch.ones(5, 4), tempfile.mkdtemp() + "/record.pt", simulated=(x, z), **few)
    >>> record["importance"]["bounds"].shape, record["annealed"]["log_w"].shape
    (torch.Size([2, 5]), torch.Size([5, 2]))
    """
    annealing = {"betas": temperatures(num_steps), "num_leapfrog": num_leapfrog}
    parts = {
        "importance": (partial(_importance, model, num_samples), (x,)),
        "annealed": (partial(_annealed, model, annealing, num_chains), (x[:num_annealed],)),
        "simulated": (partial(_both_ways, model, annealing, num_chains), simulated),
    }
    settings = {
        "weights": fingerprint(model),
        "data": [len(x), num_annealed, len(simulated[0]), batch_size],
        "num_samples": list(num_samples),
        "annealing": [num_steps, num_chains, num_leapfrog],
        "seed": seed,
    }
    record = _begin(Path(path), settings, model, facts)
    batches = [(name, first) for name, (_, data) in parts.items() for first in range(0, len(data[0]), batch_size)]
    for number, (name, first) in enumerate(tqdm(batches, unit="batch", **({} if progress else {"disable": True}))):
        if record["done"].get(name, 0) <= first:
            function, data = parts[name]
            noise = torch.Generator(next(model.parameters()).device).manual_seed(1_000_000 * seed + number)
            start, batch = time.perf_counter(), [part[first : first + batch_size] for part in data]
            result = function(*batch, generator=noise)
            _extend(record, name, result, len(batch[0]), time.perf_counter() - start)
            _write(record, Path(path))
    return record


def fingerprint(model: VAE) -> float:
    """One number that tells the weights of one training run from those of another: the sum of their absolute values.

    Args:
        model: a model, with weights of any shape.

    Returns:
        The sum, in double precision.

    >>> from vae_tutorial import models
    >>> fingerprint(models.linear_vae((4,), num_latents=2)) > 0
    True
    """
    return sum(parameter.detach().double().abs().sum().item() for parameter in model.parameters())


def _importance(model: VAE, num_samples: Sequence[int], x: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
    return summarize(model, x, num_samples=num_samples, generator=generator)._asdict()


def _annealed(
    model: VAE, annealing: dict[str, Any], num_chains: int, x: Tensor, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """AIS from the encoder's q, with step sizes tuned on the noise drawn before."""
    with torch.no_grad():
        start = model.encode(x.to(next(model.parameters())))
    tuning: dict[str, Any] = {"num_chains": num_chains, "num_rounds": 1, "generator": generator}
    step_size = tune_step_size(model, x, start=start, **tuning, **annealing)
    path = {"start": start, "step_size": step_size, **annealing}
    result = ais(model, x, num_chains=num_chains, generator=generator, **path)
    return {"log_w": result.log_w, "acceptance": result.acceptance.mean(0)}


def _both_ways(
    model: VAE, annealing: dict[str, Any], num_chains: int, x: Tensor, z: Tensor, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """AIS and reverse AIS on pairs drawn from the model; every backward chain of a pair starts from its z."""
    with torch.no_grad():
        start = model.encode(x.to(next(model.parameters())))
    tuning: dict[str, Any] = {"num_chains": num_chains, "num_rounds": 1, "generator": generator}
    step_size = tune_step_size(model, x, start=start, **tuning, **annealing)
    path = {"start": start, "step_size": step_size, "generator": generator, **annealing}
    lower = ais(model, x, num_chains=num_chains, **path).log_w
    return {"lower": lower, "upper": reverse_ais(model, x, z.expand(num_chains, *z.shape), **path).log_w}


def _begin(path: Path, settings: dict[str, Any], model: VAE, facts: dict[str, Any]) -> dict[str, Any]:
    """The record in the file, if it is of this evaluation; a new one where there is none."""
    if path.exists():
        record = torch.load(path, weights_only=True)
        if not isinstance(record, dict) or record.get("settings") != settings:
            raise ValueError(f"{path} holds the record of another evaluation: name another file, or delete it")
        return record
    device = next(model.parameters()).device
    cuda = device.type == "cuda"
    facts = {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        **facts,
    }
    return {"settings": settings, "facts": facts, "done": {}, "seconds": {}}


def _extend(record: dict[str, Any], name: str, result: dict[str, Tensor], size: int, seconds: float) -> None:
    """Join the result of one batch to what its part of the record holds."""
    part = record.setdefault(name, {})
    for key, value in result.items():
        part[key] = torch.cat([part[key], value.cpu()], -1) if key in part else value.cpu()
    record["done"][name] = record["done"].get(name, 0) + size
    record["seconds"][name] = record["seconds"].get(name, 0.0) + seconds


def _write(record: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(record, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Path(NamedTuple):
    """The densities from the start to the posterior, and how a chain moves under each of them."""

    log_p_x_given_z: Callable[[Tensor, Tensor], Tensor]
    x: Tensor  # (B, *D)
    mu: Tensor  # (B, J)
    log_var: Tensor  # (B, J)
    betas: Tensor  # (T + 1,)
    step_size: Tensor  # (T - 1, B)
    num_leapfrog: int


class _State(NamedTuple):
    """Where the chains are, the log-ratio r there and its gradient."""

    eps: Tensor  # (K, B, J)
    log_ratio: Tensor  # (K, B)
    slope: Tensor  # (K, B, J)


def _anneal(path: _Path, eps: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Walk along ``path.betas``, rising or falling, and add up the steps in beta times r before each transition."""
    state, steps = _state(path, eps), path.betas.diff()
    log_w, acceptance = steps[0] * state.log_ratio, torch.empty_like(path.step_size)
    for t in range(len(path.step_size)):
        state, acceptance[t] = _hmc(path, state, path.betas[t + 1], path.step_size[t], generator)
        log_w = log_w + steps[t + 1] * state.log_ratio
    return log_w, acceptance


def _hmc(
    path: _Path, state: _State, beta: Tensor, step_size: Tensor, generator: torch.Generator | None
) -> tuple[_State, Tensor]:
    """One transition that leaves f_beta invariant, and its acceptance probability averaged over the chains, (B,)."""
    momentum = _noise(state.eps.shape, state.eps, generator)
    proposal, momentum_there = _leapfrog(path, state, momentum, beta, step_size[:, None])
    log_accept = _log_joint(proposal, momentum_there, beta) - _log_joint(state, momentum, beta)
    u = torch.rand(log_accept.shape, generator=generator, dtype=log_accept.dtype, device=log_accept.device)
    accepted = u.log() < log_accept  # False where the leapfrog has run away to NaN
    pairs = zip(proposal, state, strict=True)
    moved = (torch.where(accepted.view(accepted.shape + (1,) * (new.dim() - 2)), new, old) for new, old in pairs)
    return _State(*moved), log_accept.clamp(max=0).exp().nan_to_num(0).mean(0)


def _leapfrog(path: _Path, state: _State, momentum: Tensor, beta: Tensor, step_size: Tensor) -> tuple[_State, Tensor]:
    """Hamilton's equations for the energy -log f_beta, in steps that keep volume and can be walked backwards."""
    momentum = momentum + 0.5 * step_size * _slope(state, beta)
    for step in range(path.num_leapfrog):
        state = _state(path, state.eps + step_size * momentum)
        last = step == path.num_leapfrog - 1
        momentum = momentum + (0.5 if last else 1.0) * step_size * _slope(state, beta)
    return state, momentum


def _slope(state: _State, beta: Tensor) -> Tensor:
    return beta * state.slope - state.eps  # gradient of log f_beta


def _log_joint(state: _State, momentum: Tensor, beta: Tensor) -> Tensor:
    """Log of f_beta and of the momentum's density, up to constants, (K, B)."""
    return beta * state.log_ratio - 0.5 * (state.eps.square() + momentum.square()).sum(-1)


@torch.enable_grad()
def _state(path: _Path, eps: Tensor) -> _State:
    """The log-ratio r of the joint density to the start's, and its gradient: one decoding, there and back."""
    eps = eps.detach().requires_grad_()
    z = gaussian.reparameterize(eps, path.mu, path.log_var)
    zero = torch.zeros_like(path.mu)
    log_q_z = gaussian.log_prob(eps, zero, zero) - 0.5 * path.log_var.sum(-1)
    log_ratio = path.log_p_x_given_z(path.x, z) + gaussian.log_prob(z, zero, zero) - log_q_z
    (slope,) = torch.autograd.grad(log_ratio.sum(), eps)
    return _State(eps.detach(), log_ratio.detach(), slope)


def _noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _path(
    model: VAE,
    x: Tensor,
    start: tuple[Tensor, Tensor],
    betas: Tensor,
    step_size: Tensor | float,
    num_leapfrog: int,
) -> _Path:
    """Everything in the model's precision and on its device, with what does not fit refused."""
    model.check_data(x)
    model.eval()
    parameter = next(model.parameters())
    mu, log_var = (part.detach().to(parameter) for part in start)
    if mu.dim() != 2 or mu.shape != log_var.shape or len(mu) != len(x):
        shapes = f"mean {tuple(mu.shape)}, log-variance {tuple(log_var.shape)}, x {tuple(x.shape)}"
        raise ValueError(f"start must be a mean and a log-variance, each (B, J), got {shapes}")
    if betas.dim() != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or not (betas.diff() > 0).all():
        raise ValueError(f"betas must rise strictly from 0 to 1, (T + 1,), got shape {tuple(betas.shape)}")
    if num_leapfrog < 1:
        raise ValueError(f"num_leapfrog must be at least 1, got {num_leapfrog}")
    step_size = _step_sizes(step_size, (len(betas) - 2, len(x))).to(parameter)
    return _Path(model.log_p_x_given_z, x.to(parameter), mu, log_var, betas.to(parameter), step_size, num_leapfrog)


def _step_sizes(step_size: Tensor | float, shape: tuple[int, int]) -> Tensor:
    step_size = torch.as_tensor(step_size)
    fits = step_size.dim() <= 2 and all(a in (1, b) for a, b in zip(step_size.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"step_size must broadcast to (T - 1, B) = {shape}, got shape {tuple(step_size.shape)}")
    if not ((step_size > 0) & step_size.isfinite()).all():
        raise ValueError("step_size must be positive and finite")
    return step_size.expand(shape)
