"""`dmmn-qp reproduce`: the command of a run, what differs now, and the run again; its file is anybody's."""

import json
import os
import shlex
import shutil

import pytest
import torch
import typer
from typer.testing import CliRunner

from dmmn_qp.cli.config import ConfigFile, import_options, load_config, predict_options, train_options
from dmmn_qp.cli.model_options import flag_of, with_options
from dmmn_qp.cli.reproducing import command_of, typed_options
from dmmn_qp.folders import provenance
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model_glance import read_object
from dmmn_qp.folders.provenance import code_digest
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.outputs.options import OutputOptions
from dmmn_qp.predicting.cluster_options import ClusterOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.training.options import PRESETS, TrainOptions
from dmmn_qp.training.plan import new_network
from dmmn_qp.workflows import reproducing
from dmmn_qp.workflows.drift import differences
from dmmn_qp.workflows.recorded import read_run
from tests.conftest import fails, invoke, tiny_training

GIVEN = {
    "import": {
        "mpps": (0.25, 0.5), "mpp": 0.1, "force_mpp": True, "mpp_csv": "/a b/mpp.csv", "split_key": "-s",
        "drop": ("-x", "a b"),
        "merge_case": True, "overlap": "smallest", "line_width_um": 1e-7, "region_class": "R*", "split_file": "/s.csv",
        "split_areas": True, "case_pattern": "^'[^_]+", "seed": 3, "kinds": ("annotation", "cell"), "plane": (2, 1),
        "reader": "paquo", "qupath_dir": "/q", "recursive": True, "workers": 2, "strict": True,
        "take_predictions": "all", "predicted_in": "/p", "classes": {"a": "b"}, "stride_px": 128,
    },
    "train": {
        "preset": "paper", "architecture": "unet", "encoder": "efficientnet-lite1", "encoder_weights": "/w", "views": 8,
        "encoder_licence": "A; $(touch x)", "self_training": 0, "width": 5, "epochs": 7, "steps_per_epoch": 9,
        "batch_size": 2, "corrections": 1.5, "cache_mib": 9, "learning_rate": 1e-05, "precision": "bf16",
        "device": "cpu", "devices": 2, "workers": 0, "threads": 3, "seed": 4, "start_from": "/m", "freeze": "encoder",
        "validate_on": "train", "norm": "group", "zoom": 1.2, "tensorboard": True,
    },
    "predict": {
        "batch_size": 3, "context": "patch", "precision": "fp32", "device": "cpu", "devices": 2, "compile": True,
        "workers": 2, "threads": 3, "views": 3, "tta": True, "mpp": 0.3, "force_mpp": True, "tissue_only": True,
        "tissue_min_area_um2": 1.0, "tissue_min_hole_um2": float("inf"), "tissue_margin_um": 2.5,
        "roi_class": "Region*", "outside": "background",
        "probabilities": True, "uncertainty": True, "tissue_outline": True, "simplify_um": 0.0, "min_area_um2": 7.0,
        "min_hole_um2": 1.0, "merge": "class", "object_kind": "detection", "max_vertices": 500, "gzip": True,
        "with_ignored": True, "labels": "zarr", "dicom_seg": True,
    },
}  # fmt: skip
MODELS = {
    "import": (ImportOptions, import_options),
    "train": (TrainOptions, train_options),
    "predict": (PredictOptions, predict_options),
}


def test_options_above_are_all_that_can_be_typed():
    for stage, (model, _) in MODELS.items():
        flagged = {name for name, field in model.model_fields.items() if flag_of(field) is not None}
        flagged -= ClusterOptions.model_fields.keys()  # who computes it is said anew
        assert flagged <= GIVEN[stage].keys(), flagged - GIVEN[stage].keys()
    assert issubclass(PredictOptions, OutputOptions)


@pytest.mark.parametrize("stage", MODELS)
def test_options_of_a_run_are_typed_and_read_as_they_were(stage, tmp_path, monkeypatch):
    """All of them: through the command line, and through the file where there is no option."""
    monkeypatch.chdir(tmp_path)
    model, resolved = MODELS[stage]
    options = model.model_validate(GIVEN[stage])
    run = {"stage": stage, "configuration": options.model_dump(mode="json")}
    (tmp_path / "run.json").write_text(json.dumps(run))
    recorded = read_run(tmp_path)
    assert recorded.options == options
    words, toml = command_of(recorded, tmp_path / "new", None)
    (tmp_path / "again.toml").write_text(toml or "")
    seen, app = [], typer.Typer()

    @app.command()
    @with_options(model)
    def command(*, given: dict) -> None:
        seen.append(given)

    shown = shlex.split(shlex.join(typed_options(options)[0]))  # as a shell reads what is printed
    result = CliRunner().invoke(app, shown)
    assert result.exit_code == 0, result.output
    file = load_config(tmp_path / "again.toml") if toml else ConfigFile()
    assert resolved(file, seen[0]) == options
    assert (("--config" in words) == (toml is not None)) and words[-1] == "again.toml" if toml else True


