"""From the fits to a verdict: what the numbers mean, and every finding that keeps a loss from being correct."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_tutorial.audit import fitting, probing, reporting
from vae_tutorial.audit.candidates import NOT_NORMALIZED, PARAMETERS, Likelihood, Parameter
from vae_tutorial.audit.fitting import FAR, LOOSE, Model, PixelFit, PriorFit, Threshold, Weights, spread
from vae_tutorial.audit.probing import Dice, Domain, Group, Probe, Setting, close, first_line, measure
from vae_tutorial.audit.reporting import BETA, CORRECT, LIMITED, OTHER, SCALED, UNKNOWN, UNTESTED, WRONG, Report

_ORDER = (UNKNOWN, WRONG, OTHER, BETA, LIMITED, UNTESTED)
_RIGHT_KL = "write -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over the latents"


class Issue(NamedTuple):
    """One finding that keeps a loss from being correct."""

    verdict: str
    problem: str
    advice: str = ""


def ruling(verdict: str, problem: str, advice: str = "", **known: Any) -> Report:
    """The report of an audit that ends before all questions are answered."""
    return Report(verdict, problems=(problem,), advice=(advice,) if advice else (), **known)


def unanswered(reason: str) -> Report:
    return ruling(UNKNOWN, f"the loss {reason}")


def examine(setting: Setting, first: Probe, noise_variance: float | None) -> Report:
    """The verdict on a loss that can be called."""
    accepted = probing.domain(setting)
    groups = list(probing.groups(setting, accepted))
    reason = probing.mixed_up(setting, first) or next((group.refusal for group in groups if group.refusal), "")
    if accepted.grey:
        reason = reason or probing.unsteady(setting, measure(setting, probing.first_point(setting, grey=True)))
    if reason:
        return unanswered(reason)
    if dead := _dead(setting, groups, first):
        return dead
    if problem := fitting.interaction(setting):
        return ruling(UNKNOWN, f"the loss is not a reconstruction term plus a KL term: {problem}")
    pixels = _identify_pixels(setting, accepted, groups)
    if isinstance(pixels, tuple) and not isinstance(pixels, PixelFit):
        return examine(replace(setting, span=pixels), first, noise_variance)
    if isinstance(pixels, Report):
        return pixels
    prior = _identify_prior(setting, groups, pixels.likelihood)
    return (
        prior if isinstance(prior, Report) else _judge(setting, accepted, groups, Model(pixels, prior), noise_variance)
    )


# --- Recognising the two terms ---------------------------------------------------------------------------------------


def _dead(setting: Setting, groups: list[Group], first: Probe) -> Report | None:
    """Every argument must have a gradient; if one has none, say whether its term is missing or detached."""
    point, value = groups[0].first, groups[0].value
    close_by = measure(setting, point._replace(mu=point.mu / 16))
    sizes = {
        name: max([float(slope.abs().max()), *(float(getattr(g, f"of_{name}").abs().max()) for g in groups)])
        for name, slope in zip(("y", "mu", "second"), close_by.slopes, strict=True)
    }
    dead = [name for name, size in sizes.items() if not size > 1e-12 * max(sizes.values())]
    if not dead:
        return None
    words = {"y": "the decoder's output", "second": "the second output"}
    names = " and ".join(words.get(name, name) for name in dead)
    moved = (measure(setting, point._replace(**{name: getattr(point, name) * 1.1})) for name in dead)
    if any(abs(probe.value - value) > 1e-12 * abs(value) for probe in moved):
        problem = f"the loss has no gradient in {names}, but its value depends on it: a term is detached"
        return ruling(WRONG, problem, "no .item(), .detach(), float() or no_grad: let the tensor itself enter the sum")
    beta = 0.0 if dead == ["mu", "second"] else None
    term = "the reconstruction" if dead == ["y"] else "the KL" if beta is not None else "a part of the loss"
    several = "the first of" in first.form  # such as (reconstruction, KL)
    advice = "return the sum of the terms, or put it first: the audit reads the first result" if several else ""
    return ruling(WRONG, f"{term} is missing: the loss does not depend on {names}", advice, beta=beta)


def _identify_pixels(
    setting: Setting, accepted: Domain, groups: list[Group]
) -> PixelFit | Report | tuple[float, float]:
    """The likelihood, or why there is none, or the range in which the loss wants its targets."""
    best = fitting.best_pixels(groups)
    if best.deviation <= LOOSE:
        return best
    if accepted.real:
        narrow = list(probing.groups(setting, accepted, real=False))
        best = fitting.best_pixels(narrow)
        if best.deviation <= LOOSE and math.isfinite(best.likelihood.domain[0]):
            return best
        if best.deviation <= LOOSE:
            return best._replace(likelihood=best.likelihood._replace(domain=(0, 1)), narrowed=True)
        groups = groups + narrow
    shifted = fitting.shifted_targets(groups)
    if shifted and isinstance(shifted, dict) and setting.span == (0, 1):
        for span in ((-1.0, 1.0), (0.0, 255.0)):
            if all(abs(span[0] + (span[1] - span[0]) * target - value) < 1e-3 for value, target in shifted.items()):
                return span
    problem, advice = _target_problem(shifted)
    if problem:
        return ruling(WRONG, problem, advice)
    reason = fitting.coupling(setting, 0)
    return ruling(UNKNOWN, "no likelihood in the table explains the reconstruction" + f": {reason}" * bool(reason))


def _target_problem(shifted: dict[float, float] | str) -> tuple[str, str]:
    """What is wrong with targets that are replaced inside the loss, and what to do."""
    advice = "compare with the data themselves"
    if shifted == "mixed":
        problem = "a pixel is compared with something other than its own target (shifted, shuffled or blurred?)"
        return problem, advice
    if not isinstance(shifted, dict):
        return ("the targets are changed inside the loss", advice) if shifted else ("", "")
    changes = ", ".join(f"{v:.0f} becomes {t:g}" for v, t in shifted.items() if abs(v - t) > 1e-5)
    problem = f"the targets are changed inside the loss: {changes} (smoothed labels, another scale?)"
    return (problem, f"{advice}, or rescale them before you call the loss") if changes else ("", "")


def _identify_prior(setting: Setting, groups: list[Group], likelihood: Likelihood) -> PriorFit | Report:
    prior = fitting.best_prior(groups)
    if prior.deviation <= LOOSE:
        return prior
    known = {"likelihood": likelihood.name, "decoder_output": likelihood.output}
    for parameter in PARAMETERS:
        if fitting.is_reversed(parameter, groups[0]):
            return ruling(
                WRONG, "the KL runs the wrong way: it is KL(N(0, I) || q), the ELBO has KL(q || N(0, I))",
                "swap the two distributions", second_output=parameter.name, **known,
            )  # fmt: skip
    problem = "no Gaussian KL in the table explains the derivatives in mu and the second output"
    if fitting.best_prior(groups, exchanged=True).deviation <= LOOSE:
        advice = "exchange them: the audit calls loss(x, decoder_output, mu, second)"
        return ruling(UNKNOWN, f"{problem}; with the two exchanged, one does", advice, **known)
    reason = fitting.coupling(setting, 1) or fitting.coupling(setting, 2)
    return ruling(UNKNOWN, problem + f": {reason}" * bool(reason), **known)


# --- Reading the numbers ---------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What the KL's four numbers say: its weight c, and the prior's mean and variance."""

    weight: float
    mean: float
    variance: float

    @property
    def name(self) -> str:
        return f"N({reporting.plain(self.mean)}, {reporting.plain(self.variance)})"

    @property
    def standard(self) -> bool:
        return self.mean == 0 and self.variance == 1


