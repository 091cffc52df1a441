"""The overview picture of a prediction: its legend has the colours of its areas, and it may be missing."""

import numpy as np
import pytest
from PIL import Image

from dmmn_qp.console import Reporter
from dmmn_qp.folders.predictions import OVERVIEW_SUFFIX
from dmmn_qp.outputs.options import OutputOptions
from dmmn_qp.outputs.overview import _area_colors
from dmmn_qp.outputs.writers import WRITERS, write_files
from dmmn_qp.specs import ClassMap
from tests.conftest import REPOSITORY
from tests.predicting import writing
from tests.writer_contract import predicted_slide

CLASSES = ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 0, 255)), ("nowhere", (0, 0, 0))])


def test_colours_of_areas_by_hand():
    """2 x 2 labels over 4 x 2 px of a slide whose right half is dark; the lower labels lie beyond it."""
    picture = np.full((2, 4, 3), 200, np.uint8)
    picture[:, 2:] = 100
    seen = _area_colors(picture, np.array([[1, 2], [1, 1]], np.uint8), (40, 20), (40, 40), CLASSES)
    part = 115 / 255
    assert seen[1] == pytest.approx([part * 255 + (1 - part) * 500 / 3, *[(1 - part) * 500 / 3] * 2], abs=1.5)
    assert seen[2] == pytest.approx([(1 - part) * 100, (1 - part) * 100, part * 255 + (1 - part) * 100], abs=1)
    assert seen[3] == pytest.approx([(1 - part) * 255] * 3, abs=1)


def test_each_area_has_its_swatch(tmp_path):
    """On a slide of one grey the areas of a class have one colour; its swatch is filled with it."""
    predicted = predicted_slide(tmp_path, OVERVIEW_SUFFIX)
    with predicted.slide:
        WRITERS[OVERVIEW_SUFFIX].write(tmp_path / "o.png", predicted)
    pixels = np.asarray(Image.open(tmp_path / "o.png").convert("RGB"))
    legend = pixels[-60:].reshape(-1, 3).astype(int)
    for c in predicted.class_map.classes:
        area = [115 / 255 * v + 140 / 255 * 200 for v in c.color]
        for expected in (area, c.color):
            assert np.abs(legend - expected).sum(axis=1).min() < 12, c.name


def test_picture_of_the_documentation_has_all_colours():
    """Stored with a palette of its own, it had one green for two classes."""
    pixels = np.asarray(Image.open(REPOSITORY / "docs" / "overview.png").convert("RGB"))
    legend = pixels[-45:].reshape(-1, 3).astype(int)
    for color in [(255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 160, 0), (128, 128, 128), (255, 165, 0)]:
        assert np.abs(legend - color).sum(axis=1).min() < 70, color


def test_a_picture_that_cannot_be_drawn_is_left_out(tmp_path, monkeypatch, capsys):
    def broken(path, predicted):
        raise ValueError("cannot reshape")

    monkeypatch.setitem(WRITERS, OVERVIEW_SUFFIX, writing(OVERVIEW_SUFFIX, broken))
    predicted = predicted_slide(tmp_path, OVERVIEW_SUFFIX, OutputOptions())
    (tmp_path / "out").mkdir()
    with predicted.slide:
        write_files(tmp_path / "out", predicted, Reporter(), recorded=False)
    assert capsys.readouterr().err == (
        'warning: "s.overview.png" is left out, all else goes on (ValueError: cannot reshape)\n'
    )
    assert any(path.name.startswith("s.geojson") for path in (tmp_path / "out").iterdir())
    assert not (tmp_path / "out" / "s.overview.png").exists()
