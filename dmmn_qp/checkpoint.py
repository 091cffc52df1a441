"""The model folder: ``model.json`` (the card) and ``weights.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dmmn_qp.architectures import ARCHITECTURES, build_network
from dmmn_qp.architectures.stem import Stemmed
from dmmn_qp.choices import Channels, Norm, Reduction, Stem
from dmmn_qp.config import explain
from dmmn_qp.errors import ModelError
from dmmn_qp.outputs import RUN_FILE, new_file, new_folder, write_json
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.specs import ClassMap, FileModel, PatchSpec

CARD = "model.json"
WEIGHTS = "weights.safetensors"

MAX_WIDTH = 512
"""Largest base width f that a model may have."""

DEMO_MODEL = "demo"
"""Folder of the model that comes with the project; it is never taken unless it is named."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NetworkOptions(FileModel):
    """What a network is built from.

    Attributes:
        architecture: Key of `ARCHITECTURES`.
        width: Base width f.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        reserved_outputs: How many outputs come before those of the classes. They stand for nothing that can be
            predicted: the authors' own networks keep output 0 for "unlabelled".
    """

    architecture: str
    width: int = Field(ge=1, le=MAX_WIDTH)
    norm: Norm = "none"
    stem: Stem = "full"
    reserved_outputs: int = Field(default=0, ge=0, le=8)


class InputConvention(FileModel):
    """How pixels become the network's input: ``(value * scale - mean) / std`` for each channel.

    Outside the slide a pixel is 0 as in a black picture, before all of this. The authors' networks were given the
    same.

    Attributes:
        channels: Order of the colour channels.
        scale: Factor on uint8 values.
        mean: Subtracted after scaling, in the order of ``channels``; None subtracts nothing.
        std: Divided by after that, in the order of ``channels``; None divides by nothing.
        reduction: How a lower magnification is made from finer pixels.
    """

    channels: Channels = "RGB"
    scale: Positive = 1 / 255
    mean: tuple[Finite, Finite, Finite] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    reduction: Reduction = "area"


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

    def build(self) -> Stemmed:
        """A network of this kind with fresh weights.

        Raises:
            ModelError: The architecture is unknown.
        """
        return build_network(
            self.network.architecture,
            classes=self.network.reserved_outputs + len(self.class_map),
            width=self.network.width,
            magnifications=len(self.patch_spec.mpps),
            size_px=self.patch_spec.size_px,
            norm=self.network.norm,
            stem=self.network.stem,
        )


def save_model(folder: Path, card: ModelCard, network: nn.Module, *, half: bool = False) -> None:
    """Writes the weights and then the card into an existing folder, each complete at every moment.

    Args:
        folder: The folder.
        card: The card.
        network: The network.
        half: Whether weights are stored in 16 bits; whoever loads them computes in 32 all the same.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    with new_file(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(state))
    write_json(folder / CARD, card.model_dump(mode="json"))


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
    try:
        card = ModelCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelError(
            f'model card "{path}" is damaged or of another version ({explain(error)}); take the whole folder again '
            "from its source"
        ) from error
    if card.network.architecture not in ARCHITECTURES:
        raise ModelError(
            f'model "{folder}" has architecture "{card.network.architecture}", which is none of '
            f"{', '.join(ARCHITECTURES)}; update dmmn-qp"
        )
    return card


def load_model(folder: Path) -> tuple[ModelCard, Stemmed]:
    """Reads a model: its card, and its network in evaluation mode on the CPU.

    Raises:
        ModelError: The folder is missing or damaged, or card and weights do not belong together.
    """
    card = load_card(folder)
    path = folder / WEIGHTS
    network = card.build()
    try:
        state: dict[str, torch.Tensor] = load_file(path)
        network.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f'weights "{path}" are missing, damaged or of another network ({reason}); take the whole folder again '
            "from its source"
        ) from error
    return card, network.eval()


def shrink_model(folder: Path, out: Path, *, overwrite: bool = False) -> None:
    """Copies a model with its weights in half precision: half the size, to be passed on.

    Raises:
        ModelError: The model is missing or damaged, or has weights beyond what 16 bits can hold.
        OutputExistsError: ``out`` exists.
    """
    started = now()
    card, network = load_model(folder)
    largest = max(float(v.abs().max()) for v in network.state_dict().values() if v.is_floating_point())
    if largest > torch.finfo(torch.half).max:
        raise ModelError(f'model "{folder}" has weights up to {largest:g}, beyond half precision; copy it as it is')
    with new_folder(out, overwrite=overwrite, marker=CARD) as temporary:
        save_model(temporary, card.model_copy(update={"name": out.name}), network, half=True)
        write_json(temporary / RUN_FILE, describe_run("shrink", {"model": str(folder)}, started))


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
