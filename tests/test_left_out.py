"""One image, whatever is wrong with it, does not end the work on all: it is left out and listed with its reason."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dmmn_qp.files.locks import locked
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.importing import stage
from dmmn_qp.slides import probing
from tests.conftest import REPOSITORY, fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.qupath.conftest import QpdataWriter

PIXELS = two_tissues(512, 512)


def tiled(path: Path, compression: str | None = "deflate") -> Path:
    """A slide of 2 x 2 tiles."""
    tifffile.imwrite(
        path,
        PIXELS,
        tile=(256, 256),
        photometric="rgb",
        compression=compression,
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return path


def cut(path: Path) -> None:
    tiled(path, None)  # its directory comes before its pixels
    os.truncate(path, path.stat().st_size - 1000)


def damaged(path: Path, which: slice) -> None:
    """Overwrites some of a slide's tiles."""
    with tifffile.TiffFile(tiled(path)) as tiff:
        page = tiff.pages.first
        tiles = list(zip(page.dataoffsets, page.databytecounts, strict=True))[which]
    with path.open("r+b") as file:
        for offset, size in tiles:
            file.seek(offset)
            file.write(b"\x5a" * size)


def picture_cut(path: Path) -> None:
    data = write_tiff(path, PIXELS).read_bytes()
    path.write_bytes(data[: len(data) // 3])


def nothing(path: Path) -> None:
    del path


FILES = {
    "missing": (nothing, "not found"),
    "empty": (lambda path: path.write_bytes(b""), "bad.tif"),
    "text": (lambda path: path.write_text("no slide"), "bad.tif"),
    "cut": (cut, "bad.tif"),
    "cut before its directory": (picture_cut, "bad.tif"),
    "every tile damaged": (lambda path: damaged(path, slice(None)), "damaged"),
    "16 bits": (lambda path: tifffile.imwrite(path, np.zeros((512, 512, 3), np.uint16), photometric="rgb"), "bad.tif"),
    "of another size": (lambda path: write_tiff(path, two_tissues(256, 512)), "another file of that name"),
    "too coarse": (lambda path: write_tiff(path, PIXELS, 4.0), "4"),
    "no pixel size": (lambda path: write_tiff(path, PIXELS, None), "no usable pixel size"),
    "a folder": (lambda path: path.mkdir(), "holds no DICOM"),
}
"""What may be wrong with a file, and a word of what is said."""

SERVERS = {
    "unknown kind of server": ({"builderType": "hologram"}, 'kind "hologram"'),
    "second image of a file": ({"args": ["--series", "1"]}, "--series"),
    "remote": ({"uri": "https://example.org/bad.tif"}, 'stored at "https://example.org/bad.tif"'),
    "pixels not square": (
        {
            "metadata": {
                "width": 512,
                "height": 512,
                "pixelCalibration": {
                    "pixelWidth": {"value": 0.5, "unit": "µm"},
                    "pixelHeight": {"value": 0.6, "unit": "µm"},
                },
            }
        },
        "must be square",
    ),
    "damaged crop": ({"builderType": "cropped", "region": None, "builder": {"builderType": "uri"}}, "cropped"),
    "crop beyond the slide": (
        {
            "builderType": "cropped",
            "region": {"x": 9000, "y": 0, "width": 5, "height": 5, "z": 0, "t": 0},
            "builder": {"builderType": "uri", "uri": "BAD"},
        },
        "crop",
    ),
}
"""What may be wrong with an image of a project."""


def objects(*names: str | None) -> bytes:
    writer = QpdataWriter()

    def area(i: int, name: str | None) -> None:
        points = [(20 + 90 * i, 20), (100 + 90 * i, 20), (100 + 90 * i, 300), (20 + 90 * i, 300)]
        writer.path_object(lambda w: w.points("PolygonROI", points), class_names=() if name is None else (name,))

    return writer.file(*(lambda i=i, name=name: area(i, name) for i, name in enumerate(names)))


def project_of(here: Path, names: list[str], servers: dict[str, dict[str, object]] | None = None) -> Path:
    """A project of images with areas of two classes; ``bad`` ones also have one of a third, and one without."""
    entries = []
    for i, name in enumerate(names, start=1):
        data = here / "project" / "data" / str(i)
        data.mkdir(parents=True)
        drawn = ("dark", "light", "rare", None) if name.startswith("bad") else ("dark", "light")
        (data / "data.qpdata").write_bytes(objects(*drawn))
        uri = (here / "slides" / name).as_uri()
        server = {"builderType": "uri", "uri": uri, "metadata": {"width": 512, "height": 512}}
        server |= (servers or {}).get(name, {})
        if isinstance(server.get("builder"), dict) and server["builder"].get("uri") == "BAD":
            server["builder"]["uri"] = uri
        entries.append({"entryID": i, "imageName": name, "metadata": {}, "serverBuilder": server})
    path = here / "project" / "project.qpproj"
    path.write_text(json.dumps({"version": "0.6.0", "uri": path.as_uri(), "images": entries}))
    return path


def good(here: Path, *names: str) -> None:
    (here / "slides").mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        write_tiff(here / "slides" / name, two_tissues(512, 512, seed))


def told(project: Path, here: Path, word: str) -> None:
    """Import leaves the bad image out and says so everywhere; --check finds the same; --strict writes nothing."""
    check = invoke("import", project, "--check")
    assert check.exit_code == 0, check.output
    (line,) = [line for line in check.stdout.splitlines() if "left out until it is mended" in line]
    assert word in line and line.split()[0] == "warning:"
    assert word in fails("import", project, "--strict")
    strict = invoke("import", project, "--strict", "--check")
    assert strict.exit_code == 1 and any(word in x and "error:" in x for x in strict.stdout.splitlines())
    assert not (here / "dataset").exists()
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert word in line
    dataset = Dataset(here / "dataset")
    assert [r.slide_id for r in dataset.slides()] == ["a", "b"] and dataset.class_map.names == ("dark", "light")
    of_report, of_run = (json.loads((here / "dataset" / name).read_text()) for name in ("report.json", "run.json"))
    for reasons in (of_report["left_out"], of_run["left_out"], dataset.manifest.left_out):
        assert len(reasons) == 1 and word in reasons[0]
    assert any(word in finding["message"] for finding in of_report["findings"])


@pytest.mark.parametrize("kind", FILES)
def test_a_file(here, kind):
    make, word = FILES[kind]
    good(here, "a.tif", "b.tif")
    make(here / "slides" / "bad.tif")
    told(project_of(here, ["a.tif", "bad.tif", "b.tif"]), here, word)


def test_libraries_say_nothing_besides(here):
    """Each tag of this directory is one of which tifffile logs that it makes no sense."""
    good(here, "a.tif")
    data = bytearray(tiled(here / "slides" / "bad.tif").read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, directory)
    for tag in range(tags):
        struct.pack_into("<H", data, directory + 2 + 12 * tag + 2, 999)  # its type
    (here / "slides" / "bad.tif").write_bytes(data)
    for stem in ("a", "bad"):
        write_features(here / "geojson" / f"{stem}.geojson", [rectangle(20, 20, 200, 200, "dark")])
    command = [sys.executable, "-m", "dmmn_qp", "import", "slides", "--annotations", "geojson"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert all(line.startswith("warning: ") for line in result.stderr.splitlines())
    (line,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert "bad.tif" in line and "left out" in line


def test_a_file_that_would_end_the_process(here, monkeypatch):
    good(here, "a.tif", "b.tif", "bad.tif")
    fatal = {here / "slides" / "bad.tif": "slide bad.tif is fatal"}
    monkeypatch.setattr(stage, "find_fatal", lambda paths: {path: fatal[path] for path in paths if path in fatal})
    told(project_of(here, ["a.tif", "bad.tif", "b.tif"]), here, "fatal")


@pytest.mark.parametrize("kind", SERVERS)
def test_an_image_of_a_project(here, kind):
    server, word = SERVERS[kind]
    good(here, "a.tif", "b.tif", "bad.tif")
    told(project_of(here, ["a.tif", "bad.tif", "b.tif"], {"bad.tif": server}), here, word)


def test_a_path_that_is_not_utf8(here):
    good(here, "a.tif", "b.tif")
    name = os.fsdecode(b"bad\xff.tif")
    try:
        write_tiff(here / "s.tif", PIXELS).rename(here / "slides" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for stem in ("a", "b", Path(name).stem):
        write_features(here / "geojson" / f"{stem}.geojson", [rectangle(20, 20, 200, 200, "dark")])
    result = invoke("import", "slides", "--annotations", "geojson")
    assert result.exit_code == 0, result.output
    assert all(line.startswith("warning: ") for line in result.stderr.splitlines())
    (line,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert "not UTF-8" in line and "left out" in line
    assert len(json.loads((here / "dataset" / "run.json").read_text())["left_out"]) == 1


@pytest.mark.parametrize("kind", ["large.tif", "large.ome.tif"])
def test_a_large_file_that_was_cut(here, kind):
    """Its directory is whole, so that it can be opened, and most of its pixels are there."""
    good(here, "a.tif")
    path = here / "slides" / kind
    pixels = np.tile(PIXELS, (4, 4, 1))
    more = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", ome="ome" in kind, **more)
    os.truncate(path, path.stat().st_size - 1000)
    for stem in ("a", "large"):
        write_features(here / "geojson" / f"{stem}.geojson", [rectangle(20, 20, 200, 200, "dark")])
    command = ("import", "slides", "--annotations", "geojson", "--mpp", "0.5")
    assert "was cut" in invoke(*command, "--check").stdout
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "was cut" in result.stderr and len(Dataset(here / "dataset").slides()) == 1


def test_all_reasons_in_one_run(here):
    """Each is a line; with --strict, and where none is left, all are in the error."""
    good(here, "a.tif", "b.tif", "bad-series.tif")
    cut(here / "slides" / "bad-cut.tif")
    bad = ["bad-gone.tif", "bad-cut.tif", "bad-series.tif"]
    servers = {"bad-series.tif": SERVERS["second image of a file"][0]}
    project = project_of(here, ["a.tif", *bad, "b.tif"], servers)
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    warned = [line for line in result.stderr.splitlines() if "left out" in line]
    assert [sum(name in line for line in warned) for name in bad] == [1, 1, 1]
    line = fails("import", project, "--strict", "--overwrite")
    assert [name in line for name in bad] == [True] * 3
    (here / "slides" / "a.tif").unlink()
    (here / "slides" / "b.tif").unlink()
    line = fails("import", project, "--overwrite")
    assert [name in line for name in ("a.tif", *bad, "b.tif")] == [True] * 5
    assert len(Dataset(here / "dataset").slides()) == 2  # the one that was there


def test_tables_may_name_what_is_left_out(here):
    good(here, "a.tif", "b.tif")
    (here / "split.csv").write_text("slide,split\na,train\nb,val\nbad.tif,test\n")
    (here / "mpp.csv").write_text("slide,mpp\nbad,0.5\n")
    project = project_of(here, ["a.tif", "bad.tif", "b.tif"])
    result = invoke("import", project, "--split-file", "split.csv", "--mpp-csv", "mpp.csv", "--drop", "rare")
    assert result.exit_code == 0, result.output
    assert {r.slide_id: r.split for r in Dataset(here / "dataset").slides()} == {"a": "train", "b": "val"}
    (here / "split.csv").write_text("slide,split\na,train\nb,val\nbda.tif,test\n")
    assert "bda.tif" in fails("import", project, "--split-file", "split.csv", "--overwrite")


@pytest.mark.parametrize("which", range(4))
def test_one_damaged_tile_costs_its_place_in_the_picture(here, which):
    """Whichever it is, as long as the slide can be opened, the slide stays."""
    (here / "slides").mkdir()
    damaged(here / "slides" / "a.tif", slice(which, which + 1))
    good(here, "b.tif")
    result = invoke("import", project_of(here, ["a.tif", "b.tif"]))
    assert result.exit_code == 0, result.output
    assert [r.slide_id for r in Dataset(here / "dataset").slides()] == ["a", "b"]
    assert "left out" not in result.stderr and "damaged" in result.stderr


def test_check_without_any_slide_tells_of_the_annotations(here):
    """In um2 by the project's pixel size, in px2 where nobody says it."""
    project = project_of(here, ["bad.tif"])
    for calibrated, size in ((False, "px²"), (True, "mm²")):
        content = json.loads(project.read_text())
        if calibrated:
            side = {"value": 0.5, "unit": "µm"}
            calibration = {"pixelWidth": side, "pixelHeight": side}
            content["images"][0]["serverBuilder"]["metadata"]["pixelCalibration"] = calibration
            content["images"][0]["serverBuilder"]["metadata"]["height"] = 200
            project.write_text(json.dumps(content))
        result = invoke("import", project, "--check")
        assert result.exit_code == 1, result.output
        assert "not found" in result.stdout and "none of the annotated images" in result.stdout
        assert "bad: 1 annotation without a class" in result.stdout
        beyond = [line for line in result.stdout.splitlines() if "beyond the border" in line]
        assert bool(beyond) == calibrated and all(size in line for line in beyond)
    assert "bad.tif" in fails("import", project)


def test_check_of_geojson_without_any_slide(here):
    (here / "slides").mkdir()
    features = [rectangle(0, 0, 99, 99, "a"), rectangle(50, 0, 99, 99, "b"), rectangle(300, 0, 9, 9, "b")]
    write_features(here / "geojson" / "s.geojson", features)
    command = ("import", "slides", "--annotations", "geojson")
    result = invoke(*command, "--check")
    assert result.exit_code == 1, result.output
    assert '"a" and "b" overlap by 4,851 px²' in result.stdout
    assert "smaller than 200 px²" in result.stdout
    line = fails(*command)
    assert "no slide in" in line and "s.geojson" in line
    shutil.rmtree(here / "geojson")
    (here / "geojson").mkdir()
    assert "no slide in" in fails(*command)


def test_check_tells_of_annotations_on_what_is_left_out(here):
    good(here, "a.tif", "b.tif")
    result = invoke("import", project_of(here, ["a.tif", "bad.tif", "b.tif"]), "--check")
    assert result.exit_code == 0, result.output  # its class "rare" is none of the dataset, and no error
    assert "bad: 1 annotation without a class" in result.stdout


def test_an_outline_that_cannot_be_repaired_is_left_out(here):
    """The others of the file stay, and it does not take minutes."""
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", PIXELS)
    tangle = rectangle(0, 0, 9, 9, "a")
    tangle["geometry"]["coordinates"] = [np.random.default_rng(0).integers(0, 500, (5000, 2)).tolist()]
    write_features(here / "geojson" / "s.geojson", [rectangle(0, 0, 99, 99, "a"), tangle])
    result = invoke("import", "slides", "--annotations", "geojson")
    assert result.exit_code == 0, result.output
    assert "crosses itself too often" in result.stderr


# ---------------------------------------------------------------- two at once, and what killed ones left


@pytest.fixture
def command(here):
    good(here, "a.tif")
    write_features(here / "geojson" / "a.geojson", [rectangle(0, 0, 200, 200, "a")])
    return ("import", "slides", "--annotations", "geojson")


def test_two_imports_into_one_folder(here, command):
    with locked(here / "dataset", "an import", "wait"):
        line = fails(*command)
        assert "an import is running" in line and "--out" in line
        assert invoke(*command, "--check").exit_code == 0  # which writes nothing
        assert invoke(*command, "--out", "other").exit_code == 0
    assert invoke(*command).exit_code == 0


def test_only_leftovers_of_imports_into_this_place_are_removed(here, command):
    ours = [".dataset.0123abcd.part", ".dataset.ffffffff.part"]
    others = [".other.0123abcd.part", ".dataset.0123abcd.part.bak", ".dataset.0123ABCD.part", ".dataset.123.part"]
    others += [".xdataset.0123abcd.part", "dataset.0123abcd.part", ".dataset.0123abcd.old"]  # the last is no dataset
    for name in (*ours, *others):
        (here / name).mkdir()
        (here / name / "masks").write_text("x")
    (here / ".dataset.aaaaaaaa.part").write_text("a file")
    (here / ".dataset.bbbbbbbb.part").symlink_to(here / "slides")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert [name for name in ours if (here / name).exists()] == []
    for name in (*others, ".dataset.aaaaaaaa.part", ".dataset.bbbbbbbb.part", "slides/a.tif"):
        assert (here / name).exists()


def test_a_dataset_that_was_being_replaced_is_kept(here, command):
    """Killed between the two renames: the old dataset is put back, and then replaced only with --overwrite."""
    assert invoke(*command).exit_code == 0
    before = (here / "dataset" / "dataset.json").read_bytes()
    (here / "dataset").rename(here / ".dataset.0123abcd.old")
    assert "--overwrite" in fails(*command)
    assert (here / "dataset" / "dataset.json").read_bytes() == before
    shutil.copytree(here / "dataset", here / ".dataset.0123abcd.old")
    assert invoke(*command, "--overwrite").exit_code == 0
    assert not (here / ".dataset.0123abcd.old").exists()


def test_a_killed_import_leaves_nothing_that_stays(here, command):
    script = (
        "import os, signal, dmmn_qp.importing.stage as stage\n"
        "stage.write_import_report = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from dmmn_qp.cli import run; run()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run([sys.executable, "-c", script, *command], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(here.glob(".dataset.*.part"))) == 1
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert list(here.glob(".dataset.*.part")) == [] and len(Dataset(here / "dataset").slides()) == 1


def test_what_would_end_the_process_is_found_in_another_one(here, command, monkeypatch):
    """As a library written in C does, for what a damaged file claims."""
    opening = probing.OPENING.replace("import openslide\n", "import openslide, os\n").replace(
        "        if openslide", "        if 'ends' in path:\n            os.abort()\n        if openslide"
    )
    monkeypatch.setattr(probing.find_fatal, "__defaults__", (opening,))
    (here / "slides" / "a.tif").rename(here / "slides" / "ends.tif")
    (here / "geojson" / "a.geojson").rename(here / "geojson" / "ends.geojson")
    shutil.copy(here / "slides" / "ends.tif", here / "slides" / "whole.tif")
    shutil.copy(here / "geojson" / "ends.geojson", here / "geojson" / "whole.geojson")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "ends the program when it is opened" in " ".join(result.output.split())
    assert [record.slide_id for record in Dataset(here / "dataset").slides()] == ["whole"]
