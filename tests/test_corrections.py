"""Corrected predictions are drawn more often than other labels: counted by hand, and through the command line."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from shapely import box

from dmmn_qp.annotations import ORIGINS, Annotation
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.draws import ElasticRule, TrainingDraws
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.regions import Region
from dmmn_qp.training.cells import Cells, Place, chosen_tiles
from dmmn_qp.training.head import _Deck, fit_head
from dmmn_qp.training.options import PRESETS, TrainOptions
from dmmn_qp.training.state import TrainingState, load_state, save_state
from tests.conftest import invoke, tiny_training, two_tissues, write_tiff
from tests.qupath.test_review import predicted
from tests.test_training import same_weights, weights_of
from tests.test_training_fast import head_training

CPU = torch.device("cpu")


def patches_of(n, corrected=(), counts=(0, 9, 0)):
    return [PatchRef("s", "train", i, 0, counts, corrected=int(i in corrected)) for i in range(n)]


def times_drawn(draws, length):
    return Counter(draw.patch for draw in draws.of_epoch(1, length))


@pytest.mark.parametrize("sampler", ["shuffled", "balanced", "elastic"])
def test_patches_with_corrections_come_three_times_as_often(sampler):
    elastic = ElasticRule((1, 2), (0, 0)) if sampler == "elastic" else None
    patches = patches_of(4, {1})
    draws = TrainingDraws(patches, sampler, 0, elastic, corrections=3.0)
    assert draws.pass_length == 3 + 3
    assert times_drawn(draws, 60) == {0: 10, 1: 30, 2: 10, 3: 10}
    assert draws.of_epoch(1, 60) == draws.of_epoch(1, 60) != draws.of_epoch(2, 60)


def test_each_class_keeps_its_turns():
    common, rare = patches_of(6, {0}), [PatchRef("s", "train", 9, 0, (0, 0, 9))]
    found = times_drawn(TrainingDraws([*common, *rare], "balanced", 0, corrections=3.0), 160)
    assert found[6] == 80 and found[0] == 30 and found[1] == 10


def test_copies_of_corrected_patches_count_as_they_do():
    rule = ElasticRule((1, 2), (1, 0))  # a deformed copy of each patch of class 1
    draws = TrainingDraws(patches_of(2, {0}), "elastic", 0, rule, corrections=2.0)
    assert draws.pass_length == 2 * 2 + 2
    found = Counter((draw.patch, draw.deformed) for draw in draws.of_epoch(1, 60))
    assert found == {(0, False): 20, (0, True): 20, (1, False): 10, (1, True): 10}


def test_parts_of_a_time_are_a_chance():
    found = times_drawn(TrainingDraws(patches_of(2, {0}), "shuffled", 0, corrections=1.5), 5000)
    assert 1.4 < found[0] / found[1] < 1.6


@pytest.mark.parametrize("sampler", ["shuffled", "balanced", "elastic"])
def test_without_corrections_nothing_changes(sampler):
    elastic = ElasticRule((1, 2), (1, 0)) if sampler == "elastic" else None
    plain = TrainingDraws(patches_of(5), sampler, 3, elastic)
    assert replace(plain, corrections=3.0).of_epoch(2, 33) == plain.of_epoch(2, 33)
    corrected = TrainingDraws(patches_of(5, {2}), sampler, 3, elastic, corrections=1.0)
    assert corrected.of_epoch(2, 33) == plain.of_epoch(2, 33) and corrected.pass_length == plain.pass_length


def test_the_papers_presets_draw_all_patches_alike():
    assert TrainOptions().corrections == 3
    assert [PRESETS[name].get("corrections") for name in ("fast", "scratch", "paper", "official")] == [None, None, 1, 1]


# ---- the head on frozen features


def test_corrected_cells_are_drawn_as_often_as_they_count():
    numbers, corrected = torch.tensor([4, 7, 9]), torch.tensor([False, True, False])
    found = _Deck.of(numbers, corrected, 3.0).drawn(50_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(found, minlength=10)
    assert 2.85 < counts[7] / counts[4] < 3.15 and 2.85 < counts[7] / counts[9] < 3.15
    alike = _Deck.of(numbers, corrected, 1.0).drawn(90, torch.Generator().manual_seed(0))
    assert torch.equal(alike, numbers[torch.randint(3, (90,), generator=torch.Generator().manual_seed(0))])


def test_a_head_learns_a_correction_against_as_many_other_labels():
    """One vector that two thirds of its cells call class 0, and one third, corrected, class 1."""
    classes = torch.tensor([0] * 200 + [1] * 100 + [1] * 100)
    vectors = torch.zeros(400, 2)
    vectors[300:] = 5.0  # what else is of class 1, so that the classes are drawn alike
    corrected = torch.zeros(400, dtype=torch.bool)
    corrected[200:300] = True
    cells = Cells(vectors, classes, torch.ones(400), torch.zeros(400), corrected)

    def chance(corrections):
        weights = fit_head(cells, None, 2, 8, seed=0, device=CPU, steps=150, corrections=corrections).weights
        first, bias, last, last_bias = weights
        logits = (torch.zeros(1, 2) @ first.T + bias).relu() @ last.T + last_bias
        return float(logits.softmax(1)[0, 1])

    assert chance(3.0) == pytest.approx(0.75 / 1.75, abs=0.05)  # 3 of 4 draws of class 1, against all of class 0
    assert chance(1.0) == pytest.approx(0.5 / 1.5, abs=0.05)


def test_tiles_with_corrections_are_looked_at_before_others():
    labels = {Place("s", Region(1024 * i, 0, 1024, 1024)): np.ones((2, 2), np.uint8) for i in range(100)}
    corrected = dict.fromkeys(list(labels)[:10], 20.0)
    found = [chosen_tiles(labels, 1, np.random.default_rng(i), 20, corrected) for i in range(20)]
    taken = np.mean([len(corrected.keys() & set(chosen)) for chosen in found])
    assert taken > 8 and all(len(chosen) == 20 for chosen in found)
    plain = chosen_tiles(labels, 1, np.random.default_rng(0), 20)
    assert chosen_tiles(labels, 1, np.random.default_rng(0), 20, often={}) == plain


# ---- through the command line


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    """A dataset of two slides, in one of which a prediction was given another class."""
    folder = tmp_path_factory.mktemp("corrected")
    (folder / "slides").mkdir()
    (folder / "geojson").mkdir()
    drawn = [
        Annotation(box(0, 0, 300, 512), class_name="dark"),
        Annotation(box(450, 0, 768, 512), class_name="light"),
    ]
    light = replace(predicted(box(300, 0, 370, 256), "light"), class_name="dark")
    for name, objects in (("a", [*drawn, light]), ("b", drawn), ("c", drawn)):
        write_tiff(folder / "slides" / f"{name}.tif", two_tissues(seed=ord(name)))
        write_geojson(folder / "geojson" / f"{name}.geojson", objects)
    (folder / "splits.csv").write_text("slide,split\na,train\nb,train\nc,val\n")
    command = ("import", folder / "slides", "--annotations", folder / "geojson", "--out", folder / "dataset")
    result = invoke(*command, "--split-file", folder / "splits.csv")
    assert result.exit_code == 0, result.output
    return folder


def test_a_dataset_keeps_what_was_corrected(corrected):
    dataset = Dataset(corrected / "dataset")
    found = {(p.slide_id, p.x, p.y): p.corrected for p in dataset.patches() if p.corrected}
    assert found == {("a", 256, 0): 70 * 256}
    rows = (corrected / "dataset" / "patches.csv").read_text().splitlines()
    assert rows[0].split(",")[:6] == ["slide_id", "split", "x", "y", "fixed", "corrected"]
    without = [",".join(cells[:5] + cells[6:]) for cells in (row.split(",") for row in rows)]
    (corrected / "dataset" / "patches.csv").write_text("\n".join(without) + "\n")  # as an earlier version wrote it
    try:
        assert not any(patch.corrected for patch in Dataset(corrected / "dataset").patches())
    finally:
        (corrected / "dataset" / "patches.csv").write_text("\n".join(rows) + "\n")


def test_a_training_says_it_and_does_not_depend_on_processes(corrected, here):
    command = ("train", "--dataset", corrected / "dataset", *tiny_training(epochs=1, steps=3))
    result = invoke(*command, "--out", "m")
    assert result.exit_code == 0, result.output
    said = "1 of 12 training patches hold corrected predictions, drawn 3 times as often as others (corrections = 3)"
    assert said in result.stdout
    again = invoke(*command, "--out", "again", "--workers", 1)
    assert again.exit_code == 0, again.output
    assert same_weights(weights_of(here / "m"), weights_of(here / "again"))


def test_states_of_earlier_versions_draw_all_alike(tmp_path):
    save_state(tmp_path, TrainingState({"epochs": 1}, {}, "dataset", "0"))
    assert load_state(tmp_path).options["corrections"] == 1


def test_the_head_knows_which_cells_were_corrected(corrected):
    head = head_training(Dataset(corrected / "dataset"))
    labels = head._labels(head._plan.training, tuple(ORIGINS))
    ((place, cells),) = head._corrected(labels).items()
    assert place.slide_id == "a" and cells.sum() == 17 * 64  # whose middles are 302 to 366
    assert cells[0, 75] and cells[63, 91] and not cells[64, 75] and not cells[0, 74] and not cells[0, 92]
