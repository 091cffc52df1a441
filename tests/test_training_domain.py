"""How far a slide is from the training slides: the arithmetic by hand, what cards may say, and what users are told."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ModelError
from dmmn_qp.features import tissue
from dmmn_qp.features.domain import (
    COLOR_NUMBERS,
    ENCODER_NUMBERS,
    MOST_SLIDES,
    SLIDES_FOR_A_VERDICT,
    TILES_FOR_A_SLIDE,
    FromTraining,
    TrainingDomain,
    domain_of,
    fitted,
    threshold_of,
)
from dmmn_qp.features.domain import _student as student
from dmmn_qp.features.tissue import TissueDescriber, color_of, magnification_of, projection, tissue_tiles
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import CARD, add_training_domain, is_whole, load_card, load_model, newest_model
from dmmn_qp.folders.predictions import read_predictions
from dmmn_qp.models.shrinking import shrink_model
from dmmn_qp.models.summary import summarise
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import domain as stage_domain
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.unfinished import _key, take_up
from dmmn_qp.slides.array_slide import ArraySlide
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import PatchSpec
from dmmn_qp.training import domain as training_domain
from dmmn_qp.training.domain import chosen_slides
from tests.conftest import fails, invoke, write_tiff
from tests.predicting import no_picture, writing
from tests.test_prediction_resume import command, make_model

PINK, GREEN, GLASS = (200, 120, 170), (70, 160, 60), (242, 242, 242)
SPEC = PatchSpec(size_px=64, stride_px=64)


def plain(variance=1.0, **changed):
    """The domain of six numbers with mean 0 and equal variances."""
    triangle = [variance if row == column else 0.0 for row in range(6) for column in range(row + 1)]
    return TrainingDomain(
        **{"kind": "color", "slides": 5, "tiles": 9, "mean": (0,) * 6, "covariance": triangle} | changed
    )


def tiles(*values):
    """Tiles of six equal numbers each."""
    return np.repeat(np.asarray(values, float)[:, None], 6, axis=1)


def stained(color=PINK, rows=300, columns=300, seed=0):
    """Tissue of one colour, with noise: (rows, columns, 3) uint8."""
    noise = np.random.default_rng(seed).normal(0, 8, (rows, columns, 3))
    return np.clip(np.asarray(color) + noise, 0, 255).astype(np.uint8)


def vectors_of(pixels, mpp=0.5):
    with ArraySlide(pixels, mpp) as slide:
        return TissueDescriber(InputConvention()).vectors(slide, SPEC.grid_of(mpp))


# The arithmetic


def test_distance_by_hand():
    """Numbers of 2 with a variance of 4 are 1 away; the median of 1, 3 and 50 is 3, whatever the farthest tile is."""
    assert plain(4.0).distance(tiles(2.0)) == pytest.approx(1)
    assert plain(4.0).distance(tiles(2.0, -6.0, 100.0)) == pytest.approx(3)
    with pytest.raises(ValueError, match="do not fit"):
        plain().distance(np.zeros((1, 7)))
    with pytest.raises(ValueError, match="not finite"):
        plain().distance(tiles(1.0, np.nan))


def test_correlated_numbers_by_hand():
    """Of two numbers with variances 1 and correlation 0.6: d2 of (1, 1) is 2 / 1.6, of (1, -1) 2 / 0.4."""
    triangle = list(plain().covariance)
    triangle[1] = 0.6
    domain = plain(covariance=triangle)
    for second, squared in ((1, 2 / 1.6), (-1, 2 / 0.4)):
        assert domain.distance(np.array([[1.0, second, 0, 0, 0, 0]])) == pytest.approx(math.sqrt(squared / 6))


def test_each_slide_counts_the_same():
    """One slide has tiles 0 and 2, the other one tile 5: the mean is (1 + 5) / 2, not 7 / 3."""
    mean, _ = fitted([tiles(0.0, 2.0), tiles(5.0)])
    assert mean == pytest.approx([3.0] * 6)


def test_covariance_is_shrunk_towards_its_diagonal():
    """Tiles (0, 0) and (2, 2) have variances and covariance of 2; of two tiles and numbers half of the latter stays."""
    _, covariance = fitted([np.array([[0.0, 0.0], [2.0, 2.0]])])
    assert covariance == pytest.approx(np.array([[2.0, 1.0], [1.0, 2.0]]), abs=2e-4)


def test_slides_of_one_colour_have_a_domain():
    domain = domain_of([tiles(0.5, 0.5)] * 3, "color")
    assert domain is not None and domain.distance(tiles(0.5)) == 0
    assert domain.distance(tiles(0.52)) == pytest.approx(2)  # deviations of 0.01 in optical density count as one


@pytest.mark.parametrize(("freedom", "known"), [(4, 3.747), (5, 3.365), (9, 2.821), (39, 2.426)])
def test_student_as_tables_have_it(freedom, known):
    assert student(0.99, freedom) == pytest.approx(known, rel=0.01)


@pytest.mark.parametrize(
    ("logarithms", "threshold"),
    [
        ([0.0] * (SLIDES_FOR_A_VERDICT - 1), None),
        ([0.0] * 5, 1.0),
        ([-1.0, 0.0, 0.0, 0.0, 1.0], math.exp(3.721 * math.sqrt(0.5) * math.sqrt(1.2))),  # t s sqrt(1 + 1 / 5)
        ([0.0] * 30 + [3.0], math.exp(3.0)),  # the largest that was found, above the bound of 1.4
    ],
)
def test_threshold_by_hand(logarithms, threshold):
    found = threshold_of([math.exp(value) for value in logarithms])
    assert found == (threshold if threshold is None else pytest.approx(threshold, rel=1e-3))


def test_threshold_is_rarely_crossed_by_slides_of_one_kind():
    """The largest distance of five alone would be crossed by every sixth slide; this one by one in a hundred."""
    rng = np.random.default_rng(0)
    crossed = [rng.lognormal(0, 0.3) > threshold_of(rng.lognormal(0, 0.3, 5).tolist()) for _ in range(3000)]
    assert 0.003 < np.mean(crossed) < 0.02


def test_a_slide_is_left_out_of_what_it_is_measured_by():
    """Four slides of 0 and 1, and one of 9: measured with itself among them it would be much nearer."""
    slides = [tiles(0.0, 1.0)] * 4 + [tiles(9.0, 9.0)]
    domain = domain_of(slides, "color")
    left_out = domain_of(slides[:4], "color").distance(slides[4])
    assert domain.among_themselves[-1] == pytest.approx(left_out) and domain.distance(slides[4]) < left_out / 3
    assert list(domain.among_themselves) == sorted(domain.among_themselves) and len(domain.among_themselves) == 5
    assert domain.threshold >= domain.among_themselves[-1]


@pytest.mark.parametrize(
    ("slides", "expected"),
    [
        ([], None),
        ([np.zeros((0, 6))], None),
        ([tiles(1.0)], None),
        ([tiles(1.0, 2.0)], (1, 2, 0)),
        ([tiles(1.0), np.zeros((0, 6)), tiles(2.0)], (2, 2, 0)),
        ([tiles(1.0, 3.0), tiles(2.0)], (2, 3, 1)),
    ],
)
def test_few_slides_give_no_verdict(slides, expected):
    domain = domain_of(slides, "color")
    if expected is None:
        assert domain is None
    else:
        assert (domain.slides, domain.tiles, len(domain.among_themselves)) == expected
        assert domain.threshold is domain.tile_threshold is None
        assert domain.judge(tiles(1e3)).is_unlike is False  # there is no verdict, however far it is


def test_few_tiles_are_judged_as_single_ones():
    """A single tile strays farther than the median of many."""
    domain = plain(threshold=2.0, tile_threshold=4.0)
    assert domain.judge(tiles(*[3.0] * TILES_FOR_A_SLIDE)) == FromTraining(3.0, 2.0)
    assert domain.judge(tiles(*[3.0] * TILES_FOR_A_SLIDE)).is_unlike
    assert domain.judge(tiles(*[3.0] * (TILES_FOR_A_SLIDE - 1))) == FromTraining(3.0, 4.0)
    assert not domain.judge(tiles(3.0)).is_unlike and domain.judge(np.zeros((0, 6))) is None


def test_threshold_of_single_tiles_is_what_those_of_slides_left_out_stay_within():
    rng = np.random.default_rng(0)
    slides = [rng.normal(0, 1, (24, 6)) for _ in range(8)]
    domain = domain_of(slides, "color")
    beyond = [domain.distance(tile[None]) > domain.tile_threshold for tile in rng.normal(0, 1, (2000, 6))]
    assert domain.tile_threshold > domain.threshold and np.mean(beyond) < 0.03


# What is looked at


def test_color_by_hand():
    """Values 127, 63 and 31 have the optical densities log 2, log 4 and log 8; grey glass does not count."""
    pixels = np.full((16, 16, 3), GLASS, np.uint8)
    pixels[:, :8] = 127, 63, 31
    assert color_of(pixels) == pytest.approx([math.log10(2), math.log10(4), math.log10(8), 0, 0, 0])
    assert color_of(np.full((16, 16, 3), GLASS, np.uint8)) is None
    assert color_of(np.zeros((16, 16, 3), np.uint8)) is None


@pytest.mark.parametrize(
    ("mpps", "magnification"), [((0.5, 1, 2), 1), ((0.25, 0.5, 1, 2), 2), ((0.5,), 0), ((2, 4), 0), ((0.9, 1.8), 0)]
)
def test_magnification_is_the_nearest_to_1_um(mpps, magnification):
    assert magnification_of(PatchSpec(mpps=mpps)) == magnification


def at_1_um(pixels):
    slide = ArraySlide(pixels, 1.0)
    return tissue_tiles(slide, PatchSpec(size_px=64, mpps=(1.0,)).grid_of(1.0), 0)


def test_tiles_lie_on_tissue():
    """Of 4 x 4 tiles the left half is tissue."""
    pixels = np.full((1024, 1024, 3), GLASS, np.uint8)
    pixels[:, :512] = PINK
    assert sorted((tile.x, tile.y) for tile in at_1_um(pixels)) == [
        (x, y) for x in (0, 256) for y in range(0, 1024, 256)
    ]


def test_tiles_are_spread_over_the_tissue():
    """24 of 8 x 8 tiles: six in each quarter, and the same ones again."""
    pixels = np.full((2048, 2048, 3), PINK, np.uint8)
    found = at_1_um(pixels)
    quarters = [(tile.x // 1024, tile.y // 1024) for tile in found]
    assert len(found) == len(set(found)) == tissue.TILES and at_1_um(pixels) == found
    assert {quarters.count(quarter) for quarter in quarters} == {6}


def test_tiles_of_small_slides():
    """400 px take two tiles, which overlap, and 300 px one in their middle; what is smaller is one tile as a whole."""
    assert [(t.x, t.y, t.width, t.height) for t in at_1_um(stained(rows=400, columns=100))] == [
        (0, 0, 100, 256),
        (0, 144, 100, 256),
    ]
    assert [(t.x, t.y, t.width, t.height) for t in at_1_um(stained(rows=300, columns=256))] == [(0, 22, 256, 256)]


def test_little_tissue_is_looked_at_too_but_glass_is_not():
    pixels = np.full((512, 512, 3), GLASS, np.uint8)
    assert at_1_um(pixels) == [] and len(vectors_of(pixels)) == 0
    pixels[300:320, 300:320] = PINK
    assert [(t.x, t.y) for t in at_1_um(pixels)] == [(256, 256)]


class Means(nn.Module):
    """An encoder whose maps are the image itself, and its negative at a stride that nobody looks at."""

    strides, channels = (8, 32), (3, 3)

    def forward(self, image):
        return [-nn.functional.avg_pool2d(image, 8), nn.functional.avg_pool2d(image, 32)]


def test_what_the_encoder_sees_by_hand():
    """Means of the maps of stride 32 behind the six numbers of colour; what lies beyond a small slide is mirrored."""
    describer = TissueDescriber(InputConvention(scale=1), Means(), torch.device("cpu"))
    with ArraySlide(np.full((100, 80, 3), PINK, np.uint8), 1.0) as slide:
        found = describer.vectors(slide, PatchSpec(size_px=64, mpps=(1.0,)).grid_of(1.0))
    assert describer.kind == "color and encoder" and found.shape == (1, COLOR_NUMBERS + ENCODER_NUMBERS)
    assert found[0, 6:] == pytest.approx([*PINK, *[0] * 21])


def test_projection_is_the_same_everywhere():
    matrix = projection(432)
    assert matrix.shape == (432, ENCODER_NUMBERS)
    assert matrix.T @ matrix == pytest.approx(np.eye(ENCODER_NUMBERS), abs=1e-12)
    assert np.array_equal(projection(24), np.eye(24))
    assert matrix[:3, 0] * math.sqrt(432) == pytest.approx([1, 1, -1])  # the first signs of the hash
    assert matrix[5, 7] == pytest.approx(0.0546626053105818)


# The card


def write_card(folder, **changed):
    content = json.loads((folder / CARD).read_text())
    content["training_domain"] = {**plain(threshold=2.0).model_dump(mode="json"), **changed}
    (folder / CARD).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("made") / "m")


@pytest.fixture
def model(made, here):
    return shutil.copytree(made, here / "m")


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": [0.0] * 5},
        {"mean": [0.0] * 31},
        {"mean": [0.0] * 5 + [1e300]},
        {"mean": [0.0] * 5 + ["NaN"]},
        {"covariance": [1.0] * 21},  # of rank 1
        {"covariance": [0.0] * 21},
        {"covariance": [1.0] * 20},
        {"covariance": [-1.0] * 21},
        {"covariance": [1.0] * 10**5},
        {"kind": "color and encoder"},
        {"kind": "names"},
        {"threshold": -1.0},
        {"threshold": 1e300},
        {"tile_threshold": "Infinity"},
        {"among_themselves": [1.0] * (MOST_SLIDES + 1)},
        {"among_themselves": ["Infinity"]},
        {"slides": 0},
        {"slides": MOST_SLIDES + 1},
        {"tiles": 10**9},
        {"slide_names": ["Doe, J."]},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_hostile_cards_are_refused_in_one_line(model, changed):
    write_card(model)
    assert load_card(model).training_domain == plain(threshold=2.0)
    write_card(model, **changed)
    with pytest.raises(ModelError, match=r"damaged or of another version \(training_domain") as refused:
        load_card(model)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_older_cards_stay_readable(model):
    content = json.loads((model / CARD).read_text())
    assert content.pop("training_domain") is None
    (model / CARD).write_text(json.dumps(content))
    assert load_card(model).training_domain is None and is_whole(model)
    assert any("not known how the training slides look" in line for line in summarise(model).lines())


def test_card_keeps_its_weights_and_passes_on(model):
    before = load_card(model)
    add_training_domain(model, plain(among_themselves=(1.0, 1.5), threshold=2.0, tile_threshold=4.0))
    assert is_whole(model) and load_card(model).weights_sha256 == before.weights_sha256
    shown = "\n".join(summarise(model).lines())
    assert "at most 1.50 among themselves" in shown and "unlike them beyond a distance of 2.00" in shown
    shrink_model(model, model.with_name("small"))
    assert load_card(model.with_name("small")).training_domain == load_card(model).training_domain


def test_card_does_not_grow_with_the_slides():
    rng = np.random.default_rng(0)
    few, many = (domain_of(list(rng.normal(0, 1, (n, 24, 30))), "color and encoder") for n in (2, MOST_SLIDES))
    assert len(many.model_dump_json()) - len(few.model_dump_json()) < 1000
    assert TrainingDomain.model_validate_json(many.model_dump_json()) == many


# Training


def test_a_training_describes_its_slides_and_names_none(workspace):
    folder = newest_model(workspace / "models")
    card, dataset = load_card(folder), Dataset(workspace / "dataset")
    training = dataset.slides("train")
    domain = card.training_domain
    assert domain.kind == "color" and domain.slides == len(training) and domain.threshold is None
    network = load_model(folder)[1].network
    describer = TissueDescriber.of_network(network, card.input, torch.device("cpu"), bf16=False)
    for record in training:
        with dataset.open(record) as slide:
            grid = dataset.patch_spec.grid_of(record.mpp, record.slide_id)
            assert domain.distance(describer.vectors(slide, grid)) < 3
    told = json.dumps(json.loads((folder / CARD).read_text())["training_domain"])
    assert set(json.loads(told)) == set(TrainingDomain.model_fields) and ".tif" not in told and is_whole(folder)


TINY = ("--width", 2, "--epochs", 1, "--steps-per-epoch", 1, "--batch-size", 2, "--workers", 0, "--device", "cpu")


@pytest.mark.parametrize("broken", ["add_training_domain", "vectors"])
def test_it_never_ends_a_training(workspace, here, monkeypatch, broken):
    def fail(*_, **__):
        raise MemoryError("no room")

    where = TissueDescriber if broken == "vectors" else training_domain
    monkeypatch.setattr(where, broken, fail)
    result = invoke("train", "--dataset", workspace / "dataset", "--preset", "scratch", *TINY, "--out", "m")
    assert result.exit_code == 0, result.output
    assert "what the card says of the training slides is left out" in result.stderr
    assert load_card(here / "m").training_domain is None and is_whole(here / "m")
    assert (here / "m/report.html").is_file() and not (here / "m/resume.pt").exists()


class Patch:
    def __init__(self, slide_id):
        self.slide_id = slide_id


class Plan:
    """What `chosen_slides` looks at."""

    def __init__(self, slides, seed=0):
        self.training = [Patch(f"s{i}") for i in range(slides) for _ in range(2)]
        self.options = type("Options", (), {"seed": seed})()


def test_of_many_slides_some_are_looked_at():
    assert chosen_slides(Plan(3)) == ["s0", "s1", "s2"]
    one, other = chosen_slides(Plan(200)), chosen_slides(Plan(200, seed=1))
    assert len(set(one)) == MOST_SLIDES and one == chosen_slides(Plan(200)) and one != other


# Prediction


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))


@pytest.fixture
def place(model, here, no_pictures):
    """A model of six pink slides, one more of them, and a green one."""
    add_training_domain(model, domain_of([vectors_of(stained(seed=seed)) for seed in range(6)], "color"))
    write_tiff(here / "pink.tif", stained(seed=9))
    write_tiff(here / "green.tif", stained(GREEN))
    write_tiff(here / "white.tif", np.full((300, 300, 3), GLASS, np.uint8))
    return here


def rows_of(folder):
    with (folder / "areas.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def test_a_slide_in_another_stain_is_told(place):
    result = invoke(*command(place, "pink", "green", "white"), "--out", "p")
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if "unlike" in line]
    assert len(told) == 1 and told[0].startswith("warning: green is unlike the training slides: distance ")
    assert "among themselves; look at it before you believe it" in told[0]
    assert "1 of 3 slides unlike the training slides of the model" in result.output
    rows, records = rows_of(place / "p"), read_predictions(place / "p")
    distances = {name: row["distance_from_training"] for name, row in rows.items()}
    assert float(distances["green"]) > 10 * float(distances["pink"]) > 0 and distances["white"] == ""
    for name in ("pink", "green"):
        assert f"{records[name].distance_from_training:.3f}" == distances[name]
        assert f"{records[name].distance_threshold:.3f}" == rows[name]["distance_threshold"] != ""
    assert records["green"].is_unlike and not records["pink"].is_unlike and not records["white"].is_unlike
    assert "distance_from_training" in (place / "p/README.txt").read_text()


def test_a_slide_keeps_its_number(place):
    """Skipped, or with new polygons of its labels, it is still told; a model whose card says nothing more is silent."""
    assert invoke(*command(place, "pink", "green"), "--out", "p").exit_code == 0
    before, content = read_predictions(place / "p"), (place / "p/areas.csv").read_bytes()
    again = invoke(*command(place, "pink", "green"), "--out", "p")
    assert "left as they are" in again.output and "1 of 2 slides unlike" in again.output and ": green\n" in again.output
    remade = invoke(*command(place, "pink", "green"), "--out", "p", "--simplify-um", 3)
    assert "made anew from its labels" in remade.output and "1 of 2 slides unlike" in remade.output
    after = read_predictions(place / "p")
    for name in ("pink", "green"):
        assert after[name].distance_from_training == before[name].distance_from_training is not None
        assert after[name].distance_threshold == before[name].distance_threshold is not None
    assert (place / "p/areas.csv").read_bytes() == content


def test_without_a_threshold_there_is_a_distance_and_no_verdict(place):
    add_training_domain(place / "m", domain_of([vectors_of(stained(seed=seed)) for seed in range(3)], "color"))
    result = invoke(*command(place, "green"), "--out", "p")
    assert "unlike" not in result.output + result.stderr
    row = rows_of(place / "p")["green"]
    assert float(row["distance_from_training"]) > 1 and row["distance_threshold"] == ""


def test_models_that_do_not_tell_are_silent(model, here, no_pictures, monkeypatch):
    monkeypatch.setattr(stage_domain, "TissueDescriber", None)  # nobody looks
    write_tiff(here / "green.tif", stained(GREEN))
    result = invoke(*command(here, "green"), "--out", "p")
    assert result.exit_code == 0 and not result.stderr and "unlike" not in result.output
    row = rows_of(here / "p")["green"]
    assert row["distance_from_training"] == row["distance_threshold"] == ""
    assert "distance_from_training" not in json.loads((here / "p/run.json").read_text())["predictions"]["green"]


def test_it_never_ends_a_prediction(place, monkeypatch):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(TissueDescriber, "vectors", fail)
    result = invoke(*command(place, "green"), "--out", "p")
    assert result.exit_code == 0 and "distance from the training slides is left out" in result.stderr
    assert rows_of(place / "p")["green"]["distance_from_training"] == ""


def test_a_card_of_another_kind_of_network_tells_nothing(place):
    """It says that an encoder looked, but its network has none."""
    numbers = np.random.default_rng(0).normal(0, 1, (6, 24, 30))
    add_training_domain(place / "m", domain_of(list(numbers), "color and encoder"))
    result = invoke(*command(place, "green"), "--out", "p")
    assert result.exit_code == 0 and "distance from the training slides is left out" in result.stderr
    assert rows_of(place / "p")["green"]["distance_from_training"] == ""


def test_strips_do_not_depend_on_it(place):
    """A prediction that was begun before a training added it goes on."""
    view = SlideView(place / "pink.tif")

    def key():
        options = PredictOptions(device="cpu", precision="fp32")
        slide = SlideToPredict("pink", view)
        call = Call(LazyModel(place / "m", options), [slide], place / "p", options, {"run_id": "r"}, Reporter())
        return _key(call, take_up(call, slide))

    before = key()
    add_training_domain(place / "m", plain())
    assert key() == before and "training_domain" not in before["card"]


def test_models_show_says_it(place):
    assert "colour of 6 places on 6 slides" in invoke("models", "show", place / "m").output
    (place / "m" / CARD).write_text("{}")
    assert "damaged" in fails("models", "show", place / "m")
