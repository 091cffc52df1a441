"""Predictions that are interrupted, of several slides, and of damaged ones: nothing is lost, nothing done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
import torch

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import ModelCard, NetworkOptions, save_model
from dmmn_qp.folders.predictions import LABELS_SUFFIX
from dmmn_qp.outputs.overview import write_overview
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import publishing
from dmmn_qp.predicting.strips import StripStore
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import REPOSITORY, fails, invoke, write_tiff
from tests.predicting import SwitchedOffError, no_picture, switched_off, writing

ROWS, COLUMNS, STRIPS = 1000, 300, 4


def make_model(folder, seed=0, width=2):
    torch.manual_seed(seed)
    card = ModelCard(
        name=folder.name,
        network=NetworkOptions(architecture="dmmn-m3", width=width, norm="group", stem="full"),
        class_map=ClassMap.from_colors([("background", (1, 2, 3)), ("b", (4, 5, 6)), ("c", (7, 8, 9))]),
        patch_spec=PatchSpec(size_px=64, stride_px=64),
        created="now",
        provenance={"run_id": f"run-{seed}"},
    )
    folder.mkdir()
    network = card.build().eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(texture(256, 256)).permute(2, 0, 1)[None].float() / 255
        logits = network([pixels] * 3)
        margin = (logits[:, 1:].amax(1) - logits[:, 0]).flatten()
        network.network.final[-1].bias[0] += margin.quantile(0.98)  # few pixels are of the others: small GeoJSON
    save_model(folder, card, network)
    return folder


def texture(rows=ROWS, columns=COLUMNS, seed=0):
    """Blots of several sizes, so that a network has something to tell apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-rows // 40), -(-columns // 40), 3))
    pixels = coarse.repeat(40, 0).repeat(40, 1)[:rows, :columns] + rng.integers(-40, 40, (rows, columns, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing overviews would take most of the time."""
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A model and a slide of four strips, and the slide's labels."""
    folder = tmp_path_factory.mktemp("material")
    make_model(folder / "m")
    make_model(folder / "other", seed=1)
    write_tiff(folder / "s.tif", texture())
    assert invoke(*command(folder), "--out", folder / "whole", "--probabilities").exit_code == 0
    return folder


def command(folder, *names, model="m"):
    slides = [folder / f"{name}.tif" for name in names or ("s",)]
    return ("predict", *slides, "--model", folder / model, "--precision", "fp32", "--device", "cpu")


def labels_of(path):
    with LabelRaster(path) as raster:
        rows, columns = raster.shape
        return raster.read(Region(0, 0, columns, rows))


def same_pixels(one, other):
    return np.array_equal(tifffile.imread(one), tifffile.imread(other))


@contextmanager
def written_strips(monkeypatch, stop_before=None):
    """Notes which strips are written, and stops before one as if the machine had been switched off."""
    plain, numbers = StripStore.write, []

    def write(self, strip, pixels):
        if stop_before is not None and strip >= stop_before:
            raise SwitchedOffError
        numbers.append(strip)
        plain(self, strip, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(StripStore, "write", write)
        yield numbers


def interrupt(monkeypatch, material, strip, *options):
    with written_strips(monkeypatch, stop_before=strip):
        switched_off(*command(material), *options)


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("strip", "resume"), [(0, ()), (1, ("--resume",)), (2, ()), (3, ("--resume",))])
def test_only_missing_strips_are_predicted(here, material, monkeypatch, strip, resume):
    interrupt(monkeypatch, material, strip, "--probabilities")
    assert hidden(here / "predictions") == [".s.part"] and len(list((here / "predictions").iterdir())) == 1
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material), "--probabilities", *resume)
    assert result.exit_code == 0, result.output
    assert numbers == list(range(strip, STRIPS))
    assert (f"goes on, {strip} of {STRIPS} strips are finished" in result.output) == (strip > 0)
    for name in ("s.labels.ome.tif", "s.probabilities.ome.tif"):
        assert same_pixels(here / "predictions" / name, material / "whole" / name)
    assert labels_of(here / "predictions/s.labels.ome.tif").min() >= 1
    assert not hidden(here / "predictions")


def test_strips_of_which_one_kind_is_missing_are_predicted_again(here, material, monkeypatch):
    """Labels come last, so a strip has them only when it has everything."""
    interrupt(monkeypatch, material, 2, "--probabilities")
    (here / "predictions/.s.part/00001.labels.zst").unlink()
    with written_strips(monkeypatch) as numbers:
        assert invoke(*command(material), "--probabilities").exit_code == 0
    assert numbers == [1, 2, 3]
    assert same_pixels(here / "predictions/s.probabilities.ome.tif", material / "whole/s.probabilities.ome.tif")


