import hashlib
import json
import pickle

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dmmn_qp.errors import ModelError
from dmmn_qp.folders import model as checkpoint
from dmmn_qp.folders.model import (
    CARD,
    MAX_CARD_BYTES,
    WEIGHTS,
    ModelCard,
    NetworkOptions,
    is_whole,
    load_card,
    load_model,
    newest_model,
    next_model_name,
    save_model,
)
from dmmn_qp.folders.weights_file import MAX_HEADER_BYTES
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.networks.conventions import InputConvention
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


def change_card(folder, change):
    content = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(change(content)))


def older(content):
    """A card as it was before cards held a digest."""
    return {key: value for key, value in content.items() if key != "weights_sha256"}


def change_weights(folder, change):
    """Changes the weights, and makes the card one that does not tell."""
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    change_card(folder, older)


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600
    return said


def test_round_trip_gives_the_same_output(folder):
    images = [torch.rand(1, 3, 64, 64) for _ in range(3)]
    network = card(norm="batch").build()
    for _ in range(3):
        network(images)  # moves the running statistics, which must be saved too
    written = save_model(folder, card(norm="batch"), network)
    loaded_card, loaded = load_model(folder)
    assert loaded_card == written
    assert loaded_card.model_copy(update={"weights_sha256": None}) == card(norm="batch")
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
        lambda c: c | {"network": c["network"] | {"reserved_outputs": 9}},
        lambda c: c | {"network": c["network"] | {"architecture": "x" * 10**6}},
        lambda c: c | {"k" * 10**6: 1},
        lambda c: c | {"weights_sha256": "0"},
        lambda c: c | {"patch_spec": c["patch_spec"] | {"size_px": 65536}},
        lambda c: c | {"input": c["input"] | {"scale": 1e300}},
    ],
)
def test_foreign_or_damaged_card(folder, damage):
    change_card(folder, damage)
    refusal(folder)


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


def test_model_that_is_not_accepted_is_taken_only_by_name(tmp_path):
    for name, created in (("good", "2026-01-01T00:00:00+00:00"), ("worse", "2026-02-01T00:00:00+00:00")):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, card(name, created).model_copy(update={"accepted": name == "good"}), card().build())
    assert newest_model(tmp_path) == tmp_path / "good"
    (tmp_path / "good" / CARD).unlink()
    with pytest.raises(ModelError, match=r"no model in .* is accepted.*--model"):
        newest_model(tmp_path)


def test_names_count_up(tmp_path):
    assert next_model_name(tmp_path, "dmmn-m3") == "dmmn-m3-1"
    (tmp_path / "dmmn-m3-1").mkdir()
    assert next_model_name(tmp_path, "dmmn-m3") == "dmmn-m3-2"


def test_outputs_are_classes_only():
    """Label 0 can never be predicted: there is no output for it."""
    network = card().build()
    assert network([torch.rand(1, 3, 64, 64) for _ in range(3)]).shape[1] == 2


def test_card_holds_the_digest_of_the_weights(folder):
    assert load_card(folder).weights_sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    half = save_model(folder, card(norm="batch"), load_model(folder)[1], half=True)
    assert half.weights_sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_weights_of_another_model_of_the_same_kind(folder, tmp_path):
    (tmp_path / "other").mkdir()
    other = card(norm="batch")
    save_model(tmp_path / "other", other, other.build())
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    said = refusal(folder)
    assert "not those of its card" in said and "from its source" in said and "dmmn-qp train --resume" in said
    assert not is_whole(folder) and is_whole(tmp_path / "other")


def test_older_card_tells_no_digest(folder):
    weights = load_model(folder)[1].state_dict()
    change_card(folder, older)
    read, network = load_model(folder)
    assert read.weights_sha256 is None and is_whole(folder)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    (folder / WEIGHTS).unlink()
    assert not is_whole(folder)


def test_training_that_replaces_the_model_while_it_is_read(folder, monkeypatch):
    """Between card and weights another model took their place: it is read anew, and is the one that is returned."""
    real, calls = checkpoint._read_network, []

    def replaced_before(path, read):
        if not calls:
            save_model(folder, card("new", norm="batch"), card(norm="batch").build())
        calls.append(read.name)
        return real(path, read)

    monkeypatch.setattr(checkpoint, "_read_network", replaced_before)
    assert load_model(folder)[0].name == "new" and calls == ["m", "new"]


BIAS, VARIANCE, COUNTER = "network.final.2.bias", "stems.0.0.1.running_var", "stems.0.0.1.num_batches_tracked"


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (BIAS, torch.nan, "not finite"),
        (BIAS, torch.inf, "not finite"),
        (BIAS, -torch.inf, "not finite"),
        (VARIANCE, torch.nan, "not finite"),
        (VARIANCE, -0.5, "negative variance"),
    ],
)
def test_numbers_that_no_training_leaves_behind(folder, name, value, said, half):
    network = card(norm="batch").build()
    network.state_dict()[name][1] = value
    save_model(folder, card(norm="batch"), network, half=half)
    assert said in (message := refusal(folder)) and name in message


