"""Which classes are trained, who wins where areas overlap, and which slide goes to which split."""

import shutil
from pathlib import Path, PurePath

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import box

import dmmn_qp.importing
from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.rules import ImportRules, SplitRules, rules_of
from dmmn_qp.importing.splitting import check_cases, read_split_file
from dmmn_qp.labels.class_rules import ClassRules, PaintRules, PatchRules, case_variants, with_trained_classes
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.random_splits import choose_splits
from dmmn_qp.labels.splits import case_of
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.regions import Region
from dmmn_qp.slides.names import NamedSlide
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import fails, invoke, rectangle, slides_with, two_tissues, write_features, write_tiff

CLASSES = ClassMap.from_colors([("a", (255, 0, 0)), ("b", (0, 255, 0))])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (ClassRules(), {"Tumor": "Tumor", "tumor ": "tumor ", "Ignore*": None, "Tumor: Positive": "Tumor: Positive"}),
        (ClassRules(merge_case=True), {"Tumor": "Tumor", "tumor ": "Tumor", "Ignore*": None}),
        (ClassRules({"Tumor: Positive": "Tumor"}), {"Tumor": "Tumor", "Tumor: Positive": "Tumor"}),
        (ClassRules({"Ignore*": "artefact"}), {"Ignore*": "artefact"}),
        (ClassRules({"Ignore*": "Ignore*"}), {"Ignore*": "Ignore*"}),
        (ClassRules(drop=["Tumor"]), {"Tumor": None, "tumor ": "tumor "}),
        (ClassRules(drop=["tumor "], merge_case=True), {"tumor ": None, "Tumor": "Tumor"}),
    ],
)
def test_class_rules(rules, expected):
    resolved = rules.resolve(["Tumor", "tumor ", "Ignore*", "Tumor: Positive"])
    assert expected.items() <= resolved.items()


@pytest.mark.parametrize("rules", [ClassRules({"Tumour": "x"}), ClassRules(drop=["Tumour"])])
def test_rules_about_unknown_classes(rules):
    with pytest.raises(DatasetError, match=r'class "Tumour" of .* does not exist; the classes are Tumor'):
        rules.resolve(["Tumor"])


def test_case_variants():
    assert case_variants(["Tumor", "Stroma", "tumor", "Tu mor", "stroma*"]) == [("Tumor", "tumor", "Tu mor")]


def test_renaming_keeps_everything_else():
    drawn = Annotation(box(0, 0, 1, 1), class_name="x", class_color=(1, 2, 3), name="n", locked=True)
    (renamed,) = with_trained_classes([drawn], {"x": "y"})
    assert (renamed.class_name, renamed.class_color, renamed.name, renamed.locked) == ("y", None, "n", True)
    assert with_trained_classes([drawn], {"x": None}) == (drawn,)


BIG_A = Annotation(box(0, 0, 4, 1), class_name="a")
SMALL_B = Annotation(box(1, 0, 3, 1), class_name="b", depth=1)


@pytest.mark.parametrize(
    ("rule", "drawn", "expected"),
    [
        ("class-order", [BIG_A, SMALL_B], "1111"),
        ("class-order", [SMALL_B, BIG_A], "1111"),
        ("smallest", [BIG_A, SMALL_B], "1221"),
        ("smallest", [SMALL_B, BIG_A], "1221"),
        ("drawing", [BIG_A, SMALL_B], "1221"),
        ("drawing", [SMALL_B, BIG_A], "1111"),
        ("depth", [SMALL_B, BIG_A], "1221"),
        ("unlabelled", [SMALL_B, BIG_A], "1001"),
    ],
)
def test_overlap_rules(rule, drawn, expected):
    labels = LabelPainter(drawn, CLASSES, 1.0, PaintRules(rule)).paint(Region(0, 0, 4, 1))
    assert "".join(map(str, labels[0])) == expected


def test_overlap_of_one_class_is_no_conflict():
    twice = [BIG_A, Annotation(box(0, 0, 2, 1), class_name="a")]
    labels = LabelPainter(twice, CLASSES, 1.0, PaintRules("unlabelled")).paint(Region(0, 0, 4, 1))
    assert labels.tolist() == [[1, 1, 1, 1]]


