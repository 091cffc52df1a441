"""The model folder: ``model.json`` (the card) and ``weights.safetensors``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dmmn_qp.choices import Norm, Padding, Stem, Views
from dmmn_qp.errors import ModelError
from dmmn_qp.features.domain import TrainingDomain
from dmmn_qp.files import check_free, new_file, new_folder, write_json
from dmmn_qp.files.failures import FULL_DISK
from dmmn_qp.files.locks import locked
from dmmn_qp.folders import model_glance
from dmmn_qp.folders.acceptance import Acceptance
from dmmn_qp.folders.calibrated import Calibrated
from dmmn_qp.folders.encoder_origin import EncoderOrigin, attach_origin, encoder_in, is_unchanged
from dmmn_qp.folders.encoder_weights import find_weights, load_encoder
from dmmn_qp.folders.weights_file import (
    AGAIN,
    SHOWN,
    check_digest,
    check_header,
    check_header_length,
    check_values,
    take_memory,
)
from dmmn_qp.networks import ARCHITECTURES, build_network
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.encoders import DEFAULT_ENCODER, ENCODERS, is_known
from dmmn_qp.networks.stem import NamesParts, Stemmed
from dmmn_qp.specs import ClassMap, FileModel, PatchSpec, explain
from dmmn_qp.text import shorten

CARD = model_glance.CARD

WEIGHTS = "weights.safetensors"

MAX_WIDTH = 512
"""Largest base width f that a model may have."""

MAX_RESERVED_OUTPUTS = 8
"""Most outputs that stand for no class; the authors' networks have one."""

MAX_CARD_BYTES = 4 * 2**20
"""Largest card: some 50,000 names of slides. The worst content of that length takes 250 MiB when it is read."""

DEMO_MODEL = model_glance.SHIPPED


class NetworkOptions(FileModel):
    """What a network is built from.

    Attributes:
        architecture: Key of `ARCHITECTURES`.
        width: Base width f.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        encoder: The pretrained encoder that it is built on, a key of `ENCODERS` or ``timm:NAME``; None of a network
            without.
        padding: What its convolutions see beyond the border of a map.
        views: Turned copies of an image over which that encoder's maps are averaged.
        reserved_outputs: How many outputs come before those of the classes. They stand for nothing that can be
            predicted: the authors' own networks keep output 0 for "unlabelled".
    """

    architecture: str
    width: int = Field(ge=1, le=MAX_WIDTH)
    norm: Norm = "none"
    stem: Stem = "full"
    padding: Padding = "zeros"
    encoder: str | None = None
    views: Views = 1
    reserved_outputs: int = Field(default=0, ge=0, le=MAX_RESERVED_OUTPUTS)


