"""What a model's card says of its input and output is what training and prediction do."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dmmn_qp.folders.model import CARD, ModelCard, NetworkOptions, load_card, load_model, save_model
from dmmn_qp.networks.conventions import InputConvention, class_logits, network_inputs, predicted_labels
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import read_field
from dmmn_qp.slides.cached import CachedFields, TileBudget
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import write_tiff
from tests.predicting import predict_whole

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (1300, 1500, 3), np.uint8)


@pytest.fixture(scope="module")
def slide(pixels, tmp_path_factory):
    with open_slide(write_tiff(tmp_path_factory.mktemp("slides") / "a.tif", pixels)) as opened:
        yield opened


@pytest.mark.parametrize(("x", "y"), [(384, 384), (512, 256), (0, 0), (1280, 1024)])
def test_decimated_fields_are_every_nth_pixel_of_the_patch(slide, pixels, x, y):
    """The authors': every 2nd and 4th pixel of the 1024 px about the target, then its middle 256."""
    around = np.zeros((2400, 2600, 3), np.uint8)
    around[384 : 384 + 1300, 384 : 384 + 1500] = pixels
    patch = around[y : y + 1024, x : x + 1024]
    expected = [patch[384:640, 384:640], patch[::2, ::2][128:384, 128:384], patch[::4, ::4]]
    grid = PatchSpec().grid_of(0.5)
    target = Region(x, y, 256, 256)
    for m in range(3):
        assert np.array_equal(read_field(slide, grid, m, grid.field(target, m), "decimate"), expected[m])


def test_decimated_fields_of_any_place_and_size_are_of_one_grid(slide, pixels):
    """Phase 0 everywhere, also where a field begins at an odd pixel and is read in several parts."""
    grid = PatchSpec().grid_of(0.5)
    whole = np.zeros((1200, 1203, 3), np.uint8)
    whole[7 : 7 + 325, 3 : 3 + 375] = pixels[::4, ::4]
    assert np.array_equal(read_field(slide, grid, 2, Region(-3, -7, 1203, 1200), "decimate"), whole)
    cached = CachedFields(slide, grid, TileBudget(), number=0, reduction="decimate")
    assert np.array_equal(cached.read(2, Region(-3, -7, 1203, 1200)), whole)


def test_decimation_does_not_change_the_finest(slide):
    grid = PatchSpec().grid_of(0.25)
    region = Region(10, 20, 64, 64)
    assert np.array_equal(read_field(slide, grid, 0, region, "decimate"), read_field(slide, grid, 0, region))
    by_area, decimated = (read_field(slide, grid, 1, region, way) for way in ("area", "decimate"))
    assert not np.array_equal(by_area, decimated)


def test_network_input_by_hand():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 3, 1, 1)  # red 0, green 51, blue 255
    (plain,) = network_inputs(image, InputConvention(), CPU)
    assert plain.flatten().tolist() == pytest.approx([0, 0.2, 1])
    (blue_first,) = network_inputs(image, InputConvention(channels="BGR"), CPU)
    assert blue_first.flatten().tolist() == pytest.approx([1, 0.2, 0])
    normal = InputConvention(channels="BGR", scale=1 / 51, mean=(1, 2, 3), std=(4, 5, 6))
    (normalised,) = network_inputs(image, normal, CPU)
    assert normalised.flatten().tolist() == pytest.approx([(5 - 1) / 4, (1 - 2) / 5, (0 - 3) / 6])


def test_scaled_values_are_those_of_other_programs():
    """Every value is the float32 that is nearest to value / 255; a product with 1 / 255 misses 126 of them."""
    values = torch.arange(256, dtype=torch.uint8)
    (found,) = network_inputs(values.reshape(1, 1, 1, 16, 16).expand(1, 1, 3, 16, 16), InputConvention(), CPU)
    assert np.array_equal(found[0, 0].flatten().numpy(), (np.arange(256) / 255).astype(np.float32))


def test_reserved_outputs_are_never_predicted():
    logits = torch.tensor([[9.0, 0, 1, 2], [9, 5, 1, 2]]).T.reshape(1, 4, 1, 2)  # (1, 1 reserved + 3 classes, 1, 2)
    assert predicted_labels(logits, 3).tolist() == [[[3, 1]]]
    assert class_logits(logits, 3).shape == (1, 3, 1, 2)
    assert predicted_labels(logits, 4).tolist() == [[[1, 1]]]
    assert predicted_labels(logits, 3).dtype == torch.uint8


def card(**changes):
    return ModelCard(
        name="m",
        network=NetworkOptions(architecture="unet", width=2, reserved_outputs=2),
        class_map=ClassMap.from_colors([("a", (1, 2, 3)), ("b", (4, 5, 6)), ("c", (7, 8, 9))]),
        patch_spec=PatchSpec(size_px=64, stride_px=64),
        created="2026-01-01T00:00:00+00:00",
        **changes,
    )


def test_conventions_travel_with_the_model(tmp_path):
    convention = InputConvention(channels="BGR", scale=0.5, mean=(0.1, 0.2, 0.3), std=(1, 2, 3), reduction="decimate")
    saved = card(input=convention, licence="CC-BY-NC-4.0", attribution="Somebody")
    written = save_model(tmp_path, saved, saved.build())
    loaded, network = load_model(tmp_path)
    assert loaded == written and loaded.input == convention
    assert network([torch.rand(1, 3, 64, 64)] * 3).shape[1] == 2 + 3


def test_older_cards_have_the_defaults(tmp_path):
    content = card().model_dump(mode="json")
    del content["network"]["reserved_outputs"], content["attribution"]
    content["input"] = {"channels": "RGB", "scale": 1 / 255, "reduction": "area"}
    (tmp_path / CARD).write_text(json.dumps(content))
    older = load_card(tmp_path)
    assert older.input == InputConvention() and older.network.reserved_outputs == 0
    del content["input"]
    (tmp_path / CARD).write_text(json.dumps(content))
    assert load_card(tmp_path) == older


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": "RGBA"},
        {"scale": 0},
        {"scale": float("nan")},
        {"std": (1, 0, 1)},
        {"mean": (1, 2)},
        {"reduction": "nearest"},
    ],
)
def test_conventions_that_cannot_be(wrong):
    with pytest.raises(ValidationError):
        InputConvention(**wrong)


def test_prediction_reads_by_the_convention(slide, pixels):
    """A network that answers with the place of its brightest channel, at the second magnification."""

    class Brightest(torch.nn.Module):
        used = 2

        def forward(self, images):
            reserved = torch.full_like(images[1][:, :2], 9)
            return torch.cat([reserved, images[1]], dim=1)

    convention = InputConvention(channels="BGR", reduction="decimate")
    predictor = Predictor(card(input=convention), Brightest(), CPU)
    labels = predict_whole(lambda: open_slide(slide.info.path), predictor)["labels"]
    field = pixels[64 + 128 - 32 : 64 + 128 + 96 : 2, 64 + 64 - 32 : 64 + 64 + 96 : 2]  # around the target (128, 192)
    assert np.array_equal(labels[192:256, 128:192], field[..., ::-1].argmax(axis=-1) + 1)
