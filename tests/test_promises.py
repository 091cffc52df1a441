"""Promises that are easily broken without a word: one small table each, counted by hand."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import torch
from shapely.geometry import box, shape
from torch import nn

from dmmn_qp.annotations import ORIGINS, Annotation
from dmmn_qp.folders.model import CARD, WEIGHTS, is_whole, load_card, load_model, save_model
from dmmn_qp.labels.class_rules import PaintRules
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.networks.losses import supervised_losses
from dmmn_qp.outputs.objects import Frame, outline_features
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.pushing.plan import plan_of
from dmmn_qp.qupath.geojson_writer import feature_of, write_geojson
from dmmn_qp.qupath.marks import CLASS_KEY, MEAN_PROBABILITY, METADATA_KEY, PERIMETER, marked_id
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.tifffile_reader import TiffReader
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.training import stage
from dmmn_qp.training.optimizers import make_optimizer
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.vectors.cleaning import clean
from dmmn_qp.vectors.outlines import OutlineFeatures, join
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import ArrayLabels
from tests.conftest import invoke, rectangle, slides_with
from tests.test_once import ArraySlide
from tests.test_prediction_resume import make_model

CLASSES = ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))])


def picture(text):
    return np.array([[int(c) for c in line] for line in text.split()], np.uint8)


# ---- training


@pytest.mark.parametrize(("branch_loss", "of_branches"), [(0.0, 0.0), (0.5, 0.25), (2.0, 1.0)])
def test_each_coarser_branch_adds_its_part_of_the_loss(branch_loss, of_branches):
    """Equal logits of two classes cost log 2 a labelled pixel; of 4 pixels the target has 4, the branches 1 and 1."""
    log_2 = float(np.log(2))
    targets = torch.tensor([[[[1, 1], [2, 2]], [[1, 0], [0, 0]], [[0, 0], [0, 2]]]])
    outputs = [torch.zeros(1, 2, 2, 2, requires_grad=True) for _ in range(3)]
    own, together = supervised_losses(outputs, targets, torch.ones(2), "patch", branch_loss)
    assert own.item() == pytest.approx(log_2)
    assert together.item() == pytest.approx((1 + of_branches) * log_2)
    together.backward()
    labelled = [[[True, True], [True, True]], [[True, False], [False, False]], [[False, False], [False, True]]]
    for m, logits in enumerate(outputs):
        expected = torch.tensor(labelled[m]) & (m == 0 or branch_loss > 0)
        assert torch.equal(logits.grad[0, 0] != 0, expected)


class Parts(nn.Module):
    """One of each kind of parameter, all 1."""

    def __init__(self):
        super().__init__()
        self.kernel, self.norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)
        for parameter in self.parameters():
            nn.init.ones_(parameter)


@pytest.mark.parametrize(("optimizer", "decayed"), [("adamw", {"kernel.weight"}), ("sgd", None)])
def test_adamw_decays_kernels_alone_and_sgd_all_as_the_paper_does(optimizer, decayed):
    """A step without any gradient shows what decay does."""
    network = Parts()
    options = TrainOptions(optimizer=optimizer, weight_decay=0.25, learning_rate=0.5)
    steps, _ = make_optimizer(network, options, 10)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    steps.step()
    smaller = {name for name, parameter in network.named_parameters() if (parameter < 1).all()}
    same = {name for name, parameter in network.named_parameters() if (parameter == 1).all()}
    names = {name for name, _ in network.named_parameters()}
    assert smaller == (names if decayed is None else decayed) and same == names - smaller
    assert sum(len(group["params"]) for group in steps.param_groups) == len(names)


def test_frozen_parameters_are_in_no_optimiser():
    network = Parts()
    network.kernel.requires_grad_(False)
    for optimizer in ("adamw", "sgd"):
        steps, _ = make_optimizer(network, TrainOptions(optimizer=optimizer), 10)
        found = [parameter for group in steps.param_groups for parameter in group["params"]]
        assert {id(p) for p in found} == {id(p) for p in network.norm.parameters()}


SMALL = """
[train]
preset = "scratch"
width = 2
epochs = 4
steps_per_epoch = 2
batch_size = 2
jitter_px = 0
workers = 0
precision = "fp32"
norm = "batch"
"""


@pytest.fixture
def dataset(here):
    """A dataset of one slide, and options for a training of seconds."""
    (here / "small.toml").write_text(SMALL)
    areas = [rectangle(0, 0, 128, 256, "dark"), rectangle(128, 0, 128, 256, "light")]
    result = invoke(*slides_with(here, areas, n=1), "--mpps", "0.5,1")
    assert result.exit_code == 0, result.output
    return ("train", "--config", "small.toml", "--validate-on", "train")


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("right", "best"), [((5, 9, 9, 7), 2), ((9, 5, 6, 7), 1), ((2, 3, 4, 5), 4), ((0, 0, 0, 0), 1)]
)
def test_the_best_epoch_is_kept_and_validation_changes_nothing(dataset, here, monkeypatch, right, best):
    """Of each class so many of ten pixels are right after each epoch; the first of equal ones is kept."""
    real, seen, before_next = stage.validate, [], []

    def validate(module, *args):
        before_next.append(state_of(module))
        validation = real(module, *args)
        assert same(state_of(module), before_next[-1])  # statistics of batches included
        assert not any(part.training for part in module.modules())
        hits = right[len(seen)]
        seen.append(state_of(module.stemmed))
        return replace(validation, metrics=Metrics.from_confusion(np.array([[hits, 10 - hits], [10 - hits, hits]])))

    monkeypatch.setattr(stage, "validate", validate)
    monkeypatch.setattr(stage, "write_report", lambda *_: None)
    result = invoke(*dataset, "--out", "m")
    assert result.exit_code == 0, result.output
    statistics = [name for name in seen[0] if name.endswith("running_mean")]
    assert statistics and not any(torch.equal(seen[0][name], seen[1][name]) for name in statistics)  # training does
    card, kept = load_model(here / "m")
    assert card.validation["epoch"] == best
    assert card.validation["mean_iou"] == pytest.approx(right[best - 1] / (20 - right[best - 1]))
    assert [same(kept.state_dict(), state) for state in seen] == [epoch == best for epoch in range(1, 5)]


def test_branch_loss_moves_the_weights_and_not_the_loss_that_is_told(dataset, here):
    """One step from the same weights: the loss of the target is the same, what it is trained by is not."""
    weights, losses = {}, {}
    for part in (0.25, 4.0):
        (here / "small.toml").write_text(f"{SMALL}branch_loss = {part}\n")
        result = invoke(*dataset, "--epochs", 1, "--steps-per-epoch", 1, "--out", f"m{part}")
        assert result.exit_code == 0, result.output
        weights[part] = load_model(here / f"m{part}")[1].state_dict()
        with (here / f"m{part}" / "history.csv").open() as file:
            (losses[part],) = (row["loss"] for row in csv.DictReader(file))
    assert losses[0.25] == losses[4.0]
    assert not same(weights[0.25], weights[4.0])


# ---- models


def test_weights_replace_before_their_card(tmp_path, monkeypatch):
    """Whoever sees the card of a model sees weights that are as new; cut off between the two, nobody takes them."""
    folder = make_model(tmp_path / "m")
    card = load_card(folder)
    network = card.build()
    order, real = [], Path.replace

    def noted(self, target):
        order.append((Path(target).name, (folder / CARD).read_bytes() == before))
        if Path(target).name == CARD and cut_off:
            raise OSError("switched off")
        return real(self, target)

    before, cut_off = (folder / CARD).read_bytes(), True
    with monkeypatch.context() as patch, pytest.raises(OSError, match="switched off"):
        patch.setattr(Path, "replace", noted)
        save_model(folder, card, network)
    assert [name for name, _ in order if name in (CARD, WEIGHTS)] == [WEIGHTS, CARD]
    assert (folder / CARD).read_bytes() == before and not is_whole(folder)
    save_model(folder, card, network)
    assert is_whole(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, WEIGHTS])


# ---- slides


def plain(value, side):
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("damaged", "found"),
    [
        ((), 50),
        ((1,), 90),  # the coarser level, though the finer one has more of it
        ((1, 2), 130),  # the next coarser one
        ((1, 2, 3), 10),  # the finer one where no coarser one is whole
        ((0, 1, 2, 3), 0),
    ],
)
def test_damaged_tiles_are_mended_from_the_coarser_level_first(tmp_path, damaged, found):
    """Levels of 1, 2, 4 and 8 level-0 px a pixel, each of a grey of its own; the field is read from the second."""
    levels = [plain(10, 512), plain(50, 256), plain(90, 128), plain(130, 64)]
    places = [(level, Region(0, 0, 512, 512)) for level in damaged]
    grid = PatchSpec(size_px=64, stride_px=64, mpps=(1.0,)).grid_of(0.5)

    def reopen():
        return ArraySlide(levels, tmp_path, damaged=places)

    with FieldReader(reopen, grid, [[Region(0, 0, 64, 64)]]) as reader:
        ((pixels,),) = list(reader)
        assert (pixels == found).all()
        assert bool(reader.unreadable.replaced) == (found in (90, 130, 10))
        assert bool(reader.unreadable.lost) == (found == 0)


@pytest.mark.parametrize("reader", [open_slide, OpenSlideReader, TiffReader])
@pytest.mark.parametrize(("across", "down"), [(0.5, 0.504), (0.504, 0.5)])
def test_the_pixel_size_is_the_mean_of_both_sides(tmp_path, reader, across, down):
    tifffile.imwrite(
        tmp_path / "s.tif",
        plain(200, 256),
        photometric="rgb",
        tile=(128, 128),
        resolution=(10_000 / across, 10_000 / down),
        resolutionunit="CENTIMETER",
    )
    with reader(tmp_path / "s.tif") as slide:
        assert slide.info.mpp == pytest.approx(0.502, abs=1e-5)


@pytest.mark.parametrize(("across", "down"), [(0.5, 0.504), (0.504, 0.5)])
def test_the_pixel_size_of_ome_is_the_mean_of_both_sides(tmp_path, across, down):
    tifffile.imwrite(
        tmp_path / "s.ome.tif",
        plain(200, 256),
        photometric="rgb",
        tile=(128, 128),
        metadata={"axes": "YXS", "PhysicalSizeX": across, "PhysicalSizeY": down},
    )
    with open_slide(tmp_path / "s.ome.tif") as slide:
        assert slide.info.mpp == pytest.approx(0.502)


# ---- annotations -> labels


@pytest.mark.parametrize("overlap", ["class-order", "smallest", "drawing", "depth", "unlabelled"])
@pytest.mark.parametrize("turned", [False, True])
def test_what_was_drawn_wins_over_what_was_confirmed_over_what_nobody_checked(overlap, turned):
    """By each rule what nobody checked would win over the rest; whose word it is counts for more."""
    said = [
        Annotation(box(0, 0, 6, 1), class_name="c", origin="drawn"),
        Annotation(box(1, 0, 5, 1), class_name="b", origin="confirmed", depth=1),
        Annotation(box(4, 0, 8, 1), class_name="b", origin="corrected", depth=1),
        Annotation(box(2, 0, 3, 1), class_name="a", origin="unchecked", depth=2),
        Annotation(box(7, 0, 9, 1), class_name="a", origin="unchecked", depth=2),
    ]
    painter = LabelPainter(said[::-1] if turned else said, CLASSES, 1.0, PaintRules(overlap=overlap))
    window = Region(0, 0, 10, 1)
    assert painter.paint(window).tolist() == [[3, 3, 3, 3, 3, 3, 2, 2, 1, 0]]
    drawn, corrected, unchecked = ORIGINS["drawn"], ORIGINS["corrected"], ORIGINS["unchecked"]
    assert painter.paint_origins(window).tolist() == [[*[drawn] * 6, corrected, corrected, unchecked, 0]]
    assert not painter.is_all_drawn


@pytest.mark.parametrize(
    ("ignored_by", "labels"), [("drawn", "0000"), ("confirmed", "3000"), ("corrected", "3000"), ("unchecked", "3200")]
)
def test_ignore_takes_away_what_its_own_word_wins_over(ignored_by, labels):
    said = [
        Annotation(box(0, 0, 1, 1), class_name="c", origin="drawn"),
        Annotation(box(0, 0, 2, 1), class_name="b", origin="confirmed"),
        Annotation(box(0, 0, 3, 1), class_name="a", origin="unchecked"),
        Annotation(box(0, 0, 4, 1), class_name="Ignore*", origin=ignored_by),
    ]
    found = LabelPainter(said, CLASSES, 1.0).paint(Region(0, 0, 4, 1))
    assert "".join(map(str, found[0])) == labels


# ---- labels -> polygons


@pytest.mark.parametrize("tolerance", [2.0, 3.0, 5.0])
def test_vertices_of_its_own_arc_guard_a_vertex(tolerance):
    """The spiral's border is one arc that bends back on itself: cut off blindly, it would cross itself."""
    labels = picture("11111 12221 11121 11221 12211 11111")
    geometries = join(list(polygonize(ArrayLabels(labels), skip=frozenset(), simplify_px=tolerance))).geometries()
    assert len(geometries) == 2
    assert shapely.is_valid(geometries).all() and shapely.coverage_is_valid(geometries)
    assert shapely.area(geometries).sum() == labels.size


