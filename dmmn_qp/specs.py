"""The contract that `import` fixes and that travels with the dataset and the model: classes and patch geometry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from math import floor
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from dmmn_qp.choices import Views, number_of_views
from dmmn_qp.errors import PixelSizeError
from dmmn_qp.regions import Region
from dmmn_qp.text import shorten

UNLABELLED = 0
"""Label of pixels that nobody annotated; never a class, never predicted."""

MIN_LABELLED_FRACTION = 0.01
"""A target is kept when *more* than this part of it is annotated (paper, section 2.2)."""

MAX_CLASSES = 254
"""Labels are stored as uint8."""

MIN_MPP, MAX_MPP = 0.02, 20.0
"""Plausible pixel sizes of a slide in um/px: from beyond 200x to a macroscopic picture."""

MAX_SIZE_PX = 2048
"""Largest side of a patch: eight times the paper's. A map of 32 channels then takes 512 MiB for each target."""

MAX_FIELD_PX = 8192
"""Largest side of what one target sees, in pixels of the finest magnification: that of the paper's patches at six
magnifications. Where a slide lacks coarser levels, so much is read for it."""

MAX_STRIDE_PX = 65_536
"""Largest distance of targets: the paper's slides are smaller, and would have one target each."""

MAX_ZOOM = 1.25
"""A training patch shows at most this many times more or less tissue per side; areas of different splits on one slide
are kept apart accordingly."""

MM2_OF_UM2 = 1e-6
"""mm2 of a um2."""

_SAME = 1e-6

Channel = Annotated[int, Field(ge=0, le=255)]


class FileModel(BaseModel):
    """Base of everything that crosses a file boundary: frozen; unknown keys and numbers without end are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Endless = Annotated[float, Field(ge=0, allow_inf_nan=True)]
"""A number that may be infinite: holes smaller than that are all of them, and after so many minutes is never."""

TypedViews = Annotated[Views, BeforeValidator(number_of_views)]
"""A field for a number of views, which the command line gives as text."""


class TissueClass(FileModel):
    """One class of tissue.

    Attributes:
        name: QuPath's full class name.
        label: Its pixel value in masks, 1 .. 254.
        color: Red, green, blue.
        ignored: Whether QuPath ignores the class (its name ends in ``*``): trained, but not exported.
    """

    name: str = Field(min_length=1)
    label: int = Field(ge=1, le=MAX_CLASSES)
    color: tuple[Channel, Channel, Channel]
    ignored: bool = False


class ClassMap(FileModel):
    """The classes in their order; class ``i`` has label ``i + 1``, and label 0 is always "unlabelled"."""

    classes: tuple[TissueClass, ...] = Field(min_length=1, max_length=MAX_CLASSES)

    @model_validator(mode="after")
    def _labels_in_order(self) -> Self:
        if [c.label for c in self.classes] != list(range(1, len(self.classes) + 1)):
            raise ValueError("labels must be 1, 2, 3 ... in the order of the classes")
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError("class names must differ")
        return self

    @classmethod
    def from_colors(cls, colors: Iterable[tuple[str, tuple[int, int, int]]]) -> ClassMap:
        """Numbers (name, colour) pairs from 1 in their order."""
        return cls(
            classes=tuple(
                TissueClass(name=name, label=label, color=color, ignored=name.endswith("*"))
                for label, (name, color) in enumerate(colors, start=1)
            )
        )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order; the class of label ``i`` is ``names[i - 1]``."""
        return tuple(c.name for c in self.classes)

    @property
    def colors(self) -> dict[str, tuple[int, int, int]]:
        """Colour of each class by name."""
        return {c.name: c.color for c in self.classes}

    def label_of(self, name: str) -> int | None:
        """Returns the label of a class, or None for a name that is not in the map."""
        return next((c.label for c in self.classes if c.name == name), None)

    def colormap(self) -> dict[int, tuple[int, int, int]]:
        """Returns the colour of each label; unlabelled is black."""
        return {UNLABELLED: (0, 0, 0), **{c.label: c.color for c in self.classes}}

    def palette(self, *, alpha: int = 255, others: tuple[int, int, int, int] = (0, 0, 0, 0)) -> NDArray[np.uint8]:
        """Returns the colour of every value that a pixel may have: ``palette()[labels]`` is a picture.

        Args:
            alpha: How opaque the classes are, 0 .. 255.
            others: Red, green, blue and alpha of what is unlabelled or no class.

        Returns:
            (256, 4) uint8, red, green, blue and alpha of each label.
        """
        palette = np.full((256, 4), others, np.uint8)
        for c in self.classes:
            palette[c.label] = (*c.color, alpha)
        return palette


