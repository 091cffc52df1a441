"""Our OME-TIFF pyramids, as tifffile, rasterio and our own readers see them."""

import importlib.util
import threading
import warnings
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from dmmn_qp.errors import DatasetError, SlideError
from dmmn_qp.folders.label_raster import LABEL_NAMESPACE, LabelRaster, names_in_file, read_class_names, read_mpp
from dmmn_qp.outputs import pyramids as ome_tiff
from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import ArrayLabels

CLASSES = ClassMap.from_colors([("Tumor <\"1'> & µm \x01", (255, 0, 0)), ("b\nc", (0, 160, 9)), ("Ignore*", (1, 2, 3))])
SHAPES = [(1, 1), (513, 1), (1, 1025), (3000, 100), (1025, 2051), (512, 1024), (7, 3)]
OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def labels_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 4, shape, np.uint8)


def strips(pixels, height):
    """Strips of full width; rows are the axis before the last."""
    for y in range(0, pixels.shape[-2], height):
        yield pixels[..., y : y + height, :]


def write_labels(path: Path, labels: np.ndarray, height: int = 100, mpp: float = 0.4987654321) -> Path:
    write_label_pyramid(path, strips(labels, height), labels.shape, mpp, CLASSES)
    return path


def write_channels(path: Path, channels: np.ndarray, height: int = 100) -> Path:
    names = [f"channel {i}" for i in range(len(channels))]
    colors = [(i, 255, 7) for i in range(len(channels))]
    write_probability_pyramid(path, strips(channels, height), channels.shape[1:], 0.5, names, colors)
    return path


