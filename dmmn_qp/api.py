"""The face for programmers: what one types in a notebook, as ``import dmmn_qp`` offers it.

Paths may be texts. Nothing is printed unless a `Reporter` is given; what deserves a warning is a Python warning
(`DmmnQpWarning`), and what is wrong is a `DmmnQpError`. Options are those of the commands, by their names in the
configuration file. Heavy libraries are loaded by the first call that needs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console

from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import Context, Device, LossMean, Norm, Precision, Split, Stem
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.specs import ClassMap, LabelArray, PatchSpec
from dmmn_qp.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.folders.model import ModelCard
    from dmmn_qp.networks.stem import Stemmed
    from dmmn_qp.predicting.api import SlidePrediction
    from dmmn_qp.predicting.inference import BlockPrediction
    from dmmn_qp.qupath.geojson_writer import WriteResult
    from dmmn_qp.qupath.notes import ReadResult
    from dmmn_qp.qupath.project import ProjectEntry, QuPathProject
    from dmmn_qp.slides.base import Slide

AnyPath = str | PathLike[str]
"""A path as a text or a `Path`."""


class DmmnQpWarning(UserWarning):
    """What the commands would print as a warning."""


class Model(NamedTuple):
    """A model in memory.

    Attributes:
        card: Its classes, patch geometry, input convention and origin.
        network: A torch module: M images (B, 3, S, S), finest first -> logits (B, C, S, S); see `build_network`.
    """

    card: ModelCard
    network: Stemmed

    @property
    def class_map(self) -> ClassMap:
        """The classes."""
        return self.card.class_map

    @property
    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        return self.card.patch_spec


class HasContract(Protocol):
    """What fixes classes and patch geometry: a `Dataset`, a `Model` or a model's card."""

    @property
    def class_map(self) -> ClassMap:
        """The classes."""
        ...

    @property
    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        ...


def read_project(path: AnyPath) -> QuPathProject:
    """Reads a QuPath project: its images in ``entries`` and its list of classes, without Java.

    Args:
        path: The project's folder, or its ``.qpproj`` file.

    Raises:
        ProjectError: There is none, or it is damaged.
    """
    from dmmn_qp.qupath.project import read_project

    return read_project(Path(path))


def read_annotations(image: ProjectEntry) -> list[Annotation]:
    """Reads every object of one image of a project, as it is in the file; a prediction is one like others.

    Args:
        image: One of the ``entries`` of `read_project`.

    Returns:
        All objects, parents before their children; outlines are shapely geometries in level-0 px, y down. Empty for
        an image of which nothing was ever saved.

    Raises:
        AnnotationFileError: The image's data are damaged, of an unsupported kind, or missing though objects were saved.
    """
    from dmmn_qp.qupath.qpdata import read_qpdata

    if not image.object_count and not image.data_path.is_file():
        return []
    return _with_warnings(read_qpdata(image.data_path), image.image_name)


def read_geojson(path: AnyPath) -> list[Annotation]:
    """Reads the objects of a GeoJSON file of QuPath or of `predict_slide`.

    Args:
        path: ``.geojson`` or ``.json``, the same with ``.gz``, or ``.zip`` of such files.

    Returns:
        All objects, parents before their children; outlines are shapely geometries in level-0 px, y down. What cannot
        be read is left out with a warning.

    Raises:
        AnnotationFileError: The file is missing or damaged as a whole.
    """
    from dmmn_qp.qupath.geojson_reader import read_geojson

    return _with_warnings(read_geojson(Path(path)), Path(path).name)


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

    return write_geojson(Path(path), annotations)


def open_slide(slide: AnyPath | ArrayLike, *, mpp: float | None = None) -> Slide:
    """Opens a slide, of a file or of pixels in memory; a context manager.

    Args:
        slide: The file, or (rows, columns, 3) uint8 RGB.
        mpp: um/px of the array, or of the file, whatever it says itself.

    Returns:
        The slide: ``info`` has its size and um/px, ``read_level(level, Region(x, y, width, height))`` its pixels.

    Raises:
        SlideError: It cannot be found or read, or the array is none of RGB bytes.
        PixelSizeError: The pixel size is unknown or implausible.
        ConfigError: An array comes without ``mpp``.
    """
    if isinstance(slide, str | PathLike):
        from dmmn_qp.slides import open_slide

        return open_slide(Path(slide), mpp=mpp)
    from dmmn_qp.slides.array_slide import ArraySlide

    if mpp is None:
        raise ConfigError("an array does not say the size of its pixels; pass mpp with its um/px, such as mpp=0.5")
    return ArraySlide(slide, mpp)


