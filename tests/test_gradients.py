"""gradients: three estimators and their surrogates, by quadrature nodes, enumeration, closed-form variances and autograd."""

import itertools
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
    normal_log_density,
    randn,
)
from torch import Tensor

from vae_tutorial import bounds, full_gaussian, gaussian, gradients, linear_gaussian, quadrature
from vae_tutorial.gradients import Gradient

DTYPES = [torch.float32, torch.float64]
K, B, J = 4, 3, 2
PATHS = [gradients.pathwise, gradients.path_derivative]


def example(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    return randn(*shape, seed=seed), 0.5 * randn(*shape, seed=seed + 1)


def at_nodes(mu: Tensor, log_var: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (K, B, J), samples (K, B, J) and weights (K,): an average with these weights is an expectation under q."""
    eps, weights = gauss_hermite(num_nodes, mu.shape[-1])
    eps = eps[:, None].expand(-1, *mu.shape)
    return eps, mu + (0.5 * log_var).exp() * eps, weights


def polynomial(z: Tensor) -> Tensor:
    """A log-joint of degree 4 with a cross term, one number a sample: nothing in it is Gaussian."""
    a, b = z[..., 0], z[..., 1]
    return 0.3 * a - 0.2 * a**4 + 0.5 * a * b - 0.7 * b**2 + 0.1 * a**2 * b - 3.0


def elbo_of_polynomial(mu: Tensor, log_var: Tensor) -> Tensor:
    """E polynomial(z) + entropy, term by term from the moments of a Gaussian: (B,)."""
    (m, n), (u, v) = mu.unbind(-1), log_var.exp().unbind(-1)
    fourth = m**4 + 6 * m**2 * u + 3 * u**2
    mean = 0.3 * m - 0.2 * fourth + 0.5 * m * n - 0.7 * (n**2 + v) + 0.1 * (m**2 + u) * n - 3.0
    return mean + 0.5 * (math.log(2 * math.pi) + 1 + log_var).sum(-1)


def log_q(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    return elementwise(lambda z, m, v: normal_log_density(z, m, math.exp(v)), z, mu, log_var).sum(-1)


def shifted_target(num_dims: int, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    """q = N(0, I), log p = log N(z; 1, I) - offset in d dimensions: noise (K, 1, d), log w (K, 1), weights (K,).

    The first coordinate's gradient depends on z_1 and on the sum of the others, which is N(0, d - 1). Nodes for these two
    numbers, the sum spread evenly over the d - 1 coordinates, give the exact moments in 50 dimensions.
    """
    nodes, weights = gauss_hermite(6, 2)
    if num_dims == 1:
        nodes, weights = gauss_hermite(6)
    rest = nodes[:, 1:] / math.sqrt(max(num_dims - 1, 1))
    eps = torch.cat([nodes[:, :1], rest.expand(-1, num_dims - 1)], 1).unsqueeze(1)
    log_w = (-0.5 * (eps - 1) ** 2 + 0.5 * eps**2).sum(-1) - offset
    return eps, log_w, weights


def variance(values: Tensor, weights: Tensor) -> Tensor:
    return expectation((values - expectation(values, weights)) ** 2, weights)


DIMENSIONS_AND_OFFSETS = list(itertools.product([1, 10, 50], [0.0, 100.0]))


# score


def test_score_is_the_gradient_of_the_log_density() -> None:
    mu, log_var = (t.requires_grad_() for t in example(0, B, J))
    z = randn(K, B, J, seed=2)
    result = gradients.score(z, mu, log_var)
    for k, b in itertools.product(range(K), range(B)):
        value = sum(
            -0.5 * (math.log(2 * math.pi) + log_var[b, j] + (z[k, b, j] - mu[b, j]) ** 2 / log_var[b, j].exp())
            for j in range(J)
        )
        d_mu, d_log_var = torch.autograd.grad(value, (mu, log_var))
        assert_close(result.mu[k, b].detach(), d_mu[b])
        assert_close(result.log_var[k, b].detach(), d_log_var[b])


def test_the_score_has_mean_zero_and_the_fisher_information_as_covariance() -> None:
    """E s = 0; the covariance is diagonal with 1 / sigma^2 for mu and 1/2 for log sigma^2."""
    mu, log_var = example(3, B, J)
    _, z, weights = at_nodes(mu, log_var, 3)
    scores = torch.cat(gradients.score(z, mu, log_var), -1)  # (K, B, 2 J)
    assert_close(expectation(scores, weights), torch.zeros(B, 2 * J, dtype=torch.float64))
    information = expectation(scores.unsqueeze(-1) * scores.unsqueeze(-2), weights)
    expected = torch.cat([(-log_var).exp(), torch.full((B, J), 0.5, dtype=torch.float64)], -1).diag_embed()
    assert_close(information, expected, 1e-11)


def test_score_is_differentiable() -> None:
    z, (mu, log_var) = randn(2, 2, 2, seed=5), example(6, 2, 2)
    assert torch.autograd.gradcheck(gradients.score, [t.requires_grad_() for t in (z, mu, log_var)])


# unbiased: every estimator, as an equality


@pytest.mark.parametrize("baseline", [0.0, -40.0, "per data point"])
def test_the_score_function_is_unbiased(baseline) -> None:
    mu, log_var = example(8, B, J)
    _, z, weights = at_nodes(mu, log_var, 5)
    baseline = randn(B, seed=10) if isinstance(baseline, str) else baseline
    log_w = polynomial(z) - log_q(z, mu, log_var)
    result = gradients.score_function(log_w, z, mu, log_var, baseline=baseline)
    expected = assert_finite_gradients(elbo_of_polynomial, mu, log_var)
    assert_close(expectation(result.mu, weights), expected[0], 1e-11)
    assert_close(expectation(result.log_var, weights), expected[1], 1e-11)


@pytest.mark.parametrize("estimator", PATHS)
def test_the_pathwise_gradients_are_unbiased(estimator) -> None:
    mu, log_var = example(11, B, J)
    eps, _, weights = at_nodes(mu, log_var, 5)
    result = estimator(polynomial, eps, mu, log_var)
    expected = assert_finite_gradients(elbo_of_polynomial, mu, log_var)
    assert_close(expectation(result.mu, weights), expected[0], 1e-12)
    assert_close(expectation(result.log_var, weights), expected[1], 1e-12)


def test_the_score_function_estimates_the_gradient_of_any_expectation() -> None:
    """E z^3 = mu^3 + 3 mu sigma^2, and a step function, whose expectation is Phi(mu / sigma): no derivative in z."""
    mu, log_var = example(13, B, 1)
    _, z, weights = at_nodes(mu, log_var, 3)
    cubic = gradients.score_function(z[..., 0] ** 3, z, mu, log_var)
    assert_close(expectation(cubic.mu, weights), 3 * (mu**2 + log_var.exp()), 1e-11)
    assert_close(expectation(cubic.log_var, weights), 3 * mu * log_var.exp(), 1e-11)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    z = torch.arange(-10 + 5e-5, 10, 1e-4, dtype=torch.float64).reshape(-1, 1, 1)  # a fine grid, 0 between two points
    density = 1e-4 * (-0.5 * z.flatten() ** 2).exp() / math.sqrt(2 * math.pi)
    step = gradients.score_function((z[..., 0] > 0).double(), z, zero, zero)
    assert expectation(step.mu, density).item() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-8)
    assert (
        expectation(gradients.score_function(torch.ones(z.shape[:2]).double(), z, zero, zero).mu, density).abs() < 1e-8
    )


# sample by sample


def test_score_function_is_the_score_times_the_centred_log_weight() -> None:
    z, (mu, log_var), log_w = randn(K, B, J, seed=15), example(16, B, J), randn(K, B, seed=18)
    per_sample = randn(K, B, seed=19)
    for baseline in (
        0.0,
        2.5,
        torch.tensor(2.5).double(),
        per_sample[0],
        per_sample[:, :1],
        per_sample[:1],
        per_sample,
    ):
        result = gradients.score_function(log_w, z, mu, log_var, baseline=baseline)
        signal = log_w - torch.as_tensor(baseline, dtype=torch.float64).expand(K, B)
        for part, s in zip(result, gradients.score(z, mu, log_var), strict=True):
            for k, b in itertools.product(range(K), range(B)):
                assert_close(part[k, b], s[k, b] * signal[k, b])


def test_pathwise_is_the_total_derivative_of_the_log_weight() -> None:
    """Autograd through z = mu + sigma eps and through log q, one sample at a time."""
    mu, log_var = (t.requires_grad_() for t in example(20, B, J))
    eps = randn(K, B, J, seed=22)
    result = gradients.pathwise(polynomial, eps, mu, log_var)
    for k, b in itertools.product(range(K), range(B)):
        z = mu[b] + (0.5 * log_var[b]).exp() * eps[k, b]
        log_q_z = -0.5 * (math.log(2 * math.pi) + log_var[b] + (z - mu[b]) ** 2 / log_var[b].exp()).sum()
        d_mu, d_log_var = torch.autograd.grad(polynomial(z) - log_q_z, (mu, log_var))
        assert_close(result.mu[k, b], d_mu[b])
        assert_close(result.log_var[k, b], d_log_var[b])


def test_path_derivative_differentiates_through_the_samples_alone() -> None:
    """The same with q's parameters held fixed inside log q."""
    mu, log_var = (t.requires_grad_() for t in example(23, B, J))
    eps = randn(K, B, J, seed=25)
    result = gradients.path_derivative(polynomial, eps, mu, log_var)
    m, v = mu.detach(), log_var.detach()
    for k, b in itertools.product(range(K), range(B)):
        z = mu[b] + (0.5 * log_var[b]).exp() * eps[k, b]
        log_q_z = -0.5 * (math.log(2 * math.pi) + v[b] + (z - m[b]) ** 2 / v[b].exp()).sum()
        d_mu, d_log_var = torch.autograd.grad(polynomial(z) - log_q_z, (mu, log_var))
        assert_close(result.mu[k, b], d_mu[b])
        assert_close(result.log_var[k, b], d_log_var[b])


def test_the_two_path_gradients_differ_by_the_score() -> None:
    eps, (mu, log_var) = randn(K, B, J, seed=26), example(27, B, J)
    z = mu + (0.5 * log_var).exp() * eps
    total, partial = (estimator(polynomial, eps, mu, log_var) for estimator in PATHS)
    for whole, part, s in zip(total, partial, gradients.score(z, mu, log_var), strict=True):
        assert_close(whole, part - s, 1e-11)


# variance


@pytest.mark.parametrize(("num_dims", "offset"), DIMENSIONS_AND_OFFSETS)
def test_the_variance_of_the_score_function_grows_with_dimension_and_offset(num_dims: int, offset: float) -> None:
    """d + 1 + (d/2 + c)^2, with mean 1; at the optimal baseline -d/2 - c it is d + 1 whatever the offset."""
    eps, log_w, weights = shifted_target(num_dims, offset)
    zero = torch.zeros(1, num_dims, dtype=torch.float64)
    first = gradients.score_function(log_w, eps, zero, zero).mu[:, 0, 0]
    assert expectation(first, weights).item() == pytest.approx(1, abs=1e-11)
    expected = num_dims + 1 + (num_dims / 2 + offset) ** 2
    assert variance(first, weights).item() == pytest.approx(expected, rel=1e-12)

    scores = gradients.score(eps, zero, zero).mu[..., :1]
    baseline = gradients.optimal_baseline(log_w, scores, log_weight=weights.log())
    assert_close(baseline, torch.tensor([-num_dims / 2 - offset]).double(), 1e-12)
    mended = gradients.score_function(log_w, eps, zero, zero, baseline=baseline).mu[:, 0, 0]
    assert expectation(mended, weights).item() == pytest.approx(1, abs=1e-11)
    assert variance(mended, weights).item() == pytest.approx(num_dims + 1, rel=1e-10)


@pytest.mark.parametrize(("num_dims", "offset"), DIMENSIONS_AND_OFFSETS)
def test_the_pathwise_variance_is_1_and_that_of_the_path_derivative_0(num_dims: int, offset: float) -> None:
    eps, _, weights = shifted_target(num_dims, offset)
    zero = torch.zeros(1, num_dims, dtype=torch.float64)
    for estimator, expected in zip(PATHS, (1.0, 0.0), strict=True):
        first = estimator(lambda z: -0.5 * (z - 1).square().sum(-1) - offset, eps, zero, zero).mu[:, 0, 0]
        assert expectation(first, weights).item() == pytest.approx(1, abs=1e-12)
        assert variance(first, weights).item() == pytest.approx(expected, abs=1e-12)


def test_at_the_posterior_only_the_path_derivative_is_silent() -> None:
    """A factor analysis with one latent has a Gaussian posterior of diagonal form: q can be it.

    log w is log p(x) for every sample. The path derivative is 0 for each; the pathwise gradient is minus the score; the
    score function is the score times log p(x), and 0 with the other samples' mean for a baseline.
    """
    model = linear_gaussian.FactorAnalysis(randn(5, 1, seed=29), randn(5, seed=30), randn(5, seed=31))
    x, eps = randn(B, 5, seed=32), randn(K, B, 1, seed=33)
    mean, covariance = linear_gaussian.posterior(model, x)
    log_var = covariance.log().expand(B, 1)
    z = gaussian.reparameterize(eps, mean, log_var)

    def log_joint(z):
        return linear_gaussian.log_joint(model, x, z)

    zeros = torch.zeros(K, B, 1, dtype=torch.float64)
    for part in gradients.path_derivative(log_joint, eps, mean, log_var):
        assert_close(part, zeros, 1e-12)
    scores = gradients.score(z, mean, log_var)
    for part, s in zip(gradients.pathwise(log_joint, eps, mean, log_var), scores, strict=True):
        assert_close(part, -s, 1e-11)
    log_w = log_joint(z) - gaussian.log_prob(z, mean, log_var)
    evidence = linear_gaussian.log_evidence(model, x)
    assert_close(log_w, evidence.expand(K, B), 1e-11)
    for part, s in zip(gradients.score_function(log_w, z, mean, log_var), scores, strict=True):
        assert_close(part, s * evidence[:, None], 1e-11)
    baseline = gradients.leave_one_out(log_w)
    for part in gradients.score_function(log_w, z, mean, log_var, baseline=baseline):
        assert_close(part, zeros, 1e-11)


# baselines


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    log_w = randn(K, B, seed=34)
    naive = [[sum(log_w[i, b].item() for i in range(K) if i != k) / (K - 1) for b in range(B)] for k in range(K)]
    assert_close(gradients.leave_one_out(log_w), torch.tensor(naive, dtype=torch.float64))
    assert_close(gradients.leave_one_out(log_w[:, 0]), torch.tensor(naive, dtype=torch.float64)[:, 0])


@pytest.mark.parametrize("num_samples", [2, 3])
def test_leave_one_out_keeps_the_gradient_unbiased_and_the_full_mean_does_not(num_samples: int) -> None:
    """Every K-tuple of nodes with its probability: the expectation of the K-sample estimate, exactly.

    The mean over all K samples as a baseline shrinks the gradient by 1 - 1 / K.
    """
    mu, log_var = example(35, 1, J)
    _, z, weights = at_nodes(mu, log_var, 5)
    log_w = polynomial(z) - log_q(z, mu, log_var)
    expected = assert_finite_gradients(elbo_of_polynomial, mu, log_var)
    index = torch.cartesian_prod(*[torch.arange(len(weights))] * num_samples).T  # (K, tuples)
    probability = weights[index].prod(0)
    z, log_w = z[index].squeeze(2), log_w[index].squeeze(2)  # (K, tuples, J), (K, tuples)
    for baseline, factor in ((gradients.leave_one_out(log_w), 1.0), (log_w.mean(0), 1 - 1 / num_samples)):
        result = gradients.score_function(log_w, z, mu, log_var, baseline=baseline)
        for part, gradient in zip(result, expected, strict=True):
            assert_close(expectation(part.mean(0), probability), factor * gradient[0], 1e-10)


def test_the_optimal_baseline_is_the_ratio_of_its_two_means() -> None:
    log_w, scores = randn(K, B, seed=37), randn(K, B, 3, seed=38)
    naive = []
    for b in range(B):
        norms = [sum(scores[k, b, p].item() ** 2 for p in range(3)) for k in range(K)]
        naive.append(sum(n * log_w[k, b].item() for k, n in enumerate(norms)) / sum(norms))
    assert_close(gradients.optimal_baseline(log_w, scores), torch.tensor(naive, dtype=torch.float64))
    equal = torch.full((K,), -math.log(K), dtype=torch.float64)
    assert_close(gradients.optimal_baseline(log_w, scores, log_weight=equal), torch.tensor(naive, dtype=torch.float64))
    single = gradients.optimal_baseline(log_w[:, 0], scores[:, 0])
    assert_close(single, torch.tensor(naive[0], dtype=torch.float64))


def test_no_other_constant_has_a_smaller_total_variance() -> None:
    """The total variance is a parabola in b: its minimum is b* and its curvature is E |s|^2."""
    mu, log_var = example(39, B, J)
    _, z, weights = at_nodes(mu, log_var, 7)
    log_w, scores = polynomial(z) - log_q(z, mu, log_var), gradients.score(z, mu, log_var)
    best = gradients.optimal_baseline(log_w, torch.cat(scores, -1), log_weight=weights.log())

    def total_variance(baseline: Tensor) -> Tensor:
        result = gradients.score_function(log_w, z, mu, log_var, baseline=baseline)
        return variance(torch.cat(result, -1), weights).sum(-1)

    norm = ((-log_var).exp() + 0.5).sum(-1)  # the trace of the Fisher information
    for shift in (-3.0, -0.1, 0.2, 5.0):
        assert_close(total_variance(best + shift), total_variance(best) + norm * shift**2, 1e-9)


def test_baselines_follow_the_offset() -> None:
    """A constant added to every log-weight is added to both baselines, so the centred signal does not change."""
    log_w, scores = randn(K, B, seed=41), randn(K, B, 3, seed=42)
    for offset in (-1e4, 1e4):
        assert_close(gradients.leave_one_out(log_w + offset), gradients.leave_one_out(log_w) + offset, 1e-12)
        moved = gradients.optimal_baseline(log_w + offset, scores)
        assert_close(moved, gradients.optimal_baseline(log_w, scores) + offset, 1e-12)


# surrogates


def test_the_score_function_surrogate_has_the_value_and_the_gradient() -> None:
    mu, log_var = (t.requires_grad_() for t in example(43, B, J))
    z = randn(K, B, J, seed=45)
    log_q_z = gaussian.log_prob(z, mu, log_var)
    log_w = polynomial(z) - log_q_z
    for baseline in (0.0, 1.5, gradients.leave_one_out(log_w)):
        surrogate = gradients.score_function_surrogate(log_w, log_q_z, baseline=baseline)
        assert_close(surrogate.detach(), log_w.detach())
        d_mu, d_log_var = torch.autograd.grad(surrogate.mean(0).sum(), (mu, log_var), retain_graph=True)
        result = gradients.score_function(log_w, z, mu, log_var, baseline=baseline)
        assert_close(d_mu, result.mu.mean(0).detach())
        assert_close(d_log_var, result.log_var.mean(0).detach())


def test_the_path_derivative_surrogate_has_the_value_and_the_gradient() -> None:
    mu, log_var = (t.requires_grad_() for t in example(46, B, J))
    eps = randn(K, B, J, seed=48)
    z = gaussian.reparameterize(eps, mu, log_var)
    surrogate = gradients.path_derivative_surrogate(polynomial, gaussian.log_prob, z, mu, log_var)
    assert_close(surrogate, polynomial(z) - gaussian.log_prob(z, mu, log_var))
    d_mu, d_log_var = torch.autograd.grad(surrogate.mean(0).sum(), (mu, log_var))
    result = gradients.path_derivative(polynomial, eps, mu, log_var)
    assert_close(d_mu, result.mu.mean(0))
    assert_close(d_log_var, result.log_var.mean(0))


def test_log_w_itself_is_the_pathwise_surrogate() -> None:
    mu, log_var = (t.requires_grad_() for t in example(49, B, J))
    eps = randn(K, B, J, seed=51)
    z = gaussian.reparameterize(eps, mu, log_var)
    log_w = polynomial(z) - gaussian.log_prob(z, mu, log_var)
    d_mu, d_log_var = torch.autograd.grad(log_w.mean(0).sum(), (mu, log_var))
    result = gradients.pathwise(polynomial, eps, mu, log_var)
    assert_close(d_mu, result.mu.mean(0))
    assert_close(d_log_var, result.log_var.mean(0))


def test_surrogates_serve_a_family_with_correlations() -> None:
    """Full covariance against a correlated Gaussian target: the gradients of minus the KL, by nodes."""
    mu, scale_tril = randn(1, J, seed=52), torch.tensor([[[1.3, 0.0], [-0.6, 0.7]]], dtype=torch.float64)
    mu_p, scale_tril_p = randn(J, seed=53), torch.tensor([[0.8, 0.0], [0.5, 1.1]], dtype=torch.float64)
    nodes, weights = gauss_hermite(4, J)
    expected = assert_finite_gradients(lambda m, s: -full_gaussian.kl(m, s, mu_p, scale_tril_p), mu, scale_tril)
    mu.requires_grad_(), scale_tril.requires_grad_()

    def log_joint(z):
        return full_gaussian.log_prob(z, mu_p, scale_tril_p)

    z = full_gaussian.reparameterize(nodes[:, None], mu, scale_tril)
    log_q_z = full_gaussian.log_prob(z.detach(), mu, scale_tril)
    log_w = log_joint(z.detach()) - log_q_z
    for surrogate in (
        gradients.score_function_surrogate(log_w, log_q_z),
        gradients.score_function_surrogate(log_w, log_q_z, baseline=-7.0),
        gradients.path_derivative_surrogate(log_joint, full_gaussian.log_prob, z, mu, scale_tril),
        log_joint(z) - full_gaussian.log_prob(z, mu, scale_tril),
    ):
        found = torch.autograd.grad(expectation(surrogate, weights).sum(), (mu, scale_tril), retain_graph=True)
        assert_close(found[0], expected[0], 1e-11)
        assert_close(found[1], expected[1].tril(), 1e-11)


def test_surrogates_send_no_gradient_where_none_belongs() -> None:
    """Not through the signal, not through a baseline, and not into q's parameters inside log q."""
    log_w, log_q_z, baseline = (randn(K, B, seed=seed).requires_grad_() for seed in (54, 55, 56))
    surrogate = gradients.score_function_surrogate(log_w, log_q_z, baseline=baseline)
    found = torch.autograd.grad(surrogate.sum(), (log_w, log_q_z, baseline), allow_unused=True)
    assert found[0] is None
    assert found[2] is None
    assert_close(found[1], (log_w - baseline).detach())
    mu, log_var = (t.requires_grad_() for t in example(57, B, J))
    z = randn(K, B, J, seed=59).requires_grad_()
    surrogate = gradients.path_derivative_surrogate(polynomial, gaussian.log_prob, z, mu, log_var)
    assert torch.autograd.grad(surrogate.sum(), (mu, log_var), retain_graph=True, allow_unused=True) == (None, None)
    assert torch.autograd.grad(surrogate.sum(), z)[0].abs().min() > 0


# shapes, contexts, extreme inputs


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sample_has_its_own_gradient(dtype: torch.dtype) -> None:
    mu, log_var = (t.to(dtype) for t in example(60, B, J))
    eps, log_w = randn(K, B, J, seed=62, dtype=dtype), randn(K, B, seed=63, dtype=dtype)
    for result in (
        gradients.score(eps, mu, log_var),
        gradients.score_function(log_w, eps, mu, log_var),
        gradients.score_function(log_w, eps, mu, torch.zeros((), dtype=dtype), baseline=log_w[0]),
        gradients.score_function(log_w, eps, mu[0], log_var[:, :1]),
        gradients.pathwise(polynomial, eps, mu, log_var),
        gradients.pathwise(polynomial, eps[:, :1], mu, log_var[0, 0]),
        gradients.path_derivative(polynomial, eps, mu, log_var),
        gradients.path_derivative(polynomial, eps, mu[0], log_var[:, :1]),
    ):
        assert isinstance(result, Gradient)
        for part in result:
            assert part.shape == (K, B, J)
            assert part.dtype == dtype
    assert gradients.leave_one_out(log_w).shape == (K, B)
    assert gradients.optimal_baseline(log_w, eps).shape == (B,)
    surrogate = gradients.score_function_surrogate(log_w, log_w, baseline=log_w[0])
    assert surrogate.shape == (K, B)
    assert surrogate.dtype == dtype


def test_a_shared_log_variance_gives_the_gradients_of_each_coordinate() -> None:
    mu, eps = randn(B, J, seed=64), randn(K, B, J, seed=65)
    shared, full = torch.tensor(0.4).double(), torch.full((B, J), 0.4).double()
    for estimator in PATHS:
        for a, b in zip(estimator(polynomial, eps, mu, shared), estimator(polynomial, eps, mu, full), strict=True):
            assert_close(a, b, 1e-7)
    for a, b in zip(gradients.score(eps, mu, shared), gradients.score(eps, mu, full), strict=True):
        assert_close(a, b, 1e-7)


@pytest.mark.parametrize("estimator", PATHS)
def test_the_path_gradients_are_plain_numbers_and_touch_nothing(estimator) -> None:
    """Under no_grad too; a model with parameters of its own gets no gradient from the call."""
    mu, log_var = (t.requires_grad_() for t in example(66, B, J))
    eps, scale = randn(K, B, J, seed=68), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    result = estimator(lambda z: scale * polynomial(z), eps, mu, log_var)
    with torch.no_grad():
        again = estimator(lambda z: scale * polynomial(z), eps, mu, log_var)
    for part, same in zip(result, again, strict=True):
        assert not part.requires_grad
        assert torch.equal(part, same)
    assert mu.grad is log_var.grad is scale.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log_var", [-60.0, 60.0])
def test_extreme_variances_give_finite_gradients(log_var: float, dtype: torch.dtype) -> None:
    mu, eps = randn(B, J, seed=69, dtype=dtype), randn(K, B, J, seed=70, dtype=dtype)
    variance = torch.full((B, J), log_var, dtype=dtype)
    z = (0.5 * variance).exp() * eps
    for result in (
        gradients.score(z, 0 * mu, variance),
        gradients.score_function(eps[..., 0], z, 0 * mu, variance),
        gradients.pathwise(lambda z: -z.square().sum(-1), eps, mu, variance),
        gradients.path_derivative(lambda z: -z.square().sum(-1), eps, mu, variance),
    ):
        for part in result:
            assert torch.isfinite(part).all()
    assert_close(gradients.score(z, 0 * mu, variance).log_var, 0.5 * (eps.square() - 1), 1e-4)


def test_a_step_has_no_slope() -> None:
    """A discontinuous integrand: the pathwise gradient is 0 for every sample, though the expectation has a slope."""
    eps, zero = randn(K, B, 1, seed=71), torch.zeros(B, 1, dtype=torch.float64)
    result = gradients.pathwise(lambda z: 0.5 * (1 + z.sign()).sum(-1), eps, zero, zero)
    assert_close(result.mu, torch.zeros(K, B, 1, dtype=torch.float64))


# bad input


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def test_samples_of_the_wrong_shape_are_refused() -> None:
    log_w, mu = zeros(K, B), zeros(B, 5)
    for z, m, v in (
        (zeros(K, B, 4), mu, mu),
        (zeros(K, B, 1), mu, mu),
        (zeros(K, B, 5), zeros(B, 1), mu),
        (zeros(K, B, 5), mu, zeros(B, 4)),
        (zeros(K, 2, 5), mu, mu),
    ):
        shapes = [tuple(t.shape) for t in (z, m, v)]
        assert_refused(lambda z=z, m=m, v=v: gradients.score(z, m, v), "z", "mu", "log_var", *shapes)
        assert_refused(lambda z=z, m=m, v=v: gradients.score_function(log_w, z, m, v), "z", "mu", "log_var", *shapes)
        for estimator in PATHS:
            assert_refused(
                lambda f=estimator, z=z, m=m, v=v: f(lambda z: z.sum(-1), z, m, v), "eps", "mu", "log_var", *shapes
            )


def test_log_weights_of_the_wrong_shape_are_refused() -> None:
    z, mu = zeros(K, B, J), zeros(B, J)
    for shape in ((B,), (K,), (B, K), (K, 1), (1, B), (K, B, J), ()):
        assert_refused(lambda s=shape: gradients.score_function(zeros(*s), z, mu, mu), "log_w", "z", shape, (K, B, J))
    for shape in ((K,), (K, B, 1), (2, K, B), (K, 2)):
        assert_refused(
            lambda s=shape: gradients.score_function(zeros(K, B), z, mu, mu, baseline=zeros(*s)),
            "baseline",
            "log_w",
            shape,
            (K, B),
        )
        assert_refused(
            lambda s=shape: gradients.score_function_surrogate(zeros(K, B), zeros(K, B), baseline=zeros(*s)),
            "baseline",
            "log_w",
            shape,
            (K, B),
        )
    for shape in ((B,), (K, 1), (K, B, J)):
        assert_refused(
            lambda s=shape: gradients.score_function_surrogate(zeros(K, B), zeros(*s)),
            "log_w",
            "log_q_z",
            (K, B),
            shape,
        )


def test_baselines_refuse_what_they_cannot_use() -> None:
    for shape in ((), (1,), (1, B), (0, B)):
        assert_refused(lambda s=shape: gradients.leave_one_out(zeros(*s)), "log_w", shape)
    for log_w, scores in (
        (zeros(K, B), zeros(K, B)),
        (zeros(K, B), zeros(K, 1, J)),
        (zeros(K, B), zeros(B, K, J)),
        (zeros(), zeros(J)),
        (zeros(0, B), zeros(0, B, J)),
    ):
        shapes = tuple(log_w.shape), tuple(scores.shape)
        assert_refused(lambda a=log_w, b=scores: gradients.optimal_baseline(a, b), "log_w", "scores", *shapes)
    for shape in ((B,), (K, 1), ()):
        assert_refused(
            lambda s=shape: gradients.optimal_baseline(zeros(K, B), zeros(K, B, J), log_weight=zeros(*s)),
            "log_weight",
            shape,
        )


def test_a_log_joint_of_the_wrong_kind_is_refused() -> None:
    eps, mu = zeros(K, B, J), zeros(B, J)
    other = torch.zeros((), requires_grad=True)
    for estimator in PATHS:
        for log_joint, words in (
            (lambda z: z.sum(), ("log_joint", (), (K, B, J))),
            (lambda z: z, ("log_joint", (K, B, J))),
            (lambda z: z.sum((-1, 0)), ("log_joint", (B,))),
            (lambda z: (z > 0).float().sum(-1), ("log_joint", "differentiable")),
            (lambda z: other * torch.ones(K, B), ("log_joint", "differentiable")),
        ):
            assert_refused(lambda f=estimator, g=log_joint: f(g, eps, mu, mu), *words)
    for log_joint in (lambda z: z.sum(), lambda z: z.sum((-1, 0))):
        assert_refused(
            lambda g=log_joint: gradients.path_derivative_surrogate(g, gaussian.log_prob, eps, mu, mu),
            "log_joint",
            "log_prob",
            (K, B, J),
            (K, B),
        )


def test_a_baseline_that_is_no_tensor_is_refused() -> None:
    z, mu, log_w = torch.zeros(4, 3, 1), torch.zeros(3, 1), torch.zeros(4, 3)
    with pytest.raises(TypeError, match=r"baseline.*ndarray"):
        gradients.score_function(log_w, z, mu, mu, baseline=torch.zeros(3, 4).numpy())


def test_the_score_at_the_mean_of_the_narrowest_gaussians() -> None:
    zero = torch.zeros(1, 1)
    score = gradients.score(zero, zero, torch.full((1, 1), -100.0))
    assert (score.mu.item(), score.log_var.item()) == (0.0, -0.5)


# the gradient of the K-sample bound


SLOPE, NOISE, X = 1.3, 0.6, 0.9  # x = SLOPE z + noise of variance NOISE, with z ~ N(0, 1)


def one_dimensional(z: Tensor) -> Tensor:
    """log p(x, z) of the linear Gaussian with one latent."""
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi))
    return (log_prior - 0.5 * ((X - SLOPE * z) ** 2 / NOISE + math.log(2 * math.pi * NOISE))).sum(-1)


