"""full_gaussian: closed forms against matrix formulas, torch.distributions, quadrature and the diagonal case."""

import math

import pytest
import torch
from oracles import (
    assert_close,
    assert_finite_gradients,
    assert_refused,
    expectation,
    gauss_hermite,
    randn,
    trapezoid_grid,
)
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vae_tutorial import full_gaussian, gaussian

DTYPES = [torch.float32, torch.float64]
K, B, J = 4, 3, 5


def factor(*shape: int, seed: int) -> Tensor:
    """Lower triangular matrices (*shape, J) with a positive diagonal, spread over a factor of about ten."""
    matrix = randn(*shape, shape[-1], seed=seed)
    return matrix.tril(-1) + (0.6 * matrix.diagonal(dim1=-2, dim2=-1)).exp().diag_embed()


def example(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    return 1.5 * randn(*shape, seed=seed), factor(*shape, seed=seed + 1)


# log_prob


def test_log_prob_equals_the_formula_with_the_covariance() -> None:
    mu, scale_tril = example(0, B, J)
    z = randn(K, B, J, seed=2)
    value = full_gaussian.log_prob(z, mu, scale_tril)
    for b in range(B):
        covariance = scale_tril[b] @ scale_tril[b].T
        for k in range(K):
            difference = z[k, b] - mu[b]
            squares = difference @ torch.linalg.inv(covariance) @ difference
            naive = -0.5 * (J * math.log(2 * math.pi) + torch.linalg.det(covariance).log() + squares)
            assert_close(value[k, b], naive, 1e-11)


def test_log_prob_agrees_with_torch_distributions() -> None:
    mu, scale_tril = example(3, B, J)
    z = randn(K, B, J, seed=5)
    expected = MultivariateNormal(mu, scale_tril=scale_tril).log_prob(z)
    assert_close(full_gaussian.log_prob(z, mu, scale_tril), expected, 1e-11)


def test_log_prob_integrates_to_one() -> None:
    mu, scale_tril = torch.tensor([0.7, -0.4]).double(), torch.tensor([[1.2, 0.0], [0.9, 0.8]]).double()
    z, cell = trapezoid_grid(2, 10.0, 0.1)
    total = cell * full_gaussian.log_prob(z, mu, scale_tril).exp().sum()
    assert_close(total, torch.tensor(1.0, dtype=torch.float64), 1e-10)


def test_a_diagonal_factor_gives_the_diagonal_gaussian() -> None:
    mu, log_var, mu_p, log_var_p = (randn(B, J, seed=seed) for seed in range(6, 10))
    z = randn(K, B, J, seed=10)
    scale_tril, scale_tril_p = ((0.5 * v).exp().diag_embed() for v in (log_var, log_var_p))
    assert_close(full_gaussian.log_prob(z, mu, scale_tril), gaussian.log_prob(z, mu, log_var))
    assert_close(full_gaussian.reparameterize(z, mu, scale_tril), gaussian.reparameterize(z, mu, log_var))
    assert_close(full_gaussian.entropy(scale_tril), gaussian.entropy(log_var))
    expected = gaussian.kl(mu, log_var, mu_p, log_var_p)
    assert_close(full_gaussian.kl(mu, scale_tril, mu_p, scale_tril_p), expected, 1e-11)
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    expected = gaussian.sample(mu, log_var, K, generator=draws[0])
    assert_close(full_gaussian.sample(mu, scale_tril, K, generator=draws[1]), expected)


# reparameterize


def test_reparameterize_is_the_matrix_times_the_noise() -> None:
    mu, scale_tril = example(11, B, J)
    eps = randn(K, B, J, seed=13)
    value = full_gaussian.reparameterize(eps, mu, scale_tril)
    for k in range(K):
        for b in range(B):
            naive = [mu[b, i] + sum(scale_tril[b, i, j] * eps[k, b, j] for j in range(i + 1)) for i in range(J)]
            assert_close(value[k, b], torch.stack(naive))


def test_reparameterized_nodes_have_exactly_the_mean_and_the_covariance() -> None:
    mu, scale_tril = example(14, B, 3)
    nodes, weights = gauss_hermite(2, 3)
    z = full_gaussian.reparameterize(nodes[:, None], mu, scale_tril)
    assert_close(expectation(z, weights), mu)
    centred = z - mu
    covariance = expectation(centred.unsqueeze(-1) * centred.unsqueeze(-2), weights)
    assert_close(covariance, scale_tril @ scale_tril.mT, 1e-11)


def test_log_prob_of_a_reparameterized_point_is_the_change_of_variables() -> None:
    """log q(z) = log N(eps; 0, I) - log |det L|: the density of a pushforward."""
    mu, scale_tril = example(16, B, J)
    eps, zeros = randn(K, B, J, seed=18), torch.zeros(J, dtype=torch.float64)
    z = full_gaussian.reparameterize(eps, mu, scale_tril)
    pushed = gaussian.log_prob(eps, zeros, zeros) - torch.linalg.det(scale_tril).log()
    assert_close(full_gaussian.log_prob(z, mu, scale_tril), pushed, 1e-11)


# sample


def test_sample_moments() -> None:
    """Means and covariances of 40,000 draws within 4.5 standard errors.

    The standard error of an entry of the covariance is sqrt((S_ii S_jj + S_ij^2) / K): a transposed factor, or a
    covariance in place of its factor, moves some entry by far more.
    """
    num_samples = 40_000
    mu, scale_tril = example(19, 3)
    z = full_gaussian.sample(mu, scale_tril, num_samples, generator=torch.Generator().manual_seed(0))
    covariance = scale_tril @ scale_tril.T
    variance = covariance.diagonal()
    assert ((z.mean(0) - mu).abs() < 4.5 * (variance / num_samples).sqrt()).all()
    standard_error = ((variance[:, None] * variance + covariance**2) / num_samples).sqrt()
    assert ((z.T.cov() - covariance).abs() < 4.5 * standard_error).all()


@pytest.mark.parametrize(("mu_shape", "batch"), [((B, J), (B,)), ((B, J), ()), ((J,), (B,)), ((1, J), (B,))])
def test_sample_draws_fresh_noise_for_every_data_point(mu_shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
    num_samples = 4_000
    mu, scale_tril = torch.zeros(mu_shape), torch.eye(J).expand(*batch, J, J)
    z = full_gaussian.sample(mu, scale_tril, num_samples, generator=torch.Generator().manual_seed(1))
    assert z.shape == (num_samples, B, J)
    correlation = torch.corrcoef(z.reshape(num_samples, -1).T) - torch.eye(B * J)
    assert correlation.abs().max() < 5 / math.sqrt(num_samples)


def test_sample_is_reparameterized_and_draws_from_the_given_generator_only() -> None:
    mu, scale_tril = (t.requires_grad_() for t in example(22, B, J))
    before = torch.get_rng_state()
    first, again = (full_gaussian.sample(mu, scale_tril, K, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    d_mu, d_scale = torch.autograd.grad(first.sum(), (mu, scale_tril))
    assert_close(d_mu, torch.full((B, J), float(K), dtype=torch.float64))
    eps = torch.linalg.solve_triangular(scale_tril, (first - mu).unsqueeze(-1), upper=False).sum(0).mT  # (B, 1, J)
    assert_close(d_scale, eps.expand(B, J, J).tril().detach(), 1e-9)


# kl and entropy


def test_kl_equals_the_formula_with_the_covariances() -> None:
    (mu_q, factor_q), (mu_p, factor_p) = example(24, B, J), example(26, B, J)
    value = full_gaussian.kl(mu_q, factor_q, mu_p, factor_p)
    for b in range(B):
        covariance_q, covariance_p = (f[b] @ f[b].T for f in (factor_q, factor_p))
        precision, difference = torch.linalg.inv(covariance_p), mu_q[b] - mu_p[b]
        log_det = torch.linalg.det(covariance_p).log() - torch.linalg.det(covariance_q).log()
        naive = 0.5 * ((precision @ covariance_q).trace() + difference @ precision @ difference - J + log_det)
        assert_close(value[b], naive, 1e-10)


def test_kl_agrees_with_torch_distributions() -> None:
    (mu_q, factor_q), (mu_p, factor_p) = example(28, B, J), example(30, B, J)
    expected = kl_divergence(
        MultivariateNormal(mu_q, scale_tril=factor_q), MultivariateNormal(mu_p, scale_tril=factor_p)
    )
    assert_close(full_gaussian.kl(mu_q, factor_q, mu_p, factor_p), expected, 1e-10)


def test_kl_is_the_expected_log_ratio() -> None:
    """E_q[log q - log p] with Gauss-Hermite nodes: the integrand is quadratic, so this is an equality."""
    (mu_q, factor_q), (mu_p, factor_p) = example(32, B, 2), example(34, B, 2)
    nodes, weights = gauss_hermite(2, 2)
    z = full_gaussian.reparameterize(nodes[:, None], mu_q, factor_q)
    log_ratio = full_gaussian.log_prob(z, mu_q, factor_q) - full_gaussian.log_prob(z, mu_p, factor_p)
    assert_close(full_gaussian.kl(mu_q, factor_q, mu_p, factor_p), expectation(log_ratio, weights), 1e-10)


def test_kl_is_zero_at_equality_positive_elsewhere_and_not_symmetric() -> None:
    (mu_q, factor_q), (mu_p, factor_p) = example(36, 50, J), example(38, 50, J)
    assert_close(full_gaussian.kl(mu_q, factor_q, mu_q, factor_q), torch.zeros(50, dtype=torch.float64))
    forward = full_gaussian.kl(mu_q, factor_q, mu_p, factor_p)
    assert (forward > 0).all()
    assert ((forward - full_gaussian.kl(mu_p, factor_p, mu_q, factor_q)).abs() > 1e-3).any()
    for gradient in assert_finite_gradients(full_gaussian.kl, mu_q, factor_q, mu_q, factor_q):
        assert_close(gradient, torch.zeros_like(gradient), 1e-10)


def test_kl_of_close_gaussians_keeps_its_digits() -> None:
    """L_q = (1 + h) I against I: J (h - log(1 + h) + h^2 / 2) = J (h^2 - h^3 / 3 + ...), far below 1e-16 here."""
    h = 1e-9
    eye, zeros = torch.eye(J, dtype=torch.float64), torch.zeros(J, dtype=torch.float64)
    assert full_gaussian.kl(zeros, (1 + h) * eye, zeros, eye).item() == pytest.approx(J * h**2, rel=1e-6, abs=0)


def test_kl_does_not_change_under_a_linear_map_of_both() -> None:
    (mu_q, factor_q), (mu_p, factor_p) = example(40, B, J), example(42, B, J)
    map_ = factor(J, seed=44)
    moved = [m for mu, f in ((mu_q, factor_q), (mu_p, factor_p)) for m in (mu @ map_.T, map_ @ f)]
    assert_close(full_gaussian.kl(*moved), full_gaussian.kl(mu_q, factor_q, mu_p, factor_p), 1e-10)


def test_entropy_equals_torch_distributions_and_minus_the_expected_log_density() -> None:
    mu, scale_tril = example(45, B, 2)
    assert_close(full_gaussian.entropy(scale_tril), MultivariateNormal(mu, scale_tril=scale_tril).entropy())
    nodes, weights = gauss_hermite(2, 2)
    log_q = full_gaussian.log_prob(full_gaussian.reparameterize(nodes[:, None], mu, scale_tril), mu, scale_tril)
    assert_close(full_gaussian.entropy(scale_tril), -expectation(log_q, weights), 1e-11)


# shapes, broadcasting, gradients


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_keep_the_dtype_and_the_leading_axes(dtype: torch.dtype) -> None:
    mu, scale_tril = (t.to(dtype) for t in example(47, B, J))
    z = randn(K, B, J, seed=49, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    results = {
        "log_prob": (full_gaussian.log_prob(z, mu, scale_tril), (K, B)),
        "log_prob with two axes of samples": (full_gaussian.log_prob(z.expand(2, K, B, J), mu, scale_tril), (2, K, B)),
        "log_prob without K": (full_gaussian.log_prob(z[0], mu, scale_tril), (B,)),
        "log_prob of one point": (full_gaussian.log_prob(z[0, 0], mu[0], scale_tril[0]), ()),
        "log_prob of one point under many": (full_gaussian.log_prob(z[0, 0], mu[0], scale_tril), (B,)),
        "log_prob with one factor": (full_gaussian.log_prob(z, mu, scale_tril[0]), (K, B)),
        "reparameterize": (full_gaussian.reparameterize(z, mu, scale_tril), (K, B, J)),
        "reparameterize with one factor": (full_gaussian.reparameterize(z, mu[0], scale_tril[0]), (K, B, J)),
        "sample": (full_gaussian.sample(mu, scale_tril, K, generator=generator), (K, B, J)),
        "kl": (full_gaussian.kl(mu, scale_tril, mu + 1, scale_tril), (B,)),
        "kl with K": (full_gaussian.kl(z, scale_tril, mu, scale_tril), (K, B)),
        "kl to one": (full_gaussian.kl(mu, scale_tril, mu[0], scale_tril[0]), (B,)),
        "kl of one": (full_gaussian.kl(mu[0], scale_tril[0], mu, scale_tril), (B,)),
        "entropy": (full_gaussian.entropy(scale_tril), (B,)),
    }
    for name, (result, shape) in results.items():
        assert result.shape == shape, name
        assert result.dtype == dtype, name


def test_broadcasting_is_repetition() -> None:
    mu, scale_tril = example(50, B, J)
    z = randn(K, B, J, seed=52)
    full = scale_tril[1].expand(B, J, J)
    assert_close(full_gaussian.log_prob(z, mu, scale_tril[1]), full_gaussian.log_prob(z, mu, full))
    many = full_gaussian.log_prob(z, mu, scale_tril)
    for k in range(K):
        for b in range(B):
            assert_close(many[k, b], full_gaussian.log_prob(z[k, b], mu[b], scale_tril[b]))
    one = full_gaussian.log_prob(z[0, 0], mu[0], scale_tril)
    assert_close(one[2], full_gaussian.log_prob(z[0, 0], mu[0], scale_tril[2]))
    assert_close(full_gaussian.kl(z, scale_tril, mu, full)[1], full_gaussian.kl(z[1], scale_tril, mu, full))


def test_only_the_lower_triangle_is_read() -> None:
    (mu, scale_tril), (mu_p, scale_tril_p) = example(53, B, J), example(55, B, J)
    z, above = randn(K, B, J, seed=57), torch.ones(J, J, dtype=torch.float64).triu(1)
    for function, arguments in (
        (full_gaussian.log_prob, (z, mu, scale_tril)),
        (full_gaussian.reparameterize, (z, mu, scale_tril)),
        (full_gaussian.kl, (mu, scale_tril, mu_p, scale_tril_p)),
        (full_gaussian.entropy, (scale_tril,)),
    ):
        filled = [t + above if t.shape == (B, J, J) else t for t in arguments]
        assert_close(function(*filled), function(*arguments))


def test_every_closed_form_is_differentiable() -> None:
    (mu, scale_tril), (mu_p, scale_tril_p) = example(58, 2, 2), example(60, 2, 2)
    z = randn(2, 2, 2, seed=62)
    leaves = [t.requires_grad_() for t in (z, mu, scale_tril, mu_p, scale_tril_p)]
    z, mu, scale_tril, mu_p, scale_tril_p = leaves
    assert torch.autograd.gradcheck(full_gaussian.log_prob, (z, mu, scale_tril))
    assert torch.autograd.gradcheck(full_gaussian.reparameterize, (z, mu, scale_tril))
    assert torch.autograd.gradcheck(full_gaussian.kl, (mu, scale_tril, mu_p, scale_tril_p))
    assert torch.autograd.gradcheck(full_gaussian.entropy, (scale_tril,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log_var", [-60.0, 60.0])
def test_extreme_variances_give_finite_values_and_gradients(log_var: float, dtype: torch.dtype) -> None:
    mu, eps = randn(B, J, seed=63, dtype=dtype), randn(K, B, J, seed=64, dtype=dtype)
    scale_tril = factor(B, J, seed=65).to(dtype) * math.exp(log_var / 2)
    # At points far from the mean the density's gradient in L is of the order e^90, more than float32 holds: values there,
    # gradients at points that q could have drawn.
    assert torch.isfinite(full_gaussian.log_prob(eps, mu, scale_tril)).all()
    z = full_gaussian.reparameterize(eps, 0 * mu, scale_tril)
    assert_finite_gradients(full_gaussian.log_prob, z, 0 * mu, scale_tril)
    assert_finite_gradients(full_gaussian.reparameterize, eps, mu, scale_tril)
    assert_finite_gradients(full_gaussian.entropy, scale_tril)
    other = factor(B, J, seed=66).to(dtype)
    assert_finite_gradients(full_gaussian.kl, mu, scale_tril, mu + 1, other)
    assert_finite_gradients(full_gaussian.kl, mu, scale_tril, mu, scale_tril)


# bad input


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


def test_shapes_that_do_not_fit_are_refused() -> None:
    eye = torch.eye(5)
    for function, name in ((full_gaussian.log_prob, "z"), (full_gaussian.reparameterize, "eps")):
        for arguments in (
            (zeros(B, 4), zeros(B, 5), eye),
            (zeros(B, 1), zeros(B, 5), eye),  # what broadcasting would hide
            (zeros(B, 5), zeros(B, 1), eye),
            (zeros(B, 5), zeros(B, 5), eye[:4, :4]),
            (zeros(B, 5), zeros(B, 5), eye[:1, :1]),
            (zeros(B, 5), zeros(B, 5), eye[:4]),
            (zeros(B, 5), zeros(B, 5), eye[0]),
            (zeros(2, 5), zeros(B, 5), eye),
            (zeros(B, 5), zeros(B, 5), eye.expand(2, 5, 5)),
            (zeros(), zeros(B, 5), eye),
        ):
            shapes = [tuple(tensor.shape) for tensor in arguments]
            assert_refused(lambda f=function, a=arguments: f(*a), name, "mu", "scale_tril", *shapes)
    assert_refused(lambda: full_gaussian.sample(zeros(B, 4), eye, K), "mu", "scale_tril", (B, 4), (5, 5))
    assert_refused(lambda: full_gaussian.sample(zeros(B, 5), eye, 0), "num_samples", "0")
    for shape in ((), (5,), (4, 5), (B, 5)):
        assert_refused(lambda s=shape: full_gaussian.entropy(zeros(*s)), "scale_tril", shape)


def test_kl_refuses_shapes_that_do_not_fit() -> None:
    mu, eye = zeros(B, 5), torch.eye(5)
    for arguments in (
        (mu, eye, zeros(B, 4), eye),
        (mu, eye, zeros(1), eye),
        (mu, eye, mu, eye[:4, :4]),
        (mu, eye[:1, :1], mu, eye),
        (mu, eye, zeros(2, 5), eye),
        (mu, eye.expand(2, 5, 5), mu, eye),
    ):
        shapes = [tuple(tensor.shape) for tensor in arguments]
        names = ("mu_q", "mu_p", "scale_tril_q", "scale_tril_p")
        assert_refused(lambda a=arguments: full_gaussian.kl(*a), *names, *shapes)


def test_one_sample_is_drawn_on_the_means_device() -> None:
    z = full_gaussian.sample(torch.zeros(3, 2, device="meta"), torch.eye(2, device="meta"), 1)
    assert z.shape == (1, 3, 2)
    assert z.device.type == "meta"
