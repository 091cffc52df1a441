"""What may be named to be predicted: files, folders, patterns, tables, projects, slides of the dataset."""

import json
import os
import shutil

import numpy as np
import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DmmnQpError, PixelSizeError, ProjectError, SlideError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.predictions import LABELS_SUFFIX
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.stage import import_annotations
from dmmn_qp.predicting.inputs import SlideToPredict, slides_to_predict
from dmmn_qp.qupath.project import read_project
from dmmn_qp.slides.finding import parse_slides_root
from dmmn_qp.slides.view import SlideView
from tests.conftest import DEMO, fails, moved_demo, rectangle, write_features, write_tiff
from tests.slide_files import write_leica

TINY = np.full((64, 64, 3), 200, np.uint8)


@pytest.fixture
def scans(here):
    """scans/ with a, b, old/c, old/older/d and what `predict` left there."""
    for name in ("a", "b", "old/c", "old/older/d", "old/predictions/a.labels"):
        path = here / "scans" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tiff(path, TINY)
    for name in (f"a.{LABELS_SUFFIX}", "a.overview.png", "old/c.uncertainty.ome.tif"):
        write_tiff(here / "scans" / name, TINY)
    (here / "scans" / "old" / "predictions" / "run.json").write_text("{}")
    (here / "scans" / "notes.txt").write_text("")
    return here


def ids(*names, **options):
    return [slide.slide_id for slide in slides_to_predict([str(name) for name in names], NOWHERE, **options)]


NOWHERE = DEMO / "no-dataset"


@pytest.mark.parametrize(
    ("names", "recursive", "expected"),
    [
        (["scans/a.tif"], False, "a"),
        (["scans/a.tif", "scans/a.tif", "scans/../scans/a.tif"], False, "a"),
        (["scans"], False, "ab"),
        (["scans/b.tif", "scans"], False, "ba"),
        (["scans"], True, "abcd"),
        (["scans/old"], True, "cd"),
        (["scans/*.tif"], False, "ab"),
        (["scans/**/*.tif"], False, "abcd"),
        (["scans/**"], False, "abcd"),
        (["**/old/*"], False, "c"),
        (["scans/[bx].tif"], False, "b"),
        (["scans/?.tif", "scans/old/c.tif"], False, "abc"),
    ],
)
def test_files_folders_and_patterns(scans, names, recursive, expected):
    assert ids(*names, recursive=recursive) == list(expected)
    assert ids(*(scans / name for name in names), recursive=recursive) == list(expected)  # absolute ones too


def test_a_name_with_signs_of_patterns_is_a_file(here):
    write_tiff(here / "a[1].tif", TINY)
    assert ids("a[1].tif") == ["a[1]"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scans/aa.tif", ('"scans/aa.tif" does not exist', 'did you mean "scans/a.tif"')),
        ("scan/*.tif", ("matches no slide",)),
        ("scans/*.txt", ("matches no slide", "1 other files")),
        ("empty", ("holds no slide", "--recursive")),
        ("mailed", ("holds no slide but a project", "project.qpproj")),
        ("list.csv", ('table "list.csv" does not exist',)),
        ("x.qpproj", ("no QuPath project",)),
        ("a\0b", ("NUL",)),
    ],
)
def test_a_typo_is_an_error_at_once(scans, name, words):
    (scans / "empty").mkdir()
    (scans / "mailed").mkdir()
    moved_demo(scans / "mailed")
    with pytest.raises((SlideError, ProjectError)) as error:
        ids(name)
    assert all(word in str(error.value) for word in words), error.value


def test_a_missing_slide_among_others_is_said_when_it_is_opened(scans):
    first, missing = slides_to_predict(["scans/a.tif", "scans/x.tif"], NOWHERE)
    first.open().close()
    assert missing.slide_id == "x"
    with pytest.raises(SlideError, match=r"x\.tif.* does not exist"):
        missing.open()
    with pytest.raises(SlideError, match="and 1 more"):  # but not where all are missing
        ids("scans/x.tif", "scans/y.tif")


