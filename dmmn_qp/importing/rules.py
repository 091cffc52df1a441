"""What an import was asked for, turned once, at the door, into the rules that the floors below know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmmn_qp.choices import Split
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.labels.class_rules import ClassRules, PaintRules, PatchRules
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.slides.pixel_sizes import MppRules


@dataclass(frozen=True, slots=True)
class SplitRules:
    """Which split a slide belongs to.

    Attributes:
        metadata_key: Key of the image metadata that holds train, val or test.
        table: CSV with the columns slide and split, which wins over the metadata; None for no such table.
        case_pattern: Regular expression on slide names that finds the case; None where every slide is its own case.
        seed: Seed of the draw, where nobody says the split of any slide.
        all_for: The one split of all slides, whatever anybody says; None where it is said or drawn.
    """

    metadata_key: str = "split"
    table: Path | None = None
    case_pattern: str | None = None
    seed: int = 0
    all_for: Split | None = None


@dataclass(frozen=True, slots=True)
class ImportRules:
    """All rules of an import; each function below the door takes the one that it needs.

    Attributes:
        reading: What is read of the source, and how.
        classes: What becomes of each class name.
        painting: How annotations become labels.
        patches: Which targets of a slide become patches.
        splits: Which split a slide belongs to.
        pixel_sizes: What the user says of them.
    """

    reading: ReadRules = field(default_factory=ReadRules)
    classes: ClassRules = field(default_factory=ClassRules)
    painting: PaintRules = field(default_factory=PaintRules)
    patches: PatchRules = field(default_factory=PatchRules)
    splits: SplitRules = field(default_factory=SplitRules)
    pixel_sizes: MppRules = field(default_factory=MppRules)


def rules_of(options: ImportOptions, predicted_in: Sequence[Path] = (), all_for: Split | None = None) -> ImportRules:
    """Turns options into rules.

    Args:
        options: Resolved options.
        predicted_in: Folders in which our own objects are looked for as they were predicted.
        all_for: The one split of all slides; None where it is said or drawn.
    """
    return ImportRules(
        ReadRules(
            options.kinds,
            options.plane,
            options.reader,
            options.qupath_dir,
            options.take_predictions,
            tuple(predicted_in),
            options.recursive,
        ),
        ClassRules(options.classes, options.drop, options.merge_case, options.region_class),
        PaintRules(options.overlap, options.line_width_um, options.region_class),
        PatchRules(options.patch_spec(), options.min_labelled_fraction, options.split_areas),
        SplitRules(options.split_key, options.split_file, options.case_pattern, options.seed, all_for),
        MppRules(options.mpp, options.force_mpp, options.mpp_csv),
    )
