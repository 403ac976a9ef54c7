"""objectives: each typed out from its equation, on noise that is given."""

import math

import pytest
import torch
from oracles import assert_close, assert_refused, randn
from torch import Tensor

from vae_tutorial import models, objectives
from vae_tutorial.families import LOG_VAR_LIMIT, FullRank, MeanField
from vae_tutorial.likelihoods import Gaussian
from vae_tutorial.objectives import Objective
from vae_tutorial.priors import GaussianMixture

B, J = 5, 2


def vae(**parts: object) -> models.VAE:
    """With random weights, so that the dimensions of q differ much from each other."""
    model = models.mlp_vae((6,), J, num_hidden=8, **parts).double()
    for seed, parameter in enumerate(model.parameters()):
        parameter.data = 0.8 * randn(parameter.numel(), seed=seed).view_as(parameter)
    return model


def data() -> Tensor:
    return (randn(B, 6, seed=90) > 0).double()


def pieces(model: models.VAE, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x|z), log p(z) and log q(z|x), each (K, B)."""
    x, q = data(), model.posterior(data())
    z = q.latents(eps)
    return model.log_p_x_given_z(x, z), model.prior.log_prob(z), q.log_prob(z)


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_elbo_is_the_models(num_samples: int) -> None:
    model, eps = vae(), randn(num_samples, B, J, seed=91)
    objective = objectives.elbo(num_samples=num_samples)
    terms = objective.terms(model, data(), eps)
    assert_close(terms.reconstruction, pieces(model, eps)[0].mean(0), 1e-10)
    mu, log_var = model.encode(data())
    assert_close(terms.kl, 0.5 * (mu**2 + log_var.exp() - log_var - 1).sum(-1), 1e-10)
    assert objective.num_samples == num_samples
    assert objective.weight_at(0.0) == objective.weight_at(1.0) == 1.0


def test_beta_is_the_weight_and_not_part_of_the_terms() -> None:
    model, eps = vae(), randn(1, B, J, seed=92)
    plain, weighted = objectives.elbo(), objectives.beta_elbo(3.0)
    for ours, theirs in zip(plain.terms(model, data(), eps), weighted.terms(model, data(), eps), strict=True):
        assert torch.equal(ours, theirs)
    assert weighted.weight_at(0.3) == 3.0
    rising = objectives.beta_elbo(objectives.kl_warmup)
    assert [rising.weight_at(t) for t in (0.0, 0.025, 0.1, 1.0)] == [0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("family", [MeanField, FullRank])
@pytest.mark.parametrize("num_samples", [1, 3, 8])
def test_iwae_is_the_log_of_the_mean_weight(num_samples: int, family: type, prior: str) -> None:
    model = vae(family=family, prior=GaussianMixture(J, 3) if prior == "mixture" else None)
    eps = randn(num_samples, B, J, seed=93)
    log_p_x, log_p_z, log_q = pieces(model, eps)
    terms = objectives.iwae(num_samples).terms(model, data(), eps)
    weights = (log_p_x + log_p_z - log_q).exp()
    assert_close(terms.reconstruction - terms.kl, weights.mean(0).log(), 1e-9)
    assert_close(terms.kl, (log_q - log_p_z).mean(0), 1e-9)
    if num_samples == 1:
        assert_close(terms.reconstruction, log_p_x[0], 1e-9)


def test_iwae_has_the_gradient_of_normalised_weights() -> None:
    """For the decoder: the mean of each sample's gradient of log p(x, z), weighted by the share of its weight."""
    model, eps = vae(), randn(4, B, J, seed=94)
    parameters = list(model.decoder.parameters())
    terms = objectives.iwae(4).terms(model, data(), eps)
    ours = torch.autograd.grad((terms.reconstruction - terms.kl).sum(), parameters)
    log_p_x, log_p_z, log_q = pieces(model, eps)
    shares = (log_p_x + log_p_z - log_q).softmax(0).detach()
    theirs = torch.autograd.grad((shares * log_p_x).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 1e-10)


