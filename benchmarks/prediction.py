"""How a slide is predicted: the scheme of the authors' loop, targets for themselves, and targets that share contexts.

    python -m benchmarks.prediction [--slide FILE] [--model FOLDER] [--width 32] [--side 8192 | --paper] ...

In one run, on the same slide with the same weights, each way in a process of its own: seconds from the slide to the
label raster on disk by the clock and of the processor, and what they were spent on. Reading is processor time of all
threads, so it may exceed what the network waited; preparing is turning bytes into the network's input. Then targets a
second, the ratio to the first row by the clock and by processor time, agreement of the labels with "patch, fp32", and
the peak of resident memory.

The authors' loop takes every n-th pixel, so it agrees only where the model wants that too. Without a slide one with
JPEG tiles and a pyramid is drawn, with --paper of the size of the paper's (53,711 x 38,380 px; the authors' loop is
then left out). Without a model the weights are random, which is the pessimistic end for agreement. With --truth PNG
(labels of the slide) the mIoU of each way is printed too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
import torch
from PIL import Image
from rich.console import Console
from scipy import ndimage

from dmmn_qp.choices import Device
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ModelError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import ModelCard, NetworkOptions, load_model, save_model
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.networks.conventions import InputConvention, network_inputs, predicted_labels
from dmmn_qp.networks.devices import choose_bf16, choose_device
from dmmn_qp.outputs.pyramids import write_label_pyramid
from dmmn_qp.predicting import inference
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import choose_context, load_predictors
from dmmn_qp.predicting.slide import begin_slide, predict_strips
from dmmn_qp.predicting.strips import StripStore
from dmmn_qp.regions import Region
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import ClassMap, PatchSpec

SIZE, FIELD = 256, 1024
PAPER = (53_711, 38_380)
DRAWN = 4096
"""Side of what is drawn; a larger slide repeats it."""

AUTHORS = "authors' loop, fp32"
REFERENCE = "patch, fp32"
PARTS = ("read", "prepare", "forward", "write")
WIDTH = 10


def draw_slide(path: Path, width: int, height: int) -> Path:
    """A slide like tissue in what matters here: blobs, texture and JPEG tiles, levels 1, 1/4 and 1/16."""
    rng = np.random.default_rng(0)
    side = min(DRAWN, -(-max(width, height) // 256) * 256)
    coarse = ndimage.gaussian_filter(rng.normal(size=(side // 16, side // 16, 3)), (6, 6, 0), mode="wrap")
    blobs = ndimage.zoom(coarse / coarse.std(), (16, 16, 1), order=1, mode="grid-wrap", grid_mode=True)
    grain = ndimage.gaussian_filter(rng.normal(0, 20, blobs.shape), (1, 1, 0), mode="wrap")
    pixels = np.clip(190 + 30 * blobs + grain, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for step in (1, 4, 16):
            level = pixels.reshape(side // step, step, side // step, step, 3).mean(axis=(1, 3)).astype(np.uint8)
            rows, columns = -(-height // step), -(-width // step)
            per_cm = 20_000 / step
            file.write(
                _tiles(level, rows, columns),
                shape=(rows, columns, 3),
                dtype=np.uint8,
                tile=(256, 256),
                compression="jpeg",
                photometric="rgb",
                resolution=(per_cm, per_cm),
                resolutionunit=3,
                subfiletype=int(step > 1),
                maxworkers=4,
            )
    return path


def _tiles(level: np.ndarray[Any, Any], rows: int, columns: int) -> Iterator[np.ndarray[Any, Any]]:
    ahead = np.pad(level, ((0, 256), (0, 256), (0, 0)), mode="wrap")
    for y in range(0, rows, 256):
        for x in range(0, columns, 256):
            top, left = y % level.shape[0], x % level.shape[1]
            yield ahead[top : top + 256, left : left + 256]


class Stopwatch:
    """Processor or clock seconds by what they were spent on, from any thread."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._lock = threading.Lock()

    def timed(self, what: str, function: Callable[..., Any], clock: Callable[[], float]) -> Callable[..., Any]:
        """The function, its time counted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds[what] += clock() - start

        return call


def decimated_fields(pixels: Any, y: int, x: int) -> list[Any]:
    """The fields around a middle in an array or a tensor, (SIZE, SIZE, 3) each: every pixel, every 2nd, every 4th."""
    steps = ((step, SIZE * step // 2) for step in (1, 2, 4))
    return [pixels[y - half : y + half : step, x - half : x + half : step] for step, half in steps]


def authors_loop(slide: Path, model: Path, device: Device, out: Path, watch: Stopwatch) -> None:
    """Batch 1, fp32, contiguous: a read of 1024 px at level 0 for each target, then every 2nd and 4th pixel of it."""
    card, network = load_model(model)
    network = network.to(choose_device(device))
    opened = openslide.OpenSlide(str(slide))
    columns, rows = opened.dimensions
    found = np.zeros((rows, columns), np.uint8)

    def read(x: int, y: int) -> np.ndarray[Any, Any]:
        corner = (x - (FIELD - SIZE) // 2, y - (FIELD - SIZE) // 2)
        return np.asarray(opened.read_region(corner, 0, (FIELD, FIELD)).convert("RGB"))

    def prepare(field: np.ndarray[Any, Any]) -> list[torch.Tensor]:
        images = decimated_fields(field, FIELD // 2, FIELD // 2)
        batch = torch.from_numpy(np.stack(images)[None]).permute(0, 1, 4, 2, 3)
        return [t.contiguous() for t in network_inputs(batch, card.input, next(network.parameters()).device)]

    def forward(inputs: list[torch.Tensor]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            return predicted_labels(network(inputs), len(card.class_map))[0].cpu().numpy()

    steps = [
        watch.timed(name, step, time.perf_counter)
        for name, step in (("read", read), ("prepare", prepare), ("forward", forward))
    ]
    for y in range(0, rows, SIZE):
        for x in range(0, columns, SIZE):
            part = found[y : y + SIZE, x : x + SIZE]
            part[:] = steps[2](steps[1](steps[0](x, y)))[: part.shape[0], : part.shape[1]]
    watch.timed("write", write_label_pyramid, time.perf_counter)(out, [found], found.shape, 0.5, card.class_map)


def ours(slide: Path, model: Path, device: Device, out: Path, watch: Stopwatch, context: str, precision: str) -> None:
    """What `dmmn-qp predict` does up to the label raster."""
    options = PredictOptions.model_validate({"context": context, "precision": precision, "device": device})
    # Timed from outside, so that the package carries no stopwatch.
    FieldReader._decode = watch.timed("read", FieldReader._decode, time.thread_time)  # type: ignore[method-assign]
    FieldReader._assemble = watch.timed("read", FieldReader._assemble, time.thread_time)  # type: ignore[method-assign]
    StripStore.write = watch.timed("write", StripStore.write, time.thread_time)  # type: ignore[method-assign]
    inference._input = watch.timed("prepare", inference._input, time.perf_counter)
    inference._Block.result = watch.timed("forward", inference._Block.result, time.perf_counter)  # type: ignore[method-assign]
    for name in ("_of_targets", "_shared_maps", "_without_borders"):
        setattr(inference, name, watch.timed("forward", getattr(inference, name), time.perf_counter))
    predictors = load_predictors(model, options)
    job = begin_slide(SlideToPredict(slide.stem, SlideView(slide)), predictors[0], out.with_suffix(".part"), options, 0)
    job.strips.begin({})
    predict_strips(job, predictors, Reporter(Console(quiet=True)), "benchmark")
    strips = (job.strips.read(strip) for strip in range(job.strips.count))
    mpp = job.info.mpp * job.grid.downsample
    watch.timed("write", write_label_pyramid, time.perf_counter)(
        out, strips, job.shape, mpp, predictors[0].card.class_map
    )
    watch.seconds["forward"] -= watch.seconds["prepare"]  # which happens inside


def peak_mib() -> float:
    """Peak resident memory of this process: getrusage would count that of its parent before it began."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def run_one(row: dict[str, Any], given: dict[str, Any], slide: Path, model: Path, out: Path) -> None:
    """One way, in this process; its figures go beside the labels."""
    watch = Stopwatch()
    warm = load_model(model)[1].to(choose_device(given["device"]))
    with torch.inference_mode():
        warm([torch.zeros(1, 3, SIZE, SIZE, device=next(warm.parameters()).device) for _ in range(warm.used)])
    start, busy = time.perf_counter(), time.process_time()
    if row["name"] == AUTHORS:
        authors_loop(slide, model, given["device"], out, watch)
    else:
        ours(slide, model, given["device"], out, watch, row["context"], row["precision"])
    figures = {
        "total": time.perf_counter() - start,
        "busy": time.process_time() - busy,
        "peak_mib": peak_mib(),
        "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
        **watch.seconds,
    }
    out.with_suffix(".json").write_text(json.dumps(figures), "utf-8")


