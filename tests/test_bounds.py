"""bounds: the three functions of log-weights, against their equations and against enumerated expectations."""

import itertools
import math

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn

from vae_tutorial import bounds

DTYPES = [torch.float32, torch.float64]
ALL = [bounds.elbo, bounds.iwae, bounds.effective_sample_size]
K, B = 6, 4


def tuples(log_w: list[float], num_samples: int) -> torch.Tensor:
    """Every tuple of K draws from a uniform q over a finite set, all equally likely: (K, number of tuples)."""
    return torch.tensor(list(itertools.product(log_w, repeat=num_samples)), dtype=torch.float64).T


# A latent variable with three values, q uniform over them, p(x, z) as listed: the weights are p(x, z) / (1/3).
JOINT = [0.02, 0.30, 0.11]
LOG_WEIGHTS = [math.log(3 * p) for p in JOINT]
LOG_EVIDENCE = math.log(sum(JOINT))


# the equations


def test_elbo_is_the_mean_of_the_log_weights() -> None:
    log_w = 3 * randn(K, B, seed=0)
    naive = [sum(log_w[k, b].item() for k in range(K)) / K for b in range(B)]
    assert_close(bounds.elbo(log_w), torch.tensor(naive, dtype=torch.float64))


def test_iwae_is_the_log_of_the_mean_weight() -> None:
    log_w = 3 * randn(K, B, seed=1)
    naive = [math.log(sum(math.exp(log_w[k, b].item()) for k in range(K)) / K) for b in range(B)]
    assert_close(bounds.iwae(log_w), torch.tensor(naive, dtype=torch.float64))


def test_effective_sample_size_is_the_squared_sum_over_the_sum_of_squares() -> None:
    log_w = 2 * randn(K, B, seed=2)
    naive = []
    for b in range(B):
        w = [math.exp(log_w[k, b].item()) for k in range(K)]
        naive.append(sum(w) ** 2 / sum(v**2 for v in w))
    assert_close(bounds.effective_sample_size(log_w), torch.tensor(naive, dtype=torch.float64), 1e-11)


# what the bounds promise, by enumeration


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5])
def test_elbo_has_the_same_mean_for_every_number_of_samples(num_samples: int) -> None:
    mean = bounds.elbo(tuples(LOG_WEIGHTS, num_samples)).mean()
    assert_close(mean, torch.tensor(sum(LOG_WEIGHTS) / 3, dtype=torch.float64))


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5])
def test_exp_of_iwae_is_an_unbiased_estimate_of_the_evidence(num_samples: int) -> None:
    mean = bounds.iwae(tuples(LOG_WEIGHTS, num_samples)).exp().mean()
    assert_close(mean, torch.tensor(math.exp(LOG_EVIDENCE), dtype=torch.float64))


def test_iwae_grows_with_the_number_of_samples_and_stays_below_the_evidence() -> None:
    means = [bounds.iwae(tuples(LOG_WEIGHTS, k)).mean().item() for k in range(1, 8)]
    assert means[0] == pytest.approx(sum(LOG_WEIGHTS) / 3, abs=1e-12)
    assert all(b - a > 1e-3 for a, b in itertools.pairwise(means))
    assert means[-1] < LOG_EVIDENCE
    assert LOG_EVIDENCE - means[-1] < 0.25 * (LOG_EVIDENCE - means[0])


def test_constant_weights_are_tight_and_use_every_sample() -> None:
    """The log-weights at the exact posterior: every bound is the evidence, and no sample is wasted."""
    log_w = torch.full((K, B), -412.75, dtype=torch.float64)
    assert_close(bounds.elbo(log_w), log_w[0])
    assert_close(bounds.iwae(log_w), log_w[0])
    assert_close(bounds.effective_sample_size(log_w), torch.full((B,), float(K), dtype=torch.float64))


def test_one_sample_makes_the_bounds_equal() -> None:
    log_w = randn(1, B, seed=3)
    assert_close(bounds.elbo(log_w), log_w[0])
    assert_close(bounds.iwae(log_w), log_w[0])
    assert_close(bounds.effective_sample_size(log_w), torch.ones(B, dtype=torch.float64))


