"""The authors' published checkpoints -> model folders.

A checkpoint is a pickle from elsewhere. It is read with torch's restricted unpickler, which builds tensors and plain
values and calls nothing; of other things it may name only the three that a NumPy number is made of. The archive that
newer versions of torch put around it is checked before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor, nn

from dmmn_qp.errors import ConfigError, ModelError
from dmmn_qp.files import RUN_FILE, check_free, write_json
from dmmn_qp.folders.model import CARD, MAX_WIDTH, ModelCard, NetworkOptions, new_model_folder, save_model
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.folders.torch_files import read_torch_file
from dmmn_qp.networks.blocks import LEVELS
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.specs import MAX_CLASSES, ClassMap, PatchSpec
from dmmn_qp.version import __version__

Color = tuple[int, int, int]

RED, BLUE, YELLOW = (255, 0, 0), (0, 0, 255), (255, 255, 0)
GREY, GREEN, ORANGE, BROWN = (128, 128, 128), (0, 255, 0), (255, 128, 0), (128, 0, 0)

OFFICIAL_COLORS: tuple[Color, ...] = (RED, BLUE, YELLOW, GREY, GREEN, ORANGE, BROWN)
"""Colours of classes that no preset knows, by label from 1."""


@dataclass(frozen=True, slots=True)
class OfficialPreset:
    """What is publicly known of one of the authors' models.

    Attributes:
        classes: (name, colour) of the outputs from 1 on; the colours are those in which the authors' program draws.
        paper: The paper to cite.
        repository: Where the authors say how to get the weights.
    """

    classes: tuple[tuple[str, Color], ...]
    paper: str
    repository: str


OFFICIAL_PRESETS: dict[str, OfficialPreset] = {
    "msk-breast": OfficialPreset(
        classes=(
            ("stroma", RED),
            ("necrotic", BLUE),
            ("carcinoma", YELLOW),
            ("background", GREY),
            ("adipose", GREEN),
            ("benign epithelial", ORANGE),
        ),
        paper="Ho et al. 2021, https://doi.org/10.1016/j.compmedimag.2021.101866",
        repository="https://github.com/MSKCC-Computational-Pathology/DMMN",
    ),
    # Only output 3 and "all others are background" are published; so the others are numbered and not named.
    "msk-ovary": OfficialPreset(
        classes=(
            ("non-cancer 1", GREY),
            ("non-cancer 2", GREY),
            ("cancer", RED),
            ("background", GREY),
            ("non-cancer 5", GREY),
            ("non-cancer 6", GREY),
        ),
        paper="Ho et al. 2023, https://doi.org/10.1016/j.jpi.2022.100160",
        repository="https://github.com/MSKCC-Computational-Pathology/DMMN-ovary",
    ),
    "msk-osteosarcoma": OfficialPreset(
        classes=(
            ("viable tumor", RED),
            ("necrosis with bone", BLUE),
            ("necrosis without bone", YELLOW),
            ("normal bone", GREEN),
            ("normal tissue", ORANGE),
            ("cartilage", BROWN),
            ("background", GREY),
        ),
        paper="Ho et al. 2023, https://doi.org/10.1016/j.ajpath.2022.12.004",
        repository="https://github.com/MSKCC-Computational-Pathology/DMMN-osteosarcoma",
    ),
}

LICENCE = "CC-BY-NC-4.0"

_MOST = 1e15  # beyond any number of iterations

_STATE = "model_state"
_MAGNIFICATIONS = ("20x", "10x", "5x")
_FIRST, _LAST = f"conv1dn_{_MAGNIFICATIONS[0]}.0.weight", "final.2.weight"
_CONVENTION = InputConvention(channels="BGR", reduction="decimate")
_RESERVED_OUTPUTS = 1  # output 0 is "unlabelled"


_ALLOWED: list[Any] = [
    (multiarray.scalar, "numpy.core.multiarray.scalar"),  # NumPy 1 and NumPy 2 name it differently
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


def _official_names() -> dict[str, str]:
    """The authors' name of each weight and bias -> ours."""
    blocks: dict[str, str] = {}
    for m, magnification in enumerate(_MAGNIFICATIONS):
        for level in range(LEVELS):
            theirs = f"conv{level + 1}dn" if level < LEVELS - 1 else "center"
            blocks[f"{theirs}_{magnification}"] = f"encoders.{m}.blocks.{level}"
        for step in range(LEVELS - 1):  # the authors number the steps of a decoder from the finest on
            number = LEVELS - 1 - step
            blocks[f"convtrans{number}_{magnification}"] = f"decoders.{m}.ups.{step}"
            blocks[f"conv{number}up_{magnification}"] = f"decoders.{m}.blocks.{step}"
    blocks["final"] = "final"
    return {
        f"{theirs}.{layer}.{part}": f"network.{ours}.{layer}.{part}"
        for theirs, ours in blocks.items()
        for layer in ((0,) if theirs.startswith("convtrans") else (0, 2))
        for part in ("weight", "bias")
    }


