"""The six networks of the paper: their counts, their shapes, and the layers that they share."""

import pytest
import torch
from torch import nn

from dmmn_qp.errors import ModelError
from dmmn_qp.networks import ARCHITECTURES, Architecture
from dmmn_qp.networks.blocks import ConvBlock, ConvTranspose, ConvTransposeOfCrop, crop_to
from dmmn_qp.networks.describe import context_um, describe, kept_for_backward
from dmmn_qp.specs import PatchSpec
from tests.architecture_contract import bf16_error, build, images, largest_difference

PAPER = {  # name: (parameters with 7 outputs, GFLOP per target, closed form without C(f + 1), magnifications)
    "segnet": (18_881_543, 67.93, (4608, 105), 1),
    "unet": (34_550_663, 106.59, (8433, 135), 1),
    "dmmn-s2": (34_554_119, 107.04, (8433, 189), 3),
    "dmmn-ms": (30_647_207, 54.50, (29916, 406), 3),
    "dmmn-m2s": (25_947_047, 80.77, (25326, 406), 3),
    "dmmn-m3": (27_071_303, 79.34, (26424, 403), 3),
}


def test_every_architecture_of_the_paper_is_there():
    assert PAPER.keys() <= ARCHITECTURES.keys()


@pytest.mark.parametrize("name", PAPER)
class TestEveryNetworkOfThePaper:
    def test_has_the_papers_parameters(self, name):
        with torch.device("meta"):
            network = build(name, classes=7, width=ARCHITECTURES[name].paper_width, size_px=256)
        assert sum(p.numel() for p in network.parameters()) == PAPER[name][0]

    @pytest.mark.parametrize(("f", "classes"), [(1, 1), (5, 2), (8, 6), (32, 6), (64, 7)])
    def test_parameters_in_closed_form(self, name, f, classes):
        with torch.device("meta"):
            network = build(name, classes=classes, width=f)
        square, linear = PAPER[name][2]
        assert sum(p.numel() for p in network.parameters()) == square * f**2 + linear * f + classes * (f + 1)

    def test_description(self, name):
        described = describe(name, classes=7)
        assert described.parameters == PAPER[name][0]
        assert described.gflop_per_target == pytest.approx(PAPER[name][1], rel=1e-3)
        assert described.context_um <= described.field_um == (128 if PAPER[name][3] == 1 else 512)
        assert described.parameter_bytes == described.gradient_bytes == 4 * PAPER[name][0]
        assert described.optimizer_bytes == {"sgd": 4 * PAPER[name][0], "adamw": 8 * PAPER[name][0]}

    def test_looks_at_the_papers_magnifications(self, name):
        assert ARCHITECTURES[name].used(3) == PAPER[name][3]

    def test_every_convolution_has_a_bias(self, name):
        layers = [m for m in build(name).modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert layers and all(layer.bias is not None for layer in layers)

    def test_ends_with_a_1x1_convolution(self, name):
        network = build(name).network
        assert network.output is network.final[-1] and network.output.kernel_size == (1, 1)

    def test_names_its_encoders(self, name):
        """Encoders end with the centre; SegNet's is a block of its own."""
        network = build(name).network
        parts = {"unet": ["encoder"], "dmmn-s2": ["encoder"], "segnet": ["down", "centre"]}.get(name, ["encoders"])
        own = {p for part in parts for p in getattr(network, part).parameters()}
        assert {p for encoder in network.encoders for p in encoder.parameters()} == own


@pytest.mark.parametrize("name", ["dmmn-ms", "dmmn-m2s", "dmmn-m3"])
def test_coarser_images_are_seen_about_the_centre(name):
    """What lies far outside the target changes the output less than what lies in it."""
    network, given = build(name, width=8, size_px=256), images(batch=1, size=256)
    reference = network(given)
    change = []
    for columns in (slice(112, 144), slice(0, 32)):  # of the 5x image; the target is 96 .. 159
        changed = [image.clone() for image in given]
        changed[2][..., columns] = 0
        change.append(largest_difference(network(changed), reference))
    assert change[0] > 2 * change[1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", [name for name in PAPER if name != "segnet"])
def test_bf16_agrees(name, memory_format):
    """Within 2 % of the logits' mean size: a bf16 number is good to 0.4 %, and some twenty layers add up.

    SegNet keeps positions of maxima. Where bf16 cannot tell two values apart they change places, which on noise
    moves a third of the logits' mean size.
    """
    assert bf16_error(name, memory_format) < 0.02


def test_dmmn_m3_takes_five_magnifications_and_no_more():
    network = build("dmmn-m3", magnifications=5)
    network(images(5)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(ModelError, match="dmmn-m3 takes at most 5 magnifications, not 6"):
        build("dmmn-m3", magnifications=6)


@pytest.mark.parametrize("name", ["dmmn-s2", "dmmn-ms", "dmmn-m2s", "dmmn-m3"])
def test_one_magnification_makes_a_unet(name):
    """With one image there is nothing to join, and the layers come in the same order."""
    reference = build("unet", magnifications=1)
    network = build(name, magnifications=1)
    values = zip(network.parameters(), reference.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in values)
    assert torch.equal(network(images(1)), reference(images(1)))


def test_segnet_puts_values_back_where_the_maxima_were():
    """The pooled maximum of each square returns to its place, and zeros fill the rest."""
    network = build("segnet").network
    x = torch.tensor([[1.0, 2, 0, 0], [3, 4, 0, 9], [7, 0, 0, 0], [0, 0, 5, 0]])[None, None]
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 4, 0, 9], [7, 0, 0, 0], [0, 0, 5, 0]])[None, None]
    assert torch.equal(network.unpool(*network.pool(x)), expected)


