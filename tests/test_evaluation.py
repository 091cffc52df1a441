"""`dmmn-qp evaluate` on rasters of a few pixels: every figure can be counted by hand."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.figures import Samples, figures_of
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.evaluating.truth import VALUES_FILE, read_values
from dmmn_qp.folders.dataset import DatasetManifest, SlideRecord, write_manifest
from dmmn_qp.folders.predictions import LABELS_SUFFIX
from dmmn_qp.folders.provenance import was_trained_on
from dmmn_qp.labels.metrics import confusion_by_name, pair_counts
from dmmn_qp.outputs.pyramids import write_label_pyramid
from dmmn_qp.reports.evaluation_tables import table_lines
from dmmn_qp.slides.transformed import Rotate
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import DEMO, REPOSITORY, fails, invoke
from tests.evaluations import write_raster

NAMES = ("a", "b", "c")
TRUE = np.array([["a", "a", "a"], ["b", "b", ""], ["c", "c", "c"]])
FOUND = np.array([["a", "a", "b"], ["b", "b", "a"], ["c", "c", "a"]])
"""Of 8 labelled pixels 6 are right. IoU: a 2/4, b 2/3, c 2/3; recall 2/3, 1, 2/3; precision 2/3, 2/3, 1."""

MEANS = {"mean_iou": 11 / 18, "mean_recall": 7 / 9, "mean_precision": 7 / 9, "accuracy": 6 / 8}


def classes(names):
    return ClassMap.from_colors([(name, (1, 2, 3)) for name in names])


def numbers(names, order):
    """Names of pixels -> labels, "" -> 0."""
    return np.array([[order.index(name) + 1 if name else 0 for name in row] for row in names], np.uint8)


def write_dataset(true, order, *, origins=None, frame=(), folder="dataset"):
    """A dataset in the current folder; ``true`` holds the names of each slide's pixels."""
    records = []
    for slide_id, names in true.items():
        write_raster(Path(folder, "masks", f"{slide_id}.tif"), numbers(names, order))
        if origins and slide_id in origins:
            write_raster(Path(folder, "masks", f"{slide_id}.origin.tif"), origins[slide_id])
        rows, columns = names.shape
        records.append(
            SlideRecord(
                slide_id=slide_id,
                path=f"/slides/{slide_id}.svs",
                width=columns,
                height=rows,
                mpp=0.5,
                frame=frame,
                fingerprint=f"f-{slide_id}",
                split="test",
            )
        )
    manifest = DatasetManifest(class_map=classes(order), patch_spec=PatchSpec(), slides=tuple(records))
    write_manifest(Path(folder), manifest)


def write_predictions(
    found, order, *, in_raster=True, in_run=False, models=None, inputs=True, changes=None, folder="predictions"
):
    """A folder of predictions; ``models`` gives the model's facts of each slide, ``changes`` those of its input."""
    out = Path(folder)
    out.mkdir(exist_ok=True)
    run = {"inputs": {}, "predictions": {}}
    for slide_id, names in found.items():
        labels = numbers(names, order)
        path = out / f"{slide_id}.{LABELS_SUFFIX}"
        if in_raster:
            write_label_pyramid(path, [labels], labels.shape, 0.5, classes(order))
        else:
            tifffile.imwrite(path, labels)
        model = (models or {}).get(slide_id, {"model": "m", "model_run": "run-m", "weights": "w-m"})
        run["predictions"][slide_id] = {"run_id": "1", **model}
        if in_run:
            run["predictions"][slide_id]["class_map"] = classes(order).model_dump(mode="json")
        if inputs:
            rows, columns = names.shape
            run["inputs"][slide_id] = {
                "path": f"/elsewhere/{slide_id}.svs",
                "fingerprint": f"f-{slide_id}",
                "width": columns,
                "height": rows,
                **(changes or {}),
            }
    (out / "run.json").write_text(json.dumps(run))


