"""What all calls have in common: paths and slides as people give them, warnings, and options shown by ``help()``."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, TypeVar

from pydantic.fields import FieldInfo
from rich.console import Console

from dmmn_qp.cli.model_options import default_text, flag_of
from dmmn_qp.console import Reporter
from dmmn_qp.files.paths import user_path
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.specs import FileModel
from dmmn_qp.text import printable

if TYPE_CHECKING:
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.slides.finding import SlidesRoot

AnyPath = str | PathLike[str]
"""A path as a text or a `Path`; ``~`` at its beginning is the home folder."""

_WIDTH = 120

Function = TypeVar("Function", bound=Callable[..., object])


class DmmnQpWarning(UserWarning):
    """What the commands would print as a warning."""


class QuietReporter(Reporter):
    """Prints nothing; what the commands would print as a warning is a `DmmnQpWarning`."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))

    def warn(self, text: str) -> None:
        """Warns as Python does."""
        warnings.warn(printable(text), DmmnQpWarning, stacklevel=3)


def optional_path(path: AnyPath | None) -> Path | None:
    """Reads a path that need not be given."""
    return None if path is None else user_path(path)


def paths_as_texts(paths: AnyPath | Sequence[AnyPath]) -> list[str]:
    """Returns paths as texts, as if they had been typed; a single one is not its letters."""
    given = (paths,) if isinstance(paths, str | PathLike) else paths
    return [path.address if isinstance(path, RemotePath) else str(path) for path in given]


def dataset_folder(dataset: Dataset | AnyPath) -> Path:
    """Returns the folder of a dataset."""
    return user_path(dataset) if isinstance(dataset, str | PathLike) else dataset.folder


def parsed_slides_roots(roots: AnyPath | Sequence[AnyPath]) -> tuple[SlidesRoot, ...]:
    """Reads where slides that have been moved are to be looked for.

    Raises:
        SlideError: One is OLD=NEW, but not of two folders.
    """
    from dmmn_qp.slides.finding import parse_slides_root

    return tuple(parse_slides_root(text) for text in paths_as_texts(roots))


def shows_options(model: type[FileModel], names: Iterable[str]) -> Callable[[Function], Function]:
    """Shows in the signature and in the docstring of a function what it takes as ``**options``.

    What an option is, its default included, is said once, in the model. ``help()`` and notebooks show it here, in place
    of the entry ``options`` under ``Args``.

    Args:
        model: Has the options as fields.
        names: Those of them that the function takes.
    """
    fields = {name: model.model_fields[name] for name in names}

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
            for name, field in fields.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        function.__doc__ = re.sub(
            r"\n( +)options: .*(?:\n\1 +.*)*",
            lambda found: "".join(_described(name, field, found[1]) for name, field in fields.items()),
            function.__doc__ or "",
        )
        return function

    return decorate


def _described(name: str, field: FieldInfo, indent: str) -> str:
    """Returns lines of a docstring on one option."""
    flag = flag_of(field)
    assert flag is not None, f"{name} has no help"
    default = default_text(field, flag)
    text = f"{name}: {flag.help}" + (f" Default: {default}." if default else "")
    return "\n" + fill(text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ", break_on_hyphens=False)
