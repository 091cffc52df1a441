"""What outlines are made of: labels that are read window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dmmn_qp.regions import Region
from dmmn_qp.specs import LabelArray


class LabelSource(Protocol):
    """A label map that is read in windows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def read(self, window: Region) -> LabelArray:
        """Labels of a window: (window.height, window.width) uint8."""


@dataclass(frozen=True, slots=True)
class ArrayLabels:
    """A label map in memory as a source.

    Attributes:
        labels: (rows, columns) uint8.
    """

    labels: LabelArray

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.labels.shape[0], self.labels.shape[1]

    def read(self, window: Region) -> LabelArray:
        """Labels of a window inside the map."""
        return self.labels[window.y : window.bottom, window.x : window.right]
