"""What two things say of slides, whatever they are: projects, GeoJSON, label maps, datasets and predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Plane
from dmmn_qp.errors import DatasetError, DmmnQpError
from dmmn_qp.evaluating.labelled import open_raster
from dmmn_qp.evaluating.truth import TRUTH_SUFFIXES, VALUES_FILE, read_values
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.folders.dataset import MANIFEST, Dataset
from dmmn_qp.folders.label_raster import names_in_file, read_class_names, read_mpp
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PredictedInput, Prediction, read_inputs, read_predictions
from dmmn_qp.importing.classes import labelling_of
from dmmn_qp.importing.geojson_files import geojson_files
from dmmn_qp.importing.rules import ImportRules
from dmmn_qp.importing.source import SourceSlide, all_of
from dmmn_qp.importing.sources import ANNOTATION_SOURCES, read_source
from dmmn_qp.labels.class_rules import STAR, with_trained_classes
from dmmn_qp.outputs.writers import is_output
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.slides.finding import SlidesRoot, path_of_text
from dmmn_qp.slides.names import NamedSlide
from dmmn_qp.slides.ome_xml import is_ome_tiff
from dmmn_qp.slides.transformed import Change

_BEFORE_ENDING: Final = re.compile(r"(\.labels)?(\.ome)?$", re.IGNORECASE)

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabelledSlide:
    """A slide, and what one side says of it: a raster, or annotations that are to be painted.

    Attributes:
        named: Its names.
        path: The file of the labels, for messages.
        classes: Class of each value of the raster, or of each number that annotations are painted with.
        names_from: What says so.
        raster: The raster; None for annotations.
        annotations: The annotations.
        plane: The plane of them that counts.
        size_px: (width, height) of the slide in level-0 px; None where that is not known, as what follows.
        mpp: um/px at level 0.
        grid_mpp: um/px of the raster.
        frame: Crops, turns and flips around its file.
    """

    named: NamedSlide
    path: Path
    classes: Mapping[int, str]
    names_from: str
    raster: Path | None = None
    annotations: tuple[Annotation, ...] = ()
    plane: Plane = DEFAULT_PLANE
    size_px: tuple[int, int] | None = None
    mpp: float | None = None
    grid_mpp: float | None = None
    frame: tuple[Change, ...] | None = None

    @property
    def slide_id(self) -> str:
        """What it is called."""
        return self.named.others[0] if self.named.others else PurePath(self.named.path).stem


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two things.

    Attributes:
        path: What the user named.
        slides: Its slides.
        is_one_file: Whether it is a single file of labels, whose name need not be that of a slide.
    """

    path: Path
    slides: tuple[LabelledSlide, ...]
    is_one_file: bool = False


def read_side(path: Path, slides_roots: Sequence[SlidesRoot], warn: Warn) -> Side:
    """Reads one of the two things, whatever it is.

    Args:
        path: A project of QuPath, a dataset, a folder of predictions, GeoJSON or a label map, or a folder of such.
        slides_roots: Where to look for slides that have been moved.
        warn: Takes what the user should know.

    Raises:
        DatasetError: There is nothing of these kinds, or label maps do not tell their classes.
        DmmnQpError: What is there is damaged.
    """
    if why := why_not_there(path):
        raise DatasetError(f'"{path}" {why}; check the path')
    if path.is_dir() and is_output(path.name):
        raise DatasetError(
            f'"{path}" is OME-Zarr for other programs; name the .ome.tif beside it, or the folder of both'
        )
    if (path / MANIFEST).is_file():
        return Side(path, tuple(_of_dataset(Dataset(path))))
    if ANNOTATION_SOURCES["qupath-project"].wants(path, None):
        return Side(path, tuple(_of_project(path, slides_roots, warn)))
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
    predicted = [file for file in files if file.name.endswith(f".{LABELS_SUFFIX}")]
    if path.is_dir() and predicted:
        return Side(path, tuple(_of_predictions(path, predicted)))
    drawn, notes, problems = geojson_files(path)
    if problems:
        raise DatasetError(all_of(problems))
    maps = [f for f in files if f.suffix.lower() in TRUTH_SUFFIXES and (f in predicted or not is_output(f.name))]
    for note in notes if drawn or not maps else ():
        warn(note)
    if drawn:
        return Side(path, tuple(_of_geojson(drawn, warn)), path.is_file())
    if not maps:
        raise DatasetError(
            f'"{path}" is no project, dataset, folder of predictions, GeoJSON or label map (.png, .tif), nor a folder '
            "of these; name one"
        )
    return Side(path, tuple(map(_of_map, maps)), path.is_file())


