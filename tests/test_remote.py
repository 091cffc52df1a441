"""Slides on servers: fetched in parts, with patience, and only where somebody typed the address."""

from __future__ import annotations

import pickle
import shutil
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest

from dmmn_qp.api.arguments import paths_as_texts
from dmmn_qp.errors import SlideChangedError, SlideError, SlideUnreachableError
from dmmn_qp.files import patience, remote, servers, web_answers
from dmmn_qp.files.addresses import pure_place, shown_word
from dmmn_qp.files.paths import typed_place, why_not_there
from dmmn_qp.files.remote import RemotePath, below
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide, same_picture
from dmmn_qp.slides.files import check_unchanged, fingerprint
from dmmn_qp.slides.finding import MovedPrefix, SlideFinder, Wanted, parse_slides_root, path_of_text
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.slides.ome_xml import is_ome_tiff
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.slides.scanner import scanner_of
from dmmn_qp.slides.whole import check_whole
from dmmn_qp.specs import PatchSpec
from tests.conftest import CMU_1, two_tissues, write_tiff
from tests.slide_files import OME, write_pyramid
from tests.web_server import serving
from tests.zarr_files import write_ome_zarr


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """No test waits for a server that does not answer; what is known of files is asked anew."""
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "FACTS_LAST_S", 0.0)


