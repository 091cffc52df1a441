"""The command line. A command translates its options and calls its stage, nothing else."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dmmn_qp import __version__
from dmmn_qp.choices import (
    Context,
    Device,
    ExportFormat,
    Freeze,
    Merge,
    Outside,
    OverlapRule,
    Precision,
    Preset,
    Reader,
    ShownAs,
    Split,
    TakePredictions,
    ValidationSplit,
)
from dmmn_qp.cli.config import ConfigFile, import_options, load_config, predict_options, train_options
from dmmn_qp.console import Reporter, printable
from dmmn_qp.errors import ConfigError, DmmnQpError, PartlyPredictedError
from dmmn_qp.files import write_json
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE

if TYPE_CHECKING:
    from dmmn_qp.slides.finding import SlidesRoot

DATASET = Path("dataset")
MODELS = Path("models")
PREDICTIONS = Path("predictions")

MIB = 2**20


class _OneLineErrors(TyperGroup):
    """Turns the package's errors into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DmmnQpError as error:
            typer.secho(f"error: {printable(' '.join(str(error).split()))}", fg="red", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            where = f' "{error.filename}"' if error.filename else ""
            typer.secho(f"error: {printable(f'{error.strerror or error}{where}')}", fg="red", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stopped:
            typer.secho(str(stopped) or "stopped", fg="red", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a pathologist's partial annotations in QuPath to a trained segmentation model and back.",
    epilog="With no options every command works in the current folder: import writes dataset/, train reads it and "
    "writes models/<name>/, predict takes the newest model and writes predictions/.",
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the sections import, train, predict.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output.")]
SlidesRootOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slides-root",
        help="Folder to search for moved slides, or OLD=NEW where a folder was renamed; repeatable.",
        metavar="FOLDER",
    ),
]
DatasetOption = Annotated[Path, typer.Option("--dataset", help="Dataset folder made by import.")]
MppOption = Annotated[
    float | None, typer.Option("--mpp", help="um/px of slides that do not say it themselves.", min=0.0)
]
DeviceOption = Annotated[Device | None, typer.Option("--device", help="Where to compute; default auto.")]
QupathDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder of QuPath, for writing through it.", envvar=QUPATH_DIR_VARIABLE, show_default=False),
]
NETWORK_PANEL = "The network"
AREA_PANEL = "Where to predict"
POLYGONS_PANEL = "Polygons"

