"""Slides whose full truth is known, and partial annotations made from it: what other benchmarks here are built on.

A `TruthSlide` is pixels with a label for each; it is written as a TIFF that says its um/px, as a label map that
``dmmn-qp evaluate --truth`` reads, and as QuPath GeoJSON of whatever part of its truth somebody is said to have drawn.
All lengths in px are level-0 pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

import dmmn_qp
from dmmn_qp.files import new_file

Labels = NDArray[np.uint8]
"""(rows, columns): 1 is the first class, 0 is unknown."""

Window = tuple[slice, slice]
"""Rows and columns."""

TILE_MPP = 0.5
"""um/px of the tiles of `read_tiles`: they were scanned at 20x."""

TILE_CLASSES = dmmn_qp.ClassMap.from_colors([("tumour", (200, 0, 0)), ("other", (0, 140, 70))])

GAP_PX = 2
"""How far inside its border a part is drawn."""

LEAST_PX = 400
"""Smallest part that is drawn."""


@dataclass(frozen=True, slots=True)
class TruthSlide:
    """A slide of which all is known.

    Attributes:
        name: Its file name without suffix.
        pixels: (rows, columns, 3) uint8 RGB.
        truth: Its labels; 0 where nothing is known.
        mpp: um/px.
        classes: The classes.
    """

    name: str
    pixels: NDArray[np.uint8]
    truth: Labels
    mpp: float
    classes: dmmn_qp.ClassMap

    def on_glass(self, margin_px: int) -> TruthSlide:
        """The same with white glass on all sides, of which nothing is known."""
        rim = ((margin_px, margin_px),) * 2
        pixels = np.pad(self.pixels, (*rim, (0, 0)), constant_values=243)
        return TruthSlide(self.name, pixels, np.pad(self.truth, rim), self.mpp, self.classes)


def read_tiles(folder: Path) -> list[TruthSlide]:
    """Reads tiles of ``images/NAME`` with their tumour in ``masks/NAME``, bright from 128 on; sorted by name.

    Raises:
        FileNotFoundError: There are none, or a mask is missing.
    """
    paths = sorted(path for path in (folder / "images").glob("*") if path.suffix in (".jpg", ".png"))
    if not paths:
        raise FileNotFoundError(f'no tiles in "{folder}/images"; --tiles takes a folder with images/ and masks/')
    tiles = []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        is_tumour = np.asarray(Image.open(folder / "masks" / path.name).convert("L")) >= 128
        truth = np.where(is_tumour, 1, 2).astype(np.uint8)
        tiles.append(TruthSlide(path.stem, pixels, truth, TILE_MPP, TILE_CLASSES))
    return tiles


def split_tiles(tiles: Sequence[TruthSlide], seed: int) -> tuple[list[TruthSlide], list[TruthSlide], list[TruthSlide]]:
    """Half of the tiles for training, a fifth for validation, three tenths for testing; other ones for each seed."""
    n_test, n_val = max(1, round(0.3 * len(tiles))), max(1, round(0.2 * len(tiles)))
    order = np.roll(np.random.default_rng(0).permutation(len(tiles)), -seed * n_test)
    test, val, train = ([tiles[i] for i in sorted(part)] for part in np.split(order, [n_test, n_test + n_val]))
    return train, val, test


def write_slide(folder: Path, slide: TruthSlide, jpeg_quality: int | None = None) -> Path:
    """Writes ``<name>.tif``, tiled and of one level, lossless unless a quality is given; it says its um/px."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide.name}.tif"
    per_cm = 1e4 / slide.mpp
    tifffile.imwrite(
        path,
        slide.pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate" if jpeg_quality is None else "jpeg",
        compressionargs=None if jpeg_quality is None else {"level": jpeg_quality},
        resolution=(per_cm, per_cm),
        resolutionunit="centimeter",
        metadata=None,
    )
    return path


def write_truth(folder: Path, slides: Sequence[TruthSlide]) -> None:
    """Writes ``<name>.png`` of each slide, and the ``classes.csv`` that names their values."""
    folder.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        Image.fromarray(slide.truth).save(folder / f"{slide.name}.png")
    write_rows(
        folder / "classes.csv", [{"value": i, "class": n} for i, n in enumerate(slides[0].classes.names, start=1)]
    )


