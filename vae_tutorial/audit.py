r"""The loss audit: what does *your* VAE loss compute, and which beta does it imply?

A VAE is trained by minimising, for a batch of B images with D pixels and J latents, the mean over the batch of

.. math:: -\mathrm{ELBO} = \underbrace{\sum_{d=1}^D r(x_d, y_d)}_{-\log p(x \mid z)}
    + \underbrace{\tfrac12 \sum_{j=1}^J
    \big( \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1 \big)}_{\mathrm{KL}(q \,\|\, N(0, I))},

where y is the decoder's output and r the negative log-likelihood of one pixel. Every loss of the form

.. math:: L = a \sum_{b,d} r(x_{bd}, y_{bd}) + c \sum_{b,j} k(\mu_{bj}, s_{bj}) + \text{const},
    \qquad k = \tfrac12 (\mu^2 + \sigma^2 - \log \sigma^2 - 1),

is :math:`a` times the negative beta-ELBO with :math:`\beta = c / a`. A common factor of both terms moves no optimum (Adam
does not even notice it), and a constant has no gradient. So the *ratio* decides, and a mean where a sum belongs changes it:

===========================  ===========================  ==================
reconstruction over pixels   KL over latents              implied beta
===========================  ===========================  ==================
sum                          sum                          1
mean, a = 1/D                sum, c = 1                   D
sum                          mean, c = 1/J                1/J
mean                         mean                         D/J
mean                         sum, times w                 w D
===========================  ===========================  ==================

and if the batch is averaged in one term and summed in the other, beta has a factor B or 1/B more. A likelihood with a
scale v, that is :math:`r_v = r_1 / v` plus the constant of its normaliser, hides a second factor: the Gaussian with
variance v has :math:`r_v = (x - y)^2 / 2v`, so

.. math:: \sum_d (x_d - y_d)^2 + \mathrm{KL} = 2 \Big( \tfrac12 \sum_d (x_d - y_d)^2 + \tfrac12 \mathrm{KL} \Big)

is beta = 1/2 with unit variance, and just as well beta = 1 with v = 1/2. No gradient can tell the two apart; the
normaliser :math:`\tfrac12 \log 2 \pi v` can, if the loss keeps it.

**How it is found out.** The loss is only called, never read. In each call all pixels, means and second outputs are drawn
independently, and autograd returns one derivative for each of them. If the loss has the form above, the derivative at
pixel (b, d) is :math:`a \, \partial r / \partial y` at :math:`(x_{bd}, y_{bd})`, whatever the other entries are. For a
Gaussian q and a Gaussian prior the derivatives are linear in four numbers,

.. math:: \frac{\partial L}{\partial \mu} = 2 c_\mu \mu + c_1, \qquad
    \frac{\partial L}{\partial s} = \Big( c_\sigma \sigma^2 + c_{\log} \Big) \frac{\partial \log \sigma^2}{\partial s},

and the prior :math:`N(m, v)` has :math:`c_\mu = c_\sigma = c / 2v`, :math:`c_1 = -c\,m / v`, :math:`c_{\log} = -c / 2`. Each
entry gets its own least-squares fit over several calls. A candidate is accepted when it explains every derivative to
rounding, also close to the prior, close to a perfect reconstruction and far away from both, and when the *values* of the
loss move as the derivatives say. An interaction between the terms, between pixels or between examples cannot pass. Then
other batch, image and latent sizes show what is averaged.

**What it cannot know.** Whether the decoder ends in a sigmoid, whether your pixels are binary, and what the loss does in
calls that differ from those it made. How your code samples z is not part of the loss either: pass the function as
``reparameterize``, and the audit checks that both read the second output alike.

Shapes: x and y are (B, \*D), mu and the second output are (B, J).
"""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CORRECT = "correct"
SCALED = "correct up to a constant scale"
BETA = "beta-weighted"
OTHER = "another objective"
LIMITED = "right only in part of its domain"
WRONG = "wrong"
UNKNOWN = "unknown"


# --- What a loss may be made of --------------------------------------------------------------------------------------


class _Likelihood(NamedTuple):
    """One candidate for the reconstruction: the negative log-likelihood of one pixel, up to scale and constant."""

    name: str
    output: str  # what the decoder's output y is taken for
    per_pixel: Callable[[Tensor, Tensor], Tensor]  # (x, y), any shape
    domain: tuple[float, float] = (-math.inf, math.inf)  # of y
    binary: bool = False  # whether the targets have to be zeros and ones
    normalizer: Callable[[float], float] | None = None  # log of the normaliser, for the families with a scale
    mistake: str = ""  # why it is no likelihood


class _Parameter(NamedTuple):
    """One candidate for the meaning of the encoder's second output s."""

    name: str
    log_var: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]  # the second output that has this log-variance
    sampling: str
    positive: bool = False  # whether s has to be positive


def _log_normalizer(logits: Tensor) -> Tensor:
    """log C of the continuous Bernoulli at logits l: C = (l / 2) / tanh(l / 2) * 2; even in l."""
    half = logits.abs() / 2
    return math.log(2) + torch.log(half / torch.tanh(half))


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


def _bce(x: Tensor, p: Tensor) -> Tensor:
    return -torch.xlogy(x, p) - torch.special.xlog1py(1 - x, -p)


def _bce_with_logits(x: Tensor, logits: Tensor) -> Tensor:
    return F.softplus(logits) - x * logits


def _half_square(x: Tensor, mean: Tensor) -> Tensor:
    return (x - mean).square() / 2


def _gaussian_normalizer(variance: float) -> float:
    return 0.5 * math.log(2 * math.pi * variance)


def _laplace_normalizer(scale: float) -> float:
    return math.log(2 * scale)


_NOT_NORMALIZED = "this penalty is not the negative log-likelihood of a distribution in the audit's table"
_LIKELIHOODS = (
    _Likelihood("Bernoulli (binary cross-entropy)", "probabilities", _bce, (0, 1), binary=True),
    _Likelihood("Bernoulli (binary cross-entropy)", "logits", _bce_with_logits, binary=True),
    _Likelihood("Gaussian (squared error)", "the mean", _half_square, normalizer=_gaussian_normalizer),
    _Likelihood(
        "Gaussian (squared error)", "the mean, before a sigmoid", lambda x, y: _half_square(x, y.sigmoid()),
        normalizer=_gaussian_normalizer,
    ),
    _Likelihood(
        "Gaussian (squared error)", "the mean, before a tanh", lambda x, y: _half_square(x, y.tanh()),
        normalizer=_gaussian_normalizer,
    ),
    _Likelihood("Laplace (absolute error)", "the median", lambda x, y: (x - y).abs(), normalizer=_laplace_normalizer),
    _Likelihood(
        "Laplace (absolute error)", "the median, before a sigmoid", lambda x, y: (x - y.sigmoid()).abs(),
        normalizer=_laplace_normalizer,
    ),
    _Likelihood(
        "continuous Bernoulli", "logits", lambda x, y: _bce_with_logits(x, y) - _log_normalizer(y),
    ),
    _Likelihood(
        "continuous Bernoulli", "probabilities (its parameter, not its mean)",
        lambda x, y: _bce(x, y) - _log_normalizer(y.logit()), (0, 1),
    ),
    _Likelihood("Poisson", "the log of the rate", lambda x, y: y.exp() - x * y),
    _Likelihood("Poisson", "the rate", lambda x, y: y - torch.xlogy(x, y), (0, math.inf)),
    _Likelihood(
        "Huber (smooth absolute error)", "the centre", lambda x, y: F.huber_loss(y, x, reduction="none"),
        mistake=_NOT_NORMALIZED,
    ),
    _Likelihood(
        "log-cosh", "the centre", lambda x, y: F.softplus(2 * (x - y)) - (x - y), mistake=_NOT_NORMALIZED
    ),
    _Likelihood(
        "binary cross-entropy", "logits, through two sigmoids", lambda x, y: _bce_with_logits(x, y.sigmoid()),
        mistake="a sigmoid is applied twice: the probability cannot leave the interval from 0.5 to 0.73",
    ),
    _Likelihood(
        "binary cross-entropy with its arguments swapped", "targets", lambda x, y: _bce(y, x),
        mistake="the data stand where the prediction belongs: swap the two arguments (the audit calls "
        "loss(x, decoder_output, mu, second))",
    ),
    _Likelihood(
        "half of a binary cross-entropy, x log y", "probabilities", lambda x, y: -torch.xlogy(x, y), (0, 1),
        mistake="the term (1 - x) log(1 - y) is missing: nothing keeps the decoder from painting everything white",
    ),
)  # fmt: skip