def test_two_slides_of_one_name(scans):
    shutil.copy("scans/a.tif", "scans/old/older/a.tif")
    with pytest.raises(SlideError, match='would both be written as "a"'):
        ids("scans", recursive=True)


def test_a_folder_that_links_to_itself(scans):
    (scans / "scans" / "old" / "loop").symlink_to(scans / "scans")
    assert ids("scans", recursive=True) == list("abcd")


# Tables


def table(here, text):
    (here / "lists").mkdir(exist_ok=True)
    (here / "lists" / "list.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return "lists/list.csv"


@pytest.mark.parametrize(
    "text",
    [
        "slide,mpp,roi\n../scans/a.tif,0.25,a.geojson\n../scans/b.tif,,\n",
        "\ufeffslide,mpp,roi\r\n../scans/a.tif,0.25,a.geojson\r\n../scans/b.tif,,\r\n",
        "slide;mpp;roi\n../scans/a.tif;0.25;a.geojson\n../scans/b.tif;;\n",
        'ROI,"case, stain",Slide,MPP\na.geojson,"1, ""H&E""\nsecond line",../scans/a.tif, 0.25\n,,../scans/b.tif\n\n',
        "slide,mpp,roi\n../scans/a.tif,0.25\n../scans/a.tif,,a.geojson\n../scans/b.tif\n",
    ],
)
def test_tables(scans, text):
    name = table(scans, text)
    write_features(scans / "lists" / "a.geojson", [rectangle(0, 0, 9, 9, None)])
    a, b = slides_to_predict([name], NOWHERE)
    assert (a.slide_id, a.view.mpp.listed, a.roi.name) == ("a", 0.25, "a.geojson") and a.roi.is_file()
    assert (b.slide_id, b.view.mpp.listed, b.roi) == ("b", None, None)


def test_a_missing_slide_in_a_table(scans):
    _, missing = slides_to_predict([table(scans, "slide\n../scans/a.tif\n../scans/x.tif\n")], NOWHERE)
    with pytest.raises(SlideError, match=r'table "lists/list\.csv" row 3, column slide: .*x\.tif" does not exist'):
        missing.open()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("must begin",)),
        ("a,b\n1,2\n", ("must begin", "slide,mpp,roi", '"a,b"')),
        ("slide,mpp\n", ("names no slide",)),
        ("slide,mpp,mpp\n", ("row 1", "mpp twice")),
        ("slide,mpp\n../scans/a.tif,fast\n", ("row 2", "column mpp", '"fast"')),
        ("slide,mpp\n../scans/b.tif,\n../scans/a.tif,500\n", ("row 3", "column mpp", "0.02 and 20")),
        ("slide,mpp\n../scans/a.tif,nan\n", ("row 2", "column mpp")),
        ("slide,mpp\n,0.5\n", ("row 2", "column slide", "empty")),
        ("slide,roi\n../scans/a.tif,x.geojson\n", ("row 2", "column roi", '"x.geojson"')),
        ("slide\n../scans\n", ("row 2", "column slide", "folder")),
        ("slide,mpp\na.tif,0.5,1\n", ("row 2", "3 cells", "2 columns")),
        ('slide\n"a.tif\n', ("no CSV",)),
        ('slide\n"a"b.tif\n', ("row 2", "no CSV")),
        (b"slide\n\xff.tif\n", ("UTF-8",)),
        ("slide\na\0.tif\n", ("list.csv",)),
        ("slide,mpp\n../scans/a.tif,0.5\n../scans/a.tif,0.25\n", ("named twice", "mpp", "0.5", "0.25")),
        ("slide\n../scans/x.tif\n", ("row 2", "column slide", "does not exist")),  # the only one
    ],
)
def test_errors_of_tables(scans, text, words):
    with pytest.raises((SlideError, PixelSizeError)) as error:
        ids(table(scans, text))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_table_may_name_slides_of_the_dataset(here, two_tissue_slides):
    slides, geojson = two_tissue_slides / "slides", two_tissue_slides / "geojson"
    import_annotations(slides, here / "dataset", ImportOptions(), Reporter(), annotations=geojson)
    name = table(here, "slide,mpp\nb,\na,0.3\n")
    b, a = slides_to_predict([name], here / "dataset")
    assert [b.slide_id, a.slide_id, a.view.mpp.listed, b.view.mpp.stored] == ["b", "a", 0.3, 0.5]
    assert b.annotations == here / "dataset" / "annotations" / "b.geojson" and b.annotations.is_file()


