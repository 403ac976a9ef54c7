r"""Gaussians with correlated coordinates, written by their mean and the Cholesky factor of their covariance.

Every covariance matrix is :math:`\Sigma = L L^\top` for exactly one lower triangular L with a positive diagonal. The factor
is all that is needed: it turns standard normal noise into samples, its triangular system turns samples back into noise,
and its diagonal holds the determinant,

.. math:: z = \mu + L \epsilon, \qquad \epsilon = L^{-1} (z - \mu), \qquad
    \tfrac12 \log \det \Sigma = \sum_{j=1}^J \log L_{jj}.

A diagonal L with the entries :math:`\sigma_j` gives the diagonal Gaussian of :mod:`vae_tutorial.gaussian`.

Shapes: ``z`` is (K, B, J), ``mu`` is (B, J), ``scale_tril`` is (B, J, J) or (J, J); leading axes broadcast as PyTorch's do,
the axes J do not. Only the lower triangle of ``scale_tril`` is read. The results are in nats.
"""

import math

import numpy as np
import torch
from torch import Tensor

from vae_tutorial import _checks
from vae_tutorial.gaussian import LOG_2PI


def log_prob(z: Tensor, mu: Tensor, scale_tril: Tensor) -> Tensor:
    r"""Log-density of a Gaussian with covariance :math:`\Sigma = L L^\top`, in nats.

    .. math:: \log N(z; \mu, L L^\top)
        = -\tfrac12 \big( J \log 2\pi + \lVert L^{-1} (z - \mu) \rVert^2 \big) - \sum_{j=1}^J \log L_{jj}

    Args:
        z: points, (..., J).
        mu: mean, (..., J).
        scale_tril: L, lower triangular with a positive diagonal, (..., J, J).

    Returns:
        Log-density, shape (...) after broadcasting.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Bishop (2006), equation (2.43).

    >>> z, mu, scale_tril = torch.tensor([0.0, 0.0]), torch.zeros(2), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    >>> log_prob(z, mu, scale_tril)  # det L = 1: as high as a standard normal at its mean
    tensor(-1.8379)
    """
    _checks.factors(scale_tril=scale_tril, z=z, mu=mu)
    squares = _squared_norm_of_noise(scale_tril, z - mu)
    return -0.5 * (mu.shape[-1] * LOG_2PI + squares) - _log_diagonal(scale_tril).sum(-1)


def reparameterize(eps: Tensor, mu: Tensor, scale_tril: Tensor) -> Tensor:
    r"""The map from noise to latent, :math:`z = \mu + L \epsilon`, differentiable in both parameters.

    .. math:: z_i = \mu_i + \sum_{j \le i} L_{ij} \, \epsilon_j

    Args:
        eps: standard normal noise, (..., J).
        mu: mean, (..., J).
        scale_tril: L, lower triangular, (..., J, J).

    Returns:
        Latents, (..., J) after broadcasting.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma and Welling (2014), section 2.4, with a full matrix.

    >>> reparameterize(torch.tensor([1.0, 1.0]), torch.zeros(2), torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
    tensor([2., 7.])
    """
    _checks.factors(scale_tril=scale_tril, eps=eps, mu=mu)
    columns, leading = _columns(eps, scale_tril)
    return mu + _rows(scale_tril.tril() @ columns, leading)


