"""The checkpoint of a run: all that changes while it goes on, and what the run is, so that no other goes on from it."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial import _device, records
from vae_tutorial.records import History

KEYS = {"weights", "average", "best", "optimizer", "generator", "global", "device", "history", "identity", "num_epochs"}


@dataclass
class State:
    """All that changes while a run goes on."""

    model: nn.Module
    average: nn.Module | None  # the model with averaged weights, where weights are averaged
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: History
    best: dict[str, Tensor] | None = None  # the best weights so far, where a run may end with them
    stamp: tuple[int, int] | None = None  # of the file as this run left it

    @property
    def num_done(self) -> int:
        """Epochs done."""
        return len(self.history.seconds)

    @property
    def evaluated(self) -> Any:
        """The model that counts: the averaged one, where weights are averaged."""
        return self.model if self.average is None else self.average

    @torch.no_grad()
    def update_average(self, ema_decay: float, n: int) -> None:
        """The moving average after step n, counted from 0.

        Its decay is at most (1 + n) / (10 + n): young averages forget. The first step's weights start it.
        """
        if self.average is None:
            return
        weight = 1 - min(ema_decay, (1 + n) / (10 + n)) if n else 1.0
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), weight)
        for averaged, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            averaged.copy_(current)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights that decay, and those that do not: to pull a bias or a noise variance towards 0 is no regularisation."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def save(path: Path, state: State, identity: dict[str, Any], num_epochs: int) -> None:
    """Write the checkpoint, whole or not at all.

    Raises:
        OSError: if it cannot be written, or another run has written there in the meantime.
    """
    device = state.generator.device
    if _stamp(path) != state.stamp:
        raise OSError(f"{path} was written by another run meanwhile: give each run a checkpoint of its own")
    content = {
        "weights": state.model.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "best": state.best,
        "optimizer": state.optimizer.state_dict()["state"],
        "generator": state.generator.get_state(),
        "global": _device.global_noise(device),
        "device": device.type,
        "history": state.history._asdict(),
        "identity": identity,
        "num_epochs": num_epochs,
    }
    records.write(path, content)
    state.stamp = _stamp(path)


def resume(path: Path, state: State, identity: dict[str, Any], num_epochs: int, seed: int) -> None:
    """Put a run back to where its checkpoint was written; refuse the checkpoint of any other run.

    Raises:
        ValueError: naming what differs, or for a file that is damaged or no checkpoint.
    """
    stamp, content = _stamp(path), records.read(path, KEYS)
    try:
        history = History(**content["history"])
        if different := _differences(content, identity, num_epochs, len(history.seconds)):
            raise _Refused(f"{path} is the checkpoint of another run ({'; '.join(different)}): name another file")
        if content["best"] is not None:
            state.model.load_state_dict(content["best"])  # to see that they fit
        state.model.load_state_dict(content["weights"])
        if state.average is not None:
            state.average.load_state_dict(content["average"])
        settings = state.optimizer.state_dict()["param_groups"]  # of this device: capturable or not
        state.optimizer.load_state_dict({"state": content["optimizer"], "param_groups": settings})
        if not all(_fits(moments, p) for p, moments in state.optimizer.state.items()):
            raise ValueError("Adam's moments do not fit the weights")
        _restore_noise(path, state, content, seed + len(history.seconds))
    except _Refused as refusal:
        raise ValueError(str(refusal)) from None
    except Exception as error:  # right keys with wrong contents may fail in any way
        told = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path} is no checkpoint of this run ({told}): delete it, or name another file") from error
    state.history, state.best, state.stamp = history, content["best"], stamp


def _fits(moments: Any, parameter: Any) -> bool:
    return isinstance(parameter, Tensor) and moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape


class _Refused(Exception):
    """A checkpoint that is whole, and of another run."""


def _stamp(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path: every writing makes a new one."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _differences(content: dict[str, Any], identity: dict[str, Any], num_epochs: int, num_done: int) -> list[str]:
    different = records.differences(content["identity"], identity)
    was = content["num_epochs"]
    weight = identity["objective"]["arguments"]["weight"]
    stretched = identity["schedule"] is not None or isinstance(weight, dict)  # over the epochs, as functions are
    if num_epochs < num_done:
        different.append(f"num_epochs was {was}, is {num_epochs}, and {num_done} are done")
    elif num_epochs != was and stretched:
        different.append(
            f"num_epochs was {was}, is {num_epochs}, and a schedule or a weight is stretched over them: to train a finished "
            f"run further, call fit with num_epochs={was}, which loads its weights, and then fit with another checkpoint"
        )
    return different


def _restore_noise(path: Path, state: State, content: dict[str, Any], seed: int) -> None:
    device = state.generator.device
    _device.set_global_noise(device, content["global"])
    if content["device"] == device.type:
        state.generator.set_state(content["generator"])
        return
    state.generator.manual_seed(seed)
    warnings.warn(
        f"{path} was written on {content['device']!r} and goes on on {device.type!r}, where its random numbers cannot be "
        f"continued: order and noise are drawn anew from the seed {seed}, so the run is not that of one device",
        stacklevel=5,  # fit's caller
    )
