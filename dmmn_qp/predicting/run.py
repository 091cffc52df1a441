"""Carries out what is planned for the slides; the files of one are made while the next is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from dmmn_qp.console import duration
from dmmn_qp.errors import InUseError
from dmmn_qp.files import remove_new_files
from dmmn_qp.files.locks import has_note
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.domain import compare_with_training, say_if_unlike
from dmmn_qp.predicting.finishing import add_files, finish, remake_polygons
from dmmn_qp.predicting.plan import AddFiles, Failed, Predict, RemakePolygons, Skip, SlidePlan, plan_again
from dmmn_qp.predicting.publishing import write_run
from dmmn_qp.predicting.slide import SlideJob, predict_strips
from dmmn_qp.predicting.summary import Outcome, Summary, left_out, say_objects, say_skipped
from dmmn_qp.predicting.unfinished import claimed, remove_leftovers, take_up
from dmmn_qp.text import count_of


def run_plans(call: Call, plans: Sequence[SlidePlan]) -> Summary:
    """Does what is planned: first what needs no network, then what does.

    Returns:
        What came of each slide; one that failed does not stop the others.

    Raises:
        Exception: What stopped the only slide, or would stop the others too.
    """
    summary = Summary()
    to_predict: list[Predict] = []
    remove_new_files(call.out)
    for plan in plans:
        outcome = plan if isinstance(plan, Predict) else do_without_network(call, plan, summary)
        if isinstance(outcome, Predict):
            to_predict.append(outcome)
        else:
            summary = summary.after(outcome)
    say_skipped(call, summary)
    if to_predict:
        _announce(call, len(to_predict))
        summary = _predict_each(call, to_predict, summary)
    if summary.has_news:
        write_run(call, summary)
    return summary


def run_one(call: Call, plan: SlidePlan) -> Outcome:
    """Does what is planned for one slide, and nothing for the call as a whole.

    Raises:
        Exception: Why it cannot be predicted, where the call is of one slide.
    """
    done = plan if isinstance(plan, Predict) else do_without_network(call, plan, Summary())
    return done if isinstance(done, Outcome) else _predict_each(call, [done], Summary()).outcomes[0]


def do_without_network(
    call: Call, plan: Skip | RemakePolygons | AddFiles | Failed, so_far: Summary
) -> Outcome | Predict:
    """Does what is planned for a slide.

    Args:
        call: The call.
        plan: What is planned.
        so_far: What came of the slides before.

    Returns:
        What came of it; what is to be done instead where it turns out that it must be predicted.
    """
    name = plan.slide.slide_id
    match plan:
        case Failed():
            return left_out(call, name, plan.error)
        case Skip():
            return _skip(call, plan)
        case RemakePolygons() | AddFiles():
            try:
                with claimed(call, name):
                    again = plan_again(call, plan)
                    if isinstance(again, RemakePolygons | AddFiles):
                        remove_leftovers(call, name)
                    if isinstance(again, RemakePolygons):
                        return remake_polygons(call, again, so_far) or Predict(plan.slide, seen=again.seen)
                    if isinstance(again, AddFiles):
                        return add_files(call, again)
            except Exception as error:
                return left_out(call, name, error)
            return again if isinstance(again, Predict) else do_without_network(call, again, so_far)


def _skip(call: Call, plan: Skip) -> Outcome:
    """Leaves a slide as it is."""
    name = plan.slide.slide_id
    if call.strips_folder(name).exists() or has_note(call.out / name):  # of a call that was killed at the very end
        with suppress(InUseError), claimed(call, name):
            remove_leftovers(call, name)
    if not plan.is_comparable:
        call.reporter.warn_of(
            name,
            "it was predicted by an earlier version or interrupted there, so its options cannot be "
            "compared with those of now; pass --overwrite to predict it again",
        )
    if plan.not_remade:
        call.reporter.warn_of(
            name,
            f'"{plan.polygons.name}" is not as it was predicted, so it is left as it is, though its polygons '
            f"are asked for otherwise ({plan.not_remade}); move it away to have them made anew",
        )
    return Outcome(name, plan.polygons, skipped=True, is_unlike=plan.is_unlike)


def _announce(call: Call, slides: int) -> None:
    """Says what predicts how many slides, and how; the network is made for that."""
    card, predictor, count = call.model.card, call.model.predictor, len(call.model.predictors)
    devices = predictor.device.type + (f" x {count}" if count > 1 else "")
    call.reporter.heading(
        f"Predicting {slides} slide{'s' if slides > 1 else ''} with {card.name} on {devices}, "
        f"{'bf16' if predictor.bf16 else 'fp32'}, context {predictor.context}"
    )
    say_licence(call)


def say_licence(call: Call) -> None:
    """Says under which licence the model is, and whom it is by."""
    card = call.model.card
    if card.licence:
        call.reporter.say(f"  licence of the model: {card.licence}")
    if card.attribution:
        call.reporter.say(f"  {card.attribution}")
    if card.encoder_credit:
        call.reporter.say(f"  encoder of the model: {card.encoder_credit}")


@dataclass(frozen=True, slots=True)
class _Running:
    """A slide of which the strips are predicted, and the files are being made.

    Attributes:
        job: The slide.
        claim: Holds it; closed by the thread that opened it.
        finishing: Makes the files; None before it is begun.
    """

    job: SlideJob
    claim: ExitStack
    finishing: Future[Outcome] | None = None


def _predict_each(call: Call, plans: Sequence[Predict], summary: Summary) -> Summary:
    """Predicts slides one after the other, and has the files of each made beside the next one's prediction."""
    finishing: _Running | None = None
    with ExitStack() as claims, ThreadPoolExecutor(1) as finisher:
        for number, plan in enumerate(plans, start=1):
            name = plan.slide.slide_id
            title = f"{name} ({number}/{len(plans)})" if len(plans) > 1 else name
            predicted = _predict_strips(call, plan, title, summary, claims.enter_context(ExitStack()))
            if isinstance(predicted, Outcome):
                summary = summary.after(predicted)
            if finishing is not None:
                summary = summary.after(_finished(call, finishing))
                finishing = None
            if isinstance(predicted, _Running):
                finishing = replace(predicted, finishing=finisher.submit(finish, call, predicted.job, summary))
        if finishing is not None:
            summary = summary.after(_finished(call, finishing))
    return summary


