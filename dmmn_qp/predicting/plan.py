"""What is to be done with each slide; to know it, nothing is changed on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shapely.geometry.base import BaseGeometry

from dmmn_qp.errors import AnnotationFileError, PredictedOtherwiseError, SlideError
from dmmn_qp.folders.predictions import PredictedInput, Prediction, polygons_of, read_inputs, read_predictions
from dmmn_qp.outputs.earlier import first_metadata
from dmmn_qp.outputs.writers import missing_derived, recorded_suffixes
from dmmn_qp.predicting.areas import read_regions, region_area
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.request import compare, input_of, listed, polygon_differences
from dmmn_qp.predicting.unfinished import begun_after, has_begun_this
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY, RUN_KEY
from dmmn_qp.qupath.originals import is_laid_out_by_us
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.pixel_sizes import PixelSize, contradictions


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing is to be done, the slide has been predicted in just this way.

    Attributes:
        slide: The slide.
        polygons: Its polygons.
        is_comparable: Whether that is known; not so of predictions of earlier versions, which are left alone too.
        not_remade: How its polygons differ from what is asked for, where they are left alone all the same, because the
            file is not as we wrote it: somebody's corrections may be in it. Else empty.
        is_unlike: Whether it is unlike the training slides of the model, as far as that was recorded.
    """

    slide: SlideToPredict
    polygons: Path
    is_comparable: bool = True
    not_remade: str = ""
    is_unlike: bool = False


@dataclass(frozen=True, slots=True)
class RemakePolygons:
    """The polygons are to be made anew from the labels.

    Attributes:
        slide: The slide.
        before: The record of the prediction that is there.
        record: The record that is wanted.
        seen: The run of the prediction that was recorded; None for none.
    """

    slide: SlideToPredict
    before: Prediction
    record: Prediction
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class AddFiles:
    """Files are to be made of the rasters that are there; the prediction stays as it is.

    Attributes:
        slide: The slide.
        polygons: Its polygons.
        record: The record of its prediction.
        seen: The run of the prediction that was recorded; None for none.
    """

    slide: SlideToPredict
    polygons: Path
    record: Prediction
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class Predict:
    """Everything is to be done, or what is missing of an unfinished prediction.

    Attributes:
        slide: The slide.
        lost_file: Name of a file that is the reason for it, as it is missing or was changed; None for other reasons.
        seen: The run of the prediction that was recorded; None for none.
    """

    slide: SlideToPredict
    lost_file: str | None = None
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The slide cannot be predicted.

    Attributes:
        slide: The slide.
        error: Why.
    """

    slide: SlideToPredict
    error: Exception


SlidePlan = Skip | RemakePolygons | AddFiles | Predict | Failed


def make_plans(call: Call) -> list[SlidePlan]:
    """Finds out what is to be done with each slide.

    All are opened, so that those which do not fit the model are known before hours are spent on others.

    Raises:
        SlideError: Two slides would be written into the same files.
    """
    refuse_equal_names(call.slides)
    recorded = _Recorded.read(call.out)
    sizes: dict[str, PixelSize | None] = {}
    plans = [_plan(call, slide, recorded, sizes) for slide in call.slides]
    for line in contradictions(sizes):
        call.reporter.warn(line)
    return plans


def plan_again(call: Call, plan: RemakePolygons | AddFiles | Predict) -> SlidePlan:
    """What is to be done with a slide, now that nobody else works on it.

    Where another call has predicted it meanwhile in the way that is asked for, nothing is, even with ``overwrite``.
    """
    recorded, slide = _Recorded.read(call.out), plan.slide
    if recorded.run_of(slide.slide_id) == plan.seen:
        return plan
    again = _plan(replace(call, overwrite=False), slide, recorded, {})
    return plan if call.overwrite and isinstance(again, Failed) else again


def refuse_equal_names(slides: Sequence[SlideToPredict]) -> None:
    """Refuses slides that would be written into the same files.

    Raises:
        SlideError: Two have one name; case does not count, because not every file system distinguishes it.
    """
    by_name: dict[str, SlideToPredict] = {}
    for slide in slides:
        other = by_name.setdefault(slide.slide_id.casefold(), slide)
        if other is not slide:
            raise SlideError(
                f'slides "{other.path}" and "{slide.path}" would both be written as "{slide.slide_id}"; predict them '
                "in two runs with different --out"
            )


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What ``run.json`` of a folder says of its slides, by name."""

    predictions: Mapping[str, Prediction]
    images: Mapping[str, PredictedInput]

    @classmethod
    def read(cls, out: Path) -> _Recorded:
        """What a folder's ``run.json`` says; nothing where it is damaged."""
        try:
            return cls(read_predictions(out), read_inputs(out))
        except AnnotationFileError:
            return cls(read_predictions(out), {})

    def run_of(self, slide_id: str) -> str | None:
        """The run of the prediction that is recorded of a slide; None for none."""
        record = self.predictions.get(slide_id)
        return None if record is None else record.run_id

    def name_of(self, slide_id: str, polygons: Path | None) -> str:
        """The name under which a slide is recorded: another one where case does not count for the files."""
        names = {*self.predictions, *self.images}
        if slide_id in names or polygons is None:
            return slide_id
        for name in names:
            other = polygons_of(polygons.parent, name) if name.casefold() == slide_id.casefold() else None
            if other is not None and other.samefile(polygons):
                return name
        return slide_id


