"""`training.fit` beside the training loops of two projects as they ship them: PyTorch's VAE example, and pythae's trainer.

Both are run unchanged on MNIST, with the settings that they come with: the example's `train` and `test` for an epoch, the
trainer's `train` for one. `fit` has the same network, batch size and learning rate, the same grey pixels as targets, and
evaluates the test images after the epoch where the other does. An epoch each in turn; the first of each is not counted.

    python benchmarks/beside_others.py --example main.py     vae/main.py of github.com/pytorch/examples; needs torchvision
    python benchmarks/beside_others.py --pythae              needs pythae (0.1.2 was tried)

With grey pixels a Bernoulli model warns, rightly: it is what both projects do. The project needs neither. MNIST comes from
where `data.mnist` finds it, and the example reads it from `../data`.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial import data, models, priors, training

SHAPE = (1, 28, 28)
EXECUTION = training.Execution(progress=False, precision=torch.bfloat16 if "--bfloat16" in sys.argv else torch.float32)
TARGETS = {"example": 3.4, "pythae": 2.0}
Epoch = Callable[[], object]


def grey(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Bytes as numbers in [0, 1]; nothing is drawn."""
    return batch.float() / 255


def fitted(num_hidden: int, num_latents: int, x: Tensor, x_test: Tensor | None, **settings: Any) -> Epoch:
    """One more epoch of `fit` at each call, of a network with one hidden layer on either side."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, num_hidden), nn.ReLU(), nn.Linear(num_hidden, 2 * num_latents))
    decoder = nn.Sequential(
        nn.Linear(num_latents, num_hidden), nn.ReLU(), nn.Linear(num_hidden, 784), nn.Unflatten(1, SHAPE)
    )
    model = models.VAE(encoder, decoder, SHAPE, prior=priors.StandardNormal(num_latents))
    optimization = training.Optimization(**settings)
    return lambda: training.fit(
        model, x, x_test=x_test, num_epochs=1, preprocess=grey, optimization=optimization, execution=EXECUTION
    )


def example(path: Path, x: Tensor, x_test: Tensor) -> tuple[Epoch, Epoch]:
    """An epoch of training and testing by PyTorch's example, and ours."""
    sys.argv = [str(path)]
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    os.chdir(path.parent)  # it reads ../data and writes into results
    Path("results").mkdir(exist_ok=True)
    spec.loader.exec_module(module)
    if (len(module.train_loader.dataset), len(module.test_loader.dataset)) != (len(x), len(x_test)):
        raise SystemExit("the example has other images than data.mnist: both need the whole of MNIST")
    return lambda: (module.train(1), module.test(1)), fitted(
        400, 20, x, x_test.float() / 255, batch_size=module.args.batch_size, learning_rate=1e-3
    )


def pythae(x: Tensor) -> tuple[Epoch, Epoch]:
    """An epoch of pythae's trainer on its own fully connected VAE, and ours; neither evaluates test images."""
    parts = [importlib.import_module(f"pythae.{name}") for name in ("data.datasets", "models", "trainers")]
    datasets, made, trainers = parts  # imported here: a name that the project does not require
    num_latents = 16
    model = made.VAE(made.VAEConfig(input_dim=SHAPE, latent_dim=num_latents, reconstruction_loss="bce"))
    config = trainers.BaseTrainerConfig(output_dir=tempfile.mkdtemp(), num_epochs=1, no_cuda=True)
    trainer = trainers.BaseTrainer(
        model, datasets.BaseDataset(x.float() / 255, torch.zeros(len(x))), training_config=config
    )
    settings = {"batch_size": config.per_device_train_batch_size, "learning_rate": config.learning_rate}
    return trainer.train, fitted(512, num_latents, x, None, **settings)


def seconds(epoch: Epoch) -> tuple[float, float]:
    """Wall time and CPU time of one epoch, whose printing goes nowhere."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        wall, cpu = time.perf_counter(), time.process_time()
        epoch()
        return time.perf_counter() - wall, time.process_time() - cpu


def compare(name: str, theirs: Epoch, ours: Epoch, num_rounds: int) -> float:
    """Print the seconds of both and the median of the paired ratios, which is returned."""
    seconds(theirs), seconds(ours)
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(num_rounds)]
    for i, clock in enumerate(("wall", "CPU")):
        other, own = (statistics.median(pair[side][i] for pair in pairs) for side in range(2))
        ratio = statistics.median(a[i] / b[i] for a, b in pairs)
        print(f"{name}, {clock}: {other:.2f} s an epoch, fit {own:.2f} s, {ratio:.2f} times (target {TARGETS[name]})")
    return statistics.median(a[0] / b[0] for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=Path, metavar="PATH", help="main.py of PyTorch's VAE example")
    parser.add_argument("--pythae", action="store_true", help="pythae's trainer")
    parser.add_argument("--bfloat16", action="store_true", help="let fit multiply in bfloat16; the others do not")
    parser.add_argument("--rounds", type=int, default=5, help="epochs that are counted (%(default)s)")
    options = parser.parse_args()
    x, x_test = data.mnist("train").images, data.mnist("test").images
    print(f"{len(x)} images, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.example:
        compare("example", *example(options.example.resolve(), x, x_test), options.rounds)
    if options.pythae:
        compare("pythae", *pythae(x), options.rounds)


if __name__ == "__main__":
    main()
