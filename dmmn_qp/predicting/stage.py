"""`dmmn-qp predict`: a model and slides -> label rasters and QuPath polygons (paper, section 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, OutputExistsError
from dmmn_qp.files.failures import naming
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.networks.devices import computing
from dmmn_qp.outputs.writers import check_extras
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.kept import Kept
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.on_cluster import check_engine, run_plans_on_cluster
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.plan import make_plans, refuse_equal_names
from dmmn_qp.predicting.run import run_plans
from dmmn_qp.predicting.shards import Shard, sizes_of
from dmmn_qp.predicting.summary import conclude
from dmmn_qp.slides.files import is_dicom
from dmmn_qp.slides.pixel_sizes import MppRules
from dmmn_qp.slides.probing import find_fatal

_STOPPED: Final = "stopped; repeat the command to go on, what is finished is kept"


def predict(
    model_folder: Path,
    slides: Sequence[SlideToPredict],
    out: Path,
    options: PredictOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    resume: bool = False,
    take_over: bool = False,
    kept: Kept | None = None,
    shard: Shard | None = None,
) -> dict[str, Path]:
    """Predicts slides one after the other; the files of one are written while the next is predicted.

    With ``engine="ray"`` many are predicted at once, by workers of Ray (`run_plans_on_cluster`); all else is the same.

    A slide that has been predicted from the same file, by the same model and with the same options is skipped; where
    only its polygons were asked for otherwise, they are made anew from its labels. Of one that was interrupted, the
    strips that are missing are predicted. One slide that cannot be predicted does not stop the others. Of several calls
    that predict into one folder, each slide is predicted by the one that comes to it first.

    Args:
        model_folder: The model.
        slides: The slides.
        out: Folder to write into; other slides' predictions in it are left alone.
        options: Resolved options.
        reporter: Where to report.
        overwrite: Whether predictions of these slides are made again and replaced. What an interrupted one has
            finished in just this way is taken over all the same.
        resume: Whether it is an error when an interrupted prediction cannot go on, because the model, the slide or the
            options have changed; else it is begun again.
        take_over: Whether slides are predicted that another machine works on and shows no end.
        kept: What is kept from one call to the next, the model among it.
        shard: Which part of the slides to predict, while other calls predict the others; None for all.

    Returns:
        The polygons' file of each slide, those that were there included; nothing for a shard without slides.

    Raises:
        ModelError: The model is missing or damaged.
        ConfigError: The options do not go together, need what is not installed, or a DICOM slide where there is none.
        ClusterError: The cluster cannot be used, or has no machine that can do the work.
        InUseError: All slides are being predicted by other processes.
        OutputExistsError: ``out`` is a file, or with ``resume`` an interrupted prediction is another one's.
        PredictedOtherwiseError: The only slide has been predicted otherwise, and is not to be replaced.
        SlideError: The only slide could not be predicted, or two have one name; PartlyPredictedError at the end for
            some of several.
    """
    started = now()
    check_engine(options, has_shard=shard is not None)
    check_extras(options)
    _check_dicom(slides, options)
    if shard is not None and not (slides := _part_of(slides, shard, reporter)):
        return {}
    rules = MppRules(options.mpp, options.force_mpp)
    kept = kept or Kept()
    paths = [slide.path for slide in slides if slide.problem is None]
    fatal = find_fatal(kept.never_opened(paths))
    kept.note_opened(path for path in paths if path not in fatal)
    slides = [
        replace(slide, view=slide.view.with_rules(rules), problem=slide.problem or fatal.get(slide.path))
        for slide in slides
    ]
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    run = describe_run("predict", {**options.model_dump(mode="json"), "model": str(model_folder)}, started)
    model = LazyModel(model_folder, options, kept)
    model.elsewhere = None if options.engine == "local" else ""
    call = Call(model, slides, out, options, run, reporter, overwrite, resume, take_over, shard)
    try:
        with reporter.counting_warnings(), naming(out), computing(options.threads):
            plans = make_plans(call)
            if options.engine == "ray":
                summary = run_plans_on_cluster(call, plans, model_folder)
            else:
                summary = run_plans(call, plans)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_STOPPED) from None
    return conclude(call, summary)


def _check_dicom(slides: Sequence[SlideToPredict], options: PredictOptions) -> None:
    """Refuses ``--dicom-seg`` where no slide is DICOM; of several kinds, those that are not get a warning later.

    Raises:
        ConfigError: None is.
    """
    if options.dicom_seg and not any(is_dicom(slide.path) or slide.path.is_dir() for slide in slides):
        raise ConfigError("--dicom-seg is for slides that are DICOM, but none of these is; leave it out")


def _part_of(slides: Sequence[SlideToPredict], shard: Shard, reporter: Reporter) -> list[SlideToPredict]:
    """The slides of a shard, announced.

    Raises:
        SlideError: Two of all slides would be written into the same files.
    """
    refuse_equal_names(slides)
    sizes = sizes_of(slides)
    mine = shard.part_of(slides, sizes)
    reporter.say(shard.line(mine, sizes))
    return mine
