"""The comparison of networks: what is run and passed over, figures by hand, the slides; and a small run of it all."""

from __future__ import annotations

import json
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage", reason="the generator of slides needs scikit-image, which the toolkit itself does not")

from benchmarks import architectures, drawn
from benchmarks import architectures_slides as slides
from benchmarks import architectures_tables as tables
from benchmarks.architectures_run import M3, PRETRAINED, Budget, Run, train_options


def row_of(run, right, wrong, elsewhere=(1, 1)):
    """A run on two classes of which so many pixels of each are right, and so many wrong, on each scanner."""
    counts = {"same scanner": {"a": [[right, wrong], [wrong, right]]}}
    if run.is_main:
        counts["other scanner"] = {"b": [[elsewhere[0], elsewhere[1]], [elsewhere[1], elsewhere[0]]]}
    facts = {"parameters": 2_000_000, "steps": 5, "train_s": 3, "drawn_mm2": run.share, "machine": "m", "torch": "2"}
    return {**asdict(run), **facts, "classes": ["x", "y"], "confusion": counts}


def test_the_comparison_comes_first_and_nothing_twice():
    runs = architectures.runs_of(("main", "amount", "context"), 2, tables.NETWORKS, tables.SHARES)
    assert [(run.network, run.seed) for run in runs[:14]] == [(n, s) for s in (0, 1) for n in tables.NETWORKS]
    assert len({run.name for run in runs}) == len(runs)
    assert sum(run.tissue == "context" for run in runs) == 14
    amounts = [run for run in runs if run.network == M3 and run.seed == 0 and run.tissue == "plain"]
    assert {(run.share, run.sampler) for run in amounts if run.gap == "thin"} == {
        (share, sampler) for share in (0.01, 0.05, 0.25, 1.0) for sampler in ("balanced", "elastic", "shuffled")
    }
    assert [run.share for run in amounts if run.gap == "wide"] == [0.25]
    assert [run for run in runs if run.is_main] == [r for r in runs if r == Run(r.network, r.seed, tissue=r.tissue)]


def test_all_six_have_the_same_budget_and_the_widths_of_the_paper():
    budget = Budget(steps=100, epochs=4, width_of_m3=8, device="cpu", readers=0)
    given = {network: train_options(Run(network, 1), budget) for network in tables.SIX}
    assert {network: options["width"] for network, options in given.items()} == {
        "segnet": 16, "unet": 16, "dmmn-s2": 16, "dmmn-ms": 8, "dmmn-m2s": 8, M3: 8,
    }  # fmt: skip
    assert {(o["preset"], o["epochs"], o["steps_per_epoch"], o["seed"]) for o in given.values()} == {
        ("scratch", 4, 25, 1)
    }
    assert train_options(Run(PRETRAINED, 1), budget)["preset"] == "fast"


def test_figures_by_hand():
    """Of 8 right and 2 wrong each: IoU 8/12; of 6 and 4: 6/14."""
    rows = [row_of(Run("unet", 0), 6, 4), row_of(Run(M3, 0), 8, 2), row_of(Run(M3, 1), 6, 4)]
    lines = tables.comparison(rows, "plain", {M3: ".9"})
    mean, deviation = (8 / 12 + 6 / 14) / 2, np.std([8 / 12, 6 / 14], ddof=1)
    of_m3 = f"| DMMN-M3 | 2.00 M | .9 | {mean:.3f} ± {deviation:.3f} | 0.700 ± 0.141 | 0.700 ± 0.141 |"
    assert lines[3] == f"{of_m3} 0.333 ± 0.000 | 3 | 2 |"
    assert lines[2].startswith("| U-Net | 2.00 M | - | 0.429 | 0.600 | 0.600 | 0.333 |")
    assert tables.against_single(rows, "plain")[2] == f"| DMMN-M3 | {8 / 12 - 6 / 14:+.3f} | +0.000 |"
    assert tables.of_classes(rows, "plain")[2] == "| U-Net | 0.429 | 0.429 |"
    assert tables.confusion_of(rows[1:2], "same scanner").tolist() == [[0.8, 0.2], [0.2, 0.8]]


