"""annealing: chains in both directions against models whose evidence and posterior are known."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from linear_vaes import D, data, linear_vae, noise, probabilistic_pca, random_linear
from oracles import assert_close, assert_refused, randn
from torch import Tensor

from vae_tutorial import annealing, bounds, gaussian, linear_gaussian, models
from vae_tutorial.families import FullRank, MeanField
from vae_tutorial.likelihoods import Gaussian
from vae_tutorial.linear_gaussian import FactorAnalysis
from vae_tutorial.priors import GaussianMixture


def posterior_samples(model: FactorAnalysis, x: Tensor, num_samples: int, seed: int) -> Tensor:
    """Exact samples, (K, B, J)."""
    mean, covariance = linear_gaussian.posterior(model, x)
    return mean + randn(num_samples, *mean.shape, seed=seed) @ torch.linalg.cholesky(covariance).mT


def prior(num_data: int, num_latents: int) -> MeanField:
    return MeanField(*torch.zeros(2, num_data, num_latents, dtype=torch.float64))


def off_posterior(model: FactorAnalysis, x: Tensor) -> MeanField:
    """A Gaussian that lies beside the posterior, with three quarters of its precision."""
    mean, covariance = linear_gaussian.posterior(model, x)
    return MeanField(mean + 0.3, (torch.linalg.inv(covariance).diagonal() * 0.75).log().neg().expand_as(mean))


def assert_mean_is_one(ratio: Tensor, detects: float) -> None:
    """Within four standard errors, all below a quarter of the error that must be detected."""
    errors = ratio.std(0) / len(ratio) ** 0.5
    assert (errors < detects / 4).all()
    assert ((ratio.mean(0) - 1).abs() < 4 * errors).all()


def test_one_step_is_importance_sampling() -> None:
    vae, x, betas = linear_vae(exact=False), data(3)[0], torch.tensor([0.0, 1.0])
    start = vae.encode(x)
    result = annealing.ais(vae, x, start=start, betas=betas, step_size=0.1, num_chains=7, generator=noise(1))
    assert_close(result.log_w, vae.log_weights(x, 7, generator=noise(1)).detach(), 1e-12)
    assert result.acceptance.shape == (0, 3)
    model, z = probabilistic_pca(), randn(7, 3, 2, seed=4)
    start = off_posterior(model, x)
    log_w = annealing.reverse_ais(vae, x, z, start=start, betas=betas, step_size=0.1).log_w
    assert_close(log_w, linear_gaussian.log_joint(model, x, z) - gaussian.log_prob(z, *start), 1e-12)


def test_with_the_posterior_as_start_every_weight_is_the_evidence() -> None:
    vae, (x, log_evidence) = linear_vae(exact=True), data(3)
    path = {"start": vae.encode(x), "betas": annealing.temperatures(5), "step_size": 1.0, "num_leapfrog": 3}
    forward = annealing.ais(vae, x, num_chains=7, generator=noise(1), **path)
    z = posterior_samples(probabilistic_pca(), x, 7, seed=5)
    for result in (forward, annealing.reverse_ais(vae, x, z, generator=noise(1), **path)):
        assert_close(result.log_w, log_evidence.expand(7, 3), 1e-10)


def naive_chain(
    log_f: list[Callable[[Tensor], Tensor]], eps: Tensor, h: list[Tensor], num_leapfrog: int, draws: Iterator
) -> Tensor:
    """Where one chain stood before each step of the path, with accept and reject, typed from the textbook."""
    visited = [eps]
    for f, step in zip(log_f, h, strict=True):
        p, u = next(draws)
        gradient, new, momentum = torch.func.grad(f), eps, p
        for _ in range(num_leapfrog):
            half = momentum + step / 2 * gradient(new)
            new = new + step * half
            momentum = half + step / 2 * gradient(new)
        change = f(new) - momentum @ momentum / 2 - f(eps) + p @ p / 2
        eps = new if math.log(u) < change else eps
        visited.append(eps)
    return torch.stack(visited)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_does_what_the_equations_say(reverse: bool) -> None:
    """Against one chain at a time, in plain steps, on the same noise; steps so large that some are rejected."""
    model, vae = random_linear(10, 4, 2)
    x = randn(3, 4, seed=3)
    mu, log_var = start = off_posterior(model, x)
    betas, h = torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0]).double(), torch.tensor([1.5, 1.3, 0.9]).double()[:, None]
    h, settings = h * torch.tensor([1.0, 0.8, 1.3]).double(), {"betas": betas, "num_leapfrog": 3, "start": start}
    z, generator = randn(6, 3, 2, seed=8), noise(9)
    if reverse:
        result = annealing.reverse_ais(vae, x, z, step_size=h, generator=noise(9), **settings)
        first = (z - mu) / (0.5 * log_var).exp()
    else:
        result = annealing.ais(vae, x, step_size=h, num_chains=6, generator=noise(9), **settings)
        first = torch.randn(6, 3, 2, generator=generator, dtype=torch.float64)
    draw = [
        (
            torch.randn(6, 3, 2, generator=generator, dtype=torch.float64),
            torch.rand(6, 3, generator=generator, dtype=torch.float64),
        )
        for _ in range(3)
    ]
    moved = 0
    for k, b in itertools.product(range(6), range(3)):

        def log_ratio(eps: Tensor, b: int = b) -> Tensor:
            z = mu[b] + (0.5 * log_var[b]).exp() * eps
            return linear_gaussian.log_joint(model, x[b : b + 1], z[None])[0] - gaussian.log_prob(z, mu[b], log_var[b])

        def log_f(beta: Tensor, log_ratio: Callable[[Tensor], Tensor] = log_ratio) -> Callable[[Tensor], Tensor]:
            return lambda eps: beta * log_ratio(eps) - eps @ eps / 2

        order = [3, 2, 1] if reverse else [1, 2, 3]
        draws = iter([(p[k, b], u[k, b].item()) for p, u in draw])
        visited = naive_chain([log_f(betas[t]) for t in order], first[k, b], [h[t - 1, b] for t in order], 3, draws)
        at = visited.flip(0) if reverse else visited  # at[t - 1] is weighed by beta_t - beta_{t-1}
        expected = sum((betas[t] - betas[t - 1]) * log_ratio(at[t - 1]) for t in range(1, 5))
        assert_close(result.log_w[k, b], expected, 1e-9)
        moved += (visited.diff(dim=0) != 0).any(-1).sum().item()
    assert 5 < moved < 49  # of 54 transitions: some were accepted and some rejected
    assert 0.1 < result.acceptance.mean() < 0.95


@pytest.mark.parametrize("num_steps", [2, 6])
def test_the_mean_weight_is_the_evidence_and_the_mean_inverse_weight_its_inverse(num_steps: int) -> None:
    """4,000 chains, three data points: an error of 10 % would be seen. Leaving out one increment costs far more."""
    model, vae = random_linear(20, 4, 2)
    _, x = linear_gaussian.sample(model, 3, generator=noise(1))
    log_evidence = linear_gaussian.log_evidence(model, x)
    path = {"start": off_posterior(model, x), "betas": annealing.temperatures(num_steps), "num_leapfrog": 2}
    path["step_size"] = torch.full((num_steps - 1, 3), 0.9)
    forward = annealing.ais(vae, x, num_chains=4000, generator=noise(2), **path)
    assert_mean_is_one((forward.log_w - log_evidence).exp(), detects=0.1)
    z = posterior_samples(model, x, 4000, seed=3)
    backward = annealing.reverse_ais(vae, x, z, generator=noise(4), **path)
    assert_mean_is_one((log_evidence - backward.log_w).exp(), detects=0.1)


def test_the_truth_lies_between_the_two_chains_and_they_meet() -> None:
    """Six random models. Means of 200 chains: below, above, within three standard errors; and closer with more steps."""
    for seed, (num_dims, num_latents) in enumerate([(3, 1), (4, 2), (6, 3), (2, 2), (8, 2), (5, 1)]):
        model, vae = random_linear(100 * seed, num_dims, num_latents)
        _, x = linear_gaussian.sample(model, 2, generator=noise(seed))
        log_evidence, z = linear_gaussian.log_evidence(model, x), posterior_samples(model, x, 200, seed=seed)
        gaps = []
        for num_steps in (1, 25):
            path = {"start": prior(2, num_latents), "betas": annealing.temperatures(num_steps), "num_leapfrog": 4}
            path["step_size"] = annealing.tune_step_size(vae, x, generator=noise(1), **path)
            lower = annealing.ais(vae, x, num_chains=200, generator=noise(2), **path).log_w
            upper = annealing.reverse_ais(vae, x, z, generator=noise(3), **path).log_w
            assert (lower.mean(0) < log_evidence + 3 * lower.std(0) / 200**0.5).all()
            assert (upper.mean(0) > log_evidence - 3 * upper.std(0) / 200**0.5).all()
            gaps.append((upper - lower).mean())
        assert gaps[1] < min(gaps[0] / 2, 2)
        for bound in (bounds.iwae(lower), -bounds.iwae(-upper)):  # 200 chains together: the log-evidence itself
            assert_close(bound, log_evidence, 0.1)


# the transitions, on a model whose posterior is no Gaussian


def curved_vae(num_latents: int = 1) -> models.VAE:
    """Six binary pixels that depend on z through a hidden layer."""
    torch.manual_seed(3)
    vae = models.mlp_vae((6,), num_latents, 4).double()
    for parameter in vae.decoder.parameters():
        parameter.data *= 4
    return vae


def curved_path(beta: float, step_size: float, num_leapfrog: int) -> tuple[annealing.Path, Tensor, Tensor]:
    """One data point; a grid in eps, and on it f_beta normalised, from the model's likelihood alone."""
    vae, x = curved_vae(), torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 0.0]]).double()
    start, betas = MeanField(*torch.tensor([[[0.4]], [[-0.5]]]).double()), torch.tensor([0.0, beta, 1.0])
    path = annealing.path(vae, x, start=start, betas=betas, step_size=step_size, num_leapfrog=num_leapfrog)
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    z = 0.4 + math.exp(-0.25) * grid
    log_joint = vae.log_p_x_given_z(x, z[:, None, None]).detach()[:, 0] - 0.5 * z**2
    return path, grid, (beta * log_joint - (1 - beta) * 0.5 * grid**2).softmax(0)


