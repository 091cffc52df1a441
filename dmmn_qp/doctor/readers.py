"""Whether each reader of slides opens a small file that is made for it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from dmmn_qp.doctor.findings import Finding
from dmmn_qp.text import words_of

SIDE_PX: Final = 512
PIXEL: Final = (90, 20, 110)

_RESOLUTION: Final[dict[str, Any]] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
"""0.5 um/px."""


def check_readers() -> Iterator[Finding]:
    """Has each reader open a small file, and read from its middle."""
    from dmmn_qp.files.failures import install_command
    from dmmn_qp.slides.readers import SLIDE_READERS

    opened, untried, ways_out = [], [], []
    with tempfile.TemporaryDirectory(prefix="dmmn-qp-", ignore_cleanup_errors=True) as folder:
        for name, reader in SLIDE_READERS.items():
            extra = OF_EXTRAS.get(name)
            if name not in MADE or (extra is not None and find_spec(extra) is None):
                untried.append(name)
                ways_out += [] if extra is None else [f"for {name}: {install_command(extra)}"]
                continue
            try:
                _read(reader.open, MADE[name](Path(folder)))
            except Exception as error:  # of any kind: the library behind it may be broken
                text = f"{name} cannot read its test file ({words_of(error)})"
                if extra is None:
                    yield Finding("slide readers", "fail", text, "see the lines about libraries")
                else:
                    yield Finding("slide readers", "warn", text, f"mend it: {install_command(extra)}")
            else:
                opened.append(name)
    text = f"{', '.join(opened) or 'none'} can read" + (f"; not tried: {', '.join(untried)}" if untried else "")
    figures = (("read", opened), ("not_tried", untried))
    yield Finding("slide readers", "ok", text, "; ".join(ways_out), figures)


def _read(opener: Callable[..., Any], path: Path) -> None:
    """Reads a few pixels.

    Raises:
        ValueError: They are not those that were written.
    """
    from dmmn_qp.regions import Region

    with opener(path, mpp=0.5) as slide:
        if (slide.info.width, slide.info.height) != (SIDE_PX, SIDE_PX):
            raise ValueError(f"{slide.info.width} x {slide.info.height} px")
        pixels = slide.read_level(0, Region(250, 250, 8, 8))
    if pixels.shape != (8, 8, 3) or abs(pixels.astype(int) - PIXEL).max() > 3:
        raise ValueError("other pixels than were written")


def _tiled(folder: Path) -> Path:
    return _tiff(folder / "tiled.tif", tile=(256, 256), compression="deflate")


def _striped(folder: Path) -> Path:
    return _tiff(folder / "striped.tif", rowsperstrip=16)


def _tiff(path: Path, **how: Any) -> Path:
    import tifffile

    tifffile.imwrite(path, _pixels(), photometric="rgb", **how, **_RESOLUTION)
    return path


def _png(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(_pixels()).save(folder / "picture.png")
    return folder / "picture.png"


def _zarr(folder: Path) -> Path:
    """OME-Zarr 0.5, of one level and as few chunks as there are colours."""
    import numpy as np
    import zarr

    group = zarr.open_group(folder / "slide.ome.zarr", mode="w", zarr_format=3)
    level = group.create_array("0", shape=(3, SIDE_PX, SIDE_PX), chunks=(1, SIDE_PX, SIDE_PX), dtype="uint8")
    level[:] = np.moveaxis(_pixels(), 2, 0)
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")]
    scale = {"type": "scale", "scale": [1.0, 0.5, 0.5]}
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    described: Any = {"version": "0.5", "multiscales": [image]}
    group.attrs["ome"] = described
    return folder / "slide.ome.zarr"


def _pixels() -> Any:
    import numpy as np

    return np.full((SIDE_PX, SIDE_PX, 3), PIXEL, np.uint8)


OF_EXTRAS: Final = {"ome-zarr": "zarr"}
"""Name of a reader that not everybody needs -> the extra that it belongs to, of the name of its library."""

MADE: Final[dict[str, Callable[[Path], Path]]] = {
    "ome-zarr": _zarr,
    "direct-tiff": _tiled,
    "openslide": _tiled,
    "tifffile": _striped,
    "picture": _png,
}
"""Name of a reader -> how a file for it is made."""
