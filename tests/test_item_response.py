"""item_response: the pass/fail model against sums over a fine grid, enumeration of all patterns, and scipy's optimiser."""

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
    normal_log_density,
    randn,
    trapezoid_grid,
)
from torch import Tensor

import vae_tutorial
from vae_tutorial import item_response, quadrature
from vae_tutorial.item_response import ItemResponse

DTYPES = [torch.float32, torch.float64]
B, D = 6, 5
MARKS = np.loadtxt(Path(vae_tutorial.__file__).parent / "datasets" / "exam_marks.csv", delimiter=",", skiprows=1)
PASSES = torch.from_numpy((MARKS >= 40).astype(float))  # (88, 5)
PATTERNS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=D)), dtype=torch.float64)  # (32, 5)


def pass_fail(num_latents: int, seed: int = 0) -> ItemResponse:
    """Weights and biases of order one, no two alike."""
    return ItemResponse(randn(D, num_latents, seed=seed), randn(D, seed=seed + 1))


def data(seed: int = 10, num_data: int = B) -> Tensor:
    return (randn(num_data, D, seed=seed) > 0).double()


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def naive_log_joint(model: ItemResponse, x: Tensor, z: Tensor) -> Tensor:
    """log N(z; 0, I) + log p(x | z) through probabilities, z (K, J) and x (B, D): (K, B)."""
    pi = 1 / (1 + torch.exp(-(z @ model.weight.T + model.bias)))  # (K, D)
    chosen = torch.where(x.bool(), pi[:, None], 1 - pi[:, None])  # (K, B, D)
    return -0.5 * (math.log(2 * math.pi) + z**2).sum(-1)[:, None] + chosen.log().sum(-1)


