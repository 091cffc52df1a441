"""A dataset once more, with its slides in other splits; what is large is there only once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from dmmn_qp.choices import Split
from dmmn_qp.files import new_folder
from dmmn_qp.folders.dataset import MANIFEST, Dataset, write_manifest, write_patches


def write_divided(dataset: Dataset, folder: Path, splits: Mapping[str, Split]) -> None:
    """Writes a dataset whose slides are in other splits, areas for one split included.

    Masks and annotations are the same files under another name where the disk can do that, else copies.

    Args:
        dataset: The dataset.
        folder: The folder of the new one, which appears when it is complete; one that is there is replaced.
        splits: Of each slide; those that are missing stay in theirs.

    Raises:
        OutputExistsError: The folder is there and is no dataset.
        DatasetError: The patch index is damaged.
    """
    manifest = dataset.manifest
    records = tuple(
        record.model_copy(update={"split": splits.get(record.slide_id, record.split)}) for record in manifest.slides
    )
    patches = [replace(patch, split=splits.get(patch.slide_id, patch.split)) for patch in dataset.patches()]
    with new_folder(folder, overwrite=True, marker=MANIFEST) as new:
        for record in records:
            _share(_files_of(dataset, record.slide_id), dataset.folder, new)
        write_manifest(new, manifest.model_copy(update={"slides": records}))
        write_patches(new, patches, len(dataset.class_map))


def _files_of(dataset: Dataset, slide_id: str) -> list[Path]:
    files = (dataset.mask_path(slide_id), dataset.origin_path(slide_id), dataset.annotations_path(slide_id))
    return [path for path in files if path is not None and path.is_file()]


def _share(files: Iterable[Path], source: Path, target: Path) -> None:
    for path in files:
        new = target / path.relative_to(source)
        new.parent.mkdir(exist_ok=True)
        try:
            os.link(path, new)
        except OSError:  # another disk, or one without such links
            shutil.copyfile(path, new)
