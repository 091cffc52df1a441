"""What the presets reach on real tissue, beside what colour alone says: mIoU on the full truth of tiles left out.

    python -m benchmarks.real_tissue --tiles FOLDER [--out FOLDER] [--seeds 3] [--presets fast,scratch] [--quick]

FOLDER has ``images/`` and ``masks/`` (bright from 128 on: tumour; the rest is "other": stroma, lymphocytes, keratin,
glass), such as the ten 640 px tiles at 20x of Freire et al. 2022 (oral cancer, doi:10.17632/9bsc36jyrt.1, CC BY 4.0).
Each tile becomes a slide of its own, with glass about it, because its real surroundings are not known; nothing is
drawn and nothing is judged outside of it. Of ten tiles, three are for testing, two for validation and five for
training; each seed tests others, until all had their turn.

What is drawn, on training and validation tiles: of each class a fifth of its area, as parts of about 50 um that the
borders of a Voronoi diagram of random points cut out, each 1 um inside its border, whole and right. So borders between
classes are drawn from both sides where both parts happen to be chosen, as the paper's pathologists did. Nobody chose
places that look instructive, and nobody made a mistake.

The presets are run by the user's own commands: import, train, predict, evaluate. CPU seconds are of these commands as
whole processes, starting Python included, with an empty cache of features. The baselines have the same labels of the
training tiles and know nothing but colour: of each pixel its optical density, and blurs of it and of its spread at 1 to
16 px. "colour-qda" lays a Gaussian with its own covariance through each class; "pixel-mlp" is a network with two hidden
layers of 64 on one pixel, about what a pixel classifier in QuPath is. Every run is a row of OUT/runs.csv; what is there
is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawn import (
    Labels,
    TruthSlide,
    draw_share,
    read_rows,
    read_tiles,
    split_tiles,
    write_annotations,
    write_rows,
    write_slide,
    write_truth,
)
from benchmarks.ledger import write_run
from benchmarks.pixel_classifiers import Classifier, color_features, mlp, qda
from dmmn_qp.folders.provenance import now
from dmmn_qp.labels.metrics import pair_counts

SHARE = 0.2
GLASS_PX = 192
PIXELS_OF_CLASS = 20_000
"""Drawn pixels of a class that a baseline learns from, at most."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """What one seed gives everybody: the tiles of each split, and what is drawn on each but those for testing."""

    train: list[TruthSlide]
    val: list[TruthSlide]
    test: list[TruthSlide]
    drawn: dict[str, Labels]

    @classmethod
    def of_seed(cls, tiles: Sequence[TruthSlide], seed: int) -> Tissue:
        """Splits tiles and draws on them."""
        train, val, test = split_tiles(tiles, seed)
        rng = np.random.default_rng(1000 + seed)
        return cls(train, val, test, {tile.name: draw_share(tile, SHARE, rng) for tile in tiles})

    def drawn_share(self) -> float:
        """Part of the training tiles that is drawn."""
        return float(np.mean([np.mean(self.drawn[tile.name] > 0) for tile in self.train]))


# ------------------------------------------------------------------------------------------ by the user's commands


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds."""

    cpu: float
    clock: float


