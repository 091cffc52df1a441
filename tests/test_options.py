"""Options are said once: the command line, TOML and Python have the same names, types, defaults and help."""

import ast
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import get_args

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperOption
from typer.testing import CliRunner

import dmmn_qp
from dmmn_qp import cli
from dmmn_qp.cli import app
from dmmn_qp.cli.config import (
    SECTIONS,
    Arguments,
    ConfigFile,
    import_options,
    load_config,
    predict_options,
    train_options,
)
from dmmn_qp.cli.model_options import default_text, flag_of, option_names, with_options
from dmmn_qp.collecting.options import CohortOptions
from dmmn_qp.errors import ConfigError, DatasetError
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.files.paths import user_path, user_text
from dmmn_qp.files.tables import TableForm, read_table
from dmmn_qp.flags import Flag
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.slides.finding import MovedPrefix, parse_slides_root
from dmmn_qp.specs import as_toml
from dmmn_qp.suggesting.options import SuggestOptions
from dmmn_qp.training.options import TrainOptions
from tests.conftest import two_tissues, write_tiff

MODELS = {
    "import": ImportOptions,
    "train": TrainOptions,
    "predict": PredictOptions,
    "suggest": SuggestOptions,
    "evaluate": EvaluateOptions,
    "cohort": CohortOptions,
}
GIVEN = {
    "import": {
        "mpps": ("1,2", [1, 2]),
        "mpp": ("0.25", 0.25),
        "force_mpp": (True, True),
        "mpp_csv": ("scans.csv", "scans.csv"),
        "split_key": ("set", "set"),
        "drop": ("Stroma", ["Stroma"]),
        "merge_case": (True, True),
        "overlap": ("smallest", "smallest"),
        "line_width_um": ("3", 3),
        "region_class": ("Region*", "Region*"),
        "split_file": ("split.csv", "split.csv"),
        "split_areas": (True, True),
        "case_pattern": ("^A", "^A"),
        "seed": ("7", 7),
        "kinds": ("annotation, cell", ["annotation", "cell"]),
        "plane": ("2,1", [2, 1]),
        "reader": ("qpdata", "qpdata"),
        "qupath_dir": ("QuPath", "QuPath"),
        "recursive": (True, True),
        "workers": ("3", 3),
        "strict": (True, True),
        "take_predictions": ("locked", "locked"),
        "predicted_in": ("earlier", "earlier"),
    },
    "train": {
        "preset": ("paper", "paper"),
        "width": ("8", 8),
        "learning_rate": ("1e-3", 0.001),
        "precision": ("fp32", "fp32"),
    },
    "predict": {
        "min_area_um2": ("25", 25),
        "gzip": (True, True),
        "tissue_only": (False, False),
        "object_kind": ("detection", "detection"),
        "context": ("seamless", "seamless"),
    },
    "evaluate": {
        "maps": ("tumor=Tumor", ["tumor=Tumor"]),
        "exclude": ("Artefact", ["Artefact"]),
        "slides": ("a-*", ["a-*"]),
        "roi": ("areas", "areas"),
        "by": ("scanner", ["scanner"]),
        "boundary_um": ("0", 0),
    },
    "cohort": {
        "ratios": ("a/b", ["a/b"]),
        "within_um": ("20.5", [20.5]),
        "case_pattern": ("^A", "^A"),
        "tissue_min_area_um2": ("0", 0),
        "tissue_min_hole_um2": ("0", 0),
    },
}
"""What is typed after an option (of switches: on or off), and the same in TOML."""


def told(section):
    """Field, names of its option."""
    for name, field in MODELS[section].model_fields.items():
        flag = flag_of(field)
        if flag is not None:
            yield name, option_names(name, field, flag)


def parsed(section, arguments):
    """Options that a command made of a section's model is given."""
    seen = []
    small = typer.Typer()

    @small.command()
    @with_options(MODELS[section])
    def command(*, given) -> None:
        seen.append(given)

    result = CliRunner().invoke(small, arguments)
    assert result.exit_code == 0, result.output
    return seen[0]


