"""The built pages, as files and as a reader's browser shows them.

A guard returns a list of problems. The first half reads the HTML; the second half opens every page in Chromium with no
network, in the light and the dark theme and at the width of a phone. Every guard is also shown broken pages, which it
must refuse.
"""

import importlib
import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import needs
import pytest
import yaml
from bs4 import BeautifulSoup

from conftest import chromium, problem_of_the_build, report

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
STATIC = ROOT / "book" / "_static"
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html") if "_static" not in path.parts)
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
every_page = pytest.mark.parametrize("page", PAGES or ["index.html"])

# TeX, MyST or reStructuredText that reached the reader as it was typed.
RAW = re.compile(
    r"\$\$|(?<![\w$])\$[^$\n]+\$|\\[a-zA-Z]{2,}|\\[()\[\]]|[_^]\{|`|:::|\*\*\w[^*\n]*\*\*"
    r"|\{(?:eq|ref|doc|term|numref|math|cite|prf)[:\w]*\}|(?<!\w):(?:eq|ref|doc|term|math|cite|class|func|mod)[:\w]*:",
)
CODE = "script, style, noscript, template, pre, code, textarea, .highlight, .katex"


def raw(text):
    return [f"raw markup: {text[max(0, m.start() - 20) : m.end() + 20]!r}" for m in RAW.finditer(text)]


@cache
def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path):
    return {tag["id"] for tag in soup(path).find_all(id=True)} | {tag["name"] for tag in soup(path).select("a[name]")}


def is_external(url):
    parts = urlsplit(url)
    return bool(parts.netloc or parts.scheme in {"http", "https"})


# --- The pages as files ----------------------------------------------------------------------------------------------


def loads(path):
    """What a page fetches by itself: (tag, address). A link that waits for a click is not among it."""
    attributes = {"src", "srcset", "poster", "data", "background"}
    for tag in soup(path).find_all(True):
        yield from ((tag, tag[name].split()[0]) for name in attributes & set(tag.attrs) if tag[name].strip())
        if tag.name == "link" and not {"next", "prev", "search", "index", "canonical"} & set(tag.get("rel", [])):
            yield tag, tag["href"]


def styles(path):
    """The style sheets of a page, each with the place that its addresses are relative to."""
    page = soup(path)
    inline = [tag.get_text() for tag in page.find_all("style")] + [tag["style"] for tag in page.find_all(style=True)]
    sheets = [target(path, tag["href"]) for tag in page.select("link[rel~=stylesheet]") if not is_external(tag["href"])]
    return [(path, text) for text in inline] + [(s, s.read_text(encoding="utf-8")) for s in sheets if s.exists()]


def target(path, url):
    """The file that a local address leads to from a page."""
    local = unquote(urlsplit(url).path)
    return (path.parent / local).resolve() if local else path


def fetches_nothing_from_elsewhere(path, root):
    problems = [f"<{tag.name}> loads {url}" for tag, url in loads(path) if is_external(url)]
    for place, text in styles(path):
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        urls = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
        urls = [url for url in urls if not url.startswith(("data:", "#"))]
        problems += [f"{place.name}: loads {url}" for url in urls if is_external(url)]
        problems += [
            f"{place.name}: no {url}" for url in urls if not is_external(url) and not target(place, url).exists()
        ]
    return problems


def has_whole_links(path, root):
    """Every local address leads to a file of the book, and every fragment to an id of that page."""
    problems = []
    clicks = [(tag, tag["href"]) for tag in soup(path).select("a[href], area[href]")]
    moves = [(tag, tag["content"].split("url=", 1)[-1]) for tag in soup(path).select("meta[http-equiv=refresh i]")]
    for tag, url in [*clicks, *moves, *loads(path)]:
        parts = urlsplit(url)
        if is_external(url) or parts.scheme in {"mailto", "data"} or url in {"#", ""}:
            continue
        file = target(path, url)
        if parts.scheme or not file.is_relative_to(root.resolve()) or not file.is_file():
            problems.append(f"<{tag.name}> leads nowhere: {url}")
        elif parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in anchors(file):
            problems.append(f"<{tag.name}> leads to no id: {url}")
    return problems


