"""Which candidates explain the derivatives, with which weights, and where they stop explaining them."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial.audit.candidates import LIKELIHOODS, PARAMETERS, Likelihood, Parameter
from vae_tutorial.audit.probing import (
    Dice,
    Domain,
    Group,
    Point,
    Probe,
    Setting,
    anchor,
    close,
    gather,
    measure,
    targets,
)

LOOSE = 1e-4  # a candidate with a guard against log 0 inside still counts as found; it is then checked strictly
FAR = 1e-2  # relative disagreement that counts as a limit of the domain
MANY = 2**14  # of more pixels than these, a random choice is compared where a few would do


class PixelFit(NamedTuple):
    """How a likelihood explains the derivatives: one weight for each pixel and group, (G, B, *D)."""

    likelihood: Likelihood
    weight: Tensor
    deviation: float
    narrowed: bool = False  # whether decoder outputs outside (0, 1) had to be left out


class PriorFit(NamedTuple):
    """L = sum of square mu^2 + linear mu + variance sigma^2 + log log sigma^2; four numbers for each latent, (B, J)."""

    parameter: Parameter
    square: Tensor
    linear: Tensor
    variance: Tensor
    log: Tensor
    deviation: float


def slopes_of(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    """Derivatives of the summed function in each argument."""
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    gradients = torch.autograd.grad(function(*leaves).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


def _relative(residual: Tensor, size: Tensor) -> float:
    """Largest residual in units of the largest derivative of its own entry; the leading axis holds the calls."""
    scale = size.abs().amax(0) + 1e-3 * size.abs().max()
    return float((residual.abs().amax(0) / scale).nan_to_num(nan=math.inf).max())


def choice(size: int, *, every: bool = False) -> Tensor:
    """Which of so many pixels are compared: all, or many at random."""
    return torch.arange(size) if every or size <= MANY else torch.randint(size, (MANY,), generator=Dice(size).generator)


# --- The reconstruction ----------------------------------------------------------------------------------------------


def fit_pixels(likelihood: Likelihood, group: Group, some: Tensor | None = None) -> tuple[Tensor, float]:
    """One weight for each pixel by least squares over the calls, (B, *D), and the relative deviation.

    ``some`` chooses among the B times D pixels; then the weights are (len(some),).
    """
    x, outputs, found = group.x, group.y, group.of_y
    if some is not None:
        x, outputs, found = x.flatten()[some], outputs.flatten(1)[:, some], found.flatten(1)[:, some]
    (slopes,) = slopes_of(lambda y: likelihood.per_pixel(x.expand_as(y), y), outputs)
    norm = slopes.square().sum(0)
    weight = torch.where(norm > 0, (found * slopes).sum(0) / norm, math.nan)
    residual = torch.where(norm > 0, found - weight * slopes, found)
    return weight, _relative(residual, found)


def fits(likelihood: Likelihood, group: Group) -> bool:
    """Whether the group's points are in the likelihood's domain, and its targets what the likelihood is for."""
    return not (group.real and math.isfinite(likelihood.domain[0])) and not (group.grey and likelihood.binary)


def pixel_fit(likelihood: Likelihood, groups: list[Group], some: Tensor | None = None) -> PixelFit:
    """The likelihood's weights in all groups that are in its domain; the first misfit ends it."""
    weights, worst = list[Tensor](), 0.0
    for group in (group for group in groups if fits(likelihood, group)):
        weight, deviation = fit_pixels(likelihood, group, some)
        weights, worst = [*weights, weight], max(worst, deviation)
        if worst > LOOSE:
            break
    return PixelFit(likelihood, torch.stack(weights or [torch.ones(1)]), worst if weights else math.inf)


