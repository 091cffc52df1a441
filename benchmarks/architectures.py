"""Whether three magnifications pay, and how much to draw: the paper's comparison, on slides that a program drew.

    python -m benchmarks.architectures [--out FOLDER] [--slides FOLDER] [--seeds 3] [--steps 1200] [--jobs 1]
                                       [--parts main,amount,context] [--minutes N] [--device auto] [--quick]

Slides are those of ``examples/make_demo_slides.py`` (it needs scikit-image), of other seeds than the demo's and whole:
for each seed two for training and one for validation, 2.4 mm2 each; six for testing, the same for all seeds. Three of
these are as the others, and three come from another "scanner": other dyes of other strength, other light, blur and
noise. No network sees a test slide before it is judged there, on the full truth.

- main: the paper's six networks, and DMMN-P on its pretrained encoder, which is not the paper's. All learn from the
  same patches: a quarter of each class is drawn, in areas of about 75 um, 1 um inside their borders. The six have the
  same steps, preset ``scratch`` and, as in the paper, widths that give them comparable sizes; the epoch that is best on
  the slide for validation counts. DMMN-P learns as preset ``fast`` does.
- amount: 1, 5, 25 and 100 % of each class drawn; with the paper's elastic balancing, with classes that take turns (the
  default), and without balancing; one magnification (U-Net; DMMN-P at 20x alone) against three; 1 um and 8 um left
  free inside borders.
- context: main again, with stroma within 100 um of carcinoma as a class of its own. A target at 20x does not show so
  far: this class is made to need context.

Each run, of a network and a seed and what is drawn, is OUT/runs/NAME.json; what is there is not run again, and the
tables and figures are made of them: OUT/tables.md, OUT/*.png. Runs share the device in so many processes (``--jobs``).
``--minutes`` begins no run later. ``--prepare`` only makes slides and datasets. ``--small`` is for machines without a
GPU: models are judged on the middle 1024 px of each test slide, and DMMN-P has one view and no self-training.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures_figures import draw_all
from benchmarks.architectures_run import M3, PRETRAINED, Budget, Run, perform, read_runs
from benchmarks.architectures_slides import Workplace, make_all
from benchmarks.architectures_tables import NETWORKS, SHARES, everything, metrics_of, read_paper
from benchmarks.ledger import write_run
from dmmn_qp.engines.cores import available_cores
from dmmn_qp.folders.provenance import now

PARTS = ("main", "amount", "context")
QUICK_SHARES = (0.25, 1.0)

SMALL_PX = 1024
"""Of a small comparison, side of the squares on which models are judged."""


def runs_of(parts: Sequence[str], seeds: int, networks: Sequence[str], shares: Sequence[float]) -> list[Run]:
    """All runs, the most telling first."""
    found: list[Run] = []
    if "main" in parts:
        found += [Run(network, seed) for seed in range(seeds) for network in networks]
    if "context" in parts:
        found += [Run(network, 0, tissue="context") for network in networks]
    if "amount" in parts:
        found += [run for seed in range(seeds) for run in amounts_of(seed, shares) if run.network in networks]
    if "context" in parts:
        found += [Run(network, seed, tissue="context") for seed in range(1, seeds) for network in networks]
    return list(dict.fromkeys(found))


def amounts_of(seed: int, shares: Sequence[float]) -> Iterator[Run]:
    """The runs that say how much to draw, of one seed."""
    for share in shares:
        for network in (M3, "unet", PRETRAINED):
            yield Run(network, seed, share)
        yield Run(PRETRAINED, seed, share, magnifications=1)
    yield Run(M3, seed, gap="wide")
    yield Run(PRETRAINED, seed, gap="wide")
    for share in shares:
        yield Run(M3, seed, share, "elastic")
        yield Run(M3, seed, share, "shuffled")


def run_all(runs: Sequence[Run], jobs: int, perform_one: partial[dict[str, Any]], out: Path, end: float) -> int:
    """Performs runs, so many at once, until the end; what fails is written down.

    Returns:
        How many failed.
    """
    threads, failed, waiting = int(os.environ["OMP_NUM_THREADS"]), 0, list(runs)
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        running: dict[Future[dict[str, Any]], Run] = {}
        while running or waiting:
            while waiting and len(running) < jobs and time.time() < end:
                try:
                    running[pool.submit(perform_one, waiting[0])] = waiting[0]
                except BrokenProcessPool:
                    print(f"a process was killed; {len(waiting)} runs are left: run the same command again", flush=True)
                    return failed + sum(not tell(run, future, out) for future, run in running.items())
                del waiting[0]
            if not running:
                print(f"the time is up; {len(waiting)} runs are left for another time", flush=True)
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                failed += not tell(running.pop(future), future, out)
    return failed


def tell(run: Run, future: Future[dict[str, Any]], out: Path) -> bool:
    """Says what came of a run; whether it ended well."""
    error = future.exception()
    if error is None:
        row = future.result()
        reached = ", ".join(f"{metrics_of(row, scanner).mean_iou:.3f}" for scanner in row["confusion"])
        print(f"{run.name}: mIoU {reached} ({row['train_s']:.0f} + {row['predict_s']:.0f} s)", flush=True)
        return True
    (out / "failed").mkdir(exist_ok=True)
    (out / "failed" / f"{run.name}.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    print(f"{run.name}: failed, {str(error)[:300]}", flush=True)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("architectures"), help="folder for runs, tables and figures")
    parser.add_argument("--slides", type=Path, help="folder for slides and datasets; by default OUT/slides")
    parser.add_argument("--work", type=Path, help="folder for models while they are needed; by default OUT/work")
    parser.add_argument("--seeds", type=int, default=3, help="how many choices of slides and drawings")
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps of networks from scratch")
    parser.add_argument("--epochs", type=int, default=4, help="how often each is validated on the way")
    parser.add_argument("--width", type=int, help="base width of DMMN-M3; others have theirs, as in the paper")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--readers", type=int, default=1, help="processes that read patches, of each run")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of main, amount, context")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which networks")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="where to train")
    parser.add_argument(
        "--paper", type=Path, help="table network,miou of the paper's Table 3, to be printed beside ours"
    )
    parser.add_argument("--figures", type=Path, help="folder for the figures; by default OUT")
    parser.add_argument("--prepare", action="store_true", help="only make slides and datasets")
    parser.add_argument("--drawers", type=int, default=64, help="processes that make slides and datasets, at most")
    parser.add_argument("--small", action="store_true", help="judge on parts of test slides; DMMN-P with one view")
    parser.add_argument("--quick", action="store_true", help="one seed, tiny slides, 2 steps; no figures of worth")
    given = parser.parse_args()
    for named, known in ((given.parts, PARTS), (given.networks, NETWORKS)):
        unknown = [name for name in named.split(",") if name not in known]
        if unknown:
            parser.error(f"no {unknown[0]!r}; there are {', '.join(known)}")
    raise SystemExit(compare(given, time.time() + 60 * given.minutes))


def compare(given: argparse.Namespace, end: float) -> int:
    """Runs what is missing, and shows what all runs say.

    Returns:
        How many runs failed.
    """
    out = given.out.absolute()
    place = Workplace((given.slides or out / "slides").absolute(), given.quick, SMALL_PX if given.small else None)
    started = now()
    seeds, shares = (1, QUICK_SHARES) if given.quick else (given.seeds, SHARES)
    runs = runs_of(given.parts.split(","), seeds, given.networks.split(","), shares)
    make_all(place, [run.dataset for run in runs], seeds, min(given.drawers, available_cores()))
    if given.prepare:
        return 0
    (out / "runs").mkdir(parents=True, exist_ok=True)
    missing = [run for run in runs if not (out / "runs" / f"{run.name}.json").is_file()]
    steps, epochs, width = (2, 1, 2) if given.quick else (given.steps, given.epochs, given.width)
    small = given.small or given.quick
    budget = Budget(steps, epochs, width, given.device, 0 if given.quick else given.readers, small)
    work = (given.work or out / "work").absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // given.jobs)))
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there; {given.jobs} at a time", flush=True)
    perform_one = partial(perform, budget=budget, place=place, out=out, work=work)
    failed = run_all(missing, given.jobs, perform_one, out, end)
    show(out, place, given)
    write_run(out, "architectures", given, figures_of(out, runs), started)
    return failed


def figures_of(out: Path, runs: Sequence[Run]) -> dict[str, float]:
    """Figures of the runs that are there, by name; others in the folder are of another command."""
    paths = ((run.name, out / "runs" / f"{run.name}.json") for run in runs)
    rows = {name: json.loads(path.read_text("utf-8")) for name, path in paths if path.is_file()}
    return {
        f"{name}, {scanner}: mIoU": round(float(metrics_of(row, scanner).mean_iou), 4)
        for name, row in rows.items()
        for scanner in row["confusion"]
    }


def show(out: Path, place: Workplace, given: argparse.Namespace) -> None:
    """Writes and prints the tables, and draws the figures."""
    rows = read_runs(out)
    if not rows:
        return
    tables = everything(rows, read_paper(given.paper))
    (out / "tables.md").write_text(tables, encoding="utf-8", newline="\n")
    print(f"\n{tables}")
    for path in draw_all(given.figures or out, rows, place, out):
        print(f"drew {path}")


if __name__ == "__main__":
    main()