@pytest.mark.parametrize("where", [LABELS_SUFFIX, "write_areas", "geojson"])
def test_interrupted_after_the_last_strip(here, material, monkeypatch, where):
    def stop(*_, **__):
        raise SwitchedOffError

    with monkeypatch.context() as patch:
        if where in WRITERS:
            patch.setitem(WRITERS, where, writing(where, stop))
        else:
            patch.setattr(publishing, where, stop)
        switched_off(*command(material))
    assert not (here / "predictions/s.geojson").exists()
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material))
    assert result.exit_code == 0, result.output
    assert numbers == [] and "goes on, 4 of 4 strips" in result.output
    assert same_pixels(here / "predictions/s.labels.ome.tif", material / "whole/s.labels.ome.tif")
    assert (here / "predictions/s.geojson").is_file() and not hidden(here / "predictions")


def test_interrupted_between_the_polygons_and_the_end(here, material, monkeypatch):
    """The slide is finished, but for its strips; they do not stay."""

    def stop(*_):
        raise SwitchedOffError

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "drop_oldest", stop)
        switched_off(*command(material))
    assert hidden(here / "predictions") == [".s.part"] and (here / "predictions/s.geojson").is_file()
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material))
    assert result.exit_code == 0 and "left as they are" in result.output
    assert numbers == [] and not hidden(here / "predictions")


def test_interrupted_while_it_replaces(here, material, monkeypatch):
    """The earlier prediction stays until the new one is complete; called again, it goes on."""
    assert invoke(*command(material, model="other")).exit_code == 0
    before = (here / "predictions/s.labels.ome.tif").read_bytes()
    interrupt(monkeypatch, material, 2, "--overwrite")
    assert (here / "predictions/s.labels.ome.tif").read_bytes() == before
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material))
    assert result.exit_code == 0 and numbers == [2, 3], result.output
    assert same_pixels(here / "predictions/s.labels.ome.tif", material / "whole/s.labels.ome.tif")
    assert not hidden(here / "predictions")


@pytest.mark.engine
def test_killed(here, material):
    """The real command, killed by the system while it predicts; called again, it does what is missing."""
    write_tiff(here / "tall.tif", texture(4096, 256))
    make_model(here / "wide", width=8)
    words = ("predict", "tall.tif", "--model", "wide", "--precision", "fp32", "--device", "cpu")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([sys.executable, "-m", "dmmn_qp", *words], env=environment, stdout=subprocess.DEVNULL)
    part = here / "predictions/.tall.part"
    deadline = time.monotonic() + 60
    while len(list(part.glob("[!.]*.labels.zst"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in part.glob("[!.]*.labels.zst")}
    assert 2 <= len(finished) < 16
    kept = []
    plain = StripStore.remove

    def remove(self):
        kept.append({name: (self.folder / name).stat().st_mtime_ns for name in finished})
        plain(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StripStore, "remove", remove)
        result = invoke(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert f"goes on, {len(finished)} of 16 strips" in result.output and kept == [finished]
    assert invoke(*words, "--out", "whole").exit_code == 0
    assert same_pixels("predictions/tall.labels.ome.tif", "whole/tall.labels.ome.tif")
    assert not hidden(here / "predictions")


@pytest.mark.parametrize(
    "change", [("--tta",), ("--context", "patch"), ("--uncertainty",), ("--outside", "background"), "model", "slide"]
)
def test_what_was_made_otherwise_begins_again(here, material, monkeypatch, change):
    interrupt(monkeypatch, material, 2)
    folder, options, model = material, change, "m"
    if change == "model":
        options, model = (), "other"
    elif change == "slide":
        options, folder = (), here
        write_tiff(here / "s.tif", texture(seed=5))
        (here / "m").symlink_to(material / "m")
    again = (*command(folder, model=model), *options)
    assert "--resume to begin again" in fails(*again, "--resume")
    assert (here / "predictions/.s.part/00001.labels.zst").is_file()
    with written_strips(monkeypatch) as numbers:
        result = invoke(*again)
    assert result.exit_code == 0, result.output
    assert "s: begins again" in result.output
    assert numbers == (list(range(STRIPS)) if "patch" not in change else [0, 1])  # of blocks of another size
    assert not hidden(here / "predictions")


def test_options_that_change_no_label_go_on(here, material, monkeypatch):
    interrupt(monkeypatch, material, 2)
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material), "--resume", "--batch-size", "3", "--workers", "1", "--devices", "2")
    assert result.exit_code == 0, result.output
    assert sorted(numbers) == [2, 3]  # two devices finish in any order
    found, whole = (labels_of(folder / "s.labels.ome.tif") for folder in (here / "predictions", material / "whole"))
    assert (found == whole).mean() > 0.999  # other batches are rounded differently


def test_overwrite_replaces_what_is_finished_not_what_is_begun(here, material, monkeypatch):
    """The same command called again goes on, also when it has --overwrite."""
    interrupt(monkeypatch, material, 2, "--overwrite")
    for expected in ([2, 3], [0, 1, 2, 3]):
        with written_strips(monkeypatch) as numbers:
            result = invoke(*command(material), "--overwrite")
        assert result.exit_code == 0 and numbers == expected, result.output


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, "cut", "longer"])
def test_damaged_strip(here, material, monkeypatch, damage):
    interrupt(monkeypatch, material, 2)
    strip = here / "predictions/.s.part/00001.labels.zst"
    content = strip.read_bytes()
    strip.write_bytes({"cut": content[:-9], "longer": content + content}.get(damage, damage))
    with written_strips(monkeypatch) as numbers:
        assert invoke(*command(material)).exit_code == 0
    assert numbers == [1, 2, 3]
    assert same_pixels(here / "predictions/s.labels.ome.tif", material / "whole/s.labels.ome.tif")