def test_a_transition_keeps_the_density_and_is_reversible_and_needs_its_rejections() -> None:
    """Exact draws of f_beta before, 40,000 chains: moments after it, and detailed balance, within four standard errors.

    The leapfrog alone, at the same step size, moves a moment by more than ten standard errors.
    """
    path, grid, mass = curved_path(0.6, 1.7, 2)
    quantiles = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    before = torch.searchsorted(mass.cumsum(0), quantiles).clamp(max=len(grid) - 1)
    state = annealing.state(path, grid[before][:, None, None])
    after, acceptance = annealing.hmc_step(path, state, path.betas[1], path.step_size[0], generator=noise(6))
    assert 0.3 < acceptance.item() < 0.9
    stayed = (after.eps == state.eps).double().mean().item()
    assert abs(1 - stayed - acceptance.item()) < 4 * 0.5 / 200  # the share that moved
    momentum = torch.randn(state.eps.shape, generator=noise(6), dtype=torch.float64)
    blind, _ = annealing._leapfrog(path, state, momentum, path.betas[1], path.step_size[0][:, None])
    worst = 0.0
    for power in (1, 2, 3):
        exact = mass @ grid**power
        for eps, bound in ((after.eps, 4), (blind.eps, math.inf)):
            values = eps.flatten() ** power
            off = ((values.mean() - exact).abs() / values.std() * 200).item()
            assert off < bound
            worst = max(worst, off)
    assert worst > 10
    here, there = state.eps.flatten(), after.eps.flatten()
    flow = here * there**2 - there * here**2  # as much from A to B as from B to A
    assert flow.mean().abs() < 4 * flow.std() / 200
    again = annealing.state(path, after.eps)
    assert_close(after.log_ratio, again.log_ratio, 1e-12)
    assert_close(after.slope, again.slope, 1e-12)


