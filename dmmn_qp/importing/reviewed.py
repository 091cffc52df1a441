"""Which objects of an image an import takes: what was drawn, and what somebody vouched for of what was predicted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dmmn_qp.annotations import Annotation, Origin
from dmmn_qp.choices import TakePredictions
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.folders.names import PREDICTIONS
from dmmn_qp.folders.predictions import polygon_files
from dmmn_qp.importing.corrected import reviewed_models
from dmmn_qp.qupath.notes import ReadResult, ReadRules
from dmmn_qp.qupath.originals import Originals, read_originals
from dmmn_qp.qupath.review import Verdict, ids_of, is_prediction, possible_copies, review
from dmmn_qp.qupath.review_counts import ReviewCounts, ReviewedModel

_NUMBERED = re.compile(r"-\d+$")


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The objects of an image that are taken.

    Attributes:
        objects: The objects, each with its origin.
        counts: Of all objects that were there.
        models: What was corrected or confirmed, by the model that had predicted it.
    """

    objects: ReadResult
    counts: ReviewCounts = field(default_factory=ReviewCounts)
    models: tuple[ReviewedModel, ...] = ()


class Reviewer:
    """Tells the objects of images apart, with what there is of the predictions.

    Args:
        rules: Which predictions are taken, in which folders the objects are looked for as they were predicted, and
            which kinds of objects are counted; all are looked at.
    """

    def __init__(self, rules: ReadRules) -> None:
        self.rules = rules
        self._files: dict[str, list[Path]] = {}
        for folder in rules.predicted_in:
            for slide_id, paths in polygon_files(folder).items():
                self._files.setdefault(slide_id, []).extend(paths)
        self.problems: list[str] = []

    def of(self, objects: ReadResult, names: Iterable[str]) -> Reviewed:
        """Reviews the objects of one image.

        Args:
            objects: All objects of the image, of every kind.
            names: Names under which it may have been predicted.
        """
        annotations = objects.annotations
        files = self._files_of(names)
        originals = Originals()
        if files:
            originals, problems = read_originals(files, ids_of(annotations), possible_copies(annotations))
            self.problems += [problem for problem in problems if problem not in self.problems]
        elif not any(map(is_prediction, annotations)):
            return Reviewed(objects, ReviewCounts(drawn=sum(a.kind in self.rules.kinds for a in annotations)))
        verdicts = review(annotations, originals)
        taken, kept_verdicts, left_out, others = [], [], [], []
        for annotation, verdict in zip(annotations, verdicts, strict=True):
            origin = _origin_taken(annotation, verdict, self.rules.take_predictions)
            if origin is None:
                left_out.append(annotation)
                others.append((annotation, verdict))
            else:
                taken.append(replace(annotation, origin=origin, predicted_as=verdict.predicted_as))
                kept_verdicts.append(verdict)
        return Reviewed(
            replace(objects, annotations=tuple(taken)),
            _counts(
                [v for a, v in zip(annotations, verdicts, strict=True) if a.kind in self.rules.kinds],
                [a for a in left_out if a.kind in self.rules.kinds],
            ),
            reviewed_models(taken, kept_verdicts, others),
        )

    def _files_of(self, names: Iterable[str]) -> list[Path]:
        """Files of an image of these names, or of one that repeats a name and so got a number."""
        wanted = set(names)
        return [
            path
            for slide_id, paths in self._files.items()
            if slide_id in wanted or _NUMBERED.sub("", slide_id) in wanted
            for path in paths
        ]


def _origin_taken(annotation: Annotation, verdict: Verdict, take: TakePredictions) -> Origin | None:
    """Whose word an object is taken as; None where it is left out."""
    if verdict.is_outline:
        return None
    if verdict.origin == "drawn" or take == "all":
        return verdict.origin
    if take == "locked":
        return ("confirmed" if verdict.origin == "unchecked" else verdict.origin) if annotation.locked else None
    return verdict.origin if take == "reviewed" and verdict.origin != "unchecked" else None


def _counts(verdicts: Sequence[Verdict], left_out: Sequence[Annotation]) -> ReviewCounts:
    origins = Counter(verdict.origin for verdict in verdicts if not verdict.is_outline)
    return ReviewCounts(
        drawn=origins["drawn"],
        confirmed=origins["confirmed"],
        corrected=origins["corrected"],
        unchecked=origins["unchecked"],
        doubts=Counter(verdict.doubt for verdict in verdicts if verdict.doubt is not None),
        outlines=sum(verdict.is_outline for verdict in verdicts),
        left_out=len(left_out),
        left_out_classes=frozenset(a.class_name for a in left_out if a.class_name is not None),
    )


def check_folder(folder: Path) -> Path:
    """A folder of predictions that the user named.

    Raises:
        AnnotationFileError: It holds no predictions.
    """
    if not polygon_files(folder):
        raise AnnotationFileError(
            f'"{folder}" holds no predictions (no <slide>.geojson); pass the folder that dmmn-qp predict wrote as '
            "--predicted-in, or leave it out"
        )
    return folder


def prediction_folders(
    source_paths: Sequence[Path], annotations: Path | None, out: Path, predicted_in: Path | None = None
) -> tuple[Path, ...]:
    """Where our own objects may be found as they were predicted.

    The folder that the user names; else ``predictions/`` beside the dataset and in the folder of each project, and the
    folder of the annotations, which may be that of predictions.

    Raises:
        AnnotationFileError: The user names a folder without predictions.
    """
    if predicted_in is not None:
        return (check_folder(predicted_in),)
    on_disks = [path for path in source_paths if not isinstance(path, RemotePath)]
    projects = [path if path.is_dir() else path.parent for path in on_disks]
    places = [folder / PREDICTIONS for folder in (out.parent, *projects)]
    if annotations is not None:
        places.append(annotations if annotations.is_dir() else annotations.parent)
    return tuple({place.resolve(): place for place in places if place.is_dir()}.values())
