"""Maps laid on each other: tables by hand, and what holds for all sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dmmn_qp.networks.laying import _between, at_cells, cut, laid_on_each_other


def map_of(rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def laid(rows, side_px, cell_px, height, width):
    return laid_on_each_other([map_of(rows)], [side_px], cell_px, height, width)[0, 0].tolist()


def test_two_cells_enlarged_by_two():
    """Cells of 8 px have their middles at 4 and 12; those of 4 px at 2, 6, 10, 14: parts 0 (kept), 1/4, 3/4, 1."""
    assert laid([[0, 4], [8, 12]], 8, 4, 4, 4) == [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]


def test_cells_of_the_wanted_size_stay_as_they_are():
    assert laid([[1, 2], [3, 4]], 4, 4, 2, 2) == [[1, 2], [3, 4]]


def test_the_middle_of_a_wider_map():
    """Four cells of 8 px, 32 px wide: the middle 8 px are its px 12 .. 20, with middles at 14 and 18, of 12 and 20."""
    assert laid([[0, 10, 50, 60]] * 4, 8, 4, 2, 2) == [[20, 40], [20, 40]]


def test_a_map_that_does_not_begin_on_the_lattice():
    """Three cells of 6 px, middles at 3, 9 and 15 of 18 px: two of 4 px about the centre have theirs at 7 and 11."""
    found = laid([[0, 3, 9]] * 3, 6, 4, 2, 2)
    assert torch.allclose(torch.tensor(found), torch.tensor([[2.0, 5.0]] * 2))


def test_beyond_the_outermost_middles_values_stay():
    """A cell of 4 px for an area of 12: it is all there is."""
    assert laid([[7]], 4, 4, 3, 3) == [[7] * 3] * 3


def test_maps_are_added():
    """One cell of 32 px about the target, of 5 everywhere, and the table of two cells."""
    both = [map_of([[0, 4], [8, 12]]), map_of([[5]])]
    found = laid_on_each_other(both, [8, 32], 4, 4, 4)[0, 0]
    assert (found - 5).tolist() == laid([[0, 4], [8, 12]], 8, 4, 4, 4)


def test_a_ramp_stays_a_ramp():
    """Each map has the px of its cells' middles, counted from the centre: so has what is laid, whatever the stride."""
    for side_px, side in ((4, 16), (8, 9), (14, 6), (16, 8), (32, 5), (64, 2)):
        middles = (torch.arange(side) + 0.5 - side / 2) * side_px
        found = laid_on_each_other([middles.expand(1, 1, side, side)], [side_px], 4, 6, 6)[0, 0]
        assert torch.allclose(found, ((torch.arange(6) + 0.5 - 3) * 4).expand(6, 6), atol=1e-4), side_px


sides = st.integers(1, 9)
strides = st.sampled_from([4, 8, 12, 14, 16, 32])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_quick_way_gives_what_the_general_way_gives(data):
    maps, cells_px = [], []
    for seed in range(data.draw(st.integers(1, 3))):
        cells_px.append(data.draw(strides))
        shape = (2, 3, data.draw(sides), data.draw(sides))
        maps.append(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))
    rows, columns, around = data.draw(sides), data.draw(sides), data.draw(st.integers(0, 1))
    found = laid_on_each_other(maps, cells_px, 4, rows, columns, around)
    rows, columns = rows + 2 * around, columns + 2 * around
    expected = sum(_between(m, side_px, 4, rows, columns) for m, side_px in zip(maps, cells_px, strict=True))
    assert found.shape == (2, 3, rows, columns) and torch.allclose(found, expected, atol=1e-5)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_single_cells_are_those_of_the_whole(data):
    maps, cells_px = [], []
    for seed in range(data.draw(st.integers(1, 3))):
        cells_px.append(data.draw(strides))
        shape = (seed + 1, data.draw(sides), data.draw(sides))
        maps.append(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))
    rows, columns = data.draw(sides), data.draw(sides)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    found = at_cells(maps, cells_px, 4, cells, rows, columns)
    both = zip(maps, cells_px, strict=True)
    laid = [laid_on_each_other([m[None]], [side_px], 4, rows, columns)[0] for m, side_px in both]
    assert torch.allclose(found, torch.cat(laid).flatten(1).T, atol=1e-5)


@given(sides, sides, st.integers(1, 8), st.integers(1, 8), strides)
@settings(max_examples=60, deadline=None)
def test_what_is_cut_off_mattered_to_nothing(high, wide, rows, columns, side_px):
    whole = torch.rand(1, 2, 3 * high, 3 * wide, generator=torch.Generator().manual_seed(0))
    part = cut(whole, side_px, 4 * rows, 4 * columns)
    expected, found = (laid_on_each_other([m], [side_px], 4, rows, columns, around=1) for m in (whole, part))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_cut_keeps_little():
    """16 px of a map of cells of 8 px: two cells, one beyond on either side, and as even as the map."""
    assert cut(torch.zeros(1, 1, 40, 41), 8, 16, 16).shape == (1, 1, 4, 5)
    assert cut(torch.zeros(1, 1, 2, 3), 8, 16, 16).shape == (1, 1, 2, 3)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_enlarging_is_that_of_torch(factor):
    """Without a cut it is `interpolate` with half-pixel middles."""
    whole = torch.rand(1, 2, 5, 7)
    expected = functional.interpolate(whole, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.allclose(laid_on_each_other([whole], [4 * factor], 4, 5 * factor, 7 * factor), expected, atol=1e-6)
