r"""Annealed importance sampling: closer to the evidence than importance sampling, and from both sides.

Write the start of the path, a family :math:`q(z)`, by its noise, :math:`z = T(\epsilon)`, and let
:math:`r(\epsilon) = \log p(x, z) - \log q(z)` be the log-weight of importance sampling. Between the start and the
posterior lie the densities

.. math:: f_\beta(\epsilon) = N(\epsilon; 0, I) \, e^{\beta r(\epsilon)}, \qquad
    0 = \beta_0 < \beta_1 < \dots < \beta_T = 1, \qquad \int f_0 = 1, \quad \int f_1 = p(x),

and a chain passes through them. From :math:`\epsilon_0 \sim N(0, I)`, each :math:`\epsilon_t` is drawn by a transition
that leaves :math:`f_{\beta_t}` invariant: Hamiltonian Monte Carlo (HMC) with an accept-or-reject step. The weight

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, r(\epsilon_{t-1}), \qquad \mathbb{E}[w] = p(x)

is unbiased for any number of steps; T = 1 is importance sampling. The same path walked backwards from an exact sample of
the posterior has :math:`\mathbb{E}[1 / w] = 1 / p(x)`. So :math:`\log \frac1K \sum_k w_k` is in expectation a lower bound,
and :math:`-\log \frac1K \sum_k 1 / w_k` of the backward chains an upper one. All this needs step sizes that do not depend
on the chains they serve: they are tuned on other noise, then frozen.

Shapes: x is (B, \*D), noise and latents are (K, B, J), samples first. The results are in nats, one per data point.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _checks
from vae_tutorial.families import Family, MeanField
from vae_tutorial.models import VAE


class AIS(NamedTuple):
    """What the chains leave: a log-weight each, (K, B) in nats, and the mean acceptance of each transition, (T - 1, B)."""

    log_w: Tensor
    acceptance: Tensor


class Path(NamedTuple):
    """The densities from the start to the posterior, and how a chain moves under each of them: see :func:`path`."""

    model: VAE
    x: Tensor  # (B, *D)
    start: Family
    betas: Tensor  # (T + 1,)
    step_size: Tensor  # (T - 1, B)
    num_leapfrog: int


class State(NamedTuple):
    """Where the chains are, (K, B, J), the log-ratio r there, (K, B) in nats, and its gradient, (K, B, J)."""

    eps: Tensor
    log_ratio: Tensor
    slope: Tensor


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
    _checks.whole(num_steps=num_steps)
    if not 0 < sharpness < math.inf:
        raise ValueError(f"sharpness must be positive and finite, got {sharpness}")
    s = torch.sigmoid(torch.linspace(-sharpness, sharpness, num_steps + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def ais(
    model: VAE,
    x: Tensor,
    *,
    start: Family,
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
        model: a VAE, on its device; its likelihood and its prior are used.
        x: data, (B, \*D), bytes or floats.
        start: the family where the path begins, B factors: ``model.posterior(x)``, or ``MeanField`` of zeros for a
            standard normal prior.
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
    >>> ais(vae, x, start=vae.posterior(x), betas=temperatures(5), step_size=0.5, num_chains=7).log_w.shape
    torch.Size([7, 3])
    """
    _checks.whole(num_chains=num_chains)
    way = path(model, x, start=start, betas=betas, step_size=step_size, num_leapfrog=num_leapfrog)
    return anneal(way, way.start.noise(num_chains, generator=generator), generator=generator)


