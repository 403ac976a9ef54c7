"""quadrature: moments of the normal distribution, scipy's nodes, closed-form expectations, and where the rule ends."""

import math

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn
from oracles import gauss_hermite as oracle_nodes
from scipy.special import roots_hermitenorm

from vae_tutorial import bounds, gaussian, quadrature

DTYPES = [torch.float32, torch.float64]
B, J = 3, 2


def normal_moment(degree: int) -> float:
    """E eps^degree under N(0, 1): (degree - 1)!! for an even degree, 0 for an odd one."""
    return 0.0 if degree % 2 else math.prod(range(1, degree, 2))


# gauss_hermite


def test_the_smallest_rules_are_the_textbook_ones() -> None:
    for num_nodes, nodes, weights in (
        (1, [0.0], [1.0]),
        (2, [-1.0, 1.0], [0.5, 0.5]),
        (3, [-math.sqrt(3), 0.0, math.sqrt(3)], [1 / 6, 2 / 3, 1 / 6]),
    ):
        z, log_weight = quadrature.gauss_hermite(num_nodes)
        assert_close(z, torch.tensor(nodes, dtype=torch.float64).unsqueeze(1))
        assert_close(log_weight.exp(), torch.tensor(weights, dtype=torch.float64))


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 5, 8, 12])
def test_moments_are_exact_up_to_degree_2n_minus_1_and_off_by_n_factorial_at_2n(num_nodes: int) -> None:
    """The error at degree 2n is E He_n^2 = n!, the squared norm of the Hermite polynomial whose zeros are the nodes."""
    z, log_weight = quadrature.gauss_hermite(num_nodes)
    z, weight = z[:, 0], log_weight.exp()
    for degree in range(2 * num_nodes):
        scale = normal_moment(degree + degree % 2)
        assert abs((weight * z**degree).sum().item() - normal_moment(degree)) < 1e-12 * scale
    missing = normal_moment(2 * num_nodes) - (weight * z ** (2 * num_nodes)).sum().item()
    assert missing == pytest.approx(math.factorial(num_nodes), rel=1e-9)


@pytest.mark.parametrize("num_nodes", [7, 60, 300])
def test_nodes_and_weights_agree_with_scipy(num_nodes: int) -> None:
    """The logarithms too: at 300 nodes the outermost weight is about 1e-248."""
    nodes, weights = (torch.from_numpy(a) for a in roots_hermitenorm(num_nodes))
    z, log_weight = quadrature.gauss_hermite(num_nodes)
    assert_close(z[:, 0], nodes)
    assert_close(log_weight, (weights / weights.sum()).log(), 1e-11)


@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_the_grid_is_the_product_of_its_axes(num_latents: int) -> None:
    """Mixed moments E z_1^a z_2^b z_3^c, up to degree 2n - 1 in every coordinate at once."""
    z, log_weight = quadrature.gauss_hermite(4, num_latents)
    assert z.shape == (4**num_latents, num_latents)
    assert log_weight.shape == (4**num_latents,)
    for degrees in ((0, 0, 0), (1, 0, 0), (2, 4, 6), (6, 6, 6), (7, 2, 1), (4, 3, 2)):
        expected = math.prod(normal_moment(degree) for degree in degrees[:num_latents])
        value = (log_weight.exp() * math.prod(z[:, j] ** degrees[j] for j in range(num_latents))).sum().item()
        assert value == pytest.approx(expected, abs=1e-9)


def test_the_grid_is_the_one_the_other_tests_use() -> None:
    for num_nodes, num_latents in ((5, 1), (4, 2), (3, 3)):
        nodes, weights = oracle_nodes(num_nodes, num_latents)
        z, log_weight = quadrature.gauss_hermite(num_nodes, num_latents)
        assert_close(z, nodes)
        assert_close(log_weight.exp(), weights)


def test_exponential_moments_converge() -> None:
    """E exp(t z) = exp(t^2 / 2), no polynomial: the rule converges, fast."""
    errors = []
    for num_nodes in (5, 10, 20, 40):
        z, log_weight = quadrature.gauss_hermite(num_nodes)
        errors.append(abs(quadrature.log_expectation(2 * z[:, 0], log_weight).item() - 2))
    assert errors[0] > 1e-3
    assert errors[1] < 1e-4 * errors[0]
    assert errors[-1] < 1e-12


