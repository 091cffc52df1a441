"""What all drawings share: figures as pixels of whatever size, text as it is written, colours as they are seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray


@contextmanager
def plain_text() -> Iterator[None]:
    """Draws names as they are: dollar signs begin no formula, and what a font lacks or has no room is not reported."""
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing|constrained_layout not applied")
        yield


def pixels_of(figure: Figure) -> NDArray[np.uint8]:
    """A figure as (rows, columns, 3) uint8.

    The canvas says how many pixels it has: inches times dots rounded are sometimes others.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]


def seen_colors(shown: NDArray[np.uint8], labels: NDArray[np.uint8], otherwise: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colour that each label has in a picture: the mean of its pixels, for the swatches of a legend.

    Args:
        shown: (..., 3) uint8 colours.
        labels: (...) uint8 labels of the same pixels.
        otherwise: (256, 3) uint8 colours of labels that the picture does not show.

    Returns:
        (256, 3) uint8, by label.
    """
    of_pixel = labels.ravel()
    n = np.bincount(of_pixel, minlength=256)
    sums = [np.bincount(of_pixel, channel, minlength=256) for channel in shown.reshape(-1, 3).T]
    means = np.stack(sums, axis=1) / np.maximum(1, n)[:, None]
    return np.where(n[:, None] > 0, np.rint(means), otherwise).astype(np.uint8)
