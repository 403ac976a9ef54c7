"""Training a VAE from the command line, on data of the package or of one's own, on one device or several.

::

    python -m vae_tutorial train --help
    python -m vae_tutorial train --epochs 10 --checkpoint run.pt --output trained.pt
    python -m vae_tutorial train --data pictures/ --labels --output pictures.pt
    torchrun --nproc-per-node 4 -m vae_tutorial.train --full --epochs 40 --batch-size 512

``python -m vae_tutorial.train`` is the same. Behind it stands :func:`vae_tutorial.training.fit` and nothing else: a run from
here and a call with the same settings give the same bits. Under ``torchrun`` every process takes its share of each batch
(NCCL on GPUs, Gloo on CPUs).
"""

import os

if __name__ == "__main__":  # before torch starts its threads: waiting ones leave the cores to other work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from vae_tutorial import _command, _sources, models, objectives, records, training
from vae_tutorial.families import FullRank, MeanField
from vae_tutorial.priors import GaussianMixture, Prior, StandardNormal

SCHEDULES: dict[str, Callable[[float], float] | None] = {"constant": None, "warmup_cosine": training.warmup_cosine}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
FAMILIES: dict[str, type[MeanField] | type[FullRank]] = {"mean_field": MeanField, "full_rank": FullRank}
NETWORKS: dict[str, Callable[..., models.VAE]] = {
    "convolutional": models.conv_vae,
    "mlp": models.mlp_vae,
    "linear": models.linear_vae,
}
MLP_WIDTH = 256  # of the hidden layer, unless one is given
BATCH_SIZE = 128  # or all the data, where they are fewer
GRID = 16  # patches along the longer side of an image, at most


