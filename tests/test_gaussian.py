"""gaussian: every closed form against its textbook equation, against torch.distributions and against quadrature."""

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
    normal_kl,
    normal_log_density,
    randn,
)
from torch.distributions import Independent, Normal, kl_divergence

from vae_tutorial import gaussian

DTYPES = [torch.float32, torch.float64]
K, B, J = 4, 3, 5


def example(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A mean and a log-variance; the variances run over about two orders of magnitude."""
    return 1.5 * randn(*shape, seed=seed), randn(*shape, seed=seed + 1)


def torch_normal(mu: torch.Tensor, log_var: torch.Tensor) -> Independent:
    return Independent(Normal(mu, log_var.exp().sqrt()), 1)


# log_prob


def test_log_prob_is_the_sum_of_the_textbook_log_densities() -> None:
    mu, log_var = example(0, B, J)
    z = randn(K, B, J, seed=2)
    naive = elementwise(lambda z, m, v: normal_log_density(z, m, math.exp(v)), z, mu, log_var).sum(-1)
    assert_close(gaussian.log_prob(z, mu, log_var), naive)


def test_log_prob_equals_the_equation_written_with_log_variances() -> None:
    mu, log_var = example(3, B, J)
    z = randn(B, J, seed=5)
    naive = -0.5 * (math.log(2 * math.pi) + log_var + (z - mu) ** 2 / torch.exp(log_var))
    assert_close(gaussian.log_prob(z, mu, log_var), naive.sum(-1))


def test_log_prob_agrees_with_torch_distributions() -> None:
    mu, log_var = example(6, B, J)
    z = randn(K, B, J, seed=8)
    assert_close(gaussian.log_prob(z, mu, log_var), torch_normal(mu, log_var).log_prob(z))


def test_log_prob_integrates_to_one() -> None:
    """Sum of the density over a fine grid, mean and width far from standard."""
    z = torch.arange(-30, 30, 0.01, dtype=torch.float64).unsqueeze(-1)  # (K, 1)
    mu, log_var = torch.tensor([1.3], dtype=torch.float64), torch.tensor([math.log(4.0)], dtype=torch.float64)
    total = 0.01 * gaussian.log_prob(z, mu, log_var).exp().sum()
    assert_close(total, torch.tensor(1.0, dtype=torch.float64), 1e-10)


# reparameterize


def test_reparameterize_is_mean_plus_standard_deviation_times_noise() -> None:
    mu, log_var = example(9, B, J)
    eps = randn(K, B, J, seed=11)
    naive = elementwise(lambda e, m, v: m + math.sqrt(math.exp(v)) * e, eps, mu, log_var)
    assert_close(gaussian.reparameterize(eps, mu, log_var), naive)


def test_reparameterized_nodes_have_exactly_the_mean_and_the_variance() -> None:
    """Gauss-Hermite nodes in place of noise: first two moments are equalities, and the third central one is 0."""
    nodes, weights = gauss_hermite(5)
    mu, log_var = example(12, B, J)
    z = gaussian.reparameterize(nodes[:, None, :].expand(-1, B, J), mu, log_var)
    assert_close(expectation(z, weights), mu)
    assert_close(expectation((z - mu) ** 2, weights), log_var.exp())
    assert_close(expectation((z - mu) ** 3, weights), torch.zeros(B, J, dtype=torch.float64), 1e-11)


def test_reparameterize_has_the_pathwise_derivatives() -> None:
    """dz/dmu = 1 and dz/dlog_var = sigma eps / 2."""
    mu, log_var = (t.requires_grad_() for t in example(15, B, J))
    eps = randn(B, J, seed=17)
    d_mu, d_log_var = torch.autograd.grad(gaussian.reparameterize(eps, mu, log_var).sum(), (mu, log_var))
    assert_close(d_mu, torch.ones(B, J, dtype=torch.float64))
    assert_close(d_log_var, 0.5 * log_var.detach().exp().sqrt() * eps)


def test_log_prob_of_a_reparameterized_point_is_the_change_of_variables() -> None:
    """log q(z) = log N(eps; 0, I) - sum of log sigma: the density of a pushforward."""
    mu, log_var = example(18, B, J)
    eps = randn(K, B, J, seed=20)
    zeros = torch.zeros(J, dtype=torch.float64)
    pushed = gaussian.log_prob(eps, zeros, zeros) - 0.5 * log_var.sum(-1)
    assert_close(gaussian.log_prob(gaussian.reparameterize(eps, mu, log_var), mu, log_var), pushed)


# sample


def test_sample_moments() -> None:
    """Means and variances of 40,000 draws within 4.5 standard errors.

    The standard error of a mean is sigma / 200 and that of a variance is sqrt(2) sigma^2 / 200, so this notices a mean
    that is off by 0.045 sigma (twice 4.5 standard errors) and a variance that is off by 6.4 %; a variance in place of a
    standard deviation, or a lost 1/2 in exp(log_var / 2), moves these by far more.
    """
    num_samples = 40_000
    mu, log_var = example(21, B, J)
    z = gaussian.sample(mu, log_var, num_samples, generator=torch.Generator().manual_seed(0))
    var = log_var.exp()
    assert ((z.mean(0) - mu).abs() < 4.5 * (var / num_samples).sqrt()).all()
    assert (((z - mu).square().mean(0) - var).abs() < 4.5 * var * math.sqrt(2 / num_samples)).all()


@pytest.mark.parametrize(
    ("mu_shape", "log_var_shape"),
    [((B, J), (B, J)), ((1, J), (B, J)), ((B, J), (1, J)), ((B, J), ()), ((B, J), (B, 1))],
)
def test_sample_draws_fresh_noise_for_every_element(mu_shape: tuple[int, ...], log_var_shape: tuple[int, ...]) -> None:
    """Every pair of the B J coordinates is uncorrelated; the bound is 5 standard errors, shared noise gives 1."""
    num_samples = 4_000
    mu, log_var = torch.zeros(mu_shape), torch.zeros(log_var_shape)
    z = gaussian.sample(mu, log_var, num_samples, generator=torch.Generator().manual_seed(1))
    assert z.shape == (num_samples, B, J)
    correlation = torch.corrcoef(z.reshape(num_samples, -1).T) - torch.eye(B * J)
    assert correlation.abs().max() < 5 / math.sqrt(num_samples)
    successive = (z[1:] * z[:-1]).mean(0)  # across the sample axis too
    assert successive.abs().max() < 5 / math.sqrt(num_samples)


def test_sample_is_reparameterized() -> None:
    """The gradient reaches mu and log_var along the path: 1 and (z - mu) / 2 per draw."""
    mu, log_var = (t.requires_grad_() for t in example(23, B, J))
    z = gaussian.sample(mu, log_var, K, generator=torch.Generator().manual_seed(2))
    d_mu, d_log_var = torch.autograd.grad(z.sum(), (mu, log_var))
    assert_close(d_mu, torch.full((B, J), float(K), dtype=torch.float64))
    assert_close(d_log_var, 0.5 * (z - mu).detach().sum(0))


def test_sample_draws_from_the_given_generator_only() -> None:
    mu, log_var = example(25, B, J)
    before = torch.get_rng_state()
    first = gaussian.sample(mu, log_var, K, generator=torch.Generator().manual_seed(3))
    again = gaussian.sample(mu, log_var, K, generator=torch.Generator().manual_seed(3))
    other = gaussian.sample(mu, log_var, K, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_sample_without_a_generator_follows_the_global_seed() -> None:
    mu, log_var = example(27, B, J)
    draws = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(5)
            draws.append((gaussian.sample(mu, log_var, K), gaussian.sample(mu, log_var, K)))
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[0][1])


def test_sample_advances_the_generator() -> None:
    mu, log_var = example(29, B, J)
    generator = torch.Generator().manual_seed(6)
    first, second = (gaussian.sample(mu, log_var, K, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)


# kl


def test_kl_is_the_sum_of_the_textbook_divergences() -> None:
    (mu_q, log_var_q), (mu_p, log_var_p) = example(31, B, J), example(33, B, J)
    naive = elementwise(
        lambda mq, vq, mp, vp: normal_kl(mq, math.exp(vq), mp, math.exp(vp)), mu_q, log_var_q, mu_p, log_var_p
    )
    assert_close(gaussian.kl(mu_q, log_var_q, mu_p, log_var_p), naive.sum(-1))


def test_kl_equals_the_equation_written_with_log_variances() -> None:
    (mu_q, log_var_q), (mu_p, log_var_p) = example(35, B, J), example(37, B, J)
    naive = 0.5 * (
        log_var_p - log_var_q - 1 + torch.exp(log_var_q - log_var_p) + (mu_q - mu_p) ** 2 / torch.exp(log_var_p)
    )
    assert_close(gaussian.kl(mu_q, log_var_q, mu_p, log_var_p), naive.sum(-1))


def test_kl_agrees_with_torch_distributions() -> None:
    (mu_q, log_var_q), (mu_p, log_var_p) = example(39, B, J), example(41, B, J)
    expected = kl_divergence(torch_normal(mu_q, log_var_q), torch_normal(mu_p, log_var_p))
    assert_close(gaussian.kl(mu_q, log_var_q, mu_p, log_var_p), expected)


def test_kl_is_the_expected_log_ratio() -> None:
    """E_q[log q - log p] with Gauss-Hermite nodes: the integrand is quadratic, so this is an equality."""
    nodes, weights = gauss_hermite(3, 2)
    (mu_q, log_var_q), (mu_p, log_var_p) = example(43, B, 2), example(45, B, 2)
    z = gaussian.reparameterize(nodes[:, None, :].expand(-1, B, -1), mu_q, log_var_q)
    log_ratio = gaussian.log_prob(z, mu_q, log_var_q) - gaussian.log_prob(z, mu_p, log_var_p)
    assert_close(gaussian.kl(mu_q, log_var_q, mu_p, log_var_p), expectation(log_ratio, weights))


def test_kl_is_zero_at_equality_positive_elsewhere_and_not_symmetric() -> None:
    (mu_q, log_var_q), (mu_p, log_var_p) = example(47, 200, J), example(49, 200, J)
    assert_close(gaussian.kl(mu_q, log_var_q, mu_q, log_var_q), torch.zeros(200, dtype=torch.float64))
    forward = gaussian.kl(mu_q, log_var_q, mu_p, log_var_p)
    assert (forward > 0).all()
    assert ((forward - gaussian.kl(mu_p, log_var_p, mu_q, log_var_q)).abs() > 1e-3).any()


def test_kl_has_a_minimum_where_the_two_are_equal() -> None:
    mu, log_var = example(51, B, J)
    for gradient in assert_finite_gradients(gaussian.kl, mu, log_var, mu, log_var):
        assert_close(gradient, torch.zeros(B, J, dtype=torch.float64))


# kl_to_standard_normal


def test_kl_to_standard_normal_equals_its_equation() -> None:
    """1/2 (mu^2 + sigma^2 - 2 log sigma - 1), summed over J."""
    mu, log_var = example(53, B, J)
    naive = elementwise(lambda m, v: 0.5 * (m**2 + math.exp(v) - 2 * math.log(math.sqrt(math.exp(v))) - 1), mu, log_var)
    assert_close(gaussian.kl_to_standard_normal(mu, log_var), naive.sum(-1))


def test_kl_to_standard_normal_is_kl_with_mean_zero_and_variance_one() -> None:
    mu, log_var = example(55, B, J)
    zeros = torch.zeros(J, dtype=torch.float64)
    assert_close(gaussian.kl_to_standard_normal(mu, log_var), gaussian.kl(mu, log_var, zeros, zeros))
    expected = kl_divergence(torch_normal(mu, log_var), torch_normal(torch.zeros_like(mu), torch.zeros_like(mu)))
    assert_close(gaussian.kl_to_standard_normal(mu, log_var), expected)


def test_kl_to_standard_normal_is_the_expected_log_ratio() -> None:
    nodes, weights = gauss_hermite(3, 2)
    mu, log_var = example(57, B, 2)
    z = gaussian.reparameterize(nodes[:, None, :].expand(-1, B, -1), mu, log_var)
    zeros = torch.zeros(2, dtype=torch.float64)
    log_ratio = gaussian.log_prob(z, mu, log_var) - gaussian.log_prob(z, zeros, zeros)
    assert_close(gaussian.kl_to_standard_normal(mu, log_var), expectation(log_ratio, weights))


def test_kl_to_standard_normal_has_the_textbook_gradient() -> None:
    """d/dmu = mu and d/dlog_var = (sigma^2 - 1) / 2."""
    mu, log_var = example(59, B, J)
    d_mu, d_log_var = assert_finite_gradients(gaussian.kl_to_standard_normal, mu, log_var)
    assert_close(d_mu, mu)
    assert_close(d_log_var, 0.5 * (log_var.exp() - 1))


# entropy


def test_entropy_equals_its_equation_and_torch_distributions() -> None:
    """1/2 log(2 pi e sigma^2), summed over J."""
    _, log_var = example(61, B, J)
    naive = elementwise(lambda v: 0.5 * math.log(2 * math.pi * math.e * math.exp(v)), log_var)
    assert_close(gaussian.entropy(log_var), naive.sum(-1))
    assert_close(gaussian.entropy(log_var), torch_normal(torch.zeros_like(log_var), log_var).entropy())


def test_entropy_is_minus_the_expected_log_density() -> None:
    nodes, weights = gauss_hermite(3, 2)
    mu, log_var = example(63, B, 2)
    z = gaussian.reparameterize(nodes[:, None, :].expand(-1, B, -1), mu, log_var)
    assert_close(gaussian.entropy(log_var), -expectation(gaussian.log_prob(z, mu, log_var), weights))


def test_kl_is_cross_entropy_minus_entropy() -> None:
    nodes, weights = gauss_hermite(3)
    (mu_q, log_var_q), (mu_p, log_var_p) = example(65, B, 1), example(67, B, 1)
    z = gaussian.reparameterize(nodes[:, None, :].expand(-1, B, -1), mu_q, log_var_q)
    cross_entropy = -expectation(gaussian.log_prob(z, mu_p, log_var_p), weights)
    assert_close(gaussian.kl(mu_q, log_var_q, mu_p, log_var_p), cross_entropy - gaussian.entropy(log_var_q))


# shapes, broadcasting, dtypes


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_keep_the_dtype_and_sum_over_the_last_axis_only(dtype: torch.dtype) -> None:
    mu, log_var = (t.to(dtype) for t in example(69, B, J))
    z = randn(K, B, J, seed=71, dtype=dtype)
    results = {
        "log_prob": (gaussian.log_prob(z, mu, log_var), (K, B)),
        "log_prob without K": (gaussian.log_prob(z[0], mu, log_var), (B,)),
        "log_prob of one point": (gaussian.log_prob(z[0, 0], mu[0], log_var[0]), ()),
        "reparameterize": (gaussian.reparameterize(z, mu, log_var), (K, B, J)),
        "sample": (gaussian.sample(mu, log_var, K, generator=torch.Generator().manual_seed(0)), (K, B, J)),
        "sample without B": (gaussian.sample(mu[0], log_var[0], 7, generator=torch.Generator().manual_seed(0)), (7, J)),
        "kl": (gaussian.kl(mu, log_var, mu + 1, log_var), (B,)),
        "kl with K": (gaussian.kl(z, log_var, mu, log_var), (K, B)),
        "kl_to_standard_normal": (gaussian.kl_to_standard_normal(mu, log_var), (B,)),
        "kl_to_standard_normal of one": (gaussian.kl_to_standard_normal(mu[0], log_var[0]), ()),
        "entropy": (gaussian.entropy(log_var), (B,)),
        "entropy with K": (gaussian.entropy(z), (K, B)),
    }
    for name, (result, shape) in results.items():
        assert result.shape == shape, name
        assert result.dtype == dtype, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_log_variances_count_once_per_dimension(dtype: torch.dtype) -> None:
    """A log-variance shared by all J dimensions (0-d, or last axis 1) still stands J times in the sum."""
    mu, z = randn(B, J, seed=72, dtype=dtype), randn(K, B, J, seed=73, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for log_var in (torch.tensor(0.7, dtype=dtype), torch.full((1,), 0.7, dtype=dtype), randn(B, 1, seed=74).to(dtype)):
        full = log_var.expand(B, J)
        assert_close(gaussian.log_prob(z, mu, log_var), gaussian.log_prob(z, mu, full), tolerance)
        assert_close(gaussian.reparameterize(z, mu, log_var), gaussian.reparameterize(z, mu, full), tolerance)
        assert_close(gaussian.kl_to_standard_normal(mu, log_var), gaussian.kl_to_standard_normal(mu, full), tolerance)
        assert_close(gaussian.kl(mu, log_var, z, full), gaussian.kl(mu, full, z, full), tolerance)
        assert_close(gaussian.kl(z, full, mu, log_var), gaussian.kl(z, full, mu, full), tolerance)
        same = [gaussian.sample(mu, v, K, generator=torch.Generator().manual_seed(0)) for v in (log_var, full)]
        assert_close(*same, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kl_broadcasts_one_mean_over_the_batch(dtype: torch.dtype) -> None:
    """A prior of shape (J,) serves every row of a (B, J) posterior; the two log-variances may be scalars."""
    mu, log_var = (t.to(dtype) for t in example(75, B, J))
    m, v = randn(J, seed=76, dtype=dtype), torch.tensor(-0.4, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    full = (m.expand(B, J), v.expand(B, J))
    assert_close(gaussian.kl(mu, log_var, m, v), gaussian.kl(mu, log_var, *full), tolerance)
    assert_close(gaussian.kl(m, v, mu, log_var), gaussian.kl(*full, mu, log_var), tolerance)


# extreme inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extreme", [-60.0, 60.0])
def test_extreme_log_variances_give_finite_values_and_gradients(extreme: float, dtype: torch.dtype) -> None:
    mu, z = randn(B, J, seed=77, dtype=dtype), randn(B, J, seed=78, dtype=dtype)
    log_var = torch.full((B, J), extreme, dtype=dtype)
    zeros = torch.zeros_like(mu)
    assert_finite_gradients(gaussian.log_prob, z, mu, log_var)
    assert_finite_gradients(gaussian.reparameterize, z, mu, log_var)
    assert_finite_gradients(gaussian.kl, mu, log_var, z, zeros)
    assert_finite_gradients(gaussian.kl, mu, zeros, z, log_var)
    assert_finite_gradients(gaussian.kl, mu, log_var, z, log_var)
    assert_finite_gradients(gaussian.kl_to_standard_normal, mu, log_var)
    assert_finite_gradients(gaussian.entropy, log_var)
    generator = torch.Generator().manual_seed(0)
    assert_finite_gradients(lambda m, v: gaussian.sample(m, v, K, generator=generator), mu, log_var)


@pytest.mark.parametrize("extreme", [-60.0, 60.0])
def test_extreme_log_variances_give_the_right_values(extreme: float) -> None:
    mu, z = randn(B, J, seed=79), randn(B, J, seed=80)
    log_var = torch.full((B, J), extreme, dtype=torch.float64)
    other = -log_var  # for the KL: a ratio of variances of e^120
    variance = math.exp(extreme)
    log_density = elementwise(lambda z, m: normal_log_density(z, m, variance), z, mu).sum(-1)
    assert_close(gaussian.log_prob(z, mu, log_var), log_density)
    divergence = elementwise(lambda m, n: normal_kl(m, variance, n, 1 / variance), mu, z).sum(-1)
    assert_close(gaussian.kl(mu, log_var, z, other), divergence)
    to_standard = elementwise(lambda m: normal_kl(m, variance, 0.0, 1.0), mu).sum(-1)
    assert_close(gaussian.kl_to_standard_normal(mu, log_var), to_standard)


def test_kl_and_entropy_do_not_pass_through_the_standard_deviation() -> None:
    """At log_var = -300 the variance and even sigma are 0 in float32; the logarithm must not be taken of them."""
    log_var = torch.full((1, 2), -300.0)
    zeros = torch.zeros(1, 2)
    assert gaussian.kl_to_standard_normal(zeros, log_var).item() == pytest.approx(299.0)
    assert gaussian.kl(zeros, log_var, zeros, zeros).item() == pytest.approx(299.0)
    assert gaussian.entropy(log_var).item() == pytest.approx(math.log(2 * math.pi * math.e) - 300, rel=1e-6)


def test_kl_keeps_its_digits_near_zero() -> None:
    """Log-variances that differ by r = 1e-6: the KL is r^2 / 4 + r^3 / 12 + ..., and exp(r) - 1 - r would lose it."""
    r, zero = 1e-6, torch.zeros(1, dtype=torch.float64)
    expected = pytest.approx(r**2 / 4 + r**3 / 12, rel=1e-8, abs=0)
    assert gaussian.kl(zero, zero + r, zero, zero).item() == expected
    assert gaussian.kl_to_standard_normal(zero, zero + r).item() == expected


def test_log_prob_far_in_the_tail_does_not_underflow() -> None:
    """exp(log_prob) is 0 here; log_prob itself is not -inf."""
    z, zeros = torch.full((1, 1), 1e4), torch.zeros(1, 1)
    assert gaussian.log_prob(z, zeros, zeros).item() == pytest.approx(-5e7, rel=1e-5)


# bad input


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


def test_log_prob_refuses_mismatched_shapes() -> None:
    assert_refused(lambda: gaussian.log_prob(zeros(B, 4), zeros(B, 5), zeros(B, 5)), "z", "mu", (B, 4), (B, 5))
    assert_refused(lambda: gaussian.log_prob(zeros(B, 5), zeros(B, 5), zeros(B, 4)), "log_var", (B, 4), (B, 5))
    assert_refused(lambda: gaussian.log_prob(zeros(K, B, 5), zeros(2, 5), zeros(2, 5)), "z", "mu", (K, B, 5), (2, 5))
    # what broadcasting would hide: one mean for all J, or one z for all J
    assert_refused(lambda: gaussian.log_prob(zeros(B, 5), zeros(B, 1), zeros(B, 5)), "z", "mu", (B, 5), (B, 1))
    assert_refused(lambda: gaussian.log_prob(zeros(B, 1), zeros(B, 5), zeros(B, 5)), "z", "mu", (B, 1), (B, 5))


def test_reparameterize_refuses_mismatched_shapes() -> None:
    assert_refused(lambda: gaussian.reparameterize(zeros(B, 4), zeros(B, 5), zeros(B, 5)), "eps", "mu", (B, 4), (B, 5))
    assert_refused(lambda: gaussian.reparameterize(zeros(B, 1), zeros(B, 5), zeros(B, 5)), "eps", "mu", (B, 1), (B, 5))
    assert_refused(lambda: gaussian.reparameterize(zeros(B, 5), zeros(B, 1), zeros(B, 5)), "eps", "mu", (B, 5), (B, 1))
    assert_refused(lambda: gaussian.reparameterize(zeros(B, 5), zeros(B, 5), zeros(B, 3)), "log_var", (B, 5), (B, 3))
    assert_refused(lambda: gaussian.reparameterize(zeros(K, 2, 5), zeros(B, 5), zeros(B, 5)), "eps", "mu", (K, 2, 5))


def test_sample_refuses_mismatched_shapes_and_no_samples() -> None:
    assert_refused(lambda: gaussian.sample(zeros(B, 5), zeros(B, 4), K), "mu", "log_var", (B, 5), (B, 4))
    assert_refused(lambda: gaussian.sample(zeros(B, 1), zeros(B, 4), K), "mu", "log_var", (B, 1), (B, 4))
    assert_refused(lambda: gaussian.sample(zeros(2, 5), zeros(B, 5), K), "mu", "log_var", (2, 5), (B, 5))
    assert_refused(lambda: gaussian.sample(zeros(B, J), zeros(B, J), 0), "num_samples", "0")
    assert_refused(lambda: gaussian.sample(zeros(B, J), zeros(B, J), -1), "num_samples", "-1")


def test_kl_refuses_mismatched_shapes() -> None:
    a, b = zeros(B, 5), zeros(B, 4)
    assert_refused(lambda: gaussian.kl(a, a, b, b), "mu_q", "mu_p", (B, 5), (B, 4))
    assert_refused(lambda: gaussian.kl(a, b, a, a), "log_var_q", (B, 5), (B, 4))
    assert_refused(lambda: gaussian.kl(a, a, a, b), "log_var_p", (B, 5), (B, 4))
    assert_refused(lambda: gaussian.kl(a, a, zeros(2, 5), zeros(2, 5)), "mu_q", "mu_p", (B, 5), (2, 5))
    assert_refused(lambda: gaussian.kl(a, a, zeros(1), zeros(1)), "mu_q", "mu_p", (B, 5), (1,))


def test_kl_to_standard_normal_refuses_mismatched_shapes() -> None:
    assert_refused(lambda: gaussian.kl_to_standard_normal(zeros(B, 5), zeros(B, 4)), "mu", "log_var", (B, 5), (B, 4))
    assert_refused(lambda: gaussian.kl_to_standard_normal(zeros(B, 1), zeros(B, 4)), "mu", "log_var", (B, 1), (B, 4))
    assert_refused(lambda: gaussian.kl_to_standard_normal(zeros(2, 5), zeros(B, 5)), "mu", "log_var", (2, 5), (B, 5))


def test_a_scalar_has_no_number_of_dimensions() -> None:
    """What is summed over J must say how long J is: a scalar mean would count one dimension for many."""
    scalar = torch.zeros(())
    assert_refused(lambda: gaussian.entropy(scalar), "log_var", ())
    assert_refused(lambda: gaussian.log_prob(zeros(B, J), scalar, zeros(B, J)), "mu", (), (B, J))
    assert_refused(lambda: gaussian.kl(zeros(B, J), zeros(B, J), scalar, scalar), "mu_p", (), (B, J))
    assert_refused(lambda: gaussian.kl_to_standard_normal(scalar, zeros(B, J)), "mu", (), (B, J))
    assert_refused(lambda: gaussian.sample(scalar, zeros(J), K), "mu", (), (J,))


# far out in single precision


@pytest.mark.parametrize("log_var", [-60.0, -88.5, -100.0, -1000.0])
def test_at_the_mean_the_smallest_variances_give_what_they_give_in_truth(log_var: float) -> None:
    """In single precision exp(88.8) is infinite, and 0 times infinity no number."""
    zero, v = torch.zeros(1, 2), torch.full((1, 2), log_var)
    assert gaussian.log_prob(zero, zero, v).item() == pytest.approx(-math.log(2 * math.pi) - log_var)
    assert gaussian.kl(zero, v, zero, v).item() == 0
    assert_finite_gradients(gaussian.log_prob, zero, zero, v)
    assert_finite_gradients(gaussian.kl, zero, v, zero, v)
    (slope,) = torch.autograd.grad(gaussian.log_prob(zero, zero, w := v.clone().requires_grad_()).sum(), w)
    assert slope.tolist() == [[-0.5, -0.5]]


def test_the_precision_is_the_inverse_variance_and_finite() -> None:
    for dtype in (torch.float32, torch.float64):
        log_var = torch.linspace(-80, 80, 33, dtype=dtype)
        assert torch.equal(gaussian.precision(log_var), torch.exp(-log_var))
        assert gaussian.precision(torch.tensor([-1e4, 1e4], dtype=dtype)).isfinite().all()


def test_one_sample_is_drawn_on_the_means_device() -> None:
    """On "meta", where tensors hold no values: noise from another device could not be added."""
    mu, log_var = torch.zeros(3, 2, device="meta"), torch.zeros(3, 2, device="meta")
    z = gaussian.sample(mu, log_var, 1)
    assert z.shape == (1, 3, 2)
    assert z.device.type == "meta"
