"""Whether suggested regions save a person's time: a simulated pathologist corrects and trains, round by round.

    python -m benchmarks.loop [--tiles FOLDER] [--out FOLDER] [--seeds 3] [--rounds 4] [--regions 4]
                              [--choosers random,uncertainty,suggest] [--from-earlier] [--quick]

Two tissues. "drawn": slides of ``examples/make_demo_slides.py`` of other seeds than the demo's (it needs scikit-image),
six classes, of each 1 mm2: two for training, one for validation, two for testing. "real", with ``--tiles``: those of
`benchmarks.real_tissue`, two classes. Slides for training, validation and testing are apart, and each seed tests
others. What the encoder sees is remembered between rounds, so machine minutes are those of a process that stays.

A run begins with five small areas of each class, about 30 um wide, on the slides for training together, at random
places. On slides for validation there are as many; on real tiles a fifth of each class, because ten small areas of two
classes choose the length of a training at random. Each round trains (preset ``fast`` with ``--views 1 --self-training
0``, anew unless ``--from-earlier``), predicts, and chooses so many windows on the slides for training, of 128 um (real
tiles: 96), on tissue and outside of what is annotated:

- random: any of them;
- uncertainty: those of highest mean entropy, from the raster that ``predict --uncertainty`` writes, and nothing else;
- suggest: what ``dmmn-qp suggest`` says; ``suggest/weight_rarity=0/spread=1`` gives it other options.

The person corrects what is predicted there by the truth, which becomes annotation. What that takes is counted from what
really changed, by the constants of `benchmarks.loop_person`. "full" is the bound: the same slides with everything
annotated. mIoU is on the full truth of unseen slides, against person's minutes, mm2 and machine minutes of training and
prediction. The rows of OUT/rounds.csv are the ledger: a run that is complete is not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import dmmn_qp
from benchmarks import loop_curves as curves
from benchmarks.drawn import (
    Labels,
    TruthSlide,
    draw_share,
    draw_spots,
    read_rows,
    read_tiles,
    write_annotations,
    write_rows,
    write_slide,
)
from benchmarks.loop_choosers import Quiet, State, Window, chooser_of
from benchmarks.loop_memory import remembered_encoder
from benchmarks.loop_person import Work, correction, drawing, shown
from benchmarks.loop_tissues import Tissue, drawn_tissue, real_tissue
from benchmarks.prediction import labels_of
from dmmn_qp.labels.metrics import pair_counts

SPOTS, SPOT_RADIUS_UM = 5, 15.0
LEDGER = "rounds.csv"


@dataclass(frozen=True, slots=True)
class Settings:
    """How runs are run.

    Attributes:
        rounds: After the first training.
        regions: Windows of each round.
        from_earlier: Whether each training starts from the model before.
    """

    rounds: int
    regions: int
    from_earlier: bool


def start(tissue: Tissue, folder: Path, seed: int) -> State:
    """Draws the first small areas, and what is there for validation."""
    rng, state = np.random.default_rng(seed), State(folder, {})
    radius_px = round(SPOT_RADIUS_UM / tissue.train[0].mpp)
    drawn = draw_spots(tissue.train, SPOTS, radius_px, rng)
    if tissue.val_share:
        drawn += [draw_share(slide, tissue.val_share, rng) for slide in tissue.val]
    else:
        drawn += draw_spots(tissue.val, SPOTS, radius_px, rng)
    for slide, labels in zip((*tissue.train, *tissue.val), drawn, strict=True):
        state.drawn[slide.name] = labels
        state.work += drawing(labels, slide.mpp)
        state.mm2 += np.count_nonzero(labels) * slide.mpp**2 / 1e6
    return state


def train_and_predict(tissue: Tissue, state: State, seed: int, start_from: Path | None = None) -> float:
    """Imports what is annotated, trains, predicts slides for training and testing, and returns the mIoU of these."""
    splits: list[dict[str, object]] = []
    for split, of in (("train", tissue.train), ("val", tissue.val)):
        for slide in of:
            if state.drawn[slide.name].any():
                write_annotations(state.folder / "annotations", slide, state.drawn[slide.name])
                splits.append({"slide": slide.name, "split": split})
    write_rows(state.folder / "split.csv", splits)
    begun, cpu, model = time.perf_counter(), time.process_time(), state.folder / "model"
    dataset = dmmn_qp.import_annotations(
        state.folder / "slides",
        state.folder / "dataset",
        annotations=state.folder / "annotations",
        split_file=state.folder / "split.csv",
        overwrite=True,
        workers=1,
        reporter=Quiet(),
    )
    options = {"seed": seed, "views": 1, "self_training": 0, "workers": 0, "start_from": start_from}
    dmmn_qp.train(dataset, model, overwrite=True, reporter=Quiet(), **options)
    slides = [state.folder / "slides" / f"{slide.name}.tif" for slide in tissue.train]
    dmmn_qp.predict_slides(
        slides, model, state.folder / "predictions", uncertainty=True, overwrite=True, reporter=Quiet()
    )
    state.machine_s += time.perf_counter() - begun
    state.cpu_s += time.process_time() - cpu
    loaded, state.names = dmmn_qp.load_model(model), dataset.class_map.names
    found = [dmmn_qp.predict_array(slide.pixels, slide.mpp, loaded) for slide in tissue.test]
    return miou(
        [(s.truth, in_numbers_of(s, labels, state.names)) for s, labels in zip(tissue.test, found, strict=True)]
    )


def in_numbers_of(slide: TruthSlide, labels: Labels, names: Sequence[str]) -> Labels:
    """Predicted labels in the numbers of a slide's truth."""
    return np.array([0, *(slide.classes.names.index(name) + 1 for name in names)], np.uint8)[labels]


