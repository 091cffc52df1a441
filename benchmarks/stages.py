"""Where the time goes, on a slide of the demo. Prints a table; read the ratios, not the milliseconds.

    python -m benchmarks.stages [--slide SLIDE] [--out FOLDER]

FOLDER gets run.json, by which ``dmmn-qp reproduce`` tells whether figures have drifted: each row's ratio to the first
of its table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.ledger import write_run
from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import Norm, Stem
from dmmn_qp.folders.provenance import now
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.networks import build_network
from dmmn_qp.networks.conventions import InputConvention, network_inputs
from dmmn_qp.networks.devices import autocast
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import read_field
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.vectors.outlines import join
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import ArrayLabels

DEMO = Path(__file__).parents[1] / "examples" / "demo"


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


FIGURES: dict[str, float] = {}
"""Of each row of all tables its ratio to the first of its table, which machines have in common."""


def table(title: str, rows: list[tuple[str, float]], unit: str = "ms") -> None:
    """Prints rows with their ratio to the first, and keeps that."""
    FIGURES.update({name: round(value / rows[0][1], 4) for name, value in rows})
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<44}{1000 * value:>10.1f} {unit}   x {value / rows[0][1]:.2f}")


def reading(path: Path) -> None:
    """A block of 8 x 8 targets: read whole, against target by target as in the authors' loop."""
    with open_slide(path) as slide:
        grid = PatchSpec().grid_of(slide.info.mpp)
        block = Region(0, 0, 2048, 2048)

        def whole() -> None:
            for m in range(3):
                read_field(slide, grid, m, grid.field(block, m))

        def each() -> None:
            for target in block.tiles(256):
                for m in range(3):
                    read_field(slide, grid, m, grid.field(target, m))

        def level_0_only() -> None:
            for target in block.tiles(256):
                slide.read_level(0, Region(target.x - 384, target.y - 384, 1024, 1024))

        table(
            "reading 64 targets",
            [("each block once (ours)", seconds(whole)), ("target by target, pyramid", seconds(each, 1)),
             ("target by target, 1024 px at level 0", seconds(level_0_only, 1))],
        )  # fmt: skip


def forward() -> None:
    """One target through DMMN-M3 in some variants."""
    convention, device = InputConvention(), torch.device("cpu")
    images = torch.randint(0, 256, (4, 3, 3, 256, 256), dtype=torch.uint8)
    variants: list[tuple[int, Norm, Stem, bool]] = [
        (8, "none", "full", False),
        (8, "batch", "quarter", False),
        (8, "batch", "half", False),
        (32, "none", "full", False),
        (8, "none", "full", True),
    ]
    rows = []
    for width, norm, stem, bf16 in variants:
        network = build_network(
            "dmmn-m3", classes=6, width=width, magnifications=3, size_px=256, norm=norm, stem=stem
        ).eval()
        network = network.to(memory_format=torch.channels_last)

        def run(network: torch.nn.Module = network, bf16: bool = bf16) -> None:
            with torch.inference_mode(), autocast(device, bf16):
                network(network_inputs(images, convention, device))

        rows.append((f"width {width}, norm {norm}, stem {stem}, {'bf16' if bf16 else 'fp32'}", seconds(run, 2) / 4))
    table("forward, per target", rows)


def vectors() -> None:
    """The demo's truth map as polygons, as GeoJSON, and painted again."""
    labels = np.asarray(Image.open(DEMO / "truth" / "test-1.png"))
    class_map = ClassMap.from_colors([(str(i), (i, i, i)) for i in range(1, 7)])
    traced = join(list(polygonize(ArrayLabels(labels))))
    names = [class_map.names[v - 1] for v in traced.labels]
    annotations = [Annotation(p, class_name=name) for p, name in zip(traced.geometries(), names, strict=True)]
    painter = LabelPainter(annotations, class_map, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.geojson"
        rows = [
            ("trace polygons", seconds(lambda: list(polygonize(ArrayLabels(labels))))),
            ("write GeoJSON", seconds(lambda: write_geojson(path, annotations, class_colors=class_map.colors))),
            ("paint again, whole", seconds(lambda: painter.paint(Region(0, 0, 3072, 3072)))),
            ("paint again, 256 px windows",
             seconds(lambda: [painter.paint(w) for w in Region(0, 0, 3072, 3072).tiles(256)])),
        ]  # fmt: skip
        table(f"{len(traced)} polygons of a 3072 px map ({path.stat().st_size / 1e6:.1f} MB)", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="slide to read; by default one of the demo")
    parser.add_argument("--out", type=Path, help="folder for run.json")
    given, started = parser.parse_args(), now()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    reading(given.slide or DEMO / "slides" / "test-1.tif")
    forward()
    vectors()
    if given.out is not None:
        write_run(given.out, "stages", given, FIGURES, started)


if __name__ == "__main__":
    main()
