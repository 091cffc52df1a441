"""`dmmn-qp predict`: a model and slides -> label rasters and QuPath polygons (paper, section 2.6)."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.console import Reporter, duration
from dmmn_qp.errors import (
    AnnotationFileError,
    DatasetError,
    DmmnQpError,
    ModelError,
    OutputExistsError,
    PartlyPredictedError,
    PredictedOtherwiseError,
    SlideError,
)
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import WEIGHTS, load_card
from dmmn_qp.folders.predictions import (
    EARLIER,
    LABELS_SUFFIX,
    PROBABILITIES_SUFFIX,
    PredictedInput,
    Prediction,
    polygons_of,
    read_inputs,
    read_predictions,
)
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.outputs.area_table import count_areas
from dmmn_qp.outputs.earlier import first_metadata
from dmmn_qp.outputs.predicted import LabelConfidence, PredictedSlide
from dmmn_qp.outputs.writers import recorded_suffixes, write_files, write_polygons_alone
from dmmn_qp.predicting.areas import Area, outside_label, read_regions, region_area
from dmmn_qp.predicting.inference import Predictor, context_of, load_predictors
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.publishing import Publisher, digests_of
from dmmn_qp.predicting.request import card_digest, compare, polygon_differences, polygons_request, request_of
from dmmn_qp.predicting.slide import SlideJob, begin_slide, predict_strips
from dmmn_qp.predicting.strips import PLAN
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY, RUN_KEY
from dmmn_qp.slides.base import Slide, SlideInfo
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.specs import PatchGrid
from dmmn_qp.vectors.sources import LabelSource

_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # quotas are not known everywhere

_DIGEST_CHUNK = 2**20

_READY = "ready"

_Step = Literal["skip", "polygons", "predict"]
"""What is to be done with a slide: nothing, its polygons alone, or everything."""


def predict(
    model_folder: Path,
    slides: Sequence[SlideToPredict],
    out: Path,
    options: PredictOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Path]:
    """Predicts slides one after the other; the files of one are written while the next is predicted.

    A slide that has been predicted from the same file, by the same model and with the same options is skipped; where
    only its polygons were asked for otherwise, they are made anew from its labels. Of one that was interrupted, the
    strips that are missing are predicted. One slide that cannot be predicted does not stop the others.

    Args:
        model_folder: The model.
        slides: The slides.
        out: Folder to write into; other slides' predictions in it are left alone.
        options: Resolved options.
        reporter: Where to report.
        overwrite: Whether predictions of these slides are made again and replaced. What an interrupted one has
            finished in just this way is taken over all the same.
        resume: Whether it is an error when an interrupted prediction cannot go on, because the model, the slide or the
            options have changed; else it is begun again.

    Returns:
        The polygons' file of each slide, those that were there included.

    Raises:
        ModelError: The model is missing or damaged.
        OutputExistsError: ``out`` is a file, or with ``resume`` an interrupted prediction is another one's.
        PredictedOtherwiseError: The only slide has been predicted otherwise, and is not to be replaced.
        SlideError: The only slide could not be predicted, or two have one name; PartlyPredictedError at the end for
            some of several.
    """
    started = now()
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    _refuse_equal_names(slides)
    settings = {**options.model_dump(mode="json"), "model": str(model_folder)}
    run = describe_run("predict", settings, started)
    stage = _Stage(model_folder, slides, out, options, run, reporter, resume=resume, overwrite=overwrite)
    return stage.predict()


def input_of(target: SlideToPredict, info: SlideInfo | None = None) -> PredictedInput:
    """What is told of a slide beside its prediction; its size once it is open."""
    return PredictedInput(
        path=str(target.path.resolve()).encode("utf-8", "backslashreplace").decode(),
        fingerprint=fingerprint(target.path),
        width=info.width if info else None,
        height=info.height if info else None,
        crop_to_bounds=target.crop_to_bounds,
        frame=target.frame,
    )


class _Stage:
    """One call of `predict`; the model's weights are not read before something is to be predicted."""

    def __init__(
        self,
        model_folder: Path,
        slides: Sequence[SlideToPredict],
        out: Path,
        options: PredictOptions,
        run: dict[str, Any],
        reporter: Reporter,
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.model_folder = model_folder
        self.slides = slides
        self.card = load_card(model_folder)
        self.context = context_of(self.card, options.context)
        self.weights = _digest(model_folder / WEIGHTS)
        self.outside = outside_label(self.card.class_map, options.outside)
        self.out = out
        self.options = options
        self.run = run | {"context": self.context}
        self.reporter = reporter
        self.resume = resume
        self.overwrite = overwrite
        self.predictors: list[Predictor] = []
        self.publisher = Publisher(out, self.card, self.run, [slide.slide_id for slide in slides])
        self.records, self.images = _told(out)

    @property
    def predictor(self) -> Predictor:
        """The model on the first device."""
        return self.predictors[0]

    def predict(self) -> dict[str, Path]:
        """Predicts all slides; see `predict`."""
        waiting = []
        for target in self.slides:
            try:
                step = self._step_of(target)
                if step == "polygons" and self._remake_polygons(target):
                    continue
            except (DmmnQpError, OSError) as error:
                self._failed(target.slide_id, error)
                continue
            if step != "skip":
                waiting.append(target)
        if skipped := self.publisher.skipped:
            self.reporter.say(f"Predicted before, left as they are (--overwrite replaces them): {_some(skipped)}")
        if waiting:
            self._load()
            self._announce(len(waiting))
            with ThreadPoolExecutor(1) as finisher:
                self._predict_each(waiting, finisher)
        return self._conclude()

    def _step_of(self, target: SlideToPredict) -> _Step:
        """What is to be done with a slide.

        It is opened in any case, so that hours are not spent before those that do not fit the model are told.

        Raises:
            PredictedOtherwiseError: Another prediction of it is there.
        """
        with target.open(self.options.mpp) as slide:
            grid = self.card.patch_spec.grid_of(slide.info.mpp, target.slide_id)
            if self.overwrite or not self._is_finished(target):
                return "predict"
            wanted, image = self._wanted(target, slide, grid), input_of(target, slide.info)
        name = target.slide_id
        polygons = polygons_of(self.out, name)
        told_as = self._told_as(name, polygons)
        before = self.records.get(told_as) or (None if polygons is None else _of_objects(polygons))
        found = compare(before, self.images.get(told_as), wanted, image)
        if polygons is None and (found.differences or not found.is_complete):
            return "predict"
        if found.differences:
            raise PredictedOtherwiseError(
                f'slide "{name}": predicted before {_listed(found.differences)}; pass --overwrite to predict it '
                "again, or another --out"
            )
        if lost := self._lost_file(name, before):
            self.reporter.say(f"  {name}: {lost} is missing or was changed; it is predicted again")
            return "predict"
        if not found.is_complete:
            self.reporter.warn(
                f"{name}: it was predicted by an earlier version or interrupted there, so its options cannot be "
                "compared with those of now; pass --overwrite to predict it again"
            )
        elif polygons is None or (before is not None and before.polygons != wanted.polygons):
            return "polygons"
        assert polygons is not None  # else it would have been compared, or predicted
        self.publisher.finished[name] = polygons
        self.publisher.skipped.append(name)
        return "skip"

    def _is_finished(self, target: SlideToPredict) -> bool:
        """Whether a slide has polygons, or only these are missing.

        Not so where an interrupted call with ``--overwrite`` had begun to replace them in the way that is asked for
        now. What a finished prediction left of its strips is removed.
        """
        folder, polygons = self._part(target.slide_id), polygons_of(self.out, target.slide_id)
        try:
            began = (folder / PLAN).stat().st_mtime_ns
        except OSError:
            began = None
        if began is not None and polygons is None:
            return False
        if began is not None and polygons is not None and began > polygons.stat().st_mtime_ns:
            self._load()
            job = self._begin(target)
            return not job.strips.is_of(self._plan(job))
        shutil.rmtree(folder, ignore_errors=True)
        return polygons is not None or target.slide_id in self.records

    def _told_as(self, slide_id: str, polygons: Path | None) -> str:
        """The name under which ``run.json`` tells a slide: another one where case does not count for the files."""
        names = {*self.records, *self.images}
        if slide_id in names or polygons is None:
            return slide_id
        for name in names:
            other = polygons_of(self.out, name) if name.casefold() == slide_id.casefold() else None
            if other is not None and other.samefile(polygons):
                return name
        return slide_id

    def _wanted(self, target: SlideToPredict, slide: Slide, grid: PatchGrid) -> Prediction:
        """The record that a slide would have, if it were predicted now."""
        regions: BaseGeometry | None = None
        if target.roi is not None or self.options.roi_class is not None:
            annotations = read_regions(target, self.options.roi_class)
            regions = region_area(slide, grid, annotations, self.options.roi_class).outline
        precision = None if self.options.precision == "auto" else self.options.precision
        return self._record(target, slide.info.mpp, regions, precision)

    def _record(
        self, target: SlideToPredict, mpp: float, regions: BaseGeometry | None, precision: str | None
    ) -> Prediction:
        return Prediction(
            run_id=self.run["run_id"],
            model=self.card.name,
            model_run=str(self.card.provenance.get("run_id", self.card.name)),
            weights=self.weights,
            card=card_digest(self.card),
            class_map=self.card.class_map,
            request=request_of(
                target, self.options, mpp=mpp, context=self.context, precision=precision, regions=regions
            ),
            polygons=polygons_request(self.options),
        )

    def _lost_file(self, slide_id: str, before: Prediction | None) -> str | None:
        """The name of a file that is wanted, but is missing or not the one that was recorded."""
        known = before.files if before is not None and before.files is not None else {}
        for suffix in recorded_suffixes(self.options):
            path = self.out / f"{slide_id}.{suffix}"
            if not path.is_file() or fingerprint(path) != known.get(suffix, fingerprint(path)):
                return path.name
        return None

    def _part(self, slide_id: str) -> Path:
        """Where the finished strips of a slide are."""
        return self.out / f".{slide_id}.part"

    def _load(self) -> None:
        """Reads the model, unless it has been."""
        if not self.predictors:
            self.predictors = load_predictors(self.model_folder, self.options)
            self.run["device"] = str(self.predictor.device)

    def _remake_polygons(self, target: SlideToPredict) -> bool:
        """Makes a slide's polygons from its labels; not so, and False, where these turn out to be damaged."""
        name, before = target.slide_id, self.records[target.slide_id]
        labels, ready = self.out / f"{name}.{LABELS_SUFFIX}", self._empty_ready(name)
        record = before.model_copy(
            update={
                "run_id": self.run["run_id"],
                "polygons": polygons_request(self.options),
                "labels_run": before.labels_run or before.run_id,
            }
        )
        try:
            with ExitStack() as stack:
                slide = stack.enter_context(ForgivingSlide(target.open(self.options.mpp)))
                raster = stack.enter_context(LabelRaster(labels))
                grid = self.card.patch_spec.grid_of(slide.info.mpp, name)
                confidence = self._confidence_of(name, before, raster, stack)
                predicted = self._predicted(target, slide, grid, labels, record, confidence)
                write_polygons_alone(ready, predicted)
                image = input_of(target, slide.info)
            self.publisher.publish(name, ready, record, image)
        except DatasetError as error:
            self.reporter.say(f"  {name}: it is predicted again ({error})")
            return False
        finally:
            shutil.rmtree(ready, ignore_errors=True)
            with suppress(OSError):  # of a prediction that was begun, its strips stay
                self._part(name).rmdir()
        changed = _listed(polygon_differences(before.polygons or {}, polygons_request(self.options)))
        self.reporter.say(
            f"  {name}: polygons made anew from its labels, without predicting" + (f" ({changed})" if changed else "")
        )
        had = [(before.request or {}).get(kind) for kind in ("probabilities", "uncertainty")]
        if confidence is None and any(had):
            self.reporter.warn(
                f"{name}: its new polygons have no mean probability, because its probabilities are not there; pass "
                "--probabilities --overwrite to predict them"
            )
        return True

    def _confidence_of(
        self, slide_id: str, before: Prediction, labels: LabelRaster, stack: ExitStack
    ) -> LabelConfidence | None:
        """The probability of each pixel's label, if the probabilities are there as they were recorded."""
        path = self.out / f"{slide_id}.{PROBABILITIES_SUFFIX}"
        digest = (before.files or {}).get(PROBABILITIES_SUFFIX)
        if digest is None or not path.is_file() or fingerprint(path) != digest:
            return None
        return stack.enter_context(LabelConfidence(labels, path, len(self.card.class_map)))

    def _empty_ready(self, slide_id: str) -> Path:
        """A new folder for finished files, beside the strips."""
        ready = self._part(slide_id) / _READY
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir(parents=True)
        return ready

    def _failed(self, slide_id: str, error: DmmnQpError | OSError) -> None:
        """Notes what stopped a slide; the only one stops everything, and so does what would stop the others too."""
        of_all = isinstance(error, OutputExistsError) or getattr(error, "errno", None) in _NO_SPACE
        if len(self.slides) == 1 or of_all:
            raise error
        self.publisher.finished.pop(slide_id, None)
        self.publisher.failures[slide_id] = str(error)
        self.reporter.warn(f"{slide_id} is left out: {error}")

    def _announce(self, count: int) -> None:
        devices = self.predictor.device.type + (f" x {len(self.predictors)}" if len(self.predictors) > 1 else "")
        precision = "bf16" if self.predictor.bf16 else "fp32"
        self.reporter.heading(
            f"Predicting {count} slide{'s' if count > 1 else ''} with {self.card.name} on {devices}, {precision}, "
            f"context {self.predictor.context}"
        )
        if self.card.licence:
            self.reporter.say(f"  licence of the model: {self.card.licence}")
        if self.card.attribution:
            self.reporter.say(f"  {self.card.attribution}")

    def _predict_each(self, slides: Sequence[SlideToPredict], finisher: ThreadPoolExecutor) -> None:
        last: tuple[SlideJob, Future[Path]] | None = None
        for number, target in enumerate(slides, start=1):
            name = f"{target.slide_id} ({number}/{len(slides)})" if len(slides) > 1 else target.slide_id
            job: SlideJob | None = None
            try:
                job = self._prepare(target)
                predict_strips(job, self.predictors, self.reporter, name, self.options.workers)
            except (DmmnQpError, OSError) as error:
                job = None
                self._failed(target.slide_id, error)
            if last is not None:
                self._collect(*last)
            last = (job, finisher.submit(self._finish, job)) if job is not None else None
        if last is not None:
            self._collect(*last)

    def _prepare(self, target: SlideToPredict) -> SlideJob:
        folder = self._part(target.slide_id)
        job = self._begin(target)
        plan = self._plan(job)
        if self.resume and folder.exists() and not job.strips.is_of(plan):
            raise OutputExistsError(
                f'the interrupted prediction "{folder}" was made with another model, slide or options; repeat the '
                "command that began it, or leave out --resume to begin again"
            )
        if job.strips.begin(plan):
            self.reporter.say(
                f"  {target.slide_id}: begins again, its finished part was made with another model or options"
            )
        return job

    def _begin(self, target: SlideToPredict) -> SlideJob:
        return begin_slide(target, self.predictor, self._part(target.slide_id), self.options, self.outside)

    def _plan(self, job: SlideJob) -> dict[str, Any]:
        """Everything that a strip depends on."""
        predictor = self.predictor
        return {
            "weights": self.weights,
            "card": self.card.model_dump(mode="json", exclude={"provenance", "name"}),
            "slide": job.fingerprint,
            "grid": [job.grid.downsample, *job.shape],
            "frame": [repr(change) for change in job.target.frame] + [job.target.crop_to_bounds],
            "context": predictor.context,
            "block_targets": predictor.block_targets,
            "bf16": predictor.bf16,
            "device": predictor.device.type,
            "tta": predictor.turned,
            "kinds": dict(job.strips.channels),
            "outside": self.outside,
            "area": _area_digest(job.area),
        }

    def _finish(self, job: SlideJob) -> Path:
        """Makes a slide's files from its strips, and then puts them in place; beside the next slide's prediction."""
        name = job.target.slide_id
        ready = self._empty_ready(name)
        record = self._record(
            job.target, job.info.mpp, job.area.outline, "bf16" if self.predictor.bf16 else "fp32"
        ).model_copy(
            update={
                "seconds": round(job.seconds, 1),
                "unreadable": {
                    "lost": len(job.unreadable.lost),
                    "from_another_level": len(job.unreadable.replaced),
                },
            }
        )
        labels, strips = ready / f"{name}.{LABELS_SUFFIX}", job.strips
        confidence = strips.source("confidence") if "confidence" in strips.channels else None
        with ForgivingSlide(job.target.open(self.options.mpp)) as slide:
            predicted = replace(
                self._predicted(job.target, slide, job.grid, labels, record, confidence),
                pixels=strips,
                tissue=job.area.tissue,
            )
            write_files(ready, predicted, self.reporter, recorded=True)
            record = record.model_copy(update={"files": digests_of(ready, name)})
            areas = count_areas(predicted)
            write_files(ready, predicted, self.reporter, recorded=False)
        polygons = self.publisher.publish(name, ready, record, input_of(job.target, job.info), areas)
        strips.remove()
        return polygons

    def _predicted(
        self,
        target: SlideToPredict,
        slide: Slide,
        grid: PatchGrid,
        labels: Path,
        record: Prediction,
        confidence: LabelSource | None,
    ) -> PredictedSlide:
        return PredictedSlide(
            slide=slide,
            slide_id=target.slide_id,
            fingerprint=fingerprint(target.path),
            labels=labels,
            downsample=grid.downsample,
            class_map=self.card.class_map,
            model_name=record.model,
            model_run=record.model_run,
            run_id=record.run_id,
            options=self.options,
            confidence=confidence,
        )

    def _collect(self, job: SlideJob, written: Future[Path]) -> None:
        """Waits for a slide's files and says what came of it."""
        name = job.target.slide_id
        try:
            written.result()
        except (DmmnQpError, OSError) as error:
            self._failed(name, error)
            return
        rows, columns = job.shape
        self.reporter.say(
            f"  {name}: {columns} x {rows} px at {self.card.patch_spec.mpps[0]:g} um/px in {duration(job.seconds)}"
        )
        for count, what in (
            (len(job.unreadable.replaced), "were read from another level of the slide"),
            (len(job.unreadable.lost), "could not be read and are unlabelled"),
        ):
            if count:
                self.reporter.warn(f"{name}: {count} tiles {what} ({job.unreadable.reason})")

    def _conclude(self) -> dict[str, Path]:
        """Writes what describes the folder; returns the polygons of all slides, or raises what failed."""
        self.publisher.conclude()
        if dropped := self.publisher.dropped:
            self.reporter.say(f"Removed the {dropped} oldest of the replaced polygons in {self.out / EARLIER}/")
        finished = {s.slide_id: path for s in self.slides if (path := self.publisher.finished.get(s.slide_id))}
        if finished.keys() - set(self.publisher.skipped):
            self.reporter.say(f"Wrote {self.out}/; README.txt there names every file")
        if failures := self.publisher.failures:
            listed = "; ".join(f"{name}: {why}" for name, why in list(failures.items())[:5])
            raise PartlyPredictedError(
                f"{len(failures)} of {len(self.slides)} slides could not be predicted: {listed}", finished
            )
        return finished


def _area_digest(area: Area) -> str:
    outline = b"" if area.outline is None else shapely.to_wkb(area.outline)
    return hashlib.sha256(np.packbits(area.targets).tobytes() + outline).hexdigest()[:32]


def _digest(path: Path) -> str:
    """A digest of all of a model's weights.

    Raises:
        ModelError: They are missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_DIGEST_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(
            f'weights "{path}" are missing or cannot be read ({error.strerror}); take the whole folder again from its '
            "source"
        ) from error
    return digest.hexdigest()[:32]


def _told(out: Path) -> tuple[dict[str, Prediction], dict[str, PredictedInput]]:
    """What ``run.json`` of a folder says of its slides; nothing where it is damaged."""
    try:
        return read_predictions(out), read_inputs(out)
    except AnnotationFileError:
        return read_predictions(out), {}


def _of_objects(polygons: Path) -> Prediction | None:
    """What the objects in a file say of their prediction, where no record does."""
    told = first_metadata(polygons)
    if MODEL_RUN_KEY not in told:
        return None
    return Prediction(
        run_id=told.get(RUN_KEY, ""), model=told.get(METADATA_KEY, "unknown"), model_run=told[MODEL_RUN_KEY]
    )


def _refuse_equal_names(slides: Sequence[SlideToPredict]) -> None:
    """Refuses slides that would be written into the same files.

    Raises:
        SlideError: Two have one name; case does not count, because not every file system tells it.
    """
    by_name: dict[str, SlideToPredict] = {}
    for slide in slides:
        other = by_name.setdefault(slide.slide_id.casefold(), slide)
        if other is not slide:
            raise SlideError(
                f'slides "{other.path}" and "{slide.path}" would both be written as "{slide.slide_id}"; predict them '
                "in two runs with different --out"
            )


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
