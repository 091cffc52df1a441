"""Training, with the loop of the commands or with one of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmmn_qp.api.arguments import AnyPath, QuietReporter, dataset_folder, parsed_slides_roots
from dmmn_qp.choices import LossMean
from dmmn_qp.console import Reporter
from dmmn_qp.files.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from dmmn_qp.folders.dataset import Dataset


def train(
    dataset: Dataset | AnyPath,
    out: AnyPath,
    *,
    overwrite: bool = False,
    resume: bool = False,
    take_over: bool = False,
    accept: bool = False,
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
        take_over: Whether to train in ``out`` although another machine, which has stopped, seems to be at work there.
        accept: Whether to accept the model even if it is worse than the one that it started from.
        slides_roots: Where to look for slides that have been moved: folders, or ``OLD=NEW``.
        reporter: Where to report.
        options: Those of ``[train]`` in the configuration file, such as ``preset="paper"`` or ``epochs=10``.

    Returns:
        ``out``, which `load_model`, `predict_array` and `predict_slide` take.

    Raises:
        ConfigError: An option is unknown or out of range, or given to a training that is resumed.
        DatasetError: The dataset cannot be trained on.
        InUseError: Another training is running in ``out``.
        OutputExistsError: ``out`` exists.
        TrainingError: The loss is not finite, or the memory does not suffice.
    """
    from dmmn_qp.cli.config import Arguments, ConfigFile, check_resumed, train_options
    from dmmn_qp.training.holding import held
    from dmmn_qp.training.stage import train
    from dmmn_qp.training.state import load_state

    given, before = Arguments("train", options), ConfigFile()
    if resume:
        check_resumed(given, ["overwrite"] if overwrite else [])
    with held(user_path(out), take_over=take_over) as folder:
        if resume:
            before = ConfigFile(train=load_state(folder).options)
        return train(
            dataset_folder(dataset),
            folder,
            train_options(before, given),
            reporter or QuietReporter(),
            overwrite=overwrite,
            resume=resume,
            accept=accept,
            slides_roots=parsed_slides_roots(slides_roots),
        )


def partial_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, *, mean: LossMean = "patch"
) -> Tensor:
    """Computes the paper's loss (Eq. 1): weighted cross entropy in which unlabelled pixels count nothing.

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
