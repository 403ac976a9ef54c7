"""variational: families in free parameters, and the loop, where the best q is known in closed form."""

import functools
import math

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, gauss_hermite, randn
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from vae_tutorial import bounds, families, full_gaussian, gaussian, gradients, item_response, quadrature, variational
from vae_tutorial.families import FullRank, MeanField

DTYPES = [torch.float32, torch.float64]
K, B, J = 4, 3, 2
FAMILIES = [families.mean_field, families.full_rank]
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.5, 0.9], [0.9, 0.8]], dtype=torch.float64)  # correlation 0.82
SCALE_TRIL = torch.linalg.cholesky(COVARIANCE)


def correlated(z: Tensor) -> Tensor:
    """log p(x, z) of a model with log p(x) = -7 and the posterior N(MEAN, COVARIANCE)."""
    return full_gaussian.log_prob(z, MEAN, SCALE_TRIL) - 7.0


def random_family(kind, seed: int, dtype: torch.dtype = torch.float64) -> MeanField | FullRank:
    q = kind(B, J, dtype=dtype)
    return type(q)(*((p.detach() + randn(*p.shape, seed=seed + i, dtype=dtype)) for i, p in enumerate(q)))


def cooling(done: float) -> float:
    """A schedule: the learning rate falls to a hundredth on the way."""
    return 0.01**done


# scale_tril


def test_scale_tril_is_its_equation() -> None:
    a = randn(B, 4, 4, seed=0)
    naive = torch.zeros(B, 4, 4, dtype=torch.float64)
    for b in range(B):
        for i in range(4):
            naive[b, i, i] = math.exp(a[b, i, i])
            for j in range(i):
                naive[b, i, j] = a[b, i, j]
    assert_close(families.scale_tril(a), naive)
    assert_close(families.scale_tril(a[0]), naive[0])


def test_every_covariance_has_its_free_parameters() -> None:
    matrix = randn(4, 4, seed=1)
    factor = torch.linalg.cholesky(matrix @ matrix.T + torch.eye(4, dtype=torch.float64))
    free = factor.tril(-1) + factor.diagonal().log().diag()
    assert_close(families.scale_tril(free), factor)


