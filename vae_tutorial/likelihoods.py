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
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial import _checks
from vae_tutorial._recipe import keeps_arguments
from vae_tutorial.gaussian import LOG_2PI, precision

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
    number, but it is not the log-probability of any data: binarize first. The values are not looked at here, for speed:
    :class:`Bernoulli` refuses those outside [0, 1] and warns of grey ones, and so does training.

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
    _checks.data(x, logits=logits)
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
    _checks.data(x, mean=mean, log_var=log_var)
    squares = (x - mean).square() * precision(log_var)
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
    _checks.data(x, logits=logits)
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
    _checks.data(x, mean=mean, log_scale=log_scale)
    is_whole = x == x.round() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    x = x.to(mean.dtype)
    delta = precision(log_scale) / (NUM_LEVELS - 1)  # width of a bin in units of the scale
    offset = x - (NUM_LEVELS - 1) * mean
    log_p = torch.where(x < NUM_LEVELS - 1, F.logsigmoid((offset + 0.5) * delta), 0.0)
    log_p = log_p + torch.where(x > 0, F.logsigmoid((0.5 - offset) * delta), 0.0)
    log_p = log_p + torch.where((x > 0) & (x < NUM_LEVELS - 1), _log_one_minus_exp(delta, log_scale), 0.0)
    is_level = is_whole & (x >= 0) & (x < NUM_LEVELS)
    return _sum_over_data(torch.where(is_level, log_p, -math.inf), x)


def _log_one_minus_exp(delta: Tensor, log_scale: Tensor) -> Tensor:
    """log(1 - e^-delta) for delta = 1 / (255 s); where that underflows for a large scale, its logarithm is known."""
    tiny = delta < 1e-6
    log_delta = -log_scale - math.log(NUM_LEVELS - 1)
    return torch.where(tiny, log_delta - 0.5 * delta, torch.log(-torch.expm1(-torch.where(tiny, 1.0, delta))))


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


def poisson(x: Tensor, log_rate: Tensor) -> Tensor:
    r"""Log-probability of counts under independent Poisson distributions, in nats.

    .. math:: \log P(x \mid z) = \sum_{d=1}^D \big( x_d \log \lambda_d - \lambda_d - \log x_d! \big)

    Args:
        x: counts 0, 1, 2, ..., (B, \*D), of any type; any other number has probability 0.
        log_rate: logarithm of the mean :math:`\lambda`, (..., B, \*D).

    Returns:
        Log-probability summed over the data axes, (..., B); at most 0.

    Raises:
        ValueError: if the data axes differ.

    Source: McCullagh and Nelder (1989), section 6.2.

    >>> poisson(torch.tensor([[0, 2]]), torch.zeros(1, 2))  # -2 - log 2!
    tensor([-2.6931])
    """
    _checks.data(x, log_rate=log_rate)
    counts = x.to(log_rate.dtype)
    log_p = counts * log_rate - log_rate.exp() - torch.lgamma(counts.clamp(min=0) + 1)
    return _sum_over_data(torch.where(_is_count(counts), log_p, -math.inf), x)


def negative_binomial(x: Tensor, log_mean: Tensor, log_shape: Tensor) -> Tensor:
    r"""Log-probability of overdispersed counts under independent negative binomial distributions, in nats.

    A Poisson variable whose rate is itself random, Gamma distributed with mean m and shape r, has the variance
    :math:`m + m^2 / r`, above the Poisson's m, which is the limit of large r.

    .. math:: \log P(x \mid z) = \sum_{d=1}^D \Big( \log \frac{\Gamma(x_d + r)}{\Gamma(r) \, x_d!}
        + r \log \frac{r}{r + m_d} + x_d \log \frac{m_d}{r + m_d} \Big)

    Args:
        x: counts 0, 1, 2, ..., (B, \*D), of any type; any other number has probability 0.
        log_mean: logarithm of m, (..., B, \*D).
        log_shape: logarithm of r: a scalar, or any shape that broadcasts to the mean's.

    Returns:
        Log-probability summed over the data axes, (..., B); at most 0 up to rounding.

    Raises:
        ValueError: if the data axes differ, or ``log_shape`` does not broadcast to ``log_mean``.

    Source: Lawless (1987), for one shape and a mean that varies.

    >>> negative_binomial(torch.tensor([[0]]), torch.zeros(1, 1), torch.tensor(0.0))  # r = m = 1: log(1/2)
    tensor([-0.6931])
    """
    _checks.data(x, log_mean=log_mean, log_shape=log_shape)
    counts, r = x.to(log_mean.dtype), log_shape.exp()
    log_total = torch.logaddexp(log_shape, log_mean)  # log(r + m)
    inside = counts.clamp(min=0)
    log_choices = torch.lgamma(inside + r) - torch.lgamma(r) - torch.lgamma(inside + 1)
    log_p = log_choices + r * (log_shape - log_total) + counts * (log_mean - log_total)
    return _sum_over_data(torch.where(_is_count(counts), log_p, -math.inf), x)


