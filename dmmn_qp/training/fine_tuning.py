"""Starting from a model that is trained already: its weights, matched class by class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from dmmn_qp.choices import Freeze
from dmmn_qp.errors import ModelError, TrainingError
from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.folders.encoder_origin import attach_origin, encoder_in
from dmmn_qp.folders.model import NetworkOptions, load_card, load_model
from dmmn_qp.folders.provenance import trained_slides
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.stem import NamesParts, Stemmed
from dmmn_qp.specs import ClassMap, PatchSpec


class Start(NamedTuple):
    """The model that a training starts from.

    Attributes:
        model: Its name.
        run_id: The run that made it; None where its card does not say.
        weights_sha256: Digest of its weights; None where its card does not say.
        matched: Classes that it knows, by name.
        new: Classes that it does not know, whose outputs start at random.
        known: Fingerprints of the slides that it was trained on, and the models before it; of an older card, names.
    """

    model: str
    run_id: str | None
    weights_sha256: str | None
    matched: tuple[str, ...]
    new: tuple[str, ...]
    known: tuple[str, ...] = ()

    def for_card(self) -> dict[str, Any]:
        """What the card of a model says of it."""
        return {key: value for key, value in self._asdict().items() if key != "known"}

    def knows(self, record: SlideRecord) -> bool:
        """Whether it was trained on a slide."""
        return record.fingerprint in self.known or record.slide_id in self.known


class Inherited(NamedTuple):
    """What a model takes over from the one that it starts from.

    Attributes:
        network: What the network is built from; all its outputs are classes.
        convention: How pixels become its input.
        licence: Licence of the weights: what is trained from them is under it too.
        attribution: Whom to name.
        start: The model itself.
    """

    network: NetworkOptions
    convention: InputConvention
    licence: str | None = None
    attribution: str | None = None
    start: Start | None = None


def inherited_from(model: Path, patch_spec: PatchSpec, class_map: ClassMap) -> Inherited:
    """Says what training from a model takes over from it, its weights apart.

    Args:
        model: The model's folder.
        patch_spec: The patches to train on.
        class_map: The classes to learn.

    Raises:
        ModelError: The model is missing or damaged, or was trained on patches of another geometry.
    """
    card = load_card(model)
    if (card.patch_spec.mpps, card.patch_spec.size_px) != (patch_spec.mpps, patch_spec.size_px):
        raise ModelError(
            f'model "{model}" sees {card.patch_spec.size_px} px at {_mpps(card.patch_spec)} um/px, the dataset has '
            f"{patch_spec.size_px} px at {_mpps(patch_spec)}; import with --mpps {_mpps(card.patch_spec)}"
        )
    network = card.network.model_copy(update={"reserved_outputs": 0})
    known = set(card.class_map.names)
    run_id = card.provenance.get("run_id")
    start = Start(
        model=card.name,
        run_id=run_id if isinstance(run_id, str) else None,
        weights_sha256=card.weights_sha256,
        matched=tuple(name for name in class_map.names if name in known),
        new=tuple(name for name in class_map.names if name not in known),
        known=tuple(trained_slides(card.provenance)),
    )
    return Inherited(network, card.input, card.licence, card.attribution, start)


def as_kept(inherited: Inherited) -> dict[str, Any]:
    """What a training's state keeps of it, so that it goes on wherever the model has gone; nothing without a model."""
    if inherited.start is None:
        return {}
    return {
        **inherited._asdict(),
        "network": inherited.network.model_dump(mode="json"),
        "convention": inherited.convention.model_dump(mode="json"),
        "start": inherited.start._asdict(),
    }


def from_kept(values: Mapping[str, Any]) -> Inherited:
    """What `as_kept` keeps."""
    return Inherited(
        **{
            **values,
            "network": NetworkOptions.model_validate(values["network"]),
            "convention": InputConvention.model_validate(values["convention"]),
            "start": Start(**values["start"]),
        }
    )


def start_from(network: Stemmed, model: Path, class_map: ClassMap) -> list[str]:
    """Gives a network the weights of a model.

    Outputs are matched by the name of their class; those of new classes keep their random weights.

    Args:
        network: As `inherited_from` says, with an output for each class of ``class_map``.
        model: The model's folder.
        class_map: The classes to learn.

    Returns:
        Names of the new classes.

    Raises:
        ModelError: The model is missing or damaged.
        TrainingError: The network does not name its output.
    """
    card, trained = load_model(model)
    output, learned = _parts(network).output, _parts(trained).output.state_dict()
    known = {name: i for i, name in enumerate(card.class_map.names)}
    first = card.network.reserved_outputs
    filters = {key: values.clone() for key, values in output.state_dict().items()}
    for i, name in enumerate(class_map.names):
        if name in known:
            for key, values in filters.items():
                values[i] = learned[key][first + known[name]]
    place = next(name for name, module in network.named_modules() if module is output)
    network.load_state_dict({**trained.state_dict(), **{f"{place}.{key}": filters[key] for key in filters}})
    encoder = encoder_in(trained)
    if encoder is not None:
        attach_origin(network.get_submodule(encoder[0]), encoder[1])
    return [name for name in class_map.names if name not in known]


def freeze_encoders(network: Stemmed, freeze: Freeze) -> None:
    """Keeps the encoders as they are: no gradient, and the statistics of their normalisation are those learned.

    Args:
        network: The network; to be called again after each ``train()``.
        freeze: ``encoder``, or ``none`` to do nothing.

    Raises:
        TrainingError: The network names no encoders, or such that nothing would be frozen, or all of it.
    """
    if freeze == "none":
        return
    encoders = list(_parts(network).encoders)
    frozen = {parameter for encoder in encoders for parameter in encoder.parameters()}
    if not frozen or frozen >= set(network.network.parameters()):
        raise TrainingError(
            f"--freeze encoder would freeze {'all weights' if frozen else 'nothing'} of {_kind(network)}, as its "
            "`encoders` says; train without --freeze, or mend the network"
        )
    for part in [*network.stems, *encoders]:
        part.requires_grad_(False)
        for layer in part.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


def _parts(network: Stemmed) -> NamesParts:
    """The network behind the stem, which names its parts.

    Raises:
        TrainingError: It does not.
    """
    if not isinstance(network.network, NamesParts):
        raise TrainingError(
            f"{_kind(network)} does not say which of its parts are `encoders` and `output`; train without --from, or "
            "add the two to the network"
        )
    return network.network


def _kind(network: Stemmed) -> str:
    return type(network.network).__name__


def _mpps(spec: PatchSpec) -> str:
    return ",".join(f"{mpp:g}" for mpp in spec.mpps)
