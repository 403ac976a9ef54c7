"""The table of chapter 15: one network for Fashion-MNIST, trained with N(0, I) and with a VampPrior.

    python tools/record_priors.py                    all of it, from where it stopped: about five minutes on one core
    python tools/record_priors.py --epochs 300 --samples 5000 --test 10000    nearer to the published protocol: hours
    python tools/record_priors.py --tiny --folder X  the same code on a few of the package's own images, in seconds

The sizes are those of the table of Norouzi, Fleet and Norouzi (2020): two hidden layers of 300 units on either side, 40
latents, 500 pseudo-inputs, 50,000 training images whose bits are drawn anew in each epoch, test bits drawn once. The
training is far shorter, and the same for both priors. What is left is one small file with the log-likelihood of each test
image. It is copied from the folder to book/results by hand.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial import data, evaluation, models, priors, records, training

NUM_LATENTS, NUM_HIDDEN, NUM_TRAIN = 40, 300, 50_000
FULL = {"num_epochs": 6, "num_test": 1000, "num_samples": 200, "batch_size": 100, "num_components": 500}
TINY = {"num_epochs": 1, "num_test": 20, "num_samples": 10, "batch_size": 20, "num_components": 5}
KEYS = {"log_likelihood", "elbo", "kl", "seconds", "size"}


def made(prior: priors.Prior) -> models.VAE:
    """Two hidden layers on either side, with weights from the seed 0."""
    torch.manual_seed(0)

    def layers(num_inputs: int, num_outputs: int) -> nn.Sequential:
        hidden = [nn.Linear(num_inputs, NUM_HIDDEN), nn.SiLU(), nn.Linear(NUM_HIDDEN, NUM_HIDDEN), nn.SiLU()]
        return nn.Sequential(*hidden, nn.Linear(NUM_HIDDEN, num_outputs))

    return models.VAE(layers(784, 2 * NUM_LATENTS), layers(NUM_LATENTS, 784), (784,), prior=prior)


def candidates(x: Tensor, size: dict[str, int]) -> dict[str, priors.Prior]:
    """The two priors; the pseudo-inputs start at the first training images, their bits drawn once."""
    torch.manual_seed(1)
    start = data.binarize(x[: size["num_components"]], generator=torch.Generator().manual_seed(3))
    vamp = priors.VampPrior(NUM_LATENTS, size["num_components"], (784,)).start_at(start)
    return {"N(0, I)": priors.StandardNormal(NUM_LATENTS), "VampPrior": vamp}


def run(prior: priors.Prior, x: Tensor, x_test: Tensor, size: dict[str, int], checkpoint: Path) -> dict[str, Any]:
    """Train with one prior; then the bounds of each test image, its KL, and the seconds of training."""
    vae = made(prior)
    history = training.fit(
        vae,
        x,
        num_epochs=size["num_epochs"],
        preprocess=data.binarize,
        optimization=training.Optimization(size["batch_size"], learning_rate=1e-3, schedule=training.warmup_cosine),
        execution=training.Execution(checkpoint=checkpoint),
    )
    noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    log_p = evaluation.log_likelihood(vae, x_test, num_samples=size["num_samples"], generator=noise[0])
    with torch.no_grad():
        terms = vae.elbo_terms(x_test, num_samples=20, generator=noise[1])
    elbo = terms.reconstruction - terms.kl
    return {"log_likelihood": log_p, "elbo": elbo, "kl": terms.kl, "seconds": sum(history.seconds), "size": size}


def recorded(
    prior: priors.Prior, x: Tensor, x_test: Tensor, size: dict[str, int], folder: Path, number: int
) -> dict[str, Any]:
    """The run's own file, if it holds the same sizes; else the run."""
    path = folder / f"priors_{number}.pt"
    if path.exists() and (done := records.read(path, KEYS))["size"] == size:
        return done
    result = run(prior, x, x_test, size, folder / f"priors_{number}_{size['num_epochs']}.ckpt")
    records.write(path, result)
    return result


def sizes(options: argparse.Namespace) -> dict[str, int]:
    given = {"num_epochs": options.epochs, "num_samples": options.samples, "num_test": options.test}
    return {**(TINY if options.tiny else FULL), **{name: value for name, value in given.items() if value}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("priors_record"), help="where the files go (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="few images of the package's own, an epoch, K = 10")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--samples", type=int, help="K of the log-likelihood")
    parser.add_argument("--test", type=int, help="test images, from the first")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    size, full = sizes(options), not options.tiny
    x = data.fashion_mnist("train", full=full).images.flatten(1)[: 200 if options.tiny else NUM_TRAIN]
    bits = data.binarize(data.fashion_mnist("test", full=full).images, generator=torch.Generator().manual_seed(0))
    x_test, runs = bits.flatten(1)[: size["num_test"]].float(), {}
    for number, (name, prior) in enumerate(candidates(x, size).items()):
        told = recorded(prior, x, x_test, size, options.folder, number)
        runs[name] = {key: value for key, value in told.items() if key != "size"}
        line = f"-ELBO {-told['elbo'].mean():.2f}   -log p(x) {-told['log_likelihood'].mean():.2f}"
        print(f"{name:10} {line}", flush=True)
    facts = {**records.facts(torch.device("cpu")), **size, "num_train": len(x)}
    records.write(options.folder / "priors.pt", {"runs": runs, "facts": facts})


if __name__ == "__main__":
    main()