def test_the_leapfrog_can_be_walked_backwards_and_keeps_volume() -> None:
    path, _, _ = curved_path(0.6, 0.8, 5)
    beta, step = path.betas[1], path.step_size[0][:, None]
    state, momentum = annealing.state(path, randn(50, 1, 1, seed=1)), randn(50, 1, 1, seed=2)
    there, momentum_there = annealing._leapfrog(path, state, momentum, beta, step)
    back, momentum_back = annealing._leapfrog(path, there, -momentum_there, beta, step)
    assert (there.eps - state.eps).abs().mean() > 0.5
    assert_close(back.eps, state.eps, 1e-8)
    assert_close(-momentum_back, momentum, 1e-8)

    def moved(eps: Tensor, momentum: Tensor) -> Tensor:
        end, momentum = annealing._leapfrog(path, annealing.state(path, eps), momentum, beta, step)
        return torch.cat([end.eps, momentum], -1)

    h = 1e-5
    columns = [moved(state.eps + a, momentum + b) - moved(state.eps - a, momentum - b) for a, b in ((h, 0.0), (0.0, h))]
    determinants = torch.linalg.det(torch.stack(columns, -1) / (2 * h))
    assert_close(determinants.abs(), torch.ones(50, 1).double(), 1e-4)


def test_the_mean_weight_of_a_curved_model_is_its_evidence() -> None:
    """The encoder's q as start; the evidence from a fine grid. An error of 8 % would be seen."""
    path, grid, _ = curved_path(0.5, 1.0, 1)
    z, x = grid[:, None, None], path.x
    prior_mass = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    evidence = prior_mass @ path.model.log_p_x_given_z(x, z).detach()[:, 0].exp()
    vae, betas = curved_vae(), annealing.temperatures(4)
    settings = {"start": vae.encode(x), "betas": betas, "num_leapfrog": 2}
    step_size = annealing.tune_step_size(vae, x, generator=noise(1), **settings)
    result = annealing.ais(vae, x, num_chains=5000, step_size=step_size, generator=noise(2), **settings)
    assert_mean_is_one(result.log_w.exp() / evidence, detects=0.08)