REPEATED = {"solution-content", "exercise-content", "proof-content"}  # the extensions give them to every block


def has_whole_ids(path, root):
    """An id stands once, and what refers to an id of its own page finds it."""
    ids = [tag["id"] for tag in soup(path).find_all(id=True) if tag["id"] not in REPEATED]
    names = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "data-bs-target")
    refers = [
        word.lstrip("#")
        for name in names
        for tag in soup(path).find_all(attrs={name: True})
        for word in tag[name].split()
    ]
    problems = [f"id {name!r} stands {ids.count(name)} times" for name in sorted({i for i in ids if ids.count(i) > 1})]
    return problems + [f"no id {name!r}" for name in sorted(set(refers) - set(ids))]


def describes_its_images(path, root):
    """An image says in words what it shows; a figure that code drew stands in a figure with a caption."""
    problems = []
    for image in soup(path).find_all("img"):
        alt = image.get("alt", "")
        if not alt.strip() or re.search(r"\.(png|svg|jpe?g|webp)$|[$\\]", alt) or alt == image["src"]:
            problems.append(f"{image['src']}: alt text {alt!r}")
        caption = image.find_parent("figure") and image.find_parent("figure").find("figcaption")
        if image.find_parent(class_="cell_output") and not (caption and caption.get_text(strip=True)):
            problems.append(f"{image['src']}: no caption")
    return problems


def shows_no_markup(path, root):
    """Nothing that should have been typeset: in the text, in the title of the tab, in the words read aloud."""
    page = BeautifulSoup(str(soup(path)), "html.parser")
    heard = [tag[name] for name in ("alt", "title", "aria-label") for tag in page.find_all(attrs={name: True})]
    heard += [tag["content"] for tag in page.select("meta[name=description], meta[property]")]
    title = page.title.extract().get_text() if page.title else ""
    for tag in page.select(f"{CODE}, .math"):
        tag.replace_with(" ")
    return [problem for text in [title, *heard, page.get_text()] for problem in raw(text)]


FILE_GUARDS = [
    fetches_nothing_from_elsewhere,
    has_whole_links,
    has_whole_ids,
    describes_its_images,
    shows_no_markup,
]


@every_page
@pytest.mark.parametrize("guard", FILE_GUARDS, ids=lambda guard: guard.__name__)
def test_a_page_as_a_file(guard, page, html):
    report(guard(html / page, html))


def test_every_chapter_has_its_page(html):
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    missing = [name for name in re.findall(r"(?:root|file): *(\S+)", toc) if not (html / f"{name}.html").exists()]
    assert missing == []
    assert yaml.safe_load(toc)["root"] in (html / "index.html").read_text(encoding="utf-8")


def test_no_page_has_a_menu_without_end(html):
    """The API was one page once, with five hundred entries in its menu."""
    counts = {page: len(soup(html / page).select(".page-toc a")) for page in PAGES}
    assert max(counts.values()) > 10
    assert {page: count for page, count in counts.items() if count > 100} == {}


MODULES = sorted(path.stem for path in (ROOT / "book" / "api").glob("*.md"))


def missing_from_the_api(module, page):
    """Public functions without an entry on their module's page, and entries that say nothing."""
    names = needs.public_functions(importlib.import_module(f"vae_tutorial.{module}"))
    due = [f"vae_tutorial.{module}.{name}" for name in names]
    problems = [f"no entry of {name}" for name in due if name not in anchors(page)]
    return problems + ["an entry of a tuple's field"] * ("Alias for field number" in soup(page).get_text())


@pytest.mark.parametrize("module", MODULES)
def test_a_page_of_the_api_shows_every_function(module, html):
    report(missing_from_the_api(module, html / "book" / "api" / f"{module}.html"))


