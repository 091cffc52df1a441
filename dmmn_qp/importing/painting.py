"""Paints the labels of all slides: patches and masks, several slides at a time where that is worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import shapely

from dmmn_qp.console import Reporter
from dmmn_qp.engines import Done, Failed, run
from dmmn_qp.engines.cores import available_cores
from dmmn_qp.errors import DmmnQpError, SlideChangedError, SlideError, WorkerLostError
from dmmn_qp.files.failures import is_full_disk, line_of
from dmmn_qp.importing.opening import LeftOutSlide, OpenedSlide
from dmmn_qp.importing.prepared import Labelling, Prepared, patches_of, prepare
from dmmn_qp.importing.writing import remove_slide, windows_of, write_slide
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.slides.files import check_unchanged

MOST_WORKERS: Final = 8
"""Processes that paint, where nobody says how many."""

WORTH: Final = 25_000
"""Targets for which other processes are begun: some seconds of painting, where beginning one takes half a second."""

VERTICES_OF_A_TARGET: Final = 640
"""Vertices that cost about as much as a target without any, each time that a row of targets looks at them."""

TARGETS_OF_A_WINDOW: Final = 32
"""Targets that cost about as much as a window of a mask, in the progress."""

_Painted = tuple[tuple[PatchRef, ...], tuple[int, ...]]
"""Patches, and pixels of each class in the mask that was written, if any."""


def paint_all(
    opened: Sequence[OpenedSlide], labelling: Labelling, folder: Path | None, workers: int | None, reporter: Reporter
) -> tuple[list[Prepared], list[LeftOutSlide]]:
    """Indexes the patches of all slides, and writes their annotations and masks.

    Args:
        opened: The slides.
        labelling: How their objects become labels and patches.
        folder: A new dataset, with its folders; None writes nothing.
        workers: Processes; None fits them to the machine and to the work.
        reporter: Told of the progress, target by target: one slide may take as long as all others.

    Returns:
        The slides, and those that cannot be painted, of which no file is left; both in their order.

    Raises:
        OSError: The disk is full.
    """
    items = [prepare(slide, labelling) for slide in opened]
    painted: list[Prepared] = []
    left_out: list[LeftOutSlide] = []
    with reporter.task("labels", sum(_units(item, folder) for item in items)) as task:

        def advance(number: int, amount: int) -> None:
            task.advance(amount, note=items[number].record.slide_id)

        paint = partial(paint_slide, labelling=labelling, folder=folder)
        workers = workers_for(items) if workers is None else workers
        with closing(run(paint, items, workers, advance)) as outcomes:
            for slide, item, painted_now in zip(opened, items, outcomes, strict=True):
                outcome = _unless_changed(slide, painted_now)
                if isinstance(outcome, Done):
                    patches, pixels = outcome.result
                    painted.append(replace(item, patches=patches, pixels=pixels))
                elif is_full_disk(outcome.error):
                    raise outcome.error
                else:
                    left_out.append(LeftOutSlide(slide.source, slide.slide_id, _reason(slide, outcome.error)))
                    if folder is not None:
                        remove_slide(folder, slide.slide_id)
    return painted, left_out


def paint_slide(
    item: Prepared, advance: Callable[[int], None], *, labelling: Labelling, folder: Path | None
) -> _Painted:
    """Paints a slide: its patches, and pixels of each class in the mask that was written, if any.

    Args:
        item: The slide.
        advance: Told how much more is done, in targets.
        labelling: How its objects become labels and patches.
        folder: A new dataset, with its folders; None writes nothing.
    """
    patches = patches_of(item, labelling, advance)
    if folder is None:
        return patches, ()

    def written(windows: int) -> None:
        advance(windows * TARGETS_OF_A_WINDOW)

    return patches, write_slide(folder, item, labelling.class_map, written)


def _unless_changed(slide: OpenedSlide, outcome: Done[_Painted] | Failed) -> Done[_Painted] | Failed:
    """The outcome, but where the slide's file is not the one any more that was opened."""
    try:
        check_unchanged(slide.source.path, slide.fingerprint)
    except SlideChangedError as error:
        return Failed(error)
    return outcome


def _units(item: Prepared, folder: Path | None) -> int:
    """How much there is to do of a slide, in targets."""
    windows = len(windows_of(item)) if folder is not None else 0
    return _targets(item) + windows * TARGETS_OF_A_WINDOW


def _targets(item: Prepared) -> int:
    return sum(1 for _ in item.grid.targets(*item.size_px))


def workers_for(items: Sequence[Prepared]) -> int:
    """As many processes as there are cores, at most 8, if the work is worth it."""
    return min(MOST_WORKERS, available_cores()) if sum(map(_work, items)) >= WORTH else 1


def _work(item: Prepared) -> float:
    """About how much there is to paint, in targets without any vertex."""
    outlines = np.array([a.geometry for a in item.annotations], dtype=object)
    _, top, _, bottom = shapely.bounds(outlines).reshape(-1, 4).T
    rows = 1 + np.nan_to_num(bottom - top) / (item.grid.spec.size_px * item.grid.downsample)
    return _targets(item) + float((shapely.get_num_coordinates(outlines) * rows).sum()) / VERTICES_OF_A_TARGET


def _reason(slide: OpenedSlide, error: Exception) -> DmmnQpError:
    """Why a slide cannot be painted."""
    if isinstance(error, WorkerLostError):
        said = SlideError(f'slide "{slide.path}" cannot be painted: {error}')
    elif isinstance(error, DmmnQpError):
        return error
    else:
        said = SlideError(f'slide "{slide.path}" cannot be painted: {line_of(error)}')
    said.__cause__ = error
    return said
