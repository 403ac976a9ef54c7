"""tools/record_priors.py: the whole of it on a few images, and that nothing is done twice."""

import subprocess
import sys
from pathlib import Path

from vae_tutorial import records

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *more: str) -> str:
    command = [sys.executable, "tools/record_priors.py", "--tiny", "--folder", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_priors_are_recorded_and_nothing_is_done_twice(tmp_path: Path) -> None:
    told = run(tmp_path)
    record = records.read(tmp_path / "priors.pt", {"runs", "facts"})
    assert set(record["runs"]) == {"N(0, I)", "VampPrior"}
    assert record["facts"]["num_train"] == 200
    for result in record["runs"].values():
        assert result["log_likelihood"].shape == result["elbo"].shape == (20,)
        assert (result["log_likelihood"] > result["elbo"] - 10).all()
    assert (record["runs"]["N(0, I)"]["kl"] != record["runs"]["VampPrior"]["kl"]).all()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("priors_*.*")}
    assert run(tmp_path) == told
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("priors_*.*")} == before
    assert run(tmp_path, "--samples", "5") != told  # another K is another evaluation, of the same training
