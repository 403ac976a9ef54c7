"""evaluation: the importance-weighted log-likelihood against models whose evidence is known."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import (
    assert_close,
    assert_finite_gradients,
    assert_refused,
    elementwise,
    normal_kl,
    normal_log_density,
    randn,
)
from torch import Tensor, nn

from vae_tutorial import bounds, evaluation, gaussian, linear_gaussian, models, quadrature
from vae_tutorial.linear_gaussian import FactorAnalysis
from vae_tutorial.models import GaussianVAE

D = 5


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probabilistic_pca() -> FactorAnalysis:
    """Orthogonal loadings and one noise variance, so that the posterior has a diagonal covariance."""
    columns = torch.linalg.qr(randn(D, 2, seed=1)).Q * torch.tensor([1.7, 0.6])
    return FactorAnalysis(columns, randn(D, seed=2), torch.full((D,), math.log(0.3), dtype=torch.float64))


def linear_vae(*, exact: bool) -> GaussianVAE:
    """The model above as a VAE. Its encoder is the exact posterior, or else the prior, whatever x is."""
    model = probabilistic_pca()
    vae = models.linear_vae((D,), 2, model=GaussianVAE).double()
    vae.decoder[0].weight.data, vae.decoder[0].bias.data = model.weight, model.bias
    vae.log_var_x.data = model.log_var[0]
    encoder = vae.encoder[1]
    encoder.affine.weight.data, encoder.affine.bias.data = torch.zeros(2, D).double(), torch.zeros(2).double()
    if exact:
        posterior = linear_gaussian.posterior(model, torch.cat([torch.zeros(1, D), torch.eye(D)]).double())
        encoder.affine.bias.data = posterior.mean[0]
        encoder.affine.weight.data = (posterior.mean[1:] - posterior.mean[0]).mT
        encoder.constant.data = 12 * torch.atanh(posterior.covariance.diagonal().log() / 12)  # undo the bound
    return vae


def data(num_data: int) -> tuple[Tensor, Tensor]:
    """Data of the model above and their log-evidence."""
    _, x = linear_gaussian.sample(probabilistic_pca(), num_data, generator=noise(0))
    return x, linear_gaussian.log_evidence(probabilistic_pca(), x)


class Recorder(nn.Module):
    """A model whose log-weights are given, in order, and which remembers what it was asked for."""

    def __init__(self, log_w: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.log_w, self.calls = log_w, []

    def check_data(self, x: Tensor) -> None:
        pass

    def log_weights(self, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        self.calls.append((num_samples, len(x)))
        start = sum(k for k, _ in self.calls[:-1]) % len(self.log_w)
        return self.scale * self.log_w[start : start + num_samples, None].expand(-1, len(x))


# the exact linear model


@pytest.mark.parametrize("num_samples", [1, 7, 50, 123])
def test_with_the_exact_posterior_it_is_the_log_evidence_for_any_number_of_samples(num_samples: int) -> None:
    x, log_evidence = data(230)
    estimate = evaluation.log_likelihood(linear_vae(exact=True), x, num_samples=num_samples, generator=noise(1))
    assert_close(estimate, log_evidence, 1e-10)


def test_the_mean_weight_is_unbiased_for_the_evidence() -> None:
    """With the prior as q, K = 10 and 20,000 repeats: standard errors of 0.5 to 2 %; dividing by 9 or 11 costs 10 %."""
    x, log_evidence = data(3)
    estimate = evaluation.log_likelihood(
        linear_vae(exact=False), x.repeat_interleave(20_000, 0), num_samples=10, batch_size=6000, generator=noise(2)
    )
    ratio = (estimate.view(3, 20_000) - log_evidence[:, None]).exp()
    errors = ratio.std(1) / 20_000**0.5
    assert (errors < 0.02).all()
    assert ((ratio.mean(1) - 1).abs() < 4 * errors).all()


def test_it_rises_from_the_elbo_to_the_log_evidence() -> None:
    x, log_evidence = data(3)
    vae, repeated = linear_vae(exact=False), x.repeat_interleave(500, 0)
    elbo = linear_gaussian.elbo(probabilistic_pca(), x, torch.zeros(3, 2).double(), torch.zeros(3, 2).double())
    means = []
    for num_samples in (1, 5, 50, 500):
        estimate = evaluation.log_likelihood(vae, repeated, num_samples=num_samples, generator=noise(3)).view(3, 500)
        means.append(estimate.mean(1))
        if num_samples == 1:
            assert ((means[0] - elbo).abs() < 5 * estimate.std(1) / 500**0.5).all()
    assert (torch.stack(means).diff(dim=0) > 0.01).all()
    assert (log_evidence - elbo > 1).all()
    assert ((log_evidence - means[-1]).abs() < 0.05).all()


# chunks and batches: what changes is the order of the noise, and nothing else


@pytest.mark.parametrize("chunk_size", [7, 8, 1000])
def test_one_chunk_is_the_importance_weighted_bound_to_the_bit(chunk_size: int) -> None:
    (x, _), vae = data(4), linear_vae(exact=False)
    estimate = evaluation.log_likelihood(vae, x, num_samples=7, chunk_size=chunk_size, generator=noise(4))
    assert torch.equal(estimate, bounds.iwae(vae.log_weights(x, 7, generator=noise(4))).detach())


@pytest.mark.parametrize(("chunk_size", "chunks"), [(1, [1] * 7), (3, [3, 3, 1]), (6, [6, 1])])
def test_chunks_are_the_bound_of_all_their_samples(chunk_size: int, chunks: list[int]) -> None:
    (x, _), vae, generator = data(4), linear_vae(exact=False), noise(5)
    estimate = evaluation.log_likelihood(vae, x, num_samples=7, chunk_size=chunk_size, generator=noise(5))
    log_w = torch.cat([vae.log_weights(x, k, generator=generator) for k in chunks])
    assert_close(estimate, bounds.iwae(log_w).detach(), 1e-12)


def test_batches_follow_each_other_in_the_noise() -> None:
    (x, _), vae, generator = data(5), linear_vae(exact=False), noise(6)
    estimate = evaluation.log_likelihood(vae, x, num_samples=4, batch_size=2, generator=noise(6))
    each = [bounds.iwae(vae.log_weights(batch, 4, generator=generator)) for batch in x.split(2)]
    assert torch.equal(estimate, torch.cat(each).detach())


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_where_the_noise_does_not_matter_the_batch_size_does_not_either(batch_size: int) -> None:
    x, log_evidence = data(5)
    estimate = evaluation.log_likelihood(linear_vae(exact=True), x, num_samples=3, batch_size=batch_size)
    assert_close(estimate, log_evidence, 1e-10)


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    """The largest set of log-weights alive at once is chunk_size by batch_size; every sample is used once."""
    log_w = randn(1030, seed=7)
    for num_samples in (1030, 100, 99):
        model = Recorder(log_w[:num_samples])
        x = torch.zeros(23, 4)
        estimate = evaluation.log_likelihood(model, x, num_samples=num_samples, batch_size=10, chunk_size=100)
        assert max(k for k, _ in model.calls) == min(100, num_samples)
        assert sorted({b for _, b in model.calls}) == [3, 10]
        assert sum(k * b for k, b in model.calls) == num_samples * len(x)
        assert_close(estimate, bounds.iwae(log_w[:num_samples]).expand(23), 1e-12)


# extreme inputs


@pytest.mark.parametrize("offset", [-1e4, 1e4])
@pytest.mark.parametrize("chunk_size", [2, 50])
def test_weights_that_overflow_do_not(offset: float, chunk_size: int) -> None:
    log_w = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    estimate = evaluation.log_likelihood(
        Recorder(log_w + offset), torch.zeros(1, 4), num_samples=5, chunk_size=chunk_size
    )
    expected = offset + math.log(sum(math.exp(v) for v in log_w.tolist()) / 5)
    assert estimate.item() == pytest.approx(expected, rel=1e-14, abs=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_impossible_samples_have_weight_zero(chunk_size: int) -> None:
    def estimate(*log_w: float) -> float:
        model = Recorder(torch.tensor(log_w, dtype=torch.float64))
        return evaluation.log_likelihood(model, torch.zeros(1, 4), num_samples=3, chunk_size=chunk_size).item()

    assert estimate(-math.inf, 0.0, -math.inf) == pytest.approx(-math.log(3))
    assert estimate(-math.inf, -math.inf, -math.inf) == -math.inf


# what it returns and what it leaves alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_one_number_a_data_point_in_the_models_precision(dtype: torch.dtype) -> None:
    x, log_evidence = data(7)
    estimate = evaluation.log_likelihood(linear_vae(exact=True).to(dtype), x, num_samples=3, batch_size=4)
    assert estimate.shape == (7,)
    assert estimate.dtype == dtype
    assert not estimate.requires_grad
    assert_close(estimate.double(), log_evidence, 1e-10 if dtype == torch.float64 else 1e-5)


def test_bytes_and_numbers_give_one_result() -> None:
    vae, x = models.linear_vae((4,), 2), (randn(9, 4, seed=8) > 0).to(torch.uint8)
    results = [
        evaluation.log_likelihood(vae, x.to(dtype), num_samples=5, generator=noise(9))
        for dtype in (torch.uint8, torch.float32, torch.float64)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_generator_governs_all_and_the_model_is_not_changed() -> None:
    (x, _), vae = data(4), linear_vae(exact=False)
    vae.train()
    weights, before = [p.detach().clone() for p in vae.parameters()], torch.random.get_rng_state()
    first, second, other = (
        evaluation.log_likelihood(vae, x, num_samples=60, generator=noise(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(old, new) for old, new in zip(weights, vae.parameters(), strict=True))
    assert all(p.grad is None for p in vae.parameters())
    assert not vae.training


# bad input


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "chunk_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_below_one_are_refused(name: str, value: int) -> None:
    x, vae = data(4)[0], linear_vae(exact=True)
    counts = {"num_samples": 5, "batch_size": 2, "chunk_size": 3, name: value}
    assert_refused(lambda: evaluation.log_likelihood(vae, x, **counts), f"{name} {value}")


def test_data_that_the_model_does_not_describe_are_refused() -> None:
    real, binary = linear_vae(exact=True), models.linear_vae((D,), 2)

    def refused(model: models.VAE, x: Tensor, *words: str | tuple[int, ...]) -> None:
        assert_refused(lambda: evaluation.log_likelihood(model, x, num_samples=2), *words)

    refused(real, torch.zeros(0, D), "x", "empty")
    refused(real, torch.zeros(3, D + 1), "x", (3, D + 1))
    refused(real, torch.zeros(3, 1, D), "x", (3, 1, D))
    refused(real, torch.full((3, D), math.nan), "x", "NaN")
    refused(binary, torch.full((3, D), 1.5), "x", "[0, 1]", "1.5")
    refused(binary, torch.full((3, D), 7, dtype=torch.uint8), "x", "[0, 1]", "7")


# KL per dimension and active units


def posteriors(num_data: int, num_latents: int, *, seed: int = 20) -> tuple[Tensor, Tensor]:
    """Means about 1.2 apart and standard deviations from 0.3 to 1: posteriors that overlap, some more, some less."""
    return 1.2 * randn(num_data, num_latents, seed=seed), 0.5 * randn(num_data, num_latents, seed=seed + 1) - 1


def test_kl_per_dimension_is_the_textbooks_in_every_entry() -> None:
    mu, log_var = posteriors(6, 3)
    expected = elementwise(lambda m, v: normal_kl(m, math.exp(v), 0.0, 1.0), mu, log_var)
    kl = evaluation.kl_per_dimension(mu, log_var)
    assert_close(kl, expected)
    assert_close(kl.sum(-1), gaussian.kl_to_standard_normal(mu, log_var))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_per_dimension_keeps_shape_and_precision_and_shares_a_variance(dtype: torch.dtype) -> None:
    mu = randn(5, 4, 3, seed=22, dtype=dtype)
    for shape in [(5, 4, 3), (4, 3), (3,), (4, 1), (1,), ()]:
        log_var = randn(60, seed=23, dtype=dtype)[: math.prod(shape)].reshape(shape)
        kl = evaluation.kl_per_dimension(mu, log_var)
        assert kl.dtype == dtype
        assert torch.equal(kl, evaluation.kl_per_dimension(mu, log_var.expand(5, 4, 3)))
    assert evaluation.kl_per_dimension(mu[0, 0], mu[1]).shape == (4, 3)
    extremes = torch.tensor([-60.0, 0.0, 60.0], dtype=dtype)
    assert_finite_gradients(lambda m, v: evaluation.kl_per_dimension(m, v), mu[0, :1] * 10, extremes)


def test_kl_per_dimension_refuses_what_would_broadcast_along_the_latents() -> None:
    for mu, log_var in [(torch.zeros(4, 1), torch.zeros(4, 3)), (torch.zeros(4, 3), torch.zeros(4, 2))]:
        shapes = tuple(mu.shape), tuple(log_var.shape)
        assert_refused(lambda m=mu, v=log_var: evaluation.kl_per_dimension(m, v), "mu", "log_var", *shapes)
    assert_refused(lambda: evaluation.kl_per_dimension(torch.zeros(()), torch.zeros(())), "mu", ())
    assert_refused(lambda: evaluation.kl_per_dimension(torch.zeros(4, 3), torch.zeros(2, 3)), "mu", (4, 3), (2, 3))


def test_active_units_are_those_whose_mean_varies_over_the_data() -> None:
    scale = torch.tensor([1.0, 0.3, 0.11, 0.09, 0.03, 0.0]).double()
    mu = randn(400, 6, seed=24) * scale + torch.tensor([0.0, 5.0, -3.0, 2.0, 100.0, 7.0])
    variance = np.var(mu.numpy(), axis=0)
    for threshold in (0.01, 0.05, 0.5, 0.0):
        active = evaluation.active_units(mu, threshold=threshold)
        assert active.dtype == torch.bool
        assert active.tolist() == (variance > threshold).tolist()
    assert evaluation.active_units(mu).tolist() == [True, True, True, False, False, False]
    assert evaluation.active_units(mu.float()).tolist() == evaluation.active_units(mu).tolist()


def test_active_units_divide_by_the_number_of_data_points() -> None:
    """Two points at -0.09 and 0.09: their variance is 0.0081, below the threshold; dividing by N - 1 gives 0.0162."""
    assert evaluation.active_units(torch.tensor([[-0.09, -0.11], [0.09, 0.11]])).tolist() == [False, True]


def test_active_units_refuse_a_single_data_point() -> None:
    for shape in [(5,), (1, 5), (2, 3, 5), (0, 5)]:
        assert_refused(lambda s=shape: evaluation.active_units(torch.zeros(s)), "mu", shape)


# the terms of the aggregated posterior


def test_the_aggregated_posterior_is_the_mean_of_the_densities() -> None:
    mu, log_var = posteriors(5, 2)
    z = 2 * randn(3, 4, 2, seed=40)
    densities = torch.zeros(3, 4, dtype=torch.float64)
    for m, v in zip(mu, log_var.exp(), strict=True):
        each = [elementwise(normal_log_density, z[..., j], m[j], v[j]) for j in range(2)]
        densities += (each[0] + each[1]).exp() / 5
    log_q = evaluation.log_aggregated_posterior(z, mu, log_var)
    assert_close(log_q, densities.log(), 1e-12)
    assert_close(evaluation.log_aggregated_posterior(z[0, 0], mu, log_var), log_q[0, 0])
    far = evaluation.log_aggregated_posterior(torch.full((1, 2), 1e4).double(), mu, log_var)
    assert far.isfinite().all()
    assert evaluation.log_aggregated_posterior(z.float(), mu.float(), log_var.float()).dtype == torch.float32


def test_the_aggregated_posterior_refuses_points_of_another_dimension() -> None:
    mu = torch.zeros(4, 2)
    for shape in [(3, 1), (3, 4), ()]:
        refused = torch.zeros(shape)
        assert_refused(lambda z=refused: evaluation.log_aggregated_posterior(z, mu, mu), "z", "mu", shape, (4, 2))


def terms_by_integration(mu: Tensor, log_var: Tensor, *, step: float) -> tuple[float, float, float]:
    """The three terms in one dimension from their definitions, each a plain sum over one fine grid of densities."""
    z = torch.arange(-40, 40, step, dtype=torch.float64)[:, None]
    log_q_n = -0.5 * (math.log(2 * math.pi) + log_var.mT + (z - mu.mT) ** 2 / log_var.mT.exp())  # (G, N)
    log_q = log_q_n.exp().mean(1, keepdim=True).clamp_min(1e-300).log()
    log_p = -0.5 * (math.log(2 * math.pi) + z**2)
    mean_kl = step * (log_q_n.exp() * (log_q_n - log_p)).sum(0).mean()
    information = step * (log_q_n.exp() * (log_q_n - log_q)).sum(0).mean()
    marginal = step * (log_q.exp() * (log_q - log_p)).sum()
    return mean_kl.item(), information.item(), marginal.item()


def three(terms: evaluation.AggregatedPosteriorTerms) -> Tensor:
    return torch.stack(terms[:3])


def nodes_of(mu: Tensor, log_var: Tensor, num_nodes: int = 20) -> evaluation.AggregatedPosteriorTerms:
    return evaluation.aggregated_posterior_terms(mu, log_var, *quadrature.gaussian_nodes(mu, log_var, num_nodes))


def grids_of(mu: Tensor, log_var: Tensor) -> evaluation.AggregatedPosteriorTerms:
    return evaluation.aggregated_posterior_integrals(mu, log_var, num_points=501)


METHODS = {"nodes": nodes_of, "grids": grids_of}


@pytest.mark.parametrize("num_data", [1, 2, 7, 40])
def test_on_grids_each_term_is_its_definition(num_data: int) -> None:
    mu, log_var = posteriors(num_data, 1)
    terms = evaluation.aggregated_posterior_integrals(mu, log_var)
    assert_close(three(terms), torch.tensor(terms_by_integration(mu, log_var, step=0.01), dtype=torch.float64), 1e-10)
    assert terms.mutual_information_error == terms.marginal_kl_error == 0


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_two_gaussians_by_nodes_and_by_samples_against_the_grid(separation: float) -> None:
    mu, log_var = torch.tensor([[-separation / 2], [separation / 2]]).double(), torch.zeros(2, 1).double()
    exact = torch.tensor(terms_by_integration(mu, log_var, step=0.01), dtype=torch.float64)
    assert_close(three(nodes_of(mu, log_var, 200)), exact, 2e-5)  # the logarithm of two humps is no polynomial
    z = gaussian.sample(mu, log_var, 40_000, generator=noise(25))
    terms = evaluation.aggregated_posterior_terms(mu, log_var, z)
    assert_close(terms.mean_kl, exact[0], 1e-12)
    errors = torch.stack(terms[3:])
    assert (errors < 0.02).all()
    assert ((three(terms)[1:] - exact[1:]).abs() <= 4 * errors + 1e-12).all()


@pytest.mark.parametrize(("num_data", "num_latents"), [(1, 1), (2, 1), (50, 1), (1, 2), (3, 2), (60, 2)])
def test_the_identity_holds_to_1e_10_between_two_grids_and_a_closed_form(num_data: int, num_latents: int) -> None:
    terms = evaluation.aggregated_posterior_integrals(*posteriors(num_data, num_latents))
    assert terms.mean_kl > 0.5
    assert (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs() < 1e-10
    assert 0 <= terms.mutual_information + 1e-12 <= math.log(num_data) + 1e-10
    assert terms.marginal_kl > 0.05


def test_the_two_integrals_have_a_grid_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one common grid an error in log q would cancel from the sum of the two, and the identity would check less."""
    spacings, axis = [], evaluation._axis

    def recorded(*args: object) -> tuple[Tensor, Tensor, float]:
        spacings.append(axis(*args)[2])
        return axis(*args)

    monkeypatch.setattr(evaluation, "_axis", recorded)
    evaluation.aggregated_posterior_integrals(*posteriors(5, 1), num_points=400)
    assert len(spacings) == len(set(spacings)) == 2


