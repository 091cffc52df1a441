"""Makes a slide's finished files visible, so that at no moment a file says something else than ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.model import ModelCard
from dmmn_qp.folders.predictions import (
    INPUTS,
    POLYGONS_SUFFIXES,
    PREDICTIONS,
    PredictedInput,
    Prediction,
    merged_inputs,
    merged_predictions,
    read_predictions,
)
from dmmn_qp.folders.provenance import now
from dmmn_qp.outputs.area_table import SlideAreas, write_areas
from dmmn_qp.outputs.earlier import drop_oldest, first_metadata, keep_earlier
from dmmn_qp.outputs.readme import write_readme
from dmmn_qp.outputs.writers import WRITERS, recorded_suffixes
from dmmn_qp.qupath.marks import RUN_KEY
from dmmn_qp.slides.files import fingerprint


class Publisher:
    """Writes the files of finished slides into a folder, and what describes the folder.

    Args:
        out: The folder.
        card: The model's card.
        run: What ``run.json`` says of the run.
        slide_ids: The slides of the run in their order.

    Attributes:
        finished: Polygons of each finished slide, also of those that were skipped.
        skipped: Slides that were finished before.
        failures: Why a slide could not be predicted, by slide.
        dropped: Number of earlier polygons that were removed because there were too many.
    """

    def __init__(self, out: Path, card: ModelCard, run: Mapping[str, Any], slide_ids: Sequence[str]) -> None:
        self.finished: dict[str, Path] = {}
        self.skipped: list[str] = []
        self.failures: dict[str, str] = {}
        self.dropped = 0
        self._out = out
        self._card = card
        self._run = run
        self._slide_ids = slide_ids
        self._has_published = False

    def publish(
        self,
        slide_id: str,
        ready: Path,
        record: Prediction,
        image: PredictedInput,
        areas: SlideAreas | None = None,
    ) -> Path:
        """Moves a slide's files to where they belong, in place of those of an earlier prediction.

        First the earlier polygons go, of which a copy is kept; then the earlier record; then all other files come;
        then the record and ``README.txt``; and the new polygons last. So whoever sees polygons sees what they are of,
        whenever this is interrupted.

        Args:
            slide_id: The slide.
            ready: A folder beside its files, with the new ones.
            record: Of the new ones.
            image: What they were made from.
            areas: Pixels of each class; None where only the polygons are new, and the other files stay.

        Returns:
            The polygons.
        """
        self._put_away(slide_id)
        polygons = next(path for suffix in POLYGONS_SUFFIXES if (path := ready / f"{slide_id}{suffix}").is_file())
        if areas is not None:
            self._replace_rasters(slide_id, ready, polygons)
            write_areas(self._out, [areas])
        self._has_published = True
        place = self.finished[slide_id] = self._out / polygons.name
        self._write_run({slide_id: record}, {slide_id: image})
        self._write_readme(polygons.name)
        polygons.replace(place)
        self.dropped += drop_oldest(self._out, slide_id)
        return place

    def conclude(self) -> None:
        """Writes at the end of the run what came of all slides, unless there was nothing to do."""
        if self._has_published or self.failures:
            self._write_run({}, {})

    def _put_away(self, slide_id: str) -> None:
        """Removes the polygons that are there, both kinds of files, once copies of them are kept."""
        there = [path for s in POLYGONS_SUFFIXES if (path := self._out / f"{slide_id}{s}").is_file()]
        record = read_predictions(self._out).get(slide_id)
        for path in there:
            run_id = record.run_id if record is not None else first_metadata(path).get(RUN_KEY)
            keep_earlier(self._out, slide_id, path, run_id)
        for path in there:
            path.unlink()

    def _replace_rasters(self, slide_id: str, ready: Path, polygons: Path) -> None:
        """Takes over all files but the polygons, and removes what the new prediction has not."""
        self._write_run({}, {}, without=(slide_id,))
        new = {path.name for path in ready.iterdir()} - {polygons.name}
        for suffix in WRITERS:
            name = f"{slide_id}.{suffix}"
            if name not in new and name != polygons.name:
                (self._out / name).unlink(missing_ok=True)
        for name in sorted(new):
            (ready / name).replace(self._out / name)

    def _write_run(
        self, records: Mapping[str, Prediction], images: Mapping[str, PredictedInput], without: Sequence[str] = ()
    ) -> None:
        content = {
            **self._run,
            "finished": now(),
            "slides": [slide_id for slide_id in self._slide_ids if slide_id in self.finished],
            "skipped": self.skipped,
            "failed": dict(self.failures),
            PREDICTIONS: merged_predictions(self._out, records, without),
            INPUTS: merged_inputs(self._out, images, without),
        }
        write_json(self._out / RUN_FILE, content)

    def _write_readme(self, polygons: str) -> None:
        write_readme(
            self._out,
            model_name=self._card.name,
            class_map=self._card.class_map,
            run_id=self._run["run_id"],
            mpp=self._card.patch_spec.mpps[0],
            licence=self._card.licence,
            attribution=self._card.attribution,
            coming=(polygons,),
        )


def digests_of(ready: Path, slide_id: str) -> dict[str, str]:
    """Digest of each finished file of a slide that is recorded, by what follows ``<slide>.`` in its name."""
    paths = {suffix: ready / f"{slide_id}.{suffix}" for suffix in recorded_suffixes()}
    return {suffix: fingerprint(path) for suffix, path in paths.items() if path.is_file()}
