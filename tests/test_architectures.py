"""Every architecture keeps the contract, and the contract finds those that would not."""

import shutil

import pytest
import torch
from torch import nn

from dmmn_qp.errors import TrainingError
from dmmn_qp.networks import ARCHITECTURES, Architecture
from dmmn_qp.networks.blocks import ConvBlock, ConvFinal
from dmmn_qp.training.fine_tuning import freeze_encoders
from tests.architecture_contract import CONTRACT, breaches, build, images, largest_difference


def check_of(promise):
    """A check, of torch's compiler and its tracing in `make test-all` only."""
    marks = [pytest.mark.engine] if promise.__name__.startswith(("compiles", "can_be_exported")) else []
    return pytest.param(promise, marks=marks, id=promise.__name__)


@pytest.mark.parametrize("check", [check_of(promise) for promise in CONTRACT])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contract(name, check):
    check(name)


class Tiny(nn.Module):
    """Two convolution blocks on the finest image: what an architecture has to have, and no more."""

    def __init__(self, classes, width, magnifications, norm, in_channels):
        super().__init__()
        self.features = ConvBlock(in_channels, width, norm)
        self.final = ConvFinal(width, width, classes)

    @property
    def encoders(self):
        return [self.features]

    @property
    def output(self):
        return self.final.logits

    def forward(self, images):
        return self.final(self.features(images[0]))


class Nameless(Tiny):
    """Says nothing of its parts."""

    encoders = property(lambda self: self.missing)


class FreezesNothing(Tiny):
    encoders = property(lambda self: [nn.ReLU()])


class FreezesAll(Tiny):
    encoders = property(lambda self: [self])


class NamesAnotherOutput(Tiny):
    output = property(lambda self: self.final[0])


class Turns(Tiny):
    """Its classes change places after the output."""

    def forward(self, images):
        return super().forward(images).flip(1)


class Pools(Tiny):
    """Halves what its divisor does not allow to be halved."""

    def forward(self, images):
        x = self.features(nn.functional.max_pool2d(images[0], 2))
        return self.final(nn.functional.interpolate(x, scale_factor=2.0))


class Square(Tiny):
    """Takes images to be as high as they are wide."""

    def forward(self, images):
        logits = super().forward(images)
        side = logits.shape[-1]
        return logits[..., :side, :].reshape(*logits.shape[:2], side, side)


class Idle(Tiny):
    """Has a layer that nothing goes through."""

    def __init__(self, **options):
        super().__init__(**options)
        self.idle = nn.Conv2d(4, 4, 1)


class Noisy(Tiny):
    """Drops features when it predicts, too."""

    def forward(self, images):
        return self.final(nn.functional.dropout(self.features(images[0]), 0.5, training=True))


class ForgetsItsBorders(Tiny):
    """Enlarges in a way that knows nothing but zeros beyond a border."""

    def __init__(self, **options):
        super().__init__(**options)
        width = options["width"]
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)

    def forward(self, images):
        return self.final(self.up(self.pool(self.features(images[0]))))


@pytest.fixture
def register(monkeypatch):
    def add(network, **facts):
        entry = {"paper_width": 4, "divisor": 1, "max_magnifications": 1, **facts}
        monkeypatch.setitem(ARCHITECTURES, "new", Architecture(network, **entry))

    return add


def test_a_new_architecture_needs_one_line(register):
    register(Tiny)
    assert breaches("new") == {}


FINE_TUNING = {"freezes_its_encoders_alone", "starts_from_a_model_by_the_names_of_classes"}


@pytest.mark.parametrize(
    ("network", "facts", "broken"),
    [
        (Nameless, {}, FINE_TUNING | {"ends_with_the_output_that_it_names"}),
        (FreezesNothing, {}, {"freezes_its_encoders_alone"}),
        (FreezesAll, {}, {"freezes_its_encoders_alone"}),
        (NamesAnotherOutput, {}, {"ends_with_the_output_that_it_names"}),
        (Turns, {}, {"ends_with_the_output_that_it_names"}),
        (Pools, {}, {"takes_any_multiple_of_its_divisor", "takes_images_that_are_wider_than_high"}),
        (Square, {}, {"takes_images_that_are_wider_than_high", "is_described_as_it_is"}),
        (Idle, {}, {"learns_with_every_parameter"}),
        (Noisy, {}, {"is_equal_once_saved_and_loaded", "agrees_channels_last"}),
        (ForgetsItsBorders, {"divisor": 2}, {"shows_no_border_where_it_repeats_it"}),
        (Tiny, {"max_magnifications": None}, {"looks_at_the_magnifications_that_it_says"}),
    ],
)
def test_a_careless_one_is_found(register, network, facts, broken):
    register(network, **facts)
    assert breaches("new", among=broken).keys() == broken


@pytest.mark.parametrize(("network", "said"), [(FreezesNothing, "freeze nothing"), (FreezesAll, "freeze all weights")])
def test_freezing_nothing_or_all_is_refused(register, network, said):
    register(network)
    with pytest.raises(TrainingError, match=f"{said} of {network.__name__}"):
        freeze_encoders(build("new"), "encoder")
    freeze_encoders(build("new"), "none")


@pytest.mark.engine
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_inductor_compiles_a_network():
    """The smallest, without looking for vector instructions: it is the C++ compiler that takes the time."""
    network, given = build("unet", width=1, magnifications=1, stem="half"), images(1, batch=1)
    compiled = torch.compile(network, options={"cpp.vec_isa_ok": False})
    with torch.no_grad():
        assert largest_difference(compiled(given), network(given)) < 1e-5