def moved(state):
    state["network.final.2.weights"] = state.pop("network.final.2.weight")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop(BIAS), f'lack 1 tensor of the card\'s network, the first "{BIAS}"'),
        (moved, 'lack 1 tensor of the card\'s network, the first "network.final.2.weight"'),
        (lambda s: s.update({"y" * 300: torch.zeros(1), "z": torch.zeros(1)}), "hold 2 tensors"),
        (lambda s: s.update({BIAS: torch.zeros(3)}), f'"{BIAS}" of shape 3, but the network of the card needs 2;'),
        (lambda s: s.update({BIAS: torch.zeros(2, 1)}), f'"{BIAS}" of shape 2 x 1, but'),
        (lambda s: s.update({BIAS: s[BIAS].double()}), f'"{BIAS}" as F64, but it must be one of F32, F16, BF16'),
        (lambda s: s.update({BIAS: s[BIAS].int()}), f'"{BIAS}" as I32'),
        (lambda s: s.update({COUNTER: s[COUNTER].float()}), f'"{COUNTER}" as F32, but it must be one of I64'),
    ],
)
def test_weights_of_another_network(folder, change, said):
    change_weights(folder, change)
    message = refusal(folder)
    assert said in message and "from its source" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shorter_numbers_are_computed_with_in_32_bits(folder, dtype):
    change_weights(folder, lambda s: s.update({k: v.to(dtype) for k, v in s.items() if v.is_floating_point()}))
    stored, loaded = load_file(folder / WEIGHTS), load_model(folder)[1].state_dict()
    assert stored[BIAS].dtype == dtype and loaded[BIAS].dtype == torch.float32
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in stored.items())


@pytest.mark.parametrize(
    ("stem", "norm", "name"),
    [(stem, norm, name) for name, kind in ARCHITECTURES.items() for stem in kind.stems for norm in kind.norms],
)
def test_nothing_of_a_network_is_outside_its_weights(tmp_path, name, norm, stem):
    """Networks are read without ever being initialised, so a tensor that is not stored would be left undefined."""
    kind = card(architecture=name, norm=norm, stem=stem, width=1).model_copy(update={"patch_spec": PatchSpec()})
    network = kind.build()
    held = {key for key, _ in [*network.named_parameters(), *network.named_buffers()]}
    assert held == network.state_dict().keys()
    assert [key for key, value in vars(network).items() if isinstance(value, torch.Tensor)] == []
    save_model(tmp_path, kind, network)
    loaded = load_model(tmp_path)[1]
    assert not any(module.training for module in loaded.modules())
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())


def test_no_memory_is_taken_before_the_header_fits(folder, monkeypatch):
    """A card of width 512 describes 26 GiB; the file beside it has 100 KiB."""
    change_card(folder, lambda c: c | {"network": c["network"] | {"width": 512}})
    build = ModelCard.build

    def watched(self):
        assert torch.empty(1).is_meta  # before anything is built, or this test would take the memory itself
        return build(self)

    monkeypatch.setattr(ModelCard, "build", watched)
    monkeypatch.setattr(checkpoint, "take_memory", lambda *_: pytest.fail("memory was taken"))
    assert "but the network of the card needs 512 x 16 x 3 x 3" in refusal(folder)


def test_memory_that_does_not_suffice(folder, monkeypatch):
    def full(self, **_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.nn.Module, "to_empty", full)
    assert "takes 0.0 GiB, more than this machine has free" in refusal(folder)


@pytest.mark.parametrize("length", [0, 7, MAX_HEADER_BYTES + 1, 2**63])
def test_header_of_a_foreign_length(folder, length, monkeypatch):
    with (folder / WEIGHTS).open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(8 + min(length, 2**24))
    if length > MAX_HEADER_BYTES:
        monkeypatch.setattr(checkpoint, "safe_open", lambda *_, **__: pytest.fail("a header without end was parsed"))
    assert "missing, damaged or of another network" in refusal(folder)


def test_file_longer_than_its_header_says(folder):
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"\0")
    assert "missing, damaged or of another network" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'{"validation": ' + b'{"a": ' * 10**5 + b"1" + b"}" * 10**5 + b"}",
        b'{"validation": {"a": ' + b"9" * 10**6 + b"}}",
        b"\xff\xfe{}",
        b"\x00" * 100,
        b"",
    ],
)
def test_card_that_is_no_json_of_ours(folder, content):
    (folder / CARD).write_bytes(content)
    assert "is damaged or of another version" in refusal(folder)


def test_card_beyond_its_bound(folder):
    with (folder / CARD).open("ab") as file:
        file.write(b" " * MAX_CARD_BYTES)
    assert f"larger than {MAX_CARD_BYTES // 2**20} MiB" in refusal(folder)


def test_card_that_nobody_could_read_is_not_written(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    long = card(norm="batch").model_copy(update={"provenance": {"slides": ["x" * MAX_CARD_BYTES]}})
    with pytest.raises(ModelError, match="larger than 4 MiB"):
        save_model(folder, long, long.build())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "convention",
    [
        {},
        {"scale": 1},
        {"scale": 1 / 127.5, "mean": (1, 1, 1)},
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"scale": 1, "mean": (104, 117, 123)},
        {"scale": 1 / 65535},
    ],
)
def test_conventions_in_use(convention):
    InputConvention(**convention)


@pytest.mark.parametrize(
    "convention",
    [
        {"scale": 1e300},
        {"scale": 4},  # white is 1020
        {"scale": 3e-6},  # black and white are the same but for 0.0008
        {"scale": 0},
        {"scale": -1},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scale": 1e-300, "std": (1e-300,) * 3},
        {"mean": (0, 0, 1001)},
        {"mean": (0, 0, -1001)},
        {"mean": (0, 0, float("nan"))},
        {"std": (1, 1, 0.0009)},  # white is 1111
        {"std": (1, 1, 1001)},
        {"std": (1, 1, 0)},
        {"scale": 1 / 2550, "mean": (200, 0, 0)},  # -200 and -199.9: less than a thousandth apart
    ],
)
def test_conventions_that_hide_the_picture(convention):
    with pytest.raises(ValidationError):
        InputConvention(**convention)
