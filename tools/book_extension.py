"""Sphinx extension for what _config.yml cannot say.

Every button that needs the book's public address hangs on `repository: url:` there. While the address is empty, pages carry
no such button. Once it is set, they link to the repository, to its issues, to their own source, and notebooks to Colab.

What a reader searches for is found in American and British spelling alike, and by the other words of the glossary's table.
Every page says in its head what it is about, and every image in its page how large it is.
"""

import gc
import html
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.search.en import SearchEnglish

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


def let_go_of_the_rest(app: Sphinx, doctree: nodes.document) -> None:
    """What `eval-rst` parsed belongs to a document of its own, which MyST leaves tied to Sphinx's whole environment: Sphinx
    would store all of it with every page of the API, 4 MB each, and load it again in every build."""
    for node in doctree.findall():
        node.document = doctree


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
    "</li>\n<ul>": "<ul>",  # the list of modules: a list within a list stands in one of its items
    "</ul><li>": "</ul></li>\n<li>",
}


def mend_the_body(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Chinese terms in an English page are marked, or they are read aloud as English; and what MENDED says."""
    body = context.get("body", "")
    if not page.endswith("_zh"):
        body = CHINESE.sub(r'<span lang="zh-Hans">\g<0></span>', body)
    for written, mended in MENDED.items():
        body = body.replace(written, mended)
    context["body"] = body


def is_fresh(wheels: Path, sources: list[Path]) -> bool:
    """Whether one wheel is there, newer than all of it was made of; a folder's time tells of files that are gone."""
    built = [path.stat().st_mtime for path in wheels.glob("*.whl")]
    return len(built) == 1 and built[0] > max(
        path.stat().st_mtime for path in sources if "__pycache__" not in path.parts
    )


def build_the_wheel(app: Sphinx, error: Exception | None) -> None:
    """The package beside the pages, so that pip can install it from the site's own address."""
    if error or app.builder.name != "html":
        return
    root, wheels = Path(__file__).resolve().parents[1], Path(app.outdir) / "wheels"
    beside = [path for path in root.iterdir() if path.is_file()]
    if is_fresh(wheels, [*beside, root / "vae_tutorial", *(root / "vae_tutorial").rglob("*")]):
        return
    shutil.rmtree(wheels, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:  # setuptools packs what an older build left beside the sources
        for path in beside:
            shutil.copy(path, folder)
        shutil.copytree(root / "vae_tutorial", Path(folder) / "vae_tutorial")
        pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check", "--wheel-dir", str(wheels)]
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", folder], check=True)


# British spellings as American ones, for the search: pattern and replacement, read by Python and by JavaScript. Both the
# index and the query go through them, so a word that they spoil ("noize") is spoilt alike on both sides.
SPELLINGS = [
    ("is(?=(e|ed|es|er|ers|ing|ation|ations)$)", "iz"),
    ("ys(?=(e|ed|es|er|ers|ing)$)", "yz"),
    ("ell(?=(ed|ing|er|ers)$)", "el"),
    ("olour", "olor"),
    ("viour", "vior"),
    ("vour", "vor"),
    ("bour", "bor"),
    ("centr(?=(e|ed|es|ing)$)", "center"),
    ("^grey", "gray"),
    ("parametri(?=[sz])", "parameteri"),
    ("learnt$", "learned"),
]


class English(SearchEnglish):
    """English for the search, in either spelling."""

    js_stemmer_code = (
        SearchEnglish.js_stemmer_code
        + "var OneSpelling = Stemmer; Stemmer = function () { const stemmer = new OneSpelling(); this.stemWord = (word) => "
        + f"stemmer.stemWord({json.dumps(SPELLINGS)}.reduce((w, [from, to]) => w.replace(new RegExp(from), to), word)); }};"
    )

    def stem(self, word: str) -> str:
        for pattern, replacement in SPELLINGS:
            word = re.sub(pattern, replacement, word.lower(), count=1)
        return super().stem(word)


GLOSSARY = "book/glossary.md"
OTHER_WORDS = re.compile(r"^\| (.+) \| \[.+\]\((\w+)\.\w+(?:#([\w-]+))?\) \|$", re.M)


def find_by_other_words(app: Sphinx, doctree: nodes.document) -> None:
    """The glossary's table of other words, for the search: each leads to the page, and the place, that its line names."""
    app.env.note_dependency(GLOSSARY)
    for words, page, place in OTHER_WORDS.findall((Path(app.srcdir) / GLOSSARY).read_text(encoding="utf-8")):
        if f"book/{page}" == app.env.docname:
            entries = [("single", word, place, "main", None) for word in words.split(", ")]
            doctree += addnodes.index(entries=entries)


def keep_other_words(app: Sphinx) -> list[Any]:
    """In the search, the index entries of the pages that this build did not write: Sphinx forgets them, so from the last."""
    indexer, file = app.builder.indexer, Path(app.outdir) / app.builder.searchindex_filename
    if indexer and file.exists():
        last = app.builder.indexer_format.loads(file.read_text(encoding="utf-8"))
        left_alone = app.env.found_docs - indexer._index_entries.keys()
        for word, places in last["indexentries"].items():
            for number, place, main in places:
                if (page := last["docnames"][number]) in left_alone:
                    indexer._index_entries.setdefault(page, []).append((word, place, "main" if main else ""))
    return []  # no page of its own, which is what this event asks for


SYMBOLS = {"mid": "| ", "phi": "φ", "theta": "θ", "epsilon": "ε", "mu": "μ", "sigma": "σ", "beta": "β"}
DESCRIPTION = 200  # characters, about what a search engine shows


def describe(app: Sphinx, doctree: nodes.document) -> None:
    """What a page is about, in its own words: the first sentences of its box "In short", or of its text."""
    paragraphs = list(doctree.findall(nodes.paragraph))
    in_short = [p for p in paragraphs if "in-short" in p.parent.get("classes", [])]
    text = ""
    for sentence in sentences((in_short or paragraphs)[0]) if paragraphs else []:
        if text and len(f"{text} {sentence}") > DESCRIPTION:
            break
        text = f"{text} {sentence}".strip()
    app.env.metadata[app.env.docname]["description"] = text


def sentences(paragraph: nodes.paragraph) -> list[str]:
    """The sentences of a paragraph as plain text; one with a formula that letters cannot write is left out."""
    text = re.sub(r"\\([a-z]+) ?", lambda m: SYMBOLS.get(m[1], m[0]), " ".join(paragraph.astext().split()))
    return [
        part
        for part in re.split(r"(?<=[.?!])\s+|(?<=[。？！])", text)
        if part and not re.search(r"[\\{}$]|\w\d{4}\w|[^.?!。？！]$", part)
    ]


def say_what_it_is_about(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    text = (
        app.env.metadata[page].get("description")
        or f"{context.get('title') or page.title()}, of the book {app.config.html_title}."
    )
    context["metatags"] = context.get("metatags", "") + f'\n<meta name="description" content="{html.escape(text)}" />'


def size_images(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Widths and heights, so that no text moves when an image arrives. All but a page's first image wait to be near."""
    files = {name: Path(app.srcdir) / path for path, name in app.builder.images.items()}
    first = True

    def sized(match: re.Match[str]) -> str:
        nonlocal first
        file = files.get(match[1].rsplit("/", 1)[-1])
        if file is None or " width=" in match[0]:
            return match[0]
        with Image.open(file) as image:
            width, height = image.size
        wait = "" if first else ' loading="lazy"'
        first = False
        return f'<img width="{width}" height="{height}"{wait}{match[0][4:]}'

    context["body"] = re.sub(r'<img [^>]*?src="([^"]+)"[^>]*>', sized, context.get("body", ""))


def setup(app: Sphinx) -> dict[str, bool]:
    os.environ["TQDM_DISABLE"] = "1"  # the kernels inherit it: no progress bars in built pages
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # and leave the cores to other work while they wait
    gc.set_threshold(50_000)  # Sphinx keeps the large trees it builds: looking for garbage took a third of a build
    app.add_search_language(English)
    app.connect("doctree-read", let_go_of_the_rest)
    app.connect("doctree-read", drop_repeated_ids)
    app.connect("doctree-read", find_by_other_words)
    app.connect("html-collect-pages", keep_other_words)
    app.connect("doctree-read", describe)
    app.connect("html-page-context", say_what_it_is_about)
    app.connect("html-page-context", size_images)
    app.connect("html-page-context", say_the_language)
    app.connect("html-page-context", mend_the_body)
    app.setup_extension("sphinx.ext.autodoc")  # whose event this is
    app.connect("autodoc-process-docstring", say_what_it_needs)
    app.connect("autodoc-skip-member", leave_out_fields)
    app.connect("config-inited", show_buttons, priority=100)  # before the theme reads its options
    app.connect("build-finished", build_the_wheel)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