@pytest.mark.parametrize("plan", [b"{", b"\xff\xfe", None])
def test_damaged_plan_begins_again(here, material, monkeypatch, plan):
    interrupt(monkeypatch, material, 1)
    path = here / "predictions/.s.part/plan.json"
    path.unlink() if plan is None else path.write_bytes(plan)
    with written_strips(monkeypatch) as numbers:
        assert invoke(*command(material)).exit_code == 0
    assert numbers == list(range(STRIPS))


def test_strips_round_trip(tmp_path):
    store = StripStore(tmp_path / "p", (10, 7), 4, {"labels": 0, "probabilities": 3})
    assert store.begin({"a": (1, 2)}) is False and store.begin({"a": [1, 2]}) is False
    assert [store.region(n) for n in range(store.count)] == [Region(0, y, 7, h) for y, h in ((0, 4), (4, 4), (8, 2))]
    pixels = store.empty(2)
    assert pixels["probabilities"].shape == (3, 2, 7)
    pixels["probabilities"][1] = 9
    store.write(2, pixels)
    assert store.has(2) and not store.has(0) and store.finished() == 1
    assert np.array_equal(store.read(2, "probabilities"), pixels["probabilities"])
    with pytest.raises(DatasetError, match="damaged"):
        store.read(0)
    assert store.begin({"a": 3}) is True and store.finished() == 0


def test_finished_slides_are_skipped(here, material, monkeypatch):
    assert invoke(*command(material)).exit_code == 0
    before = (here / "predictions/s.geojson").read_bytes()
    record = json.loads((here / "predictions/run.json").read_text())
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material))
    assert result.exit_code == 0 and numbers == []
    assert "Predicted before, left as they are (--overwrite replaces them): s" in result.output
    assert not result.stderr and (here / "predictions/s.geojson").read_bytes() == before
    line = fails(*command(material, model="other"))
    assert 'slide "s": predicted before by another model ("m"); pass --overwrite' in line
    assert json.loads((here / "predictions/run.json").read_text()) == record
    assert invoke(*command(material, model="other"), "--overwrite").exit_code == 0
    record = json.loads((here / "predictions/run.json").read_text())
    assert record["predictions"]["s"]["model_run"] == "run-1" and record["skipped"] == []


@pytest.fixture
def three(here, material):
    """Slides a, b and c, of which b is no slide."""
    for seed, name in enumerate("ac"):
        write_tiff(here / f"{name}.tif", texture(300, 300, seed))
    (here / "b.tif").write_bytes(b"II*\0 no slide")
    (here / "m").symlink_to(material / "m")
    return here


def test_one_broken_slide_of_three(three):
    result = invoke(*command(three, "a", "b", "c"))
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert len(lines) == 2 and lines[0].startswith("warning: b is left out: ")
    assert lines[1].startswith("error: 1 of 3 slides could not be predicted: b: ")
    for name in "ac":
        assert labels_of(three / f"predictions/{name}.labels.ome.tif").min() >= 1
        assert (three / f"predictions/{name}.geojson").is_file()
    record = json.loads((three / "predictions/run.json").read_text())
    assert list(record["failed"]) == ["b"] and record["slides"] == ["a", "c"] and record["skipped"] == []
    assert set(record["predictions"]) == {"a", "c"}
    assert not hidden(three / "predictions") and not list((three / "predictions").glob("b*"))
    (three / "b.tif").unlink()
    write_tiff(three / "b.tif", texture(300, 300, 7))
    result = invoke(*command(three, "a", "b", "c"))
    assert result.exit_code == 0 and "left as they are (--overwrite replaces them): a, c" in result.output
    again = json.loads((three / "predictions/run.json").read_text())
    assert again["skipped"] == ["a", "c"] and again["failed"] == {} and again["slides"] == ["a", "b", "c"]
    assert again["predictions"]["a"] == record["predictions"]["a"] and set(again["predictions"]) == {"a", "b", "c"}


