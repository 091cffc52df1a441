"""Predictions in what is imported: only what somebody vouched for becomes a label, below what was drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rich.console import Console
from shapely import box

from dmmn_qp.annotations import ORIGINS, Annotation
from dmmn_qp.choices import OverlapRule
from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.class_rules import IGNORE, PaintRules
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, outline_id
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap
from dmmn_qp.training.examples import PatchExamples
from dmmn_qp.training.plan import validation_patches
from tests.conftest import fails, invoke, two_tissues, write_tiff
from tests.qupath.test_review import predicted

DRAWN = [
    Annotation(box(0, 0, 60, 256), class_name="dark", class_color=(90, 20, 110)),
    Annotation(box(200, 0, 256, 256), class_name="light", class_color=(230, 200, 225)),
]
LIGHT = predicted(box(60, 0, 120, 100), "light")
DARK = predicted(box(120, 0, 200, 100), "dark")
FAT = predicted(box(60, 100, 200, 256), "fat")
TISSUE = Annotation(
    box(0, 0, 256, 256), class_name="Tissue", annotation_id=outline_id("t"), metadata={METADATA_KEY: "tissue"},
    locked=True,
)  # fmt: skip
PREDICTED = [LIGHT, DARK, FAT]


@pytest.fixture
def round_of(here):
    """Imports a slide with some objects beside a folder of predictions; gives the dataset's folder."""
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", two_tissues(256, 256))
    (here / "predictions").mkdir()
    write_geojson(here / "predictions" / "s.geojson", PREDICTED)
    (here / "geojson").mkdir()

    def run(annotations, *options, out="dataset", code=0):
        write_geojson(here / "geojson" / "s.geojson", annotations)
        result = invoke("import", "slides", "--annotations", "geojson", "--out", out, "--overwrite", *options)
        assert result.exit_code == code, result.output
        run.output = " ".join(result.output.split())
        return here / out

    return run


def mask(dataset: Path, suffix: str = "") -> np.ndarray:
    with rasterio.open(dataset / "masks" / f"s{suffix}.tif") as raster:
        return raster.read(1)


def counts(dataset: Path) -> dict[str, int]:
    names = Dataset(dataset).class_map.names
    return {name: int((mask(dataset) == label).sum()) for label, name in enumerate(names, start=1)}


def origins(dataset: Path) -> dict[str, int]:
    found = mask(dataset, ".origin")
    assert ((found > 0) == (mask(dataset) > 0)).all()
    return {origin: int((found == value).sum()) for origin, value in ORIGINS.items() if (found == value).any()}


@pytest.mark.parametrize("order", [1, -1])
def test_untouched_predictions_change_nothing(round_of, order):
    before = round_of(DRAWN, out="before")
    after = round_of([*PREDICTED, TISSUE, *DRAWN] if order == 1 else [*DRAWN, TISSUE, *PREDICTED])
    for name in ("masks/s.tif", "annotations/s.geojson", "patches.csv", "dataset.json"):
        assert (before / name).read_bytes() == (after / name).read_bytes(), name
    assert not (after / "masks" / "s.origin.tif").exists()
    assert "3 predicted areas that nobody checked are left out; lock those that are right" in round_of.output
    assert "1 outline of tissue or suggested regions, drawn by dmmn-qp, left out" in round_of.output
    assert "Tissue" not in counts(after)


def test_what_was_vouched_for_becomes_labels(round_of):
    corrected = replace(DARK, class_name="fat")
    dataset = round_of([replace(LIGHT, locked=True), corrected, FAT, *DRAWN])
    assert counts(dataset) == {"light": 60 * 100 + 56 * 256, "fat": 80 * 100, "dark": 60 * 256}
    assert Dataset(dataset).class_map.names == ("dark", "light", "fat")  # as without predictions, which came first
    assert origins(dataset) == {"drawn": 116 * 256, "confirmed": 60 * 100, "corrected": 80 * 100}
    assert "of 3 predicted areas, 1 locked and 1 corrected become labels" in round_of.output
    report = json.loads((dataset / "report.json").read_text())
    assert report["review"] == {"drawn": 2, "predicted": 3, "confirmed": 1, "corrected": 1, "unchecked": 1}
    assert {(c["predicted"], c["said"]): round(c["area_mm2"], 6) for c in report["corrections"]} == {
        ("dark", "fat"): 0.002,
        ("light", "light"): 0.0015,
    }
    page = (dataset / "report.html").read_text()
    assert "What the model had said" in page and "taken away" in page


def test_corrections_are_judged_by_what_the_model_had_said(round_of):
    # 40 x 100 px of "dark" become "light", and 20 x 100 of "light" are erased at its other end.
    moved = replace(LIGHT, geometry=box(80, 0, 160, 100), measurements={})
    dataset = round_of([moved, DARK, FAT, *DRAWN])
    report = json.loads((dataset / "report.json").read_text())
    assert {(c["predicted"], c["said"]): round(c["area_mm2"] * 4e6) for c in report["corrections"]} == {
        ("light", "light"): 4000,
        ("dark", "light"): 4000,
        ("light", None): 2000,
    }


