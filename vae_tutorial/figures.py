r"""Figures: every function draws the tensors it is given on matplotlib axes and returns the axes.

Nothing here trains a model or computes a statistic: what a figure shows was computed, and can be checked, by the cell
above it. Colours are from the palette of Okabe and Ito, which readers with colour-blindness can tell apart, and no line
is told from another by colour alone.

Without ``ax`` a function makes a new figure, wide enough for a page and legible on a telephone.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

BLACK, BLUE, ORANGE, GREEN, PURPLE = "#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#6B6B6B"
STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))  # colour and dash change together


def plot_gaps(evidence: Tensor, elbo: Tensor, *, ax: Axes | None = None) -> Axes:
    """Log-evidence and ELBO of every data point, with the gap between them as a vertical line.

    Args:
        evidence: log-evidence, (N,), in nats.
        elbo: ELBO, (N,), in nats.
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
    _check_same_shape(evidence=evidence, elbo=elbo)
    ax = _axes(ax)
    number = range(1, len(evidence) + 1)
    ax.vlines(number, elbo.tolist(), evidence.tolist(), color=GREY, linewidth=1, label="gap")
    ax.plot(number, evidence.tolist(), "_", color=BLACK, markersize=6, label=r"log-evidence $\log p(x_n)$")
    ax.plot(number, elbo.tolist(), ".", color=BLUE, markersize=6, label="ELBO")
    ax.set(xlabel="student $n$", ylabel="nats")
    ax.legend(loc="lower left")
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
    _check_same_shape(parameter=parameter, elbo=elbo)
    ax = _axes(ax)
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


def plot_terms(
    parameter: Tensor, terms: Mapping[str, Tensor], *, xlabel: str, ylabel: str = "nats", ax: Axes | None = None
) -> Axes:
    """Several quantities against one parameter, each with a colour and a dash of its own.

    Args:
        parameter: values of the parameter, (P,).
        terms: up to four quantities by their names in the legend, each (P,).
        xlabel: name of the parameter.
        ylabel: unit of the quantities.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with one line for each term, in their order.

    Raises:
        ValueError: if a term has another shape than the parameter, or there are more than four.

    >>> import torch
    >>> x = torch.linspace(0, 1, 5)
    >>> len(plot_terms(x, {"first": x, "second": x.square()}, xlabel="width").lines)
    2
    """
    _check_same_shape(parameter=parameter, **terms)
    if len(terms) > len(STYLES):
        raise ValueError(f"at most {len(STYLES)} terms can be told apart, got {len(terms)}")
    ax = _axes(ax)
    for (name, values), (color, dash) in zip(terms.items(), STYLES, strict=False):
        ax.plot(parameter.tolist(), values.tolist(), color=color, linestyle=dash, linewidth=2, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
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
    ax = _axes(ax)
    ax.hist(log_w.tolist(), bins=bins, density=True, color=BLUE, alpha=0.35, label=label)
    ax.axvline(elbo, color=BLUE, linestyle="--", linewidth=2, label=r"ELBO $= \mathbb{E}_q[\log w]$")
    ax.axvline(evidence, color=BLACK, linewidth=1.5, label=r"log-evidence $= \log \mathbb{E}_q[w]$")
    ax.set(xlabel=r"$\log w$ (nats)", ylabel="density (1/nat)")
    ax.legend(loc="upper left")
    return ax


def plot_trace(trace: Tensor, target: float, *, ylabel: str, xlabel: str = "step", ax: Axes | None = None) -> Axes:
    """A quantity over the steps of an optimisation, and the value it should reach.

    Args:
        trace: the quantity at each step, (T,).
        target: the known value.
        ylabel: name and unit of the quantity.
        xlabel: what a step is.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the line of the trace and that of the target.

    Raises:
        ValueError: if ``trace`` is not (T,).

    >>> import torch
    >>> plot_trace(torch.tensor([3.0, 2.0, 1.0]), 1.0, ylabel="mean").get_xlabel()
    'step'
    """
    if trace.dim() != 1:
        raise ValueError(f"trace must be (T,), got shape {tuple(trace.shape)}")
    ax = _axes(ax)
    ax.plot(range(len(trace)), trace.tolist(), color=BLUE, linewidth=1.2, label="stochastic gradients")
    ax.axhline(target, color=BLACK, linestyle="--", linewidth=1.5, label="exact posterior")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
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
    ax = _axes(ax)
    steps, last = range(len(evidence)), len(evidence) - 1
    # Two corners to an iteration: the M-step moves theta, to the next column; the E-step lifts q within it.
    path_x = [0, *(step for t in range(1, last + 1) for step in (t, t))]
    path_y = [evidence[0], *(value for t in range(last) for value in (after_m[t], evidence[t + 1]))]
    ax.plot(
        steps, evidence.tolist(), "o", color=BLACK, markersize=7, fillstyle="none", label=r"mean $\log p_\theta(x)$"
    )
    ax.plot(path_x, [float(y) for y in path_y], color=BLUE, linewidth=1.5, label="mean ELBO")
    ax.plot(steps[1:], after_m.tolist(), "v", color=ORANGE, markersize=6, label="ELBO after the M-step")
    ax.set(xlabel="iteration", ylabel="nats per student")
    ax.legend(loc="lower right")
    return ax


def _axes(ax: Axes | None, width: float = 6.0, height: float = 3.7) -> Axes:
    """The given axes, or those of a new figure of this size in inches."""
    return ax if ax is not None else plt.subplots(figsize=(width, height), dpi=150, layout="constrained")[1]


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must agree and have one axis: {listing}")
