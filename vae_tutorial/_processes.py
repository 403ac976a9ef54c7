"""Several processes that train one model together: what they share, and what becomes of the rest if one ends.

It needs no other module of the package.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, distributed


class Processes(NamedTuple):
    """How many train together, and which of them this one is."""

    number: int
    this: int

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and shows a progress bar."""
        return self.this == 0

    def share(self, values: Tensor, axis: int = 0) -> Tensor:
        """The part of a joint batch that is this process's."""
        return values if self.number == 1 else values.chunk(self.number, axis)[self.this]

    def average(self, values: Tensor) -> Tensor:
        """The mean over the processes, in place: the same bits in each of them."""
        if self.number > 1:
            distributed.all_reduce(values.div_(self.number))
        return values

    def wait(self) -> None:
        """Until all are here."""
        if self.number > 1:
            distributed.barrier()

    def agree(self, mine: dict[str, Any], error: Exception | None) -> None:
        """Raise in all processes what one of them has to refuse, and refuse different runs.

        Else the others would wait without end for the one that refused.
        """
        if self.number == 1:
            if error is not None:
                raise error
            return
        told: list[Any] = [None] * self.number
        distributed.all_gather_object(told, (mine, None if error is None else str(error)))
        if error is not None:
            raise error
        for other, (_, refusal) in enumerate(told):
            if refusal is not None:
                raise ValueError(f"process {other} of {self.number} refused: {refusal}")
        different = [
            f"{key}: {[theirs.get(key) for theirs, _ in told]}"
            for key in mine
            if len({str(t[key]) for t, _ in told}) > 1
        ]
        if different:
            raise ValueError(f"the processes were asked for different runs ({'; '.join(different)})")


def processes() -> Processes:
    """Those that :mod:`torch.distributed` joined; one where it did not."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes(1, 0)
    return Processes(distributed.get_world_size(), distributed.get_rank())


@contextlib.contextmanager
def lost_process_named() -> Iterator[None]:
    """Say that another process is gone where the communication with it fails."""
    try:
        yield
    except RuntimeError as error:
        number, this = processes()
        about = str(error).lower()
        failed = isinstance(error, distributed.DistError) or any(
            word in about for word in ("gloo", "nccl", "connection")
        )
        if number == 1 or not failed:
            raise
        told = str(error).partition("\n")[0]
        raise ConnectionError(
            f"process {this} of {number} lost another: it has ended, or did not answer in time ({told}). What the last "
            "checkpoint holds is whole: start all of them again"
        ) from error
