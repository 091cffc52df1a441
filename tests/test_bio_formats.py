"""Our OME-TIFF as Bio-Formats sees it, which is what QuPath shows."""

import numpy as np
import pytest

from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.specs import ClassMap
from tests import bio_formats

pytestmark = pytest.mark.engine

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
SHAPE = (2100, 2050)
NAMES = ("Tumör", "癌", "a & <b>", "two\nlines", "5 µm", "f")
COLORS = tuple((40 * i, 255, 7) for i in range(6))


@pytest.fixture
def seen():
    """Tells what Bio-Formats sees in a file."""
    found = bio_formats.find()
    if found is None:
        pytest.skip("Java or the jar of Bio-Formats is missing: python -m tests.bio_formats fetches it")
    return lambda path: bio_formats.look(*found, path)


def test_channels_have_levels_names_and_colours(seen, tmp_path):
    path = tmp_path / "a.probabilities.ome.tif"
    write_probability_pyramid(path, [np.zeros((6, *SHAPE), np.uint8)], SHAPE, 0.5, NAMES, COLORS, description="0 .. µ")
    image = seen(path)
    assert (image.kind, image.series, image.widths) == ("OME-TIFF", 1, [2050, 1025, 513])
    channels = [(c.get("Name"), int(c.get("Color")) & 0xFFFFFFFF) for c in image.xml.iter(f"{OME}Channel")]
    expected = [(r << 24) | (g << 16) | (b << 8) | 255 for r, g, b in COLORS]
    assert channels == list(zip([*NAMES[:3], "two lines", *NAMES[4:]], expected, strict=True))
    (pixels,) = image.xml.iter(f"{OME}Pixels")
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit")) == ("0.5", "µm")


def test_labels_have_levels_and_a_pixel_size(seen, tmp_path):
    path = tmp_path / "a.labels.ome.tif"
    write_label_pyramid(path, [np.zeros(SHAPE, np.uint8)], SHAPE, 0.25, ClassMap.from_colors([("Tumör", (255, 0, 0))]))
    image = seen(path)
    assert (image.kind, image.series, image.widths) == ("OME-TIFF", 1, [2050, 1025, 513])
    (pixels,) = image.xml.iter(f"{OME}Pixels")
    assert (pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeYUnit")) == ("0.25", "µm")
