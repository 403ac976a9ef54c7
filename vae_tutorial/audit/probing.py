"""Calling the loss: where, how, and what came back.

A call that fails is no exception here: it comes back as a probe that is nan everywhere and says why (``refusal``). The
loss may draw standard normal noise, as a KL estimated by sampling does: the draws are replaced by random signs, and every
point is asked twice, with the noise mirrored. The mean of the two answers is the expectation of whatever is quadratic in
the noise, without error.
"""

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Setting:
    """How the loss is called: its sizes, its floating-point type, and what it wants to be given."""

    loss: Callable[..., Any]
    batch_size: int
    data_shape: tuple[int, ...]
    num_latents: int
    reparameterize: Callable[[Tensor, Tensor], Tensor] | None = None
    flat: bool = False  # whether the decoder's output has its data axes flattened
    dtype: torch.dtype = torch.float64
    only_grey: bool = False  # whether targets of exactly 0 and 1 are refused
    span: tuple[float, float] = (0.0, 1.0)  # what black and white are called in the targets
    noisy: bool = False  # whether the loss draws normal noise

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch_size, *self.data_shape)

    @property
    def z_shape(self) -> tuple[int, ...]:
        return (self.batch_size, self.num_latents)

    @property
    def num_pixels(self) -> int:
        return math.prod(self.data_shape)

    @property
    def double(self) -> bool:
        return self.dtype == torch.float64

    @property
    def strict(self) -> float:
        """Relative error at which two numbers of the loss are still the same."""
        return 1e-9 if self.double else 2e-5


class Point(NamedTuple):
    """Where the loss is called: x and y are (B, *D), mu and second are (B, J)."""

    x: Tensor
    y: Tensor
    mu: Tensor
    second: Tensor


class Probe(NamedTuple):
    """What came back: the value and one derivative for each entry of y, mu and second; nan after a refusal."""

    point: Point
    value: float
    y: Tensor
    mu: Tensor
    second: Tensor
    form: str = ""  # of the loss's output
    refusal: str = ""  # why there is no answer, as a clause with the loss for its subject

    @property
    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.y, self.mu, self.second


def refusal(*probes: Probe) -> str:
    """The first reason for which one of them has no answer, or nothing."""
    return next((probe.refusal for probe in probes if probe.refusal), "")


# --- One call --------------------------------------------------------------------------------------------------------


class Watch(TorchFunctionMode):
    """Stands beside a call: replaces normal noise by random signs times ``size``, and notes where numbers are rounded."""

    def __init__(self, size: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.size, self.dice, self.drawn, self.coarsest = size, Dice(seed), 0, torch.float64

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor) and name in {"randn", "randn_like", "normal", "normal_"}:
            self.drawn += 1
            given = dict(zip(("mean", "std"), args[name == "normal_" :], strict=False)) if "normal" in name else {}
            mean, std = ((given | kwargs).get(key, default) for key, default in (("mean", 0.0), ("std", 1.0)))
            with torch.no_grad():
                return result.copy_(mean + std * self.size * self.dice.sign(tuple(result.shape)).to(result.device))
        into = args[0] if name in {"copy_", "__setitem__"} else result
        if isinstance(into, Tensor) and into.is_floating_point():
            self._note(into, [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()])
        return result

    def _note(self, result: Tensor, given: list[Tensor]) -> None:
        """Rounds, if the result is coarser than what was given, and not just a cast that loses nothing."""
        finer = [tensor for tensor in given if _eps(tensor.dtype) < _eps(result.dtype)]
        cast = len(given) == 1 and given[0].shape == result.shape
        if finer and not (cast and torch.equal(result.detach().to(given[0].dtype), given[0].detach())):
            self.coarsest = coarser(self.coarsest, result.dtype)


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def coarser(first: torch.dtype, second: torch.dtype) -> torch.dtype:
    return max(first, second, key=_eps)


def measure(setting: Setting, point: Point) -> Probe:
    """Value and derivatives of the loss at one point; the loss gets copies of all four tensors."""
    if not setting.noisy:
        return call(setting, point)
    one, other = (call(setting, point, Watch(size)) for size in (1.0, -1.0))
    y, mu, second = ((first + mirrored) / 2 for first, mirrored in zip(one.slopes, other.slopes, strict=True))
    return Probe(one.point, (one.value + other.value) / 2, y, mu, second, one.form, refusal(one, other))