class ModelCard(FileModel):
    """Content of ``model.json``: all that prediction needs to know.

    A key that an older card lacks has its default, which is what older versions did.

    Attributes:
        format_version: Version of this format.
        name: Name of the model.
        network: What the network is built from; after the reserved outputs, output ``i`` is the class of label
            ``i + 1``.
        class_map: The classes.
        patch_spec: The patch geometry.
        input: How pixels become its input.
        validation: Metrics of the kept epoch on the validation slides.
        provenance: Where it comes from (run id, dataset, versions).
        created: When it was made, UTC.
        licence: Licence of the weights, where one is stated.
        attribution: Whom to name, where the licence asks for it.
        weights_sha256: Digest of ``weights.safetensors`` as it is stored; None in older cards.
        encoder: Where the weights of its pretrained encoder come from; None of a network without.
        training_domain: What the tissue of the training slides looks like; None where it is not known.
        accepted: Whether it may take the place of the models before it, where none is named.
        acceptance: How it compares with the model that its training started from; None where it started from none.
        calibrated: How its logits become probabilities; None where nobody calibrated it.
    """

    format_version: Literal[1] = 1
    name: str
    network: NetworkOptions
    class_map: ClassMap
    patch_spec: PatchSpec
    input: InputConvention = InputConvention()
    validation: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    created: str
    licence: str | None = None
    attribution: str | None = None
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    encoder: EncoderOrigin | None = None
    training_domain: TrainingDomain | None = None
    accepted: bool = True
    acceptance: Acceptance | None = None
    calibrated: Calibrated | None = None

    @property
    def temperature(self) -> float | None:
        """What its logits are divided by before they become probabilities; None divides by nothing."""
        return None if self.calibrated is None else self.calibrated.temperature

    @property
    def encoder_credit(self) -> str | None:
        """Name, licence and author of its pretrained encoder, in a line; None of a network without."""
        if self.encoder is None:
            return None
        parts = (self.encoder.licence or "licence not stated", self.encoder.attribution or "")
        said = "; ".join(shorten(part, SHOWN) for part in parts if part)
        return f"{shorten(self.network.encoder or DEFAULT_ENCODER)}: {said}"

    def build(self) -> Stemmed:
        """A network of this kind with fresh weights.

        Raises:
            ModelError: The architecture or its encoder is unknown.
        """
        return build_network(
            self.network.architecture,
            classes=self.network.reserved_outputs + len(self.class_map),
            width=self.network.width,
            magnifications=len(self.patch_spec.mpps),
            size_px=self.patch_spec.size_px,
            norm=self.network.norm,
            stem=self.network.stem,
            padding=self.network.padding,
            encoder=self.network.encoder,
            views=self.network.views,
        )


