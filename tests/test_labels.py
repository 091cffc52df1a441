"""Annotations -> labels; test_vectors.py goes the way back."""

import warnings

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity, box

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster, create_label_raster
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import class_pixels, index_patches, training_pixels
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec

CLASSES = ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))])


def area(name, x0, y0, x1, y1, **more):
    return Annotation(box(x0, y0, x1, y1), class_name=name, **more)


def painted(*annotations, width=5, height=4, downsample=1.0):
    return LabelPainter(annotations, CLASSES, downsample).paint(Region(0, 0, width, height))


def rows(labels):
    return ["".join(str(v) for v in row) for row in labels]


def test_pixel_centre_rule():
    assert rows(painted(area("a", 0.4, 0.6, 2.4, 3))) == ["00000", "11000", "11000", "00000"]
    assert rows(painted(area("b", 0.6, 0, 1.4, 4))) == ["00000"] * 4


def test_hole_stays_unlabelled():
    ring = box(0, 0, 5, 4).difference(box(1, 1, 3, 3))
    assert rows(painted(Annotation(ring, class_name="c"))) == ["33333", "30033", "30033", "33333"]


def test_first_class_wins_whatever_the_order_of_drawing():
    a, b = area("a", 0, 0, 3, 2), area("b", 2, 0, 5, 4)
    assert rows(painted(a, b)) == rows(painted(b, a)) == ["11122", "11122", "00222", "00222"]


def test_ignore_takes_labels_away_and_other_starred_classes_do_nothing():
    drawn = (area("Ignore*", 1, 1, 2, 2), area("a", 0, 0, 3, 3), area("Region*", 0, 0, 5, 4))
    assert rows(painted(*drawn)) == ["11100", "10100", "11100", "00000"]


def test_what_is_not_painted():
    drawn = (
        area(None, 0, 0, 5, 4),
        area("unknown", 0, 0, 5, 4),
        area("a", 0, 0, 5, 4, plane=Plane(z=1)),
        Annotation(shapely.LineString([(0, 0), (5, 4)]), class_name="a"),
        Annotation(shapely.Point(2, 2), class_name="a"),
    )
    assert not painted(*drawn).any()


def test_downsample_and_window():
    painter = LabelPainter([area("b", 4, 4, 8, 8)], CLASSES, 2.0)
    assert rows(painter.paint(Region(0, 0, 5, 5))) == ["00000", "00000", "00220", "00220", "00000"]
    assert rows(painter.paint(Region(3, 3, 2, 2))) == ["20", "00"]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_windows_equal_the_whole(data):
    corner = st.floats(-5, 45, allow_nan=False)
    drawn = [
        area(data.draw(st.sampled_from("abc")), *sorted_box(data.draw(st.tuples(corner, corner, corner, corner))))
        for _ in range(data.draw(st.integers(0, 5)))
    ]
    painter = LabelPainter(drawn, CLASSES, data.draw(st.sampled_from([1.0, 2.0, 1.37])))
    whole = painter.paint(Region(0, 0, 40, 40))
    for window in Region(0, 0, 40, 40).tiles(13):
        part = whole[window.y : window.bottom, window.x : window.right]
        assert np.array_equal(painter.paint(window), part)


def sorted_box(corners):
    x0, y0, x1, y1 = corners
    return min(x0, x1), min(y0, y1), max(x0, x1) + 0.5, max(y0, y1) + 0.5


def test_label_raster_round_trip(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, (300, 515), np.uint8)
    path = tmp_path / "labels.tif"
    with create_label_raster(path, labels.shape, CLASSES) as raster:
        for window in Region(0, 0, 515, 300).tiles(256):  # the last windows are written whole, past the border
            block = np.zeros((256, 256), np.uint8)
            part = labels[window.y : window.bottom, window.x : window.right]
            block[: part.shape[0], : part.shape[1]] = part
            raster.write(Region(window.x, window.y, 256, 256), block)
    with LabelRaster(path) as read:
        assert read.shape == (300, 515)
        assert np.array_equal(read.read(Region(0, 0, 515, 300)), labels)
        beyond = read.read(Region(-3, 290, 10, 20))
        assert not beyond[:, :3].any() and not beyond[10:].any()
        assert np.array_equal(beyond[:10, 3:], labels[290:, :7])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as tiff:
            assert tiff.colormap(1)[1] == (255, 0, 0, 255)
            assert tiff.block_shapes == [(256, 256)]


def test_damaged_label_raster(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"II*\0nonsense")
    with pytest.raises(DatasetError, match="missing or damaged"):
        LabelRaster(tmp_path / "x.tif")


def index(*annotations, size=(128, 128)):
    grid = PatchSpec(size_px=64, stride_px=64).grid_of(0.5)
    painter = LabelPainter(annotations, CLASSES, grid.downsample)
    return list(index_patches(painter, grid, size, "s", "train", len(CLASSES)))


def test_more_than_one_percent_is_needed():
    # 64 x 64 = 4096 px: 40 px are 0.98 %, 41 px are 1.001 %
    assert index(area("a", 0, 0, 40, 1)) == []
    (patch,) = index(area("a", 0, 0, 41, 1))
    assert (patch.x, patch.y, patch.label_counts) == (0, 0, (4055, 41, 0, 0))


def test_targets_beyond_the_slide_count_whole():
    (patch,) = index(area("b", 64, 0, 80, 64), size=(80, 64))
    assert (patch.x, patch.label_counts) == (64, (64 * 48, 0, 64 * 16, 0))


def test_class_pixels_and_missing_class():
    patches = index(area("a", 0, 0, 64, 64), area("b", 64, 64, 128, 128))
    assert class_pixels(patches, CLASSES).tolist() == [4096, 4096, 0]
    with pytest.raises(DatasetError, match=r'class "c" has no pixel in the training split.*--drop "c"'):
        training_pixels(patches, CLASSES)


def test_rotation_keeps_geometry_simple():
    # a rotated square covers about its area in pixels
    square = affinity.rotate(box(10, 10, 30, 30), 30)
    labels = painted(Annotation(square, class_name="a"), width=40, height=40)
    assert abs(int((labels == 1).sum()) - 400) <= 12
