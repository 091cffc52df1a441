"""What the scripts for QuPath keep because somebody vouched for it, and how they cut new outlines by it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from shapely import union_all
from shapely.geometry import shape

from dmmn_qp.qupath.marks import (
    AREA_MM2,
    AREA_UM2,
    CLASS_CODE,
    CLASS_KEY,
    ID_PREFIX,
    METADATA_KEY,
    PERIMETER,
    SUGGESTION_CLASS,
    SUGGESTION_MARK,
    SUGGESTION_RANK,
    class_code,
    is_marked,
    marked_id,
    suggestion_id,
)
from tests.groovy import tools
from tests.groovy.cases import (
    MODEL,
    NEW,
    Feature,
    Scripts,
    box,
    fake_program,
    feature,
    find_groovy,
    ids,
    image,
    predicted,
    write,
)

VERSIONS = ("0.4", "0.5", "0.6")
SCRIPTS = ("import_predictions", "run_dmmn", "clear_predictions")
TISSUE = {METADATA_KEY: "tissue"}
TUMOR_SAID = {**MODEL, CLASS_KEY: "Tumor"}


@dataclass(frozen=True)
class History:
    """What became of a prediction, and what scripts are to do with it.

    Attributes:
        what: What `predicted` makes the object of.
        fate: "removed", "kept" (vouched for), "tissue", or "foreign" (not ours).
        otherwise: The fate in a version of QuPath that cannot know better.
        id_of: Whose id it has: that of a "prediction", of the "tissue", of a "person"'s object (drawn or copied), or of
            one whose random digits begin like ours ("chance").
    """

    what: dict[str, Any]
    fate: str
    otherwise: tuple[str, str] | None = None
    id_of: str = "prediction"

    def in_version(self, version: str) -> str:
        return self.otherwise[1] if self.otherwise is not None and self.otherwise[0] == version else self.fate


NAMES = ("Tumor", "Drüsen-Ödem: weiß", "A: B", "腫瘍", "a/b c", "x")
HISTORIES = {
    "untouched": History({}, "removed"),
    "untouched detection": History({"kind": "detection"}, "removed"),
    "renamed": History({"objectName": "mine"}, "removed"),
    "locked": History({"isLocked": True}, "kept"),
    "locked detection": History({"kind": "detection", "isLocked": True}, "kept"),
    "reclassified": History({"name": "Stroma"}, "kept"),
    "class taken away": History({"name": None}, "kept"),
    "reshaped": History({"measured": False}, "kept"),
    "reshaped, lock and class too": History({"measured": False, "isLocked": True, "name": "Stroma"}, "kept"),
    "older file": History({"code": None}, "removed"),
    "older file, reclassified": History({"code": None, "name": "Stroma"}, "removed"),
    "older file, reshaped": History({"code": None, "measured": False}, "kept"),
    "class told by metadata": History(
        {"code": None, "texts": TUMOR_SAID, "name": "Stroma"}, "kept", ("0.4", "removed")
    ),
    "class told by metadata, untouched": History({"code": None, "texts": TUMOR_SAID}, "removed"),
    "copy": History({}, "removed", ("0.4", "foreign"), id_of="person"),
    "copy, locked": History({"isLocked": True}, "kept", ("0.4", "foreign"), id_of="person"),
    "copy, reclassified": History({"name": "Stroma"}, "foreign", id_of="person"),
    "copy, reshaped": History({"measured": False}, "foreign", id_of="person"),
    "copy, reshaped, class told by metadata": History(
        {"measured": False, "texts": TUMOR_SAID}, "foreign", id_of="person"
    ),
    "copy, class told by metadata": History(
        {"code": None, "texts": TUMOR_SAID}, "removed", ("0.4", "foreign"), id_of="person"
    ),
    "copy of an older file": History({"code": None}, "foreign", id_of="person"),
    "tissue": History({"texts": TISSUE, "measured": False, "name": "Tissue"}, "tissue", ("0.4", "kept")),
    "tissue by its id": History({"texts": {}, "measured": False, "name": "Tissue"}, "tissue", id_of="tissue"),
    "tissue, locked": History(
        {"texts": {}, "measured": False, "name": "Tissue", "isLocked": True}, "tissue", id_of="tissue"
    ),
    "copied tissue": History({"texts": TISSUE, "measured": False, "name": "Tissue"}, "foreign", id_of="person"),
    "prediction with an id like the tissue's": History({"measured": False}, "kept", ("0.4", "tissue"), id_of="tissue"),
    "drawn": History({"measured": False, "texts": {}}, "foreign", id_of="person"),
    "drawn and measured": History({"texts": {}}, "foreign", id_of="person"),
    "drawn, with our digits by chance": History({"texts": {}}, "foreign", id_of="chance"),
    **{f"{name}, untouched": History({"name": name, "code": class_code(name)}, "removed") for name in NAMES},
    **{f"{name}, was another": History({"name": name, "code": class_code(f"{name}s")}, "kept") for name in NAMES},
}


def history_id(name: str, history: History) -> str:
    made, random = str(marked_id(name)), f"-0000-4000-8000-{list(HISTORIES).index(name):012}"
    return {
        "prediction": made,
        "tissue": made[:9] + "0000" + made[13:],
        "person": f"b0b0b0b0{random}",
        "chance": f"{ID_PREFIX}{random}",
    }[history.id_of]


def histories() -> list[Feature]:
    """An object of each history, none near another."""
    return [
        predicted(history_id(name, history), at=(i * 100, 0, 50, 50), **history.what)
        for i, (name, history) in enumerate(HISTORIES.items())
    ]


def locked(*at: float, **more: Any) -> Feature:
    return predicted(marked_id(f"locked {at}"), at=at, isLocked=True, **more)


@dataclass(frozen=True)
class Cut:
    """What is left of a new square of 100 px.

    Attributes:
        there: What is in the image before.
        px: Area and perimeter of what is left; None where nothing is.
        rings: Number of rings in each of its polygons.
        whole: Whether the object is added as it is, with its own id.
    """

    there: list[Feature]
    px: tuple[float, float] | None
    rings: tuple[int, ...] = (1,)
    whole: bool = False


WHOLE = (10_000, 400)
CUTS = {
    "half": Cut([locked(0, 0, 50, 100)], (5000, 300)),
    "half, by one without a class": Cut([locked(0, 0, 50, 100, name=None)], (5000, 300)),
    "half, on another channel": Cut([locked(0, 0, 50, 100, plane={"c": 1, "z": 0, "t": 0})], (5000, 300)),
    "whole": Cut([locked(-10, -10, 200, 200)], None),
    "all but slivers": Cut([locked(0, 0.05, 100, 99.9)], None),
    "a sliver stays out": Cut([locked(0.05, 0, 60, 100)], (100 * 39.95, 2 * 139.95)),
    "corner of 2 px2": Cut([locked(99, 98, 50, 50)], WHOLE, whole=True),
    "strip of 0.05 px": Cut([locked(99.95, 0, 50, 100)], WHOLE, whole=True),
    "corner of 6 px2": Cut([locked(98, 97, 50, 50)], (9994, 400)),
    "touching": Cut([locked(100, 0, 50, 100)], WHOLE, whole=True),
    "apart": Cut([locked(300, 0, 50, 100)], WHOLE, whole=True),
    "hole": Cut([locked(40, 40, 20, 20)], (9600, 480), rings=(2,)),
    "two parts": Cut([locked(40, -10, 20, 120)], (8000, 560), rings=(1, 1)),
    "two kept": Cut([locked(0, 0, 20, 100), locked(80, 0, 20, 100)], (6000, 320)),
    "two kept that overlap": Cut([locked(0, 0, 30, 100), locked(20, 0, 30, 100)], (5000, 300)),
    "reshaped": Cut([predicted(marked_id("r"), at=(0, 0, 50, 100), measured=False), locked(300, 0, 9, 9)], (5000, 300)),
    "unchecked": Cut([predicted(marked_id("u"), at=(0, 0, 50, 100))], WHOLE, whole=True),
    "drawn": Cut([feature(uuid4(), at=(0, 0, 50, 100), isLocked=True)], WHOLE, whole=True),
    "tissue": Cut([feature(marked_id("t"), at=(0, 0, 500, 500), isLocked=True, metadata=TISSUE)], WHOLE, whole=True),
    "another plane": Cut([locked(0, 0, 50, 100, plane={"c": -1, "z": 1, "t": 0})], WHOLE, whole=True),
    "another time": Cut([locked(0, 0, 50, 100, plane={"c": -1, "z": 0, "t": 1})], WHOLE, whole=True),
    "detection": Cut([locked(0, 0, 50, 100, kind="detection")], (5000, 300)),
    "of one id, half": Cut([predicted(NEW, at=(0, 0, 50, 100), isLocked=True)], None),
    "of one id, the same": Cut([predicted(NEW, at=(0, 0, 100, 100), isLocked=True)], None),
    "of one id, moved away": Cut([predicted(NEW, at=(300, 0, 100, 100), isLocked=True)], None),
    "of one id, a detection": Cut([predicted(NEW, "detection", at=(0, 0, 100, 100), isLocked=True)], None),
    "of one id, changed by hand": Cut([predicted(uuid4(), at=(0, 0, 50, 100), measured=False)], WHOLE, whole=True),
}
SQUARE = predicted(NEW, at=(0, 0, 100, 100), objectName="named", texts=TUMOR_SAID)


def add_import(scripts: Scripts, name: str, there: list[Feature], *new: Feature, **more: Any) -> None:
    write(scripts.folder / name / "predictions" / "a.geojson", *new)
    scripts.add(name, "import_predictions", image(objects=there), **more)


def add_run(scripts: Scripts, name: str, there: list[Feature], *new: Feature, **more: Any) -> None:
    program = fake_program(scripts.folder / name, *new)
    scripts.add(name, "run_dmmn", image(objects=there), args=[f"program={program}"], **more)


def unlucky() -> str:
    """An id whose cut by half has a digest in which the digits that mark tissue come by chance."""
    text = str([[[[float(x), float(y)] for x, y in box(50, 0, 50, 100)]]])
    found = str(marked_id("unlucky 54174"))
    assert hashlib.md5(f"{found}{text}".encode()).hexdigest()[8:12] == "0000"
    return found


def suggested(name: str, **changed: Any) -> Feature:
    """A region as `suggest` writes it."""
    said = {
        "classification": {"name": SUGGESTION_CLASS, "color": [0, 0, 180]},
        "measurements": {SUGGESTION_RANK: 1.0},
        "metadata": {METADATA_KEY: SUGGESTION_MARK},
    }
    return feature(suggestion_id(name), at=(0, 0, 60, 60), **{**said, **changed})


STROMA = {"name": "Stroma", "color": [0, 0, 0]}
MADE_OF = [suggested("locked", isLocked=True), suggested("class", classification=STROMA)]
MADE_OF += [suggested("shape", measurements={}), feature(uuid4(), at=(0, 0, 9, 9))]
BY_CHANCE = predicted(str(marked_id("chance"))[:9] + "0002" + str(marked_id("chance"))[13:], at=(0, 0, 50, 100))


def add_suggestions(scripts: Scripts) -> None:
    there = [suggested("old"), suggested("again"), *MADE_OF, BY_CHANCE]
    for version in VERSIONS:
        folder = scripts.folder / f"suggest {version}" / "suggestions"
        write(folder / "a.geojson", suggested("again"), suggested("new"), suggested("locked"))
        (folder / "suggestions.csv").write_text("rank\n")
        scripts.add(
            f"suggest {version}", "import_predictions", image(objects=there), args=[str(folder)], version=version
        )
        add_import(scripts, f"beside suggestions {version}", there, SQUARE, version=version)
        scripts.add(f"clear suggestions {version}", "clear_predictions", image(objects=there), version=version)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    groovy, scripts = find_groovy(), Scripts(tmp_path_factory.mktemp("scripts"))
    far = predicted(NEW, at=(0, 5000, 100, 100))
    for version in VERSIONS:
        add_import(scripts, f"import_predictions {version}", histories(), far, version=version)
        add_run(scripts, f"run_dmmn {version}", histories(), far, version=version)
        scripts.add(f"clear_predictions {version}", "clear_predictions", image(objects=histories()), version=version)
        for word in ("all", "locked"):
            scripts.add(
                f"clear {word} {version}", "clear_predictions", image(objects=histories()), args=[word], version=version
            )
    nothing = [locked(0, 300, 9, 9, measured=False), predicted(marked_id("u"), measured=False), histories()[-1]]
    for name, there in {"unmeasured": nothing[:2], "measured": nothing}.items():
        add_import(scripts, name, there, SQUARE)
        scripts.add(f"clear {name}", "clear_predictions", image(objects=there))
    scripts.add("clear nothing", "clear_predictions", image())
    for name, cut in CUTS.items():
        add_import(scripts, f"cut {name}", cut.there, SQUARE)
        add_import(scripts, f"cut {name}, twice", cut.there, SQUARE, times=2, turns=1)
    half = CUTS["half"].there
    add_run(scripts, "run half", half, SQUARE)
    for version in VERSIONS:
        add_import(scripts, f"half in {version}", half, SQUARE, version=version)
    detection = {**SQUARE, "properties": {**SQUARE["properties"], "objectType": "detection"}}
    add_import(scripts, "half of a detection", half, detection)
    add_import(scripts, "half without measurements", half, predicted(NEW, at=(0, 0, 100, 100), measured=False))
    add_import(scripts, "half, at 1 um/px", half, predicted(NEW, at=(0, 0, 100, 100), scale=1.0))
    deep = {"c": -1, "z": 3, "t": 2}
    there = [locked(0, 0, 50, 100, plane=deep)]
    add_import(scripts, "half, deeper", there, predicted(NEW, at=(0, 0, 100, 100), plane=deep))
    add_import(scripts, "unlucky", half, predicted(unlucky(), at=(0, 0, 100, 100)))
    small = [locked(0, 0, 1, 3), locked(5, 0, 1, 3)]
    add_import(scripts, "small", small, predicted(NEW, at=(0, 0, 1, 3)), predicted(marked_id("s"), at=(5, 2, 1, 3)))
    broken = locked(0, 0, 50, 100)
    broken["geometry"]["coordinates"].append([[9, 9], [9, 9], [9, 9]])
    add_import(scripts, "broken", [broken, predicted(marked_id("u"))], SQUARE)
    add_suggestions(scripts)
    scripts.run(groovy)
    return scripts


def left(scripts: Scripts, name: str) -> list[Feature]:
    """What the script left of a case's image."""
    outcome = scripts.outcomes[name]
    assert outcome["error"] is None, outcome
    return list(outcome["objects"][0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_somebody_vouched_for_stays(outcomes: Scripts, script: str, version: str) -> None:
    fates = {history_id(name, history): history.in_version(version) for name, history in HISTORIES.items()}
    names = dict(zip(fates, HISTORIES, strict=True))
    there = left(outcomes, f"{script} {version}")
    lock = {item["id"] for item in histories() if item["properties"].get("isLocked")}
    gone = {"removed", "tissue"} if script == "clear_predictions" else {"removed"}
    stays = [i for i, fate in fates.items() if fate not in gone or (fate == "tissue" and i in lock)]
    assert [names.get(i, i) for i in ids(there)] == [names[i] for i in stays] + ([] if "clear" in script else [NEW])
    assert [item for item in there if item["id"] != NEW] == expected(stays, version)

    removed = sum(fate == "removed" for fate in fates.values())
    kept = [i for i, fate in fates.items() if fate == "kept"]
    words = f"{len(kept)} reviewed ones kept ({sum(i in lock for i in kept)} locked)"
    assert (
        outcomes.outcomes[f"{script} {version}"]["text"].splitlines()[-1]
        == {
            "import_predictions": f"a.svs: 1 added, {removed} of earlier runs removed, {words}",
            "run_dmmn": f"a.svs: 1 added, {removed} of earlier runs removed, {words}. File > Save keeps them",
            "clear_predictions": f"a.svs: {removed} predictions removed, {words}; the tissue's outline removed",
        }[script]
    )


def expected(stays: list[str], version: str) -> list[Feature]:
    """The objects of these ids, not changed by a script; QuPath 0.4 shows no metadata."""
    found = [item for item in histories() if item["id"] in stays]
    for item in found if version == "0.4" else []:
        item["properties"].pop("metadata", None)
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("word", ["all", "locked"])
def test_all_of_ours_is_removed_when_asked_for(outcomes: Scripts, word: str, version: str) -> None:
    name = f"clear {word} {version}"
    foreign = [history_id(n, h) for n, h in HISTORIES.items() if h.in_version(version) == "foreign"]
    assert ids(left(outcomes, name)) == foreign
    assert outcomes.outcomes[name]["text"].endswith("reviewed ones too; the tissue's outline removed\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_suggestions_replace_suggestions_alone(outcomes: Scripts, version: str) -> None:
    made_of = ids(MADE_OF)
    after = ids(left(outcomes, f"suggest {version}"))
    assert after == [*made_of, BY_CHANCE["id"], str(suggestion_id("again")), str(suggestion_id("new"))]
    text = outcomes.outcomes[f"suggest {version}"]["text"]
    assert text == "a.svs: 2 suggested regions added, 2 of earlier runs removed\n"
    old = [str(suggestion_id("old")), str(suggestion_id("again"))]
    assert ids(left(outcomes, f"beside suggestions {version}")) == [*old, *made_of, SQUARE["id"]]
    assert ids(left(outcomes, f"clear suggestions {version}")) == made_of
    assert "; 2 suggested regions removed" in outcomes.outcomes[f"clear suggestions {version}"]["text"]


def test_without_any_measurements_all_is_kept_and_it_is_said(outcomes: Scripts) -> None:
    told = (
        "no prediction in the image had its measurements, so that nobody can tell which were changed, and all were kept"
    )
    assert len(left(outcomes, "unmeasured")) == 3
    text = outcomes.outcomes["unmeasured"]["text"]
    assert text.startswith(f"a.svs: 1 added, 0 of earlier runs removed, 2 reviewed ones kept (1 locked); {told}")
    assert told in outcomes.outcomes["clear unmeasured"]["text"]
    assert len(left(outcomes, "measured")) == 4
    assert told not in outcomes.outcomes["measured"]["text"] + outcomes.outcomes["clear measured"]["text"]
    text = outcomes.outcomes["clear nothing"]["text"]
    assert text == "a.svs: 0 predictions removed, 0 reviewed ones kept (0 locked)\n"


def new_ones(scripts: Scripts, name: str) -> list[Feature]:
    there = {item["id"] for item in scripts.cases[name]["images"][0]["objects"]}
    return [item for item in left(scripts, name) if item["id"] not in there]


@pytest.mark.parametrize("name", CUTS)
def test_new_outlines_are_cut_by_reviewed_ones(outcomes: Scripts, name: str) -> None:
    cut = CUTS[name]
    there = left(outcomes, f"cut {name}")
    if name != "unchecked":
        assert there[: len(cut.there)] == cut.there
    new = new_ones(outcomes, f"cut {name}")
    if cut.px is None:
        assert new == []
        return
    (item,) = new
    if cut.whole:
        assert item == SQUARE
        return
    assert is_marked(UUID(item["id"])) and item["id"] != NEW
    properties = dict(item["properties"])
    measurements = properties.pop("measurements")
    area, perimeter = cut.px
    assert measurements == pytest.approx(
        {AREA_UM2: area / 4, AREA_MM2: area / 4e6, PERIMETER: perimeter / 2, CLASS_CODE: class_code("Tumor")}
    )
    assert properties == {k: v for k, v in SQUARE["properties"].items() if k != "measurements"}
    assert tuple(len(polygon) for polygon in polygons(item)) == cut.rings
    assert sum(area_of(p[0]) - sum(map(area_of, p[1:])) for p in polygons(item)) == pytest.approx(cut.px[0])


def polygons(item: Feature) -> list[list[list[list[float]]]]:
    found = item["geometry"]["coordinates"]
    return [found] if item["geometry"]["type"] == "Polygon" else found


def area_of(ring: list[list[float]]) -> float:
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))) / 2


