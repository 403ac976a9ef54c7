"""From data as they lie in files, or in the package, to what a model is given, and back: for the commands.

What training did to the data is a :class:`Preparation`, a few plain values that stand in the model's record, so that other
data can be prepared alike and samples can be brought back to the scale of the file.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_tutorial import data, datafiles, likelihoods, models, records
from vae_tutorial.datafiles import Data

NAMED = ("fashion_mnist", "mnist")
SPLIT_SEED = 0  # of the held-out set and of the bits of a test set
LIKELIHOODS: dict[str, Callable[[], likelihoods.Likelihood]] = {
    "bernoulli": likelihoods.Bernoulli,
    "continuous_bernoulli": likelihoods.ContinuousBernoulli,
    "discretized_logistic": likelihoods.DiscretizedLogistic,
    "gaussian": likelihoods.Gaussian,
    "poisson": likelihoods.Poisson,
    "negative_binomial": likelihoods.NegativeBinomial,
}
DISCRETE = ("bernoulli", "discretized_logistic", "poisson", "negative_binomial")
SUITS = {  # the likelihood for each kind of values
    "binary": "bernoulli",
    "bytes": "discretized_logistic",
    "counts": "negative_binomial",
    "real": "gaussian",
}


class Parts(NamedTuple):
    """Data in two parts, and how they came about."""

    train: Data
    test: Data
    told: str  # one line
    fingerprint: str  # of all of them; of a named set, which its name tells, of the first training images


@dataclass(frozen=True)
class Preparation:
    """What is done to data before a model sees them: a value becomes (value - shift) / scale, or a bit drawn from that."""

    likelihood: str
    binarized: bool = False
    shift: tuple[float, ...] = (0.0,)  # one number, or one for each column of a table
    scale: tuple[float, ...] = (1.0,)
    low: float = 0.0  # what is black in a picture
    high: float = 1.0  # what is white
    class_names: tuple[str, ...] = ()  # of a conditional model
    columns: tuple[str, ...] = ()


def load(
    name: str,
    *,
    full: bool = False,
    folder: str | None = None,
    limit: int | None = None,
    labels: str | bool = False,
    size: tuple[int, int] | None = None,
    colour: str | None = None,
    holdout: float = 0.1,
    progress: bool = True,
) -> Parts:
    """A set of the package by its name, or files by their path, in a part to train on and a part held out.

    Raises:
        ValueError, OSError: for data that are not there or cannot be read, in one line.
    """
    if name in NAMED:
        both = [
            data.mnist(split, folder=folder) if name == "mnist" else data.fashion_mnist(split, full=full, folder=folder)
            for split in ("train", "test")
        ]
        train, test = (Data(part.images[:limit], part.labels[:limit], part.class_names) for part in both)
        told = f"{name}, its own test set"
        return _parts(train, test, told, records.fingerprint(both[0].images[:256]))
    found = read(name, labels=labels, size=size, colour=colour, progress=progress)
    train, test = divide(found, holdout, limit=limit)
    return _parts(train, test, f"{name}, split with seed {SPLIT_SEED}", records.fingerprint(found.x))


def read(
    path: str,
    *,
    labels: str | bool = False,
    size: tuple[int, int] | None = None,
    colour: str | None = None,
    progress: bool = True,
) -> Data:
    """Files by their path, whole and in their order.

    Raises:
        ValueError, OSError: for data that are not there or cannot be read, in one line.
    """
    without = ValueError(
        f"{path} has no labels: a folder's are its sub-folders; for an .npz or a .csv name the array or column"
    )
    if labels is True and Path(path).suffix.lower() == ".csv" and Path(path).is_file():
        raise without  # before a column of names is refused as no numbers
    name = labels if isinstance(labels, str) else None
    found = datafiles.read(path, labels=name, size=size, colour=colour, progress=progress)
    if labels and found.labels is None:
        raise without
    return found


def divide(found: Data, holdout: float, *, limit: int | None = None) -> tuple[Data, Data]:
    """The part to train on and the part held out; the same ones at every call. Raises ValueError."""
    train, test = (
        Data(
            datafiles.take(found.x, index[:limit]),
            None if found.labels is None else found.labels[index[:limit]],
            found.class_names,
            found.columns,
        )
        for index in datafiles.split(len(found.x), holdout, seed=SPLIT_SEED)
    )
    return train, test


def _parts(train: Data, test: Data, told: str, fingerprint: str) -> Parts:
    shape = " x ".join(map(str, train.x.shape[1:]))
    line = f"{told}: {len(train.x):,} to train on and {len(test.x):,} held out, each {shape}"
    return Parts(train, test, line, fingerprint)


def preparation(train: Data, likelihood: str | None, *, conditional: bool = False, named: bool = False) -> Preparation:
    """What a likelihood needs, found from the training data alone; without one, the likelihood that suits them.

    The grey images that come with the package are binarized unless another likelihood is asked for, as in the book.
    """
    x, kind = train.x, datafiles.kind(train.x)
    likelihood = likelihood or ("bernoulli" if named else SUITS[kind])
    unit = 255.0 if kind == "bytes" else 1.0
    found = Preparation(
        likelihood,
        class_names=train.class_names if conditional else (),
        columns=train.columns,
        low=0.0 if kind != "real" else x.min().item(),
        high=unit if kind in ("bytes", "binary") else x.max().item(),
    )
    if likelihood == "gaussian":
        shift, scale = _moments(x)
        return dataclasses.replace(found, shift=shift, scale=scale)
    if likelihood == "bernoulli" and kind != "binary":
        return dataclasses.replace(found, binarized=True, scale=(unit,))
    return dataclasses.replace(found, scale=(unit,)) if likelihood == "continuous_bernoulli" else found


def _moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, of each column of a table, of all values otherwise; 1 for what never varies."""
    values = x.double() if x.dim() == 2 else x.double().reshape(-1, 1)
    scale = values.std(0, correction=0)
    return tuple(values.mean(0).tolist()), tuple(torch.where(scale > 0, scale, 1.0).tolist())


