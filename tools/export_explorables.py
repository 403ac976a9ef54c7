"""What the explorables of book/_static/explorables draw, computed by the package and written beside them.

    python tools/export_explorables.py              every file
    python tools/export_explorables.py ability …    these
    python tools/export_explorables.py stills       the pictures that stand still

A data file is one call with JSON in it, `explorables.data.NAME = {…};`, because a page opened from the disk may load a
script and not JSON.
"""

import base64
import functools
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vae_tutorial import data, gaussian, linear_gaussian, models, training

FOLDER = Path(__file__).resolve().parents[1] / "book" / "_static" / "explorables" / "data"


def ability() -> dict[str, Any]:
    """The ability model of chapter 4, and the marks of its student 1."""
    x, _ = data.exam_marks()
    start = linear_gaussian.FactorAnalysis(
        weight=torch.ones(5, 1, dtype=torch.float64),
        bias=x.mean(0),
        log_var=x.var(0, correction=0).log(),
    )
    model, _ = linear_gaussian.em(start, x, num_steps=200)
    return {
        "weight": model.weight[:, 0].tolist(),
        "bias": model.bias.tolist(),
        "log_var": model.log_var.tolist(),
        "x": x[0].tolist(),
    }


def noise() -> dict[str, Any]:
    """Standard normal numbers, to three decimals: the same for every estimator."""
    eps = torch.randn(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"eps": [round(value, 3) for value in eps.tolist()]}


def two_modes() -> dict[str, Any]:
    """The target of chapter 3, and the two Gaussians at which KL(q || p) has a minimum."""
    weights, means, sigmas = [0.7, 0.3], [-2.0, 2.0], [0.8, 0.6]
    parts = [torch.tensor(values, dtype=torch.float64) for values in (weights, means, sigmas)]
    cell = 24 / 2400
    z = cell * (torch.arange(2400, dtype=torch.float64) + 0.5)[:, None] - 12
    log_parts = gaussian.log_prob(z[:, None], parts[1][:, None], 2 * parts[2][:, None].log()) + parts[0].log()
    log_p = log_parts.logsumexp(1)

    def reverse_kl(q: torch.Tensor) -> torch.Tensor:
        log_q = gaussian.log_prob(z, q[:1], 2 * q[1:])
        return cell * (log_q.exp() * (log_q - log_p)).sum()

    optima = []
    for mean, sigma in zip(means, sigmas, strict=True):
        q = torch.tensor([mean, math.log(sigma)], dtype=torch.float64)
        for _ in range(20):  # Newton's method, from the mode
            slope = torch.autograd.functional.jacobian(reverse_kl, q)
            q = q - torch.linalg.solve(torch.autograd.functional.hessian(reverse_kl, q), slope)
        optima.append(q.tolist())
    return {"weights": weights, "means": means, "sigmas": sigmas, "optima": optima}


@functools.cache
def garments() -> models.VAE:
    """A VAE with two latents and one hidden layer on each side, trained on the bundled images in a quarter of a minute."""
    torch.manual_seed(0)
    vae = models.mlp_vae((1, 28, 28), num_latents=2, num_hidden=128)
    x = data.binarize(data.fashion_mnist("train").images, generator=torch.Generator().manual_seed(0)).float()
    settings = training.Optimization(batch_size=100, learning_rate=2e-3, schedule=training.warmup_cosine)
    training.fit(vae, x, num_epochs=50, optimization=settings, execution=training.Execution(progress=False))
    return vae


def codes() -> dict[str, Any]:
    """Where the encoder puts the 1,000 test images, and their classes."""
    test = data.fashion_mnist("test")
    x = data.binarize(test.images, generator=torch.Generator().manual_seed(1)).float()
    means = garments().encode(x).mean.detach()
    return {"z": [round(value, 2) for value in means.flatten().tolist()], "labels": test.labels.tolist()}


def decoder() -> dict[str, Any]:
    """The decoder's two layers. A row of weights is whole numbers from -127 to 127, in base64, times the row's scale."""
    layers = [layer for layer in garments().decoder if isinstance(layer, torch.nn.Linear)]
    result = []
    for layer in layers:
        scale = layer.weight.detach().abs().amax(1) / 127
        whole = (layer.weight.detach() / scale[:, None]).round().to(torch.int8)
        result.append(
            {
                "weight": base64.b64encode(whole.numpy().tobytes()).decode("ascii"),
                "scale": [float(f"{value:.6g}") for value in scale.tolist()],
                "bias": [round(value, 4) for value in layer.bias.tolist()],
            }
        )
    return {"layers": result}


EXPORTS: dict[str, Callable[[], dict[str, Any]]] = {
    function.__name__: function for function in (ability, noise, two_modes, codes, decoder)
}
TRAINED = frozenset({"codes", "decoder"})  # another processor would train other digits


def path(name: str) -> Path:
    return FOLDER / f"{name}.js"


def text(name: str, content: dict[str, Any]) -> str:
    return f"explorables.data.{name} = {json.dumps(content, separators=(',', ':'))};\n"


def read(name: str) -> dict[str, Any]:
    """The content of a data file, as the page has it."""
    script = path(name).read_text(encoding="utf-8")
    return json.loads(script.removeprefix(f"explorables.data.{name} = ").removesuffix(";\n"))


def draw_stills() -> None:
    """A picture of each element as it begins, for paper and where there is no JavaScript. Needs playwright and Chromium."""
    from playwright.sync_api import sync_playwright

    folder = FOLDER.parent
    tags = sorted({file.stem for file in folder.glob("*.js")} - {"load", "shared"})
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as place:
        executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))))
        page = playwright.chromium.launch(executable_path=executable).new_page(
            viewport={"width": 720, "height": 900}, device_scale_factor=2
        )
        for tag in tags:
            file = Path(place) / "page.html"
            script = f'<meta charset="utf-8"><script defer src="{(folder / "load.js").as_uri()}"></script>'
            file.write_text(f"<!DOCTYPE html>{script}<{tag}></{tag}>", encoding="utf-8")
            page.goto(file.as_uri())
            page.wait_for_function("tag => document.querySelector(tag).frame === null", arg=tag)
            still = folder / "still" / f"{tag}.png"
            box = page.locator(f"{tag} .picture").bounding_box()
            edge = 10  # numbers of an axis stand out a little
            clip = {"x": box["x"] - edge, "y": box["y"], "width": box["width"] + 2 * edge, "height": box["height"] + 4}
            page.screenshot(path=still, clip=clip)
            with Image.open(still) as image:  # few colours: a third of the bytes
                image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(still, optimize=True)
            print(f"{still}: {still.stat().st_size} bytes")


if __name__ == "__main__":
    for name in sys.argv[1:] or EXPORTS:
        if name == "stills":
            draw_stills()
            continue
        path(name).write_text(text(name, EXPORTS[name]()), encoding="utf-8")
        print(f"{path(name)}: {path(name).stat().st_size} bytes")
