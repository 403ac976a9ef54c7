"""audit: losses of the shapes found in public code, and clamps drawn at random: the truth about each typed by hand.

The shapes: single, half and mixed precision, autocast, dictionaries and tuples, normalised and learnt decoders, free bits
and capacities, targets on other scales, KLs estimated by sampling. Nothing here shares code with the audit.
"""

import collections
import functools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_audit import RIGHT, B, Case, D, J, bce, kl, kl_each, logits_bce, mse, run
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Laplace, Normal, kl_divergence

from vae_tutorial import audit, likelihoods
from vae_tutorial.audit import BETA, CORRECT, LIMITED, OTHER, SCALED, UNKNOWN, WRONG, reporting


def cast(loss: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> Callable[..., Tensor]:
    return lambda *arguments: loss(*(argument.to(dtype) for argument in arguments))


def autocast(loss: Callable[..., Tensor], dtype: torch.dtype = torch.bfloat16) -> Callable[..., Tensor]:
    def under(*arguments):
        with torch.autocast("cpu", dtype=dtype):
            return loss(*arguments)

    return under


def with_logits(x, y, m, s):
    return logits_bce(y, x) + kl(m, s)


def clamped(low: float, high: float) -> Callable[..., Tensor]:
    return lambda x, y, m, s: logits_bce(y, x) + kl(m, s.clamp(low, high))


def eps_bce(eps: float, *, second: float = 0.0) -> Callable[..., Tensor]:
    def loss(x, y, m, s):
        return -(x * (y + eps).log() + (1 - x) * (1 - y + second + eps).log()).sum() + kl(m, s)

    return loss


Output = collections.namedtuple("Output", ["loss", "reconstruction", "kl"])  # as model classes return it
train_norm, frozen_norm = nn.BatchNorm2d(1).double(), nn.BatchNorm2d(1).double().eval()


def learnt(log_var: float, *, two_pi: bool = True, beta: float = 1.0) -> Callable[..., Tensor]:
    parameter = nn.Parameter(torch.tensor(log_var, dtype=torch.float64))

    def loss(x, y, m, s):
        each = (x - y) ** 2 / parameter.exp() + parameter + math.log(2 * math.pi) * two_pi
        return (0.5 * each.flatten(1).sum(1) + beta * kl_each(m, s).sum(1)).mean()

    return loss


pixel_scale = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))


def learnt_by_pixel(x, y, m, s):
    return -Normal(y, pixel_scale.exp()).log_prob(x).sum() + kl(m, s)


