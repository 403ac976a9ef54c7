"""checks: exact on densities that are known, calibrated where nothing is wrong, and alarmed by each planted fault."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from oracles import assert_refused, randn
from torch import Tensor

from vae_tutorial import bounds, checks, gaussian
from vae_tutorial.flows import Composed, Coupling
from vae_tutorial.priors import FlowPrior, GaussianMixture

LogProb = Callable[[Tensor], Tensor]


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(num_latents: int, mean: float = 0.0, log_var: float = 0.0) -> LogProb:
    mu = torch.full((num_latents,), mean, dtype=torch.float64)
    return lambda z: gaussian.log_prob(z.double(), mu, torch.full_like(mu, log_var))


def mixture() -> GaussianMixture:
    """Three unequal components in two dimensions, none of them round."""
    prior = GaussianMixture(2, 3).double().requires_grad_(False)
    prior.logits.copy_(torch.tensor([0.0, 0.5, -0.5]))
    prior.mu.copy_(torch.tensor([[-1.5, -1.0], [1.0, 1.2], [1.5, -1.5]]))
    prior.log_var.copy_(torch.tensor([[-0.8, -1.5], [-1.2, -0.4], [-1.8, -1.0]]))
    return prior


def flow_prior() -> FlowPrior:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        flow = Composed([Coupling(2, 8), Coupling(2, 8, flip=True)]).double()
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return FlowPrior(flow).double().requires_grad_(False)


# --- Where nothing is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_latents", [1, 2])
def test_the_integral_of_a_normal_is_one_and_of_its_multiple_the_factor(num_latents: int) -> None:
    density = normal(num_latents, 0.7, -0.5)
    assert checks.integrates_to_one(density, num_latents).item() == pytest.approx(1, abs=1e-12)
    off = checks.integrates_to_one(lambda z: density(z) + 0.3, num_latents).item()
    assert off == pytest.approx(math.exp(0.3), abs=1e-12)


def test_the_integral_sees_what_lies_within_the_square_alone() -> None:
    half = checks.integrates_to_one(normal(1), 1, low=0.0, high=10.0, num_points=20001).item()
    assert half == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("num_latents", [1, 2])
def test_the_p_value_of_bins_is_uniform(num_latents: int) -> None:
    """200 sets of 1,000 right samples: mean within 4 standard errors of 1/2, and 5 % below 0.05 within 4 as well."""
    density = normal(num_latents, 0.3, 0.2)
    mu, log_var = torch.full((num_latents,), 0.3), torch.full((num_latents,), 0.2)
    z = gaussian.sample(mu.double(), log_var.double(), 200_000, generator=noise(0)).view(200, 1000, num_latents)
    p = torch.stack([checks.samples_match(density, points, num_cells=200) for points in z])
    assert abs(p.mean() - 0.5) < 4 * (1 / 12 / 200) ** 0.5
    assert abs((p < 0.05).double().mean() - 0.05) < 4 * (0.05 * 0.95 / 200) ** 0.5
    assert p.var() == pytest.approx(1 / 12, rel=0.35)


def test_the_p_value_of_the_scores_is_uniform() -> None:
    """In six dimensions, on 300 sets of 2,000."""
    z = randn(300, 2000, 6, seed=1)
    p = torch.stack([checks.scores_match(normal(6), points, generator=noise(i)) for i, points in enumerate(z)])
    assert abs(p.mean() - 0.5) < 4 * (1 / 12 / 300) ** 0.5
    assert abs((p < 0.05).double().mean() - 0.05) < 4 * (0.05 * 0.95 / 300) ** 0.5


def test_pearsons_statistic_is_the_textbooks() -> None:
    """Two bins, 60 against 40 where halves are due: X^2 = 4 with one degree of freedom, p = 0.0455."""
    z = torch.cat([torch.full((60, 1), -1.0), torch.full((40, 1), 1.0)])
    p = checks.samples_match(normal(1), z, num_bins=2).item()
    assert p == pytest.approx(math.erfc(math.sqrt(2)), abs=1e-6)


def test_bins_hold_equal_shares_of_a_density() -> None:
    """Every bin expects the same number, up to a cell: samples evenly over the quantiles fit perfectly."""
    u = (torch.arange(6400, dtype=torch.float64) + 0.5) / 6400
    z = math.sqrt(2) * torch.erfinv(2 * u - 1)
    assert checks.samples_match(normal(1), z[:, None]).item() > 0.999


def test_a_classifier_guesses_where_there_is_nothing_to_see() -> None:
    """Ten pairs of equal sets: the mean accuracy within 4 standard errors of 1/2; far sets are always told apart."""
    pairs = randn(10, 2, 400, 6, seed=2)
    found = [checks.classifier(*pair, generator=noise(i)) for i, pair in enumerate(pairs)]
    mean = sum(f.accuracy for f in found) / 10
    assert abs(mean - 0.5) < 4 * 0.5 / (10 * 400) ** 0.5
    tracked = checks.classifier(
        *pairs[0].clone().requires_grad_(), generator=noise(0)
    )  # samples of a model have a graph
    assert tracked == found[0]
    assert found[0].standard_error == pytest.approx((found[0].accuracy * (1 - found[0].accuracy) / 400) ** 0.5)
    far = checks.classifier(pairs[0, 0], pairs[0, 1] + 3, generator=noise(0))
    assert far.accuracy > 0.98


def test_a_classifier_reaches_the_best_accuracy_that_there_is() -> None:
    """Two normals one standard deviation apart: the best rule is right with probability Phi(1/2) = 0.691."""
    first, second = randn(2, 8000, 1, seed=3)
    found = checks.classifier(first, second + 1, generator=noise(0))
    assert found.accuracy == pytest.approx(0.5 * (1 + math.erf(0.5 / math.sqrt(2))), abs=0.02)


def test_the_generator_governs_and_the_global_one_is_left_alone() -> None:
    z, before = randn(1000, 2, seed=4), torch.random.get_rng_state()
    assert torch.equal(*(checks.scores_match(normal(2), z, generator=noise(1)) for _ in range(2)))
    assert checks.classifier(z, z + 0.3, generator=noise(1)) == checks.classifier(z, z + 0.3, generator=noise(1))
    assert torch.equal(torch.random.get_rng_state(), before)


# --- The planted faults ----------------------------------------------------------------------------------------------


def logsumexp_per_dimension(z: Tensor) -> Tensor:
    """A mixture's density with the sum over components taken in each coordinate by itself."""
    prior = mixture()
    parts = gaussian.log_prob(z.unsqueeze(-2).unsqueeze(-1), prior.mu.unsqueeze(-1), prior.log_var.unsqueeze(-1))
    return (prior.logits.log_softmax(0)[:, None] + parts).logsumexp(-2).sum(-1)  # (..., M, J) -> (..., J) -> (...)


