"""Training in a loop of one's own: a dataset's patches as tensors go in, a model folder comes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from dmmn_qp.choices import Split, WeightRule
from dmmn_qp.errors import DatasetError, ModelError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.dataset import Dataset, slides_by_split
from dmmn_qp.folders.model import ModelCard, NetworkOptions, new_model_folder, save_model
from dmmn_qp.folders.provenance import describe_run, now, training_provenance
from dmmn_qp.labels.draws import Draw, class_weights
from dmmn_qp.labels.patches import class_pixels
from dmmn_qp.networks.conventions import network_input
from dmmn_qp.networks.encoders import convention_of
from dmmn_qp.networks.stem import Stemmed
from dmmn_qp.training.augment import AugmentRules
from dmmn_qp.training.examples import PatchExamples
from dmmn_qp.training.options import TrainOptions

_SEEDS = 2**62


class Patches(TorchDataset[tuple[list[Tensor], Tensor]]):
    """Patches of one split as a map-style `torch.utils.data.Dataset`, for a loop of one's own.

    Item ``i`` is ``(images, target)``: ``images`` are M tensors (3, S, S) float32, finest magnification first, as a
    network that `build_network` built takes them: 0 .. 1, RGB, or what the pretrained encoder of ``network`` was
    trained on; ``target`` is (S, S) int64 on the finest, 0 where
    nobody labelled and else the label of a class. A `DataLoader` stacks them to (B, 3, S, S) and (B, S, S).

    With ``augment`` each access draws another change, from torch's random numbers: `torch.manual_seed` repeats them,
    and the worker processes of a `DataLoader` have their own.

    Slides are opened on first use, by each worker process for itself.

    Args:
        dataset: A dataset, or its folder.
        split: Which patches: ``train``, ``val`` or ``test``.
        augment: Whether patches are moved, turned, zoomed and recoloured as `train` does by default.
        jitter_px: With ``augment``: how far a target may be moved, in px of the finest magnification; as far as `train`
            does unless given.
        network: Of a network on a pretrained encoder: that network, or the name of its encoder.

    Raises:
        DatasetError: The dataset is missing or damaged, or has no such patch.
    """

    def __init__(
        self,
        dataset: Dataset | str | Path,
        split: Split = "train",
        *,
        augment: bool = False,
        jitter_px: int | None = None,
        network: Stemmed | str | None = None,
    ) -> None:
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
        self.refs = [patch for patch in self.dataset.patches() if patch.split == split]
        if not self.refs:
            raise DatasetError(f'dataset "{self.dataset.folder}" has no patch for {split}; choose train, val or test')
        usual = TrainOptions()
        self._augment = augment
        self._rules = AugmentRules(usual.color, usual.zoom) if augment else None
        self._jitter_px = (usual.jitter_px if jitter_px is None else jitter_px) if augment else 0
        self._convention = convention_of(network if isinstance(network, str) else encoder_of(network))
        self._opened: tuple[int, PatchExamples] | None = None

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"patch {index} of {len(self)}")
        seed = int(torch.randint(_SEEDS, ())) if self._augment else 0
        images, targets, *_ = self._examples()[Draw(index % len(self), seed)]
        return [network_input(image[None], self._convention)[0].contiguous() for image in images], targets[0].long()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _examples(self) -> PatchExamples:
        """The patches with open slides of this process: a forked one must not read through its parent's files."""
        here = os.getpid()
        if self._opened is None or self._opened[0] != here:
            examples = PatchExamples(self.dataset, self.refs, augment=self._rules, jitter_px=self._jitter_px)
            self._opened = here, examples
        return self._opened[1]

    def class_weights(self, rule: WeightRule = "paper") -> Tensor:
        """Weights of the classes in the loss, by the labelled pixels of these patches: (C,) float32.

        Args:
            rule: ``paper`` is Eq. 2; ``inverse-sqrt`` favours rare classes more.

        Raises:
            DatasetError: A class has no pixel in them.
        """
        class_map = self.dataset.class_map
        pixels = class_pixels(self.refs, class_map)
        missing = [name for name, n in zip(class_map.names, pixels, strict=True) if n == 0]
        if missing:
            raise DatasetError(
                f'class "{missing[0]}" has no pixel in the patches for {self.refs[0].split}; take the weights of those '
                "for train, or leave the class out: dmmn-qp import --drop"
            )
        return torch.from_numpy(class_weights(pixels, rule))


def encoder_of(network: Stemmed | None) -> str | None:
    """Name of the pretrained encoder that a network is built on; None of one without."""
    built = getattr(network, "construction", None)
    return None if built is None else built.encoder


def save_own_model(
    folder: Path,
    network: Stemmed,
    dataset: Dataset,
    *,
    validation: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Writes a network of `build_network` that was trained on `Patches` as a model folder.

    Args:
        folder: The model folder.
        network: The network, wherever it lies.
        dataset: What it was trained on; classes and patch geometry are taken from it.
        validation: Figures to keep in the card.
        overwrite: Whether an existing model may be replaced.

    Returns:
        The card as written.

    Raises:
        ModelError: The network is not one of this dataset's classes and patches, or holds numbers that are not finite.
        OutputExistsError: The folder exists and may not be replaced.
    """
    configuration = {"dataset": str(dataset.folder), "loop": "one's own"}
    run = describe_run("train", configuration, now(), slides=slides_by_split(dataset.slides()))
    card = _card(folder.name, network, dataset, run, dict(validation or {}))
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in card.build().state_dict().items()}
    found = network.state_dict()
    if {name: tensor.shape for name, tensor in found.items()} != expected:
        raise ModelError(
            f"the network has not the layers of {card.network.architecture} for {len(dataset.class_map)} classes, as "
            f'dataset "{dataset.folder}" has them; build it with build_network for that dataset and save it unchanged'
        )
    broken = [name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f'the network has numbers in "{broken[0]}" that are not finite; train with a lower rate')
    with new_model_folder(folder, overwrite=overwrite) as temporary:
        written = save_model(temporary, card, network)
        write_json(temporary / RUN_FILE, run)
    return written


def _card(
    name: str, network: Stemmed, dataset: Dataset, run: Mapping[str, Any], validation: dict[str, Any]
) -> ModelCard:
    built = getattr(network, "construction", None)
    if built is None:
        raise ModelError("what is to be saved is no network of build_network; make it with build_network(dataset)")
    return ModelCard(
        name=name,
        network=NetworkOptions(**built._asdict()),
        class_map=dataset.class_map,
        patch_spec=dataset.patch_spec,
        input=convention_of(built.encoder),
        validation=validation,
        provenance=training_provenance(run, [record.fingerprint for record in dataset.slides("train")]),
        created=now(),
    )
