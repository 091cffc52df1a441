"""Sets up a checkout and runs its demo and tests, on any system: ``python make.py demo``, ``python make.py test``.

The Makefile calls it too. What a target needs is installed in ``.venv`` first: for the demo the package and nothing
else, for the tests all that they use. Nothing but Python is needed to run it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

DEMO = """\
dmmn-qp import examples/demo/project.qpproj --overwrite
dmmn-qp train --out models/demo-run --overwrite
dmmn-qp predict --overwrite
dmmn-qp evaluate --truth examples/demo/truth --out predictions/evaluation --overwrite
""".splitlines()
"""The user's own commands, shown as they run; the model has a name of its own, so that ``make clean`` knows it."""

LOOK = """
Look at predictions/test-1.overview.png, and at predictions/evaluation/evaluation.html in a browser. In QuPath,
open examples/demo/project.qpproj (it asks for the slides: they are in examples/demo/slides), open test-1 and
drag predictions/test-1.geojson onto it."""

LINT = ["ruff check .", "ruff format --check ."]
TYPES = ["mypy"]
TESTS = ['pytest -m "not engine" -n auto --dist loadfile']


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("target", choices=("demo", "test", "setup", "lint", "types"))
    parser.add_argument("--venv", default=".venv", metavar="FOLDER", help="the virtual environment (.venv)")
    parser.add_argument(
        "--torch",
        default="auto",
        metavar="WHICH",
        help="which build of torch: cpu, default (of PyPI, on Linux with CUDA), the address of a package index, or "
        "auto: on Linux cpu unless there is an NVIDIA driver",
    )
    given = parser.parse_args()
    if given.torch not in ("auto", "cpu", "default") and not given.torch.startswith(("https:", "http:", "file:")):
        parser.error(f"--torch {given.torch}: one of auto, cpu, default, or the address of a package index")
    os.chdir(HERE)
    venv = Venv(Path(given.venv), given.torch)
    if given.target == "demo":
        venv.provide(".", venv.ready_for_demo)
        venv.run(DEMO)
        print(LOOK)
        return
    venv.provide(".[dev]", venv.ready)
    steps = {"setup": [], "lint": LINT, "types": TYPES, "test": LINT + TYPES + TESTS}
    venv.run(steps[given.target])


class Venv:
    """A virtual environment, and what has been installed in it.

    Args:
        folder: Its folder; it is made.
        torch: Which build of torch, as on the command line.
    """

    def __init__(self, folder: Path, torch: str) -> None:
        self.folder = folder
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = str(self.bin / "python")
        self.torch = torch
        self.ready = folder / ".ready"
        self.ready_for_demo = folder / ".ready-demo"

    def provide(self, what: str, stamp: Path) -> None:
        """Installs something unless it is there already; a changed list of dependencies installs it anew."""
        done = any(is_newer(mark) for mark in {stamp, self.ready})
        if done and self.torch == "auto":
            return
        if sys.version_info < (3, 11):  # noqa: UP036  # before anything else can fail in another way
            sys.exit("dmmn-qp needs Python 3.11 or later: make PYTHON=python3.12 ..., or python3.12 make.py ...")
        if not self.bin.is_dir():
            make_venv(self.folder)
        if not done:
            print("Setting up " + str(self.folder) + " from the network; once, for a few minutes", flush=True)
        if self._provide_torch() or not done:
            self._pip("-e", what, check=True)
            stamp.touch()

    def _provide_torch(self) -> bool:
        """Installs the build of torch that is wanted, unless it is there, or the rest brings it; whether it did."""
        found = self._torch_version()
        wanted = self.torch
        if wanted == "auto":
            wanted = "default" if found or shutil.which("nvidia-smi") else "cpu"
        if wanted == "cpu" and platform.system() != "Linux":
            wanted = "default"  # which is without CUDA there
        if wanted == "default":
            if self.torch == "default" and "+" in found:
                return self._pip("--no-deps", "--force-reinstall", "torch", check=True)
            return False
        index = CPU_INDEX if wanted == "cpu" else wanted
        if found.endswith("+" + index.rstrip("/").rpartition("/")[2]):  # as torch's own indexes are called: cpu, cu126
            return False
        print("Fetching torch from " + index, flush=True)
        anew = ["--force-reinstall"] if found else []
        args = ["--no-deps", "--index-url", index, "--retries", "1", "--timeout", "20", *anew, "torch"]
        done = self._pip(*args, check=self.torch != "auto")
        if not done:
            print("It cannot be fetched there; PyPI's build, with CUDA, is installed instead (2.9 GB)", flush=True)
        return done

    def _torch_version(self) -> str:
        """The version of torch that is installed, such as 2.13.0+cpu; empty where there is none."""
        code = "import importlib.metadata as m; print(m.version('torch'))"
        told = subprocess.run([self.python, "-c", code], check=False, capture_output=True, text=True)
        return told.stdout.strip()

    def _pip(self, *args: str, check: bool) -> bool:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return subprocess.run([*command, "-c", "constraints.txt", *args], check=check).returncode == 0

    def run(self, steps: list[str]) -> None:
        """Runs commands of the environment, showing each; the first that fails ends it all with its exit code."""
        path = os.pathsep.join((str(self.bin.absolute()), os.environ.get("PATH", "")))
        for step in steps:
            print(step, flush=True)
            code = subprocess.run(step, check=False, shell=True, env={**os.environ, "PATH": path}).returncode
            if code:
                sys.exit(code)


def is_newer(stamp: Path) -> bool:
    """Whether something was installed after its list of dependencies last changed."""
    needed = (Path("pyproject.toml"), Path("constraints.txt"))
    return stamp.is_file() and all(stamp.stat().st_mtime >= path.stat().st_mtime for path in needed)


def make_venv(folder: Path) -> None:
    """Makes a virtual environment; says what to install where Debian has split that off from Python."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit("this Python cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # what it ran has said why
