"""Size and frame are what the user means, or it is said: through the commands, on files that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import LABELS_SUFFIX
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import read_overview
from dmmn_qp.slides.transformed import Crop, Flip, Rotate, describe_frame, parse_frame
from tests.conftest import DEMO, fails, invoke, moved_demo, rectangle, slides_with, write_features, write_tiff

TRAINED = ("train-1", "train-2")
MODEL = Path(__file__).parents[1] / "models" / "demo"


def record_of(here, slide_id="s0"):
    return Dataset(here / "dataset").record(slide_id)


# ---------------------------------------------------------------- size


@pytest.fixture
def command(here):
    """Three slides whose files say 0.5 um/px."""
    return slides_with(here, [[rectangle(0, 0, 99, 99, "a")]] * 3, n=3)


def test_a_row_of_the_table_wins_over_the_file(here, command):
    (here / "sizes.csv").write_text("slide,mpp\ns0,0.25\n")
    result = invoke(*command, "--mpp-csv", "sizes.csv")
    assert result.exit_code == 0 and record_of(here).mpp == 0.25
    assert "s0: 0.25 um/px is used, as sizes.csv says; the file says 0.5" in " ".join(result.output.split())
    (finding,) = [
        f for f in json.loads((here / "dataset" / "report.json").read_text())["findings"] if "0.25" in f["message"]
    ]
    assert finding["slide"] == "s0" and "the file says 0.5" in finding["message"]


def test_decimal_commas_of_spreadsheets(here, command):
    (here / "sizes.csv").write_text("slide;mpp\ns0;0,25\n")
    assert invoke(*command, "--mpp-csv", "sizes.csv").exit_code == 0 and record_of(here).mpp == 0.25


def test_mpp_fills_gaps_and_names_what_it_did_not_touch(here, command):
    write_tiff(here / "slides" / "s1.tif", np.full((200, 200, 3), 150, np.uint8), None)
    result = invoke(*command, "--mpp", "0.25")
    assert result.exit_code == 0, result.output
    assert [record_of(here, name).mpp for name in ("s0", "s1")] == [0.5, 0.25]
    said = " ".join(result.output.split())
    assert "s0: 0.5 um/px is used, as the file says; --mpp says 0.25; pass --force-mpp" in said
    assert "s1: " not in said


def test_force_mpp_forces_it(here, command):
    result = invoke(*command, "--mpp", "0.25", "--force-mpp")
    assert result.exit_code == 0 and record_of(here).mpp == 0.25
    assert "as --mpp says; the file says 0.5" in " ".join(result.output.split())
    assert "--force-mpp forces nothing without --mpp" in fails(*command, "--force-mpp", "--overwrite")


def test_the_size_set_in_qupath_wins_and_training_sees_it(here):
    (here / "moved").mkdir()
    project = moved_demo(here / "moved")
    content = json.loads(project.read_text())
    for image in content["images"]:
        for side in ("pixelWidth", "pixelHeight"):
            image["serverBuilder"]["metadata"]["pixelCalibration"][side]["value"] = 0.25
    project.write_text(json.dumps(content))
    result = invoke("import", project, "--slides-root", DEMO / "slides")
    assert result.exit_code == 0, result.output
    dataset = Dataset(here / "dataset")
    assert {r.mpp for r in dataset.slides()} == {0.25}
    with dataset.open(dataset.record("val-1")) as slide:
        assert slide.info.mpp == 0.25
    assert "0.25 um/px is used, as the QuPath project says; the file says 0.5" in " ".join(result.output.split())
    (slide, *_) = slides_to_predict([str(project)], here / "none", [DEMO / "slides"])
    with slide.open() as opened:
        assert opened.info.mpp == 0.25


@pytest.mark.parametrize(
    ("height", "words", "used"),
    [
        (0.55, [], None),
        (0.55, ["--mpp", "0.4"], None),
        (0.55, ["--mpp", "0.4", "--force-mpp"], 0.4),
        (0.55, ["--mpp-csv", "sizes.csv"], 0.3),
        (0.505, [], 0.5025),
    ],
)
def test_pixels_that_the_project_says_are_not_square(here, height, words, used):
    """An error unless somebody says it of these slides; of a file, 2 % count as a square as well."""
    (here / "moved").mkdir()
    project = moved_demo(here / "moved")
    (here / "sizes.csv").write_text("slide,mpp\n" + "".join(f"{n},0.3\n" for n in (*TRAINED, "val-1", "test-1")))
    content = json.loads(project.read_text())
    for image in content["images"]:
        image["serverBuilder"]["metadata"]["pixelCalibration"]["pixelHeight"]["value"] = height
    project.write_text(json.dumps(content))
    command = ("import", project, "--slides-root", DEMO / "slides", *words)
    if used is None:
        assert "pixels of 0.5 x 0.55 um" in fails(*command)
    else:
        result = invoke(*command)
        assert result.exit_code == 0, result.output
        assert {r.mpp for r in Dataset(here / "dataset").slides()} == {used}


def test_pixel_sizes_in_prediction(here):
    """--mpp fills gaps; a row of a table, --force-mpp and the caller in Python win."""
    write_tiff(here / "s.tif", np.full((300, 300, 3), 200, np.uint8), 0.5)
    (here / "list.csv").write_text("slide,mpp\ns.tif,0.25\n")
    used = {}
    for name, words in {
        "gap": ["s.tif", "--mpp", "0.25"],
        "forced": ["s.tif", "--mpp", "0.25", "--force-mpp"],
        "table": ["list.csv"],
    }.items():
        result = invoke("predict", *words, "--model", MODEL, "--views", 1, "--out", name)
        assert result.exit_code == 0, result.output
        run = json.loads((here / name / "run.json").read_text())
        used[name] = run["predictions"]["s"]["request"]["um_per_px"]
        assert " says 0." in " ".join(result.output.split())
    assert used == {"gap": pytest.approx(0.5), "forced": 0.25, "table": 0.25}
    with open_slide(here / "s.tif", mpp=0.3) as slide:
        assert slide.info.mpp == 0.3


def test_pixel_sizes_beside_the_annotations_count(here, command):
    (here / "geojson" / "pixel_sizes.csv").write_text('slide,mpp\n"s0.tif",0.25\n"other.svs",1\n')
    assert invoke(*command).exit_code == 0
    assert [record_of(here, name).mpp for name in ("s0", "s1")] == [0.25, 0.5]
    (here / "geojson" / "pixel_sizes.csv").write_text("slide,mpp\n")
    assert invoke(*command, "--overwrite").exit_code == 0


# ---------------------------------------------------------------- frame


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("", ()),
        ("rotate 90", (Rotate(degrees=90),)),
        ("None", ()),
        ("ROTATE_NONE then FLIP_NONE then rotate 0", ()),
        ("ROTATE_270 then flip: BOTH", (Rotate(degrees=270), Flip(axis="both"))),
        ("Flip  horizontal", (Flip(axis="horizontal"),)),
        ("crop -3, 4, 50, 60 then ROTATE 270 then flip both",
         (Crop(x=-3, y=4, width=50, height=60), Rotate(degrees=270), Flip(axis="both"))),
    ],
)  # fmt: skip
def test_frames_in_words(text, frame):
    assert parse_frame(text) == frame
    assert parse_frame(describe_frame(frame)) == frame


@pytest.mark.parametrize("text", ["rotate 45", "flip", "crop 1 2 3", "crop 0 0 0 5", "turn", "rotate 90 flip both"])
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match="is no step of a frame"):
        parse_frame(text)


FLIPS = {"HORIZONTAL": 1, "VERTICAL": 0, "BOTH": (0, 1), "NONE": ()}


@pytest.mark.parametrize("flip", FLIPS)
def test_mirrored_image_of_a_project(here, flip):
    """The file is mirrored back, and the project mirrors it: QuPath shows what it always did."""
    (here / "slides").mkdir()
    (here / "moved").mkdir()
    project = moved_demo(here / "moved")
    for slide in (DEMO / "slides").glob("*.tif"):
        (here / "slides" / slide.name).symlink_to(slide)
    with open_slide(DEMO / "slides" / "val-1.tif") as slide:
        info = slide.info
        pixels = slide.read_level(0, Region(0, 0, info.width, info.height))
    (here / "slides" / "val-1.tif").unlink()
    write_tiff(here / "slides" / "val-1.tif", np.flip(pixels, FLIPS[flip]), info.mpp)
    content = json.loads(project.read_text())
    (image,) = (i for i in content["images"] if i["serverBuilder"]["uri"].endswith("val-1.tif"))
    image["serverBuilder"] = {"builderType": "flipped", "flip": flip, "builder": image["serverBuilder"]}
    project.write_text(json.dumps(content))
    assert invoke("import", project, "--slides-root", "slides").exit_code == 0
    dataset = Dataset(here / "dataset")
    with dataset.open(dataset.record("val-1")) as slide:
        assert np.array_equal(slide.read_level(0, Region(0, 0, info.width, info.height)), pixels)
    image["serverBuilder"]["flip"] = "SIDEWAYS"
    project.write_text(json.dumps(content))
    assert "mirrored image (SIDEWAYS)" in fails("import", project, "--slides-root", "slides", "--overwrite", "--strict")


def test_predictions_go_back_into_a_mirrored_frame(here):
    """Of a mirrored image with its marks, the same areas are predicted, mirrored."""
    with open_slide(DEMO / "slides" / "test-1.tif") as slide:
        pixels = slide.read_level(0, Region(1024, 1024, 512, 384))
    write_tiff(here / "file.tif", pixels[:, ::-1], 0.5)
    write_tiff(here / "shown.tif", pixels, 0.5)
    metadata = {"name": "x", "width": 512, "height": 384}
    builder = {"builderType": "uri", "uri": (here / "file.tif").as_uri(), "metadata": metadata}
    images = [{"entryID": 1, "imageName": "file.tif",
               "serverBuilder": {"builderType": "flipped", "flip": "HORIZONTAL", "builder": builder}}]  # fmt: skip
    (here / "project.qpproj").write_text(json.dumps({"version": "0.7.0", "images": images}))
    for name in ("project.qpproj", "shown.tif"):
        result = invoke("predict", name, "--model", MODEL, "--out", "p", "--precision", "fp32", "--views", 1)
        assert result.exit_code == 0, result.output
    labels = []
    for name in ("file", "shown"):
        with LabelRaster(here / "p" / f"{name}.{LABELS_SUFFIX}") as raster:
            labels.append(raster.read(Region(0, 0, *raster.shape[::-1])))
    assert np.array_equal(*labels) and len(np.unique(labels)) > 1
    assert len(read_geojson(here / "p" / "file.geojson").annotations) > 0
    assert json.loads((here / "p" / "run.json").read_text())["inputs"]["file"]["frame"][0]["axis"] == "horizontal"


def turned_case(here):
    """Areas on a picture, and the same areas as QuPath exports them where its project turns and mirrors it."""
    pixels = np.zeros((150, 200, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(200), np.arange(150)[:, None]
    for side in ("plain", "turned"):
        (here / side / "slides").mkdir(parents=True)
        (here / side / "geojson").mkdir()
        write_tiff(here / side / "slides" / "case1.tif", pixels, 0.5)
    write_features(
        here / "plain" / "geojson" / "case1.geojson",
        [rectangle(10, 20, 60, 50, "a"), rectangle(100, 90, 190, 140, "b")],
    )
    # turned by 90 degrees clockwise: (x, y) -> (150 - y, x); then mirrored at a vertical axis: x -> 150 - x
    write_features(
        here / "turned" / "geojson" / "case1.geojson",
        [rectangle(20, 10, 50, 60, "a"), rectangle(90, 100, 140, 190, "b")],
    )


def test_geojson_of_a_turned_image_can_say_its_frame(here):
    turned_case(here)
    (here / "turned" / "geojson" / "frames.csv").write_text("slide;frame\ncase1;rotate 90 then flip horizontal\n")
    for side in ("plain", "turned"):
        words = ["--annotations", here / side / "geojson", "--out", f"{side}-set", "--mpps", "0.5"]
        result = invoke("import", here / side / "slides", *words)
        assert result.exit_code == 0, result.output
    plain, turned = (Dataset(here / f"{side}-set") for side in ("plain", "turned"))
    masks = []
    for dataset in (plain, turned):
        with LabelRaster(dataset.mask_path("case1")) as raster:
            masks.append(raster.read(Region(0, 0, *raster.shape[::-1])))
    assert np.array_equal(masks[1], np.rot90(masks[0], -1)[:, ::-1]) and masks[0].any()
    with plain.open(plain.record("case1")) as a, turned.open(turned.record("case1")) as b:
        assert np.array_equal(read_overview(b, 300), np.rot90(read_overview(a, 300), -1)[:, ::-1])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("slide,frame\ncase1,rotate 45\n", 'row 2, column frame: "rotate 45" is no step of a frame'),
        ("slide,frame\nother,rotate 90\n", 'slide "other" is not there'),
        ("slide,frame\ncase1,rotate 90\ncase1.tif,flip both\n", "flip both, but rotate 90 further up"),
    ],
)
def test_damaged_table_of_frames(here, table, said):
    turned_case(here)
    (here / "turned" / "geojson" / "frames.csv").write_text(table)
    assert said in fails("import", here / "turned" / "slides", "--annotations", here / "turned" / "geojson")


# ---------------------------------------------------------------- classes beside the annotations


def test_order_and_colours_of_an_exported_project(here):
    """Where areas of two classes overlap, the class further down the project's list wins, as in the project itself."""
    command = slides_with(here, [rectangle(0, 0, 99, 99, "late"), rectangle(100, 0, 199, 99, "early")])
    (here / "geojson" / "classes.csv").write_text('class,red,green,blue\n"early",1,2,3\n"late",4,5,6\n"unused",7,8,9\n')
    assert invoke(*command).exit_code == 0
    class_map = Dataset(here / "dataset").class_map
    assert class_map.names == ("early", "late") and dict(class_map.colors) == {"early": (1, 2, 3), "late": (4, 5, 6)}
    (here / "geojson" / "classes.csv").write_text("class,red,green,blue\nearly,1,2,300\n")
    assert "is no colour" in fails(*command, "--overwrite")


