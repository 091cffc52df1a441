"""`dmmn-qp evaluate`: predictions against annotations and full truth (paper, section 3).

Classes of truth and predictions meet by their names; the numbers in the files are nobody's but the file's.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, DatasetError, DmmnQpError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.dataset import LABELS_SUFFIX, Dataset, LabelRaster, SlideRecord
from dmmn_qp.folders.predictions import PredictedInput, Prediction, read_inputs, read_predictions
from dmmn_qp.labels.class_rules import namesake, nearest_name
from dmmn_qp.labels.metrics import NamedMetrics, PairCounts, compare_by_name, pair_counts
from dmmn_qp.outputs.pyramids import names_in_file, read_class_names
from dmmn_qp.regions import Region
from dmmn_qp.reports.evaluation_tables import figures_as_json, listed, printable, table_lines
from dmmn_qp.specs import UNLABELLED, ClassMap

EVALUATION = "evaluation.json"
VALUES_FILE = "classes.csv"
"""Table ``value,class`` beside maps of the full truth."""

TRUTH_SUFFIXES = (".png", ".tif", ".tiff")
MAX_TABLE_BYTES = 2**20

_ROWS_AT_ONCE = 512  # a row of tiles of a predicted raster
_HIGHEST_VALUE = 255
_COUNTED: tuple[tuple[Origin, str, str], ...] = (
    ("drawn", "annotated", "annotated pixels"),
    ("corrected", "corrected", "corrected predictions"),
    ("confirmed", "confirmed", "confirmed predictions"),
)
"""Origin, key in the JSON, and title of what a person said; what nobody checked is no truth."""


@dataclass(frozen=True, slots=True)
class EvaluationRules:
    """How predictions are compared.

    Attributes:
        maps: ``PREDICTED=TRUTH`` for predicted classes that are named otherwise than the true ones.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether pixels without a prediction are left out; else they are misses.
        mixed_models: Whether the slides may be predicted by different models.
    """

    maps: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skip_unpredicted: bool = False
    mixed_models: bool = False


@dataclass(frozen=True, slots=True)
class _Predicted:
    """A predicted slide: its label raster, and the names of labels 1, 2, 3 ... and who tells them."""

    path: Path
    names: tuple[str, ...]
    names_from: str
    told: Prediction | None


@dataclass(frozen=True, slots=True)
class _Truth:
    """What is known of the slides: a raster of each, the classes of its values, and how people call it."""

    name: str
    paths: Mapping[str, Path]
    classes: Mapping[int, str]
    classes_from: str
    origins: Mapping[str, Path]


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
            counted, and the classes of other values are told by a ``classes.csv`` beside them, else the dataset's.
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
    told = read_predictions(predictions)
    predicted = {r.slide_id: _predicted_slide(predictions, r.slide_id, told, dataset) for r in records}
    _check_inputs(predictions, records, warn)
    _check_models(predictions, predicted, rules, warn)
    _say_assumed_classes(predicted, dataset, warn)
    truths = [_annotations(dataset, records)] + (
        [_truth_maps(truth, records, dataset, warn)] if truth is not None else []
    )
    pairs = _pairs(predicted, truths, rules)
    result: dict[str, Any] = {
        "split": split,
        "slides": [r.slide_id for r in records],
        "predictions": {slide_id: _as_json(p) for slide_id, p in predicted.items()},
        "map": [{"predicted": one, "true": other} for one, other in pairs],
        "excluded": list(rules.exclude),
        "skip_unpredicted": rules.skip_unpredicted,
        "warnings": warn.lines,
    }
    result |= _compare([(truth, _renamed(predicted, truth, pairs)) for truth in truths], rules, reporter, warn)
    if all(result.get(key) is None for key in ("truth", *(key for _, key, _ in _COUNTED))):
        raise DatasetError(
            f'dataset "{dataset_folder}" has no labelled pixel on the slides for {split} that counts; choose another '
            "split with --split, or pass the full truth with --truth"
        )
    return result


def _predicted_slide(folder: Path, slide_id: str, told: Mapping[str, Prediction], dataset: Dataset) -> _Predicted:
    """The prediction of a slide; its classes are told by the raster itself, else by run.json, else assumed.

    Raises:
        DatasetError: It is missing, or the raster tells its classes in a damaged way.
    """
    path = folder / f"{slide_id}.{LABELS_SUFFIX}"
    if not path.is_file():
        raise DatasetError(
            f'slide "{slide_id}" has no prediction in "{folder}"; run dmmn-qp predict {slide_id} first, or name the '
            "folder with --predictions"
        )
    prediction = told.get(slide_id)
    in_raster = read_class_names(path)
    in_run = prediction.class_map.names if prediction and prediction.class_map else None
    if in_run is not None and in_raster in (None, names_in_file(in_run)):  # in full, where the raster had to replace
        return _Predicted(path, in_run, RUN_FILE if in_raster is None else "raster", prediction)
    if in_raster is None:
        return _Predicted(path, dataset.class_map.names, "dataset", prediction)
    if in_run is not None:
        raise DatasetError(
            f'"{path}" has the classes {listed(in_raster)}, but {RUN_FILE} beside it says {listed(in_run)}, so one of '
            "them was exchanged; predict again with --overwrite"
        )
    return _Predicted(path, in_raster, "raster", prediction)


def _say_assumed_classes(predicted: Mapping[str, _Predicted], dataset: Dataset, warn: Callable[[str], None]) -> None:
    silent = [slide_id for slide_id, p in predicted.items() if p.names_from == "dataset"]
    if silent:
        warn(
            f"predictions of {listed(silent)} do not say which classes their numbers are (an earlier version wrote "
            f"them); those of the dataset are assumed: {_numbered(dataset.class_map)}. If the model's are others, all "
            "figures are wrong: predict again with --overwrite"
        )


def _check_inputs(folder: Path, records: Sequence[SlideRecord], warn: Callable[[str], None]) -> None:
    """Sees to it that the slides are those that were predicted, in the same frame.

    Raises:
        DatasetError: One is another file, or turned or cropped otherwise.
    """
    inputs = read_inputs(folder)
    for record in records:
        known = inputs.get(record.slide_id)
        reason = _not_the_same(record, known) if known else None
        if reason is not None:
            raise DatasetError(
                f'the prediction of "{record.slide_id}" in "{folder}" belongs to another image than the dataset: '
                f"{reason}; predict again with --overwrite, or import again where the dataset is the older one"
            )
    silent = [r.slide_id for r in records if r.slide_id not in inputs]
    if silent:
        warn(
            f'"{folder / RUN_FILE}" does not tell which files {listed(silent)} were predicted from, so it is not sure '
            "that they are those of the dataset"
        )


def _not_the_same(record: SlideRecord, known: PredictedInput) -> str | None:
    """Why an image is not the one that was predicted; None where nothing speaks against it."""
    if known.fingerprint != record.fingerprint:
        paths = printable(known.path), printable(record.path)
        return f'it was made from "{paths[0]}", and what was imported from "{paths[1]}" has other content'
    size = (record.width, record.height)
    if None not in (known.width, known.height) and size != (known.width, known.height):
        return f"{known.width} x {known.height} px were predicted, but {size[0]} x {size[1]} px imported"
    if known.frame != record.frame:
        return "it is turned or cropped in another way"
    if None in (known.width, known.height) and known.crop_to_bounds != record.crop_to_bounds:
        return "only one of them is cropped to the scanned bounds"
    return None


def _check_models(
    folder: Path, predicted: Mapping[str, _Predicted], rules: EvaluationRules, warn: Callable[[str], None]
) -> None:
    """Sees to it that one model predicted all slides, and says which of them it was trained on.

    Raises:
        DatasetError: Several did, against the rules.
    """
    told = {slide_id: p.told for slide_id, p in predicted.items() if p.told is not None}
    silent = [slide_id for slide_id in predicted if slide_id not in told]
    if silent:
        warn(f'"{folder / RUN_FILE}" does not tell which model predicted {listed(silent)}')
    by_weights = all(p.weights for p in told.values())
    models: dict[str, list[str]] = {}
    for slide_id, p in told.items():
        models.setdefault((by_weights and p.weights) or p.model_run, []).append(slide_id)
    if len(models) > 1:
        kind = "weights" if by_weights else "run"
        said = "; ".join(
            f'{listed(slides)} by "{printable(told[slides[0]].model)}" ({kind} {printable(model[:8])})'
            for model, slides in models.items()
        )
        if not rules.mixed_models:
            raise DatasetError(
                f"the slides were predicted by different models: {said}; predict them again with one model and "
                "--overwrite, or pass --mixed-models"
            )
        warn(f"the slides were predicted by different models: {said}")
    trained = [s for s, p in told.items() if s in _training_slides(folder, p)]
    if trained:
        warn(f"the model was trained on slides of these names: {listed(trained)}")


def _training_slides(folder: Path, prediction: Prediction) -> Collection[str]:
    """Names of the slides that a model was trained on; none where its folder is not where predict found it."""
    try:
        model = Path(json.loads((folder / RUN_FILE).read_bytes())["configuration"]["model"])
        if not model.is_dir():
            return ()
        from dmmn_qp.folders.model import load_card

        provenance = load_card(model).provenance
        same = provenance["run_id"] == prediction.model_run
        return {name for name in provenance["slides"] if isinstance(name, str)} if same else ()
    except (DmmnQpError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def _annotations(dataset: Dataset, records: Sequence[SlideRecord]) -> _Truth:
    masks = {r.slide_id: dataset.mask_path(r.slide_id) for r in records}
    origins = {r.slide_id: path for r in records if (path := dataset.origin_path(r.slide_id)) is not None}
    return _Truth("the dataset", masks, dict(enumerate(dataset.class_map.names, start=1)), "dataset", origins)


def _truth_maps(truth: Path, records: Sequence[SlideRecord], dataset: Dataset, warn: Callable[[str], None]) -> _Truth:
    """The maps of the full truth, and the classes of their values.

    Raises:
        DatasetError: One is missing, or the table of their values cannot be understood.
    """
    maps = {r.slide_id: _truth_map(truth, r, len(records)) for r in records}
    table = (truth.parent if truth.is_file() else truth) / VALUES_FILE
    if table.is_file():
        return _Truth("the full truth", maps, read_values(table), str(table), {})
    warn(
        f'no {VALUES_FILE} beside the maps of "{truth}" names their values; those of the dataset are assumed: '
        f"{_numbered(dataset.class_map)}"
    )
    return _Truth("the full truth", maps, dict(enumerate(dataset.class_map.names, start=1)), "dataset", {})


def _truth_map(truth: Path, record: SlideRecord, n_slides: int) -> Path:
    if truth.is_file() and n_slides == 1:
        return truth
    for suffix in TRUTH_SUFFIXES:
        path = truth / f"{record.slide_id}{suffix}"
        if path.is_file():
            return path
    raise DatasetError(
        f'no truth map of slide "{record.slide_id}" in "{truth}"; it must be named {record.slide_id}.png'
    )


def read_values(path: Path) -> dict[int, str]:
    """Reads a table of the columns ``value`` (1 .. 255) and ``class``, with commas or semicolons, in UTF-8.

    Returns:
        The class of each value; several values may be of one class.

    Raises:
        DatasetError: It cannot be read, is not of this form, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise DatasetError(f'table "{path}" cannot be read ({reason}); save it as CSV in UTF-8') from error
    if len(data) > MAX_TABLE_BYTES:
        raise DatasetError(f'table "{path}" is longer than {MAX_TABLE_BYTES} bytes; keep the columns value and class')
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    values: dict[int, str] = {}
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        if header.count("value") != 1 or header.count("class") != 1:
            raise DatasetError(
                f'table "{path}" must begin with the line "value,class"; it begins "{printable(first[:60])}"'
            )
        for number, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells):
                _add_value(values, header, cells, f'table "{path}" row {number}')
    except csv.Error as error:
        raise DatasetError(f'table "{path}" is no CSV ({error}); save it again as CSV in UTF-8') from error
    if not values:
        raise DatasetError(f'table "{path}" names no value; write a row for each under the line "value,class"')
    return values