@pytest.mark.parametrize("name", CUTS)
def test_again_changes_nothing(outcomes: Scripts, name: str) -> None:
    """Ids too: those of cut objects depend on the old id and on what is left, not on where a ring starts."""
    once, twice = left(outcomes, f"cut {name}"), left(outcomes, f"cut {name}, twice")
    assert ids(once) == ids(twice)
    assert len(set(ids(once))) == len(once)
    lines = outcomes.outcomes[f"cut {name}, twice"]["text"].splitlines()
    added = len(new_ones(outcomes, f"cut {name}"))
    assert lines[1].startswith(f"a.svs: {added} added, {added} of earlier runs removed, ")
    assert [item["properties"] for item in once] == [item["properties"] for item in twice]


def test_ids_of_cut_objects_tell_them_apart(outcomes: Scripts) -> None:
    cuts = [n for n, cut in CUTS.items() if cut.px not in (None, WHOLE, (5000, 300))]
    found = [new_ones(outcomes, f"cut {name}")[0]["id"] for name in [*cuts, "half"]]
    assert len(set(found)) == len(found) > 4
    (other,) = new_ones(outcomes, "unlucky")
    assert is_marked(UUID(other["id"]))
    assert other["id"][9:13] == "0001"  # 0000 would be the tissue's