def test_the_ledger_has_the_figures_of_its_command_alone(tmp_path):
    (tmp_path / "runs").mkdir()
    asked, other = Run(M3, 0, 0.01), Run(M3, 0, 1.0)
    for run in (asked, other):
        (tmp_path / "runs" / f"{run.name}.json").write_text(json.dumps(row_of(run, 8, 2)), "utf-8")
    figures = architectures.figures_of(tmp_path, [asked, Run("unet", 0)])
    assert figures == {f"{asked.name}, same scanner: mIoU": pytest.approx(8 / 12, abs=1e-4)}


def test_what_is_said_of_amounts_is_of_those_runs_alone():
    rows = [
        row_of(Run(M3, 0), 8, 2),
        row_of(Run(M3, 0, 0.01), 5, 5),
        row_of(Run(M3, 0, 0.01, "elastic"), 6, 4),
        row_of(Run(M3, 0, 0.01, tissue="context"), 10, 0),
        row_of(Run(M3, 0, gap="wide"), 6, 4),
        row_of(Run(PRETRAINED, 0, 1.0, magnifications=1), 9, 1),
    ]
    assert tables.by_share(rows)[2:] == [
        "| DMMN-M3, classes take turns (the default) | 0.333 | - | 0.667 | - |",
        "| DMMN-M3, elastic balancing (the paper's) | 0.429 | - | - | - |",
        "| DMMN-P, 20x alone | - | - | - | 0.818 |",
        "| drawn, mm2 | 0.01 | - | 0.25 | - |",
    ]
    assert tables.by_gap(rows)[2:] == ["| DMMN-M3 | 1 um | 0.667 | 0.667 |", "| DMMN-M3 | 8 um | 0.429 | 0.429 |"]


def test_classes_that_are_hardly_there_are_named_and_left_out():
    """Of 1000 pixels 9 are y, which would make the mean (990/999 + 0)/2."""
    row = row_of(Run(M3, 0), 0, 0)
    row["confusion"]["same scanner"] = {"a": [[990, 1], [9, 0]]}
    assert tables.metrics_of(row).mean_iou == 990 / 991
    assert tables.left_out(row, "same scanner") == ["y"]
    assert tables.of_classes([row], "plain")[2:] == [
        "| DMMN-M3 | 0.999 | - |", "", "Left out, with less than 1 % of the pixels: y.",
    ]  # fmt: skip
    row["confusion"]["same scanner"] = {"a": [[989, 1], [10, 0]]}
    assert tables.left_out(row, "same scanner") == []


def test_stroma_beside_carcinoma_is_what_a_target_cannot_see():
    generator = slides.demo_generator()
    truth = np.full((4, 600), generator.STROMA, np.uint8)
    truth[:, :10], truth[:, -5:] = generator.CARCINOMA, generator.BENIGN
    found = slides.beside_carcinoma(truth)
    last = len(generator.CLASSES) + 1
    assert (found[:, 10:209] == last).all() and (found[:, 210:595] == generator.STROMA).all()
    assert (found[:, :10] == generator.CARCINOMA).all() and (found[:, -5:] == generator.BENIGN).all()
    assert slides.classes_of("context").names[last - 1] == slides.BESIDE
    assert slides.BESIDE_PX > 256 / 2


def test_another_scanner_changes_colours_and_nothing_else():
    pixels = np.full((64, 64, 3), 244, np.uint8)
    eosin = 245 * np.exp(-0.6 * slides.DYES[1])
    pixels[:, 32:] = eosin
    other = slides.scanned_elsewhere(pixels, np.random.default_rng(0))
    assert other.shape == pixels.shape and other.dtype == np.uint8
    assert np.abs(other[:, :24].reshape(-1, 3).mean(0) - slides.OTHER_GLASS).max() < 2
    assert np.abs(other[:, 40:].reshape(-1, 3).mean(0) - eosin).max() > 10


