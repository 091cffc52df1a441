"""The model folder: ``model.json`` (the card) and ``weights.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dmmn_qp.architectures import ARCHITECTURES, build_network
from dmmn_qp.choices import Norm, Stem
from dmmn_qp.config import explain
from dmmn_qp.errors import ModelError
from dmmn_qp.outputs import new_file, write_json
from dmmn_qp.specs import ClassMap, FileModel, PatchSpec

CARD = "model.json"
WEIGHTS = "weights.safetensors"


class NetworkOptions(FileModel):
    """What a network is built from.

    Attributes:
        architecture: Key of `ARCHITECTURES`.
        width: Base width f.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
    """

    architecture: str
    width: int = Field(ge=1, le=512)
    norm: Norm = "none"
    stem: Stem = "full"


class InputConvention(FileModel):
    """How pixels become the network's input.

    Attributes:
        channels: Order of the colour channels.
        scale: Factor on uint8 values.
        reduction: How a lower magnification is made from finer pixels.
    """

    channels: Literal["RGB"] = "RGB"
    scale: float = 1 / 255
    reduction: Literal["area"] = "area"


class ModelCard(FileModel):
    """Content of ``model.json``: all that prediction needs to know.

    Attributes:
        format_version: Version of this format.
        name: Name of the model.
        network: What the network is built from; output ``i`` is the class of label ``i + 1``.
        class_map: The classes.
        patch_spec: The patch geometry.
        input: How pixels become its input.
        validation: Metrics of the kept epoch on the validation slides.
        provenance: Where it comes from (run id, dataset, versions).
        created: When it was made, UTC.
        licence: Licence of the weights, where one is stated.
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

    def build(self) -> nn.Module:
        """A network of this kind with fresh weights.

        Raises:
            ModelError: The architecture is unknown.
        """
        return build_network(
            self.network.architecture,
            classes=len(self.class_map),
            width=self.network.width,
            magnifications=len(self.patch_spec.mpps),
            size_px=self.patch_spec.size_px,
            norm=self.network.norm,
            stem=self.network.stem,
        )


def save_model(folder: Path, card: ModelCard, network: nn.Module) -> None:
    """Writes the weights and then the card into an existing folder, each complete at every moment."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
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
            f'"{folder}" is not a model (it has no {CARD}); train one with dmmn-qp train, or name it with --model'
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


def load_model(folder: Path) -> tuple[ModelCard, nn.Module]:
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


def newest_model(models: Path) -> Path:
    """The model of a folder of models that was made last, by its card.

    Raises:
        ModelError: There is none.
    """
    folders = [path.parent for path in models.glob(f"*/{CARD}") if not path.parent.name.startswith(".")]
    if not folders:
        raise ModelError(f'no model in "{models}"; train one with dmmn-qp train, or name one with --model')
    return max(folders, key=lambda folder: (load_card(folder).created, folder.name))


def next_model_name(models: Path, architecture: str) -> str:
    """``<architecture>-<n>`` with the first free n."""
    n = 1
    while (models / f"{architecture}-{n}").exists():
        n += 1
    return f"{architecture}-{n}"
