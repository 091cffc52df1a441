"""`dmmn-qp reproduce --run`: does a run again into a new folder, and compares what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, ModelError, OutputExistsError
from dmmn_qp.folders.dataset import MANIFEST, dataset_digest
from dmmn_qp.folders.model import load_card
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PredictedInput, Prediction, read_predictions
from dmmn_qp.folders.rounds import loop_folder
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.stage import import_annotations
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.stage import predict
from dmmn_qp.slides.finding import SlidesRoot, parse_slides_root
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.view import SlideView
from dmmn_qp.text import shorten
from dmmn_qp.training.holding import held
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.stage import train
from dmmn_qp.workflows.benchmarks import TOLERANCE, BenchmarkOptions, benchmark_again
from dmmn_qp.workflows.benchmarks import drift as figures_drift
from dmmn_qp.workflows.drift import requests_of, slides_of
from dmmn_qp.workflows.earlier import roots_on_disks
from dmmn_qp.workflows.recorded import RecordedRun, read_run

_OF_MACHINE: Final = ("workers", "cache_mib", "tensorboard", "qupath_dir")
"""Options of a file that are not taken from it: they change no result, or name programs."""


def dataset_of(run: RecordedRun, named: Path | None) -> Path | None:
    """The dataset of a training: the one that is named, else the one that it tells; None where neither is."""
    told = run.facts.get("dataset")
    return named or (Path(told) if run.stage == "train" and isinstance(told, str) and told else None)


def run_again(
    run: RecordedRun,
    out: Path,
    reporter: Reporter,
    *,
    dataset: Path | None,
    slides_roots: Sequence[SlidesRoot] = (),
    tolerance: float = TOLERANCE,
) -> list[str]:
    """Does a run again.

    Nothing that is there is replaced, nothing is pushed into a project, no place is reached that is on no disk of this
    machine, and no program is loaded from a folder that the file names.

    Args:
        run: The run.
        out: Where to; it must not exist.
        reporter: Where to report.
        dataset: Of a training: its dataset.
        slides_roots: Where to look for slides that have been moved.
        tolerance: Of a benchmark: by what part of the earlier figure one may differ.

    Returns:
        How the outcome compares with that of the run, a line each.

    Raises:
        ConfigError: The run needs what its file does not tell, or something elsewhere.
        OutputExistsError: ``out`` exists.
        DmmnQpError: As the command.
    """
    check_may_run(run, dataset)
    for path in (out, loop_folder(out)) if run.stage == "import" else (out,):
        if path.exists() or path.is_symlink():
            raise OutputExistsError(f'"{path}" exists, and reproduce replaces nothing; choose another with --out')
    options = run.options.model_copy(update={name: None for name in _OF_MACHINE if hasattr(run.options, name)})
    if isinstance(options, BenchmarkOptions):
        benchmark_again(options, out)
        return [*figures_drift(run.facts, read_run(out).facts, tolerance)]
    if isinstance(options, ImportOptions):
        return _import_again(run, options, out, reporter, slides_roots)
    if isinstance(options, TrainOptions):
        assert dataset is not None
        return _train_again(run, options, dataset, out, reporter, slides_roots)
    assert isinstance(options, PredictOptions)
    return _predict_again(run, options, out, reporter)


def check_may_run(run: RecordedRun, dataset: Path | None) -> None:
    """Refuses what cannot, or must not, be done again from its file alone.

    Raises:
        ConfigError: The run needs what its file does not tell, or something elsewhere.
    """
    if run.elsewhere:
        raise ConfigError(
            f'"{run.path}" names "{shorten(run.elsewhere[0])}", which is on no disk of this machine; reproduce goes '
            "nowhere else, so repeat the command by hand if you trust it"
        )
    if getattr(run.options, "devices", 1) > 1:
        raise ConfigError("the run took several devices, and reproduce takes one; repeat the command by hand")
    if run.stage == "import" and not run.sources:
        raise ConfigError(f'"{run.path}" does not say what was imported; repeat the command by hand')
    if run.stage == "train" and dataset is None:
        raise ConfigError(f'"{run.path}" does not say the dataset; name it with --dataset')
    if run.stage == "predict" and run.others["model"] is None:
        raise ConfigError(f'"{run.path}" does not say the model; repeat the command by hand')
    if run.stage == "predict" and not slides_of(run):
        raise ConfigError(f'"{run.path}" does not say which slides were predicted; repeat the command by hand')
    for name, request in requests_of(run).items() if run.stage == "predict" else ():
        if request.get("roi") is not None or request.get("roi_class") is not None:
            raise ConfigError(
                f'slide "{shorten(name)}" was predicted in regions, and "{run.path}" does not say where their file is; '
                "repeat the command by hand"
            )


def _import_again(
    run: RecordedRun, options: ImportOptions, out: Path, reporter: Reporter, slides_roots: Sequence[SlidesRoot]
) -> list[str]:
    roots = (*slides_roots, *map(parse_slides_root, roots_on_disks([*run.slides_roots])))
    annotations = run.others["annotations"]
    named = None if annotations is None else Path(annotations)
    import_annotations([*map(Path, run.sources)], out, options, reporter, annotations=named, slides_roots=roots)
    if not (run.folder / MANIFEST).is_file():
        return [f'nothing to compare with: "{run.folder}" holds no dataset']
    same = dataset_digest(run.folder) == dataset_digest(out)
    return ["the same dataset: classes, slides, splits and patches" if same else "another dataset: see both reports"]


def _train_again(
    run: RecordedRun,
    options: TrainOptions,
    dataset: Path,
    out: Path,
    reporter: Reporter,
    slides_roots: Sequence[SlidesRoot],
) -> list[str]:
    with held(out):
        train(dataset, out, options, reporter, slides_roots=slides_roots)
    card = load_card(out)
    try:
        before = load_card(run.folder)
    except ModelError:
        return [f'nothing to compare with: "{run.folder}" holds no model']
    if before.provenance.get("run_id") != run.facts.get("run_id"):
        return [f'nothing to compare with: the model in "{run.folder}" is of another run']
    if card.weights_sha256 == before.weights_sha256:
        return ["the same weights, bit for bit"]
    figures = [one.validation.get("mean_iou") for one in (before, card)]
    shown = " -> ".join(f"{figure:.4f}" if isinstance(figure, float) else "-" for figure in figures)
    return [f"other weights; validation mIoU {shown}"]


def _predict_again(run: RecordedRun, options: PredictOptions, out: Path, reporter: Reporter) -> list[str]:
    model = run.others["model"]
    assert model is not None
    images, before = slides_of(run), read_predictions(run.folder)
    slides = [_slide_again(name, image, before.get(name)) for name, image in images.items()]
    predict(Path(model), slides, out, options, reporter)
    after = read_predictions(out)
    lines = []
    for name in images:
        digests = [(found[name].files or {}).get(LABELS_SUFFIX) if name in found else None for found in (before, after)]
        known = None not in digests
        word = ("the same labels" if digests[0] == digests[1] else "other labels") if known else "nothing to compare"
        lines.append(f"{shorten(name)}: {word}")
    return lines


def _slide_again(name: str, image: PredictedInput, before: Prediction | None) -> SlideToPredict:
    """A slide in the frame, and of the pixel size, in which it was predicted."""
    size = None if image.width is None or image.height is None else (image.width, image.height)
    listed = None if before is None else before.mpp
    stated = StatedMpp() if listed is None else StatedMpp(listed=listed, listed_by="the run")
    return SlideToPredict(name, SlideView(Path(image.path), image.crop_to_bounds, image.frame, stated, size))
