"""One slide -> finished strips of labels: blocks are read ahead, predicted, and written as soon as a strip is whole."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from math import ceil, floor
from pathlib import Path
from queue import Queue

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.console import Reporter
from dmmn_qp.engines.cores import available_cores
from dmmn_qp.errors import SlideChangedError
from dmmn_qp.features.domain import FromTraining
from dmmn_qp.files import write_json
from dmmn_qp.predicting.areas import Area, area_to_predict
from dmmn_qp.predicting.inference import BlockPrediction, predict_fields
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.overlapping import Layout
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.predicting.strips import LABELS, StripStore
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, SlideInfo
from dmmn_qp.slides.files import check_unchanged, fingerprint
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.slides.once import FieldReader, Unreadable
from dmmn_qp.specs import UNLABELLED, PatchGrid

MOST_DECODERS = 16
"""Threads that decode pixels, unless another number is asked for: as many as cores, but not more."""

UNREADABLE = "unreadable.json"
"""Beside the finished strips: what of the slide could not be read for them."""

WAITING_STRIPS = 2
"""Finished strips that may wait for a slow disk."""


@dataclass(slots=True)
class SlideJob:
    """A slide on its way.

    Attributes:
        target: The slide as the user named it.
        info: The same, opened.
        grid: The patch grid on it.
        area: Where it is predicted.
        outside: Label of what is not predicted.
        strips: Its finished strips.
        block_width: Columns of a block in grid px; it has the rows of a strip.
        layout: Where overlapping targets lie; None where none overlap.
        fingerprint: Digest of its file.
        unreadable: What of it could not be read.
        seconds: How long the network took, reading included.
        from_training: How far it is from the model's training slides; None where that is not known.
    """

    target: SlideToPredict
    info: SlideInfo
    grid: PatchGrid
    area: Area
    outside: int
    strips: StripStore
    block_width: int
    layout: Layout | None
    fingerprint: str
    unreadable: Unreadable = field(default_factory=Unreadable)
    seconds: float = 0.0
    from_training: FromTraining | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the label raster."""
        return self.grid.shape(self.info.width, self.info.height)


def begin_slide(
    target: SlideToPredict, predictor: Predictor, folder: Path, options: PredictOptions, outside: int
) -> SlideJob:
    """Opens a slide and finds out where to predict it.

    Args:
        target: The slide.
        predictor: The model.
        folder: Where its finished strips are kept.
        options: Resolved options.
        outside: Label of what is not predicted.

    Raises:
        SlideError: It cannot be read, nor can its regions of interest.
        PixelSizeError: It does not fit the model.
    """
    with ForgivingSlide(target.open()) as slide:
        info, known = slide.info, fingerprint(target.path)
        grid = predictor.card.patch_spec.grid_of(info.mpp, target.slide_id)
        area = area_to_predict(slide, target, grid, options)
    channels = {
        **({"probabilities": len(predictor.card.class_map)} if predictor.probabilities else {}),
        **({"entropy": 0} if predictor.uncertainty else {}),
        **({"confidence": 0} if predictor.probabilities or predictor.uncertainty else {}),
        LABELS: 0,
    }
    size, shape = grid.spec.size_px, grid.shape(info.width, info.height)
    strips = StripStore(folder, shape, predictor.block_targets * size, channels)
    width, layout = predictor.block_columns * size, predictor.layout(shape)
    return SlideJob(target, info, grid, area, outside, strips, width, layout, known)


def predict_strips(
    job: SlideJob, predictors: Sequence[Predictor], reporter: Reporter, name: str, workers: int | None = None
) -> None:
    """Predicts the strips of a slide that are missing.

    Args:
        job: The slide; what could not be read, and the time it took, are noted in it.
        predictors: The model on each device.
        reporter: Where to report.
        name: What to call the slide in the progress.
        workers: Threads that decode; None for as many as there are cores.

    Raises:
        SlideChangedError: The slide's file was cut or changed meanwhile; its strips are removed.
        SlideError: The slide cannot be opened any more.
    """
    try:
        _predict_strips(job, predictors, reporter, name, workers)
        check_unchanged(job.target.path, job.fingerprint)
    except SlideChangedError:
        job.strips.remove()  # nobody knows which file they are of
        raise


