"""What an evaluation says of models, truths and settings beside their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.evaluating.comparing import Compared, Counted, TruthSide
from dmmn_qp.evaluating.counting import SlideCounts
from dmmn_qp.evaluating.folders import Predictions
from dmmn_qp.evaluating.options import DISTANCE_LIMIT_UM, EvaluateOptions
from dmmn_qp.evaluating.predicted import PredictedLabels
from dmmn_qp.evaluating.sides import probabilities_of
from dmmn_qp.folders.evaluation import (
    EvaluatedSlide,
    EvaluationSettings,
    LabelSource,
    ModelEvaluation,
    PredictedLabelSource,
    SampleKind,
    TruthDescription,
)
from dmmn_qp.folders.predictions import is_by, model_of
from dmmn_qp.folders.provenance import trained_slides


def describe_models(
    models: Sequence[Predictions],
    slides: Sequence[EvaluatedSlide],
    compared: Sequence[Compared],
    counted: Counted,
) -> list[ModelEvaluation]:
    """What was compared, with its figures.

    Args:
        models: The folders of predictions.
        slides: The slides.
        compared: What came of each kind of truth.
        counted: What was counted of any of them.
    """
    described = []
    for number, model in enumerate(models):
        counts = {slide.slide_id: of[number] for slide, of in zip(slides, counted.by_slide, strict=True)}
        folder = _model_folder(model)
        described.append(
            ModelEvaluation(
                name=model.name,
                predictions=str(model.folder.absolute()),
                model=None if folder is None else str(folder.absolute()),
                card={} if folder is None else card_facts(folder),
                rasters=tuple(_predicted(model, slide, counted, number, counts[slide.slide_id]) for slide in slides),
                truths=tuple(f for c in compared if (f := c.figures[number]) is not None),
            )
        )
    return described


def describe_truths(sides: Sequence[TruthSide], slides: Sequence[EvaluatedSlide]) -> tuple[TruthDescription, ...]:
    """What was compared with: each kind of truth, with its rasters."""
    described = []
    for side in sides:
        for origin, (kind, title) in side.kinds.items():
            rasters = []
            for slide in slides:
                labels, of_origin = side.labels[slide.slide_id], side.origins.get(slide.slide_id)
                if of_origin is None and origin != "drawn":
                    continue
                rasters.append(
                    LabelSource(
                        slide_id=slide.slide_id,
                        path=str(labels.path.absolute()),
                        values=dict(labels.values),
                        names_from=labels.names_from,
                        downsample=_downsample(slide),
                        origin_path=None if of_origin is None else str(of_origin.absolute()),
                        origin_value=None if of_origin is None else ORIGINS[origin],
                    )
                )
            if rasters:
                described.append(TruthDescription(kind=kind, title=title, is_full=side.is_full, rasters=tuple(rasters)))
    return tuple(described)


def settings_of(
    options: EvaluateOptions, pairs: Sequence[tuple[str, str]], kind: SampleKind, samples: int
) -> EvaluationSettings:
    """How it was compared.

    Args:
        options: The options.
        pairs: Predicted and true class of each ``--map``.
        kind: What samples are.
        samples: How many of them there are.
    """
    region = None if options.roi is None else str(options.roi)
    return EvaluationSettings(
        maps=tuple(pairs),
        exclude=options.exclude,
        skip_unpredicted=options.skip_unpredicted,
        region=region or options.roi_class,
        by=options.by,
        resamples=options.resamples,
        confidence=options.confidence,
        seed=options.seed,
        sample_kind=kind,
        samples=samples,
        boundary_um=options.boundary_um or None,
        distance_limit_um=DISTANCE_LIMIT_UM if options.boundary_um else None,
    )


def card_facts(folder: Path) -> dict[str, str]:
    """What to show of a model's card, as text; empty where it cannot be read."""
    from dmmn_qp.folders.model import load_card

    try:
        card = load_card(folder)
    except (DmmnQpError, OSError):
        return {}
    network, provenance = card.network, card.provenance
    slides = len(trained_slides(provenance))
    mean_iou = card.validation.get("mean_iou")
    facts: Mapping[str, str | None] = {
        "architecture": network.architecture,
        "encoder": network.encoder,
        "width": str(network.width),
        "um/px": ", ".join(f"{mpp:g}" for mpp in card.patch_spec.mpps),
        "patch": f"{card.patch_spec.size_px} px",
        "normalisation": network.norm,
        "stem": network.stem,
        "classes": str(len(card.class_map)),
        "training slides": str(slides) if slides else None,
        "validation mIoU": f"{mean_iou:.3f}" if isinstance(mean_iou, float) else None,
        "created": card.created,
        "version": str(provenance["version"]) if "version" in provenance else None,
        "weights": None if card.weights_sha256 is None else card.weights_sha256[:12],
        "licence": card.licence,
    }
    return {name: text for name, text in facts.items() if text}


def _model_folder(model: Predictions) -> Path | None:
    """The folder of the model, where it is still there and still that model."""
    from dmmn_qp.folders.model import load_card

    folder = model_of(model.folder)
    try:
        weights = None if folder is None else load_card(folder).weights_sha256
    except (DmmnQpError, OSError):
        return None
    return folder if all(is_by(p.record, weights) for p in model.labels.values()) else None


def _predicted(
    model: Predictions, slide: EvaluatedSlide, counted: Counted, number: int, counts: SlideCounts
) -> PredictedLabelSource:
    found: PredictedLabels = model.labels[slide.slide_id]
    side = counted.models[number].labels[slide.slide_id]
    record, probabilities = found.record, probabilities_of(found.path, slide.slide_id)
    return PredictedLabelSource(
        slide_id=slide.slide_id,
        path=str(found.path.absolute()),
        values=dict(side.values),
        own_names={} if side.own_names == side.values else dict(side.own_names),
        names_from=found.names_from,
        downsample=_downsample(slide) if found.ground is None else found.ground.downsample,
        model=None if record is None else record.model,
        model_run=None if record is None else record.model_run,
        weights=None if record is None else record.weights,
        probabilities_path=None if probabilities is None else str(probabilities.absolute()),
        predicted_mm2={name: pixels * slide.pixel_mm2 for name, pixels in counts.predicted.items()},
        trained_on=slide.slide_id in model.trained_on,
        distance_from_training=None if record is None else record.distance_from_training,
        resampled_to=None if found.ground is None else found.ground.onto,
    )


def _downsample(slide: EvaluatedSlide) -> float:
    return slide.grid_mpp / slide.mpp if slide.grid_mpp and slide.mpp else 1.0