def test_elbo_is_below_iwae_is_below_the_largest_log_weight() -> None:
    log_w = 4 * randn(K, 500, seed=4)
    assert (bounds.elbo(log_w) < bounds.iwae(log_w)).all()
    assert (bounds.iwae(log_w) < log_w.amax(0)).all()
    assert (bounds.iwae(log_w) > log_w.amax(0) - math.log(K)).all()


def test_effective_sample_size_lies_between_one_and_the_number_of_samples() -> None:
    log_w = 4 * randn(K, 500, seed=5)
    size = bounds.effective_sample_size(log_w)
    assert (size > 1).all()
    assert (size < K).all()
    two_equal = torch.tensor([0.0, 0.0, -1e3, -1e3], dtype=torch.float64)
    assert_close(bounds.effective_sample_size(two_equal), torch.tensor(2.0, dtype=torch.float64))


# gradients


def test_gradients_are_the_sample_weights() -> None:
    """1 / K for the ELBO, and the normalised importance weights for the importance-weighted bound."""
    log_w = 2 * randn(K, B, seed=6)
    (gradient,) = assert_finite_gradients(bounds.elbo, log_w)
    assert_close(gradient, torch.full((K, B), 1 / K, dtype=torch.float64))
    (gradient,) = assert_finite_gradients(bounds.iwae, log_w)
    assert_close(gradient, log_w.exp() / log_w.exp().sum(0))


def test_effective_sample_size_is_differentiable() -> None:
    log_w = randn(K, B, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(bounds.effective_sample_size, log_w)


# shapes and dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ALL)
def test_only_the_leading_axis_is_reduced(function, dtype: torch.dtype) -> None:
    log_w = randn(K, B, 3, seed=8, dtype=dtype)
    whole = function(log_w)
    assert whole.shape == (B, 3)
    assert whole.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_close(function(log_w[:, 1, 2]), whole[1, 2], tolerance)
    assert function(log_w[:, 0, 0]).shape == ()
    assert_close(function(log_w.flip(0)), whole, tolerance)  # the order of the samples does not matter


# extreme inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [-2e4, -500.0, 500.0, 2e4])
def test_an_offset_moves_the_bounds_and_leaves_the_effective_sample_size(offset: float, dtype: torch.dtype) -> None:
    """exp of these log-weights is 0 or infinite: there is no way but through a shifted logsumexp."""
    log_w = 2 * randn(K, B, seed=9)
    moved = (log_w + offset).to(dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-2  # 2e4 has spacing 2e-3 in float32
    assert_close(bounds.elbo(moved).double(), bounds.elbo(log_w) + offset, tolerance)
    assert_close(bounds.iwae(moved).double(), bounds.iwae(log_w) + offset, tolerance)
    size = bounds.effective_sample_size(moved).double()
    assert_close(size, bounds.effective_sample_size(log_w), tolerance)
    for function in ALL:
        assert_finite_gradients(function, moved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sample_may_carry_all_the_weight(dtype: torch.dtype) -> None:
    log_w = torch.tensor([-3.0, -3e4, -6e4], dtype=dtype)
    assert bounds.iwae(log_w).item() == pytest.approx(-3 - math.log(3), abs=1e-5)
    assert bounds.effective_sample_size(log_w).item() == pytest.approx(1.0, abs=1e-6)
    for function in ALL:
        assert_finite_gradients(function, log_w)


def test_a_sample_of_weight_zero_counts_as_a_sample() -> None:
    """log w = -inf where q puts mass that p does not: K still divides."""
    log_w = torch.tensor([-1.0, -math.inf], dtype=torch.float64)
    assert bounds.iwae(log_w).item() == pytest.approx(-1 - math.log(2), abs=1e-12)
    assert bounds.elbo(log_w).item() == -math.inf
    assert bounds.effective_sample_size(log_w).item() == pytest.approx(1.0, abs=1e-12)


def test_many_samples_do_not_lose_precision() -> None:
    """A million equal weights in float32: the mean weight is one weight, to float32's rounding."""
    log_w = torch.full((1_000_000,), -80.0)
    assert bounds.iwae(log_w).item() == pytest.approx(-80, abs=1e-3)
    assert bounds.effective_sample_size(log_w).item() == pytest.approx(1e6, rel=1e-4)


# bad input


@pytest.mark.parametrize("function", ALL)
def test_no_samples_are_refused(function) -> None:
    assert_refused(lambda: function(torch.zeros(0, B)), "log_w", (0, B))
    assert_refused(lambda: function(torch.zeros(0)), "log_w", (0,))
    assert_refused(lambda: function(torch.zeros(())), "log_w", ())


def test_where_every_weight_is_zero_the_bound_is_minus_infinity_without_a_slope_of_nan() -> None:
    log_w = torch.tensor([[-math.inf, 0.0], [-math.inf, -math.inf]], dtype=torch.float64, requires_grad=True)
    bound = bounds.iwae(log_w)
    assert bound.tolist() == [-math.inf, pytest.approx(-math.log(2))]
    (gradient,) = torch.autograd.grad(bound[1], log_w, retain_graph=True)
    assert gradient.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    (gradient,) = torch.autograd.grad(bound.sum(), log_w)
    assert not gradient.isnan().any()


# the tail of the weights


def generalized_pareto(shape: float, *, num_samples: int, num_sets: int, seed: int) -> torch.Tensor:
    """Samples by the inverse of the distribution function, 1 - (1 + k y)^(-1/k)."""
    u = torch.rand(num_samples, num_sets, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((1 - u) ** -shape - 1) / shape


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.5, 0.7, 1.0, 1.5])
def test_pareto_k_finds_the_shape_of_a_pareto_tail(shape: float) -> None:
    found = bounds.pareto_k(generalized_pareto(shape, num_samples=20_000, num_sets=100, seed=0).log())
    bias = 10 / (3 * math.sqrt(20_000) + 10) * (0.5 - shape)  # the pull towards 1/2, which small samples need
    assert abs(found.mean().item() - shape - bias) < 0.03
    assert found.std().item() < 0.15


@pytest.mark.parametrize("num_samples", [60, 400])
def test_pareto_k_is_the_fit_typed_out(num_samples: int) -> None:
    log_w = 2 * randn(num_samples, 3, seed=3)
    for column, found in zip(log_w.T, bounds.pareto_k(log_w).tolist(), strict=True):
        weights = sorted(math.exp(value) for value in column.tolist())
        num = math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))
        y = [value - weights[-num - 1] for value in weights[-num:]]
        size = 30 + int(math.sqrt(num))
        grid = [
            1 / y[-1] + (1 - math.sqrt(size / (j - 0.5))) / (3 * y[int(num / 4 + 0.5) - 1]) for j in range(1, size + 1)
        ]
        shapes = [sum(math.log1p(-theta * value) for value in y) / num for theta in grid]
        profile = [num * (math.log(-theta / k) - k - 1) for theta, k in zip(grid, shapes, strict=True)]
        parts = [1 / sum(math.exp(other - own) for other in profile) for own in profile]
        theta = sum(part * value for part, value in zip(parts, grid, strict=True))
        fit = sum(math.log1p(-theta * value) for value in y) / num
        assert found == pytest.approx((num * fit + 5) / (num + 10), abs=1e-9)