def bayes_on_a_grid(model: ItemResponse, x: Tensor, half_width: float = 9.0) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence (B,), posterior mean (B, J) and covariance (B, J, J), by sums over a fine grid."""
    num_latents = model.weight.shape[1]
    z, cell = trapezoid_grid(num_latents, half_width, 0.02 if num_latents == 1 else 0.1)
    log_joint = naive_log_joint(model, x, z)
    probability = log_joint.softmax(0)
    mean = probability.T @ z
    second = torch.einsum("kb,ki,kj->bij", probability, z, z)
    return log_joint.logsumexp(0) + math.log(cell), mean, second - mean[:, :, None] * mean[:, None, :]


# log_p_x_given_z and log_joint


@pytest.mark.parametrize("num_latents", [1, 2])
def test_log_joint_is_the_prior_times_the_likelihood(num_latents: int) -> None:
    model, x, z = pass_fail(num_latents), data(num_data=3), randn(2, 3, num_latents, seed=20)
    likelihood, joint = (torch.zeros(2, 3, dtype=torch.float64) for _ in range(2))
    for k, b in itertools.product(range(2), range(3)):
        for d in range(D):
            logit = model.bias[d] + sum(model.weight[d, j] * z[k, b, j] for j in range(num_latents))
            pi = sigmoid(logit.item())
            likelihood[k, b] += math.log(pi if x[b, d] == 1 else 1 - pi)
        prior = sum(normal_log_density(z[k, b, j].item(), 0.0, 1.0) for j in range(num_latents))
        joint[k, b] = prior + likelihood[k, b]
    assert_close(item_response.log_p_x_given_z(model, x, z), likelihood)
    assert_close(item_response.log_joint(model, x, z), joint)


@pytest.mark.parametrize("function", [item_response.log_p_x_given_z, item_response.log_joint])
def test_latents_may_be_many_or_shared(function) -> None:
    model, x, z = pass_fail(2), data(), randn(3, 4, B, 2, seed=21)
    many = function(model, x, z)
    assert many.shape == (3, 4, B)
    assert_close(function(model, x, z[1, 2]), many[1, 2])
    shared = z[0, :, :1]  # (4, 1, J)
    assert_close(function(model, x, shared), function(model, x, shared.expand(4, B, 2)))


# log_evidence


@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_the_probabilities_of_all_patterns_sum_to_one(num_latents: int) -> None:
    """For any number of nodes: at every node the likelihoods of the 32 patterns sum to 1, and so do the weights."""
    for num_nodes in (1, 4):
        nodes = quadrature.gauss_hermite(num_nodes, num_latents)
        log_evidence = item_response.log_evidence(pass_fail(num_latents), PATTERNS, nodes)
        assert_close(log_evidence.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(("num_latents", "num_nodes"), [(1, 120), (2, 60)])
def test_evidence_is_the_integral_of_the_joint(num_latents: int, num_nodes: int) -> None:
    model, x = pass_fail(num_latents), data()
    nodes = quadrature.gauss_hermite(num_nodes, num_latents)
    expected, _, _ = bayes_on_a_grid(model, x)
    assert_close(item_response.log_evidence(model, x, nodes), expected, 1e-9)


def test_evidence_without_weights_is_a_product_of_bernoullis() -> None:
    model, x = pass_fail(2)._replace(weight=torch.zeros(D, 2, dtype=torch.float64)), data()
    expected = [
        sum(math.log(sigmoid(s * b)) for s, b in zip((2 * row - 1).tolist(), model.bias.tolist(), strict=True))
        for row in x
    ]
    value = item_response.log_evidence(model, x, quadrature.gauss_hermite(2, 2))
    assert_close(value, torch.tensor(expected, dtype=torch.float64))


def test_evidence_does_not_change_when_the_latent_space_is_rotated() -> None:
    """Of the integral, that is: the grid is not round, so it takes enough nodes."""
    model, x, nodes = pass_fail(2), data(), quadrature.gauss_hermite(60, 2)
    c, s = math.cos(0.7), math.sin(0.7)
    rotated = model._replace(weight=model.weight @ torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    assert_close(item_response.log_evidence(rotated, x, nodes), item_response.log_evidence(model, x, nodes), 1e-9)


def test_evidence_of_the_passes_converges() -> None:
    """The fitted model of the book: at 40, 100 and 200 nodes the error is below 2e-4, 3e-7 and 2e-10."""
    model = item_response.fit(start(1), PASSES, quadrature.gauss_hermite(60))
    expected, _, _ = bayes_on_a_grid(model, PASSES)
    for num_nodes, tolerance in ((40, 3e-4), (100, 5e-7), (200, 5e-10)):
        value = item_response.log_evidence(model, PASSES, quadrature.gauss_hermite(num_nodes))
        assert (value - expected).abs().max() < tolerance


# posterior_moments


@pytest.mark.parametrize(("num_latents", "num_nodes"), [(1, 120), (2, 60)])
def test_posterior_has_the_moments_of_bayes_rule_on_a_grid(num_latents: int, num_nodes: int) -> None:
    model, x = pass_fail(num_latents), data()
    moments = item_response.posterior_moments(model, x, quadrature.gauss_hermite(num_nodes, num_latents))
    _, mean, covariance = bayes_on_a_grid(model, x)
    assert_close(moments.mean, mean, 1e-8)
    assert_close(moments.covariance, covariance, 1e-8)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_posteriors_average_to_the_prior(num_latents: int) -> None:
    """Over all patterns, weighted by their evidence: mean 0 and, with the spread of the means, covariance I."""
    model, nodes = pass_fail(num_latents), quadrature.gauss_hermite(4, num_latents)
    moments = item_response.posterior_moments(model, PATTERNS, nodes)
    evidence = item_response.log_evidence(model, PATTERNS, nodes).exp()
    assert_close(evidence @ moments.mean, torch.zeros(num_latents, dtype=torch.float64))
    second = moments.covariance + moments.mean[:, :, None] * moments.mean[:, None, :]
    assert_close(torch.einsum("b,bij->ij", evidence, second), torch.eye(num_latents, dtype=torch.float64))


def test_the_gradient_of_the_evidence_is_the_expected_residual() -> None:
    """Fisher's identity: d log p(x) / d b_d = x_d - E[pi_d given x], by autograd and by nodes of the posterior."""
    model, x, nodes = pass_fail(1), data(num_data=1), quadrature.gauss_hermite(30)

    def evidence(weight, bias):
        return item_response.log_evidence(ItemResponse(weight, bias), x, nodes)

    d_weight, d_bias = assert_finite_gradients(evidence, *model)
    posterior = (naive_log_joint(model, x, nodes.z)[:, 0] + 0.5 * nodes.z[:, 0] ** 2 + nodes.log_weight).softmax(0)
    residual = x[0] - (nodes.z @ model.weight.T + model.bias).sigmoid()  # (K, D)
    assert_close(d_bias, posterior @ residual)
    assert_close(d_weight[:, 0], posterior @ (residual * nodes.z))