def _read_prior(prior: PriorFit, tolerance: float, *, rough: bool) -> Reading | Report:
    """The KL and the prior that have these four numbers; a ruling if no KL has them."""
    numbers = (prior.square, prior.linear, prior.variance, prior.log)
    size = max(float(number.abs().max()) for number in numbers)
    if max(float(number.max() - number.min()) for number in numbers) > tolerance * size:
        return _uneven_prior(prior, tolerance * size, rough=rough)
    square, linear, variance, log = (float(number.mean()) for number in numbers)
    if abs(square - variance) > tolerance * size or square * log >= 0:
        terms = f"{square:.8g} mu^2, {variance:.8g} sigma^2 and {log:.8g} log sigma^2"
        terms += f", and {linear:.4g} mu" * (abs(linear) > tolerance * size)
        times = variance / square if square * variance > 0 > square * log else None
        remark = f" (unless the variance is {times:.4g} times what that says, in your sampling too)" if times else ""
        if abs(variance) <= tolerance * size and square * log < 0:
            remark = " (is the noise of a sampled KL switched off? Leave it on: the audit averages over it)"
        return ruling(
            WRONG, f"the second term is no KL divergence of a q whose second output is {prior.parameter.name}{remark}: "
            f"it is made of {terms}; a KL to N(0, I) has 1/2, 1/2 and -1/2 times one weight",
            _RIGHT_KL, second_output=prior.parameter.name,
        )  # fmt: skip
    return Reading(
        -2 * log, reporting.clean(-linear / (2 * square), tolerance), reporting.clean(-log / square, tolerance)
    )