def log_determinant_in_each_dimension(z: Tensor) -> Tensor:
    """A flow's log-determinant subtracted inside the sum over J."""
    prior = flow_prior()
    eps, log_det = prior.flow.inverse(z)
    return (-0.5 * (eps.square() + math.log(2 * math.pi)) - log_det.unsqueeze(-1)).sum(-1)


def p_values(log_prob: LogProb, z: Tensor) -> tuple[float, float, float]:
    """Integral, p-value by bins, p-value by scores."""
    found = checks.integrates_to_one(log_prob), checks.samples_match(log_prob, z)
    return found[0].item(), found[1].item(), checks.scores_match(log_prob, z, generator=noise(9)).item()


@pytest.mark.parametrize("prior", [mixture(), flow_prior()], ids=["mixture", "flow"])
def test_a_sound_prior_passes_all_three(prior: GaussianMixture | FlowPrior) -> None:
    integral, bins, scores = p_values(prior.log_prob, prior.sample(5000, generator=noise(0)))
    assert integral == pytest.approx(1, abs=1e-5)
    assert min(bins, scores) > 0.01


def test_a_mixture_summed_in_each_dimension_is_seen_by_its_samples_alone() -> None:
    integral, bins, scores = p_values(logsumexp_per_dimension, mixture().sample(5000, generator=noise(0)))
    assert integral == pytest.approx(1, abs=1e-8)  # it is a density: of coordinates that know nothing of each other
    assert max(bins, scores) < 1e-6


def test_a_log_variance_exponentiated_into_a_standard_deviation_is_seen_by_the_samples() -> None:
    """Samples with sigma = exp(log_var) where the density is right; half mended, the integral sees it as well."""
    mu, log_var = torch.tensor([0.5, -0.5]).double(), torch.tensor([-0.5, 0.4]).double()
    z = mu + log_var.exp() * randn(5000, 2, seed=5)
    integral, bins, scores = p_values(lambda z: gaussian.log_prob(z, mu, log_var), z)
    assert integral == pytest.approx(1, abs=1e-8)
    assert max(bins, scores) < 1e-6

    def half_mended(z: Tensor) -> Tensor:  # the right log-determinant, the wrong distance
        return -0.5 * (math.log(2 * math.pi) + log_var + ((z - mu) / log_var.exp()).square()).sum(-1)

    expected = math.exp(0.5 * log_var.sum().item())  # the product of exp(log_var) / exp(log_var / 2)
    assert checks.integrates_to_one(half_mended).item() == pytest.approx(expected, abs=1e-8)
    assert abs(expected - 1) > 0.04


