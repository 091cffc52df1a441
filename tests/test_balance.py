"""Elastic class balancing: tables checked by hand."""

from collections import Counter

import numpy as np
import pytest

from dmmn_qp.cli.config import ConfigFile, train_options
from dmmn_qp.errors import ConfigError
from dmmn_qp.labels.draws import (
    MAX_SUGGESTED_RATE,
    Draw,
    ElasticRule,
    TrainingDraws,
    balance_counts,
    balanced_probabilities,
    class_balanced_draws,
    class_weights,
    elastic_draws,
    suggested_rates,
)
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.specs import ClassMap
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.state import TrainingState, load_state, save_state
from dmmn_qp.training.validation_draws import validation_draws

CLASSES = ClassMap.from_colors([("tumour", (1, 0, 0)), ("stroma", (0, 1, 0)), ("fat", (0, 0, 1))])


def patch(*label_counts, split="train"):
    return PatchRef("s", split, 0, 0, label_counts)


PATCHES = [patch(0, 1, 90, 9), patch(0, 0, 60, 40), patch(50, 0, 0, 50), patch(0, 10, 0, 0, split="val")]


def test_a_patch_belongs_to_the_highest_class_it_contains():
    """One pixel is enough; the order decides, not the number of pixels."""
    assert ElasticRule((1, 2, 3), (0, 0, 0)).labels_of(PATCHES).tolist() == [1, 2, 3, 1]
    assert ElasticRule((3, 2, 1), (0, 0, 0)).labels_of(PATCHES).tolist() == [3, 3, 3, 1]


def test_rates_are_deformed_copies():
    rule = ElasticRule((1, 2, 3), (4, 1, 0))
    assert rule.copies_of(PATCHES).tolist() == [4, 1, 0, 4]
    # 5 x (1, 90, 9) + 2 x (0, 60, 40) + 1 x (0, 0, 50)
    assert rule.balanced_pixels(PATCHES[:3]).tolist() == [5, 570, 175]


def test_table_1_by_hand():
    counts = balance_counts(PATCHES, CLASSES, ElasticRule((2, 1, 3), (4, 1, 0)))
    stroma, tumour, fat = counts.classes
    assert [c.class_name for c in counts.classes] == ["stroma", "tumour", "fat"]
    assert stroma.patches == {"train": 2, "val": 0, "test": 0} and stroma.patches_balanced == 4
    assert tumour.patches == {"train": 0, "val": 1, "test": 0} and tumour.patches_balanced == 0
    assert (stroma.pixels, stroma.pixels_balanced) == (150, 300)  # both its patches twice
    assert (tumour.pixels, tumour.pixels_balanced) == (1, 2)
    assert (fat.pixels, fat.pixels_balanced) == (99, 148)
    header, rows = counts.rows()
    assert rows[0] == ("stroma", "1", "2", "4", "0", "0", "150", "60.0%", "300", "66.7%")
    assert rows[-1] == ("all", "", "3", "5", "1", "0", "250", "", "450", "")
    assert all(len(row) == len(header) for row in rows)


def test_validation_patches_are_balanced_as_training_patches_are():
    rule = ElasticRule((1, 2, 3), (2, 0, 1))
    draws = validation_draws(PATCHES, rule, seed=7)
    assert draws[:4] == [Draw(i, seed=0) for i in range(4)]  # as they are, in their order
    assert [draw.patch for draw in draws[4:]] == [0, 0, 2, 3, 3] and all(draw.deformed for draw in draws[4:])
    assert len({draw.seed for draw in draws[4:]}) == 5 and validation_draws(PATCHES, rule, seed=7) == draws
    assert validation_draws(PATCHES, None, seed=7) == draws[:4]


def test_a_training_of_an_earlier_version_is_judged_on_the_same_patches_to_its_end(tmp_path):
    """Else its epochs could not be compared, and the best of those before would be kept whatever came."""
    earlier = train_options(ConfigFile(train={"preset": "paper"}), {}).model_dump(mode="json")
    assert earlier.pop("balance_validation")
    save_state(tmp_path, TrainingState(earlier, {}, "dataset", "0"))
    goes_on = train_options(ConfigFile(train=load_state(tmp_path).options), {})
    assert goes_on == TrainOptions.model_validate(earlier) and not goes_on.balance_validation


def test_every_patch_and_every_copy_comes_once():
    draws = elastic_draws(np.array([2, 0, 1]), 6, seed=1, epoch=1)
    once = {(0, False): 1, (1, False): 1, (2, False): 1}
    assert Counter((d.patch, d.deformed) for d in draws) == {**once, (0, True): 2, (2, True): 1}
    assert len({d.seed for d in draws}) == 6
    assert draws == elastic_draws(np.array([2, 0, 1]), 6, seed=1, epoch=1)
    assert draws != elastic_draws(np.array([2, 0, 1]), 6, seed=1, epoch=2)
    assert len(elastic_draws(np.array([2, 0, 1]), 9, seed=1, epoch=1)) == 9


