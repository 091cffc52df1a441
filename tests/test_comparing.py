"""`dmmn-qp compare`: any two things by one ruler, in tables that a reader can check by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from dmmn_qp.folders.comparison import COMPARISON, Comparison
from dmmn_qp.folders.predictions import LABELS_SUFFIX
from dmmn_qp.labels.agreement import either_dice, either_iou
from dmmn_qp.labels.metrics import confusion_matrix
from dmmn_qp.labels.tallies import kappa, tallies_of
from dmmn_qp.outputs.pyramids import write_label_pyramid
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, SUGGESTION_MARK, is_suggestion_id
from dmmn_qp.specs import ClassMap
from tests.conftest import fails, invoke, rectangle, write_features
from tests.projects import make_project, make_slide

FIRST = [[1, 1, 1, 1, 0], [1, 1, 2, 2, 0], [2, 2, 2, 2, 2]]
SECOND = [[1, 1, 2, 0, 0], [1, 1, 2, 2, 1], [1, 2, 2, 2, 3]]
# first/second: aa 4, ab 1, ba 1, bb 5, bc 1; first alone 1 (a), second alone 1 (a)


def write_map(folder, labels, name="s.png", table="value,class\n1,a\n2,b\n3,c\n"):
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.array(labels, np.uint8)).save(folder / name)
    if table is not None:
        (folder / "classes.csv").write_text(table)
    return folder


def compared(*command):
    shutil.rmtree("out", ignore_errors=True)
    result = invoke("compare", *command, "--out", "out")
    assert result.exit_code == 0, result.output
    return Comparison.model_validate_json(Path("out", COMPARISON).read_text()), result


@pytest.fixture
def maps(here):
    return write_map(here / "one", FIRST), write_map(here / "two", SECOND)


def test_table_by_hand(maps, here):
    found, result = compared("one", "two", "--mpp", 100, "--min-area-um2", 0)
    pooled, pixel = found.pooled, 0.01  # mm2
    areas = (pooled.both_mm2, pooled.agreed_mm2, pooled.only_first_mm2, pooled.only_second_mm2)
    assert (pooled.pixels, areas) == (12, pytest.approx((12 * pixel, 9 * pixel, pixel, pixel)))
    assert [(p.first, p.second) for p in pooled.pairs] == [("a", "b"), ("b", "a"), ("b", "c")]
    assert [p.mm2 for p in pooled.pairs] == pytest.approx([pixel] * 3)
    assert pooled.agreement.value == 9 / 12
    chance = (5 * 5 + 7 * 6) / 144
    assert pooled.kappa.value == pytest.approx((9 / 12 - chance) / (1 - chance))
    a, b, c = pooled.classes
    assert (a.first_mm2, a.second_mm2, a.shared_mm2, a.dice.value) == pytest.approx((0.06, 0.06, 0.04, 8 / 10))
    assert (b.iou.value, c.dice.value, c.second_mm2) == pytest.approx((5 / 8, 0, 0.01))
    assert pooled.mean_dice.value == pytest.approx((8 / 10 + 10 / 13 + 0) / 3)
    assert [(r.first, r.second) for r in found.slides[0].regions] == [("a", "b"), ("b", "a"), ("b", "c")]
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "kappa 0.53" in result.stdout and "0.0900 mm2, 75.0 %" in result.stdout


def test_both_may_change_places(maps):
    one, _ = compared("one", "two", "--mpp", 100)
    other, _ = compared("two", "one", "--mpp", 100)
    for name in ("kappa", "agreement", "mean_dice", "mean_iou"):
        assert getattr(one.pooled, name).value == pytest.approx(getattr(other.pooled, name).value)
    assert {(p.first, p.second, p.mm2) for p in one.pooled.pairs} == {
        (p.second, p.first, p.mm2) for p in other.pooled.pairs
    }


def test_equal_to_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    first = rng.integers(1, 5, (50, 40)).astype(np.uint8)
    second = np.where(rng.random(first.shape) < 0.6, first, rng.integers(1, 6, first.shape)).astype(np.uint8)
    tallies, (x, y) = tallies_of(confusion_matrix(first, second, 5)), (first.ravel(), second.ravel())
    assert kappa(tallies) == pytest.approx(metrics.cohen_kappa_score(x, y))
    assert either_dice(tallies) == pytest.approx(metrics.f1_score(x, y, average=None))
    assert either_iou(tallies) == pytest.approx(metrics.jaccard_score(x, y, average=None))


def test_classes_of_other_names_and_classes_that_do_not_count(maps, here):
    write_map(here / "two", SECOND, table="value,class\n1,A=x\n2,b\n3,c\n")
    found, result = compared("one", "two", "--map", "A=x=a", "--exclude", "c")
    assert found.maps == (("A=x", "a"),) and found.pooled.pixels == 11
    assert [c.name for c in found.pooled.classes] == ["a", "b"] and found.pooled.only_second_mm2 == pytest.approx(1e-6)
    found, _ = compared("one", "two", "--map", "A=x=a", "--exclude", "a")
    assert (found.pooled.pixels, found.pooled.agreement.value) == (6, pytest.approx(5 / 6))
    _, result = compared("one", "two")
    assert 'only "two" has the classes A=x' in result.stderr
    assert 'did you mean "b"?' in fails("compare", "one", "two", "--exclude", "B")
    assert 'no class "y"; they are a, b, c' in fails("compare", "one", "two", "--map", "b=y")
    assert "keep one of them" in fails("compare", "one", "two", "--map", "b=a", "--map", "b=b")


def write_ome(folder, labels, um):
    """A label map that says its um/px, its classes too."""
    folder.mkdir(exist_ok=True)
    labels, classes = np.array(labels, np.uint8), ClassMap.from_colors((name, (1, 2, 3)) for name in "abc")
    write_label_pyramid(folder / f"s.{LABELS_SUFFIX}", [labels], labels.shape, um, classes)
    return folder


def test_maps_of_different_um_per_px_by_hand(here):
    """A coarse pixel is two fine ones wide; of one of class a, a quarter is b on the finer map."""
    fine = np.kron(SECOND, np.ones((2, 2), int))
    fine[0, 0] = 2
    write_ome(here / "one", FIRST, 200), write_ome(here / "two", fine, 100)
    found, result = compared("one", "two", "--min-area-um2", 0)
    pooled, pixel = found.pooled, 0.01  # mm2
    areas = (pooled.both_mm2, pooled.agreed_mm2, pooled.only_first_mm2, pooled.only_second_mm2)
    assert (pooled.pixels, areas) == (48, pytest.approx((48 * pixel, 35 * pixel, 4 * pixel, 4 * pixel)))
    assert {(p.first, p.second): p.mm2 for p in pooled.pairs} == pytest.approx(
        {("a", "b"): 5 * pixel, ("b", "a"): 4 * pixel, ("b", "c"): 4 * pixel}
    )
    assert "  on the second's pixels of 100 um, the finer; the first's are of 200 um" in result.stdout
    slide = found.slides[0]
    assert (slide.mpp, slide.grid_px, slide.first_px, slide.second_px) == (100, 1, 2, None)
    other, result = compared("two", "one", "--min-area-um2", 0)
    assert "  on the first's pixels of 100 um, the finer; the second's are of 200 um" in result.stdout
    assert other.pooled.kappa.value == pytest.approx(pooled.kappa.value)
    assert (other.slides[0].first_px, other.slides[0].second_px) == (None, 2)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("shape", "um", "shape_of_other", "um_of_other", "grid", "said"),
    [
        ((10, 20), 1, (5, 10), 2, (1, None, 2), ""),
        ((9, 19), 1, (5, 10), 2, (1, None, 2), ""),  # the last pixels of the coarser lie on it in part
        ((400, 800), 0.252, (200, 400), 0.5, (1, None, 2), ""),  # one of both was rounded
        ((50, 100), 1.2, (60, 120), 1, (1, 1.2, None), ""),
        ((10, 20), 1, (10, 20), 1, (1, None, None), ""),
        ((10, 20), 1, (5, 10), None, (1, None, 2), '"two/s.png" does not say its um/px'),
        ((10, 20), None, (5, 10), 4, (1, None, 2), '"one/s.png" does not say its um/px'),
        ((10, 20), None, (30, 60), None, (1, 3, None), "nobody says the um/px"),
        ((10, 20), 1, (10, 20), 2, None, '"two/s.labels.ome.tif" has 20 x 10 px of 2 um'),
        ((10, 20), 1, (5, 5), 2, None, "both must show the whole slide"),
        ((10, 20), None, (5, 5), None, None, "both must show the whole slide"),
    ],
)
def test_pixels_of_the_comparison(here, shape, um, shape_of_other, um_of_other, grid, said):
    for name, labels, own in (("one", shape, um), ("two", shape_of_other, um_of_other)):
        write_map(here / name, np.ones(labels)) if own is None else write_ome(here / name, np.ones(labels), own)
    if grid is None:
        assert said in fails("compare", "one", "two")
        return
    found, result = compared("one", "two")
    slide = found.slides[0]
    assert (slide.grid_px, slide.first_px, slide.second_px) == pytest.approx(grid)
    assert said in result.stderr if said else result.stderr == ""
    assert found.pooled.pixels == np.prod(max(shape, shape_of_other))


@pytest.fixture
def pathologists(here):
    """Two projects on one folder of slides: what one calls dark is light for the other on a quarter of it."""
    slide = make_slide(here / "slides" / "s.tif")
    for name, dark in (("a", (0, 0, 200, 100)), ("b", (0, 0, 150, 100))):
        light = (dark[2], 0, 250, 100)
        make_project(here / name, {slide: (("dark", dark), ("light", light), (None, (0, 200, 9, 209)))})
    return here


def test_two_pathologists(pathologists):
    found, _ = compared("a", "b")
    (slide,) = found.slides
    assert (slide.slide_id, slide.mpp, slide.grid_px, found.pooled.pixels) == ("s", 0.5, 1, 250 * 100)
    assert found.pooled.agreement.value == pytest.approx(0.8)
    assert [(p.first, p.second, p.mm2) for p in found.pooled.pairs] == [
        ("dark", "light", pytest.approx(50 * 100 * 0.25e-6))
    ]
    (outline,) = read_geojson(pathologists / "out" / "s.geojson").annotations
    assert outline.class_name == "Region*" and outline.name == "dark / light"
    assert outline.geometry.equals(shapely.box(150, 0, 200, 100))
    assert outline.geometry.contains(shapely.Point(slide.regions[0].x_px, slide.regions[0].y_px))


def test_areas_to_jump_to_are_no_annotations(pathologists):
    """Neither of a class, nor of somebody's hand, when they come back from QuPath."""
    compared("a", "b")
    (outline,) = read_geojson(pathologists / "out" / "s.geojson").annotations
    assert is_suggestion_id(outline.annotation_id) and outline.metadata[METADATA_KEY] == SUGGESTION_MARK
    (pathologists / "geojson").mkdir()
    shutil.copy("out/s.geojson", "geojson/s.geojson")
    assert "no annotated area" in fails("import", "slides", "--annotations", "geojson", "--take-predictions", "all")


