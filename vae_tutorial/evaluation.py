r"""Evaluation: how probable a trained model finds data it has not seen.

The evidence :math:`p_\theta(x)` of a VAE is an integral without a closed form. Importance sampling from the encoder
estimates it, and the logarithm of the estimate is, in expectation, a lower bound on :math:`\log p_\theta(x)` that rises
with the number of samples K. :mod:`vae_tutorial.annealing` gets closer.

Shapes: x is (N, \*D), or (B, \*D) where a batch is meant. The results are in nats, one per data point; the caller averages.
"""

import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vae_tutorial import _checks, annealing, bounds, divergences, gaussian, records
from vae_tutorial.models import VAE

PARTS = ("importance", "annealed", "simulated")
KEYS = {"settings", "facts", "done", "seconds", *PARTS}


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
    _checks.whole(num_samples=num_samples, batch_size=batch_size, chunk_size=chunk_size)
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


def kl_per_dimension(mu: Tensor, log_var: Tensor) -> Tensor:
    r"""KL divergence from q to N(0, 1) in each latent dimension, in nats.

    .. math:: \mathrm{KL}_j = \tfrac12 \big( \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1 \big)

    Their sum over j is the KL of the whole, because both distributions factorise.

    Args:
        mu: mean of q, (..., J).
        log_var: log-variance of q, (..., J), (..., 1) or a scalar.

    Returns:
        KL divergence of each dimension, (..., J); the caller averages over the data.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma and Welling (2014), appendix B.

    >>> kl_per_dimension(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
    tensor([[0., 2.]])
    """
    try:
        fits = mu.dim() > 0 and torch.broadcast_shapes(mu.shape, log_var.shape)[-1] == mu.shape[-1]
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"shapes do not fit: mu {tuple(mu.shape)}, log_var {tuple(log_var.shape)}; expected (..., J)")
    return gaussian.kl_to_standard_normal(mu.unsqueeze(-1), log_var.unsqueeze(-1))


def active_units(mu: Tensor, *, threshold: float = 0.01) -> Tensor:
    r"""Which latent dimensions answer to the data: the variance of the posterior mean over them exceeds a threshold.

    .. math:: \frac1N \sum_{n=1}^N \big( \mu_{nj} - \bar\mu_j \big)^2 > \text{threshold}

    A dimension that has collapsed has the prior for its q at every data point, so that its mean does not move.

    Args:
        mu: posterior mean of each data point, (N, J), N at least 2.
        threshold: on the variance.

    Returns:
        Truth values, (J,); their sum is the number of active units.

    Raises:
        ValueError: if ``mu`` is not (N, J) with N at least 2, or holds a number that is not finite.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.2.

    >>> active_units(torch.tensor([[-1.0, 0.05], [1.0, -0.05]]))
    tensor([ True, False])
    """
    if mu.dim() != 2 or len(mu) < 2:
        raise ValueError(f"mu must have shape (N, J) with N at least 2, got {tuple(mu.shape)}")
    if not mu.isfinite().all():
        raise ValueError("mu holds a number that is not finite")
    return mu.var(0, correction=0) > threshold


def signal_to_noise(draws: Tensor) -> Tensor:
    r"""Signal-to-noise ratio of a gradient estimator, for each of its entries, from repeated draws.

    .. math:: \mathrm{SNR} = \frac{|\mathbb{E}[g]|}{\sqrt{\operatorname{Var}[g]}}

    Below 1 the sign of a single draw is little better than a guess. It is a ratio, without a unit, estimated from the mean
    and the standard deviation of the draws; where it is far below :math:`1 / \sqrt R` it is noise itself.

    Args:
        draws: independent draws of the estimator, (R, ...), R at least 2.

    Returns:
        The ratio of each entry, (...); infinite where the draws do not differ.

    Raises:
        ValueError: if there are fewer than two draws.

    Source: Rainforth et al. (2018), section 2.

    >>> signal_to_noise(torch.tensor([[1.0, -1.0], [3.0, 1.0]]))  # means 2 and 0, both of standard deviation sqrt(2)
    tensor([1.4142, 0.0000])
    """
    if draws.dim() == 0 or len(draws) < 2:
        raise ValueError(f"draws must be (R, ...) with R at least 2, got shape {tuple(draws.shape)}")
    return draws.mean(0).abs() / draws.std(0)


class Summary(NamedTuple):
    """What importance sampling says of each data point: its KL to the prior, a bound for each K, the effective size."""

    kl: Tensor  # (B,)
    bounds: Tensor  # (len(num_samples), B)
    effective_sample_size: Tensor  # of all the samples, (B,)


