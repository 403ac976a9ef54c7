"""Conditional models: for each label the plain model, exactly; a linear model with a known log p(x given y)."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn

from vae_tutorial import annealing, evaluation, families, likelihoods, models, priors, records, training
from vae_tutorial._recipe import keeps_arguments
from vae_tutorial.models import ConditionalVAE, conditional, with_labels

J, C, D = 2, 3, 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@keeps_arguments
class ExactEncoder(nn.Module):
    """The posterior of the linear model below, for the family of full rank: computed from its decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder: Any = None

    def forward(self, shown: Tensor) -> Tensor:
        layer = self.decoder[0].double()
        w, shift = layer.weight[:, :J], layer.weight[:, J:]  # (D, J), (D, C)
        x, y = shown[:, :D], shown[:, D:]
        precision = torch.eye(J).double() + w.T @ w / 0.25
        mean = torch.linalg.solve(precision, w.T @ (x - y @ shift.T - layer.bias).T / 0.25).T
        tril = torch.linalg.cholesky(torch.linalg.inv(precision))
        log_cholesky = torch.tril(tril, -1) + torch.diag(tril.diagonal().log())
        return torch.cat([mean, _as_outputs(log_cholesky).expand(len(x), -1)], -1)


def _as_outputs(log_cholesky: Tensor) -> Tensor:
    """The raw outputs that ``FullRank.from_outputs`` turns into this matrix: the diagonal's bound undone."""
    limit = families.LOG_VAR_LIMIT / 2
    return torch.cat([limit * (log_cholesky.diagonal() / limit).atanh(), log_cholesky[1:, 0]])


def linear_model() -> tuple[ConditionalVAE, Tensor, Tensor]:
    """x = W z + b_y + noise of variance 1/4, with its exact posterior as encoder."""
    torch.manual_seed(3)
    vae = conditional(
        models.linear_vae, (D,), J, C, likelihood=likelihoods.Gaussian(log_var=0.0), family=families.FullRank
    ).double()
    vae.likelihood.log_var_x.fill_(math.log(0.25))
    vae.encoder = ExactEncoder()
    object.__setattr__(vae.encoder, "decoder", vae.decoder)
    labels = torch.arange(7) % C
    return vae, with_labels(torch.randn(7, D, generator=seeded(), dtype=torch.float64), labels), labels


def exact_evidence(vae: ConditionalVAE, x: Tensor, labels: Tensor) -> Tensor:
    layer = vae.decoder[0]
    w, shift = layer.weight[:, :J].detach(), layer.weight[:, J:].detach()
    cov = w @ w.T + 0.25 * torch.eye(D).double()
    mean = (layer.bias.detach() + shift.T[labels]).double()
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(x[:, 1:])


@torch.no_grad()
def test_with_the_exact_posterior_every_weight_is_the_evidence_given_the_label() -> None:
    vae, x, labels = linear_model()
    exact = exact_evidence(vae, x, labels)
    assert exact.std() > 1
    assert_close(vae.log_weights(x, 4, generator=seeded(1)), exact.expand(4, -1), 1e-9)
    assert_close(evaluation.log_likelihood(vae, x, num_samples=10, generator=seeded(1)), exact, 1e-9)


def test_annealing_from_the_prior_finds_the_evidence_given_the_label() -> None:
    vae, x, labels = linear_model()
    vae.encoder = nn.Sequential(nn.Linear(D + C, families.FullRank.num_outputs(J))).double()
    start = families.mean_field(len(x), J)
    log_w = annealing.ais(
        vae, x, num_chains=200, betas=annealing.temperatures(50), step_size=0.2, start=start, generator=seeded(2)
    ).log_w
    estimate = log_w.logsumexp(0) - torch.tensor(200.0).log()
    assert_close(estimate, exact_evidence(vae, x, labels), 0.25)  # the labels' evidences differ by more


