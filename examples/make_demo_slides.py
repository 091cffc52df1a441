"""Draws the example data: synthetic H&E-like slides, their full truth, and partial annotations for QuPath.

Usage: ``python examples/make_demo_slides.py OUT [NAME ...]``. Beside the toolkit's own dependencies (numpy,
scipy, pillow, tifffile, shapely) it needs scikit-image, and imagecodecs for the JPEG tiles.

Everything is drawn by this program from fixed seeds; no picture is used. Program and output are CC0 1.0.

The slides are made so that a single high magnification is not enough. Benign glands and carcinoma share
nuclei, cytoplasm, walls and holes; what tells them apart is architecture: round rings about one lumen,
grouped in lobules, against large irregular sheets. Glass, fat cells, lumina and clefts are all the same
white; only what surrounds them tells which is which.

Conventions: coordinates and lengths are level-0 pixels of 0.5 um (20x), x to the right and y down, top-left
origin. The order of the random draws is part of the output: moving one changes every slide.
"""

from __future__ import annotations

import argparse
import json
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree
from shapely.geometry import MultiPolygon, Polygon, box, mapping
from shapely.geometry.base import BaseGeometry
from skimage.measure import find_contours

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer[Any]]
LabelArray = npt.NDArray[np.uint8]
Window = tuple[slice, slice]
Artefact = Literal["pen", "fold"]

SIDE_PX = 3072
MPP = 0.5
PYRAMID_DOWNSAMPLES = (1, 4, 16)

ARTEFACT, CARCINOMA, BENIGN, BACKGROUND, STROMA, NECROTIC, ADIPOSE = range(7)
"""Pixel values of the truth; 0 is the artefact, about which there is no truth."""


class AnnotationClass(NamedTuple):
    """A class as QuPath's GeoJSON names it: full name, and red, green, blue."""

    name: str
    color: tuple[int, int, int]


CLASSES = {
    CARCINOMA: AnnotationClass("carcinoma", (255, 0, 0)),
    BENIGN: AnnotationClass("benign epithelial", (0, 0, 255)),
    BACKGROUND: AnnotationClass("background", (255, 255, 0)),
    STROMA: AnnotationClass("stroma", (0, 160, 0)),
    NECROTIC: AnnotationClass("necrotic", (128, 128, 128)),
    ADIPOSE: AnnotationClass("adipose", (255, 165, 0)),
}
IGNORE = AnnotationClass("Ignore*", (180, 180, 180))

SLIDES: dict[str, Artefact | None] = {"train-1": "pen", "train-2": "fold", "val-1": None, "test-1": None}
"""Artefact of each slide. A slide with an artefact is also annotated untidily."""


class Circle(NamedTuple):
    """A circle in level-0 pixels."""

    x: float
    y: float
    radius: float


class Annotation(NamedTuple):
    """One outline; without a class it is a note that nothing should be trained on."""

    annotation_class: AnnotationClass | None
    geometry: BaseGeometry


@dataclass(slots=True)
class Tissue:
    """What lies where on one slide. Arrays are (rows, columns) of the slide and are filled step by step.

    Attributes:
        labels: Class of each pixel, as in the truth.
        holes: White holes of the epithelia: lumina, clefts and cysts.
        components: Number of the epithelial component; every component has its own looks.
        wall_distance: Distance to the next wall between fat cells, in px.
    """

    labels: LabelArray
    holes: BoolArray
    components: IntArray
    wall_distance: FloatArray


@dataclass(frozen=True, slots=True)
class Wobble:
    """Smooth random fields that bend every outline, named after their feature size in px."""

    px60: FloatArray
    px120: FloatArray
    px260: FloatArray
    px600: FloatArray


@dataclass(slots=True)
class Stain:
    """Optical densities of the two dyes, (rows, columns) of the slide."""

    haematoxylin: FloatArray
    eosin: FloatArray


# -------------------------------------------------------------------------------------------- building blocks


@cache
def pixel_grid() -> tuple[FloatArray, FloatArray]:
    """(y, x) of every pixel of a slide in px; made on first use, so that importing costs nothing."""
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float32)
    return y, x


def noise(rng: np.random.Generator, wavelength_px: float, side_px: int = SIDE_PX) -> FloatArray:
    """Smooth random field about 0 with a standard deviation of about 1.3.

    Args:
        rng: Source of randomness.
        wavelength_px: Size of the features.
        side_px: Rows and columns of the field.
    """
    cells = max(4, int(np.ceil(side_px / wavelength_px)) + 3)
    grid = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    margin = (cells - side_px / wavelength_px) / 2
    end = margin + side_px / wavelength_px
    field = grid.resize((side_px, side_px), Image.Resampling.BICUBIC, box=(margin, margin, end, end))
    return np.asarray(field) / 0.62


