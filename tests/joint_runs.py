"""Runs of ``fit`` for tests/test_distributed.py, which makes each in one process and in two that train together.

With the name of one of the ACCIDENTS behind it, it makes that run alone, which the last process does not survive.

As a program, ``python joint_runs.py FOLDER NUMBER THIS``, it is process THIS of NUMBER: it makes every run and writes what
came of it to ``FOLDER/name-THIS.pt``.
"""

import contextlib
import dataclasses
import datetime
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from oracles import randn
from torch import Tensor, distributed

from vae_tutorial import _processes, data, likelihoods, models, objectives, priors, records, training


class Interrupted(BaseException):
    """What a run raises in the middle of an epoch."""


def small(seed: int = 0) -> models.VAE:
    torch.manual_seed(seed)
    return models.mlp_vae((6,), num_latents=3, num_hidden=5).double()


def two_linear_maps() -> models.VAE:
    torch.manual_seed(0)
    prior = priors.StandardNormal(2)
    return models.VAE(torch.nn.Linear(6, 4), torch.nn.Linear(2, 6), (6,), prior=prior).double()


def greys(num_data: int) -> Tensor:
    return (randn(num_data, 6, seed=1).sigmoid() * 255).to(torch.uint8)


def bits(num_data: int) -> Tensor:
    return (randn(num_data, 6, seed=2) > 0).double()


