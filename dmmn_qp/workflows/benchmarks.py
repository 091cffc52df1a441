"""Runs of the programs under ``benchmarks/``: what a ledger tells of one, and whether its figures come out again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import model_validator

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.errors import ConfigError
from dmmn_qp.folders.provenance import source_digest
from dmmn_qp.specs import FileModel
from dmmn_qp.text import count_of, shorten

STAGE: Final = "benchmark"
"""What ``run.json`` of a benchmark says that it is of."""

FIGURES: Final = "figures"
"""Key of ``run.json`` under which a benchmark tells its figures, by name."""

MACHINE: Final = "machine"
"""Key under which it tells the kind of machine."""

SOURCES: Final = "benchmarks"
"""Key under which it tells the digest of the programs."""

TOLD: Final = (FIGURES, MACHINE)
"""Keys of a benchmark's own."""

TOLERANCE: Final = 0.1
"""Figures that differ by no more than this part of the earlier one have not drifted."""

BENCHMARKS: Final[Mapping[str, tuple[str, ...]]] = {
    "architectures": ("seeds", "steps", "epochs", "width", "parts", "networks", "device", "small", "quick"),
    "gpu": ("device", "quick"),
    "real_tissue": ("tiles", "seeds", "presets", "quick"),
    "scale": (
        *("gpu_s", "cores", "bucket_gbit", "stream_gbit", "spread", "failure", "restart_s", "slow", "slow_factor"),
        *("gpu_hour", "core_hour", "gb_month", "egress_gb", "seed"),
    ),
    "stages": ("slide",),
}
"""The options of each that decide its figures, and that are taken from a file; others are not."""

_MOST_LINES: Final = 40
_CPU_INFO: Final = Path("/proc/cpuinfo")


class BenchmarkOptions(FileModel):
    """What a benchmark was given.

    Attributes:
        benchmark: Key of `BENCHMARKS`.
        given: Its options, by their names.
    """

    benchmark: Literal["architectures", "gpu", "real_tissue", "scale", "stages"]
    given: dict[str, bool | int | float | str | None]

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = [name for name in self.given if name not in BENCHMARKS[self.benchmark]]
        if unknown:
            raise ValueError(f"{self.benchmark} has no option {shorten(unknown[0])}")
        return self

    def command(self, out: Path) -> list[str]:
        """The command in words, after ``python``; a value is part of its option, so that none becomes another one."""
        typed = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            for name, value in self.given.items()
            if value is not None and value is not False
        ]
        return ["-m", f"benchmarks.{self.benchmark}", *typed, f"--out={out}"]


def programs() -> Path:
    """The folder of the benchmarks, beside the package in a checkout."""
    return Path(__file__).parents[2] / SOURCES


def machine() -> dict[str, str | int]:
    """The kind of machine that figures of time depend on: processor, cores, and what a network runs on."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "CPU"
    return {"processor": _processor(), "cores": available_cores(), "device": device}


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def changes(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What differs of machine and programs from when a benchmark ran: what, then and now.

    Args:
        told: All that its file says.
    """
    digest = told.get(SOURCES)
    here = source_digest(programs())
    if digest != here:
        yield "benchmarks", shorten(digest, 40) if isinstance(digest, str) else "not told", here
    of_then = told.get(MACHINE)
    for name, now in machine().items():
        then = of_then.get(name) if isinstance(of_then, dict) else None
        if then != now:
            yield name, "not told" if then is None else shorten(str(then), 60), shorten(str(now), 60)


def benchmark_again(options: BenchmarkOptions, out: Path) -> None:
    """Runs a benchmark, of the programs beside this package and no others; what it prints is shown.

    Args:
        options: What it is given.
        out: Its folder, which it makes.

    Raises:
        ConfigError: The program is not there, or fails.
    """
    folder = programs()
    if not (folder / f"{options.benchmark}.py").is_file():
        raise ConfigError(
            f"benchmarks.{options.benchmark} is not installed with dmmn-qp; run reproduce in a checkout of its "
            "repository"
        )
    path = os.pathsep.join(filter(None, [str(folder.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", *options.command(out)]  # -P: no program of the folder in which it is run
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        raise ConfigError(f"benchmarks.{options.benchmark} ended with code {done.returncode}; see what it printed")


def drift(then: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    """Says which figures are others than they were.

    Args:
        then: What the earlier file says.
        now: What that of the new run says.
        tolerance: What part of the earlier figure it may differ by.
    """
    before, after = _figures(then), _figures(now)
    if not before:
        yield "nothing to compare with: the file tells no figures"
        return
    drifted = []
    for name, figure in before.items():
        found = after.get(name)
        if found is None or abs(found - figure) > tolerance * abs(figure):
            drifted.append(f"{shorten(name)}: {figure:g} -> {'missing' if found is None else f'{found:g}'}")
    yield from drifted[:_MOST_LINES]
    if len(drifted) > _MOST_LINES:
        yield f"and {len(drifted) - _MOST_LINES} more"
    all_of_them, part = count_of(len(before), "figure"), f"more than {tolerance:.3g} of what it was"
    yield f"of {all_of_them}, {len(drifted)} drifted by {part}" if drifted else f"{all_of_them}: none drifted by {part}"


def _figures(told: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a run, those that are finite numbers."""
    figures = told.get(FIGURES)
    named = figures.items() if isinstance(figures, dict) else ()
    numbers = ((name, v) for name, v in named if isinstance(v, int | float) and not isinstance(v, bool))
    return {name: float(v) for name, v in numbers if abs(v) <= sys.float_info.max}
