"""training: the loop against a loop typed out, its checkpoints against kills and damage, its record against rounding."""

import contextlib
import copy
import dataclasses
import functools
import io
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close, assert_refused, randn
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from vae_tutorial import (
    _capture,
    _checkpoint,
    _data_check,
    _device,
    data,
    likelihoods,
    linear_gaussian,
    objectives,
    records,
    training,
)
from vae_tutorial.families import FullRank
from vae_tutorial.models import VAE, ElboTerms, conv_vae, linear_vae, mlp_autoencoder, mlp_vae
from vae_tutorial.objectives import Objective, beta_elbo, kl_warmup
from vae_tutorial.priors import GaussianMixture, StandardNormal
from vae_tutorial.records import History
from vae_tutorial.training import Execution, Optimization, average_terms, best_path, warmup_cosine

OPTIMIZATION = {field.name for field in dataclasses.fields(Optimization)}


def fit(model: nn.Module, x: Any, *, num_epochs: int, **settings: Any) -> History:
    """``training.fit`` with its settings side by side and no bar; ``beta`` is the weight of the ELBO's KL."""
    if "beta" in settings:
        settings["objective"] = beta_elbo(settings.pop("beta"))
    given = {"progress": False, **settings}
    own = {name: given.pop(name) for name in ("objective", "x_test", "preprocess") if name in given}
    optimization = Optimization(**{name: given.pop(name) for name in OPTIMIZATION & set(given)})
    execution = Execution(**given)
    return training.fit(model, x, num_epochs=num_epochs, optimization=optimization, execution=execution, **own)


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp_vae((6,), num_latents=2, num_hidden=5).to(dtype)


