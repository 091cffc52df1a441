"""The contract that every architecture keeps, and the paper's counts."""

import shutil

import pytest
import torch
from torch import nn

from dmmn_qp.errors import ModelError
from dmmn_qp.folders.model import ModelCard, NetworkOptions, load_model, save_model
from dmmn_qp.networks import ARCHITECTURES, build_network
from dmmn_qp.networks.blocks import ConvBlock, ConvTranspose, ConvTransposeOfCrop, crop_to
from dmmn_qp.networks.describe import context_um, describe, kept_for_backward
from dmmn_qp.specs import ClassMap, PatchSpec

SIZE = 64

PAPER = {  # name: (parameters with 7 outputs, GFLOP per target, closed form without C(f + 1))
    "segnet": (18_881_543, 67.93, (4608, 105)),
    "unet": (34_550_663, 106.59, (8433, 135)),
    "dmmn-s2": (34_554_119, 107.04, (8433, 189)),
    "dmmn-ms": (30_647_207, 54.50, (29916, 406)),
    "dmmn-m2s": (25_947_047, 80.77, (25326, 406)),
    "dmmn-m3": (27_071_303, 79.34, (26424, 403)),
}


def build(name, *, classes=3, width=2, magnifications=3, norm="none", stem="full", size_px=SIZE, seed=0):
    torch.manual_seed(seed)
    return build_network(
        name, classes=classes, width=width, magnifications=magnifications, size_px=size_px, norm=norm, stem=stem
    ).eval()


def images(magnifications=3, batch=2, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, 3, size, size, generator=generator) for _ in range(magnifications)]


