"""How fast the functions of Part I are: estimators beside the same arithmetic written inline, closed forms beside torch.

    python benchmarks/estimators.py

Two comparisons. An estimator of `gradients` or `divergences`, or a draw of samples, should take at most 1.2 times as
long as its bare arithmetic: what it adds is the check of the shapes, a few microseconds that tiny batches notice. A
closed form should be at least as fast as `torch.distributions` without validation, construction included, since a
variational distribution is built anew at every step. The two sides take turns, so that a busy machine slows both; what is
printed are medians. `--help` lists the sizes.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from vae_tutorial import divergences, full_gaussian, gaussian, gradients, likelihoods

Pair = tuple[Callable[[], object], Callable[[], object]]


def seconds(function: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def compare(ours: Callable[[], object], other: Callable[[], object], budget: float) -> tuple[float, float, float]:
    """Median seconds of both, and the median ratio of neighbouring measurements."""
    calls = max(1, round(5e-4 / seconds(other, 3)))
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while len(times) < 20 or time.perf_counter() < end:
        if len(times) % 2:  # who goes first takes turns as well
            second, first = seconds(other, calls), seconds(ours, calls)
        else:
            first, second = seconds(ours, calls), seconds(other, calls)
        times.append((first, second))
    return median(t[0] for t in times), median(t[1] for t in times), median(a / b for a, b in times)


def estimators(num_samples: int, num_data: int, num_latents: int) -> dict[str, Pair]:
    """The estimators, and what a reader would write in their place."""
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(num_samples, num_data, num_latents, generator=generator)
    mu, log_var = torch.randn(2, num_data, num_latents, generator=generator)
    log_w = torch.randn(num_samples, num_data, generator=generator)
    baseline = log_w.mean(0)
    z = gaussian.reparameterize(eps, mu, log_var)
    log_q_z = gaussian.log_prob(z, mu, log_var)

    def log_joint(z):
        return -0.5 * (z - 1).square().sum(-1)

    def score_function():
        difference = z - mu
        scaled, signal = difference * torch.exp(-log_var), (log_w - baseline).unsqueeze(-1)
        return scaled * signal, 0.5 * (difference * scaled - 1) * signal

    def slope():
        z = (mu + torch.exp(0.5 * log_var) * eps).requires_grad_()
        return torch.autograd.grad(log_joint(z).sum(), z)[0]

    def pathwise():
        g = slope()
        return g, 0.5 * torch.exp(0.5 * log_var) * eps * g + 0.5

    def path_derivative():
        h = slope() + eps * torch.exp(-0.5 * log_var)
        return h, 0.5 * torch.exp(0.5 * log_var) * eps * h

    def optimal_baseline():
        squares = z.square().sum(-1)
        return (squares * log_w).sum(0) / squares.sum(0)

    return {
        "score_function": (lambda: gradients.score_function(log_w, z, mu, log_var, baseline=baseline), score_function),
        "pathwise": (lambda: gradients.pathwise(log_joint, eps, mu, log_var), pathwise),
        "path_derivative": (lambda: gradients.path_derivative(log_joint, eps, mu, log_var), path_derivative),
        "leave_one_out": (lambda: gradients.leave_one_out(log_w), lambda: (log_w.sum(0) - log_w) / (len(log_w) - 1)),
        "optimal_baseline": (lambda: gradients.optimal_baseline(log_w, z), optimal_baseline),
        "score_function_surrogate": (
            lambda: gradients.score_function_surrogate(log_w, log_q_z, baseline=baseline),
            lambda: log_w.detach() + (log_w - baseline).detach() * (log_q_z - log_q_z.detach()),
        ),
        "path_derivative_surrogate": (
            lambda: gradients.path_derivative_surrogate(log_joint, gaussian.log_prob, z, mu, log_var),
            lambda: log_joint(z) - gaussian.log_prob(z, mu.detach(), log_var.detach()),
        ),
        "gaussian.sample": (
            lambda: gaussian.sample(mu, log_var, num_samples),
            lambda: mu + torch.exp(0.5 * log_var) * torch.randn(num_samples, *mu.shape),
        ),
        "kl_direct": (lambda: divergences.kl_direct(log_w).mean(0), lambda: log_w.mean(0)),
        "kl_squared": (lambda: divergences.kl_squared(log_w).mean(0), lambda: (0.5 * log_w.square()).mean(0)),
        "kl_control_variate": (
            lambda: divergences.kl_control_variate(log_w).mean(0),
            lambda: (log_w + torch.expm1(-log_w)).mean(0),
        ),
    }


def closed_forms(num_samples: int, num_data: int, num_latents: int) -> dict[str, Pair]:
    """The closed forms, from the same parameters as torch.distributions."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num_samples, num_data, num_latents, generator=generator)
    mu, log_var, mu_p, log_var_p = torch.randn(4, num_data, num_latents, generator=generator)
    factors = 0.3 * torch.randn(2, num_data, num_latents, num_latents, generator=generator)
    factor, factor_p = factors.tril(-1) + factors.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def diagonal(mu, log_var):
        normal = Normal(mu, torch.exp(0.5 * log_var), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def full(mu, factor):
        return MultivariateNormal(mu, scale_tril=factor, validate_args=False)

    zero, x = torch.zeros_like(mu), (mu > 0).float()
    return {
        "gaussian.log_prob": (
            lambda: gaussian.log_prob(z, mu, log_var),
            lambda: diagonal(mu, log_var).log_prob(z),
        ),
        "gaussian.kl": (
            lambda: gaussian.kl(mu, log_var, mu_p, log_var_p),
            lambda: kl_divergence(diagonal(mu, log_var), diagonal(mu_p, log_var_p)),
        ),
        "gaussian.kl_to_standard_normal": (
            lambda: gaussian.kl_to_standard_normal(mu, log_var),
            lambda: kl_divergence(diagonal(mu, log_var), diagonal(zero, zero)),
        ),
        "gaussian.entropy": (lambda: gaussian.entropy(log_var), lambda: diagonal(mu, log_var).entropy()),
        "likelihoods.bernoulli": (
            lambda: likelihoods.bernoulli(x, z),
            lambda: Independent(Bernoulli(logits=z, validate_args=False), 1, validate_args=False).log_prob(x),
        ),
        "likelihoods.gaussian": (
            lambda: likelihoods.gaussian(mu, z, log_var),
            lambda: diagonal(z, log_var).log_prob(mu),
        ),
        "full_gaussian.log_prob": (
            lambda: full_gaussian.log_prob(z, mu, factor),
            lambda: full(mu, factor).log_prob(z),
        ),
        "full_gaussian.kl": (
            lambda: full_gaussian.kl(mu, factor, mu_p, factor_p),
            lambda: kl_divergence(full(mu, factor), full(mu_p, factor_p)),
        ),
        "full_gaussian.entropy": (lambda: full_gaussian.entropy(factor), lambda: full(mu, factor).entropy()),
    }


def report(title: str, pairs: dict[str, Pair], limit: float, budget: float) -> bool:
    print(f"\n{title}\n{'':28}{'ours':>10}{'other':>10}{'ratio':>8}")
    within = True
    for name, pair in pairs.items():
        ours, other, ratio = compare(*pair, budget)
        within &= ratio <= limit
        note = "" if ratio <= limit else f"   above {limit}"
        print(f"{name:28}{1e6 * ours:8.1f}µs{1e6 * other:8.1f}µs{ratio:8.2f}{note}")
    return within


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100, help="K")
    parser.add_argument("--data", type=int, default=88, help="B")
    parser.add_argument("--latents", type=int, default=2, help="J")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each line")
    arguments = parser.parse_args()
    sizes = arguments.samples, arguments.data, arguments.latents
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, K, B, J = {sizes}, float32")
    fast = report("estimators beside inline arithmetic", estimators(*sizes), 1.2, arguments.budget)
    fast &= report("closed forms beside torch.distributions", closed_forms(*sizes), 1.0, arguments.budget)
    return 0 if fast else 1


if __name__ == "__main__":
    raise SystemExit(main())