def _uneven_prior(prior: PriorFit, tolerance: float, *, rough: bool) -> Report:
    known = {"second_output": prior.parameter.name}
    if rough:
        return ruling(UNKNOWN, "the KL is explained only roughly, with weights that differ", **known)
    total = prior.square.abs() + prior.variance.abs() + prior.log.abs()
    ignored = total < 1e-6 * total.max()
    if ignored.any():
        problem = f"{int(ignored.sum())} of {ignored.numel()} entries (examples times latents) are not in the KL"
        return ruling(WRONG, problem, "sum over all latents of all examples", **known)
    numbers = torch.stack([prior.square, prior.linear, prior.variance, prior.log])  # (4, B, J)
    by_example = float((numbers.amax(1) - numbers.amin(1)).max()) > tolerance
    if not by_example and float((prior.square - prior.variance).abs().max()) < tolerance and spread(prior.log) < 1e-6:
        problem = "the prior is not N(0, I): its mean or its variance is different for each latent"
        return ruling(OTHER, problem, **known)
    who = "examples of a batch" if by_example else "latents"
    advice = "give every latent of every example the same weight"
    return ruling(OTHER, f"in the KL the {who} have different weights", advice, **known)


class Scale(NamedTuple):
    """The likelihood's scale (a variance for the Gaussian), where it comes from, and what is said of constants."""

    value: float
    origin: str
    constants: str
    complete: bool  # whether no constant of either term is missing


def _prior_constant(setting: Setting, reading: Reading) -> float:
    """What KL(q || N(m, v)) has beyond the -1/2 of each latent: (m^2 / v + log v) / 2 each, and 0 for N(0, 1)."""
    if reading.standard:
        return 0.0
    each = (reading.mean**2 / reading.variance + math.log(reading.variance)) / 2
    return reading.weight * setting.batch_size * setting.num_latents * each


def _leftover(setting: Setting, model: Model, seed: int) -> tuple[float, float]:
    """What the loss adds to the two terms with the -1/2 of each latent, and how exactly that is known."""
    probe = measure(setting, fitting.near(setting, Dice(seed), model, 0.3, grey=False))
    modelled = model.value(probe.point) + float(model.prior.log.sum())  # the -1/2 of each latent
    return probe.value - modelled, 10 * setting.strict * (abs(probe.value) + abs(modelled) + 1e-300)


def _read_scale(
    setting: Setting, model: Model, weights: Weights, noise_variance: float | None, prior_constant: float
) -> Scale:
    """The likelihood's scale v: as stated by the reader, as the normaliser says, or 1."""
    (short_of, error), *others = (_leftover(setting, model, seed) for seed in (31, 37, 41))
    left = short_of - prior_constant
    none = abs(left) <= error
    constants = "no constant is left out or added" if none else f"a constant of {left:.6g} (it has no gradient)"
    if max(abs(short_of - again) for again, _ in others) > 10 * error:
        constants = "a term in x alone is added (it has no gradient)"
    normalizer = model.pixels.likelihood.normalizer
    if normalizer is None:
        return Scale(1.0, "", constants, none)
    if noise_variance is not None:
        return Scale(noise_variance, "as you stated", constants, none)
    entries = setting.batch_size * setting.num_pixels
    without = short_of + float(model.prior.log.sum())  # if the KL leaves out its -1/2, there is less to explain
    for weight in (weights.prior, 1.0, 1 / setting.batch_size, 1 / entries, 1 / setting.num_pixels):
        scale = weight / weights.pixels
        if none or scale <= 0:
            continue
        # with or without the constant of the unit scale, such as log(2 pi) / 2
        full, short = (weight * entries * (normalizer(scale) - unit) for unit in (0.0, normalizer(1.0)))
        whole = min(abs(left - full), abs(left - short)) < 100 * error
        gaps = [abs(rest - constant) for rest in (left, short_of, without) for constant in (full, short)]
        if (abs(scale - 1) > 1e-9 and min(gaps) < 100 * error) or abs(left - full) < 100 * error:
            return Scale(scale, "read from the normaliser", "the likelihood's normaliser is there", whole)
    missing = "the normaliser is left out (a constant, harmless)" if none else constants
    return Scale(1.0, "assumed", missing, none)