def largest_difference(found, reference):
    """Relative to the largest logit."""
    return ((found.float() - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestEveryArchitecture:
    @pytest.mark.parametrize("magnifications", [1, 2, 3, 4])
    @pytest.mark.parametrize(
        ("norm", "stem", "width"), [("none", "full", 2), ("batch", "quarter", 3), ("group", "half", 12)]
    )
    def test_shapes(self, name, norm, stem, width, magnifications):
        network = build(name, norm=norm, stem=stem, width=width, magnifications=magnifications, size_px=128)
        logits = network(images(magnifications, size=128))
        assert logits.shape == (2, 3, 128, 128) and logits.dtype == torch.float32
        assert logits.isfinite().all()

    @pytest.mark.parametrize("size", [64, 128, 192, 320])
    def test_any_multiple_of_64(self, name, size):
        assert build(name, size_px=size)(images(batch=1, size=size)).shape == (1, 3, size, size)

    def test_one_class(self, name):
        assert build(name, classes=1)(images()).shape == (2, 1, SIZE, SIZE)

    def test_gradients_reach_every_parameter(self, name):
        network = build(name, width=8)
        network(images()).square().sum().backward()
        assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []

    @pytest.mark.parametrize("magnifications", [2, 3, 4])
    @pytest.mark.parametrize("stem", ["full", "half"])
    def test_every_magnification_that_it_uses_changes_the_output(self, name, magnifications, stem):
        network, given = build(name, width=8, magnifications=magnifications, stem=stem), images(magnifications)
        reference = network(given)
        used = 1 if name in ("segnet", "unet") else magnifications
        for m in range(magnifications):
            changed = [image.flip(-1) if i == m else image for i, image in enumerate(given)]
            assert (largest_difference(network(changed), reference) > 1e-3) == (m < used)

    def test_coarser_images_are_seen_about_the_centre(self, name):
        """What lies far outside the target changes the output less than what lies in it."""
        network, given = build(name, width=8, size_px=256), images(batch=1, size=256)
        if name in ("segnet", "unet", "dmmn-s2"):
            pytest.skip("crops nothing")
        reference = network(given)
        change = []
        for columns in (slice(112, 144), slice(0, 32)):  # of the 5x image; the target is 96 .. 159
            changed = [image.clone() for image in given]
            changed[2][..., columns] = 0
            change.append(largest_difference(network(changed), reference))
        assert change[0] > 2 * change[1]

    def test_wrong_number_of_images_is_refused(self, name):
        with pytest.raises(ValueError, match="takes 3 images, not 2"):
            build(name)(images(2))

    def test_seed_decides_the_weights(self, name):
        first, second, other = build(name, seed=5), build(name, seed=5), build(name, seed=6)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))

    def test_initialisation_is_kaiming(self, name):
        """Standard deviation sqrt(2 / fan-in); the fan-in of a transposed convolution is that of its outputs."""
        network = build(name, width=8)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert not module.bias.any()
                inputs = module.out_channels if isinstance(module, nn.ConvTranspose2d) else module.in_channels
                expected = (2 / (inputs * module.kernel_size[0] ** 2)) ** 0.5
                tolerance = 5 / (2 * module.weight.numel()) ** 0.5  # five standard errors
                assert module.weight.std().item() == pytest.approx(expected, rel=tolerance)

    def test_saved_and_loaded_is_equal(self, name, tmp_path):
        class_map = ClassMap.from_colors([("a", (0, 0, 255)), ("b", (255, 0, 0)), ("c", (0, 255, 0))])
        card = ModelCard(
            name="x",
            network=NetworkOptions(architecture=name, width=2, norm="batch", stem="half"),
            class_map=class_map,
            patch_spec=PatchSpec(size_px=SIZE),
            created="now",
        )
        network = build(name, norm="batch", stem="half").train()
        network(images())  # so that the running statistics are not those of a new network
        save_model(tmp_path, card, network)
        _, loaded = load_model(tmp_path)
        assert torch.equal(loaded(images()), network.eval()(images()))

    def test_channels_last_agrees(self, name):
        network, given = build(name, width=8), images()
        reference = network(given)
        network = network.to(memory_format=torch.channels_last)
        found = network([image.contiguous(memory_format=torch.channels_last) for image in given])
        assert largest_difference(found, reference) < 1e-5

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_bf16_agrees(self, name, memory_format):
        """Within 2 % of the logits' mean size: a bf16 number is good to 0.4 %, and some twenty layers add up.

        SegNet keeps positions of maxima. Where bf16 cannot tell two values apart they change places, which on noise
        moves a third of the logits' mean size.
        """
        network, given = build(name, width=8), images()
        reference = network(given)
        network = network.to(memory_format=memory_format)
        with torch.autocast("cpu", torch.bfloat16):
            found = network([image.contiguous(memory_format=memory_format) for image in given])
        error = (found - reference).norm() / reference.norm()
        assert error < (0.4 if name == "segnet" else 0.02)

    def test_compiles_with_gradients(self, name):
        network, given = build(name, magnifications=2), images(2)
        reference = network(given)
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        found = compiled(given)
        assert largest_difference(found, reference) < 1e-5
        found.square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())

    def test_exports(self, name):
        network, given = build(name, stem="half"), images()
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(network, (given,), dynamic_shapes=([{0: batch}] * 3,))
        for n in (1, 3):
            some = images(batch=n)
            assert largest_difference(exported.module()(some), network(some)) < 1e-5

    def test_odd_sizes_are_refused(self, name):
        with pytest.raises(ModelError, match="multiple of"):
            build(name, size_px=72)
        with pytest.raises(ModelError, match=r"multiple of (64|128) px, not 96"):
            build(name, size_px=96, stem="quarter")

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
        assert described.context_um <= described.field_um == (128 if name in ("segnet", "unet") else 512)
        assert described.parameter_bytes == described.gradient_bytes == 4 * PAPER[name][0]
        assert described.optimizer_bytes == {"sgd": 4 * PAPER[name][0], "adamw": 8 * PAPER[name][0]}

    def test_kept_activations_are_those_of_a_real_device(self, name):
        described = describe(name, classes=3, width=2, patch_spec=PatchSpec(size_px=SIZE), norm="batch", stem="half")
        network = build(name, norm="batch", stem="half").train()
        assert kept_for_backward(network, images(batch=1)) == described.activation_bytes


def test_every_architecture_of_the_paper_is_there():
    assert list(ARCHITECTURES) == list(PAPER)


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_inductor_compiles_a_network():
    """The smallest, without looking for vector instructions: it is the C++ compiler that takes the time."""
    network, given = build("unet", width=1, magnifications=1, stem="half"), images(1, batch=1)
    compiled = torch.compile(network, options={"cpp.vec_isa_ok": False})
    with torch.no_grad():
        assert largest_difference(compiled(given), network(given)) < 1e-5


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

    from dmmn_qp.networks import Architecture

    monkeypatch.setitem(ARCHITECTURES, "two", Architecture(Two, paper_width=1, divisor=1, max_magnifications=1))
    assert context_um("two", PatchSpec(mpps=(0.25, 0.5))) == 5 * 0.25


def test_group_norm_sees_the_whole_field():
    assert context_um("unet", PatchSpec(size_px=256), norm="group") == 128


def test_unknown_architecture_lists_the_choices():
    with pytest.raises(ModelError, match='"resnet" is unknown; choose one of segnet, unet, dmmn-s2, dmmn-ms'):
        build("resnet")
    with pytest.raises(ModelError, match='"resnet" is unknown'):
        describe("resnet", classes=1)