def figures(*options):
    """What evaluate says, as JSON, with its output."""
    result = invoke("evaluate", "--json", "figures.json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(Path("figures.json").read_text("utf-8")), result


def means(of):
    return {key: of[key] for key in MEANS}


@pytest.mark.parametrize("of_model", [NAMES, ("c", "a", "b"), ("b", "a", "c")])
@pytest.mark.parametrize("of_dataset", [NAMES, ("c", "b", "a")])
@pytest.mark.parametrize("told_by", ["raster", "run.json"])
def test_the_order_of_the_classes_plays_no_part(here, of_model, of_dataset, told_by):
    write_dataset({"s": TRUE}, of_dataset)
    write_predictions({"s": FOUND}, of_model, in_raster=told_by == "raster", in_run=told_by == "run.json")
    found, result = figures()
    assert means(found["annotated"]) == pytest.approx(MEANS, abs=1e-6)
    assert found["predictions"]["s"]["classes"] == list(of_model)
    assert found["predictions"]["s"]["classes_from"] == told_by
    matrix = found["annotated"]["confusion"]
    assert matrix["classes"] == matrix["columns"] == list(of_dataset)
    cells = {(t, p): matrix["rows_true_columns_predicted"][i][j]
             for i, t in enumerate(of_dataset) for j, p in enumerate(of_dataset)}  # fmt: skip
    assert {pair: n for pair, n in cells.items() if n} == {
        ("a", "a"): 2, ("a", "b"): 1, ("b", "b"): 2, ("c", "c"): 2, ("c", "a"): 1,
    }  # fmt: skip
    assert found["warnings"] == [] and result.stderr == ""
    assert "mIoU 0.611" in result.stdout


def test_project_and_geojson_of_the_same_slide_give_the_same_figures(here):
    """Their classes come in different orders; the full truth stands for a prediction."""
    values = read_values(DEMO / "truth" / VALUES_FILE)
    order = [values[value] for value in sorted(values)]
    with Image.open(DEMO / "truth" / "test-1.png") as picture:
        labels = np.asarray(picture)
    (here / "predictions").mkdir()
    write_label_pyramid(
        here / "predictions" / f"test-1.{LABELS_SUFFIX}", [labels], labels.shape, 0.5, classes(order[::-1])
    )
    (here / "geojson").mkdir()
    (here / "slides").mkdir()
    for name in ("train-1", "test-1"):
        shutil.copy(DEMO / "annotations" / f"{name}.geojson", here / "geojson")
        shutil.copy(DEMO / "slides" / f"{name}.tif", here / "slides")
    (here / "splits.csv").write_text("slide,split\ntrain-1,train\ntest-1,test\n")
    source = ("slides", "--annotations", "geojson", "--split-file", "splits.csv")
    assert invoke("import", *source, "--out", "of-geojson").exit_code == 0
    assert invoke("import", DEMO / "project.qpproj", "--out", "of-project").exit_code == 0
    orders, found = [], []
    for dataset in ("of-geojson", "of-project"):
        of = figures("--dataset", dataset)[0]["annotated"]
        orders.append(list(of["classes"]))
        found.append((of["pixels"], means(of), {name: of["classes"][name] for name in sorted(order)}))
    assert orders[0] != orders[1]
    assert found[0] == found[1] and found[0][0] > 2_000_000


def test_predictions_of_an_earlier_version_are_taken_in_the_datasets_order_and_it_is_said(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES, in_raster=False)
    found, result = figures()
    assert means(found["annotated"]) == pytest.approx(MEANS, abs=1e-6)
    assert found["predictions"]["s"]["classes_from"] == "dataset"
    assert "1 a, 2 b, 3 c" in found["warnings"][0] and "--overwrite" in found["warnings"][0]
    assert found["warnings"][0][:40] in result.stderr


def test_raster_and_run_that_contradict_each_other(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES, in_run=True)
    labels = numbers(FOUND, NAMES)
    write_label_pyramid(
        here / "predictions" / f"s.{LABELS_SUFFIX}", [labels], labels.shape, 0.5, classes(("c", "b", "a"))
    )
    assert "c, b, a" in fails("evaluate") and "exchanged" in fails("evaluate")


def test_names_that_a_raster_cannot_hold_are_taken_from_the_run(here):
    order = ("a\x01", "a\x02", "c")
    true, found = (np.array([[f"a{chr(1)}", f"a{chr(2)}", "c"]]) for _ in range(2))
    write_dataset({"s": true}, order)
    write_predictions({"s": found}, order, in_run=True)
    said, result = figures()
    assert said["annotated"]["accuracy"] == 1
    assert "\x01" not in result.output


def test_a_class_that_the_model_lacks_is_missed_and_said(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": np.where(FOUND == "c", "b", FOUND)}, ("b", "a"))
    found, _ = figures()
    of_class = found["annotated"]["classes"]["c"]
    assert (of_class["iou"], of_class["recall"], of_class["precision"]) == (0, 0, 0)
    assert found["annotated"]["mean_recall"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-6)
    assert found["annotated"]["unmatched"] == {"truth": {"c": ["s"]}, "predicted": {}}
    assert re.search("no classes of the model, but of the dataset: c;", found["warnings"][0])


def test_a_class_that_the_truth_lacks_is_a_column_and_said(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": np.where(FOUND == "b", "d", FOUND)}, ("d", "a", "e", "c"))
    found, result = figures()
    matrix = found["annotated"]["confusion"]
    assert matrix["columns"] == ["a", "b", "c", "d", "e"]
    assert matrix["rows_true_columns_predicted"] == [[2, 0, 0, 1, 0], [0, 0, 0, 2, 0], [1, 0, 2, 0, 0]]
    assert found["annotated"]["accuracy"] == pytest.approx(4 / 8)
    assert found["annotated"]["unmatched"]["predicted"] == {"d": ["s"], "e": ["s"]}
    assert any("d, e; pixels predicted as these count as wrong" in line for line in found["warnings"])
    assert "4 d: predicted, but not among the true classes (3 px)" in result.stdout
    assert "5 e" not in result.stdout  # nothing was predicted as it here


SLIPPED = np.where(FOUND == "b", " B", FOUND)


def test_names_that_differ_in_case_or_blanks_are_two_classes_and_the_way_out_is_said(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": SLIPPED}, ("a", " B", "c"))
    found, _ = figures()
    assert found["annotated"]["classes"]["b"]["recall"] == 0
    (line,) = found["warnings"]
    assert line.endswith("pass --map ' B=b'")
    found, _ = figures("--map", " B=b")
    assert means(found["annotated"]) == pytest.approx(MEANS, abs=1e-6)
    assert found["map"] == [{"predicted": " B", "true": "b"}] and found["warnings"] == []
    assert found["predictions"]["s"]["classes"] == ["a", " B", "c"]


def test_several_predicted_classes_become_one_and_names_may_hold_the_sign(here):
    true = np.array([["a=b", "a=b", "c"]])
    write_dataset({"s": true}, ("c", "a=b"))
    write_predictions({"s": np.array([["x=y", "z", "c"]])}, ("x=y", "z", "c"))
    found, _ = figures("--map", "x=y=a=b", "--map", "z=a=b")
    assert found["annotated"]["mean_iou"] == 1
    assert [(pair["predicted"], pair["true"]) for pair in found["map"]] == [("x=y", "a=b"), ("z", "a=b")]


def test_a_class_may_have_other_names_in_the_dataset_and_in_the_full_truth(here):
    write_dataset({"s": np.where(TRUE == "b", "B", TRUE)}, ("a", "B", "c"))
    write_predictions({"s": FOUND}, NAMES)
    truth = np.where(TRUE == "a", "A", TRUE)
    write_truth(here, truth, {"A": 1, "b": 2, "c": 3}, "value,class\n1,A\n2,b\n3,c\n")
    found, _ = figures("--truth", "truth", "--map", "b=B", "--map", "a=A")
    assert means(found["annotated"]) == means(found["truth"]) == pytest.approx(MEANS, abs=1e-6)
    assert found["warnings"] == []
    found, _ = figures("--truth", "truth", "--map", "c=B", "--map", "c=A")  # one in each
    assert found["annotated"]["classes"]["B"]["predicted_pixels"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--map", "tumour=b"], 'no predicted class "tumour"; did you mean "tumor"?'),
        (["--map", "tumor=B"], 'no true class "B"; did you mean "b"?'),
        (["--map", "tumor=zzz"], "they are a, b, c"),
        (["--map", "tumor"], "--map PREDICTED=TRUTH"),
        (["--map", "tumor=b", "--map", "tumor=c"], "keep one of them"),
        (["--exclude", "A"], 'no true class "A"; did you mean "a"?'),
        (["--exclude", "tumor"], "they are a, b, c"),
        (["--exclude", "a", "--exclude", "b", "--exclude", "c"], "leaves no class"),
    ],
)
def test_rules_that_name_what_is_not_there(here, options, said):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": np.where(FOUND == "b", "tumor", FOUND)}, ("a", "tumor", "c"))
    assert said in fails("evaluate", *options)


def test_excluded_pixels_do_not_count(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    found, _ = figures("--exclude", "a")
    of = found["annotated"]
    assert of["pixels"] == 5 and list(of["classes"]) == ["b", "c"] and found["excluded"] == ["a"]
    assert of["confusion"] == {
        "classes": ["b", "c"],
        "columns": ["b", "c", "a"],
        "rows_true_columns_predicted": [[2, 0, 0], [0, 2, 1]],
    }
    assert of["mean_iou"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)
    assert found["warnings"] == []


def test_pixels_without_a_prediction_are_missed_or_left_out_and_said(here):
    write_dataset({"s": TRUE}, NAMES)
    found = FOUND.copy()
    found[0] = ["a", "", ""]
    write_predictions({"s": found}, NAMES)
    said, result = figures()
    assert said["annotated"]["confusion"]["columns"] == ["a", "b", "c", "(not predicted)"]
    assert said["annotated"]["confusion"]["rows_true_columns_predicted"][0] == [1, 0, 0, 2]
    assert said["annotated"]["classes"]["a"]["recall"] == pytest.approx(1 / 3, abs=1e-6)
    assert said["annotated"]["accuracy"] == pytest.approx(5 / 8)
    assert said["annotated"]["unpredicted_pixels"] == 2
    assert "not predicted: 2 px (25.0 %), counted as missed" in result.stdout
    assert re.search(r"^  1 a +33\.3 +0\.0 +0\.0 +66\.7$", result.stdout, re.MULTILINE)
    said, result = figures("--skip-unpredicted")
    assert said["annotated"]["confusion"]["columns"] == ["a", "b", "c"]
    assert said["annotated"]["classes"]["a"]["recall"] == 1
    assert said["annotated"]["accuracy"] == pytest.approx(5 / 6, abs=1e-6)
    assert (said["annotated"]["pixels"], said["annotated"]["unpredicted_pixels"]) == (6, 2)
    assert "not predicted: 2 px (25.0 %), left out" in result.stdout


def test_a_stray_pixel_of_a_class_without_truth_is_in_no_mean(here):
    """Class c has no true pixel; one pixel of a is predicted as c."""
    write_dataset({"s": np.array([["a", "a", "a", "a", "b", "b"]])}, NAMES)
    write_predictions({"s": np.array([["a", "a", "a", "c", "b", "b"]])}, NAMES)
    found, result = figures()
    of = found["annotated"]
    assert (of["mean_iou"], of["mean_recall"], of["mean_precision"]) == (0.875, 0.875, 1)
    assert [of["classes"]["c"][key] for key in ("iou", "recall", "precision")] == [None] * 3
    assert re.search(r"^  3 c +- +- +- +-$", result.stdout, re.MULTILINE)


def codes(*rows):
    return np.array([[{"": 0, **ORIGINS}[name] for name in row] for row in rows], np.uint8)


D, C, K, U = ORIGINS
"""Drawn, corrected, confirmed, unchecked."""


def test_only_what_was_drawn_is_annotated_and_the_rest_has_figures_of_its_own(here):
    write_dataset({"s": TRUE, "t": TRUE}, NAMES, origins={"s": codes([D, D, C], [C, K, ""], [U, U, U])})
    write_predictions({"s": FOUND, "t": FOUND}, ("b", "c", "a"))
    found, result = figures()
    assert {key: found[key]["pixels"] for key in ("annotated", "corrected", "confirmed")} == {
        "annotated": 2 + 8,  # all of t, which has no raster of origins
        "corrected": 2,
        "confirmed": 1,
    }
    assert found["annotated"]["accuracy"] == pytest.approx(8 / 10)
    assert found["corrected"]["accuracy"] == pytest.approx(1 / 2)
    assert found["confirmed"]["accuracy"] == 1
    assert found["unchecked_pixels"] == 3
    assert "3 px of predictions that nobody has checked do not count" in result.stdout
    for title in ("annotated pixels (10 px)", "corrected predictions (2 px)", "confirmed predictions (1 px)"):
        assert f"s, t: {title}" in result.stdout


def test_full_truth_has_no_origins(here):
    write_dataset({"s": TRUE}, NAMES, origins={"s": codes([U, U, U], [U, U, ""], [U, U, C])})
    write_predictions({"s": FOUND}, NAMES)
    Image.fromarray(numbers(TRUE, NAMES)).save(here / "s.png")
    found, result = figures("--truth", "s.png")
    assert found["annotated"] is None and found["corrected"]["pixels"] == 1 and found["confirmed"] is None
    assert means(found["truth"]) == pytest.approx(MEANS, abs=1e-6)
    assert "no figures of annotated pixels, because there are none" in result.stderr


def test_nothing_that_counts_is_an_error(here):
    write_dataset({"s": TRUE}, NAMES, origins={"s": codes(*[[U, U, U]] * 3)})
    write_predictions({"s": FOUND}, NAMES)
    assert "no labelled pixel" in fails("evaluate")


@pytest.mark.parametrize(
    ("origins", "said"),
    [
        (codes([D, D, D], [D, D, ""], [D, D, ""]), "where all labelled pixels come from"),
        (np.full((3, 3), 5, np.uint8), "where all labelled pixels come from"),
        (np.full((3, 4), 1, np.uint8), "4 x 3 px"),
    ],
)
def test_origins_that_do_not_fit(here, origins, said):
    write_dataset({"s": TRUE}, NAMES, origins={"s": origins})
    write_predictions({"s": FOUND}, NAMES)
    assert said in fails("evaluate")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "other"}, '"/elsewhere/s.svs", and what was imported from "/slides/s.svs"'),
        ({"width": 6}, "6 x 3 px were predicted, but 3 x 3 px imported"),
        ({"frame": [{"kind": "rotate", "degrees": 90}]}, "turned or cropped"),
        ({"width": None, "crop_to_bounds": False}, "scanned bounds"),
    ],
)
def test_predictions_of_another_image_are_refused(here, changes, said):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES, changes=changes)
    line = fails("evaluate")
    assert said in line and "--overwrite" in line and "import again" in line