def test_a_source_that_begins_with_a_dash_is_no_option(here):
    (here / "run.json").write_text(json.dumps({"stage": "import", "configuration": {"source": "-o p"}}))
    words, _ = command_of(read_run(here), None, None)
    assert words == ["dmmn-qp", "import", "./-o p", "--out", f"{here.name}-again"]


@pytest.mark.parametrize("preset", PRESETS)
def test_defaults_of_a_preset_need_not_be_typed(preset):
    options = train_options(ConfigFile(), {"preset": preset})
    assert typed_options(options) == ([] if preset == "fast" else ["--preset", preset], [])


@pytest.mark.parametrize(("architecture", "rest"), [("dmmn-p", []), ("unet", ["norm", "stem"])])
def test_what_the_encoder_decides_need_not_be_typed(architecture, rest):
    options = TrainOptions(preset="scratch", architecture=architecture, norm="none", stem="full")
    assert typed_options(options)[1] == rest
    if not rest:
        named = (new_network(o, torch.device("cpu")) for o in (options, TrainOptions(architecture=architecture)))
        assert next(named) == next(named)


def test_the_digest_of_the_code_is_of_its_source_files_alone(tmp_path, monkeypatch):
    package = tmp_path / "p"
    (package / "folders").mkdir(parents=True)
    (package / "folders" / "provenance.py").write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(package / "folders" / "provenance.py"))
    of_now = code_digest.__wrapped__
    before = of_now()
    (package / ".#a.py").symlink_to("me@here.7:1")  # as Emacs marks a file that is being changed
    (package / "b.pyc").write_text("2")
    assert of_now() == before
    (package / "a.py").write_text("")
    assert of_now() != before


@pytest.fixture
def runs(workspace, here):
    """A workspace of its own."""
    for name in ("dataset", "models", "predictions"):
        shutil.copytree(workspace / name, here / name)
    return here


def changed(path, change):
    """Changes a run.json; returns its folder."""
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))
    return path.parent


def model_of(runs):
    (folder,) = (runs / "models").iterdir()
    return folder


def test_what_differs_is_told(runs, two_tissue_slides):
    model = model_of(runs)
    assert differences(read_run(runs / "dataset"), None) == []
    assert differences(read_run(model), runs / "dataset") == []
    assert differences(read_run(runs / "predictions"), None) == []
    assert "Nothing that is known differs now" in invoke("reproduce", model, "--dataset", "dataset").output

    def age(facts):
        facts |= {"version": "0.0.1", "code": "0" * 16}
        facts["libraries"] |= {"numpy": "1.0", "shapely": None}

    found = differences(read_run(changed(model / "run.json", age)), runs / "dataset")
    assert [d.what for d in found] == ["dmmn-qp", "code", "numpy", "shapely"]
    assert found[0].then == "0.0.1" and found[1].now == code_digest() and found[3].then == "not there"

    manifest = json.loads((runs / "dataset" / "dataset.json").read_text())
    manifest["slides"][0]["fingerprint"] = "f" * 32
    (runs / "dataset" / "dataset.json").write_text(json.dumps(manifest))
    of_dataset = {d.what for d in differences(read_run(model), runs / "dataset")} - {d.what for d in found}
    assert of_dataset == {'dataset "dataset"', 'slide "a"'}
    assert {d.what for d in differences(read_run(runs / "dataset"), None)} == {'slide "a"'}
    assert "dataset" in {d.what for d in differences(read_run(model), None)}

    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"weights_sha256": "0" * 64}))
    gone = {"path": str(runs / "gone.tif")}
    folder = changed(runs / "predictions" / "run.json", lambda facts: facts["inputs"]["b"].update(gone))
    predicted = differences(read_run(folder), None)
    assert [(d.what.split(" ")[0], d.now) for d in predicted] == [("slide", "not there"), ("weights", "0" * 12)]


def test_an_import_and_a_prediction_come_to_the_same(runs):
    result = invoke("reproduce", "dataset", "--run", "--out", "again")
    assert result.exit_code == 0, result.output
    assert "the same dataset" in result.output and Dataset("again").manifest == Dataset("dataset").manifest
    changed(runs / "predictions" / "run.json", lambda facts: [facts["inputs"].pop(name) for name in "bc"])
    result = invoke("reproduce", "predictions", "--run", "--out", "p")
    assert result.exit_code == 0, result.output
    assert "a: the same labels" in result.output
    before = {path.name for path in runs.iterdir()}
    for out in ("dataset", "predictions", "again-loop"):
        assert "reproduce replaces nothing" in fails("reproduce", "predictions", "--run", "--out", out)
    assert "--out" in fails("reproduce", "predictions", "--run")
    assert {path.name for path in runs.iterdir()} == before


