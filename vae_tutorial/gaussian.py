r"""Diagonal Gaussians, written by their mean and log-variance.

A diagonal Gaussian over :math:`z \in \mathbb{R}^J` is a product of one-dimensional ones,

.. math:: N(z; \mu, \operatorname{diag}(\sigma^2)) = \prod_{j=1}^J N(z_j; \mu_j, \sigma_j^2),

so its log-density, its entropy and its KL divergence to another one are sums over the coordinates. Every function here
sums over the last axis, J, and over nothing else. The results are in nats.

The second parameter is always ``log_var`` :math:`= \log \sigma^2`. It may be any real number, so a network can produce
it without a constraint, and no formula below needs :math:`\log \sigma`, :math:`1/\sigma` or a division.

Shapes: ``z`` is (K, B, J), ``mu`` and ``log_var`` are (B, J); leading axes broadcast as PyTorch's do. The last axis does
not broadcast, with one exception: a ``log_var`` of size 1 there, or a scalar, is one variance shared by all coordinates.
"""

import math

import numpy as np
import torch
from torch import Tensor

from vae_tutorial import _checks

LOG_2PI = math.log(2 * math.pi)


def log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    r"""Log-density of a diagonal Gaussian, in nats.

    .. math:: \log N(z; \mu, \sigma^2)
        = -\tfrac12 \sum_{j=1}^J \Big( \log 2\pi + \log \sigma_j^2 + \frac{(z_j - \mu_j)^2}{\sigma_j^2} \Big)

    Args:
        z: points, (..., J).
        mu: mean, (..., J).
        log_var: log-variance, (..., J), (..., 1) or a scalar.

    Returns:
        Log-density summed over J, shape (...) after broadcasting.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Bishop (2006), equation (2.43), with a diagonal covariance.

    >>> zero = torch.zeros(2, dtype=torch.float64)
    >>> round(log_prob(zero, zero, zero).item(), 4)  # two coordinates, -log(2 pi) / 2 each
    -1.8379
    """
    _checks.latent(z=z, mu=mu, log_var=log_var)
    # The precision multiplies: dividing by exp(log_var) would turn an underflow into infinity.
    return -0.5 * (LOG_2PI + log_var + (z - mu).square() * precision(log_var)).sum(-1)


def precision(log_var: Tensor) -> Tensor:
    r"""The inverse variance, cut off where it would be no number.

    .. math:: \frac{1}{\sigma^2} = e^{-\log \sigma^2}

    In single precision it would be infinite for log-variances below -88.7, in double precision below -709.7, and the
    distance 0 times infinity is not a number. Cut off below -88 and -709, the product is 0, as it is in truth.

    Args:
        log_var: log-variance, any shape.

    Returns:
        The precision, finite, in the same shape.

    Source: the definition.

    >>> precision(torch.tensor([0.0, -1000.0])) * 0
    tensor([0., 0.])
    """
    return torch.exp((-log_var).clamp(max=math.floor(math.log(torch.finfo(log_var.dtype).max))))