def test_training_draws():
    elastic = ElasticRule((1, 2, 3), (4, 1, 0))
    draws = TrainingDraws(PATCHES[:3], "elastic", 0, elastic)
    assert draws.pass_length == 8 == len(draws.of_epoch(1, 8))
    assert draws.label_counts.tolist() == [5, 570, 175]
    # Eq. 2 after balancing: 1 - N_c / 750
    assert class_weights(draws.label_counts, "paper") == pytest.approx([745 / 750, 180 / 750, 575 / 750])
    plain = TrainingDraws(PATCHES[:3], "shuffled", 0)
    assert plain.pass_length == 3 and plain.label_counts.tolist() == [1, 150, 99]
    assert not any(d.deformed for d in plain.of_epoch(1, 3))
    assert Draw(1, 2) == Draw(1, 2, deformed=False)


def test_rates_that_balance_exactly_are_found():
    """30, 10 and 5 patches of one class each: the second three times, the third six times."""
    patches = [patch(0, 100, 0, 0)] * 30 + [patch(0, 0, 100, 0)] * 10 + [patch(0, 0, 0, 100)] * 5
    assert suggested_rates(patches, (1, 2, 3)) == (0, 2, 5)
    # 3000 and 1000 px are fixed; 500 px three times is the nearest below their geometric mean, 1732
    assert suggested_rates(patches, (3, 1, 2), {1: 0, 2: 0}) == (0, 0, 2)


def test_suggested_rates_are_bounded():
    patches = [patch(0, 100, 0)] * 1000 + [patch(0, 0, 1)]
    assert suggested_rates(patches, (1, 2)) == (0, MAX_SUGGESTED_RATE)


def test_a_class_that_owns_no_patch_has_rate_0():
    assert suggested_rates([patch(0, 50, 50), patch(0, 10, 0)], (1, 2))[1] == 0


@pytest.mark.parametrize("absent", [(), (0,), (1, 3), (0, 2, 4, 5), (1, 1, 1, 2, 3)])
def test_classes_without_a_patch_change_nothing(absent):
    """The three classes above, with classes of which there is no pixel between them, at any place of the order."""
    table = np.array([[100, 0, 0]] * 30 + [[0, 100, 0]] * 10 + [[0, 0, 100]] * 5)
    spread = np.insert(table, [min(i, 3) for i in absent], 0, axis=1)
    there = np.flatnonzero(spread.any(axis=0))
    patches = [patch(0, *map(int, counts)) for counts in spread]
    orders = [range(1, 1 + spread.shape[1]), range(spread.shape[1], 0, -1)]
    for order in orders:
        rates = np.array(suggested_rates(patches, tuple(order)))
        assert rates[there].tolist() == [0, 2, 5] and rates.sum() == 7
    plain = [patch(0, *map(int, counts)) for counts in table]
    assert class_balanced_draws(patches, 50, seed=3, epoch=1) == class_balanced_draws(plain, 50, seed=3, epoch=1)
    assert balanced_probabilities(patches) == pytest.approx(balanced_probabilities(plain))


def test_suggested_rates_never_make_it_worse():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shown = rng.integers(1, 100, (40, 4)) * (rng.random((40, 4)) < 0.4)
        shown[:4] += np.eye(4, dtype=int)
        patches = [patch(0, *map(int, counts)) for counts in shown if counts.any()]
        rule = ElasticRule((1, 2, 3, 4), suggested_rates(patches, (1, 2, 3, 4)))
        before = np.array([p.label_counts[1:] for p in patches]).sum(axis=0)
        after = rule.balanced_pixels(patches)
        assert np.log(after).std() <= np.log(before).std() + 1e-9


def test_options():
    rule = ElasticRule.of_options(CLASSES, PATCHES[:3], ["fat", "stroma", "tumour"], {"fat": 3})
    assert rule.class_order == (3, 2, 1) and rule.rates == (0, 0, 3)
    assert ElasticRule.of_options(CLASSES, PATCHES[:3], [], {}).class_order == (1, 2, 3)


@pytest.mark.parametrize(
    ("order", "rates", "message"),
    [
        (["tumor", "stroma", "fat"], {}, r'\[train\] class_order: "tumor" is no class of the dataset; choose from tum'),
        ([], {"x": 1}, r'\[train\] rates: "x" is no class'),
        (["fat", "stroma"], {}, "must name each class of the dataset once: tumour, stroma, fat"),
        (["fat", "stroma", "tumour", "fat"], {}, "must name each class of the dataset once"),
    ],
)
def test_options_that_cannot_be(order, rates, message):
    with pytest.raises(ConfigError, match=message):
        ElasticRule.of_options(CLASSES, PATCHES[:3], order, rates)
