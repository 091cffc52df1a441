"""What `import dmmn_qp` offers: the documents' scripts run, and each promise of the face."""

import ast
import inspect
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import shapely
import tifffile
import torch

import dmmn_qp
from dmmn_qp.annotations import Annotation
from dmmn_qp.api.predicting import ARRAY_OPTIONS, ArrayOptions
from dmmn_qp.cli.model_options import flag_of
from dmmn_qp.errors import ConfigError, DatasetError, DmmnQpError, ModelError, PixelSizeError, SlideError
from dmmn_qp.folders.predictions import PROBABILITIES_SUFFIX
from dmmn_qp.labels.draws import Draw
from dmmn_qp.networks import build_network as build_by_hand
from dmmn_qp.networks.conventions import InputConvention, network_inputs
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath.review import is_prediction
from dmmn_qp.training.examples import PatchExamples
from tests.conftest import DEMO, REPOSITORY, rectangle, two_tissues, write_features, write_tiff

DOCUMENT = REPOSITORY / "docs" / "api.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
FULL_STEM = REPOSITORY / "tests" / "data" / "full-stem"
CLASSES = dmmn_qp.ClassMap.from_colors([("stroma", (0, 200, 0)), ("tumour", (200, 0, 0))])


# ---- the scripts of the document


@pytest.fixture(scope="module")
def scripts(two_tissue_slides, tmp_path_factory):
    """(the folder in which all blocks ran, what each left and printed)."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(two_tissue_slides / "slides", folder / "slides")
    shutil.copytree(two_tissue_slides / "geojson", folder / "geojson")
    shutil.copy(DEMO / "project.qpproj", folder)
    shutil.copytree(DEMO / "data", folder / "data")
    if (DEMO / "classifiers").is_dir():
        shutil.copytree(DEMO / "classifiers", folder / "classifiers")
    ran = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", dmmn_qp.DmmnQpWarning)
        patch.chdir(folder)
        for number, block in enumerate(BLOCKS, start=1):
            printed: list[str] = []
            names = {"print": lambda *words, into=printed: into.append(" ".join(map(str, words)))}
            torch.manual_seed(0)
            exec(compile(block, f"docs/api.md, script {number}", "exec"), names)  # noqa: S102
            ran.append((names, printed))
    return folder, ran


def test_five_scripts_of_fifteen_lines():
    assert len(BLOCKS) == 5
    assert max(len(block.splitlines()) for block in BLOCKS) <= 15


def test_script_1_lists_what_is_drawn(scripts):
    _, printed = scripts[1][0]
    assert any(line.startswith("train-1.tif carcinoma 562201 ") for line in printed)
    assert {line.split()[0] for line in printed} == {"train-1.tif", "train-2.tif", "val-1.tif", "test-1.tif"}


def test_script_2_trains_and_predicts(scripts):
    folder, ran = scripts
    names, printed = ran[1]
    assert printed[0].startswith("('dark', 'light') ")
    assert names["labels"].shape == (512, 768)
    assert set(np.unique(names["labels"])) <= {1, 2}
    assert (folder / "models" / "first" / "model.json").is_file()
    assert (folder / "predictions" / "a.geojson").is_file()


def test_script_3_gives_polygons_that_tile_the_array(scripts):
    folder, ran = scripts
    names, _ = ran[2]
    assert names["labels"].shape == (300, 400)
    outlines = [polygon.geometry for polygon in names["polygons"]]
    whole = shapely.union_all(outlines)
    assert whole.bounds == (200, 100, 600, 400)
    assert sum(outline.area for outline in outlines) == pytest.approx(300 * 400)
    assert len(dmmn_qp.read_geojson(folder / "part.geojson")) == len(outlines)


def test_script_4_learns_and_saves_a_model(scripts):
    folder, ran = scripts
    names, _ = ran[3]
    assert float(names["loss"].detach()) < 0.5  # log 2 weighed by half is 0.35 at the start, before it learns
    assert (folder / "own-predictions" / "b.geojson").is_file()
    assert dmmn_qp.load_model(str(folder / "models" / "own")).class_map.names == ("dark", "light")


def test_script_5_gives_figures(scripts):
    figures = scripts[1][4][0]["figures"]
    assert 0 <= figures["annotated"]["mean_iou"] <= 1
    assert [*figures["annotated"]["classes"]] == ["dark", "light"]
    assert figures["split"] == "test"
    assert figures["confirmed"] is None or "mean_iou" in figures["confirmed"]


# ---- the package's own module


def test_nothing_is_loaded_before_it_is_asked_for():
    heavy = "('torch', 'openslide', 'rasterio', 'numpy', 'shapely', 'pydantic')"
    program = f"""
