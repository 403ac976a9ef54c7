"""The explorables: their numbers are the package's, and a reader can move them by key, with and without a server.

Every element of book/_static/explorables gives its numbers by a pure function, `state(parameters)`. Here it is called in a
browser on a grid of parameters and compared with the package. The pages are test pages with one element each: the built
book is not needed.
"""

import base64
import functools
import http.server
import itertools
import math
import re
import sys
import threading
from pathlib import Path

import pytest
import scipy.stats
import torch

from conftest import ROOT
from vae_tutorial import aggregated, families, full_gaussian, gaussian, gradients, linear_gaussian, networks

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


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


@functools.cache
def ability():
    """The model and the student of the data file."""
    facts = {name: doubles(values) for name, values in export.read("ability").items()}
    weight = facts["weight"][:, None]
    return linear_gaussian.FactorAnalysis(weight, facts["bias"], facts["log_var"]), facts["x"][None]


def elbo_gap(mu, log_sigma):
    model, x = ability()
    posterior = linear_gaussian.posterior(model, x)
    return {
        "mu": mu,
        "sigma": math.exp(log_sigma),
        "posterior_mean": posterior.mean,
        "posterior_sigma": posterior.covariance.sqrt(),
        "log_p": linear_gaussian.log_evidence(model, x),
        "elbo": linear_gaussian.elbo(model, x, doubles([[mu]]), doubles([[2 * log_sigma]])),
        "kl": linear_gaussian.kl_to_posterior(model, x, doubles([[mu]]), doubles([[2 * log_sigma]])),
    }


def kl_directions(mu, log_sigma):
    target = export.read("two_modes")
    weights, means, sigmas = (doubles(target[name]) for name in ("weights", "means", "sigmas"))
    mean = weights @ means
    variance = weights @ (sigmas.square() + means.square()) - mean.square()

    def log_target(z):
        parts = gaussian.log_prob(z[:, None], means[:, None], 2 * sigmas[:, None].log()) + weights.log()
        return parts.logsumexp(1)

    def log_q(z):
        return gaussian.log_prob(z, doubles([mu]), doubles([2 * log_sigma]))

    def kl(log_a, log_b, centre, reach):  # the average of a's log-ratio over a fine grid
        z = torch.linspace(centre - reach, centre + reach, 20_001, dtype=torch.float64)[:, None]
        log_ratio = log_a(z) - log_b(z)
        return (log_a(z).exp() * log_ratio).sum() * 2 * reach / 20_000

    return {
        "mu": mu,
        "sigma": math.exp(log_sigma),
        "target_mean": mean,
        "target_sigma": variance.sqrt(),
        "reverse_kl": kl(log_q, log_target, mu, 11 * math.exp(log_sigma)),
        "forward_kl": kl(log_target, log_q, 0.0, 12.0),
    }


