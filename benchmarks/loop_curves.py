"""What the ledger of `benchmarks.loop` says: curves over rounds, minutes for the same mIoU, and the figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dmmn_qp.figures import plain_text

GOAL = 0.6
"""Part of the minutes of random regions that suggested ones should need."""

LEVELS = 5
"""Values of mIoU at which minutes are compared: so many even steps from the start to the best of random."""

FULL = "full"
"""Name of the run in which everything is annotated."""

COLORS = {"random": "#666666", "uncertainty": "#1b7fbd", "suggest": "#c8102e"}

Row = Mapping[str, str]
Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats, Floats]


def curve(rows: Sequence[Row], tissue: str, chooser: str, seed: str, x: str) -> tuple[Floats, Floats]:
    """Values of a column and mIoU of each round of a run."""
    of_run = [r for r in rows if (r["tissue"], r["chooser"], r["seed"]) == (tissue, chooser, seed)]
    of_run.sort(key=lambda row: int(row["round"]))
    return np.array([float(r[x]) for r in of_run]), np.array([float(r["miou"]) for r in of_run])


def seeds_of(rows: Sequence[Row], tissue: str, choosers: Sequence[str]) -> list[str]:
    """Seeds of which all choosers have been run to the end."""
    counts = Counter((r["chooser"], r["seed"]) for r in rows if r["tissue"] == tissue and r["chooser"] in choosers)
    most = max(counts.values(), default=0)
    seeds = {seed for _, seed in counts}
    return sorted(seed for seed in seeds if all(counts[chooser, seed] == most for chooser in choosers))


def mean_curve(rows: Sequence[Row], tissue: str, chooser: str, seeds: Sequence[str], x: str) -> Curve:
    """Means over seeds of x and mIoU, round by round, and the deviation of the mIoU."""
    of_seeds = [curve(rows, tissue, chooser, seed, x) for seed in seeds]
    rounds = min(len(xs) for xs, _ in of_seeds)
    xs, mious = (np.array([c[i][:rounds] for c in of_seeds]) for i in (0, 1))
    return xs.mean(axis=0), mious.mean(axis=0), mious.std(axis=0, ddof=1) if len(seeds) > 1 else 0 * mious[0]


def first_reached(xs: Floats, mious: Floats, level: float) -> float:
    """Where a curve first reaches a level, with straight lines between its rounds; infinite where it never does."""
    for i, miou in enumerate(mious):
        if miou >= level:
            if i == 0:
                return float(xs[0])
            part = (level - mious[i - 1]) / (miou - mious[i - 1])
            return float(xs[i - 1] + part * (xs[i] - xs[i - 1]))
    return float("inf")


def rising(mious: Floats) -> Floats:
    """The nearest curve that never falls, so that a lucky round is no level that was reached (isotonic regression)."""
    means: list[float] = []
    counts: list[int] = []
    for miou in mious.tolist():
        means.append(miou)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            last, number = means.pop(), counts.pop()
            means[-1] = (means[-1] * counts[-1] + last * number) / (counts[-1] + number)
            counts[-1] += number
    return np.repeat(means, counts)


def relative_minutes(random: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> list[tuple[float, float, float]]:
    """Minutes after the common start for levels that random regions reach; of each curve, what is `rising`.

    Args:
        random: Minutes and mIoU of each round with random regions; the first is the start.
        other: Those of another way of choosing, from the same start.

    Returns:
        Level, minutes with random regions, and minutes with the others; of none, where random regions gain nothing.
    """
    (minutes, mious), (their_minutes, theirs) = ((x, rising(y)) for x, y in (random, other))
    levels = np.linspace(mious[0], mious[-1], LEVELS + 1)[1:] if mious[-1] > mious[0] else []
    reached = [
        (float(level), first_reached(minutes, mious, level), first_reached(their_minutes, theirs, level))
        for level in levels
    ]
    return [(level, one - minutes[0], another - minutes[0]) for level, one, another in reached]


def minutes_table(rows: Sequence[Row], tissue: str, choosers: Sequence[str]) -> list[str]:
    """Lines of Markdown: minutes of each chooser for the same mIoU, relative to random regions."""
    seeds = seeds_of(rows, tissue, choosers)
    others = [chooser for chooser in choosers if chooser != "random"]
    if "random" not in choosers or not seeds or not others:
        return []
    lines = [f"| mIoU ({tissue}) | random, min | {' | '.join(f'{o}, min (of random)' for o in others)} |"]
    lines.append("|---" * (len(others) + 2) + "|")
    curves = {c: mean_curve(rows, tissue, c, seeds, "person_min")[:2] for c in choosers}
    compared = {o: relative_minutes(curves["random"], curves[o]) for o in others}
    for i in range(LEVELS if all(compared.values()) else 0):
        cells = [_cell(compared[o][i]) for o in others]
        level, minutes, _ = compared[others[0]][i]
        lines.append(f"| {level:.3f} | {minutes:.1f} | {' | '.join(cells)} |")
    return [*lines, "", *(verdict(rows, tissue, other, seeds, compared[other]) for other in others)]


def _cell(found: tuple[float, float, float]) -> str:
    _, minutes, other = found
    return "not reached" if np.isinf(other) else f"{other:.1f} ({other / max(minutes, 1e-9):.2f})"


def verdict(
    rows: Sequence[Row], tissue: str, other: str, seeds: Sequence[str], compared: list[tuple[float, float, float]]
) -> str:
    """A sentence on whether the goal is reached, by the median of the levels, and of each seed at its best one."""
    if not compared:
        return f"{tissue}, {other}: random regions gain nothing, so there is nothing to compare."
    of_seeds = []
    for seed in seeds:
        pairs = relative_minutes(
            curve(rows, tissue, "random", seed, "person_min"), curve(rows, tissue, other, seed, "person_min")
        )
        of_seeds.append(pairs[-1][2] / max(pairs[-1][1], 1e-9) if pairs else float("nan"))
    ratios = [theirs / max(minutes, 1e-9) for _, minutes, theirs in compared]
    ratio = float(np.median(ratios))
    said = "the goal is reached" if ratio <= GOAL else "better, not the goal" if ratio < 0.95 else "no gain"
    said = "a loss" if ratio > 1.05 else said
    each = ", ".join("never" if np.isinf(r) else f"{r:.2f}" for r in of_seeds)
    worst = "never" if np.isinf(ratio) else f"{ratio:.2f}"
    return (
        f"{tissue}, {other}: {worst} of the minutes of random regions (median of the levels; goal {GOAL}; "
        f"seeds: {len(seeds)}): {said}. "
        f"At each seed's best of random: {each}."
    )


def draw(path: Path, rows: Sequence[Row], tissues: Mapping[str, str], choosers: Sequence[str]) -> None:
    """Draws mIoU against person's minutes, mm2 and machine minutes, a row for each tissue.

    Args:
        path: The PNG.
        rows: The ledger.
        tissues: Key of each tissue -> its title.
        choosers: Those to draw.
    """
    xs = {"person_min": "person's minutes", "mm2": "mm² annotated", "machine_min": "machine minutes (clock)"}
    drawn = [t for t in tissues if seeds_of(rows, t, choosers)]
    figure = Figure(figsize=(12, 3.6 * max(1, len(drawn))), dpi=110, layout="constrained")
    axes = figure.subplots(max(1, len(drawn)), len(xs), squeeze=False, sharey="row")
    for row, tissue in zip(axes, drawn, strict=False):
        for axis, (x, name) in zip(row, xs.items(), strict=True):
            _draw_panel(axis, rows, tissue, choosers, x)
            axis.set_xlabel(name)
        row[0].set_ylabel("mIoU on unseen slides")
        row[0].set_title(tissues[tissue], loc="left")
    if drawn:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    with plain_text():
        figure.savefig(path)


def _draw_panel(axis: Any, rows: Sequence[Row], tissue: str, choosers: Sequence[str], x: str) -> None:
    """One panel: the mean of each chooser, round by round, with its spread."""
    seeds = seeds_of(rows, tissue, choosers)
    for i, chooser in enumerate(choosers):
        color = COLORS.get(chooser, f"C{i}")
        xs, means, deviations = mean_curve(rows, tissue, chooser, seeds, x)
        axis.fill_between(xs, means - deviations, means + deviations, color=color, alpha=0.12, linewidth=0)
        axis.plot(xs, means, "o-", color=color, label=chooser, markersize=4)
    full = [float(r["miou"]) for r in rows if (r["tissue"], r["chooser"]) == (tissue, FULL) and r["seed"] in seeds]
    if full:
        axis.axhline(np.mean(full), color="black", linestyle="--", linewidth=1, label="everything annotated")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