def reparameterize(eps: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    r"""The map from noise to latent, :math:`z = \mu + \sigma \odot \epsilon`, differentiable in both parameters.

    .. math:: z_j = \mu_j + e^{\frac12 \log \sigma_j^2} \, \epsilon_j

    Args:
        eps: standard normal noise, (..., J).
        mu: mean, (..., J).
        log_var: log-variance, (..., J), (..., 1) or a scalar.

    Returns:
        Latents, (..., J) after broadcasting.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma and Welling (2014), section 2.4.

    >>> eps, mu, log_var = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([0.0])
    >>> reparameterize(eps, mu, log_var)
    tensor([3.])
    """
    _checks.latent(eps=eps, mu=mu, log_var=log_var)
    return mu + torch.exp(0.5 * log_var) * eps


def sample(mu: Tensor, log_var: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Reparameterized samples: draw :math:`\epsilon \sim N(0, I)`, return :math:`z = \mu + \sigma \odot \epsilon`.

    .. math:: z_{kbj} = \mu_{bj} + \sigma_{bj} \, \epsilon_{kbj}, \qquad \epsilon_{kbj} \sim N(0, 1)

    Args:
        mu: mean, (B, J).
        log_var: log-variance, (B, J), (B, 1) or a scalar.
        num_samples: K, at least 1.
        generator: source of the noise, on the device of ``mu``.

    Returns:
        Samples, (K, B, J); gradients flow to ``mu`` and ``log_var``.

    Raises:
        ValueError: if the shapes do not fit, or K < 1.

    Source: Kingma and Welling (2014), section 2.4.

    >>> sample(torch.zeros(5, 3), torch.zeros(5, 3), 4).shape
    torch.Size([4, 5, 3])
    """
    _checks.latent(num_samples, mu=mu, log_var=log_var)
    shape = np.broadcast_shapes(mu.shape, log_var.shape)
    eps = torch.randn(num_samples, *shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return reparameterize(eps, mu, log_var)


def kl(mu_q: Tensor, log_var_q: Tensor, mu_p: Tensor, log_var_p: Tensor) -> Tensor:
    r"""KL divergence from a diagonal Gaussian q to another, p, in nats.

    .. math:: \mathrm{KL}(q \,\|\, p) = \tfrac12 \sum_{j=1}^J \Big( \log \frac{\sigma_{p,j}^2}{\sigma_{q,j}^2}
        + \frac{\sigma_{q,j}^2}{\sigma_{p,j}^2} + \frac{(\mu_{q,j} - \mu_{p,j})^2}{\sigma_{p,j}^2} - 1 \Big)

    The expectation is under the first distribution, q. Swapping the two changes the value.

    Args:
        mu_q: mean of q, (..., J).
        log_var_q: log-variance of q, (..., J), (..., 1) or a scalar.
        mu_p: mean of p, (..., J).
        log_var_p: log-variance of p, (..., J), (..., 1) or a scalar.

    Returns:
        KL divergence summed over J, shape (...) after broadcasting; at least 0 up to rounding.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kullback and Leibler (1951) for the divergence; the Gaussian case is derived in the book.

    >>> mu, log_var = torch.ones(3), torch.zeros(3)
    >>> kl(mu, log_var, torch.zeros(3), log_var)  # half the squared distance
    tensor(1.5000)
    """
    _checks.latent(mu_q=mu_q, log_var_q=log_var_q, mu_p=mu_p, log_var_p=log_var_p)
    log_ratio = log_var_q - log_var_p  # log of sigma_q^2 / sigma_p^2
    # expm1 keeps the digits of exp(r) - 1 - r when the two variances are close.
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + (mu_q - mu_p).square() * precision(log_var_p)).sum(-1)


def kl_to_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    r"""KL divergence from a diagonal Gaussian to N(0, I), in nats.

    .. math:: \mathrm{KL}(q \,\|\, N(0, I)) = \tfrac12 \sum_{j=1}^J \big( \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1 \big)

    Args:
        mu: mean, (..., J).
        log_var: log-variance, (..., J), (..., 1) or a scalar.

    Returns:
        KL divergence summed over J, shape (...) after broadcasting; at least 0 up to rounding.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma and Welling (2014), appendix B.

    >>> kl_to_standard_normal(torch.zeros(3), torch.zeros(3))
    tensor(0.)
    """
    _checks.latent(mu=mu, log_var=log_var)
    return 0.5 * (mu.square() + torch.expm1(log_var) - log_var).sum(-1)


def entropy(log_var: Tensor) -> Tensor:
    r"""Differential entropy of a diagonal Gaussian, in nats.

    .. math:: H(q) = \tfrac12 \sum_{j=1}^J \big( \log 2\pi + 1 + \log \sigma_j^2 \big)

    It does not depend on the mean, and it can be negative.

    Args:
        log_var: log-variance, (..., J), with the full last axis: its length is the number of coordinates.

    Returns:
        Entropy summed over J, shape (...).

    Raises:
        ValueError: if ``log_var`` is a scalar, whose number of coordinates is unknown.

    Source: Cover and Thomas (2006), theorem 8.4.1, with a diagonal covariance.

    >>> round(entropy(torch.zeros(1, dtype=torch.float64)).item(), 4)
    1.4189
    """
    if log_var.dim() == 0:
        raise ValueError("log_var must have a last axis of length J, got a scalar of shape ()")
    return 0.5 * (LOG_2PI + 1 + log_var).sum(-1)