import sys, dmmn_qp
assert not [name for name in {heavy} if name in sys.modules]
assert {{name for name in sys.modules if name.startswith('dmmn_qp')}} == {{'dmmn_qp', 'dmmn_qp.version'}}
assert set(dmmn_qp.__all__) <= set(dir(dmmn_qp))
dmmn_qp.read_project({str(DEMO)!r}), dmmn_qp.read_geojson, dmmn_qp.train, dmmn_qp.predict_array, dmmn_qp.Model
assert 'torch' not in sys.modules and 'rasterio' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_type_checkers_see_every_name():
    tree = ast.parse(Path(dmmn_qp.__file__).read_text("utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    places = {alias.name: node.module for node in checked.body for alias in node.names}
    assert sorted(places) == sorted(dmmn_qp.__all__) == list(dmmn_qp.__all__)
    for name, module in places.items():
        assert getattr(dmmn_qp, name) is getattr(sys.modules[module], name)
        assert getattr(dmmn_qp, name).__doc__
    loaded = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in loaded} == {"dmmn_qp.version", "importlib", "typing"}


def test_help_shows_the_options_that_are_said_once():
    """Name, type, default and help of an option are those of the model of the commands."""
    for function in (dmmn_qp.predict_array, dmmn_qp.predict_probabilities):
        parameters = inspect.signature(function).parameters
        assert [*parameters] == ["pixels", "mpp", "model", *ARRAY_OPTIONS]
        for name, kind in get_type_hints(ArrayOptions).items():  # what type checkers are told
            field = PredictOptions.model_fields[name]
            assert parameters[name].annotation == field.annotation == kind
            assert parameters[name].default == field.default
            (told,) = re.findall(rf"^        {name}: (.*)$", function.__doc__, re.MULTILINE)
            assert told.startswith(flag_of(field).help[:60])
        assert "options:" not in function.__doc__
        assert all(len(line) <= 120 for line in function.__doc__.splitlines())
    assert (
        "simplify_um: Tolerance of the polygons; 0 keeps every pixel's edge. Default: 1." in dmmn_qp.polygonize.__doc__
    )
    assert "gzip" not in inspect.signature(dmmn_qp.polygonize).parameters


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'predcit_array'"):
        dmmn_qp.predcit_array  # noqa: B018


# ---- arrays


@pytest.mark.parametrize(
    ("mpp", "options"),
    [
        (0.5, {}),
        (0.25, {}),  # averaged 2 x 2
        (0.36, {}),  # resampled
        (0.5, {"tta": True}),
        (0.5, {"batch_size": 1}),
    ],
)
def test_an_array_gets_the_labels_of_the_slide(workspace, tmp_path, mpp, options):
    pixels = two_tissues(601, 907)
    model = next((workspace / "models").iterdir())
    slide = write_tiff(tmp_path / "slide.tif", pixels, mpp)
    expected = dmmn_qp.predict_slide(slide, model, tmp_path / "out", **options).read_labels()
    with dmmn_qp.open_slide(slide) as opened:
        mpp = opened.info.mpp  # the file keeps it rounded
    found = dmmn_qp.predict_array(pixels, mpp, model, **options)
    assert len(np.unique(expected)) == 2
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("context", ["patch", "shared", "seamless"])
def test_blocks_of_an_array_are_those_of_the_slide(tmp_path, context):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (10, 42, 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(noise.repeat(32, 0).repeat(32, 1)[:300, :1330])  # more than one block of 1024
    slide = write_tiff(tmp_path / "slide.tif", pixels)
    expected = dmmn_qp.predict_slide(slide, FULL_STEM, tmp_path / "out", context=context).read_labels()
    assert len(np.unique(expected)) > 1
    assert np.array_equal(dmmn_qp.predict_array(pixels, 0.5, FULL_STEM, context=context), expected)


def test_probabilities_are_those_of_the_slide(workspace, tmp_path):
    pixels = two_tissues(301, 407)
    model = next((workspace / "models").iterdir())
    slide = write_tiff(tmp_path / "slide.tif", pixels)
    dmmn_qp.predict_slide(slide, model, tmp_path, probabilities=True)
    found = dmmn_qp.predict_probabilities(pixels, 0.5, model)
    assert found.shape == (2, 301, 407)
    assert np.array_equal(found, tifffile.imread(tmp_path / f"slide.{PROBABILITIES_SUFFIX}"))
    sure = found[0] != found[1]
    assert np.array_equal(found.argmax(0)[sure] + 1, dmmn_qp.predict_array(pixels, 0.5, model)[sure])


def test_a_model_in_memory_stays_as_it_is(workspace):
    pixels = two_tissues(300, 500)
    folder = next((workspace / "models").iterdir())
    model = dmmn_qp.load_model(folder)
    model.network.train()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    labels = dmmn_qp.predict_array(pixels, 0.5, model)
    assert np.array_equal(labels, dmmn_qp.predict_array(pixels, 0.5, str(folder)))
    assert model.network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


WRONG = [
    (np.zeros((8, 8, 4), np.uint8), 0.5, SlideError, r"\(rows, columns, 3\)"),
    (np.zeros((8, 8), np.uint8), 0.5, SlideError, r"\(rows, columns, 3\)"),
    (np.zeros((0, 8, 3), np.uint8), 0.5, SlideError, r"\(rows, columns, 3\)"),
    (np.zeros((8, 8, 3)), 0.5, SlideError, "float64, but must be uint8"),
    (np.zeros((8, 8, 3), np.uint8), 0, PixelSizeError, "mpp=0 is no pixel size"),
    (np.zeros((8, 8, 3), np.uint8), float("nan"), PixelSizeError, "mpp=nan is no pixel size"),
    (np.zeros((8, 8, 3), np.uint8), 1.0, PixelSizeError, "coarser than the 0.5"),
]


@pytest.mark.parametrize(("pixels", "mpp", "error", "said"), WRONG)
def test_what_is_no_picture_is_refused(pixels, mpp, error, said):
    with pytest.raises(error, match=said) as raised:
        dmmn_qp.predict_array(pixels, mpp, FULL_STEM)
    assert "\n" not in str(raised.value)


def test_an_array_is_a_slide():
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with dmmn_qp.open_slide(pixels, mpp=0.5) as slide:
        assert (slide.info.width, slide.info.height, slide.info.mpp) == (5, 4, 0.5)
        read = slide.read_level(0, dmmn_qp.Region(3, -1, 3, 2))
    assert read.tolist() == [[[0] * 3] * 3, [[9, 10, 11], [12, 13, 14], [0] * 3]]
    with pytest.raises(ConfigError, match="pass mpp"):
        dmmn_qp.open_slide(pixels)


# ---- polygons


def test_polygons_of_labels_by_hand():
    labels = np.array([[1, 1, 2], [1, 0, 2]], np.uint8)
    stroma, tumour = dmmn_qp.polygonize(labels, CLASSES, 0.5, simplify_um=0, min_area_um2=0)
    assert (stroma.class_name, stroma.class_color, stroma.geometry.area) == ("stroma", (0, 200, 0), 3)
    assert tumour.geometry.equals(shapely.box(2, 0, 3, 2))
    assert tumour.measurements["Area µm^2"] == 0.5  # two pixels of 0.25 um2
    _, moved = dmmn_qp.polygonize(labels, CLASSES, 0.5, corner=(10, 20), simplify_um=0, min_area_um2=0)
    assert moved.geometry.equals(shapely.box(12, 20, 13, 22))
    assert moved.annotation_id != tumour.annotation_id  # two cuttings of a slide in one file


def test_polygons_are_in_pixels_of_the_array():
    model = dmmn_qp.load_model(FULL_STEM)
    labels = np.ones((2, 3), np.uint8)  # of 5 x 3 px at 0.25 um/px
    (whole,) = dmmn_qp.polygonize(labels, model, 0.25)
    (cut,) = dmmn_qp.polygonize(labels, model.card, 0.25, shape=(3, 5))
    assert whole.geometry.equals(shapely.box(0, 0, 6, 4))
    assert cut.geometry.equals(shapely.box(0, 0, 5, 3))
    assert cut.measurements["Area µm^2"] == 15 / 16


def test_one_object_a_class():
    labels = np.array([[1, 2, 1]], np.uint8)
    options = {"merge": "class", "object_kind": "detection"}
    assert len(dmmn_qp.polygonize(labels, CLASSES, 0.5, **options)) == 1  # the 2, of 0.25 um2, joins what is beside it
    assert len(dmmn_qp.polygonize(labels, CLASSES, 0.5, **options, predicted=False)) == 2
    stroma, _ = dmmn_qp.polygonize(labels, CLASSES, 0.5, **options, min_area_um2=0)
    assert stroma.geometry.equals(shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)]))
    assert stroma.kind == "detection"


