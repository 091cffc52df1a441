"""The report of import: figures by hand, every finding, and the page in a real browser."""

import json
import re
import tomllib
from dataclasses import replace
from functools import partial
from importlib.resources import files

import numpy as np
import pytest
import shapely
from typer.testing import CliRunner

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.cli.app import app
from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.labels.class_rules import PaintRules, PatchRules
from dmmn_qp.labels.draws import balanced_probabilities, class_balanced_draws
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef, index_patches
from dmmn_qp.regions import Region
from dmmn_qp.reports import html
from dmmn_qp.reports import overlaps as overlaps_module
from dmmn_qp.reports.findings import find_findings
from dmmn_qp.reports.html import mm2_text, percent_text, write_import_report
from dmmn_qp.reports.import_report import ImportReport, class_balance
from dmmn_qp.reports.inputs import Finding, ImportedData, ImportedSlide
from dmmn_qp.reports.pictures import draw_overlay, picture_px
from dmmn_qp.reports.wording import area_text
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.browser import Browser, needs_chromium
from tests.conftest import DEMO, REPOSITORY, rectangle, write_features, write_tiff

CLASSES = ClassMap.from_colors([("dark", (90, 20, 110)), ("light", (230, 200, 225))])
SPEC = PatchSpec()
WIDTH, HEIGHT, MPP = 512, 256, 0.5


def box(x, y, width, height, class_name="dark", **more):
    return Annotation(shapely.box(x, y, x + width, y + height), class_name=class_name, **more)


