r"""Normalizing flows: invertible maps whose log-determinant is cheap, to bend a simple density into another.

If :math:`\epsilon` has the density r and :math:`z = f(\epsilon)` with f one-to-one and smooth, then

.. math:: \log p(z) = \log r(\epsilon) - \log \Big\lvert \det \frac{\partial f}{\partial \epsilon} \Big\rvert,
    \qquad \epsilon = f^{-1}(z).

A layer here is a map with two directions. ``layer(eps)`` gives z and the log-determinant, ``layer.inverse(z)`` gives
:math:`\epsilon` and the log-determinant of the *same* direction, from :math:`\epsilon` to z: the sign never changes. Each
starts near the identity. Which direction is cheap differs: a coupling layer is quick both ways, an autoregressive one
forwards, and a planar one has to search for its inverse.

Shapes: eps and z are (..., J), the log-determinant (...), one number for each point, in nats.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vae_tutorial import _checks
from vae_tutorial._recipe import keeps_arguments

MARGIN = 1e-4  # how far a planar flow stays from folding: rounding would close a gap that is only positive
LIMIT = 3.0  # how far one layer may stretch on the logarithmic scale: LIMIT tanh(. / LIMIT)


class Flow(nn.Module):
    """What a family or a prior asks of a flow: both directions, each with the log-determinant.

    Args:
        num_latents: J, at least 1.

    Raises:
        ValueError: if J is below 1.
    """

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        _checks.whole(num_latents=num_latents)
        self.num_latents = num_latents

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z for eps, (..., J), and the log-determinant in nats, (...).

        Args:
            eps: points, (..., J).
        """
        raise NotImplementedError

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps for z, (..., J), and in nats, (...), the log-determinant of the map from eps to z there.

        Args:
            z: points, (..., J).
        """
        raise NotImplementedError


@keeps_arguments
class Planar(Flow):
    r"""A planar flow: every point moves along one direction, by an amount that depends on one coordinate.

    .. math:: z = \epsilon + \hat u \tanh(w^\top \epsilon + b), \qquad
        \Big\lvert \det \frac{\partial z}{\partial \epsilon} \Big\rvert
        = 1 + \big( 1 - \tanh^2(w^\top \epsilon + b) \big) \, w^\top \hat u

    It is one-to-one where :math:`w^\top \hat u > -1`, which the free parameter u is mapped to:

    .. math:: \hat u = u + \big( m(w^\top u) - w^\top u \big) \frac{w}{\lVert w \rVert^2}, \qquad
        m(a) = \operatorname{softplus}(a + c) - 1 + \delta,

    so that :math:`w^\top \hat u = m(w^\top u)`. A small :math:`\delta` keeps rounding from reaching -1, and c makes u = 0
    the identity. The inverse is the root of an increasing function of :math:`w^\top \epsilon`, found by bisection.

    Args:
        num_latents: J, at least 1.

    Raises:
        ValueError: if J is below 1.

    Source: Rezende and Mohamed (2015), equations (10) to (12) and appendix A.1, where c and the margin are 0.

    >>> flow = Planar(2)
    >>> z, log_det = flow(torch.zeros(5, 3, 2))
    >>> z.shape, log_det.shape
    (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """

    def __init__(self, num_latents: int) -> None:
        super().__init__(num_latents)
        self.u = nn.Parameter(torch.zeros(num_latents))
        self.w = nn.Parameter(torch.randn(num_latents))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z for eps, (..., J), and the log-determinant in nats, (...).

        Args:
            eps: points, (..., J).
        """
        u, push = self._direction()
        bend = torch.tanh(eps @ self.w + self.b)
        return eps + u * bend.unsqueeze(-1), torch.log1p((1 - bend.square()) * push)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps for z, (..., J), and in nats, (...), the log-determinant of the map from eps to z there.

        Args:
            z: points, (..., J).
        """
        u, push = self._direction()
        target = z @ self.w  # of a + push tanh(a + b), which increases with a
        with torch.no_grad():
            low, high = target - push.abs(), target + push.abs()
            for _ in range(60):
                middle = (low + high) / 2
                too_low = middle + push * torch.tanh(middle + self.b) < target
                low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        # One step of Newton's method: it adds the gradients, which a search has none of.
        bend = torch.tanh(middle + self.b)
        root = middle - (middle + push * bend - target) / (1 + push * (1 - bend.square()))
        bend = torch.tanh(root + self.b)
        return z - u * bend.unsqueeze(-1), torch.log1p((1 - bend.square()) * push)

    def _direction(self) -> tuple[Tensor, Tensor]:
        r""":math:`\hat u` and :math:`w^\top \hat u`, above -1."""
        product = self.w @ self.u
        push = nn.functional.softplus(product + math.log(math.expm1(1 - MARGIN))) - (1 - MARGIN)
        return self.u + (push - product) * self.w / self.w.square().sum(), push


@keeps_arguments
class Coupling(Flow):
    r"""An affine coupling layer: one half of the coordinates says how the other half is scaled and shifted.

    .. math:: z_a = \epsilon_a, \qquad z_b = \epsilon_b \odot e^{s(\epsilon_a)} + t(\epsilon_a), \qquad
        \log \Big\lvert \det \frac{\partial z}{\partial \epsilon} \Big\rvert = \sum_j s_j(\epsilon_a)

    s and t are one network with a hidden layer. Both directions cost one pass through it. Halves that are left as they are
    have to take turns: compose layers with ``flip`` off and on.

    Args:
        num_latents: J, at least 2.
        num_hidden: units of the hidden layer.
        flip: let the second half, the larger one where J is odd, stay as it is in place of the first.

    Raises:
        ValueError: if J is below 2.

    Source: Dinh, Sohl-Dickstein and Bengio (2017), equations (4) to (8).

    >>> Coupling(3, num_hidden=8)(torch.ones(3))[0]  # at the start the identity
    tensor([1., 1., 1.], grad_fn=<...>)
    """

    def __init__(self, num_latents: int, num_hidden: int = 32, flip: bool = False) -> None:
        super().__init__(num_latents)
        _checks.whole(num_hidden=num_hidden)
        if num_latents < 2:
            raise ValueError(f"num_latents must be at least 2, for two halves, got {num_latents}")
        first = num_latents // 2
        self.first, self.flip = first, flip
        known, changed = (num_latents - first, first) if flip else (first, num_latents - first)
        last = nn.Linear(num_hidden, 2 * changed)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(known, num_hidden), nn.SiLU(), last)

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z for eps, (..., J), and the log-determinant in nats, (...).

        Args:
            eps: points, (..., J).
        """
        known, changed = self._halves(eps)
        shift, log_scale = self._affine(known)
        return self._joined(known, changed * log_scale.exp() + shift), log_scale.sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps for z, (..., J), and in nats, (...), the log-determinant of the map from eps to z there.

        Args:
            z: points, (..., J).
        """
        known, changed = self._halves(z)
        shift, log_scale = self._affine(known)
        return self._joined(known, (changed - shift) * torch.exp(-log_scale)), log_scale.sum(-1)

    def _halves(self, points: Tensor) -> tuple[Tensor, Tensor]:
        a, b = points[..., : self.first], points[..., self.first :]
        return (b, a) if self.flip else (a, b)

    def _joined(self, known: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([changed, known] if self.flip else [known, changed], -1)

    def _affine(self, known: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.network(known).chunk(2, -1)
        return shift, LIMIT * torch.tanh(raw / LIMIT)


@keeps_arguments
class Autoregressive(Flow):
    r"""An autoregressive flow: each coordinate is scaled and shifted by what stands before it.

    .. math:: z_j = \epsilon_j \, e^{s_j(\epsilon_{1:j-1})} + t_j(\epsilon_{1:j-1}), \qquad
        \log \Big\lvert \det \frac{\partial z}{\partial \epsilon} \Big\rvert = \sum_j s_j(\epsilon_{1:j-1})

    One masked network gives all s and t at once, so sampling, with its log-density, costs one pass: what a posterior
    needs. The inverse goes through the coordinates one by one, J passes. Compose layers with ``flip`` off and on, so that
    each coordinate comes early once.

    Args:
        num_latents: J, at least 1.
        num_hidden: units of the hidden layer.
        flip: go through the coordinates from the last to the first.

    Raises:
        ValueError: if J is below 1.

    Source: Kingma et al. (2016), section 3, for the flow; Germain, Gregor, Murray and Larochelle (2015) for the masks.

    >>> flow = Autoregressive(3, num_hidden=8)
    >>> z, log_det = flow(torch.randn(5, 3))
    >>> torch.allclose(flow.inverse(z)[1], log_det)
    True
    """

    def __init__(self, num_latents: int, num_hidden: int = 32, flip: bool = False) -> None:
        super().__init__(num_latents)
        _checks.whole(num_hidden=num_hidden)
        self.flip = flip
        place = torch.arange(1, num_latents + 1)
        unit = torch.arange(num_hidden) % max(num_latents - 1, 1) + 1  # the last place that a hidden unit may see
        self.hidden, self.output = nn.Linear(num_latents, num_hidden), nn.Linear(num_hidden, 2 * num_latents)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("mask_in", (unit[:, None] >= place).float(), persistent=False)
        self.register_buffer("mask_out", (place.repeat(2)[:, None] > unit).float(), persistent=False)

    mask_in: Tensor
    mask_out: Tensor

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z for eps, (..., J), and the log-determinant in nats, (...).

        Args:
            eps: points, (..., J).
        """
        eps = self._in_order(eps)
        shift, log_scale = self._affine(eps)
        return self._in_order(eps * log_scale.exp() + shift), log_scale.sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps for z, (..., J), and in nats, (...), the log-determinant of the map from eps to z there.

        Args:
            z: points, (..., J).
        """
        z = self._in_order(z)
        eps = torch.zeros_like(z)
        for _ in range(self.num_latents):  # after pass j the first j coordinates are right
            shift, log_scale = self._affine(eps)
            eps = (z - shift) * torch.exp(-log_scale)
        return self._in_order(eps), self._affine(eps)[1].sum(-1)

    def _in_order(self, points: Tensor) -> Tensor:
        return points.flip(-1) if self.flip else points

    def _affine(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        hidden = nn.functional.silu(nn.functional.linear(eps, self.hidden.weight * self.mask_in, self.hidden.bias))
        outputs = nn.functional.linear(hidden, self.output.weight * self.mask_out, self.output.bias)
        shift, raw = outputs.chunk(2, -1)
        return shift, LIMIT * torch.tanh(raw / LIMIT)


@keeps_arguments
class Composed(Flow):
    r"""Flows one after another; their log-determinants add up.

    .. math:: f = f_L \circ \dots \circ f_1, \qquad
        \log \Big\lvert \det \frac{\partial f}{\partial \epsilon} \Big\rvert
        = \sum_{l=1}^L \log \Big\lvert \det \frac{\partial f_l}{\partial h_{l-1}} \Big\rvert, \quad h_0 = \epsilon, \;
        h_l = f_l(h_{l-1})

    Args:
        layers: the flows in the order from eps to z, all of the same J.

    Raises:
        ValueError: if there is none, or their J differ.

    Source: Rezende and Mohamed (2015), equation (7).

    >>> flow = Composed([Planar(2), Coupling(2), Coupling(2, flip=True)])
    >>> z, log_det = flow(torch.ones(4, 2))
    >>> torch.allclose(flow.inverse(z)[0], torch.ones(4, 2), atol=1e-5)
    True
    """

    def __init__(self, layers: Sequence[Flow]) -> None:
        sizes = {layer.num_latents for layer in layers}
        if len(sizes) != 1:
            raise ValueError(f"layers must be at least one flow, all of the same num_latents, got {sorted(sizes)}")
        super().__init__(sizes.pop())
        self.layers = nn.ModuleList(layers)

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z for eps, (..., J), and the log-determinant in nats, (...).

        Args:
            eps: points, (..., J).
        """
        total = eps.new_zeros(eps.shape[:-1])
        for layer in self.layers:
            eps, log_det = layer(eps)
            total = total + log_det
        return eps, total

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """eps for z, (..., J), and in nats, (...), the log-determinant of the map from eps to z there.

        Args:
            z: points, (..., J).
        """
        total = z.new_zeros(z.shape[:-1])
        for layer in reversed(self.layers):
            z, log_det = layer.inverse(z)  # type: ignore[operator]
            total = total + log_det
        return z, total
