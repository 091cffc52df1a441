"""Checkpoints of the structure that the authors publish, with random weights."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from dmmn_qp.errors import ConfigError, ModelError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import CARD, load_model
from dmmn_qp.models.official import OFFICIAL_NAMES, OFFICIAL_PRESETS, import_official
from dmmn_qp.regions import Region
from tests.conftest import fails, invoke, two_tissues, write_tiff
from tests.official_files import official_forward, official_state, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("official") / "DMMN-breast.pkl", official_state())


def test_names_are_those_of_the_structure():
    assert set(official_state()) == {f"module.{name}" for name in OFFICIAL_NAMES} and len(OFFICIAL_NAMES) == 136


@pytest.mark.parametrize("width", [4, 32])
def test_imported_network_is_the_authors_to_the_bit(tmp_path, width):
    state = official_state(width)
    assert width != 32 or sum(t.numel() for t in state.values()) == 27_071_303
    import_official(write_checkpoint(tmp_path / "c.pkl", state), "msk-breast", tmp_path / "m")
    _, network = load_model(tmp_path / "m")
    images = [torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(m)) for m in range(3)]
    with torch.no_grad():
        assert torch.equal(network(images), official_forward(state, *images))


@pytest.mark.parametrize("numpy_name", [b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"])
def test_old_format_of_either_numpy(tmp_path, checkpoint, numpy_name):
    old = write_checkpoint(tmp_path / "old.pkl", official_state(), new_format=False)
    assert not zipfile.is_zipfile(old) and zipfile.is_zipfile(checkpoint)
    content = old.read_bytes()
    assert content.count(b"cnumpy._core.multiarray\n") == 1
    old.write_bytes(content.replace(b"cnumpy._core.multiarray\n", numpy_name))
    import_official(old, "msk-breast", tmp_path / "old")
    import_official(checkpoint, "msk-breast", tmp_path / "new")
    (_, first), (_, second) = load_model(tmp_path / "old"), load_model(tmp_path / "new")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_card(tmp_path, checkpoint):
    card = import_official(checkpoint, "msk-breast", tmp_path / "m")
    assert load_model(tmp_path / "m")[0] == card
    assert card.class_map.names == ("stroma", "necrotic", "carcinoma", "background", "adipose", "benign epithelial")
    assert card.class_map.colors["stroma"] == (255, 0, 0) and card.class_map.colors["carcinoma"] == (255, 255, 0)
    assert (card.input.channels, card.input.reduction, card.input.scale) == ("BGR", "decimate", 1 / 255)
    assert (card.patch_spec.mpps, card.patch_spec.size_px) == ((0.5, 1, 2), 256)
    assert card.network.reserved_outputs == 1 and card.network.width == 4
    assert card.licence == "CC-BY-NC-4.0" and "Memorial Sloan Kettering" in card.attribution
    assert card.provenance["authors_validation_mean_iou"] == 0.625 and card.provenance["iteration"] == 2316880
    assert len(card.provenance["sha256"]) == 64
    assert (tmp_path / "m" / "run.json").is_file()


def test_prediction_is_the_authors_but_for_output_0(tmp_path, here):
    """Level 0 is 20x: BGR, every 2nd and 4th pixel, black outside. Output 0 would win everywhere."""
    state = official_state()
    state["module.final.2.bias"] += torch.tensor([1e4, 0, 0, 0, 0, 0, 0])
    write_checkpoint(here / "c.pkl", state)
    pixels = two_tissues(256, 512)
    write_tiff(here / "slide.tif", pixels)
    assert invoke("models", "import-official", "c.pkl", "--preset", "msk-breast", "--out", "m").exit_code == 0
    result = invoke("predict", "slide.tif", "--model", "m", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert "licence of the model: CC-BY-NC-4.0" in result.output and "Memorial Sloan Kettering" in result.output
    with LabelRaster(here / "predictions" / "slide.labels.ome.tif") as raster:
        labels = raster.read(Region(256, 0, 256, 256))
    patch = np.zeros((1024, 1024, 3))
    patch[384:640, 128:640] = pixels[:, :, ::-1] / 255
    given = torch.from_numpy(patch).float().permute(2, 0, 1)[None]
    middle = given[..., 384:640, 384:640]
    with torch.no_grad():
        logits = official_forward(state, middle, given[..., ::2, ::2][..., 128:384, 128:384], given[..., ::4, ::4])
    assert (logits.argmax(1) == 0).all()
    expected = logits[0, 1:].argmax(0).numpy() + 1
    assert labels.min() >= 1 and len(np.unique(expected)) > 1
    assert (labels != expected).mean() < 1e-3  # where rounding decides


class Runs:
    """A pickle of this runs a program when it is loaded in good faith."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("function", ["posix.system", "builtins.eval", "numpy.float32"])