@pytest.mark.parametrize(("section", "field"), [(s, f) for s, fields in GIVEN.items() for f in fields])
def test_command_line_and_file_say_the_same(section, field):
    typed, in_file = GIVEN[section][field]
    names = dict(told(section))[field]
    arguments = [names[0] if typed else names[-1]] if isinstance(typed, bool) else [names[0], typed]
    model = MODELS[section]
    assert model.model_validate(parsed(section, arguments)) == model.model_validate({field: in_file})
    assert parsed(section, []) == {}


def test_table_above_has_every_option_of_import():
    assert GIVEN["import"].keys() == dict(told("import")).keys()


@pytest.mark.parametrize("section", SECTIONS)
def test_help_names_every_option_whole_in_80_columns(section):
    result = CliRunner().invoke(app, [section, "--help"], env={"COLUMNS": "80", "PAQUO_QUPATH_DIR": None})
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.output.splitlines())
    words = result.output.replace(",", " ").split()
    for field, names in told(section):
        assert set(names) <= set(words), field


@pytest.mark.parametrize("section", SECTIONS)
def test_help_prints_the_defaults_of_the_model(section):
    """None is typed as prose: another default of the model is another text of the help."""
    text = " ".join(CliRunner().invoke(app, [section, "--help"], env={"COLUMNS": "80"}).output.split()) + " --"
    for field, names in told(section):
        default = MODELS[section].model_fields[field].default
        if isinstance(default, int | float) and not isinstance(default, bool):
            start = text.index(f" {names[0]} ")
            shown = re.search(r"\[default: ([^]]+)\]", text[start : text.find(" --", start + 1)])
            assert shown and float(shown[1]) == default, field


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 99), max_size=3),
    st.lists(st.text(max_size=9), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_options_written_as_toml_are_read_the_same(rates, class_order):
    options = TrainOptions.model_construct(
        **{**TrainOptions().model_dump(), "rates": rates, "class_order": tuple(class_order)}
    )
    read = tomllib.loads(as_toml("train", options))["train"]
    assert read["rates"] == rates
    assert read["class_order"] == class_order
    assert {name: value for name, value in TrainOptions().model_dump(mode="json").items() if value is not None} == {
        **read,
        "rates": {},
        "class_order": [],
    }


@pytest.mark.parametrize("preset", ["fast", "paper", "official"])
def test_shown_options_of_a_preset_are_accepted(tmp_path, preset):
    path = tmp_path / "shown.toml"
    options = train_options(load_config(None), {"preset": preset})
    path.write_text(as_toml("train", options), encoding="utf-8")
    assert train_options(load_config(path), {}) == options


@pytest.mark.parametrize(
    ("resolved", "section", "name"),
    [
        (train_options, "train", "save_minutes"),
        (predict_options, "predict", "min_hole_um2"),
        (predict_options, "predict", "tissue_min_hole_um2"),
    ],
)
def test_what_may_be_without_end_is_written_and_read_so(tmp_path, resolved, section, name):
    path = tmp_path / "shown.toml"
    path.write_text(f"[{section}]\n{name} = inf\n", encoding="utf-8")
    options = resolved(load_config(path), {})
    assert getattr(options, name) == float("inf")
    path.write_text(as_toml(section, options), encoding="utf-8")
    assert resolved(load_config(path), {}) == options
    path.write_text(f"[{section}]\n{name} = nan\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{section}.{name} should be"):
        resolved(load_config(path), {})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": 999}, "train.width should be less than or equal to 256, not 999;"),
        ({"norm": "layer\x1b[31m"}, "not 'layer\\x1b[31m';"),
        ({"norm": "x" * 5000}, f"not '{'x' * 36}...;"),
        ({"rates": [1]}, "train.rates should be a valid dictionary;"),
        ({"rates": {"dark": -1}}, "train.rates.dark should be greater than or equal to 0, not -1;"),
        ({"preset": ["fast"]}, "train.preset should be 'fast', 'scratch', 'paper' or 'official';"),
    ],
)
def test_wrong_value_is_shown_beside_the_rule(values, said):
    with pytest.raises(ConfigError) as error:
        train_options(ConfigFile(train=values), {})
    assert said in str(error.value)


