"""Small projects of QuPath, made here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import two_tissues, write_tiff
from tests.qupath.conftest import QpdataWriter

Area = tuple[str | None, tuple[int, int, int, int]]
"""Class, and left, top, right, bottom in level-0 px."""

DARK_AND_LIGHT: tuple[Area, ...] = (("dark", (20, 20, 110, 230)), ("light", (140, 20, 230, 230)))


def make_slide(path: Path, seed: int = 0, side: int = 256, mpp: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiff(path, two_tissues(side, side, seed), mpp)


def make_project(
    folder: Path, images: Mapping[Path, Sequence[Area]], metadata: Mapping[str, Mapping[str, str]] | None = None
) -> Path:
    """Writes ``project.qpproj`` with an image of each slide; what is drawn on none has no ``data.qpdata``."""
    entries = []
    for number, (slide, areas) in enumerate(images.items(), start=1):
        if areas:
            data = folder / "data" / str(number)
            data.mkdir(parents=True)
            (data / "data.qpdata").write_bytes(drawn(areas))
        server = {"builderType": "uri", "uri": slide.absolute().as_uri(), "metadata": {}}
        told = dict((metadata or {}).get(slide.name, {}))
        entries.append({"entryID": number, "imageName": slide.name, "metadata": told, "serverBuilder": server})
    path = folder / "project.qpproj"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "0.6.0", "uri": path.absolute().as_uri(), "images": entries}))
    return path


def drawn(areas: Sequence[Area]) -> bytes:
    """A ``data.qpdata`` with rectangles."""
    writer = QpdataWriter()

    def add(name: str | None, box: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = box
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        writer.path_object(lambda w: w.points("PolygonROI", points), class_names=() if name is None else (name,))

    return writer.file(*(lambda name=name, box=box: add(name, box) for name, box in areas))
