"""Where slides are predicted: targets by hand, tissue on real slides, regions equal to what is painted."""

import json
from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation
from dmmn_qp.errors import ConfigError, SlideError
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.outputs.rasters import write_outline
from dmmn_qp.predicting.areas import (
    Area,
    area_to_predict,
    is_restricted,
    outside_label,
    read_regions,
    region_area,
    tissue_area,
    whole_area,
)
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.slide import _write_strip
from dmmn_qp.predicting.strips import LABELS, StripStore
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.marks import is_outline_id
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.once import Unreadable
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tissue import cleaned
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import DEMO, rectangle, write_features, write_tiff

ROI = ClassMap.from_colors([("Region*", (0, 0, 180))])
SPEC = PatchSpec(size_px=64, mpps=(0.5,), stride_px=64)


def mask_of(*rows):
    return np.array([[sign == "#" for sign in row] for row in rows])


def region(geometry, name="Region*"):
    return Annotation(geometry, class_name=name)


@pytest.fixture
def opened(tmp_path):
    """Opens glass with rectangles of tissue (x, y, width, height) in level-0 px."""

    def make(rows, columns, *tissue, mpp=0.5):
        pixels = np.full((rows, columns, 3), (244, 243, 245), np.uint8)
        for x, y, width, height in tissue:
            pixels[y : y + height, x : x + width] = (150, 60, 150)
        return open_slide(write_tiff(tmp_path / "s.tif", pixels, mpp))

    return make


# Cleaning


@pytest.mark.parametrize("turns", range(4))
def test_what_reaches_any_border_is_no_hole(turns):
    bay = np.rot90(mask_of("####", "#.##", "#...", "####"), turns)
    assert np.array_equal(cleaned(bay, min_area_px=0, min_hole_px=9), bay)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["#####...", "#.#.#..#", "#####.#.", "........"]),
        ({"min_hole_px": 2}, ["#####...", "#####..#", "#####.#.", "........"]),
        ({"min_area_px": 3}, ["#####...", "#.#.#...", "#####...", "........"]),  # two that meet at a corner are 2 px
        ({"min_area_px": 2}, ["#####...", "#.#.#..#", "#####.#.", "........"]),
        ({"min_area_px": 14, "min_hole_px": 2}, ["#####...", "#####...", "#####...", "........"]),  # 13 + 2 filled
        ({"min_area_px": 16, "min_hole_px": 2}, ["........", "........", "........", "........"]),
    ],
)
def test_cleaning_by_hand(rules, expected):
    mask = mask_of("#####...", "#.#.#..#", "#####.#.", "........")
    found = cleaned(mask, **{"min_area_px": 0, "min_hole_px": 0, **rules})
    assert found.tolist() == mask_of(*expected).tolist()


def test_what_reaches_the_border_is_no_hole():
    mask = mask_of("###", "#.#", "#.#")
    assert (cleaned(mask, min_area_px=0, min_hole_px=100) == mask).all()


@pytest.mark.parametrize(
    ("margin", "row"), [(0, "...#...."), (1, "..###..."), (1.9, "..###..."), (2, ".#####.."), (99, "########")]
)
def test_margin_by_hand(margin, row):
    mask = mask_of("........", "...#....", "........")
    grown = cleaned(mask, min_area_px=0, min_hole_px=0, margin_px=margin)
    assert grown[1].tolist() == mask_of(row)[0].tolist()
    assert grown[0, 3] == (margin >= 1) and grown[0, 2] == (margin >= np.sqrt(2))


def test_margin_of_nothing_is_nothing():
    assert not cleaned(np.zeros((4, 4), bool), min_area_px=0, min_hole_px=9, margin_px=5).any()


# Targets