@pytest.mark.parametrize("name", ["run half", *(f"half in {version}" for version in VERSIONS), "half of a detection"])
def test_cutting_is_the_same_everywhere(outcomes: Scripts, name: str) -> None:
    (item,), (other,) = new_ones(outcomes, name), new_ones(outcomes, "cut half")
    assert item["properties"]["objectType"] == ("detection" if "detection" in name else "annotation")
    assert ("metadata" in item["properties"]) == ("0.4" not in name)
    for key in ("id", "geometry"):
        assert item[key] == other[key]
    assert item["properties"]["measurements"] == other["properties"]["measurements"]


def test_measurements_follow_those_of_the_uncut_object(outcomes: Scripts) -> None:
    (item,) = new_ones(outcomes, "half, at 1 um/px")
    assert item["properties"]["measurements"][PERIMETER] == pytest.approx(300)
    (item,) = new_ones(outcomes, "half without measurements")
    assert "measurements" not in item["properties"]


def test_cut_objects_stay_on_their_plane(outcomes: Scripts) -> None:
    (item,) = new_ones(outcomes, "half, deeper")
    assert item["geometry"]["plane"] == {"c": -1, "z": 3, "t": 2}
    assert area_of(item["geometry"]["coordinates"][0]) == 5000


def test_an_object_that_is_all_sliver_is_not_doubled(outcomes: Scripts) -> None:
    assert ids(new_ones(outcomes, "small")) == [str(marked_id("s"))]


