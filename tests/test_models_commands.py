"""`dmmn-qp models`: what is said of a model."""

import hashlib
import json

import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ModelError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import CARD, WEIGHTS, ModelCard, NetworkOptions, load_card, load_model, save_model
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.training.fine_tuning import start_from
from tests.conftest import CMU_1, DEMO, REPOSITORY, fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.official_files import official_state, write_checkpoint


@pytest.fixture
def model(here):
    card = ModelCard(
        name="two tissues",
        network=NetworkOptions(architecture="dmmn-ms", width=2, norm="batch", stem="half", reserved_outputs=1),
        class_map=ClassMap.from_colors([("dark", (90, 20, 110)), ("light*", (230, 200, 255))]),
        patch_spec=PatchSpec(size_px=128, mpps=(0.25, 0.5), stride_px=64),
        input=InputConvention(channels="BGR", mean=(0.5, 0.25, 0), std=(1, 2, 3), reduction="decimate"),
        validation={"epoch": 3, "mean_iou": 0.81234, "iou": {"dark": 0.75, "light*": None}},
        provenance={"run_id": "abc", "slides": ["a", "b"]},
        created="2026-01-01T00:00:00+00:00",
        licence="CC0-1.0",
        attribution="Somebody",
    )
    (here / "m").mkdir()
    save_model(here / "m", card, card.build())
    return here / "m"


def test_show_says_all_of_it(model):
    result = invoke("models", "show", "m")
    assert result.exit_code == 0, result.output
    parameters = sum(p.numel() for p in load_model(model)[1].parameters())
    for said in (
        "two tissues",
        "dmmn-ms, width 2, batch norm, computes at half the resolution",
        f"{parameters:,} parameters, 3 outputs; the first of no class and never predicted",
        "1  dark    #5A146E\n",
        "2  light*  #E6C8FF  not exported",
        "0.25, 0.5 um/px, each 128 x 128 px",
        "of the 64 um given, for a target of 32 um",
        "BGR 0 .. 255 / 255, minus mean 0.5, 0.25, 0, divided by std 1, 2, 3",
        "every 2nd, 4th ... pixel",
        "epoch 3",
        "mean_iou 0.812",
        "iou: dark 0.750, light* -",
        "CC0-1.0",
        "Somebody",
        "slides a, b",
        "2026-01-01",
        "MiB in m",
        f"weights SHA-256 {hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()[:12]}",
    ):
        assert said in result.stdout, said


def test_show_as_json(model):
    shown = json.loads(invoke("models", "show", "m", "--json").stdout)
    assert shown["card"] == json.loads((model / CARD).read_text())
    assert shown["size_bytes"] == sum(path.stat().st_size for path in model.iterdir())
    assert shown["field_um"] == 64 and 0 < shown["context_um"] <= 64


def test_show_of_something_else(model, here):
    assert "is not a model" in fails("models", "show", "none")
    assert "is not a model" in fails("models", "show", ".")
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-9])
    assert "damaged" in fails("models", "show", "m")
    (model / CARD).write_text('{"architecture": "resnet50"}')
    assert "model card" in fails("models", "show", "m")


def change_card(folder, **changes):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changes))


def test_show_of_an_older_card(model):
    change_card(model, weights_sha256=None)
    assert "no digest of the weights (older card)" in invoke("models", "show", "m").stdout


CLEAR, TURNED = "\x1b[2J", "\u202e"


def test_what_is_said_of_a_model_cannot_act_on_the_terminal(model):
    """Clearing the screen, turning the order of letters, forging lines, flooding."""
    change_card(
        model,
        name=f"a{CLEAR}\nb",
        licence=f"CC0{TURNED}0CC",
        attribution="x" * 5000,
        provenance={f"k{CLEAR}": [f"v{CLEAR}"], **{f"key {i}": i for i in range(1000)}},
        validation={"iou": {f"c{CLEAR}": "\x9b2J"}},
        class_map={"classes": [{"name": name, "label": 1, "color": [0, 0, 0]} for name in (f"dark\r{CLEAR}",)]},
    )
    (model / WEIGHTS).unlink()
    one_class = load_card(model)
    save_model(model, one_class, one_class.build())
    shown = invoke("models", "show", "m").stdout
    assert not set(shown) & {"\x1b", "\x9b", "\r", TURNED}
    for said in ("a\\x1b[2J b\n", "CC0\\u202e0CC", "k\\x1b[2J v\\x1b[2J", "dark \\x1b[2J", "... and 701 more"):
        assert said in shown, said
    assert "key 298 298" in shown and "key 299" not in shown
    assert max(map(len, shown.splitlines())) < 2100
    assert invoke("models", "show", "m", "--json").stdout.isascii()
    change_card(model, network={"architecture": f"x{CLEAR}", "width": 2})
    assert "\\x1b[2J" in (said := fails("models", "show", "m")) and "\x1b" not in said


