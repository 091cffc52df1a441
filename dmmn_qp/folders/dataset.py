"""The dataset folder: what `import` writes and what training and evaluation read."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.files.paths import user_path
from dmmn_qp.files.tables import write_table
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.files import has_fingerprint
from dmmn_qp.slides.finding import SlideFinder, SlidesRoot, Wanted, path_of_text
from dmmn_qp.slides.pixel_sizes import THE_DATASET, StatedMpp
from dmmn_qp.slides.transformed import Change
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import ClassMap, FileModel, PatchGrid, PatchSpec
from dmmn_qp.text import shorten, text_of_cell

MANIFEST = "dataset.json"

PATCHES = "patches.csv"


ORIGIN_SUFFIX = ".origin.tif"
"""What follows ``<slide>`` in the name of the raster that says whose word the labels of its mask are."""

ORIGIN_MAP = ClassMap.from_colors(
    zip(ORIGINS, ((60, 130, 60), (200, 90, 30), (40, 90, 170), (130, 130, 130)), strict=True)
)
"""`ORIGINS` as classes, for the colours of such a raster."""

_SPLITS: TypeAdapter[Split] = TypeAdapter(Split)


class SlideRecord(FileModel):
    """One slide of a dataset.

    Attributes:
        slide_id: Unique name, fit for a file name; names its mask and annotations.
        path: Where the slide was at import.
        width: Level-0 columns in QuPath's frame.
        height: Level-0 rows in QuPath's frame.
        mpp: um/px at level 0.
        crop_to_bounds: Whether QuPath's frame starts at the scanned bounds.
        frame: Crops, turns and flips that QuPath puts around the file, the one next to the file first.
        fingerprint: Digest that tells whether a file found later is the same slide.
        split: Which split the slide belongs to.
        project: Which of several projects it is from, as it was named at import; None where there was one source.
        case: The case it belongs to; None in datasets of earlier versions.
        metadata: Key-value pairs that the project has of it.
        grid_px: Level-0 px per pixel of its mask, where it is not the patch geometry that says it.
    """

    slide_id: str = Field(min_length=1, pattern=r"^[^/\\\x00]+$")
    path: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    mpp: float = Field(gt=0)
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()
    fingerprint: str
    split: Split
    project: str | None = None
    case: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    grid_px: float | None = Field(default=None, gt=0)

    def view(self, path: Path) -> SlideView:
        """The slide in the frame, and of the pixel size, with which it was imported.

        Args:
            path: Where its file is.
        """
        mpp = StatedMpp(listed=self.mpp, listed_by=THE_DATASET)
        return SlideView(path, self.crop_to_bounds, self.frame, mpp, (self.width, self.height))


class DatasetManifest(FileModel):
    """Content of ``dataset.json``.

    Attributes:
        class_map: The classes.
        patch_spec: The patch geometry.
        slides: The slides.
        left_out: Why other annotated images were left out, a line each.
        earlier_splits: Splits of files that are no slides of it, but were of datasets that it replaced, by fingerprint.
    """

    format_version: Literal[1] = 1
    class_map: ClassMap
    patch_spec: PatchSpec
    slides: tuple[SlideRecord, ...] = Field(min_length=1)
    left_out: tuple[str, ...] = ()
    earlier_splits: dict[str, Split] = Field(default_factory=dict)


class Dataset:
    """A dataset folder, open for reading.

    Args:
        folder: The folder.

    Raises:
        DatasetError: It is missing, damaged or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = user_path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise DatasetError(
                f'"{folder}" is not a dataset (it has no {MANIFEST}); make one with dmmn-qp import PROJECT, or name it '
                "with --dataset"
            )
        try:
            self.manifest = DatasetManifest.model_validate_json(path.read_bytes())
        except (ValidationError, ValueError) as error:
            raise DatasetError(
                f'"{path}" is damaged or of another version ({shorten(str(error), 99)}); import again with --overwrite'
            ) from error
        self._records = {record.slide_id: record for record in self.manifest.slides}
        self._finders: dict[tuple[SlidesRoot, ...], SlideFinder] = {}

    @property
    def class_map(self) -> ClassMap:
        """The classes."""
        return self.manifest.class_map

    @property
    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        return self.manifest.patch_spec

    def slides(self, split: Split | None = None) -> list[SlideRecord]:
        """The slides, of one split if given."""
        return [r for r in self.manifest.slides if split is None or r.split == split]

    def record(self, slide_id: str) -> SlideRecord:
        """The slide of an id.

        Raises:
            DatasetError: There is none.
        """
        try:
            return self._records[slide_id]
        except KeyError:
            raise DatasetError(
                f'dataset "{self.folder}" has no slide "{slide_id}"; it has {", ".join(sorted(self._records))}'
            ) from None

    def grid(self, record: SlideRecord) -> PatchGrid:
        """The pixels of a slide's mask."""
        if record.grid_px is not None:
            return PatchGrid(self.patch_spec, record.grid_px)
        return self.patch_spec.grid_of(record.mpp, record.slide_id)

    def cases(self) -> dict[str, str]:
        """The case of each slide, as it was imported; where nobody told, slides of one file are of one case."""
        first_of_file: dict[str, str] = {}
        for record in self.manifest.slides:
            first_of_file.setdefault(record.fingerprint, record.slide_id)
        return {r.slide_id: r.case or first_of_file[r.fingerprint] for r in self.manifest.slides}

    def locate(self, record: SlideRecord, slides_roots: Sequence[SlidesRoot] = ()) -> Path:
        """Finds a slide again as `SlideFinder` does; only a file with its fingerprint is the slide.

        Raises:
            SlideError: It is nowhere, or what is there is another file.
        """
        roots = tuple(slides_roots)
        if roots not in self._finders:
            self._finders[roots] = SlideFinder(roots)
        stored = path_of_text(record.path) or PurePath(record.path)
        wanted = Wanted(stored.name, stored, accept=lambda path: has_fingerprint(path, record.fingerprint))
        return self._finders[roots].find({record.slide_id: wanted})[record.slide_id]

    def open(self, record: SlideRecord, slides_roots: Sequence[SlidesRoot] = ()) -> Slide:
        """Opens a slide in the frame in which it was imported."""
        return record.view(self.locate(record, slides_roots)).open()

    def annotations_path(self, slide_id: str) -> Path:
        """The slide's normalised annotations."""
        return self.folder / "annotations" / f"{slide_id}.geojson"

    def mask_path(self, slide_id: str) -> Path:
        """The slide's label mask."""
        return self.folder / "masks" / f"{slide_id}.tif"

    def origin_path(self, slide_id: str) -> Path | None:
        """Whose word each labelled pixel of the slide's mask is, a raster of `ORIGINS`; None where all was drawn."""
        path = self.folder / "masks" / f"{slide_id}{ORIGIN_SUFFIX}"
        return path if path.is_file() else None

    def origins_in(self, patch: PatchRef) -> frozenset[Origin]:
        """Whose word the labels of a patch's target are."""
        path = self.origin_path(patch.slide_id)
        if path is None:
            return frozenset({"drawn"})
        size = self.patch_spec.size_px
        with LabelRaster(path) as raster:
            found = set(np.unique(raster.read(Region(patch.x, patch.y, size, size))).tolist())
        return frozenset(origin for origin, value in ORIGINS.items() if value in found)

    def patches(self) -> list[PatchRef]:
        """The patch index.

        Raises:
            DatasetError: It is missing or damaged.
        """
        path = self.folder / PATCHES
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [_patch_from_row(row, self._records) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DatasetError(
                f'patch index "{path}" is missing or damaged ({shorten(str(error), 99)}); import again with --overwrite'
            ) from error


def dataset_digest(folder: Path) -> str:
    """Digest of what a dataset says: its classes, geometry, slides and patches."""
    digest = hashlib.sha256()
    for name in (MANIFEST, PATCHES):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def slides_by_split(records: Iterable[SlideRecord]) -> dict[Split, list[str]]:
    """Names of the slides of each split."""
    names: dict[Split, list[str]] = {}
    for record in records:
        names.setdefault(record.split, []).append(record.slide_id)
    return names


def write_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Writes ``dataset.json``."""
    content = manifest.model_dump(mode="json")
    for slide in content["slides"]:
        if slide["grid_px"] is None:
            del slide["grid_px"]  # so that all other datasets have the digest that they always had
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def write_patches(folder: Path, patches: Iterable[PatchRef], n_classes: int) -> None:
    """Writes ``patches.csv``: one row a target, with its pixels per label, and those corrected."""
    header = ["slide_id", "split", "x", "y", "fixed", "corrected", *(f"label_{i}" for i in range(n_classes + 1))]
    rows = ([p.slide_id, p.split, p.x, p.y, int(p.fixed), p.corrected, *p.label_counts] for p in patches)
    write_table(folder / PATCHES, header, rows)


def _patch_from_row(row: dict[str, str], records: dict[str, SlideRecord]) -> PatchRef:
    counts = tuple(int(row[key]) for key in row if key.startswith("label_"))
    split = _SPLITS.validate_python(row["split"])
    fixed = bool(int(row["fixed"]))
    corrected = int(row.get("corrected") or 0)  # earlier versions did not count it
    slide_id, x, y = _record_of(row["slide_id"], records).slide_id, int(row["x"]), int(row["y"])
    return PatchRef(slide_id, split, x, y, counts, fixed, corrected)


def _record_of(cell: str, records: dict[str, SlideRecord]) -> SlideRecord:
    """The record of the slide in a cell of ``patches.csv``; earlier versions wrote its id as it is."""
    return records.get(text_of_cell(cell)) or records[cell]
