r"""Checks of a distribution that somebody wrote: is its density one, and are its samples from it?

It needs no other module of the package.

A prior, a posterior or a flow gives two things that have to agree, a log-density and samples. Each of the functions here
asks one question and answers with a number whose value, or distribution, is known if nothing is wrong:

===============================  ======================================  ========================================
question                         function                                if nothing is wrong
===============================  ======================================  ========================================
does the density integrate to 1  :func:`integrates_to_one`, J = 1 or 2   1
are the samples from it          :func:`samples_match`, J = 1 or 2       uniform on [0, 1], a p-value
are the samples from it          :func:`scores_match`, any J             uniform on [0, 1], a p-value
are these samples like those     :func:`classifier`                      an accuracy of 1/2
===============================  ======================================  ========================================

None replaces another: a density may integrate to one and not be that of the samples, and samples can fit the shape of a
density that is off by a factor.

Shapes: points and samples are (N, J), a log-density maps (..., J) to (...), in nats.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_tutorial import _checks


class Accuracy(NamedTuple):
    """How often a classifier tells two sets of samples apart on points it has not seen, and the standard error of that."""

    accuracy: float
    standard_error: float


@torch.no_grad()
def integrates_to_one(
    log_prob: Callable[[Tensor], Tensor],
    num_latents: int = 2,
    *,
    low: float = -10.0,
    high: float = 10.0,
    num_points: int = 501,
) -> Tensor:
    r"""The integral of a density over an interval or a square: 1, if it is a density and lies within.

    .. math:: \int p(z) \, dz \approx h^J \sum_{g} p(z_g), \qquad h = \frac{b - a}{G - 1}

    A plain sum over equally spaced points, the trapezoidal rule, whose error for a smooth density that vanishes at the
    ends falls faster than any power of the spacing. Its standard deviations should be no smaller than the spacing.

    Args:
        log_prob: the log-density in nats, from points (..., J) to (...).
        num_latents: J, 1 or 2.
        low: the lower end a along each axis.
        high: the upper end b.
        num_points: G along each axis, at least 2.

    Returns:
        The integral, a scalar of shape (), in double precision.

    Raises:
        ValueError: if J is above 2, the interval is empty, or ``log_prob`` gives another shape.

    Source: Trefethen and Weideman (2014) for the rule.

    >>> normal = lambda z: -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    >>> round(integrates_to_one(normal).item(), 6)
    1.0
    """
    _check_square(num_latents, low, high, num_points)
    axis = torch.linspace(low, high, num_points, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * num_latents).view(-1, num_latents)  # (G^J, J)
    return torch.exp(_log_density(log_prob, points)).sum() * ((high - low) / (num_points - 1)) ** num_latents


@torch.no_grad()
def samples_match(
    log_prob: Callable[[Tensor], Tensor],
    samples: Tensor,
    *,
    low: float = -10.0,
    high: float = 10.0,
    num_cells: int = 500,
    num_bins: int = 64,
) -> Tensor:
    r"""The p-value of samples against a density in one or two dimensions: uniform on [0, 1] if they are from it.

    A fine grid of cells is cut into M bins of nearly equal probability, strip by strip, by the density alone. Pearson's
    statistic compares how many samples fell into each with how many should have,

    .. math:: X^2 = \sum_{m=1}^M \frac{(O_m - N P_m)^2}{N P_m} \;\sim\; \chi^2_{M-1}.

    The density's constant does not matter: :func:`integrates_to_one` looks at it. A value near 0 is a fault; one value
    below 0.01 is expected in a hundred calls without one. The approximation of the null distribution asks for several
    expected samples in each bin. A difference finer than a bin is not seen, nor one that few samples do not show.

    Args:
        log_prob: the log-density in nats, from points (..., J) to (...).
        samples: independent samples, (N, J), with J = 1 or 2 and N at least 5 M.
        low: the lower end of the grid along each axis; samples beyond it count in the outermost cell.
        high: the upper end.
        num_cells: of the grid, along each axis; wider than the density's standard deviations they see nothing.
        num_bins: M; for J = 2 the nearest square.

    Returns:
        The p-value, a scalar of shape ().

    Raises:
        ValueError: if the shapes do not fit, there are too few samples, or the cells are too wide for the density.

    Source: Pearson (1900).

    >>> normal = lambda z: -0.5 * z.square().sum(-1)  # without its constant
    >>> z = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    >>> samples_match(normal, z).item() > 0.01, samples_match(normal, 1.1 * z).item() < 0.01
    (True, True)
    """
    _check_histogram(samples, low, high, num_cells, num_bins)
    num_latents = samples.shape[1]
    width = (high - low) / num_cells
    middle = low + width * (torch.arange(num_cells, dtype=torch.float64) + 0.5)
    points = torch.cartesian_prod(*[middle] * num_latents).view(-1, num_latents)
    mass = _log_density(log_prob, points).softmax(0).view(num_cells, -1)  # (G, G), or (G, 1) where J = 1
    bins = _bins(mass, num_bins)
    probability = torch.zeros(int(bins.max()) + 1, dtype=torch.float64).index_add_(0, bins.flatten(), mass.flatten())
    place = ((samples.cpu().double() - low) / width).long().clamp(0, num_cells - 1)  # (N, J), the cell of each
    found = bins[place[:, 0], place[:, 1] if num_latents == 2 else 0].bincount(minlength=len(probability))
    if (probability > 0).sum() < 2:
        raise ValueError(f"one cell holds everything, at num_cells {num_cells}: narrow low and high, or take more")
    return _pearson(found, probability)


def scores_match(
    log_prob: Callable[[Tensor], Tensor],
    samples: Tensor,
    *,
    num_directions: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The p-value of samples against the slope of a log-density, for any J: near uniform on [0, 1] if they are from it.

    Stein's identity: for samples of p and any smooth bounded f, along any direction v,

    .. math:: \mathbb{E}_p\big[ f(z) \, v^\top \nabla \log p(z) + v^\top \nabla f(z) \big] = 0.

    Here :math:`f(z) = \tanh(a^\top z + b)` with M random choices of v, a and b. The means h of the M expressions over
    the samples, with their covariance S, give one number,

    .. math:: T^2 = N \, h^\top S^{-1} h \;\sim\; \chi^2_M \quad \text{as } N \text{ grows.}

    Only the slope of log p is read: neither its constant, nor what share each of several groups has that lie so far
    apart that nothing is between them.

    Args:
        log_prob: the log-density in nats, from points (..., J) to (...), differentiable in them.
        samples: independent samples, (N, J), with N at least 50 M.
        num_directions: M, at least 1.
        generator: source of the random choices, on the CPU.

    Returns:
        The p-value, a scalar of shape ().

    Raises:
        ValueError: if the shapes do not fit, or there are too few samples.

    Source: Gorham and Mackey (2015) for the identity as a check; Jitkrittum, Xu, Szabó, Fukumizu and Gretton (2017) for
    finitely many functions.

    >>> normal = lambda z: -0.5 * z.square().sum(-1)
    >>> noise = torch.Generator().manual_seed(0)
    >>> z = torch.randn(5000, 8, generator=noise, dtype=torch.float64)
    >>> scores_match(normal, z, generator=noise).item() > 0.01, scores_match(normal, 1.1 * z, generator=noise).item() < 0.01
    (True, True)
    """
    _check_directions(samples, num_directions)
    z = samples.detach().cpu().double().requires_grad_()
    (slope,) = torch.autograd.grad(_log_density(log_prob, z).sum(), z)
    v, a = torch.randn(2, num_directions, z.shape[1], generator=generator, dtype=torch.float64)
    a = a / z.detach().std(0) / math.sqrt(z.shape[1])  # f bends where the samples are
    b = torch.randn(num_directions, generator=generator, dtype=torch.float64) - a @ z.detach().mean(0)
    f = torch.tanh(z.detach() @ a.T + b)  # (N, M)
    terms = f * (slope @ v.T) + (1 - f.square()) * (v * a).sum(-1)
    mean, covariance = terms.mean(0), torch.cov(terms.T).view(num_directions, num_directions)
    statistic = len(z) * mean @ torch.linalg.solve(covariance, mean)
    return _chi_squared_tail(statistic, num_directions)


