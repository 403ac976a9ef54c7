"""The evidence and what bounds it: gaps, bars, sandwiches, weights, and the price of each latent dimension."""

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from vae_tutorial.figures._style import BLACK, BLUE, GREEN, GREY, ORANGE, STYLES, check_same_shape, new_axes


def plot_gaps(evidence: Tensor, elbo: Tensor, *, xlabel: str = "data point", ax: Axes | None = None) -> Axes:
    """Log-evidence and ELBO of every data point, with the gap between them as a vertical line.

    Args:
        evidence: log-evidence, (N,), in nats.
        elbo: ELBO, (N,), in nats.
        xlabel: what the data points are and how they are ordered.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: a line for each gap, then the points of the evidence and of the ELBO.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> ax = plot_gaps(torch.tensor([-18.0, -19.0]), torch.tensor([-20.0, -19.5]))
    >>> ax.get_ylabel()
    'nats'
    """
    check_same_shape(evidence=evidence, elbo=elbo)
    ax = new_axes(ax)
    number = range(1, len(evidence) + 1)
    ax.vlines(number, elbo.tolist(), evidence.tolist(), color=GREY, linewidth=1, label="gap")
    ax.plot(number, evidence.tolist(), "_", color=BLACK, markersize=6, label=r"log-evidence $\log p(x_n)$")
    ax.plot(number, elbo.tolist(), ".", color=BLUE, markersize=6, label="ELBO")
    ax.set(xlabel=xlabel, ylabel="nats")
    ax.legend(loc="lower center")
    return ax


def plot_bound(
    parameter: Tensor, elbo: Tensor, evidence: float, *, optimum: float, xlabel: str, ax: Axes | None = None
) -> Axes:
    """The ELBO of one data point as a parameter of q moves, below the log-evidence, which does not move.

    Args:
        parameter: values of the parameter, (P,).
        elbo: ELBO at each value, (P,), in nats.
        evidence: log-evidence, in nats.
        optimum: the value of the parameter at the posterior.
        xlabel: name of the parameter.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the lines of the log-evidence, the ELBO and the optimum, and the gap shaded.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> mu = torch.linspace(-1, 1, 5)
    >>> len(plot_bound(mu, -3 - mu.square(), -3.0, optimum=0.0, xlabel="mean of q").lines)
    3
    """
    check_same_shape(parameter=parameter, elbo=elbo)
    ax = new_axes(ax)
    ax.axhline(evidence, color=BLACK, linewidth=1.5, label=r"log-evidence $\log p(x)$")
    ax.plot(parameter.tolist(), elbo.tolist(), color=BLUE, linewidth=2, label="ELBO")
    ax.axvline(optimum, color=GREEN, linestyle=":", linewidth=1.5, label="posterior's value")
    ax.fill_between(
        parameter.tolist(), elbo.tolist(), evidence, color=ORANGE, alpha=0.18, linewidth=0,
        label=r"gap $= \mathrm{KL}(q \,\Vert\, p(z \mid x))$",
    )  # fmt: skip
    ax.set(xlabel=xlabel, ylabel="nats")
    ax.legend(loc="lower center")
    return ax


