"""The contract that every architecture keeps, and the paper's counts."""

import pytest
import torch

from dmmn_qp.architectures import ARCHITECTURES, build_network
from dmmn_qp.architectures.blocks import ConvTranspose, centre_crop
from dmmn_qp.errors import ModelError

SIZE = 64


def build(name, *, classes=3, width=2, magnifications=3, norm="none", stem="full", size_px=SIZE, seed=0):
    torch.manual_seed(seed)
    return build_network(
        name, classes=classes, width=width, magnifications=magnifications, size_px=size_px, norm=norm, stem=stem
    ).eval()


def images(magnifications=3, batch=2, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, 3, size, size, generator=generator) for _ in range(magnifications)]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
class TestEveryArchitecture:
    @pytest.mark.parametrize(("norm", "stem"), [("none", "full"), ("batch", "full"), ("group", "half")])
    @pytest.mark.parametrize("magnifications", [1, 2, 3])
    def test_shapes(self, name, norm, stem, magnifications):
        network = build(name, norm=norm, stem=stem, magnifications=magnifications)
        logits = network(images(magnifications))
        assert logits.shape == (2, 3, SIZE, SIZE) and logits.dtype == torch.float32

    def test_one_class(self, name):
        assert build(name, classes=1)(images()).shape == (2, 1, SIZE, SIZE)

    def test_gradients_reach_every_parameter(self, name):
        network = build(name, width=4)
        network(images()).square().sum().backward()
        assert [n for n, p in network.named_parameters() if p.grad is None] == []

    def test_every_magnification_changes_the_output(self, name):
        network, given = build(name, width=4), images()
        reference = network(given)
        for m in range(3):
            changed = [image + 0.5 if i == m else image for i, image in enumerate(given)]
            assert not torch.allclose(network(changed), reference)

    def test_seed_decides_the_weights(self, name):
        first, second, other = build(name, seed=5), build(name, seed=5), build(name, seed=6)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))

    def test_channels_last_agrees(self, name):
        network, given = build(name), images()
        reference = network(given)
        network = network.to(memory_format=torch.channels_last)
        found = network([image.contiguous(memory_format=torch.channels_last) for image in given])
        assert torch.allclose(found, reference, atol=1e-5)

    def test_odd_sizes_are_refused(self, name):
        with pytest.raises(ModelError, match="multiple of"):
            build(name, size_px=80)
        with pytest.raises(ModelError, match="multiple of 128"):
            build(name, size_px=64, stem="quarter")


def test_dmmn_m3_has_the_papers_parameters():
    network = build("dmmn-m3", classes=7, width=32, size_px=256)
    assert sum(p.numel() for p in network.parameters()) == 27_071_303


@pytest.mark.parametrize(("f", "classes"), [(8, 6), (16, 1), (32, 6)])
def test_dmmn_m3_closed_form(f, classes):
    network = build("dmmn-m3", classes=classes, width=f)
    assert sum(p.numel() for p in network.parameters()) == 26_424 * f**2 + 403 * f + classes * (f + 1)


def test_initialisation_is_kaiming():
    network = build("dmmn-m3", width=32)
    weight = network.encoders[0].blocks[2][0].weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[1] * 9)) ** 0.5, rel=0.05)
    assert all(not p.any() for n, p in network.named_parameters() if n.endswith("bias"))


@pytest.mark.parametrize(("side", "ratio", "first", "last"), [(32, 2, 8, 23), (64, 4, 24, 39), (256, 4, 96, 159)])
def test_centre_crop(side, ratio, first, last):
    x = torch.arange(side).expand(1, 1, side, side)
    cropped = centre_crop(x, ratio)
    assert cropped.shape[-2:] == (side // ratio, side // ratio)
    assert (cropped.min().item(), cropped.max().item()) == (first, last)


def test_transposed_convolution_doubles():
    assert ConvTranspose(3, 5)(torch.zeros(1, 3, 7, 9)).shape == (1, 5, 14, 18)


def test_unknown_architecture_lists_the_choices():
    with pytest.raises(ModelError, match='"resnet" is unknown; choose one of dmmn-m3'):
        build("resnet")