# ---------------------------------------------------------------- files that are only called alike


def test_a_slide_found_outside_of_the_project_by_name_is_said(here):
    for name in ("mine", "other"):
        (here / name).mkdir()
    project = moved_demo(here / "mine")
    (here / "other" / "slides").mkdir()
    for slide in (DEMO / "slides").glob("*.tif"):
        (here / "other" / "slides" / slide.name).symlink_to(slide)
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "train-1.tif" in said and "outside of the project, by name alone" in said
    result = invoke("import", project, "--slides-root", here / "other" / "slides", "--overwrite")
    assert result.exit_code == 0 and "by name alone" not in result.output
    result = invoke("predict", project, "--model", MODEL, "--out", "p", "--roi", here / "nowhere")
    assert "by name alone" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("features", "rule", "expected"),
    [
        ([rectangle(0, 0, 99, 99, "a"), rectangle(10, 10, 50, 50, "b")], "inner", [("note", '"b" lies inside "a"')]),
        (
            [rectangle(0, 0, 99, 99, "a"), rectangle(10, 10, 50, 50, "b"), rectangle(120, 0, 199, 99, "b")],
            "class-order",
            [("warning", "overlap by")],
        ),
        ([rectangle(0, 0, 99, 99, "a"), rectangle(60, 0, 199, 99, "b")], "inner", [("warning", "overlap by")]),
        (
            [rectangle(0, 0, 99, 99, "a"), rectangle(10, 10, 50, 50, "b"), rectangle(60, 0, 199, 99, "b")],
            "inner",
            [("note", '"b" lies inside "a" in 1 place'), ("warning", "overlap by")],
        ),
    ],
)
def test_nested_areas_are_no_contradiction_where_the_inner_one_wins(here, features, rule, expected):
    command = slides_with(here, features)
    invoke(*command, "--overlap", rule)
    findings = json.loads((here / "dataset" / "report.json").read_text())["findings"]
    found = [f for f in findings if "lies inside" in f["message"] or "overlap by" in f["message"]]
    assert len(found) == len(expected)
    for severity, words in expected:
        assert any(f["severity"] == severity and words in f["message"] for f in found), found