def test_an_outline_that_cannot_be_cut_changes_nothing(outcomes: Scripts) -> None:
    outcome, case = outcomes.outcomes["broken"], outcomes.cases["broken"]
    assert f"prediction {NEW} cannot be cut by the reviewed ones that it overlaps" in outcome["error"]
    assert outcome["objects"][0] == case["images"][0]["objects"]


# ---- what QuPath itself left of 60 predictions after they were edited in it


def edited_in_qupath(folder: Path, version: str) -> list[Feature]:
    """Objects as this QuPath exported them; those that still have measurements get today's code of their class."""
    told = json.loads((folder / "expected.json").read_text())["versions"][version]["test-1.tif"]
    features: list[Feature] = json.loads((folder / f"geojson/test-1_v{version}.geojson").read_text())["features"]
    before = told["predicted_objects"]
    for item in features:
        made_of = told["other_objects"].get(item["id"], {}).get("made_of") or [item["id"]]
        measurements = item["properties"].get("measurements", {})
        if PERIMETER in measurements and made_of[0] in before:
            origin = before[made_of[0]].get("predicted_class") or item["properties"]["classification"]["name"]
            measurements[CLASS_CODE] = class_code(origin)
        item["story"] = before.get(item["id"]) or told["other_objects"][item["id"]]
    return features