def test_the_guard_of_the_api_fails_on(tmp_path):
    (tmp_path / "bounds.html").write_text(
        '<p id="vae_tutorial.bounds.elbo">Alias for field number 0</p>', encoding="utf-8"
    )
    assert len(missing_from_the_api("bounds", tmp_path / "bounds.html")) >= 2


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_can_be_downloaded(chapter, html):
    page = html / "book" / f"{chapter}.html"
    links = {target(page, tag["href"]) for tag in soup(page).select("a[href$='.ipynb']")}
    source = (ROOT / "book" / f"{chapter}.ipynb").read_bytes()
    assert source in [link.read_bytes() for link in links if link.is_file()]


# --- The pages in a browser ------------------------------------------------------------------------------------------

TYPESET = """async () => {
    await document.fonts.ready;
    const all = selector => [...document.querySelectorAll(selector)];
    const words = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
        if (!walker.currentNode.parentElement.closest("CODE")) words.push(walker.currentNode.data);
    return {
        text: words.join(" "),
        left: all(".math").filter(e => !e.closest("pre") && !e.querySelector(".katex")).map(e => e.textContent),
        fonts: [...document.fonts].filter(f => f.status === "error").map(f => f.family),
        images: all("img").filter(e => e.complete && !e.naturalWidth).map(e => e.src),
    };
}""".replace("CODE", CODE)

SETTLED = "() => new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done))))"

# How wide the page is, and what sticks out to the right with no scroll bar of its own around it.
OVERFLOW = """() => {
    const page = document.documentElement, width = page.clientWidth;
    const scrolls = e => e && e !== document.body && e !== page &&
        (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const end = e => e.getBoundingClientRect().left + Math.max(e.getBoundingClientRect().width, e.scrollWidth);
    const article = document.querySelector(".bd-article") ?? document.body;
    const all = article.querySelectorAll("*:not(.katex-mathml, .katex-mathml *, .katex svg *)");
    const wide = [...all].filter(e => e.checkVisibility() && end(e) > width + 1 && !scrolls(e));
    const inmost = wide.filter(e => !wide.some(other => other !== e && e.contains(other)));
    return [page.scrollWidth > width ? page.scrollWidth + " px wide" : "",
            ...inmost.slice(0, 3).map(e => `${e.tagName}.${e.className} sticks out: ${e.textContent.trim().slice(0, 40)}`)];
}"""

# Formulas: the number beside, and no tab stop but where a box scrolls, which then has a name.
FORMULAS = """() => [...document.querySelectorAll(".math")].filter(e => e.checkVisibility()).flatMap(math => {
    const words = math.textContent.trim().slice(0, 40);
    const number = math.querySelector(".eqno")?.getBoundingClientRect();
    const box = [math, ...math.querySelectorAll(".formula")].find(e => getComputedStyle(e).overflowX === "auto");
    const scrolls = box && box.scrollWidth > box.clientWidth + 1;
    const end = box?.getBoundingClientRect().right ?? Infinity;
    const over = piece => piece.left < number.right - 1 && Math.min(end, piece.right) > number.left + 1
        && piece.top < number.bottom - 1 && piece.bottom > number.top + 1;
    const pieces = [...math.querySelectorAll(".katex-base")].map(e => e.getBoundingClientRect());
    const stops = [...math.querySelectorAll("*:not(.eqno *)")].filter(e => e.tabIndex >= 0 && !(scrolls && e === box));
    return [number && pieces.some(over) && "the number lies over",
            scrolls && !(box.tabIndex === 0 && box.role && box.ariaLabel) && "no name or no tab stop for what scrolls",
            stops.length && "a tab stop that does not scroll"].filter(Boolean).map(problem => `${problem}: ${words}`);
})"""

# Findings of axe, serious and critical. It is slow where there are thousands of elements, so formulas are taken out before
# (FORMULAS looks at them), and of code one word in each colour is left.
THIN = """() => {
    const seen = new Set();
    document.querySelectorAll(".formula, .katex").forEach(e => e.remove());
    document.querySelectorAll("pre span").forEach(e => {
        const kind = [e.className, e.parentElement.className, e.closest("pre").parentElement.className].join();
        if (seen.has(kind) && !e.querySelector("[id]")) e.remove();
        seen.add(kind);
    });
}"""
AXE = """async (rules) => {
    const options = {preload: false, resultTypes: ["violations"], ...(rules && {runOnly: rules})};
    const found = (await axe.run(document, options)).violations.filter(v => /serious|critical/.test(v.impact));
    const say = (rule, node) => `axe ${rule.id}: ${node.target.join(" ")} ${node.failureSummary.split("\\n")[1] ?? ""}`;
    return found.flatMap(rule => rule.nodes.map(node => say(rule, node)));
}"""

