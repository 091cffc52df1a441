"""Which folders are OME-Zarr, and what their metadata say: read as JSON, bounded and checked before any pixel is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from dmmn_qp.errors import SlideError
from dmmn_qp.files.remote import ZARR_MARKS, RemotePath
from dmmn_qp.slides.base import MICROMETRES
from dmmn_qp.slides.same_picture import fits
from dmmn_qp.slides.zarr_levels import ZarrLevel, checked_level, chunk_key, sequence
from dmmn_qp.text import shorten

MAX_METADATA_BYTES: Final = 4 * 1024**2
_MAX_LEVELS: Final = 64
_FINGERPRINT_BYTES: Final = 1 << 16
_VERSIONS: Final = {2: "0.4", 3: "0.5"}
_UNITS: Final = {
    **MICROMETRES, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "angstrom": 1e-4, "meter": 1e6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ZarrPyramid:
    """What the metadata of a slide say.

    Attributes:
        folder: Where its arrays are: the slide's folder, or ``0`` in it.
        zarr_format: 2 (OME-Zarr 0.4) or 3 (0.5).
        levels: Its levels, finest first.
        mpp: (across, down) in um/px; None where it is not said.
    """

    folder: Path
    zarr_format: int
    levels: tuple[ZarrLevel, ...]
    mpp: tuple[float, float] | None


def is_zarr(path: Path) -> bool:
    """Whether a folder is of Zarr, by what lies in it."""
    if isinstance(path, RemotePath) and not path.may_be_zarr:
        return False
    return any((path / name).is_file() for name in ZARR_MARKS) and path.is_dir()


def read_pyramid(path: Path) -> ZarrPyramid:
    """Reads what a slide says of itself.

    Raises:
        SlideError: It is no picture of OME-Zarr 0.4 or 0.5, or contradicts itself, or claims what cannot be.
    """
    try:
        return _pyramid(path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        said = str(error) if type(error) is ValueError else f"its metadata lack {error}"
        raise SlideError(
            f'slide "{path}" cannot be read as OME-Zarr: {shorten(said, 200)}; write it again as RGB of 8 bits in '
            "OME-Zarr 0.4 or 0.5, or as OME-TIFF"
        ) from error


def zarr_fingerprint(path: Path) -> str:
    """Returns a short digest of a slide's metadata and of the first, middle and last chunk of its finest level.

    Raises:
        SlideError: See `read_pyramid`.
    """
    pyramid = read_pyramid(path)
    digest = hashlib.sha256(orjson.dumps([dict(level.metadata) for level in pyramid.levels]))
    digest.update(repr(pyramid.mpp).encode())
    finest = pyramid.levels[0]
    grid = [-(-side // stored) for side, stored in zip(finest.shape, finest.stored, strict=True)]
    for part in (0.0, 0.5, 1.0):
        key = chunk_key(finest, [int((count - 1) * part) for count in grid])
        place = pyramid.folder / finest.path / key
        size, head = _head(place)
        digest.update(f"{key} {size}".encode() + head)
    return digest.hexdigest()[:32]


def _head(place: Path) -> tuple[int, bytes]:
    """Returns size and beginning of a file; -1 where it is not there, as chunks without content are not."""
    if not place.is_file():
        return -1, b""
    with place.open("rb") as file:
        return place.stat().st_size, file.read(_FINGERPRINT_BYTES)


def _pyramid(path: Path) -> ZarrPyramid:
    form, said = _attributes(path)
    if said is None:
        raise ValueError("it has no metadata of a group (zarr.json, or .zattrs and .zgroup)")
    if "plate" in said or "well" in said:
        raise SlideError(f'"{path}" is a plate of wells, not a slide; name one picture in it, such as "{path}/A/1/0"')
    folder = path
    if "multiscales" not in said and "bioformats2raw.layout" in said:
        folder = path / "0"  # the first series, as of other files
        form, inner = _attributes(folder)
        said = inner or {}
    image = sequence(said["multiscales"])[0]
    version = str(said.get("version") if form == 3 else image.get("version", _VERSIONS[2]))
    if version != _VERSIONS[form]:
        raise ValueError(f"it is of version {shorten(version, 20)}, and 0.4 and 0.5 are read")
    axes = _axes(image)
    datasets = sequence(image["datasets"])[:_MAX_LEVELS]
    levels = [_level(folder, form, _inner_path(dataset["path"]), axes) for dataset in datasets]
    placed = [_placed(dataset, image, axes) for dataset in datasets]
    own = [0]
    for number in range(1, len(levels)):
        if fits(levels[own[-1]].size, levels[number].size) and _lies_on(placed[0], placed[number]):
            own.append(number)
    _check_rgb(levels[0])
    return ZarrPyramid(folder, form, tuple(levels[number] for number in own), _mpp(image, placed[0][0], axes))


def _attributes(folder: Path) -> tuple[int, dict[str, Any] | None]:
    """Returns the format of a group, and what it says of its pictures."""
    group = _json(folder / "zarr.json")
    if group is not None:
        attributes = group.get("attributes", {})
        return 3, attributes.get("ome", attributes)
    return 2, _json(folder / ".zattrs") or ({} if _json(folder / ".zgroup") is not None else None)


def _json(path: Path) -> dict[str, Any] | None:
    """Reads a small file of JSON; None where there is none."""
    if isinstance(path, RemotePath):
        data = path.whole(MAX_METADATA_BYTES)
    elif not path.is_file():
        return None
    else:
        with path.open("rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    if data is None:
        return None
    if len(data) > MAX_METADATA_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_METADATA_BYTES:,} bytes")
    content = orjson.loads(data)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def _inner_path(text: Any) -> str:
    parts = str(text).split("/")
    if not all(parts) or {".", ".."} & set(parts) or any(sign in str(text) for sign in "\\:\0"):
        raise ValueError(f"a level is at {shorten(str(text), 60)!r}, outside of the slide")
    return str(text)


def _axes(image: Mapping[str, Any]) -> str:
    axes = "".join(axis["name"] for axis in sequence(image["axes"]))
    if axes not in ("tczyx", "czyx", "cyx", "tcyx"):
        raise ValueError(f"its axes are {shorten(axes, 20)!r}, and tczyx, tcyx, czyx and cyx are read")
    return axes


def _level(folder: Path, form: int, path: str, axes: str) -> ZarrLevel:
    metadata = _json(folder / path / ("zarr.json" if form == 3 else ".zarray"))
    if metadata is None:
        raise ValueError(f"level {shorten(path, 60)!r} is not there")
    return checked_level(path, metadata, form, axes)


def _placed(dataset: Mapping[str, Any], image: Mapping[str, Any], axes: str) -> tuple[list[float], list[float]]:
    """Returns (scale, corner) of a level, by axis, as the transformations of the level and of the image give it."""
    scale, corner = [1.0] * len(axes), [0.0] * len(axes)
    for step in (*dataset["coordinateTransformations"], *image.get("coordinateTransformations", ())):
        if step["type"] == "scale":
            scale, corner = (
                [a * float(b) for a, b in zip(side, step["scale"], strict=True)] for side in (scale, corner)
            )
        elif step["type"] == "translation":
            corner = [a + float(b) for a, b in zip(corner, step["translation"], strict=True)]
    if not all(map(math.isfinite, (*scale, *corner))) or min(scale) <= 0:
        raise ValueError("a level is scaled or moved by what is no number")
    return scale, corner


def _lies_on(finest: tuple[list[float], list[float]], level: tuple[list[float], list[float]]) -> bool:
    """Whether a level shows the same as the finest: its corner is off by less than a pixel of its own."""
    return all(abs(a - b) < scale for a, b, scale in zip(finest[1][-2:], level[1][-2:], level[0][-2:], strict=True))


def _mpp(image: Mapping[str, Any], scale: list[float], axes: str) -> tuple[float, float] | None:
    sides = []
    for name in "xy":
        unit = _UNITS.get(str(image["axes"][axes.index(name)].get("unit", "")))
        if unit is None:
            return None
        sides.append(scale[axes.index(name)] * unit)
    return sides[0], sides[1]


def _check_rgb(level: ZarrLevel) -> None:
    if level.side("c") != 3:
        raise ValueError(f"it has {level.side('c')} channel(s) instead of RGB")
    for axis, what in (("z", "planes"), ("t", "times")):
        if level.side(axis) > 1:
            raise ValueError(f"it has {level.side(axis)} {what} instead of one")
