"""Where to annotate next: windows, scores, the choice, and what is written for QuPath."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError, InUseError
from dmmn_qp.files.locks import briefly_locked
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.predictions import LABELS_SUFFIX, UNCERTAINTY_SUFFIX, PredictedInput, Prediction, read_inputs
from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.marks import is_suggestion_id, marked_id, suggestion_id
from dmmn_qp.qupath.review import is_suggestion, review
from dmmn_qp.regions import Region
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.specs import ClassMap
from dmmn_qp.suggesting.cells import SlideCells
from dmmn_qp.suggesting.choosing import best_apart, budget, choose
from dmmn_qp.suggesting.looks import annotated_places, distances
from dmmn_qp.suggesting.options import SuggestOptions
from dmmn_qp.suggesting.scores import ranks, rarity_by_class, scores_of
from dmmn_qp.suggesting.stage import suggest
from dmmn_qp.suggesting.suggestion import reason_of, suggestions_of
from dmmn_qp.suggesting.windows import Window, starts, windows_of
from tests.conftest import fails, invoke, rectangle, two_tissues, write_features, write_tiff

# ---- arithmetic, by hand


@pytest.mark.parametrize(
    ("length", "side", "expected"),
    [(100, 100, [0]), (60, 100, [0]), (150, 100, [0, 25, 50]), (155, 100, [0, 25, 50, 55]), (5, 2, [0, 1, 2, 3])],
)
def test_windows_cover_a_side(length, side, expected):
    assert starts(length, side).tolist() == expected


def cells(**changed) -> SlideCells:
    """8 x 8 cells of 10 px: class 1 left, class 2 right; unsure in the lower half; all tissue, nothing annotated."""
    labels = np.ones((8, 8), np.uint8)
    labels[:, 4:] = 2
    entropy = np.zeros((8, 8), np.uint8)
    entropy[4:] = 255
    whole = {"labels": labels, "entropy": entropy, "tissue": labels > 0, "annotated": labels > 2}
    return SlideCells(10.0, **{**whole, **changed})


def found(made: SlideCells, **rules) -> dict[tuple[int, int], Window]:
    rules = {"min_tissue": 0.5, "max_annotated": 0.0, **rules}
    windows = windows_of("a", made, ("tumor", "stroma"), (80, 80), 40, **rules)
    return {(w.region.x, w.region.y): w for w in windows}


def test_what_is_counted_in_a_window():
    here = found(cells())
    assert list(here) == [(x, y) for y in range(0, 50, 10) for x in range(0, 50, 10)]
    assert [here[0, y].entropy for y in range(0, 50, 10)] == [0, 0.625, 0.75, 0.875, 1]  # means 0 to 1, and 1
    assert here[10, 0].shares == (("tumor", 0.75), ("stroma", 0.25)) and here[40, 0].shares == (("stroma", 1),)
    assert here[20, 20].unsure == ("tumor", "stroma") and here[40, 40].unsure == ("stroma",)


def test_windows_are_on_tissue_and_outside_what_is_annotated():
    tissue, annotated = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    tissue[:, :4] = True
    annotated[0, 0] = True
    assert max(x for x, _ in found(cells(tissue=tissue))) == 20
    assert set(found(cells())) - set(found(cells(annotated=annotated))) == {(0, 0)}
    assert (0, 0) in found(cells(annotated=annotated), max_annotated=1 / 16)
    pale = found(cells(tissue=tissue))[20, 0]
    assert pale.shares == (("tumor", 1),)  # glass has no say


def test_ranks():
    assert ranks(np.array([3.0, 1, 2])).tolist() == [1, 0, 0.5]
    assert ranks(np.array([1.0, 1, 5])).tolist() == [0.25, 0.25, 1]
    assert ranks(np.array([np.nan, 1, 5])).tolist() == [0.5, 0, 1]
    assert ranks(np.array([7.0])).tolist() == [0.5]


def test_classes_with_little_annotation_are_rare():
    rare = rarity_by_class({"tumor": 99.0, "stroma": 9.0, "fat": 0.0}, ["tumor", "new"])
    assert rare == {"tumor": 0, "stroma": pytest.approx(0.5), "fat": 1, "new": 1}
    assert rarity_by_class({}, ["tumor"]) == {"tumor": 1}


def window(x: int = 0, y: int = 0, slide: str = "a", name: str = "tumor", entropy: float = 0.5, unsure=None) -> Window:
    return Window(slide, Region(x, y, 100, 100), entropy, ((name, 1.0),), unsure or (name,))


def test_a_score_is_the_weighted_mean_of_ranks():
    windows = [window(entropy=0.1, name="fat"), window(entropy=0.2), window(entropy=0.3)]
    scores = scores_of(windows, {"fat": 1.0, "tumor": 0.0}, np.full(3, np.nan), (2, 1, 1))
    assert scores.rarity.tolist() == [1, 0, 0]
    assert scores.total.tolist() == [(0 + 1 + 0.5) / 4, (1 + 0 + 0.5) / 4, (2 + 0 + 0.5) / 4]


@pytest.mark.parametrize(
    ("window", "ranks", "reason"),
    [
        (window(unsure=("tumor", "stroma")), (0.8, 0.1, 0.1), "unsure between tumor and stroma"),
        (window(), (0.8, 0.1, 0.1), "unsure of tumor"),
        (window(name="fat"), (0.1, 0.8, 0.1), "fat, of which nothing is annotated"),
        (window(name="mucin"), (0.1, 0.8, 0.1), "mucin, of which little is annotated"),
        (window(), (0.2, 0.1, 0.8), "unlike what is annotated as tumor"),
        (window(), (0.99, 0.1, 0.95), "unsure of tumor; unlike what is annotated as tumor"),
        (window(unsure=("\x1b[31m\n" + "x" * 99,)), (1, 0, 0), r"unsure of \x1b[31m " + 28 * "x" + "..."),
    ],
)
def test_reasons(window, ranks, reason):
    assert reason_of(window, ranks, (1, 1, 1), {"fat": 1.0, "mucin": 0.9}) == reason


def test_a_weight_of_nothing_is_no_reason():
    assert reason_of(window(), (0.2, 0.1, 1), (1, 1, 0), {}) == "unsure of tumor"


NOTHING_KNOWN = np.zeros((0, 0))


def chosen(windows, total, count, spread, looks=None):
    looks = np.full((len(windows), 1), np.nan) if looks is None else np.array(looks, float)[:, None]
    return choose(windows, np.array(total), looks, count, spread)


def test_no_ten_windows_of_one_fold():
    fold = [window(x=100 * n) for n in range(4)]
    others = [window(x=3000), window(slide="b"), window(x=3000, y=3000, name="fat")]
    total = [0.9, 0.9, 0.9, 0.9, 0.85, 0.85, 0.85]
    assert chosen([*fold, *others], total, 4, spread=0) == [0, 1, 2, 3]
    assert sorted(chosen([*fold, *others], total, 4, spread=1)) == [0, 4, 5, 6]


@pytest.mark.parametrize(
    "others", [window(slide="b"), window(x=5000), window(name="fat", x=100)], ids=["slide", "place", "class"]
)
def test_each_kind_of_being_unlike_counts(others):
    assert chosen([window(), window(x=100), others], [0.9, 0.8, 0.75], 2, spread=1) == [0, 2]


def test_windows_that_look_alike_come_later():
    windows = [window(x=9000 * n) for n in range(4)]
    assert chosen(windows, [0.9, 0.8, 0.75, 0.1], 2, 1, looks=[0, 0, 5, 9]) == [0, 2]


def test_the_best_are_not_all_of_one_place():
    crowd = [window(x=25 * n) for n in range(9)]  # 0 to 200 px
    windows = [*crowd, window(slide="b"), window(x=4000)]
    assert best_apart(windows, np.array([0.9] * 9 + [0.5, 0.4]), 9) == [0, 2, 4, 6, 8, 9, 10]
    assert best_apart(windows, np.array([0.9] * 9 + [0.5, 0.4]), 2) == [0, 2]


def test_windows_do_not_overlap():
    windows = [window(x=50 * n) for n in range(4)]
    assert chosen(windows, [0.9, 0.8, 0.7, 0.6], 9, spread=0) == [0, 2]


@pytest.mark.parametrize(
    ("given", "expected"), [({}, 10), ({"regions": 3}, 3), ({"mm2": 2}, 8), ({"mm2": 0.75}, 3), ({"mm2": 0.1}, 1)]
)
def test_budget(given, expected):
    assert budget(SuggestOptions(**given), window_mm2=0.25) == expected


def test_distance_compares_the_own_class_with_the_others():
    annotated, classes = np.array([[0.0, 0], [9, 9], [0, 3], [np.nan, 0]]), ["tumor", "tumor", "stroma", "stroma"]
    windows = np.array([[0.0, 1], [0, 1], [0, 1], [np.nan, 1]])
    made = distances(windows, ["tumor", "stroma", "fat", "tumor"], annotated, classes)
    assert made.tolist()[:3] == [pytest.approx(1 / 2), pytest.approx(2), np.inf] and np.isnan(made[3])
    assert np.isnan(distances(windows, ["tumor"] * 4, annotated[:2], classes[:2])).all()
    assert ranks(made).tolist() == [0, 0.5, 1, 0.5]


# ---- the stage

CLASSES = ClassMap.from_colors([("tumor", (200, 0, 0)), ("stroma", (150, 200, 150))])
OPTIONS = SuggestOptions(window_um=96, regions=4, weight_distance=0)


def predicted(folder: Path, slide: Path, unsure: tuple[int, int, int, int]) -> None:
    """Rasters of a slide of 768 x 512 px, tumor left and stroma right; unsure in a box (x, y, width, height)."""
    folder.mkdir(exist_ok=True)
    labels = np.ones((512, 768), np.uint8)
    labels[:, 384:] = 2
    entropy = np.full((512, 768), 10, np.uint8)
    x, y, width, height = unsure
    entropy[y : y + height, x : x + width] = 250
    write_label_pyramid(folder / f"{slide.stem}.{LABELS_SUFFIX}", [labels], labels.shape, 0.5, CLASSES)
    write_probability_pyramid(
        folder / f"{slide.stem}.{UNCERTAINTY_SUFFIX}", [entropy[None]], labels.shape, 0.5, ["entropy"], [(255,) * 3]
    )
    run = folder / "run.json"
    content = json.loads(run.read_text()) if run.is_file() else {"inputs": {}, "predictions": {}}
    image = PredictedInput(path=str(slide), fingerprint=fingerprint(slide), width=768, height=512)
    made = Prediction(run_id="r", model="m", model_run="m", class_map=CLASSES, request={"um_per_px": 0.5})
    content["inputs"][slide.stem] = image.model_dump(mode="json")
    content["predictions"][slide.stem] = made.model_dump(mode="json", exclude_none=True)
    run.write_text(json.dumps(content))


UNSURE = {"a": (480, 240, 192, 192), "v": (0, 0, 768, 512), "new": (96, 144, 192, 192)}


def imported(folder: Path) -> None:
    result = invoke(
        *("import", folder / "slides", "--annotations", folder / "geojson", "--out", folder / "dataset"),
        *("--split-file", folder / "split.csv", "--overwrite"),
    )
    assert result.exit_code == 0, result.output


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A workspace with the slides a (training), v (validation) and new (in no dataset), all predicted."""
    (tmp_path / "slides").mkdir()
    for n, name in enumerate(UNSURE):
        slide = write_tiff(tmp_path / ("slides" if name != "new" else ".") / f"{name}.tif", two_tissues(seed=n))
        predicted(tmp_path / "predictions", slide, UNSURE[name])
    for name in ("a", "v"):
        drawn = [rectangle(0, 0, 256, 256, "tumor"), rectangle(512, 0, 200, 100, "stroma")]
        write_features(tmp_path / "geojson" / f"{name}.geojson", drawn)
    (tmp_path / "split.csv").write_text("slide,split\na,train\nv,val\n")
    imported(tmp_path)
    return tmp_path


