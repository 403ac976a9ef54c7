"""models: the VAE's objective against the exact linear model, against quadrature and against torch.distributions."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from oracles import assert_close, assert_finite_gradients, assert_refused, randn
from torch import Tensor, distributions, nn

from vae_tutorial import aggregated, annealing, families, linear_gaussian, objectives, records, training
from vae_tutorial import data as data_module
from vae_tutorial.families import FullRank, MeanField
from vae_tutorial.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    NegativeBinomial,
    Poisson,
)
from vae_tutorial.linear_gaussian import FactorAnalysis
from vae_tutorial.models import VAE, Autoencoder, ElboTerms, conv_vae, linear_vae, mlp_autoencoder, mlp_vae
from vae_tutorial.priors import GaussianMixture, StandardNormal

K, B, J = 4, 3, 2
QUIET = training.Execution(progress=False)

BUILDERS: dict[str, Callable[[], VAE]] = {
    "linear": lambda: linear_vae((5,), J),
    "linear Gaussian": lambda: linear_vae((5,), J, likelihood=Gaussian()),
    "MLP": lambda: mlp_vae((2, 3), J, num_hidden=7),
    "MLP Gaussian": lambda: mlp_vae((2, 3), J, num_hidden=7, likelihood=Gaussian()),
    "convolutional": lambda: conv_vae(num_latents=J, num_channels=4, num_blocks=1),
    "linear fixed Gaussian": lambda: linear_vae((5,), J, likelihood=Gaussian(log_var=-0.75)),
    "linear continuous Bernoulli": lambda: linear_vae((5,), J, likelihood=ContinuousBernoulli()),
    "MLP continuous Bernoulli": lambda: mlp_vae((2, 3), J, num_hidden=7, likelihood=ContinuousBernoulli()),
    "linear discretized logistic": lambda: linear_vae((5,), J, likelihood=DiscretizedLogistic()),
    "MLP discretized logistic": lambda: mlp_vae((2, 3), J, num_hidden=7, likelihood=DiscretizedLogistic()),
}
every_model = pytest.mark.parametrize("name", BUILDERS)


def build(name: str, dtype: torch.dtype = torch.float64) -> VAE:
    """A model with every parameter random: what starts at zero would hide mistakes behind it."""
    model = BUILDERS[name]()
    for seed, parameter in enumerate(model.parameters()):
        fan_in = max(parameter[0].numel() if parameter.dim() > 1 else 4, 4)
        parameter.data = randn(parameter.numel(), seed=seed).reshape(parameter.shape) / math.sqrt(fan_in)
    return model.to(dtype)


def data(model: VAE, num_data: int = B, dtype: torch.dtype = torch.float64) -> Tensor:
    """Binary data, or what the model's likelihood is for: real numbers, grey pixels in [0, 1], grey levels 0 to 255."""
    x = randn(num_data, *model.data_shape, seed=99)
    if isinstance(model.likelihood, ContinuousBernoulli):
        return torch.sigmoid(2 * x).to(dtype)
    if isinstance(model.likelihood, DiscretizedLogistic):
        return (128 + 100 * x).round().clamp(0, 255).to(dtype)
    return (x if isinstance(model.likelihood, Gaussian) else (x > 0)).to(dtype)


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corners(num_data: int, num_latents: int) -> Tensor:
    """In place of noise the 2^J points in {-1, 1}^J for each data point, (2^J, B, J).

    They are the Gauss-Hermite nodes of order two, all of one weight: the mean over them is the expectation under
    N(0, I), exactly, of any polynomial of degree at most three in each coordinate.
    """
    nodes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=num_latents)), dtype=torch.float64)
    return nodes[:, None].expand(-1, num_data, -1)


def probabilistic_pca(num_latents: int, num_dims: int = 5) -> FactorAnalysis:
    """A model with orthogonal loadings and one noise variance: its posterior has a diagonal covariance."""
    columns = torch.linalg.qr(randn(num_dims, num_latents, seed=1)).Q * torch.tensor([1.7, 0.6, 1.1])[:num_latents]
    return FactorAnalysis(columns, randn(num_dims, seed=2), torch.full((num_dims,), math.log(0.3)).double())


def as_vae(model: FactorAnalysis, *, with_posterior: bool = True) -> VAE:
    """The same generative model as a linear VAE; its encoder is the exact posterior, or else a random one."""
    num_dims, num_latents = model.weight.shape
    vae = linear_vae((num_dims,), num_latents, likelihood=Gaussian()).double()
    vae.decoder[0].weight.data, vae.decoder[0].bias.data = model.weight.clone(), model.bias.clone()
    vae.likelihood.log_var_x.data = model.log_var[0].clone()
    posterior = linear_gaussian.posterior(model, torch.cat([torch.zeros(1, num_dims), torch.eye(num_dims)]).double())
    encoder = vae.encoder[1]
    if with_posterior:
        encoder.affine.bias.data = posterior.mean[0]
        encoder.affine.weight.data = (posterior.mean[1:] - posterior.mean[0]).mT
        log_var = posterior.covariance.diagonal().log()
        encoder.constant.data = 12 * torch.atanh(log_var / 12)  # the encoder bounds it: undo that
    else:
        encoder.affine.weight.data = randn(num_latents, num_dims, seed=3)
        encoder.constant.data = randn(num_latents, seed=4)
    return vae


# the exact linear model


@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_with_the_exact_posterior_every_log_weight_is_the_log_evidence(num_latents: int) -> None:
    model = probabilistic_pca(num_latents)
    _, x = linear_gaussian.sample(model, 20, generator=noise(0))
    log_w = as_vae(model).log_weights(x, 50, generator=noise(1))
    assert_close(log_w, linear_gaussian.log_evidence(model, x).expand(50, 20), 1e-10)


@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_elbo_is_the_closed_form_of_the_linear_model(num_latents: int) -> None:
    """The integrand is quadratic in z, so the corners give the exact expectation; a ½ or a sign would show."""
    model = probabilistic_pca(num_latents)
    vae = as_vae(model, with_posterior=False)
    _, x = linear_gaussian.sample(model, 6, generator=noise(0))
    elbo = vae.elbo(x, eps=corners(6, num_latents))
    assert_close(elbo, linear_gaussian.elbo(model, x, *vae.encode(x)), 1e-10)
    gap = linear_gaussian.kl_to_posterior(model, x, *vae.encode(x))
    assert_close(elbo + gap, linear_gaussian.log_evidence(model, x), 1e-10)
    assert gap.min() > 0.05


@every_model
def test_expected_log_weight_is_the_elbo(name: str) -> None:
    """E log w = E log p(x|z) - KL: log p(z) - log q(z) is quadratic, the rest is the same number on both sides."""
    model = build(name)
    x, eps = data(model), corners(B, J)
    assert_close(model.log_weights(x, len(eps), eps=eps).mean(0), model.elbo(x, eps=eps), 1e-10)


