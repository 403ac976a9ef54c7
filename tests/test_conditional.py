"""models, given a label: against the exact linear model, and against a plain VAE whose networks have the label built in."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import assert_close, assert_refused, randn
from torch import Tensor, distributions, nn

from vae_tutorial import _data_check, annealing, evaluation, objectives, records, training
from vae_tutorial.families import FullRank, MeanField
from vae_tutorial.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
)
from vae_tutorial.models import VAE, ConditionalVAE, conditional, conv_vae, linear_vae, mlp_vae, with_labels
from vae_tutorial.priors import GaussianMixture, StandardNormal

J, C, D = 2, 3, 5  # latents, classes, dimensions of the linear model
QUIET = training.Execution(progress=False)

LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], Callable[[Tensor], Tensor]]] = {
    "Bernoulli": (Bernoulli, lambda u: (u > 0.5).double()),
    "Gaussian": (Gaussian, lambda u: 4 * u - 2),
    "continuous Bernoulli": (ContinuousBernoulli, lambda u: u),
    "discretized logistic": (DiscretizedLogistic, lambda u: (255 * u).round()),
    "Poisson": (Poisson, lambda u: (9 * u).round()),
    "negative binomial": (NegativeBinomial, lambda u: (9 * u).round()),
    "categorical": (lambda: Categorical(4), lambda u: (3 * u).round()),
}
PRIORS = {"normal": StandardNormal, "mixture": lambda num_latents: GaussianMixture(num_latents, 4)}


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomized(model: ConditionalVAE) -> ConditionalVAE:
    """Every parameter random, in double precision: what starts at zero would hide mistakes behind it."""
    for seed, parameter in enumerate(model.parameters()):
        parameter.data = randn(parameter.numel(), seed=seed).reshape(parameter.shape) / math.sqrt(8)
    return model.double()


class BuiltIn(nn.Module):
    """A conditional model's network that is always told the same label, typed in by hand."""

    def __init__(self, network: nn.Module, label: int) -> None:
        super().__init__()
        self.network, self.label = network, label

    def forward(self, inputs: Tensor) -> Tensor:  # (B, A, ...) -> the network's answer to (B, A + C, ...)
        told = torch.zeros(len(inputs), C, *inputs.shape[2:], dtype=inputs.dtype)
        told[:, self.label] = 1
        return self.network(torch.cat([inputs, told], 1))


def plain(model: ConditionalVAE, label: int) -> VAE:
    """The VAE that the conditional model is for one label."""
    networks = BuiltIn(model.encoder, label), BuiltIn(model.decoder, label)
    parts = {"prior": model.prior, "likelihood": model.likelihood, "family": model.family}
    return VAE(*networks, model.point_shape, **parts)


class Linear:
    """x = W z + b_y + s eps: p(x given y) and the posterior of z in closed form, and the conditional model that is it."""

    def __init__(self) -> None:
        self.weight, self.means, self.variance = randn(D, J, seed=1), 2 * randn(C, D, seed=2), 0.5
        self.covariance = self.weight @ self.weight.mT + self.variance * torch.eye(D).double()
        self.labels = torch.tensor([0, 1, 2, 2, 0, 1, 2, 0])
        z, eps = randn(8, J, seed=3), randn(8, D, seed=4)
        self.points = self.means[self.labels] + z @ self.weight.mT + math.sqrt(self.variance) * eps
        self.x = with_labels(self.points, self.labels)

    def evidence(self, labels: Tensor) -> Tensor:
        """log p(x given y), (B,)."""
        return distributions.MultivariateNormal(self.means[labels], self.covariance).log_prob(self.points)

    def model(self) -> ConditionalVAE:
        likelihood = Gaussian(log_var=math.log(self.variance))
        model = conditional(linear_vae, (D,), J, C, likelihood=likelihood, family=FullRank).double()
        decoder, encoder = model.decoder[0], model.encoder[1]
        decoder.weight.data = torch.cat([self.weight, self.means.mT], 1)
        decoder.bias.data = torch.zeros(D).double()
        precision = torch.eye(J).double() + self.weight.mT @ self.weight / self.variance
        gain = torch.linalg.solve(precision, self.weight.mT) / self.variance  # the mean is gain (x - b_y)
        encoder.affine.weight.data = torch.cat([gain, -gain @ self.means.mT], 1)
        encoder.affine.bias.data = torch.zeros(J).double()
        factor = torch.linalg.cholesky(precision.inverse())
        raw = 6 * torch.atanh(factor.diagonal().log() / 6)  # FullRank bounds the logarithms: undo that
        encoder.constant.data = torch.cat([raw, factor[1:, 0]])
        return model