def at_step(number: int, action: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A binarization that does something else at step ``number``; call 0 is the check of the first batch."""
    calls = iter(range(10**9))

    def preprocess(x: Tensor, *, generator: torch.Generator) -> Tensor:
        x = data.binarize(x, generator=generator)
        return action(x) if next(calls) == number else x

    preprocess.__module__, preprocess.__qualname__ = data.binarize.__module__, data.binarize.__qualname__
    return preprocess


def interrupt(x: Tensor) -> Tensor:
    raise Interrupted


def spoil(x: Tensor) -> Tensor:
    """One data point that is not finite: in the share of the last process alone."""
    return x.double().index_fill(0, torch.tensor([len(x) - 1]), math.nan)


def fit(model: models.EncoderDecoder, x: Tensor, **settings: Any) -> records.History:
    """``training.fit`` with its settings side by side, without a bar."""
    settings.setdefault("progress", False)
    groups = {}
    for name, group in (("optimization", training.Optimization), ("execution", training.Execution)):
        fields = {field.name for field in dataclasses.fields(group)} & set(settings)
        groups[name] = group(**{field: settings.pop(field) for field in fields})
    return training.fit(model, x, **groups, **settings)


def result(model: models.VAE, x: Tensor, **settings: Any) -> dict[str, Any]:
    """What a run leaves behind: the gradient of its last step, the weights, the history without its clock."""
    history = fit(model, x, **settings)._asdict()
    history.pop("seconds")
    return {
        "gradient": {name: parameter.grad.clone() for name, parameter in model.named_parameters()},
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "history": history,
    }


def failure(run: Callable[[], Any]) -> dict[str, Any]:
    try:
        run()
    except (ValueError, RuntimeError, FloatingPointError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": None}


LONG = {
    "num_epochs": 4,
    "batch_size": 8,
    "learning_rate": 0.02,
    "schedule": training.warmup_cosine,
    "weight_decay": 0.1,
    "ema_decay": 0.9,
    "objective": objectives.beta_elbo(0.7),
    "seed": 3,
    "x_test": bits(7),
}


def one_step(folder: Path, this: int) -> dict[str, Any]:
    return result(small(), greys(24), num_epochs=1, batch_size=24, preprocess=data.binarize)


def one_step_of_a_linear_vae(folder: Path, this: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = models.linear_vae((6,), 2, likelihood=likelihoods.Gaussian()).double()
    return result(model, randn(10, 6, seed=4), num_epochs=1, batch_size=10)


def one_step_of_an_autoencoder(folder: Path, this: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = models.mlp_autoencoder((6,), num_latents=2, num_hidden=5, sigma=0.5).double()
    return result(model, bits(12), num_epochs=1, batch_size=12, objective=objectives.reconstruction())


def one_step_of_three_samples(folder: Path, this: int) -> dict[str, Any]:
    """The noise (K, B, J) is shared along B."""
    return result(small(), bits(12), num_epochs=1, batch_size=12, objective=objectives.iwae(3))


def shares(folder: Path, this: int) -> dict[str, Any]:
    """How much of a batch reaches the model, in training and in the test."""
    seen: list[list[int]] = []

    def terms(model: models.VAE, x: Tensor, eps: Tensor) -> models.ElboTerms:
        seen.append([len(x), *eps.shape])
        return model.elbo_terms(x, eps=eps)

    objective = dataclasses.replace(objectives.elbo(num_samples=3), terms=terms)
    fit(small(), bits(16), x_test=bits(5), num_epochs=1, batch_size=8, objective=objective)
    return {"seen": seen}


def long_run(folder: Path, this: int) -> dict[str, Any]:
    """Other weights in every process, as if nobody had set a seed: those of the first count."""
    return result(small(seed=this), greys(27), preprocess=data.binarize, checkpoint=folder / "long.pt", **LONG)


def resumed_run(folder: Path, this: int) -> dict[str, Any]:
    """The same, interrupted in the second step of the third epoch and taken up with other weights."""
    checkpoint = folder / "resumed.pt"
    with contextlib.suppress(Interrupted):
        fit(small(), greys(27), preprocess=at_step(8, interrupt), checkpoint=checkpoint, **LONG)
    return result(small(seed=9), greys(27), preprocess=data.binarize, checkpoint=checkpoint, **LONG)


def half_a_run(folder: Path, this: int) -> dict[str, Any]:
    settings = {"num_epochs": 2, "batch_size": 8, "checkpoint": folder / "half.pt"}
    return result(small(), greys(24), preprocess=data.binarize, **settings)


def patient_run(folder: Path, this: int) -> dict[str, Any]:
    """A large step on few data: the test objective soon falls."""
    settings = {"num_epochs": 40, "batch_size": 8, "learning_rate": 0.1, "x_test": bits(30), "patience": 3}
    return result(small(), greys(16), preprocess=data.binarize, checkpoint=folder / "patient.pt", **settings)


def compiled_run(folder: Path, this: int) -> dict[str, Any]:
    """Two bare linear maps need no compiler for C++."""
    return result(two_linear_maps(), bits(16), num_epochs=2, batch_size=8, compile=True)


def odd_batch(folder: Path, this: int) -> dict[str, Any]:
    return failure(lambda: fit(small(), bits(9), num_epochs=1, batch_size=3))


def other_seeds(folder: Path, this: int) -> dict[str, Any]:
    return failure(lambda: fit(small(), bits(8), num_epochs=1, batch_size=4, seed=this))


def spoilt_run(folder: Path, this: int) -> dict[str, Any]:
    preprocess, checkpoint = at_step(5, spoil), folder / "spoilt.pt"
    settings = {"num_epochs": 3, "batch_size": 8, "preprocess": preprocess, "checkpoint": checkpoint}
    return failure(lambda: fit(small(), greys(24), **settings))


def refused_by_one(folder: Path, this: int) -> dict[str, Any]:
    x = bits(8).index_fill(0, torch.tensor([5]), math.nan) if this else bits(8)
    return failure(lambda: fit(small(), x, num_epochs=1, batch_size=4))


def other_data(folder: Path, this: int) -> dict[str, Any]:
    return failure(lambda: fit(small(), bits(8).roll(this, 1), num_epochs=1, batch_size=4))


def full_disk(folder: Path, this: int) -> dict[str, Any]:
    """The first process cannot write its second checkpoint, and lives on."""
    write, calls = records.write, iter(range(10))

    def fail(path: Path, content: dict[str, Any]) -> None:
        if next(calls) == 1:
            raise OSError("No space left on device")
        write(path, content)

    records.write = fail
    try:
        return failure(lambda: fit(small(), bits(8), num_epochs=9, batch_size=4, checkpoint=folder / "full.pt"))
    finally:
        records.write = write


def slow_writer(folder: Path, this: int) -> dict[str, Any]:
    """What each process finds in the checkpoint when ``fit`` has returned."""
    write, file = records.write, folder / "slow.pt"

    def write_slowly(path: Path, content: dict[str, Any]) -> None:
        time.sleep(0.5)
        write(path, content)

    records.write = write_slowly
    fit(small(), bits(8), num_epochs=1, batch_size=4, checkpoint=file)
    records.write = write
    return {"written": file.exists()}


def accident(action: Callable[[], None], this: int) -> dict[str, Any]:
    """Something happens to the last process in the fourth step; the others may wait two seconds for it."""

    def preprocess(x: Tensor, *, generator: torch.Generator) -> Tensor:
        if this and next(calls) == 4:
            action()
        return x

    preprocess.__qualname__ = "watched"  # or its code, and what it closes over, would be compared too
    calls, start = iter(range(10**9)), time.monotonic()
    _processes.TIMEOUT = datetime.timedelta(seconds=2)
    told = failure(lambda: fit(small(), bits(8), num_epochs=9, batch_size=4, preprocess=preprocess))
    return {**told, "seconds": time.monotonic() - start}


def death(folder: Path, this: int) -> dict[str, Any]:
    return accident(lambda: os._exit(9), this)


def stop(folder: Path, this: int) -> dict[str, Any]:
    return accident(lambda: os.kill(os.getpid(), signal.SIGSTOP), this)


def shown_run(folder: Path, this: int) -> dict[str, Any]:
    """Who writes files, and who shows a bar."""
    bars: list[bool] = []
    written: list[str] = []
    bar, write = training.tqdm, records.write
    training.tqdm = lambda **options: (
        bars.append(not options.get("disable", False)) or bar(**{**options, "disable": True})
    )
    records.write = lambda path, content: written.append(path.name) or write(path, content)
    try:
        settings = {
            "num_epochs": 1,
            "batch_size": 8,
            "x_test": bits(5),
            "checkpoint": folder / "shown.pt",
            "progress": True,
        }
        fit(small(), bits(8), **settings)
    finally:
        training.tqdm, records.write = bar, write
    return {"bars": bars, "written": written}


RUNS = {
    run.__name__: run
    for run in (
        one_step,
        one_step_of_a_linear_vae,
        one_step_of_an_autoencoder,
        one_step_of_three_samples,
        shares,
        long_run,
        resumed_run,
        half_a_run,
        patient_run,
        compiled_run,
        odd_batch,
        other_seeds,
        other_data,
        refused_by_one,
        full_disk,
        slow_writer,
        spoilt_run,
        shown_run,
    )
}


ACCIDENTS = {run.__name__: run for run in (death, stop)}


def main(folder: Path, number: int, this: int, accident: str | None = None) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    meeting = f"file://{(folder / f'meeting-{accident}').as_posix()}"
    distributed.init_process_group("gloo", init_method=meeting, world_size=number, rank=this)
    if accident is not None:
        torch.save(ACCIDENTS[accident](folder, this), folder / f"{accident}-{this}.pt")
        os._exit(0)  # there is nobody to say goodbye to
    for name, run in RUNS.items():
        torch.save(run(folder, this), folder / f"{name}-{this}.pt")
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