def plot_log_weights(
    log_w: Tensor, elbo: float, evidence: float, *, bins: int = 60, label: str = "samples", ax: Axes | None = None
) -> Axes:
    r"""Histogram of importance log-weights, with their expectation, the ELBO, and the log-evidence.

    Args:
        log_w: log-weights of one data point, (K,), in nats.
        elbo: the ELBO, in nats.
        evidence: log-evidence, in nats.
        bins: number of bars.
        label: what the samples are, for the legend.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the bars, and the lines of the ELBO and of the log-evidence.

    Raises:
        ValueError: if ``log_w`` is not (K,).

    >>> import torch
    >>> ax = plot_log_weights(torch.tensor([-3.0, -1.0]), elbo=-2.0, evidence=-1.5, bins=2)
    >>> [line.get_xdata()[0] for line in ax.lines]
    [-2.0, -1.5]
    """
    if log_w.dim() != 1:
        raise ValueError(f"log_w must be (K,), got shape {tuple(log_w.shape)}")
    ax = new_axes(ax)
    ax.hist(log_w.tolist(), bins=bins, density=True, color=BLUE, alpha=0.35, label=label)
    ax.axvline(elbo, color=BLUE, linestyle="--", linewidth=2, label=r"ELBO $= \mathbb{E}_q[\log w]$")
    ax.axvline(evidence, color=BLACK, linewidth=1.5, label=r"log-evidence $= \log \mathbb{E}_q[w]$")
    ax.set(xlabel=r"$\log w$ (nats)", ylabel="density (1/nat)")
    ax.legend(loc="upper left")
    return ax


def plot_coordinate_ascent(evidence: Tensor, after_m: Tensor, *, ax: Axes | None = None) -> Axes:
    """EM as coordinate ascent: the ELBO climbs from the evidence to the next M-step, and an E-step lifts it to the evidence.

    Args:
        evidence: mean log-evidence before each iteration and after the last, (T + 1,), in nats. After an E-step it is
            also the ELBO.
        after_m: mean ELBO after each M-step, with q still that of the E-step before it, (T,), in nats.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the evidence, then the ELBO's path, whose corners are the E- and M-steps.

    Raises:
        ValueError: if the shapes do not fit.

    >>> import torch
    >>> ax = plot_coordinate_ascent(torch.tensor([-3.0, -1.0]), torch.tensor([-2.0]))
    >>> ax.lines[1].get_ydata().tolist()  # E-step, M-step, E-step
    [-3.0, -2.0, -1.0]
    """
    if evidence.dim() != 1 or after_m.shape != (len(evidence) - 1,):
        raise ValueError(
            f"evidence must be (T + 1,), after_m (T,); got {tuple(evidence.shape)}, {tuple(after_m.shape)}"
        )
    ax = new_axes(ax)
    steps, last = range(len(evidence)), len(evidence) - 1
    # Two corners to an iteration: the M-step moves theta, to the next column; the E-step lifts q within it.
    path_x = [0, *(step for t in range(1, last + 1) for step in (t, t))]
    path_y = torch.cat([evidence[:1], torch.stack([after_m, evidence[1:]], 1).flatten()])
    ax.plot(
        steps, evidence.tolist(), "o", color=BLACK, markersize=7, fillstyle="none", label=r"mean $\log p_\theta(x)$"
    )
    ax.plot(path_x, path_y.tolist(), color=BLUE, linewidth=1.5, label="mean ELBO")
    ax.plot(steps[1:], after_m.tolist(), "v", color=ORANGE, markersize=6, label="ELBO after the M-step")
    ax.set(xlabel="iteration", ylabel="nats per student")
    ax.legend(loc="lower right")
    return ax