# the equations, typed out with torch.distributions


class Levels(distributions.Distribution):
    """A logistic variable rounded to the nearest of the levels 0, 1/255, ..., 1."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        self.mean_, self.scale = mean, scale
        super().__init__(batch_shape=mean.shape, validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        upper, lower = (torch.sigmoid(((x + half) / 255 - self.mean_) / self.scale) for half in (0.5, -0.5))
        return (torch.where(x == 255, 1.0, upper) - torch.where(x == 0, 0.0, lower)).log()


def naive(model: VAE, x: Tensor, num_samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(x|z), log p(z), log q(z|x), each (K, B), and KL(q || p) (B,)."""
    mu, log_var = model.encode(x)
    q = distributions.Independent(distributions.Normal(mu, (log_var / 2).exp()), 1)
    prior = distributions.Independent(distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    eps = torch.randn(num_samples, *mu.shape, generator=noise(seed), dtype=mu.dtype)
    z = mu + (log_var / 2).exp() * eps
    output = torch.stack([model.decode(z[k]) for k in range(num_samples)])
    if isinstance(model.likelihood, Gaussian):
        p_x = distributions.Normal(output, (model.likelihood.log_var_x / 2).exp())
    elif isinstance(model.likelihood, ContinuousBernoulli):
        p_x = distributions.ContinuousBernoulli(logits=output, lims=(0.4999, 0.5001))
    elif isinstance(model.likelihood, DiscretizedLogistic):
        p_x = Levels(output, model.likelihood.log_scale.exp())
    else:
        p_x = distributions.Bernoulli(logits=output)
    p_x = distributions.Independent(p_x, len(model.data_shape))
    return p_x.log_prob(x), prior.log_prob(z), q.log_prob(z), distributions.kl_divergence(q, prior)


@every_model
def test_log_weights_are_log_p_of_x_and_z_minus_log_q(name: str) -> None:
    model = build(name)
    x = data(model)
    log_p_x_given_z, log_p_z, log_q_z, _ = naive(model, x, K, seed=5)
    assert_close(model.log_weights(x, K, generator=noise(5)), log_p_x_given_z + log_p_z - log_q_z, 1e-10)


@every_model
@pytest.mark.parametrize("num_samples", [1, K])
def test_elbo_terms_are_the_mean_log_likelihood_and_the_kl_to_the_prior(name: str, num_samples: int) -> None:
    model = build(name)
    x = data(model)
    log_p_x_given_z, _, _, kl = naive(model, x, num_samples, seed=6)
    terms = model.elbo_terms(x, num_samples=num_samples, generator=noise(6))
    assert_close(terms.reconstruction, log_p_x_given_z.mean(0), 1e-10)
    assert_close(terms.kl, kl, 1e-10)
    elbo = model.elbo(x, num_samples=num_samples, generator=noise(6))
    assert_close(elbo, log_p_x_given_z.mean(0) - kl, 1e-10)


@every_model
def test_elbo_is_the_mean_log_weight_but_for_the_sampled_kl(name: str) -> None:
    model = build(name)
    x = data(model)
    _, log_p_z, log_q_z, kl = naive(model, x, K, seed=7)
    difference = model.elbo(x, num_samples=K, generator=noise(7)) - model.log_weights(x, K, generator=noise(7)).mean(0)
    assert_close(difference, (log_q_z - log_p_z).mean(0) - kl, 1e-9)


def test_log_q_keeps_its_digits_where_sigma_is_small_beside_mu() -> None:
    """mu = 30, sigma = 0.0025: in float32 (z - mu) / sigma is wrong in its fourth digit, and log q by 1e-3; eps is exact."""
    model = VAE(nn.Identity(), ConstantLogits(torch.zeros(2)), (2,), prior=StandardNormal(1))
    x = torch.tensor([[30.0, -60.0]])  # the mean, the raw log-variance
    log_w = model.log_weights(x, 16, generator=noise(0)).flatten()
    log_var, eps = 12 * math.tanh(-60 / 12), torch.randn(16, 1, 1, generator=noise(0)).flatten().double()
    log_p_z = -0.5 * (math.log(2 * math.pi) + (30 + math.exp(log_var / 2) * eps) ** 2)
    log_q_z = -0.5 * (math.log(2 * math.pi) + eps**2 + log_var)
    expected = 2 * math.log(0.5) + log_p_z - log_q_z  # two fair coins, whatever x
    torch.testing.assert_close(log_w.double(), expected, rtol=0, atol=2e-4)


# shapes


@every_model
def test_shapes(name: str) -> None:
    model = build(name)
    x = data(model)
    mu, log_var = model.encode(x)
    assert mu.shape == log_var.shape == (B, J)
    z = randn(K, B, J, seed=0)
    assert model.decode(z).shape == (K, B, *model.data_shape)
    assert model.log_p_x_given_z(x, z).shape == (K, B)
    assert model.log_p_x_given_z(x, z[0]).shape == (B,)
    assert model.log_weights(x, K).shape == (K, B)
    terms = model.elbo_terms(x, num_samples=K)
    assert terms.reconstruction.shape == terms.kl.shape == model.elbo(x).shape == (B,)


@every_model
def test_decoding_treats_every_latent_alone(name: str) -> None:
    model = build(name)
    z = randn(K, B, J, seed=8)
    together = model.decode(z)
    for k, b in itertools.product(range(K), range(B)):
        assert_close(model.decode(z[k, b]), together[k, b])
    assert_close(model.decode(z.transpose(0, 1)), together.transpose(0, 1))
    assert model.decode(z[:0]).shape == (0, B, *model.data_shape)


@every_model
def test_each_data_point_has_its_own_bound(name: str) -> None:
    """A sum over the batch, or a mixed-up axis, would show: the bound of the first point does not see the others."""
    model = build(name)
    x = data(model)
    top = 255 if isinstance(model.likelihood, DiscretizedLogistic) else 1
    other = torch.cat([x[:1], top - x[1:]])
    for function in (model.elbo, lambda x, generator: model.log_weights(x, K, generator=generator)):
        first, second = function(x, generator=noise(0)), function(other, generator=noise(0))
        assert_close(first[..., 0], second[..., 0])
        assert ((first - second)[..., 1:].abs() > 1e-3).all()


# the networks


def test_the_linear_vae_is_affine_and_its_variance_does_not_see_x() -> None:
    model = build("linear Gaussian")
    x, y = randn(2, B, 5, seed=0)
    (mu_x, log_var_x), (mu_y, log_var_y), (mu_mid, _) = (model.encode(v) for v in (x, y, 0.25 * x + 0.75 * y))
    assert_close(mu_mid, 0.25 * mu_x + 0.75 * mu_y)
    assert torch.equal(log_var_x, log_var_y)
    assert len(log_var_x.unique(dim=0)) == 1
    z, w = randn(2, B, J, seed=1)
    assert_close(model.decode(0.25 * z + 0.75 * w), 0.25 * model.decode(z) + 0.75 * model.decode(w))


def test_the_mlp_vae_has_one_hidden_layer_on_each_side() -> None:
    model, num_data, num_hidden = mlp_vae((2, 3), J, num_hidden=7), 6, 7
    encoder = (num_data + 1) * num_hidden + (num_hidden + 1) * 2 * J
    decoder = (J + 1) * num_hidden + (num_hidden + 1) * num_data
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder
    x, y = randn(2, B, 2, 3, seed=0)
    middle = model.float().encode(((x + y) / 2).float())[1]
    assert (middle - (model.encode(x.float())[1] + model.encode(y.float())[1]) / 2).abs().max() > 1e-3


@pytest.mark.parametrize(("num_latents", "num_channels", "num_blocks"), [(32, 64, 2), (3, 4, 0), (5, 8, 3)])
def test_the_convolutional_vae_has_the_layers_it_says(num_latents: int, num_channels: int, num_blocks: int) -> None:
    model = conv_vae(num_latents=num_latents, num_channels=num_channels, num_blocks=num_blocks)
    grid = 49 * num_channels
    block = 2 * (9 * num_channels**2 + num_channels)
    encoder = 16 * num_channels + num_channels + num_blocks * block + (grid + 1) * 2 * num_latents
    decoder = (num_latents + 1) * grid + num_blocks * block + 9 * num_channels * 16 + 16
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder
    assert model.data_shape == (1, 28, 28)
    assert model.elbo(torch.ones(2, 1, 28, 28)).shape == (2,)


def test_a_hidden_layer_stands_between_the_grid_and_the_latents() -> None:
    plain, hidden = (conv_vae(num_latents=3, num_channels=4, num_blocks=1, num_hidden=h) for h in (None, 7))
    shapes = [tuple(p.shape) for p in hidden.parameters() if p.dim() == 2]
    assert shapes == [(7, 4 * 49), (6, 7), (7, 3), (4 * 49, 7)]
    assert [tuple(p.shape) for p in plain.parameters() if p.dim() == 2] == [(6, 4 * 49), (4 * 49, 3)]
    assert [type(layer) for layer in hidden.encoder[-4:]] == [nn.Flatten, nn.Linear, nn.SiLU, nn.Linear]
    assert [type(layer) for layer in hidden.decoder[:4]] == [nn.Linear, nn.SiLU, nn.Linear, nn.Unflatten]
    assert hidden.elbo(torch.ones(2, 1, 28, 28)).shape == (2,)


def test_the_defaults_of_the_convolutional_vae() -> None:
    """The recorded full run was made with these: another default would not load it."""
    assert sum(p.numel() for p in conv_vae().parameters()) == 610_000
    assert conv_vae().encode(torch.ones(1, 1, 28, 28))[0].shape == (1, 32)


def test_a_patch_goes_to_one_cell_of_the_grid_and_back() -> None:
    """Without blocks the encoder's grid sees each 4 x 4 patch alone, and the decoder's shuffle puts it in its place."""
    model = conv_vae(num_latents=2, num_channels=3, num_blocks=0)
    x = torch.zeros(1, 1, 28, 28)
    x[..., 8:12, 20:24] = 1
    changed = (model.encoder[0](x) - model.encoder[0](torch.zeros_like(x))).abs().sum(1)[0] > 0
    assert changed.nonzero().tolist() == [[2, 5]]
    grid = torch.zeros(1, 16, 7, 7)
    grid[0, :, 2, 5] = 1
    assert torch.equal(model.decoder[-1](grid), x)


def test_a_residual_block_starts_as_the_identity_plus_a_constant() -> None:
    block = conv_vae(num_latents=2, num_channels=4, num_blocks=1).encoder[1]
    change = block(x := randn(B, 4, 7, 7, seed=0, dtype=torch.float32)) - x
    assert_close(change, block.second.bias[:, None, None].expand_as(x), 1e-6)


# the bounded log-variance


def encoded_log_var(raw: Tensor) -> Tensor:
    """What the model makes of the encoder's raw log-variances (B, 1)."""
    return MeanField.from_outputs(torch.cat([torch.zeros_like(raw), raw], -1)).log_var


def test_the_log_variance_is_12_tanh_of_a_twelfth() -> None:
    raw = torch.linspace(-60, 60, 241, dtype=torch.float64)[:, None]
    log_var = encoded_log_var(raw)
    assert_close(log_var, torch.tensor([[12 * math.tanh(r / 12)] for r in raw.flatten().tolist()], dtype=raw.dtype))
    assert log_var.abs().max() < families.LOG_VAR_LIMIT == 12
    assert (log_var.diff(dim=0) > 0).all()
    near = raw.abs() <= 1
    assert ((log_var - raw)[near].abs() <= 0.0024).all()  # almost the identity where variances usually lie


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [-60.0, -12.0, 0.0, 12.0, 60.0])
def test_the_bounded_log_variance_never_loses_its_gradient(raw: float, dtype: torch.dtype) -> None:
    (gradient,) = assert_finite_gradients(encoded_log_var, torch.full((1, 1), raw, dtype=dtype))
    assert gradient.item() == pytest.approx(1 - math.tanh(raw / 12) ** 2, rel=1e-2)
    assert gradient.item() > 1e-4


