"""A person's word on a model that is worse than the one that its training started from."""

from __future__ import annotations

from pathlib import Path

from dmmn_qp.errors import ModelError
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.model import ModelCard, load_card, set_acceptance


def accept_model(folder: Path) -> ModelCard:
    """Lets a model take the place of those before it, whatever is worse; its card says that a person did.

    Args:
        folder: The model.

    Returns:
        Its card as it was.

    Raises:
        ModelError: The card is missing or damaged, or the model is accepted already.
        InUseError: A training is running in it, which would write another card.
    """
    load_card(folder)  # no lock beside what is no model
    with locked(folder.absolute(), "what accepts a model", "wait for its end", where=folder):
        card = load_card(folder)
        if card.accepted:
            raise ModelError(f'model "{folder}" is accepted already; dmmn-qp predict takes the newest accepted one')
        acceptance = None if card.acceptance is None else card.acceptance.model_copy(update={"by_hand": True})
        set_acceptance(folder, acceptance, accepted=True)
    return card
