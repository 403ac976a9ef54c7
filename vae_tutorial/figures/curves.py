"""Curves and points: traces, terms, fits, tangents, and what two ways of computing agree on."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from vae_tutorial.figures._style import BLACK, BLUE, GREY, ORANGE, STYLES, check_names, check_same_shape, new_axes


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
    check_same_shape(parameter=parameter, **terms)
    if len(terms) > len(STYLES):
        raise ValueError(f"at most {len(STYLES)} terms can be told apart, got {len(terms)}")
    ax = new_axes(ax)
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
    check_same_shape(parameter=parameter, **theory)
    check_same_shape(places=places, **found)
    if len(theory) > len(STYLES) or list(theory) != list(found):
        raise ValueError(f"at most {len(STYLES)} quantities under the same names, got {list(theory)} and {list(found)}")
    ax = new_axes(ax)
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
    check_same_shape(z=z, target=target, fit=fit)
    ax = new_axes(ax)
    ax.fill_between(z.tolist(), target.tolist(), color=GREY, alpha=0.35, linewidth=0, label=names[0])
    ax.plot(z.tolist(), fit.tolist(), color=BLUE, linewidth=1.8, label=names[1])
    ax.set(xlabel="z", ylabel="density")
    if legend:
        ax.legend()
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
    ax = new_axes(ax)
    ax.plot(range(len(trace)), trace.tolist(), color=BLUE, linewidth=1.2, label="stochastic gradients")
    ax.axhline(target, color=BLACK, linestyle="--", linewidth=1.5, label="exact posterior")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
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
    check_same_shape(x=x, y=y, slope=slope)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    ax = new_axes(ax)
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
        check_same_shape(num_samples=num_samples, **curves)
    ax = new_axes(ax)
    for (name, values), (color, dash), marker in zip(measured.items(), STYLES, "osv^", strict=False):
        ax.plot(num_samples.tolist(), values.tolist(), marker, color=color, markersize=6, label=f"{name}, measured")
        ax.plot(num_samples.tolist(), exact[name].tolist(), dash, color=color, linewidth=1.5, label=f"{name}, formula")
    ax.set(xscale="log", yscale="log", xlabel="samples in one estimate", ylabel="variance of the estimate")
    ax.set_xticks(num_samples.tolist(), [f"{number:g}" for number in num_samples.tolist()])
    ax.set_xticks([], minor=True)
    ax.legend()
    return ax


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
    ax = new_axes(ax)
    for (name, runs), (color, dash) in zip(groups.items(), STYLES, strict=False):
        for number, run in enumerate(runs.tolist()):
            label = None if number else name
            ax.plot(steps.tolist(), run, color=color, linestyle=dash, linewidth=1.5, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
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
    ax = new_axes(ax)
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
    check_same_shape(mean=mean, sd=sd, **({} if observed is None else {"observed": observed}))
    check_names(len(mean), names=names)
    if not (sd >= 0).all():
        raise ValueError(f"sd must not be negative, got {sd.min():g}")
    ax = new_axes(ax, 6.0, 0.9 + 0.32 * len(mean))
    rows = range(len(mean))
    ax.hlines(rows, (mean - 2 * sd).tolist(), (mean + 2 * sd).tolist(), color=BLUE, linewidth=2, label=label)
    ax.plot(mean.tolist(), rows, "|", color=BLUE, markersize=10, markeredgewidth=2)
    if observed is not None:
        ax.plot(observed.tolist(), rows, "o", color=ORANGE, markersize=6, label=observed_label)
    ax.set_yticks(rows, names)
    ax.set(xlabel=xlabel, ylim=(len(mean) - 0.5, -0.5))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return ax
