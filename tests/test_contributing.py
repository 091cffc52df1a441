"""The examples of CONTRIBUTING.md, listed as it says, keep the contracts of their kinds."""

import importlib.util
import re
from inspect import signature

import numpy as np
import pytest

from dmmn_qp.importing.sources import ANNOTATION_SOURCES
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.networks.encoders import ENCODERS
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.slides import SLIDE_READERS, open_slide
from dmmn_qp.slides.folders import list_slides
from tests import architecture_contract, encoder_contract, source_contract, test_slides, writer_contract
from tests.conftest import REPOSITORY, fails, write_tiff

KINDS = {
    "An architecture": ("ARCHITECTURES", ARCHITECTURES),
    "An encoder": ("ENCODERS", ENCODERS),
    "A slide reader": ("SLIDE_READERS", SLIDE_READERS),
    "An annotation source": ("ANNOTATION_SOURCES", ANNOTATION_SOURCES),
    "A writer": ("WRITERS", WRITERS),
}


LISTING = "from dmmn_qp.importing.sources import AnnotationSource\n"
LISTING += "from dmmn_qp.networks.encoders import EncoderKind, InputConvention\n"
LISTING += "from dmmn_qp.networks import Architecture\nfrom dmmn_qp.outputs.writers import Writer\n"
LISTING += "from dmmn_qp.slides import SlideReader"
"""What the files with the dicts know."""


def examples():
    """Heading -> (file, line, the dict that the line is for), as the page has them."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    sections = re.findall(r"^### (.+?)\n(.*?)(?=^##)", text, re.M | re.S)
    return {
        heading: (*re.findall(r"```python\n(.*?)```", body, re.S), re.search(r"^The line, in `(\w+)`:$", body, re.M)[1])
        for heading, body in sections
    }


def test_there_is_one_of_each():
    assert {heading: listed for heading, (_, _, listed) in examples().items()} == {
        heading: name for heading, (name, _) in KINDS.items()
    }


@pytest.fixture
def listed(tmp_path_factory):
    """Lists an example before all others of its kind; returns its key."""
    before = {heading: dict(entries) for heading, (_, entries) in KINDS.items()}

    def add(heading):
        file, line, _ = examples()[heading]
        place = tmp_path_factory.mktemp("example") / "example.py"
        place.write_text(f"{file}\n\n{LISTING}\nENTRY = {{{line}}}\n", "utf-8")
        spec = importlib.util.spec_from_file_location("example", place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (entry,) = module.ENTRY.items()
        entries = KINDS[heading][1]
        assert entry[0] not in entries
        entries.clear()
        entries.update({entry[0]: entry[1], **before[heading]})
        return entry[0]

    yield add
    for heading, (_, entries) in KINDS.items():
        entries.clear()
        entries.update(before[heading])


def test_architecture(listed):
    assert architecture_contract.breaches(listed("An architecture")) == {}


def test_encoder(listed):
    assert encoder_contract.breaches(listed("An encoder")) == {}


def test_slide_reader(listed, tmp_path):
    listed("A slide reader")
    pixels = test_slides.noise(301, 517)
    np.save(tmp_path / "slide.npy", pixels)
    contract = test_slides.TestEveryReader()
    checks = [getattr(contract, name) for name in dir(contract) if name.startswith("test_")]
    assert len(checks) > 5
    for check in checks:
        more = {"mpp": 0.5} if "mpp" in signature(check).parameters else {}
        with open_slide(tmp_path / "slide.npy", mpp=0.5) as slide:
            assert type(slide).__name__ == "NpyReader"
            check(test_slides.Made(slide, [pixels]), **more)
    assert list_slides(tmp_path) == [tmp_path / "slide.npy"]


@pytest.mark.parametrize("content", [b"no array", np.zeros((4, 4), np.uint8), np.array([{}]), np.zeros((4, 4, 3))])
def test_slide_reader_refuses_what_is_no_slide(listed, here, content):
    listed("A slide reader")
    if isinstance(content, bytes):
        (here / "slide.npy").write_bytes(content)
    else:
        np.save(here / "slide.npy", content)
    assert 'slide "slide.npy" is no' in fails(
        "predict", "slide.npy", "--mpp", 0.5, "--model", REPOSITORY / "models" / "demo"
    )


def test_annotation_source(listed, tmp_path):
    name = listed("An annotation source")
    write_tiff(tmp_path / "s.tif", np.full((600, 600, 3), 200, np.uint8))
    table = tmp_path / "drawn.boxes.csv"
    table.write_text("slide,class,x,y,width,height\ns.tif,dark,10,10,300,300\ns.tif,light,320,10,200,300\n")
    for check in source_contract.CONTRACT:
        check(name, table, None)


@pytest.mark.parametrize("suffix", [*WRITERS, None])
def test_writer(listed, tmp_path, suffix):
    """The example keeps the contract, and so do the others beside it."""
    new = listed("A writer")
    for check in writer_contract.CONTRACT:
        folder = tmp_path / check.__name__
        folder.mkdir()
        check(suffix or new, folder)