def test_scale_tril_reads_the_lower_triangle_only() -> None:
    a = randn(B, 4, 4, seed=2)
    assert_close(families.scale_tril(a + torch.ones(4, 4).triu(1)), families.scale_tril(a))
    (gradient,) = assert_finite_gradients(families.scale_tril, a)
    assert_close(gradient.triu(1), torch.zeros(B, 4, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(families.scale_tril, a.requires_grad_())


# the families


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_starts_at_the_prior(kind, dtype: torch.dtype) -> None:
    q = kind(B, J, dtype=dtype)
    z = randn(K, B, J, seed=3, dtype=dtype)
    assert_close(q.covariance().detach(), torch.eye(J, dtype=dtype).expand(B, J, J))
    zero = torch.zeros(J, dtype=dtype)
    assert_close(q.log_prob(z).detach(), gaussian.log_prob(z, zero, zero), 1e-6)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in q)
    assert q.mu.data_ptr() != q[1].data_ptr()


def test_mean_field_is_a_product_of_normals() -> None:
    q, z = random_family(families.mean_field, 4), randn(K, B, J, seed=6)
    expected = Independent(Normal(q.mu, (0.5 * q.log_var).exp()), 1)
    assert_close(q.log_prob(z), expected.log_prob(z))
    assert_close(q.covariance(), torch.diag_embed(expected.variance))


def test_full_rank_is_a_multivariate_normal() -> None:
    q, z = random_family(families.full_rank, 7), randn(K, B, J, seed=9)
    factor = q.log_cholesky.tril(-1) + torch.diag_embed(q.log_cholesky.diagonal(dim1=1, dim2=2).exp())
    expected = MultivariateNormal(q.mu, scale_tril=factor)
    assert_close(q.log_prob(z), expected.log_prob(z), 1e-11)
    assert_close(q.covariance(), expected.covariance_matrix, 1e-11)


@pytest.mark.parametrize("kind", FAMILIES)
def test_samples_follow_the_family(kind) -> None:
    """Means and covariances of 20,000 draws within 4.5 standard errors; gradients reach every parameter."""
    num_samples = 20_000
    q = random_family(kind, 10)
    z = q.sample(num_samples, generator=torch.Generator().manual_seed(0))
    assert z.shape == (num_samples, B, J)
    covariance = q.covariance()
    variance = covariance.diagonal(dim1=1, dim2=2)
    assert ((z.mean(0) - q.mu).abs() < 4.5 * (variance / num_samples).sqrt()).all()
    centred = z - q.mu
    found = torch.einsum("kbi,kbj->bij", centred, centred) / num_samples
    error = ((variance[:, :, None] * variance[:, None] + covariance**2) / num_samples).sqrt()
    assert ((found - covariance).abs() < 4.5 * error).all()
    leaves = type(q)(*(p.requires_grad_() for p in q))
    first, again = (leaves.sample(K, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(first, again)
    for gradient in torch.autograd.grad(first.square().sum(), leaves):
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_batch_is_some_of_the_factors(kind) -> None:
    q, index = random_family(kind, 13), torch.tensor([2, 0])
    z = randn(K, B, J, seed=15)
    batch = q.take(index)
    assert type(batch) is type(q)
    assert_close(batch.log_prob(z[:, index]), q.log_prob(z)[:, index])


# log_weights


@pytest.mark.parametrize("kind", FAMILIES)
def test_log_weights_are_the_log_joint_minus_log_q(kind) -> None:
    q = random_family(kind, 16)
    log_w = variational.log_weights(correlated, q, K, generator=torch.Generator().manual_seed(0))
    z = q.sample(K, generator=torch.Generator().manual_seed(0))
    assert_close(log_w, correlated(z) - q.log_prob(z))
    assert log_w.shape == (K, B)


def test_log_weights_at_the_posterior_are_the_evidence_for_every_sample() -> None:
    free = SCALE_TRIL.tril(-1) + SCALE_TRIL.diagonal().log().diag()
    q = FullRank(MEAN.expand(B, J), free.expand(B, J, J))
    log_w = variational.log_weights(correlated, q, 50, generator=torch.Generator().manual_seed(0))
    assert_close(log_w, torch.full((50, B), -7.0, dtype=torch.float64), 1e-11)


def test_the_gradient_of_the_log_weights_is_the_pathwise_one() -> None:
    q = MeanField(*(p.requires_grad_() for p in random_family(families.mean_field, 18)))
    log_w = variational.log_weights(correlated, q, K, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(log_w.mean(0).sum(), q)
    eps = torch.randn(K, B, J, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = gradients.pathwise(correlated, eps, *q)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b.mean(0), 1e-11)


# fit


def test_the_first_steps_are_adams() -> None:
    """Uphill: from 0 towards 3 by the learning rate, times the schedule at 0, 1/3 and 2/3."""
    phi, seen, values = torch.zeros(2, dtype=torch.float64, requires_grad=True), [], []

    def bound(generator):
        values.append(phi.detach().clone())
        return -(phi - 3).square().sum()

    trace = variational.fit(
        bound,
        [phi],
        num_steps=3,
        learning_rate=0.1,
        schedule=lambda done: seen.append(done) or 1 - done,
        progress=False,
    )
    assert seen == pytest.approx([0, 1 / 3, 2 / 3])
    assert_close(values[1], torch.full((2,), 0.1, dtype=torch.float64), 1e-8)
    assert values[2][0].item() == pytest.approx(0.1 + 0.1 * 2 / 3, abs=1e-3)
    assert phi[0].item() == pytest.approx(0.1 + 0.1 * 2 / 3 + 0.1 / 3, abs=2e-3)
    expected = [-2 * (3 - v[0].item()) ** 2 for v in values]
    assert_close(trace, torch.tensor(expected, dtype=torch.float64))
    assert not trace.requires_grad


def test_the_generator_is_passed_on_and_seeded_when_there_is_none() -> None:
    def trace(**settings):
        phi = torch.zeros(1, requires_grad=True)
        return variational.fit(
            lambda generator: (phi * torch.randn(1, generator=generator)).sum() - phi.square().sum(),
            iter([phi]), num_steps=5, learning_rate=0.1, progress=False, **settings,
        )  # fmt: skip

    before = torch.get_rng_state()
    assert torch.equal(trace(), trace())
    assert torch.equal(trace(), trace(generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(trace(), trace(generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), before)


def exact_elbo(log_joint, q: MeanField | FullRank, num_nodes: int, _: torch.Generator) -> Tensor:
    """The mean ELBO by quadrature instead of samples: no noise, so the loop must reach the optimum itself."""
    nodes, weights = gauss_hermite(num_nodes, q.mu.shape[-1])
    eps = nodes[:, None]
    full = isinstance(q, FullRank)
    z = (
        full_gaussian.reparameterize(eps, q.mu, families.scale_tril(q.log_cholesky))
        if full
        else gaussian.reparameterize(eps, q.mu, q.log_var)
    )
    return (weights[:, None] * (log_joint(z) - q.log_prob(z))).sum(0).mean()


def test_mean_field_finds_the_inverse_of_the_precisions_diagonal() -> None:
    """The best diagonal q: the right mean, variances 1 / (S^-1)_jj, below the marginal ones; and the gap in closed form."""
    q = families.mean_field(B, J)
    bound = functools.partial(exact_elbo, correlated, q, 3)
    trace = variational.fit(bound, q, num_steps=600, learning_rate=0.2, schedule=cooling, progress=False)
    variance = 1 / torch.linalg.inv(COVARIANCE).diagonal()
    assert_close(q.mu.detach(), MEAN.expand(B, J), 1e-3)
    assert_close(q.log_var.exp().detach(), variance.expand(B, J), 1e-3)
    assert (variance < COVARIANCE.diagonal()).all()
    gap = 0.5 * (COVARIANCE.diagonal().prod() / torch.det(COVARIANCE)).log()  # -log(1 - correlation^2) / 2
    assert trace[-1].item() == pytest.approx(-7 - gap.item(), abs=1e-5)
    assert trace[-1] > trace[0]


def test_full_rank_finds_the_posterior() -> None:
    q = families.full_rank(B, J)
    bound = functools.partial(exact_elbo, correlated, q, 3)
    trace = variational.fit(bound, q, num_steps=600, learning_rate=0.2, schedule=cooling, progress=False)
    assert_close(q.mu.detach(), MEAN.expand(B, J), 1e-3)
    assert_close(q.covariance().detach(), COVARIANCE.expand(B, J, J), 1e-3)
    assert trace[-1].item() == pytest.approx(-7, abs=1e-5)


def test_noise_that_vanishes_at_the_optimum_lets_the_loop_converge() -> None:
    """One sample a step: the path derivative ends at the posterior, the pathwise gradient keeps shaking around it."""

    def gap(surrogate, seed: int) -> float:
        q = families.full_rank(1, J)
        variational.fit(
            functools.partial(surrogate, q),
            q, num_steps=600, learning_rate=0.03, generator=torch.Generator().manual_seed(seed), progress=False,
        )  # fmt: skip
        factor = families.scale_tril(q.log_cholesky).detach()
        return full_gaussian.kl(q.mu.detach(), factor, MEAN, SCALE_TRIL).item()

    def path_derivative(q, generator):
        factor = families.scale_tril(q.log_cholesky)
        z = full_gaussian.sample(q.mu, factor, 1, generator=generator)
        return gradients.path_derivative_surrogate(correlated, full_gaussian.log_prob, z, q.mu, factor).mean()

    def pathwise(q, generator):
        return bounds.elbo(variational.log_weights(correlated, q, 1, generator=generator)).mean()

    assert gap(path_derivative, 0) < 1e-6
    assert gap(pathwise, 0) > 1e-4


def test_pass_and_fail_with_two_abilities() -> None:
    """ELBOs stand in their order below the evidence, and mean field understates the variances."""
    weight = torch.tensor([[1.4, 0.3], [2.2, 0.4], [1.1, 1.9], [0.6, 2.1], [0.7, 0.6]], dtype=torch.float64)
    model = item_response.ItemResponse(weight, torch.tensor([0.4, 2.7, 3.2, 1.6, 0.2], dtype=torch.float64))
    x = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 1], [0, 1, 1, 1, 0]], dtype=torch.float64)
    nodes = quadrature.gauss_hermite(40, 2)
    evidence, exact = item_response.log_evidence(model, x, nodes), item_response.posterior_moments(model, x, nodes)
    elbos, families = [], []
    for kind in FAMILIES:
        q = kind(len(x), 2)
        bound = functools.partial(exact_elbo, functools.partial(item_response.log_joint, model, x), q, 8)
        elbos.append(
            variational.fit(bound, q, num_steps=150, learning_rate=0.2, schedule=cooling, progress=False)[-1].item()
        )
        families.append(q)
    assert elbos[0] + 1e-3 < elbos[1] < evidence.mean().item()
    assert evidence.mean().item() - elbos[1] < 0.05
    variance = exact.covariance.diagonal(dim1=1, dim2=2)
    assert (families[0].log_var.exp() < variance).all()
    assert (families[1].mu.detach() - exact.mean).abs().max() < 0.15
    correlation = exact.covariance[:, 0, 1] / variance.prod(-1).sqrt()
    assert (correlation < -0.05).all()
    assert (families[1].covariance()[:, 0, 1] < 0).all()


def test_a_batch_scaled_to_the_whole_has_the_gradient_of_the_whole() -> None:
    """The mean over all batches of two of N = 3 students, each scaled by 3/2: the sum over students, exactly."""
    q = MeanField(*(p.requires_grad_() for p in random_family(families.mean_field, 20)))
    eps = randn(K, B, J, seed=22)

    def total(index):
        batch = q.take(index)
        z = gaussian.reparameterize(eps[:, index], *batch)
        return bounds.elbo(correlated(z) - batch.log_prob(z)).sum()

    whole = torch.autograd.grad(total(torch.arange(B)), q)
    pairs = [torch.tensor(pair) for pair in ([0, 1], [0, 2], [1, 2])]
    batches = torch.autograd.grad(sum(B / 2 * total(pair) for pair in pairs) / len(pairs), q)
    for a, b in zip(batches, whole, strict=True):
        assert_close(a, b, 1e-11)


# bad input


def test_sizes_below_one_are_refused() -> None:
    for kind in FAMILIES:
        assert_refused(lambda kind=kind: kind(0, 2), "num_data", "0")
        assert_refused(lambda kind=kind: kind(3, 0), "num_latents", "0")
        assert_refused(lambda f=kind: f(3, 2).sample(0), "num_samples", "0")
        assert_refused(lambda f=kind: f(3, 2).log_prob(torch.zeros(K, 3, 1)), "z", "mu", (K, 3, 1), (3, 2))
        assert_refused(lambda f=kind: variational.log_weights(correlated, f(3, 2), 0), "num_samples", "0")


def test_free_parameters_that_are_no_matrix_are_refused() -> None:
    for shape in ((), (3,), (2, 3), (4, 3, 2)):
        assert_refused(lambda s=shape: families.scale_tril(torch.zeros(s)), "log_cholesky", shape)


def test_a_log_joint_of_the_wrong_shape_is_refused() -> None:
    for log_joint, shape in ((lambda z: z.sum(), ()), (lambda z: z.sum((0, -1)), (B,)), (lambda z: z, (K, B, J))):
        assert_refused(
            lambda f=log_joint: variational.log_weights(f, families.mean_field(B, J), K), "log_joint", shape, (K, B)
        )


def settings(**changes) -> dict:
    phi = torch.zeros(2, requires_grad=True)
    good = {"bound": lambda _: -phi.square().sum(), "parameters": [phi], "num_steps": 2, "learning_rate": 0.1}
    return {**good, "progress": False, **changes}


def test_settings_that_make_no_sense_are_refused() -> None:
    phi = torch.zeros(2, requires_grad=True)
    for changes, words in (
        ({"num_steps": 0}, ("num_steps", "0")),
        ({"learning_rate": 0.0}, ("learning_rate", "0.0")),
        ({"learning_rate": math.inf}, ("learning_rate", "inf")),
        ({"learning_rate": math.nan}, ("learning_rate", "nan")),
        ({"parameters": []}, ("parameters",)),
        ({"parameters": [torch.zeros(2)]}, ("parameters", (2,))),
        ({"parameters": [2 * phi]}, ("parameters", (2,))),
        ({"bound": lambda _: -phi.square()}, ("bound", (2,))),
        ({"bound": lambda _: torch.zeros(())}, ("bound", ())),
    ):
        assert_refused(lambda c=changes: variational.fit(**settings(**c)), *words)


def test_a_bound_that_is_not_finite_stops_the_loop_before_the_step() -> None:
    phi = torch.ones(1, requires_grad=True)
    kept = []

    def bound(generator):
        kept.append(phi.detach().clone())
        return phi.sum() / 0 if len(kept) == 3 else phi.sum()

    with pytest.raises(FloatingPointError, match=r"bound is inf in step 3, at learning rate 0\.1"):
        variational.fit(bound, [phi], num_steps=9, learning_rate=0.1, progress=False)
    assert torch.equal(phi.detach(), kept[1])


def test_the_progress_bar_can_be_hidden(capsys) -> None:
    variational.fit(**settings(progress=False))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", ["the bound", "the gradient"])
@pytest.mark.parametrize("last", [True, False])
def test_what_is_not_finite_stops_the_fit_at_the_last_good_parameters(what: str, last: bool) -> None:
    """Whose bound and gradient were finite; also where it happens in the last step, after which nothing looks again."""
    phi, visited = torch.zeros(1, dtype=torch.float64, requires_grad=True), []

    def bound(_: torch.Generator) -> Tensor:
        visited.append(phi.item())
        if len(visited) < 4:
            return -(phi - 3).square().sum()
        return (phi * math.nan).sum() if what == "the bound" else (phi - phi.detach()).abs().sqrt().sum()  # slope 0 / 0

    def fit() -> None:
        variational.fit(bound, [phi], num_steps=4 if last else 6, learning_rate=0.1, progress=False)

    with pytest.raises(FloatingPointError, match=rf"{what}.*step 4"):
        fit()
    assert phi.item() == visited[2]


def test_a_number_of_steps_that_is_not_whole_is_refused() -> None:
    phi = torch.zeros(1, requires_grad=True)
    settings = {"learning_rate": 0.1, "progress": False}
    assert_refused(lambda: variational.fit(lambda _: phi.sum(), [phi], num_steps=2.5, **settings), "num_steps")
