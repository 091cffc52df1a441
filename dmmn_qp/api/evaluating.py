"""Comparing predictions with what people said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmmn_qp.api.arguments import AnyPath, QuietReporter, dataset_folder, optional_path
from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.files.paths import user_path

if TYPE_CHECKING:
    from dmmn_qp.folders.dataset import Dataset


def evaluate(
    predictions: AnyPath,
    dataset: Dataset | AnyPath,
    split: Split = "test",
    *,
    truth: AnyPath | None = None,
    map: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    skip_unpredicted: bool = False,
    mixed_models: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compares predictions with what people said of a split's slides, as ``dmmn-qp evaluate`` does.

    Args:
        predictions: Folder of predictions.
        dataset: A dataset, or its folder.
        split: Which slides.
        truth: Folder of ``<slide>.png`` label maps, or one such file, to compare with as well.
        map: Predicted class -> true class, where they are named otherwise.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether pixels without a prediction are left out; else they are misses.
        mixed_models: Whether the slides may be predicted by different models.
        reporter: Where to print the tables.

    Returns:
        Figures: ``annotated`` (drawn by people), ``corrected``, ``confirmed`` and ``truth``, each with ``mean_iou`` and
        the figures of every class, or None where there are no such pixels; the others say of what.

    Raises:
        DatasetError: There are no such slides, or a prediction is missing or does not fit.
        ConfigError: A class does not exist.
    """
    from dmmn_qp.evaluating.options import EvaluationRules
    from dmmn_qp.evaluating.stage import evaluate

    maps = tuple(f"{one}={other}" for one, other in (map or {}).items())
    rules = EvaluationRules(maps, tuple(exclude), skip_unpredicted, mixed_models)
    folder = optional_path(truth)
    return evaluate(user_path(predictions), dataset_folder(dataset), split, folder, reporter or QuietReporter(), rules)
