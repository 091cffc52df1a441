"""`dmmn-qp status`: where the work stands, and what to type next.

It changes nothing, and reads neither pixels nor weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from dmmn_qp.errors import DatasetError, DmmnQpError
from dmmn_qp.files.failures import line_of
from dmmn_qp.folders.dataset import MANIFEST, Dataset, dataset_digest
from dmmn_qp.folders.model_glance import ModelGlance, glance_models, newest, number, read_object
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.folders.predictions import polygons_of, read_predictions
from dmmn_qp.folders.round_figures import RoundFigures, figures_of
from dmmn_qp.folders.rounds import loop_folder, read_ledger
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.source_files import as_named, changed_files, source_state
from dmmn_qp.reports.html import REPORT_FIGURES
from dmmn_qp.workflows.earlier import EarlierImport, are_same_sources, earlier_import, only_project
from dmmn_qp.workflows.places import Places
from dmmn_qp.workflows.status_words import lines_of, next_command

Value = TypeVar("Value")

_MAX_REPORT_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Annotated:
    """What is annotated, as the dataset has it.

    Attributes:
        slides: Number of slides; None where there is no dataset.
        classes: Number of classes.
        mm2: Area of all labels; None where that is not known.
        imported: When, UTC, ISO 8601; empty where that is not known.
        changed: Files of the source that changed since; None where that is not known.
        problem: What is wrong with the dataset or its source; None where nothing is.
    """

    slides: int | None = None
    classes: int = 0
    mm2: float | None = None
    imported: str = ""
    changed: tuple[str, ...] | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """What is predicted.

    Attributes:
        current: Slides that are predicted by the model that `predict` takes.
        stale: Name of another model -> slides that are still predicted by it.
        missing: Slides of the dataset without a prediction.
    """

    current: tuple[str, ...] = ()
    stale: dict[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Predicted areas in the source, as the last import met them.

    Attributes:
        confirmed: Locked as they are.
        corrected: With another class or outline.
        unchecked: Left to check.
    """

    confirmed: int = 0
    corrected: int = 0
    unchecked: int = 0


@dataclass(frozen=True, slots=True)
class WorkStatus:
    """Where the work stands.

    Attributes:
        places: The folders.
        sources: What is annotated: projects or slides; empty where that is not known.
        annotations: ``--annotations`` of the last import; None for none.
        annotated: What is annotated.
        models: The model folders, the last made last.
        model: The model that `predict` takes; None where there is none.
        is_trained: Whether a training has ended on the dataset as it is; None where that is not known.
        predicted: What is predicted.
        reviewed: What is reviewed; None where that is not known.
        rounds: The rounds of the ledger.
        problems: What else is damaged, a line each.
    """

    places: Places
    sources: tuple[Path, ...]
    annotations: Path | None
    annotated: Annotated
    models: tuple[ModelGlance, ...]
    model: ModelGlance | None
    is_trained: bool | None
    predicted: Predicted
    reviewed: Reviewed | None
    rounds: tuple[RoundFigures, ...]
    problems: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The status for people: at most ten lines, the last of which has the next command."""
        return lines_of(self)

    def as_json(self) -> dict[str, Any]:
        """The status for programs."""
        unfinished = [m.name for m in self.models if m.is_unfinished]
        last = next((r for r in reversed(self.rounds) if r.share is not None), None)
        return {
            "source": as_named(self.sources) if self.sources else None,
            "annotated": {
                "slides": self.annotated.slides,
                "classes": self.annotated.classes,
                "mm2": self.annotated.mm2,
                "imported": self.annotated.imported or None,
                "changed_files": None if self.annotated.changed is None else list(self.annotated.changed),
                "problem": self.annotated.problem,
            },
            "trained": {
                "model": None if self.model is None else self.model.name,
                "validation_mean_iou": None if self.model is None else self.model.mean_iou,
                "on_this_dataset": self.is_trained,
                "unfinished": unfinished,
                "not_accepted": [m.name for m in self.models if not m.accepted],
            },
            "predicted": {
                "current": list(self.predicted.current),
                "stale": {name: list(slides) for name, slides in self.predicted.stale.items()},
                "missing": list(self.predicted.missing),
            },
            "reviewed": None
            if self.reviewed is None
            else {
                "confirmed": self.reviewed.confirmed,
                "corrected": self.reviewed.corrected,
                "unchecked": self.reviewed.unchecked,
            },
            "curve": None
            if last is None
            else {"round": last.number, "model": last.round.model, "share_right": last.share},
            "problems": list(self.problems),
            "next": next_command(self),
        }


def work_status(workspace: Path, projects: Sequence[Path] = (), places: Places | None = None) -> WorkStatus:
    """Finds out where the work stands; what is missing or damaged is said, and never raised.

    Args:
        workspace: The folder in which the commands are typed.
        projects: What is annotated; none takes what the dataset was made of, else the only project in the workspace.
        places: The folders as they are typed; the usual ones unless given.
    """
    places = places or Places()
    dataset, problems = workspace / places.dataset, list[str]()
    earlier = earlier_import(dataset)
    sources = tuple(projects) or earlier.sources or tuple(filter(None, [only_project(workspace)]))
    models = tuple(glance_models(workspace / places.models))
    model = newest(list(models))
    annotated, slides = _annotated(workspace, dataset, sources, earlier)
    nothing: tuple[RoundFigures, ...] = ()
    rounds = _or_line(lambda: (*figures_of(read_ledger(loop_folder(dataset)), PersonSeconds()),), nothing, problems)
    return WorkStatus(
        places=places,
        sources=sources,
        annotations=earlier.annotations,
        annotated=annotated,
        models=models,
        model=model,
        is_trained=_is_trained(dataset, models, earlier) if annotated.slides is not None else None,
        predicted=_or_line(lambda: _predicted(workspace / places.predictions, slides, model), Predicted(), problems),
        reviewed=_reviewed(dataset),
        rounds=rounds,
        problems=(*(f'model "{m.folder}" is damaged' for m in models if m.is_damaged), *problems),
    )


def _or_line(find: Callable[[], Value], otherwise: Value, problems: list[str]) -> Value:
    """What a function finds; where it fails, its error becomes a line."""
    try:
        return find()
    except (DmmnQpError, OSError, ValueError) as error:
        problems.append(line_of(error))
        return otherwise


def _annotated(
    workspace: Path, dataset: Path, sources: Sequence[Path], earlier: EarlierImport
) -> tuple[Annotated, tuple[str, ...]]:
    """What is annotated, and the slides of the dataset."""
    if not (dataset / MANIFEST).is_file():
        return Annotated(), ()
    try:
        manifest = Dataset(dataset).manifest
    except (DatasetError, OSError) as error:
        return Annotated(problem=line_of(error)), ()
    figures = read_object(dataset / REPORT_FIGURES, _MAX_REPORT_BYTES)
    changed = _changed(workspace, sources, earlier)
    gone = [source for source in sources if not (workspace / source).exists()]
    problem = f'"{gone[0]}" is not there any more' if gone else None
    slides = tuple(record.slide_id for record in manifest.slides)
    return Annotated(len(slides), len(manifest.class_map), _mm2(figures), earlier.finished, changed, problem), slides


def _mm2(figures: dict[str, Any]) -> float | None:
    """The labelled area of all classes and splits in the figures of a dataset's report."""
    try:
        areas = [area for of_class in figures["classes"] for area in of_class["area_mm2"].values()]
    except (KeyError, TypeError, AttributeError):
        return None
    known = [mm2 for mm2 in map(number, areas) if mm2 is not None]
    return sum(known) if len(known) == len(areas) else None


