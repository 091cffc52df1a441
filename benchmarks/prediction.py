"""How a slide is predicted: the scheme of the authors' loop, targets for themselves, and targets that share contexts.

    python -m benchmarks.prediction [--slide FILE] [--model FOLDER] [--width 32] [--side 8192 | --paper] [--device cuda]

In one run, on the same slide with the same weights, each way in a process of its own: seconds from the slide to the label
raster on disk, and what they were spent on. Reading is processor time of all threads, so it may exceed what the network
waited; preparing is turning bytes into the network's input. Then targets a second, the ratio to the first row, agreement
of the labels with "patch, fp32", and the peak of resident memory.

The authors' loop takes every n-th pixel, so it agrees only where the model wants that too. Without a slide one with JPEG
tiles and a pyramid is drawn, with --paper of the size of the paper's (53,711 x 38,380 px; the authors' loop is then left
out). Without a model the weights are random, which is the pessimistic end for agreement. With --truth PNG (labels of the
slide) the mIoU of each way is printed too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage

from dmmn_qp import inference
from dmmn_qp.checkpoint import CARD, WEIGHTS, InputConvention, ModelCard, NetworkOptions
from dmmn_qp.config import PredictOptions
from dmmn_qp.dataset import LabelRaster
from dmmn_qp.devices import choose_bf16, choose_device, network_inputs, predicted_labels
from dmmn_qp.inference import load_predictors
from dmmn_qp.metrics import ConfusionMatrix
from dmmn_qp.ome_tiff import write_label_pyramid
from dmmn_qp.predict_inputs import SlideToPredict
from dmmn_qp.prediction import SlidePredictor
from dmmn_qp.regions import Region
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.strips import StripStore

SIZE, FIELD = 256, 1024
PAPER = (53_711, 38_380)
DRAWN = 4096
"""Side of what is drawn; a larger slide repeats it."""
