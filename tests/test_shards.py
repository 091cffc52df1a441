"""One prediction in several parts, as on a cluster: in the end the folder is that of one call, whatever the order."""

import json
import re
import threading
from pathlib import Path

import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting.inputs import SlideToPredict, slides_to_predict
from dmmn_qp.predicting.options import OF_THE_WORK, PredictOptions
from dmmn_qp.predicting.request import polygons_request, request_of
from dmmn_qp.predicting.shards import Shard, sizes_of
from dmmn_qp.predicting.stage import predict
from dmmn_qp.slides.view import SlideView
from tests.conftest import fails, invoke, write_tiff
from tests.predicting import no_picture, writing
from tests.test_prediction_resume import hidden, make_model, texture

SIZES = {"a": 1, "b": 8, "c": 5, "d": 4, "e": 3, "f": 3}


def listed(folder, sizes=None):
    """Slides of so many bytes each, which nobody can open."""
    slides = []
    for name, size in (sizes or SIZES).items():
        (folder / f"{name}.svs").write_bytes(b"x" * size)
        slides.append(SlideToPredict(name, SlideView(folder / f"{name}.svs")))
    return slides


def part(number, of, slides):
    return Shard(number, of).part_of(slides, sizes_of(slides))


def names(slides):
    return "".join(slide.slide_id for slide in slides)


def test_shards_by_hand(tmp_path):
    """b to 1, c to 2, d to 3, then e and f to 3 and 2, a to 3 (1 has 8, 2 has 5 + 3, 3 has 4 + 3)."""
    slides = listed(tmp_path)
    assert [names(part(k, 3, slides)) for k in (1, 2, 3)] == ["b", "cf", "ade"]
    assert [names(part(k, 3, slides[::-1])) for k in (1, 2, 3)] == ["b", "cf", "ade"]
    assert names(part(1, 1, slides[::-1])) == "abcdef"


@pytest.mark.parametrize("of", [1, 2, 4, 6, 7, 40, 100_000])
def test_each_slide_is_in_one_shard(tmp_path, of):
    slides = listed(tmp_path)
    parts = [names(part(k, of, slides)) for k in range(1, min(of, 9) + 1)]
    assert sorted("".join(parts)) == [*"abcdef"] and all(parts[: min(of, 6)])


def test_files_of_one_size_and_missing_ones_are_shared_out_by_number(tmp_path):
    same = listed(tmp_path, dict.fromkeys("abcdef", 7))
    assert [len(part(k, 3, same)) for k in (1, 2, 3)] == [2, 2, 2]
    gone = [SlideToPredict(name, SlideView(tmp_path / "none" / name)) for name in "abcdef"]
    assert [len(part(k, 4, gone)) for k in (1, 2, 3, 4)] == [2, 2, 1, 1]


def test_what_belongs_to_a_slide_counts(tmp_path):
    """A folder of DICOM files, and the folder beside a .mrxs file."""
    slides = listed(tmp_path, {"a": 50, "b": 60})
    (tmp_path / "m").mkdir()
    (tmp_path / "m/Data0000.dat").write_bytes(b"x" * 100)
    (tmp_path / "m.mrxs").write_bytes(b"x")
    (tmp_path / "dicom").mkdir()
    for level in "012":
        (tmp_path / f"dicom/{level}.dcm").write_bytes(b"x" * 30)
    others = [SlideToPredict(n, SlideView(tmp_path / p)) for n, p in (("m", "m.mrxs"), ("z", "dicom"))]
    assert [names(part(k, 2, [*slides, *others])) for k in (1, 2)] == ["am", "bz"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/40", "pass 1/40 to 40/40, for an array from 0 its number and 1 more"),
        ("41/40", "of 40 shards the last one is 40/40"),
        ("1/0", "there may be 1 to 100000 shards"),
        ("1/999999999", "there may be 1 to 100000 shards"),
        *((text, "pass such as 3/40") for text in ("", "3", "3/", "/40", "-1/40", "3/40/5", "x/y", "1.5/2", "٣/40")),
    ],
)
def test_what_is_no_shard_is_said_in_one_line(here, text, said):
    line = fails("predict", "slides", "--shard", text)
    assert said in line and line.startswith("error: --shard")
    with pytest.raises(ConfigError):
        Shard.parse(text)


def test_a_project_is_not_written_by_several_at_once(here):
    assert "dmmn-qp push when all have ended" in fails("predict", "--shard", "1/2", "--into", "p.qpproj")


def test_names_of_all_shards_must_differ(here, model):
    for folder in ("one", "two"):
        (here / folder).mkdir()
    write_tiff(here / "one/a.tif", texture(100, 100))
    write_tiff(here / "two/A.tif", texture(100, 100))
    line = fails("predict", "one", "two", "--model", model, "--shard", "1/2")
    assert 'would both be written as "A"' in line


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def slides(here, monkeypatch):
    """Four slides, and one that nobody can read."""
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    (here / "slides").mkdir()
    for seed, name in enumerate("dbca"):
        write_tiff(here / "slides" / f"{name}.tif", texture(70 + 20 * seed, 90, seed))
    (here / "slides/bad.tif").write_bytes(b"II*\0 no slide")
    return here / "slides"


def command(model, out, *options):
    return ("predict", "slides", "--model", model, "--precision", "fp32", "--device", "cpu", "--out", out, *options)


TOLD_OF_THE_CALL = ("run_id", "command", "started", "finished", "shards")


