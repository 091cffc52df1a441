"""dmmn-qp: from a pathologist's partial annotations in QuPath to a trained segmentation model and back.

What one types in a notebook is here (docs/api.md has examples); each name is loaded when it is first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmmn_qp.version import __version__ as __version__

# Of a damaged file tifffile may log thousands of lines, where the readers of slides say one; a program that has set up
# logging still gets them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from dmmn_qp.annotations import Annotation
    from dmmn_qp.api.arguments import DmmnQpWarning
    from dmmn_qp.api.evaluating import evaluate
    from dmmn_qp.api.models import Model, build_network, load_model, save_model
    from dmmn_qp.api.predicting import predict_array, predict_probabilities, predict_slide, predict_slides
    from dmmn_qp.api.reading import import_annotations, open_slide, read_annotations, read_geojson, read_project
    from dmmn_qp.api.training import partial_cross_entropy, train
    from dmmn_qp.api.writing import polygonize, write_geojson
    from dmmn_qp.console import Reporter
    from dmmn_qp.errors import DmmnQpError
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.regions import Region
    from dmmn_qp.specs import ClassMap
    from dmmn_qp.training.own_loop import Patches

__all__ = [
    "Annotation",
    "ClassMap",
    "Dataset",
    "DmmnQpError",
    "DmmnQpWarning",
    "Model",
    "Patches",
    "Region",
    "Reporter",
    "build_network",
    "evaluate",
    "import_annotations",
    "load_model",
    "open_slide",
    "partial_cross_entropy",
    "polygonize",
    "predict_array",
    "predict_probabilities",
    "predict_slide",
    "predict_slides",
    "read_annotations",
    "read_geojson",
    "read_project",
    "save_model",
    "train",
    "write_geojson",
]

_PLACES = {
    "Annotation": "dmmn_qp.annotations",
    "ClassMap": "dmmn_qp.specs",
    "Dataset": "dmmn_qp.folders.dataset",
    "DmmnQpError": "dmmn_qp.errors",
    "DmmnQpWarning": "dmmn_qp.api.arguments",
    "Model": "dmmn_qp.api.models",
    "Patches": "dmmn_qp.training.own_loop",
    "Region": "dmmn_qp.regions",
    "Reporter": "dmmn_qp.console",
    "build_network": "dmmn_qp.api.models",
    "evaluate": "dmmn_qp.api.evaluating",
    "import_annotations": "dmmn_qp.api.reading",
    "load_model": "dmmn_qp.api.models",
    "open_slide": "dmmn_qp.api.reading",
    "partial_cross_entropy": "dmmn_qp.api.training",
    "polygonize": "dmmn_qp.api.writing",
    "predict_array": "dmmn_qp.api.predicting",
    "predict_probabilities": "dmmn_qp.api.predicting",
    "predict_slide": "dmmn_qp.api.predicting",
    "predict_slides": "dmmn_qp.api.predicting",
    "read_annotations": "dmmn_qp.api.reading",
    "read_geojson": "dmmn_qp.api.reading",
    "read_project": "dmmn_qp.api.reading",
    "save_model": "dmmn_qp.api.models",
    "train": "dmmn_qp.api.training",
    "write_geojson": "dmmn_qp.api.writing",
}
"""Where each name is."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
