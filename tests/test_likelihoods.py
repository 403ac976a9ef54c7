"""likelihoods: log p(x given z) against enumeration, integration, the equations and torch.distributions."""

import itertools
import math

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, elementwise, normal_log_density, randn
from torch.distributions import Bernoulli, Independent, Normal

from vae_tutorial import likelihoods

DTYPES = [torch.float32, torch.float64]
K, B = 4, 3
DATA_SHAPES = [(), (5,), (2, 5), (1, 4, 3)]


def binary(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (randn(*shape, seed=seed) > 0).to(dtype)


# bernoulli


def test_bernoulli_is_a_probability_over_all_binary_images() -> None:
    """The 64 images of 6 pixels: their probabilities add up to 1, and the mean image is sigmoid(logits)."""
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)  # (64, 6)
    logits = 2 * randn(1, 6, seed=0)
    probability = likelihoods.bernoulli(x, logits.expand(64, 6)).exp()
    assert_close(probability.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert_close(probability @ x, torch.sigmoid(logits[0]))


def test_bernoulli_equals_its_equation() -> None:
    """Sum of x log s(l) + (1 - x) log(1 - s(l)), s the sigmoid; also x l - log(1 + e^l)."""
    x, logits = binary(B, 2, 5, seed=1), 2 * randn(K, B, 2, 5, seed=2)

    def by_probability(x: float, logit: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        return x * math.log(p) + (1 - x) * math.log(1 - p)

    value = likelihoods.bernoulli(x, logits)
    assert_close(value, elementwise(by_probability, x, logits).sum((-2, -1)))
    assert_close(value, elementwise(lambda x, a: x * a - math.log(1 + math.exp(a)), x, logits).sum((-2, -1)))


def test_bernoulli_agrees_with_torch_distributions() -> None:
    x, logits = binary(B, 5, seed=3), 3 * randn(K, B, 5, seed=4)
    assert_close(likelihoods.bernoulli(x, logits), Independent(Bernoulli(logits=logits), 1).log_prob(x))


def test_bernoulli_gradient_is_data_minus_probability() -> None:
    x, logits = binary(B, 5, seed=5), 2 * randn(B, 5, seed=6)
    (gradient,) = assert_finite_gradients(lambda logits: likelihoods.bernoulli(x, logits), logits)
    assert_close(gradient, x - torch.sigmoid(logits))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_with_extreme_logits(dtype: torch.dtype) -> None:
    """At +-40 sigmoid is 0 or 1 to rounding: a wrong pixel costs 40 nats, a right one e^-40, and gradients survive."""
    logits = torch.tensor([[40.0], [-40.0], [40.0], [-40.0]], dtype=dtype)
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=dtype)
    value = likelihoods.bernoulli(x, logits)
    expected = torch.tensor([-40.0, -math.exp(-40), -math.exp(-40), -40.0], dtype=dtype)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-14)
    (gradient,) = assert_finite_gradients(lambda logits: likelihoods.bernoulli(x, logits), logits)
    assert_close(gradient[0] + 1, torch.zeros(1, dtype=dtype), 1e-6)
    assert_close(gradient[3] - 1, torch.zeros(1, dtype=dtype), 1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_bernoulli_far_beyond_the_range_of_exp(sign: float) -> None:
    logits = torch.full((2, 1), sign * 1e4)
    value = likelihoods.bernoulli(torch.tensor([[0.0], [1.0]]), logits)
    assert_close(value, torch.tensor([-1e4, 0.0] if sign > 0 else [0.0, -1e4]))


def test_bernoulli_at_logit_zero_is_a_fair_coin() -> None:
    x = binary(B, 7, seed=7)
    expected = torch.full((B,), -7 * math.log(2), dtype=torch.float64)
    assert_close(likelihoods.bernoulli(x, torch.zeros_like(x)), expected)


# gaussian


def test_gaussian_is_the_sum_of_the_textbook_log_densities() -> None:
    x, mean, log_var = randn(B, 2, 5, seed=10), randn(K, B, 2, 5, seed=11), randn(K, B, 2, 5, seed=12)
    naive = elementwise(lambda x, m, v: normal_log_density(x, m, math.exp(v)), x, mean, log_var)
    assert_close(likelihoods.gaussian(x, mean, log_var), naive.sum((-2, -1)))


def test_gaussian_equals_the_equation_written_with_log_variances() -> None:
    x, mean, log_var = randn(B, 5, seed=13), randn(B, 5, seed=14), randn(B, 5, seed=15)
    naive = -0.5 * (math.log(2 * math.pi) + log_var + (x - mean) ** 2 / torch.exp(log_var))
    assert_close(likelihoods.gaussian(x, mean, log_var), naive.sum(-1))


def test_gaussian_agrees_with_torch_distributions() -> None:
    x, mean, log_var = randn(B, 5, seed=16), randn(K, B, 5, seed=17), randn(K, B, 5, seed=18)
    expected = Independent(Normal(mean, (0.5 * log_var).exp()), 1).log_prob(x)
    assert_close(likelihoods.gaussian(x, mean, log_var), expected)


def test_gaussian_integrates_to_one() -> None:
    x = torch.arange(-30, 30, 0.01, dtype=torch.float64).unsqueeze(-1)  # (B, 1)
    mean = torch.full_like(x, -0.8)
    density = likelihoods.gaussian(x, mean, torch.tensor(1.1, dtype=torch.float64)).exp()
    assert_close(0.01 * density.sum(), torch.tensor(1.0, dtype=torch.float64), 1e-10)


@pytest.mark.parametrize("data_shape", DATA_SHAPES)
def test_gaussian_counts_a_shared_log_variance_once_per_dimension(data_shape: tuple[int, ...]) -> None:
    """One learnt variance for all pixels: its logarithm stands D times in the sum, not once."""
    x, mean = randn(B, *data_shape, seed=19), randn(K, B, *data_shape, seed=20)
    shared = torch.tensor(0.6, dtype=torch.float64)
    value = likelihoods.gaussian(x, mean, shared)
    assert_close(value, likelihoods.gaussian(x, mean, shared.expand(K, B, *data_shape)))
    naive = elementwise(lambda x, m: normal_log_density(x, m, math.exp(0.6)), x, mean)
    assert_close(value, naive.reshape(K, B, -1).sum(-1))


def test_gaussian_is_greatest_at_the_residual_variance() -> None:
    """With one log-variance for all, the gradient vanishes where the variance is the mean squared residual."""
    x, mean = randn(B, 50, seed=21), randn(B, 50, seed=22)
    log_var = (x - mean).square().mean().log()
    _, gradient = assert_finite_gradients(lambda m, v: likelihoods.gaussian(x, m, v), mean, log_var)
    assert_close(gradient, torch.zeros((), dtype=torch.float64), 1e-10)


def test_gaussian_takes_one_log_variance_per_dimension() -> None:
    """A log_var of shape *D, one for each data dimension, is the same for every x."""
    x, mean, log_var = randn(B, 5, seed=23), randn(K, B, 5, seed=24), randn(5, seed=25)
    assert_close(likelihoods.gaussian(x, mean, log_var), likelihoods.gaussian(x, mean, log_var.expand(K, B, 5)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extreme", [-60.0, 60.0])
def test_gaussian_with_extreme_log_variances(extreme: float, dtype: torch.dtype) -> None:
    x, mean = randn(B, 5, seed=26, dtype=dtype), randn(K, B, 5, seed=27, dtype=dtype)
    log_var = torch.tensor(extreme, dtype=dtype)
    assert_finite_gradients(likelihoods.gaussian, x, mean, log_var)
    assert_finite_gradients(likelihoods.gaussian, x, mean, log_var.expand(K, B, 5))
    naive = elementwise(lambda x, m: normal_log_density(x, m, math.exp(extreme)), x, mean).sum(-1)
    assert_close(likelihoods.gaussian(x, mean, log_var).double(), naive, 1e-12 if dtype == torch.float64 else 1e-5)


# shapes and dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_shape", DATA_SHAPES)
@pytest.mark.parametrize("batch_shape", [(), (K,), (2, K)])
def test_only_the_data_axes_are_summed(
    batch_shape: tuple[int, ...], data_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """x (B, *D) and parameters (..., B, *D) give (..., B); each entry equals the call for that entry alone."""
    parameter = randn(*batch_shape, B, *data_shape, seed=28, dtype=dtype)
    log_var = torch.tensor(0.2, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for x, function in (
        (binary(B, *data_shape, seed=29, dtype=dtype), likelihoods.bernoulli),
        (randn(B, *data_shape, seed=30, dtype=dtype), lambda x, mean: likelihoods.gaussian(x, mean, log_var)),
    ):
        value = function(x, parameter)
        assert value.shape == (*batch_shape, B)
        assert value.dtype == dtype
        first = (0,) * len(batch_shape)
        assert_close(function(x[1:2], parameter[first][1:2])[0], value[first][1], tolerance)


# bad input


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("x_shape", "parameter_shape"),
    [
        ((3, 5), (3, 4)),  # another number of data dimensions
        ((3, 5), (3, 1)),  # one parameter for all of them
        ((3, 1), (3, 5)),  # one value for all of them
        ((3, 5), (2, 5)),  # another batch
        ((1, 5), (3, 5)),  # one x for a batch of parameters
        ((3, 5), (4, 1, 5)),  # one set of parameters for a batch of x
        ((3, 1), (3,)),  # (B, 1) against (B,), which broadcasting turns into (B, B)
        ((3,), (3, 1)),  # and the other way round
        ((3, 5), (5,)),  # no batch axis
        ((2, 1, 4, 4), (2, 4, 4)),  # no channel axis
        ((2, 4, 4), (2, 1, 4, 4)),  # a channel axis too many, B = 2 taken for 1
        ((2, 3, 4, 4), (2, 1, 4, 4)),  # one channel for three
    ],
)
def test_mismatched_shapes_are_refused(x_shape: tuple[int, ...], parameter_shape: tuple[int, ...]) -> None:
    x, parameter = zeros(*x_shape), zeros(*parameter_shape)
    assert_refused(lambda: likelihoods.bernoulli(x, parameter), "x", "logits", x_shape, parameter_shape)
    assert_refused(lambda: likelihoods.gaussian(x, parameter, zeros()), "x", "mean", x_shape, parameter_shape)


@pytest.mark.parametrize("log_var_shape", [(4,), (3, 4), (2, 5), (7, 3, 5)])
def test_gaussian_refuses_a_log_variance_that_does_not_fit(log_var_shape: tuple[int, ...]) -> None:
    x, mean = zeros(3, 5), zeros(K, 3, 5)
    assert_refused(lambda: likelihoods.gaussian(x, mean, zeros(*log_var_shape)), "log_var", log_var_shape)