def miou(pairs: Sequence[tuple[Labels, Labels]]) -> float:
    """Mean IoU of the classes that occur, of truth and prediction of several slides together."""
    counts = sum(pair_counts(*pair) for pair in pairs)[1:]
    true, found, right = counts.sum(axis=1), counts.sum(axis=0)[1:], np.diagonal(counts[:, 1:])
    of_class = true > 0
    return float(np.mean(right[of_class] / (true[of_class] + found[of_class] - right[of_class])))


def correct(tissue: Tissue, state: State, windows: Sequence[Window]) -> None:
    """Lets the person correct windows."""
    for slide in tissue.train:
        chosen = [window for window in windows if window[0] == slide.name]
        if not chosen:
            continue
        predicted = labels_of(state.folder / "predictions" / f"{slide.name}.labels.ome.tif")
        seen = shown(in_numbers_of(slide, predicted, state.names), slide.mpp)
        for _, x, y, side in chosen:
            here = slice(y, y + side), slice(x, x + side)
            state.work += correction(seen[here], slide.truth[here], slide.mpp)
            state.drawn[slide.name][here] = slide.truth[here]
            state.mm2 += np.count_nonzero(slide.truth[here]) * slide.mpp**2 / 1e6


def row_of(run: tuple[str, int, str], number: int, windows: int, state: State, reached: float) -> dict[str, object]:
    """A row of the ledger."""
    tissue, seed, chooser = run
    return {
        **{"tissue": tissue, "seed": seed, "chooser": chooser, "round": number, "regions": windows},
        "mm2": round(state.mm2, 5),
        "person_min": round(state.work.seconds / 60, 3),
        **{key: round(value, 3) for key, value in asdict(state.work).items()},
        "machine_min": round(state.machine_s / 60, 3),
        "cpu_s": round(state.cpu_s, 1),
        "miou": round(reached, 4),
    }


def begin(tissue: Tissue, folder: Path, seed: int) -> tuple[State, float]:
    """The first round, which all ways of choosing have in common: where it leaves the run, and the mIoU."""
    shutil.rmtree(folder, ignore_errors=True)
    for slide in (*tissue.train, *tissue.val):
        write_slide(folder / "slides", slide)
    state = start(tissue, folder, seed)
    return state, train_and_predict(tissue, state, seed)


def everything(tissue: Tissue, begun: State, seed: int) -> Iterator[dict[str, object]]:
    """The bound: everything is annotated on the slides for training."""
    state = copy_of(begun, curves.FULL)
    state.drawn |= {slide.name: slide.truth for slide in tissue.train}
    state.work = sum((drawing(slide.truth, slide.mpp) for slide in tissue.train), Work())
    state.mm2 = sum(np.count_nonzero(slide.truth) * slide.mpp**2 / 1e6 for slide in tissue.train)
    yield row_of((tissue.key, seed, curves.FULL), 0, 0, state, train_and_predict(tissue, state, seed))


def by_rounds(
    tissue: Tissue, begun: tuple[State, float], seed: int, chooser: str, given: Settings
) -> Iterator[dict[str, object]]:
    """A run with one way of choosing: a row for each round."""
    choose, options = chooser_of(chooser)
    state, run = copy_of(begun[0], chooser), (tissue.key, seed, chooser)
    yield row_of(run, 0, 0, state, begun[1])
    for number in range(1, given.rounds + 1):
        windows = choose(tissue, state, given.regions, 1000 * seed + number, options)
        correct(tissue, state, windows)
        earlier = state.folder / "earlier" if given.from_earlier else None
        if earlier is not None:
            shutil.rmtree(earlier, ignore_errors=True)
            (state.folder / "model").rename(earlier)
        reached = train_and_predict(tissue, state, seed, earlier)
        yield row_of(run, number, len(windows), state, reached)


