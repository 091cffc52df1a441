"""The first gear of a network on a pretrained encoder: its head learns, on what the frozen encoder sees.

A round fits the head to cells that were drawn; those after the first are rounds of self-training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.console import Reporter
from dmmn_qp.features.cache import FeatureCache, usual_cache
from dmmn_qp.features.computing import TILE_PX, FeatureMaps, SeenSlide, tiles_over
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.dmmn_p import CELL_PX, DmmnP
from dmmn_qp.networks.stem import Stemmed
from dmmn_qp.regions import Region
from dmmn_qp.reports.training_report import PatchVerdict
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import MM2_OF_UM2, UNLABELLED, LabelArray
from dmmn_qp.training.cells import (
    MOST_CELLS,
    Cells,
    CellSource,
    Place,
    chosen_tiles,
    middles,
    places_of,
    targets_in,
)
from dmmn_qp.training.examples import open_mask
from dmmn_qp.training.head import Fitted, fit_head, head_of, put_into, steps_by_groups
from dmmn_qp.training.judging import ShownPatches
from dmmn_qp.training.plan import TrainingPlan, validation_examples
from dmmn_qp.training.self_training import sure_cells
from dmmn_qp.training.undrawn import open_cells
from dmmn_qp.training.validation import WATCHED, Validation


@dataclass(frozen=True, slots=True)
class Round:
    """A round of training.

    Attributes:
        number: From 1.
        fitted: The head.
        validation: The network with it on the validation patches.
        added: What self-training added to what was drawn, in words; empty in the first round.
    """

    number: int
    fitted: Fitted
    validation: Validation
    added: str = ""


class HeadTraining:
    """Trains the head of a network, round by round.

    Attributes:
        device: Where it computes.
        source: What the encoder makes of tiles.
        looked_at: Labels of the cells of the training tiles that taught it; empty before `rounds`.

    Args:
        dataset: The dataset.
        plan: What is trained.
        stemmed: The network, on its device.
        fabric: The device and the precision.
        slides_roots: Where to look for slides that have been moved.
        reporter: Where to report.
        cache: Where the encoder's maps are kept; the user's cache folder unless given.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: TrainingPlan,
        stemmed: Stemmed,
        fabric: Fabric,
        slides_roots: Sequence[SlidesRoot],
        reporter: Reporter,
        cache: FeatureCache | None = None,
    ) -> None:
        assert isinstance(stemmed.network, DmmnP)
        self._dataset, self._plan, self.device, self._reporter = dataset, plan, fabric.device, reporter
        self._slides_roots = slides_roots
        self._network = stemmed.network.eval()
        self._rng = np.random.default_rng(plan.options.seed)
        cache = cache or usual_cache(reporter)
        bf16 = plan.options.precision == "bf16"
        maps = FeatureMaps(self._network, plan.convention, fabric.device, bf16, cache)
        used = dict.fromkeys(patch.slide_id for patch in (*plan.training, *plan.validation))
        self.source = CellSource(maps, self._network, {slide_id: self._slide(slide_id) for slide_id in used})
        self.looked_at: dict[Place, LabelArray] = {}
        self._names = dataset.class_map.names

    def _slide(self, slide_id: str) -> SeenSlide:
        record = self._dataset.record(slide_id)
        key = f"{record.fingerprint} {record.width} {record.height} {record.crop_to_bounds} {record.frame}"
        opened = partial(self._dataset.open, record, self._slides_roots)
        return SeenSlide(key, self._dataset.patch_spec.grid_of(record.mpp, slide_id), opened)

    def cost(self) -> tuple[int, float]:
        """How many tiles with a drawing the encoder will look at, and seconds for one of them."""
        places = [*self._labels(self._plan.training, tuple(ORIGINS))]
        of_validation = places_of(self._plan.validation, self._dataset.patch_spec.size_px)
        clock = time.monotonic()
        looked = sum(1 for _ in self.source.seen(places[:2]))
        return len({*places, *of_validation}), (time.monotonic() - clock) / max(1, looked)

    @property
    def cells_bytes(self) -> int:
        """What the cells take at most from which the head learns, beside what the encoder takes to look at a tile.

        Those that were drawn and those for validation; with self-training as many again of which it is sure, and both
        kinds together, in the round before and in this one.
        """
        drawn, judging = (
            min(MOST_CELLS, sum(sum(patch.label_counts[1:]) for patch in patches) // CELL_PX**2)
            for patches in (self._plan.training, self._plan.validation)
        )
        together = 2 * drawn * min(2, self._plan.rounds - 1)
        sure = drawn if self._plan.rounds > 1 else 0
        return (drawn + judging + sure + together) * sum(self._network.channels) * torch.float16.itemsize

    def rounds(self) -> Iterator[Round]:
        """Trains; yields each round while its head is in the network, and leaves the best one there."""
        n_classes = len(self._names)
        labels = self.looked_at = self._labels(self._plan.training, tuple(ORIGINS))
        with self._reporter.task("what the encoder sees of annotated places", len(labels)) as task:
            drawn = self.source.cells(
                labels,
                n_classes,
                self._rng,
                [MOST_CELLS // n_classes] * n_classes,
                task.advance,
                self._corrected(labels),
            )
        judging = None
        if self._plan.options.validate_on == "val":
            apart = self._labels(self._plan.validation, self._plan.validated_on)
            with self._reporter.task("what it sees of validation slides", len(apart)) as task:
                judging = self.source.cells(
                    apart, n_classes, self._rng, [MOST_CELLS // n_classes] * n_classes, task.advance
                )
        start = head_of(self._network) if self._plan.start is not None else None
        best: tuple[float, tuple[torch.Tensor, ...]] | None = None
        training, added = drawn, ""
        undrawn: dict[Place, NDArray[np.bool_]] | None = None
        for number in range(1, self._plan.rounds + 1):
            fitted = self._fit(training, judging, start)
            put_into(self._network, fitted.weights)
            validation = self.validate()
            yield Round(number, fitted, validation, added)
            if best is None or validation.metrics.mean_iou > best[0]:
                best = validation.metrics.mean_iou, fitted.weights
            if number == self._plan.rounds:
                break
            if undrawn is None:
                roots = self._slides_roots
                undrawn = open_cells(self._dataset, self._plan.training, list(labels), self._rng, roots)
            counts = torch.bincount(drawn.classes, minlength=n_classes).tolist()
            with self._reporter.task("undrawn tissue", len(undrawn)) as task:
                found = sure_cells(self.source, self._network, undrawn, counts, self._rng, task.advance)
            training = drawn.and_also(found.cells)
            mm2 = (CELL_PX * self._dataset.patch_spec.mpps[0]) ** 2 * MM2_OF_UM2
            added = (
                f"self-training with {len(found.cells):,} cells beside {len(drawn):,} drawn ones; sure of "
                f"{found.sure * mm2:.2f} of {found.looked_at * mm2:.2f} mm2 of undrawn tissue"
            )
        assert best is not None
        put_into(self._network, best[1])

    def _fit(self, training: Cells, judging: Cells | None, start: Sequence[torch.Tensor] | None) -> Fitted:
        options, width, n_classes = self._plan.options, self._plan.network.width, len(self._names)
        steps = None
        if judging is None:
            steps = steps_by_groups(
                training, n_classes, width, seed=options.seed, device=self.device, corrections=options.corrections
            )
        return fit_head(
            training,
            judging,
            n_classes,
            width,
            seed=options.seed,
            device=self.device,
            steps=steps,
            start=start,
            corrections=options.corrections,
        )

    def _labels(self, patches: Sequence[PatchRef], origins: Sequence[Origin]) -> dict[Place, LabelArray]:
        """Labels of the cells in the targets of patches, tile by tile."""
        size = self._dataset.patch_spec.size_px
        of_slide: dict[str, list[PatchRef]] = {}
        for patch in patches:
            of_slide.setdefault(patch.slide_id, []).append(patch)
        labels: dict[Place, LabelArray] = {}
        often: dict[Place, float] = {}
        for slide_id, own in of_slide.items():
            if self._plan.options.corrections > 1:
                changed = [patch for patch in own if patch.corrected and patch.split == "train"]
                often |= dict.fromkeys(places_of(changed, size), self._plan.options.corrections)
            with open_mask(self._dataset, slide_id, origins) as mask:
                for place in places_of(own, size):
                    cells = middles(mask.read(place.tile))
                    labels[place] = np.where(targets_in(place.tile, own, size), cells, UNLABELLED).astype(np.uint8)
        return {place: labels[place] for place in chosen_tiles(labels, len(self._names), self._rng, often=often)}

    def _corrected(self, labels: Mapping[Place, LabelArray]) -> dict[Place, NDArray[np.bool_]]:
        """Cells in which somebody corrected a prediction, of the tiles where anybody did."""
        found: dict[Place, NDArray[np.bool_]] = {}
        for slide_id in dict.fromkeys(place.slide_id for place in labels):
            path = self._dataset.origin_path(slide_id)
            if path is None:
                continue
            with LabelRaster(path) as raster:
                for place in (place for place in labels if place.slide_id == slide_id):
                    cells = middles(raster.read(place.tile)) == ORIGINS["corrected"]
                    if cells.any():
                        found[place] = cells
        return found

    def validate(self) -> Validation:
        """Looks at the labelled pixels of the validation patches, each predicted with all of its surroundings."""
        n_classes, size = len(self._names), self._dataset.patch_spec.size_px
        confusion, shown = np.zeros((n_classes, n_classes), np.int64), ShownPatches()
        watched: list[PatchVerdict] = []
        patches = self._plan.validation
        examples = validation_examples(self._dataset, self._plan, self._slides_roots)
        distance = max(1, len(patches) // WATCHED)
        of_slide: dict[str, list[int]] = {}
        for number, patch in enumerate(patches):
            of_slide.setdefault(patch.slide_id, []).append(number)
        for slide_id, numbers in of_slide.items():
            predicted = self._predicted([patches[number] for number in numbers])
            with open_mask(self._dataset, slide_id, self._plan.validated_on) as mask:
                for number in numbers:
                    patch = patches[number]
                    target = Region(patch.x, patch.y, size, size)
                    truth, found = mask.read(target), _window(predicted, slide_id, target)
                    labelled = truth != UNLABELLED
                    right = float((truth == found)[labelled].mean()) if labelled.any() else 0.0
                    confusion += confusion_matrix(truth, found, n_classes)
                    is_watched = number % distance == 0 and len(watched) < WATCHED
                    images = examples[Draw(number, seed=0)].images.permute(0, 2, 3, 1).numpy() if is_watched else _NONE
                    verdict = PatchVerdict(slide_id, (patch.x, patch.y), images, truth, found, right)
                    shown.add(number, verdict)
                    if is_watched:
                        watched.append(verdict)
        return Validation(Metrics.from_confusion(confusion), watched, shown)

    def _predicted(self, patches: Sequence[PatchRef]) -> dict[Place, LabelArray]:
        """Labels of the tiles that patches of one slide touch."""
        places = places_of(patches, self._dataset.patch_spec.size_px)
        found: dict[Place, LabelArray] = {}
        for place, maps in self.source.seen(places):
            with torch.inference_mode():
                logits = self._network.decide([m.to(self.device) for m in maps], TILE_PX, TILE_PX)
                found[place] = (logits[0].argmax(0) + 1).to(torch.uint8).cpu().numpy()
        return found


_NONE = np.zeros((0, 0, 0, 3), np.uint8)


def _window(tiles: Mapping[Place, LabelArray], slide_id: str, target: Region) -> LabelArray:
    """Labels of a region from those of the tiles that it touches."""
    labels = np.zeros((target.height, target.width), np.uint8)
    for tile in tiles_over([target]):
        part = tile.intersection(target)
        assert part is not None
        labels[part.y - target.y : part.bottom - target.y, part.x - target.x : part.right - target.x] = tiles[
            Place(slide_id, tile)
        ][part.y - tile.y : part.bottom - tile.y, part.x - tile.x : part.right - tile.x]
    return labels
