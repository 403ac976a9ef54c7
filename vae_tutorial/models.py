r"""Autoencoders, plain and variational: an encoder for z, a decoder for p(x given z), and what joins them.

A VAE is a latent-variable model :math:`p_\theta(x, z) = p_\theta(z) \, p_\theta(x \mid z)` whose likelihood is computed
from z by a network, the decoder. A second network, the encoder, gives for every x the parameters of a distribution
:math:`q_\phi(z \mid x)` that stands in for the posterior. Both are trained to maximise one function,

.. math:: \mathrm{ELBO}(x) = \mathbb{E}_{q_\phi(z \mid x)} [\log p_\theta(x \mid z)]
    - \mathrm{KL}\big( q_\phi(z \mid x) \,\|\, p_\theta(z) \big) \; \le \; \log p_\theta(x).

The model is composed of three parts that combine freely: a prior p(z) of :mod:`vae_tutorial.priors`, a family for
q(z given x) of :mod:`vae_tutorial.families`, a likelihood p(x given z) of :mod:`vae_tutorial.likelihoods`. The KL is to the
*prior*. An autoencoder has the same two networks, but one code for every x in place of a distribution, and neither prior
nor bound. A conditional VAE is told a label y beside x: its bound is one on log p(x given y).

Shapes: x is (B, \*D), z is (K, B, J), samples first. The results are in nats, summed over D and over J.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_tutorial import _checks, divergences
from vae_tutorial._recipe import keeps_arguments
from vae_tutorial.families import Family, Flowed, FullRank, MeanField
from vae_tutorial.likelihoods import Bernoulli, Likelihood
from vae_tutorial.networks import (
    ConvDecoder,
    ConvEncoder,
    LinearDecoder,
    LinearEncoder,
    MLPDecoder,
    MLPEncoder,
)
from vae_tutorial.priors import Prior, StandardNormal, VampPrior


class ElboTerms(NamedTuple):
    """The two terms of the bound, each (B,) in nats: the ELBO is ``reconstruction - kl``."""

    reconstruction: Tensor
    kl: Tensor


class EncoderDecoder(nn.Module):
    """What the autoencoder and the VAE share: two networks, and a likelihood for the decoder's outputs.

    Args:
        encoder: network from x (B, \\*D) to (B, P): the code, or the parameters of its distribution.
        decoder: network from z (B, J) to the likelihood's parameters, (B, \\*D).
        data_shape: D, the shape of one data point.
        likelihood: p(x given z); Bernoulli without it.
    """

    likelihood: Likelihood

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, data_shape: tuple[int, ...], likelihood: Likelihood | None
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.data_shape = encoder, decoder, tuple(data_shape)
        self.likelihood = Bernoulli() if likelihood is None else likelihood

    def latents(self, x: Tensor, eps: Tensor) -> Tensor:
        """Latents for data and noise, differentiable: z, (K, B, J).

        Args:
            x: data, (B, \\*D).
            eps: noise, (K, B, J), as :meth:`noise` draws it.
        """
        raise NotImplementedError

    def noise(self, num_samples: int, num_data: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The noise behind the latents: drawn apart, so that it can be shared, kept or given.

        Args:
            num_samples: K, at least 1.
            num_data: B, the data points in the batch.
            generator: source of the noise, on the model's device.

        Returns:
            Standard normal noise, (K, B, J), on the model's device and in its precision.

        Raises:
            ValueError: if K < 1.

        >>> linear_vae(data_shape=(4,), num_latents=2).noise(5, 3).shape
        torch.Size([5, 3, 2])
        """
        _checks.whole(num_samples=num_samples)
        like = next(self.parameters())
        shape = (num_samples, num_data, self.num_latents)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    @property
    def num_latents(self) -> int:
        """J, the dimensions of the latent."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x given z), such as logits: what the likelihood calls its outputs.

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

    def mean(self, z: Tensor) -> Tensor:
        """Mean of p(x given z), on the scale of the data: a picture, where x is one.

        Args:
            z: latents, (..., J).

        Returns:
            The mean, (..., \\*D).

        >>> linear_vae(data_shape=(4,), num_latents=2).mean(torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3, 4])
        """
        return self.likelihood.mean(self.decode(z))

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
        return self.likelihood.log_prob(self._points(x).to(z.dtype), self.decode(self._decoder_input(z, x)))

    def check_data(self, x: Tensor) -> None:
        """Refuse data that this model's likelihood does not describe.

        Args:
            x: data, (N, \\*D).

        Raises:
            ValueError: for an empty set, a wrong shape, NaN, or values outside the likelihood's support.

        >>> linear_vae(data_shape=(4,), num_latents=2).check_data(torch.zeros(1, 5))
        Traceback (most recent call last):
        ...
        ValueError: x must have shape (B, 4), got (1, 5)
        """
        self._check_shape(x)
        if len(x) == 0:
            raise ValueError("x is empty: it holds no data points")
        self.likelihood.check(self._points(x))

    def _points(self, x: Tensor) -> Tensor:
        """What the likelihood describes of x."""
        return x

    def _encoder_input(self, x: Tensor) -> Tensor:
        """What the encoder is shown of x."""
        return self.likelihood.encoder_input(x)

    def _decoder_input(self, z: Tensor, x: Tensor) -> Tensor:
        """What the decoder is given: z, and what it may know of x."""
        return z

    def _encoder_outputs(self, x: Tensor, num_outputs: int) -> Tensor:
        """The encoder's answer to x, (B, P); under autocast a network answers in half precision."""
        self._check_shape(x)
        x = x.to(next(self.parameters()).dtype)
        outputs = self.encoder(self._encoder_input(x))
        if not isinstance(outputs, Tensor) or outputs.shape != (len(x), num_outputs):
            given = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise ValueError(
                f"the encoder must return one tensor (B, P) = ({len(x)}, {num_outputs}), got {given}: "
                f"{self._outputs_wanted()}"
            )
        return outputs.to(x.dtype)

    def _outputs_wanted(self) -> str:
        raise NotImplementedError

    def _check_shape(self, x: Tensor) -> None:
        if x.dim() == 0 or tuple(x.shape[1:]) != self.data_shape:
            expected = ", ".join(["B", *map(str, self.data_shape)])
            raise ValueError(f"x must have shape ({expected}), got {tuple(x.shape)}")