def test_frame_of_the_dataset_is_compared_too(here):
    write_dataset({"s": TRUE}, NAMES, frame=(Rotate(degrees=180),))
    write_predictions({"s": FOUND}, NAMES)
    assert "turned or cropped" in fails("evaluate")
    write_predictions({"s": FOUND}, NAMES, changes={"frame": [{"kind": "rotate", "degrees": 180}]})
    assert figures()[0]["annotated"]["pixels"] == 8


def test_where_nothing_tells_the_image_it_is_said(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES, inputs=False)
    assert "does not tell which files s were predicted from" in figures()[0]["warnings"][0]
    (here / "predictions" / "run.json").unlink()
    found, _ = figures()
    assert any("which model predicted s" in line for line in found["warnings"])
    assert means(found["annotated"]) == pytest.approx(MEANS, abs=1e-6)
    (here / "predictions" / "run.json").write_text("{")
    assert "damaged" in fails("evaluate")


def model(name, run, weights):
    return {"model": name, "model_run": run, "weights": weights}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (model("m", "r", "w1"), model("copy of m", "r", "w1"), True),
        (model("m", "r", "w1"), model("m", "r", "w2"), False),
        (model("m", "r", None), model("m", "r", "w2"), True),
        (model("m", "r1", None), model("m", "r2", None), False),
    ],
)
def test_one_model_predicted_all_slides(here, first, second, same):
    write_dataset({"s": TRUE, "t": TRUE}, NAMES)
    write_predictions({"s": FOUND, "t": FOUND}, NAMES, models={"s": first, "t": second})
    if same:
        assert figures()[0]["warnings"] == []
        return
    line = fails("evaluate")
    assert f's by "m" ({"weights w1" if first["weights"] else "run r1"})' in line and "t by" in line
    found, _ = figures("--mixed-models")
    assert "different models" in found["warnings"][0]
    assert found["predictions"]["t"]["weights"] == second["weights"]
    assert means(found["annotated"]) == pytest.approx(MEANS, abs=1e-6)


