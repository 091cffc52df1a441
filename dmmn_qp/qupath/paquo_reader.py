"""Reads the objects of a project through QuPath itself, with paquo (GPL-3, the extra ``[paquo]``).

paquo starts QuPath's Java in this process as soon as it is imported, so it is imported inside functions only.
The project is opened read-only, and of an image nothing is touched but its hierarchy: no slide is opened.
Each object comes as QuPath's own GeoJSON of it, which our reader takes.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dmmn_qp.errors import AnnotationFileError, ProjectError, UnsupportedAnnotationsError
from dmmn_qp.files.failures import install_command
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE, ReadResult
from dmmn_qp.qupath.project import data_path_of
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.text import shorten

_COMPLETE_SINCE: Final = "0.5.0"
"""From this version on, QuPath's GeoJSON holds all that an object has."""


def is_installed() -> bool:
    """Whether paquo is there; it is not imported for that."""
    return importlib.util.find_spec("paquo") is not None


class PaquoProject:
    """A project opened by QuPath, read-only.

    Args:
        path: The ``.qpproj`` file.
        qupath_dir: QuPath's folder; None takes ``PAQUO_QUPATH_DIR``, and else paquo searches where QuPath is
            usually installed. What was given first holds for the whole process: Java starts once.

    Raises:
        ProjectError: paquo or QuPath is missing, or QuPath cannot open the project.
    """

    def __init__(self, path: Path, qupath_dir: Path | None = None) -> None:
        self._path = path
        self._warnings = start_qupath(qupath_dir)
        try:
            from paquo.projects import QuPathProject

            self._project: Any = QuPathProject(path, mode="r")
            quieten()
            self._images: dict[str, Any] = {image.entry_id: image for image in self._project.images}
        except Exception as error:  # whatever Java throws
            raise ProjectError(f'QuPath cannot open the project "{path}" ({reason_of(error)})') from error

    def read(self, entry_id: str) -> ReadResult:
        """All objects of an image, as :func:`dmmn_qp.qupath.qpdata.read_qpdata` gives them.

        QuPath rounds coordinates to 0.01 px. Its versions before 0.5 lose metadata, and before 0.4 ids.

        Raises:
            AnnotationFileError: QuPath cannot read them.
        """
        features = self._nested(entry_id)
        result = objects_of(features, f"image {entry_id}")
        return ReadResult(result.annotations, self._warnings + result.warnings)

    def features(self, entry_id: str) -> list[dict[str, Any]]:
        """All objects of an image as QuPath's own GeoJSON, each by itself.

        Raises:
            AnnotationFileError: QuPath cannot read them.
        """
        flat: list[dict[str, Any]] = []
        pending = self._nested(entry_id)[::-1]
        while pending:
            feature = pending.pop()
            flat.append(feature)
            pending += feature["properties"].pop("childObjects")[::-1]
        return flat

    def _nested(self, entry_id: str) -> list[dict[str, Any]]:
        if entry_id not in self._images:
            raise AnnotationFileError(f'QuPath finds no image {entry_id} in "{self._path}"; save the project in QuPath')
        check_data(self._path, entry_id)
        try:
            return features_below(self._images[entry_id].hierarchy.root)
        except Exception as error:  # whatever Java throws
            raise AnnotationFileError(
                f'QuPath cannot read the objects of image {entry_id} in "{self._path}" ({reason_of(error)})'
            ) from error


def start_qupath(qupath_dir: Path | None) -> tuple[str, ...]:
    """Starts QuPath's Java unless it runs; returns warnings about this QuPath."""
    if not is_installed():
        raise ProjectError(f"paquo is not installed; {install_command('paquo')}")
    if qupath_dir is not None:
        os.environ[QUPATH_DIR_VARIABLE] = str(qupath_dir.absolute())
    try:
        from paquo import java
    except (ValueError, FileNotFoundError) as error:  # how paquo says that there is no QuPath
        where = f' in "{os.environ[QUPATH_DIR_VARIABLE]}"' if os.environ.get(QUPATH_DIR_VARIABLE) else ""
        raise ProjectError(
            f"paquo finds no QuPath{where} ({reason_of(error)}); pass its folder, the one that holds lib/app (on macOS "
            "QuPath.app), as --qupath-dir"
        ) from error
    except Exception as error:  # whatever JPype and Java throw
        raise ProjectError(f"QuPath's Java does not start ({reason_of(error)}); try another --qupath-dir") from error
    version = java.qupath_version
    if version is not None and version < type(version)(_COMPLETE_SINCE):
        return (f"QuPath {version} does not hand on metadata and, before 0.4, ids; use 0.5 or later for them",)
    return ()


def quieten() -> None:
    """Lets QuPath log warnings and errors alone; importing a part of paquo sets it back to everything."""
    from paquo import java

    if java.LogManager is not None:
        java.LogManager.setWarn()


def check_data(project: Path, entry_id: str) -> None:
    """Reads an image's objects before QuPath does, which never comes to the end of a file that is cut off.

    Raises:
        AnnotationFileError: Its ``data.qpdata`` is damaged.
    """
    path = data_path_of(project, entry_id)
    if path.is_file():
        with suppress(UnsupportedAnnotationsError):  # which QuPath itself may know
            read_qpdata(path)


def features_below(root: Any) -> list[dict[str, Any]]:
    """GeoJSON features of all objects below a paquo object, children in ``childObjects``."""
    features: list[dict[str, Any]] = []
    pending: list[tuple[Any, list[dict[str, Any]]]] = [(root.java_object, features)]
    while pending:
        parent, into = pending.pop()
        for child in parent.getChildObjects():
            feature = type(root)(child).to_geojson()
            children: list[dict[str, Any]] = []
            feature.setdefault("properties", {})["childObjects"] = children
            into.append(feature)
            pending.append((child, children))
    return features


def reason_of(error: Exception) -> str:
    """What an exception of Python or Java says, in few words."""
    return shorten(str(error) or type(error).__name__, 200)
