"""Words that an option may be: the command line, the configuration and the code take them from here."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
Preset = Literal["fast", "scratch", "paper", "official"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Norm = Literal["none", "batch", "group"]
"""Normalisation after each convolution; the paper has none."""

Stem = Literal["full", "half", "quarter"]
"""Resolution at which a network computes; the paper's is full."""

Padding = Literal["zeros", "replicate"]
"""What convolutions see beyond the border of a map: zeros, as in the paper, or the map's own border again."""

Views = Literal[1, 3, 8]
"""Over how many turned and mirrored copies of a picture a mean is taken."""


def number_of_views(given: object) -> object:
    """Reads a number of views that was typed; anything else is left as it is, for whoever checks it."""
    return int(given) if isinstance(given, str) and given.isdecimal() and len(given) == 1 else given


DEFAULT_ENCODER = "efficientnet-lite0"
"""Which pretrained encoder a network is built on unless another is asked for."""

Context = Literal["auto", "patch", "blended", "shared", "shared-coarsest", "seamless", "blocks"]
"""How a target sees what is around it: ``patch`` its own fields, zero-padded, as the paper; ``blended`` likewise, but
targets overlap and are averaged; ``shared`` coarser branches that are computed once for many neighbouring targets;
``shared-coarsest`` the coarsest of them alone; ``seamless`` without a border anywhere; ``blocks`` many targets at once
with a margin of tissue around them, for networks on a pretrained encoder; ``auto`` that for these, seamless for those
that repeat their borders, shared where it agrees with the paper, blended behind a stem, else patch.
"""

RasterFormat = Literal["tiff", "zarr", "zarr-0.4"]
"""Files of predicted rasters: OME-TIFF alone, or OME-Zarr 0.5 (``zarr``) or 0.4 beside it."""

Outside = Literal["background", "unlabelled"]
"""Label of what is not predicted: the class of the background, or none."""

Channels = Literal["RGB", "BGR"]
"""Order of the colour channels that a network is given."""

Reduction = Literal["area", "decimate"]
"""How a lower magnification is made from finer pixels: their mean, or every ``2**m``-th pixel of the finest."""

Beyond = Literal["black", "mirror"]
"""What a network sees beyond the slide: black, as the paper's zero padding, or the slide's own pixels mirrored."""

ExportFormat = Literal["torchscript", "onnx"]
"""Files for other programs that a model can be written as."""

LossMean = Literal["patch", "labelled"]
"""What the loss is divided by: all pixels (Eq. 1), or the weights of the labelled ones."""

WeightRule = Literal["paper", "inverse-sqrt"]
"""Weights of the classes: Eq. 2, or the inverse square root of their frequency."""

Sampler = Literal["shuffled", "balanced", "elastic"]
"""Every patch equally often; the classes in turn; or every patch and its deformed copies (paper, section 2.3)."""

ColorRule = Literal["mild", "paper", "hed", "none"]
"""Random changes of colour: slight ones of contrast, brightness and channels; the paper's kinds (brightness, contrast,
hue and saturation); of the stains' amounts; or none."""

Optimizer = Literal["sgd", "adamw"]

ValidationSplit = Literal["val", "train"]
"""Whose patches choose the epoch that is kept."""

Freeze = Literal["none", "encoder"]
"""Which part of a network keeps its weights when training starts from a model."""

Reader = Literal["auto", "qpdata", "paquo"]
"""How objects of a QuPath project are read: ``qpdata`` directly; ``paquo`` through QuPath itself; ``auto`` directly,
and through QuPath what the direct reader does not know.
"""

TakePredictions = Literal["reviewed", "locked", "all", "none"]
"""Which of our own predictions an import takes as labels: those that somebody vouched for, by locking them or changing
their class or outline; those that are locked, whoever locked them; all; or none.
"""

OverlapRule = Literal["inner", "class-order", "smallest", "drawing", "depth", "unlabelled"]
"""Which of several areas of different classes labels a pixel.

``inner`` the one that lies inside the other, and where neither does, that of ``class-order``; ``class-order`` the
class that comes first in the class map, the paper's class order (section 2.3); ``smallest`` the smallest area;
``drawing`` the one drawn last; ``depth`` the one that lies deepest in QuPath's hierarchy; ``unlabelled`` none of them.
"""

Merge = Literal["region", "class"]
"""What becomes one object in QuPath: a connected region, or all regions of a class."""

ShownAs = Literal["annotation", "detection"]
"""What predicted regions are in QuPath."""