CALLED = [
    # section, field, wrong value, option, what is wrong
    ("predict", "object_kind", "cell", "--as", " should be 'annotation' or 'detection', not 'cell';"),
    ("predict", "batch_size", "0", "--batch-size", " should be greater than or equal to 1, not '0';"),
    ("train", "epochs", "many", "--epochs", " should be a valid integer, not 'many';"),
    ("train", "cache_mib", "0", "--cache", " should be greater than or equal to 1, not '0';"),
    ("train", "preset", "slow", "--preset", " should be 'fast', 'scratch', 'paper' or 'official', not 'slow';"),
    ("import", "mpps", "half", "--mpps", ': "half" is not a list of numbers; write it as 0.5,1,2;'),
    ("import", "mpps", "0.5,1.5", "--mpps", ": each magnification must have twice the um/px of the one before"),
    ("import", "mpps", "0.001", "--mpps", ": the finest, 0.001 um/px, is not between 0.02 and 20"),
    ("import", "plane", "1,2,3", "--plane", ': "1,2,3" is no plane; write it as 2 or 2,0 (z and t from 0);'),
    ("import", "mpp", "nan", "--mpp", " should be a finite number, not 'nan';"),
]


@pytest.mark.parametrize(("section", "field", "value", "option", "rule"), CALLED)
def test_wrong_values_are_called_as_they_were_given(tmp_path, monkeypatch, section, field, value, option, rule):
    """On the command line by the option, in the file by table and key, in Python by the argument."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(f'[{section}]\n{field} = "{value}"\n', encoding="utf-8")
    source = ["project.qpproj"] if section == "import" else []
    typed = CliRunner().invoke(app, [section, *source, option, value])
    in_file = CliRunner().invoke(app, [section, *source, "--config", "own.toml"])
    assert (typed.exit_code, in_file.exit_code) == (1, 1)
    assert typed.stderr.startswith(f"error: {option}{rule}"), typed.stderr
    assert in_file.stderr.startswith(f"error: {section}.{field}{rule}"), in_file.stderr
    call = {
        "import": lambda: dmmn_qp.import_annotations("p", "d", **{field: value}),
        "train": lambda: dmmn_qp.train("d", "m", **{field: value}),
        "predict": lambda: dmmn_qp.predict_slide("s.tif", "m", **{field: value}),
    }[section]
    with pytest.raises(ConfigError, match=f"^{re.escape(field + rule)}"):
        call()


def test_items_are_called_by_their_place():
    with pytest.raises(ConfigError, match=r"^import\.kinds\.1 should be 'annotation', "):
        import_options(ConfigFile.model_validate({"import": {"kinds": ["cell", "x"]}}), {})
    with pytest.raises(ConfigError, match=r"^--kinds should be 'annotation', .* not 'x';"):
        import_options(ConfigFile(), {"kinds": "cell,x"})


def test_the_last_place_that_gave_a_wrong_value_is_named():
    file = ConfigFile(train={"epochs": 0, "width": 0})
    with pytest.raises(ConfigError, match=r"^train\.width "):
        train_options(file, {"epochs": 3})
    with pytest.raises(ConfigError, match=r"^--width "):
        train_options(file, {"epochs": 3, "width": 0})


def test_none_is_a_value_in_python_alone():
    assert train_options(ConfigFile(), {"steps_per_epoch": None}).steps_per_epoch == 100
    assert train_options(ConfigFile(), Arguments("train", {"steps_per_epoch": None})).steps_per_epoch is None


# ---- the home folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another one in which commands run."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def commands(group, before=""):
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        yield from commands(command, f"{before}{name} ") if inner else [(f"{before}{name}", command)]


ALL_COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_home_in_every_path_of_every_command(home, name):
    """A shell replaces ~ only where a word begins with it, not after =."""
    command = ALL_COMMANDS[name]
    arguments = ["~/x" for param in command.params if isinstance(param, TyperArgument)]
    several = [param for param in command.params if param.type_descriptor.annotation == list[Path]]
    paths = [*several, *(param for param in command.params if param.type_descriptor.is_path)]
    options = [f"{param.opts[0]}=~/x" for param in paths if isinstance(param, TyperOption)]
    options += [f"{p.opts[0]}=x" for p in command.params if p.required and p not in paths and p.opts[0][:1] == "-"]
    given = command.make_context(name, [*arguments, *options]).params
    assert all(given[param.name] == ([home / "x"] if param in several else home / "x") for param in paths)


def test_home_in_the_configuration(home):
    for section, model in MODELS.items():
        for field, about in model.model_fields.items():
            if Path in (about.annotation, *get_args(about.annotation)) or "Path" in str(about.annotation):
                assert getattr(model.model_validate({field: "~/x"}), field) == home / "x", f"{section}.{field}"


def test_home_is_what_a_shell_takes_for_it(home, monkeypatch):
    assert user_path("~") == home
    assert user_path("~/a") == user_path(Path("~") / "a") == home / "a"
    for name in ("a/~/b", "~nobody-of-this-name", "~$draft.csv", "a~", "~\0"):
        assert user_path(name) == Path(name)
    assert [user_text(text) for text in ("~/a/*.tif", "a/", "~$x")] == [str(home / "a" / "*.tif"), "a/", "~$x"]

    def unknown(_path):
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(ConfigError, match=r"home folder.*set HOME"):
        user_path("~/a")


def test_home_in_moved_slides(home):
    assert parse_slides_root("~/slides") == home / "slides"
    (home / "new=place").mkdir()
    assert parse_slides_root("~/new=place") == home / "new=place"
    assert parse_slides_root("/old=~") == MovedPrefix(PurePosixPath("/old"), home)
    assert parse_slides_root("~/old=~") == MovedPrefix(PurePosixPath(home / "old"), home)


def test_home_in_names_of_slides_and_in_tables(home):
    write_tiff(home / "a.tif", two_tissues(256, 256))
    Path("slides.csv").write_text("slide,roi\n~/a.tif,~/a.geojson\n", encoding="utf-8")
    (home / "a.geojson").write_text("{}", encoding="utf-8")
    for name in ("~/a.tif", "~", "~/*.tif", "slides.csv"):
        (slide,) = slides_to_predict([name], Path("dataset"))
        assert slide.path == home / "a.tif", name
    assert slide.roi == home / "a.geojson"
    Path("sizes.csv").write_text("slide,mpp\n~/a.tif,0.25\n", encoding="utf-8")
    (row,) = read_table(Path("sizes.csv"), TableForm(("slide", "mpp"), ("slide",), ConfigError, paths=("slide",)))
    assert row.cells == {"slide": str(home / "a.tif"), "mpp": "0.25"}
    (row,) = read_table(Path("sizes.csv"), TableForm(("slide", "mpp"), ("slide",), ConfigError))
    assert row.cells["slide"] == "~/a.tif"  # a column of names


def test_home_in_python(home):
    """No call makes a path of its own of what it was given."""
    for path in sorted((Path(dmmn_qp.__file__).parent / "api").glob("*.py")):
        made = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        called = [n for n in made if isinstance(n.func, ast.Name) and n.func.id == "Path"]
        assert all(isinstance(n.args[0], ast.Constant) for n in called), path
    with pytest.raises(DatasetError, match=re.escape(str(home / "none"))):
        dmmn_qp.Dataset("~/none")
    with pytest.raises(DatasetError, match=re.escape(str(home / "none"))):
        dmmn_qp.train("~/none", "~/model")


# ---- commands and their help


GROUPS = ("", "models", "scripts")


@pytest.mark.parametrize("name", [*GROUPS, *ALL_COMMANDS])
def test_help_fits_80_columns_and_cuts_nothing(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert not re.search(r"<(bool|int|str|float)>|…|\b(RANGE|STR|BOOL|TEXT)\b|[{}]", result.output)
    assert re.match(r"Usage: \S+ .*\[OPTIONS\]$", lines[0]) and ("\nCommands\n" in result.output) == (name in GROUPS)
    options = [line for line in lines if line.startswith("  -")]
    assert any("--help" in line for line in options)
    for param in getattr(ALL_COMMANDS.get(name), "params", ()):
        if isinstance(param, TyperOption):
            assert any({*param.opts, *param.secondary_opts} <= set(line.replace(",", "").split()) for line in options)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("evaluat", "no such command 'evaluat'; did you mean 'evaluate'; see dmmn-qp --help"),
        ("models shw", "no such command 'shw'; did you mean 'show'; see dmmn-qp models --help"),
        ("--foo", "no such option: --foo; see dmmn-qp --help"),
        ("predict --roy x", "no such option: --roy (possible options: --out, --roi); see dmmn-qp predict --help"),
        ("push", "missing option '--into'; see dmmn-qp push --help"),
        ("train p.qpproj", "got unexpected extra argument(s) (p.qpproj); see dmmn-qp train --help"),
        ("evaluate --split tst", "'--split': 'tst' is not one of 'train', 'val', 'test'; see dmmn-qp evaluate --help"),
        ("architectures --classes x", "'--classes': it should be a valid integer; see dmmn-qp architectures --help"),
    ],
)
def test_what_no_command_understands_is_said_in_one_line(typed, line):
    result = CliRunner().invoke(app, typed.split(), prog_name="dmmn-qp")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr == f"error: {'invalid value for ' if line.startswith(chr(39)) else ''}{line}\n"


def test_no_command_at_all_gets_the_help():
    result = CliRunner().invoke(app, ["models"], prog_name="dmmn-qp")
    assert result.exit_code == 2 and not result.stderr.strip()
    assert "Usage: dmmn-qp models COMMAND [OPTIONS]" in result.output


@pytest.mark.parametrize("name", ["import", "train", "predict"])
def test_what_matters_stands_first(name):
    """At most ten options under the first heading."""
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"}).output
    (first,) = re.findall(r"^Options\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^  --", first, re.MULTILINE)) <= 10


def test_commands_translate_and_call_in_ten_lines():
    found = []
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("command(" in ast.unparse(d) for d in node.decorator_list):
                body = [n for n in node.body[1:] if not isinstance(n, ast.ImportFrom)]
                lines = {line for n in body for line in range(n.lineno, n.end_lineno + 1)}
                assert len(lines) <= 10, f"{path.name}: {node.name} has {len(lines)} lines"
                found.append(node.name)
    assert len(found) == len(ALL_COMMANDS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[trian]\nepochs = 3", "did you mean [train]?"),
        ("[xyz]\nepochs = 3", "[import], [train], [predict], [suggest]"),
        ("epochs = 3", "[epochs] is no table"),
        ("train = 3", "train should be a valid dictionary, not 3"),
    ],
)
def test_unknown_table_is_answered_with_the_near_one(tmp_path, text, hint):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("default", "shown"), [(1.0, "1"), (0.25, "0.25"), ((0.5, 1.0), "0.5,1"), ((), None), (7, "7")]
)
def test_defaults_are_shown_as_one_types_them(default, shown):
    assert default_text(FieldInfo(default=default), Flag("help")) == shown
