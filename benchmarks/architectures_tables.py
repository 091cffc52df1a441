"""What the runs of `benchmarks.architectures` say: tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.architectures_run import M3, PRETRAINED, Run
from benchmarks.architectures_slides import SCANNERS, Scanner
from dmmn_qp.labels.metrics import Metrics

Row = dict[str, Any]

SIX = ("segnet", "unet", "dmmn-s2", "dmmn-ms", "dmmn-m2s", M3)
NETWORKS = (*SIX, PRETRAINED)
TITLES = {
    "segnet": "SegNet",
    "unet": "U-Net",
    "dmmn-s2": "DMMN-S2",
    "dmmn-ms": "DMMN-MS",
    "dmmn-m2s": "DMMN-M2S",
    M3: "DMMN-M3",
    PRETRAINED: "DMMN-P (not the paper's: pretrained)",
}
SHARES = (0.01, 0.05, 0.25, 1.0)

MAIN: dict[str, object] = {
    name: value for name, value in asdict(Run(M3, seed=0)).items() if name not in ("network", "seed")
}
"""What the runs of the main comparison have in common."""

LEAST_PART = 0.01
"""A class with less of the pixels of a test set is left out there, as the paper does: by chance it would weigh as much
as all others.
"""


def metrics_of(row: Row, scanner: Scanner = "same scanner") -> Metrics:
    """Figures of a run on all slides of a test set together; classes that are hardly there have none."""
    counts = np.sum([np.array(of_slide, np.int64) for of_slide in row["confusion"][scanner].values()], axis=0)
    counts[counts.sum(axis=1) < LEAST_PART * counts.sum()] = 0
    return Metrics.from_confusion(counts)


def left_out(row: Row, scanner: Scanner) -> list[str]:
    """Names of the classes that have no figures."""
    return [name for name, iou in zip(row["classes"], metrics_of(row, scanner).iou, strict=True) if np.isnan(iou)]


def chosen(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Runs of which all that is said is true, by seed; of the main comparison where nothing else is said."""
    right = MAIN | wanted
    return sorted((row for row in rows if all(row[k] == v for k, v in right.items())), key=lambda row: row["seed"])


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def of_runs(runs: Sequence[Row], figure: Callable[[Metrics], Any], scanner: Scanner = "same scanner") -> list[Any]:
    """A figure of each run."""
    return [figure(metrics_of(row, scanner)) for row in runs]


def read_paper(path: Path | None) -> dict[str, str]:
    """The mIoU of the paper's Table 3 by network, of a table network,miou; empty where there is none."""
    if path is None:
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["network"]: row["miou"] for row in csv.DictReader(file)}


def comparison(rows: Sequence[Row], tissue: str, paper: dict[str, str]) -> list[str]:
    """The networks side by side, as the paper's Table 3: Markdown."""
    beside = tissue == "plain" and bool(paper)
    lines = [
        f"| network | parameters | {'mIoU, paper | ' if beside else ''}mIoU | recall | precision | mIoU, other scanner "
        "| training, s | runs |",
        "|---" * (8 + beside) + "|",
    ]
    for network in NETWORKS:
        runs = chosen(rows, network=network, tissue=tissue)
        if not runs:
            continue
        figures = [spread(of_runs(runs, of)) for of in (miou, lambda m: m.mean_recall, lambda m: m.mean_precision)]
        elsewhere = spread(of_runs(runs, miou, "other scanner"))
        cells = [TITLES[network], f"{runs[0]['parameters'] / 1e6:.2f} M", *figures, elsewhere]
        if beside:
            cells.insert(2, paper.get(network, "-"))
        seconds = np.mean([row["train_s"] for row in runs])
        lines.append(f"| {' | '.join(cells)} | {seconds:.0f} | {len(runs)} |")
    return lines


def of_classes(rows: Sequence[Row], tissue: str, scanner: Scanner = "same scanner") -> list[str]:
    """IoU of each class, mean of the seeds: Markdown."""
    lines: list[str] = []
    for network in NETWORKS:
        runs = chosen(rows, network=network, tissue=tissue)
        if runs and not lines:
            lines = [f"| IoU, {scanner} | {' | '.join(runs[0]['classes'])} |"]
            lines += ["|---" * (1 + len(runs[0]["classes"])) + "|"]
        if runs:
            ious = np.mean(of_runs(runs, lambda m: m.iou, scanner), axis=0)
            cells = ["-" if np.isnan(iou) else f"{iou:.3f}" for iou in ious]
            lines.append(f"| {TITLES[network]} | {' | '.join(cells)} |")
    missing = left_out(chosen(rows, tissue=tissue)[0], scanner)
    if missing:
        lines += ["", f"Left out, with less than {100 * LEAST_PART:g} % of the pixels: {', '.join(missing)}."]
    return lines


