"""The strips of an unfinished prediction: who makes them, what they depend on, when they are taken up and go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from dmmn_qp.errors import OutputExistsError
from dmmn_qp.files.locks import locked
from dmmn_qp.files.renaming import clear_away
from dmmn_qp.folders.predictions import polygons_of
from dmmn_qp.predicting.areas import Area
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.slide import SlideJob, begin_slide
from dmmn_qp.predicting.strips import KEY_FILE
from dmmn_qp.text import shorten


def take_up(call: Call, slide: SlideToPredict) -> SlideJob:
    """Makes a slide ready to be predicted, with the strips of it that are finished.

    Raises:
        OutputExistsError: With ``resume``, the strips that are there are not of what is asked for.
        SlideError: The slide cannot be read, nor can its regions of interest.
        PixelSizeError: It does not fit the model.
    """
    folder, job = call.strips_folder(slide.slide_id), _job(call, slide)
    key = _key(call, job)
    if call.resume and folder.exists() and not job.strips.has_key(key):
        raise OutputExistsError(
            f'the interrupted prediction "{folder}" was made with another model, slide or options; repeat the '
            "command that began it, or leave out --resume to begin again"
        )
    if job.strips.begin(key):
        call.reporter.say(f"  {slide.slide_id}: begins again, its finished part was made with another model or options")
    return job


def has_begun_this(call: Call, slide: SlideToPredict) -> bool:
    """Whether the strips that are there of a slide are of just what is asked for; so it seems where others predict,
    who know it.
    """
    if call.model.elsewhere is not None:
        return True
    job = _job(call, slide)
    return job.strips.has_key(_key(call, job))


def begun_after(folder: Path, polygons: Path | None) -> bool:
    """Whether there are strips of a slide, and they were begun after its polygons were written.

    Args:
        folder: Its strips.
        polygons: Its polygons; None where it has none, so that strips are newer in any case.
    """
    try:
        begun = (folder / KEY_FILE).stat().st_mtime_ns
    except OSError:
        return False
    return polygons is None or begun > polygons.stat().st_mtime_ns


def remove_leftovers(call: Call, slide_id: str) -> None:
    """Removes what a finished prediction left of its strips; those of one that was begun later stay.

    The slide is claimed.
    """
    folder = call.strips_folder(slide_id)
    if not begun_after(folder, polygons_of(call.out, slide_id)):
        clear_away(folder)


@contextmanager
def claimed(call: Call, slide_id: str) -> Iterator[None]:
    """Holds a slide of the folder, so that no other process predicts it too.

    Raises:
        InUseError: One does.
    """
    call.out.mkdir(parents=True, exist_ok=True)
    doing, way_out = f'a prediction of slide "{shorten(slide_id)}"', "wait until it has ended, or pass another --out"
    with locked(call.out / slide_id, doing, way_out, take_over=call.take_over, where=call.out):
        yield


def _job(call: Call, slide: SlideToPredict) -> SlideJob:
    folder, model = call.strips_folder(slide.slide_id), call.model
    return begin_slide(slide, model.predictor, folder, call.options, model.outside)


def _key(call: Call, job: SlideJob) -> dict[str, Any]:
    """Everything that a strip depends on, but for how sums are rounded: any number of threads may go on with it."""
    model, predictor = call.model, call.model.predictor
    temperature = model.card.temperature if predictor.probabilities or predictor.uncertainty else None
    return {
        "weights": model.weights_digest,
        "card": model.card.model_dump(mode="json", exclude={"provenance", "name", "training_domain", "calibrated"}),
        "slide": job.fingerprint,
        "grid": [job.grid.downsample, *job.shape],
        "frame": [repr(change) for change in job.target.view.frame] + [job.target.view.crop_to_bounds],
        "context": predictor.context,
        "block_targets": predictor.block_targets,
        "bf16": predictor.bf16,
        "device": predictor.device.type,
        "tta": predictor.views == 8,
        **({"views": predictor.views} if predictor.views not in (1, 8) else {}),
        **({} if temperature is None else {"temperature": temperature}),
        "kinds": dict(job.strips.channels),
        "outside": model.outside,
        "area": _area_digest(job.area),
    }


def _area_digest(area: Area) -> str:
    outlines = b"".join(shapely.to_wkb(outline) for outline in area.outlines)
    return hashlib.sha256(np.packbits(area.targets).tobytes() + outlines).hexdigest()[:32]
