r"""The pass/fail model: a latent-variable model whose posterior is not Gaussian, but still within reach of quadrature.

The latent z is a student's ability, or several of them, and each of the D examinations is passed or failed. The log-odds
of a pass are linear in the ability:

.. math:: z \sim N(0, I_J), \qquad x_d \mid z \sim \mathrm{Bernoulli}(\pi_d), \qquad
    \log \frac{\pi_d}{1 - \pi_d} = w_d^\top z + b_d.

A Bernoulli likelihood is not conjugate to the Gaussian prior: neither the evidence nor the posterior has a closed form.
With few latents both are integrals that Gauss-Hermite quadrature computes as exactly as one likes, so they can serve as
the truth that an approximation is held against. With one latent it is the two-parameter logistic model of test theory.

Shapes: ``x`` is (B, D) of zeros and ones, ``z`` is (K, B, J) or (B, J), quadrature nodes are (K, J). The results are in
nats.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _checks, gaussian, likelihoods, quadrature
from vae_tutorial.quadrature import Nodes


class ItemResponse(NamedTuple):
    """The parameters of a pass/fail model: weights W (D, J), one row an item, and biases b (D,)."""

    weight: Tensor
    bias: Tensor


class Moments(NamedTuple):
    """The first two moments of the posterior of z: a mean (B, J) and a covariance (B, J, J) for each data point."""

    mean: Tensor
    covariance: Tensor


def sample(model: ItemResponse, num_samples: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Ancestral samples: first the latent, then each item given the latent.

    .. math:: z_n \sim N(0, I), \qquad x_{nd} \sim \mathrm{Bernoulli}\big( 1 / (1 + e^{-(w_d^\top z_n + b_d)}) \big)

    Args:
        model: the model, with J latents and D items.
        num_samples: N, at least 1.
        generator: source of the randomness.

    Returns:
        The pair z (N, J) and x (N, D), x of zeros and ones in the type of ``model.weight``.

    Raises:
        ValueError: if the model's shapes do not fit, or N < 1.

    Source: Birnbaum (1968) for one latent.

    >>> z, x = sample(ItemResponse(torch.ones(5, 2), torch.zeros(5)), 7)
    >>> z.shape, x.shape
    (torch.Size([7, 2]), torch.Size([7, 5]))
    """
    _check(model)
    zeros = model.weight.new_zeros(model.weight.shape[1])
    z = gaussian.sample(zeros, zeros, num_samples, generator=generator)
    return z, torch.bernoulli(_logits(model, z).sigmoid(), generator=generator)


def log_p_x_given_z(model: ItemResponse, x: Tensor, z: Tensor) -> Tensor:
    r"""Log-likelihood of the items given the latents, in nats.

    .. math:: \log p(x \mid z) = \sum_{d=1}^D \big( x_d \ell_d - \log (1 + e^{\ell_d}) \big), \qquad
        \ell_d = w_d^\top z + b_d

    Args:
        model: the model.
        x: data of zeros and ones, (B, D).
        z: latents, (..., B, J), or (..., 1, J) for latents that all data points share.

    Returns:
        Log-likelihood, (..., B).

    Raises:
        ValueError: if the shapes do not fit.

    Source: Birnbaum (1968) for one latent, the two-parameter logistic model.

    >>> model = ItemResponse(torch.ones(2, 1), torch.zeros(2))
    >>> log_p_x_given_z(model, torch.tensor([[1.0, 0.0]]), torch.zeros(1, 1))  # two fair coins
    tensor([-1.3863])
    """
    _check(model, x=x, z=z)
    logits = _logits(model, z)
    return likelihoods.bernoulli(x, logits.expand(*logits.shape[:-2], *x.shape))


