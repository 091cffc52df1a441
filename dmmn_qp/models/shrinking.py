"""A model in half precision, to be passed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dmmn_qp.errors import ModelError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.encoder_origin import attach_origin, encoder_in, nameless_origin
from dmmn_qp.folders.model import load_model, new_model_folder, save_model
from dmmn_qp.folders.provenance import describe_run, nameless_provenance, now


def shrink_model(folder: Path, out: Path, *, overwrite: bool = False, keep_provenance: bool = False) -> None:
    """Copies a model with its weights in half precision: half the size, to be passed on.

    The copy names no slide, path, person or machine.

    Args:
        folder: The model.
        out: The folder of the copy.
        overwrite: Whether an existing model may be replaced.
        keep_provenance: Whether the copy tells all that the model tells of its training, its ``run.json`` included.

    Raises:
        ModelError: The model is missing or damaged, or has weights beyond what 16 bits can hold.
        OutputExistsError: ``out`` exists.
    """
    started = now()
    card, network = load_model(folder)
    largest = max(float(v.abs().max()) for v in network.state_dict().values() if v.is_floating_point())
    if largest > torch.finfo(torch.half).max:
        raise ModelError(f'model "{folder}" has weights up to {largest:g}, beyond half precision; copy it as it is')
    encoder = encoder_in(network)
    if encoder is not None and not keep_provenance:
        attach_origin(network.get_submodule(encoder[0]), nameless_origin(encoder[1]))
    told = card.provenance if keep_provenance else nameless_provenance(card.provenance)
    run = describe_run("shrink", {"model": str(folder) if keep_provenance else card.name}, started)
    if keep_provenance:
        run["made_from"] = _run_of(folder)
    else:
        run = {key: value for key, value in run.items() if key not in ("command", "platform")}
    with new_model_folder(out, overwrite=overwrite) as temporary:
        save_model(temporary, card.model_copy(update={"name": out.name, "provenance": told}), network, half=True)
        write_json(temporary / RUN_FILE, run)


def _run_of(folder: Path) -> Any:
    """What ``run.json`` of a model says; None where it is missing or damaged."""
    try:
        return json.loads((folder / RUN_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
