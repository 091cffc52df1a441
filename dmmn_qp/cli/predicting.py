"""`dmmn-qp predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dmmn_qp.choices import Context, Merge, Outside, ShownAs
from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import load_config, predict_options
from dmmn_qp.cli.options import (
    DATASET,
    MODELS,
    PREDICTIONS,
    ConfigOption,
    DatasetOption,
    DeviceOption,
    MppOption,
    OverwriteOption,
    PrecisionOption,
    QupathDirOption,
    SlidesRootOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import PartlyPredictedError

NETWORK_PANEL = "The network"

AREA_PANEL = "Where to predict"

POLYGONS_PANEL = "Polygons"


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
    roots = parsed_slides_roots(slides_root)
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
