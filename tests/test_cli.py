"""The user's commands, end to end on real files, and every error a user can cause."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import shapely

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.evaluation import read_evaluation
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.predicting.options import PANELS
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import read_overview
from dmmn_qp.slides.tissue import tissue_mask
from tests.conftest import (
    CMU_1,
    DEMO,
    FAST_TOML,
    REPOSITORY,
    fails,
    invoke,
    moved_demo,
    rectangle,
    slides_with,
    two_tissues,
    write_features,
    write_tiff,
)
from tests.quoted_output import check_quoted, demo_commands
from tests.slide_files import write_dicom

# ---------------------------------------------------------------- the way through


def test_import_of_slides_and_geojson(workspace):
    dataset = Dataset(workspace / "dataset")
    assert dataset.class_map.names == ("dark", "light")
    assert sorted(r.split for r in dataset.slides()) == ["test", "train", "val"]
    assert {p.slide_id for p in dataset.patches()} == {"a", "b", "c"}
    with LabelRaster(dataset.mask_path("a")) as mask:
        labels = mask.read(Region(0, 0, 768, 512))
    assert [int((labels == v).sum()) for v in (1, 2)] == [300 * 430, 300 * 430]
    assert len(read_geojson(dataset.annotations_path("a")).annotations) == 2
    run = json.loads((workspace / "dataset" / "run.json").read_text())
    assert run["stage"] == "import" and run["libraries"]["torch"]


def test_model_folder(workspace):
    card = json.loads((workspace / "models" / "dmmn-m3-1" / "model.json").read_text())
    built_from = {"architecture": "dmmn-m3", "width": 4, "norm": "batch", "stem": "quarter", "reserved_outputs": 0}
    assert (
        card["network"] == {**built_from, "encoder": None, "views": 1, "padding": "replicate"}
        and card["encoder"] is None
    )
    assert [c["name"] for c in card["class_map"]["classes"]] == ["dark", "light"]
    assert card["patch_spec"]["mpps"] == [0.5, 1.0, 2.0]
    history = (workspace / "models" / "dmmn-m3-1" / "history.csv").read_text().splitlines()
    assert history[0].startswith("epoch,loss,learning_rate,val_mean_iou") and len(history) == 3


@pytest.mark.parametrize("slide", ["a", "b", "c"])
def test_predictions(workspace, slide):
    folder = workspace / "predictions"
    with LabelRaster(folder / f"{slide}.labels.ome.tif") as raster:
        labels = raster.read(Region(0, 0, 768, 512))
    assert set(np.unique(labels)) <= {1, 2}  # every pixel is predicted, and never as unlabelled
    content = json.loads((folder / f"{slide}.geojson").read_bytes())
    assert content["type"] == "FeatureCollection"
    area = dict.fromkeys(("dark", "light"), 0.0)
    for feature in content["features"]:
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", feature["id"])
        assert len(properties["classification"]["color"]) == 3
        assert properties["metadata"]["dmmn_qp"] == "dmmn-m3-1"
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid and geometry.geom_type == "Polygon"
        area[properties["classification"]["name"]] += geometry.area
    assert sum(area.values()) == labels.size  # borders are simplified, together
    assert area == pytest.approx({"dark": (labels == 1).sum(), "light": (labels == 2).sum()}, rel=1e-3)
    assert len({f["id"] for f in content["features"]}) == len(content["features"])
    assert (folder / f"{slide}.overview.png").read_bytes().startswith(b"\x89PNG")


def test_it_learned_and_evaluate_says_so(workspace, here, monkeypatch):
    monkeypatch.chdir(workspace)
    truth = here / "truth"
    truth.mkdir()
    from PIL import Image

    with LabelRaster(Dataset(workspace / "dataset").mask_path("a")) as mask:
        full = np.where(np.arange(768) < 384, np.uint8(1), np.uint8(2)) * np.ones((512, 1), np.uint8)
        assert mask.shape == full.shape
    for name in "abc":
        Image.fromarray(full).save(truth / f"{name}.png")
    result = invoke("evaluate", "--truth", truth, "--json", here / "figures.json", "--out", here / "evaluation")
    assert result.exit_code == 0, result.output
    figures = json.loads((here / "figures.json").read_text())
    (told,) = read_evaluation(here / "evaluation").models
    assert told.of("truth").pooled.mean_iou.value == pytest.approx(figures["truth"]["mean_iou"], abs=1e-6)
    assert figures["annotated"]["mean_iou"] > 0.9
    assert figures["truth"]["mean_iou"] > 0.8
    matrix = np.array(figures["truth"]["confusion"]["rows_true_columns_predicted"])
    assert matrix.sum() == 512 * 768
    assert figures["truth"]["classes"]["dark"]["recall"] == pytest.approx(matrix[0, 0] / matrix[0].sum(), abs=1e-5)
    assert "mIoU" in result.output and "confusion" in result.output


def test_same_slide_and_model_give_the_same_ids(workspace, here, monkeypatch):
    monkeypatch.chdir(workspace)
    assert invoke("predict", "a", "--out", here / "again").exit_code == 0
    first, second = (read_geojson(p / "a.geojson").annotations for p in (workspace / "predictions", here / "again"))
    assert [a.annotation_id for a in first] == [a.annotation_id for a in second]


def test_real_aperio_slide(workspace, here):
    model = workspace / "models" / "dmmn-m3-1"
    result = invoke("predict", CMU_1, "--model", model)
    assert result.exit_code == 0, result.output
    read = read_geojson(here / "predictions" / "CMU-1-Small-Region.geojson")
    assert not read.warnings
    assert sum(a.geometry.area for a in read.annotations) == 2220 * 2967
    assert all(a.geometry.is_valid for a in read.annotations)


def test_slide_at_40x_is_predicted_at_20x(workspace, here):
    write_tiff(here / "fine.tif", two_tissues().repeat(2, 0).repeat(2, 1), mpp=0.25)
    assert invoke("predict", here / "fine.tif", "--model", workspace / "models" / "dmmn-m3-1").exit_code == 0
    with LabelRaster(here / "predictions" / "fine.labels.ome.tif") as raster:
        assert raster.shape == (512, 768)
    annotations = read_geojson(here / "predictions" / "fine.geojson").annotations
    assert sum(a.geometry.area for a in annotations) == 1536 * 1024  # level-0 px


def test_demo_project_imports(here):
    result = invoke("import", DEMO / "project.qpproj")
    assert result.exit_code == 0, result.output
    (quoted,) = [lines for command, lines in demo_commands() if command.startswith("dmmn-qp import ")]
    assert len(quoted) > 5
    check_quoted(quoted, result.output, exactly=True)
    dataset = Dataset(here / "dataset")
    assert dataset.class_map.names == (
        "carcinoma", "benign epithelial", "background", "stroma", "necrotic", "adipose",
    )  # fmt: skip
    assert {r.slide_id: r.split for r in dataset.slides()} == {
        "train-1": "train",
        "train-2": "train",
        "val-1": "val",
        "test-1": "test",
    }
    assert "1 without a class, 1 of a class that QuPath ignores" in result.output
    labelled = {"train-1": 27.8, "train-2": 28.6, "val-1": 27.7, "test-1": 25.9}  # % as examples/demo/README.txt says
    for slide_id, percent in labelled.items():
        with LabelRaster(dataset.mask_path(slide_id)) as mask:
            labels = mask.read(Region(0, 0, 3072, 3072))
        assert 100 * (labels > 0).mean() == pytest.approx(percent, abs=0.2)  # polygon areas, overlaps counted twice
    counts = {r.slide_id: len(read_geojson(dataset.annotations_path(r.slide_id)).annotations) for r in dataset.slides()}
    assert counts == {"train-1": 35, "train-2": 52, "val-1": 42, "test-1": 40}


def test_dataset_annotations_import_again_to_the_same_masks(workspace, two_tissue_slides, here):
    """The round trip that corrections take: what import wrote is read as GeoJSON."""
    written = workspace / "dataset" / "annotations"
    assert invoke("import", two_tissue_slides / "slides", "--annotations", written).exit_code == 0
    for name in "abc":
        with (
            LabelRaster(workspace / "dataset/masks" / f"{name}.tif") as a,
            LabelRaster(here / f"dataset/masks/{name}.tif") as b,
        ):
            whole = Region(0, 0, 768, 512)
            assert np.array_equal(a.read(whole), b.read(whole))


# ---------------------------------------------------------------- what users get wrong


def test_no_such_project(here):
    assert "none.qpproj" in fails("import", "none.qpproj")
    assert not (here / "dataset").exists()


@pytest.mark.parametrize(("slides", "way_on"), [(1, "dmmn-qp train --validate-on train"), (2, "dmmn-qp train")])
def test_what_comes_next_can_be_done(two_tissue_slides, here, slides, way_on):
    """Of one slide nothing is left to choose the best epoch by."""
    (here / "given").mkdir()
    for name in "ab"[:slides]:
        shutil.copy(two_tissue_slides / "slides" / f"{name}.tif", here / "given")
    result = invoke("import", "given", "--annotations", two_tissue_slides / "geojson")
    assert result.exit_code == 0 and result.stdout.splitlines()[-1].endswith(f"Next: {way_on}"), result.output


def test_missing_slides_are_named(here):
    (here / "mailed").mkdir()
    project = moved_demo(here / "mailed")
    line = fails("import", project)
    for name in ("train-1.tif", "train-2.tif", "val-1.tif", "test-1.tif", "--slides-root"):
        assert name in line
    assert not (here / "dataset").exists()
    assert invoke("import", project, "--slides-root", DEMO / "slides").exit_code == 0


def test_renamed_folder_of_slides(here):
    """The project's slides are said to be in a folder that is now another one."""
    (here / "mailed").mkdir()
    project = moved_demo(here / "mailed")
    content = json.loads(project.read_text())
    for image in content["images"]:
        name = image["serverBuilder"]["uri"].rpartition("/")[2]
        image["serverBuilder"]["uri"] = f"file:///E:/Scans%202024/{name}"
    project.write_text(json.dumps(content))
    assert "no full path" in fails("import", project, "--slides-root", f"Scans={DEMO / 'slides'}")
    result = invoke("import", project, "--slides-root", f"e:\\scans 2024={DEMO / 'slides'}")
    assert result.exit_code == 0, result.output


