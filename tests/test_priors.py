"""priors: densities that integrate to one, samples that are from them, and gradients that reach every parameter."""

import math

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn, trapezoid_grid
from torch import Tensor, distributions

from vae_tutorial.priors import GaussianMixture, Prior, StandardNormal


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(num_latents: int, num_components: int = 3) -> GaussianMixture:
    """Weights, means and variances all different."""
    prior = GaussianMixture(num_latents, num_components).double().requires_grad_(False)
    prior.logits.copy_(randn(num_components, seed=1))
    prior.mu.copy_(1.5 * randn(num_components, num_latents, seed=2))
    prior.log_var.copy_(0.5 * randn(num_components, num_latents, seed=3) - 0.3)
    return prior


PRIORS = {"normal": lambda num_latents: StandardNormal(num_latents).double(), "mixture": mixture}
every_prior = pytest.mark.parametrize("name", PRIORS)


def oracle(prior: Prior) -> distributions.Distribution:
    if isinstance(prior, StandardNormal):
        zero = torch.zeros(prior.num_latents, dtype=torch.float64)
        return distributions.Independent(distributions.Normal(zero, 1.0), 1)
    parts = distributions.Independent(distributions.Normal(prior.mu, (prior.log_var / 2).exp()), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(logits=prior.logits), parts)


@every_prior
@pytest.mark.parametrize("num_latents", [1, 2])
def test_a_prior_integrates_to_one(name: str, num_latents: int) -> None:
    grid, cell = trapezoid_grid(num_latents, 12, 0.15)
    assert (PRIORS[name](num_latents).log_prob(grid).exp().sum() * cell).item() == pytest.approx(1, abs=1e-10)


@every_prior
def test_its_density_is_the_textbooks(name: str) -> None:
    prior, z = PRIORS[name](3), randn(4, 5, 3, seed=4)
    assert_close(prior.log_prob(z), oracle(prior).log_prob(z), 1e-12)
    assert prior.log_prob(z[0, 0]).shape == ()


@every_prior
def test_its_samples_are_from_it(name: str) -> None:
    """100,000 draws: means, second moments and the mean log-density, within four standard errors."""
    prior = PRIORS[name](2)
    z = prior.sample(100_000, generator=noise(0))
    assert z.shape == (100_000, 2)
    grid, cell = trapezoid_grid(2, 12, 0.15)
    mass = prior.log_prob(grid).exp() * cell
    for f in (lambda z: z[:, 0], lambda z: z[:, 1] ** 2, lambda z: z[:, 0] * z[:, 1], prior.log_prob):
        values = f(z)
        assert abs(values.mean() - mass @ f(grid)) < 4 * values.std() / 100_000**0.5


@every_prior
def test_a_generator_governs_the_samples(name: str) -> None:
    prior, before = PRIORS[name](2), torch.random.get_rng_state()
    assert torch.equal(prior.sample(5, generator=noise(1)), prior.sample(5, generator=noise(1)))
    assert not torch.equal(prior.sample(5, generator=noise(1)), prior.sample(5, generator=noise(2)))
    assert torch.equal(torch.random.get_rng_state(), before)


@every_prior
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_extremes_and_gradients(name: str, dtype: torch.dtype) -> None:
    prior = PRIORS[name](2).to(dtype)
    z = torch.tensor([[0.0, 0.0], [60.0, -60.0], [1e3, 1e3]], dtype=dtype)
    assert prior.log_prob(z).dtype == prior.sample(3).dtype == dtype
    assert_finite_gradients(prior.log_prob, z)


def test_every_parameter_of_a_mixture_has_a_gradient() -> None:
    prior = mixture(2).requires_grad_(True)
    prior.log_prob(randn(50, 2, seed=5)).mean().backward()
    assert all((p.grad.abs() > 0).all() for p in prior.parameters())


def test_maximum_likelihood_finds_two_groups() -> None:
    """The weights, means and variances of 4,000 points from a known mixture, by gradient steps."""
    z = torch.cat([randn(3000, 1, seed=6) * 0.5 - 2, randn(1000, 1, seed=7) * 1.2 + 3])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = GaussianMixture(1, 2).double()
    optimizer = torch.optim.Adam(prior.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-prior.log_prob(z).mean()).backward()
        optimizer.step()
    order = prior.mu[:, 0].argsort()
    weights, mu, sigma = prior.logits.softmax(0)[order], prior.mu[order, 0], (prior.log_var[order, 0] / 2).exp()
    for found, exact in ((weights, [0.75, 0.25]), (mu, [-2.0, 3.0]), (sigma, [0.5, 1.2])):
        assert_close(found.detach(), torch.tensor(exact, dtype=torch.float64), 0.08)


def test_points_that_no_component_can_explain_have_a_gradient_all_the_same() -> None:
    """So far out that every density is 0 in single precision: the logarithm is still finite, and so is its slope."""
    prior = GaussianMixture(1, 2)
    prior.log_var.data.fill_(-20.0)
    (gradient,) = assert_finite_gradients(prior.log_prob, torch.full((1, 1), 1e4))
    assert gradient.item() < 0


def test_a_mixture_starts_with_components_that_differ() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = GaussianMixture(3, 4)
    assert len(prior.mu.unique(dim=0)) == 4
    assert torch.equal(prior.logits.softmax(0), torch.full((4,), 0.25))
    one = GaussianMixture(3, 1).double()
    one.mu.data.zero_()
    z = randn(5, 3, seed=8)
    assert_close(one.log_prob(z).detach(), StandardNormal(3).double().log_prob(z), 1e-12)


def test_the_standard_normal_has_no_state_and_follows_the_model() -> None:
    prior = StandardNormal(2)
    assert prior.state_dict() == {}
    assert prior.double().sample(1).dtype == torch.float64
    expected = -math.log(2 * math.pi)
    assert prior.log_prob(torch.zeros(2, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-15)


def test_bad_sizes_and_shapes_are_refused() -> None:
    for wrong in (0, -1, 2.5):
        assert_refused(lambda w=wrong: StandardNormal(w), "num_latents")
        assert_refused(lambda w=wrong: GaussianMixture(2, w), "num_components")
        for prior in (StandardNormal(2), GaussianMixture(2, 2)):
            assert_refused(lambda w=wrong, p=prior: p.sample(w), "num_samples")

    def refused(prior: Prior, z: Tensor) -> None:
        assert_refused(lambda: prior.log_prob(z), "z", tuple(z.shape))

    refused(StandardNormal(2), torch.zeros(4, 3))
    refused(StandardNormal(2), torch.zeros(4, 1))
    assert_refused(lambda: GaussianMixture(2, 3).log_prob(torch.zeros(4, 1)), "z")
