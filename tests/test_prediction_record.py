"""A prediction belongs to the file, model and options that it was made of: it is told at once, and never mixed up."""

import gzip
import json
import os
import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from dmmn_qp.console import Reporter
from dmmn_qp.errors import PredictedOtherwiseError, SlideError
from dmmn_qp.folders.predictions import polygons_of, read_inputs, read_predictions
from dmmn_qp.outputs import earlier
from dmmn_qp.outputs.earlier import drop_oldest, keep_earlier, run_folder
from dmmn_qp.outputs.options import POLYGON_OPTIONS
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import api, finishing, lazy_model
from dmmn_qp.predicting import run as stage_run
from dmmn_qp.predicting.api import predict_slide
from dmmn_qp.predicting.cluster_options import ClusterOptions
from dmmn_qp.predicting.inputs import SlideToPredict, slide_id_of
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.request import polygons_request, request_of
from dmmn_qp.predicting.stage import predict
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.view import SlideView
from tests.conftest import fails, invoke, rectangle, write_features, write_tiff
from tests.predicting import SwitchedOffError, no_picture, switched_off, writing
from tests.test_prediction_resume import command, labels_of, make_model, texture, written_strips

SIDES = (200, 300)
RICH = (
    "--tta", "--context", "patch", "--roi", "roi.geojson", "--tissue-only", "--tissue-margin-um", "10", "--outside",
    "background", "--probabilities", "--uncertainty", "--tissue-outline",
)  # fmt: skip
CPU = PredictOptions(device="cpu", precision="fp32")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing overviews would take most of the time."""
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Two models, a slide with areas on it, and predictions of it: ``plain`` and ``rich`` ones."""
    folder = tmp_path_factory.mktemp("material")
    make_model(folder / "m")
    make_model(folder / "other", seed=1)
    write_tiff(folder / "s.tif", texture(*SIDES))
    write_features(folder / "roi.geojson", [rectangle(20.5, 20, 150, 150, "a")])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
        for name, options in (("plain", ()), ("rich", RICH)):
            assert invoke(*command(folder), "--out", name, *options).exit_code == 0
    return folder


@pytest.fixture
def place(here, material):
    """A copy of the material to work in."""
    shutil.copytree(material, here, dirs_exist_ok=True)
    return here


