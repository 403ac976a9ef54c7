"""Rows of images."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import pad

from vae_tutorial.figures._style import check_names, new_axes


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
    check_names(rows, row_names=row_names)
    check_names(columns, column_names=column_names)
    gap = 2
    padded = pad(images.detach().float().squeeze(2), (0, gap, 0, gap), value=1.0)
    mosaic = padded.transpose(1, 2).reshape(rows * (height + gap), columns * (width + gap))[:-gap, :-gap]
    ax = new_axes(ax, 5.6, 5.6 * (mosaic.shape[0] + 16) / (mosaic.shape[1] + 32))
    ax.imshow(mosaic.cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks([(height + gap) * row + (height - 1) / 2 for row in range(rows)] if row_names else [], row_names)
    ax.set_xticks(
        [(width + gap) * column + (width - 1) / 2 for column in range(columns)] if column_names else [], column_names
    )
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[:].set_visible(False)
    return ax