DESCRIPTION = "Train a variational autoencoder on images, tables, counts or signals."
EPILOG = (
    "Ctrl-C stops a run, and so does SIGTERM; with --checkpoint the same command takes it up again, and the result is that "
    "of a run that never stopped. On N devices: torchrun --nproc-per-node N -m vae_tutorial train, and the same options."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say, and print what was reached, in nats per data point.

    Training images are binarized anew in every batch, where the likelihood is of bits; the test images once, from the seed
    0, as in the book.

    Args:
        arguments: the words after ``python -m vae_tutorial train``; those of this process by default.

    Returns:
        The exit status: 0 when the run is finished, 1 when it could not start or go on, 130 when it was interrupted,
        143 when it was told to end (SIGTERM). Options that cannot be read end the process with status 2.

    >>> tiny = "--limit 64 --channels 2 --blocks 0 --latents 2 --batch-size 32 --epochs 1 --device cpu --quiet"
    >>> main(tiny.split())  # doctest: +ELLIPSIS
    Data: fashion_mnist, its own test set: 64 to train on and 64 held out, each 1 x 28 x 28
    Model: bernoulli likelihood of bits drawn from the values, standard_normal prior, mean_field q
    Networks: convolutional, num_latents 2, num_channels 2, patch_size 4
    1 epoch of training on 64 data points ...
    0
    """
    return run(_parse(arguments), "python -m vae_tutorial.train")


def run(options: argparse.Namespace, name: str) -> int:
    """Train as the options say.

    Args:
        options: read by a parser to which :func:`add_arguments` gave its options, and :func:`checked`.
        name: of the command, for its messages.

    Returns:
        The exit status, as that of :func:`main`.

    >>> run(_parse(["--data", "nowhere", "--quiet"]), "train")
    1
    """
    return _command.command(name, lambda: _train(options), lambda: _how_to_go_on(options.checkpoint))


def _train(options: argparse.Namespace) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = _command.join(options.device)
    _check_files(options)
    if not _command.is_first():
        distributed.barrier()  # what has to be downloaded, the first process downloads
    parts = _load(options)
    if _command.is_first() and _command.under_torchrun():
        distributed.barrier()
    how = _sources.preparation(
        parts.train, options.likelihood, conditional=bool(options.labels), named=options.data in _sources.NAMED
    )
    x, preprocess = _sources.training_set(how, parts.train)
    x_test = _sources.prepare(how, parts.test)
    model, sizes = _model(options, how, tuple(parts.train.x.shape[1:]))
    if _command.is_first():
        print(f"Data: {parts.told}\n{_told(options, how, sizes)}", flush=True)
    history = training.fit(model, x, x_test=x_test, preprocess=preprocess, **_settings(options, device, len(x)))
    if _command.is_first():
        _report(history, len(x), len(x_test))
        if options.output is not None:
            records.save_model(options.output, model, history, **_facts(options, how, parts, sizes))
            print(f"Recorded in {options.output}")


def _load(options: argparse.Namespace) -> _sources.Parts:
    return _sources.load(
        options.data,
        full=options.full,
        folder=options.folder,
        limit=options.limit,
        labels=options.labels,
        size=options.size,
        colour=options.colour,
        holdout=options.holdout,
        progress=not options.quiet and _command.is_first(),
    )


def _model(
    options: argparse.Namespace, how: _sources.Preparation, data_shape: tuple[int, ...]
) -> tuple[models.VAE, dict[str, Any]]:
    """The model, with weights from the seed, and the sizes of its networks."""
    is_image = len(data_shape) == 3 and min(data_shape[1:]) >= 8
    network = options.network or ("convolutional" if is_image else "mlp")
    num_dims = int(torch.Size(data_shape).numel())
    num_latents = options.latents or min(32, max(1, num_dims // 2))
    sizes: dict[str, Any] = {"network": network, "num_latents": num_latents}
    if network == "convolutional":
        patch = 4 * 2 ** max(0, (max(data_shape[1:], default=1) - 1) // (4 * GRID)).bit_length()
        sizes |= {"num_channels": options.channels, "num_blocks": options.blocks, "num_hidden": options.hidden}
        sizes |= {"patch_size": patch}
    elif network == "mlp":
        sizes |= {"num_hidden": options.hidden or MLP_WIDTH}
    torch.manual_seed(options.seed)
    parts: dict[str, Any] = {
        "prior": _prior(options, num_latents),
        "likelihood": _sources.LIKELIHOODS[how.likelihood](),
        "family": FAMILIES[options.family],
    }
    arguments = {name: value for name, value in sizes.items() if name not in ("network", "num_latents")} | parts
    if how.class_names:
        return models.conditional(NETWORKS[network], data_shape, num_latents, len(how.class_names), **arguments), sizes
    return NETWORKS[network](data_shape, num_latents, **arguments), sizes


def _prior(options: argparse.Namespace, num_latents: int) -> Prior:
    if options.prior == "mixture":
        return GaussianMixture(num_latents, options.components)
    return StandardNormal(num_latents)


def _told(options: argparse.Namespace, how: _sources.Preparation, sizes: dict[str, Any]) -> str:
    """Two lines of what was chosen, by the options or by the data."""
    treatment = ""
    if how.binarized:
        treatment = " of bits drawn from the values"
    elif how.likelihood == "gaussian":
        treatment = " of standardised values"
    elif how.scale != (1.0,):
        treatment = f" of values divided by {how.scale[0]:g}"
    given = f" given one of {len(how.class_names)} labels" if how.class_names else ""
    listed = ", ".join(
        f"{name} {value}" for name, value in sizes.items() if name.startswith(("num_", "patch")) and value
    )
    return (
        f"Model: {how.likelihood} likelihood{treatment}{given}, {options.prior} prior, {options.family} q\n"
        f"Networks: {sizes['network']}, {listed}"
    )


def _check_files(options: argparse.Namespace) -> None:
    """What could not be written at the end is refused at the start."""
    paths = {"--output": options.output, "--checkpoint": options.checkpoint}
    if options.checkpoint is not None:
        paths["the best weights, beside --checkpoint,"] = training.best_path(options.checkpoint)
    named = {name: Path(path) for name, path in paths.items() if path is not None}
    for name, path in named.items():
        if name != "--output" and "--output" in named and path.resolve() == named["--output"].resolve():
            raise ValueError(f"--output and {name} are the same file, {options.output}: name another")
        try:
            records.check_writable(path)
        except OSError as error:
            raise type(error)(f"{name}: {error}") from error


def _settings(options: argparse.Namespace, device: torch.device, num_data: int) -> dict[str, Any]:
    """The arguments of ``fit`` that have an option of their own."""
    beta = objectives.kl_warmup if options.kl_warmup else options.beta
    return {
        "num_epochs": options.epochs,
        "objective": objectives.elbo() if beta == 1 else objectives.beta_elbo(beta),
        "optimization": training.Optimization(
            batch_size=options.batch_size or min(BATCH_SIZE, num_data),
            learning_rate=options.learning_rate,
            schedule=SCHEDULES[options.schedule],
            weight_decay=options.weight_decay,
            ema_decay=options.ema_decay,
            patience=options.patience,
        ),
        "execution": training.Execution(
            seed=options.seed,
            device=device,
            precision=PRECISIONS[options.precision],
            compile=options.compile or False,
            checkpoint=options.checkpoint,
            progress=not options.quiet,
        ),
    }


def _facts(
    options: argparse.Namespace, how: _sources.Preparation, parts: _sources.Parts, sizes: dict[str, Any]
) -> dict[str, Any]:
    """What a record should say of the settings: everything but where its files lie; and what the data were."""
    left_out = {"folder", "checkpoint", "output", "quiet", "device"}  # the record names the device itself
    given = {name: value for name, value in vars(options).items() if name not in left_out and value is not None}
    return given | {
        **sizes,
        "preparation": _sources.as_facts(how),
        "fingerprint": parts.fingerprint,
        "num_train": len(parts.train.x),
        "num_test": len(parts.test.x),
    }


def _report(history: records.History, num_train: int, num_test: int) -> None:
    num_epochs = len(history.seconds)
    print(
        f"{num_epochs} epoch{'s' * (num_epochs > 1)} of training on {num_train} data points in {sum(history.seconds):.0f} "
        "s; in nats per data point:"
    )
    print(f"{'':28}ELBO = reconstruction -     KL")
    for name, reconstruction, kl in (
        ("training, last epoch", history.train_reconstruction, history.train_kl),
        (f"held out, {num_test}", history.test_reconstruction, history.test_kl),
    ):
        print(f"{name:22}{reconstruction[-1] - kl[-1]:10.2f}{reconstruction[-1]:17.2f}{kl[-1]:9.2f}")
    best = max(range(num_epochs), key=history.test_elbo.__getitem__)
    print(f"best test ELBO        {history.test_elbo[best]:10.2f}, in epoch {best + 1}")


def _how_to_go_on(checkpoint: str | None) -> str:
    if checkpoint is None:
        return "Nothing was kept: with --checkpoint FILE a run can be taken up again."
    if not Path(checkpoint).exists():
        return "No epoch was finished, so nothing was kept."
    best = training.best_path(checkpoint)
    return f"The last finished epoch is in {checkpoint}, the best in {best}; the same command goes on from there."


# The options.


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vae_tutorial.train", usage="%(prog)s [options]", description=DESCRIPTION, epilog=EPILOG
    )
    add_arguments(parser)
    return checked(parser, parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of training.

    Args:
        parser: changed in place.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["--epochs", "3"]).epochs
    3
    """
    for add in (_add_data, _add_model, _add_training, _add_machine, _add_files):
        add(parser)


def checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    """Refuse options that do not go together, as the parser refuses what it cannot read.

    Args:
        parser: the one that read them.
        options: what it read.

    Returns:
        The options, with ``size`` as a tuple.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> checked(parser, parser.parse_args(["--size", "48", "40", "--data", "pictures"])).size
    (48, 40)
    """
    named = options.data in _sources.NAMED
    if options.full and options.data != "fashion_mnist":
        told = "MNIST is always the full set" if named else "your own data are taken whole"
        parser.error(f"--full is for Fashion-MNIST: {told}")
    if options.kl_warmup and options.beta != 1:
        parser.error("--kl-warmup ends at a beta of 1: give one of --beta and --kl-warmup")
    if options.folder is not None and not (options.full or options.data == "mnist"):
        parser.error("--folder is for full sets, and Fashion-MNIST's small one comes with the package: add --full")
    if named and (options.size or options.colour or options.labels not in (False, True)):
        parser.error(f"--size, --colour and a name for --labels are for your own data, not for {options.data}")
    if options.components is not None and options.prior != "mixture":
        parser.error("--components is for --prior mixture")
    options.components = options.components or 50
    options.size = tuple(options.size) if options.size else None
    return options


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        default="fashion_mnist",
        metavar="NAME|PATH",
        help="fashion_mnist, mnist, a folder of images, an .npy or .npz file, or a .csv file of numbers (%(default)s)",
    )
    add(
        "--labels",
        nargs="?",
        const=True,
        default=False,
        metavar="NAME",
        help="train a conditional model, p(x given z and label): a folder's labels are its sub-folders; NAME is the column "
        "of a .csv file or the array of an .npz file",
    )
    add("--size", type=_command.whole(1), nargs=2, metavar=("H", "W"), help="bring all images of a folder to this size")
    add("--colour", choices=("grey", "rgb"), help="bring all images of a folder to grey or to colour")
    add(
        "--holdout",
        type=float,
        default=0.1,
        metavar="X",
        help="share of your own data that is held out and tested on, chosen with a fixed seed (%(default)s)",
    )
    add(
        "--full",
        action="store_true",
        help="all 60,000 images of Fashion-MNIST, not the 6,000 that come with the package",
    )
    add("--folder", metavar="DIR", help="where to look first for a full set; what is found nowhere is downloaded")
    add(
        "--limit", type=_command.whole(1), metavar="N", help="use only the first N training and the first N test points"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--likelihood",
        choices=_sources.LIKELIHOODS,
        help="p(x given z); without it what suits the values: 0 and 1 bernoulli, bytes discretized_logistic, counts "
        "negative_binomial, others gaussian, standardised; the package's own grey images are binarized, for bernoulli",
    )
    add("--prior", choices=("standard_normal", "mixture"), default="standard_normal", help="p(z) (%(default)s)")
    add("--components", type=_command.whole(1), metavar="M", help="Gaussians in the mixture (50)")
    add("--family", choices=FAMILIES, default="mean_field", help="q(z given x) (%(default)s)")
    add("--network", choices=NETWORKS, help="encoder and decoder (convolutional for images, mlp for other data)")
    add("--latents", type=_command.whole(1), metavar="J", help="dimensions of the latent (32, or half the data's)")
    add(
        "--channels", type=_command.whole(1), default=64, metavar="C", help="channels of the convolutions (%(default)s)"
    )
    add("--blocks", type=_command.whole(0), default=2, metavar="N", help="residual blocks on each side (%(default)s)")
    add(
        "--hidden",
        type=_command.whole(1),
        metavar="N",
        help="width of the hidden layer (256 in an mlp; in a convolutional network no such layer)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=_command.whole(1), default=20, metavar="N", help="passes over the data (%(default)s)")
    add("--batch-size", type=_command.whole(1), metavar="B", help="of all devices together (128, or all the data)")
    add("--learning-rate", type=float, default=2e-3, metavar="X", help="at its highest (%(default)s)")
    add("--schedule", choices=SCHEDULES, default="warmup_cosine", help="of the learning rate (%(default)s)")
    add("--weight-decay", type=float, default=0.0, metavar="X", help="of AdamW (%(default)s)")
    add("--ema-decay", type=float, metavar="X", help="average the weights with this decay, such as 0.999 (no average)")
    add("--beta", type=float, default=1.0, metavar="X", help="weight of the KL; 1 makes it the ELBO (%(default)s)")
    add(
        "--kl-warmup", action="store_true", help="let the KL's weight rise from 0 to 1 over the first 10 %% of training"
    )
    add(
        "--patience", type=_command.whole(1), metavar="N", help="stop after N epochs without a better test ELBO (never)"
    )
    add(
        "--seed",
        type=_command.seed,
        default=0,
        metavar="N",
        help="of the weights, the order and all noise (%(default)s)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("machine").add_argument
    add(
        "--device",
        type=_command.device,
        metavar="D",
        help="cpu, cuda, cuda:1, mps ... (cuda where there is one, else cpu)",
    )
    add("--precision", choices=PRECISIONS, default="float32", help="of the networks' arithmetic (%(default)s)")
    add(
        "--compile",
        nargs="?",
        const="default",
        choices=COMPILE_MODES,
        help="compile the networks, in a mode of torch.compile",
    )
    add("--threads", type=_command.whole(1), metavar="N", help="of torch on a CPU (what torch chooses)")


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files").add_argument
    add(
        "--checkpoint",
        metavar="FILE",
        help="written after every epoch, and gone on from where it exists; the best weights stand beside it",
    )
    add("--output", metavar="FILE", help="record of the finished run, for vae_tutorial.records.load_model")
    add("--quiet", action="store_true", help="show no progress bar")


if __name__ == "__main__":
    sys.exit(main())
