"""Sphinx extension for what _config.yml cannot say.

Every button that needs the book's public address hangs on `repository: url:` there. While the address is empty, pages carry
no such button. Once it is set, they link to the repository, to its issues, to their own source, and notebooks to Colab.
"""

import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

BUTTONS = ("use_repository_button", "use_issues_button", "use_edit_page_button")
COLAB = "https://colab.research.google.com"


def show_buttons(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    address = options.get("repository_url", "").rstrip("/")
    options["repository_url"] = address
    options.update(dict.fromkeys(BUTTONS, bool(address)))
    options["launch_buttons"] = {"notebook_interface": "jupyterlab", "colab_url": COLAB} if address else {}


def drop_repeated_ids(app: Sphinx, doctree: nodes.document) -> None:
    """sphinx-proof gives every proof on a page the same id, which only one element may have."""
    for proof in doctree.findall(nodes.admonition):
        if proof["ids"] == ["proof"]:
            proof["ids"] = []


def say_what_it_needs(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Under each function of the package: what has to be copied or imported along with it."""
    if what == "function" and inspect.isfunction(thing):
        sys.path.insert(0, str(Path(__file__).parent))
        import needs  # beside this file, which only Sphinx has on its path

        sys.path.pop(0)
        lines += ["", needs.sentence(thing), ""]


def leave_out_fields(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """A named tuple's fields stand in its signature; autodoc would add an entry without a word for each."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def say_the_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """A page whose name ends in _zh is Chinese: browsers then choose its font, its line breaks and its voice."""
    if page.endswith("_zh"):
        context["language"] = "zh-Hans"


CHINESE = re.compile(
    r"[\u3400-\u9fff](?:[\u3400-\u9fff、，（）]*[\u3400-\u9fff）])?(?=[^<>]*<)"
)  # in text, not in a tag


MENDED = {  # what extensions write and axe refuses
    '<summary aria-label="Toggle hidden content">': "<summary>",  # folded code is named by its words
    '<dl>\n<dd><em class="sig-param': '<dl role="presentation">\n<dd><em class="sig-param',  # arguments define nothing
    'role="doc-biblioentry"': 'role="listitem"',  # of a list of references
}


def mend_the_body(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Chinese terms in an English page are marked, or they are read aloud as English; and what MENDED says."""
    body = context.get("body", "")
    if not page.endswith("_zh"):
        body = CHINESE.sub(r'<span lang="zh-Hans">\g<0></span>', body)
    for written, mended in MENDED.items():
        body = body.replace(written, mended)
    context["body"] = body


def build_the_wheel(app: Sphinx, error: Exception | None) -> None:
    """The package beside the pages, so that pip can install it from the site's own address."""
    if error or app.builder.name != "html":
        return
    root, wheels = Path(__file__).resolve().parents[1], Path(app.outdir) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:  # setuptools packs what an older build left beside the sources
        for path in [path for path in root.iterdir() if path.is_file()]:
            shutil.copy(path, folder)
        shutil.copytree(root / "vae_tutorial", Path(folder) / "vae_tutorial")
        pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check", "--wheel-dir", str(wheels)]
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", folder], check=True)


def setup(app: Sphinx) -> dict[str, bool]:
    os.environ["TQDM_DISABLE"] = "1"  # the kernels inherit it: no progress bars in built pages
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # and leave the cores to other work while they wait
    app.connect("doctree-read", drop_repeated_ids)
    app.connect("html-page-context", say_the_language)
    app.connect("html-page-context", mend_the_body)
    app.setup_extension("sphinx.ext.autodoc")  # whose event this is
    app.connect("autodoc-process-docstring", say_what_it_needs)
    app.connect("autodoc-skip-member", leave_out_fields)
    app.connect("config-inited", show_buttons, priority=100)  # before the theme reads its options
    app.connect("build-finished", build_the_wheel)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
