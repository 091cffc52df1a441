"""Quality of slides: blur and pen, by hand, on made slides, and on real ones where they are there."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dmmn_qp.collecting.quality import BLURRED, PEN_MM2, blur_of, measure_quality, pen_mm2_of
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.array_slide import ArraySlide
from dmmn_qp.slides.base import read_overview
from dmmn_qp.slides.files import fingerprint
from tests.conftest import invoke, write_tiff
from tests.test_cohort import predicted, some_labels

REAL = Path(__file__).parents[2] / "shared/data/slides"


def stained(side=512):
    """Pink and violet speckles of about 2 px, half of it glass."""
    rng = np.random.default_rng(0)
    pixels = np.full((side, side, 3), 240, np.uint8)
    grain = cv2.GaussianBlur(rng.normal(size=(side, side // 2)), (0, 0), 0.8)[..., None]
    pixels[:, : side // 2] = np.clip(np.array([180, 110, 170]) + 90 * grain, 0, 235)
    return pixels


def drawn_on(pixels, width_px, color=(30, 120, 60)):
    found = pixels.copy()
    middle = pixels.shape[0] // 2
    cv2.line(found, (20, middle), (pixels.shape[1] - 20, middle), color, width_px)
    return found


def test_blur_by_hand():
    """Single columns go when they are blurred over 9 px, a slope stays, and of an empty picture nobody can tell."""
    lines = np.zeros((40, 40, 3), np.uint8)
    lines[:, ::2] = 200
    assert blur_of(lines) == 1.0, "nothing differs from row to row"
    checks = lines ^ lines.transpose(1, 0, 2)
    assert blur_of(checks) < 0.15
    slope = np.repeat(np.add.outer(np.arange(100), np.arange(100)).astype(np.uint8)[..., None], 3, 2)
    assert blur_of(slope) > 0.9
    assert blur_of(np.zeros((20, 20, 3), np.uint8)) == 1.0


def test_a_slide_out_of_focus_is_called_so():
    sharp = measure_quality(ArraySlide(stained(), 0.5))
    soft = measure_quality(ArraySlide(cv2.GaussianBlur(stained(), (0, 0), 5), 0.5))
    assert sharp.blur is not None and sharp.blur < 0.5 and not sharp.is_blurred
    assert soft.is_blurred and not soft.has_pen
    finer = cv2.resize(stained(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    same = measure_quality(ArraySlide(finer, 0.25))
    assert same.blur == pytest.approx(sharp.blur, abs=0.1), "focus depends on the scanner's pixels"
    assert measure_quality(ArraySlide(stained(), 2.0)).blur is None
    assert measure_quality(ArraySlide(np.full((300, 300, 3), 240, np.uint8), 0.5)).blur is None


def test_what_is_written_is_not_out_of_focus():
    """More of the slide is ink than tissue, and ink has no detail."""
    found = measure_quality(ArraySlide(drawn_on(stained(1024), 700), 1.0))
    assert found.has_pen and not found.is_blurred


@pytest.mark.parametrize(("color", "counts"), [((30, 120, 60), True), ((20, 60, 160), True), ((235, 200, 220), False)])
def test_pens_by_hand(color, counts):
    """A stroke of 20 x 200 px of 10 um is 0.4 mm2; two of a fourth of that count as none."""
    picture = np.full((300, 300, 3), 240, np.uint8)
    picture[50:70, 50:250] = color
    assert pen_mm2_of(picture, 10) == pytest.approx(0.4 if counts else 0)
    picture[50:70, 140:160] = 240
    picture[60:70] = 240
    assert PEN_MM2 > 0.1 and pen_mm2_of(picture, 10) == 0


def test_catalogue_and_page(here):
    """One slide is out of focus, one written on, and one is not there any more."""
    (here / "slides").mkdir()
    soft = cv2.GaussianBlur(stained(), (0, 0), 5)
    written = drawn_on(stained(1024), 300)
    for name, pixels in {"a": stained(), "b": soft, "c": written}.items():
        write_tiff(here / f"slides/{name}.tif", pixels)
    for name in "abcd":
        predicted(here / "predictions", name, some_labels(), request={"um_per_px": 1.0 if name == "c" else 0.5})
    run = json.loads((here / "predictions/run.json").read_text())
    for name in "abc":
        path = here / f"slides/{name}.tif"
        run["inputs"][name] = {"path": str(path), "fingerprint": fingerprint(path)}
    (here / "predictions/run.json").write_text(json.dumps(run))
    result = invoke("cohort", "--quality")
    assert result.exit_code == 0 and "d: its quality is not known" in " ".join(result.output.split())
    with (here / "cohort/slides.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["slide"]: (row["out_of_focus"], row["written_on"]) for row in csv.DictReader(file)}
    assert rows == {"a": ("no", "no"), "b": ("yes", "no"), "c": ("no", "yes"), "d": ("", "")}
    page = (here / "cohort/cohort.html").read_text()
    assert "out of focus: blur" in page and "mm² of pen" in page
    assert invoke("cohort", "--overwrite").exit_code == 0
    assert "out_of_focus" not in (here / "cohort/slides.csv").read_text()


@pytest.mark.skipif(not REAL.is_dir(), reason="real slides are not here")
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "OS-1-detail.ome.tif", "BRACS_1640_N_3_cropped.tiff"])
def test_real_slides(name):
    """As they are they are sharp and clean; blurred by 1.5 um, or with a stroke of a green pen, they are not."""
    with open_slide(REAL / name, mpp=0.2271 if name.startswith("OS") else 0.5) as slide:
        found, mpp = measure_quality(slide), slide.info.mpp
        pixels = read_overview(slide, max(slide.info.width, slide.info.height))
    assert not found.is_blurred and not found.has_pen and found.blur < BLURRED - 0.1
    soft = measure_quality(ArraySlide(cv2.GaussianBlur(pixels, (0, 0), 1.5 / mpp), mpp))
    assert soft.is_blurred and soft.blur > BLURRED + 0.05
    coarse = cv2.resize(pixels, None, fx=mpp, fy=mpp, interpolation=cv2.INTER_AREA)
    larger = cv2.copyMakeBorder(coarse, 600, 600, 600, 600, cv2.BORDER_REFLECT_101)
    assert measure_quality(ArraySlide(drawn_on(larger, 300), 1.0)).has_pen
