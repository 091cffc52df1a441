"""One call of `predict`: what all of its slides have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from dmmn_qp.console import Reporter
from dmmn_qp.folders.predictions import Prediction
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.request import card_digest, polygons_request, request_of
from dmmn_qp.predicting.shards import Shard


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked for.

    Attributes:
        model: The model.
        slides: The slides, in the order in which they were named.
        out: Folder to write into.
        options: Resolved options.
        run: What ``run.json`` says of the call, but for its outcome.
        reporter: Where to report.
        overwrite: Whether finished predictions are made again and replaced.
        resume: Whether it is an error when an interrupted prediction cannot go on.
        take_over: Whether slides are predicted that another machine works on and shows no end.
        shard: Which part of more slides these are; None where they are all.
        has_others: Whether other processes predict other slides for the same call.
    """

    model: LazyModel
    slides: Sequence[SlideToPredict]
    out: Path
    options: PredictOptions
    run: Mapping[str, Any]
    reporter: Reporter
    overwrite: bool = False
    resume: bool = False
    take_over: bool = False
    shard: Shard | None = None
    has_others: bool = False

    @property
    def is_of_one_slide(self) -> bool:
        """Whether one slide is all that was asked for, so that its error is the error of the call."""
        return len(self.slides) == 1 and self.shard is None

    @property
    def run_id(self) -> str:
        """Id of the call."""
        return str(self.run["run_id"])

    def strips_folder(self, slide_id: str) -> Path:
        """The folder of a slide's strips, as long as its prediction is unfinished."""
        return self.out / f".{slide_id}.part"

    def record(
        self, slide: SlideToPredict, mpp: float, regions: BaseGeometry | None, precision: str | None
    ) -> Prediction:
        """The record of a slide that is predicted as asked for.

        Args:
            slide: The slide.
            mpp: um/px of it at level 0.
            regions: The areas outside which nothing is predicted, in level-0 px; None for none.
            precision: ``fp32`` or ``bf16``; None where any will do.
        """
        card, options = self.model.card, self.options
        return Prediction(
            run_id=self.run_id,
            model=card.name,
            model_run=str(card.provenance.get("run_id", card.name)),
            weights=self.model.weights_digest,
            card=card_digest(card),
            class_map=card.class_map,
            request=request_of(
                slide,
                options,
                mpp=mpp,
                context=self.model.context,
                precision=precision,
                regions=regions,
                temperature=card.temperature,
            ),
            polygons=polygons_request(options),
        )