def place_circles(
    rng: np.random.Generator,
    allowed: BoolArray,
    radii: Sequence[float] | FloatArray,
    taken: list[Circle],
    gap: float,
    *,
    shrink: float = 0.93,
    tries: int = 400,
    room: float = -np.inf,
) -> list[Circle]:
    """Puts circles at random places, away from others; one that finds no place shrinks, or is left out.

    Args:
        rng: Source of randomness.
        allowed: Where centres may lie.
        radii: Wanted radii in px, placed in this order.
        taken: Circles that are there already.
        gap: Least distance in px between two circles; negative where they may overlap.
        shrink: Factor of a radius after every 40 failures.
        tries: Failures before a circle is left out.
        room: Least distance in px from circle to border of ``allowed``; by default the centre decides.
    """
    step = 8
    placed: list[Circle] = []
    free = step * ndimage.distance_transform_edt(allowed[::step, ::step])
    rows, columns = np.nonzero(free)
    for wanted in radii:
        radius = wanted
        for attempt in range(tries):
            i = rng.integers(len(columns))
            x, y = columns[i] * float(step), rows[i] * float(step)
            if free[rows[i], columns[i]] > radius + room and all(
                np.hypot(x - other.x, y - other.y) > radius + other.radius + gap for other in taken + placed
            ):
                placed.append(Circle(x, y, radius))
                break
            if attempt % 40 == 39:
                radius *= shrink
    return placed


def window_about(circle: Circle, factor: float = 1.9) -> Window:
    """(rows, columns) of a square about a circle, cut at the slide; its half side is ``factor`` radii."""

    def span(centre: float) -> slice:
        low, high = centre - factor * circle.radius, centre + factor * circle.radius
        return slice(int(np.clip(low, 0, SIDE_PX)), int(np.clip(high, 0, SIDE_PX)))

    return span(circle.y), span(circle.x)


def relative_distance(window: Window, circle: Circle, angle: float = 0.0, aspect: float = 1.0) -> FloatArray:
    """Distance from the circle's centre over its radius, within a window.

    Args:
        window: (rows, columns) of the slide.
        circle: Centre and radius.
        angle: Direction of the long axis in radians.
        aspect: Stretches the circle to an ellipse of the same area.
    """
    rows, columns = pixel_grid()
    dx, dy = columns[window] - circle.x, rows[window] - circle.y
    cosine, sine = np.cos(angle), np.sin(angle)
    along, across = (dx * cosine + dy * sine) / aspect, (dy * cosine - dx * sine) * aspect
    return np.hypot(along, across) / circle.radius


def within_circles(circles: Sequence[Circle], factor: float) -> BoolArray:
    """Pixels of the slide within ``factor`` radii of any circle."""
    rows, columns = pixel_grid()
    return np.any([np.hypot(columns - c.x, rows - c.y) < factor * c.radius for c in circles], 0)


def components(mask: BoolArray, least_px: int) -> Iterator[BoolArray]:
    """Connected parts of a mask with at least ``least_px`` pixels, each as a mask of the same shape."""
    ids, _ = ndimage.label(mask)
    for number, window in enumerate(ndimage.find_objects(ids), 1):
        part = np.zeros(mask.shape, bool)
        part[window] = ids[window] == number
        if part[window].sum() >= least_px:
            yield part


def eroded_coarsely(mask: BoolArray, step: int, iterations: int) -> BoolArray:
    """Erosion by ``step * iterations`` px, computed on every ``step``-th pixel."""
    eroded = ndimage.binary_erosion(mask[::step, ::step], iterations=iterations)
    return eroded.repeat(step, 0).repeat(step, 1)


def dilated_coarsely(mask: BoolArray, step: int, iterations: int) -> BoolArray:
    """Dilation by ``step * iterations`` px, computed on every ``step``-th pixel."""
    dilated = ndimage.binary_dilation(mask[::step, ::step], iterations=iterations)
    return dilated.repeat(step, 0).repeat(step, 1)


# ----------------------------------------------------------------------------------------------------- layout


def lay_out(rng: np.random.Generator) -> Tissue:
    """Decides what lies where on a slide."""
    wobble = Wobble(noise(rng, 60), noise(rng, 120), noise(rng, 260), noise(rng, 600))
    section = _section(rng, wobble)
    inner = eroded_coarsely(section, 8, 30)
    masses = place_circles(rng, inner, rng.uniform([430, 370, 300], [500, 430, 360]), [], 30)
    lobule_radii = rng.uniform([380, 340, 300, 240], [440, 400, 360, 300])
    lobules = place_circles(rng, inner, lobule_radii, masses, 0, room=-150)
    fat_radii = rng.uniform([440, 390, 300], [510, 450, 360])
    fat_lobes = place_circles(rng, section, fat_radii, masses + lobules, -50, room=-260)
    tissue = Tissue(
        labels=np.where(section, STROMA, BACKGROUND).astype(np.uint8),
        holes=np.zeros((SIDE_PX, SIDE_PX), bool),
        components=np.zeros((SIDE_PX, SIDE_PX), np.int32),
        wall_distance=np.zeros((SIDE_PX, SIDE_PX), np.float32),
    )
    _add_fat(rng, tissue, wobble, fat_lobes)
    _add_masses(rng, tissue, wobble, masses)
    about_masses = within_circles(masses, 1.75) & (tissue.labels == STROMA) & inner
    _add_nests(rng, tissue, wobble, about_masses, lobules)
    beside_necrosis = ndimage.binary_dilation(tissue.labels == NECROTIC, iterations=1)
    tissue.labels[beside_necrosis & (tissue.labels == STROMA)] = CARCINOMA
    tissue.components, _ = ndimage.label(tissue.labels == CARCINOMA)
    _add_lobules(rng, tissue, wobble, lobules, section)
    _remove_specks(tissue.labels)
    tissue.holes &= (tissue.labels == CARCINOMA) | (tissue.labels == BENIGN)
    return tissue


