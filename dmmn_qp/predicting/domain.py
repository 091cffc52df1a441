"""How far a slide is from those that the model was trained on."""

from __future__ import annotations

from dmmn_qp.features.domain import FromTraining
from dmmn_qp.features.tissue import TissueDescriber
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.slide import SlideJob
from dmmn_qp.slides.forgiving import ForgivingSlide


def compare_with_training(call: Call, job: SlideJob) -> FromTraining | None:
    """How far a slide is from the training slides of the model.

    An error is a warning: the prediction does not depend on it.

    Returns:
        None where the model does not tell what they look like, the slide has no tissue, or it could not be measured.
    """
    view = job.target.view
    made_of = (job.fingerprint, job.info.mpp, view.frame, view.crop_to_bounds, call.model.weights_digest)
    return call.model.kept.distance(made_of, lambda: _measured(call, job))


def _measured(call: Call, job: SlideJob) -> FromTraining | None:
    domain, predictor = call.model.card.training_domain, call.model.predictor
    if domain is None:
        return None
    describer = TissueDescriber(predictor.card.input)
    if domain.kind != "color":
        network = predictor.network.network
        describer = TissueDescriber.of_network(network, predictor.card.input, predictor.device, bf16=predictor.bf16)
    with (
        call.reporter.optional(f"{job.target.slide_id}: its distance from the training slides"),
        ForgivingSlide(job.target.open()) as slide,
    ):
        return domain.judge(describer.vectors(slide, job.grid))
    return None


def say_if_unlike(call: Call, job: SlideJob) -> None:
    """Warns of a slide that is unlike the training slides."""
    domain, found = call.model.card.training_domain, job.from_training
    if domain is not None and found is not None and found.is_unlike:
        call.reporter.warn_of(
            job.target.slide_id,
            f"is unlike the training slides: distance {found.distance:.2f}, those differ by at most "
            f"{domain.largest_among_themselves or 0:.2f} among themselves; look at it before you believe it",
            " ",
        )