def test_tissue_is_found_where_it_is(opened):
    """Targets of 256 px; tissue in target (2, 3) alone. The authors' program would predict 1.5 targets off."""
    with opened(1024, 1536, (800, 540, 180, 200)) as slide:
        grid = PatchSpec().grid_of(slide.info.mpp)
        area = tissue_area(slide, grid, min_area_um2=1000, min_hole_um2=1000)
        assert np.argwhere(area.targets).tolist() == [[2, 3]]
        drawn = shapely.box(800, 540, 980, 740)
        assert shapely.intersection(area.tissue, drawn).area > 0.85 * drawn.area
        assert drawn.buffer(16).contains(area.tissue)  # one pixel of the small picture
        wide = tissue_area(slide, grid, margin_um=64)  # 128 px: 672 .. 1108, 412 .. 868
        assert np.argwhere(wide.targets).tolist() == [[r, c] for r in (1, 2, 3) for c in (2, 3, 4)]


def test_dirt_is_left_out_and_holes_are_filled(opened):
    tissue = [(100, 100, 900, 100), (100, 900, 900, 100), (100, 100, 100, 900), (900, 100, 100, 900)]
    with opened(1100, 2048, *tissue, (1900, 300, 60, 60)) as slide:
        grid = SPEC.grid_of(slide.info.mpp)
        raw = tissue_area(slide, grid)
        assert raw.targets[5, 30] and not raw.targets[8, 8]
        clean = tissue_area(slide, grid, min_area_um2=2000, min_hole_um2=200_000)  # 900 um2; a hole of 350 x 350 um
        assert not clean.targets[5, 30] and clean.targets[8, 8]


def test_another_pixel_size_has_its_own_grid(opened):
    with opened(1024, 1024, (600, 100, 60, 60), mpp=0.25) as slide:  # two level-0 px a grid px
        grid = SPEC.grid_of(slide.info.mpp)
        assert grid.downsample == 2
        assert np.argwhere(tissue_area(slide, grid).targets).tolist() == [[0, 4], [0, 5], [1, 4], [1, 5]]


def test_pixels_outside_the_tissue_are_outside(opened):
    """Targets of 64 px, tissue of 250 x 150 px from (100, 70) on: what is inside ends with the tissue."""
    with opened(512, 512, (100, 70, 250, 150)) as slide:
        grid = SPEC.grid_of(0.5)
        area = tissue_area(slide, grid)
        mask = area.mask(Region(0, 0, 512, 512), grid)
        assert not area.is_whole and area.targets.sum() == 5 * 3
        assert abs(mask.sum() - 250 * 150) < 0.1 * 250 * 150  # of whole targets they were 61,440
        assert not mask[:, :84].any() and not mask[:54].any() and mask[90:200, 120:330].all()
        assert area.mask(Region(128, 128, 64, 64), grid) is None
        wide = tissue_area(slide, grid, margin_um=20).mask(Region(0, 0, 512, 512), grid)
        assert wide[58:228, 120:320].all() and wide[100:180, 80:370].all() and not wide[:, :44].any()


def test_tissue_ends_smoothly(tmp_path):
    """A diagonal border: in pixels of 8 um it is a staircase of 16 px, which would show in every outline."""
    rows, columns = np.mgrid[:1024, :1024]
    pixels = np.full((1024, 1024, 3), 244, np.uint8)
    pixels[rows + 2 * columns < 1500] = (170, 60, 150)
    write_tiff(tmp_path / "s.tif", pixels)
    with open_slide(tmp_path / "s.tif") as slide:
        grid = SPEC.grid_of(0.5)
        area = tissue_area(slide, grid)
        mask = area.mask(Region(0, 0, 1024, 1024), grid)
    ends = mask.sum(1)[40:980]  # the first pixel outside in each row
    assert (np.diff(ends, axis=0) <= 1).all() and (np.diff(ends) >= -6).all()
    off = ends - (1500 - np.arange(40, 980)) / 2
    assert np.abs(off - off.mean()).max() < 2


