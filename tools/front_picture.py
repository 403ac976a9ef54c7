"""Draw the picture at the front: test images, their reconstructions and new images, by the recorded model of chapter 11.

python tools/front_picture.py            writes book/_static/front.png
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imsave

from vae_tutorial import data, records

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "book" / "_static" / "front.png"
COLUMNS, MARGIN, ZOOM, GREY = 12, 2, 2, 128


def rows() -> torch.Tensor:
    """Probabilities of a white pixel: 12 test images, 12 reconstructions, 12 new ones, (3, 12, 28, 28)."""
    model, _ = records.load_model(ROOT / "book" / "results" / "conv_vae.pt")
    test = data.fashion_mnist("test").images[:COLUMNS] / 255
    generator = torch.Generator().manual_seed(1)
    x = torch.bernoulli(test, generator=generator)
    with torch.no_grad():
        new = model.mean(model.prior.sample(COLUMNS, generator=generator))
        return torch.stack([x, model.reconstruct(x), new])[:, :, 0]


def picture() -> np.ndarray:
    """The rows as one grey picture with margins between the images, uint8."""
    tiles = torch.nn.functional.pad(rows() * 255, (0, MARGIN, 0, MARGIN), value=GREY)  # to the right and below
    grid = tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)  # rows of pixels, then columns
    grid = grid[:-MARGIN, :-MARGIN].round().to(torch.uint8).numpy()
    return grid.repeat(ZOOM, 0).repeat(ZOOM, 1)


if __name__ == "__main__":
    imsave(PICTURE, picture(), cmap="gray", vmin=0, vmax=255)
    print(PICTURE)