# gaussian_nodes


def test_gaussian_nodes_have_exactly_the_moments_of_the_gaussian() -> None:
    mu, log_var = randn(B, J, seed=0), randn(B, J, seed=1)
    z, log_weight = quadrature.gaussian_nodes(mu, log_var, 4)
    assert z.shape == (16, B, J)
    assert_close(quadrature.expectation(z, log_weight), mu)
    centred = z - mu
    covariance = quadrature.expectation(centred.unsqueeze(-1) * centred.unsqueeze(-2), log_weight)
    assert_close(covariance, log_var.exp().diag_embed())
    assert_close(quadrature.expectation(centred**4, log_weight), 3 * (2 * log_var).exp(), 1e-11)


def test_gaussian_nodes_give_the_closed_forms_of_gaussian() -> None:
    mu, log_var = randn(B, J, seed=2), randn(B, J, seed=3)
    z, log_weight = quadrature.gaussian_nodes(mu, log_var, 3)
    log_q, zero = gaussian.log_prob(z, mu, log_var), torch.zeros(J, dtype=torch.float64)
    assert_close(quadrature.expectation(-log_q, log_weight), gaussian.entropy(log_var))
    log_ratio = log_q - gaussian.log_prob(z, zero, zero)
    assert_close(quadrature.expectation(log_ratio, log_weight), gaussian.kl_to_standard_normal(mu, log_var))