# the exact linear model


def test_with_the_exact_posterior_every_log_weight_is_log_p_of_x_given_y() -> None:
    linear = Linear()
    log_w = linear.model().log_weights(linear.x, 20, generator=noise(1))
    assert_close(log_w, linear.evidence(linear.labels).expand(20, 8), 1e-9)
    assert (linear.evidence(linear.labels) - linear.evidence((linear.labels + 1) % C)).abs().min() > 0.1


def test_log_likelihood_and_a_chain_from_the_exact_posterior_give_the_evidence() -> None:
    linear = Linear()
    model, evidence = linear.model(), linear.evidence(linear.labels)
    found = evaluation.log_likelihood(model, linear.x, num_samples=7, batch_size=3, generator=noise(0))
    assert_close(found, evidence, 1e-9)
    path = {"betas": annealing.temperatures(4), "step_size": 0.3, "generator": noise(1)}
    with torch.no_grad():
        start = model.posterior(linear.x)
    assert_close(annealing.ais(model, linear.x, start=start, num_chains=3, **path).log_w, evidence.expand(3, 8), 1e-9)


def test_chains_from_the_prior_come_to_the_evidence_from_both_sides() -> None:
    """E w = p(x given y), and 1 / w has the mean 1 / p for the chains that walk back from exact samples of the posterior.

    Four standard errors are 0.3 at most; another class makes p(x given y) smaller or larger by half at least.
    """
    linear = Linear()
    model, x, evidence = linear.model(), linear.x, linear.evidence(linear.labels)
    start = MeanField(torch.zeros(8, J).double(), torch.zeros(8, J).double())
    path = {"start": start, "betas": annealing.temperatures(100), "step_size": 0.25, "num_leapfrog": 5}
    with torch.no_grad():
        z = model.posterior(x).sample(200, generator=noise(2))
    lower = annealing.ais(model, x, num_chains=200, generator=noise(3), **path).log_w
    upper = annealing.reverse_ais(model, x, z, generator=noise(4), **path).log_w
    for ratio in ((lower - evidence).exp(), (evidence - upper).exp()):
        error = 4 * ratio.std(0) / math.sqrt(200)
        assert ((ratio.mean(0) - 1).abs() < error).all()
        assert error.max() < 0.3
    others = torch.stack([linear.evidence((linear.labels + shift) % C) for shift in (1, 2)])
    assert ((others - evidence).exp() - 1).abs().min() > 0.5


def test_evaluate_records_a_conditional_model(tmp_path) -> None:
    linear = Linear()
    model = linear.model()
    few = {"num_samples": (1, 4), "num_annealed": 3, "num_steps": 3, "num_chains": 2, "progress": False}
    simulated = (linear.x, randn(8, J, seed=6))
    record = evaluation.evaluate(model, linear.x, tmp_path / "record.pt", simulated=simulated, **few)
    evidence = linear.evidence(linear.labels)
    assert_close(record["importance"]["bounds"], evidence.expand(2, 8), 1e-9)
    assert_close(record["annealed"]["log_w"], evidence[:3].expand(2, 3), 1e-9)
    assert evaluation.load_record(tmp_path / "record.pt", model)["done"]["simulated"] == 8


def test_samples_of_a_label_have_its_mean_and_covariance() -> None:
    """Within four standard errors of 20,000 draws."""
    linear = Linear()
    model = linear.model()
    for label in range(C):
        points, labels = model.parts(model.sample(20_000, labels=label, generator=noise(label)))
        assert labels.unique().tolist() == [label]
        error = (linear.covariance.diagonal() / 20_000).sqrt()
        assert ((points.mean(0) - linear.means[label]).abs() < 4 * error).all()
        assert (torch.cov(points.mT) - linear.covariance).abs().max() < 4 * linear.covariance.max() * (
            2 / 20_000
        ) ** 0.5


