"""Geometry and colour of augmented patches: identities, bounds, and the same tissue at every magnification."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.reach import MAX_SIGMAS, SIGMA_PX, augmented_reach_px
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import SlideInfo
from dmmn_qp.slides.cached import CachedFields, TileBudget
from dmmn_qp.specs import MAX_ZOOM, PatchSpec
from dmmn_qp.training.augment import Augmentation, AugmentRules
from dmmn_qp.training.augment.color import ColorChange, hue, saturation
from dmmn_qp.training.augment.on_device import DrawnChange, augment_on_device, wide_margin_px
from dmmn_qp.training.augment.warp import NODES, Warp, draw_nodes, node_weights, turn
from dmmn_qp.training.examples import PatchExamples, WideExample, augmented
from tests.conftest import fails, invoke

RULES = AugmentRules("paper", MAX_ZOOM)


def rng(seed=0):
    return np.random.default_rng(seed)


def cut(pixels, region):
    return pixels[region.y : region.bottom, region.x : region.right]


def changed(pixels, warp, magnification=0, *, labels=False):
    """A changed patch from the middle of a larger square of the magnification."""
    side = pixels.shape[0]
    sampling = warp.sampling(magnification)
    field = Region((side - warp.size_px) // 2, (side - warp.size_px) // 2, warp.size_px, warp.size_px)
    return sampling.sample(cut(pixels, sampling.source_in(field)), labels=labels)


def reduced(pixels, factor):
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def texture(side, seed=0):
    """Colours that change over some ten pixels, so that interpolation hardly matters."""
    coarse = Image.fromarray(rng(seed).integers(0, 256, (side // 32, side // 32, 3), dtype=np.uint8))
    return np.array(coarse.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("nodes", [None, np.zeros((2, NODES, NODES), np.float32)])
def test_no_change_is_exact(nodes):
    pixels = rng().integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for m in range(3):
        sampling = Warp(64, 3, np.eye(2), nodes).sampling(m)
        assert sampling.source == Region(0, 0, 64, 64)
        assert np.array_equal(sampling.sample(pixels), pixels)
        assert np.array_equal(sampling.sample(pixels[..., 0], labels=True), pixels[..., 0])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (turn(math.pi / 2, 1, False), np.rot90),
        (turn(math.pi, 1, False), lambda a: np.rot90(a, 2)),
        (turn(0, 1, True), lambda a: a[::-1]),
        (turn(math.pi / 2, 1, True), lambda a: np.rot90(a)[::-1]),
    ],
)
def test_quarter_turns_and_flips_are_exact(matrix, expected):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(changed(np.pad(labels, 2), Warp(4, 1, matrix), labels=True), expected(labels))
    pixels = np.pad(np.stack([labels] * 3, axis=-1), ((2, 2), (2, 2), (0, 0)))
    assert np.array_equal(changed(pixels, Warp(4, 1, matrix))[..., 1], expected(labels))


def test_zoom_is_about_the_centre():
    source = np.pad(np.full((2, 2), 9, np.uint8), 11)  # 2 px in the middle
    assert (changed(source, Warp(8, 1, turn(0, 0.5, False)), labels=True) == 9).sum() == 16


def test_node_weights_by_hand():
    """Of 32 px in 16 cells, pixel 3 lies at 3/4 of the second; a line through the nodes stays one to the border."""
    weights = node_weights(32, 0, 1)
    assert weights[3, :5] == pytest.approx([-3 / 128, 29 / 128, 111 / 128, -9 / 128, 0])
    assert weights.sum(axis=1) == pytest.approx(np.ones(32), abs=1e-6)
    assert weights @ np.arange(NODES) == pytest.approx((np.arange(32) + 0.5) / 2, abs=1e-5)


def test_outer_nodes_are_on_the_corners_of_the_widest_field():
    """Of three magnifications the finest sees the middle 4 of 16 cells: pixel 0 lies 1/128 behind node 6."""
    assert node_weights(256, 0, 3)[0].argmax() == 6
    assert node_weights(256, 2, 3)[0].argmax() == 0 and node_weights(256, 2, 3)[-1].argmax() == NODES - 1


def test_displacements_are_the_papers():
    nodes = np.stack([draw_nodes(rng(seed), 1024) for seed in range(30)])
    assert nodes.std() == pytest.approx(SIGMA_PX, rel=0.02) and abs(nodes.mean()) < 0.1
    assert np.abs(nodes).max() <= MAX_SIGMAS * SIGMA_PX
    assert draw_nodes(rng(), 256) == pytest.approx(draw_nodes(rng(), 1024) / 4)  # nodes four times as close
    assert draw_nodes(rng(), 2048).std() == pytest.approx(SIGMA_PX, rel=0.1)


@pytest.mark.parametrize("matrix", [np.eye(2), turn(0.7, 1.1, True)])
def test_deforming_the_wide_field_and_cutting_is_sampling_the_cut(matrix):
    """The whole 1024 px field is deformed, then cut and reduced, as the paper does it."""
    nodes = draw_nodes(rng(3), 1024)
    tissue, labels = texture(2048), texture(2048, seed=1)[..., 0] // 64
    whole = changed(tissue, Warp(1024, 1, matrix, nodes))
    whole_labels = changed(labels, Warp(1024, 1, matrix, nodes), labels=True)
    warp = Warp(256, 3, matrix, nodes)
    same = changed(labels, warp, labels=True) == whole_labels[384:640, 384:640]
    assert same.mean() > 0.9999  # but for places that are halfway between two pixels
    for m, mean in ((0, 0.01), (1, 0.3), (2, 0.5)):
        expected = reduced(whole, 2**m)
        start = expected.shape[0] // 2 - 128
        difference = np.abs(
            changed(reduced(tissue, 2**m), warp, m).astype(int) - expected[start : start + 256, start : start + 256]
        )
        assert difference.mean() < mean and difference.max() <= 6, (m, difference.mean(), difference.max())


def test_magnifications_stay_concentric():
    """A disc about the patch's centre is about that centre at every magnification after any turn, flip and zoom."""
    for seed in range(5):
        warp = Augmentation.draw(rng(seed), RULES, 64, 3, deformed=False).warp
        zoom = math.sqrt(abs(np.linalg.det(warp.matrix)))
        y, x = np.mgrid[:128, :128] + 0.5 - 64
        for m, radius in enumerate((20, 10, 5)):
            disc = changed(((np.hypot(x, y) < radius) * 255).astype(np.uint8), warp, m, labels=True) > 0
            ys, xs = np.nonzero(disc)
            assert abs(ys.mean() - 31.5) < 0.5 and abs(xs.mean() - 31.5) < 0.5
            assert disc.sum() == pytest.approx(math.pi * (radius / zoom) ** 2, rel=0.15)


