"""Chosen windows as suggestions, with the reasons in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dmmn_qp.folders.suggestions import Suggestion
from dmmn_qp.suggesting.scores import Scores
from dmmn_qp.suggesting.windows import Window
from dmmn_qp.text import shorten

_HIGH: Final = 0.9
"""Rank from which on a second reason is named too."""

_LONGEST_NAME: Final = 40


def suggestions_of(
    windows: Sequence[Window],
    chosen: Sequence[int],
    scores: Scores,
    weights: tuple[float, float, float],
    rarity_of_class: Mapping[str, float],
    mpps: Mapping[str, float],
) -> list[Suggestion]:
    """The chosen windows as suggestions, in the order in which they were chosen."""
    return [
        Suggestion(
            rank=rank,
            of=len(chosen),
            slide_id=windows[i].slide_id,
            region=windows[i].region,
            mpp=mpps[windows[i].slide_id],
            reason=reason_of(
                windows[i],
                (float(scores.uncertainty[i]), float(scores.rarity[i]), float(scores.distance[i])),
                weights,
                rarity_of_class,
            ),
            score=float(scores.total[i]),
            uncertainty=float(scores.uncertainty[i]),
            rarity=float(scores.rarity[i]),
            distance=float(scores.distance[i]),
            entropy=windows[i].entropy,
            shares=windows[i].shares,
        )
        for rank, i in enumerate(chosen, start=1)
    ]


def reason_of(
    window: Window,
    ranks: tuple[float, float, float],
    weights: tuple[float, float, float],
    rarity_of_class: Mapping[str, float],
) -> str:
    """Says why a window is suggested: what adds most to its score, and what else is high.

    Args:
        window: The window.
        ranks: Its uncertainty, rarity and distance.
        weights: Of the three.
        rarity_of_class: How rare each class is among what is annotated.
    """
    words = (_unsure(window), _rare(window, rarity_of_class), _unlike(window))
    counted = [i for i in range(3) if weights[i] > 0]
    order = sorted(counted, key=lambda i: -weights[i] * ranks[i])
    return "; ".join(words[i] for i in order if i == order[0] or ranks[i] >= _HIGH)


def _unsure(window: Window) -> str:
    names = [shorten(name, _LONGEST_NAME) for name in window.unsure[:2]]
    return f"unsure between {names[0]} and {names[1]}" if len(names) > 1 else f"unsure of {names[0]}"


def _unlike(window: Window) -> str:
    return f"unlike what is annotated as {shorten(window.main_class, _LONGEST_NAME)}"


def _rare(window: Window, rarity_of_class: Mapping[str, float]) -> str:
    """Names the class that counts most for a window's rarity."""
    name, _ = max(window.shares, key=lambda item: item[1] * rarity_of_class.get(item[0], 1.0))
    much = "nothing" if rarity_of_class.get(name, 1.0) >= 1 else "little"
    return f"{shorten(name, _LONGEST_NAME)}, of which {much} is annotated"