# Projects


def with_images(project, change):
    content = json.loads(project.read_text())
    change(content["images"])
    project.write_text(json.dumps(content))


@pytest.fixture
def project(here):
    (here / "mailed").mkdir()
    return moved_demo(here / "mailed")


ROOTS = (parse_slides_root(str(DEMO / "slides")),)


def test_a_project(project):
    slides = slides_to_predict([str(project)], NOWHERE, ROOTS)
    assert [s.slide_id for s in slides] == ["train-1", "train-2", "val-1", "test-1"]
    for slide in slides:
        assert slide.path == DEMO / "slides" / f"{slide.slide_id}.tif" and slide.view.size_px == (3072, 3072)
        assert slide.annotations.name == "data.qpdata" and slide.annotations.is_file()
        slide.open().close()
    again = slides_to_predict([str(project), str(DEMO / "slides" / "val-1.tif")], NOWHERE, ROOTS)
    assert again == slides  # the file is the image


def test_images_of_a_project_that_cannot_be_opened(project, here):
    def change(images):
        images[0]["serverBuilder"]["uri"] = "file:/somewhere/gone.tif"
        images[1]["serverBuilder"] = {"builderType": "sparse"}
        images[2]["serverBuilder"]["metadata"].update(width=3000)

    with_images(project, change)
    gone, sparse, other, sound = slides_to_predict([str(project)], NOWHERE, ROOTS)
    sound.open().close()
    for slide, word in ((gone, "not found"), (sparse, "cannot be related"), (other, "3072 x 3072.*3000 x 3072")):
        with pytest.raises(SlideError, match=word):
            slide.open()
    with pytest.raises(SlideError, match="and 3 more"):
        slides_to_predict([str(project)], NOWHERE)


def test_turned_and_cropped_images_have_the_names_and_frames_of_the_import(project, here):
    """One file three times: plain without annotations, turned, and cropped."""

    def change(images):
        plain = json.loads(json.dumps(images[2]))
        plain["entryID"] = 99
        images.insert(0, plain)
        turned = images[1]  # train-1's annotations, on val-1's file
        file = images[3]["serverBuilder"]
        turned["serverBuilder"] = {"builderType": "rotated", "rotation": "ROTATE_90", "builder": file}
        cropped = images[2]
        region = {"x": 64, "y": 128, "width": 2500, "height": 2600, "z": 0, "t": 0}
        cropped["serverBuilder"] = {"builderType": "cropped", "region": region, "builder": file}
        for image in images[:4]:  # of one file, so of one split
            image["metadata"]["split"] = "train"

    with_images(project, change)
    import_annotations(project, here / "dataset", ImportOptions(), Reporter(), slides_roots=ROOTS)
    records = {r.slide_id: r for r in Dataset(here / "dataset").slides()}
    slides = {s.slide_id: s for s in slides_to_predict([str(project)], NOWHERE, ROOTS)}
    assert list(records) == ["val-1", "val-1-2", "val-1-3", "test-1"]
    assert set(slides) == set(records) | {"val-1-4"}
    with pytest.raises(SlideError, match=r"row 2, column slide: .*as val-1, val-1-2, val-1-3, each with a frame"):
        slides_to_predict([table(here, f"slide\n{DEMO / 'slides' / 'val-1.tif'}\n")], here / "dataset")
    entries = {e.data_path: e for e in read_project(project).entries}
    for slide_id, record in records.items():
        slide = slides[slide_id]
        assert (slide.view.frame, slide.view.size_px) == (record.frame, (record.width, record.height))
        with slide.open() as opened:
            assert (opened.info.width, opened.info.height) == slide.view.size_px and opened.info.mpp == record.mpp
        assert entries[slide.annotations].frame == record.frame
    assert slides["val-1-4"].view.frame == () and slides["val-1-4"].annotations is None
    by_record = {s.slide_id: s for s in slides_to_predict([], here / "dataset")}
    assert {k: (s.view.frame, s.view.size_px) for k, s in by_record.items()} == {
        k: (slides[k].view.frame, slides[k].view.size_px) for k in records
    }