def bits(num_data: int = 24, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (randn(num_data, 6, seed=seed) > 0).to(dtype)


def greys(num_data: int = 24) -> Tensor:
    return (randn(num_data, 6, seed=1).sigmoid() * 255).to(torch.uint8)


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(first: Any, second: Any) -> bool:
    """Equal to the bit: tensors, and the lists and dictionaries they stand in."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def weights(model: VAE) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def bounds_of(history: History) -> dict[str, list[float]]:
    """A history without its clock."""
    return {name: values for name, values in history._asdict().items() if name != "seconds"}


def checkpoint(path: Path) -> dict[str, Any]:
    return records.read(path, _checkpoint.KEYS)


class Interrupted(BaseException):
    """What a test raises in the middle of an epoch."""


def keep(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """A preprocessing that does nothing."""
    return x


def at_step(number: int, action: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """``keep``, and by its name no other function, until step ``number`` of the run, counted from 1."""
    calls = iter(range(10**9))  # call 0 is the check of the first batch

    def preprocess(x: Tensor, *, generator: torch.Generator) -> Tensor:
        return action(x) if next(calls) == number else x

    preprocess.__qualname__ = keep.__qualname__
    return preprocess


def interrupt(x: Tensor) -> Tensor:
    raise Interrupted


# one step, one epoch, one run


def typed_out(
    model: VAE,
    x: Tensor,
    *,
    num_epochs: int,
    batch_size: int,
    rate: Callable[[float], float],
    seed: int,
    preprocess: Callable[..., Tensor] | None,
) -> list[Tensor]:
    """The run as the documentation describes it; the two terms of every step, for each epoch (num_steps, 2)."""
    generator, num_steps, epochs = noise(seed), len(x) // batch_size, []
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(num_epochs):
        order, terms = torch.randperm(len(x), generator=generator), []
        for step in range(num_steps):
            batch = x[order[step * batch_size : (step + 1) * batch_size]]
            if preprocess is not None:
                batch = preprocess(batch, generator=generator)
            batch = batch.to(next(model.parameters()).dtype)
            mu, log_var = model.encode(batch)
            z = mu + (log_var / 2).exp() * torch.randn(1, *mu.shape, generator=generator, dtype=mu.dtype)
            reconstruction = model.log_p_x_given_z(batch, z)[0].mean()
            kl = (0.5 * (mu**2 + log_var.exp() - log_var - 1)).sum(1).mean()
            optimizer.param_groups[0]["lr"] = rate((epoch + step / num_steps) / num_epochs)
            optimizer.zero_grad()
            (-(reconstruction - kl)).backward()
            optimizer.step()
            terms.append([reconstruction.item(), kl.item()])
        epochs.append(torch.tensor(terms, dtype=torch.float64))
    return epochs


@pytest.mark.parametrize("preprocess", [None, data.binarize])
@pytest.mark.parametrize("schedule", [None, warmup_cosine])
@pytest.mark.parametrize("seed", [0, 7])
def test_fit_is_the_loop_typed_out(
    preprocess: Callable[..., Tensor] | None, schedule: Callable[[float], float] | None, seed: int
) -> None:
    """Batches, noise, signs, averages, learning rates: N = 23 is no multiple of B = 5, so three points are left out."""
    x = greys(23) if preprocess else bits(23)
    fitted, expected = small(dtype=torch.float64), small(dtype=torch.float64)
    history = fit(
        fitted,
        x,
        num_epochs=3,
        batch_size=5,
        learning_rate=0.02,
        schedule=schedule,
        preprocess=preprocess,
        seed=seed,
    )
    rate = (lambda done: 0.02 * schedule(done)) if schedule else (lambda done: 0.02)
    epochs = typed_out(expected, x, num_epochs=3, batch_size=5, rate=rate, seed=seed, preprocess=preprocess)
    for name, value in expected.state_dict().items():
        assert_close(fitted.state_dict()[name], value, 1e-9)
    means = torch.stack([epoch.mean(0) for epoch in epochs])
    assert_close(torch.tensor(history.train_reconstruction).double(), means[:, 0], 1e-6)
    assert_close(torch.tensor(history.train_kl).double(), means[:, 1], 1e-6)


def test_the_training_terms_are_averages_over_the_epoch() -> None:
    """With a learning rate of almost 0 the weights stand still, and the average is over one fixed model."""
    model, x = small(dtype=torch.float64), bits(20)
    history = fit(model, x, num_epochs=2, batch_size=4, learning_rate=1e-13, seed=3)
    generator = noise(3)
    for epoch in range(2):
        order = torch.randperm(20, generator=generator)
        terms = [model.elbo_terms(x[batch].double(), generator=generator) for batch in order.split(4)]
        reconstruction = torch.cat([t.reconstruction for t in terms]).mean().item()
        kl = torch.cat([t.kl for t in terms]).mean().item()
        assert history.train_reconstruction[epoch] == pytest.approx(reconstruction, abs=1e-9)
        assert history.train_kl[epoch] == pytest.approx(kl, abs=1e-9)


def test_an_epoch_visits_the_data_once_in_a_new_order() -> None:
    """Each data point is its own binary number. Of 22, 20 are visited in an epoch, and the two left out change."""
    x = torch.tensor([[(n >> d) & 1 for d in range(6)] for n in range(22)], dtype=torch.uint8)
    seen: list[list[int]] = []

    def watch(batch: Tensor, *, generator: torch.Generator) -> Tensor:
        seen.append((batch.int() @ (2 ** torch.arange(6, dtype=torch.int32))).tolist())
        assert batch.dtype == torch.uint8  # the data stay bytes until here
        return batch

    fit(small(), x, num_epochs=4, batch_size=5, preprocess=watch)
    steps = seen[1:]  # the first was the check
    assert [len(batch) for batch in steps] == [5] * 16
    epochs = [list(itertools.chain(*steps[4 * e : 4 * e + 4])) for e in range(4)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    assert epochs[0] != sorted(epochs[0])


def test_the_test_terms_are_those_of_the_weights_at_the_end_of_the_epoch() -> None:
    model, x, x_test = small(), bits(), bits(10, seed=1)
    first = fit(model, x, x_test=x_test, num_epochs=1, batch_size=8)
    assert first.test_reconstruction[0] == average_terms(model, x_test).reconstruction.item()
    assert first.test_kl[0] == average_terms(model, x_test).kl.item()
    longer, other = small(), small()
    history = fit(longer, x, x_test=x_test, num_epochs=3, batch_size=8)
    assert history.test_kl[0] == first.test_kl[0]
    assert history.test_kl[2] == average_terms(longer, x_test).kl.item()
    assert history.test_elbo == [r - k for r, k in zip(history.test_reconstruction, history.test_kl, strict=True)]
    without = fit(other, x, num_epochs=3, batch_size=8)  # looking at the test set does not change the run
    assert same(weights(other), weights(longer))
    assert without.train_elbo == history.train_elbo


def test_the_history_has_one_entry_an_epoch() -> None:
    history = fit(small(), bits(), x_test=bits(5), num_epochs=3, batch_size=8)
    assert [len(values) for values in history] == [3] * 5
    assert all(isinstance(value, float) for values in history for value in values)
    assert history.train_elbo == [r - k for r, k in zip(history.train_reconstruction, history.train_kl, strict=True)]
    assert min(history.seconds) > 0
    assert min(history.train_kl) > 0
    history = fit(small(), bits(), num_epochs=3, batch_size=8)
    assert [len(values) for values in history] == [3, 3, 0, 0, 3]
    assert history.test_elbo == []


# what training reaches


def test_the_elbo_rises_beyond_what_a_model_without_latents_reaches() -> None:
    """All ones or all zeros, 5 % flipped. Independent pixels cost 8 log 2 = 5.55 nats; the truth is at 2.28."""
    cluster = (randn(256, 1, seed=0) > 0).expand(256, 8)
    x = (cluster ^ (randn(256, 8, seed=1) > 1.645)).float()
    torch.manual_seed(0)
    history = fit(mlp_vae((8,), 1, num_hidden=16), x, num_epochs=80, batch_size=64, learning_rate=0.01)
    assert -5.9 < history.train_elbo[0] < -5.4
    assert -3.2 < history.train_elbo[-1] < -2.2


def test_the_linear_vae_reaches_probabilistic_pca() -> None:
    """Its maximum is known: log-evidence and noise variance from the eigenvalues (Tipping and Bishop 1999)."""
    num_data, num_dims, num_latents = 400, 6, 2
    loadings = randn(num_dims, num_latents, seed=1) * torch.tensor([2.0, 1.0])
    x = randn(num_data, num_latents, seed=2) @ loadings.mT + 0.7 * randn(num_data, num_dims, seed=3) + 1.5
    eigenvalues = torch.linalg.eigvalsh((x - x.mean(0)).mT @ (x - x.mean(0)) / num_data).flip(0)
    variance = eigenvalues[num_latents:].mean()
    log_det = eigenvalues[:num_latents].log().sum() + (num_dims - num_latents) * variance.log()
    best = -0.5 * (num_dims * math.log(2 * math.pi) + log_det + num_dims).item()

    torch.manual_seed(0)
    vae = linear_vae((num_dims,), num_latents, likelihood=likelihoods.Gaussian()).double()
    fit(vae, x, num_epochs=400, batch_size=200, learning_rate=0.05, schedule=warmup_cosine)

    found = linear_gaussian.FactorAnalysis(
        vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach(), vae.likelihood.log_var_x.detach().expand(num_dims)
    )
    log_evidence = linear_gaussian.log_evidence(found, x).mean().item()
    assert best - 0.005 < log_evidence <= best + 1e-9
    assert vae.likelihood.log_var_x.exp().item() == pytest.approx(variance.item(), rel=0.02)
    with torch.no_grad():
        elbo = linear_gaussian.elbo(found, x, *vae.encode(x)).mean().item()
    assert log_evidence - 0.01 < elbo <= log_evidence + 1e-9  # and the encoder has reached the posterior


# one seed, one run


@pytest.mark.parametrize("preprocess", [None, data.binarize])
def test_one_seed_gives_one_run_to_the_bit(preprocess: Callable[..., Tensor] | None) -> None:
    x, runs = greys() if preprocess else bits(), {}
    for name, seed in (("first", 1), ("second", 1), ("other", 2)):
        model = small()
        history = fit(model, x, x_test=bits(5), num_epochs=3, batch_size=8, seed=seed, preprocess=preprocess)
        runs[name] = (weights(model), bounds_of(history))
    assert same(runs["first"], runs["second"])
    assert not same(runs["first"][0], runs["other"][0])
    assert not same(runs["first"][1], runs["other"][1])


def test_the_global_generator_is_neither_used_nor_changed() -> None:
    results = []
    with torch.random.fork_rng():
        for seed in (11, 12):
            model = small()
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            fit(model, greys(), x_test=bits(5), num_epochs=2, batch_size=8, preprocess=data.binarize)
            assert torch.equal(torch.random.get_rng_state(), before)
            results.append(weights(model))
    assert same(*results)


def test_bytes_and_numbers_give_one_run() -> None:
    runs = []
    for dtype in (torch.uint8, torch.float32, torch.float64):
        model = small()
        history = fit(model, bits(dtype=dtype), x_test=bits(7, dtype), num_epochs=2, batch_size=8)
        runs.append((weights(model), bounds_of(history)))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_the_model_trains_in_training_mode_and_is_left_in_evaluation_mode() -> None:
    model, modes = small(), []

    def watch(x: Tensor, *, generator: torch.Generator) -> Tensor:
        modes.append(model.training)
        return x

    for x_test in (bits(5), None):  # evaluation after an epoch must not last into the next
        modes.clear()
        fit(model, bits(), x_test=x_test, num_epochs=2, batch_size=8, preprocess=watch)
        assert modes[1:] == [True] * 6
        assert not model.training


# dropout, and devices that are not here


def dropping(seed: int = 0) -> VAE:
    """A network whose noise comes from the global generator, with running averages beside it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
        return VAE(encoder, nn.Linear(2, 6), (6,), prior=StandardNormal(2))


def test_with_dropout_too_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = dropping(), dropping(seed=1)
    run = functools.partial(fit, x=bits(), x_test=bits(5), num_epochs=4, batch_size=8, ema_decay=0.9)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        history = run(whole, preprocess=keep)
        after = torch.random.get_rng_state()
        torch.manual_seed(5)
        with pytest.raises(Interrupted):
            run(dropping(), preprocess=at_step(8, interrupt), checkpoint=tmp_path / "run.pt")
        torch.manual_seed(6)
        again = run(resumed, preprocess=keep, checkpoint=tmp_path / "run.pt")
        assert torch.equal(torch.random.get_rng_state(), after)
    assert same(bounds_of(again), bounds_of(history))
    assert same(weights(resumed), weights(whole))


def test_the_averaged_models_buffers_are_the_models(tmp_path: Path) -> None:
    """Running means are averages already, and a count of batches has none."""
    fit(dropping(), bits(), num_epochs=2, batch_size=8, ema_decay=0.9, checkpoint=tmp_path / "run.pt")
    state = checkpoint(tmp_path / "run.pt")
    assert state["average"]["encoder.1.num_batches_tracked"] == 6
    assert torch.equal(state["average"]["encoder.1.running_mean"], state["weights"]["encoder.1.running_mean"])
    assert not torch.equal(state["average"]["encoder.0.weight"], state["weights"]["encoder.0.weight"])


def test_a_checkpoint_of_another_kind_of_device_goes_on_with_fresh_noise_and_says_so(tmp_path: Path) -> None:
    """As if written on a CUDA device: 16 bytes of state, which a generator of the CPU cannot take."""
    file, model = tmp_path / "run.pt", small(seed=1)
    run = functools.partial(fit, x=bits(), batch_size=8, seed=3, checkpoint=file)  # fit here: it calls training.fit
    run(small(), num_epochs=2)
    state = checkpoint(file)
    elsewhere = {"device": "cuda", "generator": torch.zeros(16, dtype=torch.uint8)}
    records.write(file, {**state, **elsewhere, "global": {**state["global"], "cuda": elsewhere["generator"]}})
    with pytest.warns(UserWarning, match=r"run\.pt was written on 'cuda' and goes on on 'cpu'") as warned:
        run(model, num_epochs=3)
    assert [warning.filename for warning in warned] == [__file__]
    expected = small(seed=1)
    records.write(file, {**state, "generator": noise(5).get_state()})  # the seed and the epochs done
    run(expected, num_epochs=3)
    assert same(weights(model), weights(expected))


class NoDoublePrecision(TorchFunctionMode):
    """The CPU as a device without double precision: only what ``.cpu()`` has taken to the host may have it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is Tensor.cpu:
            result = result.clone()
        results = result if isinstance(result, list | tuple) else [result]
        given = [*args, *itertools.chain(*(a for a in args if isinstance(a, list | tuple)))]
        given = [value for value in given if isinstance(value, Tensor)]
        is_new_on_host = function is torch.zeros and "device" not in (kwargs or {})
        on_host = function is Tensor.cpu or any(getattr(value, "on_host", False) for value in given)
        for value in results:
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                assert on_host or is_new_on_host, f"{function} makes double precision on the device"
                value.on_host = True
            elif isinstance(value, Tensor) and on_host:
                value.on_host = True
        return result


def test_nothing_on_the_device_is_in_double_precision(tmp_path: Path) -> None:
    """MPS has none. The history is in double precision all the same, on the host."""
    run = functools.partial(fit, x=greys(120), x_test=bits(30), num_epochs=2, batch_size=1, preprocess=data.binarize)
    options = {"ema_decay": 0.9, "weight_decay": 0.1, "schedule": warmup_cosine, "checkpoint": tmp_path / "run.pt"}
    with NoDoublePrecision():
        history = run(small(), **options)
        average_terms(small(), torch.ones(7, 6))
        with pytest.raises(AssertionError, match="makes double precision"):
            torch.ones(3).double()
    expected = run(small(), **{**options, "checkpoint": None})
    assert bounds_of(history) == bounds_of(expected)


def test_data_in_double_precision_reach_a_device_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given, x, images = [], bits(dtype=torch.float64), greys()
    monkeypatch.setattr(Tensor, "to", lambda x, device: given.append((x.dtype, device.type)))
    for values, kind in ((x, "mps"), (images, "mps"), (x, "cpu")):
        _device.place(values, torch.device(kind))
    assert given == [(torch.float32, "mps"), (torch.uint8, "mps"), (torch.float64, "cpu")]


class HostReads(TorchFunctionMode):
    """Counts what makes a device wait: values that Python looks at."""

    READS = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += getattr(function, "__name__", "") in self.READS
        return function(*args, **(kwargs or {}))


def binarized_on_a_device(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """What ``data.binarize`` does where a look would wait; on the CPU it looks at the largest byte."""
    levels = torch.randint(255, images.shape, generator=generator, dtype=torch.uint8)
    return (levels < images).to(torch.uint8)


def test_between_two_looks_nothing_waits_for_the_device() -> None:
    """Fifty steps read as often as five, and a hundred once more for the second look."""
    reads = {}
    for num_steps in (5, 50, 100):
        with HostReads() as mode:
            options = {
                "ema_decay": 0.9,
                "schedule": warmup_cosine,
                "beta": kl_warmup,
                "preprocess": binarized_on_a_device,
            }
            fit(small(), greys(num_steps), num_epochs=1, batch_size=1, **options)
        reads[num_steps] = mode.number
    assert reads[5] == reads[50] > 0
    assert 0 < reads[100] - reads[50] <= 4


# the captured step


class FakeGraphs:
    """Stands in for torch.cuda: what is recorded is a call, and a replay makes it again."""

    def __init__(self) -> None:
        self.registered, self.recording, self.replays = [], False, 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        fakes, stream = self, contextlib.nullcontext()

        class Stream:
            def __init__(self, device: Any = None) -> None:
                pass

            def wait_stream(self, other: Any) -> None:
                assert isinstance(other, Stream)

        class Graph:
            def register_generator_state(self, generator: torch.Generator) -> None:
                fakes.registered.append(generator)

            def replay(self) -> None:
                fakes.replays += 1
                fakes.step.terms.copy_(fakes.step.step(fakes.step.index, fakes.step.rate, fakes.step.weight))

        @contextlib.contextmanager
        def record(graph: Graph) -> Iterator[None]:
            fakes.recording = True
            yield
            fakes.recording = False

        current = Stream()
        for name, fake in {
            "Stream": Stream,
            "stream": lambda _: stream,
            "current_stream": lambda: current,
            "CUDAGraph": Graph,
            "graph": record,
        }.items():
            patch.setattr(torch.cuda, name, fake)


def test_a_captured_step_is_taken_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call does one step with its own index, rate and weight, through the same tensors; recording does none."""
    fakes, done, places = FakeGraphs(), [], set()

    def step(index: Tensor, rate: Tensor, weight: Tensor) -> Tensor:
        if not fakes.recording:
            done.append((index.tolist(), rate.item(), weight.item()))
            places.add((index.data_ptr(), rate.data_ptr(), weight.data_ptr()))
        return torch.stack([rate, weight])

    fakes.install(monkeypatch)
    generator = noise(0)
    fakes.step = _capture.CapturedStep(step, generator, batch_size=2)
    asked = [([n, n + 1], n / 8, 1 + n / 4) for n in range(7)]
    for index, rate, weight in asked:
        terms = fakes.step(torch.tensor(index), rate, weight)
        assert terms.tolist() == [rate, weight]
    assert done == asked
    assert len(places) == 1
    assert (fakes.registered, fakes.replays) == ([generator], len(asked) - _capture.WARM_UP)


def test_a_step_that_cannot_be_recorded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = FakeGraphs()

    def step(*_: Tensor) -> Tensor:
        if fakes.recording:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")
        return torch.zeros(2)

    fakes.install(monkeypatch)
    captured = _capture.CapturedStep(step, noise(0), batch_size=1)
    for _ in range(_capture.WARM_UP):
        captured(torch.zeros(1, dtype=torch.long), 0.1, 1.0)
    with pytest.raises(RuntimeError, match=r"cannot be recorded .*stream is capturing\): perhaps preprocess"):
        captured(torch.zeros(1, dtype=torch.long), 0.1, 1.0)


def test_a_step_takes_its_rate_and_weight_as_numbers_or_as_tensors() -> None:
    """As tensors they can change between the replays of a graph. The rate is the one given, and the terms those before."""
    states = []
    for kind in (float, torch.tensor):
        model, x, eps = small(), bits(), randn(1, 24, 2, seed=3).float()
        optimizer = torch.optim.AdamW(model.parameters(), kind(1.0), fused=True, weight_decay=0.0)
        before = [term.detach().mean() for term in model.elbo_terms(x, eps=eps)]

        def terms_of(x: Tensor, eps: Tensor, model: VAE = model) -> Tensor:
            return torch.stack(model.elbo_terms(x, eps=eps)).mean(-1)

        terms = training.train_step(terms_of, optimizer, x, eps, learning_rate=kind(0.01), weight=kind(0.5))
        assert_close(terms, torch.stack(before), 1e-6)
        assert not terms.requires_grad
        start = torch.cat([p.flatten() for p in small().parameters()])
        moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - start
        assert moved.abs().max().item() == pytest.approx(0.01, rel=1e-3)  # Adam's first step is the rate, up or down
        states.append(weights(model))
    assert same(*states)


# a CUDA device

cuda = pytest.mark.cuda


@cuda
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", [{}, {"capture": True}, {"compile": True}, {"compile": "reduce-overhead"}])
def test_ways_to_train_on_a_cuda_device_agree(way: dict[str, Any], precision: torch.dtype, tmp_path: Path) -> None:
    """With the same noise from the same generator: the plain way is the oracle, up to rounding."""
    x, histories = data.fashion_mnist().images[:640], []
    x_test = data.binarize(x[:100], generator=noise(0))
    for settings in ({}, way):
        torch.manual_seed(0)
        model = conv_vae(num_latents=4, num_channels=8, num_blocks=1)
        options = {"device": "cuda", "precision": precision, "preprocess": data.binarize, "ema_decay": 0.9, **settings}
        options |= {"schedule": warmup_cosine, "beta": kl_warmup, "checkpoint": tmp_path / f"{len(histories)}.pt"}
        histories.append(fit(model, x, x_test=x_test, num_epochs=3, batch_size=64, **options))
        before = model.encode(x_test.to("cuda"))
        kept = [tensor.clone() for tensor in before]
        model.encode(1 - x_test.to("cuda"))
        assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))  # nothing is overwritten after the run
    assert histories[1].train_elbo == pytest.approx(histories[0].train_elbo, rel=2e-3)
    assert histories[1].test_elbo == pytest.approx(histories[0].test_elbo, rel=2e-3)


