"""The README's round, twice: predict, push, correct, import. No correction is lost, and nothing lies doubled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import rasterio
from shapely import box, unary_union
from shapely.geometry import shape

from dmmn_qp.annotations import Annotation
from dmmn_qp.console import Reporter
from dmmn_qp.pushing.stage import push
from dmmn_qp.qupath.geojson_writer import feature_of, write_geojson
from dmmn_qp.qupath.marks import is_ours
from tests.conftest import invoke
from tests.qupath import paquo_stand_in
from tests.qupath.test_pushing import entry_id_of, objects
from tests.qupath.test_review import predicted

SLIDE = "train-1"


@pytest.fixture(params=["0.5.1", "0.4.4"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    paquo_stand_in.install(monkeypatch, version=paquo_stand_in.Version(request.param))


class Round:
    """A project, and what is done to it in turn."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.predictions = folder / "predictions"
        self.predictions.mkdir()

    def predict(self, run: str, *areas: tuple[Any, str]) -> list[Annotation]:
        """Puts a new prediction where the last was, which is kept as predict does."""
        path = self.predictions / f"{SLIDE}.geojson"
        if path.exists():
            earlier = self.predictions / "earlier" / self.last
            earlier.mkdir(parents=True)
            path.rename(earlier / path.name)
        self.last = run
        found = [predicted(area, name, run) for area, name in areas]
        write_geojson(path, found)
        return found

    def push(self) -> Any:
        (done,) = push(self.predictions, self.project, Reporter())
        return done

    def edit(self, annotation: Annotation, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes an object of the image as QuPath does."""
        data, features = self._saved()
        (feature,) = [f for f in features if f["id"] == str(annotation.annotation_id)]
        change(feature)
        data.write_text(json.dumps(features))

    def draw(self, annotation: Annotation) -> None:
        data, features = self._saved()
        data.write_text(json.dumps([*features, feature_of(annotation)]))

    def _saved(self) -> tuple[Path, list[dict[str, Any]]]:
        data = self.project.parent / "data" / entry_id_of(self.project, SLIDE) / "data.qpdata"
        return data, json.loads(data.read_bytes())

    def import_(self, name: str) -> dict[str, np.ndarray]:
        result = invoke("import", self.project, "--reader", "paquo", "--out", self.folder / name)
        assert result.exit_code == 0, result.output
        masks = {}
        for path in sorted((self.folder / name / "masks").iterdir()):
            with rasterio.open(path) as raster:
                masks[path.name] = raster.read(1)
        self.files = {p.name: p.read_bytes() for p in (self.folder / name / "masks").iterdir()}
        return masks

    def areas_of_ours(self) -> list[Any]:
        return [shape(f["geometry"]) for f in objects(self.project, SLIDE).values() if is_ours(f)]


@pytest.fixture
def rounds(world: None, project: Path, tmp_path: Path) -> Round:
    content = json.loads(project.read_bytes())
    content["images"] = [image for image in content["images"] if image["imageName"].startswith(SLIDE)]
    project.write_text(json.dumps(content))
    return Round(project, tmp_path)


def reclassified(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda feature: feature["properties"]["classification"].update(name=name)


def reshaped(area: Any) -> Callable[[dict[str, Any]], None]:
    def change(feature: dict[str, Any]) -> None:
        feature["geometry"]["coordinates"] = [[list(point) for point in area.exterior.coords]]
        feature["properties"].pop("measurements")  # as QuPath's setROI does

    return change


def locked(feature: dict[str, Any]) -> None:
    feature["properties"]["isLocked"] = True


def test_untouched_predictions_leave_the_masks_as_they_were(rounds: Round) -> None:
    rounds.import_("before")
    before = rounds.files
    rounds.predict("run-1", (box(0, 0, 3072, 1500), "carcinoma"), (box(0, 1500, 3072, 3072), "stroma"))
    assert rounds.push().added == 2
    rounds.import_("after")
    assert rounds.files == before
    assert rounds.push().removed == 2  # and again
    rounds.import_("again")
    assert rounds.files == before


def test_two_rounds(rounds: Round) -> None:
    start = rounds.import_("start")[f"{SLIDE}.tif"]
    first = rounds.predict(
        "run-1",
        (box(0, 0, 200, 200), "carcinoma"),
        (box(200, 0, 400, 200), "stroma"),
        (box(400, 0, 600, 200), "necrotic"),
        (box(600, 0, 800, 200), "adipose"),
    )
    rounds.push()
    rounds.edit(first[0], locked)
    rounds.edit(first[1], reclassified("adipose"))
    rounds.edit(first[2], reshaped(box(400, 0, 600, 220)))
    own = Annotation(box(700, 0, 900, 100), class_name="stroma", class_color=(1, 2, 3), annotation_id=uuid4())
    rounds.draw(own)
    masks = rounds.import_("first")
    labels, origins = masks[f"{SLIDE}.tif"], masks[f"{SLIDE}.origin.tif"]
    assert (labels[:200, 620:700] == start[:200, 620:700]).all()  # nobody checked this
    assert (origins[start > 0] == 1).all() and (labels[start > 0] == start[start > 0]).all()
    assert {int(v) for v in np.unique(origins)} == {0, 1, 2, 3}

    rounds.predict("run-2", (box(0, 0, 1000, 100), "stroma"), (box(0, 100, 1000, 300), "carcinoma"))
    done = rounds.push()
    assert (done.locked, done.corrected, done.removed, done.cut) == (1, 2, 1, 2)
    areas = rounds.areas_of_ours()
    assert unary_union(areas).area == pytest.approx(sum(area.area for area in areas))  # nothing lies doubled
    assert unary_union(areas).area == pytest.approx(1000 * 300)
    rounds.import_("second")
    assert rounds.files[f"{SLIDE}.tif"] == (rounds.folder / "first" / "masks" / f"{SLIDE}.tif").read_bytes()
    assert rounds.files[f"{SLIDE}.origin.tif"] == (rounds.folder / "first/masks" / f"{SLIDE}.origin.tif").read_bytes()

    # What was cut is as much a prediction as what was not: corrected it counts, and stays in the third round.
    cut = next(f for f in objects(rounds.project, SLIDE).values() if is_ours(f) and shape(f["geometry"]).area > 60_000)
    known = replace(own, annotation_id=cut["id"])
    rounds.edit(known, reclassified("necrotic"))
    third = rounds.import_("third")[f"{SLIDE}.origin.tif"]
    assert (third == 2).sum() > (origins == 2).sum() + 40_000
    rounds.predict("run-3", (box(0, 0, 1000, 300), "stroma"))
    assert rounds.push().corrected == 3
    rounds.import_("fourth")
    assert rounds.files[f"{SLIDE}.tif"] == (rounds.folder / "third" / "masks" / f"{SLIDE}.tif").read_bytes()
