"""The image that a prediction was made from, found again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.slides.files import has_fingerprint
from dmmn_qp.slides.finding import SlideFinder, SlidesRoot, Wanted, path_of_text
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.view import SlideView


def view_of_image(
    slide_id: str, known: PredictedInput, mpp: StatedMpp, slides_roots: Sequence[SlidesRoot] = ()
) -> SlideView:
    """Finds an image again as `SlideFinder` does; only a file with its fingerprint is it.

    Args:
        slide_id: Its name in file names.
        known: What is known of it.
        mpp: What is said of its pixel size.
        slides_roots: Folders to search for slides that have been moved.

    Returns:
        The image in the frame in which it was predicted.

    Raises:
        SlideError: It is nowhere, or what is there is another file.
    """
    stored = path_of_text(known.path) or PurePath(known.path)
    wanted = Wanted(stored.name, stored, accept=lambda path: has_fingerprint(path, known.fingerprint))
    path = SlideFinder(slides_roots).find({slide_id: wanted})[slide_id]
    size = None if known.width is None or known.height is None else (known.width, known.height)
    return SlideView(path, known.crop_to_bounds, known.frame, mpp, size)
