"""divergences: three estimators of the KL, by enumeration over a finite set and by quadrature between two Gaussians."""

import math

import pytest
import torch
from oracles import (
    assert_close,
    assert_finite_gradients,
    assert_refused,
    elementwise,
    expectation,
    gauss_hermite,
    randn,
)

from vae_tutorial import divergences

DTYPES = [torch.float32, torch.float64]
ALL = [divergences.kl_direct, divergences.kl_squared, divergences.kl_control_variate]
UNBIASED = [divergences.kl_direct, divergences.kl_control_variate]

# Two distributions over four values; the support of p is that of q.
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
P = torch.tensor([0.4, 0.1, 0.35, 0.15], dtype=torch.float64)
KL = sum(q * math.log(q / p) for q, p in zip(Q.tolist(), P.tolist(), strict=True))


def shifted_normals(delta: float, num_nodes: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """log q - log p for q = N(0, 1), p = N(delta, 1) at nodes of q: delta^2 / 2 - delta z. The KL is delta^2 / 2."""
    nodes, weights = gauss_hermite(num_nodes)
    return delta**2 / 2 - delta * nodes[:, 0], weights


# the equations


def test_every_estimator_is_its_equation_with_the_ratio() -> None:
    log_ratio = randn(5, 3, seed=0)
    for function, naive in (
        (divergences.kl_direct, lambda r: math.log(r)),
        (divergences.kl_squared, lambda r: math.log(r) ** 2 / 2),
        (divergences.kl_control_variate, lambda r: math.log(r) + 1 / r - 1),
    ):
        assert_close(function(log_ratio), elementwise(naive, log_ratio.exp()))


# bias


@pytest.mark.parametrize("function", UNBIASED)
def test_two_of_them_are_unbiased(function) -> None:
    assert (Q * function((Q / P).log())).sum().item() == pytest.approx(KL, abs=1e-12)
    for delta in (-1.5, 0.3, 2.0):
        log_ratio, weights = shifted_normals(delta)
        assert expectation(function(log_ratio), weights).item() == pytest.approx(delta**2 / 2, abs=1e-11)


def test_the_square_has_the_bias_of_a_gaussian_log_ratio() -> None:
    """log r is N(delta^2 / 2, delta^2) under q, so E (log r)^2 / 2 = delta^2 / 2 + delta^4 / 8."""
    for delta in (0.1, 1.0, 3.0):
        log_ratio, weights = shifted_normals(delta)
        mean = expectation(divergences.kl_squared(log_ratio), weights)
        assert mean.item() == pytest.approx(delta**2 / 2 + delta**4 / 8, abs=1e-12 * max(1, delta**4))


def test_the_square_is_right_to_the_second_order() -> None:
    """p = q (1 + h u) with E_q u = 0: the bias falls by 8 when h is halved, the divergence by 4."""
    u = torch.tensor([1.0, -2.0, 1.0, 0.0], dtype=torch.float64)
    assert abs((Q * u).sum().item()) < 1e-15

    def bias_and_kl(h: float) -> tuple[float, float]:
        log_ratio = -torch.log1p(h * u)
        direct, squared = ((Q * f(log_ratio)).sum().item() for f in (divergences.kl_direct, divergences.kl_squared))
        return squared - direct, direct

    (bias, kl), (half_bias, half_kl) = bias_and_kl(2e-3), bias_and_kl(1e-3)
    assert bias / half_bias == pytest.approx(8, rel=0.02)
    assert kl / half_kl == pytest.approx(4, rel=0.02)


def test_the_control_variate_needs_the_support_of_p_covered() -> None:
    """p has mass 0.3 where q has none: the mean misses it by exactly that mass, and the direct estimator does not."""
    q, p = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.4, 0.3], dtype=torch.float64)
    kl = (q * (q / p).log()).sum().item()
    assert (q * divergences.kl_control_variate((q / p).log())).sum().item() == pytest.approx(kl - 0.3, abs=1e-12)


# variance


@pytest.mark.parametrize("delta", [0.2, 1.0, 1.5])
def test_variances_between_two_shifted_normals(delta: float) -> None:
    """delta^2 for the log-ratio, exp(delta^2) - 1 - delta^2 with the control variate: smaller, until delta is large."""
    log_ratio, weights = shifted_normals(delta, 120)
    for function, expected in (
        (divergences.kl_direct, delta**2),
        (divergences.kl_squared, delta**4 / 2 + delta**6 / 4),
        (divergences.kl_control_variate, math.exp(delta**2) - 1 - delta**2),
    ):
        values = function(log_ratio)
        variance = expectation((values - expectation(values, weights)) ** 2, weights)
        assert variance.item() == pytest.approx(expected, rel=1e-9)
    smaller = math.exp(delta**2) - 1 - delta**2 < delta**2
    assert smaller == (delta < 1.1)


def test_two_of_them_are_never_negative() -> None:
    log_ratio = 3 * randn(2000, seed=1)
    assert (divergences.kl_direct(log_ratio) < 0).any()
    assert (divergences.kl_squared(log_ratio) >= 0).all()
    assert (divergences.kl_control_variate(log_ratio) >= 0).all()


# shapes, precision, extreme inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ALL)
def test_every_sample_has_its_own_estimate(function, dtype: torch.dtype) -> None:
    log_ratio = randn(4, 3, 2, seed=2, dtype=dtype)
    value = function(log_ratio)
    assert value.shape == (4, 3, 2)
    assert value.dtype == dtype
    assert_close(function(log_ratio[1:2, 2, 0]), value[1:2, 2, 0], 1e-6)


def test_close_distributions_keep_their_digits() -> None:
    """(log r)^2 / 2 - (log r)^3 / 6 + ...: through exp(-log r) - 1 this would be rounding noise."""
    for log_ratio in (1e-3, -1e-5, 1e-7):
        value = divergences.kl_control_variate(torch.tensor([log_ratio], dtype=torch.float64)).item()
        assert value == pytest.approx(log_ratio**2 / 2 - log_ratio**3 / 6 + log_ratio**4 / 24, rel=1e-6, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ALL)
def test_extreme_ratios_give_finite_values_and_gradients(function, dtype: torch.dtype) -> None:
    assert_finite_gradients(function, torch.tensor([-60.0, 0.0, 60.0], dtype=dtype))


@pytest.mark.parametrize("function", ALL)
def test_every_estimator_is_differentiable(function) -> None:
    assert torch.autograd.gradcheck(function, randn(4, 3, seed=3).requires_grad_())


# bad input


@pytest.mark.parametrize("function", ALL)
def test_no_samples_are_refused(function) -> None:
    assert_refused(lambda: function(torch.zeros(0, 3)), "log_ratio", (0, 3))
    assert_refused(lambda: function(torch.zeros(())), "log_ratio", ())
