from contextlib import nullcontext

import pytest
from pydantic import ValidationError

from dmmn_qp.errors import DmmnQpError, PixelSizeError
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec


def test_region_intersection_and_tiles():
    slide = Region(0, 0, 5, 5)
    assert Region(-2, 3, 4, 4).intersection(slide) == Region(0, 3, 2, 2)
    assert Region(5, 0, 1, 1).intersection(slide) is None
    assert list(slide.tiles(3)) == [Region(0, 0, 3, 3), Region(3, 0, 2, 3), Region(0, 3, 3, 2), Region(3, 3, 2, 2)]


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-1, 5)])
def test_region_without_pixels(width, height):
    with pytest.raises(ValueError, match="at least 1"):
        Region(0, 0, width, height)


def test_class_map_numbers_from_one():
    class_map = ClassMap.from_colors([("tumour", (1, 2, 3)), ("Region*", (4, 5, 6))])
    assert class_map.names == ("tumour", "Region*")
    assert class_map.label_of("tumour") == 1
    assert class_map.label_of("unknown") is None
    assert class_map.colormap() == {0: (0, 0, 0), 1: (1, 2, 3), 2: (4, 5, 6)}
    palette = class_map.palette(alpha=9, others=(7, 7, 7, 0))
    assert palette.shape == (256, 4) and palette[1:3].tolist() == [[1, 2, 3, 9], [4, 5, 6, 9]]
    assert (palette[[0, *range(3, 256)]] == (7, 7, 7, 0)).all()
    assert [c.ignored for c in class_map.classes] == [False, True]


@pytest.mark.parametrize(
    "classes",
    [
        [],
        [{"name": "a", "label": 0, "color": (0, 0, 0)}],
        [{"name": "a", "label": 2, "color": (0, 0, 0)}],
        [{"name": "a", "label": 1, "color": (0, 0, 256)}],
        [{"name": "a", "label": 1, "color": (0, 0, 0)}, {"name": "a", "label": 2, "color": (0, 0, 0)}],
        [{"name": "a", "label": 1, "color": (0, 0, 0), "weight": 3}],
    ],
)
def test_class_map_refuses(classes):
    with pytest.raises(ValidationError):
        ClassMap.model_validate({"classes": classes})


@pytest.mark.parametrize("mpps", [(), (0.5, 0.5), (0.5, 2.0), (1.0, 0.5), (0.0, 0.0), (1000.0, 2000.0)])
def test_patch_spec_refuses(mpps):
    with pytest.raises(ValidationError):
        PatchSpec(mpps=mpps)


@pytest.mark.parametrize(
    ("geometry", "fits"),
    [
        ({"size_px": 2048}, True),  # 2048 x 4 = 8192
        ({"size_px": 2064}, False),
        ({"size_px": 65536}, False),
        ({"size_px": 2**70}, False),
        ({"size_px": 256, "mpps": tuple(0.5 * 2**m for m in range(6))}, True),  # 256 x 32 = 8192
        ({"size_px": 272, "mpps": tuple(0.5 * 2**m for m in range(6))}, False),
        ({"size_px": 2048, "mpps": (0.5, 1, 2, 4)}, False),
        ({"stride_px": 65_536}, True),
        ({"stride_px": 65_537}, False),
        ({"stride_px": 15}, False),
    ],
)
def test_sizes_of_patches_are_bounded(geometry, fits):
    with nullcontext() if fits else pytest.raises(ValidationError):
        PatchSpec(**geometry)


@pytest.mark.parametrize(
    ("slide_mpp", "downsample"),
    [(0.5, 1.0), (0.498, 1.0), (0.502, 1.0), (0.25, 2.0), (0.2525, 2.0), (0.2271, 0.5 / 0.2271), (0.125, 4.0)],
)
def test_whole_downsamples_within_tolerance(slide_mpp, downsample):
    grid = PatchSpec().grid_of(slide_mpp)
    assert grid.downsample == pytest.approx(downsample)
    assert [grid.downsample_of(m) for m in range(3)] == pytest.approx([downsample, 2 * downsample, 4 * downsample])


def test_coarse_slide_is_refused_by_name():
    with pytest.raises(PixelSizeError, match=r'"S1.svs" has 1 um/px, coarser than the 0.5'):
        PatchSpec().grid_of(1.0, "S1.svs")
    assert issubclass(PixelSizeError, DmmnQpError)


@pytest.mark.parametrize(
    ("magnification", "expected"),
    [  # the paper: 20x is [384:640] of the 1024 px patch, 10x is [128:384] of its half, 5x all of its quarter
        (0, Region(384, 384, 256, 256)),
        (1, Region(128, 128, 256, 256)),
        (2, Region(0, 0, 256, 256)),
    ],
)
def test_fields_of_one_target_are_concentric(magnification, expected):
    grid = PatchSpec().grid_of(0.5)
    assert grid.field(Region(384, 384, 256, 256), magnification) == expected


def test_field_of_a_block_is_the_union_of_its_targets_fields():
    grid = PatchSpec().grid_of(0.5)
    for m in range(3):
        first, last = grid.field(Region(0, 0, 256, 256), m), grid.field(Region(512, 256, 256, 256), m)
        block = grid.field(Region(0, 0, 768, 512), m)
        assert (block.x, block.y) == (first.x, first.y)
        assert (block.right, block.bottom) == (last.right, last.bottom)


def test_field_refuses_half_pixels():
    with pytest.raises(ValueError, match="multiples of 4"):
        PatchSpec().grid_of(0.5).field(Region(2, 0, 256, 256), 2)


@pytest.mark.parametrize(
    ("size", "downsample_mpp", "shape"),
    [
        ((512, 512), 0.5, (512, 512)),
        ((513, 511), 0.25, (256, 257)),
        ((1, 1), 0.25, (1, 1)),
        ((600, 1), 0.125, (1, 150)),
    ],
)
def test_grid_covers_the_slide(size, downsample_mpp, shape):
    assert PatchSpec().grid_of(downsample_mpp).shape(*size) == shape


def test_targets_cover_the_slide_row_by_row():
    grid = PatchSpec(size_px=64, stride_px=64).grid_of(0.5)
    corners = [(t.x, t.y) for t in grid.targets(130, 64)]
    assert corners == [(0, 0), (64, 0), (128, 0)]


def test_the_papers_slide_has_31_500_targets():
    grid = PatchSpec().grid_of(0.5)
    assert sum(1 for _ in grid.targets(53_711, 38_380)) == 31_500