def test_turned_and_cropped_image_of_a_project(here):
    """The file is turned back and has a border; the project turns and crops it: QuPath shows what it always did."""
    (here / "slides").mkdir()
    (here / "mailed").mkdir()
    project = moved_demo(here / "mailed")
    for slide in (DEMO / "slides").glob("*.tif"):
        (here / "slides" / slide.name).symlink_to(slide)
    with open_slide(DEMO / "slides" / "val-1.tif") as slide:
        info = slide.info
        pixels = slide.read_level(0, Region(0, 0, info.width, info.height))
    bordered = np.pad(pixels, ((7, 13), (11, 5), (0, 0)))
    (here / "slides" / "val-1.tif").unlink()
    write_tiff(here / "slides" / "val-1.tif", np.rot90(bordered), info.mpp)
    content = json.loads(project.read_text())
    (image,) = (i for i in content["images"] if i["serverBuilder"]["uri"].endswith("val-1.tif"))
    file = image["serverBuilder"]
    file["metadata"].update(width=bordered.shape[0], height=bordered.shape[1])
    turned = {"builderType": "rotated", "rotation": "ROTATE_90", "builder": file}
    region = {"x": 11, "y": 7, "width": info.width, "height": info.height, "z": 0, "t": 0}
    image["serverBuilder"] = {"builderType": "cropped", "region": region, "builder": turned}
    project.write_text(json.dumps(content))
    result = invoke("import", project, "--slides-root", "slides")
    assert result.exit_code == 0, result.output
    dataset = Dataset(here / "dataset")
    record = dataset.record("val-1")
    assert [change.kind for change in record.frame] == ["rotate", "crop"]
    with dataset.open(record) as slide:  # as training opens it
        assert np.array_equal(slide.read_level(0, Region(0, 0, info.width, info.height)), pixels)
        tissue = tissue_mask(read_overview(slide, 1024)).mean() * info.width * info.height * (info.mpp / 1000) ** 2
    report = json.loads((here / "dataset" / "report.json").read_text())
    assert {s["slide_id"]: s["tissue_mm2"] for s in report["slides"]}["val-1"] == pytest.approx(tissue)
    for named in ("val-1", str(here / "slides" / "val-1.tif")):
        (to_predict,) = slides_to_predict([named], here / "dataset")
        assert (to_predict.slide_id, to_predict.view.frame) == ("val-1", record.frame)


