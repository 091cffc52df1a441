"""Labels -> polygons -> QuPath objects, and back to the same labels."""

import gzip
import itertools
import json
import threading
from functools import cache
from uuid import UUID

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize, shapes
from scipy import ndimage
from shapely.geometry import shape

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.outputs.made_objects import MadeObjects, OfClass
from dmmn_qp.outputs.objects import Frame, measure_sums, outline_features
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath import marks
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import class_code, is_marked, is_outline_id, marked_id, outline_id
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.vectors.cleaning import clean
from dmmn_qp.vectors.cracks import Arcs, Cracks
from dmmn_qp.vectors.outlines import Outlines, join, starts
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.simplify import LONGEST_PX, simplify_arcs
from dmmn_qp.vectors.sources import ArrayLabels
from dmmn_qp.vectors.tracing import trace_strip
from tests.conftest import DEMO, fails, invoke, two_tissues, write_tiff

NONE = frozenset()
CLASSES = ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255)), ("Ignore*", (9, 9, 9))])

small_maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 3))
cells = st.sampled_from([1, 2, 3, 5, 8])
times = st.integers(1, 3)


def test_the_drawing_of_cracks_is_what_they_are():
    """The map in the docstring of `cracks`: its vertices, their ports, its arcs and the rings."""
    labels = np.array([[1, 1, 2], [1, 2, 2]], np.uint8)
    cracks = Cracks(labels, None, 0, 2, 1024)
    places = [(int(x), int(y)) for x, y in zip(cracks.x, cracks.y, strict=True)]
    assert places == [(0, 0), (2, 0), (3, 0), (1, 1), (2, 1), (0, 2), (1, 2), (3, 2)]
    assert [places[i] for i in np.flatnonzero(~cracks.node)] == [(1, 1), (2, 1)]
    assert cracks.bits[places.index((2, 0))] == 11 and cracks.bits[places.index((2, 1))] == 5
    assert cracks.partner[4 * places.index((0, 0)) + 1] == 4 * places.index((2, 0))
    arcs = Arcs(cracks)
    found = [[places[v] for v in arcs.vertices[a:b]] for a, b in itertools.pairwise(arcs.offsets)]
    assert len(found) == 7 and [(2, 0), (2, 1), (1, 1), (1, 2)] in found
    a, b = traced(labels).geometries()
    assert list(a.exterior.coords) == [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2), (0, 0)]
    assert list(b.exterior.coords) == [(2, 0), (3, 0), (3, 2), (1, 2), (1, 1), (2, 1), (2, 0)]


def traced(labels, **options) -> Outlines:
    options = {"skip": NONE, **options}
    return join(list(polygonize(ArrayLabels(labels), **options)))


