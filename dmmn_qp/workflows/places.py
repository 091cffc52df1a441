"""Where a workspace has its folders, and how commands that use them are typed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.folders import names

DATASET: Final = Path(names.DATASET)
MODELS: Final = Path(names.MODELS)
PREDICTIONS: Final = Path(names.PREDICTIONS)


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of a workspace.

    Attributes:
        dataset: Made by `import`.
        predictions: Made by `predict`.
        models: Folder of model folders.
    """

    dataset: Path = DATASET
    predictions: Path = PREDICTIONS
    models: Path = MODELS

    @property
    def given_dataset(self) -> Path | None:
        """The dataset, where a command must be told of it."""
        return None if self.dataset == DATASET else self.dataset

    @property
    def given_predictions(self) -> Path | None:
        """The folder of predictions, likewise."""
        return None if self.predictions == PREDICTIONS else self.predictions


def command(name: str, *arguments: object, **options: object) -> str:
    """A command as it is typed.

    Args:
        name: Such as ``import``.
        arguments: What follows it; None is left out.
        options: Value of each option by its name without dashes, with ``_`` for each between words; True for a
            switch; None and False are left out, and of several values each is given.
    """
    words = ["dmmn-qp", name, *(shlex.quote(str(argument)) for argument in arguments if argument is not None)]
    for option, value in options.items():
        dashed = "--" + option.strip("_-").replace("_", "-")
        for item in value if isinstance(value, tuple) else (value,):
            if item is True:
                words.append(dashed)
            elif item is not None and item is not False:
                words += [dashed, shlex.quote(str(item))]
    return " ".join(words)
