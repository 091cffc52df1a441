"""Exported models give what `predict` gives for the same field."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmmn_qp.files.failures import install_command
from dmmn_qp.folders.model import ModelCard, NetworkOptions, load_model, save_model
from dmmn_qp.models.export import METADATA, SingleField, export_model, magnification_of
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.networks.conventions import InputConvention, network_inputs
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import read_field
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import DEMO, fails, invoke, write_tiff
from tests.predicting import predict_whole

CPU = torch.device("cpu")
AREA = InputConvention()
OTHER = InputConvention(channels="BGR", mean=(0.7, 0.5, 0.6), std=(0.2, 0.3, 0.25), reduction="decimate")


def make_model(folder, name="dmmn-m3", size_px=256, mpps=(0.5, 1.0, 2.0), convention=AREA, **network):
    torch.manual_seed(0)
    card = ModelCard(
        name=folder.name,
        network=NetworkOptions(architecture=name, width=4, **network),
        class_map=ClassMap.from_colors([("a", (1, 2, 3)), ("b", (4, 5, 6)), ("c", (7, 8, 9))]),
        patch_spec=PatchSpec(size_px=size_px, mpps=mpps, stride_px=64),
        input=convention,
        created="2026-01-01T00:00:00+00:00",
        licence="CC0-1.0",
    )
    folder.mkdir()
    save_model(folder, card, card.build())
    return folder


@pytest.fixture(scope="module")
def field():
    """1024 px of the demo's tissue at 0.5 um/px, the target in the middle: (1024, 1024, 3) uint8."""
    with open_slide(DEMO / "slides" / "val-1.tif") as slide:
        grid = PatchSpec().grid_of(slide.info.mpp)
        return read_field(slide, grid, 0, Region(1024, 1024, 1024, 1024))


@pytest.fixture(scope="module")
def slide(field, tmp_path_factory):
    """The field as a slide of its own, which has no coarser levels."""
    with open_slide(write_tiff(tmp_path_factory.mktemp("slides") / "field.tif", field)) as opened:
        yield opened


