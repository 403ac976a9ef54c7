"""One command with four verbs: train a model, draw from it, reconstruct data, say how good it is.

::

    python -m vae_tutorial train --data pictures/ --output model.pt
    python -m vae_tutorial sample model.pt --output grid.png
    python -m vae_tutorial reconstruct model.pt --data pictures/ --output pairs.png
    python -m vae_tutorial evaluate model.pt --data pictures/ --samples 5000 --ais

Once the package is installed, ``vae-tutorial`` is the same as ``python -m vae_tutorial``. A model is rebuilt from its file
alone, and data are prepared as they were for its training: the file says how. Each verb has its own ``--help``.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_tutorial import _command, _sources, datafiles, evaluation, likelihoods, models, records, train

PARTS = ("test", "train", "all")
BATCH_SIZE = 500  # data points in the networks at once


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the first argument says: train, sample, reconstruct or evaluate.

    Args:
        arguments: the words after ``python -m vae_tutorial``; those of this process by default.

    Returns:
        The exit status: 0 when it is done, 1 when it could not be, 130 when it was interrupted, 143 when it was told to end
        (SIGTERM). Options that cannot be read end the process with status 2.

    >>> main(["sample", "nowhere.pt", "--output", "grid.png"])
    1
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    return int(options.do(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vae_tutorial",
        description="Train a variational autoencoder on images, tables, counts or signals, and use it.",
        epilog="python -m vae_tutorial VERB --help explains a verb and its options.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_train(verbs)
    for add in (_add_sample, _add_reconstruct, _add_evaluate):
        add(verbs)
    return parser


def _verb(verbs: Any, name: str, help: str, work: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """A verb that works on a model's file: its parser, with the options that all of them have."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("model", help="a file that train wrote, or records.save_model")
    parser.add_argument("--seed", type=_command.seed, default=0, metavar="N", help="of all noise (%(default)s)")
    parser.add_argument("--device", type=_command.device, metavar="D", help="cpu, cuda ... (cuda where there is one)")

    def do(options: argparse.Namespace) -> int:
        return _command.command(f"python -m vae_tutorial {name}", lambda: work(options), lambda: _how_to_go_on(options))

    parser.set_defaults(do=do)
    return parser


def _how_to_go_on(options: argparse.Namespace) -> str:
    if getattr(options, "record", None) is None:
        return "Nothing was written."
    return f"What is done is in {options.record}; the same command goes on from there."


class _Trained(NamedTuple):
    model: Any
    how: _sources.Preparation
    facts: dict[str, Any]
    generator: torch.Generator


def _trained(options: argparse.Namespace) -> _Trained:
    """The model, on the device that was asked for, and what its file says."""
    model, run = records.load_model(options.model)
    if not isinstance(model, models.VAE):
        raise ValueError(
            f"{options.model} holds a model of the class {type(model).__name__}, not a VAE, which has a prior to draw from"
        )
    device = _command.join(options.device)
    how = _sources.from_facts(run.facts, model)
    return _Trained(model.to(device), how, run.facts, torch.Generator(device).manual_seed(options.seed))


# train


def _add_train(verbs: Any) -> None:
    parser = verbs.add_parser(
        "train",
        help="train a model on data",
        usage="%(prog)s [options]",
        description=train.DESCRIPTION,
        epilog=train.EPILOG,
    )
    train.add_arguments(parser)

    def do(options: argparse.Namespace) -> int:
        options = train.checked(parser, options)
        del options.do  # what is left are the settings
        return train.run(options, "python -m vae_tutorial train")

    parser.set_defaults(do=do)


# sample


