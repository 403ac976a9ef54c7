r"""Bounds on the log-evidence, as pure functions of the importance log-weights.

It needs no other module of the package.

For a data point x and samples :math:`z_1, \dots, z_K` from :math:`q(z \mid x)`, the importance weight of a sample is

.. math:: w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad \mathbb{E}_q[w_k] = p(x)
    \quad \text{wherever the support of } q \text{ covers that of } p(z \mid x).

Every quantity below is a function of :math:`\log w` alone, so each is one line, and its neighbour is one line away.

Shapes: ``log_w`` is (K, B), samples first; the result is (B,). The results are in nats unless a docstring says otherwise.
"""

import math

import torch
from torch import Tensor

from vae_tutorial import _checks


def elbo(log_w: Tensor) -> Tensor:
    r"""Monte Carlo estimate of the evidence lower bound (ELBO), in nats.

    .. math:: \widehat{\mathrm{ELBO}} = \frac1K \sum_{k=1}^K \log w_k, \qquad
        \mathbb{E}\big[\widehat{\mathrm{ELBO}}\big] = \mathbb{E}_q[\log w] \le \log p(x)

    The estimate is unbiased for the ELBO at every K. One estimate may lie above log p(x); its mean may not.

    Args:
        log_w: importance log-weights, (K, ...), K at least 1.

    Returns:
        The mean over the samples, (...).

    Raises:
        ValueError: if there is no sample axis or it is empty.

    Source: Jordan, Ghahramani, Jaakkola and Saul (1999); Kingma and Welling (2014), equation (2).

    >>> import torch
    >>> elbo(torch.tensor([[-3.0], [-1.0]]))
    tensor([-2.])
    """
    _checks.samples(log_w=log_w)
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    r"""The K-sample importance-weighted bound, in nats.

    .. math:: \widehat{\mathcal L}_K = \log \frac1K \sum_{k=1}^K w_k, \qquad
        \mathbb{E}\big[\widehat{\mathcal L}_K\big] \le \mathbb{E}\big[\widehat{\mathcal L}_{K+1}\big] \le \log p(x)

    At K = 1 it is the ELBO's estimate. The mean of the weights is unbiased for p(x); its logarithm is biased downwards.

    Args:
        log_w: importance log-weights, (K, ...), K at least 1.

    Returns:
        The log of the mean weight, (...).

    Raises:
        ValueError: if there is no sample axis or it is empty.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3 and theorem 1.

    >>> import torch
    >>> iwae(torch.tensor([[0.0], [math.log(3.0)]]))  # log of (1 + 3) / 2
    tensor([0.6931])
    """
    _checks.samples(log_w=log_w)
    impossible = (log_w == -math.inf).all(0)  # all weights 0: their logarithm has no slope that is a number
    log_mean = log_w.masked_fill(impossible, 0.0).logsumexp(0) - math.log(len(log_w))
    return log_mean.masked_fill(impossible, -math.inf)


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Kish's effective sample size of a set of importance weights, a number of samples between 1 and K.

    .. math:: \mathrm{ESS} = \frac{\big(\sum_k w_k\big)^2}{\sum_k w_k^2}

    It is K when all weights are equal, that is when q is the posterior, and 1 when a single weight carries everything.
    A high value is no proof: weights that were never drawn are not counted.

    Args:
        log_w: importance log-weights, (K, ...), K at least 1; a constant added to all of them changes nothing.

    Returns:
        The effective sample size, (...).

    Raises:
        ValueError: if there is no sample axis or it is empty.

    Source: Kish (1965); Owen (2013), section 9.3.

    >>> import torch
    >>> round(effective_sample_size(torch.full((5,), -700.0)).item(), 4)
    5.0
    """
    _checks.samples(log_w=log_w)
    return 1 / log_w.softmax(0).square().sum(0)  # softmax subtracts the largest log-weight: no overflow


def pareto_k(log_w: Tensor) -> Tensor:
    r"""Pareto :math:`\hat k`: how heavy the upper tail of the importance weights is, as the shape of a fitted Pareto tail.

    The M largest of the K weights, less the next one, are fitted by a generalized Pareto distribution, whose density falls
    like :math:`y^{-1 - 1/k}`. Moments of w exist up to order 1/k: below 1/2 the variance is finite, at 1 not even the mean
    is. In practice importance sampling works below 0.7. Like every diagnostic from samples it cannot tell of a region
    that no sample has reached.

    .. math:: M = \min(K / 5,\ 3 \sqrt K), \qquad
        \hat k = \frac{M\, \hat k_{\text{fit}} + 10 \cdot \frac12}{M + 10}

    Args:
        log_w: importance log-weights, (K, ...), K at least 25; a constant added to all of them changes nothing.

    Returns:
        The estimate, (...); minus infinity where the largest weights are all equal, as they are if q is the posterior.

    Raises:
        ValueError: if there are fewer than 25 samples.

    Source: Zhang and Stephens (2009) for the fit; Vehtari, Simpson, Gelman, Yao and Gabry (2024) for its use here.

    >>> import torch
    >>> u = (torch.arange(10_000).double() + 0.5) / 10_000  # as evenly as uniform samples can lie
    >>> round(pareto_k(-0.4 * torch.log(u)).item(), 1)  # w = u^(-0.4) has a tail of shape 0.4
    0.4
    """
    _checks.samples(log_w=log_w)
    if len(log_w) < 25:
        raise ValueError(f"the tail of fewer than 25 weights says nothing, got K = {len(log_w)}: draw more samples")
    num = math.ceil(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))  # M
    largest = (log_w - log_w.amax(0)).exp().topk(num + 1, 0).values.flip(0)
    excess = largest[1:] - largest[0]  # above the largest weight that is left out, rising, (M, ...)
    # The profile likelihood of theta = -k / scale, averaged over a grid of M-dependent size: no optimisation.
    size = 30 + int(math.sqrt(num))
    fraction = (size / (torch.arange(size, dtype=log_w.dtype, device=log_w.device) + 0.5)).sqrt()
    fraction = fraction.reshape(-1, *[1] * (log_w.dim() - 1))
    quarter, top = excess[int(num / 4 + 0.5) - 1], excess[-1]
    quarter = torch.where(quarter > 0, quarter, top)  # many equal weights
    theta = 1 / top + (1 - fraction) / (3 * quarter)  # (size, ...)
    shape = torch.log1p(-theta[:, None] * excess).mean(1)  # k at each theta, (size, ...)
    profile = num * ((-theta / shape).log() - shape - 1)
    best = (profile.softmax(0) * theta).sum(0)
    fit = torch.log1p(-best * excess).mean(0)
    return ((num * fit + 5) / (num + 10)).masked_fill(top == 0, -math.inf)
