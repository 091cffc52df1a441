"""Text from files of others, made fit for where it is shown: one function for each kind of place.

Names of classes, slides, images, models and licences may hold anything. `printable` makes them fit for terminals, logs,
error messages, pages and pictures; `spreadsheet_cell` for tables that a spreadsheet program may open. Pages escape
HTML besides (`dmmn_qp.reports.html`). `Reporter`, `DmmnQpError`, the pages' templates and `write_table` ask them, so
that whoever prints, raises or writes need not remember.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, line ends and the beginning of escape codes among them
    "\u2028\u2029"  # line and paragraph separator
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the order of what is shown
    "\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"  # are not seen
    "\ud800-\udfff]"  # halves of pairs, which no encoding can write
)
"""What would act on a terminal or a page, or deceive, instead of being shown. Joiners (U+200C, U+200D) stay, because
scripts need them.
"""

_ELLIPSIS: Final = "..."

_LOOKED_AT: Final = 10  # times the limit: line ends are many characters of one blank

_FORMULA_BEGINS: Final = "(?=[' ]*[=+\\-@\uff1d\uff0b\uff0d\uff20])|^%s(?=[' ]*[\t\r\n])"

_FORMULA: Final = re.compile("(^|[;\t\r\n])" + _FORMULA_BEGINS % "")
"""Where a spreadsheet program may begin to read a formula: the beginning of a cell, also where a semicolon or a tab is
taken for the end of one. Apostrophes that stand there already count, so that ours can be told from them.
"""

_MARKED: Final = re.compile("(^|[;\t\r\n])'" + _FORMULA_BEGINS % "'")

_QUOTED: Final = re.compile('"([^"]*)"')

_NAME_OR_NUMBER: Final = re.compile(
    r'"[^"]*"'  # a name
    r"|(less than |\bmore than )?-?\d[\d,.]*( ?(µm²|mm²|px²|%))?"  # a number or an area
    r"|\b(is|are|was|were|has|have|it|they|its|their|itself|themselves|does|do|an?)\b"  # what goes with a number
)

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def printable(text: str, limit: int | None = None) -> str:
    """A text as one line of characters that are shown and do nothing.

    Line ends and the blanks around them become one blank; other blanks stay, because names may differ by them. What
    would act is written as an escape.

    Args:
        text: Any text.
        limit: Most characters of the line, at least 4; of a longer one the end is left out. None bounds nothing.
    """
    first, *others = (text if limit is None else text[: _LOOKED_AT * limit]).splitlines() or [""]
    line = " ".join(part for part in (first.rstrip(), *map(str.strip, others)) if part) if others else first
    line = _UNPRINTABLE.sub(_escape, line if limit is None else line[: limit + 1])
    return line if limit is None or len(line) <= limit else line[: limit - len(_ELLIPSIS)] + _ELLIPSIS


def shorten(text: str, limit: int = 60) -> str:
    """A name or a reason within a message; see `printable`."""
    return printable(text, limit)


def count_of(n: int, one: str, many: str | None = None) -> str:
    """``1 line``, ``2 lines``."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def kind_of(text: str) -> str:
    """What two sentences have in common that say the same of different things: only to be compared.

    They may differ in names (in quotes), numbers, and what is in the singular for one and in the plural for several.
    """
    words = _NAME_OR_NUMBER.sub(" ", re.sub(r" and \d+ more", "", text)).split()
    return " ".join(word.rstrip("es") for word in words)


def one_of_each_kind(said: Iterable[tuple[str | None, str]]) -> list[str]:
    """A line for each kind of sentence: the first one, how many more there are, and of what.

    Args:
        said: What it is about, if that is to stand before it, and what is said of it. Where nothing is to stand before
            it, the first name in quotes is what it is about.
    """
    of_kind: dict[str, list[tuple[str | None, str]]] = {}
    for subject, text in said:
        of_kind.setdefault(kind_of(text), []).append((subject, text))
    lines = []
    for (subject, text), *others in of_kind.values():
        line = text if subject is None else f"{subject}: {text}"
        if others:
            about = dict.fromkeys(other or (quoted[1] if (quoted := _QUOTED.search(t)) else "") for other, t in others)
            names = names_text([name for name in about if name and name != subject])
            line += f" ({len(others)} more like it{': ' if names else ''}{names})"
        lines.append(line)
    return lines


def names_text(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 8 more``, each name shortened."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shorten(name) for name in names[:most]) + more


def words_of(error: BaseException) -> str:
    """What an exception of a library says, as a reason within a message; with its kind where that alone says little."""
    text = printable(str(error).strip(), 200)
    name = type(error).__name__
    if not text:
        return name
    return f"{name}: {text}" if isinstance(error, LookupError) or len(text.split()) == 1 else text


def spreadsheet_cell(text: str) -> str:
    """A text as a cell of a table that no spreadsheet program takes for a formula; numbers stay as they are.

    An apostrophe goes before ``=``, ``+``, ``-``, ``@``, tab and line end at the beginning, as people type it to say
    that a cell is text. `text_of_cell` takes it away again.
    """
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)


def text_of_cell(cell: str) -> str:
    """The text of which `spreadsheet_cell` made a cell."""
    return _MARKED.sub(r"\1", cell)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
