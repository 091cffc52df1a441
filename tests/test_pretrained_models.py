"""Models on a pretrained encoder: in a loop of one's own, shown, shrunk, exported, trained further."""

import json

import numpy as np
import pytest
import torch

import dmmn_qp
from dmmn_qp.errors import ModelError
from dmmn_qp.folders.encoder_origin import encoder_in
from dmmn_qp.folders.encoder_weights import load_encoder
from dmmn_qp.folders.model import CARD, WEIGHTS, ModelCard, NetworkOptions, load_card, load_model, save_model
from dmmn_qp.models.export import METADATA, SingleField, export_model
from dmmn_qp.networks.efficientnet import EfficientNetLite
from dmmn_qp.networks.encoders import DEFAULT_ENCODER, ENCODERS, EncoderKind
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.training.fine_tuning import freeze_encoders, start_from
from tests.conftest import invoke

CREDIT = "efficientnet-lite0: Apache-2.0; EfficientNet-Lite weights by Google"


@pytest.fixture(scope="module")
def dataset(two_tissue_slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    slides, geojson = two_tissue_slides / "slides", two_tissue_slides / "geojson"
    options = ("--mpps", "0.5,1", "--out", folder / "dataset")
    result = invoke("import", slides, "--annotations", geojson, *options)
    assert result.exit_code == 0, result.output
    return folder / "dataset"


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    torch.manual_seed(0)
    network = dmmn_qp.build_network(dataset, "dmmn-p", width=8, views=3)
    folder = tmp_path_factory.mktemp("models") / "m"
    dmmn_qp.save_model(folder, network, dataset)
    return folder


def test_only_the_decoder_is_random(dataset):
    first, second = (dmmn_qp.build_network(dataset, "dmmn-p", width=8).network for _ in range(2))
    published = load_encoder(DEFAULT_ENCODER).state_dict()
    assert all(torch.equal(value, published[key]) for key, value in first.encoder.state_dict().items())
    assert not torch.equal(first.output.weight, second.output.weight)


def test_patches_are_as_the_encoder_was_trained_on(dataset):
    """(value - 127) / 128, where a plain network is given value / 255."""
    network = dmmn_qp.build_network(dataset, "dmmn-p", width=8)
    plain, theirs = (dmmn_qp.Patches(dataset, network=of)[0][0] for of in (None, network))
    for a, b in zip(plain, theirs, strict=True):
        assert torch.allclose((a * 255 - 127) / 128, b, atol=1e-5)
    named = dmmn_qp.Patches(dataset, network=DEFAULT_ENCODER)[0][0]
    assert all(torch.equal(a, b) for a, b in zip(named, theirs, strict=True))


def test_the_card_says_all_of_the_encoder(model):
    card, network = load_model(model)
    assert card.input == ENCODERS[DEFAULT_ENCODER].convention
    assert (card.network.encoder, card.network.views, network.network.views) == (DEFAULT_ENCODER, 3, 3)
    assert card.encoder.licence == "Apache-2.0" and card.encoder.copied
    assert card.encoder_credit.startswith(CREDIT)
    assert encoder_in(network)[1] == card.encoder, "what is loaded may be saved again"


def test_a_model_folder_needs_no_package(model, monkeypatch):
    monkeypatch.setattr("dmmn_qp.folders.encoder_weights.find_spec", lambda name: None)
    monkeypatch.setenv("DMMN_QP_CACHE", "/nonexistent")
    network = load_model(model)[1]
    assert network([torch.zeros(1, 3, 256, 256)] * 2).shape == (1, 2, 256, 256)
    with pytest.raises(ModelError, match="are not installed"):
        load_encoder(DEFAULT_ENCODER)


def test_show(model):
    result = invoke("models", "show", model)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "dmmn-p, width 8, on pretrained encoder efficientnet-lite0, mean over 3 views" in shown
    assert "Apache-2.0 EfficientNet-Lite weights by Google" in shown and "weights part of this model" in shown
    assert "minus mean 127, 127, 127, divided by std 128, 128, 128" in shown


def test_shrink_keeps_the_encoder_and_its_credit(model, here):
    result = invoke("models", "shrink", model, "--out", "small")
    assert result.exit_code == 0, result.output
    small, whole = load_model(here / "small"), load_model(model)
    assert small[0].encoder == whole[0].encoder
    assert (here / "small" / WEIGHTS).stat().st_size < 0.6 * (model / WEIGHTS).stat().st_size
    images = [torch.rand(1, 3, 256, 256) * 2 - 1 for _ in range(2)]
    found, expected = (network(images) for _, network in (small, whole))
    assert ((found - expected).norm() / expected.norm()) < 0.01


def fields_of(card):
    side = card.patch_spec.field_px
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, side, side))).float()


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_gives_what_the_network_gives(model, tmp_path):
    """With views, which turn images inside the graph."""
    card, network = load_model(model)
    fields = fields_of(card)
    with torch.inference_mode():
        expected = SingleField(network, card)(fields)
    files = {METADATA: ""}
    found = torch.jit.load(str(export_model(model, "torchscript", tmp_path / "x")), _extra_files=files)(fields)
    assert found.shape == (2, 2, 256, 256) and (found - expected).abs().max() < 1e-3 * expected.abs().max()
    assert json.loads(files[METADATA])["encoder"]["licence"] == "Apache-2.0"


