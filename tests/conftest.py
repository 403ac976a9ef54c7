"""The built pages and a browser, for the tests that look at them."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("_config.yml", "_toc.yml", "book/**/*", "vae_tutorial/**/*.py")


def newest(folder: Path, *patterns: str) -> tuple[float, Path]:
    """When the last of these files was changed, and which it was. Hidden and generated files do not count."""
    files = {path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    shown = [path for path in files if not any(part.startswith((".", "__pycache__")) for part in path.parts)]
    return max(((folder / path).stat().st_mtime, path) for path in shown)


def problem_of_the_build(root: Path) -> str:
    """Why the pages under this root cannot be trusted, or nothing."""
    build, html = root / "_build", root / "_build" / "html"
    if not (html / "index.html").exists():
        return "There are no built pages: run `make book` first."
    if (build / ".started").exists():
        return "The last build did not finish: run `make book` again."
    # `make book` leaves a stamp with the time of its start; a build by hand is as old as its last page.
    stamp = build / ".built"
    built = stamp.stat().st_mtime if stamp.exists() else newest(html, "**/*")[0]
    changed, source = newest(root, *SOURCES)
    return f"The built pages are older than {source}: run `make book` first." if changed > built else ""


def report(problems: list[str]) -> None:
    """Fail with every problem on a line of its own: pytest's own message hides all but the first."""
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages; a clear failure when it is missing or stale."""
    if problem := problem_of_the_build(ROOT):
        pytest.fail(problem, pytrace=False)
    return ROOT / "_build" / "html"


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in OFF)]
HELP = (
    "there is no Chromium: install one (Debian: apt-get install chromium; Windows, macOS: Google Chrome) "
    "and, where it is not on the PATH, put its path in the environment variable CHROMIUM"
)


def chromium():
    """The path of a Chromium, or nothing: $CHROMIUM first, then what is on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser():
    if not chromium():
        pytest.skip(HELP)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()