def mean_field(rho, degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = doubles([[c, -s], [s, c]])
    covariance = turn @ doubles([[1, rho], [rho, 1]]) @ turn.T
    fitted = 1 / torch.linalg.inv(covariance).diagonal()  # coordinate by coordinate, q's precision is the posterior's
    zero = torch.zeros(2, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    return {
        "rho": rho,
        "degrees": degrees,
        "covariance": [covariance[0, 0].item(), covariance[0, 1].item(), covariance[1, 1].item()],
        "correlation": covariance[0, 1] / covariance.diagonal().prod().sqrt(),
        "fitted_variances": fitted,
        "variance_ratio": (fitted / covariance.diagonal())[0],
        "gap": full_gaussian.kl(zero, fitted.sqrt().diag(), zero, factor),
    }


def noisy_gradients(log2_samples, offset, rough):
    samples = 2**log2_samples
    eps = doubles(export.read("noise")["eps"]).view(-1, samples).T[..., None]  # (K, B, 1), B estimates from K samples
    model, student = ability()
    x = student.expand(eps.shape[1], -1)
    posterior = linear_gaussian.posterior(model, x)
    mu = posterior.mean + 0.25 * rough
    log_var = (posterior.covariance.log() + 2 * rough * math.log(2)).expand_as(mu)
    z = gaussian.reparameterize(eps, mu, log_var)
    log_w = linear_gaussian.log_joint(model, x, z) - gaussian.log_prob(z, mu, log_var) + offset
    found = {
        "score": gradients.score_function(log_w, z, mu, log_var),
        "baseline": gradients.score_function(log_w, z, mu, log_var, baseline=gradients.leave_one_out(log_w)),
        "path": gradients.pathwise(lambda z: linear_gaussian.log_joint(model, x, z), eps, mu, log_var),
    }
    estimates = {name: gradient.mu.mean(0) for name, gradient in found.items()}
    deviation = {name: values.std() for name, values in estimates.items()}
    free = mu.clone().requires_grad_()
    (exact,) = torch.autograd.grad(linear_gaussian.elbo(model, x, free, log_var).sum(), free)
    return {
        "mu": mu[0],
        "sigma": (0.5 * log_var[0]).exp(),
        "offset": offset,
        "samples": samples,
        "gradient": exact[0],
        "means": [values.mean().item() for values in estimates.values()],
        **{f"{name}_deviation": value for name, value in deviation.items()},
        "score_factor": (deviation["score"] / deviation["path"]) ** 2,
        "baseline_factor": (deviation["baseline"] / deviation["path"]) ** 2,
    }


def information_misfit(**parameters):
    mu = doubles([[parameters[f"mu{n}"]] for n in (1, 2, 3)])
    log_sigma = doubles([[parameters[f"log_sigma{n}"]] for n in (1, 2, 3)])
    found = aggregated.integrals(families.MeanField(mu, 2 * log_sigma), num_points=2001)
    return {
        **parameters,
        "sigmas": log_sigma.exp(),
        "mean_kl": found.mean_kl,
        "information": found.mutual_information,
        "misfit": found.marginal_kl,
        "most_information": math.log(3),
    }


@functools.cache
def plane():
    """The codes, their classes, and the decoder with the weights that the page has."""
    codes, layers = export.read("codes"), export.read("decoder")["layers"]
    network = networks.MLPDecoder((1, 28, 28), num_latents=2, num_hidden=128).double()
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    for layer, stored in zip(linear, layers, strict=True):
        whole = torch.frombuffer(bytearray(base64.b64decode(stored["weight"])), dtype=torch.int8)
        layer.weight.data = whole.view(layer.weight.shape) * doubles(stored["scale"])[:, None]
        layer.bias.data = doubles(stored["bias"])
    return doubles(codes["z"]).view(-1, 2), torch.tensor(codes["labels"]), network


def latent_plane(z1, z2):
    codes, labels, network = plane()
    z = doubles([z1, z2])
    distances = (codes - z).square().sum(1).sqrt()
    nearest = distances.argmin()
    zero = torch.zeros(2, dtype=torch.float64)
    return {
        "z1": z1,
        "z2": z2,
        "log_prior": gaussian.log_prob(z, zero, zero),
        "codes_near": (distances <= 0.5).sum(),
        "codes_expected": len(codes) * scipy.stats.ncx2.cdf(0.25, 2, z1**2 + z2**2),
        "nearest_distance": distances[nearest],
        "nearest_class": labels[nearest],
        "image": network(z[None]).detach().sigmoid(),
    }


EXPECTED = {  # for each element: what the package computes, a grid of parameters, and the largest error allowed
    "elbo-gap": (elbo_gap, grid(mu=[-2.0, 0.3, 1.9492, 4.0], log_sigma=[-1.5, -1.16, 0.0, 0.7]), 1e-9),
    "information-misfit": (
        information_misfit,
        grid(
            mu1=[-4.0, -1.0],
            mu2=[0.1],
            mu3=[1.0, 4.0],
            log_sigma1=[-1.6, -0.5],
            log_sigma2=[-1.6],
            log_sigma3=[0.5, -0.4],
        )
        + [{f"{name}{n}": 0.0 for n in (1, 2, 3) for name in ("mu", "log_sigma")}],
        1e-9,
    ),
    "kl-directions": (kl_directions, grid(mu=[-4.0, -2.0, 0.3, 4.0], log_sigma=[-0.7, 0.0, 0.68, 1.2]), 1e-9),
    "latent-plane": (latent_plane, grid(z1=[-4.0, -0.31, 0.7, 4.0], z2=[-4.0, -1.3, 0.2, 2.05]), 1e-9),
    "mean-field": (mean_field, grid(rho=[-0.95, -0.4, 0.0, 0.9], degrees=[0, 20, 45, 90]), 1e-9),
    "noisy-gradients": (
        noisy_gradients,
        grid(log2_samples=[1, 3, 6], offset=[-50, 0, 22], rough=[0.0, 0.4, 1.0]),
        1e-9,
    ),
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
FLAT = """tag => Object.values(document.querySelector(tag).state()).filter(v => !(v.length > 9)).flat()"""
PICTURE = """tag => document.querySelector(tag).shadowRoot.querySelector(".picture").innerHTML"""
SETTLE = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@every_element
def test_what_is_shown_is_the_state(tag, open_page):
    page = open_page(tag)
    known = page.evaluate(FLAT, tag)
    shown = page.evaluate(NUMBERS, tag)
    assert shown
    for text in shown:
        number = re.search(r"-?\d+(\.\d+)?", text.replace("\u2212", "-"))[0]
        digits = len(number.partition(".")[2])
        assert min(abs(float(number) - value) for value in known) <= 0.5 * 10**-digits + 1e-9, text


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
        heard = set()
        for key in ("Home", "End"):
            slider.press(key)
            page.evaluate(SETTLE)
            heard.add(slider.get_attribute("aria-valuetext"))
        assert len(heard | {spoken}) > 1
        assert page.locator(f"{tag} output[for={name}]").inner_text() == slider.get_attribute("aria-valuetext")


@every_element
def test_the_buttons_go_where_they_say(tag, open_page):
    page = open_page(tag)
    lowest = (
        "Object.fromEntries(Object.entries(explorables.elements[tag].parameters).map(([name, p]) => [name, p.min]))"
    )
    reached = []
    for button in page.locator(f"{tag} .buttons button").all():
        page.evaluate(f"tag => document.querySelector(tag).set({lowest})", tag)
        before = page.evaluate("tag => document.querySelector(tag).parameters", tag)
        button.focus()
        button.press("Enter")
        page.evaluate(SETTLE)
        reached.append(page.evaluate("tag => document.querySelector(tag).parameters", tag))
        assert reached[-1] != before, button.inner_text()
    assert all(a != b for a, b in itertools.combinations(reached, 2))


def boxes(page, tag, *names):
    """The boxes of drawn things, in pixels of the page, and the state they should show."""
    page.evaluate(SETTLE)
    found = [page.locator(f"{tag} .picture .{name}").first.bounding_box() for name in names]
    return found, page.evaluate("tag => document.querySelector(tag).state()", tag)


def test_the_bars_are_as_long_as_the_numbers_say(open_page):
    page = open_page("elbo-gap")
    (elbo, kl), now = boxes(page, "elbo-gap", "elbo", "kl")
    assert kl["x"] == pytest.approx(elbo["x"] + elbo["width"], abs=0.6)
    assert elbo["width"] / kl["width"] == pytest.approx((now["elbo"] + 46) / now["kl"], rel=0.02)
    end = kl["x"] + kl["width"]
    page.locator("elbo-gap .buttons button").nth(1).click()
    (elbo, kl), now = boxes(page, "elbo-gap", "elbo", "kl")
    assert elbo["width"] / kl["width"] == pytest.approx((now["elbo"] + 46) / now["kl"], rel=0.06)
    assert kl["x"] + kl["width"] == pytest.approx(end, abs=0.6)  # the sum does not move

    page = open_page("information-misfit")
    page.locator("information-misfit .buttons button").nth(2).click()
    (information, misfit), now = boxes(page, "information-misfit", "information", "misfit")
    assert misfit["x"] == pytest.approx(information["x"] + information["width"], abs=0.6)
    assert information["width"] / misfit["width"] == pytest.approx(now["information"] / now["misfit"], rel=0.02)


def test_the_ellipses_are_the_gaussians(open_page):
    page = open_page("mean-field")
    page.evaluate("document.querySelector('mean-field').set({rho: 0.8, degrees: 20})")
    (_, fit), now = boxes(page, "mean-field", "posterior", "fit")
    drawn = page.locator("mean-field .picture .posterior").first
    a, b = float(drawn.get_attribute("rx")), float(drawn.get_attribute("ry"))
    angle = -math.radians(
        float(re.search(r"rotate\((.*)\)", drawn.get_attribute("transform"))[1])
    )  # the page's y points down
    c, s = math.cos(angle), math.sin(angle)
    covariance = [(a * c) ** 2 + (b * s) ** 2, (a**2 - b**2) * c * s, (a * s) ** 2 + (b * c) ** 2]
    scale = covariance[0] / now["covariance"][0]  # square pixels
    assert covariance == pytest.approx([scale * value for value in now["covariance"]])
    assert [fit[name] for name in ("width", "height")] == pytest.approx(
        [2 * math.sqrt(scale * value) for value in now["fitted_variances"]], abs=4
    )


def test_a_peak_can_be_dragged(open_page):
    page = open_page("information-misfit")
    before = page.evaluate("document.querySelector('information-misfit').state()")
    box = page.locator("information-misfit .handle").nth(1).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y - 40, steps=4)
    page.mouse.up()
    page.evaluate(SETTLE)
    after = page.evaluate("document.querySelector('information-misfit').state()")
    moved = page.locator("information-misfit .handle").nth(1).bounding_box()
    assert (moved["x"] - box["x"], moved["y"] - box["y"]) == pytest.approx((80, -40), abs=1.5)
    assert after["mu2"] > before["mu2"] + 0.5
    assert after["sigmas"][1] < before["sigmas"][1]
    assert [after[name] for name in ("mu1", "mu3")] == [before[name] for name in ("mu1", "mu3")]


def test_the_plane_can_be_dragged_and_pointed_at(open_page):
    page = open_page("latent-plane")
    state = "document.querySelector('latent-plane').state()"
    box = page.locator("latent-plane .ground").bounding_box()

    def spot(z1, z2):
        return box["x"] + (z1 + 4) / 8 * box["width"], box["y"] + (4 - z2) / 8 * box["height"]

    def now():
        page.evaluate(SETTLE)
        found = page.evaluate(state)
        return found["z1"], found["z2"]

    page.mouse.move(*spot(*now()))
    page.mouse.down()
    page.mouse.move(*spot(2, -1), steps=4)
    page.mouse.up()
    assert now() == pytest.approx((2, -1), abs=0.05)
    page.mouse.click(*spot(-2, 3))
    assert now() == pytest.approx((-2, 3), abs=0.05)
    page.mouse.move(*spot(-2, 3))
    page.mouse.down()
    page.mouse.move(*spot(9, 9), steps=4)
    page.mouse.up()
    assert now() == pytest.approx((4, 4))
    image = page.evaluate(f"{state}.image")
    drawn = page.evaluate("""() => {
        const canvas = document.querySelector("latent-plane").shadowRoot.querySelector("canvas");
        return [...canvas.getContext("2d").getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0);
    }""")
    assert max(abs(255 * a - b) for a, b in zip(image, drawn, strict=True)) <= 1


def test_a_finger_moves_the_point_and_scrolls_the_page(open_page):
    page = open_page("latent-plane", viewport={"width": 390, "height": 844}, has_touch=True)
    box = page.locator("latent-plane .ground").bounding_box()
    page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"])
    page.evaluate(SETTLE)
    found = page.evaluate("document.querySelector('latent-plane').state()")
    assert (found["z1"], found["z2"]) == pytest.approx((2, -2), abs=0.05)
    touch = "e => getComputedStyle(document.querySelector('latent-plane').shadowRoot.querySelector(e)).touchAction"
    assert page.evaluate(touch, ".handle") == "none"
    assert page.evaluate(touch, ".ground") == "auto"


def test_the_optima_are_optima(open_page):
    """Where the buttons of the two directions lead, every small step makes that direction larger."""
    page = open_page("kl-directions")
    optima = [(*optimum, "reverse_kl") for optimum in export.read("two_modes")["optima"]]
    found = kl_directions(0.0, 0.0)
    optima.append((float(found["target_mean"]), math.log(found["target_sigma"]), "forward_kl"))
    for mu, log_sigma, name in optima:
        steps = [(0, 0), (1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)]
        around = [{"mu": mu + a, "log_sigma": log_sigma + b} for a, b in steps]
        states = page.evaluate("grid => grid.map(explorables.elements['kl-directions'].state)", around)
        best, *others = [state[name] for state in states]
        assert min(others) > best, name


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
def test_it_fits_and_is_drawn_anew_when_the_width_changes(tag, open_page):
    page = open_page(tag)
    for width in (900, 390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_function(
            "([tag, width]) => Math.abs(document.querySelector(tag).width - width + 66) < 2", arg=[tag, width]
        )
        assert page.evaluate(OUTSIDE, tag) == [], width
        for slider in page.locator(f"{tag} input[type=range]").all():
            for key in ("Home", "End"):
                slider.press(key)
                page.evaluate(SETTLE)
                assert page.evaluate(OUTSIDE, tag) == [], (width, slider.get_attribute("id"), key)


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
    own += [export.path(name) for name in data_of(tag) if name != "decoder"]
    assert sum(file.stat().st_size for file in own) <= COUNTED


def test_every_element_is_listed_and_tested():
    own = {file.stem for file in FOLDER.glob("*.js")} - {"load", "shared"}
    assert own == set(TAGS) == set(EXPECTED)
    assert {name for tag in TAGS for name in data_of(tag)} == set(export.EXPORTS)
    assert {file.stem for file in (FOLDER / "data").iterdir()} == set(export.EXPORTS)


USED = re.compile(r"<([a-z]+(?:-[a-z]+)+)>(.*?)</\1>", re.S)


def misplaced(tags, texts):
    """Elements of the book that load.js does not know or that say nothing without scripts; elements placed nowhere."""
    uses = [(name, *use) for name, text in texts.items() for use in USED.findall(text)]
    problems = [f"{name}: load.js does not know <{tag}>" for name, tag, _ in uses if tag not in tags]
    problems += [
        f"{name}: <{tag}> is empty without scripts" for name, tag, text in uses if not re.search(r"\w{3}", text)
    ]
    return problems + [f"no page places <{tag}>" for tag in sorted(set(tags) - {tag for _, tag, _ in uses})]


def test_every_element_is_placed_and_says_something_without_scripts():
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
    assert misplaced(TAGS, {path.name: path.read_text(encoding="utf-8") for path in sources}) == []


def test_the_guard_of_the_places_fails_on():
    assert misplaced(["a-b"], {"x.md": "<a-b>a picture</a-b>"}) == []
    assert misplaced(["a-b", "c-d-e"], {"x.md": "<a-b>a picture</a-b>"}) == ["no page places <c-d-e>"]
    assert misplaced(["a-b"], {"x.md": "<a-b>a picture</a-b> <c-d-e>a picture</c-d-e>"})
    assert misplaced(["a-b"], {"x.md": "<a-b> </a-b>"})


def test_every_element_has_a_picture_that_stands_still():
    stills = {file.stem: file.stat().st_size for file in (FOLDER / "still").iterdir()}
    assert set(stills) == set(TAGS)
    assert max(stills.values()) <= COUNTED


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
