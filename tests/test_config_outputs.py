import json

import pytest
import torch
from rich.console import Console

from dmmn_qp.cli.config import ConfigFile, import_options, load_config, predict_options, train_options
from dmmn_qp.console import Reporter, duration
from dmmn_qp.errors import ConfigError, OutputExistsError
from dmmn_qp.files import new_file, new_folder, write_json
from dmmn_qp.training.options import PRESETS
from dmmn_qp.training.plan import default_width


def test_flag_over_file_over_preset_over_default(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[train]\npreset = "paper"\nwidth = 16\nepochs = 3\n')
    options = train_options(load_config(path), {"epochs": 5, "seed": None})
    assert (options.preset, options.width, options.epochs) == ("paper", 16, 5)
    assert (options.learning_rate, options.norm, options.seed) == (5e-5, "none", 0)


def test_paper_preset_is_the_papers():
    options = train_options(load_config(None), {"preset": "paper"})
    assert (options.optimizer, options.learning_rate, options.momentum, options.weight_decay) == (
        "sgd",
        5e-5,
        0.99,
        1e-4,
    )
    assert (options.architecture, options.norm, options.stem, options.epochs) == ("dmmn-m3", "none", "full", 20)
    assert (options.width, options.loss_mean, options.class_weights) == (None, "patch", "paper")
    for architecture, width in (("dmmn-m3", 32), ("unet", 64)):
        options = train_options(load_config(None), {"preset": "paper", "architecture": architecture})
        assert default_width(options, torch.device("cpu")) == width
    for preset, given, width in (("scratch", {}, 8), ("fast", {}, 64), ("fast", {"architecture": "unet"}, 16)):
        options = train_options(load_config(None), {"preset": preset, **given})
        assert default_width(options, torch.device("cpu")) == width


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid(preset):
    assert train_options(load_config(None), {"preset": preset}).preset == preset


def test_defaults():
    assert import_options(load_config(None), {}).mpps == (0.5, 1.0, 2.0)
    assert predict_options(load_config(None), {"mpp": 0.25}).mpp == 0.25


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[train\n", "not valid TOML"),
        ("[trian]\n", "trian"),
        ("train = 3\n", "train"),
    ],
)
def test_broken_files(tmp_path, text, match):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"epochs": -1}, "epochs"),
        ({"epoch": 3}, "epoch"),
        ({"preset": "slow"}, "--preset should be 'fast', 'scratch', 'paper' or 'official', not 'slow'"),
    ],
)
def test_broken_options(section, match):
    with pytest.raises(ConfigError, match=match):
        train_options(load_config(None), section)


def test_missing_config(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "is nested more than 8 deep"),
        ("[import.classes]\nx = " + "{a=" * 3000 + "1" + "}" * 3000, "is nested more than 8 deep"),
        ("[train]\n" + ".".join("a" * 5000) + " = 1", "is nested more than 8 deep"),
        ("[import.classes]\n" + ".".join("a" * 8) + " = 1", "is nested more than 8 deep"),
        ("[train]\nepochs = " + "9" * 5000, "is not valid TOML"),
        ("#" * 2**21, "is longer than 1048576 bytes"),
    ],
)
def test_configurations_that_nobody_means(tmp_path, text, said):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text("[import.classes]\n" + ".".join("a" * 6) + " = 1")  # refused by its type
    assert load_config(tmp_path / "c.toml").import_["classes"]


def test_folder_appears_only_when_complete(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), new_folder(out, overwrite=False, marker="m") as folder:
        (folder / "m").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(out, overwrite=False, marker="m") as folder:
        (folder / "m").write_text("1")
        assert not out.exists()
    assert (out / "m").read_text() == "1"


def test_failed_replacement_keeps_the_old(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "m").write_text("old")
    with pytest.raises(OutputExistsError, match="--overwrite"), new_folder(out, overwrite=False, marker="m"):
        pass
    with pytest.raises(RuntimeError), new_folder(out, overwrite=True, marker="m"):
        raise RuntimeError
    assert (out / "m").read_text() == "old"
    with new_folder(out, overwrite=True, marker="m") as folder:
        (folder / "m").write_text("new")
    assert (out / "m").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis.docx").write_text("3 years")
    with (
        pytest.raises(OutputExistsError, match="not made by this command"),
        new_folder(tmp_path, overwrite=True, marker="m"),
    ):
        pass
    with (
        pytest.raises(OutputExistsError, match="is a file"),
        new_folder(tmp_path / "thesis.docx", overwrite=True, marker="m"),
    ):
        pass


def test_empty_folder_may_be_used(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out, overwrite=False, marker="m") as folder:
        (folder / "m").write_text("1")
    assert (out / "m").is_file()


def test_file_is_replaced_whole_or_not(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), new_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (7260, "2 h 01 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_markup_of_users_is_shown_as_text(capsys):
    console = Console(record=True, width=200)
    Reporter(console).say("slide [red]x[/red].svs")
    assert "slide [red]x[/red].svs" in console.export_text()


def test_table_in_a_log_and_on_a_narrow_terminal():
    rows = [("dmmn-[m3]", "27,071,303"), ("x" * 90, "1")]
    log = Console(record=True, width=80)
    Reporter(log).table(("name", "parameters"), rows)
    cells = [line.split() for line in log.export_text().splitlines()]
    assert ["x" * 90, "1"] in cells  # as wide as it needs
    assert ["dmmn-[m3]", "27,071,303"] in cells
    terminal = Console(record=True, width=60, force_terminal=True)
    Reporter(terminal).table(("name", "parameters"), rows)
    assert max(len(line) for line in terminal.export_text().splitlines()) <= 60


def test_preset_official_differs_from_the_paper_as_the_published_code_does():
    paper, official = (train_options(ConfigFile(), {"preset": name}).model_dump() for name in ("paper", "official"))
    changed = {key: official[key] for key in paper if paper[key] != official[key]}
    assert changed == {
        "preset": "official",
        "sampler": "shuffled",
        "balance_validation": False,
        "loss_mean": "labelled",
        "channels": "BGR",
        "reduction": "decimate",
    }


def test_unknown_option_is_named_with_its_path_and_the_nearest_one(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[train]\nepoch = 3\n[predict]\nzzz = 1\n")
    with pytest.raises(ConfigError, match=r"^train\.epoch is no option; did you mean epochs\?"):
        train_options(load_config(path), {})
    with pytest.raises(ConfigError, match=r"^predict\.zzz is no option; there are .*simplify_um"):
        predict_options(load_config(path), {})
