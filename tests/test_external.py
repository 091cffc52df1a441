"""`dmmn-qp evaluate --annotations`: a test set from elsewhere, which nobody imports."""

import json

import numpy as np
import pytest

from dmmn_qp.errors import PixelSizeError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.evaluation import read_evaluation
from dmmn_qp.folders.predictions import INPUTS, LABELS_SUFFIX, PREDICTIONS, PredictedInput, Prediction, read_predictions
from dmmn_qp.folders.rounds import loop_folder
from dmmn_qp.outputs.pyramids import write_label_pyramid
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.qupath.review_counts import ReviewCounts
from dmmn_qp.reports.html import REPORT_FIGURES
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.reports.review import review_findings
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.workflows import external
from tests.conftest import fails, invoke
from tests.projects import make_project, make_slide

CLASSES = ClassMap.from_colors([("light", (1, 2, 3)), ("dark", (4, 5, 6))])


def predict(here, slide, labels, mpp=0.5, folder="predictions", slide_mpp=0.5):
    (here / folder).mkdir(exist_ok=True)
    name = slide.stem
    write_label_pyramid(here / folder / f"{name}.{LABELS_SUFFIX}", [labels], labels.shape, mpp, CLASSES)
    path = here / folder / RUN_FILE
    run = json.loads(path.read_text()) if path.is_file() else {INPUTS: {}, PREDICTIONS: {}}
    shown = PredictedInput(path=str(slide), fingerprint=fingerprint(slide), width=256, height=256)
    made = Prediction(run_id="r", model="m", model_run="t", class_map=CLASSES, request={"um_per_px": slide_mpp})
    run[INPUTS][name], run[PREDICTIONS][name] = shown.model_dump(mode="json"), made.model_dump(mode="json")
    write_json(path, run)


@pytest.fixture
def elsewhere(here):
    """A project whose metadata say train, and predictions: of 100 x 100 px that are dark, 60 x 100 are found."""
    slide = make_slide(here / "slides" / "s.tif")
    areas = (("dark", (0, 0, 100, 100)), ("light", (100, 0, 200, 100)))
    make_project(here / "p", {slide: areas}, {"s.tif": {"split": "train", "lab": "north"}})
    labels = np.full((256, 256), 1, np.uint8)
    labels[:100, :60] = 2
    predict(here, slide, labels)
    return here


def test_all_annotated_slides_are_for_test(elsewhere):
    result = invoke("evaluate", "--annotations", "p", "--by", "lab", "--out", "e")
    assert result.exit_code == 0, result.output
    assert '1 annotated slide of "p" read into e/annotated/' in result.stdout
    assert "train" not in result.output and not loop_folder(elsewhere / "e" / "annotated").exists()
    evaluation = read_evaluation(elsewhere / "e")
    (model,) = evaluation.models
    found = model.of("annotated")
    assert {c.name: c.iou.value for c in found.pooled.classes} == {"dark": 0.6, "light": pytest.approx(100 / 140)}
    assert found.pooled.pixels == 20_000 and [g.value for g in found.subgroups] == ["north"]
    assert [r.split for r in Dataset(elsewhere / "e" / "annotated").slides()] == ["test"]
    again = invoke("evaluate", "--annotations", "p/project.qpproj", "--out", "e", "--overwrite")
    assert again.exit_code == 0, again.output


def test_the_pixels_are_those_of_the_predictions(elsewhere):
    labels = np.full((128, 128), 1, np.uint8)
    predict(elsewhere, elsewhere / "slides" / "s.tif", labels, 1.0, "coarse")
    result = invoke("evaluate", "--annotations", "p", "--predictions", "coarse")
    assert result.exit_code == 0 and "5,000 px" in result.stdout, result.output
    both = invoke("evaluate", "--annotations", "p", "--predictions", "coarse", "--predictions", "predictions")
    assert both.exit_code == 0 and '"coarse" have pixels of 1 um, the dataset of 0.5 um' in both.output, both.output
    assert "models on the same 20,000 px" in both.stdout


