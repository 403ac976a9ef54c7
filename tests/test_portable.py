"""The tool that runs notebooks as other processors would: it sees what differs in a checked output, and nothing else."""

import importlib
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

tool = importlib.import_module("portable")

WAY = 'import os\nprint("threads", os.environ["OMP_NUM_THREADS"])\nprint(os.environ["ATEN_CPU_CAPABILITY"])'


def notebook(text: str, *, checked: bool = True) -> nbformat.NotebookNode:
    tags = [tool.CHECKED] if checked else []
    outputs = [new_output("stream", name="stdout", text=text)]
    cell = new_code_cell(WAY, metadata={"tags": tags}, outputs=outputs)
    return new_notebook(cells=[new_markdown_cell("# T"), cell])


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TQDM_DISABLE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_lines_that_changed_are_named_under_their_cell() -> None:
    recorded, run = notebook("one 4.901\ntwo\n"), notebook("one 4.902\ntwo\nthree\n")
    assert tool.differences(recorded, run) == [
        "cell 1, 'import os': 'one 4.901' became 'one 4.902'",
        "cell 1, 'import os': '(nothing)' became 'three'",
    ]
    assert tool.differences(recorded, recorded) == []
    assert tool.differences(notebook("a", checked=False), notebook("b", checked=False)) == []


def test_every_notebook_is_run_in_four_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded with avx2 and two threads: that way alone gives the recorded text. Nothing is stored."""
    path = tmp_path / "book.ipynb"
    nbformat.write(notebook("threads 2\navx2\n"), path)
    before = path.read_bytes()
    monkeypatch.setattr(sys, "argv", ["portable", str(path)])
    assert tool.main() == 1
    assert path.read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    told = [line.removeprefix(f"{path}, ").split(": ") for line in lines if line.endswith("differences")]
    assert dict(told) == {
        "default, threads 1": "2 differences",
        "default, threads 2": "1 differences",
        "avx2, threads 1": "1 differences",
        "avx2, threads 2": "no differences",
    }


def test_a_notebook_that_raises_is_a_difference(tmp_path: Path) -> None:
    broken = new_notebook(cells=[new_code_cell("assert 1 == 2, 'not here'", metadata={"tags": [tool.CHECKED]})])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    (problem,) = tool.problems_of(tmp_path / "broken.ipynb", "default", "1")
    assert "not here" in problem
