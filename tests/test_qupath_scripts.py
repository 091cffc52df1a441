"""The scripts that run in QuPath: they compile with Groovy 4, and do on stand-ins for QuPath what they are for.

Whether QuPath itself runs them is not tested here; every call that they make is in its documentation.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from uuid import uuid4

import pytest

from dmmn_qp.qupath.geojson_reader import GEOJSON_SUFFIXES
from dmmn_qp.qupath.image_names import slide_ids
from dmmn_qp.qupath.marks import marked_id
from tests.conftest import fails, invoke, moved_demo
from tests.groovy import tools
from tests.groovy.cases import NEW, Scripts, fake_program, feature, find_groovy, ids, image, predicted, write


@pytest.fixture(scope="session")
def groovy() -> tools.Groovy:
    return find_groovy()


OLD, OLDER, LOCKED = (str(marked_id(name)) for name in ("old", "older", "locked"))
DRAWN, DRAWN_CELL = (str(uuid4()) for _ in range(2))
EARLIER = [
    feature(DRAWN, at=(0, 10, 4, 4), name="tumour"),
    feature(DRAWN_CELL, "detection", at=(0, 10, 4, 4)),
    predicted(OLD, at=(0, 20, 4, 4)),
    predicted(OLDER, at=(0, 30, 4, 4), code=None, texts={}),  # of an older file, as QuPath 0.4 imports it
    predicted(LOCKED, at=(0, 40, 4, 4), isLocked=True),
]


@pytest.fixture(scope="session")
def outcomes(groovy: tools.Groovy, tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    scripts = Scripts(tmp_path_factory.mktemp("scripts"))
    at = scripts.folder

    write(at / "packed" / "other" / "S_12.geojson.gz", predicted(NEW))
    folder = str(at / "packed" / "other")
    scripts.add("no folder", "import_predictions", image(objects=EARLIER), args=["nowhere"])
    write(at / "relative" / "mine" / "a.geojson", predicted(NEW))
    scripts.add("relative", "import_predictions", image(), args=["mine"])
    scripts.add("packed", "import_predictions", image("S%2312.svs", EARLIER), args=["resolve", folder])
    write(at / "renamed" / "predictions" / "shown.geojson", predicted(NEW))
    scripts.add("renamed", "import_predictions", image("file.svs", name="shown.svs"), args=[])
    scripts.add("no file", "import_predictions", image(objects=EARLIER))
    write(at / "twice" / "predictions" / "a.geojson", predicted(NEW))
    scripts.add("twice", "import_predictions", image(objects=EARLIER), image("sub/a.svs"))
    write(at / "refused" / "predictions" / "a.geojson", {**feature(NEW), "geometry": None})
    scripts.add("refused", "import_predictions", image(objects=EARLIER))
    scripts.add("no project", "import_predictions", image(), folder=None)

    classes = [["Tumor", 0xC80000 - (1 << 24)], ['a "b"', 0x0000FF - (1 << 24)], ["Unclassified", None]]
    scripts.add("export", "export_annotations", image('b "1".ome.tif'.replace(" ", "%20").replace('"', "%22"), EARLIER))
    scripts.cases["export"]["classes"] = classes
    images = [
        image("a.svs", EARLIER, mpp=0.25),
        image("b.svs", mpp=0.5),
        image("c.svs", EARLIER),
        image("c.svs", EARLIER),
    ]
    target = str(at / "out")
    scripts.add("export all", "export_annotations", *images, args=[target, "all"])
    scripts.add("export again", "export_annotations", image("a.svs", EARLIER, mpp=0.26), args=[target])

    for name, how in {"run": {}, "run fails": {"code": 3}, "run other": {"width": 99}}.items():
        program = fake_program(at / name, **how)
        scripts.add(name, "run_dmmn", image(objects=EARLIER), args=[f"program={program}", "/models/m"])
    program = fake_program(at / "run region")
    selected = [{**feature(DRAWN), "selected": True}, feature(DRAWN_CELL)]
    scripts.add("run region", "run_dmmn", image(objects=selected), args=[f"program={program}"])
    scripts.add("run missing", "run_dmmn", image(), args=["program=/no/such/dmmn-qp"])
    scripts.add("run cropped", "run_dmmn", image(wrappers=["CroppedImageServer"]))
    mirrored = ["FlippedImageServer", "ChannelTransformFeatureServer"]
    scripts.add("run mirrored", "run_dmmn", image(wrappers=mirrored))
    scripts.add("export mirrored", "export_annotations", image("a.svs", EARLIER, wrappers=mirrored))
    other_channels = image("a.svs", EARLIER, wrappers=["ChannelTransformFeatureServer"])
    scripts.add("export channels", "export_annotations", other_channels)
    scripts.run(groovy)
    return scripts


def test_scripts_compile_and_keep_the_linters_rules(groovy: tools.Groovy) -> None:
    assert len(tools.SCRIPTS) == 5
    result = groovy.compile_scripts(tools.SCRIPTS)
    assert (result.returncode, result.stdout.split(": ")[-1].strip()) == (0, "5 of 5 scripts compile")


@pytest.mark.parametrize("line", ['println "a', "def f( { }", "import qupath.lib.io.PathIOO"])
def test_a_broken_script_is_found(groovy: tools.Groovy, tmp_path: Path, line: str) -> None:
    broken = tmp_path / "import_predictions.groovy"
    broken.write_text(tools.SCRIPTS[0].read_text() + line)
    result = groovy.compile_scripts([broken])
    assert result.returncode == 1
    assert broken.name in result.stderr


def test_file_is_found_by_the_name_that_import_gives(outcomes: Scripts) -> None:
    assert slide_ids(["S#12.svs"]) == ["S_12"]
    outcome = outcomes.outcomes["packed"]
    assert NEW in ids(outcome["objects"][0])
    assert outcome["resolved"]
    assert ids(outcomes.outcomes["renamed"]["objects"][0]) == [NEW]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no file", "there is no folder"),
        ("no folder", "there is no folder"),
        ("twice", "2 images of the project are named a.svs"),
        ("refused", None),
    ],
)
def test_nothing_changes_without_a_file_for_the_image(outcomes: Scripts, name: str, text: str | None) -> None:
    outcome = outcomes.outcomes[name]
    assert outcome["objects"][0] == EARLIER
    if text is None:
        assert outcome["error"] == "IOException: a feature without geometry"
    else:
        assert text in outcome["text"]


def test_a_relative_folder_is_the_projects(outcomes: Scripts) -> None:
    assert ids(outcomes.outcomes["relative"]["objects"][0]) == [NEW]
    assert str(outcomes.folder / "no folder" / "nowhere") in outcomes.outcomes["no folder"]["text"]


def test_what_is_missing_is_said(outcomes: Scripts) -> None:
    assert "no project is open" in outcomes.outcomes["no project"]["error"]


def test_export_is_named_as_import_wants_it(outcomes: Scripts) -> None:
    folder = outcomes.folder / "export" / "geojson"
    assert sorted(p.name for p in folder.iterdir()) == ['b "1".ome.geojson', "classes.csv", "pixel_sizes.csv"]
    assert Path('b "1".ome.tif').stem + GEOJSON_SUFFIXES[0] == 'b "1".ome.geojson'
    exported = json.loads((folder / 'b "1".ome.geojson').read_text())["features"]
    assert ids(exported) == [item["id"] for item in EARLIER if item["properties"]["objectType"] == "annotation"]
    assert (folder / "classes.csv").read_text() == 'class,red,green,blue\n"Tumor",200,0,0\n"a ""b""",0,0,255\n'
    assert "no pixel size" in outcomes.outcomes["export"]["text"]


