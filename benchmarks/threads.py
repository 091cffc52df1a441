"""How many patches a second training and prediction get through with 1, 2 ... threads, beside other work.

    python -m benchmarks.threads [--threads 1 2 default] [--busy 0 1 2] [--stages train predict] [--seconds 5]
                                 [--rounds 3]

Each figure is of a process of its own, set up as the commands set it up: `train` with its reading processes, on the
demo's dataset; `predict` from a part of a slide to strips of labels, with the model of the demo. Beside it run so many
busy processes, niced as a considerate neighbour is. The numbers of threads take turns within a round, and what is
printed are medians over the rounds: patches or targets a second, the ratio to the first number of threads in the same
round, and CPU time of each (without that of reading processes), which tells what a busy machine hides. Whatever else
runs on the machine counts as busy too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from dmmn_qp.console import Reporter
from dmmn_qp.engines.cores import settle_libraries
from dmmn_qp.machine import busy_cores, cores_of_machine

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "examples" / "demo"
DEFAULT = "default"
PART = [[0, 0], [1000, 0], [1000, 1000], [0, 1000], [0, 0]]
"""What is predicted of the slide at a time, in level-0 px: small, so that a busy machine comes to an end."""

BUSY = "import os\nif hasattr(os, 'nice'): os.nice(19)\nwhile True: pass"

Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", default=["1", "2", DEFAULT], help=f"numbers, or {DEFAULT}")
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2], help="busy processes beside it")
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=[*STAGES])
    parser.add_argument("--seconds", type=float, default=5.0, help="that each figure takes, without its preparation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "THREADS"), help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    settle_libraries()  # which the stages load
    if given.one:
        stage, threads = given.one
        number = None if threads == DEFAULT else int(threads)
        print(json.dumps(STAGES[stage](number, given.seconds, given.dataset)))
        return
    print(
        f"{cores_of_machine()} cores, load {busy_cores() or 0:.1f} before; {given.rounds} rounds of {given.seconds:g} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        if "train" in given.stages:
            import_demo(dataset)
        for stage in given.stages:
            for busy in given.busy:
                rounds = [measured(stage, given.threads, busy, given.seconds, dataset) for _ in range(given.rounds)]
                print("\n".join(table(stage, busy, given.threads, rounds)), flush=True)


def measured(stage: str, threads: Sequence[str], busy: int, seconds: float, dataset: Path) -> list[Figures]:
    """One round: the figures of each number of threads."""
    found = []
    with neighbours(busy):
        for number in threads:
            command = [sys.executable, "-m", "benchmarks.threads", "--one", stage, number, "--dataset", str(dataset)]
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            environment.pop("OMP_NUM_THREADS", None)  # it would be the default
            done = subprocess.run(
                [*command, "--seconds", str(seconds)], env=environment, stdout=subprocess.PIPE, check=True, text=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


@contextmanager
def neighbours(busy: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        yield others
    finally:
        for other in others:
            other.kill()
            other.wait()


def table(stage: str, busy: int, threads: Sequence[str], rounds: Sequence[Sequence[Figures]]) -> Iterator[str]:
    """The figures of a stage beside so many busy processes: medians over the rounds."""
    yield f"\n{stage}, {busy} busy beside it"
    yield f"{'threads':<14}{'patches/s':>10}{'ratio':>8}{'least':>8}{'most':>8}{'CPU ms each':>13}"
    for number, name in enumerate(threads):
        mine = [figures[number] for figures in rounds]
        rates = [figures["patches"] / figures["seconds"] for figures in mine]
        ratios = [rate / (first[0]["patches"] / first[0]["seconds"]) for rate, first in zip(rates, rounds, strict=True)]
        cpu = statistics.median(1000 * figures["cpu_seconds"] / figures["patches"] for figures in mine)
        shown = f"{name} ({mine[0]['threads']:.0f})" if name == DEFAULT else name
        yield (
            f"{shown:<14}{statistics.median(rates):>10.1f}{statistics.median(ratios):>8.2f}{min(ratios):>8.2f}"
            f"{max(ratios):>8.2f}{cpu:>13.1f}"
        )


def quiet() -> Reporter:
    return Reporter(Console(file=io.StringIO()))


def import_demo(out: Path) -> None:
    from dmmn_qp.importing.options import ImportOptions
    from dmmn_qp.importing.stage import import_annotations

    import_annotations([DEMO / "project.qpproj"], out, ImportOptions(), quiet())


def timed(seconds: float, threads: int, work: Callable[[], int]) -> Figures:
    """Repeats some work, which says how many patches it did, for so many seconds, after once that does not count."""
    work()
    start, cpu, patches = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        patches += work()
    spent = time.perf_counter() - start
    return {"threads": threads, "patches": patches, "seconds": spent, "cpu_seconds": time.process_time() - cpu}


def train(threads: int | None, seconds: float, dataset_folder: Path) -> Figures:
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.networks.devices import choose_device, computing
    from dmmn_qp.training.launch import make_fabric
    from dmmn_qp.training.learner import Learner
    from dmmn_qp.training.options import TrainOptions
    from dmmn_qp.training.plan import make_batches, make_plan

    dataset, device = Dataset(dataset_folder), choose_device("cpu")
    asked = TrainOptions(preset="scratch", architecture="dmmn-m3", device="cpu", threads=threads, steps_per_epoch=10**5)
    plan = make_plan(dataset, asked, device, quiet())
    with computing(plan.options.threads) as number:
        fabric = make_fabric(plan.options, device)
        learner = Learner(dataset, plan, fabric)
        batches, draws, validation = make_batches(dataset, plan, fabric, (), quiet())
        learner.set_up()
        draws.start(1)
        learner.start_epoch()
        steps = enumerate(batches)

        def step() -> int:
            done, drawn = next(steps)
            learner.step(drawn, 1, done)
            return plan.options.batch_size

        try:
            return timed(seconds, number, step)
        finally:
            batches.close()
            validation.close()


def predict(threads: int | None, seconds: float, dataset_folder: Path) -> Figures:
    from dmmn_qp.networks.devices import computing
    from dmmn_qp.predicting.inputs import SlideToPredict
    from dmmn_qp.predicting.options import PredictOptions
    from dmmn_qp.predicting.predictor import load_predictors
    from dmmn_qp.predicting.slide import begin_slide, predict_strips
    from dmmn_qp.slides.view import SlideView

    del dataset_folder
    options = PredictOptions(device="cpu", threads=threads)
    slide = sorted((DEMO / "slides").glob("test-1.*"))[0]
    with computing(options.threads) as number:
        predictors = load_predictors(REPOSITORY / "models" / "demo", options)

        def part_of_slide() -> int:
            with tempfile.TemporaryDirectory() as folder:
                roi = Path(folder) / "part.geojson"
                roi.write_text(json.dumps({"type": "Polygon", "coordinates": [PART]}), "utf-8")
                target = SlideToPredict(slide.stem, SlideView(slide), roi=roi)
                job = begin_slide(target, predictors[0], Path(folder) / "strips", options, 0)
                predict_strips(job, predictors, quiet(), slide.stem)
                return int(job.area.targets.sum())

        return timed(seconds, number, part_of_slide)


STAGES: dict[str, Callable[[int | None, float, Path], Figures]] = {"train": train, "predict": predict}


if __name__ == "__main__":
    main()
