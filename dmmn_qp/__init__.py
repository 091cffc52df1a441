"""dmmn-qp: from a pathologist's partial annotations in QuPath to a trained segmentation model and back.

What one types in a notebook is here (docs/api.md has examples); each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmmn_qp.annotations import Annotation
    from dmmn_qp.api import (
        DmmnQpWarning,
        Model,
        build_network,
        evaluate,
        import_annotations,
        load_model,
        open_slide,
        partial_cross_entropy,
        polygonize,
        predict_array,
        predict_probabilities,
        predict_slide,
        predict_slides,
        read_annotations,
        read_geojson,
        read_project,
        save_model,
        train,
        write_geojson,
    )
    from dmmn_qp.console import Reporter
    from dmmn_qp.errors import DmmnQpError
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.regions import Region
    from dmmn_qp.specs import ClassMap
    from dmmn_qp.training.own_loop import Patches

__version__ = "0.1.0"

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

_ELSEWHERE = {
    "Annotation": "dmmn_qp.annotations",
    "ClassMap": "dmmn_qp.specs",
    "Dataset": "dmmn_qp.folders.dataset",
    "DmmnQpError": "dmmn_qp.errors",
    "Patches": "dmmn_qp.training.own_loop",
    "Region": "dmmn_qp.regions",
    "Reporter": "dmmn_qp.console",
}
"""Where names are that do not come from `dmmn_qp.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE.get(name, "dmmn_qp.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
