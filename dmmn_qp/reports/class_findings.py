"""What decides whether a class can be learned and judged, from the patch index alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dmmn_qp.choices import SPLITS, OverlapRule
from dmmn_qp.labels.draws import shown_classes
from dmmn_qp.labels.patches import PatchRef, class_pixels, covered_text, uncover_text
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import count_of, shorten

FEW_PATCHES: Final = 10
"""A class that fewer training patches show is hardly learned."""


def class_findings(
    patches: Sequence[PatchRef],
    class_map: ClassMap,
    covering: Callable[[str], Sequence[str]] = lambda _: (),
    overlap: OverlapRule = "inner",
    *,
    is_validated: bool = True,
) -> Iterator[Finding]:
    """Classes of which there is too little to train on, or nothing to validate on.

    Args:
        patches: Patches of all splits.
        class_map: The classes.
        covering: The classes whose areas hide all of a class, by its name; asked only for one without pixels.
        overlap: The rule by which they do.
        is_validated: Whether there are validation patches at all.
    """
    pixels = {split: class_pixels((p for p in patches if p.split == split), class_map) for split in SPLITS}
    shown = shown_classes([p for p in patches if p.split == "train"], len(class_map)).sum(axis=0)
    for i, name in enumerate(class_map.names):
        others = covering(name) if not pixels["train"][i] else ()
        if others:
            yield Finding(
                severity="error",
                concerns="training",
                class_name=name,
                message=f'"{name}" {covered_text(others)}',
                way_out=f"{uncover_text(others, overlap)} --drop {name}",
            )
        elif not pixels["train"][i]:
            yield Finding(
                severity="error",
                concerns="training",
                class_name=name,
                message=f'"{name}" has no pixel in the training split',
                way_out=f"annotate it on a training slide, move a slide to that split, or leave it out: --drop {name}",
            )
        elif shown[i] < FEW_PATCHES:
            yield Finding(
                severity="warning",
                concerns="training",
                class_name=name,
                message=f'"{name}" is shown by only {count_of(shown[i], "training patch", "training patches")}',
                way_out="annotate more of it, in different places and on different slides",
            )
        if is_validated and not pixels["val"][i]:
            yield Finding(
                severity="warning",
                concerns="training",
                class_name=name,
                message=f'"{name}" has no pixel in the validation split, so the best epoch is chosen without it',
                way_out="annotate some of it on a validation slide",
            )


def what_to_draw(name: str, taken_for: str | None, patches: Sequence[PatchRef], class_map: ClassMap) -> str:
    """What a person can draw so that a class is learned that was not.

    Args:
        name: The class.
        taken_for: The class that its pixels were mostly taken for; None where they were not taken for one.
        patches: The training patches.
        class_map: The classes.
    """
    label = class_map.label_of(name)
    assert label is not None
    own = [patch for patch in patches if patch.label_counts[label]]
    shown = int(shown_classes(own, len(class_map))[:, label - 1].sum())
    slides = len({patch.slide_id for patch in own})
    there = (
        f"{count_of(shown, 'training patch', 'training patches')} on {count_of(slides, 'slide')} "
        f"{'shows' if shown == 1 else 'show'} it"
    )
    border = "" if taken_for is None else f', and up to its borders with "{shorten(taken_for)}"'
    if shown < FEW_PATCHES:
        return f"only {there}: draw more of it, in different places and on different slides"
    if slides == 1:
        return f"{there}: draw it on other slides too{border}"
    return f"{there}: draw it in more places{border}"
