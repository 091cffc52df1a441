"""Files that are written for each predicted slide. `WRITERS` names them; all take the same `PredictedSlide`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.failures import install_command
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import (
    LABELS_SUFFIX,
    LABELS_ZARR_SUFFIX,
    OVERVIEW_SUFFIX,
    POLYGONS_SUFFIXES,
    PROBABILITIES_SUFFIX,
    PROBABILITIES_ZARR_SUFFIX,
    SEGMENTATION_SUFFIX,
    TISSUE_SUFFIX,
    UNCERTAINTY_SUFFIX,
    UNCERTAINTY_ZARR_SUFFIX,
)
from dmmn_qp.outputs.dicom_segmentation import why_no_segmentation, write_segmentation
from dmmn_qp.outputs.objects import Frame, outline_features
from dmmn_qp.outputs.options import OutputOptions, PolygonOptions
from dmmn_qp.outputs.overview import write_overview
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.outputs.rasters import write_labels, write_probabilities, write_tissue, write_uncertainty
from dmmn_qp.outputs.zarr_rasters import is_there as zarr_is_there
from dmmn_qp.outputs.zarr_rasters import write_labels_zarr, write_probabilities_zarr, write_uncertainty_zarr
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY, RUN_KEY


@dataclass(frozen=True, slots=True)
class Writer:
    """One kind of file that is written for each predicted slide.

    Attributes:
        about: What ``README.txt`` says of it: what it is, and how to open it.
        write: Writes the file at a path for a slide.
        wanted: Whether the options ask for it.
        recorded: Whether ``run.json`` has its digest, so that it is made again where it is lost or another. Such files
            are written before the others, from ``PredictedSlide.pixels``.
        optional: Whether it only shows what other files say: where it cannot be written, it is left out with a warning.
        derived: Whether it is made of the rasters that are there as well, so that a finished prediction gets it when it
            is asked for, without being predicted again.
        is_there: Whether a file or folder is what the options ask for.
        why_not: Why a slide cannot have it, in words; None where it can.
        extra: (module, extra of the package) without which it cannot be written; None where it always can.
    """

    about: str
    write: Callable[[Path, PredictedSlide], None]
    wanted: Callable[[OutputOptions], bool] = lambda options: True
    recorded: bool = False
    optional: bool = False
    derived: bool = False
    is_there: Callable[[Path, OutputOptions], bool] = lambda path, options: path.exists()
    why_not: Callable[[PredictedSlide], str | None] = lambda predicted: None
    extra: tuple[str, str] | None = None


def write_polygons(path: Path, predicted: PredictedSlide) -> None:
    """Writes the polygons of the label raster, compressed where the file's name ends in ``.gz``."""
    info = predicted.slide.info
    with LabelRaster(predicted.labels) as labels:
        objects = outline_features(
            labels,
            Frame(info.width, info.height, info.mpp, predicted.downsample),
            predicted.class_map,
            predicted.options,
            identity=f"{predicted.fingerprint}/{predicted.model_run}",
            metadata={
                METADATA_KEY: predicted.model_name,
                MODEL_RUN_KEY: predicted.model_run,
                RUN_KEY: predicted.run_id,
            },
            confidence=predicted.confidence,
            made=predicted.made,
        )
        write_geojson(path, objects)


def _zarr(about: str, write: Callable[[Path, PredictedSlide], None], wanted: Callable[[OutputOptions], bool]) -> Writer:
    """A raster as OME-Zarr."""
    return Writer(
        about,
        write,
        wanted=lambda options: options.labels != "tiff" and wanted(options),
        derived=True,
        is_there=lambda path, options: zarr_is_there(path, options.labels),
        extra=("zarr", "zarr"),
    )


_PLAIN, _PACKED = (suffix.removeprefix(".") for suffix in POLYGONS_SUFFIXES)

