"""`evaluation.html` and `worst_regions.geojson`, of evaluations made by hand."""

import base64
import hashlib
import json
import re
from contextlib import nullcontext
from html.parser import HTMLParser

import numpy as np
import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import SlideError
from dmmn_qp.evaluating import worst
from dmmn_qp.evaluating.page import write_evaluation_page, write_worst_regions
from dmmn_qp.evaluating.worst import MOST, cell_px, with_worst_regions, worst_windows
from dmmn_qp.folders.counted_labels import CountedLabels, LabelOpener
from dmmn_qp.folders.evaluation import (
    NOT_PREDICTED,
    WORST_REGIONS,
    WORST_REGIONS_FOLDER,
    Figure,
    PairedComparison,
    PredictedLabelSource,
    read_evaluation,
)
from dmmn_qp.folders.predicted_image import view_of_image
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.labels.meeting import Meeting
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.review import is_suggestion
from dmmn_qp.regions import Region
from dmmn_qp.reports.evaluation_charts import agreement_of, calibration_of, rung_of
from dmmn_qp.reports.evaluation_matrices import matrices_of
from dmmn_qp.reports.evaluation_pictures import agreement_map
from dmmn_qp.reports.evaluation_report import PAGE
from dmmn_qp.reports.evaluation_words import main_truth, summary_sentences
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.specs import PatchSpec
from tests.browser import Browser, needs_chromium
from tests.conftest import invoke, two_tissues, write_tiff
from tests.evaluations import MadeSlide, evaluation_of, figures_of, write_raster
from tests.test_evaluation import write_dataset, write_predictions

SPEC = PatchSpec(size_px=32, mpps=(0.5, 1.0), stride_px=32)
"""Targets of 32 px, cells of 8."""

NAMES = ("a", "b", "c")
MEETING = Meeting.of(dict(enumerate(NAMES, start=1)), dict(enumerate(NAMES, start=1)))
EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m {{ 7 * 7 }}"


class Painted:
    """Labels in memory that remember the largest window that was read."""

    def __init__(self, labels):
        self.labels, self.shape, self.largest = labels, labels.shape, 0

    def read(self, window):
        self.largest = max(self.largest, window.width * window.height)
        found = np.zeros((window.height, window.width), np.uint8)
        part = self.labels[window.y : window.bottom, window.x : window.right]
        found[: part.shape[0], : part.shape[1]] = part
        return found


def blocks(shape, *wrong):
    """All of class 1; of (x, y, side, label) each, another label."""
    labels = np.ones(shape, np.uint8)
    for x, y, side, label in wrong:
        labels[y : y + side, x : x + side] = label
    return labels


def windows(truth, found, meeting=MEETING, spec=SPEC):
    return worst_windows(Painted(truth), Painted(found), meeting, spec)


# ---------------------------------------------------------------- where it is wrong most


@pytest.mark.parametrize(
    ("size", "mpps", "side"),
    [(256, (0.5, 1, 2), 64), (32, (0.5,), 8), (32, (0.5, 1, 2, 4, 8), 16), (80, (0.5, 1, 2), 20), (48, (1.0,), 12)],
)
def test_cells_are_parts_of_a_target_that_may_begin_at_each(size, mpps, side):
    spec = PatchSpec(size_px=size, mpps=mpps)
    assert cell_px(spec) == side
    grid = spec.grid_of(mpps[0])
    for m in range(len(mpps)):
        grid.field(Region(side, 3 * side, size, size), m)  # which refuses what lies between its pixels


def test_the_worst_windows_by_hand():
    truth = blocks((128, 200))
    found = blocks(truth.shape, (40, 8, 32, 2), (160, 96, 16, 3))
    first, second = windows(truth, found)
    assert (first.window, first.pixels, first.wrong) == (Region(40, 8, 32, 32), 1024, 1024)
    assert (first.true, first.predicted) == ("a", "b")
    assert second.window == Region(144, 80, 32, 32)  # the upper left one of those that hold all 256
    assert (second.wrong, second.predicted) == (256, "c")


def test_windows_are_a_target_apart():
    found = windows(blocks((32, 256)), blocks((32, 256), (0, 0, 256, 2)))
    assert [w.window.x for w in found] == [0, 64, 128, 192]
    assert len(windows(blocks((32, 64 * 20)), np.full((32, 64 * 20), 2, np.uint8))) == MOST


def test_less_than_a_hundredth_is_no_region():
    truth = blocks((64, 64))
    assert windows(truth, blocks(truth.shape, (9, 9, 3, 2))) == []  # 9 of 1024 px
    assert [w.wrong for w in windows(truth, blocks(truth.shape, (9, 9, 4, 2)))] == [16]


def test_a_slide_smaller_than_a_target():
    (window,) = windows(blocks((10, 12)), np.full((10, 12), 3, np.uint8))
    assert (window.window, window.pixels, window.wrong) == (Region(0, 0, 32, 32), 120, 120)


def test_what_counts_is_what_the_figures_count():
    names = dict(enumerate(NAMES, start=1))
    truth, found = blocks((32, 64), (0, 0, 32, 2)), blocks((32, 64))
    found[:, 32:] = 0  # not predicted
    (w,) = windows(truth[:, 32:], found[:, 32:])
    assert (w.wrong, w.predicted) == (1024, NOT_PREDICTED)
    skipping = Meeting.of(names, names, skip_unpredicted=True)
    assert windows(truth[:, 32:], found[:, 32:], skipping) == []
    assert windows(truth[:, :32], found[:, :32], Meeting.of(names, names, exclude=["b"])) == []
    other_numbers = Meeting.of({2: "b"}, {1: "b"})  # classes meet by name
    assert windows(truth[:, :32], found[:, :32], other_numbers) == []


