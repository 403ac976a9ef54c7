r"""Factor analysis: the latent-variable model in which nothing has to be approximated.

The latent z has J independent standard normal coordinates, and each of the D observed coordinates is a linear function
of z plus Gaussian noise of its own:

.. math:: z \sim N(0, I_J), \qquad x \mid z \sim N(W z + b, \Psi), \qquad \Psi = \operatorname{diag}(\psi_1, \dots, \psi_D).

A linear map of a Gaussian plus a Gaussian is a Gaussian, so the evidence and the posterior are known in closed form:

.. math:: x \sim N(b, \; W W^\top + \Psi), \qquad
    z \mid x \sim N(m(x), S), \quad S = (I + W^\top \Psi^{-1} W)^{-1}, \quad m(x) = S \, W^\top \Psi^{-1} (x - b).

With these, every statement about a bound can be checked against the truth. Probabilistic PCA is the special case of one
noise variance shared by all coordinates.

Shapes: ``x`` is (B, D), ``z`` is (K, B, J) or (B, J). The results are in nats.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _checks, gaussian
from vae_tutorial.gaussian import LOG_2PI


class FactorAnalysis(NamedTuple):
    """The parameters of a factor-analysis model: loadings W (D, J), bias b (D,), log noise variances log psi (D,)."""

    weight: Tensor
    bias: Tensor
    log_var: Tensor


class Posterior(NamedTuple):
    """The posterior of z for a batch: a mean (B, J) for each data point, one covariance (J, J) for all."""

    mean: Tensor
    covariance: Tensor


class RateDistortion(NamedTuple):
    """A point of the rate-distortion plane for each beta: nats, averaged over the data points."""

    rate: Tensor
    distortion: Tensor


def sample(
    model: FactorAnalysis, num_samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Ancestral samples: first the latent, then the data given the latent.

    .. math:: z_n \sim N(0, I), \qquad x_n \sim N(W z_n + b, \Psi)

    Args:
        model: the model, with J latents and D data dimensions.
        num_samples: N, at least 1.
        generator: source of the noise.

    Returns:
        The pair z (N, J) and x (N, D).

    Raises:
        ValueError: if the model's shapes do not fit, or N < 1.

    Source: Bishop (2006), section 8.1.2.

    >>> z, x = sample(FactorAnalysis(torch.ones(5, 2), torch.zeros(5), torch.zeros(5)), 7)
    >>> z.shape, x.shape
    (torch.Size([7, 2]), torch.Size([7, 5]))
    """
    _check(model)
    zeros = model.weight.new_zeros(model.weight.shape[1])
    z = gaussian.sample(zeros, zeros, num_samples, generator=generator)
    mean = z @ model.weight.mT + model.bias
    return z, gaussian.sample(mean, model.log_var, 1, generator=generator)[0]


def log_joint(model: FactorAnalysis, x: Tensor, z: Tensor) -> Tensor:
    r"""Log of the joint density of data and latents, in nats.

    .. math:: \log p(x, z) = \log N(z; 0, I) + \log N(x; W z + b, \Psi)

    Args:
        model: the model.
        x: data, (B, D).
        z: latents, (..., B, J).

    Returns:
        Log-joint, (..., B).

    Raises:
        ValueError: if the shapes do not fit.

    Source: Bishop (2006), equations (12.31) and (12.64).

    >>> model = FactorAnalysis(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
    >>> log_joint(model, torch.zeros(1, 1), torch.zeros(1, 1))  # two standard normals at 0: -log(2 pi)
    tensor([-1.8379])
    """
    _check(model, x=x, z=z)
    zero = z.new_zeros(())
    log_p_z = gaussian.log_prob(z, zero.expand(z.shape[-1]), zero)
    return log_p_z + gaussian.log_prob(x, z @ model.weight.mT + model.bias, model.log_var)