def test_what_is_drawn_wins(round_of):
    # "dark" comes after "light" in the order of classes, which decides among what was drawn.
    over = Annotation(box(100, 0, 200, 100), class_name="dark", class_color=(90, 20, 110))
    ordered = [Annotation(box(200, 0, 256, 256), class_name="light", class_color=(1, 2, 3)), DRAWN[0]]
    dataset = round_of([*ordered, over, replace(LIGHT, locked=True)])
    assert Dataset(dataset).class_map.names == ("light", "dark")
    assert counts(dataset) == {"light": 40 * 100 + 56 * 256, "dark": 60 * 256 + 100 * 100}
    assert (
        'predictions that were locked or corrected contradict what is drawn in 0.0005 mm²: 0.0005 mm² of "light" where '
        '"dark" is drawn'
        in " ".join(f["message"] for f in json.loads((dataset / "report.json").read_text())["findings"])
    )


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("reviewed", {"light": 14336 + 6000, "dark": 15360}),
        ("locked", {"light": 14336 + 6000, "dark": 15360}),
        ("none", {"light": 14336, "dark": 15360}),
        ("all", {"light": 14336 + 6000, "dark": 15360 + 8000, "fat": 140 * 156}),
    ],
)
def test_which_predictions_are_taken(round_of, take, expected):
    dataset = round_of([*DRAWN, replace(LIGHT, locked=True), DARK, FAT, TISSUE], "--take-predictions", take)
    assert counts(dataset) == {name: expected[name] for name in counts(dataset)} == expected
    if take == "all":
        assert origins(dataset)["unchecked"] == 8000 + 140 * 156
        assert round_of.output.count("2 predicted areas that nobody checked become labels") == 1


def test_locked_by_qupath_is_said_and_not_taken(round_of):
    doubtful = replace(FAT, locked=True, measurements={**FAT.measurements, "DAB: Mean": 0.5})
    dataset = round_of([*DRAWN, doubtful])
    assert "fat" not in counts(dataset)
    assert "1 predicted area left out: locked, but perhaps by QuPath itself" in round_of.output
    assert counts(round_of([*DRAWN, doubtful], "--take-predictions", "locked"))["fat"] == 140 * 156


def test_nothing_but_predictions(round_of, here):
    round_of(PREDICTED, code=1)
    line = fails("import", "slides", "--annotations", "geojson", "--out", "d")
    assert "no annotated area with a class to train on" in line
    assert "3 predicted areas that nobody checked are left out: lock those that are right" in line
    # The folder of predictions itself, corrected there or not, is no different.
    assert "3 predicted areas" in fails("import", "slides", "--annotations", "predictions", "--out", "d")


def test_where_originals_are_looked_for(round_of, here):
    # Without its file, an outline that was moved there and back looks changed: QuPath took its measurements away.
    back_again = replace(LIGHT, measurements={})
    assert "light" in counts(round_of([DRAWN[0], back_again, DARK], out="elsewhere/dataset"))
    assert "light" not in counts(round_of([DRAWN[0], back_again, DARK]))
    dataset = round_of([DRAWN[0], back_again, DARK], "--predicted-in", "predictions", out="elsewhere/dataset")
    assert "light" not in counts(dataset)
    (here / "predictions" / "s.geojson").rename(here / "replaced.geojson")
    earlier = here / "predictions" / "earlier" / "run-1"
    earlier.mkdir(parents=True)
    write_geojson(earlier / "s.geojson.gz", read_geojson(here / "replaced.geojson").annotations)
    assert "light" not in counts(round_of([DRAWN[0], back_again, DARK]))
    (here / "empty").mkdir()
    for folder in ("empty", "missing"):
        line = fails("import", "slides", "--annotations", "geojson", "--out", "x", "--predicted-in", folder)
        assert f'"{folder}" holds no predictions' in line


def test_renaming_is_no_correction(round_of, here):
    (here / "rename.toml").write_text('[import.classes]\nlight = "pale"\nfat = "pale"\n')
    annotations = [*DRAWN, replace(LIGHT, locked=True), DARK, FAT]
    dataset = round_of(annotations, "--config", "rename.toml")
    assert counts(dataset) == {"pale": 14336 + 6000, "dark": 15360}
    assert origins(dataset) == {"drawn": 116 * 256, "confirmed": 6000}
    # What the dataset holds is read back as what it was, under the new names.
    result = invoke("import", "slides", "--annotations", "dataset/annotations", "--out", "again")
    assert result.exit_code == 0, result.output
    assert origins(here / "again") == origins(dataset)
    assert counts(here / "again") == counts(dataset)
    whole = round_of(annotations, "--config", "rename.toml", "--take-predictions", "all")
    result = invoke("import", "slides", "--annotations", str(whole / "annotations"), "--out", "again", "--overwrite")
    assert result.exit_code == 0, result.output
    assert origins(here / "again") == {"drawn": 116 * 256, "confirmed": 6000}


