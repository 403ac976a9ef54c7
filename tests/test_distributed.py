"""training, in two processes on this machine's CPU: one process with the joint batch is the oracle."""

import itertools
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

from vae_tutorial import training

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this torch cannot join processes"
)


def start(folder: Path, *accident: str) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")
    return [
        subprocess.Popen(
            [sys.executable, joint_runs.__file__, str(folder), "2", str(this), *accident],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for this in range(2)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what came of every run."""
    folder = tmp_path_factory.mktemp("joint")
    processes = start(folder)
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


@pytest.mark.parametrize("name", [name for name in joint_runs.RUNS if name.startswith("one_step")])
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


def test_each_process_computes_its_share_of_a_batch(folder: Path) -> None:
    """With the whole batch in each, the mean of the gradients would be the same, and nothing gained. All test alike."""
    trying, test = [2, 3, 2, 3], [5, 3, 5, 3]
    for process in joint(folder, "shares"):
        assert process["seen"] == [trying, [4, 3, 4, 3], [4, 3, 4, 3], test]


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
    settings = {"batch_size": 8, "preprocess": joint_runs.data.binarize}
    whole, prolonged = joint_runs.small(), joint_runs.small(seed=5)
    joint_runs.fit(whole, joint_runs.greys(24), num_epochs=4, **settings)
    joint_runs.fit(prolonged, joint_runs.greys(24), num_epochs=4, checkpoint=tmp_path / "half.pt", **settings)
    for name, value in whole.state_dict().items():
        assert_close(prolonged.state_dict()[name], value, 1e-8)


def test_compiled_networks_train_alike(folder: Path) -> None:
    model_runs = joint(folder, "compiled_run")
    assert same(*model_runs)
    expected = joint_runs.result(joint_runs.two_linear_maps(), joint_runs.bits(16), num_epochs=2, batch_size=8)
    assert_alike(model_runs[0], expected, 1e-8, "gradient", "weights", "history")


def test_a_batch_that_cannot_be_shared_is_refused(folder: Path) -> None:
    for process in joint(folder, "odd_batch"):
        assert process["error"] == "ValueError: batch_size 3 cannot be shared by 2 processes: take a multiple of it"


def test_processes_that_want_different_runs_are_refused_and_do_not_wait_for_ever(folder: Path) -> None:
    for process in joint(folder, "other_seeds"):
        assert process["error"] == (
            "ValueError: process 1 of 2 was asked for another run than process 0 (seed was 0, is 1): "
            "start all with the same arguments"
        )


def test_processes_with_other_data_are_refused(folder: Path) -> None:
    for process in joint(folder, "other_data"):
        assert "process 1 of 2 was asked for another run than process 0 (data was " in process["error"]


def test_what_one_process_refuses_all_refuse(folder: Path) -> None:
    first, second = joint(folder, "refused_by_one")
    own = "ValueError: x contains NaN, first in row 5: remove or fill in such rows"
    assert second["error"] == own
    assert first["error"] == f"ValueError: refused by another process, so by all (process 1 of 2: {own})"


def test_when_the_first_process_cannot_write_the_other_ends_with_a_message(folder: Path) -> None:
    """The first process lives on, so no connection breaks by itself; the checkpoint is that of the first epoch."""
    first, second = joint(folder, "full_disk")
    assert first["error"] == "OSError: No space left on device"
    assert second["error"].startswith("ConnectionError: another of the 2 processes has ended, or has not answered")
    assert len(torch.load(folder / "full.pt", weights_only=True)["history"]["train_kl"]) == 1


def test_nobody_returns_before_the_first_process_has_written(folder: Path) -> None:
    assert joint(folder, "slow_writer") == [{"written": True}] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="no signal stops a process")
def test_when_a_process_dies_or_stops_the_other_ends_with_a_message(tmp_path: Path) -> None:
    """Killed, the connection breaks at once; stopped, the other one waits as long as it may and no longer."""
    pairs = {accident: start(tmp_path, accident) for accident in joint_runs.ACCIDENTS}
    try:
        for accident, (survivor, _) in pairs.items():
            output = survivor.communicate(timeout=120)[0]
            told = torch.load(tmp_path / f"{accident}-0.pt", weights_only=True)
            assert told["error"].startswith("ConnectionError: another of the 2 processes has ended, or has"), output
            assert "start all of them again" in told["error"]
            assert told["seconds"] < 30
    finally:
        for process in itertools.chain(*pairs.values()):
            process.kill()
            process.communicate()


def test_a_bound_that_is_not_finite_in_one_process_stops_both(folder: Path) -> None:
    for process in joint(folder, "spoilt_run"):
        assert process["error"].startswith("FloatingPointError: the objective is not finite in epoch 2, step 2 of 3")
    assert len(torch.load(folder / "spoilt.pt", weights_only=True)["history"]["train_kl"]) == 1


def test_only_the_first_process_writes_and_shows_a_bar(folder: Path) -> None:
    first, second = joint(folder, "shown_run")
    assert first == {"bars": [True], "written": ["shown.best.pt", "shown.pt"]}
    assert second == {"bars": [False], "written": []}
    assert training.best_path(folder / "long.pt").exists()
