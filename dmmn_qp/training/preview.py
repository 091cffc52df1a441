"""`dmmn-qp train --show-batch` and ``--dry-run``: what a training will see and take, without training."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dmmn_qp.console import Reporter, duration
from dmmn_qp.features.cache import FeatureCache
from dmmn_qp.features.computing import TILE_PX
from dmmn_qp.files import new_file
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.draws import Draw, class_weights
from dmmn_qp.labels.patches import class_pixels, training_pixels
from dmmn_qp.networks.devices import choose_device, computing, memory_gib
from dmmn_qp.reports.batch_sheet import SheetCell, draw_batch_sheet
from dmmn_qp.slides.cached import DEFAULT_BUDGET_BYTES, MIB
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import as_toml
from dmmn_qp.training.announcing import say_plan
from dmmn_qp.training.augment import AugmentRules
from dmmn_qp.training.examples import PatchExamples
from dmmn_qp.training.fine_tuning import inherited_from
from dmmn_qp.training.frozen import HeadTraining
from dmmn_qp.training.launch import make_fabric
from dmmn_qp.training.learner import Learner
from dmmn_qp.training.log import wants_events
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.plan import (
    TrainingPlan,
    make_batches,
    make_plan,
    reading_processes,
    training_draws,
)

SHOWN_PATCHES = 6

_TIMED_STEPS = 3

SECONDS_OF_A_FIT = 10
"""What fitting the head takes, about, and judging it, once the encoder has looked."""


def show_batch(
    dataset_folder: Path,
    path: Path,
    options: TrainOptions,
    reporter: Reporter,
    *,
    slides_roots: Sequence[SlidesRoot] = (),
) -> None:
    """Draws some training patches as they are, augmented, and augmented and deformed; trains nothing.

    The targets are not moved, so that the versions of a patch can be compared.

    Args:
        dataset_folder: A dataset of `dmmn-qp import`.
        path: PNG to write.
        options: Resolved options.
        reporter: Where to report.
        slides_roots: Where to look for slides that have been moved.

    Raises:
        DatasetError: The dataset is missing, damaged, or has a class without a training pixel.
        SlideError: A slide cannot be found or read.
    """
    dataset = Dataset(dataset_folder)
    patches = dataset.patches()
    training = [p for p in patches if p.split == "train"]
    training_pixels(patches, dataset.class_map)
    draws = training_draws(training, dataset.class_map, options)
    shown: dict[int, Draw] = {}
    for draw in draws.of_epoch(1, draws.pass_length):
        shown.setdefault(draw.patch, draw)
    rules = AugmentRules(options.color, options.zoom)
    reduction = options.reduction
    if options.start_from is not None:
        reduction = inherited_from(options.start_from, dataset.patch_spec, dataset.class_map).convention.reduction
    unchanged, augmented_ones = (
        PatchExamples(dataset, training, augment=augment, slides_roots=slides_roots, reduction=reduction)
        for augment in (None, rules)
    )
    rows, names = [], []
    for draw in list(shown.values())[:SHOWN_PATCHES]:
        versions = [("as it is", unchanged, draw)]
        versions += [
            (title, augmented_ones, replace(draw, deformed=deformed))
            for title, deformed in (("augmented", False), ("deformed copy", True))
        ]
        rows.append([SheetCell(title, source[d].images, source[d].targets[0]) for title, source, d in versions])
        names.append(f"{training[draw.patch].slide_id} ({training[draw.patch].x}, {training[draw.patch].y})")
    picture = draw_batch_sheet(rows, names, dataset.class_map, dataset.patch_spec)
    with new_file(path) as temporary:
        temporary.write_bytes(picture)
    reporter.say(f"Wrote {path}")


def estimate(
    dataset_folder: Path, options: TrainOptions, reporter: Reporter, *, slides_roots: Sequence[SlidesRoot] = ()
) -> None:
    """Says what a training would do, and how long and how much memory it would take, from a few steps of it.

    What is printed is a configuration: all but the options are comments.

    Raises:
        DmmnQpError: As `train`; nothing is written.
    """
    wants_events(options.tensorboard)
    dataset = Dataset(dataset_folder)
    device = choose_device(options.device)
    plan = make_plan(dataset, options, device, reporter.as_comments())
    with computing(plan.options.threads):
        _estimate(dataset, plan, device, reporter, slides_roots)


def _estimate(
    dataset: Dataset, plan: TrainingPlan, device: torch.device, printer: Reporter, slides_roots: Sequence[SlidesRoot]
) -> None:
    """Says it of what is planned."""
    reporter = printer.as_comments()
    fabric = make_fabric(plan.options.model_copy(update={"devices": 1}), device)
    learner = Learner(dataset, plan, fabric)
    say_plan(plan, learner.module, device, 1, dataset, reporter)
    for line in as_toml("train", plan.options).split("\n"):
        printer.say(line)
    judged = (plan.validation[draw.patch] for draw in plan.validation_draws)  # a copy counts as its original does
    rows = [
        (name, f"{counts[0]:,}", f"{counts[1]:,}", f"{weight:.3f}")
        for name, counts, weight in zip(
            dataset.class_map.names,
            zip(plan.draws.label_counts, class_pixels(judged, dataset.class_map), strict=True),
            class_weights(plan.draws.label_counts, plan.options.class_weights),
            strict=True,
        )
    ]
    reporter.table(("class", "training px", "validation px", "weight"), rows)
    tried = _Tried(dataset, plan, learner, fabric, slides_roots, reporter)
    seconds, later_bytes = tried.head() if plan.rounds else (0.0, 0)
    seconds += tried.epochs() if plan.epochs else 0.0
    in_ram = device.type != "cuda"
    gib = memory_gib() + ((later_bytes + readers_bytes(plan)) / 2**30 if in_ram else 0)
    memory = f"{gib:.1f} GiB of {'' if in_ram else 'GPU '}memory"
    reporter.say(f"  about {duration(seconds)} in all, and {memory}; nothing was written")


def readers_bytes(plan: TrainingPlan) -> int:
    """What the processes take that read patches, once some have ended; where that is not known, their tiles alone."""
    if not plan.epochs:
        return 0
    workers = reading_processes(plan.options)
    try:
        import resource
    except ImportError:  # Windows
        return workers * (plan.options.cache_mib or DEFAULT_BUDGET_BYTES // MIB) * MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


@dataclass(frozen=True, slots=True)
class _Tried:
    """A training of which a little is done, to know how long it takes."""

    dataset: Dataset
    plan: TrainingPlan
    learner: Learner
    fabric: Fabric
    slides_roots: Sequence[SlidesRoot]
    reporter: Reporter

    def head(self) -> tuple[float, int]:
        """Seconds until the head has learned, from tiles that the encoder looks at, and bytes that it takes then."""
        nowhere = FeatureCache(None, 0, self.reporter)
        network = self.learner.module.stemmed
        head = HeadTraining(self.dataset, self.plan, network, self.fabric, self.slides_roots, self.reporter, nowhere)
        tiles, tile = head.cost()
        self.reporter.say(
            f"  the encoder looks at {tiles} tiles of {TILE_PX} px, {tile:.2f} s each unless it has before"
        )
        return tiles * tile + self.plan.rounds * SECONDS_OF_A_FIT, head.cells_bytes

    def epochs(self) -> float:
        """Seconds of all epochs, from a few steps."""
        plan, learner = self.plan, self.learner
        batches, draws, _ = make_batches(self.dataset, plan, self.fabric, self.slides_roots, self.reporter)
        learner.set_up()
        draws.start(1)
        learner.start_epoch()
        seconds: list[float] = []
        clock = time.monotonic()
        with closing(batches):
            for drawn, _ in zip(batches, range(_TIMED_STEPS + 1), strict=False):
                learner.step(drawn, epoch=1, number=0)
                seconds.append(time.monotonic() - clock)
                clock = time.monotonic()
        step = min(seconds[1:] or seconds)
        self.reporter.say(f"  {step:.2f} s a step")
        return (plan.total_steps + plan.epochs * plan.validation_steps) * step