# --- All findings together -------------------------------------------------------------------------------------------


def _judge(setting: Setting, domain: Domain, groups: list[Group], model: Model, noise_variance: float | None) -> Report:
    """All findings about a loss whose two terms were recognised, put together."""
    likelihood, parameter = model.pixels.likelihood, model.prior.parameter
    tolerance = max(10 * setting.strict, 100 * model.deviation)
    rough = model.deviation > 10 * setting.strict  # no exact fit: uneven weights may be an artefact
    reading = _read_prior(model.prior, tolerance, rough=rough)
    if early := _pixel_ruling(model, tolerance, rough=rough):
        return early
    if isinstance(reading, Report):
        return reading
    weights = Weights(float(model.pixels.weight.nanmean()), reading.weight)
    scale = _read_scale(setting, model, weights, noise_variance, _prior_constant(setting, reading))
    beta = weights.prior / (weights.pixels * scale.value)
    sizes = fitting.at_other_sizes(setting, model, weights)
    issues = [*_prior_issues(reading, scale), *_sign_issues(weights), *_size_issues(sizes, tolerance)]
    issues += _shape_issues(setting, domain, groups, model)
    issues += _sampling_issues(setting, parameter)
    half = _half_factor(reading, scale) and min(abs(beta - 1), abs(beta / reading.variance - 1)) < tolerance
    if beta > 0 and abs(beta - 1) > tolerance and not half:  # with that factor put right, beta is 1
        issues.append(_beta_issue(setting, likelihood, beta, scale, reporting.beta_name(setting, beta, sizes)))
    verdict = next((v for v in _ORDER if any(issue.verdict == v for issue in issues)), None)
    if verdict == UNKNOWN:  # then what else was found may be an artefact
        issues = [issue for issue in issues if issue.verdict == UNKNOWN]
    if verdict == OTHER:  # where a capacity or free bits are meant, a weight belongs to them
        issues = [issue._replace(advice="") if issue.verdict == BETA else issue for issue in issues]
    common = weights.pixels * scale.value
    notes = [] if verdict else [reporting.scale_note(setting, common, tolerance)]
    notes += reporting.size_notes(sizes, tolerance) + list(_target_notes(domain, groups, model))
    if verdict in (None, BETA, UNTESTED):
        notes.append(reporting.range_note(setting, parameter.lowest))
    right = CORRECT if abs(common * setting.batch_size - 1) < tolerance else SCALED
    return Report(
        verdict or right,
        reconstruction=f"weight {weights.pixels:.6g} for each pixel of the batch; {scale.constants}",
        likelihood=likelihood.name + reporting.scale_text(likelihood, scale.value, scale.origin),
        decoder_output=likelihood.output,
        targets=reporting.target_text(setting, likelihood, grey=domain.grey),
        kl=f"KL(q || {reading.name}), weight {weights.prior:.6g} for each latent of the batch",
        second_output=parameter.name,
        sampling=f"z = {parameter.sampling}",
        sign="unknown" if verdict == UNKNOWN else _sign_text(weights),
        reductions=reporting.reductions(sizes, tolerance),
        beta=None if verdict == UNKNOWN else beta,
        noise_variance=scale.value if scale.origin else None,
        problems=tuple(issue.problem for issue in issues),
        advice=tuple(issue.advice for issue in issues if issue.advice),
        notes=tuple(notes),
        sizes=f" at batch size {setting.batch_size}, {setting.num_pixels} pixels, {setting.num_latents} latents",
    )


def _pixel_ruling(model: Model, tolerance: float, *, rough: bool) -> Report | None:
    """What is wrong with a reconstruction that is no likelihood or does not count every pixel once."""
    likelihood = model.pixels.likelihood
    known = {
        "likelihood": likelihood.name,
        "decoder_output": likelihood.output,
        "second_output": model.prior.parameter.name,
    }
    if likelihood.mistake:
        return ruling(UNKNOWN if likelihood.mistake is NOT_NORMALIZED else WRONG, likelihood.mistake, **known)
    uneven = fitting.uneven(model.pixels.weight, tolerance)
    if uneven and rough:
        return ruling(UNKNOWN, "the reconstruction is explained only roughly, with weights that differ", **known)
    if not uneven:
        return None
    advice = "the log-likelihood counts every pixel once"
    return ruling(WRONG if "ignored" in uneven else OTHER, uneven, advice, **known)