def test_polygons_are_painted_into_the_grid_of_a_map_and_of_a_dataset(pathologists):
    labels = np.zeros((64, 64), np.uint8)  # a pixel is 4 level-0 px wide
    labels[:40, :30], labels[:40, 30:40] = 7, 9
    write_map(pathologists / "maps", labels, table="value,class\n7,dark\n9,light\n")
    found, _ = compared("a", "maps", "--min-area-um2", 0)
    assert (found.slides[0].grid_px, found.pooled.pixels) == (4, 25 * 40)
    assert found.pooled.agreement.value == 30 / 40
    (outline,) = read_geojson(pathologists / "out" / "s.geojson").annotations
    assert outline.geometry.equals(shapely.box(120, 0, 160, 100))
    (pathologists / "splits.csv").write_text("slide,split\ns,train\n")
    assert invoke("import", "b", "--split-file", "splits.csv").exit_code == 0
    coarser, _ = compared("dataset", "maps", "--min-area-um2", 0)
    slide = coarser.slides[0]
    assert (slide.grid_px, slide.first_px, slide.second_px, slide.mpp) == (1, None, 4, 0.5)
    assert coarser.pooled.pixels == 160 * 100 and [r.second for r in slide.regions] == ["light"]
    (outline,) = read_geojson(pathologists / "out" / "s.geojson").annotations
    assert outline.geometry.equals(shapely.box(120, 0, 150, 100))
    same, _ = compared("dataset", "b")
    assert (same.pooled.kappa.value, same.pooled.pixels) == (1, 250 * 100)