class PatchSpec(FileModel):
    """Geometry of a multi-magnification patch (paper, section 2.2).

    All magnifications of a patch share one centre and one size in pixels. The mask and the prediction are at
    ``mpps[0]``, on a grid whose pixel (0, 0) starts at level-0 (0, 0).

    Attributes:
        size_px: Side of a patch at each magnification, in its own pixels.
        mpps: Pixel sizes in um/px, finest first; 0.5, 1 and 2 are the paper's 20x, 10x and 5x.
        stride_px: Distance of neighbouring targets in pixels of ``mpps[0]``.
        mpp_tolerance: A slide whose pixels fit a whole number of times into ``mpps[0]`` but for this relative
            difference is used on its own pixel grid, unresampled (the paper's slides are 0.498 and 0.502).
    """

    size_px: int = Field(default=256, ge=32, le=MAX_SIZE_PX, multiple_of=16)
    mpps: tuple[float, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1, max_length=6)
    stride_px: int = Field(default=256, ge=16, le=MAX_STRIDE_PX)
    mpp_tolerance: float = Field(default=0.05, ge=0, lt=0.3)

    @field_validator("mpps")
    @classmethod
    def _each_twice_the_last(cls, mpps: tuple[float, ...]) -> tuple[float, ...]:
        if not MIN_MPP <= mpps[0] <= MAX_MPP:
            raise ValueError(f"the finest, {mpps[0]:g} um/px, is not between {MIN_MPP} and {MAX_MPP}")
        if any(abs(mpp / mpps[0] - 2**m) > _SAME for m, mpp in enumerate(mpps)):
            raise ValueError("each magnification must have twice the um/px of the one before, as 0.5, 1, 2")
        return mpps

    @model_validator(mode="after")
    def _field_fits(self) -> Self:
        if self.field_px > MAX_FIELD_PX:
            raise ValueError(
                f"{len(self.mpps)} magnifications of {self.size_px} px see {self.field_px} px of the finest, more than "
                f"{MAX_FIELD_PX}"
            )
        return self

    @property
    def field_px(self) -> int:
        """Side of the field of one target at the coarsest magnification, in pixels of the finest."""
        return int(self.size_px * 2 ** (len(self.mpps) - 1))

    def grid_of(self, slide_mpp: float, slide_name: str = "the slide") -> PatchGrid:
        """Lays the patch grid on a slide of ``slide_mpp`` um/px.

        Raises:
            PixelSizeError: The slide is coarser than the finest magnification.
        """
        exact = self.mpps[0] / slide_mpp
        if exact < 1 / (1 + self.mpp_tolerance):
            raise PixelSizeError(
                f'slide "{slide_name}" has {slide_mpp:g} um/px, coarser than the {self.mpps[0]:g} um/px that the '
                f"patches need; use a scan of higher magnification, or a dataset and model imported with --mpps "
                f"{mpps_text(slide_mpp, len(self.mpps))}"
            )
        whole = max(1, round(exact))
        snapped = abs(exact / whole - 1) <= self.mpp_tolerance
        return PatchGrid(self, float(whole) if snapped else exact)


def mpps_text(finest: float, magnifications: int = 3) -> str:
    """Magnifications as ``--mpps`` takes them, each twice as coarse as the one before: ``0.62,1.24,2.48``.

    Args:
        finest: um/px of the first; about that, so that a person can type it.
        magnifications: Their number.
    """
    typed = float(f"{finest:.3g}")
    return ",".join(f"{typed * 2**m:g}" for m in range(magnifications))


