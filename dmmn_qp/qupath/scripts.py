"""The scripts for QuPath that come with this package, and how they get into a project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.errors import OutputExistsError, ProjectError
from dmmn_qp.files import new_file
from dmmn_qp.qupath.project import read_project

SCRIPTS_FOLDER: Final = "scripts"
"""Where QuPath looks for a project's scripts: Automate > Project scripts lists what is there."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What became of a script.

    Attributes:
        path: Where it is.
        written: Whether it was written; False where the same script was there already.
    """

    path: Path
    written: bool


def script_files() -> list[Path]:
    """The scripts, sorted by name: of an installed package inside it, else beside it in the checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "qupath_scripts", here.parent / "qupath_scripts"):
        files = sorted(folder.glob("*.groovy"))
        if files:
            return files
    raise ProjectError("the scripts for QuPath are missing from this installation; install dmmn-qp again")


def install_scripts(project: Path, *, overwrite: bool = False) -> list[Installed]:
    """Copies the scripts into a project's folder of scripts.

    Args:
        project: ``project.qpproj`` or its folder.
        overwrite: Whether scripts of the same names, but of other content, may be replaced.

    Raises:
        ProjectError: There is no project.
        OutputExistsError: A script of the same name is there and differs; nothing is written then.
    """
    folder = read_project(project).folder / SCRIPTS_FOLDER
    files = script_files()
    installed = [Installed(folder / f.name, not _is_same(f, folder / f.name)) for f in files]
    for item in installed:
        if item.written and item.path.exists() and not overwrite:
            raise OutputExistsError(
                f'script "{item.path}" exists and differs from ours; pass --overwrite to replace it, or rename it'
            )
    for file, item in zip(files, installed, strict=True):
        if item.written:
            with new_file(item.path) as temporary:
                temporary.write_bytes(file.read_bytes())
    return installed


def _is_same(file: Path, other: Path) -> bool:
    return other.is_file() and other.read_bytes() == file.read_bytes()