def call(setting: Setting, point: Point, watch: Watch | None = None) -> Probe:
    point = Point(*(tensor.to(setting.dtype) for tensor in point))
    leaves = [tensor.clone().requires_grad_() for tensor in point[1:]]
    low, high = setting.span
    given = [low + (high - low) * point.x, *(leaf.clone() for leaf in leaves)]
    given[1] = given[1].flatten(1) if setting.flat else given[1]
    output, reason = _output(setting.loss, given, watch)
    total, form = (None, reason) if reason else total_of(output, setting.batch_size)
    changed = [name for name, tensor in zip(Point._fields, given, strict=True) if tensor._version]
    if total is None or changed:
        return _refused(point, f"changes its argument {changed[0]} in place" if changed else form)
    slopes, reason = _gradients(total, leaves)
    if reason or not all(tensor.isfinite().all() for tensor in (total, *slopes)):
        return _refused(point, reason or "returns nan or infinity, or has such a gradient")
    y, mu, second = slopes
    return Probe(point, total.item(), y, mu, second, form)


def _refused(point: Point, reason: str) -> Probe:
    y, mu, second = (torch.full_like(tensor, math.nan) for tensor in point[1:])
    return Probe(point, math.nan, y, mu, second, refusal=reason)


def _output(loss: Callable[..., Any], given: list[Tensor], watch: Watch | None) -> tuple[Any, str]:
    """What the loss returned, or in which words it failed: whatever a stranger's code may raise is a finding."""
    try:
        with warnings.catch_warnings(), watch or contextlib.nullcontext():
            warnings.simplefilter("ignore")
            return loss(*given), ""
    except Exception as error:
        return None, f"raises {type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:120]


def total_of(output: Any, batch_size: int) -> tuple[Tensor | None, str]:
    """The number that would be minimised and in which form the loss returned it; without a number, why there is none."""
    if isinstance(output, dict):
        if "loss" not in output:
            return None, "returns a dictionary without an entry named loss: wrap it so that it returns the loss"
        total, form = total_of(output["loss"], batch_size)
        return total, form if total is None else f"the entry 'loss' of a dictionary, {form}"
    if isinstance(output, tuple | list) and output:
        total, form = total_of(output[0], batch_size)
        return total, form if total is None else f"the first of {len(output)} results, {form}"
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = type(output).__name__
        return None, f"returns {kind} instead of a floating-point tensor: nothing can be trained by it"
    if output.numel() == 1:
        return output.reshape(()), "one number"
    if output.shape in {(batch_size,), (batch_size, 1)}:
        return output.mean(), "one number per example (its mean over the batch was audited)"
    return None, f"returns a tensor of shape {tuple(output.shape)}: reduce it to one number, or to one per example"


def _gradients(total: Tensor, leaves: list[Tensor]) -> tuple[list[Tensor], str]:
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves], ""
    try:
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    except RuntimeError as error:
        return [], f"has no gradient: {first_line(error)}"
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)], ""


# --- Points ----------------------------------------------------------------------------------------------------------