def reverse_ais(
    model: VAE,
    x: Tensor,
    z: Tensor,
    *,
    start: Family,
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
        model: a VAE, on its device; its likelihood and its prior are used.
        x: data, (B, \*D), bytes or floats.
        z: exact samples of the posterior of each data point, (K, B, J).
        start: the family where the path ends, B factors.
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
    >>> reverse_ais(vae, x, z, start=vae.posterior(x), betas=temperatures(5), step_size=0.5).log_w.shape
    torch.Size([1, 3])
    """
    way = path(model, x, start=start, betas=betas, step_size=step_size, num_leapfrog=num_leapfrog)
    mean = way.start.mean
    z = z.to(mean)
    if z.dim() != 3 or z.shape[1:] != mean.shape or len(z) == 0:
        raise ValueError(f"z must be (K, B, J) = (K, {', '.join(map(str, mean.shape))}), got {tuple(z.shape)}")
    backward = way._replace(betas=way.betas.flip(0), step_size=way.step_size.flip(0))
    inverse = anneal(backward, way.start.inverse(z), generator=generator)  # falling temperatures: the log of 1 / w
    return AIS(-inverse.log_w, inverse.acceptance.flip(0))


def tune_step_size(
    model: VAE,
    x: Tensor,
    *,
    start: Family,
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
        start: the family where the path begins, B factors.
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
    >>> tune_step_size(vae, x, start=vae.posterior(x), betas=temperatures(5)).shape
    torch.Size([4, 3])
    """
    _checks.whole(num_chains=num_chains, num_rounds=num_rounds)
    if not 0 < target < 1:
        raise ValueError(f"target must lie between 0 and 1, got {target}")
    way = path(model, x, start=start, betas=betas, step_size=0.5, num_leapfrog=num_leapfrog)
    chains = state(way, way.start.noise(num_chains, generator=generator))
    step_size, tuned = way.betas.new_full((len(way.x),), 0.5), torch.empty_like(way.step_size)
    for t, beta in enumerate(way.betas[1:-1]):
        for _ in range(num_rounds):
            chains, acceptance = hmc_step(way, chains, beta, step_size, generator=generator)
            step_size = step_size * torch.exp(0.5 * (acceptance - target))
        tuned[t] = step_size
    return tuned


def path(
    model: VAE,
    x: Tensor,
    *,
    start: Family,
    betas: Tensor,
    step_size: Tensor | float,
    num_leapfrog: int = 10,
) -> Path:
    """What the chains need, in the model's precision and on its device, with what does not fit refused.

    Args:
        model: a VAE, on its device.
        x: data, (B, \\*D), bytes or floats.
        start: the family where the path begins, B factors.
        betas: the temperatures, (T + 1,), rising from 0 to 1.
        step_size: (T - 1, B), or anything that broadcasts to it.
        num_leapfrog: leapfrog steps in one transition.

    Returns:
        The path.

    Raises:
        ValueError: as for :func:`ais`.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=2), torch.ones(3, 4)
    >>> path(vae, x, start=vae.posterior(x), betas=temperatures(5), step_size=0.5).step_size.shape
    torch.Size([4, 3])
    """
    _checks.whole(num_leapfrog=num_leapfrog)
    model.check_data(x)
    model.eval()
    parameter = next(model.parameters())
    if not hasattr(start, "transform"):
        raise ValueError(
            f"start must be a family, such as model.posterior(x) or MeanField(mu, log_var), got {type(start)}"
        )
    if isinstance(start, tuple):
        start = type(start)(*(part.detach().to(parameter) for part in start))
    if isinstance(start, MeanField) and start.log_var.shape != start.mu.shape:
        raise ValueError(
            f"start: mu {tuple(start.mu.shape)} and log_var {tuple(start.log_var.shape)} must both be (B, J)"
        )
    if start.mean.shape != (len(x), model.num_latents):
        wanted = (len(x), model.num_latents)
        raise ValueError(
            f"start must have factors (B, J) = {wanted}, one for each data point, got {tuple(start.mean.shape)}"
        )
    if betas.dim() != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or not (betas.diff() > 0).all():
        raise ValueError(f"betas must rise strictly from 0 to 1, (T + 1,), got shape {tuple(betas.shape)}")
    step_size = _step_sizes(step_size, (len(betas) - 2, len(x))).to(parameter)
    return Path(model, x.to(parameter), start, betas.to(parameter), step_size, num_leapfrog)


@torch.enable_grad()
def state(path: Path, eps: Tensor) -> State:
    r"""The log-ratio of the joint density to the start's, and its gradient: one decoding, there and back.

    .. math:: r(\epsilon) = \log p(x \mid z) + \log p(z) - \log q(z), \qquad z = T(\epsilon)

    Args:
        path: the path.
        eps: where the chains are, in the noise of the start, (K, B, J).

    Returns:
        ``State(eps, log_ratio, slope)``.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=2), torch.ones(3, 4)
    >>> way = path(vae, x, start=vae.posterior(x), betas=temperatures(5), step_size=0.5)
    >>> state(way, torch.zeros(7, 3, 2)).log_ratio.shape
    torch.Size([7, 3])
    """
    eps = eps.detach().requires_grad_()
    z, log_q_z = path.start.transform(eps)
    log_ratio = path.model.log_joint(path.x, z) - log_q_z
    (slope,) = torch.autograd.grad(log_ratio.sum(), eps)
    return State(eps.detach(), log_ratio.detach(), slope)


def anneal(path: Path, eps: Tensor, *, generator: torch.Generator | None = None) -> AIS:
    r"""Walk along the temperatures, rising or falling, and add up the steps in beta times r before each transition.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, r(\epsilon_{t-1})

    Args:
        path: the path.
        eps: where the chains begin, (K, B, J).
        generator: source of the noise, on the model's device.

    Returns:
        ``AIS(log_w, acceptance)``.

    Source: Neal (2001).

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=2), torch.ones(3, 4)
    >>> way = path(vae, x, start=vae.posterior(x), betas=temperatures(5), step_size=0.5)
    >>> anneal(way, torch.zeros(7, 3, 2)).acceptance.shape
    torch.Size([4, 3])
    """
    chains, steps = state(path, eps), path.betas.diff()
    log_w, acceptance = steps[0] * chains.log_ratio, torch.empty_like(path.step_size)
    for t in range(len(path.step_size)):
        chains, acceptance[t] = hmc_step(path, chains, path.betas[t + 1], path.step_size[t], generator=generator)
        log_w = log_w + steps[t + 1] * chains.log_ratio
    return AIS(log_w, acceptance)


def hmc_step(
    path: Path, chains: State, beta: Tensor, step_size: Tensor, *, generator: torch.Generator | None = None
) -> tuple[State, Tensor]:
    r"""One transition that leaves :math:`f_\beta` invariant.

    .. math:: \text{accept with probability } \min\big( 1, \, e^{H(\epsilon, \rho) - H(\epsilon', \rho')} \big), \qquad
        H(\epsilon, \rho) = -\log f_\beta(\epsilon) + \tfrac12 \lVert \rho \rVert^2

    Args:
        path: the path.
        chains: where the chains are.
        beta: the temperature, ().
        step_size: of each data point, (B,).
        generator: source of the noise, on the model's device.

    Returns:
        Where they are then, and the acceptance probability averaged over the chains, (B,).

    Source: Neal (2011).

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=2), torch.ones(3, 4)
    >>> way = path(vae, x, start=vae.posterior(x), betas=temperatures(5), step_size=0.5)
    >>> hmc_step(way, state(way, torch.zeros(7, 3, 2)), way.betas[1], way.step_size[0])[1].shape
    torch.Size([3])
    """
    momentum = torch.randn(chains.eps.shape, generator=generator, dtype=chains.eps.dtype, device=chains.eps.device)
    proposal, momentum_there = _leapfrog(path, chains, momentum, beta, step_size[:, None])
    log_accept = _log_joint(proposal, momentum_there, beta) - _log_joint(chains, momentum, beta)
    u = torch.rand(log_accept.shape, generator=generator, dtype=log_accept.dtype, device=log_accept.device)
    accepted = u.log() < log_accept  # False where the leapfrog has run away to NaN
    pairs = zip(proposal, chains, strict=True)
    moved = (torch.where(accepted.view(accepted.shape + (1,) * (new.dim() - 2)), new, old) for new, old in pairs)
    return State(*moved), log_accept.clamp(max=0).exp().nan_to_num(0).mean(0)


def _leapfrog(path: Path, chains: State, momentum: Tensor, beta: Tensor, step_size: Tensor) -> tuple[State, Tensor]:
    """Hamilton's equations for the energy -log f_beta, in steps that keep volume and can be walked backwards."""
    momentum = momentum + 0.5 * step_size * _slope(chains, beta)
    for step in range(path.num_leapfrog):
        chains = state(path, chains.eps + step_size * momentum)
        last = step == path.num_leapfrog - 1
        momentum = momentum + (0.5 if last else 1.0) * step_size * _slope(chains, beta)
    return chains, momentum


def _slope(chains: State, beta: Tensor) -> Tensor:
    return beta * chains.slope - chains.eps  # gradient of log f_beta


def _log_joint(chains: State, momentum: Tensor, beta: Tensor) -> Tensor:
    """Log of f_beta and of the momentum's density, up to constants, (K, B)."""
    return beta * chains.log_ratio - 0.5 * (chains.eps.square() + momentum.square()).sum(-1)


def _step_sizes(step_size: Tensor | float, shape: tuple[int, int]) -> Tensor:
    step_size = torch.as_tensor(step_size)
    fits = step_size.dim() <= 2 and all(a in (1, b) for a, b in zip(step_size.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"step_size must broadcast to (T - 1, B) = {shape}, got shape {tuple(step_size.shape)}")
    if not ((step_size > 0) & step_size.isfinite()).all():
        raise ValueError("step_size must be positive and finite")
    return step_size.expand(shape)
