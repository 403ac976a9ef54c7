"""What a device can do, and what is kept of its random numbers: for the training loop and the evaluations."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial.models import ElboTerms
from vae_tutorial.objectives import Objective


def place(x: Tensor, device: torch.device) -> Tensor:
    """Data on a device: as they are, but for double precision, which MPS does not have."""
    return (x.float() if device.type == "mps" and x.dtype == torch.float64 else x).to(device)


def in_precision(objective: Objective, precision: torch.dtype, compile: bool | str = False) -> Objective:
    """The same objective, its networks computing in another precision, and perhaps compiled."""
    if precision == torch.float32 and not compile:
        return objective

    def terms(model: Any, x: Tensor, eps: Tensor) -> ElboTerms:
        if compile:
            torch.compiler.cudagraph_mark_step_begin()  # captured graphs may overwrite the last step's tensors
        with torch.autocast(x.device.type, dtype=precision, enabled=precision != torch.float32):
            return objective.terms(model, x, eps)

    return dataclasses.replace(objective, terms=terms)


@contextlib.contextmanager
def compiled(model: nn.Module, compile: bool | str) -> Iterator[None]:
    """Compile a model's networks for the time of a run, and no longer.

    Afterwards they answer as before. In the mode "reduce-overhead" a compiled network returns memory that its next call
    overwrites: harmless in a loop that knows it, but not for whoever calls ``encode`` twice.
    """
    networks = list(model.children()) if compile else []
    before = [network._compiled_call_impl for network in networks]
    try:
        for network in networks:
            network.compile(mode=compile if isinstance(compile, str) else None)
        yield
    finally:
        for network, call in zip(networks, before, strict=True):
            network._compiled_call_impl = call  # torch has no public way back


def global_noise(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that nobody passes, such as dropout's: the CPU's and the device's."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_global_noise(device: torch.device, states: dict[str, Tensor]) -> None:
    """Put the global generators back where :func:`global_noise` found them, as far as this device has them."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type])