@cuda
@pytest.mark.parametrize("capture", [False, True])
def test_a_resumed_run_on_a_cuda_device_ends_like_an_uninterrupted_one(capture: bool, tmp_path: Path) -> None:
    whole, resumed = small(), small(seed=1)
    options = {"batch_size": 8, "device": "cuda", "capture": capture, "learning_rate": 0.01}
    history = fit(whole, bits(80), num_epochs=4, **options)
    fit(small(), bits(80), num_epochs=2, checkpoint=tmp_path / "run.pt", **options)
    again = fit(resumed, bits(80), num_epochs=4, checkpoint=tmp_path / "run.pt", **options)
    assert again.train_elbo == pytest.approx(history.train_elbo, rel=1e-4)
    for name, value in whole.state_dict().items():
        assert_close(resumed.state_dict()[name].cpu(), value.cpu(), 1e-3)


@cuda
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_changes_between_cpu_and_cuda_with_a_warning(devices: tuple[str, str], tmp_path: Path) -> None:
    first, second = devices
    fit(small(), bits(), num_epochs=1, batch_size=8, device=first, checkpoint=tmp_path / "run.pt")
    with pytest.warns(UserWarning, match=f"was written on '{first}' and goes on on '{second}'"):
        history = fit(small(), bits(), num_epochs=3, batch_size=8, device=second, checkpoint=tmp_path / "run.pt")
    assert len(history.seconds) == 3


@cuda
def test_steps_on_a_cuda_device_do_not_wait_for_it() -> None:
    """torch itself refuses to wait, between two looks."""

    def prepare(x: Tensor, *, generator: torch.Generator) -> Tensor:
        calls.append(len(x))
        torch.cuda.set_sync_debug_mode("error" if len(calls) > 1 else "default")  # the first call is the check's
        return data.binarize(x, generator=generator)

    model, calls = small(), []
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):  # the look at the end of the epoch
            fit(model, greys(40), num_epochs=1, batch_size=1, device="cuda", preprocess=prepare, ema_decay=0.9)
        assert len(calls) == 41
    finally:
        torch.cuda.set_sync_debug_mode("default")


# where and how


def test_the_device_may_be_named_by_a_string() -> None:
    runs = []
    for device in ("cpu", torch.device("cpu"), None):
        model = small()
        fit(model, bits(), num_epochs=1, batch_size=8, device=device)
        runs.append(weights(model))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_autocast_changes_the_arithmetic_and_not_the_weights_type() -> None:
    histories = {}
    for precision in (torch.float32, torch.bfloat16):
        model = small()
        histories[precision] = fit(
            model, bits(), x_test=bits(7), num_epochs=3, batch_size=8, learning_rate=0.02, precision=precision
        )
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    full, half = histories.values()
    assert half.train_elbo != full.train_elbo
    assert half.test_elbo != full.test_elbo
    assert half.train_elbo == pytest.approx(full.train_elbo, rel=0.02)
    assert half.test_elbo == pytest.approx(full.test_elbo, rel=0.02)


def two_linear_maps() -> VAE:
    """What needs no compiler for C++ when it is compiled."""
    torch.manual_seed(0)
    return VAE(nn.Linear(6, 4), nn.Linear(2, 6), (6,), prior=StandardNormal(2))


