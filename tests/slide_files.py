"""Writes small files of the kinds that slides come in, from arrays."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import tifffile

SCN = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection sizeX="{w}"
sizeY="{h}"><image><view sizeX="{vw}" sizeY="{vh}" offsetX="{x}" offsetY="{y}"/><scanSettings><objectiveSettings>
<objective>20</objective></objectiveSettings><illuminationSettings><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings><pixels sizeX="{vw}" sizeY="{vh}"><dimension sizeX="{vw}" sizeY="{vh}" ifd="0"/>
</pixels></image></collection></scn>"""

OME = """<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image
ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{w}" SizeY="{h}" SizeC="3" SizeZ="1"
SizeT="1" {more}><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>"""

WHOLE_SLIDE_MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def write_leica(path: Path, pixels: np.ndarray, canvas: tuple[int, int], corner: tuple[int, int]) -> Path:
    """An SCN as Leica's scanners write it: the scanned area lies somewhere on a larger slide.

    Args:
        path: The file.
        pixels: The scanned area.
        canvas: (width, height) of the slide in px.
        corner: (x, y) of the scanned area on it.
    """
    rows, columns, _ = pixels.shape
    text = SCN.format(w=canvas[0], h=canvas[1], vw=columns, vh=rows, x=corner[0], y=corner[1])
    tifffile.imwrite(
        path,
        pixels,
        bigtiff=True,
        tile=(128, 128),
        photometric="rgb",
        compression="deflate",
        description=text,
        metadata=None,
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return path


def write_pyramid(path: Path, levels: list[np.ndarray], *, subifds: bool = True, **options: object) -> Path:
    """A TIFF with its levels in SubIFDs, as in OME-TIFF, or in pages of their own."""
    with tifffile.TiffWriter(path) as tiff:
        first = {"subifds": len(levels) - 1} if subifds and len(levels) > 1 else {}
        for number, pixels in enumerate(levels):
            more = {"subfiletype": 1} if number else first
            tiff.write(pixels, photometric="rgb", metadata=None, **{**options, **more})
    return path


def write_dicom(
    folder: Path, levels: list[np.ndarray], *, mpp: float = 0.5, tile: int = 128, series: str = "1", scanner: str = ""
) -> Path:
    """A whole slide as uncompressed DICOM: one file a level in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(levels):
        rows, columns, _ = pixels.shape
        down, across = -(-rows // tile), -(-columns // tile)
        padded = np.zeros((down * tile, across * tile, 3), np.uint8)
        padded[:rows, :columns] = pixels
        frames = padded.reshape(down, tile, across, tile, 3).swapaxes(1, 2)
        instance = f"1.2.3.{series}.{number + 1}"
        spacing = f"{mpp / 1000 * levels[0].shape[1] / columns:.8f}"
        measures = _sequence(0x0028, 0x9110, _element(0x0028, 0x0030, "DS", f"{spacing}\\{spacing}"))
        elements = [
            _element(
                0x0008,
                0x0008,
                "CS",
                "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED" if number else "ORIGINAL\\PRIMARY\\VOLUME\\NONE",
            ),
            _element(0x0008, 0x0016, "UI", WHOLE_SLIDE_MICROSCOPY),
            _element(0x0008, 0x0018, "UI", instance),
            _element(0x0008, 0x0060, "CS", "SM"),
            _element(0x0008, 0x1090, "LO", scanner),
            _element(0x0020, 0x000D, "UI", f"1.2.3.{series}.100"),
            _element(0x0020, 0x000E, "UI", f"1.2.3.{series}.200"),
            _element(0x0020, 0x9311, "CS", "TILED_FULL"),
            _element(0x0028, 0x0002, "US", 3),
            _element(0x0028, 0x0004, "CS", "RGB"),
            _element(0x0028, 0x0006, "US", 0),
            _element(0x0028, 0x0008, "IS", str(down * across)),
            _element(0x0028, 0x0010, "US", tile),
            _element(0x0028, 0x0011, "US", tile),
            _element(0x0028, 0x0100, "US", 8),
            _element(0x0028, 0x0101, "US", 8),
            _element(0x0028, 0x0102, "US", 7),
            _element(0x0028, 0x0103, "US", 0),
            _element(0x0048, 0x0006, "UL", columns),
            _element(0x0048, 0x0007, "UL", rows),
            _sequence(0x5200, 0x9229, measures),
            _element(0x7FE0, 0x0010, "OB", frames.tobytes()),
        ]
        meta = b"".join(
            [
                _element(0x0002, 0x0001, "OB", b"\0\1"),
                _element(0x0002, 0x0002, "UI", WHOLE_SLIDE_MICROSCOPY),
                _element(0x0002, 0x0003, "UI", instance),
                _element(0x0002, 0x0010, "UI", EXPLICIT_LITTLE_ENDIAN),
                _element(0x0002, 0x0012, "UI", "1.2.3"),
            ]
        )
        head = bytes(128) + b"DICM" + _element(0x0002, 0x0000, "UL", len(meta))
        (folder / f"{series}-{number}.dcm").write_bytes(head + meta + b"".join(elements))
    return folder


def _element(group: int, number: int, kind: str, value: str | int | bytes) -> bytes:
    """One DICOM element, explicit VR, little endian."""
    if isinstance(value, int):
        data = struct.pack("<H" if kind == "US" else "<I", value)
    elif isinstance(value, str):
        data = value.encode() + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    else:
        data = value + bytes(len(value) % 2)
    head = struct.pack("<HH2s", group, number, kind.encode())
    long = kind in ("OB", "SQ")
    return head + (struct.pack("<HI", 0, len(data)) if long else struct.pack("<H", len(data))) + data


def _sequence(group: int, number: int, item: bytes) -> bytes:
    return _element(group, number, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