def best_pixels(groups: list[Group]) -> PixelFit:
    """Chosen by some of the pixels, then fitted to all of them."""
    some = choice(groups[0].x.numel())
    found = [pixel_fit(likelihood, groups, some) for likelihood in LIKELIHOODS]
    best = min(found, key=lambda fit: (fit.deviation > LOOSE, spread(fit.weight) > LOOSE, fit.deviation))
    return pixel_fit(best.likelihood, groups)


def fits_grey(likelihood: Likelihood, groups: list[Group]) -> bool | None:
    """Whether a likelihood for zeros and ones also describes what the loss makes of grey targets; None if not tried."""
    grey = [group for group in groups if group.grey and fits(likelihood._replace(binary=False), group)]
    return fit_pixels(likelihood, grey[0], choice(grey[0].x.numel()))[1] < LOOSE if grey else None


def spread(weights: Tensor) -> float:
    known = weights[~weights.isnan()]
    size = float(known.abs().max()) if len(known) else 0.0
    return float(known.max() - known.min()) / size if size > 0 else 0.0


def uneven(weight: Tensor, tolerance: float = LOOSE) -> str:
    """How the pixels' weights, (G, B, *D), differ, or nothing."""
    if spread(weight) <= tolerance:
        return ""
    known = weight.nan_to_num()
    size = known.abs().max()
    if ((weight.amax(0) - weight.amin(0)) > tolerance * size).any():
        return "a pixel's weight depends on its target value"
    ignored = weight[0].abs() < 1e-12 * size  # (B, *D)
    if ignored.any():
        return f"{int(ignored.sum())} of the {ignored.numel()} pixels in a batch are ignored"
    by_example = ((weight[0].amax(0) - weight[0].amin(0)) > tolerance * size).any()
    return "the examples of a batch have different weights" if by_example else "the pixels have different weights"


def shifted_targets(groups: list[Group]) -> dict[float, float] | str:
    """What stands in the place of targets of 0 and 1 in a loss that is linear in them; a word if it is no one number.

    Nothing is found if there is another reading with grey targets: a squared plus an absolute error changes none.
    """
    found = [_shifted_target(group) for group in groups]
    return found[0] if all(found) else ""


def _shifted_target(group: Group) -> dict[float, float] | str:
    zero, one = torch.zeros_like(group.y), torch.ones_like(group.y)
    for likelihood in (like for like in LIKELIHOODS if like.binary or like.output == "the mean"):
        if group.real and math.isfinite(likelihood.domain[0]):
            continue
        (black,) = slopes_of(functools.partial(likelihood.per_pixel, zero), group.y)
        (white,) = slopes_of(functools.partial(likelihood.per_pixel, one), group.y)
        weight, times, deviation = _regress(*(t.flatten(2) for t in (group.of_y, black, white - black)))  # (B, D)
        if deviation < LOOSE and spread(weight) < LOOSE:
            return _substitutes(group.x.flatten(1), times / weight)
    return ""


def _substitutes(x: Tensor, target: Tensor) -> dict[float, float] | str:
    values = {v: target[x == v] for v in (0.0, 1.0) if (x == v).any()}
    if not values:
        return "changed"
    if max(float(t.max() - t.min()) for t in values.values()) > LOOSE:
        return "mixed"
    return {v: round(float(t.mean()), 6) + 0.0 for v, t in values.items()}


# --- The KL ----------------------------------------------------------------------------------------------------------


