r"""Priors: what p(z) may be.

A prior is a distribution over the latents that can be evaluated at any z, for the bound, and drawn from, for new data. Its
parameters, where it has any, are learnt with the networks: maximising the ELBO over p(z) pulls it towards the average
of the posteriors q(z given x).

Shapes: ``z`` is (K, B, J), and ``log_prob`` drops the last axis: (K, B). The results are in nats.
"""

import torch
from torch import Tensor, nn

from vae_tutorial import _checks, gaussian
from vae_tutorial._recipe import keeps_arguments
from vae_tutorial.flows import Flow


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
