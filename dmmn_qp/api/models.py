"""Models in memory and in folders."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dmmn_qp.api.arguments import AnyPath, dataset_folder
from dmmn_qp.choices import Norm, Padding, Stem, Views
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.paths import user_path
from dmmn_qp.specs import ClassMap, PatchSpec

if TYPE_CHECKING:
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.folders.model import ModelCard
    from dmmn_qp.networks.stem import Stemmed


class Model(NamedTuple):
    """A model in memory.

    Attributes:
        card: Its classes, patch geometry, input convention and origin.
        network: A torch module: M images (B, 3, S, S), finest first -> logits (B, C, S, S); see `build_network`.
    """

    card: ModelCard
    network: Stemmed

    @property
    def class_map(self) -> ClassMap:
        """The classes."""
        return self.card.class_map

    @property
    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        return self.card.patch_spec


class HasContract(Protocol):
    """What fixes classes and patch geometry: a `Dataset`, a `Model` or a model's card."""

    @property
    def class_map(self) -> ClassMap:
        """The classes."""
        ...

    @property
    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        ...


def load_model(folder: AnyPath) -> Model:
    """Reads a model: its card, and its network in evaluation mode on the CPU.

    Raises:
        ModelError: The folder is missing or damaged.
    """
    from dmmn_qp.folders.model import load_model

    return Model(*load_model(user_path(folder)))


def save_model(
    folder: AnyPath,
    network: Stemmed,
    dataset: Dataset | AnyPath,
    *,
    validation: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Model:
    """Writes a network that was trained in a loop of one's own as a model folder that all commands take.

    Args:
        folder: The model folder to write.
        network: What `build_network` built for this dataset.
        dataset: What it was trained on, or its folder.
        validation: Figures to keep in the card.
        overwrite: Whether an existing model may be replaced.

    Returns:
        The model in memory, with that very network.

    Raises:
        ModelError: The network is not one of this dataset's classes and patches, or holds numbers that are not finite.
        OutputExistsError: The folder exists and may not be replaced.
    """
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.training.own_loop import save_own_model

    trained_on = Dataset(dataset_folder(dataset))
    return Model(
        save_own_model(user_path(folder), network, trained_on, validation=validation, overwrite=overwrite), network
    )


def build_network(
    contract: HasContract | AnyPath,
    architecture: str = "dmmn-m3",
    *,
    width: int | None = None,
    norm: Norm = "none",
    stem: Stem = "full",
    encoder: str | None = None,
    encoder_weights: AnyPath | None = None,
    encoder_licence: str | None = None,
    views: Views = 1,
    padding: Padding = "zeros",
) -> Stemmed:
    """Builds a network with random weights for the classes and patches of a dataset or of a model.

    It takes M images (B, 3, S, S) float32 in a list, finest magnification first, RGB 0 .. 1, as `Patches` gives them,
    and answers with logits (B, C, S, S); output ``i`` is the class of label ``i + 1``. The defaults are the paper's.

    Of ``dmmn-p`` only the decoder has random weights: its encoder has those that it was published with. It takes
    images as that was trained on them: ``Patches(..., network=network)`` gives these.

    Args:
        contract: What has the classes and the patch geometry: a dataset or a model, or its folder.
        architecture: Which network.
        width: Base width f; the paper's unless given, which a CPU takes long for.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        encoder: Of ``dmmn-p``: its encoder, EfficientNet-lite0 unless given; also one of timm, as ``timm:NAME``.
        encoder_weights: Of that encoder: a file of weights, torch's or safetensors.
        encoder_licence: Licence of that file, such as ``MIT``; only under a free one is it copied into models.
        views: Of ``dmmn-p``: over how many turned copies of an image the encoder's maps are averaged.
        padding: What convolutions see beyond the border of a map; with ``replicate`` no seams show.

    Raises:
        ModelError: The architecture is unknown or does not fit the patches, or the weights not the encoder.
        ConfigError: The encoder is one of timm, which is not installed.
    """
    from dmmn_qp.networks import ARCHITECTURES, build_network

    contract = contract_of(contract)
    spec = contract.patch_spec
    if width is None:
        width = ARCHITECTURES[architecture].paper_width if architecture in ARCHITECTURES else 1
    network = build_network(
        architecture,
        classes=len(contract.class_map),
        width=width,
        magnifications=len(spec.mpps),
        size_px=spec.size_px,
        norm=norm,
        stem=stem,
        encoder=encoder,
        views=views,
        padding=padding,
    )
    if ARCHITECTURES[architecture].pretrained:
        from dmmn_qp.folders.encoder_weights import give_weights

        give_weights(network, None if encoder_weights is None else user_path(encoder_weights), encoder_licence)
    return network


def contract_of(given: HasContract | AnyPath) -> HasContract:
    """Returns the dataset or the model's card of a folder; what has classes stays as it is.

    Raises:
        ConfigError: It is neither.
    """
    if not isinstance(given, str | PathLike):
        if not hasattr(given, "class_map"):
            raise ConfigError(
                f"classes cannot be taken from a {type(given).__name__}; pass a dataset, a model, the folder of one, "
                "or its class_map"
            )
        return given
    from dmmn_qp.folders.dataset import MANIFEST, Dataset
    from dmmn_qp.folders.model import load_card

    folder = user_path(given)
    return Dataset(folder) if (folder / MANIFEST).is_file() else load_card(folder)


def folder_of_model(model: object) -> Path:
    """Returns the folder of a model.

    Raises:
        ConfigError: It is a model in memory.
    """
    if isinstance(model, str | PathLike):
        return user_path(model)
    raise ConfigError(
        "the prediction of a slide records the model that it is by, so it needs a model's folder; write the model with "
        "save_model, or take predict_array"
    )