def log_evidence(model: FactorAnalysis, x: Tensor) -> Tensor:
    r"""Exact log-evidence, in nats: the log-density of a Gaussian with covariance :math:`C = W W^\top + \Psi`.

    .. math:: \log p(x) = -\tfrac12 \big( D \log 2\pi + \log \det C + (x - b)^\top C^{-1} (x - b) \big)

    Args:
        model: the model.
        x: data, (B, D).

    Returns:
        Log-evidence of each data point, (B,).

    Raises:
        ValueError: if the shapes do not fit.

    Source: Bishop (2006), equation (12.65).

    >>> model = FactorAnalysis(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
    >>> log_evidence(model, torch.zeros(1, 1))
    tensor([-0.9189])
    """
    _check(model, x=x)
    noise = torch.exp(-0.5 * model.log_var)  # C itself would lose small variances beside large weights
    num_dims, num_latents = model.weight.shape
    stacked = torch.cat([model.weight * noise[:, None], torch.eye(num_latents).to(model.weight)])  # (D + J, J)
    q, r = torch.linalg.qr(stacked)  # log det C = log det Psi + 2 log |det r|
    white = torch.nn.functional.pad((x - model.bias) * noise, (0, num_latents))  # (B, D + J)
    for _ in range(2):  # its distance to the columns of q is the quadratic form; once more for the digits
        white = white - white @ q @ q.mT
    log_det = 0.5 * model.log_var.sum() + r.diagonal().abs().log().sum()
    return -0.5 * (num_dims * LOG_2PI + white.square().sum(1)) - log_det


def posterior(model: FactorAnalysis, x: Tensor) -> Posterior:
    r"""Exact posterior of the latents. Its covariance is the same for every data point.

    .. math:: S = (I + W^\top \Psi^{-1} W)^{-1}, \qquad m(x) = S \, W^\top \Psi^{-1} (x - b)

    Args:
        model: the model.
        x: data, (B, D).

    Returns:
        Mean (B, J) and covariance (J, J).

    Raises:
        ValueError: if the shapes do not fit.

    Source: Bishop (2006), equations (12.66) to (12.68).

    >>> model = FactorAnalysis(torch.ones(1, 1), torch.zeros(1), torch.zeros(1))
    >>> mean, covariance = posterior(model, torch.tensor([[2.0]]))
    >>> round(mean.item(), 4), round(covariance.item(), 4)  # prior and data weigh the same
    (1.0, 0.5)
    """
    _check(model, x=x)
    scaled = model.weight * torch.exp(-model.log_var)[:, None]  # Psi^-1 W, (D, J)
    precision = _posterior_precision(model)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    return Posterior((x - model.bias) @ scaled @ covariance, covariance)