def dmmn_qp(*arguments: object, cache: Path) -> Cost:
    """Runs a command as a user would.

    Raises:
        RuntimeError: It fails.
    """
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "dmmn_qp", *map(str, arguments)]
    environment = {**os.environ, "DMMN_QP_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(cpu, time.perf_counter() - start)


def write_all(folder: Path, tissue: Tissue) -> None:
    """Writes slides, truth, annotations and the table of splits."""
    splits = [("train", tissue.train), ("val", tissue.val), ("test", tissue.test)]
    slides = [tile.on_glass(GLASS_PX) for _, tiles in splits for tile in tiles]
    for slide in slides:
        write_slide(folder / "slides", slide)
        write_annotations(folder / "annotations", slide, np.pad(tissue.drawn[slide.name], GLASS_PX))
    write_truth(folder / "truth", slides)
    write_rows(folder / "split.csv", [{"slide": t.name, "split": split} for split, tiles in splits for t in tiles])


def by_commands(folder: Path, tissue: Tissue, seed: int, train: Sequence[str]) -> dict[str, object]:
    """Imports, trains, predicts and evaluates in a folder, and reads the figures."""
    write_all(folder, tissue)
    names, cache, dataset, model, out = [t.name for t in tissue.test], folder / "cache", *places(folder)
    dmmn_qp(
        *("import", folder / "slides", "--annotations", folder / "annotations", "--split-file", folder / "split.csv"),
        *("--out", dataset, "--overwrite"),
        cache=cache,
    )
    training = dmmn_qp(
        "train", "--dataset", dataset, "--out", model, "--seed", seed, "--overwrite", *train, cache=cache
    )
    prediction = dmmn_qp(
        "predict", *names, "--dataset", dataset, "--model", model, "--out", out, "--overwrite", cache=cache
    )
    dmmn_qp(
        *("evaluate", "--predictions", out, "--dataset", dataset, "--truth", folder / "truth"),
        *("--json", folder / "evaluation.json", "--out", folder / "evaluation", "--overwrite"),
        cache=cache,
    )
    found = json.loads((folder / "evaluation.json").read_text("utf-8"))["truth"]
    return figures({name: of["iou"] for name, of in found["classes"].items()}, training, prediction)


def places(folder: Path) -> tuple[Path, Path, Path]:
    """Where dataset, model and predictions of a run are."""
    return folder / "dataset", folder / "model", folder / "predictions"


def figures(ious: dict[str, float], training: Cost, prediction: Cost) -> dict[str, object]:
    """What a row of the ledger says of a run."""
    return {
        "miou": round(float(np.mean([*ious.values()])), 4),
        **{f"iou_{name}": round(iou, 4) for name, iou in ious.items()},
        "train_cpu_s": round(training.cpu, 1),
        "train_s": round(training.clock, 1),
        "predict_cpu_s": round(prediction.cpu, 1),
        "predict_s": round(prediction.clock, 1),
    }


# ------------------------------------------------------------------------------------------------ colour alone


def by_color(tissue: Tissue, seed: int, method: Classifier) -> dict[str, object]:
    """Learns from the drawn pixels of the training tiles, equally many of each class, and predicts the test tiles."""
    start, cpu = time.perf_counter(), time.process_time()
    rng = np.random.default_rng(seed)
    features = np.concatenate([color_features(tile.pixels) for tile in tissue.train])
    labels = np.concatenate([tissue.drawn[tile.name].ravel() for tile in tissue.train])
    number = min(PIXELS_OF_CLASS, *(np.count_nonzero(labels == label) for label in np.unique(labels[labels > 0])))
    chosen = np.concatenate(
        [rng.choice(np.flatnonzero(labels == label), number, replace=False) for label in np.unique(labels[labels > 0])]
    )
    mean, deviation = features[chosen].mean(axis=0), features[chosen].std(axis=0) + 1e-6
    classify = method((features[chosen] - mean) / deviation, labels[chosen], seed)
    training = Cost(time.process_time() - cpu, time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    counts = np.zeros((256, 256), np.int64)
    for tile in tissue.test:
        found = classify((color_features(tile.pixels) - mean) / deviation)
        counts += pair_counts(tile.truth, found.reshape(tile.truth.shape))
    ious = {name: iou_of(counts, label) for label, name in enumerate(tissue.train[0].classes.names, start=1)}
    return figures(ious, training, Cost(time.process_time() - cpu, time.perf_counter() - start))


def iou_of(counts: NDArray[np.int64], label: int) -> float:
    """IoU of a label, of pixels that have a true one."""
    right, true, found = counts[label, label], counts[label].sum(), counts[1:, label].sum()
    return float(right / (true + found - right))


# ----------------------------------------------------------------------------------------------------- all runs

BASELINES: dict[str, Classifier] = {"colour-qda": qda, "pixel-mlp": mlp}

PRESETS: dict[str, dict[str, Sequence[str]]] = {
    "fast": {"fast --views 1": ("--views", "1"), "fast": ()},
    "scratch": {"scratch": ("--preset", "scratch")},
}
"""Preset -> name of a run -> what ``train`` is given beyond the defaults."""

QUICK: dict[str, Sequence[str]] = {
    "fast": ("--self-training", "0"),
    "scratch": ("--epochs", "1", "--steps-per-epoch", "2"),
}


def runs_of(presets: Sequence[str], quick: bool) -> dict[str, Callable[[Path, Tissue, int], dict[str, object]]]:
    """All that is to be compared, by name."""
    found: dict[str, Callable[[Path, Tissue, int], dict[str, object]]] = {}
    for name, method in BASELINES.items():
        found[name] = lambda folder, tissue, seed, method=method: by_color(tissue, seed, method)
    for preset in presets:
        for name, given in list(PRESETS[preset].items())[: 1 if quick else None]:
            options = (*given, *(QUICK[preset] if quick else ()))
            found[name] = lambda folder, tissue, seed, options=options: by_commands(folder, tissue, seed, options)
    return found


def table(rows: Sequence[dict[str, str]], classes: Sequence[str]) -> str:
    """Means and spreads over the seeds, as Markdown."""
    lines = [
        f"| | mIoU, mean ± deviation | each seed | {' | '.join(classes)} | training, CPU s (clock) "
        "| prediction, CPU s |",
        "|---" * (len(classes) + 5) + "|",
    ]
    for name in dict.fromkeys(row["run"] for row in rows):
        of_run = [row for row in rows if row["run"] == name]
        mean = {key: np.mean([float(row[key]) for row in of_run]) for key in of_run[0] if key not in ("run", "test")}
        mious = [float(row["miou"]) for row in of_run]
        spread = f" ± {np.std(mious, ddof=1):.2f}" if len(mious) > 1 else ""
        ious = " | ".join(f"{mean[f'iou_{name}']:.2f}" for name in classes)
        lines.append(
            f"| {name} | {mean['miou']:.2f}{spread} | {', '.join(f'{m:.2f}' for m in mious)} | {ious} "
            f"| {mean['train_cpu_s']:.0f} ({mean['train_s']:.0f}) | {mean['predict_cpu_s']:.0f} |"
        )
    return "\n".join(lines)


def figures_of(rows: Sequence[Mapping[str, str]], runs: Collection[str], seeds: Collection[int]) -> dict[str, float]:
    """Figures of these runs, by name; other rows are of another command."""
    named = (("miou", "mIoU"), ("train_cpu_s", "training, CPU s"), ("predict_cpu_s", "prediction, CPU s"))
    return {
        f"{row['run']}, seed {row['seed']}: {what}": float(row[key])
        for row in rows
        if row["run"] in runs and int(row["seed"]) in seeds
        for key, what in named
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--out", type=Path, default=Path("real-tissue"), help="folder for the runs and their ledger")
    parser.add_argument("--seeds", type=int, default=3, help="how many choices of tiles and drawings")
    parser.add_argument("--presets", default="fast,scratch", help="those to run beside the baselines")
    parser.add_argument("--quick", action="store_true", help="one seed, trainings of a few steps; no figures of worth")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    started = now()
    tiles, ledger = read_tiles(given.tiles), given.out / "runs.csv"
    rows = read_rows(ledger)
    runs = runs_of([preset for preset in given.presets.split(",") if preset], given.quick)
    seeds = range(1 if given.quick else given.seeds)
    for name, run in runs.items():
        for seed in seeds:
            if any(row["run"] == name and row["seed"] == str(seed) for row in rows):
                continue
            tissue = Tissue.of_seed(tiles, seed)
            folder = given.out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"
            row = {"run": name, "seed": seed, "test": " ".join(tile.name for tile in tissue.test)}
            row |= {"drawn_share": round(tissue.drawn_share(), 4), **run(folder, tissue, seed)}
            rows.append({key: str(value) for key, value in row.items()})
            write_rows(ledger, rows)
            print(f"{name}, seed {seed}: mIoU {row['miou']}", flush=True)
    print(f"\n{table(rows, tiles[0].classes.names)}")
    write_run(given.out, "real_tissue", given, figures_of(rows, runs, seeds), started)


if __name__ == "__main__":
    main()
