"""Warnings that decide the result are said by `import` and again by `train`; of one kind in one line."""

from types import SimpleNamespace

import pytest
from PIL import Image

from dmmn_qp.console import Reporter
from dmmn_qp.errors import SlideError
from dmmn_qp.files import failures
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.slides.folders import _size_px as listed_size
from dmmn_qp.slides.names import bounded_name
from dmmn_qp.slides.picture_reader import PictureReader
from dmmn_qp.specs import PatchSpec, mpps_text
from dmmn_qp.text import count_of, kind_of, names_text, one_of_each_kind
from dmmn_qp.training.frozen import HeadTraining
from tests.conftest import invoke, rectangle, slides_with, two_tissues, write_tiff
from tests.projects import DARK_AND_LIGHT, make_project, make_slide


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ('1 annotation of "a" is cut; look', '12 annotations of "b c" are cut; look', True),
        ("1 patch shows it", "3 patches show it", True),
        ("overlap by 12.5 µm² in 1 place", "overlap by 1,200 mm² in 30 places", True),
        ("feature 1", "feature 3 and 12 more", True),
        ("1 annotation that crosses itself", "2 annotations that cross themselves", True),
        ('1 annotation of "a" is cut', '1 annotation of "a" is left out', False),
        ("lost 5 µm²", "gained 5 µm²", False),
    ],
)
def test_sentences_of_one_kind(one, other, alike):
    assert (kind_of(one) == kind_of(other)) is alike


def test_one_line_for_each_kind():
    said = [(f"s{i}", f"{i + 1} areas without a class (at {i}, 7); set it") for i in range(6)]
    assert one_of_each_kind([*said, ("s0", "is cut")]) == [
        "s0: 1 areas without a class (at 0, 7); set it (5 more like it: s1, s2, s3 and 2 more)",
        "s0: is cut",
    ]
    assert one_of_each_kind([(None, f'slide "{name}" is damaged') for name in "abb"]) == [
        'slide "a" is damaged (2 more like it: b)'
    ]
    assert one_of_each_kind([("s", "is cut"), ("s", "is cut")]) == ["s: is cut (1 more like it)"]
    assert names_text(["a", "b", "c"]) == "a, b, c" and count_of(1, "epoch") == "1 epoch"


@pytest.fixture
def sparse(here):
    """Three slides for training, one of them with a second class, and one for validation; each has a nameless area."""
    dark, nameless = rectangle(0, 0, 90, 99, "dark"), rectangle(0, 200, 50, 50, None)
    light = rectangle(120, 0, 99, 99, "light")
    command = slides_with(here, [[dark, light, nameless], *[[dark, nameless]] * 3], n=4)
    (here / "split.csv").write_text("slide,split\ns0,train\ns1,val\ns2,train\ns3,train\n")
    return (*command, "--split-file", "split.csv")


TINY = ("train", "--dry-run", "--preset", "scratch", "--epochs", "1", "--batch-size", "1", "--width", "2")


def test_import_and_train_say_what_decides_the_result(sparse):
    result = invoke(*sparse)
    assert result.exit_code == 0, result.output
    told = [line.removeprefix("warning: ") for line in result.stderr.splitlines()]
    few = '"light" is shown by only 1 training patch; annotate more of it, in different places and on different slides'
    unseen = '"light" has no pixel in the validation split, so the best epoch is chosen without it'
    assert few in told and any(line.startswith(unseen) for line in told)
    (nameless,) = [line for line in told if "without a class" in line]
    assert nameless.startswith("s0: 1 annotation") and nameless.endswith("(3 more like it: s1, s2, s3)")
    result = invoke(*TINY)
    assert result.exit_code == 0, result.output
    assert few in result.stderr and unseen in result.stderr and "nameless" not in result.stderr
    assert "; 1 epoch of 100 steps of 1 patch," in result.stdout and "--mpps" not in result.stderr


@pytest.mark.parametrize(("architecture", "warned"), [("dmmn-m3", True), ("unet", False)])
def test_several_magnifications_are_missed(sparse, architecture, warned):
    assert invoke(*sparse, "--mpps", "0.5").exit_code == 0
    assert ("import with --mpps 0.5,1,2" in invoke(*TINY, "--architecture", architecture).stderr) is warned


@pytest.mark.parametrize(("mpp", "text"), [(1, "1,2,4"), (0.62, "0.62,1.24,2.48"), (0.498211, "0.498,0.996,1.992")])
def test_coarser_magnifications_can_be_typed(mpp, text):
    assert mpps_text(mpp) == text
    spec = PatchSpec(mpps=tuple(map(float, text.split(","))))
    assert spec.grid_of(mpp).downsample == 1
    assert mpps_text(mpp, 1) == text.split(",", maxsplit=1)[0]


