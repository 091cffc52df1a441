"""An external test set: projects that nobody imports, with predictions of their slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, DatasetError
from dmmn_qp.evaluating.ground import whole_downsample
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import read_mpp
from dmmn_qp.folders.predictions import LABELS_SUFFIX, Prediction, read_predictions
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.sources import ANNOTATION_SOURCES
from dmmn_qp.importing.stage import import_annotations
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import PatchSpec
from dmmn_qp.text import count_of
from dmmn_qp.workflows.places import DATASET

ANNOTATED: Final = "annotated"
"""Folder in that of an evaluation: the annotations as a dataset, all of whose slides are for test."""


def annotated_slides(
    projects: Sequence[Path],
    folders: Sequence[Path],
    models: Sequence[Path],
    out: Path,
    options: ImportOptions,
    slides_roots: Sequence[SlidesRoot],
    reporter: Reporter,
) -> Path:
    """Reads what is drawn in projects, whatever split the slides have there.

    Each slide is read in the pixels of its own prediction, so that nothing is resampled; of several predictions in
    those of the finest, because all models are judged on the same pixels.

    Args:
        projects: The projects.
        folders: Folders of predictions.
        models: Models whose predictions are to be made.
        out: Folder of the evaluation.
        options: How annotations are read; the magnification is that of the predictions.
        slides_roots: Where to look for slides that have been moved.
        reporter: Told of what is left out.

    Returns:
        The dataset that was made of them, in ``annotated`` of the evaluation's folder.

    Raises:
        ConfigError: A path is not there, or no project.
        DatasetError: The predictions do not tell their um/px.
        DmmnQpError: Anything in the projects that can be mended.
    """
    for path in projects:
        if why := why_not_there(path):
            raise ConfigError(f'--annotations "{path}" {why}; check the path')
        if not ANNOTATION_SOURCES["qupath-project"].wants(path, None):
            raise ConfigError(
                f'--annotations "{path}" is no QuPath project; compare other annotations with dmmn-qp compare, or '
                "import them and pass --dataset"
            )
    predicted = _predicted(folders, models)
    asked = options.model_copy(update={"mpps": (predicted.finest_mpp(),), "min_labelled_fraction": 0.0})
    place, reads = out / ANNOTATED, projects[0] if len(projects) == 1 else projects
    quiet = _OnlyWarnings(reporter)
    import_annotations(
        reads, place, asked, quiet, slides_roots=slides_roots, overwrite=True, all_for="test",
        own_pixels=predicted.finest_px,
    )  # fmt: skip
    listed = ", ".join(f'"{path}"' for path in projects)
    reporter.say(f"{count_of(len(Dataset(place).slides()), 'annotated slide')} of {listed} read into {place}/")
    return place


class _OnlyWarnings(Reporter):
    """Passes warnings on, and nothing of what concerns training."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(Console(quiet=True))
        self._to = reporter

    def warn(self, text: str) -> None:
        """Passes a warning on."""
        self._to.warn(text)


def check_without_dataset(dataset: Path, split: Split) -> None:
    """Refuses a dataset, or a split of it, beside projects that take its place.

    Raises:
        ConfigError: One is named.
    """
    if dataset != DATASET or split != "test":
        raise ConfigError(
            "--annotations takes the place of --dataset and --split: all annotated slides of a project are for test; "
            "leave them out"
        )


@dataclass(frozen=True, slots=True)
class _Predicted:
    """Predictions, made or to be made.

    Attributes:
        folders: Folders of predictions, and what each records of its slides.
        specs: The patches of models whose predictions are to be made.
    """

    folders: Mapping[Path, Mapping[str, Prediction]]
    specs: tuple[PatchSpec, ...]

    def finest_mpp(self) -> float:
        """The finest um/px of all.

        Raises:
            DatasetError: There are none that tell it.
        """
        found = [mpp for folder in self.folders for path in _rasters(folder) if (mpp := read_mpp(path)) is not None]
        found += [spec.mpps[0] for spec in self.specs]
        if not found:
            listed = ", ".join(f'"{folder}"' for folder in self.folders)
            raise DatasetError(f"{listed} holds no predictions that tell their um/px; predict first, or again")
        return min(found)

    def finest_px(self, slide_id: str, mpp: float) -> float | None:
        """Level-0 px per pixel of the finest prediction of a slide of ``mpp`` um/px; None where none tells it.

        Raises:
            PixelSizeError: The slide is too coarse for a model.
        """
        found = [spec.grid_of(mpp, slide_id).downsample for spec in self.specs]
        for folder, recorded in self.folders.items():
            path, told = folder / f"{slide_id}.{LABELS_SUFFIX}", recorded.get(slide_id)
            um = read_mpp(path) if path.is_file() else None
            px = None if um is None else whole_downsample(um, (told and told.mpp) or mpp)
            found += [] if px is None else [px]
        return min(found, default=None)


def _predicted(folders: Sequence[Path], models: Sequence[Path]) -> _Predicted:
    recorded = {folder: read_predictions(folder) for folder in folders}
    if not models:
        return _Predicted(recorded, ())
    from dmmn_qp.folders.model import load_card  # whoever only compares need not wait for torch

    return _Predicted(recorded, tuple(load_card(model).patch_spec for model in models))


def _rasters(folder: Path) -> list[Path]:
    """The predicted labels of a folder."""
    return sorted(path for path in folder.glob(f"*.{LABELS_SUFFIX}") if not path.name.startswith("."))