def plot_sandwich(
    steps: Tensor,
    lower: Tensor,
    upper: Tensor,
    evidence: float | None = None,
    *,
    errors: tuple[Tensor, Tensor] | None = None,
    xlabel: str = "temperature steps",
    ax: Axes | None = None,
) -> Axes:
    """A lower and an upper bound that close in on the log-evidence as the work grows; the work on a logarithmic axis.

    Args:
        steps: the work, (P,), positive.
        lower: lower bounds, (P,), in nats.
        upper: upper bounds, (P,), in nats.
        evidence: the log-evidence between them, in nats, where it is known.
        errors: standard errors of the lower and of the upper bounds, each (P,); bars of twice their length.
        xlabel: what the work is counted in.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the lower bounds, the upper bounds, and the line of the log-evidence.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> ax = plot_sandwich(torch.tensor([1, 10]), torch.tensor([-3.0, -1.0]), torch.tensor([2.0, 0.5]), 0.0)
    >>> [line.get_label() for line in ax.lines]
    ['lower bound', 'upper bound', 'log-evidence']
    """
    lower_error, upper_error = errors if errors is not None else (torch.zeros_like(lower), torch.zeros_like(upper))
    check_same_shape(steps=steps, lower=lower, upper=upper, lower_error=lower_error, upper_error=upper_error)
    ax, x = new_axes(ax), steps.tolist()
    for values, error, color, marker in ((lower, lower_error, BLUE, "^"), (upper, upper_error, ORANGE, "v")):
        name = "lower bound" if marker == "^" else "upper bound"
        ax.plot(x, values.tolist(), color=color, marker=marker, linewidth=2, label=name)
        ax.vlines(x, (values - 2 * error).tolist(), (values + 2 * error).tolist(), color=color, linewidth=1.5)
    if evidence is not None:
        ax.axhline(evidence, color=BLACK, linewidth=1.5, linestyle="--", label="log-evidence")
    ax.set(xscale="log", xlabel=xlabel, ylabel="nats")
    ax.set_xticks(x, labels=[f"{value:g}" for value in x])
    ax.minorticks_off()
    ax.legend()
    return ax


def plot_stack(parts: Mapping[str, Tensor], *, xlabel: str, ylabel: str, ax: Axes | None = None) -> Axes:
    """What quantities are made of: a bar for each, in parts that stand on one another.

    Args:
        parts: up to four parts by their names in the legend, from the lowest to the highest, each (P,), not negative.
        xlabel: what a bar is.
        ylabel: name and unit of the quantities.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with P bars for each part.

    Raises:
        ValueError: if the shapes differ, a part is negative, or there are more than four.

    >>> import torch
    >>> ax = plot_stack({"a": torch.ones(3), "b": torch.ones(3)}, xlabel="data point", ylabel="nats")
    >>> [float(bar.get_y()) for bar in ax.patches]
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    check_same_shape(**parts)
    if len(parts) > len(STYLES) or any((values < 0).any() for values in parts.values()):
        raise ValueError(f"at most {len(STYLES)} parts, none of them negative; got {list(parts)}")
    ax = new_axes(ax)
    floor = torch.zeros_like(next(iter(parts.values())))
    for (name, values), (color, _), hatch in zip(parts.items(), STYLES, ("", "//", "..", "xx"), strict=False):
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        ax.bar(range(len(values)), values.tolist(), bottom=floor.tolist(), label=name, **style)
        floor = floor + values
    ax.set(xlabel=xlabel, ylabel=ylabel, xticks=[])
    ax.legend()
    return ax


def plot_dimensions(
    values: Tensor,
    *,
    ylabel: str,
    xlabel: str = "latent dimension",
    reference: float | None = None,
    label: str = "prior",
    ax: Axes | None = None,
) -> Axes:
    """One number for each latent dimension, as bars that start at 0, or at the value that a reference has.

    Args:
        values: a number for each dimension, (J,), in the order in which to draw them.
        ylabel: what the numbers are.
        xlabel: what the dimensions are, or how they are ordered.
        reference: value to compare with; the bars start there.
        label: what the reference is, for the legend.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: J bars, and the line of the reference where there is one.

    Raises:
        ValueError: if ``values`` is not (J,).

    >>> import torch
    >>> ax = plot_dimensions(torch.tensor([0.5, 1.25]), ylabel="variance", reference=1.0)
    >>> [float(bar.get_height()) for bar in ax.patches]
    [-0.5, 0.25]
    """
    if values.dim() != 1:
        raise ValueError(f"values must be (J,), got shape {tuple(values.shape)}")
    ax = new_axes(ax, 6.0, 2.6)
    base = 0.0 if reference is None else reference
    ax.bar(range(1, len(values) + 1), (values - base).tolist(), bottom=base, color=BLUE, width=0.7)
    if reference is not None:
        ax.axhline(reference, color=BLACK, linestyle="--", linewidth=1.2, label=label)
        ax.legend(loc="upper right")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax
