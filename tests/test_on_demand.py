"""So many open files and no more, however many slides are read in turn; and what happens to files that change."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dmmn_qp.errors import SlideError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.draws import Draw
from dmmn_qp.regions import Region
from dmmn_qp.slides import on_demand, open_slide
from dmmn_qp.slides.on_demand import OPEN_THINGS, SlideOnDemand, most_open
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.specs import PatchSpec
from dmmn_qp.training.examples import PatchExamples
from tests.conftest import invoke, rectangle, two_tissues, write_features, write_tiff
from tests.slide_files import OME, write_pyramid

WHOLE = Region(0, 0, 64, 64)


def write_slides(folder, n):
    """Slides whose grey level is their number."""
    return [write_tiff(folder / f"{i}.tif", np.full((64, 64, 3), i, np.uint8)) for i in range(n)]


@pytest.fixture
def few_files():
    """Leaves 24 files to be opened, as a process with `ulimit -n 64` may have them."""
    resource = pytest.importorskip("resource", reason="the system has no limit of files")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    while len(held) < 24:  # the lowest numbers that are free
        held.append(os.open(os.devnull, os.O_RDONLY))
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("allowed", "things"), [(64, 4), (256, 52), (1024, 244), (65536, 256)])
def test_how_many_may_be_open(monkeypatch, allowed, things):
    resource = pytest.importorskip("resource", reason="the system has no limit of files")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (allowed, allowed))
    assert most_open() == things


def test_many_slides_with_few_files(tmp_path, few_files):
    paths = write_slides(tmp_path, 60)
    slides = [SlideOnDemand(lambda path=path: open_slide(path)) for path in paths]
    for _ in range(2):
        for number, slide in enumerate(slides):
            assert (slide.read_level(0, WHOLE) == number).all()
            assert len(OPEN_THINGS) <= most_open()


def test_those_read_last_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(on_demand, "most_open", lambda: 3)
    opened = []

    def opener(path):
        return lambda: opened.append(path.name) or open_slide(path)

    slides = [SlideOnDemand(opener(path)) for path in write_slides(tmp_path, 4)]  # the last three are open
    for i in (1, 2, 3, 1, 0, 1, 3):  # 0 takes the place of 2
        slides[i].read_level(0, WHOLE)
    assert opened == ["0.tif", "1.tif", "2.tif", "3.tif", "0.tif"]


def test_what_is_dropped_is_closed(tmp_path):
    before = len(OPEN_THINGS)
    slides = [SlideOnDemand(lambda path=path: open_slide(path)) for path in write_slides(tmp_path, 2)]
    assert len(OPEN_THINGS) == before + 2
    slides[0].close()
    assert len(OPEN_THINGS) == before + 1
    assert (slides[0].read_level(0, WHOLE) == 0).all()  # and opened again
    del slides
    assert len(OPEN_THINGS) == before


def test_threads_share_them(tmp_path, monkeypatch):
    monkeypatch.setattr(on_demand, "most_open", lambda: 2)
    slides = [SlideOnDemand(lambda path=path: open_slide(path)) for path in write_slides(tmp_path, 6)]
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda i: slides[i % 6].read_level(0, WHOLE)[0, 0, 0], range(120)))
    assert read == [i % 6 for i in range(120)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_opens_its_own(tmp_path):
    """It must not share the place in a file with its parent, nor wait for a lock that a thread of the parent holds."""
    slide = SlideOnDemand(lambda: open_slide(write_slides(tmp_path, 1)[0]))
    held, done = threading.Event(), threading.Event()

    def hold():
        with slide._slide.lent():
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        os._exit(0 if len(OPEN_THINGS) == 0 and (slide.read_level(0, WHOLE) == 0).all() else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


def test_training_reads_forty_slides_with_few_files(here, few_files):
    for i in range(40):
        (here / "slides").mkdir(exist_ok=True)
        write_tiff(here / "slides" / f"s{i}.tif", two_tissues(256, 256, seed=i))
        features = [rectangle(2, 2, 122, 250, "dark"), rectangle(130, 2, 122, 250, "light")]
        write_features(here / "geojson" / f"s{i}.geojson", features)
    result = invoke("import", "slides", "--annotations", "geojson")
    assert result.exit_code == 0, result.output
    dataset = Dataset(here / "dataset")
    patches = dataset.patches()
    assert len({patch.slide_id for patch in patches}) == 40
    examples = PatchExamples(dataset, patches, augment=None)
    for _ in range(2):
        for number in range(len(patches)):
            images, targets = examples[Draw(number, 0)][:2]
            assert images.any() and targets.any()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be cut there")
class TestFilesThatAreCut:
    """A slide whose file becomes shorter while it is read is an error of ours, or is mended, and nothing else."""

    def pyramid(self, path, **options):
        rng = np.random.default_rng(0)
        coarse = rng.integers(40, 216, (64, 64, 3)).astype(np.uint8)
        levels = [coarse.repeat(k, 0).repeat(k, 1) for k in (16, 8, 4)]
        return write_pyramid(path, levels, description=OME.format(w=1024, h=1024, more=""), **options)

    @pytest.mark.parametrize("options", [{"rowsperstrip": 64}, {"tile": (128, 128), "compression": "deflate"}])
    @pytest.mark.parametrize("keep", [0, 8, 5_000, 0.5, 0.9])
    def test_reading(self, tmp_path, options, keep):
        path = self.pyramid(tmp_path / "s.tif", **options)
        with open_slide(path, mpp=0.5) as slide:
            os.truncate(path, int(keep if keep > 1 else keep * path.stat().st_size))
            for level in (0, 1, 2):
                try:
                    slide.read_level(level, Region(0, 0, 1024, 1024))
                except SlideError as error:
                    assert "\n" not in str(error)

    @pytest.mark.parametrize("keep", [0, 8, 5_000, 0.5, 0.9])
    def test_prediction_goes_on(self, tmp_path, keep):
        path = self.pyramid(tmp_path / "s.tif", subifds=False, tile=(128, 128), compression="deflate")
        grid = PatchSpec(size_px=64, stride_px=64).grid_of(0.5)
        blocks = [[grid.field(Region(x, 512, 128, 128), m) for m in range(3)] for x in range(0, 1024, 128)]
        with FieldReader(lambda: open_slide(path, mpp=0.5), grid, blocks) as fields:
            size = path.stat().st_size
            os.truncate(path, int(keep if keep > 1 else keep * size))
            assert len(list(fields)) == len(blocks)
            assert fields.unreadable.lost or fields.unreadable.replaced or keep == 0.9

    def test_another_slide_in_its_place(self, tmp_path):
        path = write_tiff(tmp_path / "s.tif", np.zeros((64, 64, 3), np.uint8))
        slide = SlideOnDemand(lambda: open_slide(path))
        slide.close()
        write_tiff(path, np.zeros((64, 96, 3), np.uint8))
        with pytest.raises(SlideError, match="changed while it was read"):
            slide.read_level(0, WHOLE)