def prepare(how: Preparation, found: Data) -> Tensor:
    """Data as the model is given them in tests and evaluations: bits drawn once, from one seed; the label in front."""
    if how.binarized:
        x = data.binarize(found.x, generator=torch.Generator().manual_seed(SPLIT_SEED))
    else:
        x = _scaled(how, found.x)
    return attach(how, x, found)


def check_alike(how: Preparation, found: Data, data_shape: tuple[int, ...]) -> None:
    """Refuse data whose points are not like those of the training: other columns, where both name them, another shape.

    Raises:
        ValueError: in one line.
    """
    if how.columns and found.columns and how.columns != found.columns:
        raise ValueError(f"the columns are {', '.join(found.columns)}, and the model's {', '.join(how.columns)}")
    shape = tuple(found.x.shape[1:])
    if shape != data_shape:
        given, own = (" x ".join(map(str, one)) for one in (shape, data_shape))
        raise ValueError(f"the data points are of shape {given}, and the model's {own}")


def training_set(how: Preparation, train: Data) -> tuple[Tensor, Callable[..., Tensor] | None]:
    """Training data, and what is done to each batch of them."""
    if not how.binarized:
        return prepare(how, train), None
    return attach(how, train.x, train), binarize_beside_label if how.class_names else data.binarize


def binarize_beside_label(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """:func:`vae_tutorial.data.binarize`, but for the label that stands in front, (B, 1 + D)."""
    return torch.cat([x[:, :1], data.binarize(x[:, 1:], generator=generator)], 1)


def attach(how: Preparation, x: Tensor, found: Data) -> Tensor:
    """The data with their labels, numbered as the model numbers them, for a conditional model; else as they are."""
    if not how.class_names:
        return x
    if found.labels is None:
        raise ValueError("the model was trained with labels, and these data have none")
    if unknown := [name for name in found.class_names if name not in how.class_names]:
        raise ValueError(f"the label {unknown[0]!r} is none of the model's: {', '.join(how.class_names)}")
    number = torch.tensor([how.class_names.index(name) for name in found.class_names])
    return models.with_labels(x, number[found.labels])


def restore(how: Preparation, x: Tensor) -> Tensor:
    """From the model's scale to the file's, (N, \\*D)."""
    shift, scale = (torch.tensor(values, dtype=x.dtype) for values in (how.shift, how.scale))
    return x * scale + shift


def picture(how: Preparation, x: Tensor) -> Tensor:
    """From the file's scale to levels from 0 to 255."""
    return ((x - how.low) / max(how.high - how.low, 1e-12) * 255).clamp(0, 255)


def log_scale(how: Preparation, num_dims: int) -> float:
    """What the density of data on the file's scale is lower by, in nats: the sum of log(scale) over the D numbers."""
    if how.likelihood in DISCRETE:
        return 0.0  # a probability has no scale
    return sum(math.log(value) for value in how.scale) * (num_dims if len(how.scale) == 1 else 1)


def _scaled(how: Preparation, x: Tensor) -> Tensor:
    if set(how.shift) == {0.0} and set(how.scale) == {1.0}:
        return x
    shift, scale = (torch.tensor(values, dtype=torch.float32) for values in (how.shift, how.scale))
    return (x.float() - shift) / scale


def as_facts(how: Preparation) -> dict[str, Any]:
    """Plain values for a record."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(how).items()}


def from_facts(facts: dict[str, Any], model: models.VAE) -> Preparation:
    """The preparation in a record; for a model recorded without one, what its likelihood calls for."""
    if "preparation" in facts:
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in facts["preparation"].items()
        }
        return Preparation(**values)
    names = [name for name, made in LIKELIHOODS.items() if type(model.likelihood) is made]
    if not names:
        raise ValueError(
            f"the model's likelihood is {type(model.likelihood).__name__}, for which no command prepares data"
        )
    bits = names[0] == "bernoulli"
    unit = 255.0 if names[0] in ("bernoulli", "continuous_bernoulli") else 1.0
    high = 255.0 if names[0] in ("bernoulli", "continuous_bernoulli", "discretized_logistic") else 1.0
    return Preparation(names[0], binarized=bits, scale=(unit,), high=high)


def number_of(class_names: Sequence[str], name: str) -> int:
    """The number of a class, by its name in any case.

    Raises:
        ValueError: naming the classes there are.
    """
    lower = [known.lower() for known in class_names]
    if name.lower() not in lower:
        raise ValueError(f"there is no label {name!r} among {', '.join(class_names)}")
    return lower.index(name.lower())
