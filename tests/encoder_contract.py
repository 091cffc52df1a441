"""The contract that every entry of `ENCODERS` keeps: `CONTRACT` holds its checks, each takes a name."""

import re
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmmn_qp.errors import ModelError
from dmmn_qp.folders.encoder_origin import FREE_LICENCES
from dmmn_qp.folders.encoder_weights import PUBLISHED, load_encoder
from dmmn_qp.networks.conventions import network_input
from dmmn_qp.networks.encoders import ENCODERS, build_encoder
from tests.contracts import Contract

LARGEST_STRIDE = 32
"""What the sides of all images are multiples of."""

CONTRACT = Contract()
"""The checks: each takes a key of `ENCODERS`."""

promise, breaches = CONTRACT.promise, CONTRACT.breaches


def made(name, seed=0):
    torch.manual_seed(seed)
    return build_encoder(name).eval()


def noise(rows, columns, batch=1):
    return torch.rand(batch, 3, rows, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


@promise
def gives_a_map_for_each_of_its_strides(name):
    encoder = made(name)
    assert list(encoder.strides) == sorted(set(encoder.strides)) and encoder.strides[-1] <= LARGEST_STRIDE
    for rows, columns in ((32, 32), (64, 96), (160, 32)):
        maps = encoder(noise(rows, columns, batch=2))
        cells = [(-(-rows // stride), -(-columns // stride)) for stride in encoder.strides]
        assert [tuple(m.shape) for m in maps] == [(2, n, *c) for n, c in zip(encoder.channels, cells, strict=True)]
        assert all(m.dtype == torch.float32 and m.isfinite().all() for m in maps)


@promise
def sees_each_image_by_itself(name):
    """In training as in prediction: nothing depends on the others of a batch, on chance or on what was before."""
    encoder, both = made(name), noise(64, 64, batch=2)
    with torch.no_grad():
        reference = encoder(both)
        for image in range(2):
            for found, expected in zip(encoder(both[image : image + 1]), reference, strict=True):
                assert torch.allclose(found[0], expected[image], atol=1e-4 * expected.abs().max())
        assert all(torch.equal(a, b) for a, b in zip(encoder.train()(both), reference, strict=True))


@promise
def leaves_its_image_as_it_is(name):
    image = noise(64, 64)
    before = image.clone()
    made(name)(image)
    assert torch.equal(image, before)


@promise
def has_weights_and_no_other_state(name):
    encoder = made(name)
    assert dict(encoder.named_buffers()) == {}
    sum(m.square().mean() for m in encoder(noise(64, 64))).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@promise
def draws_its_weights_from_the_seed(name):
    first, second, other = (dict(made(name, seed).named_parameters()) for seed in (5, 5, 6))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@promise
def says_how_it_sees_pixels(name):
    """In the range that networks are trained on, and never black beyond the slide, which it was not trained on."""
    convention = ENCODERS[name].convention
    black, white = (network_input(torch.full((1, 3, 1, 1), value), convention) for value in (0.0, 255.0))
    assert (black < white).all() and black.min() >= -3 and white.max() <= 3
    assert convention.beyond == "mirror"


@promise
def takes_its_weights_from_a_file(name):
    encoder = made(name, seed=7)
    with tempfile.TemporaryDirectory() as folder:
        save_file(encoder.state_dict(), Path(folder) / "w.safetensors")
        loaded = load_encoder(name, Path(folder) / "w.safetensors", "MIT").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in encoder.state_dict().items())


@promise
def says_all_of_its_published_weights(name):
    """Where there are any; else it says how to name a file."""
    if name not in PUBLISHED:
        with pytest.raises(ModelError, match="comes without weights; name a file of them with --encoder-weights"):
            load_encoder(name)
        return
    published = PUBLISHED[name]
    assert re.fullmatch(r"[0-9a-f]{64}", published.sha256) and re.fullmatch(r"[0-9a-f]{64}", published.wheel_sha256)
    assert re.fullmatch(rf"{published.package}==[0-9.]+", published.requirement)
    assert published.url.startswith("https://") and published.url.endswith(".whl")
    assert published.licence in FREE_LICENCES and published.attribution