@pytest.mark.parametrize("compile", [True, "reduce-overhead"])
def test_compiled_networks_train_alike(compile: bool | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled during the run and not after it; the checkpoint of a compiled run is an ordinary one."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    runs = []
    for choice in (compile, False):
        model, compiled = two_linear_maps(), []

        def watch(x: Tensor, *, generator: torch.Generator, model=model, compiled=compiled) -> Tensor:
            compiled.append([network._compiled_call_impl is not None for network in (model.encoder, model.decoder)])
            return x

        file = tmp_path / f"{choice}.pt"
        settings = {"num_epochs": 2, "batch_size": 8, "compile": choice, "preprocess": watch}
        history = fit(model, bits(), x_test=bits(5), checkpoint=file, **settings)
        assert compiled[1:] == [[choice is not False] * 2] * 6  # the first was the check
        assert [network._compiled_call_impl for network in model.children()] == [None] * 4
        runs.append((history, checkpoint(file)["weights"]))
    (history, compiled_weights), (plain_history, plain_weights) = runs
    torch._dynamo.reset()
    assert history.train_elbo == pytest.approx(plain_history.train_elbo, rel=1e-4)
    assert history.test_elbo == pytest.approx(plain_history.test_elbo, rel=1e-4)
    assert compiled_weights.keys() == plain_weights.keys()
    for name, value in plain_weights.items():
        assert_close(compiled_weights[name], value, 1e-4)


def test_compiling_is_undone_after_an_error_and_what_was_compiled_before_stays() -> None:
    model = two_linear_maps()
    model.decoder.compile()
    call = model.decoder._compiled_call_impl

    def interrupted() -> None:
        with _device.compiled(model, True):
            assert model.encoder._compiled_call_impl is not None
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted()
    assert (model.encoder._compiled_call_impl, model.decoder._compiled_call_impl) == (None, call)


def test_the_mode_of_compilation_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiling: what torch is asked for."""
    modes: list[str | None] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, *, mode: modes.append(mode))
    marks: list[None] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(None))
    for compile in (False, True, "default", "reduce-overhead"):
        fit(small(), bits(), num_epochs=1, batch_size=24, compile=compile)
    assert modes == [mode for mode in (None, "default", "reduce-overhead") for _ in small().children()]
    assert len(marks) == 3  # captured graphs are told of every step
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="Unrecognized mode"):
        fit(small(), bits(), num_epochs=1, batch_size=24, compile="as fast as you can")


def missing_for_compiling() -> str:
    """What a convolution needs to be compiled on the CPU and is not here, or nothing."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name):
        return "no compiler for C++"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return "" if header.exists() else f"no {header.name}: Python was installed without its headers"


@pytest.mark.skipif(bool(missing_for_compiling()), reason=missing_for_compiling() or "all there")
def test_a_compiled_convolutional_vae_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    x, histories = data.fashion_mnist().images[:64], []
    for compile in (True, False):
        torch.manual_seed(0)
        model = conv_vae(num_latents=2, num_channels=4, num_blocks=0)
        histories.append(fit(model, x, num_epochs=1, batch_size=32, preprocess=data.binarize, compile=compile))
    torch._dynamo.reset()
    assert histories[0].train_elbo == pytest.approx(histories[1].train_elbo, rel=1e-4)


@pytest.mark.parametrize("done", [0.0, 0.01, 0.025, 0.05, 0.0501, 0.3, 0.525, 0.9, 1.0])
def test_warmup_cosine_is_its_equation(done: float) -> None:
    expected = done / 0.05 if done < 0.05 else 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))
    assert warmup_cosine(done) == pytest.approx(expected, abs=1e-15)
    assert 0 <= warmup_cosine(done) <= 1


# the average over a data set


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_average_terms_of_one_batch_are_the_models_terms(dtype: torch.dtype) -> None:
    model, x = small(dtype=torch.float64), bits(17, dtype)
    average = average_terms(model, x, seed=5)
    terms = model.elbo_terms(x.double(), generator=noise(5))
    assert_close(average.reconstruction, terms.reconstruction.detach().mean())
    assert_close(average.kl, terms.kl.detach().mean())


@pytest.mark.parametrize("objective", [objectives.elbo(num_samples=4), objectives.iwae(3), objectives.reconstruction()])
def test_average_terms_are_those_of_an_objective_without_its_weight(objective: Objective) -> None:
    """As many samples as it asks for: with 2.0 as the weight of the second term nothing changes."""
    model, x = small(dtype=torch.float64), bits(17)
    eps = torch.randn(objective.num_samples, 17, 2, generator=noise(5), dtype=torch.float64)
    expected = [term.detach().mean() for term in objective.terms(model, x.double(), eps)]
    average = average_terms(model, x, seed=5, objective=dataclasses.replace(objective, weight=2.0))
    assert_close(torch.stack(average), torch.stack(expected))


def test_average_terms_weigh_every_data_point_alike() -> None:
    """17 points in batches of 7, 7 and 3: the mean of the three means would be another number."""
    model, x, generator = small(dtype=torch.float64), bits(17), noise(5)
    model.requires_grad_(False)
    terms = [model.elbo_terms(batch.double(), generator=generator) for batch in x.split(7)]
    average = average_terms(model, x, batch_size=7, seed=5)
    assert_close(average.reconstruction, torch.cat([t.reconstruction for t in terms]).mean())
    assert_close(average.kl, torch.cat([t.kl for t in terms]).mean())
    assert abs(average.kl - torch.stack([t.kl.mean() for t in terms]).mean()) > 1e-4


def test_average_terms_repeat_and_leave_everything_alone() -> None:
    model, x = small(), bits(17)
    before, random_state = weights(model), torch.random.get_rng_state()
    assert same(average_terms(model, x), average_terms(model, x))
    assert not same(average_terms(model, x), average_terms(model, x, seed=1))
    assert same(weights(model), before)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    average = average_terms(model, x)
    assert average.reconstruction.dtype == average.kl.dtype == torch.float64
    assert average.reconstruction.shape == average.kl.shape == ()
    assert not average.reconstruction.requires_grad


def test_average_terms_refuse_what_the_model_does_not_describe() -> None:
    assert_refused(lambda: average_terms(small(), bits(0)), "x", "empty")
    assert_refused(lambda: average_terms(small(), 2 * bits()), "x", "[0, 1]")
    assert_refused(lambda: average_terms(small(), torch.zeros(3, 7)), "x", (3, 7))


# resuming


# the weight of the KL, decay, averaged weights, early stopping


def typed_out_with_options(model: VAE, x: Tensor, *, beta: float, weight_decay: float, ema_decay: float) -> VAE:
    """One batch an epoch, four epochs, learning rate 0.02; returns the averaged model."""
    generator, average = noise(0), copy.deepcopy(model)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    for step in range(1, 5):
        torch.randperm(len(x), generator=generator)  # the order of a mean over one batch does not count here
        mu, log_var = model.encode(x)
        kl = (0.5 * (mu**2 + log_var.exp() - log_var - 1)).sum(1).mean()
        loss = beta * kl - model.log_p_x_given_z(x, mu[None] + 0 * log_var).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(model.named_parameters(), gradients, strict=True):
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * g)
                second.mul_(0.999).add_(0.001 * g**2)
                if p.dim() == 2:
                    p -= 0.02 * weight_decay * p
                p -= 0.02 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            # the first step's weights start the average; before the (n + 1)-th update n are in it
            n = step - 1
            decay = 0.0 if n == 0 else min(ema_decay, (1 + n) / (10 + n))
            for mean, p in zip(average.parameters(), model.parameters(), strict=True):
                mean.mul_(decay).add_((1 - decay) * p)
    return average


def noiseless(beta: float | Callable[[float], float] = 1.0) -> Objective:
    """The ELBO at the mean of q: without noise, a typed-out run needs no account of the generator."""

    def terms(model: VAE, x: Tensor, eps: Tensor) -> ElboTerms:
        return model.elbo_terms(x, eps=0 * eps)

    return Objective("noiseless", terms, weight=beta)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("weight_decay", [0.0, 3.0])