def test_models_with_other_classes_are_joined_slide_by_slide(here):
    write_dataset({"s": TRUE, "t": TRUE}, NAMES)
    write_predictions({"s": FOUND}, ("c", "a", "b"), folder="p")
    write_predictions({"t": FOUND}, ("b", "a", "c", "d"), folder="p")
    found, _ = figures("--predictions", "p")
    assert means(found["annotated"]) == pytest.approx(MEANS, abs=1e-6)
    assert any("the model of t: d;" in line for line in found["warnings"])


def test_slides_that_the_model_was_trained_on_are_said(here):
    card = json.loads((REPOSITORY / "models" / "demo" / "model.json").read_text("utf-8"))
    trained_by, folder = card["provenance"]["run_id"], here / "m"
    folder.mkdir()
    (folder / "model.json").write_text(
        json.dumps({**card, "provenance": {"run_id": trained_by, "slides": ["train-1"]}})
    )
    for name, run, said in (("train-1", trained_by, True), ("test-1", trained_by, False), ("train-1", "other", False)):
        write_dataset({name: TRUE}, NAMES)
        write_predictions({name: FOUND}, NAMES, models={name: model("demo", run, "w")})
        told = json.loads((here / "predictions" / "run.json").read_text())
        told["configuration"] = {"model": str(folder)}
        (here / "predictions" / "run.json").write_text(json.dumps(told))
        assert any("was trained on these slides: train-1" in line for line in figures()[0]["warnings"]) is said


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({"training_fingerprints": ["f" * 32]}, True),
        ({"training_fingerprints": ["e" * 32], "slides": ["s"]}, False),
        ({"slides": ["s"]}, True),
        ({"slides": ["other"]}, False),
        ({"training_slides": 1}, False),
        ({"training_fingerprints": 7, "slides": {"s": 1}}, False),
    ],
)
def test_training_slides_are_known_by_what_they_show(provenance, said):
    """Under whatever name; by name only in the cards of earlier versions."""
    assert was_trained_on(provenance, "s", "f" * 32) is said


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("value,class\n1,a\n2,b\n", {1: "a", 2: "b"}),
        ("\ufeffValue ; CLASS\r\n3; b\r\n\r\n255;a \r\n", {3: "b", 255: "a"}),
        ('class,colour,value\n"a, b",red,7\n"say ""c""",blue,8\n', {7: "a, b", 8: 'say "c"'}),
        ('value, class\n1, "a"\n2,a\n', {1: "a", 2: "a"}),
        ("value,class\n1,a;b\n", {1: "a;b"}),
    ],
)
def test_values_in_any_dialect(tmp_path, table, found):
    (tmp_path / VALUES_FILE).write_text(table, "utf-8", newline="")
    assert read_values(tmp_path / VALUES_FILE) == found


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"", 'must begin with the line "value,class"'),
        (b"1,a\n", 'it begins "1,a"'),
        (b"value,class,value\n1,a,2\n", "row 1 has the column value twice"),
        (b"value,class\n", "names no value"),
        (b"value,class\n0,a\n", 'row 2: value "0"'),
        (b"value,class\n1,a\n256,b\n", 'row 3: value "256"'),
        (b"value,class\n1.5,a\n", 'value "1.5"'),
        (b"value,class\n-1,a\n", 'value "-1"'),
        ("value,class\n\u0661,a\n".encode(), "no whole number"),
        (b"value,class\n1,\n", "row 2, column class: it is empty"),
        (b"value,class\n1,a\n1,b\n", 'row 3: value 1 is "a" further up'),
        (b"value,class\n1,a, b\n", "row 2 has 3 cells"),
        (b"value,class\n1\n", "row 2, column class"),
        (b'value,class\n1,"a\n', "is no CSV"),
        (b"value,class\n1,\xff\n", "not UTF-8"),
        (b"value,class\n" + b"1,a\n" * 2**22, "longer than"),
    ],
)
def test_values_that_cannot_be_meant(tmp_path, table, said):
    (tmp_path / VALUES_FILE).write_bytes(table)
    with pytest.raises(DatasetError, match=re.escape(said)):
        read_values(tmp_path / VALUES_FILE)