def blobs(rows, columns, seed=0, classes=4, smooth=9.0):
    """Labels 1 .. classes in smooth blobs with ragged borders."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(rows, columns)), smooth) for _ in range(classes)]
    ragged = [f / f.std() + 0.12 * ndimage.gaussian_filter(rng.normal(size=f.shape), 0.7) for f in fields]
    return (np.argmax(ragged, axis=0) + 1).astype(np.uint8)


@cache
def map_of(seed):
    return blobs(200, 300, seed)


def plain(polygon):
    """A polygon in one way of writing it, without points on straight lines."""
    return shapely.normalize(shapely.simplify(polygon, 0)).wkb


def as_set(outlines):
    return sorted(
        (plain(p), int(label)) for p, label in zip(outlines.geometries(), outlines.labels.tolist(), strict=True)
    )


def whole_map(labels):
    """What GDAL makes of the whole map."""
    return sorted((plain(shape(geometry)), int(value)) for geometry, value in shapes(labels, connectivity=4))


def assert_coverage(outlines, area):
    geometries = outlines.geometries()
    assert shapely.is_valid(geometries).all()
    assert shapely.coverage_is_valid(geometries)
    assert shapely.area(geometries).sum() == pytest.approx(area, abs=1e-6)
    assert outlines.areas() == pytest.approx(shapely.area(geometries))
    assert outlines.perimeters() == pytest.approx(shapely.length(geometries))


@given(small_maps, cells, times)
@settings(max_examples=120, deadline=None)
def test_strips_equal_the_whole_map(labels, cell, n):
    found = traced(labels, cell_px=cell, strip_px=n * cell)
    assert as_set(found) == whole_map(labels)
    assert_coverage(found, labels.size)


@pytest.mark.parametrize("strip", [64, 128, 512])
def test_strips_equal_the_whole_map_of_blobs(strip):
    labels = map_of(1)
    found = traced(labels, cell_px=64, strip_px=strip)
    assert as_set(found) == whole_map(labels)
    assert len(set(found.anchors.tolist())) == len(found)
    for anchor, label in zip(found.anchors.tolist(), found.labels.tolist(), strict=True):
        assert labels[anchor >> 32, anchor & 0xFFFFFFFF] == label


@given(small_maps, cells, st.sampled_from([0.8, 1.5, 4.0]))
@settings(max_examples=100, deadline=None)
def test_simplified_neighbours_stay_together_whatever_the_strips(labels, cell, tolerance):
    found = [traced(labels, cell_px=cell, strip_px=n * cell, simplify_px=tolerance) for n in (1, 2, 7)]
    assert_coverage(found[0], labels.size)
    assert len(found[0]) == len(whole_map(labels))  # none vanishes
    assert sorted(shapely.to_wkb(found[0].geometries())) == sorted(shapely.to_wkb(found[1].geometries()))
    assert sorted(shapely.to_wkb(found[0].geometries())) == sorted(shapely.to_wkb(found[2].geometries()))


@given(small_maps, cells, st.sampled_from([0.0, 1.5]))
@settings(max_examples=80, deadline=None)
def test_split_regions_are_a_coverage_too(labels, cell, tolerance):
    found = traced(labels, cell_px=cell, strip_px=2 * cell, simplify_px=tolerance, max_vertices=9)
    assert_coverage(found, labels.size)
    whole = traced(labels, cell_px=cell, strip_px=2 * cell, simplify_px=tolerance)
    for anchor in set(whole.anchors.tolist()):  # the pieces make up their region
        pieces = shapely.union_all(found.take(found.anchors == anchor).geometries())
        assert pieces.equals(whole.take(whole.anchors == anchor).geometries()[0])
    parts = list(zip(found.anchors.tolist(), found.parts.tolist(), strict=True))
    assert len(set(parts)) == len(parts)


def test_no_piece_is_larger_than_asked_where_the_grid_allows():
    found = traced(map_of(2), cell_px=16, strip_px=64, max_vertices=120)
    assert found.vertices.max() <= 120
    assert traced(map_of(2), cell_px=16, strip_px=64).vertices.max() > 120


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 4.0])
def test_simplifying_blobs(tolerance):
    labels = map_of(3)
    exact = traced(labels, cell_px=64, strip_px=64)
    found = traced(labels, cell_px=64, strip_px=64, simplify_px=tolerance)
    assert_coverage(found, labels.size)
    assert len(found) == len(exact)
    assert len(found.xy) < {1.0: 0.75, 2.0: 0.5, 4.0: 0.45}[tolerance] * len(exact.xy)
    back = rasterize(zip(found.geometries(), found.labels.tolist(), strict=True), labels.shape, dtype=np.uint8)
    assert (back > 0).all()
    assert (back != labels).mean() < {1.0: 0.01, 2.0: 0.03, 4.0: 0.06}[tolerance]


def test_a_seam_cannot_be_told_from_other_rows():
    """Simplified borders near lines of the grid are as far from the true ones as anywhere."""
    labels = blobs(512, 512, 4)
    found = traced(labels, cell_px=64, strip_px=64, simplify_px=2.0)
    back = rasterize(zip(found.geometries(), found.labels.tolist(), strict=True), labels.shape, dtype=np.uint8)
    changed = (back != labels).mean(1)
    near = np.minimum(np.arange(512) % 64, -np.arange(512) % 64) <= 2
    assert changed[near].mean() <= 1.2 * changed[~near].mean()
    y = found.xy[:, 1]
    on_line = np.bincount(y, minlength=513)[64:512:64].mean()
    elsewhere = np.bincount(y, minlength=513)[1:512].mean()
    assert on_line < 6 * elsewhere  # a crossing point on each border, and no straight run along the seam


def test_a_region_over_many_strips_costs_no_more_for_it():
    """The comb's back ends last: its teeth are joined once, whatever the number of strips."""
    labels = np.ones((600, 200), np.uint8)
    labels[:-1, ::2] = 2
    found = traced(labels, cell_px=8, strip_px=8)
    assert as_set(found) == whole_map(labels)


