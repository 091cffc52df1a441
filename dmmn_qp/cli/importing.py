"""`dmmn-qp import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dmmn_qp.choices import OverlapRule, Reader, TakePredictions
from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import import_options, load_config
from dmmn_qp.cli.options import (
    DATASET,
    ConfigOption,
    MppOption,
    OverwriteOption,
    SlidesRootOption,
    parsed_slides_roots,
    shown_option,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE


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
        slides_roots=parsed_slides_roots(slides_root),
        overwrite=overwrite,
        check=check,
    )
    if check:
        raise typer.Exit(int(any(finding.severity == "error" for finding in findings)))
    way_on = f"dmmn-qp train{shown_option('--dataset', out, DATASET)}"
    reporter.say(f"Wrote {out}/ (masks and annotations open in QuPath). Next: {way_on}")


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f'--mpps "{text}" is not a list of numbers; write it as --mpps 0.5,1,2') from None


def _plane(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) > 2:
        raise ConfigError(f'--plane "{text}" is no plane; write it as --plane 2 or --plane 2,0 (z and t from 0)')
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 0
