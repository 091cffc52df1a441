"""The whole way on a slide that is made for it: import, train, predict, polygons."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dmmn_qp.console import Reporter, duration
from dmmn_qp.doctor.findings import Finding
from dmmn_qp.text import count_of

ROWS_PX, COLUMNS_PX = 512, 768

CLASSES: Final = {"dark": (90, 20, 110), "light": (230, 200, 225)}
"""Two tissues, left and right."""


def check_whole_chain() -> Iterator[Finding]:
    """Does it in a temporary folder, which is removed."""
    started = time.monotonic()
    done: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dmmn-qp-", ignore_cleanup_errors=True) as folder:
        try:
            done.extend(_steps(Path(folder)))
        except Exception as error:  # of any kind: it is said, with what went well before
            from dmmn_qp.files.failures import line_of

            before = f" after {', '.join(done)}" if done else ""
            yield Finding("self-test", "fail", f"stopped{before}: {line_of(error)}", "see what else is said here")
            return
    seconds = time.monotonic() - started
    yield Finding(
        "self-test", "ok", f"{', '.join(done)}: {duration(seconds)} in all", figures=(("seconds", round(seconds, 1)),)
    )


def _steps(folder: Path) -> Iterator[str]:
    """Does step after step, and says of each what was done."""
    from dmmn_qp.folders.model import load_card
    from dmmn_qp.importing.options import ImportOptions
    from dmmn_qp.importing.stage import import_annotations
    from dmmn_qp.predicting.api import predict_slide
    from dmmn_qp.predicting.options import PredictOptions
    from dmmn_qp.training.holding import held
    from dmmn_qp.training.options import PRESETS, TrainOptions
    from dmmn_qp.training.stage import train

    reporter = _Silent()
    slide, annotations = _make(folder)
    dataset, model = folder / "dataset", folder / "model"
    import_annotations([slide.parent], dataset, ImportOptions(mpps=(0.5, 1.0)), reporter, annotations=annotations)
    yield "imported"
    tiny = {"width": 2, "epochs": 1, "steps_per_epoch": 8, "batch_size": 2, "workers": 1, "validate_on": "train"}
    options = TrainOptions.model_validate({"preset": "scratch", **PRESETS["scratch"], **tiny})
    with held(model):
        train(dataset, model, options, reporter)
    yield f"trained {load_card(model).network.architecture}"
    found = predict_slide(slide, model, folder / "predictions", PredictOptions(), reporter=reporter)
    labels = found.read_labels()
    if labels.shape != (ROWS_PX, COLUMNS_PX) or not set(map(int, set(labels.flat))) <= {1, 2}:
        raise ValueError("the prediction is not of the slide's size and classes")
    yield "predicted"
    yield f"{count_of(_check_polygons(found.polygons), 'polygon')} for QuPath"


def _check_polygons(path: Path) -> int:
    """How many polygons are in a file.

    Raises:
        ValueError: One is not valid, or of no class of ours.
    """
    import shapely

    features = json.loads(path.read_text("utf-8"))["features"]
    for feature in features:
        if not shapely.is_valid(shapely.from_geojson(json.dumps(feature["geometry"]))):
            raise ValueError("a polygon is not valid")
        if feature["properties"]["classification"]["name"] not in CLASSES:
            raise ValueError("a polygon has no class of the dataset")
    if not features:
        raise ValueError("there is no polygon")
    return len(features)


def _make(folder: Path) -> tuple[Path, Path]:
    """A slide with two tissues, and the annotations of both."""
    import numpy as np
    import tifffile

    pixels = np.empty((ROWS_PX, COLUMNS_PX, 3), np.float32)
    half = COLUMNS_PX // 2
    pixels[:, :half], pixels[:, half:] = CLASSES.values()
    noisy = np.clip(pixels + np.random.default_rng(0).normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    for name in ("slides", "annotations"):
        (folder / name).mkdir()
    slide = folder / "slides" / "test.tif"
    how: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}  # 0.5 um/px
    tifffile.imwrite(slide, noisy, photometric="rgb", tile=(256, 256), **how)
    features = [_rectangle(40 + half * i, name) for i, name in enumerate(CLASSES)]
    drawn = {"type": "FeatureCollection", "features": features}
    (folder / "annotations" / "test.geojson").write_text(json.dumps(drawn), "utf-8")
    return slide, folder / "annotations"


def _rectangle(x: int, name: str) -> dict[str, object]:
    right, bottom = x + COLUMNS_PX // 2 - 80, ROWS_PX - 40
    ring = [[x, 40], [right, 40], [right, bottom], [x, bottom], [x, 40]]
    properties = {"objectType": "annotation", "classification": {"name": name, "color": list(CLASSES[name])}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


class _Silent(Reporter):
    """Prints nothing: what is worth saying of a slide of noise is not worth reading."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__(Console(quiet=True))

    def warn(self, text: str) -> None:
        """Says nothing."""