def _changed(workspace: Path, sources: Sequence[Path], earlier: EarlierImport) -> tuple[str, ...] | None:
    """The files that changed since the import; None where that cannot be known."""
    paths = [workspace / source for source in sources]
    if not paths or earlier.files is None or not all(path.exists() for path in paths):
        return None
    if earlier.sources and not are_same_sources(paths, [workspace / source for source in earlier.sources]):
        return None
    try:
        options = ImportOptions.model_validate(dict(earlier.options))
    except ValueError:
        return None
    annotations = None if earlier.annotations is None else workspace / earlier.annotations
    with suppress(OSError):
        return tuple(changed_files(earlier.files, source_state(paths, annotations, options.tables, earlier.files)))
    return None


def _is_trained(dataset: Path, models: tuple[ModelGlance, ...], earlier: EarlierImport) -> bool | None:
    ended = [m for m in models if not m.is_damaged and not m.is_unfinished]
    if not ended:
        return False
    with suppress(OSError):
        if dataset_digest(dataset) in {m.dataset_digest for m in ended}:
            return True
    if all(m.dataset_digest is not None for m in ended):
        return False
    return max(m.created for m in ended) > earlier.finished if earlier.finished else None


def _predicted(folder: Path, slides: tuple[str, ...], model: ModelGlance | None) -> Predicted:
    records = {name: told for name, told in read_predictions(folder).items() if polygons_of(folder, name) is not None}
    current = tuple(name for name, told in records.items() if model is not None and told.model_run == model.run_id)
    by_model: dict[str, list[str]] = {}
    for name, told in records.items():
        if name not in current:
            by_model.setdefault(told.model, []).append(name)
    missing = tuple(name for name in slides if name not in records)
    return Predicted(current, {name: tuple(stale) for name, stale in by_model.items()}, missing)


def _reviewed(dataset: Path) -> Reviewed | None:
    told = read_object(dataset / REPORT_FIGURES, _MAX_REPORT_BYTES).get("review")
    counts = (
        Counter({key: value for key, value in told.items() if isinstance(value, int)})
        if isinstance(told, dict)
        else None
    )
    return None if counts is None else Reviewed(counts["confirmed"], counts["corrected"], counts["unchecked"])