@pytest.mark.parametrize("mpp", [0.37, 0.5])
def test_tissue_at_the_right_and_lower_border_leaves_no_stripe(tmp_path, mpp):
    """A slide full of tissue: the last pixels of the grid lie half beyond it, and are predicted all the same."""
    image = np.full((333, 333, 3), (170, 60, 150), np.uint8)
    image[:20, :20] = 244
    write_tiff(tmp_path / "s.tif", image, mpp)
    with open_slide(tmp_path / "s.tif") as slide:
        grid = SPEC.grid_of(mpp)
        rows, columns = grid.shape(333, 333)
        area = tissue_area(slide, grid)
        mask = area.mask(Region(0, 0, columns, rows), grid)
        assert mask[60:, 60:].all()
        assert area.tissue.bounds[2:] == (333, 333)


@pytest.mark.parametrize("name", ["train-1", "test-1"])
def test_tissue_of_the_demo(name):
    """Against the full truth: what is tissue is predicted, nearly all glass is not."""
    from PIL import Image

    truth = np.asarray(Image.open(DEMO / "truth" / f"{name}.png"))
    with open_slide(DEMO / "slides" / f"{name}.tif") as slide:
        grid = PatchSpec().grid_of(slide.info.mpp)
        options = PredictOptions(tissue_only=True)
        area = area_to_predict(slide, SlideToPredict(name, SlideView(DEMO)), grid, options)
        traced = tissue_area(slide, grid)
    tissue = ((truth != 3) & (truth != 0)).reshape(12, 256, 12, 256).mean((1, 3))
    assert area.targets[tissue > 0.02].all()
    assert not area.targets.all()
    inside = area.mask(Region(0, 0, 3072, 3072), grid)
    assert inside[np.isin(truth, (1, 2, 4, 5))].mean() > 0.99 and inside[truth == 3].mean() < 0.8
    painted = LabelPainter([region(traced.tissue)], ROI, 1.0).paint(Region(0, 0, 3072, 3072)) > 0
    assert painted[np.isin(truth, (1, 2, 4, 5))].mean() > 0.92  # of which lumina are as white as glass
    assert painted[truth == 3].mean() < 0.03


@pytest.mark.parametrize("name", ["data/slides/tcga-cr-7395-01a-01-ts1.svs", "data/slides/CMU-1-Small-Region.svs"])
def test_tissue_of_real_slides(shared, name):
    with open_slide(shared(name), mpp=StatedMpp(default=0.25)) as slide:
        grid = PatchSpec().grid_of(slide.info.mpp)
        raw, clean = tissue_area(slide, grid), tissue_area(slide, grid, min_area_um2=20_000, min_hole_um2=1e6)
    side = slide.info.width * slide.info.height
    assert 0.25 * side < clean.tissue.area < 0.85 * side
    assert shapely.get_num_coordinates(clean.tissue) < shapely.get_num_coordinates(raw.tissue)
    assert clean.tissue.is_valid and not clean.targets.all() and clean.targets.sum() > 40


# Regions


def test_region_targets_by_hand(opened):
    """Targets of 64 px. A rectangle that ends at a border does not touch what is behind it."""
    with opened(256, 256) as slide:
        grid = SPEC.grid_of(slide.info.mpp)
        area = region_area(slide, grid, [region(shapely.box(64, 64, 128, 192))])
        assert np.argwhere(area.targets).tolist() == [[1, 1], [2, 1]]
        area = region_area(slide, grid, [region(shapely.box(63.6, 64, 128, 65))])
        assert np.argwhere(area.targets).tolist() == [[1, 1]]  # the centre of px 63 lies outside
        area = region_area(slide, grid, [region(shapely.box(63.4, 64, 128, 65))])
        assert np.argwhere(area.targets).tolist() == [[1, 0], [1, 1]]
        area = region_area(slide, grid, [region(shapely.box(-50, -50, 300, 1))])
        assert area.targets.tolist() == [[True] * 4] + [[False] * 4] * 3


