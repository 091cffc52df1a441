"""The ledger of the loop: what people made of the predictions of each model, and what a round took.

A round is a model, the predictions that a person saw of it, and what that person corrected of them. The ledger lies
in ``loop/`` beside the dataset, which is replaced with every import. ``ledger.json`` is what is kept; ``rounds.csv``
and ``loop.html`` are made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from dmmn_qp.errors import DatasetError
from dmmn_qp.files import write_json
from dmmn_qp.files.locks import briefly_locked
from dmmn_qp.folders import names
from dmmn_qp.specs import FileModel, explain
from dmmn_qp.text import shorten

LEDGER: Final = "ledger.json"

ROUNDS: Final = "rounds.csv"

LOOP_PAGE: Final = "loop.html"

MAX_LEDGER_BYTES: Final = 64 * 2**20
"""Largest ledger that is read: some hundred thousand slides in rounds."""

_AMOUNT: Final = 1e30
"""Largest mm2, mm or seconds that are believed: more than any slide can have, and sums and squares stay finite."""

_Count = Annotated[int, Field(ge=0, le=10**9)]
_Amount = Annotated[float, Field(ge=0, le=_AMOUNT, allow_inf_nan=False)]
_Square = Annotated[float, Field(ge=0, le=_AMOUNT**2, allow_inf_nan=False)]

_USUAL: Final = "loop"

RoundKind = Literal["start", "model", "unknown"]
"""``start``: what was drawn before any prediction was seen. ``unknown``: objects that do not tell their model, as
QuPath 0.4 leaves them once the files of the prediction are gone."""


def loop_folder(dataset: Path) -> Path:
    """The folder of a dataset's ledger: ``loop/`` beside one called ``dataset``, else ``<name>-loop/``."""
    named = dataset.resolve() if dataset.name in ("", "..") else dataset
    return named.with_name(_USUAL if named.name == names.DATASET else f"{named.name}-{_USUAL}")


class Judged(FileModel):
    """An area that was predicted as one class, and what a person said to it.

    Attributes:
        predicted: What the model had said.
        said: What the person said; None for what was taken away.
        mm2: How much of it.
    """

    predicted: str
    said: str | None
    mm2: _Amount


class SlideReview(FileModel):
    """What people made of one model's predictions on one slide.

    Attributes:
        slide: The slide's id in the dataset.
        confirmed: Areas that were locked as they are.
        corrected: Areas whose class or outline was changed.
        reclassified: Those of them that got another class.
        reshaped: Those of them that got another outline.
        judged: The areas, by what was predicted and what was said.
        squares_mm4: Sums over the objects of area x area, area x right area and right area x right area.
        is_compared: Whether with the outlines as they were predicted; else by the class of what was changed.
        unchecked: Areas that nobody vouched for.
    """

    slide: str
    confirmed: _Count
    corrected: _Count
    reclassified: _Count
    reshaped: _Count
    judged: tuple[Judged, ...]
    squares_mm4: tuple[_Square, _Square, _Square]
    is_compared: bool
    unchecked: _Count = 0


class Drawn(FileModel):
    """What people drew themselves, on all slides.

    Attributes:
        areas: Number of areas of classes that are trained.
        mm2: Their area.
        outline_mm: Length of their outlines.
    """

    areas: _Count = 0
    mm2: _Amount = 0.0
    outline_mm: _Amount = 0.0

    def since(self, before: Drawn) -> Drawn:
        """What is more than before; never less than nothing."""
        return Drawn(
            areas=max(0, self.areas - before.areas),
            mm2=max(0.0, self.mm2 - before.mm2),
            outline_mm=max(0.0, self.outline_mm - before.outline_mm),
        )


class Machine(FileModel):
    """Seconds that the machine worked for a round; None where nobody knows.

    Attributes:
        import_s: The import after the round's corrections.
        train_s: The training of the round's model.
        predict_s: The predictions that were seen.
    """

    import_s: _Amount | None = None
    train_s: _Amount | None = None
    predict_s: _Amount | None = None


class Round(FileModel):
    """A round.

    Attributes:
        kind: Of which kind.
        model_run: The training of its model; None unless it has one.
        model: Name of its model.
        since: When its model was made, else when it was first met by an import; UTC, ISO 8601.
        slides: What became of its predictions, by slide.
        drawn: What had been drawn in all by the end of the round; None where no import saw that.
        machine: What it took the machine.
    """

    kind: RoundKind
    model_run: str | None = None
    model: str | None = None
    since: str = ""
    slides: tuple[SlideReview, ...] = ()
    drawn: Drawn | None = None
    machine: Machine = Machine()

    @property
    def key(self) -> tuple[RoundKind, str | None]:
        """What tells it from every other round."""
        return self.kind, self.model_run


class Ledger(FileModel):
    """Content of ``ledger.json``.

    Attributes:
        format_version: Version of this format.
        rounds: The rounds in the order in which their models were made; what does not tell its model comes last.
    """

    format_version: Literal[1] = 1
    rounds: tuple[Round, ...] = ()

    def with_rounds(self, rounds: dict[tuple[RoundKind, str | None], Round]) -> Ledger:
        """The ledger of some rounds, in their order."""
        ordered = sorted(rounds.values(), key=lambda r: (_ORDER[r.kind], r.since, r.model or "", r.model_run or ""))
        return Ledger(rounds=tuple(ordered))


_ORDER: Final[dict[RoundKind, int]] = {"start": 0, "model": 1, "unknown": 2}


def read_ledger(folder: Path) -> Ledger:
    """Reads the ledger of a loop; an empty one where there is none.

    Raises:
        DatasetError: It is damaged, too large or of another version.
    """
    path = folder / LEDGER
    way_out = "move it away to begin a new one"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LEDGER_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Ledger()
    except OSError as error:
        raise DatasetError(f'ledger "{path}" cannot be read ({error.strerror or error}); see that it may be') from error
    if len(content) > MAX_LEDGER_BYTES:
        raise DatasetError(f'ledger "{path}" is larger than {MAX_LEDGER_BYTES // 2**20} MiB; {way_out}')
    try:
        return Ledger.model_validate_json(content)
    except ValidationError as error:
        raise DatasetError(
            f'ledger "{path}" is damaged or of another version ({shorten(explain(error))}); {way_out}'
        ) from error


def update_ledger(folder: Path, change: Callable[[Ledger], Ledger], written: Callable[[Ledger], None]) -> Ledger:
    """Reads the ledger of a loop, changes it, and writes it where it differs, while no other command can.

    Args:
        folder: The loop's folder; it is made where it is missing.
        change: Gives the new ledger.
        written: Writes what is made of the ledger; called while it is held.

    Returns:
        The new ledger.

    Raises:
        DatasetError: The ledger is damaged; it stays as it is.
        InUseError: Another command holds it, and does not come to an end.
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with briefly_locked(folder / LEDGER):
        before = read_ledger(folder)
        ledger = change(before)
        if ledger != before:
            write_json(folder / LEDGER, ledger.model_dump(mode="json"))
        written(ledger)
    return ledger