def ways(model: Path, device: Device, *, paper: bool, chosen: list[str] | None) -> list[dict[str, Any]]:
    """What is compared: the authors' loop, and each context that the model can, in the precisions the device has."""
    card, network = load_model(model)
    rows: list[dict[str, Any]] = [] if paper else [{"name": AUTHORS}]
    precisions = ["fp32"] + (["bf16"] if choose_bf16("auto", choose_device(device)) else [])
    for context in ("patch", "blended", "shared-coarsest", "shared", "seamless"):
        try:
            choose_context(network, card.patch_spec, context)
        except ModelError:
            continue
        rows += [{"name": f"{context}, {p}", "context": context, "precision": p} for p in precisions]
    return [row for row in rows if not chosen or row["name"] in chosen]


def random_model(folder: Path, width: int) -> Path:
    """A DMMN-M3 of the paper's layers with random weights that takes what the authors' program gives it."""
    classes = ClassMap.from_colors([(f"class {i}", (40 * i, 0, 0)) for i in range(6)])
    card = ModelCard(
        name="random",
        network=NetworkOptions(architecture="dmmn-m3", width=width),
        class_map=classes,
        patch_spec=PatchSpec(),
        input=InputConvention(channels="BGR", reduction="decimate"),
        created="now",
    )
    torch.manual_seed(0)
    folder.mkdir()
    save_model(folder, card, card.build())
    return folder