def write_truth(here, names, values, table):
    (here / "truth").mkdir(exist_ok=True)
    pixels = np.array([[values.get(name, 0) for name in row] for row in names], np.uint8)
    Image.fromarray(pixels).save(here / "truth" / "s.png")
    if table is not None:
        (here / "truth" / VALUES_FILE).write_text(table)


def test_values_of_truth_are_named_beside_it(here):
    """Classes of the truth are those of the predictions and not of the dataset; two values are one class."""
    write_dataset({"s": np.array([["x"] * 3] * 3)}, ("x",))
    write_predictions({"s": FOUND}, ("b", "c", "a"))
    true = TRUE.copy()
    true[0, 0] = "a too"
    write_truth(here, true, {"a": 9, "b": 2, "c": 1, "a too": 200}, "value;class\n9;a\n200;a\n2;b\n1;c\n")
    found, _ = figures("--truth", "truth")
    assert means(found["truth"]) == pytest.approx(MEANS, abs=1e-6)
    assert found["truth"]["values"] == {"9": "a", "200": "a", "2": "b", "1": "c"}
    assert found["truth"]["values_from"].endswith(VALUES_FILE)
    assert found["truth"]["unmatched"] == {"truth": {}, "predicted": {}}
    assert found["annotated"]["accuracy"] == 0
    assert not any("the full truth" in line for line in found["warnings"])


