"""Images per second of `training.fit` beside a plain loop on the same model, in one run.

The plain loop is what one would write by hand for speed: the images in memory as bytes, a batch by its index, fused
Adam, no history, no bar, no check, nothing read back from the tensors. Both draw a fresh binarization of every batch.

The two take turns, an epoch each, in the order A B B A, so that whatever else the machine does meets both. The result
is the median over the turns; the target is that `fit` reaches at least 0.95 of the plain loop. Wall time counts what
other programs take from the processor, CPU time does not: on a busy machine the second ratio is the steadier one.

    python benchmarks/fit_speed.py [number of pairs, 8 by default]
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vae_tutorial import data, models, training

BATCH_SIZE = 128
TARGET = 0.95


def plain_epoch(model: models.VAE, x: Tensor) -> None:
    """One epoch by hand. Like `fit`, it builds its optimizer and its generator itself."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    model.train()
    num_steps = len(x) // BATCH_SIZE
    for index in torch.randperm(len(x), generator=generator)[: num_steps * BATCH_SIZE].split(BATCH_SIZE):
        batch = data.binarize(x[index], generator=generator).float()
        loss = -model.elbo(batch, generator=generator).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def fit_epoch(model: models.VAE, x: Tensor) -> None:
    """The same epoch by the package."""
    training.fit(model, x, num_epochs=1, batch_size=BATCH_SIZE, preprocess=data.binarize, progress=False)


def seconds(epoch: Callable[[models.VAE, Tensor], None], model: models.VAE, x: Tensor) -> tuple[float, float]:
    """Wall time and CPU time of one epoch."""
    wall, cpu = time.perf_counter(), time.process_time()
    epoch(model, x)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    num_pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    x = data.fashion_mnist().images
    num_images = len(x) // BATCH_SIZE * BATCH_SIZE
    loops = {"fit": fit_epoch, "plain": plain_epoch}
    networks, times = {}, {name: [] for name in loops}
    for name, epoch in loops.items():
        torch.manual_seed(0)
        networks[name] = models.ConvVAE()
        epoch(networks[name], x[:1280])  # warm up
    for pair in range(num_pairs):
        for name in list(loops)[:: 1 if pair % 2 == 0 else -1]:
            times[name].append(seconds(loops[name], networks[name], x))
    print(f"ConvVAE, {num_images} images an epoch in batches of {BATCH_SIZE}, {num_pairs} epochs each,")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for i, clock in enumerate(("wall", "CPU")):
        rates = {name: [num_images / t[i] for t in turns] for name, turns in times.items()}
        medians = {name: statistics.median(values) for name, values in rates.items()}
        paired = [a / b for a, b in zip(rates["fit"], rates["plain"], strict=True)]
        print(
            f"{clock:>4} time: fit {medians['fit']:6.0f} images/s, plain loop {medians['plain']:6.0f} images/s, "
            f"ratio of medians {medians['fit'] / medians['plain']:.3f} (target {TARGET}), "
            f"median of the pairs' ratios {statistics.median(paired):.3f}"
        )


if __name__ == "__main__":
    main()
