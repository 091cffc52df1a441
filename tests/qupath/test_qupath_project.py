"""Projects read, and their slides found again after a move."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmmn_qp.errors import DmmnQpError, PixelSizeError, ProjectError, SlideError
from dmmn_qp.qupath.image_server import path_of_uri
from dmmn_qp.qupath.project import ProjectClass, ProjectEntry, QuPathProject, find_slides, read_project
from dmmn_qp.slides.finding import MovedPrefix, SlidesRoot, parse_slides_root
from dmmn_qp.slides.transformed import Crop, Rotate


def length(value: object, unit: object = "µm") -> dict[str, object]:
    return {"value": value, "unit": unit}


def server(uri: str = "file:/old/slides/a.svs", **others: Any) -> dict[str, Any]:
    return {"builderType": "uri", "uri": uri, "args": [], "providerClassName": "p.OpenSlide", **others}


def rotated(inner: dict[str, Any], degrees: int, **others: Any) -> dict[str, Any]:
    return {"builderType": "rotated", "rotation": f"ROTATE_{degrees}", "builder": inner, **others}


def cropped(inner: dict[str, Any], x: float, y: float, width: float, height: float) -> dict[str, Any]:
    region = {"x": x, "y": y, "width": width, "height": height, "z": 0, "t": 0}
    return {"builderType": "cropped", "region": region, "builder": inner}


def image(builder: dict[str, Any] | None = None, entry_id: object = 1, **others: Any) -> dict[str, Any]:
    return {"serverBuilder": builder or server(), "entryID": entry_id, "imageName": "a", "metadata": {}, **others}


def project_file(folder: Path, *images: Any, **others: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "project.qpproj"
    content = {"version": "0.5.1", "uri": "file:/old/project/project.qpproj", "images": list(images), **others}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# ---- reading


def test_a_project_that_qupath_wrote(data: Path) -> None:
    project = read_project(data / "project")
    assert project == read_project(data / "project" / "project.qpproj")
    assert project.version == "0.5.1"
    assert project.stored_path == PurePosixPath("/home/pathologist/data/project/project.qpproj")
    assert len(project.classes) == 9
    assert project.classes[0] == ProjectClass("Tumor", (200, 0, 0))
    assert project.classes[6] == ProjectClass("Tumor: Positive", (250, 62, 62))
    first, second = project.entries
    assert (first.entry_id, first.image_name, second.image_name) == ("1", "he_1.png", "he_2_pyramid.tif")
    assert (first.width, first.height, first.mpp, first.server_args) == (2048, 2048, None, ())
    assert first.slide_path == PurePosixPath("/home/pathologist/data/images/he_1.png")
    assert first.data_path == data / "project" / "data" / "1" / "data.qpdata"
    assert first.object_count == 19
    assert first.annotation_counts is not None
    assert first.annotation_counts["Immune cells"] == 4
    assert first.unsupported_server is None
    assert first.crop_to_bounds


def test_the_demo_project(demo: Path) -> None:
    project = read_project(demo)
    assert [entry.metadata["split"] for entry in project.entries] == ["train", "train", "val", "test"]
    assert [entry.mpp for entry in project.entries] == [0.5] * 4
    assert [item.name for item in project.classes] == [
        "carcinoma",
        "benign epithelial",
        "background",
        "stroma",
        "necrotic",
        "adipose",
        "Ignore*",
    ]
    found = find_slides(project, project.entries)
    assert sorted(path.relative_to(demo).as_posix() for path in found.values()) == [
        "slides/test-1.tif",
        "slides/train-1.tif",
        "slides/train-2.tif",
        "slides/val-1.tif",
    ]


def test_a_public_project_of_version_0_2(shared: Path) -> None:
    project = read_project(shared / "public-0.2.0-m12")
    assert project.entries[0].mpp == pytest.approx(0.41513, abs=1e-5)
    assert "Unclassified" not in {item.name for item in project.classes}
    with pytest.raises(SlideError, match="--slides-root") as raised:
        find_slides(project, project.entries)
    assert "(3).tif" in str(raised.value)
    assert "(4).tif" in str(raised.value)


@pytest.mark.parametrize(
    ("calibration", "mpp"),
    [
        ({"pixelWidth": length(0.25), "pixelHeight": length(0.25)}, 0.25),
        ({"pixelWidth": length(0.25, "μm"), "pixelHeight": length(0.252, "um")}, 0.251),
        ({"pixelWidth": length(250, "nm"), "pixelHeight": length(0.00025, "mm")}, 0.25),
        ({"pixelWidth": length(1.0, "px"), "pixelHeight": length(1.0, "px")}, None),
        ({"pixelWidth": length(0.25)}, None),
        ({"pixelWidth": length(0), "pixelHeight": length(-1)}, None),
        ({"pixelWidth": length("0.25"), "pixelHeight": length(0.25, 7)}, None),
        ({}, None),
        (None, None),
    ],
)
def test_pixel_sizes(tmp_path: Path, calibration: object, mpp: float | None) -> None:
    builder = server(metadata={"width": 10, "height": 20, "pixelCalibration": calibration})
    (entry,) = read_project(project_file(tmp_path, image(builder))).entries
    assert entry.mpp == (None if mpp is None else pytest.approx(mpp))


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    builder = server(metadata={"pixelCalibration": {"pixelWidth": length(0.25), "pixelHeight": length(0.5)}})
    (entry,) = read_project(project_file(tmp_path, image(builder))).entries
    assert (entry.mpp_x, entry.mpp_y) == (0.25, 0.5)
    with pytest.raises(PixelSizeError, match="Set pixel size"):
        _ = entry.mpp


@pytest.mark.parametrize(
    ("builder", "unsupported"),
    [
        (server(), None),
        ({"builderType": "channels", "builder": server()}, None),
        ({"builderType": "pyramidize", "builder": {"builderType": "channels", "builder": server()}}, None),
        ({"builderType": "rotated", "rotation": "ROTATE_NONE", "builder": server()}, None),
        ({"builderType": "rotated", "rotation": "ROTATE_45", "builder": server()}, "rotated image (ROTATE_45)"),
        ({"builderType": "rotated", "builder": server()}, "rotated image"),
        (
            {"builderType": "cropped", "region": {"x": 5, "y": 6}, "builder": server()},
            "cropped image without a rectangle",
        ),
        (cropped(server(), 5, 6, 0, 7), "cropped image without a rectangle"),
        (cropped(server(), 5, 6.5, 7, 7), "cropped image without a rectangle"),
        (
            {"builderType": "channels", "builder": {"builderType": "cropped", "builder": server()}},
            "cropped image without a rectangle",
        ),
        ({"builderType": "affine", "builder": server()}, 'image server of kind "affine"'),
        ({"builderType": "sparse", "regions": []}, 'image server of kind "sparse"'),
        (server("https://example.org/a?id=1"), "image without a local file (https://example.org/a?id=1)"),
        (server("https://example.org/a.svs"), None),
        ({"builderType": "uri"}, "image without a local file"),
    ],
)
def test_wrapped_servers(tmp_path: Path, builder: dict[str, Any], unsupported: str | None) -> None:
    (entry,) = read_project(project_file(tmp_path, image(builder))).entries
    assert entry.unsupported_server == unsupported
    if "builder" in builder:
        assert entry.slide_path == PurePosixPath("/old/slides/a.svs")


FULL = {
    "width": 1000,
    "height": 600,
    "pixelCalibration": {"pixelWidth": length(0.25), "pixelHeight": length(0.2501)},
}


@pytest.mark.parametrize(
    ("builder", "frame", "size"),
    [
        (server(metadata=FULL), (), (1000, 600)),
        (rotated(server(metadata=FULL), 180), (Rotate(degrees=180),), (1000, 600)),
        (rotated(server(metadata=FULL), 90), (Rotate(degrees=90),), (600, 1000)),
        (rotated(server(), 270, metadata={**FULL, "width": 600, "height": 1000}), (Rotate(degrees=270),), (600, 1000)),
        (
            rotated(cropped(server(metadata=FULL), 10, 20, 300, 200), 90),
            (Crop(x=10, y=20, width=300, height=200), Rotate(degrees=90)),
            (200, 300),
        ),
        (
            cropped({"builderType": "pyramidize", "builder": rotated(server(metadata=FULL), 90)}, 10, 20, 300, 200),
            (Rotate(degrees=90), Crop(x=10, y=20, width=300, height=200)),
            (300, 200),
        ),
    ],
)
def test_turned_and_cropped_images_are_resolved(tmp_path: Path, builder: Any, frame: Any, size: Any) -> None:
    """The frame is listed from the file outwards; the size is that of the outermost image, which QuPath shows."""
    (entry,) = read_project(project_file(tmp_path, image(builder))).entries
    assert entry.unsupported_server is None
    assert entry.frame == frame
    assert (entry.width, entry.height) == size
    assert entry.mpp == pytest.approx(0.25005)


def test_turned_pixels_change_their_sides(tmp_path: Path) -> None:
    (entry,) = read_project(project_file(tmp_path, image(rotated(server(metadata=FULL), 90)))).entries
    assert (entry.mpp_x, entry.mpp_y) == (0.2501, 0.25)


def test_a_crop_larger_than_its_image_is_refused(tmp_path: Path) -> None:
    builder = cropped(server(metadata=FULL), 0, 0, 10**9, 10**9)
    (entry,) = read_project(project_file(tmp_path, image(builder))).entries
    assert entry.unsupported_server is not None
    assert "does not fit into 1000 x 600 px" in entry.unsupported_server


def test_options_and_texts_of_an_entry(tmp_path: Path) -> None:
    item = image(server(args=["--no-crop", "--series", 0]), description="two\nlines", metadata={"k": "v", "n": 3})
    (entry,) = read_project(project_file(tmp_path, item)).entries
    assert entry.server_args == ("--no-crop", "--series", "0")
    assert entry.unsupported_server is None
    assert not entry.crop_to_bounds
    assert entry.description == "two\nlines"
    assert entry.metadata == {"k": "v", "n": "3"}
    assert (entry.annotation_counts, entry.object_count) == (None, None)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--series", 0], None),
        (["--series", "-1", "--no-crop"], None),
        (["--name", "", "--no-crop"], None),
        (["--series", "0", "--name", "macro"], None),
        (["--series", "2"], 'image number "2" (from 0)'),
        (["--dims", "XYCZT", "--series=1"], 'image number "1" (from 0)'),
        (["-s", "3"], 'image number "3" (from 0)'),
        (["--series"], 'image number "" (from 0)'),
        (["--name", "macro"], 'image "macro" of a file with several'),
    ],
)
def test_only_the_first_image_of_a_file_is_read(tmp_path: Path, args: list[Any], said: str | None) -> None:
    (entry,) = read_project(project_file(tmp_path, image(rotated(server(args=args), 90)))).entries
    assert (entry.unsupported_server or "").startswith(said or "") and bool(entry.unsupported_server) == bool(said)


@pytest.mark.parametrize("entry_id", ["../../etc", "", "1/2", "..", None, -1, 1.5, True, [1], "1\n", "١"])
def test_entry_ids_that_could_lead_elsewhere_are_refused(tmp_path: Path, entry_id: object) -> None:
    with pytest.raises(ProjectError, match="which is no number"):
        read_project(project_file(tmp_path, image(entry_id=entry_id)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "no list of images"),
        ("{}", "no list of images"),
        ('{"images": {}}', "no list of images"),
        ('{"images": [7]}', "image 1 of its list is no image"),
        ('{"images": [{"path": "a.svs"}]}', "QuPath 0.1"),
        (json.dumps({"images": [image(), image()]}), "two images with entryID 1"),
        ("[" * 5000, "no JSON"),
    ],
)
def test_damaged_projects(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "project.qpproj"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ProjectError, match=message) as raised:
        read_project(tmp_path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_damaged_class_list(tmp_path: Path) -> None:
    path = project_file(tmp_path)
    (tmp_path / "classifiers").mkdir()
    classes = tmp_path / "classifiers" / "classes.json"
    classes.write_text("{}", encoding="utf-8")
    with pytest.raises(ProjectError, match="no list of classes"):
        read_project(path)
    items = [
        {"name": "a:b", "color": -1},
        {"name": "a: b"},
        {"name": "Unclassified"},
        {},
        7,
        {"name": "c", "color": "x"},
    ]
    classes.write_text(json.dumps({"pathClasses": items}), encoding="utf-8")
    assert read_project(path).classes == (ProjectClass("a: b", (255, 255, 255)), ProjectClass("c"))


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no QuPath project at"):
        read_project(tmp_path / "none")
    with pytest.raises(ProjectError, match=r"no \.qpproj file"):
        read_project(tmp_path)
    other = project_file(tmp_path).rename(tmp_path / "other.QPPROJ")
    assert read_project(other).path == other
    first = project_file(tmp_path).rename(tmp_path / "first.qpproj")
    assert read_project(tmp_path).path == first
    shutil.copy(first, tmp_path / "second.qpproj")
    with pytest.raises(ProjectError, match=r"several.*first\.qpproj, second\.qpproj"):
        read_project(tmp_path)
    shutil.copy(first, tmp_path / "project.qpproj")
    assert read_project(tmp_path).path.name == "project.qpproj"
    (tmp_path / "a.svs").touch()
    with pytest.raises(ProjectError, match=r"pass a \.qpproj file"):
        read_project(tmp_path / "a.svs")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/a/b%20c.svs", PurePosixPath("/a/b c.svs")),
        ("file:///a/b.svs", PurePosixPath("/a/b.svs")),
        ("file://localhost/a/b.svs", PurePosixPath("/a/b.svs")),
        ("FILE:/a/%E8%85%AB.svs", PurePosixPath("/a/腫.svs")),
        ("file:/C:/a/b.svs", PureWindowsPath("C:/a/b.svs")),
        ("file:///C:/a/b.svs", PureWindowsPath("C:/a/b.svs")),
        ("file:////server/share/b.svs", PureWindowsPath("//server/share/b.svs")),
        ("file://server/share/b.svs", PureWindowsPath("//server/share/b.svs")),
        ("/a/b.svs", PurePosixPath("/a/b.svs")),
        ("C:\\a\\b.svs", PureWindowsPath("C:/a/b.svs")),
        ("file:/d:/S12.svs", PureWindowsPath("d:/S12.svs")),
        (r"\\server\share\a.svs", PureWindowsPath("//server/share/a.svs")),
        ("file:///home/me/C:/a.svs", PurePosixPath("/home/me/C:/a.svs")),
        ("https://me:secret@example.org/b/a%20b.svs?key=secret", PurePosixPath("https:/example.org/b/a b.svs")),
        ("s3://bucket/a.svs", PurePosixPath("s3:/bucket/a.svs")),
        ("https://example.org/webclient/?show=image-4", None),
        ("https://example.org/a.ndpi", None),
        ("https://example.org/b/../a.svs", None),
        ("ftp://example.org/a.svs", None),
        ("omero:1", None),
        ("file:", None),
        ("file:/a%00b", None),
        ("", None),
        (None, None),
    ],
)
def test_addresses(uri: str | None, path: PurePath | None) -> None:
    assert path_of_uri(uri) == path
    assert type(path_of_uri(uri)) is type(path)


# ---- finding slides


def touch(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def project_of(folder: Path, *uris: str) -> QuPathProject:
    return read_project(project_file(folder, *(image(server(uri), number) for number, uri in enumerate(uris, start=1))))


def find_slide(project: QuPathProject, entry: ProjectEntry, slides_roots: Sequence[SlidesRoot] = ()) -> Path:
    return find_slides(project, [entry], slides_roots)[entry.entry_id]


def test_stored_path_comes_first(tmp_path: Path) -> None:
    slide = touch(tmp_path / "elsewhere" / "a ä.svs")
    touch(tmp_path / "project" / "a ä.svs")
    project = project_of(tmp_path / "project", slide.as_uri())
    assert find_slide(project, project.entries[0], [tmp_path / "project"]) == slide


def test_then_the_same_place_relative_to_the_project(tmp_path: Path) -> None:
    slide = touch(tmp_path / "slides" / "deep" / "a.svs")
    touch(tmp_path / "project" / "a.svs")
    project = project_of(tmp_path / "project", "file:/old/slides/deep/a.svs")
    assert find_slide(project, project.entries[0]) == slide
    inside = project_of(tmp_path / "project", "file:/old/project/a.svs")
    assert find_slide(inside, inside.entries[0]) == tmp_path / "project" / "a.svs"


@pytest.mark.parametrize("uri", ["file:/x/y/a.svs", "file:/D:/x/a.svs", "file:////server/share/a.svs"])
def test_then_the_name_under_the_roots_then_near_the_project(tmp_path: Path, uri: str) -> None:
    project = project_of(tmp_path / "home" / "project", uri)
    (entry,) = project.entries
    near = touch(tmp_path / "home" / "scans" / "a.svs")
    assert find_slide(project, entry) == near
    within = touch(tmp_path / "home" / "project" / "slides" / "a.svs")
    assert find_slide(project, entry) == within
    root = touch(tmp_path / "root" / "2024" / "03" / "04" / "05" / "06" / "a.svs")
    assert find_slide(project, entry, [tmp_path / "root"]) == root


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", "file:/x/a.svs")
    first, second = touch(tmp_path / "root" / "1" / "a.svs"), touch(tmp_path / "root" / "2" / "a.svs")
    with pytest.raises(SlideError) as raised:
        find_slide(project, project.entries[0], [tmp_path / "root"])
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    second.unlink()
    second.symlink_to(first)  # one file under two names is no question
    assert find_slide(project, project.entries[0], [tmp_path / "root", tmp_path / "root" / "1"]) == first


@pytest.mark.parametrize(
    ("uri", "old"),
    [
        ("file:/x/y/deep/a%20%C3%A4.svs", "/x/y"),
        ("file:/x/y/deep/a%20%C3%A4.svs", "/x/y/"),
        ("file:/D:/Scans/deep/a%20%C3%A4.svs", "D:\\Scans"),
        ("file:///d:/scans/deep/a%20%C3%A4.svs", "D:/Scans"),
        ("file:////server/share/deep/a%20%C3%A4.svs", "//server/share"),
        ("file:////Server/share/deep/a%20%C3%A4.svs", "\\\\server\\share"),
    ],
)
def test_prefixes_are_exchanged(tmp_path: Path, uri: str, old: str) -> None:
    slide = touch(tmp_path / "new" / "deep" / "a ä.svs")
    touch(
        tmp_path / "new" / "a ä.svs"
    )  # the exchanged path is exact, so that a second file of that name is no question
    project = project_of(tmp_path / "far" / "away" / "project", uri)
    root = parse_slides_root(f"{old}={tmp_path / 'new'}")
    assert isinstance(root, MovedPrefix)
    assert find_slide(project, project.entries[0], [root]) == slide


def test_prefixes_that_do_not_fit(tmp_path: Path) -> None:
    project = project_of(tmp_path / "far" / "away" / "project", "file:/x/y/a.svs")
    touch(tmp_path / "new" / "a.svs")
    for old in ("/x/yy", "/x/y/a", "D:/x/y", "/y"):
        with pytest.raises(SlideError, match="slide not found"):
            find_slide(project, project.entries[0], [parse_slides_root(f"{old}={tmp_path / 'new'}")])


def test_roots_as_they_are_typed(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert parse_slides_root(str(folder)) == folder
    assert parse_slides_root("slides") == Path("slides")
    for text in (f"x/y={tmp_path}", "/x=/none", "/x=", f"={tmp_path}"):
        with pytest.raises(SlideError, match="OLD=NEW"):
            parse_slides_root(text)


def test_our_own_masks_are_no_slides(tmp_path: Path) -> None:
    """A dataset beside the project holds masks with the names of the slides."""
    project = project_of(tmp_path / "project", "file:/x/a.tif")
    touch(tmp_path / "project" / "dataset" / "masks" / "a.tif")
    touch(tmp_path / "project" / "dataset" / "run.json")
    with pytest.raises(SlideError, match="slide not found"):
        find_slide(project, project.entries[0])


def test_links_in_circles_end(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", "file:/x/a.svs")
    slide = touch(tmp_path / "root" / "a.svs")
    (tmp_path / "root" / "again").symlink_to(tmp_path / "root")
    assert find_slide(project, project.entries[0], [tmp_path / "root"]) == slide


def test_names_with_accents_match_in_either_spelling(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", "file:/x/a%CC%88.svs")  # a, then the dots
    slide = touch(tmp_path / "project" / "\u00e4.svs")
    assert find_slide(project, project.entries[0]) == slide


def test_all_missing_slides_are_named_at_once(tmp_path: Path) -> None:
    project = project_of(tmp_path / "deep" / "project", "file:/x/a.svs", "file:/x/b.svs", "file:/x/c.svs")
    found = touch(tmp_path / "deep" / "project" / "b.svs")
    with pytest.raises(SlideError) as raised:
        find_slides(project, project.entries)
    message = str(raised.value)
    assert '"a.svs" (stored at "/x/a.svs")' in message
    assert '"c.svs"' in message
    assert '"b.svs"' not in message
    assert "--slides-root" in message
    assert find_slides(project, project.entries[1:2]) == {"2": found}


def test_root_that_does_not_exist(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", "file:/x/a.svs")
    with pytest.raises(SlideError, match="does not exist"):
        find_slides(project, project.entries, [tmp_path / "none"])


@pytest.mark.parametrize("name", ["..", "../secret", "..\\secret", ".", ""])
def test_a_name_never_leads_out_of_the_searched_folders(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "secret")
    item = image({"builderType": "sparse"}, imageName=name)
    project = read_project(project_file(tmp_path / "home" / "project", item))
    with pytest.raises(SlideError):
        find_slides(project, project.entries, [tmp_path / "home"])


# ---- damage


def test_truncation_anywhere_is_an_error(data: Path, tmp_path: Path) -> None:
    content = (data / "project" / "project.qpproj").read_bytes().rstrip()
    for size in range(0, len(content), 97):
        (tmp_path / "project.qpproj").write_bytes(content[:size])
        with pytest.raises(ProjectError):
            read_project(tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(min_value=0))
def test_damage_raises_nothing_but_our_errors(data: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    content = json.loads((data / "project" / "project.qpproj").read_text(encoding="utf-8"))
    junk: list[Any] = [None, True, -1, 1e300, "", "x", "\0", "file:/%00", "file://", [], {}, [[]], "../..", "é" * 300]
    places: list[tuple[Any, Any]] = []
    pending = [content]
    for node in pending:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                pending.append(node[key])
    for _ in range(rng.randint(1, 4)):
        node, key = rng.choice(places)
        node[key] = rng.choice([*junk, content["images"], 7])
        if node[key] is content["images"]:
            node[key] = [dict(image())]
    (tmp_path / "project.qpproj").write_text(json.dumps(content), encoding="utf-8")
    try:
        project = read_project(tmp_path)
        assert all(entry.data_path.is_relative_to(tmp_path / "data") for entry in project.entries)
        _ = [entry.mpp for entry in project.entries]
        find_slides(project, project.entries)
    except DmmnQpError as error:
        assert "\n" not in str(error)
