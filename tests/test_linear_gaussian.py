"""linear_gaussian: factor analysis against Bayes' rule on a grid, quadrature, scipy's optimiser and textbook formulas."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from oracles import (
    assert_close,
    assert_finite_gradients,
    assert_refused,
    elementwise,
    expectation,
    gauss_hermite,
    normal_log_density,
    randn,
    trapezoid_grid,
)
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import vae_tutorial
from vae_tutorial import bounds, gaussian, linear_gaussian
from vae_tutorial.linear_gaussian import FactorAnalysis

DTYPES = [torch.float32, torch.float64]
LATENTS = [1, 2]
B, D = 7, 5
MARKS = torch.tensor(
    np.loadtxt(Path(vae_tutorial.__file__).parent / "datasets" / "exam_marks.csv", delimiter=",", skiprows=1)
)  # (88, 5)


def factor_analysis(num_latents: int, seed: int = 0, num_dims: int = D) -> FactorAnalysis:
    """A model with weights and noise of order one, no two entries alike."""
    return FactorAnalysis(
        weight=randn(num_dims, num_latents, seed=seed),
        bias=randn(num_dims, seed=seed + 1),
        log_var=0.7 * randn(num_dims, seed=seed + 2) - 0.3,
    )


def marks_model(num_latents: int, seed: int = 0) -> FactorAnalysis:
    """A model on the scale of the marks and not fitted to them."""
    return FactorAnalysis(
        weight=6 + 4 * randn(D, num_latents, seed=seed),
        bias=MARKS.mean(0) + randn(D, seed=seed + 1),
        log_var=MARKS.var(0).log() - 1 + 0.3 * randn(D, seed=seed + 2),
    )


def data(seed: int = 10, num_dims: int = D, num_data: int = B) -> Tensor:
    return 2 * randn(num_data, num_dims, seed=seed)


def marginal(model: FactorAnalysis) -> MultivariateNormal:
    """p(x) = N(b, W W^T + Psi)."""
    return MultivariateNormal(model.bias, model.weight @ model.weight.T + torch.diag(model.log_var.exp()))


def true_posterior(model: FactorAnalysis, x: Tensor) -> MultivariateNormal:
    """By conditioning the joint Gaussian on x: W^T S^-1 (x - b) and I - W^T S^-1 W, S = W W^T + Psi."""
    gain = model.weight.T @ torch.linalg.inv(marginal(model).covariance_matrix)  # (J, D)
    identity = torch.eye(model.weight.shape[1], dtype=x.dtype)
    return MultivariateNormal((x - model.bias) @ gain.T, identity - gain @ model.weight)


def shared_covariance(distribution: MultivariateNormal) -> Tensor:
    """The one covariance (J, J) of a batch of Gaussians that differ only in their mean."""
    covariance = distribution.covariance_matrix
    return covariance.flatten(0, -3)[0] if covariance.dim() > 2 else covariance


def naive_log_joint(model: FactorAnalysis, x: Tensor, z: Tensor) -> Tensor:
    """log N(z; 0, I) + log N(x; W z + b, Psi) for z (K, J) and x (B, D), term by term: (K, B)."""
    mean = z @ model.weight.T + model.bias  # (K, D)
    prior = -0.5 * (math.log(2 * math.pi) + z**2).sum(-1)  # (K,)
    noise = (x - mean[:, None]) ** 2 / model.log_var.exp()  # (K, B, D)
    return prior[:, None] - 0.5 * (math.log(2 * math.pi) + model.log_var + noise).sum(-1)


def diagonal(num_data: int, num_latents: int, seed: int) -> tuple[Tensor, Tensor]:
    """The parameters of a diagonal Gaussian q for every data point."""
    return 2 * randn(num_data, num_latents, seed=seed), randn(num_data, num_latents, seed=seed + 1)


def reparameterized_nodes(mu: Tensor, log_var: Tensor, num_nodes: int = 3) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite points (K, B, J) of q, with their weights (K,)."""
    nodes, weights = gauss_hermite(num_nodes, mu.shape[-1])
    return mu + (0.5 * log_var).exp() * nodes[:, None], weights


# log_joint


@pytest.mark.parametrize("num_latents", LATENTS)
def test_log_joint_is_the_prior_times_the_likelihood(num_latents: int) -> None:
    model, x, z = factor_analysis(num_latents), data(num_data=3), randn(2, 3, num_latents, seed=20)
    naive = torch.empty(2, 3, dtype=torch.float64)
    for k in range(2):
        for b in range(3):
            total = sum(normal_log_density(z[k, b, j].item(), 0.0, 1.0) for j in range(num_latents))
            for d in range(D):
                mean = model.bias[d] + sum(model.weight[d, j] * z[k, b, j] for j in range(num_latents))
                total += normal_log_density(x[b, d].item(), mean.item(), math.exp(model.log_var[d].item()))
            naive[k, b] = total
    assert_close(linear_gaussian.log_joint(model, x, z), naive)


def test_log_joint_takes_one_latent_per_data_point_or_many() -> None:
    model, x, z = factor_analysis(2), data(), randn(3, 4, B, 2, seed=21)
    many = linear_gaussian.log_joint(model, x, z)
    assert many.shape == (3, 4, B)
    assert_close(linear_gaussian.log_joint(model, x, z[1, 2]), many[1, 2])
    assert_close(linear_gaussian.log_joint(model, x, z[1]), many[1])


def test_log_joint_takes_latents_shared_by_all_data_points() -> None:
    """z (K, 1, J), such as draws from the prior, against every x: (K, B)."""
    model, x, z = factor_analysis(2), data(), randn(4, 1, 2, seed=19)
    value = linear_gaussian.log_joint(model, x, z)
    assert_close(value, naive_log_joint(model, x, z[:, 0]))
    assert_close(value, linear_gaussian.log_joint(model, x, z.expand(4, B, 2)))


# log_evidence


@pytest.mark.parametrize("num_latents", [1, 2, 4, 6])
def test_evidence_is_the_marginal_gaussian(num_latents: int) -> None:
    model, x = factor_analysis(num_latents), data()
    assert_close(linear_gaussian.log_evidence(model, x), marginal(model).log_prob(x), 1e-11)


@pytest.mark.parametrize(("num_latents", "step"), [(1, 0.02), (2, 0.1)])
def test_evidence_is_the_integral_of_the_joint(num_latents: int, step: float) -> None:
    """log p(x) = log of the integral of p(x, z) over z, by a sum over a fine grid."""
    model, x = factor_analysis(num_latents, seed=3), data(11, num_data=4)
    grid, cell = trapezoid_grid(num_latents, 9.0, step)
    by_quadrature = naive_log_joint(model, x, grid).logsumexp(0) + math.log(cell)
    assert_close(linear_gaussian.log_evidence(model, x), by_quadrature, 1e-11)


def test_evidence_of_the_marks() -> None:
    for num_latents in LATENTS:
        model = marks_model(num_latents)
        assert_close(linear_gaussian.log_evidence(model, MARKS), marginal(model).log_prob(MARKS), 1e-11)


