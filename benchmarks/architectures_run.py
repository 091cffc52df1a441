"""One run of `benchmarks.architectures`: a network is trained on a dataset, and counted on the full truth of others."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

import dmmn_qp
from benchmarks.architectures_slides import (
    MPPS,
    SCANNERS,
    Gap,
    Scanner,
    TissueKey,
    Wanted,
    Workplace,
    classes_of,
    dataset_key,
    drawn_mm2,
)
from benchmarks.drawn import Labels
from benchmarks.loop_choosers import Quiet
from dmmn_qp.choices import Device
from dmmn_qp.files import write_json
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.metrics import confusion_by_name, pair_counts
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.networks.devices import choose_device
from dmmn_qp.training import stage
from dmmn_qp.training.log import TrainingLog

Balance = Literal["balanced", "elastic", "shuffled"]

M3, PRETRAINED = "dmmn-m3", "dmmn-p"
"""The paper's network, and the one on a pretrained encoder, which is not the paper's."""

PICTURED_SEED, PICTURE_STEP = 0, 3
"""Of which seed predictions are kept as pictures, and every how many px of them."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained.

    Attributes:
        network: Key of `ARCHITECTURES`.
        seed: Decides slides, what is drawn on them, and the training.
        share: Part of each class that is drawn.
        sampler: How patches are drawn for training.
        gap: How much is left free between neighbours.
        tissue: Which classes.
        magnifications: How many there are to be seen, finest first; SegNet and U-Net look at the finest in any case.
    """

    network: str
    seed: int
    share: float = 0.25
    sampler: Balance = "balanced"
    gap: Gap = "thin"
    tissue: TissueKey = "plain"
    magnifications: int = 3

    @property
    def dataset(self) -> Wanted:
        """What it learns from."""
        return self.tissue, self.share, self.gap, self.magnifications, self.seed

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.network}-{self.sampler}-{dataset_key(*self.dataset)}"

    @property
    def is_main(self) -> bool:
        """Whether it is one of the comparison of networks, and so is judged on the other scanner too, and pictured."""
        return self == Run(self.network, self.seed, tissue=self.tissue)


@dataclass(frozen=True, slots=True)
class Budget:
    """What each run may use.

    Attributes:
        steps: Optimiser steps of networks from scratch.
        epochs: After how many parts of them the network is validated, and the best kept.
        width_of_m3: Base width of the networks of several encoders; the others have twice that. None is the default
            of the device.
        device: Where it is trained.
        readers: Processes that read patches, of each run.
        small: Whether the network on a pretrained encoder learns from one view, and not from undrawn tissue.
    """

    steps: int
    epochs: int
    width_of_m3: int | None
    device: Device
    readers: int
    small: bool = False


def train_options(run: Run, budget: Budget) -> dict[str, Any]:
    """What ``train`` is given."""
    given = {"seed": run.seed, "device": budget.device, "workers": budget.readers, "sampler": run.sampler}
    if run.network == PRETRAINED:
        return {**given, "preset": "fast", **({"views": 1, "self_training": 0} if budget.small else {})}
    if budget.width_of_m3 is not None:
        given["width"] = budget.width_of_m3 * ARCHITECTURES[run.network].paper_width // ARCHITECTURES[M3].paper_width
    steps = max(1, budget.steps // budget.epochs)
    return {
        **given,
        "preset": "scratch",
        "architecture": run.network,
        "epochs": budget.epochs,
        "steps_per_epoch": steps,
    }


def perform(run: Run, budget: Budget, place: Workplace, out: Path, work: Path) -> dict[str, Any]:
    """Trains, predicts, counts, and writes ``OUT/runs/NAME.json`` when all is done."""
    begun, device = time.perf_counter(), choose_device(budget.device)
    os.environ["DMMN_QP_CACHE"] = str(work / "cache")
    dataset = Dataset(place.folder / "datasets" / dataset_key(*run.dataset))
    model = work / run.name
    shutil.rmtree(model, ignore_errors=True)
    options = train_options(run, budget)
    with without_pictures():
        dmmn_qp.train(dataset, model, slides_roots=place.folder / "slides", reporter=Quiet(), **options)
    trained = time.perf_counter()
    loaded = dmmn_qp.load_model(model)
    loaded.network.to(device)
    scanners = SCANNERS if run.is_main else SCANNERS[:1]
    judged = {scanner: judge(run, loaded, place, scanner, out) for scanner in scanners}
    row = {
        **asdict(run),
        "width": loaded.card.network.width,
        "parameters": sum(tensor.numel() for tensor in loaded.network.parameters()),
        "steps": 0 if run.network == PRETRAINED else options["epochs"] * options["steps_per_epoch"],
        "drawn_mm2": round(drawn_mm2(dataset), 4),
        "classes": list(classes_of(run.tissue).names),
        "train_s": round(trained - begun, 1),
        "predict_s": round(time.perf_counter() - trained, 1),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__,
        "confusion": judged,
    }
    shutil.rmtree(model)
    write_json(out / "runs" / f"{run.name}.json", row)
    return row


@contextmanager
def without_pictures() -> Iterator[None]:
    """While it lasts, trainings neither draw nor write reports, at which nobody looks here; models are the same."""
    with (
        patch.object(stage, "write_report", lambda *_: None),
        patch.object(stage, "describe_training_slides", lambda *_: None),
        patch.object(TrainingLog, "epoch", lambda *_: None),
    ):
        yield


def judge(run: Run, model: dmmn_qp.Model, place: Workplace, scanner: Scanner, out: Path) -> dict[str, list[list[int]]]:
    """Counts a model's predictions on the full truth of each slide of a test set: true classes x predicted ones."""
    names = classes_of(run.tissue).names
    counts = {}
    for number, name in enumerate(place.test(scanner)):
        pixels, truth = place.judged(name, run.tissue)
        found = dmmn_qp.predict_array(pixels, MPPS[0], model)
        of_truth, of_model = (dict(enumerate(known, start=1)) for known in (names, model.card.class_map.names))
        confusion = confusion_by_name(pair_counts(truth, found), of_truth, of_model, names, len(names))
        counts[name] = confusion[:, : len(names)].tolist()
        if run.is_main and run.seed == PICTURED_SEED and number == 0:
            picture(out / "predicted" / f"{run.name}-{name}.png", in_numbers_of(names, model, found))
    return counts


def in_numbers_of(names: Sequence[str], model: dmmn_qp.Model, labels: Labels) -> Labels:
    """Labels of a model in the numbers of the truth."""
    return np.array([0, *(names.index(name) + 1 for name in model.card.class_map.names)], np.uint8)[labels]


def picture(path: Path, labels: Labels) -> None:
    """Keeps labels, reduced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels[::PICTURE_STEP, ::PICTURE_STEP]).save(path, optimize=True)


def read_runs(out: Path) -> list[dict[str, Any]]:
    """What all finished runs found."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((out / "runs").glob("*.json"))]