def test_the_hierarchy_needs_no_ids(here):
    """QuPath before 0.4 has none."""
    outer = rectangle(0, 0, 200, 200, "a")
    outer["properties"]["childObjects"] = [rectangle(50, 50, 100, 100, "b")]
    command = (*slides_with(here, [outer]), "--overwrite", "--overlap")
    assert 'class "b" has no pixel' in fails(*command, "class-order")
    result = invoke(*command, "depth")
    assert result.exit_code == 0 and "decides nothing" not in result.stderr, result.output
    assert sum(patch.label_counts[2] for patch in Dataset(here / "dataset").patches()) == 100 * 100
    write_features(here / "geojson" / "s0.geojson", [rectangle(0, 0, 99, 99, "a"), rectangle(50, 50, 99, 99, "b")])
    assert "--overlap depth decides nothing" in invoke(*command, "depth").stderr


@given(st.permutations(range(4)), st.sampled_from(["class-order", "smallest", "unlabelled"]))
def test_order_of_drawing_plays_no_part(order, rule):
    areas = [box(0, 0, 9, 9), box(2, 2, 12, 7), box(5, 0, 8, 12), box(3, 3, 6, 6)]
    drawn = [Annotation(areas[i], class_name="ab"[i % 2]) for i in range(4)]
    window = Region(0, 0, 12, 12)
    reference = LabelPainter(drawn, CLASSES, 1.0, PaintRules(rule)).paint(window)
    shuffled = LabelPainter([drawn[i] for i in order], CLASSES, 1.0, PaintRules(rule)).paint(window)
    assert np.array_equal(reference, shuffled)


def test_lines_have_the_width_asked_for():
    line = Annotation(shapely.LineString([(0, 5), (20, 5)]), class_name="a")
    window = Region(0, 0, 20, 10)
    assert not LabelPainter([line], CLASSES, 1.0, mpp=0.5).paint(window).any()
    labels = LabelPainter([line], CLASSES, 1.0, PaintRules(line_width_um=2.0), mpp=0.5).paint(window)
    assert (labels[:, 10] == 1).sum() == 4  # 2 um are 4 px of 0.5 um


def test_region_of_interest():
    region = Annotation(box(1, 0, 3, 1), class_name="Region*")
    rules = PaintRules(region_class="Region*")
    assert LabelPainter([BIG_A, region], CLASSES, 1.0, rules).paint(Region(0, 0, 4, 1)).tolist() == [[0, 1, 1, 0]]
    assert LabelPainter([BIG_A], CLASSES, 1.0, rules).paint(Region(0, 0, 4, 1)).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("pattern", "case"), [(None, "P12-b3"), (r"^P\d+", "P12"), (r"^(P\d+)-", "P12"), (r"-(b\d)|x", "b3")]
)
def test_case_of(pattern, case):
    assert case_of("P12-b3", pattern) == case


@pytest.mark.parametrize("pattern", ["(", "^Q"])
def test_case_pattern_that_cannot_work(pattern):
    with pytest.raises(DatasetError, match="case pattern"):
        case_of("P12", pattern)


@given(st.integers(0, 5), st.integers(3, 9))
def test_no_case_is_divided(seed, n_cases):
    pixels = {f"{c}-{i}": np.array([5, 5]) for c in range(n_cases) for i in range(2)}
    cases = {name: name.split("-")[0] for name in pixels}
    splits = choose_splits(pixels, seed, cases)
    assert all(splits[f"{c}-0"] == splits[f"{c}-1"] for c in range(n_cases))
    assert {"train", "val", "test"} == set(splits.values())
    check_cases(splits, cases)


def test_one_file_under_two_names_stays_in_one_split(here):
    command = slides_with(here, [[rectangle(0, 0, 99, 99, "a")]] * 6, n=6)
    shutil.copy(here / "slides" / "s0.tif", here / "slides" / "s1.tif")
    for seed in range(5):
        assert invoke(*command, "--overwrite", "--out", f"d{seed}", "--seed", seed).exit_code == 0
        splits = {record.slide_id: record.split for record in Dataset(here / f"d{seed}").slides()}
        cases = {record.slide_id: record.case for record in Dataset(here / f"d{seed}").slides()}
        assert cases == {**{name: name for name in splits}, "s1": "s0"}
        assert splits["s0"] == splits["s1"] and set(splits.values()) == {"train", "val", "test"}
    (here / "splits.csv").write_text("slide,split\ns0,train\ns1,val\n")
    assert "one and the same file" in fails(*command, "--split-file", "splits.csv")


