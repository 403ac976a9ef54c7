r"""Families of approximate posteriors: what q(z given x) may be, one Gaussian factor for each data point.

.. math:: q_\phi(z_1, \dots, z_B) = \prod_{b=1}^B N(z_b; \mu_b, \Sigma_b),

with a diagonal :math:`\Sigma_b` (mean field) or a full one (full rank). The parameters :math:`\phi` may be free, one set for
each data point, and are then fitted by :func:`vae_tutorial.variational.fit`. Or a network makes them from x, which is
amortization: a family says how many numbers it needs for J latents (``num_outputs``) and reads itself off a network's
outputs (``from_outputs``). All parameters are real numbers without constraints, so that a gradient step never leaves the
domain: a full covariance is written by its Cholesky factor, with the logarithm of its diagonal.

A family is a map from noise to latents, :math:`z = T_\phi(\epsilon)` with :math:`\epsilon \sim N(0, I)`, and its density
follows from the noise:

.. math:: \log q(z) = \log N(\epsilon; 0, I) - \log \lvert \det \partial T_\phi / \partial \epsilon \rvert.

``transform`` computes both from the noise itself. ``log_prob`` has to recover the noise from z first, and
:math:`(z - \mu) / \sigma` loses digits wherever :math:`\sigma` is small beside :math:`\mu`.

Shapes: ``mu`` is (B, J), noise and samples are (K, B, J), log-densities (K, B). The results are in nats.
"""

import copy
import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vae_tutorial import _checks, full_gaussian, gaussian
from vae_tutorial._recipe import keeps_arguments
from vae_tutorial.flows import Flow

LOG_VAR_LIMIT = 12.0  # what a network may say: 12 tanh(. / 12) is almost the identity where variances usually lie


