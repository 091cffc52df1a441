"""Writes the files of a dataset that come from annotations: masks, annotations, patches and the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.files import final_name
from dmmn_qp.files.renaming import remove
from dmmn_qp.folders.dataset import ORIGIN_MAP, ORIGIN_SUFFIX, DatasetManifest, write_manifest, write_patches
from dmmn_qp.folders.label_raster import create_label_raster
from dmmn_qp.importing.earlier import Earlier
from dmmn_qp.importing.prepared import Labelling, Prepared
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import with_marks_of_its_class
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap

MASK_WINDOW: Final = 2048
"""Side in grid px of the windows in which masks are painted and written."""

_OF_SLIDES: Final = ("annotations", "masks")
"""Folders with a file, or more, of each slide."""


def make_folders(folder: Path) -> None:
    """Makes the folders of the files that each slide has (`write_slide`)."""
    for name in _OF_SLIDES:
        (folder / name).mkdir()


def write_slide(folder: Path, item: Prepared, class_map: ClassMap, written: Callable[[int], None]) -> tuple[int, ...]:
    """Writes the annotations and the mask of a slide into a new dataset.

    Args:
        folder: The dataset, with its folders.
        item: The slide.
        class_map: The classes.
        written: Told how many more windows of the mask were written (`windows_of`).

    Returns:
        Pixels of each class in the mask.
    """
    slide_id = item.record.slide_id
    write_geojson(
        folder / "annotations" / f"{slide_id}.geojson",
        map(with_marks_of_its_class, item.annotations),
        class_colors=class_map.colors,
    )
    pixels = write_mask(folder / "masks" / f"{slide_id}.tif", item, class_map, written)
    if not item.painter.is_all_drawn:
        write_origins(folder / "masks" / f"{slide_id}{ORIGIN_SUFFIX}", item)
    return tuple(int(n) for n in pixels)


def remove_slide(folder: Path, slide_id: str) -> None:
    """Removes the files of a slide that is left out after all, half-written ones included."""
    names = {f"{slide_id}{ending}" for ending in (".geojson", ".tif", ORIGIN_SUFFIX)}
    for path in [path for name in _OF_SLIDES for path in (folder / name).iterdir()]:
        if path.name in names or final_name(path.name) in names:
            remove(path)


def write_tables(
    folder: Path,
    prepared: Sequence[Prepared],
    labelling: Labelling,
    left_out: Sequence[str],
    earlier: Earlier | None = None,
) -> None:
    """Writes the patch index and the manifest of a dataset.

    Args:
        folder: The dataset.
        prepared: The slides with their splits.
        labelling: How their objects became labels and patches.
        left_out: Why other images are not in it, a line each.
        earlier: The dataset that it replaces.
    """
    class_map, spec = labelling.class_map, labelling.patches.spec
    write_patches(folder, [p for item in prepared for p in item.patches], len(class_map))
    records = tuple(item.record for item in prepared)
    remembered = {} if earlier is None else earlier.elsewhere(records)
    write_manifest(
        folder,
        DatasetManifest(
            class_map=class_map, patch_spec=spec, slides=records, left_out=tuple(left_out), earlier_splits=remembered
        ),
    )


def windows_of(item: Prepared) -> list[Region]:
    """The windows in which a slide's mask is painted and written, in grid px."""
    rows, columns = item.grid.shape(*item.size_px)
    return list(Region(0, 0, columns, rows).tiles(MASK_WINDOW))


def write_mask(
    path: Path, item: Prepared, class_map: ClassMap, written: Callable[[int], None] = lambda _: None
) -> NDArray[np.int64]:
    """Writes a slide's mask window by window; returns its pixels per class, (C,)."""
    pixels = np.zeros(len(class_map) + 1, np.int64)
    shape = item.grid.shape(*item.size_px)
    with create_label_raster(path, shape, class_map) as raster:
        for window in windows_of(item):
            labels = item.painter.paint(window)
            written(1)
            raster.write(window, labels)
            pixels += np.bincount(labels.ravel(), minlength=pixels.size)
    return pixels[1:]


def write_origins(path: Path, item: Prepared) -> None:
    """Writes whose word each labelled pixel of a slide's mask is, window by window."""
    shape = item.grid.shape(*item.size_px)
    with create_label_raster(path, shape, ORIGIN_MAP) as raster:
        for window in windows_of(item):
            raster.write(window, item.painter.paint_origins(window))
