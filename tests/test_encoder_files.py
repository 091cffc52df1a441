"""Encoders from files of the user's: patch tokens, timm, licences, and weights that are no part of a model."""

import hashlib
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from dmmn_qp.errors import ConfigError, ModelError
from dmmn_qp.folders import encoder_weights
from dmmn_qp.folders.encoder_origin import FREE_LICENCES, encoder_in
from dmmn_qp.folders.encoder_weights import give_weights, load_encoder, read_weights
from dmmn_qp.folders.model import CARD, WEIGHTS, ModelCard, NetworkOptions, load_card, load_model, save_model
from dmmn_qp.models.export import export_model
from dmmn_qp.networks import timm_encoders
from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.networks.encoder_names import named_as_ours
from dmmn_qp.networks.encoders import build_encoder, convention_of
from dmmn_qp.networks.patch_tokens import PatchTokens
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.training.fine_tuning import start_from
from tests.conftest import fails, invoke


class Block(nn.Module):
    """A block of a vision transformer, by timm's names."""

    def __init__(self, width, scaled):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        if scaled:
            self.ls1 = nn.Module()
            self.ls1.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        query, key, value = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        seen = self.attn.proj(functional.scaled_dot_product_attention(query, key, value))
        x = x + (seen * self.ls1.gamma if hasattr(self, "ls1") else seen)
        return x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """A small vision transformer with the parts that timm's have, for images of ``grid`` x ``grid`` patches."""

    def __init__(self, patch_size=16, width=8, depth=1, grid=4, reg_tokens=0, no_embed_class=False, init_values=None):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.reg_token = nn.Parameter(torch.randn(1, reg_tokens, width)) if reg_tokens else None
        self.no_embed_class = no_embed_class
        extra = 0 if no_embed_class else 1 + reg_tokens
        self.pos_embed = nn.Parameter(torch.randn(1, extra + grid * grid, width))
        self.blocks = nn.Sequential(*(Block(width, init_values) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.pretrained_cfg = {"mean": (0.7, 0.6, 0.5), "std": (0.2, 0.25, 0.3)}

    def tokens(self, image):
        """What it gives for an image of its own size, written down plainly."""
        x = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        extra = [t.expand(len(image), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.no_embed_class:
            x = torch.cat([*extra, x + self.pos_embed], 1)
        else:
            x = torch.cat([*extra, x], 1) + self.pos_embed
        return self.norm(self.blocks(x))


class Pyramid(nn.Module):
    """A convolutional model as timm has them, with maps of strides 4, 4 and 8, and an index that files leave out."""

    pretrained_cfg = types.MappingProxyType({"mean": (0.5,) * 3, "std": (0.25,) * 3})

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.last = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 10, 2, 2)
        self.norm = nn.BatchNorm2d(10)
        self.register_buffer("order", torch.arange(6), persistent=False)

    def forward_intermediates(self, image, indices=None, intermediates_only=False, output_fmt="NCHW"):
        assert intermediates_only and output_fmt == "NCHW"
        maps = [self.stem(image)[:, self.order]]
        maps.append(self.body(maps[0]).relu())
        maps.append(self.norm(self.last(maps[1])))
        return maps if indices is None else [maps[i] for i in indices]


@pytest.fixture
def timm(monkeypatch):
    """Stands in for timm, which gives structures only; the test that follows asks the real one, where there is one."""
    fake = types.ModuleType("timm")
    fake.asked = []

    def create_model(name, pretrained, num_classes, **options):
        assert pretrained is False and num_classes == 0
        fake.asked.append((name, options))
        kinds = {"vit": Transformer, "pyramid": Pyramid, "empty": nn.Identity}
        if name not in kinds:
            raise RuntimeError(f"Unknown model ({name})")
        return kinds[name](**options)

    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    timm_encoders.timm_encoder.cache_clear()
    yield fake
    timm_encoders.timm_encoder.cache_clear()


def noise(rows, columns, batch=2):
    return torch.rand(batch, 3, rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize("reg_tokens", [0, 3])
def test_patch_tokens_become_a_map(reg_tokens, no_embed_class):
    """Token 1 + registers + 4 i + j is cell (i, j); the class token and the registers are none."""
    torch.manual_seed(0)
    model = Transformer(reg_tokens=reg_tokens, no_embed_class=no_embed_class)
    encoder = PatchTokens(model)
    assert (encoder.strides, encoder.channels) == ((16,), (8,))
    with torch.no_grad():
        (found,), tokens = encoder(noise(64, 64)), model.tokens(noise(64, 64))
    assert found.shape == (2, 8, 4, 4) and tokens.shape == (2, 1 + reg_tokens + 16, 8)
    for i, j in ((0, 0), (0, 3), (2, 1), (3, 3)):
        assert torch.allclose(found[:, :, i, j], tokens[:, 1 + reg_tokens + 4 * i + j], atol=1e-6)


def test_positions_for_other_sizes_are_interpolated():
    """Learned as a ramp across the columns, 0 10 20 30: a grid twice as wide has its middles half as far apart."""
    model = Transformer(width=1, grid=4)
    with torch.no_grad():
        model.pos_embed.copy_(torch.cat([torch.tensor([100.0]), torch.arange(16) % 4 * 10]).reshape(1, 17, 1))
    encoder = PatchTokens(model)
    of_class, same = encoder._positions(4, 4)
    assert of_class.item() == 100 and torch.equal(same.flatten(), (torch.arange(16) % 4 * 10.0))
    wider = encoder._positions(4, 8)[1].reshape(4, 8)
    assert torch.allclose(wider[0, 2:6], torch.tensor([7.5, 12.5, 17.5, 22.5]), atol=1.0)
    assert wider[0].diff().min() > 0 and torch.allclose(wider, wider[:1].expand(4, 8), atol=1e-4)
    taller = encoder._positions(7, 4)[1].reshape(7, 4)
    assert torch.allclose(taller, taller[:1].expand(7, 4), atol=1e-4)


def test_an_image_that_is_no_multiple_of_a_patch_is_mirrored_on_both_sides():
    """64 px in patches of 14: five of them, 70 px, 3 more on either side; the map keeps the centre."""
    encoder = PatchTokens(Transformer(patch_size=14))
    image = noise(64, 96)
    with torch.no_grad():
        (found,) = encoder(image)
        (expected,) = encoder(functional.pad(image, (1, 1, 3, 3), mode="reflect"))
    assert found.shape == (2, 8, 5, 7) and torch.equal(found, expected)


def test_a_network_on_patches_of_14_px_is_about_the_same_centre():
    network = DmmnP(PatchTokens(Transformer(patch_size=14)), 3, 4, 2).eval()
    assert network.cells_px == (14, 28)
    assert network([noise(64, 96)] * 2).shape == (2, 3, 64, 96)


def test_it_computes_the_same_in_training():
    for encoder in (PatchTokens(Transformer()), timm_encoders.TimmMaps(Pyramid(), {8: (2, 10)})):
        assert not any(module.training for module in encoder.train().modules())


def test_a_name_says_structure_and_convention(timm):
    name = "timm:vit?patch_size=14&reg_tokens=4&init_values=1e-5&no_embed_class=true"
    encoder = build_encoder(name)
    assert isinstance(encoder, PatchTokens) and encoder.strides == (14,)
    assert timm.asked[-1] == (
        "vit",
        {"patch_size": 14, "reg_tokens": 4, "init_values": 1e-5, "no_embed_class": True},
    )
    convention = convention_of(name)
    assert (convention.mean, convention.std) == ((0.7, 0.6, 0.5), (0.2, 0.25, 0.3))
    assert convention.scale == 1 / 255 and convention.beyond == "mirror"
    own = convention_of("timm:vit?mean=0.1,0.2,0.3&std=0.5,0.5,0.5")
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    known = convention_of("timm:vit?input=imagenet")
    assert (known.mean, known.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_convolutional_ones_give_the_last_map_of_each_stride(timm):
    encoder = build_encoder("timm:pyramid")
    assert (encoder.strides, encoder.channels) == ((4, 8), (6, 10))
    fine, coarse = encoder.eval()(noise(64, 32))
    assert fine.shape == (2, 6, 16, 8) and coarse.shape == (2, 10, 8, 4) and fine.min() == 0
    held = {n for n, _ in [*encoder.named_parameters(), *encoder.named_buffers()]}
    assert held == encoder.state_dict().keys(), "a model folder holds indices too, so none is left undefined"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:", "is no name such as timm:vit_base"),
        ("timm:../vit", "is no name such as"),
        ("timm:vit?pretrained=true", 'option "pretrained=true" .* is unknown or has a wrong value'),
        ("timm:vit?checkpoint_path=x", "is unknown or has a wrong value"),
        ("timm:vit?depth=99999", "is unknown or has a wrong value"),
        ("timm:vit?init_values=nan", "is unknown or has a wrong value"),
        ("timm:vit?no_embed_class=1", "is unknown or has a wrong value"),
        ("timm:vit?mlp_layer=system", "is unknown or has a wrong value"),
        ("timm:vit?input=other", "is unknown or has a wrong value"),
        ("timm:vit?mean=1,2", "is unknown or has a wrong value"),
        ("timm:vit?std=0,0,0", "a mean or std that cannot be"),
        ("timm:elsewhere", r"cannot build encoder .*Unknown model \(elsewhere\)"),
        ("timm:empty", "gives no maps"),
    ],
)
def test_wrong_names(timm, name, said):
    with pytest.raises((ConfigError, ModelError), match=said) as caught:
        build_encoder(name)
    assert "\n" not in str(caught.value)


def test_without_timm_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_encoders.timm_encoder.cache_clear()
    with pytest.raises(ConfigError, match=r'needs timm, which cannot be imported .*pip install .*".*\[timm\]"'):
        build_encoder("timm:vit_tiny_patch16_224")


def real_timm():
    try:
        import timm
    except Exception as error:
        pytest.skip(f"timm cannot be imported here ({error}): pip install timm, and a torchvision that fits torch")
    return timm


def test_real_transformers_of_timm_give_their_own_tokens():
    """On images of another size than they were made for."""
    timm = real_timm()
    options = {"depth": 2, "reg_tokens": 4, "init_values": 1e-5}
    encoder = build_encoder("timm:vit_tiny_patch16_224?depth=2&reg_tokens=4&init_values=1e-5").eval()
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, **options).eval()
    own.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        (found,), tokens = encoder(noise(64, 96)), own.forward_features(noise(64, 96))[:, 5:]
    assert torch.allclose(found.flatten(2).transpose(1, 2), tokens, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224?strict_img_size=false"])
def test_real_maps_of_timm(name):
    real_timm()
    encoder = build_encoder(f"timm:{name}").eval()
    maps = encoder(noise(64, 96))
    assert [m.shape[1:] for m in maps] == [
        (n, 64 // s, 96 // s) for n, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


def as_transformers(state):
    """The same weights as the library transformers names them."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm.": "layernorm.",
        "blocks.": "encoder.layer.",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    found = {"pooler.dense.weight": torch.zeros(1)}
    for key, tensor in state.items():
        name = key
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if "attn.qkv" in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.backbone.{key}": value for key, value in state.items()},
        lambda state: {**state, "head.weight": torch.zeros(3), "fc.bias": torch.zeros(1)},
        as_transformers,
    ],
)
def test_names_of_files(wrap):
    encoder = PatchTokens(Transformer(depth=2))
    state = encoder.model.state_dict()
    found = named_as_ours(wrap(state), encoder)
    assert found.keys() == encoder.state_dict().keys()
    assert all(torch.equal(found[f"model.{key}"], value) for key, value in state.items())


def weights_file(path, state=None, nested=None):
    torch.manual_seed(4)
    state = Transformer().state_dict() if state is None else state
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({nested: state, "epoch": 3} if nested else state, path)
    return path


@pytest.mark.parametrize(
    ("name", "nested"), [("w.pth", None), ("w.bin", "model"), ("w.pt", "teacher"), ("w.safetensors", None)]
)
def test_files_that_are_read(timm, tmp_path, name, nested):
    path = weights_file(tmp_path / name, nested=nested)
    encoder = load_encoder("timm:vit", path)
    torch.manual_seed(4)
    assert torch.equal(encoder.model.pos_embed, Transformer().pos_embed)
    _, origin = encoder_in(encoder)
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (origin.copied, origin.licence, origin.file) == (False, None, str(path)), "nobody said that it is free"


def state_without(key):
    state = Transformer().state_dict()
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (state_without("norm.bias"), 'lack 1 tensor, the first "norm.bias"'),
        ({**Transformer().state_dict(), "blocks.0.ls1.gamma": torch.ones(8)}, "hold 1 tensor too many, the first"),
        (Transformer(grid=5).state_dict(), r'have "pos_embed" of shape 1 x 26 x 8, not 1 x 17 x 8'),
        ({**Transformer().state_dict(), "norm.bias": torch.full((8,), torch.nan)}, 'numbers in "norm.bias" that are'),
        ({"a\x1b[31m": torch.zeros(1)}, "lack"),
    ],
)
def test_weights_of_another_encoder(timm, tmp_path, state, said):
    with pytest.raises(ModelError, match=said) as caught:
        load_encoder("timm:vit", weights_file(tmp_path / "w.pth", state))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


class Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda p: torch.save({"x": Runs()}, p), "wants to use .*exec"),
        (lambda p: torch.save([1, 2], p), "hold no tensors with names"),
        (lambda p: torch.save({"x": 1}, p), "hold no tensors with names"),
        (lambda p: p.write_bytes(b"no weights"), "is not a file of weights that torch can read"),
        (lambda p: p.with_suffix(".pth").mkdir(), "is no file"),
    ],
)
def test_files_that_are_not_read(tmp_path, content, said):
    content(tmp_path / "w.pth")
    with pytest.raises(ModelError, match=said):
        read_weights(tmp_path / "w.pth")


def test_safetensors_that_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="its header is longer"):
        read_weights(path)
    path.write_bytes(b"\x02\0\0\0\0\0\0\0{]")
    with pytest.raises(ModelError, match="are damaged"):
        read_weights(path)
    monkeypatch.setattr(encoder_weights, "MAX_FILE_BYTES", 4)
    with pytest.raises(ModelError, match="larger than"):
        read_weights(path)


def model_on(folder, weights, licence=None, name="timm:vit"):
    """A model of two classes whose encoder has the weights of a file."""
    card = ModelCard(
        name=folder.name,
        network=NetworkOptions(architecture="dmmn-p", width=4, encoder=name),
        class_map=ClassMap.from_colors([("a", (1, 2, 3)), ("b", (4, 5, 6))]),
        patch_spec=PatchSpec(size_px=64, mpps=(0.5, 1.0), stride_px=64),
        input=convention_of(name),
        created="now",
    )
    torch.manual_seed(0)
    network = card.build()
    give_weights(network, weights, licence)
    folder.mkdir()
    save_model(folder, card, network)
    return network.eval()


def test_weights_that_are_not_free_are_named_and_not_copied(timm, here):
    weights = weights_file(here / "uni.pth")
    network = model_on(here / "m", weights, "CC-BY-NC-ND-4.0")
    card, loaded = load_model(here / "m")
    assert card.encoder.file == str(weights) and not card.encoder.copied
    assert card.encoder_credit == "timm:vit: CC-BY-NC-ND-4.0"
    with (here / "m" / WEIGHTS).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert not [key for key in header if "encoder" in key] and "network.final.1.weight" in header
    images = [noise(64, 64)] * 2
    assert torch.equal(loaded(images), network(images))
    shown = invoke("models", "show", "m")
    assert shown.exit_code == 0 and "no part of this model, but read from" in " ".join(shown.output.split())


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0"])
def test_free_weights_are_copied(timm, here, licence):
    weights = weights_file(here / "free.pth")
    network = model_on(here / "m", weights, licence)
    weights.unlink()
    card, loaded = load_model(here / "m")
    assert (card.encoder.file, card.encoder.copied, card.encoder.licence) == ("free.pth", True, licence)
    images = [noise(64, 64)] * 2
    assert torch.equal(loaded(images), network(images))
    assert export_model(here / "m", "torchscript", here / "x.pt").is_file()


@pytest.mark.parametrize("licence", [None, "CC-BY-NC-4.0", "mit", "GPL-3.0-only", "Apache-2.0 or so", ""])
def test_what_is_not_known_to_be_free_is_not(timm, here, licence):
    model_on(here / "m", weights_file(here / "w.pth"), licence)
    assert licence not in FREE_LICENCES and not load_card(here / "m").encoder.copied
    assert "cannot be exported" in fails("models", "export", "m", "--format", "torchscript", "--out", "x.pt")
    assert "cannot be exported" in fails("models", "export", "m", "--format", "onnx", "--out", "x.onnx")
    assert not list(here.glob("x.*"))


def test_missing_weights_say_where_they_were_looked_for(timm, here, monkeypatch):
    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "cache"))
    weights = weights_file(here / "w.pth")
    network = model_on(here / "m", weights)
    (here / "elsewhere").mkdir()
    moved = Path(shutil.move(weights, here / "elsewhere" / "other.pth"))
    said = fails("models", "show", "m")
    assert str(weights) in said and str(here / "cache" / "encoders" / "w.pth") in said
    assert 'dmmn-qp models set-encoder "m" --encoder-weights FILE' in said
    weights_file(weights, Transformer(depth=2).state_dict())
    assert f'"{weights}" (another file)' in fails("models", "show", "m")
    assert "(another file)" in fails("models", "set-encoder", "m", "--encoder-weights", weights)
    result = invoke("models", "set-encoder", "m", "--encoder-weights", moved)
    assert result.exit_code == 0, result.output
    card, loaded = load_model(here / "m")
    assert card.encoder.file == str(moved)
    images = [noise(64, 64)] * 2
    assert torch.equal(loaded(images), network(images))


def test_weights_beside_the_model_or_in_the_cache_are_found(timm, here, monkeypatch):
    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "cache"))
    (here / "far").mkdir()
    weights = weights_file(here / "far" / "w.pth")
    model_on(here / "m", weights)
    (here / "cache" / "encoders").mkdir(parents=True)
    for place in (here / "cache" / "encoders" / "w.pth", here / "w.pth", here / "m" / "w.pth"):
        weights = Path(shutil.move(weights, place))
        load_model(here / "m")


def change_card(folder, change):
    content = json.loads((folder / CARD).read_text())
    change(content)
    (folder / CARD).write_text(json.dumps(content))


@pytest.mark.parametrize("file", ["//server/share/w.pth", r"\\server\share\w.pth", "/dev/zero", "w\x1b[31m.pth"])
def test_a_card_makes_nobody_look_elsewhere(timm, here, monkeypatch, file):
    """A path of another machine is not even asked for: that alone opens a connection. Nor is what has no end."""
    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "cache"))
    model_on(here / "m", weights_file(here / "first.pth"))
    change_card(here / "m", lambda card: card["encoder"].update(file=file))
    asked = []
    monkeypatch.setattr(Path, "is_file", lambda self, plain=Path.is_file: asked.append(str(self)) or plain(self))
    said = fails("models", "show", "m")
    assert "are no part of it" in said and "\x1b" not in said
    assert not [path for path in asked if "server" in path and path.startswith(("//", "\\\\"))]


def test_a_card_of_an_encoder_that_is_not_known(timm, here):
    model_on(here / "m", weights_file(here / "w.pth"), "MIT")
    change_card(here / "m", lambda card: card["network"].update(encoder="later"))
    assert 'model "m" is built on encoder "later", which is none of efficientnet-lite0' in fails("models", "show", "m")


def test_models_with_all_of_their_weights_have_nothing_to_set(timm, here):
    model_on(here / "m", weights_file(here / "w.pth"), "MIT")
    assert "nothing to set" in fails("models", "set-encoder", "m", "--encoder-weights", "w.pth")


def test_a_shrunk_copy_names_the_file_but_no_folder(timm, here):
    weights = weights_file(here / "w.pth")
    model_on(here / "m", weights)
    for out, options, named in (("s", (), "w.pth"), ("k", ("--keep-provenance",), str(weights))):
        result = invoke("models", "shrink", "m", "--out", out, *options)
        assert result.exit_code == 0, result.output
        assert load_card(here / out).encoder.file == named
        assert load_model(here / out)[1].network.encoder.model.pos_embed.isfinite().all()
    assert str(here) not in (here / "s" / CARD).read_text()


def test_an_encoder_that_may_not_be_copied_is_not_trained_on(timm, here):
    """Else its changed weights would have to be copied, or the model would be another than the one that was tested."""
    network = model_on(here / "m", weights_file(here / "w.pth"), "CC-BY-NC-4.0")
    card = load_card(here / "m")
    network.network.output.bias.data += 1
    save_model(here / "m", card, network)
    next(network.network.encoder.parameters()).data[0] += 1e-3
    with pytest.raises(ModelError, match=r"timm:vit: CC-BY-NC-4.0 may not be copied .*--encoder-licence"):
        save_model(here / "m", card, network)


def test_fine_tuning_keeps_the_origin(timm, here):
    model_on(here / "m", weights_file(here / "w.pth"), "CC-BY-NC-4.0")
    card = load_card(here / "m")
    network = card.build()
    start_from(network, here / "m", card.class_map)
    (here / "n").mkdir()
    save_model(here / "n", card.model_copy(update={"encoder": None}), network)
    assert load_card(here / "n").encoder == card.encoder
    assert (here / "n" / WEIGHTS).stat().st_size == (here / "m" / WEIGHTS).stat().st_size


def test_convolutional_encoders_are_saved_whole(timm, here):
    """With statistics and indices, which its file leaves out."""
    state = dict(Pyramid().state_dict())
    assert "order" not in state
    network = model_on(here / "m", weights_file(here / "w.pth", state), "MIT", "timm:pyramid")
    images = [noise(64, 64)] * 2
    assert torch.equal(load_model(here / "m")[1](images), network(images))