def test_the_bounded_log_variance_is_smooth() -> None:
    raw = torch.tensor([[-30.0], [-3.0], [0.0], [3.0], [30.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encoded_log_var, raw)
    assert torch.autograd.gradgradcheck(encoded_log_var, raw)


def test_the_mean_is_not_bounded() -> None:
    mu, log_var = MeanField.from_outputs(torch.tensor([[1234.5, 7.0]]))
    assert mu.item() == 1234.5
    assert log_var.item() == pytest.approx(12 * math.tanh(7 / 12))


# extreme inputs and gradients


class ConstantLogits(nn.Module):
    """A decoder that ignores z."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, z: Tensor) -> Tensor:
        return self.logits.expand(len(z), *self.logits.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [40.0, 1e4])
def test_extreme_logits(size: float, dtype: torch.dtype) -> None:
    """Where the decoder is certain and right it costs nothing, where it is certain and wrong it costs the logit."""
    decoder = ConstantLogits(torch.tensor([size, size, -size, -size]))
    model = VAE(nn.Linear(4, 2), decoder, (4,), prior=StandardNormal(1)).to(dtype)
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=dtype)
    terms = model.elbo_terms(x, num_samples=K)
    assert terms.reconstruction.item() == pytest.approx(-2 * size, rel=1e-6)
    terms.reconstruction.sum().backward()
    assert_close(model.decoder.logits.grad, torch.tensor([0.0, -1.0, 1.0, 0.0], dtype=dtype), 1e-6)
    assert model.log_weights(x, K).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [-60.0, 60.0])
@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
def test_extreme_encoders_keep_the_bound_and_its_gradients_finite(
    likelihood: type, raw: float, dtype: torch.dtype
) -> None:
    decoder = nn.Linear(2, 4)
    model = VAE(nn.Identity(), decoder, (4,), prior=StandardNormal(2), likelihood=likelihood()).to(dtype)
    x = torch.tensor([[30.0, -30.0, raw, raw]], dtype=dtype)
    for function in (model.elbo, lambda x, generator: model.log_weights(x, K, generator=generator)):
        assert_finite_gradients(lambda x, function=function: function(x, generator=noise(0)), x)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_reach_every_parameter(name: str, dtype: torch.dtype) -> None:
    model = build(name, dtype)
    x = data(model, dtype=dtype)
    for value in (model.elbo(x, generator=noise(0)), model.log_weights(x, K, generator=noise(0))):
        model.zero_grad(set_to_none=True)
        value.sum().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name


def test_the_gradient_of_the_elbo_is_that_of_finite_differences() -> None:
    model = build("MLP Gaussian")
    x, names = data(model), [name for name, _ in model.named_parameters()]

    def elbo(*parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(Elbo(model), {f"model.{key}": value for key, value in named.items()}, (x,))

    assert torch.autograd.gradcheck(elbo, [p.detach().clone().requires_grad_() for p in model.parameters()])


class Elbo(nn.Module):
    """The bound as a module's call, for the functional interface."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.elbo(x, num_samples=2, generator=noise(0))


# precision


@every_model
def test_double_precision_is_kept_and_single_precision_is_close(name: str) -> None:
    results = {}
    for dtype in (torch.float64, torch.float32):
        model = build(name, dtype)
        x = data(model, dtype=dtype)
        eps = torch.ones(K, B, J, dtype=dtype)
        results[dtype] = [*model.encode(x), model.decode(eps), model.log_p_x_given_z(x, eps)]
        assert all(result.dtype == dtype for result in results[dtype])
        assert model.elbo(x).dtype == model.log_weights(x, K).dtype == dtype
    for double, single in zip(results[torch.float64], results[torch.float32], strict=True):
        assert_close(single.double(), double, 2e-5)


@every_model
def test_under_autocast_the_bound_is_still_single_precision(name: str) -> None:
    model = build(name, torch.float32)
    x = data(model, dtype=torch.float32)
    terms, log_w = model.elbo_terms(x, generator=noise(0)), model.log_weights(x, K, generator=noise(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.encoder(x).dtype == torch.bfloat16 or "linear" in name  # its constants are single precision
        half_terms = model.elbo_terms(x, generator=noise(0))
        half_log_w = model.log_weights(x, K, generator=noise(0))
        assert all(value.dtype == torch.float32 for value in (*model.encode(x), model.decode(torch.zeros(B, J))))
    for half, full in zip((*half_terms, half_log_w), (*terms, log_w), strict=True):
        assert half.dtype == torch.float32
        assert not torch.equal(half, full)  # or autocast did nothing
        assert_close(half, full, 0.05)


# randomness and weights


@every_model
def test_one_generator_gives_one_result_and_nothing_else_is_drawn_from(name: str) -> None:
    model = build(name)
    x = data(model)
    for function in (
        lambda generator: model.elbo(x, generator=generator),
        lambda generator: model.log_weights(x, K, generator=generator),
    ):
        before = torch.random.get_rng_state()
        first, second, other = function(noise(1)), function(noise(1)), function(noise(2))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


def test_without_a_generator_the_global_seed_governs() -> None:
    model = build("linear")
    x = data(model)
    with torch.random.fork_rng():
        first, second = (torch.manual_seed(3) and model.log_weights(x, K) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@every_model
def test_weights_survive_a_round_trip(name: str) -> None:
    model, copy = build(name), BUILDERS[name]().double()
    x = data(model)
    assert not torch.equal(copy.log_weights(x, K, generator=noise(0)), model.log_weights(x, K, generator=noise(0)))
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.log_weights(x, K, generator=noise(0)), model.log_weights(x, K, generator=noise(0)))


# bad input


@every_model
@pytest.mark.parametrize("num_samples", [0, -1])
def test_fewer_than_one_sample_is_refused(name: str, num_samples: int) -> None:
    model = build(name)
    x = data(model)
    assert_refused(lambda: model.log_weights(x, num_samples), "num_samples")
    assert_refused(lambda: model.elbo(x, num_samples=num_samples), "num_samples")
    assert_refused(lambda: model.elbo_terms(x, num_samples=num_samples), "num_samples")


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 28, 28), (2, 1, 28, 27), (2, 784), (28,), ()])
def test_data_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Three channels, no channel, a missing column, flat images, one flat image, a number."""
    model, x = build("convolutional", torch.float32), torch.zeros(shape)
    for function in (model.encode, model.elbo, model.check_data, lambda x: model.log_weights(x, K)):
        assert_refused(lambda function=function: function(x), "x", "(B, 1, 28, 28)", shape)


@every_model
def test_latents_of_another_batch_are_refused(name: str) -> None:
    """(K, 1, J) and (K, J) would broadcast."""
    model = build(name)
    for z in (torch.zeros(K, 1, J), torch.zeros(K, J), torch.zeros(B, K, J)):
        assert_refused(lambda z=z: model.log_p_x_given_z(data(model), z.double()), "x")


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, -math.inf, math.inf])
@pytest.mark.parametrize("name", ["linear", "MLP", "convolutional"])
def test_pixels_outside_the_unit_interval_are_refused(name: str, value: float) -> None:
    model = build(name)
    x = data(model)
    x[1, ..., 2] = value
    assert_refused(lambda: model.check_data(x), "x", "[0, 1]", f"{value:g}", "binarize")


def test_bytes_are_checked_as_numbers_are() -> None:
    model = build("convolutional")
    model.check_data(data(model, dtype=torch.uint8))
    assert_refused(lambda: model.check_data(255 * data(model, dtype=torch.uint8)), "x", "[0, 1]", "255", "binarize")


@every_model
def test_nan_and_empty_sets_are_refused(name: str) -> None:
    model = build(name)
    x = data(model)
    model.check_data(x)
    assert_refused(lambda: model.check_data(x[:0]), "x", "empty")
    x[2, ..., 1] = math.nan
    assert_refused(lambda: model.check_data(x), "x", "NaN")


@pytest.mark.parametrize("name", ["linear Gaussian", "MLP Gaussian"])
def test_real_data_may_be_any_finite_number(name: str) -> None:
    model = build(name)
    x = 1e3 * data(model)
    model.check_data(x)
    x[0, ..., 0] = -math.inf
    assert_refused(lambda: model.check_data(x), "x", "infinite")


# the linear VAE and probabilistic PCA


MARKS = data_module.exam_marks().marks.double() / 10
MARKS = MARKS - MARKS.mean(0)  # the bias is then found at once, and what is left to find is the loadings
EIGENVALUES = torch.linalg.eigvalsh(MARKS.mT @ MARKS / len(MARKS)).flip(0)  # 6.79, 2.00, 1.03, 0.84, 0.32


def as_factor_analysis(vae: VAE) -> FactorAnalysis:
    decoder = vae.decoder[0]
    return FactorAnalysis(decoder.weight, decoder.bias, vae.likelihood.log_var_x.expand(len(decoder.bias)))


def linear_vae_of_the_marks(log_var_x: float | None) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return linear_vae((5,), 2, likelihood=Gaussian(log_var_x)).double()


def climb(vae: VAE) -> None:
    """Maximise the exact ELBO of the marks by L-BFGS over encoder and decoder together: no sample is drawn."""
    options = {"max_iter": 400, "history_size": 30, "tolerance_grad": 1e-8, "tolerance_change": 1e-12}
    optimizer = torch.optim.LBFGS(vae.parameters(), line_search_fn="strong_wolfe", **options)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -linear_gaussian.elbo(as_factor_analysis(vae), MARKS, *vae.encode(MARKS)).mean()
        value.backward()
        return value

    optimizer.step(loss)


def assert_is_ppca(vae: VAE, num_used: int, *, nats: float, relative: float) -> None:
    """The bound is the evidence of probabilistic PCA, and so are variance, loadings, q's variances and each KL."""
    mu, log_var = (part.detach() for part in vae.encode(MARKS))
    found = FactorAnalysis(*(part.detach() for part in as_factor_analysis(vae)))
    given = None if isinstance(vae.likelihood.log_var_x, nn.Parameter) else vae.likelihood.log_var_x.item()
    best = linear_gaussian.ppca(MARKS, 2, log_var=given)
    evidence = linear_gaussian.log_evidence(best, MARKS).mean().item()
    assert evidence - nats < linear_gaussian.elbo(found, MARKS, mu, log_var).mean().item() < evidence + 1e-9
    torch.testing.assert_close(found.log_var, best.log_var, rtol=0, atol=relative)
    # The diagonal q settles the rotation: the columns are the principal axes, in any order and with any sign.
    order = found.weight.square().sum(0).argsort(descending=True)
    weight = found.weight[:, order] * (found.weight[:, order] * best.weight).sum(0).sign()
    torch.testing.assert_close(weight[:, :num_used], best.weight[:, :num_used], rtol=0, atol=3 * relative)
    ratio = (best.log_var[0].exp() / EIGENVALUES[:2]).clamp(max=1)
    torch.testing.assert_close(log_var.exp()[0, order], ratio, rtol=0, atol=relative)
    kl = 0.5 * (mu.square() + log_var.exp() - log_var - 1).mean(0)[order]
    torch.testing.assert_close(kl, -0.5 * ratio.log(), rtol=0, atol=relative)
    assert (weight[:, num_used:].abs() < 5 * math.sqrt(nats)).all()  # what is not used is 0: see ppca
    assert (kl[num_used:] < nats).all()


LOG_VAR_X = [(None, 2), (math.log(3.5), 1)]  # 3.5 is greater than the second eigenvalue: one latent is left unused


@pytest.mark.parametrize(("log_var_x", "num_used"), LOG_VAR_X)
def test_the_best_linear_vae_is_probabilistic_pca(log_var_x: float | None, num_used: int) -> None:
    vae = linear_vae_of_the_marks(log_var_x)
    climb(vae)
    assert_is_ppca(vae, num_used, nats=1e-7, relative=1e-3)


@pytest.mark.parametrize(("log_var_x", "num_used"), LOG_VAR_X)
def test_training_takes_the_linear_vae_to_probabilistic_pca(log_var_x: float | None, num_used: int) -> None:
    """By fit's sampled gradients; every student counts twenty times, which changes nothing but the gradient's noise."""
    vae = linear_vae_of_the_marks(log_var_x)
    steps = training.Optimization(batch_size=440, learning_rate=0.03, schedule=training.warmup_cosine)
    training.fit(vae, MARKS.repeat(20, 1), num_epochs=200, optimization=steps, execution=QUIET)
    assert_is_ppca(vae, num_used, nats=0.01, relative=0.05)


@pytest.mark.parametrize(("variance", "used"), [(5.0, 1), (1.5, 2), (0.5, 4), (0.2, 5), (8.0, 0)])
def test_a_latent_at_zero_stays_there_only_if_its_eigenvalue_is_below_the_variance(variance: float, used: int) -> None:
    """Where collapse comes from in the linear VAE.

    Take the J = 5 latents of probabilistic PCA, set the j-th column to 0 and q_j to the prior. That is stationary. A
    small column w = t u_j, with q_j the posterior that goes with it, changes the mean ELBO by t^2 (lambda_j / s^2 - 1) /
    (2 s^2): it pays exactly where the eigenvalue is greater than the noise variance.
    """
    best = linear_gaussian.ppca(MARKS, 5, log_var=math.log(variance))
    axes = linear_gaussian.ppca(MARKS, 5, log_var=-30.0).weight / EIGENVALUES.sqrt()  # the unit eigenvectors

    def elbo(j: int, t: float) -> float:
        weight = best.weight.clone()
        weight[:, j] = t * axes[:, j]
        model = best._replace(weight=weight)
        mean, covariance = linear_gaussian.posterior(model, MARKS)
        return linear_gaussian.elbo(model, MARKS, mean, covariance.diagonal().log().expand(88, 5)).mean().item()

    t, pays = 0.01, []
    for j in range(5):
        change = elbo(j, t) - elbo(j, 0.0)
        assert change == pytest.approx(t**2 * (EIGENVALUES[j].item() / variance - 1) / (2 * variance), rel=5e-3)
        pays.append(change > 0)
    assert pays == [True] * used + [False] * (5 - used)


# other likelihoods


def test_without_a_given_variance_the_gaussian_s_is_a_parameter_and_the_weights_have_their_old_names() -> None:
    learnt = linear_vae((5,), J, likelihood=Gaussian())
    names = {"encoder.1.affine.weight", "encoder.1.affine.bias", "encoder.1.constant", "decoder.0.weight"}
    assert set(learnt.state_dict()) == names | {"decoder.0.bias", "likelihood.log_var_x"}
    assert isinstance(learnt.likelihood.log_var_x, nn.Parameter)
    assert learnt.likelihood.log_var_x.item() == 0


@pytest.mark.parametrize("log_var_x", [-3.0, 0, 2.5])
def test_a_given_variance_is_no_parameter_and_stays_where_it_is(log_var_x: float) -> None:
    """It is used, it moves with the model, it is saved with it, and training leaves it alone."""
    model = linear_vae((5,), J, likelihood=Gaussian(log_var_x)).double()
    assert "likelihood.log_var_x" not in dict(model.named_parameters())
    assert model.likelihood.log_var_x.dtype == torch.float64
    assert set(model.state_dict()) == set(linear_vae((5,), J, likelihood=Gaussian()).state_dict())
    x, z = data(model), randn(K, B, J, seed=0)
    expected = distributions.Normal(model.decode(z), math.exp(log_var_x / 2)).log_prob(x).sum(-1)
    assert_close(model.log_p_x_given_z(x, z), expected, 1e-6)  # given as a number, kept in single precision
    before = model.decoder[0].weight.clone()
    steps = training.Optimization(batch_size=B, learning_rate=0.1)
    training.fit(model, x, num_epochs=2, optimization=steps, execution=QUIET)
    assert model.likelihood.log_var_x.item() == log_var_x
    assert not torch.equal(model.decoder[0].weight, before)


@pytest.mark.parametrize("log_var_x", [math.inf, -math.inf, math.nan])
def test_a_variance_that_is_no_number_is_refused(log_var_x: float) -> None:
    assert_refused(lambda: Gaussian(log_var_x), "log_var")


def test_the_discretized_logistic_s_encoder_sees_pixels_between_zero_and_one() -> None:
    model = build("MLP discretized logistic")
    x = data(model)
    mu, raw = model.encoder(x / 255).chunk(2, -1)
    assert torch.equal(model.encode(x)[0], mu)
    assert_close(model.encode(x)[1], 12 * torch.tanh(raw / 12))


def test_the_probabilities_of_all_grey_levels_add_up_to_one() -> None:
    """One pixel, whatever the latent; and a mean far below 0 makes a black pixel as sure as one likes."""
    parts = {"prior": StandardNormal(J), "likelihood": DiscretizedLogistic()}
    model = VAE(nn.Linear(1, 2 * J), nn.Linear(J, 1), (1,), **parts).double()
    x, z = torch.arange(256.0).double()[:, None], randn(K, 1, J, seed=0).expand(K, 256, J)
    assert_close(model.log_p_x_given_z(x, z).logsumexp(1), torch.zeros(K, dtype=torch.float64))
    model.likelihood.log_scale.data.fill_(-4.0)
    nn.init.zeros_(model.decoder.weight)
    black = []
    for mean in (-0.5, 0.0):
        model.decoder.bias.data.fill_(mean)
        black.append(model.log_p_x_given_z(x[:1], z[:, :1]).exp()[0].item())
    assert black[0] > 0.999999
    assert black[1] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, math.inf])