def test_all_slides_broken(three):
    (three / "d.tif").write_bytes(b"")
    line = fails(*command(three, "b", "d"))
    assert "2 of 2 slides" in line and "b: " in line and "d: " in line


def test_the_only_slide_is_broken(three):
    line = fails(*command(three, "b"))
    assert "b.tif" in line and "slides could not be predicted" not in line
    assert not (three / "predictions").exists()


def test_slide_that_breaks_while_it_is_finished(three, monkeypatch):
    """The error of one slide's files does not stop the next slide."""
    plain = WRITERS["geojson"]

    def write(path, predicted):
        if predicted.slide_id == "a":
            raise DatasetError("no ink")
        plain.write(path, predicted)

    monkeypatch.setitem(WRITERS, "geojson", writing("geojson", write))
    result = invoke(*command(three, "a", "c"))
    assert result.exit_code == 1 and "1 of 2 slides could not be predicted: a: no ink" in result.stderr
    assert (three / "predictions/c.geojson").is_file() and not (three / "predictions/a.geojson").exists()
    monkeypatch.setitem(WRITERS, "geojson", plain)
    with written_strips(monkeypatch) as numbers:
        assert invoke(*command(three, "a", "c")).exit_code == 0
    assert numbers == [] and (three / "predictions/a.geojson").is_file()


@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_damaged_slide(here, material, monkeypatch, how):
    """A tile that nothing can read: the rest is predicted, the tile has no label, and everyone is told."""
    (here / "m").symlink_to(material / "m")
    columns = 2048 if how == "cut" else 1024  # below 5 MB OpenSlide reads all tiles to open a file
    pixels = texture(1024, columns)
    if how == "cut":  # in this file the directory comes first
        resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(here / "s.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None, **resolution)
    else:
        write_tiff(here / "s.tif", pixels)
    with tifffile.TiffFile(here / "s.tif") as file:
        page = file.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = (here / "s.tif").read_bytes()
    last = max(range(len(places)), key=lambda index: places[index])
    offset, size = places[last]
    if how == "cut":
        content = content[: offset + size // 2]
    else:
        content = content[: offset + 20] + bytes(size - 20) + content[offset + size :]
    (here / "s.tif").write_bytes(content)
    with open_slide(here / "s.tif") as slide:
        assert slide.info.level_downsamples == (1.0,)
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", write_overview))
    result = invoke(*command(here), "--probabilities", "--uncertainty")
    assert result.exit_code == 0, result.output + result.stderr
    assert "1 tile could not be read and is unlabelled" in result.stderr
    labels = labels_of(here / "predictions/s.labels.ome.tif")
    lost = np.zeros((1024, columns), np.bool_)
    row, column = divmod(last, columns // 256)
    lost[row // 2 * 512 : row // 2 * 512 + 512, column // 2 * 512 : column // 2 * 512 + 512] = True
    assert (labels[~lost] >= 1).all() and not labels[lost].any()
    for kind in ("probabilities", "uncertainty"):
        assert not tifffile.imread(here / f"predictions/s.{kind}.ome.tif")[..., lost].any()
    record = json.loads((here / "predictions/run.json").read_text())
    assert record["predictions"]["s"]["unreadable"]["lost"] == 1
    assert not hidden(here / "predictions")


def test_damage_is_told_after_an_interruption_too(here, material, monkeypatch):
    """What was lost before it was interrupted is not forgotten."""
    (here / "m").symlink_to(material / "m")
    write_tiff(here / "s.tif", texture(1536, 256))
    with tifffile.TiffFile(here / "s.tif") as file:
        offset, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = (here / "s.tif").read_bytes()
    (here / "s.tif").write_bytes(content[: offset + 20] + bytes(size - 20) + content[offset + size :])
    with written_strips(monkeypatch, stop_before=5):
        switched_off(*command(here))
    result = invoke(*command(here))
    assert result.exit_code == 0, result.output + result.stderr
    assert not labels_of(here / "predictions/s.labels.ome.tif")[:512].any()
    assert "1 tile could not be read and is unlabelled" in result.stderr
    assert json.loads((here / "predictions/run.json").read_text())["predictions"]["s"]["unreadable"]["lost"] == 1


def test_outputs_beside_slides_are_no_slides(three):
    (three / "b.tif").unlink()
    options = ("--model", three / "m", "--out", ".", "--device", "cpu", "--probabilities", "--uncertainty")
    assert invoke("predict", ".", *options).exit_code == 0
    result = invoke("predict", ".", *options)
    assert result.exit_code == 0 and "left as they are (--overwrite replaces them): a, c\n" in result.output