def content(folder):
    """All files of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_of(folder):
    return json.loads((folder / "run.json").read_text())


def is_left_alone(folder, *words):
    before = content(folder)
    result = invoke(*words, "--out", folder)
    assert result.exit_code == 0, result.output
    assert "left as they are (--overwrite replaces them): s" in result.output and not result.stderr
    assert content(folder) == before


def is_refused(folder, *words):
    before = content(folder)
    line = fails(*words, "--out", folder)
    assert "pass --overwrite to predict it again, or another --out" in line
    assert content(folder) == before
    return line


LATER = [
    (("--tta",), "without --tta"),
    (("--context", "patch"), "with context shared instead of patch"),
    (("--precision", "bf16"), "in fp32 instead of bf16"),
    (("--probabilities",), "without --probabilities"),
    (("--uncertainty",), "without --uncertainty"),
    (("--tissue-outline",), "without --tissue-outline"),
    (("--tissue-only",), "without --tissue-only"),
    (("--roi", "roi.geojson"), "without --roi"),
    (("--roi", "roi.geojson", "--roi-class", "a"), "without --roi and --roi-class"),
    (("--tta", "--probabilities"), "without --tta and without --probabilities"),
]


@pytest.mark.parametrize(
    ("words", "said"), LATER, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_what_is_asked_for_later_is_not_what_is_there(place, words, said):
    assert is_refused(place / "plain", *command(place), *words).startswith(
        f'error: slide "s": predicted before {said};'
    )


def changed(*replaced, without=()):
    words = list(RICH)
    for word in without:
        at = words.index(word)
        del words[at : at + (1 if at + 1 == len(words) or words[at + 1].startswith("--") else 2)]
    for option, value in replaced:
        words[words.index(option) + 1] = value
    return words


LESS = [
    (changed(without=["--tta"]), "with --tta"),
    (changed(("--context", "seamless")), "with context patch instead of seamless"),
    (changed(without=["--roi"]), "with --roi"),
    (changed(without=["--tissue-only"]), "with --tissue-only"),
    (changed(("--tissue-margin-um", "20")), "with --tissue-margin-um 10 instead of 20"),
    (changed(("--outside", "unlabelled")), "with --outside background instead of unlabelled"),
    ([*RICH, "--tissue-min-area-um2", "5"], "with --tissue-min-area-um2 20000 instead of 5"),
    ([*RICH, "--tissue-min-hole-um2", "5"], "with --tissue-min-hole-um2 1000000 instead of 5"),
]


@pytest.mark.parametrize(("words", "said"), LESS, ids=[said for _, said in LESS])
def test_what_is_not_asked_for_any_more_differs_too(place, words, said):
    assert f"predicted before {said};" in is_refused(place / "rich", *command(place), *words)


@pytest.mark.parametrize(
    "words",
    [
        RICH,
        changed(without=["--probabilities", "--uncertainty", "--tissue-outline"]),
        [*RICH, "--batch-size", "2", "--workers", "1", "--precision", "auto"],
    ],
)
def test_what_changes_nothing(place, words):
    """More is there than asked for; how it is computed does not count."""
    is_left_alone(place / "rich", *command(place), *words)


def test_regions_go_by_their_outline(place):
    """Not by the name of the file, nor by what else is in it."""
    areas = [rectangle(20.5, 20, 150, 150, "a"), rectangle(0, 0, 9, 9, "b")]
    write_features(place / "moved.geojson", areas)
    is_left_alone(place / "rich", *command(place), *changed(("--roi", "moved.geojson")), "--roi-class", "a")
    write_features(place / "roi.geojson", [rectangle(20.5, 20, 150, 151, "a")])
    assert "predicted before in other regions (--roi);" in is_refused(place / "rich", *command(place), *RICH)


def test_outside_matters_only_where_there_is_an_outside(place):
    is_left_alone(place / "plain", *command(place), "--outside", "background", "--tissue-margin-um", "3")


@pytest.mark.parametrize("how", ["replaced", "from another folder"])
def test_another_slide_of_the_name(place, how):
    slide = place / "s.tif" if how == "replaced" else place / "elsewhere" / "s.tif"
    slide.parent.mkdir(exist_ok=True)
    write_tiff(slide, texture(*SIDES, seed=5))
    words = ("predict", slide, "--model", place / "m", "--precision", "fp32", "--device", "cpu")
    assert "predicted before from another file (its content differs);" in is_refused(place / "plain", *words)
    before = content(place / "plain")
    with pytest.raises(PredictedOtherwiseError, match="from another file"):
        predict_slide(slide, place / "m", place / "plain", CPU)
    assert content(place / "plain") == before
    found = predict_slide(slide, place / "m", place / "plain", CPU, overwrite=True)
    assert not np.array_equal(found.read_labels(), labels_of(place / "rich/s.labels.ome.tif"))
    assert read_inputs(place / "plain")["s"].fingerprint == fingerprint(slide)


def test_the_same_slide_elsewhere_is_the_same(place):
    (place / "elsewhere").mkdir()
    shutil.move(place / "s.tif", place / "elsewhere/s.tif")
    words = command(place / "elsewhere", model=place / "m")
    is_left_alone(place / "plain", *words)


def test_um_per_px_of_a_slide_that_does_not_say_it(place):
    Image.fromarray(texture(90, 80)).save(place / "x.png")
    words = ("predict", "x.png", "--model", "m", "--precision", "fp32", "--device", "cpu", "--out", "p")
    assert invoke(*words, "--mpp", "0.5").exit_code == 0
    assert "predicted before at 0.5 um/px instead of 0.25;" in fails(*words, "--mpp", "0.25")
    assert "left as they are" in invoke(*words, "--mpp", "0.5").output


def test_another_model_and_another_card(place):
    assert 'by another model ("m");' in is_refused(place / "plain", *command(place, model="other"))
    card = json.loads((place / "m/model.json").read_text())
    (place / "m/model.json").write_text(json.dumps({**card, "name": "renamed", "licence": "new"}))
    is_left_alone(place / "plain", *command(place))
    card["class_map"]["classes"][0]["name"] = "stroma"
    (place / "m/model.json").write_text(json.dumps(card))
    assert 'by another model ("m");' in is_refused(place / "plain", *command(place))


def test_one_of_several_differs(place):
    write_tiff(place / "t.tif", texture(80, 90, seed=2))
    write_tiff(place / "s.tif", texture(*SIDES, seed=5))
    before = (place / "plain/s.geojson").read_bytes()
    result = invoke(*command(place, "s", "t"), "--out", "plain")
    assert result.exit_code == 1 and (place / "plain/t.geojson").is_file()
    assert 'warning: s is left out: slide "s": predicted before from another file' in " ".join(result.stderr.split())
    assert (place / "plain/s.geojson").read_bytes() == before
    run = run_of(place / "plain")
    assert run["slides"] == ["t"] and list(run["failed"]) == ["s"] and set(run["predictions"]) == {"s", "t"}
    assert run["inputs"]["s"]["fingerprint"] != fingerprint(place / "s.tif")


def test_a_replacement_that_was_begun_goes_on_only_as_it_was_begun(place, monkeypatch):
    """Other options are still asked for without --overwrite, and what is finished is still what it is."""
    begun = (*command(place), "--tta", "--out", "plain")
    with written_strips(monkeypatch, stop_before=0):
        switched_off(*begun, "--overwrite")
    assert "without --probabilities" in is_refused(place / "plain", *command(place), "--probabilities")
    is_left_alone(place / "plain", *command(place))
    result = invoke(*command(place), "--simplify-um", "2", "--out", "plain")
    assert result.exit_code == 0 and "polygons made anew" in result.output
    assert invoke(*begun, "--simplify-um", "2").exit_code == 1  # those polygons are newer than what was begun
    with written_strips(monkeypatch, stop_before=0):
        switched_off(*begun, "--overwrite")
    assert invoke(*begun).exit_code == 0
    assert read_predictions(place / "plain")["s"].request["tta"] is True


def test_names_that_differ_in_case_where_case_does_not_count(place):
    """As on Windows and macOS; here two names are given to one file."""
    os.link(place / "plain/s.geojson", place / "plain/S.geojson")
    write_tiff(place / "S.tif", texture(*SIDES, seed=5))
    assert 'slide "S": predicted before from another file' in is_refused(place / "plain", *command(place, "S"))


def test_equal_names_in_one_call_are_refused(place):
    for name in ("s", "S"):
        twice = [SlideToPredict("s", SlideView(place / "s.tif")), SlideToPredict(name, SlideView(place / "other.tif"))]
        with pytest.raises(SlideError, match="would both be written as"):
            predict(place / "m", twice, place / "p", CPU, Reporter())


# ---- what run.json tells


def test_record(place):
    record, image = read_predictions(place / "rich")["s"], read_inputs(place / "rich")["s"]
    assert record.run_id == run_of(place / "rich")["run_id"] and record.model == "m" and record.model_run == "run-0"
    assert record.class_map is not None and record.class_map.names == ("background", "b", "c")
    assert record.request["context"] == "patch" and record.request["tta"] is True
    assert record.request["um_per_px"] == pytest.approx(0.5) and record.request["precision"] == "fp32"
    assert record.polygons["simplify_um"] == 1 and record.labels_run is None
    kinds = ("labels.ome.tif", "probabilities.ome.tif", "uncertainty.ome.tif", "tissue.geojson")
    assert record.files == {kind: fingerprint(place / "rich" / f"s.{kind}") for kind in kinds}
    assert image.fingerprint == fingerprint(place / "s.tif") and (image.width, image.height) == SIDES[::-1]


@pytest.mark.parametrize(
    ("name", "is_folder", "slide_id"),
    [("s.tif", False, "s"), ("s.ome.zarr", True, "s.ome"), ("scan.1", True, "scan.1")],
)
def test_python_predicts_under_the_name_that_the_command_takes(here, monkeypatch, name, is_folder, slide_id):
    (here / name).mkdir() if is_folder else (here / name).touch()
    monkeypatch.setattr(api, "predict", lambda _, slides, out, *__, **___: {one.slide_id: out for one in slides})
    assert predict_slide(here / name, here / "m", here / "p").slide_id == slide_id == slide_id_of(here / name)


def test_every_option_is_of_the_labels_or_the_polygons_or_neither():
    """A new option must be put into one of them: what is in none would be asked for later without a word."""
    neither = {"force_mpp", "batch_size", "device", "devices", "compile", "workers", "threads", "labels", "dicom_seg"}
    neither |= {*ClusterOptions.model_fields}
    target = SlideToPredict("s", SlideView(Path("s.tif")))
    told = request_of(target, PredictOptions(views=3), mpp=0.5, context="patch", precision=None, regions=None)
    of_labels = set(told) - {"um_per_px", "regions", "roi"} | {"mpp"}
    assert set(polygons_request(PredictOptions())) == set(POLYGON_OPTIONS)
    groups = (neither, of_labels, set(POLYGON_OPTIONS))
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert set().union(*groups) == set(PredictOptions.model_fields)


def test_finished_slides_are_told_at_once(place, monkeypatch):
    """Of three, the second is switched off while it is predicted; the folder held another one before."""
    for seed, name in enumerate("tu"):
        write_tiff(place / f"{name}.tif", texture(80, 90, seed))
    assert invoke(*command(place, model="other"), "--out", "p").exit_code == 0
    first = run_of(place / "p")["predictions"]["s"]
    plain = stage_run.predict_strips

    def stop_at_u(job, *rest):
        if job.target.slide_id == "u":
            raise SwitchedOffError
        plain(job, *rest)

    monkeypatch.setattr(stage_run, "predict_strips", stop_at_u)
    switched_off(*command(place, "t", "u"), "--out", "p")
    run = run_of(place / "p")
    assert run["slides"] == ["t"] and run["predictions"]["s"] == first and set(run["inputs"]) == {"s", "t"}
    assert run["predictions"]["t"]["model"] == "m" and run["predictions"]["t"]["run_id"] == run["run_id"]
    readme = (place / "p/README.txt").read_text()
    assert "Model:    m\n" in readme and run["run_id"] in readme


def test_records_of_others_are_kept_and_of_what_is_gone_are_not(place):
    write_tiff(place / "t.tif", texture(80, 90))
    path = place / "plain/run.json"
    run = run_of(place / "plain")
    run["predictions"]["s"]["of a later version"] = [1]
    run["predictions"]["gone"] = run["predictions"]["s"]
    path.write_text(json.dumps(run))
    assert invoke(*command(place, "t"), "--out", "plain").exit_code == 0
    assert set(run_of(place / "plain")["predictions"]) == {"s", "t"}
    assert run_of(place / "plain")["predictions"]["s"]["of a later version"] == [1]


OLD = ("weights", "card", "class_map", "request", "polygons", "files")


@pytest.mark.parametrize(
    ("damage", "model", "said"),
    [
        (lambda run: None, "m", "cannot be compared"),
        (lambda run: None, "other", 'by another model ("m");'),
        (lambda run: run["inputs"]["s"].update(fingerprint="0" * 32), "m", "from another file"),
        (lambda run: run.update(predictions={}, inputs={}), "m", "cannot be compared"),
        (lambda run: run.update(predictions={}, inputs={}), "other", 'by another model ("m");'),
        (lambda run: run["inputs"].clear(), "m", "cannot be compared"),
        (lambda run: run.clear(), "m", "cannot be compared"),
    ],
)
def test_run_json_of_older_versions(place, damage, model, said):
    run = run_of(place / "plain")
    for key in OLD:
        del run["predictions"]["s"][key]
    damage(run)
    (place / "plain/run.json").write_text(json.dumps(run))
    words = (*command(place, model=model), "--tta", "--gzip")
    if "compared" not in said:
        assert said in is_refused(place / "plain", *words)
        return
    before = content(place / "plain")
    result = invoke(*words, "--out", "plain")
    assert result.exit_code == 0 and "left as they are" in result.output
    assert said in result.stderr and content(place / "plain") == before


def test_tissue_alone_that_ended_with_whole_targets(place):
    """Earlier versions did not cut it at the outline, and their records do not say where it ends."""
    run = run_of(place / "rich")
    del run["predictions"]["s"]["request"]["tissue_border"]
    (place / "rich/run.json").write_text(json.dumps(run))
    before = content(place / "rich")
    result = invoke(*command(place), *RICH, "--out", "rich")
    assert result.exit_code == 0 and "cannot be compared" in result.stderr
    assert content(place / "rich") == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"predictions": {"s": 3}, "inputs": 4}', b"\xff"])
def test_damaged_run_json(place, damage):
    (place / "plain/run.json").write_bytes(damage)
    result = invoke(*command(place), "--out", "plain")
    assert result.exit_code == 0 and "cannot be compared" in result.stderr


def test_what_a_record_says_is_shown_in_one_line(place):
    run = run_of(place / "plain")
    run["predictions"]["s"]["request"]["context"] = "a\n[red]b\x1b[31m" + "c" * 9999
    run["predictions"]["s"]["request"]["um_per_px"] = {"x": 1}
    (place / "plain/run.json").write_text(json.dumps(run))
    assert len(is_refused(place / "plain", *command(place))) < 400


# ---- polygons made anew


REMADE = [
    ("--simplify-um", "3"),
    ("--min-area-um2", "20"),
    ("--min-hole-um2", "inf"),
    ("--merge", "class"),
    ("--as", "detection"),
    ("--max-vertices", "100"),
    ("--gzip",),
    ("--with-ignored",),
]


@pytest.mark.parametrize("words", REMADE, ids=lambda words: words[0])
def test_polygons_are_made_anew_from_the_labels(place, monkeypatch, words):
    folder = place / "plain"
    before, record = content(folder), read_predictions(folder)["s"]
    with monkeypatch.context() as patch:
        patch.setattr(lazy_model, "load_predictors", None)  # no network is made
        result = invoke(*command(place), "--out", "plain", *words)
    assert result.exit_code == 0 and not result.stderr, result.output
    assert f"s: polygons made anew from its labels, without predicting ({'' if words[1:] else 'with '}{words[0]}" in (
        result.output
    )
    after = content(folder)
    assert {path for path in before if path not in after} == ({Path("s.geojson")} if words == ("--gzip",) else set())
    touched = {Path(name) for name in ("run.json", "README.txt", "s.geojson")}
    assert all(after[path] == before[path] for path in before if path not in touched)
    new = read_predictions(folder)["s"]
    assert new.run_id == run_of(folder)["run_id"] != record.run_id and new.labels_run == record.run_id
    assert new.request == record.request and new.files == record.files
    kept = folder / "earlier" / record.run_id / "s.geojson.gz"
    assert gzip.decompress(kept.read_bytes()) == before[Path("s.geojson")]
    is_left_alone(folder, *command(place), *words)
    assert invoke(*command(place), "--out", "direct", *words).exit_code == 0
    found, direct = (read_geojson(polygons_of(place / name, "s")).annotations for name in ("plain", "direct"))
    assert [(a.annotation_id, a.geometry, a.kind, a.measurements) for a in found] == [
        (a.annotation_id, a.geometry, a.kind, a.measurements) for a in direct
    ]
    runs = {a.metadata.get("dmmn_qp_run") for a in found}
    assert runs == ({None} if "--as" in words else {new.run_id})  # detections have no metadata


def test_an_earlier_default_is_made_anew_and_said(place):
    """Before small regions were dissolved by default, records said 0."""
    folder = place / "plain"
    assert invoke(*command(place), "--out", "plain", "--min-area-um2", "0").exit_code == 0
    labels = (folder / "s.labels.ome.tif").read_bytes()
    result = invoke(*command(place), "--out", "plain")
    assert result.exit_code == 0 and not result.stderr, result.output
    assert "without predicting (--min-area-um2 200 instead of 0); those of before are kept in plain/earlier/" in (
        result.output
    )
    assert (folder / "s.labels.ome.tif").read_bytes() == labels
    assert run_of(folder)["predictions"]["s"]["objects"]["dissolved"]
    is_left_alone(folder, *command(place))


def test_polygons_that_another_program_wrote_again_are_left_alone(place):
    """QuPath's export in the place of ours: what was corrected in it is not replaced."""
    path = place / "plain/s.geojson"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    before = content(place / "plain")
    result = invoke(*command(place), "--out", "plain", "--simplify-um", "3")
    assert result.exit_code == 0 and content(place / "plain") == before
    assert 's: "s.geojson" is not as it was predicted' in result.stderr
    assert "(--simplify-um 3 instead of 1); move it away" in result.stderr
    path.rename(place / "reviewed.geojson")
    assert "polygons made anew" in invoke(*command(place), "--out", "plain", "--simplify-um", "3").output


