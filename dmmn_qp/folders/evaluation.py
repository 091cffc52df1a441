"""The folder of an evaluation: what was compared with what, and every figure of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.files import write_json
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.specs import MM2_OF_UM2, Channel, FileModel
from dmmn_qp.text import shorten

FOLDER: Final = "evaluation"
"""Name of the folder, unless the user gives it another."""

EVALUATION: Final = "evaluation.json"
"""The file that marks it as ours."""

WORST_REGIONS: Final = "worst_regions.geojson"
"""In its folder: the regions of all slides where most is wrong."""

WORST_REGIONS_FOLDER: Final = "worst_regions"
"""Folder of ``<slide>.geojson`` in it, where there are several slides."""

NOT_PREDICTED: Final = "(not predicted)"
"""Name of the last column of a confusion matrix, where there are such pixels."""

TruthKind = Literal["annotated", "corrected", "confirmed", "truth"]
"""What predictions are compared with: what people drew, predictions that they corrected or confirmed, full maps."""

SampleKind = Literal["slides", "cases"]
"""What is drawn for intervals and exchanged for tests: slides, or cases where several slides are of one."""

Finite = Annotated[float, Field(allow_inf_nan=False)]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

Count = Annotated[int, Field(ge=0)]

Area = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Figure(FileModel):
    """A figure and how sure it is.

    Attributes:
        value: The figure; None where it has none, as the IoU of a class without true pixels.
        low: Lower end of its interval; None where there is no interval (one slide, or a figure of one slide).
        high: Upper end of it.
    """

    value: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None


class ClassFigures(FileModel):
    """Figures of one true class, on the counted pixels.

    A class without true pixels has no figures and is part of no mean.

    Attributes:
        name: The class.
        iou: Intersection over union (Eq. 3 of the paper).
        recall: Share of its true pixels that were found (Eq. 4).
        precision: Share of the pixels predicted as it that are right (Eq. 5); 0 where none was predicted as it.
        dice: Twice the intersection over the sum of both.
        true_pixels: Its true pixels.
        predicted_pixels: Counted pixels that were predicted as it.
        true_mm2: Area of the former.
        predicted_mm2: Area of the latter.
    """

    name: str
    iou: Figure
    recall: Figure
    precision: Figure
    dice: Figure
    true_pixels: Count
    predicted_pixels: Count
    true_mm2: Area
    predicted_mm2: Area


class Figures(FileModel):
    """All figures of one confusion matrix.

    Attributes:
        classes: Figures of each true class, those without true pixels included.
        columns: Names of the matrix's columns: the true classes, predicted classes that the truth does not have, and
            `NOT_PREDICTED` where there are such pixels.
        confusion: Pixels: a row for each of ``classes``, a column for each of ``columns``.
        confusion_mm2: The same as areas.
        pixels: Counted pixels.
        labelled_pixels: True pixels, those left out for want of a prediction included.
        unpredicted_pixels: True pixels without a prediction, whether they were counted or left out.
        mean_iou: Mean over the classes with true pixels, as all means.
        mean_recall: Likewise.
        mean_precision: Likewise.
        mean_dice: Likewise.
        frequency_weighted_iou: IoU of each class, weighted by its share of the true pixels.
        accuracy: Share of the counted pixels that are right.
        kappa: Cohen's kappa.
        without_truth: Classes without a true pixel; they are part of no mean.
    """

    classes: tuple[ClassFigures, ...]
    columns: tuple[str, ...]
    confusion: tuple[tuple[Count, ...], ...]
    confusion_mm2: tuple[tuple[Area, ...], ...]
    pixels: Count
    labelled_pixels: Count
    unpredicted_pixels: Count
    mean_iou: Figure
    mean_recall: Figure
    mean_precision: Figure
    mean_dice: Figure
    frequency_weighted_iou: Figure
    accuracy: Figure
    kappa: Figure
    without_truth: tuple[str, ...] = ()

    def row_shares(self) -> tuple[tuple[float | None, ...], ...]:
        """The matrix as shares of the area of each true class; None in a row without pixels."""
        totals, areas = [sum(row) for row in self.confusion_mm2], self.confusion_mm2
        return tuple(tuple(n / t if t else None for n in row) for row, t in zip(areas, totals, strict=True))

    def column_shares(self) -> tuple[tuple[float | None, ...], ...]:
        """The matrix as shares of the area of each predicted class; None in a column without pixels."""
        totals = [sum(column) for column in zip(*self.confusion_mm2, strict=True)]
        return tuple(
            tuple(n / t if t else None for n, t in zip(row, totals, strict=True)) for row in self.confusion_mm2
        )


class BoundaryFigures(FileModel):
    """How well the borders of one class fit, where the truth is complete.

    Attributes:
        name: The class.
        boundary_iou: IoU of the strips along the borders, inside them, of what is true and what is predicted.
        mean_distance_um: Mean distance from each of both borders to the other.
        p95_distance_um: 95th percentile of these distances.
    """

    name: str
    boundary_iou: Figure
    mean_distance_um: Figure
    p95_distance_um: Figure


class ObjectFigures(FileModel):
    """How many connected areas of one class were found, where the truth is complete: IoU above 0.5 is a match.

    Attributes:
        name: The class.
        true: True areas.
        predicted: Predicted areas.
        matched: Areas that are both.
        f1: Harmonic mean of the matched parts of both.
        matched_iou: Mean IoU of the matches.
    """

    name: str
    true: Count
    predicted: Count
    matched: Count
    f1: Figure
    matched_iou: Figure


class CalibrationBin(FileModel):
    """Counted pixels whose highest probability lies in one interval.

    Attributes:
        low: Its lower end, not included but in the first.
        high: Its upper end, included.
        pixels: The pixels.
        confidence: Their mean highest probability; None where there are none.
        accuracy: Share of them that are right; None likewise.
    """

    low: Share
    high: Share
    pixels: Count
    confidence: Share | None
    accuracy: Share | None


class Calibration(FileModel):
    """Whether probabilities mean what they say.

    Attributes:
        bins: From low to high.
        expected_error: Expected calibration error: mean difference of confidence and accuracy, weighted by pixels.
        slides: Slides with probabilities.
    """

    bins: tuple[CalibrationBin, ...]
    expected_error: Figure
    slides: tuple[str, ...]


class SlideFigures(FileModel):
    """Figures of one slide."""

    slide_id: str
    figures: Figures


class Subgroup(FileModel):
    """Figures of the slides that have something in common.

    Attributes:
        key: What: a key of the metadata, or ``scanner``.
        value: Its value of these slides; empty where they have none.
        slides: The slides.
        figures: Their figures.
    """

    key: str
    value: str
    slides: tuple[str, ...]
    figures: Figures


class Unmatched(FileModel):
    """Classes without a counterpart of their name.

    Attributes:
        truth: True classes, and the slides whose prediction lacks them.
        predicted: Predicted classes that the truth lacks, and the slides whose prediction has them.
    """

    truth: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    predicted: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class TruthFigures(FileModel):
    """What one model reached against one kind of truth.

    Attributes:
        kind: The kind.
        pooled: Figures of all slides together.
        slides: Of each slide that has counted pixels, in the order of the evaluation's slides.
        subgroups: Of each subgroup.
        boundaries: Of each class, where the truth is complete; else empty, as ``objects``.
        objects: Likewise.
        calibration: Of the probabilities; None where none were written.
        unmatched: Classes without a counterpart.
    """

    kind: TruthKind
    pooled: Figures
    slides: tuple[SlideFigures, ...]
    subgroups: tuple[Subgroup, ...] = ()
    boundaries: tuple[BoundaryFigures, ...] = ()
    objects: tuple[ObjectFigures, ...] = ()
    calibration: Calibration | None = None
    unmatched: Unmatched = Unmatched()


class LabelSource(FileModel):
    """A raster of labels, for pictures and for looking again.

    Attributes:
        slide_id: The slide.
        path: Its file, absolute.
        values: Class of each value that counts, by the names under which classes met; several may share one.
        own_names: Class of each value as its maker calls it, where ``--map`` gave it another; else empty.
        names_from: What says so: ``raster``, ``run.json``, ``dataset``, or a table.
        downsample: Level-0 px per pixel of it.
        origin_path: Raster of the same shape that says which pixels count; None where all labelled ones do.
        origin_value: The value of it at these.
    """

    slide_id: str
    path: str
    values: dict[int, str]
    own_names: dict[int, str] = Field(default_factory=dict)
    names_from: str
    downsample: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    origin_path: str | None = None
    origin_value: int | None = None


class Ground(FileModel):
    """The pixels of a slide on which all are compared.

    Attributes:
        downsample: Level-0 px per pixel.
        shape: (rows, columns).
    """

    downsample: float = Field(gt=0, allow_inf_nan=False)
    shape: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]


class PredictedLabelSource(LabelSource):
    """The predicted labels of a slide, and who predicted them.

    Attributes:
        model: Name of the model; None where that is not recorded, as what follows.
        model_run: Run id of its training.
        weights: Digest of its weights.
        probabilities_path: Raster of its probabilities, where one was written.
        predicted_mm2: Area of each class on the whole slide, counted or not.
        trained_on: Whether the model was trained on this slide.
        distance_from_training: How far the slide is from the model's training slides.
        resampled_to: The pixels that were compared, each of which has the label of the predicted pixel that its centre
            lies in; None where they are the raster's own.
    """

    model: str | None = None
    model_run: str | None = None
    weights: str | None = None
    probabilities_path: str | None = None
    predicted_mm2: dict[str, Area] = Field(default_factory=dict)
    trained_on: bool = False
    distance_from_training: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    resampled_to: Ground | None = None


class EvaluatedSlide(FileModel):
    """A slide.

    Attributes:
        slide_id: Its name.
        image: Its file and frame; None where only rasters are known.
        mpp: um/px at level 0; None where that is not known, and areas are then those of 1 um/px.
        grid_mpp: um/px of the compared rasters; None likewise.
        case: Its case; its own name where none is known.
        properties: What subgroups are made of: metadata, and ``scanner``.
    """

    slide_id: str
    image: PredictedInput | None = None
    mpp: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    grid_mpp: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    case: str
    properties: dict[str, str] = Field(default_factory=dict)

    @property
    def pixel_um(self) -> float:
        """um/px of the compared rasters for lengths and areas: 1 where it is not known."""
        return self.grid_mpp or 1.0

    @property
    def pixel_mm2(self) -> float:
        """Area of a pixel of them, likewise."""
        return self.pixel_um**2 * MM2_OF_UM2


class TruthDescription(FileModel):
    """What was compared with.

    Attributes:
        kind: The kind.
        title: What people call it, such as ``annotated pixels``.
        is_full: Whether every pixel of the slides has its true class, so that borders and objects can be compared.
        rasters: Raster of each slide.
    """

    kind: TruthKind
    title: str
    is_full: bool
    rasters: tuple[LabelSource, ...]


class WorstRegion(FileModel):
    """A place where a prediction is wrong.

    Attributes:
        kind: Against which truth.
        slide_id: The slide.
        x_px: Left border in level-0 px of QuPath's frame.
        y_px: Upper border.
        width_px: Level-0 columns.
        height_px: Level-0 rows.
        true: The class that is there most among the wrong pixels.
        predicted: What it was most taken for; `NOT_PREDICTED` where nothing was predicted.
        pixels: Counted pixels in it.
        wrong_pixels: Those that are wrong.
        wrong_mm2: Their area.
    """

    kind: TruthKind
    slide_id: str
    x_px: int
    y_px: int
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    true: str
    predicted: str
    pixels: Count
    wrong_pixels: Count
    wrong_mm2: Area


class ModelEvaluation(FileModel):
    """One model, or one folder of predictions.

    Attributes:
        name: What it is called here; no two are called the same.
        predictions: Its folder of predictions, absolute.
        model: The model's folder, absolute, where that is known and there.
        card: Of the model's card: ``architecture``, ``parameters``, ``mpps``, ``width``, ``preset`` ..., in the order
            in which they are to be shown, as text; empty where there is no card.
        rasters: Predicted labels of each slide.
        truths: Figures against each kind of truth that has counted pixels.
        unchecked_pixels: Labelled pixels that are predictions nobody has checked; they do not count.
        worst: Where it is wrong most, worst first.
    """

    name: str
    predictions: str
    model: str | None = None
    card: dict[str, str] = Field(default_factory=dict)
    rasters: tuple[PredictedLabelSource, ...]
    truths: tuple[TruthFigures, ...]
    unchecked_pixels: Count = 0
    worst: tuple[WorstRegion, ...] = ()

    def of(self, kind: TruthKind) -> TruthFigures | None:
        """The figures against one kind of truth; None where there are none."""
        return next((figures for figures in self.truths if figures.kind == kind), None)


class PairedComparison(FileModel):
    """Whether one model is better than another on the same pixels.

    Attributes:
        kind: Against which truth.
        figure: Which figure: ``mean_iou``, ``mean_dice``, ``accuracy``, or ``iou`` of one class.
        class_name: That class; None of a mean.
        first: Name of one model.
        second: Name of the other.
        difference: The figure of the first minus that of the second, pooled, with its interval.
        p_value: Chance of a difference at least as large if which model is which did not matter, two-sided: its name
            exchanged slide by slide (case by case) in all ways, or in many random ones; None with fewer than two.
        samples: How many slides (cases) were exchanged.
        sample_kind: Whether slides or cases.
    """

    kind: TruthKind
    figure: str
    class_name: str | None = None
    first: str
    second: str
    difference: Figure
    p_value: Share | None
    samples: Count
    sample_kind: SampleKind


class EvaluationSettings(FileModel):
    """How it was compared.

    Attributes:
        maps: Predicted class and true class of each ``--map``.
        exclude: True classes whose pixels did not count.
        skip_unpredicted: Whether pixels without a prediction were left out; else they are misses.
        region: File of the areas outside of which nothing counted, where one was given.
        by: Keys of the subgroups.
        resamples: How many times slides were drawn for intervals.
        confidence: Part of the resampled figures that lies in an interval.
        seed: Start of the random numbers.
        sample_kind: What was drawn.
        samples: How many of them there are.
        boundary_um: Width of the strips of `BoundaryFigures`.
        distance_limit_um: Distances beyond count as this.
    """

    maps: tuple[tuple[str, str], ...] = ()
    exclude: tuple[str, ...] = ()
    skip_unpredicted: bool = False
    region: str | None = None
    by: tuple[str, ...] = ()
    resamples: Count = 0
    confidence: Share = 0.95
    seed: int = 0
    sample_kind: SampleKind = "slides"
    samples: Count = 0
    boundary_um: Area | None = None
    distance_limit_um: Area | None = None


class Evaluation(FileModel):
    """Content of ``evaluation.json``.

    Attributes:
        title: What was compared, in a line.
        split: Split of the slides; None where they are of none.
        dataset: Folder of the dataset, absolute; None where there is none.
        slides: The slides, in their order.
        colors: Red, green, blue of each class that is named anywhere.
        settings: How it was compared.
        truths: What was compared with.
        models: What was compared.
        comparisons: Each pair of models.
        warnings: What was warned of.
        provenance: Versions, command and times, as every ``run.json`` has them.
    """

    format_version: Literal[1] = 1
    title: str
    split: Split | None = None
    dataset: str | None = None
    slides: tuple[EvaluatedSlide, ...]
    colors: dict[str, tuple[Channel, Channel, Channel]] = Field(default_factory=dict)
    settings: EvaluationSettings = EvaluationSettings()
    truths: tuple[TruthDescription, ...]
    models: tuple[ModelEvaluation, ...] = Field(min_length=1)
    comparisons: tuple[PairedComparison, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    def truth(self, kind: TruthKind) -> TruthDescription | None:
        """The truth of one kind; None where there is none."""
        return next((truth for truth in self.truths if truth.kind == kind), None)

    def slide(self, slide_id: str) -> EvaluatedSlide:
        """The slide of a name; `KeyError` where there is none."""
        for slide in self.slides:
            if slide.slide_id == slide_id:
                return slide
        raise KeyError(slide_id)

    def figures(self) -> Iterator[tuple[ModelEvaluation, TruthFigures]]:
        """Every model against every kind of truth."""
        for model in self.models:
            for figures in model.truths:
                yield model, figures


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Writes ``evaluation.json`` into a folder, which is made if it is not there; returns the file."""
    path = folder / EVALUATION
    write_json(path, evaluation.model_dump(mode="json"))
    return path


def read_evaluation(folder: Path) -> Evaluation:
    """Reads ``evaluation.json`` of a folder.

    Raises:
        DatasetError: It is missing, damaged or of another version.
    """
    path = folder / EVALUATION
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f'"{folder}" has no {EVALUATION}; make one with dmmn-qp evaluate --out "{folder}"') from None
    except (ValidationError, ValueError, OSError) as error:
        raise DatasetError(
            f'"{path}" is damaged or of another version ({shorten(str(error), 99)}); evaluate again with --overwrite'
        ) from error