def save_model(folder: Path, card: ModelCard, network: nn.Module, *, half: bool = False) -> ModelCard:
    """Writes weights and card into an existing folder; both are complete before either replaces what is there.

    A kill between the two leaves weights that are not the card's, which `load_model` refuses and `is_whole` tells.

    Args:
        folder: The folder.
        card: The card; the digest of the weights is added to it.
        network: The network.
        half: Whether weights are stored in 16 bits; whoever loads them computes in 32 all the same.

    Returns:
        The card as written.

    Raises:
        ModelError: The card is larger than one may be, or an encoder whose weights may not be copied was changed.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    encoder = encoder_in(network)
    if encoder is not None:
        place, origin = encoder
        card = card.model_copy(update={"encoder": origin})
        if not origin.copied:
            _check_unchanged(network.get_submodule(place), card)
            state = {key: value for key, value in state.items() if not key.startswith(f"{place}.")}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    content = save(state)
    written = card.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    with new_file(folder / CARD) as new_card, new_file(folder / WEIGHTS) as new_weights:  # the last replaces first
        new_weights.write_bytes(content)
        _write_card(new_card, written)
    return written


def _check_unchanged(encoder: nn.Module, card: ModelCard) -> None:
    if not is_unchanged(encoder):
        raise ModelError(
            f"encoder {card.encoder_credit} may not be copied into a model, so it cannot be trained on; train the head "
            "alone, or name its licence with --encoder-licence if it is a free one"
        )


def add_training_domain(folder: Path, domain: TrainingDomain) -> None:
    """Adds what the training slides look like to the card of a model, whose weights stay as they are.

    Args:
        folder: The model.
        domain: What is added.

    Raises:
        ModelError: The card is missing or damaged, or would be larger than one may be.
    """
    _change_card(folder, load_card(folder), training_domain=domain)


def set_acceptance(folder: Path, acceptance: Acceptance | None, *, accepted: bool) -> None:
    """Says in the card of a model, whose weights stay as they are, whether it is accepted, and why not.

    Args:
        folder: The model.
        acceptance: How it compares with the model that its training started from.
        accepted: Whether it may take the place of the models before it.

    Raises:
        ModelError: The card is missing or damaged, or would be larger than one may be.
    """
    _change_card(folder, load_card(folder), acceptance=acceptance, accepted=accepted)


def set_calibrated(folder: Path, weights_sha256: str | None, calibrated: Calibrated | None) -> None:
    """Says in the card of a model, whose weights stay as they are, how its logits become probabilities.

    Args:
        folder: The model.
        weights_sha256: Digest of the weights that it was found for, as their card has it.
        calibrated: How; None for no other way than softmax.

    Raises:
        ModelError: The card is missing or damaged, or the weights are others meanwhile.
    """
    card = load_card(folder)
    if card.weights_sha256 != weights_sha256:
        raise ModelError(f'model "{folder}" has other weights than a moment ago; repeat the command')
    _change_card(folder, card, calibrated=calibrated)


def _change_card(folder: Path, card: ModelCard, **changes: Any) -> None:
    with new_file(folder / CARD) as new_card:
        _write_card(new_card, card.model_copy(update=changes))


def _write_card(path: Path, card: ModelCard) -> None:
    write_json(path, card.model_dump(mode="json"))
    if path.stat().st_size > MAX_CARD_BYTES:
        raise ModelError(
            f'the card of model "{card.name}" would be larger than {MAX_CARD_BYTES // 2**20} MiB; make it of fewer '
            "slides or classes, or give them shorter names"
        )


def load_card(folder: Path) -> ModelCard:
    """Reads a model's card.

    Raises:
        ModelError: It is missing, damaged, of another version, or names an unknown architecture.
    """
    path = folder / CARD
    if not path.is_file():
        raise ModelError(
            f'"{folder}" is not a model (it has no {CARD}); name the folder of one, or train one with dmmn-qp train'
        )
    with path.open("rb") as file:
        content = file.read(MAX_CARD_BYTES + 1)
    if len(content) > MAX_CARD_BYTES:
        raise ModelError(f'model card "{path}" is larger than {MAX_CARD_BYTES // 2**20} MiB; {AGAIN}')
    try:
        card = ModelCard.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(
            f'model card "{path}" is damaged or of another version ({shorten(explain(error), SHOWN)}); {AGAIN}'
        ) from error
    if card.network.architecture not in ARCHITECTURES:
        raise ModelError(
            f'model "{folder}" has architecture "{shorten(card.network.architecture, SHOWN)}", which is none of '
            f"{', '.join(ARCHITECTURES)}; update dmmn-qp"
        )
    if not is_known(card.network.encoder):
        raise ModelError(
            f'model "{folder}" is built on encoder "{shorten(card.network.encoder or "", SHOWN)}", which is none of '
            f"{', '.join(ENCODERS)}; update dmmn-qp"
        )
    return card


def load_model(folder: Path) -> tuple[ModelCard, Stemmed]:
    """Reads a model: its card, and its network in evaluation mode on the CPU.

    Memory is taken for the network only once the header of its weights fits the card.

    Raises:
        ModelError: The folder is missing or damaged, card and weights do not belong together, or weights are no finite
            numbers.
    """
    card = load_card(folder)
    try:
        return card, _read_network(folder / WEIGHTS, card)
    except ModelError:
        newer = load_card(folder)
        if newer == card:
            raise
        return newer, _read_network(folder / WEIGHTS, newer)  # a training replaced both while they were read


@contextmanager
def new_model_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Makes a model folder that appears under its name only when it is complete, as `new_folder` does.

    Yields:
        A temporary folder to write into.

    Raises:
        OutputExistsError: The folder exists and may not be replaced.
        InUseError: A training is running in it.
        ModelError: The disk is full.
    """
    check_free(out, overwrite=overwrite, marker=CARD)
    with ExitStack() as stack:
        if out.exists():
            stack.enter_context(locked(out, "what makes a model", "wait for its end, or choose another with --out"))
        stack.enter_context(room_for(out))
        yield stack.enter_context(new_folder(out, overwrite=overwrite, marker=CARD))