# a conditional model is one VAE for each label


@pytest.mark.parametrize("family", [MeanField, FullRank])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_parts_combine(likelihood: str, prior: str, family: type, dtype: torch.dtype) -> None:
    """Each combination: label by label the plain VAE's numbers, samples that are data again, a record, steps uphill."""
    make, transform = LIKELIHOODS[likelihood]
    parts = {"prior": PRIORS[prior](J), "likelihood": make(), "family": family}
    model = randomized(conditional(mlp_vae, (2, 3), J, C, num_hidden=8, **parts)).to(dtype)
    points = transform(torch.rand(30, 2, 3, generator=noise(0)).double()).to(dtype)
    labels = torch.arange(30) % C
    x, eps = with_labels(points, labels), randn(4, 30, J, seed=7, dtype=dtype)
    assert x.dtype == dtype
    model.check_data(x)
    close = 1e-12 if dtype == torch.float64 else 1e-4
    terms, log_w, z = model.elbo_terms(x, eps=eps), model.log_weights(x, 4, eps=eps), model.latents(x, eps)
    for label in range(C):
        of_it, one = labels == label, plain(model, label)
        its = one.elbo_terms(points[of_it], eps=eps[:, of_it])
        assert_close(terms.reconstruction[of_it], its.reconstruction, close)
        assert_close(terms.kl[of_it], its.kl, close)
        assert_close(log_w[:, of_it], one.log_weights(points[of_it], 4, eps=eps[:, of_it]), close)
        assert_close(model.log_joint(x, z)[:, of_it], one.log_joint(points[of_it], z[:, of_it]), close)
        assert_close(model.reconstruct(x)[of_it], one.reconstruct(points[of_it]), close)
        assert_close(model.mean(model.with_label(z, labels))[:, of_it], one.mean(z[:, of_it]), close)
        drawn = model.sample(7, labels=label, generator=noise(2))
        assert_close(drawn[:, 1:].view(7, 2, 3), one.sample(7, generator=noise(2)), close)
        model.check_data(drawn)
    assert model.reconstruct(x).shape == (30, *model.likelihood.output_shape((2, 3)))
    again = records.build(records.describe(model)).to(dtype)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.log_weights(x, 4, eps=eps), log_w)
    path = {"start": model.posterior(x), "betas": annealing.temperatures(3), "step_size": 0.1, "num_leapfrog": 1}
    assert annealing.ais(model, x, num_chains=2, generator=noise(3), **path).log_w.isfinite().all()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(15):
        optimizer.zero_grad()
        (-model.elbo(x, eps=eps).mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert model.elbo(x, eps=eps).mean() > (terms.reconstruction - terms.kl).mean()


@pytest.mark.parametrize(("build", "sizes"), [(linear_vae, {}), (mlp_vae, {"num_hidden": 6}), (conv_vae, None)])
def test_colour_images_get_a_plane_for_each_class(build: Callable[..., VAE], sizes: dict[str, int] | None) -> None:
    sizes = {"num_channels": 4, "num_blocks": 1, "patch_size": 2} if sizes is None else sizes
    model = randomized(conditional(build, (3, 6, 4), J, C, **sizes))
    assert model.encoder.arguments["data_shape"] == (3 + C, 6, 4)
    assert model.decoder.arguments["data_shape"] == (3, 6, 4)
    assert model.decoder.arguments["num_latents"] == J + C
    assert model.point_shape == (3, 6, 4)
    assert model.data_shape == (1 + 72,)
    points, labels = (randn(4, 3, 6, 4, seed=0) > 0).double(), torch.tensor([2, 0, 1, 2])
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    q = model.posterior(with_labels(points, labels))
    assert torch.equal(seen[0][:, :3], points)
    assert seen[0][:, 3:].flatten(2).mean(-1).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert torch.equal(seen[0][:, 3:], seen[0][:, 3:, :1, :1].expand(-1, -1, 6, 4))
    for b, label in enumerate(labels.tolist()):
        assert_close(q.mu[b], plain(model, label).posterior(points[b : b + 1]).mu[0])


def test_what_the_likelihood_shows_the_encoder_stands_beside_the_label() -> None:
    """Grey levels are shown divided by 255, and the label is not."""
    model = conditional(linear_vae, (2,), J, C, likelihood=DiscretizedLogistic()).double()
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.posterior(with_labels(torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([1])))
    assert seen[0].tolist() == [[0, 1, 0, 1, 0]]


def test_the_label_reaches_both_networks() -> None:
    model = randomized(conditional(mlp_vae, (4,), J, C, num_hidden=6))
    points, z = (randn(1, 4, seed=0) > 0).double().expand(C, 4), randn(1, J, seed=1).expand(C, J)
    x = with_labels(points, torch.arange(C))
    for values in (model.posterior(x).mu, model.decode(model.with_label(z, torch.arange(C)))):
        assert torch.pdist(values.detach()).min() > 1e-3
    assert (model.log_p_x_given_z(x, z).diff().abs() > 1e-3).all()


# the label and the data in one tensor


@pytest.mark.parametrize(
    ("dtype", "highest", "expected"),
    [
        (torch.uint8, 255, torch.uint8),
        (torch.uint8, 256, torch.float32),
        (torch.bool, 2, torch.float32),
        (torch.int64, 300, torch.int64),
        (torch.float16, 2048, torch.float16),
        (torch.float16, 2049, torch.float32),
        (torch.float32, 9, torch.float32),
        (torch.float64, 9, torch.float64),
    ],
)
def test_the_label_stands_in_front_and_nothing_is_rounded(
    dtype: torch.dtype, highest: int, expected: torch.dtype
) -> None:
    points, labels = torch.tensor([[[0, 1], [1, 1]], [[1, 0], [0, 1]]]).to(dtype), torch.tensor([0, highest])
    x = with_labels(points, labels)
    assert x.dtype == expected
    assert x.tolist() == [[0, 0, 1, 1, 1], [highest, 1, 0, 0, 1]]
    for same in (labels.double(), labels.int(), labels.numpy()):
        assert torch.equal(with_labels(points, same), x)
    assert with_labels(points[:0], labels[:0]).shape == (0, 5)
    assert with_labels(points[:, 0, 0], labels).shape == (2, 2)


def test_parts_takes_the_two_apart_again() -> None:
    model = conditional(conv_vae, (3, 6, 4), J, C, num_channels=4, num_blocks=0)
    points, labels = (255 * torch.rand(4, 3, 6, 4, generator=noise(0))).byte(), torch.tensor([2, 0, 1, 2])
    for dtype in (torch.uint8, torch.float32):
        found = model.parts(with_labels(points, labels).to(dtype))
        assert torch.equal(found[0], points.to(dtype))
        assert torch.equal(found[1], labels)
    assert [len(part) for part in model.parts(torch.zeros(0, 73))] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64])