def test_each_slide_is_judged_on_the_pixels_of_its_own_prediction(here):
    """Slides of two scanners, whose predictions by one model differ by a tenth in um/px, and one of twice the um/px."""
    areas = (("dark", (0, 0, 100, 100)), ("light", (100, 0, 200, 100)))
    # um/px of the slide, its px per predicted pixel, and the columns of the dark area that are found
    made = {"a": (0.238, 2, 60), "b": (0.525, 1, 91), "c": (0.25, 4, 20)}
    slides = {name: make_slide(here / "slides" / f"{name}.tif", ord(name), mpp=um) for name, (um, *_) in made.items()}
    make_project(here / "p", dict.fromkeys(slides.values(), areas))
    for name, (um, px, columns) in made.items():
        labels = np.full((256 // px, 256 // px), 1, np.uint8)
        labels[: 100 // px, : columns // px] = 2
        predict(here, slides[name], labels, um * px, slide_mpp=um)
    result = invoke("evaluate", "--annotations", "p", "--out", "e")
    assert result.exit_code == 0 and "they are judged on" not in result.output, result.output
    evaluation = read_evaluation(here / "e")
    model, mm2 = evaluation.models[0], {name: (100 * um) ** 2 * 1e-6 for name, (um, *_) in made.items()}
    for name, figures in ((s.slide_id, s.figures) for s in model.of("annotated").slides):
        (um, px, columns), slide = made[name], evaluation.slide(name)
        assert (slide.mpp, slide.grid_mpp) == pytest.approx((um, um * px))
        dark = next(c for c in figures.classes if c.name == "dark")
        assert (dark.iou.value, figures.pixels) == (columns / 100, 2 * (100 // px) ** 2)
        assert dark.true_mm2 == pytest.approx(mm2[name])
    pooled = next(c for c in model.of("annotated").pooled.classes if c.name == "dark")
    found = sum(area * made[name][2] / 100 for name, area in mm2.items())
    assert pooled.true_mm2 == pytest.approx(sum(mm2.values()))
    assert pooled.recall.value == pytest.approx(found / sum(mm2.values()))  # of areas, not of pixels
    assert [region.slide_id for region in model.worst] == ["b", "a"]  # 900 px of b are more than 1000 of a
    again = invoke("evaluate", "--dataset", "e/annotated", "--out", "f")  # which says it of itself
    assert again.exit_code == 0, again.output
    assert [s.grid_mpp for s in read_evaluation(here / "f").slides] == [s.grid_mpp for s in evaluation.slides]


def test_pixels_of_a_model_that_is_still_to_predict_are_those_that_it_will_predict(here):
    models = external._Predicted({}, (PatchSpec(mpps=(0.5,)), PatchSpec(mpps=(1.0,))))
    assert [models.finest_px("s", mpp) for mpp in (0.26, 0.21, 0.52)] == [2, pytest.approx(0.5 / 0.21), 1]
    predict(here, make_slide(here / "s.tif"), np.ones((64, 64), np.uint8), 0.2, slide_mpp=0.1)
    own = external._Predicted({here / "predictions": read_predictions(here / "predictions")}, ())
    assert (own.finest_px("s", 0.3), own.finest_px("t", 0.3)) == (2, None)  # at the um/px of when it was predicted
    with pytest.raises(PixelSizeError):
        models.finest_px("s", 0.9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--annotations", "slides"), ['"slides" is no QuPath project', "dmmn-qp compare"]),
        (("--annotations", "none.qpproj"), ['"none.qpproj" does not exist; check the path']),
        (("--annotations", "p", "--split", "val"), ["takes the place of --dataset and --split"]),
        (("--annotations", "p", "--dataset", "d"), ["takes the place of --dataset and --split"]),
        (("--annotations", "p", "--predictions", "none"), ["holds no predictions"]),
    ],
)
def test_what_does_not_go(elsewhere, options, words):
    line = fails("evaluate", *options)
    assert all(word in line for word in words), line


def test_several_projects_are_one_test_set(elsewhere):
    slide = make_slide(elsewhere / "q" / "slides" / "t.tif", 1)
    make_project(elsewhere / "q", {slide: (("dark", (0, 0, 50, 50)),)})
    predict(elsewhere, slide, np.full((256, 256), 2, np.uint8))
    result = invoke("evaluate", "--annotations", "p", "--annotations", "q")
    assert result.exit_code == 0, result.output
    assert "2 annotated slides" in result.stdout and "22,500 px" in result.stdout


def test_nothing_of_training_is_said_of_one_file_in_two_projects(elsewhere):
    make_project(elsewhere / "q", {elsewhere / "slides" / "s.tif": (("dark", (0, 0, 50, 50)),)})
    said = invoke("evaluate", "--annotations", "p", "--annotations", "q").output
    assert "counts in both ways" in said and "learned" not in said and "train" not in said


def test_findings_say_what_they_concern(elsewhere):
    """Of a test set nothing that concerns training is told, on the terminal or in the report, of a slide or of all."""
    slide = make_slide(elsewhere / "r" / "slides" / "u.tif", 2)
    areas = (("dark", (0, 0, 100, 100)), (None, (0, 0, 5, 5)), ("dark", (300, 300, 400, 400)))
    make_project(elsewhere / "r", {slide: areas})
    invoke("import", "r", "--out", "d")
    of_all = {f["concerns"] for f in json.loads((elsewhere / "d" / REPORT_FIGURES).read_text())["findings"]}
    assert {"training", "area"} <= of_all
    predict(elsewhere, slide, np.full((256, 256), 1, np.uint8))
    invoke("evaluate", "--annotations", "r", "--out", "e")
    told = json.loads((elsewhere / "e" / "annotated" / REPORT_FIGURES).read_text())["findings"]
    assert {f["concerns"] for f in told} == of_all - {"training"}


@pytest.mark.parametrize("take", ["reviewed", "all"])
def test_what_people_made_of_predictions_concerns_the_model(take):
    counts = ReviewCounts(confirmed=1, corrected=2, unchecked=9, doubts={"no measurements": 4}, outlines=1)
    found = [f.concerns for f in review_findings(counts, ReadRules(take_predictions=take))]
    assert found == ["model"] * (3 if take == "reviewed" else 2) + ["dataset"]  # the last are outlines of no model


@pytest.mark.parametrize(
    ("told", "concern"),
    [
        ({}, "dataset"),
        ({"slide": "s"}, "slide"),
        ({"slide": "s", "place": (1, 2)}, "area"),
        ({"slide": "s", "concerns": "model"}, "model"),
    ],
)
def test_findings_of_earlier_files_concern_what_their_place_tells(told, concern):
    text = json.dumps({"severity": "note", "message": "m", "way_out": "w", **told})
    assert Finding.model_validate_json(text).concerns == concern