@pytest.mark.engine
def test_real_edits_are_told_from_untouched_objects(
    shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, groovy = shared("qupath/reviewed"), find_groovy()
    predictions = json.loads((folder / "predictions" / "test-1.geojson").read_text())["features"]
    scripts = Scripts(tmp_path_factory.mktemp("real"))
    versions = ("0.4.4", "0.5.1", "0.6.0", "0.7.0")
    for version in versions:
        add_import(scripts, version, edited_in_qupath(folder, version), *predictions, version=version[:3])
    scripts.run(groovy)
    for version in versions:
        there = {item["id"]: item["story"] for item in edited_in_qupath(folder, version)}
        kept = [item for item in left(scripts, version) if "story" in item]
        gone = [story for object_id, story in there.items() if object_id not in ids(kept)]
        assert {story["take"] for story in gone} == {"no"}
        assert len(gone) == 33 + (version >= "0.6")  # a duplicate that has our metadata
        ours = [item for item in kept if is_marked(UUID(item["id"]))]
        assert len(ours) == 18
        surplus = [item["story"]["history"][0] for item in ours if item["story"]["take"] == "no"]
        assert sorted(surplus) == ["moved by 1 px", "simplified (Simplify shape, 1.0)"]  # without effect, in the end
        cutters = union_all([shape(i["geometry"]) for i in ours])
        new = [shape(item["geometry"]) for item in left(scripts, version) if "story" not in item]
        assert 0 < len(new) < 60
        for outline in new:
            overlap = outline.intersection(cutters)
            assert all(p.area < 4 or p.area < 0.1 * p.length for p in getattr(overlap, "geoms", [overlap]))
        others = [shape(i["geometry"]) for i in predictions if i["id"] not in ids(ours)]  # what was erased stays away
        assert union_all(others).difference(union_all([cutters, *new])).area < 4


REMOVING = [path for path in tools.SCRIPTS if path.stem != "export_annotations"]


def test_scripts_know_our_marks() -> None:
    for path in REMOVING:
        text = path.read_text()
        assert f'startsWith("{ID_PREFIX}")' in text
        for name in (METADATA_KEY, CLASS_KEY, PERIMETER, CLASS_CODE, *([] if "clear" in path.stem else [AREA_MM2])):
            assert f'"{name}"'.replace("\u00b5", "\\u00b5") in text, name


def without_indents(text: str) -> str:
    """In the window the same lines stand within another one."""
    return "\n".join(line.lstrip() for line in text.splitlines())


@pytest.mark.parametrize(("title", "times"), [("Ours, and reviewed", 4), ("Cutting", 3), ("Suggested", 2)])
def test_scripts_share_one_text(title: str, times: int) -> None:
    """Each script is complete in itself, so what they have in common stands in each of them."""
    pattern = re.compile(rf"// ---- {title}: the same in .*?// ---- End of what is the same", re.DOTALL)
    found = [pattern.findall(without_indents(path.read_text())) for path in REMOVING]
    (text,) = {text for texts in found for text in texts}
    assert sum(map(len, found)) == times
    named = text.splitlines()[0].split(": the same in ")[1].replace(" and", ",").split(", ")
    assert sorted(named) == [path.stem for path, texts in zip(REMOVING, found, strict=True) if texts]