def test_mask_by_hand(opened):
    with opened(256, 256) as slide:
        grid = SPEC.grid_of(slide.info.mpp)
        area = region_area(slide, grid, [region(shapely.box(70, 64, 128, 128))])
        mask = area.mask(Region(64, 64, 64, 64), grid)
        assert not mask[:, :6].any() and mask[:, 6:].all()
        assert not area.mask(Region(128, 128, 64, 64), grid).any()
        everywhere = region_area(slide, grid, [region(shapely.box(0, 0, 256, 256))])
        assert everywhere.mask(Region(0, 64, 128, 128), grid) is None
        assert whole_area(slide, grid).mask(Region(0, 0, 256, 256), grid) is None
        assert whole_area(slide, grid).is_whole and not area.is_whole
        some = Area(np.array([[True, False], [True, True]]))
        assert some.mask(Region(0, 64, 128, 64), grid) is None
        mask = some.mask(Region(32, 0, 128, 128), grid)  # no multiple of the targets, and leaving them
        assert mask[:64].any(0).tolist() == [True] * 32 + [False] * 96
        assert mask[64:].all(0).tolist() == [True] * 96 + [False] * 32


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_blocks_of_a_mask_are_what_is_painted_on_the_whole_slide(tmp_path_factory, data):
    seed = data.draw(st.integers(0, 10**6))
    block = data.draw(st.sampled_from([64, 128, 192]))
    mpp = data.draw(st.sampled_from([0.5, 0.25, 0.37]))
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / f"blank-{mpp}.tif"
    if not path.exists():
        write_tiff(path, np.full((400, 400, 3), 255, np.uint8), mpp)
    stars = []
    for _ in range(data.draw(st.integers(1, 3))):
        n = int(rng.choice([5, 60, 3000]))  # the last is cut to the block before it is painted
        turn, reach = np.linspace(0, 2 * np.pi, n, endpoint=False), rng.uniform(20, 200)
        radius = reach * rng.uniform(0.4, 1, n)
        centre = rng.uniform(0, 400, 2)
        stars.append(shapely.Polygon(centre + np.column_stack([np.cos(turn), np.sin(turn)]) * radius[:, None]))
    with open_slide(path) as slide:
        grid = SPEC.grid_of(slide.info.mpp)
        annotations = [region(star) for star in stars]
        area = region_area(slide, grid, annotations)
        rows, columns = grid.shape(400, 400)
        whole = LabelPainter(annotations, ROI, grid.downsample).paint(Region(0, 0, columns, rows)) > 0
        for part in Region(0, 0, columns, rows).tiles(block):
            mask = area.mask(part, grid)
            found = np.ones((part.height, part.width), bool) if mask is None else mask
            assert (found == whole[part.y : part.bottom, part.x : part.right]).all()


def test_large_outline_is_cut_before_it_is_painted(opened):
    """An outline of 200,000 vertices: painting all of it for each block would take minutes."""
    turn = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    radius = 900 + 40 * np.sin(turn * 4000)
    star = shapely.Polygon(1024 + np.column_stack([np.cos(turn), np.sin(turn)]) * radius[:, None])
    with opened(2048, 2048) as slide:
        grid = SPEC.grid_of(slide.info.mpp)
        area = region_area(slide, grid, [region(star)])
        block = Region(1792, 768, 256, 256)
        expected = LabelPainter([region(star)], ROI, 1.0).paint(block) > 0
        assert (area.mask(block, grid) == expected).all() and expected.any() and not expected.all()
        assert area.mask(Region(960, 960, 128, 128), grid) is None