def _section(rng: np.random.Generator, wobble: Wobble) -> BoolArray:
    """The piece of tissue; it lies off centre, so that glass fills one side of the slide."""
    rows, columns = pixel_grid()
    angle = rng.uniform(0, 2 * np.pi)
    across = (columns / SIDE_PX - 0.5 - 0.16 * np.cos(angle)) / 0.56
    down = (rows / SIDE_PX - 0.5 - 0.16 * np.sin(angle)) / 0.53
    return np.hypot(across, down) + 0.075 * wobble.px600 + 0.012 * wobble.px120 < 1


def _add_fat(rng: np.random.Generator, tissue: Tissue, wobble: Wobble, lobes: list[Circle]) -> None:
    """Fat lobes: whole cells of a warped Voronoi diagram, so that no cell is cut by the lobe's border."""
    rows, columns = pixel_grid()
    everywhere = np.ones((SIDE_PX, SIDE_PX), bool)
    seeds = np.array(place_circles(rng, everywhere, [84] * 330, [], -14, shrink=1.0, tries=60))[:, :2]
    seeds += rng.normal(0, 14, seeds.shape)
    in_lobe = np.any([np.hypot(seeds[:, 0] - c.x, seeds[:, 1] - c.y) < 0.92 * c.radius for c in lobes], 0)
    warped_x = columns + 16 * wobble.px120 + 3 * wobble.px60
    warped_y = rows + 16 * wobble.px260 + 3 * noise(rng, 60)
    distances, nearest = cKDTree(seeds).query(np.c_[warped_x.ravel(), warped_y.ravel()], k=3, workers=-1)
    distances, nearest = distances.reshape(SIDE_PX, SIDE_PX, 3), nearest.reshape(SIDE_PX, SIDE_PX, 3)
    cells = in_lobe[nearest[..., 0]] & (distances[..., 0] < 170) & (tissue.labels == STROMA)
    tissue.labels[cells] = ADIPOSE
    to_second, to_third = distances[..., 1] - distances[..., 0], distances[..., 2] - distances[..., 0]
    tissue.wall_distance = np.minimum(to_second, 0.45 * to_third).astype(np.float32)
    lobe_border = ndimage.binary_dilation(~cells, iterations=3)
    tissue.wall_distance[lobe_border] = 0


def _add_masses(rng: np.random.Generator, tissue: Tissue, wobble: Wobble, masses: list[Circle]) -> None:
    """Carcinoma: sheets cut by septa, with clefts and cysts; the first two masses have a necrotic core."""
    labels = tissue.labels
    septa = np.abs(noise(rng, 330) + 0.25 * wobble.px60) < 0.10
    for number, mass in enumerate(masses):
        window = window_about(mass)
        bent = relative_distance(window, mass) + 0.20 * wobble.px260[window] + 0.07 * wobble.px120[window]
        body = (bent < 1) & (labels[window] == STROMA)
        labels[window][body & ~septa[window]] = CARCINOMA
        x = mass.x + rng.uniform(-0.2, 0.2) * mass.radius
        y = mass.y + rng.uniform(-0.2, 0.2) * mass.radius
        to_core = relative_distance(window, Circle(x, y, 0.5 * mass.radius))
        bent_core = to_core + 0.16 * wobble.px120[window] + 0.05 * wobble.px60[window] < 1
        core = body & bent_core & (number < 2)
        viable_rim = ndimage.binary_dilation(core, iterations=45) & body
        labels[window][viable_rim] = CARCINOMA
        labels[window][core] = NECROTIC
        viable = np.zeros((SIDE_PX, SIDE_PX), bool)
        viable[window] = (labels[window] == CARCINOMA) & ~ndimage.binary_dilation(core, iterations=30)
        for cleft in place_circles(rng, viable, rng.uniform(22, 105, 9), [], 30, room=14):
            hole = window_about(cleft)
            to_cleft = relative_distance(hole, cleft, rng.uniform(0, 3), rng.uniform(1, 1.4))
            opened = (to_cleft + 0.13 * wobble.px60[hole] < 1) & (labels[hole] == CARCINOMA)
            tissue.holes[hole] |= opened


def _add_nests(
    rng: np.random.Generator, tissue: Tissue, wobble: Wobble, allowed: BoolArray, lobules: list[Circle]
) -> None:
    """Satellite nests of carcinoma, where ``allowed`` and not in a benign lobule."""
    labels = tissue.labels
    for nest in place_circles(rng, allowed, rng.uniform(60, 190, 14), lobules, 12, room=10):
        window = window_about(nest)
        distance = relative_distance(window, nest, rng.uniform(0, 3), rng.uniform(1, 1.5))
        bent = distance + 0.22 * wobble.px120[window] + 0.10 * wobble.px60[window]
        labels[window][(bent < 1) & (labels[window] == STROMA)] = CARCINOMA


