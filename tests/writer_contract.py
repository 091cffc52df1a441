"""The contract that every entry of `WRITERS` keeps: `CONTRACT` holds its checks, each takes a suffix and a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely

from dmmn_qp.console import Reporter
from dmmn_qp.folders.predictions import LABELS_SUFFIX, POLYGONS_SUFFIXES, predicted_polygons
from dmmn_qp.outputs.options import OutputOptions
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.outputs.pyramids import write_label_pyramid
from dmmn_qp.outputs.readme import write_readme
from dmmn_qp.outputs.writers import WRITERS, is_output, write_files
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.readers import slide_suffixes
from dmmn_qp.specs import ClassMap
from tests.conftest import write_tiff
from tests.dicom_slides import write_whole_dicom

CONTRACT: list[Callable[[str, Path], None]] = []
"""The checks: each takes a key of `WRITERS` and an empty folder."""

CLASSES = ClassMap.from_colors([("a", (0, 0, 255)), ("b", (255, 0, 0))])

EVERYTHING = OutputOptions(probabilities=True, uncertainty=True, tissue_outline=True, labels="zarr", dicom_seg=True)


class Pixels:
    """16 x 24 pixels in two strips: class 1 left, class 2 right, both sure."""

    labels = np.repeat([[1] * 12 + [2] * 12], 16, axis=0).astype(np.uint8)
    shape = (16, 24)

    def strips(self, kind="labels"):
        for rows in (self.labels[:10], self.labels[10:]):
            probabilities = np.stack([255 * (rows == label) for label in (1, 2)]).astype(np.uint8)
            yield {"labels": rows, "probabilities": probabilities, "entropy": np.zeros_like(rows)}[kind]


def promise(check):
    CONTRACT.append(check)
    return check


def predicted_slide(folder, suffix, options=EVERYTHING):
    """A slide of 48 x 32 px that is predicted at 1 um/px; its source is in the folder ``given``.

    It is a TIFF, or DICOM for a writer that wants nothing else.
    """
    given = folder / "given"
    given.mkdir()
    pixels = np.full((32, 48, 3), 200, np.uint8)
    write_tiff(given / "s.tif", pixels)
    labels = given / f"s.{LABELS_SUFFIX}"
    write_label_pyramid(labels, Pixels().strips(), Pixels.shape, 1.0, CLASSES)
    for path in (given / "s.tif", given / "dicom"):
        if path.name == "dicom":
            write_whole_dicom(path, [pixels])
        predicted = PredictedSlide(
            open_slide(path, mpp=0.5), "s", "f", labels, 2.0, CLASSES, "m", "training", "run", options,
            pixels=Pixels(), tissue=shapely.box(0, 0, 20, 20),
        )  # fmt: skip
        if not (why := WRITERS[suffix].why_not(predicted)):
            return predicted
        predicted.slide.close()
    raise AssertionError(why)


@promise
def has_a_name_of_its_own(suffix, folder):
    assert suffix == suffix.lower() and not suffix.startswith(".") and "/" not in suffix and "\\" not in suffix
    assert is_output(f"s.{suffix}")
    assert not any(is_output(f"s{ending}") for ending in slide_suffixes()), "slides would be taken for its files"


@promise
def is_not_taken_for_polygons(suffix, folder):
    """Of the files in a folder of predictions, only the polygons are those of a slide."""
    (folder / "s.geojson").write_text("{}")
    if f".{suffix}" not in POLYGONS_SUFFIXES:
        (folder / f"s.{suffix}").write_text("{}")
    assert predicted_polygons(folder) == {"s": folder / "s.geojson"}


@promise
def says_what_it_is(suffix, folder):
    about = WRITERS[suffix].about
    assert about == " ".join(about.split()) and about.endswith(".")
    (folder / f"s.{suffix}").write_text("")
    about_model = {"model_name": "m", "class_map": CLASSES, "run_id": "1", "mpp": 0.5}
    text = write_readme(folder, **about_model).read_text()
    assert f"<slide>.{suffix}\n" in text and about in " ".join(text.split())


@promise
def writes_its_file_and_nothing_else(suffix, folder):
    predicted, path = predicted_slide(folder, suffix), folder / f"s.{suffix}"
    assert not WRITERS[suffix].is_there(path, EVERYTHING)
    with predicted.slide:
        WRITERS[suffix].write(path, predicted)
    assert WRITERS[suffix].is_there(path, EVERYTHING)
    assert path.stat().st_size and {p.name for p in folder.iterdir()} == {"given", path.name}


@promise
def is_written_when_it_is_wanted(suffix, folder):
    writer = WRITERS[suffix]
    for gzip in (False, True):
        options = EVERYTHING.model_copy(update={"gzip": gzip})
        place = folder / str(gzip)
        place.mkdir()
        predicted = predicted_slide(place, suffix, options)
        with predicted.slide:
            write_files(place, predicted, Reporter(), recorded=writer.recorded)
            assert (place / f"s.{suffix}").exists() == writer.wanted(options)
