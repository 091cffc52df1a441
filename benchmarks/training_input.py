"""How fast training patches are read and changed, in one process. Prints tables; read the ratios, not the seconds.

The straightforward loader reads 1024 x 1024 px at level 0 through OpenSlide for each patch, deforms and turns them
with SciPy, and cuts and decimates the magnifications. Ours draws the same kind of change from the project's loader.
Work alternates between the two, and processor time is compared, so that a busy machine hurts both alike.

Usage, from the repository: python -m benchmarks.training_input [DATASET] [PATCHES] [STEPS]
Without a dataset, the demo is imported. STEPS > 0 also trains a network of width 32 and tells how long it waits.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's; torch has its own
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import io
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from openslide import OpenSlide
from rich.console import Console
from scipy.ndimage import map_coordinates

from dmmn_qp.console import Reporter
from dmmn_qp.engines.cores import available_cores
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.stage import import_annotations
from dmmn_qp.labels.draws import Draw, shuffled_draws
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks import build_network
from dmmn_qp.networks.conventions import InputConvention, network_inputs
from dmmn_qp.networks.losses import partial_cross_entropy
from dmmn_qp.regions import Region
from dmmn_qp.training.augment import Augmentation, AugmentRules
from dmmn_qp.training.augment.warp import node_weights
from dmmn_qp.training.examples import EpochDraws, PatchExamples
from dmmn_qp.training.reading import Batches

DEMO = Path(__file__).parents[1] / "examples" / "demo" / "project.qpproj"
SIZE, WIDEST = 256, 1024
RULES = AugmentRules("paper")
BATCH = 4


class Loader(Protocol):
    """Gives what a draw says."""

    def __getitem__(self, draw: Draw) -> object: ...


class Straightforward:
    """The loader that ours is compared with: one patch of 1024 px after the other."""

    def __init__(self, dataset: Dataset, patches: list[PatchRef]) -> None:
        self._patches = patches
        self._slides = {}
        for slide_id in {patch.slide_id for patch in patches}:
            record = dataset.record(slide_id)
            assert dataset.patch_spec.grid_of(record.mpp).downsample == 1, (
                "its level 0 must be the finest magnification"
            )
            self._slides[slide_id] = OpenSlide(dataset.locate(record)), LabelRaster(dataset.mask_path(slide_id))

    def __getitem__(self, draw: Draw) -> tuple[list[np.ndarray], np.ndarray]:
        patch = self._patches[draw.patch]
        slide, mask = self._slides[patch.slide_id]
        x, y = patch.x - 384, patch.y - 384
        pixels = np.asarray(slide.read_region((x, y), 0, (WIDEST, WIDEST)).convert("RGB"))
        labels = mask.read(Region(x, y, WIDEST, WIDEST))
        warp = Augmentation.draw(np.random.default_rng(draw.seed), RULES, SIZE, 3, deformed=True).warp
        weights = node_weights(WIDEST, 0, 1)
        about_centre = np.arange(WIDEST) + 0.5 - WIDEST / 2
        columns = about_centre + weights @ warp.nodes_px[0] @ weights.T
        rows = about_centre[:, None] + weights @ warp.nodes_px[1] @ weights.T
        places = np.einsum("ij,jyx->iyx", warp.matrix, np.stack([columns, rows])) + WIDEST / 2 - 0.5
        warped = np.stack([map_coordinates(pixels[..., c], places[::-1], order=1) for c in range(3)], axis=-1)
        moved = map_coordinates(labels, places[::-1], order=0)
        fields = [warped[384:640, 384:640], warped[::2, ::2][128:384, 128:384], warped[::4, ::4]]
        return fields, moved[384:640, 384:640]


def loaders(dataset: Dataset, patches: list[PatchRef], count: int) -> None:
    """Both loaders, patch by patch in turn."""
    plain = shuffled_draws(len(patches), count, seed=0, epoch=1)
    deformed = [replace(draw, deformed=True) for draw in plain]
    ours = PatchExamples(dataset, patches, augment=RULES)
    nothing_kept = PatchExamples(dataset, patches, augment=RULES, cache_bytes=1)
    unchanged = PatchExamples(dataset, patches, augment=None)
    loaders: list[tuple[str, Loader, list[Draw]]] = [
        ("straightforward: 1024 px, OpenSlide, SciPy", Straightforward(dataset, patches), deformed),
        ("ours, no tile kept", nothing_kept, deformed),
        ("ours, first pass", ours, deformed),
        ("ours, second pass", ours, deformed),
        ("ours, second pass, not deformed", ours, plain),
        ("patches as they are, first pass", unchanged, plain),
        ("patches as they are, second pass", unchanged, plain),
    ]
    for loader in (loaders[0][1], nothing_kept):
        loader[deformed[0]]  # libraries are loaded, slides opened
    seconds = [0.0] * len(loaders)
    for passing in (slice(0, 3), slice(3, None)):
        for i in range(count):
            for k, (_, loader, draws) in list(enumerate(loaders))[passing]:
                start = time.process_time()
                loader[draws[i]]
                seconds[k] += time.process_time() - start
    for (name, _, _), spent in zip(loaders, seconds, strict=True):
        milliseconds = 1000 * spent / count
        print(f"  {name:<46}{milliseconds:>9.2f} ms{1000 / milliseconds:>9.1f} /s   x {seconds[0] / spent:.1f}")


def waiting(dataset: Dataset, patches: list[PatchRef], steps: int) -> None:
    """A few steps of the paper's network, and how much of the time it waits for its batch."""
    network = build_network("dmmn-m3", classes=len(dataset.class_map), width=32, magnifications=3, size_px=SIZE)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=5e-5, momentum=0.99)
    draws = [Draw(d.patch, d.seed, deformed=True) for d in shuffled_draws(len(patches), (steps + 1) * BATCH, 0, 1)]
    workers = min(1, available_cores() - 1)
    batches = iter(Batches(PatchExamples(dataset, patches, augment=RULES), EpochDraws(lambda _: draws), BATCH, workers))
    waited, started = 0.0, 0.0
    weights = torch.ones(len(dataset.class_map))
    for step in range(steps + 1):
        asked = time.perf_counter()
        batch = next(batches)
        if step == 0:  # workers start, slides open
            started = time.perf_counter()
        else:
            waited += time.perf_counter() - asked
        images = network_inputs(batch.images, InputConvention(), torch.device("cpu"))
        loss = partial_cross_entropy(network(images), batch.targets[:, 0].long(), weights, "patch")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole = time.perf_counter() - started
    print(f"  {steps} steps of {BATCH} patches, {workers} worker, {torch.get_num_threads()} threads")
    print(f"  {whole / (steps + 1):.2f} s a step, {waited / whole:.2%} of it waiting for the batch")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            dataset = Dataset(Path(sys.argv[1]))
        else:
            out = Path(folder) / "dataset"
            import_annotations(DEMO, out, ImportOptions(), Reporter(Console(file=io.StringIO())))
            dataset = Dataset(out)
        count = int(sys.argv[2]) if len(sys.argv) > 2 else 100
        steps = int(sys.argv[3]) if len(sys.argv) > 3 else 0
        patches = [patch for patch in dataset.patches() if patch.split == "train"]
        slides = len({patch.slide_id for patch in patches})
        print(f"{count} draws of {len(patches)} patches on {slides} slides, processor time per patch")
        loaders(dataset, patches, count)
        if steps:
            print("\ntraining DMMN-M3, width 32, fp32, full resolution")
            waiting(dataset, patches, steps)


if __name__ == "__main__":
    main()
