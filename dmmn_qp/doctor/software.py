"""Versions, libraries that everything needs, and extras."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires, version
from typing import Final

from dmmn_qp.doctor.findings import Finding
from dmmn_qp.files.failures import install_command
from dmmn_qp.text import words_of
from dmmn_qp.version import __version__

_PACKAGE: Final = "dmmn-qp"

OLDEST_PYTHON: Final = (3, 11)

LIBRARIES: Final = {
    "Typer": "typer",
    "Rich": "rich",
    "torch": "torch",
    "NumPy": "numpy",
    "SciPy": "scipy",
    "OpenCV": "cv2",
    "Pillow": "PIL",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "simplejpeg": "simplejpeg",
    "shapely": "shapely",
    "rasterio": "rasterio",
    "OpenSlide for Python": "openslide",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "Lightning Fabric": "lightning_fabric",
    "matplotlib": "matplotlib",
    "Jinja": "jinja2",
    "orjson": "orjson",
    "ijson": "ijson",
    "affine": "affine",
    "filelock": "filelock",
}
"""Name -> module of what the commands cannot do without."""

NOT_FOR_USERS: Final = frozenset({"dev", "docs", "demo-slides"})

_STARTS_OTHERS: Final = frozenset({"paquo"})
"""Modules whose import starts something, such as Java: it is only looked whether they are there."""

EXTRAS: Final = {
    "paquo": "writing into QuPath projects (push, new-project)",
    "tensorboard": "the course of a training in TensorBoard",
    "timm": "encoders of timm",
    "lite1": "one more pretrained encoder",
    "cohort": "Parquet tables of a cohort",
    "dicom": "predictions as DICOM segmentation",
    "ray": "many slides on a Ray cluster",
    "remote": "slides behind http(s)",
    "s3": "slides in S3",
    "gs": "slides in Google Cloud Storage",
    "az": "slides in Azure",
    "zarr": "OME-Zarr",
    "export": "models as ONNX",
}
"""Extra for users -> what it is for."""

_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^]]*)])?[^;]*(?:;.*extra\s*==\s*[\"']([^\"']+)[\"'])?")


def check_versions() -> Iterator[Finding]:
    """This program, Python and the system."""
    python = platform.python_version()
    text = f"dmmn-qp {__version__}, Python {python}, {platform.system()} {platform.release()} {platform.machine()}"
    figures = (("dmmn_qp", __version__), ("python", python), ("executable", sys.executable))
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("versions", "fail", text, "use Python 3.11 or later", figures)
    else:
        yield Finding("versions", "ok", text, figures=figures)


def check_libraries() -> Iterator[Finding]:
    """Loads each library that everything needs."""
    found: dict[str, str] = {}
    for name, module in LIBRARIES.items():
        try:
            loaded = import_module(module)
        except Exception as error:  # of any kind: shared objects, versions that do not fit, half an installation
            yield Finding("libraries", "fail", f"{name} cannot be loaded ({words_of(error)})", _mend(module))
        else:
            found[name] = str(getattr(loaded, "__version__", "") or "there")
    with suppress(Exception):
        found["OpenSlide"] = str(import_module("openslide").__library_version__)
    with suppress(Exception):
        found["GDAL"] = str(import_module("rasterio").__gdal_version__)
    with suppress(Exception):
        found["GEOS"] = str(import_module("shapely").geos_version_string)
    listed = ", ".join(f"{name} {found[name]}" for name in found)
    if listed:
        yield Finding("libraries", "ok", listed, figures=tuple(found.items()))


def _mend(module: str) -> str:
    """How to get a library that cannot be loaded."""
    names = {"cv2": "opencv-python-headless", "PIL": "pillow", "openslide": "openslide-python openslide-bin"}
    wanted = names.get(module, module.replace("_", "-"))
    return f"{sys.executable} -m pip install --force-reinstall {wanted}"


def check_extras() -> Iterator[Finding]:
    """Loads what belongs to each extra."""
    try:
        of_extra = extras()
    except PackageNotFoundError:
        yield Finding("extras", "warn", "dmmn-qp runs from its folder, not installed", "pip install -e . in its folder")
        return
    modules = {
        _plain(distribution): module for module, names in packages_distributions().items() for distribution in names
    }
    there: list[str] = []
    missing: list[str] = []
    for extra, needed in of_extra.items():
        lacking, broken = _lacking(needed, modules)
        if broken:
            yield Finding("extras", "warn", f"{extra}: {broken}", f"mend it: {install_command(extra)}")
        (missing if lacking or broken else there).append(extra)
    figures = (("there", there), ("missing", missing))
    yield Finding("extras", "ok", f"there: {', '.join(there) or 'none'}", figures=figures)
    if missing:
        listed = "; ".join(f"{extra}: {EXTRAS[extra]}" if extra in EXTRAS else extra for extra in missing)
        yield Finding("extras", "ok", f"not there: {listed}", f"if you want one: {install_command('NAME')}")


def extras() -> dict[str, tuple[str, ...]]:
    """Each extra for users -> the distributions that it needs.

    Raises:
        PackageNotFoundError: The package is not installed.
    """
    names = [name for name in metadata(_PACKAGE).get_all("Provides-Extra") or () if name not in NOT_FOR_USERS]
    found: dict[str, list[str]] = {name: [] for name in names}
    others: dict[str, list[str]] = {name: [] for name in names}
    for line in requires(_PACKAGE) or ():
        matched = _REQUIREMENT.match(line)
        if matched is None or matched[3] not in found:
            continue
        if _plain(matched[1]) == _PACKAGE:
            others[matched[3]] += (matched[2] or "").split(",")
        else:
            found[matched[3]].append(_plain(matched[1]))
    return {
        name: tuple(
            dict.fromkeys([*found[name], *(one for other in others[name] for one in found.get(other.strip(), ()))])
        )
        for name in names
    }


def _lacking(distributions: tuple[str, ...], modules: dict[str, str]) -> tuple[list[str], str]:
    """The distributions that are not there; and of one that is, why it cannot be loaded."""
    lacking, broken = [], ""
    for distribution in distributions:
        try:
            version(distribution)
        except PackageNotFoundError:
            lacking.append(distribution)
            continue
        module = modules.get(distribution, distribution.replace("-", "_"))
        if module not in _STARTS_OTHERS:
            try:
                import_module(module)
            except Exception as error:  # of any kind, as above
                broken = f"{distribution} cannot be loaded ({words_of(error)})"
    return lacking, broken


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_network() -> Iterator[Finding]:
    """Says that there is nothing to look at."""
    yield Finding(
        "network",
        "ok",
        "neither needed nor used, but by models fetch-encoder and for slides that you name by their address",
    )
