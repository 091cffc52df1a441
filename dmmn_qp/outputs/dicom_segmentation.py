"""A label raster as a DICOM segmentation of the slide that it was predicted from; highdicom is an extra.

Each class is a binary segment in tiles, of which those without it are left out. The labels are handed over as a file in
memory's place. highdicom bounds no more than that: the finished object, one bit a pixel of each tile and class that is
there and a few KB about each, is in memory until it is written.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dmmn_qp.errors import SlideError
from dmmn_qp.files import new_file
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.outputs.dicom_codes import DicomCode, codes_of, dicom_text
from dmmn_qp.outputs.levels import TILE
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.regions import Region
from dmmn_qp.slides.files import is_dicom
from dmmn_qp.specs import LabelArray, TissueClass
from dmmn_qp.text import words_of
from dmmn_qp.version import __version__

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"

_KIND: Final = ("SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns")
"""What says whether a file is the image that is looked for; of a folder of many files no more is kept in memory."""

_MAY_BE_EMPTY: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What an object must have, though it may have no value; some scanners leave it out."""

_NEEDED: Final = (
    "StudyInstanceUID", "FrameOfReferenceUID", "ImageOrientationSlide", "TotalPixelMatrixOriginSequence",
    "SharedFunctionalGroupsSequence",
)  # fmt: skip
"""What says where on the slide the image lies."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the raster lies on the glass.

    Attributes:
        spacing_mm: Distance of its (rows, columns).
        origin_mm: The middle of its first pixel, x, y and z in the slide's coordinates.
    """

    spacing_mm: tuple[float, float]
    origin_mm: tuple[float, float, float]


def why_no_segmentation(predicted: PredictedSlide) -> str | None:
    """Why a slide cannot have a DICOM segmentation, in words; None where it can."""
    if not is_dicom(predicted.slide.info.path):
        return "the slide is not DICOM"
    if predicted.frame:
        return "its image is turned, mirrored or cropped in QuPath, and labels lie on that"
    return None


def write_segmentation(path: Path, predicted: PredictedSlide) -> None:
    """Writes the labels as segments of the DICOM image of level 0.

    Args:
        path: The file.
        predicted: A slide that is DICOM.

    Raises:
        SlideError: The slide's header does not say where the image lies, or is damaged.
        DatasetError: The label raster is damaged.
    """
    source = _source_of(predicted)
    with (
        LabelRaster(predicted.labels) as raster,
        tempfile.TemporaryFile(dir=path.parent) as file,
        closing(_Labels(raster, file)) as labels,
        new_file(path) as temporary,
    ):
        _segmentation(source, predicted, labels.array).save_as(temporary)


class _Labels:
    """The labels as an array that lies in a file, filled strip by strip."""

    def __init__(self, raster: LabelRaster, file: Any) -> None:
        rows, columns = raster.shape
        self.array: LabelArray = np.memmap(file, np.uint8, "w+", shape=(rows, columns))
        for y in range(0, rows, TILE):
            height = min(TILE, rows - y)
            self.array[y : y + height] = raster.read(Region(0, y, columns, height))

    def close(self) -> None:
        """Lets go of the file, which Windows cannot remove before."""
        self.array = np.zeros((0, 0), np.uint8)


def _source_of(predicted: PredictedSlide) -> Dataset:
    """The header of the image of level 0: of a slide's series the largest image of the kind.

    Raises:
        SlideError: There is none, or it lacks what says where it lies.
    """
    import pydicom

    path = predicted.slide.info.path
    try:
        series = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_KIND]).get("SeriesInstanceUID")
        columns = {place: _columns(place, series) for place in sorted(path.parent.iterdir()) if is_dicom(place)}
        largest = max(columns, key=columns.__getitem__)
        source = pydicom.dcmread(largest, stop_before_pixels=True) if columns[largest] else None
    except Exception as error:  # of any kind: pydicom checks little of what a damaged file says
        raise SlideError(f'slide "{path}": its DICOM header cannot be read ({words_of(error)})') from error
    lacking = _NEEDED if source is None else [name for name in _NEEDED if not source.get(name)]
    if source is None or lacking:
        raise SlideError(f'slide "{path}": its DICOM header lacks {", ".join(lacking)}, so nothing can refer to it')
    for name in _MAY_BE_EMPTY:
        if name not in source:
            setattr(source, name, "")
    return source


