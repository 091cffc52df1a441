"""Rules for labels, patches and figures, each in a table that a reader can count."""

import json

import numpy as np
import pytest
from shapely.geometry import LineString, box

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import ConfigError
from dmmn_qp.labels.class_rules import PaintRules
from dmmn_qp.labels.draws import TrainingDraws, balanced_probabilities
from dmmn_qp.labels.metrics import confusion_by_name, pair_counts
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef, in_split_areas
from dmmn_qp.labels.reach import augmented_reach_px
from dmmn_qp.outputs.objects import Frame, outline_features
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.vectors.sources import ArrayLabels

CLASSES = ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))])


def painted(annotations, rules, columns, mpp=None):
    (row,) = LabelPainter(annotations, CLASSES, 1.0, rules, mpp).paint(Region(0, 0, columns, 1))
    return "".join(map(str, row))


@pytest.mark.parametrize(
    ("overlap", "labels"),
    [
        ("class-order", "311112"),
        ("smallest", "331122"),
        ("drawing", "311122"),
        ("depth", "331112"),
        ("unlabelled", "301102"),
    ],
)
def test_rules_for_overlaps(overlap, labels):
    """Columns 0 and 1 are c, 1 to 4 are a, 4 and 5 are b, drawn in this order."""
    drawn = [
        Annotation(box(0, 0, 2, 1), class_name="c", depth=2),
        Annotation(box(1, 0, 5, 1), class_name="a", depth=1),
        Annotation(box(4, 0, 6, 1), class_name="b", depth=0),
    ]
    assert painted(drawn, PaintRules(overlap=overlap), 6) == labels


def test_areas_of_one_class_do_not_contradict_each_other():
    drawn = [Annotation(box(0, 0, 3, 1), class_name="b"), Annotation(box(1, 0, 4, 1), class_name="b")]
    assert painted(drawn, PaintRules(overlap="unlabelled"), 4) == "2222"


def test_nothing_is_labelled_outside_the_regions_of_a_slide_that_has_any():
    drawn = [
        Annotation(box(0, 0, 5, 1), class_name="a"),
        Annotation(box(1, 0, 2, 1), class_name="Region*"),
        Annotation(box(3, 0, 9, 1), class_name="Region*"),
    ]
    assert painted(drawn, PaintRules(region_class="Region*"), 6) == "010110"
    assert painted(drawn[:1], PaintRules(region_class="Region*"), 6) == "111110"
    assert painted(drawn, PaintRules(), 6) == "111110"


@pytest.mark.parametrize(
    ("width_um", "mpp", "labels"), [(2, 0.5, "0011110"), (1, 0.5, "0001100"), (None, 0.5, "0" * 7)]
)
def test_lines_are_as_wide_as_they_are_in_um(width_um, mpp, labels):
    line = Annotation(LineString([(4, -9), (4, 9)]), class_name="a")
    assert painted([line], PaintRules(line_width_um=width_um), 7, mpp) == labels


def test_a_slide_where_all_is_drawn_is_told_from_others():
    drawn = Annotation(box(0, 0, 1, 1), class_name="a")
    for origin in ("drawn", "confirmed", "corrected", "unchecked"):
        other = Annotation(box(2, 0, 3, 1), class_name="b", origin=origin)
        assert LabelPainter([drawn, other], CLASSES, 1.0).is_all_drawn == (origin == "drawn")


@pytest.mark.parametrize("mpp", [0.5, 0.25])
@pytest.mark.parametrize("magnifications", [1, 2])
def test_a_patch_is_in_a_split_with_all_that_it_may_ever_show(mpp, magnifications):
    """On a slide of twice the magnification the same field is twice as many level-0 px."""
    grid = PatchSpec(size_px=64, stride_px=64, mpps=(0.5, 1.0)[:magnifications]).grid_of(mpp)
    patch = PatchRef("s", "train", 1280, 640, (0, 1))
    reach, scale = augmented_reach_px(64, magnifications), 0.5 / mpp
    assert reach > 32 * 2 ** (magnifications - 1)
    seen = [scale * v for v in (1312 - reach, 672 - reach, 1312 + reach, 672 + reach)]
    (found,) = in_split_areas([patch], {"val": box(*seen)}, grid)
    assert (found.split, found.fixed, found.x, found.y) == ("val", True, 1280, 640)
    for side in range(4):
        less = [v + (0.25 if i < 2 else -0.25) * (i == side) for i, v in enumerate(seen)]
        assert list(in_split_areas([patch], {"val": box(*less)}, grid)) == []


