"""likelihoods: log p(x given z) against enumeration, integration, the equations and torch.distributions."""

import decimal
import itertools
import math

import numpy as np
import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, elementwise, normal_log_density, randn
from torch.distributions import Bernoulli, ContinuousBernoulli, Independent, Normal

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


# continuous_bernoulli

EASY_LOGITS = [-40.0, -15.0, -3.0, -1.0, 1.0, 3.0, 15.0, 40.0]  # where the textbook formula loses no digits
NEAR_ZERO = [0.0, 1e-300, 1e-30, -1e-12, 1e-8, -1e-4, 0.01, -0.1, 0.3]
AT_THE_SEAM = [0.5 + sign * step for step in (0.0, 1e-15, 1e-9, 1e-3) for sign in (-1, 1)]  # series against closed form


def grey(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.sigmoid(2 * randn(*shape, seed=seed)).to(dtype)


def exact_log_normalizer(logit: float) -> float:
    """A(l) = log((e^l - 1) / l) as it stands, in 700 decimal digits: what cancels leaves more than enough."""
    with decimal.localcontext(prec=700):
        t = decimal.Decimal(logit)
        return float(((t.exp() - 1) / t).ln()) if logit else 0.0


@pytest.mark.parametrize("logit", [*EASY_LOGITS, *NEAR_ZERO, 0.7, -2.0])
def test_continuous_bernoulli_integrates_to_one_with_the_mean_of_its_formula(logit: float) -> None:
    """Gauss-Legendre quadrature on 20 pieces of [0, 1]: exact to rounding for e^(l x), |l| up to 40."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    x = torch.tensor((np.arange(20)[:, None] + (nodes + 1) / 2).ravel() / 20).unsqueeze(-1)  # (400, 1)
    weights = torch.tensor(np.tile(weights, 20) / 40)
    logits = torch.full_like(x, logit)
    density = likelihoods.continuous_bernoulli(x, logits).exp()
    assert_close(weights @ density, torch.tensor(1.0, dtype=torch.float64), 1e-13)
    mean = likelihoods.continuous_bernoulli_mean(logits[0, 0])
    assert_close(mean, weights @ (density * x[:, 0]), 1e-13)


def test_continuous_bernoulli_equals_its_equation() -> None:
    """x l - log((e^l - 1) / l); also log C + x log pi + (1 - x) log(1 - pi), C = 2 artanh(1 - 2 pi) / (1 - 2 pi)."""
    x, logits = grey(B, 2, 5, seed=40), 3 * randn(K, B, 2, 5, seed=41)
    assert logits.abs().min() > 0.01  # the naive formulas divide by the logits

    def in_logits(x: float, logit: float) -> float:
        return x * logit - math.log((math.exp(logit) - 1) / logit)

    def in_probabilities(x: float, logit: float) -> float:
        p = 1 / (1 + math.exp(-logit))
        constant = 2 * math.atanh(1 - 2 * p) / (1 - 2 * p)
        return math.log(constant) + x * math.log(p) + (1 - x) * math.log(1 - p)

    value = likelihoods.continuous_bernoulli(x, logits)
    assert_close(value, elementwise(in_logits, x, logits).sum((-2, -1)), 1e-11)
    assert_close(value, elementwise(in_probabilities, x, logits).sum((-2, -1)), 1e-10)


def test_continuous_bernoulli_agrees_with_torch_distributions_away_from_its_clamp() -> None:
    """torch replaces the normaliser for probabilities in [0.499, 0.501] by a series, and clamps them near 0 and 1."""
    x, logits = grey(B, 5, seed=42), 3 * randn(K, B, 5, seed=43)
    logits = logits + 0.1 * logits.sign()
    reference = ContinuousBernoulli(logits=logits)
    assert_close(likelihoods.continuous_bernoulli(x, logits), Independent(reference, 1).log_prob(x), 1e-10)
    assert_close(likelihoods.continuous_bernoulli_mean(logits), reference.mean, 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_log_normalizer_is_exact_near_zero_and_far_from_it(sign: float, dtype: torch.dtype) -> None:
    """At x = 0 the log-likelihood is -A(l): near l = 0 it is -l / 2, to a relative error of a few units of rounding."""
    for number in [*NEAR_ZERO, *AT_THE_SEAM, *EASY_LOGITS]:
        logit = torch.tensor([sign * number], dtype=dtype)
        value = likelihoods.continuous_bernoulli(torch.zeros(1, dtype=dtype), logit)
        expected = -exact_log_normalizer(logit.item())
        assert value.item() == pytest.approx(expected, rel=6 * torch.finfo(dtype).eps, abs=0), number


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_slope_of_the_log_normalizer_is_the_mean(dtype: torch.dtype) -> None:
    """Score x - E[x], everywhere: through 0, across the seam of the two formulas, and up to logits of +-40."""
    logits = torch.tensor([*NEAR_ZERO, *AT_THE_SEAM, *EASY_LOGITS], dtype=dtype)
    logits = torch.cat([-logits, logits])
    x = grey(len(logits), seed=44, dtype=dtype)
    (gradient,) = assert_finite_gradients(lambda a: likelihoods.continuous_bernoulli(x, a), logits)
    mean = likelihoods.continuous_bernoulli_mean(logits)
    assert_close(gradient, x - mean, 20 * torch.finfo(dtype).eps)
    naive = [0.5 + a / 12 if abs(a) < 1e-3 else -1 / math.expm1(-a) - 1 / a for a in logits.double().tolist()]
    tolerance = max(20 * torch.finfo(dtype).eps, 1e-13)  # the naive difference loses digits of its own at l = 0.01
    assert_close(mean.double(), torch.tensor(naive, dtype=torch.float64), tolerance)
    assert_finite_gradients(likelihoods.continuous_bernoulli_mean, logits)


def test_continuous_bernoulli_passes_gradcheck() -> None:
    """First and second derivatives against finite differences, at 0 and on both sides of the seam too."""
    logits = torch.tensor([-30.0, -0.51, -0.49, 0.0, 1e-3, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    x = grey(7, seed=45).requires_grad_()
    assert torch.autograd.gradcheck(likelihoods.continuous_bernoulli, (x, logits))
    assert torch.autograd.gradgradcheck(likelihoods.continuous_bernoulli, (x, logits))
    assert torch.autograd.gradcheck(likelihoods.continuous_bernoulli_mean, logits)


@pytest.mark.parametrize("dtype", DTYPES)
def test_continuous_bernoulli_far_beyond_the_range_of_exp(dtype: torch.dtype) -> None:
    """At l = 1e4 the density is about l at x = 1 and l e^-l at x = 0."""
    logits = torch.tensor([[1e4], [1e4], [-1e4], [-1e4]], dtype=dtype)
    x = torch.tensor([[1.0], [0.0], [0.0], [1.0]], dtype=dtype)
    right, wrong = math.log(1e4), math.log(1e4) - 1e4
    value = likelihoods.continuous_bernoulli(x, logits)
    assert_close(
        value, torch.tensor([right, wrong, right, wrong], dtype=dtype), 1e-4 if dtype == torch.float32 else 1e-12
    )
    mean = likelihoods.continuous_bernoulli_mean(logits)
    assert_close(mean.flatten(), torch.tensor([1 - 1e-4, 1 - 1e-4, 1e-4, 1e-4], dtype=dtype), 1e-7)
    for larger in (logits, 1e4 * logits):  # at 1e8 the series, which does not count there, would overflow float32
        assert_finite_gradients(lambda a: likelihoods.continuous_bernoulli(x, a), larger)
        assert_finite_gradients(likelihoods.continuous_bernoulli_mean, larger)


def test_the_continuous_bernoulli_is_the_bernoulli_formula_divided_by_its_integral() -> None:
    """log C = log p - (x l - softplus(l)) does not depend on x; it is log 2 at l = 0 and never less."""
    logits = torch.linspace(-40, 40, 81, dtype=torch.float64)
    constants = [
        likelihoods.continuous_bernoulli(x, logits) - likelihoods.bernoulli(x, logits)
        for x in (torch.zeros(81).double(), grey(81, seed=46), torch.ones(81).double())
    ]
    assert_close(constants[0], constants[1], 1e-12)
    assert_close(constants[0], constants[2], 1e-12)
    assert constants[0].min().item() == pytest.approx(math.log(2), abs=1e-14)
    assert constants[0].argmin() == 40


def test_the_mean_lies_between_one_half_and_the_sigmoid() -> None:
    logits = torch.cat([torch.logspace(-6, 3, 50), torch.tensor([0.5])]).double()
    mean = likelihoods.continuous_bernoulli_mean(logits)
    assert ((mean > 0.5) & (mean < torch.sigmoid(logits))).all()
    assert_close(mean + likelihoods.continuous_bernoulli_mean(-logits), torch.ones_like(mean))


def test_continuous_bernoulli_has_density_zero_outside_the_interval() -> None:
    x = torch.tensor([-0.01, 1.01, 255.0, math.inf, 0.0, 1.0])
    value = likelihoods.continuous_bernoulli(x, torch.zeros(6))
    assert value.tolist() == [-math.inf] * 4 + [0.0] * 2
    assert likelihoods.continuous_bernoulli(torch.tensor([math.nan]), torch.zeros(1)).isnan().all()


# discretized_logistic

LEVELS = torch.arange(256, dtype=torch.float64).unsqueeze(-1)  # (256, 1)


def logistic(mean: float, log_scale: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Log-probabilities of the 256 levels."""
    means, log_scale = torch.full((256, 1), mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype)
    return likelihoods.discretized_logistic(LEVELS, means, log_scale)


@pytest.mark.parametrize("log_scale", [-60.0, -20.0, -8.0, -6.0, -4.0, -1.0, 0.0, 3.0, 10.0, 60.0])
@pytest.mark.parametrize("mean", [-1e3, -0.3, 0.0, 0.1234, 0.5, 100 / 255, 100.5 / 255, 1.0, 1.7, 1e3])
def test_discretized_logistic_sums_to_one_over_the_levels(mean: float, log_scale: float) -> None:
    """Means on a level, between two and far outside; scales from far below a bin to far above the whole range.

    A mean on the border of two bins gives each one half. Elsewhere rounding moves the borders by 1e-16 / s.
    """
    total = logistic(mean, log_scale).logsumexp(0)
    assert_close(total, torch.zeros((), dtype=torch.float64), 1e-10)


def test_discretized_logistic_equals_its_equation() -> None:
    x = (256 * grey(B, 2, 5, seed=50)).floor()
    x[0, 0], x[0, 1] = 0.0, 255.0
    mean, log_scale = grey(K, B, 2, 5, seed=51), 0.5 * randn(K, B, 2, 5, seed=52) - 2

    def naive(x: float, mean: float, log_scale: float) -> float:
        def distribution(t: float) -> float:
            return 1 / (1 + math.exp(-(t - mean) / math.exp(log_scale)))

        upper = 1.0 if x == 255 else distribution(x / 255 + 1 / 510)
        lower = 0.0 if x == 0 else distribution(x / 255 - 1 / 510)
        return math.log(upper - lower)

    value = likelihoods.discretized_logistic(x, mean, log_scale)
    assert_close(value, elementwise(naive, x, mean, log_scale).sum((-2, -1)), 1e-9)


def test_discretized_logistic_is_the_rounded_logistic() -> None:
    """100,000 draws m + s logit(u), rounded to the levels and clipped at the ends, against the probabilities."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(100_000, generator=generator, dtype=torch.float64)
    levels = (255 * (0.9 + 0.07 * torch.logit(u))).round().clamp(0, 255).long()
    counts = torch.bincount(levels, minlength=256).double()
    expected = 1e5 * logistic(0.9, math.log(0.07)).exp()
    often = expected > 5
    chi2 = ((counts - expected).square() / expected)[often].sum()
    degrees = int(often.sum()) - 1
    assert degrees > 100
    assert abs(chi2 - degrees) < 4 * math.sqrt(2 * degrees)  # a bin misplaced by one level is 40 of these away
    assert counts[255] == pytest.approx(expected[255].item(), abs=4 * math.sqrt(expected[255]))


def test_discretized_logistic_of_a_fine_scale_has_all_mass_on_the_nearest_level() -> None:
    for level in (0, 1, 100, 254, 255):
        value = logistic((level + 0.2) / 255, -20.0)
        assert value[level] == 0
        assert value.topk(2).values[1] < -1e5


def test_discretized_logistic_is_a_density_times_the_width_of_a_bin_for_a_wide_scale() -> None:
    """Inside, P is the logistic density at the level over 255, up to the square of the bin's width over the scale."""
    for log_scale in (0.0, 5.0, 30.0):
        u = (LEVELS[1:255, 0] / 255 - 0.3) / math.exp(log_scale)
        log_density = -u - log_scale - 2 * torch.log1p(torch.exp(-u))
        assert_close(logistic(0.3, log_scale)[1:255], log_density - math.log(255), 1e-6)


def test_discretized_logistic_mirrors_itself() -> None:
    """Level 255 - x under the mean 1 - m has the probability of x under m: both ends are treated alike."""
    for mean, log_scale in ((0.1, -3.0), (0.9, -5.0), (-0.4, 0.0)):
        assert_close(logistic(mean, log_scale).flip(0), logistic(1 - mean, log_scale), 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log_scale", [-60.0, -7.0, 0.0, 60.0])
@pytest.mark.parametrize("mean", [-30.0, 0.0, 0.4, 1.0, 30.0])
def test_discretized_logistic_is_finite_with_finite_gradients(
    mean: float, log_scale: float, dtype: torch.dtype
) -> None:
    """Every level, the ends included, where a network may wander: no floor under the probability, no NaN."""
    means, scale = torch.full((256, 1), mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype)
    function = likelihoods.discretized_logistic
    assert_finite_gradients(lambda m, s: function(LEVELS, m, s), means, scale)
    value = function(LEVELS, means, scale)
    assert (value <= 0).all()
    wide = function(LEVELS, means.double(), scale.double())
    if abs(log_scale) < 60:  # a scale of e^-60 resolves what float32 cannot
        torch.testing.assert_close(value.double(), wide, rtol=1e-5 if dtype == torch.float32 else 0, atol=1e-3)


def test_discretized_logistic_passes_gradcheck() -> None:
    x = torch.tensor([[0.0, 1.0, 100.0, 254.0, 255.0]], dtype=torch.float64)
    mean = torch.tensor([[0.02, -0.3, 0.4, 1.1, 0.9]], dtype=torch.float64, requires_grad=True)
    for log_scale in (-6.0, -3.0, 0.0, 8.0):
        scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda m, s: likelihoods.discretized_logistic(x, m, s), (mean, scale))
        assert torch.autograd.gradgradcheck(lambda m, s: likelihoods.discretized_logistic(x, m, s), (mean, scale))


def test_a_number_that_is_no_level_has_probability_zero() -> None:
    """The mistake of passing x / 255 is loud."""
    x = torch.tensor([0.5, -1.0, 256.0, 254.99, math.inf, math.nan, 254.0])
    value = likelihoods.discretized_logistic(x, torch.full((7,), 0.5), torch.tensor(0.0))
    assert (value[:6] == -math.inf).all()
    assert value[6].isfinite()


@pytest.mark.parametrize("integer", [torch.uint8, torch.int64])
def test_discretized_logistic_takes_bytes(integer: torch.dtype) -> None:
    x, mean = (256 * grey(B, 5, seed=53)).floor(), grey(K, B, 5, seed=54)
    log_scale = torch.tensor(-2.0, dtype=torch.float64)
    function = likelihoods.discretized_logistic
    assert torch.equal(function(x.to(integer), mean, log_scale), function(x, mean, log_scale))


@pytest.mark.parametrize("data_shape", DATA_SHAPES)
def test_discretized_logistic_takes_a_shared_scale(data_shape: tuple[int, ...]) -> None:
    x, mean = (256 * grey(B, *data_shape, seed=55)).floor(), grey(K, B, *data_shape, seed=56)
    log_scale = torch.tensor(-2.0, dtype=torch.float64)
    function = likelihoods.discretized_logistic
    assert_close(function(x, mean, log_scale), function(x, mean, log_scale.expand_as(mean)))
    if data_shape:
        each = randn(data_shape[-1], seed=57)
        assert_close(function(x, mean, each), function(x, mean, each.expand_as(mean)))


# bits_per_dim


def test_bits_per_dim_of_known_codes() -> None:
    """Equally likely levels cost 8 bits, fair coins 1 bit, whatever the number of pixels; nats are not bits."""
    x = (256 * grey(B, 2, 5, seed=58)).floor()
    uniform = torch.full((B,), -10 * math.log(256), dtype=torch.float64)
    assert_close(likelihoods.bits_per_dim(uniform, 10), torch.full((B,), 8.0, dtype=torch.float64))
    coins = likelihoods.bernoulli(x, torch.zeros_like(x))
    assert_close(likelihoods.bits_per_dim(coins, 10), torch.ones(B, dtype=torch.float64))
    assert likelihoods.bits_per_dim(torch.tensor(-1.0), 1).item() == pytest.approx(1.4427, abs=1e-4)
    assert likelihoods.bits_per_dim(torch.zeros(K, B), 3).shape == (K, B)


@pytest.mark.parametrize("num_dims", [0, -3])
def test_bits_per_dim_refuses_data_without_dimensions(num_dims: int) -> None:
    assert_refused(lambda: likelihoods.bits_per_dim(zeros(3), num_dims), "num_dims", str(num_dims))


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
        (grey(B, *data_shape, seed=31, dtype=dtype), likelihoods.continuous_bernoulli),
        (
            (256 * grey(B, *data_shape, seed=32, dtype=dtype)).floor(),
            lambda x, mean: likelihoods.discretized_logistic(x, mean, log_var),
        ),
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
    assert_refused(lambda: likelihoods.continuous_bernoulli(x, parameter), "x", "logits", x_shape, parameter_shape)
    assert_refused(
        lambda: likelihoods.discretized_logistic(x, parameter, zeros()), "x", "mean", x_shape, parameter_shape
    )


@pytest.mark.parametrize("log_var_shape", [(4,), (3, 4), (2, 5), (7, 3, 5)])
def test_gaussian_refuses_a_log_variance_that_does_not_fit(log_var_shape: tuple[int, ...]) -> None:
    x, mean = zeros(3, 5), zeros(K, 3, 5)
    assert_refused(lambda: likelihoods.gaussian(x, mean, zeros(*log_var_shape)), "log_var", log_var_shape)


@pytest.mark.parametrize("log_scale_shape", [(4,), (3, 4), (2, 5), (7, 3, 5)])
def test_discretized_logistic_refuses_a_scale_that_does_not_fit(log_scale_shape: tuple[int, ...]) -> None:
    x, mean, log_scale = zeros(3, 5), zeros(K, 3, 5), zeros(*log_scale_shape)
    assert_refused(lambda: likelihoods.discretized_logistic(x, mean, log_scale), "log_scale", log_scale_shape)


# far out in single precision, and counts and classes


@pytest.mark.parametrize("log_scale", [-100.0, -20.0, 40.0, 90.0, 200.0])
def test_the_discretized_logistic_at_extreme_scales(log_scale: float) -> None:
    """A tiny scale puts all mass on the mean's level; a huge one halves it between the ends, 1 / (4 * 255 s) a level."""
    x, mean = torch.arange(256.0)[:, None], torch.full((256, 1), 127 / 255)
    log_p = likelihoods.discretized_logistic(x, mean, torch.tensor(log_scale))
    assert not log_p.isnan().any()
    if log_scale < -19:
        assert log_p[127].item() == pytest.approx(0, abs=1e-4)
        assert (log_p[:127] < -100).all()
    else:
        assert log_p[[0, 255]].tolist() == pytest.approx([math.log(0.5)] * 2)
        assert log_p[100].item() == pytest.approx(-math.log(4 * 255) - log_scale, rel=1e-6)
    middle = slice(127, 128) if log_scale < -19 else slice(0, 256)
    scale = torch.tensor(log_scale)
    assert_finite_gradients(lambda m, s: likelihoods.discretized_logistic(x[middle], m, s), mean[middle], scale)


def test_a_real_number_close_to_a_level_is_no_level() -> None:
    x = torch.tensor([[127.0 + 1e-9]], dtype=torch.float64)
    assert likelihoods.discretized_logistic(x, torch.full((1, 1), 0.5), torch.tensor(-2.0)).item() == -math.inf


def test_the_smallest_gaussian_noise_at_the_data() -> None:
    x, log_var = torch.zeros(1, 2), torch.tensor(-100.0)
    assert likelihoods.gaussian(x, x, log_var).item() == pytest.approx(100 - math.log(2 * math.pi))
    assert_finite_gradients(lambda m, v: likelihoods.gaussian(x, m, v), x, log_var)


def test_counts_against_torch_distributions() -> None:
    rate, x = 2 * randn(4, 3, 5, seed=50), torch.arange(15.0).double().view(3, 5)
    expected = torch.distributions.Poisson(rate.exp()).log_prob(x).sum(-1)
    assert_close(likelihoods.poisson(x, rate), expected, 1e-10)
    log_shape = torch.tensor(0.7, dtype=torch.float64)
    total = torch.distributions.NegativeBinomial(log_shape.exp(), logits=rate - log_shape)
    assert_close(likelihoods.negative_binomial(x, rate, log_shape), total.log_prob(x).sum(-1), 1e-10)
    assert_close(likelihoods.negative_binomial(x, rate, torch.tensor(20.0).double()), expected, 1e-4)  # its limit


@pytest.mark.parametrize("log_mean", [-3.0, 0.0, 2.0])
def test_the_probabilities_of_all_counts_add_up_to_one(log_mean: float) -> None:
    x, m = torch.arange(2000.0).double()[:, None], torch.full((2000, 1), log_mean).double()
    for log_p in (likelihoods.poisson(x, m), likelihoods.negative_binomial(x, m, torch.tensor(-0.5).double())):
        assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
        mean = (log_p.exp() * x[:, 0]).sum().item()
        assert mean == pytest.approx(math.exp(log_mean), rel=1e-6)


def test_classes_against_torch_distributions() -> None:
    logits, x = randn(4, 3, 5, 6, seed=51), torch.arange(15).view(3, 5) % 6
    expected = torch.distributions.Categorical(logits=logits).log_prob(x).sum(-1)
    for dtype in (torch.int64, torch.uint8, torch.float64):
        assert_close(likelihoods.categorical(x.to(dtype), logits), expected, 1e-12)


@pytest.mark.parametrize("wrong", [-1.0, 0.5, math.inf])
def test_what_is_no_count_and_no_class_has_probability_zero(wrong: float) -> None:
    x, zero = torch.tensor([[wrong, 1.0]]), torch.zeros(1, 2)
    assert likelihoods.poisson(x, zero).item() == -math.inf
    assert likelihoods.negative_binomial(x, zero, torch.tensor(0.0)).item() == -math.inf
    assert likelihoods.categorical(x, torch.zeros(1, 2, 3)).item() == -math.inf
    assert likelihoods.categorical(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2, 3)).item() == -math.inf