def import_annotations(
    source: AnyPath,
    out: AnyPath = "dataset",
    *,
    annotations: AnyPath | None = None,
    slides_roots: AnyPath | Sequence[AnyPath] = (),
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> Dataset:
    """Makes a dataset of everything that is annotated, as ``dmmn-qp import`` does.

    Args:
        source: A QuPath project, a slide, or a folder of slides.
        out: The dataset folder to write; ``report.html`` in it says what to mend, as a warning tells.
        annotations: Folder of GeoJSON files, for slides without a project.
        slides_roots: Where to look for slides that have been moved: folders, or ``OLD=NEW``.
        overwrite: Whether an existing dataset may be replaced.
        reporter: Where to report.
        options: Those of ``[import]`` in the configuration file, such as ``mpp=0.25`` or ``drop=("Artefact",)``.

    Returns:
        The dataset.

    Raises:
        DmmnQpError: Anything that can be mended; nothing is written then.
    """
    from dmmn_qp.cli.config import ConfigFile, import_options
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.importing.stage import import_annotations
    from dmmn_qp.reports.findings import count_text
    from dmmn_qp.reports.html import REPORT_PAGE

    quiet, reporter = reporter is None, reporter or QuietReporter()
    findings = import_annotations(
        Path(source),
        Path(out),
        import_options(ConfigFile(), options),
        reporter,
        annotations=None if annotations is None else Path(annotations),
        slides_roots=_slides_roots(slides_roots),
        overwrite=overwrite,
    )
    worth_a_look = [finding for finding in findings if finding.severity != "note"]
    if quiet and worth_a_look:
        page = Path(out) / REPORT_PAGE
        reporter.warn(f"{count_text(worth_a_look)}, the first: {worth_a_look[0].line()} (all are in {page})")
    return Dataset(Path(out))


def train(
    dataset: Dataset | AnyPath,
    out: AnyPath,
    *,
    overwrite: bool = False,
    resume: bool = False,
    slides_roots: AnyPath | Sequence[AnyPath] = (),
    reporter: Reporter | None = None,
    **options: Any,
) -> Path:
    """Trains a model and keeps the best epoch, as ``dmmn-qp train`` does.

    Args:
        dataset: A dataset, or its folder.
        out: The model folder to write.
        overwrite: Whether an existing model may be replaced.
        resume: Whether to go on with the training that was interrupted in ``out``, with its own options.
        slides_roots: Where to look for slides that have been moved: folders, or ``OLD=NEW``.
        reporter: Where to report.
        options: Those of ``[train]`` in the configuration file, such as ``preset="paper"`` or ``epochs=10``.

    Returns:
        ``out``, which `load_model`, `predict_array` and `predict_slide` take.

    Raises:
        ConfigError: An option is unknown or out of range, or given to a training that is resumed.
        DatasetError: The dataset cannot be trained on.
        OutputExistsError: ``out`` exists.
        TrainingError: The loss is no number any more, or the memory does not suffice.
    """
    from dmmn_qp.cli.config import ConfigFile, train_options
    from dmmn_qp.training.stage import train
    from dmmn_qp.training.state import CHANGEABLE, load_state

    given = ConfigFile()
    if resume:
        changed = sorted(options.keys() - CHANGEABLE)
        if changed or overwrite:
            raise ConfigError(
                f"resume=True goes on as the training began; leave out {', '.join(changed) or 'overwrite'}"
            )
        given = ConfigFile(train=load_state(Path(out)).options)
    return train(
        _folder_of(dataset),
        Path(out),
        train_options(given, options),
        reporter or QuietReporter(),
        overwrite=overwrite,
        resume=resume,
        slides_roots=_slides_roots(slides_roots),
    )


def build_network(
    contract: HasContract | AnyPath,
    architecture: str = "dmmn-m3",
    *,
    width: int | None = None,
    norm: Norm = "none",
    stem: Stem = "full",
) -> Stemmed:
    """Builds a network with random weights for the classes and patches of a dataset or of a model.

    It takes M images (B, 3, S, S) float32 in a list, finest magnification first, RGB 0 .. 1, as `Patches` gives them,
    and answers with logits (B, C, S, S); output ``i`` is the class of label ``i + 1``. The defaults are the paper's.

    Args:
        contract: What has the classes and the patch geometry: a dataset or a model, or its folder.
        architecture: Which network.
        width: Base width f; the paper's unless given, which a CPU takes long for.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.

    Raises:
        ModelError: The architecture is unknown or does not fit the patches.
    """
    from dmmn_qp.networks import ARCHITECTURES, build_network

    contract = _contract_of(contract)
    spec = contract.patch_spec
    if width is None:
        width = ARCHITECTURES[architecture].paper_width if architecture in ARCHITECTURES else 1
    return build_network(
        architecture,
        classes=len(contract.class_map),
        width=width,
        magnifications=len(spec.mpps),
        size_px=spec.size_px,
        norm=norm,
        stem=stem,
    )


def partial_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, *, mean: LossMean = "patch"
) -> Tensor:
    """The paper's loss (Eq. 1): weighted cross entropy in which unlabelled pixels count nothing.

    Args:
        logits: (B, C, S, S); output ``i`` stands for label ``i + 1``.
        target: (B, S, S) int64 labels, 0 = unlabelled.
        weights: (C,) weights of the classes, such as `Patches.class_weights` (Eq. 2); all 1 unless given.
        mean: ``patch`` divides by all pixels (the paper), ``labelled`` by the weights of those that are labelled.

    Returns:
        Scalar; 0 with zero gradient where no pixel is labelled.
    """
    from dmmn_qp.networks.losses import partial_cross_entropy

    if weights is None:
        weights = logits.new_ones(logits.shape[1])
    return partial_cross_entropy(logits, target, weights.to(logits.device), mean)


