"""`dmmn-qp suggest` predicts what is missing, and leaves the user's predictions alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_card
from dmmn_qp.folders.predictions import is_by, read_inputs, read_predictions
from tests.conftest import fails, invoke, two_tissues, write_tiff


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(workspace: Path, tmp_path_factory: pytest.TempPathFactory):
    """A folder with a slide that nobody has annotated, and how to suggest on it."""
    folder = tmp_path_factory.mktemp("suggest")
    write_tiff(folder / "new.tif", two_tissues(seed=9))
    (model,) = (path.parent for path in (workspace / "models").glob("*/model.json"))

    def run(*slides: object, predictions: Path = workspace / "predictions", out: Path = folder / "suggestions"):
        return invoke(
            *("suggest", *slides, "--predictions", predictions, "--dataset", workspace / "dataset"),
            *("--model", model, "--out", out, "--window-um", "64", "--regions", "3"),
        )

    before = contents(workspace / "predictions")
    first = run(folder / "new.tif")
    assert first.exit_code == 0, first.output
    assert contents(workspace / "predictions") == before
    return folder, model, run, first


def test_what_is_missing_is_predicted_once(made):
    folder, model, run, first = made
    assert "predicted first, with uncertainty: new\n" in first.output
    record = read_predictions(folder / "suggestions" / "predicted")["new"]
    assert record.request is not None and record.request["tissue_only"] and record.request["uncertainty"]
    assert is_by(record, load_card(model).weights_sha256) and not is_by(record, "0" * 64)
    table = (folder / "suggestions" / "suggestions.csv").read_bytes()
    assert [row.split(b",")[1] for row in table.splitlines()[1:]] == [b"new"] * 3
    again = run(folder / "new.tif")
    assert again.exit_code == 0 and "predicted first" not in again.output
    assert (folder / "suggestions" / "suggestions.csv").read_bytes() == table


def test_what_another_model_predicted_is_predicted_again(made):
    folder, _, run, _ = made
    path = folder / "suggestions" / "predicted" / "run.json"
    told = json.loads(path.read_text())
    told["predictions"]["new"]["weights"] = "0" * 32
    path.write_text(json.dumps(told))
    again = run(folder / "new.tif")
    assert again.exit_code == 0 and "predicted first, with uncertainty: new\n" in again.output
    assert read_predictions(folder / "suggestions" / "predicted")["new"].weights != "0" * 32


def test_another_file_of_the_same_name_is_another_slide(made, tmp_path, workspace):
    folder, _, run, _ = made
    other = write_tiff(tmp_path / "new.tif", two_tissues(seed=10))
    again = run(other)
    assert again.exit_code == 0 and "predicted first, with uncertainty: new\n" in again.output
    assert read_inputs(folder / "suggestions")["new"].path == str(other)
    users = run(folder / "new.tif", predictions=folder / "suggestions" / "predicted", out=folder / "third")
    assert users.exit_code == 0 and "new is left out" in users.output and "another file of that name" in users.output
    assert not (folder / "third" / "predicted").exists()


def test_slides_for_validation_are_not_even_predicted(made, workspace):
    folder, model, _, _ = made
    (held,) = (record.slide_id for record in Dataset(workspace / "dataset").slides("val"))
    line = fails(
        *("suggest", held, "--predictions", workspace / "predictions", "--dataset", workspace / "dataset"),
        *("--model", model, "--out", folder / "other"),
    )
    assert "must hold slides for training with <slide>.uncertainty.ome.tif" in line
    assert not (folder / "other").exists()


def test_without_model_and_uncertainty_it_says_what_to_do(here, workspace):
    assert "train one with dmmn-qp train" in fails("suggest", "--dataset", workspace / "dataset")
