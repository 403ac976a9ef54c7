"""Run the book's notebooks as other processors would, and list every checked output that comes out differently.

    python tools/portable.py                          every notebook in book/, four ways: some 25 minutes
    python tools/portable.py book/04_elbo.ipynb       this one

The four ways are the instruction sets `default` and `avx2`, each with one thread and with two. They add in another order
or round in other places than the machine that recorded the outputs, so a digit that they change is a digit too many:
print fewer, or the size of an error and an assertion that holds it. Nothing is stored.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

import nbformat
import record_notebooks
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

CHECKED = "nbval-check-output"
WAYS = tuple(itertools.product(("default", "avx2"), ("1", "2")))  # ATEN_CPU_CAPABILITY, OMP_NUM_THREADS


def checked_texts(notebook: NotebookNode) -> list[tuple[str, str]]:
    """For every checked cell its first line and the text under it, as it would be recorded."""
    texts = []
    for number, cell in enumerate(notebook.cells):
        if CHECKED in record_notebooks.tags(cell):
            kept = [record_notebooks.as_text(output, f"cell {number}") for output in cell.outputs]
            parts = [output.get("text") or "".join(output.get("data", {}).values()) for output in kept if output]
            texts.append((f"cell {number}, {cell.source.splitlines()[0]!r}", "".join(parts)))
    return texts


def differences(recorded: NotebookNode, run: NotebookNode) -> list[str]:
    """What a reader would see otherwise: the lines that changed, under the cell they belong to."""
    found = []
    for (cell, before), (_, after) in zip(checked_texts(recorded), checked_texts(run), strict=True):
        lines = itertools.zip_longest(before.splitlines(), after.splitlines(), fillvalue="(nothing)")
        found += [f"{cell}: {a!r} became {b!r}" for a, b in lines if a != b]
    return found


def problems_of(path: Path, capability: str, threads: str) -> list[str]:
    """The checked outputs of one notebook that differ when it is run in one of the ways."""
    os.environ.update(ATEN_CPU_CAPABILITY=capability, OMP_NUM_THREADS=threads)
    recorded = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    run = nbformat.from_dict(recorded)
    try:
        record_notebooks.execute(run, path.parent, gpu=False)
    except CellExecutionError as error:
        return [f"it raises: {str(error).strip().splitlines()[-1]}"]
    return differences(recorded, run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all of book/ when none is named")
    paths = parser.parse_args().paths or sorted(record_notebooks.BOOK.glob("*.ipynb"))
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    failed = 0
    for path, (capability, threads) in itertools.product(paths, WAYS):
        problems = problems_of(path.resolve(), capability, threads)
        failed += len(problems)
        print(f"{path}, {capability}, threads {threads}: {len(problems) or 'no'} differences", flush=True)
        for problem in problems:
            print(f"    {problem}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