@pytest.mark.parametrize("size", [0, 4, 100, 20_000])
def test_truncated_qpdata(here, size):
    (here / "damaged").mkdir()
    project = moved_demo(here / "damaged")
    data = here / "damaged" / "data" / "2" / "data.qpdata"
    data.write_bytes(data.read_bytes()[:size])
    command = ("import", project, "--slides-root", DEMO / "slides")
    assert "data.qpdata" in fails(*command, "--strict")
    assert not (here / "dataset").exists()
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "data.qpdata" in result.stderr and "left out" in result.stderr
    assert len(Dataset(here / "dataset").slides()) == 3


def test_very_long_names_of_slides(here):
    (here / "slides").mkdir()
    for end in "ab":
        write_tiff(here / "slides" / f"{'x' * 240}{end}.tif", two_tissues(256, 256))
        write_features(here / "geojson" / f"{'x' * 240}{end}.json", [rectangle(0, 0, 99, 99, "a")])
    result = invoke("import", "slides", "--annotations", "geojson")
    assert result.exit_code == 0, result.output
    assert [r.slide_id for r in Dataset(here / "dataset").slides()] == ["x" * 150, "x" * 150 + "-2"]


def test_names_that_are_not_utf8(here):
    name = b"sl\xffde".decode("utf-8", "surrogateescape")
    (here / "slides").mkdir()
    try:
        write_tiff(here / "s.tif", two_tissues(256, 256)).rename(here / "slides" / f"{name}.tif")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write_features(here / "geojson" / f"{name}.geojson", [rectangle(0, 0, 99, 99, "a")])
    command = [
        sys.executable,
        "-c",
        "from dmmn_qp.cli import run; run()",
        "import",
        "slides",
        "--annotations",
        "geojson",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "not UTF-8" in line and "rename it" in line


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}', '{"images": [3]}'])
def test_broken_project_file(here, text):
    (here / "p.qpproj").write_text(text)
    fails("import", here / "p.qpproj")