def test_labels_are_never_mixed():
    labels = rng().choice(np.array([0, 3, 250], np.uint8), (128, 128))
    for seed in range(5):
        warp = Augmentation.draw(rng(seed), RULES, 64, 2, deformed=True).warp
        assert set(np.unique(changed(labels, warp, labels=True))) <= {0, 3, 250}


def test_tissue_does_not_fold():
    for seed, (size, magnifications) in enumerate([(256, 3), (256, 1), (64, 1)]):
        sampling = Warp(size, magnifications, np.eye(2), draw_nodes(rng(seed), size * 2 ** (magnifications - 1)))
        x, y = sampling.sampling(0).x, sampling.sampling(0).y
        area = (
            np.diff(x, axis=1)[:-1] * np.diff(y, axis=0)[:, :-1] - np.diff(x, axis=0)[:, :-1] * np.diff(y, axis=1)[:-1]
        )
        assert area.min() > 0.2


@pytest.mark.parametrize(("size", "magnifications"), [(32, 1), (64, 2), (256, 3), (256, 4)])
def test_nothing_is_seen_beyond_the_bound(size, magnifications):
    """Not with the worst that can be drawn: all nodes as far out as they go, by 45 degrees, with the largest zoom."""
    widest = size * 2 ** (magnifications - 1)
    reach = augmented_reach_px(size, magnifications)
    largest = MAX_SIGMAS * SIGMA_PX * min(1, widest / 1024)
    worst = [np.full((2, NODES, NODES), sign * largest, np.float32) for sign in (-1, 1)]
    worst += [rng(seed).choice([-largest, largest], (2, NODES, NODES)).astype(np.float32) for seed in range(20)]
    for nodes in worst:
        for m in range(magnifications):
            sampling = Warp(size, magnifications, turn(math.pi / 4, MAX_ZOOM, False), nodes).sampling(m)
            ends = (-sampling.source.x, -sampling.source.y, sampling.source.right - size, sampling.source.bottom - size)
            assert max(ends) <= wide_margin_px(size, magnifications)
            # one pixel more is read by the filter of a slide that has to be resampled
            assert (size / 2 + max(ends) + 1) * 2**m <= reach


