"""Options of `dmmn-qp import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, StringConstraints, model_validator

from dmmn_qp.annotations import ObjectKind
from dmmn_qp.choices import OverlapRule, Reader, TakePredictions
from dmmn_qp.files.paths import UserPath
from dmmn_qp.flags import Flag
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE, ReadRules, full_class_name
from dmmn_qp.specs import MIN_LABELLED_FRACTION, FileModel, PatchSpec
from dmmn_qp.text import shorten


def _as_qupath_shows_it(name: str) -> str:
    return full_class_name([name]) or name


ClassName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_as_qupath_shows_it)]
"""A class's full name as QuPath shows it, such as ``Tumor: Positive``."""


CLASSES_PANEL, SPLIT_PANEL, READING_PANEL = "Classes and labels", "Training, validation and test", "Reading"


def numbers(given: Any) -> Any:
    """Reads ``0.5,1,2`` as (0.5, 1.0, 2.0); what is no text stays as it is.

    Raises:
        ValueError: The text is no list of numbers.
    """
    if not isinstance(given, str):
        return given
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f'"{shorten(given)}" is not a list of numbers; write it as 0.5,1,2') from None


def words(given: Any) -> Any:
    """Reads ``annotation, cell`` as ("annotation", "cell"); what is no text stays as it is."""
    return tuple(given.replace(" ", "").split(",")) if isinstance(given, str) else given


def z_and_t(given: Any) -> Any:
    """Reads ``2,0`` or ``2`` as (2, 0); what is no text stays as it is.

    Raises:
        ValueError: The text is no plane.
    """
    if not isinstance(given, str):
        return given
    parts = [part.strip() for part in given.split(",")]
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise ValueError(f'"{shorten(given)}" is no plane; write it as 2 or 2,0 (z and t from 0)')
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 0


