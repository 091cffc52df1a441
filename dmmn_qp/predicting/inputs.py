"""What the user may name to be predicted: slides, folders, patterns, tables, projects, and slides of the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.files.addresses import is_address, is_pure_place, pure_place, shown_place
from dmmn_qp.files.paths import typed_place, user_text, why_not_there
from dmmn_qp.files.remote import RemotePath, below
from dmmn_qp.folders.dataset import MANIFEST, Dataset, SlideRecord
from dmmn_qp.predicting.among_projects import names_among_projects
from dmmn_qp.predicting.input_files import is_pattern, is_slide, near_name_hint, slides_in_folder, slides_matching
from dmmn_qp.predicting.input_table import read_input_table
from dmmn_qp.qupath.geojson_reader import GEOJSON_SUFFIXES
from dmmn_qp.qupath.image_names import project_slide_ids
from dmmn_qp.qupath.project import ProjectEntry, find_each_slide, outside_finds, read_project
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.files import is_slide_folder, slide_stem
from dmmn_qp.slides.finding import SlidesRoot, path_of_text
from dmmn_qp.slides.folders import without_pictures_of_slides
from dmmn_qp.slides.names import NamedSlide, SlideNames, bounded_name, files_by_name, legible_name
from dmmn_qp.slides.pixel_sizes import THE_DATASET, StatedMpp
from dmmn_qp.slides.view import SlideView
from dmmn_qp.text import shorten


@dataclass(frozen=True, slots=True)
class SlideToPredict:
    """A slide to predict.

    Attributes:
        slide_id: Its name in file names.
        view: Its file in the frame in which it is predicted, and what is said of its size.
        roi: GeoJSON of the areas to predict; None for all of the slide.
        annotations: Its annotations: ``data.qpdata`` of its project, or GeoJSON of its dataset; None where it has none.
        problem: Why it cannot be opened, where that is known already; `open` raises it.
    """

    slide_id: str
    view: SlideView
    roi: Path | None = None
    annotations: Path | None = None
    problem: str | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.view.path

    def open(self) -> Slide:
        """Opens the slide in its frame.

        Raises:
            SlideError: It cannot be found or read, or is another one than was annotated.
            PixelSizeError: Its pixel size is unknown or implausible.
        """
        if self.problem is not None:
            raise SlideError(self.problem)
        return self.view.open()


def slide_id_of(path: Path) -> str:
    """The name under which a slide is predicted that nobody has given one."""
    return bounded_name(legible_name(slide_stem(path)))


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
    and roi; a slide; a folder, for the slides in it; a slide of the dataset; a pattern such as ``scans/**/*.svs``. A
    slide or folder may be an address, such as ``s3://bucket/slide.svs``. No name stands for all slides of the dataset.
    A slide that is named twice is predicted once.

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
        PixelSizeError: A table has an impossible pixel size.
        ProjectError: A project is damaged.
        DatasetError: No slide is named and there is no dataset.
    """
    dataset = Dataset(dataset_folder) if not names or (dataset_folder / MANIFEST).is_file() else None
    inputs = _Inputs(dataset, slides_roots, recursive, say)
    named: list[SlideToPredict] = []
    for name in names or ([] if dataset is None else [record.slide_id for record in dataset.slides()]):
        named += inputs.of_name(user_text(name))
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
        self._by_path: dict[PurePath, list[SlideRecord]] = {}
        for record in self._records.values():
            self._by_path.setdefault(_place_of(path_of_text(record.path) or Path(record.path)), []).append(record)

    def of_name(self, name: str) -> list[SlideToPredict]:
        """The slides that one name stands for, at least one."""
        if "\0" in name:
            raise SlideError("a slide's path holds a NUL character; check the path")
        path = Path(name) if name in self._records else typed_place(name)  # names of datasets are no addresses
        if isinstance(path, RemotePath):
            return self._of_remote(path)
        suffix = path.suffix.lower()
        if suffix == ".qpproj":
            return self._of_project(path)
        if suffix == ".csv" and name not in self._records:
            return self._of_table(path)
        if is_slide(path):
            return [self._of_slide(name, path)]
        if path.is_dir():
            return self._of_slides(slides_in_folder(path, recursive=self._recursive))
        if (known := self._record_called(name, "slides to predict")) is not None:
            return [self._of_slide(known, path)]
        if is_pattern(name):
            return self._of_slides(slides_matching(name))
        return [self._of_slide(name, path)]

    def _of_remote(self, path: RemotePath) -> list[SlideToPredict]:
        """The slides at an address; secrets in it are in no message."""
        if not is_slide(path) and path.is_dir():
            return self._of_slides(slides_in_folder(path, recursive=self._recursive))
        return [self._of_slide(str(path), path)]

    def _of_slides(self, found: Sequence[Path]) -> list[SlideToPredict]:
        """What was found, without thumbnails beside their slides."""
        slides, left_out = without_pictures_of_slides(found)
        for picture in left_out:
            self._say(picture.line())
        return [self._of_slide(str(slide), slide) for slide in slides]

    def _of_slide(self, name: str, path: Path) -> SlideToPredict:
        """The slide of one path, known to the dataset or not; one that does not exist has a `problem`."""
        exists = is_slide(path)
        known_as = self._by_path.get(_place_of(path), []) if exists else []
        if not exists and name in self._records:
            known_as = [self._records[name]]
        if len(known_as) > 1:
            ids = ", ".join(record.slide_id for record in known_as)
            raise SlideError(
                f'slide "{name}" is in the dataset as {ids}, each with a frame of its own; name one of these'
            )
        if known_as:
            return self._of_record(known_as[0], path if exists else None)
        slide_id = slide_id_of(path)
        if exists:
            return SlideToPredict(slide_id, SlideView(path))
        others = f"; the dataset has {', '.join(self._records)}" if self._records else ""
        why = why_not_there(path) or "is no slide"
        missing = f'slide "{name}" {why}; check the path{near_name_hint(path)}{others}'
        return SlideToPredict(slide_id or name, SlideView(path), problem=missing)

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
            replace(record.view(path), mpp=StatedMpp(stored=record.mpp, stored_by=THE_DATASET)),
            annotations=self._dataset.annotations_path(record.slide_id),
            problem=problem,
        )

    def _of_project(self, path: Path) -> list[SlideToPredict]:
        """All images of a project."""
        project = read_project(path)
        if not project.entries:
            raise SlideError(f'project "{path}" holds no image; add slides in QuPath and save it')
        usable = [entry for entry in project.entries if entry.unsupported_server is None]
        found = find_each_slide(project, usable, self._roots)
        for line in outside_finds(project, found, self._roots):
            self._say(line)
        paths = {key: place for key, place in found.items() if isinstance(place, Path)}
        ids = project_slide_ids(project.entries, paths)
        if any(record.project is not None for record in self._records.values()):
            ids = names_among_projects(project, ids, paths, self._records)
        return [_of_entry(entry, ids[entry.entry_id], found.get(entry.entry_id)) for entry in project.entries]

    def _of_table(self, path: Path) -> list[SlideToPredict]:
        """The slides of a table, one for each row."""
        slides: list[SlideToPredict] = []
        for row in read_input_table(path):
            file = self._place_in_table(path, row.slide, row.where)
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
                replace(
                    slide,
                    view=slide.view.with_listed(row.mpp, f'table "{path}"'),
                    roi=row.roi or slide.roi,
                    problem=problem,
                )
            )
        return slides

    def _place_in_table(self, table: Path, text: str, where: str) -> Path:
        """Where a row's slide is; an address is followed only below a ``--slides-root`` that is one.

        Raises:
            SlideError: It lies below none.
        """
        if not is_address(text):
            return table.parent / text
        roots = [root for root in self._roots if isinstance(root, RemotePath)]
        found = next(filter(None, (below(pure_place(text), root) for root in roots)), None)
        if found is None:
            raise SlideError(
                f'{where}, column slide: "{shorten(shown_place(pure_place(text) or PurePath("it")))}" is an address; '
                "those of tables are followed only below a --slides-root that is typed, such as --slides-root "
                "https://server/slides"
            )
        return found

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