def test_corner_neighbours_are_apart_and_skipped_labels_missing():
    found = traced(np.array([[1, 2], [2, 1]], np.uint8), skip=frozenset({2}))
    bounds = [(label, p.bounds) for label, p in zip(found.labels.tolist(), found.geometries(), strict=True)]
    assert sorted(bounds) == [(1, (0.0, 0.0, 1.0, 1.0)), (1, (1.0, 1.0, 2.0, 2.0))]


@pytest.mark.parametrize(
    ("cores", "most_px", "at_once"), [(1, 2**27, 1), (3, 2**27, 3), (64, 2**27, 4), (64, 20_000, 2)]
)
def test_strips_are_traced_side_by_side_and_come_in_order(monkeypatch, cores, most_px, at_once):
    """As many as there are cores for, and memory; what comes out is the same."""
    labels = map_of(5)
    expected = traced(labels, cell_px=32, strip_px=32)
    lock, meeting = threading.Lock(), threading.Barrier(at_once)
    running: list[int] = []
    most: list[int] = []

    def traced_together(pixels, above, top, *others):
        with lock:
            running.append(top)
            most.append(len(running))
        if top < 32 * at_once:
            meeting.wait(30)  # the first ones meet only where they run at once
        strip = trace_strip(pixels, above, top, *others)
        with lock:
            running.remove(top)
        return strip

    monkeypatch.setattr("dmmn_qp.vectors.polygonize.available_cores", lambda: cores)
    monkeypatch.setattr("dmmn_qp.vectors.polygonize.MOST_PX_AT_ONCE", most_px)
    monkeypatch.setattr("dmmn_qp.vectors.polygonize.trace_strip", traced_together)
    found = traced(labels, cell_px=32, strip_px=32)
    assert max(most) == at_once
    assert np.array_equal(found.xy, expected.xy) and np.array_equal(found.anchors, expected.anchors)


def test_a_map_that_cannot_be_read_to_its_end_says_so():
    class Cut(ArrayLabels):
        def read(self, window):
            if window.y >= 128:
                raise DatasetError("cut")
            return super().read(window)

    with pytest.raises(DatasetError, match="cut"):
        list(polygonize(Cut(map_of(5)), cell_px=32, strip_px=32))


def test_strips_must_end_on_the_grid():
    with pytest.raises(ValueError, match="no multiple"):
        traced(np.ones((4, 4), np.uint8), cell_px=3, strip_px=4)


def cleaned(labels, min_area=0.0, min_hole=0.0, cell=4, n=1):
    source = clean(ArrayLabels(labels), min_area, min_hole, cell_px=cell, strip_px=n * cell)
    return np.concatenate([source.read(Region(0, y, labels.shape[1], 1)) for y in range(len(labels))])


def picture(text):
    return np.array([[int(c) for c in line] for line in text.split()], np.uint8)


def test_small_region_joins_the_neighbour_with_the_longest_border():
    labels = picture("111222 113322 113322 222222")
    assert np.array_equal(cleaned(labels, 5), picture("111222 112222 112222 222222"))
    assert np.array_equal(cleaned(labels, 4), labels)


def test_small_region_at_small_regions():
    # The 3 (2 px) joins the 2 beside it, which is small as well; together they join the 1.
    assert np.array_equal(cleaned(picture("111111 123311 122111 111111"), 6), picture("111111 111111 111111 111111"))


def test_holes_are_filled_whatever_is_in_them():
    labels = picture("1111111 1222211 1232211 1222211 1111111")
    assert np.array_equal(cleaned(labels, 0, 13), np.ones_like(labels))
    assert np.array_equal(cleaned(labels, 0, 12), picture("1111111 1222211 1222211 1222211 1111111"))
    assert np.array_equal(cleaned(labels, 0, 1), labels)