OBJECTS = {
    "Bernoulli": (likelihoods.Bernoulli(), 0.3),
    "Gaussian": (likelihoods.Gaussian(log_var=-1.0), 0.3),
    "continuous Bernoulli": (likelihoods.ContinuousBernoulli(), -2.5),
    "flat continuous Bernoulli": (likelihoods.ContinuousBernoulli(), 1e-5),
    "discretized logistic": (likelihoods.DiscretizedLogistic(), 0.9),
    "Poisson": (likelihoods.Poisson(), 1.1),
    "negative binomial": (likelihoods.NegativeBinomial(log_shape=0.4), 1.1),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_samples_are_from_the_likelihood(name: str) -> None:
    """100,000 draws at one output: their mean is the likelihood's, and their spread that of its log-probabilities."""
    likelihood, output = OBJECTS[name]
    outputs = torch.full((100_000, 1), output)
    with torch.no_grad():
        x = likelihood.sample(outputs, generator=torch.Generator().manual_seed(0))
        likelihood.check(x)
        mean, error = likelihood.mean(outputs[:1]).item(), x.std().item() / 100_000**0.5
        assert abs(x.mean().item() - mean) < 4 * error + 1e-6
        log_p = likelihood.log_prob(x, outputs)
        if name in ("Poisson", "negative binomial", "discretized logistic"):
            support = torch.arange(1000.0 if "logistic" not in name else 256.0)[:, None]
            exact = likelihood.log_prob(support, torch.full_like(support, output))
            entropy = -(exact.exp() * exact.nan_to_num(neginf=0.0)).nansum()
            assert abs(-log_p.mean() - entropy) < 4 * log_p.std() / 100_000**0.5
        if "continuous" in name:
            grid = (torch.arange(100_000, dtype=torch.float32)[:, None] + 0.5) / 100_000
            density = likelihood.log_prob(grid, torch.full_like(grid, output)).exp()
            assert density.mean().item() == pytest.approx(1, abs=1e-4)
            second = (density * grid[:, 0] ** 2).mean()
            assert abs((x**2).mean() - second) < 4 * (x**2).std() / 100_000**0.5
        if name == "Gaussian":
            assert x.std().item() == pytest.approx(math.exp(-0.5), rel=0.02)


def test_grey_pixels_in_a_bernoulli_model_give_one_clear_warning() -> None:
    grey = torch.full((9000, 3), 0.5)
    with pytest.warns(UserWarning, match="Binarize them by sampling") as told:
        likelihoods.Bernoulli().check(grey)
    assert len(told) == 1


def test_nan_names_its_row() -> None:
    x = torch.zeros(9000, 3)
    x[8123, 1] = math.nan
    for likelihood in (likelihoods.Bernoulli(), likelihoods.Gaussian(), likelihoods.Poisson()):
        assert_refused(lambda likelihood=likelihood: likelihood.check(x), "NaN", "row 8123")


def test_real_signals_in_a_bernoulli_model_are_told_of_other_likelihoods() -> None:
    assert_refused(lambda: likelihoods.Bernoulli().check(torch.randn(5, 3)), "[0, 1]", "Gaussian()")


@pytest.mark.parametrize("output", [-0.5, 0.0, 0.3, 0.95, 1.2])
def test_the_mean_grey_level_is_the_sum_over_all_256(output: float) -> None:
    likelihood = likelihoods.DiscretizedLogistic().double()
    levels, outputs = torch.arange(256.0).double()[:, None], torch.full((256, 1), output).double()
    exact = (likelihood.log_prob(levels, outputs).exp() * levels[:, 0]).sum()
    assert_close(likelihood.mean(outputs[0, 0]).detach(), exact.detach(), 1e-12)