def _add_value(values: dict[int, str], header: Sequence[str], cells: Sequence[str], where: str) -> None:
    if len(cells) != len(header):
        raise DatasetError(
            f"{where} has {len(cells)} cells, but there are {len(header)} columns; put a name with separators into "
            "quotes"
        )
    text, name = (cells[header.index(column)].strip() for column in ("value", "class"))
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not UNLABELLED < value <= _HIGHEST_VALUE:
        raise DatasetError(
            f'{where}: value "{printable(text[:40])}" is no whole number from 1 to {_HIGHEST_VALUE} (0 does not count '
            "and needs no row)"
        )
    if not name:
        raise DatasetError(f"{where}: value {value} has no class; write its name, or leave the row out")
    if value in values:
        raise DatasetError(f'{where}: value {value} is "{printable(values[value])}" further up; keep one of them')
    values[value] = name


def _pairs(
    predicted: Mapping[str, _Predicted], truths: Sequence[_Truth], rules: EvaluationRules
) -> list[tuple[str, str]]:
    """Predicted and true class of each ``--map``.

    Raises:
        ConfigError: A rule names a class that does not exist, or contradicts another.
    """
    found = list(dict.fromkeys(name for p in predicted.values() for name in p.names))
    true = list(dict.fromkeys(name for truth in truths for name in truth.classes.values()))
    for name in rules.exclude:
        _check_name(name, true, "true", f'--exclude "{printable(name)}"')
    if set(true) <= set(rules.exclude):
        raise ConfigError("--exclude leaves no class to compare; name fewer")
    pairs = [_pair(text, found, true) for text in rules.maps]
    for truth in truths:
        given: dict[str, str] = {}
        for one, other in pairs:
            if other in truth.classes.values() and given.setdefault(one, other) != other:
                raise ConfigError(
                    f'--map gives the predicted class "{printable(one)}" to "{printable(given[one])}" and to '
                    f'"{printable(other)}" of {truth.name}; keep one of them'
                )
    return pairs