def cleaned(labels, least):
    return clean(ArrayLabels(labels), least, 0).read(Region(0, 0, labels.shape[1], labels.shape[0]))


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (3, "111111111 122232221 122232221 122232221 111111111"),
        (21, "111111111 122222221 122222221 122222221 111111111"),  # 9 + 3 + 9 px are one region of 21
        (22, "111111111 111111111 111111111 111111111 111111111"),
    ],
)
def test_regions_of_a_label_that_a_third_has_joined_are_one(least, expected):
    labels = picture("111111111 122232221 122232221 122232221 111111111")
    assert np.array_equal(cleaned(labels, least), picture(expected))


def objects_of(labels, identity="slide/model", confidence=None, class_map=CLASSES, **options):
    frame = Frame(labels.shape[1], labels.shape[0], 0.25, 1.0)
    return outline_features(
        ArrayLabels(labels),
        frame,
        class_map,
        PredictOptions(**{"simplify_um": 0, "min_area_um2": 0, "min_hole_um2": 0, **options}),
        identity=identity,
        metadata={},
        confidence=None if confidence is None else ArrayLabels(confidence),
    )


def written(path, *args, **options):
    write_geojson(path, objects_of(*args, **options))
    return json.loads(path.read_bytes())["features"]


def test_an_object_without_a_pixel_has_no_mean_probability_and_no_null(tmp_path):
    """Simplified by 2 px, one of the five regions is left without the centre of its single pixel."""
    labels = picture("221 212 221")
    confidence = np.full(labels.shape, 102, np.uint8)
    features = written(tmp_path / "x.geojson", labels, confidence=confidence, simplify_um=0.5)
    assert b"null" not in (tmp_path / "x.geojson").read_bytes()
    measured = [f["properties"]["measurements"] for f in features]
    without = [m for m in measured if MEAN_PROBABILITY not in m]
    assert len(without) == 1 and len(features) == 5
    assert all(m[MEAN_PROBABILITY] == 0.4 for m in measured if m not in without)
    assert all(m[PERIMETER] > 0 for m in measured)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_not_written(tmp_path, missing):
    outlines = join(list(polygonize(ArrayLabels(picture("12")), skip=frozenset())))
    ids = [marked_id("x"), marked_id("y")]
    of_two = {"one": np.array([missing, 0.5]), "other": np.array([missing, 0.25])}
    named = {1: ("a", (1, 2, 3)), 2: ("b", (1, 2, 3))}
    objects = OutlineFeatures(outlines, np.arange(3), ids, named, "annotation", of_two)
    single = Annotation(box(0, 0, 1, 1), class_name="a", measurements={"one": missing, "other": 1.0})
    write_geojson(tmp_path / "x.geojson", [objects, single])
    assert b"null" not in (tmp_path / "x.geojson").read_bytes()
    found = [f["properties"].get("measurements") for f in json.loads((tmp_path / "x.geojson").read_bytes())["features"]]
    assert found == [None, {"one": 0.5, "other": 0.25}, {"other": 1.0}]


