"""Where the pixels of an image in a project come from: its file, and what QuPath does to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final
from urllib.parse import unquote

from pydantic import ValidationError

from dmmn_qp.files.addresses import is_pure_place
from dmmn_qp.slides.base import MICROMETRES
from dmmn_qp.slides.finding import path_of_text
from dmmn_qp.slides.readers import remote_suffixes
from dmmn_qp.slides.transformed import Change, Crop, Flip, Placement, Rotate
from dmmn_qp.text import shorten

_SAME_FRAME: Final = ("channels", "pyramidize")

_MAX_WRAPPERS: Final = 20

_CROP_KEYS: Final = ("x", "y", "width", "height")

_CLOCKWISE: Final = {"ROTATE_90": 90, "ROTATE_180": 180, "ROTATE_270": 270}


def path_of_uri(uri: str | None) -> PurePath | None:
    """The path in a ``file:`` address, or in a bare path; of a slide on a server its place; None for anything else.

    A drive letter or a server name makes it a Windows path, whatever this machine is.
    """
    if not uri:
        return None
    path = path_of_text(uri)
    if path is not None:
        return path if not is_pure_place(path) or path.suffix.lower() in remote_suffixes() else None
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "file":
        return None
    # "////server" and "//server" name a server, "/" and "///" none.
    slashes = len(rest) - len(rest.lstrip("/"))
    text = unquote(rest.lstrip("/"))
    if "\0" in text or not text:
        return None
    if slashes in (2, 4) and not text.lower().startswith("localhost/"):
        return PureWindowsPath("//" + text)
    text = text.removeprefix("localhost/") if slashes == 2 else text
    return PureWindowsPath(text) if re.match(r"[A-Za-z]:/", text) else PurePosixPath("/" + text)


@dataclass(frozen=True, slots=True)
class ImageServer:
    """The innermost server of an entry, and what its wrappers make of it."""

    uri: str | None
    provider: str | None
    args: tuple[str, ...]
    width: int | None
    height: int | None
    mpp_x: float | None
    mpp_y: float | None
    frame: tuple[Change, ...]
    unsupported: str | None

    @classmethod
    def unwrap(cls, builder: Mapping[str, Any]) -> ImageServer:
        """Goes through the wrappers, from the outermost; QuPath shows the metadata of the first that has any."""
        metadata: Mapping[str, Any] | None = None
        outside: list[Change] = []  # wrappers around the one that has the metadata, which therefore change them
        frame: list[Change] = []
        unsupported: str | None = None
        for _ in range(_MAX_WRAPPERS):
            if metadata is None and isinstance(builder.get("metadata"), dict):
                metadata, outside = builder["metadata"], list(frame)
            change = _change(builder)
            if isinstance(change, str):
                unsupported = unsupported or change
            elif change is not None:
                frame.append(change)
            inner = builder.get("builder")
            if not isinstance(inner, dict):
                break
            builder = inner
        if builder.get("builderType") != "uri":
            unsupported = unsupported or "image server without a file"
        args = builder.get("args")
        server_args = tuple(plain_text(arg) for arg in args) if isinstance(args, list) else ()
        unsupported = unsupported or _other_series(server_args)
        metadata = metadata or {}
        width, height = _size(metadata.get("width")), _size(metadata.get("height"))
        mpp_x, mpp_y = _micrometres(metadata, "pixelWidth"), _micrometres(metadata, "pixelHeight")
        if outside and width and height:
            try:
                width, height = Placement.of(outside[::-1], width, height).size
            except ValueError as error:
                unsupported = unsupported or str(error)
        if sum(change.degrees for change in outside if isinstance(change, Rotate)) % 180:
            mpp_x, mpp_y = mpp_y, mpp_x
        return cls(
            uri=text_of(builder.get("uri")),
            provider=text_of(builder.get("providerClassName")),
            args=server_args,
            width=width,
            height=height,
            mpp_x=mpp_x,
            mpp_y=mpp_y,
            frame=tuple(frame[::-1]),
            unsupported=unsupported,
        )


def _other_series(args: Sequence[str]) -> str | None:
    """Words for an image that is not the first of its file, as Bio-Formats names it; the first is what is read."""
    options = dict(zip(args, (*args[1:], ""), strict=False))
    options |= {key: value for key, sign, value in (arg.partition("=") for arg in args) if sign}
    series = options.get("--series", options.get("-s", "-1")).strip()
    if series in ("0", "-1"):
        name = options.get("--name", options.get("-n", "")) if series == "-1" else ""
        return f'image "{shorten(name)}" of a file with several (--name)' if name else None
    return (
        f'image number "{shorten(series)}" (from 0) of a file with several (--series), of which only number 0 is read'
    )


def _change(builder: Mapping[str, Any]) -> Change | str | None:
    """What a builder does to the frame of coordinates; None for nothing, words where it cannot be resolved."""
    kind = builder.get("builderType")
    if kind == "uri" or kind in _SAME_FRAME:
        return None
    if kind == "rotated":
        rotation = builder.get("rotation")
        if rotation == "ROTATE_NONE":
            return None
        if isinstance(rotation, str) and rotation in _CLOCKWISE:
            return Rotate.model_validate({"degrees": _CLOCKWISE[rotation]})
        return "rotated image" + (f" ({shorten(rotation)})" if isinstance(rotation, str) else "")
    if kind == "flipped":
        flip = builder.get("flip")
        if flip == "NONE":
            return None
        try:
            return Flip.model_validate({"axis": flip.lower() if isinstance(flip, str) else flip})
        except ValidationError:
            return "mirrored image" + (f" ({shorten(flip)})" if isinstance(flip, str) else "")
    if kind == "cropped":
        region: Any = builder.get("region")
        try:
            return Crop.model_validate({key: region[key] for key in _CROP_KEYS}, strict=True)
        except (ValidationError, KeyError, TypeError):
            return "cropped image without a rectangle"
    return f'image server of kind "{shorten(plain_text(kind))}"'


def text_of(value: object) -> str | None:
    """A text that is not empty; None for anything else."""
    return value if isinstance(value, str) and value else None


def plain_text(value: object) -> str:
    """A single value as text; empty for null and for what is no single value."""
    return str(value) if isinstance(value, (str, int, float)) else ""


def _size(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _micrometres(metadata: Mapping[str, Any], key: str) -> float | None:
    """A calibrated length in um; None for one in px, and for nonsense."""
    calibration = metadata.get("pixelCalibration")
    length = calibration.get(key) if isinstance(calibration, dict) else None
    if not isinstance(length, dict):
        return None
    value, unit = length.get("value"), length.get("unit")
    factor = MICROMETRES.get(unit.strip()) if isinstance(unit, str) else None
    if factor is None or not isinstance(value, (int, float)):
        return None
    micrometres = value * factor
    return micrometres if math.isfinite(micrometres) and micrometres > 0 else None
