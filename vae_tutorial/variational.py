r"""Stochastic variational inference without a network: the loop that fits a family's free parameters.

The posteriors of B data points are approximated by a family of :mod:`vae_tutorial.families`, one factor for each, and the
ELBO is maximised over its parameters :math:`\phi` by stochastic gradients. A network that produces :math:`\phi` from x is
the step to amortization.

Shapes: samples are (K, B, J), ``log_w`` is (K, B). The results are in nats.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from vae_tutorial import _checks
from vae_tutorial.families import Family


def log_weights(
    log_joint: Callable[[Tensor], Tensor],
    q: Family,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Importance log-weights of reparameterized samples, in nats: every bound is a function of them.

    .. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb}), \qquad z_{kb} \sim q

    Args:
        log_joint: log p(x, z) as a function of z, (K, B, J) -> (K, B).
        q: a family such as :class:`~vae_tutorial.families.MeanField`, (B, J).
        num_samples: K, at least 1.
        generator: source of the noise.

    Returns:
        Log-weights, (K, B); their gradient is the pathwise one.

    Raises:
        ValueError: if ``log_joint`` does not return (K, B), or K < 1.

    Source: Kingma and Welling (2014), equation (5), for one data point at a time.

    >>> from vae_tutorial import families, gaussian
    >>> q, zero = families.mean_field(1, 1), torch.zeros(1).double()
    >>> log_weights(lambda z: gaussian.log_prob(z, zero, zero), q, 2).detach()  # q is the posterior: log p(x) = 0
    tensor([[0.],
            [0.]], dtype=torch.float64)
    """
    z, log_q_z = q.sample_and_log_prob(num_samples, generator=generator)
    log_p = log_joint(z)
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
        parameters: leaf tensors of any shape that ask for gradients, such as those of a family; changed in place.
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
        FloatingPointError: when the bound or its gradient is not finite; the parameters are then the last at which both
            were finite.

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
    trace, good = [], [parameter.detach().clone() for parameter in parameters]
    # Without a word on `disable`, tqdm obeys the environment variable TQDM_DISABLE.
    for step in tqdm(range(num_steps), unit="step", **({} if progress else {"disable": True})):
        rate = learning_rate * (schedule(step / num_steps) if schedule else 1.0)
        optimizer.param_groups[0]["lr"] = rate
        value = _scalar(bound(generator))
        optimizer.zero_grad()
        (-value).backward()  # an optimizer minimises
        _stop_unless_finite(value, parameters, good, step, rate)
        good = [parameter.detach().clone() for parameter in parameters]
        optimizer.step()
        trace.append(value.detach())
    return torch.stack(trace)


def _check_fit(parameters: list[Tensor], num_steps: int, learning_rate: float) -> None:
    _checks.whole(num_steps=num_steps)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got learning_rate {learning_rate}")
    if not parameters or not all(tensor.is_leaf and tensor.requires_grad for tensor in parameters):
        shapes = [tuple(tensor.shape) for tensor in parameters]
        raise ValueError(f"parameters must be leaf tensors that ask for gradients, at least one; got shapes {shapes}")


def _scalar(value: Tensor) -> Tensor:
    if value.dim() != 0 or not value.requires_grad:
        raise ValueError(
            f"bound must return a scalar that depends on the parameters, got shape {tuple(value.shape)}, "
            f"requires_grad {value.requires_grad}"
        )
    return value


@torch.no_grad()
def _stop_unless_finite(value: Tensor, parameters: list[Tensor], good: list[Tensor], step: int, rate: float) -> None:
    """Stop where the bound or a gradient is not finite, at the last parameters where both were."""
    finite = all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in parameters)
    if finite and value.isfinite():
        return
    torch._foreach_copy_(parameters, good)
    what = "the gradient is not finite" if value.isfinite() else f"the bound is {value.item()}"
    raise FloatingPointError(f"{what} in step {step + 1}, at learning rate {rate:g}: try a lower one")
