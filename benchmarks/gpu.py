"""What a GPU makes of the paper's slide: the network alone, a training step, and from the slide to QuPath's polygons.

    python -m benchmarks.gpu [--tests] [--write docs/gpu.md] [--out FOLDER] [--quick]

In one run: the device's rates (a product of large bf16 matrices, a copy); a DMMN-M3 of width 32 by itself, in targets a
second and as a part of the first rate; a training step; the authors' loop on a part of a slide; and `dmmn-qp predict`
on a drawn slide as large as the paper's (53,711 x 38,380 px, 2.06 Gpx), from its start to the label raster's last strip
and to the GeoJSON. For that the network first learns which blob is which, so that labels are regions and no noise.
``--tests`` runs the tests that need a GPU before that. ``--quick`` is small enough for a CPU; its figures are of no
worth. It is sized for less than 8 minutes of one GPU with 16 cores, but none has been at hand to see it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ledger import write_run
from benchmarks.prediction import (
    FIELD,
    PAPER,
    SIZE,
    Stopwatch,
    authors_loop,
    decimated_fields,
    draw_slide,
    random_model,
)
from benchmarks.training_step import (
    matrix_tflops,
    median_seconds,
    on_device,
    optimiser_step,
    pixels,
    seconds_per_step,
    synchronised,
)
from dmmn_qp.choices import Device
from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.model import load_model, save_model
from dmmn_qp.folders.provenance import now
from dmmn_qp.networks.conventions import network_inputs
from dmmn_qp.networks.describe import describe
from dmmn_qp.networks.devices import autocast, choose_bf16, choose_device

REPOSITORY = Path(__file__).resolve().parents[1]
CLASSES = 6


@dataclass(frozen=True, slots=True)
class Size:
    """How large everything is.

    Attributes:
        width: Base width of the network.
        slide: (columns, rows) of the slide that is predicted.
        part: Side of the slide that the authors' loop is given.
        steps: Steps in which the network learns.
        batch: Targets of a batch.
    """

    width: int = 32
    slide: tuple[int, int] = PAPER
    part: int = 4096
    steps: int = 250
    batch: int = 16


QUICK = Size(width=4, slide=(1536, 1024), part=1024, steps=2, batch=2)


def copy_tb_per_s(device: torch.device) -> float:
    """Rate of copying within the device's memory, what is read and what is written counted."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    start = synchronised()
    for _ in range(10):
        target.copy_(source)
    return 20 * source.numel() / (synchronised() - start) / 1e12