@pytest.mark.parametrize(("gap", "free"), [("thin", 2), ("wide", 16)])
def test_gaps_are_left_free_on_both_sides_of_a_border(gap, free):
    truth = np.where(np.arange(400)[None] < 200, 1, 2).repeat(400, 0).astype(np.uint8)
    slide = drawn.TruthSlide("s", np.zeros((400, 400, 3), np.uint8), truth, 0.5, drawn.TILE_CLASSES)
    found = drawn.draw_share(slide, 1.0, np.random.default_rng(0), 150, slides.GAPS_PX[gap])
    assert not found[:, 200 - free : 200 + free].any()
    assert found[:, 200 - free - 1].any() and found[:, 200 + free].any()


def test_models_are_judged_in_the_middle_of_a_slide(monkeypatch):
    whole = np.arange(36, dtype=np.uint8).reshape(6, 6)
    monkeypatch.setattr(slides, "_pixels", lambda _: whole[..., None].repeat(3, 2))
    monkeypatch.setattr(slides, "_truth", lambda _: whole)
    pixels, truth = slides.Workplace(Path(), test_px=2).judged("a", "plain")
    assert truth.tolist() == [[14, 15], [20, 21]] and pixels[..., 0].tolist() == truth.tolist()
    assert slides.Workplace(Path()).judged("a", "plain")[1].shape == (6, 6)


def test_what_is_there_is_not_run_again(tmp_path, monkeypatch, capsys):
    """The time is up before the last run; the second time it is the only one; a failure is written down."""
    begun: list[str] = []

    def run_all(runs, jobs, perform_one, out, end):
        for run in runs[:1]:
            begun.append(run.name)
            (out / "runs" / f"{run.name}.json").write_text(json.dumps(row_of(run, 8, 2)), "utf-8")
        return 0

    monkeypatch.setattr(architectures, "run_all", run_all)
    monkeypatch.setattr(architectures, "make_all", lambda *_: None)
    monkeypatch.setattr(architectures, "draw_all", lambda *_: [])
    command = ["x", "--quick", "--parts", "main", "--networks", f"unet,{M3}", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            architectures.main()
        assert ended.value.code == 0
    assert begun == [Run("unet", 0).name, Run(M3, 0).name]
    assert "| DMMN-M3 | +0.000 |" in (tmp_path / "tables.md").read_text("utf-8")
    assert "1 of 2 runs are there" in capsys.readouterr().out


@pytest.mark.engine
def test_a_small_comparison_from_slides_to_figures(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(Path(__file__).parents[1])  # from where its processes find it
    monkeypatch.setattr(
        "sys.argv",
        [
            "x",
            "--quick",
            "--jobs",
            "2",
            "--networks",
            f"unet,{PRETRAINED}",
            "--parts",
            "main,context",
            "--out",
            str(tmp_path),
        ],
    )
    with pytest.raises(SystemExit) as ended:
        architectures.main()
    assert (ended.value.code, [*tmp_path.glob("failed/*")]) == (0, [])
    assert len([*tmp_path.glob("runs/*.json")]) == 4
    assert not [*(tmp_path / "work").glob("*-*")]  # models go when they are judged
    text = (tmp_path / "tables.md").read_text("utf-8")
    assert "DMMN-P (not the paper's: pretrained)" in text and slides.BESIDE in text
    for name in ("architectures-confusion-1.png", "architectures-confusion-2.png", "architectures-slides.png"):
        assert (tmp_path / name).is_file()
    assert "failed" not in capfd.readouterr().out


def test_a_killed_process_ends_with_a_line(tmp_path, monkeypatch, capsys):
    """One run was being done, which is written down as failed; the others are left, and no traceback comes of it."""

    class Killed:
        """A pool whose process is killed by the first run that it is given."""

        def __init__(self, *_, **__):
            self.given = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, *_):
            if self.given:
                raise BrokenProcessPool("it was killed")
            self.given.append(Future())
            self.given[0].set_exception(BrokenProcessPool("it was killed"))
            return self.given[0]

    monkeypatch.setattr(architectures, "ProcessPoolExecutor", Killed)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = [Run("unet", seed) for seed in range(3)]
    for jobs, left in ((1, 2), (2, 2)):
        assert architectures.run_all(runs, jobs, None, tmp_path, float("inf")) == 1
        assert f"a process was killed; {left} runs are left: run the same command again" in capsys.readouterr().out
        assert [path.stem for path in (tmp_path / "failed").iterdir()] == [runs[0].name]
