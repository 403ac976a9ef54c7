"""priors: densities that integrate to one, samples that are from them, and gradients that reach every parameter."""

import copy
import math
from pathlib import Path

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn, trapezoid_grid
from torch import Tensor, distributions

from vae_tutorial import aggregated, checks, likelihoods, models, records, training
from vae_tutorial.families import Flowed, FullRank, MeanField
from vae_tutorial.flows import Planar
from vae_tutorial.priors import GaussianMixture, Prior, StandardNormal, VampPrior, mixture_of


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


# --- VampPrior -------------------------------------------------------------------------------------------------------


def vamp_vae(family: object = MeanField, num_latents: int = 2, **kwargs: object) -> models.VAE:
    """A small VAE in double precision whose prior has four pseudo-inputs, all weights moved away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        prior = VampPrior(num_latents, 4, (5,), **kwargs)
        vae = models.mlp_vae((5,), num_latents, 8, prior=prior, family=family).double()
        for parameter in vae.parameters():
            torch.nn.init.normal_(parameter, std=0.45)
    return vae


@pytest.mark.parametrize("family", [MeanField, FullRank, "flowed"])
def test_a_vamp_prior_is_the_aggregated_posterior_of_its_pseudo_inputs(family: object) -> None:
    """For every family; it integrates to one, and its samples are from it."""
    vae = vamp_vae(Flowed(Planar(2)) if family == "flowed" else family).requires_grad_(False)
    prior, z = vae.prior, randn(3, 6, 2, seed=1)
    q = vae.posterior(prior.pseudo_inputs())
    typed = torch.stack([q.take(torch.tensor([m])).log_prob(z.unsqueeze(-2))[..., 0] for m in range(4)])
    assert_close(prior.log_prob(z), typed.logsumexp(0) - math.log(4), 1e-12)
    assert_close(prior.log_prob(z), aggregated.log_prob(z, q), 1e-12)
    assert prior.log_prob(z[0, 0]).shape == ()
    assert checks.integrates_to_one(prior.log_prob, low=-20, high=20).item() == pytest.approx(1, abs=1e-6)
    samples = prior.sample(5000, generator=noise(0))
    assert checks.samples_match(prior.log_prob, samples).item() > 0.01
    assert checks.scores_match(prior.log_prob, samples, generator=noise(1)).item() > 0.01


def test_many_points_in_chunks_have_the_same_density(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, z = vamp_vae().requires_grad_(False).prior, randn(7, 11, 2, seed=2)
    whole = prior.log_prob(z)
    monkeypatch.setattr("vae_tutorial.priors.MAX_NUMBERS", 40)
    assert_close(prior.log_prob(z), whole, 1e-14)


def test_the_encoder_is_shared_counted_once_and_reached_by_the_gradient_of_the_prior() -> None:
    vae = vamp_vae()
    plain = models.mlp_vae((5,), 2, 8)
    extra = sum(p.numel() for p in vae.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 4 * 5
    assert set(vae.state_dict()) - set(plain.state_dict()) == {"prior.raw"}
    vae.prior.log_prob(randn(3, 2, seed=3)).sum().backward()
    assert all((p.grad is not None) == (not name.startswith("decoder")) for name, p in vae.named_parameters())
    assert all(p.grad.abs().sum() > 0 for p in (*vae.encoder.parameters(), vae.prior.raw))


def changes_with_its_encoder(vae: models.VAE) -> bool:
    """Whether the prior moves when the encoder of this very model does."""
    z, before = randn(3, 2, seed=4).to(next(vae.parameters()).dtype), None
    with torch.no_grad():
        before = vae.prior.log_prob(z)
        first = next(vae.encoder.parameters())
        first.add_(0.1)
        after = vae.prior.log_prob(z)
        first.sub_(0.1)
    return not torch.allclose(before, after)


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-2.0, 255.0), None])
def test_after_saving_and_loading_prior_and_model_share_one_encoder(tmp_path: Path, data_range: object) -> None:
    vae = vamp_vae(data_range=data_range)
    records.save_model(tmp_path / "run.pt", vae, records.History([], [], [], [], []), dtype=None)
    again, _ = records.load_model(tmp_path / "run.pt")
    z, x = randn(3, 2, seed=4), torch.ones(2, 5, dtype=torch.float64)
    assert_close(again.prior.log_prob(z), vae.prior.log_prob(z), 1e-14)
    assert_close(again.elbo(x, eps=randn(1, 2, 2, seed=5)), vae.elbo(x, eps=randn(1, 2, 2, seed=5)), 1e-14)
    assert again.prior.data_range == data_range
    assert changes_with_its_encoder(again)
    assert changes_with_its_encoder(vae)
    assert len(list(again.parameters())) == len(list(vae.parameters()))
    records.load_weights(tmp_path / "run.pt", vamp_vae(data_range=data_range))
    assert_refused(lambda: records.load_weights(tmp_path / "run.pt", models.mlp_vae((5,), 2, 8)), "VampPrior")


def test_a_copy_shares_the_encoder_of_the_copy() -> None:
    vae = vamp_vae()
    other = copy.deepcopy(vae)
    assert changes_with_its_encoder(other)
    before = vae.prior.log_prob(randn(3, 2, seed=4)).detach()
    next(other.encoder.parameters()).data.add_(1.0)
    assert torch.equal(vae.prior.log_prob(randn(3, 2, seed=4)).detach(), before)


def test_training_moves_pseudo_inputs_and_networks_resumes_and_averages(tmp_path: Path) -> None:
    x = (randn(64, 5, seed=6) > 0).float()

    def run(num_epochs: int, checkpoint: Path | None = None) -> models.VAE:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            vae = models.mlp_vae((5,), 2, 8, prior=VampPrior(2, 3, (5,)).start_at(x[:3]))
        training.fit(
            vae,
            x,
            num_epochs=num_epochs,
            optimization=training.Optimization(batch_size=16, learning_rate=1e-2, ema_decay=0.9),
            execution=training.Execution(progress=False, checkpoint=checkpoint),
        )
        return vae

    start, straight = run(1), run(4)
    moved = [not torch.equal(a, b) for a, b in zip(start.parameters(), straight.parameters(), strict=True)]
    assert all(moved)
    run(4, tmp_path / "c.pt")
    resumed = run(4, tmp_path / "c.pt")
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert changes_with_its_encoder(straight)


def test_held_networks_leave_only_the_prior_to_learn() -> None:
    vae = vamp_vae().float().requires_grad_(False)
    vae.prior.requires_grad_(True)
    before = {name: p.clone() for name, p in vae.named_parameters()}
    x = (randn(32, 5, seed=6) > 0).float()
    quiet = training.Execution(progress=False)
    training.fit(vae, x, num_epochs=2, optimization=training.Optimization(batch_size=16), execution=quiet)
    assert {name for name, p in vae.named_parameters() if not torch.equal(p, before[name])} == {"prior.raw"}


def test_pseudo_inputs_start_at_data_and_stay_in_their_range() -> None:
    x = torch.tensor([[0.0, 1.0, 0.3, 0.5, 1.0]]).double()
    prior = VampPrior(2, 1, (5,)).double().start_at(x)
    assert_close(prior.pseudo_inputs().detach(), x.clamp(0.01, 0.99), 1e-12)
    wide = VampPrior(2, 1, (5,), data_range=(-1.0, 3.0)).double().start_at(4 * x - 1)
    assert_close(wide.pseudo_inputs().detach(), 4 * x.clamp(0.01, 0.99) - 1, 1e-12)
    free = VampPrior(2, 1, (5,), data_range=None).double().start_at(100 * x)
    assert_close(free.pseudo_inputs().detach(), 100 * x, 1e-12)
    prior.raw.data.fill_(-50.0)
    assert prior.pseudo_inputs().min() >= 0
    assert len(VampPrior(2, 4, (5,)).raw.unique(dim=0)) == 4  # equal components would stay equal


def test_other_likelihoods_show_the_encoder_pseudo_inputs_as_they_show_it_data() -> None:
    """An encoder of rescaled data sees rescaled pseudo-inputs: the likelihood's own map stands between."""
    levels = likelihoods.DiscretizedLogistic()
    prior = VampPrior(2, 2, (4,), data_range=(0.0, 255.0))
    vae = models.mlp_vae((4,), 2, 8, prior=prior, likelihood=levels)
    u = prior.pseudo_inputs()
    assert_close(prior.components().mean, vae.encode(u).mu, 1e-6)
    assert u.max() > 1.5
    assert vae.elbo(torch.full((3, 4), 7.0)).isfinite().all()