def test_ids_are_equal_for_equal_outlines_and_for_no_others(tmp_path):
    """Slide or model, class, place, size and holes each make another id; what is beside an object does not."""
    square, path = "0000 0110 0110 0000", tmp_path / "x.geojson"
    different = {
        "as it is": (square, {}),
        "another slide or model": (square, {"identity": "slide/other"}),
        "another class": (square.replace("1", "2"), {}),
        "one pixel to the right": ("0000 0011 0011 0000", {}),
        "one pixel down": ("0000 0000 0110 0110", {}),
        "larger": ("0000 0111 0111 0000", {}),
        "without a corner": ("0000 0110 0100 0000", {}),
        "a ring": ("1111 1001 1001 1111", {}),
        "a ring, filled": ("1111 1111 1111 1111", {}),
    }
    ids = {}
    for what, (labels, options) in different.items():
        (feature,) = written(path, picture(labels), **options)
        ids[what] = feature["id"]
    assert len(set(ids.values())) == len(different)
    for labels in ("0000 0110 0110 0000 0000", "2222 2112 2112 2222", "0003 0110 0110 2000"):
        found = {f["id"]: shape(f["geometry"]).bounds for f in written(path, picture(labels))}
        assert found[ids["as it is"]] == (1, 1, 3, 3)
    merged = {f["id"] for f in written(path, picture("0000 0110 0110 0000"), merge="class")}
    assert merged == {ids["as it is"]}
    (two,) = written(path, picture("11011 11011"), merge="class")
    assert two["id"] not in {f["id"] for f in written(path, picture("11011 11011"))}