@pytest.mark.engine  # two trainings more
def test_a_training_comes_to_the_same_weights(runs):
    assert invoke("train", "--out", "m", *tiny_training(epochs=1, steps=3)).exit_code == 0
    result = invoke("reproduce", "m", "--run", "--out", "m2")
    assert result.exit_code == 0, result.output
    assert "the same weights, bit for bit" in result.output and f"--dataset {runs / 'dataset'}" in result.output
    changed(runs / "m" / "run.json", lambda facts: facts["configuration"].update(seed=1))
    result = invoke("reproduce", "m", "--run", "--out", "m3")
    assert "other weights; validation mIoU" in result.output


def put(name, value):
    return lambda facts: facts["configuration"].update({name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("overwrite", True), "does not know (overwrite)"),
        (put("into", "p.qpproj"), "does not know (into)"),
        (put("source", "https://example.org/p.qpproj"), "is on no disk of this machine"),
        (put("split_file", "s3://bucket/splits.csv"), "is on no disk of this machine"),
        (put("source", "\\\\server\\share\\p.qpproj"), "is on no disk of this machine"),
        (put("annotations", "//server/share"), "is on no disk of this machine"),
        (lambda facts: facts.update(slides_roots=["file:///etc"]), "is on no disk of this machine"),
        (put("source", "a\x1b[2Jb"), "characters that cannot be shown"),
        (put("drop", ["x\ndmmn-qp clean"]), "characters that cannot be shown"),
        (put("source", ["a", 7]), "names no source"),
        (put("annotations", ["a", "b"]), "names no single annotations"),
        (put("source", None), "does not say what was imported"),
        (put("seed", "rm -rf"), "impossible option"),
        (put("seed", {"a": [1] * 10}), "impossible option"),
        (lambda facts: facts.update(stage="push"), 'is of "push"; what can be reproduced is import, train, predict'),
        (lambda facts: facts.update(stage=["import"]), "a command that it does not name"),
        (lambda facts: facts.update(configuration=[]), "does not say the options"),
    ],
)
def test_a_hostile_file_runs_nothing(runs, change, said):
    changed(runs / "dataset" / "run.json", change)
    before = {path.name for path in runs.iterdir()}
    assert said in fails("reproduce", "dataset", "--run", "--out", "again").replace("\\\\", "\\")
    assert {path.name for path in runs.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[", "[1]", "[" * 100_000, '{"stage": NaN}', "\x00"])
def test_what_is_no_run_json_is_one_line(here, text):
    (here / "run.json").write_text(text)
    assert "run.json" in fails("reproduce", "run.json")


def test_a_run_json_that_is_not_there_or_never_ends_is_one_line(here):
    assert "run.json" in fails("reproduce", ".") and "does not exist" in fails("reproduce", ".")
    os.mkfifo(here / "run.json")
    for named in (".", "run.json"):
        assert "is a pipe, not a file" in fails("reproduce", named)


def test_programs_and_numbers_of_processes_are_not_taken_from_the_file(runs, monkeypatch):
    taken = []
    monkeypatch.setattr(
        reproducing, "import_annotations", lambda source, out, options, *_, **more: taken.append((options, more))
    )
    given = {"qupath_dir": "/evil", "workers": 10**6, "reader": "auto", "seed": 7}
    changed(runs / "dataset" / "run.json", lambda facts: facts["configuration"].update(given))
    with pytest.raises(FileNotFoundError):  # there is no dataset to compare
        reproducing.run_again(read_run(runs / "dataset"), runs / "again", None, dataset=None)
    ((options, more),) = taken
    assert options.qupath_dir is None and options.workers is None and options.seed == 7
    assert "overwrite" not in more and "check" not in more
    changed(model_of(runs) / "run.json", put("devices", 9))
    assert "takes one" in fails("reproduce", model_of(runs), "--dataset", "dataset", "--run", "--out", "again")


@pytest.mark.parametrize(("told", "listed"), [(0.31, 0.31), ("0.31", None), (-1, None), (1e999, None), (None, None)])
def test_a_slide_is_predicted_again_at_the_um_per_px_that_is_told(runs, monkeypatch, told, listed):
    taken = []
    monkeypatch.setattr(reproducing, "predict", lambda model, slides, *_: taken.extend(slides))

    def tell(facts):
        for prediction in facts["predictions"].values():
            prediction["request"]["um_per_px"] = told

    changed(runs / "predictions" / "run.json", tell)
    reproducing.run_again(read_run(runs / "predictions"), runs / "again", None, dataset=None)
    assert taken and {slide.view.mpp.listed for slide in taken} == {listed}


def test_a_prediction_in_regions_is_not_guessed(runs):
    def in_regions(facts):
        for prediction in facts["predictions"].values():
            prediction["request"]["roi"] = "areas.geojson"

    changed(runs / "predictions" / "run.json", in_regions)
    assert "was predicted in regions" in fails("reproduce", "predictions", "--run", "--out", "again")
    assert invoke("reproduce", "predictions").exit_code == 0


def test_a_pipe_in_place_of_a_file_is_not_waited_for(here):
    os.mkfifo(here / "model.json")
    assert read_object(here / "model.json") == {}