def test_export_of_a_whole_project(outcomes: Scripts) -> None:
    from dmmn_qp.slides.names import NamedSlide
    from dmmn_qp.slides.pixel_sizes import listed_pixel_sizes

    folder = outcomes.folder / "out"
    assert sorted(p.name for p in folder.iterdir()) == ["a.geojson", "classes.csv", "pixel_sizes.csv"]
    lines = outcomes.outcomes["export all"]["text"].splitlines()
    assert lines[1] == "b.svs: no annotations, no file written"
    assert lines[2].startswith("c.svs: 2 images of the project have this name")
    slides = [NamedSlide(Path("a.svs")), NamedSlide(Path("b.svs"))]
    assert listed_pixel_sizes(folder / "pixel_sizes.csv", slides) == [0.26, None]  # the second export replaced the row


def test_scripts_know_the_same_frames() -> None:
    """A script stands alone in QuPath, so two of them have the same lines."""
    begins, ends = "def frames = [", "inner != null\n}\n"
    texts = ["\n".join(map(str.lstrip, path.read_text("utf-8").splitlines())) for path in tools.SCRIPTS]
    blocks = [text[text.index(begins) : text.index(ends)] for text in texts if begins in text]
    assert len(blocks) == 3 and len(set(blocks)) == 1


def test_no_outlines_of_another_frame_than_the_files(outcomes: Scripts) -> None:
    assert "turns, mirrors or crops the image" in outcomes.outcomes["export mirrored"]["text"]
    assert not list((outcomes.folder / "export mirrored").rglob("*.geojson"))
    assert [p.name for p in (outcomes.folder / "export channels").rglob("*.geojson")] == ["a.geojson"]