def _place_of(path: PurePath) -> PurePath:
    """A slide's place, by which it is known again."""
    if isinstance(path, RemotePath):
        return path.pure
    return path.resolve() if isinstance(path, Path) else path if is_pure_place(path) else Path(path).resolve()


def _of_entry(entry: ProjectEntry, slide_id: str, found: Path | SlideError | None) -> SlideToPredict:
    """An image of a project."""
    problem = str(found) if isinstance(found, SlideError) else None
    view = SlideView(found if isinstance(found, Path) else Path(entry.slide_name))
    try:
        view = entry.view(view.path)
    except PixelSizeError as error:
        problem = problem or str(error)
    if entry.unsupported_server is not None:
        problem = (
            f'image "{shorten(entry.image_name)}" cannot be related to a file: {entry.unsupported_server}; export it '
            "from QuPath (File > Export images > OME TIFF) and predict that"
        )
    return SlideToPredict(
        slide_id,
        view,
        annotations=entry.data_path if entry.data_path.is_file() else None,
        problem=problem,
    )


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
        ours, theirs = slide.view, other.view
        if (theirs.path.resolve(), theirs.frame, theirs.crop_to_bounds) != (
            ours.path.resolve(), ours.frame, ours.crop_to_bounds,
        ):  # fmt: skip
            raise SlideError(
                f'slides "{other.path}" and "{slide.path}" would both be written as "{slide.slide_id}"; '
                "predict them in two runs with different --out"
            )
        for what, said, before in (("mpp", ours.mpp.listed, theirs.mpp.listed), ("roi", slide.roi, other.roi)):
            if None not in (said, before) and said != before:
                raise SlideError(
                    f'slide "{slide.path}" is named twice, with {what} {before} and {said}; keep one of them'
                )
        once[slide.slide_id] = replace(
            other,
            view=theirs if ours.mpp.listed is None else theirs.with_listed(ours.mpp.listed, ours.mpp.listed_by),
            roi=other.roi or slide.roi,
            annotations=other.annotations or slide.annotations,
        )
    return list(once.values())


