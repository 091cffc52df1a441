"""The figures of `import`: what ``report.json`` holds and ``report.html`` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dmmn_qp.choices import SPLITS, Split
from dmmn_qp.labels.class_rules import is_tissue
from dmmn_qp.labels.draws import ElasticRule, balanced_probabilities, shown_classes, suggested_rates
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.reports.drawing import DrawingFigures, DrawnOutlines, drawing_advice, drawing_in_all, drawn_outlines
from dmmn_qp.reports.inputs import Finding, ImportedData, ImportedSlide
from dmmn_qp.reports.review import CorrectionFigures, ReviewFigures, all_counts, correction_figures, review_figures
from dmmn_qp.specs import MM2_OF_UM2, FileModel
from dmmn_qp.version import __version__


class SlideClassFigures(FileModel):
    """One class on one slide.

    Attributes:
        class_name: The class.
        annotations: Areas that label pixels.
        area_mm2: Labelled area of the mask: what overlaps counts for one class only.
        tissue_share: That area divided by the slide's tissue area; above 1 is possible where glass is annotated. None
            where no tissue was found, and for classes that are no tissue.
        patches: Patches that show the class (more than 1 % of their pixels).
        pixel_share: That area divided by the area of the whole image.
    """

    class_name: str
    annotations: int
    area_mm2: float
    tissue_share: float | None
    patches: int
    pixel_share: float = 0.0


class SlideFigures(FileModel):
    """One slide.

    Attributes:
        slide_id: Its id in the dataset.
        name: What the user calls it.
        splits: Its split, or the splits of its areas where drawn areas divide it.
        mpp: um/px at level 0.
        width: Level-0 columns.
        height: Level-0 rows.
        tissue_mm2: Estimated area of tissue (`dmmn_qp.slides.tissue`).
        annotations: Everything drawn on the slide.
        unclassified: How many of them have no class.
        ignored: How many of them have a class that QuPath ignores (its name ends in ``*``) and that is not trained.
        patches: Targets that hold enough annotation, more than 1 % by default, by split.
        classes: What the classes have on the slide, in the order of the class map.
        review: Whose word its objects are.
        pixel_share: Labelled part of all its pixels.
        drawing: How its areas are drawn, by class.
        gap_um: Median distance of what faces an area of another class; None where nothing does.
    """

    slide_id: str
    name: str
    splits: tuple[Split, ...]
    mpp: float
    width: int
    height: int
    tissue_mm2: float
    annotations: int
    unclassified: int
    ignored: int
    patches: dict[Split, int]
    classes: tuple[SlideClassFigures, ...]
    review: ReviewFigures
    pixel_share: float = 0.0
    drawing: tuple[DrawingFigures, ...] = ()
    gap_um: float | None = None


class ClassFigures(FileModel):
    """One class in the whole dataset; by split: train, val, test.

    Attributes:
        name: The class.
        color: Red, green, blue.
        annotations: Areas that label pixels.
        slides: Slides that have it, by split.
        area_mm2: Labelled area, by split.
        patches: Patches that show the class, by split.
        pixel_share: Its part of all pixels of all slides.
    """

    name: str
    color: tuple[int, int, int]
    annotations: int
    slides: dict[Split, int]
    area_mm2: dict[Split, float]
    patches: dict[Split, int]
    pixel_share: float = 0.0


class ClassBalance(FileModel):
    """How much of one class training sees, without and with balancing: an expectation over the training patches.

    Attributes:
        class_name: The class.
        pixels_shuffled: Its part of the labelled pixels when every patch is drawn equally often.
        pixels_balanced: Its part when the classes take turns.
        draws_shuffled: Part of the draws that show it when every patch is drawn equally often.
        draws_balanced: Part of the draws that show it when the classes take turns.
        pixels_elastic: Its part of the labelled pixels after elastic balancing (paper, section 2.3).
        elastic_rate: The rate r_c suggested for that.
    """

    class_name: str
    pixels_shuffled: float
    pixels_balanced: float
    draws_shuffled: float
    draws_balanced: float
    pixels_elastic: float
    elastic_rate: int


class ImportReport(FileModel):
    """Content of ``report.json``.

    Attributes:
        format_version: Version of this format.
        made_by: Program and version.
        name: The dataset.
        source: Where the annotations came from.
        without_annotations: Slides left out because nothing is drawn on them.
        left_out: Why other images, or files of annotations, were left out, a line each.
        min_labelled_fraction: Part of a target that annotation must exceed for it to become a patch.
        findings: What to look at, worst first.
        classes: The classes in their order.
        slides: The slides in their order.
        balance: What training sees of each class; empty when there is no training patch.
        review: Whose word the objects of all slides are, those of slides without any label included.
        corrections: What the model had said of what somebody vouched for, by the names of the source.
        pixel_share: Labelled part of all pixels of all slides, as the paper counts what is annotated.
        drawing: How areas are drawn, by class.
        drawing_advice: What of it could be better, a line each.
    """

    format_version: Literal[1] = 1
    made_by: str = f"dmmn-qp {__version__}"
    name: str
    source: str
    without_annotations: int = Field(ge=0)
    left_out: tuple[str, ...] = ()
    min_labelled_fraction: float
    findings: tuple[Finding, ...]
    classes: tuple[ClassFigures, ...]
    slides: tuple[SlideFigures, ...]
    balance: tuple[ClassBalance, ...]
    review: ReviewFigures
    corrections: tuple[CorrectionFigures, ...]
    pixel_share: float = 0.0
    drawing: tuple[DrawingFigures, ...] = ()
    drawing_advice: tuple[str, ...] = ()


def make_report(
    data: ImportedData,
    label_pixels: Mapping[str, NDArray[np.int64]],
    tissue_mm2: Mapping[str, float],
    findings: tuple[Finding, ...],
) -> ImportReport:
    """All figures.

    Args:
        data: What was imported.
        label_pixels: (C,) pixels of each class in the mask of each slide, by slide id.
        tissue_mm2: Tissue of each slide, by slide id.
        findings: What somebody should look at.
    """
    drawn = [drawn_outlines(slide, data) for slide in data.slides]
    slides = tuple(
        _slide_figures(slide, data, label_pixels[slide.slide_id], tissue_mm2[slide.slide_id], outlines)
        for slide, outlines in zip(data.slides, drawn, strict=True)
    )
    return ImportReport(
        name=data.name,
        source=data.source,
        without_annotations=data.without_annotations,
        left_out=data.problems,
        min_labelled_fraction=data.patching.min_labelled_fraction,
        findings=findings,
        classes=tuple(
            _class_figures(i, data, [slide.classes[i] for slide in slides]) for i in range(len(data.class_map))
        ),
        slides=slides,
        balance=class_balance(
            [p for slide in data.slides for p in slide.patches if p.split == "train"], data.class_map.names
        ),
        review=review_figures(all_counts(data)),
        corrections=correction_figures(data),
        pixel_share=sum(c.area_mm2 for slide in slides for c in slide.classes) / _all_mm2(data),
        drawing=drawing_in_all([slide.drawing for slide in slides]),
        drawing_advice=drawing_advice(data.slides, drawn, len(data.class_map)),
    )


def _slide_figures(
    slide: ImportedSlide, data: ImportedData, pixels: NDArray[np.int64], tissue_mm2: float, drawn: DrawnOutlines
) -> SlideFigures:
    record = slide.record
    pixel_mm2 = _pixel_mm2(slide)
    labels = Counter(data.label_of(slide, annotation) for annotation in slide.annotations)
    shown = shown_classes(slide.patches, len(data.class_map)).sum(axis=0)
    classes = []
    for i, tissue_class in enumerate(data.class_map.classes):
        area = float(pixels[i]) * pixel_mm2
        classes.append(
            SlideClassFigures(
                class_name=tissue_class.name,
                annotations=labels[i + 1],
                area_mm2=area,
                tissue_share=area / tissue_mm2 if tissue_mm2 and is_tissue(tissue_class) else None,
                patches=int(shown[i]),
                pixel_share=area / _slide_mm2(slide),
            )
        )
    names = [annotation.class_name for annotation in slide.annotations]
    return SlideFigures(
        slide_id=record.slide_id,
        name=slide.name,
        splits=slide.splits,
        mpp=record.mpp,
        width=record.width,
        height=record.height,
        tissue_mm2=tissue_mm2,
        annotations=len(names),
        unclassified=sum(name is None for name in names),
        ignored=sum(
            name is not None and name.endswith("*") and data.class_map.label_of(name) is None for name in names
        ),
        patches={split: sum(patch.split == split for patch in slide.patches) for split in SPLITS},
        classes=tuple(classes),
        review=review_figures(slide.review),
        pixel_share=sum(c.pixel_share for c in classes),
        drawing=drawn.classes,
        gap_um=drawn.gap_um,
    )


def _class_figures(number: int, data: ImportedData, on_slides: list[SlideClassFigures]) -> ClassFigures:
    """Figures of class ``number`` of the class map.

    The area of a slide that drawn areas divide among splits is that of its patches.
    """
    tissue_class = data.class_map.classes[number]
    slides, patches = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    area_mm2 = dict.fromkeys(SPLITS, 0.0)
    for slide, figures in zip(data.slides, on_slides, strict=True):
        for split in slide.splits:
            of_split = tuple(patch for patch in slide.patches if patch.split == split)
            patches[split] += int(shown_classes(of_split, len(data.class_map))[:, number].sum())
            if not slide.is_divided:
                slides[split] += figures.annotations > 0
                area_mm2[split] += figures.area_mm2
            else:
                pixels = sum(patch.label_counts[number + 1] for patch in of_split)
                slides[split] += pixels > 0
                area_mm2[split] += pixels * _pixel_mm2(slide)
    return ClassFigures(
        name=tissue_class.name,
        color=tissue_class.color,
        annotations=sum(figures.annotations for figures in on_slides),
        slides=slides,
        area_mm2=area_mm2,
        patches=patches,
        pixel_share=sum(figures.area_mm2 for figures in on_slides) / _all_mm2(data),
    )


def class_balance(patches: list[PatchRef], names: tuple[str, ...]) -> tuple[ClassBalance, ...]:
    """What training sees of each class, without and with balancing; elastic rates are the suggested ones.

    Args:
        patches: The training patches.
        names: The classes; a class without a pixel in the patches makes the result empty.
    """
    if not patches:
        return ()
    counts = np.array([patch.label_counts[1:] for patch in patches], np.float64)
    if not counts.sum(axis=0).all():
        return ()
    shows = shown_classes(patches, len(names))
    shuffled, balanced = np.full(len(patches), 1 / len(patches)), balanced_probabilities(patches)
    order = tuple(range(1, len(names) + 1))
    elastic = ElasticRule(order, suggested_rates(patches, order))
    seen = (shuffled @ counts, balanced @ counts, elastic.balanced_pixels(patches))
    pixels = [of_class / of_class.sum() for of_class in seen]
    draws = [weights @ shows for weights in (shuffled, balanced)]
    return tuple(
        ClassBalance(
            class_name=name,
            pixels_shuffled=float(pixels[0][i]),
            pixels_balanced=float(pixels[1][i]),
            draws_shuffled=float(draws[0][i]),
            draws_balanced=float(draws[1][i]),
            pixels_elastic=float(pixels[2][i]),
            elastic_rate=elastic.rates[i],
        )
        for i, name in enumerate(names)
    )


def _slide_mm2(slide: ImportedSlide) -> float:
    """Area of the whole image."""
    return slide.record.width * slide.record.height * slide.record.mpp**2 * MM2_OF_UM2


def _all_mm2(data: ImportedData) -> float:
    return sum(map(_slide_mm2, data.slides)) or 1.0


def _pixel_mm2(slide: ImportedSlide) -> float:
    """Area of a pixel of the slide's mask."""
    return (slide.painter.downsample * slide.record.mpp) ** 2 * MM2_OF_UM2
