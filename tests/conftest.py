"""Small real slides and projects for the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from typer.testing import CliRunner

from dmmn_qp.cli.app import app
from tests.ray_clusters import ray_cluster, ray_here  # noqa: F401 (fixtures)
from tests.web_server import WebServer, serving

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]
DEMO = REPOSITORY / "examples" / "demo"
CMU_1 = REPOSITORY / "tests" / "data" / "slides" / "CMU-1-Small-Region.svs"

COLORS = {"dark": (90, 20, 110), "light": (230, 200, 225)}
"""Two tissues that any network can tell apart."""


SHARED = Path(os.environ.get("DMMN_QP_SHARED", REPOSITORY.parent / "shared"))
"""Test material that may not be part of the project; beside the repository where there is any."""


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell does to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs scripts in Groovy."""
    for item in items:
        if {"groovy", "outcomes"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Gives a file of the shared test material; without it the test is skipped."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"no shared test material at {path}")
        return path

    return find


def write_tiff(path: Path, pixels: np.ndarray, mpp: float | None = 0.5) -> Path:
    """A tiled TIFF that OpenSlide reads as generic-tiff, with its pixel size in the resolution tags."""
    rows, columns, _ = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=columns,
            height=rows,
            count=3,
            dtype="uint8",
            tiled=True,
            blockxsize=256,
            blockysize=256,
            compress="deflate",
            photometric="rgb",
            interleave="pixel",
        ) as tiff:
            tiff.write(np.moveaxis(pixels, 2, 0))
            if mpp is not None:
                per_cm = 10_000 / mpp
                tiff.update_tags(TIFFTAG_XRESOLUTION=per_cm, TIFFTAG_YRESOLUTION=per_cm, TIFFTAG_RESOLUTIONUNIT="3")
    return path


def two_tissues(rows: int = 512, columns: int = 768, seed: int = 0) -> np.ndarray:
    """Dark tissue left, light tissue right, with some noise: (rows, columns, 3) uint8."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((rows, columns, 3), np.float32)
    pixels[:, : columns // 2] = COLORS["dark"]
    pixels[:, columns // 2 :] = COLORS["light"]
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


def rectangle(x: float, y: float, width: float, height: float, class_name: str | None) -> dict[str, object]:
    """A GeoJSON feature as QuPath writes it."""
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    properties: dict[str, object] = {"objectType": "annotation"}
    if class_name is not None:
        color = COLORS.get(class_name, (1, 2, 3))
        properties["classification"] = {"name": class_name, "color": list(color)}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def write_features(path: Path, features: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """A fifth of the time would be spent on it. That it is waited for has tests of its own (`test_files.py`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What encoders have seen is kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMMN_QP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def two_tissue_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``slides/`` a, b, c (768 x 512 px) and their ``geojson/``."""
    folder = tmp_path_factory.mktemp("two-tissues")
    (folder / "slides").mkdir()
    for seed, name in enumerate("abc"):
        write_tiff(folder / "slides" / f"{name}.tif", two_tissues(seed=seed))
        features = [rectangle(40, 40, 300, 430, "dark"), rectangle(420, 40, 300, 430, "light")]
        write_features(folder / "geojson" / f"{name}.geojson", features)
    return folder


FAST_TOML = """
[train]
preset = "scratch"
width = 4
stem = "quarter"
epochs = 2
steps_per_epoch = 30
batch_size = 4
jitter_px = 32
learning_rate = 0.01
workers = 0
precision = "fp32"
"""


@pytest.fixture(scope="session")
def workspace(two_tissue_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after import, train and predict through the command line; tests must not change it."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "fast.toml").write_text(FAST_TOML)
    slides, geojson = two_tissue_slides / "slides", two_tissue_slides / "geojson"
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            ["import", str(slides), "--annotations", str(geojson)],
            ["train", "--config", "fast.toml"],
            ["predict"],
        ):
            result = runner.invoke(app, command)
            assert result.exit_code == 0, result.output
    return folder


def tiny_training(*, epochs, steps, workers=0, events=False):
    """Options of a training from scratch that takes no time; None leaves the reading processes to it.

    A fifth of its time would be spent on events for TensorBoard.
    """
    given = {"preset": "scratch", "width": 2, "epochs": epochs, "steps-per-epoch": steps, "batch-size": 2}
    given |= {"precision": "fp32"} | ({} if workers is None else {"workers": workers})
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return words if events else ["--no-tensorboard", *words]


def invoke(*command):
    return CliRunner().invoke(app, [str(word) for word in command])


def fails(*command):
    """Runs a command that must fail in one clear line; returns the line."""
    result = invoke(*command)
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert "Traceback" not in result.output
    return lines[0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def moved_demo(to: Path) -> Path:
    """The demo's project without its slides, as if it had been mailed."""
    for part in ("project.qpproj", "data", "classifiers"):
        source = DEMO / part
        shutil.copytree(source, to / part) if source.is_dir() else shutil.copy(source, to / part)
    return to / "project.qpproj"


def slides_with(here, features, n=1, mpp=0.5):
    (here / "slides").mkdir()
    for i in range(n):
        write_tiff(here / "slides" / f"s{i}.tif", two_tissues(256, 256, seed=i), mpp)
        write_features(here / "geojson" / f"s{i}.geojson", features[i] if n > 1 else features)
    return ("import", "slides", "--annotations", "geojson")


_ATTEMPTS: list[str] = []
_WATCHED: list[bool] = []
_NETWORK_EVENTS = {
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "urllib.Request",
    "http.client.connect",
    "ftplib.connect",
}


def _refuse_network(event: str, args: tuple[object, ...]) -> None:
    """Refuses what reaches beyond this machine's processes, whichever library asks for it."""
    if not _WATCHED or event not in _NETWORK_EVENTS:
        return
    family = getattr(args[0], "family", None)
    if family is not None and (isinstance(args[-1], str | bytes) or family == getattr(socket, "AF_UNIX", 0)):
        return  # a path: of processes that work together
    _ATTEMPTS.append(f"{event} {args[-1] if event == 'socket.connect' else args[0]}")
    raise OSError("the tests allow no connection")


@pytest.fixture
def no_network():
    """Refuses every connection and look-up of a name in this process, and lists them; there must be none in the end."""
    if not _ATTEMPTS and _refuse_network not in _HOOKED:
        sys.addaudithook(_refuse_network)  # for good: it asks whether it is wanted
        _HOOKED.append(_refuse_network)
    _ATTEMPTS.clear()
    _WATCHED.append(True)
    yield _ATTEMPTS
    _WATCHED.clear()
    left, _ATTEMPTS[:] = list(_ATTEMPTS), []
    assert left == [], "something was to be reached over the network"


_HOOKED: list[object] = []


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """A web server of a folder of its own."""
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as server:
        yield server