class Dice:
    """Reproducible draws in float64. Large ones repeat themselves, with a period that no image size divides."""

    PERIOD = 65_521  # a prime

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def _repeated(self, draw: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        few = draw(torch.empty(min(size, self.PERIOD), dtype=torch.float64))
        return few.repeat(-(-size // self.PERIOD))[:size].reshape(shape)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return self._repeated(lambda few: few.uniform_(low, high, generator=self.generator), shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self._repeated(lambda few: few.normal_(generator=self.generator), shape)

    def sign(self, shape: tuple[int, ...]) -> Tensor:
        return self._repeated(lambda few: 2 * few.bernoulli_(0.5, generator=self.generator) - 1, shape)

    def binary(self, shape: tuple[int, ...]) -> Tensor:
        """Fair coins, the first two of which are 0 and 1: no draw is all black."""
        coins = (self.sign(shape) + 1) / 2
        coins.view(-1)[:2] = torch.tensor([0.0, 1.0], dtype=torch.float64)[: coins.numel()]
        return coins

    def strata(self, num: int, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Numbers that leave no gap between low and high, in random order, (num, *shape)."""
        size = num * math.prod(shape)
        order = torch.randperm(size, generator=self.generator)
        return (low + (high - low) * (order + self.uniform((size,), 0, 1)) / size).reshape(num, *shape)


def targets(setting: Setting, dice: Dice, *, grey: bool) -> Tensor:
    """Zeros and ones, or grey levels that half precision can hold too, (B, *D)."""
    if grey or setting.only_grey:
        odd = 2 * torch.randint(4, 124, setting.x_shape, generator=dice.generator) + 1  # 0.5 itself is singular
        return odd.double() / 256
    return dice.binary(setting.x_shape)


def anchor(setting: Setting, dice: Dice, x: Tensor, *, real: bool = False, signed: bool = False) -> Point:
    """A point far from the prior and from a perfect reconstruction, where thresholds do not bite."""
    z = setting.z_shape
    offset = dice.sign(setting.x_shape) * dice.uniform(setting.x_shape, 0.05, 0.4)  # 0.5 itself is singular
    y = dice.sign(setting.x_shape) * dice.uniform(setting.x_shape, 0.2, 3.0) if real else 0.5 + offset
    second = dice.uniform(z, -1.5, 1.5) if signed else dice.uniform(z, -1.5, 0.6).exp()
    return Point(x, y, dice.sign(z) * dice.uniform(z, 8.0, 16.0), second)


# --- How the loss wants to be called ---------------------------------------------------------------------------------


def settle(setting: Setting) -> tuple[Setting, Probe]:
    """The first way of calling the loss that works: its precision, the output shaped or flat, the targets' range."""
    kinds = itertools.product(
        ((0.0, 1.0), (-1.0, 1.0)), (torch.float64, torch.float32), (False, True), (False, True)
    )  # fmt: skip
    ways = [replace(setting, span=s, dtype=dtype, only_grey=grey, flat=flat) for s, dtype, grey, flat in kinds]
    refused = []
    for way in ways:
        probe = call(way, first_point(way), watch := Watch())
        if not probe.refusal:
            rounded = coarser(way.dtype, watch.coarsest)
            return replace(way, noisy=watch.drawn > 0, dtype=rounded), probe
        refused.append((way, probe))
        if "in place" in probe.refusal:  # another way of calling would only hide it
            return refused[-1]
    way, probe = refused[0]
    return way, probe._replace(refusal=probe.refusal + _hint(way))


def first_point(setting: Setting, *, grey: bool = False) -> Point:
    dice = Dice(0)
    return anchor(setting, dice, targets(setting, dice, grey=grey))


def _hint(setting: Setting) -> str:
    """What may help a loss that could not be called at all."""

    def pair(x: Tensor, y: Tensor, mu: Tensor, second: Tensor) -> Any:
        return setting.loss(x, (y, torch.zeros_like(y)), mu, second)

    if not measure(replace(setting, loss=pair), first_point(setting)).refusal:
        return (
            ". It wants a pair from the decoder, such as a mean and a log-variance; the audit hands over one number for "
            "each pixel: audit lambda x, y, mu, second: loss(x, (y, fixed), mu, second)"
        )
    return ""


class Domain(NamedTuple):
    """What the loss accepts: grey targets, decoder outputs outside (0, 1), negative second outputs."""

    grey: bool
    real: bool
    signed: bool


def domain(setting: Setting) -> Domain:
    def accepts(*, grey: bool = False, real: bool = False, signed: bool = False) -> bool:
        dice = Dice(1)
        x = targets(setting, dice, grey=grey)
        num = 2 if x.numel() < 100 else 1  # of few entries, none may have met what is refused
        return not refusal(*(measure(setting, anchor(setting, dice, x, real=real, signed=signed)) for _ in range(num)))

    return Domain(accepts(grey=True), accepts(real=True), accepts(signed=True))


class Group(NamedTuple):
    """Several anchors with the same targets, the calls along the leading axis, and of which kind they are."""

    x: Tensor  # (B, *D)
    y: Tensor  # (P, B, *D)
    mu: Tensor  # (P, B, J)
    second: Tensor  # (P, B, J)
    of_y: Tensor  # the loss's derivatives, shaped alike
    of_mu: Tensor
    of_second: Tensor
    value: float  # of the first call
    grey: bool
    real: bool
    signed: bool
    refusal: str = ""

    @property
    def first(self) -> Point:
        return Point(self.x, self.y[0], self.mu[0], self.second[0])


def gather(
    setting: Setting, dice: Dice, *, grey: bool = False, real: bool = False, signed: bool = False, num: int = 3
) -> Group:
    x = targets(setting, dice, grey=grey)
    probes = [measure(setting, anchor(setting, dice, x, real=real, signed=signed)) for _ in range(num)]

    def stacked(read: Callable[[Probe], tuple[Tensor, ...]]) -> list[Tensor]:
        return [torch.stack(column).double() for column in zip(*map(read, probes), strict=True)]

    y, mu, second = stacked(lambda probe: probe.point[1:])
    of_y, of_mu, of_second = stacked(lambda probe: probe.slopes)
    x, value, reason = probes[0].point.x.double(), probes[0].value, refusal(*probes)
    return Group(x, y, mu, second, of_y, of_mu, of_second, value, grey, real, signed, reason)


def groups(setting: Setting, accepted: Domain, *, real: bool = True) -> Iterator[Group]:
    """Zeros and ones with positive second outputs, the same with any, and grey targets."""
    dice, wide = Dice(23), real and accepted.real
    kinds = [(setting.only_grey, False), (setting.only_grey, accepted.signed), (True, accepted.signed)]
    for grey, signed in kinds[: 2 + (accepted.grey and not setting.only_grey)]:
        yield gather(setting, dice, grey=grey, real=wide, signed=signed)


# --- Is it a function at all? ----------------------------------------------------------------------------------------


def unsteady(setting: Setting, first: Probe) -> str:
    """Why the same point does not give the same answer whenever it is asked, or nothing."""
    again = measure(setting, first.point)
    same = all(close(one, other, 1e-12) for one, other in zip(first.slopes, again.slopes, strict=True))
    if same and abs(again.value - first.value) <= 1e-12 * abs(first.value):
        return ""
    return (
        "answers differently when it is called again with the same arguments: it draws random numbers (other than "
        "torch's normal ones, which the audit averages over), or it depends on a counter (annealing). Audit it with that "
        "randomness or the schedule switched off"
    )


def unaveraged(setting: Setting) -> str:
    """Why the mean over mirrored noise is not the expectation, or nothing: mean(f) has to be A + size^2 B."""
    if not setting.noisy:
        return ""
    points = [first_point(setting), first_point(setting)._replace(mu=torch.zeros(setting.z_shape))]
    for point in points:
        sums = []
        for size in (0.0, 1.0, 8.0):
            one, other = (call(setting, point, Watch(sign * size, seed=1)) for sign in (1.0, -1.0))
            entries = zip(one.slopes, other.slopes, strict=True)
            sums.append(torch.cat([(a + b).double().flatten() for a, b in entries]))
        growth, far = sums[1] - sums[0], sums[2] - sums[0]
        if not close(64 * growth, far, 1e4 * setting.strict, floor=float(sums[0].abs().max())):
            return "draws normal noise and is not quadratic in it: the audit cannot average over it"
    return ""


def mixed_up(setting: Setting, first: Probe) -> str:
    """Of a loss that returns (B,), each entry must depend on its own example alone."""
    if "per example" not in first.form:
        return ""

    def entry(*arguments: Tensor) -> Tensor:
        output = setting.loss(*arguments)
        while not isinstance(output, Tensor):
            output = output["loss"] if isinstance(output, dict) else output[0]
        return output.reshape(setting.batch_size)[0]

    probe = measure(replace(setting, loss=entry), first.point)
    if any(float(slope[1:].abs().max()) > 0 for slope in probe.slopes):
        return "returns (B,) numbers, but they do not belong to one example each: reduce them to one number"
    return probe.refusal


def close(first: Tensor, second: Tensor, tolerance: float, floor: float = 0.0) -> bool:
    size = first.abs() + second.abs()
    return bool(((first - second).abs() <= tolerance * (size + 1e-4 * size.max() + floor)).all())
