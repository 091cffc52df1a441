"""How it is recorded what a prediction was asked for, and how that differs from what is asked for now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from typing import Any, Final

import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.choices import Context
from dmmn_qp.folders.model import ModelCard
from dmmn_qp.folders.predictions import PredictedInput, Prediction
from dmmn_qp.outputs.options import POLYGON_OPTIONS
from dmmn_qp.predicting.areas import is_restricted
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.slides.base import SlideInfo
from dmmn_qp.slides.files import fingerprint, users_path
from dmmn_qp.text import shorten

_TISSUE: Final = ("tissue_min_area_um2", "tissue_min_hole_um2", "tissue_margin_um")
_TISSUE_BORDER: Final = "tissue_border"
"""Where a prediction of the tissue alone ends; earlier versions do not say it, and ended with whole targets."""

_EXTRA_FILES: Final = ("tissue_outline", "probabilities", "uncertainty")
"""Files that may be there without being asked for."""

_FLAGS: Final = ("tta", "tissue_only", *_EXTRA_FILES)
_VALUES: Final = ("outside", *_TISSUE)
_MPP_TOLERANCE: Final = 1e-6


def request_of(
    target: SlideToPredict,
    options: PredictOptions,
    *,
    mpp: float,
    context: Context,
    precision: str | None,
    regions: BaseGeometry | None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """What the rasters of a slide depend on besides its file, and the network and classes of the model.

    Args:
        target: The slide.
        options: Resolved options.
        mpp: um/px of the slide at level 0.
        context: How targets see what is around them, with ``auto`` decided.
        precision: ``fp32`` or ``bf16``; None where any will do.
        regions: The areas outside which nothing is predicted, in level-0 px; None for none.
        temperature: At which the model's logits become probabilities; None where nobody calibrated it.

    Returns:
        As JSON. What has no influence is None: the options of the tissue where none is sought, and the label outside
        where there is no outside.
    """
    seeks_tissue = options.tissue_only or options.tissue_outline
    tempers = temperature is not None and (options.probabilities or options.uncertainty)
    return {
        "um_per_px": mpp,
        "context": context,
        "precision": precision,
        **{name: getattr(options, name) for name in _FLAGS},
        "tta": options.copies == 8,
        **({"views": options.copies} if options.copies not in (1, 8) else {}),
        **({"temperature": temperature} if tempers else {}),
        **{name: _as_json(getattr(options, name)) if seeks_tissue else None for name in _TISSUE},
        **({_TISSUE_BORDER: "outline"} if options.tissue_only else {}),
        "outside": options.outside if is_restricted(target, options) else None,
        "regions": None if regions is None else hashlib.sha256(shapely.to_wkb(regions)).hexdigest()[:32],
        "roi": None if target.roi is None else target.roi.name,
        "roi_class": options.roi_class,
    }


def polygons_request(options: PredictOptions) -> dict[str, Any]:
    """What the polygons depend on besides the labels, as JSON."""
    return {name: _as_json(getattr(options, name)) for name in POLYGON_OPTIONS}


def _as_json(value: object) -> object:
    """The value of an option; infinity, for which JSON has no number, as text."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def card_digest(card: ModelCard) -> str:
    """A digest of what of a model's card the labels depend on: network, classes, geometry and input.

    What cards did not always have is left out where it is as it was before, so that digests stay what they were.
    """
    content = card.model_dump(mode="json", include={"network", "class_map", "patch_spec", "input"})
    for part, name, before in _NEWER:
        if content[part].get(name) == before:
            del content[part][name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


_NEWER: Final = (
    ("network", "encoder", None),
    ("network", "views", 1),
    ("network", "padding", "zeros"),
    ("input", "beyond", "black"),
)


def input_of(slide: SlideToPredict, info: SlideInfo | None = None) -> PredictedInput:
    """What is recorded of a slide beside its prediction.

    Args:
        slide: The slide.
        info: The same, opened; its size is unknown without.
    """
    return PredictedInput(
        path=str(users_path(slide.path)).encode("utf-8", "backslashreplace").decode(),
        fingerprint=fingerprint(slide.path),
        width=info.width if info else None,
        height=info.height if info else None,
        crop_to_bounds=slide.view.crop_to_bounds,
        frame=slide.view.frame,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of a prediction against what is asked for now.

    Attributes:
        differences: In words that follow "predicted before"; empty where nothing that is known differs.
        is_complete: Whether everything could be compared; not so where an earlier version predicted.
    """

    differences: tuple[str, ...]
    is_complete: bool


def compare(
    before: Prediction | None, image_before: PredictedInput | None, now: Prediction, image_now: PredictedInput
) -> Comparison:
    """Compares a prediction that is there with one that is asked for.

    Args:
        before: The record of the one that is there, as far as there is one.
        image_before: What it was made from, likewise.
        now: The record that the other one would have.
        image_now: What it would be made from.
    """
    differences = [
        *_image_differences(image_before, image_now),
        *(_model_differences(before, now) if before is not None else ()),
    ]
    request = before.request if before is not None else None
    asked = now.request or {}
    known = None not in (image_before, request) and before is not None and before.weights is not None
    differences += _request_differences(request or {}, asked)
    return Comparison(tuple(differences), known and asked.keys() <= (request or {}).keys())


def _image_differences(before: PredictedInput | None, now: PredictedInput) -> Iterator[str]:
    """How the slide differs, in words that follow "predicted before"."""
    if before is None:
        return
    if before.fingerprint != now.fingerprint:
        yield "from another file (its content differs)"
        return
    if before.frame != now.frame:
        yield "turned or cropped in another way"
    sizes = (before.width, before.height), (now.width, now.height)
    if None not in (*sizes[0], *sizes[1]):
        if sizes[0] != sizes[1]:
            yield "as {} x {} px instead of {} x {}".format(*sizes[0], *sizes[1])
    elif before.crop_to_bounds != now.crop_to_bounds:
        yield f"{'' if before.crop_to_bounds else 'not '}cropped to the scanned bounds"


def _model_differences(before: Prediction, now: Prediction) -> Iterator[str]:
    """How the model differs, likewise."""
    digests = ((before.weights, now.weights), (before.card, now.card))
    same = all(one in (None, other) for one, other in digests)
    if before.weights is None:
        same = before.model_run == now.model_run
    if not same:
        yield f'by another model ("{shorten(before.model)}")'


def _request_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """How the options that the labels depend on differ, likewise."""

    def differs(name: str) -> bool:
        return name in before and name in now and before[name] != now[name]

    mpp, asked = before.get("um_per_px"), now.get("um_per_px")
    if differs("um_per_px") and not (
        isinstance(mpp, float) and isinstance(asked, float) and isclose(mpp, asked, rel_tol=_MPP_TOLERANCE)
    ):
        yield f"at {_shown(mpp)} um/px instead of {_shown(asked)}"
    if differs("context"):
        yield f"with context {_shown(before['context'])} instead of {_shown(now['context'])}"
    if differs("precision") and now["precision"] is not None:
        yield f"in {_shown(before['precision'])} instead of {_shown(now['precision'])}"
    if before.get("views", 1) != now.get("views", 1) and not differs("tta"):
        yield f"with --views {_shown(before.get('views', 1))} instead of {_shown(now.get('views', 1))}"
    temperatures = [request.get("temperature") for request in (before, now)]
    if _has_chances(before) and _has_chances(now) and temperatures[0] != temperatures[1]:
        yield "with probabilities at temperature {} instead of {}".format(*(_shown(t or 1.0) for t in temperatures))
    for name in _FLAGS:
        if differs(name) and (now[name] or name not in _EXTRA_FILES):
            yield f"{'without' if now[name] else 'with'} {_option(name)}"
    for name in _VALUES:
        if differs(name) and None not in (before[name], now[name]):
            yield f"with {_option(name)} {_shown(before[name])} instead of {_shown(now[name])}"
    if differs("regions"):
        yield _region_difference(before, now)


def _has_chances(request: Mapping[str, Any]) -> bool:
    return bool(request.get("probabilities") or request.get("uncertainty"))


def _region_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the regions differ, likewise."""

    def asked_by(request: Mapping[str, Any]) -> str:
        return " and ".join(_option(name) for name in ("roi", "roi_class") if request.get(name) is not None)

    if before["regions"] is None:
        return f"without {asked_by(now)}"
    if now["regions"] is None:
        return f"with {asked_by(before)}"
    return f"in other regions ({asked_by(now)})"


def polygon_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How polygons that are there were asked for in another way, in words.

    Args:
        before: `polygons_request` of those that are there, as a file has it.
        now: That of those that are asked for.
    """
    return [_option_difference(name, before.get(name), now[name]) for name in now if before.get(name) != now[name]]


def _option_difference(name: str, before: object, now: object) -> str:
    """How an option of the polygons differs."""
    if isinstance(now, bool):
        return f"{'with' if now else 'without'} {_option(name)}"
    return f"{_option(name)} {_shown(now)} instead of {_shown(before)}"


def _option(name: str) -> str:
    """An option as it is typed."""
    return "--as" if name == "object_kind" else "--" + name.replace("_", "-")


def _shown(value: object) -> str:
    """A value, which may come from a file, for a one-line message."""
    return f"{value:.10g}" if isinstance(value, float) else shorten(str(value), 40)


def listed(words: Sequence[str]) -> str:
    """Some words as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
