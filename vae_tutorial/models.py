r"""Autoencoders, plain and variational: an encoder for z, a decoder for p(x given z), and the objective that joins them.

A VAE is a latent-variable model :math:`p_\theta(x, z) = p(z) \, p_\theta(x \mid z)` with a standard normal prior, whose
likelihood is computed from z by a network, the decoder. A second network, the encoder, gives for every x the parameters
of a Gaussian :math:`q_\phi(z \mid x)` that stands in for the posterior. Both are trained to maximise one function,

.. math:: \mathrm{ELBO}(x) = \mathbb{E}_{q_\phi(z \mid x)} [\log p_\theta(x \mid z)]
    - \mathrm{KL}\big( q_\phi(z \mid x) \,\|\, p(z) \big) \; \le \; \log p_\theta(x).

Here stand the objective, written once for all networks, and the networks. The KL is to the *prior* p(z).
An autoencoder has the same two networks, but one code for every x in place of a distribution, and neither prior nor bound.

Shapes: x is (B, \*D), z is (K, B, J), samples first. The results are in nats, summed over D and over J.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_tutorial import gaussian, likelihoods

LOG_VAR_LIMIT = 12.0


class ElboTerms(NamedTuple):
    """The two terms of the bound, each (B,) in nats: the ELBO is ``reconstruction - kl``."""

    reconstruction: Tensor
    kl: Tensor


class EncoderDecoder(nn.Module):
    """What the autoencoder and the VAE share: two networks, and what the decoder's output says about binary data.

    Args:
        encoder: network from x (B, \\*D) to (B, ...): the code, or the parameters of its distribution.
        decoder: network from z (B, J) to (B, \\*D): the logits.
        data_shape: D, the shape of one data point.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.data_shape = encoder, decoder, tuple(data_shape)

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x given z): logits for this class.

        Args:
            z: latents, (..., J).

        Returns:
            The decoder's output, (..., \\*D).

        >>> linear_vae(data_shape=(4,), num_latents=2).decode(torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3, 4])
        """
        flat = z.reshape(-1, z.shape[-1])  # one batch for the network: (K, B, J) -> (K B, J)
        output = self.decoder(flat).to(z.dtype)
        return output.reshape(*z.shape[:-1], *output.shape[1:])

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Log-likelihood of x given z, in nats, summed over the data axes.

        Args:
            x: data, (B, \\*D).
            z: latents, (K, B, J).

        Returns:
            Log-likelihood, (K, B).

        >>> linear_vae(data_shape=(4,), num_latents=2).log_p_x_given_z(torch.ones(3, 4), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3])
        """
        return likelihoods.bernoulli(x, self.decode(z))

    def elbo_terms(self, x: Tensor, *, num_samples: int = 1, generator: torch.Generator | None = None) -> ElboTerms:
        """The two terms of what training maximises, in nats: their difference. Every kind of model has its own.

        Args:
            x: data, (B, \\*D).
            num_samples: K, at least 1.
            generator: source of the noise, on x's device.

        Returns:
            ``ElboTerms(reconstruction, kl)``, each (B,).
        """
        raise NotImplementedError

    def check_data(self, x: Tensor) -> None:
        """Refuse data that this model's likelihood does not describe.

        Args:
            x: data, (N, \\*D).

        Raises:
            ValueError: for an empty set, a wrong shape, NaN, or values outside [0, 1].

        >>> linear_vae(data_shape=(4,), num_latents=2).check_data(torch.full((1, 4), 255.0))
        Traceback (most recent call last):
        ...
        ValueError: x must lie in [0, 1] for a Bernoulli likelihood, got values from 255 to 255; binarize it first
        """
        self._check_shape(x)
        if len(x) == 0:
            raise ValueError("x is empty: it holds no data points")
        if x.isnan().any():
            raise ValueError("x contains NaN")
        self._check_range(x)

    def _check_range(self, x: Tensor) -> None:
        self._check_unit_interval(x, "a Bernoulli likelihood", "binarize it first")

    def _check_unit_interval(self, x: Tensor, likelihood: str, remedy: str) -> None:
        low, high = x.min().item(), x.max().item()
        if low < 0 or high > 1:
            raise ValueError(f"x must lie in [0, 1] for {likelihood}, got values from {low:g} to {high:g}; {remedy}")

    def _check_shape(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.data_shape or x.dim() == 0:
            raise ValueError(f"x must have shape (B, *{self.data_shape}), got {tuple(x.shape)}")


class Autoencoder(EncoderDecoder):
    r"""An autoencoder for binary data: the encoder gives one code, and noise of a fixed scale may be added to it.

    .. math:: z = \mathrm{encoder}(x) + \sigma \epsilon, \quad \epsilon \sim N(0, I_J), \quad
        x \mid z \sim \mathrm{Bernoulli}(\mathrm{sigmoid}(\mathrm{decoder}(z)))

    It has no prior p(z), so it defines no p(x), and what it is trained to maximise bounds no evidence.

    Args:
        encoder: network from x (B, \*D) to the code (B, J).
        decoder: network from z (B, J) to (B, \*D): the logits.
        data_shape: D, the shape of one data point.
        sigma: standard deviation of the noise on the code; 0 for a plain autoencoder.

    Raises:
        ValueError: if sigma is negative or not finite.

    Source: Hinton and Salakhutdinov (2006) for sigma = 0.

    >>> autoencoder = mlp_autoencoder(data_shape=(4,), num_latents=2, num_hidden=8)
    >>> autoencoder.decode(autoencoder.encode(torch.ones(3, 4))).shape
    torch.Size([3, 4])
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, data_shape: tuple[int, ...], *, sigma: float = 0.0
    ) -> None:
        super().__init__(encoder, decoder, data_shape)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be finite and not negative, got {sigma}")
        self.sigma = sigma

    def encode(self, x: Tensor) -> Tensor:
        """The code of x: one point, not a distribution.

        Args:
            x: data, (B, \\*D).

        Returns:
            Code, (B, J).

        Raises:
            ValueError: if x does not have the model's data shape.

        >>> mlp_autoencoder(data_shape=(4,), num_latents=2, num_hidden=8).encode(torch.ones(3, 4)).shape
        torch.Size([3, 2])
        """
        self._check_shape(x)
        return self.encoder(x).to(x.dtype)  # under autocast a network answers in half precision

    def elbo_terms(self, x: Tensor, *, num_samples: int = 1, generator: torch.Generator | None = None) -> ElboTerms:
        r"""The reconstruction, in nats, and zero where a VAE has its KL, so that the VAE's training loop trains it.

        .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k), \quad z_k = \mathrm{code}(x) + \sigma \epsilon_k, \quad
            \epsilon_k \sim N(0, I_J) \qquad \text{and} \qquad 0

        The name is the loop's. Without a prior there is no evidence, and the difference of the two is no bound on it.

        Args:
            x: data, (B, \*D).
            num_samples: K, at least 1; with sigma = 0 all K are the same.
            generator: source of the noise, on x's device.

        Returns:
            ``ElboTerms(reconstruction, kl)``, each (B,); the second is zero.

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        >>> mlp_autoencoder(data_shape=(4,), num_latents=2, num_hidden=8).elbo_terms(torch.ones(3, 4)).kl
        tensor([0., 0., 0.])
        """
        code = self.encode(x)
        zero = torch.zeros_like(code)
        z = code + self.sigma * gaussian.sample(zero, zero, num_samples, generator=generator)
        return ElboTerms(self.log_p_x_given_z(x, z).mean(0), zero.sum(-1))


class VAE(EncoderDecoder):
    r"""A variational autoencoder for binary data: Bernoulli likelihood, standard normal prior, diagonal Gaussian q.

    .. math:: z \sim N(0, I_J), \quad x \mid z \sim \mathrm{Bernoulli}(\mathrm{sigmoid}(\mathrm{decoder}(z))), \quad
        q(z \mid x) = N(\mu(x), \operatorname{diag} \sigma^2(x)), \quad (\mu, \log \sigma^2) = \mathrm{encoder}(x)

    Args:
        encoder: network from x (B, \*D) to (B, 2 J): the mean, then the raw log-variance.
        decoder: network from z (B, J) to (B, \*D): the logits.
        data_shape: D, the shape of one data point.

    Source: Kingma and Welling (2014); Rezende, Mohamed and Wierstra (2014).

    >>> vae = linear_vae(data_shape=(4,), num_latents=2)
    >>> vae.elbo(torch.ones(3, 4)).shape
    torch.Size([3])
    """

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Parameters of q(z given x).

        The log-variance passes through :math:`12 \tanh(\cdot / 12)`: almost the identity where variances usually lie,
        and bounded, so that one bad step cannot overflow its exponential. A hard clamp would have no gradient there.

        Args:
            x: data, (B, \*D).

        Returns:
            Mean and log-variance, each (B, J).

        Raises:
            ValueError: if x does not have the model's data shape.

        >>> mu, log_var = linear_vae(data_shape=(4,), num_latents=2).encode(torch.ones(3, 4))
        >>> mu.shape, log_var.shape
        (torch.Size([3, 2]), torch.Size([3, 2]))
        """
        self._check_shape(x)
        mu, raw = self.encoder(x).to(x.dtype).chunk(2, -1)  # under autocast a network answers in half precision
        return mu, LOG_VAR_LIMIT * torch.tanh(raw / LOG_VAR_LIMIT)

    def elbo_terms(self, x: Tensor, *, num_samples: int = 1, generator: torch.Generator | None = None) -> ElboTerms:
        r"""The two terms of the ELBO, in nats: the first by sampling, the second in closed form.

        .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k), \quad z_k \sim q(z \mid x)
            \qquad \text{and} \qquad \mathrm{KL}(q(z \mid x) \,\|\, p(z))

        Args:
            x: data, (B, \*D).
            num_samples: K, at least 1.
            generator: source of the noise, on x's device.

        Returns:
            ``ElboTerms(reconstruction, kl)``, each (B,).

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        Source: Kingma and Welling (2014), equation (7).

        >>> terms = linear_vae(data_shape=(4,), num_latents=2).elbo_terms(torch.ones(3, 4), num_samples=5)
        >>> terms.reconstruction.shape, terms.kl.shape
        (torch.Size([3]), torch.Size([3]))
        """
        mu, log_var = self.encode(x)
        z = gaussian.sample(mu, log_var, num_samples, generator=generator)
        return ElboTerms(self.log_p_x_given_z(x, z).mean(0), gaussian.kl_to_standard_normal(mu, log_var))

    def elbo(self, x: Tensor, *, num_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        r"""Estimate of the ELBO of each data point, in nats; unbiased, and differentiable by reparameterization.

        .. math:: \mathrm{ELBO}(x) \approx \frac1K \sum_{k=1}^K \log p(x \mid z_k) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

        Args:
            x: data, (B, \*D).
            num_samples: K, at least 1.
            generator: source of the noise, on x's device.

        Returns:
            ELBO, (B,), to be *maximised*.

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        >>> linear_vae(data_shape=(4,), num_latents=2).elbo(torch.ones(3, 4)).shape
        torch.Size([3])
        """
        terms = self.elbo_terms(x, num_samples=num_samples, generator=generator)
        return terms.reconstruction - terms.kl

    def log_weights(self, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        r"""Importance log-weights, in nats, for the functions of :mod:`vae_tutorial.bounds`.

        .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

        Args:
            x: data, (B, \*D).
            num_samples: K, at least 1.
            generator: source of the noise, on x's device.

        Returns:
            Log-weights, (K, B).

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        Source: Burda, Grosse and Salakhutdinov (2016), section 3.

        >>> linear_vae(data_shape=(4,), num_latents=2).log_weights(torch.ones(3, 4), 5).shape
        torch.Size([5, 3])
        """
        mu, log_var = self.encode(x)
        zero = torch.zeros_like(mu)
        eps = gaussian.sample(zero, zero, num_samples, generator=generator)
        z = gaussian.reparameterize(eps, mu, log_var)
        # log q from eps itself: (z - mu) / sigma would lose digits wherever sigma is small beside mu.
        log_q_z = gaussian.log_prob(eps, zero, zero) - 0.5 * log_var.sum(-1)
        return self.log_p_x_given_z(x, z) + gaussian.log_prob(z, zero, zero) - log_q_z


class GaussianVAE(VAE):
    r"""A VAE for real data: Gaussian likelihood with one noise variance, learnt with the networks or given.

    .. math:: x \mid z \sim N(\mathrm{decoder}(z), \sigma_x^2 I), \qquad \log \sigma_x^2 = \texttt{log\_var\_x}

    With linear networks this is probabilistic PCA, whose maximum is known.

    Args:
        encoder: network from x (B, \*D) to (B, 2 J).
        decoder: network from z (B, J) to the mean (B, \*D).
        data_shape: D, the shape of one data point.
        log_var_x: the log-variance, to be held fixed; without it, it is a parameter that starts at 0.

    Raises:
        ValueError: if a given log-variance is not finite.

    Source: Lucas, Tucker, Grosse and Norouzi (2019) for the linear case.

    >>> linear_vae(data_shape=(4,), num_latents=2, model=GaussianVAE).log_var_x
    Parameter containing:
    tensor(0., requires_grad=True)
    >>> from functools import partial
    >>> linear_vae(data_shape=(4,), num_latents=2, model=partial(GaussianVAE, log_var_x=-3.0)).log_var_x
    tensor(-3.)
    """

    log_var_x: Tensor

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, data_shape: tuple[int, ...], *, log_var_x: float | None = None
    ) -> None:
        super().__init__(encoder, decoder, data_shape)
        if log_var_x is None:
            self.log_var_x = nn.Parameter(torch.zeros(()))
        elif not math.isfinite(log_var_x):
            raise ValueError(f"log_var_x must be finite, got {log_var_x}")
        else:
            self.register_buffer("log_var_x", torch.tensor(float(log_var_x)))

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Gaussian log-likelihood of x given z, in nats, summed over the data axes.

        Args:
            x: data, (B, \\*D).
            z: latents, (K, B, J).

        Returns:
            Log-likelihood, (K, B).

        >>> vae = linear_vae(data_shape=(4,), num_latents=2, model=GaussianVAE)
        >>> vae.log_p_x_given_z(torch.ones(3, 4), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3])
        """
        return likelihoods.gaussian(x, self.decode(z), self.log_var_x)

    def _check_range(self, x: Tensor) -> None:
        if not x.isfinite().all():
            raise ValueError("x contains infinite values")


class ContinuousBernoulliVAE(VAE):
    r"""A VAE for grey pixels in [0, 1]: a density on the interval, with one parameter a pixel, as the Bernoulli has.

    .. math:: p(x \mid z) = \prod_{d=1}^D e^{x_d \ell_d - A(\ell_d)}, \qquad \ell = \mathrm{decoder}(z), \qquad
        A(\ell) = \log \frac{e^\ell - 1}{\ell}

    The mean of a pixel is :func:`~vae_tutorial.likelihoods.continuous_bernoulli_mean` of its logit, not the sigmoid.

    Args:
        encoder: network from x (B, \*D) to (B, 2 J).
        decoder: network from z (B, J) to the logits (B, \*D).
        data_shape: D, the shape of one data point.

    Source: Loaiza-Ganem and Cunningham (2019).

    >>> vae = linear_vae(data_shape=(4,), num_latents=2, model=ContinuousBernoulliVAE)
    >>> vae.elbo(torch.full((3, 4), 0.5)).shape
    torch.Size([3])
    """

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Continuous Bernoulli log-density of x given z, in nats, summed over the data axes.

        Args:
            x: data in [0, 1], (B, \\*D).
            z: latents, (K, B, J).

        Returns:
            Log-likelihood, (K, B).

        >>> vae = linear_vae(data_shape=(4,), num_latents=2, model=ContinuousBernoulliVAE)
        >>> vae.log_p_x_given_z(torch.full((3, 4), 0.5), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3])
        """
        return likelihoods.continuous_bernoulli(x, self.decode(z))

    def _check_range(self, x: Tensor) -> None:
        self._check_unit_interval(x, "a continuous Bernoulli likelihood", "divide grey levels by 255")


