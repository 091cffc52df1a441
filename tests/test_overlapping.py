"""Targets that overlap: where they lie, how they are blended, and that no seam shows."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from dmmn_qp.folders.model import load_model
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.predicting.overlapping import Layout, blended, enlarged_bands, starts, turned
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.transformed import Crop
from tests.conftest import DEMO, REPOSITORY, write_tiff
from tests.predicting import predict_whole
from tests.test_prediction import CPU, card, in_float64, network_of  # noqa: F401


@pytest.mark.parametrize(
    ("length", "size", "step", "shift", "expected"),
    [
        (100, 256, 4, 0, (0,)),  # smaller than a target
        (256, 256, 4, 4, (0,)),
        (257, 256, 4, 4, (0, 4)),
        (300, 256, 4, 4, (0, 44)),
        (484, 256, 4, 4, (0, 228)),  # 28 px in common
        (1000, 256, 4, 4, (0, 228, 456, 684, 744)),
        (2304, 256, 4, 0, (0, 224, 452, 680, 908, 1136, 1364, 1592, 1820, 2048)),  # the period is 8 x 256
        (900, 256, 64, 0, (0, 128, 320, 512, 704)),  # on pixels of shared maps
        (200, 64, 64, 0, (0, 64, 128, 192)),  # no room to overlap
    ],
)
def test_starts(length, size, step, shift, expected):
    assert starts(length, size, step, shift) == expected


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("step", [1, 4, 32])
def test_every_pixel_is_covered_and_neighbours_overlap(size, step):
    for length in [*range(1, 5 * size, 37), 20 * size, 20 * size + 1]:
        found = starts(length, size, step)
        assert found[0] == 0 and length <= found[-1] + size < max(length, size) + step + size * (length < size)
        assert all(start % step == 0 for start in found)
        for one, next_one in pairwise(found):
            assert one < next_one <= one + size - size // 10 + step


def test_corners_are_those_that_touch_what_is_wanted():
    layout = Layout.of((1500, 1700), 64, 4, ahead=4)
    rng = np.random.default_rng(0)
    for block in (Region(0, 0, 512, 512), Region(512, 1024, 1536, 512), Region(1536, 0, 192, 512)):
        wanted = rng.random((block.height // 64, block.width // 64)) < 0.2
        expected = []
        for top in layout.tops:
            for left in layout.lefts:
                seen = Region(left, top, 64, 64)
                squares = (Region(block.x + c * 64, block.y + r * 64, 64, 64) for r, c in np.argwhere(wanted))
                if any(seen.intersection(square) for square in squares):
                    expected.append((top, left))
        assert layout.corners(block, wanted.tolist()) == expected != []
        around = layout.around(block)
        assert around.intersection(block) is not None
        assert around.y <= min(y for y, _ in expected) and around.right >= max(x for _, x in expected) + 64


def test_blocks_hardly_share_targets():
    """Of a block of 8 x 24 targets it is 10 x 28: 1.46 times as many. One more on each side would be 1.66 times."""
    layout = Layout.of((100_000, 100_000), 256, 4, ahead=4)
    block = Region(3 * 6144, 5 * 2048, 6144, 2048)
    assert len(layout.corners(block, np.ones((8, 24), bool).tolist())) == 10 * 28


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turned_corners_are_where_numpy_turns_them(quarters, mirrored):
    corners, size, canvas = [(0, 1), (2, 5), (4, 0)], 3, np.zeros((7, 9), int)
    for number, (y, x) in enumerate(corners, 1):
        canvas[y, x], canvas[y + size - 1, x + size - 1] = number, number
        canvas[y, x + size - 1], canvas[y + size - 1, x] = number, number
    canvas = np.rot90(canvas[:, ::-1] if mirrored else canvas, quarters)
    expected = sorted(tuple(np.argwhere(canvas == number).min(0)) for number in (1, 2, 3))
    assert turned(corners, size, (7, 9), quarters, mirrored=mirrored) == expected


def test_blended_is_the_weighted_mean():
    size, width, rng = 16, 50, np.random.default_rng(0)
    corners = [(y, x) for y in (0, 10, 12, 25) for x in (0, 12, 34)]
    of = {corner: torch.from_numpy(rng.normal(size=(2, size, size))) for corner in corners}
    rise = np.minimum((np.minimum(np.arange(16), np.arange(15, -1, -1)) + 0.5) / 2, 1)
    weights = np.outer(rise, rise)
    summed, counted = np.zeros((2, 41, width)), np.zeros((41, width))
    for (y, x), part in of.items():
        summed[:, y : y + size, x : x + size] += part.numpy() * weights
        counted[y : y + size, x : x + size] += weights
    expected = np.divide(summed, counted, out=np.zeros_like(summed), where=counted > 0)

    def predict(some):
        for corner in some:
            yield [corner], of[corner][None]

    found, rows = np.full((2, 41, width), np.nan), 0
    for top, band in blended(corners, size, width, predict):
        assert top == rows and band.shape[2] <= size
        found[:, top : top + band.shape[2]] = band[0].numpy()
        rows += band.shape[2]
    assert rows == 41 and np.allclose(found, expected)
    assert (found[:, :, 28:34] == 0).all()  # where no target lies


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
def test_bands_are_enlarged_as_the_whole(rows):
    canvas = torch.rand(1, 2, 13, 5, dtype=torch.float64)

    def enlarge(x):
        return torch.nn.functional.interpolate(x, scale_factor=4, mode="bilinear")

    found = list(enlarged_bands(canvas, 4, rows, enlarge))
    assert [top for top, _ in found] == list(range(0, 52, 4 * rows))
    assert torch.allclose(torch.cat([band for _, band in found], 2), enlarge(canvas), atol=1e-14)


def slide_of(tmp_path, rows, columns):
    pixels = np.random.default_rng(1).integers(0, 256, (rows, columns, 3), np.uint8)
    path = write_tiff(tmp_path / "noise.tif", pixels)
    return lambda: open_slide(path)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("architecture", "stem", "size", "magnifications"),
    [("unet", "quarter", 64, 1), ("dmmn-s2", "half", 64, 2), ("dmmn-m3", "full", 256, 2)],
)
@pytest.mark.parametrize("averaged", [False, True])
def test_a_slide_of_one_target_is_as_without(tmp_path, architecture, stem, size, magnifications, averaged):
    of = card(architecture, size, stem, magnifications)
    network, slide = network_of(of), slide_of(tmp_path, size, size - 20)
    found, expected = (
        predict_whole(
            slide, Predictor(of, network, CPU, context=context, probabilities=True, views=8 if averaged else 1)
        )
        for context in ("blended", "patch")
    )
    assert all(np.array_equal(found[kind], expected[kind]) for kind in expected)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("stem", "averaged"), [("quarter", False), ("quarter", True), ("full", False)])
def test_labels_do_not_depend_on_the_block(tmp_path, monkeypatch, stem, averaged):
    of = card("unet", 64, stem, 1)
    predictor = Predictor(of, network_of(of), CPU, context="blended", probabilities=True, views=8 if averaged else 1)
    slide, found = slide_of(tmp_path, 600, 1150), []
    for rows, columns in ((8, 8), (8, 24), (16, 16)):
        monkeypatch.setattr(Predictor, "block_targets", rows)
        monkeypatch.setattr(Predictor, "block_columns", columns)
        found.append(predict_whole(slide, predictor))
    assert len(np.unique(found[0]["labels"])) > 1
    for other in found[1:]:
        assert all(np.array_equal(other[kind], found[0][kind]) for kind in other)
    patch = predict_whole(slide, Predictor(of, predictor.network, CPU, probabilities=True))
    assert (patch["labels"] != found[0]["labels"]).any()


def seams(labels, size=256):
    """How many times as often the label changes across borders of targets as across others."""
    across = [(labels[:, 1:] != labels[:, :-1]).mean(0), (labels[1:] != labels[:-1]).mean(1)]
    at_border = [np.arange(1, len(changes) + 1) % size == 0 for changes in across]
    on = np.concatenate([c[b] for c, b in zip(across, at_border, strict=True)]).mean()
    return on / np.concatenate([c[~b] for c, b in zip(across, at_border, strict=True)]).mean()


def test_no_seams_by_default():
    """The model that comes with the project: seams go, and the figures stay."""
    of, network = load_model(REPOSITORY / "models" / "demo")
    network.network.views = 1  # of three, for the sake of time
    top, width, height = 1536, 2304, 512  # beyond one block

    def slide():
        return open_slide(DEMO / "slides" / "val-1.tif", frame=[Crop(x=0, y=top, width=width, height=height)])

    with Image.open(DEMO / "truth" / "val-1.png") as picture:
        truth = np.asarray(picture)[top : top + height, :width]
    found = {c: predict_whole(slide, Predictor(of, network, CPU, context=c))["labels"] for c in ("patch", "blocks")}
    iou = {c: Metrics.from_confusion(confusion_matrix(truth, found[c], 6)).mean_iou for c in found}
    assert seams(found["patch"]) > 8 > 3 * seams(found["blocks"])
    changes = (found["blocks"][:, 1:] != found["blocks"][:, :-1]).sum(0)
    assert changes[2047] < 2 * changes.mean()  # where two blocks meet; 23 in place of 3 if each were enlarged by itself
    assert iou["blocks"] > iou["patch"] - 0.03  # real tissue is far better so: docs/prediction.md
