"""The front door: the picture is the recorded model's, and the minutes on the first page are those of the chapters."""

import importlib.util
import re
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.image import imread

from conftest import report

ROOT = Path(__file__).resolve().parents[1]


def test_the_picture_at_the_front_is_what_the_recorded_model_draws() -> None:
    spec = importlib.util.spec_from_file_location("front_picture", ROOT / "tools" / "front_picture.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    shown = (imread(tool.PICTURE)[..., 0] * 255).round()
    drawn = tool.picture().astype(float)
    assert shown.shape == drawn.shape
    assert np.abs(shown - drawn).max() <= 3  # grey levels: another processor may round otherwise


def off_the_map(intro: str, openings: dict[str, str]) -> list[str]:
    """Chapters without a row on the first page's map, and rows whose minutes are not those of the chapter's own box."""
    rows = re.findall(r"^\|.*\]\((\d\d_\w+)\.ipynb\).*\| *(\d+) *\|[ \t]*$", intro, re.M)
    said = {name: re.search(r"\*\*Time\*\* (\d+) minutes", opening) for name, opening in openings.items()}
    due = {name: found[1] if found else "" for name, found in said.items()}
    wrong = [
        f"{n}: the map says {m} minutes, the chapter's box {due[n]}" for n, m in rows if due.get(n, "") not in ("", m)
    ]
    wrong += [f"the map of book/intro.md has a row of {n}, which is no chapter" for n, _ in rows if n not in due]
    row = "| **NN** | **[title](NN_name.ipynb)** | question | minutes |"
    return wrong + [f"the map of book/intro.md has no row of {n}: {row}" for n in due if n not in dict(rows)]


def test_the_map_on_the_first_page_lists_the_chapters_with_their_minutes() -> None:
    paths = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
    openings = {path.stem: nbformat.read(path, as_version=4).cells[0].source for path in paths}
    report(off_the_map((ROOT / "book" / "intro.md").read_text(encoding="utf-8"), openings))


def test_the_guard_of_the_map_fails_on() -> None:
    row = "| **1** | **[A](01_a.ipynb)** | Why? | 35 |\n"
    assert off_the_map(row, {"01_a": "**Time** 35 minutes"}) == []
    assert off_the_map(row, {"01_a": "**Time** 40 minutes"})
    assert off_the_map(row, {"01_a": "**Time** 35 minutes", "02_b": "**Time** 5 minutes"})
    assert off_the_map(row, {})