@keeps_arguments
class OfOneLabel(nn.Module):
    """A network that is given one label, whatever comes."""

    def __init__(self, network: nn.Module, label: int, *, decodes: bool) -> None:
        super().__init__()
        self.network, self.label, self.decodes = network, label, decodes

    def forward(self, given: Tensor) -> Tensor:
        shape = (len(given), C) if self.decodes else (len(given), C, *given.shape[2:])
        one_hot = torch.zeros(shape, dtype=given.dtype)
        one_hot[:, self.label] = 1
        return self.network(torch.cat([given, one_hot], 1))


CASES = {
    "bits": (models.mlp_vae, (D,), likelihoods.Bernoulli, {"num_hidden": 7}),
    "real": (models.linear_vae, (D,), likelihoods.Gaussian, {}),
    "colour": (models.conv_vae, (3, 9, 8), likelihoods.DiscretizedLogistic, {"num_channels": 4, "num_blocks": 1}),
    "counts": (models.mlp_vae, (D,), likelihoods.NegativeBinomial, {"num_hidden": 7}),
    "classes": (models.mlp_vae, (D,), lambda: likelihoods.Categorical(2), {"num_hidden": 7}),
}
PRIORS = {"normal": lambda: priors.StandardNormal(J), "mixture": lambda: priors.GaussianMixture(J, 4)}


def made(case: str, prior: str = "normal", family: Any = families.MeanField) -> tuple[ConditionalVAE, Tensor]:
    """The model, with weights that make the label count, and data it describes: the label of row n is n mod C."""
    build, shape, likelihood, sizes = CASES[case]
    torch.manual_seed(0)
    vae = conditional(build, shape, J, C, prior=PRIORS[prior](), likelihood=likelihood(), family=family, **sizes)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return vae, with_labels(torch.randint(2, (7, *shape), generator=seeded()), torch.arange(7) % C)


@pytest.mark.parametrize("family", [families.MeanField, families.FullRank])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("case", CASES)
def test_for_each_label_it_is_the_plain_model(case: str, prior: str, family: Any) -> None:
    vae, x = made(case, prior, family)
    vae, x = vae.double(), x.double()
    eps = vae.noise(4, 7, generator=seeded(1))
    terms, log_w = vae.elbo_terms(x, eps=eps), vae.log_weights(x, 4, eps=eps)
    points, labels = vae.parts(x)
    assert labels.tolist() == [n % C for n in range(7)]
    for label in range(C):
        of_label = labels == label
        plain = models.VAE(
            OfOneLabel(vae.encoder, label, decodes=False),
            OfOneLabel(vae.decoder, label, decodes=True),
            vae.point_shape,
            prior=vae.prior,
            likelihood=vae.likelihood,
            family=family,
        )
        expected = plain.elbo_terms(points, eps=eps)
        for found, wanted in zip(terms, expected, strict=True):
            assert_close(found[of_label], wanted[of_label], 1e-9)
        assert_close(log_w[:, of_label], plain.log_weights(points, 4, eps=eps)[:, of_label], 1e-9)
        assert_close(vae.reconstruct(x)[of_label], plain.reconstruct(points)[of_label], 1e-9)
        others = ~of_label
        assert (log_w[:, others] - plain.log_weights(points, 4, eps=eps)[:, others]).abs().min() > 1e-6


def test_the_label_is_a_plane_after_the_channels() -> None:
    vae, x = made("colour")
    shown = vae._encoder_input(x.float())
    assert shown.shape == (7, 3 + C, 9, 8)
    assert_close(shown[:, :3] * 255, vae.parts(x.float())[0], 1e-4)
    for row, planes in enumerate(shown[:, 3:]):
        assert planes.amin((1, 2)).tolist() == planes.amax((1, 2)).tolist() == [float(row % C == c) for c in range(C)]


