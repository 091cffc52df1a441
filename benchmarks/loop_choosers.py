"""Ways of choosing what the pathologist of `benchmarks.loop` corrects next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

import dmmn_qp
from benchmarks.drawn import Labels
from benchmarks.loop_person import Work
from benchmarks.loop_tissues import Tissue
from benchmarks.prediction import labels_of
from dmmn_qp.slides.tissue import tissue_mask

MIN_TISSUE, MAX_ANNOTATED = 0.5, 0.05

Window = tuple[str, int, int, int]
"""Slide, left, top and side in px."""


@dataclass(slots=True)
class State:
    """Where a run stands.

    Attributes:
        folder: Its dataset, model and predictions.
        drawn: What is annotated of each slide.
        names: Names of the predicted labels, 1 first.
        work: What the person did.
        mm2: What they annotated.
        machine_s: Clock of training and prediction.
        cpu_s: CPU seconds of the same.
    """

    folder: Path
    drawn: dict[str, Labels]
    names: Sequence[str] = ()
    work: Work = field(default_factory=Work)
    mm2: float = 0.0
    machine_s: float = 0.0
    cpu_s: float = 0.0


def candidates(tissue: Tissue, state: State) -> list[Window]:
    """Windows on tissue and outside of what is annotated; they begin at every quarter of their side."""
    found, side = [], tissue.window_px
    for slide in tissue.train:
        small = cv2.resize(slide.pixels, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        is_tissue = tissue_mask(small).repeat(8, 0).repeat(8, 1)
        rows, columns = slide.truth.shape
        for y in range(0, rows - side + 1, side // 4):
            for x in range(0, columns - side + 1, side // 4):
                here = slice(y, y + side), slice(x, x + side)
                if is_tissue[here].mean() >= MIN_TISSUE and (state.drawn[slide.name][here] > 0).mean() <= MAX_ANNOTATED:
                    found.append((slide.name, x, y, side))
    return found


def first_apart(windows: Sequence[Window], number: int) -> list[Window]:
    """The first windows of a list that do not overlap earlier ones."""
    chosen: list[Window] = []
    for name, x, y, side in windows:
        if len(chosen) < number and all(n != name or abs(u - x) >= side or abs(v - y) >= side for n, u, v, _ in chosen):
            chosen.append((name, x, y, side))
    return chosen


def at_random(tissue: Tissue, state: State, number: int, seed: int, options: dict[str, float]) -> list[Window]:
    """Any windows."""
    windows = candidates(tissue, state)
    return first_apart([windows[i] for i in np.random.default_rng(seed).permutation(len(windows))], number)


def by_entropy(tissue: Tissue, state: State, number: int, seed: int, options: dict[str, float]) -> list[Window]:
    """The windows of highest mean entropy."""
    rasters = {s.name: labels_of(state.folder / "predictions" / f"{s.name}.uncertainty.ome.tif") for s in tissue.train}

    def entropy(window: Window) -> float:
        name, x, y, side = window
        return float(rasters[name][y : y + side, x : x + side].mean())

    return first_apart(sorted(candidates(tissue, state), key=entropy, reverse=True), number)


def by_suggest(tissue: Tissue, state: State, number: int, seed: int, options: dict[str, float]) -> list[Window]:
    """What ``dmmn-qp suggest`` says."""
    from dmmn_qp.suggesting.options import SuggestOptions
    from dmmn_qp.suggesting.stage import suggest

    fixed = {
        "regions": number,
        "window_um": tissue.window_px * tissue.train[0].mpp,
        "min_tissue": MIN_TISSUE,
        "max_annotated": MAX_ANNOTATED,
    }
    chosen = SuggestOptions.model_validate(fixed | options)
    out = state.folder / "suggestions"
    shutil.rmtree(out, ignore_errors=True)
    found = suggest(state.folder / "predictions", state.folder / "dataset", out, chosen, Quiet())
    return [(s.slide_id, int(s.region.x), int(s.region.y), tissue.window_px) for s in found]


CHOOSERS: dict[str, Callable[[Tissue, State, int, int, dict[str, float]], list[Window]]] = {
    "random": at_random,
    "uncertainty": by_entropy,
    "suggest": by_suggest,
}
"""Name -> tissue, state, number of windows, seed, options -> windows."""


def chooser_of(text: str) -> tuple[Callable[..., list[Window]], dict[str, float]]:
    """Reads ``NAME/OPTION=NUMBER/...``."""
    name, *options = text.split("/")
    return CHOOSERS[name], {key: float(value) for key, _, value in (option.partition("=") for option in options)}


class Quiet(dmmn_qp.Reporter):
    """Says nothing."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))

    def warn(self, text: str) -> None:
        """Says nothing."""
