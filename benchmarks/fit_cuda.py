"""Images per second of `training.fit` on a GPU: eager, compiled, with captured graphs; float32 and bfloat16.

Every setting is one call of `fit` on the same convolutional VAE and the same images, which stay on the device as bytes.
The first epoch compiles, captures and warms up, and is not counted. The rate is the median over the epochs after it. In
the last epoch torch's profiler notes when the device works: the share of that time outside kernels (and copies) is what
Python and the launches cost, and what compiling and capturing can save.

A *captured graph* is a recorded sequence of kernels that is launched as one: of the networks, in torch.compile's mode
"reduce-overhead", or of the whole step, by `capture`.

    python benchmarks/fit_cuda.py --help
"""

import argparse
import dataclasses
import statistics
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from vae_tutorial import data, models, objectives, training

WAYS = {
    "eager": {},
    "compiled": {"compile": True},
    "captured graphs": {"compile": "reduce-overhead"},
    "captured step": {"capture": True},
    "compiled, captured step": {"compile": True, "capture": True},
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROFILED_STEPS = 40


def share_outside(intervals: Iterable[tuple[float, float]]) -> float:
    """Share of the time from the first start to the last end in which no interval runs; intervals may overlap."""
    ordered = sorted(intervals)
    (start, end), idle = ordered[0], 0.0
    for begin, finish in ordered[1:]:
        idle += max(0.0, begin - end)
        end = max(end, finish)
    return idle / (end - start)


def measure(
    model: models.VAE, x: Tensor, *, device: str, num_epochs: int, batch_size: int, **settings: object
) -> tuple[float, float]:
    """Images per second, and the share of the profiled steps outside kernels; on a CPU, outside torch's operations."""
    num_steps = len(x) // batch_size
    on_gpu = torch.device(device).type == "cuda"
    activity, kind = (ProfilerActivity.CUDA, DeviceType.CUDA) if on_gpu else (ProfilerActivity.CPU, DeviceType.CPU)
    before = 1 + num_epochs * num_steps  # the profiler's start, and the epochs that count
    active = min(PROFILED_STEPS, num_steps - 1)
    with profile(
        activities=[activity], schedule=schedule(wait=before, warmup=1, active=active, repeat=1), acc_events=True
    ) as profiler:

        def weight(done: float) -> float:
            profiler.step()  # asked for at the start of every step, of a captured one too
            return 1.0

        history = training.fit(
            model,
            x,
            num_epochs=num_epochs + 1,
            objective=dataclasses.replace(objectives.elbo(), weight=weight),
            preprocess=data.binarize,
            optimization=training.Optimization(batch_size=batch_size),
            execution=training.Execution(device=device, progress=False, **settings),
        )
    work = [event for event in profiler.events() if event.device_type == kind and not event.is_user_annotation]
    rate = num_steps * batch_size / statistics.median(history.seconds[1:-1])
    return rate, share_outside((event.time_range.start, event.time_range.end) for event in work)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where to train (default: cuda)")
    parser.add_argument("--images", type=int, default=60_000, help="images an epoch, the bundled ones repeated (60000)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs, the first of which is not counted (4)")
    parser.add_argument("--batch-size", type=int, default=128, help="images a step (128)")
    parser.add_argument("--channels", type=int, default=64, help="channels of the network (64)")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks on each side (2)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which to measure (all)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="likewise (all)")
    options = parser.parse_args(arguments)
    if options.epochs < 2 or options.images < 2 * options.batch_size:
        parser.error("at least 2 epochs of at least 2 steps are needed")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Print one line for each way and each precision."""
    options = parse(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("No CUDA device here: nothing measured.")
        return
    bundled = data.fashion_mnist().images
    x = bundled.repeat(-(-options.images // len(bundled)), 1, 1, 1)[: options.images]
    where = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    print(f"{where}, torch {torch.__version__}, float32 products {torch.get_float32_matmul_precision()}")
    print(f"Convolutional VAE, {options.channels} channels, {options.blocks} blocks, batches of {options.batch_size}")
    print(f"{'':35}images/s   of eager float32   outside kernels")
    reference = None
    for precision in options.precisions:
        for way in options.ways:
            torch._dynamo.reset()
            torch.manual_seed(0)
            rate, outside = measure(
                models.conv_vae(num_channels=options.channels, num_blocks=options.blocks),
                x,
                device=options.device,
                num_epochs=options.epochs,
                batch_size=options.batch_size,
                precision=PRECISIONS[precision],
                **WAYS[way],
            )
            reference = reference or rate
            print(f"{way:>23}, {precision:9}{rate:9.0f}{rate / reference:18.2f}{100 * outside:16.0f} %", flush=True)


if __name__ == "__main__":
    main()
