"""audit: a zoo of losses as people write them, each with what it is; random right ones and random wrong ones.

The zoo's entries know what they are because they were built that way. The expected beta is typed from the algebra at the
head of the module, never taken from an audit. Nothing here shares code with the audit.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Independent, Laplace, Normal, StudentT, kl_divergence

from vae_tutorial import audit, gaussian, likelihoods
from vae_tutorial.audit import BETA, CORRECT, LIMITED, OTHER, SCALED, UNKNOWN, UNTESTED, WRONG, candidates

B, SHAPE, D, J = 4, (1, 4, 5), 20, 3
RIGHT = (CORRECT, SCALED)
run = functools.partial(audit.audit, data_shape=SHAPE, num_latents=J, batch_size=B)

bce = functools.partial(F.binary_cross_entropy, reduction="sum")
logits_bce = functools.partial(F.binary_cross_entropy_with_logits, reduction="sum")
mse = functools.partial(F.mse_loss, reduction="sum")
l1 = functools.partial(F.l1_loss, reduction="sum")


def kl(mu: Tensor, log_var: Tensor) -> Tensor:
    """Summed over everything, as in most code."""
    return -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())


def kl_each(mu: Tensor, log_var: Tensor) -> Tensor:  # (B, J)
    return 0.5 * (mu**2 + log_var.exp() - log_var - 1)


class Case(NamedTuple):
    """A loss, the verdicts that are right for it, and whatever else the report must say."""

    loss: Callable[..., Any]
    verdicts: str | tuple[str, ...]
    beta: float | None = None
    says: tuple[str, ...] = ()


def sigma_vae(x, y, mu, s):
    variance = (x - y).square().mean()
    return 0.5 * D * B * variance.log() + kl(mu, s)


def draws_inside(x, y, mu, s):
    return bce(y, torch.bernoulli(x)) + kl(mu, s) + 1e-3 * torch.randn(())


class Annealed:
    """The KL's weight grows with every call."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, x, y, mu, s):
        self.step += 1
        return bce(y, x) + min(1.0, self.step / 10000) * kl(mu, s)