def categorical(x: Tensor, logits: Tensor) -> Tensor:
    r"""Log-probability of one of C classes for each coordinate, in nats.

    .. math:: \log P(x \mid z) = \sum_{d=1}^D \Big( \ell_{d, x_d} - \log \sum_{c=1}^C e^{\ell_{dc}} \Big)

    Args:
        x: classes 0, ..., C - 1, (B, \*D), of any type; any other number has probability 0.
        logits: one for each class, (..., B, \*D, C).

    Returns:
        Log-probability summed over the data axes, (..., B); at most 0.

    Raises:
        ValueError: if the data axes differ.

    Source: Bishop (2006), section 2.2.

    >>> categorical(torch.tensor([[0, 2]]), torch.zeros(1, 2, 3))  # two coordinates, three equally likely classes
    tensor([-2.1972])
    """
    _checks.data(x, logits=logits[..., 0])
    classes = x.to(logits.dtype)
    is_class = (classes == classes.round()) & (classes >= 0) & (classes < logits.shape[-1])
    index = torch.where(is_class, classes, 0.0).long().expand(logits.shape[:-1])
    log_p = logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return _sum_over_data(torch.where(is_class, log_p, -math.inf), x)


def _is_count(x: Tensor) -> Tensor:
    return (x == x.round()) & (x >= 0) & x.isfinite()


# The same as objects, the third part of a model: what p(x given z) is, for a decoder's outputs.


class Likelihood(nn.Module):
    """What a model asks of p(x given z): its log-probability, mean and samples, and which data it describes.

    A parameter that all data share, such as a noise variance, is learnt with the networks and belongs to the object;
    everything else comes from the decoder.
    """

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Log-probability or log-density of x in nats, summed over the data axes, (..., B).

        Args:
            x: data, (B, \\*D).
            outputs: the decoder's, (..., B, \\*D).

        Raises:
            ValueError: if the data axes differ.
        """
        raise NotImplementedError

    def mean(self, outputs: Tensor) -> Tensor:
        """Mean of x on the scale of the data, in the shape of the outputs, (..., \\*D).

        Args:
            outputs: the decoder's, (..., \\*D).
        """
        raise NotImplementedError

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x for each set of outputs, (..., \\*D), as floating-point numbers on the scale of the data.

        Args:
            outputs: the decoder's, (..., \\*D).
            generator: source of the noise, on the outputs' device.
        """
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Refuse data that this likelihood does not describe.

        Args:
            x: data, (N, \\*D), at least one point.

        Raises:
            ValueError: for NaN, naming the first row, and for values outside the support, naming them and the remedy.
        """
        if x.is_floating_point() and x.min().isnan():
            bad = x.isnan().flatten(1).any(1) if x.dim() > 1 else x.isnan()
            raise ValueError(f"x contains NaN, first in row {int(bad.int().argmax())}: remove or fill in such rows")
        self.check_range(x)

    def check_range(self, x: Tensor) -> None:
        """Refuse values outside the support.

        Args:
            x: data without NaN, (N, \\*D).

        Raises:
            ValueError: naming the values given and the remedy.
        """
        raise NotImplementedError

    def encoder_input(self, x: Tensor) -> Tensor:
        """What the encoder is shown of x, in the shape of the decoder's outputs: x itself unless said otherwise.

        Args:
            x: data, (B, \\*D), in the networks' floating-point type.
        """
        return x

    def output_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the decoder's outputs for one data point: the data's own unless said otherwise.

        Args:
            data_shape: D, the shape of one data point.
        """
        return tuple(data_shape)


