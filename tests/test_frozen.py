"""A network on a pretrained encoder: which places teach its head, the head itself, and what is kept of the encoder."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmmn_qp.console import Reporter
from dmmn_qp.features.cache import FeatureCache, usual_cache
from dmmn_qp.features.computing import TILE_PX, tiles_over
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks import build_network
from dmmn_qp.networks.dmmn_p import CELL_PX
from dmmn_qp.regions import Region
from dmmn_qp.slides.beyond import mirrored_beyond
from dmmn_qp.specs import PatchSpec
from dmmn_qp.training.cells import CELLS, Cells, Place, chosen_tiles, middles, picked, targets_in
from dmmn_qp.training.head import fit_head, head_of, put_into, steps_by_groups
from tests.conftest import invoke

CPU = torch.device("cpu")


def place(column, row=0, slide="s"):
    return Place(slide, Region(column * TILE_PX, row * TILE_PX, TILE_PX, TILE_PX))


def cells_of(counts):
    """Labels of a tile's cells with so many of each class, the rest unlabelled."""
    labels = np.zeros(CELLS * CELLS, np.uint8)
    labels[: sum(counts)] = np.repeat(np.arange(1, len(counts) + 1), counts)
    return labels.reshape(CELLS, CELLS)


# ---- what lies beyond a slide


@pytest.mark.parametrize(
    ("start", "side", "length", "seen"),
    [
        (0, 4, 4, [0, 1, 2, 3]),
        (-2, 4, 9, [1, 0, 0, 1]),
        (2, 5, 5, [2, 3, 4, 4, 3]),
        (-3, 8, 2, [1, 1, 0, 0, 1, 1, 0, 0]),
        (3, 4, 4, [3, 3, 3, 3]),
    ],
)
def test_the_slide_is_mirrored_at_its_border(start, side, length, seen):
    """Only what the region holds of the slide is mirrored, however often."""
    slide = np.arange(100, 100 + length)
    row = np.array([slide[i] if 0 <= i < length else 0 for i in range(start, start + side)], np.uint8)
    pixels = np.repeat(row[None, :, None], 3, axis=2)
    across = mirrored_beyond(pixels, Region(start, 0, side, 1), (1, length))[0, :, 0]
    assert across.tolist() == [100 + i for i in seen]
    down = mirrored_beyond(pixels.transpose(1, 0, 2), Region(0, start, 1, side), (length, 1))[:, 0, 0]
    assert down.tolist() == across.tolist()


def test_what_shows_no_slide_stays_black():
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert mirrored_beyond(pixels, Region(50, 0, 2, 2), (10, 10)) is pixels


@pytest.mark.parametrize(
    ("block", "magnification", "margin", "multiple", "field"),
    [
        (Region(1024, 0, 1024, 512), 0, 128, 32, Region(896, -128, 1280, 768)),
        (Region(1024, 0, 1024, 512), 2, 128, 32, Region(128, -128, 512, 384)),
        (Region(0, 0, 512, 512), 5, 8, 32, Region(-8, -8, 32, 32)),
        (Region(0, 0, 512, 512), 5, 9, 32, Region(-24, -24, 64, 64)),
        (Region(0, 0, 64, 64), 1, 0, 1, Region(0, 0, 32, 32)),
    ],
)
def test_a_block_with_what_is_around_it(block, magnification, margin, multiple, field):
    grid = PatchSpec().grid_of(0.5)
    assert grid.around(block, magnification, margin, multiple) == field


def test_the_part_of_a_slide_that_a_magnification_shows_whole():
    grid = PatchSpec().grid_of(0.25)
    assert [grid.whole_shape(1001, 64, m) for m in range(3)] == [(32, 500), (16, 250), (8, 125)]
    assert grid.whole_shape(1, 1, 2) == (1, 1)


# ---- which cells teach


def test_tiles_over_regions():
    regions = [Region(0, 0, 256, 256), Region(1000, 1000, 256, 256)]
    assert [(tile.x, tile.y) for tile in tiles_over(regions)] == [(0, 0), (1024, 0), (0, 1024), (1024, 1024)]


def test_cells_of_targets():
    inside = targets_in(
        Region(TILE_PX, 0, TILE_PX, TILE_PX),
        [PatchRef("s", "train", 1024, 256, (0,)), PatchRef("s", "train", 896, 768, (0,))],
        256,
    )
    rows, columns = np.nonzero(inside)
    assert inside.sum() == 64 * 64 + 64 * 32
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 255, 0, 63)


def test_a_cell_has_the_label_of_its_middle():
    labels = np.zeros((TILE_PX, TILE_PX), np.uint8)
    labels[2, 6] = 5
    labels[3, 3] = 7
    cells = middles(labels)
    assert cells.shape == (CELLS, CELLS) and cells[0, 1] == 5 and cells.sum() == 5


