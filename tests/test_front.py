"""The front door: the picture is the recorded model's, and the minutes on the first page are those of the chapters."""

import importlib.util
import re
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.image import imread

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


def test_the_minutes_on_the_first_page_are_those_of_the_chapters() -> None:
    intro = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"\]\((\d\d_\w+)\.ipynb\)\*\* \|.*\| (\d+) \|$", intro, re.M))
    said = {}
    for path in sorted((ROOT / "book").glob("[0-9]*.ipynb")):
        opening = nbformat.read(path, as_version=4).cells[0].source
        found = re.search(r"\*\*Time\*\* (\d+) minutes", opening)
        said[path.stem] = found[1] if found else listed.get(path.stem)
    assert listed == said
