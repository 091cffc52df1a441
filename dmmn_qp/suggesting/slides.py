"""The predicted slides on which regions may be suggested, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError, SlideError
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.label_raster import read_class_names
from dmmn_qp.folders.predicted_image import view_of_image
from dmmn_qp.folders.predictions import (
    LABELS_SUFFIX,
    UNCERTAINTY_SUFFIX,
    PredictedInput,
    Prediction,
    is_by,
    read_inputs,
    read_predictions,
)
from dmmn_qp.qupath.classes import default_color
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import ClassMap


@dataclass(frozen=True, slots=True)
class PredictedSlide:
    """A slide with a raster of labels and one of uncertainty.

    Attributes:
        slide_id: Its name in file names.
        folder: Where its prediction is.
        view: Its file, in the frame in which it was predicted.
        fingerprint: Digest of its file.
        class_map: The predicted classes.
        record: The same slide in the dataset; None where it is not in it.
        image: What it was predicted from; None where ``run.json`` does not tell.
    """

    slide_id: str
    folder: Path
    view: SlideView
    fingerprint: str
    class_map: ClassMap
    record: SlideRecord | None = None
    image: PredictedInput | None = None

    @property
    def labels_path(self) -> Path:
        """The raster of labels."""
        return self.folder / f"{self.slide_id}.{LABELS_SUFFIX}"

    @property
    def uncertainty_path(self) -> Path:
        """The raster of entropy."""
        return self.folder / f"{self.slide_id}.{UNCERTAINTY_SUFFIX}"

    def open(self) -> Slide:
        """Opens the slide; what of it is damaged is black.

        Raises:
            SlideError: It cannot be opened.
        """
        return ForgivingSlide(self.view.open())


def predicted_slides(
    folders: Sequence[Path],
    dataset: Dataset,
    reporter: Reporter,
    *,
    held_back: bool = False,
    weights: str | None = None,
    slides_roots: Sequence[SlidesRoot] = (),
) -> list[PredictedSlide]:
    """Finds the slides on which regions may be suggested, sorted by name.

    What is annotated on a slide for validation or test tells how good a model is only as long as nobody chose it by
    what the model finds hard; so those are left out.

    Args:
        folders: Folders of predictions; of a slide that is in several, the first counts that has its uncertainty.
        dataset: The dataset.
        reporter: Where to say what is left out.
        held_back: Whether slides for validation and test are taken too.
        weights: Digest of the weights of the model whose predictions count; None for those of any.
        slides_roots: Folders to search for slides that have been moved.

    Raises:
        DatasetError: There is none.
    """
    found: dict[str, PredictedSlide] = {}
    held: set[str] = set()
    others: set[str] = set()
    for folder in folders:
        inputs, predictions = read_inputs(folder), read_predictions(folder)
        for slide_id in _with_uncertainty(folder):
            record = _record_of(slide_id, inputs.get(slide_id), dataset)
            if not is_by(predictions.get(slide_id), weights):
                others.add(slide_id)
            elif record is not None and record.split != "train" and not held_back:
                held.add(slide_id)
            elif slide_id not in found:
                try:
                    found[slide_id] = _slide(
                        slide_id, folder, record, inputs.get(slide_id), predictions.get(slide_id), dataset, slides_roots
                    )
                except (SlideError, DatasetError) as error:
                    reporter.warn_of(slide_id, f"is left out: {error}", " ")
    unknown = _without_uncertainty(folders) - found.keys()
    if not held_back:
        held |= unknown & {record.slide_id for record in dataset.slides() if record.split != "train"}
    left_out = {
        "they are for validation or test": held,
        "another model predicted them": others - found.keys(),
        "they were predicted without --uncertainty": unknown - held,
    }
    for why, names in left_out.items():
        if names:
            reporter.say(f"  not looked at, because {why}: {', '.join(sorted(names))}")
    if not found:
        shown = " and ".join(f'"{folder}"' for folder in folders)
        only_held = [names for names in left_out.values() if names] == [held]
        why = "those that it has are for validation or test" if only_held else "it has none"
        raise DatasetError(
            f"{shown} must hold slides for training with <slide>.{UNCERTAINTY_SUFFIX}, but {why}; run dmmn-qp predict "
            "--uncertainty, or dmmn-qp suggest with --model"
        )
    return [found[slide_id] for slide_id in sorted(found)]


def _with_uncertainty(folder: Path) -> Iterator[str]:
    """Names of the slides of a folder of which both rasters are there, sorted."""
    for path in sorted(folder.glob(f"*.{LABELS_SUFFIX}")):
        slide_id = path.name.removesuffix(f".{LABELS_SUFFIX}")
        if not slide_id.startswith(".") and (folder / f"{slide_id}.{UNCERTAINTY_SUFFIX}").is_file():
            yield slide_id


def _without_uncertainty(folders: Sequence[Path]) -> set[str]:
    """Names of the slides that have a raster of labels alone."""
    names = {path.name.removesuffix(f".{LABELS_SUFFIX}") for f in folders for path in f.glob(f"*.{LABELS_SUFFIX}")}
    return {name for name in names if not name.startswith(".")} - {s for f in folders for s in _with_uncertainty(f)}


def _record_of(slide_id: str, known: PredictedInput | None, dataset: Dataset) -> SlideRecord | None:
    """The predicted slide in the dataset, known by its file, whatever its name; by its name where that is not told."""
    records = dataset.slides()
    if known is not None:
        same = [record for record in records if record.fingerprint == known.fingerprint]
        return next((r for r in same if r.frame == known.frame), same[0] if same else None)
    return next((record for record in records if record.slide_id == slide_id), None)


def _slide(
    slide_id: str,
    folder: Path,
    record: SlideRecord | None,
    known: PredictedInput | None,
    prediction: Prediction | None,
    dataset: Dataset,
    slides_roots: Sequence[SlidesRoot],
) -> PredictedSlide:
    """A slide, found again.

    Raises:
        SlideError: It is nowhere, or it is not known where it was.
        DatasetError: Its raster is damaged.
    """
    if record is not None and (known is None or known.frame == record.frame):
        view, digest = record.view(dataset.locate(record, slides_roots)), record.fingerprint
    elif known is not None:  # of a slide in another frame than the dataset's, nobody knows what is annotated
        view, digest, record = _view_of(slide_id, known, prediction, slides_roots), known.fingerprint, None
    else:
        raise SlideError(f'"{folder}" does not tell which file it was predicted from; predict it again')
    path = folder / f"{slide_id}.{LABELS_SUFFIX}"
    class_map = prediction.class_map if prediction is not None else None
    return PredictedSlide(slide_id, folder, view, digest, class_map or _class_map_of(path, dataset), record, known)


def _view_of(
    slide_id: str, known: PredictedInput, prediction: Prediction | None, slides_roots: Sequence[SlidesRoot]
) -> SlideView:
    """A slide that no dataset has, as it was predicted."""
    told = prediction.mpp if prediction is not None else None
    mpp = StatedMpp() if told is None else StatedMpp(stored=told, stored_by="the prediction")
    return view_of_image(slide_id, known, mpp, slides_roots)


def _class_map_of(labels: Path, dataset: Dataset) -> ClassMap:
    """The classes of a raster, by the names in it; the dataset's where it names none."""
    names = read_class_names(labels)
    if names is None:
        return dataset.class_map
    colors: Mapping[str, tuple[int, int, int]] = dataset.class_map.colors
    return ClassMap.from_colors((name, colors.get(name) or default_color(name)) for name in names)