@pytest.mark.parametrize("labels", [2, torch.tensor([0, 1, 2, 1])])
def test_samples_carry_the_label_they_were_drawn_for(labels: Any) -> None:
    vae, _ = made("real")
    vae.decoder = OfLabelAlone()
    x = vae.sample(4, labels=labels, generator=seeded())
    assert x.shape == (4, 1 + D)
    wanted = torch.as_tensor(labels).expand(4)
    assert torch.equal(x[:, 0], wanted.float())
    assert (x[:, 1:].mean(1) - 100 * wanted).abs().max() < 10
    drawn = vae.sample(3000, generator=seeded())[:, 0]
    assert (drawn.long().bincount(minlength=C) / 3000 - 1 / C).abs().max() < 0.05


class OfLabelAlone(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return 100 * z[:, J:].argmax(-1, keepdim=True).to(z.dtype).expand(-1, D)


def test_bytes_stay_bytes_where_the_labels_fit() -> None:
    x = torch.zeros(2, 3, dtype=torch.uint8)
    assert with_labels(x, torch.tensor([0, 255])).dtype == torch.uint8
    joined = with_labels(x, torch.tensor([0, 256]))
    assert joined.dtype == torch.float32
    assert joined[1, 0] == 256


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "one label for each data point"),
        (torch.tensor([0, -1, 1]), "whole numbers from 0 on"),
        (torch.tensor([0, 0.5, 1]), "whole numbers from 0 on"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_labels(torch.zeros(3, D), labels)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0.0, 1.0, 3.0], "the labels must be 0 to 2, and the first that is not, in row 2, is 3"),
        ([0.0, -1.0, 3.0], "in row 1, is -1"),
        ([0.5, 1.0, 1.0], "in row 0, is 0.5"),
        ([float("nan"), 1.0, 1.0], "in row 0, is nan"),
    ],
)
def test_data_with_wrong_labels_are_refused(column: list[float], message: str) -> None:
    vae, _ = made("bits")
    with pytest.raises(ValueError, match=message):
        vae.check_data(torch.cat([torch.tensor(column)[:, None], torch.zeros(3, D)], 1))


def test_other_data_that_are_refused() -> None:
    vae, x = made("bits")
    with pytest.raises(ValueError, match=r"x must have shape \(B, 6\), got \(7, 5\)"):
        vae.elbo(x[:, 1:])
    with pytest.raises(ValueError, match="holds no data points"):
        vae.check_data(x[:0])
    with pytest.raises(ValueError, match="x must lie in"):
        vae.check_data(torch.cat([x[:, :1], x[:, 1:] * 2], 1))
    with pytest.raises(ValueError, match="the labels must be 0 to 2"):
        vae.sample(2, labels=3)
    with pytest.raises(ValueError, match="num_classes must be a whole number"):
        conditional(models.linear_vae, (D,), J, 0)


def test_it_learns_what_the_label_says_and_comes_back_from_its_file(tmp_path: Path) -> None:
    """Data whose mean is the label: with the label given, the latents have nothing left to say."""
    labels = torch.arange(300) % C
    x = with_labels(4.0 * labels[:, None] + torch.randn(300, D, generator=seeded()), labels)
    torch.manual_seed(0)
    vae = conditional(models.linear_vae, (D,), J, C, likelihood=likelihoods.Gaussian())
    optimization = training.Optimization(batch_size=50, learning_rate=0.05, schedule=training.warmup_cosine)
    history = training.fit(
        vae, x, num_epochs=200, optimization=optimization, execution=training.Execution(progress=False)
    )
    assert history.train_kl[-1] < 0.7  # a model without labels spends 2 nats to tell them
    with torch.no_grad():
        means = vae.mean(vae.with_label(torch.zeros(C, J), torch.arange(C)))
    assert (means - 4.0 * torch.arange(C)[:, None]).abs().max() < 1  # labels lie 4 apart
    records.save_model(tmp_path / "run.pt", vae, history, dtype=None)
    again, _ = records.load_model(tmp_path / "run.pt")
    assert isinstance(again, ConditionalVAE)
    assert torch.equal(again.sample(5, generator=seeded()), vae.sample(5, generator=seeded()))
    eps = vae.noise(1, 300, generator=seeded())
    assert torch.equal(again.elbo(x, eps=eps), vae.elbo(x, eps=eps))