@pytest.mark.parametrize(
    ("pattern", "columns"),
    [
        (None, {0, 1, 2}),
        ("Region*", {0}),  # a class of just this name: the star is no pattern then
        ("Region ?", {1}),
        ("R*", {0, 1}),
        ("Tumor", {2}),
    ],
)
def test_class_patterns(opened, pattern, columns):
    names = ["Region*", "Region 1", "Tumor"]
    drawn = [region(shapely.box(64 * i + 8, 8, 64 * i + 56, 56), name) for i, name in enumerate(names)]
    with opened(64, 256) as slide:
        area = region_area(slide, SPEC.grid_of(0.5), drawn, pattern)
    assert set(np.flatnonzero(area.targets[0])) == columns


def test_regions_that_are_not_there(opened, tmp_path):
    grid = SPEC.grid_of(0.5)
    with opened(64, 64) as slide:
        with pytest.raises(SlideError, match=r'no area of a class "Regionn".* Region\*.*--roi-class'):
            region_area(slide, grid, [region(shapely.box(0, 0, 9, 9))], "Regionn")
        with pytest.raises(SlideError, match="none of the 1 areas"):
            region_area(slide, grid, [region(shapely.box(100, 0, 109, 9))])
        with pytest.raises(SlideError, match="none of the 0 areas"):
            region_area(slide, grid, [region(shapely.Point(3, 3))])
    with pytest.raises(SlideError, match="no annotations in which to look"):
        read_regions(SlideToPredict("s", SlideView(tmp_path)), "Region*")
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(SlideError, match=r"bad\.geojson"):
        read_regions(SlideToPredict("s", SlideView(tmp_path), roi=tmp_path / "bad.geojson"), None)


def test_tissue_and_region_together(opened, tmp_path):
    roi = write_features(tmp_path / "roi.geojson", [rectangle(0, 0, 300, 512, "Region*")])
    with opened(512, 512, (64, 64, 384, 64)) as slide:
        grid = SPEC.grid_of(0.5)
        target = SlideToPredict("s", SlideView(tmp_path), roi=roi)
        options = PredictOptions(tissue_only=True, tissue_margin_um=0, tissue_min_area_um2=0, tissue_min_hole_um2=0)
        area = area_to_predict(slide, target, grid, options)
        assert np.argwhere(area.targets).tolist() == [[1, 1], [1, 2], [1, 3], [1, 4]]
        mask = area.mask(Region(0, 0, 512, 512), grid)
        assert mask[72:120, 80:300].all() and mask[:, :300].sum() == mask.sum() > 0.97 * 64 * 236
        assert shapely.box(60, 60, 452, 132).contains(area.tissue) and area.tissue.area < 64 * 384  # without corners
        shown = area_to_predict(
            slide, SlideToPredict("s", SlideView(tmp_path)), grid, PredictOptions(tissue_outline=True)
        )
        assert shown.is_whole and shown.tissue is not None
    assert is_restricted(target, PredictOptions()) and is_restricted(target, options)
    assert not is_restricted(SlideToPredict("s", SlideView(tmp_path)), PredictOptions(tissue_outline=True))


def test_regions_of_a_project(shared):
    """The classes `Tumor*` of a project that QuPath wrote: the painter paints the same pixels."""
    data = shared("qupath/project/data/1/data.qpdata")
    target = SlideToPredict(
        "he_1", SlideView(shared("qupath/images/he_1.png"), mpp=StatedMpp(default=0.5)), annotations=data
    )
    with target.open() as slide:
        grid = PatchSpec(size_px=256, mpps=(0.5,)).grid_of(slide.info.mpp)
        area = area_to_predict(slide, target, grid, PredictOptions(roi_class="Tumor*"))
    whole = Region(0, 0, 2048, 2048)
    names = ("Tumor", "Tumor: Negative", "Tumor: Positive")
    classes = ClassMap.from_colors([(name, (1, 2, 3)) for name in names])
    labels = np.zeros((2048, 2048), bool)
    for name in names:  # apart, because the painter takes `Ignore*` away from what is under it
        only = [replace(a, plane=DEFAULT_PLANE) for a in read_regions(target, None) if a.class_name == name]
        labels |= LabelPainter(only, classes, 1.0).paint(whole) > 0
    assert (area.mask(whole, grid) == labels).all() and 0 < labels.mean() < 1
    assert (area.targets == labels.reshape(8, 256, 8, 256).any((1, 3))).all()


