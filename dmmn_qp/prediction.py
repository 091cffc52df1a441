"""`dmmn-qp predict`: a model and slides -> label rasters and QuPath polygons (paper, section 2.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmmn_qp.architectures.blocks import LEVELS
from dmmn_qp.architectures.stem import Stemmed
from dmmn_qp.checkpoint import ModelCard, load_model
from dmmn_qp.choices import Context
from dmmn_qp.config import PredictOptions
from dmmn_qp.dataset import LABELS_SUFFIX, Dataset, SlideRecord, create_label_raster
from dmmn_qp.devices import autocast, choose_bf16, choose_device, network_input, predicted_labels
from dmmn_qp.errors import ModelError, OutputExistsError, SlideError
from dmmn_qp.outputs import RUN_FILE, new_file, write_json
from dmmn_qp.predictions import INPUTS, PredictedInput, merged_inputs
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.rasterize import LabelArray
from dmmn_qp.regions import Region
from dmmn_qp.reporting import Reporter
from dmmn_qp.slides import RgbArray, Slide, fingerprint, is_slide_folder, list_slides, open_slide, read_field
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.transformed import Change
from dmmn_qp.specs import PatchGrid, PatchSpec
from dmmn_qp.writers import WRITERS, PredictedSlide

BLOCK_TARGETS = 8
"""Side of a block in targets: what is read, predicted and written at a time."""

SHARED_BLOCK_TARGETS = 4
"""The same where targets share contexts: the maps of a block must fit into memory, and better into caches."""


@dataclass(frozen=True, slots=True)
class SlideToPredict:
    """A slide to predict.

    Attributes:
        slide_id: Its name in file names.
        path: The file.
        mpp: um/px where it is known better than from the file.
        crop_to_bounds: Whether QuPath's frame starts at the scanned bounds.
        frame: Crops and turns that QuPath puts around the file, the one next to the file first.
    """

    slide_id: str
    path: Path
    mpp: float | None = None
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model ready to predict.

    Attributes:
        card: Its card.
        network: In evaluation mode, on the device.
        device: Where to compute.
        bf16: Whether in bf16.
        batch_size: Targets per forward pass.
        shared: Whether the coarser branches are computed once for a block, see `shares_contexts`.
    """

    card: ModelCard
    network: Stemmed
    device: torch.device
    bf16: bool = False
    batch_size: int = 4
    shared: bool = False


def slides_to_predict(
    names: Sequence[str], dataset_folder: Path, slides_roots: Sequence[SlidesRoot] = ()
) -> list[SlideToPredict]:
    """Resolves what the user named: slides, folders of them, names of the dataset, or nothing for all of it.

    Raises:
        SlideError: A slide is neither a file nor in the dataset, or two have the same name.
        DatasetError: No slide is named and there is no dataset.
    """
    dataset = Dataset(dataset_folder) if not names or (dataset_folder / "dataset.json").is_file() else None
    records = {r.slide_id: r for r in dataset.slides()} if dataset else {}
    by_path: dict[Path, list[SlideRecord]] = {}
    for record in records.values():
        by_path.setdefault(Path(record.path), []).append(record)
    chosen: list[SlideToPredict] = []
    for name in _files_of(names) or records:
        path = Path(name)
        is_slide = path.is_file() or is_slide_folder(path)
        known_as = by_path.get(path.resolve(), []) if is_slide else [records[name]] if name in records else []
        if len(known_as) > 1:
            ids = ", ".join(record.slide_id for record in known_as)
            raise SlideError(
                f'slide "{name}" is in the dataset as {ids}, each with a frame of its own; name one of these'
            )
        if known_as and dataset is not None:
            (known,) = known_as
            located = path if is_slide else dataset.locate(known, slides_roots)
            chosen.append(SlideToPredict(known.slide_id, located, known.mpp, known.crop_to_bounds, known.frame))
        elif is_slide:
            chosen.append(SlideToPredict(path.name if path.is_dir() else path.stem, path))
        else:
            others = f"; the dataset has {', '.join(records)}" if records else ""
            raise SlideError(f'slide "{name}" does not exist; check the path{others}')
    seen: dict[str, Path] = {}
    for slide in chosen:
        if slide.slide_id in seen:
            raise SlideError(
                f'slides "{seen[slide.slide_id]}" and "{slide.path}" would both be written as "{slide.slide_id}"; '
                "predict them in two runs with different --out"
            )
        seen[slide.slide_id] = slide.path
    return chosen


def _files_of(names: Sequence[str]) -> list[str]:
    """The names, each folder replaced by the slides in it."""
    files: list[str] = []
    for name in names:
        folder = Path(name)
        many = folder.is_dir() and not is_slide_folder(folder)
        slides = [str(path) for path in list_slides(folder)] if many else [name]
        if not slides:
            raise SlideError(f'folder "{name}" holds no slide; check the path')
        files += slides
    return files


