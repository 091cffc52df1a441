"""Targets that share the work of the coarser branches: the same labels, but for what zero padding did."""

import numpy as np
import pytest
import torch

from dmmn_qp.architectures import ARCHITECTURES
from dmmn_qp.checkpoint import ModelCard, NetworkOptions
from dmmn_qp.dataset import LabelRaster
from dmmn_qp.errors import ModelError
from dmmn_qp.prediction import Predictor, predict_blocks, shares_contexts
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import DEMO, fails, invoke, two_tissues, write_tiff

CPU = torch.device("cpu")
SHARING = ("dmmn-ms", "dmmn-m2s", "dmmn-m3")


def card(architecture, size_px=256, stem="quarter"):
    return ModelCard(
        name="random",
        network=NetworkOptions(architecture=architecture, width=2, norm="batch", stem=stem),
        class_map=ClassMap.from_colors([(name, (1, 2, 3)) for name in "abc"]),
        patch_spec=PatchSpec(size_px=size_px, stride_px=size_px),
        created="now",
    )


def network_of(of, seed=0):
    torch.manual_seed(seed)
    return of.build().eval().double()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_who_can_share(architecture):
    of = card(architecture)
    network = of.build()
    assert shares_contexts(network, of.patch_spec, "auto") == (architecture in SHARING)
    assert not shares_contexts(network, of.patch_spec, "patch")
    if architecture not in SHARING:
        with pytest.raises(ModelError, match="--context patch"):
            shares_contexts(network, of.patch_spec, "shared")


def test_patches_that_do_not_fall_on_pixels_of_the_maps():
    of = card("dmmn-m3", size_px=128)  # at 5x a target is 32 px, a pixel of the coarsest map 64
    assert not shares_contexts(of.build(), of.patch_spec, "auto")
    full = card("dmmn-m3", size_px=128, stem="full")
    assert shares_contexts(full.build(), full.patch_spec, "auto")


@pytest.mark.parametrize("stem", ["full", "quarter"])
@pytest.mark.parametrize("architecture", SHARING)
def test_context_of_one_target_is_the_network_itself(architecture, stem):
    """Bit for bit: the same layers on the same field, in two calls."""
    of = card(architecture, stem=stem)
    network = network_of(of)
    images = [torch.rand(2, 3, 256, 256, dtype=torch.float64) for _ in range(3)]
    with torch.inference_mode():
        contexts = [network.context(m, images[m]) for m in (1, 2)]
        assert torch.equal(network.from_contexts(images[0], contexts), network(images))


@pytest.mark.parametrize("architecture", SHARING)
def test_context_of_many_targets_moves_with_them(architecture):
    """Where no padding is near, a target's maps cut out of a wide field are those of a field around it alone."""
    of = card(architecture, stem="full")
    network = network_of(of)
    wide = torch.rand(1, 3, 512, 512, dtype=torch.float64)
    with torch.inference_mode():
        for m in (1, 2):
            whole, part = network.context(m, wide), network.context(m, wide[..., 64:448, 64:448])
            for of_whole, of_part in zip(whole, part, strict=True):
                pixel = 512 // of_whole.shape[-1]
                seen = of_whole[..., 64 // pixel : 448 // pixel, 64 // pixel : 448 // pixel]
                inner = slice(112 // pixel, -112 // pixel)  # beyond what padding reaches
                assert torch.allclose(seen[..., inner, inner], of_part[..., inner, inner], atol=1e-12)
                assert not torch.allclose(seen, of_part, atol=1e-12)


def labels_of(slide, of, network, shared):
    predictor = Predictor(of, network, CPU, shared=shared)
    grid = of.patch_spec.grid_of(0.5)
    found = np.zeros(grid.shape(slide.info.width, slide.info.height), np.uint8)
    seen = np.zeros(found.shape, int)
    for block, labels in predict_blocks(slide, grid, predictor):
        inside = (slice(block.y, block.bottom), slice(block.x, block.right))
        part = found[inside].shape
        found[inside] = labels[: part[0], : part[1]]
        seen[inside] += 1
    assert (seen == 1).all()
    return found


def test_shared_and_patch_agree_on_a_trained_model(workspace, here):
    """On a slide of several blocks whose size is no multiple of a target."""
    write_tiff(here / "large.tif", two_tissues(1100, 1300))
    for context in ("patch", "shared"):
        command = ("predict", "large.tif", "--model", workspace / "models/dmmn-m3-1", "--context", context)
        assert invoke(*command, "--out", context, "--precision", "fp32").exit_code == 0
    found = []
    for context in ("patch", "shared"):
        with LabelRaster(here / context / "large.labels.ome.tif") as raster:
            found.append(raster.read(Region(0, 0, 1300, 1100)))
    assert (found[0] == found[1]).mean() > 0.99


def test_block_of_one_target_is_the_same_bit_for_bit(here):
    of = card("dmmn-m3")
    network = of.build().eval()
    with open_slide(write_tiff(here / "small.tif", two_tissues(256, 256))) as slide:
        assert np.array_equal(labels_of(slide, of, network, True), labels_of(slide, of, network, False))


def test_every_pixel_of_a_demo_slide_is_predicted_once():
    of = card("dmmn-ms")
    with open_slide(DEMO / "slides" / "val-1.tif") as slide:
        found = labels_of(slide, of, of.build().eval(), True)
    assert found.min() >= 1


def test_sharing_that_a_model_cannot(workspace, here):
    (here / "c.toml").write_text(
        '[train]\narchitecture = "unet"\nwidth = 2\nepochs = 1\nsteps_per_epoch = 1\nworkers = 0\nprecision = "fp32"\n'
    )
    dataset = workspace / "dataset"
    assert invoke("train", "--dataset", dataset, "--config", "c.toml", "--out", "m").exit_code == 0
    assert "--context patch" in fails("predict", "--dataset", dataset, "--model", "m", "--context", "shared")
