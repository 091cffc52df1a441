"""`dmmn-qp predict`: a model and slides -> label rasters and QuPath polygons (paper, section 2.6)."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rich.console import Console

from dmmn_qp.areas import TISSUE_SUFFIX, Area, outside_label, write_outline
from dmmn_qp.checkpoint import WEIGHTS
from dmmn_qp.config import PredictOptions
from dmmn_qp.dataset import LABELS_SUFFIX, LabelRaster
from dmmn_qp.errors import DmmnQpError, OutputExistsError, PartlyPredictedError
from dmmn_qp.inference import Predictor, load_predictors
from dmmn_qp.ome_tiff import PROBABILITIES_SUFFIX, UNCERTAINTY_SUFFIX, write_label_pyramid, write_probability_pyramid
from dmmn_qp.outputs import RUN_FILE, write_json
from dmmn_qp.predict_inputs import SlideToPredict
from dmmn_qp.prediction_folder import count_areas, write_areas, write_readme
from dmmn_qp.predictions import INPUTS, POLYGONS_SUFFIXES, PredictedInput, merged_inputs
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.regions import Region
from dmmn_qp.reporting import Reporter, duration
from dmmn_qp.slide_prediction import SlideJob, begin_slide, predict_strips
from dmmn_qp.slides import SlideInfo, fingerprint
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.strips import LABELS, PLAN, StripStore
from dmmn_qp.writers import WRITERS, PredictedSlide, polygons_path

_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # quotas are not known everywhere
_WHITE = (255, 255, 255)
_DIGEST_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class SlidePrediction:
    """What `predict_slide` wrote.

    Attributes:
        slide_id: The slide's name in file names.
        polygons: GeoJSON for QuPath.
        labels: Label raster: an OME-TIFF pyramid whose values are those of the class map.
        overview: Picture of the slide and the classes.
        areas: Pixels and mm2 of each class.
    """

    slide_id: str
    polygons: Path
    labels: Path
    overview: Path
    areas: Path

    def read_labels(self) -> NDArray[np.uint8]:
        """The whole label raster, (rows, columns) uint8 on the grid of the model's finest magnification."""
        with LabelRaster(self.labels) as raster:
            rows, columns = raster.shape
            return raster.read(Region(0, 0, columns, rows))


