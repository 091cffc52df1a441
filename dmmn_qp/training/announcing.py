"""What a training says before its first step."""

from __future__ import annotations

import torch

from dmmn_qp.console import Reporter
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.reports.class_findings import class_findings
from dmmn_qp.reports.findings import warn_of
from dmmn_qp.specs import PatchSpec, mpps_text
from dmmn_qp.text import count_of, shorten
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
    threads = f", {count_of(options.threads or 1, 'thread')}" if device.type == "cpu" else ""
    copies = len(plan.validation_draws) - len(plan.validation)
    reporter.say(
        f"  {len(plan.training)} training and "
        f"{count_of(len(plan.validation), 'validation patch', 'validation patches')}"
        f"{f' ({len(plan.validation_draws):,} with deformed copies)' if copies else ''}, "
        f"{count_of(len(dataset.class_map), 'class', 'classes')}; "
        f"{plan.course}, "
        f"{device.type}{several}{threads}, {options.precision}, preset {options.preset}"
    )
    warn_of_classes(plan, dataset, reporter)
    warn_of_one_magnification(plan, dataset.patch_spec, reporter)
    if plan.start is not None:
        matched = f"classes matched by name: {', '.join(plan.start.matched) or 'none'}"
        new = f"; new, with random weights: {', '.join(plan.start.new)}" if plan.start.new else ""
        reporter.say(f'  starts from model "{plan.start.model}"; {matched}{new}')
        warn_of_known(dataset, plan.start, reporter)
    if corrected := corrections_text(plan):
        reporter.say(f"  {corrected}")
    if plan.balance is not None:
        reporter.table(*plan.balance.rows())


def warn_of_classes(plan: TrainingPlan, dataset: Dataset, reporter: Reporter) -> None:
    """Says again, as `import` does, of which classes there is too little to learn or to judge them."""
    validation = [] if plan.options.validate_on == "train" else plan.validation
    found = class_findings([*plan.training, *validation], dataset.class_map, is_validated=bool(validation))
    warn_of(tuple(found), reporter)


def warn_of_one_magnification(plan: TrainingPlan, spec: PatchSpec, reporter: Reporter) -> None:
    """Says when a network of several magnifications is given one, and so is another network."""
    name = plan.network.architecture
    if len(spec.mpps) == 1 and ARCHITECTURES[name].used(2) > 1:
        reporter.warn(
            f"{name} sees what lies around a target at further magnifications, but this dataset has only "
            f"{spec.mpps[0]:g} um/px, so it sees as little as a U-Net; import with --mpps {mpps_text(spec.mpps[0])}"
        )


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