OFFICIAL_NAMES = _official_names()
"""The authors' name of each weight and bias -> its name in our DMMN-M3."""


def import_official(
    file: Path, preset_name: str, out: Path, classes: Sequence[str] | None = None, *, overwrite: bool = False
) -> ModelCard:
    """Turns a checkpoint of the authors' program into a model folder.

    Args:
        file: The checkpoint, a ``.pkl`` file.
        preset_name: Key of `OFFICIAL_PRESETS`.
        out: The model folder to write.
        classes: Names of the classes in the order of the outputs from 1 on; those of the preset unless given.
        overwrite: Whether an existing model may be replaced.

    Returns:
        The card of the model.

    Raises:
        ModelError: The file is missing, no checkpoint of a DMMN-M3, or has another number of classes.
        ConfigError: The preset is unknown, or the names cannot be those of classes.
        OutputExistsError: ``out`` exists.
    """
    started = now()
    if preset_name not in OFFICIAL_PRESETS:
        raise ConfigError(f'preset "{preset_name}" is unknown; choose one of {", ".join(OFFICIAL_PRESETS)}')
    preset = OFFICIAL_PRESETS[preset_name]
    check_free(out, overwrite=overwrite, marker=CARD)
    content, sha256 = read_torch_file(file, "checkpoint", allowed=_ALLOWED)
    state = _renamed(_state_of(content, file), file)
    width, outputs = _width_and_outputs(state, file)
    card = ModelCard(
        name=out.name,
        network=NetworkOptions(architecture="dmmn-m3", width=width, reserved_outputs=_RESERVED_OUTPUTS),
        class_map=_class_map(preset_name, preset, classes, outputs - _RESERVED_OUTPUTS, file),
        patch_spec=PatchSpec(),
        input=_CONVENTION,
        provenance={
            "run_id": f"sha256:{sha256}",
            "source": file.name,
            "sha256": sha256,
            "preset": preset_name,
            "repository": preset.repository,
            "version": __version__,
            **_figures(content),
        },
        created=now(),
        licence=LICENCE,
        attribution=f"(c) Memorial Sloan Kettering Cancer Center; cite {preset.paper}; not for commercial use",
    )
    with torch.device("meta"):
        network = card.build()
    _check_weights(state, network, file)
    network.load_state_dict({name: t.to(torch.float32, copy=True) for name, t in state.items()}, assign=True)
    run = describe_run("import-official", {"preset": preset_name, "classes": classes}, started, sha256=sha256)
    with new_model_folder(out, overwrite=overwrite) as folder:
        card = save_model(folder, card, network)
        write_json(folder / RUN_FILE, run)
    return card


