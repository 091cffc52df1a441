"""The folder of a comparison: how far two things that have labels agree, and where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from dmmn_qp.files import write_json
from dmmn_qp.folders.evaluation import Area, Count, Figure
from dmmn_qp.specs import FileModel

COMPARISON: Final = "comparison.json"
"""The file that marks it as ours."""


class ClassAgreement(FileModel):
    """How far both agree on one class.

    Attributes:
        name: The class.
        first_mm2: Area to which the first gives it.
        second_mm2: Area to which the second does.
        shared_mm2: Area to which both do.
        dice: Twice the shared area over the sum of both, where both label something.
        iou: The shared area over the joined one, likewise.
    """

    name: str
    first_mm2: Area
    second_mm2: Area
    shared_mm2: Area
    dice: Figure
    iou: Figure


class PairArea(FileModel):
    """Area to which the first gives one class and the second another."""

    first: str
    second: str
    mm2: Area


class Agreement(FileModel):
    """How far both agree.

    Attributes:
        pixels: Pixels that both label.
        both_mm2: Their area.
        agreed_mm2: Area to which both give one class.
        only_first_mm2: Area that the first alone labels.
        only_second_mm2: Area that the second alone labels.
        agreement: Share of the pixels that both label with one class.
        kappa: Cohen's kappa of them.
        mean_dice: Mean over the classes that either has there.
        mean_iou: Likewise.
        classes: Of each class.
        pairs: Of each pair of classes that are not one, the largest area first.
    """

    pixels: Count
    both_mm2: Area
    agreed_mm2: Area
    only_first_mm2: Area
    only_second_mm2: Area
    agreement: Figure
    kappa: Figure
    mean_dice: Figure
    mean_iou: Figure
    classes: tuple[ClassAgreement, ...]
    pairs: tuple[PairArea, ...]


class DisagreementRegion(FileModel):
    """A connected area to which both give two different classes.

    Attributes:
        first: Class of the first.
        second: Class of the second.
        mm2: Its area.
        x_px: A point in it, in level-0 px of QuPath's frame.
        y_px: Likewise.
    """

    first: str
    second: str
    mm2: Area
    x_px: float
    y_px: float


class ComparedSlideFigures(FileModel):
    """One slide.

    Attributes:
        slide_id: Its name.
        first: File of the first's labels.
        second: File of the second's.
        mpp: um/px at level 0; None where nobody says it, and areas are then those of 1 um/px.
        grid_px: Level-0 px per compared pixel.
        first_px: Level-0 px per pixel of the first's label map, where it has other pixels than those that are compared.
        second_px: The same of the second's.
        figures: Its figures.
        regions: The largest areas of disagreement, the largest first.
    """

    slide_id: str
    first: str
    second: str
    mpp: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    grid_px: float = Field(gt=0, allow_inf_nan=False)
    first_px: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    second_px: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    figures: Agreement
    regions: tuple[DisagreementRegion, ...] = ()


class Comparison(FileModel):
    """Content of ``comparison.json``.

    Attributes:
        first: What was compared, as its user named it.
        second: With what.
        maps: Class of the second and of the first of each ``--map``.
        exclude: Classes that did not count.
        pooled: Figures of all slides together.
        slides: Of each slide.
        only_first: Slides that the second does not have.
        only_second: Slides that the first does not have.
        warnings: What was warned of.
        provenance: Versions, command and times, as every ``run.json`` has them.
    """

    format_version: Literal[1] = 1
    first: str
    second: str
    maps: tuple[tuple[str, str], ...] = ()
    exclude: tuple[str, ...] = ()
    pooled: Agreement
    slides: tuple[ComparedSlideFigures, ...]
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Writes ``comparison.json`` into a folder that is there; returns the file."""
    path = folder / COMPARISON
    write_json(path, comparison.model_dump(mode="json"))
    return path
