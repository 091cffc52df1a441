"""How fast import reads and paints. Prints a table; read the ratios, not the seconds.

Usage, from the repository: python -m benchmarks.import [ANNOTATIONS]
"""

from __future__ import annotations

import io
import json
import math
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from affine import Affine
from rasterio.features import rasterize
from rich.console import Console

import dmmn_qp.importing.stage
import dmmn_qp.slides.view
from dmmn_qp.annotations import Annotation
from dmmn_qp.console import Reporter
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap
from tests.conftest import two_tissues, write_tiff
from tests.qupath.conftest import QpdataWriter

IMAGES, ANNOTATED, VERTICES, STEP = 400, 5, 20, 40
COLORS = {"a": (200, 0, 0), "b": (0, 0, 200)}


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def table(title: str, rows: list[tuple[str, tuple[float, float]]]) -> None:
    """Prints rows with the ratio of their processor time to the first row's."""
    print(f"\n{title}\n  {'':<52}{'clock s':>9}{'cpu s':>9}")
    for name, (clock, processor) in rows:
        print(f"  {name:<52}{clock:>9.3f}{processor:>9.3f}   x {processor / max(rows[0][1][1], 1e-9):.2f}")


def object_data(count: int) -> bytes:
    """A ``data.qpdata`` of round outlines side by side, of two classes in turn."""
    writer, rng, per_row = QpdataWriter(), random.Random(0), max(1, math.isqrt(count))

    def draw(i: int) -> None:
        x, y = STEP * (i % per_row) + 20, STEP * (i // per_row) + 20
        radii = [14 + 4 * rng.random() for _ in range(VERTICES)]
        turns = [math.tau * k / VERTICES for k in range(VERTICES)]
        points = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, turns, strict=True)]
        writer.path_object(
            lambda w: w.points("PolygonROI", points), object_id=UUID(int=i + 10), class_names=("ab"[i % 2],)
        )

    return writer.file(*(lambda i=i: draw(i) for i in range(count)))


def project(folder: Path, images: int) -> Path:
    """A project of which the first few images are annotated; the slides of the others do not even exist."""
    entries = []
    (folder / "slides").mkdir(parents=True)
    for i in range(1, images + 1):
        slide, data = folder / "slides" / f"s{i}.tif", folder / "data" / str(i)
        data.mkdir(parents=True)
        counts: dict[str, int] = {}
        if i <= ANNOTATED:
            write_tiff(slide, two_tissues(512, 512, seed=i))
            counts = {"a": 50, "b": 50}
        (data / "data.qpdata").write_bytes(object_data(sum(counts.values())))
        hierarchy = {"nObjects": 1 + sum(counts.values()), "objectTypeCounts": {"Root objects": 1}}
        summary = {"hierarchy": {**hierarchy, "annotationClassificationCounts": counts}}
        (data / "summary.json").write_text(json.dumps(summary))
        server = {"builderType": "uri", "uri": slide.as_uri(), "metadata": {"width": 512, "height": 512}}
        entries.append({"entryID": i, "imageName": slide.name, "metadata": {}, "serverBuilder": server})
    path = folder / "project.qpproj"
    path.write_text(json.dumps({"version": "0.6.0", "uri": path.as_uri(), "images": entries}))
    return path


def importing(folder: Path) -> None:
    """The same five annotated slides, alone and among 400 images."""
    opened: list[Path] = []
    open_slide = dmmn_qp.slides.view.open_slide

    def counting(path: Path, **options: Any) -> object:
        opened.append(path)
        return open_slide(path, **options)

    dmmn_qp.slides.view.open_slide = counting  # type: ignore[assignment]
    rows = []
    for images in (ANNOTATED, IMAGES):
        path = project(folder / str(images), images)
        opened.clear()
        took = measured(
            lambda path=path: dmmn_qp.importing.stage.import_annotations(
                path, path.parent / "dataset", ImportOptions(), Reporter(Console(file=io.StringIO()))
            )
        )
        rows.append((f"{images} images, {len(set(opened))} slides opened", took))
        assert len(set(opened)) == ANNOTATED
    dmmn_qp.slides.view.open_slide = open_slide
    table(f"import of a project with {ANNOTATED} annotated slides", rows)


def reading(folder: Path, count: int) -> list[Annotation]:
    """One image with very many annotations."""
    annotations: tuple[Annotation, ...] = ()
    rows = []
    for n in (count // 10, count):
        path = folder / f"{n}.qpdata"
        path.write_bytes(object_data(n))

        def read(path: Path = path) -> None:
            nonlocal annotations
            annotations = read_qpdata(path).annotations

        took = measured(read)
        assert len(annotations) == n and all(a.geometry.is_valid for a in annotations[:: max(1, n // 100)])
        rows.append((f"{n} annotations, {path.stat().st_size / 1e6:.0f} MB", took))
    table(f"reading one data.qpdata, outlines of {VERTICES} vertices (goal: 100,000 in 10 s)", rows)
    return list(annotations)


def painting(annotations: list[Annotation]) -> None:
    """Windows of a slide through the spatial index, against going through all areas for each."""
    classes = ClassMap.from_colors(COLORS.items())
    side = STEP * math.isqrt(len(annotations))
    whole = Region(0, 0, side, side)
    windows = list(whole.tiles(2048))
    painters: list[LabelPainter] = []
    rows = [("preparing: order and index", measured(lambda: painters.append(LabelPainter(annotations, classes, 1.0))))]
    painter, labelled = painters[0], [0, 0]

    def paint(i: int, windows: list[Region]) -> None:
        labelled[i] = sum(int(np.count_nonzero(painter.paint(window))) for window in windows)

    rows.append((f"{len(windows)} windows of 2048 px", measured(lambda: paint(0, windows))))
    windows_mb = peak_mb()
    rows.append((f"whole, {side} px, {side * side / 1e6:.0f} MB at once", measured(lambda: paint(1, [whole]))))
    assert labelled[0] == labelled[1]
    few = windows[:: max(1, len(windows) // 4)][:4]
    rows.append((f"{len(few)} windows", measured(lambda: paint(0, few))))
    everything = measured(lambda: [burn_everything(annotations, window) for window in few])
    rows.append((f"{len(few)} windows, without the index", everything))
    table(f"painting {len(annotations)} areas", rows)
    print(f"  peak memory {windows_mb:.0f} MB after the windows, {peak_mb():.0f} MB after the whole")


def burn_everything(annotations: list[Annotation], window: Region) -> None:
    """What a painter without an index does: every area goes to the rasteriser, whatever the window."""
    rasterize(
        ((a.geometry, 1) for a in annotations),
        (window.height, window.width),
        transform=Affine.translation(window.x, window.y),
        dtype=np.uint8,
    )


def peak_mb() -> float:
    """Highest memory of this process so far (Linux counts kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    folder = Path(tempfile.mkdtemp())
    try:
        importing(folder)
        painting(reading(folder, count))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