def test_names_with_colons(round_of, here):
    (here / "rename.toml").write_text('[import.classes]\nlight = "Tissue:Pale"\n')
    annotations = [*DRAWN, replace(LIGHT, locked=True), DARK]
    dataset = round_of(annotations, "--config", "rename.toml", "--take-predictions", "all")
    assert Dataset(dataset).class_map.names == ("dark", "Tissue: Pale")
    result = invoke("import", "slides", "--annotations", "dataset/annotations", "--out", "again")
    assert result.exit_code == 0, result.output
    assert origins(here / "again") == {"drawn": 116 * 256, "confirmed": 6000}


def test_predicted_and_corrected_class_get_one_name(round_of, here):
    (here / "rename.toml").write_text('[import.classes]\nlight = "pale"\nfat = "pale"\n')
    dataset = round_of([*DRAWN, replace(FAT, class_name="light")], "--config", "rename.toml")
    assert origins(dataset)["corrected"] == 140 * 156  # no "fat" is left, and its rule is good all the same
    result = invoke("import", "slides", "--annotations", "dataset/annotations", "--out", "again")
    assert result.exit_code == 0, result.output
    assert origins(here / "again") == origins(dataset)


def test_regions_and_copies_do_not_change_the_table_of_corrections(round_of):
    halved = replace(FAT, geometry=box(60, 100, 200, 178), measurements={})
    region = Annotation(box(0, 0, 256, 256), class_name="Region*")
    for more in ([], [region], [replace(region, class_name=None)], [halved]):
        dataset = round_of([*DRAWN, halved, *more, LIGHT])
        report = json.loads((dataset / "report.json").read_text())
        assert {(c["predicted"], c["said"]): round(c["area_mm2"] * 4e6) for c in report["corrections"]} == {
            ("fat", "fat"): 140 * 78,
            ("fat", None): 140 * 78,
        }


def test_originals_of_an_image_whose_name_repeats(round_of, here):
    (here / "predictions" / "s.geojson").rename(here / "predictions" / "s-2.geojson")
    moved_there_and_back = replace(LIGHT, measurements={})
    assert "light" not in counts(round_of([DRAWN[0], moved_there_and_back, DARK]))


# ---- painting

MAP = ClassMap.from_colors([("a", (1, 1, 1)), ("b", (2, 2, 2))])


def area(name: str, x: int, width: int, origin: str) -> Annotation:
    return Annotation(box(x, 0, x + width, 1), class_name=name, origin=origin)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "annotations", "labels", "words"),
    [
        ("class-order", [("a", 0, 4, "confirmed"), ("b", 2, 4, "drawn")], "112222", "331111"),
        ("class-order", [("b", 0, 4, "confirmed"), ("a", 2, 4, "corrected")], "221111", "332222"),
        ("class-order", [("a", 0, 4, "unchecked"), ("b", 2, 4, "confirmed")], "112222", "443333"),
        ("drawing", [("a", 0, 4, "drawn"), ("b", 2, 4, "confirmed")], "111122", "111133"),
        ("smallest", [("a", 0, 6, "drawn"), ("b", 2, 1, "corrected")], "111111", "111111"),
        ("unlabelled", [("a", 0, 4, "drawn"), ("b", 2, 4, "corrected")], "111122", "111122"),
        ("unlabelled", [("a", 0, 4, "drawn"), ("b", 2, 4, "drawn"), ("a", 0, 6, "confirmed")], "110022", "110011"),
        ("class-order", [(IGNORE, 2, 2, "drawn"), ("a", 0, 6, "confirmed")], "110011", "330033"),
        ("depth", [(IGNORE, 2, 3, "corrected"), ("a", 0, 4, "drawn"), ("b", 0, 6, "unchecked")], "111102", "111104"),
    ],
)  # fmt: skip
def test_layers_by_hand(rule: OverlapRule, annotations, labels, words):
    painter = LabelPainter([area(*a) for a in annotations], MAP, 1.0, PaintRules(rule))
    window = Region(0, 0, 6, 1)
    assert "".join(map(str, painter.paint(window)[0])) == labels
    assert "".join(map(str, painter.paint_origins(window)[0])) == words


# ---- which labels choose the best epoch


def validation_of(round_of, annotations, *options):
    dataset = Dataset(round_of(annotations, *options))
    reporter = Reporter(Console(quiet=True))
    patches, counting = validation_patches(dataset, dataset.patches(), reporter)
    examples = PatchExamples(dataset, patches, augment=None, origins=counting)
    return counting, int((examples[Draw(0, seed=0)].targets > 0).sum())


def test_validation_counts_what_was_drawn(round_of):
    locked = replace(LIGHT, locked=True)
    assert validation_of(round_of, DRAWN) == (("drawn",), 116 * 256)
    assert validation_of(round_of, [*DRAWN, locked]) == (("drawn",), 116 * 256)
    assert validation_of(round_of, [locked, DARK]) == (("corrected", "confirmed"), 6000)
    with pytest.raises(DatasetError, match="nothing but predictions that nobody checked"):
        validation_of(round_of, [LIGHT, DARK], "--take-predictions", "all")