def test_data_of_any_type_are_taken_in_the_models_precision(dtype: torch.dtype) -> None:
    model = conditional(mlp_vae, (2, 3), J, C, num_hidden=6)
    x = with_labels((randn(6, 2, 3, seed=0) > 0).float(), torch.arange(6) % C)
    assert torch.equal(model.elbo(x.to(dtype), generator=noise(0)), model.elbo(x, generator=noise(0)))
    assert model.elbo(x.to(dtype)).dtype == torch.float32


def test_a_latent_is_given_its_label_one_hot() -> None:
    model = conditional(linear_vae, (4,), J, C)
    z = randn(2, 4, J, seed=0)
    told = model.with_label(z, torch.tensor([0, 2, 1, 0]))
    assert torch.equal(told[..., :J], z)
    assert told[1, :, J:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert torch.equal(model.with_label(z, 2)[..., J:], torch.tensor([0.0, 0, 1]).double().expand(2, 4, C))
    assert model.with_label(z.float(), 2).dtype == torch.float32


def test_samples_carry_the_labels_that_were_asked_for() -> None:
    model = conditional(linear_vae, (4,), J, C)
    labels = torch.tensor([2, 0, 1, 1])
    x = model.sample(4, labels=labels, generator=noise(0))
    assert x.shape == (4, 5)
    assert torch.equal(x[:, 0], labels.float())
    assert torch.equal(model.sample(4, labels=1, generator=noise(0))[:, 0], torch.ones(4))
    drawn = model.sample(3000, generator=noise(0))
    assert torch.equal(model.sample(3000, generator=noise(0)), drawn)
    counts = drawn[:, 0].long().bincount(minlength=C)
    assert len(counts) == C
    assert (counts - 1000).abs().max() < 4 * math.sqrt(3000 * (1 / 3) * (2 / 3))


# its life


@pytest.mark.parametrize("objective", [objectives.elbo(), objectives.iwae(3), objectives.free_bits(0.1)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_fit_and_a_file_keep_a_conditional_model(
    tmp_path, objective: objectives.Objective, precision: torch.dtype
) -> None:
    model = conditional(conv_vae, (1, 4, 4), J, C, num_channels=4, num_blocks=1)
    x = with_labels((torch.rand(60, 1, 4, 4, generator=noise(0)) > 0.5).byte(), torch.arange(60) % C)
    optimization = training.Optimization(batch_size=20, ema_decay=0.9)
    execution = training.Execution(progress=False, precision=precision, checkpoint=tmp_path / "checkpoint.pt")
    settings = {"objective": objective, "optimization": optimization, "execution": execution}
    history = training.fit(model, x, x_test=x[:9], num_epochs=1, **settings)
    assert math.isfinite(history.test_elbo[0])
    records.save_model(tmp_path / "model.pt", model, history, dtype=None)
    again, run = records.load_model(tmp_path / "model.pt")
    assert type(again) is ConditionalVAE
    assert (again.point_shape, again.num_classes, run.history) == ((1, 4, 4), C, history)
    eps = randn(4, 60, J, seed=8, dtype=torch.float32)
    assert torch.equal(again.log_weights(x, 4, eps=eps), model.eval().log_weights(x, 4, eps=eps))
    assert torch.equal(again.sample(5, generator=noise(1)), model.sample(5, generator=noise(1)))
    assert records.differences(records.describe(again), records.describe(model)) == []


def test_training_learns_what_the_label_says() -> None:
    """Three patterns of six pixels, one a class: the label alone tells x, so that the bound comes near to 0 nats."""
    points = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]]).byte().repeat(100, 1)
    labels = torch.arange(300) % C
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = conditional(linear_vae, (6,), J, C)
    optimization = training.Optimization(batch_size=20, learning_rate=0.05)
    training.fit(model, with_labels(points, labels), num_epochs=8, optimization=optimization, execution=QUIET)
    bound = {shift: model.elbo(with_labels(points, (labels + shift) % C)).mean().item() for shift in range(C)}
    assert bound[0] > -0.5
    assert max(bound[1], bound[2]) < -5
    z = torch.zeros(1, J)
    means = torch.cat([model.mean(model.with_label(z, label)) for label in range(C)])
    assert torch.equal(means.round(), points[:C].float())


