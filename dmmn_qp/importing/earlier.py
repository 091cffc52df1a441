"""What the dataset that is being replaced said of its slides: what was held back must not be trained on by and by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.choices import Split
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.importing.prepared import Prepared
from dmmn_qp.labels.splits import split_areas
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.specs import MM2_OF_UM2
from dmmn_qp.text import names_text

_LISTED: Final = 5
_LEAST_MM2: Final = 1e-4
"""What areas share that were only drawn anew."""

_HELD_BACK: Final[tuple[Split, ...]] = ("val", "test")


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier dataset in the same folder.

    Attributes:
        splits: Split of each of its slides.
        of_files: The same by the fingerprint of the file, of slides that only datasets before it held as well.
        areas: Of slides that were divided: the area of each split, in level-0 px.
        records: Its slides.
    """

    splits: Mapping[str, Split] = field(default_factory=dict)
    of_files: Mapping[str, Split] = field(default_factory=dict)
    areas: Mapping[str, Mapping[Split, BaseGeometry]] = field(default_factory=dict)
    records: tuple[SlideRecord, ...] = ()

    def split_of(self, record: SlideRecord) -> Split | None:
        """The split that a slide's file had, under whatever name; else that of its name; None where it is new."""
        return self.of_files.get(record.fingerprint, self.splits.get(record.slide_id))

    def elsewhere(self, records: Iterable[SlideRecord]) -> dict[str, Split]:
        """What is to be remembered of files that are not among some slides."""
        here = {record.fingerprint for record in records}
        return {print_: split for print_, split in sorted(self.of_files.items()) if print_ not in here}


def earlier_dataset(out: Path) -> Earlier:
    """The dataset in ``out``; an empty one where there is none that can be read."""
    try:
        dataset = Dataset(out)
        records = dataset.slides()
        divided = dict.fromkeys(patch.slide_id for patch in dataset.patches() if patch.fixed)
        areas = {name: split_areas(read_geojson(dataset.annotations_path(name)).annotations) for name in divided}
    except DmmnQpError:
        return Earlier()
    of_files = {**dataset.manifest.earlier_splits, **{record.fingerprint: record.split for record in records}}
    return Earlier({record.slide_id: record.split for record in records}, of_files, areas, tuple(records))


def moved_findings(prepared: Sequence[Prepared], earlier: Earlier) -> Iterator[Finding]:
    """Warns of what was for validation or test and is for training now, and the other way round."""
    whole: dict[tuple[bool, str], list[str]] = {}
    for item in prepared:
        before, now = earlier.split_of(item.record), item.record.split
        if before is None:
            continue
        if item.record.slide_id in earlier.areas or any(patch.fixed for patch in item.patches):
            yield from _moved_areas(item, before, earlier)
        elif before != now and "train" in (before, now):
            whole.setdefault((now == "train", f"{before} -> {now}"), []).append(item.record.slide_id)
    for (into_training, change), names in whole.items():
        listed = names_text(names, _LISTED)
        yield _finding(f"{change} since the earlier dataset: {listed}", into_training=into_training)


def _moved_areas(item: Prepared, before: Split, earlier: Earlier) -> Iterator[Finding]:
    """The same for a slide that was divided, or is now."""
    everything = shapely.box(0, 0, *item.size_px)
    was = earlier.areas.get(item.record.slide_id) or {before: everything}
    divided = any(patch.fixed for patch in item.patches)
    now = split_areas(item.annotations) if divided else {item.record.split: everything}
    for into_training in (True, False):
        first, second = (was, now) if into_training else (now, was)
        held_back = shapely.union_all([area for split, area in first.items() if split in _HELD_BACK])
        shared = shapely.intersection(held_back, second.get("train", shapely.Polygon())).intersection(everything)
        mm2 = shared.area * item.record.mpp**2 * MM2_OF_UM2
        if mm2 >= _LEAST_MM2:
            change = "val or test -> train" if into_training else "train -> val or test"
            yield _finding(
                f"{mm2:.3f} mm2: {change} since the earlier dataset",
                into_training=into_training,
                slide=item.record.slide_id,
                place=shared.representative_point(),
            )


def _finding(
    message: str, *, into_training: bool, slide: str | None = None, place: shapely.Point | None = None
) -> Finding:
    if into_training:
        why = "the next model is trained on it, so figures of earlier models on it say nothing of the next one"
        way_out = "give it its earlier split if that is not meant"
    else:
        why = "models that are trained already know it, and so would one that starts from them: its figures flatter"
        way_out = "train without --from to have honest figures, or give it its earlier split"
    where = None if place is None else (round(place.x), round(place.y))
    return Finding(
        severity="warning",
        concerns="training",
        slide=slide,
        place=where,
        message=f"{message}; {why}",
        way_out=way_out,
    )
