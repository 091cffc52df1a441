"""`dmmn-qp evaluate` with several models, slides and groups of them, on rasters of a few pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import dmmn_qp
from dmmn_qp.evaluating import counting
from dmmn_qp.folders.evaluation import NOT_PREDICTED, Evaluation, read_evaluation, write_evaluation
from dmmn_qp.folders.predictions import PROBABILITIES_SUFFIX
from dmmn_qp.importing.prepared import MOST_CHARACTERS, MOST_KEYS, _kept
from dmmn_qp.outputs.pyramids import write_probability_pyramid
from dmmn_qp.slides.scanner import scanner_of
from dmmn_qp.workflows import evaluating
from tests.conftest import CMU_1, DEMO, fails, invoke, rectangle, write_features
from tests.slide_files import write_dicom
from tests.test_evaluation import (
    FOUND,
    MEANS,
    NAMES,
    TRUE,
    figures,
    means,
    write_dataset,
    write_predictions,
    write_truth,
)

WORSE = np.array([["b", "b", "b"], ["b", "b", "a"], ["c", "c", "a"]])
"""Of 8 labelled pixels 4 are right."""


def model(name, weights):
    return {"model": name, "model_run": f"run-{weights}", "weights": weights}


def change_slides(changes):
    """Gives slides of the dataset other facts, by name."""
    path = Path("dataset", "dataset.json")
    manifest = json.loads(path.read_text())
    for slide in manifest["slides"]:
        slide.update(changes.get(slide["slide_id"], {}))
    path.write_text(json.dumps(manifest))


@pytest.fixture
def two_models(here):
    """Four slides of two cases, and two models' predictions of them in p1 and p2; the first is better on each."""
    slides = ("s", "t", "u", "v")
    write_dataset(dict.fromkeys(slides, TRUE), NAMES)
    change_slides({
        "s": {"case": "x", "metadata": {"stain": "HE"}}, "t": {"case": "x", "metadata": {"stain": "HE"}},
        "u": {"case": "y", "metadata": {"stain": "IHC"}}, "v": {"case": "z"},
    })  # fmt: skip
    for folder, name, found in (("p1", "better", FOUND), ("p2", "worse", WORSE)):
        of_model = dict.fromkeys(slides, model(name, f"w-{name}"))
        write_predictions(dict.fromkeys(slides, found), NAMES, models=of_model, folder=folder)
    return "--predictions", "p1", "--predictions", "p2"


def test_two_models_are_compared_on_the_same_pixels(two_models):
    found, result = figures(*two_models)
    assert [*found["models"]] == ["better", "worse"] and found["annotated"] == found["models"]["better"]["annotated"]
    assert means(found["models"]["better"]["annotated"]) == pytest.approx(MEANS, abs=1e-6)
    assert found["models"]["worse"]["annotated"]["accuracy"] == 0.5
    assert {m["annotated"]["pixels"] for m in found["models"].values()} == {32}
    by_figure = {(c["figure"], c["class"]): c for c in found["comparisons"]}
    accuracy = by_figure["accuracy", None]
    assert (accuracy["difference"], accuracy["interval"], accuracy["cases"]) == (0.25, [0.25, 0.25], 3)
    assert accuracy["p_value"] == 2 / 2**3  # all cases say the same, or all the opposite
    assert {name for figure, name in by_figure if figure == "iou"} == set(NAMES)
    assert "models on the same 32 px" in result.stdout and "(no less is possible with so few)" in " ".join(
        result.stdout.split()
    )
    tables = [line for line in result.stdout.splitlines() if not line.startswith(("Wrote ", "  evaluation.html"))]
    assert max(map(len, tables)) <= 80


def test_what_one_model_did_not_predict_is_left_out_for_all(two_models):
    holes = np.array([["", "b", "b"], ["b", "b", "a"], ["c", "c", ""]])  # two that the other has: one right, one wrong
    write_predictions({"s": holes}, NAMES, models={"s": model("worse", "w-worse")}, folder="p2")
    found, _ = figures(*two_models, "--slides", "s", "--skip-unpredicted")
    better, worse = (found["models"][name]["annotated"] for name in ("better", "worse"))
    assert better["pixels"] == worse["pixels"] == 6
    assert better["accuracy"] == pytest.approx(5 / 6, abs=1e-6) and worse["accuracy"] == pytest.approx(4 / 6, abs=1e-6)
    assert (better["unpredicted_pixels"], worse["unpredicted_pixels"]) == (0, 2)
    found, result = figures(*two_models, "--slides", "s")
    assert "a single slide, so no test" in " ".join(result.stdout.split())
    better, worse = (found["models"][name]["annotated"] for name in ("better", "worse"))
    assert better["pixels"] == worse["pixels"] == 8 and worse["confusion"]["columns"][-1] == NOT_PREDICTED