def against_single(rows: Sequence[Row], tissue: str) -> list[str]:
    """How much more each network reaches than U-Net on the same slides, seed by seed: Markdown."""
    lines = ["| mIoU above U-Net's, by seed | same scanner | other scanner |", "|---|---|---|"]
    base = {row["seed"]: row for row in chosen(rows, network="unet", tissue=tissue)}
    for network in NETWORKS:
        runs = [row for row in chosen(rows, network=network, tissue=tissue) if row["seed"] in base]
        if network == "unet" or not runs:
            continue
        cells = [
            ", ".join(f"{miou(metrics_of(r, s)) - miou(metrics_of(base[r['seed']], s)):+.3f}" for r in runs)
            for s in SCANNERS
        ]
        lines.append(f"| {TITLES[network]} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


LINES: dict[str, dict[str, object]] = {
    "DMMN-M3, classes take turns (the default)": {"network": M3},
    "DMMN-M3, elastic balancing (the paper's)": {"network": M3, "sampler": "elastic"},
    "DMMN-M3, no balancing": {"network": M3, "sampler": "shuffled"},
    "U-Net, 20x alone": {"network": "unet"},
    "DMMN-P (pretrained)": {"network": PRETRAINED},
    "DMMN-P, 20x alone": {"network": PRETRAINED, "magnifications": 1},
}
"""What is compared over shares of the area that is drawn."""


def by_share(rows: Sequence[Row]) -> list[str]:
    """Means of IoU against the share of the area that is drawn: Markdown."""
    lines = [f"| mIoU | {' | '.join(f'{100 * share:g} %' for share in SHARES)} |", "|---" * (1 + len(SHARES)) + "|"]
    for title, wanted in LINES.items():
        cells = [spread(of_runs(chosen(rows, share=share, **wanted), miou)) for share in SHARES]
        if set(cells) != {"-"}:
            lines.append(f"| {title} | {' | '.join(cells)} |")
    areas = [[row["drawn_mm2"] for row in chosen(rows, share=share)] for share in SHARES]
    lines.append(f"| drawn, mm2 | {' | '.join(f'{np.mean(mm2):.2f}' if mm2 else '-' for mm2 in areas)} |")
    return lines


def by_gap(rows: Sequence[Row]) -> list[str]:
    """Thin gaps between neighbours against wide ones, at the same share of the area: Markdown."""
    lines = ["| 25 % drawn | left free inside borders | mIoU | each seed |", "|---|---|---|---|"]
    for network in (M3, PRETRAINED):
        for gap, width in (("thin", "1 um"), ("wide", "8 um")):
            reached = of_runs(chosen(rows, network=network, gap=gap), miou)
            if reached and chosen(rows, network=network, gap="wide"):
                each = ", ".join(f"{value:.3f}" for value in reached)
                lines.append(f"| {TITLES[network].partition(' (')[0]} | {width} | {spread(reached)} | {each} |")
    return lines if len(lines) > 2 else []


def everything(rows: Sequence[Row], paper: dict[str, str]) -> str:
    """All tables, as Markdown."""
    parts = [["# Networks compared", "", _machine(rows)]]
    for tissue, title in (("plain", "The paper's six classes"), ("context", "Seven classes, one of them by context")):
        if any(chosen(rows, tissue=tissue, network=network) for network in SIX):
            parts += [[f"## {title}"], comparison(rows, tissue, paper), against_single(rows, tissue)]
            parts += [of_classes(rows, tissue), of_classes(rows, tissue, "other scanner")]
    if any(row["share"] != MAIN["share"] or row["sampler"] != MAIN["sampler"] for row in rows):
        parts += [["## How much to draw"], by_share(rows)]
    parts.append(by_gap(rows))
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def confusion_of(runs: Sequence[Row], scanner: Scanner) -> NDArray[np.float64]:
    """Part of each true class that was predicted as each class, over all slides and seeds."""
    counts = np.sum([metrics_of(row, scanner).confusion for row in runs], axis=0)
    return np.asarray(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), np.float64)


def miou(metrics: Metrics) -> float:
    return metrics.mean_iou


def _machine(rows: Sequence[Row]) -> str:
    machines = sorted({f"{row['machine']}, torch {row['torch']}" for row in rows})
    steps = sorted({row["steps"] for row in rows if row["network"] != PRETRAINED})
    told = " or ".join(str(number) for number in steps)
    return f"{len(rows)} runs of {told} steps; {'; '.join(machines)}."
