"""aggregated: the terms of the average KL against their definitions, summed on grids and in plain loops."""

import math

import pytest
import torch
from linear_vaes import noise, posteriors
from oracles import assert_close, assert_refused, elementwise, normal_log_density, randn
from torch import Tensor

from vae_tutorial import aggregated, families, gaussian, models, quadrature
from vae_tutorial.families import Flowed, MeanField
from vae_tutorial.flows import Planar
from vae_tutorial.priors import GaussianMixture, VampPrior


def log_prob_of(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    return aggregated.log_prob(z, MeanField(mu, log_var))


def terms_of(mu: Tensor, log_var: Tensor, z: Tensor, log_weight: Tensor | None = None) -> aggregated.Terms:
    return aggregated.terms(MeanField(mu, log_var), z, log_weight=log_weight)


def integrals_of(mu: Tensor, log_var: Tensor, **settings: float) -> aggregated.Terms:
    return aggregated.integrals(MeanField(mu, log_var), **settings)


def test_the_aggregated_posterior_is_the_mean_of_the_densities() -> None:
    mu, log_var = posteriors(5, 2)
    z = 2 * randn(3, 4, 2, seed=40)
    densities = torch.zeros(3, 4, dtype=torch.float64)
    for m, v in zip(mu, log_var.exp(), strict=True):
        each = [elementwise(normal_log_density, z[..., j], m[j], v[j]) for j in range(2)]
        densities += (each[0] + each[1]).exp() / 5
    log_q = log_prob_of(z, mu, log_var)
    assert_close(log_q, densities.log(), 1e-12)
    assert_close(log_prob_of(z[0, 0], mu, log_var), log_q[0, 0])
    far = log_prob_of(torch.full((1, 2), 1e4).double(), mu, log_var)
    assert far.isfinite().all()
    assert log_prob_of(z.float(), mu.float(), log_var.float()).dtype == torch.float32


def test_the_aggregated_posterior_refuses_points_of_another_dimension() -> None:
    mu = torch.zeros(4, 2)
    for shape in [(3, 1), (3, 4), ()]:
        refused = torch.zeros(shape)
        assert_refused(lambda z=refused: log_prob_of(z, mu, mu), "z", "posteriors", shape, (4, 2))


def terms_by_integration(mu: Tensor, log_var: Tensor, *, step: float) -> tuple[float, float, float]:
    """The three terms in one dimension from their definitions, each a plain sum over one fine grid of densities."""
    z = torch.arange(-40, 40, step, dtype=torch.float64)[:, None]
    log_q_n = -0.5 * (math.log(2 * math.pi) + log_var.mT + (z - mu.mT) ** 2 / log_var.mT.exp())  # (G, N)
    log_q = log_q_n.exp().mean(1, keepdim=True).clamp_min(1e-300).log()
    log_p = -0.5 * (math.log(2 * math.pi) + z**2)
    mean_kl = step * (log_q_n.exp() * (log_q_n - log_p)).sum(0).mean()
    information = step * (log_q_n.exp() * (log_q_n - log_q)).sum(0).mean()
    marginal = step * (log_q.exp() * (log_q - log_p)).sum()
    return mean_kl.item(), information.item(), marginal.item()


def three(terms: aggregated.Terms) -> Tensor:
    return torch.stack(terms[:3])


def nodes_of(mu: Tensor, log_var: Tensor, num_nodes: int = 20) -> aggregated.Terms:
    return terms_of(mu, log_var, *quadrature.gaussian_nodes(mu, log_var, num_nodes))


def grids_of(mu: Tensor, log_var: Tensor) -> aggregated.Terms:
    return integrals_of(mu, log_var, num_points=501)


METHODS = {"nodes": nodes_of, "grids": grids_of}


@pytest.mark.parametrize("num_data", [1, 2, 7, 40])
def test_on_grids_each_term_is_its_definition(num_data: int) -> None:
    mu, log_var = posteriors(num_data, 1)
    terms = integrals_of(mu, log_var)
    assert_close(three(terms), torch.tensor(terms_by_integration(mu, log_var, step=0.01), dtype=torch.float64), 1e-10)
    assert terms.mutual_information_error == terms.marginal_kl_error == 0


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_two_gaussians_by_nodes_and_by_samples_against_the_grid(separation: float) -> None:
    mu, log_var = torch.tensor([[-separation / 2], [separation / 2]]).double(), torch.zeros(2, 1).double()
    exact = torch.tensor(terms_by_integration(mu, log_var, step=0.01), dtype=torch.float64)
    assert_close(three(nodes_of(mu, log_var, 200)), exact, 2e-5)  # the logarithm of two humps is no polynomial
    z = gaussian.sample(mu, log_var, 40_000, generator=noise(25))
    terms = terms_of(mu, log_var, z)
    assert_close(terms.mean_kl, exact[0], 1e-12)
    errors = torch.stack(terms[3:])
    assert (errors < 0.02).all()
    assert ((three(terms)[1:] - exact[1:]).abs() <= 4 * errors + 1e-12).all()


@pytest.mark.parametrize(("num_data", "num_latents"), [(1, 1), (2, 1), (50, 1), (1, 2), (3, 2), (60, 2)])
def test_the_identity_holds_to_1e_10_between_two_grids_and_a_closed_form(num_data: int, num_latents: int) -> None:
    terms = integrals_of(*posteriors(num_data, num_latents))
    assert terms.mean_kl > 0.5
    assert (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs() < 1e-10
    assert 0 <= terms.mutual_information + 1e-12 <= math.log(num_data) + 1e-10
    assert terms.marginal_kl > 0.05


def test_the_two_integrals_have_a_grid_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one common grid an error in log q would cancel from the sum of the two, and the identity would check less."""
    cells, grid = [], aggregated._grid

    def recorded(*args: object) -> aggregated._Grid:
        cells.append(grid(*args).cell)
        return grid(*args)

    monkeypatch.setattr(aggregated, "_grid", recorded)
    integrals_of(*posteriors(5, 1), num_points=400)
    assert len(cells) == len(set(cells)) == 2


def test_the_integrals_are_summed_in_double_precision() -> None:
    mu, log_var = (tensor.float() for tensor in posteriors(30, 2))
    terms = integrals_of(mu, log_var)
    assert_close(three(terms).double(), three(integrals_of(mu.double(), log_var.double())), 2e-7)


def test_on_grids_too_coarse_for_the_posteriors_the_identity_fails() -> None:
    mu, log_var = posteriors(20, 2)
    for sigma, fails in [(1.0, False), (0.5, False), (0.02, True)]:  # points 0.24, 0.3 and 3 sigma apart
        terms = integrals_of(mu, log_var * 0 + 2 * math.log(sigma), num_points=100)
        gap = (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs()
        assert (gap > 1e-3) == fails
        assert fails or gap < 1e-9


def test_a_dimension_in_which_every_posterior_is_the_prior_changes_nothing() -> None:
    mu, log_var = posteriors(9, 1)
    zero = torch.zeros_like(mu)
    one = integrals_of(mu, log_var)
    two = integrals_of(torch.cat([zero, mu], 1), torch.cat([zero, log_var], 1))
    assert_close(three(two), three(one), 1e-10)


def test_with_nodes_the_identity_holds_to_1e_10_in_one_two_and_three_dimensions() -> None:
    for num_latents, num_nodes in [(1, 40), (2, 12), (3, 6)]:
        terms = nodes_of(*posteriors(15, num_latents), num_nodes)
        assert (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs() < 1e-10
        assert terms.mutual_information_error == terms.marginal_kl_error == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_latents", [1, 2])
def test_posteriors_that_are_all_equal_carry_no_information(method: str, num_latents: int) -> None:
    mu, log_var = (tensor.expand(8, -1) for tensor in posteriors(1, num_latents))
    terms = METHODS[method](mu, log_var)
    assert abs(terms.mutual_information) < 1e-12
    assert_close(terms.marginal_kl, terms.mean_kl, 1e-10)
    assert terms.mean_kl > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_latents", [1, 2])
def test_posteriors_that_equal_the_prior_make_every_term_zero(method: str, num_latents: int) -> None:
    zero = torch.zeros(8, num_latents).double()
    assert three(METHODS[method](zero, zero)).abs().max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_data", [2, 5])
def test_posteriors_far_apart_carry_log_n(method: str, num_data: int) -> None:
    mu = 30 * torch.arange(num_data, dtype=torch.float64)[:, None]
    terms = METHODS[method](mu, torch.zeros_like(mu))
    assert abs(terms.mutual_information - math.log(num_data)) < 1e-10
    assert_close(terms.marginal_kl, terms.mean_kl - math.log(num_data), 1e-10)


def test_the_information_is_at_most_log_n_in_every_sample_and_in_a_minibatch_too() -> None:
    mu = 1000 * randn(64, 3, seed=26)
    z = gaussian.sample(mu, torch.zeros_like(mu), 3, generator=noise(27))
    for size in (64, 16, 4, 1):
        terms = terms_of(mu[:size], torch.zeros(size, 3).double(), z[:, :size])
        assert_close(terms.mutual_information, torch.tensor(math.log(size), dtype=torch.float64), 1e-10)


def test_by_samples_in_32_dimensions_against_plain_loops() -> None:
    mu, log_var = 0.4 * randn(7, 32, seed=28), 0.3 * randn(7, 32, seed=29)
    z = gaussian.sample(mu, log_var, 5, generator=noise(30))
    information, marginal = torch.empty(5, 7).double(), torch.empty(5, 7).double()
    for k in range(5):
        for n in range(7):
            each = [
                sum(
                    normal_log_density(z[k, n, j].item(), mu[m, j].item(), log_var[m, j].exp().item())
                    for j in range(32)
                )
                for m in range(7)
            ]
            log_q = math.log(sum(math.exp(v) for v in each) / 7)
            log_p = sum(normal_log_density(value, 0.0, 1.0) for value in z[k, n].tolist())
            information[k, n], marginal[k, n] = each[n] - log_q, log_q - log_p
    terms = terms_of(mu, log_var, z)
    assert_close(three(terms)[1:], torch.stack([information.mean(), marginal.mean()]), 1e-11)
    errors = [sum(v[:, n].var().item() / 5 for n in range(7)) ** 0.5 / 7 for v in (information, marginal)]
    assert_close(torch.stack(terms[3:]), torch.tensor(errors, dtype=torch.float64), 1e-10)


def test_the_standard_errors_are_the_spread_over_repeats() -> None:
    """200 repeats give the spread to 5 %; errors that forget that N posteriors are averaged are 2.4 times too large."""
    mu, log_var = posteriors(6, 2)
    exact = three(integrals_of(mu, log_var))
    repeats = [
        torch.stack(terms_of(mu, log_var, gaussian.sample(mu, log_var, 50, generator=g)))
        for g in map(noise, range(200))
    ]
    values, errors = torch.stack(repeats)[:, 1:3], torch.stack(repeats)[:, 3:]
    assert ((values.std(0) / errors.square().mean(0).sqrt() - 1).abs() < 0.2).all()
    assert ((values.mean(0) - exact[1:]).abs() < 4 * values.std(0) / 200**0.5).all()


@pytest.mark.parametrize("budget", [1, 100, 2**22])
def test_chunks_change_no_term_and_bound_the_memory(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The density of the mixture compares points (chunk, 1, J) with posteriors (N, J): chunk times N times J numbers."""
    mu, log_var = posteriors(11, 4)
    z = gaussian.sample(mu, log_var, 6, generator=noise(31))
    expected = terms_of(mu, log_var, z)
    chunks, log_prob = [], gaussian.log_prob

    def recorded(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        chunks.extend([len(z)] * (z.shape[1] == 1))
        return log_prob(z, mu, log_var)

    monkeypatch.setattr(gaussian, "log_prob", recorded)
    monkeypatch.setattr(aggregated, "MAX_NUMBERS", budget)
    assert_close(torch.stack(terms_of(mu, log_var, z)), torch.stack(expected))
    assert sum(chunks) == 66
    assert max(chunks) == min(66, max(1, budget // 44))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_data_points_and_of_the_dimensions_does_not_matter(method: str) -> None:
    mu, log_var = posteriors(12, 2)
    order = torch.randperm(12, generator=noise(32))
    expected = torch.stack(METHODS[method](mu, log_var))
    assert_close(torch.stack(METHODS[method](mu[order], log_var[order])), expected, 1e-11)
    assert_close(torch.stack(METHODS[method](mu.flip(1), log_var.flip(1))), expected, 1e-11)
    repeated = torch.stack(METHODS[method](mu.repeat(2, 1), log_var.repeat(2, 1)))  # every point twice: the same q
    assert_close(repeated, expected, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_are_five_scalars_in_the_precision_of_mu_without_gradients(dtype: torch.dtype) -> None:
    mu, log_var = (tensor.to(dtype).requires_grad_() for tensor in posteriors(10, 2))
    z = gaussian.sample(mu, log_var, 4, generator=noise(33))
    exact = integrals_of(*(t.detach().double() for t in (mu, log_var)))
    for terms in (integrals_of(mu, log_var), nodes_of(mu, log_var, 20)):
        assert_close(three(terms).double(), three(exact), 5e-3)
    for terms in (*[METHODS[m](mu, log_var) for m in METHODS], terms_of(mu, log_var, z)):
        assert all(term.shape == () and term.dtype == dtype and not term.requires_grad for term in terms)
        assert_close(terms.mean_kl.double(), exact.mean_kl, 1e-6)


def test_extreme_posteriors_give_finite_terms() -> None:
    mu = torch.tensor([[1e3, -1e3], [0.0, 0.0], [-1e3, 1e3]]).double()
    for log_var, tolerance in [(-60.0, 1e-5), (-20.0, 1e-10), (0.0, 1e-10), (12.0, 1e-10)]:  # z keeps 16 digits
        terms = nodes_of(mu, torch.full_like(mu, log_var), 10)
        assert torch.stack(terms).isfinite().all()
        assert_close(terms.mutual_information + terms.marginal_kl, terms.mean_kl, tolerance)
        assert terms.mutual_information <= math.log(3) + 1e-9
    assert torch.stack(integrals_of(mu, torch.full_like(mu, -60.0))).isfinite().all()


def test_terms_refuse_shapes_that_do_not_fit() -> None:
    mu = torch.zeros(4, 2)

    def refused(
        mu: Tensor, log_var: Tensor, z: Tensor, log_weight: Tensor | None, *words: str | tuple[int, ...]
    ) -> None:
        assert_refused(lambda: terms_of(mu, log_var, z, log_weight), *words)

    refused(mu, torch.zeros(4, 1), torch.zeros(3, 4, 2), None, "mu", "log_var", (4, 2), (4, 1))
    refused(mu[0], mu[0], torch.zeros(3, 2), None, "posteriors", (2,))
    refused(mu[:0], mu[:0], torch.zeros(3, 0, 2), None, "posteriors", (0, 2))
    refused(mu, mu, torch.zeros(4, 2), None, "z", (4, 2))
    refused(mu, mu, torch.zeros(3, 1, 2), None, "z", (3, 1, 2))
    refused(mu, mu, torch.zeros(1, 4, 2), None, "z", "samples", (1, 4, 2))
    refused(mu, mu, torch.zeros(0, 4, 2), torch.zeros(0), "z", (0, 4, 2))
    refused(mu, mu, torch.zeros(3, 4, 2), torch.zeros(4), "z", "log_weight", (3, 4, 2), (4,))
    refused(mu, mu, torch.zeros(3, 4, 2), torch.zeros(()), "z", "log_weight", ())
    refused(mu * math.nan, mu, torch.zeros(3, 4, 2), None, "posteriors", "finite")
    refused(mu, mu + math.inf, torch.zeros(3, 4, 2), None, "posteriors", "finite")


def test_integrals_refuse_what_they_cannot_do() -> None:
    def refused(mu: Tensor, *words: str | tuple[int, ...], **settings: float) -> None:
        assert_refused(lambda: integrals_of(mu, mu, **settings), *words)

    refused(torch.zeros(4, 3), "mu", (4, 3))
    refused(torch.zeros(4), "posteriors", (4,))
    refused(torch.zeros(0, 2), "posteriors", (0, 2))
    refused(torch.zeros(4, 2) / 0, "posteriors", "finite")
    refused(torch.zeros(4, 2), "num_points", num_points=1)
    refused(torch.zeros(4, 2), "num_sigma", num_sigma=0.0)
    refused(torch.zeros(4, 2), "num_sigma", num_sigma=math.nan)


# every family and every prior


def mixture() -> GaussianMixture:
    prior = GaussianMixture(1, 3).double().requires_grad_(False)
    (
        prior.logits.copy_(randn(3, seed=60)),
        prior.mu.copy_(randn(3, 1, seed=61)),
        prior.log_var.copy_(randn(3, 1, seed=62)),
    )
    return prior


def test_with_another_prior_the_misfit_is_to_that_prior() -> None:
    """On grids, against the sums of the definitions; by samples, within four standard errors."""
    mu, log_var = posteriors(7, 1)
    z = torch.arange(-40, 40, 0.01, dtype=torch.float64)[:, None]
    log_q_n = -0.5 * (math.log(2 * math.pi) + log_var.mT + (z - mu.mT) ** 2 / log_var.mT.exp())
    log_q, log_p = log_q_n.exp().mean(1, keepdim=True).clamp_min(1e-300).log(), mixture().log_prob(z)[:, None]
    mean_kl = 0.01 * (log_q_n.exp() * (log_q_n - log_p)).sum(0).mean()
    marginal = 0.01 * (log_q.exp() * (log_q - log_p)).sum()
    exact = aggregated.integrals(MeanField(mu, log_var), prior=mixture())
    assert_close(torch.stack([exact.mean_kl, exact.marginal_kl]), torch.stack([mean_kl, marginal]), 1e-10)
    assert (exact.mean_kl - exact.mutual_information - exact.marginal_kl).abs() < 1e-10
    q = MeanField(mu, log_var)
    sampled = aggregated.terms(q, q.sample(20_000, generator=noise(1)), prior=mixture())
    assert (sampled.marginal_kl - marginal).abs() < 4 * sampled.marginal_kl_error < 0.02
    assert_close(sampled.mean_kl, sampled.mutual_information + sampled.marginal_kl, 1e-10)


def test_full_rank_posteriors_that_are_diagonal_give_the_mean_fields_terms() -> None:
    mu, log_var = posteriors(9, 2)
    diagonal, full = MeanField(mu, log_var), families.FullRank(mu, (0.5 * log_var).diag_embed())
    z = diagonal.sample(5, generator=noise(2))
    assert_close(torch.stack(aggregated.terms(full, z)), torch.stack(aggregated.terms(diagonal, z)), 1e-10)
    assert_refused(lambda: aggregated.integrals(full), "MeanField", "FullRank")


def test_correlated_posteriors_against_their_definition() -> None:
    mu, log_cholesky = randn(4, 2, seed=63), 0.5 * randn(4, 2, 2, seed=64)
    q = families.FullRank(mu, log_cholesky)
    factors = families.scale_tril(log_cholesky)
    oracles = [torch.distributions.MultivariateNormal(m, scale_tril=f) for m, f in zip(mu, factors, strict=True)]
    z = q.sample(3, generator=noise(3))
    each = torch.stack([oracle.log_prob(z) for oracle in oracles], -1)  # (3, 4, 4)
    log_q = each.exp().mean(-1).log()
    information = (each.diagonal(dim1=1, dim2=2) - log_q).mean()
    found = aggregated.terms(q, z)
    assert_close(found.mutual_information, information, 1e-10)
    normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    kl = torch.stack([torch.distributions.kl_divergence(oracle, normal) for oracle in oracles]).mean()
    assert_close(found.mean_kl, kl, 1e-10)


# --- A prior fitted afterwards ---------------------------------------------------------------------------------------


def test_a_fitted_gaussian_has_the_moments_of_the_aggregated_posterior() -> None:
    """The best single Gaussian, by the mean and the variance of the mixture of three unequal posteriors."""
    q = MeanField(torch.tensor([[-2.0], [0.5], [3.0]]).double(), torch.tensor([[-1.0], [0.3], [-0.5]]).double())
    prior = GaussianMixture(1, 1).double()
    course = aggregated.fit_prior(
        prior, q, num_steps=800, batch_size=1000, learning_rate=0.05, generator=torch.Generator().manual_seed(0)
    )
    mean = q.mu.mean()
    variance = (q.log_var.exp() + q.mu.square()).mean() - mean.square()
    assert course.shape == (800,)
    assert abs(prior.mu.item() - mean.item()) < 0.05
    assert abs(prior.log_var.exp().item() / variance.item() - 1) < 0.05
    expected = -0.5 * (math.log(2 * math.pi * variance.item()) + 1)
    assert abs(course[-100:].mean().item() - expected) < 0.02


def test_fitting_a_prior_leaves_a_shared_encoder_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = models.mlp_vae((4,), 2, 8, prior=VampPrior(2, 3, (4,)))
    before = {name: parameter.detach().clone() for name, parameter in vae.named_parameters()}
    q = vae.posterior(torch.eye(4))
    aggregated.fit_prior(vae.prior, q, num_steps=5, generator=torch.Generator().manual_seed(0))
    moved = {name for name, parameter in vae.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"prior.raw"}
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())


def test_the_generator_governs_the_fit_and_every_posterior_takes_part() -> None:
    q = MeanField(torch.tensor([[-9.0], [9.0]]), torch.zeros(2, 1))

    def course(seed: int) -> Tensor:
        prior = GaussianMixture(1, 1)
        prior.mu.data.zero_()
        return aggregated.fit_prior(prior, q, num_steps=3, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(course(1), course(1))
    assert not torch.equal(course(1), course(2))
    assert abs(course(1)[0].item() + 0.5 * math.log(2 * math.pi) + 41) < 4  # E z^2 / 2 = (81 + 1) / 2, from both sides


def test_a_fit_of_nothing_is_refused() -> None:
    q = MeanField(torch.zeros(3, 2), torch.zeros(3, 2))
    assert_refused(lambda: aggregated.fit_prior(GaussianMixture(2, 2), q, num_steps=0), "num_steps")
    assert_refused(lambda: aggregated.fit_prior(GaussianMixture(2, 2), q, batch_size=0), "batch_size")
    empty = MeanField(torch.zeros(0, 2), torch.zeros(0, 2))
    assert_refused(lambda: aggregated.fit_prior(GaussianMixture(2, 2), empty), (0, 2))


def test_the_aggregated_posterior_of_a_flow_family_has_a_density() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = models.mlp_vae((4,), 2, 8, family=Flowed(Planar(2)))
    q = vae.posterior(torch.eye(4))
    z = randn(5, 2, seed=1, dtype=torch.float32)
    assert_close(aggregated.log_prob(z, q), q.log_prob(z[:, None]).logsumexp(-1).detach() - math.log(4), 1e-5)
