r"""The aggregated posterior: the mixture of the approximate posteriors of all data points.

.. math:: q(z) = \frac1N \sum_{n=1}^N q(z \mid x_n)

What a decoder has seen in training is this q(z), and what it is asked to decode when it makes new data is the prior p(z).
The average KL pays for two things, the information of z about the data point and the misfit of q(z) to p(z):

.. math:: \frac1N \sum_{n=1}^N \mathrm{KL}(q_n \,\|\, p) = I_q(n; z) + \mathrm{KL}(q \,\|\, p).

Shapes: a family q has one factor for each of N data points; z is (K, N, J). The results are in nats.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _checks, divergences, gaussian
from vae_tutorial.families import Family, MeanField
from vae_tutorial.priors import Prior, StandardNormal

MAX_NUMBERS = 2**22  # in one tensor that compares points with all posteriors


class Terms(NamedTuple):
    """The terms of ``mean_kl = mutual_information + marginal_kl``, scalars in nats, and the last two's standard errors."""

    mean_kl: Tensor
    mutual_information: Tensor
    marginal_kl: Tensor
    mutual_information_error: Tensor
    marginal_kl_error: Tensor


@torch.no_grad()
def log_prob(z: Tensor, q: Family) -> Tensor:
    r"""Log-density of the aggregated posterior, in nats.

    .. math:: \log q(z) = \log \frac1N \sum_{n=1}^N q_n(z)

    Every point meets every posterior; the points come in chunks, so that memory grows with neither number.

    Args:
        z: points, (..., J).
        q: the posteriors, N factors, such as ``vae.posterior(x)``.

    Returns:
        Log-density, (...).

    Raises:
        ValueError: if the shapes do not fit, or q holds a number that is not finite.

    Source: Hoffman and Johnson (2016), section 2.

    >>> q = MeanField(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1))
    >>> log_prob(torch.zeros(3, 1), q)  # log N(1; 0, 1), from both sides
    tensor([-1.4189, -1.4189, -1.4189])
    """
    _check_posteriors(q)
    shape = tuple(q.mean.shape)
    if z.dim() == 0 or z.shape[-1] != shape[1]:
        raise ValueError(f"shapes do not fit: z {tuple(z.shape)}, posteriors {shape}; expected (..., J) and (N, J)")
    chunks = z.reshape(-1, 1, shape[1]).split(max(1, MAX_NUMBERS // q.mean.numel()))
    log_q = [q.log_prob(chunk).logsumexp(-1) for chunk in chunks]  # (M, 1, J) -> (M, N) -> (M,)
    return torch.cat(log_q).view(z.shape[:-1]) - math.log(shape[0])


@torch.no_grad()
def terms(q: Family, z: Tensor, *, prior: Prior | None = None, log_weight: Tensor | None = None) -> Terms:
    r"""What the average KL pays for: information about the data point, and the misfit of the aggregated posterior.

    .. math:: I_q(n; z) = \frac1N \sum_{n=1}^N \mathbb{E}_{q_n} \Big[ \log \frac{q_n(z)}{q(z)} \Big], \qquad
        \mathrm{KL}(q \,\|\, p) = \frac1N \sum_{n=1}^N \mathbb{E}_{q_n} \Big[ \log \frac{q(z)}{p(z)} \Big]

    for the posteriors :math:`q_n = q(z \mid x_n)` of a *finite* set of data points, drawn with equal probability. Their sum
    is the average KL, which is in closed form where family and prior have one, and the average over the same z where not.

    The information is at most :math:`\log N`, and so is its every sample, because q is at least :math:`q_n / N`. A
    minibatch in place of the set has its own size for N: its estimate cannot exceed the log of the batch size, however
    much the code tells about the whole set.

    The density q needs every posterior at every sample, :math:`K N^2 J` numbers, which are made a few million at a time.

    Args:
        q: the posteriors, N factors.
        z: samples of each posterior, (K, N, J) with K at least 2, or nodes from
            :func:`~vae_tutorial.quadrature.gaussian_nodes`. In double precision where the posteriors are narrow: the
            digits of z carry its distance from the mean.
        prior: p(z); N(0, I) without it.
        log_weight: log-weights of the nodes, (K,); ``None`` for samples.

    Returns:
        ``Terms``, five scalars. The standard errors are those of sampling z, the data points being the whole set; with
        nodes they are 0.

    Raises:
        ValueError: if the shapes do not fit, or z holds a single sample of each posterior.

    Source: Hoffman and Johnson (2016), with the expectation over the index of the data point.

    >>> q = MeanField(torch.tensor([[-20.0], [20.0]]), torch.zeros(2, 1))
    >>> found = terms(q, q.sample(10))
    >>> found.mean_kl, found.mutual_information  # two posteriors far apart: one bit, log 2
    (tensor(200.), tensor(0.6931))
    """
    _check_posteriors(q)
    shape = tuple(q.mean.shape)
    if z.dim() != 3 or z.shape[1:] != shape or len(z) < (2 if log_weight is None else 1):
        raise ValueError(
            f"z must have shape (K, {shape[0]}, {shape[1]}), with K at least 2 for samples: {tuple(z.shape)}"
        )
    if log_weight is not None and log_weight.shape != z.shape[:1]:
        raise ValueError(f"shapes do not fit: z {tuple(z.shape)}, log_weight {tuple(log_weight.shape)}")
    prior = StandardNormal(shape[1]).to(z) if prior is None else prior
    log_q_n, log_q, log_p = q.log_prob(z), log_prob(z, q), prior.log_prob(z)  # each (K, N)
    information, information_error = _average(log_q_n - log_q, log_weight)
    marginal, marginal_error = _average(log_q - log_p, log_weight)
    exact = divergences.closed_form_kl(q, prior)
    mean_kl = _average(log_q_n - log_p, log_weight)[0] if exact is None else exact.mean()
    return Terms(mean_kl, information, marginal, information_error, marginal_error)


@torch.no_grad()
def integrals(q: MeanField, *, prior: Prior | None = None, num_points: int = 1001, num_sigma: float = 9.0) -> Terms:
    r"""The same three terms without a random number, for one or two latent dimensions, by integration on grids.

    .. math:: I_q(n; z) = \int \Big( \frac1N \sum_{n=1}^N q_n(z) \log q_n(z) - q(z) \log q(z) \Big) dz, \qquad
        \mathrm{KL}(q \,\|\, p) = \int q(z) \log \frac{q(z)}{p(z)} \, dz

    The integrals are sums over a rectangle of equally spaced points, the trapezoidal rule, whose error falls faster than
    any power of the spacing for smooth functions that vanish at both ends. **Each of the terms has its own grid**, so that
    the identity ``mean_kl = mutual_information + marginal_kl`` is a check of all: it fails where the points are too far
    apart for the narrowest posterior. A third of its :math:`\sigma` gives ten digits. The left side is in closed form for
    the standard normal, and an integral on a third grid for another prior.

    Args:
        q: the posteriors, mean-field, N factors of J = 1 or 2.
        prior: p(z); N(0, I) without it.
        num_points: of the first grid along each axis, at least 2; the others have one and two more.
        num_sigma: how far the grids reach beyond the outermost posteriors, in their largest :math:`\sigma`.

    Returns:
        ``Terms``, five scalars, the standard errors 0.

    Raises:
        ValueError: if the shapes do not fit, q is of another family, J is above 2, or a number is out of range.

    Source: Hoffman and Johnson (2016) for the identity; Trefethen and Weideman (2014) for the rule.

    >>> found = integrals(MeanField(torch.tensor([[-20.0], [20.0]]), torch.zeros(2, 1)))
    >>> found.mean_kl, found.mutual_information, found.marginal_kl
    (tensor(200.), tensor(0.6931), tensor(199.3069))
    """
    if not isinstance(q, MeanField):
        raise ValueError(f"integrals are for a MeanField, got a {type(q).__name__}: use terms, with samples or nodes")
    _check_posteriors(q)
    if q.mu.shape[1] > 2 or num_points < 2 or not num_sigma > 0:
        given = f"mu {tuple(q.mu.shape)}, num_points {num_points}, num_sigma {num_sigma}"
        raise ValueError(f"expected mu (N, 1) or (N, 2), num_points at least 2 and num_sigma positive: {given}")
    prior = StandardNormal(q.mu.shape[1]) if prior is None else prior
    exact, double = divergences.closed_form_kl(q, prior), MeanField(q.mu.double(), q.log_var.double())
    first, second = (_grid(double, n, num_sigma) for n in (num_points, num_points + 1))
    information = first.integral_q_n_log_q_n() - first.integral_q_log_q()
    marginal = second.integral_q_log_q() - second.integral_q_log_p(prior)
    if exact is None:
        third = _grid(double, num_points + 2, num_sigma)
        mean_kl = third.integral_q_n_log_q_n() - third.integral_q_log_p(prior)
    else:
        mean_kl = exact.mean()
    zero = q.mu.new_zeros(())
    mean_kl, information, marginal = (term.to(q.mu.dtype) for term in (mean_kl, information, marginal))
    return Terms(mean_kl, information, marginal, zero, zero)


def fit_prior(
    prior: Prior,
    q: Family,
    *,
    num_steps: int = 500,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Fit a prior to the aggregated posterior while encoder and decoder are held: the second of two stages.

    .. math:: \max_p \; \mathbb{E}_{q(z)}[\log p(z)] = -H(q) - \min_p \mathrm{KL}(q \,\|\, p)

    The reconstructions do not change, so what the cross-entropy gains here, the ELBO of the same data gains. Each step of
    Adam draws a fresh batch: data points at random, and one z from the posterior of each. Only the prior's own parameters
    move; a :class:`~vae_tutorial.priors.VampPrior` has to belong to the model whose posteriors q are.

    Args:
        prior: p(z), changed in place.
        q: the posteriors, N factors (N, J), such as ``vae.posterior(x)``.
        num_steps: of Adam, at least 1.
        batch_size: latents in a step, at least 1.
        learning_rate: Adam's at the first step; it falls to 0 along half a cosine.
        generator: source of the batches and of z, on the device of q.

    Returns:
        The mean log-density of each batch in nats, (num_steps,).

    Raises:
        ValueError: if the posteriors are not (N, J) and finite, or a number is below 1.

    Source: Ghosh et al. (2020), who fit a mixture afterwards to the codes of an autoencoder.

    >>> q = MeanField(torch.full((9, 1), 2.0), torch.zeros(9, 1))
    >>> from vae_tutorial.priors import GaussianMixture
    >>> prior = GaussianMixture(1, 1)
    >>> course = fit_prior(prior, q, learning_rate=0.05, generator=torch.Generator().manual_seed(0))
    >>> round(prior.mu.item(), 1)
    2.0
    """
    _check_fit(q, num_steps, batch_size)
    optimizer = torch.optim.Adam(prior.parameters(), learning_rate)
    course, size, device = [], len(q.mean), q.mean.device
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        with torch.no_grad():
            index = torch.randint(size, (batch_size,), generator=generator, device=device)
            z = q.take(index).sample(1, generator=generator)[0]
        log_p = prior.log_prob(z).mean()
        gradients = torch.autograd.grad(-log_p, list(prior.parameters()))
        for parameter, gradient in zip(prior.parameters(), gradients, strict=True):
            parameter.grad = gradient  # of the prior alone: backward() would leave some in a shared encoder
        optimizer.step()
        course.append(log_p.detach())
    return torch.stack(course)


class _Grid(NamedTuple):
    """The posteriors on a rectangle of points: along each axis the points, and the logarithms of the densities there."""

    axes: list[Tensor]  # (G,), and (H,) where there are two
    log_q: tuple[Tensor, Tensor]  # (N, G), (N, H)
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

    def integral_q_log_p(self, prior: Prior) -> Tensor:
        points = torch.cartesian_prod(*self.axes).view(-1, len(self.axes))
        return self.cell * (self.aggregated().flatten() @ prior.log_prob(points))


def _grid(q: MeanField, num_points: int, num_sigma: float) -> _Grid:
    axes, log_q, cell = [], [], 1.0
    for mu, log_var in zip(q.mu.T, q.log_var.T, strict=True):  # (N,) each
        reach = num_sigma * log_var.max().mul(0.5).exp()
        low, high = (mu.min() - reach).item(), (mu.max() + reach).item()
        points = torch.linspace(low, high, num_points, dtype=mu.dtype, device=mu.device)
        log_q.append(gaussian.log_prob(points[:, None], mu[:, None, None], log_var[:, None, None]))  # (N, G)
        axes.append(points)
        cell *= (high - low) / (num_points - 1)
    log_q.append(q.mu.new_zeros(len(q.mu), 1))  # in place of the second axis, where there is one only
    return _Grid(axes, (log_q[0], log_q[1]), cell)


def _average(values: Tensor, log_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Average over nodes or samples, and over the data, of values (K, N); with its standard error."""
    if log_weight is not None:
        return (log_weight.exp() @ values).mean(), values.new_zeros(())
    return values.mean(), (values.var(0) / len(values)).sum().sqrt() / values.shape[1]


def _check_fit(q: Family, num_steps: int, batch_size: int) -> None:
    _checks.whole(num_steps=num_steps, batch_size=batch_size)
    _check_posteriors(q)


def _check_posteriors(q: Family) -> None:
    if q.mean.dim() != 2 or q.mean.numel() == 0:
        raise ValueError(f"the posteriors must be (N, J), not empty: {tuple(q.mean.shape)}")
    if isinstance(q, MeanField) and q.mu.shape != q.log_var.shape:
        raise ValueError(f"mu and log_var must both be (N, J): {tuple(q.mu.shape)}, {tuple(q.log_var.shape)}")
    parts = [part for part in q if isinstance(part, Tensor)] if isinstance(q, tuple) else []
    if not all(part.isfinite().all() for part in (*parts, q.mean)):
        raise ValueError("the posteriors hold a number that is not finite")