def test_no_annotation_at_all(here):
    assert "no annotated area" in fails(*slides_with(here, []))
    assert not (here / "dataset").exists()


def test_only_unclassified_annotations(here):
    assert "no annotated area with a class" in fails(*slides_with(here, [rectangle(0, 0, 99, 99, None)]))


def test_annotation_off_the_slide_trains_nothing(here):
    assert 'class "a" has no pixel' in fails(*slides_with(here, [rectangle(900, 900, 99, 99, "a")]))


def test_class_without_training_pixels(here):
    train, test = rectangle(0, 0, 99, 99, "a"), rectangle(0, 0, 99, 99, "b")
    (here / "mailed").mkdir()
    del train, test
    project = moved_demo(here / "mailed")
    content = json.loads(project.read_text())
    for image in content["images"]:
        image["metadata"]["split"] = "test"
    project.write_text(json.dumps(content))
    line = fails("import", project, "--slides-root", DEMO / "slides")
    assert '"carcinoma"' in line and "training split" in line and "--drop" in line


def test_class_can_be_dropped(here):
    features = [rectangle(0, 0, 99, 99, "a"), rectangle(120, 0, 99, 99, "b")]
    command = slides_with(here, features)
    assert "does not exist" in fails(*command, "--drop", "c")
    assert invoke(*command, "--drop", "b").exit_code == 0
    assert Dataset(here / "dataset").class_map.names == ("a",)


def test_unreadable_slide(here):
    (here / "slides").mkdir()
    (here / "slides" / "s.svs").write_bytes(CMU_1.read_bytes()[:9000])
    write_features(here / "geojson" / "s.geojson", [rectangle(0, 0, 99, 99, "a")])
    assert "s.svs" in fails("import", "slides", "--annotations", "geojson")


def test_no_pixel_size(here):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")], mpp=None)
    line = fails(*command)
    assert "s0.tif" in line and "--mpp" in line
    assert invoke(*command, "--mpp", "0.5").exit_code == 0


@pytest.mark.parametrize(
    "table", ["slide,mpp\ns0.tif,0.5\n", "note;MPP;Slide\n;0.5;s0\n\n", "\ufeffslide,mpp\nC:\\x\\s0.tif,.5"]
)
def test_pixel_sizes_from_a_table(here, table):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")], mpp=None)
    (here / "sizes.csv").write_text(table, encoding="utf-8")
    result = invoke(*command, "--mpp-csv", "sizes.csv", "--mpp", "0.25")
    assert result.exit_code == 0, result.output
    assert Dataset(here / "dataset").record("s0").mpp == 0.5


