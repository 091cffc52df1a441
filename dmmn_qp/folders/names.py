"""What our folders are called, unless the user gives them other names; light, so that the command line starts fast."""

from __future__ import annotations

from typing import Final

DATASET: Final = "dataset"

MODELS: Final = "models"

PREDICTIONS: Final = "predictions"

SUGGESTIONS: Final = "suggestions"

COHORT: Final = "cohort"