@pytest.mark.parametrize(
    ("labels", "mpp", "options", "said"),
    [
        (np.full((2, 2), 3, np.uint8), 0.5, {}, "label 3 stands for no class: there are 2"),
        (np.ones((2, 2), np.int64), 0.5, {}, "int64, but must be"),
        (np.ones((2, 2, 1), np.uint8), 0.5, {}, "must be .rows, columns. uint8"),
        (np.ones((2, 2), np.uint8), -1, {}, "mpp=-1 is no pixel size"),
        (np.ones((2, 2), np.uint8), 0.5, {"simplify": 1}, "did you mean simplify_um"),
        (np.ones((2, 2), np.uint8), 0.5, {"gzip": True}, "geojson.gz"),
    ],
)
def test_what_are_no_labels_is_refused(labels, mpp, options, said):
    with pytest.raises(DmmnQpError, match=said):
        dmmn_qp.polygonize(labels, CLASSES, mpp, **options)


def test_predicted_polygons_are_no_labels_until_somebody_says_so(two_tissue_slides, tmp_path):
    labels = np.ones((512, 768), np.uint8)
    labels[:, 384:] = 2
    for name, predicted in (("marked", True), ("drawn", False)):
        (tmp_path / name).mkdir()
        polygons = dmmn_qp.polygonize(labels, CLASSES, 0.5, predicted=predicted)
        dmmn_qp.write_geojson(tmp_path / name / "a.geojson", polygons)
    marked = dmmn_qp.read_geojson(tmp_path / "marked" / "a.geojson")
    drawn = dmmn_qp.read_geojson(str(tmp_path / "drawn" / "a.geojson"))
    assert [is_prediction(a) for a in (*marked, *drawn)] == [True, True, False, False]
    slide = two_tissue_slides / "slides" / "a.tif"
    with pytest.raises(DatasetError, match="2 predicted areas that nobody checked"):
        dmmn_qp.import_annotations(slide, tmp_path / "none", annotations=tmp_path / "marked")
    with pytest.warns(dmmn_qp.DmmnQpWarning, match="no slide is for validation"):
        found = dmmn_qp.import_annotations(str(slide), tmp_path / "dataset", annotations=str(tmp_path / "drawn"))
    assert found.class_map.names == ("stroma", "tumour")


