"""Cases for our scripts for QuPath: objects as QuPath shows them, and what the scripts make of them."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dmmn_qp.qupath.marks import (
    AREA_MM2,
    AREA_UM2,
    CLASS_CODE,
    MEAN_PROBABILITY,
    METADATA_KEY,
    PERIMETER,
    class_code,
    marked_id,
)
from tests.groovy import tools

MODEL = {METADATA_KEY: "a model"}
NEW = str(marked_id("new"))
Case = dict[str, Any]
Feature = dict[str, Any]


def find_groovy() -> tools.Groovy:
    """Groovy, or a skipped test."""
    found = tools.find()
    if found is None:
        pytest.skip("no Groovy 4 here: the scripts for QuPath are NOT TESTED; `make groovy` fetches it")
    return found


def feature(
    object_id: UUID | str,
    kind: str = "annotation",
    at: Sequence[float] = (0, 0, 4, 4),
    plane: dict[str, int] | None = None,
    **properties: Any,
) -> Feature:
    """A rectangle: x, y, width, height in px."""
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [box(*at)], **({"plane": plane} if plane else {})}
    return {
        "type": "Feature",
        "id": str(object_id),
        "geometry": geometry,
        "properties": {"objectType": kind, **properties},
    }


def box(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def predicted(
    object_id: UUID | str,
    kind: str = "annotation",
    at: Sequence[float] = (0, 0, 4, 4),
    *,
    name: str | None = "Tumor",
    code: int | None = class_code("Tumor"),
    texts: dict[str, str] = MODEL,
    measured: bool = True,
    scale: float = 0.5,
    **properties: Any,
) -> Feature:
    """An object as `predict` writes it, at `scale` um/px: of class `name`, with the code of the predicted one."""
    area, perimeter = at[2] * at[3] * scale**2, 2 * (at[2] + at[3]) * scale
    values: dict[str, float] = {AREA_UM2: area, AREA_MM2: area * 1e-6, PERIMETER: perimeter}
    values |= {MEAN_PROBABILITY: 0.75} | ({} if code is None else {CLASS_CODE: code})
    properties |= {"measurements": values} if measured else {}
    properties |= {"metadata": texts} if texts else {}
    parts = (name or "").split(": ")
    told = {"name": name} if len(parts) == 1 else {"names": parts}
    properties |= {"classification": {**told, "color": [200, 0, 0]}} if name else {}
    return feature(object_id, kind, at, **properties)


def write(path: Path, *features: Feature) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"type": "FeatureCollection", "features": features})
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def ids(objects: list[Feature]) -> list[str]:
    return [item["id"] for item in objects]


class Scripts:
    """Cases to run, and their outcome: they share one Java, which takes seconds to start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: dict[str, Case] = {}
        self.outcomes: dict[str, Case] = {}

    def add(self, name: str, script: str, *images: Case, args: list[str] | None = None, **more: Any) -> None:
        more = {"version": "0.6", **more}
        path = next(path for path in tools.SCRIPTS if path.stem == script)
        folder = str(self.folder / name)
        self.cases[name] = {"script": str(path), "args": args, "images": images, "folder": folder, **more}

    def run(self, groovy: tools.Groovy) -> None:
        told, written = self.folder / "cases.json", self.folder / "outcomes.json"
        told.write_text(json.dumps(list(self.cases.values())))
        result = groovy.run(tools.STAND_INS / "run_cases.groovy", told, written)
        assert result.returncode == 0, result.stderr
        self.outcomes = dict(zip(self.cases, json.loads(written.read_text()), strict=True))


def image(file: str = "a.svs", objects: list[Feature] | None = None, **more: Any) -> Case:
    return {"uri": f"file:/slides/{file}", "objects": objects or [], **more}


FAKE = """#!/bin/sh
echo "predicting 50 %"
echo "$@" > "{record}"
for word in "$@"; do case "$last" in --out) out="$word";; --roi) cp "$word" "{record}.roi";; esac; last="$word"; done
mkdir -p "$out"
cp "{polygons}" "$out/a.geojson"
echo '{{"slides": ["a"], "inputs": {{"a": {{"width": {width}, "height": 80}}}}}}' > "$out/run.json"
exit {code}
"""


def fake_program(folder: Path, *objects: Feature, code: int = 0, width: int = 100) -> Path:
    """Stands in for dmmn-qp: records how it was called, and "predicts" objects."""
    folder.mkdir(exist_ok=True)
    write(folder / "polygons.geojson", *(objects or [predicted(NEW)]))
    path = folder / "dmmn-qp"
    path.write_text(FAKE.format(record=folder / "called", polygons=folder / "polygons.geojson", code=code, width=width))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