@pytest.mark.parametrize("name", ["linear continuous Bernoulli", "MLP continuous Bernoulli"])
def test_grey_pixels_outside_the_unit_interval_are_refused(name: str, value: float) -> None:
    model = build(name)
    x = data(model)
    model.check_data(x)
    x[1, ..., 2] = value
    assert_refused(lambda: model.check_data(x), "x", "[0, 1]", f"{value:g}", "continuous", "255")


@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5, 254.99, math.inf])
@pytest.mark.parametrize("name", ["linear discretized logistic", "MLP discretized logistic"])
def test_numbers_that_are_no_grey_levels_are_refused(name: str, value: float) -> None:
    model = build(name)
    x = data(model)
    model.check_data(x)
    model.check_data(x.to(torch.uint8))
    assert_refused(lambda: model.check_data(x / 255), "x", "255", "divided")
    x[1, ..., 2] = value
    assert_refused(lambda: model.check_data(x), "x", "0 to 255", "whole")


@pytest.mark.parametrize(
    ("likelihood", "constant"),  # the best that a decoder without latents reaches, in nats per data point
    [(ContinuousBernoulli, 0.0), (DiscretizedLogistic, -8 * math.log(256))],
)
def test_fit_trains_the_models_of_grey_images(likelihood: type, constant: float) -> None:
    """Eight pixels, all dark or all bright with a little noise: one latent tells which, and the bound rises by nats."""
    bright = (randn(256, 1, seed=0) > 0).double()
    x = (255 * torch.sigmoid(3 * (2 * bright - 1) + 0.5 * randn(256, 8, seed=1))).round()
    x = x / 255 if likelihood is ContinuousBernoulli else x.to(torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = mlp_vae((8,), 1, num_hidden=16, likelihood=likelihood())
    steps = training.Optimization(batch_size=64, learning_rate=0.02)
    history = training.fit(vae, x, x_test=x, num_epochs=60, optimization=steps, execution=QUIET)
    assert history.test_elbo[-1] > constant + 6
    assert history.test_elbo[-1] > history.test_elbo[0] + 5
    assert history.test_kl[-1] > 0.5


# the autoencoder


def autoencoder(sigma: float = 0.0, dtype: torch.dtype = torch.float64) -> Autoencoder:
    """With every parameter random, as ``build`` does."""
    model = mlp_autoencoder((2, 3), J, num_hidden=7, sigma=sigma)
    for seed, parameter in enumerate(model.parameters()):
        parameter.data = randn(parameter.numel(), seed=seed).reshape(parameter.shape) / 2
    return model.to(dtype)


def terms_of(model: Autoencoder, x: Tensor, num_samples: int, generator: torch.Generator | None = None) -> ElboTerms:
    """What training maximises, and 0."""
    return objectives.reconstruction().terms(model, x, model.noise(num_samples, len(x), generator=generator))


def binary(num_data: int = B) -> Tensor:
    return (randn(num_data, 2, 3, seed=99) > 0).double()


def naive_log_likelihood(model: Autoencoder, x: Tensor, z: Tensor) -> Tensor:
    """x (B, *D) and z (B, J) -> (B,), by torch.distributions, one data point at a time."""
    logits = torch.stack([model.decoder(z[b : b + 1])[0] for b in range(len(z))])
    return distributions.Independent(distributions.Bernoulli(logits=logits), 2).log_prob(x)


def test_an_autoencoder_s_shapes() -> None:
    model, x = autoencoder(0.3), binary()
    assert model.encode(x).shape == (B, J)
    assert model.decode(model.encode(x)).shape == (B, 2, 3)
    assert model.decode(randn(K, B, J, seed=0)).shape == (K, B, 2, 3)
    terms = terms_of(model, x, K)
    assert terms.reconstruction.shape == terms.kl.shape == (B,)


def test_the_code_is_what_the_encoder_says() -> None:
    """No bound on it, nothing split off it, no noise in it, whatever sigma."""
    model, x = autoencoder(0.3), binary()
    assert torch.equal(model.encode(x), model.encoder(x))
    plain = Autoencoder(nn.Identity(), nn.Linear(2, 2), (2,), 2)
    assert torch.equal(plain.encode(torch.tensor([[1e4, -1e4]])), torch.tensor([[1e4, -1e4]]))


def test_without_noise_the_reconstruction_is_the_log_likelihood_at_the_code() -> None:
    model, x = autoencoder(), binary()
    reconstruction = terms_of(model, x, 1, noise(0)).reconstruction
    assert torch.equal(reconstruction, model.log_p_x_given_z(x, model.encode(x)))
    assert torch.equal(reconstruction, terms_of(model, x, 1, noise(1)).reconstruction)
    assert_close(reconstruction, naive_log_likelihood(model, x, model.encoder(x)))


@pytest.mark.parametrize("num_samples", [1, K])
def test_with_noise_the_reconstruction_is_the_mean_over_noisy_codes(num_samples: int) -> None:
    sigma, x = 0.3, binary()
    model = autoencoder(sigma)
    eps = torch.randn(num_samples, B, J, generator=noise(6), dtype=torch.float64)
    each = [naive_log_likelihood(model, x, model.encoder(x) + sigma * eps[k]) for k in range(num_samples)]
    terms = terms_of(model, x, num_samples, noise(6))
    assert_close(terms.reconstruction, sum(each) / num_samples, 1e-10)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_an_autoencoder_has_no_kl_and_no_bound(sigma: float) -> None:
    model, x = autoencoder(sigma), binary()
    assert torch.equal(terms_of(model, x, K).kl, torch.zeros(B, dtype=torch.float64))
    assert not isinstance(model, VAE)
    assert not hasattr(model, "elbo_terms")
    assert not hasattr(model, "elbo")
    assert not hasattr(model, "log_weights")


def test_the_noise_does_not_depend_on_sigma() -> None:
    """Two autoencoders trained with one seed differ by sigma and by nothing else: both draw the same numbers."""
    x, states = binary(), []
    for sigma in (0.0, 0.3):
        generator = noise(1)
        terms_of(autoencoder(sigma), x, 1, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
    assert not torch.equal(states[0], noise(1).get_state())


def test_an_autoencoder_has_the_layers_of_the_mlp_vae_but_half_the_encoder_s_outputs() -> None:
    num_parameters = [
        sum(p.numel() for p in build((2, 3), J, num_hidden=7).parameters()) for build in (mlp_vae, mlp_autoencoder)
    ]
    assert num_parameters[0] - num_parameters[1] == (7 + 1) * J
    x, y = (randn(2, B, 2, 3, seed=0)).float()
    model = mlp_autoencoder((2, 3), J, num_hidden=7)
    assert (model.encode((x + y) / 2) - (model.encode(x) + model.encode(y)) / 2).abs().max() > 1e-3


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_autoencoder_s_gradients_are_finite_and_reach_every_parameter(sigma: float, dtype: torch.dtype) -> None:
    model = autoencoder(sigma, dtype)
    terms = terms_of(model, binary().to(dtype), 1, noise(0))
    assert terms.reconstruction.dtype == terms.kl.dtype == dtype
    terms.reconstruction.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_an_autoencoder_under_autocast_answers_in_single_precision() -> None:
    model, x = autoencoder(0.3, torch.float32), binary().float()
    full = terms_of(model, x, 1, noise(0)).reconstruction
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.encode(x).dtype == torch.float32
        half = terms_of(model, x, 1, noise(0)).reconstruction
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert_close(half, full, 0.05)


@pytest.mark.parametrize("sigma", [-0.1, math.inf, math.nan])
def test_a_noise_that_is_no_standard_deviation_is_refused(sigma: float) -> None:
    assert_refused(lambda: mlp_autoencoder((2, 3), J, 7, sigma=sigma), "sigma", str(sigma))


def test_an_autoencoder_refuses_the_data_that_a_vae_refuses() -> None:
    model, x = autoencoder(0.3), binary()
    model.check_data(x)
    assert_refused(lambda: model.check_data(x[:0]), "x", "empty")
    assert_refused(lambda: model.check_data(255 * x), "x", "[0, 1]", "binarize")
    assert_refused(lambda: model.check_data(x * math.nan), "x", "NaN")
    for function in (model.encode, lambda x: terms_of(model, x, 1), model.check_data):
        assert_refused(lambda function=function: function(x.flatten(1)), "x", "(B, 2, 3)", (B, 6))
    for num_samples in (0, -1):
        assert_refused(lambda k=num_samples: model.noise(k, B), "num_samples")
    assert_refused(lambda: model.log_p_x_given_z(x, torch.zeros(K, 1, J).double()), "x")


@pytest.mark.parametrize(("sigma", "below"), [(0.0, 0.05), (0.1, 0.3)])
def test_fit_trains_an_autoencoder(sigma: float, below: float) -> None:
    """Four patterns of six pixels, each a hundred times: they fit in two numbers, and noise of 0.1 costs little."""
    x = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1]])
    x = x.float().reshape(4, 2, 3).repeat(100, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp_autoencoder((2, 3), J, num_hidden=16, sigma=sigma)
    objective = objectives.reconstruction()
    before = training.average_terms(model, x, objective=objective).reconstruction
    steps = training.Optimization(batch_size=20, learning_rate=0.02)
    settings = {"objective": objective, "optimization": steps, "execution": QUIET}
    history = training.fit(model, x, x_test=x, num_epochs=15, **settings)
    assert before < -3.5  # six fair coins cost 4.16 nats
    assert -below < history.test_reconstruction[-1] < 0
    assert history.train_kl == history.test_kl == [0.0] * 15


# every likelihood with every prior and every family

LIKELIHOODS = {
    "Bernoulli": (Bernoulli, lambda u: (u > 0.5).float()),
    "Gaussian": (Gaussian, lambda u: 4 * u - 2),
    "continuous Bernoulli": (ContinuousBernoulli, lambda u: u),
    "discretized logistic": (DiscretizedLogistic, lambda u: (255 * u).round()),
    "Poisson": (Poisson, lambda u: (9 * u).round()),
    "negative binomial": (NegativeBinomial, lambda u: (9 * u).round()),
    "categorical": (lambda: Categorical(3), lambda u: (2 * u).round()),
}
PRIORS = {"normal": StandardNormal, "mixture": lambda num_latents: GaussianMixture(num_latents, 4)}


@pytest.mark.parametrize("family", [MeanField, FullRank])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_parts_combine(likelihood: str, prior: str, family: type, dtype: torch.dtype) -> None:
    """Each combination: the terms typed out, samples that are data again, a record, and some steps uphill."""
    make, transform = LIKELIHOODS[likelihood]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {"prior": PRIORS[prior](J), "likelihood": make(), "family": family}
        vae = mlp_vae((2, 3), J, num_hidden=8, **parts).to(dtype)
    x = transform(torch.rand(40, 2, 3, generator=noise(0))).to(dtype)
    vae.check_data(x)
    eps, q = vae.noise(K, 40, generator=noise(1)), vae.posterior(x)
    z = q.latents(eps)
    ratio = q.log_prob(z) - vae.prior.log_prob(z)
    log_p = vae.likelihood.log_prob(x, vae.decode(z))
    close = 1e-9 if dtype == torch.float64 else 2e-3
    assert_close(vae.log_weights(x, K, eps=eps), log_p - ratio, close)
    assert_close(vae.log_joint(x, z), log_p + vae.prior.log_prob(z), close)
    terms = vae.elbo_terms(x, eps=eps)
    assert_close(terms.reconstruction, log_p.mean(0), close)
    if prior == "mixture":
        assert_close(terms.kl, ratio.mean(0), close)
    drawn = vae.sample(7, generator=noise(2))
    vae.check_data(drawn)
    assert drawn.shape == (7, 2, 3)
    assert vae.reconstruct(x).shape == vae.mean(z[0]).shape == (40, *vae.likelihood.output_shape((2, 3)))
    again = records.build(records.describe(vae)).to(dtype)
    again.load_state_dict(vae.state_dict())
    assert torch.equal(again.log_weights(x, K, eps=eps), vae.log_weights(x, K, eps=eps))
    path = {"start": q, "betas": annealing.temperatures(3), "step_size": 0.1, "num_leapfrog": 1}
    assert annealing.ais(vae, x, num_chains=2, generator=noise(3), **path).log_w.isfinite().all()
    terms = aggregated.terms(q, z, prior=vae.prior)
    assert (terms.mean_kl - terms.mutual_information - terms.marginal_kl).abs() < 4 * terms.marginal_kl_error + 1
    before = vae.elbo(x, eps=eps).mean().item()
    optimizer = torch.optim.Adam(vae.parameters(), 0.02)
    for _ in range(15):
        optimizer.zero_grad()
        (-vae.elbo(x, eps=eps).mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
        optimizer.step()
    assert vae.elbo(x, eps=eps).mean().item() > before


def test_one_line_builds_the_models_of_the_issue() -> None:
    images = (255 * torch.rand(2, 3, 64, 48, generator=noise(0))).to(torch.uint8)
    parts = {"prior": GaussianMixture(4, 10), "likelihood": DiscretizedLogistic(), "family": FullRank}
    colour = conv_vae((3, 64, 48), 4, num_channels=8, num_blocks=1, **parts)
    assert colour.elbo(images).shape == (2,)
    counts = torch.poisson(torch.full((5, 9), 3.0), generator=noise(1))
    assert mlp_vae((9,), 2, num_hidden=8, likelihood=NegativeBinomial()).elbo(counts).shape == (5,)


@pytest.mark.parametrize("num_latents", [1, 2, 3])
def test_full_rank_reaches_the_evidence_of_a_linear_model_whose_posterior_is_correlated(num_latents: int) -> None:
    """The encoder is the exact posterior: every log-weight is log p(x), which no mean-field q can do."""
    weight = randn(6, num_latents, seed=80)
    model = FactorAnalysis(weight, randn(6, seed=81), torch.full((6,), -0.7).double())
    vae = linear_vae((6,), num_latents, likelihood=Gaussian(), family=FullRank).double()
    vae.decoder[0].weight.data, vae.decoder[0].bias.data = model.weight, model.bias
    vae.likelihood.log_var_x.data = model.log_var[0]
    posterior = linear_gaussian.posterior(model, torch.cat([torch.zeros(1, 6), torch.eye(6)]).double())
    encoder, factor = vae.encoder[1], torch.linalg.cholesky(posterior.covariance)
    encoder.affine.bias.data = posterior.mean[0]
    encoder.affine.weight.data = (posterior.mean[1:] - posterior.mean[0]).mT
    raw = 6 * torch.atanh(factor.diagonal().log() / 6)
    rows, columns = torch.tril_indices(num_latents, num_latents, -1)
    encoder.constant.data = torch.cat([raw, factor[rows, columns]])
    _, x = linear_gaussian.sample(model, 5, generator=noise(0))
    evidence = linear_gaussian.log_evidence(model, x)
    assert_close(vae.log_weights(x, 20, generator=noise(1)), evidence.expand(20, 5), 1e-9)
    assert_refused(lambda: vae.encode(x), "FullRank", "posterior")


def test_the_mean_of_the_posterior_and_of_the_likelihood_make_the_reconstruction() -> None:
    model = build("MLP")
    x = data(model)
    assert torch.equal(model.reconstruct(x), model.decode(model.encode(x)[0]).sigmoid())
    auto = autoencoder()
    assert torch.equal(auto.reconstruct(binary()), auto.decode(auto.encode(binary())).sigmoid())


def test_new_data_come_from_the_prior_and_the_likelihood() -> None:
    """The mean over 40,000 draws of a linear model is its bias, the covariance W W' + s^2 I; within four errors."""
    model = probabilistic_pca(2)
    x = as_vae(model).sample(40_000, generator=noise(0))
    exact = model.weight @ model.weight.mT + torch.diag(model.log_var.exp())
    assert ((x.mean(0) - model.bias).abs() < 4 * (exact.diagonal() / 40_000).sqrt()).all()
    assert (torch.cov(x.mT) - exact).abs().max() < 4 * exact.max() * (2 / 40_000) ** 0.5


@pytest.mark.parametrize("given", ["too few", "a tuple", "two axes too many"])
def test_an_encoder_that_does_not_fit_the_family_is_refused(given: str) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> object:
            outputs = {"too few": x[:, :J], "a tuple": (x[:, :J], x[:, :J]), "two axes too many": x[:, None, : 2 * J]}
            return outputs[given]

    vae = VAE(Wrong(), nn.Linear(J, 5), (5,), prior=StandardNormal(J))
    words = {"too few": (B, J), "a tuple": "tuple", "two axes too many": (B, 1, 2 * J)}
    assert_refused(lambda: vae.elbo(torch.zeros(B, 5)), "encoder", (B, 2 * J), "MeanField", words[given])


def test_a_prior_of_another_size_is_refused() -> None:
    assert_refused(lambda: linear_vae((5,), 2, prior=StandardNormal(3)), "num_latents", "prior")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float64, torch.bool])
def test_data_of_any_type_are_taken_in_the_models_precision(dtype: torch.dtype) -> None:
    model = build("MLP", torch.float32)
    x = data(model, dtype=torch.float32)
    assert torch.equal(model.elbo(x.to(dtype), generator=noise(0)), model.elbo(x, generator=noise(0)))
    assert torch.equal(
        model.log_weights(x.to(dtype), 2, generator=noise(0)), model.log_weights(x, 2, generator=noise(0))
    )