def test_pickle_that_wants_more_is_refused_by_name(here, new_format, function):
    thing = {
        "posix.system": Runs(os.system, "touch ran"),
        "builtins.eval": Runs(eval, "open('ran', 'w')"),
        "numpy.float32": np.float32(1),
    }[function]
    write_checkpoint(here / "c.pkl", official_state(1), new_format=new_format, best_iou=thing)
    line = fails("models", "import-official", "c.pkl", "--preset", "msk-breast")
    named = {"builtins.eval": "eval", "numpy.float32": "numpy.dtypes.Float32DType"}.get(function, function)
    assert f"wants to use {named}, which weights do not need" in line
    assert sorted(p.name for p in here.iterdir()) == ["c.pkl"]


def altered(**changes):
    state = official_state(2)
    for name, change in changes.items():
        key = f"module.{name.replace('__', '.')}"
        state[key] = change(state[key])
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, 'has no "model_state"'),
        ({"module.a": 1}, "with other things than weights"),
        ({}, "lacks 136 of the 136 weights"),
        ({k: v for k, v in official_state(2).items() if "center_5x.2" not in k}, 'the first "center_5x.2.weight"'),
        (
            official_state(2) | {"module.extra.weight": torch.zeros(1)},
            '1 weights that DMMN-M3 has not, the first "extra',
        ),
        (
            official_state(2, outputs=5),
            "has 4 classes (and output 0), but preset msk-breast names 6; pass --classes with 4",
        ),
        (altered(final__0__bias=lambda t: t[:1]), 'has "final.0.bias" of shape 1,'),
        (altered(conv1dn_20x__0__weight=lambda t: t[0]), "which no DMMN-M3 has"),
        (altered(conv2up_10x__0__weight=lambda t: t * torch.nan), "no finite numbers"),
        (altered(center_20x__0__weight=lambda t: t.long()), "with other things than weights"),
        (
            {k: torch.zeros(1).expand(v.shape) for k, v in official_state(8).items()},
            "is smaller than its weights",
        ),
    ],
)
def test_checkpoints_of_something_else(here, state, said):
    write_checkpoint(here / "c.pkl", state)
    assert said in fails("models", "import-official", "c.pkl", "--preset", "msk-breast")
    assert not (here / "models").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"PK\x03\x04broken", pickle.dumps({"model_state": {}})])
def test_files_of_something_else(here, content):
    (here / "c.pkl").write_bytes(content)
    assert "is not a checkpoint that torch can read" in fails(
        "models", "import-official", "c.pkl", "--preset", "msk-ovary"
    )


def test_damaged_and_packed_archives(here):
    """One bit of a weight; parts that would unpack to a thousand times the file."""
    content = bytearray(write_checkpoint(here / "c.pkl", official_state(2)).read_bytes())
    with zipfile.ZipFile(here / "c.pkl") as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    content[part.header_offset + 1000] ^= 1
    (here / "c.pkl").write_bytes(content)
    said = fails("models", "import-official", "c.pkl", "--preset", "msk-breast")
    assert f'is damaged (the checksum of "{part.filename}" in it is wrong)' in said
    with zipfile.ZipFile(here / "c.pkl", "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/data.pkl", b"\x80\x02}.")
        archive.writestr("c/data/0", bytes(10**7))
    assert "would unpack to more" in fails("models", "import-official", "c.pkl", "--preset", "msk-breast")
    assert not (here / "models").exists()