def _renamed(
    predicted: Mapping[str, _Predicted], truth: _Truth, pairs: Sequence[tuple[str, str]]
) -> dict[str, _Predicted]:
    """The predictions with the names that a truth has for their classes.

    A pair whose true class is another truth's does nothing here: the dataset and maps may name one class in two ways.
    """
    new = {one: other for one, other in pairs if other in truth.classes.values()}
    return {s: replace(p, names=tuple(new.get(name, name) for name in p.names)) for s, p in predicted.items()}


def _pair(text: str, predicted: Sequence[str], true: Sequence[str]) -> tuple[str, str]:
    """``PREDICTED=TRUTH`` in its parts; names may hold the sign themselves."""
    pairs = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "="]
    fitting = [pair for pair in pairs if pair[0] in predicted and pair[1] in true]
    if len(fitting) == 1:
        return fitting[0]
    option = f'--map "{printable(text)}"'
    if not pairs or fitting:
        raise ConfigError(f"{option} is no pair; write --map PREDICTED=TRUTH, once for each class")
    _check_name(pairs[0][0], predicted, "predicted", option)
    _check_name(pairs[0][1], true, "true", option)
    raise ConfigError(f"{option} names no class on both sides; write --map PREDICTED=TRUTH")


def _check_name(name: str, known: Sequence[str], kind: str, option: str) -> None:
    if name not in known:
        near = nearest_name(name, known)
        hint = f'did you mean "{printable(near)}"?' if near else f"they are {', '.join(map(printable, known))}"
        raise ConfigError(f'{option}: there is no {kind} class "{printable(name)}"; {hint}')