def test_frame_of_a_project_that_does_not_crop(project, here):
    """OpenSlide's bounds are the frame, but for images with --no-crop."""
    (here / "slides").mkdir()
    write_leica(here / "slides" / "train-1.scn", TINY, (300, 200), (100, 50))

    def change(images):
        server = images[0]["serverBuilder"]
        server["uri"], server["args"] = "file:/x/train-1.scn", ["--no-crop"]
        server["metadata"].update(width=300, height=200)
        images[1]["serverBuilder"] = json.loads(json.dumps(server)) | {"args": []}
        images[1]["serverBuilder"]["metadata"].update(width=64, height=64)
        del images[2:]

    with_images(project, change)
    whole, cropped = slides_to_predict([str(project)], NOWHERE, (parse_slides_root(str(here / "slides")),))
    assert (whole.view.crop_to_bounds, cropped.view.crop_to_bounds) == (False, True)
    assert [whole.slide_id, cropped.slide_id] == ["train-1", "train-1-2"]
    for slide in (whole, cropped):
        slide.open().close()


# Regions


def test_roi_of_one_slide_and_of_several(scans):
    roi = write_features(scans / "areas" / "a.geojson", [rectangle(0, 0, 9, 9, None)])
    (slide,) = slides_to_predict(["scans/a.tif"], NOWHERE, roi=roi)
    assert slide.roi == roi
    with pytest.raises(SlideError, match="one file for 2 slides"):
        ids("scans", roi=roi)
    with pytest.raises(SlideError, match="does not exist; check the path"):
        ids("scans", roi=scans / "nothing")
    a, b = slides_to_predict(["scans"], NOWHERE, roi=scans / "areas")
    assert a.roi == roi and a.problem is None
    with pytest.raises(SlideError, match=r'areas of slide "b" are not in .*b\.geojson'):
        b.open()
    with pytest.raises(SlideError, match='areas of slide "b"'):
        ids("scans/b.tif", roi=scans / "areas")


def test_command_line_says_it_in_one_line(scans):
    table(scans, "slide,mpp\nscans/a.tif,x\n")
    assert "row 2, column mpp" in fails("predict", "lists/list.csv")
    assert "matches no slide" in fails("predict", "scans/*.svs")
    assert "--roi" in fails("predict", "scans/a.tif", "--roi", "no.geojson")
    assert "--tissue-margin-um should be a finite number" in fails(
        "predict", "scans/a.tif", "--tissue-margin-um", "inf"
    )
    assert not (scans / "predictions").exists()


def test_a_slide_that_cannot_be_opened_says_so(here):
    (here / "a.tif").write_text("no slide")
    (slide,) = slides_to_predict(["a.tif"], NOWHERE)
    assert slide == SlideToPredict("a", SlideView(slide.path))
    with pytest.raises(DmmnQpError):
        slide.open()


def test_a_pipe_or_a_device_is_no_slide(here):
    """Reading them would never end."""
    os.mkfifo(here / "pipe.tif")
    for name, kind in (("pipe.tif", "pipe"), ("/dev/zero", "device")):
        assert f'slide "{name}" is a {kind}, not a file' in fails("predict", name, "--model", "m")
