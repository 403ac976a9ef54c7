"""evaluation: the importance-weighted log-likelihood against models whose evidence is known."""

import math

import pytest
import torch
from oracles import assert_close, assert_refused, randn
from torch import Tensor, nn

from vae_tutorial import bounds, evaluation, linear_gaussian, models
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