def _columns(place: Path, series: object) -> int:
    """Columns of the image in a file; 0 where it is none of the slide's levels, or cannot be read."""
    import pydicom

    try:
        header = pydicom.dcmread(place, stop_before_pixels=True, specific_tags=[*_KIND])
        is_level = (
            header.get("SOPClassUID") == _WHOLE_SLIDE
            and header.get("SeriesInstanceUID") == series
            and "VOLUME" in (header.get("ImageType") or ())
        )
        return int(header.get("TotalPixelMatrixColumns") or 0) if is_level else 0
    except Exception:  # of any kind: see `_source_of`
        return 0


def _place_of(source: Dataset, predicted: PredictedSlide) -> _Place:
    """Where the raster lies; what is told of a pixel is where its middle is."""
    down_mm, across_mm = map(float, source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing)
    downsample, (x, y) = predicted.downsample, predicted.slide.info.origin_px
    told = source.TotalPixelMatrixOriginSequence[0]
    corner = np.array([float(told.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in ("X", "Y", "Z")])
    along = np.array([float(value) for value in source.ImageOrientationSlide]).reshape(2, 3)
    middle = (downsample - 1) / 2
    moved = corner + along[0] * (x + middle) * across_mm + along[1] * (y + middle) * down_mm
    return _Place((down_mm * downsample, across_mm * downsample), (moved[0], moved[1], moved[2]))


def _segmentation(source: Dataset, predicted: PredictedSlide, labels: LabelArray) -> Any:
    """The finished object."""
    import highdicom
    from highdicom.seg import Segmentation

    place = _place_of(source, predicted)
    is_source_grid = labels.shape == (source.TotalPixelMatrixRows, source.TotalPixelMatrixColumns)
    spatial: dict[str, Any] = {}
    if not is_source_grid or predicted.downsample != 1:
        spatial["pixel_measures"] = highdicom.PixelMeasuresSequence(
            pixel_spacing=place.spacing_mm, slice_thickness=_thickness_mm(source)
        )
        spatial["plane_positions"] = [
            highdicom.PlanePositionSequence(
                highdicom.CoordinateSystemNames.SLIDE,
                image_position=place.origin_mm,
                pixel_matrix_position=(1, 1),
            )
        ]
    return Segmentation(
        source_images=[source],
        pixel_array=labels,
        segmentation_type="BINARY",
        segment_descriptions=[_segment(one, predicted) for one in predicted.class_map.classes],
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="dmmn-qp",
        manufacturer_model_name="dmmn-qp",
        software_versions=__version__,
        device_serial_number="0",
        content_label="TISSUE_CLASSES",
        content_description="predicted classes of tissue",
        series_description=dicom_text(f"dmmn-qp: {predicted.model_name}"),
        tile_pixel_array=True,
        tile_size=(TILE, TILE),
        **spatial,
    )


def _thickness_mm(source: Dataset) -> float:
    """Thickness of the section, which an image must tell; 1 um where the slide does not."""
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return float(measures.get("SliceThickness") or 0.001)


def _segment(one: TissueClass, predicted: PredictedSlide) -> Any:
    """A class as a segment: its name, codes, colour, and what predicted it."""
    import highdicom
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    category, kind = (_coded(code) for code in codes_of(one))
    return SegmentDescription(
        segment_number=one.label,
        segment_label=dicom_text(one.name),
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=dicom_text(predicted.model_name),
            family=_coded(DicomCode("123110", "DCM", "Artificial Intelligence")),
            version=dicom_text(predicted.model_run),
        ),
        display_color=CIELabColor.from_rgb(*one.color),
    )


def _coded(code: DicomCode) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)
