"""The one writer of our OME-TIFF pyramids, strip by strip.

Every pixel passes once: rows gather to rows of tiles, these are compressed and set aside in a temporary file without a
name, and are halved into the next level, which does the same. When all rows are there, the tiles are copied into the
TIFF in its order. So memory is bounded by a row of tiles of each level, and no level is read again.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.files import new_file
from dmmn_qp.folders.label_raster import LABEL_NAMESPACE, xml_text
from dmmn_qp.outputs.levels import TILE, Halve, Level, Pixels, every_second, levels_of, means_of_four
from dmmn_qp.specs import ClassMap, LabelArray

_LEVEL = 1  # of libdeflate: 250 MB/s a core; 6 takes twice the time for files a third smaller

_MAX_CLASSIC = 2**31  # some readers of classic TIFF take offsets for signed

_MAX_PENDING_TILES = 64

_MAX_WORKERS = 16

_ROOM_FOR_TAGS = 1 << 20

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


@dataclass(frozen=True, slots=True)
class _Image:
    """What is in the file apart from its pixels."""

    rows: int
    columns: int
    mpp: float
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int] | None, ...]
    colormap: NDArray[np.uint16] | None = None
    labels: tuple[tuple[int, str], ...] = ()
    description: str = ""


def write_label_pyramid(
    path: Path, rows: Iterable[LabelArray], shape: tuple[int, int], mpp: float, class_map: ClassMap
) -> None:
    """Writes labels as a tiled, compressed OME-TIFF pyramid with the classes' colours as its palette.

    Pixels of a coarser level are every second of the finer one, from the first on, so that no labels are mixed. The
    same labels give the same bytes, whatever the heights of the strips. The file appears when it is complete.

    Args:
        path: The file.
        rows: Consecutive strips from top to bottom, each (height, columns) uint8 of any height.
        shape: (rows, columns) of the whole.
        mpp: um/px of the raster.
        class_map: The classes, for names and colours.

    Raises:
        ValueError: The strips do not make up ``shape``, or ``mpp`` is no length.
    """
    colormap = class_map.palette()[:, :3].T.astype(np.uint16) * 257  # 16 bits for each colour, as TIFF wants it
    image = _Image(
        rows=shape[0],
        columns=shape[1],
        mpp=mpp,
        names=("labels",),
        colors=(None,),
        colormap=colormap,
        labels=tuple((c.label, c.name) for c in class_map.classes),
    )
    _write(path, (strip[None] for strip in rows), image, every_second)


def write_probability_pyramid(
    path: Path,
    strips: Iterable[Pixels],
    shape: tuple[int, int],
    mpp: float,
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    *,
    description: str = "",
) -> None:
    """Writes channels of uint8 as a tiled, compressed OME-TIFF pyramid.

    Pixels of a coarser level are means of 2 x 2 of the finer one, rounded half up; at the right and bottom border, of
    those that are there. The same pixels give the same bytes. The file appears when it is complete.

    Args:
        path: The file.
        strips: Consecutive strips from top to bottom, each (channels, height, columns) uint8 of any height.
        shape: (rows, columns) of the whole.
        mpp: um/px of the raster.
        names: Name of each channel.
        colors: Red, green, blue of each channel.
        description: What the values mean.

    Raises:
        ValueError: The strips do not make up ``shape``, names and colours differ in number, or ``mpp`` is no length.
    """
    if len(names) != len(colors) or not names:
        raise ValueError(f"{len(names)} names and {len(colors)} colours of channels")
    image = _Image(shape[0], shape[1], mpp, tuple(names), tuple(colors), description=description)
    _write(path, strips, image, means_of_four)


def ome_xml(image: _Image) -> bytes:
    """Returns the OME-XML of a pyramid in UTF-8, by the schema of June 2016; nothing in it changes from run to run.

    Other letters than ASCII are written as they are: Bio-Formats does not understand a unit of ``&#181;m``, and then
    takes the file for a plain TIFF, without levels and channels.
    """
    root = ElementTree.Element(
        "OME",
        {
            "xmlns": _OME,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": f"{_OME} {_OME}/ome.xsd",
            "Creator": "dmmn-qp",
        },
    )
    of_image = ElementTree.SubElement(root, "Image", {"ID": "Image:0"})
    if image.description:
        ElementTree.SubElement(of_image, "Description").text = xml_text(image.description)
    pixels = ElementTree.SubElement(
        of_image,
        "Pixels",
        {
            "ID": "Pixels:0",
            "DimensionOrder": "XYCZT",
            "Type": "uint8",
            "SizeX": str(image.columns),
            "SizeY": str(image.rows),
            "SizeC": str(len(image.names)),
            "SizeZ": "1",
            "SizeT": "1",
            "PhysicalSizeX": repr(float(image.mpp)),
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": repr(float(image.mpp)),
            "PhysicalSizeYUnit": "µm",
            "BigEndian": "false",
            "Interleaved": "false",
        },
    )
    for i, (name, color) in enumerate(zip(image.names, image.colors, strict=True)):
        channel = {"ID": f"Channel:0:{i}", "Name": _on_one_line(name), "SamplesPerPixel": "1"}
        if color is not None:
            channel["Color"] = str(_ome_color(color))
        ElementTree.SubElement(pixels, "Channel", channel)
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": str(len(image.names))})
    if image.labels:
        ElementTree.SubElement(of_image, "AnnotationRef", {"ID": "Annotation:0"})
        structured = ElementTree.SubElement(root, "StructuredAnnotations")
        of_map = ElementTree.SubElement(
            structured, "MapAnnotation", {"ID": "Annotation:0", "Namespace": LABEL_NAMESPACE}
        )
        value = ElementTree.SubElement(of_map, "Value")
        for label, name in image.labels:
            ElementTree.SubElement(value, "M", {"K": str(label)}).text = xml_text(name)
    body: str = ElementTree.tostring(root, encoding="unicode")
    return ('<?xml version="1.0" encoding="UTF-8"?>' + body).encode("utf-8")


def _on_one_line(name: str) -> str:
    """Returns a name as an attribute holds it: Bio-Formats does not understand the numbers that line ends become."""
    return re.sub(r"[\t\n]", " ", xml_text(name))


def _ome_color(color: tuple[int, int, int]) -> int:
    """Returns red, green, blue and full opacity as one signed number of 32 bits, red first."""
    red, green, blue = color
    number = red << 24 | green << 16 | blue << 8 | 255
    return number - (1 << 32) if number >= 1 << 31 else number


def _write(path: Path, strips: Iterable[Pixels], image: _Image, halve: Halve) -> None:
    """Writes a pyramid of which ``halve`` makes each coarser level from the finer one."""
    if image.rows < 1 or image.columns < 1 or not (math.isfinite(image.mpp) and image.mpp > 0):
        raise ValueError(f"{image.columns} x {image.rows} px of {image.mpp} um/px")
    with new_file(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as file:
        with ThreadPoolExecutor(min(available_cores(), _MAX_WORKERS)) as workers:
            spool = _TileSpool(file, workers)
            try:
                levels = levels_of((len(image.names), image.rows, image.columns), spool, halve)
                levels[0].add_all(strips)
                spool.finish()
            except BaseException:
                workers.shutdown(cancel_futures=True)
                raise
        _write_tiff(temporary, spool, levels, image)


class _TileSpool:
    """Compressed tiles in a temporary file, in the order in which they came."""

    def __init__(self, file: IO[bytes], workers: ThreadPoolExecutor) -> None:
        self._file = file
        self._workers = workers
        self._pending: deque[tuple[tuple[int, int], Future[bytes]]] = deque()
        self._uniform: dict[int, bytes] = {}
        self._places: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.bytes = 0

    def add(self, level: int, row: int, pixels: Pixels) -> None:
        """Has a row of tiles compressed."""
        del row  # they come in their order
        for channel, plane in enumerate(pixels):
            for x in range(0, plane.shape[1], TILE):
                part = plane[:, x : x + TILE]
                tile = np.zeros((TILE, TILE), np.uint8)
                tile[: part.shape[0], : part.shape[1]] = part
                self._add_tile((level, channel), tile)

    def _add_tile(self, key: tuple[int, int], tile: NDArray[np.uint8]) -> None:
        """Has a tile compressed, which must not change any more."""
        self._pending.append((key, self._workers.submit(self._compressed, tile)))
        while len(self._pending) > _MAX_PENDING_TILES:
            self._store()

    def finish(self) -> None:
        """Waits for the last tiles."""
        while self._pending:
            self._store()

    def tiles(self, level: int, channels: int) -> Iterator[bytes]:
        """Yields the compressed tiles of a level, channel by channel, row by row."""
        for channel in range(channels):
            for offset, size in self._places[level, channel]:
                self._file.seek(offset)
                yield self._file.read(size)

    def _store(self) -> None:
        key, future = self._pending.popleft()
        data = future.result()
        self._places.setdefault(key, []).append((self.bytes, len(data)))
        self._file.write(data)
        self.bytes += len(data)

    def _compressed(self, tile: NDArray[np.uint8]) -> bytes:
        value = int(tile[0, 0])
        if not (tile == value).all():
            return bytes(imagecodecs.deflate_encode(tile.tobytes(), _LEVEL))
        if value not in self._uniform:  # glass and large areas of one class
            self._uniform[value] = bytes(imagecodecs.deflate_encode(tile.tobytes(), _LEVEL))
        return self._uniform[value]


def _write_tiff(path: Path, spool: _TileSpool, levels: Sequence[Level], image: _Image) -> None:
    """Copies the tiles into the TIFF: the channels are pages, the coarser levels their SubIFDs."""
    channels = len(image.names)
    n_tiles = sum(channels * -(-level.rows // TILE) * -(-level.columns // TILE) for level in levels)
    needed = spool.bytes + 16 * n_tiles + _ROOM_FOR_TAGS
    common: dict[str, Any] = {
        "dtype": np.uint8,
        "tile": (TILE, TILE),
        "compression": "adobe_deflate",
        "photometric": "minisblack" if image.colormap is None else "palette",
        "colormap": image.colormap,
        "metadata": None,
        "software": "dmmn-qp",
        "resolutionunit": "centimeter",
    }
    with tifffile.TiffWriter(path, bigtiff=needed > _MAX_CLASSIC, byteorder="<") as tiff:
        for level in levels:
            plane = (level.rows, level.columns)
            per_cm = 1e4 / (image.mpp * 2**level.number)
            tiff.write(
                spool.tiles(level.number, channels),
                shape=plane if channels == 1 else (channels, *plane),
                description=ome_xml(image) if level.number == 0 else None,
                subifds=len(levels) - 1 if level.number == 0 else None,
                subfiletype=0 if level.number == 0 else 1,
                resolution=(per_cm, per_cm),
                **common,
            )
