"""training, in two processes on this machine's CPU: one process with the joint batch is the oracle."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import joint_runs
import pytest
import torch
from oracles import assert_close
from torch import distributed

from vae_tutorial import models, training

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this torch cannot join processes"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what came of every run."""
    folder = tmp_path_factory.mktemp("joint")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")
    processes = [
        subprocess.Popen(
            [sys.executable, joint_runs.__file__, str(folder), "2", str(this)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for this in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return folder


def joint(folder: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}-{this}.pt", weights_only=True) for this in range(2)]


def alone(name: str, folder: Path) -> dict[str, Any]:
    with torch.random.fork_rng():
        return joint_runs.RUNS[name](folder, 0)


def same(first: Any, second: Any) -> bool:
    """Equal to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second)


def assert_alike(first: dict[str, Any], second: dict[str, Any], tolerance: float, *parts: str) -> None:
    for part in parts:
        assert first[part].keys() == second[part].keys()
        for key, value in first[part].items():
            assert_close(torch.as_tensor(value).double(), torch.as_tensor(second[part][key]).double(), tolerance)


@pytest.mark.parametrize("name", ["one_step", "one_step_of_a_linear_vae", "one_step_of_an_autoencoder"])
def test_the_gradient_is_that_of_one_process_with_the_joint_batch(name: str, folder: Path, tmp_path: Path) -> None:
    """Adam hardly notices a gradient that is too long by a factor, so the gradient itself is compared.

    It contains the order, the binarization and the noise of the latents: with other noise it differs by far more.
    """
    expected, found = alone(name, tmp_path), joint(folder, name)
    assert max(value.abs().max() for value in expected["gradient"].values()) > 0.1
    for process in found:
        assert_alike(process, expected, 1e-12, "gradient", "history")
        assert_alike(process, expected, 1e-9, "weights")
    assert same(*found)


@pytest.mark.parametrize("name", ["long_run", "resumed_run", "patient_run"])
def test_a_run_is_that_of_one_process(name: str, folder: Path, tmp_path: Path) -> None:
    """Order, schedule, averaged weights, test terms, early stopping; histories are means over the processes."""
    expected, found = alone(name, tmp_path), joint(folder, name)
    assert same(*found)
    assert_alike(found[0], expected, 1e-8, "gradient", "weights", "history")
    assert len(found[0]["history"]["test_kl"]) == (4 if name != "patient_run" else len(expected["history"]["test_kl"]))


def test_patience_ends_the_patient_run_early(folder: Path) -> None:
    assert len(joint(folder, "patient_run")[0]["history"]["test_kl"]) < 40


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(folder: Path) -> None:
    assert same(joint(folder, "resumed_run")[1], joint(folder, "long_run")[0])
    whole, resumed = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("long", "resumed"))
    for state in (whole, resumed):
        state["history"].pop("seconds")
    assert same(whole, resumed)


def test_one_process_goes_on_where_two_have_stopped(folder: Path, tmp_path: Path) -> None:
    """The checkpoint is an ordinary one, and the noise does not depend on the number of processes."""
    (tmp_path / "half.pt").write_bytes((folder / "half.pt").read_bytes())
    settings = {"batch_size": 8, "preprocess": joint_runs.data.binarize, "progress": False}
    whole, prolonged = joint_runs.small(), joint_runs.small(seed=5)
    training.fit(whole, joint_runs.greys(24), num_epochs=4, **settings)
    training.fit(prolonged, joint_runs.greys(24), num_epochs=4, checkpoint=tmp_path / "half.pt", **settings)
    for name, value in whole.state_dict().items():
        assert_close(prolonged.state_dict()[name], value, 1e-8)


def test_compiled_networks_train_alike(folder: Path) -> None:
    model_runs = joint(folder, "compiled_run")
    assert same(*model_runs)
    torch.manual_seed(0)
    model = models.VAE(torch.nn.Linear(6, 4), torch.nn.Linear(2, 6), (6,)).double()
    expected = joint_runs.result(model, joint_runs.bits(16), num_epochs=2, batch_size=8)
    assert_alike(model_runs[0], expected, 1e-8, "gradient", "weights", "history")


def test_a_batch_that_cannot_be_shared_is_refused(folder: Path) -> None:
    for process in joint(folder, "odd_batch"):
        assert process["error"] == "ValueError: batch_size 3 cannot be shared by 2 processes: take a multiple of it"


def test_processes_that_want_different_runs_are_refused_and_do_not_wait_for_ever(folder: Path) -> None:
    for process in joint(folder, "other_seeds"):
        assert process["error"] == "ValueError: the processes were asked for different runs (seed: [0, 1])"


def test_a_bound_that_is_not_finite_in_one_process_stops_both(folder: Path) -> None:
    for process in joint(folder, "spoilt_run"):
        assert process["error"].startswith("FloatingPointError: the bound is not finite in epoch 2, step 2 of 3")
    assert len(torch.load(folder / "spoilt.pt", weights_only=True)["history"]["train_kl"]) == 1


def test_only_the_first_process_writes_and_shows_a_bar(folder: Path) -> None:
    first, second = joint(folder, "shown_run")
    assert first == {"bars": [True], "written": ["shown.best.pt", "shown.pt"]}
    assert second == {"bars": [False], "written": []}
    assert training.best_path(folder / "long.pt").exists()