@pytest.mark.engine
def test_onnx_gives_what_the_network_gives(tmp_path, monkeypatch):
    """Of the same kinds of layers, but fewer: torch takes its time for each."""
    import onnxruntime

    few = EncoderKind(lambda: EfficientNetLite(0.25, 0.3), ENCODERS[DEFAULT_ENCODER].convention)
    monkeypatch.setitem(ENCODERS, "few", few)
    card = ModelCard(
        name="few",
        network=NetworkOptions(architecture="dmmn-p", width=4, encoder="few", views=3),
        class_map=ClassMap.from_colors([("a", (1, 2, 3)), ("b", (4, 5, 6))]),
        patch_spec=PatchSpec(size_px=64, mpps=(0.5,), stride_px=64),
        input=few.convention,
        created="now",
    )
    save_model(tmp_path, card, card.build())
    card, network = load_model(tmp_path)
    fields = fields_of(card)
    with torch.inference_mode():
        expected = SingleField(network, card)(fields)
    session = onnxruntime.InferenceSession(str(export_model(tmp_path, "onnx", tmp_path / "x.onnx")))
    found = torch.from_numpy(session.run(["logits"], {"field": fields.numpy()})[0])
    assert found.shape == (2, 2, 64, 64) and (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_training_goes_on_from_it(model, dataset, tmp_path):
    """The encoder keeps its weights where it is frozen, and its origin in any case."""
    network = load_card(model).build()
    assert start_from(network, model, dmmn_qp.Dataset(dataset).class_map) == []
    freeze_encoders(network, "encoder")
    before = {key: value.clone() for key, value in network.network.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    network.train()([torch.rand(1, 3, 256, 256)] * 2).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in network.network.encoder.state_dict().items())
    dmmn_qp.save_model(tmp_path / "n", network, dataset)
    assert load_card(tmp_path / "n").encoder == load_card(model).encoder


def test_credit_in_the_outputs(model, here, two_tissue_slides):
    slide = two_tissue_slides / "slides" / "a.tif"
    result = invoke("predict", slide, "--model", model, "--context", "patch", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert f"encoder of the model: {CREDIT}" in result.output
    assert f"Encoder:  {CREDIT}" in (here / "predictions" / "README.txt").read_text()


def test_older_cards_have_no_encoder(model, tmp_path):
    """A card without the key is read, and its network asks nothing of an encoder's origin."""
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / CARD).read_text())
    assert content.pop("encoder")
    (tmp_path / CARD).write_text(json.dumps(content))
    card, network = load_model(tmp_path)
    assert card.encoder is None and card.encoder_credit is None and encoder_in(network) is None


@pytest.mark.parametrize("architecture", ["unet"])
def test_an_origin_without_an_encoder_is_refused(model, dataset, tmp_path, architecture):
    network = dmmn_qp.build_network(dataset, architecture, width=2)
    dmmn_qp.save_model(tmp_path / "u", network, dataset)
    card = json.loads((tmp_path / "u" / CARD).read_text())
    card["encoder"] = json.loads((model / CARD).read_text())["encoder"]
    (tmp_path / "u" / CARD).write_text(json.dumps(card))
    with pytest.raises(ModelError, match="names an encoder that its network has not"):
        load_model(tmp_path / "u")


def test_architectures_says_what_pretrained_means():
    result = invoke("architectures", "--classes", 6)
    assert result.exit_code == 0
    assert "dmmn-p" in result.output and "trained on other pictures (pretrained)" in " ".join(result.output.split())
