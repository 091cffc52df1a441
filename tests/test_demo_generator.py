"""The generator of the example data: its small parts only, since drawing a slide takes minutes."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from uuid import UUID

import numpy as np
import pytest
from shapely.geometry import box

pytest.importorskip("skimage", reason="the example generator needs scikit-image, which the toolkit itself does not")

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module("make_demo_slides")


def circle_contour(row: float, column: float, radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 721)
    return np.c_[row + radius * np.sin(angle), column + radius * np.cos(angle)]


def test_importing_writes_prints_and_computes_nothing(tmp_path: Path) -> None:
    code = "import make_demo_slides as m; assert m.pixel_grid.cache_info().currsize == 0"
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_slide_of_the_generator_is_in_the_examples(generator: ModuleType) -> None:
    for name in generator.SLIDES:
        for file in (f"slides/{name}.tif", f"truth/{name}.png", f"annotations/{name}.geojson"):
            assert (EXAMPLES / "demo" / file).is_file()


def test_truth_is_named_as_the_generator_names_it(generator: ModuleType, tmp_path: Path) -> None:
    generator.write_values(tmp_path / "classes.csv")
    assert (tmp_path / "classes.csv").read_bytes() == (EXAMPLES / "demo" / "truth" / "classes.csv").read_bytes()
    said = (EXAMPLES / "demo" / "README.txt").read_text("utf-8")
    named = re.findall(
        r"(\d) ([a-z ]+?)(?=,\s|\s\()", said.partition("truth/NAME.png")[2].partition("truth/classes.csv")[0]
    )
    assert dict(named) == {str(v): c.name for v, c in generator.CLASSES.items()} | {"0": "artefact"}


def test_noise_is_smooth_of_known_strength_and_repeatable(generator: ModuleType) -> None:
    field = generator.noise(np.random.default_rng(1), 8, 512)
    assert field.shape == (512, 512)
    assert field.mean() == pytest.approx(0, abs=0.1)
    assert field.std() == pytest.approx(1.3, abs=0.1)
    assert np.abs(np.diff(field, axis=0)).mean() < 0.25
    assert np.array_equal(field, generator.noise(np.random.default_rng(1), 8, 512))


def test_circles_keep_their_distance_and_their_place(generator: ModuleType) -> None:
    allowed = np.zeros((400, 640), bool)
    allowed[:, :480] = True
    taken = [generator.Circle(200.0, 200.0, 60.0)]
    circles = generator.place_circles(np.random.default_rng(2), allowed, [40.0] * 12, taken, 10)
    assert len(circles) > 3
    for i, circle in enumerate(circles):
        assert allowed[int(circle.y), int(circle.x)]
        for other in taken + circles[:i]:
            distance = np.hypot(circle.x - other.x, circle.y - other.y)
            assert distance > circle.radius + other.radius + 10


def test_a_circle_without_a_place_is_left_out(generator: ModuleType) -> None:
    everywhere = np.ones((160, 160), bool)
    taken = [generator.Circle(80.0, 80.0, 200.0)]
    assert generator.place_circles(np.random.default_rng(3), everywhere, [50.0], taken, 0) == []


def test_components_leaves_out_the_small(generator: ModuleType) -> None:
    mask = np.zeros((6, 8), bool)
    mask[0:2, 0:3] = True
    mask[4, 4] = True
    (part,) = generator.components(mask, 2)
    expected = np.zeros((6, 8), bool)
    expected[0:2, 0:3] = True
    assert np.array_equal(part, expected)


def test_a_ring_follows_its_contour_half_a_pixel_further(generator: ModuleType) -> None:
    ring = generator.hand_drawn_ring(np.random.default_rng(4), circle_contour(row=300, column=150, radius=100))
    assert ring.is_valid
    assert ring.area == pytest.approx(np.pi * 100**2, rel=0.03)
    assert ring.centroid.coords[0] == pytest.approx((150.5, 300.5), abs=1)
    vertices = np.array(ring.exterior.coords)
    steps = np.hypot(*np.diff(vertices[:-1], axis=0).T)
    assert steps.min() > 2
    assert steps.max() < 23


def test_a_ring_of_too_few_vertices_is_none(generator: ModuleType) -> None:
    assert generator.hand_drawn_ring(np.random.default_rng(5), circle_contour(10, 10, 2)) is None


def test_features_are_what_qupath_reads(generator: ModuleType) -> None:
    rng = np.random.default_rng(6)
    classified = generator.Annotation(generator.CLASSES[generator.STROMA], box(0, 0, 2, 1))
    feature = generator.feature(rng, classified)
    assert UUID(feature["id"]).version == 4
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "stroma", "color": (0, 160, 0)},
    }
    note = generator.feature(rng, generator.Annotation(None, box(0, 0, 2, 1)))
    assert "classification" not in note["properties"]
    assert note["id"] != feature["id"]


def test_only_what_can_be_trained_on_counts_as_labelled(generator: ModuleType) -> None:
    half = box(0, 0, generator.SIDE_PX, generator.SIDE_PX / 2)
    annotations = [
        generator.Annotation(generator.CLASSES[generator.ADIPOSE], half),
        generator.Annotation(generator.IGNORE, half),
        generator.Annotation(None, half),
    ]
    assert generator.labelled_percent(annotations) == pytest.approx(50)


def test_an_unknown_slide_is_refused_with_the_choices(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_demo_slides.py", str(tmp_path), "train-9"])
    with pytest.raises(SystemExit):
        generator.main()
    message = capsys.readouterr().err
    assert '"train-9"' in message
    assert "train-1" in message
