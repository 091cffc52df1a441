"""What differs now from when a run was done: code, libraries, slides, annotations and weights."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from dmmn_qp.errors import AnnotationFileError, DatasetError, DmmnQpError, ModelError
from dmmn_qp.folders.dataset import MANIFEST, Dataset, dataset_digest
from dmmn_qp.folders.model import load_card
from dmmn_qp.folders.model_glance import DATASET_DIGEST
from dmmn_qp.folders.predictions import PredictedInput, read_inputs, read_predictions
from dmmn_qp.folders.provenance import LIBRARIES, code_digest, library_versions
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.source_files import SOURCE_FILES, changed_files, source_state
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import shorten
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.version import __version__
from dmmn_qp.workflows import benchmarks
from dmmn_qp.workflows.recorded import RecordedRun

NOT_TOLD: Final = "not told"
MISSING: Final = "not there"


class Difference(NamedTuple):
    """Something that is not as it was.

    Attributes:
        what: The thing.
        then: How it was.
        now: How it is.
    """

    what: str
    then: str
    now: str


def differences(run: RecordedRun, dataset: Path | None, slides_roots: Sequence[SlidesRoot] = ()) -> list[Difference]:
    """What is known to differ from when a run was done.

    Args:
        run: The run.
        dataset: Of a training: its dataset; None where nobody knows it.
        slides_roots: Where to look for slides that have been moved.
    """
    if run.stage == benchmarks.STAGE:
        return [*_of_program(run), *(Difference(*change) for change in benchmarks.changes(run.facts))]
    own = {"import": _of_import, "train": _of_training, "predict": _of_prediction}[run.stage]
    return [*_of_program(run), *own(run, dataset, slides_roots)]


def _of_program(run: RecordedRun) -> Iterator[Difference]:
    pairs = [("dmmn-qp", run.text("version"), __version__), ("code", run.text("code"), code_digest())]
    pairs += [
        ("Python", run.text("python"), platform.python_version()),
        ("system", run.text("platform"), platform.platform()),
    ]
    told, here = run.table("libraries"), library_versions()
    pairs += [(name, _version(told.get(name)), _version(here.get(name))) for name in LIBRARIES]
    for what, then, now in pairs:
        if then != now:
            yield Difference(what, NOT_TOLD if then == "unknown" else then, now)


def _version(value: object) -> str:
    return shorten(value, 40) if isinstance(value, str) else MISSING


def _of_import(run: RecordedRun, dataset: Path | None, slides_roots: Sequence[SlidesRoot]) -> Iterator[Difference]:
    del dataset
    assert isinstance(run.options, ImportOptions)
    annotations = run.others.get("annotations")
    if run.sources and not run.elsewhere:
        paths = [*map(Path, run.sources)]
        missing = [path for path in paths if not (path.is_file() or path.is_dir())]
        yield from (Difference(f'"{shorten(str(path))}"', "read", MISSING) for path in missing)
        if not missing:
            tables = {
                name: table for name, table in run.options.tables.items() if table is not None and table.is_file()
            }
            state = source_state(paths, None if annotations is None else Path(annotations), tables)
            for name in changed_files(run.table(SOURCE_FILES), state):
                yield Difference(f'annotations "{shorten(name)}"', "read", "changed" if name in state else MISSING)
    if (run.folder / MANIFEST).is_file():
        yield from _of_slides(run.folder, slides_roots)


def _of_training(run: RecordedRun, dataset: Path | None, slides_roots: Sequence[SlidesRoot]) -> Iterator[Difference]:
    assert isinstance(run.options, TrainOptions)
    if dataset is None or not (dataset / MANIFEST).is_file():
        yield Difference("dataset", "read", NOT_TOLD if dataset is None else f"{MISSING}: {shorten(str(dataset))}")
    else:
        then, now = run.text(DATASET_DIGEST), dataset_digest(dataset)
        if then != now:
            yield Difference(f'dataset "{shorten(dataset.name)}"', then[:12], now[:12])
        yield from _of_slides(dataset, slides_roots)
    if run.options.start_from is not None:
        then = run.text("start_weights")
        yield from _of_weights(run.options.start_from, None if then == "unknown" else then, "start")


def _of_slides(dataset: Path, slides_roots: Sequence[SlidesRoot]) -> Iterator[Difference]:
    """Slides of a dataset whose files are others, or nowhere."""
    try:
        opened = Dataset(dataset)
    except DatasetError:
        yield Difference("dataset", "read", "damaged")
        return
    for record in opened.slides():
        try:
            opened.locate(record, slides_roots)
        except DmmnQpError:
            now = _fingerprint(Path(record.path))
            then = record.fingerprint[:12]
            yield Difference(f'slide "{shorten(record.slide_id)}"', then, MISSING if now is None else now[:12])


def _fingerprint(path: Path) -> str | None:
    """The digest of a file, or of a folder of DICOM; None of what is neither, such as a device, or cannot be read."""
    with suppress(DmmnQpError, OSError, ValueError):
        if path.is_file() or path.is_dir():
            return fingerprint(path)
    return None


def _of_weights(model: Path, then: str | None, what: str) -> Iterator[Difference]:
    name = f'weights of {what} "{shorten(str(model))}"'
    try:
        now = load_card(model).weights_sha256
    except (ModelError, OSError, ValueError):
        yield Difference(name, NOT_TOLD if then is None else then[:12], MISSING)
        return
    if then is None or now is None or not now.startswith(then):
        yield Difference(name, NOT_TOLD if then is None else then[:12], NOT_TOLD if now is None else now[:12])


def _of_prediction(run: RecordedRun, dataset: Path | None, slides_roots: Sequence[SlidesRoot]) -> Iterator[Difference]:
    del dataset, slides_roots
    for slide_id, image in slides_of(run).items():
        now = _fingerprint(Path(image.path))
        if now != image.fingerprint:
            yield Difference(
                f'slide "{shorten(slide_id)}"', image.fingerprint[:12], MISSING if now is None else now[:12]
            )
    model = run.others.get("model")
    if model is not None and not run.elsewhere:
        made = [prediction.weights for prediction in read_predictions(run.folder).values() if prediction.weights]
        yield from _of_weights(Path(model), made[0] if made else None, "model")
        yield from _of_temperature(run, Path(model))


def _of_temperature(run: RecordedRun, model: Path) -> Iterator[Difference]:
    """Whether probabilities of a run were calibrated otherwise than its model is now."""
    requests = [r for r in requests_of(run).values() if r.get("probabilities") or r.get("uncertainty")]
    with suppress(ModelError, OSError, ValueError):
        for then, now in ((request.get("temperature"), load_card(model).temperature) for request in requests[:1]):
            if then != now:
                yield Difference("temperature of the model", shorten(str(then or 1), 20), f"{now or 1:g}")


def slides_of(run: RecordedRun) -> Mapping[str, PredictedInput]:
    """The slides that a run predicted: those of its own where its folder holds predictions of several runs."""
    try:
        images = read_inputs(run.folder)
    except (AnnotationFileError, ValidationError):
        return {}
    predictions, run_id = read_predictions(run.folder), run.facts.get("run_id")
    own = {name for name, prediction in predictions.items() if prediction.run_id == run_id}
    return {name: image for name, image in images.items() if name in own or not own}


def requests_of(run: RecordedRun) -> Mapping[str, Mapping[str, Any]]:
    """What the slides of a run were predicted with, by slide, where it is told."""
    predictions = read_predictions(run.folder)
    return {name: predictions[name].request or {} for name in slides_of(run) if name in predictions}