def _add_lobules(
    rng: np.random.Generator, tissue: Tissue, wobble: Wobble, lobules: list[Circle], section: BoolArray
) -> None:
    """Benign lobules: round rings about a lumen, close together."""
    labels = tissue.labels
    number = int(tissue.components.max())
    for lobule in lobules:
        radii = np.r_[rng.uniform(0.33, 0.46, 2) * lobule.radius, rng.uniform(70, 150, 16)]
        allowed = within_circles([lobule], 1) & (labels == STROMA) & section
        for gland in place_circles(rng, allowed, radii, [], 14, shrink=0.9, room=16):
            number += 1
            window = window_about(gland)
            distance = relative_distance(window, gland, rng.uniform(0, 3), rng.uniform(1, 1.18))
            bent = distance + 0.05 * wobble.px120[window]
            body = (bent < 1) & (labels[window] == STROMA)
            labels[window][body] = BENIGN
            tissue.components[window][body] = number
            lumen = rng.uniform(0.12, max(0.2, min(0.72, 1 - 38 / gland.radius)))
            tissue.holes[window] |= body & (bent + 0.06 * wobble.px60[window] < lumen)


def _remove_specks(labels: LabelArray, least_px: int = 900) -> None:
    """Turns what the noise tore off the classes' components into stroma."""
    for label in (CARCINOMA, BENIGN, NECROTIC, ADIPOSE):
        ids, count = ndimage.label(labels == label)
        small = np.bincount(ids.ravel(), minlength=count + 1) < least_px
        labels[small[ids] & (ids > 0)] = STROMA


# --------------------------------------------------------------------------------------------------- painting


