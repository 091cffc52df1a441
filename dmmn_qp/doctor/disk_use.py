"""What our folders take on the disk, and what of it can go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dmmn_qp.doctor.findings import Finding, in_gib
from dmmn_qp.text import count_of

_KINDS: Final = {
    "import": "dataset",
    "train": "model",
    "predict": "folder of predictions",
    "evaluate": "evaluation",
    "suggest": "folder of suggestions",
}
"""Stage of a folder's run -> what the folder is."""

_MANY: Final = {"folder of predictions": "folders of predictions", "folder of suggestions": "folders of suggestions"}


def check_disk_use() -> Iterator[Finding]:
    """Adds up the folders of ours in the working folder, and what `dmmn-qp clean` would find."""
    from dmmn_qp.files import RUN_FILE
    from dmmn_qp.folders.model_glance import UNFINISHED, read_object
    from dmmn_qp.workflows.cleaning import find_removable, our_places, size_of

    here = Path()
    taken, counted = Counter[str](), Counter[str]()
    unfinished = []
    for place in our_places(here):
        kind = _KINDS.get(str(read_object(place / RUN_FILE).get("stage")), "other folder")
        taken[kind] += size_of(place)
        counted[kind] += 1
        if (place / UNFINISHED).is_file():
            unfinished.append(place)
    parts = [f"{count_of(n, kind, _MANY.get(kind))} {in_gib(taken[kind])}" for kind, n in counted.items()]
    figures = tuple(taken.items())
    yield Finding("disk use", "ok", "; ".join(parts) or "no folder of ours here", figures=figures)
    for place in unfinished:
        way_out = f"go on with dmmn-qp train --resume --out {place}"
        yield Finding("unfinished", "ok", f"the training in {place} is not finished, or is running", way_out)
    removable = find_removable(here, strips=True, earlier=True)
    by_kind = Counter[str]()
    for item in removable:
        by_kind[item.kind] += item.size_bytes
    listed = ", ".join(f"{_REMOVABLE[kind]} {in_gib(size)}" for kind, size in by_kind.items())
    if listed:
        yield Finding("can go", "ok", listed, "dmmn-qp clean shows it and asks", tuple(by_kind.items()))


_REMOVABLE: Final = {
    "features": "cache of what encoders saw",
    "leftover": "left by killed commands",
    "strips": "unfinished predictions (--unfinished)",
    "earlier": "replaced polygons (--earlier)",
}
