"""What a folder of predictions holds for all its slides together: ``areas.csv`` and ``README.txt``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent, wrap

import cv2
import numpy as np

import dmmn_qp
from dmmn_qp.errors import DatasetError
from dmmn_qp.files import RUN_FILE, new_file
from dmmn_qp.folders.dataset import LABELS_SUFFIX, LabelRaster
from dmmn_qp.folders.predictions import EARLIER
from dmmn_qp.labels.class_rules import STAR
from dmmn_qp.outputs.earlier import EARLIER_BYTES, EARLIER_RUNS
from dmmn_qp.outputs.pyramids import PROBABILITIES_SUFFIX, TILE, UNCERTAINTY_SUFFIX
from dmmn_qp.outputs.writers import PredictedSlide
from dmmn_qp.predicting.areas import TISSUE_SUFFIX
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, ClassMap, TissueClass

AREAS = "areas.csv"
README = "README.txt"
AREAS_COLUMNS = ("slide", "class", "pixels", "area_mm2", "percent_of_tissue", "tissue_mm2", "tissue_classes")
"""The last two say what a percentage is of: the area of the slide's tissue, and the classes that make it up."""

UNLABELLED_ROW = "(unlabelled)"
NOT_TISSUE = ("background", "ignore")
"""How the names of classes begin that are not tissue, in any case."""

_README_TITLE = "Predictions of dmmn-qp"
_EARLIER_COLUMNS = AREAS_COLUMNS[:5]
"""Of versions that did not name what a percentage is of."""

_EXACT_FLOAT32 = 2**24
_LINE = 100

_RULE = (
    'Tissue is what belongs to any class, except classes whose name begins with "Background" or "Ignore" (in any '
    "case) or ends in * (which QuPath ignores). Pixels without a label are not tissue."
)

_EARLIER = (
    "Polygons that were replaced, by the run that made them, so that it can still be told what was corrected in QuPath "
    f"and what was predicted. The {EARLIER_RUNS} newest of each slide are kept, and {EARLIER_BYTES // 2**30} GiB "
    "in all. You may delete this folder at any time; corrections in QuPath are not in it."
)

_FILES: tuple[tuple[str, str], ...] = (
    (
        "geojson",
        "The classes as annotations. Open the slide in QuPath and drag the file onto it, or run "
        "import_predictions.groovy (dmmn-qp scripts install) for all images of a project.",
    ),
    ("geojson.gz", "The same, compressed; QuPath opens it in the same way."),
    (
        LABELS_SUFFIX,
        "The class of every pixel, as the number in the list above: a pyramid with um/px and a colour map. QuPath "
        "opens it by drag and drop like a slide and shows the numbers as grey values; set the maximum in Brightness & "
        'contrast to the highest number. In Python: tifffile.imread("<slide>.'
        + LABELS_SUFFIX
        + '"), or rasterio for parts of it.',
    ),
    (
        PROBABILITIES_SUFFIX,
        "The probability of every class, one channel each, 0 for 0 and 255 for 1. QuPath opens it by drag and drop "
        "like a slide (image type Fluorescence) and shows each channel in its class's colour; tifffile reads it as "
        "(channel, row, column).",
    ),
    (
        UNCERTAINTY_SUFFIX,
        "How undecided the model was at every pixel: the entropy of the probabilities, 0 for certain and 255 for all "
        "classes being equally likely. It opens like the others.",
    ),
    (TISSUE_SUFFIX, "The outline of the tissue, where it was sought; QuPath opens it like the polygons."),
    ("overview.png", "A small picture of the slide and of the classes over it, with legend and scale bar."),
)


@dataclass(frozen=True, slots=True)
class SlideAreas:
    """Pixels of each label of a slide.

    Attributes:
        slide_id: The slide.
        class_map: The classes.
        pixel_mm2: Area of a pixel.
        pixels: Number of pixels by label, ``pixels[0]`` those without one.
    """

    slide_id: str
    class_map: ClassMap
    pixel_mm2: float
    pixels: tuple[int, ...]

    def rows(self) -> list[list[str]]:
        """The slide's rows of ``areas.csv``: classes in their order, then what has no label."""
        tissue = [c for c in self.class_map.classes if is_tissue(c)]
        return [
            *(self._row(c.name, c.label, tissue if c in tissue else ()) for c in self.class_map.classes),
            self._row(UNLABELLED_ROW, UNLABELLED, ()),
        ]

    def _row(self, name: str, label: int, tissue: Sequence[TissueClass]) -> list[str]:
        """A row; its percentage is of the pixels of the classes in ``tissue``, without which it has none."""
        pixels, of = self.pixels[label], sum(self.pixels[c.label] for c in tissue)
        percent = f"{100 * pixels / of:.4f}" if of else ""
        denominator = [f"{of * self.pixel_mm2:.6f}", "; ".join(c.name for c in tissue)] if tissue else ["", ""]
        return [self.slide_id, name, str(pixels), f"{pixels * self.pixel_mm2:.6f}", percent, *denominator]


def is_tissue(tissue_class: TissueClass) -> bool:
    """Whether a class counts as tissue.

    Not those that QuPath ignores (their names end in ``*``), nor those whose names begin with "Background" or "Ignore",
    in any case.
    """
    name = tissue_class.name.strip()
    return not (tissue_class.ignored or name.endswith(STAR) or name.casefold().startswith(NOT_TISSUE))


