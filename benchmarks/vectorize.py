"""Label maps to QuPath polygons: ours from tracing to GeoJSON, against GDAL's tracing of the whole map alone.

Each side runs in a process of its own, which gives its peak memory; time is CPU time, and the map is read from the same
raw file. Read the ratios, not the seconds.

Usage: python benchmarks/vectorize.py [--sides 4096 8192 16384] [--paper] [--tolerances [LABELS]]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from scipy import ndimage, sparse

from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.outputs.objects import Frame, outline_features
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap
from dmmn_qp.vectors.outlines import OutlineFeatures, join

PAPER = (38_380, 53_711)
CLASSES = 6
STRIP_PX = 1024
SHRINK = 4
MPP = 0.5


def label_map(rows: int, columns: int, seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Smooth blobs at two scales with borders that are ragged pixel by pixel, in strips of `STRIP_PX` rows."""
    rng = np.random.default_rng(seed)
    fields = [(pitch, weight, rng.normal(size=(CLASSES, rows // (SHRINK * pitch) + 5, columns // (SHRINK * pitch) + 5)))
              for pitch, weight in ((96, 1.0), (16, 0.45))]  # fmt: skip
    margin = 8
    for top in range(0, rows, STRIP_PX):
        height = min(STRIP_PX, rows - top)
        small_y = np.arange(height // SHRINK + 2 * margin) + top // SHRINK
        small_x = np.arange(columns // SHRINK + 2 * margin)
        total = 0.0
        for pitch, weight, lattice in fields:
            down, across = _cubic(small_y / pitch, lattice.shape[1]), _cubic(small_x / pitch, lattice.shape[2])
            total = total + weight * np.stack([(across @ (down @ one).T).T for one in lattice]).astype(np.float32)
        smooth = np.argmax(total, 0).astype(np.uint8) + 1
        rough = rng.normal(0, 1.5, (2, height, columns)).astype(np.float32)
        jitter = ndimage.uniform_filter(rough, (0, 3, 3))
        y = ((np.arange(height)[:, None] + jitter[0]) / SHRINK + margin).astype(np.int32)
        x = ((np.arange(columns)[None] + jitter[1]) / SHRINK + margin).astype(np.int32)
        yield smooth[y, x]


def _cubic(at: NDArray[np.float64], size: int) -> sparse.csr_array:
    """Weights of a cubic B-spline lattice at some places."""
    cell = at.astype(int)
    t = at - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    index = np.minimum(np.stack([cell + i for i in range(4)]), size - 1)
    row = np.broadcast_to(np.arange(len(at)), index.shape)
    return sparse.csr_array((weights.ravel(), (row.ravel(), index.ravel())), shape=(len(at), size))


class RawLabels:
    """A label map in a raw file, read in windows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shape: tuple[int, int] = tuple(json.loads(path.with_suffix(".json").read_text()))

    def read(self, window: Region) -> NDArray[np.uint8]:
        """Labels of whole rows."""
        columns = self.shape[1]
        read = np.fromfile(self._path, np.uint8, window.height * columns, offset=window.y * columns)
        return read.reshape(window.height, columns)[:, window.x : window.right]


def write_map(path: Path, rows: int, columns: int) -> None:
    """Writes a raw file of labels, strip by strip."""
    with path.open("wb") as file:
        for strip in label_map(rows, columns):
            strip.tofile(file)
    path.with_suffix(".json").write_text(json.dumps([rows, columns]))


CLASS_MAP = ClassMap.from_colors([(f"class {i}", (40 * i, 10, 20)) for i in range(1, CLASSES + 1)])


def features_of(path: Path, simplify_um: float = PredictOptions().simplify_um) -> Iterator[OutlineFeatures]:
    """What `predict` writes of a map."""
    source = RawLabels(path)
    frame = Frame(source.shape[1], source.shape[0], MPP, 1.0)
    options = PredictOptions(simplify_um=simplify_um)
    return outline_features(source, frame, CLASS_MAP, options, identity="benchmark", metadata={"dmmn_qp": "benchmark"})


def trace_whole(path: Path) -> int:
    """GDAL's tracing of the whole map, as rasterio gives it, and nothing else."""
    source = RawLabels(path)
    rows, columns = source.shape
    return len(list(shapes(source.read(Region(0, 0, columns, rows)), connectivity=4)))


def ours(path: Path) -> int:
    """All of ours: read, traced, simplified, split, measured, written."""
    with tempfile.TemporaryDirectory() as folder:
        return write_geojson(Path(folder) / "x.geojson", features_of(path)).written


WORK = {"GDAL": trace_whole, "ours": ours}


def in_its_own_process(work: str, path: Path) -> tuple[float, float, int]:
    """(CPU seconds, peak MiB, polygons) of some work."""
    done = subprocess.run([sys.executable, __file__, "--work", work, str(path)], check=True, capture_output=True)
    seconds, peak_mib, n = json.loads(done.stdout)
    return seconds, peak_mib, n


def compare(sides: list[int], folder: Path) -> None:
    """The table of squares."""
    columns = [("polygons", 10), ("GDAL s", 9), ("ours s", 9), ("ratio", 8), ("ours ns/px", 12)]
    columns += [("GDAL MiB", 10), ("ours MiB", 10), ("ratio", 8)]
    print(f"{'map':<10}" + "".join(f"{name:>{width}}" for name, width in columns))
    for side in sides:
        path = folder / f"{side}.raw"
        write_map(path, side, side)
        (gdal_s, gdal_mib, _), (our_s, our_mib, n) = (in_its_own_process(work, path) for work in WORK)
        path.unlink()
        print(
            f"{side:<10}{n:>10,}{gdal_s:>9.2f}{our_s:>9.2f}{our_s / gdal_s:>8.2f}{our_s / side**2 * 1e9:>12.1f}"
            f"{gdal_mib:>10.0f}{our_mib:>10.0f}{our_mib / gdal_mib:>8.2f}"
        )


def paper(folder: Path) -> None:
    """Ours on a map as large as the paper's slide."""
    path = folder / "paper.raw"
    write_map(path, *PAPER)
    seconds, peak_mib, n = in_its_own_process("ours", path)
    rows, columns = PAPER
    print(f"paper's slide, {columns:,} x {rows:,}: {n:,} polygons, {seconds:.1f} s CPU, peak {peak_mib:.0f} MiB")


def writer(folder: Path) -> None:
    """GeoJSON of exact polygons: ours against json.dump of shapely's mappings, with the same properties."""
    path = folder / "writer.raw"
    write_map(path, 4096, 4096)
    batches = list(features_of(path, simplify_um=0))
    geometries = [g for batch in batches for g in batch.outlines.geometries()]
    properties = {"objectType": "annotation", "classification": {"name": "class", "color": [1, 2, 3]}}

    def dump() -> None:
        features = [{"type": "Feature", "id": str(UUID(int=i)), "geometry": shapely.geometry.mapping(g),
                     "properties": properties} for i, g in enumerate(geometries)]  # fmt: skip
        with (folder / "a.json").open("w") as file:
            json.dump({"type": "FeatureCollection", "features": features}, file)

    theirs = cpu_seconds(dump)
    own = cpu_seconds(lambda: write_geojson(folder / "b.geojson", batches))
    n = sum(len(batch.outlines.xy) for batch in batches)
    print(f"writing {len(geometries):,} polygons of {n:,} points: json.dump of mappings {theirs:.2f} s, "
          f"ours {own:.3f} s, {theirs / own:.1f} times as fast")  # fmt: skip


def tolerances(folder: Path, raster: str) -> None:
    """What simplifying saves and changes."""
    path, file = folder / "tolerances.raw", folder / "x.geojson"
    if raster:
        given = LabelRaster(Path(raster))
        rows, columns = given.shape
        given.read(Region(0, 0, columns, rows)).tofile(path)
        path.with_suffix(".json").write_text(json.dumps([rows, columns]))
    else:
        write_map(path, 4096, 4096)
    source = RawLabels(path)
    labels = source.read(Region(0, 0, source.shape[1], source.shape[0]))
    print(f"{'um':>5}{'points':>12}{'of all':>8}{'changed px':>12}{'MB':>8}{'MB gzip':>9}{'s':>7}")
    first = 0
    for um in (0, 0.25, 0.35, 0.5, 0.75, 1, 2, 4):
        seconds = cpu_seconds(lambda um=um: write_geojson(file, features_of(path, um)))
        write_geojson(folder / "x.geojson.gz", features_of(path, um))
        found = join([batch.outlines for batch in features_of(path, um)])
        back = rasterize(zip(found.geometries(), found.labels.tolist(), strict=True), labels.shape, dtype=np.uint8)
        first = first or len(found.xy)
        print(
            f"{um:>5}{len(found.xy):>12,}{len(found.xy) / first:>8.1%}{(back != labels).mean():>12.3%}"
            f"{file.stat().st_size / 1e6:>8.2f}{(folder / 'x.geojson.gz').stat().st_size / 1e6:>9.2f}{seconds:>7.2f}"
        )


def peak_mib() -> float:
    """Most memory that this process had; what getrusage says includes that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_seconds(work: Callable[[], object]) -> float:
    """The shortest of two runs."""
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sides", type=int, nargs="*", default=[4096, 8192, 16384])
    parser.add_argument("--paper", action="store_true", help="also a map of the size of the paper's slide")
    parser.add_argument("--tolerances", nargs="?", const="", help="also what simplifying changes, of a label raster")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        start = time.process_time()
        n = WORK[asked.work[0]](Path(asked.work[1]))
        print(json.dumps([time.process_time() - start, peak_mib(), n]))
        return
    with tempfile.TemporaryDirectory() as name:
        compare(asked.sides, Path(name))
        writer(Path(name))
        if asked.tolerances is not None:
            tolerances(Path(name), asked.tolerances)
        if asked.paper:
            paper(Path(name))


if __name__ == "__main__":
    main()
