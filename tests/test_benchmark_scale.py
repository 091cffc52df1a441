"""The plan for a million slides: the simulation's limits by hand, and that the page has what the program prints."""

import json

import pytest

from benchmarks.ledger import LEDGER
from benchmarks.scale import Assumed, Measured, bound_of, fleet_of, report, sizes_of
from benchmarks.scale_simulation import Fleet, simulate
from tests.conftest import REPOSITORY

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("slides", "fleet", "hours"),
    [
        # one GPU that need not wait for a byte: 5 slides of 7 s
        (5, Fleet(1, 7, 0, 1, INFINITE), 35),
        # 2 GPUs: three slides one after the other on one of them
        (5, Fleet(2, 7, 0, 1, INFINITE), 21),
        # networks that take no time: 6 slides of 4 GB at 2 GB/s, whoever reads them
        (6, Fleet(3, 0, 0, 4, 2), 12),
        (6, Fleet(1, 0, 0, 4, 2), 12),
        # no more than a machine's network: 3 GPUs at 0.5 GB/s each, 2 slides each of 4 GB
        (6, Fleet(3, 0, 0, 4, 100, 0.5), 16),
        # no more than its cores: 3 s a slide
        (6, Fleet(3, 0, 3, 4, 100), 6),
        # fetching the next while one is in work: the first is fetched in 2 s, then 4 times the 7 s of the network
        (4, Fleet(1, 7, 0, 4, 2), 30),
        # or 4 times the 8 s of fetching, then the network's 7 s of the last
        (4, Fleet(1, 7, 0, 16, 2), 39),
        # two share the bandwidth: both fetch their slide in 4 s
        (2, Fleet(2, 1, 0, 4, 2), 5),
        # every attempt is slow
        (3, Fleet(1, 7, 0, 1, INFINITE, slow=1, slow_factor=10), 210),
    ],
)
def test_limits_by_hand(slides, fleet, hours):
    outcome = simulate([1.0] * slides, fleet)
    assert outcome.ended[-1] == pytest.approx(hours) and len(outcome.ended) == slides
    assert outcome.fetched_gb == slides * fleet.read_gb


def test_sizes_are_of_the_slides():
    """Of 1, 2 and 3 times the size: 6 times 7 s on one GPU; on two, the third begins after the first: 7 + 21."""
    assert simulate([1, 2, 3], Fleet(1, 7, 0, 1, INFINITE)).ended[-1] == 42
    assert simulate([1, 2, 3], Fleet(2, 7, 0, 1, INFINITE)).ended == [7, 14, 28]
    assert sum(sizes_of(1000, Assumed())) == pytest.approx(1000)


def test_a_slide_that_is_large_shares_with_one_that_is_small():
    """4 and 12 GB at 2 GB/s: 1 GB/s each until 4 s, then 2 GB/s for the 8 that are left: 8 s."""
    assert simulate([1, 3], Fleet(2, 0, 0, 4, 2)).ended == [4, 8]


def test_what_fails_is_fetched_and_done_again():
    fleet = Fleet(4, 7, 0, 1, 10, failure=0.3, restart_s=5)
    outcome = simulate([1.0] * 200, fleet)
    assert len(outcome.ended) == 200 and outcome.fetched_gb == 200 + outcome.failed
    assert 60 < outcome.failed < 120  # 200 * 0.3 / 0.7 = 86 attempts
    assert outcome.busy_s < 7 * (200 + outcome.failed)
    assert outcome.ended == simulate([1.0] * 200, fleet).ended != simulate([1.0] * 200, fleet, 1).ended
    assert outcome.ended[-1] > simulate([1.0] * 200, Fleet(4, 7, 0, 1, 10)).ended[-1]


def test_the_limit_is_what_takes_longest():
    assert bound_of(Fleet(1, 7, 6, 1, 1)) == "GPU" and bound_of(Fleet(1, 5, 6, 1, 1)) == "cores"
    assert bound_of(Fleet(10, 5, 6, 1, 1)) == "bucket" and bound_of(Fleet(1, 5, 6, 1, 1, 0.1)) == "machine's network"
    slow = Fleet(1, 5, 6, 1, 1, slow=0.1, slow_factor=3)
    assert slow.gpu_s * 1.2 == 6 and bound_of(Fleet(1, 5.1, 6, 1, 1, slow=0.1, slow_factor=3)) == "GPU"


def test_no_fleet_is_faster_than_its_limits():
    """At the default: at most a GPU's rate, the cores' and the bucket's, and near to these."""
    for gpus, least in ((8, 0.65), (800, 0.95)):
        fleet = fleet_of(gpus, Assumed())
        rate = simulate(sizes_of(20 * gpus, Assumed()), fleet).slides_per_s
        limit = min(gpus / fleet.gpu_s, gpus / fleet.fetch_s, fleet.bucket_gb_s / fleet.read_gb)
        assert least < rate / limit < 1.02


def test_the_paper_s_slide_by_hand():
    """2.0614 Gpx: 6.18 GB of pixels at 15.5:1, and so many ns a pixel."""
    assert Measured().read_gb == pytest.approx(3 * 2.0614 / 15.5, rel=1e-3)
    assert Measured().cpu_s == pytest.approx(2.0614 * (11.92 + 3.8 + 37.4), rel=1e-3)


@pytest.fixture(scope="module")
def printed():
    return report(Assumed())


def test_the_page_has_what_the_program_prints(printed):
    assert printed[0] in (REPOSITORY / "docs" / "scale.md").read_text("utf-8")


def test_the_ledger_has_the_figures_of_the_page(printed):
    told = json.loads((LEDGER / "scale.json").read_text("utf-8"))["figures"]
    assert told == pytest.approx(printed[1])
