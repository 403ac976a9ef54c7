"""The tool that records notebooks: what it keeps of the outputs, what it refuses, and what it leaves alone."""

import importlib
import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

tool = importlib.import_module("record_notebooks")


def result(**data):
    kinds = {"plain": "text/plain", "html": "text/html", "markdown": "text/markdown", "png": "image/png"}
    return new_output("execute_result", data={kinds[name]: text for name, text in data.items()}, execution_count=7)


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (result(plain="3", html="<b>3</b>"), {"text/plain": "3"}),
        (result(plain="<Figure size 640x480 with 1 Axes>", png="iVBOR"), None),
        (result(plain="<IPython.core.display.Markdown object>", markdown="$x$"), {"text/markdown": "$x$"}),
        (result(plain="<IPython.core.display.HTML object>", html="<b>3</b>"), None),
    ],
)
def test_only_text_is_kept(output, kept):
    text = tool.as_text(output, "here")
    assert (text and text.data) == kept


def test_what_must_not_be_stored_is_refused():
    with pytest.raises(tool.RecordingError, match="here writes to stderr"):
        tool.as_text(new_output("stream", name="stderr", text="careful"), "here")
    with pytest.raises(tool.RecordingError, match="memory address"):
        tool.as_text(result(plain="[<matplotlib.lines.Line2D at 0x7f00>]"), "here")


def test_tidy_counts_and_drops_what_editors_leave():
    figure = {"image": {"alt": "A line"}}
    cells = [
        new_markdown_cell("# T", metadata={"slideshow": {}}),
        new_code_cell("f()", metadata={"scrolled": True, "tags": ["a"], "mystnb": figure}, outputs=[result(plain="1")]),
        new_code_cell("g()", execution_count=9),
    ]
    notebook = new_notebook(cells=cells, metadata={"widgets": {}})
    tool.tidy(notebook)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].execution_count == 1
    assert [dict(cell.metadata) for cell in notebook.cells] == [{}, {"mystnb": figure, "tags": ["a"]}, {}]
    assert notebook.metadata == tool.METADATA


def test_streams_in_a_row_become_one():
    streams = [new_output("stream", name="stdout", text=text) for text in "ab"]
    merged = tool.merge_streams([*streams, result(plain="1"), new_output("stream", name="stdout", text="c")])
    assert [output.get("text") for output in merged] == ["ab", None, "c"]


def test_cells_without_an_id_get_one_and_the_others_keep_theirs():
    notebook = new_notebook(cells=[new_code_cell("1", id="cell-2"), new_code_cell("2"), new_code_cell("3")])
    del notebook.cells[1]["id"], notebook.cells[2]["id"]
    tool.name_cells(notebook)
    assert [cell.id for cell in notebook.cells] == ["cell-2", "cell-2-", "cell-3"]


@pytest.fixture
def notebook(tmp_path):
    """A small notebook on disk; its GPU cell would fail if it ran."""
    recorded = new_output("stream", name="stdout", text="recorded\n")
    cells = [
        new_code_cell("print(  1 )", id="a"),
        new_code_cell("1 / 0", id="b", metadata={"tags": ["gpu"]}, outputs=[recorded], execution_count=2),
        new_code_cell("import os\n\nos.getcwd().endswith('book')", id="c"),
    ]
    path = tmp_path / "book" / "chapter.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_notebook_is_formatted_run_in_its_folder_and_stored(notebook):
    tool.record(notebook)
    first = notebook.read_text(encoding="utf-8")
    cells = nbformat.read(notebook, as_version=4).cells
    assert [cell.source.splitlines()[0] for cell in cells] == ["print(1)", "1 / 0", "import os"]
    assert [cell.outputs[0].get("text") or cell.outputs[0].data for cell in cells] == [
        "1\n",
        "recorded\n",
        {"text/plain": "True"},
    ]
    tool.record(notebook)
    assert notebook.read_text(encoding="utf-8") == first


def test_a_cell_tagged_gpu_runs_only_when_asked(notebook):
    with pytest.raises(tool.CellExecutionError, match="ZeroDivisionError"):
        tool.record(notebook, gpu=True)
    assert "recorded" in notebook.read_text(encoding="utf-8")


def test_what_run_all_passes_by_runs_when_asked_and_the_guard_stays(notebook):
    nb = nbformat.read(notebook, as_version=4)
    nb.cells[0].source, nb.cells[1].source = "RERUN = False", "if RERUN:\n    print(2)"
    nbformat.write(nb, notebook)
    for gpu, printed in ((False, "recorded\n"), (True, "2\n"), (False, "2\n")):
        tool.record(notebook, gpu=gpu)
        cells = nbformat.read(notebook, as_version=4).cells
        assert cells[0].source == "RERUN = False"
        assert cells[1].outputs[0].text == printed


def test_the_command_names_what_failed(notebook, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["record_notebooks.py", "--gpu", os.fspath(notebook)])
    assert tool.main() == 1
    assert "chapter.ipynb: not recorded" in capsys.readouterr().err