def test_divided_case_is_refused():
    with pytest.raises(DatasetError, match='both of case "p"'):
        check_cases({"1": "train", "2": "test"}, {"1": "p", "2": "p"})


def test_earlier_splits_are_kept():
    pixels = {f"s{i}": np.array([5]) for i in range(10)}
    first = choose_splits(pixels, seed=0)
    more = pixels | {f"t{i}": np.array([5]) for i in range(5)}
    again = choose_splits(more, seed=7, settled=first)
    assert {name: again[name] for name in first} == first
    assert sorted(again.values()).count("val") == 3 and sorted(again.values()).count("test") == 3


def test_split_file(tmp_path):
    path = tmp_path / "splits.csv"
    slides = {name: NamedSlide(PurePath(f"{name}.svs")) for name in "abc"}
    path.write_text("slide,split\na.svs,training\nb,Test\na,TRAIN\n")
    assert read_split_file(path, slides) == {"a": "train", "b": "test"}
    for text, said in (
        ("slide,split\na,test\nz,test\n", 'row 3 names slide "z", which is not annotated; the slides are a, b, c'),
        ("name,set\na,test\n", 'must begin with the line "slide,split"'),
        ("slide,split\n", "names no slide"),
        ("slide,split\na,\n", "row 2, column split: it is empty"),
        ("slide,split\na,mine\n", 'row 2: slide "a" has split "mine"'),
        ("slide,split\na,train\nb,val\na.svs,test\n", 'row 4: slide "a.svs" is test, but train further up; keep one'),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=said):
            read_split_file(path, slides)
    with pytest.raises(DatasetError, match="does not exist"):
        read_split_file(tmp_path / "none.csv", slides)


@pytest.mark.parametrize("name", ["Region*", "ROI"])
def test_region_class_bounds_and_is_not_trained(here, name):
    features = [rectangle(0, 0, 99, 99, name), rectangle(50, 50, 200, 200, "a")]
    command = (*slides_with(here, features), "--overwrite")
    result = invoke(*command, "--region-class", name)
    assert result.exit_code == 0, result.output
    dataset = Dataset(here / "dataset")
    assert dataset.class_map.names == ("a",)
    assert sum(patch.label_counts[1] for patch in dataset.patches()) == 49 * 49
    assert f'"nope" of --region-class does not exist; the classes are {name}, a' in fails(
        *command, "--region-class", "nope"
    )


def test_more_classes_than_labels(here):
    features = [rectangle(0, 0, 9, 9, f"class {i}") for i in range(255)]
    assert "255 classes are drawn, but masks have room for 254" in fails(*slides_with(here, features))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mpps = [1, 0.5]", "import.mpps: each magnification must have twice the um/px of the one before"),
        ("mpps = []", "import.mpps should have at least 1 item"),
        ("stride_px = 0", "import.stride_px should be"),
        ("seed = -5", "import.seed should be"),
        ('classes = {a = " "}', "import.classes.a should have at least 1 character"),
    ],
)
def test_options_that_cannot_be_meant(here, line, said):
    (here / "c.toml").write_text(f"[import]\n{line}\n")
    assert said in fails(*slides_with(here, [rectangle(0, 0, 99, 99, "a")]), "--config", "c.toml")


def test_rules_through_the_command_line(here):
    features = [rectangle(0, 0, 99, 99, "Tumor"), rectangle(120, 0, 99, 99, "tumor"), rectangle(0, 120, 99, 99, "b")]
    command = slides_with(here, features)
    result = invoke(*command)
    assert result.exit_code == 0 and "look like slips of one class name" in result.stderr
    assert Dataset(here / "dataset").class_map.names == ("Tumor", "tumor", "b")
    assert invoke(*command, "--merge-case", "--overwrite").exit_code == 0
    assert Dataset(here / "dataset").class_map.names == ("Tumor", "b")
    (here / "c.toml").write_text('[import.classes]\nTumor = "lesion"\ntumor = "lesion"\n')
    assert invoke(*command, "--config", "c.toml", "--overwrite").exit_code == 0
    assert Dataset(here / "dataset").class_map.names == ("lesion", "b")
    assert "Tumour" in fails(*command, "--drop", "Tumour", "--overwrite")


