"""What a million slides take: cost of a slide, the bottleneck, GPU-hours, storage and traffic; a plan, on paper.

    python -m benchmarks.scale [--gpu-s 7.9] [--cores 16] [--bucket-gbit 100] ... [--out FOLDER]

Figures of a slide are those of the paper's (53,711 x 38,380 px). What was measured with this code, on CPUs, is
`MEASURED`; all that was not is a parameter with a default, `Assumed`: GPUs above all, and prices. GPUs that read from
one bucket are simulated event by event (`simulate`): each predicts one slide, while its cores fetch and decode the next
and write the last; fetching shares the bucket's bandwidth. Slides differ in size, some take long, some attempts fail
and are repeated. The same seed gives the same table. ``docs/scale.md`` has what this prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.ledger import write_run
from benchmarks.scale_simulation import Fleet, Outcome, simulate
from dmmn_qp.folders.provenance import now

SLIDES: Final = 1_000_000
PIXELS: Final = 53_711 * 38_380
TARGETS: Final = 210 * 150
FLEETS: Final = (8, 25, 80, 250, 800)
CORES: Final = (4, 8, 16, 32)
SLIDES_PER_GPU, FEWEST_SLIDES = 50, 4000
"""So many are simulated; between the first and the last tenth of them the rate is steady, and is taken for all."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured with this code on CPUs, of one pixel or target, and where that is told.

    Attributes:
        read_ns: CPU time of reading and decoding each pixel once (docs/prediction.md, Time: 0.8 s of 8192 x 8192 px).
        labels_ns: Of writing the label pyramid (demo, test-1).
        polygons_ns: Of tracing and writing polygons, twice because small regions are joined
            (``benchmarks/vectorize.py --sides 4096``, 18.7 each).
        network_s: CPU time of a target of DMMN-M3, width 32, bf16, ``shared`` (docs/prediction.md: 230 s of 1024).
        compression: Pixels' bytes to the file's, JPEG.
        labels_bits: Of a pixel in the label pyramid (demo, test-1: 236,521 bytes of 3072 x 3072 px).
        polygons_bits: Of a pixel in packed GeoJSON (the same: 69,849 bytes).
        overview_mb: Of a picture of the slide, whose size does not grow with it.
    """

    read_ns: float = 0.8e9 / 8192**2
    labels_ns: float = 3.8
    polygons_ns: float = 2 * 18.7
    network_s: float = 230 / 1024
    compression: float = 15.5
    labels_bits: float = 8 * 236_521 / 3072**2
    polygons_bits: float = 8 * 69_849 / 3072**2
    overview_mb: float = 1.8

    @property
    def cpu_s(self) -> float:
        """CPU time of a slide beside the network."""
        return PIXELS * (self.read_ns + self.labels_ns + self.polygons_ns) / 1e9

    @property
    def read_gb(self) -> float:
        """What of a slide is fetched: all of the file."""
        return 3 * PIXELS / self.compression / 1e9

    @property
    def written_gb(self) -> float:
        """What is kept of a slide."""
        return PIXELS * (self.labels_bits + self.polygons_bits) / 8e9 + self.overview_mb / 1e3


MEASURED: Final = Measured()


@dataclass(frozen=True, slots=True)
class Assumed:
    """What was not measured.

    Attributes:
        gpu_s: Time of a slide on a GPU: 6.2 PFLOP less what is shared, at 40 % of an H200's bf16 rate, by arithmetic.
        cores: Cores beside each GPU.
        bucket_gbit: Bandwidth of the bucket, of all readers together, Gbit/s.
        stream_gbit: Bandwidth of one GPU's machine at most.
        spread: Standard deviation of the logarithm of the slides' sizes.
        failure: Chance of an attempt to fail, at any moment of it.
        restart_s: Time until a GPU whose attempt failed goes on.
        slow: Chance of an attempt to be slow.
        slow_factor: How much longer it takes then.
        gpu_hour: Price of a GPU with its cores, USD.
        core_hour: Price of a core without one.
        gb_month: Price of a GB kept for a month.
        egress_gb: Price of a GB that leaves the cloud of the bucket.
        seed: Of what is left to chance.
    """

    gpu_s: float = 7.9
    cores: float = 16
    bucket_gbit: float = 100
    stream_gbit: float = 10
    spread: float = 0.5
    failure: float = 0.005
    restart_s: float = 120
    slow: float = 0.01
    slow_factor: float = 10
    gpu_hour: float = 4.0
    core_hour: float = 0.04
    gb_month: float = 0.023
    egress_gb: float = 0.09
    seed: int = 0


OPTIONS: Final = {
    "--gpu-s": "time of a slide on a GPU",
    "--cores": "cores beside each GPU",
    "--bucket-gbit": "bandwidth of the bucket, Gbit/s",
    "--stream-gbit": "bandwidth of each machine, Gbit/s",
    "--spread": "deviation of the logarithm of the slides' sizes",
    "--failure": "chance of an attempt to fail",
    "--restart-s": "time that a failure costs besides",
    "--slow": "chance of an attempt to be slow",
    "--slow-factor": "how much longer it takes then",
    "--gpu-hour": "USD of a GPU with its cores",
    "--core-hour": "USD of a core without one",
    "--gb-month": "USD of a GB kept for a month",
    "--egress-gb": "USD of a GB that leaves the cloud",
    "--seed": "of what is left to chance",
}
"""Of each field of `Assumed`, in their order."""


def fleet_of(gpus: int, assumed: Assumed) -> Fleet:
    """The GPUs of a plan."""
    gb_s = assumed.bucket_gbit / 8, assumed.stream_gbit / 8
    chances = assumed.failure, assumed.restart_s, assumed.slow, assumed.slow_factor
    return Fleet(gpus, assumed.gpu_s, MEASURED.cpu_s / assumed.cores, MEASURED.read_gb, *gb_s, *chances)


def sizes_of(number: int, assumed: Assumed) -> list[float]:
    """Sizes of slides, whose mean is 1."""
    drawn = np.exp(np.random.default_rng(assumed.seed).normal(0, assumed.spread, number))
    return [float(size) for size in drawn / drawn.mean()]


def bound_of(fleet: Fleet) -> str:
    """What takes longest of a slide of size 1, where all GPUs are at work."""
    gpu_s = fleet.gpu_s * (1 + fleet.slow * (fleet.slow_factor - 1)) + fleet.failure * fleet.restart_s
    times = {
        "GPU": gpu_s,
        "cores": fleet.fetch_s,
        "machine's network": fleet.read_gb / fleet.stream_gb_s,
        "bucket": fleet.gpus * fleet.read_gb / fleet.bucket_gb_s,
    }
    return max(times, key=lambda name: times[name])


@dataclass(frozen=True, slots=True)
class Row:
    """A simulated fleet."""

    fleet: Fleet
    outcome: Outcome

    @property
    def hours(self) -> float:
        """For all slides."""
        return SLIDES / self.outcome.slides_per_s / 3600

    @property
    def gpu_hours(self) -> float:
        """Paid for, at work or not."""
        return self.hours * self.fleet.gpus

    @property
    def used(self) -> float:
        """Part of them at work, in which the GPUs are used."""
        return self.outcome.busy_s / len(self.outcome.ended) * self.outcome.slides_per_s / self.fleet.gpus

    @property
    def gb_s(self) -> float:
        """What the bucket gives."""
        return self.outcome.fetched_gb / len(self.outcome.ended) * self.outcome.slides_per_s


def row_of(gpus: int, assumed: Assumed) -> Row:
    """Simulates a fleet."""
    fleet = fleet_of(gpus, assumed)
    slides = max(FEWEST_SLIDES, SLIDES_PER_GPU * gpus)
    return Row(fleet, simulate(sizes_of(slides, assumed), fleet, assumed.seed))


def slide_lines(a: Assumed) -> Iterator[str]:
    """What one slide takes, and a million."""
    cpu_network = MEASURED.network_s * TARGETS
    yield f"| | one slide of {PIXELS / 1e9:.2f} Gpx | {SLIDES:,} | |"
    yield "|---|---|---|---|"
    for name, one, unit, scale, of_all, source in (
        ("network, on a GPU", a.gpu_s, "s", 3600, "GPU-hours", "assumed"),
        ("network, on CPUs instead", cpu_network, "CPU s", 3600, "core-hours", "measured"),
        ("reading and decoding", PIXELS * MEASURED.read_ns / 1e9, "CPU s", 3600, "core-hours", "measured"),
        ("label pyramid", PIXELS * MEASURED.labels_ns / 1e9, "CPU s", 3600, "core-hours", "measured"),
        ("polygons", PIXELS * MEASURED.polygons_ns / 1e9, "CPU s", 3600, "core-hours", "measured"),
        ("fetched", MEASURED.read_gb, "GB", 1e3, "TB", "measured"),
        ("kept", MEASURED.written_gb, "GB", 1e3, "TB", "measured"),
    ):
        shown = f"{one:,.1f}" if one >= 1 else f"{one:.3f}"
        yield f"| {name} | {shown} {unit} | {SLIDES * one / scale:,.0f} {of_all} | {source} |"


def fleet_lines(rows: Sequence[Row], a: Assumed) -> Iterator[str]:
    """What fleets of different sizes make of a million slides."""
    yield "| GPUs | slides an hour | hours | GPU-hours | GPUs at work | bucket, GB/s | limit | USD |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.fleet.gpus} | {3600 * row.outcome.slides_per_s:,.0f} | {row.hours:,.1f} "
            f"| {row.gpu_hours:,.0f} | {100 * row.used:.0f} % | {row.gb_s:.1f} | {bound_of(row.fleet)} "
            f"| {row.gpu_hours * a.gpu_hour:,.0f} |"
        )


def cores_lines(rows: Sequence[tuple[int, Row]]) -> Iterator[str]:
    """What cores beside each GPU decide."""
    yield "| cores beside each of 80 GPUs | slides an hour | GPUs at work | limit |"
    yield "|---|---|---|---|"
    for cores, row in rows:
        per_hour = 3600 * row.outcome.slides_per_s
        yield f"| {cores} | {per_hour:,.0f} | {100 * row.used:.0f} % | {bound_of(row.fleet)} |"


def price_lines(rows: Sequence[Row], a: Assumed) -> Iterator[str]:
    """Prices, all of them assumed."""
    cpu_hours = SLIDES * (MEASURED.network_s * TARGETS + MEASURED.cpu_s) / 3600
    least = min(row.gpu_hours for row in rows)
    yield "| | USD a slide | USD in all |"
    yield "|---|---|---|"
    for name, usd in (
        ("GPUs, of the fleet above that uses them best", least * a.gpu_hour),
        ("CPUs alone", cpu_hours * a.core_hour),
        ("what is kept, a month", SLIDES * MEASURED.written_gb * a.gb_month),
        ("slides themselves, a month", SLIDES * MEASURED.read_gb * a.gb_month),
        ("slides fetched out of their cloud", SLIDES * MEASURED.read_gb * a.egress_gb),
        ("results fetched out of it", SLIDES * MEASURED.written_gb * a.egress_gb),
    ):
        yield f"| {name} | {usd / SLIDES:.4f} | {usd:,.0f} |"


def report(assumed: Assumed) -> tuple[str, dict[str, float]]:
    """All tables as Markdown, and their figures by name."""
    rows = [row_of(gpus, assumed) for gpus in FLEETS]
    by_cores = [(cores, row_of(80, Assumed(**{**asdict(assumed), "cores": cores}))) for cores in CORES]
    parts = [slide_lines(assumed), fleet_lines(rows, assumed), cores_lines(by_cores), price_lines(rows, assumed)]
    figures = {f"{row.fleet.gpus} GPUs: slides an hour": 3600 * row.outcome.slides_per_s for row in rows}
    figures |= {f"{cores} cores: slides an hour": 3600 * row.outcome.slides_per_s for cores, row in by_cores}
    figures |= {"CPU s of a slide beside the network": MEASURED.cpu_s, "GB kept of a slide": MEASURED.written_gb}
    return "\n\n".join("\n".join(lines) for lines in parts), figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for (option, what), one in zip(OPTIONS.items(), fields(Assumed), strict=True):
        kind, told = int if one.name == "seed" else float, f"{what}; by default {one.default}"
        parser.add_argument(option, type=kind, default=one.default, metavar="N", help=told)
    parser.add_argument("--out", type=Path, help="folder for run.json, by which dmmn-qp reproduce tells a drift")
    given, started = parser.parse_args(), now()
    text, figures = report(Assumed(**{one.name: getattr(given, one.name) for one in fields(Assumed)}))
    print(text)
    if given.out is not None:
        write_run(given.out, "scale", given, figures, started)


if __name__ == "__main__":
    main()