def fibres(rng: np.random.Generator, direction: FloatArray) -> FloatArray:
    """Streaks of about unit variance along a field of directions (radians).

    Noise is integrated along the lines of the field, at half resolution.
    """
    side = SIDE_PX // 2
    coarse = direction[::2, ::2]
    grains = ndimage.gaussian_filter(rng.standard_normal((side, side)).astype(np.float32), 1.1)
    total: FloatArray = np.zeros((side, side), np.float32)
    for sign in (1, -1):
        y, x = np.mgrid[0:side, 0:side].astype(np.float32)
        for _ in range(12):
            angle = ndimage.map_coordinates(coarse, [y, x], order=0, mode="nearest")
            y, x = y + 1.6 * sign * np.sin(angle), x + 1.6 * sign * np.cos(angle)
            total = total + ndimage.map_coordinates(grains, [y, x], order=1, mode="reflect")
    streaks = Image.fromarray(total / total.std())
    return np.asarray(streaks.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


def scatter(rng: np.random.Generator, mask: BoolArray, spacing_px: float, jitter: float = 0.21) -> FloatArray:
    """Points of a jittered hexagonal grid that fall inside a mask.

    Args:
        rng: Source of randomness.
        mask: Where points may lie.
        spacing_px: Distance of neighbours.
        jitter: Standard deviation of the displacement, in spacings.

    Returns:
        (n, 2) array of x, y in px.
    """
    in_row, in_column = int(SIDE_PX / spacing_px), int(SIDE_PX / spacing_px / 0.87)
    points = np.array(
        [
            (x * spacing_px + (y % 2) * spacing_px / 2, y * spacing_px * 0.87)
            for y in range(in_column)
            for x in range(in_row)
        ]
    )
    points += rng.normal(0, jitter * spacing_px, points.shape)
    points = points[(points > 8).all(1) & (points < SIDE_PX - 9).all(1)]
    return points[mask[points[:, 1].astype(int), points[:, 0].astype(int)]]


class NucleusPainter:
    """Draws nuclei into the map of haematoxylin."""

    def __init__(self, haematoxylin: FloatArray, texture: FloatArray) -> None:
        """Keeps the map that `draw` changes in place, and the chromatin's texture."""
        self.haematoxylin = haematoxylin
        self.texture = texture

    def draw(
        self,
        centre: tuple[float, float],
        half_axes: tuple[float, float],
        angle: float,
        density: float,
        *,
        rim: float = 0.3,
    ) -> None:
        """One nucleus.

        Args:
            centre: x, y in px.
            half_axes: Half length and half width in px.
            angle: Direction of the length in radians.
            density: Optical density at the rim.
            rim: How much paler the centre is.
        """
        x, y = centre
        length, width = half_axes
        margin = int(max(length, width)) + 3
        window = (
            slice(max(int(y) - margin, 0), int(y) + margin),
            slice(max(int(x) - margin, 0), int(x) + margin),
        )
        ellipse = Circle(x, y, np.sqrt(length * width))
        distance = relative_distance(window, ellipse, angle, np.sqrt(length / width))
        inside = np.clip((1.08 - distance) * 3.2, 0, 1)
        chromatin = 1 - rim + rim * np.minimum(distance, 1) ** 2 + 0.16 * self.texture[window]
        self.haematoxylin[window] = np.maximum(self.haematoxylin[window], density * (inside * chromatin))


def paint(rng: np.random.Generator, tissue: Tissue, artefact: Artefact | None) -> tuple[LabelArray, BoolArray]:
    """Paints a slide through the optical densities of its two dyes.

    Args:
        rng: Source of randomness.
        tissue: What lies where.
        artefact: What to spoil the slide with.

    Returns:
        RGB picture (rows, columns, 3), and the mask of the artefact.
    """
    labels = tissue.labels
    sensor_noise = rng.standard_normal((SIDE_PX, SIDE_PX)).astype(np.float32)
    texture, mottle30, mottle90 = noise(rng, 3), noise(rng, 30), noise(rng, 90)
    direction = 1.3 * noise(rng, 620) + 0.35 * noise(rng, 170)
    streaks = fibres(rng, direction)
    epithelium = ((labels == CARCINOMA) | (labels == BENIGN)) & ~tissue.holes
    white = (labels == BACKGROUND) | tissue.holes | ((labels == ADIPOSE) & (tissue.wall_distance > 3.6))
    stroma, necrosis, fat_walls = labels == STROMA, labels == NECROTIC, (labels == ADIPOSE) & ~white

    bundles = np.clip(0.30 + 0.105 * streaks + 0.05 * mottle90, 0.06, 0.9)
    eosin = bundles + 0.10 * np.clip(noise(rng, 240), -1, 1) * stroma
    haematoxylin = 0.045 + 0.015 * mottle90
    slits = stroma & (streaks + 0.55 * noise(rng, 45) < -2.15)
    eosin[slits] *= 0.25
    eosin[epithelium] = (0.28 + 0.035 * mottle30 + 0.03 * texture)[epithelium]
    haematoxylin[epithelium] = (0.26 + 0.05 * mottle30 + 0.03 * texture)[epithelium]
    eosin[necrosis] = (0.50 + 0.08 * mottle30 + 0.07 * texture)[necrosis]
    haematoxylin[necrosis] = (0.07 + 0.05 * np.clip(mottle30, 0, 2))[necrosis]
    eosin[fat_walls] = 0.30 + 0.05 * mottle30[fat_walls]
    haematoxylin[fat_walls] = 0.04
    eosin[white] = 0.012 + 0.012 * np.clip(noise(rng, 300), 0, 2)[white]
    haematoxylin[white] = 0.006

    painter = NucleusPainter(haematoxylin, texture)
    _draw_epithelial_nuclei(rng, painter, tissue, epithelium)
    _draw_stromal_nuclei(rng, painter, stroma, slits, direction)
    _draw_debris(rng, painter, necrosis)
    _draw_fat_nuclei(rng, painter, fat_walls & (tissue.wall_distance < 2), direction)
    threads = _threads(rng) * (labels == BACKGROUND)
    stain = Stain(
        haematoxylin=ndimage.gaussian_filter(np.maximum(haematoxylin, 0.05 * threads), 0.75),
        eosin=ndimage.gaussian_filter(np.maximum(eosin, 0.34 * threads), 0.75),
    )
    spoilt = np.zeros((SIDE_PX, SIDE_PX), bool)
    if artefact == "fold":
        spoilt = _fold(rng, stain)
    picture = _develop(rng, stain, sensor_noise)
    if artefact == "pen":
        picture, spoilt = _draw_pen_stroke(picture, mottle30)
    return np.clip(picture, 0, 255).astype(np.uint8), spoilt


def _draw_epithelial_nuclei(
    rng: np.random.Generator, painter: NucleusPainter, tissue: Tissue, epithelium: BoolArray
) -> None:
    """Nuclei of both epithelia by the same law, a little larger and darker in carcinoma.

    The components differ more from each other than the two classes do, so that nuclei alone decide nothing.
    """
    count = tissue.components.max() + 1
    size, darkness = rng.normal(1, 0.07, count), rng.normal(1, 0.10, count)
    cytoplasm = rng.normal(0, 0.035, count).astype(np.float32)
    painter.haematoxylin[epithelium] += cytoplasm[tissue.components[epithelium]]
    core = ndimage.binary_erosion(epithelium, iterations=4)
    for label, spacing_px, radius_px, radius_spread_px, density in (
        (CARCINOMA, 14.2, 6.4, 0.95, 0.86),
        (BENIGN, 14.5, 6.2, 0.85, 0.83),
    ):
        for x, y in scatter(rng, core & (tissue.labels == label), spacing_px):
            component = tissue.components[int(y), int(x)]
            length = np.clip(rng.normal(radius_px, radius_spread_px) * size[component], 3.8, 11)
            half_axes = (length, length / rng.uniform(1, 1.55))
            angle = rng.uniform(0, 3.14)
            painter.draw((x, y), half_axes, angle, density * darkness[component] * rng.normal(1, 0.15))


def _draw_stromal_nuclei(
    rng: np.random.Generator,
    painter: NucleusPainter,
    stroma: BoolArray,
    slits: BoolArray,
    direction: FloatArray,
) -> None:
    """Spindle cells along the fibres, but not in the slits between them, and patches of lymphocytes."""
    for x, y in scatter(rng, stroma & ~slits, 38, 0.5):
        angle = direction[int(y), int(x)] + rng.normal(0, 0.15)
        if rng.random() < 0.85:
            half_axes = (rng.uniform(7, 13), rng.uniform(1.9, 3.2))
            painter.draw((x, y), half_axes, angle, rng.uniform(0.5, 0.85))
    for x, y in scatter(rng, stroma & (noise(rng, 170) > 1.55), 15, 0.4):
        painter.draw((x, y), (4.6, rng.uniform(3.9, 4.6)), 0, rng.uniform(0.8, 1.1))


def _draw_debris(rng: np.random.Generator, painter: NucleusPainter, necrosis: BoolArray) -> None:
    """Fragments and pale ghosts of nuclei in the necrosis."""
    for x, y in scatter(rng, necrosis, 17, 0.5):
        if rng.random() < 0.45:
            half_axes = (rng.uniform(1.5, 3.6), rng.uniform(1.2, 3))
            angle = rng.uniform(0, 3)
            painter.draw((x, y), half_axes, angle, rng.uniform(0.5, 1.1))
        elif rng.random() < 0.5:
            painter.draw((x, y), (6, 5), 0, rng.uniform(0.18, 0.3), rim=0.6)


def _draw_fat_nuclei(
    rng: np.random.Generator, painter: NucleusPainter, walls: BoolArray, direction: FloatArray
) -> None:
    """Flat nuclei in the walls of the fat cells."""
    for x, y in scatter(rng, walls, 60, 0.4):
        painter.draw((x, y), (rng.uniform(5, 8), 2.2), direction[int(y), int(x)], 0.7)


def _threads(rng: np.random.Generator) -> FloatArray:
    """Threads and dust, 0 .. 1, that look like the walls of fat cells."""
    canvas = Image.new("L", (SIDE_PX, SIDE_PX))
    pen = ImageDraw.Draw(canvas)
    for _ in range(70):
        heading = np.cumsum(rng.normal(0, 0.16, 40)) + rng.uniform(0, 6.3)
        start = rng.uniform(0, SIDE_PX, 2)
        steps = np.c_[np.cos(heading), np.sin(heading)] * rng.uniform(4, 14)
        path = start + np.cumsum(steps, 0)
        brightness = int(rng.uniform(110, 255))
        pen.line([tuple(point) for point in path], fill=brightness, width=int(rng.integers(3, 8)))
    return ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, 1)