class DiscretizedLogisticVAE(VAE):
    r"""A VAE for the grey levels 0 to 255 as they are stored: a probability of each level, and one learnt scale.

    .. math:: P(x \mid z) = \prod_{d=1}^D \big( \sigma(u_d^+) - \sigma(u_d^-) \big), \qquad
        u_d^\pm = \frac{x_d \pm \frac12 - 255 \, m_d}{255 \, s}, \qquad m = \mathrm{decoder}(z), \qquad
        \log s = \texttt{log\_scale}

    with the two outermost bins open to the outside. The encoder sees x / 255. The decoder's output is the mean as it
    is, without a sigmoid: a mean well below 0 gives a black pixel a probability near 1, and a mean of 0 gives it one
    half.

    Args:
        encoder: network from x / 255 (B, \*D) to (B, 2 J).
        decoder: network from z (B, J) to the mean (B, \*D) on the scale of x / 255.
        data_shape: D, the shape of one data point.

    Source: Kingma et al. (2016); Salimans, Karpathy, Chen and Kingma (2017), with a single component.

    >>> vae = linear_vae(data_shape=(4,), num_latents=2, model=DiscretizedLogisticVAE)
    >>> vae.elbo(torch.full((3, 4), 127.0)).shape
    torch.Size([3])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, data_shape: tuple[int, ...]) -> None:
        super().__init__(encoder, decoder, data_shape)
        # A standard deviation of 0.25, about that of an image's pixels: from 1, small steps would take long to get down.
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of q(z given x): the network is given x / 255.

        Args:
            x: grey levels, (B, \\*D).

        Returns:
            Mean and log-variance, each (B, J).

        Raises:
            ValueError: if x does not have the model's data shape.

        >>> vae = linear_vae(data_shape=(4,), num_latents=2, model=DiscretizedLogisticVAE)
        >>> vae.encode(torch.full((3, 4), 255.0))[0].shape
        torch.Size([3, 2])
        """
        return super().encode(x / (likelihoods.NUM_LEVELS - 1))

    def log_p_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """Discretized logistic log-probability of x given z, in nats, summed over the data axes.

        Args:
            x: grey levels 0, 1, ..., 255, (B, \\*D).
            z: latents, (K, B, J).

        Returns:
            Log-likelihood, (K, B).

        >>> vae = linear_vae(data_shape=(4,), num_latents=2, model=DiscretizedLogisticVAE)
        >>> vae.log_p_x_given_z(torch.full((3, 4), 127.0), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3])
        """
        return likelihoods.discretized_logistic(x, self.decode(z), self.log_scale)

    def _check_range(self, x: Tensor) -> None:
        low, high = x.min().item(), x.max().item()
        if low < 0 or high >= likelihoods.NUM_LEVELS or (x.is_floating_point() and (x != x.round()).any()):
            raise ValueError(
                "x must hold the whole numbers 0 to 255 for a discretized logistic likelihood, got values from "
                f"{low:g} to {high:g}; give grey levels as they are stored, not divided by 255"
            )