@keeps_arguments
class Bernoulli(Likelihood):
    """Binary data; the decoder gives logits. See :func:`bernoulli`.

    >>> Bernoulli().mean(torch.zeros(2))
    tensor([0.5000, 0.5000])
    """

    def __init__(self) -> None:
        super().__init__()

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`bernoulli` of logits, in nats, (..., B)."""
        return bernoulli(x, outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        """The probability of a one, the sigmoid of the logits, (..., \\*D)."""
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Zeros and ones, (..., \\*D)."""
        return torch.bernoulli(outputs.sigmoid(), generator=generator)

    def check_range(self, x: Tensor) -> None:
        """Refuse values outside [0, 1], and warn of values between: they are not binary. Raises ValueError."""
        remedy = "binarize images; real values call for another likelihood, such as Gaussian()"
        _check_unit_interval(x, "a Bernoulli likelihood", remedy)
        if x.is_floating_point() and (x * (1 - x)).any():
            warnings.warn(
                "x holds values between 0 and 1, and a Bernoulli likelihood describes zeros and ones: what is maximised is "
                "not the log-probability of these data. Binarize them by sampling, or take ContinuousBernoulli() or "
                "DiscretizedLogistic()",
                stacklevel=2,
            )


@keeps_arguments
class Gaussian(Likelihood):
    """Real data; the decoder gives the mean, and one noise variance is learnt, or given. See :func:`gaussian`.

    Args:
        log_var: the log-variance of the noise, to be held fixed; without it, it is a parameter that starts at 0.

    Raises:
        ValueError: if a given log-variance is not finite.

    >>> Gaussian().log_var_x
    Parameter containing:
    tensor(0., requires_grad=True)
    >>> Gaussian(log_var=-3.0).log_var_x
    tensor(-3.)
    """

    log_var_x: Tensor

    def __init__(self, log_var: float | None = None) -> None:
        super().__init__()
        _hold(self, "log_var_x", log_var, start=0.0)

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`gaussian` about the outputs, in nats, (..., B)."""
        return gaussian(x, outputs, self.log_var_x)

    def mean(self, outputs: Tensor) -> Tensor:
        """The outputs themselves, (..., \\*D)."""
        return outputs

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The mean and noise, (..., \\*D)."""
        return outputs + torch.exp(0.5 * self.log_var_x) * _randn_like(outputs, generator)

    def check_range(self, x: Tensor) -> None:
        """Refuse infinite values. Raises ValueError."""
        if not x.isfinite().all():
            raise ValueError("x contains infinite values: a Gaussian likelihood describes finite ones")