def _fold(rng: np.random.Generator, stain: Stain) -> BoolArray:
    """Lets the tissue lie double along a line, and returns where."""
    rows, columns = pixel_grid()
    x, y = 0.19 * SIDE_PX, 0.66 * SIDE_PX
    off_line = np.abs(rows - y - 0.55 * (columns - x) - 60 * noise(rng, 700))
    doubled = off_line < 42 + 9 * noise(rng, 150)
    doubled &= np.hypot(columns - x, rows - y) < 480
    stain.eosin = np.where(doubled, 1.7 * stain.eosin + 0.25, stain.eosin)
    stain.haematoxylin = np.where(doubled, 1.7 * stain.haematoxylin + 0.12, stain.haematoxylin)
    return doubled


def _develop(rng: np.random.Generator, stain: Stain, sensor_noise: FloatArray) -> FloatArray:
    """Light through the dyes (Beer-Lambert law) as RGB, with this slide's strength of staining."""
    haematoxylin_strength, eosin_strength = rng.uniform(0.97, 1.06), rng.uniform(0.97, 1.06)
    channels = []
    for glass, haematoxylin, eosin in ((245, 0.66, 0.11), (243, 0.70, 0.88), (246, 0.29, 0.42)):
        density = (
            haematoxylin * haematoxylin_strength * stain.haematoxylin * 1.25 + eosin * eosin_strength * stain.eosin
        )
        channels.append(glass * np.exp(-density) + 1.6 * sensor_noise)
    return np.stack(channels, -1).astype(np.float32)


def _draw_pen_stroke(picture: FloatArray, mottle: FloatArray) -> tuple[FloatArray, BoolArray]:
    """A felt-tip stroke over the picture; returns the new picture and the mask of the stroke."""
    canvas = Image.new("L", (SIDE_PX, SIDE_PX))
    path = [
        (SIDE_PX * (0.30 + 0.33 * t), SIDE_PX * (0.62 + 0.05 * np.sin(7 * t) - 0.18 * t)) for t in np.linspace(0, 1, 60)
    ]
    ImageDraw.Draw(canvas).line(path, fill=255, width=66, joint="curve")
    stroke = np.asarray(canvas) > 0
    soft = ndimage.gaussian_filter(stroke.astype(np.float32), 2)
    opacity = soft[..., None] * (0.86 + 0.05 * mottle[..., None])
    return picture * (1 - opacity) + np.array([24, 38, 74], np.float32) * opacity, stroke


# ------------------------------------------------------------------------------------------------ annotations


def hand_drawn_ring(rng: np.random.Generator, contour: FloatArray) -> Polygon | None:
    """A contour as a hand would draw it: a vertex every 5 to 20 px, slightly shaky.

    Args:
        rng: Source of randomness.
        contour: Closed line of (row, column) in an array whose pixel *centres* have whole coordinates.

    Returns:
        Ring in slide px, whose pixel *corners* have whole coordinates; None for fewer than 4 vertices.
    """
    points = contour[:, ::-1] + 0.5
    travelled = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    stops = np.cumsum(rng.uniform(5, 20, int(travelled[-1] / 5) + 1))
    stops = stops[stops < travelled[-1] - 4]
    x, y = np.interp(stops, travelled, points[:, 0]), np.interp(stops, travelled, points[:, 1])
    vertices = np.c_[x, y] + rng.normal(0, 0.5, (len(stops), 2))
    if len(vertices) < 4:
        return None
    return Polygon(np.round(np.clip(vertices, 0, SIDE_PX), 2))


