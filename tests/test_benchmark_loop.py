"""The simulated loop: what a correction costs, by hand; curves; ways of choosing; and a run of a few seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dmmn_qp
from benchmarks import drawn, loop, loop_curves, real_tissue
from benchmarks.loop_choosers import State, chooser_of, first_apart
from benchmarks.loop_person import Work, correction, drawing, outline_mm, shown
from benchmarks.loop_tissues import Tissue

CLASSES = dmmn_qp.ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 0, 255))])


def halves(cut: int, side: int = 128) -> np.ndarray:
    """1 on the left of a column, 2 from it on."""
    return np.where(np.arange(side)[None] < cut, 1, 2).repeat(side, 0).astype(np.uint8)


def test_work_is_counted_by_the_constants():
    work = Work(looked_at=2, reclassified=1, reshaped=1, drawn=1, drawn_mm=0.5) + Work(looked_at=1)
    assert work.seconds == 3 * 3 + 4 + 20 + 5 + 2.5


def test_outline_of_a_square_is_four_sides_less_what_edges_exaggerate():
    square = np.zeros((50, 50), bool)
    square[10:30, 10:30] = True
    assert outline_mm(square, 0.5) == pytest.approx(4 * 20 * 0.5 / 1000 * np.pi / 4)
    square[15:20, 15:20] = False
    assert outline_mm(square, 0.5) == pytest.approx((80 + 20) * 0.5 / 1000 * np.pi / 4)


@pytest.mark.parametrize(
    ("predicted", "truth", "work"),
    [
        (halves(64), halves(64), Work(looked_at=2)),  # right: a look at each
        (halves(64), halves(66), Work(looked_at=2)),  # a border that nobody would mend
        (halves(256, 512), halves(259, 512), Work(looked_at=2)),  # nor a long one
        (np.where(halves(340, 512) == 2, 1, halves(170, 512)), halves(170, 512), Work(looked_at=3, reclassified=1)),
    ],
)
def test_correction_costs_what_changed(predicted, truth, work):
    assert correction(predicted.astype(np.uint8), truth, 0.5) == work


def test_a_wrong_part_is_drawn_and_many_are_reshaped_at_once():
    predicted = np.full((256, 256), 1, np.uint8)
    truth = predicted.copy()
    truth[40:80, 40:80] = 2
    one = correction(predicted, truth, 0.5)
    assert (one.looked_at, one.drawn, one.reshaped) == (1, 1, 0)
    assert one.drawn_mm == pytest.approx(160 * 0.5 / 1000 * np.pi / 4)
    for y in range(0, 240, 48):
        for x in range(0, 240, 48):
            truth[y + 4 : y + 34, x + 4 : x + 34] = 2
    many = correction(predicted, truth, 0.5)
    assert (many.looked_at, many.drawn, many.reshaped) == (1, 0, 1)


def test_a_hopeless_window_is_drawn_afresh():
    predicted = (np.indices((128, 128)).sum(0) // 32 % 2 + 1).astype(np.uint8)
    truth = np.full((128, 128), 2, np.uint8)
    assert correction(predicted, truth, 0.5) == drawing(truth, 0.5)


def test_small_objects_are_not_shown():
    labels = halves(64)
    labels[10:20, 10:20] = 2  # 25 um2
    labels[60:100, 10:50] = 2  # 400 um2
    expected = halves(64)
    expected[60:100, 10:50] = 2
    assert np.array_equal(shown(labels, 0.5), expected)


def test_spots_are_as_many_small_and_of_their_class():
    truth = drawn.TruthSlide("s", np.zeros((200, 200, 3), np.uint8), halves(100, 200), 0.5, CLASSES)
    (found,) = drawn.draw_spots([truth], 3, 15, np.random.default_rng(0))
    assert {int(v) for v in np.unique(found)} == {0, 1, 2}
    assert (found[found > 0] == truth.truth[found > 0]).all()
    assert np.count_nonzero(found == 1) <= 3 * np.pi * 16**2
    assert (drawing(found, 0.5).drawn) <= 6


def test_a_fifth_is_drawn_inside_of_borders():
    truth = drawn.TruthSlide("s", np.zeros((400, 400, 3), np.uint8), halves(200, 400), 0.5, CLASSES)
    found = drawn.draw_share(truth, 0.2, np.random.default_rng(0))
    assert (found[found > 0] == truth.truth[found > 0]).all()
    assert not found[:, 199:201].any()  # `GAP_PX` inside
    for label in (1, 2):
        assert 0.2 <= np.mean(found[truth.truth == label] == label) <= 0.45


def test_windows_do_not_overlap_on_one_slide():
    windows = [("a", 0, 0, 64), ("a", 63, 0, 64), ("a", 64, 0, 64), ("b", 0, 0, 64)]
    assert first_apart(windows, 9) == [windows[0], windows[2], windows[3]]
    assert first_apart(windows, 2) == [windows[0], windows[2]]


def test_a_chooser_may_have_options():
    choose, options = chooser_of("suggest/weight_rarity=0/spread=1.5")
    assert choose is chooser_of("suggest")[0]
    assert options == {"weight_rarity": 0.0, "spread": 1.5}


def test_minutes_are_those_at_which_a_level_is_first_reached():
    minutes, mious = np.array([2.0, 4.0, 6.0]), np.array([0.4, 0.6, 0.5])
    assert loop_curves.first_reached(minutes, mious, 0.4) == 2
    assert loop_curves.first_reached(minutes, mious, 0.5) == 3
    assert loop_curves.first_reached(minutes, mious, 0.6) == 4
    assert loop_curves.first_reached(minutes, mious, 0.61) == float("inf")


def rows_of(chooser: str, minutes: list[float], mious: list[float]) -> list[dict[str, str]]:
    return [
        {"tissue": "t", "chooser": chooser, "seed": "0", "round": str(i), "person_min": str(m), "miou": str(v)}
        for i, (m, v) in enumerate(zip(minutes, mious, strict=True))
    ]


@pytest.mark.parametrize(
    ("minutes", "mious", "said"),
    [
        (
            [2, 4, 6],
            [0.4, 0.6, 0.7],
            "0.25 of the minutes of random regions (median of the levels; goal 0.6; seeds: 1): the goal",
        ),
        (
            [2, 10, 20],
            [0.4, 0.5, 0.55],
            "2.50 of the minutes of random regions (median of the levels; goal 0.6; seeds: 1): a loss",
        ),
        (
            [2, 4, 6],
            [0.4, 0.41, 0.42],
            "never of the minutes of random regions (median of the levels; goal 0.6; seeds: 1): a loss",
        ),
    ],
)
def test_a_loss_is_called_a_loss(minutes, mious, said):
    rows = rows_of("random", [2, 6, 10], [0.4, 0.5, 0.6]) + rows_of("suggest", minutes, mious)
    assert said in loop_curves.minutes_table(rows, "t", ["random", "suggest"])[-1]


def test_a_lucky_round_is_no_level_that_was_reached():
    assert loop_curves.rising(np.array([0.4, 0.8, 0.2, 0.6])).tolist() == pytest.approx([0.4, 0.5, 0.5, 0.6])
    assert loop_curves.rising(np.array([0.4, 0.3, 0.2])).tolist() == pytest.approx([0.3, 0.3, 0.3])
    rows = rows_of("random", [2, 6, 10], [0.4, 0.5, 0.6]) + rows_of("suggest", [2, 3, 10], [0.4, 0.6, 0.4])
    assert "a loss" in loop_curves.minutes_table(rows, "t", ["random", "suggest"])[-1]


def test_seeds_that_were_not_run_to_the_end_do_not_count():
    rows = rows_of("random", [2, 6], [0.4, 0.5]) + rows_of("suggest", [2], [0.4])
    assert loop_curves.seeds_of(rows, "t", ["random", "suggest"]) == []
    assert loop_curves.seeds_of(rows, "t", ["random"]) == ["0"]


def test_random_regions_that_gain_nothing_compare_with_nothing():
    rows = rows_of("random", [2, 6], [0.4, 0.3]) + rows_of("suggest", [2, 4], [0.4, 0.5])
    assert "nothing to compare" in loop_curves.minutes_table(rows, "t", ["random", "suggest"])[-1]


def tiles_in(folder: Path, number: int = 4, side: int = 256) -> Path:
    """Dark tumour on the left of pink tissue."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(number):
        is_tumour = np.arange(side)[None].repeat(side, 0) < side // 2 + 8 * i
        pixels = np.where(is_tumour[..., None], (120, 60, 140), (230, 170, 200)) + rng.normal(0, 12, (side, side, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray((255 * is_tumour).astype(np.uint8)).save(folder / "masks" / f"{i}.png")
    return folder


def test_tiles_for_testing_are_never_trained_on(tmp_path):
    tiles = drawn.read_tiles(tiles_in(tmp_path, 10, 32))
    tested: list[str] = []
    for seed in range(3):
        parts = [[tile.name for tile in part] for part in drawn.split_tiles(tiles, seed)]
        assert [len(part) for part in parts] == [5, 2, 3]
        assert len({name for part in parts for name in part}) == 10
        tested += parts[2]
    assert len(set(tested)) == 9


def test_colour_tells_coloured_halves_apart(tmp_path):
    tissue = real_tissue.Tissue.of_seed(drawn.read_tiles(tiles_in(tmp_path, side=128)), 0)
    for method in real_tissue.BASELINES.values():
        assert real_tissue.by_color(tissue, 0, method)["miou"] > 0.9


def test_the_loop_runs_and_goes_on(tmp_path, monkeypatch, capsys):
    """A round with two ways of choosing; the second time nothing is run again."""
    monkeypatch.setattr(loop, "train_and_predict", quick_round)
    command = ["loop", "--quick", "--tissues", "real", "--tiles", str(tiles_in(tmp_path / "tiles", side=384))]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path / "out"), "--choosers", "random,uncertainty"])
    monkeypatch.setenv("DMMN_QP_CACHE", str(tmp_path))
    loop.main()
    with (tmp_path / "out" / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["chooser"], row["round"]) for row in rows] == [
        *(("full", "0"), ("random", "0"), ("random", "1"), ("uncertainty", "0"), ("uncertainty", "1"))
    ]
    assert all(float(rows[i + 1]["mm2"]) > float(rows[i]["mm2"]) for i in (1, 3))
    assert rows[1]["person_min"] == rows[3]["person_min"]
    assert (tmp_path / "out" / "loop.png").is_file()
    monkeypatch.setattr(loop, "train_and_predict", None)
    loop.main()
    assert "of the minutes of random regions" in capsys.readouterr().out


def quick_round(tissue: Tissue, state: State, seed: int, start_from: Path | None = None) -> float:
    """Stands for training and prediction: predicts what is annotated, and else the first class, most unsurely below."""
    from dmmn_qp.outputs.pyramids import write_label_pyramid

    out = state.folder / "predictions"
    out.mkdir(exist_ok=True)
    for slide in tissue.train:
        labels, rows = state.drawn[slide.name], len(slide.truth)
        found = np.where(labels > 0, labels, 1).astype(np.uint8)
        write_label_pyramid(out / f"{slide.name}.labels.ome.tif", [found], found.shape, slide.mpp, slide.classes)
        unsure = (np.arange(rows)[:, None] * 255 // rows).repeat(rows, 1).astype(np.uint8)
        write_label_pyramid(out / f"{slide.name}.uncertainty.ome.tif", [unsure], unsure.shape, slide.mpp, slide.classes)
    state.names = tissue.train[0].classes.names
    return float(np.mean([np.mean(drawn > 0) for drawn in state.drawn.values()]))