@pytest.mark.parametrize("way", ["say", "heading", "warn", "table"])
def test_nothing_that_is_reported_acts_on_the_terminal(capsys, way):
    text = f"[b]Größe 3\N{NO-BREAK SPACE}µm{CLEAR}\x07\t{TURNED}"
    reporter = Reporter()
    if way == "table":
        reporter.table([text, "n"], [[text, "1"]])
    else:
        getattr(reporter, way)(text)
    printed = "".join(capsys.readouterr())
    assert printed.count("[b]Größe 3\N{NO-BREAK SPACE}µm\\x1b[2J\\x07\\t\\u202e") == (2 if way == "table" else 1)
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    "command",
    [
        ("models", "show", "m"),
        ("models", "shrink", "m", "--out", "small"),
        ("models", "export", "m", "--format", "torchscript", "--out", "m.pt"),
        ("predict", "slide.tif", "--model", "m", "--out", "p"),
    ],
)
def test_weights_that_are_not_the_cards_go_nowhere(model, here, command):
    other = load_card(model)
    (here / "other").mkdir()
    save_model(here / "other", other, other.build())
    (here / "other" / WEIGHTS).replace(model / WEIGHTS)
    write_tiff(here / "slide.tif", two_tissues(256, 256), mpp=0.25)
    assert "are not those of its card" in fails(*command)
    assert {path.name for path in here.iterdir()} == {"m", "other", "slide.tif"}


def test_weights_that_are_not_the_cards_start_no_training(model, here):
    card, network = load_model(model)
    (here / "other").mkdir()
    save_model(here / "other", card, card.build())
    (here / "other" / WEIGHTS).replace(model / WEIGHTS)
    with pytest.raises(ModelError, match="are not those of its card"):
        start_from(network, model, card.class_map)


def test_every_model_that_is_written_has_its_digest(model, here, workspace):
    assert invoke("models", "shrink", "m", "--out", "small").exit_code == 0
    file = write_checkpoint(here / "c.pkl", official_state(2))
    command = ("models", "import-official", file, "--preset", "msk-breast", "--out", "official")
    assert invoke(*command).exit_code == 0
    shipped = (REPOSITORY / "models" / "demo", REPOSITORY / "tests" / "data" / "full-stem")
    for folder in (here / "small", here / "official", workspace / "models" / "dmmn-m3-1", *shipped):
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        assert load_card(folder).weights_sha256 == digest, folder


def test_shrunk_model_is_half_as_large_and_predicts_as_before(workspace, here):
    source = workspace / "models" / "dmmn-m3-1"
    result = invoke("models", "shrink", source, "--out", "small")
    assert result.exit_code == 0, result.output
    assert (here / "small" / WEIGHTS).stat().st_size < 0.6 * (source / WEIGHTS).stat().st_size
    slide = json.loads((workspace / "dataset" / "dataset.json").read_text())["slides"][0]["path"]
    for model, out in ((source, "before"), ("small", "after")):
        assert invoke("predict", slide, "--model", model, "--out", out, "--precision", "fp32").exit_code == 0
    labels = []
    for out in ("before", "after"):
        (path,) = (here / out).glob("*.labels.ome.tif")
        with LabelRaster(path) as raster:
            labels.append(raster.read(Region(0, 0, 768, 512)))
    assert (labels[0] == labels[1]).mean() > 0.995
    assert "exists" in fails("models", "shrink", source, "--out", "small")


def test_weights_that_half_precision_cannot_hold(model):
    card, network = load_model(model)
    counters = [b for name, b in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert counters
    counters[0].fill_(10**6)  # a count of steps is kept as it is, however long the training
    save_model(model, card, network)
    assert invoke("models", "shrink", "m", "--out", "long").exit_code == 0
    next(network.parameters()).data.fill_(1e6)
    save_model(model, card, network)
    assert "beyond half precision" in fails("models", "shrink", "m", "--out", "small")


def test_the_shipped_model_knows_the_demo_slides(here):
    """Small enough to ship, and it finds on the test slide what the truth map holds."""
    model = REPOSITORY / "models" / "demo"
    assert sum(path.stat().st_size for path in model.iterdir()) < 8_000_000
    part = Region(512, 512, 1536, 1024)
    roi = rois_file(here / "part.geojson", part)
    command = ("predict", DEMO / "slides" / "test-1.tif", "--model", model, "--out", "p", "--views", 1, *roi)
    assert invoke(*command).exit_code == 0
    with (
        LabelRaster(here / "p" / "test-1.labels.ome.tif") as found,
        LabelRaster(DEMO / "truth" / "test-1.png") as truth,
    ):
        confusion = confusion_matrix(truth.read(part), found.read(part), 6)
    assert load_card(model).class_map.names == Dataset(imported(here)).class_map.names
    assert Metrics.from_confusion(confusion).mean_iou > 0.7


def rois_file(path, part):
    """The option that names a file with one area to predict."""
    return "--roi", write_features(path, [rectangle(part.x, part.y, part.width, part.height, None)])


def imported(here):
    assert invoke("import", DEMO / "project.qpproj", "--out", here / "dataset").exit_code == 0
    return here / "dataset"


def test_the_shipped_model_runs_on_a_real_slide(here):
    roi = rois_file(here / "part.geojson", Region(700, 700, 900, 700))
    result = invoke("predict", CMU_1, "--model", REPOSITORY / "models" / "demo", "--views", 1, *roi)
    assert result.exit_code == 0, result.output
    assert not read_geojson(here / "predictions" / "CMU-1-Small-Region.geojson").warnings
