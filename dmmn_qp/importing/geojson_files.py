"""Which files of a folder hold annotations as GeoJSON."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.comparison import COMPARISON
from dmmn_qp.folders.evaluation import EVALUATION
from dmmn_qp.folders.predictions import OTHERS_SUFFIX
from dmmn_qp.qupath.geojson_reader import GEOJSON_SUFFIXES
from dmmn_qp.qupath.packed_json import is_roi_set

_NO_ANNOTATIONS: Final = (RUN_FILE, EVALUATION, COMPARISON)
"""JSON of ours that lies beside GeoJSON, whose folder may be that of the annotations when it was corrected."""


def geojson_files(annotations: Path) -> tuple[dict[str, Path], list[str], list[str]]:
    """GeoJSON files by their name without the ending.

    Returns:
        The files, what else is there that somebody may have meant, and which files have the same name.
    """
    candidates = [annotations]
    if annotations.is_dir():
        found = sorted(annotations.iterdir())
        candidates = [path for path in found if path.name not in _NO_ANNOTATIONS and not path.name.startswith(".")]
    files: dict[str, Path] = {}
    twice: dict[str, str] = {}
    others: list[Path] = []
    of_imagej: list[Path] = []
    for path in candidates:
        suffix = next((s for s in GEOJSON_SUFFIXES if path.name.lower().endswith(s)), None)
        if not path.is_file():
            continue
        if path.suffix.lower() == ".roi" or is_roi_set(path):
            of_imagej.append(path)
            continue
        if suffix is None:
            others.append(path)
            continue
        name = path.name[: -len(suffix)]
        if name.endswith(OTHERS_SUFFIX) and any(
            p.name.startswith(name.removesuffix(OTHERS_SUFFIX)) for p in candidates
        ):
            continue
        if name in files:
            twice[name] = (
                f'annotations "{files[name]}" and "{path}" are for the same slide; keep one of them in the folder'
            )
        files.setdefault(name, path)
    notes: list[str] = []
    if of_imagej:
        more = f" and {len(of_imagej) - 1} more" if len(of_imagej) > 1 else ""
        notes.append(
            f'outlines of ImageJ are not read ("{of_imagej[0]}"{more}): drop them onto their images in QuPath (0.4 or '
            "later), give them classes, and export them as GeoJSON"
        )
    if not files and others:
        endings = ", ".join(sorted({path.suffix.lower() or path.name for path in others})[:5])
        notes.append(
            f'no GeoJSON in "{annotations}", but files that end in {endings}: export the annotations from QuPath '
            "(File > Export objects as GeoJSON)"
        )
    return {name: path for name, path in files.items() if name not in twice}, notes, list(twice.values())
