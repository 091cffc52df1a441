"""Areas and README of a folder of predictions, and the overview of slides of any shape."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PROBABILITIES_SUFFIX
from dmmn_qp.labels.class_rules import is_tissue
from dmmn_qp.outputs import area_table
from dmmn_qp.outputs.area_table import count_areas, write_areas
from dmmn_qp.outputs.overview import write_overview
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.outputs.readme import write_readme
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap, TissueClass
from tests.conftest import two_tissues, write_tiff

CLASSES = ClassMap.from_colors([("Tumor", (255, 0, 0)), ("background: glass", (9, 9, 9)), ("Fold*", (1, 2, 3))])


@pytest.fixture
def predicted(tmp_path):
    """Makes a `PredictedSlide` of an array of labels, at 1 um/px on a slide of 0.5."""
    opened = []

    def make(labels, slide_id="s", classes=CLASSES):
        rows, columns = labels.shape
        path = write_tiff(tmp_path / "slides" / f"{slide_id}.tif", two_tissues(2 * rows, 2 * columns))
        opened.append(open_slide(path))
        raster = tmp_path / "out" / f"{slide_id}.{LABELS_SUFFIX}"
        write_label_pyramid(raster, [labels], labels.shape, 1.0, classes)
        return PredictedSlide(opened[-1], slide_id, "f", raster, 2.0, classes, "model", "training", "run")

    (tmp_path / "slides").mkdir()
    (tmp_path / "out").mkdir()
    yield make
    for slide in opened:
        slide.close()


def rows_of(path):
    with path.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_areas_by_hand(predicted, tmp_path):
    labels = np.array([[0, 1, 1, 1], [2, 2, 3, 0]], np.uint8)
    path = write_areas(tmp_path / "out", [count_areas(predicted(labels))])
    assert rows_of(path) == [
        (
            *("slide", "class", "pixels", "area_mm2", "percent_of_tissue", "tissue_mm2", "tissue_classes"),
            *("distance_from_training", "distance_threshold"),
        ),
        ("s", "Tumor", "3", "0.000003", "100.0000", "0.000003", "Tumor", "", ""),
        ("s", "background: glass", "2", "0.000002", "", "", "", "", ""),
        ("s", "Fold*", "1", "0.000001", "", "", "", "", ""),
        ("s", "(unlabelled)", "2", "0.000002", "", "", "", "", ""),
    ]


def test_percentages_say_what_they_are_of(predicted):
    classes = ClassMap.from_colors([(name, (1, 2, 3)) for name in ("stroma", "Background", "carcinoma")])
    areas = count_areas(predicted(np.array([[1, 1, 1, 3], [2, 2, 2, 0]], np.uint8), classes=classes))
    assert [row[4:7] for row in areas.rows()] == [
        ["75.0000", "0.000004", "stroma; carcinoma"],
        ["", "", ""],
        ["25.0000", "0.000004", "stroma; carcinoma"],
        ["", "", ""],
    ]


@pytest.mark.parametrize("told", [(), ("0.000007", "Tumor")])
def test_areas_of_an_earlier_version_are_taken_over(predicted, tmp_path, told):
    out = tmp_path / "out"
    header = ",".join(area_table.AREAS_COLUMNS[: 5 + len(told)])
    (out / "areas.csv").write_text(
        f"{header}\n{','.join(('old,Tumor,7,0.000007,100.0000', *told))}\n"
        f"{','.join(('s,Tumor,1,0.000001,100.0000', *told))}\n"
    )
    path = write_areas(out, [count_areas(predicted(np.ones((2, 2), np.uint8)))])
    assert path == out / "areas.csv"
    rows = rows_of(path)
    assert len(rows[0]) == 9
    assert rows[1] == ("old", "Tumor", "7", "0.000007", "100.0000", *(told or ("", "")), "", "")
    assert rows[2] == ("s", "Tumor", "4", "0.000004", "100.0000", "0.000004", "Tumor", "", "")


def test_distance_from_training_in_every_row(predicted, tmp_path):
    counted = count_areas(predicted(np.ones((2, 2), np.uint8)))
    write_areas(tmp_path / "out", [replace(counted, distance=4.1234, threshold=2.5)])
    rows = rows_of(write_areas(tmp_path / "out", [replace(counted, slide_id="t", distance=0.5)]))
    assert {(row[0], *row[7:]) for row in rows[1:]} == {("s", "4.123", "2.500"), ("t", "0.500", "")}


def test_counts_are_exact_on_many_strips(predicted, monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, (1300, 700), np.uint8)
    monkeypatch.setattr(area_table, "_EXACT_FLOAT32", 700 * 37)  # so that a strip is counted in parts
    areas = count_areas(predicted(labels))
    assert areas.pixels == tuple(np.bincount(labels.ravel()).tolist())


def test_slide_without_tissue_has_no_percentage(predicted):
    rows = count_areas(predicted(np.full((3, 4), 2, np.uint8))).rows()
    assert [(row[2], row[4]) for row in rows] == [("0", ""), ("12", ""), ("0", ""), ("0", "")]
    assert rows[0][5] == "0.000000"


@pytest.mark.parametrize(
    "name, ignored, tissue",
    [
        ("Tumor", False, True),
        ("Background", False, False),
        ("BACKGROUND: white", False, False),
        ("Ignore*", True, False),
        ("ignored area", False, False),
        ("Fold*", False, False),
        ("Tumor", True, False),
        ("Stroma background", False, True),
        ("Glass", False, False),
        ("White  Space 2", False, False),
        ("no-tissue", False, False),
        ("HINTERGRUND_hell", False, False),
        ("Glassy membrane", False, True),
        ("Ignorance", False, True),
        ("12", False, True),
    ],
)
def test_what_is_tissue(name, ignored, tissue):
    assert is_tissue(TissueClass(name=name, label=1, color=(0, 0, 0), ignored=ignored)) is tissue


def test_earlier_slides_stay_and_repeated_ones_are_replaced(predicted, tmp_path):
    out = tmp_path / "out"
    odd = ClassMap.from_colors([('Tumor, "odd"\nname', (1, 1, 1))])
    write_areas(out, [count_areas(predicted(np.ones((2, 2), np.uint8), name, odd)) for name in ("a", "b, c")])
    first = rows_of(out / "areas.csv")
    write_areas(out, [count_areas(predicted(np.ones((3, 5), np.uint8), name)) for name in ("a", "d")])
    found = rows_of(out / "areas.csv")
    assert [row for row in found if row[0] == "b, c"] == [row for row in first if row[0] == "b, c"]
    assert next(row[1:3] for row in found if row[0] == "a") == ("Tumor", "15")
    assert list(dict.fromkeys(row[0] for row in found)) == ["slide", "a", "b, c", "d"]


@pytest.mark.parametrize("content", [b"slide;class;pixels\n", b"\xff\xfe\x00x", b"slide,area\na,1\n"])
def test_a_table_of_the_users_is_left_alone(predicted, tmp_path, content):
    out = tmp_path / "out"
    (out / "areas.csv").write_bytes(content)
    areas = count_areas(predicted(np.ones((2, 2), np.uint8)))
    for _ in range(2):
        path = write_areas(out, [areas])
        assert path.name == "areas.dmmn-qp.csv" and len(rows_of(path)) == 5
    assert (out / "areas.csv").read_bytes() == content


def test_labels_of_another_model(predicted):
    with pytest.raises(DatasetError, match="labels above 3"):
        count_areas(predicted(np.full((2, 2), 4, np.uint8)))


def test_readme_names_every_file(predicted, tmp_path):
    out = tmp_path / "out"
    areas = count_areas(predicted(np.ones((2, 2), np.uint8)))
    about = {"model_name": "breast", "class_map": CLASSES, "run_id": "1234", "mpp": 0.5}
    text = write_readme(out, **about).read_text()
    assert f"<slide>.{LABELS_SUFFIX}" in text and "areas.csv" not in text and PROBABILITIES_SUFFIX not in text
    write_areas(out, [areas])
    (out / "s.geojson").write_text("{}")
    write_probability_pyramid(
        out / f"s.{PROBABILITIES_SUFFIX}", [np.zeros((1, 2, 2), np.uint8)], (2, 2), 1.0, ["a"], [(1, 2, 3)]
    )
    text = write_readme(out, **about, licence="CC-BY-NC 4.0", attribution="the authors").read_text()
    for word in (
        "breast",
        "1234",
        "CC-BY-NC 4.0",
        "the authors",
        "   2  background: glass",
        "background, glass, whitespace",
    ):
        assert word in text
    for path in out.iterdir():
        assert path.name.replace("s.", "<slide>.", 1) in text or path.name in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_readme_of_the_users_is_left_alone(tmp_path):
    (tmp_path / "README.txt").write_text("My slides\n")
    about = {"model_name": "m", "class_map": CLASSES, "run_id": "1", "mpp": 0.5}
    assert write_readme(tmp_path, **about).name == "README.dmmn-qp.txt"
    assert "README.dmmn-qp.txt" in write_readme(tmp_path, **about).read_text()
    assert (tmp_path / "README.txt").read_text() == "My slides\n"


@pytest.mark.parametrize("shape", [(3000, 100), (100, 3000), (8, 12), (1, 1), (1, 900)])
def test_overview_of_any_shape(predicted, tmp_path, shape):
    write_overview(tmp_path / "o.png", predicted(np.ones(shape, np.uint8)))
    with Image.open(tmp_path / "o.png") as picture:
        assert 600 <= picture.width <= 1540 and 100 <= picture.height <= 1300


def test_overview_leaves_no_class_out(predicted, tmp_path, recwarn):
    """Names that matplotlib would leave out (_) or take for formulas ($), and in a script that its font has not."""
    names = ["_hidden", "$\\frac{1}$", "a$b$c", "癌", "new\nline", *(f"class number {i} " * 4 for i in range(25))]
    colors = [(200, 3 * i, 255 - 3 * i) for i in range(len(names))]
    classes = ClassMap.from_colors(list(zip(names, colors, strict=True)))
    write_overview(tmp_path / "o.png", predicted(np.zeros((300, 200), np.uint8), "a$_1$", classes))
    with Image.open(tmp_path / "o.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    seen = {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    assert set(colors) <= seen  # in the legend, because the slide has no labels
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