def test_a_log_determinant_counted_in_each_dimension_is_seen_by_the_integral_and_the_samples() -> None:
    prior = flow_prior()
    integral, bins, scores = p_values(log_determinant_in_each_dimension, prior.sample(5000, generator=noise(0)))
    assert abs(integral - 1) > 0.05
    assert max(bins, scores) < 1e-3


def test_weights_that_favour_the_worst_sample_are_seen_by_what_they_pick() -> None:
    """Samples of N(0, I) picked by their weights are from the mixture; picked by the inverse weights they are not."""
    target, proposal = mixture().log_prob, normal(2, 0.0, 1.0)
    z = math.exp(0.5) * randn(200_000, 2, seed=6)
    log_w = target(z) - proposal(z)
    assert bounds.iwae(log_w).exp().item() == pytest.approx(1, abs=0.02)
    assert bounds.iwae(-log_w).exp().item() > 1.5
    for sign, passes in ((1, True), (-1, False)):
        picked = (sign * log_w).softmax(0).multinomial(4000, replacement=True, generator=noise(7))
        assert (checks.samples_match(target, z[picked]).item() > 0.01) is passes
        assert (checks.scores_match(target, z[picked], generator=noise(8)).item() > 0.01) is passes


def test_a_prior_that_is_the_encoder_makes_no_joint_density() -> None:
    """Three bits with one latent: the sum over all x of the integral over z is 1 for p(z), and not for q(z given x)."""
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()  # (8, 3)
    weight, mu = torch.tensor([1.5, -1.0, 0.5]).double(), (bits @ torch.tensor([[0.8], [-0.6], [0.3]]).double())

    def log_p_x(z: Tensor) -> Tensor:  # (G, 1) -> (G, 8)
        logits = z * weight
        return -torch.nn.functional.softplus((1 - 2 * bits) * logits.unsqueeze(-2)).sum(-1)

    right = checks.integrates_to_one(lambda z: (log_p_x(z) + normal(1)(z)[:, None]).logsumexp(-1), 1).item()
    assert right == pytest.approx(1, abs=1e-10)
    log_q = lambda z: gaussian.log_prob(z[:, None], mu, torch.full_like(mu, -0.5))  # noqa: E731
    assert checks.integrates_to_one(lambda z: (log_p_x(z) + log_q(z)).logsumexp(-1), 1).item() > 1.1
    z = randn(5000, 1, seed=10)  # what a decoder is given to make new data
    assert checks.samples_match(lambda points: log_q(points)[:, 0], z).item() < 1e-6


# --- What is refused -------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    z, density = randn(1000, 2, seed=11), normal(2)
    assert_refused(lambda: checks.integrates_to_one(density, 3), "num_latents")
    assert_refused(lambda: checks.integrates_to_one(density, 2, low=1.0, high=1.0), "low", "high")
    assert_refused(lambda: checks.integrates_to_one(density, 2, num_points=1), "num_points")
    assert_refused(lambda: checks.integrates_to_one(lambda z: -z.square(), 2, num_points=5), "log_prob", (25, 2), (25,))
    assert_refused(lambda: checks.samples_match(density, z[:100]), "samples", (100, 2))
    assert_refused(lambda: checks.samples_match(density, z[:, 0]), "samples", (1000,))
    assert_refused(lambda: checks.samples_match(density, z / 0.0), "samples")
    assert_refused(lambda: checks.samples_match(normal(2, 0.02, -20.0), z), "num_cells")
    assert_refused(lambda: checks.scores_match(density, z[:499]), "samples", (499, 2))
    assert_refused(lambda: checks.scores_match(density, z, num_directions=0), "num_directions")
    assert_refused(lambda: checks.classifier(z, z[:, :1]), "first", "second", (1000, 2), (1000, 1))
    assert_refused(lambda: checks.classifier(z[:10], z[:10]), "first", (10, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_samples_and_of_the_density(dtype: torch.dtype) -> None:
    prior = mixture().to(dtype)
    z = prior.sample(1000, generator=noise(0))
    assert z.dtype == dtype
    assert 0 <= checks.samples_match(prior.log_prob, z).item() <= 1
    assert checks.integrates_to_one(prior.log_prob).dtype == torch.float64
    assert torch.isfinite(checks.scores_match(lambda z: prior.log_prob(z.to(dtype)), z, generator=noise(1)))