def outlines(rng: np.random.Generator, mask: BoolArray, least_px: int) -> Iterator[Polygon]:
    """Hand-drawn polygons with holes about the components of a mask, 2 to 6 px inside their borders."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    for part in components(depth > rng.uniform(2, 6), least_px):
        rows, columns = np.nonzero(part)
        top, left = max(rows.min() - 4, 0), max(columns.min() - 4, 0)
        cut = part[top : rows.max() + 5, left : columns.max() + 5]
        smooth = np.pad(ndimage.gaussian_filter(cut.astype(np.float32), 1.5), 1)
        contours = [contour for contour in find_contours(smooth, 0.5) if len(contour) > 24]
        drawn = [hand_drawn_ring(rng, contour + np.array([top - 1, left - 1])) for contour in contours]
        shell, *holes = sorted((ring for ring in drawn if ring is not None), key=lambda ring: -ring.area)
        polygon = shell.buffer(0)
        for hole in holes:
            if hole.area > 150:
                polygon = polygon.difference(hole.buffer(0))
        if polygon.geom_type == "MultiPolygon":
            polygon = max(polygon.geoms, key=lambda member: member.area)
        if polygon.area > 0.6 * least_px:
            yield polygon


def annotate(rng: np.random.Generator, labels: LabelArray, spoilt: BoolArray) -> list[Annotation]:
    """Annotates a slide partially: whole components, thin gaps, most of the slide left alone."""
    annotations: list[Annotation] = []
    clean = labels * ~ndimage.binary_dilation(spoilt, iterations=14)
    chosen = np.zeros((SIDE_PX, SIDE_PX), bool)
    for label, largest_share in ((CARCINOMA, 0.095), (BENIGN, 0.048), (NECROTIC, 0.03), (ADIPOSE, 0.065)):
        parts = sorted(components(labels == label, 2500), key=lambda part: -part.sum())
        left_px = largest_share * SIDE_PX * SIDE_PX
        if label == BENIGN:
            order = list(rng.permutation(len(parts)))
        else:
            order = [0, *rng.permutation(np.arange(1, len(parts)))]
        for i in order:
            if parts[i].sum() <= left_px and not (parts[i] & spoilt).any():
                left_px -= parts[i].sum()
                chosen |= parts[i]
                annotations += [Annotation(CLASSES[label], ring) for ring in outlines(rng, parts[i], 1200)]
    return annotations + _wide_areas(rng, clean, chosen)


def _wide_areas(rng: np.random.Generator, clean: LabelArray, chosen: BoolArray) -> list[Annotation]:
    """Parts of wide areas, with holes: stroma about the components that were chosen, and glass."""
    rows, columns = pixel_grid()
    annotations = []
    wobble200, wobble90 = noise(rng, 200), noise(rng, 90)
    for label, radius_px in ((STROMA, 290), (BACKGROUND, 255)):
        if label == STROMA:
            allowed = dilated_coarsely(chosen, 4, 15) & (clean == label)
        else:
            allowed = eroded_coarsely(clean == label, 4, 40) & (clean == label)
        fields = []
        for circle in place_circles(rng, allowed, rng.uniform(0.75, 1.1, 3) * radius_px, [], 150):
            distance = np.hypot(columns - circle.x, rows - circle.y) / circle.radius
            field = (distance + 0.10 * wobble200 + 0.04 * wobble90 < 1) & (clean == label)
            fields.append(list(outlines(rng, field, 2500)))
        if label == STROMA:  # the brush was used in two places for one annotation
            fields = [[*chain.from_iterable(fields[:2])], *fields[2:]]
        for polygons in fields:
            if polygons:
                geometry = polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
                annotations.append(Annotation(CLASSES[label], geometry))
    return annotations


def make_untidy(
    rng: np.random.Generator, annotations: list[Annotation], labels: LabelArray, spoilt: BoolArray
) -> list[Annotation]:
    """Adds what real projects contain.

    That is: an ``Ignore*`` about the artefact, a gland outlined too wide, so that it overlaps stroma, glass
    outlined past the slide's border, a sliver under 20 px2, and an annotation without a class.
    """
    slide = box(0, 0, SIDE_PX, SIDE_PX)
    about_artefact = ndimage.binary_dilation(spoilt, iterations=12)
    artefact = max(components(about_artefact, 900), key=lambda part: part.sum())
    ignored = Annotation(IGNORE, next(outlines(rng, artefact, 900)))
    tidy = _with_a_gland_too_wide(annotations)

    def first_place(
        mask: BoolArray, gap: float, draw: Callable[[float, float], Polygon], fits: Callable[[Polygon], bool]
    ) -> Polygon:
        rows, columns = np.nonzero(mask)
        tries = (draw(float(columns[i]), float(rows[i])) for i in rng.permutation(len(rows)))
        return next(p for p in tries if fits(p) and all(p.distance(a.geometry) > gap for a in tidy))

    def glass_outline(x: float, y: float) -> Polygon:
        angle = np.linspace(0, 2 * np.pi, 34)[:-1]
        ellipse = np.c_[x + 190 * np.cos(angle), y + 150 * np.sin(angle)]
        return Polygon(np.round(ellipse + rng.normal(0, 3, (33, 2)), 2))

    def leaves_slide_over_glass(polygon: Polygon) -> bool:
        border = np.array(polygon.intersection(slide).exterior.coords).T.astype(int)
        column, row = np.clip(border, 0, SIDE_PX - 1)
        return not polygon.within(slide) and bool((labels[row, column] == BACKGROUND).all())

    def sliver(x: float, y: float) -> Polygon:
        return Polygon([(x, y), (x + 9.5, y + 1.5), (x + 12, y + 3), (x + 4, y + 2.5)])

    def rectangle(x: float, y: float) -> Polygon:
        return box(x, y, x + 310, y + 220)

    rows, columns = pixel_grid()
    to_border = np.minimum(np.minimum(columns, rows), np.minimum(SIDE_PX - columns, SIDE_PX - rows))
    border_glass = (labels == BACKGROUND) & (to_border < 60)
    free_stroma = (labels == STROMA) & ~spoilt
    return [
        *tidy,
        ignored,
        Annotation(CLASSES[BACKGROUND], first_place(border_glass, 2, glass_outline, leaves_slide_over_glass)),
        Annotation(CLASSES[STROMA], first_place(free_stroma, 3, sliver, slide.contains)),
        Annotation(None, first_place(free_stroma, 2, rectangle, slide.contains)),
    ]


def _with_a_gland_too_wide(annotations: list[Annotation]) -> list[Annotation]:
    """Widens the first benign gland that then reaches into annotated stroma, and into nothing else."""
    stroma = [a.geometry for a in annotations if a.annotation_class == CLASSES[STROMA]]
    for i, (annotation_class, gland) in enumerate(annotations):
        if annotation_class != CLASSES[BENIGN] or min(area.distance(gland) for area in stroma) >= 14:
            continue
        wide = gland.buffer(13).simplify(1)
        others = (a.geometry for a in annotations if a.annotation_class != CLASSES[STROMA] and a.geometry is not gland)
        if all(wide.distance(other) > 1 for other in others):
            widened = Annotation(annotation_class, Polygon(np.round(wide.exterior.coords, 2)))
            return [*annotations[:i], widened, *annotations[i + 1 :]]
    return annotations


# ----------------------------------------------------------------------------------------------------- output


def write_tiff(path: Path, picture: LabelArray) -> None:
    """Writes a tiled JPEG pyramid that OpenSlide reads; its resolution tags give the pixel size."""
    with tifffile.TiffWriter(path) as writer:
        for level, downsample in enumerate(PYRAMID_DOWNSAMPLES):
            side = SIDE_PX // downsample
            blocks = picture.reshape(side, downsample, side, downsample, 3)
            writer.write(
                blocks.mean((1, 3)).round().astype(np.uint8),
                tile=(256, 256),
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": 70},
                subfiletype=int(level > 0),
                resolutionunit="centimeter",
                metadata=None,
                resolution=(1e4 / MPP / downsample, 1e4 / MPP / downsample),
                software="make_demo_slides.py",
            )


def feature(rng: np.random.Generator, annotation: Annotation) -> dict[str, Any]:
    """An annotation as a GeoJSON feature that QuPath 0.4 and later read."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if annotation.annotation_class is None:
        properties["name"] = "look at this again"
    else:
        properties["classification"] = annotation.annotation_class._asdict()
    return {
        "type": "Feature",
        "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        "geometry": mapping(annotation.geometry),
        "properties": properties,
    }