def _predict_strips(
    job: SlideJob, predictors: Sequence[Predictor], reporter: Reporter, name: str, workers: int | None
) -> None:
    start = time.monotonic()
    missing = [strip for strip in range(job.strips.count) if not job.strips.has(strip)]
    in_strip = {strip: list(_wanted_blocks(job, strip, predictors[0])) for strip in missing}
    work = [block for blocks in in_strip.values() for block in blocks]
    everything = int(job.area.targets.sum())
    done = everything - sum(int(_targets(job, block).sum()) for block in work)
    if done and len(missing) < job.strips.count:
        finished = job.strips.count - len(missing)
        reporter.say(f"  {job.target.slide_id}: goes on, {finished} of {job.strips.count} strips are finished")
    _recall_unreadable(job)
    for strip in (strip for strip, blocks in in_strip.items() if not blocks):  # nothing in it is predicted
        _write_strip(job, strip, job.strips.empty(strip))
    with ThreadPoolExecutor(1) as writer, reporter.task(name, everything, done) as task:
        growing = _GrowingStrips(job, {strip: len(blocks) for strip, blocks in in_strip.items()}, writer)
        if work:
            with _reader(job, work, predictors[0], workers) as reader:
                fields = zip(work, (_targets(job, block) for block in work), reader, strict=False)
                for block, found in predict_blocks(fields, predictors, job.layout):
                    growing.place(block, found)
                    task.advance(int(_targets(job, block).sum()))
        growing.wait()
    job.seconds = time.monotonic() - start


def _reader(job: SlideJob, work: Sequence[Region], predictor: Predictor, workers: int | None) -> FieldReader:
    """Reads the fields of blocks ahead; what was unreadable before stays so."""
    reader = FieldReader(
        job.target.open,
        job.grid,
        [predictor.fields(job.grid, block, job.layout) for block in work],
        predictor.card.input.reduction,
        workers or min(MOST_DECODERS, available_cores()),
        predictor.card.input.beyond,
        partial(check_unchanged, job.target.path, job.fingerprint),
    )
    reader.unreadable = job.unreadable
    return reader


class _GrowingStrips:
    """Strips whose blocks come in any order; a strip is written, in a thread, as soon as it has all of them."""

    def __init__(self, job: SlideJob, blocks: dict[int, int], writer: ThreadPoolExecutor) -> None:
        """Begins without a block.

        Args:
            job: The slide.
            blocks: How many blocks each strip will be given.
            writer: What writes.
        """
        self._job = job
        self._awaited = dict(blocks)
        self._writer = writer
        self._pixels: dict[int, dict[str, NDArray[np.uint8]]] = {}
        self._writing: list[Future[None]] = []

    def place(self, block: Region, found: BlockPrediction) -> None:
        """Puts a predicted block into its strip."""
        strips = self._job.strips
        strip = block.y // strips.strip_rows
        if strip not in self._pixels:
            self._pixels[strip] = strips.empty(strip)
        _place(self._pixels[strip], found, block, strips.region(strip))
        self._awaited[strip] -= 1
        if self._awaited[strip] == 0:
            self._writing.append(self._writer.submit(_write_strip, self._job, strip, self._pixels.pop(strip)))
        self.wait(WAITING_STRIPS)

    def wait(self, most: int = 0) -> None:
        """Waits until at most so many strips are still being written, so that they do not pile up in memory."""
        while len(self._writing) > most:
            self._writing.pop(0).result()


def _write_strip(job: SlideJob, strip: int, pixels: dict[str, NDArray[np.uint8]]) -> None:
    """Gives what is not predicted its label, and writes the strip."""
    region = job.strips.region(strip)
    if not job.area.is_whole:
        for block in _blocks(job, strip):
            part = block.intersection(region)
            assert part is not None
            is_outside = not _targets(job, block).any()  # all of it, which need not be looked at pixel by pixel
            mask = None if is_outside else job.area.mask(block, job.grid)
            if mask is None and not is_outside:
                continue
            for kind, array in pixels.items():
                cut = array[..., : part.height, part.x : part.right]
                value = job.outside if kind == LABELS else 0
                if mask is None:
                    cut[...] = value
                else:
                    cut[..., ~mask[: part.height, : part.width]] = value
    for lost in job.unreadable.lost:
        for array in pixels.values():
            _erase(array, lost, region, job.grid.downsample)
    if job.unreadable.reason:
        write_json(job.strips.folder / UNREADABLE, asdict(job.unreadable))
    job.strips.write(strip, pixels)