@pytest.mark.parametrize("ema_decay", [0.0, 0.15, 0.9])
def test_the_options_are_their_equations(beta: float, weight_decay: float, ema_decay: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp_vae((6,), num_latents=2, num_hidden=5).double()
    expected = typed_out_with_options(
        copy.deepcopy(model), bits().double(), beta=beta, weight_decay=weight_decay, ema_decay=ema_decay
    )
    options = {"objective": noiseless(beta), "weight_decay": weight_decay, "ema_decay": ema_decay}
    fit(model, bits(), num_epochs=4, batch_size=24, learning_rate=0.02, **options)
    for name, value in expected.state_dict().items():
        assert_close(model.state_dict()[name], value, 1e-7)


def test_a_noise_variance_and_biases_do_not_decay() -> None:
    """With a tiny gradient step and a huge decay only what decays moves."""
    model = linear_vae((6,), 2, likelihood=likelihoods.Gaussian())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    fit(model, bits(), num_epochs=1, batch_size=24, learning_rate=1e-6, weight_decay=1e5)
    for parameter in model.parameters():
        assert_close(parameter, torch.full_like(parameter, 0.45 if parameter.dim() > 1 else 0.5), 1e-5)


def test_the_kl_is_recorded_without_its_weight() -> None:
    model, x = small(dtype=torch.float64), bits()
    terms = average_terms(model, x)
    history = fit(model, x, x_test=x, num_epochs=1, batch_size=24, learning_rate=1e-12, beta=7.0)
    assert history.test_kl[0] == pytest.approx(terms.kl.item(), abs=1e-8)


def test_the_weight_of_the_kl_may_follow_the_course_of_training() -> None:
    """Beta is 0 in the first three of six epochs: until then nothing but the KL would move the log-variances."""
    model, seen = small(), []

    def beta(done: float) -> float:
        seen.append(done)
        return float(done >= 0.5)

    before = weights(model)["encoder.3.weight"][2:]
    run = functools.partial(
        fit, model, bits(), num_epochs=6, batch_size=8, learning_rate=0.1, objective=noiseless(beta)
    )
    rows = []
    run(preprocess=lambda x, *, generator: (rows.append(weights(model)["encoder.3.weight"][2:]), x)[1])
    assert all(same(row, before) for row in rows[: 1 + 3 * 3 + 1])  # the check, three epochs, the step into the fourth
    assert not any(same(row, before) for row in rows[1 + 3 * 3 + 1 :])
    assert_close(torch.tensor(sorted(set(seen))), torch.tensor([step / 18 for step in range(18)]), 1e-6)


def test_a_constant_function_is_a_constant_beta() -> None:
    one, other = small(), small()
    fit(one, bits(), num_epochs=2, batch_size=8, beta=0.3)
    fit(other, bits(), num_epochs=2, batch_size=8, beta=lambda done: 0.3)
    assert same(weights(one), weights(other))


def test_without_the_kl_the_weights_that_only_the_kl_moves_stand_still() -> None:
    model = small()
    before = weights(model)["encoder.3.weight"][2:]  # the half that gives the log-variance
    fit(model, bits(), num_epochs=2, batch_size=8, learning_rate=0.1, objective=noiseless(0.0))
    assert same(weights(model)["encoder.3.weight"][2:], before)


def test_what_is_tested_is_the_averaged_model_and_it_is_what_is_left() -> None:
    model, x = small(), bits()
    history = fit(model, x, x_test=x, num_epochs=3, batch_size=8, learning_rate=0.1, ema_decay=0.99)
    assert average_terms(model, x).kl.item() == history.test_kl[-1]
    last = small()
    fit(last, x, num_epochs=3, batch_size=8, learning_rate=0.1)
    assert not same(weights(model), weights(last))


def overfitting() -> dict[str, Any]:
    """A run whose test bound falls after a while: 6 data points to learn by heart, others to test."""
    return {"x": bits(6), "x_test": bits(20, seed=9), "batch_size": 6, "learning_rate": 0.05}


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_early_stopping_stops_after_patience_and_leaves_the_best_weights(beta: float, tmp_path: Path) -> None:
    whole, stopped, until_best = small(), small(), small()
    run = functools.partial(fit, **overfitting(), beta=beta)
    history = run(whole, num_epochs=120)
    objective = [r - beta * k for r, k in zip(history.test_reconstruction, history.test_kl, strict=True)]
    best = next(e for e in range(120) if max(objective[e + 1 : e + 9]) <= objective[e])  # eight without a better one
    assert 0 < best < 100
    short = run(stopped, num_epochs=120, patience=8, checkpoint=tmp_path / "run.pt")
    assert len(short.seconds) == best + 9
    assert same(bounds_of(short), {name: values[: best + 9] for name, values in bounds_of(history).items()})
    run(until_best, num_epochs=best + 1)
    assert same(weights(stopped), weights(until_best))
    record = small()
    assert records.load_weights(tmp_path / "run.best.pt", record).facts["epochs"] == best + 1
    assert same(weights(record), weights(until_best))
    again = small(seed=1)
    assert run(again, num_epochs=120, patience=8, checkpoint=tmp_path / "run.pt") == short
    assert same(weights(again), weights(until_best))


def test_a_run_stopped_between_its_two_files_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the best is written first: it may be an epoch ahead of the checkpoint."""
    run = functools.partial(fit, **overfitting(), num_epochs=120, patience=8)
    whole, stopped = small(), small()
    history = run(whole)
    save, calls = _checkpoint.save, iter(range(10))

    def interrupted_in_the_third_epoch(*arguments: Any) -> None:
        if next(calls) == 2:
            raise Interrupted
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "save", interrupted_in_the_third_epoch)
        with pytest.raises(Interrupted):
            run(stopped, checkpoint=tmp_path / "run.pt")
    assert len(records.load_weights(tmp_path / "run.best.pt", small()).history.seconds) == 3
    assert len(checkpoint(tmp_path / "run.pt")["history"]["seconds"]) == 2
    assert bounds_of(run(stopped, checkpoint=tmp_path / "run.pt")) == bounds_of(history)
    assert same(weights(stopped), weights(whole))


def test_without_a_test_set_there_is_no_best(tmp_path: Path) -> None:
    fit(small(), bits(), num_epochs=1, batch_size=8, checkpoint=tmp_path / "run.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_ctrl_c_costs_the_epoch_under_way_and_nothing_else(tmp_path: Path) -> None:
    """SIGINT in the middle of the third epoch: the program dies of KeyboardInterrupt, best and last are whole."""
    with running(tmp_path / "run.pt", 0, "step") as process:
        assert process.stdout.readline() == "hanging\n"
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
        assert "KeyboardInterrupt" in errors
    assert len(checkpoint(tmp_path / "run.pt")["history"]["seconds"]) == 2
    assert len(records.read(tmp_path / "run.best.pt", records.RECORD_KEYS)["history"]["seconds"]) in (1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.best.pt", "run.pt"]


MODELS: dict[str, Callable[[], VAE]] = {
    "MLP": small,
    "MLP double": lambda: small(dtype=torch.float64),
    "linear Gaussian": lambda: linear_vae((6,), 2, likelihood=likelihoods.Gaussian()),
    "convolutional": lambda: conv_vae(num_latents=2, num_channels=2, num_blocks=1),
}


OPTIONS = {"plain": {}, "all": {"beta": 0.5, "weight_decay": 0.1, "ema_decay": 0.9, "patience": 3}}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    name: str, precision: torch.dtype, options: str, tmp_path: Path
) -> None:
    x = (randn(24, *MODELS[name]().data_shape, seed=0) > 0).to(torch.uint8)
    run = functools.partial(
        fit,
        x=x,
        x_test=x[:5],
        batch_size=8,
        learning_rate=0.01,
        schedule=warmup_cosine,
        precision=precision,
        **OPTIONS[options],
    )
    torch.manual_seed(0)
    whole = MODELS[name]()
    killed, resumed = MODELS[name](), MODELS[name]()
    killed.load_state_dict(whole.state_dict())
    history = run(whole, num_epochs=4, preprocess=keep, checkpoint=tmp_path / "whole.pt")
    with pytest.raises(Interrupted):  # in the second step of the third epoch
        run(killed, num_epochs=4, preprocess=at_step(8, interrupt), checkpoint=tmp_path / "killed.pt")
    again = run(resumed, num_epochs=4, preprocess=keep, checkpoint=tmp_path / "killed.pt")
    assert same(weights(resumed), weights(whole))
    assert same(bounds_of(again), bounds_of(history))
    assert len(again.seconds) == 4
    assert not resumed.training


def test_a_finished_run_is_loaded_and_not_run_again(tmp_path: Path) -> None:
    model, other = small(), small(seed=1)
    history = fit(model, bits(), num_epochs=2, batch_size=8, checkpoint=tmp_path / "run.pt")
    content = (tmp_path / "run.pt").read_bytes()
    assert fit(other, bits(), num_epochs=2, batch_size=8, checkpoint=tmp_path / "run.pt") == history
    assert same(weights(other), weights(model))
    assert (tmp_path / "run.pt").read_bytes() == content


def test_a_run_with_a_constant_rate_may_be_prolonged(tmp_path: Path) -> None:
    model, prolonged = small(), small()
    history = fit(model, bits(), num_epochs=4, batch_size=8)
    fit(prolonged, bits(), num_epochs=2, batch_size=8, checkpoint=str(tmp_path / "run.pt"))
    longer = fit(prolonged, bits(), num_epochs=4, batch_size=8, checkpoint=str(tmp_path / "run.pt"))
    assert same(weights(prolonged), weights(model))
    assert same(bounds_of(longer), bounds_of(history))


RUN = """
import os, signal, sys, time
import torch
from vae_tutorial import data, models, training

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started deaf to Ctrl-C

checkpoint, seed, hang = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = {"binarize": 0, "fsync": 0}

def hang_at(name, number):
    calls[name] += 1
    if calls[name] == number:
        print("hanging", flush=True)
        time.sleep(600)

def binarize(images, *, generator):
    if hang == "step":
        hang_at("binarize", 1 + 2 * 6 + 4)  # the check; two epochs of six steps; the fourth step of the third
    return data.binarize(images, generator=generator)

fsync = os.fsync

def slow_fsync(file):
    if hang.startswith("write"):  # the record of the best weights is written first, then the checkpoint
        hang_at("fsync", 1 if hang == "write best" else 2)
    fsync(file)

os.fsync = slow_fsync
torch.set_num_threads(1)
torch.manual_seed(seed)
model = models.conv_vae(num_latents=2, num_channels=4, num_blocks=1)
x = data.fashion_mnist().images
training.fit(
    model, x[:400], x_test=(x[400:450] > 127).to(torch.uint8), num_epochs=4, preprocess=binarize,
    optimization=training.Optimization(batch_size=64, schedule=training.warmup_cosine),
    execution=training.Execution(seed=5, checkpoint=checkpoint),
)
print("finished", flush=True)
"""


@contextlib.contextmanager
def running(checkpoint: Path, seed: int, hang: str) -> Iterator[subprocess.Popen[str]]:
    """The program above in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-c", RUN, str(checkpoint), str(seed), hang]
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=checkpoint.parent)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_resumed_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed with SIGKILL in the third epoch; resumed and killed while it writes that epoch's best record; resumed and
    killed while it writes that epoch's checkpoint; resumed.

    Each process starts from other weights and another global seed: all that counts must come from the checkpoint.
    """
    killed, whole = tmp_path / "killed.pt", tmp_path / "whole.pt"
    with running(whole, 0, "never") as uninterrupted:
        for seed, hang in ((0, "step"), (1, "write best"), (3, "write last")):
            with running(killed, seed, hang) as process:
                line = process.stdout.readline()
                assert line == "hanging\n", process.stderr.read()
                process.kill()
                assert process.wait() == (1 if os.name == "nt" else -signal.SIGKILL)
            assert len(torch.load(killed, weights_only=True)["history"]["train_kl"]) == 2
        with running(killed, 2, "never") as resumed:
            output, errors = resumed.communicate()
            assert output == "finished\n", errors
        output, errors = uninterrupted.communicate()
        assert output == "finished\n", errors
    assert same(*(records.read(best_path(path), records.RECORD_KEYS)["weights"] for path in (killed, whole)))
    assert errors == ""  # TQDM_DISABLE: no bar

    first, second = (torch.load(path, weights_only=True) for path in (whole, killed))
    for state in (first, second):
        assert len(state["history"].pop("seconds")) == 4
    assert same(first, second)  # weights, Adam's moments, the generator, the history, the settings


# checkpoints: atomic, of this run, undamaged, harmless


@pytest.mark.parametrize("culprit", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    culprit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.pt"
    fit(small(), bits(), num_epochs=1, batch_size=8, checkpoint=file)
    content = file.read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr({"fsync": os, "replace": Path}[culprit], culprit, fail)
        with pytest.raises(OSError, match="No space left"):
            fit(small(), bits(), num_epochs=2, batch_size=8, checkpoint=file)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    assert file.read_bytes() == content
    fit(small(), bits(), num_epochs=2, batch_size=8, checkpoint=file)


SETTINGS = {"batch_size": 8, "learning_rate": 0.01, "num_epochs": 2, "schedule": warmup_cosine, "preprocess": keep}


def shifted(x: Tensor, *, generator: torch.Generator) -> Tensor:
    return 1 - x


def half_of_it(done: float) -> float:
    return 0.5


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"batch_size": 6}, ["batch_size was 8, is 6"]),
    ({"learning_rate": 0.02}, ["learning_rate was 0.01, is 0.02"]),
    ({"seed": 1}, ["seed was 0, is 1"]),
    ({"seed": 1, "batch_size": 6}, ["seed was 0, is 1", "batch_size was 8, is 6"]),
    ({"schedule": None}, ["schedule was warmup_cosine, is None"]),
    ({"schedule": half_of_it}, ["schedule", "warmup_cosine", "half_of_it"]),
    ({"num_epochs": 1}, ["num_epochs was 2, is 1, and 2 are done"]),
    ({"preprocess": None}, ["preprocess was keep, is None"]),
    ({"preprocess": shifted}, ["preprocess", "keep", "shifted"]),
    ({"preprocess": lambda x, *, generator: x}, ["preprocess", "keep"]),
    ({"precision": torch.bfloat16}, ["precision was torch.float32, is torch.bfloat16"]),
    ({"objective": beta_elbo(0.5)}, ["objective.weight was 1.0, is 0.5"]),
    ({"objective": beta_elbo(kl_warmup)}, ["objective.weight was 1.0, is kl_warmup"]),
    ({"objective": objectives.elbo(num_samples=2)}, ["objective.num_samples was 1, is 2"]),
    ({"objective": objectives.iwae(1)}, ["objective.name", "elbo", "iwae"]),
    ({"weight_decay": 0.1}, ["weight_decay was 0.0, is 0.1"]),
    ({"ema_decay": 0.9}, ["ema_decay was None, is 0.9"]),
    ({"patience": 2}, ["patience was None, is 2"]),
    ({"x": bits(23)}, ["data was"]),
    ({"x": bits(seed=1)}, ["data was"]),  # as many
    ({"x": bits().index_put((torch.tensor(23), torch.tensor(5)), 1 - bits()[23, 5])}, ["data was"]),
    ({"x_test": bits(5)}, ["test data was"]),
    ({"x_test": None}, ["test data was"]),
    ({"model": lambda: mlp_vae((6,), 3, 5)}, ["model.prior.num_latents was 2, is 3"]),
    ({"model": lambda: mlp_vae((6,), 2, 4)}, ["model.encoder.num_hidden was 5, is 4"]),
    (
        {"model": lambda: mlp_vae((6,), 2, 5, likelihood=likelihoods.ContinuousBernoulli())},
        ["model.likelihood", "Bernoulli", "ContinuousBernoulli"],
    ),
    ({"model": lambda: mlp_vae((6,), 2, 5, prior=GaussianMixture(2, 3))}, ["model.prior", "GaussianMixture"]),
    ({"model": lambda: mlp_vae((6,), 2, 5, family=FullRank)}, ["model.family", "MeanField", "FullRank"]),
    ({"model": two_linear_maps}, ["model.encoder", "MLPEncoder", "Linear"]),
]


@pytest.mark.parametrize(("changed", "words"), CHANGES)
def test_the_checkpoint_of_another_run_is_refused(changed: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    """Every kind of change: the message is short and says what differs; neither file nor weights are touched."""
    file, was = tmp_path / "run.pt", {"model": small, "x": bits(), "x_test": bits(7), **SETTINGS}
    fit(**{**was, "model": small()}, checkpoint=file)
    content, now = file.read_bytes(), {**was, **changed}
    other = now.pop("model")()
    before = weights(other)
    call = functools.partial(fit, other, **now, checkpoint=file)
    assert_refused(call, "run.pt", "checkpoint of another run", *words)
    with pytest.raises(ValueError, match="another run") as error:
        call()
    assert len(str(error.value)) < len(str(file)) + 350
    assert file.read_bytes() == content
    assert same(weights(other), before)


def test_two_runs_on_one_checkpoint_are_noticed(tmp_path: Path) -> None:
    """The one that would overwrite what it has not written stops; the other's file stays."""
    file, content = tmp_path / "run.pt", b"another run's"

    def overwrite(x: Tensor) -> Tensor:
        file.unlink()
        file.write_bytes(content)
        return x

    with pytest.raises(OSError, match=r"run\.pt was written by another run meanwhile"):
        fit(small(), bits(), num_epochs=3, batch_size=8, preprocess=at_step(5, overwrite), checkpoint=file)
    assert file.read_bytes() == content