def test_geojson_of_any_tool(pathologists):
    features = [rectangle(0, 0, 200, 100, "dark"), rectangle(200, 0, 50, 100, "light"), rectangle(0, 0, 9, 9, "Tmp*")]
    for feature in features:
        del feature["properties"]["objectType"]
    write_features(pathologists / "tool" / "s.geojson", features)
    found, result = compared("tool", "a")
    assert found.pooled.kappa.value == 1 and result.stderr == ""
    found, result = compared("tool/s.geojson", "tool")  # nobody says anything of the slide
    assert "nobody says the um/px of s" in result.stderr
    found, result = compared("tool/s.geojson", "tool", "--slides", "slides")
    assert result.stderr == "" and found.slides[0].mpp == 0.5


def test_files_that_are_passed_over_beside_geojson_are_those_of_an_import(pathologists):
    for name in ("one", "two"):
        write_features(pathologists / name / "s.geojson", [rectangle(0, 0, 9, 9, "a")])
    assert invoke("compare", "one", "two", "--out", "out", "--mpp", 1).exit_code == 0
    shutil.copy("out/comparison.json", "one/comparison.json")
    (pathologists / "one" / "outline.roi").write_bytes(b"Iout")
    found, result = compared("one", "two", "--mpp", 1)
    assert [s.slide_id for s in found.slides] == ["s"] and "outlines of ImageJ are not read" in result.stderr
    assert "comparison.json" not in invoke("import", "slides", "--annotations", "one", "--check").output
    write_features(pathologists / "two" / "s.json", [rectangle(0, 0, 5, 5, "a")])
    assert "are for the same slide" in fails("compare", "one", "two")