def predict_slide(
    slide: Path,
    model: Path,
    out: Path,
    options: PredictOptions | None = None,
    *,
    mpp: float | None = None,
    roi: Path | None = None,
    overwrite: bool = False,
) -> SlidePrediction:
    """Predicts one slide; the same as ``dmmn-qp predict SLIDE --model MODEL --out OUT``, without a word.

    An interrupted prediction goes on, and a finished one is returned as it is.

    Args:
        slide: The slide.
        model: The model's folder.
        out: Folder to write into; what is there of other slides stays.
        options: How to predict; the defaults of the command line unless given.
        mpp: um/px of a slide that does not say it.
        roi: GeoJSON of the areas to predict, in level-0 px of QuPath's frame.
        overwrite: Whether an earlier prediction of the slide is replaced.

    Returns:
        Where everything is.

    Raises:
        DmmnQpError: The slide or the model cannot be read, or they do not fit together.

    Example:
        >>> from pathlib import Path
        >>> from dmmn_qp.prediction import predict_slide
        >>> found = predict_slide(Path("examples/demo/slides/val-1.tif"), Path("models/demo"), Path(folder))
        >>> found.polygons.name
        'val-1.geojson'
        >>> labels = found.read_labels()
        >>> labels.dtype, labels.ndim, int(labels.min()) >= 1
        (dtype('uint8'), 2, True)
    """
    target = SlideToPredict(slide.name if slide.is_dir() else slide.stem, slide, mpp, roi=roi)
    reporter = Reporter(Console(quiet=True))
    name = target.slide_id
    polygons = predict(model, [target], out, options or PredictOptions(), reporter, overwrite=overwrite)[name]
    return SlidePrediction(
        name, polygons, out / f"{name}.{LABELS_SUFFIX}", out / f"{name}.overview.png", out / "areas.csv"
    )


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

    Slides whose polygons are there already are skipped. Of one that was interrupted, the strips that are missing are
    predicted. One slide that cannot be predicted does not stop the others.

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
        SlideError: The only slide could not be predicted; PartlyPredictedError at the end for some of several.
    """
    started = now()
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    predictors = load_predictors(model_folder, options)
    run = describe_run(
        "predict",
        {**options.model_dump(mode="json"), "model": str(model_folder)},
        started,
        device=str(predictors[0].device),
        context=predictors[0].context,
    )
    stage = _Stage(model_folder, predictors, out, options, run, reporter, resume=resume, overwrite=overwrite)
    return stage.predict(slides)


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
    """One call of `predict`."""

    def __init__(
        self,
        model_folder: Path,
        predictors: Sequence[Predictor],
        out: Path,
        options: PredictOptions,
        run: dict[str, Any],
        reporter: Reporter,
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.predictors = predictors
        self.predictor = predictors[0]
        self.card = self.predictor.card
        self.weights = _digest(model_folder / WEIGHTS)
        self.outside = outside_label(self.card.class_map, options.outside)
        self.out = out
        self.options = options
        self.run = run
        self.reporter = reporter
        self.resume = resume
        self.overwrite = overwrite
        self.finished: dict[str, Path] = {}
        self.failures: dict[str, str] = {}
        self.skipped: list[str] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.inputs: dict[str, PredictedInput] = {}

    def predict(self, slides: Sequence[SlideToPredict]) -> dict[str, Path]:
        """Predicts all slides; see `predict`."""
        known = _known_predictions(self.out)
        waiting = []
        for target in slides:
            done = None if self.overwrite else self._polygons_of(target.slide_id)
            if done is None or self._is_being_replaced(target.slide_id, done):
                waiting.append(target)
                continue
            self.finished[target.slide_id] = done
            self.skipped.append(target.slide_id)
            model = known.get(target.slide_id, {}).get("model_run", self._model_run)
            if model != self._model_run:
                self.reporter.warn(
                    f"{target.slide_id} was predicted by another model; pass --overwrite to predict it again"
                )
        if self.skipped:
            self.reporter.say(f"Predicted before, left as they are (--overwrite replaces them): {_some(self.skipped)}")
        waiting = self._that_open(waiting, len(slides))
        if waiting:
            self._announce(len(waiting))
            with ThreadPoolExecutor(1) as finisher:
                self._predict_each(waiting, finisher, len(slides))
        self._conclude(slides, known)
        return {t.slide_id: self.finished[t.slide_id] for t in slides if t.slide_id in self.finished}

    @property
    def _model_run(self) -> str:
        return str(self.card.provenance.get("run_id", self.card.name))

    def _polygons_of(self, slide_id: str) -> Path | None:
        paths = (self.out / f"{slide_id}{suffix}" for suffix in POLYGONS_SUFFIXES)
        return next((path for path in paths if path.exists()), None)

    def _is_being_replaced(self, slide_id: str, polygons: Path) -> bool:
        """Whether an interrupted call with ``--overwrite`` had begun to; what a finished one left is removed."""
        folder = self._part(slide_id)
        try:
            if (folder / PLAN).stat().st_mtime_ns > polygons.stat().st_mtime_ns:
                return True
        except OSError:
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return False

    def _part(self, slide_id: str) -> Path:
        """Where the finished strips of a slide are."""
        return self.out / f".{slide_id}.part"

    def _that_open(self, slides: Sequence[SlideToPredict], asked_for: int) -> list[SlideToPredict]:
        """The slides that can be opened and fit the model, so that hours are not spent before the others are told."""
        usable = []
        for target in slides:
            try:
                with target.open(self.options.mpp) as opened:
                    self.card.patch_spec.grid_of(opened.info.mpp, target.slide_id)
            except (DmmnQpError, OSError) as error:
                self._failed(target.slide_id, error, asked_for)
            else:
                usable.append(target)
        return usable

    def _failed(self, slide_id: str, error: DmmnQpError | OSError, asked_for: int) -> None:
        """Notes what stopped a slide; the only one stops everything, and so does what would stop the others too."""
        of_all = isinstance(error, OutputExistsError) or getattr(error, "errno", None) in _NO_SPACE
        if asked_for == 1 or of_all:
            raise error
        self.failures[slide_id] = str(error)
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

    def _predict_each(self, slides: Sequence[SlideToPredict], finisher: ThreadPoolExecutor, asked_for: int) -> None:
        last: tuple[SlideJob, Future[Path]] | None = None
        for number, target in enumerate(slides, start=1):
            name = f"{target.slide_id} ({number}/{len(slides)})" if len(slides) > 1 else target.slide_id
            job: SlideJob | None = None
            try:
                job = self._prepare(target)
                predict_strips(job, self.predictors, self.reporter, name, self.options.workers)
            except (DmmnQpError, OSError) as error:
                job = None
                self._failed(target.slide_id, error, asked_for)
            if last is not None:
                self._collect(*last, asked_for)
            last = (job, finisher.submit(self._finish, job)) if job is not None else None
        if last is not None:
            self._collect(*last, asked_for)

    def _prepare(self, target: SlideToPredict) -> SlideJob:
        folder = self._part(target.slide_id)
        job = begin_slide(target, self.predictor, folder, self.options, self.outside)
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
        """Writes a slide's files from its strips, the polygons last; runs beside the next slide's prediction."""
        name, strips = job.target.slide_id, job.strips
        mpp = job.info.mpp * job.grid.downsample
        class_map = self.card.class_map
        labels = self.out / f"{name}.{LABELS_SUFFIX}"
        write_label_pyramid(labels, _each_strip(strips, LABELS), job.shape, mpp, class_map)
        if "probabilities" in strips.channels:
            write_probability_pyramid(
                self.out / f"{name}.{PROBABILITIES_SUFFIX}",
                _each_strip(strips, "probabilities"),
                job.shape,
                mpp,
                class_map.names,
                [c.color for c in class_map.classes],
                description="probability of each class, 255 is 1",
            )
        if "entropy" in strips.channels:
            write_probability_pyramid(
                self.out / f"{name}.{UNCERTAINTY_SUFFIX}",
                (strip[None] for strip in _each_strip(strips, "entropy")),
                job.shape,
                mpp,
                ["entropy"],
                [_WHITE],
                description="entropy of the probabilities, 255 is that of equal ones",
            )
        if job.area.tissue is not None and self.options.tissue_outline:
            write_outline(self.out / f"{name}.{TISSUE_SUFFIX}", job.area, job.fingerprint)
        with ForgivingSlide(job.target.open(self.options.mpp)) as slide:
            predicted = PredictedSlide(
                slide=slide,
                slide_id=name,
                fingerprint=job.fingerprint,
                labels=labels,
                downsample=job.grid.downsample,
                class_map=class_map,
                model_name=self.card.name,
                model_run=self._model_run,
                run_id=self.run["run_id"],
                options=self.options,
                confidence=strips.source("confidence") if "confidence" in strips.channels else None,
            )
            write_areas(self.out, [count_areas(predicted)])
            for suffix, write in WRITERS.items():
                write(self.out / f"{name}.{suffix}", predicted)
        strips.remove()
        return polygons_path(self.out, name, self.options)

    def _collect(self, job: SlideJob, written: Future[Path], asked_for: int) -> None:
        """Waits for a slide's files and says what came of it."""
        name = job.target.slide_id
        try:
            self.finished[name] = written.result()
        except (DmmnQpError, OSError) as error:
            self._failed(name, error, asked_for)
            return
        rows, columns = job.shape
        self.inputs[name] = input_of(job.target, job.info)
        self.facts[name] = {
            "run_id": self.run["run_id"],
            "model": self.card.name,
            "model_run": self._model_run,
            "seconds": round(job.seconds, 1),
            "unreadable": {
                "lost": len(job.unreadable.lost),
                "from_another_level": len(job.unreadable.replaced),
            },
        }
        self.reporter.say(
            f"  {name}: {columns} x {rows} px at {self.card.patch_spec.mpps[0]:g} um/px in {duration(job.seconds)}"
        )
        for count, what in (
            (len(job.unreadable.replaced), "were read from another level of the slide"),
            (len(job.unreadable.lost), "could not be read and are unlabelled"),
        ):
            if count:
                self.reporter.warn(f"{name}: {count} tiles {what} ({job.unreadable.reason})")

    def _conclude(self, slides: Sequence[SlideToPredict], known: dict[str, dict[str, Any]]) -> None:
        """Writes what describes the folder, and raises what failed."""
        if self.facts:
            write_readme(
                self.out,
                model_name=self.card.name,
                class_map=self.card.class_map,
                run_id=self.run["run_id"],
                mpp=self.card.patch_spec.mpps[0],
                licence=self.card.licence,
                attribution=self.card.attribution,
            )
        if self.facts or self.failures:
            summary = {
                **self.run,
                "finished": now(),
                "slides": [target.slide_id for target in slides if target.slide_id in self.finished],
                "skipped": self.skipped,
                "failed": self.failures,
                "predictions": {**known, **self.facts},
                INPUTS: merged_inputs(self.out, self.inputs),
            }
            write_json(self.out / RUN_FILE, summary)
        if self.failures:
            listed = "; ".join(f"{name}: {why}" for name, why in list(self.failures.items())[:5])
            raise PartlyPredictedError(
                f"{len(self.failures)} of {len(slides)} slides could not be predicted: {listed}", self.finished
            )


def _each_strip(strips: StripStore, kind: str) -> Iterator[NDArray[np.uint8]]:
    return (strips.read(strip, kind) for strip in range(strips.count))


def _area_digest(area: Area) -> str:
    outline = b"" if area.outline is None else shapely.to_wkb(area.outline)
    return hashlib.sha256(np.packbits(area.targets).tobytes() + outline).hexdigest()[:32]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_DIGEST_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:32]


def _known_predictions(out: Path) -> dict[str, dict[str, Any]]:
    """What an earlier run's ``run.json`` says of each slide in the folder; nothing where it is damaged."""
    try:
        known = json.loads((out / RUN_FILE).read_bytes())["predictions"]
        return {name: facts for name, facts in known.items() if isinstance(facts, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