@torch.no_grad()
def summarize(
    model: VAE,
    x: Tensor,
    *,
    num_samples: Sequence[int],
    chunk_size: int = 50,
    generator: torch.Generator | None = None,
) -> Summary:
    r"""The K-sample bound for several K at once, from the samples of the largest, M.

    .. math:: \widehat{\mathcal L}_K = \frac{1}{M / K} \sum_{g=1}^{M/K} \log \frac1K \sum_{k=1}^K w_{gk}

    The M samples are dealt into M / K groups, so the estimates for small K are averages of many, and each is unbiased
    for its own bound. K = 1 is the ELBO.

    Args:
        model: a VAE, on its device.
        x: data, (B, \*D), bytes or floats.
        num_samples: the K; each divides the largest.
        chunk_size: samples drawn at once.
        generator: source of the noise, on the model's device.

    Returns:
        ``Summary(kl, bounds, effective_sample_size)``, in nats but for the last. The KL is in closed form where family and
        prior have one, and the average over M further samples where not.

    Raises:
        ValueError: if a K is below 1 or does not divide the largest, or for data that the model does not describe.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3.

    >>> from vae_tutorial import models
    >>> summarize(models.linear_vae((4,), num_latents=2), torch.ones(3, 4), num_samples=[1, 10]).bounds.shape
    torch.Size([2, 3])
    """
    _checks.whole(chunk_size=chunk_size, **{f"num_samples[{i}]": k for i, k in enumerate(num_samples)})
    if not num_samples or any(max(num_samples) % k for k in num_samples):
        raise ValueError(f"each of num_samples must divide the largest, got {list(num_samples)}")
    model.check_data(x)
    model.eval()
    x = x.to(next(model.parameters()))
    chunks = [min(chunk_size, max(num_samples) - done) for done in range(0, max(num_samples), chunk_size)]
    log_w = torch.cat([model.log_weights(x, k, generator=generator) for k in chunks])  # (M, B)
    by_k = [bounds.iwae(log_w.unflatten(0, (k, -1))).mean(0) for k in num_samples]
    q = model.posterior(x)
    kl = divergences.closed_form_kl(q, model.prior)
    if kl is None:
        kl = divergences.kl(q, model.prior, model.noise(max(num_samples), len(x), generator=generator)).value
    return Summary(kl, torch.stack(by_k), bounds.effective_sample_size(log_w))


def evaluate(
    model: VAE,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    num_samples: Sequence[int] = (1, 10, 100, 1000, 5000),
    num_annealed: int = 100,
    simulated: tuple[Tensor, Tensor],
    num_steps: int = 200,
    num_chains: int = 5,
    num_leapfrog: int = 5,
    batch_size: int = 20,
    seed: int = 0,
    progress: bool = True,
    **facts: Any,
) -> dict[str, Any]:
    r"""A full evaluation, recorded in one small file, batch by batch: a call that was interrupted goes on where it was.

    Three parts: ``importance``, what :func:`summarize` finds for every data point; ``annealed``, log-weights of
    :func:`vae_tutorial.annealing.ais` from the encoder's q for the first ``num_annealed`` of them; ``simulated``, on data
    drawn from the model itself, log-weights of the chains in both directions, which enclose the log-evidence in
    expectation.

    The cost is one decoding for each sample of importance sampling, and for each chain of each direction
    ``num_steps * num_leapfrog`` decodings with their gradient, each worth about three; the tuning of the step sizes costs
    as much as one direction.

    Args:
        model: a VAE, on its device.
        x: data, (N, \*D), bytes or floats.
        path: the file to write, and to resume from.
        num_samples: the K of the bounds; each divides the largest.
        num_annealed: how many of the data points are annealed.
        simulated: a pair x (M, \*D) and z (M, J), drawn from the model.
        num_steps: T, with the temperatures of :func:`vae_tutorial.annealing.temperatures`.
        num_chains: chains for each data point.
        num_leapfrog: leapfrog steps in one transition.
        batch_size: data points at once.
        seed: of the noise; every batch has its own generator.
        progress: show a progress bar.
        facts: anything worth recording: numbers and strings.

    Returns:
        The record: the three parts, each a dictionary of tensors whose last axis are the data points, ``seconds`` for
        each part, ``settings`` and ``facts``.

    Raises:
        ValueError: if the file holds the record of another model, other data or other settings: the message names them.
        OSError: if the file cannot be written.

    >>> import tempfile
    >>> from vae_tutorial import models
    >>> vae, z = models.linear_vae((4,), num_latents=2), torch.randn(3, 2)
    >>> x = torch.bernoulli(vae.decode(z).sigmoid())
    >>> few = {"num_samples": (1, 4), "num_annealed": 2, "num_steps": 3, "progress": False}
    >>> record = evaluate(vae, torch.ones(5, 4), tempfile.mkdtemp() + "/record.pt", simulated=(x, z), **few)
    >>> record["importance"]["bounds"].shape, record["annealed"]["log_w"].shape
    (torch.Size([2, 5]), torch.Size([5, 2]))
    """
    _checks.whole(num_steps=num_steps, num_chains=num_chains, num_leapfrog=num_leapfrog, batch_size=batch_size)
    chains = {"betas": annealing.temperatures(num_steps), "num_leapfrog": num_leapfrog}
    parts = {
        "importance": (partial(_importance, model, num_samples), (x,)),
        "annealed": (partial(_annealed, model, chains, num_chains), (x[:num_annealed],)),
        "simulated": (partial(_both_ways, model, chains, num_chains), simulated),
    }
    settings = {
        **_identity(model),
        "data": records.fingerprint(x),
        "simulated": records.fingerprint(*simulated),
        "num_samples": list(num_samples),
        "num_annealed": num_annealed,
        "annealing": [num_steps, num_chains, num_leapfrog],
        "batch_size": batch_size,
        "seed": seed,
    }
    record = _begin(path, settings, model, facts)
    batches = [(name, first) for name, (_, data) in parts.items() for first in range(0, len(data[0]), batch_size)]
    for number, (name, first) in enumerate(tqdm(batches, unit="batch", **({} if progress else {"disable": True}))):
        if record["done"].get(name, 0) <= first:
            function, data = parts[name]
            noise = torch.Generator(next(model.parameters()).device).manual_seed(1_000_000 * seed + number)
            start, batch = time.perf_counter(), [part[first : first + batch_size] for part in data]
            result = {key: value.cpu() for key, value in function(*batch, generator=noise).items()}
            _extend(record, name, result, len(batch[0]), time.perf_counter() - start)
            records.write(path, record)
    return record


