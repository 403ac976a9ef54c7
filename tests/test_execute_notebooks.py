"""Running the notebooks before the build: side by side, only what is stale, and a failure has a name."""

import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from myst_nb.core.config import NbParserConfig
from myst_nb.core.execute.cache import NotebookClientCache
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
tool = importlib.import_module("execute_notebooks")

COUNT = "with open('runs-of-{name}', 'a') as file:\n    _ = file.write('x')"
WAIT = "import os, time\nend = time.time() + 60\nwhile not os.path.exists('runs-of-{other}'):\n    assert time.time() < end"
SHOW = "print(os.environ.get('OMP_NUM_THREADS'))"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A folder for notebooks, with what Sphinx hands to the extension."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    config = NbParserConfig(execution_mode="cache", execution_cache_path=str(tmp_path / "cache"), execution_timeout=60)
    return SimpleNamespace(folder=tmp_path, mystnb_config=config, doc2path=lambda page: str(tmp_path / f"{page}.ipynb"))


def write(book, name, *cells, text="A page"):
    """A notebook that leaves a mark whenever it runs."""
    code = [cell if isinstance(cell, dict) else new_code_cell(cell) for cell in (COUNT.format(name=name), *cells)]
    notebook = new_notebook(cells=[new_markdown_cell(text), *code], metadata=KERNEL)
    nbformat.write(notebook, book.doc2path(name))


def run(book):
    tool.execute_stale(SimpleNamespace(srcdir=book.folder), book, ["a", "b"])


def runs(book, name):
    mark = book.folder / f"runs-of-{name}"
    return len(mark.read_text(encoding="utf-8")) if mark.exists() else 0


def as_myst_nb_finds_it(book, name, monkeypatch):
    """What the notebook prints when myst-nb looks it up; nothing may run for that."""

    def refuse(*_, **__):
        raise AssertionError("myst-nb ran the notebook")

    monkeypatch.setattr("myst_nb.core.execute.cache.single_nb_execution", refuse)
    path = Path(book.doc2path(name))
    notebook = nbformat.read(path, as_version=4)
    with NotebookClientCache(notebook, path, book.mystnb_config, SimpleNamespace(info=print, warning=print)) as client:
        return [output.text for cell in client.notebook.cells for output in cell.get("outputs", [])]


def test_two_notebooks_run_side_by_side_in_one_thread_each_and_myst_nb_finds_them(book, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    skipped = new_code_cell("1 / 0", metadata={"tags": ["skip-execution"]})
    write(book, "a", WAIT.format(other="b"), SHOW, skipped)
    write(book, "b", WAIT.format(other="a"), SHOW)
    run(book)
    assert as_myst_nb_finds_it(book, "a", monkeypatch) == as_myst_nb_finds_it(book, "b", monkeypatch) == ["1\n"]


def test_only_a_notebook_whose_code_changed_runs_again_with_all_its_threads(book, monkeypatch):
    for name in "ab":
        write(book, name)
    run(book)
    write(book, "a", "import os", SHOW)
    write(book, "b", text="Other words")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as a build of its own finds it
    run(book)
    assert (runs(book, "a"), runs(book, "b")) == (2, 1)
    assert as_myst_nb_finds_it(book, "a", monkeypatch) == ["2\n"]


def test_a_failing_notebook_is_named_with_its_traceback_each_time_and_the_others_run(book):
    write(book, "a", "1 / 0")
    write(book, "b")
    for _ in range(2):
        with pytest.raises(tool.NotebookError, match=r"^a\.ipynb\n(?s:.*)1 / 0(?s:.*)ZeroDivisionError"):
            run(book)
    assert (runs(book, "a"), runs(book, "b")) == (2, 1)


def test_a_kernel_that_dies_is_named(book):
    write(book, "a", "import os", "os._exit(1)")
    write(book, "b")
    with pytest.raises(tool.NotebookError, match=r"^a\.ipynb\nKernel died$"):
        run(book)


def test_the_book_is_built_with_it():
    sphinx = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]
    assert sphinx["local_extensions"]["execute_notebooks"] == "tools"
    assert "execute_notebooks" in sphinx["config"]["extensions"]
    connected = {}
    tool.setup(SimpleNamespace(connect=connected.__setitem__))
    assert connected == {"env-before-read-docs": tool.execute_stale}
