"""tools/record_two_grid.py: the whole of it on a few images, and that nothing is done twice."""

import subprocess
import sys
from pathlib import Path

import torch

from vae_tutorial import data, evaluation, records, training

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path) -> str:
    command = [sys.executable, "tools/record_two_grid.py", "--tiny", "--device", "cpu", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_run_is_recorded_with_its_evaluation_and_goes_on_from_what_is_there(tmp_path: Path) -> None:
    told = run(tmp_path)
    vae, (history, facts) = records.load_model(tmp_path / "two_grid_vae.pt")
    assert len(history.seconds) == len(history.test_kl) == 2  # an epoch of each stage
    x_test = data.binarize(data.fashion_mnist("test").images, generator=torch.Generator().manual_seed(0))
    terms = training.average_terms(vae, x_test)
    assert abs(facts["test_kl"] - terms.kl.item()) < 0.05  # of weights before they were rounded
    record = evaluation.load_record(tmp_path / "two_grid_vae_evaluation.pt", vae)
    assert record["importance"]["bounds"].shape == (2, 20)
    first, second = (
        torch.load(tmp_path / f"two_grid_stage_{stage}.pt", weights_only=True)[kind]
        for stage, kind in ((1, "average"), (2, "weights"))  # the second stage starts from the averaged weights
    )
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved
    assert all(name.startswith("encoder") for name in moved)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("two_grid_stage_*.pt")}
    assert run(tmp_path) == told
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("two_grid_stage_*.pt")} == before
