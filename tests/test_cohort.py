"""`dmmn-qp cohort`: figures checked by hand, and tables, catalogue and page of small folders of predictions."""

import csv
import json

import numpy as np
import pytest

from dmmn_qp.collecting import distances, figures
from dmmn_qp.collecting.distances import Outline, distances_from_outline
from dmmn_qp.collecting.figures import ClassFigures, SlideFigures
from dmmn_qp.collecting.options import CohortOptions, Ratio
from dmmn_qp.collecting.page import page_of
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PROBABILITIES_SUFFIX
from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import ClassMap
from dmmn_qp.vectors.sources import ArrayLabels
from tests.conftest import fails, invoke

CLASSES = ClassMap.from_colors([("tumour", (200, 0, 0)), ("stroma", (0, 200, 0)), ("background", (9, 9, 9))])


def outline(mpp=1.0, hole=0.0, area=0.0):
    return Outline((1, 2), mpp, area, hole)


def test_distances_by_hand():
    """Columns 0 and 1 are glass, 2 to 9 stroma, but for tumour in columns 5 and 6; pixels are of 10 um.

    Tumour has 3 columns of stroma between it and glass, stroma none. The right border is no outline.
    """
    labels = np.full((4, 10), 2, np.uint8)
    labels[:, :2], labels[:, 5:7] = 3, 1
    found = distances_from_outline(ArrayLabels(labels), outline(10), (0, 30, 40))
    assert found[1].least_um == 30 and found[1].nearest_part_um == 30
    assert found[1].within_mm2 == pytest.approx((0, 4e-4, 8e-4))
    assert found[2].least_um == 0 and found[2].within_mm2 == pytest.approx((4e-4, 12e-4, 12e-4))
    labels[0, 2] = 1  # one wrong pixel of 9, more than 5 %
    found = distances_from_outline(ArrayLabels(labels), outline(10), ())
    assert found[1].least_um == found[1].nearest_part_um == 0


def test_one_wrong_pixel_does_not_change_the_nearest_part():
    labels = np.full((40, 40), 1, np.uint8)
    labels[:, 0], labels[:, 1:11], labels[7, 1] = 3, 2, 1
    found = distances_from_outline(ArrayLabels(labels), outline(), ())[1]
    assert (found.least_um, found.nearest_part_um) == (0, 11)  # 5 % of 1161 are 58: the first column has 40


def test_slanting_distances_are_straight():
    labels = np.full((9, 9), 2, np.uint8)
    labels[0, 0], labels[3, 4] = 0, 1
    assert distances_from_outline(ArrayLabels(labels), outline(), ())[1].least_um == 4  # sqrt(9 + 16) - 1


@pytest.mark.parametrize(("hole", "least"), [(0, 3), (4, 3), (5, 14)])
def test_small_holes_are_tissue(hole, least):
    """A hole of 2 x 2 px, 3 px away, which glass is not."""
    labels = np.full((40, 40), 2, np.uint8)
    labels[:, 0], labels[20, 15], labels[20:22, 19:21] = 3, 1, 3
    assert distances_from_outline(ArrayLabels(labels), outline(hole=hole), ())[1].least_um == least


def test_dirt_has_no_distance():
    labels = np.full((20, 20), 3, np.uint8)
    labels[5:15, 5:15], labels[9:11, 9:11], labels[0:2, 0:2] = 2, 1, 1
    assert distances_from_outline(ArrayLabels(labels), outline(area=5), ())[1].least_um == 4
    assert distances_from_outline(ArrayLabels(labels), outline(), ())[1].least_um == 0


@pytest.mark.parametrize("label", [0, 2, 3])
def test_without_an_outline_there_is_no_distance(label):
    assert distances_from_outline(ArrayLabels(np.full((5, 5), label, np.uint8)), outline(), (1,)) == {}