def test_a_vamp_prior_that_fits_no_model_is_refused() -> None:
    assert_refused(lambda: VampPrior(2, 0, (5,)), "num_components")
    for wrong in ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        assert_refused(lambda w=wrong: VampPrior(2, 3, (5,), data_range=w), "data_range")
    alone = VampPrior(2, 3, (5,))
    assert_refused(lambda: alone.log_prob(torch.zeros(4, 2)), "VampPrior", "VAE")
    assert_refused(lambda: alone.sample(1), "VampPrior")
    assert_refused(lambda: alone.start_at(torch.zeros(2, 5)), "x", (3, 5), (2, 5))
    assert_refused(lambda: models.mlp_vae((6,), 2, 8, prior=alone), "prior", (5,), (6,))
    assert_refused(
        lambda: models.conditional(models.mlp_vae, (5,), num_latents=2, num_hidden=8, num_classes=2, prior=alone),
        "prior",
    )
    vae = vamp_vae()
    assert_refused(lambda: vae.prior.log_prob(torch.zeros(4, 1).double()), "z", (4, 1))
    assert_refused(lambda: vae.prior.sample(0), "num_samples")


# --- The aggregated posterior as a prior -----------------------------------------------------------------------------


def some_posteriors(num_data: int = 6, num_latents: int = 2) -> MeanField:
    mu, log_var = randn(num_data, num_latents, seed=8), 0.4 * randn(num_data, num_latents, seed=9) - 1.0
    return MeanField(1.3 * mu, log_var)