def blobs_of(slide: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels of the upper left of a drawn slide, and which of six hues each blob has, from 1 on."""
    with tifffile.TiffFile(slide) as file:
        pixels, coarse = (file.series[0].levels[level].asarray() for level in (0, 2))
    smooth = coarse.astype(np.float32) - coarse.mean((0, 1), dtype=np.float32)
    hues = np.concatenate([smooth, -smooth], 2).argmax(2) + 1
    truth = hues.repeat(16, 0).repeat(16, 1)[: pixels.shape[0], : pixels.shape[1]]
    return pixels[: truth.shape[0], : truth.shape[1]], truth.astype(np.int64)


def learn(model: Path, slide: Path, size: Size, device: torch.device) -> None:
    """Teaches the network which blob is which, in its own folder."""
    card, network = load_model(model)
    network = on_device(network, device).train()
    seen, truth = (torch.from_numpy(array).to(device) for array in blobs_of(slide))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)
    weights, bf16 = torch.ones(CLASSES, device=device), choose_bf16("auto", device)
    for fields, labels in _batches(seen, truth, size):
        optimiser_step(network, optimizer, network_inputs(fields, card.input, device), labels, weights, bf16)
    save_model(model, card, network.eval())


def _batches(seen: Tensor, truth: Tensor, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    rng, near, half = np.random.default_rng(0), FIELD // 2, SIZE // 2
    for _ in range(size.steps):
        middles = [rng.integers(near, [side - near + 1 for side in truth.shape]) for _ in range(size.batch)]
        fields = torch.stack([torch.stack(decimated_fields(seen, y, x)) for y, x in middles])
        labels = torch.stack([truth[y - half : y + half, x - half : x + half] for y, x in middles])
        yield fields.permute(0, 1, 4, 2, 3), labels


def targets_per_s(model: Path, device: torch.device, batch: int) -> float:
    """The network alone, each target with fields of its own."""
    _, network = load_model(model)
    network, images = on_device(network, device), [pixels(batch, device)] * 3
    with torch.inference_mode(), autocast(device, choose_bf16("auto", device)):
        return batch / median_seconds(lambda: network(images), 5)


def predict(slide: Path, model: Path, out: Path, device: Device) -> tuple[float, float]:
    """Seconds of `dmmn-qp predict` as a whole process, and of these until the last strip of labels."""
    command = [sys.executable, "-m", "dmmn_qp", "predict", str(slide), "--model", str(model), "--out", str(out)]
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([*command, "--whole-slide", "--device", device], check=True, env=environment)
    whole = time.perf_counter() - start
    return whole, json.loads((out / RUN_FILE).read_text("utf-8"))["predictions"][slide.stem]["seconds"]


def rows(size: Size, wanted: Device, folder: Path) -> Iterator[tuple[str, str]]:
    """What is measured, and its figure, as it becomes known."""
    device = choose_device(wanted)
    peak = matrix_tflops(device, bf16=choose_bf16("auto", device))
    yield "product of large matrices", f"{peak:.3g} TFLOP/s"
    yield "copy within its memory", f"{copy_tb_per_s(device):.2f} TB/s"
    model = random_model(folder / "model", size.width)
    gflop = describe("dmmn-m3", classes=CLASSES, width=size.width).gflop_per_target
    rate = targets_per_s(model, device, size.batch)
    share = rate * gflop / 1000 / peak
    yield "network alone, batches of targets", f"{rate:.0f} targets/s, {100 * share:.0f} % of the product's rate"
    if size == Size():
        step = seconds_per_step(size.batch, device, choose_bf16("auto", device), 10)
        yield f"training step, {size.batch} targets", f"{1000 * step:.0f} ms, {size.batch / step:.0f} targets/s"
    part = draw_slide(folder / "part.tif", size.part, size.part)
    learn(model, part, size, device)
    watch, start = Stopwatch(), time.perf_counter()
    authors_loop(part, model, wanted, folder / "authors.tif", watch)
    authors = (size.part / SIZE) ** 2 / (time.perf_counter() - start)
    yield f"the authors' loop, {size.part} px square", f"{authors:.1f} targets/s"
    slide = draw_slide(folder / "slide.tif", *size.slide)
    whole, labels = predict(slide, model, folder / "out", wanted)
    targets = size.slide[0] * size.slide[1] / SIZE**2
    yield "slide to labels", f"{labels:.1f} s, {targets / labels / authors:.0f} times the authors' loop"
    objects = len(json.loads((folder / "out" / "slide.geojson").read_text("utf-8"))["features"])
    yield "`dmmn-qp predict`, slide to GeoJSON", f"{whole:.1f} s, {objects:,} objects"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU first")
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    parser.add_argument("--out", type=Path, help="folder for run.json, which dmmn-qp reproduce checks for drift")
    parser.add_argument("--quick", action="store_true", help="small enough for a CPU; no figures of worth")
    given = parser.parse_args()
    started = now()
    device, size = choose_device(given.device), QUICK if given.quick else Size()
    if given.tests:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], check=True, cwd=REPOSITORY)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    lines = [f"{name}, {os.cpu_count()} cores, torch {torch.__version__}; width {size.width}, "
             f"{size.slide[0]:,} x {size.slide[1]:,} px", "", "| what | figure |", "|---|---|"]  # fmt: skip
    print("\n".join(lines), flush=True)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, figure in rows(size, given.device, Path(folder)):
            lines.append(f"| {what} | {figure} |")
            print(lines[-1], flush=True)
            figures[what] = float(figure.split()[0].replace(",", ""))
    if given.out is not None:
        write_run(given.out, "gpu", given, figures, started)
    if given.write is not None:
        given.write.write_text("# On a GPU\n\n`python -m benchmarks.gpu`\n\n" + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
