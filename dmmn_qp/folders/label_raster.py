"""Rasters of labels, one byte a pixel: masks, origins and predictions."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import rasterio
import tifffile
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from dmmn_qp.errors import DatasetError
from dmmn_qp.regions import Region
from dmmn_qp.slides.ome_xml import physical_size, read_ome_xml
from dmmn_qp.specs import ClassMap, LabelArray
from dmmn_qp.text import words_of

os.environ.setdefault("GDAL_CACHEMAX", "256MB")  # several rows of tiles; GDAL's own choice is 5 % of the machine

MASK_TILE = 256


@contextmanager
def create_label_raster(path: Path, shape: tuple[int, int], class_map: ClassMap) -> Iterator[LabelRasterWriter]:
    """Creates a tiled, compressed uint8 TIFF of labels with the classes' colours, written window by window.

    Args:
        path: The file; it is left incomplete if the block fails, so give a temporary name.
        shape: (rows, columns).
        class_map: The classes, for the colour map.
    """
    rows, columns = shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=rows,
            width=columns,
            count=1,
            dtype="uint8",
            tiled=True,
            blockxsize=MASK_TILE,
            blockysize=MASK_TILE,
            compress="deflate",
            bigtiff="if_safer",
            photometric="palette",
        ) as raster:
            raster.write_colormap(1, {k: (*v, 255) for k, v in class_map.colormap().items()})
            yield LabelRasterWriter(raster)


class LabelRasterWriter:
    """Write side of a label raster."""

    def __init__(self, raster: rasterio.io.DatasetWriter) -> None:
        self._raster = raster

    def write(self, window: Region, labels: LabelArray) -> None:
        """Writes the labels of a window; what leaves the raster is cut off."""
        inside = window.intersection(Region(0, 0, self._raster.width, self._raster.height))
        if inside is None:
            return
        y, x = inside.y - window.y, inside.x - window.x
        self._raster.write(
            labels[y : y + inside.height, x : x + inside.width],
            1,
            window=Window(inside.x, inside.y, inside.width, inside.height),
        )


class LabelRaster:
    """Read side of a label raster, a mask or an OME-TIFF pyramid: a context manager. Threads may share it.

    Args:
        path: The file.
        page: Which channel, where they are pages of their own.

    Raises:
        DatasetError: It is missing or damaged, or has no such page.
    """

    def __init__(self, path: Path, page: int = 0) -> None:
        self.path = path
        self._lock = threading.Lock()  # GDAL's datasets are not for several threads at a time
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                self._raster = rasterio.open(path if page == 0 else f"GTIFF_DIR:{page + 1}:{path}")
            except RasterioIOError as error:
                raise self._damaged(f" or has no page {page}" if page else "") from error

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._raster.height, self._raster.width

    @property
    def holds_labels(self) -> bool:
        """Whether a pixel is one number of 8 bits; of others, only a part would be read."""
        return bool(self._raster.count == 1 and self._raster.dtypes[0] == "uint8")

    def read(self, window: Region) -> LabelArray:
        """Labels of a window, 0 outside the raster: (height, width) uint8.

        Strips of full width in their order decode each tile once, as long as a row of tiles fits into GDAL's cache
        (256 MB, unless ``GDAL_CACHEMAX`` says otherwise).
        """
        labels = np.zeros((window.height, window.width), np.uint8)
        rows, columns = self.shape
        inside = window.intersection(Region(0, 0, columns, rows))
        if inside is None:
            return labels
        y, x = inside.y - window.y, inside.x - window.x
        try:
            with self._lock:
                labels[y : y + inside.height, x : x + inside.width] = self._raster.read(
                    1, window=Window(inside.x, inside.y, inside.width, inside.height)
                )
        except RasterioIOError as error:
            raise self._damaged() from error
        return labels

    def read_reduced(self, longest_px: int) -> LabelArray:
        """The whole raster, every n-th pixel, so that its longer side has at most ``longest_px``.

        Of a pyramid GDAL reads the coarsest level that is fine enough.
        """
        rows, columns = self.shape
        step = max(1, -(-max(rows, columns) // longest_px))
        out_shape = (max(1, rows // step), max(1, columns // step))
        try:
            with self._lock:
                labels: LabelArray = self._raster.read(1, out_shape=out_shape)
        except RasterioIOError as error:
            raise self._damaged() from error
        return labels

    def _damaged(self, otherwise: str = "") -> DatasetError:
        return DatasetError(f'label raster "{self.path}" is missing or damaged{otherwise}; make it again')

    def __enter__(self) -> LabelRaster:
        return self

    def __exit__(self, *exc: object) -> None:
        self._raster.close()


LABEL_NAMESPACE = "dmmn-qp/labels"
"""Namespace of the OME annotation that says which class a label stands for."""

_CLASSES = "names its classes"

_NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """Names of the classes of a label raster, label 1 first, as `names_in_file` spells them; None where it tells none.

    Raises:
        DatasetError: The file is no TIFF, or what it tells is damaged.
    """
    for element in _elements(path, "MapAnnotation", _damaged_names):
        if element.get("Namespace") == LABEL_NAMESPACE:
            told = [(m.get("K"), m.text or "") for m in element.iter() if m.tag.rpartition("}")[2] == "M"]
            if [label for label, _ in told] != [str(i) for i in range(1, len(told) + 1)]:
                raise _damaged_names(path, "labels are not 1, 2, 3 ...")
            return tuple(name for _, name in told)
    return None


def names_in_file(names: Iterable[str]) -> tuple[str, ...]:
    """Names as a label raster holds them: what no XML may hold is replaced, so two may become the same."""
    return tuple(map(xml_text, names))


def read_mpp(path: Path) -> float | None:
    """um/px of a label raster, or of another OME-TIFF; None where it does not tell.

    Raises:
        DatasetError: The file is no TIFF, or what it tells is damaged.
    """
    for pixels in _elements(path, "Pixels", _damaged_file):
        size = physical_size(pixels.attrib)
        return size[0] if size is not None and size[0] > 0 else None
    return None


def _elements(path: Path, tag: str, damaged: Callable[[Path, str], DatasetError]) -> list[Element]:
    """The elements of a name in the OME-XML of a file."""
    try:
        with tifffile.TiffFile(path) as file:
            root = read_ome_xml(file)
    except Exception as error:  # of any kind: tifffile checks little of what a damaged file says
        raise damaged(path, words_of(error)) from error
    return [] if root is None else [element for element in root.iter() if element.tag.rpartition("}")[2] == tag]


def _damaged_file(path: Path, reason: str) -> DatasetError:
    return DatasetError(f'label raster "{path}" is missing or damaged ({reason}); make it again')


def _damaged_names(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f'label raster "{path}" is damaged where it names its classes ({reason}); predict again with --overwrite'
    )


def xml_text(text: str) -> str:
    """The text with what no XML may hold, or give back as it was, replaced."""
    return _NOT_IN_XML.sub("\ufffd", text)