def linear_vae(data_shape: tuple[int, ...], num_latents: int, *, model: Callable[..., VAE] = VAE) -> VAE:
    r"""A VAE whose encoder mean and decoder are affine maps, and whose log-variances do not depend on x.

    .. math:: \mu(x) = V x + c, \quad \log \sigma^2(x) = \text{const}, \quad \mathrm{decoder}(z) = W z + b

    As a ``GaussianVAE`` its best bound is the evidence of probabilistic PCA,
    :func:`vae_tutorial.linear_gaussian.ppca`, and the columns of W are then the principal axes themselves: a diagonal q
    allows no other rotation. With a given noise variance, a latent whose eigenvalue is below it collapses.

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the latent.
        model: the class, by its likelihood: ``VAE`` for binary data, ``GaussianVAE`` for real data, and so on.

    Returns:
        The model.

    Source: Lucas, Tucker, Grosse and Norouzi (2019), section 3.

    >>> linear_vae(data_shape=(1, 28, 28), num_latents=2).decode(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """
    num_data = math.prod(data_shape)
    encoder = nn.Sequential(nn.Flatten(), _AffineWithConstant(num_data, num_latents))
    decoder = nn.Sequential(nn.Linear(num_latents, num_data), nn.Unflatten(1, data_shape))
    return model(encoder, decoder, data_shape)