@pytest.mark.parametrize("name", ["case1.png", "case1.ome.png", "case1.ome.svs.png", "case1.tif"])
def test_truth_of_a_slide_by_any_of_its_names(here, name):
    write_dataset({"case1.ome": TRUE}, NAMES)  # of case1.ome.svs
    write_predictions({"case1.ome": FOUND}, NAMES)
    write_truth(here, TRUE, {"a": 1, "b": 2, "c": 3}, None)
    (here / "truth" / "s.png").rename(here / "truth" / "x.png")
    Image.open(here / "truth" / "x.png").save(here / "truth" / name)
    found, _ = figures("--truth", "truth")
    assert means(found["truth"]) == pytest.approx(MEANS, abs=1e-6)


@pytest.mark.parametrize("split", ["test", "train"])
def test_truth_that_is_of_another_slide_is_not_taken(here, split):
    write_dataset({"case1.ome": TRUE, "case1": TRUE}, NAMES)
    manifest = json.loads(Path("dataset", "dataset.json").read_text())
    manifest["slides"][1]["split"] = split
    Path("dataset", "dataset.json").write_text(json.dumps(manifest))
    write_predictions({"case1.ome": FOUND, "case1": FOUND}, NAMES)
    write_truth(here, TRUE, {"a": 1, "b": 2, "c": 3}, None)
    (here / "truth" / "s.png").rename(here / "truth" / "case1.png")
    assert 'no truth map of slide "case1.ome"' in fails("evaluate", "--truth", "truth")


