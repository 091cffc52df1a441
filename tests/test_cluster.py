"""The scripts of docs/cluster.md, run as they stand, but for SLURM itself, which sets variables and starts them."""

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmmn_qp.folders.model import load_card
from tests.conftest import REPOSITORY, tiny_training, write_tiff
from tests.test_prediction_resume import make_model, texture
from tests.test_shards import assert_same

PAGE = (REPOSITORY / "docs/cluster.md").read_text("utf-8")
SCRIPTS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def script(*words):
    """The only script that has some words."""
    (found,) = [text for text in SCRIPTS if all(word in text for word in words)]
    return found


@pytest.mark.parametrize("text", SCRIPTS)
def test_bash_understands_them(text):
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0 and not checked.stderr


def test_the_array_has_as_many_tasks_as_there_are_shards():
    text = script("#SBATCH --array")
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", text).groups())
    assert (first, last + 1) == (0, int(re.search(r"^shards=(\d+)", text, re.MULTILINE)[1]))
    assert "TASK_COUNT" not in text


@pytest.fixture
def run(here):
    """Runs a script where ``dmmn-qp`` and ``torchrun`` are ours."""
    (here / "bin").mkdir()
    modules = {"dmmn-qp": "dmmn_qp", "torchrun": "torch.distributed.run", "ray": "ray.scripts.scripts"}
    for name, module in modules.items():
        (here / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (here / "bin" / name).chmod(0o755)
    usual = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    usual |= {"PATH": f"{here / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def go(text, *words, **variables):
        environment = usual | {name: str(value) for name, value in variables.items()}
        command = ["bash", "-c", text, "script", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return go


@pytest.fixture
def slides(here):
    for folder in ("slides", "models"):
        (here / folder).mkdir()
    for seed, name in enumerate("abc"):
        write_tiff(here / f"slides/{name}.tif", texture(90 + seed, 90, seed))
    make_model(here / "models/mine")
    return here / "slides"


@pytest.mark.engine
def test_the_array_makes_what_one_call_makes(here, run, slides):
    """Two tasks at once, then one that fails and is started again, then one without slides."""
    text = script("#SBATCH --array")
    with ThreadPoolExecutor(2) as at_once:
        tasks = [at_once.submit(run, text, SLURM_ARRAY_TASK_ID=n) for n in (0, 1)]
    assert [task.result().returncode for task in tasks] == [0, 0], [task.result().stderr for task in tasks]
    good = (slides / "a.tif").read_bytes()  # the smallest, so of the third shard
    (slides / "a.tif").write_bytes(b"II*\0".ljust(len(good), b"\0"))
    failed = run(text, SLURM_ARRAY_TASK_ID=2)
    assert failed.returncode == 1 and "1 of 1 slide could not be predicted: a: " in failed.stderr
    (slides / "a.tif").write_bytes(good)
    assert (again := run(text, SLURM_ARRAY_TASK_ID=2)).returncode == 0, again.stderr
    none = run(text, SLURM_ARRAY_TASK_ID=39)
    assert none.returncode == 0 and none.stdout == "Shard 40/40 has no slide, because there are only 3; nothing to do\n"
    (here / "predictions").rename(here / "parts")
    plain = next(text for text in SCRIPTS if text == "dmmn-qp predict slides --model models/mine\n")
    assert run(plain.rstrip() + " --workers 8").returncode == 0
    assert_same(here / "predictions", here / "parts")
    assert "left as they are" in run(plain + plain.rstrip() + " --out parts --workers 8").stdout


@pytest.mark.engine
def test_two_terminals(here, run, slides):
    assert (both := run(script("--shard 1/2 &"))).returncode == 0, both.stderr
    assert {path.stem for path in (here / "predictions").glob("*.geojson")} == {"a", "b", "c"}


@pytest.mark.engine
def test_torchrun_trains_and_goes_on(here, run, workspace):
    text = script("torchrun --standalone")
    options = [*tiny_training(epochs=1, steps=2), "--device", "cpu", "--dataset", workspace / "dataset"]
    began = run(text, *options, SLURM_GPUS_ON_NODE=2, SLURM_JOB_ID=7, SLURM_NTASKS=1)
    assert began.returncode == 0, began.stderr
    assert began.stdout.count("Wrote models/mine/") == 1 and load_card(here / "models/mine").accepted
    assert "--resume" in PAGE
    ended = run(text, "--resume", SLURM_GPUS_ON_NODE=2)
    assert (
        ended.returncode == 1 and "resume" in ended.stderr and "Traceback (most recent call last)" not in began.stderr
    )


@pytest.mark.engine
def test_ray_makes_what_one_call_makes(here, run, slides):
    """On a cluster of its own, and on one that a job of SLURM begins, which is gone afterwards."""
    pytest.importorskip("ray")
    plain = next(text for text in SCRIPTS if text == "dmmn-qp predict slides --model models/mine\n")
    assert run(plain.rstrip() + " --out whole").returncode == 0
    own = next(text for text in SCRIPTS if text.startswith("dmmn-qp predict") and "--engine ray" in text)
    assert (made := run(own.rstrip() + " --ray-workers 1 --ray-cpus 1")).returncode == 0, made.stderr
    assert_same(here / "whole", here / "predictions")
    (here / "bin/hostname").write_text("#!/bin/sh\necho 127.0.0.1\n")
    (here / "bin/hostname").chmod(0o755)
    job = {"SLURM_JOB_ID": os.getpid(), "SLURM_JOB_NUM_NODES": 1, "SLURM_CPUS_PER_TASK": 1}
    words = ("--out", "of-job", "--ray-memory-gb", "0")
    made = run(script("ray start --head"), *words, **job, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    assert made.returncode == 0, made.stderr
    assert "by Ray on" in made.stdout
    assert_same(here / "whole", here / "of-job")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", 20000 + os.getpid() % 10000), 1):
        pass
