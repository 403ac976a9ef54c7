"""What the explorables of book/_static/explorables draw, computed by the package and written beside them.

    python tools/export_explorables.py              every file
    python tools/export_explorables.py ability …    these

A data file is one call with JSON in it, `explorables.data.NAME = {…};`, because a page opened from the disk may load a
script and not JSON.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vae_tutorial import data, linear_gaussian

FOLDER = Path(__file__).resolve().parents[1] / "book" / "_static" / "explorables" / "data"


def ability() -> dict[str, Any]:
    """The ability model of chapter 4, and the marks of its student 1."""
    x, _ = data.exam_marks()
    start = linear_gaussian.FactorAnalysis(
        weight=torch.ones(5, 1, dtype=torch.float64),
        bias=x.mean(0),
        log_var=x.var(0, correction=0).log(),
    )
    model, _ = linear_gaussian.em(start, x, num_steps=200)
    return {
        "weight": model.weight[:, 0].tolist(),
        "bias": model.bias.tolist(),
        "log_var": model.log_var.tolist(),
        "x": x[0].tolist(),
    }


EXPORTS: dict[str, Callable[[], dict[str, Any]]] = {"ability": ability}
TRAINED: frozenset[str] = frozenset()  # whose digits another processor would train otherwise


def path(name: str) -> Path:
    return FOLDER / f"{name}.js"


def text(name: str, content: dict[str, Any]) -> str:
    return f"explorables.data.{name} = {json.dumps(content, separators=(',', ':'))};\n"


def read(name: str) -> dict[str, Any]:
    """The content of a data file, as the page has it."""
    script = path(name).read_text(encoding="utf-8")
    return json.loads(script.removeprefix(f"explorables.data.{name} = ").removesuffix(";\n"))


if __name__ == "__main__":
    for name in sys.argv[1:] or EXPORTS:
        path(name).write_text(text(name, EXPORTS[name]()), encoding="utf-8")
        print(f"{path(name)}: {path(name).stat().st_size} bytes")
