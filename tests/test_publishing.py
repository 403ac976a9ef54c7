"""What goes out with the pages: the package's wheel, and the line that installs it from the site's own address."""

import functools
import http.server
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
    (tmp_path / "wheels" / "vae_tutorial-0.0.1-py3-none-any.whl").touch()
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
