"""Training a convolutional VAE from the command line, on one device or several.

::

    python -m vae_tutorial.train --help
    python -m vae_tutorial.train --epochs 10 --checkpoint run.pt --output trained.pt
    torchrun --nproc-per-node 4 -m vae_tutorial.train --full --epochs 40 --batch-size 512

Behind it stands :func:`vae_tutorial.training.fit` and nothing else: a run from here and a call with the same settings
give the same bits. Under ``torchrun`` every process takes its share of each batch (NCCL on GPUs, Gloo on CPUs).
"""

import os

if __name__ == "__main__":  # before torch starts its threads: waiting ones leave the cores to other work
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import datetime
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from vae_tutorial import data, models, objectives, records, training

TIMEOUT = datetime.timedelta(minutes=10)  # how long processes wait for one that has stopped
SCHEDULES: dict[str, Callable[[float], float] | None] = {"constant": None, "warmup_cosine": training.warmup_cosine}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say, and print what was reached, in nats per image.

    The training images are binarized anew in every batch; the test images once, from the seed 0, as in the book.

    Args:
        arguments: the words after ``python -m vae_tutorial.train``; those of this process by default.

    Returns:
        The exit status: 0 when the run is finished, 1 when it could not start or go on, 130 when it was interrupted,
        143 when it was told to end (SIGTERM). Options that cannot be read end the process with status 2.

    >>> tiny = "--limit 64 --channels 2 --blocks 0 --latents 2 --batch-size 32 --epochs 1 --device cpu --quiet"
    >>> main(tiny.split())  # doctest: +ELLIPSIS
    1 epoch of training on 64 images ...
    0
    """
    options = _parse(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        device = _join(options.device)
        _train(options, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"python -m vae_tutorial.train: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        if _is_first():
            print(f"\nInterrupted. {_how_to_go_on(options.checkpoint)}", file=sys.stderr)
        return 143 if isinstance(interruption, _ToldToEnd) else 130
    finally:
        signal.signal(signal.SIGTERM, before)
        if _under_torchrun() and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


class _ToldToEnd(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they take a machine away: it ends a run as Ctrl-C does."""


def _end(number: int, frame: object) -> None:
    raise _ToldToEnd


def _train(options: argparse.Namespace, device: torch.device) -> None:
    _check_files(options)
    if not _is_first():
        distributed.barrier()  # what has to be downloaded, the first process downloads
    x, x_test = _images(options)
    if _is_first() and _under_torchrun():
        distributed.barrier()
    torch.manual_seed(options.seed)
    model = models.conv_vae((1, 28, 28), options.latents, options.channels, options.blocks, options.hidden)
    history = training.fit(model, x, x_test=x_test, preprocess=data.binarize, **_settings(options, device))
    if _is_first():
        _report(history, len(x), len(x_test))
        if options.output is not None:
            records.save_model(options.output, model, history, **_facts(options))
            print(f"Recorded in {options.output}")


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


