"""Two latent dimensions: densities, ellipses, paths, codes, and the images decoded there."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from torch import Tensor

from vae_tutorial.figures._style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, STYLES, new_axes


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
    ax = new_axes(ax, 4.6, 4.6)
    (left, right), (bottom, top) = (_outer_edges(part) for part in (first, second))
    ax.imshow(density.mT.sqrt().tolist(), origin="lower", extent=(left, right, bottom, top), cmap="Blues")
    angle = torch.linspace(0, 2 * torch.pi, 201)
    for radius in radii:
        ax.plot((radius * angle.cos()).tolist(), (radius * angle.sin()).tolist(), color=ORANGE, linewidth=1.2)
    ax.set(xlabel="$z_1$", ylabel="$z_2$", title=title)
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
    ax = new_axes(ax)
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
    ax = new_axes(ax, 5.0, 4.6)
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
    ax = new_axes(ax, 6.0, 5.6)
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
    ax = new_axes(ax, 6.0, 0.6 + 5.6 * (rows * height) / (columns * width))
    pixels = mosaic.cpu().numpy()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent, aspect="auto")
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
    ax = new_axes(ax, 5.6, 4.6)
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
