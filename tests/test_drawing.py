"""How areas are drawn: gaps between neighbours, cropped components and shares of all pixels, checked by hand."""

import json
from dataclasses import replace

import pytest
import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.reports.drawing import DrawingFigures, drawing_advice, drawing_in_all, drawn_outlines
from dmmn_qp.reports.html import write_import_report
from dmmn_qp.specs import ClassMap
from tests.test_report import MPP, box, half_glass, imported, imported_slide, pixels_of

SIDE = 400  # px, 200 um
COLORS = ClassMap.from_colors([("dark", (1, 1, 1)), ("light", (2, 2, 2)), ("Glass", (3, 3, 3))])


def on_a_slide(*drawn, size=4000):
    slide = imported_slide(drawn, class_map=COLORS)
    return replace(slide, record=slide.record.model_copy(update={"width": size, "height": size}))


def outlines(*drawn, **size):
    slide = on_a_slide(*drawn, **size)
    return drawn_outlines(slide, imported(slide, class_map=COLORS))


def figures(*drawn):
    return {c.class_name: c for c in outlines(*drawn).classes}


def blob(x, y, radius, class_name="dark"):
    return Annotation(shapely.Point(x, y).buffer(radius, quad_segs=64), class_name=class_name)


def test_a_gap_by_hand():
    """10 um between two squares of 200 um: a whole side faces the other, and of two more 90 um, up to 100 away."""
    found = outlines(box(1000, 1000, SIDE, SIDE), box(1000 + SIDE + 20, 1000, SIDE, SIDE, "light"))
    dark, light = found.classes
    assert (dark.areas, dark.outline_mm, light.outline_mm) == (
        1,
        pytest.approx(0.8, abs=0.01),
        pytest.approx(0.8, abs=0.01),
    )
    assert dark.facing_mm == pytest.approx(0.38, abs=0.01) and found.facing_mm == pytest.approx(0.76, abs=0.02)
    assert dark.gap_um == light.gap_um == pytest.approx(10, abs=0.6)


def test_neighbours_of_one_class_and_far_ones_face_nothing():
    alone = figures(box(1000, 1000, SIDE, SIDE), box(1000 + SIDE + 20, 1000, SIDE, SIDE))["dark"]
    assert (alone.facing_mm, alone.gap_um) == (0, None)
    far = figures(box(1000, 1000, SIDE, SIDE), box(1000 + SIDE + 210, 1000, SIDE, SIDE, "light"))
    assert far["dark"].gap_um is far["light"].gap_um is None


def test_what_lies_within_another_class_has_no_gap():
    inside = figures(box(1000, 1000, 1200, 1200), blob(1600, 1600, 150, "light"))["light"]
    assert inside.gap_um == 0 and inside.facing_mm == pytest.approx(inside.outline_mm)


def test_all_parts_of_an_area_count():
    both = shapely.union(shapely.box(0, 0, 100, 100), shapely.box(900, 900, 1000, 1000))
    assert figures(Annotation(both, class_name="dark"))["dark"].outline_mm == pytest.approx(0.4, abs=0.01)


HALF = shapely.Point(1000, 1000).buffer(600).intersection(shapely.box(0, 0, 1000, 4000))


@pytest.mark.parametrize(
    ("drawn", "size", "cropped"),
    [
        (box(1000, 1000, SIDE, SIDE), 4000, 1),
        (box(1000, 1000, SIDE, SIDE, "Glass"), 4000, 0),  # no tissue that ends somewhere
        (box(1000, 1000, 150, 150), 4000, 0),  # 75 um are no long border
        (blob(1000, 1000, 600), 4000, 0),
        (Annotation(HALF, class_name="dark"), 4000, 1),
        (Annotation(HALF, class_name="dark"), 1000, 0),  # where the slide ends
    ],
    ids=["rectangle", "glass", "small", "blob", "half a blob", "cut by the slide"],
)
def test_cropped_areas(drawn, size, cropped):
    found = outlines(drawn, size=size)
    assert [c.cropped for c in found.classes] == [cropped] and sum(map(len, found.cropped.values())) == cropped


def advice(*drawn):
    return drawing_advice([on_a_slide(*drawn)], [outlines(*drawn)], len(COLORS))


def test_advice():
    assert advice(blob(1000, 1000, 200), blob(1410, 1000, 200, "light")) == ()
    (wide,) = advice(blob(1000, 1000, 200), blob(1500, 1000, 200, "light"))
    assert wide.startswith("Neighbours of different classes are far apart on a (") and " µm over 0." in wide
    cut, seldom = advice(box(1000, 1000, SIDE, SIDE), blob(3000, 1000, 200, "light"))
    assert cut.startswith('Areas with straight borders, as if cut out: a: 1 of "dark" (at 1200, 1200 px).')
    assert seldom.startswith("Only 0% of the outlines lie near an area of another class")
    many = [on_a_slide(box(1000, 1000, SIDE, SIDE))] * 9
    assert "1200 px) and 3 more." in drawing_advice(many, [outlines(*many[0].annotations)] * 9, 1)[0]


def test_slides_together():
    one, other = (
        DrawingFigures(class_name="dark", areas=1, outline_mm=2, facing_mm=mm, gap_um=gap, cropped=1)
        for mm, gap in ((1.0, 10.0), (3.0, 50.0))
    )
    alone = DrawingFigures(class_name="light", areas=2, outline_mm=1, facing_mm=0, gap_um=None, cropped=0)
    dark, light = drawing_in_all([[one], [alone, other]])
    assert (dark.areas, dark.outline_mm, dark.facing_mm, dark.gap_um, dark.cropped) == (2, 4, 4, 40, 2)
    assert light == alone


def test_shares_of_all_pixels(tmp_path):
    """100 x 100 and 64 x 64 px on two slides of 512 x 256 px."""
    path = half_glass(tmp_path / "a.tif")
    data = imported(
        imported_slide([box(300, 50, 100, 100)], path=path),
        imported_slide([box(300, 0, 64, 64, "light")], "b", "val", path),
    )
    report = write_import_report(tmp_path, data, pixels_of(data))
    whole = 512 * 256
    assert report.pixel_share == pytest.approx((10_000 + 4_096) / (2 * whole))
    assert [c.pixel_share for c in report.classes] == pytest.approx([10_000 / (2 * whole), 4_096 / (2 * whole)])
    assert [s.pixel_share for s in report.slides] == pytest.approx([10_000 / whole, 4_096 / whole])
    assert [c.pixel_share for c in report.slides[1].classes] == pytest.approx([0, 4_096 / whole])
    assert json.loads((tmp_path / "report.json").read_bytes())["drawing"][0]["outline_mm"] == pytest.approx(
        400 * MPP / 1e3, abs=0.01
    )
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<dt>of all pixels</dt><dd>5.4 %</dd>" in page and "annotated 7.6 % of all pixels" in page
