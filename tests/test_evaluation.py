"""evaluation: the importance-weighted log-likelihood against models whose evidence is known, and its record."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_vaes import D, data, linear_vae, noise, posteriors, probabilistic_pca
from oracles import assert_close, assert_finite_gradients, assert_refused, elementwise, normal_kl, randn
from torch import Tensor, nn

from vae_tutorial import bounds, evaluation, gaussian, linear_gaussian, models, records
from vae_tutorial.families import FullRank, MeanField
from vae_tutorial.likelihoods import Gaussian
from vae_tutorial.priors import GaussianMixture


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
@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_counts_below_one_are_refused(name: str, value: int) -> None:
    x, vae = data(4)[0], linear_vae(exact=True)
    counts = {"num_samples": 5, "batch_size": 2, "chunk_size": 3, name: value}
    assert_refused(lambda: evaluation.log_likelihood(vae, x, **counts), name, str(value).lstrip("-"))


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
    assert_refused(lambda: evaluation.active_units(torch.tensor([[0.0, math.nan], [1.0, 1.0]])), "mu", "finite")


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


BAD_SIZES = [([], "largest"), ([0, 5], "num_samples"), ([2, 5], "largest"), ([1.0, 2], "num_samples")]


@pytest.mark.parametrize(("num_samples", "word"), BAD_SIZES)
def test_sample_sizes_that_do_not_divide_are_refused(num_samples: list[int], word: str) -> None:
    assert_refused(lambda: evaluation.summarize(linear_vae(exact=True), data(2)[0], num_samples=num_samples), word)
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
    assert ((record["annealed"]["acceptance"] > 0.5) & (record["annealed"]["acceptance"] <= 1)).all()
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
    whole, path, write = evaluation_of(tmp_path / "whole.pt"), tmp_path / "record.pt", records.write
    for stop_after in (1, 2, 3):  # in each of the three parts

        def interrupted(path: Path, record: dict, calls: list[int] = [0], stop: int = stop_after) -> None:  # noqa: B006
            calls[0] += 1
            if calls[0] > stop:
                raise KeyboardInterrupt
            write(path, record)

        monkeypatch.setattr(records, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluation_of(path)
    monkeypatch.setattr(records, "write", write)
    resumed = evaluation_of(path)
    for part in ("importance", "annealed", "simulated"):
        assert resumed["done"][part] == whole["done"][part]
        assert all(torch.equal(resumed[part][key], value) for key, value in whole[part].items())
    monkeypatch.setattr(records, "write", None)  # nothing is left to do
    assert torch.equal(evaluation_of(path)["importance"]["kl"], whole["importance"]["kl"])
    assert torch.equal(
        evaluation.load_record(path, linear_vae(exact=False))["importance"]["kl"], whole["importance"]["kl"]
    )
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".part"] == []


def test_the_clock_of_an_evaluation_stops_when_its_part_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 10_000, 3))
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: next(times))
    assert evaluation_of(tmp_path / "record.pt")["seconds"] == {"importance": 9.0, "annealed": 6.0, "simulated": 6.0}


def test_every_batch_of_an_evaluation_has_noise_of_its_own(tmp_path: Path) -> None:
    record = evaluation_of(tmp_path / "record.pt", x=data(1)[0].expand(4, D), batch_size=1, num_steps=2)
    assert len(record["importance"]["bounds"][0].unique()) == 4
    assert len(record["annealed"]["log_w"][0].unique()) == 3


CHANGES = {
    "data": lambda: {"x": data(5)[0] + 1e-9},
    "simulated": lambda: {"simulated": tuple(part.flip(0) for part in evaluation_pair())},
    "num_samples": lambda: {"num_samples": (1, 7)},
    "annealing": lambda: {"num_chains": 3},
    "num_annealed": lambda: {"num_annealed": 2},
    "batch_size": lambda: {"batch_size": 3},
    "seed": lambda: {"seed": 1},
    "weights": lambda: {"model": other_vae()},
    "likelihood.log_var": lambda: {"model": fixed_vae()},
}


def evaluation_pair() -> tuple[Tensor, Tensor]:
    z, x = linear_gaussian.sample(probabilistic_pca(), 4, generator=noise(5))
    return x, z


def other_vae() -> models.VAE:
    """All weights of the decoder negated: the sum of their absolute values is the same."""
    vae = linear_vae(exact=False)
    vae.decoder[0].weight.data.neg_()
    return vae


def fixed_vae() -> models.VAE:
    return models.linear_vae((D,), 2, likelihood=Gaussian(log_var=math.log(0.3))).double()


@pytest.mark.parametrize("changed", CHANGES)
def test_a_record_of_another_evaluation_is_refused_by_name(changed: str, tmp_path: Path) -> None:
    few = {"num_steps": 2, "num_chains": 2}
    evaluation_of(tmp_path / "record.pt", **few)
    change = CHANGES[changed]()
    assert_refused(lambda: evaluation_of(tmp_path / "record.pt", **{**few, **change}), "another evaluation", changed)
    if "model" in change:
        assert_refused(
            lambda: evaluation.load_record(tmp_path / "record.pt", change["model"]), "another model", changed
        )


def test_a_record_is_accepted_on_another_number_of_threads(tmp_path: Path) -> None:
    before, few = torch.get_num_threads(), {"num_steps": 2, "num_chains": 2}
    try:
        torch.set_num_threads(1)
        evaluation_of(tmp_path / "record.pt", **few)
        torch.set_num_threads(2)
        evaluation_of(tmp_path / "record.pt", **few)
    finally:
        torch.set_num_threads(before)


def test_a_damaged_record_or_another_file_is_refused(tmp_path: Path) -> None:
    few, path = {"num_steps": 2, "num_chains": 2}, tmp_path / "record.pt"
    number = evaluation_of(path, **few)["importance"]["kl"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(number)] ^= 1
    path.write_bytes(content)
    assert_refused(lambda: evaluation_of(path, **few), "record.pt", "cannot be read")
    torch.save([1], tmp_path / "other.pt")
    assert_refused(lambda: evaluation_of(tmp_path / "other.pt", **few), "other.pt")


# every family and every prior


@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_a_mixture_prior_has_the_evidence_of_a_mixture(family: type) -> None:
    """A linear decoder with Gaussian noise: K = 20,000 samples against the exact mixture of Gaussians."""
    torch.manual_seed(1)
    prior = GaussianMixture(2, 3).double()
    prior.logits.data = randn(3, seed=70)
    vae = models.linear_vae((4,), 2, prior=prior, likelihood=Gaussian(log_var=0.5), family=family).double()
    weight, bias, x = vae.decoder[0].weight.data, vae.decoder[0].bias.data, randn(5, 4, seed=71)
    covariance = weight @ weight.mT + math.exp(0.5) * torch.eye(4).double()
    parts = [torch.distributions.MultivariateNormal(weight @ mu + bias, covariance).log_prob(x) for mu in prior.mu]
    exact = (prior.logits.log_softmax(0)[:, None] + torch.stack(parts)).logsumexp(0).detach()
    estimate = evaluation.log_likelihood(vae, x, num_samples=20_000, chunk_size=5_000, generator=noise(1))
    assert_close(estimate, exact, 0.02)
    summary = evaluation.summarize(vae, x, num_samples=[1, 5_000], generator=noise(2))
    q = vae.posterior(x)
    z, log_q_z = q.sample_and_log_prob(50_000, generator=noise(3))
    ratio = (log_q_z - prior.log_prob(z)).detach()
    assert ((summary.kl - ratio.mean(0)).abs() < 5 * ratio.std(0) / 5_000**0.5).all()


# signal-to-noise


def test_signal_to_noise_is_the_mean_over_the_spread_of_each_entry() -> None:
    draws = 3.0 - 2.0 * randn(50_000, 2, 1, seed=40) * torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    found = evaluation.signal_to_noise(draws)
    assert found.shape == (2, 1)
    assert_close(found.flatten(), torch.tensor([1.5, 0.375], dtype=torch.float64), 0.02)
    assert_close(evaluation.signal_to_noise(-draws), found, 1e-12)
    assert evaluation.signal_to_noise(torch.ones(3, 1)).isinf().all()
    assert_refused(lambda: evaluation.signal_to_noise(torch.ones(1, 4)), "(1, 4)")
    assert_refused(lambda: evaluation.signal_to_noise(torch.tensor(1.0)), "()")