def suggested(world: Path, options: SuggestOptions = OPTIONS):
    return suggest(world / "predictions", world / "dataset", world / "out", options, Reporter())


def boxes(suggestions) -> list[tuple[str, int, int]]:
    return [(s.slide_id, s.region.x, s.region.y) for s in suggestions]


def test_what_is_unsure_comes_first_but_nothing_that_is_held_back_or_annotated(world, capsys):
    suggestions = suggested(world)
    assert set(boxes(suggestions[:2])) == {("a", 480, 240), ("new", 96, 144)}
    assert {s.slide_id for s in suggestions} == {"a", "new"} and len(suggestions) == 4
    assert "not looked at, because they are for validation or test: v" in capsys.readouterr().out
    assert suggestions[0].reason.startswith("unsure of ")
    with_held_back = suggested(world, OPTIONS.model_copy(update={"held_back": True, "regions": 30}))
    assert "v" in {s.slide_id for s in with_held_back}
    for s in with_held_back:
        over = [s.region.intersection(Region(*at)) for at in ((0, 0, 256, 256), (512, 0, 200, 100))]
        area = sum(shared.width * shared.height for shared in over if shared is not None)
        assert s.slide_id == "new" or area <= 0.07 * 192**2  # 0.05, and whole cells


def test_the_files(world):
    suggestions = suggested(world)
    out = world / "out"
    for name in ("a", "new"):
        objects = read_geojson(out / f"{name}.geojson").annotations
        mine = [s for s in suggestions if s.slide_id == name]
        assert [o.name for o in objects] == [s.name for s in mine]
        assert [o.geometry.bounds for o in objects] == [
            (s.region.x, s.region.y, s.region.right, s.region.bottom) for s in mine
        ]
        assert {o.class_name for o in objects} == {"Region*"}
        assert all(is_suggestion_id(o.annotation_id) and is_suggestion(o) for o in objects)
        assert [o.measurements["Suggestion rank"] for o in objects] == [s.rank for s in mine]
    with (out / "suggestions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert [(r["slide"], int(r["x_px"]), int(r["y_px"])) for r in rows] == boxes(suggestions)
    page = (out / "suggestions.html").read_text()
    assert "default-src 'none'" in page and "<script" not in page and 'src="http' not in page
    assert page.count("data:image/png;base64") == 4


def test_the_same_files_give_the_same_suggestions(world, tmp_path):
    def digests():
        names = ("a.geojson", "new.geojson", "suggestions.csv", "suggestions.html")
        return [hashlib.sha256((world / "out" / name).read_bytes()).hexdigest() for name in names]

    suggested(world)
    first = digests()
    run = json.loads((world / "predictions" / "run.json").read_text())
    run = {key: dict(reversed(value.items())) for key, value in run.items()}
    (world / "predictions" / "run.json").write_text(json.dumps(run))
    suggested(world)
    assert digests() == first


def test_what_is_annotated_since_is_left_out(world):
    before = boxes(suggested(world))
    assert ("a", 480, 240) in before
    drawn = [rectangle(0, 0, 256, 256, "tumor"), rectangle(540, 280, 60, 60, "stroma")]
    drawn.append(rectangle(0, 384, 128, 128, "Ignore*"))
    write_features(world / "geojson" / "a.geojson", drawn)
    imported(world)
    after = [s.region for s in suggested(world, OPTIONS) if s.slide_id == "a"]
    assert after and not any(r.intersection(Region(540, 280, 60, 60)) == Region(540, 280, 60, 60) for r in after)
    many = suggested(world, OPTIONS.model_copy(update={"regions": 50}))
    assert not any(s.slide_id == "a" and s.region.intersection(Region(10, 394, 100, 100)) for s in many)


def test_suggestions_are_no_labels_and_no_predictions(world):
    suggested(world)
    objects = read_geojson(world / "out" / "a.geojson").annotations
    assert [(v.is_outline, v.origin) for v in review(objects)] == [(True, "unchecked")] * len(objects)
    features = json.loads((world / "out" / "a.geojson").read_text())["features"]
    drawn = json.loads((world / "geojson" / "a.geojson").read_text())["features"]
    before = Dataset(world / "dataset").mask_path("a").read_bytes()
    write_features(world / "geojson" / "a.geojson", [*drawn, *features])
    imported(world)
    dataset = Dataset(world / "dataset")
    assert dataset.mask_path("a").read_bytes() == before and dataset.class_map.names == ("tumor", "stroma")
    assert len(read_geojson(dataset.annotations_path("a")).annotations) == 2
    report = json.loads((world / "dataset" / "report.json").read_text())
    assert report["review"]["predicted"] == 0 and report["review"]["drawn"] == 4
    assert "2 outlines of tissue or suggested regions" in (world / "dataset" / "report.html").read_text()


def test_old_suggestions_go_and_strangers_stay_away(world):
    suggested(world)
    (world / "out" / "gone.geojson").write_text('{"type":"FeatureCollection","features":[]}')
    suggested(world, OPTIONS.model_copy(update={"regions": 1}))
    assert sorted(p.name for p in (world / "out").glob("*.geojson")) == ["a.geojson", "new.geojson"]
    assert (
        len([*read_geojson(world / "out" / "a.geojson").annotations])
        + len([*read_geojson(world / "out" / "new.geojson").annotations])
        == 1
    )
    line = fails("suggest", "--dataset", world / "dataset", "--out", world / "slides")
    assert "holds no suggestions" in line


def test_what_a_region_is_on_is_told_by_the_prediction_that_was_looked_at(world):
    """`push` finds the image by it; another folder may have a prediction of another file of that name."""
    (world / "other").mkdir()
    other = write_tiff(world / "other" / "new.tif", two_tissues(seed=99))
    predicted(world / "users", other, UNSURE["new"])
    (world / "users" / f"new.{UNCERTAINTY_SUFFIX}").unlink()
    suggest([world / "users", world / "predictions"], world / "dataset", world / "out", OPTIONS, Reporter())
    told = read_inputs(world / "out")
    assert told == {name: read_inputs(world / "predictions")[name] for name in ("a", "new")}


def test_what_a_killed_run_left_is_no_reason_to_stop(world):
    """It was killed while it wrote the table, which makes the folder one of suggestions."""
    left = world / "out" / ".0123abcd.part.suggestions.csv"
    left.parent.mkdir()
    left.write_text("rank")
    os.utime(left, (0, 0))
    suggested(world)
    assert not left.exists() and (world / "out" / "suggestions.csv").is_file()


def test_two_runs_write_one_after_the_other(world, monkeypatch):
    monkeypatch.setattr("dmmn_qp.files.locks.WAIT_S", 0.1)
    with briefly_locked(world / "out"), pytest.raises(InUseError):
        suggested(world)
    assert not list((world / "out").iterdir())
    assert suggested(world)


def test_slides_that_are_left_out_for_one_reason_are_a_line_and_a_number(world, capsys):
    """Those whose files are gone, and those whose rasters are damaged; also where the others have no place either."""
    (world / "predictions" / f"new.{UNCERTAINTY_SUFFIX}").unlink()
    for name in ("gone-1", "gone-2", "torn-1", "torn-2"):
        slide = write_tiff(world / f"{name}.tif", two_tissues(seed=5))
        predicted(world / "predictions", slide, UNSURE["new"])
        if name.startswith("gone"):
            slide.unlink()
        else:
            raster = world / "predictions" / f"{name}.{LABELS_SUFFIX}"
            raster.write_bytes(raster.read_bytes()[:-2000])
    with pytest.raises(DatasetError, match="no region of 400 um"):
        suggested(world, OPTIONS.model_copy(update={"min_tissue": 1.0, "window_um": 400.0}))
    gone, more_gone, torn, more_torn = capsys.readouterr().err.splitlines()
    assert gone.startswith("warning: gone-1 is left out: slide not found") and more_gone.endswith(": gone-2")
    assert torn.startswith("warning: torn-1 is left out: label raster") and more_torn.endswith(": torn-2")


def test_no_place_for_a_window_says_what_to_do(world):
    (world / "predictions" / f"new.{UNCERTAINTY_SUFFIX}").unlink()
    with pytest.raises(DatasetError, match="--window-um, or --max-annotated"):
        suggested(world, OPTIONS.model_copy(update={"min_tissue": 1.0, "window_um": 400.0}))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--regions", "3", "--mm2", "2"), "leave one of them out"),
        (("--window-um", "1"), "--window-um should be greater than or equal to 10"),
        (("--weight-uncertainty", "0", "--weight-rarity", "0", "--weight-distance", "0"), "one must be above 0"),
    ],
)
def test_options_that_cannot_be_meant(here, given, error):
    assert error in fails("suggest", *given)


# ---- ids


def test_ids_of_predictions_are_none_of_suggestions():
    made = suggestion_id("suggestion/x")
    assert is_suggestion_id(made) and made == suggestion_id("suggestion/x")
    by_chance = marked_id("21191")  # whose digits would be those of suggestions
    assert not is_suggestion_id(by_chance) and by_chance.hex[8:12] == "0001"


def test_names_sort_as_ranks_do():
    windows = [window(x=100 * n) for n in range(100)]
    scores = scores_of(windows, {}, np.full(100, np.nan), (1, 1, 1))
    names = [s.name for s in suggestions_of(windows, range(100), scores, (1, 1, 1), {}, {"a": 0.5})]
    assert names == sorted(names) and names[0].startswith("001. ")
    assert suggestions_of(windows, [0], scores, (1, 1, 1), {}, {"a": 0.5})[0].name.startswith("01. ")


def test_places_stand_for_all_classes(world):
    patches = Dataset(world / "dataset").patches()
    places = annotated_places(patches, most=4)
    assert {int(np.argmax(p.label_counts[1:])) for p in places} == {0, 1} and len(places) <= 4
    assert {p.split for p in places} == {"train"}
