"""The running average of the weights: what it is, what its normalisation knows, and that it is what is kept."""

import copy

import pytest
import torch

from dmmn_qp.folders.model import load_model
from dmmn_qp.networks import build_network
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training import stage
from dmmn_qp.training.averaging import LOOKS, WeightAverage
from dmmn_qp.training.options import PRESETS, TrainOptions
from dmmn_qp.training.state import load_state
from tests.conftest import invoke
from tests.test_training import TINY


def network(norm="batch"):
    torch.manual_seed(0)
    built = build_network("unet", classes=2, width=2, magnifications=1, size_px=32, norm=norm)
    return SupervisedBranches(built, 2, None)


def test_first_steps_count_more_and_later_ones_as_the_decay_says():
    module = network()
    average = WeightAverage(module, 0.5, "none")
    expected, numbers = next(iter(module.parameters())).detach().double().clone(), torch.Generator().manual_seed(0)
    for decay in (2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5):
        with torch.no_grad():
            for weights in module.parameters():
                weights.copy_(torch.randn(weights.shape, generator=numbers))
        average.update(module)
        expected = decay * expected + (1 - decay) * next(iter(module.parameters())).detach().double()
        assert torch.allclose(next(iter(average.module.parameters())).double(), expected, atol=1e-6)


def test_statistics_are_the_plain_mean_of_what_was_looked_at():
    module = network()
    before = copy.deepcopy(module.state_dict())
    average = WeightAverage(module, 0.9, "none")
    layers = [layer for layer in average.module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    seen = []
    layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].mean((0, 2, 3))))
    for number in (0, 1, 2, 0, 1):  # that of an epoch, and of the next, which begins anew
        average.look([torch.rand(2, 3, 32, 32) * (number + 1)], number)
    assert torch.allclose(layers[0].running_mean, torch.stack(seen[3:]).mean(0), atol=1e-6)
    assert layers[-1].running_var.min() >= 0 and not torch.equal(layers[-1].running_mean, torch.zeros(2))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(p, q) for p, q in zip(average.module.parameters(), module.parameters(), strict=True))


def test_frozen_statistics_stay():
    module = network()
    average = WeightAverage(module, 0.9, "encoder")
    average.look([torch.rand(2, 3, 32, 32)], 0)
    changed = {n for n, v in average.module.state_dict().items() if not torch.equal(v, module.state_dict()[n])}
    assert changed and not any("encoder" in name for name in changed)


def test_without_batch_norm_nothing_is_looked_at(monkeypatch):
    average = WeightAverage(network("group"), 0.9, "none")
    monkeypatch.setattr(SupervisedBranches, "forward", lambda *_: pytest.fail("was called"))
    average.look([torch.rand(2, 3, 32, 32)], 0)


@pytest.fixture
def learners(monkeypatch):
    """The learners of trainings; the last epoch is kept whatever it reaches."""
    made = []

    class Watched(stage.Learner):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(stage, "Learner", Watched)
    monkeypatch.setattr(stage, "is_whole", lambda folder: False)
    return made


@pytest.mark.parametrize("decay", [0, 0.9])
def test_what_is_validated_is_what_is_kept(workspace, here, learners, monkeypatch, decay):
    (here / "tiny.toml").write_text(f"{TINY}weight_average = {decay}\n")
    validate, validated = stage.validate, []
    monkeypatch.setattr(stage, "validate", lambda module, *rest: validated.append(module) or validate(module, *rest))
    result = invoke("train", "--dataset", workspace / "dataset", "--config", "tiny.toml", "--out", "m")
    assert result.exit_code == 0, result.output
    (learner,) = learners
    assert all(module is learner.kept for module in validated)
    assert (learner.kept is learner.module) == (decay == 0) == (learner.average is None)
    kept, last = load_model(here / "m")[1].state_dict(), learner.module.stemmed.state_dict()
    assert all(torch.equal(value, learner.kept.stemmed.state_dict()[name]) for name, value in kept.items())
    assert all(torch.equal(kept[name], last[name]) for name in kept) == (decay == 0)


def test_average_sees_the_last_batches_of_an_epoch(workspace, here, learners, monkeypatch):
    looks = []
    monkeypatch.setattr(WeightAverage, "look", lambda self, images, number: looks.append(number))
    (here / "tiny.toml").write_text(TINY)
    steps = LOOKS + 2
    command = ("train", "--dataset", workspace / "dataset", "--config", "tiny.toml", "--steps-per-epoch", steps)
    assert invoke(*command, "--epochs", 2, "--out", "m").exit_code == 0
    assert looks == 2 * list(range(LOOKS))
    assert learners[0].average.steps == 2 * steps


def test_the_paper_averages_nothing():
    assert TrainOptions().weight_average > 0
    for preset in ("paper", "official"):
        assert TrainOptions(**PRESETS[preset]).weight_average == 0


def test_a_training_of_an_earlier_version_goes_on_without(workspace, here, monkeypatch):
    """Its state says nothing of an average."""
    (here / "tiny.toml").write_text(TINY)
    command = ("train", "--dataset", workspace / "dataset", "--config", "tiny.toml", "--out", "m")
    with monkeypatch.context() as stopped:
        stopped.setattr(stage, "write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert invoke(*command).exit_code != 0
    content = torch.load(here / "m" / "resume.pt", weights_only=True)
    assert content["tensors"]["average"]["steps"] > 0
    del content["options"]["weight_average"], content["tensors"]["average"]
    torch.save(content, here / "m" / "resume.pt")
    assert load_state(here / "m").options["weight_average"] == 0
    result = invoke("train", "--resume", "--out", "m", "--dataset", workspace / "dataset")
    assert result.exit_code == 0, result.output
