"""The verdict on a round of training: compared with the model before, said, and written into the card."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from dmmn_qp.console import Reporter
from dmmn_qp.errors import TrainingError
from dmmn_qp.folders.acceptance import MOST_WORSE, Acceptance, WorseArea
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_model, set_acceptance
from dmmn_qp.networks.dmmn_p import CELL_PX
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import shorten
from dmmn_qp.training.acceptance import UNLEARNED, Judgement, Worse, contradictions, doubtful, judge, unsupported
from dmmn_qp.training.cells import Place
from dmmn_qp.training.comparing import Area, Networks, compared_cells, compared_patches
from dmmn_qp.training.frozen import HeadTraining
from dmmn_qp.training.objects import Objects
from dmmn_qp.training.plan import TrainingPlan
from dmmn_qp.training.state import TrainingState
from dmmn_qp.training.supporting import seen_without

_SAID = 6
"""So many things that are worse are said; all are in the report."""


def give_verdict(
    out: Path,
    dataset: Dataset,
    plan: TrainingPlan,
    state: TrainingState,
    fabric: Fabric,
    head: HeadTraining | None,
    slides_roots: tuple[SlidesRoot, ...],
    reporter: Reporter,
    *,
    accept: bool,
) -> list[str]:
    """Compares a finished model with the one that its training started from, and accepts it or does not.

    Args:
        out: The model.
        dataset: Its dataset.
        plan: Its training.
        state: Where that ended.
        fabric: Device and precision.
        head: Of a network on a pretrained encoder: the training of its head, of which all rounds were in this process.
        slides_roots: Where to look for slides that have been moved.
        reporter: Where to report.
        accept: Whether a person accepts it whatever is worse.

    Returns:
        What is worse, a line each.

    Raises:
        TrainingError: Nothing is known of the model before.
    """
    assert plan.start is not None
    if not state.start or state.start_mean_iou is None:
        raise TrainingError("the training was begun by an earlier version, which kept nothing of the model before")
    if plan.epochs:
        head = None  # the encoder has learned since
    areas = _areas(out, dataset, plan, state, fabric, head, slides_roots)
    trained = max(row["val_mean_iou"] for row in state.history)
    kept = (state.start_mean_iou, state.best)
    mpp = dataset.patch_spec.mpps[0]
    judgement = judge(areas, mpp, plan.validated_on, kept, trained)
    doubts = doubtful(areas, mpp, _new_labels(dataset, plan))
    alone: list[Worse] = []
    if head is not None:
        found, alone = unsupported(_seen_without(doubts, head, dataset, plan), mpp)
    else:
        found = contradictions(doubts, mpp)
    judgement = replace(judgement, worse=(*judgement.worse, *found))
    accepted = accept or not judgement.worse
    set_acceptance(out, _for_card(judgement, dataset, plan, by_hand=accept), accepted=accepted)
    lines = [worse_line(worse, dataset) for worse in judgement.worse]
    _say(lines, out, plan.start.model, reporter, accepted=accepted)
    for worse in alone[:_SAID]:
        reporter.warn(f"{worse_line(worse, dataset)} If so, nothing is to be done")
    return lines


def _areas(
    out: Path,
    dataset: Dataset,
    plan: TrainingPlan,
    state: TrainingState,
    fabric: Fabric,
    head: HeadTraining | None,
    slides_roots: tuple[SlidesRoot, ...],
) -> list[Area]:
    assert plan.start is not None
    after = load_model(out)[1].to(fabric.device)
    before = deepcopy(after)
    before.load_state_dict(state.start)
    networks = Networks(before.eval(), after.eval(), _new_labels(dataset, plan))
    if head is not None:
        return list(compared_cells(dataset, plan, head.source, head.looked_at, networks))
    return list(compared_patches(dataset, plan, networks, fabric, slides_roots))


def _new_labels(dataset: Dataset, plan: TrainingPlan) -> tuple[int, ...]:
    assert plan.start is not None
    return tuple(dataset.class_map.names.index(name) + 1 for name in plan.start.new)


def _seen_without(
    doubts: Sequence[Area], head: HeadTraining, dataset: Dataset, plan: TrainingPlan
) -> list[tuple[Area, float, int]]:
    """What heads make of doubtful areas that were trained without them."""
    if not doubts:
        return []
    n_classes, seed, objects = len(plan.draws.label_counts), plan.options.seed, Objects(dataset)

    def numbers_at(place: Place) -> NDArray[np.uint32]:
        return objects.numbers(place.slide_id, place.tile, CELL_PX)

    return seen_without(
        doubts, head.looked_at, numbers_at, head.source, n_classes, plan.network.width, seed, head.device
    )


def _for_card(judgement: Judgement, dataset: Dataset, plan: TrainingPlan, *, by_hand: bool) -> Acceptance:
    assert plan.start is not None
    names = dataset.class_map.names
    return Acceptance(
        compared_with=plan.start.model,
        run_id=plan.start.run_id,
        validation=judgement.validation,
        reviewed=judgement.reviewed,
        worse=tuple(
            WorseArea(
                loss=worse.loss,
                class_name=None if worse.label is None else names[worse.label - 1],
                slide=None if worse.slide_id is None else dataset.record(worse.slide_id).fingerprint,
                before=round(worse.before, 6),
                after=round(worse.after, 6),
                mm2=round(worse.mm2, 6),
            )
            for worse in judgement.worse[:MOST_WORSE]
        ),
        by_hand=by_hand and bool(judgement.worse),
    )


def worse_line(worse: Worse, dataset: Dataset) -> str:
    """What is worse, where and by how much; places are level-0 px."""
    names, figures = dataset.class_map.names, f"{worse.before:.2f} -> {worse.after:.2f}"
    if worse.slide_id is None:
        if worse.label is None:
            return f"validation, all classes: mIoU {figures} after learning"
        return f'validation, "{shorten(names[worse.label - 1])}": IoU {figures} on {worse.mm2:.3f} mm2'
    assert worse.label is not None and worse.middle_px is not None and worse.called is not None
    downsample = dataset.patch_spec.grid_of(dataset.record(worse.slide_id).mpp, worse.slide_id).downsample
    x, y = (round(v * downsample) for v in worse.middle_px)
    where, name = f'"{shorten(worse.slide_id)}" near {x}, {y} px', shorten(names[worse.label - 1])
    if worse.loss == "contradiction" and worse.after >= UNLEARNED:
        return (
            f'{where}: {worse.mm2:.3f} mm2 labelled "{name}", which no other annotation supports: a model that is not '
            f'told sees "{shorten(names[worse.called - 1])}"; is the label right?'
        )
    if worse.loss == "contradiction":
        return (
            f'{where}: {worse.mm2:.3f} mm2 labelled "{name}", which it did not learn: it still sees '
            f'"{shorten(names[worse.called - 1])}"; is the label right?'
        )
    what = {"validation": "validation", "reviewed": "reviewed predictions", "drawn": "annotations for training"}
    seen = f', now "{shorten(names[worse.called - 1])}"' if worse.called != worse.label else ""
    return f'{where}: {what[worse.loss]}, "{name}": right part {figures} on {worse.mm2:.3f} mm2{seen}'


def _say(lines: list[str], out: Path, model: str, reporter: Reporter, *, accepted: bool) -> None:
    before = f'model "{shorten(model)}"'
    if not lines:
        reporter.say(f"  accepted: nothing that people labelled is clearly worse than with {before}")
        return
    reporter.warn(
        f"{'accepted by hand, although' if accepted else 'not accepted:'} this round is worse than {before}, which it "
        f"started from{'' if accepted else ', and which predict goes on with'}"
    )
    for line in lines[:_SAID]:
        reporter.say(f"    {line}")
    if len(lines) > _SAID:
        reporter.say(f"    and {len(lines) - _SAID} more: see {out / 'report.html'}")
    if not accepted:
        reporter.say(f"  look there and mend what is wrong, or take it as it is: dmmn-qp models accept {out}")
