"""What every command does alike: how it ends, on which device it runs, and how it reads its options."""

import argparse
import datetime
import os
import signal
import sys
from collections.abc import Callable

import torch
from torch import distributed

TIMEOUT = datetime.timedelta(minutes=10)  # how long processes wait for one that has stopped


def command(name: str, work: Callable[[], None], how_to_go_on: Callable[[], str]) -> int:
    """Do the work of a command, and end as a command should: with one line for what could not be done, and no traceback.

    Args:
        name: of the command, for the line.
        work: what it does.
        how_to_go_on: what an interrupted command says.

    Returns:
        The exit status: 0 when the work is done, 1 when it could not be, 130 when it was interrupted, 143 when it was told
        to end (SIGTERM).
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        work()
    except (ValueError, OSError, FloatingPointError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        print(f"{name}: error: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        if is_first():
            print(f"\nInterrupted. {how_to_go_on()}", file=sys.stderr)
        return 143 if isinstance(interruption, _ToldToEnd) else 130
    finally:
        signal.signal(signal.SIGTERM, before)
        if under_torchrun() and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


class _ToldToEnd(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they take a machine away: it ends a run as Ctrl-C does."""


def _end(number: int, frame: object) -> None:
    raise _ToldToEnd


# Devices and processes.


def under_torchrun() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def is_first() -> bool:
    """Whether this process is alone, or the first of several: the one that speaks and writes."""
    return not under_torchrun() or os.environ["RANK"] == "0"  # a RANK left behind by something else means nothing


def join(device: torch.device | None) -> torch.device:
    """The device of this process; under torchrun, where each has its own, it joins the others.

    Raises:
        ValueError: for a device that is not there.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {device}, and torch finds no CUDA device here")
    if not under_torchrun():
        _check_there(device)
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def _check_there(device: torch.device) -> None:
    """Refuse a device that holds no numbers here. Raises ValueError."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by the kind of device
        raise ValueError(
            f"--device is {device}, which torch cannot use here ({str(error).partition(chr(10))[0]})"
        ) from None


# Readers of options.


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` on, up to ``most`` where there is one."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            end = "on" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} {end}")
        return number

    return read


seed = whole(0, 2**31 - 1)


def device(text: str) -> torch.device:
    """A reader of devices."""
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error
