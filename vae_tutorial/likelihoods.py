r"""Likelihoods: log p(x given z), summed over the dimensions of one data point.

A decoder turns a latent z into the parameters of a distribution over x, and the coordinates of x are independent given
z. The log-likelihood of a data point is therefore a *sum* over its D coordinates, never a mean.

Shapes: ``x`` is (B, \*D), one axis for the batch and any number for the data; a decoder's output is (K, B, \*D) or
(B, \*D). The result drops the data axes: (K, B) or (B,). The results are in nats.

Two of these are probabilities (Bernoulli, discretized logistic) and two are densities (Gaussian, continuous Bernoulli).
A probability is at most 1 and has no unit; a density depends on the unit of x and can exceed 1. Numbers of the two kinds
are not comparable as they stand.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_tutorial.gaussian import LOG_2PI

NUM_LEVELS = 256  # grey levels 0, ..., 255 of an image of 8 bits

# log(sinh(l / 2) / (l / 2)) = sum over n of B_2n l^2n / (2n (2n)!), for |l| < 2 pi, with Bernoulli's numbers B_2, B_4, ...
_BERNOULLI_NUMBERS = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
_SERIES = tuple(b / (2 * n * math.factorial(2 * n)) for n, b in enumerate(_BERNOULLI_NUMBERS, 1))
_SERIES_LIMIT = 0.5  # for |l| below this, what is left out of the sum is less than float64 resolves


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    r"""Log-likelihood of binary data under independent Bernoulli distributions, in nats.

    With :math:`\ell` the logits and :math:`\pi = 1 / (1 + e^{-\ell})` the probability of a one,

    .. math:: \log p(x \mid z) = \sum_{d=1}^D \big( x_d \log \pi_d + (1 - x_d) \log (1 - \pi_d) \big)
        = \sum_{d=1}^D \big( x_d \ell_d - \log (1 + e^{\ell_d}) \big)

    The second form never takes the logarithm of a rounded 0. For a grey x between 0 and 1 the formula still returns a
    number, but it is not the log-probability of any data: binarize first.

    Args:
        x: data of zeros and ones, (B, \*D), in the logits' floating-point type.
        logits: log-odds, (..., B, \*D).

    Returns:
        Log-likelihood summed over the data axes, (..., B); at most 0 for binary x.

    Raises:
        ValueError: if the data axes differ.

    Source: Kingma and Welling (2014), appendix C.1.

    >>> x, logits = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    >>> bernoulli(x, logits)  # two fair coins: 2 log(1/2)
    tensor([-1.3863])
    """
    _check_data(x, logits=logits)
    return _sum_over_data(x * logits - F.softplus(logits), x)


def gaussian(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    r"""Log-likelihood of real data under independent Gaussians, in nats.

    .. math:: \log p(x \mid z) = -\tfrac12 \sum_{d=1}^D \Big( \log 2\pi + \log \sigma_d^2
        + \frac{(x_d - \hat x_d)^2}{\sigma_d^2} \Big)

    With :math:`\sigma^2` fixed at 1 this is *half* the squared error, up to sign and a constant. It is a density: it
    can be positive.

    Args:
        x: data, (B, \*D).
        mean: decoder's mean, (..., B, \*D).
        log_var: log-variance of the noise: a scalar, or any shape that broadcasts to the mean's.

    Returns:
        Log-likelihood summed over the data axes, (..., B).

    Raises:
        ValueError: if the data axes differ, or ``log_var`` does not broadcast to ``mean``.

    Source: Kingma and Welling (2014), appendix C.2.

    >>> x = torch.zeros(1, 2, dtype=torch.float64)
    >>> round(gaussian(x, mean=x, log_var=torch.tensor(0.0)).item(), 4)  # -log(2 pi)
    -1.8379
    """
    _check_data(x, mean=mean, log_var=log_var)
    squares = (x - mean).square() * torch.exp(-log_var)
    return _sum_over_data(-0.5 * (LOG_2PI + log_var + squares), x)


def continuous_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    r"""Log-density of grey data in [0, 1] under independent continuous Bernoulli distributions, in nats.

    The Bernoulli formula :math:`\pi^x (1 - \pi)^{1 - x}` does not integrate to one over the interval. Divided by its
    integral it does. With :math:`\ell` the logits, :math:`\pi^x (1 - \pi)^{1 - x} \propto e^{x \ell}`, so that

    .. math:: \log p(x \mid z) = \sum_{d=1}^D \big( x_d \ell_d - A(\ell_d) \big), \qquad
        A(\ell) = \log \int_0^1 e^{t \ell} \, dt = \log \frac{e^{\ell} - 1}{\ell}

    and :math:`A(0) = 0`. It is a density: it can be positive. Its mean is not the sigmoid of the logits, but
    :func:`continuous_bernoulli_mean`.

    Args:
        x: data in [0, 1], (B, \*D), in the logits' floating-point type; outside the interval the density is 0.
        logits: natural parameters, (..., B, \*D), any real numbers.

    Returns:
        Log-likelihood summed over the data axes, (..., B).

    Raises:
        ValueError: if the data axes differ.

    Source: Loaiza-Ganem and Cunningham (2019), with the density written in the logits.

    >>> x, logits = torch.tensor([[0.3, 0.8]]), torch.zeros(1, 2)
    >>> continuous_bernoulli(x, logits)  # at logits 0 all grey levels are equally likely: density 1
    tensor([0.])
    """
    _check_data(x, logits=logits)
    inside = ~((x < 0) | (x > 1))
    log_density = x * logits - _log_normalizer(logits)
    return _sum_over_data(torch.where(inside, log_density, -math.inf), x)


def continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    r"""Mean of a continuous Bernoulli distribution: the grey level to show for a decoder's logits.

    .. math:: \mathbb{E}[x] = A'(\ell) = \frac{1}{1 - e^{-\ell}} - \frac1\ell

    It is 1/2 at :math:`\ell = 0`, and closer to 1/2 than the sigmoid everywhere else.

    Args:
        logits: natural parameters, any shape.

    Returns:
        Means between 0 and 1, in the shape of the logits.

    Source: Loaiza-Ganem and Cunningham (2019).

    >>> continuous_bernoulli_mean(torch.tensor([-40.0, 0.0, 40.0]))
    tensor([0.0250, 0.5000, 0.9750])
    """
    near, small, large = _split_at_zero(logits)
    series = small * _polynomial([2 * n * c for n, c in enumerate(_SERIES, 1)], small.square())
    exact = logits.sign() * (-1 / torch.expm1(-large) - 1 / large - 0.5)
    return 0.5 + torch.where(near, series, exact)


def discretized_logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r"""Log-probability of the grey levels 0 to 255 under independent logistic distributions cut into bins, in nats.

    A logistic variable with mean :math:`m` and scale :math:`s`, on the scale of pixels in [0, 1], is rounded to the
    nearest of the 256 levels :math:`0, 1/255, \dots, 1`. Each level has a bin of width 1/255 about it, and the two at
    the ends take the tails. With :math:`\sigma` the sigmoid, the logistic distribution function,

    .. math:: P(x \mid z) = \sigma(u^+) - \sigma(u^-), \qquad u^\pm = \frac{x \pm \frac12 - 255 \, m}{255 \, s}, \qquad
        u^+ = \infty \text{ at } x = 255, \quad u^- = -\infty \text{ at } x = 0

    The difference is never taken. With :math:`\delta = u^+ - u^- = 1 / (255 s)`,

    .. math:: \log P(x \mid z) = \log \sigma(u^+) + \log \sigma(-u^-) + \log (1 - e^{-\delta})

    where each end keeps only the one term that its infinite edge leaves. It is a probability: at most 0 in nats.

    Args:
        x: grey levels 0, 1, ..., 255, (B, \*D), of any type; any other number has probability 0.
        mean: decoder's mean on the scale of x / 255, (..., B, \*D).
        log_scale: logarithm of s on that scale: a scalar, or any shape that broadcasts to the mean's. The standard
            deviation is :math:`s \pi / \sqrt 3`.

    Returns:
        Log-probability summed over the data axes, (..., B).

    Raises:
        ValueError: if the data axes differ, or ``log_scale`` does not broadcast to ``mean``.

    Source: Salimans, Karpathy, Chen and Kingma (2017), section 2.1, with a single component; Kingma et al. (2016).

    >>> x = torch.tensor([[0, 255]])
    >>> discretized_logistic(x, mean=torch.full((1, 2), 0.5), log_scale=torch.tensor(40.0))  # all mass in the tails
    tensor([-1.3863])
    """
    _check_data(x, mean=mean, log_scale=log_scale)
    x = x.to(mean.dtype)
    delta = torch.exp(-log_scale) / (NUM_LEVELS - 1)  # width of a bin in units of the scale
    offset = x - (NUM_LEVELS - 1) * mean
    log_p = torch.where(x < NUM_LEVELS - 1, F.logsigmoid((offset + 0.5) * delta), 0.0)
    log_p = log_p + torch.where(x > 0, F.logsigmoid((0.5 - offset) * delta), 0.0)
    log_p = log_p + torch.where((x > 0) & (x < NUM_LEVELS - 1), torch.log(-torch.expm1(-delta)), 0.0)
    is_level = (x == x.round()) & (x >= 0) & (x < NUM_LEVELS)
    return _sum_over_data(torch.where(is_level, log_p, -math.inf), x)


def bits_per_dim(log_likelihood: Tensor, num_dims: int) -> Tensor:
    r"""Negative log-likelihood in bits per dimension: the number that papers on image models report.

    .. math:: \frac{-\log p(x)}{D \log 2}

    For a probability over D pixels it is the length of an ideal code, in bits a pixel. Of a density it is one only
    after the width of the bins has been accounted for.

    Args:
        log_likelihood: log-likelihood of whole data points, or a bound on it, in nats, (...).
        num_dims: D, the number of pixels and channels of one data point, at least 1.

    Returns:
        Bits per dimension, (...); lower is better.

    Raises:
        ValueError: if D < 1.

    Source: Theis, van den Oord and Bethge (2016).

    >>> bits_per_dim(torch.tensor(-784 * math.log(256)), 784)  # 256 equally likely levels: 8 bits a pixel
    tensor(8.)
    """
    if num_dims < 1:
        raise ValueError(f"num_dims must be at least 1, got {num_dims}")
    return -log_likelihood / (num_dims * math.log(2))


def _log_normalizer(logits: Tensor) -> Tensor:
    """A(l) = log((e^l - 1) / l) = l / 2 + log(sinh(l / 2) / (l / 2)), without overflow and through l = 0."""
    near, small, large = _split_at_zero(logits)
    series = small.square() * _polynomial(_SERIES, small.square())
    exact = 0.5 * large + torch.log(-torch.expm1(-large) / large)  # even in l, like the series
    return 0.5 * logits + torch.where(near, series, exact)


def _split_at_zero(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the series holds; an argument for the series, and one for the closed form, |l|.

    Each is harmless where the other one counts: the gradient of torch.where multiplies the branch that was not taken by
    0, and 0 times infinity is not a number.
    """
    near = logits.abs() < _SERIES_LIMIT
    return near, torch.where(near, logits, 0.0), torch.where(near, 1.0, logits.abs())


def _polynomial(coefficients: Sequence[float], t: Tensor) -> Tensor:  # c_0 + c_1 t + c_2 t^2 + ..., by Horner's rule
    value = torch.zeros_like(t)
    for c in reversed(coefficients):
        value = value * t + c
    return value


def _sum_over_data(terms: Tensor, x: Tensor) -> Tensor:  # (..., B, *D) -> (..., B)
    return terms.flatten(-(x.dim() - 1)).sum(-1) if x.dim() > 1 else terms


def _check_data(x: Tensor, **parameters: Tensor) -> None:
    """Refuse what broadcasting would hide: the first parameter has x's batch and data axes, exactly."""
    (name, first), *others = parameters.items()
    fits = x.dim() > 0 and first.shape[-x.dim() :] == x.shape
    for _, other in others:
        try:
            fits &= np.broadcast_shapes(other.shape, first.shape) == first.shape
        except ValueError:
            fits = False
    if not fits:
        listing = ", ".join(f"{key} {tuple(value.shape)}" for key, value in {"x": x, **parameters}.items())
        raise ValueError(f"shapes do not fit: {listing}; {name} must end in x's shape, (B, *D)")
