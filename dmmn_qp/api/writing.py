"""Making polygons of labels, and writing them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from dmmn_qp.annotations import Annotation
from dmmn_qp.api.arguments import AnyPath, shows_options
from dmmn_qp.api.models import HasContract, contract_of
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.paths import user_path
from dmmn_qp.outputs.options import POLYGON_OPTIONS, PolygonOptions
from dmmn_qp.specs import ClassMap

if TYPE_CHECKING:
    from dmmn_qp.qupath.geojson_writer import WriteResult

ARRAY_POLYGON_OPTIONS = tuple(name for name in POLYGON_OPTIONS if name != "gzip")


@shows_options(PolygonOptions, ARRAY_POLYGON_OPTIONS)
def polygonize(
    labels: ArrayLike,
    classes: HasContract | ClassMap | AnyPath,
    mpp: float,
    *,
    shape: tuple[int, int] | None = None,
    corner: tuple[float, float] = (0, 0),
    predicted: bool = True,
    **options: Any,
) -> list[Annotation]:
    """Makes polygons of labels in memory: of each a shapely ``geometry``, ``class_name``, colour and measurements.

    Args:
        labels: (rows, columns) uint8: what `predict_array` gave, or other labels; 0 gives no polygon.
        classes: The classes. A model or dataset, or its folder, also says how the grid of its labels lies on pixels of
            ``mpp``; a bare `ClassMap` means labels of those very pixels.
        mpp: um/px of the pixels that the labels are of, as given to `predict_array`.
        shape: (rows, columns) of these pixels, beyond which no polygon reaches; to the end of the labels unless given.
        corner: (x, y) of the upper left pixel on its slide, in pixels of ``mpp``.
        predicted: Whether they carry the marks of a prediction, so that they become labels only once a person has
            reviewed them in QuPath. False is for labels that people made: it leaves the measurements out, and
            keeps small regions unless ``min_area_um2`` is given.
        options: How to make them.

    Returns:
        The objects in pixels of ``mpp``, y down, ready for `write_geojson`.

    Raises:
        ConfigError: The labels are no array of labels of these classes, or an option is unknown or out of range.
        PixelSizeError: The pixel size is implausible, or coarser than the model's.
    """
    from dmmn_qp.cli.config import Arguments, polygon_options
    from dmmn_qp.outputs.array_objects import objects_of_labels

    if "gzip" in options:
        raise ConfigError("gzip is an option of files; give write_geojson a name that ends in .geojson.gz")
    if not predicted:
        options.setdefault("min_area_um2", 0.0)
    spec, name = None, "labels"
    if not isinstance(classes, ClassMap):
        contract = contract_of(classes)
        classes, spec = contract.class_map, contract.patch_spec
        name = getattr(getattr(contract, "card", contract), "name", name)
    return objects_of_labels(
        labels,
        classes,
        mpp,
        polygon_options(Arguments("polygonize", options, ARRAY_POLYGON_OPTIONS)),
        spec=spec,
        shape=shape,
        corner=corner,
        model=name if predicted else None,
    )


def write_geojson(path: AnyPath, annotations: Iterable[Annotation]) -> WriteResult:
    """Writes objects as GeoJSON that every QuPath from 0.4 on reads.

    Args:
        path: The file; a name that ends in ``.gz`` is compressed. What is there is replaced.
        annotations: The objects, level-0 px, y down.

    Returns:
        How many were ``written``, and how many ``dropped`` because they have no area.

    Raises:
        OSError: The file cannot be written.
    """
    from dmmn_qp.qupath.geojson_writer import write_geojson

    return write_geojson(user_path(path), annotations)