def test_values_of_truth_without_names_are_the_datasets_and_it_is_said(here):
    write_dataset({"s": TRUE}, ("b", "a", "c"))
    write_predictions({"s": FOUND}, NAMES)
    write_truth(here, TRUE, {"b": 1, "a": 2, "c": 3}, None)
    found, _ = figures("--truth", "truth")
    assert means(found["truth"]) == pytest.approx(MEANS, abs=1e-6)
    (line,) = found["warnings"]
    assert "1 b, 2 a, 3 c" in line and VALUES_FILE in line


@pytest.mark.parametrize(
    ("table", "said"),
    [("value,class\n1,a\n2,b\n", "does not name it; add a row for it"), (None, f"name the values in a {VALUES_FILE}")],
)
def test_a_value_that_is_not_named(here, table, said):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    write_truth(here, TRUE, {"a": 1, "b": 2, "c": 77}, table)
    line = fails("evaluate", "--truth", "truth")
    assert "holds the value 77" in line and said in line and "s.png" in line


@pytest.mark.parametrize("kind", [np.uint16, "rgb"])
def test_truth_that_is_no_label_map(here, kind):
    """Of such pictures only a part of each pixel would be read."""
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    write_truth(here, TRUE, {"a": 1, "b": 2, "c": 3}, None)
    labels = numbers(TRUE, NAMES)
    picture = np.dstack([labels] * 3) if kind == "rgb" else labels.astype(np.uint16) + 256
    Image.fromarray(picture).save(here / "truth" / "s.png")
    assert "greyscale of 8 bits" in fails("evaluate", "--truth", "truth")