# ---- what else is said


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            '{"url": "file:///home/a%20b/dmmn-qp", "dir_info": {}}',
            'pip install "dmmn-qp[paquo] @ file:///home/a%20b/dmmn-qp"',
        ),
        (
            '{"url": "file:///C:/dmmn-qp", "dir_info": {"editable": true}}',
            'pip install -e "file:///C:/dmmn-qp[paquo]"',
        ),
        (
            '{"url": "https://a.org/b.git", "vcs_info": {"vcs": "git", "commit_id": "0f"}}',
            'pip install "dmmn-qp[paquo] @ git+https://a.org/b.git@0f"',
        ),
        (
            '{"url": "https://a.org/dmmn_qp-0.1.0-py3-none-any.whl", "archive_info": {}}',
            'pip install "dmmn-qp[paquo] @ https://a.org/dmmn_qp-0.1.0-py3-none-any.whl"',
        ),
        ("", 'pip install ".[paquo]" in the folder of dmmn-qp'),
        (None, 'pip install ".[paquo]" in the folder of dmmn-qp'),
        ("[]", 'pip install ".[paquo]" in the folder of dmmn-qp'),
    ],
)
def test_extras_are_installed_from_where_the_package_came(monkeypatch, origin, command):
    told = SimpleNamespace(read_text=lambda name: origin)
    monkeypatch.setattr(failures, "distribution", lambda name: told)
    assert failures.install_command("paquo") == command


@pytest.mark.parametrize(("rounds", "cells"), [(1, 100 + 50), (2, 100 + 50 + 100 + 200), (3, 100 + 50 + 100 + 400)])
def test_the_cells_of_the_head_are_counted_before_they_are_there(rounds, cells):
    """1,600 labelled px are 100 cells of 4 x 4; each is 3 + 5 numbers of two bytes."""
    training, validation = (PatchRef("s", "train", 0, 0, (0, n)) for n in (1600, 800))
    plan = SimpleNamespace(training=[training], validation=[validation], rounds=rounds)
    head = SimpleNamespace(_plan=plan, _network=SimpleNamespace(channels=(3, 5)))
    assert HeadTraining.cells_bytes.fget(head) == cells * 8 * 2


def test_long_names_of_slides_leave_room_for_endings(here):
    assert bounded_name("short") == "short" and len(bounded_name("n" * 240)) == 150
    assert len(bounded_name("ä" * 240).encode()) == 150
    write_tiff(here / f"{'n' * 240}.tif", two_tissues(64, 64))
    (slide,) = slides_to_predict([f"{'n' * 240}.tif"], here / "none")
    assert slide.slide_id == "n" * 150


def test_points_without_a_class_are_no_areas_without_one(here):
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [9, 9]}, "properties": {}}
    point["properties"] = {"objectType": "annotation"}
    nameless = rectangle(0, 200, 50, 50, None)
    both = [rectangle(0, 0, 99, 99, "a"), rectangle(120, 0, 99, 99, "b")]
    command = slides_with(here, [*both, nameless, point, point])
    result = invoke(*command)
    assert "  s0: not trained on: 1 without a class, 2 that are lines or points" in result.stdout
    assert "s0: 1 annotation without a class" in result.stderr
    assert "2 lines or points without a class, labelling no pixel" in invoke(*command, "--check").stdout


def test_slides_of_one_name_are_told_apart_in_all_that_is_said(here):
    """Images of one name in one project are too: by their names in the dataset."""
    areas = (*DARK_AND_LIGHT, (None, (0, 240, 9, 249)))
    make_project(here / "p", {make_slide(here / name / "s.tif", seed): areas for seed, name in enumerate("ab")})
    said = invoke("import", "p").output
    assert [f"  {name}: not trained on: 1 without a class" in said for name in ("s", "s-2")] == [True, True]


def test_warnings_of_one_kind_are_counted_while_the_work_goes_on(capsys):
    reporter = Reporter()
    with pytest.raises(SlideError), reporter.counting_warnings():  # an error at the end hides nothing
        for i in range(6):
            reporter.warn_of(f"s{i}", f'is left out: slide "s{i}.svs" was cut at byte {i}', " ")
        reporter.warn_of("s1", "1 tile could not be read")
        raise SlideError("ends the work")
    said = capsys.readouterr().err.splitlines()
    with reporter.counting_warnings():
        pass
    assert capsys.readouterr().err == ""
    assert said == [
        'warning: s0 is left out: slide "s0.svs" was cut at byte 0',
        "warning: s1: 1 tile could not be read",
        'warning: 5 more like that of s0 (is left out: slide "s0.svs" was cut at byte 0): s1, s2, s3 and 2 more',
    ]


def test_pillow_says_nothing_of_its_own(tmp_path, monkeypatch, recwarn):
    """Its warnings name no file; what is too large is an error that does, with the way out."""
    path = tmp_path / "large.png"
    Image.fromarray(two_tissues(64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with PictureReader(path, mpp=0.5) as picture:
        assert picture.info.width == 64
    assert listed_size(path) == (64, 64) and not list(recwarn)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(
        SlideError, match=r'picture ".*large.png" has more pixels than .*; convert it to a tiled pyramid'
    ):
        PictureReader(path, mpp=0.5)
    with pytest.warns(Image.DecompressionBombWarning):  # which it would say
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
        Image.open(path).close()