def _compare(
    compared: Sequence[tuple[_Truth, Mapping[str, _Predicted]]],
    rules: EvaluationRules,
    reporter: Reporter,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Counts, prints and returns the figures of each truth, and in the annotations of each origin."""
    results: dict[str, Any] = {}
    for truth, predicted in compared:
        slides = listed([*predicted])
        counts = {slide_id: _count(predicted[slide_id], truth, slide_id) for slide_id in predicted}
        unmatched = _unmatched(truth, predicted, rules.exclude)
        _say_unmatched(unmatched, truth, predicted, warn)
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
            results["unchecked_pixels"] = unchecked = sum(_labelled(c["unchecked"]) for c in counts.values())
            if unchecked:
                reporter.say(f"  {unchecked:,} px of predictions that nobody has checked do not count")
    return results


def _result(named: NamedMetrics, truth: _Truth, unmatched: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **figures_as_json(named),
        "values": {str(value): name for value, name in truth.classes.items()},
        "values_from": truth.classes_from,
        "unmatched": dict(unmatched),
    }


def _nothing(title: str, slides: str, named: NamedMetrics) -> str:
    why = "each of them is without a prediction" if named.unpredicted else "there are none"
    return f"{slides}: no figures of {title}, because {why}"


def _labelled(counts: PairCounts) -> int:
    return int(counts[UNLABELLED + 1 :].sum())


def _count(predicted: _Predicted, truth: _Truth, slide_id: str) -> dict[Origin, PairCounts]:
    """Counts the pixels of a slide by true and predicted value, of each origin; all are drawn where none is told.

    Raises:
        DatasetError: A raster is damaged, of another shape, or holds values that are no classes.
    """
    path, origin_path = truth.paths[slide_id], truth.origins.get(slide_id)
    counts: dict[Origin, PairCounts] = {origin: np.zeros((256, 256), np.int64) for origin in ORIGINS}
    with LabelRaster(predicted.path) as found, LabelRaster(path) as true:
        _check_shape(true, found, slide_id)
        rows, columns = true.shape
        strips = [Region(0, y, columns, min(_ROWS_AT_ONCE, rows - y)) for y in range(0, rows, _ROWS_AT_ONCE)]
        if origin_path is None:
            for strip in strips:
                counts["drawn"] += pair_counts(true.read(strip), found.read(strip))
        else:
            with LabelRaster(origin_path) as origins:
                _check_shape(origins, found, slide_id)
                for strip in strips:
                    labels, said, values = true.read(strip), found.read(strip), origins.read(strip)
                    if not np.isin(values[labels != UNLABELLED], [*ORIGINS.values()]).all():
                        raise DatasetError(
                            f'"{origin_path}" does not say of all labelled pixels whose word they are; import again '
                            "with --overwrite"
                        )
                    for origin, value in ORIGINS.items():
                        counts[origin] += pair_counts(np.where(values == value, labels, np.uint8(UNLABELLED)), said)
    _check_values(np.sum([*counts.values()], axis=0), predicted, truth, path)
    return counts


def _check_shape(raster: LabelRaster, predicted: LabelRaster, slide_id: str) -> None:
    for one in (raster, predicted):
        if not one.holds_labels:
            raise DatasetError(
                f'"{one.path}" is no label map: a pixel must be one number of 8 bits; save it as greyscale of 8 bits'
            )
    if predicted.shape != raster.shape:
        raise DatasetError(
            f'"{raster.path}" has {raster.shape[1]} x {raster.shape[0]} px but the prediction of "{slide_id}" has '
            f"{predicted.shape[1]} x {predicted.shape[0]}; both must be at the same um/px: predict with a model of "
            "this dataset"
        )


def _check_values(counts: PairCounts, predicted: _Predicted, truth: _Truth, path: Path) -> None:
    unknown = sorted(set(np.flatnonzero(counts.any(axis=1)).tolist()) - {UNLABELLED, *truth.classes})
    if unknown:
        if truth.classes_from == "dataset":
            way_out = f"the dataset has {len(truth.classes)} classes; name the values in a {VALUES_FILE} beside it"
        else:
            way_out = f'"{truth.classes_from}" does not name it; add a row for it'
        if truth.name == "the dataset":
            way_out = "it is no class of the dataset; import again with --overwrite"
        raise DatasetError(f'"{path}" holds the value {unknown[0]}: {way_out}')
    highest = int(np.flatnonzero(counts.any(axis=0)).max(initial=0))
    if highest > len(predicted.names):
        raise DatasetError(
            f'"{predicted.path}" holds the label {highest}, but its classes are 1 to {len(predicted.names)}: '
            f"{listed(predicted.names)}; predict again with --overwrite"
        )


def _unmatched(
    truth: _Truth, predicted: Mapping[str, _Predicted], exclude: Collection[str]
) -> dict[str, dict[str, list[str]]]:
    """Names without a counterpart: under ``truth`` true classes and the slides whose model lacks them, under
    ``predicted`` predicted classes that the truth lacks and the slides whose model has them.
    """
    true = dict.fromkeys(truth.classes.values())
    lacking = {name: [s for s, p in predicted.items() if name not in p.names] for name in true if name not in exclude}
    beyond: dict[str, list[str]] = {}
    for slide_id, p in predicted.items():
        for name in dict.fromkeys(p.names):
            if name not in true:
                beyond.setdefault(name, []).append(slide_id)
    return {"truth": {name: slides for name, slides in lacking.items() if slides}, "predicted": beyond}


def _say_unmatched(
    unmatched: Mapping[str, Mapping[str, Sequence[str]]],
    truth: _Truth,
    predicted: Mapping[str, _Predicted],
    warn: Callable[[str], None],
) -> None:
    """Says what has no counterpart: first what differs by a slip, then the rest together."""
    for name, slides in unmatched["predicted"].items():
        twin = namesake(name, unmatched["truth"])
        if twin is not None:
            warn(
                f'predicted class "{printable(name)}"{_of_slides(slides, predicted)} and class "{printable(twin)}" of '
                f"{truth.name} differ in case or blanks, so they are two classes; if they are one, pass --map "
                f"{shlex.quote(printable(f'{name}={twin}'))}"
            )
    for slides, names in _by_slides(unmatched["truth"], unmatched["predicted"]).items():
        warn(
            f"no classes of the model{_of_slides(slides, predicted)}, but of {truth.name}: {names}; their pixels count "
            "as missed (--map gives them a predicted class, --exclude leaves them out)"
        )
    for slides, names in _by_slides(unmatched["predicted"], unmatched["truth"]).items():
        warn(
            f"no classes of {truth.name}, but of the model{_of_slides(slides, predicted)}: {names}; pixels predicted "
            "as these count as wrong (--map gives them a true class)"
        )


def _by_slides(names: Mapping[str, Sequence[str]], others: Iterable[str]) -> dict[tuple[str, ...], str]:
    """Names that are not slips of others, in one text for all that concern the same slides."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for name, slides in names.items():
        if namesake(name, others) is None:
            grouped.setdefault(tuple(slides), []).append(printable(name))
    return {slides: ", ".join(group) for slides, group in grouped.items()}


def _of_slides(slides: Sequence[str], predicted: Mapping[str, _Predicted]) -> str:
    return "" if len(slides) == len(predicted) else f" of {listed(slides)}"


def _numbered(class_map: ClassMap) -> str:
    return ", ".join(f"{c.label} {printable(c.name)}" for c in class_map.classes)


def _as_json(predicted: _Predicted) -> dict[str, Any]:
    told = predicted.told
    return {
        "classes": list(predicted.names),
        "classes_from": predicted.names_from,
        "model": told and told.model,
        "model_run": told and told.model_run,
        "weights": told and told.weights,
    }
