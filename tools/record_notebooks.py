"""Run the book's notebooks in place and store what a reader may rely on: text outputs, counts 1..n, minimal metadata.

    python tools/record_notebooks.py                          every notebook in book/
    python tools/record_notebooks.py book/04_elbo.ipynb       this one
    python tools/record_notebooks.py --gpu book/11_conv_vae.ipynb

Figures are made when the book is built, so pictures are dropped here. A cell tagged `gpu` keeps the outputs that are in
the file, recorded on the device they name, unless --gpu asks for it to be run on this machine: such a cell stands behind
`if RERUN:`, which --gpu sets for this one run, and writes a file book/results/my_*.pt, to be moved over the old one. A
notebook that raises, or that writes to stderr, keeps the outputs it had, and the command fails.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parent.parent / "book"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = ("mystnb", "tags")  # all else that editors leave in a cell is dropped
TYPESET = ("text/markdown", "text/latex")  # kept only where there is no plain text to keep
PLACEHOLDER = re.compile(r"<(Figure size|IPython\.core\.display)\b[^\n]*>")  # the repr of what cannot be shown as text
ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
GUARD, OPEN = "RERUN = False", "RERUN = True"  # "Run all" in an editor passes the recorded cells by
CELL_TIMEOUT = 300  # seconds, as in _config.yml


class RecordingError(Exception):
    """The notebook ran, but what it printed must not be stored."""


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook: NotebookNode, folder: Path, *, gpu: bool) -> None:
    """Run every cell in a fresh kernel whose working folder is the notebook's, as the book's build does."""
    held = [] if gpu else [cell for cell in code_cells(notebook) if "gpu" in tags(cell)]
    recorded = {cell.id: cell.outputs for cell in held}
    sources = {cell.id: cell.source for cell in code_cells(notebook)}
    for cell in code_cells(notebook):
        cell.outputs = []
        if gpu:
            cell.source = cell.source.replace(GUARD, OPEN)
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT if not gpu else None,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel warns of its channel, which stays on this machine
        skip_cells_with_tag="" if gpu else "gpu",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    for cell in code_cells(notebook):
        cell.source = sources[cell.id]
    for cell in held:
        cell.outputs = recorded[cell.id]


def as_text(output: NotebookNode, where: str) -> NotebookNode | None:
    """The output with only its text, or None where it has none."""
    if output.output_type == "stream":
        if output.name != "stdout":
            raise RecordingError(f"{where} writes to stderr:\n{output.text}")
        return output
    plain = output.data.get("text/plain", "")
    if ADDRESS.search(plain):
        raise RecordingError(f"{where} shows a memory address, {plain!r}: end it with plt.show() or start it with _ =")
    if plain and not PLACEHOLDER.fullmatch(plain.strip()):
        data = {"text/plain": plain}
    else:
        data = {kind: text for kind, text in output.data.items() if kind in TYPESET}
    if not data:
        return None
    output.data, output.metadata = data, {}
    return output


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """One stdout output where the kernel sent several in a row: how it flushes must not show in the file."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def tidy(notebook: NotebookNode) -> None:
    """Leave text outputs, counts 1..n, and no metadata but a cell's tags and its figure's caption."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
    for count, cell in enumerate(code_cells(notebook), start=1):
        where = f"code cell {count} ({cell.source.splitlines()[0] if cell.source else 'empty'})"
        kept = [as_text(output, where) for output in cell.outputs]
        cell.outputs = merge_streams([output for output in kept if output is not None])
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def name_cells(notebook: NotebookNode) -> None:
    """Ids for cells that have none, so that the file does not change from one run to the next."""
    notebook.nbformat, notebook.nbformat_minor = 4, max(5, notebook.nbformat_minor)
    used = {cell.get("id") for cell in notebook.cells}
    for number, cell in enumerate(notebook.cells, start=1):
        if not cell.get("id"):
            name = f"cell-{number}"
            while name in used:
                name += "-"
            used.add(name)
            cell.id = name


def record(path: Path, *, gpu: bool = False) -> float:
    """Format, run and store one notebook; the seconds it took."""
    for command in (["check", "--fix", "--exit-zero"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", str(path)], check=True)
    notebook = nbformat.from_dict(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    name_cells(notebook)
    start = time.perf_counter()
    execute(notebook, path.parent, gpu=gpu)
    seconds = time.perf_counter() - start
    tidy(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all of book/ when none is named")
    parser.add_argument("--gpu", action="store_true", help="also run the cells tagged gpu, here and now")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    failed = 0
    for path in arguments.paths or sorted(BOOK.glob("*.ipynb")):
        try:
            print(f"{path}: {record(path.resolve(), gpu=arguments.gpu):.1f} s", flush=True)
        except (CellExecutionError, RecordingError, subprocess.CalledProcessError) as error:
            failed += 1
            print(f"{path}: not recorded\n{error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
