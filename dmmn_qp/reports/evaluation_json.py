"""The figures of one model in few keys, for scripts: what `dmmn-qp evaluate --json` writes and Python gets."""

from __future__ import annotations

from typing import Any

from dmmn_qp.folders.evaluation import (
    Evaluation,
    Figure,
    Figures,
    LabelSource,
    ModelEvaluation,
    PairedComparison,
    TruthFigures,
    TruthKind,
)

KINDS: tuple[TruthKind, ...] = ("annotated", "corrected", "confirmed", "truth")


def evaluation_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation in plain values.

    ``annotated`` (drawn by people), ``corrected``, ``confirmed`` and, where it was given, ``truth`` are figures of the
    first model, or None where there are no such pixels. With several models, ``models`` has the same of each, by its
    name, and ``comparisons`` each pair of them.
    """
    first, settings = evaluation.models[0], evaluation.settings
    result: dict[str, Any] = {
        "split": evaluation.split,
        "slides": [slide.slide_id for slide in evaluation.slides],
        **_of_model(evaluation, first),
        "map": [{"predicted": name, "true": true_name} for name, true_name in settings.maps],
        "excluded": list(settings.exclude),
        "skip_unpredicted": settings.skip_unpredicted,
        "warnings": list(evaluation.warnings),
    }
    if len(evaluation.models) > 1:
        result["models"] = {model.name: _of_model(evaluation, model) for model in evaluation.models}
        result["comparisons"] = [_comparison(c) for c in evaluation.comparisons]
    return result


def _of_model(evaluation: Evaluation, model: ModelEvaluation) -> dict[str, Any]:
    found: dict[str, Any] = {"model": model.name, "predictions": {}}
    for raster in model.rasters:
        names = raster.own_names or raster.values
        found["predictions"][raster.slide_id] = {
            "classes": list(names.values()),
            "classes_from": raster.names_from,
            "model": raster.model,
            "model_run": raster.model_run,
            "weights": raster.weights,
        }
    for kind in KINDS:
        truth, figures = evaluation.truth(kind), model.of(kind)
        if truth is not None:
            found[kind] = None if figures is None else _of_truth(figures, truth.rasters[0])
        elif kind != "truth":
            found[kind] = None
    return found | {"unchecked_pixels": model.unchecked_pixels}


def _of_truth(found: TruthFigures, truth: LabelSource) -> dict[str, Any]:
    result = figures_as_json(found.pooled) | {
        "by_slide": {slide.slide_id: figures_as_json(slide.figures) for slide in found.slides},
        "values": {str(value): name for value, name in truth.values.items()},
        "values_from": truth.names_from,
        "unmatched": {
            "truth": {name: list(slides) for name, slides in found.unmatched.truth.items()},
            "predicted": {name: list(slides) for name, slides in found.unmatched.predicted.items()},
        },
    }
    if found.subgroups:
        result["subgroups"] = [
            {"key": g.key, "value": g.value, "slides": list(g.slides), **figures_as_json(g.figures)}
            for g in found.subgroups
        ]
    if found.boundaries:
        result["boundaries"] = {
            b.name: {
                "boundary_iou": _value(b.boundary_iou),
                "mean_distance_um": _value(b.mean_distance_um),
                "p95_distance_um": _value(b.p95_distance_um),
            }
            for b in found.boundaries
        }
    if found.objects:
        result["objects"] = {
            o.name: {"true": o.true, "predicted": o.predicted, "matched": o.matched, "f1": _value(o.f1)}
            for o in found.objects
        }
    if found.calibration is not None:
        result["expected_calibration_error"] = _value(found.calibration.expected_error)
    return result


def figures_as_json(figures: Figures) -> dict[str, Any]:
    """All figures of a confusion matrix; None where a class has none.

    The matrix has a row for each class and a column for each of ``columns``: the same classes, those that the truth
    does not have, and `NOT_PREDICTED` where there are such pixels.
    """
    means = ("mean_iou", "mean_recall", "mean_precision", "mean_dice", "frequency_weighted_iou", "accuracy", "kappa")
    of_classes = ("iou", "recall", "precision", "dice")
    intervals = {name: ends for name in means if (ends := _ends(getattr(figures, name))) is not None}
    return {
        "pixels": figures.pixels,
        **{name: _value(getattr(figures, name)) for name in means},
        **({"intervals": intervals} if intervals else {}),
        "classes": {
            c.name: {
                **{name: _value(getattr(c, name)) for name in of_classes},
                **({"iou_interval": ends} if (ends := _ends(c.iou)) is not None else {}),
                "true_pixels": c.true_pixels,
                "predicted_pixels": c.predicted_pixels,
                "true_mm2": round(c.true_mm2, 6),
                "predicted_mm2": round(c.predicted_mm2, 6),
            }
            for c in figures.classes
        },
        "without_truth": list(figures.without_truth),
        "confusion": {
            "classes": [c.name for c in figures.classes],
            "columns": list(figures.columns),
            "rows_true_columns_predicted": [list(row) for row in figures.confusion],
        },
        "unpredicted_pixels": figures.unpredicted_pixels,
    }


def _comparison(c: PairedComparison) -> dict[str, Any]:
    return {
        "truth": c.kind,
        "figure": c.figure,
        "class": c.class_name,
        "first": c.first,
        "second": c.second,
        "difference": _value(c.difference),
        "interval": _ends(c.difference),
        "p_value": c.p_value,
        c.sample_kind: c.samples,
    }


def _value(figure: Figure) -> float | None:
    return None if figure.value is None else round(figure.value, 6)


def _ends(figure: Figure) -> list[float] | None:
    return None if figure.low is None or figure.high is None else [round(figure.low, 6), round(figure.high, 6)]
