r"""The loss audit: what does *your* VAE loss compute, and which beta does it imply?

It needs no other module of the package.

A VAE is trained by minimising, for a batch of B images with D pixels and J latents, the mean over the batch of

.. math:: -\mathrm{ELBO} = \underbrace{\sum_{d=1}^D r(x_d, y_d)}_{-\log p(x \mid z)}
    + \underbrace{\tfrac12 \sum_{j=1}^J
    \big( \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1 \big)}_{\mathrm{KL}(q \,\|\, N(0, I))},

where y is the decoder's output and r the negative log-likelihood of one pixel. Every loss of the form

.. math:: L = a \sum_{b,d} r(x_{bd}, y_{bd}) + c \sum_{b,j} k(\mu_{bj}, s_{bj}) + \text{const},
    \qquad k = \tfrac12 (\mu^2 + \sigma^2 - \log \sigma^2 - 1),

is :math:`a` times the negative beta-ELBO with :math:`\beta = c / a`. A common factor of both terms moves no optimum (Adam
does not even notice it), and a constant has no gradient. So the *ratio* decides, and a mean where a sum belongs changes it:

===========================  ===========================  ==================
reconstruction over pixels   KL over latents              implied beta
===========================  ===========================  ==================
sum                          sum                          1
mean, a = 1/D                sum, c = 1                   D
sum                          mean, c = 1/J                1/J
mean                         mean                         D/J
mean                         sum, times w                 w D
===========================  ===========================  ==================

and if the batch is averaged in one term and summed in the other, beta has a factor B or 1/B more. A likelihood with a
scale v, that is :math:`r_v = r_1 / v` plus the constant of its normaliser, hides a second factor: the Gaussian with
variance v has :math:`r_v = (x - y)^2 / 2v`, so

.. math:: \sum_d (x_d - y_d)^2 + \mathrm{KL} = 2 \Big( \tfrac12 \sum_d (x_d - y_d)^2 + \tfrac12 \mathrm{KL} \Big)

is beta = 1/2 with unit variance, and just as well beta = 1 with v = 1/2. No gradient can tell the two apart; the
normaliser :math:`\tfrac12 \log 2 \pi v` can, if the loss keeps it.

**How it is found out.** The loss is only called, never read. In each call all pixels, means and second outputs are drawn
independently, and autograd returns one derivative for each of them. If the loss has the form above, the derivative at
pixel (b, d) is :math:`a \, \partial r / \partial y` at :math:`(x_{bd}, y_{bd})`, whatever the other entries are. For a
Gaussian q and a Gaussian prior the derivatives are linear in four numbers,

.. math:: \frac{\partial L}{\partial \mu} = 2 c_\mu \mu + c_1, \qquad
    \frac{\partial L}{\partial s} = \Big( c_\sigma \sigma^2 + c_{\log} \Big) \frac{\partial \log \sigma^2}{\partial s},

and the prior :math:`N(m, v)` has :math:`c_\mu = c_\sigma = c / 2v`, :math:`c_1 = -c\,m / v`, :math:`c_{\log} = -c / 2`. Each
entry gets its own least-squares fit over several calls. A candidate is accepted when it explains every derivative to
rounding, also close to the prior, close to a perfect reconstruction and far away from both, and when the *values* of the
loss move as the derivatives say. An interaction between the terms, between pixels or between examples cannot pass. Then
other batch, image and latent sizes show what is averaged.

**Ranges.** A clamp, a cap or a guard leaves most points alone, so all arguments are also taken to the ends of their ranges,
in the precision in which the loss works: in float64 log-variances of 600, in float32 of 60. A loss that works in half
precision is too coarse for all this, and stays unknown.

**Noise.** A KL estimated by sampling draws noise inside the loss. Standard normal draws of torch, with a generator or
without, are replaced by mirrored signs, which average whatever is quadratic in the noise without error. Noise of another
kind makes a loss unknown.

**What it cannot know.** Whether the decoder ends in a sigmoid, whether your pixels are binary, and what the loss does in
calls that differ from those it made. How your code samples z is not part of the loss either: pass the function as
``reparameterize``, and the audit checks that both read the second output alike. Out of its reach: likelihoods with a shape
of their own (discretized logistic, Student's t), reconstructions that couple pixels (categorical, multinomial, perceptual),
decoders that return more than one number for each pixel, losses that draw the latents and run the decoder themselves.

Its rooms: ``candidates`` (what a loss may be made of), ``probing`` (calling it), ``fitting`` (what explains the answers,
and how far), ``judging`` (the verdict), ``reporting`` (the words).

Shapes: x and y are (B, \*D), mu and the second output are (B, J).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vae_tutorial.audit import judging, probing
from vae_tutorial.audit.probing import Setting
from vae_tutorial.audit.reporting import BETA, CORRECT, LIMITED, OTHER, SCALED, UNKNOWN, UNTESTED, WRONG, Report

__all__ = ["BETA", "CORRECT", "LIMITED", "OTHER", "SCALED", "UNKNOWN", "UNTESTED", "WRONG", "Report", "audit"]


def audit(
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Any],
    *,
    data_shape: tuple[int, ...],
    num_latents: int,
    batch_size: int = 16,
    noise_variance: float | None = None,
    reparameterize: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Report:
    r"""What a VAE loss computes, found by calling it: likelihood, meaning of the second output, reductions, implied beta.

    .. math:: L = a \sum_{b,d} r(x_{bd}, y_{bd}) + c \sum_{b,j} k(\mu_{bj}, s_{bj}) + \text{const},
        \qquad \beta = c / a

    Args:
        loss: to be minimised, called as ``loss(x, decoder_output, mu, second)`` with x and the decoder's output
            (B, \*D) in (0, 1) or beyond, mu and second (B, J); it returns a number or one per example, (B,).
        data_shape: \*D, such as (1, 28, 28) or (784,), as your loss expects it.
        num_latents: J, the numbers in a latent.
        batch_size: B, at least 2, as in your training: beta may depend on it.
        noise_variance: the variance you mean when the loss is a squared error (for an absolute error the Laplace
            scale). Without it, it is read from the normaliser if the loss keeps one, and else taken to be 1.

        reparameterize: your sampling function, called as ``reparameterize(mu, second)``, (B, J) -> (B, J); its noise
            has to be torch's normal noise, from whichever generator.

    Returns:
        The report. It is UNKNOWN, with the reason, where the loss is not understood.

    Raises:
        ValueError: if a size is too small.

    Source: the book's chapter on the objective; the beta-weighted bound is Higgins et al. (2017).

    >>> import torch.nn.functional as F
    >>> def loss(x, logits, mu, log_var):
    ...     bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    ...     return bce - 0.5 * (1 + log_var - mu**2 - log_var.exp()).mean()
    >>> report = audit(loss, data_shape=(5,), num_latents=2, batch_size=4)
    >>> report.verdict, report.second_output, round(report.beta, 6)
    ('beta-weighted', 'log sigma^2', 0.125)
    """
    if batch_size < 2 or num_latents < 1 or not data_shape or min(data_shape) < 1:
        raise ValueError(
            f"batch_size must be at least 2 and all other sizes at least 1, got batch_size {batch_size}, "
            f"data_shape {tuple(data_shape)}, num_latents {num_latents}"
        )
    if noise_variance is not None and not noise_variance > 0:
        raise ValueError(f"noise_variance must be positive, got {noise_variance}")
    setting = Setting(loss, batch_size, tuple(data_shape), num_latents, reparameterize)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        return _audit(setting, noise_variance)


def _audit(setting: Setting, noise_variance: float | None) -> Report:
    setting, first = probing.settle(setting)
    if first.refusal:
        return judging.unanswered(first.refusal)
    if setting.dtype in (torch.float16, torch.bfloat16):
        problem = "works in half precision, too coarse for the audit: audit it in float32 or float64"
        return judging.unanswered(problem)
    first = probing.measure(setting, first.point)
    if reason := first.refusal or probing.unsteady(setting, first) or probing.unaveraged(setting):
        return judging.unanswered(reason)
    report = judging.examine(setting, first, noise_variance)
    if reason := probing.unsteady(setting, first):
        return judging.unanswered(reason)
    return replace(report, notes=report.notes + _notes(setting, first))


def _notes(setting: Setting, first: probing.Probe) -> tuple[str, ...]:
    notes = [f"the loss returns {first.form}"] * (first.form != "one number")
    notes += ["the loss works in float32, so it was checked to about 1e-4 only"] * (not setting.double)
    notes += ["the loss draws normal noise: what is said holds for the mean over it"] * setting.noisy
    notes += ["the decoder's output had to be given as (B, D)"] * setting.flat
    return tuple(notes)
