"""The tables and charts of the page of an evaluation, put together from its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dmmn_qp.folders.evaluation import (
    Calibration,
    EvaluatedSlide,
    Evaluation,
    Figures,
    PredictedLabelSource,
    Subgroup,
    TruthDescription,
    TruthFigures,
)
from dmmn_qp.reports.evaluation_charts import (
    Rung,
    Square,
    agreement_of,
    calibration_of,
    rung_of,
)
from dmmn_qp.reports.evaluation_matrices import Matrix, matrices_of
from dmmn_qp.reports.evaluation_pictures import OTHER_COLOR

_RUN_FACTS: Final = ("version", "started", "finished", "python", "platform")


@dataclass(frozen=True, slots=True)
class Detail:
    """Figures of one model against one truth, with its pictures."""

    number: int
    name: str
    truth: TruthFigures
    matrices: tuple[Matrix, Matrix]


@dataclass(frozen=True, slots=True)
class Part:
    """All models against one truth.

    Attributes:
        truth: The truth.
        details: Of each model that has figures.
        ladder: IoU of each class and model.
    """

    truth: TruthDescription
    details: tuple[Detail, ...]
    ladder: tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class AreaRow:
    """Areas of one class.

    Attributes:
        name: The class.
        true_mm2: What is true, on the compared pixels.
        predicted: Of each model, what it predicted there, and on the whole slides; None where that is not known.
    """

    name: str
    true_mm2: float
    predicted: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True, slots=True)
class SlideRow:
    """A slide in the table.

    Attributes:
        number: From 1 on.
        slide: The slide.
        mm2: Compared area; None where nothing was compared.
        of_models: Figures of each model, and where its labels are.
    """

    number: int
    slide: EvaluatedSlide
    mm2: float | None
    of_models: tuple[tuple[Figures | None, PredictedLabelSource | None], ...]


def parts_of(evaluation: Evaluation, main: TruthDescription) -> list[Part]:
    """Each truth that has figures, the main one first."""
    ordered = [main, *(truth for truth in evaluation.truths if truth.kind != main.kind)]
    parts = []
    for truth in ordered:
        found = [(n, m.name, figures) for n, m in enumerate(evaluation.models) if (figures := m.of(truth.kind))]
        details = tuple(Detail(n, name, figures, matrices_of(figures.pooled)) for n, name, figures in found)
        if details:
            parts.append(Part(truth, details, _ladder(details)))
    return parts


def _ladder(details: Sequence[Detail]) -> tuple[Rung, ...]:
    """IoU of each class that has any, of each model."""
    rungs = []
    for name in dict.fromkeys(c.name for d in details for c in d.truth.pooled.classes):
        found = [(d.number, d.name, c.iou) for d in details for c in d.truth.pooled.classes if c.name == name]
        rungs.append(rung_of(name, found))
    return tuple(rung for rung in rungs if rung.marks)


def classes_of(evaluation: Evaluation, main: TruthDescription) -> list[str]:
    """Names of the true classes, then of others that some raster has: all that pictures may show."""
    rasters = [*main.rasters, *(raster for model in evaluation.models for raster in model.rasters)]
    return list(dict.fromkeys(name for raster in rasters for name in raster.values.values()))


def areas_of(evaluation: Evaluation, main: TruthDescription) -> list[AreaRow]:
    """Areas of each true class, and of others that were predicted somewhere."""
    pooled = [figures.pooled if (figures := model.of(main.kind)) else None for model in evaluation.models]
    whole = [_on_whole_slides(model.rasters) for model in evaluation.models]
    true = {c.name: c.true_mm2 for figures in pooled if figures for c in figures.classes}
    others = dict.fromkeys(name for found in whole for name in found if name not in true)
    rows = []
    for name in (*true, *others):
        counted = [_predicted_mm2(figures, name) for figures in pooled]
        on_slides = [found.get(name, 0.0) if found else None for found in whole]
        if name in true or any(on_slides):
            rows.append(AreaRow(name, true.get(name, 0.0), tuple(zip(counted, on_slides, strict=True))))
    return rows


def _on_whole_slides(rasters: Sequence[PredictedLabelSource]) -> dict[str, float]:
    found: dict[str, float] = {}
    for raster in rasters:
        for name, mm2 in raster.predicted_mm2.items():
            found[name] = found.get(name, 0.0) + mm2
    return found


def _predicted_mm2(figures: Figures | None, name: str) -> float:
    """What was predicted as a class on compared pixels: its column of the matrix."""
    if figures is None or name not in figures.columns:
        return 0.0
    column = figures.columns.index(name)
    return sum(row[column] for row in figures.confusion_mm2)


def slide_rows(evaluation: Evaluation, main: TruthDescription) -> list[SlideRow]:
    """The slides in their order."""
    figures = [{s.slide_id: s.figures for s in of.slides} if (of := m.of(main.kind)) else {} for m in evaluation.models]
    sources = [{raster.slide_id: raster for raster in model.rasters} for model in evaluation.models]
    rows = []
    for number, slide in enumerate(evaluation.slides, start=1):
        of_slide = [found.get(slide.slide_id) for found in figures]
        compared = [compared_mm2(found) for found in of_slide if found is not None]
        of_models = tuple((f, s.get(slide.slide_id)) for f, s in zip(of_slide, sources, strict=True))
        rows.append(SlideRow(number, slide, max(compared, default=None), of_models))
    return rows


def compared_mm2(figures: Figures) -> float:
    """The area that was compared."""
    return sum(c.true_mm2 for c in figures.classes)


def subgroups_of(evaluation: Evaluation, main: TruthDescription) -> list[tuple[str, Subgroup]]:
    """Each subgroup with the name of the model, side by side for all models."""
    found = [(m.name, group) for m in evaluation.models if (of := m.of(main.kind)) for group in of.subgroups]
    order = list(dict.fromkeys((group.key, group.value) for _, group in found))
    return sorted(found, key=lambda item: order.index((item[1].key, item[1].value)))


def agreement_charts(evaluation: Evaluation, main: TruthDescription) -> list[Square]:
    """A chart for each true class that has any area."""
    names = dict.fromkeys(c.name for m in evaluation.models if (of := m.of(main.kind)) for c in of.pooled.classes)
    charts = (
        agreement_of(name, evaluation.colors.get(name, OTHER_COLOR), evaluation.models, main.kind) for name in names
    )
    return [chart for chart in charts if chart is not None]


def calibrations(
    evaluation: Evaluation, main: TruthDescription
) -> tuple[Square | None, list[tuple[int, str, Calibration]]]:
    """The chart, and number, name and calibration of each model that has any."""
    found = [
        (n, model.name, of.calibration)
        for n, model in enumerate(evaluation.models)
        if (of := model.of(main.kind)) and of.calibration is not None
    ]
    return calibration_of(found, len(evaluation.models)), found


def facts_of(evaluation: Evaluation) -> list[tuple[str, str]]:
    """How the figures were made, a name and a text each."""
    provenance, settings = evaluation.provenance, evaluation.settings
    command, libraries = provenance.get("command"), provenance.get("libraries")
    facts = [("command", " ".join(map(str, command)))] if isinstance(command, list) else []
    facts += [(key, str(provenance[key])) for key in _RUN_FACTS if provenance.get(key)]
    if isinstance(libraries, dict):
        facts.append(("libraries", ", ".join(f"{name} {version}" for name, version in libraries.items() if version)))
    facts += [("dataset", evaluation.dataset)] if evaluation.dataset else []
    facts += [(f"predictions of {model.name}", model.predictions) for model in evaluation.models]
    facts += [("class joined by --map", f"{found} = {true}") for found, true in settings.maps]
    facts += [("left out by --exclude", name) for name in settings.exclude]
    facts += [("counted only in", settings.region)] if settings.region else []
    if settings.skip_unpredicted:
        facts.append(("pixels without a prediction", "left out"))
    if settings.resamples:
        facts.append(("intervals", f"{settings.resamples:,} draws of {settings.sample_kind}, seed {settings.seed}"))
    unchecked = [(m.name, m.unchecked_pixels) for m in evaluation.models if m.unchecked_pixels]
    facts += [(f"predictions that nobody has checked, {name}", f"{px:,} px, not counted") for name, px in unchecked]
    return facts