# What is written


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("tumor", "background"), 2),
        (("Background", "tumor"), 1),
        (("Ignore*", "Glass", "tumor"), 2),
        (("tumor", "Ignore*"), 2),
        (("Glass", "background*"), 2),
        (("Background: fat", "Glass", "white Space"), 2),
        (("tumor", "Hintergrund", "no tissue"), 3),
        (("tumor", "Background: fat"), 2),
    ],
)
def test_outside_label(names, label):
    classes = ClassMap.from_colors([(name, (1, 2, 3)) for name in names])
    assert outside_label(classes, "background") == label
    assert outside_label(classes, "unlabelled") == 0


def test_outside_label_needs_a_class():
    classes = ClassMap.from_colors([("tumor", (1, 2, 3)), ("no background", (1, 2, 3))])
    with pytest.raises(ConfigError, match=r"tumor.*--outside unlabelled"):
        outside_label(classes, "background")


def test_outline_for_qupath(opened, tmp_path):
    with opened(512, 768, (100, 100, 200, 200), (500, 100, 100, 100)) as slide:
        area = tissue_area(slide, SPEC.grid_of(0.5))
    write_outline(tmp_path / "s.tissue.geojson", area.tissue, "abc")
    text = (tmp_path / "s.tissue.geojson").read_text()
    (feature,) = json.loads(text)["features"]
    assert feature["properties"]["classification"]["name"] == "Tissue"
    assert feature["properties"]["metadata"] == {"dmmn_qp": "tissue"} and "measurements" not in feature["properties"]
    assert is_outline_id(UUID(feature["id"])) and feature["id"].startswith("d1337b0f-0000-5")
    (read,) = read_geojson(tmp_path / "s.tissue.geojson").annotations
    assert read.geometry.equals(area.tissue) and len(read.geometry.geoms) == 2
    write_outline(tmp_path / "again.geojson", area.tissue, "abc")
    assert (tmp_path / "again.geojson").read_text() == text
    with opened(64, 64) as slide:
        write_outline(tmp_path / "none.geojson", tissue_area(slide, SPEC.grid_of(0.5)).tissue, "abc")
    assert json.loads((tmp_path / "none.geojson").read_text())["features"] == []


def test_only_blocks_with_a_target_are_looked_at_pixel_by_pixel(tmp_path, monkeypatch):
    """160 x 192 px in targets of 32 px and blocks of 64: an outline of 2 x 2 px in the target of row 2, column 3."""
    grid, looked = PatchSpec(mpps=(0.5,), size_px=32, stride_px=32).grid_of(0.5), []
    targets = np.zeros((5, 6), bool)
    targets[2, 3] = True
    area = Area(targets, outline=shapely.box(97, 65, 99, 67))
    mask = Area.mask
    monkeypatch.setattr(Area, "mask", lambda self, block, grid: (looked.append(block), mask(self, block, grid))[1])
    strips = StripStore(tmp_path, (160, 192), 64, {"confidence": 0, LABELS: 0})
    job = SimpleNamespace(
        strips=strips, area=area, grid=grid, outside=7, unreadable=Unreadable(), block_width=64, shape=(160, 192)
    )
    for strip in range(strips.count):
        _write_strip(job, strip, {kind: np.full_like(a, 9) for kind, a in strips.empty(strip).items()})
    expected = np.full((160, 192), 7)
    expected[65:67, 97:99] = 9
    np.testing.assert_array_equal(np.vstack([*strips.strips()]), expected)
    assert np.vstack([*strips.strips("confidence")]).sum() == 9 * 4
    assert looked == [Region(64, 64, 64, 64)]
