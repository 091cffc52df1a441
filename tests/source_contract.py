"""The contract that every entry of `ANNOTATION_SOURCES` keeps: `CONTRACT` holds its checks.

Each takes a key, a path of that kind, and the annotations that the user names beside it, if any.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.importing.sources import ANNOTATION_SOURCES, read_source
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.slides.pixel_sizes import MppRules
from tests.conftest import invoke

CONTRACT: list[Callable[[str, Path, Path | None], None]] = []


DAMAGED = b"\xff\x00{"


def promise(check):
    CONTRACT.append(check)
    return check


@promise
def is_the_first_that_wants_its_path(name, path, annotations):
    assert next(key for key, kind in ANNOTATION_SOURCES.items() if kind.wants(path, annotations)) == name


@promise
def lists_annotated_slides(name, path, annotations):
    """Each once, with its file, and with objects that lie on it."""
    source = read_source(path, annotations, ())
    assert source.slides and len({slide.name for slide in source.slides}) == len(source.slides)
    for slide in source.slides:
        assert slide.path.is_file() and slide.objects.annotations
        with slide.view.with_rules(MppRules(0.5)).open() as opened:
            info = opened.info
        for annotation in slide.objects.annotations:
            left, top, right, bottom = annotation.geometry.bounds
            assert right > 0 and bottom > 0 and left < info.width and top < info.height
            assert annotation.origin in ORIGINS


@promise
def knows_every_class(name, path, annotations):
    source = read_source(path, annotations, ())
    used = {a.class_name for slide in source.slides for a in slide.objects.annotations} - {None}
    assert used and used <= source.class_colors.keys()


@promise
def reads_the_kinds_that_are_asked_for(name, path, annotations):
    try:
        tiles = read_source(path, annotations, (), ReadRules(kinds=("tile",)))
    except DmmnQpError:
        return
    assert all(a.kind == "tile" for slide in tiles.slides for a in slide.objects.annotations)


@promise
def reads_the_same_twice(name, path, annotations):
    assert read_source(path, annotations, ()) == read_source(path, annotations, ())


@promise
def says_in_one_line_what_is_damaged(name, path, annotations):
    """Of what is of this kind by its name, with nothing sensible in it: the path, or each file of annotations."""
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / path.name
        damaged.write_bytes(DAMAGED)
        with pytest.raises(DmmnQpError) as caught:
            read_source(damaged, annotations, ())
        assert "\n" not in str(caught.value)
        if annotations is None:
            return
        beside = Path(folder) / "annotations"
        beside.mkdir()
        for file in annotations.iterdir() if annotations.is_dir() else [annotations]:
            (beside / file.name).write_bytes(DAMAGED)
        with pytest.raises(DmmnQpError) as caught:
            read_source(path, beside, ())
        assert "\n" not in str(caught.value)


@promise
def can_be_imported(name, path, annotations):
    """The dataset has the classes of the source."""
    with tempfile.TemporaryDirectory() as folder:
        given = [] if annotations is None else ["--annotations", annotations]
        result = invoke("import", path, *given, "--mpp", 0.5, "--out", Path(folder) / "d")
        assert result.exit_code == 0, result.output
        manifest = json.loads((Path(folder) / "d" / "dataset.json").read_text())
    source = read_source(path, annotations, ())
    assert {record["slide_id"] for record in manifest["slides"]} == {Path(s.name).stem for s in source.slides}
    assert manifest["class_map"]["classes"]