class PatchGrid:
    """A `PatchSpec` on one slide: the one geometry of import, training and prediction.

    A *grid pixel* is a pixel of the finest magnification. Grid pixel (0, 0) starts at level-0 (0, 0).

    Attributes:
        spec: The geometry in um.
        downsample: Level-0 pixels per grid pixel, at least 1 (but for the tolerance); whole where possible.
    """

    def __init__(self, spec: PatchSpec, downsample: float) -> None:
        self.spec = spec
        self.downsample = downsample

    def shape(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Returns (rows, columns) of the grid that covers a slide of level-0 size ``width_px`` x ``height_px``."""

        def side(length_px: int) -> int:
            return max(1, -floor(-length_px / self.downsample + 1e-9))

        return side(height_px), side(width_px)

    def downsample_of(self, magnification: int) -> float:
        """Returns the level-0 pixels per pixel of magnification number ``magnification`` (0 = finest)."""
        return float(self.downsample * 2**magnification)

    def field(self, target: Region, magnification: int) -> Region:
        """Returns what the network sees of one magnification around a block of targets.

        Args:
            target: Block of whole targets, in grid pixels.
            magnification: Number of the magnification, 0 = finest.

        Returns:
            The field in pixels of *that magnification's* grid. For a single target it is concentric with it and
            ``size_px`` wide; for a block it is the union of the fields of its targets.

        Raises:
            ValueError: The target is so placed that the field does not start on a whole pixel.
        """
        size, scale = self.spec.size_px, 2**magnification
        margin = size * (scale - 1) // 2  # grid pixels around the target, on each side
        sides = (target.x - margin, target.y - margin, target.width - size, target.height - size)
        if any(side % scale for side in sides):
            raise ValueError(f"{target}: targets must start on multiples of {scale} grid px")
        x, y, extra_width, extra_height = (side // scale for side in sides)
        return Region(x, y, size + extra_width, size + extra_height)

    def around(self, block: Region, magnification: int, margin_px: int, multiple: int = 1) -> Region:
        """Returns a block with what lies around it at one magnification.

        Args:
            block: In grid pixels, on whole pixels of that magnification.
            magnification: Number of the magnification, 0 = finest.
            margin_px: What is wanted on each side, in pixels of that magnification.
            multiple: The sides become multiples of so many pixels, about the same centre; even.

        Returns:
            In pixels of *that magnification's* grid.
        """
        scale = 2**magnification
        inner = Region(block.x // scale, block.y // scale, block.width // scale, block.height // scale)
        wide, high = (side + 2 * margin_px for side in (inner.width, inner.height))
        x, y = ((-side % multiple) // 2 + margin_px for side in (wide, high))
        return Region(inner.x - x, inner.y - y, inner.width + 2 * x, inner.height + 2 * y)

    def whole_shape(self, width_px: int, height_px: int, magnification: int) -> tuple[int, int]:
        """Returns (rows, columns) of the pixels of one magnification that lie on a slide whole, at least 1."""

        def side(length_px: int) -> int:
            return max(1, floor(length_px / self.downsample_of(magnification) + 1e-9))

        return side(height_px), side(width_px)

    def targets(self, width_px: int, height_px: int) -> Iterator[Region]:
        """Yields targets on the stride, row by row, that cover the slide; the last ones may leave it (grid pixels)."""
        rows, columns = self.shape(width_px, height_px)
        size, stride = self.spec.size_px, self.spec.stride_px
        for y in range(0, rows, stride):
            for x in range(0, columns, stride):
                yield Region(x, y, size, size)


_SHOWN = 40
"""So much is shown of what was given."""


def as_toml(section: str, options: FileModel) -> str:
    """Writes ``[section]`` and a line for each option, as ``--config`` reads it; what is not set is a comment."""
    lines = [f"[{section}]"]
    for name, value in options.model_dump(mode="json").items():
        lines.append(f"# {name} is not set" if value is None else f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)  # also of infinity
    # A basic string of TOML is one of JSON, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


Location = tuple[str | int, ...]
"""Where in a model a value is: its field, and the keys and places in it."""


def dotted(location: Location) -> str:
    """Returns ``kinds.1`` for ``("kinds", 1)``."""
    return ".".join(map(str, location))


def explain(error: ValidationError, name: Callable[[Location], str] = dotted) -> str:
    """Explains a validation error in one line: its first complaint, with the number or word that it is about.

    Args:
        error: The error.
        name: What people call the value at a location.
    """
    first = error.errors()[0]
    where = name(first["loc"]) if first["loc"] else ""
    rule = " ".join(first["msg"].split()).removeprefix("Value error, ")
    kind, _, should = rule.partition(" should ")
    if not should or " " in kind:  # not such as "Input should be a valid integer"
        return f"{where}: {rule}" if where else rule
    given = first["input"]
    shown = f", not {shorten(repr(given), _SHOWN)}" if kind == "Input" and isinstance(given, str | int | float) else ""
    return f"{where or 'it'} should {should.partition(', unable to parse')[0]}{shown}"


LabelArray = NDArray[np.uint8]
"""(rows, columns) uint8; 0 = unlabelled."""
