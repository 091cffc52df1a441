"""The steps of a round: what each would do, as a command, and why it is left out where nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.files import write_json
from dmmn_qp.folders.dataset import MANIFEST, Dataset, dataset_digest
from dmmn_qp.folders.model_glance import ModelGlance, glance_models, newest, read_object
from dmmn_qp.folders.predictions import Prediction, polygons_of, read_predictions
from dmmn_qp.folders.rounds import loop_folder
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.source_files import changed_files, source_state
from dmmn_qp.importing.stage import import_annotations
from dmmn_qp.predicting.inputs import SlideToPredict, slides_to_predict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath.project import read_project
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import count_of, shorten
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.workflows.earlier import EarlierImport, are_same_sources, is_same_source, listed_sources
from dmmn_qp.workflows.places import Places, command

PUSHED: Final = "pushed.json"
"""In the loop's folder: the predictions that rounds have pushed."""

_SLIDES: Final = "slides"


@dataclass(frozen=True, slots=True)
class RoundRequest:
    """What a round is asked for.

    Attributes:
        sources: What is annotated: projects, or slides with ``annotations``.
        annotations: Folder of GeoJSON files, for slides without a project.
        places: The folders.
        importing: Options of `import`.
        training: Options of `train`, but for the model to start from.
        predicting: Options of `predict`.
        slides_roots: Where to look for slides that have been moved.
        push: Whether the projects get the predictions.
        qupath_dir: QuPath's folder, for that.
        all_images: Whether every image of the project is predicted; else those of the dataset, and those that were
            predicted before.
    """

    sources: tuple[Path, ...]
    annotations: Path | None
    places: Places
    importing: ImportOptions
    training: TrainOptions
    predicting: PredictOptions
    slides_roots: Sequence[SlidesRoot] = ()
    push: bool = False
    qupath_dir: Path | None = None
    all_images: bool = False

    @property
    def is_project(self) -> bool:
        """Whether what is annotated is a project of QuPath."""
        return self.annotations is None


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a round.

    Attributes:
        name: What it is called in messages.
        command: The command that does the same.
        skipped: Why it is left out; None where it is done.
        do: Does it.
    """

    name: str
    command: str
    skipped: str | None
    do: Callable[[Reporter], None]


def import_step(asked: RoundRequest, earlier: EarlierImport) -> Step:
    """Imports, unless neither annotations nor options changed since the dataset was made.

    Raises:
        ConfigError: The dataset was made of something else.
    """
    dataset = asked.places.dataset
    there = (dataset / MANIFEST).is_file()
    if there and earlier.sources and not are_same_sources(asked.sources, earlier.sources):
        raise ConfigError(
            f'dataset "{dataset}" was made of {listed_sources(earlier.sources)}, not of '
            f"{listed_sources(asked.sources)}; name another folder with --dataset"
        )
    skipped = f"nothing changed since {dataset}/ was made" if there and not _has_news(asked, earlier) else None

    def do(reporter: Reporter) -> None:
        import_annotations(
            asked.sources,
            dataset,
            asked.importing,
            reporter,
            annotations=asked.annotations,
            slides_roots=asked.slides_roots,
            overwrite=there,
        )

    told = command(
        "import", *asked.sources, annotations=asked.annotations, out=asked.places.given_dataset, overwrite=there
    )
    kept = "  # with the options of the import before" if _has_kept(earlier) else ""
    return Step("import", told + kept, skipped, do)


def _has_kept(earlier: EarlierImport) -> bool:
    """Whether the import before had options that are not the defaults."""
    defaults = ImportOptions().model_dump(mode="json")
    return any(value != defaults.get(name) for name, value in earlier.options.items())


def _has_news(asked: RoundRequest, earlier: EarlierImport) -> bool:
    """Whether annotations or options differ from those of the import, or that cannot be known."""
    if earlier.files is None:
        return True
    now = asked.importing.model_dump(mode="json")
    if any(earlier.options.get(name) != value for name, value in now.items() if name not in _WITHOUT_INFLUENCE):
        return True
    return bool(
        changed_files(
            earlier.files, source_state(asked.sources, asked.annotations, asked.importing.tables, earlier.files)
        )
    )


_WITHOUT_INFLUENCE: Final = frozenset({"workers", "qupath_dir"})
"""Options of `import` that change nothing in a dataset."""


def train_step(asked: RoundRequest, *, has_news: bool) -> Step:
    """Trains from the last accepted model, or on where a training was interrupted, unless one has ended on the dataset.

    Args:
        asked: What is asked for.
        has_news: Whether the dataset is about to change.
    """
    from dmmn_qp.workflows.training import resume_training, train_anew

    places, models = asked.places, glance_models(asked.places.models)
    digest = None if has_news else _digest(places.dataset)
    of_dataset = [m for m in models if digest is not None and m.dataset_digest == digest and not m.is_damaged]
    done = next((m for m in reversed(of_dataset) if not m.is_unfinished), None)
    if done is not None:
        state = "" if done.accepted else ", which is not accepted,"
        return Step("train", "", f"{shorten(done.name)}{state} was trained on this dataset", lambda reporter: None)
    interrupted = next((m for m in reversed(models) if m.is_unfinished), None)
    if interrupted is not None and digest is not None:
        going_on = resume_training(asked, interrupted.folder, digest)
        if going_on is not None:
            told = command("train", resume=True, out=interrupted.folder)
            return Step("train", told, None, going_on)
    base = newest([m for m in models if not m.is_unfinished])
    start = asked.training.start_from if base is None else base.folder
    told = command("train", dataset=places.given_dataset, from_=start)

    def do(reporter: Reporter) -> None:
        train_anew(asked, start, reporter)

    return Step("train", told, None, do)


def _digest(dataset: Path) -> str | None:
    with suppress(OSError):
        return dataset_digest(dataset)
    return None


def predict_step(asked: RoundRequest, *, has_news: bool) -> Step:
    """Predicts the slides that are not predicted by the newest accepted model.

    Args:
        asked: What is asked for.
        has_news: Whether there is about to be a newer model.
    """
    from dmmn_qp.predicting.stage import predict

    places, model = asked.places, newest(glance_models(asked.places.models))
    named = asked.sources if asked.all_images and asked.is_project else ()
    told = command(
        "predict", *named, dataset=places.given_dataset, out=places.given_predictions, overwrite=True,
    )  # fmt: skip
    if has_news or model is None:
        return Step("predict", told, None, lambda reporter: None)
    slides = _slides(asked)
    records = read_predictions(places.predictions)
    wanted = [slide for slide in slides if not _is_by(model, records, places.predictions, slide.slide_id)]
    if not wanted:
        n = count_of(len(slides), "slide")
        return Step("predict", told, f"{n} predicted by {shorten(model.name)}", lambda reporter: None)

    def do(reporter: Reporter) -> None:
        predict(model.folder, wanted, places.predictions, asked.predicting, reporter, overwrite=True)

    if len(wanted) < len(slides):
        told = command(
            "predict", *(slide.slide_id for slide in wanted), dataset=places.given_dataset,
            out=places.given_predictions, overwrite=True,
        )  # fmt: skip
    return Step("predict", told, None, do)


def _slides(asked: RoundRequest) -> list[SlideToPredict]:
    """The slides of the dataset, and of the project those that were predicted before, or all."""
    places, roots = asked.places, asked.slides_roots
    slides = slides_to_predict([], places.dataset, roots)
    if not asked.is_project:
        return slides
    known = {slide.slide_id for slide in slides}
    before = read_predictions(places.predictions)
    if not asked.all_images and not before.keys() - known:
        return slides
    images = slides_to_predict([str(read_project(source).path) for source in asked.sources], places.dataset, roots)
    return slides + [s for s in images if s.slide_id not in known and (asked.all_images or s.slide_id in before)]


def _is_by(model: ModelGlance, records: Mapping[str, Prediction], folder: Path, slide_id: str) -> bool:
    record = records.get(slide_id)
    return record is not None and record.model_run == model.run_id and polygons_of(folder, slide_id) is not None


def push_step(asked: RoundRequest, *, has_news: bool) -> Step:
    """Pushes the predictions that no round has pushed.

    Args:
        asked: What is asked for.
        has_news: Whether there are about to be newer predictions.
    """
    from dmmn_qp.pushing.stage import push

    places, note = asked.places, loop_folder(asked.places.dataset) / PUSHED
    told = " && ".join(command("push", places.given_predictions, into=source) for source in asked.sources)
    runs = {name: record.run_id for name, record in read_predictions(places.predictions).items()}
    theirs = {source: slides_of(asked, source, runs) for source in asked.sources}
    pushed: dict[str, Any] = {
        str(source.resolve()): {_SLIDES: {name: runs[name] for name in slides}} for source, slides in theirs.items()
    }
    before = read_object(note)
    if not has_news and all(before.get(project) == slides for project, slides in pushed.items()):
        has_them = "the project has" if len(asked.sources) == 1 else "the projects have"
        return Step("push", told, f"{has_them} these predictions", lambda reporter: None)

    def do(reporter: Reporter) -> None:
        for source, slides in theirs.items():
            if slides or len(theirs) == 1:
                own = None if len(theirs) == 1 else slides
                push(
                    places.predictions, source, reporter, slides=own, slides_roots=asked.slides_roots,
                    qupath_dir=asked.qupath_dir,
                )  # fmt: skip
        write_json(note, {**read_object(note), **pushed})

    return Step("push", told, None, do)


def slides_of(asked: RoundRequest, source: Path, names: Iterable[str]) -> list[str]:
    """The slides among some that are of one of the projects, or of which the dataset does not say the project."""
    dataset = asked.places.dataset
    if len(asked.sources) == 1 or not (dataset / MANIFEST).is_file():
        return [*names]
    projects = {record.slide_id: record.project for record in Dataset(dataset).slides()}
    others = {p for p in projects.values() if p is not None and not is_same_source(Path(p), source)}
    return [name for name in names if projects.get(name) not in others]