def mlp_vae(data_shape: tuple[int, ...], num_latents: int, num_hidden: int, *, model: Callable[..., VAE] = VAE) -> VAE:
    """A VAE with one hidden layer on each side.

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the latent.
        num_hidden: width of the hidden layers.
        model: the class, by its likelihood: ``VAE`` for binary data, ``GaussianVAE`` for real data, and so on.

    Returns:
        The model.

    Source: Kingma and Welling (2014), appendix C.

    >>> mlp_vae(data_shape=(1, 28, 28), num_latents=2, num_hidden=8).decode(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """
    return model(*_mlp(data_shape, 2 * num_latents, num_hidden, num_latents), data_shape)


def mlp_autoencoder(
    data_shape: tuple[int, ...], num_latents: int, num_hidden: int, *, sigma: float = 0.0
) -> Autoencoder:
    """An autoencoder with one hidden layer on each side.

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the code.
        num_hidden: width of the hidden layers.
        sigma: standard deviation of the noise on the code; 0 for a plain autoencoder.

    Returns:
        The model.

    Raises:
        ValueError: if sigma is negative or not finite.

    >>> mlp_autoencoder(data_shape=(1, 28, 28), num_latents=2, num_hidden=8).encode(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 2])
    """
    return Autoencoder(*_mlp(data_shape, num_latents, num_hidden, num_latents), data_shape, sigma=sigma)