def test_drawn_changes():
    for seed in range(50):
        drawn = Augmentation.draw(rng(seed), RULES, 32, 2, deformed=seed % 2 == 0)
        assert 0.8 <= math.sqrt(abs(np.linalg.det(drawn.warp.matrix))) <= 1.25
        assert (drawn.warp.nodes_px is None) == bool(seed % 2)
    unzoomed = Augmentation.draw(rng(), AugmentRules("none", 1.0), 32, 2, deformed=False)
    assert abs(np.linalg.det(unzoomed.warp.matrix)) == pytest.approx(1)


# Colours


def test_recolouring_is_per_channel_and_bounded():
    change = ColorChange.about_grey(np.diag([1, 2, 0.5]), 0.1)
    expected = [0.1, (128 / 255 - 0.5) * 2 + 0.6, 0.5 * 0.5 + 0.6]
    assert change.apply(np.array([[[0, 128, 255]]], np.uint8))[0, 0] == pytest.approx(
        [round(255 * v) for v in expected], abs=1
    )
    assert change.apply(np.full((2, 2, 3), 255, np.uint8)).max() == 255


def test_hue_and_saturation_keep_grey():
    for matrix in (hue(0.3), saturation(0.4), hue(-1) @ saturation(2)):
        assert matrix @ np.ones(3) == pytest.approx(np.ones(3))
    assert hue(2 * math.pi / 3) @ [1, 0, 0] == pytest.approx([0, 1, 0])  # red becomes green
    assert saturation(0) @ [1, 0, 0] == pytest.approx([0.299] * 3)


def test_stains_change_along_their_own_colour():
    """Twice the eosin doubles eosin's optical density and leaves haematoxylin's."""
    change = ColorChange.of_stains(np.array([1.0, 2.0, 1.0]), np.zeros(3))
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    for density, expected in ((haematoxylin, haematoxylin), (eosin * 0.5, eosin), (eosin * 0, eosin * 0)):
        pixel = np.rint(255 * np.exp(-density)).astype(np.uint8)
        assert change.apply(pixel[None, None])[0, 0] == pytest.approx(255 * np.exp(-expected), abs=2)


def test_no_colour_change_is_exact():
    pixels = rng().integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(ColorChange.draw(rng(), "none").apply(pixels), pixels)


@pytest.mark.parametrize("rule", ["mild", "paper", "hed"])
def test_drawn_colours_stay_near(rule):
    pixels = texture(64)
    for seed in range(10):
        change = ColorChange.draw(rng(seed), rule)
        assert 0.5 < np.abs(change.apply(pixels).astype(int) - pixels).mean() < 60


# The same on a device


NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("rule", ["mild", "paper", "hed", "none"])
@pytest.mark.parametrize("deformed", [False, True])
def test_device_agrees_with_the_cpu(device, rule, deformed):
    side = 64 + 2 * wide_margin_px(64, 3)
    images = np.stack([texture(256, seed)[:side, :side] for seed in range(3)])
    labels = rng().integers(0, 4, (side // 4 + 1,) * 2, dtype=np.uint8).repeat(4, 0).repeat(4, 1)[:side, :side]
    changes = [Augmentation.draw(rng(s), AugmentRules(rule), 64, 3, deformed=deformed) for s in range(2)]
    batch = [DrawnChange.of(change) for change in changes]
    pixels, targets = augment_on_device(
        torch.from_numpy(images).permute(0, 3, 1, 2).expand(2, -1, -1, -1, -1),
        torch.from_numpy(labels.copy()).expand(2, 3, -1, -1),
        DrawnChange(*(torch.stack(parts) for parts in zip(*batch, strict=True))),
        64,
        torch.device(device),
    )
    pixels, targets = pixels.cpu(), targets.cpu()
    assert pixels.shape == (2, 3, 3, 64, 64) and targets.shape == (2, 3, 64, 64)
    for b, change in enumerate(changes):
        for m in range(3):
            on_cpu = change.color.apply(changed(images[m], change.warp, m)).astype(int)
            difference = np.abs(pixels[b, m].permute(1, 2, 0).numpy() - on_cpu)
            assert difference.mean() < 0.6 and difference.max() <= 8, (difference.mean(), difference.max())
            assert (targets[b, m].numpy() == changed(labels, change.warp, m, labels=True)).mean() > 0.998


# Examples of a dataset


@pytest.fixture(scope="module")
def dataset(workspace):
    return Dataset(workspace / "dataset")


def examples_of(dataset, **options):
    return PatchExamples(dataset, dataset.patches(), augment=RULES, jitter_px=32, targets=3, **options)


def test_an_example_depends_on_its_draw_alone(dataset):
    draws = [Draw(i % 4, seed=i, deformed=i % 2 == 0) for i in range(6)]
    once, again = examples_of(dataset), examples_of(dataset, cache_bytes=1)
    first, second = [once[d] for d in draws], [again[d] for d in reversed(draws)][::-1]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
    deformed = [once[Draw(0, 5, deformed)].images for deformed in (False, True)]
    assert not torch.equal(*deformed)


def test_wide_examples_become_the_same_ones(dataset):
    for draw in (Draw(0, 1), Draw(1, 2, deformed=True)):
        on_cpu, wide = examples_of(dataset)[draw], examples_of(dataset, wide=True)[draw]
        assert isinstance(wide, WideExample)
        batch = torch.utils.data.default_collate([wide])
        there = augmented(batch, dataset.patch_spec.size_px, torch.device("cpu"))
        assert there.targets[0].shape == on_cpu.targets.shape
        assert (there.targets[0] == on_cpu.targets).float().mean() > 0.998
        assert (there.images[0].int() - on_cpu.images.int()).abs().float().mean() < 1


def test_validation_sees_patches_as_they_are(dataset):
    examples = PatchExamples(dataset, dataset.patches(), augment=None)
    unchanged = examples[Draw(0, 1)]
    assert torch.equal(unchanged.images, examples[Draw(0, 2)].images)
    copies = [examples[Draw(0, seed, deformed=True)] for seed in (1, 2, 1)]
    assert torch.equal(copies[0].images, copies[2].images) and not torch.equal(copies[0].images, copies[1].images)
    for copy in copies:  # neither turned nor recoloured, but with other borders
        assert 0 < (copy.targets != unchanged.targets).float().mean() < 0.05
        means = [example.images.float().mean(dim=(2, 3)) for example in (copy, unchanged)]
        assert (means[0] - means[1]).abs().max() < 5


def test_predicted_cache_is_an_upper_bound(dataset):
    examples = examples_of(dataset)
    for i in range(40):
        examples[Draw(i % len(dataset.patches()), seed=i, deformed=True)]
    assert 0 < examples._budget.used_bytes <= examples.tiles_bytes()


class Poisoned:
    """Grey tissue, and another value further than ``reach_px`` level-0 px from the middle."""

    def __init__(self, reach_px):
        self.info = SlideInfo(Path("x"), 2000, 2000, 0.4, (1.0, 4.0))
        self._reach_px = reach_px

    def read_level(self, level, region):
        downsample = self.info.level_downsamples[level]
        y, x = (
            (start + np.arange(length) + np.array([[0], [1]])) * downsample - 1000  # both ends of each pixel
            for start, length in ((region.y, region.height), (region.x, region.width))
        )
        far = [np.abs(ends).max(axis=0) > self._reach_px for ends in (y, x)]
        return np.where((far[0][:, None] | far[1])[..., None], np.uint8(250), np.uint8(100)).repeat(3, axis=-1)


@pytest.mark.parametrize("mpp", [0.5, 0.4])
def test_a_guard_band_is_wide_enough(mpp):
    """Whatever is drawn, no pixel of a patch comes from beyond the distance that split areas keep."""
    spec = PatchSpec(size_px=64, stride_px=64)
    grid = spec.grid_of(mpp)
    slide = CachedFields(Poisoned(augmented_reach_px(64, 3) * grid.downsample), grid, TileBudget(), 0)
    middle = round(1000 / grid.downsample / 4) * 4
    off = abs(middle - 1000 / grid.downsample)
    assert off < 1e-9
    target = Region(middle - 32, middle - 32, 64, 64)
    for seed in range(100):
        angle, zoom = (math.pi / 4, MAX_ZOOM) if seed % 2 else (rng(seed).uniform(0, 7), rng(seed).uniform(0.8, 1.25))
        warp = Warp(64, 3, turn(angle, zoom, False), draw_nodes(rng(seed), 256) * 4)
        warp = replace(warp, nodes_px=np.clip(warp.nodes_px, -4, 4))
        for m in range(3):
            sampling = warp.sampling(m)
            seen = sampling.sample(slide.read(m, sampling.source_in(grid.field(target, m))))
            assert seen.max() == 100


def test_a_sheet_of_a_batch(workspace, here):
    """Nothing is trained, and a missing folder is made."""
    line = invoke("train", "--dataset", workspace / "dataset", "--show-batch", "sheets/batch.png").stdout
    assert line.strip() == "Wrote sheets/batch.png" and not (here / "models").exists()
    with Image.open("sheets/batch.png") as picture:
        assert picture.width > 1500


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('sampler = "elastic"\nclass_order = ["dark"]', "class_order must name each class of the dataset once"),
        ('sampler = "elastic"\nrates = {drak = 2}', '"drak" is no class of the dataset; choose from'),
        ("rates = {dark = -2}", "rates.dark"),
        ("zoom = 2", "zoom"),
        ('color = "loud"', "color"),
    ],
)
def test_wrong_options_are_one_line(workspace, here, toml, message):
    Path("c.toml").write_text(f"[train]\n{toml}\n")
    assert message in fails("train", "--dataset", workspace / "dataset", "--config", "c.toml")


def test_elastic_training_says_what_it_balances(workspace, here):
    Path("c.toml").write_text(
        '[train]\npreset = "scratch"\nsampler = "elastic"\nrates = {dark = 1, light = 0}\nwidth = 4\nworkers = 0\n'
        "balance_validation = true\n"
    )
    done = invoke(
        "train", "--dataset", workspace / "dataset", "--config", "c.toml", "--epochs", 1, "--steps-per-epoch", 1
    )
    assert done.exit_code == 0, done.output
    assert "pixels" in done.stdout and "the reading process keeps 384 MiB at most (--cache)" in done.stdout
    said = re.search(r"(\d+) validation patches? \((\d+) with deformed copies\)", done.stdout)
    patches, with_copies = (int(n) for n in said.groups())
    assert patches < with_copies <= 2 * patches
    page = next(Path("models").glob("*/report.html")).read_text("utf-8")
    assert f"{patches} and {with_copies - patches} deformed cop" in page
    run = json.loads(next(Path("models").glob("*/run.json")).read_text())
    assert run["balance"]["classes"][0]["rate"] == 1
    options = run["configuration"]
    assert options["rates"] == {"dark": 1, "light": 0} and options["sampler"] == "elastic"