def labelled_percent(annotations: list[Annotation]) -> float:
    """Area of the annotations that can be trained on, in % of the slide; overlaps count twice."""
    trained = [a for a in annotations if a.annotation_class is not None and a.annotation_class != IGNORE]
    return 100 * sum(a.geometry.area for a in trained) / SIDE_PX / SIDE_PX


def write_values(path: Path) -> None:
    """Writes the table that names the values of the truth, as `dmmn-qp evaluate` reads it beside the maps."""
    rows = [f"{value},{annotation_class.name}" for value, annotation_class in CLASSES.items()]
    path.write_text("\n".join(["value,class", *rows, ""]), encoding="utf-8", newline="\n")


def make_slide(name: str, out: Path) -> str:
    """Draws one slide into ``out/slides``, ``out/truth`` and ``out/annotations``.

    Args:
        name: One of `SLIDES`; it is also the seed.
        out: Folder of the example data.

    Returns:
        A line that sums up what was drawn.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    artefact = SLIDES[name]
    tissue = lay_out(rng)
    picture, spoilt = paint(rng, tissue, artefact)
    annotations = annotate(rng, tissue.labels, spoilt)
    if artefact is not None:
        annotations = make_untidy(rng, annotations, tissue.labels, spoilt)
    truth = np.where(spoilt, ARTEFACT, tissue.labels).astype(np.uint8)

    for folder in ("slides", "truth", "annotations"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_tiff(out / "slides" / f"{name}.tif", picture)
    Image.fromarray(truth).save(out / "truth" / f"{name}.png", optimize=True)
    write_values(out / "truth" / "classes.csv")
    collection = {"type": "FeatureCollection", "features": [feature(rng, a) for a in annotations]}
    (out / "annotations" / f"{name}.geojson").write_text(json.dumps(collection), encoding="utf-8")

    shares = 100 * np.bincount(truth.ravel(), minlength=len(CLASSES) + 1) / truth.size
    listed = ", ".join(f"{CLASSES[label].name} {shares[label]:.1f} %" for label in CLASSES)
    summary = f"{len(annotations)} annotations label {labelled_percent(annotations):.1f} %"
    return f"{name}: {listed}, artefact {shares[ARTEFACT]:.1f} %; {summary}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draws the example slides, their truth and annotations.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for slides/, truth/ and annotations/")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(SLIDES)}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SLIDES]
    if unknown:
        parser.error(f'there is no slide "{unknown[0]}"; the slides are {", ".join(SLIDES)}')
    for name in arguments.names or SLIDES:
        print(make_slide(name, arguments.out), flush=True)


if __name__ == "__main__":
    main()