def _with_roi(slides: Sequence[SlideToPredict], roi: Path) -> list[SlideToPredict]:
    """The slides with their areas out of ``--roi``.

    Raises:
        SlideError: It does not exist, is one file for several slides, or a folder that has none for the only slide.
    """
    if (why_not := why_not_there(roi)) is not None:
        raise SlideError(f'--roi "{roi}" {why_not}; check the path')
    if not roi.is_dir():
        if len(slides) > 1:
            raise SlideError(
                f'--roi "{roi}" is one file for {len(slides)} slides; pass a folder of <slide>.geojson, or a table '
                "slide,mpp,roi instead of the slides"
            )
        return [replace(slide, roi=slide.roi or roi) for slide in slides]
    with_areas: list[SlideToPredict] = []
    names = SlideNames(NamedSlide(slide.path, (slide.slide_id,)) for slide in slides)
    files = files_by_name(roi)
    for number, slide in enumerate(slides):
        own = slide.roi or names.file_of(number, files, GEOJSON_SUFFIXES, SlideError)
        wanted = f"{slide.slide_id}{GEOJSON_SUFFIXES[0]}"
        missing = f'areas of slide "{slide.slide_id}" are not in "{roi}"; add {wanted}, or leave out the slide'
        with_areas.append(replace(slide, roi=own, problem=slide.problem or (None if own else missing)))
    if all(slide.problem is not None for slide in with_areas):
        raise SlideError(str(with_areas[0].problem))
    return with_areas