def save_model(
    folder: AnyPath,
    network: Stemmed,
    dataset: Dataset | AnyPath,
    *,
    validation: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Model:
    """Writes a network that was trained in a loop of one's own as a model folder that all commands take.

    Args:
        folder: The model folder to write.
        network: What `build_network` built for this dataset.
        dataset: What it was trained on, or its folder.
        validation: Figures to keep in the card.
        overwrite: Whether an existing model may be replaced.

    Returns:
        The model in memory, with that very network.

    Raises:
        ModelError: The network is not one of this dataset's classes and patches, or holds numbers that are not finite.
        OutputExistsError: The folder exists and may not be replaced.
    """
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.training.own_loop import save_own_model

    trained_on = Dataset(_folder_of(dataset))
    return Model(save_own_model(Path(folder), network, trained_on, validation=validation, overwrite=overwrite), network)


def load_model(folder: AnyPath) -> Model:
    """Reads a model: its card, and its network in evaluation mode on the CPU.

    Raises:
        ModelError: The folder is missing or damaged.
    """
    from dmmn_qp.folders.model import load_model

    return Model(*load_model(Path(folder)))


def predict_array(
    pixels: ArrayLike,
    mpp: float,
    model: Model | AnyPath,
    *,
    context: Context = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    tta: bool = False,
    batch_size: int | None = None,
) -> LabelArray:
    """Predicts pixels in memory, to the labels that `predict_slide` gives a slide of these pixels.

    Args:
        pixels: (rows, columns, 3) uint8 RGB; outside is 0, as outside a slide.
        mpp: Their um/px, not coarser than the model's finest magnification.
        model: A model, or its folder; a model in memory computes where it lies unless told, and stays as it is.
        context: How targets see what is around them.
        precision: ``auto`` takes bf16 where the device has instructions for it.
        device: Where to compute.
        tta: Whether to take the mean over the eight turned and mirrored copies.
        batch_size: Targets per forward pass; fitted to the device unless given.

    Returns:
        (rows, columns) uint8, 1 .. C in the order of ``class_map``, on the grid of the model's finest magnification:
        of the shape of ``pixels`` where ``mpp`` is that, of half its sides where pixels are twice as fine.

    Raises:
        SlideError: The array is none of RGB bytes.
        PixelSizeError: The pixel size is implausible, or coarser than the model needs.
        ModelError: The model is missing or damaged, or cannot see its context as asked.
        ConfigError: The device is not there, or an option is out of range.
    """
    chosen = {"context": context, "precision": precision, "device": device, "tta": tta, "batch_size": batch_size}
    return _predicted(pixels, mpp, model, chosen).labels


def predict_probabilities(
    pixels: ArrayLike,
    mpp: float,
    model: Model | AnyPath,
    *,
    context: Context = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    tta: bool = False,
    batch_size: int | None = None,
) -> NDArray[np.uint8]:
    """Predicts the probability of each class, of which `predict_array` gives the label of the largest.

    Args:
        pixels: As for `predict_array`, and so are all others.
        mpp: Their um/px.
        model: A model, or its folder.
        context: How targets see what is around them.
        precision: ``auto`` takes bf16 where the device has instructions for it.
        device: Where to compute.
        tta: Whether to take the mean over the eight turned and mirrored copies.
        batch_size: Targets per forward pass; fitted to the device unless given.

    Returns:
        (C, rows, columns) uint8, 255 is 1; class ``i`` has label ``i + 1``. On the grid of `predict_array`.

    Raises:
        DmmnQpError: As `predict_array`.
    """
    chosen = {"context": context, "precision": precision, "device": device, "tta": tta, "batch_size": batch_size}
    found = _predicted(pixels, mpp, model, {**chosen, "probabilities": True}).probabilities
    assert found is not None
    return found


def predict_slide(
    slide: AnyPath,
    model: AnyPath,
    out: AnyPath = "predictions",
    *,
    roi: AnyPath | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> SlidePrediction:
    """Predicts one slide of any size, as ``dmmn-qp predict`` does; what is finished is returned as it is.

    Args:
        slide: The slide.
        model: The model's folder.
        out: Folder to write into; what is there of other slides stays.
        roi: GeoJSON of the areas to predict, in level-0 px.
        overwrite: Whether an earlier prediction of the slide is replaced.
        reporter: Where to report.
        options: Those of ``[predict]`` in the configuration file, such as ``mpp=0.25`` or ``tissue_only=True``.

    Returns:
        Where everything is: ``polygons`` is the GeoJSON, ``read_labels()`` gives (rows, columns) uint8.

    Raises:
        ConfigError: An option is unknown or out of range.
        PredictedOtherwiseError: The folder holds another prediction under the slide's name.
        DmmnQpError: The slide or the model cannot be read, or they do not fit together.
    """
    from dmmn_qp.cli.config import ConfigFile, predict_options
    from dmmn_qp.predicting.api import predict_slide

    return predict_slide(
        Path(slide),
        _folder_of_model(model),
        Path(out),
        predict_options(ConfigFile(), options),
        roi=None if roi is None else Path(roi),
        overwrite=overwrite,
        reporter=reporter or QuietReporter(),
    )


def predict_slides(
    slides: Dataset | AnyPath | Sequence[AnyPath],
    model: AnyPath,
    out: AnyPath = "predictions",
    *,
    slides_roots: AnyPath | Sequence[AnyPath] = (),
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> dict[str, Path]:
    """Predicts several slides, each in the frame and with the pixel size that its project or dataset knows.

    Args:
        slides: A dataset, for all slides of it; or one or several of: a slide, a folder of slides, a pattern such as
            ``scans/**/*.svs``, a ``.qpproj`` file, a table with the columns slide, mpp and roi.
        model: The model's folder.
        out: Folder to write into; what is there of other slides stays.
        slides_roots: Where to look for slides that have been moved: folders, or ``OLD=NEW``.
        overwrite: Whether earlier predictions of these slides are replaced.
        reporter: Where to report.
        options: Those of ``[predict]`` in the configuration file.

    Returns:
        The GeoJSON of each slide, by the slide's name in file names.

    Raises:
        ConfigError: An option is unknown or out of range.
        PartlyPredictedError: Some could not be predicted; its ``written`` are those that could.
        DmmnQpError: None could be predicted, or the model cannot be read.
    """
    from dmmn_qp.cli.config import ConfigFile, predict_options
    from dmmn_qp.cli.options import DATASET
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.predicting.inputs import slides_to_predict
    from dmmn_qp.predicting.stage import predict

    names, folder = ([], slides.folder) if isinstance(slides, Dataset) else (_texts(slides), DATASET)
    if not names and not isinstance(slides, Dataset):  # no name would stand for a whole dataset
        raise ConfigError("there is no slide to predict in an empty list; name some, or pass a Dataset for all of it")
    return predict(
        _folder_of_model(model),
        slides_to_predict(names, folder, _slides_roots(slides_roots)),
        Path(out),
        predict_options(ConfigFile(), options),
        reporter or QuietReporter(),
        overwrite=overwrite,
    )


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
            reviewed them in QuPath. False is for labels that people made, and leaves the measurements out.
        options: How to make them: ``simplify_um`` (1 um unless given; 0 keeps the edges of the pixels),
            ``min_area_um2``, ``min_hole_um2``, ``merge="class"``, ``object_kind="detection"``, ``with_ignored``,
            ``max_vertices``.

    Returns:
        The objects in pixels of ``mpp``, y down, ready for `write_geojson`.

    Raises:
        ConfigError: The labels are no array of labels of these classes, or an option is unknown or out of range.
        PixelSizeError: The pixel size is implausible, or coarser than the model's.
    """
    from dmmn_qp.cli.config import polygon_options
    from dmmn_qp.outputs.array_objects import objects_of_labels

    if "gzip" in options:
        raise ConfigError("gzip is an option of files; give write_geojson a name that ends in .geojson.gz")
    spec, name = None, "labels"
    if not isinstance(classes, ClassMap):
        contract = _contract_of(classes)
        classes, spec = contract.class_map, contract.patch_spec
        name = getattr(getattr(contract, "card", contract), "name", name)
    return objects_of_labels(
        labels,
        classes,
        mpp,
        polygon_options(options),
        spec=spec,
        shape=shape,
        corner=corner,
        model=name if predicted else None,
    )


def evaluate(
    predictions: AnyPath,
    dataset: Dataset | AnyPath,
    split: Split = "test",
    *,
    truth: AnyPath | None = None,
    map: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    skip_unpredicted: bool = False,
    mixed_models: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compares predictions with what people said of a split's slides, as ``dmmn-qp evaluate`` does.

    Args:
        predictions: Folder of predictions.
        dataset: A dataset, or its folder.
        split: Which slides.
        truth: Folder of ``<slide>.png`` label maps, or one such file, to compare with as well.
        map: Predicted class -> true class, where they are named otherwise.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether pixels without a prediction are left out; else they are misses.
        mixed_models: Whether the slides may be predicted by different models.
        reporter: Where to print the tables.

    Returns:
        Figures: ``annotated`` (drawn by people), ``corrected``, ``confirmed`` and ``truth``, each with ``mean_iou`` and
        the figures of every class, or None where there are no such pixels; the others say of what.

    Raises:
        DatasetError: There are no such slides, or a prediction is missing or does not fit.
        ConfigError: A class does not exist.
    """
    from dmmn_qp.evaluating.options import EvaluationRules
    from dmmn_qp.evaluating.stage import evaluate

    maps = tuple(f"{one}={other}" for one, other in (map or {}).items())
    rules = EvaluationRules(maps, tuple(exclude), skip_unpredicted, mixed_models)
    folder = None if truth is None else Path(truth)
    return evaluate(Path(predictions), _folder_of(dataset), split, folder, reporter or QuietReporter(), rules)


class QuietReporter(Reporter):
    """Prints nothing; what the commands would print as a warning is a `DmmnQpWarning`."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))

    def warn(self, text: str) -> None:
        """Warns as Python does."""
        warnings.warn(printable(text), DmmnQpWarning, stacklevel=3)


def _with_warnings(found: ReadResult, name: str) -> list[Annotation]:
    for line in found.warnings:
        warnings.warn(printable(f"{name}: {line}"), DmmnQpWarning, stacklevel=3)
    return list(found.annotations)


def _predicted(pixels: ArrayLike, mpp: float, model: Model | AnyPath, chosen: Mapping[str, Any]) -> BlockPrediction:
    from dmmn_qp.cli.config import ConfigFile, predict_options
    from dmmn_qp.predicting.array import predict_pixels

    options = predict_options(ConfigFile(), chosen)
    return predict_pixels(pixels, mpp, model if isinstance(model, tuple) else Path(model), options)


def _folder_of(dataset: Dataset | AnyPath) -> Path:
    return Path(dataset) if isinstance(dataset, str | PathLike) else dataset.folder


def _folder_of_model(model: object) -> Path:
    if isinstance(model, str | PathLike):
        return Path(model)
    raise ConfigError(
        "the prediction of a slide records the model that it is by, so it needs a model's folder; write the model with "
        "save_model, or take predict_array"
    )


def _contract_of(given: HasContract | AnyPath) -> HasContract:
    """A dataset or a model's card, where its folder is given."""
    if not isinstance(given, str | PathLike):
        return given
    from dmmn_qp.folders.dataset import MANIFEST, Dataset
    from dmmn_qp.folders.model import load_card

    folder = Path(given)
    return Dataset(folder) if (folder / MANIFEST).is_file() else load_card(folder)


def _slides_roots(roots: AnyPath | Sequence[AnyPath]) -> tuple[Any, ...]:
    from dmmn_qp.slides.finding import parse_slides_root

    return tuple(parse_slides_root(text) for text in _texts(roots))


def _texts(paths: AnyPath | Sequence[AnyPath]) -> list[str]:
    """Paths as texts; a single one is not its letters."""
    return [str(path) for path in ((paths,) if isinstance(paths, str | PathLike) else paths)]
