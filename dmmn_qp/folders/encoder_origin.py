"""Where the weights of a pretrained encoder come from, and whether they may be passed on."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Final

from pydantic import Field
from torch import nn

from dmmn_qp.networks.encoders import digest_of
from dmmn_qp.specs import FileModel

FREE_LICENCES: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "Unlicense",
        "Zlib",
    }
)
"""SPDX names of licences under which anybody may copy weights, also to sell them, as long as the author is named."""

MAX_LICENCE: Final = 20_000
"""Most characters of a licence."""


class EncoderOrigin(FileModel):
    """What a model's card says of its pretrained encoder.

    Attributes:
        sha256: Digest of the file of its weights.
        file: That file: its name, or where weights are not copied its path.
        licence: SPDX name or text of the licence of those weights; None where nobody said it.
        attribution: Whom to name.
        copied: Whether the weights are part of the model; else they are read from the file.
    """

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    file: str = Field(max_length=4096)
    licence: str | None = Field(default=None, max_length=MAX_LICENCE)
    attribution: str | None = Field(default=None, max_length=MAX_LICENCE)
    copied: bool = True


def nameless_origin(origin: EncoderOrigin) -> EncoderOrigin:
    """An origin without the folder of its file, which may name a person or a machine."""
    return origin.model_copy(update={"file": PureWindowsPath(origin.file).name})  # which knows both kinds of slashes


_ORIGIN: Final = "dmmn_qp_origin"
_DIGEST: Final = "dmmn_qp_digest"


def attach_origin(encoder: nn.Module, origin: EncoderOrigin) -> None:
    """Lets an encoder that has the weights of a file say so: whoever saves it writes that into the card."""
    setattr(encoder, _ORIGIN, origin)
    setattr(encoder, _DIGEST, None if origin.copied else digest_of(encoder))


def encoder_in(network: nn.Module) -> tuple[str, EncoderOrigin] | None:
    """Name of the part of a network that has the weights of a file, and their origin; None where no part has."""
    for name, module in network.named_modules():
        origin = getattr(module, _ORIGIN, None)
        if isinstance(origin, EncoderOrigin):
            return name, origin
    return None


def is_unchanged(encoder: nn.Module) -> bool:
    """Whether an encoder whose weights are not copied still has those of its file."""
    return getattr(encoder, _DIGEST, None) == digest_of(encoder)
