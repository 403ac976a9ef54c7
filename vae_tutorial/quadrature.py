r"""Gauss-Hermite quadrature: expectations under a Gaussian without a random number.

For :math:`\epsilon \sim N(0, 1)` there are n nodes :math:`\epsilon_k` and n positive weights :math:`\omega_k`, adding up
to 1, with

.. math:: \mathbb{E}[f(\epsilon)] = \sum_{k=1}^n \omega_k f(\epsilon_k)
    \quad \text{for every polynomial } f \text{ of degree at most } 2n - 1,

and nearly so for every smooth f that a polynomial follows well where the Gaussian has its mass. In J dimensions the
nodes are the grid of all combinations, :math:`n^J` points, exact for polynomials of degree at most 2n - 1 in each
coordinate. The rule is exact where it applies and its cost is exponential in J.

Nodes have the shape of samples, the leading axis first, so whatever takes samples takes nodes: (K, B, J) with
:math:`K = n^J`. What changes is the average over K, a sum with the weights in place of a mean.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae_tutorial import _checks, gaussian

MAX_NODES = 300  # along one axis: beyond, the weights of the outermost nodes leave the range of a float64
MAX_POINTS = 10_000_000  # in the whole grid


class Nodes(NamedTuple):
    """Points z (K, J) or (K, B, J) at which to evaluate, and the logarithms (K,) of their weights, which sum to 1."""

    z: Tensor
    log_weight: Tensor


def gauss_hermite(num_nodes: int, num_latents: int = 1, *, dtype: torch.dtype = torch.float64) -> Nodes:
    r"""Nodes and log-weights for expectations under N(0, I) in J dimensions.

    .. math:: \mathbb{E}[f(z)] = \sum_{k_1=1}^n \dots \sum_{k_J=1}^n \omega_{k_1} \cdots \omega_{k_J} \,
        f(\epsilon_{k_1}, \dots, \epsilon_{k_J}), \qquad z \sim N(0, I_J)

    An equality where f is a polynomial of degree at most 2n - 1 in each coordinate. The log-weights carry no rounding
    from the tails: the outermost weights are far below 1e-16, and their logarithms are still right.

    Args:
        num_nodes: n, nodes along each axis, from 1 to 300.
        num_latents: J, at least 1. The grid has n to the power of J points, at most ten million.
        dtype: of the result; the computation is in double precision.

    Returns:
        ``Nodes(z, log_weight)`` with z (K, J) and log_weight (K,), K being n to the power of J.

    Raises:
        ValueError: if n or J is out of range, or the grid would have more than ten million points.

    Source: Golub and Welsch (1969); Abramowitz and Stegun (1964), section 25.4.46, rescaled to the normal density.

    >>> nodes = gauss_hermite(2)
    >>> nodes.z.squeeze(1), nodes.log_weight.exp()
    (tensor([-1.,  1.], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))
    """
    if not 1 <= num_nodes <= MAX_NODES or num_latents < 1 or num_nodes**num_latents > MAX_POINTS:
        raise ValueError(
            f"num_nodes must be 1 to {MAX_NODES}, num_latents at least 1, and their grid at most {MAX_POINTS} points: "
            f"got num_nodes {num_nodes}, num_latents {num_latents}"
        )
    _checks.whole(num_nodes=num_nodes, num_latents=num_latents)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}: nodes and weights are no whole numbers")
    axis, weight = np.polynomial.hermite_e.hermegauss(num_nodes)  # for the weight function exp(-x^2 / 2)
    log_weight = np.log(weight) - 0.5 * gaussian.LOG_2PI
    grid = [torch.cartesian_prod(*[torch.from_numpy(a)] * num_latents) for a in (axis, log_weight)]
    z, log_weights = (points.reshape(-1, num_latents) for points in grid)  # one axis alone comes out as (n,)
    return Nodes(z.to(dtype), log_weights.sum(-1).to(dtype))


def gaussian_nodes(mu: Tensor, log_var: Tensor, num_nodes: int) -> Nodes:
    r"""Nodes and log-weights for expectations under a diagonal Gaussian, shaped like its samples.

    .. math:: \mathbb{E}_q[f(z)] = \sum_{k=1}^K \omega_k \, f(\mu + \sigma \odot \epsilon_k), \qquad q = N(\mu, \sigma^2)

    The nodes are the standard ones, moved and stretched; the weights stay what they were.

    Args:
        mu: mean, (B, J).
        log_var: log-variance, (B, J), (B, 1) or a scalar.
        num_nodes: n, nodes along each axis, from 1 to 300.

    Returns:
        ``Nodes(z, log_weight)`` with z (K, B, J), differentiable in ``mu`` and ``log_var``, and log_weight (K,), K being
        n to the power of J.

    Raises:
        ValueError: if the shapes do not fit, or the grid would be too large.

    Source: Liu and Pierce (1994), with the Gaussian given in place of one fitted to the integrand.

    >>> nodes = gaussian_nodes(torch.tensor([[3.0]]), torch.tensor([[0.0]]), 2)
    >>> nodes.z.flatten()
    tensor([2., 4.])
    """
    if mu.dim() == 0:
        raise ValueError(f"mu must have a last axis of length J, got a scalar; log_var {tuple(log_var.shape)}")
    eps, log_weight = gauss_hermite(num_nodes, mu.shape[-1], dtype=mu.dtype)
    num_axes = max(mu.dim(), log_var.dim())  # K must come before all of them
    eps = eps.to(mu.device).reshape(-1, *[1] * (num_axes - 1), mu.shape[-1])  # (K, 1, J)
    return Nodes(gaussian.reparameterize(eps, mu, log_var), log_weight.to(mu.device))


def expectation(values: Tensor, log_weight: Tensor) -> Tensor:
    r"""Weighted mean over the nodes: an expectation, from the values at the nodes.

    .. math:: \mathbb{E}[f] = \sum_{k=1}^K \omega_k f_k

    Args:
        values: f at the nodes, (K, ...).
        log_weight: log-weights of the nodes, (K,).

    Returns:
        The weighted sum over K, (...), in the unit of ``values``.

    Raises:
        ValueError: if the leading axis of ``values`` does not fit ``log_weight``.

    Source: the definition of a quadrature rule.

    >>> z, log_weight = gauss_hermite(3)
    >>> expectation(z.pow(4), log_weight)  # the fourth moment of N(0, 1)
    tensor([3.0000], dtype=torch.float64)
    """
    _check_nodes(values=values, log_weight=log_weight)
    return torch.tensordot(log_weight.exp(), values, dims=1)


def log_expectation(log_values: Tensor, log_weight: Tensor) -> Tensor:
    r"""Log of an expectation whose values are given by their logarithms, as densities are; in nats.

    .. math:: \log \mathbb{E}[e^{\ell}] = \log \sum_{k=1}^K \omega_k \, e^{\ell_k}

    With equal weights 1 / K this is the importance-weighted bound :func:`~vae_tutorial.bounds.iwae`.

    Args:
        log_values: logarithms of the values at the nodes, (K, ...).
        log_weight: log-weights of the nodes, (K,).

    Returns:
        The log of the weighted sum over K, (...).

    Raises:
        ValueError: if the leading axis of ``log_values`` does not fit ``log_weight``.

    Source: the definition of a quadrature rule.

    >>> z, log_weight = gauss_hermite(30)
    >>> log_expectation(z, log_weight)  # E exp(z) is exp(1/2)
    tensor([0.5000], dtype=torch.float64)
    """
    _check_nodes(log_values=log_values, log_weight=log_weight)
    return (log_values + log_weight.reshape(-1, *[1] * (log_values.dim() - 1))).logsumexp(0)


def _check_nodes(*, log_weight: Tensor, **values: Tensor) -> None:
    ((name, value),) = values.items()
    if log_weight.dim() != 1 or value.dim() == 0 or len(value) != len(log_weight) or len(value) == 0:
        raise ValueError(
            f"shapes do not fit: {name} {tuple(value.shape)}, log_weight {tuple(log_weight.shape)}; "
            f"expected {name} (K, ...) and log_weight (K,) with K at least 1"
        )