def test_split_file_and_cases_through_the_command_line(here):
    (here / "slides").mkdir()
    for i in range(4):
        write_tiff(here / "slides" / f"P{i // 2}-{i}.tif", two_tissues(256, 256, seed=i))
        write_features(here / "geojson" / f"P{i // 2}-{i}.geojson", [rectangle(0, 0, 99, 99, "a")])
    command = ("import", "slides", "--annotations", "geojson", "--overwrite", "--case-pattern", r"^P\d")
    assert invoke(*command).exit_code == 0
    splits = {r.slide_id: r.split for r in Dataset(here / "dataset").slides()}
    assert splits["P0-0"] == splits["P0-1"] != splits["P1-2"] == splits["P1-3"]
    assert invoke(*command, "--seed", "9").exit_code == 0  # kept on a second import
    assert {r.slide_id: r.split for r in Dataset(here / "dataset").slides()} == splits
    (here / "s.csv").write_text("slide,split\nP0-0.tif,test\n")
    assert 'both of case "P0"' in fails(*command, "--split-file", "s.csv")


def named(feature, name):
    feature["properties"]["name"] = name
    return feature


def test_split_areas_never_share_a_pixel(here):
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", np.full((2304, 8192, 3), 200, np.uint8))
    features = [
        rectangle(0, 0, 8192, 2304, "a"),
        rectangle(0, 0, 4096, 2304, "Training"),
        named(rectangle(4096, 0, 4096, 2304, None), "Validation"),
    ]
    write_features(here / "geojson" / "s.geojson", features)
    command = ("import", "slides", "--annotations", "geojson", "--split-areas")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    dataset = Dataset(here / "dataset")
    assert dataset.class_map.names == ("a",)
    patches = dataset.patches()
    assert all(p.fixed for p in patches)
    reach = 1024 * 1.25 * 2**0.5 / 2
    spans = {s: [(p.x + 128 - reach, p.x + 128 + reach) for p in patches if p.split == s] for s in ("train", "val")}
    assert spans["train"] and spans["val"]
    assert max(right for _, right in spans["train"]) <= 4096 <= min(left for left, _ in spans["val"])
    features[2] = named(rectangle(4000, 0, 4096, 2304, None), "Validation")
    write_features(here / "geojson" / "s.geojson", features)
    assert "overlap" in fails(*command, "--overwrite")


def test_files_of_predictions_beside_slides_are_no_slides(here):
    command = slides_with(here, [rectangle(10, 10, 100, 100, "Tumor")])
    for name in ("s0.overview.png", "s0.labels.ome.tif", "S0.Probabilities.OME.TIF"):
        shutil.copy(here / "slides" / "s0.tif", here / "slides" / name)
    result = invoke(*command)
    assert result.exit_code == 0
    assert "without annotations" not in result.output


def test_options_stay_at_the_door():
    package = Path(dmmn_qp.importing.__file__).parent
    knowing = {path.name for path in package.glob("*.py") if "ImportOptions" in path.read_text("utf-8")}
    assert knowing == {"options.py", "rules.py", "stage.py"}


def test_each_option_reaches_its_rule():
    options = ImportOptions(
        mpps=(0.25, 0.5), stride_px=64, min_labelled_fraction=0.2, split_key="role", classes={"a": "b"}, drop=("c",),
        merge_case=True, overlap="depth", line_width_um=3, region_class="r", split_file=Path("t.csv"), split_areas=True,
        case_pattern="x", seed=7, kinds=("cell",), plane=(1, 2), reader="paquo", qupath_dir=Path("q"),
        take_predictions="all",
    )  # fmt: skip
    assert rules_of(options, [Path("p")]) == ImportRules(
        ReadRules(("cell",), (1, 2), "paquo", Path("q"), "all", (Path("p"),)),
        ClassRules({"a": "b"}, ("c",), True, "r"),
        PaintRules("depth", 3, "r"),
        PatchRules(PatchSpec(mpps=(0.25, 0.5), stride_px=64), 0.2, True),
        SplitRules("role", Path("t.csv"), "x", 7),
    )
