"""What all rooms share: the colours, a new figure's size, and what is refused."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

BLACK, BLUE, ORANGE, GREEN, PURPLE = "#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#6B6B6B"
STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))  # colour and dash change together


def new_axes(ax: Axes | None, width: float = 6.0, height: float = 3.7) -> Axes:
    """The given axes, or those of a new figure of this size in inches."""
    return ax if ax is not None else plt.subplots(figsize=(width, height), dpi=150, layout="constrained")[1]


def check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must agree and have one axis: {listing}")


def check_names(number: int, **names: Sequence[str] | None) -> None:
    for name, given in names.items():
        if given is not None and len(given) != number:
            raise ValueError(f"{name} must hold {number} strings, got {len(given)}")
