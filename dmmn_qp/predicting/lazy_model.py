"""The model of a call of `predict`: its card is read at once, its weights when something is to be predicted."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Final

from dmmn_qp.errors import ModelError
from dmmn_qp.folders.model import WEIGHTS, load_card
from dmmn_qp.folders.weights_file import check_there
from dmmn_qp.predicting.areas import outside_label
from dmmn_qp.predicting.kept import Kept
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import Predictor, context_of, load_predictors
from dmmn_qp.predicting.request import card_digest

_DIGEST_CHUNK: Final = 2**20


_OF_NETWORK: Final = (
    "device", "devices", "context", "precision", "compile", "batch_size", "copies", "probabilities", "uncertainty",
)  # fmt: skip
"""The options on which a network that is ready to predict depends."""


class LazyModel:
    """A model of which the network is made when it is first needed.

    Attributes:
        card: Its card.
        context: How its targets see what is around them, with ``auto`` decided.
        weights_digest: Digest of its weights.
        outside: Label of what is not predicted.
        kept: What is kept for other calls.
        elsewhere: The device, where others predict, so that the network is not needed here; empty until it is known.
    """

    def __init__(self, folder: Path, options: PredictOptions, kept: Kept | None = None) -> None:
        """Reads the card.

        Args:
            folder: The model's folder.
            options: Resolved options.
            kept: What is kept for other calls.

        Raises:
            ModelError: The card or the weights are missing or damaged, or the model cannot see its context as asked.
            ConfigError: The model has no class for what is outside.
        """
        self.card = load_card(folder)
        self.context = context_of(self.card, options.context)
        self.weights_digest = _digest(folder / WEIGHTS)
        self.outside = outside_label(self.card.class_map, options.outside)
        self._folder = folder
        self._options = options
        self.kept = kept or Kept()
        self._predictors: list[Predictor] = []
        self.elsewhere: str | None = None

    @property
    def predictors(self) -> list[Predictor]:
        """The model on each device; it is read on first use.

        Raises:
            ModelError: The weights are damaged.
            ConfigError: The device is not there.
        """
        if not self._predictors:
            of_card = card_digest(self.card), self.card.temperature
            made_of = (self.weights_digest, *of_card, *(getattr(self._options, n) for n in _OF_NETWORK))
            self._predictors = self.kept.predictors(made_of, partial(load_predictors, self._folder, self._options))
        return self._predictors

    @property
    def predictor(self) -> Predictor:
        """The model on the first device; see `predictors`."""
        return self.predictors[0]

    def description(self) -> dict[str, Any]:
        """What ``run.json`` says of it: the context, and the device once the network is there."""
        device = str(self.predictor.device) if self._predictors else self.elsewhere
        return {"context": self.context, **({"device": device} if device else {})}


def _digest(path: Path) -> str:
    """A digest of all of a model's weights.

    Raises:
        ModelError: They are missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        check_there(path)
        with path.open("rb") as file:
            while chunk := file.read(_DIGEST_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(
            f'weights "{path}" are missing or cannot be read ({error.strerror or error}); take the whole folder again '
            "from its source"
        ) from error
    return digest.hexdigest()[:32]
