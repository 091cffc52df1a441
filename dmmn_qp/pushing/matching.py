"""Which image of a project a prediction belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self

from dmmn_qp.errors import ProjectError
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.qupath.image_names import project_slide_ids, slide_ids
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject, find_each_slide
from dmmn_qp.slides.files import fingerprint, is_slide_folder
from dmmn_qp.slides.finding import SlidesRoot, path_of_text
from dmmn_qp.text import shorten

# ---- which image


@dataclass(frozen=True, slots=True)
class _Fits:
    """The images that a prediction may be of.

    Attributes:
        named: Those of its name.
        reasons: Why each of these is not it, by ``entry_id``; None where it is, or nothing speaks against it.
        chosen: Those that it is of.
        is_sure: Whether that is told by more than a name.
        is_exact: Whether its name is the very name of the only image chosen.
    """

    named: Sequence[ProjectEntry]
    reasons: Mapping[str, str | None]
    chosen: Sequence[ProjectEntry]
    is_sure: bool
    is_exact: bool

    @classmethod
    def of(
        cls,
        project: QuPathProject,
        slide_id: str,
        known: PredictedInput | None,
        names: Mapping[str, str],
        paths: Mapping[str, Path],
    ) -> Self:
        """Finds the images of a prediction."""
        named = [e for e in project.entries if _is_named(e, slide_id, known, names[e.entry_id])]
        reasons = {e.entry_id: _not_the_same(e, known, paths.get(e.entry_id)) for e in named}
        fitting = [e for e in named if reasons[e.entry_id] is None]
        exact = [e for e in fitting if names[e.entry_id] == slide_id]
        chosen = exact if len(fitting) > 1 and len(exact) == 1 and known is None else fitting
        return cls(named, reasons, chosen, known is not None, len(chosen) == 1 and chosen == exact)

    def is_of_another_project(self, others: Iterable[_Fits]) -> bool:
        """Whether other predictions have its images for sure: theirs is the file, or theirs the name of the same file.

        So it is where slides of several projects, that were imported into one dataset, have one name.
        """
        theirs = [other.chosen[0].entry_id for other in others if other.is_sure and len(other.chosen) == 1]
        if not self.chosen:
            return bool(self.named) and all(entry.entry_id in theirs for entry in self.named)
        exact = [other.chosen[0].entry_id for other in others if other.is_exact and other.is_sure]
        return not self.is_exact and len(self.chosen) == 1 and self.chosen[0].entry_id in exact


def match(
    project: QuPathProject,
    slides: Iterable[str],
    inputs: Mapping[str, PredictedInput],
    warn: Callable[[str], object],
    slides_roots: Sequence[SlidesRoot] = (),
) -> dict[str, ProjectEntry]:
    """Finds the image of each prediction.

    Names decide, as `import` gives them to a project's images. Where it is known what was predicted, the file and its
    frame must agree too, and tell images of one name apart.

    Args:
        project: The project.
        slides: Ids of the predicted slides.
        inputs: What each was made from, as far as it is known.
        warn: Called with a line for each slide that has no image.
        slides_roots: Folders to search for slides that have been moved.

    Raises:
        ProjectError: No slide has an image, an image is another one than was predicted, or several fit.
    """
    places = find_each_slide(project, project.entries, slides_roots)
    paths = {entry_id: place for entry_id, place in places.items() if isinstance(place, Path)}
    names = project_slide_ids(project.entries, paths)
    matched: dict[str, ProjectEntry] = {}
    missing: list[str] = []
    slides = [*slides]
    fits = {slide_id: _Fits.of(project, slide_id, inputs.get(slide_id), names, paths) for slide_id in slides}
    for slide_id, fit in fits.items():
        named, chosen, reasons = fit.named, fit.chosen, fit.reasons
        others = [other for name, other in fits.items() if name != slide_id]
        if not named or fit.is_of_another_project(others):
            missing.append(f'no image of "{project.path}" is slide "{slide_id}"')
        elif not chosen:
            raise ProjectError(
                f'image "{shorten(named[0].image_name)}" has the name of the predicted slide "{slide_id}", but '
                f"{reasons[named[0].entry_id]}; predict the image itself: import the project and predict its slides"
            )
        elif len(chosen) > 1:
            shown = " and ".join(f'"{shorten(e.image_name)}" (entry {e.entry_id})' for e in chosen[:2])
            raise ProjectError(
                f'prediction "{slide_id}" fits several images of "{project.path}": {shown}; remove one of them from '
                "the project, or import its predictions with import_predictions.groovy"
            )
        elif chosen[0] in matched.values():
            other = next(name for name, entry in matched.items() if entry == chosen[0])
            raise ProjectError(
                f'predictions "{other}" and "{slide_id}" are both of image "{shorten(chosen[0].image_name)}"; keep one '
                "of them in the folder"
            )
        else:
            matched[slide_id] = chosen[0]
    if not matched:
        raise ProjectError(
            f"{missing[0]}{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}; "
            f"its slides are {', '.join(shorten(name) for name in names.values()) or 'none'}"
        )
    for line in missing:
        warn(line)
    return matched


def _is_named(entry: ProjectEntry, slide_id: str, known: PredictedInput | None, name: str) -> bool:
    """Whether an image's name is that of a slide: as imported, or of a file that was predicted by its path."""
    stem = PurePath(entry.slide_name).stem
    if slide_id in (name, stem, slide_ids([entry.slide_name])[0]):
        return True
    folder = entry.slide_path.parent.name if entry.slide_path is not None else ""
    return known is not None and file_name_of(known) in (entry.slide_name, folder)


def file_name_of(known: PredictedInput) -> str:
    """The name of the file that was predicted."""
    return (path_of_text(known.path) or PurePath(known.path)).name


def _not_the_same(entry: ProjectEntry, known: PredictedInput | None, path: Path | None) -> str | None:
    """Why an image is not the one that was predicted; None where it is, or nothing speaks against it."""
    if entry.unsupported_server is not None:
        return f"it cannot be related to a file: {entry.unsupported_server}"
    if known is None:
        return None
    if path is not None and not _is_file_of(path, known):
        return "its file is another one (the content differs)"
    if entry.frame != known.frame:
        return "it is turned or cropped in another way than what was predicted"
    size = (entry.width, entry.height)
    if None not in (*size, known.width, known.height) and size != (known.width, known.height):
        return f"it has {size[0]} x {size[1]} px, and what was predicted {known.width} x {known.height} px"
    if None in (known.width, *size) and entry.crop_to_bounds != known.crop_to_bounds:
        return "only one of them is cropped to the scanned bounds"
    return None


def _is_file_of(path: Path, known: PredictedInput) -> bool:
    """Whether a file is what was predicted, or one of the files of a predicted folder."""
    if fingerprint(path) == known.fingerprint:
        return True
    return is_slide_folder(path.parent) and fingerprint(path.parent) == known.fingerprint