def content_of(folder, *, skipped=False):
    """File -> content, but for what is told of the calls: times, ids, words typed."""
    run = json.loads((folder / "run.json").read_text())
    ids = {run["run_id"], *(told["run_id"] for told in run["predictions"].values())}
    found = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for run_id in ids:
            content = content.replace(run_id.encode(), b"RUN")
        found[path.name] = content
    for key in (*TOLD_OF_THE_CALL, *(["skipped"] if skipped else [])):
        run.pop(key, None)
    for told in run["predictions"].values():
        told.pop("seconds")
        told["run_id"] = "RUN"
    assert [*run["predictions"]] == sorted(run["predictions"]) and [*run["inputs"]] == sorted(run["inputs"])
    found["run.json"] = json.dumps(dict(sorted(run.items()))).encode()
    assert not hidden(folder)
    return found


def assert_same(one, other, **how):
    ours, theirs = content_of(one, **how), content_of(other, **how)
    assert ours.keys() == theirs.keys()
    for name, content in ours.items():
        assert content == theirs[name], name


def test_shards_one_after_the_other_and_two_at_once_make_the_folder_of_one_call(here, model, slides):
    assert invoke(*command(model, "whole")).exit_code == 1
    codes, said = [], ""
    for number in (3, 1, 2, 6):
        result = invoke(*command(model, "parts", "--shard", f"{number}/6"))
        codes.append(result.exit_code)
        said += result.output
    assert codes == [0, 0, 0, 0] and "Shard 6/6 has no slide, because there are only 5; nothing to do" in said
    assert re.search(r"^Shard 3/6: 1 of 5 slides \(\d+\.\d % of the bytes\)$", said, re.MULTILINE)
    for number in (4, 5):
        result = invoke(*command(model, "parts", "--shard", f"{number}/6"))
        codes.append(result.exit_code)
    assert codes[4:] == [0, 1] and "1 of 1 slide could not be predicted: bad: " in result.output
    assert_same(here / "whole", here / "parts")
    run = json.loads((here / "parts/run.json").read_text())
    assert [*run["shards"]] == ["1/6", "2/6", "3/6", "4/6", "5/6"]
    assert run["slides"] == [*"abcd"] and [*run["failed"]] == ["bad"] == [*run["shards"]["5/6"]["failed"]]

    def part(number):
        chosen = slides_to_predict(["slides"], here / "dataset")
        options = PredictOptions(precision="fp32", device="cpu")
        try:
            predict(model, chosen, here / "together", options, Reporter(), shard=Shard(number, 2))
        except Exception as error:
            failures.append(str(error))

    failures = []
    threads = [threading.Thread(target=part, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 1 and "bad: " in failures[0]
    assert_same(here / "whole", here / "together")


def test_a_failed_shard_goes_on_by_the_same_command(here, model, slides):
    (slides / "bad.tif").unlink()
    write_tiff(slides / "bad.tif", texture(60, 60, 9))
    assert invoke(*command(model, "whole")).exit_code == 0
    good = (slides / "bad.tif").read_bytes()
    (slides / "bad.tif").write_bytes(good[:200])
    failing = [n for n in (1, 2) if invoke(*command(model, "parts", "--shard", f"{n}/2")).exit_code]
    assert len(failing) == 1
    (slides / "bad.tif").write_bytes(good)
    for number in (1, 2):
        result = invoke(*command(model, "parts", "--shard", f"{number}/2"))
        assert result.exit_code == 0 and "left as they are" in result.output
    assert_same(here / "whole", here / "parts", skipped=True)


def test_what_makes_no_other_prediction_is_asked_for_by_nobody():
    """Whatever says how a slide is to be computed, and no more, is in no record of what was asked for."""
    view, options = SlideToPredict("s", SlideView(Path("s.tif"))), PredictOptions()
    other = PredictOptions(batch_size=3, compile=True, device="cpu", devices=2, threads=1, workers=1)
    assert {
        name for name in PredictOptions.model_fields if getattr(options, name) != getattr(other, name)
    } == OF_THE_WORK
    one, two = (
        request_of(view, o, mpp=0.5, context="patch", precision="fp32", regions=None) | polygons_request(o)
        for o in (options, other)
    )
    assert one == two


def test_what_other_calls_have_said_is_kept_only_where_it_belongs():
    """Of the same options and the same number of shards, and as far as it is told as we tell it."""

    def call(*slides, failed=None, **changed):
        told = {"run_id": "r", "command": [], "started": "", "finished": "", "slides": [*slides], "skipped": []}
        return told | {"failed": failed or {}, "configuration": {"views": 1}} | changed

    first = Shard(10, 12).with_others(call("b"), {})
    second = Shard(9, 12).with_others(call("a", failed={"c": "why"}), first)
    assert (
        [*second["shards"]] == ["9/12", "10/12"] and second["slides"] == ["a", "b"] and second["failed"] == {"c": "why"}
    )
    third = Shard(10, 12).with_others(call("b", "c"), second)
    assert third["slides"] == ["a", "b", "c"] and third["failed"] == {}
    assert [*Shard(1, 2).with_others(call("b"), second)["shards"]] == ["1/2"]
    assert [*Shard(1, 12).with_others(call("b", configuration={"views": 8}), second)["shards"]] == ["1/12"]
    elsewhere = call("d", configuration={"views": 1, "threads": 2, "device": "cpu", "workers": 3, "batch_size": 4})
    fourth = Shard(1, 12).with_others(elsewhere, third)
    assert [*fourth["shards"]] == ["1/12", "9/12", "10/12"] and fourth["slides"] == ["a", "b", "c", "d"]
    for damaged in ({"0/12": call("x")}, {"2/12": {"slides": 3}}, {"2/12": call("x") | {"slides": [3]}}, [], None, 3):
        told = Shard(1, 12).with_others(call("b"), call("b") | {"shards": damaged})
        assert told["slides"] == ["b"] and [*told["shards"]] == ["1/12"]
