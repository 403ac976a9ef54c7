"""The report, its verdicts, and how numbers are put into words."""

import math
from dataclasses import dataclass, field

from vae_tutorial.audit.candidates import Likelihood
from vae_tutorial.audit.fitting import Size
from vae_tutorial.audit.probing import Setting

CORRECT = "correct"
SCALED = "correct up to a constant scale"
BETA = "beta-weighted"
OTHER = "another objective"
LIMITED = "right only in part of its domain"
WRONG = "wrong"
UNKNOWN = "unknown"
UNTESTED = "right as far as it could be tested"


@dataclass(frozen=True)
class Report:
    """What a loss computes, in plain words; ``print(report)`` shows all of it.

    ``verdict`` is one of the module's constants: CORRECT, SCALED (correct up to a constant scale), BETA (beta-weighted),
    OTHER (another objective: free bits, a capacity, another prior, weighted pixels), LIMITED (right only in part of its
    domain), WRONG, UNTESTED (right, but the sampling could not be tried) or UNKNOWN. ``beta`` is None where it has no
    meaning or could not be found.
    """

    verdict: str
    reconstruction: str = "unknown"
    likelihood: str = "unknown"
    decoder_output: str = "unknown"
    targets: str = "unknown"
    kl: str = "unknown"
    second_output: str = "unknown"
    sampling: str = "unknown"
    sign: str = "unknown"
    reductions: tuple[str, ...] = ()
    beta: float | None = None
    noise_variance: float | None = None
    problems: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sizes: str = field(default="", repr=False)

    def __str__(self) -> str:
        lines = [
            ("verdict", self.verdict),
            ("implied beta", "unknown" if self.beta is None else f"{self.beta:.6g}{self.sizes}"),
            ("sign", self.sign),
            ("reconstruction", self.reconstruction),
            ("likelihood", self.likelihood),
            ("decoder output", self.decoder_output),
            ("targets", self.targets),
            ("KL term", self.kl),
            ("second output", self.second_output),
            ("so sample with", self.sampling),
            *(("reductions", line) for line in self.reductions),
            *(("problem", line) for line in self.problems),
            *(("advice", line) for line in self.advice),
            *(("note", line) for line in self.notes),
        ]
        return "\n".join(f"{name + ':':16}{text}" for name, text in lines if text != "unknown" or name == "verdict")


def plain(number: float) -> str:
    """A number in a few digits; what is just below 1 is written as 1 - ..."""
    return f"1 - {1 - number:.2g}" if 0.9995 < number < 1 else f"{number:.4g}"


def clean(number: float, tolerance: float) -> float:
    """The number, or the whole number that it is but for rounding."""
    whole = round(number) + 0.0
    return whole if abs(number - whole) < max(tolerance, 1e-12) else number


# --- Sums, means and names for beta ----------------------------------------------------------------------------------


def _reduction(ratio: float, growth: float, tolerance: float) -> str:
    """What a weight that changes by this ratio, when a size grows by ``growth``, says about that size."""
    known = {"sum": 1.0, "mean": 1 / growth}
    return next((name for name, r in known.items() if abs(ratio / r - 1) < tolerance), "neither sum nor mean")


def reductions(sizes: dict[str, Size], tolerance: float) -> tuple[str, ...]:
    """Sum or mean over each axis for both terms; axes of the image that are treated alike share a line."""
    texts = {}
    for name, size in sizes.items():
        if size.factors is None:
            why = "refuses another size" if size.why == "refused" else "is something else at another size"
            texts[name] = f"not known, the loss {why}"
            continue
        pixels, prior = (_reduction(factor, size.growth, tolerance) for factor in size.factors)
        texts[name] = f"reconstruction {pixels}, KL {prior}"
    axes = [name for name in texts if name.startswith("data axis")]
    if len({texts[name] for name in axes}) == 1:
        pixels_text = texts[axes[0]]
        texts = {"batch": texts["batch"], "pixels": pixels_text, "latents": texts["latents"]}
    return tuple(f"over {name}: {text}" for name, text in texts.items())