@pytest.mark.parametrize("changed", ["sparse", "meta"])
def test_weights_that_are_not_all_there(here, changed):
    state = official_state(2)
    name, tensor = next(iter(state.items()))
    state[name] = tensor.to_sparse() if changed == "sparse" else tensor.to("meta")
    write_checkpoint(here / "c.pkl", state)
    said = fails("models", "import-official", "c.pkl", "--preset", "msk-breast")
    assert "with other things than weights" in said


def test_deep_and_huge_values_in_checkpoints(here):
    deep = zip_of(here / "c.pkl", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    assert 'has no "model_state"' in fails("models", "import-official", deep, "--preset", "msk-breast")
    file = write_checkpoint(here / "c.pkl", official_state(1), epoch=10**400, best_iou=float("nan"))
    provenance = import_official(file, "msk-breast", here / "m").provenance
    assert not provenance.keys() & {"iteration", "authors_validation_mean_iou"}


def zip_of(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c/data.pkl", pickled)
        archive.writestr("c/version", "3\n")
        archive.writestr("c/byteorder", "little")
    return path


def test_wrong_options(here, checkpoint):
    command = ("models", "import-official", checkpoint, "--preset")
    assert "choose one of msk-breast, msk-ovary, msk-osteosarcoma" in fails(*command, "msk-lung")
    assert "does not exist" in fails("models", "import-official", "none.pkl", "--preset", "msk-breast")
    assert "6 classes (and output 0), but preset msk-osteosarcoma names 7" in fails(*command, "msk-osteosarcoma")
    assert "but --classes names 2; pass --classes with 6" in fails(*command, "msk-breast", "--classes", "a,b")
    assert "one twice" in fails(*command, "msk-breast", "--classes", "a,b,c,d,e,a")
    assert invoke(*command, "msk-breast").exit_code == 0
    assert "pass --overwrite" in fails(*command, "msk-breast")
    assert invoke(*command, "msk-breast", "--overwrite", "--classes", "a, b,c,d,e,f").exit_code == 0
    names = [c["name"] for c in json.loads((here / "models/msk-breast" / CARD).read_text())["class_map"]["classes"]]
    assert names == list("abcdef")
    (here / "notes").mkdir()
    (here / "notes" / "a.txt").write_text("mine")
    assert "was not made by this command" in fails(*command, "msk-breast", "--out", "notes", "--overwrite")


def test_other_numbers_of_classes(tmp_path):
    """A network trained on from the authors', with ten classes of somebody else's."""
    file = write_checkpoint(tmp_path / "c.pkl", official_state(2, outputs=11), best_iou=None, epoch=None)
    names = [f"class {i}" for i in range(10)]
    card = import_official(file, "msk-breast", tmp_path / "m", names)
    assert list(card.class_map.names) == names and "iteration" not in card.provenance
    with pytest.raises(ConfigError, match="is unknown"):
        import_official(file, "x", tmp_path / "n")
    with pytest.raises(ModelError, match="pass --classes with 10 names"):
        import_official(file, "msk-ovary", tmp_path / "n")


@pytest.mark.parametrize(
    ("name", "cancer", "outputs"), [("msk-breast", 3, 7), ("msk-ovary", 3, 7), ("msk-osteosarcoma", 1, 8)]
)
def test_presets(tmp_path, name, cancer, outputs):
    file = write_checkpoint(tmp_path / "c.pkl", official_state(1, outputs))
    card = import_official(file, name, tmp_path / "m")
    assert card.class_map.classes[cancer - 1].name in ("carcinoma", "cancer", "viable tumor")
    assert OFFICIAL_PRESETS[name].paper in card.attribution
