"""How a slide is predicted: the scheme of the authors' loop, targets for themselves, and targets that share contexts.

    python -m benchmarks.prediction [--slide FILE] [--model FOLDER] [--width 32] [--side 4096] [--device cuda]

In one run, on the same slide with the same weights: time to read and prepare, time to compute, targets a second, ratios
to the first row, agreement of the labels with "patch, fp32", peak memory so far. The authors' loop takes every n-th
pixel, so it agrees only where the model wants that too. Without a slide it draws one with JPEG tiles and a pyramid;
without a model the weights are random, which is the pessimistic end for agreement.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import tifffile
import torch
from scipy import ndimage

from dmmn_qp import prediction
from dmmn_qp.checkpoint import InputConvention, ModelCard, NetworkOptions, load_model
from dmmn_qp.devices import autocast, choose_device, network_inputs, predicted_labels
from dmmn_qp.prediction import Predictor, predict_blocks, shares_contexts
from dmmn_qp.rasterize import LabelArray
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap, PatchSpec

SIZE, FIELD = 256, 1024


def draw_slide(path: Path, side: int) -> Path:
    """A slide like tissue in what matters here: blobs, texture and JPEG tiles, levels 1, 1/4 and 1/16."""
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(size=(side // 16, side // 16, 3)), (6, 6, 0))
    blobs = np.kron(coarse / coarse.std(), np.ones((16, 16, 1)))
    pixels = np.clip(190 + 30 * blobs + rng.normal(0, 14, blobs.shape), 0, 255).astype(np.uint8)
    options = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for step in (1, 4, 16):
            level = pixels.reshape(side // step, step, side // step, step, 3).mean(axis=(1, 3)).astype(np.uint8)
            per_cm = 20_000 / step
            file.write(level, resolution=(per_cm, per_cm), resolutionunit=3, subfiletype=int(step > 1), **options)
    return path


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("read", "compute"), 0.0)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts the time of a block."""
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start


def authors_loop(path: Path, model: Predictor, watch: Stopwatch) -> LabelArray:
    """Batch 1, fp32, contiguous: a read of 1024 px at level 0 for each target, then every 2nd and 4th pixel of it."""
    slide = openslide.OpenSlide(str(path))
    columns, rows = slide.dimensions
    found = np.zeros((rows, columns), np.uint8)
    network = model.network.to(memory_format=torch.contiguous_format)
    for y in range(0, rows, SIZE):
        for x in range(0, columns, SIZE):
            with watch.on("read"):
                corner = (x - (FIELD - SIZE) // 2, y - (FIELD - SIZE) // 2)
                field = np.asarray(slide.read_region(corner, 0, (FIELD, FIELD)).convert("RGB"))
                images = []
                for step in (1, 2, 4):
                    side = SIZE * step
                    start = (FIELD - side) // 2
                    images.append(field[start : start + side, start : start + side][::step, ::step])
                batch = torch.from_numpy(np.stack(images)[None]).permute(0, 1, 4, 2, 3)
                inputs = [t.contiguous() for t in network_inputs(batch, model.card.input, model.device)]
            with watch.on("compute"), torch.inference_mode():
                labels = predicted_labels(network(inputs), len(model.card.class_map))[0].cpu().numpy()
            part = found[y : y + SIZE, x : x + SIZE]
            part[:] = labels[: part.shape[0], : part.shape[1]]
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def ours(path: Path, model: Predictor, watch: Stopwatch) -> LabelArray:
    """`predict_blocks`; reading is what it waits for, since the next block is read meanwhile."""
    with open_slide(path) as slide:
        grid = model.card.patch_spec.grid_of(slide.info.mpp)
        found = np.zeros(grid.shape(slide.info.width, slide.info.height), np.uint8)
        compute = prediction._predict_block

        def timed(*args: object) -> LabelArray:
            with watch.on("compute"):
                return compute(*args)  # type: ignore[arg-type]

        prediction._predict_block = timed  # type: ignore[assignment]
        start = time.perf_counter()
        for block, labels in predict_blocks(slide, grid, model):
            part = found[block.y : block.bottom, block.x : block.right]
            part[:] = labels[: part.shape[0], : part.shape[1]]
        watch.seconds["read"] = time.perf_counter() - start - watch.seconds["compute"]
        prediction._predict_block = compute
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--side", type=int, default=4096, help="of the slide that is drawn, in px")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    given = parser.parse_args()
    device = choose_device(given.device)
    if given.model:
        card, network = load_model(given.model)
    else:
        classes = ClassMap.from_colors([(f"class {i}", (40 * i, 0, 0)) for i in range(6)])
        kind = NetworkOptions(architecture="dmmn-m3", width=given.width)
        card = ModelCard(
            name="random",
            network=kind,
            class_map=classes,
            patch_spec=PatchSpec(),
            input=InputConvention(channels="BGR", reduction="decimate"),
            created="now",
        )
        torch.manual_seed(0)
        network = card.build().eval()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory() as folder:
        path = given.slide or draw_slide(Path(folder) / "drawn.tif", given.side)
        base = Predictor(card, network, device, batch_size=16 if device.type == "cuda" else 4)
        rows = [("authors' loop, fp32", authors_loop, base)]
        for shared in (False, True):
            if shared and not shares_contexts(network, card.patch_spec, "auto"):
                continue
            for bf16 in (False, True):
                name = f"{'shared' if shared else 'patch'}, {'bf16' if bf16 else 'fp32'}"
                rows.append((name, ours, replace(base, shared=shared, bf16=bf16)))
        print(f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}, {card.network}")
        print(f"{'':<22}{'read s':>9}{'compute s':>11}{'targets/s':>11}{'ratio':>8}{'agreement':>11}{'peak MiB':>10}")
        with autocast(device, False), torch.inference_mode():
            network([torch.zeros(1, 3, SIZE, SIZE, device=device) for _ in card.patch_spec.mpps])  # warms up
        done = []
        for name, run, model in rows:
            watch = Stopwatch()
            found = run(path, model, watch)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            done.append((name, found, watch.seconds, peak))
        by_name = {name: found for name, found, _, _ in done}
        first = sum(done[0][2].values())
        for name, found, seconds, peak in done:
            total = sum(seconds.values())
            print(
                f"{name:<22}{seconds['read']:>9.2f}{seconds['compute']:>11.2f}{found.size / SIZE**2 / total:>11.2f}"
                f"{first / total:>8.2f}{(found == by_name['patch, fp32']).mean():>11.5f}{peak:>10.0f}"
            )


if __name__ == "__main__":
    main()