def size_notes(sizes: dict[str, Size], tolerance: float) -> list[str]:
    notes = []
    for name, size in sizes.items():
        ratio = _beta_ratio(size)
        if name != "batch" and ratio is not None and abs(ratio - 1) > tolerance:
            what = "latents" if name == "latents" else "pixels"
            notes.append(f"beta holds for this number of {what} only: with another it is another")
    return list(dict.fromkeys(notes))


def _beta_ratio(size: Size) -> float | None:
    """How beta changes with that size."""
    return None if size.factors is None else size.factors.prior / size.factors.pixels


def beta_depends_on_batch(sizes: dict[str, Size], tolerance: float) -> bool:
    ratio = _beta_ratio(sizes["batch"])
    return ratio is not None and abs(ratio - 1) > tolerance


def beta_name(setting: Setting, beta: float, sizes: dict[str, Size]) -> str:
    """What beta is made of, if it has that value and also changes with the sizes as that would; else nothing."""
    pixels, latents, batch = setting.num_pixels, setting.num_latents, setting.batch_size
    known = {  # value, and the powers of D, J and B
        "D, the number of pixels": (pixels, 1, 0, 0),
        "D/J, pixels over latents": (pixels / latents, 1, -1, 0),
        "1/J, one over the latents": (1 / latents, 0, -1, 0),
        "B, the batch size": (batch, 0, 0, 1),
        "1/B, one over the batch size": (1 / batch, 0, 0, -1),
        "D/2, half the pixels": (pixels / 2, 1, 0, 0),
        "D/(2J), half the pixels over the latents": (pixels / latents / 2, 1, -1, 0),
        "B D, batch size times pixels": (batch * pixels, 1, 0, 1),
        "D/B, pixels over batch size": (pixels / batch, 1, 0, -1),
    }

    def follows(of_pixels: int, of_latents: int, of_batch: int) -> bool:
        for name, size in sizes.items():
            power = {"batch": of_batch, "latents": of_latents}.get(name, of_pixels)
            ratio = _beta_ratio(size)
            if (ratio is None and power) or (ratio is not None and abs(ratio / size.growth**power - 1) > 1e-4):
                return False
        return True

    names = (name for name, (value, *powers) in known.items() if abs(beta / value - 1) < 1e-6 and follows(*powers))
    return next((f" (it is {name})" for name in names), "")


# --- The likelihood in words -----------------------------------------------------------------------------------------


def scale_text(likelihood: Likelihood, value: float, origin: str) -> str:
    return "" if likelihood.normalizer is None else f" with {likelihood.scale} {value:.6g} ({origin})"


def scale_note(setting: Setting, common: float, tolerance: float) -> str:
    named = {1.0: "the sum over the batch", 1 / setting.batch_size: "the mean over the batch"}
    for value, name in named.items():
        if abs(common / value - 1) < tolerance:
            return f"both terms: {name}"
    return f"both terms carry the common factor {common:.6g} (harmless: it acts like a learning rate)"


def target_text(setting: Setting, likelihood: Likelihood, *, grey: bool) -> str:
    low, high = setting.span
    if (low, high) != (0, 1):
        return f"from {low:g} to {high:g}: the loss itself brings them to 0 to 1" + ", binary" * likelihood.binary
    if likelihood.binary:
        return "zeros and ones; binarize grey pixels first (or use the continuous Bernoulli)"
    if likelihood.targets == (0, math.inf):
        return "counts"
    return "real numbers, grey pixels included" if grey else "zeros and ones (grey ones are refused)"


def range_note(setting: Setting, lowest: float) -> str:
    wide = 600 if setting.double else 60
    low = f"{lowest:.3g}" if math.isfinite(lowest) else f"-{wide}"
    return f"ranges tried: log sigma^2 from {low} to {wide}, mu to 1e8, the decoder's output to the ends of its domain"