def test_the_integrals_are_summed_in_double_precision() -> None:
    mu, log_var = (tensor.float() for tensor in posteriors(30, 2))
    terms = evaluation.aggregated_posterior_integrals(mu, log_var)
    assert_close(
        three(terms).double(), three(evaluation.aggregated_posterior_integrals(mu.double(), log_var.double())), 2e-7
    )


def test_on_grids_too_coarse_for_the_posteriors_the_identity_fails() -> None:
    mu, log_var = posteriors(20, 2)
    for sigma, fails in [(1.0, False), (0.5, False), (0.02, True)]:  # points 0.24, 0.3 and 3 sigma apart
        terms = evaluation.aggregated_posterior_integrals(mu, log_var * 0 + 2 * math.log(sigma), num_points=100)
        gap = (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs()
        assert (gap > 1e-3) == fails
        assert fails or gap < 1e-9


def test_a_dimension_in_which_every_posterior_is_the_prior_changes_nothing() -> None:
    mu, log_var = posteriors(9, 1)
    zero = torch.zeros_like(mu)
    one = evaluation.aggregated_posterior_integrals(mu, log_var)
    two = evaluation.aggregated_posterior_integrals(torch.cat([zero, mu], 1), torch.cat([zero, log_var], 1))
    assert_close(three(two), three(one), 1e-10)


def test_with_nodes_the_identity_holds_to_1e_10_in_one_two_and_three_dimensions() -> None:
    for num_latents, num_nodes in [(1, 40), (2, 12), (3, 6)]:
        terms = nodes_of(*posteriors(15, num_latents), num_nodes)
        assert (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs() < 1e-10
        assert terms.mutual_information_error == terms.marginal_kl_error == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_latents", [1, 2])
def test_posteriors_that_are_all_equal_carry_no_information(method: str, num_latents: int) -> None:
    mu, log_var = (tensor.expand(8, -1) for tensor in posteriors(1, num_latents))
    terms = METHODS[method](mu, log_var)
    assert abs(terms.mutual_information) < 1e-12
    assert_close(terms.marginal_kl, terms.mean_kl, 1e-10)
    assert terms.mean_kl > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_latents", [1, 2])
def test_posteriors_that_equal_the_prior_make_every_term_zero(method: str, num_latents: int) -> None:
    zero = torch.zeros(8, num_latents).double()
    assert three(METHODS[method](zero, zero)).abs().max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_data", [2, 5])
def test_posteriors_far_apart_carry_log_n(method: str, num_data: int) -> None:
    mu = 30 * torch.arange(num_data, dtype=torch.float64)[:, None]
    terms = METHODS[method](mu, torch.zeros_like(mu))
    assert abs(terms.mutual_information - math.log(num_data)) < 1e-10
    assert_close(terms.marginal_kl, terms.mean_kl - math.log(num_data), 1e-10)


def test_the_information_is_at_most_log_n_in_every_sample_and_in_a_minibatch_too() -> None:
    mu = 1000 * randn(64, 3, seed=26)
    z = gaussian.sample(mu, torch.zeros_like(mu), 3, generator=noise(27))
    for size in (64, 16, 4, 1):
        terms = evaluation.aggregated_posterior_terms(mu[:size], torch.zeros(size, 3).double(), z[:, :size])
        assert_close(terms.mutual_information, torch.tensor(math.log(size), dtype=torch.float64), 1e-10)


def test_by_samples_in_32_dimensions_against_plain_loops() -> None:
    mu, log_var = 0.4 * randn(7, 32, seed=28), 0.3 * randn(7, 32, seed=29)
    z = gaussian.sample(mu, log_var, 5, generator=noise(30))
    information, marginal = torch.empty(5, 7).double(), torch.empty(5, 7).double()
    for k in range(5):
        for n in range(7):
            each = [
                sum(
                    normal_log_density(z[k, n, j].item(), mu[m, j].item(), log_var[m, j].exp().item())
                    for j in range(32)
                )
                for m in range(7)
            ]
            log_q = math.log(sum(math.exp(v) for v in each) / 7)
            log_p = sum(normal_log_density(value, 0.0, 1.0) for value in z[k, n].tolist())
            information[k, n], marginal[k, n] = each[n] - log_q, log_q - log_p
    terms = evaluation.aggregated_posterior_terms(mu, log_var, z)
    assert_close(three(terms)[1:], torch.stack([information.mean(), marginal.mean()]), 1e-11)
    errors = [sum(v[:, n].var().item() / 5 for n in range(7)) ** 0.5 / 7 for v in (information, marginal)]
    assert_close(torch.stack(terms[3:]), torch.tensor(errors, dtype=torch.float64), 1e-10)


def test_the_standard_errors_are_the_spread_over_repeats() -> None:
    """200 repeats give the spread to 5 %; errors that forget that N posteriors are averaged are 2.4 times too large."""
    mu, log_var = posteriors(6, 2)
    exact = three(evaluation.aggregated_posterior_integrals(mu, log_var))
    repeats = [
        torch.stack(evaluation.aggregated_posterior_terms(mu, log_var, gaussian.sample(mu, log_var, 50, generator=g)))
        for g in map(noise, range(200))
    ]
    values, errors = torch.stack(repeats)[:, 1:3], torch.stack(repeats)[:, 3:]
    assert ((values.std(0) / errors.square().mean(0).sqrt() - 1).abs() < 0.2).all()
    assert ((values.mean(0) - exact[1:]).abs() < 4 * values.std(0) / 200**0.5).all()


@pytest.mark.parametrize("budget", [1, 100, 2**22])
def test_chunks_change_no_term_and_bound_the_memory(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The density of the mixture compares points (chunk, 1, J) with posteriors (N, J): chunk times N times J numbers."""
    mu, log_var = posteriors(11, 4)
    z = gaussian.sample(mu, log_var, 6, generator=noise(31))
    expected = evaluation.aggregated_posterior_terms(mu, log_var, z)
    chunks, log_prob = [], gaussian.log_prob

    def recorded(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        chunks.extend([len(z)] * (z.shape[1] == 1))
        return log_prob(z, mu, log_var)

    monkeypatch.setattr(gaussian, "log_prob", recorded)
    monkeypatch.setattr(evaluation, "MAX_NUMBERS", budget)
    assert_close(torch.stack(evaluation.aggregated_posterior_terms(mu, log_var, z)), torch.stack(expected))
    assert sum(chunks) == 66
    assert max(chunks) == min(66, max(1, budget // 44))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_data_points_and_of_the_dimensions_does_not_matter(method: str) -> None:
    mu, log_var = posteriors(12, 2)
    order = torch.randperm(12, generator=noise(32))
    expected = torch.stack(METHODS[method](mu, log_var))
    assert_close(torch.stack(METHODS[method](mu[order], log_var[order])), expected, 1e-11)
    assert_close(torch.stack(METHODS[method](mu.flip(1), log_var.flip(1))), expected, 1e-11)
    repeated = torch.stack(METHODS[method](mu.repeat(2, 1), log_var.repeat(2, 1)))  # every point twice: the same q
    assert_close(repeated, expected, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_are_five_scalars_in_the_precision_of_mu_without_gradients(dtype: torch.dtype) -> None:
    mu, log_var = (tensor.to(dtype).requires_grad_() for tensor in posteriors(10, 2))
    z = gaussian.sample(mu, log_var, 4, generator=noise(33))
    exact = evaluation.aggregated_posterior_integrals(*(t.detach().double() for t in (mu, log_var)))
    for terms in (evaluation.aggregated_posterior_integrals(mu, log_var), nodes_of(mu, log_var, 20)):
        assert_close(three(terms).double(), three(exact), 5e-3)
    for terms in (*[METHODS[m](mu, log_var) for m in METHODS], evaluation.aggregated_posterior_terms(mu, log_var, z)):
        assert all(term.shape == () and term.dtype == dtype and not term.requires_grad for term in terms)
        assert_close(terms.mean_kl.double(), exact.mean_kl, 1e-6)


def test_extreme_posteriors_give_finite_terms() -> None:
    mu = torch.tensor([[1e3, -1e3], [0.0, 0.0], [-1e3, 1e3]]).double()
    for log_var, tolerance in [(-60.0, 1e-5), (-20.0, 1e-10), (0.0, 1e-10), (12.0, 1e-10)]:  # z keeps 16 digits
        terms = nodes_of(mu, torch.full_like(mu, log_var), 10)
        assert torch.stack(terms).isfinite().all()
        assert_close(terms.mutual_information + terms.marginal_kl, terms.mean_kl, tolerance)
        assert terms.mutual_information <= math.log(3) + 1e-9
    assert torch.stack(evaluation.aggregated_posterior_integrals(mu, torch.full_like(mu, -60.0))).isfinite().all()


def test_terms_refuse_shapes_that_do_not_fit() -> None:
    mu = torch.zeros(4, 2)

    def refused(
        mu: Tensor, log_var: Tensor, z: Tensor, log_weight: Tensor | None, *words: str | tuple[int, ...]
    ) -> None:
        assert_refused(lambda: evaluation.aggregated_posterior_terms(mu, log_var, z, log_weight), *words)

    refused(mu, torch.zeros(4, 1), torch.zeros(3, 4, 2), None, "mu", "log_var", (4, 2), (4, 1))
    refused(mu[0], mu[0], torch.zeros(3, 2), None, "mu", (2,))
    refused(mu[:0], mu[:0], torch.zeros(3, 0, 2), None, "mu", (0, 2))
    refused(mu, mu, torch.zeros(4, 2), None, "z", (4, 2))
    refused(mu, mu, torch.zeros(3, 1, 2), None, "z", (3, 1, 2))
    refused(mu, mu, torch.zeros(1, 4, 2), None, "z", "samples", (1, 4, 2))
    refused(mu, mu, torch.zeros(0, 4, 2), torch.zeros(0), "z", (0, 4, 2))
    refused(mu, mu, torch.zeros(3, 4, 2), torch.zeros(4), "z", "log_weight", (3, 4, 2), (4,))
    refused(mu, mu, torch.zeros(3, 4, 2), torch.zeros(()), "z", "log_weight", ())
    refused(mu * math.nan, mu, torch.zeros(3, 4, 2), None, "mu", "finite")
    refused(mu, mu + math.inf, torch.zeros(3, 4, 2), None, "log_var", "finite")


def test_integrals_refuse_what_they_cannot_do() -> None:
    def refused(mu: Tensor, *words: str | tuple[int, ...], **settings: float) -> None:
        assert_refused(lambda: evaluation.aggregated_posterior_integrals(mu, mu, **settings), *words)

    refused(torch.zeros(4, 3), "mu", (4, 3))
    refused(torch.zeros(4), "mu", (4,))
    refused(torch.zeros(0, 2), "mu", (0, 2))
    refused(torch.zeros(4, 2) / 0, "mu", "finite")
    refused(torch.zeros(4, 2), "num_points", num_points=1)
    refused(torch.zeros(4, 2), "num_sigma", num_sigma=0.0)
    refused(torch.zeros(4, 2), "num_sigma", num_sigma=math.nan)


# annealed importance sampling: linear models, whose evidence and posterior are known


def random_linear(seed: int, num_dims: int, num_latents: int) -> tuple[FactorAnalysis, GaussianVAE]:
    """A linear model with full posterior covariance and one noise variance a dimension, twice."""
    weight = 0.7 * randn(num_dims, num_latents, seed=seed)
    model = FactorAnalysis(weight, randn(num_dims, seed=seed + 1), 0.3 * randn(num_dims, seed=seed + 2))
    vae = models.linear_vae((num_dims,), num_latents, model=GaussianVAE).double()
    vae.decoder[0].weight.data, vae.decoder[0].bias.data = model.weight, model.bias
    vae.log_var_x = nn.Parameter(model.log_var)
    return model, vae


def posterior_samples(model: FactorAnalysis, x: Tensor, num_samples: int, seed: int) -> Tensor:
    """Exact samples, (K, B, J)."""
    mean, covariance = linear_gaussian.posterior(model, x)
    return mean + randn(num_samples, *mean.shape, seed=seed) @ torch.linalg.cholesky(covariance).mT


def prior(num_data: int, num_latents: int) -> Tensor:
    return torch.zeros(2, num_data, num_latents, dtype=torch.float64)


def off_posterior(model: FactorAnalysis, x: Tensor) -> tuple[Tensor, Tensor]:
    """A Gaussian that lies beside the posterior, with three quarters of its precision."""
    mean, covariance = linear_gaussian.posterior(model, x)
    return mean + 0.3, (torch.linalg.inv(covariance).diagonal() * 0.75).log().neg().expand_as(mean)


def assert_mean_is_one(ratio: Tensor, detects: float) -> None:
    """Within four standard errors, all below a quarter of the error that must be detected."""
    errors = ratio.std(0) / len(ratio) ** 0.5
    assert (errors < detects / 4).all()
    assert ((ratio.mean(0) - 1).abs() < 4 * errors).all()


def test_one_step_is_importance_sampling() -> None:
    vae, x, betas = linear_vae(exact=False), data(3)[0], torch.tensor([0.0, 1.0])
    start = vae.encode(x)
    result = evaluation.ais(vae, x, start=start, betas=betas, step_size=0.1, num_chains=7, generator=noise(1))
    assert_close(result.log_w, vae.log_weights(x, 7, generator=noise(1)).detach(), 1e-12)
    assert result.acceptance.shape == (0, 3)
    model, z = probabilistic_pca(), randn(7, 3, 2, seed=4)
    start = off_posterior(model, x)
    log_w = evaluation.reverse_ais(vae, x, z, start=start, betas=betas, step_size=0.1).log_w
    assert_close(log_w, linear_gaussian.log_joint(model, x, z) - gaussian.log_prob(z, *start), 1e-12)


def test_with_the_posterior_as_start_every_weight_is_the_evidence() -> None:
    vae, (x, log_evidence) = linear_vae(exact=True), data(3)
    path = {"start": vae.encode(x), "betas": evaluation.temperatures(5), "step_size": 1.0, "num_leapfrog": 3}
    forward = evaluation.ais(vae, x, num_chains=7, generator=noise(1), **path)
    z = posterior_samples(probabilistic_pca(), x, 7, seed=5)
    for result in (forward, evaluation.reverse_ais(vae, x, z, generator=noise(1), **path)):
        assert_close(result.log_w, log_evidence.expand(7, 3), 1e-10)


def naive_chain(
    log_f: list[Callable[[Tensor], Tensor]], eps: Tensor, h: list[Tensor], num_leapfrog: int, draws: Iterator
) -> Tensor:
    """Where one chain stood before each step of the path, with accept and reject, typed from the textbook."""
    visited = [eps]
    for f, step in zip(log_f, h, strict=True):
        p, u = next(draws)
        gradient, new, momentum = torch.func.grad(f), eps, p
        for _ in range(num_leapfrog):
            half = momentum + step / 2 * gradient(new)
            new = new + step * half
            momentum = half + step / 2 * gradient(new)
        change = f(new) - momentum @ momentum / 2 - f(eps) + p @ p / 2
        eps = new if math.log(u) < change else eps
        visited.append(eps)
    return torch.stack(visited)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_does_what_the_equations_say(reverse: bool) -> None:
    """Against one chain at a time, in plain steps, on the same noise; steps so large that some are rejected."""
    model, vae = random_linear(10, 4, 2)
    x = randn(3, 4, seed=3)
    mu, log_var = start = off_posterior(model, x)
    betas, h = torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0]).double(), torch.tensor([1.5, 1.3, 0.9]).double()[:, None]
    h, settings = h * torch.tensor([1.0, 0.8, 1.3]).double(), {"betas": betas, "num_leapfrog": 3, "start": start}
    z, generator = randn(6, 3, 2, seed=8), noise(9)
    if reverse:
        result = evaluation.reverse_ais(vae, x, z, step_size=h, generator=noise(9), **settings)
        first = (z - mu) / (0.5 * log_var).exp()
    else:
        result = evaluation.ais(vae, x, step_size=h, num_chains=6, generator=noise(9), **settings)
        first = torch.randn(6, 3, 2, generator=generator, dtype=torch.float64)
    draw = [
        (
            torch.randn(6, 3, 2, generator=generator, dtype=torch.float64),
            torch.rand(6, 3, generator=generator, dtype=torch.float64),
        )
        for _ in range(3)
    ]
    moved = 0
    for k, b in itertools.product(range(6), range(3)):

        def log_ratio(eps: Tensor, b: int = b) -> Tensor:
            z = mu[b] + (0.5 * log_var[b]).exp() * eps
            return linear_gaussian.log_joint(model, x[b : b + 1], z[None])[0] - gaussian.log_prob(z, mu[b], log_var[b])

        def log_f(beta: Tensor, log_ratio: Callable[[Tensor], Tensor] = log_ratio) -> Callable[[Tensor], Tensor]:
            return lambda eps: beta * log_ratio(eps) - eps @ eps / 2

        order = [3, 2, 1] if reverse else [1, 2, 3]
        draws = iter([(p[k, b], u[k, b].item()) for p, u in draw])
        visited = naive_chain([log_f(betas[t]) for t in order], first[k, b], [h[t - 1, b] for t in order], 3, draws)
        at = visited.flip(0) if reverse else visited  # at[t - 1] is weighed by beta_t - beta_{t-1}
        expected = sum((betas[t] - betas[t - 1]) * log_ratio(at[t - 1]) for t in range(1, 5))
        assert_close(result.log_w[k, b], expected, 1e-9)
        moved += (visited.diff(dim=0) != 0).any(-1).sum().item()
    assert 5 < moved < 49  # of 54 transitions: some were accepted and some rejected
    assert 0.1 < result.acceptance.mean() < 0.95


@pytest.mark.parametrize("num_steps", [2, 6])
def test_the_mean_weight_is_the_evidence_and_the_mean_inverse_weight_its_inverse(num_steps: int) -> None:
    """4,000 chains, three data points: an error of 10 % would be seen. Leaving out one increment costs far more."""
    model, vae = random_linear(20, 4, 2)
    _, x = linear_gaussian.sample(model, 3, generator=noise(1))
    log_evidence = linear_gaussian.log_evidence(model, x)
    path = {"start": off_posterior(model, x), "betas": evaluation.temperatures(num_steps), "num_leapfrog": 2}
    path["step_size"] = torch.full((num_steps - 1, 3), 0.9)
    forward = evaluation.ais(vae, x, num_chains=4000, generator=noise(2), **path)
    assert_mean_is_one((forward.log_w - log_evidence).exp(), detects=0.1)
    z = posterior_samples(model, x, 4000, seed=3)
    backward = evaluation.reverse_ais(vae, x, z, generator=noise(4), **path)
    assert_mean_is_one((log_evidence - backward.log_w).exp(), detects=0.1)


def test_the_truth_lies_between_the_two_chains_and_they_meet() -> None:
    """Six random models. Means of 200 chains: below, above, within three standard errors; and closer with more steps."""
    for seed, (num_dims, num_latents) in enumerate([(3, 1), (4, 2), (6, 3), (2, 2), (8, 2), (5, 1)]):
        model, vae = random_linear(100 * seed, num_dims, num_latents)
        _, x = linear_gaussian.sample(model, 2, generator=noise(seed))
        log_evidence, z = linear_gaussian.log_evidence(model, x), posterior_samples(model, x, 200, seed=seed)
        gaps = []
        for num_steps in (1, 25):
            path = {"start": prior(2, num_latents), "betas": evaluation.temperatures(num_steps), "num_leapfrog": 4}
            path["step_size"] = evaluation.tune_step_size(vae, x, generator=noise(1), **path)
            lower = evaluation.ais(vae, x, num_chains=200, generator=noise(2), **path).log_w
            upper = evaluation.reverse_ais(vae, x, z, generator=noise(3), **path).log_w
            assert (lower.mean(0) < log_evidence + 3 * lower.std(0) / 200**0.5).all()
            assert (upper.mean(0) > log_evidence - 3 * upper.std(0) / 200**0.5).all()
            gaps.append((upper - lower).mean())
        assert gaps[1] < min(gaps[0] / 2, 2)
        for bound in (bounds.iwae(lower), -bounds.iwae(-upper)):  # 200 chains together: the log-evidence itself
            assert_close(bound, log_evidence, 0.1)


# the transitions, on a model whose posterior is no Gaussian


def curved_vae(num_latents: int = 1) -> models.VAE:
    """Six binary pixels that depend on z through a hidden layer."""
    torch.manual_seed(3)
    vae = models.mlp_vae((6,), num_latents, 4).double()
    for parameter in vae.decoder.parameters():
        parameter.data *= 4
    return vae


def curved_path(beta: float, step_size: float, num_leapfrog: int) -> tuple[evaluation._Path, Tensor, Tensor]:
    """One data point; a grid in eps, and on it f_beta normalised, from the model's likelihood alone."""
    vae, x = curved_vae(), torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 0.0]]).double()
    start, betas = (torch.full((1, 1), 0.4).double(), torch.full((1, 1), -0.5).double()), torch.tensor([0.0, beta, 1.0])
    path = evaluation._path(vae, x, start, betas, step_size, num_leapfrog)
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    z = 0.4 + math.exp(-0.25) * grid
    log_joint = vae.log_p_x_given_z(x, z[:, None, None]).detach()[:, 0] - 0.5 * z**2
    return path, grid, (beta * log_joint - (1 - beta) * 0.5 * grid**2).softmax(0)