def _half_factor(reading: Reading, scale: Scale) -> bool:
    """Whether log sigma^2 has twice or half its factor: the KL to a prior of that variance would bring its constant."""
    return reading.mean == 0 and min(abs(reading.variance / v - 1) for v in (0.5, 2)) < 1e-4 and not scale.complete


def _prior_issues(reading: Reading, scale: Scale) -> Iterator[Issue]:
    """Another prior than N(0, I): meant, or a wrong factor in front of the logarithm."""
    if reading.standard:
        return
    if _half_factor(reading, scale):
        yield Issue(
            WRONG, f"log sigma^2 has {reporting.plain(reading.variance)} times its factor in the KL to N(0, I): a half too "
            f"many or too few? (read differently, this is {reading.weight:.4g} times the KL to the prior {reading.name}, "
            "without its constant)", _RIGHT_KL,
        )  # fmt: skip
    else:
        problem = f"the prior is {reading.name} (mean, variance) instead of N(0, 1)"
        yield Issue(OTHER, problem, "right if that is what you sample from")


def _sign_issues(weights: Weights) -> Iterator[Issue]:
    if weights.pixels < 0 and weights.prior < 0:
        yield Issue(WRONG, "this is the ELBO, which is to be maximised", "minimise its negative")
    elif weights.prior < 0:
        yield Issue(
            WRONG, "the KL has the wrong sign: minimising rewards a posterior far from the prior", "add the KL"
        )  # fmt: skip
    elif weights.pixels < 0:
        yield Issue(WRONG, "the reconstruction has the wrong sign: minimising makes it worse", "subtract log p(x | z)")


def _sign_text(weights: Weights) -> str:
    if weights.pixels > 0 and weights.prior > 0:
        return "right: minimising lowers the reconstruction error and the KL"
    return "wrong: see the problem below"


def _size_issues(sizes: dict[str, fitting.Size], tolerance: float) -> Iterator[Issue]:
    """Beta must not depend on the batch size; a loss that turns into something else at another size is not understood."""
    for name, size in sizes.items():
        if size.why == "changed":
            yield Issue(UNKNOWN, f"with another number ({name}) the loss no longer has this form")
    if reporting.beta_depends_on_batch(sizes, tolerance):
        yield Issue(BETA, "beta changes with the batch size", "reduce both terms over the batch in the same way")


def _beta_issue(setting: Setting, likelihood: Likelihood, beta: float, scale: Scale, name: str) -> Issue:
    problem = f"this is the beta-weighted ELBO with beta = {beta:.6g}{name}"
    advice = f"for the ELBO multiply the KL by {1 / beta:.6g}, or the reconstruction by {beta:.6g}"
    if scale.origin == "assumed":
        what = likelihood.scale
        problem += f" when the noise has {what} 1; equally the ELBO itself when it has {what} {beta:.6g}"
        advice += f"; nothing if noise of {what} {beta:.6g} is what you mean"
    return Issue(BETA, problem, advice)


# --- Where the loss stops being right --------------------------------------------------------------------------------


def _shape_issues(setting: Setting, domain: Domain, groups: list[Group], model: Model) -> Iterator[Issue]:
    """Near the prior, near a perfect reconstruction, far from both, and the values against the derivatives."""
    gaps, limits = fitting.disagreements(setting, model, domain), fitting.limits(setting, model)
    for name, limit in limits:
        if math.isfinite(limit):
            text = f"{name}: the derivative is not what it should be from {reporting.plain(limit)} on (a clamp or a guard?)"
            yield Issue(LIMITED, text)
    clamped = {name for name, limit in limits if abs(limit) < 20 or name == "mu"}
    near_pixels, near_prior = max(gap[0] for gap in gaps), max(max(gap[1:]) for gap in gaps)
    if near_pixels > LOOSE and "the decoder's output" not in clamped:
        yield Issue(UNKNOWN, "the reconstruction's derivative changes its form when the reconstruction is good")
    elif near_prior > LOOSE and not {"log sigma^2", "mu"} & clamped:
        yield _near_prior_issue(fitting.threshold(setting, model))
    elif any(math.isnan(limit) for _, limit in limits) or (
        not limits and fitting.sweep(setting, model, domain) > FAR
    ):  # fmt: skip
        yield Issue(UNKNOWN, "the derivatives are not everywhere what they are at most points")
    elif not clamped and fitting.value_disagreement(setting, model, domain) > max(
        setting.strict, 100 * model.deviation
    ):
        yield Issue(WRONG, "value and gradient disagree: a part is detached, or the gradient is not that of the value")
    if 1e3 * setting.strict < max(near_pixels, near_prior, 100 * model.deviation) <= LOOSE * 100 and not limits:
        yield Issue(LIMITED, "the derivatives agree only roughly (a small number added inside a logarithm?)")
    likelihood = model.pixels.likelihood
    if likelihood.binary and fitting.fits_grey(likelihood, groups) is False:
        yield Issue(LIMITED, "grey targets are changed inside the loss (thresholded?): right for zeros and ones only")
    if not clamped and fitting.changes_targets(setting, model, domain):
        yield Issue(LIMITED, "targets outside (0, 1) are clamped or treated differently")
    if model.pixels.narrowed:
        yield Issue(LIMITED, "outside (0, 1) the decoder's output is clamped or treated differently")