_PARAMETERS = (
    _Parameter("log sigma^2", lambda s: s, lambda v: v, "mu + torch.exp(0.5 * second) * eps"),
    _Parameter("log sigma", lambda s: 2 * s, lambda v: v / 2, "mu + torch.exp(second) * eps"),
    _Parameter("sigma", lambda s: s.square().log(), lambda v: (v / 2).exp(), "mu + second * eps", positive=True),
    _Parameter("sigma^2", lambda s: s.log(), torch.exp, "mu + second.sqrt() * eps", positive=True),
    _Parameter(
        "sigma before a softplus", lambda s: 2 * F.softplus(s).log(), lambda v: _inverse_softplus((v / 2).exp()),
        "mu + F.softplus(second) * eps",
    ),
    _Parameter(
        "sigma^2 before a softplus", lambda s: F.softplus(s).log(), lambda v: _inverse_softplus(v.exp()),
        "mu + F.softplus(second).sqrt() * eps",
    ),
    _Parameter("log of 1 / sigma^2", lambda s: -s, lambda v: -v, "mu + torch.exp(-0.5 * second) * eps"),
    _Parameter("1 / sigma^2", lambda s: -s.log(), lambda v: (-v).exp(), "mu + second.rsqrt() * eps", positive=True),
)  # fmt: skip


# --- Calling the loss ------------------------------------------------------------------------------------------------


class _Refusal(Exception):
    """The loss could not be measured at a point; the message says why, as a clause with the loss for its subject."""


