r"""Estimators of the ELBO's gradient with respect to the parameters of q, one gradient for every sample.

For a diagonal Gaussian q with parameters :math:`\phi = (\mu, \log \sigma^2)`, all of the following have one expectation,

.. math:: \nabla_\phi \, \mathbb{E}_{q_\phi(z)}[\log w(z)], \qquad \log w(z) = \log p(x, z) - \log q_\phi(z),

and they differ in their variance:

- the **score-function** gradient, :math:`\nabla_\phi \log q_\phi(z) \, (\log w(z) - b)`, needs only values of log w;
- the **pathwise** gradient differentiates :math:`\log w(\mu + \sigma \odot \epsilon)` at fixed noise, and needs
  :math:`\nabla_z \log p(x, z)`;
- the **path derivative** is the pathwise gradient without the term :math:`-\nabla_\phi \log q_\phi(z)` at fixed z, whose
  expectation is 0. Its variance vanishes where q is the posterior.

Nothing here draws a random number: the samples, or the noise behind them, are arguments. An estimate is the mean over K,
and its variance can be read from the spread over K. Quadrature nodes may stand in place of samples.

:func:`importance_weighted` turns the second and the third into gradients of the K-sample bound.

For families other than the diagonal Gaussian there are *surrogates*: functions whose value is log w and whose gradient,
taken by autograd, is the estimator. Ascending the mean of a surrogate is ascending the ELBO.

Shapes: ``z``, ``eps`` and each gradient are (K, B, J), ``log_w`` is (K, B), ``mu`` and ``log_var`` are (B, J).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _checks, gaussian


class Gradient(NamedTuple):
    """A gradient for each sample, with respect to the two parameters of a diagonal Gaussian, each (K, B, J)."""

    mu: Tensor
    log_var: Tensor


def score(z: Tensor, mu: Tensor, log_var: Tensor) -> Gradient:
    r"""The score of a diagonal Gaussian: the gradient of its log-density with respect to its parameters.

    .. math:: \frac{\partial \log q(z)}{\partial \mu_j} = \frac{z_j - \mu_j}{\sigma_j^2}, \qquad
        \frac{\partial \log q(z)}{\partial \log \sigma_j^2} = \frac12 \Big( \frac{(z_j - \mu_j)^2}{\sigma_j^2} - 1 \Big)

    Its expectation under q is 0.

    Args:
        z: samples, (K, B, J), held fixed.
        mu: mean of q, (B, J).
        log_var: log-variance of q, (B, J), (B, 1) or a scalar.

    Returns:
        ``Gradient(mu, log_var)``, each (K, B, J), with an entry for each coordinate also where a log-variance is shared.

    Raises:
        ValueError: if the shapes do not fit.

    Source: derived in the book, chapter 5.

    >>> score(torch.tensor([[3.0]]), torch.tensor([1.0]), torch.tensor([0.0]))
    Gradient(mu=tensor([[2.]]), log_var=tensor([[1.5000]]))
    """
    _checks.latent(z=z, mu=mu, log_var=log_var)
    difference = z - mu
    scaled = difference * gaussian.precision(log_var)
    return Gradient(scaled, 0.5 * (difference * scaled - 1))


def score_function(
    log_w: Tensor, z: Tensor, mu: Tensor, log_var: Tensor, *, baseline: Tensor | float = 0.0
) -> Gradient:
    r"""The score-function gradient of the ELBO, also called REINFORCE or the likelihood-ratio gradient.

    .. math:: g_k = \nabla_\phi \log q_\phi(z_k) \, \big( \log w_k - b_k \big), \qquad z_k \sim q_\phi

    Any function of z may stand in place of log w: the estimator is unbiased for the gradient of its expectation. The
    baseline must not depend on :math:`z_k`; it then changes the variance and not the expectation.

    Args:
        log_w: importance log-weights, (K, B), as numbers: their own gradient is not used.
        z: the samples at which they were taken, (K, B, J).
        mu: mean of q, (B, J).
        log_var: log-variance of q, (B, J), (B, 1) or a scalar.
        baseline: b, a number or a tensor that broadcasts to (K, B), such as :func:`leave_one_out` or
            :func:`optimal_baseline` give.

    Returns:
        ``Gradient(mu, log_var)``, each (K, B, J), in nats per unit of the parameter.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Williams (1992); Paisley, Blei and Jordan (2012); Ranganath, Gerrish and Blei (2014).

    >>> z, mu, log_var = torch.tensor([[[3.0]]]), torch.tensor([[1.0]]), torch.tensor([[0.0]])
    >>> score_function(torch.tensor([[-5.0]]), z, mu, log_var, baseline=-4.0).mu
    tensor([[[-2.]]])
    """
    direction = score(z, mu, log_var)
    if log_w.shape != direction.mu.shape[:-1]:
        raise ValueError(
            f"shapes do not fit: log_w {tuple(log_w.shape)} must be z {tuple(z.shape)} without its last axis"
        )
    signal = _centred(log_w, baseline).unsqueeze(-1)
    return Gradient(direction.mu * signal, direction.log_var * signal)


def leave_one_out(log_w: Tensor) -> Tensor:
    r"""A baseline for each sample that costs nothing: the mean of the other samples' log-weights.

    .. math:: b_k = \frac{1}{K - 1} \sum_{l \ne k} \log w_l

    The samples are independent, so :math:`b_k` does not depend on :math:`z_k`, and the estimator stays unbiased. The mean
    over all K, the sample's own included, would bias it towards 0 by the factor 1 - 1 / K.

    Args:
        log_w: importance log-weights, (K, ...), K at least 2.

    Returns:
        The baseline, (K, ...), in nats.

    Raises:
        ValueError: if there are fewer than two samples.

    Source: Mnih and Rezende (2016); Kool, van Hoof and Welling (2019).

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
    tensor([4.0000, 3.5000, 1.5000])
    """
    if log_w.dim() == 0 or len(log_w) < 2:
        raise ValueError(f"log_w must be (K, ...) with K at least 2, got shape {tuple(log_w.shape)}")
    return (log_w.sum(0) - log_w) / (len(log_w) - 1)


def optimal_baseline(log_w: Tensor, scores: Tensor, *, log_weight: Tensor | None = None) -> Tensor:
    r"""The constant baseline with which the score-function gradient has the smallest total variance.

    .. math:: b^* = \frac{\mathbb{E}\big[ \lVert s \rVert^2 \log w \big]}{\mathbb{E}\big[ \lVert s \rVert^2 \big]},
        \qquad s = \nabla_\phi \log q_\phi(z)

    The norm runs over the last axis of ``scores``, and the variances of these coordinates are added up: give one column
    for the best baseline of one coordinate. The expectations are means over K, or quadrature with ``log_weight``. A
    baseline estimated from the very samples that it then corrects depends on them, and biases the gradient a little:
    estimate it from others.

    Args:
        log_w: importance log-weights, (K, ...).
        scores: scores at the same samples, (K, ..., P), such as ``score(z, mu, log_var).mu``.
        log_weight: log-weights of quadrature nodes, (K,), where ``log_w`` was taken at nodes.

    Returns:
        The baseline, (...), in nats.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Greensmith, Bartlett and Baxter (2004), for the constant baseline; Ranganath, Gerrish and Blei (2014).

    >>> optimal_baseline(torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [3.0]]))  # (1 * 1 + 9 * 2) / (1 + 9)
    tensor(1.9000)
    """
    fits = log_w.dim() > 0 and len(log_w) > 0 and scores.shape[:-1] == log_w.shape
    if not fits or (log_weight is not None and log_weight.shape != log_w.shape[:1]):
        listing = f"log_w {tuple(log_w.shape)}, scores {tuple(scores.shape)}"
        listing += "" if log_weight is None else f", log_weight {tuple(log_weight.shape)}"
        raise ValueError(f"shapes do not fit: {listing}; expected (K, ...), (K, ..., P) and (K,), K at least 1")
    squares = scores.square().sum(-1)  # (K, ...)
    if log_weight is not None:
        squares = squares * log_weight.exp().reshape(-1, *[1] * (log_w.dim() - 1))
    return (squares * log_w).sum(0) / squares.sum(0)


def pathwise(log_joint: Callable[[Tensor], Tensor], eps: Tensor, mu: Tensor, log_var: Tensor) -> Gradient:
    r"""The pathwise gradient of the ELBO, also called the reparameterization gradient.

    It is the total derivative of log w along :math:`z = \mu + \sigma \odot \epsilon` at fixed noise. There
    :math:`\log q_\phi(z) = \log N(\epsilon; 0, I) - \sum_j \log \sigma_j`, so with
    :math:`g = \nabla_z \log p(x, z)`

    .. math:: \frac{d \log w}{d \mu_j} = g_j, \qquad
        \frac{d \log w}{d \log \sigma_j^2} = \tfrac12 \sigma_j \epsilon_j \, g_j + \tfrac12

    Args:
        log_joint: log p(x, z) as a function of z, (K, B, J) -> (K, B), differentiable in z; the value of a sample must
            depend on that sample's z alone.
        eps: standard normal noise, (K, B, J).
        mu: mean of q, (B, J).
        log_var: log-variance of q, (B, J), (B, 1) or a scalar.

    Returns:
        ``Gradient(mu, log_var)``, each (K, B, J), in nats per unit of the parameter.

    Raises:
        ValueError: if the shapes do not fit, or ``log_joint`` cannot be differentiated in z.

    Source: Kingma and Welling (2014); Rezende, Mohamed and Wierstra (2014).

    >>> eps, zero = torch.tensor([[[2.0]]]), torch.tensor([[0.0]])
    >>> pathwise(lambda z: 3 * z.sum(-1), eps, zero, zero)
    Gradient(mu=tensor([[[3.]]]), log_var=tensor([[[3.5000]]]))
    """
    log_var = log_var.detach()
    slope = _slope(log_joint, gaussian.reparameterize(eps, mu, log_var))
    return Gradient(slope, 0.5 * torch.exp(0.5 * log_var) * eps * slope + 0.5)


def path_derivative(log_joint: Callable[[Tensor], Tensor], eps: Tensor, mu: Tensor, log_var: Tensor) -> Gradient:
    r"""The path-derivative gradient of the ELBO, also called "sticking the landing".

    The pathwise gradient contains :math:`-\nabla_\phi \log q_\phi(z)` at fixed z, minus the score, whose expectation is 0.
    Without it, :math:`\phi` acts through z alone. With :math:`h = \nabla_z \log w(z) = g + \epsilon / \sigma`

    .. math:: \frac{\partial \log w}{\partial z_j} \frac{\partial z_j}{\partial \mu_j} = h_j, \qquad
        \frac{\partial \log w}{\partial z_j} \frac{\partial z_j}{\partial \log \sigma_j^2}
        = \tfrac12 \sigma_j \epsilon_j \, h_j

    Where q is the posterior, log w is constant, so h and the gradient are 0 for every sample, not only on average.

    Args:
        log_joint: log p(x, z) as a function of z, (K, B, J) -> (K, B), differentiable in z; the value of a sample must
            depend on that sample's z alone.
        eps: standard normal noise, (K, B, J).
        mu: mean of q, (B, J).
        log_var: log-variance of q, (B, J), (B, 1) or a scalar.

    Returns:
        ``Gradient(mu, log_var)``, each (K, B, J), in nats per unit of the parameter.

    Raises:
        ValueError: if the shapes do not fit, or ``log_joint`` cannot be differentiated in z.

    Source: Roeder, Wu and Duvenaud (2017).

    >>> eps, zero = torch.tensor([[[2.0]]]), torch.tensor([[0.0]])
    >>> path_derivative(lambda z: -0.5 * z.square().sum(-1), eps, zero, zero)  # q is the posterior
    Gradient(mu=tensor([[[0.]]]), log_var=tensor([[[0.]]]))
    """
    log_var = log_var.detach()
    slope = _slope(log_joint, gaussian.reparameterize(eps, mu, log_var)) + eps * gaussian.precision(0.5 * log_var)
    return Gradient(slope, 0.5 * torch.exp(0.5 * log_var) * eps * slope)


def importance_weighted(gradient: Gradient, log_w: Tensor, *, power: int = 1) -> Gradient:
    r"""Shares of the samples in a gradient of the K-sample bound: each sample's gradient times its normalized weight.

    .. math:: \tilde w_k^{\,p} \, g_k, \qquad \tilde w_k = \frac{w_k}{\sum_{l=1}^K w_l}

    The estimator is the *sum* over the K samples, and what g is makes it

    - with :func:`pathwise` and p = 1 the gradient of :math:`\log \frac1K \sum_k w_k` itself;
    - with :func:`path_derivative` and p = 2 the **doubly reparameterized** gradient, which has the same expectation: the
      score that the first contains is reparameterized once more, and what remains of it is in the square;
    - with :func:`path_derivative` and p = 1 "sticking the landing", which for K > 1 has another expectation.

    Args:
        gradient: a gradient for each sample, each part (K, B, J).
        log_w: importance log-weights of the same samples, (K, B).
        power: the power p of the weights, 1 or 2.

    Returns:
        ``Gradient(mu, log_var)``, each (K, B, J), in nats per unit of the parameter; sum over K.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Burda, Grosse and Salakhutdinov (2016), equation (13); Tucker, Lawson, Gu and Maddison (2019), equation (8).

    >>> one = torch.ones(2, 1, 1)
    >>> importance_weighted(Gradient(one, one), torch.tensor([[0.0], [3.0]]).log1p(), power=2).mu.flatten()
    tensor([0.0400, 0.6400])
    """
    if log_w.dim() == 0 or any(part.shape[:-1] != log_w.shape for part in gradient):
        raise ValueError(
            f"shapes do not fit: log_w {tuple(log_w.shape)} must be mu {tuple(gradient.mu.shape)} and log_var "
            f"{tuple(gradient.log_var.shape)} without their last axis"
        )
    weight = log_w.softmax(0).pow(power).unsqueeze(-1)
    return Gradient(weight * gradient.mu, weight * gradient.log_var)


def score_function_surrogate(log_w: Tensor, log_q_z: Tensor, *, baseline: Tensor | float = 0.0) -> Tensor:
    r"""A function whose value is log w and whose gradient is the score-function estimator, for any family q.

    .. math:: \nabla_\phi \, \text{surrogate}_k = \nabla_\phi \log q_\phi(z_k) \, \big( \log w_k - b_k \big)

    The samples must be drawn without a gradient, so that :math:`\log q_\phi(z_k)` depends on :math:`\phi` directly and in no
    other way: detach z first. Only q's parameters get a gradient; a model's parameters get theirs from log w itself.

    Args:
        log_w: importance log-weights, (K, B); their own gradient is not used.
        log_q_z: log q at the same samples, (K, B), differentiable in q's parameters.
        baseline: b, a number or a tensor that broadcasts to (K, B); its gradient is not used.

    Returns:
        The surrogate, (K, B), in nats.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Schulman, Heess, Weber and Abbeel (2015); Foerster and others (2018) for a surrogate that keeps the value.

    >>> log_w, log_q_z = torch.tensor([[-5.0]]), torch.tensor([[-1.0]], requires_grad=True)
    >>> score_function_surrogate(log_w, log_q_z).backward()
    >>> log_q_z.grad
    tensor([[-5.]])
    """
    if log_w.shape != log_q_z.shape:
        raise ValueError(
            f"shapes do not fit: log_w {tuple(log_w.shape)}, log_q_z {tuple(log_q_z.shape)}; expected (K, B)"
        )
    signal = _centred(log_w, baseline).detach()
    return log_w.detach() + signal * (log_q_z - log_q_z.detach())


def path_derivative_surrogate(
    log_joint: Callable[[Tensor], Tensor], log_prob: Callable[..., Tensor], z: Tensor, *parameters: Tensor
) -> Tensor:
    r"""A function whose value is log w and whose gradient is the path derivative, for any reparameterized family q.

    .. math:: \log p(x, z_\phi) - \log q_{\bar\phi}(z_\phi), \qquad \bar\phi \text{ equal to } \phi
        \text{ and held fixed}, \quad z_\phi = g_\phi(\epsilon)

    The surrogate of the pathwise gradient needs no function: it is log w with nothing held fixed.

    Args:
        log_joint: log p(x, z) as a function of z, (K, B, J) -> (K, B).
        log_prob: log q as a function of z and q's parameters, such as :func:`~vae_tutorial.gaussian.log_prob` or
            :func:`~vae_tutorial.full_gaussian.log_prob`.
        z: reparameterized samples, (K, B, J), with their gradient.
        parameters: what ``log_prob`` takes after z, such as ``mu, log_var``.

    Returns:
        The surrogate, (K, B), in nats.

    Raises:
        ValueError: if ``log_joint`` and ``log_prob`` return different shapes, or other than z without its last axis.

    Source: Roeder, Wu and Duvenaud (2017).

    >>> mu, log_var = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1)
    >>> z = gaussian.reparameterize(torch.tensor([[[2.0]]]), mu, log_var)
    >>> path_derivative_surrogate(lambda z: 3 * z.sum(-1), gaussian.log_prob, z, mu, log_var).backward()
    >>> mu.grad  # 3 + eps / sigma
    tensor([[5.]])
    """
    log_p, log_q = log_joint(z), log_prob(z, *(parameter.detach() for parameter in parameters))
    if not log_p.shape == log_q.shape == z.shape[:-1]:
        listing = f"log_joint(z) {tuple(log_p.shape)}, log_prob(z) {tuple(log_q.shape)}, z {tuple(z.shape)}"
        raise ValueError(f"shapes do not fit: {listing}; expected (K, B), (K, B) and (K, B, J)")
    return log_p - log_q


def _slope(log_joint: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The gradient of the log-joint at every sample, (K, B, J)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_joint(z)
        if value.shape != z.shape[:-1]:
            raise ValueError(
                f"log_joint must return (K, B) for z (K, B, J), got {tuple(value.shape)} for {tuple(z.shape)}"
            )
        # The sum over samples and data has the right gradient for each, since each value depends on its own z alone.
        slope = torch.autograd.grad(value.sum(), z, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        raise ValueError("log_joint must be differentiable in z: no gradient came back from it")
    return slope


def _centred(log_w: Tensor, baseline: Tensor | float) -> Tensor:
    """log w minus a baseline, which must not enlarge it."""
    if not isinstance(baseline, Tensor | float | int):
        raise TypeError(
            f"baseline must be a number or a tensor, got {type(baseline).__name__}: torch.as_tensor makes one"
        )
    shape = baseline.shape if isinstance(baseline, Tensor) else ()
    sizes = zip(reversed(shape), reversed(log_w.shape), strict=False)
    if len(shape) > log_w.dim() or any(size not in (1, of_log_w) for size, of_log_w in sizes):
        raise ValueError(f"shapes do not fit: baseline {tuple(shape)} does not broadcast to log_w {tuple(log_w.shape)}")
    return log_w - baseline