def mean_of_four(finer: np.ndarray) -> np.ndarray:
    """By the definition: the mean of those pixels of 2 x 2 that are there, rounded half up."""
    rows, columns = finer.shape
    sums = np.zeros((-(-rows // 2) * 2, -(-columns // 2) * 2), np.int64)
    counts = np.zeros_like(sums)
    sums[:rows, :columns], counts[:rows, :columns] = finer, 1
    total, n = (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2] for a in (sums, counts))
    return (2 * total + n) // (2 * n)


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_come_back_and_levels_are_every_second_pixel(tmp_path, shape):
    labels = labels_of(shape)
    path = write_labels(tmp_path / "a.labels.ome.tif", labels)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome and len(file.series) == 1 and len(file.pages) == 1
        levels = file.series[0].levels
        for k, level in enumerate(levels):
            assert np.array_equal(level.asarray().reshape(level.shape), labels[:: 2**k, :: 2**k])
            page = level.pages[0]
            assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            assert (page.tilewidth, page.tilelength) == (512, 512)
            assert (page.colormap[:, 1] // 257).tolist() == [255, 0, 0]
            assert page.subfiletype == (1 if k else 0)
        assert max(levels[-1].shape) <= 1024 and all(max(level.shape) > 1024 for level in levels[:-1])
    with rasterio.open(path) as raster:
        assert np.array_equal(raster.read(1), labels)
        assert raster.colormap(1)[2] == (0, 160, 9, 255)
        assert raster.tags()["TIFFTAG_RESOLUTIONUNIT"].startswith("3")
        assert float(raster.tags()["TIFFTAG_XRESOLUTION"]) == pytest.approx(1e4 / 0.4987654321)
    with LabelRaster(path) as raster:
        assert raster.shape == shape
        assert np.array_equal(raster.read(Region(0, 0, shape[1], shape[0])), labels)
        around = raster.read(Region(-2, -1, shape[1] + 3, shape[0] + 2))
        assert np.array_equal(np.pad(labels, ((1, 1), (2, 1))), around)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_come_back_and_levels_are_means(tmp_path, shape, channels):
    pixels = np.random.default_rng(1).integers(0, 256, (channels, *shape), np.uint8)
    path = write_channels(tmp_path / "a.ome.tif", pixels)
    with tifffile.TiffFile(path) as file:
        assert len(file.series) == 1 and len(file.pages) == channels
        assert [bool(page.aspage().description) for page in file.pages] == [True, *[False] * (channels - 1)]
        finer = list(pixels)
        for level in file.series[0].levels:
            found = level.asarray().reshape(channels, *level.shape[-2:])
            assert all(np.array_equal(a, b) for a, b in zip(found, finer, strict=True))
            finer = [mean_of_four(channel) for channel in finer]
    for i in range(channels):
        with LabelRaster(path, page=i) as raster:
            assert raster.shape == shape
            assert np.array_equal(raster.read(Region(0, 0, shape[1], shape[0])), pixels[i])
    with pytest.raises(DatasetError, match="no page"):
        LabelRaster(path, page=channels)


def test_mean_is_rounded_half_up_by_hand(tmp_path):
    pixels = np.zeros((1, 2, 2050), np.uint8)
    pixels[0, :, :6] = [[1, 0, 1, 1, 255, 255], [0, 0, 0, 0, 255, 254]]  # 0.25, 0.5, 254.75
    path = write_channels(tmp_path / "a.ome.tif", pixels)
    with tifffile.TiffFile(path) as file:
        assert file.series[0].levels[1].asarray()[0, :3].tolist() == [0, 1, 255]


def xml_of(path):
    """The OME-XML, which is UTF-8 without numbered characters: Bio-Formats does not understand them."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags["ImageDescription"]
        file.filehandle.seek(tag.valueoffset)
        data = file.filehandle.read(tag.count)
    text = data.rstrip(b"\0").decode("utf-8")
    assert "&#" not in text and 'PhysicalSizeXUnit="µm"' in text
    return ElementTree.fromstring(text)


def test_ome_xml_of_labels(tmp_path):
    root = xml_of(write_labels(tmp_path / "a.ome.tif", labels_of((5, 7))))
    pixels = root.find(f"{OME}Image/{OME}Pixels")
    expected = {"SizeX": "7", "SizeY": "5", "SizeC": "1", "PhysicalSizeX": "0.4987654321", "PhysicalSizeXUnit": "µm"}
    assert expected.items() <= pixels.attrib.items()
    assert "UUID" not in root.attrib  # which would differ from run to run
    entries = {m.get("K"): m.text for m in root.iter(f"{OME}M")}
    assert entries == {"1": "Tumor <\"1'> & µm \ufffd", "2": "b\nc", "3": "Ignore*"}
    (reference,) = root.iter(f"{OME}AnnotationRef")
    assert reference.get("ID") == root.find(f"{OME}StructuredAnnotations/{OME}MapAnnotation").get("ID")


def test_ome_xml_of_channels(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_probability_pyramid(
        path,
        [np.zeros((2, 3, 4), np.uint8)],
        (3, 4),
        0.25,
        ["a<b>", "c\nµ"],
        [(255, 128, 0), (0, 1, 2)],
        description="0 is no & 255 is yes",
    )
    root = xml_of(path)
    found = [(c.get("Name"), int(c.get("Color"))) for c in root.iter(f"{OME}Channel")]
    # 0xff8000ff and 0x000102ff as signed numbers of 32 bits
    assert found == [("a<b>", 0xFF8000FF - (1 << 32)), ("c µ", 0x000102FF)]
    assert root.find(f"{OME}Image/{OME}Description").text == "0 is no & 255 is yes"


def test_ome_xml_is_valid_by_the_schema(tmp_path):
    etree = pytest.importorskip("lxml.etree", reason="validation needs lxml and ome-types, which hold the schema")
    found = importlib.util.find_spec("ome_types")
    if found is None:
        pytest.skip("validation needs ome-types, which holds the schema")
    schema = etree.XMLSchema(etree.parse(Path(found.origin).with_name("ome-2016-06.xsd")))
    for path in (
        write_labels(tmp_path / "a.ome.tif", labels_of((5, 7))),
        write_channels(tmp_path / "b.ome.tif", np.zeros((3, 4, 5), np.uint8)),
    ):
        schema.assertValid(etree.fromstring(ElementTree.tostring(xml_of(path))))


def test_our_slide_readers_take_no_label_raster_for_a_slide(tmp_path):
    with pytest.raises(SlideError, match="1 channel instead of RGB"):
        open_slide(write_labels(tmp_path / "a.ome.tif", labels_of((5, 7))))


@settings(max_examples=25, deadline=None)
@given(
    heights=st.lists(st.integers(1, 700), min_size=1, max_size=8),
    columns=st.sampled_from([1, 65, 513, 1030]),
    channels=st.sampled_from([0, 1, 3]),
)
def test_strips_of_any_height_give_the_same_bytes(tmp_path_factory, heights, columns, channels):
    folder = tmp_path_factory.mktemp("strips")
    rows = sum(heights)
    cuts = np.cumsum(heights)[:-1]
    files = []
    for name in ("cut", "whole"):
        path = folder / f"{name}.ome.tif"
        if channels == 0:
            labels = labels_of((rows, columns), rows)
            parts = np.split(labels, cuts) if name == "cut" else [labels]
            write_label_pyramid(path, iter(parts), labels.shape, 0.5, CLASSES)
        else:
            pixels = np.random.default_rng(rows).integers(0, 256, (channels, rows, columns), np.uint8)
            parts = np.split(pixels, cuts, axis=1) if name == "cut" else [pixels]
            write_probability_pyramid(path, iter(parts), (rows, columns), 0.5, ["a"] * channels, [(1, 2, 3)] * channels)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_bigtiff_only_where_needed(tmp_path, monkeypatch):
    labels = labels_of((1500, 600))
    with tifffile.TiffFile(write_labels(tmp_path / "a.ome.tif", labels)) as file:
        assert not file.is_bigtiff
    monkeypatch.setattr(ome_tiff, "_MAX_CLASSIC", 1000)
    path = write_labels(tmp_path / "a.ome.tif", labels)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff and len(file.series[0].levels) == 2
    with LabelRaster(path) as raster:
        assert np.array_equal(raster.read(Region(0, 0, 600, 1500)), labels)


def test_class_names_come_back(tmp_path):
    classes = ClassMap.from_colors([(name, (1, 2, 3)) for name in ("a\rb", " Tumor <&> µ ", "癌", "c\x01", "d\ne\tf")])
    write_label_pyramid(tmp_path / "a.ome.tif", [np.ones((3, 4), np.uint8)], (3, 4), 0.5, classes)
    found = read_class_names(tmp_path / "a.ome.tif")
    assert read_mpp(tmp_path / "a.ome.tif") == 0.5
    assert found == ("a\ufffdb", " Tumor <&> µ ", "癌", "c\ufffd", "d\ne\tf") == names_in_file(classes.names)


@pytest.mark.parametrize(
    ("description", "told"),
    [
        (None, None),
        ("made elsewhere", None),
        ("<OME><Image/></OME>", None),
        ('<OME><MapAnnotation Namespace="other"><Value><M K="1">a</M></Value></MapAnnotation></OME>', None),
        (f'<OME><MapAnnotation Namespace="{LABEL_NAMESPACE}"><Value><M K="1">a</M></Value></MapAnnotation></OME>', "a"),
        (f'<OME><MapAnnotation Namespace="{LABEL_NAMESPACE}"><Value><M K="2">a</M></Value></MapAnnotation></OME>', "!"),
        (f'<OME><MapAnnotation Namespace="{LABEL_NAMESPACE}">', "!"),
        ('<!DOCTYPE x [<!ENTITY e "a">]><OME>&e;</OME>', "!"),
    ],
)
def test_class_names_of_any_description(tmp_path, description, told):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((20, 20), np.uint8), description=description, metadata=None)
    if told == "!":
        with pytest.raises(DatasetError, match="damaged where it names its classes"):
            read_class_names(path)
    else:
        assert read_class_names(path) == (told and (told,))


@pytest.mark.parametrize(
    ("pixels", "mpp"),
    [
        ('PhysicalSizeX="2" PhysicalSizeY="2"', 2),
        ('PhysicalSizeX="2" PhysicalSizeY="2" PhysicalSizeXUnit="nm"', 0.002),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', None),
        ('PhysicalSizeX="inf" PhysicalSizeY="inf"', None),
        ('PhysicalSizeX="2"', None),
    ],
)
def test_pixel_size_of_any_description(tmp_path, pixels, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((20, 20), np.uint8), description=f"<OME><Pixels {pixels}/></OME>", metadata=None)
    assert read_mpp(path) == mpp
    path.write_bytes(b"no")
    with pytest.raises(DatasetError, match="is missing or damaged"):
        read_mpp(path)


def failing(labels):
    yield labels[:600]
    raise RuntimeError("out of memory, say")


def test_the_old_file_stays_when_the_strips_fail(tmp_path):
    labels = labels_of((1500, 40))
    path = write_labels(tmp_path / "a.ome.tif", labels)
    before = path.read_bytes()
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        write_label_pyramid(path, failing(labels), labels.shape, 0.5, CLASSES)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([np.zeros((4, 7), np.uint8)], "4 of 5 rows"),
        ([np.zeros((6, 7), np.uint8)], "more than 5 rows"),
        ([np.zeros((5, 8), np.uint8)], "strip of"),
        ([np.zeros((5, 7), np.int32)], "strip of"),
    ],
)
def test_strips_that_do_not_fit(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_label_pyramid(tmp_path / "a.ome.tif", wrong, (5, 7), 0.5, CLASSES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mpp", [0.0, float("nan"), float("inf"), -1.0])
def test_pixel_size_that_is_none(tmp_path, mpp):
    with pytest.raises(ValueError, match="um/px"):
        write_labels(tmp_path / "a.ome.tif", labels_of((5, 7)), mpp=mpp)


def test_reduced_labels_come_from_the_pyramid(tmp_path):
    labels = labels_of((4096, 2048))
    path = write_labels(tmp_path / "a.ome.tif", labels)
    with LabelRaster(path) as raster:
        assert np.array_equal(raster.read_reduced(1024), labels[::4, ::4])
        assert raster.read_reduced(1500).shape == (1365, 682)


def test_threads_share_a_raster(tmp_path):
    labels = labels_of((2048, 1024))
    path = write_labels(tmp_path / "a b:c ü.ome.tif", labels)
    with LabelRaster(path) as raster, ThreadPoolExecutor(4) as threads:
        windows = [Region(x, y, 300, 300) for y in range(0, 1700, 100) for x in range(0, 700, 100)]
        for window, found in zip(windows, threads.map(raster.read, windows), strict=True):
            assert np.array_equal(found, labels[window.y : window.bottom, window.x : window.right])


def test_odd_file_names_and_channels(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 30, 20), np.uint8)
    path = write_channels(tmp_path / "a b:c ü.ome.tif", pixels)
    with LabelRaster(path, page=1) as raster:
        assert np.array_equal(raster.read(Region(0, 0, 20, 30)), pixels[1])


def test_polygons_of_a_pyramid_are_those_of_the_labels(tmp_path):
    labels = labels_of((60, 50))
    path = write_labels(tmp_path / "a.ome.tif", labels)

    def polygons_of(source):
        return {polygon.wkb for batch in polygonize(source) for polygon in batch.geometries()}

    with LabelRaster(path) as raster, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert polygons_of(raster) == polygons_of(ArrayLabels(labels))
