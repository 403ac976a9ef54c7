"""Checks of arguments that more than one module makes. It needs no other module of the package."""

import operator

import numpy as np
from torch import Tensor


def whole(least: int = 1, **values: int) -> None:
    """Refuse numbers that are not whole, or below the least.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in values.items():
        try:
            good = operator.index(value) >= least
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} must be a whole number, at least {least}, got {value}")


def samples(**values: Tensor) -> None:
    """Refuse values without a sample axis, or with an empty one.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in values.items():
        if value.dim() == 0 or len(value) == 0:
            raise ValueError(f"{name} must be (K, ...) with K at least 1, got shape {tuple(value.shape)}")


def latent(num_samples: int = 1, /, **tensors: Tensor) -> None:
    """Refuse the shapes that broadcasting would silently accept: only a log-variance may be shared along J."""
    whole(num_samples=num_samples)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    means = {name: shape for name, shape in shapes.items() if not name.startswith("log_var")}
    sizes = {shape[-1] if shape else None for shape in means.values()}
    shared = sizes | {1}  # what a log-variance may have along its last axis
    fits = len(sizes) == 1 and None not in sizes
    fits &= all(not shape or shape[-1] in shared for name, shape in shapes.items() if name not in means)
    try:
        np.broadcast_shapes(*shapes.values())  # torch's own takes longer than the arithmetic of a small batch
    except ValueError:
        fits = False
    if not fits:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes do not fit: {listing}; all must agree in the last axis, J, and broadcast in the others"
        )


def factors(num_samples: int = 1, /, **tensors: Tensor) -> None:
    """Refuse the shapes that broadcasting would silently accept, and matrices that are not square."""
    whole(num_samples=num_samples)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    matrices = [name.startswith("scale_tril") for name in shapes]
    # As a vector's shape: a matrix (..., J, J) stands for (..., J).
    vectors = [shape[:-1] if matrix else shape for shape, matrix in zip(shapes.values(), matrices, strict=True)]
    fits = all(
        len(shape) >= 2 and shape[-1] == shape[-2] for shape, m in zip(shapes.values(), matrices, strict=True) if m
    )
    fits &= len({shape[-1] if shape else None for shape in vectors}) == 1
    try:
        np.broadcast_shapes(*vectors)
    except ValueError:
        fits = False
    if not fits:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes do not fit: {listing}; expected vectors (..., J) and matrices (..., J, J) with one J, "
            "and leading axes that broadcast"
        )


def data(x: Tensor, **parameters: Tensor) -> None:
    """Refuse what broadcasting would hide: the first parameter has x's batch and data axes, exactly."""
    (name, first), *others = parameters.items()
    fits = x.dim() > 0 and first.shape[-x.dim() :] == x.shape
    for _, other in others:
        try:
            fits &= np.broadcast_shapes(other.shape, first.shape) == first.shape
        except ValueError:
            fits = False
    if not fits:
        listing = ", ".join(f"{key} {tuple(value.shape)}" for key, value in {"x": x, **parameters}.items())
        raise ValueError(f"shapes do not fit: {listing}; {name} must end in x's shape, (B, *D)")
