"""The runs of chapter 11 by the protocol of published work: trained, chosen, evaluated, recorded.

    python tools/record_protocol.py                     all of it, from where it stopped; hours on a CPU
    python tools/record_protocol.py --data mnist        the same for MNIST, without the mixture prior
    python tools/record_protocol.py --tiny --folder X   the same code on a few images, in seconds

50,000 images are trained on; the last 10,000 of the training set are for validation, which alone decides whether a step is
kept. Test bits are drawn once. The steps stand in RUNS; each has a checkpoint. What the page reads is copied from the
folder to book/results by hand: a file for each model, with its history and what every step reached, and its evaluation with
up to K = 5,000 samples. The evaluation goes through the test images in their order and is written batch by batch: stopped
early, the file holds the first so many of them, and the same command goes on from there.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vae_tutorial import data, evaluation, models, networks, objectives, priors, records, training

SHAPE, NUM_LATENTS, NUM_COMPONENTS = (1, 28, 28), 32, 500
ELBO = objectives.elbo()


@dataclass(frozen=True)
class Step:
    """Some epochs in which some parts of the model learn."""

    epochs: int
    parts: tuple[str, ...]  # of encoder, decoder and prior
    learning_rate: float
    weight_decay: float = 0.0
    dropout: float = 0.0
    objective: objectives.Objective = ELBO


FROM_NOTHING = Step(60, ("encoder", "decoder"), 2e-3, weight_decay=0.05, dropout=0.1)
RUNS: dict[str, dict[str, dict[str, Step]]] = {  # by data, then by file: each run goes on from the one before it
    "fashion_mnist": {
        "protocol_fashion_mnist": {
            "both networks": FROM_NOTHING,
            "both, without dropout": Step(20, ("encoder", "decoder"), 1.5e-3, weight_decay=0.05),
            "the encoder alone": Step(3, ("encoder",), 1e-3, objective=objectives.sticking_the_landing(num_samples=2)),
        },
        "protocol_mixture": {
            "a mixture prior alone": Step(3, ("prior",), 2e-2),
            "all, with the mixture": Step(6, ("encoder", "decoder", "prior"), 5e-4, weight_decay=0.05),
        },
    },
    "mnist": {"protocol_mnist": {"both networks": replace(FROM_NOTHING, epochs=30)}},
}


def load(name: str, full: bool) -> tuple[data.Images, data.Images]:
    """Training and test images."""
    if name == "mnist":
        return data.mnist("train"), data.mnist("test")
    return data.fashion_mnist("train", full=full), data.fashion_mnist("test", full=full)


def bits(images: Tensor) -> Tensor:
    """Bits of images to test on: drawn once."""
    return data.binarize(images, generator=torch.Generator().manual_seed(0))


def made(dropout: float, prior: priors.Prior) -> models.VAE:
    """The model, with weights from the seed 0."""
    torch.manual_seed(0)
    encoder = networks.TwoGridEncoder(SHAPE, 2 * NUM_LATENTS, dropout=dropout)
    decoder = networks.TwoGridDecoder(SHAPE, NUM_LATENTS, dropout=dropout)
    return models.VAE(encoder, decoder, SHAPE, prior=prior).to(memory_format=torch.channels_last)


@torch.no_grad()
def mixture_of_codes(vae: models.VAE, x: Tensor) -> priors.GaussianMixture:
    """A mixture with a component at the mean code of each of the first images, and of unit variance."""
    x = bits(x[:NUM_COMPONENTS])
    prior = priors.GaussianMixture(NUM_LATENTS, len(x))
    prior.mu.copy_(vae.eval().encode(x.to(next(vae.parameters()))).mu)
    return prior


def next_model(step: Step, vae: models.VAE | None, x: Tensor) -> models.VAE:
    """The model that a step begins with: new, or with the weights of the one before, and a mixture where one is learnt."""
    if vae is None:
        return made(step.dropout, priors.StandardNormal(NUM_LATENTS))
    is_mixture = "prior" in step.parts
    begins = is_mixture and isinstance(vae.prior, priors.StandardNormal)
    prior = mixture_of_codes(vae, x) if begins else vae.prior
    following = made(step.dropout, prior)
    for name in ("encoder", "decoder"):
        getattr(following, name).load_state_dict(getattr(vae, name).state_dict())
    for name in ("encoder", "decoder", "prior"):
        getattr(following, name).requires_grad_(name in step.parts)
    return following


def take(step: Step, vae: models.VAE, x: Tensor, x_val: Tensor, checkpoint: Path, device: str) -> records.History:
    """Train as the step says, taken up again from its checkpoint."""
    optimization = training.Optimization(
        batch_size=128,
        learning_rate=step.learning_rate,
        weight_decay=step.weight_decay,
        schedule=training.warmup_cosine,
        ema_decay=0.999,
    )
    execution = training.Execution(device=device, precision=torch.bfloat16, checkpoint=checkpoint)
    settings = {"objective": step.objective, "optimization": optimization, "execution": execution}
    return training.fit(vae, x, x_test=x_val, num_epochs=step.epochs, preprocess=data.binarize, **settings)


def negative_elbo(vae: models.VAE, x: Tensor) -> float:
    terms = training.average_terms(vae, x)
    return (terms.kl - terms.reconstruction).item()


def joined(histories: list[records.History]) -> records.History:
    return records.History(*([value for part in parts for value in part] for parts in zip(*histories, strict=True)))


def evaluate(path: Path, x_test: Tensor, num_samples: tuple[int, ...], device: str) -> None:
    """Importance weighting of every test image by the recorded model, its networks in bfloat16 as in training."""
    vae, _ = records.load_model(path)
    nothing = torch.zeros(0, *SHAPE), torch.zeros(0, NUM_LATENTS)
    settings = {"num_samples": num_samples, "num_annealed": 0, "simulated": nothing, "precision": "torch.bfloat16"}
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        evaluation.evaluate(vae.to(device), x_test, path.with_stem(path.stem + "_evaluation"), **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=RUNS, default="fashion_mnist")
    parser.add_argument("--folder", type=Path, default=Path("protocol_record"), help="where the files go (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="few images of the package's own, an epoch a step, K = 10")
    options = parser.parse_args()
    runs, num_samples = RUNS[options.data], (1, 10, 100, 1000, 5000)
    images, test = (part.images for part in load(options.data, full=not options.tiny))
    x, x_val, x_test = images[: -len(images) // 6], bits(images[-len(images) // 6 :]), bits(test)
    if options.tiny:
        x, x_test, num_samples = x[:256], x_test[:40], (1, 10)
        runs = {run: {name: replace(step, epochs=1) for name, step in steps.items()} for run, steps in runs.items()}
    options.folder.mkdir(parents=True, exist_ok=True)
    kept, histories, reached = None, [], {}
    for run, steps in runs.items():
        for name, step in steps.items():
            vae = next_model(step, kept, x)
            checkpoint = options.folder / f"{run}_{len(reached)}.ckpt"
            history = take(step, vae, x, x_val, checkpoint, options.device)
            value = negative_elbo(vae, x_val)
            if kept is None or value < min(reached.values()):
                kept, histories = vae, [*histories, history]
            reached[name] = value
        path = options.folder / f"{run}.pt"
        if not path.exists():
            terms = training.average_terms(kept, x_test)
            facts = {f"test_{term}": value.item() for term, value in terms._asdict().items()}
            records.save_model(path, kept, joined(histories), num_train=len(x), **facts, validation=reached)
    print(reached)
    for run in runs:
        evaluate(options.folder / f"{run}.pt", x_test, num_samples, options.device)


if __name__ == "__main__":
    main()