def test_table_of_pixel_sizes_from_the_configuration(here):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")], mpp=None)
    (here / "sizes.csv").write_text("slide,mpp\ns0,0.5\n")
    (here / "c.toml").write_text('[import]\nmpp_csv = "sizes.csv"\n')
    assert invoke(*command, "--config", "c.toml").exit_code == 0
    assert Dataset(here / "dataset").record("s0").mpp == 0.5
    assert json.loads((here / "dataset" / "run.json").read_text())["configuration"]["mpp_csv"] == "sizes.csv"
    (here / "c.toml").write_text('[import]\nmpp_csv = "none.csv"\n')
    assert "does not exist" in fails(*command, "--config", "c.toml", "--overwrite")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", 'must begin with the line "slide,mpp"'),
        ("slide;um\ns0;0.5", 'must begin with the line "slide,mpp"'),
        ("slide,mpp\ns0,half", 'row 2, column mpp: "half" is no number between'),
        ("slide;mpp\ns0;0,5,1", 'column mpp: "0,5,1" is no number'),
        ("slide,mpp\ns0,1000", "no number between 0.02 and 20"),
        ("slide,mpp\ns0,nan", "no number between"),
        ("slide,mpp\ns0", "row 2, column mpp: it is empty"),
        ("slide,mpp\n,0.5", "row 2, column slide: it is empty"),
        ("slide,mpp\ns0,0.5\ns0,0.25", 'row 3: slide "s0" is 0.25, but 0.5 further up'),
        ("slide,mpp\nother,0.5", "lists none of the slides"),
        ('slide,mpp\n"' + "x" * 200_000, "is no CSV"),
    ],
)
def test_tables_of_pixel_sizes_that_cannot_be_meant(here, table, said):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")], mpp=None)
    (here / "sizes.csv").write_text(table)
    assert said in fails(*command, "--mpp-csv", "sizes.csv")
    assert "does not exist" in fails(*command, "--mpp-csv", "none.csv")


def test_dicom_folder_is_predicted_as_one_slide(here, workspace):
    write_dicom(here / "scan", [two_tissues(256, 256)])
    result = invoke("predict", "scan", "--model", workspace / "models" / "dmmn-m3-1")
    assert result.exit_code == 0, result.output
    assert (here / "predictions" / "scan.geojson").is_file()


@pytest.mark.parametrize("text", ["", '{"type": "FeatureCollection", "features": [', "\x00\x01"])
def test_truncated_geojson(here, text):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")])
    (here / "geojson" / "s0.geojson").write_text(text)
    fails(*command)
    assert not (here / "dataset").exists()


def test_geojson_without_its_slide(here):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")])
    write_features(here / "geojson" / "other.geojson", [])
    assert "other.geojson" in fails(*command, "--strict")
    result = invoke(*command)
    assert result.exit_code == 0 and "other.geojson" in result.stderr


def test_slides_without_annotations_option(here):
    slides_with(here, [rectangle(0, 0, 99, 99, "a")])
    assert "--annotations" in fails("import", "slides")


def test_existing_outputs(here, workspace):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a")])
    assert invoke(*command).exit_code == 0
    before = (here / "dataset" / "dataset.json").read_bytes()
    assert "--overwrite" in fails(*command)
    assert (here / "dataset" / "dataset.json").read_bytes() == before
    assert invoke(*command, "--overwrite").exit_code == 0
    shutil.copytree(workspace / "models", here / "models")
    model = here / "models" / "dmmn-m3-1"
    assert "--overwrite" in fails("train", "--out", model)
    assert invoke("predict", "s0").exit_code == 0
    again = invoke("predict", "s0")
    assert again.exit_code == 0 and "left as they are (--overwrite replaces them): s0" in again.output
    assert invoke("predict", "s0", "--overwrite").exit_code == 0


def test_model_does_not_fit_the_magnification(here, workspace):
    write_tiff(here / "coarse.tif", two_tissues(256, 256), mpp=1.0)
    line = fails("predict", "coarse.tif", "--model", workspace / "models" / "dmmn-m3-1")
    assert "coarse.tif" in line or "coarse" in line
    assert "1 um/px" in line and not (here / "predictions").exists()


def test_missing_stages(here):
    assert "dmmn-qp import" in fails("train")
    assert "dmmn-qp import" in fails("predict")
    assert "no model" in fails("predict", CMU_1)
    assert "is not a model" in fails("predict", CMU_1, "--model", "none")
    assert "does not exist" in fails("predict", "none.svs")
    assert "is not a dataset" in fails("evaluate")


