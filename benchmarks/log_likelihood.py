"""The importance-weighted log-likelihood with K = 5,000: `evaluation.log_likelihood` beside two loops, in one run.

The loops *re-encode per sample*, as one writes it first: encode, draw one z, decode, K times over. One takes the images
singly, the other takes them all as one batch. Both keep the K log-weights and combine them at the end. `log_likelihood`
encodes once for each chunk of 50 samples, which costs a fiftieth of an encoding for each decoding, and decodes a whole
chunk at once; it is to be at least 7 times as fast as the first loop. Against the second the most that is to be had is
the share of the encoder, a factor near 2, plus what a larger batch gains.

Peak memory is measured in fresh processes, one for each K: with chunks it must not grow with K. Beside it stands the
same function with all samples in one chunk, which does grow.

    python benchmarks/log_likelihood.py [number of images, 4 by default] [K, 5000 by default]
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vae_tutorial import bounds, data, evaluation, models

TARGET = 7.0
CHUNK = 50


def setting(num_images: int) -> tuple[models.VAE, Tensor]:
    """The network of the recorded run, untrained: the arithmetic is the same."""
    torch.manual_seed(0)
    vae = models.conv_vae(num_latents=32, num_channels=64, num_blocks=3).eval()
    images = data.fashion_mnist("test").images[:num_images]
    return vae, data.binarize(images, generator=torch.Generator().manual_seed(0)).float()


def library(vae: models.VAE, x: Tensor, num_samples: int) -> Tensor:
    """The function of the package."""
    return evaluation.log_likelihood(vae, x, num_samples=num_samples, chunk_size=CHUNK)


@torch.no_grad()
def batch_loop(vae: models.VAE, x: Tensor, num_samples: int) -> Tensor:
    """All images at once, one sample at a time."""
    return bounds.iwae(torch.cat([vae.log_weights(x, 1) for _ in range(num_samples)]))


@torch.no_grad()
def image_loop(vae: models.VAE, x: Tensor, num_samples: int) -> Tensor:
    """One image at a time, one sample at a time."""
    return torch.cat([batch_loop(vae, image, num_samples) for image in x.split(1)])


def seconds(function: Callable[..., Tensor], *arguments: object) -> tuple[float, float, Tensor]:
    """Wall time, CPU time and the result of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu, result


def peak(num_samples: int, chunk_size: int) -> int:
    """Peak memory of this process in MiB after one call."""
    vae, x = setting(4)
    evaluation.log_likelihood(vae, x, num_samples=num_samples, chunk_size=chunk_size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def peak_elsewhere(num_samples: int, chunk_size: int) -> str:
    """The same in a fresh process, so that no call sees the memory of another."""
    command = [sys.executable, __file__, "--peak", str(num_samples), str(chunk_size)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(num_images: int = 4, num_samples: int = 5000) -> None:
    """Print the times, the ratios and the peaks."""
    vae, x = setting(num_images)
    print(f"{num_images} images, K = {num_samples}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    loops = {"library": library, "image by image": image_loop, "as a batch": batch_loop}
    for loop in loops.values():
        loop(vae, x, CHUNK)  # warm up
    times = {name: seconds(loop, vae, x, num_samples) for name, loop in loops.items()}
    for name, (wall, cpu, estimate) in times.items():
        row = f"{name:15} {wall:7.1f} s wall, {cpu:7.1f} s CPU, mean estimate {estimate.mean():.2f}"
        print(
            f"{row}, library faster by {wall / times['library'][0]:.2f} (wall), {cpu / times['library'][1]:.2f} (CPU)"
        )
    print(f"target: at least {TARGET} against the loop that goes image by image")
    for chunk, name in ((CHUNK, f"chunks of {CHUNK}"), (None, "one chunk")):
        peaks = [f"K = {k}: {peak_elsewhere(k, chunk or k)} MiB" for k in (50, num_samples // 10, num_samples)]
        print(f"peak memory of the process, {name}: {', '.join(peaks)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(peak(int(sys.argv[2]), int(sys.argv[3])))
    else:
        main(*map(int, sys.argv[1:]))