# what is refused


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1]), ((3, 4), (2,))),
        (torch.tensor([[0], [1], [2]]), ((3, 4), (3, 1))),
        (torch.tensor(1), ((3, 4), ())),
        (torch.tensor([0, 1, -1]), ("whole", "-1", "row 2")),
        (torch.tensor([0, 0.5, -1]), ("whole", "0.5", "row 1")),
        (torch.tensor([0, 1 - 1e-7, 1]).double(), ("whole", "0.99999988", "row 1")),
        (torch.tensor([math.nan, 1, 0]), ("whole", "nan", "row 0")),
        (torch.tensor([1, math.inf, 0]), ("whole", "inf", "row 1")),
        (torch.tensor([1, 2**24, 0]), ("whole", "row 1")),
    ],
)
def test_labels_that_are_none_are_refused(labels: Tensor, words: tuple[str | tuple[int, ...], ...]) -> None:
    assert_refused(lambda: with_labels(torch.zeros(3, 4), labels), "labels", *words)


def test_data_without_axes_are_refused() -> None:
    assert_refused(lambda: with_labels(torch.tensor(1.0), torch.tensor(1)), "x", "labels", "(N,)")


@pytest.mark.parametrize("label", [3, -1, 0.5, math.nan])
def test_a_label_outside_the_classes_is_refused_by_its_row(label: float) -> None:
    model = conditional(linear_vae, (2, 2), J, C)
    x = with_labels(torch.zeros(6, 2, 2), torch.arange(6) % C)
    model.check_data(x)
    x[4:, 0] = label
    for check in (model.check_data, model.check_labels):
        assert_refused(lambda check=check: check(x), "x", "first column", "from 0 to 2", f"got {label:g}", "row 4")