@keeps_arguments
class Autoencoder(EncoderDecoder):
    r"""An autoencoder: the encoder gives one code, and noise of a fixed scale may be added to it.

    .. math:: z = \mathrm{encoder}(x) + \sigma \epsilon, \quad \epsilon \sim N(0, I_J), \quad
        x \mid z \sim \text{likelihood with the parameters } \mathrm{decoder}(z)

    It has no prior p(z), so it defines no p(x), and what it is trained to maximise bounds no evidence: train it with
    :func:`vae_tutorial.objectives.reconstruction`.

    Args:
        encoder: network from x (B, \*D) to the code (B, J).
        decoder: network from z (B, J) to the likelihood's parameters, (B, \*D).
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the code.
        sigma: standard deviation of the noise on the code; 0 for a plain autoencoder.
        likelihood: p(x given z); Bernoulli without it.

    Raises:
        ValueError: if sigma is negative or not finite.

    Source: Hinton and Salakhutdinov (2006) for sigma = 0.

    >>> autoencoder = mlp_autoencoder(data_shape=(4,), num_latents=2, num_hidden=8)
    >>> autoencoder.decode(autoencoder.encode(torch.ones(3, 4))).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        num_latents: int,
        *,
        sigma: float = 0.0,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, likelihood)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be finite and not negative, got {sigma}")
        self.sigma, self._num_latents = sigma, num_latents

    @property
    def num_latents(self) -> int:
        """J, the dimensions of the code."""
        return self._num_latents

    def encode(self, x: Tensor) -> Tensor:
        """The code of x: one point, not a distribution.

        Args:
            x: data, (B, \\*D).

        Returns:
            Code, (B, J).

        Raises:
            ValueError: if x does not have the model's data shape, or the encoder's output is not (B, J).

        >>> mlp_autoencoder(data_shape=(4,), num_latents=2, num_hidden=8).encode(torch.ones(3, 4)).shape
        torch.Size([3, 2])
        """
        return self._encoder_outputs(x, self.num_latents)

    def latents(self, x: Tensor, eps: Tensor) -> Tensor:
        r"""The code with noise, :math:`z = \mathrm{encoder}(x) + \sigma \epsilon`, (K, B, J).

        Args:
            x: data, (B, \*D).
            eps: noise, (K, B, J); with sigma = 0 it changes nothing.
        """
        return self.encode(x) + self.sigma * eps

    def reconstruct(self, x: Tensor) -> Tensor:
        """The likelihood's mean at the code of x, without noise, (B, \\*D).

        Args:
            x: data, (B, \\*D).

        >>> mlp_autoencoder(data_shape=(4,), num_latents=2, num_hidden=8).reconstruct(torch.ones(3, 4)).shape
        torch.Size([3, 4])
        """
        return self.mean(self.encode(x))

    def _outputs_wanted(self) -> str:
        return f"the code, {self.num_latents} numbers"


@keeps_arguments
class VAE(EncoderDecoder):
    r"""A variational autoencoder, composed of two networks, a prior, a likelihood and a family for q.

    .. math:: z \sim p(z), \qquad x \mid z \sim \text{likelihood with the parameters } \mathrm{decoder}(z), \qquad
        q(z \mid x) = \text{family with the parameters } \mathrm{encoder}(x)

    Args:
        encoder: network from x (B, \*D) to (B, P), where P is ``family.num_outputs(J)``: 2 J for a mean-field family, the
            mean and then the raw log-variance.
        decoder: network from z (B, J) to the likelihood's parameters, (B, \*D).
        data_shape: D, the shape of one data point.
        prior: p(z), which says what J is.
        likelihood: p(x given z); Bernoulli, for binary data, without it.
        family: class of q(z given x), such as :class:`~vae_tutorial.families.FullRank`, or a
            :class:`~vae_tutorial.families.Flowed`.

    Source: Kingma and Welling (2014); Rezende, Mohamed and Wierstra (2014).

    >>> vae = linear_vae(data_shape=(4,), num_latents=2)
    >>> vae.elbo(torch.ones(3, 4)).shape
    torch.Size([3])
    """

    prior: Prior

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        *,
        prior: Prior,
        likelihood: Likelihood | None = None,
        family: type[MeanField] | type[FullRank] | Flowed = MeanField,
    ) -> None:
        super().__init__(encoder, decoder, data_shape, likelihood)
        self.prior, self.family = prior, family
        if isinstance(prior, VampPrior):
            if prior.raw.shape[1:] != self.data_shape:
                given = f"{tuple(prior.raw.shape[1:])} and {self.data_shape}"
                raise ValueError(f"the prior's pseudo-inputs and the data must have one shape, got {given}")
            prior.share(self.posterior)

    @property
    def num_latents(self) -> int:
        """J, the dimensions of the latent."""
        return self.prior.num_latents

    def posterior(self, x: Tensor) -> Family:
        """q(z given x), the approximate posterior of each data point.

        Args:
            x: data, (B, \\*D), of any type.

        Returns:
            The family with B factors: ``sample_and_log_prob``, ``log_prob``, ``mean`` and the rest.

        Raises:
            ValueError: if x does not have the model's data shape, or the encoder's output does not fit the family.

        >>> linear_vae(data_shape=(4,), num_latents=2).posterior(torch.ones(3, 4)).sample(5).shape
        torch.Size([5, 3, 2])
        """
        return self.family.from_outputs(self._encoder_outputs(x, self.family.num_outputs(self.num_latents)))

    def encode(self, x: Tensor) -> MeanField:
        r"""Mean and log-variance of q(z given x), where q is a diagonal Gaussian: ``mu, log_var = vae.encode(x)``.

        Args:
            x: data, (B, \*D), of any type.

        Returns:
            Mean and log-variance, each (B, J).

        Raises:
            ValueError: if x does not have the model's data shape, or q is of another family.

        >>> mu, log_var = linear_vae(data_shape=(4,), num_latents=2).encode(torch.ones(3, 4))
        >>> mu.shape, log_var.shape
        (torch.Size([3, 2]), torch.Size([3, 2]))
        """
        q = self.posterior(x)
        if not isinstance(q, MeanField):
            raise ValueError(
                f"q is {_family_name(self.family)}, which no mean and log-variance describe: use posterior(x)"
            )
        return q

    def latents(self, x: Tensor, eps: Tensor) -> Tensor:
        """Reparameterized samples of q(z given x), (K, B, J).

        Args:
            x: data, (B, \\*D).
            eps: noise, (K, B, J).
        """
        return self.posterior(x).latents(eps)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Log-density of data and latents together, :math:`\log p(x \mid z) + \log p(z)`, in nats.

        Args:
            x: data, (B, \*D).
            z: latents, (K, B, J).

        Returns:
            log p(x, z), (K, B).

        >>> linear_vae(data_shape=(4,), num_latents=2).log_joint(torch.ones(3, 4), torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3])
        """
        return self.log_p_x_given_z(x, z) + self.prior.log_prob(z)

    def elbo_terms(
        self,
        x: Tensor,
        *,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
        eps: Tensor | None = None,
    ) -> ElboTerms:
        r"""The two terms of the ELBO, in nats: the first by sampling, the second in closed form where there is one.

        .. math:: \frac1K \sum_{k=1}^K \log p(x \mid z_k), \quad z_k \sim q(z \mid x)
            \qquad \text{and} \qquad \mathrm{KL}(q(z \mid x) \,\|\, p(z))

        Where family and prior have no closed form, :func:`vae_tutorial.divergences.kl` averages over the same samples.

        Args:
            x: data, (B, \*D), of any type.
            num_samples: K, at least 1.
            generator: source of the noise, on the model's device.
            eps: the noise itself, (K, B, J), in place of the two before.

        Returns:
            ``ElboTerms(reconstruction, kl)``, each (B,).

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        Source: Kingma and Welling (2014), equation (7).

        >>> terms = linear_vae(data_shape=(4,), num_latents=2).elbo_terms(torch.ones(3, 4), num_samples=5)
        >>> terms.reconstruction.shape, terms.kl.shape
        (torch.Size([3]), torch.Size([3]))
        """
        q = self.posterior(x)
        eps = self.noise(num_samples, len(x), generator=generator) if eps is None else eps
        reconstruction = self.log_p_x_given_z(x, q.latents(eps)).mean(0)
        return ElboTerms(reconstruction, divergences.kl(q, self.prior, eps).value)

    def elbo(
        self,
        x: Tensor,
        *,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        r"""Estimate of the ELBO of each data point, in nats; unbiased, and differentiable by reparameterization.

        .. math:: \mathrm{ELBO}(x) \approx \frac1K \sum_{k=1}^K \log p(x \mid z_k) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

        Args:
            x: data, (B, \*D), of any type.
            num_samples: K, at least 1.
            generator: source of the noise, on the model's device.
            eps: the noise itself, (K, B, J), in place of the two before.

        Returns:
            ELBO, (B,), to be *maximised*.

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        >>> linear_vae(data_shape=(4,), num_latents=2).elbo(torch.ones(3, 4)).shape
        torch.Size([3])
        """
        terms = self.elbo_terms(x, num_samples=num_samples, generator=generator, eps=eps)
        return terms.reconstruction - terms.kl

    def log_weights(
        self,
        x: Tensor,
        num_samples: int,
        *,
        generator: torch.Generator | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        r"""Importance log-weights, in nats, for the functions of :mod:`vae_tutorial.bounds`.

        .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x), \qquad z_k \sim q(z \mid x)

        Args:
            x: data, (B, \*D), of any type.
            num_samples: K, at least 1.
            generator: source of the noise, on the model's device.
            eps: the noise itself, (K, B, J), in place of the two before.

        Returns:
            Log-weights, (K, B).

        Raises:
            ValueError: if x does not have the model's data shape, or K < 1.

        Source: Burda, Grosse and Salakhutdinov (2016), section 3.

        >>> linear_vae(data_shape=(4,), num_latents=2).log_weights(torch.ones(3, 4), 5).shape
        torch.Size([5, 3])
        """
        q = self.posterior(x)
        z, log_q_z = q.transform(self.noise(num_samples, len(x), generator=generator) if eps is None else eps)
        return self.log_p_x_given_z(x, z) + self.prior.log_prob(z) - log_q_z

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """New data: latents from the prior, then one draw from the likelihood of each.

        For pictures without the likelihood's noise, show ``vae.mean(vae.prior.sample(n))``.

        Args:
            num_samples: how many, at least 1.
            generator: source of the noise, on the model's device.

        Returns:
            Data, (num_samples, \\*D), on the scale of the data.

        Raises:
            ValueError: if ``num_samples`` is below 1.

        >>> linear_vae(data_shape=(4,), num_latents=2).sample(3).shape
        torch.Size([3, 4])
        """
        z = self.prior.sample(num_samples, generator=generator)
        return self.likelihood.sample(self.decode(z), generator=generator)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The likelihood's mean at the mean of q(z given x), (B, \\*D).

        Args:
            x: data, (B, \\*D), of any type.

        Raises:
            ValueError: if x does not have the model's data shape.

        >>> linear_vae(data_shape=(4,), num_latents=2).reconstruct(torch.ones(3, 4)).shape
        torch.Size([3, 4])
        """
        return self.mean(self._decoder_input(self.posterior(x).mean, x))

    def _outputs_wanted(self) -> str:
        number = self.family.num_outputs(self.num_latents)
        return f"{_family_name(self.family)} needs {number} for {self.num_latents} latents"


@keeps_arguments
class ConditionalVAE(VAE):
    r"""A variational autoencoder that is told a label y, one of C classes: it makes data of a class that one asks for.

    .. math:: z \sim p(z), \qquad x \mid z, y \sim \text{likelihood with the parameters } \mathrm{decoder}(z, y), \qquad
        q(z \mid x, y) = \text{family with the parameters } \mathrm{encoder}(x, y)

    The prior does not see the label. The bound is one on :math:`\log p(x \mid y)`, and so are the log-weights: in nats,
    without a :math:`\log p(y)`. :func:`conditional` builds the networks.

    **Data** carry their label in front, one tensor (B, 1 + prod D) from :func:`with_labels`, so that training, evaluation
    and records take them as they take any other. :meth:`parts` takes the two apart. **Latents** are (..., J), as for a
    VAE, wherever x is given beside them, and everywhere in training and evaluation. Only ``decode`` and ``mean``, which see
    no x, take a latent with its label, (..., J + C), from :meth:`with_label`.

    Args:
        encoder: network from x and y, (B, A + C, \*R), to (B, P), where (A, \*R) is the shape that the likelihood shows an
            encoder, D for most: C one-hot values are appended along the first data axis, each spread over the others. An
            image of A channels gets C constant planes, a vector of A numbers C more numbers.
        decoder: network from z and y one-hot, (B, J + C), to the likelihood's parameters, (B, \*D).
        data_shape: D, the shape of one data point without its label, kept as ``point_shape``. The model's own
            ``data_shape`` is (1 + prod D,).
        num_classes: C, at least 1; labels are the whole numbers 0 to C - 1.
        prior: p(z), which says what J is.
        likelihood: p(x given z and y); Bernoulli, for binary data, without it.
        family: class of q(z given x and y).

    Raises:
        ValueError: if C is below 1, or a data point has no axis.

    Source: Sohn, Lee and Yan (2015), with the prior of Kingma, Rezende, Mohamed and Welling (2014), section 2, which does
    not depend on the label.

    >>> vae = conditional(linear_vae, data_shape=(4,), num_latents=2, num_classes=3)
    >>> vae.elbo(with_labels(torch.ones(5, 4), torch.tensor([0, 1, 2, 0, 1]))).shape
    torch.Size([5])
    >>> vae.mean(vae.with_label(torch.zeros(1, 2), 2)).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_shape: tuple[int, ...],
        *,
        num_classes: int,
        prior: Prior,
        likelihood: Likelihood | None = None,
        family: type[MeanField] | type[FullRank] | Flowed = MeanField,
    ) -> None:
        _checks.whole(num_classes=num_classes)
        if isinstance(prior, VampPrior):
            raise ValueError("prior: the pseudo-inputs of a VampPrior have no label; take a mixture or a flow")
        if not data_shape:
            raise ValueError("data_shape is (): a data point needs an axis, along which its label is appended")
        parts: dict[str, Any] = {"prior": prior, "likelihood": likelihood, "family": family}
        super().__init__(encoder, decoder, (1 + math.prod(data_shape),), **parts)
        self.point_shape, self.num_classes = tuple(data_shape), num_classes

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data and labels apart, what :func:`with_labels` joined.

        Args:
            x: data with their label in front, (B, 1 + prod D).

        Returns:
            Data, (B, \\*D), in the type of x, and labels, (B,), whole numbers. The labels' values are not looked at:
            :meth:`check_data` refuses those that are none.

        Raises:
            ValueError: if x has another shape.

        >>> vae = conditional(linear_vae, data_shape=(1, 2), num_latents=2, num_classes=3)
        >>> vae.parts(torch.tensor([[2.0, 0.0, 1.0]]))
        (tensor([[[0., 1.]]]), tensor([2]))
        """
        self._check_shape(x)
        return x[:, 1:].reshape(len(x), *self.point_shape), x[:, 0].long()

    def with_label(self, z: Tensor, labels: int | Tensor) -> Tensor:
        """Latents with their label one-hot behind them: what ``decode`` and ``mean`` take.

        Args:
            z: latents, (..., J).
            labels: a whole number, or a tensor that broadcasts to the leading axes of z, such as (B,) for (K, B, J).

        Returns:
            Latents and labels, (..., J + C).

        Raises:
            ValueError: if the shapes do not fit, or a label is none of 0 to C - 1.

        >>> conditional(linear_vae, data_shape=(4,), num_latents=2, num_classes=3).with_label(torch.zeros(1, 2), 1)
        tensor([[0., 0., 0., 1., 0.]])
        """
        labels = torch.as_tensor(labels, device=z.device)
        _check_labels("labels", labels, self.num_classes - 1)
        return self._join(z, labels)

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x given z and y): what the likelihood calls its outputs.

        Args:
            z: latents with their label, (..., J + C), from :meth:`with_label`.

        Returns:
            The decoder's output, (..., \\*D).

        Raises:
            ValueError: if the last axis is not J + C.

        >>> vae = conditional(linear_vae, data_shape=(4,), num_latents=2, num_classes=3)
        >>> vae.decode(vae.with_label(torch.zeros(5, 3, 2), torch.tensor([0, 1, 2]))).shape
        torch.Size([5, 3, 4])
        """
        size = self.num_latents + self.num_classes
        if z.shape[-1:] != (size,):
            raise ValueError(
                f"z must be (..., J + C) = (..., {size}), latents and their label one-hot, got {tuple(z.shape)}: "
                "with_label(z, labels) gives it"
            )
        return super().decode(z)

    def check_data(self, x: Tensor) -> None:
        """Refuse labels that are none of the classes, and data that this model's likelihood does not describe.

        Args:
            x: data with their label in front, (N, 1 + prod D).

        Raises:
            ValueError: for an empty set, a wrong shape, NaN, or values outside the likelihood's support or the classes.

        >>> vae = conditional(linear_vae, data_shape=(4,), num_latents=2, num_classes=3)
        >>> vae.check_data(with_labels(torch.zeros(2, 4), torch.tensor([2, 3])))
        Traceback (most recent call last):
        ...
        ValueError: the labels in x's first column must be whole numbers from 0 to 2, got 3, first in row 1
        """
        self.check_labels(x)
        super().check_data(x)

    def check_labels(self, x: Tensor) -> None:
        """Refuse labels that are none of the classes; the rest of x is not looked at.

        Args:
            x: data with their label in front, (N, 1 + prod D).

        Raises:
            ValueError: naming the first row whose label is not a whole number from 0 to C - 1; for a wrong shape.
        """
        self._check_shape(x)
        _check_labels("the labels in x's first column", x[:, 0], self.num_classes - 1)

    def sample(
        self, num_samples: int, *, labels: int | Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """New data of the classes that are asked for, their label in front: latents from the prior, then the likelihood.

        For pictures without the likelihood's noise, show ``vae.mean(vae.with_label(vae.prior.sample(n), labels))``.

        Args:
            num_samples: how many, at least 1.
            labels: a class for all, or one for each, (num_samples,). Without it each is drawn, all classes being equally
                likely, whatever their shares in the training data: the model holds no p(y).
            generator: source of the noise, on the model's device.

        Returns:
            Data with their label in front, (num_samples, 1 + prod D), on the scale of the data, as :meth:`parts` takes them.

        Raises:
            ValueError: if ``num_samples`` is below 1, or the labels do not fit.

        >>> vae = conditional(linear_vae, data_shape=(4,), num_latents=2, num_classes=3)
        >>> vae.sample(2, labels=torch.tensor([0, 2]))[:, 0].tolist()
        [0.0, 2.0]
        """
        z = self.prior.sample(num_samples, generator=generator)
        if labels is None:
            labels = torch.randint(self.num_classes, (num_samples,), generator=generator, device=z.device)
        labels = torch.as_tensor(labels, device=z.device)
        if labels.shape not in ((), (num_samples,)):
            raise ValueError(f"labels must be one number or ({num_samples},), got {tuple(labels.shape)}")
        points = self.likelihood.sample(self.decode(self.with_label(z, labels)), generator=generator)
        return with_labels(points, labels.expand(num_samples))

    def _points(self, x: Tensor) -> Tensor:
        return self.parts(x)[0]

    def _encoder_input(self, x: Tensor) -> Tensor:
        points, labels = self.parts(x)
        shown = self.likelihood.encoder_input(points)  # (B, A, *R)
        told = self._one_hot(labels).to(shown)
        planes = told.view(*told.shape, *[1] * (shown.dim() - 2)).expand(-1, -1, *shown.shape[2:])  # (B, C, *R)
        return torch.cat([shown, planes], 1)

    def _decoder_input(self, z: Tensor, x: Tensor) -> Tensor:
        return self._join(z, self.parts(x)[1])

    def _join(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents and one-hot labels, (..., J + C), without a look at the labels' values."""
        try:
            told = self._one_hot(labels.expand(z.shape[:-1])).to(z)
        except RuntimeError:
            raise ValueError(f"shapes do not fit: z {tuple(z.shape)}, labels {tuple(labels.shape)}") from None
        if z.shape[-1:] != (self.num_latents,):
            raise ValueError(f"z must be (..., J) = (..., {self.num_latents}), got {tuple(z.shape)}")
        return torch.cat([z, told], -1)

    def _one_hot(self, labels: Tensor) -> Tensor:  # by comparison: F.one_hot makes a GPU wait
        return labels.unsqueeze(-1) == torch.arange(self.num_classes, device=labels.device)

    def _check_shape(self, x: Tensor) -> None:
        try:
            super()._check_shape(x)
        except ValueError as error:
            raise ValueError(f"{error}: a label and the data {self.point_shape}, with_labels(x, labels)") from None


def with_labels(x: Tensor, labels: Tensor) -> Tensor:
    """Data and their labels in one tensor, as a :class:`ConditionalVAE` takes them: a row is the label, then the data.

    What changes the data afterwards, such as a ``preprocess`` in training, must leave the first column as it is.

    Args:
        x: data, (N, \\*D), of any type.
        labels: whole numbers from 0 on, (N,), of any type, such as the classes 0 to C - 1.

    Returns:
        Labels and data, (N, 1 + prod D), in the type of x where it holds every label exactly: bytes stay bytes for labels
        up to 255. Otherwise in single precision.

    Raises:
        ValueError: if the shapes do not fit, or a label is negative, a fraction, or not below 2^24.

    Source: Sohn, Lee and Yan (2015) for models of labelled data.

    >>> with_labels(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([7, 2]))
    tensor([[7., 0., 1.],
            [2., 1., 1.]])
    """
    labels = torch.as_tensor(labels, device=x.device)
    if x.dim() == 0 or labels.shape != x.shape[:1]:
        raise ValueError(f"x must be (N, *D) and labels (N,), got x {tuple(x.shape)}, labels {tuple(labels.shape)}")
    _check_labels("labels", labels, 2**24 - 1)
    is_exact = torch.equal(labels.to(x.dtype).long(), labels.long())
    dtype = x.dtype if is_exact else torch.float32
    return torch.cat([labels.to(dtype).unsqueeze(1), x.reshape(len(x), math.prod(x.shape[1:])).to(dtype)], 1)


def conditional(
    build: Callable[..., VAE],
    data_shape: tuple[int, ...],
    num_latents: int,
    num_classes: int,
    *,
    prior: Prior | None = None,
    likelihood: Likelihood | None = None,
    family: type[MeanField] | type[FullRank] | Flowed = MeanField,
    **sizes: Any,
) -> ConditionalVAE:
    """A conditional VAE with the networks of another builder, made wider by the label.

    Args:
        build: :func:`linear_vae`, :func:`mlp_vae` or :func:`conv_vae`, or a function like these.
        data_shape: D, the shape of one data point without its label.
        num_latents: J, the dimensions of the latent.
        num_classes: C, at least 1.
        prior: p(z); N(0, I) without it.
        likelihood: p(x given z and y); Bernoulli without it.
        family: class of q(z given x and y).
        sizes: of the networks, as ``build`` names them, such as ``num_hidden``.

    Returns:
        The model: its encoder takes (A + C, \\*R), where the likelihood shows an encoder (A, \\*R), D for most, and its
        decoder J + C numbers.

    Raises:
        ValueError: if C is below 1, a data point has no axis, or the prior has not J dimensions.

    Source: Sohn, Lee and Yan (2015); Kingma, Rezende, Mohamed and Welling (2014).

    >>> vae = conditional(conv_vae, (3, 32, 20), num_latents=4, num_classes=10, num_channels=8, num_blocks=1)
    >>> vae.sample(2, labels=7).shape  # a label, and 3 x 32 x 20 pixels
    torch.Size([2, 1921])
    """
    _checks.whole(num_classes=num_classes)
    prior, likelihood, shape = _parts(data_shape, num_latents, prior, likelihood)
    wider = (shape[0] + num_classes, *shape[1:]) if data_shape else ()  # which the class refuses
    encoder = build(wider, num_latents, family=family, **sizes).encoder
    decoder = build(data_shape, num_latents + num_classes, likelihood=likelihood, **sizes).decoder
    parts: dict[str, Any] = {"prior": prior, "likelihood": likelihood, "family": family}
    return ConditionalVAE(encoder, decoder, data_shape, num_classes=num_classes, **parts)


def linear_vae(
    data_shape: tuple[int, ...],
    num_latents: int,
    *,
    prior: Prior | None = None,
    likelihood: Likelihood | None = None,
    family: type[MeanField] | type[FullRank] | Flowed = MeanField,
) -> VAE:
    r"""A VAE whose encoder mean and decoder are affine maps, and whose posterior covariance does not depend on x.

    .. math:: \mu(x) = V x + c, \quad \log \sigma^2(x) = \text{const}, \quad \mathrm{decoder}(z) = W z + b

    With a Gaussian likelihood its best bound is the evidence of probabilistic PCA,
    :func:`vae_tutorial.linear_gaussian.ppca`, and the columns of W are then the principal axes themselves: a diagonal q
    allows no other rotation. With a given noise variance, a latent whose eigenvalue is below it collapses.

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the latent.
        prior: p(z); N(0, I) without it.
        likelihood: p(x given z); Bernoulli without it.
        family: class of q(z given x).

    Returns:
        The model.

    Source: Lucas, Tucker, Grosse and Norouzi (2019), section 3.

    >>> linear_vae(data_shape=(1, 28, 28), num_latents=2).decode(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """
    prior, likelihood, shape = _parts(data_shape, num_latents, prior, likelihood)
    encoder = LinearEncoder(shape, num_latents, family.num_outputs(num_latents))
    decoder = LinearDecoder(shape, num_latents)
    return VAE(encoder, decoder, data_shape, prior=prior, likelihood=likelihood, family=family)


def mlp_vae(
    data_shape: tuple[int, ...],
    num_latents: int,
    num_hidden: int,
    *,
    prior: Prior | None = None,
    likelihood: Likelihood | None = None,
    family: type[MeanField] | type[FullRank] | Flowed = MeanField,
) -> VAE:
    """A VAE with one hidden layer on each side.

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the latent.
        num_hidden: width of the hidden layers.
        prior: p(z); N(0, I) without it.
        likelihood: p(x given z); Bernoulli without it.
        family: class of q(z given x).

    Returns:
        The model.

    Source: Kingma and Welling (2014), appendix C.

    >>> mlp_vae(data_shape=(1, 28, 28), num_latents=2, num_hidden=8).decode(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """
    prior, likelihood, shape = _parts(data_shape, num_latents, prior, likelihood)
    encoder = MLPEncoder(shape, family.num_outputs(num_latents), num_hidden)
    decoder = MLPDecoder(shape, num_latents, num_hidden)
    return VAE(encoder, decoder, data_shape, prior=prior, likelihood=likelihood, family=family)


def conv_vae(
    data_shape: tuple[int, ...] = (1, 28, 28),
    num_latents: int = 32,
    num_channels: int = 64,
    num_blocks: int = 2,
    num_hidden: int | None = None,
    *,
    patch_size: int = 4,
    prior: Prior | None = None,
    likelihood: Likelihood | None = None,
    family: type[MeanField] | type[FullRank] | Flowed = MeanField,
) -> VAE:
    """A convolutional VAE for images of any size and number of channels, grey 28 x 28 images by default.

    Its networks are :class:`~vae_tutorial.networks.ConvEncoder` and :class:`~vae_tutorial.networks.ConvDecoder`.

    Args:
        data_shape: (channels, height, width).
        num_latents: J, the dimensions of the latent.
        num_channels: channels C on the grid of patches.
        num_blocks: residual blocks on each side.
        num_hidden: width of the hidden layer on each side; without it, one linear layer joins grid and latents.
        patch_size: pixels along a patch.
        prior: p(z); N(0, I) without it.
        likelihood: p(x given z); Bernoulli without it.
        family: class of q(z given x).

    Returns:
        The model.

    Raises:
        ValueError: if ``data_shape`` is not (channels, height, width).

    Source: He, Zhang, Ren and Sun (2016) for residual blocks; Shi et al. (2016) for the pixel shuffle.

    >>> vae = conv_vae((3, 32, 20), num_latents=4, num_channels=8, num_blocks=1)
    >>> vae.elbo(torch.ones(2, 3, 32, 20)).shape
    torch.Size([2])
    """
    prior, likelihood, shape = _parts(data_shape, num_latents, prior, likelihood)
    sizes = (num_channels, num_blocks, num_hidden, patch_size)
    encoder = ConvEncoder(shape, family.num_outputs(num_latents), *sizes)
    decoder = ConvDecoder(shape, num_latents, *sizes)
    return VAE(encoder, decoder, data_shape, prior=prior, likelihood=likelihood, family=family)


def mlp_autoencoder(
    data_shape: tuple[int, ...],
    num_latents: int,
    num_hidden: int,
    *,
    sigma: float = 0.0,
    likelihood: Likelihood | None = None,
) -> Autoencoder:
    """An autoencoder with one hidden layer on each side.

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the dimensions of the code.
        num_hidden: width of the hidden layers.
        sigma: standard deviation of the noise on the code; 0 for a plain autoencoder.
        likelihood: p(x given z); Bernoulli without it.

    Returns:
        The model.

    Raises:
        ValueError: if sigma is negative or not finite.

    >>> mlp_autoencoder(data_shape=(1, 28, 28), num_latents=2, num_hidden=8).encode(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 2])
    """
    _, likelihood, shape = _parts(data_shape, num_latents, None, likelihood)
    encoder = MLPEncoder(shape, num_latents, num_hidden)
    decoder = MLPDecoder(shape, num_latents, num_hidden)
    return Autoencoder(encoder, decoder, data_shape, num_latents, sigma=sigma, likelihood=likelihood)


def _parts(
    data_shape: tuple[int, ...], num_latents: int, prior: Prior | None, likelihood: Likelihood | None
) -> tuple[Prior, Likelihood, tuple[int, ...]]:
    """The parts with their defaults, and the shape that the networks work on."""
    prior = StandardNormal(num_latents) if prior is None else prior
    likelihood = Bernoulli() if likelihood is None else likelihood
    if prior.num_latents != num_latents:
        raise ValueError(f"num_latents is {num_latents}, and the prior has {prior.num_latents}: they must be the same")
    return prior, likelihood, likelihood.output_shape(tuple(data_shape))


def _family_name(family: type | nn.Module) -> str:
    return (family if isinstance(family, type) else type(family)).__name__


def _check_labels(what: str, labels: Tensor, highest: int) -> None:
    """Refuse anything but the whole numbers from 0 to ``highest``, naming the first. Raises ValueError."""
    whole = labels.long()
    good = ((whole == labels) & (whole >= 0) & (whole <= highest)).flatten()
    if not good.all():
        row = int(good.int().argmin())
        place = f", first in row {row}" if labels.dim() else ""
        got = labels.flatten()[row].item()
        raise ValueError(f"{what} must be whole numbers from 0 to {highest}, got {got:.8g}{place}")
