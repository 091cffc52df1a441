"""The rules of Windows, imitated: nothing replaces or removes what is open, less is there, names are few."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from dmmn_qp.errors import SlideError
from dmmn_qp.features import cache
from dmmn_qp.files import new_file, new_folder, write_json
from dmmn_qp.files.failures import line_of
from dmmn_qp.files.locks import briefly_locked, locked
from dmmn_qp.files.renaming import clear_away
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.plan import refuse_equal_names
from dmmn_qp.predicting.strips import LABELS, StripStore
from dmmn_qp.qupath.image_names import slide_ids
from dmmn_qp.slides.names import bounded_name
from dmmn_qp.slides.view import SlideView
from dmmn_qp.workflows import cleaning
from tests.conftest import invoke, rectangle, tiny_training, two_tissues, write_features, write_tiff
from tests.windows import Windows

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the imitation needs Linux")


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr("dmmn_qp.files.renaming._PATIENCE_S", 0.2)
    return Windows(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two slides of 256 x 256 px with their annotations."""
    folder = tmp_path_factory.mktemp("windows")
    (folder / "slides").mkdir()
    for seed, name in enumerate("ab"):
        write_tiff(folder / "slides" / f"{name}.tif", two_tissues(256, 512, seed))
        features = [rectangle(10, 10, 230, 230, "dark"), rectangle(270, 10, 230, 230, "light")]
        write_features(folder / "geojson" / f"{name}.geojson", features)
    return folder


def left_in(folder):
    return [path.name for path in folder.iterdir()]


def test_the_imitation_refuses_what_windows_refuses(windows, tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("a")
    other.write_text("b")
    with path.open():
        for call in (path.unlink, lambda: path.replace(other), lambda: other.replace(path)):
            with pytest.raises(PermissionError):
                call()
        with pytest.raises(PermissionError):
            tmp_path.rename(tmp_path.with_name("moved"))
    mapped = np.memmap(path, np.uint8, "r")
    with pytest.raises(PermissionError):
        path.unlink()
    del mapped
    with pytest.raises(FileExistsError):
        path.rename(other)
    other.replace(path)
    assert path.read_text() == "b" and len(windows.refused) == 5


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.engine)], ids=["short", "thorough"])
def test_the_whole_chain(windows, place, here, thorough):
    """From annotations to figures, and again over it: whatever is replaced or removed has been closed before."""
    commands = [
        ["import", place / "slides", "--annotations", place / "geojson", "--mpps", "0.5,1"],
        ["train", *tiny_training(epochs=1, steps=1), "--validate-on", "train", "--out", "m"],
        ["predict", "--model", "m"],
        ["evaluate", "--split", "train", "--resamples", "0"],
    ]
    if thorough:
        commands += [
            ["predict", "--model", "m", "--probabilities", "--uncertainty", "--overwrite"],
            ["cohort", "predictions"],
            ["models", "shrink", "m", "--out", "small"],
        ]
    over = commands if thorough else commands[2:3]
    for command in commands + [[*command, "--overwrite"] for command in over if "--overwrite" not in command]:
        result = invoke(*command)
        assert result.exit_code == 0, (command, result.output)
    assert windows.refused == []
    assert not list(here.rglob(".*")), "all that was to go has gone"


def test_what_is_open_elsewhere_is_named_and_left_whole(windows, tmp_path):
    """A table in Excel, an overview in a viewer: the message says what to close, and the old file stays."""
    table = tmp_path / "areas.json"
    write_json(table, {"a": 1})
    with table.open(), pytest.raises(PermissionError) as refused:
        write_json(table, {"a": 2})
    assert "close it in other programs" in line_of(refused.value) and str(table) in line_of(refused.value)
    write_json(table, {"a": 3})
    assert '"a": 3' in table.read_text() and left_in(tmp_path) == ["areas.json"]


@pytest.mark.parametrize(("length", "is_said"), [(100, False), (259, True)])
def test_a_path_that_is_too_long_is_said_as_that(length, is_said):
    error = FileNotFoundError(2, "The system cannot find the path specified", "C:\\" + "x" * length)
    error.winerror = 3
    assert ("a shorter path" in line_of(error)) == is_said


def test_a_folder_with_an_open_file_stays_whole(windows, tmp_path):
    folder = tmp_path / "dataset"
    for content in "12":
        with new_folder(folder, overwrite=True, marker="mark") as made:
            (made / "mark").write_text(content)
    with (
        (folder / "mark").open(),
        pytest.raises(PermissionError),
        new_folder(folder, overwrite=True, marker="mark") as made,
    ):
        (made / "mark").write_text("3")
    assert (folder / "mark").read_text() == "2" and left_in(tmp_path) == ["dataset"]


def test_a_folder_that_cannot_get_its_name_gives_the_old_one_back(windows, tmp_path, monkeypatch):
    folder = tmp_path / "dataset"
    with new_folder(folder, overwrite=True, marker="mark") as made:
        (made / "mark").write_text("1")
    with pytest.raises(PermissionError), new_folder(folder, overwrite=True, marker="mark") as made:
        (made / "mark").write_text("2")
        scanned = (made / "mark").open()  # as a scanner for viruses does
    scanned.close()
    assert (folder / "mark").read_text() == "1"