def test_a_tuned_step_size_is_accepted_as_often_as_asked() -> None:
    """On other noise than it was tuned on, and for data points of very different scale."""
    vae, x = random_linear(40, 5, 2)[1], randn(2, 5, seed=6)
    start = MeanField(torch.zeros(2, 2), torch.tensor([[4.0, 4.0], [0.0, 0.0]]))
    settings = {"start": start, "betas": annealing.temperatures(30), "num_leapfrog": 3}
    step_size = annealing.tune_step_size(vae, x, target=0.7, num_chains=50, generator=noise(7), **settings)
    assert step_size.shape == (29, 2)
    result = annealing.ais(vae, x, num_chains=200, step_size=step_size, generator=noise(8), **settings)
    assert ((result.acceptance[10:].mean(0) - 0.7).abs() < 0.1).all()
    assert step_size[-1, 0] < 0.7 * step_size[-1, 1]


@pytest.mark.parametrize("sharpness", [0.01, 4.0, 9.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_temperatures_rise_from_zero_to_one(num_steps: int, sharpness: float) -> None:
    def s(u: float) -> float:
        return 1 / (1 + math.exp(-u))

    d = sharpness
    expected = [(s(d * (2 * t / num_steps - 1)) - s(-d)) / (s(d) - s(-d)) for t in range(num_steps + 1)]
    betas = annealing.temperatures(num_steps, sharpness=sharpness)
    assert_close(betas, torch.tensor(expected, dtype=torch.float64), 1e-12)
    assert betas[0] == 0
    assert betas[-1] == 1


# what the chains return, and what they leave alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_work_in_the_models_precision(dtype: torch.dtype) -> None:
    model, vae = random_linear(50, 5, 2)
    x, vae = randn(3, 5, seed=7), vae.to(dtype)
    path = {"start": prior(3, 2), "betas": annealing.temperatures(4), "num_leapfrog": 2, "step_size": 0.4}
    z = posterior_samples(model, x, 6, seed=8)
    forward = annealing.ais(vae, x, num_chains=6, generator=noise(1), **path)
    for result in (forward, annealing.reverse_ais(vae, x, z, generator=noise(1), **path)):
        assert result.log_w.shape == (6, 3)
        assert result.acceptance.shape == (3, 3)
        assert all(part.dtype == dtype and part.isfinite().all() and not part.requires_grad for part in result)
    assert annealing.tune_step_size(vae, x, start=prior(3, 2), betas=path["betas"]).dtype == dtype


def test_chains_take_bytes_images_and_no_gradient_mode() -> None:
    torch.manual_seed(0)
    vae = models.conv_vae(num_latents=3, num_channels=4, num_blocks=1)
    x = (randn(2, 1, 28, 28, seed=8) > 0).to(torch.uint8)
    path = {"betas": annealing.temperatures(3), "step_size": 0.1, "num_chains": 4}
    start = vae.encode(x.float())
    plain = annealing.ais(vae, x, start=start, generator=noise(1), **path)
    with torch.no_grad():
        assert torch.equal(plain.log_w, annealing.ais(vae, x, start=start, generator=noise(1), **path).log_w)


def test_a_generator_governs_the_chains_and_the_model_is_not_changed() -> None:
    model, vae = random_linear(60, 5, 2)
    x, before = randn(2, 5, seed=9), torch.random.get_rng_state()
    vae.train()
    path = {"start": prior(2, 2), "betas": annealing.temperatures(4), "num_leapfrog": 2}
    z, weights = posterior_samples(model, x, 3, seed=1), [p.detach().clone() for p in vae.parameters()]
    calls = (
        lambda seed: annealing.ais(vae, x, num_chains=3, step_size=0.4, generator=noise(seed), **path).log_w,
        lambda seed: annealing.reverse_ais(vae, x, z, step_size=0.4, generator=noise(seed), **path).log_w,
        lambda seed: annealing.tune_step_size(vae, x, generator=noise(seed), **path),
    )
    for call in calls:
        assert torch.equal(call(1), call(1))
        assert not torch.equal(call(1), call(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(old, new) for old, new in zip(weights, vae.parameters(), strict=True))
    assert all(p.grad is None for p in vae.parameters())
    assert not vae.training


def test_a_step_that_runs_away_is_rejected() -> None:
    vae, x = random_linear(70, 5, 2)[1], randn(2, 5, seed=9)
    path = {"start": prior(2, 2), "betas": annealing.temperatures(4), "num_chains": 5, "num_leapfrog": 40}
    wild = annealing.ais(vae, x, step_size=1e12, generator=noise(1), **path)  # 1e12 to the 80th: not a float
    one = annealing.ais(vae, x, start=prior(2, 2), betas=torch.tensor([0.0, 1.0]), step_size=1.0, num_chains=5,
                         generator=noise(1))  # fmt: skip
    assert (wild.acceptance == 0).all()
    assert_close(wild.log_w, one.log_w, 1e-12)  # a chain that stays where it is adds its increments to one ratio


def test_the_acceptance_is_in_the_order_of_the_temperatures_both_ways() -> None:
    model, vae = random_linear(80, 5, 2)
    x = randn(2, 5, seed=9)
    path = {"start": prior(2, 2), "betas": annealing.temperatures(4), "generator": noise(1)}
    path["step_size"] = torch.tensor([[1e-3], [1e-3], [1e3]])  # only the last transition is hopeless
    for result in (
        annealing.ais(vae, x, num_chains=5, **path),
        annealing.reverse_ais(vae, x, posterior_samples(model, x, 5, seed=1), **path),
    ):
        assert (result.acceptance[:2] > 0.99).all()
        assert (result.acceptance[2] < 0.01).all()


def test_bad_paths_are_refused() -> None:
    vae, x, z = linear_vae(exact=False), torch.zeros(3, D), torch.zeros(2, 3, 2)
    good = {"start": prior(3, 2), "betas": annealing.temperatures(3), "step_size": 0.1}

    def refused(*words: str | tuple[int, ...], x: Tensor = x, z: Tensor = z, **changes: object) -> None:
        path = {**good, **changes}
        assert_refused(lambda: annealing.reverse_ais(vae, x, z, **path), *words)
        if not {"z"} & set(words):
            assert_refused(lambda: annealing.ais(vae, x, num_chains=2, **path), *words)

    refused("start", "family", start=(torch.zeros(3, 2), torch.zeros(3, 2)))
    refused("start", (3, 2), (3, 1), start=MeanField(torch.zeros(3, 2), torch.zeros(3, 1)))
    refused("start", (3, 2), (2, 2), start=prior(2, 2))
    refused("start", (3, 2), (3, 3), start=prior(3, 3))
    refused("start", "family", start=torch.zeros(2, 2))
    refused("betas", betas=torch.tensor([0.0, 0.5]))
    refused("betas", betas=torch.tensor([0.1, 1.0]))
    refused("betas", betas=torch.tensor([0.0, 0.5, 0.5, 1.0]))
    refused("betas", betas=torch.tensor([0.0, math.nan, 1.0]))
    refused("betas", (1,), betas=torch.tensor([1.0]))
    refused("step_size", (2, 3), (3, 3), step_size=torch.ones(3, 3))
    refused("step_size", (1, 2, 3), step_size=torch.ones(1, 2, 3))
    for value in (0.0, -1.0, math.nan, math.inf):
        refused("step_size", step_size=value)
    refused("num_leapfrog", num_leapfrog=0)
    refused("x", "NaN", x=torch.full((3, D), math.nan))
    refused("z", (2, 3, 1), z=z[..., :1])
    refused("z", (3, 2), z=z[0])
    refused("z", (0, 3, 2), z=z[:0])
    assert_refused(lambda: annealing.ais(vae, x, num_chains=0, **good), "num_chains")
    tuning = {"start": prior(3, 2), "betas": annealing.temperatures(3)}
    for setting in ({"num_chains": 0}, {"num_rounds": 0}, {"target": 1.0}, {"target": 0.0}):
        assert_refused(lambda s=setting: annealing.tune_step_size(vae, x, **tuning, **s), next(iter(setting)))
    for setting in ({"num_steps": 0}, {"num_steps": 3, "sharpness": 0.0}, {"num_steps": 3, "sharpness": math.inf}):
        assert_refused(lambda s=setting: annealing.temperatures(**s), list(setting)[-1])


# every family and every prior


def mixture_model(seed: int) -> tuple[models.VAE, Tensor, Tensor]:
    """A linear decoder, Gaussian noise and a mixture prior; data, and their evidence, a mixture of Gaussians."""
    prior = GaussianMixture(2, 3).double()
    prior.logits.data, prior.log_var.data = randn(3, seed=seed), 0.5 * randn(3, 2, seed=seed + 1)
    prior.mu.data = 1.5 * randn(3, 2, seed=seed + 2)
    vae = models.linear_vae((4,), 2, prior=prior, likelihood=Gaussian(log_var=-0.5), family=FullRank).double()
    weight, bias = vae.decoder[0].weight.data, vae.decoder[0].bias.data
    x = randn(3, 4, seed=seed + 3)
    log_p = []
    for log_pi, mu, log_var in zip(prior.logits.log_softmax(0), prior.mu, prior.log_var, strict=True):
        covariance = weight @ torch.diag(log_var.exp()) @ weight.mT + math.exp(-0.5) * torch.eye(4).double()
        log_p.append(log_pi + torch.distributions.MultivariateNormal(weight @ mu + bias, covariance).log_prob(x))
    return vae, x, torch.stack(log_p).logsumexp(0).detach()


@pytest.mark.parametrize("family", ["mean field", "full rank"])
def test_the_evidence_of_a_mixture_prior_lies_between_the_chains(family: str) -> None:
    """Exact draws of the posterior from many weighted draws of the prior; 400 chains, within four standard errors."""
    torch.manual_seed(0)
    vae, x, log_evidence = mixture_model(90)
    start = vae.posterior(x) if family == "full rank" else prior(3, 2)
    path = {"start": start, "betas": annealing.temperatures(12), "num_leapfrog": 4}
    path["step_size"] = annealing.tune_step_size(vae, x, generator=noise(1), **path)
    lower = annealing.ais(vae, x, num_chains=400, generator=noise(2), **path).log_w
    assert_mean_is_one((lower - log_evidence).exp(), detects=0.4)
    many = vae.prior.sample(200_000, generator=noise(3))
    log_w = vae.log_p_x_given_z(x, many[:, None].expand(-1, 3, -1)).detach()
    chosen = torch.stack([w.softmax(0).multinomial(400, replacement=True, generator=noise(4)) for w in log_w.T], 1)
    upper = annealing.reverse_ais(vae, x, many[chosen], generator=noise(5), **path).log_w
    assert_mean_is_one((log_evidence - upper).exp(), detects=0.4)


def test_the_smallest_numbers_that_are_allowed_are_enough_and_the_defaults_are_documented() -> None:
    vae, x = linear_vae(exact=False), data(2)[0]
    path = {"start": prior(2, 2), "betas": annealing.temperatures(3)}
    step_size = annealing.tune_step_size(vae, x, num_chains=1, num_rounds=1, num_leapfrog=1, **path)
    result = annealing.ais(vae, x, num_chains=1, num_leapfrog=1, step_size=step_size, **path)
    assert result.log_w.shape == (1, 2)
    z = torch.zeros(1, 2, 2)
    assert annealing.reverse_ais(vae, x, z, num_leapfrog=1, step_size=step_size, **path).log_w.shape == (1, 2)
    for function in (annealing.ais, annealing.reverse_ais, annealing.tune_step_size, annealing.path):
        assert inspect.signature(function).parameters["num_leapfrog"].default == 10
    tuned = inspect.signature(annealing.tune_step_size).parameters
    assert (tuned["num_chains"].default, tuned["num_rounds"].default, tuned["target"].default) == (10, 2, 0.8)