def half_glass(path):
    """512 x 256 px at 0.5 um/px: glass left, dark tissue right."""
    pixels = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
    pixels[:, WIDTH // 2 :] = (90, 20, 110)
    return write_tiff(path, pixels, MPP)


def imported_slide(annotations, slide_id="a", split="train", path=None, mpp=MPP, **more):
    class_map = more.pop("class_map", CLASSES)
    grid = SPEC.grid_of(mpp) if mpp <= 0.5 else SPEC.grid_of(0.5)
    painter = LabelPainter(annotations, class_map, grid.downsample)
    patches = index_patches(painter, grid, (WIDTH, HEIGHT), slide_id, split, len(class_map))
    record = SlideRecord(
        slide_id=slide_id, path=str(path), width=WIDTH, height=HEIGHT, mpp=mpp, fingerprint="0", split=split
    )
    return ImportedSlide(
        record, f"{slide_id}.tif", tuple(annotations), painter, tuple(patches), partial(open_slide, path), **more
    )


def imported(*slides, class_map=CLASSES, **more):
    return ImportedData("tiny", "tiny.qpproj", class_map, slides, **more)


def pixels_of(data):
    """(C,) pixels per class of each mask, as import counts them."""
    return {
        s.record.slide_id: np.bincount(
            s.painter.paint(Region(0, 0, WIDTH, HEIGHT)).ravel(), minlength=len(data.class_map) + 1
        )[1:]
        for s in data.slides
    }


# ---------------------------------------------------------------- figures


def test_what_is_no_tissue_has_no_share_of_it(tmp_path):
    path, class_map = half_glass(tmp_path / "a.tif"), ClassMap.from_colors([("dark", (9, 9, 9)), ("Glass", (8, 8, 8))])
    drawn = [box(300, 0, 128, 64), box(0, 0, 64, 64, "Glass")]
    data = imported(imported_slide(drawn, path=path, class_map=class_map), class_map=class_map)
    dark, glass = write_import_report(tmp_path, data, pixels_of(data)).slides[0].classes
    assert dark.tissue_share == pytest.approx(128 * 64 / 65_536) and glass.tissue_share is None
    assert glass.area_mm2 == pytest.approx(64 * 64 * 0.25e-6)


def test_figures_by_hand(tmp_path):
    path = half_glass(tmp_path / "a.tif")
    drawn = [
        box(300, 50, 100, 100),  # 10,000 px on the tissue, in the second of the two targets
        box(10, 10, 80, 40, "light"),  # 3,200 px on glass, in the first
        box(20, 20, 10, 10),  # 100 px within the light: the first class wins
        box(100, 100, 20, 20, None),
        box(100, 200, 20, 20, "Ignore*"),
    ]
    other = imported_slide([box(300, 0, 64, 64, "light")], "b", "val", path)  # 4,096 px
    data = imported(imported_slide(drawn, path=path), other, without_annotations=3)
    report = write_import_report(tmp_path, data, pixels_of(data))

    assert report.without_annotations == 3
    a, b = report.slides
    assert (a.annotations, a.unclassified, a.ignored, a.splits) == (5, 1, 1, ("train",))
    assert a.patches == {"train": 2, "val": 0, "test": 0}
    assert a.tissue_mm2 == pytest.approx(256 * 256 * 0.25e-6)
    dark, light = a.classes
    assert (dark.annotations, dark.patches) == (2, 1)  # 100 of 65,536 px are less than 1 % of the first target
    assert dark.area_mm2 == pytest.approx(10_100 * 0.25e-6)
    assert dark.tissue_share == pytest.approx(10_100 / 65_536)
    assert (light.annotations, light.patches) == (1, 1)
    assert light.area_mm2 == pytest.approx(3_100 * 0.25e-6)
    assert [c.annotations for c in b.classes] == [0, 1]
    of_light = report.classes[1]
    assert of_light.slides == {"train": 1, "val": 1, "test": 0}
    assert of_light.area_mm2 == pytest.approx({"train": 3_100 * 0.25e-6, "val": 4_096 * 0.25e-6, "test": 0})
    assert of_light.patches == {"train": 1, "val": 1, "test": 0}

    assert ImportReport.model_validate_json((tmp_path / "report.json").read_bytes()) == report
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == page.count("data:image/png;base64,") == 2


def test_a_slide_that_cannot_be_drawn_is_grey(tmp_path, monkeypatch, capsys):
    """Whatever the error, the figures and the other slides are there."""
    path, real = half_glass(tmp_path / "a.tif"), html.draw_slide

    def draw_slide(slide, *args):
        if slide.record.slide_id == "b":
            raise IndexError("a tile")
        return real(slide, *args)

    monkeypatch.setattr(html, "draw_slide", draw_slide)
    slides = [imported_slide([box(300, 0, 64, 64)], name, path=path) for name in "ab"]
    report = write_import_report(tmp_path, imported(*slides), pixels_of(imported(*slides)))
    assert [slide.tissue_mm2 > 0 for slide in report.slides] == [True, False]
    assert [slide.classes[0].area_mm2 for slide in report.slides] == pytest.approx([64 * 64 * 0.25e-6] * 2)
    (warned,) = capsys.readouterr().err.splitlines()
    assert warned.startswith('warning: the picture of slide "b" in report.html is left out') and "a tile" in warned
    assert (tmp_path / "report.html").read_text("utf-8").count("data:image/jpeg;base64,") == 2


def test_a_single_class_is_a_finding(tmp_path):
    path, only = half_glass(tmp_path / "a.tif"), ClassMap.from_colors([("dark", (9, 9, 9))])
    slide = imported_slide([box(300, 0, 128, 64)], path=path, class_map=only)
    said = [finding.message for finding in find_findings(imported(slide, class_map=only))]
    assert '"dark" is the only class, which a network would predict everywhere' in said
    both = imported_slide([box(300, 0, 128, 64)], path=path)
    assert not any("the only class" in finding.message for finding in find_findings(imported(both)))


def test_a_slide_without_tissue_has_no_share(tmp_path):
    path = write_tiff(tmp_path / "white.tif", np.full((HEIGHT, WIDTH, 3), 245, np.uint8))
    data = imported(imported_slide([box(0, 0, 200, 200), box(300, 0, 100, 100, "light")], path=path))
    slide = write_import_report(tmp_path, data, pixels_of(data)).slides[0]
    assert slide.tissue_mm2 == 0
    assert [c.tissue_share for c in slide.classes] == [None, None]


def test_a_slide_divided_by_areas_counts_for_each_split(tmp_path):
    """Of such a slide only patches are used: the first target for training, the second for validation."""
    slide = imported_slide([box(0, 0, 100, 100), box(256, 0, 50, 100)], path=half_glass(tmp_path / "a.tif"))
    first, second = slide.patches
    slide = replace(slide, patches=(replace(first, fixed=True), replace(second, split="val", fixed=True)))
    data = imported(slide)
    report = write_import_report(tmp_path, data, pixels_of(data))
    assert report.slides[0].splits == ("train", "val")
    assert report.classes[0].area_mm2 == pytest.approx({"train": 10_000 * 0.25e-6, "val": 5_000 * 0.25e-6, "test": 0})
    assert report.classes[0].slides == report.classes[0].patches == {"train": 1, "val": 1, "test": 0}
    assert not any("no slide is for validation" in f.message for f in report.findings)


def patch(*label_counts):
    return PatchRef("a", "train", 0, 0, label_counts)


def test_balance_by_hand():
    """Class 1 draws from both patches and class 2 from the first, which is so drawn in 3 of 4 cases."""
    patches = [patch(0, 90, 10), patch(0, 100, 0)]
    assert balanced_probabilities(patches) == pytest.approx([0.75, 0.25])
    first, second = class_balance(patches, ("x", "y"))
    assert (first.pixels_shuffled, second.pixels_shuffled) == pytest.approx((0.95, 0.05))
    assert (first.pixels_balanced, second.pixels_balanced) == pytest.approx((0.925, 0.075))
    assert (first.draws_shuffled, second.draws_shuffled) == (1, 0.5)
    assert (first.draws_balanced, second.draws_balanced) == (1, 0.75)
    # both patches belong to the first class, so copies of both would change nothing
    assert (first.elastic_rate, first.pixels_elastic, second.pixels_elastic) == pytest.approx((0, 0.95, 0.05))


def test_probabilities_are_those_of_the_sampler():
    rng = np.random.default_rng(1)
    patches = [patch(int(rng.integers(500)), *(int(n) for n in rng.integers(0, 40, 3))) for _ in range(12)]
    draws = class_balanced_draws(patches, 30_000, seed=0, epoch=1)
    drawn = np.bincount([draw.patch for draw in draws], minlength=12) / 30_000
    assert balanced_probabilities(patches) == pytest.approx(drawn, abs=0.002)


@pytest.mark.parametrize("patches", [[], [patch(0, 100, 0)]])
def test_no_balance_without_a_patch_of_each_class(patches):
    assert class_balance(patches, ("x", "y")) == ()


def test_texts():
    assert [mm2_text(v) for v in (0, 0.0004, 0.0123, 1.234, 12.34, 1234.5)] == [
        "–", "<0.001", "0.012", "1.23", "12.3", "1234",
    ]  # fmt: skip
    assert [percent_text(v) for v in (None, 0, 0.0004, 0.0123, 0.5)] == ["–", "–", "<0.1 %", "1.2 %", "50 %"]
    assert [percent_text(v) for v in (0.994, 0.996, 0.9996, 1)] == ["99 %", "99.6 %", ">99.9 %", "100 %"]
    assert [area_text(v) for v in (0.2, 25, 2500, 2.5e6)] == ["less than 1 µm²", "25 µm²", "0.003 mm²", "2.5 mm²"]


# ---------------------------------------------------------------- findings

WELL = [box(0, 0, 120, 120), box(300, 0, 120, 120, "light")]


def found(annotations, **more):
    """Findings of a slide, without those of the dataset."""
    findings = find_findings(imported(imported_slide([*WELL, *annotations], **more)))
    return [f for f in findings if f.slide is not None]


def one(annotations, **more):
    (finding,) = found(annotations, **more)
    assert finding.slide == "a" and finding.way_out
    return finding


def test_a_sound_slide_has_no_finding():
    assert found([]) == []


def test_unclassified():
    finding = one([box(10, 200, 10, 10, None), box(100, 200, 20, 20, None)])
    assert (finding.severity, finding.message) == ("warning", "2 annotations without a class, not trained on")
    assert finding.place == (110, 210)  # in the larger one


@pytest.mark.parametrize(
    ("annotation", "severity", "says"),
    [
        (box(10, 200, 20, 20, "Ignore*"), "note", 'of "Ignore*", a class that QuPath ignores'),
        (box(10, 200, 20, 20, plane=Plane(z=2)), "warning", "on another plane than z = 0, t = 0"),
        (Annotation(shapely.LineString([(20, 200), (30, 200)]), "dark"), "warning", '1 line or point of "dark"'),
        (Annotation(shapely.Point(20, 200), "dark"), "warning", '1 line or point of "dark"'),
        (box(-10, 200, 30, 20), "warning", '1 annotation of "dark" beyond the border of the slide, by 50 µm²'),
        (box(20, 200, 5, 5), "note", '1 annotation of "dark" smaller than 50 µm²'),
    ],
)
def test_what_is_drawn_badly(annotation, severity, says):
    finding = one([annotation])
    assert finding.severity == severity and says in finding.message
    x, y = finding.place
    assert 0 <= x <= 30 and 200 <= y <= 220


def test_repaired_outlines_with_the_change_of_their_area():
    said = ("outline that crosses, touches or overlaps itself, repaired: annotation 1 and 2 more",)
    finding = one([box(10, 200, 20, 20, repaired_by_px2=-40.0)], warnings=said)
    assert (finding.severity, finding.class_name, finding.place) == ("warning", "dark", (20, 210))
    assert finding.message == (
        '1 annotation of "dark" that crosses, touches or overlaps itself, repaired: its area lost 10 µm² (40 px²)'
    )
    changes = (10.0, -4000.0, 0.0)
    drawn = [box(100 * i, 200, 20, 20, "Ignore*", repaired_by_px2=px2) for i, px2 in enumerate(changes)]
    finding, _ = found(drawn)  # the other one says that they are not trained on
    assert finding.place == (110, 210)  # where it changed most
    assert finding.message.startswith('3 annotations of "Ignore*" that cross, touch or overlap themselves')
    assert finding.message.endswith("their area gained 2 µm² (10 px²) and lost 0.001 mm² (4,000 px²)")
    finding = one([box(10, 200, 20, 20, repaired_by_px2=0.2)])
    assert (finding.severity, finding.message[-14:]) == ("note", "stays the same")


def test_wholly_beyond_the_slide():
    finding = one([box(-100, 600, 40, 40)])
    assert "by 400 µm²" in finding.message and finding.place == (0, HEIGHT - 1)


def test_overlap_of_two_classes():
    finding = one([box(110, 110, 20, 40, "light"), box(0, 100, 20, 40)])  # 10 x 10 px; dark on dark is no conflict
    assert '"dark" and "light" overlap by 25 µm² in 1 place' in finding.message
    assert (finding.severity, finding.place) == ("note", (115, 115))


def test_a_large_overlap_is_a_warning():
    assert one([box(110, 20, 40, 40, "light")]).severity == "warning"


@pytest.mark.parametrize("limit", ["MAX_CANDIDATES", "MAX_VERTICES"])
def test_the_search_for_overlaps_is_bounded(monkeypatch, limit):
    monkeypatch.setattr(overlaps_module, limit, 30)
    copies = [box(0, 0, 120, 120, name) for name in ("dark", "light") for _ in range(50)]
    assert [f.message for f in found(copies)] == [
        "so many outlines lie on each other that not all overlaps were measured"
    ]


def test_what_the_reader_said():
    finding = one([], warnings=("crossed itself, repaired: tumour 3",))
    assert (finding.severity, finding.message) == ("warning", "crossed itself, repaired: tumour 3")


@pytest.mark.parametrize("mpp", [0.03, 5.0])
def test_odd_pixel_size(mpp):
    assert any(f.message.startswith(f"{mpp:g} µm/px is unusual") for f in found([], mpp=mpp))


def test_no_usable_patch():
    data = imported(imported_slide(WELL), imported_slide([box(0, 0, 20, 20)], "b", "val"))
    (finding,) = (f for f in find_findings(data) if f.slide == "b")
    assert finding.severity == "warning" and "nothing of it is used" in finding.message


def test_similar_names():
    drawn = [*WELL, box(0, 200, 20, 20), box(50, 200, 20, 20, "Dark")]
    (finding,) = (f for f in find_findings(imported(imported_slide(drawn))) if "slips" in f.message)
    assert '"dark" (2 annotations) and "Dark" (1 annotation)' in finding.message
    assert (finding.slide, finding.class_name, finding.place) == ("a", "Dark", (60, 210))
    assert 'to "dark" in QuPath' in finding.way_out


def test_what_marks_a_region_or_a_split_is_no_finding():
    drawn = [*WELL, box(0, 0, 500, 250, "Region*"), box(0, 0, 250, 250, None, name="Training")]
    slide = imported_slide(drawn)
    rules = {"painting": PaintRules(region_class="Region*"), "patching": PatchRules(split_areas=True)}
    assert [f.slide for f in find_findings(imported(slide, **rules)) if f.slide] == []
    assert len([f for f in find_findings(imported(slide)) if f.slide]) == 2


def test_lines_with_a_width_label():
    slide = imported_slide([*WELL, Annotation(shapely.LineString([(20, 200), (30, 200)]), "dark")])
    assert [f for f in find_findings(imported(slide, painting=PaintRules(line_width_um=5))) if f.slide] == []


def test_another_plane_and_other_kinds():
    on_plane = [replace(annotation, plane=Plane(z=2)) for annotation in WELL]
    slide = replace(imported_slide(WELL), annotations=tuple(on_plane), plane=Plane(z=2), other_kinds=7)
    first, second = (f.message for f in find_findings(imported(slide)) if f.slide)
    assert first.startswith("trained on plane z = 2, t = 0") and second.startswith("7 objects of another kind")


def test_dropped_class():
    data = imported(imported_slide([*WELL, box(0, 200, 20, 20, "mud")]), left_out=("mud",))
    (finding,) = (f for f in find_findings(data) if f.slide)
    assert finding.severity == "note" and '"mud"' in finding.message


def of_dataset(*slides):
    return [(f.severity, f.class_name, f.message) for f in find_findings(imported(*slides)) if f.slide is None]


def test_missing_splits_and_few_patches():
    said = of_dataset(imported_slide(WELL))
    assert [(s, c) for s, c, _ in said] == [
        ("warning", None),
        ("warning", "dark"),
        ("warning", "light"),
        ("note", None),
    ]
    assert "no slide is for validation" in said[0][2] and "only 1 training patch" in said[1][2]
    assert "no slide is for testing" in said[3][2]


def test_a_class_without_training_or_validation_pixels():
    said = of_dataset(imported_slide(WELL[:1]), imported_slide(WELL[1:], "b", "val"), imported_slide(WELL, "c", "test"))
    assert said[0] == ("error", "light", '"light" has no pixel in the training split')
    assert any(c == "dark" and "no pixel in the validation split" in m for _, c, m in said)


def test_nothing_usable_is_an_error():
    said = of_dataset(imported_slide([box(0, 0, 5, 5)]))
    assert said == [("error", None, "no slide has a target with enough annotation")]


def test_findings_of_import_itself_come_along_and_errors_first():
    noted = Finding(severity="error", message="damaged", way_out="mend")
    findings = find_findings(imported(imported_slide(WELL), noted=(noted,)))
    assert findings[0] == noted and len(findings) > 1


# ---------------------------------------------------------------- pictures


def test_overlay_by_hand():
    slide = imported_slide([box(100, 60, 80, 80), box(300, 60, 1, 1, "light"), box(400, 100, 40, 40, None)])
    overlay = draw_overlay(slide, imported(slide), (128, 64))  # a quarter of the slide
    assert overlay.shape == (64, 128, 4)
    assert tuple(overlay[25, 35, :3]) == (90, 20, 110) and 0 < overlay[25, 35, 3] < 255  # inside
    assert tuple(overlay[25, 25]) == (90, 20, 110, 255)  # outline
    assert tuple(overlay[15, 75]) == (230, 200, 225, 255)  # too small for a pixel, but in sight
    assert overlay[25, 100, 3] == 255 and len(set(overlay[25, 100, :3].tolist())) == 1  # grey: not trained on
    assert overlay[30, 105, 3] == 0 and overlay[60, 5, 3] == 0


def test_pictures_shrink_with_their_number():
    assert picture_px(1) > picture_px(50) > picture_px(400)


# ---------------------------------------------------------------- the command


def invoke(*command):
    return CliRunner().invoke(app, [str(word) for word in command])


def test_import_writes_the_report(workspace):
    report = ImportReport.model_validate_json((workspace / "dataset" / "report.json").read_bytes())
    assert [c.area_mm2["train"] for c in report.classes] == pytest.approx([300 * 430 * 0.25e-6] * 2)
    assert (workspace / "dataset" / "report.html").is_file()


def test_check_of_the_demo_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("import", DEMO / "project.qpproj", "--check")
    assert result.exit_code == 0, result.output
    assert "1 annotation without a class" in result.output and "warnings" in result.output
    assert list(tmp_path.iterdir()) == []


def test_check_fails_on_an_error(tmp_path):
    (tmp_path / "slides").mkdir()
    half_glass(tmp_path / "slides" / "a.tif")
    features = [rectangle(0, 0, 200, 200, "dark"), rectangle(300, 10, 5, 5, "light")]  # light fills no target
    write_features(tmp_path / "geojson" / "a.geojson", features)
    result = invoke("import", tmp_path / "slides", "--annotations", tmp_path / "geojson", "--check")
    assert result.exit_code == 1
    assert re.search(r'error: +"light" has no pixel in the training split', result.output)


def test_templates_are_shipped():
    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert patterns["dmmn_qp.reports"] == ["templates/*"]
    assert {f.name for f in (files("dmmn_qp.reports") / "templates").iterdir()} == {
        "cohort.css",
        "cohort.html.j2",
        "evaluation.css",
        "evaluation_report.html.j2",
        "fitting.css",
        "head.html.j2",
        "import_report.html.j2",
        "loop.css",
        "loop_report.html.j2",
        "report.css",
        "sort_tables.js",
        "suggestions.css",
        "suggestions.html.j2",
        "training_report.html.j2",
    }


# ---------------------------------------------------------------- the page

EVIL_CLASS = "<script>alert(1)</script>"
EVIL_SLIDE = "\"><img src=x onerror='alert(2)'> & {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory):
    """A page of which class, slide, project and reader's warning all try to break out."""
    folder = tmp_path_factory.mktemp("evil")
    path = half_glass(folder / "a.tif")
    class_map = ClassMap.from_colors([("dark", (90, 20, 110)), (EVIL_CLASS, (0, 150, 0))])
    drawn = [box(300, 20, 100, 100), box(350, 60, 100, 100, EVIL_CLASS), box(10, 10, 100, 100, None)]
    slide = imported_slide(drawn, EVIL_SLIDE, path=path, class_map=class_map, warnings=("</title><b>bold</b>",))
    data = ImportedData(EVIL_SLIDE, "'; </style><script>alert(3)</script>", class_map, (slide,), without_annotations=1)
    write_import_report(folder, data, pixels_of(data))
    return folder / "report.html"


def test_names_are_escaped(evil_page):
    page = evil_page.read_text("utf-8")
    assert "<script" not in page and "<img src=x" not in page and "<b>bold" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert json.loads((evil_page.parent / "report.json").read_bytes())["classes"][1]["name"] == EVIL_CLASS


@pytest.mark.engine
@needs_chromium
@pytest.mark.parametrize("which", ["sound", "evil"])
def test_page_in_chromium(which, workspace, evil_page, tmp_path):
    page = workspace / "dataset" / "report.html" if which == "sound" else evil_page
    n_slides = 3 if which == "sound" else 1
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        assert browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)") == [True] * (
            2 * n_slides
        )
        assert browser.evaluate("document.scripts.length") == 0
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways
        names = browser.evaluate(
            "[...document.querySelector('section .panel tbody').querySelectorAll('.chip')].map(c => c.innerText)"
        )
        assert names == (["dark", "light"] if which == "sound" else ["dark", EVIL_CLASS])
        shown = "getComputedStyle(document.querySelector('.overlay')).visibility"
        assert browser.evaluate(shown) == "visible"
        for toggle in ("document.querySelector('.title .toggle')", "document.querySelector('#annotations')"):
            browser.evaluate(f"{toggle}.click()")
            assert browser.evaluate(f"new Promise(r => setTimeout(() => r({shown}), 400))") == "hidden"
            browser.evaluate(f"{toggle}.click()")
        assert browser.evaluate("[...document.querySelectorAll('.pin')].every(p => document.querySelector(p.hash))")
        assert browser.requests() == [page.as_uri()]
        assert browser.problems() == []


@pytest.mark.engine
@needs_chromium
def test_the_browser_would_tell(tmp_path):
    """The test above can fail: a page with a script error, a missing picture and a request shows all three."""
    (tmp_path / "bad.html").write_text("<script>nothing.here()</script><img src='gone.png'>")
    with Browser(tmp_path / "profile") as browser:
        browser.open((tmp_path / "bad.html").as_uri())
        assert browser.evaluate("document.images[0].naturalWidth") == 0
        assert any("nothing is not defined" in problem for problem in browser.problems())
        assert any(url.endswith("gone.png") for url in browser.requests())