def load_record(path: str | os.PathLike[str], model: VAE) -> dict[str, Any]:
    """Read the record of an evaluation, and check that it is of this very model.

    Args:
        path: a file written by :func:`evaluate`.
        model: the model that was evaluated.

    Returns:
        The record, as :func:`evaluate` returns it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no such record, or that of another model or other weights.

    >>> from vae_tutorial import models
    >>> load_record("nowhere.pt", models.linear_vae((4,), num_latents=2))
    Traceback (most recent call last):
    ...
    FileNotFoundError: there is no file nowhere.pt
    """
    record, now = records.read(path, KEYS), _identity(model)
    was = {key: record["settings"].get(key) for key in now}
    if different := records.differences(was, now):
        raise ValueError(f"{path} is the evaluation of another model ({'; '.join(different)})")
    return record


def _identity(model: VAE) -> dict[str, Any]:
    return {"model": records.describe(model), "weights": records.fingerprint(*model.state_dict().values())}


def _importance(model: VAE, num_samples: Sequence[int], x: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
    return summarize(model, x, num_samples=num_samples, generator=generator)._asdict()


def _annealed(
    model: VAE, chains: dict[str, Any], num_chains: int, x: Tensor, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """AIS from the encoder's q, with step sizes tuned on the noise drawn before."""
    with torch.no_grad():
        start = model.posterior(x.to(next(model.parameters())))
    tuning: dict[str, Any] = {"num_chains": num_chains, "num_rounds": 1, "generator": generator}
    step_size = annealing.tune_step_size(model, x, start=start, **tuning, **chains)
    path = {"start": start, "step_size": step_size, **chains}
    result = annealing.ais(model, x, num_chains=num_chains, generator=generator, **path)
    return {"log_w": result.log_w, "acceptance": result.acceptance.mean(0)}


def _both_ways(
    model: VAE, chains: dict[str, Any], num_chains: int, x: Tensor, z: Tensor, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """AIS and reverse AIS on pairs drawn from the model; every backward chain of a pair starts from its z."""
    with torch.no_grad():
        start = model.posterior(x.to(next(model.parameters())))
    tuning: dict[str, Any] = {"num_chains": num_chains, "num_rounds": 1, "generator": generator}
    step_size = annealing.tune_step_size(model, x, start=start, **tuning, **chains)
    path = {"start": start, "step_size": step_size, "generator": generator, **chains}
    lower = annealing.ais(model, x, num_chains=num_chains, **path).log_w
    return {"lower": lower, "upper": annealing.reverse_ais(model, x, z.expand(num_chains, *z.shape), **path).log_w}


def _begin(path: str | os.PathLike[str], settings: dict[str, Any], model: VAE, facts: dict[str, Any]) -> dict[str, Any]:
    """The record in the file, if it is of this evaluation; a new one where there is none."""
    records.check_writable(path)
    if not Path(path).exists():
        facts = {**records.facts(next(model.parameters()).device), **facts}
        return {"settings": settings, "facts": facts, "done": {}, "seconds": {}, **{name: {} for name in PARTS}}
    record = records.read(path, KEYS)
    if different := records.differences(record["settings"], settings):
        raise ValueError(f"{path} holds another evaluation ({'; '.join(different)}): name another file, or delete it")
    return record


def _extend(record: dict[str, Any], name: str, result: dict[str, Tensor], size: int, seconds: float) -> None:
    """Join the result of one batch to what its part of the record holds."""
    part = record[name]
    for key, value in result.items():
        part[key] = torch.cat([part[key], value], -1) if key in part else value
    record["done"][name] = record["done"].get(name, 0) + size
    record["seconds"][name] = record["seconds"].get(name, 0.0) + seconds