def _recall_unreadable(job: SlideJob) -> None:
    """Reads again what of the slide could not be read for the strips that are finished."""
    try:
        noted = json.loads((job.strips.folder / UNREADABLE).read_bytes())
        job.unreadable.replaced.extend(Region(**place) for place in noted["replaced"])
        job.unreadable.lost.extend(Region(**place) for place in noted["lost"])
        job.unreadable.reason = str(noted["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return


def predict_blocks(
    work: Iterator[tuple[Region, NDArray[np.bool_], list[RgbArray]]],
    predictors: Sequence[Predictor],
    layout: Layout | None = None,
) -> Iterator[tuple[Region, BlockPrediction]]:
    """Predicts blocks, on several devices where there are several.

    A device is given the next block before the result of the last is fetched, so that it does not wait.

    Args:
        work: Blocks, their targets that are wanted, and their fields (`predict_fields`).
        predictors: The same model on each device.
        layout: Where overlapping targets lie on the slide; None where none overlap.

    Yields:
        (block, what was predicted); of several devices, in the order in which they finish.
    """
    if len(predictors) == 1:
        yield from _on_one_device(work, predictors[0], layout)
        return
    lock, results = threading.Lock(), Queue[tuple[Region, BlockPrediction] | BaseException | None](2 * len(predictors))
    stopped = threading.Event()

    def shared() -> Iterator[tuple[Region, NDArray[np.bool_], list[RgbArray]]]:
        while not stopped.is_set():
            with lock:
                item = next(work, None)
            if item is None:
                return
            yield item

    def compute(predictor: Predictor) -> None:
        try:
            for result in _on_one_device(shared(), predictor, layout):
                results.put(result)
        except BaseException as error:  # raised again by whoever takes the results
            results.put(error)
        results.put(None)

    threads = [threading.Thread(target=compute, args=(predictor,), daemon=True) for predictor in predictors]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        stopped.set()
        while any(thread.is_alive() for thread in threads):
            while not results.empty():
                results.get_nowait()
            threads[0].join(0.01)


def _on_one_device(
    work: Iterator[tuple[Region, NDArray[np.bool_], list[RgbArray]]], predictor: Predictor, layout: Layout | None
) -> Iterator[tuple[Region, BlockPrediction]]:
    """Predicts blocks in their order; the next is begun before the result of the last is fetched."""
    last: tuple[Region, Callable[[], BlockPrediction]] | None = None
    for block, targets, fields in work:
        fetch = predict_fields(fields, targets, predictor, None if layout is None else (block, layout))
        if last is not None:
            yield last[0], last[1]()
        last = block, fetch
    if last is not None:
        yield last[0], last[1]()


def _blocks(job: SlideJob, strip: int) -> list[Region]:
    """The blocks of a strip in grid px: whole targets, which may leave the slide."""
    size, side = job.grid.spec.size_px, job.strips.strip_rows
    rows, columns = job.shape
    whole = Region(0, 0, -(-columns // size) * size, -(-rows // size) * size)
    y = strip * side
    return list(Region(0, y, whole.width, min(side, whole.height - y)).tiles(side, job.block_width))


def _wanted_blocks(job: SlideJob, strip: int, predictor: Predictor) -> Iterator[Region]:
    """The blocks of a strip of which something is predicted; only the part around it, where that gives the same."""
    size = job.grid.spec.size_px
    for block in _blocks(job, strip):
        rows, columns = np.nonzero(_targets(job, block))
        if len(rows) and predictor.takes_any_block:
            width, height = ((int(np.ptp(places)) + 1) * size for places in (columns, rows))
            yield Region(block.x + int(columns.min()) * size, block.y + int(rows.min()) * size, width, height)
        elif len(rows):
            yield block


def _targets(job: SlideJob, block: Region) -> NDArray[np.bool_]:
    """Which targets of a block are predicted."""
    size = job.grid.spec.size_px
    return job.area.targets[block.y // size : block.bottom // size, block.x // size : block.right // size]


def _place(pixels: dict[str, NDArray[np.uint8]], found: BlockPrediction, block: Region, strip: Region) -> None:
    """Puts a block into the pixels of its strip."""
    part = block.intersection(strip)
    assert part is not None
    for kind, array in found.arrays().items():
        y = part.y - strip.y
        pixels[kind][..., y : y + part.height, part.x : part.right] = array[..., : part.height, : part.width]


def _erase(pixels: NDArray[np.uint8], place: Region, strip: Region, downsample: float) -> None:
    """Takes a region in level-0 px away from the pixels of a strip in grid px."""
    x, y = floor(place.x / downsample), floor(place.y / downsample)
    lost = Region(x, y, ceil(place.right / downsample) - x, ceil(place.bottom / downsample) - y).intersection(strip)
    if lost is not None:
        pixels[..., lost.y - strip.y : lost.bottom - strip.y, lost.x - strip.x : lost.right - strip.x] = UNLABELLED