def labels_of(path: Path) -> np.ndarray[Any, Any]:
    with LabelRaster(path) as raster:
        return raster.read(Region(0, 0, raster.shape[1], raster.shape[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--truth", type=Path, help="PNG of labels of the slide")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--side", type=int, default=8192, help="of the slide that is drawn, in px")
    parser.add_argument("--paper", action="store_true", help="draw a slide of the size of the paper's")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--only", nargs="*", help='names of rows, such as "shared, bf16"')
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.slide.parent if given.paper and given.slide else None) as temporary:
        folder = Path(temporary)
        model = given.model or random_model(folder / "model", given.width)
        size = PAPER if given.paper else (given.side, given.side)
        slide = given.slide or draw_slide(folder / "drawn.tif", *size)
        card, _ = load_model(model)
        print(f"{choose_device(given.device).type}, {torch.get_num_threads()} threads, torch {torch.__version__}")
        print(f"{slide.name}, {slide.stat().st_size / 2**20:.0f} MiB; {card.name}: {card.network}")
        columns = (
            "total s",
            "CPU s",
            *PARTS,
            "targets/s",
            "ratio",
            "of CPU",
            "agreement",
            "mIoU",
            "peak MiB",
            "GPU MiB",
        )
        print(f"{'':<22}" + "".join(f"{column:>{WIDTH}}" for column in columns), flush=True)
        reference: np.ndarray[Any, Any] | None = None
        late: list[tuple[str, Path]] = []
        first = first_busy = 0.0
        for row in ways(model, given.device, paper=given.paper, chosen=given.only):
            out = folder / f"{row['name'].replace(' ', '')}.tif"
            process = multiprocessing.get_context("spawn").Process(
                target=run_one, args=(row, vars(given), slide, model, out)
            )
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{row['name']} failed")
            figures = json.loads(out.with_suffix(".json").read_text("utf-8"))
            with LabelRaster(out) as raster:
                targets = raster.shape[0] * raster.shape[1] / SIZE**2
            first, first_busy = first or figures["total"], first_busy or figures["busy"]
            agreement = miou = ""
            if not given.paper:
                found = labels_of(out)
                reference = found if row["name"] == REFERENCE else reference
                agreement = "" if reference is None else f"{(found == reference).mean():.5f}"
                if given.truth:
                    truth = np.asarray(Image.open(given.truth))
                    confusion = confusion_matrix(truth, found[: truth.shape[0], : truth.shape[1]], len(card.class_map))
                    miou = f"{Metrics.from_confusion(confusion).mean_iou:.3f}"
            late.append((row["name"], out))
            cells = [f"{figures[name]:.1f}" for name in ("total", "busy", *PARTS)]
            cells += [f"{targets / figures['total']:.2f}", f"{first / figures['total']:.2f}"]
            cells += [f"{first_busy / figures['busy']:.2f}", agreement, miou]
            cells += [f"{figures['peak_mib']:.0f}", f"{figures['gpu_mib']:.0f}"]
            print(f"{row['name']:<22}" + "".join(f"{cell:>{WIDTH}}" for cell in cells), flush=True)
        if reference is not None and late and late[0][0] == AUTHORS:
            same = (labels_of(late[0][1]) == reference).mean()
            print(f"{AUTHORS} agrees with {REFERENCE} in {same:.5f} of the pixels")


if __name__ == "__main__":
    main()
