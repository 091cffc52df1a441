"""Evaluations made by hand, of rasters of a few pixels or more, with slides or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmmn_qp.evaluating import figures
from dmmn_qp.evaluating.figures import Samples
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.folders.evaluation import (
    BoundaryFigures,
    Calibration,
    CalibrationBin,
    EvaluatedSlide,
    Evaluation,
    EvaluationSettings,
    Figure,
    Figures,
    LabelSource,
    ModelEvaluation,
    ObjectFigures,
    PairedComparison,
    PredictedLabelSource,
    SlideFigures,
    Subgroup,
    TruthDescription,
    TruthFigures,
)
from dmmn_qp.folders.label_raster import create_label_raster
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap

OPTIONS = EvaluateOptions(resamples=1000)


@dataclass(frozen=True)
class MadeSlide:
    """A slide: its truth, what each model made of it, and its file where there is one."""

    truth: np.ndarray
    predicted: Sequence[np.ndarray]
    image: PredictedInput | None = None
    properties: Mapping[str, str] | None = None


def write_raster(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_label_raster(path, labels.shape, ClassMap.from_colors([("x", (1, 2, 3))])) as raster:
        raster.write(Region(0, 0, labels.shape[1], labels.shape[0]), labels)
    return path


def confusion_of(truth: np.ndarray, found: np.ndarray, n: int) -> np.ndarray:
    """(n, n + 1): the last column counts what was not predicted."""
    counts = np.zeros((n + 1, n + 1), np.int64)
    np.add.at(counts, (truth.ravel(), found.ravel()), 1)
    return np.concatenate([counts[1:, 1:], counts[1:, :1]], axis=1)


def figures_of(names: Sequence[str], confusions: Sequence[np.ndarray], mpp: float = 1.0) -> Figures:
    """Figures of the matrices of slides, whose last column is what was not predicted; with intervals over them."""
    samples = Samples.of([str(i) for i in range(len(confusions))], [mpp] * len(confusions), OPTIONS)
    counts = {
        "labelled": sum(int(confusion.sum()) for confusion in confusions),
        "unpredicted": sum(int(confusion[:, -1].sum()) for confusion in confusions),
    }
    return figures.figures_of(confusions, names, (), samples, **counts)


def evaluation_of(
    folder: Path,
    slides: Mapping[str, MadeSlide],
    names: Sequence[str],
    models: Sequence[str] = ("a model",),
    *,
    is_full: bool = True,
    extras: bool = False,
    mpp: float | None = 0.5,
    title: str = "What was compared",
) -> Evaluation:
    """An evaluation of all slides, whose rasters lie in a folder.

    With ``extras`` come borders, objects, calibration, subgroups, comparisons and cards, with figures out of the air.
    """
    mm2 = (mpp or 1.0) ** 2 / 1e6
    values = dict(enumerate(names, start=1))
    kind = "truth" if is_full else "annotated"
    truths, sources, of_models = [], [[] for _ in models], [[] for _ in models]
    confusions: list[list[np.ndarray]] = [[] for _ in models]
    for number, (slide_id, made) in enumerate(slides.items()):
        path = write_raster(folder / "rasters" / f"{number}.tif", made.truth)
        truths.append(LabelSource(slide_id=slide_id, path=str(path), values=values, names_from="dataset"))
        for m, found in enumerate(made.predicted):
            path = write_raster(folder / "rasters" / f"{number}-{m}.tif", found)
            areas = {name: float((found == value).sum() * mm2) for value, name in values.items()}
            sources[m].append(
                PredictedLabelSource(
                    slide_id=slide_id, path=str(path), values=values, names_from="raster", predicted_mm2=areas,
                    distance_from_training=0.3 * number if extras else None,
                )
            )  # fmt: skip
            confusion = confusion_of(made.truth, found, len(names))
            confusions[m].append(confusion)
            of_models[m].append(SlideFigures(slide_id=slide_id, figures=figures_of(names, [confusion], mpp or 1.0)))
    return Evaluation(
        title=title,
        split="test",
        dataset=str(folder / "dataset"),
        slides=tuple(
            EvaluatedSlide(
                slide_id=slide_id, image=made.image, mpp=mpp, grid_mpp=mpp, case=slide_id,
                properties=dict(made.properties or {}),
            )
            for slide_id, made in slides.items()
        ),
        colors=distinct_colors(names),
        settings=EvaluationSettings(resamples=OPTIONS.resamples if len(slides) > 1 else 0, samples=len(slides)),
        truths=(
            TruthDescription(
                kind=kind,
                title="full truth" if is_full else "annotated pixels",
                is_full=is_full,
                rasters=tuple(truths),
            ),
        ),
        models=tuple(
            ModelEvaluation(
                name=name,
                predictions=str(folder / "predictions"),
                card={"architecture": "dmmn-m3", "parameters": "1.7 M", "preset": name} if extras else {},
                rasters=tuple(sources[m]),
                truths=(
                    TruthFigures(
                        kind=kind,
                        pooled=figures_of(names, confusions[m], mpp or 1.0),
                        slides=tuple(of_models[m]),
                        **(_extras(names, of_models[m]) if extras else {}),
                    ),
                ),
            )
            for m, name in enumerate(models)
        ),
        comparisons=tuple(_comparisons(kind, models, len(slides))) if extras else (),
        warnings=("a warning",) if extras else (),
        provenance={"command": ["dmmn-qp", "evaluate"], "version": "1", "libraries": {"numpy": "2"}},
    )  # fmt: skip


def _extras(names, slides):
    bins = [(0.2 * i, 0.2 * (i + 1), 10 ** (i + 1)) for i in range(5)]
    return {
        "boundaries": tuple(
            BoundaryFigures(name=n, boundary_iou=Figure(value=0.5), mean_distance_um=Figure(value=12.3),
                            p95_distance_um=Figure(value=40.0))
            for n in names
        ),
        "objects": tuple(
            ObjectFigures(name=n, true=5, predicted=6, matched=4, f1=Figure(value=8 / 11),
                          matched_iou=Figure(value=0.7))
            for n in names
        ),
        "calibration": Calibration(
            bins=tuple(
                CalibrationBin(low=low, high=min(1.0, high), pixels=n, confidence=low + 0.1, accuracy=max(0.0, low))
                for low, high, n in bins
            ),
            expected_error=Figure(value=0.1),
            slides=tuple(s.slide_id for s in slides),
        ),
        "subgroups": (
            Subgroup(key="scanner", value="A", slides=(slides[0].slide_id,), figures=slides[0].figures),
            Subgroup(key="scanner", value="", slides=(), figures=slides[-1].figures),
        ),
    }  # fmt: skip


def _comparisons(kind, models, n):
    for i, first in enumerate(models):
        for second in models[i + 1 :]:
            yield PairedComparison(
                kind=kind, figure="mean_iou", first=first, second=second, samples=n, sample_kind="slides",
                difference=Figure(value=-0.031, low=-0.06, high=0.01), p_value=0.031 if n > 1 else None,
            )  # fmt: skip
