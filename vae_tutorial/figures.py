r"""Figures: every function draws the tensors it is given on matplotlib axes and returns the axes.

Nothing here trains a model or computes a statistic: what a figure shows was computed, and can be checked, by the cell
above it. Colours are from the palette of Okabe and Ito, which readers with colour-blindness can tell apart, and no line
is told from another by colour alone.

Without ``ax`` a function makes a new figure, wide enough for a page and legible on a telephone.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from torch import Tensor
from torch.nn.functional import pad

BLACK, BLUE, ORANGE, GREEN, PURPLE = "#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#6B6B6B"
STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))  # colour and dash change together


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
    _check_same_shape(evidence=evidence, elbo=elbo)
    ax = _axes(ax)
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


def plot_agreement(
    parameter: Tensor,
    theory: Mapping[str, Tensor],
    places: Tensor,
    found: Mapping[str, Tensor],
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Predicted curves, and markers of what was found at a few places: where they agree, the markers lie on the lines.

    Args:
        parameter: values of the parameter for the curves, (P,).
        theory: up to four predicted quantities by their names in the legend, each (P,).
        places: values of the parameter for the markers, (M,).
        found: what was found there, under the same names, each (M,).
        xlabel: name of the parameter.
        ylabel: unit of the quantities.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: for each name its curve and then its markers.

    Raises:
        ValueError: if the names or shapes do not fit, or there are more than four.

    >>> import torch
    >>> x = torch.linspace(0, 1, 5)
    >>> ax = plot_agreement(x, {"a": x}, x[:2], {"a": x[:2]}, xlabel="width", ylabel="nats")
    >>> [len(line.get_xdata()) for line in ax.lines]
    [5, 2]
    """
    _check_same_shape(parameter=parameter, **theory)
    _check_same_shape(places=places, **found)
    if len(theory) > len(STYLES) or list(theory) != list(found):
        raise ValueError(f"at most {len(STYLES)} quantities under the same names, got {list(theory)} and {list(found)}")
    ax = _axes(ax)
    for (name, curve), (color, dash), marker in zip(theory.items(), STYLES, "ox^s", strict=False):
        ax.plot(parameter.tolist(), curve.tolist(), color=color, linestyle=dash, linewidth=1.5, label=name)
        ax.plot(places.tolist(), found[name].tolist(), marker, color=color, markersize=6, fillstyle="none")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def plot_fit(
    z: Tensor,
    target: Tensor,
    fit: Tensor,
    *,
    names: tuple[str, str] = ("p", "q"),
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """A density shaded, and the density that is fitted to it as a line.

    Args:
        z: where the densities are given, (P,).
        target: the density to be approximated, (P,).
        fit: the approximation, (P,).
        names: of the target and of the fit, for the legend.
        legend: whether to draw it; in a row of panels one is enough.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the shaded target, and the line of the fit.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> z = torch.linspace(-1, 1, 5)
    >>> len(plot_fit(z, 1 - z.abs(), 1 - z.square()).lines)
    1
    """
    _check_same_shape(z=z, target=target, fit=fit)
    ax = _axes(ax)
    ax.fill_between(z.tolist(), target.tolist(), color=GREY, alpha=0.35, linewidth=0, label=names[0])
    ax.plot(z.tolist(), fit.tolist(), color=BLUE, linewidth=1.8, label=names[1])
    ax.set(xlabel="z", ylabel="density")
    if legend:
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
    path_y = torch.cat([evidence[:1], torch.stack([after_m, evidence[1:]], 1).flatten()])
    ax.plot(
        steps, evidence.tolist(), "o", color=BLACK, markersize=7, fillstyle="none", label=r"mean $\log p_\theta(x)$"
    )
    ax.plot(path_x, path_y.tolist(), color=BLUE, linewidth=1.5, label="mean ELBO")
    ax.plot(steps[1:], after_m.tolist(), "v", color=ORANGE, markersize=6, label="ELBO after the M-step")
    ax.set(xlabel="iteration", ylabel="nats per student")
    ax.legend(loc="lower right")
    return ax


def plot_tangents(
    x: Tensor, y: Tensor, slope: Tensor, *, every: int, xlabel: str, ylabel: str, ax: Axes | None = None
) -> Axes:
    """A curve, with a short tangent at some of its points.

    Args:
        x: where the curve was evaluated, (P,).
        y: its values, (P,).
        slope: its slopes, (P,).
        every: a tangent at every so many points, at least 1, counted from the first.
        xlabel: name of x.
        ylabel: the curve's name, for the axis and the legend.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: the line of the curve, then a line for each tangent, centred at its point.

    Raises:
        ValueError: if the shapes differ, or ``every`` is below 1.

    >>> import torch
    >>> x = torch.linspace(0, 1, 5)
    >>> ax = plot_tangents(x, x.square(), 2 * x, every=2, xlabel="x", ylabel="square")
    >>> len(ax.lines)  # the curve, and tangents at 0, 0.5 and 1
    4
    """
    _check_same_shape(x=x, y=y, slope=slope)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    ax = _axes(ax)
    ax.plot(x.tolist(), y.tolist(), color=BLUE, linewidth=2, label=ylabel)
    width, height = x.max() - x.min(), y.max() - y.min()
    half = 0.08 / (width**-2 + (slope / height).square()).sqrt()  # so that all are of one length on the page
    for number, (at, value, rise, reach) in enumerate(torch.stack([x, y, slope, half], 1)[::every].tolist()):
        ends = [at - reach, at + reach], [value - rise * reach, value + rise * reach]
        ax.plot(*ends, color=ORANGE, linewidth=2.5, label="" if number else "tangents")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(loc="lower right")
    return ax


def plot_variances(
    num_samples: Tensor, measured: Mapping[str, Tensor], exact: Mapping[str, Tensor], *, ax: Axes | None = None
) -> Axes:
    """The variance of several estimators against the number of samples: dots as measured, lines by formula.

    Args:
        num_samples: K, (P,), positive.
        measured: up to four estimators by their names in the legend, the measured variance of each, (P,), positive.
        exact: the variances by formula, with the same names.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, logarithmic both ways: for each estimator its dots, then its line.

    Raises:
        ValueError: if the names or the shapes differ, or there are more than four estimators.

    >>> import torch
    >>> k = torch.tensor([1.0, 10.0])
    >>> ax = plot_variances(k, {"mean": torch.tensor([1.1, 0.1])}, {"mean": 1 / k})
    >>> ax.get_xscale(), ax.get_yscale()
    ('log', 'log')
    """
    if list(measured) != list(exact) or len(measured) > len(STYLES):
        raise ValueError(f"at most {len(STYLES)} names, the same for both: got {list(measured)}, {list(exact)}")
    for curves in (measured, exact):
        _check_same_shape(num_samples=num_samples, **curves)
    ax = _axes(ax)
    for (name, values), (color, dash), marker in zip(measured.items(), STYLES, "osv^", strict=False):
        ax.plot(num_samples.tolist(), values.tolist(), marker, color=color, markersize=6, label=f"{name}, measured")
        ax.plot(num_samples.tolist(), exact[name].tolist(), dash, color=color, linewidth=1.5, label=f"{name}, formula")
    ax.set(xscale="log", yscale="log", xlabel="samples in one estimate", ylabel="variance of the estimate")
    ax.set_xticks(num_samples.tolist(), [f"{number:g}" for number in num_samples.tolist()])
    ax.set_xticks([], minor=True)
    ax.legend()
    return ax


# Data points, and what a model expects of them


def plot_courses(
    steps: Tensor, groups: Mapping[str, Tensor], *, xlabel: str, ylabel: str, ax: Axes | None = None
) -> Axes:
    """A positive quantity over training on a logarithmic axis, for several runs of each of several settings.

    Args:
        steps: when it was measured, (T,).
        groups: up to four settings by their names in the legend, each (S, T) with a row for each run.
        xlabel: what is counted along the run.
        ylabel: name of the quantity.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: one line for each run, with the colour and the dash of its setting.

    Raises:
        ValueError: if a setting is not (S, T), or there are more than four.

    >>> import torch
    >>> runs = {"first": torch.ones(2, 5), "second": torch.ones(3, 5)}
    >>> len(plot_courses(torch.arange(5), runs, xlabel="epoch", ylabel="sigma").lines)
    5
    """
    if len(groups) > len(STYLES) or any(runs.dim() != 2 or runs.shape[1:] != steps.shape for runs in groups.values()):
        listing = ", ".join(f"{name} {tuple(runs.shape)}" for name, runs in groups.items())
        raise ValueError(f"at most {len(STYLES)} settings, each (S, T) with steps {tuple(steps.shape)}; got {listing}")
    ax = _axes(ax)
    for (name, runs), (color, dash) in zip(groups.items(), STYLES, strict=False):
        for number, run in enumerate(runs.tolist()):
            label = None if number else name
            ax.plot(steps.tolist(), run, color=color, linestyle=dash, linewidth=1.5, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    ax.legend()
    return ax


def plot_density(
    first: Tensor,
    second: Tensor,
    density: Tensor,
    *,
    radii: Sequence[float] = (1.0, 2.0, 3.0),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A density in the plane of two latent dimensions, shaded, under circles of the standard normal prior.

    The shade is the square root of the density, so that thin parts stay visible.

    Args:
        first: values of the first coordinate, equally spaced, (P,).
        second: values of the second, equally spaced, (Q,).
        density: the density there, (P, Q).
        radii: of the circles about the origin, in standard deviations of the prior.
        title: what the density is.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, equally scaled both ways: one image, and a line for each circle.

    Raises:
        ValueError: if the shapes do not fit.

    >>> import torch
    >>> axis = torch.linspace(-3, 3, 7)
    >>> len(plot_density(axis, axis, torch.ones(7, 7), radii=[2.0]).lines)
    1
    """
    if density.shape != (*first.shape, *second.shape) or density.dim() != 2:
        shapes = [tuple(part.shape) for part in (first, second, density)]
        raise ValueError(f"expected first (P,), second (Q,) and density (P, Q); got {shapes}")
    ax = _axes(ax, 4.6, 4.6)
    (left, right), (bottom, top) = (_outer_edges(part) for part in (first, second))
    ax.imshow(density.mT.sqrt().tolist(), origin="lower", extent=(left, right, bottom, top), cmap="Blues")
    angle = torch.linspace(0, 2 * torch.pi, 201)
    for radius in radii:
        ax.plot((radius * angle.cos()).tolist(), (radius * angle.sin()).tolist(), color=ORANGE, linewidth=1.2)
    ax.set(xlabel="$z_1$", ylabel="$z_2$", title=title)
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
    _check_same_shape(steps=steps, lower=lower, upper=upper, lower_error=lower_error, upper_error=upper_error)
    ax, x = _axes(ax), steps.tolist()
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


def plot_scatter(groups: Mapping[str, Tensor], *, xlabel: str, ylabel: str, ax: Axes | None = None) -> Axes:
    """Points in the plane, each group with a colour and a marker of its own.

    Args:
        groups: up to four groups by their names in the legend, each (N, 2), with its own N.
        xlabel: name of the first coordinate.
        ylabel: name of the second.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with one line of markers for each group, in their order.

    Raises:
        ValueError: if a group is not (N, 2), or there are more than four.

    >>> import torch
    >>> ax = plot_scatter({"real": torch.zeros(3, 2), "sampled": torch.ones(5, 2)}, xlabel="a", ylabel="b")
    >>> [len(line.get_xdata()) for line in ax.lines]
    [3, 5]
    """
    if len(groups) > len(STYLES) or any(points.dim() != 2 or points.shape[1] != 2 for points in groups.values()):
        listing = ", ".join(f"{name} {tuple(points.shape)}" for name, points in groups.items())
        raise ValueError(f"at most {len(STYLES)} groups, each (N, 2); got {listing}")
    ax = _axes(ax)
    for (name, points), (color, _), marker in zip(groups.items(), STYLES, "ox^s", strict=False):
        ax.plot(*points.mT.tolist(), marker, color=color, markersize=5, fillstyle="none", label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def plot_intervals(
    names: Sequence[str],
    mean: Tensor,
    sd: Tensor,
    *,
    observed: Tensor | None = None,
    xlabel: str,
    label: str = "mean and two standard deviations",
    observed_label: str = "real",
    ax: Axes | None = None,
) -> Axes:
    """Several distributions below one another, each as its mean and two standard deviations either way.

    Args:
        names: what each distribution is of, P strings, from top to bottom.
        mean: their means, (P,).
        sd: their standard deviations, (P,), not negative.
        observed: a value to hold against each, (P,).
        xlabel: the quantity and its unit.
        label: what the distributions are, for the legend.
        observed_label: what the observed values are, for the legend.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: a horizontal line for each distribution, the dots of the means, and the observed values where given.

    Raises:
        ValueError: if the shapes or the number of names differ, or a standard deviation is negative.

    >>> import torch
    >>> ax = plot_intervals(["a", "b"], torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]), xlabel="ability")
    >>> [path[:, 0].tolist() for path in (part.vertices for part in ax.collections[0].get_paths())]
    [[-2.0, 2.0], [0.0, 2.0]]
    """
    _check_same_shape(mean=mean, sd=sd, **({} if observed is None else {"observed": observed}))
    _check_names(len(mean), names=names)
    if not (sd >= 0).all():
        raise ValueError(f"sd must not be negative, got {sd.min():g}")
    ax = _axes(ax, 6.0, 0.9 + 0.32 * len(mean))
    rows = range(len(mean))
    ax.hlines(rows, (mean - 2 * sd).tolist(), (mean + 2 * sd).tolist(), color=BLUE, linewidth=2, label=label)
    ax.plot(mean.tolist(), rows, "|", color=BLUE, markersize=10, markeredgewidth=2)
    if observed is not None:
        ax.plot(observed.tolist(), rows, "o", color=ORANGE, markersize=6, label=observed_label)
    ax.set_yticks(rows, names)
    ax.set(xlabel=xlabel, ylim=(len(mean) - 0.5, -0.5))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return ax


def plot_paths(
    parameter: Tensor, paths: Tensor, *, xlabel: str, ylabel: str = "sample z", ax: Axes | None = None
) -> Axes:
    """Samples as functions of a parameter, the noise behind each held fixed: one line for each sample.

    Args:
        parameter: values of the parameter, (P,).
        paths: the samples at these values, (P, K).
        xlabel: name of the parameter.
        ylabel: name of the samples.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with K lines.

    Raises:
        ValueError: if the shapes do not fit.

    >>> import torch
    >>> width = torch.linspace(0, 1, 5)
    >>> len(plot_paths(width, width[:, None] * torch.tensor([-1.0, 0.0, 1.0]), xlabel="width").lines)
    3
    """
    if parameter.dim() != 1 or paths.dim() != 2 or len(paths) != len(parameter):
        raise ValueError(
            f"shapes do not fit: parameter {tuple(parameter.shape)}, paths {tuple(paths.shape)}; expected (P,), (P, K)"
        )
    ax = _axes(ax)
    for number, path in enumerate(paths.mT.tolist()):
        color, dash = STYLES[number % len(STYLES)]
        ax.plot(parameter.tolist(), path, color=color, linestyle=dash, linewidth=1.5)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def plot_ellipses(
    gaussians: Mapping[str, tuple[Tensor, Tensor]],
    *,
    density: tuple[Tensor, Tensor, Tensor] | None = None,
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Gaussians in the plane by their ellipses of one and two standard deviations, over the contours of a density.

    Args:
        gaussians: up to four Gaussians by their names in the legend, each a mean (2,) and a covariance (2, 2).
        density: values of the first coordinate (P,) and of the second (Q,), and the density there, (P, Q).
        xlabel: name of the first coordinate.
        ylabel: name of the second.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, equally scaled both ways: two lines for each Gaussian, in their order.

    Raises:
        ValueError: if a shape does not fit, or there are more than four Gaussians.

    >>> import torch
    >>> ax = plot_ellipses({"q": (torch.zeros(2), torch.eye(2))}, xlabel="first", ylabel="second")
    >>> [round(float(max(line.get_xdata())), 3) for line in ax.lines]
    [1.0, 2.0]
    """
    shapes = {name: (tuple(mean.shape), tuple(covariance.shape)) for name, (mean, covariance) in gaussians.items()}
    if len(gaussians) > len(STYLES) or any(shape != ((2,), (2, 2)) for shape in shapes.values()):
        raise ValueError(f"at most {len(STYLES)} Gaussians, each with mean (2,) and covariance (2, 2); got {shapes}")
    if density is not None and density[2].shape != (*density[0].shape, *density[1].shape):
        raise ValueError(f"density must be (P,), (Q,), (P, Q); got {[tuple(part.shape) for part in density]}")
    ax = _axes(ax, 5.0, 4.6)
    if density is not None:
        first, second, values = (part.tolist() for part in density)
        ax.contour(first, second, list(zip(*values, strict=True)), levels=6, colors=GREY, linewidths=0.8)
    angle = torch.linspace(0, 2 * torch.pi, 201, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1)  # (201, 2)
    for (name, (mean, covariance)), (color, dash) in zip(gaussians.items(), STYLES, strict=False):
        edge = circle @ torch.linalg.cholesky(covariance.double()).mT
        for radius in (1, 2):
            label = name if radius == 1 else None
            ax.plot(*(mean + radius * edge).mT.tolist(), color=color, linestyle=dash, linewidth=2, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
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
    _check_same_shape(**parts)
    if len(parts) > len(STYLES) or any((values < 0).any() for values in parts.values()):
        raise ValueError(f"at most {len(STYLES)} parts, none of them negative; got {list(parts)}")
    ax = _axes(ax)
    floor = torch.zeros_like(next(iter(parts.values())))
    for (name, values), (color, _), hatch in zip(parts.items(), STYLES, ("", "//", "..", "xx"), strict=False):
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        ax.bar(range(len(values)), values.tolist(), bottom=floor.tolist(), label=name, **style)
        floor = floor + values
    ax.set(xlabel=xlabel, ylabel=ylabel, xticks=[])
    ax.legend()
    return ax


# Images, and what a VAE does with them


def plot_images(
    images: Tensor,
    *,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Grey images side by side, in rows and columns, black for 0 and white for 1.

    Args:
        images: R rows of C images, (R, C, 1, H, W): floats or bits in [0, 1].
        row_names: what each row shows, R strings, written to the left.
        column_names: what each column shows, C strings, written above.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: one picture of all images, with a white gap of two pixels between neighbours.

    Raises:
        ValueError: if the shapes do not fit, or a pixel lies outside [0, 1].

    >>> import torch
    >>> ax = plot_images(torch.zeros(2, 3, 1, 28, 28), row_names=["original", "reconstruction"])
    >>> ax.images[0].get_array().shape  # two rows of 28 with a gap, three columns with two
    (58, 88)
    """
    if images.dim() != 5 or images.shape[2] != 1 or images.numel() == 0:
        raise ValueError(f"images must be (R, C, 1, H, W) with at least one image, got shape {tuple(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():  # NaN fails both comparisons
        raise ValueError("images must lie in [0, 1]: divide bytes by 255, and put logits through a sigmoid")
    rows, columns, _, height, width = images.shape
    _check_names(rows, row_names=row_names)
    _check_names(columns, column_names=column_names)
    gap = 2
    padded = pad(images.detach().float().squeeze(2), (0, gap, 0, gap), value=1.0)
    mosaic = padded.transpose(1, 2).reshape(rows * (height + gap), columns * (width + gap))[:-gap, :-gap]
    ax = _axes(ax, 5.6, 5.6 * (mosaic.shape[0] + 16) / (mosaic.shape[1] + 32))
    ax.imshow(mosaic.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks([(height + gap) * row + (height - 1) / 2 for row in range(rows)] if row_names else [], row_names)
    ax.set_xticks(
        [(width + gap) * column + (width - 1) / 2 for column in range(columns)] if column_names else [], column_names
    )
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[:].set_visible(False)
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
    ax = _axes(ax, 6.0, 2.6)
    base = 0.0 if reference is None else reference
    ax.bar(range(1, len(values) + 1), (values - base).tolist(), bottom=base, color=BLUE, width=0.7)
    if reference is not None:
        ax.axhline(reference, color=BLACK, linestyle="--", linewidth=1.2, label=label)
        ax.legend(loc="upper right")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def plot_vae(data_shape: tuple[int, ...], num_latents: int, *, ax: Axes | None = None) -> Axes:
    r"""The reparameterized network: noise is an input, so the bound can be differentiated along every solid arrow.

    .. math:: z = \mu + \sigma \odot \epsilon, \qquad \sigma = e^{\frac12 \log \sigma^2}

    Shaded boxes are networks, circles are operations element by element, the dashed box is the noise. Under a name
    stands the shape of the tensor for a batch of B data points and one sample.

    Args:
        data_shape: D, the shape of one data point, such as (1, 28, 28).
        num_latents: J.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with a text for every node and an arrow for every edge.

    Source: after Kingma and Welling (2014), section 2.4.

    >>> ax = plot_vae((1, 28, 28), num_latents=32)
    >>> sum("(B, 32)" in text.get_text() for text in ax.texts)  # mu, log_var, eps and z
    4
    """
    data, latent = f"\n(B, {', '.join(map(str, data_shape))})", f"\n(B, {num_latents})"
    texts = {
        "x": "$x$" + data,
        "eps": r"noise $\epsilon \sim N(0, I)$" + latent,
        "encoder": "encoder\n" + r"$\phi$",
        "mu": r"$\mu$" + latent,
        "log_var": r"$\log \sigma^2$" + latent,
        "times": r"$\odot$",
        "plus": "$+$",
        "z": "$z$" + latent,
        "decoder": "decoder\n" + r"$\theta$",
        "logits": r"logits $\ell$" + data,
        "reconstruction": r"$\log p_\theta(x \mid z)$" + "\n(B,)",
        "kl": r"$\mathrm{KL}(q_\phi \,\Vert\, p)$" + "\n(B,)",
        "elbo": "ELBO\nreconstruction \N{MINUS SIGN} KL",
    }
    ax = _axes(ax, 6.8, 4.4)
    ax.set(xlim=(0, 12), ylim=(0, 7.3))
    ax.axis("off")
    _group(ax, r"$q_\phi(z \mid x)$", x=4.3, y=3.05, width=1.7, height=3.3)
    nodes = {name: _node(ax, text, *_PLACES[name], style=_LOOKS.get(name, "")) for name, text in texts.items()}
    for start, end in _ARROWS:
        _arrow(ax, nodes[start], nodes[end], dashed=start == "eps")
    ax.text(5.45, 2.22, r"$\sigma$", ha="center", va="bottom", fontsize=10)
    _arrow(ax, (4.3, 4.7), nodes["kl"])
    left = _PLACES["x"][0]  # x goes to the likelihood too, along the upper edge
    ax.plot([left, left, 11.0], [3.0, 7.0, 7.0], color=GREY, linewidth=1.2)
    _arrow(ax, (11.0, 7.0), nodes["reconstruction"])
    return ax


_PLACES = {
    "x": (0.95, 3.0), "encoder": (2.6, 3.0), "mu": (4.3, 3.95), "log_var": (4.3, 2.15), "times": (6.0, 2.15),
    "eps": (6.0, 0.5), "plus": (6.0, 3.95), "z": (7.4, 3.95), "decoder": (9.0, 3.95), "logits": (11.0, 3.95),
    "reconstruction": (11.0, 5.9), "kl": (4.3, 5.9), "elbo": (7.6, 5.9),
}  # fmt: skip
_LOOKS = {
    "x": "input", "eps": "noise", "encoder": "network", "decoder": "network", "times": "operation", "plus": "operation",
    "reconstruction": "term", "kl": "term", "elbo": "term",
}  # fmt: skip
_ARROWS = [
    ("x", "encoder"), ("encoder", "mu"), ("encoder", "log_var"), ("log_var", "times"), ("eps", "times"),
    ("times", "plus"), ("mu", "plus"), ("plus", "z"), ("z", "decoder"), ("decoder", "logits"),
    ("logits", "reconstruction"), ("reconstruction", "elbo"), ("kl", "elbo"),
]  # fmt: skip


# Autoencoders: the network, the codes, and what lies between them


def plot_autoencoder(data_shape: tuple[int, ...], num_latents: int, *, ax: Axes | None = None) -> Axes:
    r"""The autoencoder: through a narrow code and back, and a comparison of what comes out with what went in.

    .. math:: z = \mathrm{enc}_\phi(x), \qquad \hat x = \mathrm{dec}_\theta(z)

    Shaded boxes are networks. Under a name stands the shape of the tensor for a batch of B data points.

    Args:
        data_shape: D, the shape of one data point, such as (1, 28, 28).
        num_latents: J.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with a text for every node and an arrow for every edge.

    Source: after Hinton and Salakhutdinov (2006), figure 1.

    >>> ax = plot_autoencoder((1, 28, 28), num_latents=2)
    >>> sum("(B, 2)" in text.get_text() for text in ax.texts)  # the code alone
    1
    """
    data = f"\n(B, {', '.join(map(str, data_shape))})"
    texts = {
        "x": ("$x$" + data, 1.0, 1.2, "input"),
        "encoder": ("encoder\n" + r"$\phi$", 3.3, 1.2, "network"),
        "z": (f"code $z$\n(B, {num_latents})", 5.3, 1.2, ""),
        "decoder": ("decoder\n" + r"$\theta$", 7.3, 1.2, "network"),
        "x_hat": (r"$\hat x$" + data, 9.6, 1.2, ""),
        "objective": ("reconstruction\n" + r"how well $\hat x$ describes $x$", 5.3, 3.1, "term"),
    }
    ax = _axes(ax, 6.4, 2.4)
    ax.set(xlim=(0, 10.6), ylim=(0.4, 3.8))
    ax.axis("off")
    nodes = {name: _node(ax, text, x, y, style=style) for name, (text, x, y, style) in texts.items()}
    for start, end in itertools.pairwise(["x", "encoder", "z", "decoder", "x_hat"]):
        _arrow(ax, nodes[start], nodes[end])
    for start in ("x", "x_hat"):
        _arrow(ax, nodes[start], nodes["objective"])
    return ax


def plot_map(codes: Tensor, labels: Tensor, class_names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Codes in the plane, by class: a colour and a marker for each, and its number at the middle of its codes.

    Args:
        codes: one code for each data point, (N, 2).
        labels: their classes, (N,), whole numbers below the number of names.
        class_names: up to ten.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: one line of markers and one number for each class, and a legend of numbers and names below.

    Raises:
        ValueError: if the shapes do not fit, a label has no name, or there are more than ten names.

    >>> import torch
    >>> ax = plot_map(torch.zeros(3, 2), torch.tensor([0, 1, 1]), ["shoe", "coat"])
    >>> [len(line.get_xdata()) for line in ax.lines]
    [1, 2]
    """
    if codes.dim() != 2 or codes.shape[1] != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(f"codes must be (N, 2) and labels (N,), got {tuple(codes.shape)} and {tuple(labels.shape)}")
    if len(class_names) > 10 or labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"at most ten class_names, one for every label; got {len(class_names)}")
    ax = _axes(ax, 6.0, 5.6)
    for label, name in enumerate(class_names):
        color, marker = (BLUE, ORANGE, GREEN, PURPLE, BLACK)[label % 5], "ox"[label // 5]
        points = codes[labels == label]
        ax.plot(
            *points.mT.tolist(), marker, color=color, markersize=3, alpha=0.6, markeredgewidth=0.7,
            label=f"{label} {name}",
        )  # fmt: skip
    for label in labels.unique().tolist():
        points = codes[labels == label]
        x, y = points[(points - points.median(0).values).norm(dim=1).argmin()].tolist()  # a code of the class itself
        outline = [withStroke(linewidth=3, foreground="white")]
        ax.text(x, y, str(label), ha="center", va="center", weight="bold", fontsize=13, path_effects=outline, zorder=5)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, markerscale=2, frameon=False, fontsize=9,
        columnspacing=1, handletextpad=0.2,
    )  # fmt: skip
    return ax


def plot_plane(images: Tensor, z1: Tensor, z2: Tensor, *, codes: Tensor | None = None, ax: Axes | None = None) -> Axes:
    """What a decoder makes of a grid of codes: each image stands at its place in the plane.

    Args:
        images: one image for each point of the grid, (R, C, 1, H, W), in [0, 1]: row r belongs to ``z2[r]``, column c
            to ``z1[c]``.
        z1: first coordinates, (C,), rising in equal steps, at least two.
        z2: second coordinates, (R,), likewise.
        codes: codes of the data, (N, 2), drawn as dots over the images.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: one picture of all images, whose axes are the coordinates of the code, the second one upwards.

    Raises:
        ValueError: if the shapes do not fit, a pixel lies outside [0, 1], or a coordinate does not rise in equal steps.

    >>> import torch
    >>> ax = plot_plane(torch.zeros(2, 3, 1, 4, 4), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0]))
    >>> [float(edge) for edge in ax.images[0].get_extent()]
    [-0.5, 2.5, 4.5, 6.5]
    """
    if images.dim() != 5 or images.shape[2] != 1 or images.shape[:2] != (len(z2), len(z1)):
        raise ValueError(f"images must be (R, C, 1, H, W) with R = len(z2), C = len(z1), got {tuple(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError("images must lie in [0, 1]: divide bytes by 255, and put logits through a sigmoid")
    extent = (*_edges(z1=z1), *_edges(z2=z2))
    rows, columns, _, height, width = images.shape
    mosaic = images.detach().flip(0).squeeze(2).transpose(1, 2).reshape(rows * height, columns * width)
    ax = _axes(ax, 6.0, 0.6 + 5.6 * (rows * height) / (columns * width))
    ax.imshow(mosaic.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent, aspect="auto")
    if codes is not None:
        ax.plot(*codes.mT.tolist(), ".", color="#FFA500", markersize=3.5, alpha=0.6, markeredgewidth=0)
    ax.set(xlabel="$z_1$", ylabel="$z_2$", xlim=extent[:2], ylim=extent[2:])
    return ax


def plot_neighbourhoods(
    codes: Tensor, images: Tensor, between: Tensor, decoded: Tensor, *, radius: float, ax: Axes | None = None
) -> Axes:
    """Codes with a disc around each and the image that each stands for, and codes between them with what they decode to.

    Args:
        codes: codes of the data, (N, 2).
        images: what each decodes to, (N, 1, H, W), in [0, 1].
        between: codes that belong to no data point, (M, 2).
        decoded: what each of those decodes to, (M, 1, H, W), in [0, 1].
        radius: of the discs.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes: a disc and an image in a solid frame, to the right, for each code; for each point between an image in a
        dashed frame, to the left.

    Raises:
        ValueError: if the shapes do not fit.

    >>> import torch
    >>> image = torch.zeros(1, 1, 4, 4)
    >>> ax = plot_neighbourhoods(torch.zeros(1, 2), image, torch.ones(1, 2), image, radius=0.3)
    >>> len(ax.patches), len(ax.artists)
    (1, 2)
    """
    for points, pictures in ((codes, images), (between, decoded)):
        if points.dim() != 2 or points.shape[1] != 2 or pictures.dim() != 4 or len(points) != len(pictures):
            shapes = f"{tuple(points.shape)} and {tuple(pictures.shape)}"
            raise ValueError(f"codes must be (N, 2) and their images (N, 1, H, W), got {shapes}")
    ax = _axes(ax, 5.6, 4.6)
    for place in codes.tolist():
        ax.add_patch(Circle(tuple(place), radius, facecolor="#D6E8F5", edgecolor=BLUE, linewidth=1.2))
    ax.plot(*codes.mT.tolist(), "o", color=BLUE, markersize=6, label="code of a data point", zorder=4)
    ax.plot(*between.mT.tolist(), "x", color=ORANGE, markersize=8, markeredgewidth=2, label="no data point's code")
    for points, pictures, side, look in ((codes, images, 1, (BLUE, "-")), (between, decoded, -1, (ORANGE, "--"))):
        for place, picture in zip(points.tolist(), pictures, strict=True):
            _thumbnail(ax, picture, tuple(place), side, *look)
    (left, bottom), (right, top) = (corner.tolist() for corner in torch.cat([codes, between]).aminmax(dim=0))
    margin = 0.18 * max(right - left, top - bottom) + radius
    ax.set(xlim=(left - 2 * margin, right + 2 * margin), ylim=(bottom - margin, top + margin), aspect="equal")
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    return ax


def _outer_edges(centres: Tensor) -> tuple[float, float]:
    """Where a row of pixels with these centres begins and ends: half a step beyond the outermost ones."""
    half = (centres[1] - centres[0]).item() / 2
    return centres[0].item() - half, centres[-1].item() + half


def _axes(ax: Axes | None, width: float = 6.0, height: float = 3.7) -> Axes:
    """The given axes, or those of a new figure of this size in inches."""
    return ax if ax is not None else plt.subplots(figsize=(width, height), dpi=150, layout="constrained")[1]


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must agree and have one axis: {listing}")


def _node(ax: Axes, text: str, x: float, y: float, *, style: str) -> Text:
    """A text in a box whose look says what kind of node it is."""
    box: dict[str, Any] = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": BLACK, "linewidth": 1.2}
    box |= {
        "": {},
        "input": {"facecolor": "#E3E3E3"},
        "noise": {"facecolor": "#FBE9DD", "edgecolor": ORANGE, "linestyle": "--"},
        "network": {"facecolor": "#D6E8F5", "edgecolor": BLUE},
        "operation": {"boxstyle": "circle,pad=0.2"},
        "term": {"facecolor": "#DDF1EA", "edgecolor": GREEN},
    }[style]
    return ax.text(x, y, text, ha="center", va="center", fontsize=9.5, linespacing=1.3, bbox=box, zorder=3)


def _arrow(ax: Axes, start: Text | tuple[float, float], end: Text, *, dashed: bool = False) -> None:
    """An arrow between two nodes, or from a point to a node, that ends at their boxes."""
    boxes = {"patchA": start.get_bbox_patch()} if isinstance(start, Text) else {}
    place = start.get_position() if isinstance(start, Text) else start
    look = {"arrowstyle": "-|>", "color": ORANGE if dashed else GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    look |= {"linestyle": "--" if dashed else "-", "patchB": end.get_bbox_patch()}
    # Above the boxes in the drawing order, because a box knows where it is only once it has been drawn.
    ax.annotate("", end.get_position(), place, arrowprops=look | boxes, zorder=4)


def _group(ax: Axes, name: str, *, x: float, y: float, width: float, height: float) -> None:
    """A faint frame around nodes that belong together, with its name inside, at the lower edge."""
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(Rectangle(corner, width, height, facecolor="none", edgecolor=GREY, linestyle=":", linewidth=1.2))
    ax.text(x, corner[1] + 0.1, name, ha="center", va="bottom", fontsize=9, color=GREY)


def _edges(**coordinates: Tensor) -> tuple[float, float]:
    """Half a step before the first coordinate and half a step after the last."""
    ((name, values),) = coordinates.items()
    steps = values.diff()
    if (
        values.dim() != 1
        or len(values) < 2
        or not (steps > 0).all()
        or (steps - steps[0]).abs().max() > 1e-4 * steps[0]
    ):
        raise ValueError(f"{name} must be (C,) with C at least 2, rising in equal steps")
    half = steps[0].item() / 2
    return values[0].item() - half, values[-1].item() + half


def _thumbnail(ax: Axes, image: Tensor, place: tuple[float, float], side: int, color: str, dash: str) -> None:
    """A small image to the right (side 1) or left (-1) of a point, in a frame, with a line that joins the two."""
    picture = OffsetImage(
        image[0].detach().numpy(), zoom=1.15, cmap="gray", norm=Normalize(0, 1), interpolation="nearest"
    )
    frame = {"edgecolor": color, "linestyle": dash, "linewidth": 1.5, "boxstyle": "square,pad=0.15"}
    line = {"arrowstyle": "-", "color": color, "linestyle": dash, "linewidth": 1}
    box = AnnotationBbox(
        picture, place, (46 * side, 0), boxcoords="offset points", bboxprops=frame, arrowprops=line, pad=0.1
    )
    ax.add_artist(box)


def _check_names(number: int, **names: Sequence[str] | None) -> None:
    for name, given in names.items():
        if given is not None and len(given) != number:
            raise ValueError(f"{name} must hold {number} strings, got {len(given)}")
