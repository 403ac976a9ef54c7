"""The explorables: their numbers are the package's, and a reader can move them by key, with and without a server.

Every element of book/_static/explorables gives its numbers by a pure function, `state(parameters)`. Here it is called in a
browser on a grid of parameters and compared with the package. The pages are test pages with one element each: the built
book is not needed.
"""

import functools
import http.server
import itertools
import math
import re
import sys
import threading
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from vae_tutorial import linear_gaussian

sys.path.insert(0, str(ROOT / "tools"))
import export_explorables as export

STATIC = ROOT / "book" / "_static"
FOLDER = STATIC / "explorables"
TAGS = sorted(re.findall(r'^    "([a-z-]+)": \[', (FOLDER / "load.js").read_text(encoding="utf-8"), re.M))
every_element = pytest.mark.parametrize("tag", TAGS)
every_data_file = pytest.mark.parametrize("name", sorted(export.EXPORTS))
COUNTED = 60_000  # bytes of own code and data


def data_of(tag):
    """The names of the data files that load.js gives an element."""
    listed = re.search(rf'^    "{tag}": \[(.*)\]', (FOLDER / "load.js").read_text(encoding="utf-8"), re.M)
    return re.findall(r'"(\w+)"', listed[1])


# --- What the package says -------------------------------------------------------------------------------------------