def test_free_bits_are_the_larger_of_the_allowance_and_the_mean_kl_of_a_dimension() -> None:
    model, eps = vae(), randn(2, B, J, seed=95)
    mu, log_var = model.encode(data())
    kl = (0.5 * (mu**2 + log_var.exp() - log_var - 1)).mean(0)  # (J,)
    low, high = sorted(kl.tolist())
    for nats in (0.0, (low + high) / 2, 2 * high):
        terms = objectives.free_bits(nats, num_samples=2).terms(model, data(), eps)
        assert_close(
            terms.kl, torch.full((B,), sum(max(nats, each) for each in kl.tolist()), dtype=torch.float64), 1e-10
        )
        assert_close(terms.reconstruction, pieces(model, eps)[0].mean(0), 1e-10)
    elbo = objectives.elbo(num_samples=2).terms(model, data(), eps)
    assert_close(objectives.free_bits(0.0, num_samples=2).terms(model, data(), eps).kl.mean(), elbo.kl.mean(), 1e-10)


def test_below_the_allowance_a_dimension_feels_no_pull() -> None:
    model, eps = vae(), randn(1, B, J, seed=96)
    kl = objectives.free_bits(100.0).terms(model, data(), eps).kl
    gradients = torch.autograd.grad(kl.sum(), list(model.encoder.parameters()), allow_unused=True)
    assert all(g is None or (g == 0).all() for g in gradients)


@pytest.mark.parametrize("parts", [{"family": FullRank}, {"prior": GaussianMixture(J, 2)}])
def test_free_bits_need_a_kl_that_is_a_sum(parts: dict[str, object]) -> None:
    model = vae(**parts)
    assert_refused(lambda: objectives.free_bits(0.5).terms(model, data(), model.noise(1, B)), "free_bits", "MeanField")


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_the_reconstruction_of_an_autoencoder(sigma: float) -> None:
    model = models.mlp_autoencoder((6,), J, num_hidden=8, sigma=sigma).double()
    eps = randn(3, B, J, seed=97)
    terms = objectives.reconstruction(num_samples=3).terms(model, data(), eps)
    expected = model.log_p_x_given_z(data(), model.encode(data()) + sigma * eps).mean(0)
    assert_close(terms.reconstruction, expected)
    assert torch.equal(terms.kl, torch.zeros(B).double())


MADE = {
    "elbo(num_samples=2)": lambda: objectives.elbo(num_samples=2),
    "beta_elbo(num_samples=1)": lambda: objectives.beta_elbo(0.5),
    "iwae(num_samples=5)": lambda: objectives.iwae(5),
    "free_bits(nats=0.25, num_samples=1)": lambda: objectives.free_bits(0.25),
    "reconstruction(num_samples=1)": objectives.reconstruction,
}


@pytest.mark.parametrize("name", MADE)
def test_an_objective_says_what_it_is(name: str) -> None:
    made = MADE[name]()
    assert isinstance(made, Objective)
    assert made.name == name


def test_bad_settings_are_refused() -> None:
    for wrong in (0, -2, 1.5):
        for make in (objectives.elbo, objectives.reconstruction):
            assert_refused(lambda m=make, w=wrong: m(num_samples=w), "num_samples")
        assert_refused(lambda w=wrong: objectives.iwae(w), "num_samples")
        assert_refused(lambda w=wrong: objectives.free_bits(0.1, num_samples=w), "num_samples")
    for wrong in (-0.1, math.inf, math.nan):
        assert_refused(lambda w=wrong: objectives.beta_elbo(w), "beta")
        assert_refused(lambda w=wrong: objectives.free_bits(w), "nats")
    assert_refused(lambda: objectives.beta_elbo(lambda done: 1 - 2 * done), "beta", "-1")


# sticking the landing


@pytest.mark.parametrize("prior", [None, GaussianMixture(J, 3)])
@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_sticking_the_landing_has_the_elbos_value_and_leaves_out_the_score_of_q(
    family: type, prior: GaussianMixture | None
) -> None:
    """The gradient of the sampled ELBO, written out, minus its part through the parameters of log q."""
    model, eps = vae(family=family, prior=prior), randn(4, B, J, seed=95)
    encoder, decoder = list(model.encoder.parameters()), list(model.decoder.parameters())
    log_p_x, log_p_z, log_q = pieces(model, eps)
    elbo = (log_p_x + log_p_z - log_q).mean(0)
    terms = objectives.sticking_the_landing(num_samples=4).terms(model, data(), eps)
    assert_close(terms.reconstruction - terms.kl, elbo, 1e-10)
    q = model.posterior(data())
    score = q.log_prob(q.latents(eps).detach()).mean(0)
    for parameters, left_out in ((encoder, score), (decoder, None)):
        found = torch.autograd.grad((terms.reconstruction - terms.kl).sum(), parameters, retain_graph=True)
        full = torch.autograd.grad(elbo.sum(), parameters, retain_graph=True)
        scores = [torch.zeros(())] * len(parameters)
        if left_out is not None:
            scores = torch.autograd.grad(left_out.sum(), parameters, retain_graph=True)
            assert max(part.abs().max() for part in scores) > 0.1
        for ours, whole, part in zip(found, full, scores, strict=True):
            assert_close(ours, whole + part, 1e-9)


