"""A DICOM segmentation says of each pixel what the label raster says, and where on the glass it lies."""

import numpy as np
import pytest

from dmmn_qp.folders.predictions import LABELS_SUFFIX, SEGMENTATION_SUFFIX
from dmmn_qp.outputs.dicom_codes import OWN_SCHEME
from dmmn_qp.outputs.dicom_segmentation import _place_of, why_no_segmentation, write_segmentation
from dmmn_qp.outputs.options import OutputOptions
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.outputs.pyramids import write_label_pyramid
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap
from tests.dicom_slides import write_whole_dicom

highdicom = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CLASSES = ClassMap.from_colors([("tumour", (200, 0, 0)), ("stroma", (150, 200, 150)), ("never there", (9, 9, 9))])


def segmented(tmp_path, labels, downsample=2.0, beside=lambda folder: None):
    """The segmentation of labels on a DICOM slide of 0.5 um/px, read back; ``beside`` writes into its folder."""
    shape = (round(labels.shape[0] * downsample), round(labels.shape[1] * downsample), 3)
    folder = write_whole_dicom(tmp_path / "scan", [np.full(shape, 200, np.uint8), np.full((64, 64, 3), 200, np.uint8)])
    beside(folder)
    raster = tmp_path / f"scan.{LABELS_SUFFIX}"
    write_label_pyramid(raster, [labels], labels.shape, 0.5 * downsample, CLASSES)
    with open_slide(folder / "1-0.dcm") as slide:
        predicted = PredictedSlide(
            slide, "scan", "f", raster, downsample, CLASSES, "the model", "training", "run", OutputOptions()
        )
        assert why_no_segmentation(predicted) is None
        write_segmentation(tmp_path / f"scan.{SEGMENTATION_SUFFIX}", predicted)
    return highdicom.seg.segread(tmp_path / f"scan.{SEGMENTATION_SUFFIX}")


@pytest.fixture
def labels():
    """700 x 1100 px of 0, 1 and 2, in tiles of which some are empty."""
    blocks = np.random.default_rng(0).integers(0, 3, (7, 11)).astype(np.uint8)
    found = np.repeat(np.repeat(blocks, 100, 0), 100, 1)
    found[:512, :512] = 0
    return found


@pytest.mark.parametrize("downsample", [1.0, 2.0])
def test_each_pixel_is_that_of_the_label_raster(tmp_path, labels, downsample):
    found = segmented(tmp_path, labels, downsample)
    read = found.get_total_pixel_matrix(combine_segments=True)
    assert read.shape == labels.shape and (read == labels).all()
    for label in (1, 2, 3):
        alone = found.get_total_pixel_matrix(segment_numbers=[label])[..., 0]
        assert (alone == (labels == label)).all()


def test_segments_have_names_codes_and_colours(tmp_path, labels):
    found = segmented(tmp_path, labels)
    told = [
        (one.segment_label, one.segmented_property_type.scheme_designator)
        for one in map(found.get_segment_description, (1, 2, 3))
    ]
    assert told == [("tumour", "SCT"), ("stroma", OWN_SCHEME), ("never there", OWN_SCHEME)]
    first = found.get_segment_description(1)
    assert first.segmented_property_type.value == "108369006" and first.algorithm_type.value == "AUTOMATIC"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "the model"
    from highdicom.color import CIELabColor

    assert [*first.RecommendedDisplayCIELabValue] == [*CIELabColor.from_rgb(200, 0, 0).value]


def test_it_refers_to_the_image_of_level_0(tmp_path, labels):
    found = segmented(tmp_path, labels)
    series = found.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3.1.200"
    assert [r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence] == ["1.2.3.1.1"]
    assert (found.StudyInstanceUID, found.FrameOfReferenceUID) == ("1.2.3.1.100", "1.2.3.1.300")
    assert (found.PatientID, found.Modality) == ("P1", "SEG")


def test_files_beside_the_slide_cost_it_nothing(tmp_path, labels):
    """What is no DICOM, what is cut off, and a larger slide of another series."""

    def beside(folder):
        other = pydicom.dcmread(folder / "1-0.dcm")
        other.SeriesInstanceUID, other.SOPInstanceUID, other.TotalPixelMatrixColumns = "1.9", "1.9.1", 99_999
        other.save_as(folder / "8.dcm")
        (folder / "9.dcm").write_bytes((folder / "1-0.dcm").read_bytes()[:300])
        (folder / "99.dcm").write_bytes(b"no")

    found = segmented(tmp_path, labels, beside=beside)
    (one,) = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert one.ReferencedSOPInstanceUID == "1.2.3.1.1"


def test_directions_and_distances_of_rows_and_columns_by_hand(tmp_path):
    """Columns go up the glass by 1 um, rows to the left by 3; a pixel stands for 3 x 3: its middle is 1 further."""
    folder = write_whole_dicom(tmp_path / "scan", [np.full((64, 64, 3), 200, np.uint8)])
    source = pydicom.dcmread(folder / "1-0.dcm")
    source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.003, 0.001]
    with open_slide(folder) as slide:
        predicted = PredictedSlide(slide, "s", "f", tmp_path / "l", 3.0, CLASSES, "m", "t", "r")
        place = _place_of(source, predicted)
    assert place.spacing_mm == pytest.approx((0.009, 0.003))
    assert place.origin_mm == pytest.approx((10 - 0.003, 40 - 0.001, 0))


def test_it_lies_where_the_slide_lies(tmp_path, labels):
    """A pixel of the raster stands for 2 x 2 of the slide, so its middle lies half a pixel of the slide further."""
    found = segmented(tmp_path, labels)
    origin, measures = (
        found.TotalPixelMatrixOriginSequence[0],
        found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0],
    )
    assert [float(v) for v in measures.PixelSpacing] == pytest.approx([0.001, 0.001])
    assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx(10 - 0.00025)
    assert float(origin.YOffsetInSlideCoordinateSystem) == pytest.approx(40 - 0.00025)
    assert (found.TotalPixelMatrixRows, found.TotalPixelMatrixColumns) == labels.shape
    first = found.PerFrameFunctionalGroupsSequence[0].PlanePositionSlideSequence[0]
    column, row = first.ColumnPositionInTotalImagePixelMatrix - 1, first.RowPositionInTotalImagePixelMatrix - 1
    assert float(first.YOffsetInSlideCoordinateSystem) == pytest.approx(40 - 0.00025 - column * 0.001)
    assert float(first.XOffsetInSlideCoordinateSystem) == pytest.approx(10 - 0.00025 - row * 0.001)