def test_the_row_is_counted_from_the_start_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training looks at some rows at a time."""
    monkeypatch.setattr(_data_check, "CHUNK", 50)  # ten rows
    model, x = conditional(linear_vae, (4,), J, C), torch.zeros(40, 5)
    x[13, 0] = 7
    settings = {"optimization": training.Optimization(batch_size=8), "execution": QUIET}
    assert_refused(lambda: training.fit(model, x, num_epochs=1, **settings), "from 0 to 2", "got 7", "row 13")
    x[13, 0], x[13, 1] = 0, 7
    assert_refused(lambda: training.fit(model, x, num_epochs=1, **settings), "[0, 1]", "found in rows 10 to 19")


def test_data_that_the_likelihood_does_not_describe_are_refused() -> None:
    model = conditional(linear_vae, (2, 2), J, C)
    x = with_labels(torch.zeros(3, 2, 2), torch.arange(3))
    assert_refused(lambda: model.check_data(x[:0]), "x", "empty")
    assert_refused(lambda: model.check_data(x + torch.tensor([0, 0, 0, 0, 2])), "x", "[0, 1]", "binarize")
    points = torch.zeros(3, 2, 2)
    for function in (model.check_data, model.check_labels, model.elbo, model.parts, model.reconstruct):
        assert_refused(lambda f=function: f(points), "x", "(B, 5)", (3, 2, 2), "with_labels(x, labels)")
    assert_refused(lambda: model.log_p_x_given_z(points, torch.zeros(4, 3, J)), "x", "(B, 5)", "with_labels(x, labels)")
    assert_refused(lambda: model.log_p_x_given_z(x, torch.zeros(4, 1, J)), "z", "labels", (4, 1, J), (3,))


def test_latents_without_their_label_are_refused() -> None:
    model = conditional(linear_vae, (4,), J, C)
    for function in (model.decode, model.mean):
        assert_refused(lambda f=function: f(torch.zeros(7, J)), "z", "(..., 5)", (7, J), "with_label(z, labels)")
    assert_refused(lambda: model.with_label(torch.zeros(7, J + C), 0), "z", "(..., 2)", (7, J + C))
    assert_refused(lambda: model.with_label(torch.zeros(7, J), torch.zeros(6)), "z", "labels", (7, J), (6,))
    assert_refused(lambda: model.with_label(torch.zeros(7, J), 3), "labels", "0 to 2", "got 3")
    assert_refused(lambda: model.with_label(torch.zeros(2, J), torch.tensor([0, -1])), "0 to 2", "got -1", "row 1")


def test_samples_of_other_labels_are_refused() -> None:
    model = conditional(linear_vae, (4,), J, C)
    assert_refused(lambda: model.sample(2, labels=3), "labels", "0 to 2", "got 3")
    assert_refused(lambda: model.sample(2, labels=torch.tensor([0, 1, 2])), "labels", "(2,)", (3,))
    assert_refused(lambda: model.sample(2, labels=torch.tensor([0, 0.5])), "labels", "0 to 2", "got 0.5", "row 1")
    assert_refused(lambda: model.sample(0, labels=1), "num_samples")


def test_models_that_do_not_fit_together_are_refused() -> None:
    assert_refused(lambda: conditional(linear_vae, (4,), 2, C, prior=StandardNormal(3)), "num_latents", "prior")
    for num_classes in (0, 2.5):
        assert_refused(lambda c=num_classes: conditional(linear_vae, (4,), J, c), "num_classes")
    assert_refused(lambda: conditional(linear_vae, (), J, C), "data_shape")
    networks = nn.Linear(4 + C, 2 * J), nn.Linear(J + C, 4)
    assert ConditionalVAE(*networks, (4,), num_classes=C, prior=StandardNormal(J)).elbo(torch.zeros(3, 5)).shape == (3,)
    assert_refused(lambda: ConditionalVAE(*networks, (4,), num_classes=0, prior=StandardNormal(J)), "num_classes")