def test_cleaning_a_map_of_one_region_or_of_small_ones_alone():
    assert np.array_equal(cleaned(np.full((3, 3), 2, np.uint8), 100, 100), np.full((3, 3), 2))
    assert len(np.unique(cleaned(picture("12 34"), 100))) == 1


@given(small_maps, cells, times, st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_after_cleaning_no_small_region_is_left(labels, cell, n, least):
    found = cleaned(labels, least, 0, cell, n)
    assert np.array_equal(found, cleaned(labels, least, 0, 8, 1))  # whatever the strips
    areas = traced(found).areas()
    assert areas.min() >= min(least, labels.size)
    for label in np.unique(labels):  # what was large enough keeps its label
        parts, count = ndimage.label(labels == label)
        sizes = ndimage.sum_labels(np.ones_like(parts), parts, np.arange(1, count + 1))
        for i in np.flatnonzero(sizes >= least) + 1:
            assert (found[parts == i] == label).all()


@given(small_maps, cells, st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_after_filling_no_small_hole_is_left(labels, cell, least):
    found = traced(cleaned(labels, 0, least, cell))
    holes = [shapely.Polygon(h).area for p in found.geometries() for h in p.interiors]
    assert not holes or min(holes) >= least


@given(small_maps, cells)
@settings(max_examples=40, deadline=None)
def test_sums_strip_by_strip(labels, cell):
    values = np.random.default_rng(0).integers(0, 256, labels.shape, np.uint8)
    found = traced(labels)
    sums, counts = measure_sums(found, ArrayLabels(values), strip_px=cell)
    for i, polygon in enumerate(found.geometries()):
        inside = rasterize([polygon], labels.shape).astype(bool)
        assert (sums[i], counts[i]) == (values[inside].sum(), inside.sum())


def objects(labels, downsample=1.0, size=None, confidence=None, **options):
    """Objects of a map on a slide of 0.25 um/px."""
    height, width = size or (round(labels.shape[0] * downsample), round(labels.shape[1] * downsample))
    options = PredictOptions(**{"simplify_um": 0, "min_area_um2": 0, **options})
    frame = Frame(width, height, 0.25, downsample)
    return outline_features(
        ArrayLabels(labels),
        frame,
        CLASSES,
        options,
        identity="slide/model",
        metadata={"dmmn_qp": "m"},
        confidence=None if confidence is None else ArrayLabels(confidence),
    )


def written(path, labels, **options):
    write_geojson(path, objects(labels, **options))
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())["features"]


def test_fixed_labels_neither_join_nor_take_in():
    def kept(labels, *least):
        source = clean(ArrayLabels(labels), *least, fixed=frozenset({0}))
        return np.concatenate([source.read(Region(0, y, labels.shape[1], 1)) for y in range(len(labels))])

    alone = picture("0000000 0110220 0000020 0000000")  # as in regions of interest
    assert np.array_equal(kept(alone, 100, 100), alone)
    # The 2 goes to the 1, though its border with the 0 is longer; the 0 inside stays in the region that is filled.
    assert np.array_equal(kept(picture("0000 0220 1111 1111"), 5, 0), picture("0000 0110 1111 1111"))
    labels = picture("11111 12221 12021 12221 11111")
    assert np.array_equal(kept(labels, 0, 10), picture("11111 11111 11011 11111 11111"))


def test_what_became_of_regions_is_counted():
    """Pixels of 0.25 um, 0.0625 um2: the 3 of 2 px joins the 1, the 2 of 8 px stays, 4 is ignored by QuPath."""
    labels = picture("111111111 122221331 122221111 111111441")
    made = MadeObjects()
    options = PredictOptions(simplify_um=0, min_area_um2=0.5)
    list(
        outline_features(
            ArrayLabels(labels), Frame(9, 4, 0.25, 1.0), CLASSES, options, identity="i", metadata={}, made=made
        )
    )
    assert made.objects == 2 and made.dissolved == 2
    assert made.classes["c"] == OfClass(regions=1, dissolved=1, dissolved_um2=0.125, objects=0)
    assert made.description() == {
        "count": 2,
        "dissolved": {"c": {"regions": 1, "area_um2": 0.12}, "Ignore*": {"regions": 1, "area_um2": 0.12}},
    }
    assert made.summary(options) == "2 objects; 2 regions of less than 0.5 um2 (0.25 um2 in all) joined neighbours"
    (line,) = made.vanished_words(options)
    assert line.startswith('no object of "c" is left, all of its regions (1) are smaller than --min-area-um2 0.5')


@pytest.mark.parametrize(("kind", "many"), [("annotation", 10_000), ("detection", 100_000)])
def test_very_many_objects_are_warned_of(kind, many):
    options = PredictOptions(object_kind=kind)
    assert MadeObjects({"a": OfClass(objects=many)}).warning(options, 10**7) is None
    warning = MadeObjects({"a": OfClass(objects=many), "b": OfClass(objects=1)}).warning(options, 11_400_000)
    assert f"{many + 1:,} objects in 11.4 MB" in warning and "a larger --min-area-um2 than 200" in warning
    assert ("--as detection" in warning) == (kind == "annotation") and "--merge class" in warning


@pytest.mark.parametrize(("um", "left"), [(2.0, {"a"}), (8.0, {"a"}), (16.0, {"a", "b"})])
def test_small_is_an_area_whatever_the_pixels(um, left):
    """A region of 3 px: 12, 192 and 768 um2; the default is 200."""
    labels = np.ones((15, 20), np.uint8)
    labels[5, 5:8] = 2
    options = PredictOptions(simplify_um=0)
    found = outline_features(ArrayLabels(labels), Frame(20, 15, um, 1.0), CLASSES, options, identity="i", metadata={})
    assert {a.class_name for batch in found for a in annotations_of(batch)} == left


@given(small_maps, st.sampled_from([1.0, 2.0, 4.0, 2.2016, 1.0373]))
@settings(max_examples=60, deadline=None)
def test_labels_to_objects_and_back_is_exact(labels, downsample):
    found = [a for batch in objects(labels, downsample, with_ignored=True) for a in annotations_of(batch)]
    painter = LabelPainter(found, CLASSES, downsample)
    assert np.array_equal(painter.paint(Region(0, 0, labels.shape[1], labels.shape[0])), labels)


def annotations_of(batch):
    names = [batch.classes[label][0] for label in batch.outlines.labels.tolist()]
    return [Annotation(p, class_name=n) for p, n in zip(batch.outlines.geometries(), names, strict=True)]


@given(st.integers(0, 20), st.sampled_from([1.0373, 2.2016, 3.9731]), st.sampled_from([0.5, 2.0, 8.0]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_rounded_polygons_are_a_valid_coverage(seed, downsample, tolerance, cut):
    labels = map_of(seed)
    whole = [int(side * downsample) for side in labels.shape]
    size = [int(side - 0.6 * downsample) for side in whole] if cut else whole
    batches = list(objects(labels, downsample, size, simplify_um=tolerance, with_ignored=True))
    found = join([batch.outlines for batch in batches])
    assert np.array_equal(found.xy, np.round(found.xy, 2))
    assert_coverage(found, size[0] * size[1])


def test_what_is_written(tmp_path):
    labels = picture("1111 1221 1111 3334")
    confidence = np.full(labels.shape, 204, np.uint8)
    confidence[1, 1:3] = 102
    features = written(tmp_path / "x.geojson", labels, downsample=2.0, confidence=confidence)
    by_name = {f["properties"]["classification"]["name"]: f for f in features}
    assert set(by_name) == {"a", "b", "c"}  # what QuPath ignores is left out
    b = by_name["b"]
    assert b["type"] == "Feature" and b["geometry"]["type"] == "Polygon"
    assert b["geometry"]["coordinates"] == [[[2, 2], [6, 2], [6, 4], [2, 4], [2, 2]]]
    assert b["properties"]["objectType"] == "annotation"
    assert b["properties"]["classification"] == {"name": "b", "color": [0, 255, 0]}
    assert b["properties"]["measurements"] == {
        "Area µm^2": 0.5,
        "Area mm^2": 5e-7,
        "Perimeter µm": 3.0,
        "Mean probability": 0.4,
        "Predicted class code": class_code("b"),
    }
    metadata = {"dmmn_qp": "m", "dmmn_qp_simplify_um": "0", "dmmn_qp_min_area_um2": "0", "dmmn_qp_min_hole_um2": "0"}
    for name, feature in by_name.items():
        assert feature["properties"]["metadata"] == {**metadata, "dmmn_qp_class": name}
    assert len(by_name["a"]["geometry"]["coordinates"]) == 2
    assert by_name["a"]["properties"]["measurements"]["Area µm^2"] == 2.5
    read = read_geojson(tmp_path / "x.geojson")
    assert len(read.annotations) == 3 and not read.warnings


WAYS = [
    {},
    {"simplify_um": 1},
    {"object_kind": "detection"},
    {"with_ignored": True},
    {"min_area_um2": 2},
    {"min_hole_um2": 2},
    {"merge": "class"},
    {"merge": "class", "simplify_um": 1},
    {"max_vertices": 100},
]


@pytest.mark.parametrize("labels", [map_of(5), map_of(8), picture("12121 21212 33333 44444")])
def test_equal_ids_are_equal_outlines_of_a_class(tmp_path, labels):
    """In one file and among all of them, however each is made."""
    by_id, of_outline = {}, {}
    for options in WAYS:
        features = written(tmp_path / "x.geojson", labels, **options)
        assert len({f["id"] for f in features}) == len(features)
        for feature in features:
            outline = shapely.union_all([shape(feature["geometry"])]).normalize().wkb
            made_of = feature["properties"]["classification"]["name"], outline
            assert by_id.setdefault(feature["id"], made_of) == made_of
            assert of_outline.setdefault(made_of, feature["id"]) == feature["id"]
    assert len(by_id) > len(written(tmp_path / "x.geojson", labels))


def test_outlines_of_tissue_have_ids_that_no_prediction_has(monkeypatch):
    assert is_outline_id(outline_id("x")) and is_marked(outline_id("x")) and outline_id("x") != outline_id("y")
    assert not is_outline_id(None) and not is_outline_id(marked_id("x"))
    assert not is_outline_id(UUID("abc00000-0000-5000-8000-000000000000"))
    drawn = UUID("abcdef01-0000-5abc-8abc-0123456789ab")  # whose second group is that of outlines by chance
    monkeypatch.setattr(marks, "uuid5", lambda *_: drawn)
    assert str(marked_id("x")) == "d1337b0f-0001-5abc-8abc-0123456789ab"
    assert str(outline_id("x")) == "d1337b0f-0000-5abc-8abc-0123456789ab"


def test_ids_go_by_the_name_of_the_class_and_not_by_its_label(tmp_path):
    swapped = ClassMap.from_colors([("b", (0, 255, 0)), ("a", (255, 0, 0)), ("c", (0, 0, 255)), ("Ignore*", (1, 1, 1))])
    labels = picture("1112 1122")
    frame, options = Frame(4, 2, 0.25, 1.0), PredictOptions(simplify_um=0, min_area_um2=0)
    found = []
    for of, classes in ((labels, CLASSES), (np.array([0, 2, 1], np.uint8)[labels], swapped)):
        write_geojson(
            tmp_path / "x.geojson",
            outline_features(ArrayLabels(of), frame, classes, options, identity="slide/model", metadata={}),
        )
        features = json.loads((tmp_path / "x.geojson").read_bytes())["features"]
        found.append({f["properties"]["metadata"]["dmmn_qp_class"]: f["id"] for f in features})
        codes = {f["properties"]["measurements"]["Predicted class code"] for f in features}
        assert codes == {class_code("a"), class_code("b")}
    assert found[0] == found[1] and set(found[0]) == {"a", "b"}


def test_every_object_has_its_marks_and_no_null(tmp_path):
    """Also where no pixel's centre lies in it, so that it has no mean probability."""
    labels = map_of(5)
    confidence = np.full(labels.shape, 200, np.uint8)
    features = written(tmp_path / "x.geojson", labels, simplify_um=8, confidence=confidence)
    assert b"null" not in (tmp_path / "x.geojson").read_bytes()
    for feature in features:
        assert {"Perimeter µm", "Area µm^2", "Predicted class code"} <= feature["properties"]["measurements"].keys()


def test_a_class_is_marked_by_the_name_that_qupath_shows(tmp_path):
    classes = ClassMap.from_colors([("Tumor:Positive", (1, 2, 3))])
    found = outline_features(
        ArrayLabels(np.ones((2, 2), np.uint8)), Frame(2, 2, 0.25, 1.0), classes, PredictOptions(), identity="i",
        metadata={},
    )  # fmt: skip
    write_geojson(tmp_path / "x.geojson", found)
    (read,) = read_geojson(tmp_path / "x.geojson").annotations
    assert read.class_name == read.metadata["dmmn_qp_class"] == "Tumor: Positive"
    assert read.measurements["Predicted class code"] == class_code(read.class_name)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_digests_of_outlines(seed, whole):
    """Where a ring starts, its direction and the order of holes count for nothing; any coordinate does."""
    rng = np.random.default_rng(seed)

    def ring(x, y, side):
        points = np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])
        return np.roll(points, rng.integers(4), 0)[:: rng.choice([-1, 1])]

    holes = [ring(2, 2, 3), ring(10, 4, 5)]
    shell = ring(0, 0, 20)

    def digest(shell, holes):
        rings = [np.concatenate([r, r[:1]]) * (1 if whole else 0.37) for r in (shell, *holes)]
        zero = np.zeros(1, np.int64)
        outlines = Outlines(
            np.concatenate(rings), starts(np.array([5] * len(rings))), starts(np.array([len(rings)])),
            np.ones(1, np.uint8), zero, zero,
        )  # fmt: skip
        return outlines.digests(zero)

    reference = digest(ring(0, 0, 20), holes[::-1])
    assert digest(shell, holes) == reference and len(reference[0]) == 32
    moved = [h.copy() for h in holes]
    moved[rng.integers(2)][rng.integers(4), rng.integers(2)] += 1
    others = [
        digest(shell, moved),
        digest(shell, holes[:1]),
        digest(shell, []),
        digest(shell + 1, [h + 1 for h in holes]),
    ]
    assert len({reference[0], *(other[0] for other in others)}) == 5


def test_merged_classes(tmp_path):
    labels = picture("12121 21212 33333 44444")
    features = written(tmp_path / "x.geojson", labels, merge="class", object_kind="detection", with_ignored=True)
    kinds = [(f["properties"]["classification"]["name"], f["geometry"]["type"]) for f in features]
    assert kinds == [("a", "MultiPolygon"), ("b", "MultiPolygon"), ("c", "Polygon"), ("Ignore*", "Polygon")]
    assert all(f["properties"]["objectType"] == "detection" for f in features)
    assert not any("metadata" in f["properties"] for f in features)  # of which QuPath 0.5 logs an error each
    assert all(shape(f["geometry"]).is_valid for f in features)
    assert features[0]["properties"]["measurements"]["Area µm^2"] == 5 * 0.25**2
    assert len({f["id"] for f in features}) == 4
    assert written(tmp_path / "y.geojson", labels, merge="class", with_ignored=True)[0]["id"] == features[0]["id"]


def test_split_objects(tmp_path):
    labels = np.ones((1100, 1100), np.uint8)
    labels[::8, :-1:8] = 2
    options = {"max_vertices": 50_000}
    features = written(tmp_path / "x.geojson", labels, **options)
    largest = [f for f in features if f["properties"]["classification"]["name"] == "a"]
    assert len(largest) > 1 and len({f["id"] for f in features}) == len(features)
    assert [f["id"] for f in features] == [f["id"] for f in written(tmp_path / "y.geojson", labels, **options)]
    assert sum(shape(f["geometry"]).area for f in largest) == (labels == 1).sum()


def test_last_pixels_hardly_on_the_slide_are_left_out(tmp_path):
    labels = np.full((3, 5), 1, np.uint8)
    labels[:, 4] = 2
    features = written(tmp_path / "x.geojson", labels, downsample=2.001, size=(6, 8.004 + 0.001))
    assert [f["properties"]["classification"]["name"] for f in features] == ["a"]


def same_labels(here, out, slide, class_map_of):
    """Imports predictions as annotations; returns the masks and the label rasters."""
    back = here / f"{out.name}-back"
    result = invoke("import", here / "slides", "--annotations", out, "--out", back, "--take-predictions", "all")
    assert result.exit_code == 0, result.output
    with LabelRaster(back / "masks" / f"{slide}.tif") as mask:
        rows, columns = mask.shape
        painted = mask.read(Region(0, 0, columns, rows))
    manifest = json.loads((back / "dataset.json").read_text())
    names = [c["name"] for c in manifest["class_map"]["classes"]]
    (path,) = out.glob(f"{slide}.labels.*")
    with LabelRaster(path) as raster:
        labels = raster.read(Region(0, 0, columns, rows))
    table = np.zeros(256, np.uint8)
    for i, name in enumerate(names, start=1):
        table[i] = class_map_of.index(name) + 1
    return table[painted], labels


def test_round_trip_through_the_command_line(workspace, here):
    model = workspace / "models" / "dmmn-m3-1"
    names = [c["name"] for c in json.loads((model / "model.json").read_text())["class_map"]["classes"]]
    pixels = two_tissues(700, 900)
    pixels[200:420, 100:300] = pixels[200:420, 600:800]
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", pixels)
    for name, options, changed in (("exact", ("--simplify-um", 0, "--min-area-um2", 0), 0), ("simple", (), 0.01)):
        command = ("predict", here / "slides" / "s.tif", "--model", model, "--out", here / name)
        assert invoke(*command, *options).exit_code == 0
        painted, labels = same_labels(here, here / name, "s", names)
        assert set(np.unique(labels)) == {1, 2}
        assert (painted > 0).all()
        assert (painted != labels).mean() <= changed


def test_options_of_the_command_line(workspace, here):
    model = workspace / "models" / "dmmn-m3-1"
    write_tiff(here / "s.tif", two_tissues(300, 500))
    command = ("predict", "s.tif", "--model", model, "--out", "p")
    assert invoke(*command).exit_code == 0
    plain_file = here / "p" / "s.geojson"
    assert plain_file.exists()
    result = invoke(*command, "--gzip", "--as", "detection", "--merge", "class", "--min-area-um2", 50, "--overwrite")
    assert result.exit_code == 0 and "s.geojson.gz" in result.output
    assert not plain_file.exists()  # one file a slide, so that scripts find one
    features = json.loads(gzip.decompress((here / "p" / "s.geojson.gz").read_bytes()))["features"]
    assert len(features) <= 2
    for feature in features:
        assert feature["properties"]["objectType"] == "detection"
        assert "metadata" not in feature["properties"]
    run = json.loads((here / "p" / "run.json").read_text())
    assert run["predictions"]["s"]["polygons"]["min_area_um2"] == 50
    assert "--simplify-um should be" in fails(*command, "--simplify-um", -1, "--overwrite")


def test_the_demo_in_quarters_of_its_resolution():
    """A real truth map, on a grid whose pixels are four of the slide's."""
    from PIL import Image

    labels = np.asarray(Image.open(DEMO / "truth" / "test-1.png"))[::4, ::4].copy()
    assert PatchSpec().grid_of(0.125).downsample == 4
    found = traced(labels, simplify_px=1.0)
    assert_coverage(found, labels.size)


def stays(points, tolerance_px):
    """Which points of one arc stay, with nothing else around."""
    x, y = np.array(points).T
    keys, vertices = np.unique(y * 1000 + x, return_inverse=True)
    return simplify_arcs(x, y, np.array([0, len(x)]), vertices, keys, 1000, np.zeros(len(x), bool), tolerance_px)


def test_no_new_edge_is_longer_than_it_may_be():
    """A staircase of 20 px treads and 1 px risers, along which every corner could go."""
    points = np.array([(20 * ((i + 1) // 2), i // 2) for i in range(41)])
    left = points[stays(points, 100)]
    lengths = np.hypot(*np.diff(left, axis=0).T)
    assert 40 < lengths.max() <= LONGEST_PX


def test_a_ring_keeps_four_corners():
    pixel = [(3, 3), (4, 3), (4, 4), (3, 4), (3, 3)]
    assert stays(pixel, 100).all()
    with_a_notch = [(0, 0), (8, 0), (8, 4), (7, 4), (7, 8), (0, 8), (0, 0)]
    assert stays(with_a_notch, 100).sum() == 5  # four, and the first again