def test_every_cell_of_a_class_is_as_likely():
    """Class 1: 100, 10 and 2 cells, of which 56 are wanted, about 50, 5 and 1. Class 2: all 5."""
    labels = {place(0): cells_of([100, 0]), place(1): cells_of([10, 5]), place(2): cells_of([2, 0])}
    chosen, stands_for = picked(labels, 2, np.random.default_rng(0), [56, 56])
    found = {p: np.bincount(labels[p][rows[:, 0], rows[:, 1]], minlength=3) for p, rows in chosen.items()}
    assert all(counts[0] == 0 for counts in found.values())  # nothing that has no label
    ones, twos = (np.array([counts[c] for counts in found.values()]) for c in (1, 2))
    assert ones.sum() == 56 and np.abs(ones - [50, 5, 1]).max() <= 6 and twos.tolist() == [0, 5, 0]
    assert all(len(np.unique(rows, axis=0)) == len(rows) for rows in chosen.values())
    assert stands_for.tolist() == [2, 1]
    assert picked({place(0): cells_of([0, 0])}, 2, np.random.default_rng(0), [9, 9])[0][place(0)].shape == (0, 2)


def test_rare_classes_keep_their_tiles():
    labels = {place(i): cells_of([9, 0, 0]) for i in range(30)}
    labels[place(30)] = cells_of([9, 1, 0])
    labels[place(31)] = cells_of([0, 0, 1])
    chosen = chosen_tiles(labels, 3, np.random.default_rng(0), most=5)
    assert len(chosen) == 5 and {place(30), place(31)} <= set(chosen)
    assert chosen == sorted(chosen, key=list(labels).index)
    assert chosen_tiles(labels, 3, np.random.default_rng(0)) == list(labels)


# ---- the head