def test_the_mixture_of_posteriors_is_the_aggregated_posterior() -> None:
    q, z = some_posteriors(), randn(4, 7, 2, seed=10)
    assert_close(mixture_of(q).log_prob(z).detach(), aggregated.log_prob(z, q), 1e-12)
    assert_refused(lambda: mixture_of(FullRank(q.mu, q.log_var.diag_embed())), "q", "FullRank")
    assert all(p.requires_grad for p in mixture_of(MeanField(*(p.requires_grad_() for p in q))).parameters())


@pytest.mark.parametrize("num_latents", [1, 2])
def test_the_gain_of_the_best_prior_is_the_misfit_of_the_other(num_latents: int) -> None:
    """The average KL falls by KL(q(z) || p(z)), to 1e-8, for a normal and for a mixture in its place; by quadrature."""
    q = some_posteriors(6, num_latents)
    settings = {"num_points": 601}
    best = aggregated.integrals(q, prior=mixture_of(q).requires_grad_(False), **settings)
    for prior in (StandardNormal(num_latents).double(), mixture(num_latents)):
        other = aggregated.integrals(q, prior=prior, **settings)
        assert (other.mean_kl - best.mean_kl).item() == pytest.approx(other.marginal_kl.item(), abs=1e-8)
        assert other.marginal_kl.item() > 0.05
    assert best.marginal_kl.item() == pytest.approx(0, abs=1e-10)
    assert best.mean_kl.item() == pytest.approx(best.mutual_information.item(), abs=1e-8)


def test_a_prior_that_is_given_to_a_second_model_follows_that_one() -> None:
    first, second = vamp_vae(), models.mlp_vae((5,), 2, 8).double()
    parts = {"likelihood": second.likelihood, "family": second.family}
    again = models.VAE(second.encoder, second.decoder, (5,), prior=first.prior, **parts)
    z = randn(3, 2, seed=4)
    assert_close(again.prior.log_prob(z), aggregated.log_prob(z, again.posterior(first.prior.pseudo_inputs())), 1e-12)
