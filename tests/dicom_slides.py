"""A whole slide as DICOM that says all that a scanner's does: what OpenSlide reads, and what others refer to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.slide_files import write_dicom

TURNED = (0, -1, 0, -1, 0, 0)
"""Direction cosines of most scanners: columns go up the glass, rows to the left."""


def write_whole_dicom(folder: Path, levels: list[np.ndarray], *, mpp: float = 0.5, **without: None) -> Path:
    """A slide at (10, 40) mm on the glass.

    Args:
        folder: A folder of its own.
        levels: Pixels of each level.
        mpp: um/px of level 0.
        without: Attributes that are left out.
    """
    import pydicom
    from pydicom.dataset import Dataset

    write_dicom(folder, levels, mpp=mpp)
    for path in folder.glob("*.dcm"):
        header = pydicom.dcmread(path)
        origin, measures = Dataset(), header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 10, 40
        measures.SliceThickness = 0.004
        told = {
            "PatientID": "P1", "PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "7",
            "StudyID": "S", "StudyDate": "20260101", "StudyTime": "120000", "FrameOfReferenceUID": "1.2.3.1.300",
            "ImageOrientationSlide": list(TURNED), "TotalPixelMatrixOriginSequence": [origin],
            "TotalPixelMatrixFocalPlanes": 1, "LossyImageCompression": "00",
        }  # fmt: skip
        for name, value in told.items():
            if name not in without:
                setattr(header, name, value)
        header.save_as(path)
    return folder
