"""tools/record_bounds.py: the whole of it on a few images, and that its runs differ in the objective alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

from vae_tutorial import records

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("record_bounds", ROOT / "tools" / "record_bounds.py")
assert SPEC is not None
assert SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def run(folder: Path) -> str:
    command = [sys.executable, "tools/record_bounds.py", "--tiny", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_run_is_recorded_and_finished_trainings_are_not_repeated(tmp_path: Path) -> None:
    told = run(tmp_path)
    record = records.read(tmp_path / "tighter_bounds.pt", {"runs", "facts"})
    assert list(record["runs"]) == list(tool.OBJECTIVES)
    for name, found in record["runs"].items():
        assert found["elbo"].shape == found["log_likelihood"].shape == (20,)
        assert found["log_likelihood"].mean() > found["elbo"].mean()  # ten samples against one
        assert f"{name:14} -ELBO {-found['elbo'].mean():.2f}" in told
    values = torch.stack([found["elbo"] for found in record["runs"].values()])
    assert len(values.unique(dim=0)) == 4
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.ckpt")}
    assert run(tmp_path) == told
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.ckpt")} == before


def test_every_run_begins_with_the_same_weights() -> None:
    first, second = (list(tool.made().parameters()) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert sum(parameter.numel() for parameter in first) == 157_000 + 40_200 + 20_100 + 10_200 + 40_200 + 157_584
