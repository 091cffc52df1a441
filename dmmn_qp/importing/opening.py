"""Opens the slides of a source before anything is made of them: which can be imported, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dmmn_qp.errors import DmmnQpError, SlideError
from dmmn_qp.importing.source import SourceSlide, all_of
from dmmn_qp.slides.base import SlideInfo
from dmmn_qp.slides.files import check_unchanged, fingerprint, users_path
from dmmn_qp.slides.whole import check_whole
from dmmn_qp.specs import PatchGrid, PatchSpec
from dmmn_qp.text import words_of


@dataclass(frozen=True, slots=True)
class OpenedSlide:
    """A slide that was found sound.

    Attributes:
        source: What its source knows of it.
        slide_id: Its name in the dataset.
        path: Its full path, as its user knows it.
        info: Size, pixel size and levels.
        grid: The patch grid on it.
        fingerprint: Digest of the file.
        damage: What of it cannot be read, a line each.
        own_px: Level-0 px per pixel of its grid, where it is not the patch geometry that says it.
    """

    source: SourceSlide
    slide_id: str
    path: str
    info: SlideInfo
    grid: PatchGrid
    fingerprint: str
    damage: tuple[str, ...] = ()
    own_px: float | None = None


OwnPixels = Callable[[str, float], float | None]
"""Of a slide's name and its um/px: level-0 px per pixel of its labels; None where the patch geometry says it."""


@dataclass(frozen=True, slots=True)
class LeftOutSlide:
    """A slide that is drawn on, but cannot be imported.

    Attributes:
        source: What its source knows of it.
        slide_id: What its name in the dataset would be.
        error: Why, with the way out.
    """

    source: SourceSlide
    slide_id: str
    error: DmmnQpError


def opened_slide(
    source: SourceSlide, slide_id: str, spec: PatchSpec, own_pixels: OwnPixels | None = None
) -> OpenedSlide | LeftOutSlide:
    """Opens a slide, looks at a few of its pixels, and closes it.

    This is the one place where what is wrong with an image becomes a reason to leave it out.

    Args:
        source: The slide.
        slide_id: Its name in the dataset.
        spec: The patches that are to be made of it.
        own_pixels: What the pixels of its labels are, where that is not for the patches to say.
    """
    if source.problem is not None:
        return LeftOutSlide(source, slide_id, source.problem)
    try:
        path = str(users_path(source.path))
        shown = path.encode("utf-8", "backslashreplace").decode()
        if shown != path:
            raise SlideError(f'slide "{shown}" has a path that is not UTF-8, which no dataset can hold; rename it')
        with source.view.open() as slide:
            known = fingerprint(source.path)
            info = slide.info
            own_px = None if own_pixels is None else own_pixels(slide_id, info.mpp)
            grid = PatchGrid(spec, own_px) if own_px is not None else spec.grid_of(info.mpp, source.name)
            damage = check_whole(source.path, slide)
        check_unchanged(source.path, known)
        return OpenedSlide(source, slide_id, path, info, grid, known, damage, own_px)
    except DmmnQpError as error:
        return LeftOutSlide(source, slide_id, error)
    except Exception as error:  # of any kind: so are those of the libraries that read slides
        reason = getattr(error, "strerror", None) or words_of(error)
        said = SlideError(
            f'slide "{source.path}" cannot be read ({reason}); check that it may be read, or copy the file again from '
            "its source"
        )
        said.__cause__ = error
        return LeftOutSlide(source, slide_id, said)


def error_of_all(problems: Sequence[str], errors: Iterable[DmmnQpError] = ()) -> DmmnQpError:
    """One error that says all problems; of the kind that all errors have.

    Args:
        problems: The problems.
        errors: The errors that said them, as far as they are known.
    """
    kinds = {type(error) for error in errors}
    return (kinds.pop() if len(kinds) == 1 else SlideError)(all_of(problems))