def test_a_large_raster_is_measured_in_cells_and_strips(monkeypatch):
    """To a cell of 4 px, areas to the pixel, whatever the strips; the raster ends within cells."""
    rng = np.random.default_rng(1)
    labels = np.full((199, 301), 2, np.uint8)
    labels[:, :21], labels[60:121, 230:271] = 3, rng.integers(1, 3, (61, 41))
    fine = distances_from_outline(ArrayLabels(labels), outline(), (216, 224))
    monkeypatch.setattr(distances, "MOST_CELLS", 199 * 301 // 16 + 1)
    monkeypatch.setattr(distances, "STRIP_PX", 9)
    assert distances.cell_px(labels.shape) == 4
    coarse = distances_from_outline(ArrayLabels(labels), outline(), (220, 1000))
    for label in (1, 2):
        assert coarse[label].least_um == pytest.approx(fine[label].least_um, abs=4)
    assert fine[1].within_mm2[0] <= coarse[1].within_mm2[0] <= fine[1].within_mm2[1]
    assert coarse[1].within_mm2[1] == pytest.approx((labels == 1).sum() * 1e-6)


@pytest.mark.parametrize(
    ("text", "above", "below"),
    [
        ("tumour/stroma", ["tumour"], ["stroma"]),
        ("necrosis / necrosis + tumour", ["necrosis"], ["necrosis", "tumour"]),
        ("a/b/stroma", ["a/b"], ["stroma"]),
        ("tumour/her2+", ["tumour"], ["her2+"]),
        ("tumour/her2++stroma", ["tumour"], ["her2+", "stroma"]),
    ],
)
def test_ratios_meet_classes_by_name(text, above, below):
    ratio = Ratio.parse(text, ["tumour", "stroma", "necrosis", "a/b", "her2+"])
    assert ([*ratio.above], [*ratio.below]) == (above, below)


def predicted(folder, slide_id, labels, *, mpp=2.0, probabilities=None, **told):
    """A folder of predictions with one more slide."""
    folder.mkdir(exist_ok=True)
    write_label_pyramid(folder / f"{slide_id}.{LABELS_SUFFIX}", [labels], labels.shape, mpp, CLASSES)
    if probabilities is not None:
        stack = np.broadcast_to(np.array(probabilities, np.uint8)[:, None, None], (3, *labels.shape))
        path = folder / f"{slide_id}.{PROBABILITIES_SUFFIX}"
        write_probability_pyramid(path, [stack], labels.shape, mpp, CLASSES.names, [(1, 2, 3)] * 3)
    run = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else {"predictions": {}}
    record = {"run_id": "r", "model": "m", "model_run": "t", "weights": "w", "class_map": CLASSES.model_dump()}
    record["request"] = {"um_per_px": 0.5, "context": "patch", "tta": False, "regions": None}
    run["predictions"][slide_id] = record | told
    run.setdefault("inputs", {})[slide_id] = {"path": f"/s/{slide_id}.svs", "fingerprint": f"f-{slide_id}"}
    (folder / "run.json").write_text(json.dumps(run))


def some_labels(tumour=4):
    """20 x 20 px: 5 columns of glass, then stroma with some rows of tumour in columns 10 to 19; 2 um."""
    labels = np.full((20, 20), 2, np.uint8)
    labels[:, :5] = 3
    labels[:tumour, 10:] = 1
    return labels


@pytest.fixture
def folder(here):
    predicted(here / "predictions", "c1_a", some_labels(), probabilities=(204, 51, 255))
    unlike = {"distance_from_training": 3.0, "distance_threshold": 2.0}
    predicted(here / "predictions", "c1_b", some_labels(10), probabilities=(102, 51, 255), **unlike)
    predicted(here / "predictions", "c2_a", some_labels(0), request={"regions": "digest"}, distance_from_training=1.0)
    return here / "predictions"


def rows_of(path):
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


COMMAND = ("cohort", "predictions", "--tissue-min-area-um2", 0, "--tissue-min-hole-um2", 0)


def test_tables_by_hand(here, folder):
    """Of 400 px of 4 um2 are 300 tissue; tumour is 40, then 100 of them, 5 px of stroma away from glass."""
    result = invoke(
        *COMMAND, "--ratio", "tumour/stroma", "--within", 10, "--within", "20.5", "--case-pattern", "^[^_]+"
    )
    assert result.exit_code == 0, result.output
    rows = rows_of(here / "cohort/cohort.csv")
    assert [(r["slide"], r["case"], r["class"]) for r in rows[:4]] == [
        *(("c1_a", "c1", name) for name in ("tumour", "stroma", "background")), ("c1_b", "c1", "tumour"),
    ]  # fmt: skip
    assert rows[0] == {
        **{"slide": "c1_a", "case": "c1", "class": "tumour", "area_mm2": "0.00016", "percent_of_tissue": "13.3333"},
        **{"mean_probability": "0.8", "least_distance_um": "10.0", "nearest_5_percent_um": "10.0"},
        **{"within_10_um_mm2": "1.6e-05", "within_20.5_um_mm2": "9.6e-05"},
        **{"tissue_mm2": "0.0012", "tumour/stroma": "0.153846"},
    }
    assert rows[2]["percent_of_tissue"] == rows[2]["least_distance_um"] == "" and rows[2]["tumour/stroma"] == "0.153846"
    assert [r["least_distance_um"] for r in rows if r["slide"] == "c2_a"] == ["", "", ""]
    assert [r["mean_probability"] for r in rows if r["slide"] == "c2_a"] == ["", "", ""]
    cases = {(r["case"], r["class"]): r for r in rows_of(here / "cohort/cases.csv")}
    both = cases["c1", "tumour"]
    assert (both["slides"], both["area_mm2"], both["percent_of_tissue"]) == ("2", "0.00056", "23.3333")
    assert both["mean_probability"] == "0.5143"  # (40 x 0.8 + 100 x 0.4) / 140
    assert (both["least_distance_um"], both["tumour/stroma"]) == ("10.0", "0.304348")
    first, second, third = rows_of(here / "cohort/slides.csv")
    assert (first["model"], first["weights"], first["fingerprint"], first["file"]) == (
        "m",
        "w",
        "f-c1_a",
        "/s/c1_a.svs",
    )
    assert json.loads(first["options"]) == {"um_per_px": 0.5, "context": "patch"}
    assert [r["unlike_training"] for r in (first, second, third)] == ["", "yes", ""]
    assert "only regions of interest" in third["note"] and second["distance_from_training"] == "3.0"
    page = (here / "cohort/cohort.html").read_text()
    assert (
        "unlike the training slides: distance 3.00" in page
        and page.count("<svg") == 6
        and "mm2" not in page
        and "<script" not in page
    )
    run = json.loads((here / "cohort/run.json").read_text())
    assert run["stage"] == "cohort" and run["configuration"]["ratios"] == ["tumour/stroma"] and run["failed"] == {}
    assert "--overwrite" in fails(*COMMAND)
    assert invoke(*COMMAND, "--overwrite").exit_code == 0 and not (here / "cohort/cases.csv").exists()
    assert "case" not in rows_of(here / "cohort/cohort.csv")[0]


def test_a_damaged_slide_is_left_out(here, folder):
    (folder / f"bad.{LABELS_SUFFIX}").write_bytes(b"no")
    result = invoke(*COMMAND)
    assert result.exit_code == 0 and result.stderr.startswith("warning: bad is left out: label raster")
    assert "bad" in json.loads((here / "cohort/run.json").read_text())["failed"]
    for path in folder.glob("c*"):
        path.unlink()
    assert "no slide could be measured" in fails(*COMMAND, "--overwrite")


def test_damage_of_one_kind_is_two_lines(here, folder):
    for name in ("bad1", "bad2", "bad3"):
        (folder / f"{name}.{LABELS_SUFFIX}").write_bytes(b"no")
    said = invoke(*COMMAND).stderr.splitlines()
    assert len(said) == 2 and said[0].startswith("warning: bad1 is left out: ")
    assert said[1].startswith("warning: 2 more like that of bad1 (") and said[1].endswith(": bad2, bad3")


def test_several_folders(here, folder):
    predicted(here / "more", "d", some_labels(), weights="other")
    result = invoke("cohort", "predictions", "more")
    assert result.exit_code == 0 and "2 models predicted these slides" in result.stderr
    assert {row["predictions"] for row in rows_of(here / "cohort/slides.csv")} == {"predictions", "more"}
    predicted(here / "more", "c1_a", some_labels())
    assert 'slide "c1_a" is in "predictions" and in "more"' in fails("cohort", "predictions", "more", "--out", "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none",), '"none" holds no predictions'),
        (("predictions", "--ratio", "tumor/stroma"), '"tumor" is no predicted class; did you mean "tumour"?'),
        (("predictions", "--ratio", "tumour"), "is no ratio; write such as tumour/stroma"),
        (
            ("predictions", "--ratio", "tumour/stroma", "--ratio", "tumour/stroma"),
            '--ratio: "tumour/stroma" is given twice',
        ),
        (("predictions", "--within", "-1"), "--within should be greater than or equal to 0, not '-1'"),
        (("predictions", "--within", "nan"), "--within should be a finite number, not 'nan'"),
        (("predictions", "--within", "5", "--within", "5.0"), '--within: "5" is given twice'),
        (("predictions", "--within", "5", "--within", "5.0000001"), '--within: "5" is given twice'),
        (("predictions", "--tissue-min-area-um2", "-1"), "--tissue-min-area-um2 should be greater than or equal to 0"),
        (("predictions", "--case-pattern", "^x"), 'finds nothing in slide "c1_a"'),
        (("predictions", "--case-pattern", "("), "is no regular expression"),
        (("predictions", "--out", "predictions/run.json"), "is a file"),
    ],
)
def test_what_cannot_be_meant_is_said_before_the_work(here, folder, monkeypatch, words, said):
    monkeypatch.setattr("dmmn_qp.collecting.stage.measure_slide", None)
    assert said in fails("cohort", *words)
    assert not (here / "cohort").exists()