def write_annotations(folder: Path, slide: TruthSlide, drawn: Labels) -> None:
    """Writes what is drawn of a slide as ``<name>.geojson``, as a person's annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = dmmn_qp.polygonize(drawn, slide.classes, slide.mpp, predicted=False)
    dmmn_qp.write_geojson(folder / f"{slide.name}.geojson", objects)


def parts_of(
    truth: Labels, spacing_px: float, rng: np.random.Generator, gap_px: int = GAP_PX
) -> Iterator[tuple[int, Window, NDArray[np.bool_]]]:
    """Cuts a truth into parts that a hand would draw in one go.

    Every connected area of a class is cut along the borders of a Voronoi diagram of random points, about so far apart,
    and drawn so far inside what is left; parts under `LEAST_PX` are none.

    Yields:
        Label of each part, where it is, and its mask there; in random order.
    """
    rows, columns = truth.shape
    number = max(1, round(rows * columns / spacing_px**2))
    points = rng.uniform((0, 0), (rows, columns), (number, 2))
    cells = cKDTree(points).query(np.indices(truth.shape).reshape(2, -1).T, workers=-1)[1].reshape(truth.shape)
    found = []
    for cell, window in enumerate(ndimage.find_objects(cells + 1)):
        of_cell = np.where(cells[window] == cell, truth[window], 0) if window else np.zeros(0, np.uint8)
        for label in np.unique(of_cell[of_cell > 0]):
            ids, count = ndimage.label(of_cell == label)
            found += [(int(label), window, ids == number) for number in range(1, count + 1)]
    found.sort(key=lambda part: part[0])
    for place in rng.permutation(len(found)):
        label, window, part = found[place]
        inner = ndimage.binary_erosion(part, iterations=gap_px)
        if np.count_nonzero(inner) >= LEAST_PX:
            yield label, window, inner


def draw_share(
    slide: TruthSlide, share: float, rng: np.random.Generator, spacing_px: float = 100, gap_px: int = GAP_PX
) -> Labels:
    """Draws parts at random until of each class that share of its area is drawn, and one part at least.

    Returns:
        Labels; 0 is what was not drawn.
    """
    wanted = {int(label): share * np.count_nonzero(slide.truth == label) for label in np.unique(slide.truth) if label}
    drawn, done = np.zeros_like(slide.truth), dict.fromkeys(wanted, 0)
    for label, window, part in parts_of(slide.truth, spacing_px, rng, gap_px):
        if done[label] < wanted[label]:
            drawn[window][part] = label
            done[label] += np.count_nonzero(part)
    return drawn


def draw_spots(slides: Sequence[TruthSlide], number: int, radius_px: int, rng: np.random.Generator) -> list[Labels]:
    """Draws small areas of each class: what lies within so many px of random pixels of it and is connected with them.

    Args:
        slides: Slides, over which the areas are spread.
        number: Areas of each class, on all slides together; fewer where it has no more places.
        radius_px: Their radius.
        rng: Source of randomness.

    Returns:
        Labels of each slide.
    """
    drawn = [np.zeros_like(slide.truth) for slide in slides]
    for label in range(1, len(slides[0].classes.names) + 1):
        inner = [ndimage.binary_erosion(slide.truth == label, iterations=GAP_PX) for slide in slides]
        places = np.concatenate([np.insert(np.argwhere(mask), 0, i, axis=1) for i, mask in enumerate(inner)])
        left = number
        for i, row, column in places[rng.integers(len(places), size=200 * number)] if len(places) else ():
            rows = slice(max(0, row - radius_px), row + radius_px + 1)
            columns = slice(max(0, column - radius_px), column + radius_px + 1)
            y, x = np.arange(inner[i].shape[0])[rows, None], np.arange(inner[i].shape[1])[None, columns]
            disc = inner[i][rows, columns] & (np.hypot(y - row, x - column) <= radius_px)
            ids, _ = ndimage.label(disc)
            spot = ids == ids[row - rows.start, column - columns.start]
            if left and np.count_nonzero(spot) >= LEAST_PX and not drawn[i][rows, columns].any():
                drawn[i][rows, columns][spot] = label
                left -= 1
    return drawn


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads a ledger; no rows where there is none yet."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Writes a table as a whole; its columns are those of the first row."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
