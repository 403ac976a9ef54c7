"""The table of chapter 14: one network for MNIST, trained on bounds with 1, 5 and 50 samples, and with another gradient.

    python tools/record_bounds.py                    all of it, from where it stopped: most of an hour on a CPU
    python tools/record_bounds.py --tiny --folder X  the same code on a few of the package's own images, in seconds

The network and the data are those of Burda, Grosse and Salakhutdinov (2016), one layer of 50 latents. The training is far
shorter than theirs: the same number of epochs for every objective, from the same weights, on the same order of the images.
Test bits are drawn once. What is left is one small file, with the log-likelihood of each test image by K = 5,000 samples.
It is copied from the folder to book/results by hand.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial import data, evaluation, models, objectives, priors, records, training

SHAPE, NUM_LATENTS, NUM_HIDDEN = (1, 28, 28), 50, 200
OBJECTIVES = {
    "K = 1": objectives.elbo(),
    "K = 5": objectives.iwae(5),
    "K = 50": objectives.iwae(50),
    "K = 50, DReG": objectives.dreg(50),
}
FULL = {"num_epochs": 15, "num_test": 1000, "num_samples": 5000, "batch_size": 100}
TINY = {"num_epochs": 1, "num_test": 20, "num_samples": 10, "batch_size": 20}


def made() -> models.VAE:
    """Two layers of tanh units on either side, with weights from the seed 0."""
    torch.manual_seed(0)

    def layers(num_inputs: int, num_outputs: int) -> list[nn.Module]:
        hidden = [nn.Linear(num_inputs, NUM_HIDDEN), nn.Tanh(), nn.Linear(NUM_HIDDEN, NUM_HIDDEN), nn.Tanh()]
        return [*hidden, nn.Linear(NUM_HIDDEN, num_outputs)]

    encoder = nn.Sequential(nn.Flatten(), *layers(784, 2 * NUM_LATENTS))
    decoder = nn.Sequential(*layers(NUM_LATENTS, 784), nn.Unflatten(1, SHAPE))
    return models.VAE(encoder, decoder, SHAPE, prior=priors.StandardNormal(NUM_LATENTS))


def run(
    objective: objectives.Objective, x: Tensor, x_test: Tensor, size: dict[str, int], checkpoint: Path
) -> dict[str, Any]:
    """Train on one objective; then two numbers for each test image, -ELBO and -log p(x), and the seconds."""
    vae = made()
    optimization = training.Optimization(
        batch_size=size["batch_size"], learning_rate=3e-3, schedule=training.warmup_cosine
    )
    history = training.fit(
        vae,
        x,
        num_epochs=size["num_epochs"],
        objective=objective,
        preprocess=data.binarize,
        optimization=optimization,
        execution=training.Execution(checkpoint=checkpoint, precision=torch.bfloat16),
    )
    noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    log_p = evaluation.log_likelihood(vae, x_test, num_samples=size["num_samples"], generator=noise[0])
    with torch.no_grad():
        elbo = vae.elbo(x_test.float(), num_samples=100, generator=noise[1])
    return {"elbo": elbo, "log_likelihood": log_p, "seconds": sum(history.seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("protocol_record"), help="where the files go (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="few images of the package's own, an epoch, K = 10")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    size, load = (TINY, data.fashion_mnist) if options.tiny else (FULL, data.mnist)
    x = load("train").images[: 200 if options.tiny else None]
    x_test = data.binarize(load("test").images, generator=torch.Generator().manual_seed(0))[: size["num_test"]]
    runs = {}
    for number, (name, objective) in enumerate(OBJECTIVES.items()):
        runs[name] = run(objective, x, x_test, size, options.folder / f"tighter_bounds_{number}.ckpt")
        told = runs[name]
        print(
            f"{name:14} -ELBO {-told['elbo'].mean():.2f}   -log p(x) {-told['log_likelihood'].mean():.2f}", flush=True
        )
    facts = {**records.facts(torch.device("cpu")), **size, "num_train": len(x)}
    records.write(options.folder / "tighter_bounds.pt", {"runs": runs, "facts": facts})


if __name__ == "__main__":
    main()