def test_labels_run_stays_that_of_the_labels(place):
    first = read_predictions(place / "plain")["s"].run_id
    for um in ("2", "3"):
        assert invoke(*command(place), "--out", "plain", "--simplify-um", um).exit_code == 0
    assert read_predictions(place / "plain")["s"].labels_run == first
    assert len(list((place / "plain/earlier").iterdir())) == 2


@pytest.mark.parametrize("lost", ["", "removed", "changed", "labels too"])
def test_mean_probability_of_polygons_that_are_made_anew(place, lost):
    def means():
        return {a.annotation_id: a.measurements.get("Mean probability") for a in read_geojson(path).annotations}

    path, probabilities = place / "rich/s.geojson", place / "rich/s.probabilities.ome.tif"
    before = means()
    if lost == "changed":
        with probabilities.open("ab") as file:
            file.write(b"\0")
    elif lost:
        probabilities.unlink()
    if lost == "labels too":
        (place / "rich/s.labels.ome.tif").unlink()
    wanted = changed(without=["--probabilities"])
    result = invoke(*command(place), "--out", "rich", *wanted, "--as", "detection")
    assert result.exit_code == 0, result.output
    again = "s.labels.ome.tif is missing or was changed; it is predicted again" in result.output
    assert again == (lost == "labels too") and None not in before.values()
    if lost in ("removed", "changed"):
        assert set(means().values()) == {None} and "s: its new polygons have no mean probability" in result.stderr
    else:
        assert means() == before and not result.stderr


