"""Finds the slides that would end the process: they are opened first in another one, the same for all slides.

OpenSlide and the libraries below it are written in C. For what a damaged file claims they may take all memory there is,
or end the process; no other slide would be predicted then, and nobody would know which one it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dmmn_qp.files.remote import RemotePath

MAX_BYTES: Final = 8 * 1024**3
"""Memory that opening a slide may take; where the system has no such limit, what there is."""

START_S: Final = 60.0
SLIDE_S: Final = 20.0
"""Longest time to begin, and for a slide; what one does not take, others may."""

OPENING: Final = """
import contextlib, json, sys
with contextlib.suppress(Exception):
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
import openslide
for number, path in enumerate(json.load(sys.stdin)):
    print(number, flush=True)
    with contextlib.suppress(Exception):  # what is said in words is said by who opens it next
        if openslide.OpenSlide.detect_format(path) is not None:
            with openslide.OpenSlide(path) as slide:
                for level in range(slide.level_count):
                    slide.read_region((0, 0), level, (1, 1))
print("end", flush=True)
"""
"""What the other process does: it says the number of each slide before it opens it."""


def find_fatal(paths: Sequence[Path], opening: str = OPENING) -> dict[Path, str]:
    """Opens slides in another process, with limits of memory and time.

    Args:
        paths: The slides; what is no file, or on a server, where OpenSlide reads nothing, is passed over.
        opening: The program that opens them.

    Returns:
        Why each slide that ends the process, or never ends itself, cannot be opened; nothing of the others, damaged or
        not.
    """
    left, fatal = [p for p in paths if not isinstance(p, RemotePath) and p.is_file()], dict[Path, str]()
    while left:
        try:
            reached, reason = _open_all(left, opening)
        except OSError:  # no other process can be begun here
            return fatal
        if reached is None:
            return fatal
        fatal[left[reached]] = (
            f'slide "{left[reached]}" {reason} when it is opened, so it is damaged; copy the file again from its source'
        )
        left = left[reached + 1 :]
    return fatal


def _open_all(paths: Sequence[Path], opening: str) -> tuple[int | None, str]:
    """(number of the slide that ended the process, how); None where all were opened, or not even the first."""
    command = [sys.executable, "-c", opening, str(MAX_BYTES)]
    given = json.dumps([str(path) for path in paths])  # ASCII, whatever the names are
    reason = "ends the program"
    try:
        limit = START_S + SLIDE_S * len(paths)
        said = subprocess.run(command, check=False, input=given.encode(), capture_output=True, timeout=limit).stdout
    except subprocess.TimeoutExpired as error:
        said, reason = error.stdout or b"", "takes too long"
    words = said.split()
    return (int(words[-1]) if words and words[-1].isdigit() else None), reason