def test_tissue_is_what_it_is_for_predict():
    for name in ("tissue_min_area_um2", "tissue_min_hole_um2"):
        assert CohortOptions.model_fields[name].default == PredictOptions.model_fields[name].default


def test_options_of_the_configuration(here, folder):
    (here / "own.toml").write_text('[cohort]\nratios = ["tumour/stroma"]\nwithin_um = [20, 10]\n')
    assert invoke(*COMMAND, "--config", "own.toml", "--within", "7").exit_code == 0
    columns = rows_of(here / "cohort/cohort.csv")[0].keys()
    assert "within_7_um_mm2" in columns and "within_10_um_mm2" not in columns and "tumour/stroma" in columns


def test_names_of_others_do_nothing(here):
    """On a page, and in a table that a spreadsheet program opens."""
    predicted(here / "predictions", "=1+1<img src=x>", some_labels(), model="<b>m</b>")
    assert invoke("cohort").exit_code == 0
    page = (here / "cohort/cohort.html").read_text()
    assert "<img" not in page and "<b>m" not in page and "&lt;img src=x&gt;" in page
    assert (here / "cohort/cohort.csv").read_text().splitlines()[1].startswith("'=1+1")


def test_outliers_by_hand():
    """Quartiles of 10, 11, 12, 13, 50 are 11 and 13, so the fences 8 and 16."""

    def slide(name, percent):
        classes = (ClassFigures("tumour", percent, True), ClassFigures("stroma", 100 - percent, True))
        return SlideFigures(name, None, "", classes)

    slides = [slide(f"s{p}", p) for p in (10, 11, 12, 13, 50)]
    found = page_of(slides, [], {}, {})
    assert [(o.slide_id, o.what) for o in found.outliers] == [
        ("s50", "tumour, % of tissue: 50"),
        ("s50", "stroma, % of tissue: 50"),
    ]
    tumour = found.distributions[0]
    assert (tumour.low, tumour.median, tumour.high, tumour.slides) == (10, 12, 50, 5)
    assert sum(bar[4] for bar in tumour.bars) == 5 and tumour.bars[0][4] == 2
    assert page_of(slides[1:], [], {}, {}).outliers == []


def test_rasters_are_counted_in_parts(here, folder, monkeypatch):
    assert invoke(*COMMAND).exit_code == 0
    monkeypatch.setattr(figures, "_ROWS", 3)
    assert invoke(*COMMAND, "--out", "again").exit_code == 0
    assert (here / "again/cohort.csv").read_text() == (here / "cohort/cohort.csv").read_text()


def test_without_pyarrow_there_is_a_line(here, folder, monkeypatch):
    monkeypatch.setattr("dmmn_qp.collecting.tables.find_spec", lambda name: None)
    result = invoke(*COMMAND)
    assert result.exit_code == 0 and not [*(here / "cohort").glob("*.parquet")]
    (line,) = (line for line in result.stdout.splitlines() if "arquet" in line)
    assert line.startswith("No Parquet, only CSV: pyarrow is not installed; pip install ") and '[cohort]"' in line


def test_parquet_has_the_same(here, folder):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra cohort")
    assert "Parquet" not in (said := invoke(*COMMAND, "--case-pattern", "^[^_]+").output), said
    for name in ("cohort", "cases", "slides"):
        rows = parquet.read_table(here / f"cohort/{name}.parquet").to_pylist()
        texts = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
        assert texts == rows_of(here / f"cohort/{name}.csv")