def test_a_noise_variance_that_is_given_belongs_to_the_model(tmp_path: Path) -> None:
    """It is a buffer: no parameter and no shape tells it."""

    def run(log_var: float | None) -> History:
        model = mlp_vae((6,), 2, 5, likelihood=likelihoods.Gaussian(log_var))
        return fit(model, bits(), num_epochs=1, batch_size=8, checkpoint=tmp_path / "run.pt")

    run(-1.0)
    assert_refused(lambda: run(-2.0), "model.likelihood.log_var was -1.0, is -2.0")
    assert_refused(lambda: run(None), "model.likelihood.log_var was -1.0, is None")


def test_a_finished_run_whose_schedule_is_stretched_says_how_to_train_it_further(tmp_path: Path) -> None:
    """And what it says works: the weights are loaded by the old call, and go on under another name."""
    file, model = tmp_path / "run.pt", small(seed=1)
    run = functools.partial(fit, x=bits(), batch_size=8)
    run(small(), num_epochs=2, schedule=warmup_cosine, checkpoint=file)
    longer = functools.partial(run, small(), num_epochs=3, checkpoint=file)
    assert_refused(lambda: longer(schedule=warmup_cosine), "num_epochs was 2, is 3", "call fit with num_epochs=2")
    run(model, num_epochs=2, schedule=warmup_cosine, checkpoint=file)
    assert same(weights(model), checkpoint(file)["weights"])
    history = run(model, num_epochs=1, schedule=warmup_cosine, checkpoint=tmp_path / "more.pt")
    assert len(history.seconds) == 1
    run(small(), num_epochs=2, beta=kl_warmup, checkpoint=tmp_path / "beta.pt")  # a weight is stretched likewise
    assert_refused(
        lambda: run(small(), num_epochs=3, beta=kl_warmup, checkpoint=tmp_path / "beta.pt"),
        "call fit with num_epochs=2",
    )


def test_a_checkpoint_with_wrong_contents_under_the_right_keys_is_refused_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    run = functools.partial(fit, x=bits(), num_epochs=2, batch_size=8, checkpoint=file)
    run(small())
    whole = checkpoint(file)
    for key in whole:
        for wrong in (None, 3, "text", {"a": 1}, [torch.zeros(2)]):
            records.write(file, {**whole, key: wrong})
            if key not in ("average", "num_epochs", "device") and (key, wrong) != ("best", None):  # not read here
                with pytest.raises(ValueError, match=r"run\.pt"):
                    pytest.fail(f"{key} {wrong} {run(small())}")
    records.write(file, whole)
    run(small())


def test_a_preprocessing_with_arguments_is_the_same_in_every_process(tmp_path: Path) -> None:
    """A partial function shows an address where a plain one shows its name; the address must not count."""

    def fresh() -> Callable[..., Tensor]:
        def flip(x: Tensor, *, often: bool, generator: torch.Generator) -> Tensor:
            return 1 - x if often else x

        return flip

    checkpoint = tmp_path / "run.pt"
    first, second = fresh(), fresh()
    assert hex(id(first)) != hex(id(second))
    run = functools.partial(fit, x=bits(), batch_size=8, checkpoint=checkpoint)
    run(small(), num_epochs=1, preprocess=functools.partial(first, often=True))
    run(small(), num_epochs=2, preprocess=functools.partial(second, often=True))
    assert_refused(
        lambda: run(small(), num_epochs=3, preprocess=functools.partial(second, often=False)), "another run", "often"
    )


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    checkpoint = tmp_path_factory.mktemp("run") / "run.pt"
    fit(small(), bits(), num_epochs=1, batch_size=8, checkpoint=checkpoint)
    return checkpoint.read_bytes()


def resume_from(file: Path) -> Callable[[], object]:
    return lambda: fit(small(), bits(), num_epochs=1, batch_size=8, checkpoint=file)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(fraction: float, checkpoint_bytes: bytes, tmp_path: Path) -> None:
    file = tmp_path / "short.pt"
    file.write_bytes(checkpoint_bytes[: int(fraction * len(checkpoint_bytes))])
    assert_refused(resume_from(file), "short.pt", "cannot be read", "delete it")


@pytest.mark.parametrize(
    "content", [b"", b"hello world, this is text\n", b"\x80\x02}q\x00.", b"PK\x03\x04 and no more", bytes(100)]
)
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "other.txt"
    file.write_bytes(content)
    assert_refused(resume_from(file), "other.txt", "cannot be read", "delete it")
    assert file.read_bytes() == content


def test_checkpoints_and_records_are_not_taken_for_each_other(tmp_path: Path) -> None:
    model, file, record = small(), tmp_path / "checkpoint.pt", tmp_path / "record.pt"
    records.save_model(record, model, fit(model, bits(), num_epochs=1, batch_size=8, checkpoint=file))
    assert_refused(resume_from(record), "record.pt", "some other file")
    assert_refused(lambda: records.load_weights(file, model), "checkpoint.pt", "some other file")


