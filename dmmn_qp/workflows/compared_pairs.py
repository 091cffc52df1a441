"""Which slide of one side is which of the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dmmn_qp.errors import DatasetError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.folders import list_slides
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.text import names_text, shorten
from dmmn_qp.workflows.compared_sides import LabelledSlide, Side

LISTED: Final = 5
"""So many slides are named of which something is said."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A slide as both sides have it.

    Attributes:
        slide_id: Its name, as the first side has it.
        first: What the first says of it.
        second: What the second does.
    """

    slide_id: str
    first: LabelledSlide
    second: LabelledSlide


def paired(first: Side, second: Side) -> tuple[list[Pair], list[str], list[str]]:
    """Finds the slides that both sides have, by their names; two single files are one slide whatever their names.

    Returns:
        The pairs in the order of the first side, and names of the slides that only the first or the second has.

    Raises:
        DatasetError: A name stands for several slides, or both have none in common.
    """
    if first.is_one_file and second.is_one_file:
        return [Pair(first.slides[0].slide_id, first.slides[0], second.slides[0])], [], []
    names = SlideNames(slide.named for slide in first.slides)
    found: dict[int, LabelledSlide] = {}
    only_second: list[str] = []
    for slide in second.slides:
        number = _number_of(slide, names, first, second)
        if number is None:
            only_second.append(slide.slide_id)
        elif number in found:
            raise DatasetError(
                f'slides "{found[number].slide_id}" and "{slide.slide_id}" of "{second.path}" are both '
                f'"{first.slides[number].slide_id}" of "{first.path}"; compare them file by file'
            )
        else:
            found[number] = slide
    if not found:
        raise DatasetError(
            f'"{first.path}" and "{second.path}" have no slide in common: the first has {_listed(first)}, the second '
            f"{_listed(second)}; slides meet by their names"
        )
    pairs = [Pair(first.slides[i].slide_id, first.slides[i], found[i]) for i in sorted(found)]
    return pairs, [slide.slide_id for i, slide in enumerate(first.slides) if i not in found], only_second


def _number_of(slide: LabelledSlide, names: SlideNames, first: Side, second: Side) -> int | None:
    where = f'"{second.path}"'
    exact = [i for i, other in enumerate(first.slides) if other.slide_id == slide.slide_id]
    if len(exact) == 1 and not slide.named.path.parent.name:  # which alone may tell slides of one name apart
        return exact[0]
    for name in dict.fromkeys((str(slide.named.path), *slide.named.names())):
        numbers = names.called(name, where, DatasetError)
        shown = [n for n in numbers if first.slides[n].frame == slide.frame] or numbers
        if len(shown) > 1:
            raise DatasetError(
                f'{where}: slide "{shorten(name)}" may be {len(shown)} images of "{first.path}", which show one file; '
                "compare them file by file"
            )
        if shown:
            return shown[0]
    return None


def _listed(side: Side) -> str:
    return names_text([slide.slide_id for slide in side.slides], LISTED) or "none"


class SlideFiles:
    """The slides in a folder, for what neither side says of them.

    Args:
        folder: The folder.

    Raises:
        DatasetError: There is none.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f'slides folder "{folder}" {why_not_there(folder) or "is no folder"}; check --slides')
        self._folder = folder
        self._files = list_slides(folder)
        self._names = SlideNames(map(NamedSlide, self._files))

    def called(self, name: str) -> Path | None:
        """The slide of a name; None where there is none.

        Raises:
            DatasetError: The name stands for several files.
        """
        numbers = self._names.called(name, f'"{self._folder}"', DatasetError)
        return self._files[numbers[0]] if numbers else None


def with_slides(pair: Pair, slides: SlideFiles | None) -> Pair:
    """The pair with size and um/px from the slide's file, where neither side says both.

    Args:
        pair: The slide as both sides have it.
        slides: Where slides are; None for nowhere.

    Raises:
        DatasetError: The name stands for several files.
        SlideError: The file cannot be read.
    """
    sides = (pair.first, pair.second)
    known = any(s.size_px for s in sides) and any(s.mpp for s in sides)
    if slides is None or known:
        return pair
    for name in dict.fromkeys((*pair.first.named.names(), *pair.second.named.names())):
        file = slides.called(name)
        if file is not None:
            with open_slide(file) as slide:
                size, mpp = (slide.info.width, slide.info.height), slide.info.mpp
            return replace(pair, first=replace(pair.first, size_px=pair.first.size_px or size,
                                               mpp=pair.first.mpp or mpp))  # fmt: skip
    return pair