def test_models_of_one_name_are_told_apart_and_warnings_say_whose_they_are(two_models):
    write_predictions({"s": np.where(WORSE == "c", "d", WORSE)}, ("a", "b", "d"), folder="p2",
                      models={"s": model("better", "w-2")})  # fmt: skip
    found, _ = figures(*two_models, "--slides", "s")
    assert [*found["models"]] == ["better (p1)", "better (p2)"]
    assert found["warnings"] and all(line.startswith("better (p2): ") for line in found["warnings"])
    assert [*figures("--predictions", "p1", "--predictions", "p1")[0]["models"]] == ["better (p1)", "better (p1) 2"]


def test_figures_of_slides_groups_and_intervals(two_models):
    write_predictions({"v": WORSE}, NAMES, models={"v": model("better", "w-better")}, folder="p1")
    found, result = figures("--predictions", "p1", "--by", "stain")
    of = found["annotated"]
    assert [of["by_slide"][s]["accuracy"] for s in "stuv"] == [0.75, 0.75, 0.75, 0.5]
    groups = {group["value"]: (group["slides"], group["accuracy"]) for group in of["subgroups"]}
    assert groups == {"HE": (["s", "t"], 0.75), "IHC": (["u"], 0.75), "": (["v"], 0.5)}
    assert "(not known) (1 slide)" in result.stdout and "over 3 cases" in result.stdout
    low, high = of["intervals"]["accuracy"]
    assert low == 0.5 and high == 0.75  # v is drawn each time, or never
    assert "intervals" not in of["by_slide"]["s"]
    assert "intervals" not in figures("--predictions", "p1", "--resamples", "0")[0]["annotated"]
    assert figures("--predictions", "p1", "--by", "stain")[0] == found  # a fixed seed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slides", "w"], '--slides "w" is no slide for test'),
        (["--slides", "S"], 'did you mean "s"?'),
        (["--slides", "v"], "but for train; pass --split train"),
        (["--by", "stian"], "no slide has this key; they have stain"),
        (["--roi-class", "Region*"], "no area of a class"),
        (["--roi", "none"], '--roi "none" does not exist; check the path'),
        (["--roi", "p1"], "no areas of slide"),
        (["--predictions", "none"], 'folder of predictions "none" does not exist'),
        (["--predictions", "dataset/dataset.json"], 'folder of predictions "dataset/dataset.json" is no folder'),
        (["--confidence", "2"], "--confidence should be less than 1"),
    ],
)
def test_what_is_not_there(two_models, options, said):
    change_slides({"v": {"split": "train"}})
    for slide in "stu":
        write_features(Path("dataset", "annotations", f"{slide}.geojson"), [rectangle(0, 0, 1, 1, "a")])
    assert said in fails("evaluate", "--predictions", "p1", *options)


def test_slides_by_pattern(two_models):
    assert figures("--predictions", "p1", "--slides", "[st]", "--slides", "v")[0]["slides"] == ["s", "t", "v"]


def test_only_areas_of_interest_count(two_models):
    """The upper row, which is drawn in the dataset, or is in a file; of its three pixels of a two are right."""
    upper, rest = rectangle(0, 0, 3, 1, "Region*"), rectangle(0, 1, 3, 2, "a")
    write_features(Path("dataset", "annotations", "s.geojson"), [upper, rest])
    write_features(Path("areas", "s.geojson"), [upper])
    for options in (["--roi-class", "Region*"], ["--roi", "areas"], ["--roi", "areas/s.geojson"]):
        found, _ = figures("--predictions", "p1", "--slides", "s", *options)
        of = found["annotated"]
        assert (of["pixels"], of["accuracy"]) == (3, pytest.approx(2 / 3, abs=1e-6))
        assert of["without_truth"] == ["b", "c"]