def _regress(target: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, float]:
    """Two coefficients for each entry by least squares over the calls (Gram-Schmidt); all arguments are (P, ...)."""

    def along(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(0) / (one.square().sum(0) + 1e-300)

    shared = along(first, second)
    of_second = along(second - shared * first, target)
    of_first = along(first, target) - shared * of_second
    return of_first, of_second, _relative(target - of_first * first - of_second * second, target)


def fit_prior(
    parameter: Parameter, groups: list[Group], *, num: int | None = None, exchanged: bool = False
) -> PriorFit:
    """Four numbers for each latent of the first ``num`` examples; negative second outputs only where they have a meaning."""
    used = [group for group in groups if not (parameter.positive and group.signed)]
    names = ("second", "mu", "of_second", "of_mu") if exchanged else ("mu", "second", "of_mu", "of_second")
    mu, second, of_mu, of_second = (torch.cat([getattr(group, name)[:, :num] for group in used]) for name in names)
    (slope,) = slopes_of(parameter.log_var, second)
    variance = parameter.log_var(second).exp()
    if not (slope.isfinite().all() and variance.isfinite().all()):
        none = torch.zeros(1)
        return PriorFit(parameter, none, none, none, none, math.inf)
    twice, linear, deviation_mu = _regress(of_mu, mu, torch.ones_like(mu))
    weight, log, deviation_second = _regress(of_second, variance * slope, slope)
    numbers = torch.stack([twice / 2, linear, weight, log])
    numbers[numbers.abs() < 1e-9 * numbers.abs().max()] = 0.0  # rounding
    square, linear, weight, log = numbers
    return PriorFit(parameter, square, linear, weight, log, max(deviation_mu, deviation_second))


def best_prior(groups: list[Group], *, exchanged: bool = False) -> PriorFit:
    """The meaning of the second output that explains the derivatives best: chosen by some examples, fitted to all."""
    fits = [fit_prior(parameter, groups, num=4, exchanged=exchanged) for parameter in PARAMETERS]
    best = min(fits, key=lambda fit: fit.deviation if fit.deviation > 1e-10 else 0.0)  # the first of the exact ones
    return fit_prior(best.parameter, groups, exchanged=exchanged)


def is_reversed(parameter: Parameter, group: Group) -> bool:
    """Whether the second term is KL(N(0, 1) || q), the wrong way round."""

    def reverse_kl(mu: Tensor, second: Tensor) -> Tensor:
        log_var = parameter.log_var(second)
        return 0.5 * (log_var + (1 + mu.square()) * torch.exp(-log_var) - 1)

    expected = torch.cat(slopes_of(reverse_kl, group.mu, group.second), 1)
    found = torch.cat([group.of_mu, group.of_second], 1)
    weight = (expected * found).sum() / expected.square().sum()
    return _relative(found - weight * expected, found) < LOOSE


# --- The loss that was found, as a model of the reader's loss --------------------------------------------------------


class Model(NamedTuple):
    """The two fits together: what the loss should return and how it should slope."""

    pixels: PixelFit
    prior: PriorFit

    @property
    def deviation(self) -> float:
        return max(self.pixels.deviation, self.prior.deviation)

    def value(self, point: Point) -> float:
        """The loss up to a constant."""
        x, y, mu, second = (tensor.double() for tensor in point)
        weight = self.pixels.weight[0].nan_to_num()
        return float((weight * self.pixels.likelihood.per_pixel(x, y)).sum() + self.second_term(mu, second).sum())

    def second_term(self, mu: Tensor, second: Tensor) -> Tensor:
        log_var, fit = self.prior.parameter.log_var(second), self.prior
        square, linear, variance, log = (n.to(mu.dtype) for n in (fit.square, fit.linear, fit.variance, fit.log))
        return square * mu.square() + linear * mu + variance * log_var.exp() + log * log_var

    def expected(self, point: Point, pixel: Callable[[Tensor, Tensor], Tensor], some: Tensor) -> list[Tensor]:
        """What the derivatives should be, in the point's precision: in some of the outputs, in mu and in the second."""
        x, y = point.x.flatten()[some], point.y.flatten()[some]
        weight = self.pixels.weight[0].nan_to_num().flatten()[some].to(y.dtype)
        (of_y,) = slopes_of(lambda y: weight * pixel(x, y), y)
        return [of_y, *slopes_of(self.second_term, point.mu, point.second)]

    def disagreement(self, probe: Probe) -> tuple[float, float, float]:
        """Largest relative disagreement of the derivatives in y, in mu and in the second output."""
        rounding = 1e-4 if probe.y.dtype == torch.float64 else 1e-2
        _, *compared = self._compared(probe, choice(probe.y.numel()))
        of_y, of_mu, of_second = (
            float(((found - right).abs() / (right.abs() + rounding * size)).nan_to_num(nan=math.inf).max())
            for found, right, size in zip(*compared, self._sizes(), strict=True)
        )
        return of_y, of_mu, of_second

    def holds(self, probe: Probe, *, every: bool = False) -> tuple[bool, bool, bool]:
        """Whether the derivatives agree to a hundredth far out, where some of them are tiny: each by its own measure.

        What rounding does to the candidate itself, in the precision of the call, is forgiven; nothing else is.
        """
        some, candidate = choice(probe.y.numel(), every=every), self.pixels.likelihood
        point, found, right = self._compared(probe, some)
        rough = self.expected(Point(*(t.float() for t in point)), candidate.per_pixel, some)
        single, forgiven = probe.y.dtype == torch.float32, []
        for exact, coarse, size in zip(right, rough, self._sizes(), strict=True):
            lost = (coarse.double() - exact).abs().nan_to_num(nan=math.inf)
            cancelled = (lost >= 1e-3 * exact.abs()) & (exact.abs() < 1e-3 * size)
            rounding = (4 * lost).clamp(max=1e-6 * size) if single else 0.0
            forgiven.append(rounding + torch.where(cancelled, (1e-7 if single else 1e-15) * size, 0.0))

        def agree(part: int, exact: Tensor) -> bool:
            return bool(((found[part] - exact).abs() <= FAR * exact.abs() + forgiven[part]).all())

        guarded = (self.expected(point, guard, some)[0] for guard in candidate.guards)
        output = agree(0, right[0]) or any(agree(0, exact) for exact in guarded)
        return output, agree(1, right[1]), agree(2, right[2])

    def _compared(self, probe: Probe, some: Tensor) -> tuple[Point, list[Tensor], list[Tensor]]:
        """The point in float64, the derivatives there, and what they should be."""
        point = Point(*(tensor.double() for tensor in probe.point))
        found = [tensor.double() for tensor in (probe.y.flatten()[some], probe.mu, probe.second)]
        return point, found, self.expected(point, self.pixels.likelihood.per_pixel, some)

    def _sizes(self) -> list[float]:
        sizes = (self.pixels.weight, self.prior.square, self.prior.log)
        return [float(size.nan_to_num().abs().max()) for size in sizes]


# --- Does the model hold everywhere? ---------------------------------------------------------------------------------

_LEVELS = (0.0, 1e-6, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)


def near(setting: Setting, dice: Dice, model: Model, level: float, *, grey: bool, mixed: bool = False) -> Point:
    """A point at a distance of about this level from the prior and from a perfect reconstruction."""
    x, likelihood = targets(setting, dice, grey=grey), model.pixels.likelihood
    scale = 10 ** dice.uniform(setting.z_shape, -3, 1) if mixed else torch.tensor(level)
    if likelihood.link is None and likelihood.domain[0] != 0:
        y = x + max(level, 1e-6) * dice.normal(setting.x_shape)
    else:
        y = x + (0.5 - x) * min(max(level, 1e-6), 0.9) * dice.uniform(setting.x_shape, 0.1, 1.0)
        y = likelihood.link(y) if likelihood.link else y
    log_var = (scale * dice.normal(setting.z_shape)).clamp(-6, 6)
    return Point(x, y, scale * dice.normal(setting.z_shape), model.prior.parameter.inverse(log_var))


def disagreements(setting: Setting, model: Model, domain: Domain) -> list[tuple[float, float, float]]:
    """Relative disagreements with the model in y, mu and the second output, at all levels."""
    dice, grey = Dice(3), domain.grey and not model.pixels.likelihood.binary
    points = [near(setting, dice, model, level, grey=grey) for level in _LEVELS]
    points += [near(setting, dice, model, 0.5, grey=grey, mixed=True) for _ in range(3)]
    return [model.disagreement(measure(setting, point)) for point in points]


def sweep(setting: Setting, model: Model, domain: Domain) -> float:
    """Largest relative disagreement at points that cover the middle of the range of each argument without a gap."""
    entries = setting.batch_size * min(setting.num_latents, setting.num_pixels)
    dice, num = Dice(43), min(6, max(3, 200 // entries))
    y = dice.strata(num, setting.x_shape, -12, 12)
    y = y.sigmoid() if model.pixels.likelihood.domain[0] == 0 else y
    mu = dice.strata(num, setting.z_shape, -30, 30)
    lowest = max(-12.0, model.prior.parameter.lowest + 1)
    second = model.prior.parameter.inverse(dice.strata(num, setting.z_shape, lowest, 12))
    grey = domain.grey and not model.pixels.likelihood.binary
    points = (Point(targets(setting, dice, grey=grey), *place) for place in zip(y, mu, second, strict=True))
    return max(max(model.disagreement(measure(setting, point))) for point in points)


def changes_targets(setting: Setting, model: Model, domain: Domain) -> bool:
    """Whether a likelihood of wide targets treats those outside (0, 1) differently; refusing them is no fault."""
    low, high = model.pixels.likelihood.targets
    wide = model.pixels.likelihood.output in ("the mean", "the median") and not model.pixels.narrowed
    if high == 1 or not domain.grey:
        return False
    dice, probes = Dice(47), []
    for _ in range(3):
        x = 10 ** dice.uniform(setting.x_shape, -1, 7)
        x = x * dice.sign(x.shape) if low < 0 else x
        y = dice.uniform(setting.x_shape, 0.1, 0.9)
        y = x * 1.7 * y if wide else y  # also between 0 and x
        probes.append(measure(setting, anchor(setting, dice, x)._replace(y=y)))
    return any(not probe.refusal and model.disagreement(probe)[0] > FAR for probe in probes)


def value_disagreement(setting: Setting, model: Model, domain: Domain) -> float:
    """How far the values move from what the model says, between points that share their targets; relative."""
    dice, grey = Dice(7), domain.grey and not model.pixels.likelihood.binary
    base, other = near(setting, dice, model, 0.5, grey=grey), near(setting, dice, model, 1.0, grey=grey)
    far = anchor(setting, dice, base.x)
    moves = [base, base._replace(y=far.y), base._replace(mu=other.mu), base._replace(second=other.second)]
    moves += [base._replace(mu=far.mu), far, far._replace(second=other.second)]
    probes = [measure(setting, point) for point in moves]
    modelled = [model.value(p.point) for p in probes]
    gaps = [(p.value - probes[0].value) - (m - modelled[0]) for p, m in zip(probes, modelled, strict=True)]
    sizes = [abs(p.value) + abs(m) + abs(probes[0].value) for p, m in zip(probes, modelled, strict=True)]
    ratios = [abs(gap) / (size + 1e-300) for gap, size in zip(gaps, sizes, strict=True)]
    return max(math.inf if math.isnan(ratio) else ratio for ratio in ratios)


# --- How far out does it hold? ---------------------------------------------------------------------------------------


class Course(NamedTuple):
    """One argument taken to extremes while the others stay put."""

    name: str
    part: int  # which derivative has to hold: 0 for y, 1 for mu, 2 for the second output
    start: float
    values: tuple[float, ...]  # outwards
    beyond: tuple[float, ...] = ()  # further out, where floating-point numbers may end but no other answer is right
    argument: Callable[[Tensor], Tensor] = lambda value: value  # the loss's own argument

    def place(self, point: Point, value: float | Tensor) -> Point:
        field = Point._fields[1 + self.part]
        return point._replace(**{field: self.argument(torch.zeros_like(getattr(point, field)) + value)})


def courses(setting: Setting, model: Model) -> list[tuple[Course, Course]]:
    """For each part the course up and the course down, as far as floating-point numbers carry the candidate itself."""
    likelihood, parameter, double = model.pixels.likelihood, model.prior.parameter, setting.double
    wide = (2.0, 3.0, 4.5, 6.0, 8.0, 9.5, 11.0, 13.0, 15.0, 17.0, 19.0, 21.0, 25.0, 30.0, 45.0, 60.0)
    deep = (80.0, 150.0, 300.0, 600.0)
    far = (20.0, 50.0, 80.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
    second = functools.partial(Course, "log sigma^2", 2, argument=parameter.inverse)
    up = second(0.5, wide + deep * double, () if double else deep[:1])
    down = tuple(-v for v in wide + deep * double if -v > parameter.lowest + 1)
    below = (-deep[-1],) * (not double and parameter.name.startswith("log"))
    # Not from 0.5, which is singular for a continuous Bernoulli.
    output, (low, high) = functools.partial(Course, "the decoder's output", 0, 0.4), likelihood.domain
    open_end = (3.0, 4.0, 6.0, 9.0, 12.0, 16.0, *(wide[11:] if likelihood.output == "the log of the rate" else far))
    small = tuple(10.0**-k for k in (*range(1, 16), 20, 25, 30, *((60, 100, 200) if double else (36,))))
    to_one = tuple(1 - p for p in small if p > (1e-15 if double else 1e-7)) + (1 - 2.0**-24,) * (not double)
    return [
        (output(open_end if high > 1 else to_one), output(small if low == 0 else tuple(-v for v in open_end))),
        (Course("mu", 1, 5.0, far), Course("mu", 1, -5.0, tuple(-v for v in far))),
        (up, second(-0.5, down, below)),
    ]


def limits(setting: Setting, model: Model) -> list[tuple[str, float]]:
    """Where the loss stops being what it is elsewhere: clamps, caps, guards, overflow; nan if that is everywhere.

    Both ends of all courses are tried at once, then mixtures of all places; only what fails is looked at on its own.
    """
    dice, pairs, failed = Dice(5), courses(setting, model), list[Course]()
    point = anchor(setting, dice, targets(setting, dice, grey=False))
    point = point._replace(mu=point.mu / 8)

    def check(
        pick: Callable[[tuple[Course, Course]], float | Tensor], *, every: bool = False, forgiving: bool = False
    ) -> None:
        # Noise inside adds m and sigma e, and the larger one swallows the smaller: then one argument at a time.
        for together in ([pair] for pair in pairs) if setting.noisy else [pairs]:
            place = point
            for pair in together:
                place = pair[0].place(place, pick(pair))
            probe = measure(setting, place)
            if not (forgiving and probe.refusal):
                held = model.holds(probe, every=every)
                failed.extend(course for pair in together if not held[pair[0].part] for course in pair)

    def any_place(pair: tuple[Course, Course]) -> Tensor:
        # Of m + sigma e, drawn inside, the digits of sigma e are lost where sigma is tiny beside m.
        widest = (0.0, 1e3 if setting.double else 100.0, 30.0 if setting.double else 12.0)[pair[0].part] * setting.noisy
        places = torch.tensor([v for c in pair for v in (c.start, *c.values)], dtype=torch.float64)
        places = places[places.abs() <= widest] if widest else places
        shape = getattr(point, Point._fields[1 + pair[0].part]).shape
        return places[torch.randint(len(places), shape, generator=dice.generator)]

    check(lambda pair: (pair[0].start, *pair[0].values)[-1], every=True)
    check(lambda pair: (pair[1].start, *pair[1].values)[-1], every=True)
    if pairs[2][0].beyond:
        check(lambda pair: (pair[0].start, *pair[0].beyond)[-1], forgiving=True)
        check(lambda pair: (pair[1].start, *pair[1].beyond)[-1], forgiving=True)
    for _ in range(3):
        check(any_place)
    found = [(course.name, _limit(setting, model, course, point)) for course in dict.fromkeys(failed)]
    known = [(name, limit) for name, limit in found if limit is not None]
    return known or [("the arguments together", math.nan)] * bool(failed)


def _limit(setting: Setting, model: Model, course: Course, point: Point) -> float | None:
    """The value along the course from which the model no longer holds; None if there is none, nan if it never holds."""

    def holds(value: float) -> bool:
        probe = measure(setting, course.place(point, value))
        return bool(probe.refusal and value in course.beyond) or model.holds(probe)[course.part]

    places = (course.start, *course.values, *course.beyond)
    if not holds(course.start):
        return math.nan
    good, bad = 0, len(places) - 1
    if holds(places[-1]):
        bad = next((i for i, value in enumerate(places) if not holds(value)), 0)
        good = bad - 1
    if bad == 0:
        return None
    while bad - good > 1:  # a clamp once reached is not left again
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(places[middle]) else (good, middle)
    inside, outside = places[good], places[bad]
    for _ in range(18):
        halfway = math.sqrt(inside * outside) if 0 < outside < inside else (inside + outside) / 2
        inside, outside = (halfway, outside) if holds(halfway) else (inside, halfway)
    return outside


# --- Thresholds on the KL --------------------------------------------------------------------------------------------


class Threshold(NamedTuple):
    """Below ``nats`` the KL has the slope ``below`` times the usual one: 0 for free bits, -1 for a capacity."""

    below: float
    nats: float
    group: str


def threshold(setting: Setting, model: Model) -> Threshold | None:
    """Where the KL's gradient switches on as mu grows, in all latents, in one latent, and in one latent of one example."""
    every, latent, single = (torch.zeros(setting.z_shape, dtype=torch.float64) for _ in range(3))
    every[:], latent[:, 0], single[0, 0] = 1, 1, 1
    x = targets(setting, Dice(19), grey=False)
    second = model.prior.parameter.inverse(torch.zeros(setting.z_shape, dtype=torch.float64))

    def ratio(mask: Tensor, size: float) -> float:
        """The derivative in the first mean, relative to what the model says."""
        probe = measure(setting, Point(x, torch.full_like(x, 0.6), size * mask, second))
        return float(probe.mu[0, 0] / (2 * model.prior.square[0, 0] * size))

    def on(mask: Tensor, size: float) -> bool:
        return abs(ratio(mask, size) - 1) < max(1e-6, 10 * setting.strict)

    below, low, high = ratio(every, 1e-4), 1e-4, 1e3
    if min(abs(below), abs(below + 1)) > 1e-4 or not all(on(mask, high) for mask in (every, latent, single)):
        return None
    for _ in range(36):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if on(every, middle) else (middle, high)
    over_latents = setting.num_latents > 1 and not on(latent, 1.005 * high)
    alone = 1.005 * high * math.sqrt(setting.num_latents if over_latents else 1)
    nats = high**2 / 2 * (setting.num_latents if over_latents else 1)
    group = "the KL of an example" if over_latents else "the KL of each latent"
    return Threshold(round(below), nats, group + ", averaged over the batch" * (not on(single, alone)))


# --- What is averaged ------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """The weights a of the reconstruction and c of the KL at one size."""

    pixels: float
    prior: float


class Size(NamedTuple):
    """The same loss with one size changed by a factor: the factors of the weights, or why there are none."""

    growth: float
    factors: Weights | None
    why: str = ""


def weights_at(setting: Setting, model: Model) -> Weights | str:
    """The same candidates fitted at another size; a word if they no longer explain the loss or are uneven."""
    probes = gather(setting, Dice(11), num=4)
    if probes.refusal:
        return "refused"
    pixels, prior = pixel_fit(model.pixels.likelihood, [probes]), fit_prior(model.prior.parameter, [probes])
    rough = max(pixels.deviation, prior.deviation) > LOOSE
    if rough or uneven(pixels.weight) or spread(prior.log) > LOOSE:
        return "changed"
    return Weights(float(pixels.weight.nanmean()), -2 * float(prior.log.mean()))


def at_other_sizes(setting: Setting, model: Model, weights: Weights) -> dict[str, Size]:
    """What another batch, image and latent do to the weights; every axis of the image on its own.

    A large loss is first made small in all sizes at once, if it can be: the factors are the same, and cost less.
    """
    if setting.batch_size * setting.num_pixels > MANY:
        small = replace(
            setting,
            batch_size=_other(setting.batch_size),
            data_shape=tuple(_other(size) for size in setting.data_shape),
            num_latents=_other(setting.num_latents),
        )
        answer = weights_at(small, model)
        setting, weights = (setting, weights) if isinstance(answer, str) else (small, answer)
    shape, found = setting.data_shape, {}
    ways = {"batch": (setting.batch_size, replace(setting, batch_size=_other(setting.batch_size)))}
    for axis, size in enumerate(shape):
        name = "pixels" if len(shape) == 1 else f"data axis {axis + 1}"
        ways[name] = (size, replace(setting, data_shape=(*shape[:axis], _other(size), *shape[axis + 1 :])))
    ways["latents"] = (setting.num_latents, replace(setting, num_latents=_other(setting.num_latents)))
    for name, (size, changed) in ways.items():
        answer = weights_at(changed, model)
        if isinstance(answer, str):
            found[name] = Size(1.0, None, answer)
        else:
            factors = Weights(answer.pixels / weights.pixels, answer.prior / weights.prior)
            found[name] = Size(_other(size) / size, factors)
    return found


def _other(size: int) -> int:
    return max(size // 8, 3) if size > 3 else size + 1


# --- What acts on what -----------------------------------------------------------------------------------------------


def interaction(setting: Setting) -> str:
    """Why the loss is not a reconstruction term plus a KL term, or nothing."""
    dice = Dice(13)
    x = targets(setting, dice, grey=False)
    base, other = (anchor(setting, dice, x) for _ in range(2))
    moved = (base, base._replace(mu=other.mu / 1e3, second=other.second), base._replace(y=other.y))
    first, other_q, other_y = (measure(setting, point) for point in moved)
    tolerance = 10 * setting.strict
    if not close(first.y, other_q.y, tolerance):
        return "the derivative in the decoder's output depends on mu or the second output"
    if not (close(first.mu, other_y.mu, tolerance) and close(first.second, other_y.second, tolerance)):
        return "the derivative in mu or the second output depends on the decoder's output"
    return ""


def coupling(setting: Setting, part: int) -> str:
    """Which entries of y (0), mu (1) or the second output (2) act on each other's derivatives, if any do."""
    dice = Dice(17)
    x = targets(setting, dice, grey=False)
    base, other = (anchor(setting, dice, x) for _ in range(2))
    name = Point._fields[1 + part]
    before, after = getattr(base, name), getattr(other, name)
    rest = torch.cat([before[:1], after[1:]])
    entry = before.clone()
    entry[:, ..., -1:] = after[:, ..., -1:]
    probes = [measure(setting, base._replace(**{name: tensor})) for tensor in (before, rest, entry)]
    plain, by_rest, by_entry = (probe.slopes[part] for probe in probes)
    if not close(plain[:1], by_rest[:1], 1e-6):
        return "the examples of a batch act on each other's derivatives"
    if before.shape[-1] > 1 and not close(plain[..., :-1], by_entry[..., :-1], 1e-6):
        return f"the {'pixels of an image' if part == 0 else 'latents of an example'} act on each other's derivatives"
    return ""
