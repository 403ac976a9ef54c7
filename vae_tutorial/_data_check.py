"""Training data, looked at as a whole before the first step, in bounded memory."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial.objectives import Objective

CHUNK = 2**20  # values looked at at once
SAMPLE = 64  # rows that are preprocessed to see what the model will be given, besides the extremes'


def check_data(
    model: nn.Module,
    objective: Objective,
    x: Tensor,
    x_test: Tensor | None,
    preprocess: Callable[..., Tensor] | None,
) -> None:
    """Look at all the data, and at what becomes of a few of them in preprocessing, networks and objective.

    Raises:
        ValueError: for data that the model does not describe, or that do not fit the networks. TypeError: from ``sample``.
    """
    with each_warning_once(stacklevel=6):  # of fit's caller
        if preprocess is None:
            check_whole("x", x, model)
        prepared = sample(x, preprocess)
        if preprocess is not None:
            check_whole("x after preprocess", prepared, model)
        if x_test is not None:
            check_whole("x_test", x_test, model)
    try_out(model, objective, prepared[:2])


def check_tensor(name: str, x: Any) -> None:
    """Refuse what is no tensor, and say how to make one of it. Raises TypeError."""
    if isinstance(x, Tensor) and x.dim() > 0:
        return
    given = f"{name} must be one tensor with the data along its first axis, got {_article(type(x).__name__)}"
    if isinstance(x, Tensor):
        raise TypeError(f"{given} without axes")
    if hasattr(x, "dataset"):
        raise TypeError(f"{given}: stack its data, torch.stack([x for x, *_ in {name}.dataset]); fit draws the batches")
    if hasattr(x, "images"):
        raise TypeError(f"{given}: give the images alone, {name}.images")
    raise TypeError(f"{given}: convert it, torch.as_tensor({name})")


def check_whole(name: str, x: Tensor, model: Any) -> None:
    """Every value, by the model's own check, some rows at a time. Raises ValueError."""
    with _named(name):
        if len(x) == 0:
            model.check_data(x)
        for start, part in _parts(x):
            try:
                model.check_data(part)
            except ValueError as error:
                extreme_rows(x, finite=False)  # names the row of a NaN
                if hasattr(model, "check_labels"):
                    model.check_labels(x)  # names the row of a label, counted from the first part
                where = f" (found in rows {start} to {start + len(part) - 1})" if len(part) < len(x) else ""
                raise ValueError(f"{error}{where}") from None


def sample(x: Tensor, preprocess: Callable[..., Tensor] | None) -> Tensor:
    """Some data as the model will be given them, those with the smallest and the largest value among them.

    Every value is looked at first: one that is not finite is refused. The generator is one of its own, or a check would
    change the run.

    Raises:
        ValueError: for an empty set or a value that is not finite, naming its row.
        TypeError: if ``preprocess`` cannot be called as it will be, or returns no tensor.
    """
    if len(x) == 0:
        raise ValueError("x is empty: it holds no data points")
    if preprocess is None:
        return x[:SAMPLE]
    rows = sorted({*extreme_rows(x, finite=True), *torch.linspace(0, len(x) - 1, min(len(x), SAMPLE)).long().tolist()})
    try:
        prepared = preprocess(x[rows], generator=torch.Generator(x.device).manual_seed(0))
    except TypeError as error:
        if "generator" not in str(error):
            raise
        raise TypeError(
            f"preprocess is called as preprocess(batch, generator=...), and that failed: {error}"
        ) from error
    if not isinstance(prepared, Tensor):
        raise TypeError(f"preprocess must return a tensor, got {_article(type(prepared).__name__)}")
    return prepared


def extreme_rows(x: Tensor, *, finite: bool) -> list[int]:
    """The rows of the smallest and of the largest value.

    Raises:
        ValueError: for NaN, and with ``finite`` for infinite values as well, naming the first such row.
    """
    lows, highs = [], []
    for start, part in _parts(x):
        rows = part.reshape(len(part), -1)
        low, high = rows.amin(1), rows.amax(1)  # NaN is its own minimum
        if part.is_floating_point():
            good = low.isfinite() & high.isfinite() if finite else ~low.isnan()
            if not good.all():
                row = int(good.int().argmin())
                what = "NaN" if low[row].isnan() else "infinite values"
                raise ValueError(f"x contains {what}, first in row {start + row}: remove or fill in such rows")
        lows.append(low)
        highs.append(high)
    return [int(torch.cat(lows).argmin()), int(torch.cat(highs).argmax())]


@torch.no_grad()
def try_out(model: Any, objective: Objective, x: Tensor) -> None:
    """The terms of two data points: what does not fit together is told before the run, in words."""
    parameter, mode = next(model.parameters()), model.training
    generator = torch.Generator(parameter.device).manual_seed(0)
    try:
        model.eval()
        objective.terms(model, x.to(parameter.dtype), model.noise(objective.num_samples, len(x), generator=generator))
    except AttributeError as error:
        raise ValueError(
            f"the objective {objective.name} does not fit a {type(model).__name__} ({error}): an autoencoder, for one, is "
            "trained with objectives.reconstruction()"
        ) from error
    except RuntimeError as error:
        told = str(error).partition("\n")[0]
        raise ValueError(
            f"the networks do not fit together, or not the data, of shape (B, {', '.join(map(str, x.shape[1:]))}) ({told}): "
            "the encoder takes x, and the decoder z, (B, J)"
        ) from error
    finally:
        model.train(mode)


@contextlib.contextmanager
def each_warning_once(stacklevel: int) -> Iterator[None]:
    """What is said about one part of the data, or about two sets of them, is said once, to whoever called so far up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text, category in {(str(warning.message), warning.category): None for warning in caught}:
        warnings.warn(text, category, stacklevel=stacklevel)


def _parts(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    rows = max(1, CHUNK * len(x) // max(1, x.numel()))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if name == "x" else f"{name}: {error}") from None


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"