def test_a_checkpoint_needs_a_folder(tmp_path: Path) -> None:
    """Said before the first epoch, not after it."""
    model = small()
    before = weights(model)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*make it first"):
        fit(model, bits(), num_epochs=1, batch_size=8, checkpoint=tmp_path / "nowhere" / "run.pt")
    assert same(weights(model), before)


# bounds that are not finite


def spoil(x: Tensor) -> Tensor:
    return torch.full_like(x, math.nan)


@pytest.mark.parametrize(("step", "epoch", "step_of_epoch"), [(1, 1, 1), (3, 1, 3), (4, 2, 1), (5, 2, 2), (9, 3, 3)])
def test_a_bound_that_is_not_finite_stops_the_run_and_says_where(step: int, epoch: int, step_of_epoch: int) -> None:
    with pytest.raises(FloatingPointError) as error:
        fit(small(), bits(), num_epochs=3, batch_size=8, learning_rate=0.25, preprocess=at_step(step, spoil))
    assert f"epoch {epoch}, step {step_of_epoch} of 3, at learning rate 0.25" in str(error.value)


@pytest.mark.parametrize("step", [training.CHECK_EVERY, training.CHECK_EVERY + 1, 117])
def test_the_step_is_named_wherever_the_loop_looks(step: int) -> None:
    """The loop looks every fiftieth step, and again at the end: 120 steps are looked at three times."""
    with pytest.raises(FloatingPointError, match=rf"epoch 1, step {step} of 120, at learning rate 0.001: "):
        fit(small(), bits(120), num_epochs=1, batch_size=1, preprocess=at_step(step, spoil))


def test_the_learning_rate_named_is_that_of_the_schedule() -> None:
    """Two epochs of 3 steps: step 2 of the second is at 4/6 of training."""
    settings = {"num_epochs": 2, "batch_size": 8, "schedule": lambda done: 1 - done}
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 2 of 3, at learning rate 0\.1: "):
        fit(small(), bits(), learning_rate=0.3, preprocess=at_step(5, spoil), **settings)


def test_the_checkpoint_of_the_last_good_epoch_survives_and_goes_on(tmp_path: Path) -> None:
    checkpoint, whole, resumed = tmp_path / "run.pt", small(), small(seed=1)
    run = functools.partial(fit, x=bits(), num_epochs=4, batch_size=8)
    with pytest.raises(FloatingPointError, match="epoch 3, step 2 of 3"):
        run(small(), preprocess=at_step(8, spoil), checkpoint=checkpoint)
    assert len(torch.load(checkpoint, weights_only=True)["history"]["train_kl"]) == 2
    run(resumed, preprocess=keep, checkpoint=checkpoint)
    run(whole, preprocess=keep)
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("batch_size", [24, 8])
def test_an_absurd_learning_rate_stops_the_run(batch_size: int, tmp_path: Path) -> None:
    """With one step an epoch the bound was finite, and the step after it ruined the weights: that is no good epoch."""
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match=r"not finite in epoch 1, .* at learning rate 1e\+39"):
        fit(small(), bits(), num_epochs=5, batch_size=batch_size, learning_rate=1e39, checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_weights_ruined_by_the_last_step_are_not_checkpointed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match="a weight is not finite in epoch 2, step 1 of 1"):
        fit(
            small(),
            bits(),
            num_epochs=2,
            batch_size=24,
            schedule=lambda done: 1e42 if done >= 0.5 else 1.0,
            checkpoint=checkpoint,
        )
    state = torch.load(checkpoint, weights_only=True)
    assert len(state["history"]["train_kl"]) == 1
    assert all(value.isfinite().all() for value in state["weights"].values())


@pytest.mark.parametrize("patience", [None, 1])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_test_bound_that_is_not_finite_stops_the_run_and_touches_no_file(
    bad: float, patience: int | None, tmp_path: Path
) -> None:
    """In the second epoch: checkpoint and best record stay those of the first, and a better objective takes over."""
    elbo, tests = objectives.elbo(), iter(range(100))

    def terms(model: VAE, x: Tensor, eps: Tensor) -> ElboTerms:
        good = elbo.terms(model, x, eps)
        spoilt = not model.training and next(tests) == 2  # after trying out, and the test after the first epoch
        return ElboTerms(good.reconstruction + bad, good.kl) if spoilt else good

    run = functools.partial(fit, x=bits(), x_test=bits(7), num_epochs=3, batch_size=8, patience=patience)
    run = functools.partial(run, objective=dataclasses.replace(elbo, terms=terms), checkpoint=tmp_path / "run.pt")
    with pytest.raises(FloatingPointError, match="the objective on x_test is not finite in epoch 2"):
        run(small())
    best = records.load_weights(tmp_path / "run.best.pt", small())
    assert (len(best.history.seconds), len(checkpoint(tmp_path / "run.pt")["history"]["seconds"])) == (1, 1)


def test_a_buffer_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """A running variance may overflow where the weights do not."""
    model = dropping()
    model.encoder[1].running_var.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="a weight is not finite in epoch 1"):
        fit(model, bits(), num_epochs=1, batch_size=8, checkpoint=tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


# bad input


@pytest.mark.parametrize("preprocess", [None, keep])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (bits(0), ["x", "empty"]),
        (bits().index_fill(0, torch.tensor([3]), math.nan), ["x", "NaN"]),
        (bits() + 0.01, ["x", "[0, 1]", "1.01", "binarize"]),
        (bits() - 0.01, ["x", "[0, 1]", "-0.01", "binarize"]),
        (greys(), ["x", "[0, 1]", "binarize"]),
        (torch.zeros(24, 7), ["x", (24, 7)]),
        (torch.zeros(24, 3, 6), ["x", (24, 3, 6)]),
    ],
)
def test_data_that_the_model_does_not_describe_are_refused(
    x: Tensor, words: list[str | tuple[int, ...]], preprocess: Callable[..., Tensor] | None
) -> None:
    model = small()
    before = weights(model)
    if preprocess is None:
        assert_refused(lambda: fit(model, x, num_epochs=1, batch_size=8), *words)
        assert_refused(lambda: fit(model, bits(), x_test=x, num_epochs=1, batch_size=8), *words)
    else:
        assert_refused(lambda: fit(model, x, num_epochs=1, batch_size=8, preprocess=preprocess), *words)
    assert same(weights(model), before)


BEHIND_THE_FIRST_BATCH = [
    (bits(256).index_fill(0, torch.arange(200, 256), 3), ["x", "[0, 1]", "3"]),
    (bits(256).index_fill(0, torch.tensor([200]), math.nan), ["x contains NaN, first in row 200"]),
    (bits(256).index_put((torch.tensor(201), torch.tensor(5)), torch.tensor(math.inf)), ["x"]),
    (bits(256).index_put((torch.tensor(255), torch.tensor(5)), torch.tensor(-0.5)), ["x", "-0.5"]),
]


