"""Every source of annotations keeps the contract."""

import pytest

from dmmn_qp.importing.sources import ANNOTATION_SOURCES
from tests.conftest import DEMO
from tests.source_contract import CONTRACT

MADE = {
    "qupath-project": lambda slides: (DEMO / "project.qpproj", None),
    "geojson": lambda slides: (slides / "slides", slides / "geojson"),
}
"""What each is tested with: a path, and the annotations beside it."""


def test_every_source_is_tested():
    assert MADE.keys() == ANNOTATION_SOURCES.keys()


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MADE)
def test_contract(name, check, two_tissue_slides):
    check(name, *MADE[name](two_tissue_slides))
