import json
import pickle

import pytest
import torch

from dmmn_qp.checkpoint import (
    CARD,
    WEIGHTS,
    ModelCard,
    NetworkOptions,
    load_card,
    load_model,
    newest_model,
    next_model_name,
    save_model,
)
from dmmn_qp.errors import ModelError
from dmmn_qp.specs import ClassMap, PatchSpec


def card(name="m", created="2026-01-01T00:00:00+00:00", **network):
    return ModelCard(
        name=name,
        network=NetworkOptions(**{"architecture": "dmmn-m3", "width": 2, "stem": "half", **network}),
        class_map=ClassMap.from_colors([("a", (1, 2, 3)), ("b", (4, 5, 6))]),
        patch_spec=PatchSpec(size_px=64, stride_px=64),
        created=created,
    )


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "m"
    path.mkdir()
    save_model(path, card(norm="batch"), card(norm="batch").build())
    return path


def test_round_trip_gives_the_same_output(folder):
    images = [torch.rand(1, 3, 64, 64) for _ in range(3)]
    network = card(norm="batch").build()
    for _ in range(3):
        network(images)  # moves the running statistics, which must be saved too
    save_model(folder, card(norm="batch"), network)
    loaded_card, loaded = load_model(folder)
    assert loaded_card == card(norm="batch")
    assert torch.equal(loaded(images), network.eval()(images))


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match="is not a model"):
        load_card(tmp_path)
    with pytest.raises(ModelError, match="no model in"):
        newest_model(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c | {"format_version": 2},
        lambda c: c | {"surprise": 1},
        lambda c: {k: v for k, v in c.items() if k != "class_map"},
        lambda c: c | {"network": c["network"] | {"architecture": "resnet"}},
        lambda c: c | {"network": c["network"] | {"width": -1}},
        lambda c: c | {"network": c["network"] | {"width": 4}},
    ],
)
def test_foreign_or_damaged_card(folder, damage):
    content = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(damage(content)))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"a": 1}), None])
def test_damaged_weights(folder, content):
    if content is None:
        content = (folder / WEIGHTS).read_bytes()[:-100]
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="missing, damaged or of another network"):
        load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="missing, damaged"):
        load_model(folder)


def test_newest_model_by_its_card(tmp_path):
    for name, created in (("old", "2026-01-01T00:00:00+00:00"), ("new", "2026-02-01T00:00:00+00:00")):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, card(name, created), card().build())
    assert newest_model(tmp_path) == tmp_path / "new"


def test_model_that_comes_with_the_project_is_taken_only_by_name(tmp_path):
    for name, created in (("mine", "2026-01-01T00:00:00+00:00"), ("demo", "2026-02-01T00:00:00+00:00")):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, card(name, created), card().build())
    assert newest_model(tmp_path) == tmp_path / "mine"
    (tmp_path / "mine" / CARD).unlink()
    with pytest.raises(ModelError, match=r"no model in .* --model \(such as .*demo"):
        newest_model(tmp_path)


def test_names_count_up(tmp_path):
    assert next_model_name(tmp_path, "dmmn-m3") == "dmmn-m3-1"
    (tmp_path / "dmmn-m3-1").mkdir()
    assert next_model_name(tmp_path, "dmmn-m3") == "dmmn-m3-2"


def test_outputs_are_classes_only():
    """Label 0 can never be predicted: there is no output for it."""
    network = card().build()
    assert network([torch.rand(1, 3, 64, 64) for _ in range(3)]).shape[1] == 2
