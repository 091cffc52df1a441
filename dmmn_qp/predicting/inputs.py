"""What the user may name to be predicted: slides, folders, patterns, tables, projects, and slides of the dataset."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.dataset import MANIFEST, Dataset, SlideRecord
from dmmn_qp.outputs.writers import is_output
from dmmn_qp.predicting.input_table import read_input_table
from dmmn_qp.qupath.geojson_reader import GEOJSON_SUFFIXES
from dmmn_qp.qupath.image_names import project_slide_ids
from dmmn_qp.qupath.notes import shorten
from dmmn_qp.qupath.project import ProjectEntry, find_each_slide, read_project
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.files import first_of_each_series, is_slide_folder
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.folders import list_slides, without_pictures_of_slides
from dmmn_qp.slides.names import NamedSlide, SlideNames, legible_name
from dmmn_qp.slides.readers import slide_suffixes
from dmmn_qp.slides.transformed import Change

_PATTERN_SIGNS: Final = "*?["


@dataclass(frozen=True, slots=True)
class SlideToPredict:
    """A slide to predict.

    Attributes:
        slide_id: Its name in file names.
        path: The file.
        mpp: um/px where the file may not say it.
        crop_to_bounds: Whether QuPath's frame starts at the scanned bounds.
        frame: Crops and turns that QuPath puts around the file, the one next to the file first.
        size_px: (width, height) that it must have in level-0 px, where that is known.
        roi: GeoJSON of the areas to predict; None for all of the slide.
        annotations: Its annotations: ``data.qpdata`` of its project, or GeoJSON of its dataset; None where it has none.
        problem: Why it cannot be opened, where that is known already; opening it says so.
    """

    slide_id: str
    path: Path
    mpp: float | None = None
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()
    size_px: tuple[int, int] | None = None
    roi: Path | None = None
    annotations: Path | None = None
    problem: str | None = None

    def open(self, user_mpp: float | None = None) -> Slide:
        """Opens the slide in its frame.

        Args:
            user_mpp: um/px of slides of which nobody else says it.

        Raises:
            SlideError: It cannot be found or read, or is another one than was annotated.
            PixelSizeError: Its pixel size is unknown or implausible.
        """
        if self.problem is not None:
            raise SlideError(self.problem)
        slide = open_slide(
            self.path,
            project_mpp=self.mpp,
            user_mpp=user_mpp,
            crop_to_bounds=self.crop_to_bounds,
            frame=self.frame,
        )
        size = slide.info.width, slide.info.height
        if self.size_px not in (None, size):
            slide.close()
            raise SlideError(
                f'slide "{self.path}" has {size[0]} x {size[1]} px, but the annotated one has '
                f"{' x '.join(map(str, self.size_px or ()))}; it is another file of that name: pass --slides-root with "
                "the right folder"
            )
        return slide


def slides_to_predict(
    names: Sequence[str],
    dataset_folder: Path,
    slides_roots: Sequence[SlidesRoot] = (),
    *,
    recursive: bool = False,
    roi: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[SlideToPredict]:
    """Resolves what the user named.

    A name is, in this order: a ``.qpproj`` file, for all of its images; a ``.csv`` table with the columns slide, mpp
    and roi; a slide; a folder, for the slides in it; a slide of the dataset; a pattern such as ``scans/**/*.svs``.
    No name stands for all slides of the dataset. A slide that is named twice is predicted once.

    Args:
        names: What the user named.
        dataset_folder: The dataset; it need not exist where slides are named.
        slides_roots: Where to look for slides that have been moved.
        recursive: Whether the folders in folders are searched too, but for those that we wrote.
        roi: GeoJSON of the areas to predict of the only slide, or a folder of such files with the slides' names. It
            counts for slides without one of their own.
        say: Takes what the user should know, line by line: pictures of slides that are left out.

    Returns:
        The slides. Among several, one that is missing has a ``problem``.

    Raises:
        SlideError: A name stands for nothing, the only slide is missing, all are, or two would be written as one.
        PixelSizeError: A table says a pixel size that cannot be.
        ProjectError: A project is damaged.
        DatasetError: No slide is named and there is no dataset.
    """
    dataset = Dataset(dataset_folder) if not names or (dataset_folder / MANIFEST).is_file() else None
    inputs = _Inputs(dataset, slides_roots, recursive, say)
    named: list[SlideToPredict] = []
    for name in names or ([] if dataset is None else [record.slide_id for record in dataset.slides()]):
        named += inputs.of_name(name)
    chosen = _each_once(named)
    problems = [slide.problem for slide in chosen if slide.problem is not None]
    if problems and len(problems) == len(chosen):
        raise SlideError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    return chosen if roi is None else _with_roi(chosen, roi)


class _Inputs:
    """Resolves names one by one."""

    def __init__(
        self, dataset: Dataset | None, slides_roots: Sequence[SlidesRoot], recursive: bool, say: Callable[[str], None]
    ) -> None:
        self._dataset = dataset
        self._say = say
        self._roots = slides_roots
        self._recursive = recursive
        self._records = {record.slide_id: record for record in dataset.slides()} if dataset else {}
        self._names = SlideNames(NamedSlide(Path(r.path), (slide_id,)) for slide_id, r in self._records.items())
        self._by_path: dict[Path, list[SlideRecord]] = {}
        for record in self._records.values():
            self._by_path.setdefault(Path(record.path).resolve(), []).append(record)

    def of_name(self, name: str) -> list[SlideToPredict]:
        """The slides that one name stands for, at least one."""
        if "\0" in name:
            raise SlideError("a slide's path holds a NUL character; check the path")
        path = Path(name)
        suffix = path.suffix.lower()
        if suffix == ".qpproj":
            return self._of_project(path)
        if suffix == ".csv" and name not in self._records:
            return self._of_table(path)
        if _is_slide(path) or (name in self._records and not path.is_dir()):
            return [self._of_slide(name, path)]
        if path.is_dir():
            return self._of_slides(_slides_in(path, self._recursive))
        if any(sign in name for sign in _PATTERN_SIGNS):
            return self._of_slides(_matches(name))
        return [self._of_slide(name, path)]

    def _of_slides(self, found: Sequence[Path]) -> list[SlideToPredict]:
        """What was found, without thumbnails beside their slides."""
        slides, left_out = without_pictures_of_slides(found)
        for picture in left_out:
            self._say(picture.line())
        return [self._of_slide(str(slide), slide) for slide in slides]

    def _of_slide(self, name: str, path: Path) -> SlideToPredict:
        is_slide = _is_slide(path)
        known_as = self._by_path.get(path.resolve(), []) if is_slide else []
        if not is_slide and name in self._records:
            known_as = [self._records[name]]
        if len(known_as) > 1:
            ids = ", ".join(record.slide_id for record in known_as)
            raise SlideError(
                f'slide "{name}" is in the dataset as {ids}, each with a frame of its own; name one of these'
            )
        if known_as:
            return self._of_record(known_as[0], path if is_slide else None)
        slide_id = legible_name(path.name if path.is_dir() else path.stem)
        if is_slide:
            return SlideToPredict(slide_id, path)
        others = f"; the dataset has {', '.join(self._records)}" if self._records else ""
        return SlideToPredict(
            slide_id or name, path, problem=f'slide "{name}" does not exist; check the path{_like(path)}{others}'
        )

    def _of_record(self, record: SlideRecord, path: Path | None) -> SlideToPredict:
        """A slide of the dataset, at the path where the user named it or where it is found."""
        assert self._dataset is not None
        problem: str | None = None
        if path is None:
            try:
                path = self._dataset.locate(record, self._roots)
            except SlideError as error:
                path, problem = Path(record.path), str(error)
        return SlideToPredict(
            record.slide_id,
            path,
            record.mpp,
            record.crop_to_bounds,
            record.frame,
            size_px=(record.width, record.height),
            annotations=self._dataset.annotations_path(record.slide_id),
            problem=problem,
        )

    def _of_project(self, path: Path) -> list[SlideToPredict]:
        project = read_project(path)
        if not project.entries:
            raise SlideError(f'project "{path}" holds no image; add slides in QuPath and save it')
        usable = [entry for entry in project.entries if entry.unsupported_server is None]
        found = find_each_slide(project, usable, self._roots)
        paths = {key: place for key, place in found.items() if isinstance(place, Path)}
        ids = project_slide_ids(project.entries, paths)
        return [_of_entry(entry, ids[entry.entry_id], found.get(entry.entry_id)) for entry in project.entries]

    def _of_table(self, path: Path) -> list[SlideToPredict]:
        slides: list[SlideToPredict] = []
        for row in read_input_table(path):
            file = path.parent / row.slide
            name = str(file) if file.exists() else self._record_called(row.slide, row.where) or str(file)
            if file.is_dir() and not is_slide_folder(file):
                raise SlideError(
                    f'{row.where}, column slide: "{shorten(row.slide)}" is a folder; write a row for each slide'
                )
            try:
                slide = self._of_slide(name, file)
            except SlideError as error:
                raise SlideError(f"{row.where}, column slide: {error}") from error
            problem = None if slide.problem is None else f"{row.where}, column slide: {slide.problem}"
            slides.append(
                replace(slide, mpp=slide.mpp if row.mpp is None else row.mpp, roi=row.roi or slide.roi, problem=problem)
            )
        return slides

    def _record_called(self, name: str, where: str) -> str | None:
        """The slide of the dataset that a table names without a folder; what has one is a path."""
        if name in self._records:
            return name
        if "/" in name or "\\" in name:
            return None
        ids = list(self._records)
        found = [ids[i] for i in self._names.called(name, where, SlideError)]
        if len(found) > 1:
            raise SlideError(
                f'{where}: "{shorten(name)}" is in the dataset as {", ".join(found)}, each with a frame of its own; '
                "name one of these"
            )
        return found[0] if found else None


def _of_entry(entry: ProjectEntry, slide_id: str, found: Path | SlideError | None) -> SlideToPredict:
    """An image of a project."""
    problem = str(found) if isinstance(found, SlideError) else None
    mpp: float | None = None
    try:
        mpp = entry.mpp
    except PixelSizeError as error:
        problem = problem or str(error)
    if entry.unsupported_server is not None:
        problem = (
            f'image "{shorten(entry.image_name)}" cannot be related to a file: {entry.unsupported_server}; export it '
            "from QuPath (File > Export images > OME TIFF) and predict that"
        )
    return SlideToPredict(
        slide_id,
        found if isinstance(found, Path) else Path(entry.slide_name),
        mpp,
        entry.crop_to_bounds,
        entry.frame,
        size_px=(entry.width, entry.height) if entry.width and entry.height else None,
        annotations=entry.data_path if entry.data_path.is_file() else None,
        problem=problem,
    )


def _is_slide(path: Path) -> bool:
    return path.is_file() or is_slide_folder(path)


def _like(path: Path) -> str:
    """A hint at a file of nearly that name."""
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix.lower() in slide_suffixes()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f' (did you mean "{path.with_name(near[0])}"?)' if near else ""


def _is_input(path: Path) -> bool:
    """Whether a file of a folder may be a slide, and is none that we wrote beside slides."""
    return not path.name.startswith(".") and not is_output(path.name)


def _slides_in(folder: Path, recursive: bool) -> list[Path]:
    """The slides in a folder, sorted.

    Raises:
        SlideError: There is none.
    """
    slides = [path for path in list_slides(folder, recursive=recursive) if _is_input(path)]
    if slides:
        return slides
    projects = sorted(folder.glob("*.qpproj"))
    if projects:
        raise SlideError(f'folder "{folder}" holds no slide but a project; name it: "{projects[0]}"')
    way_out = "check the path" if recursive else "check the path, or pass --recursive to search the folders in it"
    raise SlideError(f'folder "{folder}" holds no slide; {way_out}')


def _matches(pattern: str) -> list[Path]:
    """The slides that a pattern stands for, sorted.

    Raises:
        SlideError: There is none.
    """
    found = [Path(text) for text in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (may be absolute)
    fixed = len(Path(pattern.partition("*")[0].partition("?")[0].partition("[")[0] + "x").parent.parts)
    found = [path for path in found if _is_input(path) and not _is_in_output(path, fixed)]
    dicom = set(first_of_each_series(found))
    slides = [
        path
        for path in found
        if path in dicom
        or (path.is_file() and path.suffix.lower() in slide_suffixes() and path.suffix.lower() != ".dcm")
        or (path.is_dir() and is_slide_folder(path))
    ]
    slides = [path for path in slides if path.parent not in slides]  # files of a folder that is one slide
    if not slides:
        kinds = f"; it matches {len(found)} other files" if found else ""
        raise SlideError(f'pattern "{pattern}" matches no slide{kinds}; check the path')
    return slides


def _is_in_output(path: Path, fixed: int) -> bool:
    """Whether a match lies in a folder that we wrote, and that the fixed part of the pattern does not name."""
    below = path.parent.parts[fixed:]
    top = Path(*path.parent.parts[:fixed])
    return any((top.joinpath(*below[: n + 1]) / RUN_FILE).is_file() for n in range(len(below)))


def _each_once(slides: Iterable[SlideToPredict]) -> list[SlideToPredict]:
    """The slides without those that are named again.

    Raises:
        SlideError: Two different ones have the same name, or one is to be predicted in two ways.
    """
    once: dict[str, SlideToPredict] = {}
    for slide in slides:
        other = once.setdefault(slide.slide_id, slide)
        if other is slide:
            continue
        if (other.path.resolve(), other.frame, other.crop_to_bounds) != (
            slide.path.resolve(), slide.frame, slide.crop_to_bounds,
        ):  # fmt: skip
            raise SlideError(
                f'slides "{other.path}" and "{slide.path}" would both be written as "{slide.slide_id}"; '
                "predict them in two runs with different --out"
            )
        for what, ours, theirs in (("mpp", slide.mpp, other.mpp), ("roi", slide.roi, other.roi)):
            if None not in (ours, theirs) and ours != theirs:
                raise SlideError(
                    f'slide "{slide.path}" is named twice, with {what} {theirs} and {ours}; keep one of them'
                )
        once[slide.slide_id] = replace(
            other,
            mpp=slide.mpp if other.mpp is None else other.mpp,
            roi=other.roi or slide.roi,
            annotations=other.annotations or slide.annotations,
        )
    return list(once.values())


def _with_roi(slides: Sequence[SlideToPredict], roi: Path) -> list[SlideToPredict]:
    """The slides with their areas out of ``--roi``.

    Raises:
        SlideError: It does not exist, is one file for several slides, or a folder that has none for the only slide.
    """
    if not roi.exists():
        raise SlideError(f'areas "{roi}" do not exist; check --roi')
    if not roi.is_dir():
        if len(slides) > 1:
            raise SlideError(
                f'--roi "{roi}" is one file for {len(slides)} slides; pass a folder of <slide>.geojson, or a table '
                "slide,mpp,roi instead of the slides"
            )
        return [replace(slide, roi=slide.roi or roi) for slide in slides]
    with_areas: list[SlideToPredict] = []
    names = SlideNames(NamedSlide(slide.path, (slide.slide_id,)) for slide in slides)
    for number, slide in enumerate(slides):
        own = slide.roi or _areas_of(slide, number, names, roi)
        wanted = f"{slide.slide_id}{GEOJSON_SUFFIXES[0]}"
        missing = f'areas of slide "{slide.slide_id}" are not in "{roi}"; add {wanted}, or leave out the slide'
        with_areas.append(replace(slide, roi=own, problem=slide.problem or (None if own else missing)))
    if all(slide.problem is not None for slide in with_areas):
        raise SlideError(str(with_areas[0].problem))
    return with_areas


def _areas_of(slide: SlideToPredict, number: int, names: SlideNames, roi: Path) -> Path | None:
    """The file of a slide in a folder of areas: of its name in file names, else of a name that stands for it alone."""
    for name in dict.fromkeys((slide.slide_id, *NamedSlide(slide.path).names())):
        file = next((path for s in GEOJSON_SUFFIXES if (path := roi / f"{name}{s}").is_file()), None)
        if file is None:
            continue
        if name == slide.slide_id or names.called(name, f'areas "{file}"', SlideError) == [number]:
            return file
    return None
