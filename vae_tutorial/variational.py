r"""Stochastic variational inference: two Gaussian families, one factor for each data point, and the loop that fits them.

The posteriors of B data points are approximated by B Gaussians with parameters of their own,

.. math:: q_\phi(z_1, \dots, z_B) = \prod_{b=1}^B N(z_b; \mu_b, \Sigma_b),

with a diagonal :math:`\Sigma_b` (mean field) or a full one (full rank), and the ELBO is maximised over :math:`\phi` by
stochastic gradients. No network is involved: a network that produces :math:`\phi` from x is the step to amortization.

Both families are written in free parameters: any real numbers will do, and a gradient step never leaves the domain. For
a full covariance these are the entries of the Cholesky factor, with the logarithm of its diagonal.

Shapes: ``mu`` is (B, J), samples are (K, B, J), ``log_w`` is (K, B). The results are in nats.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vae_tutorial import full_gaussian, gaussian


class MeanField(NamedTuple):
    """Diagonal Gaussians, one for each data point: means (B, J), log-variances (B, J)."""

    mu: Tensor
    log_var: Tensor

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterized samples, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return gaussian.sample(self.mu, self.log_var, num_samples, generator=generator)

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


class FullRank(NamedTuple):
    """Gaussians with full covariances, one for each data point: means (B, J), log-Cholesky factors (B, J, J)."""

    mu: Tensor
    log_cholesky: Tensor

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Reparameterized samples, (K, B, J).

        Args:
            num_samples: K, at least 1.
            generator: source of the noise.
        """
        return full_gaussian.sample(self.mu, scale_tril(self.log_cholesky), num_samples, generator=generator)

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
    _check_sizes(num_data, num_latents)
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
    _check_sizes(num_data, num_latents)
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


def log_weights(
    log_joint: Callable[[Tensor], Tensor],
    q: MeanField | FullRank,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance log-weights of reparameterized samples, in nats: every bound is a function of them.

    .. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb}), \qquad z_{kb} \sim q

    Args:
        log_joint: log p(x, z) as a function of z, (K, B, J) -> (K, B).
        q: a mean-field or full-rank family, (B, J).
        num_samples: K, at least 1.
        generator: source of the noise.

    Returns:
        Log-weights, (K, B); their gradient is the pathwise one.

    Raises:
        ValueError: if ``log_joint`` does not return (K, B), or K < 1.

    Source: Kingma and Welling (2014), equation (5), for one data point at a time.

    >>> q, zero = mean_field(1, 1), torch.zeros(1).double()
    >>> log_weights(lambda z: gaussian.log_prob(z, zero, zero), q, 2).detach()  # q is the posterior: log p(x) = 0
    tensor([[0.],
            [0.]], dtype=torch.float64)
    """
    z = q.sample(num_samples, generator=generator)
    log_p, log_q_z = log_joint(z), q.log_prob(z)
    if log_p.shape != log_q_z.shape:
        raise ValueError(
            f"log_joint must return (K, B) = {tuple(log_q_z.shape)} for z {tuple(z.shape)}, got {tuple(log_p.shape)}"
        )
    return log_p - log_q_z


def fit(
    bound: Callable[[torch.Generator], Tensor],
    parameters: Iterable[Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    schedule: Callable[[float], float] | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Tensor:
    r"""Maximise a stochastic bound over free parameters by stochastic gradients (Adam).

    .. math:: \phi \leftarrow \text{Adam step on } - \widehat{\mathrm{ELBO}}(\phi)

    Whatever returns an unbiased estimate of the bound will do: few samples, a batch of the data instead of all of them
    (scaled to stand for all), or a surrogate from :mod:`vae_tutorial.gradients`.

    Args:
        bound: an estimate of what is to be maximised, a scalar, as a function of the generator it draws from.
        parameters: leaf tensors of any shape that ask for gradients, such as a :class:`MeanField`; changed in place.
        num_steps: number of steps, at least 1.
        learning_rate: Adam's step size.
        schedule: factor on the learning rate as a function of the fraction of steps done, from 0 to 1; constant
            without it.
        generator: passed to ``bound``; a fresh one with seed 0 without it.
        progress: show a progress bar.

    Returns:
        The bound's estimate before each step, (num_steps,), in the unit of ``bound``, without a gradient.

    Raises:
        ValueError: for settings that make no sense, no parameters, or a bound that is not a scalar.
        FloatingPointError: when the bound is not finite; the parameters are then those of the step before.

    Source: Robbins and Monro (1951); Hoffman, Blei, Wang and Paisley (2013); Kingma and Ba (2015) for Adam.

    >>> phi = torch.zeros(1, requires_grad=True)
    >>> trace = fit(lambda _: -(phi - 3).square().sum(), [phi], num_steps=500, learning_rate=0.1, progress=False)
    >>> round(phi.item(), 2)
    3.0
    """
    parameters = list(parameters)
    _check_fit(parameters, num_steps, learning_rate)
    generator = torch.Generator(parameters[0].device).manual_seed(0) if generator is None else generator
    optimizer = torch.optim.Adam(parameters, learning_rate, fused=True)
    trace = []
    # Without a word on `disable`, tqdm obeys the environment variable TQDM_DISABLE.
    for step in tqdm(range(num_steps), unit="step", **({} if progress else {"disable": True})):
        rate = learning_rate * (schedule(step / num_steps) if schedule else 1.0)
        optimizer.param_groups[0]["lr"] = rate
        value = bound(generator)
        _check_value(value, step, rate)
        optimizer.zero_grad()
        (-value).backward()  # an optimizer minimises
        optimizer.step()
        trace.append(value.detach())
    return torch.stack(trace)


def _check_sizes(num_data: int, num_latents: int) -> None:
    if num_data < 1 or num_latents < 1:
        raise ValueError(
            f"num_data and num_latents must be at least 1, got num_data {num_data}, num_latents {num_latents}"
        )


def _check_fit(parameters: list[Tensor], num_steps: int, learning_rate: float) -> None:
    if num_steps < 1 or not 0 < learning_rate < math.inf:
        given = f"num_steps {num_steps}, learning_rate {learning_rate}"
        raise ValueError(f"num_steps must be at least 1, learning_rate positive and finite, got {given}")
    if not parameters or not all(tensor.is_leaf and tensor.requires_grad for tensor in parameters):
        shapes = [tuple(tensor.shape) for tensor in parameters]
        raise ValueError(f"parameters must be leaf tensors that ask for gradients, at least one; got shapes {shapes}")


def _check_value(value: Tensor, step: int, rate: float) -> None:
    if value.dim() != 0 or not value.requires_grad:
        raise ValueError(
            f"bound must return a scalar that depends on the parameters, got shape {tuple(value.shape)}, "
            f"requires_grad {value.requires_grad}"
        )
    if not value.isfinite():
        raise FloatingPointError(
            f"the bound is {value.item()} in step {step + 1}, at learning rate {rate:g}: try a lower one"
        )