def log_joint(model: ItemResponse, x: Tensor, z: Tensor) -> Tensor:
    r"""Log of the joint density of items and latents, in nats.

    .. math:: \log p(x, z) = \log N(z; 0, I) + \log p(x \mid z)

    Args:
        model: the model.
        x: data of zeros and ones, (B, D).
        z: latents, (..., B, J), or (..., 1, J) for latents that all data points share.

    Returns:
        Log-joint, (..., B).

    Raises:
        ValueError: if the shapes do not fit.

    Source: Birnbaum (1968) for one latent; Bock and Aitkin (1981).

    >>> model = ItemResponse(torch.ones(1, 1), torch.zeros(1))
    >>> log_joint(model, torch.ones(1, 1), torch.zeros(1, 1))  # -log(2 pi) / 2 - log 2
    tensor([-1.6121])
    """
    zero = z.new_zeros(())
    return log_p_x_given_z(model, x, z) + gaussian.log_prob(z, zero.expand(z.shape[-1:]), zero)


def log_evidence(model: ItemResponse, x: Tensor, nodes: Nodes) -> Tensor:
    r"""Log-evidence by quadrature over the prior, in nats.

    .. math:: \log p(x) = \log \int N(z; 0, I) \, p(x \mid z) \, dz = \log \sum_{k=1}^K \omega_k \, p(x \mid z_k)

    The second equality holds up to the quadrature's error, which falls as nodes are added, the slower the larger the
    weights: the likelihood is then a steep function of z.

    Args:
        model: the model.
        x: data of zeros and ones, (B, D).
        nodes: nodes for N(0, I), z (K, J), from :func:`~vae_tutorial.quadrature.gauss_hermite`.

    Returns:
        Log-evidence of each data point, (B,).

    Raises:
        ValueError: if the shapes do not fit, or ``x`` has other entries than 0 and 1.

    Source: Bock and Aitkin (1981).

    >>> model = ItemResponse(torch.ones(1, 1), torch.zeros(1))
    >>> log_evidence(model, torch.ones(1, 1), quadrature.gauss_hermite(20)).exp()  # half of all students pass
    tensor([0.5000])
    """
    z, log_weight = _check_exact(model, x, nodes)
    return quadrature.log_expectation(log_p_x_given_z(model, x, z[:, None]), log_weight)


def posterior_moments(model: ItemResponse, x: Tensor, nodes: Nodes) -> Moments:
    r"""Mean and covariance of the posterior of the latents, by quadrature over the prior.

    .. math:: m = \sum_{k=1}^K r_k z_k, \qquad S = \sum_{k=1}^K r_k (z_k - m)(z_k - m)^\top, \qquad
        r_k = \frac{\omega_k \, p(x \mid z_k)}{\sum_l \omega_l \, p(x \mid z_l)}

    The posterior itself is not Gaussian. These are its exact moments, up to the quadrature's error.

    Args:
        model: the model.
        x: data of zeros and ones, (B, D).
        nodes: nodes for N(0, I), z (K, J), from :func:`~vae_tutorial.quadrature.gauss_hermite`.

    Returns:
        Mean (B, J) and covariance (B, J, J).

    Raises:
        ValueError: if the shapes do not fit, or ``x`` has other entries than 0 and 1.

    Source: Bock and Mislevy (1982).

    >>> model = ItemResponse(torch.zeros(1, 1), torch.zeros(1))
    >>> posterior_moments(model, torch.ones(1, 1), quadrature.gauss_hermite(5)).covariance  # no weight: the prior
    tensor([[[1.0000]]])
    """
    z, log_weight = _check_exact(model, x, nodes)
    responsibility = (log_p_x_given_z(model, x, z[:, None]) + log_weight[:, None]).softmax(0)  # (K, B)
    mean = responsibility.mT @ z
    centred = z[:, None] - mean  # (K, B, J): centring first keeps the digits of a narrow posterior
    return Moments(mean, torch.einsum("kb,kbi,kbj->bij", responsibility, centred, centred))


