"""Asking servers again where that may help, and what is said where it does not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

from dmmn_qp.errors import SlideChangedError, SlideError, SlideUnreachableError
from dmmn_qp.files.failures import install_command
from dmmn_qp.text import shorten, words_of

ATTEMPTS = 5
"""How often a server is asked for one thing."""

FIRST_WAIT_S = 0.5
"""How long is waited after the first failure; after each further one twice as long."""

Result = TypeVar("Result")


class AgainError(Exception):
    """What may pass: it is worth asking again."""


def patiently(ask: Callable[[], Result], shown: str, attempts: int = ATTEMPTS) -> Result:
    """Asks again where that may help, after longer and longer waits.

    Args:
        ask: Asks once; `AgainError` where it may be worth asking again.
        shown: The address for messages.
        attempts: How often it is asked at most; 1 where what asks is patient itself.

    Raises:
        SlideUnreachableError: It does not help.
    """
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            return ask()
        except AgainError as error:
            reason = str(error)
    often = f", {attempts} times" if attempts > 1 else ""
    raise SlideUnreachableError(
        f'slide "{shown}" cannot be fetched: {reason}{often}; check the network and the server, and repeat the command'
    )


def unreachable(shown: str, reason: str) -> SlideUnreachableError:
    """Makes the error of what a server does not give, because of a reason that does not pass."""
    return SlideUnreachableError(f'slide "{shown}" cannot be fetched: {reason}; check the address')


def changed(shown: str) -> SlideChangedError:
    """Makes the error of a file that became another one."""
    return SlideChangedError(
        f'slide "{shown}" was changed on its server while it was read; repeat the command when it is there to its end'
    )


def error_words(error: Exception) -> str:
    """Returns what an error says, without what may be secret in an address that it quotes."""
    text = re.sub(r"\?[^\s\"'<>]*", "", words_of(error))
    return shorten(re.sub(r"//[^/@\s]*@", "//", text), 200)


def too_large(shown: str, most_bytes: int) -> SlideError:
    """Makes the error of a small file that is none."""
    return SlideError(
        f'"{shown}" has more than {most_bytes:,} bytes, so it is no sound part of a slide; write it again'
    )


def not_installed(protocol: str, package: str, extra: str) -> SlideError:
    """Makes the error of a protocol whose packages are missing."""
    return SlideError(
        f"slides at {protocol}:// need {package}, not installed here; {install_command(extra)}, or copy them to a disk"
    )
