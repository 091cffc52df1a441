"""Every writer keeps the contract, and one that is new needs its entry alone."""

import json

import numpy as np
import pytest

from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import ModelCard, NetworkOptions, save_model
from dmmn_qp.outputs.options import OutputOptions
from dmmn_qp.outputs.writers import WRITERS, Writer, recorded_suffixes
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.specs import PatchSpec
from tests.conftest import invoke, write_tiff
from tests.writer_contract import CLASSES, CONTRACT


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("suffix", WRITERS)
def test_contract(suffix, check, tmp_path):
    check(suffix, tmp_path)


def write_counts(path, predicted):
    with LabelRaster(predicted.labels) as labels:
        path.write_text(json.dumps({"rows": labels.shape[0]}))


@pytest.mark.parametrize(
    ("suffix", "about", "write", "broken"),
    [
        ("counts.json", "Number of rows.", write_counts, set()),
        ("counts.JSON", "Number of rows.", write_counts, {"has_a_name_of_its_own"}),
        ("tif", "Number of rows.", write_counts, {"has_a_name_of_its_own"}),
        ("counts.geojson", "Number of rows.", write_counts, {"is_not_taken_for_polygons"}),
        ("counts.json", "", write_counts, {"says_what_it_is"}),
        (
            "counts.json", "Number of rows.", lambda path, predicted: None,
            {"writes_its_file_and_nothing_else", "is_written_when_it_is_wanted"},
        ),
    ],
)  # fmt: skip
def test_a_careless_one_is_found(suffix, about, write, broken, tmp_path, monkeypatch):
    monkeypatch.setitem(WRITERS, suffix, Writer(about, write))
    found = set()
    for check in CONTRACT:
        folder = tmp_path / check.__name__
        folder.mkdir()
        try:
            check(suffix, folder)
        except (AssertionError, OSError):
            found.add(check.__name__)
    assert found == broken


@pytest.fixture
def place(here):
    """A model, and two slides that it can predict."""
    network = NetworkOptions(architecture="unet", width=1)
    card = ModelCard(
        name="m", network=network, class_map=CLASSES, patch_spec=PatchSpec(size_px=64, mpps=(0.5,)), created="now"
    )
    for folder in ("m", "slides"):
        (here / folder).mkdir()
    save_model(here / "m", card, card.build())
    for name in ("s", "t"):
        write_tiff(here / "slides" / f"{name}.tif", np.full((40, 80, 3), 200, np.uint8))
    return here


def test_a_new_writer_needs_its_entry_alone(place, monkeypatch):
    """Its file is there, README.txt names it, it is no slide, and it goes when it is not wanted any more."""
    command = ("predict", "slides/s.tif", "--model", "m", "--mpp", 0.5, "--device", "cpu")
    options = ("--out", "slides", "--overwrite")
    wanted = [True]
    picture = Writer("Rows of the raster as a picture.", write_counts, wanted=lambda options: wanted[0])
    monkeypatch.setitem(WRITERS, "rows.png", picture)
    result = invoke(*command, *options)
    assert result.exit_code == 0, result.output
    assert json.loads((place / "slides/s.rows.png").read_text()) == {"rows": 40}
    assert "<slide>.rows.png\n    Rows of the raster as a picture.\n" in (place / "slides/README.txt").read_text()
    for name in ("slides", "slides/*"):
        assert [slide.slide_id for slide in slides_to_predict([name], place / "none")] == ["s", "t"]
    wanted[0] = False
    assert invoke(*command, *options).exit_code == 0
    assert not (place / "slides/s.rows.png").exists()
    assert "rows.png" not in (place / "slides/README.txt").read_text()


def test_a_recorded_file_that_is_lost_is_written_again(place, monkeypatch):
    command = ("predict", "slides/s.tif", "--model", "m", "--mpp", 0.5, "--device", "cpu", "--out", "p")
    monkeypatch.setitem(WRITERS, "rows.json", Writer("Rows of the raster.", write_counts, recorded=True))
    assert invoke(*command).exit_code == 0
    assert "rows.json" in json.loads((place / "p/run.json").read_text())["predictions"]["s"]["files"]
    before = (place / "p/s.rows.json").read_bytes()
    (place / "p/s.rows.json").unlink()
    assert "s.rows.json is missing or was changed" in invoke(*command).output
    assert (place / "p/s.rows.json").read_bytes() == before


def test_recorded_are_the_rasters_and_the_outline():
    rasters = ("labels.ome.tif", "probabilities.ome.tif", "uncertainty.ome.tif", "tissue.geojson")
    assert recorded_suffixes() == rasters
    assert recorded_suffixes(OutputOptions(uncertainty=True)) == (rasters[0], rasters[2])