def test_running_dmmn_qp_shows_what_it_says_and_imports_its_result(outcomes: Scripts) -> None:
    outcome, folder = outcomes.outcomes["run"], outcomes.folder / "run"
    assert outcome["error"] is None, outcome
    assert "predicting 50 %" in outcome["text"]
    assert (folder / "called").read_text().split() == [
        *("predict", "/slides/a.svs", "--out", f"{folder}/predictions", "--overwrite", "--model", "/models/m")
    ]
    assert ids(outcome["objects"][0]) == [DRAWN, DRAWN_CELL, LOCKED, NEW]


def test_a_selected_annotation_is_the_region(outcomes: Scripts) -> None:
    outcome, folder = outcomes.outcomes["run region"], outcomes.folder / "run region"
    assert outcome["error"] is None, outcome
    words = (folder / "called").read_text().split()
    assert words[3] == f"{outcomes.folder}/run" and words[4] == "region/predictions/roi"
    assert "--model" not in words
    assert not Path(words[words.index("--roi") + 1]).exists()
    assert ids(json.loads((folder / "called.roi").read_text())["features"]) == [DRAWN]
    assert ids(outcome["objects"][0]) == [DRAWN, DRAWN_CELL, NEW]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run fails", "ended with code 3"),
        ("run missing", "does not start"),
        ("run other", "QuPath shows 100 x 80 px, but predicted were 99 x 80 px"),
        ("run cropped", "turned, mirrored or cropped"),
        ("run mirrored", "turned, mirrored or cropped"),
    ],
)
def test_a_failing_run_changes_nothing(outcomes: Scripts, name: str, message: str) -> None:
    outcome = outcomes.outcomes[name]
    assert message in outcome["error"]
    assert outcome["objects"][0] == outcomes.cases[name]["images"][0]["objects"]


# ---- dmmn-qp scripts install


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_install_copies_the_scripts_to_where_qupath_lists_them(tmp_path: Path) -> None:
    project = moved_demo(tmp_path)
    result = invoke("scripts", "install", project)
    assert result.exit_code == 0, result.output
    folder = project.parent / "scripts"
    assert names_in(folder) == {path.name for path in tools.SCRIPTS}
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in tools.SCRIPTS)
    assert "Already there" in invoke("scripts", "install", project.parent).output


def test_a_script_of_the_users_is_never_overwritten_unasked(tmp_path: Path) -> None:
    project = moved_demo(tmp_path)
    own = project.parent / "scripts" / tools.SCRIPTS[-1].name
    own.parent.mkdir()
    own.write_text("// mine")
    assert own.name in fails("scripts", "install", project)
    assert names_in(own.parent) == {own.name}
    assert own.read_text() == "// mine"
    assert invoke("scripts", "install", project, "--overwrite").exit_code == 0
    assert own.read_bytes() == tools.SCRIPTS[-1].read_bytes()


def test_install_needs_a_project(tmp_path: Path) -> None:
    assert "no QuPath project" in fails("scripts", "install", tmp_path / "missing.qpproj")


def test_wheel_holds_the_scripts(tmp_path: Path) -> None:
    """The build that pip runs, without its isolation: setuptools is part of it."""
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="setuptools is not installed here")
    assert setuptools
    build = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    copy = tmp_path / "src"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "qupath_scripts", "dmmn_qp"):
        (copy / name).symlink_to(tools.REPOSITORY / name)
    command = [sys.executable, "-c", build, str(tmp_path)]
    result = subprocess.run(command, check=False, cwd=copy, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("dmmn_qp/qupath_scripts/")}
    assert inside == {f"dmmn_qp/qupath_scripts/{path.name}" for path in tools.SCRIPTS}
