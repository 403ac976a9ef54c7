"""What a loss may be made of: the likelihoods of a pixel and the meanings of the encoder's second output.

Needs no other room. To teach the audit another likelihood, add a line to ``LIKELIHOODS``.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributions

PerPixel = Callable[[Tensor, Tensor], Tensor]  # (x, y), any shape


class Likelihood(NamedTuple):
    """One candidate for the reconstruction: the negative log-likelihood of one pixel, up to scale and constant."""

    name: str
    output: str  # what the decoder's output y is taken for
    per_pixel: PerPixel
    domain: tuple[float, float] = (-math.inf, math.inf)  # of y
    targets: tuple[float, float] = (0, 1)  # between which x may lie
    binary: bool = False  # whether the targets have to be zeros and ones
    normalizer: Callable[[float], float] | None = None  # log of the normaliser, for the families with a scale
    mistake: str = ""  # why it is no likelihood
    guards: tuple[PerPixel, ...] = ()  # the same as PyTorch computes it, with guards of its own far out
    link: Callable[[Tensor], Tensor] | None = None  # the output that reconstructs a mean; None where that is itself

    @property
    def scale(self) -> str:
        return "variance" if "Gaussian" in self.name else "scale"


class Parameter(NamedTuple):
    """One candidate for the meaning of the encoder's second output s."""

    name: str
    log_var: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]  # the second output that has this log-variance
    sampling: str
    positive: bool = False  # whether s has to be positive
    lowest: float = -math.inf  # the log-variance that s cannot undercut


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


def _torch_bce(x: Tensor, p: Tensor) -> Tensor:
    return F.binary_cross_entropy(p, x, reduction="none")


def _torch_continuous(x: Tensor, logits: Tensor) -> Tensor:
    return -distributions.ContinuousBernoulli(logits=logits, validate_args=False).log_prob(x)


def _half_square(x: Tensor, mean: Tensor) -> Tensor:
    return (x - mean).square() / 2


def _gaussian_normalizer(variance: float) -> float:
    return 0.5 * math.log(2 * math.pi * variance)


def _laplace_normalizer(scale: float) -> float:
    return math.log(2 * scale)


NOT_NORMALIZED = "this penalty is not the negative log-likelihood of a distribution in the audit's table"
_REAL = (-math.inf, math.inf)
_BCE = "Bernoulli (binary cross-entropy)"
_gaussian = functools.partial(
    Likelihood, "Gaussian (squared error)", targets=_REAL, normalizer=_gaussian_normalizer
)  # fmt: skip
_laplace = functools.partial(
    Likelihood, "Laplace (absolute error)", targets=_REAL, normalizer=_laplace_normalizer
)  # fmt: skip
LIKELIHOODS = (
    Likelihood(
        _BCE, "probabilities", _bce, (0, 1), binary=True,
        guards=(_torch_bce, lambda x, p: -distributions.Bernoulli(p, validate_args=False).log_prob(x)),
    ),
    Likelihood(
        _BCE, "logits", _bce_with_logits, binary=True, guards=(lambda x, y: _torch_bce(x, y.sigmoid()),), link=torch.logit
    ),
    _gaussian("the mean", _half_square),
    _gaussian("the mean, before a sigmoid", lambda x, y: _half_square(x, y.sigmoid()), link=torch.logit),
    _gaussian("the mean, before a tanh", lambda x, y: _half_square(x, y.tanh()), link=torch.atanh),
    _gaussian(
        "the mean, before (tanh + 1) / 2", lambda x, y: _half_square(x, (y.tanh() + 1) / 2),
        link=lambda mean: torch.logit(mean) / 2,
    ),
    _laplace("the median", lambda x, y: (x - y).abs()),
    _laplace("the median, before a sigmoid", lambda x, y: (x - y.sigmoid()).abs(), link=torch.logit),
    Likelihood(
        "continuous Bernoulli", "logits", lambda x, y: _bce_with_logits(x, y) - _log_normalizer(y),
        guards=(_torch_continuous,),
        link=torch.logit,
    ),
    Likelihood(
        "continuous Bernoulli", "probabilities (its parameter, not its mean)",
        lambda x, y: _bce(x, y) - _log_normalizer(torch.log(y) - torch.log1p(-y)), (0, 1),
        guards=(lambda x, p: -distributions.ContinuousBernoulli(p, validate_args=False).log_prob(x),),
    ),
    Likelihood("Poisson", "the log of the rate", lambda x, y: y.exp() - x * y, targets=(0, math.inf), link=torch.log),
    Likelihood("Poisson", "the rate", lambda x, y: y - torch.xlogy(x, y), (0, math.inf), targets=(0, math.inf)),
    Likelihood(
        "Huber (smooth absolute error)", "the centre", lambda x, y: F.huber_loss(y, x, reduction="none"),
        mistake=NOT_NORMALIZED,
    ),
    Likelihood(
        "log-cosh", "the centre", lambda x, y: F.softplus(2 * (x - y)) - (x - y), mistake=NOT_NORMALIZED
    ),
    Likelihood(
        "binary cross-entropy", "logits, through two sigmoids", lambda x, y: _bce_with_logits(x, y.sigmoid()),
        mistake="a sigmoid is applied twice: the probability cannot leave the interval from 0.5 to 0.73",
    ),
    Likelihood(
        "binary cross-entropy with its arguments swapped", "targets", lambda x, y: _bce(y, x),
        mistake="the data stand where the prediction belongs: swap the two arguments (the audit calls "
        "loss(x, decoder_output, mu, second))",
    ),
    Likelihood(
        "half of a binary cross-entropy, x log y", "probabilities", lambda x, y: -torch.xlogy(x, y), (0, 1),
        mistake="the term (1 - x) log(1 - y) is missing: nothing keeps the decoder from painting everything white",
    ),
)  # fmt: skip


def _softplus(least: float, *, variance: bool) -> Parameter:
    """sigma or sigma^2 is softplus(s) plus a small number, which the sampling has to add too."""
    power, call = (1, "F.softplus(second)") if variance else (2, "F.softplus(second)")
    plus = f" + {least:g}" * (least > 0)
    spread = f"({call}{plus})" if least else call
    return Parameter(
        ("sigma^2" if variance else "sigma") + " before a softplus" + plus,
        lambda s: power * torch.log(F.softplus(s) + least),
        lambda v: _inverse_softplus((v / power).exp() - least),
        f"mu + {spread}{'.sqrt()' * variance} * eps",
        lowest=power * math.log(least) if least else -math.inf,
    )


PARAMETERS = (
    Parameter("log sigma^2", lambda s: s, lambda v: v, "mu + torch.exp(0.5 * second) * eps"),
    Parameter("log sigma", lambda s: 2 * s, lambda v: v / 2, "mu + torch.exp(second) * eps"),
    Parameter("sigma", lambda s: 2 * s.abs().log(), lambda v: (v / 2).exp(), "mu + second * eps", positive=True),
    Parameter("sigma^2", lambda s: s.log(), torch.exp, "mu + second.sqrt() * eps", positive=True),
    Parameter("log of 1 / sigma^2", lambda s: -s, lambda v: -v, "mu + torch.exp(-0.5 * second) * eps"),
    Parameter("1 / sigma^2", lambda s: -s.log(), lambda v: (-v).exp(), "mu + second.rsqrt() * eps", positive=True),
    *(_softplus(least, variance=variance) for least in (0.0, *(10.0**-k for k in range(8, 1, -1)))
      for variance in (False, True)),
)  # fmt: skip
