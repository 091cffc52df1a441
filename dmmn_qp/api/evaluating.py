"""Comparing predictions with what people said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmmn_qp.api.arguments import (
    AnyPath,
    QuietReporter,
    dataset_folder,
    optional_path,
    parsed_slides_roots,
    paths_as_texts,
)
from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.files.paths import user_path

if TYPE_CHECKING:
    from dmmn_qp.folders.dataset import Dataset


def evaluate(
    predictions: AnyPath | Sequence[AnyPath],
    dataset: Dataset | AnyPath,
    split: Split = "test",
    *,
    models: AnyPath | Sequence[AnyPath] = (),
    truth: AnyPath | None = None,
    map: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    skip_unpredicted: bool = False,
    mixed_models: bool = False,
    slides: Sequence[str] = (),
    roi: AnyPath | None = None,
    roi_class: str | None = None,
    by: Sequence[str] = (),
    out: AnyPath | None = None,
    slides_roots: AnyPath | Sequence[AnyPath] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compares predictions with what people said of a split's slides, as ``dmmn-qp evaluate`` does.

    Args:
        predictions: Folder of predictions, or several; an empty list where only ``models`` are compared.
        dataset: A dataset, or its folder.
        split: Which slides.
        models: Model folders to compare too; what they have not predicted, they predict into ``predicted`` of ``out``,
            or of ``evaluation``.
        truth: Folder of ``<slide>.png`` label maps, or one such file, to compare with as well.
        map: Predicted class -> true class, where they are named otherwise.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether pixels without a prediction are left out; else they are misses.
        mixed_models: Whether the slides may be predicted by different models.
        slides: Names of slides of the split, or patterns of them; empty for all.
        roi: GeoJSON of the areas outside of which nothing counts, or folder of one for each slide.
        roi_class: Class of these areas; without ``roi``, of the dataset's annotations.
        by: Keys of the image metadata, or ``scanner``, by whose values slides are taken together.
        out: Folder for ``evaluation.json``, replaced; None writes none.
        slides_roots: Folders to search for slides that have been moved.
        reporter: Where to print the tables.

    Returns:
        Figures: ``annotated`` (drawn by people), ``corrected``, ``confirmed`` and ``truth``, each with ``mean_iou`` and
        the figures of every class, or None where there are no such pixels; the others say of what. Of several models
        these are the first's, and ``models`` has those of all.

    Raises:
        DatasetError: There are no such slides, or a prediction is missing or does not fit.
        ConfigError: A class, slide or key does not exist.
    """
    from dmmn_qp.evaluating.options import EvaluateOptions
    from dmmn_qp.folders.evaluation import write_evaluation
    from dmmn_qp.reports.evaluation_json import evaluation_as_json
    from dmmn_qp.workflows.evaluating import EvaluationRequest, evaluate_models

    options = EvaluateOptions(
        maps=tuple(f"{one}={other}" for one, other in (map or {}).items()),
        exclude=tuple(exclude),
        skip_unpredicted=skip_unpredicted,
        mixed_models=mixed_models,
        slides=tuple(slides),
        roi=optional_path(roi),
        roi_class=roi_class,
        by=tuple(by),
    )
    request = EvaluationRequest(
        dataset_folder(dataset),
        split,
        tuple(user_path(path) for path in paths_as_texts(predictions)),
        tuple(user_path(path) for path in paths_as_texts(models)),
        optional_path(truth),
        options,
        slides_roots=parsed_slides_roots(slides_roots),
    )
    folder = optional_path(out)
    evaluation = evaluate_models(request, folder, reporter or QuietReporter())
    if folder is not None:
        write_evaluation(folder, evaluation)
    return evaluation_as_json(evaluation)