@pytest.mark.parametrize(("side", "ratio", "first", "last"), [(32, 2, 8, 23), (64, 4, 24, 39), (256, 4, 96, 159)])
def test_crop_is_concentric(side, ratio, first, last):
    x = torch.arange(side).expand(1, 1, side, side)
    cropped = crop_to(x, side // ratio, side // ratio)
    assert cropped.shape[-2:] == (side // ratio, side // ratio)
    assert (cropped.min().item(), cropped.max().item()) == (first, last)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("side", [256, 128, 64, 32, 16])  # levels 0 .. 4 of the paper's patches
def test_enlarged_crop_is_the_papers(m, side):
    layer, x = ConvTransposeOfCrop(1, m), torch.rand(1, 1, side, side)
    assert torch.equal(layer(x, side, side), layer.ups(crop_to(x, side >> m, side >> m)))


@pytest.mark.parametrize(("side", "m"), [(2, 1), (4, 2), (6, 1), (12, 2), (12, 3), (20, 2), (16, 4)])
def test_enlarged_crop_is_concentric_where_pixels_do_not_fit(side, m):
    """Column x of the result is about column (x - side / 2) / 2**m + side / 2 of the map."""
    layer = ConvTransposeOfCrop(1, m)
    for up in layer.ups:  # nearest neighbour: every pixel becomes 2 x 2
        nn.init.zeros_(up[0].bias)
        nn.init.zeros_(up[0].weight)
        with torch.no_grad():
            up[0].weight[0, 0, 1:, 1:] = 1
    found = layer(torch.arange(side).float().expand(1, 1, side, side), side, side)[0, 0, 0]
    expected = ((torch.arange(side) + 0.5 - side / 2) / 2**m + side / 2).floor()
    assert torch.equal(found, expected)


def test_transposed_convolution_doubles():
    assert ConvTranspose(3, 5)(torch.zeros(1, 3, 7, 9)).shape == (1, 5, 14, 18)


def test_kept_for_backward_by_hand():
    """Two convolutions: the image, the map after the first ReLU, and after the second; 4 bytes a number."""
    network = nn.Sequential(ConvBlock(3, 2))
    assert kept_for_backward(network, torch.zeros(1, 3, 4, 4)) == 4 * 16 * (3 + 2 + 2)


@pytest.mark.parametrize(("size_px", "expected"), [(256, 102), (512, 102), (64, 32)])
def test_context_of_unet(size_px, expected):
    """204 px at 0.5 um/px, where the patch is no smaller."""
    assert context_um("unet", PatchSpec(size_px=size_px)) == expected


def test_context_of_one_convolution_block(monkeypatch):
    """Two 3 x 3 convolutions see 5 x 5 pixels."""

    class Two(nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.block = ConvBlock(3, 1)

        def forward(self, given):
            return self.block(given[0])

    monkeypatch.setitem(ARCHITECTURES, "two", Architecture(Two, paper_width=1, divisor=1, max_magnifications=1))
    assert context_um("two", PatchSpec(mpps=(0.25, 0.5))) == 5 * 0.25


def test_group_norm_sees_the_whole_field():
    assert context_um("unet", PatchSpec(size_px=256), norm="group") == 128


def test_unknown_architecture_lists_the_choices():
    with pytest.raises(ModelError, match=r'"resnet" is unknown; choose one of .*segnet.* dmmn-m3'):
        build("resnet")
    with pytest.raises(ModelError, match='"resnet" is unknown'):
        describe("resnet", classes=1)