def test_pareto_k_of_a_gaussian_that_is_too_narrow_tends_to_the_lost_variance() -> None:
    """p = N(0, 1), q = N(0, s^2): log w = (1 - s^2) eps^2 / 2 + c, whose weights have a tail of shape 1 - s^2."""
    eps = randn(100_000, 20, seed=4)
    for variance in (0.36, 0.64, 0.81):
        found = bounds.pareto_k(0.5 * (1 - variance) * eps.square()).mean().item()
        assert abs(found - (1 - variance)) < 0.06


def test_pareto_k_ignores_a_constant_and_says_when_all_weights_are_equal() -> None:
    log_w = randn(100, 4, seed=5)
    assert (bounds.pareto_k(log_w - 700) - bounds.pareto_k(log_w)).abs().max() < 1e-9
    assert bounds.pareto_k(torch.zeros(25, 2)).tolist() == [-math.inf] * 2
    ties = torch.cat([torch.zeros(90, 1), torch.ones(10, 1)])  # more equal weights than a quarter of the tail
    assert bounds.pareto_k(ties).isfinite().all()
    assert bounds.pareto_k(log_w.float()).dtype == torch.float32
    assert bounds.pareto_k(randn(30, 2, 3, seed=6)).shape == (2, 3)


def test_pareto_k_refuses_too_few_samples() -> None:
    assert_refused(lambda: bounds.pareto_k(torch.zeros(24, 2)), "25", "K = 24")