def _of_dataset(dataset: Dataset) -> Iterable[LabelledSlide]:
    classes = dict(enumerate(dataset.class_map.names, start=1))
    for record in dataset.slides():
        mask = dataset.mask_path(record.slide_id)
        yield LabelledSlide(
            NamedSlide(path_of_text(record.path) or PurePath(record.path), (record.slide_id,)),
            mask,
            classes,
            MANIFEST,
            raster=mask,
            size_px=(record.width, record.height),
            mpp=record.mpp,
            grid_mpp=record.mpp * dataset.grid(record).downsample,
            frame=record.frame,
        )


def _of_project(path: Path, slides_roots: Sequence[SlidesRoot], warn: Warn) -> Iterable[LabelledSlide]:
    """The annotated images, with the areas and classes that an import would take."""
    source = read_source(path, None, slides_roots)
    for problem in source.problems:
        warn(f'"{path}": {problem}')
    labelling = labelling_of(source, ImportRules())
    classes = dict(enumerate(labelling.class_map.names, start=1))
    for slide in source.slides:
        size_px, mpp = _size_of(slide)
        yield LabelledSlide(
            slide.named(),
            path,
            classes,
            str(path),
            annotations=with_trained_classes(slide.objects.annotations, labelling.targets),
            plane=slide.plane,
            size_px=size_px,
            mpp=mpp,
            frame=slide.view.frame,
        )


def _size_of(slide: SourceSlide) -> tuple[tuple[int, int] | None, float | None]:
    """Size and um/px of an image: as the project says, else its file, which need not be there."""
    size_px, mpp = slide.view.size_px, slide.view.stated_mpp()
    if None in (size_px, mpp) and slide.problem is None:
        try:
            with slide.view.open() as opened:
                info = opened.info
        except DmmnQpError:
            return size_px, mpp
        return (info.width, info.height), info.mpp
    return size_px, mpp


def _of_predictions(folder: Path, files: Sequence[Path]) -> Iterable[LabelledSlide]:
    recorded, inputs = read_predictions(folder), read_inputs(folder)
    for file in files:
        slide_id = file.name.removesuffix(f".{LABELS_SUFFIX}")
        record = recorded.get(slide_id)
        names, names_from = _predicted_names(file, record)
        known: PredictedInput | None = inputs.get(slide_id)
        path = PurePath(slide_id) if known is None else path_of_text(known.path) or PurePath(known.path)
        size = (known.width, known.height) if known is not None and known.width and known.height else None
        yield LabelledSlide(
            NamedSlide(path, (slide_id,)),
            file,
            dict(enumerate(names, start=1)),
            names_from,
            raster=file,
            size_px=size,
            mpp=None if record is None else record.mpp,
            grid_mpp=read_mpp(file),
            frame=None if known is None else known.frame,
        )


def _predicted_names(file: Path, record: Prediction | None) -> tuple[tuple[str, ...], str]:
    """Names of the classes of a prediction; in full, where its raster had to replace what no XML may hold."""
    told = read_class_names(file)
    in_run = record.class_map.names if record is not None and record.class_map is not None else None
    if in_run is not None and told in (None, names_in_file(in_run)):
        return in_run, RUN_FILE
    if told is None:
        raise DatasetError(f'"{file}" does not tell the names of its classes; predict again with --overwrite')
    return told, "raster"


def _of_geojson(files: Mapping[str, Path], warn: Warn) -> Iterable[LabelledSlide]:
    """Areas with a class in GeoJSON of any tool, whoever made them."""
    drawn: dict[str, tuple[Annotation, ...]] = {}
    for name, file in files.items():
        found = read_geojson(file)
        for line in found.warnings:
            warn(f'"{file}": {line}')
        drawn[name] = tuple(a for a in found.annotations if a.kind != "tma_core")
    names = dict.fromkeys(a.class_name for objects in drawn.values() for a in objects if a.is_area and a.class_name)
    classes = dict(enumerate((name for name in names if not name.endswith(STAR)), start=1))
    for name, objects in drawn.items():
        yield LabelledSlide(
            NamedSlide(PurePath(files[name].name), (name,)),
            files[name],
            classes,
            str(files[name]),
            annotations=objects,
        )


def _of_map(file: Path) -> LabelledSlide:
    """A label map, whose classes stand in itself or in a table beside it."""
    table = file.parent / VALUES_FILE
    with open_raster(file):  # which refuses what is no label map
        pass
    is_ome = is_ome_tiff(file)
    told = read_class_names(file) if is_ome else None
    if told is None and not table.is_file():
        raise DatasetError(
            f'"{file}" does not say which classes its values are; put a {VALUES_FILE} (value,class) beside it'
        )
    classes = read_values(table) if told is None else dict(enumerate(told, start=1))
    name = _BEFORE_ENDING.sub("", file.stem)
    names_from = str(table) if told is None else "raster"
    return LabelledSlide(
        NamedSlide(PurePath(name), (name,)),
        file,
        classes,
        names_from,
        raster=file,
        grid_mpp=read_mpp(file) if is_ome else None,
    )