def blobs(n, seed=0, groups=1, offset=50.0):
    """Three classes about three points, far from 0 and of unequal spread, as features are."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, n)
    vectors = np.c_[classes == 1, classes == 2] * 0.1 + rng.normal(0, 0.02, (n, 2)) + [offset, 0]
    numbers = torch.from_numpy(classes)
    return Cells(
        torch.from_numpy(vectors).half() if offset < 1 else torch.from_numpy(vectors).float(),
        numbers,
        torch.ones(n),
        torch.arange(n) % groups,
        torch.zeros(n, dtype=torch.bool),
    )


def test_a_head_learns_and_stops_where_others_say():
    fitted = fit_head(blobs(2000), blobs(500, seed=1), 3, 8, seed=0, device=CPU)
    assert fitted.mean_iou > 0.99 and fitted.mean_iou == max(fitted.curve[3:])
    assert fitted.steps == 50 * (fitted.curve.index(max(fitted.curve[3:]), 3) + 1)
    assert len(fitted.curve) <= fitted.steps // 50 + 8
    again = fit_head(blobs(2000), blobs(500, seed=1), 3, 8, seed=0, device=CPU)
    assert all(torch.equal(a, b) for a, b in zip(fitted.weights, again.weights, strict=True))
    other = fit_head(blobs(2000), blobs(500, seed=1), 3, 8, seed=1, device=CPU)
    assert not torch.equal(fitted.weights[0], other.weights[0])


def test_a_head_is_not_stopped_early_by_the_luck_of_few_cells():
    """Cells that like a head the worse the longer it learns: their labels are wrong."""
    wrong = blobs(30, seed=1)
    wrong = replace(wrong, classes=(wrong.classes + 1) % 3)
    fitted = fit_head(blobs(2000), wrong, 3, 8, seed=0, device=CPU)
    assert fitted.steps == 200
    assert (
        steps_by_groups(replace(blobs(900, groups=3), classes=blobs(900, seed=2).classes), 3, 8, seed=0, device=CPU)
        >= 200
    )


def test_random_numbers_of_others_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_head(blobs(100), None, 3, 4, seed=0, device=CPU, steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_a_head_takes_vectors_as_they_are():
    """Standardisation is part of its first layer, so that a network needs no more than convolutions."""
    cells = blobs(2000)
    first, bias, last, last_bias = fit_head(cells, None, 3, 8, seed=0, device=CPU, steps=300).weights
    hidden = (cells.vectors @ first.T + bias).relu()
    assert ((hidden @ last.T + last_bias).argmax(1) == cells.classes).float().mean() > 0.99


def test_a_head_goes_on_from_where_another_was():
    cells = blobs(2000)
    before = fit_head(cells, None, 3, 8, seed=0, device=CPU, steps=300)
    after = fit_head(cells, blobs(500, seed=1), 3, 8, seed=3, device=CPU, start=before.weights)
    scratch = fit_head(cells, blobs(500, seed=1), 3, 8, seed=3, device=CPU)
    assert after.curve[0] > 0.98 > scratch.curve[0]


def test_rare_classes_are_drawn_as_often():
    """One cell in fifty is of class 1; drawn as they come, it would be passed over after so few steps."""
    rng = np.random.default_rng(0)
    classes = torch.from_numpy((np.arange(2000) % 50 == 0).astype(np.int64))
    vectors = torch.from_numpy(rng.normal(0, 1, (2000, 2)) + 1.5 * classes[:, None].numpy()).float()
    cells = Cells(vectors, classes, torch.ones(2000), torch.zeros(2000), torch.zeros(2000, dtype=torch.bool))
    first, bias, last, last_bias = fit_head(cells, None, 2, 8, seed=0, device=CPU, steps=150).weights
    found = ((vectors @ first.T + bias).relu() @ last.T + last_bias).argmax(1)
    assert (found == 1)[classes == 1].float().mean() > 0.7


def test_steps_are_chosen_on_other_slides():
    assert 200 <= steps_by_groups(blobs(900, groups=3), 3, 8, seed=0, device=CPU) <= 1500
    alone = blobs(90)
    assert steps_by_groups(alone, 3, 8, seed=0, device=CPU) == 300  # nothing is left to judge by


def test_a_network_takes_a_head_and_gives_it_back():
    torch.manual_seed(0)
    network = build_network("dmmn-p", classes=3, width=8, magnifications=2, size_px=64).network.eval()
    dimensions = sum(network.channels)
    weights = (torch.randn(8, dimensions), torch.randn(8), torch.randn(3, 8), torch.randn(3))
    put_into(network, weights)
    assert all(torch.equal(a, b) for a, b in zip(head_of(network), weights, strict=True))
    with torch.inference_mode():
        maps = network.see([torch.rand(1, 3, 128, 128), torch.rand(1, 3, 64, 64)])
        side = 64 // CELL_PX
        cells = torch.tensor([[0, 0], [3, 9], [15, 15]])
        vectors = network.vectors(maps, cells, side, side)
        logits = (vectors @ weights[0].T + weights[1]).relu() @ weights[2].T + weights[3]
        dense = network.of_cells(maps, side, side)[0][:, cells[:, 0], cells[:, 1]].T
    assert torch.allclose(logits, dense, atol=1e-3, rtol=1e-3)


# ---- what is kept of the encoder


class Told(Reporter):
    def __init__(self):
        super().__init__()
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def maps(value):
    return [torch.full((1, 2, 3, 3), float(value)).half(), torch.full((1, 1, 2, 2), float(value)).half()]


TILE = Region(1024, 0, 1024, 1024)


def test_maps_are_kept(tmp_path):
    kept = FeatureCache(tmp_path / "c", 10**6, Told()).folder_of("ab" * 32)
    assert not kept.has(TILE) and kept.get(TILE) is None
    kept.put(TILE, maps(3))
    again = FeatureCache(tmp_path / "c", 10**6, Told()).folder_of("ab" * 32)
    assert again.has(TILE) and all(torch.equal(a, b) for a, b in zip(again.get(TILE), maps(3), strict=True))
    assert not FeatureCache(tmp_path / "c", 10**6, Told()).folder_of("cd" * 32).has(TILE)


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_damaged_maps_are_as_good_as_none(tmp_path, damage):
    kept = FeatureCache(tmp_path, 10**6, Told()).folder_of("ab" * 32)
    kept.put(TILE, maps(3))
    (path,) = kept.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    assert kept.get(TILE) is None


def test_the_oldest_slides_go_where_there_is_no_room(tmp_path):
    kept = FeatureCache(tmp_path, 10**6, Told()).folder_of("aa" * 32)
    kept.put(TILE, maps(0))
    cache = FeatureCache(tmp_path, 2 * next(kept.folder.iterdir()).stat().st_size, Told())
    for i, key in enumerate(("aa" * 32, "bb" * 32, "cc" * 32)):
        kept = cache.folder_of(key)
        kept.put(TILE, maps(i))
        os.utime(kept.folder, (i, i))
    (tmp_path / "mine").mkdir()
    with cache.room():
        pass
    assert [cache.folder_of(key * 32).has(TILE) for key in ("aa", "bb", "cc")] == [False, True, True]
    assert (tmp_path / "mine").is_dir()


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    told = Told()
    kept = FeatureCache(tmp_path / "file", 10**6, told).folder_of("ab" * 32)
    for i in range(3):
        kept.put(Region(1024 * i, 0, 1024, 1024), maps(i))
    assert len(told.warnings) == 1 and "DMMN_QP_CACHE" in told.warnings[0]
    nowhere = FeatureCache(None, 10**6, told).folder_of("ab" * 32)
    nowhere.put(TILE, maps(1))
    assert nowhere.get(TILE) is None and len(told.warnings) == 1


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DMMN_QP_CACHE", str(tmp_path / "here"))
    assert usual_cache(Told()).folder == tmp_path / "here" / "features"


def test_clean_removes_what_can_be_made_again_and_nothing_else(here, monkeypatch):
    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "c"))
    assert invoke("clean").stdout.strip() == "Nothing to remove"
    FeatureCache(here / "c" / "features", 10**6, Told()).folder_of("ab" * 32).put(TILE, maps(3))
    (here / "c" / "features" / "mine").mkdir()
    (here / "c" / "encoders").mkdir()
    assert "Removed 0 MiB" in invoke("clean", "--yes").stdout
    assert [path.name for path in (here / "c" / "features").iterdir()] == ["mine"]
    (here / "c" / "features" / "mine").rmdir()
    FeatureCache(here / "c" / "features", 10**6, Told()).folder_of("ab" * 32).put(TILE, maps(3))
    invoke("clean", "--yes")
    assert [path.name for path in (here / "c").iterdir()] == ["encoders"]