WRITERS: dict[str, Writer] = {
    _PLAIN: Writer(
        "The classes as annotations. Open the slide in QuPath and drag the file onto it, or run "
        "import_predictions.groovy (dmmn-qp scripts install) for all images of a project. Regions smaller than "
        f"--min-area-um2 ({PolygonOptions().min_area_um2:g} um2 unless told otherwise) are part of a neighbour here; "
        f"{RUN_FILE} says how many, the metadata dmmn_qp_min_area_um2 of each annotation which size it was.",
        write_polygons,
        wanted=lambda options: not options.gzip,
    ),
    _PACKED: Writer(
        "The same, compressed; QuPath opens it in the same way.", write_polygons, wanted=lambda options: options.gzip
    ),
    LABELS_SUFFIX: Writer(
        "The class of every pixel, small regions included, as the number in the list above: a pyramid with um/px and "
        "a colour map. QuPath "
        "opens it by drag and drop like a slide and shows the numbers as grey values; set the maximum in Brightness & "
        f'contrast to the highest number. In Python: tifffile.imread("<slide>.{LABELS_SUFFIX}"), or rasterio for parts '
        "of it.",
        write_labels,
        recorded=True,
    ),
    PROBABILITIES_SUFFIX: Writer(
        "The probability of every class, one channel each, 0 for 0 and 255 for 1. QuPath opens it by drag and drop "
        "like a slide (image type Fluorescence) and shows each channel in its class's colour; tifffile reads it as "
        "(channel, row, column).",
        write_probabilities,
        wanted=lambda options: options.probabilities,
        recorded=True,
    ),
    UNCERTAINTY_SUFFIX: Writer(
        "How undecided the model was at every pixel: the entropy of the probabilities, 0 for certain and 255 for all "
        "classes being equally likely. It opens like the others.",
        write_uncertainty,
        wanted=lambda options: options.uncertainty,
        recorded=True,
    ),
    LABELS_ZARR_SUFFIX: _zarr(
        "The class of every pixel as OME-Zarr: the same labels as in the OME-TIFF, a label image with the names and "
        "colours of the classes and um/px. Drag the folder into napari (napari-ome-zarr); in Python: "
        f'zarr.open("<slide>.{LABELS_ZARR_SUFFIX}")["0"].',
        write_labels_zarr,
        lambda options: True,
    ),
    PROBABILITIES_ZARR_SUFFIX: _zarr(
        "The probability of every class as OME-Zarr, one channel each, 255 for 1.",
        write_probabilities_zarr,
        lambda options: options.probabilities,
    ),
    UNCERTAINTY_ZARR_SUFFIX: _zarr(
        "How undecided the model was at every pixel as OME-Zarr, 255 for all classes being equally likely.",
        write_uncertainty_zarr,
        lambda options: options.uncertainty,
    ),
    SEGMENTATION_SUFFIX: Writer(
        "A DICOM segmentation that refers to the slide's own DICOM images: a segment for each class, with its code and "
        "colour. Viewers and archives that know DICOM open it beside the slide; in Python: highdicom.seg.segread.",
        write_segmentation,
        wanted=lambda options: options.dicom_seg,
        optional=True,
        derived=True,
        why_not=why_no_segmentation,
        extra=("highdicom", "dicom"),
    ),
    TISSUE_SUFFIX: Writer(
        "The outline of the tissue, where it was sought; QuPath opens it like the polygons.",
        write_tissue,
        wanted=lambda options: options.tissue_outline,
        recorded=True,
    ),
    OVERVIEW_SUFFIX: Writer(
        "A small picture of the slide and of the classes over it, with legend and scale bar.",
        write_overview,
        optional=True,
    ),
}
"""What follows ``<slide>.`` in the file's name, in lower case -> its writer, in the order of ``README.txt``."""


def write_files(folder: Path, predicted: PredictedSlide, reporter: Reporter, *, recorded: bool) -> None:
    """Writes the files of a slide that its options ask for.

    Args:
        folder: Where to write.
        predicted: The slide.
        reporter: Where to warn of files that are left out.
        recorded: Whether those are written of which ``run.json`` has a digest, or the others.
    """
    for suffix, writer in WRITERS.items():
        if writer.recorded == recorded and writer.wanted(predicted.options):
            _write_file(folder, suffix, predicted, reporter)


def write_derived(folder: Path, suffixes: Iterable[str], predicted: PredictedSlide, reporter: Reporter) -> None:
    """Writes files of a slide that are made of rasters which are there.

    Args:
        folder: Where to write.
        suffixes: What follows ``<slide>.`` in their names.
        predicted: The slide.
        reporter: Where to warn of files that are left out.
    """
    for suffix in suffixes:
        _write_file(folder, suffix, predicted, reporter)


def _write_file(folder: Path, suffix: str, predicted: PredictedSlide, reporter: Reporter) -> None:
    """Writes one file of a slide, or says why the slide has none."""
    writer, path = WRITERS[suffix], folder / f"{predicted.slide_id}.{suffix}"
    with reporter.optional(f'"{path.name}"') if writer.optional else nullcontext():
        if why := writer.why_not(predicted):
            reporter.warn_of(predicted.slide_id, f"it gets no .{suffix} ({why})")
        else:
            writer.write(path, predicted)


def missing_derived(folder: Path, slide_id: str, options: OutputOptions) -> tuple[str, ...]:
    """What follows ``<slide>.`` in the names of files that a finished prediction lacks and can be given."""
    return tuple(
        suffix
        for suffix, writer in WRITERS.items()
        if writer.derived and writer.wanted(options) and not writer.is_there(folder / f"{slide_id}.{suffix}", options)
    )


def check_extras(options: OutputOptions) -> None:
    """Refuses options that need a package which is not installed, before any work.

    Raises:
        ConfigError: They do.
    """
    for suffix, writer in WRITERS.items():
        if writer.wanted(options) and writer.extra is not None and find_spec(writer.extra[0]) is None:
            module, extra = writer.extra
            raise ConfigError(
                f"<slide>.{suffix} is written with {module}, which is not installed; {install_command(extra)}"
            )


def write_polygons_alone(folder: Path, predicted: PredictedSlide) -> None:
    """Writes the polygons of a slide, in the form that its options ask for."""
    suffix = next(suffix for suffix in (_PLAIN, _PACKED) if WRITERS[suffix].wanted(predicted.options))
    WRITERS[suffix].write(folder / f"{predicted.slide_id}.{suffix}", predicted)


def recorded_suffixes(options: OutputOptions | None = None) -> tuple[str, ...]:
    """Suffixes of the files of which ``run.json`` has a digest; only those that the options ask for, if given."""
    return tuple(
        suffix for suffix, writer in WRITERS.items() if writer.recorded and (options is None or writer.wanted(options))
    )


def is_output(name: str) -> bool:
    """Whether a file has the name of one that is written for a slide; beside slides it is taken for none."""
    return name.lower().endswith(tuple(f".{suffix}" for suffix in WRITERS))