def sampled(
    *,
    num: int = 1,
    beta: float = 1.0,
    prior_sd: float = 1.0,
    power: float = 0.5,
    sign: float = 1.0,
    change: Callable[[Tensor], Tensor] = lambda z: z,
    draw: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Callable[..., Tensor]:
    """log q(z) - log p(z) of drawn latents, averaged over ``num`` draws; sigma = e^(power s)."""

    def loss(x, y, m, s):
        sigma, ratio = torch.exp(power * s), 0.0
        for _ in range(num):
            z = change(m + sigma * draw(sigma))
            ratio = ratio + (Normal(m, sigma).log_prob(z) - sign * Normal(0.0, prior_sd).log_prob(z)).sum()
        return logits_bce(y, x) + beta * ratio / num

    return loss


def by_rsample(x, y, m, s):
    q = Independent(Normal(m, (s / 2).exp()), 1)
    z = q.rsample()
    log_p = Independent(Normal(torch.zeros_like(m), torch.ones_like(m)), 1).log_prob(z)
    return (F.binary_cross_entropy_with_logits(y, x, reduction="none").sum((1, 2, 3)) + q.log_prob(z) - log_p).mean()


def own_generator() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(5)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def numpy_noise(like: Tensor) -> Tensor:
    return torch.from_numpy(np.random.default_rng().normal(size=like.shape))


def box_muller(like: Tensor) -> Tensor:
    first, second = torch.rand_like(like), torch.rand_like(like)
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()


def softplus_kl(least: float, *, variance: bool) -> Callable[..., Tensor]:
    def loss(x, y, m, s):
        spread = F.softplus(s) + least
        return logits_bce(y, x) + kl(m, spread.log() if variance else 2 * spread.log())

    return loss


def discretized(x, y, m, s):
    return -likelihoods.discretized_logistic(x, y, torch.zeros_like(y) - 2).sum() + kl(m, s)


def wants_a_pair(x, decoded, m, s):
    mean, log_var = decoded
    return 0.5 * ((x - mean) ** 2 / log_var.exp() + log_var).sum() + kl(m, s)


def misprint(m, s):  # sigma squared twice: no KL of log sigma^2 to N(0, I)
    return (s.exp() ** 2 + m**2 - s - 0.5).sum()


FOUND: dict[str, Case] = {
    # --- single precision: what is right stays right, what is clamped is seen ---
    "float32": Case(cast(with_logits), SCALED, 1, ("float32",)),
    "float32, mean over the batch": Case(cast(lambda x, y, m, s: with_logits(x, y, m, s) / len(x)), CORRECT, 1),
    "float32, Normal": Case(
        cast(lambda x, y, m, s: logits_bce(y, x) + kl_divergence(Normal(m, (s / 2).exp()), Normal(0.0, 1.0)).sum()),
        SCALED, 1,
    ),
    "float32 targets only": Case(lambda x, y, m, s: 0.5 * ((x.float() - y) ** 2).sum() + kl(m, s), SCALED, 1),
    "float32 targets, as BCE insists": Case(lambda x, y, m, s: bce(y, x.float()) + kl(m, s), SCALED, 1),
    "float32 reconstruction": Case(lambda x, y, m, s: logits_bce(y.float(), x.float()) + kl(m, s), SCALED, 1),
    "float32 squared error": Case(cast(lambda x, y, m, s: 0.5 * mse(y, x) + kl(m, s)), SCALED, 1),
    "float32 squared error on a sigmoid": Case(
        cast(lambda x, y, m, s: 0.5 * mse(y.sigmoid(), x) + kl(m, s)), SCALED, 1
    ),
    "float32, beta 4": Case(cast(lambda x, y, m, s: logits_bce(y, x) + 4 * kl(m, s)), BETA, 4),
    "float32, mean and mean": Case(
        cast(lambda x, y, m, s: F.binary_cross_entropy(y, x) + kl_each(m, s).mean()), BETA, D / J
    ),
    "float32, KL subtracted": Case(cast(lambda x, y, m, s: logits_bce(y, x) - kl(m, s)), WRONG, None, ("sign",)),
    "float32, log sigma^2 clamped at 10": Case(cast(clamped(-10, 10)), LIMITED, 1, (" 10 on", "-10 on")),
    "float32, log sigma^2 clamped at 20": Case(cast(clamped(-30, 20)), LIMITED, 1, (" 20 on", "-30 on")),
    "float32, log sigma^2 clamped from below": Case(cast(clamped(-100, math.inf)), LIMITED, 1, ("-100 on",)),
    "float32 reconstruction, log sigma^2 clamped": Case(
        lambda x, y, m, s: logits_bce(y.float(), x.float()) + kl(m, s.clamp(-8, 8)), LIMITED, 1, ("8 on",)
    ),
    "float32 answer, log sigma^2 clamped": Case(lambda *a: clamped(-6, 6)(*a).float(), LIMITED, 1),
    "float32, mu clamped": Case(
        cast(lambda x, y, m, s: logits_bce(y, x) + kl(m.clamp(-50, 50), s)), LIMITED, 1, ("50 on",)
    ),
    "float32, logits clamped": Case(
        cast(lambda x, y, m, s: logits_bce(y.clamp(-10, 10), x) + kl(m, s)), LIMITED, 1, ("10 on",)
    ),
    "float32, logits clamped before a squared error": Case(
        cast(lambda x, y, m, s: 0.5 * mse(y.clamp(-9, 9).sigmoid(), x) + kl(m, s)), LIMITED, 1, ("9 on",)
    ),
    "float32, clamped before a tanh": Case(
        cast(lambda x, y, m, s: 0.5 * mse(y.clamp(-5, 5).tanh(), x) + kl(m, s)), LIMITED, 1, ("5 on",)
    ),
    "clamped before a tanh": Case(
        lambda x, y, m, s: 0.5 * mse(y.clamp(-9, 9).tanh(), x) + kl(m, s), LIMITED, 1, ("9 on",)
    ),
    "float32, probabilities clamped": Case(
        cast(lambda x, y, m, s: bce(y.clamp(1e-6, 1 - 1e-6), x) + kl(m, s)), LIMITED, 1, ("from 1e-06 on", "from 1 - ")
    ),
    "float32, loss capped": Case(cast(lambda *a: with_logits(*a).clamp(max=1e6)), LIMITED, 1),
    "float32, KL capped": Case(
        cast(lambda x, y, m, s: logits_bce(y, x) + kl_each(m, s).sum(1).clamp(max=1e4).sum()), LIMITED, 1
    ),
    "float32, epsilon 1e-6": Case(cast(eps_bce(1e-6)), LIMITED, 1),
    "float32, sigmoid before the BCE": Case(  # in float32 the sigmoid is 1 from 16.6 on
        cast(lambda x, y, m, s: bce(y.sigmoid(), x) + kl(m, s)), LIMITED, 1, ("16.6",)
    ),
    "float32 free bits": Case(
        cast(lambda x, y, m, s: logits_bce(y, x) + kl_each(m, s).clamp(min=0.5).sum()), OTHER, None, ("free bits", "0.5")
    ),
    # --- autocast leaves float64 alone; half precision is too coarse ---
    "autocast": Case(autocast(with_logits), SCALED, 1),
    "autocast, float16": Case(autocast(lambda *a: with_logits(*a) / B, torch.float16), CORRECT, 1),
    "autocast, clamped": Case(autocast(clamped(-10, 10)), LIMITED, 1, ("10 on",)),
    "autocast after a cast to float32": Case(autocast(cast(with_logits)), SCALED, 1),
    "half precision output": Case(lambda *a: with_logits(*a).half(), UNKNOWN, None, ("half precision",)),
    "half precision reconstruction": Case(
        lambda x, y, m, s: logits_bce(y.bfloat16(), x.bfloat16()) + kl(m, s), UNKNOWN, None, ("half precision",)
    ),
    "half precision, clamped": Case(cast(clamped(-5, 5), torch.bfloat16), UNKNOWN, None, ("half precision",)),
    # --- what comes back ---
    "dictionary of numbers per example": Case(
        lambda x, y, m, s: {"loss": 0.5 * ((x - y) ** 2).flatten(1).sum(1) + kl_each(m, s).sum(1), "y": y}, CORRECT, 1,
        ("dictionary, one number per example",),
    ),
    "named tuple": Case(lambda x, y, m, s: Output(bce(y, x) + kl(m, s), bce(y, x), kl(m, s)), SCALED, 1, ("first of 3",)),
    "tuple in a dictionary": Case(lambda x, y, m, s: {"loss": (bce(y, x) + kl(m, s), 0.0)}, SCALED, 1),
    "list with the KL first": Case(lambda x, y, m, s: [kl(m, s), bce(y, x)], WRONG, None, ("reads the first",)),
    "dictionary of terms": Case(lambda x, y, m, s: {"mse": mse(y, x), "kl": kl(m, s)}, UNKNOWN, None, ("loss",)),
    "column of numbers": Case(lambda x, y, m, s: ((x - y) ** 2 / 2).flatten(1).sum(1, keepdim=True)
                              + kl_each(m, s).sum(1, keepdim=True), CORRECT, 1),
    # --- decoders with layers of their own inside the loss ---
    "BatchNorm in training": Case(
        lambda x, y, m, s: logits_bce(train_norm(y), x) + kl(m, s), UNKNOWN, None, ("examples of a batch",)
    ),
    "BatchNorm frozen": Case(lambda x, y, m, s: logits_bce(frozen_norm(y), x) + kl(m, s), (LIMITED, UNKNOWN)),
    "dropout": Case(lambda x, y, m, s: logits_bce(F.dropout(y, 0.2), x) + kl(m, s), UNKNOWN, None, ("random",)),
    "layer norm": Case(
        lambda x, y, m, s: logits_bce(F.layer_norm(y, y.shape[1:]), x) + kl(m, s), UNKNOWN, None, ("pixels of",)
    ),
    "learnt variance": Case(learnt(-2.0), CORRECT, 1, ("variance 0.135335",)),
    "learnt variance without 2 pi": Case(learnt(math.log(0.25), two_pi=False), CORRECT, 1, ("variance 0.25",)),
    "learnt variance, beta 4": Case(learnt(-2.0, beta=4), BETA, 4, ("0.135335",)),
    "learnt scale of a Laplace": Case(
        lambda x, y, m, s: -Laplace(y, torch.tensor(0.3).double()).log_prob(x).sum() + kl(m, s), SCALED, 1, ("scale 0.3 ",)
    ),
    "learnt scale for each column": Case(learnt_by_pixel, OTHER, None, ("pixels have different weights",)),
    # --- free bits and capacities ---
    "free bits in total": Case(
        lambda x, y, m, s: bce(y, x) / B + (kl(m, s) / B).clamp(min=3), OTHER, None, ("an example, averaged", " 3 nats")
    ),
    "free bits by maximum": Case(
        lambda x, y, m, s: bce(y, x) + torch.maximum(kl_each(m, s), torch.tensor(0.1)).sum(),
        OTHER, None, ("free bits: the KL of each latent", " 0.1 nats"),
    ),
    "hinge": Case(lambda x, y, m, s: bce(y, x) + F.relu(kl_each(m, s).sum(1) - 2).sum(), OTHER, None, ("free", " 2 nats")),
    "free bits and beta": Case(
        lambda x, y, m, s: bce(y, x) + 0.5 * kl_each(m, s).mean(0).clamp(min=0.2).sum() * B, OTHER, None, ("0.2 nats",)
    ),
    "capacity for each example": Case(
        lambda x, y, m, s: bce(y, x) + 10 * (kl_each(m, s).sum(1) - 4).abs().sum(), OTHER, None, ("capacity", " 4 nats")
    ),
    "capacity squared": Case(lambda x, y, m, s: bce(y, x) + (kl(m, s) / B - 4) ** 2, UNKNOWN),
    "capacity 0": Case(lambda x, y, m, s: bce(y, x) + 10 * kl(m, s).abs(), BETA, 10),
    # --- targets on another scale ---
    "targets from -1 to 1": Case(lambda x, y, m, s: bce(y, (x + 1) / 2) + kl(m, s), SCALED, 1, ("from -1 to 1",)),
    "targets from -1 to 1, logits": Case(
        lambda x, y, m, s: (logits_bce(y, 0.5 * x + 0.5) + kl(m, s)) / B, CORRECT, 1, ("from -1 to 1",)
    ),
    "targets from -1 to 1, strict": Case(
        lambda x, y, m, s: -Bernoulli(logits=y).log_prob((x + 1) / 2).sum() + kl(m, s), SCALED, 1, ("from -1 to 1",)
    ),
    "targets from -1 to 1, log sigma^2 clamped": Case(
        lambda x, y, m, s: logits_bce(y, (x + 1) / 2) + kl(m, s.clamp(-9, 9)), LIMITED, 1, ("9 on",)
    ),
    "bytes": Case(lambda x, y, m, s: logits_bce(y, x / 255) + kl(m, s), SCALED, 1, ("from 0 to 255",)),
    "a tanh as the mean": Case(lambda x, y, m, s: 0.5 * mse(y.tanh(), x) + kl(m, s), SCALED, 1, ("tanh",)),
    "a shifted tanh as the mean": Case(
        lambda x, y, m, s: 0.5 * mse((y.tanh() + 1) / 2, x) + kl(m, s), SCALED, 1, ("(tanh + 1) / 2",)
    ),
    "both rescaled": Case(lambda x, y, m, s: 0.5 * mse((y + 1) / 2, (x + 1) / 2) + kl(m, s), BETA, 4, ("variance 4",)),
    # --- a KL estimated by sampling ---
    "sampled KL": Case(sampled(), SCALED, 1, ("normal noise",)),
    "sampled KL, rsample": Case(by_rsample, CORRECT, 1),
    "sampled KL, five draws": Case(sampled(num=5), SCALED, 1),
    "sampled KL, own generator": Case(sampled(draw=own_generator()), SCALED, 1),
    "sampled KL, log sigma": Case(sampled(power=1.0), SCALED, 1, ("log sigma\n",)),
    "sampled KL, float32": Case(cast(sampled()), SCALED, 1),
    "sampled KL, half of it": Case(sampled(beta=0.5), BETA, 0.5),
    "sampled KL, prior N(0, 4)": Case(sampled(prior_sd=2.0), OTHER, 1, ("N(0, 4)",)),
    "sampled KL, log p added": Case(sampled(sign=-1.0), WRONG),
    "sampled KL, latents clamped": Case(sampled(change=lambda z: z.clamp(-20, 20)), (LIMITED, UNKNOWN)),
    "sampled KL, noise clamped": Case(sampled(draw=lambda t: torch.randn_like(t).clamp(-2, 2)), UNKNOWN, None, ("noise",)),
    "sampled KL, noise switched off": Case(sampled(draw=torch.zeros_like), WRONG, None, ("Leave it on",)),
    "sampled KL, NumPy noise": Case(sampled(draw=numpy_noise), UNKNOWN, None, ("random",)),
    "sampled KL, noise from uniform numbers": Case(sampled(draw=box_muller), UNKNOWN, None, ("random",)),
    "binarized inside": Case(
        lambda x, y, m, s: logits_bce(y, torch.bernoulli(x)) + kl(m, s), UNKNOWN, None, ("random",)
    ),
    # --- what the second output may be, and other orders ---
    "softplus plus 1e-4": Case(softplus_kl(1e-4, variance=False), SCALED, 1, ("(F.softplus(second) + 0.0001) * eps",)),
    "softplus plus 1e-6": Case(softplus_kl(1e-6, variance=True), SCALED, 1, ("(F.softplus(second) + 1e-06).sqrt()",)),
    "softplus plus 1e-4, clamped": Case(
        lambda x, y, m, s: softplus_kl(1e-4, variance=False)(x, y, m, s.clamp(-5, 5)), (LIMITED, UNKNOWN)
    ),
    "log sigma^2 before mu": Case(lambda x, y, s, m: bce(y, x) + kl(m, s), UNKNOWN, None, ("exchange them",)),
    "reconstruction before x": Case(lambda y, x, m, s: bce(y, x) + kl(m, s), WRONG, None, ("swap",)),
    "a decoder with two outputs": Case(wants_a_pair, UNKNOWN, None, ("lambda x, y, mu, second: loss(x, (y,",)),
    "discretized logistic": Case(discretized, UNKNOWN, None, ("no likelihood in the table",)),
    "misprint beside a cross-entropy": Case(lambda x, y, m, s: bce(y, x) + misprint(m, s), WRONG, None, ("half",)),
    "misprint beside a squared error": Case(lambda x, y, m, s: mse(y, x) + misprint(m, s), WRONG, None, ("half",)),
    "epsilon on one side": Case(eps_bce(0.0, second=1e-5), LIMITED),
    "mean over the columns only": Case(
        lambda x, y, m, s: F.binary_cross_entropy(y, x, reduction="none").mean(-1).sum() + kl(m, s), BETA, 5,
        ("over data axis 2: reconstruction sum", "over data axis 3: reconstruction mean"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_found(name):
    case = FOUND[name]
    report = run(case.loss)
    assert report.verdict in ((case.verdicts,) if isinstance(case.verdicts, str) else case.verdicts), str(report)
    if case.beta is not None:
        assert report.beta == pytest.approx(case.beta, rel=1e-3 if "float32" in name else 1e-7), str(report)
    for words in case.says:
        assert words in str(report), str(report)


# --- Nothing with a clamp is right -----------------------------------------------------------------------------------


PLACES = ["log sigma^2", "mu", "output", "KL of a latent", "KL of an example", "KL", "pixel", "reconstruction", "loss"]
PRECISIONS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [lambda f: f, cast, autocast]


def with_a_clamp(seed: int, place: str) -> Callable[..., Tensor]:
    """A loss that is right but for one clamp, whose place is within what its numbers can reach."""
    dice = random.Random(seed)
    pixel = dice.choice(
        [
            lambda x, y: F.binary_cross_entropy_with_logits(y, x, reduction="none"),
            lambda x, y: 0.5 * (x - y) ** 2,
            lambda x, y: (x - y).abs(),
        ]
    )
    size, side = 10 ** dice.uniform(0, 1.7), dice.choice(["both", "low", "high"])  # up to 50
    double = dice.choice([1.0, 2.0])  # the second output is log sigma^2 or log sigma

    def clamp(name: str, t: Tensor, *, least: float = -size) -> Tensor:
        return t if name != place else t.clamp(least if side != "high" else None, size if side != "low" else None)

    def loss(x, y, m, s):
        log_var = double * clamp("log sigma^2", s)
        prior = clamp("KL of a latent", kl_each(clamp("mu", m), log_var), least=size / 100).sum(1)
        prior = clamp("KL", clamp("KL of an example", prior, least=size / 100).sum(), least=size / 100)
        pixels = clamp("pixel", pixel(x, clamp("output", y)), least=size / 500).sum()
        return clamp("loss", clamp("reconstruction", pixels, least=size / 100) + prior, least=size / 100)

    return loss


@pytest.mark.parametrize("place", PLACES)
def test_a_loss_with_a_clamp_is_never_called_correct(place):
    for seed, precision in enumerate(PRECISIONS):
        report = run(precision(with_a_clamp(10 * PLACES.index(place) + seed, place)))
        assert report.verdict not in (*RIGHT, BETA), f"{seed} {report}"


def test_without_its_clamp_it_passes():
    for seed, precision in enumerate(PRECISIONS):
        assert run(precision(with_a_clamp(seed, "nowhere"))).verdict == SCALED


@pytest.mark.parametrize("limit", [1e2, 1e4, 1e6])
def test_wide_targets_must_not_be_clamped(limit):
    for pixel in (lambda x, y: 0.5 * (x - y) ** 2, lambda x, y: (x - y).abs()):
        report = run(lambda x, y, m, s, f=pixel: f(x.clamp(-limit / 2, limit / 2), y).sum() + kl(m, s))
        assert report.verdict == LIMITED, str(report)


# --- Words -----------------------------------------------------------------------------------------------------------


def test_beta_is_named_after_what_it_follows():
    small = functools.partial(audit.audit, data_shape=(20,), num_latents=2, batch_size=16)
    half_pixels = small(lambda x, y, m, s: F.mse_loss(y, x) + kl(m, s) / len(x))
    assert "D/2, half the pixels)" in str(half_pixels), str(half_pixels)  # and not D/J, at J = 2
    ratio = small(lambda x, y, m, s: F.binary_cross_entropy(y, x) + kl_each(m, s).mean())
    assert "D/J, pixels over latents)" in str(ratio), str(ratio)
    meant = small(lambda x, y, m, s: bce(y, x) + 16 * kl(m, s))
    assert meant.beta == pytest.approx(16)
    assert "it is" not in str(meant), str(meant)  # and not B


def test_no_weight_is_advised_where_a_capacity_or_free_bits_stay():
    for term in (lambda k: 30 * (k - 5).abs(), lambda k: 30 * k.clamp(min=5)):
        report = run(lambda x, y, m, s, f=term: bce(y, x) / B + f(kl(m, s) / B))
        assert report.verdict == OTHER
        assert "multiply the KL" not in str(report), str(report)


@pytest.mark.parametrize(
    ("number", "text"), [(0.99999, "1 - 1e-05"), (1.0, "1"), (12.345678, "12.35"), (-10.0, "-10"), (1e-7, "1e-07")]
)
def test_numbers_in_words(number, text):
    assert reporting.plain(number) == text


def test_no_rounding_noise_in_words():
    report = run(lambda x, y, m, s: bce(y, 0.9 * x) + kl(m, s))
    assert "0 becomes" not in str(report), str(report)
    assert "1 becomes 0.9 " in str(report), str(report)
    for loss in (sampled(), cast(with_logits)):
        assert "N(0, 1)" in run(loss).kl


def test_a_report_says_which_ranges_were_tried():
    assert "log sigma^2 from -600 to 600" in str(run(with_logits))
    assert "log sigma^2 from -60 to 60" in str(run(cast(with_logits)))