def as_input(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()


def onnx_logits(path, *fields):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return session.run(["logits"], {"field": np.concatenate([as_input(f).numpy() for f in fields])})[0]


def logits_by_predict(card, network, slide, x, y):
    """What the network gives on what `predict` reads for the target at (x, y)."""
    grid, size = card.patch_spec.grid_of(0.5), card.patch_spec.size_px
    fields = [
        read_field(slide, grid, m, grid.field(Region(x, y, size, size), m), card.input.reduction)
        for m in range(len(card.patch_spec.mpps))
    ]
    images = torch.from_numpy(np.stack(fields)[None]).permute(0, 1, 4, 2, 3)
    with torch.inference_mode():
        return network(network_inputs(images, card.input, CPU))[:, card.network.reserved_outputs :].numpy()


@pytest.mark.parametrize("reduction", ["area", "decimate"])
@pytest.mark.parametrize(("size_px", "magnifications"), [(256, 3), (64, 5), (128, 2), (64, 1)])
def test_magnifications_are_cut_as_from_a_slide(slide, field, size_px, magnifications, reduction):
    spec = PatchSpec(size_px=size_px, mpps=tuple(0.5 * 2**m for m in range(magnifications)))
    grid, side = spec.grid_of(0.5), spec.field_px
    x = (1024 - size_px) // 2
    part = as_input(field)[..., (1024 - side) // 2 : (1024 + side) // 2, (1024 - side) // 2 : (1024 + side) // 2]
    for m in range(magnifications):
        expected = read_field(slide, grid, m, grid.field(Region(x, x, size_px, size_px), m), reduction)
        assert torch.equal(magnification_of(part, spec, m, reduction), as_input(expected))


def test_means_are_rounded_as_in_a_picture():
    """Halves go up: of 0, 0, 1, 1 the mean is 1."""
    field = torch.tensor([0.0, 0, 1, 1]).reshape(1, 1, 2, 2).repeat(1, 3, 32, 32)
    assert (magnification_of(field, PatchSpec(size_px=32, mpps=(0.5, 1)), 1, "area") == 1).all()
    pillow = Image.fromarray(np.array([[0, 0], [1, 1]], np.uint8)).reduce(2)
    assert np.asarray(pillow).tolist() == [[1]]


@pytest.mark.engine
def test_onnx_gives_what_predict_gives(tmp_path, field, slide):
    model = make_model(tmp_path / "m")
    path = export_model(model, "onnx")
    assert path == tmp_path / "m.onnx"
    found, expected = onnx_logits(path, field), logits_by_predict(*load_model(model), slide, 384, 384)
    assert found.shape == (1, 3, 256, 256) and len(np.unique(found.argmax(1))) > 1
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(1) != expected.argmax(1)).mean() < 1e-4


@pytest.mark.engine
def test_onnx_gives_the_labels_of_predict_by_other_conventions(tmp_path, field, slide):
    """Two targets at once: one inside the slide, one in its corner, black outside."""
    model = make_model(tmp_path / "m", "dmmn-s2", 64, convention=OTHER, reserved_outputs=1)
    card, network = load_model(model)
    corner = np.zeros((256, 256, 3), np.uint8)
    corner[96:, 96:] = field[:160, :160]
    found = onnx_logits(export_model(model, "onnx"), field[128 - 96 : 128 + 160, 192 - 96 : 192 + 160], corner)
    labels = predict_whole(lambda: open_slide(slide.info.path), Predictor(card, network, CPU))["labels"]
    expected = np.stack([labels[128 : 128 + 64, 192 : 192 + 64], labels[:64, :64]])
    assert len(np.unique(expected)) > 1
    assert (found.argmax(1) + 1 != expected).mean() < 1e-4


@pytest.mark.engine
def test_onnx_of_a_network_with_unpooling_norm_and_stem(tmp_path, field):
    model = make_model(tmp_path / "m", "segnet", 64, (0.5,), OTHER, norm="group", stem="half")
    card, network = load_model(model)
    with torch.inference_mode():
        expected = SingleField(network, card)(as_input(field[:64, :64])).numpy()
    assert np.abs(onnx_logits(export_model(model, "onnx"), field[:64, :64]) - expected).max() < 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_of_every_network(tmp_path, field, name):
    model = make_model(tmp_path / "m", name, 64, (0.5, 1.0, 2.0, 4.0), OTHER, reserved_outputs=2)
    card, network = load_model(model)
    some = as_input(field)[..., :512, :512].repeat(3, 1, 1, 1)
    with torch.inference_mode():
        expected = SingleField(network, card)(some)
    files = {METADATA: ""}
    loaded = torch.jit.load(str(export_model(model, "torchscript")), _extra_files=files)
    assert torch.allclose(loaded(some), expected, atol=1e-5) and expected.shape == (3, 3, 64, 64)
    assert json.loads(files[METADATA])["input"]["shape"] == ["batch", 3, 512, 512]


@pytest.mark.engine
def test_the_file_says_what_it_is(here):
    import onnxruntime

    make_model(here / "m", "unet", 64, (0.5, 1.0), AREA)
    result = invoke("models", "export", "m", "--format", "onnx", "--out", "sub/x.onnx")
    assert result.exit_code == 0, result.output
    assert "float32 at 0.5 um/px -> logits (batch, 3, 64, 64)" in result.output and "CC0-1.0" in result.output
    assert "warning" not in result.stderr.lower()
    session = onnxruntime.InferenceSession("sub/x.onnx")
    described = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert described["input"]["shape"] == given.shape == ["batch", 3, 128, 128]
    assert described["output"]["shape"] == made.shape == ["batch", 3, 64, 64]
    assert [described["input"]["name"], described["output"]["name"]] == [given.name, made.name]
    assert given.type == made.type == "tensor(float)"
    assert described["output"]["corner_in_field_px"] == [32, 32] and described["input"]["um_per_px"] == 0.5
    assert [c["name"] for c in described["classes"]] == ["a", "b", "c"] and described["licence"] == "CC0-1.0"
    assert sorted(p.name for p in Path("sub").iterdir()) == ["x.onnx"]


def test_what_cannot_be_exported(here, monkeypatch):
    make_model(here / "m", "unet", 64, (0.5,))
    assert "is not a model" in fails("models", "export", "none")
    assert invoke("models", "export", "m", "--format", "keras").exit_code == 2
    assert "is a folder" in fails("models", "export", "m", "--out", ".")
    (here / "m.pt").write_bytes(b"mine")
    assert "--overwrite" in fails("models", "export", "m", "--format", "torchscript")
    assert (here / "m.pt").read_bytes() == b"mine"
    assert invoke("models", "export", "m", "--format", "torchscript", "--overwrite").exit_code == 0
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert install_command("export") in fails("models", "export", "m")
    assert sorted(p.name for p in here.iterdir()) == ["m", "m.pt"]
