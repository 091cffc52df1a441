"""Which pages of a TIFF are the slide and its levels, whichever reader takes the file."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import direct_tiff, open_slide, read_field, same_picture, tifffile_reader
from dmmn_qp.slides.same_picture import Picture, fits, is_reduced_copy
from dmmn_qp.specs import PatchSpec

PURPLE, PINK, GREEN = (150, 60, 130), (225, 150, 185), (0, 90, 0)


def tissue(rows=1024, columns=1024, seed=0):
    """Coarse blotches in two colours with fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-rows // 32), -(-columns // 32))) < 0.5
    blotches = coarse.repeat(32, 0).repeat(32, 1)[:rows, :columns]
    pixels = np.where(blotches[..., None], PURPLE, PINK) + rng.normal(0, 10, (rows, columns, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def reduced(pixels, factor):
    rows, columns, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((columns // factor, rows // factor), Image.Resampling.BOX))


def text_page(side, seed):
    """Lines of words on paper: pages of a book have their lines at the same heights."""
    page = Image.new("RGB", (1024, 1024), (250, 250, 245))
    draw, rng = ImageDraw.Draw(page), np.random.default_rng(seed)
    for y in range(40, 980, 24):
        for x in range(40, 960, 8):
            if rng.random() < 0.6:
                draw.rectangle((x, y, x + 5, y + 11), fill=(20, 20, 30))
    return np.asarray(page.resize((side, side), Image.Resampling.BOX))


SLIDE = tissue()
GREEN_MACRO = np.full((256, 256, 3), GREEN, np.uint8)
OTHER_TISSUE = tissue(256, 256, seed=9)
BOOK = [text_page(1024, 1), text_page(512, 2)]

KINDS = {
    "direct-tiff": {"tile": (128, 128), "compression": "deflate"},
    "tifffile strips": {"rowsperstrip": 16, "compression": "deflate"},
    "tifffile plain": {"rowsperstrip": 16},
    "direct-tiff jpeg": {"tile": (128, 128), "compression": "jpeg"},
}
"""How pages are stored; OpenSlide reads tiled ones."""


def write_pages(path, pages, **options):
    """Pages and what NewSubfileType says of each: 0 a picture, 1 a reduced one, 9 a macro, 4 a mask."""
    with tifffile.TiffWriter(path) as tiff:
        for pixels, kind in pages:
            meant = "mask" if kind == 4 else "rgb"
            how = {} if kind == 4 else options
            tiff.write(pixels, photometric=meant, metadata=None, subfiletype=kind, **how)
    return path


def five_times_smaller(slide):
    """The field at 5x of the whole of a slide of 1024 px at 20x."""
    grid = PatchSpec(size_px=64, stride_px=64).grid_of(0.5)
    return read_field(slide, grid, 2, Region(0, 0, 256, 256)).astype(int)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
class TestPages:
    def levels(self, path):
        with open_slide(path, mpp=0.5) as slide:
            difference = np.abs(five_times_smaller(slide) - reduced(SLIDE, 4).astype(int))
            assert difference.mean() < 6
            return slide.info.level_downsamples

    @pytest.mark.parametrize("kind", [0, 1])
    def test_copies_are_levels(self, tmp_path, options, kind):
        pages = [(SLIDE, 0), (reduced(SLIDE, 2), kind), (reduced(SLIDE, 4), kind)]
        is_level = kind == 1 or "tile" not in options  # OpenSlide asks for the mark, and says what is a level
        assert self.levels(write_pages(tmp_path / "s.tif", pages, **options)) == ((1, 2, 4) if is_level else (1,))

    @pytest.mark.parametrize("kind", [0, 1, 9])
    @pytest.mark.parametrize("other", [GREEN_MACRO, OTHER_TISSUE, BOOK[1][::2, ::2]], ids=["macro", "tissue", "text"])
    def test_other_pictures_are_no_levels(self, tmp_path, options, kind, other):
        pages = [(SLIDE, 0), (reduced(SLIDE, 2), 1), (np.ascontiguousarray(other), kind)]
        assert self.levels(write_pages(tmp_path / "s.tif", pages, **options)) == (1, 2)

    def test_pages_of_a_book_are_no_levels(self, tmp_path, options):
        with open_slide(write_pages(tmp_path / "s.tif", [(p, 1) for p in BOOK], **options), mpp=0.5) as slide:
            assert slide.info.level_downsamples == (1,)

    @pytest.mark.parametrize("kind", [0, 1])
    def test_a_macro_that_comes_first_is_not_the_slide(self, tmp_path, options, kind):
        pages = [(GREEN_MACRO, kind), (SLIDE, 0), (reduced(SLIDE, 2), 1)]
        assert self.levels(write_pages(tmp_path / "s.tif", pages, **options)) == (1, 2)

    def test_two_images_of_like_size_are_an_error(self, tmp_path, options):
        pages = [(tissue(700, 700), 0), (SLIDE, 0)]
        path = write_pages(tmp_path / "s.tif", pages, **options)
        with pytest.raises(SlideError, match=r"holds 2 images.*700 x 700 px or that of 1024 x 1024 px is meant"):
            open_slide(path, mpp=0.5)

    def test_masks_are_no_images(self, tmp_path, options):
        pages = [(SLIDE, 0), (np.zeros((2048, 2048), bool), 4)]
        assert self.levels(write_pages(tmp_path / "s.tif", pages, **options)) == (1,)


def write_ome(path, images):
    """OME-TIFF of some images: name, um/px, levels."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, mpp, levels in images:
            about = {"Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            for number, pixels in enumerate(levels):
                more = {"subfiletype": 1} if number else {"subifds": len(levels) - 1, "metadata": about}
                tiff.write(pixels, photometric="rgb", tile=(128, 128), compression="deflate", **more)
    return path


class TestOme:
    """Images that OME-XML names; each has its levels in SubIFDs."""

    @pytest.mark.parametrize("is_pyramid", [False, True])
    @pytest.mark.parametrize("macro_first", [False, True])
    @pytest.mark.parametrize("macro", [GREEN_MACRO, reduced(SLIDE, 4)], ids=["macro", "thumbnail"])
    def test_a_macro_is_neither_level_nor_slide(self, tmp_path, is_pyramid, macro_first, macro):
        images = [("slide", 0.5, [SLIDE, reduced(SLIDE, 2)][: 1 + is_pyramid]), ("macro", 8.0, [macro])]
        path = write_ome(tmp_path / "s.ome.tif", images[::-1] if macro_first else images)
        with open_slide(path) as slide:
            assert (slide.info.width, slide.info.mpp) == (1024, 0.5)
            assert slide.info.level_downsamples == ((1, 2) if is_pyramid else (1,))
            assert np.abs(five_times_smaller(slide) - reduced(SLIDE, 4).astype(int)).max() <= 1

    def test_two_images_of_like_size_are_an_error(self, tmp_path):
        path = write_ome(tmp_path / "s.ome.tif", [("a", 0.5, [tissue(700, 700)]), ("b", 0.5, [SLIDE])])
        with pytest.raises(SlideError, match="holds 2 images"):
            open_slide(path)

    def test_the_first_of_equal_images_is_read(self, tmp_path):
        path = write_ome(tmp_path / "s.ome.tif", [("a", 0.5, [SLIDE]), ("b", 0.5, [tissue(seed=3)])])
        with open_slide(path) as slide:
            assert np.array_equal(slide.read_level(0, Region(0, 0, 1024, 1024)), SLIDE)

    def test_a_larger_image_that_cannot_be_read_is_no_reason_to_take_another(self, tmp_path):
        path = tmp_path / "s.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(GREEN_MACRO, photometric="rgb", metadata={"PhysicalSizeX": 8.0, "PhysicalSizeY": 8.0})
            tiff.write(np.zeros((1024, 1024), np.uint16), photometric="minisblack")
        with pytest.raises(SlideError, match="16 bits per sample"):
            open_slide(path, mpp=0.5)

    def test_a_subifd_of_another_picture_is_no_level(self, tmp_path):
        path = write_ome(tmp_path / "s.ome.tif", [("slide", 0.5, [SLIDE, reduced(SLIDE, 2), OTHER_TISSUE])])
        with open_slide(path) as slide:
            assert slide.info.level_downsamples == (1, 2)


LATE = {"direct-tiff": {"tile": (128, 128)}, "tifffile": {"rowsperstrip": 64}}


@pytest.mark.parametrize("options", LATE.values(), ids=LATE)
def test_it_is_looked_once_into_a_file(tmp_path, monkeypatch, options):
    looked = []
    for module in (direct_tiff, tifffile_reader):
        monkeypatch.setattr(module, "is_reduced_copy", lambda *pair: looked.append(1) or is_reduced_copy(*pair))
    path = tmp_path / "a.tif"
    write_pages(path, [(SLIDE, 0), (reduced(SLIDE, 2), 1), (OTHER_TISSUE, 1)], **options)
    for _ in range(3):
        with open_slide(path, mpp=0.5) as slide:
            assert slide.info.level_downsamples == (1, 2)
    assert len(looked) == 3  # the stranger is compared with both levels
    write_pages(path, [(SLIDE, 0), (reduced(SLIDE, 2), 1), (reduced(SLIDE, 4), 1)], **options)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.level_downsamples == (1, 2, 4)


def test_copies_of_the_first_level_alone(tmp_path):
    """Of noise, single pixels of one level are none of another's."""
    noise = np.random.default_rng(3).integers(0, 256, (512, 512, 3), np.uint8)
    pages = [(noise, 0), (noise[1::2, 1::2], 1), (noise[2::4, 2::4], 1)]
    for options in LATE.values():
        write_pages(tmp_path / "a.tif", pages, **options)
        with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
            assert slide.info.level_downsamples == (1, 2, 4)


def test_pages_in_an_order_that_openslide_refuses(tmp_path):
    """A macro and a label that claim to be reduced copies, of which the later is less reduced in height."""
    macro, label = np.full((75, 225, 3), 90, np.uint8), np.full((100, 150, 3), 200, np.uint8)
    pages = [(SLIDE, 0), (reduced(SLIDE, 2), 1), (macro, 1), (label, 1)]
    write_pages(tmp_path / "a.tif", pages, tile=(128, 128))
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert slide.info.level_downsamples == (1, 2)


def picture(pixels, read=None):
    def plain(region):
        return pixels[region.y : region.bottom, region.x : region.right]

    return Picture(pixels.shape[1], pixels.shape[0], read or plain)


class TestLooking:
    @pytest.mark.parametrize("factor", [2, 4, 16, 64])
    @pytest.mark.parametrize("kind", ["means", "first", "shifted", "jpeg", "lighter"])
    def test_copies(self, factor, kind):
        pixels = tissue(1536, 1536)
        copy = {
            "means": lambda: reduced(pixels, factor),
            "first": lambda: pixels[::factor, ::factor],
            "shifted": lambda: reduced(np.roll(pixels, factor // 2, axis=(0, 1)), factor),
            "jpeg": lambda: np.asarray(Image.fromarray(reduced(pixels, factor)).quantize(64).convert("RGB")),
            "lighter": lambda: np.clip(reduced(pixels, factor).astype(int) + 4, 0, 255).astype(np.uint8),
        }[kind]()
        if factor < 64 or kind != "shifted":  # of blotches of 32 px
            assert is_reduced_copy(picture(pixels), picture(copy))

    @pytest.mark.parametrize("factor", [2, 4, 8, 16])
    @pytest.mark.parametrize("way", ["first", "middle", "last", "linear", "cubic", "area"])
    def test_copies_of_noise(self, factor, way):
        """Where no pixel is like its neighbour, it shows how a copy was made."""
        noise = np.random.default_rng(3).integers(0, 256, (1024, 1024, 3), np.uint8)
        ways = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
        first = {"first": 0, "middle": factor // 2, "last": factor - 1}.get(way, 0)
        copy = noise[first::factor, first::factor]
        if way in ways:
            copy = cv2.resize(noise, (1024 // factor, 1024 // factor), interpolation=ways[way])
        assert is_reduced_copy(picture(noise), picture(copy))

    @pytest.mark.parametrize("factor", [2, 4, 16])
    def test_strangers(self, factor):
        pixels = tissue(1024, 1024)
        for other in (tissue(1024, 1024, 5), pixels[::-1], pixels[:, ::-1], np.full_like(pixels, 255), 255 - pixels):
            assert not is_reduced_copy(picture(pixels), picture(reduced(np.ascontiguousarray(other), factor)))

    def test_what_cannot_be_read_says_nothing(self):
        def broken(region):
            raise ValueError("damaged")

        assert is_reduced_copy(picture(SLIDE), picture(reduced(SLIDE, 2), broken))
        assert is_reduced_copy(picture(np.full_like(SLIDE, 240)), picture(np.full((512, 512, 3), 242, np.uint8)))

    def test_little_is_read(self):
        """Two places of 256 px where they agree, at most seven of 1024 px where nothing does."""
        read = []

        def counting(pixels):
            def one(region):
                read.append(region.width * region.height)
                return pixels[region.y : region.bottom, region.x : region.right]

            return picture(pixels, one)

        assert is_reduced_copy(counting(SLIDE), counting(reduced(SLIDE, 4)), [(0.1, 0.1), (0.9, 0.9)])
        assert sum(read) * 3 <= 2 * (256 * 256 + 64 * 64) * 3
        read.clear()
        blank = np.full((8192, 8192, 3), 200, np.uint8)
        assert is_reduced_copy(counting(blank), counting(reduced(blank, 64)), [(0.1, 0.1), (0.9, 0.9)])
        assert len(read) == 2 * (2 + len(same_picture.PLACES)) and max(read) <= 1024 * 1024

    @pytest.mark.parametrize(
        ("larger", "smaller", "expected"),
        [
            ((1000, 600), (500, 300), True),
            ((1001, 601), (500, 300), True),
            ((1001, 601), (501, 301), True),
            ((1000, 600), (248, 149), True),
            ((1000, 600), (500, 310), False),
            ((1000, 600), (1000, 600), False),
            ((1000, 600), (0, 0), False),
        ],
    )
    def test_sizes(self, larger, smaller, expected):
        assert fits(larger, smaller) == expected
