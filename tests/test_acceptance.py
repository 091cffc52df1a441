"""Whether a round of training is accepted: rules on tables counted by hand, and rounds through the command line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_card, newest_model, set_acceptance
from dmmn_qp.folders.provenance import FINGERPRINTS
from dmmn_qp.regions import Region
from dmmn_qp.training import verdict
from dmmn_qp.training.acceptance import clear_loss, contradictions, doubtful, judge, unsupported
from dmmn_qp.training.cells import CELLS, Cells, Place, picked
from dmmn_qp.training.comparing import Area, areas_in
from dmmn_qp.training.holding import held
from dmmn_qp.training.objects import Objects
from dmmn_qp.training.supporting import seen_without
from tests.conftest import FAST_TOML, fails, invoke, rectangle, write_features

SAME = (0.9, 0.9)


def area(before, after, *, label=1, slide="s", split="val", origin="drawn", middle=(0, 0)):
    """An area of 20,000 px of two classes, of which so many percent are right."""
    found = [np.array([right, 100 - right]) * 200 for right in (before, after)]
    return Area(slide, split, label, origin, (*middle, *middle), *(f if label == 1 else f[::-1] for f in found))


def losses(areas, kept=SAME, trained=0.9, validated_on=("drawn",)):
    found = [*judge(areas, 0.5, validated_on, kept, trained).worse, *contradictions(doubtful(areas, 0.5), 0.5)]
    return [(w.loss, w.label, w.slide_id, round(w.before, 2), round(w.after, 2)) for w in found]


def test_what_is_as_good_is_accepted():
    areas = [area(90, 88), area(95, 97, label=2), area(92, 90, split="train"), area(97, 96, origin="confirmed")]
    assert losses(areas * 10) == []


def test_a_class_that_all_areas_lose_is_said_with_its_slide():
    areas = [area(95, 80, middle=(i, i)) for i in range(10)] + [area(96, 97, label=2) for _ in range(10)]
    found = losses(areas)
    assert ("validation", 1, "s", 0.95, 0.80) in found  # right part on the slide
    of_all = [("validation", 1, None, 0.91, 0.78), ("validation", 2, None, 0.91, 0.81)]  # IoU: 2 is seen in 1
    assert [f for f in found if f[2] is None] == of_all
    assert not [f for f in found if f[2] is not None and f[1] == 2]


def test_what_one_area_of_many_loses_may_be_chance():
    areas = [area(95, 95) for _ in range(9)] + [area(95, 20)]
    assert clear_loss(*figures(areas), 10, 10) is None
    assert losses(areas, validated_on=("confirmed",)) == []
    assert clear_loss(*figures([area(95, 85) for _ in range(10)]), 10, 10) == pytest.approx((0.95, 0.85))


def figures(areas):
    sizes = np.array([a.size_px for a in areas])
    right = [np.array([getattr(a, f"right_{when}") for a in areas]) for when in ("before", "after")]
    return [lambda times, found=found: times @ found / (times @ sizes) for found in right]


@pytest.mark.parametrize(("after", "said"), [(86, False), (78, True)])
def test_few_areas_must_lose_more(after, said):
    areas = [area(95, after, split="train", origin="confirmed") for _ in range(3)]
    assert (losses(areas) == [("reviewed", 1, "s", 0.95, after / 100)]) is said


@pytest.mark.parametrize(
    ("before", "after", "origin", "said"),
    [
        (2, 10, "corrected", True),  # the model does not learn what it is told
        (2, 90, "corrected", False),  # it does
        (50, 40, "drawn", False),  # half of it was right: a hard place, no contradiction
        (2, 10, "drawn", True),
        (2, 10, "unchecked", False),  # nobody said that
    ],
)
def test_labels_that_neither_model_believes(before, after, origin, said):
    found = losses([area(before, after, split="train", origin=origin, slide="t")])
    assert [f for f in found if f[0] == "contradiction"] == ([("contradiction", 1, "t", 0.02, 0.1)] if said else [])


def test_small_areas_are_no_loss():
    small = replace(area(0, 0, split="train"), before=np.array([0, 3900]), after=np.array([0, 3900]))
    assert losses([small]) == []  # 0.000975 mm2
    large = replace(small, before=np.array([0, 4100]), after=np.array([0, 4100]))
    assert len(losses([large])) == 1


def test_learned_labels_that_nothing_else_supports_were_swapped():
    one, other = (area(2, 98, split="train", label=label) for label in (1, 2))
    third = area(2, 98, split="train", slide="t")
    assert doubtful([one, other, third, area(20, 98, split="train")], 0.5) == [one, other, third]
    assert doubtful([one, other], 0.5, new=(1,)) == [other]
    small = replace(one, before=np.array([0, 10000]), after=np.array([10000, 0]))  # 0.0025 mm2, and learned
    assert doubtful([small], 0.5) == []
    both = [(one, 0.0, 2), (other, 0.05, 1), (third, 0.9, 1)]
    assert [(w.label, w.called, w.loss) for w in unsupported(both, 0.5)[0]] == [
        (1, 2, "contradiction"),
        (2, 1, "contradiction"),
    ]
    contradicting, alone = unsupported([(one, 0.0, 2), (third, 0.9, 1)], 0.5)  # the first of its kind
    assert contradicting == [] and [(w.label, w.called) for w in alone] == [(1, 2)]
    unlearned = area(2, 10, split="train")
    assert [w.after for w in unsupported([(unlearned, 0.3, 2)], 0.5)[0]] == [0.1]
    assert unsupported([(unlearned, 0.31, 2)], 0.5) == ([], [])  # others support it


class _Looks:
    """Stands in for an encoder: cells left of the middle look alike, so do those right of it, and strange ones do too.

    Args:
        strange: First column of what looks a little like the left, and a little like nothing else.
    """

    def __init__(self, strange=CELLS):
        self.strange = strange

    def cells(self, labels, n_classes, rng, most):
        chosen, _ = picked(labels, n_classes, rng, most)
        at = [(place, cells) for place, cells in chosen.items() if len(cells)]
        classes = np.concatenate([labels[place][cells[:, 0], cells[:, 1]] for place, cells in at]).astype(int) - 1
        column = np.concatenate([cells[:, 1] for _, cells in at])
        strange = column >= self.strange
        vectors = torch.from_numpy(np.c_[(column < 128) | strange, (column >= 128) & ~strange, strange]).float()
        vectors += 0.1 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
        n = len(classes)
        return Cells(vectors, torch.from_numpy(classes), torch.ones(n), torch.zeros(n), torch.zeros(n) > 0)


def test_a_head_that_is_not_told_says_what_it_sees():
    """Two tiles of which the left half looks like class 1; one area on each side has the label of the other."""
    labels = np.zeros((CELLS, CELLS), np.uint8)
    labels[:100, :100], labels[:100, 150:] = 1, 2
    labels[150:200, 20:70], labels[150:200, 150:200] = 2, 1  # swapped
    places = {Place("s", Region(1024 * i, 0, 1024, 1024)): labels.copy() for i in range(2)}
    swapped = [
        replace(area(2, 98, split="train", label=label), bounds_px=(left, 600, left + 200, 800))
        for label, left in ((2, 80), (1, 600))
    ]
    right = replace(area(2, 98, split="train"), bounds_px=(0, 0, 400, 400))
    nothing = np.zeros((CELLS, CELLS), np.uint32)
    seen = seen_without([*swapped, right], places, lambda _: nothing, _Looks(), 2, 8, 0, torch.device("cpu"))
    found = {(a.label, a.bounds_px[0]): (part, called) for a, part, called in seen}
    assert found[2, 80] == (pytest.approx(0, abs=0.05), 1) and found[1, 600] == (pytest.approx(0, abs=0.05), 2)
    assert found[1, 0] == (pytest.approx(1, abs=0.05), 1)


def test_no_part_of_an_annotation_supports_another_part():
    """One annotation on two tiles, which looks like class 1 and is labelled 2; and one that is right."""
    labels, numbers = np.zeros((CELLS, CELLS), np.uint8), np.zeros((CELLS, CELLS), np.uint32)
    labels[:100, :100], labels[:100, 150:200], labels[:, 240:] = 1, 2, 2
    numbers[labels > 0], numbers[:, 240:] = 1, 7
    places = {Place("s", Region(1024 * i, 0, 1024, 1024)): labels.copy() for i in range(2)}
    wrong = [
        replace(area(2, 98, split="train", label=2), bounds_px=(left, 0, left + 64, 1024), annotation=7)
        for left in (960, 1984)
    ]
    seen = seen_without(wrong, places, lambda _: numbers, _Looks(strange=240), 2, 8, 0, torch.device("cpu"))
    assert [(round(part, 1), called) for _, part, called in seen] == [(0, 1), (0, 1)]


@pytest.mark.parametrize(("kept", "trained", "said"), [((0.9, 0.9), 0.7, True), ((0.9, 0.9), 0.86, False)])
def test_a_training_after_which_all_is_worse_is_said_though_the_old_weights_are_kept(kept, trained, said):
    assert (losses([area(90, 90)], kept, trained) == [("validation", None, None, 0.9, 0.7)]) is said


def test_areas_for_test_and_unchecked_ones_play_no_part():
    assert losses([area(90, 10, origin="unchecked"), area(90, 10, origin="unchecked", split="train")]) == []


def test_an_area_is_what_hangs_together_of_one_class_and_origin():
    truth = np.array([[1, 1, 0, 2], [0, 1, 0, 2], [0, 0, 0, 2], [1, 0, 0, 0]], np.uint8)
    origins = np.where(truth > 0, ORIGINS["drawn"], 0).astype(np.uint8)
    origins[0, 3] = ORIGINS["corrected"]
    before, after = np.ones_like(truth), np.full_like(truth, 2)
    numbers = np.zeros(truth.shape, np.uint32)
    found = list(areas_in(truth, origins, numbers, (before, after), 2, "s", "train", (100, 200), 4))
    assert [(a.label, a.origin, a.size_px, a.right_before, a.right_after, a.middle_px) for a in found] == [
        (1, "drawn", 48, 48, 0, (104, 204)),
        (1, "drawn", 16, 16, 0, (102, 214)),
        (2, "drawn", 32, 0, 32, (114, 208)),
        (2, "corrected", 16, 0, 16, (114, 202)),
    ]
    numbers[:, 1:] = 7  # of two annotations that touch
    found = list(areas_in(truth, origins, numbers, (before, after), 2, "s", "train", (100, 200), 4))
    assert sorted((a.annotation, a.size_px) for a in found if a.label == 1) == [(0, 16), (0, 16), (7, 32)]


# ---- through the command line


@pytest.fixture(scope="module")
def rounds(workspace, two_tissue_slides, tmp_path_factory):
    """A folder with ``models/old`` and datasets ``good`` and ``poisoned``: labels swapped in two regions."""
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "models").mkdir()
    shutil.copytree(next((workspace / "models").iterdir()), folder / "models" / "old")
    splits = {record["slide_id"]: record["split"] for record in manifest(workspace / "dataset")["slides"]}
    (folder / "splits.csv").write_text("slide,split\n" + "".join(f"{k},{v}\n" for k, v in splits.items()))
    (folder / "fast.toml").write_text(FAST_TOML.replace("epochs = 2", "epochs = 1\ntensorboard = false"))
    first = next(name for name, split in splits.items() if split == "train")
    for name, (left, right) in {"good": ("dark", "light"), "poisoned": ("light", "dark")}.items():
        for path in (two_tissue_slides / "geojson").iterdir():
            features = [rectangle(40, 40, 300, 430, "dark"), rectangle(420, 40, 300, 430, "light")]
            if path.stem == first:
                features = [rectangle(40, 40, 300, 200, "dark"), rectangle(420, 40, 300, 200, "light")]
                features += [rectangle(40, 260, 300, 210, left), rectangle(420, 260, 300, 210, right)]
            write_features(folder / f"geojson-{name}" / path.name, features)
        slides = two_tissue_slides / "slides"
        command = ("import", slides, "--annotations", folder / f"geojson-{name}", "--out", folder / name)
        assert invoke(*command, "--split-file", folder / "splits.csv").exit_code == 0
    return folder, first


def manifest(dataset):
    return json.loads((dataset / "dataset.json").read_text())


def train(folder, dataset, out, *options):
    config = ("--config", folder / "fast.toml", "--from", folder / "models" / "old")
    result = invoke("train", "--dataset", folder / dataset, "--out", folder / "models" / out, *config, *options)
    assert result.exit_code == 0, result.output
    return result


def test_what_only_bounds_annotations_is_none_of_them(rounds, tmp_path):
    folder, first = rounds
    dataset = Dataset(shutil.copytree(folder / "good", tmp_path / "dataset"))
    drawn = [rectangle(40, 40, 300, 200, "dark"), rectangle(420, 40, 300, 200, "light")]
    write_features(
        dataset.annotations_path(first), [*drawn, *(rectangle(0, 0, 768, 512, c) for c in ("Region*", "Training"))]
    )
    numbers = Objects(dataset).numbers(first, Region(0, 0, 768, 512))
    assert np.unique(numbers).tolist() == [0, 1, 2]


def test_an_honest_round_takes_the_place_of_the_old_model(rounds):
    folder, _ = rounds
    result = train(folder, "good", "honest")
    card = load_card(folder / "models" / "honest")
    assert card.accepted and card.acceptance.compared_with == "dmmn-m3-1" and not card.acceptance.worse
    assert 'nothing that people labelled is clearly worse than with model "dmmn-m3-1"' in result.stdout
    assert newest_model(folder / "models").name == "honest"
    old = set(load_card(folder / "models" / "old").provenance[FINGERPRINTS])
    assert old <= set(card.provenance[FINGERPRINTS])  # whoever starts from it knows its slides
    assert "yes: compared with dmmn-m3-1" in invoke("models", "show", folder / "models" / "honest").stdout
    shutil.rmtree(folder / "models" / "honest")


def test_a_poisoned_round_is_caught_and_a_person_may_accept_it(rounds):
    folder, first = rounds
    result = train(folder, "poisoned", "bad")
    card = load_card(folder / "models" / "bad")
    assert not card.accepted and "not accepted" in result.stderr and "which is not accepted" in result.stdout
    assert {w.loss for w in card.acceptance.worse} & {"contradiction", "validation", "drawn"}
    assert newest_model(folder / "models").name == "old"
    print_of = {r["slide_id"]: r["fingerprint"] for r in manifest(folder / "poisoned")["slides"]}
    said = {w.slide for w in card.acceptance.worse} - {None}
    assert said <= set(print_of.values()) and print_of[first] in said  # a card names no slide
    page = (folder / "models" / "bad" / "report.html").read_text("utf-8")
    assert "Not accepted" in page and "predictions go on with the model before" in page
    shown = invoke("models", "show", folder / "models" / "bad").stdout
    assert "no: compared with dmmn-m3-1" in shown
    accepted = invoke("models", "accept", folder / "models" / "bad")
    assert accepted.exit_code == 0 and newest_model(folder / "models").name == "bad"
    card = load_card(folder / "models" / "bad")
    assert card.accepted and card.acceptance.by_hand and card.acceptance.worse
    assert "yes, by a person" in invoke("models", "show", folder / "models" / "bad").stdout
    assert "is accepted already" in fails("models", "accept", folder / "models" / "bad")
    shutil.rmtree(folder / "models" / "bad")


def test_accept_on_the_way(rounds):
    folder, _ = rounds
    result = train(folder, "poisoned", "taken", "--accept")
    card = load_card(folder / "models" / "taken")
    assert card.accepted and card.acceptance.by_hand and card.acceptance.worse
    assert "accepted by hand" in result.stderr
    shutil.rmtree(folder / "models" / "taken")


def test_what_could_not_be_compared_is_not_accepted(rounds, monkeypatch):
    folder, _ = rounds

    def refuse(*_):
        raise OSError("a slide is away")

    monkeypatch.setattr(verdict, "_areas", refuse)
    said = " ".join(train(folder, "good", "unknown", "--steps-per-epoch", 1).stderr.split())
    assert "without which the new one is not accepted, is left out, all else goes on (a slide is away)" in said
    assert not load_card(folder / "models" / "unknown").accepted
    assert "it could not be compared" in invoke("models", "show", folder / "models" / "unknown").stdout
    shutil.rmtree(folder / "models" / "unknown")


def test_nobody_accepts_a_model_while_it_is_trained(rounds, tmp_path, monkeypatch):
    """The card that is changed would be that of weights which the training has replaced meanwhile."""
    model = shutil.copytree(rounds[0] / "models" / "old", tmp_path / "new")
    set_acceptance(model, None, accepted=False)
    with held(model):
        assert "a training is running in" in fails("models", "accept", model)
    monkeypatch.chdir(model)
    assert invoke("models", "accept", ".").exit_code == 0 and load_card(model).accepted
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_model_from_nothing_is_compared_with_none(rounds):
    card = load_card(rounds[0] / "models" / "old")
    assert card.accepted and card.acceptance is None
    assert Path(rounds[0] / "models" / "old" / "report.html").is_file()
