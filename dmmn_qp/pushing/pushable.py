"""What a folder has for a project: predictions, suggested regions, or regions where an evaluation found most wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.evaluation import EVALUATION, WORST_REGIONS, WORST_REGIONS_FOLDER, read_evaluation
from dmmn_qp.folders.predictions import PredictedInput, polygon_files, predicted_polygons, read_inputs
from dmmn_qp.folders.suggestions import is_of_suggestions


@dataclass(frozen=True, slots=True)
class Pushable:
    """What is to be put into a project.

    Attributes:
        what: What it is called.
        files: The file of each slide.
        inputs: The images that these are of, as far as that is known.
        originals: Files in which our own objects may be found as they were predicted; none of regions.
        is_regions: Whether it is regions to look at, which make room for themselves alone and are never labels.
    """

    what: str
    files: Mapping[str, Path]
    inputs: Mapping[str, PredictedInput]
    originals: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    is_regions: bool = True

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Finds out what a folder has.

        Raises:
            AnnotationFileError: It has nothing to push, or is damaged.
            DatasetError: It is of an evaluation that is damaged, or found nothing wrong.
        """
        is_evaluated = (folder / EVALUATION).is_file()
        if is_evaluated and all(path.name == WORST_REGIONS for path in folder.glob("*.geojson*")):
            return cls("worst regions", *_worst_regions(folder))
        files, inputs = predicted_polygons(folder), read_inputs(folder)
        if is_evaluated:  # into the folder of the predictions
            files = {slide_id: path for slide_id, path in files.items() if path.name != WORST_REGIONS}
        if is_of_suggestions(folder):
            return cls("suggestions", files, inputs)
        return cls("predictions", files, inputs, polygon_files(folder), is_regions=False)


def _worst_regions(folder: Path) -> tuple[dict[str, Path], dict[str, PredictedInput]]:
    """The worst regions of an evaluation: its one file, or that of each slide."""
    slides = read_evaluation(folder).slides
    if len(slides) == 1:
        there = {slides[0].slide_id: folder / WORST_REGIONS}
    else:
        there = {path.name.removesuffix(".geojson"): path for path in (folder / WORST_REGIONS_FOLDER).glob("*.geojson")}
    files = {slide.slide_id: there[slide.slide_id] for slide in slides if slide.slide_id in there}
    files = {slide_id: path for slide_id, path in files.items() if path.is_file()}
    if not files:
        raise DatasetError(f'evaluation "{folder}" has no {WORST_REGIONS}; evaluate again with --overwrite')
    return files, {slide.slide_id: slide.image for slide in slides if slide.image is not None}