# ---- one's own loop


def test_patches_are_those_of_training(workspace):
    dataset = dmmn_qp.Dataset(str(workspace / "dataset"))
    patches = dmmn_qp.Patches(dataset)
    refs = [patch for patch in dataset.patches() if patch.split == "train"]
    assert len(patches) == len(refs) == len(list(patches))
    images, target = patches[-1]
    example = PatchExamples(dataset, refs, augment=None)[Draw(len(refs) - 1, 0)]
    expected = network_inputs(example.images[None], InputConvention(), torch.device("cpu"))
    assert all(torch.equal(found[None], image) for found, image in zip(images, expected, strict=True))
    assert [tuple(image.shape) for image in images] == [(3, 256, 256)] * 3
    assert torch.equal(target, example.targets[0].long())
    counts = np.array([ref.label_counts[1:] for ref in refs]).sum(0)
    assert patches.class_weights().tolist() == pytest.approx((1 - counts / counts.sum()).tolist())
    with pytest.raises(IndexError):
        patches[len(refs)]


def test_each_access_draws_another_change_that_can_be_repeated(workspace):
    patches = dmmn_qp.Patches(workspace / "dataset", "val", augment=True)
    torch.manual_seed(3)
    first, second = patches[0], patches[0]
    torch.manual_seed(3)
    again = patches[0]
    assert torch.equal(first[0][0], again[0][0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0][0], second[0][0])


def test_a_split_without_patches_is_refused(workspace):
    with pytest.raises(DatasetError, match="no patch for nowhere"):
        dmmn_qp.Patches(workspace / "dataset", "nowhere")


