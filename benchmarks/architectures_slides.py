"""The slides of `benchmarks.architectures`, what is drawn on them, and the datasets that this makes.

A workplace has ``slides/NAME.tif``, ``truth/TISSUE/NAME.png`` and ``datasets/KEY``; what is there is not made again.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import dmmn_qp
from benchmarks.drawn import (
    GAP_PX,
    Labels,
    TruthSlide,
    draw_share,
    write_annotations,
    write_rows,
    write_slide,
)
from benchmarks.loop_choosers import Quiet
from benchmarks.loop_tissues import EXAMPLES, crop_of, demo_generator
from dmmn_qp.folders.dataset import Dataset

TissueKey = Literal["plain", "context"]
Gap = Literal["thin", "wide"]
Scanner = Literal["same scanner", "other scanner"]
SCANNERS: tuple[Scanner, ...] = ("same scanner", "other scanner")

MPPS = (0.5, 1.0, 2.0)
"""um/px of 20x, 10x and 5x."""

Wanted = tuple[TissueKey, float, Gap, int, int]
"""What a dataset is of: its classes, the share that is drawn, how near to borders, magnifications, and the seed."""

GAPS_PX: dict[Gap, int] = {"thin": GAP_PX, "wide": 16}
"""How far inside its border an area is drawn: 1 um, or 8; between two neighbours twice that is left free."""

SPACING_PX = 150
"""About how large an area is that a hand draws in one go: 75 um."""

VALIDATION_SHARE = 0.25
"""Part of each class that is drawn on slides for validation, whatever is drawn for training."""

BESIDE_PX = 200
"""How far from carcinoma stroma is "stroma beside carcinoma": 100 um, which a target at 20x does not show."""

BESIDE = "stroma beside carcinoma"
BESIDE_COLOR = (0, 220, 200)
QUALITY = 80

KEPT = 6
"""Slides that a process keeps in memory, since each of its runs is judged on the same ones."""

DYES = np.array([(0.66, 0.70, 0.29), (0.11, 0.88, 0.42)])
"""Optical densities in red, green and blue of haematoxylin and eosin, as the generator has them."""

OTHER_DYES = np.array([(0.76, 0.58, 0.24), (0.06, 0.98, 0.20)])
OTHER_STRENGTHS = (0.80, 1.30)
OTHER_GLASS = (236, 233, 222)
OTHER_BLUR_PX, OTHER_NOISE = 0.8, 4.0


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where slides, truth and datasets are, and which there are.

    Attributes:
        folder: The folder.
        quick: Whether slides are parts of the demo's, for trying it out.
        test_px: Side of the square in the middle of each test slide on which models are judged; None is the whole.
    """

    folder: Path
    quick: bool = False
    test_px: int | None = None

    def train(self, seed: int) -> list[str]:
        """Slides for training; others for each seed."""
        return ["quick-train"] if self.quick else [f"seed{seed}-train{i}" for i in (1, 2)]

    def val(self, seed: int) -> str:
        """The slide for validation."""
        return "quick-val" if self.quick else f"seed{seed}-val"

    def test(self, scanner: Scanner) -> list[str]:
        """Slides that no model is trained on, the same for all seeds."""
        numbers = (1,) if self.quick else (1, 2, 3)
        prefix = "quick-" if self.quick else ""
        return [f"{prefix}{'test' if scanner == 'same scanner' else 'other'}{i}" for i in numbers]

    def names(self, seeds: int) -> list[str]:
        """All slides."""
        of_seeds = [name for seed in range(seeds) for name in (*self.train(seed), self.val(seed))]
        return list(dict.fromkeys([*(name for scanner in SCANNERS for name in self.test(scanner)), *of_seeds]))

    def truth(self, name: str, tissue: TissueKey) -> Labels:
        """Its full truth."""
        return _truth(self.folder / "truth" / tissue / f"{name}.png")

    def pixels(self, name: str) -> NDArray[np.uint8]:
        """Its level 0."""
        return _pixels(self.folder / "slides" / f"{name}.tif")

    def judged(self, name: str, tissue: TissueKey) -> tuple[NDArray[np.uint8], Labels]:
        """Pixels and truth of that part of a test slide on which models are judged."""
        pixels, truth = self.pixels(name), self.truth(name, tissue)
        if self.test_px is None or self.test_px >= min(truth.shape):
            return pixels, truth
        rows, columns = (slice((side - self.test_px) // 2, (side + self.test_px) // 2) for side in truth.shape)
        return pixels[rows, columns], truth[rows, columns]

    def read(self, name: str, tissue: TissueKey) -> TruthSlide:
        """A slide with all that is known."""
        return TruthSlide(name, self.pixels(name), self.truth(name, tissue), demo_generator().MPP, classes_of(tissue))


@lru_cache(maxsize=KEPT)
def _pixels(path: Path) -> NDArray[np.uint8]:
    with dmmn_qp.open_slide(path) as slide:
        return slide.read_level(0, dmmn_qp.Region(0, 0, slide.info.width, slide.info.height))


@lru_cache(maxsize=2 * KEPT)
def _truth(path: Path) -> Labels:
    return np.asarray(Image.open(path))


def classes_of(tissue: TissueKey) -> dmmn_qp.ClassMap:
    """The paper's six classes; "context" has stroma beside carcinoma as one more."""
    colors = [(c.name, c.color) for c in demo_generator().CLASSES.values()]
    return dmmn_qp.ClassMap.from_colors(colors if tissue == "plain" else [*colors, (BESIDE, BESIDE_COLOR)])


def beside_carcinoma(truth: Labels) -> Labels:
    """The truth with stroma that lies within `BESIDE_PX` of carcinoma as a class of its own, the last one."""
    generator = demo_generator()
    carcinoma = truth == generator.CARCINOMA
    if not carcinoma.any():
        return truth.copy()
    near = ndimage.distance_transform_edt(~carcinoma) <= BESIDE_PX
    return np.where(near & (truth == generator.STROMA), len(generator.CLASSES) + 1, truth).astype(np.uint8)


def scanned_elsewhere(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same tissue in another laboratory: other dyes, of other strength, other lamp, softer and noisier.

    Args:
        pixels: (rows, columns, 3) uint8 of the generator.
        rng: Source of the noise.
    """
    density = -np.log((pixels.astype(np.float32) + 1) / 246)
    amounts = np.maximum(density @ np.linalg.pinv(DYES), 0)
    other = (amounts * np.array(OTHER_STRENGTHS)) @ OTHER_DYES
    seen = np.array(OTHER_GLASS) * np.exp(-other)
    seen = ndimage.gaussian_filter(seen, (OTHER_BLUR_PX, OTHER_BLUR_PX, 0))
    noise = rng.standard_normal(seen.shape, np.float32) * OTHER_NOISE
    return np.clip(seen + noise, 0, 255).astype(np.uint8)


def make_slide(place: Workplace, name: str) -> None:
    """Draws a slide with its truth; ten seconds."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if place.quick:
        of_demo = {"quick-train": "train-1", "quick-val": "val-1"}.get(name, "test-1")
        slide = crop_of(EXAMPLES / "demo", of_demo, 1280 if name == "quick-train" else 768)
        pixels, truth = slide.pixels, slide.truth
    else:
        generator = demo_generator()
        tissue = generator.lay_out(rng)
        pixels, _ = generator.paint(rng, tissue, None)
        truth = tissue.labels
    if "other" in name:
        pixels = scanned_elsewhere(pixels, rng)
    write_slide(
        place.folder / "slides",
        TruthSlide(name, pixels, truth, demo_generator().MPP, classes_of("plain")),
        QUALITY,
    )
    for key, known in (("plain", truth), ("context", beside_carcinoma(truth))):
        (place.folder / "truth" / key).mkdir(parents=True, exist_ok=True)
        Image.fromarray(known).save(place.folder / "truth" / key / f"{name}.png", optimize=True)


def dataset_key(tissue: TissueKey, share: float, gap: Gap, magnifications: int, seed: int) -> str:
    """Name of a dataset."""
    return f"{tissue}-{100 * share:g}-{gap}-{magnifications}x-{seed}"


def drawing(place: Workplace, name: str, tissue: TissueKey, share: float, gap: Gap) -> Path:
    """GeoJSON of what is drawn on a slide, which is drawn unless it is there."""
    path = place.folder / "drawn" / f"{tissue}-{100 * share:g}-{gap}" / f"{name}.geojson"
    if not path.is_file():
        slide = place.read(name, tissue)
        drawn = draw_share(slide, share, np.random.default_rng(zlib.crc32(name.encode())), SPACING_PX, GAPS_PX[gap])
        with TemporaryDirectory(dir=place.folder) as made:
            write_annotations(Path(made), slide, drawn)
            path.parent.mkdir(parents=True, exist_ok=True)
            (Path(made) / path.name).replace(path)
    return path


def make_dataset(place: Workplace, wanted: Wanted) -> None:
    """Draws that share of each class on the slides for training, and imports it."""
    tissue, share, gap, magnifications, seed = wanted
    dataset = place.folder / "datasets" / dataset_key(*wanted)
    dataset.parent.mkdir(parents=True, exist_ok=True)
    drawn = [drawing(place, name, tissue, share, gap) for name in place.train(seed)]
    drawn.append(drawing(place, place.val(seed), tissue, VALIDATION_SHARE, "thin"))
    with TemporaryDirectory(dir=place.folder) as made:
        annotations, split_file, imported = Path(made) / "drawn", Path(made) / "split.csv", Path(made) / "dataset"
        annotations.mkdir()
        for path in drawn:
            shutil.copy(path, annotations)
        rows: list[dict[str, object]] = [{"slide": name, "split": "train"} for name in place.train(seed)]
        write_rows(split_file, [*rows, {"slide": place.val(seed), "split": "val"}])
        dmmn_qp.import_annotations(
            place.folder / "slides",
            imported,
            annotations=annotations,
            split_file=split_file,
            mpps=MPPS[:magnifications],
            workers=1,
            reporter=Quiet(),
        )
        (imported / "report.html").unlink(missing_ok=True)  # of which nobody looks at dozens
        imported.rename(dataset)


def drawn_mm2(dataset: Dataset) -> float:
    """What is drawn on its slides for training."""
    training = [patch for patch in dataset.patches() if patch.split == "train"]
    px = sum(sum(patch.label_counts[1:]) for patch in training)
    return float(px) * dataset.patch_spec.mpps[0] ** 2 / 1e6


def make_all(place: Workplace, wanted: Sequence[Wanted], seeds: int, jobs: int) -> None:
    """Makes what is missing in so many processes, and says so."""
    names = [name for name in place.names(seeds) if not (place.folder / "truth" / "context" / f"{name}.png").is_file()]
    missing = [one for one in dict.fromkeys(wanted) if not (place.folder / "datasets" / dataset_key(*one)).is_dir()]
    if not (names or missing):
        return
    print(f"drawing {len(names)} slides, and on slides {len(missing)} times", flush=True)
    with ProcessPoolExecutor(min(jobs, max(len(names), len(missing))), mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(make_slide, place), names))
        list(pool.map(partial(make_dataset, place), missing))