def count_areas(predicted: PredictedSlide) -> SlideAreas:
    """Counts the pixels of each label in a label raster, one row of tiles at a time.

    Raises:
        DatasetError: The raster is damaged, or has labels that are no classes.
    """
    counts = np.zeros(256, np.int64)
    with LabelRaster(predicted.labels) as raster:
        rows, columns = raster.shape
        at_once = max(1, _EXACT_FLOAT32 // columns)  # OpenCV gives the counts as float32
        for y in range(0, rows, TILE):
            strip = raster.read(Region(0, y, columns, min(TILE, rows - y)))
            for start in range(0, strip.shape[0], at_once):
                found = cv2.calcHist([strip[start : start + at_once]], [0], None, [256], [0, 256])
                counts += found.ravel().astype(np.int64)
    n = len(predicted.class_map) + 1
    if counts[n:].any():
        raise DatasetError(
            f'label raster "{predicted.labels}" has labels above {n - 1} and so is not of this model; predict again'
        )
    side_um = predicted.slide.info.mpp * predicted.downsample
    return SlideAreas(
        predicted.slide_id, predicted.class_map, side_um * side_um * 1e-6, tuple(int(count) for count in counts[:n])
    )


def write_areas(out: Path, slides: Iterable[SlideAreas]) -> Path:
    """Writes ``areas.csv``: a row for each slide and class, with pixels, mm2 and % of the slide's tissue.

    Rows of other slides that are in it already are kept, those of these slides are replaced. What is tissue says
    `is_tissue`; other rows have no percentage. Rows of earlier versions do not tell what theirs is of. A file of that
    name that is not ours is left alone, and ours gets another name.

    Args:
        out: The folder of the predictions.
        slides: What was counted.

    Returns:
        The file.
    """
    path = _our_name(out / AREAS, lambda path: _read_areas(path) is not None)
    rows = (_read_areas(path) or {}) if path.exists() else {}
    rows.update({areas.slide_id: areas.rows() for areas in slides})
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(AREAS_COLUMNS)
        for of_slide in rows.values():
            writer.writerows(of_slide)
    return path


def write_readme(
    out: Path,
    *,
    model_name: str,
    class_map: ClassMap,
    run_id: str,
    mpp: float,
    licence: str | None = None,
    attribution: str | None = None,
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
        attribution: Whom to name, if anybody.
        coming: Names of files that will be there at once.

    Returns:
        The file.
    """
    path = _our_name(out / README, _is_our_readme)
    names = [entry.name for entry in out.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    names += coming
    about = {
        "Model": model_name,
        "Licence": licence or "not stated; ask whoever made the model",
        "Credit": attribution or "",
        "Pixels": f"about {mpp:g} um",
        "Run": f"{run_id} (command, options and versions are in {RUN_FILE})",
        "Made by": f"dmmn-qp {dmmn_qp.__version__}",
    }
    classes = [f"{c.label:>4}  {_one_line(c.name)}" for c in class_map.classes]
    lines = [
        _README_TITLE,
        "=" * len(_README_TITLE),
        "",
        *(f"{key + ':':<10}{_one_line(value)}" for key, value in about.items() if value),
        "",
        "This page is about the last run that wrote into this folder. For each slide,",
        f'{RUN_FILE} says under "predictions" by which model and with which options it was predicted.',
        "Predictions are for research: look at them before you use them.",
        "",
        "Classes",
        "-------",
        f"{UNLABELLED:>4}  no label",
        *classes,
        "",
        "Files",
        "-----",
    ]
    for suffix, text in _FILES:
        if any(name.endswith(f".{suffix}") for name in names):
            lines += _entry(f"<slide>.{suffix}", text)
    areas = _our_name(out / AREAS, lambda path: _read_areas(path) is not None)
    if areas.exists():
        lines += _entry(
            areas.name,
            "Pixels, mm2 and % of the tissue for each slide and class, to be opened with any spreadsheet program. The "
            "last two columns say how much tissue that is, and of which classes. " + _RULE,
        )
    lines += _entry(
        RUN_FILE,
        "The last run: command, options, versions, times; and of each slide here which file it was, and which model "
        "and options its prediction is of. It is written again after each slide.",
    )
    if (out / EARLIER).is_dir():
        lines += _entry(f"{EARLIER}/<run>/<slide>.geojson.gz", _EARLIER)
    lines += _entry(path.name, "This page.")
    with new_file(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", "utf-8")
    return path


def _entry(name: str, text: str) -> list[str]:
    return [name, indent("\n".join(wrap(text, _LINE)), "    "), ""]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _our_name(path: Path, is_ours: Callable[[Path], bool]) -> Path:
    """The path, or with ``.dmmn-qp`` before its ending where a file is there that we did not write."""
    if not path.exists() or is_ours(path):
        return path
    return path.with_name(f"{path.stem}.dmmn-qp{path.suffix}")


def _is_our_readme(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(len(_README_TITLE) + 2).strip() == _README_TITLE
    except (OSError, UnicodeDecodeError):
        return False


def _read_areas(path: Path) -> dict[str, list[list[str]]] | None:
    """Rows by slide of an ``areas.csv`` of this or an earlier version; None for a file that we did not write."""
    found: dict[str, list[list[str]]] = {}
    try:
        reader = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
        header = tuple(next(reader, ()))
        if header not in (AREAS_COLUMNS, _EARLIER_COLUMNS):
            return None
        for row in reader:
            if len(row) != len(header):
                return None
            found.setdefault(row[0], []).append(row + [""] * (len(AREAS_COLUMNS) - len(row)))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return found