def test_a_transition_keeps_the_density_and_is_reversible_and_needs_its_rejections() -> None:
    """Exact draws of f_beta before, 40,000 chains: moments after it, and detailed balance, within four standard errors.

    The leapfrog alone, at the same step size, moves a moment by more than ten standard errors.
    """
    path, grid, mass = curved_path(0.6, 1.7, 2)
    quantiles = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    before = torch.searchsorted(mass.cumsum(0), quantiles).clamp(max=len(grid) - 1)
    state = evaluation._state(path, grid[before][:, None, None])
    after, acceptance = evaluation._hmc(path, state, path.betas[1], path.step_size[0], noise(6))
    assert 0.3 < acceptance.item() < 0.9
    stayed = (after.eps == state.eps).double().mean().item()
    assert abs(1 - stayed - acceptance.item()) < 4 * 0.5 / 200  # the share that moved
    momentum = torch.randn(state.eps.shape, generator=noise(6), dtype=torch.float64)
    blind, _ = evaluation._leapfrog(path, state, momentum, path.betas[1], path.step_size[0][:, None])
    worst = 0.0
    for power in (1, 2, 3):
        exact = mass @ grid**power
        for eps, bound in ((after.eps, 4), (blind.eps, math.inf)):
            values = eps.flatten() ** power
            off = ((values.mean() - exact).abs() / values.std() * 200).item()
            assert off < bound
            worst = max(worst, off)
    assert worst > 10
    here, there = state.eps.flatten(), after.eps.flatten()
    flow = here * there**2 - there * here**2  # as much from A to B as from B to A
    assert flow.mean().abs() < 4 * flow.std() / 200
    again = evaluation._state(path, after.eps)
    assert_close(after.log_ratio, again.log_ratio, 1e-12)
    assert_close(after.slope, again.slope, 1e-12)


