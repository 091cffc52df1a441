"""The slides that requests may name: those of the project, each in the frame that the project gives it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dmmn_qp.errors import SlideError
from dmmn_qp.predicting.inputs import SlideToPredict, slides_to_predict
from dmmn_qp.qupath.project import ProjectEntry, read_project
from dmmn_qp.serving.requests import OfSlide
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import shorten


@dataclass(frozen=True, slots=True)
class _Shown:
    """An image of the project, and the slide that it shows."""

    entry: ProjectEntry
    slide: SlideToPredict
    names: frozenset[str]


class ProjectSlides:
    """The slides of a project, read again whenever the project was saved.

    Args:
        project: ``project.qpproj``.
        roots: Where to look for slides that have been moved.
        dataset: A dataset; what it says of the slides plays no part.
    """

    def __init__(self, project: Path, roots: Sequence[SlidesRoot], dataset: Path) -> None:
        self._project = project
        self._roots = roots
        self._dataset = dataset
        self._read: tuple[int, int] | None = None
        self._shown: list[_Shown] = []

    def find(self, wanted: OfSlide) -> SlideToPredict:
        """The slide that a request means, in the frame of its image, with the pixel size that QuPath shows.

        What a request names is compared with what the project lists, and never opened.

        Raises:
            SlideError: The project has no such image, or several; or QuPath shows another size.
            ProjectError: The project is damaged.
        """
        self._refresh()
        found = [shown for shown in self._shown if _is_meant(shown, wanted)]
        named = f'slide "{shorten(wanted.slide or "")}"' if wanted.slide else f'image "{shorten(wanted.image or "")}"'
        if not found:
            raise SlideError(
                f'{named} is not in project "{self._project}" as it was saved; add it in QuPath, which saves the '
                "project"
            )
        if len(found) > 1:
            raise SlideError(f"{named} is shown by {len(found)} images of the project; name the image too")
        slide, (width, height) = found[0].slide, (wanted.width, wanted.height)
        size = slide.view.size_px
        if None not in (size, width, height) and size != (width, height):
            raise SlideError(
                f"{named}: QuPath shows {width} x {height} px, but the project as it was saved says "
                f"{size[0]} x {size[1]} px; save the project"  # type: ignore[index]
            )
        if width is not None and height is not None:
            slide = replace(slide, view=replace(slide.view, size_px=(width, height)))
        return replace(slide, view=slide.view.with_listed(wanted.mpp, "QuPath"))

    def _refresh(self) -> None:
        """Reads the project if it is another one than was read."""
        try:
            state = self._project.stat()
        except OSError as error:
            raise SlideError(f'project "{self._project}" cannot be read ({error.strerror}); check the path') from error
        if self._read == (state.st_mtime_ns, state.st_size):
            return
        entries = read_project(self._project).entries
        slides = slides_to_predict([str(self._project)], self._dataset, self._roots)
        self._shown = [
            _Shown(entry, slide, _names_of(entry, slide)) for entry, slide in zip(entries, slides, strict=True)
        ]
        self._read = state.st_mtime_ns, state.st_size


def _is_meant(shown: _Shown, wanted: OfSlide) -> bool:
    """Whether all that a request names is of an image."""
    if wanted.image not in (None, shown.entry.entry_id):
        return False
    return wanted.slide is None or bool(_comparable(wanted.slide) & shown.names)


def _names_of(entry: ProjectEntry, slide: SlideToPredict) -> frozenset[str]:
    """What the file of an image may be called: as the project says it, and where it was found."""
    texts = [str(slide.path.absolute()), os.path.realpath(slide.path), entry.uri, entry.slide_path]
    return frozenset(name for text in texts if text for name in _comparable(str(text)))


def _comparable(text: str) -> frozenset[str]:
    """A path or URI of a file in one form, as text: nothing is looked for on disk."""
    if text.lower().startswith("file:"):
        text = unquote(urlsplit(text).path)
        text = text.lstrip("/") if os.name == "nt" else text  # /C:/slides/a.svs
    return frozenset({os.path.normcase(os.path.normpath(text))})