def classifier(
    first: Tensor,
    second: Tensor,
    *,
    num_hidden: int = 64,
    num_steps: int = 300,
    generator: torch.Generator | None = None,
) -> Accuracy:
    r"""The classifier two-sample test: how often a network tells the one set from the other on points it has not seen.

    Half of each set trains a network with one hidden layer, the other half tests it. If both sets have one distribution,
    nothing can be learnt, and the number of right answers among the n test points is binomial with probability 1/2:

    .. math:: \text{accuracy} \approx N\big( \tfrac12, \tfrac{1}{4 n} \big).

    An accuracy above that by several :math:`1 / (2 \sqrt n)` says that they differ; one of 1/2 says that *this* network
    sees no difference.

    Args:
        first: samples, (N, \*D), of any type.
        second: samples of the same shape, (N, \*D): with the same number, guessing is right half the time.
        num_hidden: units of the hidden layer.
        num_steps: steps of Adam, on batches of 100.
        generator: source of the order, the initial weights and the split, on the CPU.

    Returns:
        ``Accuracy(accuracy, standard_error)``, the second :math:`\sqrt{a (1 - a) / n}`.

    Raises:
        ValueError: if the shapes differ, or there are fewer than 20 samples of each.

    Source: Lopez-Paz and Oquab (2017).

    >>> noise = torch.Generator().manual_seed(0)
    >>> first, second = torch.randn(2, 1000, 5, generator=noise)
    >>> classifier(first, second + 4.0, generator=noise).accuracy > 0.95
    True
    """
    _check_pair(first, second)
    points = torch.cat([first.flatten(1), second.flatten(1)]).detach().float().cpu()
    points = (points - points.mean(0)) / (points.std(0) + 1e-3)  # a pixel that never changes stays 0
    labels = torch.arange(len(points)).ge(len(first)).float()
    train, test = _halves(len(first), generator)
    network = _network(points.shape[1], num_hidden, generator)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-3)
    for _ in range(num_steps):
        batch = train[torch.randint(len(train), (100,), generator=generator)]
        loss = nn.functional.binary_cross_entropy_with_logits(network(points[batch])[:, 0], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = ((network(points[test])[:, 0] > 0) == labels[test].bool()).double().mean().item()
    return Accuracy(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(test)))


