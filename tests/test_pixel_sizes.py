"""Whose word about the size of a pixel counts, and that contradictions are said."""

from __future__ import annotations

import pytest

from dmmn_qp.errors import PixelSizeError
from dmmn_qp.slides.pixel_sizes import THE_DATASET, StatedMpp, contradictions

FILE = (0.5, 0.5)


@pytest.mark.parametrize(
    ("from_file", "said", "expected", "others"),
    [
        (FILE, {}, 0.5, {}),
        (None, {"default": 1.0}, 1.0, {}),
        (FILE, {"default": 0.25}, 0.5, {"--mpp": 0.25}),  # it fills gaps, and what it did not touch is named
        (FILE, {"default": 0.5001}, 0.5, {}),  # rounding
        (FILE, {"default": 0.25, "forced": True}, 0.25, {"the file": 0.5}),
        (FILE, {"stored": 0.25}, 0.25, {"the file": 0.5}),  # set in QuPath
        ((0.25, 0.2502), {"stored": 0.25}, 0.2501, {}),  # the same but for digits: the file's are exact
        (FILE, {"stored": 0.25, "default": 1.0}, 0.25, {"the file": 0.5, "--mpp": 1.0}),
        (FILE, {"stored": 0.25, "default": 1.0, "forced": True}, 1.0, {"the QuPath project": 0.25, "the file": 0.5}),
        (FILE, {"listed": 0.25}, 0.25, {"the file": 0.5}),
        (FILE, {"listed": 0.5001}, 0.5001, {}),  # a person's digits are what was meant
        (FILE, {"listed": 0.25, "stored": 0.3, "default": 1.0, "forced": True}, 0.25,
         {"--mpp": 1.0, "the QuPath project": 0.3, "the file": 0.5}),
        ((1000.0, 1000.0), {"default": 0.5}, 0.5, {}),  # dots per inch of paper
        ((0.25, 0.5), {"stored": 0.25}, 0.25, {}),
        (FILE, {"stored": 1000.0}, 0.5, {}),
        (None, {"stored": 0.25, "default": 0.5}, 0.25, {"--mpp": 0.5}),
    ],
)  # fmt: skip
def test_whose_word_counts(from_file, said, expected, others):
    size = StatedMpp(**said).resolve("S", from_file)
    assert (size.mpp, dict(size.others)) == (expected, others)


@pytest.mark.parametrize("from_file", [None, (1000.0, 1000.0), (0.25, 0.5), (float("nan"), 1.0)])
def test_unknown_pixel_size_says_the_way_out(from_file):
    with pytest.raises(PixelSizeError, match=r'"S" has no usable pixel size.*--mpp'):
        StatedMpp().resolve("S", from_file)


def test_what_a_person_says_of_this_slide_is_used_or_refused():
    with pytest.raises(PixelSizeError, match=r'"S": mpp says 1000 um/px, which is not between'):
        StatedMpp.of(1000.0).resolve("S", FILE)


def test_slides_of_one_contradiction_share_a_line():
    wrong = StatedMpp(default=0.25).resolve("S", FILE)
    set_in_qupath = StatedMpp(stored=0.25).resolve("S", FILE)
    fine = StatedMpp().resolve("S", FILE)
    lines = contradictions({"a": wrong, "b": fine, "c": wrong, "d": set_in_qupath, "e": None})
    assert lines == [
        "a, c: 0.5 um/px is used, as the file says; --mpp says 0.25; pass --force-mpp if --mpp is right, or a table "
        "slide,mpp of these slides",
        "d: 0.25 um/px is used, as the QuPath project says; the file says 0.5; if that is wrong, set it in QuPath "
        "(Image > Set pixel size) and save the project, or pass --mpp with --force-mpp",
    ]


def test_a_dataset_is_corrected_by_importing_again():
    said = StatedMpp(stored=0.25, stored_by=THE_DATASET).resolve("S", FILE)
    assert "import again" in said.way_out and "--force-mpp" in said.way_out
    assert StatedMpp(stored=0.25, stored_by=THE_DATASET, default=0.5, forced=True).resolve("S", FILE).mpp == 0.5