@dataclass(frozen=True)
class _Setting:
    """How the loss is called: its sizes and its floating-point type."""

    loss: Callable[..., Any]
    batch_size: int
    data_shape: tuple[int, ...]
    num_latents: int
    flat: bool = False  # whether the decoder's output has its data axes flattened
    reparameterize: Callable[[Tensor, Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float64
    only_grey: bool = False  # whether targets of exactly 0 and 1 are refused

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch_size, *self.data_shape)

    @property
    def z_shape(self) -> tuple[int, ...]:
        return (self.batch_size, self.num_latents)

    @property
    def num_pixels(self) -> int:
        return math.prod(self.data_shape)


class _Point(NamedTuple):
    """Where the loss is called: x and y are (B, *D), mu and second are (B, J)."""

    x: Tensor
    y: Tensor
    mu: Tensor
    second: Tensor


class _Probe(NamedTuple):
    """What came back: the value and one derivative for each entry of y, mu and second."""

    point: _Point
    value: float
    y: Tensor
    mu: Tensor
    second: Tensor
    form: str  # of the loss's output
    precision: torch.dtype  # of the loss's output

    @property
    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.y, self.mu, self.second


def _measure(setting: _Setting, point: _Point) -> _Probe:
    """Value and derivatives of the loss at one point; the loss gets copies of all four tensors."""
    point = _Point(*(tensor.to(setting.dtype) for tensor in point))
    leaves = [tensor.clone().requires_grad_() for tensor in point[1:]]
    given = [point.x.clone(), *(leaf.clone() for leaf in leaves)]
    if setting.flat:
        given[1] = given[1].flatten(1)
    total, form = _total(_called(setting.loss, given), setting.batch_size)
    for name, before, after in zip(_Point._fields, point, given, strict=True):
        if not torch.equal(before, after.detach().reshape(before.shape)):
            raise _Refusal(f"changes its argument {name} in place")
    of_y, of_mu, of_second = _gradients(total, leaves)
    if not all(tensor.isfinite().all() for tensor in (total, of_y, of_mu, of_second)):
        raise _Refusal("returns nan or infinity, or has such a gradient")
    return _Probe(point, total.item(), of_y, of_mu, of_second, form, total.dtype)


def _called(loss: Callable[..., Any], given: list[Tensor]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loss(*given)
    except Exception as error:  # whatever a stranger's loss may raise is a finding, not a failure of the audit
        message = (str(error).strip() or "no message").splitlines()[0][:120]
        raise _Refusal(f"raises {type(error).__name__}: {message}") from error


def _total(output: Any, batch_size: int) -> tuple[Tensor, str]:
    """The number that would be minimised, and in which form the loss returned it."""
    if isinstance(output, dict):
        if "loss" not in output:
            raise _Refusal("returns a dictionary without an entry named loss: wrap it so that it returns the loss")
        total, form = _total(output["loss"], batch_size)
        return total, f"the entry 'loss' of a dictionary, {form}"
    if isinstance(output, tuple | list) and output:
        total, form = _total(output[0], batch_size)
        return total, f"the first of {len(output)} results, {form}"
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise _Refusal(
            f"returns {type(output).__name__} instead of a floating-point tensor: nothing can be trained by it"
        )
    if output.numel() == 1:
        return output.reshape(()), "one number"
    if output.shape in {(batch_size,), (batch_size, 1)}:
        return output.mean(), "one number per example (its mean over the batch was audited)"
    raise _Refusal(f"returns a tensor of shape {tuple(output.shape)}: reduce it to one number, or to one per example")


def _gradients(total: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    try:
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    except RuntimeError as error:
        raise _Refusal(f"has no gradient: {str(error).splitlines()[0][:120]}") from error
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


# --- Points ----------------------------------------------------------------------------------------------------------


class _Domain(NamedTuple):
    """What the loss accepts: grey targets, decoder outputs outside (0, 1), negative second outputs."""

    grey: bool
    real: bool
    signed: bool


class _Dice:
    """Reproducible draws in float64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def sign(self, shape: tuple[int, ...]) -> Tensor:
        return 2.0 * self.binary(shape) - 1

    def binary(self, shape: tuple[int, ...]) -> Tensor:
        """Fair coins, the first two of which are 0 and 1: no draw is all black."""
        coins = torch.randint(2, shape, generator=self.generator).to(torch.float64)
        coins.view(-1)[:2] = torch.tensor([0.0, 1.0], dtype=torch.float64)[: coins.numel()]
        return coins


def _targets(setting: _Setting, dice: _Dice, *, grey: bool) -> Tensor:
    return dice.uniform(setting.x_shape, 0.03, 0.97) if grey or setting.only_grey else dice.binary(setting.x_shape)


def _anchor(setting: _Setting, dice: _Dice, x: Tensor, *, real: bool, signed: bool) -> _Point:
    """A point far from the prior and from a perfect reconstruction, where thresholds do not bite."""
    z = setting.z_shape
    offset = dice.sign(setting.x_shape) * dice.uniform(setting.x_shape, 0.05, 0.4)  # 0.5 itself is singular
    y = dice.sign(setting.x_shape) * dice.uniform(setting.x_shape, 0.2, 3.0) if real else 0.5 + offset
    second = dice.uniform(z, -1.5, 1.5) if signed else dice.uniform(z, -1.5, 0.6).exp()
    return _Point(x, y, dice.sign(z) * dice.uniform(z, 8.0, 16.0), second)


def _group(setting: _Setting, dice: _Dice, *, grey: bool, real: bool, signed: bool, num: int = 5) -> list[_Probe]:
    """Several anchors with the same targets."""
    x = _targets(setting, dice, grey=grey)
    return [_measure(setting, _anchor(setting, dice, x, real=real, signed=signed)) for _ in range(num)]


def _accepts(setting: _Setting, **kind: bool) -> bool:
    try:
        _group(setting, _Dice(1), **({"grey": False, "real": False, "signed": False} | kind), num=2)
    except _Refusal:
        return False
    return True


def _domain(setting: _Setting) -> _Domain:
    return _Domain(*(_accepts(setting, **{name: True}) for name in _Domain._fields))


# --- Fitting the candidates ------------------------------------------------------------------------------------------

_LOOSE = 1e-4  # a candidate with a guard against log 0 inside still counts as found; it is then checked strictly
_FAR = 1e-2  # relative disagreement that counts as a limit of the domain


def _strict(setting: _Setting) -> float:
    """Relative error at which two numbers of the loss are still the same."""
    return 1e-9 if setting.dtype == torch.float64 else 2e-5


class _Group(NamedTuple):
    """Anchors with the same targets, and of which kind they are."""

    probes: list[_Probe]
    grey: bool
    real: bool
    signed: bool


class _PixelFit(NamedTuple):
    """How a likelihood explains the derivatives: one weight for each pixel and group, (G, B, *D)."""

    likelihood: _Likelihood
    weight: Tensor
    deviation: float
    narrowed: bool = False  # whether decoder outputs outside (0, 1) had to be left out


class _PriorFit(NamedTuple):
    """L = sum of square mu^2 + linear mu + variance sigma^2 + log log sigma^2; four numbers for each latent, (B, J)."""

    parameter: _Parameter
    square: Tensor
    linear: Tensor
    variance: Tensor
    log: Tensor
    deviation: float


def _slopes(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    """Derivatives of the summed function in each argument."""
    leaves = [argument.detach().double().requires_grad_() for argument in arguments]
    gradients = torch.autograd.grad(function(*leaves).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


def _relative(residual: Tensor, size: Tensor) -> float:
    """Largest residual in units of the largest derivative of its own entry; the leading axis holds the calls."""
    scale = size.abs().amax(0) + 1e-3 * size.abs().max()
    ratio = (residual.abs().amax(0) / scale).nan_to_num(nan=math.inf)
    return float(ratio.max())


def _fit_pixels(likelihood: _Likelihood, group: _Group) -> tuple[Tensor, float]:
    """One weight for each pixel by least squares over the calls, (B, *D), and the relative deviation."""
    outputs, found = (torch.stack(t).double() for t in zip(*((p.point.y, p.y) for p in group.probes), strict=True))
    x = group.probes[0].point.x.double().expand_as(outputs)  # (P, B, *D)
    (slopes,) = _slopes(lambda y: likelihood.per_pixel(x, y), outputs)
    norm = slopes.square().sum(0)
    weight = torch.where(norm > 0, (found * slopes).sum(0) / norm, math.nan)
    residual = torch.where(norm > 0, found - weight * slopes, found)
    return weight, _relative(residual, found)


def _fits(likelihood: _Likelihood, group: _Group) -> bool:
    """Whether the group's points are in the likelihood's domain, and its targets what the likelihood is for."""
    return not (group.real and math.isfinite(likelihood.domain[0])) and not (group.grey and likelihood.binary)


def _pixel_fit(likelihood: _Likelihood, groups: list[_Group]) -> _PixelFit:
    """The likelihood's weights in all groups that are in its domain; the first misfit ends it."""
    weights, worst = [torch.ones(1)], math.inf
    for index, group in enumerate(group for group in groups if _fits(likelihood, group)):
        weight, deviation = _fit_pixels(likelihood, group)
        weights, worst = ([*weights, weight], max(worst, deviation)) if index else ([weight], deviation)
        if worst > _LOOSE:
            break
    return _PixelFit(likelihood, torch.stack(weights), worst)


def _best_pixels(groups: list[_Group]) -> _PixelFit:
    fits = [_pixel_fit(likelihood, groups) for likelihood in _LIKELIHOODS]
    return min(fits, key=lambda fit: (fit.deviation > _LOOSE, _spread(fit.weight) > _LOOSE, fit.deviation))


def _regress(target: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, float]:
    """Two coefficients for each entry by least squares over the calls; all arguments are (P, B, J)."""
    design = torch.stack([first, second], -1).permute(1, 2, 0, 3)  # (B, J, P, 2)
    size = design.abs().amax(-2, keepdim=True)  # (B, J, 1, 2)
    solution = torch.linalg.lstsq(design / size, target.permute(1, 2, 0).unsqueeze(-1)).solution.mT / size
    residual = target - (design * solution).sum(-1).permute(2, 0, 1)
    return solution[..., 0, 0], solution[..., 0, 1], _relative(residual, target)


def _fit_prior(parameter: _Parameter, probes: list[_Probe]) -> _PriorFit:
    mu, second, of_mu, of_second = (
        torch.stack([t.double() for t in column])
        for column in zip(*((p.point.mu, p.point.second, p.mu, p.second) for p in probes), strict=True)
    )
    (slope,) = _slopes(parameter.log_var, second)
    variance = parameter.log_var(second).exp()
    twice, linear, deviation_mu = _regress(of_mu, mu, torch.ones_like(mu))
    weight, log, deviation_second = _regress(of_second, variance * slope, slope)
    numbers = torch.stack([twice / 2, linear, weight, log])
    numbers[numbers.abs() < 1e-9 * numbers.abs().max()] = 0.0  # rounding
    square, linear, weight, log = numbers
    return _PriorFit(parameter, square, linear, weight, log, max(deviation_mu, deviation_second))


def _best_prior(groups: list[_Group]) -> _PriorFit:
    """The parametrisation that explains the derivatives best; negative second outputs only where they have a meaning."""
    fits = []
    for parameter in _PARAMETERS:
        probes = [probe for group in groups for probe in group.probes if not (parameter.positive and group.signed)]
        fits.append(_fit_prior(parameter, probes))
    return min(fits, key=lambda fit: fit.deviation)


def _reverse_kl(parameter: _Parameter, mu: Tensor, second: Tensor) -> Tensor:
    """KL(N(0, 1) || q), the wrong way round."""
    log_var = parameter.log_var(second)
    return 0.5 * (log_var + (1 + mu.square()) * torch.exp(-log_var) - 1)


def _is_reversed(parameter: _Parameter, probes: list[_Probe]) -> bool:
    slopes = [_slopes(lambda *z: _reverse_kl(parameter, *z), p.point.mu, p.point.second) for p in probes]
    expected = torch.stack([torch.cat(pair) for pair in slopes])
    found = torch.stack([torch.cat([p.mu, p.second]).double() for p in probes])
    weight = (expected * found).sum() / expected.square().sum()
    return _relative(found - weight * expected, found) < _LOOSE


# --- The loss that was found, as a model of the reader's loss --------------------------------------------------------


class _Model(NamedTuple):
    """The two fits together: what the loss should return and how it should slope."""

    pixels: _PixelFit
    prior: _PriorFit

    def value(self, x: Tensor, y: Tensor, mu: Tensor, second: Tensor) -> Tensor:
        """The loss up to a constant; x is (B, *D), mu is (B, J), the result a number of shape ()."""
        weight, log_var = self.pixels.weight[0].nan_to_num(), self.prior.parameter.log_var(second)
        prior = self.prior.square * mu.square() + self.prior.linear * mu
        prior = prior + self.prior.variance * log_var.exp() + self.prior.log * log_var
        return (weight * self.pixels.likelihood.per_pixel(x, y)).sum() + prior.sum()

    def disagreement(self, probe: _Probe) -> tuple[float, ...]:
        """Largest relative disagreement of the derivatives in y, in mu and in the second output."""
        expected = _slopes(self.value, *probe.point)[1:]
        sizes = [self.pixels.weight, self.prior.square, self.prior.log]
        rounding = 1e-4 if probe.y.dtype == torch.float64 else 1e-2
        gaps = []
        for found, right, size in zip(probe.slopes, expected, sizes, strict=True):
            floor = rounding * float(size.nan_to_num().abs().max())
            gaps.append(float(((found.double() - right).abs() / (right.abs() + floor)).max()))
        return tuple(gaps)


# --- Does the model hold everywhere? ---------------------------------------------------------------------------------

_LEVELS = (0.0, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)


def _near(setting: _Setting, dice: _Dice, model: _Model, level: float, *, grey: bool, mixed: bool = False) -> _Point:
    """A point at a distance of about this level from the prior and from a perfect reconstruction."""
    x, parameter = _targets(setting, dice, grey=grey), model.prior.parameter
    scale = 10 ** dice.uniform(setting.z_shape, -3, 1) if mixed else level
    noise = dice.normal(setting.x_shape)
    if model.pixels.likelihood.domain[0] == 0:
        y = x + (0.5 - x) * min(max(level, 1e-3), 0.9) * (0.1 + 0.9 * noise.sigmoid())
    else:
        y = x + max(level, 1e-3) * noise
    log_var = (scale * dice.normal(setting.z_shape)).clamp(-6, 6)
    return _Point(x, y, scale * dice.normal(setting.z_shape), parameter.inverse(log_var))


class _Course(NamedTuple):
    """One quantity taken to extremes while the others stay put."""

    name: str
    part: int  # which derivative has to hold: 0 for y, 1 for mu, 2 for the second output
    place: Callable[[_Point, float], _Point]
    values: tuple[float, ...]  # outwards


def _courses(likelihood: _Likelihood, parameter: _Parameter) -> Iterator[_Course]:
    def second(point: _Point, value: float) -> _Point:
        return point._replace(second=parameter.inverse(torch.full_like(point.second, value)))

    def mean(point: _Point, value: float) -> _Point:
        return point._replace(mu=torch.full_like(point.mu, value))

    def output(point: _Point, value: float) -> _Point:
        return point._replace(y=torch.full_like(point.y, value))

    wide = (2.0, 3.0, 4.5, 6.0, 8.0, 9.5, 11.0, 13.0, 15.0, 17.0, 19.0, 21.0, 25.0, 30.0)
    for sign in (1, -1):
        yield _Course("log sigma^2", 2, second, tuple(sign * v for v in wide))
        yield _Course("mu", 1, mean, tuple(sign * v for v in (20.0, 50.0, 100.0, 1000.0)))
        if math.isinf(likelihood.domain[0]):
            yield _Course(
                "the decoder's output", 0, output, tuple(sign * v for v in (3.0, 4.0, 6.0, 9.0, 12.0, 16.0, 20.0))
            )
    if likelihood.domain[0] == 0:
        small = tuple(10.0**-k for k in range(1, 10))
        yield _Course("the decoder's output", 0, output, small)
    if likelihood.domain[1] == 1:
        yield _Course("the decoder's output", 0, output, tuple(1 - p for p in small))


def _holds(setting: _Setting, model: _Model, course: _Course, point: _Point, value: float) -> bool:
    try:
        return model.disagreement(_measure(setting, course.place(point, value)))[course.part] < _FAR
    except _Refusal:
        return False


def _limit(setting: _Setting, model: _Model, course: _Course, point: _Point) -> float | None:
    """The value along the course from which the model no longer holds; None if there is none, nan if it never holds."""
    # Not at 0, where the right derivative is 0 whatever its factor, nor at 0.5, singular for a continuous Bernoulli.
    last = course.values[0] / 4 if course.part else 0.4
    if not _holds(setting, model, course, point, last):
        return math.nan
    for value in course.values:
        if not _holds(setting, model, course, point, value):
            return _bisect(last, value, lambda middle: _holds(setting, model, course, point, middle))
        last = value
    return None


def _bisect(good: float, bad: float, holds: Callable[[float], bool]) -> float:
    for _ in range(20):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return bad


def _limits(setting: _Setting, model: _Model) -> list[tuple[str, float]]:
    """Where the loss stops being what it is elsewhere: clamps, guards, overflow."""
    if setting.dtype != torch.float64:
        return []
    dice = _Dice(5)
    point = _anchor(setting, dice, _targets(setting, dice, grey=False), real=False, signed=False)
    found = []
    for course in _courses(model.pixels.likelihood, model.prior.parameter):
        start = point._replace(mu=point.mu / 8) if course.part == 2 else point
        limit = _limit(setting, model, course, start)
        if limit is not None:
            found.append((course.name, limit))
    return found


def _disagreements(setting: _Setting, model: _Model, domain: _Domain) -> list[tuple[float, ...]]:
    """Relative disagreements with the model in y, mu and the second output, at all levels."""
    dice, grey = _Dice(3), domain.grey and not model.pixels.likelihood.binary
    points = [_near(setting, dice, model, level, grey=grey) for level in _LEVELS]
    points += [_near(setting, dice, model, 0.5, grey=grey, mixed=True) for _ in range(3)]
    return [model.disagreement(_measure(setting, point)) for point in points]


def _strata(dice: _Dice, num: int, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Numbers that leave no gap between low and high, in random order, (num, *shape)."""
    size = num * math.prod(shape)
    order = torch.randperm(size, generator=dice.generator)
    return (low + (high - low) * (order + dice.uniform((size,), 0, 1)) / size).reshape(num, *shape)


def _sweep(
    setting: _Setting, model: _Model, domain: _Domain, *, span: tuple[float, float] | None = None
) -> list[float]:
    """Relative disagreements in y, mu and the second output at points that cover the whole range of each.

    ``span`` is the range of the targets, if they are not to be zeros and ones or grey levels.
    """
    dice, num, grey = _Dice(43), 8, domain.grey and not model.pixels.likelihood.binary
    y = _strata(dice, num, setting.x_shape, -12, 12)
    y = y.sigmoid() if model.pixels.likelihood.domain[0] == 0 else y
    mu = _strata(dice, num, setting.z_shape, -30, 30)
    second = model.prior.parameter.inverse(_strata(dice, num, setting.z_shape, -12, 12))
    worst = [0.0, 0.0, 0.0]
    for place in zip(y, mu, second, strict=True):
        x = dice.uniform(setting.x_shape, *span) if span else _targets(setting, dice, grey=grey)
        gaps = model.disagreement(_measure(setting, _Point(x, *place)))
        worst = [max(pair) for pair in zip(worst, gaps, strict=True)]
    return worst


def _changes_targets(setting: _Setting, model: _Model, domain: _Domain) -> bool:
    """Whether a likelihood of real numbers treats targets outside (0, 1) differently; refusing them is no fault."""
    if model.pixels.likelihood.normalizer is None or not domain.grey:
        return False
    try:
        return _sweep(setting, model, domain, span=(-3.0, 3.0))[0] > _FAR
    except _Refusal:
        return False


def _value_disagreement(setting: _Setting, model: _Model, domain: _Domain) -> float:
    """How far the values move from what the model says, between points that share their targets; relative."""
    dice, grey = _Dice(7), domain.grey and not model.pixels.likelihood.binary
    base = _near(setting, dice, model, 0.5, grey=grey)
    other = _near(setting, dice, model, 1.0, grey=grey)
    far = _anchor(setting, dice, base.x, real=False, signed=False)
    moves = [base, base._replace(y=far.y), base._replace(mu=other.mu), base._replace(second=other.second)]
    moves += [base._replace(mu=far.mu), far, far._replace(second=other.second)]
    probes = [_measure(setting, point) for point in moves]
    modelled = [float(model.value(*(t.double() for t in p.point))) for p in probes]
    gaps = [(p.value - probes[0].value) - (m - modelled[0]) for p, m in zip(probes, modelled, strict=True)]
    sizes = [abs(p.value) + abs(m) + abs(probes[0].value) for p, m in zip(probes, modelled, strict=True)]
    return max(abs(gap) / (size + 1e-300) for gap, size in zip(gaps, sizes, strict=True))


# --- What goes together, and what is averaged ------------------------------------------------------------------------


def _close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    size = first.abs() + second.abs()
    return bool(((first - second).abs() <= tolerance * (size + 1e-4 * size.max())).all())


def _mixed(setting: _Setting) -> tuple[_Probe, _Probe, _Probe]:
    """A point, the same with another q, and the same with another decoder output."""
    dice = _Dice(13)
    x = _targets(setting, dice, grey=False)
    base, other = (_anchor(setting, dice, x, real=False, signed=False) for _ in range(2))
    moved = (base, base._replace(mu=other.mu / 1e3, second=other.second), base._replace(y=other.y))
    first, second, third = (_measure(setting, point) for point in moved)
    return first, second, third


def _interaction(setting: _Setting) -> str:
    """Why the loss is not a reconstruction term plus a KL term, or nothing."""
    base, other_q, other_y = _mixed(setting)
    tolerance = 10 * _strict(setting)
    if not _close(base.y, other_q.y, tolerance):
        return "the derivative in the decoder's output depends on mu or the second output"
    if not (_close(base.mu, other_y.mu, tolerance) and _close(base.second, other_y.second, tolerance)):
        return "the derivative in mu or the second output depends on the decoder's output"
    return ""


def _coupling(setting: _Setting, part: int) -> str:
    """Which entries of y (0), mu (1) or the second output (2) act on each other's derivatives, if any do."""
    dice = _Dice(17)
    x = _targets(setting, dice, grey=False)
    base, other = (_anchor(setting, dice, x, real=False, signed=False) for _ in range(2))
    name = _Point._fields[1 + part]
    before, after = getattr(base, name), getattr(other, name)
    rest = torch.cat([before[:1], after[1:]])
    entry = before.clone()
    entry[:, ..., -1:] = after[:, ..., -1:]
    probes = [_measure(setting, base._replace(**{name: tensor})) for tensor in (before, rest, entry)]
    plain, by_rest, by_entry = (probe.slopes[part] for probe in probes)
    if not _close(plain[:1], by_rest[:1], 1e-6):
        return "the examples of a batch act on each other's derivatives"
    if before.shape[-1] > 1 and not _close(plain[..., :-1], by_entry[..., :-1], 1e-6):
        return f"the {'pixels of an image' if part == 0 else 'latents of an example'} act on each other's derivatives"
    return ""


class _Threshold(NamedTuple):
    """Below ``nats`` the KL has the slope ``below`` times the usual one: 0 for free bits, -1 for a capacity."""

    below: float
    nats: float
    group: str


def _threshold(setting: _Setting, model: _Model) -> _Threshold | None:
    """Where the KL's gradient switches on as mu grows, in all latents, in one latent, and in one latent of one example."""
    every, latent, single = (torch.zeros(setting.z_shape, dtype=torch.float64) for _ in range(3))
    every[:], latent[:, 0], single[0, 0] = 1, 1, 1
    below = _switch_ratio(setting, model, every, 1e-4)
    edges = [_switch(setting, model, mask) for mask in (every, latent, single)]
    if min(abs(below), abs(below + 1)) > 1e-6 or not all(edges):
        return None
    per_entry = [edge**2 / 2 for edge in edges if edge]
    over_latents = setting.num_latents > 1 and per_entry[1] > 1.01 * per_entry[0]
    over_batch = per_entry[2] > 1.01 * per_entry[1]
    nats = per_entry[0] * (setting.num_latents if over_latents else 1)
    group = "the KL of an example" if over_latents else "the KL of each latent"
    return _Threshold(round(below), nats, group + (", averaged over the batch" if over_batch else ""))


def _switch_ratio(setting: _Setting, model: _Model, mask: Tensor, size: float) -> float:
    """The derivative in the first mean, relative to what the model says."""
    x = _targets(setting, _Dice(19), grey=False)
    y = torch.full_like(x, 0.6)
    second = model.prior.parameter.inverse(torch.zeros(setting.z_shape, dtype=torch.float64))
    probe = _measure(setting, _Point(x, y, size * mask, second))
    return float(probe.mu[0, 0] / (2 * model.prior.square[0, 0] * size))


def _switch(setting: _Setting, model: _Model, mask: Tensor) -> float | None:
    low, high = 1e-4, 1e3
    if abs(_switch_ratio(setting, model, mask, high) - 1) > 1e-6:
        return None
    for _ in range(50):
        middle = math.sqrt(low * high)
        on = abs(_switch_ratio(setting, model, mask, middle) - 1) < 1e-6
        low, high = (low, middle) if on else (middle, high)
    return high


class _Weights(NamedTuple):
    """The weights a of the reconstruction and c of the KL at one size."""

    pixels: float
    prior: float


def _weights(setting: _Setting, model: _Model) -> _Weights | None:
    """The same candidates fitted at another size; None if they no longer explain the loss or are uneven."""
    probes = _group(setting, _Dice(11), grey=False, real=False, signed=False, num=4)
    pixels = _pixel_fit(model.pixels.likelihood, [_Group(probes, False, False, False)])
    prior = _fit_prior(model.prior.parameter, probes)
    if max(pixels.deviation, prior.deviation) > _LOOSE or _uneven(pixels.weight) or _spread(prior.log) > _LOOSE:
        return None
    return _Weights(float(pixels.weight.nanmean()), -2 * float(prior.log.mean()))


_Sizes = dict[str, tuple[float, _Weights | str]]


def _other_sizes(setting: _Setting) -> dict[str, tuple[float, _Setting]]:
    """The settings to compare with, and the ratio of the changed size to the old one."""
    *rest, last = setting.data_shape
    larger = replace(setting, data_shape=(*rest, last + 1))
    return {
        "batch": ((setting.batch_size + 1) / setting.batch_size, replace(setting, batch_size=setting.batch_size + 1)),
        "pixels": (larger.num_pixels / setting.num_pixels, larger),
        "latents": (
            (setting.num_latents + 1) / setting.num_latents,
            replace(setting, num_latents=setting.num_latents + 1),
        ),
    }


def _reduction(ratio: float, growth: float, tolerance: float) -> str:
    """What a weight that changes by this ratio, when a size grows by ``growth``, says about that size."""
    known = {"sum": 1.0, "mean": 1 / growth}
    return next((name for name, r in known.items() if abs(ratio / r - 1) < tolerance), "neither sum nor mean")


def _spread(weights: Tensor) -> float:
    known = weights[~weights.isnan()]
    size = float(known.abs().max()) if len(known) else 0.0
    return float(known.max() - known.min()) / size if size > 0 else 0.0


def _uneven(weight: Tensor, tolerance: float = _LOOSE) -> str:
    """How the pixels' weights, (G, B, *D), differ, or nothing."""
    if _spread(weight) <= tolerance:
        return ""
    if max(_spread(column) for column in weight.flatten(1).T) > tolerance:
        return "a pixel's weight depends on its target value"
    ignored = weight[0].abs() < 1e-12 * weight[0].nan_to_num().abs().max()  # (B, *D)
    if ignored.any():
        return f"{int(ignored.sum())} of the {ignored.numel()} pixels in a batch are ignored"
    by_example = max(_spread(column) for column in weight[0].flatten(1).T) > tolerance
    return "the examples of a batch have different weights" if by_example else "the pixels have different weights"


# --- Rulings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a loss computes, in plain words; ``print(report)`` shows all of it.

    ``verdict`` is one of the module's constants: CORRECT, SCALED (correct up to a constant scale), BETA (beta-weighted),
    OTHER (another objective: free bits, a capacity, another prior, weighted pixels), LIMITED (right only in part of its
    domain), WRONG or UNKNOWN. ``beta`` is None where it has no meaning or could not be found.
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


class _Ruling(Exception):
    """The end of an audit before all questions were answered."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.verdict)
        self.report = report


def _rule(verdict: str, problem: str, advice: str = "", **known: Any) -> _Ruling:
    return _Ruling(Report(verdict, problems=(problem,), advice=(advice,) if advice else (), **known))


def audit(
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Any],
    *,
    data_shape: tuple[int, ...],
    num_latents: int,
    batch_size: int = 16,
    noise_variance: float | None = None,
    reparameterize: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Report:
    r"""What a VAE loss computes, found by calling it: likelihood, meaning of the second output, reductions, implied beta.

    .. math:: L = a \sum_{b,d} r(x_{bd}, y_{bd}) + c \sum_{b,j} k(\mu_{bj}, s_{bj}) + \text{const},
        \qquad \beta = c / a

    Args:
        loss: to be minimised, called as ``loss(x, decoder_output, mu, second)`` with x and the decoder's output
            (B, \*D) in (0, 1) or beyond, mu and second (B, J); it returns a number or one per example, (B,).
        data_shape: \*D, such as (1, 28, 28) or (784,), as your loss expects it.
        num_latents: J.
        batch_size: B, at least 2, as in your training: beta may depend on it.
        noise_variance: the variance you mean when the loss is a squared error (for an absolute error the Laplace
            scale). Without it, it is read from the normaliser if the loss keeps one, and else taken to be 1.

        reparameterize: your sampling function, called as ``reparameterize(mu, second)``, (B, J) -> (B, J); its noise
            has to come from PyTorch's global generator.

    Returns:
        The report. It is UNKNOWN, with the reason, where the loss is not understood.

    Raises:
        ValueError: if a size is too small.

    Source: the book's chapter on the objective; the beta-weighted bound is Higgins et al. (2017).

    >>> def loss(x, logits, mu, log_var):
    ...     bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    ...     return bce - 0.5 * (1 + log_var - mu**2 - log_var.exp()).mean()
    >>> report = audit(loss, data_shape=(5,), num_latents=2, batch_size=4)
    >>> report.verdict, report.second_output, round(report.beta, 6)
    ('beta-weighted', 'log sigma^2', 0.125)
    """
    if batch_size < 2 or num_latents < 1 or not data_shape or min(data_shape) < 1:
        raise ValueError(
            f"batch_size must be at least 2 and all other sizes at least 1, got batch_size {batch_size}, "
            f"data_shape {tuple(data_shape)}, num_latents {num_latents}"
        )
    if noise_variance is not None and not noise_variance > 0:
        raise ValueError(f"noise_variance must be positive, got {noise_variance}")
    setting = _Setting(loss, batch_size, tuple(data_shape), num_latents, reparameterize=reparameterize)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            return _audit(_settle(setting), noise_variance)
    except _Refusal as refusal:
        return Report(UNKNOWN, problems=(f"the loss {refusal}",))


def _first_point(setting: _Setting) -> _Point:
    dice = _Dice(0)
    return _anchor(setting, dice, _targets(setting, dice, grey=False), real=False, signed=False)


def _settle(setting: _Setting) -> _Setting:
    """The first way of calling the loss that works: in float64 or else float32, with the output shaped or flat."""
    kinds = itertools.product((torch.float64, torch.float32), (False, True), (False, True))
    ways = [replace(setting, dtype=dtype, only_grey=grey, flat=flat) for dtype, grey, flat in kinds]
    refusals = []
    for way in ways:
        try:
            first = _measure(way, _first_point(way))
        except _Refusal as refusal:
            if "in place" in str(refusal):  # another way of calling would only hide it
                raise
            refusals.append(refusal)
        else:
            return replace(way, dtype=torch.float32) if _rounds(way, first) else way
    raise refusals[0]


def _rounds(setting: _Setting, probe: _Probe) -> bool:
    """Whether the loss cannot see the digits beyond float32 in the decoder's output or in q, or does not return them."""
    if probe.precision != torch.float64:
        return True
    for names in (("y",), ("mu", "second")):
        rounded = {name: getattr(probe.point, name).float().to(setting.dtype) for name in names}
        again = _measure(setting, probe.point._replace(**rounded))
        blind = any(getattr(probe, name).abs().max() > 0 for name in names) and again.value == probe.value
        if blind and all(torch.equal(getattr(again, name), getattr(probe, name)) for name in names):
            return True
    return False


def _check_steady(setting: _Setting, first: _Probe) -> None:
    """The same point must give the same answer, however often and whenever it is asked."""
    again = _measure(setting, first.point)
    same = all(_close(getattr(first, name), getattr(again, name), 1e-12) for name in ("y", "mu", "second"))
    if not same or abs(again.value - first.value) > 1e-12 * abs(first.value):
        raise _Refusal(
            "answers differently when it is called again with the same arguments: it draws random numbers, or it "
            "depends on a counter (annealing). Audit it with the randomness or the schedule switched off"
        )


def _check_examples(setting: _Setting, first: _Probe) -> None:
    """Of a loss that returns (B,), each entry must depend on its own example alone."""
    if "per example" not in first.form:
        return
    alone = replace(setting, loss=_first_entry(setting.loss, len(first.point.x)))
    probe = _measure(alone, first.point)
    if any(float(getattr(probe, name)[1:].abs().max()) > 0 for name in ("y", "mu", "second")):
        raise _Refusal("returns (B,) numbers, but they do not belong to one example each: reduce them to one number")


def _first_entry(loss: Callable[..., Any], batch_size: int) -> Callable[..., Tensor]:
    def entry(*arguments: Tensor) -> Tensor:
        output = loss(*arguments)
        while not isinstance(output, Tensor):
            output = output["loss"] if isinstance(output, dict) else output[0]
        return output.reshape(batch_size)[0]

    return entry


def _groups(setting: _Setting, domain: _Domain) -> list[_Group]:
    targets = [False] * (not setting.only_grey) + [True] * domain.grey
    kinds = [(grey, False, False) for grey in targets]
    kinds += [(grey, domain.real, domain.signed) for grey in targets if domain.real or domain.signed]
    dice = _Dice(23)
    return [_Group(_group(setting, dice, grey=g, real=r, signed=s), g, r, s) for g, r, s in kinds]


def _check_alive(setting: _Setting, groups: list[_Group]) -> None:
    """Every argument must have a gradient; if one has none, say whether its term is missing or detached."""
    base = groups[0].probes[0]
    close = base.point._replace(mu=base.point.mu / 16)
    probes = [_measure(setting, close), *(probe for group in groups for probe in group.probes)]
    sizes = {name: max(float(getattr(p, name).abs().max()) for p in probes) for name in ("y", "mu", "second")}
    dead = [name for name, size in sizes.items() if size <= 1e-12 * max(sizes.values())]
    if not dead:
        return
    names = " and ".join(
        "the decoder's output" if n == "y" else "the second output" if n == "second" else n for n in dead
    )
    if any(abs(_moved(setting, base, name) - base.value) > 1e-12 * abs(base.value) for name in dead):
        problem = f"the loss has no gradient in {names}, but its value depends on it: a term is detached"
        raise _rule(WRONG, problem, "no .item(), .detach(), float() or no_grad: let the tensor itself enter the sum")
    beta = 0.0 if dead == ["mu", "second"] else None
    term = "the reconstruction" if dead == ["y"] else "the KL" if beta is not None else "a part of the loss"
    several = "the first of" in base.form  # such as (reconstruction, KL)
    advice = "return the sum of the terms, or put it first: the audit reads the first result" if several else ""
    raise _rule(WRONG, f"{term} is missing: the loss does not depend on {names}", advice, beta=beta)


def _moved(setting: _Setting, base: _Probe, name: str) -> float:
    moved = getattr(base.point, name) * 1.1
    return _measure(setting, base.point._replace(**{name: moved})).value


# --- Reading the numbers ---------------------------------------------------------------------------------------------


class _Issue(NamedTuple):
    """One finding that keeps a loss from being correct."""

    verdict: str
    problem: str
    advice: str = ""


_ORDER = (UNKNOWN, WRONG, OTHER, BETA, LIMITED)


class _Reading(NamedTuple):
    """What the KL's four numbers say: its weight c, and the prior's mean and variance."""

    weight: float
    mean: float
    variance: float

    @property
    def name(self) -> str:
        return f"N({self.mean + 0.0:.4g}, {self.variance:.4g})"


def _read_prior(prior: _PriorFit, tolerance: float, rough: bool) -> _Reading:
    """The KL and the prior that have these four numbers; a ruling if no KL has them."""
    known = {"second_output": prior.parameter.name}
    numbers = (prior.square, prior.linear, prior.variance, prior.log)
    size = max(float(number.abs().max()) for number in numbers)
    if max(float(number.max() - number.min()) for number in numbers) > tolerance * size:
        raise _uneven_prior(prior, tolerance * size, rough)
    square, linear, variance, log = (float(number.mean()) for number in numbers)
    if abs(square - variance) > tolerance * size or square * log >= 0:
        terms = f"{square:.8g} mu^2, {variance:.8g} sigma^2 and {log:.8g} log sigma^2"
        terms += f", and {linear:.4g} mu" * (abs(linear) > tolerance * size)
        times = variance / square if square * variance > 0 > square * log else None
        remark = f" (unless the variance is {times:.4g} times what that says, in your sampling too)" if times else ""
        raise _rule(
            WRONG, f"the second term is no KL divergence of a q whose second output is {prior.parameter.name}{remark}: "
            f"it is made of {terms}; a KL to N(0, I) has 1/2, 1/2 and -1/2 times one weight",
            "write -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over the latents", **known,
        )  # fmt: skip
    return _Reading(-2 * log, -linear / (2 * square), -log / square)


def _uneven_prior(prior: _PriorFit, tolerance: float, rough: bool) -> _Ruling:
    known = {"second_output": prior.parameter.name}
    if rough:
        return _rule(UNKNOWN, "the KL is explained only roughly, with weights that differ", **known)
    total = prior.square.abs() + prior.variance.abs() + prior.log.abs()
    ignored = total < 1e-6 * total.max()
    if ignored.any():
        problem = f"{int(ignored.sum())} of {ignored.numel()} entries (examples times latents) are not in the KL"
        return _rule(WRONG, problem, "sum over all latents of all examples", **known)
    numbers = torch.stack([prior.square, prior.linear, prior.variance, prior.log])  # (4, B, J)
    by_example = float((numbers.amax(1) - numbers.amin(1)).max()) > tolerance
    if not by_example and float((prior.square - prior.variance).abs().max()) < tolerance and _spread(prior.log) < 1e-6:
        return _rule(OTHER, "the prior is not N(0, I): its mean or its variance is different for each latent", **known)
    who = "examples of a batch" if by_example else "latents"
    advice = "give every latent of every example the same weight"
    return _rule(OTHER, f"in the KL the {who} have different weights", advice, **known)


def _prior_issues(reading: _Reading, weights: _Weights, tolerance: float) -> Iterator[_Issue]:
    """Another prior than N(0, I): meant, or a wrong factor in front of the logarithm."""
    if abs(reading.variance - 1) < tolerance and abs(reading.mean) < tolerance:
        return
    name = reading.name
    if abs(reading.mean) < tolerance and abs(weights.prior / reading.variance / weights.pixels - 1) < tolerance:
        yield _Issue(
            WRONG, f"log sigma^2 has {reading.variance:.4g} times its factor in the KL to N(0, I): a half too many or "
            f"too few? (read differently, this is {weights.prior:.4g} times the KL to the prior {name})",
            "write -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over the latents",
        )  # fmt: skip
    else:
        yield _Issue(
            OTHER, f"the prior is {name} (mean, variance) instead of N(0, 1)", "right if that is what you sample from"
        )


class _Scale(NamedTuple):
    """The likelihood's scale (a variance for the Gaussian) and where it comes from."""

    value: float
    origin: str
    constants: str


def _prior_constant(setting: _Setting, reading: _Reading, tolerance: float) -> float:
    """What KL(q || N(m, v)) has beyond the -1/2 of each latent: (m^2 / v + log v) / 2 each, and 0 for N(0, 1)."""
    if abs(reading.variance - 1) < tolerance and abs(reading.mean) < tolerance:
        return 0.0
    each = (reading.mean**2 / reading.variance + math.log(reading.variance)) / 2
    return reading.weight * setting.batch_size * setting.num_latents * each


def _leftover(setting: _Setting, model: _Model, seed: int) -> tuple[float, float]:
    """What the loss adds to the two terms with the -1/2 of each latent, and how exactly that is known."""
    dice = _Dice(seed)
    probe = _measure(setting, _near(setting, dice, model, 0.3, grey=False))
    modelled = float(model.value(*(tensor.double() for tensor in probe.point)))
    modelled += float(model.prior.log.sum())  # the -1/2 of each latent
    return probe.value - modelled, 10 * _strict(setting) * (abs(probe.value) + abs(modelled) + 1e-300)


def _read_scale(
    setting: _Setting, model: _Model, weights: _Weights, noise_variance: float | None, prior_constant: float
) -> _Scale:
    """The likelihood's scale v: as stated by the reader, as the normaliser says, or 1."""
    (short_of, error), (again, _) = _leftover(setting, model, 31), _leftover(setting, model, 37)
    left, again = short_of - prior_constant, again - prior_constant
    constants = (
        "no constant is left out or added" if abs(left) <= error else f"a constant of {left:.6g} (it has no gradient)"
    )
    if abs(left - again) > 10 * error:
        constants = "a term in x alone is added (it has no gradient)"
    normalizer = model.pixels.likelihood.normalizer
    if normalizer is None:
        return _Scale(1.0, "", constants)
    if noise_variance is not None:
        return _Scale(noise_variance, "as you stated", constants)
    entries = setting.batch_size * setting.num_pixels
    without = short_of + float(model.prior.log.sum())  # if the KL leaves out its -1/2, there is less to explain
    for weight in (weights.prior, 1.0, 1 / setting.batch_size, 1 / entries, 1 / setting.num_pixels):
        scale = weight / weights.pixels
        if abs(left) <= error or scale <= 0:
            continue
        # with or without the constant of the unit scale, such as log(2 pi) / 2
        full, short = (weight * entries * (normalizer(scale) - unit) for unit in (0.0, normalizer(1.0)))
        gaps = [abs(rest - constant) for rest in (left, short_of, without) for constant in (full, short)]
        if (abs(scale - 1) > 1e-9 and min(gaps) < 100 * error) or abs(left - full) < 100 * error:
            return _Scale(scale, "read from the normaliser", "the likelihood's normaliser is there")
    missing = "the normaliser is left out (a constant, harmless)" if abs(left) <= error else constants
    return _Scale(1.0, "assumed", missing)


def _target_problem(x: Tensor, target: Tensor) -> str:
    """What stands in the place of x, both (B, D)."""
    values = {v: target[x == v] for v in (0.0, 1.0) if (x == v).any()}
    if not values:
        return "the targets are changed inside the loss"
    if max(float(t.max() - t.min()) for t in values.values()) > _LOOSE:
        return "a pixel is compared with something other than its own target (shifted, shuffled or blurred?)"
    changes = ", ".join(f"{v:.0f} becomes {round(float(t.mean()), 6):g}" for v, t in values.items())
    return f"the targets are changed inside the loss: {changes} (smoothed labels, another scale?)"


def _shifted_targets(groups: list[_Group]) -> str:
    """Whether a loss that is linear in its target compares with something other than x: smoothed labels, for example."""
    problems = [_shifted_target(group) for group in groups if not group.real]
    return problems[0] if all(problems) else ""  # with grey targets too: a squared plus an absolute error is none


def _shifted_target(group: _Group) -> str:
    outputs, found = (torch.stack(t).double() for t in zip(*((p.point.y, p.y) for p in group.probes), strict=True))
    x = group.probes[0].point.x.double().flatten(1)
    zero, one = torch.zeros_like(outputs), torch.ones_like(outputs)
    for likelihood in (like for like in _LIKELIHOODS if like.binary or like.output == "the mean"):
        (black,) = _slopes(functools.partial(likelihood.per_pixel, zero), outputs)
        (white,) = _slopes(functools.partial(likelihood.per_pixel, one), outputs)
        weight, times, deviation = _regress(*(t.flatten(2) for t in (found, black, white - black)))  # (B, D)
        if deviation < _LOOSE and _spread(weight) < _LOOSE:
            return _target_problem(x, times / weight)
    return ""


# --- The audit -------------------------------------------------------------------------------------------------------


def _audit(setting: _Setting, noise_variance: float | None) -> Report:
    first = _measure(setting, _first_point(setting))
    _check_steady(setting, first)
    try:
        report = _examine(setting, first, noise_variance)
    except _Ruling as ruling:
        report = ruling.report
    _check_steady(setting, first)
    return replace(report, notes=report.notes + _general_notes(setting, first))


def _examine(setting: _Setting, first: _Probe, noise_variance: float | None) -> Report:
    _check_examples(setting, first)
    domain = _domain(setting)
    groups = _groups(setting, domain)
    _check_alive(setting, groups)
    if problem := _interaction(setting):
        raise _rule(UNKNOWN, f"the loss is not a reconstruction term plus a KL term: {problem}")
    return _judge(setting, domain, groups, _identify(setting, groups), noise_variance)


def _general_notes(setting: _Setting, first: _Probe) -> tuple[str, ...]:
    notes = [f"the loss returns {first.form}"] * (first.form != "one number")
    if first.precision in (torch.float16, torch.bfloat16):
        notes.append("the loss works in half precision, too coarse for the audit: audit it in float32 or float64")
    elif setting.dtype == torch.float32:
        notes.append("the loss works in float32, so it was checked to about 1e-4 only")
    notes += ["the decoder's output had to be given as (B, D)"] * setting.flat
    return tuple(notes)


def _identify(setting: _Setting, groups: list[_Group]) -> _Model:
    """The candidates that explain all derivatives."""
    pixels, prior = _identify_pixels(setting, groups), _best_prior(groups)
    if prior.deviation <= _LOOSE:
        return _Model(pixels, prior)
    known = {"likelihood": pixels.likelihood.name, "decoder_output": pixels.likelihood.output}
    for parameter in _PARAMETERS:
        if _is_reversed(parameter, groups[0].probes):
            raise _rule(
                WRONG, "the KL runs the wrong way: it is KL(N(0, I) || q), the ELBO has KL(q || N(0, I))",
                "swap the two distributions", second_output=parameter.name, **known,
            )  # fmt: skip
    reason = _coupling(setting, 1) or _coupling(setting, 2)
    raise _rule(
        UNKNOWN,
        "no Gaussian KL in the table explains the derivatives in mu and the second output" + _because(reason),
        **known,
    )


def _identify_pixels(setting: _Setting, groups: list[_Group]) -> _PixelFit:
    best = _best_pixels(groups)
    if best.deviation <= _LOOSE:
        return best
    best = _best_pixels([group for group in groups if not group.real])
    if best.deviation <= _LOOSE:
        return best._replace(likelihood=best.likelihood._replace(domain=(0, 1)), narrowed=True)
    if problem := _shifted_targets(groups):
        rescale = ", or rescale them before you call the loss" * ("another scale" in problem)
        raise _rule(WRONG, problem, "compare with the data themselves" + rescale)
    raise _rule(UNKNOWN, "no likelihood in the table explains the reconstruction" + _because(_coupling(setting, 0)))


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _judge(
    setting: _Setting, domain: _Domain, groups: list[_Group], model: _Model, noise_variance: float | None
) -> Report:
    """All findings about a loss whose two terms were recognised, put together."""
    likelihood, parameter = model.pixels.likelihood, model.prior.parameter
    tolerance = max(10 * _strict(setting), 100 * _deviation(model))
    rough = _deviation(model) > 10 * _strict(setting)  # no exact fit: uneven weights may be an artefact
    _check_pixels(model, tolerance, rough)
    reading = _read_prior(model.prior, tolerance, rough)
    weights = _Weights(float(model.pixels.weight.nanmean()), reading.weight)
    prior_constant = _prior_constant(setting, reading, tolerance)
    scale = _read_scale(setting, model, weights, noise_variance, prior_constant)
    beta = weights.prior / (weights.pixels * scale.value)
    sizes = _at_other_sizes(setting, model)
    issues = [
        *_prior_issues(reading, weights, tolerance),
        *_sign_issues(weights),
        *_size_issues(weights, sizes, tolerance),
    ]
    issues += _shape_issues(setting, domain, groups, model)
    issues += _sampling_issues(setting, parameter)
    half = scale.value == 1.0 and any(issue.problem.startswith("log sigma^2 has") for issue in issues)
    if beta > 0 and abs(beta - 1) > tolerance and not half:  # with that factor put right, beta is 1
        issues.append(_beta_issue(setting, likelihood, beta, scale))
    verdict = next((v for v in _ORDER if any(issue.verdict == v for issue in issues)), None)
    if verdict == UNKNOWN:  # then what else was found may be an artefact
        issues = [issue for issue in issues if issue.verdict == UNKNOWN]
    common = weights.pixels * scale.value
    notes = [] if verdict else [_scale_note(setting, common, tolerance)]
    return Report(
        verdict or (CORRECT if abs(common * setting.batch_size - 1) < tolerance else SCALED),
        reconstruction=f"weight {weights.pixels:.6g} for each pixel of the batch; {scale.constants}",
        likelihood=likelihood.name + _scale_text(likelihood, scale),
        decoder_output=likelihood.output,
        targets=_target_text(likelihood, domain),
        kl=f"KL(q || {reading.name}), weight {weights.prior:.6g} for each latent of the batch",
        second_output=parameter.name,
        sampling=f"z = {parameter.sampling}",
        sign="unknown" if verdict == UNKNOWN else _sign_text(weights),
        reductions=_reductions(weights, sizes, tolerance),
        beta=None if verdict == UNKNOWN else beta,
        noise_variance=scale.value if scale.origin else None,
        problems=tuple(issue.problem for issue in issues),
        advice=tuple(issue.advice for issue in issues if issue.advice),
        notes=(*notes, *_size_notes(weights, sizes, tolerance), *_target_notes(domain, groups, model)),
        sizes=f" at batch size {setting.batch_size}, {setting.num_pixels} pixels, {setting.num_latents} latents",
    )


def _deviation(model: _Model) -> float:
    return max(model.pixels.deviation, model.prior.deviation)


def _check_pixels(model: _Model, tolerance: float, rough: bool) -> None:
    """A reconstruction that is a likelihood and counts every pixel once."""
    likelihood = model.pixels.likelihood
    known = {
        "likelihood": likelihood.name,
        "decoder_output": likelihood.output,
        "second_output": model.prior.parameter.name,
    }
    if likelihood.mistake:
        raise _rule(UNKNOWN if likelihood.mistake is _NOT_NORMALIZED else WRONG, likelihood.mistake, **known)
    uneven = _uneven(model.pixels.weight, tolerance)
    if uneven and rough:
        raise _rule(UNKNOWN, "the reconstruction is explained only roughly, with weights that differ", **known)
    if uneven:
        advice = "the log-likelihood counts every pixel once"
        raise _rule(WRONG if "ignored" in uneven else OTHER, uneven, advice, **known)


def _sign_issues(weights: _Weights) -> Iterator[_Issue]:
    if weights.pixels < 0 and weights.prior < 0:
        yield _Issue(WRONG, "this is the ELBO, which is to be maximised", "minimise its negative")
    elif weights.prior < 0:
        yield _Issue(
            WRONG, "the KL has the wrong sign: minimising rewards a posterior far from the prior", "add the KL"
        )
    elif weights.pixels < 0:
        yield _Issue(WRONG, "the reconstruction has the wrong sign: minimising makes it worse", "subtract log p(x | z)")


def _sign_text(weights: _Weights) -> str:
    if weights.pixels > 0 and weights.prior > 0:
        return "right: minimising lowers the reconstruction error and the KL"
    return "wrong: see the problem below"


def _shape_issues(setting: _Setting, domain: _Domain, groups: list[_Group], model: _Model) -> Iterator[_Issue]:
    """Near the prior, near a perfect reconstruction, far from both, and the values against the derivatives."""
    gaps, limits = _disagreements(setting, model, domain), _limits(setting, model)
    for name, limit in limits:
        if math.isfinite(limit):
            text = f"{name}: the derivative is not what it should be from {limit:.4g} on (a clamp or a guard?)"
            yield _Issue(LIMITED, text)
    clamped = {name for name, limit in limits if abs(limit) < 20 or name == "mu"}
    near_pixels, near_prior = max(gap[0] for gap in gaps), max(max(gap[1:]) for gap in gaps)
    if near_pixels > _LOOSE and "the decoder's output" not in clamped:
        yield _Issue(UNKNOWN, "the reconstruction's derivative changes its form when the reconstruction is good")
    elif near_prior > _LOOSE and not {"log sigma^2", "mu"} & clamped:
        yield _near_prior_issue(_threshold(setting, model))
    elif any(math.isnan(limit) for _, limit in limits) or (
        setting.dtype == torch.float64 and not limits and max(_sweep(setting, model, domain)) > _FAR
    ):
        yield _Issue(UNKNOWN, "the derivatives are not everywhere what they are at most points")
    elif not clamped and _value_disagreement(setting, model, domain) > max(_strict(setting), 100 * _deviation(model)):
        yield _Issue(WRONG, "value and gradient disagree: a part is detached, or the gradient is not that of the value")
    if 1e3 * _strict(setting) < max(near_pixels, near_prior, 100 * _deviation(model)) <= _LOOSE * 100 and not limits:
        yield _Issue(LIMITED, "the derivatives agree only roughly (a small number added inside a logarithm?)")
    if model.pixels.likelihood.binary and any(
        group.grey and _fits(model.pixels.likelihood._replace(binary=False), group)
        and _fit_pixels(model.pixels.likelihood, group)[1] > _LOOSE for group in groups
    ):  # fmt: skip
        yield _Issue(LIMITED, "grey targets are changed inside the loss (thresholded?): right for zeros and ones only")
    if not clamped and _changes_targets(setting, model, domain):
        yield _Issue(LIMITED, "targets outside (0, 1) are clamped or treated differently")
    if model.pixels.narrowed:
        yield _Issue(LIMITED, "outside (0, 1) the decoder's output is clamped or treated differently")


def _sampling_issues(setting: _Setting, parameter: _Parameter) -> Iterator[_Issue]:
    """Whether the reader's sampling reads the second output as the loss does."""
    if setting.reparameterize is None:
        return
    try:
        problem = _sampling_problem(setting.reparameterize, setting.num_latents, parameter)
    except Exception as error:  # a stranger's function, as above
        problem = f"reparameterize raises {type(error).__name__}: {str(error)[:120]}"
    if problem:
        yield _Issue(WRONG, problem, f"sample with z = {parameter.sampling}")


def _sampling_problem(reparameterize: Callable[..., Tensor], num_latents: int, parameter: _Parameter) -> str:
    """Compare draws that share their noise: their ratio is a ratio of standard deviations."""
    dice, shape = _Dice(41), (4096, num_latents)
    mu, first, second = dice.normal(shape), *(dice.uniform(shape, -1.0, 1.0).exp() for _ in range(2))

    def draw(mean: Tensor, spread: Tensor) -> Tensor:
        torch.manual_seed(0)
        return reparameterize(mean.clone(), spread.clone()).detach().double().reshape(shape)

    base = draw(torch.zeros_like(mu), first)
    ratio = draw(torch.zeros_like(mu), second) / base
    if not _close(draw(mu, first) - base, mu, 1e-4) or not _close(draw(torch.zeros_like(mu), first), base, 1e-12):
        return "reparameterize does not add mu to noise of its own, or its noise does not follow torch.manual_seed"
    for found in _PARAMETERS:
        if _close(ratio, ((found.log_var(second) - found.log_var(first)) / 2).exp(), 1e-4):
            size = float((base / (found.log_var(first) / 2).exp()).square().mean())
            if abs(size - 1) > 10 * math.sqrt(2 / base.numel()):
                return f"the noise of reparameterize has variance {size:.3g} instead of 1"
            same = found.name == parameter.name
            return (
                "" if same else f"the loss reads the second output as {parameter.name}, reparameterize as {found.name}"
            )
    return f"the loss reads the second output as {parameter.name}, reparameterize as something else"


def _near_prior_issue(threshold: _Threshold | None) -> _Issue:
    if threshold is None:
        return _Issue(
            UNKNOWN, "the KL's derivative changes its form near the prior, or when some latents are close to it"
        )
    group = threshold.group + "," * ("," in threshold.group)
    if threshold.below == 0:
        return _Issue(OTHER, f"free bits: {group} has no gradient below {threshold.nats:.6g} nats")
    return _Issue(OTHER, f"a capacity: {group} is drawn to {threshold.nats:.6g} nats instead of 0")


def _beta_issue(setting: _Setting, likelihood: _Likelihood, beta: float, scale: _Scale) -> _Issue:
    pixels, latents, batch = setting.num_pixels, setting.num_latents, setting.batch_size
    known = {
        "D, the number of pixels": pixels,
        "D/J, pixels over latents": pixels / latents,
        "1/J, one over the latents": 1 / latents,
        "B, the batch size": batch,
        "1/B, one over the batch size": 1 / batch,
        "D/2, half the pixels": pixels / 2,
        "D/(2J), half the pixels over the latents": pixels / latents / 2,
        "B D, batch size times pixels": batch * pixels,
        "D/B, pixels over batch size": pixels / batch,
    }
    name = next((f" (it is {name})" for name, value in known.items() if abs(beta / value - 1) < 1e-6), "")
    problem = f"this is the beta-weighted ELBO with beta = {beta:.6g}{name}"
    advice = f"for the ELBO multiply the KL by {1 / beta:.6g}, or the reconstruction by {beta:.6g}"
    if scale.origin == "assumed":
        what = "variance" if "Gaussian" in likelihood.name else "scale"
        problem += f" when the noise has {what} 1; equally the ELBO itself when it has {what} {beta:.6g}"
        advice += f"; nothing if noise of {what} {beta:.6g} is what you mean"
    return _Issue(BETA, problem, advice)


def _scale_text(likelihood: _Likelihood, scale: _Scale) -> str:
    if likelihood.normalizer is None:
        return ""
    return f" with {'variance' if 'Gaussian' in likelihood.name else 'scale'} {scale.value:.6g} ({scale.origin})"


def _scale_note(setting: _Setting, common: float, tolerance: float) -> str:
    named = {1.0: "the sum over the batch", 1 / setting.batch_size: "the mean over the batch"}
    for value, name in named.items():
        if abs(common / value - 1) < tolerance:
            return f"both terms: {name}"
    return f"both terms carry the common factor {common:.6g} (harmless: it acts like a learning rate)"


def _target_text(likelihood: _Likelihood, domain: _Domain) -> str:
    if likelihood.binary:
        return "zeros and ones; binarize grey pixels first (or use the continuous Bernoulli)"
    return "real numbers, grey pixels included" if domain.grey else "zeros and ones (grey ones are refused)"


def _target_notes(domain: _Domain, groups: list[_Group], model: _Model) -> Iterator[str]:
    if not model.pixels.likelihood.binary:
        return
    if not domain.grey:
        yield "grey targets are refused, as they should be"
        return
    grey = next(group for group in groups if group.grey)
    if _fit_pixels(model.pixels.likelihood, grey)[1] < _LOOSE:
        yield "grey targets are accepted without a word, but then the value is no log-probability"


def _at_other_sizes(setting: _Setting, model: _Model) -> _Sizes:
    """The weights at a larger batch, image and latent; or the reason why there are none."""
    found: _Sizes = {}
    for name, (growth, other) in _other_sizes(setting).items():
        try:
            found[name] = growth, _weights(other, model) or "changed"
        except _Refusal:
            found[name] = growth, "refused"
    return found


def _reductions(weights: _Weights, sizes: _Sizes, tolerance: float) -> tuple[str, ...]:
    """Sum or mean over each axis for both terms."""
    lines = []
    for name, (growth, other) in sizes.items():
        if isinstance(other, str):
            why = "refuses another size" if other == "refused" else "is something else at another size"
            lines.append(f"over {name}: not known, the loss {why}")
            continue
        pixels = _reduction(other.pixels / weights.pixels, growth, tolerance)
        lines.append(
            f"over {name}: reconstruction {pixels}, KL {_reduction(other.prior / weights.prior, growth, tolerance)}"
        )
    return tuple(lines)


def _size_notes(weights: _Weights, sizes: _Sizes, tolerance: float) -> Iterator[str]:
    for name in ("pixels", "latents"):
        other = sizes[name][1]
        if isinstance(other, _Weights):
            ratio = other.prior / other.pixels / (weights.prior / weights.pixels)
            if abs(ratio - 1) > tolerance:
                yield f"beta holds for this number of {name} only: with another it is another"


def _size_issues(weights: _Weights, sizes: _Sizes, tolerance: float) -> Iterator[_Issue]:
    """Beta must not depend on the batch size; a loss that turns into something else at another size is not understood."""
    for name, (_, other) in sizes.items():
        if other == "changed":
            yield _Issue(UNKNOWN, f"with another number ({name}) the loss no longer has this form")
    other = sizes["batch"][1]
    if isinstance(other, _Weights):
        ratio = other.prior / other.pixels / (weights.prior / weights.pixels)
        if abs(ratio - 1) > tolerance:
            yield _Issue(BETA, "beta changes with the batch size", "reduce both terms over the batch in the same way")