def test_labels_that_are_no_classes_of_the_model(here):
    write_dataset({"s": TRUE}, NAMES)
    write_predictions({"s": FOUND}, NAMES)
    labels = numbers(FOUND, NAMES)
    write_label_pyramid(here / "predictions" / f"s.{LABELS_SUFFIX}", [labels], (3, 3), 0.5, classes(("a", "b")))
    assert "holds the label 3, but its classes are 1 to 2" in fails("evaluate")


def printed(names, others=(), confusion=None):
    n = len(names)
    if confusion is None:
        confusion = np.zeros((n, n + len(others) + 1), np.int64)
        confusion[:, :n] = np.eye(n, dtype=np.int64) * 100
        confusion[0, n:] = 7
    found = figures_of(
        [confusion],
        names,
        others,
        Samples.of(["s"], [0.5], EvaluateOptions()),
        labelled=int(confusion.sum()),
        unpredicted=7,
    )
    return [*table_lines(found, skipped=False)]


NINE = [f"{tissue} {part}" for tissue in ("tumour", "normal", "necrosis") for part in ("gland", "stroma", "vessel")]


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["a", "b"], []),
        (NINE, []),
        (NINE, ["benign epithelial", "other"]),
        ([f"c{i}" for i in range(40)], ["x"]),
        (["Immune cells: lymphocytes, dense " + c for c in "ABC"], []),
        (["Carcinoma in situ of high grade with comedo necrosis, solid growth " + c for c in "ABC"], []),
    ],
)
def test_tables_fit_80_columns_and_name_every_class_apart(names, others):
    lines = printed(names, others)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for number, name in enumerate((*names, *others), start=1):
        assert f"{number} {name}" in text
    matrix = lines[next(i for i, line in enumerate(lines) if "confusion" in line) + 1 :]
    heads = [word for line in matrix if re.fullmatch(r"( +(\d+|none))+", line) for word in line.split()]
    assert heads == [*map(str, range(1, len(names) + len(others) + 1)), "none"]
    rows = [line for line in matrix if re.match(r"  1 .* [\d.-]+$", line)]
    cells = [cell for line in rows for cell in re.findall(r" +(\d+\.\d|-)(?= |$)", line)]
    assert len(cells) == len(heads)


def test_pairs_are_joined_by_name():
    truth, predicted = np.array([[1, 1, 2, 0, 7]], np.uint8), np.array([[2, 0, 1, 1, 3]], np.uint8)
    counts = pair_counts(truth, predicted)
    confusion = confusion_by_name(counts, {1: "a", 2: "b", 7: "a"}, {1: "b", 2: "a", 3: "z"}, ("a", "b", "z"), 2)
    assert confusion.tolist() == [[1, 0, 1, 1], [0, 1, 0, 0]]  # a: once right, once z, once nothing
