"""Several processes that train one model: what each takes, what all must agree on, and how they end together."""

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vae_tutorial import records

TIMEOUT = datetime.timedelta(minutes=10)  # how long a process waits for the others


@dataclass(frozen=True)
class Processes:
    """How many train together, and which of them this one is."""

    number: int = 1
    this: int = 0
    group: Any = None  # of their own, for the sake of its timeout

    def share(self, values: Tensor, axis: int = 0) -> Tensor:
        """This process's part of what was drawn for the joint batch."""
        return values if self.number == 1 else values.chunk(self.number, axis)[self.this]

    def averaging(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the processes."""
        return module if self.number == 1 else DistributedDataParallel(module, process_group=self.group)

    def mean(self, values: Tensor, device: torch.device) -> Tensor:
        """The mean over the processes of values on the CPU, computed on ``device``: the same bits in each of them."""
        if self.number == 1:
            return values
        total = (values / self.number).to(device)
        distributed.all_reduce(total, group=self.group)
        return total.cpu()

    def wait(self) -> None:
        """Until all are here: nobody reads a file that the first process has not finished."""
        if self.number > 1:
            distributed.barrier(group=self.group)

    @contextlib.contextmanager
    def agreement(self) -> Iterator[dict[str, Any]]:
        """What is prepared inside is refused in all processes if one of them refuses it, or tells other facts.

        Otherwise those that go on would wait for the others without end.
        """
        mine: dict[str, Any] = {}
        if self.number == 1:
            yield mine
            return
        refusal = None
        try:
            yield mine
        except Exception as error:  # whatever it is, the others must hear of it before it ends this process
            refusal = error
        told: list[Any] = [None] * self.number
        spoken = None if refusal is None else f"{type(refusal).__name__}: {refusal}"
        distributed.all_gather_object(told, (mine, spoken), group=self.group)
        if refusal is not None:
            raise refusal
        refused = [f"process {n} of {self.number}: {spoken}" for n, (_, spoken) in enumerate(told) if spoken]
        if refused:
            raise ValueError(f"refused by another process, so by all ({'; '.join(refused)})")
        for n, (theirs, _) in enumerate(told):
            if different := records.differences(told[0][0], theirs):
                raise ValueError(
                    f"process {n} of {self.number} was asked for another run than process 0 ({'; '.join(different)}): start "
                    "all with the same arguments"
                )


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """The processes of :mod:`torch.distributed`, or this one alone.

    When one of them fails, is killed or stops answering, the others end with a message: at once where the connection
    breaks, after :data:`TIMEOUT` where it does not.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        yield Processes()
        return
    group = distributed.new_group(timeout=TIMEOUT)
    processes = Processes(distributed.get_world_size(), distributed.get_rank(), group)
    is_whole = False
    try:
        yield processes
        is_whole = True
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"another of the {processes.number} processes has ended, or has not answered for {TIMEOUT}: see its own "
            f"message, and start all of them again; a checkpoint holds the last finished epoch ({first_line})"
        ) from error
    finally:
        # After an error this closes the connections, which the others notice at once. NCCL might wait for them instead.
        if is_whole or distributed.get_backend(group) == "gloo":
            distributed.destroy_process_group(group)


def _is_about_others(error: RuntimeError) -> bool:
    words = ("gloo", "connection", "nccl", "timed out", "timeout")
    return isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in words)