def _log_density(log_prob: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    values = log_prob(points)
    if values.shape != points.shape[:-1]:
        raise ValueError(
            f"log_prob must map points {tuple(points.shape)} to {tuple(points.shape[:-1])}, got {tuple(values.shape)}: "
            "one number for each point"
        )
    return values.double()


def _bins(mass: Tensor, num_bins: int) -> Tensor:
    """The bin of each cell, (G, H): strips along the first axis, each cut along the second, of nearly equal mass."""
    if mass.shape[1] == 1:
        return _cut(mass[:, 0], num_bins)[:, None]
    side = round(math.sqrt(num_bins))
    strip = _cut(mass.sum(1), side)  # (G,)
    rows = torch.zeros(side, mass.shape[1], dtype=mass.dtype).index_add_(0, strip, mass)  # the mass of each strip
    return strip[:, None] * side + torch.stack([_cut(row, side) for row in rows])[strip]


def _cut(mass: Tensor, num_parts: int) -> Tensor:
    """Which of ``num_parts`` parts of nearly equal mass each cell of a row belongs to, (G,) -> (G,)."""
    middle = mass.cumsum(0) - mass / 2
    return (num_parts * middle / mass.sum().clamp(min=torch.finfo(mass.dtype).tiny)).long().clamp(0, num_parts - 1)


def _pearson(found: Tensor, probability: Tensor) -> Tensor:
    """The p-value of Pearson's statistic of counts (M,) against probabilities (M,); bins without probability left out."""
    used = probability > 0
    expected = found.sum() * probability[used]
    statistic = ((found[used] - expected).square() / expected).sum()
    return _chi_squared_tail(statistic, int(used.sum()) - 1)


def _chi_squared_tail(statistic: Tensor, num_degrees: int) -> Tensor:
    return torch.special.gammaincc(torch.full_like(statistic, num_degrees / 2), statistic / 2)


def _halves(size: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Numbers of the points that train and of those that test: half of each set, at random."""
    orders = [torch.randperm(size, generator=generator) + start for start in (0, size)]
    return torch.cat([o[: size // 2] for o in orders]), torch.cat([o[size // 2 :] for o in orders])


def _network(num_inputs: int, num_hidden: int, generator: torch.Generator | None) -> nn.Sequential:
    layers = [nn.utils.skip_init(nn.Linear, n, m) for n, m in ((num_inputs, num_hidden), (num_hidden, 1))]
    for layer in layers:  # by the generator alone, which nn.Linear does not take
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.SiLU(), layers[1])


def _check_square(num_latents: int, low: float, high: float, num_points: int) -> None:
    _checks.whole(num_latents=num_latents)
    _checks.whole(2, num_points=num_points)
    if num_latents > 2:
        raise ValueError(f"a grid has one or two dimensions, got num_latents {num_latents}: try scores_match")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low must lie below high, both finite, got {low} and {high}")


def _check_histogram(samples: Tensor, low: float, high: float, num_cells: int, num_bins: int) -> None:
    _checks.whole(2, num_bins=num_bins)
    _check_samples(samples, 5 * num_bins)
    _check_square(samples.shape[1], low, high, num_cells)


def _check_directions(samples: Tensor, num_directions: int) -> None:
    _checks.whole(num_directions=num_directions)
    _check_samples(samples, 50 * num_directions)


def _check_samples(samples: Tensor, least: int) -> None:
    if samples.dim() != 2 or len(samples) < least or not samples.isfinite().all():
        raise ValueError(f"samples must be (N, J), finite, with N at least {least}, got shape {tuple(samples.shape)}")


def _check_pair(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() < 2 or len(first) < 20:
        given = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"first and second must be (N, *D), of one shape, with N at least 20, got {given}")