# sample


def test_samples_have_the_frequencies_of_the_evidence() -> None:
    """All 32 patterns within 4.5 standard errors of their probability, 40,000 draws."""
    num_samples = 40_000
    model = pass_fail(2)
    z, x = item_response.sample(model, num_samples, generator=torch.Generator().manual_seed(0))
    assert z.shape == (num_samples, 2)
    assert ((x == 0) | (x == 1)).all()
    assert (z.mean(0).abs() < 4.5 / math.sqrt(num_samples)).all()
    assert ((z.square().mean(0) - 1).abs() < 4.5 * math.sqrt(2 / num_samples)).all()
    nodes = quadrature.gauss_hermite(40, 2)
    expected = item_response.log_evidence(model, PATTERNS, nodes).exp()
    frequency = (x[:, None] == PATTERNS).all(-1).double().mean(0)
    assert ((frequency - expected).abs() < 4.5 * (expected * (1 - expected) / num_samples).sqrt()).all()
    # z and x belong together: E[z x_d], against the same expectation by quadrature
    pi = (nodes.z @ model.weight.T + model.bias).sigmoid()
    cross = torch.einsum("k,kj,kd->jd", nodes.log_weight.exp(), nodes.z, pi)
    assert ((z.T @ x / num_samples - cross).abs() < 4.5 / math.sqrt(num_samples)).all()  # Var z_j x_d is at most 1


