r"""Bounds on the log-evidence, as pure functions of the importance log-weights.

For a data point x and samples :math:`z_1, \dots, z_K` from :math:`q(z \mid x)`, the importance weight of a sample is

.. math:: w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad \mathbb{E}_q[w_k] = p(x)
    \quad \text{wherever the support of } q \text{ covers that of } p(z \mid x).

Every quantity below is a function of :math:`\log w` alone, so each is one line, and its neighbour is one line away.

Shapes: ``log_w`` is (K, B), samples first; the result is (B,). The results are in nats unless a docstring says otherwise.
"""

import math

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
