"""Exact answers that the tests compare the package with, and small helpers.

Nothing here calls the package: an oracle that shares code with what it judges cannot disagree with it.
"""

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that are the same in every run; drawn in float64, then cast."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def gauss_hermite(num_nodes: int, num_dims: int = 1) -> tuple[Tensor, Tensor]:
    """Nodes (K, J) and weights (K,) with K = num_nodes ** J, so that the weighted sum of f is E f(eps), eps ~ N(0, I).

    Exact up to rounding where f is a polynomial of degree at most 2 num_nodes - 1 in each coordinate.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    grid = torch.tensor(list(itertools.product(nodes, repeat=num_dims)), dtype=torch.float64)
    products = [math.prod(w) for w in itertools.product(weights, repeat=num_dims)]
    return grid, torch.tensor(products, dtype=torch.float64)


def expectation(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over the leading axis: (K, ...) and (K,) -> (...)."""
    return torch.tensordot(weights, values, dims=([0], [0]))


def trapezoid_grid(num_dims: int, half_width: float, step: float) -> tuple[Tensor, float]:
    """Points (K, J) of a cube about 0 and the volume of one cell.

    For a Gaussian integrand with standard deviation s in each direction, well inside the cube, the error of the plain
    sum is of the order exp(-2 pi^2 s^2 / step^2): no error at all in float64 once step < s.
    """
    half = round(half_width / step)
    axis = step * torch.arange(-half, half + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * num_dims).reshape(-1, num_dims)
    return grid, step**num_dims


def normal_log_density(x: float, mean: float, variance: float) -> float:
    """log N(x; mean, variance) of one number, typed from the textbook."""
    return -0.5 * math.log(2 * math.pi * variance) - (x - mean) ** 2 / (2 * variance)


def normal_kl(mean_q: float, variance_q: float, mean_p: float, variance_p: float) -> float:
    """KL(N(mean_q, variance_q) || N(mean_p, variance_p)) in one dimension, typed from the textbook."""
    ratio = variance_q / variance_p
    return 0.5 * (ratio + (mean_q - mean_p) ** 2 / variance_p - 1 - math.log(ratio))


def elementwise(function: Callable[..., float], *tensors: Tensor) -> Tensor:
    """Call a function of floats for every element of the broadcast tensors; the slow and sure way."""
    tensors = torch.broadcast_tensors(*tensors)
    values = [function(*numbers) for numbers in zip(*(t.flatten().tolist() for t in tensors), strict=True)]
    return torch.tensor(values, dtype=torch.float64).reshape(tensors[0].shape)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal shape and dtype, and |actual - expected| <= tolerance * max(1, |expected|)."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def assert_finite_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value and the gradient with respect to every input are finite; returns the gradients."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    assert torch.isfinite(value).all(), f"value is not finite: {value}"
    gradients = torch.autograd.grad(value.sum(), leaves)
    for gradient in gradients:
        assert torch.isfinite(gradient).all(), f"gradient is not finite: {gradient}"
    return list(gradients)


def assert_refused(function: Callable[[], object], *words: str | tuple[int, ...]) -> None:
    """The call raises ValueError, and its message names every argument and shows every shape that is listed."""
    with pytest.raises(ValueError, match=r"\w") as error:
        function()
    message = str(error.value)
    for word in words:
        if isinstance(word, tuple):
            assert str(word) in message, f"the shape {word} is not in the message: {message}"
        else:
            assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message), f"{word!r} is not in the message: {message}"
