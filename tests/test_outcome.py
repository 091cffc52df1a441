"""What a training says of its model: beside a constant class, with the classes that failed and what to draw."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from dmmn_qp.console import Reporter, _Remaining
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.reports.class_findings import class_findings
from dmmn_qp.specs import ClassMap
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.outcome import advice, miou_text
from dmmn_qp.training.plan import TrainingPlan

NAMES = ("stroma", "tumour", "fat")


def class_map():
    return ClassMap.from_colors((name, (10 * i, 0, 0)) for i, name in enumerate(NAMES))


def metrics(*rows):
    return Metrics.from_confusion(np.array(rows))


@pytest.mark.parametrize(
    ("confusion", "constant", "worthless"),
    [
        ([[60, 0, 0], [30, 0, 0], [10, 0, 0]], 0.6 / 3, True),  # which says stroma everywhere
        ([[0, 60, 0], [0, 30, 0], [0, 10, 0]], 0.6 / 3, True),  # everywhere the rarer one
        ([[60, 0, 0], [0, 30, 0], [10, 0, 0]], 0.6 / 3, False),
        ([[60, 0, 0], [40, 0, 0], [0, 0, 0]], 0.6 / 2, True),  # a class without true pixels is part of no mean
        ([[60, 0, 0], [0, 0, 0], [0, 0, 0]], 1.0, False),  # nothing to tell apart
    ],
)
def test_a_model_is_compared_with_a_constant_class(confusion, constant, worthless):
    found = metrics(*confusion)
    assert found.constant_class == 0 and found.constant_mean_iou == pytest.approx(constant)
    assert found.is_worthless is worthless
    assert miou_text(found) == f"val mIoU {found.mean_iou:.3f} (constant {constant:.3f})"


def patches(*counts, split="train", slides=2):
    """Patches of 100 px; counts of the three classes."""
    return [
        PatchRef(f"s{i % slides}", split, 0, 0, (100 - sum(of_patch), *of_patch)) for i, of_patch in enumerate(counts)
    ]


def plan(training, **values):
    return SimpleNamespace(training=training, epochs=2, options=TrainOptions(**values))


def test_failed_classes_come_with_what_to_draw():
    training = patches(*[(50, 0, 0)] * 20, *[(0, 50, 0)] * 12, *[(0, 0, 50)] * 3)
    found = metrics([60, 0, 0], [28, 2, 0], [4, 6, 0])
    fat, tumour = advice(found, plan(training), class_map())
    assert fat.startswith('"fat" failed: validation IoU 0.00, mostly taken for "tumour"; only 3 training patches on 2')
    assert fat.endswith("draw more of it, in different places and on different slides")
    assert tumour.startswith('"tumour" failed: validation IoU 0.06, mostly taken for "stroma"; 12 training patches')
    assert tumour.endswith('draw it in more places, and up to its borders with "stroma"')
    on_one = patches(*[(0, 50, 0)] * 12, slides=1)
    assert "on 1 slide show it: draw it on other slides too" in advice(found, plan(on_one), class_map())[1]
    assert advice(metrics([60, 0, 0], [0, 30, 0], [0, 0, 0]), plan(training), class_map()) == []


@pytest.mark.parametrize(("preset", "way_out"), [("fast", "or annotate more"), ("paper", "or take the preset fast")])
def test_a_worthless_model_is_said_to_be_so(preset, way_out):
    first, *_ = advice(metrics([60, 0, 0], [30, 0, 0], [10, 0, 0]), plan([], preset=preset), class_map())
    assert first.startswith('this model is worthless: it is no better than saying "stroma" everywhere')
    assert first.endswith(way_out)


def test_classes_that_decide_the_result_are_found_in_the_patches():
    training = patches(*[(50, 0, 0)] * 10, *[(0, 50, 0)] * 9, (0, 1, 0))
    found = [f.message for f in class_findings([*training, *patches((50, 0, 9), split="val")], class_map())]
    assert found == [
        '"tumour" is shown by only 9 training patches',
        '"tumour" has no pixel in the validation split, so the best epoch is chosen without it',
        '"fat" has no pixel in the training split',
    ]


def test_the_remaining_time_is_that_of_the_whole_training():
    shape = SimpleNamespace(
        validation_draws=[None] * 24,
        options=SimpleNamespace(batch_size=8),
        last_epoch=3,
        steps_per_epoch=10,
        validation_steps=1.0,
    )
    assert TrainingPlan.validation_steps.fget(shape) == pytest.approx(1.0)  # 3 batches without a backward pass
    assert TrainingPlan.steps_after(shape, 1) == pytest.approx(1 + 2 * 11)
    assert TrainingPlan.steps_after(shape, 3) == pytest.approx(1)
    stream = io.StringIO()
    with Reporter(Console(file=stream, width=80)).task("epoch 1/3", 10, after=23) as task:
        task._started -= 100
        task._last_line -= 100
        task.advance(note="loss 1.0")
    assert "epoch 1/3: 1/10  loss 1.0  ETA 53 min" in stream.getvalue()  # 100 s for each of 32 more


NOTE = "loss 0.412  rate 4.1e-03  12.3 patches/s  0.9 GiB"


@pytest.mark.parametrize(
    ("width", "shown"),
    [(40, ""), (60, "loss 0.412"), (80, "loss 0.412  rate 4.1e-03"), (120, NOTE)],
)
@pytest.mark.parametrize("description", ["epoch 12/12", "a-long-name-of-a-slide-" * 4])
def test_the_bar_keeps_count_and_remaining_time(width, shown, description):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Reporter(console).task(description, 100, after=100) as task:
        for _ in range(10):
            task.advance(10, note=NOTE)
        line = console.render_lines(task._bar.get_renderable(), pad=False)
    assert len(line) == 1
    text = "".join(segment.text for segment in line[0])
    assert len(text) <= width and "100/100 0:00:00" in text
    if description == "epoch 12/12":
        assert text.startswith("epoch 12/12 ") and text.rstrip().endswith(shown)
        assert "rate" in shown or "rate" not in text


def test_the_remaining_time_of_the_bar_counts_what_comes_after():
    bar = SimpleNamespace(speed=1.0, remaining=10, fields={"after": 3600})
    assert _Remaining().render(bar).plain == "1:00:10"
    assert _Remaining().render(SimpleNamespace(speed=None, remaining=10, fields={})).plain == "-:--:--"