class Family(Protocol):
    """What a model asks of q(z given x), one factor for each of B data points; log-densities are in nats."""

    @property
    def mean(self) -> Tensor:
        """The means, (B, J)."""

    def noise(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Noise for the two maps below, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """

    def latents(self, eps: Tensor) -> Tensor:
        """Latents for noise, (K, B, J).

        Args:
            eps: noise, (K, B, J).
        """

    def transform(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The same latents, and their log-density in nats, (K, B), from the noise itself.

        Args:
            eps: noise, (K, B, J).
        """

    def inverse(self, z: Tensor) -> Tensor:
        """The noise behind latents, (K, B, J).

        Args:
            z: latents, (K, B, J).
        """

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterized samples, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """

    def sample_and_log_prob(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples, (K, B, J), and their log-density in nats, (K, B), from the noise itself.

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density at any points, in nats, (..., B).

        Args:
            z: points, (..., B, J).
        """

    def take(self, index: Tensor) -> "Family":
        """The factors of some data points.

        Args:
            index: their numbers, (M,).
        """

    def detached(self) -> "Family":
        """The same distributions with their parameters held fixed, (B, J): gradients of a log-density flow to z alone."""


class MeanField(NamedTuple):
    """Diagonal Gaussians, one for each data point: means (B, J), log-variances (B, J)."""

    mu: Tensor
    log_var: Tensor

    @staticmethod
    def num_outputs(num_latents: int) -> int:
        """How many numbers a network gives for J latents: 2 J.

        Args:
            num_latents: J, the numbers in a latent.
        """
        return 2 * num_latents

    @classmethod
    def from_outputs(cls, outputs: Tensor) -> "MeanField":
        r"""The family read off a network's outputs: the means, then raw log-variances.

        .. math:: \log \sigma^2 = 12 \tanh(r / 12)

        is almost the raw number r where variances usually lie, and bounded, so that one bad step cannot overflow its
        exponential. A hard clamp would have no gradient there.

        Args:
            outputs: (B, 2 J).
        """
        mu, raw = outputs.chunk(2, -1)
        return cls(mu, LOG_VAR_LIMIT * torch.tanh(raw / LOG_VAR_LIMIT))

    @property
    def mean(self) -> Tensor:
        """The means, (B, J)."""
        return self.mu

    def noise(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise for :meth:`transform`, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return _noise(self.mu, num_samples, generator)

    def latents(self, eps: Tensor) -> Tensor:
        r"""Latents for noise, :math:`z = \mu + \sigma \odot \epsilon`, (K, B, J); gradients flow to the parameters.

        Args:
            eps: noise, (K, B, J).
        """
        return gaussian.reparameterize(eps, self.mu, self.log_var)

    def transform(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        r"""Latents :math:`z = \mu + \sigma \odot \epsilon`, and their log-density in nats.

        .. math:: \log q(z) = \log N(\epsilon; 0, I) - \tfrac12 \sum_{j=1}^J \log \sigma_j^2

        Args:
            eps: noise, (K, B, J).

        Returns:
            z (K, B, J) and log q(z) (K, B); gradients flow to the parameters.
        """
        zero = torch.zeros_like(self.mu)
        return self.latents(eps), gaussian.log_prob(eps, zero, zero) - 0.5 * self.log_var.sum(-1)

    def inverse(self, z: Tensor) -> Tensor:
        r"""The noise behind latents, :math:`\epsilon = (z - \mu) / \sigma`, (K, B, J).

        Args:
            z: latents, (K, B, J).
        """
        return (z - self.mu) * gaussian.precision(0.5 * self.log_var)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterized samples, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return gaussian.sample(self.mu, self.log_var, num_samples, generator=generator)

    def sample_and_log_prob(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reparameterized samples (K, B, J), and their log-density in nats (K, B), computed from the noise.

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return self.transform(self.noise(num_samples, generator=generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (..., B).

        Args:
            z: points, (..., B, J).
        """
        return gaussian.log_prob(z, self.mu, self.log_var)

    def covariance(self) -> Tensor:
        """The covariances, (B, J, J): diagonal matrices."""
        return self.log_var.exp().diag_embed()

    def take(self, index: Tensor) -> "MeanField":
        """The factors of some of the data points: a batch.

        Args:
            index: their numbers, (M,).
        """
        return MeanField(self.mu[index], self.log_var[index])

    def detached(self) -> "MeanField":
        """The same distributions with their parameters held fixed, (B, J): gradients of a log-density flow to z alone."""
        return MeanField(*(parameter.detach() for parameter in self))


class FullRank(NamedTuple):
    """Gaussians with full covariances, one for each data point: means (B, J), log-Cholesky factors (B, J, J)."""

    mu: Tensor
    log_cholesky: Tensor

    @staticmethod
    def num_outputs(num_latents: int) -> int:
        """How many numbers a network gives for J latents: J means, and J (J + 1) / 2 entries of the factor.

        Args:
            num_latents: J, the numbers in a latent.
        """
        return num_latents + num_latents * (num_latents + 1) // 2

    @classmethod
    def from_outputs(cls, outputs: Tensor) -> "FullRank":
        r"""The family read off a network's outputs: means, raw log-diagonals, then the entries below the diagonal.

        The log-diagonal, half a log-variance, is bounded as :class:`MeanField`'s is: :math:`6 \tanh(r / 6)`.

        Args:
            outputs: (B, J + J (J + 1) / 2).
        """
        num_latents = (math.isqrt(9 + 8 * outputs.shape[-1]) - 3) // 2  # of P = J (J + 3) / 2
        mu, raw, below = outputs.split([num_latents, num_latents, outputs.shape[-1] - 2 * num_latents], -1)
        limit = LOG_VAR_LIMIT / 2
        log_cholesky = (limit * torch.tanh(raw / limit)).diag_embed()
        rows, columns = torch.tril_indices(num_latents, num_latents, -1, device=outputs.device)
        log_cholesky[..., rows, columns] = below
        return cls(mu, log_cholesky)

    @property
    def mean(self) -> Tensor:
        """The means, (B, J)."""
        return self.mu

    def noise(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise for :meth:`transform`, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return _noise(self.mu, num_samples, generator)

    def latents(self, eps: Tensor) -> Tensor:
        r"""Latents for noise, :math:`z = \mu + L \epsilon`, (K, B, J); gradients flow to the parameters.

        Args:
            eps: noise, (K, B, J).
        """
        return full_gaussian.reparameterize(eps, self.mu, scale_tril(self.log_cholesky))

    def transform(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        r"""Latents :math:`z = \mu + L \epsilon`, and their log-density in nats.

        .. math:: \log q(z) = \log N(\epsilon; 0, I) - \sum_{j=1}^J \log L_{jj}

        Args:
            eps: noise, (K, B, J).

        Returns:
            z (K, B, J) and log q(z) (K, B); gradients flow to the parameters.
        """
        zero = torch.zeros_like(self.mu)
        return self.latents(eps), gaussian.log_prob(eps, zero, zero) - self.log_cholesky.diagonal(dim1=-2, dim2=-1).sum(
            -1
        )

    def inverse(self, z: Tensor) -> Tensor:
        r"""The noise behind latents, :math:`\epsilon = L^{-1} (z - \mu)`, (K, B, J).

        Args:
            z: latents, (K, B, J).
        """
        factor, columns = scale_tril(self.log_cholesky), (z - self.mu).movedim(0, -1)  # (B, J, K)
        return torch.linalg.solve_triangular(factor, columns, upper=False).movedim(-1, 0)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterized samples, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return full_gaussian.sample(self.mu, scale_tril(self.log_cholesky), num_samples, generator=generator)

    def sample_and_log_prob(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reparameterized samples (K, B, J), and their log-density in nats (K, B), computed from the noise.

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return self.transform(self.noise(num_samples, generator=generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (..., B).

        Args:
            z: points, (..., B, J).
        """
        return full_gaussian.log_prob(z, self.mu, scale_tril(self.log_cholesky))

    def covariance(self) -> Tensor:
        """The covariances, (B, J, J)."""
        factor = scale_tril(self.log_cholesky)
        return factor @ factor.mT

    def take(self, index: Tensor) -> "FullRank":
        """The factors of some of the data points: a batch.

        Args:
            index: their numbers, (M,).
        """
        return FullRank(self.mu[index], self.log_cholesky[index])

    def detached(self) -> "FullRank":
        """The same distributions with their parameters held fixed, (B, J): gradients of a log-density flow to z alone."""
        return FullRank(*(parameter.detach() for parameter in self))


class FlowPosterior(NamedTuple):
    """A Gaussian family bent by a flow, the same for every data point: means of the base (B, J), and the flow."""

    base: MeanField | FullRank
    flow: Flow

    @property
    def mean(self) -> Tensor:
        """Where the flow takes the means of the base, (B, J): a central point of each factor, and not its mean."""
        return self.flow(self.base.mean)[0]

    def noise(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise for :meth:`transform`, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return self.base.noise(num_samples, generator=generator)

    def latents(self, eps: Tensor) -> Tensor:
        """Latents for noise, the flow of the base's, (K, B, J); gradients flow to the parameters.

        Args:
            eps: noise, (K, B, J).
        """
        return self.flow(self.base.latents(eps))[0]

    def transform(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        r"""Latents, and their log-density in nats.

        .. math:: z = f(z_0), \qquad \log q(z) = \log q_0(z_0)
            - \log \Big\lvert \det \frac{\partial f}{\partial z_0} \Big\rvert

        Args:
            eps: noise, (K, B, J).

        Returns:
            z (K, B, J) and log q(z) (K, B); gradients flow to the parameters.
        """
        start, log_q = self.base.transform(eps)
        z, log_det = self.flow(start)
        return z, log_q - log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The noise behind latents, (K, B, J).

        Args:
            z: latents, (K, B, J).
        """
        return self.base.inverse(self.flow.inverse(z)[0])

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterized samples, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return self.latents(self.noise(num_samples, generator=generator))

    def sample_and_log_prob(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reparameterized samples (K, B, J), and their log-density in nats (K, B), computed from the noise.

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return self.transform(self.noise(num_samples, generator=generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (..., B).

        Args:
            z: points, (..., B, J).
        """
        start, log_det = self.flow.inverse(z)
        return self.base.log_prob(start) - log_det

    def take(self, index: Tensor) -> "FlowPosterior":
        """The factors of some of the data points: a batch.

        Args:
            index: their numbers, (M,).
        """
        return FlowPosterior(self.base.take(index), self.flow)

    def detached(self) -> "FlowPosterior":
        """The same distributions with their parameters held fixed, (B, J): gradients of a log-density flow to z alone."""
        return FlowPosterior(self.base.detached(), copy.deepcopy(self.flow).requires_grad_(False))


@keeps_arguments
class Flowed(nn.Module):
    r"""A family for a VAE: a Gaussian whose parameters come from the encoder, bent by a flow that is the same for every x.

    .. math:: z_0 \sim N(\mu(x), \Sigma(x)), \qquad z = f(z_0)

    The flow is learnt with the networks; it can give all posteriors a shape that no Gaussian has, and no two of them
    different shapes but by where the base puts them. Training draws from it, so its forward direction should be cheap.

    Args:
        flow: f, such as :class:`~vae_tutorial.flows.Composed`.
        base: class of the Gaussian family.

    Source: Rezende and Mohamed (2015), with one flow for all x.

    >>> from vae_tutorial import flows
    >>> q = Flowed(flows.Planar(2)).from_outputs(torch.zeros(3, 4))
    >>> q.sample(5).shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, flow: Flow, base: type[MeanField] | type[FullRank] = MeanField) -> None:
        super().__init__()
        self.flow, self.base = flow, base

    def num_outputs(self, num_latents: int) -> int:
        """How many numbers a network gives for J latents: as many as for the base.

        Args:
            num_latents: J, the numbers in a latent.

        Raises:
            ValueError: if the flow is of another J.
        """
        if num_latents != self.flow.num_latents:
            raise ValueError(f"the flow is of {self.flow.num_latents} latents, and the prior of {num_latents}")
        return self.base.num_outputs(num_latents)

    def from_outputs(self, outputs: Tensor) -> FlowPosterior:
        """The family read off a network's outputs: the base's, and the flow.

        Args:
            outputs: (B, P), as the base reads them.
        """
        return FlowPosterior(self.base.from_outputs(outputs), self.flow)


def mean_field(num_data: int, num_latents: int, *, dtype: torch.dtype = torch.float64) -> MeanField:
    r"""Parameters of a mean-field family, ready to be fitted: every factor starts at N(0, I).

    .. math:: q(z_b) = \prod_{j=1}^J N(z_{bj}; \mu_{bj}, \sigma_{bj}^2), \qquad \mu_{bj} = 0, \quad \log \sigma_{bj}^2 = 0

    Args:
        num_data: B, at least 1.
        num_latents: J, at least 1.
        dtype: of the parameters.

    Returns:
        ``MeanField(mu, log_var)``, leaf tensors (B, J) that ask for gradients.

    Raises:
        ValueError: if B or J is below 1.

    Source: Jordan, Ghahramani, Jaakkola and Saul (1999); Ranganath, Gerrish and Blei (2014) for the Gaussian family.

    >>> mean_field(88, 2).mu.shape
    torch.Size([88, 2])
    """
    _checks.whole(num_data=num_data, num_latents=num_latents)
    mu, log_var = (torch.zeros(num_data, num_latents, dtype=dtype, requires_grad=True) for _ in range(2))
    return MeanField(mu, log_var)


def full_rank(num_data: int, num_latents: int, *, dtype: torch.dtype = torch.float64) -> FullRank:
    r"""Parameters of a full-rank family, ready to be fitted: every factor starts at N(0, I).

    .. math:: q(z_b) = N(z_b; \mu_b, L_b L_b^\top), \qquad \mu_b = 0, \quad L_b = I

    Args:
        num_data: B, at least 1.
        num_latents: J, at least 1.
        dtype: of the parameters.

    Returns:
        ``FullRank(mu, log_cholesky)``, leaf tensors (B, J) and (B, J, J) that ask for gradients.

    Raises:
        ValueError: if B or J is below 1.

    Source: Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), section 2.4, where L's diagonal is not logarithmic.

    >>> full_rank(88, 2).covariance()[0].detach()
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    _checks.whole(num_data=num_data, num_latents=num_latents)
    mu = torch.zeros(num_data, num_latents, dtype=dtype, requires_grad=True)
    return FullRank(mu, torch.zeros(num_data, num_latents, num_latents, dtype=dtype, requires_grad=True))


def scale_tril(log_cholesky: Tensor) -> Tensor:
    r"""The Cholesky factor from free parameters: every covariance matrix comes from exactly one choice of them.

    .. math:: L_{ij} = \begin{cases} a_{ij} & i > j \\ e^{a_{ii}} & i = j \\ 0 & i < j \end{cases}

    The entries of a above the diagonal are not read, and their gradient is 0.

    Args:
        log_cholesky: a, any real numbers, (..., J, J).

    Returns:
        L, lower triangular with a positive diagonal, (..., J, J).

    Raises:
        ValueError: if the last two axes are not square.

    Source: Pinheiro and Bates (1996), the log-Cholesky parametrization.

    >>> scale_tril(torch.tensor([[0.0, 7.0], [3.0, 0.0]]))
    tensor([[1., 0.],
            [3., 1.]])
    """
    if log_cholesky.dim() < 2 or log_cholesky.shape[-1] != log_cholesky.shape[-2]:
        raise ValueError(f"log_cholesky must be (..., J, J), got shape {tuple(log_cholesky.shape)}")
    return log_cholesky.tril(-1) + log_cholesky.diagonal(dim1=-2, dim2=-1).exp().diag_embed()


def _noise(mu: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
    _checks.whole(num_samples=num_samples)
    return torch.randn(num_samples, *mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
