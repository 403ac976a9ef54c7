"""networks: shapes for any image, layers in their order, and what is refused."""

import pytest
import torch
from oracles import assert_close, assert_refused, randn
from torch import nn

from vae_tutorial import networks
from vae_tutorial.networks import (
    ConvDecoder,
    ConvEncoder,
    LinearDecoder,
    LinearEncoder,
    MLPDecoder,
    MLPEncoder,
    TwoGridDecoder,
    TwoGridEncoder,
)

SHAPES = [(1, 28, 28), (3, 64, 48), (1, 1, 1), (2, 1, 100), (3, 50, 41), (1, 4, 4), (5, 3, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("num_blocks", "num_hidden", "patch_size"), [(0, None, 4), (1, 5, 4), (1, None, 3), (1, 5, 8)])
def test_images_of_any_size_go_in_and_come_out(
    shape: tuple[int, ...], num_blocks: int, num_hidden: int | None, patch_size: int
) -> None:
    sizes = {"num_channels": 4, "num_blocks": num_blocks, "num_hidden": num_hidden, "patch_size": patch_size}
    encoder, decoder = ConvEncoder(shape, num_outputs=6, **sizes), ConvDecoder(shape, num_latents=3, **sizes)
    assert encoder(torch.zeros(2, *shape)).shape == (2, 6)
    assert decoder(torch.zeros(2, 3)).shape == (2, *shape)


def test_every_pixel_reaches_the_code_and_every_pixel_is_written() -> None:
    """Also in the last, cut-off row and column of patches: the gradient is nowhere 0."""
    encoder, decoder = (made((2, 9, 6), 3, num_channels=4, num_blocks=1) for made in (ConvEncoder, ConvDecoder))
    x = randn(1, 2, 9, 6, seed=0, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).square().sum(), x)
    assert (gradient != 0).all()
    z = randn(2, 3, seed=1, dtype=torch.float32)
    assert (decoder(z)[0] != decoder(z)[1]).all()


@pytest.mark.parametrize("shape", [(28, 28), (784,), (1, 0, 4), (1, 2, 3, 4), ()])
def test_what_is_no_image_is_refused_with_a_way_out(shape: tuple[int, ...]) -> None:
    for made in (ConvEncoder, ConvDecoder):
        assert_refused(lambda made=made: made(shape, 4), "channels, height, width", shape, "mlp_vae")
        assert_refused(lambda made=made: made((1, 4, 4), 4, patch_size=0), "patch_size")


def kinds(network: nn.Module) -> list[type]:
    return [type(layer) for layer in network]


def test_the_activation_stands_between_two_linear_layers() -> None:
    """Moved before the first, or behind the last, it would leave a linear map of z, or one of its activation."""
    encoder, decoder = MLPEncoder((2, 3), 4, 7), MLPDecoder((2, 3), 2, 7)
    assert kinds(encoder) == [nn.Flatten, nn.Linear, nn.SiLU, nn.Linear]
    assert kinds(decoder) == [nn.Linear, nn.SiLU, nn.Linear, nn.Unflatten]
    z, w = randn(2, 5, 2, seed=0, dtype=torch.float32)
    assert (decoder((z + w) / 2) - (decoder(z) + decoder(w)) / 2).abs().max() > 1e-3
    hidden = decoder[:2](z)  # a slice is a plain sequence
    assert_close(hidden, nn.functional.silu(z @ decoder[0].weight.mT + decoder[0].bias), 1e-6)


def test_the_linear_networks_are_affine_and_the_rest_is_constant() -> None:
    encoder, decoder = LinearEncoder((2, 3), 2, 5), LinearDecoder((2, 3), 2)
    encoder[1].constant.data = torch.tensor([1.0, 2.0, 3.0])
    x, y = randn(2, 4, 2, 3, seed=1, dtype=torch.float32)
    assert_close(encoder(0.25 * x + 0.75 * y), 0.25 * encoder(x) + 0.75 * encoder(y), 1e-5)
    assert torch.equal(encoder(x)[:, 2:], torch.tensor([1.0, 2.0, 3.0]).expand(4, 3))
    assert_close(encoder(x)[:, :2], x.flatten(1) @ encoder[1].affine.weight.mT + encoder[1].affine.bias, 1e-5)
    z = randn(4, 2, seed=2, dtype=torch.float32)
    assert_close(decoder(z).flatten(1), z @ decoder[0].weight.mT + decoder[0].bias, 1e-5)


def test_a_network_remembers_what_it_was_made_with() -> None:
    assert MLPEncoder((2, 3), 4, num_hidden=7).arguments == {"data_shape": (2, 3), "num_outputs": 4, "num_hidden": 7}
    assert networks.ConvDecoder((1, 4, 4), 2).arguments["patch_size"] == 4


# two grids


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 40), (2, 4, 8)])
def test_two_grids_take_images_of_sizes_that_are_multiples_of_four(shape: tuple[int, ...]) -> None:
    sizes = {"num_channels": (5, 6), "num_blocks": (1, 2), "num_hidden": 7}
    encoder, decoder = TwoGridEncoder(shape, 5, **sizes), TwoGridDecoder(shape, 3, **sizes)
    assert encoder(torch.zeros(2, *shape)).shape == (2, 5)
    assert decoder(torch.zeros(2, 3)).shape == (2, *shape)
    for network in (encoder, decoder):
        convolutions = [
            layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        ]
        blocks = [layer for layer in convolutions if layer.in_channels == layer.out_channels]
        fine, coarse = ([layer for layer in blocks if layer.in_channels == width] for width in (5, 6))
        assert (len(fine), len(coarse)) == (2, 4)  # two in each block


def test_every_pixel_of_two_grids_counts() -> None:
    encoder, decoder = (made((2, 8, 12), 3, num_channels=(4, 6)) for made in (TwoGridEncoder, TwoGridDecoder))
    x = randn(1, 2, 8, 12, seed=0, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(x).square().sum(), x)
    assert (gradient != 0).all()
    z = randn(2, 3, seed=1, dtype=torch.float32)
    assert (decoder.eval()(z)[0] != decoder(z)[1]).all()


@pytest.mark.parametrize("made", [TwoGridEncoder, TwoGridDecoder])
def test_dropout_is_of_the_linear_layers_and_ends_with_training(made: type[nn.Module]) -> None:
    network = made((1, 8, 8), 3, dropout=0.5)
    inputs = randn(*((2, 3) if made is TwoGridDecoder else (2, 1, 8, 8)), seed=1, dtype=torch.float32)
    with torch.random.fork_rng():
        assert not torch.equal(network(inputs), network(inputs))
    network.eval()
    assert torch.equal(network(inputs), network(inputs))
    assert {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)} == {0.5}
    assert {layer.p for layer in made((1, 8, 8), 3).modules() if isinstance(layer, nn.Dropout)} == {0.0}


@pytest.mark.parametrize("shape", [(1, 30, 28), (1, 28, 30)])
def test_other_sizes_are_refused_by_two_grids(shape: tuple[int, ...]) -> None:
    for made in (TwoGridEncoder, TwoGridDecoder):
        assert_refused(lambda made=made: made(shape, 4), "multiples of 4", "30", "28", "ConvEncoder")
        assert_refused(lambda made=made: made((784,), 4), "channels, height, width")
