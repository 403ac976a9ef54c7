"""Linear models as VAEs: their evidence and their posterior are known. For the tests of what estimates them."""

import math

import torch
from oracles import randn
from torch import Tensor, nn

from vae_tutorial import linear_gaussian, models
from vae_tutorial.likelihoods import Gaussian
from vae_tutorial.linear_gaussian import FactorAnalysis
from vae_tutorial.models import VAE

D = 5


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probabilistic_pca() -> FactorAnalysis:
    """Orthogonal loadings and one noise variance, so that the posterior has a diagonal covariance."""
    columns = torch.linalg.qr(randn(D, 2, seed=1)).Q * torch.tensor([1.7, 0.6])
    return FactorAnalysis(columns, randn(D, seed=2), torch.full((D,), math.log(0.3), dtype=torch.float64))


def linear_vae(*, exact: bool) -> VAE:
    """The model above as a VAE. Its encoder is the exact posterior, or else the prior, whatever x is."""
    model = probabilistic_pca()
    vae = models.linear_vae((D,), 2, likelihood=Gaussian()).double()
    vae.decoder[0].weight.data, vae.decoder[0].bias.data = model.weight, model.bias
    vae.likelihood.log_var_x.data = model.log_var[0]
    encoder = vae.encoder[1]
    encoder.affine.weight.data, encoder.affine.bias.data = torch.zeros(2, D).double(), torch.zeros(2).double()
    if exact:
        posterior = linear_gaussian.posterior(model, torch.cat([torch.zeros(1, D), torch.eye(D)]).double())
        encoder.affine.bias.data = posterior.mean[0]
        encoder.affine.weight.data = (posterior.mean[1:] - posterior.mean[0]).mT
        encoder.constant.data = 12 * torch.atanh(posterior.covariance.diagonal().log() / 12)  # undo the bound
    return vae


def data(num_data: int) -> tuple[Tensor, Tensor]:
    """Data of the model above and their log-evidence."""
    _, x = linear_gaussian.sample(probabilistic_pca(), num_data, generator=noise(0))
    return x, linear_gaussian.log_evidence(probabilistic_pca(), x)


def random_linear(seed: int, num_dims: int, num_latents: int) -> tuple[FactorAnalysis, VAE]:
    """A linear model with full posterior covariance and one noise variance a dimension, twice."""
    weight = 0.7 * randn(num_dims, num_latents, seed=seed)
    model = FactorAnalysis(weight, randn(num_dims, seed=seed + 1), 0.3 * randn(num_dims, seed=seed + 2))
    vae = models.linear_vae((num_dims,), num_latents, likelihood=Gaussian()).double()
    vae.decoder[0].weight.data, vae.decoder[0].bias.data = model.weight, model.bias
    vae.likelihood.log_var_x = nn.Parameter(model.log_var)
    return model, vae


def posteriors(num_data: int, num_latents: int, *, seed: int = 20) -> tuple[Tensor, Tensor]:
    """Means about 1.2 apart and standard deviations from 0.3 to 1: posteriors that overlap, some more, some less."""
    return 1.2 * randn(num_data, num_latents, seed=seed), 0.5 * randn(num_data, num_latents, seed=seed + 1) - 1
