r"""Likelihoods: log p(x given z), summed over the dimensions of one data point.

A decoder turns a latent z into the parameters of a distribution over x, and the coordinates of x are independent given
z. The log-likelihood of a data point is therefore a *sum* over its D coordinates, never a mean.

Shapes: ``x`` is (B, \*D), one axis for the batch and any number for the data; a decoder's output is (K, B, \*D) or
(B, \*D). The result drops the data axes: (K, B) or (B,). The results are in nats.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_tutorial.gaussian import LOG_2PI


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
