"""Carries out what is planned for the slides; the files of one are made while the next is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dmmn_qp.console import duration
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.finishing import finish, remake_polygons
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.plan import Failed, Predict, RemakePolygons, Skip, SlidePlan
from dmmn_qp.predicting.publishing import write_run
from dmmn_qp.predicting.slide import SlideJob, predict_strips
from dmmn_qp.predicting.summary import Outcome, Summary, left_out, say_skipped
from dmmn_qp.predicting.unfinished import remove_leftovers, take_up


def run_plans(call: Call, plans: Sequence[SlidePlan]) -> Summary:
    """Does what is planned: first what needs no network, then what does.

    Returns:
        What came of each slide; one that failed does not stop the others.

    Raises:
        DmmnQpError: What stopped the only slide, or would stop the others too.
        OSError: Likewise.
    """
    summary = Summary()
    to_predict: list[SlideToPredict] = []
    for plan in plans:
        outcome = _do_without_network(call, plan, summary)
        if outcome is None:
            to_predict.append(plan.slide)
        else:
            summary = summary.after(outcome)
    say_skipped(call, summary)
    if to_predict:
        _announce(call, len(to_predict))
        summary = _predict_each(call, to_predict, summary)
    if summary.has_news:
        write_run(call, summary)
    return summary


def _do_without_network(call: Call, plan: SlidePlan, so_far: Summary) -> Outcome | None:
    """Does what is planned for a slide.

    Args:
        call: The call.
        plan: What is planned.
        so_far: What came of the slides before.

    Returns:
        What came of it; None where it is to be predicted.
    """
    name = plan.slide.slide_id
    if not isinstance(plan, Failed) and not call.overwrite:
        remove_leftovers(call, name)
    match plan:
        case Failed():
            return left_out(call, name, plan.error)
        case Skip():
            if not plan.is_comparable:
                call.reporter.warn(
                    f"{name}: it was predicted by an earlier version or interrupted there, so its options cannot be "
                    "compared with those of now; pass --overwrite to predict it again"
                )
            return Outcome(name, plan.polygons, skipped=True)
        case RemakePolygons():
            try:
                return remake_polygons(call, plan, so_far)
            except (DmmnQpError, OSError) as error:
                return left_out(call, name, error)
        case Predict():
            if plan.lost_file is not None:
                call.reporter.say(f"  {name}: {plan.lost_file} is missing or was changed; it is predicted again")
            return None


def _announce(call: Call, slides: int) -> None:
    """Says what predicts how many slides, and how; the network is made for that."""
    card, predictor, count = call.model.card, call.model.predictor, len(call.model.predictors)
    devices = predictor.device.type + (f" x {count}" if count > 1 else "")
    call.reporter.heading(
        f"Predicting {slides} slide{'s' if slides > 1 else ''} with {card.name} on {devices}, "
        f"{'bf16' if predictor.bf16 else 'fp32'}, context {predictor.context}"
    )
    if card.licence:
        call.reporter.say(f"  licence of the model: {card.licence}")
    if card.attribution:
        call.reporter.say(f"  {card.attribution}")


def _predict_each(call: Call, slides: Sequence[SlideToPredict], summary: Summary) -> Summary:
    """Predicts slides one after the other, and has the files of each made beside the next one's prediction."""
    finishing: tuple[SlideJob, Future[Outcome]] | None = None
    with ThreadPoolExecutor(1) as finisher:
        for number, slide in enumerate(slides, start=1):
            title = f"{slide.slide_id} ({number}/{len(slides)})" if len(slides) > 1 else slide.slide_id
            predicted = _predict_strips(call, slide, title)
            if isinstance(predicted, Outcome):
                summary = summary.after(predicted)
            if finishing is not None:
                summary = summary.after(_finished(call, *finishing))
                finishing = None
            if isinstance(predicted, SlideJob):
                finishing = predicted, finisher.submit(finish, call, predicted, summary)
        if finishing is not None:
            summary = summary.after(_finished(call, *finishing))
    return summary


def _predict_strips(call: Call, slide: SlideToPredict, title: str) -> SlideJob | Outcome:
    """Predicts a slide's strips; the outcome instead where that failed."""
    try:
        job = take_up(call, slide)
        predict_strips(job, call.model.predictors, call.reporter, title, call.options.workers)
    except (DmmnQpError, OSError) as error:
        return left_out(call, slide.slide_id, error)
    return job


def _finished(call: Call, job: SlideJob, finishing: Future[Outcome]) -> Outcome:
    """Waits for a slide's files and says what came of it."""
    name = job.target.slide_id
    try:
        outcome = finishing.result()
    except (DmmnQpError, OSError) as error:
        return left_out(call, name, error)
    rows, columns = job.shape
    mpp = call.model.card.patch_spec.mpps[0]
    call.reporter.say(f"  {name}: {columns} x {rows} px at {mpp:g} um/px in {duration(job.seconds)}")
    for count, what in (
        (len(job.unreadable.replaced), "were read from another level of the slide"),
        (len(job.unreadable.lost), "could not be read and are unlabelled"),
    ):
        if count:
            call.reporter.warn(f"{name}: {count} tiles {what} ({job.unreadable.reason})")
    return outcome