def sample(mu: Tensor, scale_tril: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Reparameterized samples: draw :math:`\epsilon \sim N(0, I)`, return :math:`z = \mu + L \epsilon`.

    .. math:: z_{kb} = \mu_b + L_b \, \epsilon_{kb}, \qquad \epsilon_{kb} \sim N(0, I_J)

    Args:
        mu: mean, (B, J).
        scale_tril: L, lower triangular, (B, J, J) or (J, J).
        num_samples: K, at least 1.
        generator: source of the noise, on the device of ``mu``.

    Returns:
        Samples, (K, B, J); gradients flow to ``mu`` and ``scale_tril``.

    Raises:
        ValueError: if the shapes do not fit, or K < 1.

    Source: Kingma and Welling (2014), section 2.4, with a full matrix.

    >>> sample(torch.zeros(5, 3), torch.eye(3), 4).shape
    torch.Size([4, 5, 3])
    """
    _checks.factors(num_samples, scale_tril=scale_tril, mu=mu)
    shape = np.broadcast_shapes(mu.shape, scale_tril.shape[:-1])
    eps = torch.randn(num_samples, *shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return reparameterize(eps, mu, scale_tril)


def kl(mu_q: Tensor, scale_tril_q: Tensor, mu_p: Tensor, scale_tril_p: Tensor) -> Tensor:
    r"""KL divergence from a Gaussian q to another, p, in nats.

    With :math:`M = L_p^{-1} L_q`, which is lower triangular with the diagonal :math:`L_{q,jj} / L_{p,jj}`,

    .. math:: \mathrm{KL}(q \,\|\, p)
        = \tfrac12 \Big( \lVert M \rVert_F^2 + \lVert L_p^{-1} (\mu_q - \mu_p) \rVert^2 - J \Big) - \sum_{j=1}^J \log M_{jj}

    Here :math:`\lVert M \rVert_F^2`, the sum of the squared entries, is the trace of :math:`\Sigma_p^{-1} \Sigma_q`.

    Args:
        mu_q: mean of q, (..., J).
        scale_tril_q: Cholesky factor of q's covariance, (..., J, J).
        mu_p: mean of p, (..., J).
        scale_tril_p: Cholesky factor of p's covariance, (..., J, J).

    Returns:
        KL divergence, shape (...) after broadcasting; at least 0 up to rounding.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kullback and Leibler (1951) for the divergence; the Gaussian case is derived in the book, chapter 3.

    >>> mu, scale_tril = torch.ones(3), torch.eye(3)
    >>> kl(mu, scale_tril, torch.zeros(3), scale_tril)  # half the squared distance
    tensor(1.5000)
    """
    _checks.factors(scale_tril_q=scale_tril_q, scale_tril_p=scale_tril_p, mu_q=mu_q, mu_p=mu_p)
    ratio = torch.linalg.solve_triangular(scale_tril_p, scale_tril_q.tril(), upper=False)  # M, (..., J, J)
    log_squares = 2 * (_log_diagonal(scale_tril_q) - _log_diagonal(scale_tril_p))  # log of M's squared diagonal
    # M's diagonal apart from the rest: expm1 keeps the digits of M^2 - 1 - log M^2 when the two are close.
    diagonal = (torch.expm1(log_squares) - log_squares).sum(-1)
    below = ratio.tril(-1).square().sum((-2, -1))
    return 0.5 * (diagonal + below + _squared_norm_of_noise(scale_tril_p, mu_q - mu_p))


def entropy(scale_tril: Tensor) -> Tensor:
    r"""Differential entropy of a Gaussian, in nats.

    .. math:: H(q) = \tfrac J2 (\log 2\pi + 1) + \sum_{j=1}^J \log L_{jj}

    It does not depend on the mean, and it can be negative.

    Args:
        scale_tril: L, lower triangular with a positive diagonal, (..., J, J).

    Returns:
        Entropy, shape (...).

    Raises:
        ValueError: if ``scale_tril`` is not square in its last two axes.

    Source: Cover and Thomas (2006), theorem 8.4.1.

    >>> round(entropy(torch.eye(1, dtype=torch.float64)).item(), 4)
    1.4189
    """
    _checks.factors(scale_tril=scale_tril)
    return 0.5 * scale_tril.shape[-1] * (LOG_2PI + 1) + _log_diagonal(scale_tril).sum(-1)


def _log_diagonal(scale_tril: Tensor) -> Tensor:  # (..., J, J) -> (..., J)
    return scale_tril.diagonal(dim1=-2, dim2=-1).log()


def _squared_norm_of_noise(scale_tril: Tensor, difference: Tensor) -> Tensor:  # |L^-1 (z - mu)|^2, (...)
    columns, leading = _columns(difference, scale_tril)
    noise = torch.linalg.solve_triangular(scale_tril, columns, upper=False)
    return _rows(noise.square().sum(-2), leading)


def _columns(vectors: Tensor, matrices: Tensor) -> tuple[Tensor, torch.Size]:
    """Vectors (..., J) as columns (..., J, K): axes that the matrices lack become K, so that one matrix serves them all."""
    num_leading = max(vectors.dim() - matrices.dim() + 1, 0)
    leading = vectors.shape[:num_leading]
    return vectors.reshape(math.prod(leading), *vectors.shape[num_leading:]).movedim(0, -1), leading


def _rows(columns: Tensor, leading: torch.Size) -> Tensor:
    """The way back: the last axis, K, to the front and apart into the axes it was made of."""
    return columns.movedim(-1, 0).reshape(leading + columns.shape[:-1])