# ---- predictions into QuPath


def predicted(x, class_name="a", **more):
    return Annotation(
        box(x, 0, x + 10, 10),
        class_name=class_name,
        class_color=(1, 2, 3),
        annotation_id=marked_id(f"{x}"),
        metadata={METADATA_KEY: "m", CLASS_KEY: "a"},
        measurements={"Area µm^2": 6.25, "Area mm^2": 6.25e-6, PERIMETER: 10.0},
        **more,
    )


def reshaped(annotation):
    """As QuPath leaves it: another outline, and none of the measurements."""
    wider = box(*(annotation.geometry.buffer(1, join_style="mitre").bounds))
    return replace(annotation, geometry=wider, measurements={})


BESIDE = predicted(500)
"""That nobody touched, so that measurements are known not to have been left out by an export."""

REVIEWED = {
    "another class": (predicted(0, "b"), True),
    "another outline": (reshaped(predicted(0)), True),
    "both": (reshaped(predicted(0, "b")), True),
    "locked": (predicted(0, locked=True), True),
    "untouched": (predicted(0), False),
}


@pytest.mark.parametrize("what", REVIEWED)
def test_what_somebody_corrected_stays_and_cuts_the_new_prediction(what):
    found, stays = REVIEWED[what]
    before = [feature_of(found), feature_of(BESIDE)]
    new = replace(predicted(5), annotation_id=marked_id("new"))
    plan = plan_of(before, [feature_of(new)])
    assert list(plan.is_kept) == [stays, False]
    assert plan.kept == before[:stays] and list(plan.reviewed) == before[:stays]
    assert [plan.drops(feature) for feature in before] == [not stays, True]
    assert plan.cut == stays and len(plan.added) == 1
    assert shape(plan.added[0]["geometry"]).intersection(found.geometry).area == (0 if stays else 50)