def test_the_leapfrog_can_be_walked_backwards_and_keeps_volume() -> None:
    path, _, _ = curved_path(0.6, 0.8, 5)
    beta, step = path.betas[1], path.step_size[0][:, None]
    state, momentum = evaluation._state(path, randn(50, 1, 1, seed=1)), randn(50, 1, 1, seed=2)
    there, momentum_there = evaluation._leapfrog(path, state, momentum, beta, step)
    back, momentum_back = evaluation._leapfrog(path, there, -momentum_there, beta, step)
    assert (there.eps - state.eps).abs().mean() > 0.5
    assert_close(back.eps, state.eps, 1e-8)
    assert_close(-momentum_back, momentum, 1e-8)

    def moved(eps: Tensor, momentum: Tensor) -> Tensor:
        end, momentum = evaluation._leapfrog(path, evaluation._state(path, eps), momentum, beta, step)
        return torch.cat([end.eps, momentum], -1)

    h = 1e-5
    columns = [moved(state.eps + a, momentum + b) - moved(state.eps - a, momentum - b) for a, b in ((h, 0.0), (0.0, h))]
    determinants = torch.linalg.det(torch.stack(columns, -1) / (2 * h))
    assert_close(determinants.abs(), torch.ones(50, 1).double(), 1e-4)


