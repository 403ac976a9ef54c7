r"""Priors: what p(z) may be.

A prior is a distribution over the latents that can be evaluated at any z, for the bound, and drawn from, for new data. Its
parameters, where it has any, are learnt with the networks: maximising the ELBO over p(z) pulls it towards the average
of the posteriors q(z given x).

Shapes: ``z`` is (K, B, J), and ``log_prob`` drops the last axis: (K, B). The results are in nats.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vae_tutorial import _checks, gaussian
from vae_tutorial._recipe import keeps_arguments
from vae_tutorial.families import Family, MeanField
from vae_tutorial.flows import Flow

MAX_NUMBERS = 2**22  # in one tensor that compares points with all components of a VampPrior


class Prior(nn.Module):
    """What a model asks of p(z): ``log_prob`` and ``sample``, and the number J of its latents.

    Args:
        num_latents: J, at least 1.

    Raises:
        ValueError: if J is below 1.
    """

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        _checks.whole(num_latents=num_latents)
        self.num_latents = num_latents

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (...).

        Args:
            z: points, (..., J).

        Raises:
            ValueError: if the last axis is not J.
        """
        raise NotImplementedError

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, (N, J), on the prior's device and in its precision.

        Args:
            num_samples: N, at least 1.
            generator: source of the noise, on the prior's device.

        Raises:
            ValueError: if ``num_samples`` is below 1.
        """
        raise NotImplementedError


@keeps_arguments
class StandardNormal(Prior):
    r"""The standard normal, :math:`p(z) = N(z; 0, I_J)`: no parameters.

    Args:
        num_latents: J, at least 1.

    Raises:
        ValueError: if J is below 1.

    Source: Kingma and Welling (2014).

    >>> StandardNormal(2).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    origin: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__(num_latents)
        # Not part of the state: it only follows the model to its device and precision.
        self.register_buffer("origin", torch.zeros(num_latents), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (...).

        Args:
            z: points, (..., J).

        Raises:
            ValueError: if the last axis is not J.
        """
        zero = self.origin.to(z.dtype)
        return gaussian.log_prob(z, zero, zero)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, (N, J), on the prior's device and in its precision.

        Args:
            num_samples: N, at least 1.
            generator: source of the noise, on the prior's device.

        Raises:
            ValueError: if ``num_samples`` is below 1.
        """
        return gaussian.sample(self.origin, self.origin, num_samples, generator=generator)


@keeps_arguments
class GaussianMixture(Prior):
    r"""A mixture of diagonal Gaussians with learnt weights, means and variances.

    .. math:: p(z) = \sum_{m=1}^M \pi_m \, N(z; \mu_m, \operatorname{diag} \sigma_m^2), \qquad
        \pi = \operatorname{softmax}(\texttt{logits})

    It starts with equal weights and unit variances, and with means drawn from N(0, I): equal components would have equal
    gradients for ever.

    Args:
        num_latents: J, at least 1.
        num_components: M, at least 1.

    Raises:
        ValueError: if J or M is below 1.

    Source: Bishop (2006), section 9.2.

    >>> prior = GaussianMixture(num_latents=2, num_components=3)
    >>> prior.log_prob(torch.zeros(5, 4, 2)).shape, prior.sample(7).shape
    (torch.Size([5, 4]), torch.Size([7, 2]))
    """

    def __init__(self, num_latents: int, num_components: int) -> None:
        super().__init__(num_latents)
        _checks.whole(num_components=num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.mu = nn.Parameter(torch.randn(num_components, num_latents))
        self.log_var = nn.Parameter(torch.zeros(num_components, num_latents))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (...).

        Args:
            z: points, (..., J).

        Raises:
            ValueError: if the last axis is not J.
        """
        log_p = gaussian.log_prob(z.unsqueeze(-2), self.mu, self.log_var)  # (..., M)
        return (self.logits.log_softmax(0) + log_p).logsumexp(-1)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, (N, J), on the prior's device and in its precision.

        Args:
            num_samples: N, at least 1.
            generator: source of the noise, on the prior's device.

        Raises:
            ValueError: if ``num_samples`` is below 1.
        """
        _checks.whole(num_samples=num_samples)
        component = self.logits.softmax(0).multinomial(num_samples, replacement=True, generator=generator)
        return gaussian.sample(self.mu[component], self.log_var[component], 1, generator=generator)[0]


@keeps_arguments
class FlowPrior(Prior):
    r"""A standard normal bent by a flow, whose parameters are learnt with the networks.

    .. math:: \log p(z) = \log N(\epsilon; 0, I) - \log \Big\lvert \det \frac{\partial f}{\partial \epsilon} \Big\rvert,
        \qquad \epsilon = f^{-1}(z)

    Training evaluates it at codes, so the flow's inverse should be cheap: a coupling layer's is.

    Args:
        flow: f, from eps to z, such as :class:`~vae_tutorial.flows.Composed`.

    Source: Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever and Abbeel (2017), section 3.2.

    >>> from vae_tutorial import flows
    >>> prior = FlowPrior(flows.Coupling(2))  # still the identity
    >>> prior.log_prob(torch.zeros(2)).item() == StandardNormal(2).log_prob(torch.zeros(2)).item()
    True
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.num_latents)
        self.flow, self.base = flow, StandardNormal(flow.num_latents)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (...).

        Args:
            z: points, (..., J).

        Raises:
            ValueError: if the last axis is not J.
        """
        if z.shape[-1:] != (self.num_latents,):
            raise ValueError(f"z must be (..., {self.num_latents}), got {tuple(z.shape)}")
        eps, log_det = self.flow.inverse(z)
        return self.base.log_prob(eps) - log_det

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, (N, J), on the prior's device and in its precision.

        Args:
            num_samples: N, at least 1.
            generator: source of the noise, on the prior's device.

        Raises:
            ValueError: if ``num_samples`` is below 1.
        """
        return self.flow(self.base.sample(num_samples, generator=generator))[0]


@keeps_arguments
class VampPrior(Prior):
    r"""A mixture of the model's own posteriors at learnt pseudo-inputs: of what the encoder says of M invented data points.

    .. math:: p(z) = \frac1M \sum_{m=1}^M q_\phi(z \mid u_m), \qquad
        u_m = a + (b - a) \operatorname{sigmoid}(\texttt{raw}_m)

    The encoder and the family are the model's: :class:`~vae_tutorial.models.VAE` hands them over when it is composed, a
    copied or a loaded model does the same again, and they are counted and stored once. Only the pseudo-inputs are the
    prior's own. They stay in the range of the data, [a, b], with a slope everywhere. They start at random, or at data
    with :meth:`start_at`.

    Args:
        num_latents: J, at least 1.
        num_components: M, at least 1.
        data_shape: D, the shape of one data point.
        data_range: the smallest and the largest value of the data, a and b; ``None`` for any real number, u = raw.

    Raises:
        ValueError: if J or M is below 1, or the range is empty.

    Source: Tomczak and Welling (2018).

    >>> from vae_tutorial import models
    >>> vae = models.mlp_vae((4,), 2, 8, prior=VampPrior(2, num_components=3, data_shape=(4,)))
    >>> vae.prior.log_prob(torch.zeros(5, 2)).shape, vae.elbo(torch.ones(6, 4)).shape
    (torch.Size([5]), torch.Size([6]))
    """

    def __init__(
        self,
        num_latents: int,
        num_components: int,
        data_shape: tuple[int, ...],
        *,
        data_range: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(num_latents)
        _checks.whole(num_components=num_components)
        if data_range is not None and not -math.inf < data_range[0] < data_range[1] < math.inf:
            raise ValueError(f"data_range must be two finite numbers, the smaller first, or None, got {data_range}")
        self.raw = nn.Parameter(torch.randn(num_components, *data_shape))
        self.data_range = data_range
        self._posterior: Callable[[Tensor], Family] | None = None

    def share(self, posterior: Callable[[Tensor], Family]) -> None:
        """Take the model's q(z given x); a model calls this when it is composed.

        Args:
            posterior: from data, (M, \\*D), to a family with M factors.
        """
        self._posterior = posterior  # no module: a registered encoder would be counted, moved and stored twice

    @torch.no_grad()
    def start_at(self, x: Tensor) -> "VampPrior":
        """Move the pseudo-inputs to data points, in place.

        Data at an end of the range start a hundredth of it inside, where the sigmoid still has a slope.

        Args:
            x: M data points, (M, \\*D), of any type.

        Returns:
            The prior.

        Raises:
            ValueError: if x has another shape.
        """
        if x.shape != self.raw.shape:
            raise ValueError(f"x must be (M, *D) = {tuple(self.raw.shape)}, got {tuple(x.shape)}")
        low, high = (0.0, 1.0) if self.data_range is None else self.data_range
        share = (x.to(self.raw) - low) / (high - low)
        self.raw.copy_(share if self.data_range is None else share.clamp(0.01, 0.99).logit())
        return self

    def pseudo_inputs(self) -> Tensor:
        """The invented data points u, (M, \\*D), in the range of the data."""
        if self.data_range is None:
            return self.raw
        low, high = self.data_range
        return low + (high - low) * self.raw.sigmoid()

    def components(self) -> Family:
        """What the encoder says of the pseudo-inputs: M factors, (M, J).

        Raises:
            ValueError: if no model has shared its encoder yet.
        """
        if self._posterior is None:
            raise ValueError("a VampPrior alone has no encoder: give it to a VAE, as prior=, which shares its own")
        return self._posterior(self.pseudo_inputs())

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, (...); every point meets every component, some of the points at a time.

        Args:
            z: points, (..., J).

        Raises:
            ValueError: if the last axis is not J, or no model has shared its encoder yet.
        """
        if z.shape[-1:] != (self.num_latents,):
            raise ValueError(f"z must be (..., {self.num_latents}), got {tuple(z.shape)}")
        q, size = self.components(), len(self.raw)
        chunks = z.reshape(-1, 1, self.num_latents).split(max(1, MAX_NUMBERS // (size * self.num_latents)))
        log_q = [q.log_prob(chunk).logsumexp(-1) for chunk in chunks]  # (C, 1, J) -> (C, M) -> (C,)
        return torch.cat(log_q).view(z.shape[:-1]) - math.log(size)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, (N, J), on the prior's device and in its precision.

        Args:
            num_samples: N, at least 1.
            generator: source of the noise, on the prior's device.

        Raises:
            ValueError: if ``num_samples`` is below 1, or no model has shared its encoder yet.
        """
        _checks.whole(num_samples=num_samples)
        size, device = len(self.raw), self.raw.device
        component = torch.randint(size, (num_samples,), generator=generator, device=device)
        return self.components().take(component).sample(1, generator=generator)[0]


def mixture_of(q: MeanField) -> GaussianMixture:
    r"""The aggregated posterior of N given factors, as a prior: the best one for them, and for them alone.

    .. math:: p^*(z) = \frac1N \sum_{n=1}^N q(z \mid x_n)

    Args:
        q: mean-field posteriors, N factors, such as ``vae.posterior(x)``; mu and log_var (N, J).

    Returns:
        A mixture of N components with equal weights, at which its parameters can be trained on.

    Raises:
        ValueError: if q is of another family.

    Source: Hoffman and Johnson (2016).

    >>> from vae_tutorial.families import MeanField
    >>> mixture_of(MeanField(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1))).log_prob(torch.zeros(1)).detach()
    tensor(-1.4189)
    """
    if not isinstance(q, MeanField):
        raise ValueError(f"q must be a MeanField, whose factors a GaussianMixture can hold, got a {type(q).__name__}")
    prior = GaussianMixture(q.mu.shape[-1], len(q.mu)).to(q.mu)
    for name, value in (("mu", q.mu), ("log_var", q.log_var)):
        getattr(prior, name).data.copy_(value.detach())
    return prior