class TestAddresses:
    @pytest.mark.parametrize(
        ("typed", "shown", "name", "place"),
        [
            ("https://me:pw@h.org:8443/a/b%20c.svs?X-Amz-Signature=s3cret", "https://h.org:8443/a/b%20c.svs", "b c.svs",
             "https:/h.org:8443/a/b c.svs"),
            ("s3://bucket/a b/c?d.tif", "s3://bucket/a b/c?d.tif", "c?d.tif", "s3:/bucket/a b/c?d.tif"),
            ("abfs://box@acc.dfs.core.windows.net/c.tif", "abfs://box@acc.dfs.core.windows.net/c.tif", "c.tif",
             "abfs:/box@acc.dfs.core.windows.net/c.tif"),
            ("https://me:pw@[2001:db8::1]:8443/a/b.svs?sig=s3cret", "https://[2001:db8::1]:8443/a/b.svs", "b.svs",
             "https:/[2001:db8::1]:8443/a/b.svs"),
            ("gs://bucket/a.ome.zarr/", "gs://bucket/a.ome.zarr/", "a.ome.zarr", "gs:/bucket/a.ome.zarr"),
        ],
    )  # fmt: skip
    def test_what_is_shown_and_what_it_is_called(self, typed, shown, name, place):
        path = typed_place(typed)
        assert isinstance(path, RemotePath) and path.address == typed
        assert (str(path), path.name, path.pure) == (shown, name, PurePosixPath(place))
        again = pickle.loads(pickle.dumps(path))  # noqa: S301
        assert again == path and again.address == typed and hash(again) == hash(path)
        assert pure_place(shown) == path.pure, "as it is stored it is known again"
        assert paths_as_texts(path) == [typed], "as `open_slide` gives it, functions take it as it was typed"
        assert "s3cret" not in f"{path} {path!r} {path.pure} {path.parent} {path / 'x'}" and "pw" not in repr(path)

    @pytest.mark.parametrize(
        "typed",
        [
            "ftp://h/a.tif", "file:///etc/passwd", "github://o:r@main/a.tif", "simplecache::s3://b/a.tif",
            "s3://b/a.tif::file:///etc/passwd", "https:///a.tif", "https://h/a/../b.tif", "https://h/a/%2e%2e/b.tif",
            "https://h/a%2fb.tif", "https://h/a\\b.tif", "https://h/a b.tif", "https://h/a%0ab.tif", "https://h:0x/a.tif",
            "https://::1/a.tif", "https://[::1/a.tif", "https://[::1]x/a.tif", "https://x[::1]/a.tif", "https://[]/a.tif",
            "https://[::1]:0x/a.tif", "https://[fe80::1%25eth0]/a.tif", "https://[v1.a]/a.tif", "https://[::g]/a.tif",
            "https://[::1]/a::s3://b/a.tif", "https://a::b@[::1]/a.tif", "simplecache::https://[::1]/a.tif",
            "s3://[::1]/a.tif", "https://h/a.tif#x", "s3:///a.tif", "s3://key:secret@bucket/a.tif",
        ],
    )  # fmt: skip
    def test_what_is_no_address_of_a_slide(self, typed):
        with pytest.raises(SlideError) as told:
            typed_place(typed)
        assert "secret" not in str(told.value)

    @pytest.mark.parametrize(
        ("word", "shown"),
        [
            ("https://me:s3cret@h:81/a.svs?sig=s3cret&t=https://x/?s3cret", "https://h:81/a.svs"),
            ("--slides-root=HTTPS://h/x?sig=s3cret", "--slides-root=HTTPS://h/x"),
            ("https://old/x=http://me:s3cret@[::1]/y?s3cret", "https://old/x=http://[::1]/y"),
            ("https://h?s3cret=https://i/s3cret", "https://h"),
            ("https://me:s3cret@h", "https://h"), ("https://me:s3cret\n@h/\ns3?s3cret\n", "https://h/\ns3"),
            ("s3://bucket/a?b.tif", "s3://bucket/a?b.tif"), ("a?b=c@d", "a?b=c@d"), ("--mpp=0.5", "--mpp=0.5"),
        ],
    )  # fmt: skip
    def test_what_is_recorded_of_a_command_line(self, word, shown):
        assert shown_word(word) == shown

    def test_what_is_a_path_stays_one(self, tmp_path):
        for text in (str(tmp_path / "a.svs"), "a:b.svs", "C:\\a.svs", "a//b"):
            assert typed_place(text) == Path(text) and not isinstance(typed_place(text), RemotePath)

    def test_what_is_below(self):
        root = RemotePath("https://me:pw@h.org/slides?sig=1")
        assert (root / "a b.svs").address == "https://me:pw@h.org/slides/a%20b.svs?sig=1"
        assert (root / "?#%2e").address == "https://me:pw@h.org/slides/%3F%23%252e?sig=1"
        assert below(pure_place("https://h.org/slides/x/a.svs"), root) == root / "x" / "a.svs"
        for other in ("https://h.org/slides2/a.svs", "http://h.org/slides/a.svs", "https://h.org.evil/slides/a.svs",
                      "https://h.org:444/slides/a.svs", "s3://slides/a.svs"):  # fmt: skip
            assert below(pure_place(other), root) is None
        root = RemotePath("https://[::1]:8443/slides")
        assert below(pure_place("https://[::1]:8443/slides/a.svs"), root) == root / "a.svs"
        for other in ("https://[::2]:8443/slides/a.svs", "https://[::1]/slides/a.svs", "https://::1:8443/slides/a.svs"):
            assert below(pure_place(other), root) is None
        for name in ("..", "x/../../a", "a\\b"):
            with pytest.raises(SlideError):
                root / name

    def test_roots(self, tmp_path):
        root = parse_slides_root("https://h.org/slides?sig=a=b")
        assert isinstance(root, RemotePath) and root.address.endswith("a=b")
        moved = parse_slides_root("/old/scans=s3://bucket/scans")
        assert moved == MovedPrefix(PurePosixPath("/old/scans"), RemotePath("s3://bucket/scans"))
        moved = parse_slides_root("https://old.org/scans=s3://bucket/scans")
        assert moved == MovedPrefix(PurePosixPath("https:/old.org/scans"), RemotePath("s3://bucket/scans"))
        assert path_of_text("https://h/a.svs") == PurePosixPath("https:/h/a.svs")
        with pytest.raises(SlideError, match="ftp://, which is not read"):
            parse_slides_root("ftp://h/slides")