# The brightness of the page and of its text, 0 to 1.
BRIGHTNESS = """() => {
    const grey = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, c) => sum + c / 765, 0);
    const text = document.querySelector("article p, article h1, main") ?? document.body;
    return [grey(getComputedStyle(document.body).backgroundColor), grey(getComputedStyle(text).color)];
}"""


def visit(browser, url):
    """Open a page as a reader without a network does, and list what is wrong with it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    problems = []

    def answer(route):
        local = route.request.url.startswith(("file:", "data:", "blob:"))
        route.continue_() if local else (problems.append(f"asks for {route.request.url}"), route.abort())

    context.route("**/*", answer)
    page = context.new_page()
    page.set_default_timeout(120_000)  # a machine may be busy
    page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.goto(url)
    problems += reading_problems(page.evaluate(TYPESET)) + theme_problems(page, "light")
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate(SETTLED)
    problems += [f"at 390 px: {problem}" for problem in page.evaluate(OVERFLOW) + page.evaluate(FORMULAS) if problem]
    page.emulate_media(color_scheme="dark")
    page.reload()
    problems += theme_problems(page, "dark")
    page.evaluate(SETTLED)
    page.evaluate(THIN)
    page.evaluate((ROOT / "tests" / "vendor" / "axe.min.js").read_text(encoding="utf-8"))
    problems += [f"dark: {problem}" for problem in page.evaluate(AXE, ["color-contrast"])]  # the rest does not change
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.wait_for_timeout(300)  # the sidebars slide in, and what scrolls is looked for again
    problems += page.evaluate(AXE)
    context.close()
    return problems


def reading_problems(seen):
    problems = raw(seen["text"]) + [f"not typeset: {tex}" for tex in seen["left"]]
    problems += [f"font {family}" for family in seen["fonts"]] + [f"no image {url}" for url in seen["images"]]
    return problems


def theme_problems(page, theme):
    back, text = page.evaluate(BRIGHTNESS)
    wrong = back < 0.8 or text > 0.5 if theme == "light" else back > 0.2 or text < 0.5
    return [f"in the {theme} theme: brightness {back:.2f} behind, {text:.2f} in front"] * wrong


@every_page
def test_a_page_in_a_browser(page, html, browser):
    if soup(html / page).select("meta[http-equiv=refresh i]"):
        return  # it shows nothing: it leads to the first page
    report(visit(browser, (html / page).as_uri()))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapters_code_can_be_copied(chapter, html, browser):
    page = browser.new_page()
    page.goto((html / "book" / f"{chapter}.html").as_uri())
    assert page.locator(".cell_input pre").count() == page.locator(".cell_input button.copybtn").count() > 0
    page.close()


@pytest.mark.parametrize("anchor", ["#vae_tutorial.bounds.iwae", "#bounds", "#vae_tutorial.full_gaussian.kl"])
def test_a_link_to_the_api_of_one_page_goes_on_to_the_modules(anchor, html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "api.html").as_uri() + anchor)
    page.wait_for_url(f"**/api/{anchor.strip('#').split('.')[-2 if '.' in anchor else 0]}.html*")
    assert page.url.endswith(anchor) == ("." in anchor)
    page.close()


def test_the_search_works_without_a_server(html, browser):
    page = browser.new_page()
    page.goto((html / "search.html").as_uri() + "?q=likelihood")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.close()


# --- The guards themselves -------------------------------------------------------------------------------------------

DARK = "@media (prefers-color-scheme: dark) {html {background: #111; color: #eee}}"
STYLE = f"a {{color: inherit}} html {{background: #fff; color: #111}} {DARK}"
SHEETS = "".join(
    f'<link rel="stylesheet" href="{(STATIC / name).as_uri()}">' for name in ("katex/katex.min.css", "book.css")
)
SCRIPTS = "".join(
    f'<script defer src="{(STATIC / name).as_uri()}"></script>' for name in ("katex/katex.min.js", "formulas.js")
)
GOOD = f"""<!DOCTYPE html><html lang="en"><head><title>A page</title><link rel="icon" href="data:,">
<style>{STYLE} body, main {{background: inherit; color: inherit}}</style></head><body><main class="bd-article">
<p id="top">Text with <a href="#top">a link</a>, <a href="https://example.com">one outside</a>, <code>$$x$$</code> and
<span class="math">\\(x\\)</span>. <img src="picture.svg" alt="A grey square"></p></main>
{SHEETS}{SCRIPTS}</body></html>"""
LONG = "\\[" + "a + " * 40 + "b\\]"
ROW, ON_TOP = "display: flex; position: relative", "position: absolute; top: 0; bottom: 0; right: 0"
TABBED = 'addEventListener("load", () => document.querySelectorAll(".formula").forEach((e) => (e.tabIndex = 0)))'
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
OUT = "https://example.com"

FILE_BREAKS = {
    fetches_nothing_from_elsewhere: [
        f'<script src="{OUT}/a.js"></script>',
        '<script src="//example.com/a.js"></script>',
        f'<link rel="stylesheet" href="{OUT}/a.css">',
        f'<link rel="preconnect" href="{OUT}">',
        f'<img src="{OUT}/a.png" alt="A grey square">',
        f'<iframe src="{OUT}"></iframe>',
        f"<style>@import '{OUT}/a.css';</style>",
        f"<style>@font-face {{src: url({OUT}/a.woff2)}}</style>",
        f'<p style="background: url({OUT}/a.png)"></p>',
        '<link rel="stylesheet" href="bad.css">',
        "<style>p {background: url(missing.png)}</style>",
    ],
    has_whole_links: [
        '<a href="missing.html"></a>',
        '<a href="#missing"></a>',
        '<a href="other.html#missing"></a>',
        '<a href="/absolute.html"></a>',
        '<a href="../outside.html"></a>',
        '<a href="file:///etc/hosts"></a>',
        '<img src="missing.png" alt="A grey square">',
        '<script src="missing.js"></script>',
        '<meta http-equiv="refresh" content="0; url=missing.html">',
    ],
    has_whole_ids: ['<p id="top"></p>', '<label for="missing"></label>', '<p aria-labelledby="top missing"></p>'],
    describes_its_images: [
        '<img src="picture.svg">',
        '<img src="picture.svg" alt=" ">',
        '<img src="picture.svg" alt="../picture.svg">',
        '<img src="picture.svg" alt="The curve $x$">',
        '<div class="cell_output"><img src="picture.svg" alt="A grey square"></div>',
        '<figure class="cell_output"><img src="picture.svg" alt="A grey square"><figcaption> </figcaption></figure>',
    ],
    shows_no_markup: [
        "<title>The ELBO \\(\\log p\\)</title>",
        '<img src="picture.svg" alt="\\(x\\)">',
        *(
            f"<p>{text}</p>"
            for text in (
                "$$a = b$$",
                "where $x$ is",
                "\\begin{aligned}",
                "\\(x\\)",
                "see {eq}`elbo`",
                "see :eq:`elbo`",
                "\\mu",
                "x^{2}",
                "::::note",
                "a `word`",
                "**loud**",
            )
        ),
    ],
}
BROWSER_BREAKS = [
    ("console: oh", "<script>console.error('oh')</script>"),
    ("error: oh", "<script>throw new Error('oh')</script>"),
    (f"asks for {OUT}", f"<script>fetch('{OUT}').catch(() => 0)</script>"),
    (f"asks for {OUT}/a.png", f'<img src="{OUT}/a.png" alt="A grey square">'),
    ("failed", '<img src="missing.png" alt="A grey square">'),
    ("raw markup", "<p>It is <span>$</span>$x + y$<span>$</span></p>"),
    ("raw markup", "<p>see {eq}`elbo`</p>"),
    ("not typeset", '<p class="math">\\(\\frac{a\\)</p>'),
    ("console: KaTeX", '<p class="math">\\(\\left( a\\)</p>'),
    ("console: KaTeX parse error: Undefined", '<p class="math">\\(\\nomacro x\\)</p>'),
    (
        "at 390 px: the number lies over",
        f'<div class="math" style="{ROW}"><b class="eqno" style="{ON_TOP}">(1)</b>{LONG}</div>',
    ),
    ("at 390 px: no name or no tab stop", f'<div class="math" style="overflow: auto">{LONG}</div>'),
    ("at 390 px: a tab stop", f'<p class="math">\\(x\\)</p><script>{TABBED}</script>'),
    ("at 390 px: 6", '<p style="width: 600px">wide</p>'),
    ("at 390 px: PRE", '<div style="overflow: hidden"><pre style="width: 600px">cut off</pre></div>'),
    ("axe color-contrast", '<p style="color: #888; background: #fff">pale</p>'),
    ("dark: axe color-contrast", '<p style="color: #555; background: #111">dim</p>'),
    ("axe button-name", "<button></button>"),
    ("in the dark theme", "<style>html {background: #fff !important}</style>"),
    ("in the light theme", "<style>html {color: #eee !important}</style>"),
]


@pytest.fixture
def site(tmp_path):
    """A folder with a good page, another one, a picture and a bad style sheet; writes a page with something added."""
    (tmp_path / "picture.svg").write_text(PICTURE, encoding="utf-8")
    (tmp_path / "bad.css").write_text(f"@import url({OUT}/a.css);", encoding="utf-8")
    (tmp_path / "other.html").write_text(GOOD, encoding="utf-8")

    def write(addition=""):
        page = tmp_path / "page.html"
        page.write_text(GOOD.replace("</main>", f"{addition}</main>"), encoding="utf-8")
        if "<title>" in addition:
            page.write_text(GOOD.replace("<title>A page</title>", addition), encoding="utf-8")
        return page

    return write


@pytest.mark.parametrize("guard", FILE_GUARDS, ids=lambda guard: guard.__name__)
def test_the_good_page_passes(guard, site):
    page = site('<a href="other.html#top">x</a><p>It costs $5, or 2^10 cents: see (4.1).</p>')
    page.write_text(page.read_text(encoding="utf-8").replace(SHEETS + SCRIPTS, ""), "utf-8")
    assert guard(page, page.parent) == []


@pytest.mark.parametrize(
    ("guard", "addition"),
    [(g, text) for g in FILE_GUARDS for text in FILE_BREAKS[g]],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_guard_refuses_a_broken_page(guard, addition, site):
    page = site(addition)
    assert set(guard(page, page.parent)) > set(guard(page.parent / "other.html", page.parent))


def test_the_good_page_passes_in_a_browser(site, browser):
    assert visit(browser, site().as_uri()) == []


@pytest.mark.parametrize(("problem", "addition"), BROWSER_BREAKS)
def test_the_browser_refuses_a_broken_page(problem, addition, site, browser):
    found = visit(browser, site(addition).as_uri())
    assert any(text.startswith(problem) for text in found), found


def test_chromium_is_looked_for(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/somewhere/chrome")
    assert chromium() == "/somewhere/chrome"
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setenv("PATH", "")
    assert chromium() is None


def test_a_missing_stale_or_unfinished_build_is_noticed(tmp_path):
    def write(name, seconds):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (seconds, seconds))

    write("book/intro.md", 100)
    assert "no built pages" in problem_of_the_build(tmp_path)
    write("_build/html/index.html", 200)
    assert problem_of_the_build(tmp_path) == ""
    write("vae_tutorial/bounds.py", 300)
    assert "older than vae_tutorial" in problem_of_the_build(tmp_path)
    write("_build/html/page.html", 350)
    assert problem_of_the_build(tmp_path) == ""
    write("_build/.built", 250)  # the build began before the edit
    assert "older than vae_tutorial" in problem_of_the_build(tmp_path)
    write("_build/.started", 400)
    assert "did not finish" in problem_of_the_build(tmp_path)