def _add_sample(verbs: Any) -> None:
    parser = _verb(verbs, "sample", "draw new data from a model", _sample)
    parser.add_argument(
        "--output", required=True, metavar="FILE", help=".png for images, .csv for a table, .npy for anything"
    )
    parser.add_argument("--num", type=_command.whole(1), default=64, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--label", metavar="NAME", help="of a conditional model; without it, every label in turn")
    parser.add_argument("--mean", action="store_true", help="the mean of p(x given z), without the likelihood's noise")


@torch.no_grad()
def _sample(options: argparse.Namespace) -> None:
    trained = _trained(options)
    model, generator = trained.model, trained.generator
    _check_output(options.output, model)
    z = model.prior.sample(options.num, generator=generator)
    if (labels := _labels(trained, options)) is not None:
        z = model.with_label(z, labels.to(z.device))

    def draw(z: Tensor) -> Tensor:
        outputs = model.decode(z)
        return model.likelihood.mean(outputs) if options.mean else model.likelihood.sample(outputs, generator=generator)

    _write(options.output, trained.how, _in_batches(draw, z))
    print(f"{options.num} {'means' if options.mean else 'samples'} in {options.output}")


def _labels(trained: _Trained, options: argparse.Namespace) -> Tensor | None:
    """The labels of the samples: the one that was asked for, or all in turn."""
    if not isinstance(trained.model, models.ConditionalVAE):
        if options.label is not None:
            raise ValueError(f"{options.model} was trained without labels: leave --label out, or train with --labels")
        return None
    if options.label is None:
        return torch.arange(options.num) % trained.model.num_classes
    names = trained.how.class_names or [str(number) for number in range(trained.model.num_classes)]
    return torch.full((options.num,), _sources.number_of(names, options.label))


# reconstruct


def _add_reconstruct(verbs: Any) -> None:
    parser = _verb(verbs, "reconstruct", "encode data and decode them again", _reconstruct)
    _add_data(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help=".png: originals, each with its reconstruction below; .csv or .npy: the reconstructions alone",
    )
    parser.add_argument(
        "--num", type=_command.whole(1), default=8, metavar="N", help="the first N points (%(default)s)"
    )


@torch.no_grad()
def _reconstruct(options: argparse.Namespace) -> None:
    trained = _trained(options)
    model, how = trained.model, trained.how
    _check_output(options.output, model)
    chosen = _first(_data(options, trained), options.num)
    x = _sources.prepare(how, chosen)
    model.check_data(x)
    again = _in_batches(lambda part: model.reconstruct(part.to(trained.generator.device)), x)
    rebuilt = _sources.restore(how, again.float().cpu())
    if Path(options.output).suffix.lower() == ".png":
        columns = min(len(x), 16)
        pairs = _in_pairs(_sources.picture(how, chosen.x.float()), _sources.picture(how, rebuilt), columns)
        datafiles.write(options.output, pairs, num_columns=columns)
    else:
        _write(options.output, how, again)
    error = (rebuilt - chosen.x.float()).square().mean().sqrt().item()
    print(f"{len(x)} reconstructions in {options.output}, root mean squared error {error:.4g}")


def _in_pairs(above: Tensor, below: Tensor, columns: int) -> Tensor:
    """Images for a grid: a row of the one, a row of the other, in turn; the last two rows are filled up with white."""
    white = above.new_full((-len(above) % columns, *above.shape[1:]), 255.0)
    above, below = (torch.cat([part, white]).unflatten(0, (-1, columns)) for part in (above, below))
    return torch.stack([above, below], 1).flatten(0, 2)


# evaluate


def _add_evaluate(verbs: Any) -> None:
    parser = _verb(verbs, "evaluate", "say how probable a model finds data, in nats", _evaluate)
    _add_data(parser)
    parser.add_argument(
        "--samples", type=_command.whole(1), default=5000, metavar="K", help="importance samples (%(default)s)"
    )
    parser.add_argument(
        "--ais", action="store_true", help="annealed importance sampling too: between which bounds log p(x) lies"
    )
    parser.add_argument(
        "--annealed",
        type=_command.whole(1),
        default=100,
        metavar="N",
        help="data points that are annealed (%(default)s)",
    )
    parser.add_argument(
        "--steps", type=_command.whole(1), default=200, metavar="T", help="temperatures on the way (%(default)s)"
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        help="written batch by batch, and gone on from where it exists: for an interrupted call",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def _evaluate(options: argparse.Namespace) -> None:
    trained = _trained(options)
    model, how = trained.model, trained.how
    if options.record is not None:
        records.check_writable(options.record)
    x = _sources.prepare(how, _data(options, trained))
    model.check_data(x)
    num_annealed = min(options.annealed, len(x)) if options.ais else 0
    with _record(options) as path:
        record = evaluation.evaluate(
            model,
            x,
            path,
            num_samples=sorted({1, options.samples}),
            num_annealed=num_annealed,
            simulated=_simulated(trained, num_annealed),
            num_steps=options.steps,
            seed=options.seed,
            progress=not options.quiet,
        )
    _report(record, how, model, len(x))


@contextlib.contextmanager
def _record(options: argparse.Namespace) -> Iterator[Path]:
    """The file that was asked for, or one that does not stay."""
    if options.record is not None:
        yield Path(options.record)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "evaluation.pt"


@torch.no_grad()
def _simulated(trained: _Trained, num: int) -> tuple[Tensor, Tensor]:
    """Data drawn from the model itself, (M, \\*D), with their latents, (M, J)."""
    model = trained.model
    z = model.prior.sample(max(num, 1), generator=trained.generator)
    conditioned, labels = z, None
    if isinstance(model, models.ConditionalVAE):
        labels = torch.arange(len(z)) % model.num_classes
        conditioned = model.with_label(z, labels.to(z.device))
    x = model.likelihood.sample(model.decode(conditioned), generator=trained.generator).cpu()
    x = x if labels is None else models.with_labels(x, labels)
    return x[:num], z[:num]


def _report(record: dict[str, Any], how: _sources.Preparation, model: Any, num_data: int) -> None:
    shape = _shape(model)
    num_dims = torch.Size(shape).numel()
    shift = _sources.log_scale(how, num_dims)
    in_bits = how.likelihood in _sources.DISCRETE
    print(f"{num_data:,} data points; mean and standard error, in nats per data point" + _what(how))
    values = record["importance"]["bounds"].double() - shift
    elbo, bound = values[0], values[-1]
    evidence = "log p(x given y)" if isinstance(model, models.ConditionalVAE) else "log p(x)"
    rows = {"ELBO": elbo, f"{evidence}, at least (K = {max(record['settings']['num_samples']):,})": bound}
    if record["annealed"]:
        log_w = record["annealed"]["log_w"].double() - shift
        rows[f"the same {log_w.shape[1]} points: importance"] = bound[: log_w.shape[1]]
        rows[f"the same {log_w.shape[1]} points: annealed"] = log_w.logsumexp(0) - torch.tensor(len(log_w)).log()
        lower, upper = (record["simulated"][name].double() - shift for name in ("lower", "upper"))
        count = torch.tensor(len(lower)).log()
        gap = -((-upper).logsumexp(0) - count) - (lower.logsumexp(0) - count)
        rows["gap of the bounds on data from the model"] = gap
    for name, value in rows.items():
        print(f"{name:42}{_mean(value)}")
    if in_bits:
        per_dim = likelihoods.bits_per_dim(bound, num_dims)
        print(f"{'bits per dimension, at most':42}{_mean(per_dim, 4)}")


def _what(how: _sources.Preparation) -> str:
    if how.binarized:
        return ", of bits drawn once from the values"
    return "" if how.likelihood in _sources.DISCRETE else ", a density on the scale of the file"


def _mean(values: Tensor, digits: int = 2) -> str:
    error = (values.std() / len(values) ** 0.5).item() if len(values) > 1 else float("nan")
    return f"{values.mean().item():12.{digits}f} +- {error:.{digits}f}"


# What the verbs share.


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="NAME|PATH",
        help="as for train; without it, the data of the training. Size, colour and labels are those of the training",
    )
    parser.add_argument("--full", action="store_true", help="all of Fashion-MNIST")
    parser.add_argument("--folder", metavar="DIR", help="where to look first for a full set")
    parser.add_argument("--limit", type=_command.whole(1), metavar="N", help="only the first N of the part")
    parser.add_argument(
        "--part",
        choices=PARTS,
        help="of the data: those held out from training, those trained on, or all (test, for data that training split; all, "
        "for others)",
    )


def _data(options: argparse.Namespace, trained: _Trained) -> datafiles.Data:
    """The part of the data that was asked for, read as they were for training."""
    facts = trained.facts
    name = options.data or facts.get("data")
    if name is None:
        raise ValueError(f"{options.model} does not say what it was trained on: give --data")
    found = _named_part(name, options, facts) if name in _sources.NAMED else _own_part(name, options, trained)
    _sources.check_alike(trained.how, found, _shape(trained.model))
    return _first(found, options.limit)


def _named_part(name: str, options: argparse.Namespace, facts: dict[str, Any]) -> datafiles.Data:
    """A part of a set that comes with its own test set."""
    full = options.full or (facts.get("full", False) and options.data is None)
    seen, held_out, *_ = _sources.load(name, full=full, folder=options.folder)
    if options.part == "all":
        labels = [one.labels for one in (seen, held_out) if one.labels is not None]
        return seen._replace(x=torch.cat([seen.x, held_out.x]), labels=torch.cat(labels))
    return seen if options.part == "train" else held_out


def _own_part(path: str, options: argparse.Namespace, trained: _Trained) -> datafiles.Data:
    """All of a file or folder in its order, or, if it is what the model was trained on, one of its parts."""
    facts = trained.facts
    height, width = facts.get("size") or (None, None)
    is_folder = Path(path).is_dir()  # a file has been brought to size before
    found = _sources.read(
        path,
        labels=facts.get("labels", False) if trained.how.class_names else False,
        size=(height, width) if height and width and is_folder else None,
        colour=facts.get("colour") if is_folder else None,
    )
    knows = records.fingerprint(found.x) == facts.get("fingerprint")
    part = options.part or ("test" if knows else "all")
    if part == "all":
        return found
    if not knows:
        raise ValueError(f"{options.model} was not trained on {path}, which so has no {part} part: --part all")
    seen, held_out = _sources.divide(found, facts.get("holdout", 0.1))
    return seen if part == "train" else held_out


def _first(found: datafiles.Data, num: int | None) -> datafiles.Data:
    return found._replace(x=found.x[:num], labels=None if found.labels is None else found.labels[:num])


def _in_batches(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of many data points, some at a time, its answers joined on the CPU."""
    return torch.cat([function(part).cpu() for part in x.split(BATCH_SIZE)])


def _shape(model: Any) -> tuple[int, ...]:
    """Shape of one data point, without the label that stands in front of a conditional model's."""
    return tuple(model.point_shape if isinstance(model, models.ConditionalVAE) else model.data_shape)


def _check_output(path: str, model: Any) -> None:
    datafiles.check_suffix(path, _shape(model))
    records.check_writable(path)


def _write(path: str, how: _sources.Preparation, x: Tensor) -> None:
    """Data on the model's scale, to a file on the file's scale; a picture in levels of grey or colour."""
    values = _sources.restore(how, x.float().cpu())
    is_picture = Path(path).suffix.lower() == ".png"
    datafiles.write(path, _sources.picture(how, values) if is_picture else values, columns=how.columns)
