"""families: log q from the noise and from the point, maps and their inverses, and what a network's outputs mean."""

import math

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn
from torch import Tensor, distributions

from vae_tutorial import families
from vae_tutorial.families import Family, FullRank, MeanField

K, B, J = 4, 3, 2


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_field(dtype: torch.dtype = torch.float64) -> MeanField:
    return MeanField(randn(B, J, seed=1, dtype=dtype), randn(B, J, seed=2, dtype=dtype))


def full_rank(dtype: torch.dtype = torch.float64) -> FullRank:
    return FullRank(randn(B, J, seed=1, dtype=dtype), 0.7 * randn(B, J, J, seed=3, dtype=dtype))


FAMILIES = {"mean field": mean_field, "full rank": full_rank}
every_family = pytest.mark.parametrize("name", FAMILIES)


def oracle(q: Family) -> distributions.Distribution:
    return distributions.MultivariateNormal(q.mean, q.covariance())


@every_family
def test_the_density_is_the_textbooks(name: str) -> None:
    q, z = FAMILIES[name](), randn(K, B, J, seed=4)
    assert_close(q.log_prob(z), oracle(q).log_prob(z), 1e-10)
    assert q.log_prob(z[0]).shape == (B,)


@every_family
def test_log_q_from_the_noise_is_log_q_at_the_point(name: str) -> None:
    q = FAMILIES[name]()
    z, log_q_z = q.sample_and_log_prob(K, generator=noise(0))
    assert_close(log_q_z, q.log_prob(z), 1e-10)
    assert torch.equal(z, q.sample(K, generator=noise(0)))
    assert torch.equal(z, q.latents(q.noise(K, generator=noise(0))))


@every_family
def test_log_q_from_the_noise_is_the_change_of_variables(name: str) -> None:
    """log N(eps; 0, I) minus the log-determinant of the map's Jacobian, by automatic differentiation."""
    q, eps = FAMILIES[name]().take(torch.tensor([1])), randn(1, 1, J, seed=5)
    jacobian = torch.autograd.functional.jacobian(lambda e: q.latents(e.view(1, 1, J)).flatten(), eps.flatten())
    log_n = distributions.Normal(0.0, 1.0).log_prob(eps).sum(-1)
    assert_close(q.transform(eps)[1], log_n - torch.linalg.slogdet(jacobian).logabsdet, 1e-10)


def test_where_sigma_is_tiny_the_noise_knows_better() -> None:
    """mu = 30, sigma = 0.0025 in single precision: from the point log q is off by up to 1e-3, from eps it is not."""
    log_var = math.log(0.0025**2)
    q = MeanField(torch.full((1, 1), 30.0), torch.full((1, 1), log_var))
    full = FullRank(q.mu, torch.full((1, 1, 1), log_var / 2))
    eps = q.noise(200, generator=noise(0))
    exact = -0.5 * (math.log(2 * math.pi) + log_var + eps.double().square().sum(-1))
    for family in (q, full):
        z, log_q_z = family.transform(eps)
        assert (log_q_z - exact).abs().max() < 1e-5
        assert (family.log_prob(z) - exact).abs().max() > 5e-4


@every_family
def test_the_inverse_undoes_the_map(name: str) -> None:
    q, eps = FAMILIES[name](), randn(K, B, J, seed=6)
    assert_close(q.inverse(q.latents(eps)), eps, 1e-12)


@every_family
def test_samples_have_the_mean_and_covariance(name: str) -> None:
    """200,000 draws, within four standard errors."""
    q = FAMILIES[name]()
    z = q.sample(200_000, generator=noise(1))
    cov = q.covariance()
    assert ((z.mean(0) - q.mean).abs() < 4 * (cov.diagonal(dim1=1, dim2=2) / 200_000).sqrt()).all()
    for b in range(B):
        assert (torch.cov(z[:, b].mT) - cov[b]).abs().max() < 4 * cov[b].max() * (2 / 200_000) ** 0.5


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_precision_and_gradients(name: str, dtype: torch.dtype) -> None:
    q = FAMILIES[name](dtype)
    z, log_q_z = q.sample_and_log_prob(K)
    assert z.shape == q.noise(K).shape == (K, B, J)
    assert log_q_z.shape == (K, B)
    assert {t.dtype for t in (z, log_q_z, q.log_prob(z), q.inverse(z), q.covariance())} == {dtype}
    eps = randn(K, B, J, seed=7, dtype=dtype)

    def both(*parts: Tensor) -> Tensor:
        z, log_q_z = type(q)(*parts).transform(eps)
        return z.sum(-1) + log_q_z

    assert_finite_gradients(both, *q)
    taken = q.take(torch.tensor([2, 0]))
    assert torch.equal(taken.mean, q.mean[[2, 0]])
    assert_close(taken.log_prob(z[:, [2, 0]]), q.log_prob(z)[:, [2, 0]])