def grid(**axes):
    """Every combination: grid(a=[1, 2], b=[3]) is [{a: 1, b: 3}, {a: 2, b: 3}]."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def column(value):
    return torch.tensor([[value]], dtype=torch.float64)


def elbo_gap(mu, log_sigma):
    facts = export.ability()
    model = linear_gaussian.FactorAnalysis(
        *(torch.tensor(facts[name], dtype=torch.float64) for name in ("weight", "bias", "log_var"))
    )
    model = model._replace(weight=model.weight[:, None])
    x = torch.tensor(facts["x"], dtype=torch.float64)[None]
    posterior = linear_gaussian.posterior(model, x)
    return {
        "mu": mu,
        "sigma": math.exp(log_sigma),
        "posterior_mean": posterior.mean,
        "posterior_sigma": posterior.covariance.sqrt(),
        "log_p": linear_gaussian.log_evidence(model, x),
        "elbo": linear_gaussian.elbo(model, x, column(mu), column(2 * log_sigma)),
        "kl": linear_gaussian.kl_to_posterior(model, x, column(mu), column(2 * log_sigma)),
    }


EXPECTED = {  # for each element: what the package computes, a grid of parameters, and the largest error allowed
    "elbo-gap": (elbo_gap, grid(mu=[-2.0, 0.3, 1.9492, 4.0], log_sigma=[-1.5, -1.16, 0.0, 0.7]), 1e-9),
}


def differences(found, expected):
    """The largest difference of each number; one that is missing on either side counts as infinite."""
    result = dict.fromkeys(found.keys() ^ expected.keys(), math.inf)
    for name in found.keys() & expected.keys():
        wanted = torch.as_tensor(expected[name], dtype=torch.float64).flatten()
        given = torch.tensor(found[name], dtype=torch.float64).flatten()
        same = len(given) == len(wanted) and given.isfinite().all()
        result[name] = (given - wanted).abs().max().item() if same else math.inf
    return result


# --- Pages with one element, on a server of this machine -------------------------------------------------------------

FALLBACK = "A picture that stands still."


def page_with(tag, folder, theme="light"):
    element = f"<{tag}><p>{FALLBACK}</p></{tag}>" if tag else "<p>Nothing moves here.</p>"
    return f"""<!DOCTYPE html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>html {{ --pst-color-text-base: {"#222" if theme == "light" else "#ddd"};
--pst-color-text-muted: {"#48566b" if theme == "light" else "#9ca4af"};
--pst-color-background: {"#fff" if theme == "light" else "#14181e"}; }} body {{ margin: 16px; }}</style>
<script defer src="{folder}/load.js"></script></head><body>{element}</body></html>"""


class Server(http.server.SimpleHTTPRequestHandler):
    """The folder of static files, and at /page/TAG/THEME a page with that element."""

    def do_GET(self):
        if not self.path.startswith("/page/"):
            return super().do_GET()
        _, _, tag, theme = self.path.split("/")
        content = page_with(tag if tag != "none" else "", "/explorables", theme).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Server, directory=str(STATIC))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser, address):
    """Opens a page in a context of its own; what goes wrong in it fails the test, and so does a request to elsewhere."""
    contexts, problems, asked = [], [], []

    def visit(tag, theme="light", url=None, *, wait=True, **options):
        options = {"viewport": {"width": 900, "height": 900}, "reduced_motion": "reduce", **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)  # a machine may be busy
        page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url or f"{address}/page/{tag}/{theme}")
        if wait:
            page.wait_for_function(
                "tag => document.querySelector(tag)?.shadowRoot?.querySelector('svg, canvas')", arg=tag
            )
        page.asked = asked
        return page

    yield visit
    for context in contexts:
        context.close()
    inside = (address, "file:", "data:", "blob:")
    assert problems + [f"asks for {url}" for url in asked if not url.startswith(inside)] == []


# --- The tests -------------------------------------------------------------------------------------------------------


@every_element
def test_the_numbers_are_the_packages(tag, open_page):
    expected, parameters, tolerance = EXPECTED[tag]
    page = open_page(tag)
    found = page.evaluate("([tag, grid]) => grid.map(explorables.elements[tag].state)", [tag, parameters])
    worst = {}
    for state, given in zip(found, parameters, strict=True):
        for name, error in differences(state, expected(**given)).items():
            worst[name] = max(worst.get(name, 0.0), error)
    assert {name: error for name, error in worst.items() if error > tolerance} == {}
    element = f"document.querySelector('{tag}')"
    assert page.evaluate(
        f"JSON.stringify({element}.state({{}})) === JSON.stringify(explorables.elements['{tag}'].state())"
    )


NUMBERS = """tag => [...document.querySelector(tag).shadowRoot.querySelectorAll(".number b")].map(e => e.textContent)"""
FLAT = """tag => Object.values(document.querySelector(tag).state()).flat(2).filter(v => typeof v === "number")"""
PICTURE = """tag => document.querySelector(tag).shadowRoot.querySelector(".picture").innerHTML"""
SETTLE = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@every_element
def test_what_is_shown_is_the_state(tag, open_page):
    page = open_page(tag)
    known = page.evaluate(FLAT, tag)
    shown = page.evaluate(NUMBERS, tag)
    assert shown
    for text in shown:
        value = float(re.search(r"-?[\d.]+", text.replace("\u2212", "-").replace(",", ""))[0])
        digits = len(text.rpartition(".")[2].rstrip(" %")) if "." in text else 0
        scaled = [v * (100 if "%" in text else 1) for v in known]
        assert min(abs(value - v) for v in scaled) <= 0.5 * 10**-digits + 1e-9, text


@every_element
def test_a_key_moves_every_slider(tag, open_page):
    page = open_page(tag)
    for slider in page.locator(f"{tag} input[type=range]").all():
        name = slider.get_attribute("id")
        before, picture = page.evaluate("tag => document.querySelector(tag).state()", tag), page.evaluate(PICTURE, tag)
        value, spoken = slider.input_value(), slider.get_attribute("aria-valuetext")
        slider.focus()
        slider.press("ArrowRight" if value != slider.get_attribute("max") else "ArrowLeft")
        page.evaluate(SETTLE)
        assert abs(float(slider.input_value()) - float(value)) == pytest.approx(float(slider.get_attribute("step"))), (
            name
        )
        assert page.evaluate("tag => document.querySelector(tag).state()", tag) != before, name
        assert page.evaluate(PICTURE, tag) != picture, name
        label = page.locator(f"{tag} label[for={name}]").inner_text()
        assert label
        assert spoken
        slider.press("Home"), slider.press("End")
        page.evaluate(SETTLE)
        assert slider.get_attribute("aria-valuetext") != spoken
        assert page.locator(f"{tag} output[for={name}]").inner_text() == slider.get_attribute("aria-valuetext")


@every_element
def test_the_buttons_go_where_they_say(tag, open_page):
    page = open_page(tag)
    for button in page.locator(f"{tag} .buttons button").all():
        before = page.evaluate("tag => ({...document.querySelector(tag).parameters})", tag)
        button.focus()
        button.press("Enter")
        page.evaluate(SETTLE)
        assert page.evaluate("tag => document.querySelector(tag).parameters", tag) != before, button.inner_text()


# What sticks out of the page, and what is cut off or too small to touch.
OUTSIDE = """tag => {
    const root = document.querySelector(tag).shadowRoot, page = document.documentElement, width = page.clientWidth;
    const hidden = ".unseen, clipPath, pattern, [clip-path]";
    const seen = [...root.querySelectorAll(".live *")].filter(e => e.checkVisibility() && !e.closest(hidden));
    const box = e => e.getBoundingClientRect();
    const out = seen.filter(e => box(e).left < -1 || box(e).right > width + 1);
    const small = [...root.querySelectorAll("input, button")].filter(e => box(e).height < 24);
    return [page.scrollWidth > width ? `${page.scrollWidth} px wide` : "",
            ...out.map(e => `${e.tagName} sticks out: ${e.textContent.slice(0, 30)}`),
            ...small.map(e => `${e.tagName} is ${box(e).height} px high`)].filter(Boolean);
}"""


@every_element
@pytest.mark.parametrize("width", [320, 390, 900])
def test_it_fits(tag, width, open_page):
    page = open_page(tag, viewport={"width": width, "height": 844})
    assert page.evaluate(OUTSIDE, tag) == []
    for slider in page.locator(f"{tag} input[type=range]").all():
        for key in ("Home", "End"):
            slider.press(key)
            page.evaluate(SETTLE)
            assert page.evaluate(OUTSIDE, tag) == [], (slider.get_attribute("id"), key)


@every_element
def test_it_is_drawn_anew_when_the_page_changes_its_width(tag, open_page):
    page = open_page(tag)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("tag => document.querySelector(tag).width < 390", arg=tag)
    assert page.evaluate(OUTSIDE, tag) == []


# The contrast of every text with the ground of the element, by the formula of WCAG 2.
CONTRAST = """tag => {
    const root = document.querySelector(tag).shadowRoot;
    const rgb = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
    const light = colour => rgb(colour).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const back = light(getComputedStyle(root.querySelector(".live")).backgroundColor);
    const ratio = e => {
        const style = getComputedStyle(e), front = light(e.closest("svg") ? style.fill : style.color);
        return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    };
    const texts = [...root.querySelectorAll("text, .title, label, output, .number span, .number b, button")];
    return texts.filter(e => ratio(e) < 4.5).map(e => `${ratio(e).toFixed(1)}: ${e.textContent}`);
}"""


@every_element
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_its_text_can_be_read_in_both_themes(tag, theme, open_page):
    page = open_page(tag, theme)
    assert page.evaluate(CONTRAST, tag) == []
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    assert page.locator(f"{tag} .live.dark").count() == (theme == "dark")


@every_element
def test_without_scripts_and_on_paper_the_still_picture_stands(tag, open_page):
    page = open_page(tag, java_script_enabled=False, wait=False)
    assert page.get_by_text(FALLBACK).is_visible()
    page = open_page(tag)
    assert not page.get_by_text(FALLBACK).is_visible()
    page.emulate_media(media="print")
    assert page.get_by_text(FALLBACK).is_visible()


@every_element
def test_it_works_from_the_disk(tag, open_page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page_with(tag, FOLDER.as_uri()), encoding="utf-8")
    page = open_page(tag, url=file.as_uri())
    assert page.evaluate(NUMBERS, tag)


def test_a_page_without_an_element_loads_nothing(open_page, address):
    page = open_page("none", wait=False)
    page.wait_for_load_state("networkidle")
    files = [url.removeprefix(address) for url in page.asked if url.startswith(address)]
    assert files == ["/page/none/light", "/explorables/load.js"]


@every_element
def test_it_is_small(tag):
    own = [FOLDER / f"{tag}.js", FOLDER / "shared.js", FOLDER / "load.js"]
    own += [export.path(name) for name in data_of(tag) if name not in export.TRAINED]
    assert sum(file.stat().st_size for file in own) <= COUNTED


def test_every_element_is_listed_and_tested():
    own = {file.stem for file in FOLDER.glob("*.js")} - {"load", "shared"}
    assert own == set(TAGS) == set(EXPECTED)
    assert {name for tag in TAGS for name in data_of(tag)} == set(export.EXPORTS)
    assert {file.stem for file in (FOLDER / "data").iterdir()} == set(export.EXPORTS)


@every_data_file
def test_the_data_are_what_the_package_computes(name):
    if name in export.TRAINED:
        pytest.skip("trained: another processor trains other digits; the test of the pixels reads the file's weights")
    found, computed = export.read(name), export.EXPORTS[name]()
    assert export.path(name).read_text(encoding="utf-8") == export.text(name, found)
    largest = max(differences(found, computed).values())
    assert largest < 1e-9


def test_the_vendored_library_has_its_licence():
    vendor = FOLDER / "vendor"
    assert {file.name for file in vendor.iterdir()} == {"d3.min.js", "LICENSE"}
    version = re.search(r"d3js\.org v([\d.]+)", (vendor / "d3.min.js").read_text(encoding="utf-8"))[1]
    assert f"d3@{version}" in Path(ROOT / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8")