def test_gradients_flow_through_the_nodes() -> None:
    """d E z^3 / d mu = 3 (mu^2 + sigma^2) and d E z^3 / d log_var = 3 mu sigma^2, from E z^3 = mu^3 + 3 mu sigma^2."""
    mu, log_var = randn(B, 1, seed=4), randn(B, 1, seed=5)

    def third_moment(mu, log_var):
        z, log_weight = quadrature.gaussian_nodes(mu, log_var, 2)
        return quadrature.expectation(z**3, log_weight)

    d_mu, d_log_var = assert_finite_gradients(third_moment, mu, log_var)
    assert_close(d_mu, 3 * (mu**2 + log_var.exp()), 1e-11)
    assert_close(d_log_var, 3 * mu * log_var.exp(), 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nodes_have_the_shape_of_samples(dtype: torch.dtype) -> None:
    for mu_shape, log_var_shape in (((B, J), (B, J)), ((B, J), ()), ((B, J), (1,)), ((J,), (B, J)), ((J,), (J,))):
        mu, log_var = torch.zeros(mu_shape, dtype=dtype), torch.ones(log_var_shape, dtype=dtype)
        nodes = quadrature.gaussian_nodes(mu, log_var, 3)
        assert nodes.z.shape == (9, *torch.broadcast_shapes(mu_shape, log_var_shape))
        assert nodes.z.dtype == nodes.log_weight.dtype == dtype
        variance = quadrature.expectation(nodes.z.square(), nodes.log_weight)
        assert_close(variance, torch.full_like(variance, math.e), 1e-5)
    nodes = quadrature.gauss_hermite(3, 2, dtype=dtype)
    assert nodes.z.dtype == nodes.log_weight.dtype == dtype


# expectation and log_expectation


def test_expectation_is_the_weighted_sum() -> None:
    values, weight = randn(4, B, J, seed=6), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    naive = [[sum(weight[k] * values[k, b, j] for k in range(4)).item() for j in range(J)] for b in range(B)]
    assert_close(quadrature.expectation(values, weight.log()), torch.tensor(naive, dtype=torch.float64))
    assert quadrature.expectation(values[:, 0, 0], weight.log()).shape == ()


def test_log_expectation_is_its_logarithm() -> None:
    log_values, weight = randn(4, B, J, seed=7), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = quadrature.expectation(log_values.exp(), weight.log()).log()
    assert_close(quadrature.log_expectation(log_values, weight.log()), expected)


def test_log_expectation_with_equal_weights_is_the_importance_weighted_bound() -> None:
    log_w = 3 * randn(5, B, seed=8)
    equal = torch.full((5,), -math.log(5), dtype=torch.float64)
    assert_close(quadrature.log_expectation(log_w, equal), bounds.iwae(log_w))
    assert_close(quadrature.expectation(log_w, equal), bounds.elbo(log_w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [-2e4, 2e4])
def test_log_expectation_does_not_leave_the_logarithms(offset: float, dtype: torch.dtype) -> None:
    log_values, (_, log_weight) = randn(9, B, seed=9), quadrature.gauss_hermite(9)
    value = quadrature.log_expectation((log_values + offset).to(dtype), log_weight.to(dtype))
    assert value.dtype == dtype
    expected = quadrature.log_expectation(log_values, log_weight) + offset
    assert_close(value.double(), expected, 1e-12 if dtype == torch.float64 else 1e-6)
    assert_finite_gradients(
        lambda v: quadrature.log_expectation(v, log_weight.to(dtype)), (log_values + offset).to(dtype)
    )


def test_a_value_of_zero_may_be_given_by_its_logarithm() -> None:
    log_values, log_weight = torch.tensor([-math.inf, 0.0]).double(), torch.tensor([0.5, 0.5]).double().log()
    assert quadrature.log_expectation(log_values, log_weight).item() == pytest.approx(-math.log(2), abs=1e-12)


# bad input


def test_too_few_and_too_many_nodes_are_refused() -> None:
    for num_nodes, num_latents in ((0, 1), (-3, 1), (301, 1), (5, 0), (10, 8)):
        assert_refused(
            lambda n=num_nodes, j=num_latents: quadrature.gauss_hermite(n, j),
            "num_nodes", "num_latents", str(num_nodes).lstrip("-"), str(num_latents),
        )  # fmt: skip
    assert_refused(lambda: quadrature.gaussian_nodes(torch.zeros(B, 8), torch.zeros(B, 8), 10), "num_latents", "8")


def test_gaussian_nodes_refuses_shapes_that_do_not_fit() -> None:
    zeros = torch.zeros
    assert_refused(lambda: quadrature.gaussian_nodes(zeros(()), zeros(()), 3), "mu", "log_var", ())
    assert_refused(lambda: quadrature.gaussian_nodes(zeros(B, 2), zeros(B, 3), 3), "mu", "log_var", (B, 2), (B, 3))
    assert_refused(lambda: quadrature.gaussian_nodes(zeros(B, 1), zeros(B, 2), 3), "mu", "log_var", (B, 1), (B, 2))


def test_values_that_do_not_belong_to_the_nodes_are_refused() -> None:
    log_weight = quadrature.gauss_hermite(4).log_weight
    for function, name in ((quadrature.expectation, "values"), (quadrature.log_expectation, "log_values")):
        for values in (torch.zeros(3, 4), torch.zeros(1, 4), torch.zeros(())):
            assert_refused(lambda f=function, v=values: f(v, log_weight), name, "log_weight", tuple(values.shape), (4,))
        assert_refused(lambda f=function: f(torch.zeros(4), torch.zeros(4, 1)), name, "log_weight", (4, 1))
        assert_refused(lambda f=function: f(torch.zeros(0), torch.zeros(0)), name, "log_weight", (0,))


def test_whole_numbers_are_no_type_for_nodes() -> None:
    assert_refused(lambda: quadrature.gauss_hermite(3, dtype=torch.int64), "dtype")
    assert_refused(lambda: quadrature.gaussian_nodes(torch.zeros(2, 1).long(), torch.zeros(2, 1).long(), 3), "dtype")
    assert_refused(lambda: quadrature.gauss_hermite(2.5), "num_nodes")


def test_the_grid_may_have_as_many_points_as_the_docstring_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit itself passes, one more does not; tried with a small one in place of ten million."""
    assert quadrature.MAX_POINTS == 10_000_000
    monkeypatch.setattr(quadrature, "MAX_POINTS", 9)
    assert len(quadrature.gauss_hermite(3, 2).z) == 9
    monkeypatch.setattr(quadrature, "MAX_POINTS", 8)
    assert_refused(lambda: quadrature.gauss_hermite(3, 2), "num_nodes", "8")
