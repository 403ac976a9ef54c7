r"""Evaluation: how probable a trained model finds data it has not seen.

The evidence :math:`p_\theta(x)` of a VAE is an integral without a closed form. Importance sampling from the encoder
estimates it, and the logarithm of the estimate is, in expectation, a lower bound on :math:`\log p_\theta(x)` that rises
with the number of samples K.

Shapes: x is (N, \*D). The results are in nats, one per data point; the caller averages.
"""

import math

import torch
from torch import Tensor

from vae_tutorial.models import VAE


@torch.no_grad()
def log_likelihood(
    model: VAE,
    x: Tensor,
    *,
    num_samples: int,
    batch_size: int = 100,
    chunk_size: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance-weighted estimate of the log-evidence of each data point, in nats.

    .. math:: \log p(x) \approx \log \frac1K \sum_{k=1}^K w_k, \qquad
        w_k = \frac{p(x \mid z_k) \, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    In expectation it is a lower bound, and it rises to log p(x) as K grows. The samples come in chunks whose sums are
    combined as they come, so memory does not grow with K.

    Args:
        model: a VAE, on its device.
        x: data, (N, \*D), bytes or floats, on any device.
        num_samples: K, at least 1.
        batch_size: data points evaluated at once.
        chunk_size: samples drawn at once; changes the memory, and the order in which the noise is drawn.
        generator: source of the noise, on the model's device.

    Returns:
        The estimate for each data point, (N,), on the CPU.

    Raises:
        ValueError: if ``num_samples``, ``batch_size`` or ``chunk_size`` is below 1, or for data the model does not
            describe.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3.

    >>> from vae_tutorial import models
    >>> vae = models.linear_vae((4,), num_latents=2)
    >>> log_likelihood(vae, torch.ones(3, 4), num_samples=10).shape
    torch.Size([3])
    """
    if min(num_samples, batch_size, chunk_size) < 1:
        given = f"num_samples {num_samples}, batch_size {batch_size}, chunk_size {chunk_size}"
        raise ValueError(f"num_samples, batch_size and chunk_size must each be at least 1, got {given}")
    model.check_data(x)
    model.eval()
    parameter = next(model.parameters())
    estimates = []
    for batch in x.split(batch_size):
        batch = batch.to(parameter.device, parameter.dtype)
        log_sum = batch.new_full((len(batch),), -math.inf)  # log of the sum of the weights so far
        for start in range(0, num_samples, chunk_size):
            log_w = model.log_weights(batch, min(chunk_size, num_samples - start), generator=generator)
            log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
        estimates.append(log_sum.cpu() - math.log(num_samples))
    return torch.cat(estimates)
