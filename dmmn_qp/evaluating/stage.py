"""`dmmn-qp evaluate`: predictions against annotations and full truth (paper, section 3).

Classes of truth and predictions meet by their names; the numbers in the files are nobody's but the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmmn_qp.annotations import Origin
from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.counting import count_pairs, labelled_pixels
from dmmn_qp.evaluating.names import pairs_of, unmatched_classes, warn_of_unmatched, with_true_names
from dmmn_qp.evaluating.options import EvaluationRules
from dmmn_qp.evaluating.predicted import (
    PredictedLabels,
    check_inputs,
    check_models,
    find_prediction,
    warn_of_assumed_classes,
)
from dmmn_qp.evaluating.truth import Truth, annotated_truth, full_truth
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.predictions import read_predictions
from dmmn_qp.labels.metrics import NamedMetrics, compare_by_name
from dmmn_qp.reports.evaluation_tables import figures_as_json, listed, table_lines

EVALUATION = "evaluation.json"

_COUNTED: tuple[tuple[Origin, str, str], ...] = (
    ("drawn", "annotated", "annotated pixels"),
    ("corrected", "corrected", "corrected predictions"),
    ("confirmed", "confirmed", "confirmed predictions"),
)
"""Origin, key in the JSON, and title of what a person said; what nobody checked is no truth."""


class _Warnings:
    """Warns, and keeps what was said."""

    def __init__(self, reporter: Reporter) -> None:
        self.lines: list[str] = []
        self._reporter = reporter

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._reporter.warn(line)


def evaluate(
    predictions: Path,
    dataset_folder: Path,
    split: Split,
    truth: Path | None,
    reporter: Reporter,
    rules: EvaluationRules | None = None,
) -> dict[str, Any]:
    """Compares the predicted labels of a split's slides with what people said of them.

    Args:
        predictions: Folder of `dmmn-qp predict`.
        dataset_folder: The dataset with the annotations' masks.
        split: Which slides.
        truth: Folder of ``<slide>.png`` label maps at the resolution of the predictions, or one such file; 0 is not
            counted, and the classes of other values stand in a ``classes.csv`` beside them, else the dataset's.
        reporter: Where to print the tables.
        rules: How to compare.

    Returns:
        What was said: ``annotated`` (drawn by people), ``corrected``, ``confirmed`` and ``truth`` are figures, or None
        where there are no such pixels; the others say of what.

    Raises:
        DatasetError: There are no such slides or no truth of them, or a prediction or truth map is missing, does not
            fit, or is of another file.
        ConfigError: The rules name a class that does not exist.
    """
    rules, warn = rules or EvaluationRules(), _Warnings(reporter)
    dataset = Dataset(dataset_folder)
    records = dataset.slides(split)
    if not records:
        raise DatasetError(f'dataset "{dataset_folder}" has no slide for {split}; choose another with --split')
    recorded = read_predictions(predictions)
    predicted = {r.slide_id: find_prediction(predictions, r.slide_id, recorded, dataset) for r in records}
    check_inputs(predictions, records, warn)
    check_models(predictions, predicted, records, rules, warn)
    warn_of_assumed_classes(predicted, dataset, warn)
    truths = [annotated_truth(dataset, records)] + (
        [full_truth(truth, records, dataset, warn)] if truth is not None else []
    )
    pairs = pairs_of(predicted, truths, rules)
    result: dict[str, Any] = {
        "split": split,
        "slides": [r.slide_id for r in records],
        "predictions": {slide_id: _as_json(p) for slide_id, p in predicted.items()},
        "map": [{"predicted": name, "true": true_name} for name, true_name in pairs],
        "excluded": list(rules.exclude),
        "skip_unpredicted": rules.skip_unpredicted,
        "warnings": warn.lines,
    }
    result |= _compare([(truth, with_true_names(predicted, truth, pairs)) for truth in truths], rules, reporter, warn)
    if all(result.get(key) is None for key in ("truth", *(key for _, key, _ in _COUNTED))):
        raise DatasetError(
            f'dataset "{dataset_folder}" has no labelled pixel on the slides for {split} that counts; choose another '
            "split with --split, or pass the full truth with --truth"
        )
    return result


def _compare(
    compared: Sequence[tuple[Truth, Mapping[str, PredictedLabels]]],
    rules: EvaluationRules,
    reporter: Reporter,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Counts, prints and returns the figures of each truth, and in the annotations of each origin."""
    results: dict[str, Any] = {}
    for truth, predicted in compared:
        slides = listed([*predicted])
        counts = {slide_id: count_pairs(predicted[slide_id], truth, slide_id) for slide_id in predicted}
        unmatched = unmatched_classes(truth, predicted, rules.exclude)
        warn_of_unmatched(unmatched, truth, predicted, warn)
        counted = _COUNTED if truth.name == "the dataset" else (("drawn", "truth", "full truth"),)
        for origin, key, title in counted:
            named = compare_by_name(
                [of_slide[origin] for of_slide in counts.values()],
                truth.classes,
                [p.names for p in predicted.values()],
                exclude=rules.exclude,
                skip_unpredicted=rules.skip_unpredicted,
            )
            results[key] = _result(named, truth, unmatched)
            if not named.metrics.confusion.sum():
                results[key] = None
                if origin == "drawn":
                    warn(_nothing(title, slides, named))
                continue
            reporter.heading(f"{slides}: {title} ({int(named.metrics.confusion.sum()):,} px)")
            for line in table_lines(named, skipped=rules.skip_unpredicted):
                reporter.say(line)
        if truth.origins:
            results["unchecked_pixels"] = unchecked = sum(labelled_pixels(c["unchecked"]) for c in counts.values())
            if unchecked:
                reporter.say(f"  {unchecked:,} px of predictions that nobody has checked do not count")
    return results


def _result(named: NamedMetrics, truth: Truth, unmatched: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **figures_as_json(named),
        "values": {str(value): name for value, name in truth.classes.items()},
        "values_from": truth.classes_from,
        "unmatched": dict(unmatched),
    }


def _nothing(title: str, slides: str, named: NamedMetrics) -> str:
    why = "each of them is without a prediction" if named.unpredicted else "there are none"
    return f"{slides}: no figures of {title}, because {why}"


def _as_json(predicted: PredictedLabels) -> dict[str, Any]:
    record = predicted.record
    return {
        "classes": list(predicted.names),
        "classes_from": predicted.names_from,
        "model": record and record.model,
        "model_run": record and record.model_run,
        "weights": record and record.weights,
    }