@keeps_arguments
class ContinuousBernoulli(Likelihood):
    """Grey data in [0, 1]; the decoder gives logits. See :func:`continuous_bernoulli`.

    >>> ContinuousBernoulli().mean(torch.tensor([0.0, 40.0]))  # not the sigmoid
    tensor([0.5000, 0.9750])
    """

    def __init__(self) -> None:
        super().__init__()

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`continuous_bernoulli` of logits, in nats, (..., B)."""
        return continuous_bernoulli(x, outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        """:func:`continuous_bernoulli_mean`, (..., \\*D)."""
        return continuous_bernoulli_mean(outputs)

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        r"""Grey levels by inversion of the distribution function, (..., \*D).

        .. math:: x = \tfrac1\ell \log \big( 1 - u + u e^\ell \big), \qquad u \sim \mathrm{Uniform}(0, 1)
        """
        u = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
        near = outputs.abs() < 1e-3
        away = torch.where(near, 1.0, outputs)
        exact = torch.logaddexp(torch.log1p(-u), u.log() + away) / away
        return torch.where(near, u + 0.5 * outputs * u * (1 - u), exact).clamp(0, 1)

    def check_range(self, x: Tensor) -> None:
        """Refuse values outside [0, 1]. Raises ValueError."""
        _check_unit_interval(x, "a continuous Bernoulli likelihood", "divide grey levels by 255")


@keeps_arguments
class DiscretizedLogistic(Likelihood):
    r"""The grey levels 0 to 255 as they are stored; the decoder gives the mean of x / 255, and one scale is learnt.

    The encoder is shown x / 255. The decoder's output is the mean as it is, without a sigmoid: a mean well below 0 gives
    a black pixel a probability near 1, and a mean of 0 gives it one half. See :func:`discretized_logistic`.

    >>> DiscretizedLogistic().log_prob(torch.tensor([[255.0]]), torch.full((1, 1), 9.0)).exp().detach()
    tensor([1.])
    """

    def __init__(self) -> None:
        super().__init__()
        # A standard deviation of 0.25, about that of an image's pixels: from 1, small steps would take long to get down.
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`discretized_logistic` about the outputs, in nats, (..., B)."""
        return discretized_logistic(x, outputs, self.log_scale)

    def mean(self, outputs: Tensor) -> Tensor:
        r"""The mean grey level, between 0 and 255, (..., \*D): a sum over the edges of the bins.

        .. math:: \mathbb{E}[x] = \sum_{k=0}^{254} P(x > k), \qquad
            P(x > k) = \sigma\Big( \frac{m - (k + \frac12) / 255}{s} \Big)
        """
        scale, total = self.log_scale.exp(), torch.zeros_like(outputs)
        for k in range(NUM_LEVELS - 1):
            total = total + torch.sigmoid((outputs - (k + 0.5) / (NUM_LEVELS - 1)) / scale)
        return total

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Grey levels 0 to 255, (..., \\*D): a logistic variable, rounded and cut off at the ends."""
        u = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
        level = (NUM_LEVELS - 1) * (outputs + self.log_scale.exp() * torch.logit(u))
        return level.round().clamp(0, NUM_LEVELS - 1)

    def check_range(self, x: Tensor) -> None:
        """Refuse anything but the whole numbers 0 to 255. Raises ValueError."""
        if not _is_whole(x, 0, NUM_LEVELS - 1):
            raise ValueError(
                f"x must hold the whole numbers 0 to 255 for a discretized logistic likelihood, got {_values(x)}; give "
                "grey levels as they are stored, not divided by 255"
            )

    def encoder_input(self, x: Tensor) -> Tensor:
        """x / 255, (B, \\*D)."""
        return x / (NUM_LEVELS - 1)


@keeps_arguments
class Poisson(Likelihood):
    """Counts; the decoder gives the logarithm of the rate, and the encoder is shown log(1 + x). See :func:`poisson`.

    >>> Poisson().mean(torch.zeros(2))
    tensor([1., 1.])
    """

    def __init__(self) -> None:
        super().__init__()

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`poisson` of log-rates, in nats, (..., B)."""
        return poisson(x, outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        """The rate, (..., \\*D)."""
        return outputs.exp()

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Counts, (..., \\*D)."""
        return torch.poisson(outputs.exp(), generator=generator)

    def check_range(self, x: Tensor) -> None:
        """Refuse anything but whole numbers from 0 on. Raises ValueError."""
        _check_counts(x, "a Poisson likelihood")

    def encoder_input(self, x: Tensor) -> Tensor:
        """log(1 + x), (B, \\*D)."""
        return x.log1p()


@keeps_arguments
class NegativeBinomial(Likelihood):
    """Overdispersed counts; the decoder gives the logarithm of the mean, and one shape is learnt, or given.

    The encoder is shown log(1 + x). See :func:`negative_binomial`.

    Args:
        log_shape: the logarithm of the shape r, to be held fixed; without it, it is a parameter that starts at 0.

    Raises:
        ValueError: if a given logarithm is not finite.

    >>> NegativeBinomial(log_shape=0.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1))  # log(1/2)
    tensor([-0.6931])
    """

    log_shape: Tensor

    def __init__(self, log_shape: float | None = None) -> None:
        super().__init__()
        _hold(self, "log_shape", log_shape, start=0.0)

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`negative_binomial` of log-means, in nats, (..., B)."""
        return negative_binomial(x, outputs, self.log_shape)

    def mean(self, outputs: Tensor) -> Tensor:
        """The mean, (..., \\*D)."""
        return outputs.exp()

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Counts, (..., \\*D): a Poisson variable whose rate is drawn from a Gamma distribution."""
        shape = self.log_shape.exp().expand_as(outputs).contiguous()
        gamma = torch._standard_gamma(shape, generator=generator)  # the one sampler of it that takes a generator
        return torch.poisson(gamma * (outputs - self.log_shape).exp(), generator=generator)

    def check_range(self, x: Tensor) -> None:
        """Refuse anything but whole numbers from 0 on. Raises ValueError."""
        _check_counts(x, "a negative binomial likelihood")

    def encoder_input(self, x: Tensor) -> Tensor:
        """log(1 + x), (B, \\*D)."""
        return x.log1p()


@keeps_arguments
class Categorical(Likelihood):
    """One of C classes for each coordinate; the decoder gives C logits for each. See :func:`categorical`.

    The encoder is shown the classes one-hot. Both networks then work on (\\*D, C), :meth:`output_shape`.

    Args:
        num_classes: C, at least 2.

    Raises:
        ValueError: if C is below 2.

    >>> Categorical(3).output_shape((5,))
    (5, 3)
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes

    def log_prob(self, x: Tensor, outputs: Tensor) -> Tensor:
        """:func:`categorical` of logits, in nats, (..., B)."""
        return categorical(x, outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        """The probability of each class, which is the mean of a one-hot vector, (..., \\*D, C)."""
        return outputs.softmax(-1)

    def sample(self, outputs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Classes, (..., \\*D), as floating-point numbers."""
        flat = outputs.softmax(-1).flatten(0, -2)
        return flat.multinomial(1, generator=generator).view(outputs.shape[:-1]).to(outputs.dtype)

    def check_range(self, x: Tensor) -> None:
        """Refuse anything but the whole numbers 0 to C - 1. Raises ValueError."""
        if not _is_whole(x, 0, self.num_classes - 1):
            raise ValueError(
                f"x must hold the classes 0 to {self.num_classes - 1} for a categorical likelihood of {self.num_classes} "
                f"classes, got {_values(x)}; number the classes from 0"
            )

    def encoder_input(self, x: Tensor) -> Tensor:
        """One-hot vectors, (B, \\*D, C)."""
        return F.one_hot(x.long(), self.num_classes).to(x.dtype)

    def output_shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(\\*D, C)."""
        return (*data_shape, self.num_classes)


def _hold(module: nn.Module, name: str, value: float | None, *, start: float) -> None:
    """A scalar that all data share: given, a buffer; not given, a parameter that starts somewhere."""
    if value is None:
        module.register_parameter(name, nn.Parameter(torch.tensor(start)))
    elif not math.isfinite(value):
        raise ValueError(f"{name.removesuffix('_x')} must be finite, got {value}")
    else:
        module.register_buffer(name, torch.tensor(float(value)))


def _randn_like(outputs: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)


def _values(x: Tensor) -> str:
    low, high = x.min().item(), x.max().item()
    fractions = ", fractions among them" if x.is_floating_point() and (x != x.round()).any() else ""
    return f"values from {low:g} to {high:g}{fractions}"


def _is_whole(x: Tensor, low: float, high: float) -> bool:
    inside = low <= x.min().item() and x.max().item() <= high
    return inside and not (x.is_floating_point() and (x != x.round()).any())


def _check_unit_interval(x: Tensor, likelihood: str, remedy: str) -> None:
    if x.min().item() < 0 or x.max().item() > 1:
        raise ValueError(f"x must lie in [0, 1] for {likelihood}, got {_values(x)}; {remedy}")


def _check_counts(x: Tensor, likelihood: str) -> None:
    if not (x.isfinite().all() and _is_whole(x, 0, math.inf)):
        raise ValueError(
            f"x must hold the whole numbers 0, 1, 2, ... for {likelihood}, got {_values(x)}; real values call for another "
            "likelihood, such as Gaussian()"
        )


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