def elbo(model: FactorAnalysis, x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    r"""Exact ELBO of a diagonal Gaussian q, in nats: no sample is drawn.

    The log-joint is quadratic in z, so its expectation needs only q's mean and variances. With
    :math:`w_{dj}` an entry of W,

    .. math:: \mathrm{ELBO} = \log p(x, \mu)
        - \tfrac12 \sum_{j=1}^J \sigma_j^2 \Big( 1 + \sum_{d=1}^D \frac{w_{dj}^2}{\psi_d} \Big) + H(q)

    Args:
        model: the model.
        x: data, (B, D).
        mu: mean of q, (B, J).
        log_var: log-variance of q, (B, J).

    Returns:
        ELBO of each data point, (B,).

    Raises:
        ValueError: if the shapes do not fit.

    Source: derived in the book, chapter 4.

    >>> model = FactorAnalysis(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
    >>> zero = torch.zeros(1, 1)
    >>> elbo(model, zero, zero, zero)  # W = 0, so q = N(0, 1) is the posterior: the log-evidence
    tensor([-0.9189])
    """
    _check(model, x=x, mu=mu, log_var_q=log_var)
    log_var = log_var.expand_as(mu)
    curvature = _posterior_precision(model).diagonal()  # minus the second derivative of the log-joint, (J,)
    return log_joint(model, x, mu) - 0.5 * log_var.exp() @ curvature + gaussian.entropy(log_var)


def kl_to_posterior(model: FactorAnalysis, x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    r"""Exact KL divergence from a diagonal Gaussian q to the posterior N(m(x), S), in nats.

    .. math:: \mathrm{KL}(q \,\|\, p(z \mid x)) = \tfrac12 \Big( \operatorname{tr}(S^{-1} \operatorname{diag} \sigma^2)
        + (\mu - m)^\top S^{-1} (\mu - m) - J + \log \det S - \sum_{j=1}^J \log \sigma_j^2 \Big)

    Args:
        model: the model.
        x: data, (B, D).
        mu: mean of q, (B, J).
        log_var: log-variance of q, (B, J).

    Returns:
        KL divergence for each data point, (B,).

    Raises:
        ValueError: if the shapes do not fit.

    Source: the Gaussian KL divergence with a full covariance in its second place; derived in the book.

    >>> model = FactorAnalysis(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
    >>> zero = torch.zeros(1, 1)
    >>> kl_to_posterior(model, zero, zero + 1, zero)
    tensor([0.5000])
    """
    _check(model, x=x, mu=mu, log_var_q=log_var)
    log_var = log_var.expand_as(mu)
    precision = _posterior_precision(model)
    difference = mu - posterior(model, x).mean
    mahalanobis = ((difference @ precision) * difference).sum(-1)
    trace = log_var.exp() @ precision.diagonal()
    return 0.5 * (trace + mahalanobis - mu.shape[-1] - precision.logdet() - log_var.sum(-1))


def em_step(model: FactorAnalysis, x: Tensor) -> FactorAnalysis:
    r"""One iteration of expectation maximisation (EM): the posterior of every z, then the best parameters for them.

    The E-step takes :math:`q_n(z) = p(z \mid x_n)`, which makes the ELBO equal to the evidence. The M-step maximises the
    ELBO over W, b and :math:`\Psi` with q held fixed: a least-squares regression of x on :math:`u = (z, 1)`. With
    :math:`\bar u_n = \mathbb{E}[u]` under :math:`q_n`,

    .. math:: (W, b) = \Big( \sum_n x_n \bar u_n^\top \Big) \Big( \sum_n \mathbb{E}[u u^\top] \Big)^{-1}, \qquad
        \psi_d = \frac1N \sum_n x_{nd} \big( x_{nd} - (W, b)_d \, \bar u_n \big)

    Args:
        model: the present parameters.
        x: data, (N, D), with N greater than J + 1.

    Returns:
        New parameters, whose mean log-evidence is at least as high.

    Raises:
        ValueError: if the shapes do not fit, N is not greater than J + 1, or a column of x is constant.

    Source: Rubin and Thayer (1982); Bishop (2006), section 12.2.4, with b estimated together with W.

    >>> x = torch.tensor([[1.0], [3.0], [5.0]])
    >>> em_step(FactorAnalysis(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1)), x).bias  # W = 0: the mean
    tensor([3.])
    """
    mean, covariance = posterior(model, x)
    x = x.to(model.weight.dtype)
    if len(x) <= mean.shape[1] + 1:
        raise ValueError(f"x must have more than J + 1 = {mean.shape[1] + 1} rows, got shape {tuple(x.shape)}")
    if (constant := (x == x[0]).all(0)).any():
        columns = constant.nonzero().flatten().tolist()
        raise ValueError(f"x is constant in column {columns}: its noise variance would be 0, and the evidence infinite")
    inputs = torch.cat([mean, mean.new_ones(len(x), 1)], 1)  # E[u], (N, J + 1)
    second_moment = inputs.mT @ inputs
    second_moment[:-1, :-1] += len(x) * covariance  # E[z z^T] = m m^T + S; the constant 1 has no variance
    solution = torch.linalg.solve(second_moment, inputs.mT @ x)  # (J + 1, D)
    # The textbook form sum x^2 - x (W, b) u cancels when the mean is large: the residual is centred first, which
    # changes nothing because the constant column makes the residuals sum to zero.
    residual_variance = ((x - x.mean(0)) * (x - inputs @ solution)).mean(0)
    return FactorAnalysis(solution[:-1].mT, solution[-1], residual_variance.log())


def em(model: FactorAnalysis, x: Tensor, num_steps: int) -> tuple[FactorAnalysis, Tensor]:
    r"""Expectation maximisation: ``em_step`` again and again, with the evidence recorded on the way.

    .. math:: \theta^{(t+1)} = \arg\max_\theta \sum_n \mathbb{E}_{p(z \mid x_n, \theta^{(t)})} [\log p_\theta(x_n, z)]

    Args:
        model: the first parameters.
        x: data, (N, D).
        num_steps: number of iterations, at least 0.

    Returns:
        The last parameters, and the mean log-evidence per data point before the first step and after each one,
        (num_steps + 1,), in nats; it never falls.

    Raises:
        ValueError: if the shapes do not fit, or num_steps < 0.

    Source: Dempster, Laird and Rubin (1977); Rubin and Thayer (1982).

    >>> x = torch.tensor([[1.0], [3.0], [5.0]])
    >>> em(FactorAnalysis(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1)), x, 4)[1].shape
    torch.Size([5])
    """
    _checks.whole(0, num_steps=num_steps)
    evidence = [log_evidence(model, x).mean()]
    for _ in range(num_steps):
        model = em_step(model, x)
        evidence.append(log_evidence(model, x).mean())
    return model, torch.stack(evidence)


def ppca(x: Tensor, num_latents: int, *, log_var: float | None = None) -> FactorAnalysis:
    r"""Probabilistic PCA: the model of one noise variance with the highest evidence, in closed form.

    Let :math:`\lambda_1 \ge \dots \ge \lambda_D` be the eigenvalues of the data's covariance (with 1/N) and
    :math:`u_1, u_2, \dots` its eigenvectors. The evidence is greatest at

    .. math:: b = \frac1N \sum_n x_n, \qquad w_j = u_j \sqrt{\max(\lambda_j - \sigma^2, 0)}, \qquad
        \sigma^2 = \frac{1}{D - J} \sum_{j > J} \lambda_j

    with :math:`w_j` the columns of W. A variance that is given takes the place of the last equation. Then a column is
    zero exactly where :math:`\lambda_j \le \sigma^2`: the data leave that latent unused, and its posterior is its prior.
    Any rotation W R of the latents has the same evidence. This one makes the posterior's covariance diagonal, with
    variances :math:`\min(\sigma^2 / \lambda_j, 1)`.

    Args:
        x: data, (N, D).
        num_latents: J, from 1 to D - 1, or to D where the variance is given.
        log_var: logarithm of a given noise variance; without it, the best one is found.

    Returns:
        The model, with the columns of W in the order of their eigenvalues, (D, J), each with its largest entry
        positive, and the log-variance D times, (D,).

    Raises:
        ValueError: if x is not (N, D) of single or double precision, J is out of range, a given log-variance is not finite,
            or the data lie in J dimensions, where the evidence has no maximum.

    Source: Tipping and Bishop (1999), equations (7) and (8) and appendix A.

    >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 2 and 1/2
    >>> model = ppca(x, 1)
    >>> model.weight.square().sum(), model.log_var.exp()  # 2 - 1/2, and what is left over
    (tensor(1.5000), tensor([0.5000, 0.5000]))
    """
    if x.dim() != 2 or len(x) == 0:
        raise ValueError(f"x must have shape (N, D) with at least one row, got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be of torch.float32 or torch.float64, got {x.dtype}: convert it, x.double()")
    num_dims = x.shape[1]
    if log_var is not None and not math.isfinite(log_var):
        raise ValueError(f"log_var must be finite, got {log_var}")
    if not 1 <= num_latents < num_dims + (log_var is not None):
        raise ValueError(
            f"num_latents must be from 1 to D - 1, or D with a given log_var: {num_latents}, D = {num_dims}"
        )
    centred = x - x.mean(0)
    eigenvalues, eigenvectors = (part.flip(-1) for part in torch.linalg.eigh(centred.mT @ centred / len(x)))
    if log_var is not None:
        variance = x.new_tensor(log_var).exp()
    else:
        variance = eigenvalues[num_latents:].mean()
        if variance <= num_dims * torch.finfo(x.dtype).eps * eigenvalues[0]:
            raise ValueError(
                f"x lies in num_latents = {num_latents} dimensions: without noise its evidence is unbounded"
            )
    weight = eigenvectors[:, :num_latents] * (eigenvalues[:num_latents] - variance).clamp(min=0).sqrt()
    largest = weight.gather(0, weight.abs().argmax(0, keepdim=True))  # (1, J)
    weight = torch.where(largest < 0, -weight, weight)  # an eigenvector's sign is arbitrary: settle it
    return FactorAnalysis(weight, x.mean(0), variance.log().expand(num_dims))


def rate_distortion(x: Tensor, num_latents: int, *, log_var: float, beta: Tensor) -> RateDistortion:
    r"""Rate and distortion of the best linear VAE under the beta-ELBO, in nats: its curve in closed form.

    The noise variance :math:`\sigma^2` is given; decoder and encoder, both linear, minimise distortion plus beta times
    rate, :math:`D_{\mathrm{ist}} + \beta R`. With :math:`\lambda_j` the eigenvalues of the data's covariance (with 1/N)
    and :math:`\delta_j = \min(\beta \sigma^2, \lambda_j)` for :math:`j \le J`, :math:`\delta_j = \lambda_j` beyond,

    .. math:: R = \frac12 \sum_{j \le J} \log \frac{\lambda_j}{\delta_j}, \qquad
        D_{\mathrm{ist}} = \frac D2 \log 2 \pi \sigma^2 + \frac{1}{2 \sigma^2} \sum_{j=1}^{D} \delta_j

    The optimal weights and q are those of ``ppca`` and its posterior at the variance :math:`\beta \sigma^2`, while x given
    z keeps :math:`\sigma^2`. Where :math:`\lambda_j \le \beta \sigma^2` the latent is unused. The slope of the curve is
    :math:`-\beta`.

    Args:
        x: data, (N, D).
        num_latents: J, from 1 to D.
        log_var: logarithm of the noise variance of x given z.
        beta: weights of the rate, positive, of any shape (...).

    Returns:
        Rate and distortion, each (...).

    Raises:
        ValueError: if x is not (N, D) of single or double precision, J is out of range, log_var is not finite, or a beta
            is not positive.

    Source: reverse water-filling, Cover and Thomas (2006), section 10.3.

    >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 2 and 1/2
    >>> rate_distortion(x, 2, log_var=0.0, beta=torch.tensor([1.0, 2.0])).rate  # log(2) / 2, then nothing
    tensor([0.3466, 0.0000])
    """
    ppca(x, num_latents, log_var=log_var)  # refuses what does not fit
    if not (beta > 0).all():
        raise ValueError(f"beta must be positive, got {beta.tolist()}")
    centred = x - x.mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.mT @ centred / len(x)).flip(-1).clamp(min=0)
    level = beta.to(x)[..., None] * math.exp(log_var)  # (..., 1)
    coded, left = eigenvalues[:num_latents], eigenvalues[num_latents:]
    rate = 0.5 * (coded / level).clamp(min=1).log().sum(-1)
    missed = torch.minimum(coded, level).sum(-1) + left.sum()
    return RateDistortion(rate, 0.5 * (x.shape[1] * (LOG_2PI + log_var) + missed * math.exp(-log_var)))


def _posterior_precision(model: FactorAnalysis) -> Tensor:
    """Inverse covariance of the posterior, I + W^T Psi^-1 W, (J, J)."""
    scaled = model.weight * torch.exp(-0.5 * model.log_var)[:, None]
    return torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device) + scaled.mT @ scaled


