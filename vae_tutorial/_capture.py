"""A whole training step as one CUDA graph: recorded once, then launched as one, without Python between the kernels."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before the recording: they allocate what it must find, such as Adam's moments


class CapturedStep:
    """A step that is recorded when it has been taken a few times, and replayed from then on.

    A replay repeats the kernels on the same memory. What changes from step to step, the batch's index, the learning rate
    and the weight of the objective's second term, is therefore copied into tensors that stay, and the generator is
    registered with the graph, which moves it on at each replay. The first steps are ordinary ones, on a
    stream of their own as a recording needs it; the recording itself computes nothing and is replayed at once.

    Args:
        step: function of the index (B,), the rate () and the weight () that does the whole step, and returns its terms (2,).
        generator: behind all noise of the step.
        batch_size: B, the data points in a batch.
    """

    def __init__(
        self, step: Callable[[Tensor, Tensor, Tensor], Tensor], generator: torch.Generator, batch_size: int
    ) -> None:
        self.step, self.generator, self.num_taken = step, generator, 0
        self.index = torch.zeros(batch_size, dtype=torch.long, device=generator.device)
        self.rate, self.weight = torch.zeros(2, device=generator.device).unbind()
        self.stream = torch.cuda.Stream(generator.device)

    def __call__(self, index: Tensor, rate: float, weight: float) -> Tensor:
        """Take one step; the terms are overwritten by the next."""
        self.index.copy_(index)
        self.rate.fill_(rate)
        self.weight.fill_(weight)
        self.num_taken += 1
        if self.num_taken <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                terms = self.step(self.index, self.rate, self.weight)
            torch.cuda.current_stream().wait_stream(self.stream)
            return terms
        if self.num_taken == WARM_UP + 1:
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            try:
                with torch.cuda.graph(self.graph):
                    self.terms = self.step(self.index, self.rate, self.weight)
            except RuntimeError as error:
                told = str(error).partition("\n")[0]
                raise RuntimeError(
                    f"the step cannot be recorded as a CUDA graph ({told}): perhaps preprocess or a network waits "
                    "for the device, as .item() and checks of values do; else train without capture"
                ) from error
        self.graph.replay()
        return self.terms
