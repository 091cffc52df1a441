"""What a model's card says of how its probabilities are made to mean what they say."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from dmmn_qp.choices import Views
from dmmn_qp.specs import FileModel

LEAST_TEMPERATURE: Final = 0.1
"""Below, every probability is 0 or 1."""

MOST_TEMPERATURE: Final = 10.0
"""Above, all classes are equally likely."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Calibrated(FileModel):
    """Temperature scaling, fitted on slides that the model was not trained on; it changes no label.

    Attributes:
        temperature: What logits are divided by before they become probabilities; above 1 they become less sure.
        error_before: Expected calibration error without it.
        error_after: The same with it.
        loss_before: Mean negative log-likelihood of the true class without it, in nats.
        loss_after: The same with it.
        pixels: Annotated pixels that it was fitted to.
        slides: Slides that they lie on.
        views: Copies over which the mean was taken when it was fitted.
        created: When it was fitted, UTC.
    """

    temperature: float = Field(ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE, allow_inf_nan=False)
    error_before: Share
    error_after: Share
    loss_before: Loss
    loss_after: Loss
    pixels: int = Field(ge=1)
    slides: int = Field(ge=1)
    views: Views = 1
    created: str