def _predict_strips(call: Call, plan: Predict, title: str, so_far: Summary, claim: ExitStack) -> _Running | Outcome:
    """Claims a slide and predicts its strips; the outcome instead where that failed, or there is nothing to predict."""
    slide, name = plan.slide, plan.slide.slide_id
    try:
        claim.enter_context(claimed(call, name))
        again = plan_again(call, plan)
        if isinstance(again, Predict):
            if again.lost_file is not None:
                call.reporter.say(f"  {name}: {again.lost_file} is missing or was changed; it is predicted again")
            if not call.overwrite:
                remove_leftovers(call, name)
            job = take_up(call, slide)
            job.from_training = compare_with_training(call, job)
            predict_strips(job, call.model.predictors, call.reporter, title, call.options.workers)
            return _Running(job, claim)
    except Exception as error:
        claim.close()
        return left_out(call, name, error)
    claim.close()
    outcome = do_without_network(call, again, so_far)
    return outcome if isinstance(outcome, Outcome) else _predict_strips(call, outcome, title, so_far, claim)


def _finished(call: Call, running: _Running) -> Outcome:
    """Waits for a slide's files and says what came of it."""
    job, name = running.job, running.job.target.slide_id
    assert running.finishing is not None
    try:
        outcome = running.finishing.result()
    except Exception as error:
        return left_out(call, name, error)
    finally:
        running.claim.close()
    rows, columns = job.shape
    mpp = call.model.card.patch_spec.mpps[0]
    made = f"; {outcome.made.summary(call.options)}" if outcome.made is not None else ""
    call.reporter.say(f"  {name}: {columns} x {rows} px at {mpp:g} um/px in {duration(job.seconds)}{made}")
    say_objects(call, outcome)
    say_if_unlike(call, job)
    for count, one, several in (
        (
            len(job.unreadable.replaced),
            "tile was read from another level of the slide",
            "tiles were read from another level of the slide",
        ),
        (
            len(job.unreadable.lost),
            "tile could not be read and is unlabelled",
            "tiles could not be read and are unlabelled",
        ),
    ):
        if count:
            call.reporter.warn_of(name, f"{count_of(count, one, several)} ({job.unreadable.reason})")
    return outcome