def _images(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Training images as bytes, test images binarized once."""
    if options.data == "mnist":
        train, test = (data.mnist(split, folder=options.folder) for split in ("train", "test"))
    else:
        train, test = (
            data.fashion_mnist(split, full=options.full, folder=options.folder) for split in ("train", "test")
        )
    x_test = data.binarize(test.images, generator=torch.Generator().manual_seed(0))
    return train.images[: options.limit], x_test[: options.limit]


def _settings(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The arguments of ``fit`` that have an option of their own."""
    beta = objectives.kl_warmup if options.kl_warmup else options.beta
    return {
        "num_epochs": options.epochs,
        "objective": objectives.elbo() if beta == 1 else objectives.beta_elbo(beta),
        "optimization": training.Optimization(
            batch_size=options.batch_size,
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


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    """What a record should say of the settings: everything but where its files lie."""
    left_out = {"folder", "checkpoint", "output", "quiet", "device"}  # the record names the device itself
    return {name: value for name, value in vars(options).items() if name not in left_out and value is not None}


def _report(history: records.History, num_train: int, num_test: int) -> None:
    num_epochs = len(history.seconds)
    print(
        f"{num_epochs} epoch{'s' * (num_epochs > 1)} of training on {num_train} images in {sum(history.seconds):.0f} s; "
        "in nats per image:"
    )
    print(f"{'':28}ELBO = reconstruction -     KL")
    for name, reconstruction, kl in (
        ("training, last epoch", history.train_reconstruction, history.train_kl),
        (f"test, {num_test} images", history.test_reconstruction, history.test_kl),
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


# Several processes.


def _under_torchrun() -> bool:
    return distributed.is_available() and distributed.is_torchelastic_launched()


def _is_first() -> bool:
    return not _under_torchrun() or os.environ["RANK"] == "0"  # a RANK left behind by something else means nothing


def _join(device: torch.device | None) -> torch.device:
    """The device of this process; under torchrun, where each has its own, it joins the others."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {device}, and torch finds no CUDA device here")
    if not _under_torchrun():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


# The options.


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vae_tutorial.train",
        usage="%(prog)s [options]",
        description="Train a convolutional variational autoencoder on images whose pixels are binarized by sampling.",
        epilog="Ctrl-C stops a run; with --checkpoint the same command takes it up again, and the result is that of a run "
        "that never stopped. On N devices: torchrun --nproc-per-node N -m vae_tutorial.train, and the same options.",
    )
    for add in (_add_data, _add_model, _add_training, _add_machine, _add_files):
        add(parser)
    options = parser.parse_args(arguments)
    if options.full and options.data == "mnist":
        parser.error("--full is for Fashion-MNIST: MNIST is always the full set")
    if options.kl_warmup and options.beta != 1:
        parser.error("--kl-warmup ends at a beta of 1: give one of --beta and --kl-warmup")
    if options.folder is not None and not (options.full or options.data == "mnist"):
        parser.error("--folder is for full sets, and Fashion-MNIST's small one comes with the package: add --full")
    return options


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("--data", choices=("fashion_mnist", "mnist"), default="fashion_mnist", help="the images (%(default)s)")
    add(
        "--full",
        action="store_true",
        help="all 60,000 images of Fashion-MNIST, not the 6,000 that come with the package",
    )
    add("--folder", metavar="DIR", help="where to look first for a full set; what is found nowhere is downloaded")
    add("--limit", type=_whole(1), metavar="N", help="use only the first N training and the first N test images")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--latents", type=_whole(1), default=32, metavar="J", help="dimensions of the latent (%(default)s)")
    add("--channels", type=_whole(1), default=64, metavar="C", help="channels of the convolutions (%(default)s)")
    add("--blocks", type=_whole(0), default=2, metavar="N", help="residual blocks on each side (%(default)s)")
    add(
        "--hidden", type=_whole(1), metavar="N", help="width of a hidden layer between grid and latents (no such layer)"
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=_whole(1), default=20, metavar="N", help="passes over the data (%(default)s)")
    add("--batch-size", type=_whole(1), default=128, metavar="B", help="of all devices together (%(default)s)")
    add("--learning-rate", type=float, default=2e-3, metavar="X", help="at its highest (%(default)s)")
    add("--schedule", choices=SCHEDULES, default="warmup_cosine", help="of the learning rate (%(default)s)")
    add("--weight-decay", type=float, default=0.0, metavar="X", help="of AdamW (%(default)s)")
    add("--ema-decay", type=float, metavar="X", help="average the weights with this decay, such as 0.999 (no average)")
    add("--beta", type=float, default=1.0, metavar="X", help="weight of the KL; 1 makes it the ELBO (%(default)s)")
    add(
        "--kl-warmup", action="store_true", help="let the KL's weight rise from 0 to 1 over the first 10 %% of training"
    )
    add("--patience", type=_whole(1), metavar="N", help="stop after N epochs without a better test ELBO (never)")
    add("--seed", type=int, default=0, metavar="N", help="of the weights, the order and all noise (%(default)s)")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("machine").add_argument
    add("--device", type=_device, metavar="D", help="cpu, cuda, cuda:1, mps ... (cuda where there is one, else cpu)")
    add("--precision", choices=PRECISIONS, default="float32", help="of the networks' arithmetic (%(default)s)")
    add(
        "--compile",
        nargs="?",
        const="default",
        choices=COMPILE_MODES,
        help="compile the networks, in a mode of torch.compile",
    )
    add("--threads", type=_whole(1), metavar="N", help="of torch on a CPU (what torch chooses)")


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files").add_argument
    add(
        "--checkpoint",
        metavar="FILE",
        help="written after every epoch, and gone on from where it exists; the best weights stand beside it",
    )
    add("--output", metavar="FILE", help="record of the finished run, for vae_tutorial.records.load_model")
    add("--quiet", action="store_true", help="show no progress bar")


def _whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return number

    return read


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error


if __name__ == "__main__":
    sys.exit(main())