def test_tiles_give_what_the_whole_gives(monkeypatch):
    rng = np.random.default_rng(3)
    truth, found = (rng.integers(0, 4, (90, 150), dtype=np.uint8) for _ in range(2))
    wrong = (truth != 0) & (truth != found)
    expected = np.zeros((12, 19), int)
    for y, x in np.argwhere(wrong):
        expected[y // 8, x // 8] += 1
    monkeypatch.setattr(worst, "_ROWS_AT_ONCE", 20)
    monkeypatch.setattr(worst, "_COLUMNS_AT_ONCE", 30)
    true, labels = Painted(truth), Painted(found)
    assert np.array_equal(worst.wrong_in_cells(true, labels, MEETING, 8), expected)
    assert true.largest == labels.largest == 16 * 24  # whole cells alone are read


# ---------------------------------------------------------------- labels that count


def test_counted_labels(tmp_path):
    labels = write_raster(tmp_path / "l.tif", np.array([[1, 2, 3], [1, 2, 3]], np.uint8))
    origins = write_raster(tmp_path / "o.tif", np.array([[7, 7, 7], [7, 8, 0]], np.uint8))
    source = PredictedLabelSource(slide_id="s", path=str(labels), values={1: "a", 2: "b"}, names_from="dataset")
    with CountedLabels(source) as counted:
        assert counted.read(Region(0, 0, 3, 2)).tolist() == [[1, 2, 0], [1, 2, 0]]
    of_origin = source.model_copy(update={"origin_path": str(origins), "origin_value": 7})
    with CountedLabels(of_origin) as counted:
        assert counted.read(Region(1, 0, 3, 2)).tolist() == [[2, 0, 0], [0, 0, 0]]
        assert counted.read_reduced(10).tolist() == [[1, 2, 0], [1, 0, 0]]
    region = Painted(np.array([[0, 1, 1], [0, 1, 1]], np.uint8))  # areas of interest
    opener = LabelOpener(regions={"s": region})
    with opener.truth(of_origin) as counted:
        assert counted.read(Region(0, 0, 3, 2)).tolist() == counted.read_reduced(10).tolist() == [[0, 2, 0], [0, 0, 0]]
    with opener.predicted("folder", source) as counted:  # a prediction is shown wherever it is
        assert counted.read(Region(0, 0, 3, 1)).tolist() == [[1, 2, 0]]


def test_labels_that_are_no_raster(tmp_path):
    painted = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    raster = write_raster(tmp_path / "l.tif", painted)
    source = PredictedLabelSource(slide_id="s", path=str(raster), values={1: "a", 2: "b"}, names_from="dataset")
    nowhere = source.model_copy(update={"path": str(tmp_path / "drawn.geojson")})
    opened = {"s": lambda: nullcontext(Painted(painted))}
    opener = LabelOpener(opened, {("folder", "s"): opened["s"]})
    for how in (opener.truth(nowhere), opener.predicted("folder", nowhere)):
        with how as from_memory, LabelOpener().truth(source) as from_disk:
            for longest in (2, 3, 6, 100):
                assert np.array_equal(from_memory.read_reduced(longest), from_disk.read_reduced(longest))


def test_the_map_of_agreement():
    truth, found = np.array([[0, 1, 1, 1]], np.uint8), np.array([[1, 1, 2, 0]], np.uint8)
    assert agreement_map(truth, found, MEETING).tolist() == [[0, 1, 2, 3]]
    skipping = Meeting.of(dict(enumerate(NAMES, 1)), dict(enumerate(NAMES, 1)), skip_unpredicted=True)
    assert agreement_map(truth, found, skipping).tolist() == [[0, 1, 2, 0]]


# ---------------------------------------------------------------- evaluations


@pytest.fixture(scope="module")
def slide_files(tmp_path_factory):
    """Two slides of 192 x 128 px."""
    folder = tmp_path_factory.mktemp("slides")
    return [write_tiff(folder / f"{name}.tif", two_tissues(128, 192, seed)) for seed, name in enumerate("pq")]


def made(folder, files, names=NAMES, models=("a model",), slide_ids=("p", "q"), **how):
    """An evaluation of slides with different mistakes of each model, its worst regions found."""
    n, slides = len(names), {}
    for i, slide_id in enumerate(slide_ids):
        image = files[i] if i < len(files) else None
        truth = (np.add.outer(np.arange(128) // 32, np.arange(192) // 32) % n + 1).astype(np.uint8)
        truth[:16] = 0
        predicted = []
        for m in range(len(models)):
            found = truth.copy()
            found[32 : 64 + 16 * i, 16 * m : 64 + 16 * m] = n if n > 1 and m % 2 == 0 else 0
            found[:16] = 1
            predicted.append(found)
        known = image and PredictedInput(path=str(image), fingerprint=fingerprint(image), width=192, height=128)
        slides[slide_id] = MadeSlide(truth, predicted, known, {"scanner": names[0]})
    return with_worst_regions(evaluation_of(folder, slides, names, models, **how), SPEC)


def test_regions_of_all_slides_are_ranked_together(tmp_path):
    truth = blocks((64, 64))
    slides = {name: MadeSlide(truth, [blocks((64, 64), (0, 0, side, 2))]) for name, side in (("p", 20), ("q", 30))}
    plain = evaluation_of(tmp_path, slides, NAMES, mpp=0.25)
    sources = tuple(s.model_copy(update={"downsample": 2.0}) for s in plain.truths[0].rasters)
    coarse = plain.model_copy(update={"truths": (plain.truths[0].model_copy(update={"rasters": sources}),)})
    first, second = with_worst_regions(coarse, SPEC).models[0].worst
    assert [(r.slide_id, r.wrong_pixels, r.pixels) for r in (first, second)] == [("q", 900, 1024), ("p", 400, 1024)]
    assert (first.true, first.predicted, first.kind) == ("a", "b", "truth")
    assert (first.x_px, first.y_px, first.width_px, first.height_px) == (0, 0, 64, 64)  # level-0 px, of grid px of 2
    assert first.wrong_mm2 == pytest.approx(900 * 0.25**2 / 1e6)


CASES = {
    "one model": {},
    "three models": {"models": ("first", "second", "third"), "extras": True},
    "one class, one slide": {"names": ("only",), "slide_ids": ("p",), "is_full": False},
    "twelve classes": {"names": tuple(f"class number {i}" for i in range(12)), "extras": True},
    "without slides": {"mpp": None, "files": 0, "extras": True},
    "evil": {
        "names": (EVIL, "b" * 300, "ä\u202eö"),
        "models": (EVIL, "m" * 200),
        "slide_ids": ("p", "q" * 120),
        "title": EVIL,
        "extras": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def page(request, slide_files, tmp_path_factory):
    """The folder of each kind of evaluation, with its evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    how = dict(CASES[request.param])
    evaluation = made(folder, slide_files[: how.pop("files", 2)], **how)
    write_evaluation_page(evaluation, folder, Reporter(), spec=SPEC)
    return folder, evaluation


class Structure(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.images, self.texts, self.policy = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        if tag == "table":
            self.tables.append({"columns": [], "rows": [], "heads": 0, "sortable": attrs.get("class") == "sortable"})
        elif tag == "tr":
            self.tables[-1]["rows"].append(0)
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1] += 1
        elif tag == "button":
            self.tables[-1]["columns"].append((self.tables[-1]["rows"][-1] - 1, int(attrs["data-column"])))
        elif tag == "img":
            self.images.append(attrs)
        elif tag == "meta" and "http-equiv" in attrs:
            self.policy = attrs["content"]

    def handle_data(self, data):
        self.texts.append(data)


def test_page_is_whole(page):
    folder, evaluation = page
    text = (folder / PAGE).read_text("utf-8")
    structure = Structure(text)
    assert structure.tags.count("script") == 1
    script = re.search("<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in structure.policy and "default-src 'none'" in structure.policy
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in structure.images)
    assert "http:" not in text and "https:" not in text and "\x1b" not in text and "onerror=alert(2)>" not in text
    for table in structure.tables:
        assert all(column == told for column, told in table["columns"])  # what a button says is where it is
        assert len(set(table["rows"])) == 1, table
    for model in evaluation.models:
        assert model.name.split("\x1b")[0] in "".join(structure.texts)
    regions = sum(min(len(model.worst), max(3, 24 // len(evaluation.models))) for model in evaluation.models)
    of_region = 5 if evaluation.slides[0].image else 3
    slides = len(evaluation.slides) * (2 + 2 * len(evaluation.models))
    assert len(structure.images) == slides + of_region * regions


@pytest.mark.engine
@needs_chromium
@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_chromium(page, width, tmp_path):
    path = page[0] / PAGE
    with Browser(tmp_path / "profile", width=width) as browser:
        browser.open(path.as_uri())
        assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing to scroll sideways
        cells = "[...document.querySelectorAll('#worst table.sortable')].at(-1)"
        numbers = f"[...{cells}.tBodies[0].rows].map(r => Number(r.cells[0].textContent))"
        ranks = browser.evaluate(numbers)
        assert ranks == [*range(1, len(ranks) + 1)]
        browser.evaluate(f"{cells}.querySelector('button').focus()")
        assert browser.evaluate("getComputedStyle(document.activeElement).cursor") == "pointer"
        state = f"{cells}.querySelector('th').getAttribute('aria-sort')"
        for expected, order in (("ascending", ranks), ("descending", ranks[::-1])):
            for kind in ("keyDown", "keyUp"):
                browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                             windowsVirtualKeyCode=13)  # fmt: skip
            assert (browser.evaluate(state), browser.evaluate(numbers)) == (expected, order)
        assert browser.evaluate(
            "[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.querySelector(a.hash))"
        )
        assert browser.call("Page.printToPDF", preferCSSPageSize=True)["data"]
        assert browser.requests() == [path.as_uri()]
        assert browser.problems() == []
        browser.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        assert browser.evaluate("window.ran") is None  # no other script runs
        assert any("Content Security Policy" in problem for problem in browser.problems())


def sorted_columns(browser):
    """Presses every button twice; what each column then holds: numbers, None for dashes, or texts."""
    return browser.evaluate("""[...document.querySelectorAll('table.sortable th button')].map(button => {
      const rows = button.closest('table').tBodies[0].rows, column = Number(button.dataset.column);
      const seen = () => [...rows].map(row => row.cells[column]).map(cell =>
        cell.dataset.v === '' ? null : 'v' in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim());
      return [1, 2].map(() => { button.click(); return seen(); });
    })""")


@pytest.mark.engine
@needs_chromium
def test_every_column_sorts(page, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open((page[0] / PAGE).as_uri())
        columns = sorted_columns(browser)
        assert len(columns) > 20
        for up, down in columns:
            known = [value for value in up if value is not None]
            assert up == known + [None] * (len(up) - len(known))
            assert [value for value in down if value is not None] == down[: len(known)]  # dashes are last both ways
            if all(isinstance(value, int | float) for value in known):
                assert known == sorted(known) and down[: len(known)] == sorted(known, reverse=True)
            else:
                assert len(set(known)) == 1 or known[0] == down[len(known) - 1]


def test_a_missing_slide_is_shown_as_labels_alone(slide_files, tmp_path, capsys):
    evaluation = made(tmp_path, slide_files)
    gone = evaluation.slides[0].image.model_copy(update={"path": str(tmp_path / "gone.tif")})
    slides = (evaluation.slides[0].model_copy(update={"image": gone}), evaluation.slides[1])
    write_evaluation_page(evaluation.model_copy(update={"slides": slides}), tmp_path, Reporter(), spec=SPEC)
    said = capsys.readouterr()
    assert f"{PAGE} shows the labels of p without its tissue" in said.out and said.err == ""
    assert (tmp_path / PAGE).read_text("utf-8").count("<article") == 2 + len(evaluation.models[0].worst)


def test_an_image_is_found_again_by_its_content(slide_files, tmp_path):
    known = PredictedInput(path="/elsewhere/q.tif", fingerprint=fingerprint(slide_files[1]), width=192, height=128)
    assert view_of_image("s", known, StatedMpp(), [slide_files[1].parent]).open().info.mpp == 0.5
    other = known.model_copy(update={"fingerprint": fingerprint(slide_files[0])})
    with pytest.raises(SlideError):
        view_of_image("s", other, StatedMpp(), [slide_files[1].parent])


# ---------------------------------------------------------------- for QuPath


def test_worst_regions_for_qupath(slide_files, tmp_path):
    evaluation = made(tmp_path, slide_files, models=("first", "second"))
    write_worst_regions(evaluation, tmp_path)
    objects = read_geojson(tmp_path / WORST_REGIONS).annotations
    assert [o.name for o in objects] == sorted(o.name for o in objects)  # by rank
    assert objects[0].name.startswith("01. ") and "by first" in objects[0].name
    assert {o.class_name for o in objects} == {"Region*"} and len({o.annotation_id for o in objects}) == len(objects)
    assert all(is_suggestion(o) for o in objects)  # so that import takes none of them for a label
    assert all(0 <= v <= limit for o in objects for v, limit in zip(o.geometry.bounds, (192, 128) * 2, strict=True))
    of_slides = {name: read_geojson(tmp_path / WORST_REGIONS_FOLDER / f"{name}.geojson").annotations for name in "pq"}
    assert {o.annotation_id for of in of_slides.values() for o in of} == {o.annotation_id for o in objects}
    assert all(f"({name})" in o.name for name, of in of_slides.items() for o in of)
    json.loads((tmp_path / WORST_REGIONS).read_bytes())


def test_a_region_ends_with_the_slide(slide_files, tmp_path):
    evaluation = made(tmp_path, slide_files, slide_ids=("p",))
    region = evaluation.models[0].worst[0].model_copy(update={"x_px": 180, "y_px": 120})
    model = evaluation.models[0].model_copy(update={"worst": (region,)})
    write_worst_regions(evaluation.model_copy(update={"models": (model,)}), tmp_path)
    (o,) = read_geojson(tmp_path / WORST_REGIONS).annotations
    assert o.geometry.bounds == (180, 120, 192, 128)
    assert not (tmp_path / WORST_REGIONS_FOLDER).exists()  # one slide needs no file of its own


# ---------------------------------------------------------------- charts and words


def test_agreement_by_hand(slide_files, tmp_path):
    evaluation = made(tmp_path, slide_files)
    chart = agreement_of("c", (1, 2, 3), evaluation.models, "truth")
    figures = [c for s in evaluation.models[0].truths[0].slides for c in s.figures.classes if c.name == "c"]
    assert [m.title.partition(":")[0] for m in chart.marks] == ["p", "q"]
    assert chart.ticks[0] == (0, "0") and chart.ticks[-1][0] == chart.side
    top = float(chart.ticks[-1][1])
    assert max(max(c.true_mm2, c.predicted_mm2) for c in figures) <= top
    x, y = chart.edge + chart.side * figures[0].true_mm2 / top, 8 + chart.side * (1 - figures[0].predicted_mm2 / top)
    drawn = re.match(r"M([\d.]+),([\d.]+)a", chart.marks[0].path)  # a circle begins at its left
    assert [float(drawn[1]), float(drawn[2])] == pytest.approx([x - 4.2, y], abs=0.06)
    mean = sum(c.predicted_mm2 - c.true_mm2 for c in figures) / 2
    assert mean > 1e-4 and chart.notes == (f"mean difference +{mean:.2g} mm²",)
    assert agreement_of("none of them", (1, 2, 3), evaluation.models, "truth") is None


def test_matrices_by_hand():
    confusion = np.array([[9_999, 1, 0, 0], [10, 20, 0, 10], [0, 0, 0, 0]])  # the last column: not predicted
    of_rows, of_columns = matrices_of(figures_of(NAMES, [confusion]))
    assert [c.text for c in of_rows.cells] == ["100", "<0.1", "", "", "25.0", "50.0", "", "25.0", "", "", "", ""]
    assert [c.text for c in of_columns.cells][:8] == ["99.9", "4.8", "", "", "0.1", "95.2", "", "100"]
    assert [(c.true, c.predicted) for c in of_rows.cells if c.is_right] == [(name, name) for name in NAMES]
    assert [name for _, name in of_rows.columns] == [*NAMES, NOT_PREDICTED]
    side = of_rows.cell
    assert [(round(c.x - of_rows.left), round(c.y - of_rows.top)) for c in of_rows.cells[4:6]] == [
        (0, side),
        (side, side),
    ]


def test_rungs_and_calibration(slide_files, tmp_path):
    rung = rung_of("a", [(0, "m", Figure(value=0.5, low=0.4, high=1.2)), (1, "n", Figure())])
    assert [(m.at, m.bar, m.title) for m in rung.marks] == [(50, (40, 60), "m: 0.500")]
    assert calibration_of([], 1) is None
    evaluation = made(tmp_path, slide_files, extras=True)
    chart = calibration_of([(0, "m", evaluation.models[0].truths[0].calibration)], 1)
    assert [height for *_, height in chart.bars][-1] == chart.side / 4 and len(chart.marks) == 5


def test_summary_in_words(slide_files, tmp_path):
    evaluation = made(tmp_path, slide_files, models=("first", "second"))
    figures = {model.name: model.truths[0].pooled for model in evaluation.models}
    best = max(figures, key=lambda name: figures[name].mean_iou.value)
    other = next(name for name in figures if name != best)
    compared = {"kind": "truth", "figure": "mean_iou", "sample_kind": "slides", "difference": Figure(value=0.02)}
    comparisons = [
        PairedComparison(first=best, second=other, p_value=p, samples=n, **compared)
        for p, n in ((0.2, 2), (0.0004, 20), (None, 1))
    ]
    lines = summary_sentences(evaluation.model_copy(update={"comparisons": tuple(comparisons)}))
    assert lines[0].startswith(f"The highest mIoU of 2 is that of {best}: {figures[best].mean_iou.value:.3f} (")
    assert f"{best} − {other}: +0.020 mIoU (p = 0.20): 2 slides do not tell them apart." in lines
    assert f"{best} − {other}: +0.020 mIoU (p < 0.001): 20 slides tell them apart." in lines
    assert any("nobody can tell" in line for line in lines)
    settings = evaluation.settings.model_copy(update={"samples": 1, "sample_kind": "cases"})
    one_case = summary_sentences(evaluation.model_copy(update={"settings": settings}))
    assert one_case[-1].startswith("One case says nothing")
    alone = summary_sentences(made(tmp_path, slide_files, slide_ids=("p",)))
    assert alone[0].startswith("The mIoU of a model is 0.") and "no intervals" in alone[-1]


def test_full_truth_leads(slide_files, tmp_path):
    evaluation = made(tmp_path, slide_files)
    drawn = evaluation.truths[0].model_copy(update={"kind": "annotated", "title": "annotated pixels", "is_full": False})
    figures = evaluation.models[0].truths[0].model_copy(update={"kind": "annotated"})
    model = evaluation.models[0].model_copy(update={"truths": (figures, *evaluation.models[0].truths)})
    both = evaluation.model_copy(update={"truths": (drawn, *evaluation.truths), "models": (model,)})
    assert main_truth(both).kind == "truth"
    write_evaluation_page(both, tmp_path, Reporter(), spec=SPEC)
    text = (tmp_path / PAGE).read_text("utf-8")
    assert text.index("Classes: full truth") < text.index("Classes: annotated pixels")


# ---------------------------------------------------------------- through the command line


def test_evaluate_writes_the_page(here):
    true = np.full((128, 128), "a")
    found = true.copy()
    found[:64], found[70:110, 70:110] = "b", "c"
    write_dataset({"s": true}, NAMES)
    write_predictions({"s": found}, NAMES)
    ring = [[0, 64], [128, 64], [128, 128], [0, 128], [0, 64]]
    area = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (here / "roi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    result = invoke("evaluate", "--roi", "roi.geojson")
    assert result.exit_code == 0 and f"look at evaluation/{PAGE}" in result.stdout
    assert "shows the labels of s without its tissue" in result.stdout  # there is no such file
    (region,) = read_evaluation(here / "evaluation").models[0].worst  # what lies above the area does not count
    assert (region.true, region.predicted, region.wrong_pixels) == ("a", "c", 1600)
    assert len(read_geojson(here / "evaluation" / WORST_REGIONS).annotations) == 1
    assert Structure((here / "evaluation" / PAGE).read_text("utf-8")).tags.count("img") == 4 + 3