def fit(
    model: ItemResponse, x: Tensor, nodes: Nodes, *, weight_precision: float = 0.0, num_steps: int = 200
) -> ItemResponse:
    r"""Maximum likelihood, or penalised maximum likelihood, by L-BFGS on the evidence that quadrature gives.

    .. math:: \hat W, \hat b = \arg\max_{W, b} \; \sum_{n=1}^N \log p_{W, b}(x_n) - \tfrac{\lambda}{2} \sum_{d, j} w_{dj}^2

    With :math:`\lambda = 0` this is maximum likelihood, and it may have no solution: with few items and several latents
    the likelihood can keep rising while weights run off to infinity. A :math:`\lambda > 0` stands for independent priors
    :math:`w_{dj} \sim N(0, 1 / \lambda)`, and a maximum then exists.

    With J latents the evidence does not change when the latent space is rotated or mirrored: the start decides which of
    the equivalent solutions is found. It must not be symmetric in the latents, nor zero, for these are stationary.

    Args:
        model: the first parameters.
        x: data of zeros and ones, (N, D).
        nodes: nodes for N(0, I), z (K, J), from :func:`~vae_tutorial.quadrature.gauss_hermite`.
        weight_precision: the penalty's factor, lambda, at least 0.
        num_steps: the most iterations, at least 1; L-BFGS stops before that where the gradient is 0 to rounding.

    Returns:
        The fitted parameters, weight (D, J) and bias (D,), without gradients.

    Raises:
        ValueError: if the shapes do not fit, ``x`` has other entries than 0 and 1, weight_precision < 0 or num_steps < 1.

    Source: Bock and Aitkin (1981) for the likelihood; Liu and Nocedal (1989) for L-BFGS.

    >>> x = torch.tensor([[1.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    >>> start = ItemResponse(torch.zeros(1, 1).double(), torch.zeros(1).double())
    >>> fit(start, x, quadrature.gauss_hermite(10)).bias.sigmoid()  # weight 0: the share of passes
    tensor([0.7500], dtype=torch.float64)
    """
    _checks.whole(num_steps=num_steps)
    if not 0 <= weight_precision < math.inf:
        raise ValueError(f"weight_precision must be at least 0 and finite, got {weight_precision}")
    free = ItemResponse(*(parameter.detach().clone().requires_grad_() for parameter in model))
    optimizer = torch.optim.LBFGS(
        free, max_iter=num_steps, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        penalty = 0.5 * weight_precision * free.weight.square().sum()
        value = penalty - log_evidence(free, x, nodes).sum()  # an optimizer minimises
        value.backward()
        return value

    optimizer.step(loss)
    return ItemResponse(*(parameter.detach() for parameter in free))


def _logits(model: ItemResponse, z: Tensor) -> Tensor:  # (..., J) -> (..., D)
    return z @ model.weight.mT + model.bias


def _check_exact(model: ItemResponse, x: Tensor, nodes: Nodes) -> Nodes:
    """Refuse data that are not binary and nodes that are not for the prior; the nodes in the model's type."""
    if nodes.z.dim() != 2 or nodes.log_weight.shape != nodes.z.shape[:1]:
        raise ValueError(
            f"nodes must be for N(0, I), z (K, J) and log_weight (K,), got z {tuple(nodes.z.shape)}, "
            f"log_weight {tuple(nodes.log_weight.shape)}"
        )
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(f"x must hold zeros and ones only, got values from {x.min():g} to {x.max():g}")
    return Nodes(nodes.z.to(model.weight), nodes.log_weight.to(model.weight))


def _check(model: ItemResponse, *, x: Tensor | None = None, z: Tensor | None = None) -> None:
    """Refuse parameters that do not belong together, and data or latents that do not belong to the model."""
    given = {**model._asdict(), "x": x, "z": z}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items() if tensor is not None}
    fits = model.weight.dim() == 2
    if fits:
        num_items, num_latents = model.weight.shape
        fits &= shapes["bias"] == (num_items,)
        fits &= x is None or (x.dim() == 2 and x.shape[1] == num_items)
        if z is not None and x is not None:
            fits &= z.dim() >= 2 and z.shape[-1] == num_latents and z.shape[-2] in (1, len(x))
    if not fits:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes do not fit: {listing}; expected weight (D, J), bias (D,), x (B, D), z (..., B, J) or (..., 1, J)"
        )