def test_the_papers_loss_by_hand():
    logits = torch.zeros(1, 2, 1, 2)
    target = torch.tensor([[[1, 0]]])
    half = np.log(2) / 2  # one of two pixels is labelled
    assert dmmn_qp.partial_cross_entropy(logits, target).item() == pytest.approx(half)
    weights = torch.tensor([0.5, 1.0])
    assert dmmn_qp.partial_cross_entropy(logits, target, weights).item() == pytest.approx(half / 2)
    assert dmmn_qp.partial_cross_entropy(logits, target, mean="labelled").item() == pytest.approx(2 * half)


def test_a_saved_network_is_the_same_network(workspace, tmp_path):
    dataset = dmmn_qp.Dataset(workspace / "dataset")
    network = dmmn_qp.build_network(dataset, "unet", width=2, norm="group", stem="half")
    kept = dmmn_qp.save_model(str(tmp_path / "m"), network, dataset, validation={"mean_iou": 0.5})
    assert kept.network is network
    model = dmmn_qp.load_model(tmp_path / "m")
    assert model.card == kept.card
    assert model.card.network.model_dump() == {
        "architecture": "unet", "width": 2, "norm": "group", "stem": "half", "encoder": None, "views": 1,
        "padding": "zeros",
        "reserved_outputs": 0,
    }  # fmt: skip
    assert model.patch_spec == dataset.patch_spec
    images = [torch.rand(1, 3, 256, 256) for _ in range(3)]
    assert torch.equal(model.network(images), network.eval()(images))
    assert (tmp_path / "m" / "run.json").is_file()
    with pytest.raises(DmmnQpError, match="exists"):
        dmmn_qp.save_model(tmp_path / "m", network, dataset)
    dmmn_qp.save_model(tmp_path / "m", network, dataset, overwrite=True)


def test_what_is_no_network_of_the_dataset_is_not_saved(workspace, tmp_path):
    dataset = dmmn_qp.Dataset(workspace / "dataset")
    three = build_by_hand("unet", classes=3, width=2, magnifications=3, size_px=256)
    broken = dmmn_qp.build_network(dataset, "unet", width=2)
    next(broken.parameters()).data.fill_(float("nan"))
    for network, said in [
        (three, "not the layers of unet for 2 classes"),
        (broken, "not finite"),
        (torch.nn.Conv2d(3, 2, 1), "no network of build_network"),
    ]:
        with pytest.raises(ModelError, match=said):
            dmmn_qp.save_model(tmp_path / "m", network, dataset)
    with pytest.raises(ModelError, match='"dmmn-m4" is unknown'):
        dmmn_qp.build_network(dataset, "dmmn-m4")
    assert not (tmp_path / "m").exists()


# ---- the stages


def test_stages_are_quiet_and_their_warnings_are_pythons(workspace, tmp_path, capfd):
    with pytest.warns(dmmn_qp.DmmnQpWarning, match="which flatters it"):
        model = dmmn_qp.train(
            str(workspace / "dataset"), str(tmp_path / "m"), preset="scratch", epochs=1, steps_per_epoch=1, width=2,
            batch_size=1, workers=0, validate_on="train",
        )  # fmt: skip
    assert model == tmp_path / "m"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(DmmnQpError, match="exists"):
        dmmn_qp.train(workspace / "dataset", tmp_path / "m")


def test_a_reporter_says_what_the_command_says(workspace, capsys):
    figures = dmmn_qp.evaluate(
        workspace / "predictions", workspace / "dataset", reporter=dmmn_qp.Reporter(), exclude=["light"]
    )
    assert "annotated pixels" in capsys.readouterr().out
    assert figures["excluded"] == ["light"]
    with pytest.warns(dmmn_qp.DmmnQpWarning, match="but of the dataset: dark"):
        renamed = dmmn_qp.evaluate(workspace / "predictions", workspace / "dataset", map={"dark": "light"})
    assert {"predicted": "dark", "true": "light"} in renamed["map"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda w: dmmn_qp.train(w / "dataset", w / "m", epoch=3), "did you mean epochs"),
        (lambda w: dmmn_qp.train(w / "dataset", w / "m", resume=True, epochs=3), "leave out epochs"),
        (lambda w: dmmn_qp.predict_slide(w / "a.tif", w / "m", w / "out", context="wide"), "^context should be"),
        (lambda w: dmmn_qp.predict_slides([], w / "m", w / "out"), "empty list"),
        (lambda w: dmmn_qp.predict_array(np.zeros((8, 8, 3), np.uint8), 0.5, w, batch=1), "did you mean batch_size"),
        (lambda w: dmmn_qp.predict_array(np.zeros((8, 8, 3), np.uint8), 0.5, w, gzip=True), "gzip is no argument of"),
        (lambda w: dmmn_qp.import_annotations(w, w / "d", mpp=-1), "^mpp should be"),
        (lambda w: dmmn_qp.import_annotations(w, w / "d", slides_roots="/old=/nowhere"), "OLD=NEW"),
    ],
)
def test_wrong_options_are_said_in_one_line(workspace, call, said):
    with pytest.raises(DmmnQpError, match=said) as raised:
        call(workspace)
    assert "\n" not in str(raised.value)


