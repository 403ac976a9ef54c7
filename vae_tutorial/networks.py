r"""Networks: encoders, from x to the parameters of q(z given x), and decoders, from z to those of p(x given z).

A network knows shapes and nothing of distributions. An encoder maps (B, \*D) to (B, P), where P is what the family needs
for J latents; a decoder maps (B, J) to (B, \*D). Any other module with these shapes will do in their place: decorate its
class with :func:`vae_tutorial.records.keeps_arguments`, and a record can build it again.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vae_tutorial._recipe import keeps_arguments


class _Layers(nn.Sequential):
    """Layers one after another. A slice is a plain sequence: the constructors below take sizes and no layers."""

    def __getitem__(self, index: Any) -> Any:
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)


@keeps_arguments
class LinearEncoder(_Layers):
    r"""An affine map of x for the mean, and constants for the other parameters of q.

    .. math:: \mu(x) = V x + c, \qquad \text{the rest} = \text{const}

    Args:
        data_shape: D, the shape of one data point.
        num_latents: J, the numbers in a latent.
        num_outputs: P, at least J.

    Source: Lucas, Tucker, Grosse and Norouzi (2019), section 3.

    >>> LinearEncoder((1, 28, 28), num_latents=2, num_outputs=4)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 4])
    """

    def __init__(self, data_shape: tuple[int, ...], num_latents: int, num_outputs: int) -> None:
        super().__init__(nn.Flatten(), _AffineWithConstant(math.prod(data_shape), num_latents, num_outputs))


@keeps_arguments
class LinearDecoder(_Layers):
    r"""An affine map, :math:`W z + b`.

    Args:
        data_shape: D, the shape of what the decoder gives for one data point.
        num_latents: J, the numbers in a latent.

    >>> LinearDecoder((1, 28, 28), num_latents=2)(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """

    def __init__(self, data_shape: tuple[int, ...], num_latents: int) -> None:
        super().__init__(nn.Linear(num_latents, math.prod(data_shape)), nn.Unflatten(1, tuple(data_shape)))


@keeps_arguments
class MLPEncoder(_Layers):
    """One hidden layer.

    Args:
        data_shape: D, the shape of one data point.
        num_outputs: P, the numbers that come out.
        num_hidden: width of the hidden layer.

    Source: Kingma and Welling (2014), appendix C.

    >>> MLPEncoder((1, 28, 28), num_outputs=4, num_hidden=8)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 4])
    """

    def __init__(self, data_shape: tuple[int, ...], num_outputs: int, num_hidden: int) -> None:
        super().__init__(nn.Flatten(), *_linear_layers(math.prod(data_shape), num_hidden, num_outputs))


@keeps_arguments
class MLPDecoder(_Layers):
    """One hidden layer.

    Args:
        data_shape: D, the shape of what the decoder gives for one data point.
        num_latents: J, the numbers in a latent.
        num_hidden: width of the hidden layer.

    Source: Kingma and Welling (2014), appendix C.

    >>> MLPDecoder((1, 28, 28), num_latents=2, num_hidden=8)(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """

    def __init__(self, data_shape: tuple[int, ...], num_latents: int, num_hidden: int) -> None:
        layers = _linear_layers(num_latents, num_hidden, math.prod(data_shape))
        super().__init__(*layers, nn.Unflatten(1, tuple(data_shape)))


@keeps_arguments
class ConvEncoder(_Layers):
    """A convolutional encoder for images of any height, width and number of channels.

    It cuts the image into patches, 4 x 4 pixels by default, works on their grid with residual blocks, and ends in one
    linear layer, or in two with a hidden layer between them, which sees the whole grid at once as a 3 x 3 convolution
    does not. An image whose height or width is no multiple of the patch is filled up with zeros below and on the right.

    Args:
        data_shape: (channels, height, width).
        num_outputs: P, the numbers that come out.
        num_channels: channels C on the grid.
        num_blocks: residual blocks.
        num_hidden: width of the hidden layer; without it, one linear layer joins grid and output.
        patch_size: pixels along a patch: larger for larger images, whose grid the linear layer has to take in.

    Raises:
        ValueError: if ``data_shape`` is not (channels, height, width), or a size is below 1.

    Source: He, Zhang, Ren and Sun (2016) for residual blocks.

    >>> ConvEncoder((3, 50, 41), num_outputs=4, num_channels=8)(torch.zeros(2, 3, 50, 41)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_outputs: int,
        num_channels: int = 64,
        num_blocks: int = 2,
        num_hidden: int | None = None,
        patch_size: int = 4,
    ) -> None:
        channels, height, width = _image_shape(data_shape, patch_size)
        rows, columns = -(-height // patch_size), -(-width // patch_size)  # rounded up
        below, right = rows * patch_size - height, columns * patch_size - width
        super().__init__(
            *([nn.ZeroPad2d((0, right, 0, below))] if below or right else []),
            nn.Conv2d(channels, num_channels, kernel_size=patch_size, stride=patch_size),  # (B, C, rows, columns)
            *(_ResidualBlock(num_channels) for _ in range(num_blocks)),
            nn.SiLU(),
            nn.Flatten(),
            *_linear_layers(num_channels * rows * columns, num_hidden, num_outputs),
        )


@keeps_arguments
class ConvDecoder(_Layers):
    """The mirror image of :class:`ConvEncoder`.

    Putting the pixels of a patch back by a pixel shuffle leaves no checkerboard from overlapping strides. What an image
    is too small for, below and on the right, is cut off.

    Args:
        data_shape: (channels, height, width) of what the decoder gives for one data point.
        num_latents: J, the numbers in a latent.
        num_channels: channels C on the grid.
        num_blocks: residual blocks.
        num_hidden: width of the hidden layer; without it, one linear layer joins latents and grid.
        patch_size: pixels along a patch.

    Raises:
        ValueError: if ``data_shape`` is not (channels, height, width), or a size is below 1.

    Source: He, Zhang, Ren and Sun (2016) for residual blocks; Shi et al. (2016) for the pixel shuffle.

    >>> ConvDecoder((3, 50, 41), num_latents=4, num_channels=8)(torch.zeros(2, 4)).shape
    torch.Size([2, 3, 50, 41])
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_latents: int,
        num_channels: int = 64,
        num_blocks: int = 2,
        num_hidden: int | None = None,
        patch_size: int = 4,
    ) -> None:
        channels, height, width = _image_shape(data_shape, patch_size)
        rows, columns = -(-height // patch_size), -(-width // patch_size)
        below, right = rows * patch_size - height, columns * patch_size - width
        super().__init__(
            *_linear_layers(num_latents, num_hidden, num_channels * rows * columns),
            nn.Unflatten(1, (num_channels, rows, columns)),
            *(_ResidualBlock(num_channels) for _ in range(num_blocks)),
            nn.SiLU(),
            nn.Conv2d(num_channels, channels * patch_size**2, kernel_size=3, padding=1),
            nn.PixelShuffle(patch_size),
            *([nn.ZeroPad2d((0, -right, 0, -below))] if below or right else []),  # a negative padding cuts off
        )


@keeps_arguments
class TwoGridEncoder(_Layers):
    """A convolutional encoder that works on two grids: one of half the image's height and width, one of a quarter.

    What is fine is seen on the first grid, and what belongs together on the second; one grid of patches has to do both.
    It costs several times as much as :class:`ConvEncoder`.

    Args:
        data_shape: (channels, height, width), the last two multiples of 4.
        num_outputs: P, the numbers that come out.
        num_channels: channels on the first and on the second grid.
        num_blocks: residual blocks on the first and on the second grid.
        num_hidden: width of the hidden layer between the second grid and the output.
        dropout: share of the inputs and of the units of the hidden layer that training drops.

    Raises:
        ValueError: if ``data_shape`` is not (channels, height, width), with multiples of 4, or dropout is no share.

    Source: He, Zhang, Ren and Sun (2016) for residual blocks; Srivastava et al. (2014) for dropout.

    >>> TwoGridEncoder((3, 48, 40), num_outputs=4, num_channels=(4, 8))(torch.zeros(2, 3, 48, 40)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_outputs: int,
        num_channels: tuple[int, int] = (32, 64),
        num_blocks: tuple[int, int] = (1, 2),
        num_hidden: int = 512,
        dropout: float = 0.0,
    ) -> None:
        channels, rows, columns = _quartered(data_shape)
        fine, coarse = num_channels
        super().__init__(
            nn.Conv2d(channels, fine, kernel_size=4, stride=2, padding=1),  # (B, C, H / 2, W / 2)
            *(_ResidualBlock(fine) for _ in range(num_blocks[0])),
            nn.SiLU(),
            nn.Conv2d(fine, coarse, kernel_size=4, stride=2, padding=1),  # (B, C', H / 4, W / 4)
            *(_ResidualBlock(coarse) for _ in range(num_blocks[1])),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(coarse * rows * columns, num_hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(num_hidden, num_outputs),
        )


@keeps_arguments
class TwoGridDecoder(_Layers):
    """The mirror image of :class:`TwoGridEncoder`.

    Args:
        data_shape: (channels, height, width) of what the decoder gives for one data point, the last two multiples of 4.
        num_latents: J, the numbers in a latent.
        num_channels: channels on the grid of half the image's size, and on that of a quarter.
        num_blocks: residual blocks on each, in the same order.
        num_hidden: width of the hidden layer between the latents and the smaller grid.
        dropout: share of the units of the hidden layer that training drops.

    Raises:
        ValueError: if ``data_shape`` is not (channels, height, width), with multiples of 4, or dropout is no share.

    Source: He, Zhang, Ren and Sun (2016) for residual blocks; Shi et al. (2016) for the pixel shuffle; Srivastava et al.
    (2014) for dropout.

    >>> TwoGridDecoder((3, 48, 40), num_latents=4, num_channels=(4, 8))(torch.zeros(2, 4)).shape
    torch.Size([2, 3, 48, 40])
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        num_latents: int,
        num_channels: tuple[int, int] = (32, 64),
        num_blocks: tuple[int, int] = (1, 2),
        num_hidden: int = 384,
        dropout: float = 0.0,
    ) -> None:
        channels, rows, columns = _quartered(data_shape)
        fine, coarse = num_channels
        super().__init__(
            nn.Linear(num_latents, num_hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(num_hidden, coarse * rows * columns),
            nn.Unflatten(1, (coarse, rows, columns)),
            *(_ResidualBlock(coarse) for _ in range(num_blocks[1])),
            nn.SiLU(),
            nn.Conv2d(coarse, 4 * fine, kernel_size=3, padding=1),
            nn.PixelShuffle(2),  # (B, C, H / 2, W / 2)
            *(_ResidualBlock(fine) for _ in range(num_blocks[0])),
            nn.SiLU(),
            nn.Conv2d(fine, 4 * channels, kernel_size=3, padding=1),
            nn.PixelShuffle(2),
        )


def _quartered(data_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The channels, and the rows and columns of a grid of a quarter of the image's height and width."""
    channels, height, width = _image_shape(data_shape, 4)
    if height % 4 or width % 4:
        raise ValueError(f"height and width must be multiples of 4, got {height} and {width}: ConvEncoder takes any")
    return channels, height // 4, width // 4


def _image_shape(data_shape: tuple[int, ...], patch_size: int) -> tuple[int, int, int]:
    if len(data_shape) != 3 or min(*data_shape, patch_size) < 1:
        raise ValueError(
            f"a convolutional network needs data of shape (channels, height, width) and a patch_size of at least 1, got "
            f"{tuple(data_shape)} and {patch_size}: grey images want an axis of length 1, images.unsqueeze(1); for other "
            "data take a fully connected network, such as models.mlp_vae"
        )
    channels, height, width = data_shape
    return channels, height, width


def _linear_layers(num_inputs: int, num_hidden: int | None, num_outputs: int) -> list[nn.Module]:
    """One linear layer, or two with a hidden layer of ``num_hidden`` units between them."""
    if num_hidden is None:
        return [nn.Linear(num_inputs, num_outputs)]
    return [nn.Linear(num_inputs, num_hidden), nn.SiLU(), nn.Linear(num_hidden, num_outputs)]


class _ResidualBlock(nn.Module):
    """x + f(x), with f two 3 x 3 convolutions: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(num_channels, num_channels, kernel_size=3, padding=1)
        nn.init.zeros_(self.second.weight)  # starts as the identity plus a small bias: depth does not hurt

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(nn.functional.silu(x))
        return x + self.second(nn.functional.silu(h))


class _AffineWithConstant(nn.Module):
    """(B, D) -> (B, P): an affine map of x to J numbers, then P - J constants that do not depend on x."""

    def __init__(self, num_inputs: int, num_latents: int, num_outputs: int) -> None:
        super().__init__()
        self.affine = nn.Linear(num_inputs, num_latents)
        self.constant = nn.Parameter(torch.zeros(num_outputs - num_latents))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.affine(x)
        return torch.cat([mean, self.constant.expand(len(mean), -1)], -1)
