"""A page of each kind, made by hand of what is hard to lay out: long names, many classes, many findings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from dmmn_qp.console import Reporter
from dmmn_qp.evaluating.page import write_evaluation_page
from dmmn_qp.evaluating.worst import with_worst_regions
from dmmn_qp.folders.model import ModelCard, NetworkOptions
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.folders.round_figures import figures_of
from dmmn_qp.folders.rounds import Judged, Ledger, Round, SlideReview
from dmmn_qp.folders.suggestions import Suggestion
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.regions import Region
from dmmn_qp.reports.cohort_report import CohortPage, Distribution, Outlier, SlideLine, write_cohort_report
from dmmn_qp.reports.html import write_import_report
from dmmn_qp.reports.inputs import Finding, ImportedData
from dmmn_qp.reports.loop_report import write_loop_page
from dmmn_qp.reports.pictures import jpeg_of
from dmmn_qp.reports.suggestions_report import RegionPicture, SlideWithRegions, write_suggestions_report
from dmmn_qp.reports.training_report import PatchVerdict, StartedFrom, write_training_report
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import two_tissues, write_tiff
from tests.evaluations import MadeSlide, evaluation_of
from tests.test_report import box, half_glass, imported_slide, pixels_of

CLASSES = (
    *("carcinoma", "benign epithelial", "a class of a long name: lymphocytic infiltrate", "Necrosis_" * 5),
    *(f"tissue class {i}" for i in range(8)),
)
COLORS = distinct_colors(CLASSES)
CLASS_MAP = ClassMap.from_colors([*COLORS.items()])
SLIDES = ("S12-0042", "TCGA-A2-A0T2-01Z-00-DX1.29A5C4A4-6AF7-45F8-9F0E-5F3B2E0C9B8D", "x" * 60, *"abcdefg")


def import_page(folder: Path) -> Path:
    """More notes than are unfolded, and warnings with places."""
    image = half_glass(folder / "a.tif")
    drawn = [box(300 + 14 * i, 20 + 15 * i, 60, 60, name) for i, name in enumerate(CLASSES)]
    slides = [imported_slide(drawn, name, split, image, class_map=CLASS_MAP)
              for name, split in zip(SLIDES, (*("train",) * 6, "val", "val", "test", "test"), strict=True)]  # fmt: skip
    noted = [Finding(severity="note", slide=name, place=(20, 20), message="a note " * 9, way_out="nothing to do")
             for name in SLIDES]  # fmt: skip
    data = ImportedData("Project " * 8, f"/{'home/' * 12}project.qpproj", CLASS_MAP, tuple(slides), noted=tuple(noted))
    write_import_report(folder, data, pixels_of(data))
    return folder / "report.html"


def training_page(folder: Path) -> Path:
    """Three magnifications, many epochs, and a class that is never right."""
    rng = np.random.default_rng(1)
    confusion = rng.integers(1, 400, (len(CLASSES), len(CLASSES))) + 4000 * np.eye(len(CLASSES), dtype=np.int64)
    history = [
        {"epoch": i, "loss": 2 / i, "val_mean_iou": 0.8 - 0.7 / i, "val_constant_mean_iou": 0.1}
        | {f"val_iou {name}": (0.9 - 0.5 / i) * n / len(CLASSES) for n, name in enumerate(CLASSES)}
        for i in range(1, 31)
    ]
    labels = rng.integers(0, len(CLASSES) + 1, (8, 8)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    images = np.stack([two_tissues(128, 128, seed) for seed in range(3)])
    verdict = PatchVerdict(SLIDES[1], (123456, 65432), images, labels, labels[::-1], 0.5)
    metrics = Metrics.from_confusion(confusion)
    card = ModelCard(
        name="model_" * 9,
        network=NetworkOptions(architecture="dmmn-m3", width=16),
        class_map=CLASS_MAP,
        patch_spec=PatchSpec(),
        validation={"epoch": 28},
        created="2026-01-01T00:00:00+00:00",
    )
    return write_training_report(
        folder, card, history, metrics, worst=[verdict] * 2, best=[(", ".join(CLASSES[:3]), verdict)],
        facts={"epochs": 30, "kept epoch": 28, "training patches": "12,345", "hours": 3.5},
        started_from=StartedFrom("m" * 60, CLASSES[:6], CLASSES[6:], 0.3), advice=["Draw more of " + CLASSES[3]],
    )  # fmt: skip


def loop_page(folder: Path) -> Path:
    """A dozen rounds, half of the classes named by a model that said others."""
    rounds = []
    for i in range(12):
        judged = [Judged(predicted=name, said=other, mm2=mm2) for name, other in pairwise(CLASSES)
                  for mm2, other in ((10.0 + i, name), (3.0, other))]  # fmt: skip
        slide = SlideReview(slide="s", confirmed=900, corrected=100, reclassified=60, reshaped=40,
                            judged=tuple(judged), squares_mm4=(2.0, 1.5, 1.4), is_compared=True)  # fmt: skip
        rounds.append(Round(kind="model", model_run=str(i), model=f"models/{'long-name-' * 4}{i}", slides=(slide,)))
    figures = figures_of(Ledger(rounds=tuple(rounds)), PersonSeconds())
    write_loop_page(folder / "loop.html", figures, CLASS_MAP, PersonSeconds())
    return folder / "loop.html"


def suggestions_page(folder: Path) -> Path:
    """Regions of two slides, one of them wide."""
    pixels = two_tissues(96, 96)
    overlay = write_png(folder / "overlay.png", np.full((96, 96, 4), (200, 30, 30, 110), np.uint8))
    picture = RegionPicture(jpeg_of(pixels), overlay)
    regions = [
        Suggestion(rank, 8, SLIDES[rank % 3], Region(9000 * rank, 700 * rank, 2048, 2048), 0.25,
                   f"unsure between {CLASSES[2]} and {CLASSES[3]}", 0.9, 0.8, 0.7, 0.6, 0.5, ((CLASSES[2], 0.6),))
        for rank in range(1, 9)
    ]  # fmt: skip
    of_slide = {name: {r.rank: picture for r in regions if r.slide_id == name} for name in SLIDES[:3]}
    slide = jpeg_of(two_tissues(64, 256))
    slides = [SlideWithRegions(name, slide, (98304, 24576), CLASS_MAP, shown) for name, shown in of_slide.items()]
    return write_suggestions_report(folder, regions, slides, ["Looked at 3 slides. " * 5])


def cohort_page(folder: Path) -> Path:
    """Many slides with long names and notes."""
    rng = np.random.default_rng(2)
    lines = [SlideLine(name, f"case-{name}", 123.4, [(c, 0.2) for c in CLASSES[:4]], "model " * 6, 0.4, "a note " * 8)
             for name in SLIDES]  # fmt: skip
    spread = [Distribution.of(name, "µm to the outline, nearest 5 %", rng.gamma(2, 900, 40).tolist(), COLORS[name])
              for name in CLASSES]  # fmt: skip
    far = [Outlier(name, f"{CLASSES[3]}: 45 % of tissue", "the middle half: 1.2 to 3.4") for name in SLIDES]
    failed = {SLIDES[1]: f'"{"predictions/" * 12}run.json" says nothing of it; predict it again'}
    return write_cohort_report(folder, CohortPage(spread, far, lines, failed, 1234.5, 9))


def evaluation_page(folder: Path) -> Path:
    """Two models of which everything is known."""
    slides = {}
    for i, name in enumerate(SLIDES[:3]):
        image = write_tiff(folder / f"{i}.tif", two_tissues(128, 192, i))
        truth = (np.add.outer(np.arange(128) // 16, np.arange(192) // 16) % len(CLASSES) + 1).astype(np.uint8)
        found = [np.roll(truth, 8 * (m + 1), axis=1) for m in range(2)]
        known = PredictedInput(path=str(image), fingerprint=fingerprint(image), width=192, height=128)
        slides[name] = MadeSlide(truth, found, known, {"scanner": "scanner " * 4})
    made = evaluation_of(folder, slides, CLASSES, ("first_" * 9, "second " * 6), extras=True)
    spec = PatchSpec(size_px=32, mpps=(0.5, 1.0), stride_px=32)
    write_evaluation_page(with_worst_regions(made, spec), folder, Reporter(), spec=spec)
    return folder / "evaluation.html"


PAGES = {
    "import": import_page,
    "training": training_page,
    "loop": loop_page,
    "suggestions": suggestions_page,
    "cohort": cohort_page,
    "evaluation": evaluation_page,
}


def write_png(path: Path, pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(path)
    return path.read_bytes()
