"""Images per second of `training.fit` beside two loops on the same model, in one run.

The *tight* loop is what one would write by hand for speed: the images in memory as bytes, a batch by its index, fused
Adam, no history, no bar, no check, nothing read back from the tensors. Like `fit` it draws a fresh binarization of every
batch. `fit` is to reach at least 0.97 of it.

The *tutorial* loop is what most tutorials on VAEs show: a data set that turns one image at a time from bytes into a
float tensor and binarizes it, a `DataLoader` that collects them, a sigmoid and the cross-entropy of probabilities, Adam
as it comes, and `loss.item()` in every step. Torchvision would make an image object of every array first; without it
the loop is a little faster than those it stands for. `fit` is to be at least 1.5 times as fast, on two cores.

Two models, because the answer depends on how much the networks themselves take: the fully connected VAE of most
tutorials, and this book's convolutional one. The three loops take turns, an epoch each, forwards and then backwards, so
that whatever else the machine does meets all. The result is the median over the turns. Wall time counts what other
programs take from the processor, CPU time does not: on a busy machine the ratio of the second is the steadier one.

    python benchmarks/fit_speed.py [number of rounds, 8 by default] [images an epoch, 6000 by default]
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vae_tutorial import data, models, training

BATCH_SIZE = 128
NETWORKS = {
    "MLP": lambda: models.mlp_vae((1, 28, 28), num_latents=20, num_hidden=400),
    "convolutional": models.conv_vae,
}
TARGETS = {"tight": 0.97, "tutorial": 1.5}


def fit_epoch(model: models.VAE, x: Tensor) -> None:
    """One epoch by the package."""
    steps, quiet = training.Optimization(batch_size=BATCH_SIZE), training.Execution(progress=False)
    training.fit(model, x, num_epochs=1, preprocess=data.binarize, optimization=steps, execution=quiet)


def tight_epoch(model: models.VAE, x: Tensor) -> None:
    """The same epoch by hand. Like `fit`, it builds its optimizer and its generator itself."""
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


def to_tensor(array: np.ndarray) -> Tensor:
    """(H, W, C) bytes to (C, H, W) floats in [0, 1], in the steps of torchvision's transform of this name."""
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255)


class OneByOne(Dataset):
    """The images one at a time, each through its transforms, as torchvision's data sets hand them out."""

    transforms = (to_tensor, torch.bernoulli)

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> tuple[Tensor, int]:
        item = np.array(self.images[n, 0].numpy())[..., None]  # (28, 28, 1), a copy, as from an image object
        for transform in self.transforms:
            item = transform(item)
        return item, 0  # and a label, which nobody reads


def tutorial_epoch(model: models.VAE, x: Tensor) -> None:
    """An epoch as tutorials write it."""
    loader = DataLoader(OneByOne(x), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    total = 0.0
    for batch, _ in loader:
        optimizer.zero_grad()
        mu, log_var = model.encode(batch)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        x_hat = torch.sigmoid(model.decode(z))
        bce = torch.nn.functional.binary_cross_entropy(x_hat, batch, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
        loss = (bce + kl) / len(batch)
        loss.backward()
        optimizer.step()
        total += loss.item()


LOOPS = {"fit": fit_epoch, "tight": tight_epoch, "tutorial": tutorial_epoch}


def seconds(epoch: Callable[[models.VAE, Tensor], None], model: models.VAE, x: Tensor) -> tuple[float, float]:
    """Wall time and CPU time of one epoch."""
    wall, cpu = time.perf_counter(), time.process_time()
    epoch(model, x)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(network: str, x: Tensor, num_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The three loops in turns: for each, wall and CPU seconds of every epoch."""
    trained, times = {}, {name: [] for name in LOOPS}
    for name, epoch in LOOPS.items():
        torch.manual_seed(0)
        trained[name] = NETWORKS[network]()
        epoch(trained[name], x[: 10 * BATCH_SIZE])  # warm up
    for turn in range(num_rounds):
        for name in list(LOOPS)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(LOOPS[name], trained[name], x))
    return times


def main(num_rounds: int = 8, num_images: int = 6000) -> None:
    """Print the rates of the three loops and their ratios, for both networks."""
    x = data.fashion_mnist().images[:num_images]
    num_images = len(x) // BATCH_SIZE * BATCH_SIZE
    print(f"{num_images} images an epoch in batches of {BATCH_SIZE}, {num_rounds} epochs each,")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for network in NETWORKS:
        times = compare(network, x, num_rounds)
        for i, clock in enumerate(("wall", "CPU")):
            rates = {name: [num_images / turn[i] for turn in turns] for name, turns in times.items()}
            medians = {name: f"{name} {statistics.median(values):.0f}" for name, values in rates.items()}
            print(f"{network}, {clock} time, images per second: {', '.join(medians.values())}")
            for name, target in TARGETS.items():
                paired = statistics.median(a / b for a, b in zip(rates["fit"], rates[name], strict=True))
                print(f"    fit / {name:8} {paired:6.3f} (median over the rounds; target at least {target})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
