"""Tissue and glass: Otsu's cut by hand, and pictures that have only one of the two."""

import numpy as np
import pytest

from dmmn_qp.slides.tissue import otsu_cut, tissue_mask

GLASS, PALE, DARK = (244, 243, 245), (225, 190, 215), (90, 20, 110)


def picture(*colors):
    """Equal stripes of the colours: (8, 8 * n, 3)."""
    return np.repeat(np.array(colors, np.uint8)[None], 8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize(
    ("counts", "cut"),
    [
        ([4, 2, 0, 0, 3, 1], 1),  # between 1 and 4; 2 and 3 are empty and cut no better
        ([9, 0, 0, 0, 0, 1], 0),
        ([1, 0, 0, 0, 1, 9], 0),
        ([0, 0, 5, 0, 0, 0], None),  # one value only
        ([0, 0, 0, 0, 0, 0], None),
    ],
)
def test_otsu_by_hand(counts, cut):
    assert otsu_cut(np.array(counts), np.arange(6.0)) == cut


def test_the_cut_is_the_best_of_all():
    rng = np.random.default_rng(0)
    counts, values = rng.integers(0, 50, 20), np.arange(20.0)
    samples = np.repeat(values, counts)

    def within(cut):
        parts = samples[samples <= cut], samples[samples > cut]
        return sum(part.size * part.var() for part in parts if part.size)

    assert otsu_cut(counts, values) == min(range(19), key=within)


@pytest.mark.parametrize(
    ("colors", "tissue"),
    [
        ([GLASS, PALE], [False, True]),
        ([GLASS, GLASS, PALE, DARK], [False, False, True, True]),  # pale tissue is no glass
        ([GLASS, (0, 0, 0), (128, 128, 128), DARK], [False, False, False, True]),  # black and grey are no tissue
        ([GLASS], [False]),
        ([GLASS, (250, 250, 250)], [False, False]),
        ([(0, 0, 0)], [False]),
        ([PALE], [True]),
        ([PALE, DARK], [True, True]),  # nothing but tissue
    ],
)
def test_stripes(colors, tissue):
    mask = tissue_mask(picture(*colors))
    assert mask.dtype == bool and mask.shape == (8, 8 * len(colors))
    assert [mask[:, 8 * i : 8 * i + 8].all() for i in range(len(colors))] == tissue
    assert [mask[:, 8 * i : 8 * i + 8].any() for i in range(len(colors))] == tissue


def test_noise_on_glass_is_no_tissue():
    noise = np.random.default_rng(0).integers(241, 248, (64, 64, 3)).astype(np.uint8)
    assert not tissue_mask(noise).any()
