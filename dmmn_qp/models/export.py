"""`dmmn-qp models export`: a model -> one file for other programs, with one field in and one target out."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.choices import Beyond, ExportFormat, Reduction
from dmmn_qp.errors import ConfigError, OutputExistsError
from dmmn_qp.files import new_file
from dmmn_qp.files.failures import install_command
from dmmn_qp.folders.encoder_origin import FREE_LICENCES, nameless_origin
from dmmn_qp.folders.model import ModelCard, load_card, load_model, room_for
from dmmn_qp.folders.provenance import nameless_provenance
from dmmn_qp.networks.conventions import class_logits, network_input
from dmmn_qp.specs import PatchSpec
from dmmn_qp.version import __version__

METADATA = "dmmn_qp.json"
"""Name under which an exported file holds its description."""


class SingleField(nn.Module):
    """A network with all that comes before and after it: pixels of one field in, logits of its middle out.

    It cuts the magnifications out of the field as `read_field` does from a slide without coarser levels, to the same
    values: means are rounded as in a picture.

    Args:
        network: Takes a list of images.
        card: Its card.
    """

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        self._card = card

    def forward(self, field: Tensor) -> Tensor:
        """(B, 3, F, F) RGB values 0 .. 255 in pixels of ``mpps[0]`` -> logits (B, C, S, S) of the middle S px."""
        card, spec = self._card, self._card.patch_spec
        images = [
            network_input(magnification_of(field, spec, m, card.input.reduction), card.input)
            for m in range(len(spec.mpps))
        ]
        return class_logits(self.network(images), len(card.class_map))


def magnification_of(field: Tensor, spec: PatchSpec, magnification: int, reduction: Reduction) -> Tensor:
    """One magnification of a field.

    Args:
        field: (B, 3, F, F) values 0 .. 255 in pixels of the finest magnification.
        spec: The patch geometry.
        magnification: Number of the magnification, 0 = finest.
        reduction: How it is made from finer pixels.

    Returns:
        (B, 3, S, S) float32, values 0 .. 255: the concentric part that the magnification shows.
    """
    step = 2**magnification
    side = spec.size_px * step
    start = (spec.field_px - side) // 2
    part = field[..., start : start + side, start : start + side].float()
    if magnification == 0:
        return part
    if reduction == "decimate":
        return part[..., ::step, ::step]
    return (functional.avg_pool2d(part, step) + 0.5).floor()


def export_model(
    folder: Path,
    file_format: ExportFormat,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    keep_provenance: bool = False,
) -> Path:
    """Writes a model as one file for other programs.

    Args:
        folder: The model folder.
        file_format: Key of `EXPORT_FORMATS`.
        out: The file; beside the folder and with its name unless given.
        overwrite: Whether an existing file may be replaced.
        keep_provenance: Whether the file tells all that the card tells of the training; else it names no slide, path,
            person or machine.

    Returns:
        The file.

    Raises:
        ModelError: The model is missing or damaged.
        ConfigError: A library is missing that the format needs, or the model's encoder may not be copied.
        OutputExistsError: The file exists.
    """
    suffix, write = EXPORT_FORMATS[file_format]
    path = out or folder.resolve().with_name(f"{folder.resolve().name}{suffix}")
    if path.is_dir():
        raise OutputExistsError(f'output "{path}" is a folder; name a file with --out, such as {path}/model{suffix}')
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f'output file "{path}" exists; pass --overwrite to replace it or choose another with --out'
        )
    _check_licence(load_card(folder))
    card, network = load_model(folder)
    if not keep_provenance:
        encoder = None if card.encoder is None else nameless_origin(card.encoder)
        card = card.model_copy(update={"provenance": nameless_provenance(card.provenance), "encoder": encoder})
    wrapped = SingleField(network, card).eval()
    with room_for(path), new_file(path) as temporary, torch.no_grad(), _quiet():
        write(wrapped, card.patch_spec.field_px, describe_export(card), temporary)
    return path


def _check_licence(card: ModelCard) -> None:
    if card.encoder is not None and not card.encoder.copied:
        raise ConfigError(
            f'model "{card.name}" cannot be exported: a file holds its encoder too, and that is not under a licence to '
            f"copy it ({card.encoder_credit}); train with an encoder under one of {', '.join(sorted(FREE_LICENCES))}"
        )


def describe_export(card: ModelCard) -> dict[str, Any]:
    """What a program has to know to use an exported model; the file itself holds it."""
    spec = card.patch_spec
    side = spec.field_px
    return {
        "name": card.name,
        "input": {
            "name": "field",
            "shape": ["batch", 3, side, side],
            "type": "float32",
            "values": f"RGB 0 .. 255, not scaled; {_BEYOND[card.input.beyond]}",
            "um_per_px": spec.mpps[0],
        },
        "output": {
            "name": "logits",
            "shape": ["batch", len(card.class_map), spec.size_px, spec.size_px],
            "type": "float32",
            "values": "logits of the classes; the place of the largest + 1 is the label; divided by the temperature, "
            "where there is one, their softmax is the calibrated probability",
            "temperature": card.temperature,
            "um_per_px": spec.mpps[0],
            "corner_in_field_px": [(side - spec.size_px) // 2] * 2,
        },
        "classes": [c.model_dump(mode="json") for c in card.class_map.classes],
        "licence": card.licence,
        "attribution": card.attribution,
        "encoder": None
        if card.encoder is None
        else {"name": card.network.encoder, **card.encoder.model_dump(mode="json")},
        "provenance": card.provenance,
        "dmmn_qp": __version__,
    }


_BEYOND: dict[Beyond, str] = {"black": "0 outside the slide", "mirror": "the slide mirrored outside it"}


class _TraceableUnpool(nn.Module):
    """2 x 2 max-unpooling without the checks of sizes in `nn.MaxUnpool2d`, which a trace cannot pass."""

    def forward(self, x: Tensor, maxima: Tensor) -> Tensor:
        unpooled: Tensor = torch.ops.aten.max_unpool2d(x, maxima, [2 * x.shape[-2], 2 * x.shape[-1]])
        return unpooled


def _write_torchscript(module: nn.Module, side_px: int, description: dict[str, Any], path: Path) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxUnpool2d):
                setattr(parent, name, _TraceableUnpool())
    traced = torch.jit.trace(module, torch.zeros(2, 3, side_px, side_px), check_trace=False)  # type: ignore[no-untyped-call]
    whole = BytesIO()
    torch.jit.save(traced, whole, _extra_files={METADATA: json.dumps(description)})
    _copy_without_sources(whole, path)


_SOURCES = ".debug_pkl"
"""Ends the name of what TorchScript notes for debuggers: the paths of source files, with the user's folders."""


def _copy_without_sources(written: BytesIO, path: Path) -> None:
    """Copies an archive of TorchScript without what only debuggers read."""
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as copy:
        for entry in source.infolist():
            if not entry.filename.endswith(_SOURCES):
                copy.writestr(entry.filename, source.read(entry))


def _write_onnx(module: nn.Module, side_px: int, description: dict[str, Any], path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"exporting to ONNX needs more libraries; {install_command('export')}, or pass --format torchscript"
        ) from error
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 3, side_px, side_px),),  # with a batch of one, one would be taken for a constant
        dynamo=True,
        input_names=["field"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the lines of source files that made it, with the user's folders
    program.model.metadata_props[METADATA] = json.dumps(description)
    program.save(str(path))


EXPORT_FORMATS: dict[ExportFormat, tuple[str, Callable[[nn.Module, int, dict[str, Any], Path], None]]] = {
    "torchscript": (".pt", _write_torchscript),
    "onnx": (".onnx", _write_onnx),
}
"""Name -> (file ending, how to write it)."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the user what torch's exporters say to programmers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
