"""What painting in several processes brings `import`: slides with outlines of very many vertices.

Prints seconds by the clock, and of the processor with all processes, of the whole import and of the painting alone;
read the ratios, not the seconds.

Usage, from the repository: python -m benchmarks.import_processes [VERTICES [SLIDES]]
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from rich.console import Console

import dmmn_qp.importing.stage as stage
from benchmarks.outlines import SIDE_PX, rough_circle, sieve
from dmmn_qp.annotations import Annotation
from dmmn_qp.console import Reporter
from dmmn_qp.engines.cores import available_cores
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.qupath.geojson_writer import write_geojson


def make(folder: Path, vertices: int, slides: int) -> None:
    """Slides of one colour with a reduced level, each with an outline of one class, and a plain one of another."""
    (folder / "slides").mkdir()
    (folder / "geojson").mkdir()
    pixels = np.full((SIDE_PX, SIDE_PX, 3), 200, np.uint8)
    how: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
    for number in range(slides):
        with tifffile.TiffWriter(folder / "slides" / f"s{number}.tif") as tiff:
            tiff.write(pixels, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **how)
            tiff.write(pixels[::8, ::8], subfiletype=1, **how)
        detailed = (sieve, rough_circle)[number % 2](vertices)
        drawn = [Annotation(detailed, "a"), Annotation(rough_circle(8).buffer(-3000), "b")]
        write_geojson(folder / "geojson" / f"s{number}.geojson", drawn)


def processor_s() -> float:
    """Time of the processor that this process and those that it ended took so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(folder: Path, workers: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(clock, processor) of the whole import, and of the painting."""
    painting: list[tuple[float, float]] = []
    paint_all = stage.paint_all

    def timed(*args: Any) -> Any:
        clock, processor = time.perf_counter(), processor_s()
        result = paint_all(*args)
        painting.append((time.perf_counter() - clock, processor_s() - processor))
        return result

    stage.paint_all = timed
    clock, processor = time.perf_counter(), processor_s()
    stage.import_annotations(
        folder / "slides",
        folder / f"dataset{workers}",
        ImportOptions(workers=workers),
        Reporter(Console(file=io.StringIO())),
        annotations=folder / "geojson",
    )
    stage.paint_all = paint_all
    return (time.perf_counter() - clock, processor_s() - processor), painting[0]


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    vertices, slides = (given + [100_000, 8][len(given) :])[:2]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, vertices, slides)
        workers = min(8, max(2, available_cores()), slides)
        serial, parallel = measured(folder, 1), measured(folder, workers)
        print(f"{slides} slides of {SIDE_PX} px, an outline of {vertices} vertices each; {workers} processes")
        print(f"  {'':<10}{'one: s':>10}{'cpu s':>10}{'many: s':>10}{'cpu s':>10}{'ratio':>8}{'of cpu':>8}")
        for name, one, many in zip(("import", "painting"), serial, parallel, strict=True):
            ratios = f"{one[0] / many[0]:>8.2f}{one[1] / many[1]:>8.2f}"
            print(f"  {name:<10}{one[0]:>10.1f}{one[1]:>10.1f}{many[0]:>10.1f}{many[1]:>10.1f}{ratios}")


if __name__ == "__main__":
    main()