PrecisionOption = Annotated[
    Precision | None, typer.Option("--precision", help="auto takes bf16 where the device is made for it; default auto.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dmmn-qp {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Only options that concern all commands."""
    del version
    # Set before torch is loaded. Its threads otherwise spin while they wait for each other, which makes training
    # several times slower as soon as anything else, such as the reader process, wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command("import")
def import_command(
    source: Annotated[
        Path, typer.Argument(help="project.qpproj, or slides (then with --annotations).", show_default=False)
    ],
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of <slide>.geojson files, for slides without a project.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Dataset folder to write.")] = DATASET,
    slides_root: SlidesRootOption = None,
    mpp: MppOption = None,
    mpp_csv: Annotated[
        Path | None, typer.Option("--mpp-csv", help="Table slide,mpp of um/px of slides that do not say it themselves.")
    ] = None,
    mpps: Annotated[
        str | None, typer.Option(help="um/px of the magnifications, finest first; default 0.5,1,2 (20x, 10x, 5x).")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Class not to train on; repeatable.")] = None,
    merge_case: Annotated[
        bool | None, typer.Option("--merge-case", help="Class names that differ only in case or blanks are one class.")
    ] = None,
    overlap: Annotated[
        OverlapRule | None, typer.Option(help="Which area wins where classes overlap; default class-order.")
    ] = None,
    line_width_um: Annotated[
        float | None, typer.Option(help="Train on lines too, drawn this wide; default: not.")
    ] = None,
    region_class: Annotated[
        str | None, typer.Option(help="Class of areas outside which nothing is labelled, such as Region*.")
    ] = None,
    split_file: Annotated[Path | None, typer.Option(help="CSV with the columns slide,split.")] = None,
    split_areas: Annotated[
        bool | None,
        typer.Option("--split-areas", help="Areas named Training, Validation or Test divide the slide they lie on."),
    ] = None,
    case_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that finds the case in a slide's name.")
    ] = None,
    split_key: Annotated[
        str | None, typer.Option(help="Image metadata key that says train, val or test; default split.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the split where no slide has one; default 0.")] = None,
    kinds: Annotated[
        str | None,
        typer.Option(help="Objects to read, of annotation, detection, cell, tile, tma_core; default annotation."),
    ] = None,
    plane: Annotated[
        str | None, typer.Option(help="Z[,T] of the plane to train on; default the one that holds most annotations.")
    ] = None,
    reader: Annotated[
        Reader | None,
        typer.Option(help="How to read a project: qpdata directly, paquo through QuPath; default auto, as needed."),
    ] = None,
    qupath_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of QuPath, for the reader paquo.", envvar=QUPATH_DIR_VARIABLE, show_default=False),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            help="Write nothing and exit with 1 where annotations are damaged or missing, after all others were "
            "looked at; default: leave them out with a warning.",
        ),
    ] = None,
    take_predictions: Annotated[
        TakePredictions | None,
        typer.Option(
            help="Which predicted areas become labels: reviewed (locked, or class or outline changed), locked, all, "
            "none; default reviewed."
        ),
    ] = None,
    predicted_in: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the predictions that were reviewed; default predictions/ beside the dataset and the "
            "project.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    overwrite: OverwriteOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what should be mended, and exit with 1 on an error.")
    ] = False,
) -> None:
    """Reads annotations and makes a dataset of masks and patches."""
    from dmmn_qp.importing.stage import import_annotations

    flags: dict[str, Any] = {
        "mpp": mpp,
        "mpp_csv": mpp_csv,
        "mpps": _numbers(mpps),
        "drop": drop or None,
        "split_key": split_key,
        "seed": seed,
    }
    flags |= {"merge_case": merge_case, "overlap": overlap, "line_width_um": line_width_um}
    flags |= {
        "region_class": region_class,
        "split_file": split_file,
        "split_areas": split_areas,
        "case_pattern": case_pattern,
    }
    flags |= {"kinds": None if kinds is None else tuple(kinds.replace(" ", "").split(",")), "plane": _plane(plane)}
    flags |= {"reader": reader, "qupath_dir": qupath_dir, "strict": strict}
    flags |= {"take_predictions": take_predictions, "predicted_in": predicted_in}
    options = import_options(load_config(config), flags)
    reporter = Reporter()
    findings = import_annotations(
        source,
        out,
        options,
        reporter,
        annotations=annotations,
        slides_roots=_slides_roots(slides_root),
        overwrite=overwrite,
        check=check,
    )
    if check:
        raise typer.Exit(int(any(finding.severity == "error" for finding in findings)))
    reporter.say(
        f"Wrote {out}/ (masks and annotations open in QuPath). Next: dmmn-qp train{_if('--dataset', out, DATASET)}"
    )


