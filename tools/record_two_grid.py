"""The stronger run of chapter 11, by the protocol of published work: trained, evaluated, recorded.

    python tools/record_two_grid.py                     all of it, from where it stopped; hours on a CPU
    python tools/record_two_grid.py --tiny --folder X   the same code on a few images, in seconds

50,000 images are trained on; the last 10,000 of the training set are for validation, on which everything was chosen. Two
stages: both networks together, then the encoder alone, with the decoder held and its dropout off. It leaves two files,
the model with its history and the evaluation on test images, and beside them a checkpoint for each stage.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_tutorial import data, evaluation, models, networks, objectives, priors, records, training

SHAPE, NUM_LATENTS, DROPOUT = (1, 28, 28), 32, 0.1
FULL: dict[str, Any] = {
    "num_train": 50_000,
    "epochs": (60, 6),
    "num_test": 500,
    "num_samples": (1, 10, 100, 1000, 5000),
}
TINY: dict[str, Any] = {"num_train": 256, "epochs": (1, 1), "num_test": 20, "num_samples": (1, 10)}


def bits(images: Tensor) -> Tensor:
    """Bits of images to test on: drawn once."""
    return data.binarize(images, generator=torch.Generator().manual_seed(0))


def made(dropout: float) -> models.VAE:
    """The model, with weights from the seed 0."""
    torch.manual_seed(0)
    encoder = networks.TwoGridEncoder(SHAPE, 2 * NUM_LATENTS)
    decoder = networks.TwoGridDecoder(SHAPE, NUM_LATENTS, dropout=dropout)
    vae = models.VAE(encoder, decoder, SHAPE, prior=priors.StandardNormal(NUM_LATENTS))
    return vae.to(memory_format=torch.channels_last)


def trained(
    x: Tensor, x_val: Tensor, epochs: tuple[int, int], folder: Path, device: str
) -> tuple[models.VAE, list[records.History]]:
    """Both stages, each taken up again from its checkpoint."""
    common: dict[str, Any] = {"batch_size": 128, "schedule": training.warmup_cosine, "ema_decay": 0.999}
    stages = [
        (objectives.elbo(), training.Optimization(learning_rate=2e-3, weight_decay=0.05, **common)),
        (objectives.sticking_the_landing(num_samples=2), training.Optimization(learning_rate=1e-3, **common)),
    ]
    vae, histories = made(DROPOUT), []
    for stage, (objective, optimization) in enumerate(stages):
        if stage == 1:  # the same weights, without dropout and with the decoder held
            joint, vae = vae, made(0.0)
            vae.load_state_dict(joint.state_dict())
            vae.decoder.requires_grad_(False)
        execution = training.Execution(
            device=device, precision=torch.bfloat16, checkpoint=folder / f"two_grid_stage_{stage + 1}.pt"
        )
        settings = {"objective": objective, "optimization": optimization, "execution": execution}
        histories.append(
            training.fit(vae, x, x_test=x_val, num_epochs=epochs[stage], preprocess=data.binarize, **settings)
        )
    return vae, histories


def joined(histories: list[records.History]) -> records.History:
    return records.History(*([value for part in parts for value in part] for parts in zip(*histories, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("book/results"), help="where the files go (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="few images of the package's own, few samples")
    options = parser.parse_args()
    size = TINY if options.tiny else FULL
    images, test = (data.fashion_mnist(split, full=not options.tiny).images for split in ("train", "test"))
    x, x_val = images[: size["num_train"]], bits(images[-len(images) // 6 :])
    vae, histories = trained(x, x_val, size["epochs"], options.folder, options.device)
    x_test, facts = bits(test), {"num_train": len(x), "epochs_of_stages": list(size["epochs"])}
    for name, part in {"validation": x_val, "test": x_test}.items():
        facts |= {f"{name}_{term}": v.item() for term, v in training.average_terms(vae, part)._asdict().items()}
    path = options.folder / "two_grid_vae.pt"
    records.save_model(path, vae, joined(histories), **facts)
    vae, _ = records.load_model(path)  # what is evaluated is what was written
    nothing = torch.zeros(0, *SHAPE), torch.zeros(0, NUM_LATENTS)
    settings = {"num_samples": size["num_samples"], "num_annealed": 0, "simulated": nothing}
    file = options.folder / "two_grid_vae_evaluation.pt"
    record = evaluation.evaluate(vae.to(options.device), x_test[: size["num_test"]], file, **settings)
    gain = record["importance"]["bounds"][-1] - record["importance"]["bounds"][0]
    print({**records.load_model(path)[1].facts, "gain": gain.mean().item()})


if __name__ == "__main__":
    main()
