"""Values that a Python program wrote as text, such as ``{'name': 'Tumor', 'color': [np.int32(200), 0, 0]}``.

Nothing is run: the text is turned into JSON word by word, and what is no plain value is refused.
"""

from __future__ import annotations

import re
import sys
from math import isfinite
from typing import Final

import orjson

MAX_LENGTH: Final = 2000
"""Longest text that is looked at, in characters; a class with its colour has fewer than 200."""

_WORDS: Final = re.compile(
    r"""(?P<blank>\s+)
    | (?P<text>'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*")
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<constant>\b(?:None|True|False|null|true|false)\b)
    | (?P<call>[A-Za-z_][\w.]*\()
    | (?P<mark>[][{}(),:])""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS: Final = {"None": b"null", "True": b"true", "False": b"false"}
_ESCAPED: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t"}


def parse_python_text(text: str) -> object:
    """The value that a text stands for: dictionaries, lists, tuples as lists, texts, numbers, None, True and False.

    A number in a call, such as ``np.int32(200)``, stands for itself.

    Raises:
        ValueError: It stands for nothing of these, or is longer than `MAX_LENGTH`.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError("too long")
    words: list[bytes] = []
    closing: list[bytes] = []  # what each round bracket that is open becomes where it is closed
    at = 0
    while at < len(text):
        word = _WORDS.match(text, at)
        if word is None:
            raise ValueError(f"no value at character {at}")
        at = word.end()
        kind, written = word.lastgroup, word[0]
        if kind == "text":
            words.append(_as_json(_unescaped(written[1:-1])))
        elif kind == "number":
            words.append(_as_json(float(written) if re.search(r"[.eE]", written) else int(written)))
        elif kind == "constant":
            words.append(_CONSTANTS.get(written, written.encode()))
        elif kind == "call":
            closing.append(b"")
        elif written == "(":
            closing.append(b"]")
            words.append(b"[")
        elif kind == "mark":
            if written in ")]}" and words and words[-1] == b",":
                words.pop()
            if written == ")" and not closing:
                raise ValueError("a bracket too many")
            words.append(closing.pop() if written == ")" else written.encode())
    return orjson.loads(b"".join(words))


def _as_json(value: str | float) -> bytes:
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("no finite number")
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from error


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code and int(code, 16) > sys.maxunicode:
            raise ValueError("no character")
        return chr(int(code, 16)) if code else _CONTROLS.get(match[4], match[4])

    return _ESCAPED.sub(character, text)