@pytest.mark.parametrize("chunk", [10, 6 * 200, _data_check.CHUNK])
@pytest.mark.parametrize("preprocess", [None, keep])
@pytest.mark.parametrize(("x", "words"), BEHIND_THE_FIRST_BATCH)
def test_every_value_is_looked_at(
    x: Tensor, words: list[str], preprocess: Any, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a preprocessing too: its sample holds the rows of the extremes."""
    monkeypatch.setattr(_data_check, "CHUNK", chunk)
    monkeypatch.setattr(_data_check, "SAMPLE", 3)
    assert_refused(lambda: fit(small(), x, num_epochs=1, batch_size=8, preprocess=preprocess), *words)
    if preprocess is None:
        assert_refused(lambda: fit(small(), bits(), x_test=x, num_epochs=1, batch_size=8), "x_test:", *words)
        assert_refused(lambda: average_terms(small(), x), *words)


def test_infinite_values_name_their_row_and_a_refusal_in_a_part_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_data_check, "CHUNK", 60)
    monkeypatch.setattr(_data_check, "SAMPLE", 3)
    x = bits().index_put((torch.tensor([13, 17]), torch.tensor([5, 0])), torch.tensor([math.inf, -math.inf]))
    run = functools.partial(fit, small(), num_epochs=1, batch_size=8)
    assert_refused(lambda: run(x, preprocess=keep), "x contains infinite values, first in row 13")
    assert_refused(lambda: run(bits().index_fill(0, torch.tensor([13]), 2)), "found in rows 10 to 19")


def test_the_check_sees_all_data_in_parts_and_the_preprocessing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the part; the sample has the extremes, whose rows no even spacing would hit."""
    seen, samples = [], []
    monkeypatch.setattr(VAE, "check_data", lambda model, x: seen.append(x))
    monkeypatch.setattr(_data_check, "CHUNK", 60)
    monkeypatch.setattr(_data_check, "SAMPLE", 3)
    run = functools.partial(fit, small(), num_epochs=1, batch_size=2)
    run(bits(35))
    assert [len(part) for part in seen] == [10, 10, 10, 5]
    assert torch.equal(torch.cat(seen), bits(35))
    x = bits(101).index_fill(0, torch.tensor([33]), 7).index_fill(0, torch.tensor([77]), -7)

    def watch(batch: Tensor, *, generator: torch.Generator) -> Tensor:
        samples.append(batch)
        return batch

    run(x, preprocess=watch)
    assert torch.equal(samples[0], x[[0, 33, 50, 77, 100]])
    assert [len(sample) for sample in samples[1:]] == [2] * 50


def test_grey_pixels_in_a_bernoulli_model_give_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts, sets, epochs and evaluations."""
    monkeypatch.setattr(_data_check, "CHUNK", 60)
    grey = randn(40, 6, seed=1).sigmoid()
    for options in ({}, {"preprocess": keep}):
        with pytest.warns(UserWarning, match="Bernoulli likelihood describes zeros and ones") as warned:
            training.fit(small(), grey, num_epochs=3, x_test=grey, optimization=Optimization(batch_size=8), **options)
        assert len(warned) == 1
        assert warned[0].filename == __file__  # where fit was called
    with pytest.warns(UserWarning, match="zeros and ones") as warned:
        average_terms(small(), grey)
    assert [warning.filename for warning in warned] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(small(), bits(), x_test=bits(5), num_epochs=1, batch_size=8)
        fit(small(), greys(), num_epochs=1, batch_size=8, preprocess=data.binarize)


def returns(outputs: Callable[[Tensor], Any]) -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Any:
            return outputs(self.linear(x))

    return Network()


def with_networks(encoder: nn.Module, decoder: nn.Module) -> VAE:
    return VAE(encoder, decoder, (6,), prior=StandardNormal(2))


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "half precision": (
        lambda: Execution(precision=torch.float16),
        ValueError,
        r"precision must be torch\.float32 or torch\.bfloat16, got torch\.float16: .*scaled loss",
    ),
    "double precision": (
        lambda: Execution(precision=torch.float64),
        ValueError,
        r"got torch\.float64: .*model\.double\(\)",
    ),
    "a schedule by its name": (
        lambda: Optimization(schedule="cosine"),
        TypeError,
        r"schedule must be a function .*training\.warmup_cosine, got 'cosine'",
    ),
    "a DataLoader": (
        lambda: fit(small(), DataLoader(bits()), num_epochs=1),
        TypeError,
        r"x must be one tensor .*, got a DataLoader: stack its data, .*x\.dataset",
    ),
    "an array": (
        lambda: fit(small(), bits().numpy(), num_epochs=1),
        TypeError,
        r"x must be one tensor .*, got an? ndarray: convert it, torch\.as_tensor\(x\)",
    ),
    "a test array": (
        lambda: fit(small(), bits(), x_test=bits().numpy(), num_epochs=1, batch_size=8),
        TypeError,
        r"x_test must be one tensor .*torch\.as_tensor\(x_test\)",
    ),
    "images and labels": (
        lambda: fit(conv_vae(num_channels=2, num_blocks=0), data.fashion_mnist(), num_epochs=1),
        TypeError,
        r"x must be one tensor .*, got an? \w+: give the images alone, x\.images",
    ),
    "an evaluation on an array": (lambda: average_terms(small(), bits().numpy()), TypeError, r"torch\.as_tensor\(x\)"),
    "an objective that is not called": (
        lambda: fit(small(), bits(), num_epochs=1, batch_size=8, objective=objectives.elbo),
        TypeError,
        r"objective must be one of vae_tutorial\.objectives, such as elbo\(\), got <function elbo",
    ),
    "settings in a dictionary": (
        lambda: training.fit(small(), bits(), num_epochs=1, optimization={"batch_size": 8}),
        TypeError,
        r"optimization must be a training\.Optimization, got \{'batch_size': 8\}",
    ),
    "execution by a name": (
        lambda: training.fit(small(), bits(), num_epochs=1, execution="cpu"),
        TypeError,
        r"execution must be a training\.Execution, got 'cpu': write training\.Execution\(\.\.\.\)",
    ),
    "a tensor without axes": (
        lambda: fit(small(), torch.tensor(1.0), num_epochs=1),
        TypeError,
        r"x must be one tensor .*, got a Tensor without axes",
    ),
    "J outputs": (
        lambda: fit(with_networks(nn.Linear(6, 2), nn.Linear(2, 6)), bits(), num_epochs=1, batch_size=8),
        ValueError,
        r"the encoder must return one tensor \(B, P\) = \(2, 4\), got \(2, 2\): MeanField needs 4 for 2 latents",
    ),
    "a tuple": (
        lambda: fit(with_networks(returns(lambda y: (y, y)), nn.Linear(2, 6)), bits(), num_epochs=1, batch_size=8),
        ValueError,
        r"the encoder must return one tensor .*, got a tuple",
    ),
    "a narrow encoder": (
        lambda: fit(with_networks(nn.Linear(5, 4), nn.Linear(2, 6)), bits(), num_epochs=1, batch_size=8),
        ValueError,
        r"the networks do not fit together, or not the data, of shape \(B, 6\)",
    ),
    "a narrow decoder": (
        lambda: fit(with_networks(nn.Linear(6, 4), nn.Linear(3, 6)), bits(), num_epochs=1, batch_size=8),
        ValueError,
        r"the networks do not fit .*the decoder z, \(B, J\)",
    ),
    "an autoencoder's ELBO": (
        lambda: fit(mlp_autoencoder((6,), 2, 5), bits(), num_epochs=1, batch_size=8),
        ValueError,
        r"objective elbo\(num_samples=1\) does not fit a.? Autoencoder .*objectives\.reconstruction\(\)",
    ),
    "real signals": (
        lambda: fit(small(), randn(24, 6, seed=0).float(), num_epochs=1, batch_size=8),
        ValueError,
        r"x must lie in \[0, 1\] for a Bernoulli likelihood.*another likelihood, such as Gaussian\(\)",
    ),
    "a preprocessing without a generator": (
        lambda: fit(small(), bits(), num_epochs=1, batch_size=8, preprocess=lambda x: x),
        TypeError,
        r"preprocess is called as preprocess\(batch, generator=\.\.\.\)",
    ),
    "a preprocessing that returns a list": (
        lambda: fit(small(), bits(), num_epochs=1, batch_size=8, preprocess=lambda x, *, generator: [x]),
        TypeError,
        r"preprocess must return a tensor, got a list",
    ),
    "half an epoch": (
        lambda: fit(small(), bits(), num_epochs=2.5, batch_size=8),
        ValueError,
        r"num_epochs must be a whole number, at least 1, got 2\.5",
    ),
    "a captured step on a CPU": (
        lambda: fit(small(), bits(), num_epochs=1, batch_size=8, capture=True),
        ValueError,
        r"capture records a CUDA graph, on one device: here the device is 'cpu'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_what_was_expected_and_the_remedy(mistake: str) -> None:
    run, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        run()


def test_trying_out_changes_neither_the_model_nor_its_mode() -> None:
    """The refusal comes after it: a batch normalisation has not moved, and the model is still in training mode."""
    model = with_networks(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), nn.Linear(3, 6)).train()
    before = weights(model)
    with pytest.raises(ValueError, match="do not fit"):
        fit(model, bits(), num_epochs=1, batch_size=8)
    assert same(weights(model), before)
    assert model.training


def test_images_with_three_channels_are_refused() -> None:
    model, x = conv_vae(num_latents=2, num_channels=2, num_blocks=0), torch.zeros(9, 3, 28, 28)
    assert_refused(lambda: fit(model, x, num_epochs=1, batch_size=3), "x", "(B, 1, 28, 28)", (9, 3, 28, 28))


def test_a_batch_larger_than_the_set_is_refused() -> None:
    words = ["batch_size 25", "24 data points"]
    assert_refused(lambda: fit(small(), bits(), num_epochs=1, batch_size=25), *words)
    assert_refused(lambda: fit(small(), bits(), num_epochs=1, batch_size=25, preprocess=keep), *words)
    history = fit(small(), bits(), num_epochs=1, batch_size=24)
    assert len(history.seconds) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_epochs": 0},
        {"num_epochs": -1},
        {"batch_size": 0},
        {"batch_size": -8},
        {"learning_rate": 0.0},
        {"learning_rate": -0.1},
        {"learning_rate": math.inf},
        {"learning_rate": math.nan},
        {"beta": -1.0},
        {"beta": math.nan},
        {"weight_decay": -0.1},
        {"weight_decay": math.inf},
        {"ema_decay": 1.0},
        {"ema_decay": -0.1},
        {"patience": 0},
        {"patience": 3},  # without a test set
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    (name, value), checkpoint = next(iter(wrong.items())), tmp_path / "run.pt"
    settings = {"num_epochs": 1, "batch_size": 8, **wrong}
    with pytest.raises(ValueError, match=rf"{name.replace('_', '.')}.* {value}"):
        fit(small(), bits(), **settings, checkpoint=checkpoint)
    assert not checkpoint.exists()


# the progress bar


def test_without_progress_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    fit(small(), bits(), num_epochs=2, batch_size=8, progress=False)
    assert capfd.readouterr() == ("", "")


def test_the_bar_counts_steps_and_shows_both_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a bar is shown at all is asked of tqdm with its defaults: here they are set to show it, into a string."""
    stream = io.StringIO()
    monkeypatch.setattr(training, "tqdm", functools.partial(training.tqdm, file=stream, disable=False, ncols=200))
    run = functools.partial(fit, small(), bits(), batch_size=8, checkpoint=tmp_path / "run.pt", progress=True)
    history = run(num_epochs=2)
    last = stream.getvalue().split("\r")[-1]
    assert "6/6" in last
    assert f"reconstruction {history.train_reconstruction[-1]:.1f}, kl {history.train_kl[-1]:.1f}" in last
    stream.seek(0)
    stream.truncate()
    run(num_epochs=3)
    assert "6/9" in stream.getvalue()  # a resumed run begins where it was
    assert "9/9" in stream.getvalue().split("\r")[-1]


def test_the_bar_obeys_tqdms_environment_variable() -> None:
    """Shown by the killed process too: what is checked here is that ``fit`` says nothing that would overrule it."""
    options = []

    class Bar(training.tqdm):
        def __init__(self, **given: Any) -> None:
            options.append(given)
            super().__init__(**{**given, "disable": True})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "tqdm", Bar)
        for progress in (True, False):
            fit(small(), bits(), num_epochs=1, batch_size=8, progress=progress)
    assert "disable" not in options[0]
    assert options[1]["disable"] is True