@contextmanager
def room_for(out: Path) -> Iterator[None]:
    """Names the file or folder that a full disk has no room for.

    Raises:
        ModelError: The disk is full; other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise ModelError(
            f'no space is left on the disk to write "{out}"; free some, or write to another disk with --out'
        ) from error


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a card and the very weights that it was written with; an older card is believed."""
    try:
        check_digest(folder / WEIGHTS, load_card(folder).weights_sha256)
    except (ModelError, OSError):
        return False
    return True


def _read_network(path: Path, card: ModelCard) -> Stemmed:
    """The network of a card with the weights of a file, in 32 bits."""
    with torch.device("meta"):
        network = card.build()
    encoder = _encoder_of(network, card, path)
    left_out: set[str] = set()
    if encoder is not None and not encoder[2].copied:
        left_out = {f"{encoder[0]}.{key}" for key in encoder[1].state_dict()}
    try:
        check_header_length(path)
        with safe_open(path, framework="pt") as file:
            expected = {name: tensor for name, tensor in network.state_dict().items() if name not in left_out}
            check_header(file, expected, path)
            check_digest(
                path, card.weights_sha256
            )  # once it is open: what a training writes meanwhile is newer than both
            take_memory(network, path)
            for name, tensor in network.state_dict().items():
                if name not in left_out:
                    tensor.copy_(file.get_tensor(name))
                    check_values(name, tensor, path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f'weights "{path}" are missing, damaged or of another network ({shorten(str(error), SHOWN)}); {AGAIN}'
        ) from error
    if encoder is not None:
        _give_encoder(network.get_submodule(encoder[0]), encoder[2], card, path)
    return network.eval()


def _encoder_of(network: Stemmed, card: ModelCard, path: Path) -> tuple[str, nn.Module, EncoderOrigin] | None:
    """Name, module and origin of the encoder whose origin the card says; None where it says none."""
    if card.encoder is None:
        return None
    encoders = list(network.network.encoders) if isinstance(network.network, NamesParts) else []
    if not ARCHITECTURES[card.network.architecture].pretrained or len(encoders) != 1:
        raise ModelError(f'the card of model "{path.parent}" names an encoder that its network has not; {AGAIN}')
    name = next(name for name, module in network.named_modules() if module is encoders[0])
    return name, encoders[0], card.encoder


def _give_encoder(encoder: nn.Module, origin: EncoderOrigin, card: ModelCard, path: Path) -> None:
    """Lets the encoder of a model know its origin, and gives it the weights that are no part of the model."""
    if not origin.copied:
        weights = find_weights(origin, path.parent)
        loaded = load_encoder(card.network.encoder or DEFAULT_ENCODER, weights, origin.licence)
        encoder.load_state_dict(loaded.state_dict())
    attach_origin(encoder, origin)


def newest_model(models: Path) -> Path:
    """The accepted model that was made last, by its card; never the one that comes with the project.

    Args:
        models: Folder of model folders.

    Raises:
        ModelError: There is none.
    """
    folders = {path.parent for path in models.glob(f"*/{CARD}") if not path.parent.name.startswith(".")}
    shipped = f" (such as {models / DEMO_MODEL}, made from drawings)" if models / DEMO_MODEL in folders else ""
    cards = {folder: load_card(folder) for folder in folders - {models / DEMO_MODEL}}
    if not cards:
        raise ModelError(f'no model in "{models}"; train one with dmmn-qp train, or name one with --model{shipped}')
    accepted = [folder for folder, card in cards.items() if card.accepted]
    if not accepted:
        raise ModelError(f'no model in "{models}" is accepted, as their cards say; name one with --model')
    return max(accepted, key=lambda folder: (cards[folder].created, folder.name))


def next_model_name(models: Path, architecture: str) -> str:
    """``<architecture>-<n>`` with the first free n."""
    n = 1
    while (models / f"{architecture}-{n}").exists():
        n += 1
    return f"{architecture}-{n}"
