r"""Objectives: what training maximises, as functions of a model, data and noise.

Every objective gives two terms for each data point, and what is maximised is their weighted difference, averaged over
the batch:

.. math:: \frac1B \sum_{b=1}^B \big( \text{reconstruction}_b - \beta \, \text{kl}_b \big).

For the ELBO they are its two terms, and :math:`\beta = 1`. The noise is an argument and is drawn by the caller: several
processes can share it, and a test can give nodes in its place.

Shapes: x is (B, \*D), the noise (K, B, J), each term (B,). The results are in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vae_tutorial import _checks, bounds, gaussian
from vae_tutorial.families import MeanField
from vae_tutorial.models import ElboTerms
from vae_tutorial.priors import StandardNormal


@dataclass(frozen=True)
class Objective:
    """What training maximises, reconstruction - weight * kl: all in nats per data point.

    ``name`` says what it is, with its settings: a resumed run must have the same. ``terms`` is a function of (model, x,
    eps). ``weight`` is a number, or a function of the fraction of training done that gives one, such as
    :func:`kl_warmup`.
    """

    name: str
    terms: Callable[[Any, Tensor, Tensor], ElboTerms]
    num_samples: int = 1
    weight: float | Callable[[float], float] = 1.0

    def weight_at(self, done: float) -> float:
        """The weight of the second term after a fraction of training.

        Args:
            done: the fraction, from 0 to 1.
        """
        return self.weight(done) if callable(self.weight) else self.weight


def elbo(*, num_samples: int = 1) -> Objective:
    r"""The evidence lower bound.

    .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k) - \mathrm{KL}(q(z \mid x) \,\|\, p(z)), \qquad z_k \sim q(z \mid x)

    Args:
        num_samples: K, at least 1.

    Returns:
        The objective; its terms are those of the model's ``elbo_terms``.

    Raises:
        ValueError: if K < 1.

    Source: Kingma and Welling (2014), equation (7).

    >>> elbo().name
    'elbo(num_samples=1)'
    """
    _checks.whole(num_samples=num_samples)
    return Objective(f"elbo(num_samples={num_samples})", _elbo_terms, num_samples)


def beta_elbo(beta: float | Callable[[float], float], *, num_samples: int = 1) -> Objective:
    r"""The ELBO with a weight on the KL; for :math:`\beta > 1` still a lower bound on log p(x), for :math:`\beta < 1` not.

    .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k) - \beta \, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    Args:
        beta: the weight, at least 0, or a function of the fraction of training done, such as :func:`kl_warmup`.
        num_samples: K, at least 1.

    Returns:
        The objective; the KL among its terms is the KL itself, without the weight.

    Raises:
        ValueError: if K < 1, or beta is negative or not finite at the start or the end of training.

    Source: Higgins et al. (2017); Bowman et al. (2016) for a weight that rises.

    >>> beta_elbo(kl_warmup).weight_at(0.05)
    0.5
    """
    _checks.whole(num_samples=num_samples)
    ends = (beta(0.0), beta(1.0)) if callable(beta) else (beta,)
    if not all(0 <= value < math.inf for value in ends):
        raise ValueError(f"beta must be at least 0 and finite, got {', '.join(map(str, ends))}")
    return Objective(f"beta_elbo(num_samples={num_samples})", _elbo_terms, num_samples, beta)


def iwae(num_samples: int) -> Objective:
    r"""The importance-weighted bound with K samples, which rises to log p(x) with K.

    .. math:: \mathcal L_K = \log \frac1K \sum_{k=1}^K w_k, \qquad
        w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    It does not split into reconstruction and KL. So that the history can tell the KL all the same, the second term is
    :math:`\log q - \log p` averaged over the samples, and the first is the bound plus that.

    Args:
        num_samples: K, at least 1.

    Returns:
        The objective; the difference of its terms is the bound.

    Raises:
        ValueError: if K < 1.

    Source: Burda, Grosse and Salakhutdinov (2016), equation (8).

    >>> iwae(5).name
    'iwae(num_samples=5)'
    """

    def terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
        z, log_q_z = model.posterior(x).transform(eps)
        log_ratio = log_q_z - model.prior.log_prob(z)  # (K, B)
        kl = log_ratio.mean(0)
        return ElboTerms(bounds.iwae(model.log_p_x_given_z(x, z) - log_ratio) + kl, kl)

    _checks.whole(num_samples=num_samples)
    return Objective(f"iwae(num_samples={num_samples})", terms, num_samples)


def sticking_the_landing(*, num_samples: int = 1) -> Objective:
    r"""The ELBO with another gradient for the encoder: log q is differentiated through z alone.

    .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k)
        - \frac1K \sum_{k=1}^K \big( \log q_{\bar\phi}(z_k \mid x) - \log p(z_k) \big), \qquad z_k = z(\epsilon_k, \phi)

    The bar says that the parameters of log q are held fixed. What is left out, the score of q, is 0 on average, so the
    gradient has the same mean; and it has no noise at all where q is the posterior. The value is that of the ELBO with a
    sampled KL. It suits the end of training: where q is still far from the posterior, it can be the noisier of the two.

    Args:
        num_samples: K, at least 1.

    Returns:
        The objective; its second term is log q - log p of the same samples.

    Raises:
        ValueError: if K < 1.

    Source: Roeder, Wu and Duvenaud (2017).

    >>> sticking_the_landing().name
    'sticking_the_landing(num_samples=1)'
    """

    def terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
        q = model.posterior(x)
        z = q.latents(eps)
        kl = q.detached().log_prob(z) - model.prior.log_prob(z)  # (K, B)
        return ElboTerms(model.log_p_x_given_z(x, z).mean(0), kl.mean(0))

    _checks.whole(num_samples=num_samples)
    return Objective(f"sticking_the_landing(num_samples={num_samples})", terms, num_samples)


def dreg(num_samples: int) -> Objective:
    r"""The K-sample bound with the doubly reparameterized gradient for the encoder.

    .. math:: \nabla_\phi \mathcal L_K = \mathbb{E}\Big[ \sum_{k=1}^K \tilde w_k^2 \,
        \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi} \Big], \qquad
        \tilde w_k = \frac{w_k}{\sum_l w_l}

    The value, and the gradient for decoder and prior, are those of :func:`iwae`. The encoder's gradient has the same mean
    and, unlike :func:`iwae`'s, a signal-to-noise ratio that does not fall as K grows. It is written as a hook: log q is
    differentiated through z alone, and what arrives at :math:`z_k`, already weighted once, is weighted once more.

    Args:
        num_samples: K, at least 1; with 1 it is :func:`sticking_the_landing`.

    Returns:
        The objective; the difference of its terms is the bound, and its second term carries no gradient.

    Raises:
        ValueError: if K < 1.

    Source: Tucker, Lawson, Gu and Maddison (2019), equation (8).

    >>> dreg(5).name
    'dreg(num_samples=5)'
    """

    def terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
        q = model.posterior(x)
        z = q.latents(eps)
        log_ratio = q.detached().log_prob(z) - model.prior.log_prob(z)  # (K, B)
        log_w = model.log_p_x_given_z(x, z) - log_ratio
        if z.requires_grad:
            weight = log_w.detach().softmax(0).unsqueeze(-1)  # (K, B, 1)
            z.register_hook(lambda slope: weight * slope)
        kl = log_ratio.detach().mean(0)
        return ElboTerms(bounds.iwae(log_w) + kl, kl)

    _checks.whole(num_samples=num_samples)
    return Objective(f"dreg(num_samples={num_samples})", terms, num_samples)


def free_bits(nats: float, *, num_samples: int = 1) -> Objective:
    r"""The ELBO with an allowance: below ``nats`` in the mean of a batch, the KL of a latent dimension costs no more.

    .. math:: \frac1B \sum_{b=1}^B \mathbb{E}_q[\log p(x_b \mid z)]
        - \sum_{j=1}^J \max \Big( \lambda, \; \frac1B \sum_{b=1}^B \mathrm{KL}_{bj} \Big)

    A dimension below the allowance feels no pull to the prior. It is for a mean-field q and a standard normal prior,
    whose KL is a sum over the dimensions.

    Args:
        nats: the allowance :math:`\lambda` of each dimension, at least 0; 0 gives the ELBO.
        num_samples: K, at least 1.

    Returns:
        The objective; its second term is what is subtracted, at least :math:`J \lambda`, the same for every data point of
        a batch.

    Raises:
        ValueError: if K < 1, or ``nats`` is negative or not finite; in training, for another family or prior.

    Source: Kingma et al. (2016), equation (15).

    >>> free_bits(0.5).name
    'free_bits(nats=0.5, num_samples=1)'
    """

    def terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
        q = model.posterior(x)
        if not isinstance(q, MeanField) or type(model.prior) is not StandardNormal:
            given = f"{type(q).__name__} and {type(model.prior).__name__}"
            raise ValueError(f"free_bits needs a MeanField q and a StandardNormal prior, got {given}")
        reconstruction = model.log_p_x_given_z(x, q.latents(eps)).mean(0)
        kl = gaussian.kl_to_standard_normal(q.mu.unsqueeze(-1), q.log_var.unsqueeze(-1))  # (B, J)
        return ElboTerms(reconstruction, kl.mean(0).clamp(min=nats).sum().expand(len(x)))

    _checks.whole(num_samples=num_samples)
    if not 0 <= nats < math.inf:
        raise ValueError(f"nats must be at least 0 and finite, got {nats}")
    return Objective(f"free_bits(nats={nats}, num_samples={num_samples})", terms, num_samples)


def reconstruction(*, num_samples: int = 1) -> Objective:
    r"""The reconstruction alone, for an autoencoder: there is no prior, and what is maximised bounds no evidence.

    .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k)

    Args:
        num_samples: K, at least 1; more than one makes sense where the code has noise.

    Returns:
        The objective; its second term is 0.

    Raises:
        ValueError: if K < 1.

    Source: Hinton and Salakhutdinov (2006).

    >>> reconstruction().name
    'reconstruction(num_samples=1)'
    """
    _checks.whole(num_samples=num_samples)
    return Objective(f"reconstruction(num_samples={num_samples})", _reconstruction_terms, num_samples)


def kl_warmup(done: float) -> float:
    r"""Weight of the KL for :func:`beta_elbo`: a linear rise from 0 to 1 over the first 10 % of training, then 1.

    .. math:: \beta(t) = \min(1, \, t / 0.1)

    While the decoder still makes nothing of z, the KL alone moves a latent dimension, and moves it to the prior, from
    where few come back. A small weight at first leaves the dimensions time to become useful.

    Args:
        done: fraction t of training done, from 0 to 1.

    Returns:
        The weight, from 0 to 1.

    Source: Bowman et al. (2016); Sønderby et al. (2016).

    >>> kl_warmup(0.0), kl_warmup(0.05), kl_warmup(0.5)
    (0.0, 0.5, 1.0)
    """
    return min(1.0, done / 0.1)


def _elbo_terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
    return model.elbo_terms(x, eps=eps)


def _reconstruction_terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
    log_p = model.log_p_x_given_z(x, model.latents(x, eps)).mean(0)
    return ElboTerms(log_p, torch.zeros_like(log_p))
