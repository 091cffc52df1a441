"""What the tissue of the training slides looks like, for the model's card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dmmn_qp.console import Reporter
from dmmn_qp.features.domain import MOST_SLIDES, Vectors, domain_of
from dmmn_qp.features.tissue import TissueDescriber
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import add_training_domain, load_model
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.training.plan import TrainingPlan


def describe_training_slides(
    out: Path,
    dataset: Dataset,
    plan: TrainingPlan,
    device: torch.device,
    slides_roots: Sequence[SlidesRoot],
    reporter: Reporter,
) -> None:
    """Adds to a finished model's card what its training slides look like.

    It looks with the encoder as it is in the model, which may have learned, and so not before the training's end. Of
    many slides, `MOST_SLIDES` chosen by chance are looked at. One that cannot be read is left out.

    Args:
        out: The model.
        dataset: Its dataset.
        plan: Its training.
        device: Where to compute.
        slides_roots: Where to look for slides that have been moved.
        reporter: Where to report.
    """
    describer = TissueDescriber(plan.convention)
    if plan.network.encoder is not None:
        network = load_model(out)[1].network.to(device)
        bf16 = plan.options.precision == "bf16"
        describer = TissueDescriber.of_network(network, plan.convention, device, bf16=bf16)
    chosen = chosen_slides(plan)
    found: list[Vectors] = []
    with reporter.task("what the training slides look like", len(chosen)) as task:
        for slide_id in chosen:
            record = dataset.record(slide_id)
            with (
                reporter.optional(f'slide "{slide_id}" in what the card says of the training slides'),
                ForgivingSlide(dataset.open(record, slides_roots)) as slide,
            ):
                found.append(describer.vectors(slide, dataset.patch_spec.grid_of(record.mpp, slide_id)))
            task.advance()
    domain = domain_of(found, describer.kind)
    if domain is not None:
        add_training_domain(out, domain)


def chosen_slides(plan: TrainingPlan) -> list[str]:
    """The training slides that are looked at: all, or of many some that are chosen by chance."""
    slides = list(dict.fromkeys(patch.slide_id for patch in plan.training))
    if len(slides) <= MOST_SLIDES:
        return slides
    order = np.random.default_rng(plan.options.seed).permutation(len(slides))[:MOST_SLIDES]
    return [slides[k] for k in np.sort(order)]