def test_polygons_alone_are_missing(place, monkeypatch):
    before = read_geojson(place / "plain/s.geojson").annotations
    (place / "plain/s.geojson").unlink()
    monkeypatch.setattr(lazy_model, "load_predictors", None)
    assert "polygons made anew" in invoke(*command(place), "--out", "plain").output
    found = read_geojson(place / "plain/s.geojson").annotations
    assert [a.annotation_id for a in found] == [a.annotation_id for a in before]


@pytest.mark.parametrize("damage", ["missing", "changed", "damaged"])
@pytest.mark.parametrize("words", [(), ("--simplify-um", "2")])
def test_labels_that_are_not_those_recorded_are_predicted_again(place, damage, words):
    path = place / "plain/s.labels.ome.tif"
    expected = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        shutil.copy(place / "rich/s.labels.ome.tif", path)
    else:  # so that only reading it tells
        path.write_bytes(expected[: len(expected) // 2])
        run = run_of(place / "plain")
        run["predictions"]["s"]["files"]["labels.ome.tif"] = fingerprint(path)
        (place / "plain/run.json").write_text(json.dumps(run))
        words = words or ("--gzip",)
    result = invoke(*command(place), "--out", "plain", *words)
    assert result.exit_code == 0 and "it is predicted again" in result.output, result.output
    assert path.read_bytes() == expected


def test_an_infinite_option_is_the_same_when_it_is_read_again(place):
    words = (*command(place), "--tissue-only", "--tissue-min-hole-um2", "inf", "--min-hole-um2", "inf")
    assert invoke(*words, "--out", "p").exit_code == 0
    is_left_alone(place / "p", *words)
    words = [*words, "--tissue-min-hole-um2", "5"]
    assert "with --tissue-min-hole-um2 inf instead of 5;" in is_refused(place / "p", *words)


def test_files_of_the_replaced_prediction_do_not_stay(place):
    assert invoke(*command(place, model="other"), "--out", "rich", "--overwrite").exit_code == 0
    names = {path.name for path in (place / "rich").iterdir()}
    assert names == {
        "areas.csv",
        "earlier",
        "README.txt",
        "run.json",
        "s.geojson",
        "s.labels.ome.tif",
        "s.overview.png",
    }


# ---- replaced polygons


def test_replaced_polygons_are_kept(place):
    old, run = (place / "plain/s.geojson").read_bytes(), run_of(place / "plain")["run_id"]
    assert invoke(*command(place, model="other"), "--out", "plain", "--overwrite", "--gzip").exit_code == 0
    kept = place / "plain/earlier" / run / "s.geojson.gz"
    assert gzip.decompress(kept.read_bytes()) == old and not (place / "plain/s.geojson").exists()
    packed = (place / "plain/s.geojson.gz").read_bytes()
    second = run_of(place / "plain")["run_id"]
    assert invoke(*command(place), "--out", "plain", "--overwrite").exit_code == 0
    assert (place / "plain/earlier" / second / "s.geojson.gz").read_bytes() == packed
    text = (place / "plain/README.txt").read_text()
    assert "earlier/<run>/<slide>.geojson.gz" in text and "delete this folder at any time" in text
    shutil.rmtree(place / "plain/earlier")
    is_left_alone(place / "plain", *command(place))


def test_run_of_replaced_polygons_that_no_record_tells(place):
    run = run_of(place / "plain")["run_id"]
    (place / "plain/run.json").unlink()
    assert invoke(*command(place), "--out", "plain", "--overwrite").exit_code == 0
    assert (place / "plain/earlier" / run / "s.geojson.gz").is_file()


UUID_TEXT = "0c5f1f0e-1111-4222-8333-444455556666"


@pytest.mark.parametrize(
    ("told", "folder"),
    [
        (UUID_TEXT, UUID_TEXT),
        (UUID_TEXT.upper(), "unknown"),
        (f"../{UUID_TEXT}", "unknown"),
        (UUID_TEXT[1:], "unknown"),
        ("../..", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        (7, "unknown"),
        ("unknown", "unknown"),
    ],
)
def test_run_ids_that_name_a_folder(tmp_path, told, folder):
    assert run_folder(told) == folder
    (tmp_path / "s.geojson").write_text("{}")
    assert keep_earlier(tmp_path, "s", tmp_path / "s.geojson", told) == tmp_path / "earlier" / folder / "s.geojson.gz"


def test_equal_copies_once_and_different_ones_both(tmp_path):
    for text in ("one", "one", "two", "two", "one"):
        (tmp_path / "s.geojson").write_text(text)
        keep_earlier(tmp_path, "s", tmp_path / "s.geojson", None)
    kept = {gzip.decompress(path.read_bytes()) for path in (tmp_path / "earlier").rglob("*.gz")}
    assert kept == {b"one", b"two"} and len(list((tmp_path / "earlier").rglob("*.gz"))) == 2
    assert len(list((tmp_path / "earlier").iterdir())) == 2


def test_the_oldest_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(earlier, "EARLIER_RUNS", 3)
    runs = [str(uuid4()) for _ in range(5)]
    for i, run in enumerate(runs):
        for name in ("s", "t")[: 1 if i else 2]:
            (tmp_path / f"{name}.geojson").write_text(f"{i}")
            path = keep_earlier(tmp_path, name, tmp_path / f"{name}.geojson", run)
            set_time(path, i)
    (tmp_path / "earlier/mine").mkdir()
    (tmp_path / "earlier/mine/s.geojson.gz").write_bytes(b"a user's")
    assert drop_oldest(tmp_path, "s") == 2 and drop_oldest(tmp_path, "s") == 0
    left = {path.parent.name for path in (tmp_path / "earlier").rglob("s.geojson.gz")}
    assert left == {"mine", *runs[2:]}
    assert (tmp_path / "earlier" / runs[0] / "t.geojson.gz").is_file()  # of another slide
    assert not (tmp_path / "earlier" / runs[1]).exists()
    size = (tmp_path / "earlier" / runs[4] / "s.geojson.gz").stat().st_size
    monkeypatch.setattr(earlier, "EARLIER_BYTES", 2 * size)
    assert drop_oldest(tmp_path, "s") == 2
    assert {path.parent.name for path in (tmp_path / "earlier").rglob("*.gz")} == {"mine", runs[3], runs[4]}
    monkeypatch.setattr(earlier, "EARLIER_BYTES", 0)
    assert drop_oldest(tmp_path, "s") == 1  # the newest stays
    assert (tmp_path / "earlier" / runs[4] / "s.geojson.gz").is_file()


def set_time(path, seconds):
    os.utime(path, (seconds, seconds))


def test_what_is_dropped_is_said(place, monkeypatch):
    monkeypatch.setattr(earlier, "EARLIER_RUNS", 1)
    outputs = [invoke(*command(place), "--out", "plain", "--simplify-um", um).output for um in ("2", "3")]
    said = "Removed the 1 oldest of the replaced polygons in plain/earlier/"
    assert said not in outputs[0] and said in outputs[1]


# ---- interrupted between any two steps


def publish_until(monkeypatch, step, *words):
    """Runs a command that is switched off before the given change that publishing makes on disk; whether it was."""
    plain, changes = finishing.publish, []

    def counted(change):
        def wrapped(*arguments, **options):
            if publishing_now and len(changes) >= step:
                raise SwitchedOffError
            if publishing_now:
                changes.append(arguments[0])
            return change(*arguments, **options)

        return wrapped

    publishing_now = []

    def publish(*arguments):
        publishing_now.append(True)
        outcome = plain(*arguments)
        publishing_now.clear()
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "publish", publish)
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        try:
            result = invoke(*words)
        except SwitchedOffError:  # from then on nothing happens on disk, no tidying up either
            return True
    assert result.exit_code == 0, result.output
    return False


def assert_told_as_it_is(folder, old):
    """Whoever sees polygons sees what they are of; the earlier ones are there or in ``earlier/``."""
    polygons, record = polygons_of(folder, "s"), read_predictions(folder).get("s")
    seen = [path for path in (folder / "s.geojson", folder / "s.geojson.gz") if path.exists()]
    assert len(seen) <= 1
    labels = folder / "s.labels.ome.tif"
    if record is not None:
        assert record.files["labels.ome.tif"] == fingerprint(labels)
        assert read_inputs(folder)["s"].fingerprint
    if polygons is not None:
        objects = read_geojson(polygons).annotations
        assert record is not None
        assert {a.metadata["dmmn_qp_run"] for a in objects} == {record.run_id}
        assert {a.metadata["dmmn_qp"] for a in objects} == {record.model}
        assert f"Model:    {record.model}\n" in (folder / "README.txt").read_text()
    if old is None:
        return
    kept = list((folder / "earlier").rglob("s.geojson.gz"))
    contents = [gzip.decompress(path.read_bytes()) for path in kept if path.is_file()]
    assert old in contents or (polygons is not None and polygons.read_bytes() == old)


@pytest.mark.engine
@pytest.mark.parametrize("what", ["first", "overwrite", "remake"])
def test_switched_off_between_any_two_steps(place, monkeypatch, what):
    words = [*command(place, model="m" if what == "remake" else "other"), "--out", "p"]
    old = None
    if what != "first":
        old = (place / "plain/s.geojson").read_bytes()
        shutil.copytree(place / "plain", place / "before")
    if what == "overwrite":
        words.append("--overwrite")
    elif what == "remake":
        words += ["--simplify-um", "3", "--gzip"]
    for step in range(40):
        shutil.rmtree(place / "p", ignore_errors=True)
        if what != "first":
            shutil.copytree(place / "before", place / "p")
        was_stopped = publish_until(monkeypatch, step, *words)
        assert_told_as_it_is(place / "p", old)
        if not was_stopped:
            break
        if step == 0 and what != "remake":  # its strips are finished from now on
            shutil.rmtree(place / "before", ignore_errors=True)
            shutil.copytree(place / "p", place / "before")
            what = "overwrite" if what == "overwrite" else "begun"
        again = [word for word in words if word != "--overwrite"]
        with written_strips(monkeypatch) as numbers:
            result = invoke(*again)
        assert result.exit_code == 0 and numbers == [], result.output
        assert_told_as_it_is(place / "p", old)
        assert polygons_of(place / "p", "s") is not None and not list((place / "p").rglob(".*.part"))
        assert read_predictions(place / "p")["s"].model == ("m" if what == "remake" else "other")
    else:
        pytest.fail("it never ended")
    assert step >= (7 if old is not None else 6)


def test_a_failure_leaves_the_earlier_prediction_as_it_is(place, monkeypatch):
    """Nothing is replaced before everything new is there."""
    before = content(place / "plain")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(WRITERS, "geojson", writing("geojson", no_space))
    for words in (("--overwrite",), ("--simplify-um", "2")):
        assert invoke(*command(place), "--out", "plain", *words).exit_code == 1
        after = content(place / "plain")
        assert {path: after[path] for path in before} == before
        left = list((place / "plain").glob(".s.part/*.labels.zst"))
        assert bool(left) == ("--overwrite" in words)  # what was predicted goes on from there
        shutil.rmtree(place / "plain/.s.part", ignore_errors=True)
