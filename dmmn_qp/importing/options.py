"""Options of `dmmn-qp import`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, NonNegativeInt, StringConstraints, ValidationError, model_validator

from dmmn_qp.annotations import ObjectKind
from dmmn_qp.choices import OverlapRule, Reader, TakePredictions
from dmmn_qp.labels.class_rules import ClassRules, PaintRules
from dmmn_qp.qupath.notes import ReadRules, full_class_name
from dmmn_qp.specs import MIN_LABELLED_FRACTION, FileModel, PatchSpec, explain


def _as_qupath_shows_it(name: str) -> str:
    return full_class_name([name]) or name


ClassName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_as_qupath_shows_it)]
"""A class's full name as QuPath shows it, such as ``Tumor: Positive``."""


class ImportOptions(FileModel):
    """Options of `dmmn-qp import`.

    Attributes:
        mpps: um/px of the magnifications, finest first.
        stride_px: Distance of neighbouring targets in pixels of ``mpps[0]``.
        min_labelled_fraction: A target is kept when more than this part of it is annotated.
        mpp: um/px of slides that do not say it and of which the project does not say it.
        mpp_csv: Table slide,mpp of the same for single slides, which wins over ``mpp``.
        split_key: Key of the image metadata that holds train, val or test.
        classes: Name in the source -> name to train; names with one target are merged.
        drop: Classes that are not trained.
        merge_case: Whether names that differ only in case or blanks are one class.
        overlap: Which area wins where classes overlap.
        line_width_um: Width given to lines of trained classes; None leaves lines out.
        region_class: Class of areas outside which nothing is labelled.
        split_file: CSV with the columns slide and split, which wins over the metadata.
        split_areas: Whether areas whose class or name is Training, Validation or Test divide their slides.
        case_pattern: Regular expression on slide names; slides with the same match (its first group, if any) are of
            one case and go to one split when splits are drawn.
        seed: Decides the split of slides that have none.
        kinds: Kinds of objects that are read.
        plane: (z, t) of the plane whose areas are trained; None takes of each slide the plane that holds most.
        reader: How objects of a QuPath project are read.
        qupath_dir: Folder of QuPath, for the reader that needs it.
        strict: Whether nothing is written when annotations are damaged or missing; else they are left out with a
            warning, as long as others are left.
        take_predictions: Which of our own predictions become labels.
        predicted_in: Folder of predictions in which our own objects are looked for as they were predicted; None looks
            beside the dataset and in the project's folder.
    """

    mpps: tuple[float, ...] = PatchSpec().mpps
    stride_px: int = PatchSpec().stride_px
    min_labelled_fraction: float = Field(default=MIN_LABELLED_FRACTION, ge=0, lt=1)
    mpp: float | None = Field(default=None, gt=0)
    mpp_csv: Path | None = None
    split_key: str = "split"
    classes: dict[str, ClassName] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()
    merge_case: bool = False
    overlap: OverlapRule = "class-order"
    line_width_um: float | None = Field(default=None, gt=0)
    region_class: str | None = None
    split_file: Path | None = None
    split_areas: bool = False
    case_pattern: str | None = None
    seed: NonNegativeInt = 0
    kinds: tuple[ObjectKind, ...] = Field(default=ReadRules().kinds, min_length=1)
    plane: tuple[NonNegativeInt, NonNegativeInt] | None = None
    reader: Reader = "auto"
    qupath_dir: Path | None = None
    strict: bool = False
    take_predictions: TakePredictions = "reviewed"
    predicted_in: Path | None = None

    @model_validator(mode="after")
    def _makes_patches(self) -> Self:
        try:
            self.patch_spec()
        except ValidationError as error:
            raise ValueError(explain(error)) from None
        return self

    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        return PatchSpec(mpps=self.mpps, stride_px=self.stride_px)

    def read_rules(self, predicted_in: Sequence[Path] = ()) -> ReadRules:
        """What is read of the source, and how.

        Args:
            predicted_in: Folders of predictions to look into.
        """
        return ReadRules(
            self.kinds, self.plane, self.reader, self.qupath_dir, self.take_predictions, tuple(predicted_in)
        )

    def class_rules(self) -> ClassRules:
        """What becomes of each class name."""
        return ClassRules(self.classes, self.drop, self.merge_case, self.region_class)

    def paint_rules(self) -> PaintRules:
        """How annotations become labels."""
        return PaintRules(self.overlap, self.line_width_um, self.region_class)