def _plan(call: Call, slide: SlideToPredict, recorded: _Recorded, sizes: dict[str, PixelSize | None]) -> SlidePlan:
    """What is to be done with a slide; an error is a plan too. Its pixel size is noted in ``sizes``."""
    try:
        polygons = polygons_of(call.out, slide.slide_id)
        with slide.open() as opened:
            sizes[slide.slide_id] = opened.info.pixel_size
            call.model.card.patch_spec.grid_of(opened.info.mpp, slide.slide_id)  # raises where it does not fit
            if call.overwrite or not _is_finished(call, slide, polygons, recorded):
                return Predict(slide, seen=recorded.run_of(slide.slide_id))
            wanted, image = _wanted_record(call, slide, opened), input_of(slide, opened.info)
        return _compared(call, slide, polygons, recorded, wanted, image)
    except Exception as error:  # whatever a library raises for a file, the other slides go on
        return Failed(slide, error)


def _is_finished(call: Call, slide: SlideToPredict, polygons: Path | None, recorded: _Recorded) -> bool:
    """Whether a slide has polygons, or a record and lacks only these.

    Not so where a call with ``--overwrite`` was interrupted that had begun to replace them in the way that is asked
    for now.
    """
    if begun_after(call.strips_folder(slide.slide_id), polygons):
        return polygons is not None and not has_begun_this(call, slide)
    return polygons is not None or slide.slide_id in recorded.predictions


def _wanted_record(call: Call, slide: SlideToPredict, opened: Slide) -> Prediction:
    """The record that a slide would have, if it were predicted now."""
    options, regions = call.options, None
    if slide.roi is not None or options.roi_class is not None:
        regions = _regions(call, slide, opened)
    precision = None if options.precision == "auto" else options.precision
    return call.record(slide, opened.info.mpp, regions, precision)


def _regions(call: Call, slide: SlideToPredict, opened: Slide) -> BaseGeometry | None:
    pattern = call.options.roi_class
    grid = call.model.card.patch_spec.grid_of(opened.info.mpp, slide.slide_id)
    return region_area(opened, grid, read_regions(slide, pattern), pattern).outline


def _compared(
    call: Call,
    slide: SlideToPredict,
    polygons: Path | None,
    recorded: _Recorded,
    wanted: Prediction,
    image: PredictedInput,
) -> SlidePlan:
    """What is to be done with a slide of which a prediction is there.

    Raises:
        PredictedOtherwiseError: It is another one than is wanted.
    """
    name, seen = recorded.name_of(slide.slide_id, polygons), recorded.run_of(slide.slide_id)
    before = recorded.predictions.get(name) or (None if polygons is None else _record_in(polygons))
    found = compare(before, recorded.images.get(name), wanted, image)
    if polygons is None and (found.differences or not found.is_complete):
        return Predict(slide, seen=seen)
    if found.differences:
        raise PredictedOtherwiseError(
            f'slide "{slide.slide_id}": predicted before {listed(found.differences)}; pass --overwrite to predict it '
            "again, or another --out"
        )
    if lost := _lost_file(call, slide.slide_id, before):
        return Predict(slide, lost, seen)
    if found.is_complete and before is not None and (polygons is None or before.polygons != wanted.polygons):
        if polygons is not None and not is_laid_out_by_us(polygons):
            return Skip(slide, polygons, not_remade=listed(_polygon_changes(before, wanted)))
        return RemakePolygons(slide, before, _with_new_polygons(before, wanted), seen)
    assert polygons is not None  # else it would have been compared, or predicted
    if found.is_complete and before is not None and missing_derived(call.out, slide.slide_id, call.options):
        return AddFiles(slide, polygons, before, seen)
    return Skip(slide, polygons, found.is_complete, is_unlike=before is not None and before.is_unlike)


def _lost_file(call: Call, slide_id: str, before: Prediction | None) -> str | None:
    """The name of a file that is wanted, but is missing or not the one that was recorded."""
    known = before.files if before is not None and before.files is not None else {}
    for suffix in recorded_suffixes(call.options):
        path = call.out / f"{slide_id}.{suffix}"
        if not path.is_file() or fingerprint(path) != known.get(suffix, fingerprint(path)):
            return path.name
    return None


def _polygon_changes(before: Prediction, wanted: Prediction) -> list[str]:
    """How the polygons that are there were asked for in another way."""
    return polygon_differences(before.polygons or {}, wanted.polygons or {})


def _with_new_polygons(before: Prediction, wanted: Prediction) -> Prediction:
    """The record of labels that are there, with the polygons that are wanted."""
    labels_run = before.labels_run or before.run_id
    return before.model_copy(update={"run_id": wanted.run_id, "polygons": wanted.polygons, "labels_run": labels_run})


def _record_in(polygons: Path) -> Prediction | None:
    """What the objects in a file say of their prediction, where no record does."""
    metadata = first_metadata(polygons)
    if MODEL_RUN_KEY not in metadata:
        return None
    return Prediction(
        run_id=metadata.get(RUN_KEY, ""),
        model=metadata.get(METADATA_KEY, "unknown"),
        model_run=metadata[MODEL_RUN_KEY],
    )
