"""Options are said once: the command line, TOML and Python have the same names, types, defaults and help."""

import re
import tomllib

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dmmn_qp.cli import app
from dmmn_qp.cli.config import SECTIONS, load_config, train_options
from dmmn_qp.cli.model_options import flag_of, option_names, with_options
from dmmn_qp.errors import ConfigError
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import as_toml
from dmmn_qp.training.options import TrainOptions

MODELS = {"import": ImportOptions, "train": TrainOptions, "predict": PredictOptions}
GIVEN = {
    "import": {
        "mpps": ("1,2", [1, 2]),
        "mpp": ("0.25", 0.25),
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
    text = " ".join(CliRunner().invoke(app, [section, "--help"], env={"COLUMNS": "80"}).output.split())
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
    ("values", "said"),
    [
        ({"width": 999}, "train.width should be less than or equal to 256, not 999;"),
        ({"norm": "layer\x1b[31m"}, "not 'layer\\x1b[31m';"),
        ({"norm": "x" * 5000}, f"not '{'x' * 39}...;"),
        ({"rates": [1]}, "train.rates: Input should be a valid dictionary;"),
    ],
)
def test_wrong_value_is_shown_beside_the_rule(values, said):
    with pytest.raises(ConfigError) as error:
        train_options(load_config(None), values)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[trian]\nepochs = 3", "did you mean [train]?"),
        ("[xyz]\nepochs = 3", "[import], [train], [predict]"),
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
