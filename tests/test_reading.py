"""What a reader does with the built pages beside reading: searching, printing, sharing them."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from conftest import report

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
BOOK = sorted(path.relative_to(HTML) for path in (HTML / "book").rglob("*.html"))
every_page = pytest.mark.parametrize("page", BOOK or [Path("book/intro.html")], ids=str)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the pages without a line for each."""

    def log_message(self, *arguments):
        pass


def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture
def tab(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


# --- Searching -------------------------------------------------------------------------------------------------------


def found(tab, html, query):
    """The addresses of the results, best first."""
    tab.goto((html / "search.html").as_uri() + f"?q={query}")
    tab.wait_for_function("/found/.test(document.querySelector('#search-results .search-summary')?.textContent)")
    return tab.eval_on_selector_all("#search-results li > a", "links => links.map(link => link.href)")


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("reparameterisation", "06_reparameterization"),
        ("reparametrization", "06_reparameterization"),
        ("amortised", "07_stochastic_vi"),
        ("marginal likelihood", "02_evidence"),
        ("forward KL", "03_kl_divergence"),
        ("reverse KL", "03_kl_divergence"),
        ("blurry", "12_what_it_learnt"),
        ("VAE loss", "10_objective"),
        ("REINFORCE", "05_score_function"),
        ("后验", "glossary"),
    ],
)
def test_what_people_type_finds_its_page(query, page, html, tab):
    results = found(tab, html, query)
    assert any(page in result for result in results[:10]), results[:10]


def test_a_result_ends_at_its_word(html, tab):
    results = found(tab, html, "uncentred")
    link = next(result for result in results if "05_score_function" in result)
    assert parse_qs(urlsplit(link).query)["highlight"] == ["uncentred"]
    tab.goto(link)
    word = tab.wait_for_selector("span.highlighted")
    tab.wait_for_timeout(500)  # what arrives late must not move it away
    place = tab.evaluate("[...document.querySelectorAll('.highlighted')].map(e => e.getBoundingClientRect().top)")
    assert "uncentred" in word.text_content().lower()
    assert any(0 < top < 900 for top in place), place


def test_a_result_from_a_server_shows_words_and_no_markup(html, tab):
    handler = partial(QuietHandler, directory=str(html))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        tab.goto(f"http://127.0.0.1:{server.server_port}/search.html?q=posterior")
        tab.wait_for_selector("#search-results p.context")
        tab.wait_for_timeout(1000)  # the pages behind the results arrive one by one
        shown = tab.eval_on_selector_all("#search-results p.context", "all => all.map(p => p.textContent)")
        server.shutdown()
    assert len(shown) > 10
    assert any("posterior" in text.lower() for text in shown)
    report([text for text in shown if any(mark in text for mark in ("\\", "$", "{", "_{", "^{"))])


def test_a_word_in_a_folded_solution_is_unfolded(html, tab):
    tab.goto((html / "book" / "08_autoencoders.html").as_uri() + "?highlight=Lagrange")
    word = tab.wait_for_selector("span.highlighted", state="visible")
    tab.wait_for_timeout(500)
    assert 0 < word.bounding_box()["y"] < 900


def test_a_page_without_a_query_is_left_alone(html, tab):
    tab.goto((html / "book" / "08_autoencoders.html").as_uri())
    assert tab.locator("span.highlighted").count() == 0
    assert tab.evaluate("scrollY") == 0


# --- Sharing ---------------------------------------------------------------------------------------------------------


def describes_itself(path):
    """A sentence or two in the head, in words, and a title; an icon for the tab."""
    page = soup(path)
    tags = page.select("meta[name=description]")
    text = tags[0]["content"] if len(tags) == 1 else ""
    problems = [] if 20 < len(text) <= 320 or page.html["lang"].startswith("zh") else [f"description: {text!r}"]
    problems += [f"markup in the description: {text!r}"] if any(mark in text for mark in "\\{}$`") else []
    icon = page.select_one("link[rel~=icon]")
    return problems + ([] if icon and (path.parent / icon["href"]).exists() else ["no icon"])


@every_page
def test_a_page_describes_itself(page, html):
    report(describes_itself(html / page))


def test_chapters_describe_themselves_differently(html):
    said = [
        soup(html / page).select_one("meta[name=description]")["content"] for page in BOOK if page.stem[:2].isdigit()
    ]
    assert len(set(said)) == len(said) > 10


def sizes_its_images(path):
    """Width and height as the file has them; all but the first wait until they are near."""
    problems = []
    for number, image in enumerate(soup(path).select("article img")):
        file = (path.parent / image["src"]).resolve()
        with Image.open(file) as opened:
            if [image.get("width"), image.get("height")] != [str(size) for size in opened.size]:
                problems.append(f"{file.name}: {image.get('width')} x {image.get('height')}, the file {opened.size}")
        if number and image.get("loading") != "lazy":
            problems.append(f"{file.name} does not wait")
    return problems


@every_page
def test_images_have_sizes(page, html):
    report(sizes_its_images(html / page))


@pytest.mark.parametrize("attributes", ['width="9" height="8"', ""])
def test_an_image_without_its_size_is_refused(attributes, tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.html").write_text(f'<article><img src="a.png" {attributes}></article>')
    assert sizes_its_images(tmp_path / "a.html")


# --- Printing and headings -------------------------------------------------------------------------------------------


def test_a_chapter_prints_all_its_code_and_solutions(html, tab):
    tab.goto((html / "book" / "04_elbo.html").as_uri())
    closed = "[...document.querySelectorAll('article details')].filter(d => !d.open).length"
    folded = "document.querySelectorAll('article .toggle-hidden').length"
    before = tab.evaluate(closed), tab.evaluate(folded)
    assert sum(before) > 0
    tab.emulate_media(media="print")
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert (tab.evaluate(closed), tab.evaluate(folded)) == (0, 0)
    tab.set_viewport_size({"width": 700, "height": 1000})  # a sheet of A4
    clipped = "[...document.querySelectorAll('article pre')].filter(p => p.scrollWidth > p.clientWidth + 1).length"
    assert tab.evaluate(clipped) == 0
    hidden = "['.bd-sidebar-primary', '.bd-header-article'].filter(s => document.querySelector(s)?.checkVisibility())"
    assert tab.evaluate(hidden) == []
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert (tab.evaluate(closed), tab.evaluate(folded)) == before


def test_headings_get_smaller_and_not_heavier(html, tab):
    tab.goto((html / "book" / "04_elbo.html").as_uri())
    style = (
        "s => { const c = getComputedStyle(document.querySelector('article ' + s)); return [c.fontSize, c.fontWeight] }"
    )
    looks = [tab.evaluate(style, name) for name in ("h1", "h2", "h3")]
    sizes = [float(size.removesuffix("px")) for size, _ in looks]
    weights = [int(weight) for _, weight in looks]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert weights == sorted(weights, reverse=True) or len(set(weights)) == 1
