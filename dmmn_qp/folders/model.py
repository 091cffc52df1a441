"""The model folder: ``model.json`` (the card) and ``weights.safetensors``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dmmn_qp.choices import Norm, Padding, Stem, Views
from dmmn_qp.errors import ModelError
from dmmn_qp.files import RUN_FILE, check_free, new_file, new_folder, write_json
from dmmn_qp.files.failures import FULL_DISK
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.provenance import describe_run, nameless_provenance, now
from dmmn_qp.networks import ARCHITECTURES, build_network
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.stem import Stemmed
from dmmn_qp.specs import ClassMap, FileModel, PatchSpec, explain
from dmmn_qp.text import shorten

CARD = "model.json"

WEIGHTS = "weights.safetensors"

MAX_WIDTH = 512
"""Largest base width f that a model may have."""

MAX_RESERVED_OUTPUTS = 8
"""Most outputs that stand for no class; the authors' networks have one."""

MAX_CARD_BYTES = 4 * 2**20
"""Largest card: some 50,000 names of slides. The worst content of that length takes 250 MiB when it is read."""

MAX_HEADER_BYTES = 2**20
"""Longest header of a file of weights: six times that of the network with the most tensors."""

DEMO_MODEL = "demo"
"""Folder of the model that comes with the project; it is never taken unless it is named."""