class ImportOptions(FileModel):
    """Options of `dmmn-qp import`.

    Attributes:
        mpps: um/px of the magnifications, finest first.
        stride_px: Distance of neighbouring targets in pixels of ``mpps[0]``.
        min_labelled_fraction: A target is kept when more than this part of it is annotated.
        mpp: um/px of slides of which neither the file nor the project says it.
        force_mpp: Whether ``mpp`` counts whatever they say.
        mpp_csv: Table slide,mpp for single slides, which wins over all others.
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
        recursive: Whether the folders in a folder of slides are searched too.
        workers: Processes that paint slides; None fits them to the machine and to the work.
        strict: Whether nothing is written when annotations or images are damaged or missing; else they are left out
            with a warning, as long as others are left.
        take_predictions: Which of our own predictions become labels.
        predicted_in: Folder of predictions in which our own objects are looked for as they were predicted; None looks
            beside the dataset and in the project's folder.
        person_seconds: How long a person takes, for the estimate in ``loop.html``.
    """

    mpps: Annotated[
        tuple[float, ...],
        Flag(
            "um/px of the magnifications, finest first (20x, 10x, 5x).",
            metavar="UM,UM,...",
            panel=READING_PANEL,
        ),
        BeforeValidator(numbers),
    ] = PatchSpec().mpps
    stride_px: int = PatchSpec().stride_px
    min_labelled_fraction: float = Field(default=MIN_LABELLED_FRACTION, ge=0, lt=1)
    mpp: Annotated[float | None, Flag("um/px of slides that do not say it themselves.", metavar="UM")] = Field(
        default=None, gt=0
    )
    force_mpp: Annotated[bool, Flag("--mpp counts whatever file and project say.", panel=READING_PANEL)] = False
    mpp_csv: Annotated[
        UserPath | None, Flag("Table slide,mpp of single slides, which wins over file and project.", metavar="FILE")
    ] = None
    split_key: Annotated[
        str, Flag("Image metadata key that says train, val or test.", metavar="KEY", panel=SPLIT_PANEL)
    ] = "split"
    classes: dict[ClassName, ClassName] = Field(default_factory=dict)
    drop: Annotated[
        tuple[str, ...],
        AfterValidator(lambda names: tuple(map(_as_qupath_shows_it, names))),
        Flag("Class not to train on; repeatable.", metavar="NAME"),
    ] = ()
    merge_case: Annotated[
        bool, Flag("Class names that differ only in case or blanks are one class.", panel=CLASSES_PANEL)
    ] = False
    overlap: Annotated[
        OverlapRule,
        Flag(
            "Which area wins where classes overlap: the inner one, that lies inside the other, and else the "
            "class-order; the class-order of the project alone; the smallest; the last of the drawing; the one of most "
            "depth in the hierarchy; or unlabelled for none.",
            panel=CLASSES_PANEL,
        ),
    ] = "inner"
    line_width_um: Annotated[
        float | None,
        Flag("Train on lines too, drawn this wide.", metavar="UM", panel=CLASSES_PANEL, default="lines are left out"),
    ] = Field(default=None, gt=0)
    region_class: Annotated[
        str | None,
        AfterValidator(lambda name: name and _as_qupath_shows_it(name)),
        Flag("Class of areas outside which nothing is labelled, such as Region*.", metavar="NAME", panel=CLASSES_PANEL),
    ] = None
    split_file: Annotated[UserPath | None, Flag("Table slide,split of train, val and test.", metavar="FILE")] = None
    split_areas: Annotated[
        bool, Flag("Areas named Training, Validation or Test divide the slide they lie on.", panel=SPLIT_PANEL)
    ] = False
    case_pattern: Annotated[
        str | None,
        Flag("Regular expression that finds the case in a slide's name.", metavar="REGEX", panel=SPLIT_PANEL),
    ] = None
    seed: Annotated[
        NonNegativeInt, Flag("Decides the split where no slide has one.", metavar="N", panel=SPLIT_PANEL)
    ] = 0
    kinds: Annotated[
        tuple[ObjectKind, ...],
        Flag(
            "Objects to read, of annotation, detection, cell, tile, tma_core.",
            metavar="KIND,...",
            panel=READING_PANEL,
        ),
        BeforeValidator(words),
    ] = Field(default=ReadRules().kinds, min_length=1)
    plane: Annotated[
        tuple[NonNegativeInt, NonNegativeInt] | None,
        Flag(
            "Plane to train on.",
            metavar="Z[,T]",
            panel=READING_PANEL,
            default="the one that holds most annotations",
        ),
        BeforeValidator(z_and_t),
    ] = None
    reader: Annotated[
        Reader,
        Flag("How to read a project: qpdata directly, paquo through QuPath, auto as needed.", panel=READING_PANEL),
    ] = "auto"
    qupath_dir: Annotated[
        UserPath | None,
        Flag(
            "Folder of QuPath, for the reader paquo.", metavar="FOLDER", panel=READING_PANEL, envvar=QUPATH_DIR_VARIABLE
        ),
    ] = None
    recursive: Annotated[bool, Flag("Search the folders in the folder of slides too.", panel=READING_PANEL)] = False
    workers: Annotated[
        int | None,
        Flag(
            "Processes that paint slides, each one slide at a time; 1 paints in this one.",
            metavar="N",
            panel=READING_PANEL,
            default="the machine's cores, at most 8, and 1 where little is to be painted",
        ),
    ] = Field(default=None, ge=0)
    strict: Annotated[
        bool,
        Flag(
            "Write nothing and exit with 1 where annotations or images are damaged or missing, after all others were "
            "looked at; else leave them out with a warning.",
            panel=READING_PANEL,
        ),
    ] = False
    take_predictions: Annotated[
        TakePredictions,
        Flag(
            "Which predicted areas become labels: those reviewed (locked, or class or outline changed), those locked, "
            "all, or none."
        ),
    ] = "reviewed"
    predicted_in: Annotated[
        UserPath | None,
        Flag(
            "Folder of the predictions that were reviewed.",
            metavar="FOLDER",
            default="predictions/ beside the dataset and the project",
        ),
    ] = None
    person_seconds: PersonSeconds = PersonSeconds()

    @model_validator(mode="after")
    def _makes_patches(self) -> Self:
        self.patch_spec()  # its errors are those of the fields of the same names
        return self

    def patch_spec(self) -> PatchSpec:
        """Returns the patch geometry."""
        return PatchSpec(mpps=self.mpps, stride_px=self.stride_px)

    @property
    def tables(self) -> dict[str, Path | None]:
        """The tables that options name, by the option."""
        return {"split_file": self.split_file, "mpp_csv": self.mpp_csv}