def test_maps_that_say_their_pixel_size(maps, here):
    description = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels SizeX="5" SizeY="3" '
        'PhysicalSizeX="{}" PhysicalSizeY="100"/></Image></OME>'
    )
    for size, mm2, words in (("100", 12 * 0.01, ""), ("0", 12e-6, "nobody says"), ("x", 12e-6, "nobody says")):
        text = description.format(size)
        tifffile.imwrite(here / "one" / "s.ome.tif", np.array(FIRST, np.uint8), description=text, metadata=None)
        found, result = compared("one/s.ome.tif", "two")
        assert found.pooled.both_mm2 == pytest.approx(mm2) and words in result.stderr
    text = description.format("100").replace("</OME>", "")
    tifffile.imwrite(here / "one" / "s.ome.tif", np.array(FIRST, np.uint8), description=text, metadata=None)
    assert '"one/s.ome.tif" is damaged' in fails("compare", "one/s.ome.tif", "two")


def test_names_of_two_files_say_nothing_but_those_of_one_do(maps, here):
    (here / "two" / "s.png").rename(here / "two" / "mine.png")
    found, result = compared("one/s.png", "two/mine.png", "--mpp", 1)
    assert found.pooled.pixels == 12 and 'slide "s" with "mine"' in result.stderr
    assert "no slide in common" in fails("compare", "one", "two/mine.png")


def test_slides_of_one_name_in_several_projects(here):
    for name in "ab":
        slide = make_slide(here / name / "slides" / "s.tif", ord(name))
        make_project(here / name, {slide: (("dark", (0, 0, 100, 100)),)}, {"s.tif": {"split": "train"}})
    assert invoke("import", "a", "b").exit_code == 0
    for name, rows in (("s", 10), ("s-2", 20)):
        labels = np.zeros((256, 256), np.uint8)
        labels[:rows, :100] = 1
        write_map(here / "maps", labels, f"{name}.png", "value,class\n1,dark\n")
    found, _ = compared("dataset", "maps")
    assert {s.slide_id: s.figures.pixels for s in found.slides} == {"s": 1000, "s-2": 2000}
    assert len(compared("dataset", "dataset")[0].slides) == 2


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda here: write_map(here / "two", SECOND, "t.png") and (here / "two" / "s.png").unlink(),
         ["no slide in common", "first has s, the second t"]),
        (lambda here: write_map(here / "two", SECOND[:1]), ["5 x 3 px", "5 x 1"]),
        (lambda here: (here / "two" / "classes.csv").unlink(), ["does not say which classes", "classes.csv"]),
        (lambda here: write_map(here / "two", [[9] * 5] * 3), ["holds the value 9", "does not name"]),
        (lambda here: write_map(here / "two", [[0] * 5] * 3), ["label no pixel in common"]),
        (lambda here: make_slide(here / "two" / "s.png"), ["is no label map", "8 bits"]),
        (lambda here: [file.unlink() for file in (here / "two").iterdir()], ["is no project, dataset"]),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(maps, here, prepare, words):
    prepare(here)
    line = fails("compare", "one", "two")
    assert all(word in line for word in words), line


def test_images_of_other_sizes_are_refused(pathologists):
    project = pathologists / "b" / "project.qpproj"
    content = json.loads(project.read_text())
    content["images"][0]["serverBuilder"]["metadata"] = {"width": 99, "height": 99}
    project.write_text(json.dumps(content))
    (pathologists / "slides" / "s.tif").rename(pathologists / "slides" / "moved.tif")
    content = json.loads((pathologists / "a" / "project.qpproj").read_text())
    content["images"][0]["serverBuilder"]["metadata"] = {"width": 256, "height": 256}
    (pathologists / "a" / "project.qpproj").write_text(json.dumps(content))
    assert "256 x 256 px in" in fails("compare", "a", "b")


def test_folders_of_others_are_left_alone(maps, here):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").touch()
    assert "was not made by this command" in fails("compare", "one", "two", "--out", "mine")
    (here / "empty").mkdir()
    assert invoke("compare", "one", "two", "--out", "empty").exit_code == 0
    compared("one", "two")
    assert "--overwrite" in fails("compare", "one", "two", "--out", "out")


def test_hostile_names_do_nothing(maps, here):
    write_map(here / "two", SECOND, table="value,class\n1,a\n2,\x1b[31mb\n3,=c\n")
    _, result = compared("one", "two", "--min-area-um2", 0)
    assert "\x1b" not in result.output and "\\x1b[31mb" in result.output