@contextmanager
def hanging_up():
    """A server that ends each connection before it says a word: its address, and a list that grows with each."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    calls.append(None)
                    connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", calls
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def tiled(path: Path, side: int = 3072) -> tuple[Path, np.ndarray]:
    """A large OME-TIFF without compression, in tiles of 256 px, with a level of half the size."""
    pixels = np.random.default_rng(0).integers(0, 255, (side // 8, side // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    description = OME.format(w=side, h=side, more="")
    return write_pyramid(path, [pixels, pixels[::2, ::2]], tile=(256, 256), description=description), pixels


class TestReading:
    def test_a_region_of_a_large_slide_fetches_little(self, web):
        path, pixels = tiled(web.root / "a.ome.tif")
        whole = path.stat().st_size
        with open_slide(typed_place(f"{web.url}/a.ome.tif"), mpp=0.5) as slide:
            assert (slide.info.width, slide.info.tile_px, len(slide.info.level_downsamples)) == (3072, (256, 256), 2)
            before = web.sent
            part = slide.read_level(0, Region(1000, 2000, 300, 200))
        assert np.array_equal(part, pixels[2000:2200, 1000:1300])
        assert web.sent - before == 6 * 256 * 256 * 3, "the tiles that it touches"
        assert web.sent < whole / 7, "with all that is looked at when it is opened"

    def test_small_reads_share_blocks(self, web):
        shutil.copy(CMU_1, web.root / "a.svs")
        with open_slide(typed_place(f"{web.url}/a.svs")) as slide, open_slide(CMU_1) as local:
            asked = len(web.asked)
            region = Region(500, 500, 700, 500)
            assert np.array_equal(slide.read_level(0, region), local.read_level(0, region))
            assert len(web.asked) - asked <= 4, "tiles of 10 KiB lie beside each other"
            assert slide.info.mpp == local.info.mpp and slide.info.level_sizes[0] == (2220, 2967)
        assert scanner_of(slide.info.path) == scanner_of(CMU_1) == "aperio CPAPERIOCS"
        web.answers = lambda number: 403
        with pytest.raises(SlideUnreachableError):
            scanner_of(slide.info.path)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_ome_zarr(self, web, version):
        pixels = two_tissues()
        write_ome_zarr(web.root / "a.ome.zarr", [pixels, pixels[::2, ::2]], version=version, chunk=(1, 1, 1, 128, 128))
        place = typed_place(f"{web.url}/a.ome.zarr")
        with open_slide(place) as slide:
            web.asked.clear()
            assert np.array_equal(slide.read_level(0, Region(70, 70, 50, 50)), pixels[70:120, 70:120])
            assert len(web.asked) == 3, "a chunk of each channel"
        assert fingerprint(place) == fingerprint(web.root / "a.ome.zarr")

    def test_one_picture_of_a_plate(self, web):
        """As its message says: a plate is none, a picture in it is."""
        plate = web.root / "plate.zarr"
        write_ome_zarr(plate / "A" / "1" / "0", [two_tissues(128, 128)], chunk=(1, 1, 1, 64, 64))
        (plate / "zarr.json").write_text('{"attributes": {"ome": {"version": "0.5", "plate": {}}}}')
        place = typed_place(f"{web.url}/plate.zarr")
        with pytest.raises(SlideError, match="name one picture in it, such as"):
            open_slide(place)
        with open_slide(place / "A" / "1" / "0") as slide:
            assert (slide.info.width, fingerprint(slide.info.path)) == (128, fingerprint(plate / "A" / "1" / "0"))

    def test_shards_of_ome_zarr(self, web):
        pixels = two_tissues()
        write_ome_zarr(web.root / "a.zarr", [pixels], chunk=(1, 3, 1, 64, 64), shards=(1, 3, 1, 512, 768))
        with open_slide(typed_place(f"{web.url}/a.zarr")) as slide:
            assert np.array_equal(slide.read_level(0, Region(0, 0, 768, 512)), pixels)

    def test_what_a_server_does_not_give_is_no_other_kind_of_file(self, web):
        write_pyramid(web.root / "a.ome.tif", [two_tissues()], description=OME)
        place = typed_place(f"{web.url}/a.ome.tif")
        assert is_ome_tiff(place)
        for first in range(1, len(web.asked) + 1):
            web.asked.clear()
            web.answers = lambda number, first=first: 403 if number >= first else None
            with pytest.raises(SlideUnreachableError):
                is_ome_tiff(place)

    def test_fingerprint_and_check(self, web):
        path = write_tiff(web.root / "a.tif", two_tissues())
        place = typed_place(f"{web.url}/a.tif")
        known = fingerprint(place)
        assert known == fingerprint(path), "so a slide that moved to a server is known there"
        with open_slide(place) as slide:
            assert check_whole(place, slide) == ()
        check_unchanged(place, known)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(SlideChangedError):
            check_unchanged(place, known)
        with pytest.raises(SlideError, match="was cut"), open_slide(place) as slide:
            check_whole(place, slide)

    def test_what_is_no_tiff(self, web):
        (web.root / "a.ndpi").write_bytes(b"none" * 100)
        with pytest.raises(SlideError, match="which alone are read over a network"):
            open_slide(typed_place(f"{web.url}/a.ndpi"))
        assert why_not_there(typed_place(f"{web.url}/b.svs")) == "does not exist"


class TestPatience:
    @pytest.fixture
    def place(self, web):
        write_tiff(web.root / "a.tif", two_tissues())
        return typed_place(f"{web.url}/a.tif?key=s3cret")

    def test_what_passes_is_waited_for(self, web, place):
        web.answers = lambda number: 503 if number % 2 else None
        with open_slide(place) as slide:
            assert slide.read_level(0, Region(0, 0, 9, 9)).shape == (9, 9, 3)

    @pytest.mark.parametrize(
        ("status", "word", "times"),
        [(500, "answers 500", 5), (429, "answers 429", 5), (403, "you may not read it", 1), (418, "answers 418", 1)],
    )
    def test_what_does_not_pass_is_said_in_one_line(self, web, place, status, word, times):
        web.answers = lambda number: status
        with pytest.raises(SlideUnreachableError, match=word) as told:
            open_slide(place)
        assert len(web.asked) == times and "s3cret" not in str(told.value) and "\n" not in str(told.value)

    def test_who_is_not_there_or_slow(self, web, place, monkeypatch):
        with pytest.raises(SlideUnreachableError, match="5 times; check the network"):
            open_slide(typed_place("http://127.0.0.1:9/a.tif"))
        for name in ("READ_S", "CONNECT_S"):
            monkeypatch.setattr(servers, name, 0.05)
        monkeypatch.setattr(servers, "_SERVERS", {})  # which have the longer times
        web.delay_s = 0.3
        with pytest.raises(SlideUnreachableError, match="5 times"):
            open_slide(place)

    def test_redirects(self, web, place, tmp_path):
        with serving(tmp_path) as other:
            for to in (
                f"{other.url}/a.tif",
                "https://127.0.0.1/a.tif",
                "//evil.example/a.tif",
                "file:///etc/passwd",
                "",
            ):
                web.redirects = {"/a.tif": to}
                with pytest.raises(SlideUnreachableError, match="which is not followed"):
                    open_slide(place)
            assert other.asked == []
        web.redirects = {"/a.tif": "/b/a.tif"}
        (web.root / "b").mkdir()
        shutil.move(web.root / "a.tif", web.root / "b" / "a.tif")
        with open_slide(place) as slide:
            assert slide.info.width == 768, "on the same server they are"
        web.redirects = {"/a.tif": "/a.tif"}
        with pytest.raises(SlideUnreachableError, match="more than 3 times"):
            open_slide(place)

    def test_from_https_to_http_is_not_gone(self):
        with pytest.raises(SlideUnreachableError):
            web_answers.redirected("https://h/a", "http://h/a", "a")
        assert web_answers.redirected("http://h/a", "https://h/a", "a") == "https://h/a"

    @pytest.mark.parametrize(
        ("location", "is_followed"),
        [
            ("/b.tif", True), ("http://[0:0:0:0:0:0:0:1]:81/b.tif", True), ("http://[::1]/b.tif", False),
            ("http://[::2]:81/b.tif", False), ("http://[::ffff:7f00:1]:81/b.tif", False), ("//[", False),
            ("http://[::1%25lo]:81/b.tif", False), ("http://localhost:81/b.tif", False),
        ],
    )  # fmt: skip
    def test_redirects_of_ipv6(self, location, is_followed):
        if is_followed:
            assert web_answers.redirected("http://[::1]:81/a", location, "a").endswith(":81/b.tif")
            return
        with pytest.raises(SlideUnreachableError, match="which is not followed"):
            web_answers.redirected("http://[::1]:81/a", location, "a")

    def test_ipv6(self, tmp_path):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("there is no IPv6 here")
        write_tiff(tmp_path / "a.tif", two_tissues())
        with serving(tmp_path, "::1") as web:
            (slide,) = slides_to_predict([f"{web.url}/a.tif?key=s3cret"], Path("none"))
            assert slide.slide_id == "a" and slide.problem is None and "s3cret" not in str(slide.path)
            web.redirects = {"/a.tif": "/b.tif"}
            (tmp_path / "a.tif").rename(tmp_path / "b.tif")
            with slide.open() as opened:
                assert opened.read_level(0, Region(0, 0, 9, 9)).shape == (9, 9, 3)

    def test_a_store_is_asked_as_often_as_is_said(self, web, monkeypatch):
        """The programs below us would ask again too, and each of ours would be many."""
        pytest.importorskip("s3fs")
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": web.url, "AWS_MAX_ATTEMPTS": "4",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(servers, "_SERVERS", {})
        place = typed_place("s3://slides/a.tif")
        for status, times in ((503, 5), (500, 5), (403, 1)):
            web.asked.clear()
            web.answers = lambda number, status=status: status
            with pytest.raises(SlideUnreachableError):
                place.facts()
            assert len(web.asked) == times, f"HEAD, answered {status}"
            web.asked.clear()
            with pytest.raises(SlideUnreachableError):
                place.whole(100)
            assert len(web.asked) == times, f"GET, answered {status}"
        with hanging_up() as (address, calls):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            monkeypatch.setattr(servers, "_SERVERS", {})
            with pytest.raises(SlideUnreachableError, match="5 times"):
                place.whole(100)
            assert 5 <= len(calls) <= 10, "aiohttp begins anew once, as where a kept one has ended"

    def test_stores_that_are_patient_themselves_are_asked_once(self, monkeypatch):
        asked = []

        def info(address):
            asked.append(address)
            raise ConnectionResetError("reset")

        monkeypatch.setattr(servers, "_SERVERS", {})
        for package in ("gcsfs", "adlfs"):
            monkeypatch.setitem(sys.modules, package, SimpleNamespace())
        monkeypatch.setattr("fsspec.filesystem", lambda protocol, **options: SimpleNamespace(info=info))
        for protocol in ("gs", "az"):
            with pytest.raises(SlideUnreachableError, match="reset; check the network"):
                typed_place(f"{protocol}://slides/a.tif").facts()
        assert asked == ["gs://slides/a.tif", "az://slides/a.tif"]

    def test_a_server_without_ranges(self, web, place, tmp_path):
        web.ranges = False
        with pytest.raises(SlideUnreachableError, match="whole files only"):
            open_slide(place)
        assert web.sent <= 2 * (web.root / "a.tif").stat().st_size

    def test_a_file_that_changes(self, web, place):
        with open_slide(place) as slide:
            write_tiff(web.root / "a.tif", two_tissues(rows=1024, columns=1536, seed=5))
            with pytest.raises(SlideChangedError, match="changed on its server"):
                slide.read_level(0, Region(0, 0, 768, 512))

    def test_nothing_stands_for_what_is_not_fetched(self, web):
        tiled(web.root / "a.ome.tif", 2048)
        place = typed_place(f"{web.url}/a.ome.tif")
        with ForgivingSlide(open_slide(place, mpp=0.5)) as slide:
            web.answers = lambda number: 500
            with pytest.raises(SlideUnreachableError):
                slide.read_level(0, Region(1024, 1024, 900, 900))
        web.answers = lambda number: None
        grid = PatchSpec(mpps=(0.5,), size_px=256).grid_of(0.5, "a")
        with FieldReader(lambda: open_slide(place, mpp=0.5), grid, [[Region(0, 0, 1024, 1024)]]) as fields:
            web.answers = lambda number: 500
            with pytest.raises(SlideUnreachableError):
                list(fields)
            assert fields.unreadable.lost == fields.unreadable.replaced == []

    def test_a_slide_is_opened_only_with_all_that_was_asked_for(self, web, monkeypatch):
        """Whatever the server refuses first: no level is taken, or left, because nobody could look at it."""
        tiled(web.root / "a.ome.tif", 1024)
        place = typed_place(f"{web.url}/a.ome.tif")
        with open_slide(place, mpp=0.5) as slide:
            assert len(slide.info.level_sizes) == 2
        for first in range(1, len(web.asked) + 1):
            web.asked.clear()
            monkeypatch.setattr(same_picture, "_SEEN", {})
            web.answers = lambda number, first=first: 403 if number >= first else None
            with pytest.raises(SlideUnreachableError):
                open_slide(place, mpp=0.5)

    def test_passwords_go_to_the_server_alone(self, web):
        write_tiff(web.root / "a.tif", two_tissues())
        place = typed_place(f"{web.url.replace('//', '//me:pw@')}/a.tif")
        with open_slide(place) as slide:
            assert web.headers["Authorization"] == "Basic bWU6cHc=" and "pw" not in str(slide.info.path)


class TestFinding:
    def test_names_that_no_slide_has_do_not_hide_the_others(self, monkeypatch):
        names = ["a.svs", "b::c.svs", "d\\e.svs", "f\n.svs", "g%2Fh.svs", "i?#.svs"]
        store = SimpleNamespace(names=lambda address, shown: ((name, servers.Facts(1, "")) for name in names))
        monkeypatch.setattr(remote, "server_of", lambda protocol: store)
        assert [path.name for path in RemotePath("s3://bucket/x").iterdir()] == ["a.svs", "i?#.svs"]

    def test_by_name_below_a_root_that_is_typed(self, web):
        write_tiff(web.root / "a.tif", two_tissues())
        root = parse_slides_root(web.url)
        wanted = {"a": Wanted("a.tif", PurePosixPath("/old/a.tif"))}
        assert SlideFinder([root]).find(wanted) == {"a": root / "a.tif"}
        with pytest.raises(SlideError, match=r'slide not found: "b\.tif"'):
            SlideFinder([root]).find({"b": Wanted("b.tif", PurePosixPath("/old/b.tif"))})

    def test_a_stored_address_is_followed_below_a_root_alone(self, web):
        (web.root / "x").mkdir()
        write_tiff(web.root / "x" / "a.tif", two_tissues())
        stored = path_of_text(f"{web.url}/x/a.tif")
        with pytest.raises(SlideError, match=f'stored at "{web.url}/x/a.tif"'):
            SlideFinder([]).find({"a": Wanted("a.tif", stored)})
        assert web.asked == []
        root = parse_slides_root(web.url)
        assert SlideFinder([root]).find({"a": Wanted("a.tif", stored)}) == {"a": root / "x" / "a.tif"}