def _mlp(
    data_shape: tuple[int, ...], num_encoded: int, num_hidden: int, num_latents: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """One hidden layer each: x (B, *D) -> (B, num_encoded), and z (B, J) -> (B, *D)."""
    num_data = math.prod(data_shape)
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(num_data, num_hidden), nn.SiLU(), nn.Linear(num_hidden, num_encoded)
    )
    decoder = nn.Sequential(
        nn.Linear(num_latents, num_hidden), nn.SiLU(), nn.Linear(num_hidden, num_data), nn.Unflatten(1, data_shape)
    )
    return encoder, decoder


class ConvVAE(VAE):
    r"""A convolutional VAE for binary 28 x 28 images of one channel.

    The encoder cuts the image into a 7 x 7 grid of 4 x 4 patches, works on that grid with residual blocks, and ends in
    one linear layer, or in two with a hidden layer between them; the decoder is its mirror image. Convolutions on a
    7 x 7 grid are cheap, and putting the 16 pixels of a patch back by a pixel shuffle leaves no checkerboard from
    overlapping strides. The hidden layer sees the whole grid at once, which a 3 x 3 convolution does not.

    Args:
        num_latents: J, the dimensions of the latent.
        num_channels: channels C on the 7 x 7 grid.
        num_blocks: residual blocks on each side.
        num_hidden: width of the hidden layer on each side; without it, one linear layer joins grid and latents.

    Source: He, Zhang, Ren and Sun (2016) for residual blocks; Shi et al. (2016) for the pixel shuffle.

    >>> vae = ConvVAE(num_latents=4, num_channels=8, num_blocks=1)
    >>> vae.elbo(torch.ones(2, 1, 28, 28)).shape
    torch.Size([2])
    """

    def __init__(
        self, num_latents: int = 32, num_channels: int = 64, num_blocks: int = 2, num_hidden: int | None = None
    ) -> None:
        grid = (num_channels, 7, 7)
        encoder = nn.Sequential(
            nn.Conv2d(1, num_channels, kernel_size=4, stride=4),  # (B, 1, 28, 28) -> (B, C, 7, 7)
            *(_ResidualBlock(num_channels) for _ in range(num_blocks)),
            nn.SiLU(),
            nn.Flatten(),
            *_linear_layers(math.prod(grid), num_hidden, 2 * num_latents),
        )
        decoder = nn.Sequential(
            *_linear_layers(num_latents, num_hidden, math.prod(grid)),
            nn.Unflatten(1, grid),
            *(_ResidualBlock(num_channels) for _ in range(num_blocks)),
            nn.SiLU(),
            nn.Conv2d(num_channels, 16, kernel_size=3, padding=1),
            nn.PixelShuffle(4),  # (B, 16, 7, 7) -> (B, 1, 28, 28)
        )
        super().__init__(encoder, decoder, data_shape=(1, 28, 28))


def _linear_layers(num_inputs: int, num_hidden: int | None, num_outputs: int) -> list[nn.Module]:
    """One linear layer, or two with a hidden layer of ``num_hidden`` units between them."""
    if num_hidden is None:
        return [nn.Linear(num_inputs, num_outputs)]
    return [nn.Linear(num_inputs, num_hidden), nn.SiLU(), nn.Linear(num_hidden, num_outputs)]


class _ResidualBlock(nn.Module):
    """x + f(x), with f two 3 x 3 convolutions: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        nn.init.zeros_(self.second.weight)  # starts as the identity plus a small bias: depth does not hurt

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(nn.functional.silu(x))
        return x + self.second(nn.functional.silu(h))


class _AffineWithConstant(nn.Module):
    """(B, D) -> (B, 2 J): an affine map of x, then J constants that do not depend on x."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.affine = nn.Linear(num_inputs, num_outputs)
        self.constant = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.affine(x)
        return torch.cat([mean, self.constant.expand_as(mean)], -1)