def test_a_class_of_just_this_name_is_no_pattern(two_models):
    upper, rest = rectangle(0, 0, 3, 1, "Region*"), rectangle(0, 1, 3, 2, "Region 2")
    write_features(Path("dataset", "annotations", "s.geojson"), [upper, rest])
    for wanted, pixels in (("Region*", 3), ("Region?*", 8)):
        found, _ = figures("--predictions", "p1", "--slides", "s", "--roi-class", wanted)
        assert found["annotated"]["pixels"] == pixels


def test_classes_without_truth_are_named_and_in_no_mean(here):
    write_dataset({"s": np.where(TRUE == "c", "", TRUE)}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    found, result = figures()
    assert found["annotated"]["without_truth"] == ["c"]
    assert found["annotated"]["mean_dice"] == pytest.approx((4 / 5 + 4 / 5) / 2)
    assert "without a true pixel, and so in no mean: c" in result.stdout


def test_full_truth_has_borders_and_objects(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    write_truth(here, TRUE, {"a": 1, "b": 2, "c": 3}, None)
    found, result = figures("--truth", "truth", "--object-min-um2", "0")
    assert "boundaries" not in found["annotated"]
    assert found["truth"]["objects"]["c"] == {"true": 1, "predicted": 1, "matched": 1, "f1": 1.0}
    assert found["truth"]["objects"]["a"] == {"true": 1, "predicted": 2, "matched": 1, "f1": 0.666667}
    # The strips are as wide as the slide; of b both are its pixels: 2 of 3 in common.
    assert found["truth"]["boundaries"]["b"]["boundary_iou"] == pytest.approx(2 / 3, abs=1e-6)
    assert "objects" in result.stdout and "borders" in result.stdout
    plain = figures("--truth", "truth", "--boundary-um", "0")[0]["truth"]
    assert "boundaries" not in plain and "objects" not in plain


def test_strips_of_a_slide_add_up(here, monkeypatch):
    """The same figures when a strip is one row."""
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    write_truth(here, TRUE, {"a": 1, "b": 2, "c": 3}, None)
    whole = figures("--truth", "truth", "--object-min-um2", "0")[0]
    monkeypatch.setattr(counting, "ROWS_AT_ONCE", 1)
    assert figures("--truth", "truth", "--object-min-um2", "0")[0] == whole


def test_confidence_of_what_counts(here):
    """Every label has a probability of 204/255 = 0.8; 6 of 8 are right."""
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    pixels = np.full((3, 3, 3), 204, np.uint8)
    path = here / "predictions" / f"s.{PROBABILITIES_SUFFIX}"
    write_probability_pyramid(path, [pixels], (3, 3), 0.5, NAMES, [(1, 2, 3)] * 3)
    found, result = figures()
    assert found["annotated"]["expected_calibration_error"] == pytest.approx(0.05)
    assert "expected calibration error 0.050 (1 slide)" in result.stdout
    calibration = read_evaluation(here / "evaluation").models[0].of("annotated").calibration
    (filled,) = (b for b in calibration.bins if b.pixels)
    assert (filled.pixels, filled.confidence, filled.accuracy) == (8, pytest.approx(0.8), 0.75)
    assert filled.low < 0.8 <= filled.high


def test_the_folder_tells_everything_and_is_read_again(two_models, here):
    assert invoke("evaluate", *two_models).exit_code == 0
    told = read_evaluation(here / "evaluation")
    assert told.model_validate_json(told.model_dump_json()) == told
    assert told.settings.sample_kind == "cases" and told.settings.samples == 3
    assert [m.name for m in told.models] == ["better", "worse"] and told.slide("t").properties == {"stain": "HE"}
    first = told.models[0]
    pooled = first.of("annotated").pooled
    assert pooled.classes[0].true_mm2 == pytest.approx(4 * 3 * 0.25e-6)
    assert np.sum(pooled.confusion_mm2) == pytest.approx(32 * 0.25e-6)
    assert first.rasters[0].predicted_mm2["a"] == pytest.approx(4 * 0.25e-6)
    assert Path(first.rasters[0].path).is_file() and Path(told.truth("annotated").rasters[0].path).is_file()
    assert first.rasters[0].values == {1: "a", 2: "b", 3: "c"} and set(told.colors) == set(NAMES)
    assert pooled.row_shares()[0][0] == pytest.approx(2 / 3) and pooled.column_shares()[0][1] == pytest.approx(1 / 3)
    assert isinstance(told, Evaluation) and len([*told.figures()]) == 2
    (here / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(dmmn_qp.DmmnQpError, match="damaged or of another version"):
        read_evaluation(here / "evaluation")


def test_a_named_folder_is_kept_and_the_usual_one_replaced(two_models, here):
    assert invoke("evaluate", "--predictions", "p1").exit_code == 0
    assert invoke("evaluate", "--predictions", "p2").exit_code == 0
    assert read_evaluation(here / "evaluation").models[0].name == "worse"
    assert "pass --overwrite" in fails("evaluate", "--predictions", "p1", "--out", "evaluation")


def test_whoever_stops_the_page_keeps_the_figures(two_models, here, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluating, "write_evaluation_page", stop)
    assert invoke("evaluate", "--predictions", "p1").exit_code != 0
    assert read_evaluation(here / "evaluation").models[0].name == "better"


def test_what_a_model_has_predicted_is_taken(two_models, here):
    """From ``predictions``, where its weights have predicted all slides; nothing is predicted."""
    shutil.copytree(DEMO.parent.parent / "models" / "demo", here / "m")
    digest = json.loads((here / "m" / "model.json").read_text())["weights_sha256"]
    slides = dict.fromkeys("stuv", FOUND)
    write_predictions(slides, NAMES, models=dict.fromkeys(slides, model("demo", digest[:16])))
    found, result = figures("--model", "m", "--predictions", "p2")
    assert [*found["models"]] == ["worse", "demo"] and "m: taken from predictions" in result.stdout
    write_predictions(slides, NAMES, models=dict.fromkeys(slides, model("demo", "another")))
    assert "m: taken" not in invoke("evaluate", "--model", "m").stdout  # and the slides are nowhere to be predicted


def test_what_a_model_has_not_predicted_it_predicts(workspace, here):
    (trained,) = (workspace / "models").iterdir()
    options = ("--dataset", workspace / "dataset", "--model", trained)
    assert invoke("evaluate", *options, "--config", workspace / "fast.toml").exit_code == 0
    folder = here / "evaluation" / "predicted" / trained.name
    assert read_evaluation(here / "evaluation").models[0].predictions == str(folder)
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tif")}
    assert made and invoke("evaluate", *options).exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tif")} == made  # not again
    card = read_evaluation(here / "evaluation").models[0].card
    assert card["architecture"] == "dmmn-m3" and "um/px" in card


def test_python_compares_models_too(two_models, here):
    found = dmmn_qp.evaluate(["p1", "p2"], "dataset", slides=["s", "t"], by=["stain"], out="e")
    assert [*found["models"]] == ["better", "worse"] and found["slides"] == ["s", "t"]
    assert read_evaluation(here / "e").models[1].name == "worse"
    dmmn_qp.evaluate("p1", "dataset")
    assert not Path("evaluation").exists()
    assert write_evaluation(here / "f", read_evaluation(here / "e")).is_file()


def test_the_scanner_of_a_slide(tmp_path):
    path = tmp_path / "a.tif"
    tags = [(271, "s", 0, "Acme\x1b", True), (272, "s", 0, "Scan 3", True)]
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", extratags=tags)
    assert scanner_of(path) == "Acme\\x1b Scan 3"
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    (tmp_path / "c.svs").write_bytes(b"II*\0 damaged")
    assert scanner_of(tmp_path / "b.png") is scanner_of(tmp_path / "c.svs") is None
    assert scanner_of(CMU_1).startswith("aperio ")
    dicom = write_dicom(tmp_path / "d", [np.zeros((64, 64, 3), np.uint8)], scanner="Scan 4")
    assert scanner_of(dicom) == scanner_of(dicom / "1-0.dcm") == "dicom Scan 4"


def test_metadata_that_a_dataset_keeps():
    long = "x" * (MOST_CHARACTERS + 1)
    assert _kept({"stain": "HE", long: "a", "report": long}) == {"stain": "HE"}
    assert len(_kept({f"{i}": "" for i in range(2 * MOST_KEYS)})) == MOST_KEYS