def log_weights(eps: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    z = gaussian.reparameterize(eps, mu, log_var)
    return one_dimensional(z) - gaussian.log_prob(z, mu, log_var)


def k_nodes(num_samples: int, num_nodes: int = 60) -> tuple[Tensor, Tensor]:
    """Nodes for K draws at once, as (K, B, 1) noise with one combination for each b, and their log-weights, (B,)."""
    nodes = quadrature.gauss_hermite(num_nodes, num_samples)
    return nodes.z.T.unsqueeze(-1), nodes.log_weight


def bound_and_gradient(num_samples: int, mu: float, log_var: float) -> tuple[Tensor, Tensor]:
    """L_K and its gradient by autograd, both integrated at the nodes."""
    eps, log_weight = k_nodes(num_samples)
    parameters = [torch.tensor([[value]], dtype=torch.float64, requires_grad=True) for value in (mu, log_var)]
    log_w = log_weights(eps, *(p.expand(eps.shape[1], 1) for p in parameters))
    value = (log_weight.exp() * bounds.iwae(log_w)).sum()
    return value, torch.cat(torch.autograd.grad(value, parameters)).flatten()


def expected(kind: str, num_samples: int, mu: float, log_var: float) -> Tensor:
    """The expectation of an estimator, (2,)."""
    eps, log_weight = k_nodes(num_samples)
    q = [torch.full((eps.shape[1], 1), value, dtype=torch.float64) for value in (mu, log_var)]
    path, power = {
        "plain": (gradients.pathwise, 1),
        "dreg": (gradients.path_derivative, 2),
        "sticking": (gradients.path_derivative, 1),
    }[kind]
    one = gradients.importance_weighted(path(one_dimensional, eps, *q), log_weights(eps, *q), power=power)
    return torch.stack([(log_weight.exp() * part.sum(0).squeeze(-1)).sum() for part in one])


@pytest.mark.parametrize("kind", ["plain", "dreg"])
@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_both_gradients_of_the_k_sample_bound_are_unbiased(kind: str, num_samples: int) -> None:
    """At 60 nodes a draw the doubly reparameterized one agrees as far as the nodes integrate: 1e-9."""
    _, gradient = bound_and_gradient(num_samples, 0.2, -0.8)
    assert gradient.abs().min() > 0.02
    assert_close(expected(kind, num_samples, 0.2, -0.8), gradient, 1e-12 if kind == "plain" else 1e-9)


def test_sticking_the_landing_is_biased_by_the_weighted_score_for_more_than_one_sample() -> None:
    mu, log_var = 0.2, -0.8
    assert_close(expected("sticking", 1, mu, log_var), bound_and_gradient(1, mu, log_var)[1], 1e-9)
    eps, log_weight = k_nodes(2)
    q = [torch.full((eps.shape[1], 1), value, dtype=torch.float64) for value in (mu, log_var)]
    score = gradients.score(gaussian.reparameterize(eps, *q), *q)
    weighted = gradients.importance_weighted(score, log_weights(eps, *q))
    bias = torch.stack([(log_weight.exp() * part.sum(0).squeeze(-1)).sum() for part in weighted])
    assert bias.abs().min() > 0.02
    assert_close(expected("sticking", 2, mu, log_var), bound_and_gradient(2, mu, log_var)[1] + bias, 1e-12)


def test_importance_weighted_refuses_shapes_that_broadcasting_would_hide() -> None:
    one = gradients.Gradient(torch.ones(4, 3, 2), torch.ones(4, 3, 2))
    assert_refused(lambda: gradients.importance_weighted(one, torch.zeros(4)), "(4,)", "(4, 3, 2)")
    assert_refused(lambda: gradients.importance_weighted(one, torch.zeros(3, 4)), "(3, 4)")
    assert_refused(
        lambda: gradients.importance_weighted(one._replace(log_var=one.mu[:1]), torch.zeros(4, 3)), "(1, 3, 2)"
    )