def test_no_prediction_to_evaluate(here, workspace):
    assert "dmmn-qp predict" in fails("evaluate", "--dataset", workspace / "dataset")


def test_truth_that_does_not_fit(here, workspace):
    from PIL import Image

    (here / "truth").mkdir()
    for name in "abc":
        Image.fromarray(np.ones((10, 10), np.uint8)).save(here / "truth" / f"{name}.png")
    where = ("--dataset", workspace / "dataset", "--predictions", workspace / "predictions")
    assert "10 x 10 px" in fails("evaluate", *where, "--truth", "truth")
    assert 'truth "none" does not exist; check --truth' in fails("evaluate", *where, "--truth", "none")
    line = fails("evaluate", *where[:2], "--predictions", "none")
    assert 'folder of predictions "none" does not exist; check --predictions' in line


def test_moved_slide_is_found_and_checked(here, two_tissue_slides):
    shutil.copytree(two_tissue_slides / "slides", here / "slides")
    assert invoke("import", "slides", "--annotations", two_tissue_slides / "geojson").exit_code == 0
    (here / "slides").rename(here / "elsewhere")
    (here / "fast.toml").write_text(FAST_TOML.replace("epochs = 2", "epochs = 1").replace("= 30", "= 1"))
    assert "--slides-root" in fails("train", "--config", "fast.toml")
    assert invoke("train", "--config", "fast.toml", "--slides-root", "elsewhere").exit_code == 0
    for path in (here / "elsewhere").iterdir():
        write_tiff(path, two_tissues(seed=99))
    assert "is not the file that was imported" in fails("train", "--config", "fast.toml", "--slides-root", "elsewhere")


def test_architectures_as_json_and_as_a_table():
    listed = json.loads(invoke("architectures", "--json", "--classes", "7").stdout)
    assert [(d["architecture"], d["width"], d["parameters"]) for d in listed][-2:] == [
        ("dmmn-m3", 32, 27_071_303),
        ("dmmn-p", 64, 2_939_120 + (3 * (16 + 24 + 40 + 112 + 320) + 1) * 64 + (64 + 1) * 7),
    ]
    narrow = json.loads(invoke("architectures", "--json", "--classes", "1", "--width", "2").stdout)
    assert [d["parameters"] for d in narrow][:2] == [4608 * 4 + 105 * 2 + 3, 8433 * 4 + 135 * 2 + 3]
    table = invoke("architectures").stdout
    row = next(line.split() for line in table.splitlines() if "dmmn-m3" in line)
    assert row == ["dmmn-m3", "32", "27,071,303", "79.34", "408", "512", "374", "413"]
    assert invoke("architectures", "--classes", "0").exit_code == 2


def test_unknown_option_values(here):
    assert "--preset" in fails("train", "--preset", "slow")
    assert "--mpps" in fails("import", "x.qpproj", "--mpps", "half")
    (here / "c.toml").write_text("[train]\nepochs = 'many'\n")
    assert "epochs" in fails("train", "--config", "c.toml")


def test_interrupted_import_leaves_nothing(here, monkeypatch):
    import dmmn_qp.importing.writing

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(dmmn_qp.importing.writing, "write_patches", interrupt)
    result = invoke(*slides_with(here, [rectangle(0, 0, 99, 99, "a")]))
    assert result.exit_code == 130
    assert sorted(p.name for p in here.iterdir()) == ["geojson", "slides"]


def test_the_installed_command():
    command = [sys.executable, "-c", "from dmmn_qp.cli import run; run()"]
    assert "dmmn-qp 0." in subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    failed = subprocess.run([*command, "import", "none.qpproj"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1


def test_the_help_of_predict_goes_from_the_slides_to_what_few_need():
    lines = invoke("predict", "--help").output.splitlines()
    headings = [line for above, line in pairwise(lines) if above == "" and re.fullmatch("[A-Z][a-z ]+", line)]
    assert headings == ["Arguments", "Options", "This run", *PANELS]
    assert lines.index(PANELS[-1]) < next(i for i, line in enumerate(lines) if line.startswith("  --shard "))


def test_help_is_quick():
    """Heavy libraries are imported by the commands that need them, not by --help."""
    heavy = "('torch', 'matplotlib', 'scipy', 'ray', 'fsspec', 'zarr')"
    code = f"import sys; from dmmn_qp.cli import app; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