def copy_of(state: State, name: str) -> State:
    """The same state in a folder of its own."""
    folder = state.folder.with_name(f"{state.folder.name}-{name.replace('/', '-')}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state.folder, folder)
    return replace(state, folder=folder, drawn={name: drawn.copy() for name, drawn in state.drawn.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path, help="folder with images/ and masks/ of real tissue")
    parser.add_argument("--tissues", default="drawn,real", help="which; real only with --tiles")
    parser.add_argument("--out", type=Path, default=Path("loop-benchmark"), help="folder for ledger, figure and runs")
    parser.add_argument("--seeds", type=int, default=3, help="how many choices of slides and first areas")
    parser.add_argument("--rounds", type=int, default=4, help="rounds after the first training")
    parser.add_argument("--regions", type=int, default=4, help="windows of a round")
    parser.add_argument("--choosers", default="random,uncertainty,suggest", help="ways of choosing")
    parser.add_argument("--from-earlier", action="store_true", help="start each training from the model before")
    parser.add_argument("--figure", type=Path, help="PNG to draw; by default OUT/loop.png")
    parser.add_argument("--quick", action="store_true", help="one seed, one round, tiny slides; no figures of worth")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["DMMN_QP_CACHE"] = str(given.out.absolute() / "cache")
    with remembered_encoder():
        simulate(given)


def simulate(given: argparse.Namespace) -> None:
    """Runs what is missing in the ledger, and shows what it says."""
    choosers = given.choosers.split(",")
    settings = Settings(1 if given.quick else given.rounds, given.regions, given.from_earlier)
    tissues = tissues_of(given)
    for seed in range(1 if given.quick else given.seeds):
        for key in tissues:
            complete_ledger(given.out, tissues[key], seed, key, choosers, settings)
    rows = read_rows(given.out / LEDGER)
    for key in tissues:
        print("\n" + "\n".join(curves.minutes_table(rows, key, choosers)))
    titles = {"drawn": "slides drawn by a program, six classes", "real": "real tissue, tumour and other"}
    curves.draw(given.figure or given.out / "loop.png", rows, {key: titles[key] for key in tissues}, choosers)


def tissues_of(given: argparse.Namespace) -> dict[str, Callable[[int], Tissue]]:
    """Makes a tissue of a seed, for each that is asked for."""
    found: dict[str, Callable[[int], Tissue]] = {
        "drawn": lambda seed: drawn_tissue(given.out / "drawn-slides", seed, quick=given.quick)
    }
    if given.tiles is not None:
        tiles = read_tiles(given.tiles)
        found["real"] = lambda seed: real_tissue(tiles, seed)
    return {key: make for key, make in found.items() if key in given.tissues.split(",")}


def complete_ledger(
    out: Path, make: Callable[[int], Tissue], seed: int, key: str, choosers: Sequence[str], given: Settings
) -> None:
    """Runs what is missing of one seed of a tissue; what a killed run left behind is run again."""
    rows = read_rows(out / LEDGER)
    counts = Counter(row["chooser"] for row in rows if (row["tissue"], row["seed"]) == (key, str(seed)))
    missing = [curves.FULL] * (counts[curves.FULL] == 0) + [c for c in choosers if counts[c] != given.rounds + 1]
    if not missing:
        return
    tissue, folder = make(seed), out / "runs" / f"{key}-{seed}"
    begun = begin(tissue, folder, seed)
    for chooser in missing:
        rows = [row for row in rows if (row["tissue"], row["seed"], row["chooser"]) != (key, str(seed), chooser)]
        if chooser == curves.FULL:
            run = everything(tissue, begun[0], seed)
        else:
            run = by_rounds(tissue, begun, seed, chooser, given)
        for row in run:
            rows.append({name: str(value) for name, value in row.items()})
            write_rows(out / LEDGER, rows)
            print(
                f"{key}, seed {seed}, {chooser}, round {row['round']}: {row['person_min']} min, {row['mm2']} mm2, "
                f"mIoU {row['miou']} ({row['cpu_s']} CPU s)",
                flush=True,
            )
    for left in (out / "runs").glob(f"{key}-{seed}*"):
        shutil.rmtree(left)


if __name__ == "__main__":
    main()
