"""Makes a slide's finished files visible, so that at no moment a file says something else than ``run.json``.

Of each slide one call is in charge (`claimed`). What all slides have in common, ``run.json``, ``areas.csv`` and
``README.txt``, is read, changed and written while the folder is held, so that of many calls none loses what another
wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmmn_qp.files import RUN_FILE, move, write_json
from dmmn_qp.files.locks import briefly_locked
from dmmn_qp.files.renaming import remove, rename
from dmmn_qp.folders.predictions import (
    INPUTS,
    POLYGONS_SUFFIXES,
    PREDICTIONS,
    PredictedInput,
    Prediction,
    merged_inputs,
    merged_predictions,
    read_predictions,
    read_run,
)
from dmmn_qp.folders.provenance import now
from dmmn_qp.outputs.area_table import SlideAreas, write_areas
from dmmn_qp.outputs.earlier import drop_oldest, first_metadata, keep_earlier
from dmmn_qp.outputs.made_objects import MadeObjects
from dmmn_qp.outputs.readme import write_readme
from dmmn_qp.outputs.writers import WRITERS, recorded_suffixes
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.summary import Outcome, Summary
from dmmn_qp.qupath.marks import RUN_KEY
from dmmn_qp.slides.files import fingerprint


@dataclass(frozen=True, slots=True)
class ReadySlide:
    """A slide whose new files are complete.

    Attributes:
        slide_id: The slide.
        folder: A folder with the new files, on the same disk as the folder of predictions.
        record: Of the new files.
        image: What they were made from.
        made: What became of the regions of the labels.
        areas: Pixels of each class; None where only the polygons are new, and the other files stay.
    """

    slide_id: str
    folder: Path
    record: Prediction
    image: PredictedInput
    made: MadeObjects
    areas: SlideAreas | None = None


def publish(call: Call, ready: ReadySlide, so_far: Summary) -> Outcome:
    """Moves a slide's files to where they belong, in place of those of an earlier prediction.

    First the earlier polygons go, of which a copy is kept; then the earlier record; then all other files come; then
    the record and ``README.txt``; and the new polygons last. So whoever sees polygons sees what they are of, whenever
    this is interrupted.

    Args:
        call: The call.
        ready: The slide with its files.
        so_far: What came of the slides before.

    Returns:
        What came of this one.
    """
    name = ready.slide_id
    _put_away_earlier(call.out, name)
    polygons = next(path for s in POLYGONS_SUFFIXES if (path := ready.folder / f"{name}{s}").is_file())
    if ready.areas is not None:
        write_run(call, so_far, without=(name,))
        _replace_rasters(call.out, ready, polygons)
    place = call.out / polygons.name
    with _held(call.out):
        if ready.areas is not None:
            write_areas(call.out, [ready.areas])
        _write_run(call, so_far.after(Outcome(name, place)), {name: ready.record}, {name: ready.image})
        _write_readme(call, polygons.name)
        move(polygons, place)
    return Outcome(name, place, made=ready.made, dropped=drop_oldest(call.out, name), is_unlike=ready.record.is_unlike)


def write_run(call: Call, summary: Summary, without: Sequence[str] = ()) -> None:
    """Writes ``run.json``: the call, what came of its slides, and the predictions that the folder holds.

    Args:
        call: The call.
        summary: What came of the slides.
        without: Slides whose records go.
    """
    with _held(call.out):
        _write_run(call, summary, without=without)


def _held(out: Path) -> AbstractContextManager[None]:
    """Holds what all slides of a folder have in common, for the moment in which it is changed."""
    out.mkdir(parents=True, exist_ok=True)
    return briefly_locked(out / RUN_FILE)


def _write_run(
    call: Call,
    summary: Summary,
    records: Mapping[str, Prediction] | None = None,
    images: Mapping[str, PredictedInput] | None = None,
    without: Sequence[str] = (),
) -> None:
    """Writes ``run.json`` while it is held; ``images`` is what the slides with new ``records`` were made from."""
    finished = summary.finished
    content = {
        **call.run,
        **call.model.description(),
        "finished": now(),
        "slides": [slide.slide_id for slide in call.slides if slide.slide_id in finished],
        "skipped": summary.skipped,
        "failed": summary.failures,
        PREDICTIONS: merged_predictions(call.out, records or {}, without),
        INPUTS: merged_inputs(call.out, images or {}, without),
    }
    if call.has_others:
        content = with_those_of_others(content, read_run(call.out))
    if call.shard is not None:
        content = call.shard.with_others(content, read_run(call.out))
    write_json(call.out / RUN_FILE, content)


def with_those_of_others(content: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of a call after one of its slides, with what it has said of the others.

    Args:
        content: What it says of the slide.
        before: What it has said so far; of another call nothing is kept.
    """
    if before.get("run_id") != content["run_id"]:
        return dict(content)
    lists = {
        name: [*told, *(x for x in content[name] if x not in told)]
        for name in ("slides", "skipped")
        if isinstance(told := before.get(name), list)
    }
    return {**content, **lists}