def test_sample_draws_from_the_given_generator_only() -> None:
    before = torch.get_rng_state()
    first, again = (item_response.sample(pass_fail(2), 50, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


# fit


def start(num_latents: int) -> ItemResponse:
    weight = torch.ones(D, num_latents, dtype=torch.float64)
    if num_latents == 2:
        weight[:, 1] = torch.tensor([1.0, 1.0, 0.0, -1.0, -1.0])
    return ItemResponse(weight, torch.zeros(D, dtype=torch.float64))


def test_the_likelihood_of_the_passes_has_the_maximum_that_scipy_finds() -> None:
    """Maximum likelihood with one ability: finite weights. The evidence on scipy's side is numpy's own."""
    grid = np.linspace(-8, 8, 801)
    log_prior = -(grid**2) / 2 - 0.5 * math.log(2 * math.pi) + math.log(grid[1] - grid[0])
    x = PASSES.numpy()

    def minus_log_likelihood(theta):
        logits = np.outer(grid, theta[:5]) + theta[5:]
        return -np.logaddexp.reduce(logits @ x.T - np.logaddexp(0, logits).sum(1)[:, None] + log_prior[:, None]).sum()

    best = scipy.optimize.minimize(minus_log_likelihood, np.r_[np.ones(5), np.zeros(5)], tol=1e-10)
    model = item_response.fit(start(1), PASSES, quadrature.gauss_hermite(150))
    found = torch.cat([model.weight[:, 0], model.bias])
    assert (found - torch.from_numpy(best.x)).abs().max() < 1e-3
    log_evidence = item_response.log_evidence(model, PASSES, quadrature.gauss_hermite(150))
    assert log_evidence.sum().item() == pytest.approx(-best.fun, abs=1e-7)
    assert log_evidence.sum().item() == pytest.approx(-232.4563, abs=1e-3)
    assert model.weight.max() < 4


def test_the_gradient_vanishes_at_the_fit() -> None:
    nodes = quadrature.gauss_hermite(50)
    for weight_precision in (0.0, 0.5):
        model = item_response.fit(start(1), PASSES, nodes, weight_precision=weight_precision)

        def evidence(weight, bias):
            return item_response.log_evidence(ItemResponse(weight, bias), PASSES, nodes)

        d_weight, d_bias = assert_finite_gradients(evidence, *model)
        assert (d_weight - weight_precision * model.weight).abs().max() < 1e-5
        assert d_bias.abs().max() < 1e-5


def test_a_penalty_keeps_two_abilities_finite() -> None:
    """Without it some weights keep growing, and the evidence creeps up with them: no maximum is in sight."""
    nodes = quadrature.gauss_hermite(12, 2)
    free = item_response.fit(start(2), PASSES, nodes, num_steps=60)
    tame = item_response.fit(start(2), PASSES, nodes, weight_precision=0.25)
    assert free.weight.abs().max() > 8
    assert tame.weight.abs().max() < 3
    value, bound = (item_response.log_evidence(m, PASSES, nodes).sum() for m in (tame, free))
    assert value < bound


def test_fit_leaves_its_input_alone_and_returns_plain_numbers() -> None:
    model = ItemResponse(*(parameter.requires_grad_() for parameter in start(1)))
    fitted = item_response.fit(model, PASSES, quadrature.gauss_hermite(10), num_steps=3)
    assert all(torch.equal(a, b) for a, b in zip(model, start(1), strict=True))
    assert all(parameter.grad is None for parameter in model)
    assert not any(parameter.requires_grad for parameter in fitted)
    with torch.no_grad():
        again = item_response.fit(model, PASSES, quadrature.gauss_hermite(10), num_steps=3)
    assert all(torch.equal(a, b) for a, b in zip(fitted, again, strict=True))


# dtypes and extreme inputs


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_keep_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = ItemResponse(*(parameter.to(dtype) for parameter in pass_fail(2)))
    x, z, nodes = data().to(dtype), randn(3, B, 2, seed=22, dtype=dtype), quadrature.gauss_hermite(5, 2)
    results = {
        "log_joint": (item_response.log_joint(model, x, z), (3, B)),
        "log_p_x_given_z": (item_response.log_p_x_given_z(model, x, z), (3, B)),
        "log_evidence": (item_response.log_evidence(model, x, nodes), (B,)),
        "mean": (item_response.posterior_moments(model, x, nodes).mean, (B, 2)),
        "covariance": (item_response.posterior_moments(model, x, nodes).covariance, (B, 2, 2)),
        "sampled z": (item_response.sample(model, 7)[0], (7, 2)),
        "sampled x": (item_response.sample(model, 7)[1], (7, D)),
        "fitted": (item_response.fit(model, x, nodes, num_steps=2).weight, (D, 2)),
    }
    for name, (result, shape) in results.items():
        assert result.shape == shape, name
        assert result.dtype == dtype, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_parameters_give_finite_values_and_gradients(dtype: torch.dtype) -> None:
    x, nodes, z = data().to(dtype), quadrature.gauss_hermite(20, 1), randn(3, B, 1, seed=23, dtype=dtype)
    for weight, bias in ((40.0, 0.0), (1.0, 40.0), (1.0, -40.0), (-40.0, 40.0)):
        w, b = torch.full((D, 1), weight, dtype=dtype), torch.full((D,), bias, dtype=dtype)
        for function in (
            lambda w, b: item_response.log_joint(ItemResponse(w, b), x, z),
            lambda w, b: item_response.log_evidence(ItemResponse(w, b), x, nodes),
            lambda w, b: item_response.posterior_moments(ItemResponse(w, b), x, nodes).covariance,
        ):
            assert_finite_gradients(function, w, b)


# bad input


def test_a_model_whose_parts_do_not_fit_is_refused() -> None:
    good, x, z, nodes = pass_fail(2), data(), torch.zeros(B, 2), quadrature.gauss_hermite(3, 2)
    for bad, words in (
        (good._replace(bias=good.bias[:4]), ("bias", "weight", (4,), (5, 2))),
        (good._replace(bias=good.bias[:1]), ("bias", "weight", (1,), (5, 2))),
        (good._replace(weight=good.weight[:, 0]), ("weight", (5,))),
    ):
        for call in (
            lambda bad=bad: item_response.sample(bad, 3),
            lambda bad=bad: item_response.log_p_x_given_z(bad, x, z),
            lambda bad=bad: item_response.log_joint(bad, x, z),
            lambda bad=bad: item_response.log_evidence(bad, x, nodes),
            lambda bad=bad: item_response.posterior_moments(bad, x, nodes),
            lambda bad=bad: item_response.fit(bad, x, nodes),
        ):
            assert_refused(call, *words)


@pytest.mark.parametrize("shape", [(B, 4), (B, 1), (D,), (2, B, D)])
def test_data_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    model, x, nodes = pass_fail(2), torch.zeros(shape, dtype=torch.float64), quadrature.gauss_hermite(3, 2)
    for call in (
        lambda: item_response.log_joint(model, x, torch.zeros(B, 2)),
        lambda: item_response.log_evidence(model, x, nodes),
        lambda: item_response.posterior_moments(model, x, nodes),
        lambda: item_response.fit(model, x, nodes),
    ):
        assert_refused(call, "x", "weight", shape, (5, 2))


@pytest.mark.parametrize("shape", [(B, 3), (B, 1), (B - 1, 2), (2,), (3, B - 1, 2)])
def test_latents_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    for function in (item_response.log_p_x_given_z, item_response.log_joint):
        assert_refused(lambda f=function: f(pass_fail(2), data(), torch.zeros(shape).double()), "z", shape)


def test_nodes_that_do_not_fit_are_refused() -> None:
    model, x, zeros = pass_fail(2), data(), torch.zeros
    for nodes, words in (
        (quadrature.gauss_hermite(3, 1), ((3, 1, 1), (5, 2))),
        (quadrature.gaussian_nodes(zeros(B, 2), zeros(B, 2), 3), ("nodes", (9, B, 2), (9,))),
        (quadrature.Nodes(zeros(9, 2), zeros(8)), ("nodes", (9, 2), (8,))),
    ):
        for function in (item_response.log_evidence, item_response.posterior_moments, item_response.fit):
            assert_refused(lambda f=function, n=nodes: f(model, x, n), "z", *words)


def test_marks_in_place_of_passes_are_refused() -> None:
    for function in (item_response.log_evidence, item_response.posterior_moments, item_response.fit):
        for x, words in (
            (torch.from_numpy(MARKS), ("x", "82")),
            (data() - 0.5, ("x", "0.5")),
            (data() * math.nan, ("x",)),
        ):
            assert_refused(lambda f=function, x=x: f(pass_fail(1), x, quadrature.gauss_hermite(3)), *words)


def test_settings_that_make_no_sense_are_refused() -> None:
    nodes = quadrature.gauss_hermite(3)
    assert_refused(lambda: item_response.sample(pass_fail(1), 0), "num_samples", "0")
    for settings in ({"weight_precision": -1.0}, {"weight_precision": math.nan}, {"num_steps": 0}):
        assert_refused(lambda s=settings: item_response.fit(pass_fail(1), data(), nodes, **s), *settings)


SENSELESS = [("weight_precision", math.inf), ("weight_precision", math.nan), ("num_steps", 2.5)]


@pytest.mark.parametrize(("name", "wrong"), SENSELESS)
def test_a_penalty_and_a_number_of_steps_that_make_no_sense_are_refused(name: str, wrong: float) -> None:
    model = item_response.ItemResponse(torch.ones(2, 1).double(), torch.zeros(2).double())
    x, nodes = torch.tensor([[1.0, 0.0]]).double(), quadrature.gauss_hermite(5)
    assert_refused(lambda: item_response.fit(model, x, nodes, **{name: wrong}), name)
