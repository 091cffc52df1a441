"""`README.txt` of a folder of predictions: which model made them, and how each kind of file is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import indent, wrap

from dmmn_qp.files import RUN_FILE, new_file
from dmmn_qp.folders.predictions import EARLIER
from dmmn_qp.labels.class_rules import NOT_TISSUE
from dmmn_qp.outputs.area_table import AREAS, our_name, read_areas
from dmmn_qp.outputs.earlier import EARLIER_BYTES, EARLIER_RUNS
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.specs import UNLABELLED, ClassMap
from dmmn_qp.text import printable
from dmmn_qp.version import __version__

README = "README.txt"

_README_TITLE = "Predictions of dmmn-qp"

_LINE = 100

_RULE = (
    "Tissue is what belongs to any class, except classes whose name ends in * (which QuPath ignores) or begins with "
    f"one of these words, in any case: {', '.join(NOT_TISSUE)}. Pixels without a label are not tissue."
)

_AREAS = (
    "Pixels, mm2 and % of the tissue for each slide and class, to be opened with any spreadsheet program; counted in "
    "the label raster, with the small regions that the polygons leave to their neighbours. tissue_mm2 "
    f"and tissue_classes say how much tissue that is, and of which classes. {_RULE} distance_from_training says how "
    "far the colour of the slide's tissue, and what a pretrained encoder sees in it, is from the slides that the model "
    "was trained on: beyond distance_threshold the slide is unlike them, and its areas mean little before somebody has "
    "looked at them. Both are empty where the model does not know; with few training slides there is no threshold."
)

_RUN = (
    "The last run: command, options, versions, times; and of each slide here which file it was, and which model and "
    "options its prediction is of. It is written again after each slide."
)

_EARLIER = (
    "Polygons that were replaced, by the run that made them, so that it can still be told what was corrected in QuPath "
    f"and what was predicted. The {EARLIER_RUNS} newest of each slide are kept, and {EARLIER_BYTES // 2**30} GiB "
    "in all. You may delete this folder at any time; corrections in QuPath are not in it."
)


def write_readme(
    out: Path,
    *,
    model_name: str,
    class_map: ClassMap,
    run_id: str,
    mpp: float,
    licence: str | None = None,
    attribution: str | None = None,
    encoder: str | None = None,
    coming: Iterable[str] = (),
) -> Path:
    """Writes ``README.txt``: which model made the predictions, and for each kind of file there, how to open it.

    A file of that name that is not ours is left alone, and ours gets another name.

    Args:
        out: The folder of the predictions, with all other files in it.
        model_name: The model.
        class_map: Its classes.
        run_id: Id of the prediction.
        mpp: um/px at which was predicted.
        licence: The model's licence, if it has one.
        attribution: Whom to credit, if anybody.
        encoder: The model's pretrained encoder with its licence and author, if it has one.
        coming: Names of files that are about to be added to the folder.

    Returns:
        The file.
    """
    path = our_name(out / README, _is_our_readme)
    names = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]
    about = {
        "Model": model_name,
        "Licence": licence or "not stated; ask whoever made the model, if it was not you",
        "Credit": attribution or "",
        "Encoder": encoder or "",
        "Pixels": f"about {mpp:g} um",
        "Run": f"{run_id} (command, options and versions are in {RUN_FILE})",
        "Made by": f"dmmn-qp {__version__}",
    }
    lines = [
        *_headed(_README_TITLE, "="),
        "",
        *(f"{key + ':':<10}{printable(value)}" for key, value in about.items() if value),
        "",
        "This page is about the last run that wrote into this folder. For each slide,",
        f'{RUN_FILE} says under "predictions" by which model and with which options it was predicted.',
        "Predictions are for research: look at them before you use them.",
        "",
        *_headed("Classes", "-"),
        f"{UNLABELLED:>4}  no label",
        *(f"{c.label:>4}  {printable(c.name)}" for c in class_map.classes),
        "",
        *_headed("Files", "-"),
        *_files(out, [*names, *coming]),
        *_entry(path.name, "This page."),
    ]
    with new_file(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", "utf-8")
    return path


def _files(out: Path, names: Sequence[str]) -> list[str]:
    """Lines about each kind of file in a folder, but for the page itself.

    Args:
        out: The folder.
        names: Names of files in it.
    """
    lines: list[str] = []
    for suffix, writer in WRITERS.items():
        if any(name.endswith(f".{suffix}") for name in names):
            lines += _entry(f"<slide>.{suffix}", writer.about)
    areas = our_name(out / AREAS, lambda path: read_areas(path) is not None)
    if areas.exists():
        lines += _entry(areas.name, _AREAS)
    lines += _entry(RUN_FILE, _RUN)
    if (out / EARLIER).is_dir():
        lines += _entry(f"{EARLIER}/<run>/<slide>.geojson.gz", _EARLIER)
    return lines


def _headed(title: str, line: str) -> list[str]:
    """A title, underlined."""
    return [title, line * len(title)]


def _entry(name: str, text: str) -> list[str]:
    """Lines about a kind of file."""
    return [name, indent("\n".join(wrap(text, _LINE)), "    "), ""]


def _is_our_readme(path: Path) -> bool:
    """Whether a file has the first line of ours."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(len(_README_TITLE) + 2).strip() == _README_TITLE
    except (OSError, UnicodeDecodeError):
        return False
