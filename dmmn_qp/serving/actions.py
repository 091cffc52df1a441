"""What jobs do: the functions of the stages, on the project and the workspace that were named at the start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, PredictedOtherwiseError
from dmmn_qp.folders.names import SUGGESTIONS
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.serving.requests import OfModel, Predict, Request, Suggest, Train
from dmmn_qp.serving.slides import ProjectSlides
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import shorten
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.workflows import places

if TYPE_CHECKING:
    from dmmn_qp.predicting.inputs import SlideToPredict
    from dmmn_qp.predicting.kept import Kept
    from dmmn_qp.workflows.steps import RoundRequest

Outcome = Mapping[str, Any]

REGIONS_FOLDER: Final = "roi"
"""In the predictions' folder, for those of regions: those of whole slides stay."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process works, and how; nothing of it comes from a request.

    Attributes:
        project: ``project.qpproj``.
        workspace: The folder with ``dataset/``, ``models/`` and ``predictions/``.
        model: The model to predict with; None for the newest accepted one in ``models/``.
        slides_roots: Where to look for slides that have been moved.
        import_options: How to import.
        train_options: How to train.
        predict_options: How to predict.
    """

    project: Path
    workspace: Path
    model: Path | None = None
    slides_roots: tuple[SlidesRoot, ...] = ()
    import_options: ImportOptions = field(default_factory=ImportOptions)
    train_options: TrainOptions = field(default_factory=TrainOptions)
    predict_options: PredictOptions = field(default_factory=PredictOptions)

    @property
    def dataset(self) -> Path:
        """The dataset."""
        return self.workspace / places.DATASET

    @property
    def models(self) -> Path:
        """Where models are."""
        return self.workspace / places.MODELS

    @property
    def predictions(self) -> Path:
        """Where predictions go."""
        return self.workspace / places.PREDICTIONS


class Actions:
    """What can be done, and the model that is kept from one time to the next.

    Attributes:
        place: Where.
        slides: The slides that requests may name.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.slides = ProjectSlides(place.project, place.slides_roots, place.dataset)
        self._model = place.model  # until another one is accepted
        self._kept: Kept | None = None

    def load(self, request: OfModel, reporter: Reporter) -> Outcome:
        """Reads a model, so that the first prediction need not."""
        from dmmn_qp.predicting.lazy_model import LazyModel

        folder = self.model_of(request)
        model = LazyModel(folder, self.place.predict_options, self._keeper())
        classes = [{"name": known.name, "color": list(known.color)} for known in model.card.class_map.classes]
        device = model.predictor.device.type
        reporter.say(f"Model {model.card.name} on {device}")
        return {"model": model.card.name, "folder": folder, "device": device, "classes": classes}

    def predict(self, request: Predict, reporter: Reporter) -> Outcome:
        """Predicts a slide, or what lies in areas of it, and says where the polygons are."""
        from dmmn_qp.folders.predictions import read_inputs, read_predictions

        began, slide = time.monotonic(), self.slides.find(request)
        folder = self.model_of(request)
        whole = request.region is None and request.areas is None
        out = self.place.predictions if whole else self.place.predictions / REGIONS_FOLDER
        polygons = self._predicted(folder, slide, _areas_of(request), out, reporter)
        record, shown = read_predictions(out)[slide.slide_id], read_inputs(out)[slide.slide_id]
        return {
            "slide": slide.slide_id,
            "polygons": polygons.absolute(),
            "objects": (record.model_extra or {}).get("objects", {}).get("count"),
            "width": shown.width,
            "height": shown.height,
            "model": record.model,
            "seconds": round(time.monotonic() - began, 2),
        }

    def import_(self, request: Request, reporter: Reporter) -> Outcome:
        """Reads what the project holds as it was saved."""
        from dmmn_qp.importing.stage import import_annotations

        place = self.place
        done = import_annotations(
            self._sources(),
            place.dataset,
            place.import_options,
            reporter,
            slides_roots=place.slides_roots,
            overwrite=True,
        )
        return {"dataset": place.dataset.absolute(), "findings": len(done.findings)}

    def train(self, request: Train, reporter: Reporter) -> Outcome:
        """Trains from a model, by default the last accepted one; anew where there is none."""
        from dmmn_qp.folders.model import load_card
        from dmmn_qp.workflows.training import train_anew

        start = None if request.fresh else self._start_of(request)
        self._kept = None  # its memory is needed, and the next prediction is with another one
        with self._takes_a_better_model():
            folder = train_anew(self._asked(), start or self.place.train_options.start_from, reporter)
        card = load_card(folder)
        return {"model": card.name, "folder": folder.absolute(), "accepted": card.accepted}

    def round(self, request: Request, reporter: Reporter) -> Outcome:
        """Goes round the loop, but for the push: the project is open in QuPath."""
        from dmmn_qp.workflows.round import run_round

        self._kept = None
        with self._takes_a_better_model():
            return {"steps": run_round(self._asked(), reporter)}

    def status(self, request: Request, reporter: Reporter) -> Outcome:
        """Says where the work stands."""
        from dmmn_qp.workflows.status import work_status

        return {"lines": work_status(self.place.workspace, self._sources()).lines()}

    def suggest(self, request: Suggest, reporter: Reporter) -> Outcome:
        """Suggests on the slide that is named, else on those of the dataset."""
        from dmmn_qp.suggesting.options import SuggestOptions
        from dmmn_qp.workflows.suggesting import predict_and_suggest

        place, out = self.place, self.place.workspace / SUGGESTIONS
        named = request.image is not None or request.slide is not None
        slide = self.slides.find(request).slide_id if named else None
        found = predict_and_suggest(
            [] if slide is None else [slide],
            place.predictions,
            place.dataset,
            out,
            SuggestOptions(regions=request.regions),
            reporter,
            model=self.model_of(request),
            predicting=place.predict_options,
            slides_roots=place.slides_roots,
        )
        polygons = None if slide is None else (out / f"{slide}.geojson").absolute()
        return {
            "suggestions": len(found),
            "slide": slide,
            "polygons": polygons if polygons is not None and polygons.is_file() else None,
        }

    def _sources(self) -> tuple[Path, ...]:
        """The project; with others where the dataset was made of several and it is one of them."""
        from dmmn_qp.workflows.earlier import earlier_import, is_same_source

        place = self.place
        sources = tuple(place.workspace / source for source in earlier_import(place.dataset).sources)
        among_others = len(sources) > 1 and any(is_same_source(source, place.project) for source in sources)
        return sources if among_others else (place.project,)

    def _asked(self) -> RoundRequest:
        """What `round` and `train` work with."""
        from dmmn_qp.workflows.places import Places
        from dmmn_qp.workflows.steps import RoundRequest

        place = self.place
        return RoundRequest(
            sources=self._sources(),
            annotations=None,
            places=Places(place.dataset, place.predictions, place.models),
            importing=place.import_options,
            training=place.train_options,
            predicting=place.predict_options,
            slides_roots=place.slides_roots,
        )

    def _predicted(
        self, folder: Path, slide: SlideToPredict, areas: list[Any] | None, out: Path, reporter: Reporter
    ) -> Path:
        """The polygons of a slide; those of another request make way, as copies in ``earlier/``."""
        from dataclasses import replace

        from dmmn_qp.predicting.stage import predict

        with TemporaryDirectory(prefix="dmmn-qp-", ignore_cleanup_errors=True) as temporary:
            if areas is not None:
                slide = replace(slide, roi=_written(Path(temporary) / "areas.geojson", areas))
            for overwrite in (False, True):
                try:
                    options, kept = self.place.predict_options, self._keeper()
                    return predict(folder, [slide], out, options, reporter, overwrite=overwrite, kept=kept)[
                        slide.slide_id
                    ]
                except PredictedOtherwiseError:
                    if overwrite:
                        raise
        raise AssertionError("one of two tries returns or raises")

    def _keeper(self) -> Kept:
        from dmmn_qp.predicting.kept import Kept

        self._kept = self._kept or Kept()
        return self._kept

    def model_of(self, request: OfModel) -> Path:
        """The folder of the model that a request means."""
        from dmmn_qp.folders.model import newest_model

        if request.model is not None:
            return self._model_called(request.model)
        return self._model or newest_model(self.place.models)

    @contextmanager
    def _takes_a_better_model(self) -> Iterator[None]:
        """Goes on with the newest accepted model if there is another one now, even where what made it was stopped."""
        before = self._last_accepted()
        try:
            yield
        finally:
            if self._last_accepted() != before:
                self._model = None

    def _last_accepted(self) -> Path | None:
        """The folder of the newest accepted model; None where there is none."""
        from dmmn_qp.folders.model_glance import glance_models, newest

        found = newest(glance_models(self.place.models))
        return None if found is None else found.folder

    def _start_of(self, request: OfModel) -> Path | None:
        """The model to start from; None where there is none yet."""
        from dmmn_qp.errors import ModelError

        try:
            return self.model_of(request)
        except ModelError:
            if request.model is not None or any(self.place.models.glob("*/model.json")):
                raise
            return None

    def _model_called(self, name: str) -> Path:
        """A folder in ``models/`` by its name, which is compared with those that are there.

        Raises:
            ConfigError: There is none of this name.
        """
        models = self.place.models
        names = sorted(p.parent.name for p in models.glob("*/model.json") if not p.parent.name.startswith("."))
        if name not in names:
            raise ConfigError(f'no model "{shorten(name)}" in "{models}", which holds {", ".join(names) or "none"}')
        return models / name


def _areas_of(request: Predict) -> list[Any] | None:
    """The geometries that a request names."""
    if request.region is None:
        return request.areas
    x, y, width, height = request.region
    right, bottom = x + width, y + height
    return [{"type": "Polygon", "coordinates": [[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]]}]


def _written(path: Path, geometries: list[Any]) -> Path:
    """Writes geometries as the stage reads them, which checks them."""
    properties = {"objectType": "annotation"}
    features = [{"type": "Feature", "geometry": found, "properties": properties} for found in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path