def _put_away_earlier(out: Path, slide_id: str) -> None:
    """Removes the polygons that are there, both kinds of files, once copies of them are kept."""
    there = [path for s in POLYGONS_SUFFIXES if (path := out / f"{slide_id}{s}").is_file()]
    record = read_predictions(out).get(slide_id)
    for path in there:
        run_id = record.run_id if record is not None else first_metadata(path).get(RUN_KEY)
        keep_earlier(out, slide_id, path, run_id)
    for path in there:
        remove(path)


def _replace_rasters(out: Path, ready: ReadySlide, polygons: Path) -> None:
    """Takes over all files but the polygons, and removes what the new prediction has not."""
    new = {path.name for path in ready.folder.iterdir()} - {polygons.name}
    for suffix in WRITERS:
        name = f"{ready.slide_id}.{suffix}"
        if name not in new and name != polygons.name:
            _put_away(out / name, ready.folder)
    for name in sorted(new):
        _put_in_place(ready.folder / name, out)


def publish_more(call: Call, slide_id: str, folder: Path) -> None:
    """Moves more files of a finished slide to where they belong; its prediction stays as it is.

    Args:
        call: The call.
        slide_id: The slide.
        folder: A folder with the new files, whose names are those that they get.
    """
    with _held(call.out):
        for suffix in WRITERS:
            if (new := folder / f"{slide_id}.{suffix}").exists() and f".{suffix}" not in POLYGONS_SUFFIXES:
                _put_in_place(new, call.out)
        _write_readme(call)


def _put_in_place(new: Path, out: Path) -> None:
    """Moves a file or a folder where it belongs, in place of an earlier one, whose rest goes with the folder of it."""
    place = out / new.name
    if new.is_dir() or place.is_dir():
        _put_away(place, new.parent)
    move(new, place)


def _put_away(path: Path, to: Path) -> None:
    """Takes a file away, or a folder: at once, whatever it holds, into another one that will be removed."""
    if path.is_dir():
        rename(path, to / f".{path.name}.{uuid4().hex[:8]}")
    else:
        remove(path)


def _write_readme(call: Call, *coming: str) -> None:
    """Writes ``README.txt``, which already names polygons that are about to come."""
    card = call.model.card
    write_readme(
        call.out,
        model_name=card.name,
        class_map=card.class_map,
        run_id=call.run_id,
        mpp=card.patch_spec.mpps[0],
        licence=card.licence,
        attribution=card.attribution,
        encoder=card.encoder_credit,
        coming=coming,
    )


def digests_of(ready: Path, slide_id: str) -> dict[str, str]:
    """Digest of each finished file of a slide that is recorded, by what follows ``<slide>.`` in its name."""
    paths = {suffix: ready / f"{slide_id}.{suffix}" for suffix in recorded_suffixes()}
    return {suffix: fingerprint(path) for suffix, path in paths.items() if path.is_file()}