def test_figures_are_joined_by_name_whatever_the_values():
    """Of 6 pixels: b as b twice, b as a, a as a, a as z; the sixth is of a class that is left out."""
    truth, predicted = np.array([[1, 1, 1, 2, 2, 3]], np.uint8), np.array([[3, 3, 2, 2, 1, 1]], np.uint8)
    true, found = {2: "a", 1: "b", 3: "c"}, {1: "z", 2: "a", 3: "b"}
    confusion = confusion_by_name(pair_counts(truth, predicted), true, found, ("a", "b", "z"), 2)
    assert confusion.tolist() == [[1, 0, 1, 0], [1, 2, 0, 0]]


def test_equal_maps_of_other_pixels_are_other_outlines(tmp_path):
    """The same labels at twice the um/px lie elsewhere on the slide, so their ids are others."""
    found = []
    for downsample in (1.0, 2.0, 2.5):
        frame = Frame(20, 20, 0.25, downsample)
        objects = outline_features(
            ArrayLabels(np.array([[1, 2], [2, 2]], np.uint8)),
            frame,
            CLASSES,
            PredictOptions(),
            identity="i",
            metadata={},
        )
        write_geojson(tmp_path / "x.geojson", objects)
        found.append({feature["id"] for feature in json.loads((tmp_path / "x.geojson").read_bytes())["features"]})
    assert len(found[0]) and len(set.union(*found)) == sum(map(len, found))


@pytest.mark.parametrize("options", [{}, {"merge": "class"}, {"min_area_um2": 0.1}])
def test_a_label_of_no_class_is_an_error(options):
    objects = outline_features(
        ArrayLabels(np.array([[1, 4]], np.uint8)),
        Frame(20, 10, 1.0, 10.0),
        CLASSES,
        PredictOptions(**options),
        identity="i",
        metadata={},
    )
    with pytest.raises(ConfigError, match=r"^label 4 stands for no class: there are 3, .* predict again"):
        list(objects)


def test_how_probable_a_patch_is_when_classes_take_turns():
    """A class comes up in half of the turns; a has three patches to choose from, b two, and one of them has both."""
    patches = [
        PatchRef("s", "train", i, 0, counts) for i, counts in enumerate([(0, 9, 0)] * 2 + [(0, 5, 4), (0, 0, 9)])
    ]
    assert balanced_probabilities(patches) == pytest.approx([1 / 6, 1 / 6, 1 / 6 + 1 / 4, 1 / 4])
    # 1 of 100 px is not more than 1 %, so b is drawn from the patch where it is more; alone, one pixel is all it has
    sparse = [PatchRef("s", "train", 0, 0, counts) for counts in [(0, 98, 2), (0, 99, 1), (0, 100, 0)]]
    assert balanced_probabilities(sparse) == pytest.approx([1 / 6 + 1 / 2, 1 / 6, 1 / 6])
    assert balanced_probabilities(sparse[1:]) == pytest.approx([1 / 4 + 1 / 2, 1 / 4])


def test_each_sampler_draws_in_its_own_way():
    """Of ten patches of a and one of b, b comes up once a pass when shuffled, and every other time when balanced."""
    patches = [PatchRef("s", "train", i, 0, (0, 9, 0)) for i in range(10)] + [PatchRef("s", "train", 10, 0, (0, 0, 9))]
    for sampler, times in (("shuffled", 2), ("balanced", 11)):
        draws = TrainingDraws(patches, sampler, seed=0).of_epoch(1, 22)
        assert (len(draws), sum(draw.patch == 10 for draw in draws)) == (22, times)
        assert draws != TrainingDraws(patches, sampler, seed=0).of_epoch(2, 22)