def _near_prior_issue(threshold: Threshold | None) -> Issue:
    if threshold is None:
        return Issue(
            UNKNOWN, "the KL's derivative changes its form near the prior, or when some latents are close to it"
        )  # fmt: skip
    group = threshold.group + "," * ("," in threshold.group)
    if threshold.below == 0:
        return Issue(OTHER, f"free bits: {group} has no gradient below {threshold.nats:.6g} nats")
    return Issue(OTHER, f"a capacity: {group} is drawn to {threshold.nats:.6g} nats instead of 0")


def _target_notes(domain: Domain, groups: list[Group], model: Model) -> Iterator[str]:
    likelihood = model.pixels.likelihood
    if not likelihood.binary:
        return
    if not domain.grey:
        yield "grey targets are refused, as they should be"
        return
    if fitting.fits_grey(likelihood, groups):
        yield "grey targets are accepted without a word, but then the value is no log-probability"


# --- The reader's own sampling ---------------------------------------------------------------------------------------


def _sampling_issues(setting: Setting, parameter: Parameter) -> Iterator[Issue]:
    """Whether the reader's sampling reads the second output as the loss does."""
    if setting.reparameterize is None:
        return
    problem, tested = _sampling_problem(setting.reparameterize, setting.num_latents, parameter)
    if problem:
        yield Issue(WRONG if tested else UNTESTED, problem, f"sample with z = {parameter.sampling}" * tested)


def _sampling_problem(
    reparameterize: Callable[..., Tensor], num_latents: int, parameter: Parameter
) -> tuple[str, bool]:
    """Compare draws that share their noise: their ratio is a ratio of standard deviations. Also whether that worked."""
    dice, shape = Dice(41), (4096, num_latents)
    mu, first, second = dice.normal(shape), *(dice.uniform(shape, -1.0, 1.0).exp() for _ in range(2))
    zero, untested = torch.zeros_like(mu), "reparameterize could not be tested: it "
    draws = []
    for mean, spread_ in ((zero, first), (zero, first), (zero, second), (mu, first)):
        drawn = _draw(reparameterize, mean, spread_)
        if isinstance(drawn, str):
            return untested + drawn, False
        draws.append(drawn)
    base, again, other, moved = draws
    if not close(base, again, 1e-12):
        return untested + "draws noise that the audit cannot repeat (not torch's normal noise?)", False
    if not close(moved - base, mu, 1e-4):
        return "reparameterize does not add mu to noise of its own", True
    for found in (parameter, *PARAMETERS):
        if not close(other / base, ((found.log_var(second) - found.log_var(first)) / 2).exp(), 1e-4):
            continue
        size = float((base / (found.log_var(first) / 2).exp()).square().mean())
        if abs(size - 1) > 10 * math.sqrt(2 / base.numel()):
            return f"the noise of reparameterize has variance {size:.3g} instead of 1", True
        said = f"the loss reads the second output as {parameter.name}, reparameterize as {found.name}"
        return said * (found.name != parameter.name), True
    return f"the loss reads the second output as {parameter.name}, reparameterize as something else", True


def _draw(reparameterize: Callable[..., Tensor], mean: Tensor, second: Tensor) -> Tensor | str:
    """One draw with noise that is the same in each, or in which words it failed."""
    torch.manual_seed(0)
    try:
        with probing.Watch():
            drawn = reparameterize(mean.clone(), second.clone())
    except Exception as error:  # a stranger's function, as the loss is
        return f"raises {type(error).__name__}: {first_line(error)}"
    if not isinstance(drawn, Tensor) or drawn.numel() != mean.numel():
        return f"returns {type(drawn).__name__} of another size than mu"
    return drawn.detach().double().reshape(mean.shape)
