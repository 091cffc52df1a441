"""Every error that a user can cause, under one root.

A message is one line: it names the thing, the rule, and the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dmmn_qp.text import printable


class DmmnQpError(Exception):
    """Root of all errors of this package; the command line prints it without a traceback and exits with 1.

    As text it is one printable line, whatever the names are that it quotes.
    """

    def __str__(self) -> str:
        return printable(super().__str__().strip())


class ConfigError(DmmnQpError):
    """A configuration file or a combination of options that cannot be meant."""


class ProjectError(DmmnQpError):
    """A QuPath project that cannot be found, read or resolved."""


class AnnotationFileError(DmmnQpError):
    """A file of annotations (``data.qpdata`` or GeoJSON) that is damaged or of an unsupported kind."""


class UnsupportedAnnotationsError(AnnotationFileError):
    """A whole file of annotations in a version or kind that our reader does not know, but QuPath may."""


class SlideError(DmmnQpError):
    """A slide that cannot be found, opened or read."""


class SlidePlaceError(SlideError):
    """What is wrong is where a slide is kept, not what is in it: no pixels may stand for those that are missing."""


class SlideChangedError(SlidePlaceError):
    """A slide whose file became another one while it was read."""


class SlideUnreachableError(SlidePlaceError):
    """A slide whose server does not answer, or refuses."""


class PartlyPredictedError(SlideError):
    """Some of several slides that could not be predicted.

    Attributes:
        written: Polygons of those that could, by slide.
    """

    def __init__(self, message: str, written: Mapping[str, Path]) -> None:
        super().__init__(message)
        self.written = dict(written)


class PixelSizeError(SlideError):
    """A slide whose pixel size is unknown, implausible, or does not fit the magnifications asked for."""


class DatasetError(DmmnQpError):
    """A dataset that is missing, damaged or cannot be trained on."""


class ModelError(DmmnQpError):
    """A model folder that is missing, damaged or does not fit what is asked of it."""


class TrainingError(DmmnQpError):
    """A training that cannot go on: its loss is not finite, or the memory does not suffice."""


class PredictedOtherwiseError(DmmnQpError):
    """A slide whose prediction is there, but of another file, by another model or with other options."""


class WorkerLostError(DmmnQpError):
    """A process that worked for this one, and ended in the middle of it.

    Attributes:
        how: Its exit code, or the signal that ended it.
    """

    def __init__(self, how: str, way_out: str = "repeat the command with smaller --workers") -> None:
        super().__init__(f"the process that worked on it was ended ({how}), mostly for lack of memory; {way_out}")
        self.how = how


class ClusterError(DmmnQpError):
    """A cluster that cannot be begun or reached, or has no machine that can do the work."""


class InUseError(DmmnQpError):
    """Another process works on the same file or folder."""


class OutputExistsError(DmmnQpError):
    """An output that exists already and may not be overwritten."""


class RoundStoppedError(DmmnQpError):
    """A round that stopped at one of its steps; the same command goes on there."""
