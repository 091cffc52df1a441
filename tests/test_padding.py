"""What convolutions see beyond the border of a map, from the layer to the command line."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import dmmn_qp
from dmmn_qp.folders.model import ModelCard, load_card, load_model
from dmmn_qp.models.export import SingleField, describe_export, export_model
from dmmn_qp.networks.blocks import ConvTranspose
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.padding import DoublingConvolution, pad_with
from dmmn_qp.predicting import inference
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import Predictor, choose_context, make_predictor
from dmmn_qp.training import stage
from dmmn_qp.training.fine_tuning import inherited_from
from dmmn_qp.training.options import PRESETS, TrainOptions
from dmmn_qp.training.plan import new_network
from dmmn_qp.training.state import load_state
from tests.architecture_contract import build, images
from tests.conftest import invoke, two_tissues, write_tiff
from tests.predicting import predict_whole
from tests.test_prediction import CPU, card, in_float64, network_of, noise  # noqa: F401
from tests.test_training import TINY


def repeating(of):
    """The card of the same network, trained with its borders repeated."""
    network = of.network.model_copy(update={"padding": "replicate"})
    return of.model_copy(update={"network": network, "input": InputConvention(beyond="mirror")})


# ---- layers


def test_a_doubled_pixel_by_hand():
    """With weights of 1: output 2 i sees pixel i, output 2 i + 1 sees pixels i and i + 1."""
    layer = DoublingConvolution(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    pixel = torch.ones(1, 1, 1, 1)
    assert layer(pixel)[0, 0].tolist() == [[1, 1], [1, 1]]
    pad_with(layer, "replicate")
    assert layer(pixel)[0, 0].tolist() == [[1, 2], [2, 4]]


def test_with_zeros_it_is_the_papers():
    torch.manual_seed(0)
    layer, x = ConvTranspose(3, 5)[0], torch.rand(2, 3, 7, 4)
    paper = nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1)
    paper.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), paper(x))
    assert all(m.padding_mode == "zeros" for m in build("dmmn-ms", stem="half").modules() if isinstance(m, nn.Conv2d))


def test_borders_are_repeated_in_every_layer():
    """The middle of a wider map, whose border is repeated, looks the same: nothing else is seen beyond."""
    torch.manual_seed(0)
    layers = nn.Sequential(ConvTranspose(3, 4), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 1))
    pad_with(layers, "replicate")
    x = torch.rand(1, 3, 6, 8)
    doubled = layers[0](functional.pad(x, (1, 1, 1, 1), mode="replicate"))[..., 2:-2, 2:-2]
    assert torch.allclose(layers[0](x), doubled, atol=1e-6)
    wider = layers[1](functional.pad(doubled, (2, 2, 2, 2), mode="replicate"))[..., 1:-1, 1:-1]
    assert torch.allclose(layers[1](doubled), wider, atol=1e-6)
    assert layers[2].padding_mode == "zeros", "it sees nothing beyond"


# ---- options


def test_who_repeats_borders():
    for preset, padding, beyond in (
        ("scratch", "replicate", "mirror"),
        ("fast", "replicate", "mirror"),
        ("paper", "zeros", "black"),
        ("official", "zeros", "black"),
    ):
        options = TrainOptions(**{**PRESETS[preset], "architecture": "unet"})
        network, convention, *_ = new_network(options, CPU)
        assert (network.padding, convention.beyond) == (padding, beyond)
    assert new_network(TrainOptions(), CPU).network.padding == "zeros", "a pretrained encoder has its own"


def test_a_card_of_an_earlier_version_has_zeros():
    content = card("unet").model_dump(mode="json")
    del content["network"]["padding"]
    older = ModelCard.model_validate(content)
    assert older.network.padding == "zeros" and older.build().padding == "zeros"


def test_a_network_of_ones_own(workspace, tmp_path):
    dataset = dmmn_qp.Dataset(workspace / "dataset")
    network = dmmn_qp.build_network(dataset, "unet", width=2, padding="replicate")
    model = dmmn_qp.save_model(tmp_path / "m", network, dataset)
    given = images(size=256)
    assert model.card.network.padding == "replicate"
    assert torch.equal(dmmn_qp.load_model(tmp_path / "m").network(given), network.eval()(given))
    assert dmmn_qp.build_network(dataset, "unet", width=2).padding == "zeros"


# ---- training


def test_training_from_scratch_repeats_borders(workspace, here):
    (here / "tiny.toml").write_text(TINY)
    command = ("train", "--dataset", workspace / "dataset", "--config", "tiny.toml", "--epochs", 1)
    assert invoke(*command, "--out", "m").exit_code == 0
    assert (load_card(here / "m").network.padding, load_card(here / "m").input.beyond) == ("replicate", "mirror")
    (here / "tiny.toml").write_text(TINY + 'padding = "zeros"\n')
    assert invoke(*command, "--out", "zeros").exit_code == 0
    assert (load_card(here / "zeros").network.padding, load_card(here / "zeros").input.beyond) == ("zeros", "black")
    spec, classes = load_card(here / "m").patch_spec, load_card(here / "m").class_map
    assert inherited_from(here / "zeros", spec, classes).network.padding == "zeros"
    assert inherited_from(here / "m", spec, classes).convention.beyond == "mirror"


def test_a_training_of_an_earlier_version_goes_on_with_zeros(workspace, here, monkeypatch):
    """Its state says nothing of padding."""
    (here / "tiny.toml").write_text(TINY + 'padding = "zeros"\n')
    command = ("train", "--dataset", workspace / "dataset", "--config", "tiny.toml", "--out", "m")
    with monkeypatch.context() as stopped:
        stopped.setattr(stage, "write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert invoke(*command).exit_code != 0
    content = torch.load(here / "m" / "resume.pt", weights_only=True)
    assert content["options"].pop("padding") == "zeros"
    torch.save(content, here / "m" / "resume.pt")
    assert load_state(here / "m").options["padding"] == "zeros"
    result = invoke("train", "--resume", "--out", "m", "--dataset", workspace / "dataset")
    assert result.exit_code == 0, result.output
    assert (load_card(here / "m").network.padding, load_card(here / "m").input.beyond) == ("zeros", "black")


# ---- prediction


@pytest.mark.parametrize(
    ("architecture", "size", "stem", "context"),
    [
        ("dmmn-m3", 256, "quarter", "seamless"),
        ("dmmn-ms", 256, "full", "seamless"),
        ("unet", 64, "quarter", "seamless"),
        ("dmmn-s2", 256, "quarter", "blended"),  # one stack of images of different magnifications
        ("dmmn-s2", 256, "full", "patch"),
        ("dmmn-m3", 128, "quarter", "blended"),  # off the pixels of its maps
        ("dmmn-m3", 128, "full", "shared"),
    ],
)
def test_who_is_seamless(architecture, size, stem, context):
    of = repeating(card(architecture, size, stem))
    expected = context
    if (architecture, size, stem) == ("dmmn-m3", 128, "full"):
        expected = "seamless"
    assert choose_context(of.build(), of.patch_spec, "auto") == expected


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("architecture", "stem"), [("unet", "quarter"), ("dmmn-m3", "full")])
def test_seamless_prediction_needs_no_padding(noise, architecture, stem):  # noqa: F811
    """`make_predictor` takes the cheapest one, and nothing changes."""
    of = repeating(card(architecture, 64, stem))
    network = network_of(of)
    expected = predict_whole(noise, Predictor(of, network, CPU, context="seamless", probabilities=True))
    predictor = make_predictor(of, network, CPU, "seamless", PredictOptions(probabilities=True, precision="fp32"))
    assert all(m.padding_mode == "zeros" for m in network.modules() if isinstance(m, nn.Conv2d))
    found = predict_whole(noise, dataclasses.replace(predictor, bf16=False))
    assert all(np.array_equal(found[kind], expected[kind]) for kind in expected)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("stem", "rows"), [("half", 300), ("quarter", 300), ("quarter", 64)])
def test_a_stem_in_bands_is_the_stem(stem, rows):
    of = card("unet", 64, stem, 1)
    network = network_of(of)
    predictor = Predictor(of, network, CPU, context="seamless")
    pixels = torch.randint(0, 256, (1, 3, rows, 96), dtype=torch.uint8)
    with torch.inference_mode():
        whole = network.stems[0](inference._input(pixels, predictor))
        assert (inference._behind_stem(pixels, 0, predictor) - whole).abs().max() < 1e-14


def test_an_array_is_mirrored_beyond_as_a_slide_is(workspace, tmp_path):
    """What lies beyond reaches far: with black there, labels differ."""
    of = repeating(card("unet", 64, "quarter", 1))
    network = network_of(of).float()
    pixels = two_tissues(150, 170)
    slide = write_tiff(tmp_path / "slide.tif", pixels)
    model = dmmn_qp.api.models.Model(of, network)
    found = dmmn_qp.predict_probabilities(pixels, 0.5, model)
    predictor = make_predictor(of, network, CPU, "seamless", PredictOptions(probabilities=True))
    seen = predict_whole(lambda: dmmn_qp.open_slide(slide), predictor)["probabilities"][:, :150, :170]
    assert np.array_equal(found, seen)
    black = of.model_copy(update={"input": InputConvention()})
    assert not np.array_equal(
        found, dmmn_qp.predict_probabilities(pixels, 0.5, dmmn_qp.api.models.Model(black, network))
    )


def test_a_network_in_memory_keeps_its_padding():
    of = repeating(card("unet", 64, "quarter", 1))
    network = network_of(of).float()
    dmmn_qp.predict_array(two_tissues(70, 70), 0.5, dmmn_qp.api.models.Model(of, network))
    assert network.network.encoder.blocks[0][0].padding_mode == "replicate"


# ---- export


@pytest.mark.parametrize("architecture", ["dmmn-m3", "segnet"])
@pytest.mark.parametrize("kind", ["torchscript", pytest.param("onnx", marks=pytest.mark.engine)])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_exported_it_repeats_borders(tmp_path, architecture, kind):
    from tests.test_export import make_model, onnx_logits

    model = make_model(
        tmp_path / "m", architecture, 64, (0.5, 1.0), InputConvention(beyond="mirror"), stem="half", padding="replicate"
    )
    of, network = load_model(model)
    field = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    tensor = torch.from_numpy(field).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        expected = SingleField(network, of)(tensor).numpy()
        pad_with(network, "zeros")
        assert np.abs(SingleField(network, of)(tensor).numpy() - expected).max() > 1e-2
    path = export_model(model, kind)
    found = onnx_logits(path, field) if kind == "onnx" else torch.jit.load(str(path))(tensor).detach().numpy()
    assert np.abs(found - expected).max() < 1e-3
    assert "mirrored outside" in describe_export(of)["input"]["values"]