def test_what_a_reader_left_out_is_a_warning(tmp_path):
    broken = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": "none"}, "properties": {}}
    path = write_features(tmp_path / "a.geojson", [rectangle(0, 0, 2, 3, "tumour"), broken])
    with pytest.warns(dmmn_qp.DmmnQpWarning, match=r"a\.geojson"):
        (found,) = dmmn_qp.read_geojson(str(path))
    assert isinstance(found, Annotation)
    assert found.geometry.area == 6


def test_an_image_that_was_never_saved_has_no_annotations(tmp_path):
    shutil.copy(DEMO / "project.qpproj", tmp_path)
    for image in dmmn_qp.read_project(str(tmp_path)).entries:
        assert dmmn_qp.read_annotations(image) == []


def test_objects_that_were_saved_and_are_gone_are_an_error(tmp_path):
    shutil.copy(DEMO / "project.qpproj", tmp_path)
    shutil.copytree(DEMO / "data", tmp_path / "data")
    image = dmmn_qp.read_project(tmp_path).entries[0]
    image.data_path.unlink()
    with pytest.raises(DmmnQpError, match="no QuPath data file"):
        dmmn_qp.read_annotations(image)


def test_patches_take_no_open_file_along(workspace, monkeypatch):
    opened = []
    original = dmmn_qp.Dataset.open
    monkeypatch.setattr(dmmn_qp.Dataset, "open", lambda *given: opened.append(given[1].slide_id) or original(*given))
    patches = dmmn_qp.Patches(workspace / "dataset", "val")
    images, target = patches[0]
    patches[0]
    assert len(opened) == 1
    copied = pickle.loads(pickle.dumps(patches))  # noqa: S301 (as a worker process that is spawned gets it)
    assert torch.equal(copied[0][0][0], images[0])
    assert torch.equal(copied[0][1], target)
    assert len(opened) == 2
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in one that is forked
    patches[0]
    assert len(opened) == 3


def test_folders_stand_for_what_is_in_them(workspace, tmp_path):
    network = dmmn_qp.build_network(str(workspace / "dataset"), "unet", width=2, stem="quarter")
    model = dmmn_qp.save_model(tmp_path / "m", network, str(workspace / "dataset"))
    labels = np.ones((4, 4), np.uint8)
    ways = (model, model.card, tmp_path / "m", str(tmp_path / "m"))
    found = [dmmn_qp.polygonize(labels, way, 0.5)[0] for way in ways]
    assert len({a.annotation_id for a in found}) == 1
    assert found[0].metadata["dmmn_qp"] == "m"
    with pytest.raises(ConfigError, match="save_model"):
        dmmn_qp.predict_slide("a.tif", model, tmp_path / "out")


def test_an_interrupted_training_goes_on(workspace, tmp_path, monkeypatch):
    from dmmn_qp.training import stage

    def stopped(*_):
        raise KeyboardInterrupt

    options = {"epochs": 1, "steps_per_epoch": 1, "width": 2, "batch_size": 1, "workers": 0, "preset": "scratch"}
    with monkeypatch.context() as patch:
        patch.setattr(stage, "validate", stopped)
        with pytest.raises(KeyboardInterrupt):
            dmmn_qp.train(workspace / "dataset", tmp_path / "m", **options)
    assert not (tmp_path / "m" / "model.json").exists()
    dmmn_qp.train(workspace / "dataset", tmp_path / "m", resume=True)
    assert dmmn_qp.load_model(tmp_path / "m").card.network.width == 2


def test_names_alone_are_no_classes():
    with pytest.raises(ConfigError, match="cannot be taken from a list; pass a dataset, a model"):
        dmmn_qp.polygonize(np.ones((4, 4), np.uint8), ["Tumor"], 0.5)
