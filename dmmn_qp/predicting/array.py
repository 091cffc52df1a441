"""Pixels in memory -> labels in memory, in the same blocks as a slide's."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.folders.model import ModelCard, load_model
from dmmn_qp.networks.devices import choose_devices, computing
from dmmn_qp.networks.stem import Stemmed
from dmmn_qp.predicting.inference import BlockPrediction
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import Predictor, choose_context, make_predictor
from dmmn_qp.predicting.slide import MOST_DECODERS, predict_blocks
from dmmn_qp.regions import Region
from dmmn_qp.slides.array_slide import NAME, ArraySlide
from dmmn_qp.slides.once import FieldReader


def predict_pixels(
    pixels: ArrayLike, mpp: float, model: Path | tuple[ModelCard, Stemmed], options: PredictOptions
) -> BlockPrediction:
    """Predicts all of an array, to the labels that a slide of one level with these pixels would have.

    Args:
        pixels: (rows, columns, 3) uint8 RGB; outside is what is outside a slide.
        mpp: um/px.
        model: The model's folder, or its card and network; the network stays as and where it is.
        options: How to predict; those of areas, polygons and several devices have no effect.

    Returns:
        What the model predicts, on the grid of its finest magnification.

    Raises:
        SlideError: The array is none of RGB bytes.
        PixelSizeError: The pixel size is implausible, or too coarse for the model.
        ModelError: The model is missing or damaged, or cannot see its context as asked.
        ConfigError: The device is not there.
    """
    slide = ArraySlide(pixels, mpp)
    predictor = _predictor(model, options)
    grid = predictor.card.patch_spec.grid_of(slide.info.mpp, NAME)
    size = grid.spec.size_px
    rows, columns = grid.shape(slide.info.width, slide.info.height)
    whole = Region(0, 0, -(-columns // size) * size, -(-rows // size) * size)
    blocks = list(whole.tiles(predictor.block_targets * size, predictor.block_columns * size))
    layout = predictor.layout((rows, columns))
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = {}
    fields, workers = [predictor.fields(grid, block, layout) for block in blocks], options.workers
    seen = predictor.card.input
    with (
        computing(options.threads),
        FieldReader(
            lambda: slide, grid, fields, seen.reduction, workers or min(MOST_DECODERS, available_cores()), seen.beyond
        ) as reader,
    ):
        targets = [np.ones((block.height // size, block.width // size), np.bool_) for block in blocks]
        for block, found in predict_blocks(zip(blocks, targets, reader, strict=True), [predictor], layout):
            height, width = min(block.bottom, rows) - block.y, min(block.right, columns) - block.x
            for kind, values in found.arrays().items():
                if kind not in arrays:
                    arrays[kind] = np.zeros((*values.shape[:-2], rows, columns), np.uint8)
                arrays[kind][..., block.y : block.y + height, block.x : block.x + width] = values[..., :height, :width]
    return BlockPrediction(
        labels=arrays["labels"],
        confidence=arrays.get("confidence"),
        probabilities=arrays.get("probabilities"),
        entropy=arrays.get("entropy"),
    )


def _predictor(model: Path | tuple[ModelCard, Stemmed], options: PredictOptions) -> Predictor:
    """The model on one device; of a network in memory a copy, on the same device unless the options name one."""
    if isinstance(model, Path):
        card, network = load_model(model)
        (device,) = choose_devices(options.device, 1)
    else:
        card, network = model[0], copy.deepcopy(model[1]).eval()
        here = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        device = here if options.device == "auto" else choose_devices(options.device, 1)[0]
    return make_predictor(card, network, device, choose_context(network, card.patch_spec, options.context), options)
