"""What the runs of `benchmarks.architectures` say: figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.architectures_run import M3, PICTURE_STEP, PICTURED_SEED, PRETRAINED, Run
from benchmarks.architectures_slides import SCANNERS, Scanner, Workplace, classes_of
from benchmarks.architectures_tables import (
    LINES,
    MAIN,
    NETWORKS,
    SHARES,
    TITLES,
    Row,
    chosen,
    confusion_of,
    miou,
    of_runs,
)
from dmmn_qp.figures import plain_text
from dmmn_qp.reports.batch_sheet import to_rgb

COLORS = ("#c8102e", "#1b7fbd", "#666666", "#2a9d4a", "#8a4fbf", "#d88c00")


def draw_all(folder: Path, rows: Sequence[Row], place: Workplace, out: Path) -> list[Path]:
    """Draws what there are runs for: confusion matrices, a slide through all networks, how much to draw."""
    drawn = []
    if chosen(rows, seed=PICTURED_SEED):
        for number, scanner in enumerate(SCANNERS, start=1):
            drawn.append(save(folder / f"architectures-confusion-{number}.png", confusions(rows, scanner)))
        drawn.append(save(folder / "architectures-slides.png", slides(rows, place, out)))
    if any(row["share"] != MAIN["share"] for row in rows):
        drawn.append(save(folder / "how-much-to-draw.png", amount(rows)))
    return drawn


def save(path: Path, figure: Figure) -> Path:
    """Writes a figure."""
    with plain_text():
        figure.savefig(path, dpi=80)
    return path


def confusions(rows: Sequence[Row], scanner: Scanner) -> Figure:
    """Confusion matrices, row by row in %, of all networks: Figures 12 and 13."""
    there = [network for network in NETWORKS if chosen(rows, network=network)]
    figure = Figure((15, 8.4), layout="constrained")
    figure.suptitle(f"Predicted as (columns), % of what it is (rows), {scanner}")
    axes = figure.subplots(2, 4, squeeze=False).ravel()
    for axis, network in zip(axes, there, strict=False):
        runs = chosen(rows, network=network)
        shares, names = 100 * confusion_of(runs, scanner), runs[0]["classes"]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (y, x), share in np.ndenumerate(shares):
            axis.text(x, y, f"{share:.0f}", ha="center", va="center", color="white" if share > 55 else "black")
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(TITLES[network], fontsize=10)
    for axis in axes[len(there) :]:
        axis.set_visible(False)
    return figure


def slides(rows: Sequence[Row], place: Workplace, out: Path) -> Figure:
    """A test slide of each scanner through all networks, as in Figures 6 to 11."""
    there = [network for network in NETWORKS if chosen(rows, network=network, seed=PICTURED_SEED)]
    columns = 2 + len(there)
    figure = Figure((2.4 * columns, 5.9), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    classes, step = classes_of("plain"), PICTURE_STEP
    colors = np.array([(255, 255, 255), *(c.color for c in classes.classes)], np.uint8)
    for row, scanner in zip(axes, SCANNERS, strict=True):
        name = place.test(scanner)[0]
        pixels, truth = place.judged(name, "plain")
        shown = [("slide", pixels[::step, ::step]), ("truth", colors[truth][::step, ::step])]
        for network in there:
            run = Run(network, PICTURED_SEED)
            labels = np.asarray(Image.open(out / "predicted" / f"{run.name}-{name}.png"))
            shown.append((TITLES[network].partition(" (")[0], colors[labels]))
        for axis, (title, picture) in zip(row, shown, strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(title, fontsize=10)
        row[0].set_ylabel(scanner)
    swatches = [Patch(color=to_rgb(c.color)) for c in classes.classes]
    figure.legend(swatches, classes.names, loc="outside lower center", ncols=len(swatches), frameon=False)
    return figure


def amount(rows: Sequence[Row]) -> Figure:
    """Means of IoU against the share that is drawn: balancing, and networks; thin gaps against wide ones.

    What was run with a single share is no line.
    """
    titles = [*LINES]
    there = [title for title in titles if sum(bool(chosen(rows, share=s, **LINES[title])) for s in SHARES) > 1]
    panels = {"balancing": titles[:3], "networks": [titles[0], *titles[3:]]}
    shown = {panel: of for panel, names in panels.items() if len(of := [n for n in names if n in there]) > 1}
    figure = Figure((4 * len(shown) + 3.5, 4.4), layout="constrained")
    axes = figure.subplots(1, len(shown) + 1, width_ratios=[4] * len(shown) + [2], sharey=True, squeeze=False)[0]
    for axis, (panel, names) in zip(axes, shown.items(), strict=False):
        for name in names:
            _draw_line(axis, rows, name, COLORS[titles.index(name)])
        axis.set_xscale("log")
        axis.set_xticks(SHARES, [f"{100 * share:g} %" for share in SHARES])
        axis.set_xlabel("share of each class that is drawn")
        axis.set_title(panel, loc="left")
        axis.legend(loc="lower right", fontsize=8, frameon=False)
    axes[0].set_ylabel("mIoU on unseen slides")
    _draw_gaps(axes[-1], rows)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_line(axis: Any, rows: Sequence[Row], title: str, color: str) -> None:
    """A mean with its spread; and each seed as a dot."""
    reached = {share: _mious(chosen(rows, share=share, **LINES[title])) for share in SHARES}
    there = [share for share in SHARES if reached[share].size]
    means = np.array([reached[share].mean() for share in there])
    deviations = np.array([reached[share].std() for share in there])
    axis.fill_between(there, means - deviations, means + deviations, color=color, alpha=0.12, linewidth=0)
    axis.plot(there, means, "-", color=color, label=title)
    for share in there:
        axis.plot([share] * reached[share].size, reached[share], ".", color=color, markersize=5)


def _draw_gaps(axis: Any, rows: Sequence[Row]) -> None:
    """Of both networks, a dot for each seed and a stroke for their mean."""
    for network, color in ((M3, COLORS[0]), (PRETRAINED, COLORS[4])):
        if not chosen(rows, network=network, gap="wide"):
            continue
        for x, gap in enumerate(("thin", "wide")):
            reached = _mious(chosen(rows, network=network, gap=gap))
            axis.plot([x] * reached.size, reached, "o", color=color, alpha=0.5)
            if reached.size:
                axis.plot([x - 0.2, x + 0.2], [reached.mean()] * 2, color=color)
    axis.set_xticks([0, 1], ["1 um", "8 um"])
    axis.set_xlim(-0.6, 1.6)
    axis.set_xlabel("left free inside borders")
    axis.set_title("gaps, 25 % drawn", loc="left")


def _mious(runs: Sequence[Row]) -> NDArray[np.float64]:
    return np.array(of_runs(runs, miou))
