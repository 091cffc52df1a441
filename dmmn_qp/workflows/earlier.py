"""What the last import of a dataset was given, so that nobody need give it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.dataset import MANIFEST
from dmmn_qp.folders.model_glance import read_object
from dmmn_qp.importing.joining import place_of
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.source_files import SLIDES_ROOTS, SOURCE, SOURCE_FILES
from dmmn_qp.text import shorten

_ANNOTATIONS = "annotations"


@dataclass(frozen=True, slots=True)
class EarlierImport:
    """The last import of a dataset, as far as the dataset tells.

    Attributes:
        sources: What it was made of, as the user named it; empty where that is not known.
        annotations: ``--annotations``, likewise.
        options: Its resolved options, by name.
        slides_roots: Where slides were looked for, as typed; addresses on servers left out.
        files: What its files were (`dmmn_qp.importing.source_files.source_state`); None where that is not known.
        finished: When it ended, UTC, ISO 8601; empty where that is not known.
    """

    sources: tuple[Path, ...] = ()
    annotations: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    slides_roots: tuple[str, ...] = ()
    files: Mapping[str, Any] | None = None
    finished: str = ""


def earlier_import(dataset: Path) -> EarlierImport:
    """Reads what a dataset says of its import; nothing where there is none, or it is damaged."""
    run = read_object(dataset / RUN_FILE) if (dataset / MANIFEST).is_file() else {}
    told = run.get("configuration")
    configuration = told if isinstance(told, dict) else {}
    files, roots = run.get(SOURCE_FILES), run.get(SLIDES_ROOTS)
    return EarlierImport(
        sources=_paths(configuration.get(SOURCE)),
        annotations=_path(configuration.get(_ANNOTATIONS)),
        options={name: value for name, value in configuration.items() if name in ImportOptions.model_fields},
        slides_roots=roots_on_disks(roots),
        files=files if isinstance(files, dict) else None,
        finished=run["finished"] if isinstance(run.get("finished"), str) else "",
    )


def roots_on_disks(told: object) -> tuple[str, ...]:
    """Where slides were looked for, as a file tells it; no addresses, which are followed only where they are typed."""
    roots = [root for root in told if isinstance(root, str)] if isinstance(told, list) else []
    return tuple(root for root in roots if "://" not in root)


def is_same_source(first: Path, second: Path) -> bool:
    """Whether two paths are of one source: a project by its file or its folder, or the same slides."""
    return are_same_sources([first], [second])


def are_same_sources(first: Sequence[Path], second: Sequence[Path]) -> bool:
    """Whether some paths are of the same sources, in whatever order."""
    with suppress(OSError):
        return sorted(map(place_of, first)) == sorted(map(place_of, second))
    return False


def listed_sources(sources: Sequence[Path]) -> str:
    """Sources in one line, for people."""
    return ", ".join(f'"{shorten(str(source))}"' for source in sources)


def only_project(workspace: Path) -> Path | None:
    """The name of the project in a folder; None where there is none, or several."""
    with suppress(OSError):
        found = [path for path in workspace.glob("*.qpproj") if not path.name.startswith(".")]
        return Path(found[0].name) if len(found) == 1 else None
    return None


def _paths(told: object) -> tuple[Path, ...]:
    """What a dataset says of its sources: one as a text, or several; none where any of it is damaged."""
    paths = [_path(one) for one in (told if isinstance(told, list) else [told])]
    return tuple(path for path in paths if path is not None) if None not in paths else ()


def _path(told: object) -> Path | None:
    return Path(told) if isinstance(told, str) and told and "\0" not in told else None
