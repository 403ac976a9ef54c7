"""What goes out: the package's wheel, the line that installs it from the site's own address, the workflow on GitHub."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
import tomllib
import urllib.request
import venv
import zipfile
from types import SimpleNamespace

import book_extension
import pytest
import yaml

from conftest import ROOT

PACKAGE = ROOT / "vae_tutorial"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
WHEEL = f"vae_tutorial-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheel(html):
    assert [path.name for path in (html / "wheels").iterdir()] == [WHEEL]
    return html / "wheels" / WHEEL


def test_the_wheel_holds_the_package_as_it_is(wheel):
    """Every module, the data and the mark of its types; nothing that was deleted since."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        licences = {name.split("/")[-1] for name in archive.namelist() if "/licenses/" in name}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    assert licences == {"LICENSE", "THIRD_PARTY_NOTICES.md"}


def test_pip_installs_the_wheel_into_a_fresh_environment(wheel, tmp_path):
    builder = venv.EnvBuilder()
    builder.create(tmp_path / "fresh")
    python = builder.ensure_directories(tmp_path / "fresh").env_exe
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    code = f"""
import sys; sys.path += {[path for path in sys.path if "site-packages" in path]}  # torch, from here
import vae_tutorial; from vae_tutorial import data
print(vae_tutorial.__file__, vae_tutorial.__version__, *data.exam_marks().marks.shape)"""
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    place, *said = done.stdout.split()
    assert place.startswith(str(tmp_path))
    assert said == [VERSION, "88", "5"]


def test_building_again_leaves_one_wheel(tmp_path):
    """Sphinx keeps what it does not know between two builds, and so an old version's wheel."""
    app = SimpleNamespace(builder=SimpleNamespace(name="html"), outdir=str(tmp_path))
    (tmp_path / "wheels").mkdir()
    old = tmp_path / "wheels" / "vae_tutorial-0.0.1-py3-none-any.whl"
    old.touch()
    os.utime(old, (0, 0))
    book_extension.build_the_wheel(app, None)
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [WHEEL]


def test_the_texts_name_the_wheel_that_is_built():
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "book/intro.md")}
    named = {name: set(re.findall(r"vae_tutorial-\S+?\.whl", text)) for name, text in texts.items()}
    assert named == {name: {WHEEL} for name in texts}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(html):
    handler = functools.partial(Quiet, directory=html.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{html.name}"  # in a folder, as the pages of a project are
        server.shutdown()


@pytest.mark.parametrize("where", ["a server", "the disk"])
def test_the_first_page_fills_in_the_sites_own_address(where, html, wheel, browser, server):
    page = browser.new_page()
    page.goto(f"{server if where == 'a server' else html.as_uri()}/book/intro.html")
    command = page.locator(".site-address pre").inner_text()
    page.close()
    (address,) = re.findall(r"^pip install (\S+\.whl) ", command)
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == wheel.read_bytes()


# --- On GitHub -------------------------------------------------------------------------------------------------------

WORKFLOW = ROOT / ".github" / "workflows" / "book.yml"


def misread(path):
    """What GitHub's own schema of workflows, which comes with the checker, says against a file."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


def test_the_workflow_is_one_that_github_reads():
    assert misread(WORKFLOW) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("runs-on:", "runs_on:"),
        ("jobs:", "job:"),
        ("contents: read", "contents: reading"),
        ("needs: check", "needs: 1"),
    ],
)
def test_the_workflow_guard_fails_on(old, new, tmp_path):
    text = WORKFLOW.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "book.yml").write_text(text.replace(old, new), encoding="utf-8")
    assert misread(tmp_path / "book.yml")


def test_the_workflow_runs_every_test_and_publishes_what_it_built():
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert "bash .ci/run" in [step.get("run") for step in steps]
    assert [step["with"]["path"] for step in steps if "pages-artifact" in step.get("uses", "")] == ["_build/html"]
    assert jobs["publish"]["needs"] == "check"
    assert [
        step["uses"] for step in steps if not re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1"))
    ] == []


def test_make_passes_the_flags_of_the_environment_to_pip():
    outer = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}  # of a make around this test
    environment = outer | {"PIP_FLAGS": "--extra-index-url https://example.com/cpu"}
    command = ["make", "--dry-run", "--always-make", ".venv/.installed"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert "--extra-index-url https://example.com/cpu -r requirements.txt" in done.stdout
