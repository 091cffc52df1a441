"""DMMN-P: what it promises beside the contract of all architectures."""

from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.nn import functional

from dmmn_qp.networks.dmmn_p import CELL_PX, DmmnP
from dmmn_qp.networks.laying import cut, laid_on_each_other
from dmmn_qp.networks.views import VIEWS, as_seen, turned_back


class Small(nn.Module):
    """An encoder of two strides, one finer than a cell."""

    strides, channels = (2, 16), (3, 5)

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(3, 3, 4, 2, 1)
        self.coarse = nn.Conv2d(3, 5, 8, 8)

    def forward(self, image):
        fine = self.fine(image).relu()
        return [fine, self.coarse(fine)]


def network_of(magnifications=2, views=1, classes=3):
    torch.manual_seed(0)
    return DmmnP(Small(), classes, 6, magnifications, views).double().eval()


def noise(*sides):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 3, *side, generator=generator, dtype=torch.float64) for side in sides]


def middle(x, rows, columns):
    top, left = (x.shape[-2] - rows) // 2, (x.shape[-1] - columns) // 2
    return x[..., top : top + rows, left : left + columns]


@pytest.mark.parametrize("views", VIEWS)
def test_seeing_and_deciding_make_the_network(views):
    network, images = network_of(views=views), noise((64, 96), (64, 96))
    assert torch.equal(network(images), network.decide(network.see(images), 64, 96))


def test_a_block_is_decided_from_wider_maps():
    """Maps of wide images, and what `cut` leaves of them, give the middle of what the whole gives, and its logits."""
    network, images = network_of(), noise((160, 192), (128, 160))
    maps = network.see(images)
    whole = network.decide(maps, 160, 192)
    part = network.decide(maps, 64, 96)
    assert torch.allclose(part, middle(whole, 64, 96))  # to its rim, so that no seam shows where blocks meet
    few = [cut(m, side_px, 64, 96) for m, side_px in zip(maps, network.cells_px, strict=True)]
    assert sum(m.numel() for m in few) < 0.7 * sum(m.numel() for m in maps)
    assert torch.allclose(network.decide(few, 64, 96), part)


def test_sides_that_no_cell_ends_at_are_cut():
    network, images = network_of(), noise((64, 64), (64, 64))
    assert network.decide(network.see(images), 61, 62).shape == (2, 3, 61, 62)


def test_the_first_layer_may_come_before_the_enlargement():
    """Written down as it is meant: every map enlarged to cells, joined, and one convolution on all of them."""
    network, images = network_of(), noise((64, 64), (64, 64))
    maps = network.see(images)
    both = zip(maps, network.cells_px, strict=True)
    laid = [laid_on_each_other([m], [side], CELL_PX, 16, 16, around=1) for m, side in both]
    weights = torch.cat([layer.weight for layer in network.first], 1)
    hidden = functional.conv2d(torch.cat(laid, 1), weights, network.first[0].bias)
    expected = functional.interpolate(network.final(hidden), scale_factor=CELL_PX, mode="bilinear")
    assert torch.allclose(network(images), middle(expected, 64, 64))


def test_vectors_are_what_is_decided_from():
    network, images = network_of(), noise((64, 96), (64, 96))
    maps = [m[:1] for m in network.see(images)]
    cells = torch.tensor([[0, 0], [3, 17], [15, 23], [8, 8]])
    vectors = network.vectors(maps, cells, 16, 24).double()
    weights = torch.cat([layer.weight for layer in network.first], 1)[:, :, 0, 0]
    ends = list(accumulate(network.channels))
    assert vectors.shape == (4, ends[-1]) == (4, weights.shape[1])
    hidden = [layer(m) for layer, m in zip(network.first, maps, strict=True)]
    laid = laid_on_each_other(hidden, network.cells_px, CELL_PX, 16, 24)[0]
    expected = laid[:, cells[:, 0], cells[:, 1]].T
    assert torch.allclose(vectors @ weights.T + network.first[0].bias, expected, atol=1e-5)


def test_cells_finer_than_those_of_the_output_are_averaged():
    """Of stride 2 the mean of four, of 16 as it is; at half the magnification a cell of 2 px is one of 4."""
    network, images = network_of(), noise((64, 64), (64, 64))
    assert network.cells_px == (4, 16, 4, 32)
    maps = network.see(images)
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 16), (4, 4), (32, 32), (4, 4)]
    fine = network.encoder(images[0])[0]
    assert torch.allclose(maps[0][..., 0, 0], fine[..., :2, :2].mean((-2, -1)))


def test_maps_are_means_over_views():
    network, images = network_of(magnifications=1, views=3), noise((64, 96))
    seen = [[turned_back(m, v) for m in network.encoder(as_seen(images[0], v))] for v in VIEWS[3]]
    found = network._maps(images[0])
    assert all(torch.allclose(found[k], (seen[0][k] + seen[1][k] + seen[2][k]) / 3) for k in range(2))
    network.views = 1
    assert not torch.allclose(network._maps(images[0])[0], found[0])


def test_eight_views_turn_with_the_image():
    network, images = network_of(views=8), noise((64, 96), (64, 96))
    reference = network(images)
    for view in VIEWS[8]:
        found = network([as_seen(image, view) for image in images])
        assert torch.allclose(turned_back(found, view), reference), view
    network.views = 1
    assert not torch.allclose(network([image.flip(-1) for image in images]).flip(-1), network(images))


def test_views_are_turned_back():
    """On a picture of 1 2 / 3 4: mirrored it is 2 1 / 4 3, and that a quarter turned 1 3 / 2 4."""
    picture = torch.tensor([[1, 2], [3, 4]])
    assert as_seen(picture, VIEWS[3][1]).tolist() == [[1, 3], [2, 4]]
    assert len({str(as_seen(picture, view).tolist()) for view in VIEWS[8]}) == 8
    assert all(torch.equal(turned_back(as_seen(picture, view), view), picture) for view in VIEWS[8])
    assert all(set(VIEWS[few]) <= set(VIEWS[8]) and VIEWS[few][0] == VIEWS[8][0] for few in VIEWS)


def test_it_decides_in_32_bits():
    """What tells features apart may be small beside their mean: bf16 has 1 part in 256."""
    network, images = network_of().float(), [image.float() for image in noise((64, 64), (64, 64))]
    maps = [m + 300 for m in network.see(images)]
    reference = network.decide(maps, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.decide(maps, 64, 64), reference)