def _state_of(content: Any, file: Path) -> Mapping[str, Tensor]:
    """The weights in a checkpoint by the authors' names, without the prefix that training on GPUs gives them."""
    state = content.get(_STATE) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ModelError(
            f'checkpoint "{file}" has no "{_STATE}", so it is none of the authors\' program; name the .pkl file that '
            "they publish"
        )
    if not all(isinstance(name, str) and _is_weight(value) for name, value in state.items()):
        raise ModelError(
            f'checkpoint "{file}" has a "{_STATE}" with other things than weights; take it again from its source'
        )
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _is_weight(value: object) -> bool:
    """Whether something is a tensor of numbers that are all there: not sparse, packed or without content."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.is_floating_point()
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def _renamed(state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights by our names."""
    missing = [name for name in OFFICIAL_NAMES if name not in state]
    if missing:
        raise ModelError(
            f'checkpoint "{file}" lacks {len(missing)} of the {len(OFFICIAL_NAMES)} weights of a DMMN-M3, the first '
            f'"{missing[0]}"; name a checkpoint of the authors\' DMMN'
        )
    surplus = [name for name in state if name not in OFFICIAL_NAMES]
    if surplus:
        raise ModelError(
            f'checkpoint "{file}" has {len(surplus)} weights that DMMN-M3 has not, the first "{surplus[0][:80]}"; name '
            "a checkpoint of the authors' DMMN"
        )
    return {ours: state[theirs] for theirs, ours in OFFICIAL_NAMES.items()}


def _width_and_outputs(state: Mapping[str, Tensor], file: Path) -> tuple[int, int]:
    """Base width and number of outputs, by the shapes of the first and the last layer."""
    first, last = state[OFFICIAL_NAMES[_FIRST]], state[OFFICIAL_NAMES[_LAST]]
    width, outputs = (tensor.shape[0] if tensor.ndim == 4 else 0 for tensor in (first, last))
    if not 1 <= width <= MAX_WIDTH or not _RESERVED_OUTPUTS < outputs <= _RESERVED_OUTPUTS + MAX_CLASSES:
        raise ModelError(
            f'checkpoint "{file}" has "{_FIRST}" of shape {_shape(first)} and "{_LAST}" of shape {_shape(last)}, which '
            "no DMMN-M3 has; take it again from its source"
        )
    return width, outputs


def _check_weights(state: Mapping[str, Tensor], network: nn.Module, file: Path) -> None:
    """Refuses weights that are not those of the network (which is on the meta device)."""
    theirs = {ours: name for name, ours in OFFICIAL_NAMES.items()}
    for name, expected in network.state_dict().items():
        if state[name].shape != expected.shape:
            raise ModelError(
                f'checkpoint "{file}" has "{theirs[name]}" of shape {_shape(state[name])}, but a DMMN-M3 of this '
                f"width and number of outputs needs {_shape(expected)}; take it again from its source"
            )
    if sum(tensor.numel() for tensor in state.values()) > file.stat().st_size:  # a tensor can claim what is not there
        raise ModelError(f'checkpoint "{file}" is smaller than its weights; take it again from its source')
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise ModelError(f'checkpoint "{file}" has weights that are no finite numbers; take it again from its source')


def _class_map(
    preset_name: str, preset: OfficialPreset, classes: Sequence[str] | None, n_classes: int, file: Path
) -> ClassMap:
    """The classes of the outputs after the reserved one."""
    names = [name for name, _ in preset.classes] if classes is None else [name.strip() for name in classes]
    if len(names) != n_classes:
        said = f"preset {preset_name} names {len(names)}" if classes is None else f"--classes names {len(names)}"
        raise ModelError(
            f'checkpoint "{file}" has {n_classes} classes (and output 0), but {said}; pass --classes with {n_classes} '
            "names in the order of the outputs"
        )
    if "" in names or len(set(names)) != len(names):
        raise ConfigError(f"--classes {','.join(names)} has an empty name or one twice; name each class once")
    fits = len(names) == len(preset.classes)
    colors = [color for _, color in preset.classes] if fits else OFFICIAL_COLORS
    return ClassMap.from_colors((name, colors[i % len(colors)]) for i, name in enumerate(names))


def _figures(content: Mapping[str, Any]) -> dict[str, int | float]:
    """What the authors' training noted in the checkpoint, where it did."""
    noted = {"iteration": content.get("epoch"), "authors_validation_mean_iou": content.get("best_iou")}
    return {
        name: value if isinstance(value, int) else float(value)
        for name, value in noted.items()
        if isinstance(value, int | float) and -_MOST <= value <= _MOST
    }


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "()"