def test_where_q_is_the_posterior_sticking_the_landing_has_no_noise() -> None:
    """x = w z + noise, one latent: with the exact q each sample's gradient is 0, and the ELBO's is not."""
    model = models.linear_vae((1,), 1, likelihood=Gaussian(log_var=0.0)).double()
    w, variance = 2.0, 1 / (1 + 2.0**2)
    model.decoder[0].weight.data.fill_(w)
    model.decoder[0].bias.data.zero_()
    model.encoder[1].affine.weight.data.fill_(variance * w)
    model.encoder[1].affine.bias.data.zero_()
    raw = LOG_VAR_LIMIT * math.atanh(math.log(variance) / LOG_VAR_LIMIT)
    model.encoder[1].constant.data.fill_(raw)
    x, eps = randn(B, 1, seed=96), randn(3, B, 1, seed=97)
    largest = {}
    for objective in (objectives.elbo(num_samples=3), objectives.sticking_the_landing(num_samples=3)):
        terms = objective.terms(model, x, eps)
        gradients = torch.autograd.grad((terms.reconstruction - terms.kl).sum(), list(model.encoder.parameters()))
        largest[objective.name] = max(gradient.abs().max().item() for gradient in gradients)
    assert largest["sticking_the_landing(num_samples=3)"] < 1e-12
    assert largest["elbo(num_samples=3)"] > 0.1


def test_sticking_the_landing_refuses_no_samples() -> None:
    assert_refused(lambda: objectives.sticking_the_landing(num_samples=0), "num_samples")


# the doubly reparameterized gradient


@pytest.mark.parametrize("prior", [None, GaussianMixture(J, 3)])
@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_dreg_has_the_value_of_iwae_and_the_squared_weights_on_the_encoders_path(
    family: type, prior: GaussianMixture | None
) -> None:
    """Its gradients, written out sample by sample; decoder and prior have those of the bound."""
    model, eps = vae(family=family, prior=prior), randn(4, B, J, seed=98)
    ours, plain = (kind(4).terms(model, data(), eps) for kind in (objectives.dreg, objectives.iwae))
    for one, other in zip(ours, plain, strict=True):
        assert_close(one, other, 1e-10)
    value = (ours.reconstruction - ours.kl).sum()
    rest = [*model.decoder.parameters(), *model.prior.parameters()]
    theirs = torch.autograd.grad((plain.reconstruction - plain.kl).sum(), rest, retain_graph=True)
    for one, other in zip(torch.autograd.grad(value, rest, retain_graph=True), theirs, strict=True):
        assert_close(one, other, 1e-9)
    q = model.posterior(data())
    z, log_q = q.latents(eps), q.detached()
    free = z.detach().requires_grad_()
    log_w = model.log_p_x_given_z(data(), free) + model.prior.log_prob(free) - log_q.log_prob(free)
    (slope,) = torch.autograd.grad(log_w.sum(), free)
    direction = log_w.detach().softmax(0).square().unsqueeze(-1) * slope
    encoder = list(model.encoder.parameters())
    wanted = torch.autograd.grad((direction * z).sum(), encoder)
    assert max(gradient.abs().max() for gradient in wanted) > 0.1
    for one, other in zip(torch.autograd.grad(value, encoder), wanted, strict=True):
        assert_close(one, other, 1e-9)


def test_dreg_with_one_sample_sticks_the_landing() -> None:
    model, eps = vae(), randn(1, B, J, seed=99)
    found = []
    for objective in (objectives.dreg(1), objectives.sticking_the_landing()):
        terms = objective.terms(model, data(), eps)
        found.append(torch.autograd.grad((terms.reconstruction - terms.kl).sum(), list(model.parameters())))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, 1e-10)


def test_dreg_can_be_evaluated_without_gradients_and_refuses_no_samples() -> None:
    model, eps = vae(), randn(3, B, J, seed=100)
    with torch.no_grad():
        terms = objectives.dreg(3).terms(model, data(), eps)
    assert not terms.reconstruction.requires_grad
    assert_refused(lambda: objectives.dreg(0), "num_samples")