def test_the_mean_weight_of_a_curved_model_is_its_evidence() -> None:
    """The encoder's q as start; the evidence from a fine grid. An error of 8 % would be seen."""
    path, grid, _ = curved_path(0.5, 1.0, 1)
    z, x = grid[:, None, None], path.x
    prior_mass = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    evidence = prior_mass @ path.log_p_x_given_z(x, z).detach()[:, 0].exp()
    vae, betas = curved_vae(), evaluation.temperatures(4)
    settings = {"start": vae.encode(x), "betas": betas, "num_leapfrog": 2}
    step_size = evaluation.tune_step_size(vae, x, generator=noise(1), **settings)
    result = evaluation.ais(vae, x, num_chains=5000, step_size=step_size, generator=noise(2), **settings)
    assert_mean_is_one(result.log_w.exp() / evidence, detects=0.08)


def test_a_tuned_step_size_is_accepted_as_often_as_asked() -> None:
    """On other noise than it was tuned on, and for data points of very different scale."""
    vae, x = random_linear(40, 5, 2)[1], randn(2, 5, seed=6)
    start = (torch.zeros(2, 2), torch.tensor([[4.0, 4.0], [0.0, 0.0]]))
    settings = {"start": start, "betas": evaluation.temperatures(30), "num_leapfrog": 3}
    step_size = evaluation.tune_step_size(vae, x, target=0.7, num_chains=50, generator=noise(7), **settings)
    assert step_size.shape == (29, 2)
    result = evaluation.ais(vae, x, num_chains=200, step_size=step_size, generator=noise(8), **settings)
    assert ((result.acceptance[10:].mean(0) - 0.7).abs() < 0.1).all()
    assert step_size[-1, 0] < 0.7 * step_size[-1, 1]