class ChangesLate:
    """Another KL weight from the sixtieth call on."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, x, y, mu, s):
        self.step += 1
        return bce(y, x) + (1.0 if self.step < 60 else 0.5) * kl(mu, s)


def pytorch_example(x, y, mu, s):
    return bce(y, x) + kl(mu, s)


def mmd(z: Tensor) -> Tensor:
    def kernel(a, b):
        return torch.exp(-(a[:, None] - b[None]).square().sum(-1) / 2).mean()

    prior = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).reshape(z.shape)
    return kernel(z, z) + kernel(prior, prior) - 2 * kernel(z, prior)


def in_place(x, y, mu, s):
    s.mul_(0.5)
    return bce(y, x) + kl(mu, s)


def fixed_shape(x, y, mu, s):
    return bce(y.view(4, 20), x.view(4, 20)) / 4 + kl(mu.view(4, 3), s.view(4, 3)) / 4


def straight_through(x, y, mu, s):
    term = kl(mu, s)
    return bce(y, x) + (10 * term).detach() + term - term.detach()


def torch_kl(x, y, mu, s):
    q, p = Normal(mu, torch.exp(0.5 * s)), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return (-Bernoulli(logits=y).log_prob(x).flatten(1).sum(1) + kl_divergence(q, p).sum(1)).mean()


def independent(x, y, mu, s):
    q = Independent(Normal(mu, F.softplus(s)), 1)
    p = Independent(Normal(torch.zeros(J), torch.ones(J)), 1)
    return (-Normal(y, 1.0).log_prob(x).flatten(1).sum(1) + kl_divergence(q, p)).mean()


def float32_only(x, y, mu, s):
    return bce(y.float(), x.float()) + kl(mu.float(), s.float())


def half_only(x, y, mu, s):
    return logits_bce(y.bfloat16(), x.bfloat16()) + kl(mu.bfloat16(), s.bfloat16())


def one_latent(x, y, mu, s):
    return bce(y, x) + kl(mu[:, 0], s[:, 0])


def masked(x, y, mu, s):
    return bce(y[..., 1:], x[..., 1:]) + kl(mu, s)


def learned_scale(scale: float) -> Callable[..., Tensor]:
    log_scale = nn.Parameter(torch.tensor([math.log(scale)], dtype=torch.float64))

    def loss(x, y, mu, s):
        log_p = Normal(y, log_scale.exp()).log_prob(x).sum(dim=(1, 2, 3))
        return (kl_each(mu, s).sum(1) - log_p).mean()

    return loss


def geco(x, y, mu, s):
    return kl(mu, s) + 5 * F.relu(mse(y, x) - 0.5)


def adaptive(x, y, mu, s):
    return mse(y, x) + (mse(y, x) / kl(mu, s)).detach() * kl(mu, s)


def smoothed(x, y, mu, s):
    return bce(y, 0.9 * x + 0.05) + kl(mu, s)


def reverse_kl(x, y, mu, s):
    q, p = Normal(mu, torch.exp(0.5 * s)), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return logits_bce(y, x) + kl_divergence(p, q).sum()


def prior_kl(mean: float, sd: float) -> Callable[..., Tensor]:
    def loss(x, y, mu, s):
        q, p = Normal(mu, torch.exp(0.5 * s)), Normal(torch.full_like(mu, mean), torch.full_like(mu, sd))
        return logits_bce(y, x) + kl_divergence(q, p).sum()

    return loss


def eps_bce(eps: float) -> Callable[..., Tensor]:
    def loss(x, y, mu, s):
        return -(x * (y + eps).log() + (1 - x) * (1 - y + eps).log()).sum() + kl(mu, s)

    return loss


def clamped_bce(x, y, mu, s):
    y = y.clamp(1e-7, 1 - 1e-7)
    return -(x * y.log() + (1 - x) * (1 - y).log()).sum() + kl(mu, s)


def perceptual(x, y, mu, s):
    kernel = torch.tensor([[[[1.0, -1.0], [0.5, 2.0]]]], dtype=x.dtype)
    return mse(F.conv2d(y, kernel), F.conv2d(x, kernel)) + kl(mu, s)


def by_batch_size(x, y, mu, s):
    return (bce(y, x) + (len(x) / 60000) * kl(mu, s)) / len(x)


def importance_of_ink(x, y, mu, s):
    return F.binary_cross_entropy(y, x, weight=1 + 4 * x, reduction="sum") + kl(mu, s)


def mixed_sigma(x, y, mu, s):  # s read as sigma in one term and as log sigma^2 in the other
    return bce(y, x) - 0.5 * torch.sum(1 + s - mu**2 - s**2)


def mse_to_prior(x, y, mu, s):
    return mse(y, x) + mse(mu, torch.zeros_like(mu)) + mse(s, torch.zeros_like(s))


def both_terms_as_tuple(x, y, mu, s):
    recon, divergence = bce(y, x), kl(mu, s)
    return recon + divergence, recon.item(), divergence.item()


ZOO: dict[str, Case] = {
    # --- right ones ---
    "PyTorch's example": Case(lambda x, y, m, s: bce(y, x) + kl(m, s), SCALED, 1, ("log sigma^2", "probabilities")),
    "mean over the batch": Case(lambda x, y, m, s: (logits_bce(y, x) + kl(m, s)) / len(x), CORRECT, 1, ("logits",)),
    "flattened by the loss": Case(lambda x, y, m, s: bce(y.view(-1, D), x.view(-1, D)) + kl(m, s), SCALED, 1),
    "flat decoder output": Case(lambda x, y, m, s: bce(y, x.view(-1, D)) + kl(m, s), SCALED, 1, ("(B, D)",)),
    "one per example": Case(
        lambda x, y, m, s: F.binary_cross_entropy(y, x, reduction="none").sum((1, 2, 3)) + kl_each(m, s).sum(1),
        CORRECT, 1, ("per example",),
    ),
    "torch.distributions": Case(torch_kl, CORRECT, 1, ("refused", "logits")),
    "softplus sigma, unit Gaussian": Case(independent, CORRECT, 1, ("softplus", "variance 1")),
    "half squared error": Case(lambda x, y, m, s: 0.5 * mse(y, x) + kl(m, s), SCALED, 1, ("Gaussian", "left out")),
    "learned scale at 1": Case(learned_scale(1.0), CORRECT, 1, ("variance 1", "normaliser is there")),
    "learned scale at 0.3": Case(learned_scale(0.3), CORRECT, 1, ("variance 0.09", "normaliser")),
    "variance 0.09, the KL without its -1": Case(
        lambda x, y, m, s: -Normal(y, 0.3).log_prob(x).sum() - 0.5 * (s - m**2 - s.exp()).sum(), SCALED, 1, ("0.09",)
    ),
    "variance 0.25 without 2 pi": Case(
        lambda x, y, m, s: 0.5 * ((x - y) ** 2 / 0.25 + math.log(0.25)).sum() + kl(m, s), SCALED, 1, ("variance 0.25",)
    ),
    "absolute error": Case(lambda x, y, m, s: l1(y, x) + kl(m, s), SCALED, 1, ("Laplace", "scale 1")),
    "Laplace with its normaliser": Case(
        lambda x, y, m, s: -Laplace(y, 0.25).log_prob(x).sum() + kl(m, s), SCALED, 1, ("scale 0.25",)
    ),
    "continuous Bernoulli": Case(
        lambda x, y, m, s: -ContinuousBernoulli(logits=y).log_prob(x).sum() + kl(m, s), SCALED, 1, ("continuous",)
    ),
    "continuous Bernoulli, probabilities": Case(
        lambda x, y, m, s: -ContinuousBernoulli(y).log_prob(x).sum() + kl(m, s), SCALED, 1, ("continuous",)
    ),
    "this package's own": Case(
        lambda x, y, m, s: -(likelihoods.bernoulli(x, y) - gaussian.kl_to_standard_normal(m, s)).mean(), CORRECT, 1
    ),
    "second output is sigma": Case(
        lambda x, y, m, s: bce(y, x) + 0.5 * torch.sum(m**2 + s**2 - torch.log(s**2) - 1), SCALED, 1, ("mu + second * eps",)
    ),
    "second output is sigma^2": Case(
        lambda x, y, m, s: bce(y, x) + 0.5 * torch.sum(m**2 + s - torch.log(s) - 1), SCALED, 1, ("sqrt",)
    ),
    "second output is log sigma": Case(
        lambda x, y, m, s: bce(y, x) + torch.sum(0.5 * m**2 + 0.5 * (2 * s).exp() - s - 0.5), SCALED, 1, ("log sigma\n",)
    ),
    "a common factor": Case(lambda x, y, m, s: 1e-3 * (bce(y, x) + kl(m, s)), SCALED, 1),
    "both divided by the pixels": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)) / len(x) / D, SCALED, 1),
    "mean over pixels, KL over the same": Case(
        lambda x, y, m, s: F.binary_cross_entropy(y, x) + kl(m, s) / len(x) / math.prod(x.shape[1:]), SCALED, 1
    ),
    "a constant added": Case(lambda x, y, m, s: bce(y, x) + kl(m, s) + 7.5, SCALED, 1),
    "the KL's -1 forgotten": Case(
        lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(s - m**2 - s.exp()), SCALED, 1, ("constant",)
    ),
    "a term in the targets alone": Case(
        lambda x, y, m, s: bce(y, x) + 3 * x.sum() + kl(m, s), SCALED, 1, ("x alone",)
    ),
    "tuple": Case(both_terms_as_tuple, SCALED, 1, ("first of 3",)),
    "dictionary": Case(lambda x, y, m, s: {"loss": bce(y, x) + kl(m, s), "kl": 0.0}, SCALED, 1, ("dictionary",)),
    "fixed shape": Case(fixed_shape, CORRECT, 1, ("refuses another",)),
    "float32 inside": Case(float32_only, SCALED, 1, ("float32",)),
    "sigmoid inside": Case(lambda x, y, m, s: bce(y.sigmoid(), x) + kl(m, s), SCALED, 1, ("logits",)),
    "squared error on a sigmoid": Case(lambda x, y, m, s: 0.5 * mse(y.sigmoid(), x) + kl(m, s), SCALED, 1, ("sigmoid",)),
    "Poisson": Case(lambda x, y, m, s: F.poisson_nll_loss(y, x, reduction="sum") + kl(m, s), SCALED, 1, ("Poisson",)),
    # --- another beta ---
    "mean over everything": Case(lambda x, y, m, s: F.binary_cross_entropy(y, x) + kl(m, s) / len(x), BETA, D),
    "mean and mean": Case(
        lambda x, y, m, s: F.binary_cross_entropy(y, x) - 0.5 * torch.mean(1 + s - m**2 - s.exp()), BETA, D / J
    ),
    "KL averaged over latents": Case(
        lambda x, y, m, s: bce(y, x) / len(x) + kl_each(m, s).mean(1).mean(0), BETA, 1 / J, ("KL mean",)
    ),
    "KL averaged over the batch only": Case(
        lambda x, y, m, s: bce(y, x) + kl(m, s) / len(x), BETA, 1 / B, ("batch size",)
    ),
    "reconstruction mean, KL sum": Case(
        lambda x, y, m, s: F.binary_cross_entropy(y, x) + kl(m, s), BETA, B * D, ("batch size",)
    ),
    "squared error without the half": Case(lambda x, y, m, s: mse(y, x) + kl(m, s), BETA, 0.5, ("variance 0.5",)),
    "mean squared error": Case(lambda x, y, m, s: F.mse_loss(y, x) + kl(m, s) / len(x), BETA, D / 2),
    "kld_weight 0.00025": Case(
        lambda x, y, m, s: F.mse_loss(y, x) + 0.00025 * kl_each(m, s).sum(1).mean(0), BETA, 0.00025 * D / 2
    ),
    "KL times 0.1": Case(lambda x, y, m, s: bce(y, x) + 0.1 * kl(m, s), BETA, 0.1),
    "beta 4": Case(lambda x, y, m, s: logits_bce(y, x) + 4 * kl(m, s), BETA, 4),
    "beta 0.999": Case(lambda x, y, m, s: bce(y, x) + 0.999 * kl(m, s), BETA, 0.999),
    "beta 1.00001": Case(lambda x, y, m, s: bce(y, x) + 1.00001 * kl(m, s), BETA, 1.00001),
    "beta 0.999 in float32": Case(lambda x, y, m, s: float32_only(x, y, m, s) - 0.001 * kl(m, s).float(), BETA, 0.999),
    "half forgotten in the KL": Case(lambda x, y, m, s: bce(y, x) - torch.sum(1 + s - m**2 - s.exp()), BETA, 2),
    "weight by batch size": Case(by_batch_size, BETA, B / 60000, ("batch size",)),
    "hard-coded batch size": Case(lambda x, y, m, s: F.binary_cross_entropy(y, x) * D + kl(m, s) / 4, BETA, 1),
    "hard-coded batch size, both": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)) / 4, RIGHT, 1),
    # --- another objective ---
    "free bits for each latent": Case(
        lambda x, y, m, s: bce(y, x) + kl_each(m, s).clamp(min=0.25).sum(), OTHER, None, ("free bits", "0.25", "each latent")
    ),
    "free bits, mean over the batch first": Case(
        lambda x, y, m, s: bce(y, x) / len(x) + kl_each(m, s).mean(0).clamp(min=0.5).sum(),
        OTHER, None, ("free bits", "0.5", "averaged over the batch"),
    ),
    "free bits for each example": Case(
        lambda x, y, m, s: bce(y, x) + kl_each(m, s).sum(1).clamp(min=2.0).sum(),
        OTHER, None, ("free bits", " 2 nats", "example"),
    ),
    "capacity": Case(
        lambda x, y, m, s: bce(y, x) / len(x) + 30 * (kl(m, s) / len(x) - 5.0).abs(), OTHER, None, ("capacity", " 5 nats")
    ),
    "prior N(0, 4)": Case(prior_kl(0, 2), OTHER, 1, ("N(0, 4)",)),
    "prior N(1, 1)": Case(prior_kl(1, 1), OTHER, 1, ("N(1, 1)",)),
    "one prior for each latent": Case(
        lambda x, y, m, s: bce(y, x) + kl(m - torch.arange(J, dtype=m.dtype), s), OTHER, None, ("each latent",)
    ),
    "ink weighs more": Case(importance_of_ink, OTHER, None, ("target",)),
    "pixels weighted": Case(
        lambda x, y, m, s: (torch.arange(1, D + 1).view(SHAPE) * (x - y) ** 2).sum() + kl(m, s), OTHER, None, ("weights",)
    ),
    "latents weighted": Case(
        lambda x, y, m, s: bce(y, x) + (torch.tensor([1.0, 1.0, 2.0]) * kl_each(m, s)).sum(), OTHER, None, ("weights",)
    ),
    # --- part of the domain ---
    "log sigma^2 clamped at 10": Case(lambda x, y, m, s: bce(y, x) + kl(m, s.clamp(-10, 10)), LIMITED, 1, ("10",)),
    "log sigma^2 clamped at 2": Case(lambda x, y, m, s: bce(y, x) + kl(m, s.clamp(-2, 2)), (LIMITED, UNKNOWN)),
    "log sigma^2 clamped at 1": Case(lambda x, y, m, s: bce(y, x) + kl(m, s.clamp(-1, 1)), (LIMITED, UNKNOWN)),
    "epsilon 1e-8 in the logarithms": Case(eps_bce(1e-8), LIMITED, 1),
    "epsilon 1e-10 in the logarithms": Case(eps_bce(1e-10), LIMITED, 1),
    "epsilon 1e-3 in the logarithms": Case(eps_bce(1e-3), (LIMITED, UNKNOWN)),
    "probabilities clamped at 1e-7": Case(clamped_bce, LIMITED, 1, ("1e-07",)),
    "epsilon in log sigma^2": Case(
        lambda x, y, m, s: bce(y, x) + 0.5 * torch.sum(m**2 + s**2 - torch.log(1e-8 + s**2) - 1), LIMITED
    ),
    "thresholded targets": Case(lambda x, y, m, s: bce(y, (x > 0.5).to(y)) + kl(m, s), LIMITED, 1, ("grey",)),
    "output clamped to (0, 1)": Case(
        lambda x, y, m, s: 0.5 * mse(y.clamp(0, 1), x) + kl(m, s), LIMITED, 1, ("outside (0, 1) the decoder's output",)
    ),
    # --- wrong ---
    "KL subtracted": Case(lambda x, y, m, s: bce(y, x) - kl(m, s), WRONG, None, ("sign",)),
    "minus forgotten": Case(lambda x, y, m, s: bce(y, x) + 0.5 * torch.sum(1 + s - m**2 - s.exp()), WRONG, None, ("sign",)),
    "the ELBO itself": Case(lambda x, y, m, s: -bce(y, x) - kl(m, s), WRONG, None, ("maximised",)),
    "log-likelihood added": Case(lambda x, y, m, s: -bce(y, x) + kl(m, s), WRONG, None, ("sign",)),
    "no KL": Case(lambda x, y, m, s: bce(y, x), WRONG, 0, ("missing",)),
    "no reconstruction": Case(lambda x, y, m, s: kl(m, s), WRONG, None, ("missing",)),
    "KL through item()": Case(lambda x, y, m, s: bce(y, x) + kl(m, s).item(), WRONG, None, ("detached",)),
    "reconstruction detached": Case(lambda x, y, m, s: bce(y, x).detach() + kl(m, s), WRONG, None, ("detached",)),
    "all without gradient": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)).detach(), WRONG, None, ("detached",)),
    "mu detached in the KL": Case(lambda x, y, m, s: bce(y, x) + kl(m.detach(), s), WRONG, None, ("detached",)),
    "value and gradient differ": Case(straight_through, WRONG, None, ("disagree",)),
    "mu^2 forgotten": Case(lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 + s - s.exp()), WRONG),
    "mu instead of mu^2": Case(lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 + s - m - s.exp()), (WRONG, UNKNOWN)),
    "sigma^2 forgotten": Case(lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 + s - m**2), WRONG),
    "log sigma^2 forgotten": Case(lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 - m**2 - s.exp()), WRONG),
    "sign of mu^2": Case(lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 + s + m**2 - s.exp()), WRONG),
    "half on one term only": Case(lambda x, y, m, s: bce(y, x) + torch.sum(m**2 + 0.5 * (s.exp() - s - 1)), WRONG),
    "half forgotten in the logarithm": Case(
        lambda x, y, m, s: bce(y, x) + 0.5 * torch.sum(m**2 + s**2 - torch.log(s) - 1), WRONG, None, ("half", "N(0, 0.5)")
    ),
    "square forgotten": Case(
        lambda x, y, m, s: bce(y, x) + 0.5 * torch.sum(m**2 + s - torch.log(s**2) - 1), (WRONG, OTHER)
    ),
    "sigma and log sigma^2 mixed": Case(mixed_sigma, (WRONG, UNKNOWN)),
    "exp(sigma)": Case(
        lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 + s.square().log() - m**2 - s.exp()), (WRONG, UNKNOWN)
    ),
    "KL swapped": Case(reverse_kl, WRONG, None, ("wrong way",)),
    "only one latent": Case(one_latent, WRONG, None, ("not in the KL",)),
    "pixels ignored": Case(masked, WRONG, None, ("ignored",)),
    "only the first example": Case(lambda x, y, m, s: bce(y[0], x[0]) + kl(m, s), WRONG, None, ("ignored",)),
    "arguments swapped": Case(lambda x, y, m, s: bce(x, y) + kl(m, s), WRONG, None, ("swapped",)),
    "arguments swapped, logits": Case(lambda x, y, m, s: logits_bce(x, y) + kl(m, s), (WRONG, UNKNOWN)),
    "two sigmoids": Case(lambda x, y, m, s: logits_bce(y.sigmoid(), x) + kl(m, s), WRONG, None, ("twice",)),
    "half of the cross-entropy": Case(lambda x, y, m, s: -(x * y.log()).sum() + kl(m, s), WRONG, None, ("(1 - x)",)),
    "targets shuffled": Case(lambda x, y, m, s: bce(y, x.flip(0)) + kl(m, s), WRONG, None, ("own target",)),
    "targets on another scale": Case(lambda x, y, m, s: mse(y, 2 * x - 1) + kl(m, s), WRONG, None, ("0 becomes -1",)),
    "another weight between two values": Case(
        lambda x, y, m, s: bce(y, x) + torch.where((s > 3.2) & (s < 4.2), 2.0, 1.0).mul(kl_each(m, s)).sum(), UNKNOWN
    ),
    "another weight in the middle of the means": Case(
        lambda x, y, m, s: bce(y, x) + torch.where((m.abs() > 4) & (m.abs() < 7), 2.0, 1.0).mul(kl_each(m, s)).sum(), UNKNOWN
    ),
    "targets clamped": Case(lambda x, y, m, s: 0.5 * mse(y, x.clamp(0, 1)) + kl(m, s), LIMITED, 1, ("targets outside",)),
    "a trace of |mu|": Case(lambda x, y, m, s: bce(y, x) + kl(m, s) + 1e-6 * m.abs().sum(), UNKNOWN),
    "label smoothing": Case(smoothed, WRONG, None, ("0.05", "0.95")),
    # --- not understood, and said so ---
    "draws random numbers": Case(draws_inside, UNKNOWN, None, ("random",)),
    "annealed": Case(Annealed(), UNKNOWN, None, ("counter",)),
    "a Python number": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)).item(), UNKNOWN, None, ("float",)),
    "a NumPy number": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)).detach().numpy(), UNKNOWN, None, ("ndarray",)),
    "one number per latent": Case(
        lambda x, y, m, s: bce(y, x) + kl_each(m, s).sum(0).repeat(2)[:B], UNKNOWN, None, ("one example each",)
    ),
    "unreduced": Case(lambda x, y, m, s: F.binary_cross_entropy(y, x, reduction="none"), UNKNOWN, None, ("shape",)),
    "dictionary without a loss": Case(lambda x, y, m, s: {"total": bce(y, x)}, UNKNOWN, None, ("entry",)),
    "raises": Case(lambda x, y, m, s: x.no_such_method(), UNKNOWN, None, ("AttributeError",)),
    "always nan": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)) * math.nan, UNKNOWN, None, ("nan",)),
    "in place": Case(in_place, UNKNOWN, None, ("in place",)),
    "targets in place": Case(lambda x, y, m, s: bce(y, x.clamp_(0.01, 0.99)) + kl(m, s), UNKNOWN, None, ("in place",)),
    "interaction": Case(lambda x, y, m, s: bce(y, x) * (1 + kl(m, s)), UNKNOWN, None, ("depends on",)),
    "adaptive weight": Case(adaptive, UNKNOWN),
    "maximum mean discrepancy": Case(lambda x, y, m, s: mse(y, x) + mmd(m) + 0 * kl(m, s), (UNKNOWN, WRONG)),
    "cosine": Case(
        lambda x, y, m, s: -F.cosine_similarity(y.flatten(1), x.flatten(1)).sum() + kl(m, s), UNKNOWN, None, ("pixels of",)
    ),
    "root of the mean square": Case(lambda x, y, m, s: F.mse_loss(y, x).sqrt() + kl(m, s), UNKNOWN),
    "perceptual": Case(perceptual, UNKNOWN, None, ("pixels of",)),
    "sigma-VAE": Case(sigma_vae, UNKNOWN),
    "Huber": Case(lambda x, y, m, s: F.smooth_l1_loss(y, x, reduction="sum") + kl(m, s), UNKNOWN, None, ("Huber",)),
    "log-cosh": Case(lambda x, y, m, s: torch.log(torch.cosh(y - x)).sum() + kl(m, s), UNKNOWN, None, ("log-cosh",)),
    "constrained reconstruction": Case(geco, UNKNOWN),
    "reconstruction and KL as a pair": Case(lambda x, y, m, s: (bce(y, x), kl(m, s)), WRONG, 0, ("first of 2",)),
    "soft free bits": Case(lambda x, y, m, s: bce(y, x) + F.softplus(kl_each(m, s) - 0.1).sum(), UNKNOWN),
    "KL to a power": Case(lambda x, y, m, s: bce(y, x) + kl_each(m, s).pow(1.0001).sum(), UNKNOWN),
    "ink only": Case(lambda x, y, m, s: bce(y[x > 0], x[x > 0]) + kl(m, s), (OTHER, UNKNOWN), None, ("target",)),
    "result in float32": Case(lambda x, y, m, s: (bce(y, x) + kl(m, s)).float(), SCALED, 1, ("float32",)),
    "changes late": Case(ChangesLate(), UNKNOWN, None, ("counter",)),
    "Student's t": Case(lambda x, y, m, s: -StudentT(3.0, y, 1.0).log_prob(x).sum() + kl(m, s), UNKNOWN),
    "focal": Case(lambda x, y, m, s: ((x - y).abs() ** 2 * -(1 - (x - y).abs()).log()).sum() + kl(m, s), UNKNOWN),
    "logarithm of the whole": Case(lambda x, y, m, s: pytorch_example(x, y, m, s).log(), UNKNOWN, None, ("depends on",)),
    "mu and second exchanged": Case(lambda x, y, m, s: bce(y, x) + kl(s, m), UNKNOWN),
    "correlations penalised": Case(
        lambda x, y, m, s: bce(y, x) + kl(m, s) + 1e-3 * torch.cov(m.T).square().sum(),
        UNKNOWN, None, ("examples of a batch",),
    ),
    "absolute value of the KL": Case(lambda x, y, m, s: bce(y, x) + kl(m, s).abs(), SCALED, 1),
    "KL not below 0": Case(lambda x, y, m, s: bce(y, x) + kl_each(m, s).clamp(min=0).sum(), SCALED, 1),
    "log sigma^2 through a hard tanh": Case(lambda x, y, m, s: bce(y, x) + kl(m, F.hardtanh(s, -7, 2)), LIMITED, 1, ("-7",)),
    "squares to the prior": Case(mse_to_prior, (UNKNOWN, WRONG)),
    "half precision": Case(half_only, UNKNOWN),
    "softmax over pixels": Case(
        lambda x, y, m, s: -(x.flatten(1) * y.flatten(1).log_softmax(1)).sum() + kl(m, s), UNKNOWN, None, ("pixels of",)
    ),
    "batch normalised KL": Case(
        lambda x, y, m, s: bce(y, x) + kl((m - m.mean(0)) / m.std(0), s), (UNKNOWN, WRONG), None, ()
    ),
    "KL squared": Case(lambda x, y, m, s: bce(y, x) + kl(m, s) ** 2, UNKNOWN),
    "logarithm of the KL": Case(lambda x, y, m, s: bce(y, x) + (1 + kl(m, s)).log(), UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    case = ZOO[name]
    report = run(case.loss)
    expected = (case.verdicts,) if isinstance(case.verdicts, str) else case.verdicts
    assert report.verdict in expected, str(report)
    if case.beta is not None:
        assert report.beta == pytest.approx(case.beta, rel=1e-3 if "float32" in name else 1e-7), str(report)
    for words in case.says:
        assert words in str(report), str(report)


# --- Drawn at random -------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """A correct loss in pieces, so that one of them can be broken."""

    pixel: Callable[[Tensor, Tensor], Tensor]  # (x, y) -> (B, *D)
    log_var: Callable[[Tensor], Tensor]
    scale: float
    constant: float
    per_example: bool


def half_square(variance: float, *, normalized: bool) -> Callable[[Tensor, Tensor], Tensor]:
    constant = 0.5 * math.log(2 * math.pi * variance) if normalized else 0.0
    return lambda x, y: (x - y) ** 2 / (2 * variance) + constant


PIXELS = [
    functools.partial(lambda x, y: F.binary_cross_entropy(y, x, reduction="none")),
    functools.partial(lambda x, y: F.binary_cross_entropy_with_logits(y, x, reduction="none")),
    lambda x, y: -(x * y.log() + (1 - x) * (1 - y).log()),
    half_square(1.0, normalized=False),
    half_square(0.07, normalized=True),
    half_square(3.0, normalized=True),
    lambda x, y: (x - y).abs(),
    lambda x, y: (x - y).abs() / 0.3 + math.log(0.6),
    lambda x, y: -ContinuousBernoulli(logits=y).log_prob(x),
]
LOG_VARS = [
    lambda s: s,
    lambda s: 2 * s,
    lambda s: 2 * s.log(),
    lambda s: s.log(),
    lambda s: 2 * F.softplus(s).log(),
    lambda s: F.softplus(s).log(),
]


def drawn(seed: int) -> Parts:
    generator = torch.Generator().manual_seed(seed)
    pick, log_var, per_example = (
        int(torch.randint(n, (), generator=generator)) for n in (len(PIXELS), len(LOG_VARS), 2)
    )
    exponent, constant = (torch.rand(2, generator=generator) * 6 - 3).tolist()
    # a normaliser says its variance only next to an unscaled likelihood
    return Parts(
        PIXELS[pick],
        LOG_VARS[log_var],
        10**exponent if pick < 4 else 1.0,
        constant if pick < 4 else 0.0,
        bool(per_example),
    )


def build(parts: Parts) -> Callable[..., Tensor]:
    def loss(x, y, mu, s):
        total = parts.pixel(x, y).flatten(1).sum(1) + kl_each(mu, parts.log_var(s)).sum(1) + parts.constant
        return parts.scale * (total if parts.per_example else total.mean())

    return loss


@pytest.mark.parametrize("seed", range(24))
def test_a_random_correct_loss_passes(seed):
    report = run(build(drawn(seed)))
    assert report.verdict in RIGHT, str(report)
    assert report.beta == pytest.approx(1, rel=1e-7)


def broken(parts: Parts, how: str, size: float) -> Callable[..., Tensor]:
    """The same loss with one thing wrong; ``size`` says by how much."""

    def loss(x, y, mu, s):
        variance = parts.log_var(s).exp()
        pixel, terms = parts.pixel(x, y), [mu**2 / 2, variance / 2, -parts.log_var(s) / 2]
        names = ("mu^2", "sigma^2", "log sigma^2")
        terms = [term * (1 + size) if name == how else term for name, term in zip(names, terms, strict=True)]
        prior = torch.stack(terms).sum(0) - 0.5
        prior = prior * (1 + size) if how == "KL" else prior
        prior = prior.clamp(min=size) if how == "free bits" else prior
        prior = prior[:, 1:] if how == "a latent" else prior.detach() if how == "detached" else prior
        pixel = pixel[..., 1:] if how == "a pixel" else pixel * (1 + size * x) if how == "ink" else pixel
        extra = {
            "output decay": size * y.square().sum(),
            "mean decay": size * mu.sum(),
            "interaction": size * mu.sum() * y.sum(),
            "latents together": size * mu.sum(1).square().sum(),
            "examples together": size * mu.mean(0).square().sum(),
            "pixels together": size * (y - x).sum().square(),
        }.get(how, 0.0)
        return pixel.sum() + prior.sum() + extra

    return loss


WAYS = [
    "mu^2", "sigma^2", "log sigma^2", "KL", "free bits", "a latent", "detached", "a pixel", "ink", "output decay",
    "mean decay", "interaction", "latents together", "examples together", "pixels together",
]  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("exponent", [-1, -5])
def test_a_random_wrong_loss_is_never_called_correct(how, exponent):
    parts = drawn(100 * WAYS.index(how) + exponent)
    report = run(broken(parts, how, 10.0**exponent))
    assert report.verdict not in RIGHT, str(report)


def test_the_breakage_is_what_fails():
    """Without a breakage the same construction passes, so the test above sees the breakage and nothing else."""
    for seed in (0, 1):
        assert run(broken(drawn(seed), "nothing", 0.1)).verdict in RIGHT


# --- The rest of the interface ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (1, 28, 28), (3, 8, 8), (1,)])
@pytest.mark.parametrize("num_latents", [1, 16])
def test_sizes(shape, num_latents):
    report = audit.audit(pytorch_example, data_shape=shape, num_latents=num_latents, batch_size=2)
    assert report.verdict == SCALED, str(report)


def test_the_same_mean_gives_another_beta_at_another_size():
    def loss(x, y, mu, s):
        return F.binary_cross_entropy_with_logits(y, x) + 0.1 * kl_each(mu, s).mean()

    for shape, num_latents in (((784,), 20), ((3, 8, 8), 128)):
        report = audit.audit(loss, data_shape=shape, num_latents=num_latents, batch_size=8)
        assert report.beta == pytest.approx(0.1 * math.prod(shape) / num_latents)


@pytest.mark.parametrize(("stated", "beta", "verdict"), [(None, 0.01, BETA), (0.01, 1, SCALED), (1.0, 0.01, BETA)])
def test_the_noise_variance_can_be_stated(stated, beta, verdict):
    report = run(lambda x, y, m, s: mse(y, x) / (2 * 0.1**2) + kl(m, s), noise_variance=stated)
    assert report.beta == pytest.approx(beta)
    assert report.verdict == verdict


def sampler(sd: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda mu, s: mu + sd(s) * torch.randn_like(mu)


def test_sampling_that_agrees_with_the_loss():
    assert run(pytorch_example, reparameterize=sampler(lambda s: torch.exp(0.5 * s))).verdict == SCALED


@pytest.mark.parametrize(
    ("sd", "says"),
    [
        (torch.exp, "as log sigma"),
        (lambda s: s, "as sigma"),
        (lambda s: 2 * torch.exp(0.5 * s), "variance 4"),
        (lambda s: s + 1, "something else"),
        (lambda s: 0 * s, "something else"),
    ],
)
def test_sampling_that_does_not(sd, says):
    report = run(pytorch_example, reparameterize=sampler(sd))
    assert report.verdict == WRONG
    assert says in str(report)


@pytest.mark.parametrize(
    ("reparameterize", "says"),
    [
        (lambda mu, s: s.no_such_method(), "raises AttributeError"),
        (lambda mu: mu, "raises TypeError"),
        (lambda mu, s: mu + (s / 2).exp() * torch.from_numpy(np.random.default_rng().normal(size=mu.shape)), "repeat"),
        (lambda mu, s: (mu, s), "returns tuple"),
    ],
)
def test_sampling_that_cannot_be_tried_is_not_called_wrong(reparameterize, says):
    report = run(pytorch_example, reparameterize=reparameterize)
    assert report.verdict == UNTESTED
    assert "could not be tested" in str(report)
    assert says in str(report)
    assert run(lambda x, y, m, s: bce(y, x), reparameterize=reparameterize).verdict == WRONG


def test_sampling_may_have_a_generator_of_its_own():
    generator = torch.Generator().manual_seed(1)

    def draw(mu, s):
        return mu + (s / 2).exp() * torch.randn(mu.shape, generator=generator, dtype=mu.dtype)

    assert run(pytorch_example, reparameterize=draw).verdict == SCALED


def test_sampling_without_the_mean():
    report = run(pytorch_example, reparameterize=lambda mu, s: torch.exp(0.5 * s) * torch.randn_like(mu))
    assert report.verdict == WRONG


# --- What a stranger's losses showed: no false word in a report -------------------------------------------------------


def test_a_squared_plus_an_absolute_error_does_not_change_the_targets():
    report = run(lambda x, y, m, s: mse(y, x) + 0.1 * (y - x).abs().sum() + kl(m, s))
    assert report.verdict == UNKNOWN, str(report)
    assert "targets are changed" not in str(report), str(report)


def test_a_scaled_sigma_is_no_kl_only_for_the_named_second_output():
    report = run(lambda x, y, m, s: bce(y, x) + kl(m, 2 * (s - 1)))
    assert report.verdict == WRONG, str(report)
    assert "unless the variance is 0.1353 times" in str(report), str(report)


@pytest.mark.parametrize("mean", [0.0, 0.3])
@pytest.mark.parametrize("sd", [0.5, 1.7])
def test_another_prior_comes_with_its_own_constant(mean, sd):
    def prior(m, s):
        return 0.5 * torch.sum(((m - mean) ** 2 + s.exp()) / sd**2 + math.log(sd**2) - s - 1)

    whole = run(lambda x, y, m, s: bce(y, x) + prior(m, s))
    assert whole.verdict == OTHER, str(whole)
    assert "no constant is left out or added" in whole.reconstruction, str(whole)
    gaussian = run(lambda x, y, m, s: (2 * (x - y) ** 2 + 0.5 * math.log(2 * math.pi / 4)).sum() + prior(m, s))
    assert gaussian.noise_variance == pytest.approx(0.25), str(gaussian)
    assert gaussian.beta == pytest.approx(1), str(gaussian)


def test_a_clamped_output_is_not_called_a_clamped_target():
    report = run(lambda x, y, m, s: 0.5 * mse(y.clamp(0, 1), x) + kl(m, s))
    assert "targets outside" not in str(report), str(report)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_factor_of_the_logarithm_is_not_advised_twice(factor):
    report = run(lambda x, y, m, s: bce(y, x) - 0.5 * torch.sum(1 + factor * s - m**2 - s.exp()))
    assert report.verdict == WRONG, str(report)
    assert len(report.problems) == len(report.advice) == 1, str(report)


def test_a_pair_of_terms_is_told_what_was_read():
    report = run(lambda x, y, m, s: (bce(y, x), kl(m, s)))
    assert report.verdict == WRONG, str(report)
    assert "the audit reads the first result" in str(report), str(report)


def test_half_precision_is_not_called_float32():
    report = run(
        lambda x, y, m, s: (
            F.binary_cross_entropy_with_logits(y.bfloat16(), x.bfloat16()).sum() + kl(m.bfloat16(), s.bfloat16())
        )
    )
    assert "half precision" in str(report), str(report)
    assert "works in float32" not in str(report), str(report)


def test_a_report_is_short_and_plain():
    lines = str(run(pytorch_example)).splitlines()
    assert 8 <= len(lines) <= 20
    assert lines[0] == "verdict:        correct up to a constant scale"
    assert max(map(len, lines)) < 150


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    run(draws_inside)
    run(pytorch_example, reparameterize=sampler(torch.exp))
    assert torch.equal(torch.randn(4), expected)


def test_the_same_loss_gives_the_same_report():
    assert run(pytorch_example) == run(pytorch_example)


def test_audits_under_no_grad():
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert run(pytorch_example).verdict == SCALED


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch_size": 1},
        {"num_latents": 0},
        {"data_shape": ()},
        {"data_shape": (3, 0)},
        {"noise_variance": 0.0},
        {"noise_variance": math.nan},
    ],
)
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        run(pytorch_example, **sizes)


def test_an_interrupt_is_not_swallowed():
    def loss(x, y, mu, s):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(loss)


# --- The table of candidates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", candidates.PARAMETERS, ids=lambda p: p.name)
def test_a_parametrisation_undoes_its_inverse(parameter):
    log_var = torch.linspace(max(-20, parameter.lowest + 1), 20, 41, dtype=torch.float64)
    torch.testing.assert_close(parameter.log_var(parameter.inverse(log_var)), log_var, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("parameter", candidates.PARAMETERS, ids=lambda p: p.name)
def test_the_sampling_line_that_is_advised_has_the_right_spread(parameter):
    log_var = torch.linspace(-2, 3, 7, dtype=torch.float64)
    names = {"mu": torch.zeros(7), "second": parameter.inverse(log_var), "eps": torch.ones(7), "torch": torch, "F": F}
    z = eval(parameter.sampling, names)
    torch.testing.assert_close(z, (log_var / 2).exp())


def test_the_likelihoods_are_those_of_the_package():
    """Differences between two outputs, so that constants drop out."""
    x, dtype = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64), torch.float64
    first, second = (torch.tensor([v], dtype=dtype) for v in ([0.2, 0.7, 0.4], [0.6, 0.3, 0.9]))
    by_name = {(like.name, like.output): like.per_pixel for like in candidates.LIKELIHOODS}

    def difference(function):
        return float(function(first) - function(second))

    for (name, output), log_p in {
        ("Bernoulli (binary cross-entropy)", "logits"): likelihoods.bernoulli,
        ("Gaussian (squared error)", "the mean"): lambda x, y: likelihoods.gaussian(x, y, torch.zeros((), dtype=dtype)),
        ("continuous Bernoulli", "logits"): lambda x, y: ContinuousBernoulli(logits=y).log_prob(x).sum(),
        ("Laplace (absolute error)", "the median"): lambda x, y: Laplace(y, 1.0).log_prob(x).sum(),
    }.items():
        per_pixel = by_name[name, output]
        ours, theirs = (lambda y, f=per_pixel: -f(x, y).sum()), (lambda y, f=log_p: f(x, y))
        assert difference(ours) == pytest.approx(difference(theirs), rel=1e-9)
