"""What a training says before its first step."""

from __future__ import annotations

import torch

from dmmn_qp.console import Reporter
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.text import shorten
from dmmn_qp.training.fine_tuning import Start
from dmmn_qp.training.plan import TrainingPlan

_NAMED = 5
"""So many slides are named."""


def say_plan(
    plan: TrainingPlan,
    module: SupervisedBranches,
    device: torch.device,
    processes: int,
    dataset: Dataset,
    reporter: Reporter,
) -> None:
    """Prints what is about to happen."""
    options, parameters = plan.options, sum(p.numel() for p in module.stemmed.parameters())
    reporter.heading(f"Training {plan.network.architecture} (width {plan.network.width}, {parameters:,} parameters)")
    several = f" in {processes} processes" if processes > 1 else ""
    reporter.say(
        f"  {len(plan.training)} training and {len(plan.validation)} validation patches, "
        f"{len(dataset.class_map)} classes; "
        f"{plan.course}, "
        f"{device.type}{several}, {options.precision}, preset {options.preset}"
    )
    if plan.start is not None:
        matched = f"classes matched by name: {', '.join(plan.start.matched) or 'none'}"
        new = f"; new, with random weights: {', '.join(plan.start.new)}" if plan.start.new else ""
        reporter.say(f'  starts from model "{plan.start.model}"; {matched}{new}')
        warn_of_known(dataset, plan.start, reporter)
    if corrected := corrections_text(plan):
        reporter.say(f"  {corrected}")
    if plan.balance is not None:
        reporter.table(*plan.balance.rows())


def warn_of_known(dataset: Dataset, start: Start, reporter: Reporter) -> None:
    """Says which slides that are held back the model to start from was trained on."""
    known = [f'"{shorten(r.slide_id)}" ({r.split})' for r in dataset.slides() if r.split != "train" and start.knows(r)]
    if known:
        more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        reporter.warn(
            f'model "{shorten(start.model)}" was trained on slides that are held back now: {", ".join(known[:_NAMED])}'
            f"{more}; figures on them flatter it and what starts from it: train without --from, or hold others back"
        )


def corrections_text(plan: TrainingPlan) -> str:
    """How many training patches hold corrections, and how often these are drawn; empty where none does."""
    corrected, often = sum(patch.corrected > 0 for patch in plan.training), plan.options.corrections
    if not corrected:
        return ""
    as_often = f"drawn {often:g} times as often as others" if often > 1 else "drawn as often as others"
    what = "; cells of them likewise" if plan.rounds and often > 1 else ""
    return (
        f"{corrected:,} of {len(plan.training):,} training patches hold corrected predictions, "
        f"{as_often} (corrections = {often:g}){what}"
    )