def test_a_moment_of_another_program_is_waited_for(windows, tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("old")
    held = path.open()
    monkeypatch.setattr("dmmn_qp.files.renaming.time.sleep", lambda _: held.close())
    with new_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and len(windows.refused) == 1


def damaged_strip(folder):
    strips = StripStore(folder / "strips", (2, 2), 1, {LABELS: 0})
    strips.begin({})
    strips.write(0, {LABELS: np.ones((1, 2), np.uint8)})
    (path,) = strips.folder.glob("*.zst")
    path.write_bytes(b"x")
    return path, lambda: strips.begin({})


def strip_of_another_key(folder):
    path, _ = damaged_strip(folder)
    return path, lambda: StripStore(path.parent, (2, 2), 1, {LABELS: 0}).begin({"seed": 1})


def kept_maps(folder):
    path = folder / f"{cache._MARK}-1" / "0_0.safetensors"
    path.parent.mkdir()
    path.touch()
    return path, lambda: cache.clear(folder)


def leftover(folder):
    path = folder / ".0123abcd.part.x"
    path.touch()
    return path, lambda: cleaning.remove(cleaning.Removable("leftover", path, 0))


def leftover_folder(folder):
    path = folder / ".m.0123abcd.part" / "x"
    path.parent.mkdir()
    path.touch()
    return path, lambda: cleaning.remove(cleaning.Removable("leftover", path.parent, 0))


def aside(folder):
    path = folder / ".m.0123abcd.old" / "x"
    path.parent.mkdir()
    path.touch()
    return path, lambda: clear_away(path.parent)


@pytest.mark.parametrize("made", [damaged_strip, strip_of_another_key, kept_maps, leftover, leftover_folder, aside])
def test_what_is_removed_waits_for_a_moment_of_another_program(windows, tmp_path, monkeypatch, made):
    path, remove = made(tmp_path)
    held = path.open()
    monkeypatch.setattr("dmmn_qp.files.renaming.time.sleep", lambda _: held.close())
    remove()
    assert not path.exists() and len(windows.refused) == 1


def test_what_stays_open_is_named_where_it_has_to_go(windows, tmp_path):
    path, begin = strip_of_another_key(tmp_path)
    with path.open(), pytest.raises(PermissionError) as refused:
        begin()
    assert str(path) in line_of(refused.value) and path.exists()


def test_what_stays_open_keeps_nothing_else(windows, tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    first = next(tmp_path.iterdir())  # which is tried first
    with first.open():
        clear_away(tmp_path)
    assert left_in(tmp_path) == [first.name]


def test_the_end_of_work_waits_for_who_reads_whose_it_is(windows, tmp_path, monkeypatch):
    with locked(tmp_path / "m", "a training", "wait"):
        held = (tmp_path / ".m.holder.json").open()
        monkeypatch.setattr("dmmn_qp.files.renaming.time.sleep", lambda _: held.close())
    assert left_in(tmp_path) == [] and len(windows.refused) == 1


def test_what_cannot_be_tidied_up_hides_no_error(windows, tmp_path):
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "x") as temporary:
        held = temporary.open("w")
        raise ZeroDivisionError
    held.close()


def test_locks_remove_no_file_that_is_open(windows, tmp_path):
    with locked(tmp_path / "m", "a training", "wait"), briefly_locked(tmp_path / "run.json"):
        pass
    assert windows.refused == []


NAMES = {
    "NUL.svs": "NUL_",
    "con.svs": "con_",
    "aux.x.tif": "aux_.x",
    "COM1.svs": "COM1_",
    "LPT¹.tif": "LPT¹_",
    "console.svs": "console",
    "NULL.svs": "NULL",
    "a:b?.svs": "a_b_",
    'x<>"|*.tif': "x_____",
    "ends in a dot..svs": "ends in a dot",
}


@pytest.mark.parametrize(("name", "plain"), NAMES.items())
def test_names_that_windows_cannot_have(name, plain):
    assert slide_ids([name]) == [plain]
    stem = bounded_name(Path(name).stem)
    assert not set(stem) & set('<>:"|?*\\') and stem.rstrip(" .") == plain


def test_names_that_differ_in_case_alone():
    assert slide_ids(["S1.svs", "s1.svs", "NUL.svs", "nul_.tif"]) == ["S1", "s1-2", "NUL_", "nul_-2"]
    two = [SlideToPredict(bounded_name(name), SlideView(Path(f"{name}.svs"))) for name in ("S1", "s1")]
    with pytest.raises(SlideError, match="would both be written"):
        refuse_equal_names(two)


@pytest.mark.engine
def test_reading_processes_that_are_spawned(place, here, monkeypatch):
    """Windows and macOS start them anew: all that they get has to go through a pipe, and they give the same."""
    assert invoke("import", place / "slides", "--annotations", place / "geojson", "--mpps", "0.5,1").exit_code == 0
    train = ["train", *tiny_training(epochs=1, steps=2, workers=1), "--validate-on", "train"]
    before = multiprocessing.get_start_method()
    digests = []
    try:
        for method in ("fork", "spawn"):
            multiprocessing.set_start_method(method, force=True)
            result = invoke(*train, "--out", method)
            assert result.exit_code == 0, result.output
            digests.append((here / method / "weights.safetensors").read_bytes())
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert digests[0] == digests[1]