@pytest.mark.parametrize("sharpness", [0.01, 4.0, 9.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_temperatures_rise_from_zero_to_one(num_steps: int, sharpness: float) -> None:
    def s(u: float) -> float:
        return 1 / (1 + math.exp(-u))

    d = sharpness
    expected = [(s(d * (2 * t / num_steps - 1)) - s(-d)) / (s(d) - s(-d)) for t in range(num_steps + 1)]
    betas = evaluation.temperatures(num_steps, sharpness=sharpness)
    assert_close(betas, torch.tensor(expected, dtype=torch.float64), 1e-12)
    assert betas[0] == 0
    assert betas[-1] == 1


# what the chains return, and what they leave alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_work_in_the_models_precision(dtype: torch.dtype) -> None:
    model, vae = random_linear(50, 5, 2)
    x, vae = randn(3, 5, seed=7), vae.to(dtype)
    path = {"start": prior(3, 2), "betas": evaluation.temperatures(4), "num_leapfrog": 2, "step_size": 0.4}
    z = posterior_samples(model, x, 6, seed=8)
    forward = evaluation.ais(vae, x, num_chains=6, generator=noise(1), **path)
    for result in (forward, evaluation.reverse_ais(vae, x, z, generator=noise(1), **path)):
        assert result.log_w.shape == (6, 3)
        assert result.acceptance.shape == (3, 3)
        assert all(part.dtype == dtype and part.isfinite().all() and not part.requires_grad for part in result)
    assert evaluation.tune_step_size(vae, x, start=prior(3, 2), betas=path["betas"]).dtype == dtype


def test_chains_take_bytes_images_and_no_gradient_mode() -> None:
    torch.manual_seed(0)
    vae = models.ConvVAE(num_latents=3, num_channels=4, num_blocks=1)
    x = (randn(2, 1, 28, 28, seed=8) > 0).to(torch.uint8)
    path = {"betas": evaluation.temperatures(3), "step_size": 0.1, "num_chains": 4}
    start = vae.encode(x.float())
    plain = evaluation.ais(vae, x, start=start, generator=noise(1), **path)
    with torch.no_grad():
        assert torch.equal(plain.log_w, evaluation.ais(vae, x, start=start, generator=noise(1), **path).log_w)


def test_a_generator_governs_the_chains_and_the_model_is_not_changed() -> None:
    model, vae = random_linear(60, 5, 2)
    x, before = randn(2, 5, seed=9), torch.random.get_rng_state()
    vae.train()
    path = {"start": prior(2, 2), "betas": evaluation.temperatures(4), "num_leapfrog": 2}
    z, weights = posterior_samples(model, x, 3, seed=1), [p.detach().clone() for p in vae.parameters()]
    calls = (
        lambda seed: evaluation.ais(vae, x, num_chains=3, step_size=0.4, generator=noise(seed), **path).log_w,
        lambda seed: evaluation.reverse_ais(vae, x, z, step_size=0.4, generator=noise(seed), **path).log_w,
        lambda seed: evaluation.tune_step_size(vae, x, generator=noise(seed), **path),
    )
    for call in calls:
        assert torch.equal(call(1), call(1))
        assert not torch.equal(call(1), call(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(old, new) for old, new in zip(weights, vae.parameters(), strict=True))
    assert all(p.grad is None for p in vae.parameters())
    assert not vae.training


def test_a_step_that_runs_away_is_rejected() -> None:
    vae, x = random_linear(70, 5, 2)[1], randn(2, 5, seed=9)
    path = {"start": prior(2, 2), "betas": evaluation.temperatures(4), "num_chains": 5, "num_leapfrog": 40}
    wild = evaluation.ais(vae, x, step_size=1e12, generator=noise(1), **path)  # 1e12 to the 80th: not a float
    one = evaluation.ais(vae, x, start=prior(2, 2), betas=torch.tensor([0.0, 1.0]), step_size=1.0, num_chains=5,
                         generator=noise(1))  # fmt: skip
    assert (wild.acceptance == 0).all()
    assert_close(wild.log_w, one.log_w, 1e-12)  # a chain that stays where it is adds its increments to one ratio


def test_the_acceptance_is_in_the_order_of_the_temperatures_both_ways() -> None:
    model, vae = random_linear(80, 5, 2)
    x = randn(2, 5, seed=9)
    path = {"start": prior(2, 2), "betas": evaluation.temperatures(4), "generator": noise(1)}
    path["step_size"] = torch.tensor([[1e-3], [1e-3], [1e3]])  # only the last transition is hopeless
    for result in (
        evaluation.ais(vae, x, num_chains=5, **path),
        evaluation.reverse_ais(vae, x, posterior_samples(model, x, 5, seed=1), **path),
    ):
        assert (result.acceptance[:2] > 0.99).all()
        assert (result.acceptance[2] < 0.01).all()


def test_bad_paths_are_refused() -> None:
    vae, x, z = linear_vae(exact=False), torch.zeros(3, D), torch.zeros(2, 3, 2)
    good = {"start": prior(3, 2), "betas": evaluation.temperatures(3), "step_size": 0.1}

    def refused(*words: str | tuple[int, ...], x: Tensor = x, z: Tensor = z, **changes: object) -> None:
        path = {**good, **changes}
        assert_refused(lambda: evaluation.reverse_ais(vae, x, z, **path), *words)
        if not {"z"} & set(words):
            assert_refused(lambda: evaluation.ais(vae, x, num_chains=2, **path), *words)

    refused("start", (3, 2), (3, 1), start=(torch.zeros(3, 2), torch.zeros(3, 1)))
    refused("start", (2, 2), (3, D), start=prior(2, 2))
    refused("start", (2,), start=torch.zeros(2, 2))
    refused("betas", betas=torch.tensor([0.0, 0.5]))
    refused("betas", betas=torch.tensor([0.1, 1.0]))
    refused("betas", betas=torch.tensor([0.0, 0.5, 0.5, 1.0]))
    refused("betas", betas=torch.tensor([0.0, math.nan, 1.0]))
    refused("betas", (1,), betas=torch.tensor([1.0]))
    refused("step_size", (2, 3), (3, 3), step_size=torch.ones(3, 3))
    refused("step_size", (1, 2, 3), step_size=torch.ones(1, 2, 3))
    for value in (0.0, -1.0, math.nan, math.inf):
        refused("step_size", step_size=value)
    refused("num_leapfrog", num_leapfrog=0)
    refused("x", "NaN", x=torch.full((3, D), math.nan))
    refused("z", (2, 3, 1), z=z[..., :1])
    refused("z", (3, 2), z=z[0])
    refused("z", (0, 3, 2), z=z[:0])
    assert_refused(lambda: evaluation.ais(vae, x, num_chains=0, **good), "num_chains")
    tuning = {"start": prior(3, 2), "betas": evaluation.temperatures(3)}
    for setting in ({"num_chains": 0}, {"num_rounds": 0}, {"target": 1.0}, {"target": 0.0}):
        assert_refused(lambda s=setting: evaluation.tune_step_size(vae, x, **tuning, **s), next(iter(setting)))
    for setting in ({"num_steps": 0}, {"num_steps": 3, "sharpness": 0.0}, {"num_steps": 3, "sharpness": math.inf}):
        assert_refused(lambda s=setting: evaluation.temperatures(**s), list(setting)[-1])


# the recorded evaluation


def test_a_summary_has_the_bound_for_each_number_of_samples() -> None:
    """The same noise dealt into groups by hand; K = M is the importance-weighted bound of all."""
    (x, _), vae, generator = data(3), linear_vae(exact=False), noise(1)
    summary = evaluation.summarize(vae, x, num_samples=[1, 4, 12], chunk_size=5, generator=noise(1))
    log_w = torch.cat([vae.log_weights(x, k, generator=generator) for k in (5, 5, 2)]).detach()
    assert_close(summary.bounds[0], log_w.mean(0))
    groups = [[log_w[k * 3 + g] for k in range(4)] for g in range(3)]
    by_hand = sum(torch.stack(group).exp().mean(0).log() for group in groups) / 3
    assert_close(summary.bounds[1], by_hand, 1e-10)
    assert_close(summary.bounds[2], bounds.iwae(log_w))
    assert_close(summary.effective_sample_size, bounds.effective_sample_size(log_w))
    assert_close(summary.kl, gaussian.kl_to_standard_normal(*vae.encode(x)).detach())
    assert not any(part.requires_grad for part in summary)


def test_a_summary_with_the_exact_posterior_is_the_log_evidence() -> None:
    x, log_evidence = data(4)
    summary = evaluation.summarize(linear_vae(exact=True), x, num_samples=[1, 2, 6])
    assert_close(summary.bounds, log_evidence.expand(3, 4), 1e-10)
    assert_close(summary.effective_sample_size, torch.full((4,), 6.0).double(), 1e-10)


@pytest.mark.parametrize("num_samples", [[], [0, 5], [2, 5]])
def test_sample_sizes_that_do_not_divide_are_refused(num_samples: list[int]) -> None:
    assert_refused(lambda: evaluation.summarize(linear_vae(exact=True), data(2)[0], num_samples=num_samples), "largest")
    assert_refused(
        lambda: evaluation.summarize(linear_vae(exact=True), data(2)[0], num_samples=[2], chunk_size=0), "chunk_size"
    )


SETTINGS = {"num_samples": (1, 6), "num_annealed": 3, "num_steps": 12, "num_chains": 30, "batch_size": 2}


def evaluation_of(path: Path, **changes: Any) -> dict[str, Any]:
    z, simulated = linear_gaussian.sample(probabilistic_pca(), 4, generator=noise(5))
    settings = {"model": linear_vae(exact=False), "x": data(5)[0], "simulated": (simulated, z), **SETTINGS, **changes}
    return evaluation.evaluate(path=path, progress=False, **settings)


def test_an_evaluation_has_the_truth_in_its_parts(tmp_path: Path) -> None:
    record = evaluation_of(tmp_path / "record.pt", model=linear_vae(exact=True), recipe="exact")
    log_evidence = data(5)[1]
    assert_close(record["importance"]["bounds"], log_evidence.expand(2, 5), 1e-10)
    assert_close(record["annealed"]["log_w"], log_evidence[:3].expand(30, 3), 1e-10)
    _, simulated = linear_gaussian.sample(probabilistic_pca(), 4, generator=noise(5))
    exact = linear_gaussian.log_evidence(probabilistic_pca(), simulated)
    for side in ("lower", "upper"):
        assert_close(record["simulated"][side], exact.expand(30, 4), 1e-10)
    assert record["facts"]["recipe"] == "exact"
    assert {"device", "date", "python", "torch"} < set(record["facts"])
    assert set(record["seconds"]) == {"importance", "annealed", "simulated"}


def test_an_evaluation_encloses_the_truth_on_simulated_data(tmp_path: Path) -> None:
    """The prior as the encoder's q, thirty chains of twelve steps, four data points: within four standard errors."""
    record = evaluation_of(tmp_path / "record.pt")
    _, simulated = linear_gaussian.sample(probabilistic_pca(), 4, generator=noise(5))
    exact = linear_gaussian.log_evidence(probabilistic_pca(), simulated)
    for side, sign in (("lower", 1), ("upper", -1)):
        off = sign * (record["simulated"][side] - exact)
        assert (off.mean(0) < 4 * off.std(0) / 30**0.5).all()
        assert off.mean() > -3


def test_an_interrupted_evaluation_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, path, write = evaluation_of(tmp_path / "whole.pt"), tmp_path / "record.pt", evaluation._write
    for stop_after in (1, 2, 3):  # in each of the three parts

        def interrupted(record: dict, path: Path, calls: list[int] = [0], stop: int = stop_after) -> None:  # noqa: B006
            calls[0] += 1
            if calls[0] > stop:
                raise KeyboardInterrupt
            write(record, path)

        monkeypatch.setattr(evaluation, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluation_of(path)
    monkeypatch.setattr(evaluation, "_write", write)
    resumed = evaluation_of(path)
    for part in ("importance", "annealed", "simulated"):
        assert resumed["done"][part] == whole["done"][part]
        assert all(torch.equal(resumed[part][key], value) for key, value in whole[part].items())
    monkeypatch.setattr(evaluation, "_write", None)  # nothing is left to do
    assert torch.equal(evaluation_of(path)["importance"]["kl"], whole["importance"]["kl"])
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".part"] == []


def test_every_batch_of_an_evaluation_has_noise_of_its_own(tmp_path: Path) -> None:
    record = evaluation_of(tmp_path / "record.pt", x=data(1)[0].expand(4, D), batch_size=1, num_steps=2)
    assert len(record["importance"]["bounds"][0].unique()) == 4
    assert len(record["annealed"]["log_w"][0].unique()) == 3


def test_a_record_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    few = {"num_steps": 2, "num_chains": 2}
    evaluation_of(tmp_path / "record.pt", **few)
    changes = ({"num_samples": (1, 7)}, {"num_chains": 3}, {"seed": 1}, {"x": data(6)[0]}, {"batch_size": 3})
    for change in (*changes, {"model": linear_vae(exact=True)}):
        assert_refused(lambda c=change: evaluation_of(tmp_path / "record.pt", **{**few, **c}), "another evaluation")
    torch.save([1], tmp_path / "other.pt")
    assert_refused(lambda: evaluation_of(tmp_path / "other.pt", **few), "another evaluation")


def test_a_fingerprint_tells_weights_apart() -> None:
    first, second = linear_vae(exact=True), linear_vae(exact=True)
    assert evaluation.fingerprint(first) == evaluation.fingerprint(second)
    assert evaluation.fingerprint(first) == pytest.approx(sum(p.abs().sum().item() for p in first.parameters()))
    second.log_var_x.data += 1e-3
    assert evaluation.fingerprint(first) != evaluation.fingerprint(second)
