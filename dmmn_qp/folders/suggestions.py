"""The folder of suggestions: how it is told from one of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = "suggestions"
"""Name of a folder of suggestions, unless the user gives it another."""

TABLE: Final = "suggestions.csv"
"""The suggested regions by rank; a folder that has it is one of suggestions. QuPath's scripts look for it too."""

PAGE: Final = "suggestions.html"
"""The same, with pictures."""

PREDICTED: Final = "predicted"
"""Folder in a folder of suggestions with predictions that were made for them alone."""


def is_of_suggestions(folder: Path) -> bool:
    """Whether a folder holds suggestions."""
    return (folder / TABLE).is_file()
