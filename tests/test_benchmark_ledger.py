"""The ledger of benchmarks: what a program leaves, what `dmmn-qp reproduce` says of it, and that it runs no other."""

import argparse
import json
import subprocess
from dataclasses import asdict

import pytest

from benchmarks import ledger, real_tissue, scale
from dmmn_qp.cli.reproducing import command_of
from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.provenance import now
from dmmn_qp.workflows import benchmarks
from dmmn_qp.workflows.benchmarks import BENCHMARKS, BenchmarkOptions, drift
from dmmn_qp.workflows.drift import differences
from dmmn_qp.workflows.recorded import read_run
from tests.conftest import REPOSITORY, fails, invoke

GIVEN = argparse.Namespace(**asdict(scale.Assumed()), out=None)


@pytest.fixture
def run(here):
    """What `python -m benchmarks.scale --out run` leaves, with two figures."""
    ledger.write_run(here / "run", "scale", GIVEN, {"slides": 100.0, "GB": 2.0}, now())
    return here / "run"


def change(run, made):
    facts = json.loads((run / RUN_FILE).read_text())
    made(facts)
    (run / RUN_FILE).write_text(json.dumps(facts))


def test_what_differs_now_is_told(run):
    recorded = read_run(run)
    assert differences(recorded, None) == []
    words, _ = command_of(recorded, None, None)
    assert words[:3] == ["python", "-m", "benchmarks.scale"] and words[-1] == "--out=scale-again"
    assert "--gpu-s=7.9" in words and "--seed=0" in words
    assert "Nothing that is known differs now." in invoke("reproduce", run).stdout

    def elsewhere(facts):
        facts["machine"]["cores"] += 1
        facts["machine"]["device"] = "NVIDIA H200"
        facts |= {"benchmarks": "0" * 16, "code": "0" * 16}
        facts["libraries"]["numpy"] = "1.0"

    change(run, elsewhere)
    found = [d.what for d in differences(read_run(run), None)]
    assert found == ["code", "numpy", "benchmarks", "cores", "device"]


def test_drift_is_what_exceeds_the_tolerance():
    then = {"figures": {"a": 100.0, "b": 2.0, "c": -1.0, "gone": 1, "zero": 0.0, "no": "text", "yes": True}}
    now_ = {"figures": {"a": 110.0, "b": 2.3, "c": -1.0, "zero": 0.001, "new": 5}}
    assert [*drift(then, now_, 0.1)] == [
        "b: 2 -> 2.3",
        "gone: 1 -> missing",
        "zero: 0 -> 0.001",
        "of 5 figures, 3 drifted by more than 0.1 of what it was",
    ]
    assert [*drift(then, then, 0.0)] == ["5 figures: none drifted by more than 0 of what it was"]
    odd = {"huge": 10**400, "inf": float("inf"), "nan": float("nan")}
    assert [*drift({"figures": {"c": -1.0, **odd}}, now_, 0.1)][-1].startswith("1 figure: none drifted")
    assert [*drift({"figures": [1]}, now_, 0.1)] == ["nothing to compare with: the file tells no figures"]


def test_it_is_run_again_by_the_program_beside_the_package(run, monkeypatch):
    seen = []

    def ran(command, *, env, check):
        seen.append((command, env))
        ledger.write_run(
            run.parent / command[-1].removeprefix("--out="), "scale", GIVEN, {"slides": 120.0, "GB": 2.0}, now()
        )
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(benchmarks.subprocess, "run", ran)
    result = invoke("reproduce", run, "--run", "--out", "again")
    assert result.exit_code == 0, result.output
    assert "slides: 100 -> 120" in result.stdout and "of 2 figures, 1 drifted" in result.stdout
    ((command, env),) = seen
    assert command[1:4] == ["-P", "-m", "benchmarks.scale"] and command[-1] == "--out=again"
    assert env["PYTHONPATH"].split(":")[0] == str(REPOSITORY)
    result = invoke("reproduce", run, "--run", "--out", "third", "--tolerance", "0.3")
    assert "2 figures: none drifted" in result.stdout


def given(name, value):
    return lambda facts: facts["configuration"]["given"].update({name: value})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (given("out", "/etc"), "has no option out"),
        (given("write", "docs/gpu.md"), "has no option write"),
        (given("seed", "https://example.org"), "is on no disk of this machine"),
        (given("seed", "a\x1b[2Jb"), "characters that cannot be shown"),
        (given("seed", [1]), "impossible option"),
        (lambda facts: facts["configuration"].update(benchmark="../evil"), "impossible option"),
        (lambda facts: facts["configuration"].update(program="x"), "does not know (program)"),
        (lambda facts: facts["figures"].update({"a\nb": 1}), "characters that cannot be shown"),
    ],
)
def test_a_hostile_file_runs_nothing(run, made, said, monkeypatch):
    monkeypatch.setattr(benchmarks.subprocess, "run", lambda *_, **__: pytest.fail("it was run"))
    change(run, made)
    assert said in fails("reproduce", run, "--run", "--out", "again")


def test_a_value_is_no_option():
    options = BenchmarkOptions(benchmark="gpu", given={"device": "--tests", "quick": True})
    assert options.command("o") == ["-m", "benchmarks.gpu", "--device=--tests", "--quick", "--out=o"]


def test_without_the_repository_it_says_so(run, monkeypatch):
    monkeypatch.setattr(benchmarks, "programs", lambda: run / "none")
    assert "in a checkout" in fails("reproduce", run, "--run", "--out", "again")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_has_the_options_that_are_taken_from_a_file_and_a_folder(name):
    text = (REPOSITORY / "benchmarks" / f"{name}.py").read_text("utf-8")
    assert '"--out"' in text and f'out, "{name}", given, ' in text
    for option in BENCHMARKS[name]:
        assert f'"--{option.replace("_", "-")}"' in text
    assert set(BENCHMARKS["scale"]) == set(asdict(scale.Assumed()))


def test_the_figures_of_real_tissue_are_those_of_its_command():
    costs = {"train_cpu_s": "3", "predict_cpu_s": "2"}
    rows = [{"run": run, "seed": seed, "miou": "0.5", **costs} for run in ("a", "b") for seed in ("0", "1")]
    assert real_tissue.figures_of(rows, ["a"], range(1)) == {
        "a, seed 0: mIoU": 0.5, "a, seed 0: training, CPU s": 3.0, "a, seed 0: prediction, CPU s": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(ledger.LEDGER.glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_ledger_can_be_reproduced(path):
    recorded = read_run(path)
    assert recorded.options.benchmark == path.stem and recorded.facts["figures"]
