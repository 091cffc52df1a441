"""Predicting arrays and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmn_qp.api.arguments import (
    AnyPath,
    QuietReporter,
    optional_path,
    parsed_slides_roots,
    paths_as_texts,
    shows_options,
)
from dmmn_qp.api.models import Model, folder_of_model
from dmmn_qp.choices import Context, Device, Precision, Views
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.paths import user_path
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import LabelArray

if TYPE_CHECKING:
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.predicting.api import SlidePrediction
    from dmmn_qp.predicting.inference import BlockPrediction


class ArrayOptions(TypedDict, total=False):
    """Options of `predict_array` and `predict_probabilities`, for type checkers; `PredictOptions` tells of them."""

    context: Context
    precision: Precision
    device: Device
    views: Views
    tta: bool
    batch_size: int | None


ARRAY_OPTIONS = tuple(ArrayOptions.__annotations__)


@shows_options(PredictOptions, ARRAY_OPTIONS)
def predict_array(pixels: ArrayLike, mpp: float, model: Model | AnyPath, **options: Unpack[ArrayOptions]) -> LabelArray:
    """Predicts pixels in memory, to the labels that `predict_slide` gives a slide of these pixels.

    Args:
        pixels: (rows, columns, 3) uint8 RGB; outside is 0, as outside a slide.
        mpp: Their um/px, not coarser than the model's finest magnification.
        model: A model, or its folder; a model in memory computes where it lies unless told, and stays as it is.
        options: How to predict.

    Returns:
        (rows, columns) uint8, 1 .. C in the order of ``class_map``, on the grid of the model's finest magnification:
        of the shape of ``pixels`` where ``mpp`` is that, of half its sides where pixels are twice as fine.

    Raises:
        SlideError: The array is none of RGB bytes.
        PixelSizeError: The pixel size is implausible, or coarser than the model needs.
        ModelError: The model is missing or damaged, or cannot see its context as asked.
        ConfigError: The device is not there, or an option is out of range.
    """
    return _predict("predict_array", pixels, mpp, model, options, probabilities=False).labels


@shows_options(PredictOptions, ARRAY_OPTIONS)
def predict_probabilities(
    pixels: ArrayLike, mpp: float, model: Model | AnyPath, **options: Unpack[ArrayOptions]
) -> NDArray[np.uint8]:
    """Predicts the probability of each class, of which `predict_array` gives the label of the largest.

    Args:
        pixels: (rows, columns, 3) uint8 RGB.
        mpp: Their um/px.
        model: A model, or its folder.
        options: How to predict.

    Returns:
        (C, rows, columns) uint8, 255 is 1; class ``i`` has label ``i + 1``. On the grid of `predict_array`.

    Raises:
        DmmnQpError: As `predict_array`.
    """
    found = _predict("predict_probabilities", pixels, mpp, model, options, probabilities=True).probabilities
    assert found is not None
    return found


def predict_slide(
    slide: AnyPath,
    model: AnyPath,
    out: AnyPath = "predictions",
    *,
    roi: AnyPath | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> SlidePrediction:
    """Predicts one slide of any size, as ``dmmn-qp predict`` does; what is finished is returned as it is.

    Args:
        slide: The slide.
        model: The model's folder.
        out: Folder to write into; what is there of other slides stays.
        roi: GeoJSON of the areas to predict, in level-0 px.
        overwrite: Whether an earlier prediction of the slide is replaced.
        reporter: Where to report.
        options: Those of ``[predict]`` in the configuration file, such as ``mpp=0.25``, which counts whatever
            the file says, or ``tissue_only=True``.

    Returns:
        Where everything is: ``polygons`` is the GeoJSON, ``read_labels()`` gives (rows, columns) uint8.

    Raises:
        ConfigError: An option is unknown or out of range.
        PredictedOtherwiseError: The folder holds another prediction under the slide's name.
        DmmnQpError: The slide or the model cannot be read, or they do not fit together.
    """
    from dmmn_qp.cli.config import Arguments, ConfigFile, predict_options
    from dmmn_qp.predicting.api import predict_slide

    chosen = predict_options(ConfigFile(), Arguments("predict_slide", options))
    return predict_slide(
        user_path(slide),
        folder_of_model(model),
        user_path(out),
        chosen,
        mpp=chosen.mpp,
        roi=optional_path(roi),
        overwrite=overwrite,
        reporter=reporter or QuietReporter(),
    )


def predict_slides(
    slides: Dataset | AnyPath | Sequence[AnyPath],
    model: AnyPath,
    out: AnyPath = "predictions",
    *,
    slides_roots: AnyPath | Sequence[AnyPath] = (),
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> dict[str, Path]:
    """Predicts several slides, each in the frame and with the pixel size that its project or dataset knows.

    Args:
        slides: A dataset, for all slides of it; or one or several of: a slide, a folder of slides, a pattern such as
            ``scans/**/*.svs``, a ``.qpproj`` file, a table with the columns slide, mpp and roi.
        model: The model's folder.
        out: Folder to write into; what is there of other slides stays.
        slides_roots: Where to look for slides that have been moved: folders, or ``OLD=NEW``.
        overwrite: Whether earlier predictions of these slides are replaced.
        reporter: Where to report.
        options: Those of ``[predict]`` in the configuration file.

    Returns:
        The GeoJSON of each slide, by the slide's name in file names.

    Raises:
        ConfigError: An option is unknown or out of range.
        PartlyPredictedError: Some could not be predicted; its ``written`` are those that could.
        DmmnQpError: None could be predicted, or the model cannot be read.
    """
    from dmmn_qp.cli.config import Arguments, ConfigFile, predict_options
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.predicting.inputs import slides_to_predict
    from dmmn_qp.predicting.stage import predict

    names, folder = ([], slides.folder) if isinstance(slides, Dataset) else (paths_as_texts(slides), Path("dataset"))
    if not names and not isinstance(slides, Dataset):  # no name would stand for a whole dataset
        raise ConfigError("there is no slide to predict in an empty list; name some, or pass a Dataset for all of it")
    return predict(
        folder_of_model(model),
        slides_to_predict(names, folder, parsed_slides_roots(slides_roots)),
        user_path(out),
        predict_options(ConfigFile(), Arguments("predict_slides", options)),
        reporter or QuietReporter(),
        overwrite=overwrite,
    )


def _predict(
    function: str, pixels: ArrayLike, mpp: float, model: Model | AnyPath, given: ArrayOptions, *, probabilities: bool
) -> BlockPrediction:
    from dmmn_qp.cli.config import Arguments, ConfigFile, predict_options
    from dmmn_qp.predicting.array import predict_pixels

    options = predict_options(ConfigFile(), Arguments(function, {**given}, ARRAY_OPTIONS))
    options = options.model_copy(update={"probabilities": probabilities})
    return predict_pixels(pixels, mpp, model if isinstance(model, tuple) else user_path(model), options)