def _check(
    model: FactorAnalysis,
    *,
    x: Tensor | None = None,
    z: Tensor | None = None,
    mu: Tensor | None = None,
    log_var_q: Tensor | None = None,
) -> None:
    """Refuse parameters that do not belong together, and data, latents or a q that do not belong to the model."""
    given = {**model._asdict(), "x": x, "z": z, "mu": mu, "log_var of q": log_var_q}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items() if tensor is not None}
    fits = model.weight.dim() == 2
    if fits:
        num_dims, num_latents = model.weight.shape
        fits &= shapes["bias"] == shapes["log_var"] == (num_dims,)
        fits &= x is None or (x.dim() == 2 and x.shape[1] == num_dims)
        for latent in (z, mu):
            if latent is not None and x is not None:
                fits &= latent.dim() >= 2 and latent.shape[-1] == num_latents and latent.shape[-2] in (1, len(x))
    if mu is not None and log_var_q is not None:  # q's log-variance may be shared, its mean may not
        aligned = zip(reversed(log_var_q.shape), reversed(mu.shape), strict=False)
        fits &= log_var_q.dim() <= mu.dim() and all(size in (1, of_mu) for size, of_mu in aligned)
    if not fits:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes do not fit: {listing}; expected weight (D, J), bias (D,), log_var (D,), x (B, D), z (..., B, J)"
        )
    dtype = model.weight.dtype  # x may be of a narrower type, such as bytes: nothing is lost
    for name, tensor in {"x": x, "z": z, "mu": mu}.items():
        if tensor is not None and dtype != (torch.promote_types(tensor.dtype, dtype) if name == "x" else tensor.dtype):
            raise ValueError(f"{name} is of {tensor.dtype} and the model of {dtype}: convert it, {name}.to({dtype})")