@app.command("train")
def train_command(
    dataset: DatasetOption = DATASET,
    out: Annotated[
        Path | None, typer.Option(help="Model folder to write; default models/<architecture>-<n>.", show_default=False)
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="fast: for small data, minutes on a CPU. paper: the paper's settings. official: those of its code. "
            "Default fast."
        ),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Which network; default dmmn-m3.")] = None,
    width: Annotated[
        int | None, typer.Option(help="Base width f; default the paper's, but 8 on a CPU with the preset fast.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(help="Optimiser steps of an epoch.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; its peak with one-cycle.")] = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="Model folder to start from; classes are matched by name.")
    ] = None,
    freeze: Annotated[Freeze | None, typer.Option(help="With --from: part of the network to leave as it is.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read patches.")] = None,
    cache: Annotated[
        int | None,
        typer.Option(help="MiB of decoded tiles that each of these processes keeps; default 384.", metavar="MIB"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default 0.")] = None,
    device: DeviceOption = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes that share each batch, one on each GPU; default 1.")
    ] = None,
    precision: PrecisionOption = None,
    validate_on: Annotated[
        ValidationSplit | None,
        typer.Option(help="Whose patches choose the epoch to keep; train where there is no validation slide."),
    ] = None,
    slides_root: SlidesRootOption = None,
    show: Annotated[
        Path | None,
        typer.Option(
            "--show-batch",
            help="Train nothing; draw some patches into this PNG as they are, augmented, and deformed.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training interrupted last (or that of --out).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved options, counts, and an estimate; write nothing.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Trains a network on a dataset and keeps the best epoch."""
    from dmmn_qp.folders.model import next_model_name
    from dmmn_qp.training.preview import estimate, show_batch
    from dmmn_qp.training.stage import train
    from dmmn_qp.training.state import load_state, newest_interrupted

    flags = {
        "preset": preset,
        "architecture": architecture,
        "width": width,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "workers": workers,
        "cache_mib": cache,
        "seed": seed,
        "device": device,
        "devices": devices,
        "precision": precision,
        "validate_on": validate_on,
        "start_from": start_from and start_from.absolute(),  # a resumed training may begin in another folder
        "freeze": freeze,
    }
    reporter, roots = Reporter(), _slides_roots(slides_root)
    if resume:
        changed = [name for name, value in flags.items() if value is not None and name not in ("device", "workers")]
        if changed or config is not None or overwrite or dry_run or show is not None:
            raise ConfigError(
                "--resume goes on as the training began; leave out all options but --out, --dataset, --slides-root, "
                "--device and --workers"
            )
        folder = out or newest_interrupted(MODELS)
        state = load_state(folder)
        options = train_options(ConfigFile(train=state.options), {"device": device, "workers": workers})
        dataset = dataset if dataset != DATASET or not Path(state.dataset).is_dir() else Path(state.dataset)
    else:
        options = train_options(load_config(config), flags)
        folder = out or MODELS / next_model_name(MODELS, options.architecture)
    if show is not None:
        show_batch(dataset, show, options, slides_roots=roots)
        reporter.say(f"Wrote {show}")
        return
    if dry_run:
        estimate(dataset, options, reporter, slides_roots=roots)
        return
    written = train(dataset, folder, options, reporter, overwrite=overwrite, resume=resume, slides_roots=roots)
    reporter.say(
        f"Wrote {written}/  Next: dmmn-qp predict{_if('--dataset', dataset, DATASET)}{_if('--model', out, None)}"
    )


@app.command("predict")
def predict_command(
    slides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slide files, folders of them, patterns such as 'scans/**/*.svs', tables slide,mpp,roi (.csv), "
            "projects (.qpproj), or slides of the dataset by name; default all of the dataset.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model folder; default the newest in models/.", show_default=False)
    ] = None,
    dataset: DatasetOption = DATASET,
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = PREDICTIONS,
    mpp: MppOption = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Targets per forward pass.", rich_help_panel=NETWORK_PANEL)
    ] = None,
    context: Annotated[
        Context | None,
        typer.Option(
            help="patch: the paper's scheme; shared: neighbours share the work of the coarser magnifications; "
            "shared-coarsest: of the coarsest alone; seamless: no border anywhere; auto: shared where it agrees with "
            "patch. Default auto.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    tta: Annotated[
        bool | None,
        typer.Option(
            "--tta/--no-tta",
            help="Mean of the eight turned and mirrored copies: eight times the work.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    probabilities: Annotated[
        bool | None,
        typer.Option(
            "--probabilities/--no-probabilities",
            help="Write each class's probability (OME-TIFF) too.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    uncertainty: Annotated[
        bool | None,
        typer.Option(
            "--uncertainty/--no-uncertainty",
            help="Write the entropy of the probabilities (OME-TIFF) too.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    device: DeviceOption = None,
    devices: Annotated[
        int | None,
        typer.Option(help="GPUs that share the blocks of a slide; default 1.", rich_help_panel=NETWORK_PANEL),
    ] = None,
    precision: PrecisionOption = None,
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Let torch compile the network first; needs a C++ compiler.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Threads that decode pixels; default the machine's cores, at most 16.", rich_help_panel=NETWORK_PANEL
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Search the folders in the folders of slides too.")
    ] = False,
    tissue_only: Annotated[
        bool | None,
        typer.Option(
            "--tissue-only/--whole-slide",
            help="Predict only where tissue is; default the whole slide.",
            rich_help_panel=AREA_PANEL,
        ),
    ] = None,
    tissue_min_area_um2: Annotated[
        float | None,
        typer.Option(help="Smaller parts of the tissue are dirt; default 20000.", min=0.0, rich_help_panel=AREA_PANEL),
    ] = None,
    tissue_min_hole_um2: Annotated[
        float | None,
        typer.Option(
            help="Smaller holes in the tissue are tissue; default 1000000.", min=0.0, rich_help_panel=AREA_PANEL
        ),
    ] = None,
    tissue_margin_um: Annotated[
        float | None,
        typer.Option(help="How far beyond the tissue to predict; default 100.", min=0.0, rich_help_panel=AREA_PANEL),
    ] = None,
    tissue_outline: Annotated[
        bool | None,
        typer.Option(
            "--tissue-outline/--no-tissue-outline",
            help="Write the tissue's outline too; default not.",
            rich_help_panel=AREA_PANEL,
        ),
    ] = None,
    roi: Annotated[
        Path | None,
        typer.Option(
            help="GeoJSON of the areas to predict, or a folder of <slide>.geojson for several slides.",
            show_default=False,
            rich_help_panel=AREA_PANEL,
        ),
    ] = None,
    roi_class: Annotated[
        str | None,
        typer.Option(
            help="Class of the areas to predict, such as Region*: of --roi, else of the project or the dataset.",
            show_default=False,
            rich_help_panel=AREA_PANEL,
        ),
    ] = None,
    outside: Annotated[
        Outside | None,
        typer.Option(help="Label of what is not predicted; default unlabelled.", rich_help_panel=AREA_PANEL),
    ] = None,
    simplify_um: Annotated[
        float | None,
        typer.Option(
            help="Tolerance of the polygons in um; 0 keeps every pixel's edge; default 1.",
            rich_help_panel=POLYGONS_PANEL,
        ),
    ] = None,
    min_area_um2: Annotated[
        float | None,
        typer.Option(
            help="Smaller regions join a neighbour, in the polygons alone; default 0.", rich_help_panel=POLYGONS_PANEL
        ),
    ] = None,
    min_hole_um2: Annotated[
        float | None,
        typer.Option(
            help="Smaller holes are filled, in the polygons alone; default 0.", rich_help_panel=POLYGONS_PANEL
        ),
    ] = None,
    merge: Annotated[
        Merge | None,
        typer.Option(
            help="One object for each connected region, or for each class; default region.",
            rich_help_panel=POLYGONS_PANEL,
        ),
    ] = None,
    object_kind: Annotated[
        ShownAs | None,
        typer.Option(
            "--as", help="What the objects are in QuPath; default annotation.", rich_help_panel=POLYGONS_PANEL
        ),
    ] = None,
    max_vertices: Annotated[
        int | None,
        typer.Option(
            help="Regions with more points are split along a grid; default 10000.", rich_help_panel=POLYGONS_PANEL
        ),
    ] = None,
    gzip: Annotated[
        bool | None, typer.Option("--gzip/--no-gzip", help="Write <slide>.geojson.gz.", rich_help_panel=POLYGONS_PANEL)
    ] = None,
    with_ignored: Annotated[
        bool | None,
        typer.Option(
            "--with-ignored/--without-ignored",
            help="Write polygons of classes named with * too.",
            rich_help_panel=POLYGONS_PANEL,
        ),
    ] = None,
    slides_root: SlidesRootOption = None,
    into: Annotated[
        Path | None,
        typer.Option(help="QuPath project to write the polygons into as well, as push does.", show_default=False),
    ] = None,
    qupath_dir: QupathDirOption = None,
    config: ConfigOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an interrupted prediction or fail; without it, one made with other options begins again.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Segments whole slides and writes polygons for QuPath.

    Slides predicted before in the same way are skipped, and interrupted ones go on where they were. Where only options
    of the polygons differ, these are made anew from the labels; where others do, it is an error without --overwrite.
    """
    from dmmn_qp.folders.model import newest_model
    from dmmn_qp.predicting.inputs import slides_to_predict
    from dmmn_qp.predicting.stage import input_of, predict
    from dmmn_qp.pushing.stage import check_push, push

    flags: dict[str, Any] = {
        "mpp": mpp,
        "batch_size": batch_size,
        "context": context,
        "device": device,
        "precision": precision,
        "tta": tta,
        "probabilities": probabilities,
        "uncertainty": uncertainty,
        "devices": devices,
        "compile": compile_,
        "workers": workers,
    }
    flags |= {
        "tissue_only": tissue_only,
        "tissue_min_area_um2": tissue_min_area_um2,
        "tissue_min_hole_um2": tissue_min_hole_um2,
        "tissue_margin_um": tissue_margin_um,
        "tissue_outline": tissue_outline,
        "roi_class": roi_class,
        "outside": outside,
    }
    flags |= {"simplify_um": simplify_um, "min_area_um2": min_area_um2, "min_hole_um2": min_hole_um2, "merge": merge}
    flags |= {"object_kind": object_kind, "max_vertices": max_vertices, "gzip": gzip, "with_ignored": with_ignored}
    options = predict_options(load_config(config), flags)
    reporter = Reporter()
    roots = _slides_roots(slides_root)
    chosen = slides_to_predict(slides or [], dataset, roots, recursive=recursive, roi=roi)
    if into is not None:  # now, and not after hours
        check_push(into, {s.slide_id: input_of(s) for s in chosen if s.problem is None}, roots, qupath_dir)
    model = model or newest_model(MODELS)
    failed: PartlyPredictedError | None = None
    try:
        written = predict(model, chosen, out, options, reporter, overwrite=overwrite, resume=resume)
    except PartlyPredictedError as error:
        written, failed = error.written, error
    if into is not None and written:
        push(out, into, reporter, slides=[*written], slides_roots=roots, qupath_dir=qupath_dir)
    if failed is not None:
        raise failed
    if into is not None:
        return
    reporter.say(
        f"To review in QuPath: open the slide and drag {next(iter(written.values()))} onto it, "
        "or for the whole project: dmmn-qp scripts install project.qpproj"
    )


@app.command("push")
def push_command(
    into: Annotated[Path, typer.Option(help="QuPath project to write into.", show_default=False)],
    predictions: Annotated[Path, typer.Argument(help="Folder made by predict.")] = PREDICTIONS,
    slide: Annotated[list[str] | None, typer.Option(help="Only this slide; repeatable.", metavar="NAME")] = None,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Objects become children of those they lie in (resolve hierarchy).")
    ] = False,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
) -> None:
    """Writes predictions into a QuPath project, through QuPath itself.

    Only unlocked objects of earlier predictions are replaced. Close the project in QuPath first.
    """
    from dmmn_qp.folders.predictions import predicted_polygons
    from dmmn_qp.pushing.stage import push

    if slide:
        known = predicted_polygons(predictions)
        for name in slide:
            if name not in known:
                raise ConfigError(f'--slide "{name}" is not in "{predictions}", which holds {", ".join(known)}')
    reporter = Reporter()
    push(
        predictions,
        into,
        reporter,
        slides=slide or None,
        slides_roots=_slides_roots(slides_root),
        qupath_dir=qupath_dir,
        resolve=resolve,
    )


@app.command("new-project")
def new_project_command(
    out: Annotated[Path, typer.Option(help="The project's folder, empty or not yet there.", show_default=False)],
    predictions: Annotated[Path, typer.Argument(help="Folder made by predict.")] = PREDICTIONS,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
) -> None:
    """Makes a QuPath project of predicted slides, through QuPath itself."""
    from dmmn_qp.pushing.stage import new_project

    reporter = Reporter()
    path = new_project(predictions, out, reporter, slides_roots=_slides_roots(slides_root), qupath_dir=qupath_dir)
    reporter.say(f"Wrote {path}  Open it in QuPath (File > Project > Open project).")


@app.command("evaluate")
def evaluate_command(
    predictions: Annotated[Path, typer.Option(help="Folder made by predict.")] = PREDICTIONS,
    dataset: DatasetOption = DATASET,
    split: Annotated[Split, typer.Option(help="Which slides.")] = "test",
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of <slide>.png full label maps, to compare with as well; classes.csv (value,class) in it "
            "names their values, else they are numbered like the dataset's classes.",
            show_default=False,
        ),
    ] = None,
    class_maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Predicted class that has another name in the truth, such as tumor=Tumor; several may become one; "
            "repeatable. Classes of equal names meet without it, whatever their order.",
            metavar="PREDICTED=TRUTH",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="True class whose pixels do not count; repeatable.", metavar="NAME"),
    ] = None,
    skip_unpredicted: Annotated[
        bool,
        typer.Option(
            "--skip-unpredicted", help="Leave out pixels without a prediction; without it they count as missed."
        ),
    ] = False,
    mixed_models: Annotated[
        bool, typer.Option("--mixed-models", help="Take together slides that different models predicted.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the figures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json.", show_default=False)] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Compares predictions with the annotations of held-back slides.

    Classes are compared by name. Only what people drew counts as annotated; predictions that they corrected or
    confirmed have tables of their own.
    """
    from dmmn_qp.evaluating.stage import EVALUATION, EvaluationRules, evaluate
    from dmmn_qp.files import check_free

    reporter = Reporter()
    if out is not None:
        check_free(out, overwrite=overwrite, marker=EVALUATION)
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f'--json "{json_file}" is a folder; name a file, such as {json_file}/evaluation.json')
    rules = EvaluationRules(class_maps or (), exclude or (), skip_unpredicted, mixed_models)
    figures = evaluate(predictions, dataset, split, truth, reporter, rules)
    for path in (json_file, out and out / EVALUATION):
        if path is not None:
            write_json(path, figures)
            reporter.say(f"Wrote {path}")


@app.command("architectures")
def architectures_command(
    classes: Annotated[int, typer.Option(help="Number of outputs; the paper counts 7.", min=1)] = 7,
    width: Annotated[
        int | None, typer.Option(help="Base width f; default the paper's of each.", min=1, max=512, show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lists the networks with their size, cost and view."""
    from dmmn_qp.networks import ARCHITECTURES
    from dmmn_qp.networks.describe import describe

    described = [describe(name, classes=classes, width=width) for name in ARCHITECTURES]
    if as_json:
        typer.echo(json.dumps([asdict(d) for d in described], indent=2))
        return
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
                f"{d.activation_bytes / MIB:.0f}",
                f"{(d.parameter_bytes + d.gradient_bytes + d.optimizer_bytes['adamw']) / MIB:.0f}",
            )
            for d in described
        ],
    )
    reporter.say(
        f"With {classes} outputs, targets of 256 px at 0.5 um/px, 3 magnifications, full stem and no normalisation.\n"
        "sees, given: tissue that the middle pixel of the output depends on, of the field that the network is given.\n"
        "MiB: training in fp32 takes at least the first for each target of a batch (activations kept for the backward\n"
        "pass), and once the second (parameters, gradients, AdamW)."
    )


scripts_app = typer.Typer(no_args_is_help=True, help="The scripts that run in QuPath.")
app.add_typer(scripts_app, name="scripts")


@scripts_app.command("install")
def install_scripts_command(
    project: Annotated[Path, typer.Argument(help="project.qpproj or its folder.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scripts that differ.")] = False,
) -> None:
    """Copies the scripts into a project, where QuPath lists them (Automate > Project scripts)."""
    from dmmn_qp.qupath.scripts import install_scripts

    reporter = Reporter()
    for item in install_scripts(project, overwrite=overwrite):
        reporter.say(f"{'Wrote' if item.written else 'Already there:'} {item.path}")


models_app = typer.Typer(no_args_is_help=True, help="Looks at models, takes over the authors', and exports them.")
app.add_typer(models_app, name="models")

ModelArgument = Annotated[Path, typer.Argument(help="Model folder.", show_default=False)]


@models_app.command("show")
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


@models_app.command("import-official")
def import_official_command(
    file: Annotated[
        Path, typer.Argument(help="Checkpoint of the authors' program, such as DMMN-breast.pkl.", show_default=False)
    ],
    preset: Annotated[
        str, typer.Option(help="Which model it is: msk-breast, msk-ovary or msk-osteosarcoma.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Model folder to write; default models/<preset>.", show_default=False)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Names A,B,... of the outputs from 1 on; default the preset's.", show_default=False),
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
    reporter.say(f"Wrote {folder}/  Next: dmmn-qp predict slide.svs{_if('--model', folder, None)}")


@models_app.command("shrink")
def shrink_model_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Model folder to write.", show_default=False)],
    overwrite: OverwriteOption = False,
) -> None:
    """Copies a model with its weights in half precision: half the size, to be passed on."""
    from dmmn_qp.folders.model import shrink_model

    shrink_model(model, out, overwrite=overwrite)
    Reporter().say(f"Wrote {out}/  It predicts as before: dmmn-qp predict slide.svs --model {shlex.quote(str(out))}")


@models_app.command("export")
def export_model_command(
    model: ModelArgument,
    file_format: Annotated[ExportFormat, typer.Option("--format", help="Kind of file.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write; default beside the model folder.", show_default=False)
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Writes a model as one file for other programs: one field in, one target out."""
    from dmmn_qp.folders.model import load_card
    from dmmn_qp.models.export import export_model

    path = export_model(model, file_format, out, overwrite=overwrite)
    card = load_card(model)
    side_px, mpp = card.patch_spec.field_px, card.patch_spec.mpps[0]
    reporter = Reporter()
    reporter.say(
        f"Wrote {path}: RGB 0 .. 255 (batch, 3, {side_px}, {side_px}) float32 at {mpp:g} um/px -> "
        f"logits (batch, {len(card.class_map)}, {card.patch_spec.size_px}, {card.patch_spec.size_px}) of its middle"
    )
    if card.licence:
        reporter.say(f"  licence of the model: {card.licence}")


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f'--mpps "{text}" is not a list of numbers; write it as --mpps 0.5,1,2') from None


def _slides_roots(texts: list[str] | None) -> tuple[SlidesRoot, ...]:
    from dmmn_qp.slides.finding import parse_slides_root

    return tuple(parse_slides_root(text) for text in texts or ())


def _plane(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) > 2:
        raise ConfigError(f'--plane "{text}" is no plane; write it as --plane 2 or --plane 2,0 (z and t from 0)')
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 0


def _if(option: str, value: Path | None, default: Path | None) -> str:
    """`` --option value`` where the value is not the default, for a command shown to the user."""
    return "" if value == default else f" {option} {shlex.quote(str(value))}"


def run() -> None:
    """Entry point of the ``dmmn-qp`` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names, and terminals, need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="dmmn-qp", args=sys.argv[1:])