def predict(
    model_folder: Path,
    slides: Sequence[SlideToPredict],
    out: Path,
    options: PredictOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Predicts slides one after the other.

    Args:
        model_folder: The model.
        slides: The slides.
        out: Folder to write into; other slides' predictions in it are left alone.
        options: Resolved options.
        reporter: Where to report.
        overwrite: Whether predictions of these slides may be replaced.

    Returns:
        The GeoJSON files.

    Raises:
        ModelError: The model is missing or damaged.
        SlideError: A slide cannot be read; PixelSizeError where the model does not fit its magnification.
        OutputExistsError: A slide has been predicted already.
    """
    started = now()
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    done = [s.slide_id for s in slides if (out / f"{s.slide_id}.geojson").exists()]
    if done and not overwrite:
        raise OutputExistsError(
            f'output folder "{out}" exists and holds predictions of {", ".join(done)}; pass --overwrite to replace '
            "them or choose another with --out"
        )
    model = load_predictor(model_folder, options)
    card = model.card
    for slide in slides:  # every slide is looked at before the first is predicted
        with _open(slide, options) as opened:
            card.patch_spec.grid_of(opened.info.mpp, slide.slide_id)
    run = describe_run(
        "predict", {**options.model_dump(mode="json"), "model": str(model_folder)}, started, device=str(model.device)
    )
    reporter.heading(f"Predicting {len(slides)} slides with {card.name} on {model.device.type}")
    if card.licence:
        reporter.say(f"  licence of the model: {card.licence}")
    if card.attribution:
        reporter.say(f"  {card.attribution}")
    written: list[Path] = []
    inputs: dict[str, PredictedInput] = {}
    for slide in slides:
        with _open(slide, options) as opened:
            inputs[slide.slide_id] = input_of(slide, opened)
            written.append(_predict_one(slide, opened, model, out, run, reporter))
    told = {"slides": [s.slide_id for s in slides], INPUTS: merged_inputs(out, inputs)}
    write_json(out / RUN_FILE, {**run, "finished": now(), **told})
    return written


def input_of(target: SlideToPredict, slide: Slide | None = None) -> PredictedInput:
    """What is told of a slide beside its prediction; its size once it is open."""
    return PredictedInput(
        path=str(target.path.resolve()).encode("utf-8", "backslashreplace").decode(),
        fingerprint=fingerprint(target.path),
        width=slide.info.width if slide else None,
        height=slide.info.height if slide else None,
        crop_to_bounds=target.crop_to_bounds,
        frame=target.frame,
    )


def load_predictor(model_folder: Path, options: PredictOptions) -> Predictor:
    """Reads a model and makes it ready on the device that the options ask for.

    Raises:
        ModelError: The model is missing or damaged, or cannot share contexts as asked.
        ConfigError: The device is not there.
    """
    card, network = load_model(model_folder)
    device = choose_device(options.device)
    return Predictor(
        card=card,
        network=network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        device=device,
        bf16=choose_bf16(options.precision, device),
        batch_size=options.batch_size,
        shared=shares_contexts(network, card.patch_spec, options.context),
    )


def _open(slide: SlideToPredict, options: PredictOptions) -> Slide:
    return open_slide(
        slide.path,
        project_mpp=slide.mpp,
        user_mpp=options.mpp,
        crop_to_bounds=slide.crop_to_bounds,
        frame=slide.frame,
    )


def _predict_one(
    target: SlideToPredict, slide: Slide, model: Predictor, out: Path, run: dict[str, Any], reporter: Reporter
) -> Path:
    """Predicts one slide and writes its files; returns its GeoJSON."""
    info, card = slide.info, model.card
    grid = card.patch_spec.grid_of(info.mpp, target.slide_id)
    labels_path = out / f"{target.slide_id}.{LABELS_SUFFIX}"
    predicted = PredictedSlide(
        slide=slide,
        slide_id=target.slide_id,
        fingerprint=fingerprint(target.path),
        labels=labels_path,
        downsample=grid.downsample,
        class_map=card.class_map,
        model_name=card.name,
        model_run=str(card.provenance.get("run_id", card.name)),
        run_id=run["run_id"],
    )
    rows, columns = grid.shape(info.width, info.height)
    size = card.patch_spec.size_px
    n_targets = -(-rows // size) * -(-columns // size)
    with (
        reporter.task(target.slide_id, n_targets) as task,
        new_file(labels_path) as temporary,
        create_label_raster(temporary, (rows, columns), card.class_map) as raster,
    ):
        for block, labels in predict_blocks(slide, grid, model):
            raster.write(block, labels)
            task.advance(block.width * block.height // size**2)
    for suffix, write in WRITERS.items():
        write(out / f"{target.slide_id}.{suffix}", predicted)
    reporter.say(f"  {target.slide_id}: {columns} x {rows} px at {card.patch_spec.mpps[0]:g} um/px")
    return out / f"{target.slide_id}.geojson"


def shares_contexts(network: Stemmed, spec: PatchSpec, wanted: Context) -> bool:
    """Whether neighbouring targets share the work of the coarser branches.

    Targets must then lie on whole pixels of every map, poolings included, of every branch.

    Raises:
        ModelError: It is asked for, and the network cannot.
    """
    pixel = 2 ** (LEVELS - 1) * network.factor
    can = network.shares_contexts and all((spec.size_px >> m) % pixel == 0 for m in range(1, len(spec.mpps)))
    if wanted == "shared" and not can:
        raise ModelError(
            "this model's coarser branches cannot be shared (it has none of their own, or its patches do not fall on "
            "their pixels); pass --context patch"
        )
    return can and wanted != "patch"


def predict_blocks(slide: Slide, grid: PatchGrid, model: Predictor) -> Iterator[tuple[Region, LabelArray]]:
    """Predicts a slide in blocks of targets, row by row; the next block is read while one is predicted.

    Every pixel of the slide is predicted. What lies outside the slide is zero, as in the paper.

    Args:
        slide: The open slide.
        grid: The patch grid on it.
        model: The model.

    Yields:
        (block in grid pixels, labels (block.height, block.width) uint8 >= 1); blocks at the right and bottom border
        may leave the slide.
    """
    rows, columns = grid.shape(slide.info.width, slide.info.height)
    size = grid.spec.size_px
    whole = Region(0, 0, -(-columns // size) * size, -(-rows // size) * size)
    blocks = list(whole.tiles((SHARED_BLOCK_TARGETS if model.shared else BLOCK_TARGETS) * size))

    def read(block: Region) -> list[RgbArray]:
        return [
            read_field(slide, grid, m, grid.field(block, m), model.card.input.reduction)
            for m in range(len(grid.spec.mpps))
        ]

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, blocks[0])
        for i, block in enumerate(blocks):
            fields = ahead.result()
            if i + 1 < len(blocks):
                ahead = reader.submit(read, blocks[i + 1])
            with torch.inference_mode(), autocast(model.device, model.bf16):
                labels = _predict_block(block, fields, size, model)
            yield block, labels


def _predict_block(block: Region, fields: Sequence[RgbArray], size: int, model: Predictor) -> LabelArray:
    """Labels of a block from its fields, target by target in batches."""
    network = model.network
    labels = np.empty((block.height, block.width), np.uint8)
    corners = [(y, x) for y in range(0, block.height, size) for x in range(0, block.width, size)]
    if model.shared:
        finest, *coarser = (_network_inputs([field], model) for field in fields)
        maps = [network.context(m, field) for m, field in enumerate(coarser, start=1)]
    for start in range(0, len(corners), model.batch_size):
        batch = corners[start : start + model.batch_size]
        if model.shared:
            images = torch.cat([finest[..., y : y + size, x : x + size] for y, x in batch])
            images = images.contiguous(memory_format=torch.channels_last)
            logits = network.from_contexts(images, _contexts_of_targets(maps, fields, batch, size))
        else:
            logits = network(
                [
                    _network_inputs([_cut(field, y >> m, x >> m, size) for y, x in batch], model)
                    for m, field in enumerate(fields)
                ]
            )  # (B, reserved + C, S, S)
        predicted = predicted_labels(logits, len(model.card.class_map)).cpu().numpy()
        for (y, x), target in zip(batch, predicted, strict=True):
            labels[y : y + size, x : x + size] = target
    return labels


def _network_inputs(pixels: Sequence[RgbArray], model: Predictor) -> Tensor:
    """Pictures (h, w, 3) uint8 as the network takes them: (B, 3, h, w) float32, channels last."""
    on_device = torch.from_numpy(np.stack(pixels)).to(model.device).permute(0, 3, 1, 2)
    return network_input(on_device, model.card.input).contiguous(memory_format=torch.channels_last)


def _contexts_of_targets(
    maps: Sequence[Sequence[Tensor]], fields: Sequence[RgbArray], corners: Sequence[tuple[int, int]], size: int
) -> list[list[Tensor]]:
    """Cuts the maps of each target's own fields out of those of the block.

    Args:
        maps: Of each coarser branch, its maps (1, channels, h, w).
        fields: The block's fields, finest first.
        corners: (row, column) of the targets in the block, in grid px.
        size: Side of a target in grid px.
    """
    contexts: list[list[Tensor]] = []
    for m, of_branch in enumerate(maps, start=1):
        cut: list[Tensor] = []
        for features in of_branch:
            pixel = fields[m].shape[0] // features.shape[-2]  # field px of a pixel of the map
            side = size // pixel
            places = [((y >> m) // pixel, (x >> m) // pixel) for y, x in corners]
            cut.append(torch.cat([features[..., y : y + side, x : x + side] for y, x in places]))
        contexts.append(cut)
    return contexts


def _cut(field: RgbArray, y: int, x: int, size: int) -> RgbArray:
    return field[y : y + size, x : x + size]