def test_evidence_does_not_change_when_the_latent_space_is_rotated() -> None:
    model, x = factor_analysis(2), data()
    c, s = math.cos(0.7), math.sin(0.7)
    rotated = model._replace(weight=model.weight @ torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    assert_close(linear_gaussian.log_evidence(rotated, x), linear_gaussian.log_evidence(model, x), 1e-11)


# posterior


@pytest.mark.parametrize("num_latents", [1, 2, 4])
def test_posterior_equals_the_precision_formula_and_conditioning(num_latents: int) -> None:
    """Covariance (I + W^T Psi^-1 W)^-1 and mean (covariance) W^T Psi^-1 (x - b)."""
    model, x = factor_analysis(num_latents), data()
    result = linear_gaussian.posterior(model, x)
    psi_inverse = torch.diag((-model.log_var).exp())
    precision = torch.eye(num_latents, dtype=torch.float64) + model.weight.T @ psi_inverse @ model.weight
    covariance = torch.linalg.inv(precision)
    assert_close(result.covariance, covariance, 1e-11)
    for b in range(B):
        assert_close(result.mean[b], covariance @ model.weight.T @ psi_inverse @ (x[b] - model.bias), 1e-11)
    conditioned = true_posterior(model, x)
    assert_close(result.mean, conditioned.mean, 1e-11)
    assert_close(result.covariance, shared_covariance(conditioned), 1e-11)


@pytest.mark.parametrize(("num_latents", "step"), [(1, 0.02), (2, 0.1)])
def test_posterior_has_the_moments_of_bayes_rule_on_a_grid(num_latents: int, step: float) -> None:
    model, x = factor_analysis(num_latents, seed=3), data(11, num_data=4)
    grid, _ = trapezoid_grid(num_latents, 9.0, step)
    probability = naive_log_joint(model, x, grid).softmax(0)  # (K, B): p(x, z) / p(x), cell by cell
    result = linear_gaussian.posterior(model, x)
    mean = torch.einsum("kb,kj->bj", probability, grid)
    assert_close(result.mean, mean, 1e-11)
    for b in range(4):
        centred = grid - mean[b]
        covariance = torch.einsum("k,ki,kj->ij", probability[:, b], centred, centred)
        assert_close(result.covariance, covariance, 1e-11)


@pytest.mark.parametrize("num_latents", LATENTS)
def test_posterior_is_the_joint_over_the_evidence_at_every_point(num_latents: int) -> None:
    model, x, z = factor_analysis(num_latents), data(), 2 * randn(9, B, num_latents, seed=22)
    result = linear_gaussian.posterior(model, x)
    log_posterior = MultivariateNormal(result.mean, result.covariance).log_prob(z)
    log_ratio = linear_gaussian.log_joint(model, x, z) - linear_gaussian.log_evidence(model, x)
    assert_close(log_posterior, log_ratio, 1e-11)


# elbo and kl_to_posterior


@pytest.mark.parametrize("num_latents", LATENTS)
def test_elbo_is_the_expected_log_ratio(num_latents: int) -> None:
    """E_q[log p(x, z) - log q(z)] with Gauss-Hermite nodes: a quadratic integrand, so this is an equality."""
    model, x = factor_analysis(num_latents), data()
    mu, log_var = diagonal(B, num_latents, seed=23)
    z, weights = reparameterized_nodes(mu, log_var)
    log_w = linear_gaussian.log_joint(model, x, z) - gaussian.log_prob(z, mu, log_var)
    assert_close(linear_gaussian.elbo(model, x, mu, log_var), expectation(log_w, weights), 1e-12)


@pytest.mark.parametrize("num_latents", LATENTS)
def test_elbo_from_the_ground_up(num_latents: int) -> None:
    """The same, with none of the package's functions on the right-hand side, one student and one node at a time."""
    model, x = factor_analysis(num_latents, seed=4), data(12, num_data=2)
    mu, log_var = diagonal(2, num_latents, seed=25)
    z, weights = reparameterized_nodes(mu, log_var)
    for b in range(2):
        log_q = elementwise(lambda z, m, v: normal_log_density(z, m, math.exp(v)), z[:, b], mu[b], log_var[b]).sum(-1)
        log_w = naive_log_joint(model, x[b : b + 1], z[:, b])[:, 0] - log_q
        assert_close(linear_gaussian.elbo(model, x, mu, log_var)[b], expectation(log_w, weights), 1e-12)


@pytest.mark.parametrize("num_latents", LATENTS)
def test_elbo_is_reconstruction_minus_kl_and_energy_plus_entropy(num_latents: int) -> None:
    model, x = factor_analysis(num_latents), data()
    mu, log_var = diagonal(B, num_latents, seed=27)
    z, weights = reparameterized_nodes(mu, log_var)
    zeros = torch.zeros(num_latents, dtype=torch.float64)
    log_joint = linear_gaussian.log_joint(model, x, z)
    value = linear_gaussian.elbo(model, x, mu, log_var)
    reconstruction = expectation(log_joint - gaussian.log_prob(z, zeros, zeros), weights)
    assert_close(value, reconstruction - gaussian.kl_to_standard_normal(mu, log_var), 1e-12)
    assert_close(value, expectation(log_joint, weights) + gaussian.entropy(log_var), 1e-12)


@pytest.mark.parametrize("num_latents", [1, 2, 4])
def test_kl_to_posterior_agrees_with_torch_distributions(num_latents: int) -> None:
    model, x = factor_analysis(num_latents), data()
    mu, log_var = diagonal(B, num_latents, seed=29)
    q = MultivariateNormal(mu, torch.diag_embed(log_var.exp()))
    expected = kl_divergence(q, true_posterior(model, x))
    assert_close(linear_gaussian.kl_to_posterior(model, x, mu, log_var), expected, 1e-11)


@pytest.mark.parametrize("num_latents", LATENTS)
def test_kl_to_posterior_is_the_expected_log_ratio(num_latents: int) -> None:
    model, x = factor_analysis(num_latents), data()
    mu, log_var = diagonal(B, num_latents, seed=31)
    z, weights = reparameterized_nodes(mu, log_var)
    log_ratio = gaussian.log_prob(z, mu, log_var) - true_posterior(model, x).log_prob(z)
    assert_close(linear_gaussian.kl_to_posterior(model, x, mu, log_var), expectation(log_ratio, weights), 1e-11)


@pytest.mark.parametrize("num_latents", LATENTS)
def test_kl_to_posterior_is_never_negative(num_latents: int) -> None:
    model, x = factor_analysis(num_latents), data(13, num_data=300)
    mu, log_var = diagonal(300, num_latents, seed=33)
    assert (linear_gaussian.kl_to_posterior(model, x, mu, log_var) > 0).all()


def test_best_diagonal_q_leaves_the_mean_field_gap() -> None:
    """With two latents the best diagonal q has the posterior's mean and the inverse diagonal of its precision.

    There its gradient is zero and the gap left is (log det diag(P) - log det P) / 2, more than nothing.
    """
    model, x = factor_analysis(2, seed=5), data()
    exact = linear_gaussian.posterior(model, x)
    precision = torch.linalg.inv(exact.covariance)
    log_var = -precision.diagonal().log().expand(B, 2)
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert gap > 0.01
    assert_close(linear_gaussian.kl_to_posterior(model, x, exact.mean, log_var), gap.expand(B), 1e-11)
    for gradient in assert_finite_gradients(lambda m, v: linear_gaussian.elbo(model, x, m, v), exact.mean, log_var):
        assert_close(gradient, torch.zeros(B, 2, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize("num_latents", LATENTS)
@pytest.mark.parametrize(("distance", "log_var"), [(0.0, 0.0), (0.3, -2.0), (3.0, 1.5), (10.0, -6.0), (10.0, 4.0)])
def test_the_identity_on_every_student(num_latents: int, distance: float, log_var: float) -> None:
    """log p(x) = ELBO + KL(q || p(z given x)) for the 88 students, q from near the posterior to far from it.

    The ELBO falls below -1,000 nats when q is far, where float64 still has a spacing of 2e-13.
    """
    model = marks_model(num_latents)
    exact = linear_gaussian.posterior(model, MARKS)
    mu = exact.mean + distance * randn(88, num_latents, seed=35)
    spread = log_var + 0.2 * randn(88, num_latents, seed=36)
    lower = linear_gaussian.elbo(model, MARKS, mu, spread)
    gap = linear_gaussian.kl_to_posterior(model, MARKS, mu, spread)
    error = (linear_gaussian.log_evidence(model, MARKS) - (lower + gap)).abs()
    assert error.shape == (88,)
    assert error.max() < 1e-10
    assert (gap > 0).all()


def test_the_identity_at_the_posterior() -> None:
    """With one ability q can be the posterior: the gap closes and the ELBO is the evidence."""
    model = marks_model(1)
    exact = linear_gaussian.posterior(model, MARKS)
    log_var = exact.covariance.diagonal().log().expand(88, 1)
    zero = torch.zeros(88, dtype=torch.float64)
    assert_close(linear_gaussian.kl_to_posterior(model, MARKS, exact.mean, log_var), zero, 1e-12)
    lower = linear_gaussian.elbo(model, MARKS, exact.mean, log_var)
    assert (lower - linear_gaussian.log_evidence(model, MARKS)).abs().max() < 1e-10


def test_log_weights_at_the_posterior_are_constant() -> None:
    """At the exact posterior every log-weight is log p(x), whatever z is; all bounds agree and no sample is wasted."""
    model = marks_model(1)
    exact = linear_gaussian.posterior(model, MARKS)
    log_var = exact.covariance.diagonal().log().expand(88, 1)
    z = gaussian.sample(exact.mean, log_var, 50, generator=torch.Generator().manual_seed(0))
    log_w = linear_gaussian.log_joint(model, MARKS, z) - gaussian.log_prob(z, exact.mean, log_var)  # (50, 88)
    evidence = linear_gaussian.log_evidence(model, MARKS)
    assert (log_w - evidence).abs().max() < 1e-10
    assert (bounds.elbo(log_w) - evidence).abs().max() < 1e-10
    assert (bounds.iwae(log_w) - evidence).abs().max() < 1e-10
    assert_close(bounds.effective_sample_size(log_w), torch.full((88,), 50.0, dtype=torch.float64), 1e-9)


def test_log_weights_away_from_the_posterior_average_to_the_evidence() -> None:
    """exp of the log-weights has mean p(x) under a q wider than the posterior: by quadrature, an equality."""
    model, x = factor_analysis(1, seed=3), data(11, num_data=4)
    mu, log_var = 0.5 * randn(4, 1, seed=37), torch.full((4, 1), 0.5, dtype=torch.float64)
    grid, cell = trapezoid_grid(1, 12.0, 0.02)
    z = grid[:, None].expand(-1, 4, -1)
    log_q = gaussian.log_prob(z, mu, log_var)
    log_w = linear_gaussian.log_joint(model, x, z) - log_q
    mean_weight = (log_q + log_w).logsumexp(0) + math.log(cell)
    assert_close(mean_weight, linear_gaussian.log_evidence(model, x), 1e-11)


def test_a_grid_of_q_gives_a_grid_of_values() -> None:
    """mu (G, B, J) gives (G, B), and a log-variance shared by all coordinates counts once for each."""
    model, x, mu = factor_analysis(2), data(), randn(6, B, 2, seed=38)
    shared = torch.tensor(-0.7, dtype=torch.float64)
    for function in (linear_gaussian.elbo, linear_gaussian.kl_to_posterior):
        value = function(model, x, mu, shared)
        assert value.shape == (6, B)
        assert_close(value[4], function(model, x, mu[4], shared.expand(B, 2)))


# sample


@pytest.mark.parametrize("num_latents", LATENTS)
def test_sample_moments(num_latents: int) -> None:
    """First and second moments of 40,000 draws of (z, x) within 4.5 standard errors, by the joint Gaussian's formulas.

    With this N a standard error of a mean is 0.5 % of a standard deviation, and of a covariance at most 0.7 % of
    the product of the two standard deviations: an error of 5 % of a standard deviation in b, or of 6 % of the product in
    W, W W^T or Psi, is found. A variance in place of a standard deviation, or one z shared by all x, is far larger.
    """
    model, num_samples = factor_analysis(num_latents, seed=5), 40_000
    z, x = linear_gaussian.sample(model, num_samples, generator=torch.Generator().manual_seed(0))
    assert z.shape == (num_samples, num_latents)
    assert x.shape == (num_samples, D)
    joint = torch.cat([z, x], 1)  # (N, J + D)
    mean = torch.cat([torch.zeros(num_latents, dtype=torch.float64), model.bias])
    weight, psi = model.weight, torch.diag(model.log_var.exp())
    identity = torch.eye(num_latents, dtype=torch.float64)
    covariance = torch.cat([torch.cat([identity, weight.T], 1), torch.cat([weight, weight @ weight.T + psi], 1)])
    variances = covariance.diagonal()
    assert ((joint.mean(0) - mean).abs() < 4.5 * (variances / num_samples).sqrt()).all()
    centred = joint - mean
    standard_error = ((torch.outer(variances, variances) + covariance**2) / num_samples).sqrt()
    assert ((centred.T @ centred / num_samples - covariance).abs() < 4.5 * standard_error).all()


@pytest.mark.parametrize("num_latents", LATENTS)
def test_sample_noise_is_independent_of_the_latent(num_latents: int) -> None:
    """The residual x - (W z + b) of 40,000 draws has covariance Psi and none with z, within 4.5 standard errors.

    An entry of the residual's covariance is known to 0.7 % of the product of standard deviations: an error of 6 % is found.
    """
    model, num_samples = factor_analysis(num_latents, seed=6), 40_000
    z, x = linear_gaussian.sample(model, num_samples, generator=torch.Generator().manual_seed(1))
    noise = torch.cat([z, (x - z @ model.weight.T - model.bias) * (-0.5 * model.log_var).exp()], 1)
    identity = torch.eye(num_latents + D, dtype=torch.float64)
    assert (noise.T @ noise / num_samples - identity).abs().max() < 4.5 * math.sqrt(2 / num_samples)


def test_sample_is_set_by_its_generator() -> None:
    model = factor_analysis(2)
    before = torch.get_rng_state()
    first = linear_gaussian.sample(model, 4, generator=torch.Generator().manual_seed(2))
    again = linear_gaussian.sample(model, 4, generator=torch.Generator().manual_seed(2))
    other = linear_gaussian.sample(model, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


# EM


def mean_evidence(model: FactorAnalysis, x: Tensor) -> Tensor:
    return marginal(model).log_prob(x).mean()


def expected_log_joint(model: FactorAnalysis, x: Tensor, at: FactorAnalysis) -> Tensor:
    """The mean over x of E log p(x, z; model) with z from the posterior of another model: what the M-step maximises."""
    q = true_posterior(at, x)
    nodes, weights = gauss_hermite(3, at.weight.shape[1])
    z = q.mean + (nodes @ torch.linalg.cholesky(shared_covariance(q)).T)[:, None]  # (K, B, J)
    mean = z @ model.weight.T + model.bias
    noise = (x - mean) ** 2 / model.log_var.exp()
    log_joint = -0.5 * (math.log(2 * math.pi) + z**2).sum(-1)
    log_joint = log_joint - 0.5 * (math.log(2 * math.pi) + model.log_var + noise).sum(-1)
    return expectation(log_joint, weights).mean()


def naive_em_step(model: FactorAnalysis, x: Tensor) -> FactorAnalysis:
    """The textbook's EM step for centred data, one student after another, with explicit inverses."""
    num_data, num_dims = x.shape
    num_latents = model.weight.shape[1]
    q = true_posterior(model, x)
    cross = torch.zeros(num_dims, num_latents, dtype=x.dtype)
    second = torch.zeros(num_latents, num_latents, dtype=x.dtype)
    bias = x.mean(0)
    for b in range(num_data):
        cross += torch.outer(x[b] - bias, q.mean[b])
        second += shared_covariance(q) + torch.outer(q.mean[b], q.mean[b])
    weight = cross @ torch.linalg.inv(second)
    variance = torch.zeros(num_dims, dtype=x.dtype)
    for b in range(num_data):
        variance += (x[b] - bias) ** 2 - (weight @ q.mean[b]) * (x[b] - bias)
    return FactorAnalysis(weight, bias, (variance / num_data).log())


def at_the_mean(model: FactorAnalysis, x: Tensor) -> FactorAnalysis:
    return model._replace(bias=x.mean(0))


@pytest.mark.parametrize("num_latents", LATENTS)
def test_em_step_equals_the_textbook_update(num_latents: int) -> None:
    start = at_the_mean(marks_model(num_latents), MARKS)
    result, expected = linear_gaussian.em_step(start, MARKS), naive_em_step(start, MARKS)
    for actual, naive in zip(result, expected, strict=True):
        assert_close(actual, naive, 1e-10)


@pytest.mark.parametrize("num_latents", LATENTS)
@pytest.mark.parametrize("centred", [True, False])
def test_em_step_maximises_the_expected_log_joint(num_latents: int, centred: bool) -> None:
    """M-step: at fixed q the gradient in W, b and Psi vanishes, and moving any entry either way loses."""
    start = marks_model(num_latents, seed=7)
    start = at_the_mean(start, MARKS) if centred else start
    result = linear_gaussian.em_step(start, MARKS)
    for position, gradient in enumerate(
        assert_finite_gradients(lambda *m: expected_log_joint(FactorAnalysis(*m), MARKS, start), *result)
    ):
        assert gradient.abs().max() < 1e-10, FactorAnalysis._fields[position]
    best = expected_log_joint(result, MARKS, start)
    for field, change in (("weight", 0.1), ("bias", 0.1), ("log_var", 0.01)):
        for sign in (-1, 1):
            moved = result._replace(**{field: getattr(result, field) + sign * change})
            assert expected_log_joint(moved, MARKS, start) < best


@pytest.mark.parametrize("num_latents", LATENTS)
def test_em_step_does_not_depend_on_where_zero_is(num_latents: int) -> None:
    """Marks counted from -1,000,000: the same W and Psi to 1e-7, though x^2 has lost twelve digits."""
    start, shift = marks_model(num_latents, seed=7), 1e6
    near = linear_gaussian.em_step(start, MARKS)
    far = linear_gaussian.em_step(start._replace(bias=start.bias + shift), MARKS + shift)
    assert_close(far.weight, near.weight, 1e-7)
    assert_close(far.bias - shift, near.bias, 1e-7)
    assert_close(far.log_var, near.log_var, 1e-7)


@pytest.mark.parametrize("num_latents", LATENTS)
def test_each_em_step_raises_the_evidence_of_the_marks(num_latents: int) -> None:
    """From a start away from the mean: never down by more than rounding, and up by a lot in all."""
    model = marks_model(num_latents, seed=8)
    evidence = [mean_evidence(model, MARKS).item()]
    for _ in range(40):
        model = linear_gaussian.em_step(model, MARKS)
        evidence.append(mean_evidence(model, MARKS).item())
        assert torch.isfinite(model.log_var).all()
    assert all(later > earlier - 1e-12 for earlier, later in itertools.pairwise(evidence))
    assert evidence[-1] > evidence[0] + 0.1


def test_em_is_coordinate_ascent_on_the_elbo_with_one_latent() -> None:
    """E-step: the ELBO touches the evidence. M-step: at that q, the ELBO rises, and the evidence lies above it."""
    model = marks_model(1, seed=9)
    for _ in range(5):
        exact = linear_gaussian.posterior(model, MARKS)
        log_var = exact.covariance.diagonal().log().expand(88, 1)
        touching = linear_gaussian.elbo(model, MARKS, exact.mean, log_var)
        assert (touching - linear_gaussian.log_evidence(model, MARKS)).abs().max() < 1e-10
        model = linear_gaussian.em_step(model, MARKS)
        raised = linear_gaussian.elbo(model, MARKS, exact.mean, log_var)
        assert raised.mean() > touching.mean() + 1e-6
        assert linear_gaussian.log_evidence(model, MARKS).mean() > raised.mean()


@pytest.mark.parametrize("num_latents", LATENTS)
def test_em_repeats_em_step_and_records_the_mean_evidence(num_latents: int) -> None:
    start = marks_model(num_latents, seed=10)
    fitted, trace = linear_gaussian.em(start, MARKS, 6)
    assert trace.shape == (7,)
    model = start
    for t in range(7):
        assert_close(trace[t], mean_evidence(model, MARKS), 1e-11)
        if t < 6:
            model = linear_gaussian.em_step(model, MARKS)
    for actual, expected in zip(fitted, model, strict=True):
        assert_close(actual, expected, 1e-11)


def test_em_with_no_steps_returns_the_start() -> None:
    start = marks_model(1)
    fitted, trace = linear_gaussian.em(start, MARKS, 0)
    assert_close(trace, mean_evidence(start, MARKS).reshape(1), 1e-11)
    for actual, expected in zip(fitted, start, strict=True):
        assert torch.equal(actual, expected)


def test_em_leaves_its_arguments_alone() -> None:
    start, x = marks_model(2), MARKS.clone()
    before = [tensor.clone() for tensor in start]
    linear_gaussian.em(start, x, 2)
    assert torch.equal(x, MARKS)
    for tensor, copy in zip(start, before, strict=True):
        assert torch.equal(tensor, copy)


def maximum_by_scipy(num_latents: int, seed: int) -> tuple[FactorAnalysis, float]:
    """Maximise the mean log-density N(b, W W^T + Psi) of the marks by L-BFGS; no line shared with the package."""

    def unpack(theta: Tensor) -> FactorAnalysis:
        weight, bias, log_var = theta.split([D * num_latents, D, D])
        return FactorAnalysis(10 * weight.reshape(D, num_latents), 10 * bias, log_var)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(theta, requires_grad=True)
        value = -mean_evidence(unpack(leaf), MARKS)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    weight = randn(D * num_latents, seed=seed)
    start = torch.cat([weight, MARKS.mean(0) / 10 + 0.5 * randn(D, seed=seed + 1), 5 + 0.3 * randn(D, seed=seed + 2)])
    options = {"maxiter": 5000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-9}
    result = scipy.optimize.minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return unpack(torch.tensor(result.x)), -result.fun


@pytest.mark.parametrize(("num_latents", "num_steps"), [(1, 500), (2, 5000)])
def test_em_reaches_the_maximum_likelihood_of_the_marks(num_latents: int, num_steps: int) -> None:
    """EM's fixed point has no gradient left, and scipy's L-BFGS finds no more evidence from other starts."""
    fitted, trace = linear_gaussian.em(marks_model(num_latents, seed=11), MARKS, num_steps)
    assert (trace[1:] - trace[:-1] > -1e-12).all()
    assert torch.isfinite(fitted.log_var).all()
    # relative to each parameter's own size, the mean log evidence is flat
    gradients = assert_finite_gradients(lambda *m: mean_evidence(FactorAnalysis(*m), MARKS), *fitted)
    for gradient, parameter in zip(gradients, fitted, strict=True):
        assert (gradient * parameter.abs().clamp(min=1)).abs().max() < 1e-7
    again = linear_gaussian.em_step(fitted, MARKS)
    for after, before in zip(again, fitted, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    optima = [maximum_by_scipy(num_latents, seed) for seed in (50, 60, 70)]
    best_model, best = max(optima, key=lambda pair: pair[1])
    assert trace[-1].item() == pytest.approx(best, abs=1e-6)
    assert_close(fitted.bias, MARKS.mean(0), 1e-6)
    covariance, expected = (marginal(model).covariance_matrix for model in (fitted, best_model))
    torch.testing.assert_close(covariance, expected, rtol=1e-3, atol=0.1)  # W only up to a rotation


def test_em_recovers_a_known_model() -> None:
    """From 20,000 draws, W (up to its sign), b and Psi come back; entries are known to about 2 %, 5 times that is asked."""
    truth = factor_analysis(1, seed=40)
    _, x = linear_gaussian.sample(truth, 20_000, generator=torch.Generator().manual_seed(4))
    start = FactorAnalysis(randn(D, 1, seed=43), x.mean(0), x.var(0).log())
    fitted, _ = linear_gaussian.em(start, x, 200)
    sign = (fitted.weight * truth.weight).sum().sign()
    torch.testing.assert_close(sign * fitted.weight, truth.weight, rtol=0, atol=0.1)
    torch.testing.assert_close(fitted.bias, truth.bias, rtol=0, atol=0.1)
    torch.testing.assert_close(fitted.log_var, truth.log_var, rtol=0, atol=0.1)


# probabilistic PCA


def marks_eigenvalues() -> Tensor:
    """Of the covariance with 1/N, greatest first."""
    return torch.tensor(np.linalg.eigvalsh(np.cov(MARKS.numpy().T, bias=True))[::-1].copy())


def ppca_by_scipy(num_latents: int, seed: int, log_var: float | None) -> tuple[FactorAnalysis, float]:
    """Maximise the mean log-density N(b, W W^T + s^2 I) of the marks by L-BFGS, with s^2 free or given."""

    def unpack(theta: Tensor) -> FactorAnalysis:
        weight, bias, shared = theta.split([D * num_latents, D, 1])
        shared = shared if log_var is None else torch.tensor([log_var], dtype=torch.float64)
        return FactorAnalysis(10 * weight.reshape(D, num_latents), 10 * bias, shared.expand(D))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(theta, requires_grad=True)
        value = -mean_evidence(unpack(leaf), MARKS)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    start = torch.cat(
        [randn(D * num_latents, seed=seed), MARKS.mean(0) / 10 + 0.5 * randn(D, seed=seed + 1), zeros(1) + 5]
    )
    options = {"maxiter": 5000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-9}
    result = scipy.optimize.minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return unpack(torch.tensor(result.x)), -result.fun


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("log_var", [None, math.log(150.0), math.log(20.0)])
@pytest.mark.parametrize("num_latents", [1, 2, 3, 4])
def test_ppca_has_the_highest_evidence(num_latents: int, log_var: float | None) -> None:
    """No gradient is left, and L-BFGS from random starts finds the same covariance and no more evidence."""
    model = linear_gaussian.ppca(MARKS, num_latents, log_var=log_var)
    assert torch.equal(model.bias, MARKS.mean(0))
    assert (model.log_var == model.log_var[0]).all()
    if log_var is not None:
        assert model.log_var[0].item() == pytest.approx(log_var, abs=1e-14)

    def evidence(weight: Tensor, bias: Tensor, shared: Tensor) -> Tensor:
        return mean_evidence(FactorAnalysis(weight, bias, shared.expand(D)), MARKS)

    gradients = assert_finite_gradients(evidence, model.weight, model.bias, model.log_var[0])
    for gradient in gradients if log_var is None else gradients[:2]:
        assert gradient.abs().max() < 1e-12
    found, best = max((ppca_by_scipy(num_latents, seed, log_var) for seed in (80, 90)), key=lambda pair: pair[1])
    assert mean_evidence(model, MARKS).item() == pytest.approx(best, abs=1e-8)
    covariance, expected = (marginal(model).covariance_matrix for model in (model, found))
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("num_latents", [1, 2, 3, 4])
def test_ppca_keeps_the_great_eigenvalues_and_averages_the_rest(num_latents: int) -> None:
    """W W^T + s^2 I has the J greatest eigenvalues of the data, then s^2, the mean of those left out, D - J times."""
    model, eigenvalues = linear_gaussian.ppca(MARKS, num_latents), marks_eigenvalues()
    variance = eigenvalues[num_latents:].mean()
    assert_close(model.log_var, variance.log().expand(D))
    kept = torch.cat([eigenvalues[:num_latents], variance.expand(D - num_latents)])
    assert_close(torch.linalg.eigvalsh(marginal(model).covariance_matrix).flip(0), kept, 1e-10)
    best = -0.5 * (D * math.log(2 * math.pi) + kept.log().sum() + D)
    assert_close(linear_gaussian.log_evidence(model, MARKS).mean(), best, 1e-12)
    residual = (MARKS - MARKS.mean(0)).T @ (MARKS - MARKS.mean(0)) / 88 @ model.weight - model.weight * kept[
        :num_latents
    ]
    assert residual.abs().max() < 1e-9  # its columns are eigenvectors, in the order of the eigenvalues


@pytest.mark.parametrize("log_var", [None, math.log(150.0)])
def test_the_latents_of_ppca_are_independent_given_the_data(log_var: float | None) -> None:
    """Posterior variances min(s^2 / lambda, 1); so the best diagonal q is the posterior, whose mean KL is known."""
    model, eigenvalues = linear_gaussian.ppca(MARKS, 4, log_var=log_var), marks_eigenvalues()[:4]
    ratio = (model.log_var[0].exp() / eigenvalues).clamp(max=1)
    mean, covariance = linear_gaussian.posterior(model, MARKS)
    assert_close(covariance, ratio.diag(), 1e-12)
    elbo = linear_gaussian.elbo(model, MARKS, mean, ratio.log().expand(88, 4))
    assert_close(elbo, linear_gaussian.log_evidence(model, MARKS), 1e-11)
    kl = 0.5 * (mean.square() + ratio - ratio.log() - 1).mean(0)
    assert_close(kl, -0.5 * ratio.log(), 1e-12)


@pytest.mark.parametrize(("variance", "used"), [(20.0, 5), (50.0, 4), (100.0, 3), (150.0, 2), (500.0, 1), (1000.0, 0)])
def test_a_latent_whose_eigenvalue_is_below_the_given_variance_is_not_used(variance: float, used: int) -> None:
    """Its column is 0, its posterior is its prior; eigenvalues of the marks: 679, 200, 103, 84, 32."""
    model, eigenvalues = linear_gaussian.ppca(MARKS, D, log_var=math.log(variance)), marks_eigenvalues()
    assert (eigenvalues > variance).sum() == used
    assert (model.weight != 0).any(0).tolist() == [True] * used + [False] * (D - used)
    assert_close(model.weight.square().sum(0), (eigenvalues - variance).clamp(min=0), 1e-10)
    mean, covariance = linear_gaussian.posterior(model, MARKS)
    assert (mean[:, used:] == 0).all()
    assert (covariance[used:, used:] == torch.eye(D - used, dtype=torch.float64)).all()


@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_with_its_best_variance_ppca_uses_every_latent(num_latents: int) -> None:
    """The mean of the eigenvalues left out is below those kept: learning the variance leaves no column at 0."""
    assert linear_gaussian.ppca(MARKS, num_latents).weight.square().sum(0).min() > 10


def test_ppca_recovers_a_known_model() -> None:
    """From 20,000 draws, up to a rotation: the covariance comes back within a few standard errors of 2 %."""
    truth = factor_analysis(2, seed=60)._replace(log_var=zeros(D) - 1)
    _, x = linear_gaussian.sample(truth, 20_000, generator=torch.Generator().manual_seed(5))
    found = linear_gaussian.ppca(x, 2)
    torch.testing.assert_close(found.log_var, truth.log_var, rtol=0, atol=0.03)
    torch.testing.assert_close(found.weight @ found.weight.T, truth.weight @ truth.weight.T, rtol=0.05, atol=0.1)


def test_the_signs_of_ppca_are_settled() -> None:
    """The largest entry of a column is positive: mirrored data give the same loadings, and so does another library."""
    for x in (MARKS, -MARKS, MARKS.flip(0)):
        weight = linear_gaussian.ppca(x, 3).weight
        assert (weight.gather(0, weight.abs().argmax(0, keepdim=True)) > 0).all()
        assert_close(weight, linear_gaussian.ppca(MARKS, 3).weight, 1e-10)


@pytest.mark.parametrize("log_var", [None, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ppca_keeps_its_type_and_its_digits(dtype: torch.dtype, log_var: float | None) -> None:
    x = randn(50, 6, seed=61) * torch.arange(1, 7) + 100
    model = linear_gaussian.ppca(x.to(dtype), 3, log_var=log_var)
    assert [tensor.shape for tensor in model] == [(6, 3), (6,), (6,)]
    assert all(tensor.dtype == dtype for tensor in model)
    for tensor, expected in zip(model, linear_gaussian.ppca(x, 3, log_var=log_var), strict=True):
        assert_close(tensor.double(), expected, 1e-12 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("shape", [(5,), (2, 7, 5), (0, 5)])
def test_ppca_refuses_data_that_are_no_table(shape: tuple[int, ...]) -> None:
    assert_refused(lambda: linear_gaussian.ppca(zeros(*shape), 1), "x", shape)


def test_ppca_refuses_too_many_or_too_few_latents() -> None:
    for num_latents in (0, -1, D, D + 1):
        assert_refused(lambda j=num_latents: linear_gaussian.ppca(MARKS, j), "num_latents", str(num_latents))
    for num_latents in (0, D + 1):
        assert_refused(
            lambda j=num_latents: linear_gaussian.ppca(MARKS, j, log_var=0.0), "num_latents", str(num_latents)
        )


def test_ppca_refuses_data_without_noise() -> None:
    """Two columns that are multiples of each other, or fewer rows than dimensions: the likelihood has no maximum."""
    line = randn(20, 1, seed=62) * torch.tensor([1.0, 2.0, -3.0])
    assert_refused(lambda: linear_gaussian.ppca(line, 1), "x", "1")
    assert_refused(lambda: linear_gaussian.ppca(randn(3, 6, seed=63), 2), "x", "2")
    assert linear_gaussian.ppca(line, 1, log_var=-2.0).weight.isfinite().all()


# shapes, dtypes, extreme inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_latents", LATENTS)
def test_shapes_and_dtypes(num_latents: int, dtype: torch.dtype) -> None:
    model = FactorAnalysis(*(tensor.to(dtype) for tensor in factor_analysis(num_latents)))
    x, z = data().to(dtype), randn(3, B, num_latents, seed=44, dtype=dtype)
    mu, log_var = (tensor.to(dtype) for tensor in diagonal(B, num_latents, seed=45))
    exact = linear_gaussian.posterior(model, x)
    drawn = linear_gaussian.sample(model, 6, generator=torch.Generator().manual_seed(0))
    fitted, trace = linear_gaussian.em(model, x, 2)
    stepped = linear_gaussian.em_step(model, x)
    shapes = [
        (linear_gaussian.log_joint(model, x, z), (3, B)),
        (linear_gaussian.log_joint(model, x, z[0]), (B,)),
        (linear_gaussian.log_evidence(model, x), (B,)),
        (exact.mean, (B, num_latents)),
        (exact.covariance, (num_latents, num_latents)),
        (linear_gaussian.elbo(model, x, mu, log_var), (B,)),
        (linear_gaussian.kl_to_posterior(model, x, mu, log_var), (B,)),
        (drawn[0], (6, num_latents)),
        (drawn[1], (6, D)),
        (trace, (3,)),
        *[(result, tensor.shape) for result, tensor in zip(fitted, model, strict=True)],
        *[(result, tensor.shape) for result, tensor in zip(stepped, model, strict=True)],
    ]
    for position, (result, shape) in enumerate(shapes):
        assert result.shape == shape, position
        assert result.dtype == dtype, position


@pytest.mark.parametrize("num_latents", LATENTS)
def test_float32_agrees_with_float64(num_latents: int) -> None:
    model, x = factor_analysis(num_latents), data()
    mu, log_var = diagonal(B, num_latents, seed=46)
    single = FactorAnalysis(*(tensor.float() for tensor in model))
    for function, arguments in (
        (linear_gaussian.log_evidence, (x,)),
        (linear_gaussian.elbo, (x, mu, log_var)),
        (linear_gaussian.kl_to_posterior, (x, mu, log_var)),
    ):
        result = function(single, *(tensor.float() for tensor in arguments))
        assert_close(result.double(), function(model, *arguments), 1e-4)


def test_one_data_point_equals_its_row_in_the_batch() -> None:
    model, x = factor_analysis(2), data()
    mu, log_var = diagonal(B, 2, seed=47)
    row = slice(3, 4)
    assert_close(linear_gaussian.log_evidence(model, x[row]), linear_gaussian.log_evidence(model, x)[row])
    assert_close(linear_gaussian.posterior(model, x[row]).mean, linear_gaussian.posterior(model, x).mean[row])
    one = (x[row], mu[row], log_var[row])
    for function in (linear_gaussian.elbo, linear_gaussian.kl_to_posterior):
        assert_close(function(model, *one), function(model, x, mu, log_var)[row])


@pytest.mark.parametrize("num_latents", LATENTS)
@pytest.mark.parametrize("extreme", [-60.0, 60.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_log_variances_of_q(extreme: float, num_latents: int, dtype: torch.dtype) -> None:
    """ELBO and KL to the posterior by the textbook, term by term, when q is all but a point or all but flat."""
    model = FactorAnalysis(*(tensor.to(dtype) for tensor in factor_analysis(num_latents)))
    x, mu = data().to(dtype), randn(B, num_latents, seed=48, dtype=dtype)
    log_var = torch.full((B, num_latents), extreme, dtype=dtype)
    for function in (linear_gaussian.elbo, linear_gaussian.kl_to_posterior):
        assert_finite_gradients(lambda *q, function=function: function(model, x, *q), mu, log_var)
    if dtype == torch.float64:
        q = MultivariateNormal(mu, torch.diag_embed(log_var.exp()))
        expected = kl_divergence(q, true_posterior(model, x))
        assert_close(linear_gaussian.kl_to_posterior(model, x, mu, log_var), expected, 1e-10)
        lower = linear_gaussian.log_evidence(model, x) - expected
        assert_close(linear_gaussian.elbo(model, x, mu, log_var), lower, 1e-10)


@pytest.mark.parametrize("num_latents", LATENTS)
@pytest.mark.parametrize("extreme", [-60.0, 60.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_noise_gives_finite_values_and_gradients(extreme: float, num_latents: int, dtype: torch.dtype) -> None:
    """Noise of e^-60 or e^60 in every coordinate at once, and for the evidence in one of them.

    With no noise in more than J coordinates W W^T + Psi is singular in floating point, and x has no log-evidence.
    The backward pass of the posterior squares e^60, more than float32 holds: its gradients are asked for in float64.
    """
    weight, bias = randn(D, num_latents, seed=49, dtype=dtype), randn(D, seed=50, dtype=dtype)
    everywhere = torch.full((D,), extreme, dtype=dtype)
    somewhere = torch.where(torch.arange(D) == 2, everywhere, torch.zeros(D, dtype=dtype))
    x, z = data().to(dtype), randn(3, B, num_latents, seed=51, dtype=dtype)
    mu, log_var = (tensor.to(dtype) for tensor in diagonal(B, num_latents, seed=52))
    for function, noise in (
        (lambda *m: linear_gaussian.log_joint(FactorAnalysis(*m), x, z), everywhere),
        (lambda *m: linear_gaussian.elbo(FactorAnalysis(*m), x, mu, log_var), everywhere),
        (lambda *m: linear_gaussian.log_evidence(FactorAnalysis(*m), x), somewhere),
        (lambda *m: linear_gaussian.log_evidence(FactorAnalysis(*m), x), everywhere.clamp(min=0)),
    ):
        assert_finite_gradients(function, weight, bias, noise)
    for function in (
        lambda *m: torch.cat(linear_gaussian.posterior(FactorAnalysis(*m), x)),
        lambda *m: linear_gaussian.kl_to_posterior(FactorAnalysis(*m), x, mu, log_var),
    ):
        if dtype == torch.float64:
            assert_finite_gradients(function, weight, bias, everywhere)
        else:
            assert torch.isfinite(function(weight, bias, everywhere)).all()


@pytest.mark.parametrize("log_var", [-12.0, 60.0])
def test_evidence_with_very_small_or_large_noise_is_exact(log_var: float) -> None:
    """One latent, Psi = s I: one eigenvalue |W|^2 + s along W and s across it give log p(x) in closed form."""
    weight, bias = randn(D, 1, seed=53), randn(D, seed=54)
    along = weight[:, 0] / weight.norm()
    r = 1.7 * along + math.exp(log_var / 2) * randn(D, seed=55)  # x - b
    s = torch.tensor(log_var, dtype=torch.float64).exp()
    large = weight.square().sum() + s
    across = r - (r @ along) * along
    quadratic = (r @ along) ** 2 / large + across.square().sum() / s
    expected = -0.5 * (D * math.log(2 * math.pi) + large.log() + (D - 1) * log_var + quadratic)
    model = FactorAnalysis(weight, bias, torch.full((D,), log_var, dtype=torch.float64))
    assert_close(linear_gaussian.log_evidence(model, (bias + r).unsqueeze(0))[0], expected, 1e-9)


# bad input


def test_a_model_whose_parts_do_not_fit_is_refused() -> None:
    good = factor_analysis(2)
    x, z = data(), torch.zeros(B, 2, dtype=torch.float64)
    for bad, words in (
        (good._replace(bias=good.bias[:4]), ("bias", "weight", (4,), (5, 2))),
        (good._replace(bias=good.bias[:1]), ("bias", "weight", (1,), (5, 2))),
        (good._replace(log_var=good.log_var[:1]), ("log_var", "weight", (1,), (5, 2))),
        (good._replace(log_var=good.log_var[0]), ("log_var", "weight", (), (5, 2))),
        (good._replace(weight=good.weight[:, 0]), ("weight", (5,))),
    ):
        calls = [
            lambda bad=bad: linear_gaussian.sample(bad, 3, generator=torch.Generator()),
            lambda bad=bad: linear_gaussian.log_joint(bad, x, z),
            lambda bad=bad: linear_gaussian.log_evidence(bad, x),
            lambda bad=bad: linear_gaussian.posterior(bad, x),
            lambda bad=bad: linear_gaussian.elbo(bad, x, z, z),
            lambda bad=bad: linear_gaussian.kl_to_posterior(bad, x, z, z),
            lambda bad=bad: linear_gaussian.em_step(bad, x),
            lambda bad=bad: linear_gaussian.em(bad, x, 1),
        ]
        for call in calls:
            assert_refused(call, *words)


@pytest.mark.parametrize("shape", [(B, 4), (B, 1), (D,), (2, B, D)])
def test_data_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    model, x, q = factor_analysis(2), torch.zeros(shape, dtype=torch.float64), torch.zeros(B, 2, dtype=torch.float64)
    for call in (
        lambda: linear_gaussian.log_joint(model, x, q),
        lambda: linear_gaussian.log_evidence(model, x),
        lambda: linear_gaussian.posterior(model, x),
        lambda: linear_gaussian.elbo(model, x, q, q),
        lambda: linear_gaussian.kl_to_posterior(model, x, q, q),
        lambda: linear_gaussian.em_step(model, x),
        lambda: linear_gaussian.em(model, x, 1),
    ):
        assert_refused(call, "x", "weight", shape, (5, 2))


@pytest.mark.parametrize("shape", [(B, 3), (B, 1), (B - 1, 2), (2,), (3, B - 1, 2)])
def test_latents_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    model, x, z = factor_analysis(2), data(), torch.zeros(shape, dtype=torch.float64)
    assert_refused(lambda: linear_gaussian.log_joint(model, x, z), "z", shape)


@pytest.mark.parametrize("shape", [(B, 3), (B, 1), (B - 1, 2), (3, B - 1, 2), (2,), ()])
def test_a_mean_of_q_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    model, x, log_var = factor_analysis(2), data(), torch.zeros((), dtype=torch.float64)
    mu = torch.zeros(shape, dtype=torch.float64)
    for function in (linear_gaussian.elbo, linear_gaussian.kl_to_posterior):
        assert_refused(lambda f=function: f(model, x, mu, log_var), "mu", "x", shape, (B, D))


@pytest.mark.parametrize("shape", [(B, 3), (B - 1, 2), (3, B, 2), (B,)])
def test_a_log_variance_of_q_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    model, x, mu = factor_analysis(2), data(), torch.zeros(B, 2, dtype=torch.float64)
    log_var = torch.zeros(shape, dtype=torch.float64)
    for function in (linear_gaussian.elbo, linear_gaussian.kl_to_posterior):
        assert_refused(lambda f=function: f(model, x, mu, log_var), "mu", "log_var", (B, 2), shape)


def test_too_few_samples_steps_or_data_are_refused() -> None:
    model = factor_analysis(1)
    assert_refused(lambda: linear_gaussian.sample(model, 0, generator=torch.Generator()), "num_samples", "0")
    assert_refused(lambda: linear_gaussian.sample(model, -2, generator=torch.Generator()), "num_samples", "-2")
    assert_refused(lambda: linear_gaussian.em(model, data(), -1), "num_steps", "-1")
    empty = torch.zeros(0, D, dtype=torch.float64)
    assert_refused(lambda: linear_gaussian.em_step(model, empty), "x", (0, D))
    assert_refused(lambda: linear_gaussian.em_step(model, data(num_data=2)), "x", (2, D))
    assert_refused(lambda: linear_gaussian.em(model, empty, 1), "x", (0, D))


@pytest.mark.parametrize("log_var", [-10.0, -20.0])
def test_single_precision_keeps_the_evidence_where_the_noise_is_small(log_var: float) -> None:
    """C = W W' + Psi loses Psi beside W; the error was 0.17 nats at e^-10, and at e^-20 there was no answer."""
    weight = randn(6, 2, seed=70)
    double = linear_gaussian.FactorAnalysis(weight, randn(6, seed=71), torch.full((6,), log_var).double())
    _, x = linear_gaussian.sample(double, 20, generator=torch.Generator().manual_seed(0))
    exact = linear_gaussian.log_evidence(double, x)
    if log_var == -10.0:
        covariance = weight @ weight.mT + torch.diag(double.log_var.exp())
        assert_close(exact, torch.distributions.MultivariateNormal(double.bias, covariance).log_prob(x), 1e-7)
    x32 = x.float()
    seen = linear_gaussian.log_evidence(double, x32.double())  # of the data as single precision has them
    single = linear_gaussian.log_evidence(linear_gaussian.FactorAnalysis(*(part.float() for part in double)), x32)
    assert (single.double() - seen).abs().max() < (0.02 if log_var == -10.0 else 2.0)


def test_a_constant_column_is_named() -> None:
    x = randn(20, 3, seed=72)
    x[:, 1] = 4.0
    model = linear_gaussian.FactorAnalysis(randn(3, 1, seed=73), torch.zeros(3).double(), torch.zeros(3).double())
    assert_refused(lambda: linear_gaussian.em(model, x, 3), "constant", "[1]")


def test_numbers_that_make_no_sense_are_refused() -> None:
    x = randn(20, 3, seed=74)
    for wrong in (math.nan, math.inf):
        assert_refused(lambda w=wrong: linear_gaussian.ppca(x, 1, log_var=w), "log_var")
    model = linear_gaussian.ppca(x, 1)
    for wrong in (-1, 2.5):
        assert_refused(lambda w=wrong: linear_gaussian.em(model, x, w), "num_steps")


@pytest.mark.parametrize("name", ["bias", "log_var"])
def test_each_of_two_parameters_of_another_length_is_refused(name: str) -> None:
    """One alone: `and` in place of `or`, or one side of a chained comparison, would let it pass."""
    model = linear_gaussian.FactorAnalysis(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3))
    for size in (1, 2, 4):
        wrong = model._replace(**{name: torch.zeros(size)})
        assert_refused(lambda w=wrong: linear_gaussian.log_evidence(w, torch.zeros(2, 3)), name, (size,))


def test_latents_and_data_that_fit_in_one_axis_only_are_refused() -> None:
    model = linear_gaussian.FactorAnalysis(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3))
    for shape in [(4, 5, 1), (4, 6, 2), (2,), (4, 5, 3)]:
        assert_refused(lambda s=shape: linear_gaussian.log_joint(model, torch.zeros(5, 3), torch.zeros(s)), "z", shape)
    for shape in [(5, 2), (5,), (5, 3, 1)]:
        assert_refused(lambda s=shape: linear_gaussian.log_evidence(model, torch.zeros(s)), "x", shape)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32])
def test_data_of_a_narrower_type_are_read_in_the_models(dtype: torch.dtype) -> None:
    model, x = factor_analysis(1), (10 + 3 * data(num_data=30)).round().to(dtype)
    z = torch.zeros(30, 1, dtype=torch.float64)
    for function, rest in (
        (linear_gaussian.log_evidence, ()),
        (linear_gaussian.log_joint, (z,)),
        (linear_gaussian.elbo, (z, z)),
        (linear_gaussian.kl_to_posterior, (z, z)),
    ):
        assert_close(function(model, x, *rest), function(model, x.double(), *rest))
    steps = linear_gaussian.em_step(model, x), linear_gaussian.em_step(model, x.double())
    for given, expected in zip(*steps, strict=True):
        assert_close(given, expected)


def test_types_that_would_lose_digits_or_have_no_eigenvalues_are_refused() -> None:
    model, x, z = factor_analysis(1), data(), torch.zeros(B, 1)
    single = FactorAnalysis(*(tensor.float() for tensor in model))
    both = "torch.float64", "torch.float32", "convert"
    assert_refused(lambda: linear_gaussian.log_evidence(single, x), "x", *both)
    assert_refused(lambda: linear_gaussian.log_joint(model, x, z), "z", *both)
    assert_refused(lambda: linear_gaussian.elbo(model, x, z, z), "mu", *both)
    for dtype in (torch.uint8, torch.int64, torch.float16):
        assert_refused(lambda d=dtype: linear_gaussian.ppca(MARKS.to(d), 1), "x", str(dtype), "convert")


def linear_vae_terms(
    x: Tensor, weight: Tensor, encoder: Tensor, log_s: Tensor, variance: float
) -> tuple[Tensor, Tensor]:
    """Rate and distortion of any linear VAE, typed out: E KL(N(A x, s^2) || N(0, I)) and -E log N(x; W z, variance)."""
    centred = x - x.mean(0)
    mu, s2 = centred @ encoder, log_s.exp()
    rate = 0.5 * (mu.square() + s2 - 1 - log_s).sum(1).mean()
    squares = (centred - mu @ weight.mT).square().sum(1).mean() + (weight.square() @ s2).sum()
    return rate, 0.5 * (x.shape[1] * math.log(2 * math.pi * variance) + squares / variance)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("num_latents", [1, 2, 5])
def test_rate_and_distortion_are_those_of_the_stated_optimum(num_latents, beta):
    x, variance = MARKS, 60.0
    model = linear_gaussian.ppca(x, num_latents, log_var=math.log(beta * variance))
    covariance = linear_gaussian.posterior(model, x).covariance
    encoder = model.weight @ covariance / (beta * variance)
    rate, distortion = linear_vae_terms(x, model.weight, encoder, covariance.diagonal().log(), variance)
    point = linear_gaussian.rate_distortion(
        x, num_latents, log_var=math.log(variance), beta=torch.tensor(beta, dtype=torch.float64)
    )
    torch.testing.assert_close(point.rate, rate, rtol=0, atol=1e-9)
    torch.testing.assert_close(point.distortion, distortion, rtol=0, atol=1e-9)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_no_linear_vae_has_a_lower_loss_and_the_optimiser_arrives(beta):
    x = MARKS / 10
    point = linear_gaussian.rate_distortion(x, 2, log_var=0.0, beta=torch.tensor(beta, dtype=torch.float64))
    parts = [randn(5, 2, seed=1), 0.1 * randn(5, 2, seed=2), randn(2, seed=3)]
    for part in parts:
        part.requires_grad_()
    optimiser = torch.optim.LBFGS(
        parts, max_iter=2000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        rate, distortion = linear_vae_terms(x, *parts, 1.0)
        (distortion + beta * rate).backward()
        return distortion + beta * rate

    optimiser.step(loss)
    rate, distortion = (term.detach() for term in linear_vae_terms(x, *parts, 1.0))
    torch.testing.assert_close(rate, point.rate, rtol=0, atol=1e-6)
    torch.testing.assert_close(distortion, point.distortion, rtol=0, atol=1e-6)


def test_the_slope_of_the_curve_is_minus_beta():
    beta = torch.linspace(0.1, 3, 30, dtype=torch.float64, requires_grad=True)
    point = linear_gaussian.rate_distortion(MARKS, 3, log_var=math.log(60.0), beta=beta)
    d_rate, d_distortion = (torch.autograd.grad(part.sum(), beta, retain_graph=True)[0] for part in point)
    torch.testing.assert_close((d_distortion / d_rate), -beta.detach(), rtol=0, atol=1e-8)


def test_rate_distortion_refuses_a_beta_of_zero():
    with pytest.raises(ValueError, match="beta"):
        linear_gaussian.rate_distortion(MARKS, 2, log_var=0.0, beta=torch.zeros(2))