@pytest.mark.parametrize("num_latents", [1, 2, 3, 7])
def test_a_networks_outputs_are_a_family(num_latents: int) -> None:
    """Typed out: the means, then 12 tanh(r / 12); or 6 tanh(r / 6) on the diagonal and the rest, row by row, below it."""
    size = families.MeanField.num_outputs(num_latents)
    assert size == 2 * num_latents
    outputs = randn(B, size, seed=8)
    q = MeanField.from_outputs(outputs)
    assert torch.equal(q.mu, outputs[:, :num_latents])
    assert_close(q.log_var, 12 * torch.tanh(outputs[:, num_latents:] / 12))
    size = FullRank.num_outputs(num_latents)
    assert size == num_latents + num_latents * (num_latents + 1) // 2
    outputs = randn(B, size, seed=9).requires_grad_()
    full = FullRank.from_outputs(outputs)
    below = iter(range(2 * num_latents, size))
    for i in range(num_latents):
        assert_close(full.log_cholesky[:, i, i], 6 * torch.tanh(outputs[:, num_latents + i] / 6))
        for j in range(i):
            assert torch.equal(full.log_cholesky[:, i, j], outputs[:, next(below)])
        assert (full.log_cholesky[:, i, i + 1 :] == 0).all()
    (gradient,) = torch.autograd.grad(full.log_prob(randn(B, num_latents, seed=10)).sum(), outputs)
    assert (gradient != 0).all()


@pytest.mark.parametrize("raw", [-1e4, -60.0, 60.0, 1e4])
@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_whatever_a_network_says_the_bound_stays_finite(family: type, raw: float) -> None:
    outputs = torch.zeros(1, family.num_outputs(2))
    outputs[:, 2:4] = raw
    q = family.from_outputs(outputs)
    z, log_q_z = q.sample_and_log_prob(5, generator=noise(0))
    assert z.isfinite().all()
    assert log_q_z.isfinite().all()
    assert q.covariance().isfinite().all()


def test_the_free_families_start_at_the_standard_normal() -> None:
    for q in (families.mean_field(5, 3), families.full_rank(5, 3)):
        assert torch.equal(q.covariance().detach(), torch.eye(3).double().expand(5, 3, 3))
        assert all(part.is_leaf and part.requires_grad and part.dtype == torch.float64 for part in q)
        assert (q.mean == 0).all()
    assert families.full_rank(1, 1, dtype=torch.float32).mu.dtype == torch.float32


def test_every_covariance_has_one_log_cholesky_factor() -> None:
    root = randn(J, J, seed=11)
    covariance = root @ root.mT + 0.1 * torch.eye(J).double()
    factor = torch.linalg.cholesky(covariance)
    log_cholesky = factor.tril(-1) + factor.diagonal().log().diag()
    assert_close(families.scale_tril(log_cholesky), factor)
    assert_close(families.scale_tril(log_cholesky + randn(J, J, seed=12).triu(1)), factor)  # above it nothing is read


def test_bad_sizes_are_refused() -> None:
    for wrong in (0, -1, 1.5):
        assert_refused(lambda w=wrong: families.mean_field(w, 2), "num_data")
        assert_refused(lambda w=wrong: families.full_rank(2, w), "num_latents")
        for q in (mean_field(), full_rank()):
            for draw in (q.noise, q.sample, q.sample_and_log_prob):
                assert_refused(lambda w=wrong, d=draw: d(w), "num_samples")

    def refused(shape: tuple[int, ...]) -> None:
        assert_refused(lambda: families.scale_tril(torch.zeros(shape)), "log_cholesky", shape)

    refused((2,))
    refused((2, 3))


def test_a_generator_governs_all() -> None:
    before = torch.random.get_rng_state()
    for q in (mean_field(), full_rank()):
        draws: list[Tensor] = [q.sample(2, generator=noise(seed)) for seed in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.random.get_rng_state(), before)
