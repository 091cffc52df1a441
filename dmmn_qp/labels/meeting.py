"""True and predicted values of pixels as classes of one list, so that pixel by pixel can be compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.specs import UNLABELLED, LabelArray

_VALUES: Final = 256

ClassNumbers = NDArray[np.int16]
"""(rows, columns) int16: numbers of classes from 1 on, 0 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """Which values mean the same class.

    Attributes:
        names: The classes, number 1 first.
        truth: (256,) number of each true value; 0 of what does not count.
        predicted: (256,) number of each predicted value; 0 where nothing is predicted.
        skip_unpredicted: Whether pixels without a prediction do not count; else they are wrong.
    """

    names: tuple[str, ...]
    truth: NDArray[np.int16]
    predicted: NDArray[np.int16]
    skip_unpredicted: bool = False

    @classmethod
    def of(
        cls,
        truth: Mapping[int, str],
        predicted: Mapping[int, str],
        *,
        exclude: Collection[str] = (),
        skip_unpredicted: bool = False,
    ) -> Self:
        """Joins truth and prediction by the exact names of the classes.

        Args:
            truth: Name of each true value that counts; several may share one.
            predicted: Name of each predicted value; several may share one.
            exclude: True classes whose pixels do not count.
            skip_unpredicted: Whether pixels without a prediction do not count.
        """
        numbers: dict[str, int] = {}
        for name in (*truth.values(), *predicted.values()):
            numbers.setdefault(name, len(numbers) + 1)
        true = {value: numbers[name] for value, name in truth.items() if name not in exclude}
        found = {value: numbers[name] for value, name in predicted.items()}
        return cls(tuple(numbers), _table(true), _table(found), skip_unpredicted)

    def numbers(self, truth: LabelArray, predicted: LabelArray) -> tuple[ClassNumbers, ClassNumbers]:
        """The classes of some pixels, true and predicted; the true ones are 0 where a pixel does not count."""
        true, found = self.truth[truth], self.predicted[predicted]
        if self.skip_unpredicted:
            true[found == 0] = 0
        return true, found

    def wrong_pairs(self) -> NDArray[np.bool_]:
        """(65536,) whether a pixel counts and is wrong, by 256 times its true value plus its predicted one."""
        values = np.arange(_VALUES, dtype=np.uint8)
        true, found = self.numbers(np.repeat(values, _VALUES), np.tile(values, _VALUES))
        return np.asarray((true != 0) & (true != found))


def pair_numbers(truth: LabelArray, predicted: LabelArray) -> NDArray[np.uint16]:
    """256 times the true value plus the predicted one, of each pixel."""
    numbers = truth.astype(np.uint16)
    numbers *= _VALUES
    numbers += predicted
    return numbers


def _table(numbers: Mapping[int, int]) -> NDArray[np.int16]:
    """(256,) number of each value."""
    table = np.zeros(_VALUES, np.int16)
    for value, number in numbers.items():
        table[value] = number
    table[UNLABELLED] = 0
    return table
