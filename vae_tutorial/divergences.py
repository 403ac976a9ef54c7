r"""Monte Carlo estimators of the KL divergence, where no closed form is at hand.

With :math:`r(z) = q(z) / p(z)` and z drawn from q, the divergence is an expectation of the log-ratio,

.. math:: \mathrm{KL}(q \,\|\, p) = \mathbb{E}_q[\log r(z)].

Its sample mean is the obvious estimator. Two others trade its variance for a bias, or lower it at no cost: since
:math:`\mathbb{E}_q[1 / r] = 1` wherever the support of q covers that of p, a multiple of :math:`1 / r - 1` may be added
without changing the expectation.

The estimators map the log-ratio of each sample to the estimate from that sample alone, (K, ...) -> (K, ...). The caller
averages over K, and reads the variance from the spread. :func:`kl` takes the closed form where a family and a prior have
one, and samples where not. The results are in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _checks, full_gaussian, gaussian
from vae_tutorial.families import Family, FullRank, MeanField, scale_tril
from vae_tutorial.priors import Prior, StandardNormal


class KL(NamedTuple):
    """The divergence of each data point, (B,) in nats, and whether it is the closed form or an average over samples."""

    value: Tensor
    closed_form: bool


def kl_direct(log_ratio: Tensor) -> Tensor:
    r"""The log-ratio itself: unbiased, of either sign, in nats.

    .. math:: k = \log r, \qquad \mathbb{E}_q[k] = \mathrm{KL}(q \,\|\, p)

    Args:
        log_ratio: log q(z) - log p(z) at samples of q, (K, ...).

    Returns:
        One estimate for each sample, (K, ...).

    Raises:
        ValueError: if there is no sample axis or it is empty.

    Source: the definition of Kullback and Leibler (1951).

    >>> kl_direct(torch.tensor([0.5, -0.5]))
    tensor([ 0.5000, -0.5000])
    """
    _checks.samples(log_ratio=log_ratio)
    return log_ratio


def kl_squared(log_ratio: Tensor) -> Tensor:
    r"""Half the squared log-ratio: never negative, biased, and good only where q and p are close; in nats.

    .. math:: k = \tfrac12 (\log r)^2, \qquad \mathbb{E}_q[k] - \mathrm{KL}(q \,\|\, p) \text{ is of the third order in }
        \log r

    Args:
        log_ratio: log q(z) - log p(z) at samples of q, (K, ...).

    Returns:
        One estimate for each sample, (K, ...).

    Raises:
        ValueError: if there is no sample axis or it is empty.

    Source: Schulman (2020), the estimator called k2; its order is derived in the book, chapter 3.

    >>> kl_squared(torch.tensor([0.5, -0.5]))
    tensor([0.1250, 0.1250])
    """
    _checks.samples(log_ratio=log_ratio)
    return 0.5 * log_ratio.square()


def kl_control_variate(log_ratio: Tensor) -> Tensor:
    r"""The log-ratio plus a control variate of mean 0: unbiased and never negative, in nats.

    .. math:: k = \log r + \tfrac1r - 1, \qquad \mathbb{E}_q[k] = \mathrm{KL}(q \,\|\, p)
        \quad \text{wherever the support of } q \text{ covers that of } p

    It is at least 0 because :math:`\log y \le y - 1` at :math:`y = 1 / r`. Where p has heavier tails than q, 1 / r is large
    at rare samples: the variance can then exceed that of :func:`kl_direct`, and can be infinite.

    Args:
        log_ratio: log q(z) - log p(z) at samples of q, (K, ...).

    Returns:
        One estimate for each sample, (K, ...).

    Raises:
        ValueError: if there is no sample axis or it is empty.

    Source: Schulman (2020), the estimator called k3.

    >>> kl_control_variate(torch.tensor([0.5, -0.5]))
    tensor([0.1065, 0.1487])
    """
    _checks.samples(log_ratio=log_ratio)
    return log_ratio + torch.expm1(-log_ratio)  # expm1 keeps the digits of 1 / r - 1 where r is close to 1


def kl(q: Family, prior: Prior, eps: Tensor) -> KL:
    r"""KL divergence from a family to a prior, in nats: in closed form where there is one, else from samples of q.

    .. math:: \mathrm{KL}(q \,\|\, p) \approx \frac1K \sum_{k=1}^K \big( \log q(z_k) - \log p(z_k) \big), \qquad z_k \sim q

    The closed form is :func:`closed_form_kl`'s. Both ways are differentiable, the second through the samples.

    Args:
        q: the family, B factors.
        prior: the prior.
        eps: the noise behind samples of q, (K, B, J), as ``q.noise`` draws it.

    Returns:
        ``KL(value, closed_form)``: (B,), and ``True`` where the samples were not needed.

    Source: Kingma and Welling (2014), appendix B, for the closed form with a diagonal covariance.

    >>> from vae_tutorial import families
    >>> q, prior = families.mean_field(3, 2), StandardNormal(2)
    >>> kl(q, prior, q.noise(5)).closed_form
    True
    """
    exact = closed_form_kl(q, prior)
    if exact is not None:
        return KL(exact, True)
    z, log_q_z = q.transform(eps)
    return KL(kl_direct(log_q_z - prior.log_prob(z)).mean(0), False)


def closed_form_kl(q: Family, prior: Prior) -> Tensor | None:
    r"""KL divergence from a family to a prior in closed form, in nats, or ``None`` where there is none.

    There is one for a :class:`~vae_tutorial.families.MeanField` or :class:`~vae_tutorial.families.FullRank` and the standard
    normal.

    Args:
        q: the family, B factors.
        prior: the prior.

    Returns:
        The divergence of each factor, (B,), or ``None``.

    Source: Kingma and Welling (2014), appendix B, with a diagonal covariance.

    >>> from vae_tutorial import families
    >>> closed_form_kl(families.mean_field(3, 2, dtype=torch.float32), StandardNormal(2)).detach()
    tensor([0., 0., 0.])
    """
    if type(prior) is not StandardNormal:
        return None
    if isinstance(q, MeanField):
        return gaussian.kl_to_standard_normal(q.mu, q.log_var)
    if isinstance(q, FullRank):
        zero, identity = torch.zeros_like(q.mu), torch.eye(q.mu.shape[-1]).to(q.mu)
        return full_gaussian.kl(q.mu, scale_tril(q.log_cholesky), zero, identity)
    return None
