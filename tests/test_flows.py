"""flows: every layer in one set of tests, its inverse, its log-determinant by autograd, its density on a grid, its file."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn
from torch import Tensor, nn

from vae_tutorial import data, flows, gaussian, likelihoods, models, objectives, records, training
from vae_tutorial.families import Flowed, FlowPosterior, FullRank, MeanField
from vae_tutorial.flows import Autoregressive, Composed, Coupling, Flow, Planar
from vae_tutorial.priors import FlowPrior, GaussianMixture, StandardNormal

MAKERS: dict[str, Callable[[int], Flow]] = {
    "planar": Planar,
    "coupling": lambda j: Coupling(j, num_hidden=7),
    "coupling, flipped": lambda j: Coupling(j, num_hidden=7, flip=True),
    "autoregressive": lambda j: Autoregressive(j, num_hidden=7),
    "autoregressive, flipped": lambda j: Autoregressive(j, num_hidden=7, flip=True),
    "composed": lambda j: Composed([Planar(j), Coupling(j), Autoregressive(j, flip=True), Coupling(j, flip=True)]),
}


def made(name: str, num_latents: int, dtype: torch.dtype = torch.float64) -> Flow:
    """With random weights: a layer begins as the identity."""
    flow = MAKERS[name](num_latents).to(dtype)
    for seed, parameter in enumerate(flow.parameters()):
        parameter.data = (0.4 if name == "composed" else 0.7) * randn(max(parameter.numel(), 1), seed=seed).to(
            dtype
        ).reshape(parameter.shape)
    return flow


every = pytest.mark.parametrize("name", MAKERS)


@every
@pytest.mark.parametrize("num_latents", [2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)])
def test_the_inverse_undoes_the_map_and_tells_the_same_log_determinant(
    name: str, num_latents: int, dtype: torch.dtype, tolerance: float
) -> None:
    flow, eps = made(name, num_latents, dtype), 2 * randn(6, 4, num_latents, seed=50).to(dtype)
    z, log_det = flow(eps)
    again, log_det_again = flow.inverse(z)
    assert z.shape == eps.shape
    assert log_det.shape == (6, 4)
    assert z.dtype == log_det.dtype == dtype
    assert (z - eps).abs().max() > 0.1
    assert_close(again, eps, tolerance)
    assert_close(log_det_again, log_det, tolerance)


@every
@pytest.mark.parametrize("num_latents", [2, 5])
def test_the_log_determinant_is_that_of_the_jacobian(name: str, num_latents: int) -> None:
    flow = made(name, num_latents)
    for eps in randn(8, num_latents, seed=51):
        jacobian = torch.autograd.functional.jacobian(lambda point: flow(point)[0], eps)
        assert_close(flow(eps)[1], torch.linalg.slogdet(jacobian).logabsdet, 1e-10)


@every
def test_the_density_integrates_to_one_in_two_dimensions(name: str) -> None:
    prior = FlowPrior(made(name, 2)).double()
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        total = prior.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert_close(total, torch.ones((), dtype=torch.float64), 2e-3)


@every
def test_samples_come_from_the_density(name: str) -> None:
    """The mean of exp(-|z|^2 / 8) under the samples and under the density on a grid, to four standard errors."""
    prior = FlowPrior(made(name, 2)).double()
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        exact = (prior.log_prob(grid).exp() * torch.exp(-grid.square().sum(-1) / 8)).sum() * (axis[1] - axis[0]) ** 2
        drawn = torch.exp(-prior.sample(40_000, generator=torch.Generator().manual_seed(0)).square().sum(-1) / 8)
    assert (drawn.mean() - exact).abs() < 4 * drawn.std() / 200 + 1e-3


@every
def test_gradients_through_the_inverse_are_those_of_the_density(name: str) -> None:
    """A directional derivative of the mean log-density in all parameters, against a central difference."""
    prior, z = FlowPrior(made(name, 3)), randn(9, 3, seed=52)
    parameters = list(prior.parameters())
    gradient = torch.autograd.grad(prior.log_prob(z).mean(), parameters)
    directions = [randn(max(p.numel(), 1), seed=60 + i).reshape(p.shape) for i, p in enumerate(parameters)]
    slope, step = sum((g * d).sum() for g, d in zip(gradient, directions, strict=True)), 1e-6
    values = []
    for sign in (1, -2):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += sign * step * direction
        values.append(prior.log_prob(z).mean().detach())
    assert_close(torch.as_tensor(slope), (values[0] - values[1]) / (2 * step), 1e-6)


@every
def test_each_begins_near_the_identity_and_stays_finite_far_out(name: str) -> None:
    flow, eps = MAKERS[name](4).double(), randn(5, 4, seed=53)
    assert_close(flow(eps)[0], eps, 1e-6)
    far = made(name, 4)
    assert_finite_gradients(lambda points: torch.cat([*(part.flatten() for part in far(points))]), 60 * eps)


def _image(flow: Flow, eps: Tensor) -> Tensor:
    image: Tensor = flow(eps)[0]
    return image


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_planar_flow_is_one_to_one_whatever_its_parameters(scale: float) -> None:
    """The constraint holds for a w of any length: where the norm stands for its square, it fails away from length 1."""
    for seed in range(20):
        flow = Planar(3).double()
        for k, parameter in enumerate(flow.parameters()):
            parameter.data = scale * randn(max(parameter.numel(), 1), seed=10 * seed + k).reshape(parameter.shape)
        u, push = flow._direction()
        assert push > -1
        assert_close(flow.w @ u, push, 1e-9)
        jacobian = torch.autograd.functional.jacobian(partial(_image, flow), randn(3, seed=seed))
        assert torch.linalg.slogdet(jacobian).sign > 0


@pytest.mark.parametrize("flip", [False, True])
def test_an_autoregressive_map_sees_what_stands_before_and_nothing_else(flip: bool) -> None:
    flow = made("autoregressive, flipped" if flip else "autoregressive", 5)
    jacobian = torch.autograd.functional.jacobian(lambda point: flow(point)[0], randn(5, seed=54))
    below = jacobian.mT if flip else jacobian
    assert below.triu(1).abs().max() == 0
    assert (below.tril().abs() > 0).sum() == 15


def test_settings_that_make_no_sense_are_refused() -> None:
    assert_refused(lambda: Coupling(1), "at least 2", "1")
    assert_refused(lambda: Planar(0), "num_latents")
    assert_refused(lambda: Autoregressive(2, num_hidden=0), "num_hidden")
    assert_refused(lambda: Composed([]), "at least one")
    assert_refused(lambda: Composed([Planar(2), Planar(3)]), "[2, 3]")
    assert_refused(lambda: FlowPrior(Planar(2)).log_prob(torch.zeros(4, 3)), "(4, 3)", "2")


# through the seam


def images() -> Tensor:
    return data.binarize(
        data.fashion_mnist().images[:40, :, ::4, ::4], generator=torch.Generator().manual_seed(0)
    ).float()


def two_flows(num_latents: int) -> Composed:
    return Composed([Autoregressive(num_latents), Autoregressive(num_latents, flip=True)])


@pytest.mark.parametrize("base", [MeanField, FullRank])
@pytest.mark.parametrize("likelihood", [likelihoods.Bernoulli(), likelihoods.Gaussian(log_var=-1.0)])
def test_flow_prior_and_flow_posterior_train_in_one_line_and_are_read_back(
    base: type, likelihood: likelihoods.Likelihood, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    parts = {"prior": FlowPrior(two_flows(3)), "family": Flowed(two_flows(3), base), "likelihood": likelihood}
    vae, x = models.mlp_vae((1, 7, 7), 3, num_hidden=16, **parts), images()
    before = vae.elbo(x, num_samples=50, generator=torch.Generator().manual_seed(1)).mean().item()
    history = training.fit(vae, x, num_epochs=30, optimization=training.Optimization(batch_size=20, learning_rate=1e-2))
    after = vae.elbo(x, num_samples=50, generator=torch.Generator().manual_seed(1)).mean().item()
    assert after > before + 3
    records.save_model(tmp_path / "flow.pt", vae, history, dtype=None)
    again, _ = records.load_model(tmp_path / "flow.pt")
    assert_close(again.posterior(x).mean, vae.posterior(x).mean, 1e-6)
    assert_close(again.prior.log_prob(torch.ones(2, 3)), vae.prior.log_prob(torch.ones(2, 3)), 1e-6)


def test_the_density_of_a_flow_posterior_from_noise_and_from_points_agree() -> None:
    flow, outputs = made("composed", 3), randn(4, 6, seed=55)
    q = Flowed(flow).from_outputs(outputs)
    assert isinstance(q, FlowPosterior)
    eps = randn(7, 4, 3, seed=56)
    z, log_q = q.transform(eps)
    assert_close(q.log_prob(z), log_q, 1e-8)
    assert_close(q.inverse(z), eps, 1e-8)
    assert_close(q.latents(eps), z, 1e-12)
    part = q.take(torch.tensor([2, 0]))
    assert_close(part.log_prob(z[:, [2, 0]]), log_q[:, [2, 0]], 1e-8)
    mu, _ = MeanField.from_outputs(outputs)
    jacobian = torch.autograd.functional.jacobian(lambda e: q.latents(e.view(1, 1, 3).expand(1, 4, 3))[0, 1], eps[0, 1])
    wanted = gaussian.log_prob(eps[0, 1], torch.zeros(3).double(), torch.zeros(3).double())
    assert_close(log_q[0, 1], wanted - torch.linalg.slogdet(jacobian).logabsdet, 1e-9)
    assert_close(q.mean, flow(mu)[0], 1e-12)


@pytest.mark.parametrize("kind", ["sticking_the_landing", "dreg"])
def test_held_parameters_leave_the_path_alone(kind: str) -> None:
    """The gradient for the encoder of one sample, against log-weights whose flow and base are copies without gradients."""
    torch.manual_seed(0)
    vae = models.mlp_vae((1, 7, 7), 3, num_hidden=8, family=Flowed(made("coupling", 3))).double()
    x, eps = images().double()[:5], randn(1, 5, 3, seed=57)
    objective = getattr(objectives, kind)(num_samples=1)
    terms = objective.terms(vae, x, eps)
    wanted_for = [*vae.encoder.parameters(), *vae.family.parameters()]
    found = torch.autograd.grad((terms.reconstruction - terms.kl).sum(), wanted_for)
    q = vae.posterior(x)
    z = q.latents(eps)
    free = z.detach().requires_grad_()
    log_w = vae.log_joint(x, free) - q.log_prob(free)
    (slope,) = torch.autograd.grad(log_w.sum(), free)
    wanted = torch.autograd.grad((slope * z).sum(), wanted_for)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, 1e-8)
    held = q.detached()
    assert not any(parameter.requires_grad for parameter in held.flow.parameters())
    assert all(parameter.requires_grad for parameter in vae.family.parameters())


def test_a_family_of_another_size_is_refused_by_name() -> None:
    assert_refused(lambda: models.mlp_vae((1, 7, 7), 4, num_hidden=8, family=Flowed(Planar(3))), "3 latents", "4")
    vae = models.mlp_vae((1, 7, 7), 3, num_hidden=8, family=Flowed(Planar(3)))
    assert_refused(lambda: vae.encode(images()), "Flowed")
    assert isinstance(vae.family, nn.Module)


def test_a_flow_closes_part_of_a_gap_that_a_gaussian_cannot() -> None:
    """A posterior that bends: z2 near z1 squared, with log p(x) = 0. A flow removes most of mean field's gap."""

    def log_p(z: Tensor) -> Tensor:
        first = -0.5 * (z[..., 0] ** 2 + math.log(2 * math.pi))
        return first - 0.5 * ((z[..., 1] - z[..., 0] ** 2) ** 2 / 0.1 + math.log(0.2 * math.pi))

    gaps = {}
    for name, layers in {"mean field": [], "flow": [Autoregressive(2, 16), Autoregressive(2, 16, flip=True)]}.items():
        torch.manual_seed(0)
        outputs = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        family = Flowed(Composed(layers).double()) if layers else MeanField
        parameters = [outputs, *(family.parameters() if layers else [])]
        adam, generator = torch.optim.Adam(parameters, lr=0.02), torch.Generator().manual_seed(0)
        for _ in range(600):
            z, log_q = family.from_outputs(outputs).sample_and_log_prob(64, generator=generator)
            adam.zero_grad()
            (log_q - log_p(z)).mean().backward()
            adam.step()
        with torch.no_grad():
            z, log_q = family.from_outputs(outputs).sample_and_log_prob(20_000, generator=generator)
            gaps[name] = (log_q - log_p(z)).mean().item()
    assert gaps["mean field"] > 0.7
    assert -0.02 < gaps["flow"] < 0.25 * gaps["mean field"]


def test_priors_of_other_kinds_go_with_a_flow_posterior() -> None:
    for prior in (StandardNormal(3), GaussianMixture(3, 4)):
        vae = models.mlp_vae((1, 7, 7), 3, num_hidden=8, prior=prior, family=Flowed(flows.Planar(3)))
        assert vae.elbo(images(), generator=torch.Generator().manual_seed(0)).isfinite().all()