class NetworkOptions(FileModel):
    """What a network is built from.

    Attributes:
        architecture: Key of `ARCHITECTURES`.
        width: Base width f.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        padding: What its convolutions see beyond the border of a map.
        encoder: The pretrained encoder that it is built on, a key of `ENCODERS`; None of a network without.
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
        ModelError: The card is larger than one may be.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    content = save(state)
    written = card.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    with new_file(folder / CARD) as new_card, new_file(folder / WEIGHTS) as new_weights:  # the last replaces first
        new_weights.write_bytes(content)
        write_json(new_card, written.model_dump(mode="json"))
        if new_card.stat().st_size > MAX_CARD_BYTES:
            raise ModelError(
                f'the card of model "{card.name}" would be larger than {MAX_CARD_BYTES // 2**20} MiB; make it of fewer '
                "slides or classes, or give them shorter names"
            )
    return written


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
        raise ModelError(f'model card "{path}" is larger than {MAX_CARD_BYTES // 2**20} MiB; {_AGAIN}')
    try:
        card = ModelCard.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(
            f'model card "{path}" is damaged or of another version ({shorten(explain(error), _SHOWN)}); {_AGAIN}'
        ) from error
    if card.network.architecture not in ARCHITECTURES:
        raise ModelError(
            f'model "{folder}" has architecture "{shorten(card.network.architecture, _SHOWN)}", which is none of '
            f"{', '.join(ARCHITECTURES)}; update dmmn-qp"
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
        _check_digest(folder / WEIGHTS, load_card(folder))
    except (ModelError, OSError):
        return False
    return True


def _read_network(path: Path, card: ModelCard) -> Stemmed:
    """The network of a card with the weights of a file, in 32 bits."""
    with torch.device("meta"):
        network = card.build()
    try:
        _check_header_length(path)
        with safe_open(path, framework="pt") as file:
            _check_header(file, network.state_dict(), path)
            _check_digest(path, card)  # once it is open: what a training writes meanwhile is newer than both
            _take_memory(network, path)
            for name, tensor in network.state_dict().items():
                tensor.copy_(file.get_tensor(name))
                _check_values(name, tensor, path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f'weights "{path}" are missing, damaged or of another network ({shorten(str(error), _SHOWN)}); {_AGAIN}'
        ) from error
    return network.eval()


_STORED = {torch.float32: ("F32", "F16", "BF16"), torch.int64: ("I64",)}
"""Type of a tensor of a network -> types in which a file may hold it, all without loss."""


def _take_memory(network: nn.Module, path: Path) -> None:
    """Moves a network from the meta device to the CPU, its values still to come."""
    try:
        network.to_empty(device="cpu")
    except (RuntimeError, MemoryError) as error:
        gib = sum(tensor.nbytes for tensor in network.state_dict().values()) / 2**30
        raise ModelError(
            f'the network of model "{path.parent}" takes {gib:.1f} GiB, more than this machine has free; use a larger '
            "machine or a model of smaller width"
        ) from error


def _check_header_length(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError("no such file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorError(f"a header of {length} bytes is longer than any network's")


def _check_header(file: Any, expected: Mapping[str, Tensor], path: Path) -> None:
    """Compares names, shapes and types in a file of weights with those of the network (on the meta device)."""
    names = set(file.keys())
    for wrong, fault in (
        (expected.keys() - names, "lack {} tensors of the card's network"),
        (names - expected.keys(), "hold {} tensors that the card's network has not"),
    ):
        if wrong:
            raise ModelError(
                f'weights "{path}" {fault.format(len(wrong))}, the first "{shorten(min(wrong), _SHOWN)}"; {_AGAIN}'
            )
    for name, tensor in expected.items():
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != tuple(tensor.shape):
            raise ModelError(
                f'weights "{path}" have "{name}" of shape {shorten(_shape(stored.get_shape()), _SHOWN)}, but the '
                f"network of the card needs {_shape(tensor.shape)}; {_AGAIN}"
            )
        if stored.get_dtype() not in _STORED[tensor.dtype]:
            raise ModelError(
                f'weights "{path}" have "{name}" as {stored.get_dtype()}, but it must be one of '
                f"{', '.join(_STORED[tensor.dtype])}; {_AGAIN}"
            )


def _check_digest(path: Path, card: ModelCard) -> None:
    """Refuses weights that are not those of the card; an older card does not tell.

    Raises:
        ModelError: They are others.
        OSError: There are none.
    """
    with path.open("rb") as file:
        if card.weights_sha256 is None:
            return
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card.weights_sha256:
        raise ModelError(
            f'weights "{path}" are not those of its card (SHA-256 {found[:12]}, not {card.weights_sha256[:12]}); '
            f"{_AGAIN}, or if a training was interrupted there, go on with dmmn-qp train --resume --out "
            f'"{path.parent}"'
        )


def _check_values(name: str, tensor: Tensor, path: Path) -> None:
    """Refuses what no training leaves behind; least and greatest are found without further memory."""
    if not tensor.is_floating_point():
        return
    least, greatest = (float(value) for value in tensor.aminmax())
    if not (math.isfinite(least) and math.isfinite(greatest)):
        raise ModelError(f'weights "{path}" have numbers in "{name}" that are not finite; {_AGAIN}')
    if name.endswith(".running_var") and least < 0:
        raise ModelError(f'weights "{path}" have a negative variance in "{name}"; {_AGAIN}')


def _shape(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides)) or "()"


_AGAIN = "take the whole folder again from its source"
_SHOWN = 160  # characters of what a file says


def shrink_model(folder: Path, out: Path, *, overwrite: bool = False, keep_provenance: bool = False) -> None:
    """Copies a model with its weights in half precision: half the size, to be passed on.

    The copy names no slide, path, person or machine.

    Args:
        folder: The model.
        out: The folder of the copy.
        overwrite: Whether an existing model may be replaced.
        keep_provenance: Whether the copy tells all that the model tells of its training, its ``run.json`` included.

    Raises:
        ModelError: The model is missing or damaged, or has weights beyond what 16 bits can hold.
        OutputExistsError: ``out`` exists.
    """
    started = now()
    card, network = load_model(folder)
    largest = max(float(v.abs().max()) for v in network.state_dict().values() if v.is_floating_point())
    if largest > torch.finfo(torch.half).max:
        raise ModelError(f'model "{folder}" has weights up to {largest:g}, beyond half precision; copy it as it is')
    told = card.provenance if keep_provenance else nameless_provenance(card.provenance)
    run = describe_run("shrink", {"model": str(folder) if keep_provenance else card.name}, started)
    if keep_provenance:
        run["made_from"] = _run_of(folder)
    else:
        run = {key: value for key, value in run.items() if key not in ("command", "platform")}
    with new_model_folder(out, overwrite=overwrite) as temporary:
        save_model(temporary, card.model_copy(update={"name": out.name, "provenance": told}), network, half=True)
        write_json(temporary / RUN_FILE, run)


def _run_of(folder: Path) -> Any:
    """What ``run.json`` of a model says; None where it is missing or damaged."""
    try:
        return json.loads((folder / RUN_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def newest_model(models: Path) -> Path:
    """The model of a folder of models that was made last, by its card; never the one that comes with the project.

    Raises:
        ModelError: There is none.
    """
    folders = {path.parent for path in models.glob(f"*/{CARD}") if not path.parent.name.startswith(".")}
    if not folders - {models / DEMO_MODEL}:
        shipped = f" (such as {models / DEMO_MODEL}, made from drawings)" if folders else ""
        raise ModelError(f'no model in "{models}"; train one with dmmn-qp train, or name one with --model{shipped}')
    folders.discard(models / DEMO_MODEL)
    return max(folders, key=lambda folder: (load_card(folder).created, folder.name))


def next_model_name(models: Path, architecture: str) -> str:
    """``<architecture>-<n>`` with the first free n."""
    n = 1
    while (models / f"{architecture}-{n}").exists():
        n += 1
    return f"{architecture}-{n}"
