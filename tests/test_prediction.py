"""How targets see what is around them: what may be shared, what is the same, and what has no border at all."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dmmn_qp.errors import ModelError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import ModelCard, NetworkOptions
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.predicting import inference
from dmmn_qp.predicting.api import predict_slide
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import Predictor, choose_context, compile_network
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.architecture_contract import form_of
from tests.conftest import DEMO, REPOSITORY, fails, invoke, two_tissues, write_tiff
from tests.predicting import predict_whole

CPU = torch.device("cpu")
SHARING = ("dmmn-ms", "dmmn-m2s", "dmmn-m3")
BORDERLESS = ("unet", "segnet", *SHARING)


def card(architecture, size_px=256, stem="quarter", magnifications=3):
    return ModelCard(
        name="random",
        network=NetworkOptions(architecture=architecture, width=2, **form_of(architecture, "batch", stem)),
        class_map=ClassMap.from_colors([(name, (1, 2, 3)) for name in "abc"]),
        patch_spec=PatchSpec(size_px=size_px, stride_px=size_px, mpps=(0.5, 1.0, 2.0)[:magnifications]),
        created="now",
    )


def network_of(of, seed=0):
    """Random weights, but no layer falls silent and no class wins everywhere; in float64."""
    torch.manual_seed(seed)
    network = of.build().double().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean
    size = of.patch_spec.size_px
    images = [torch.rand(4, 3, size, size, dtype=torch.float64) for _ in range(network.used)]
    with torch.no_grad():
        network(images)
        network.eval()
        last = network.network.final[-1]
        network.network.final[0].bias += 1
        last.bias -= network(images).mean((0, 2, 3))
        spread = network(images).std()
        last.weight /= spread
        last.bias /= spread
    return network


@pytest.fixture
def in_float64(monkeypatch):
    """Networks are given float64, so that rounding hides nothing."""
    plain = inference._input
    monkeypatch.setattr(inference, "_input", lambda pixels, predictor: plain(pixels, predictor).double())


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Opens a slide of 330 x 300 px on which neighbouring pixels have nothing in common."""
    pixels = np.random.default_rng(1).integers(0, 256, (300, 330, 3), np.uint8)
    path = write_tiff(tmp_path_factory.mktemp("slides") / "noise.tif", pixels)
    return lambda: open_slide(path)


@pytest.mark.parametrize(
    ("stem", "architecture"),
    [(s, name) for name, kind in ARCHITECTURES.items() for s in ("full", "quarter") if s in kind.stems],
)
def test_who_can_share(architecture, stem):
    of = card(architecture, stem=stem)
    network = of.build()
    shares = architecture in SHARING
    assert choose_context(network, of.patch_spec, "patch") == "patch"
    usual = "blended" if stem == "quarter" else "shared" if shares else "patch"
    if ARCHITECTURES[architecture].pretrained:
        usual = "blocks"
    assert choose_context(network, of.patch_spec, "auto") == usual
    assert choose_context(network, of.patch_spec, "blended") == "blended"
    for wanted, can in (("shared", shares), ("shared-coarsest", shares), ("seamless", architecture in BORDERLESS)):
        if can:
            assert choose_context(network, of.patch_spec, wanted) == wanted
        else:
            with pytest.raises(ModelError, match="--context patch"):
                choose_context(network, of.patch_spec, wanted)


def test_patches_that_do_not_fall_on_pixels_of_the_maps():
    of = card("dmmn-m3", size_px=128)  # at 5x a target is 32 px, a pixel of the coarsest map 64
    for wanted in ("shared", "shared-coarsest", "seamless"):
        with pytest.raises(ModelError, match="--context patch"):
            choose_context(of.build(), of.patch_spec, wanted)
    full = card("dmmn-m3", size_px=128, stem="full")
    assert choose_context(full.build(), full.patch_spec, "auto") == "shared"


@pytest.mark.parametrize("stem", ["full", "quarter"])
@pytest.mark.parametrize("architecture", SHARING)
def test_context_of_one_target_is_the_network_itself(architecture, stem):
    """Bit for bit: the same layers on the same field, in two calls."""
    of = card(architecture, 64 if stem == "full" else 256, stem)
    network = network_of(of)
    images = [torch.rand(1, 3, *[of.patch_spec.size_px] * 2, dtype=torch.float64) for _ in range(3)]
    with torch.inference_mode():
        contexts = [network.context(m, images[m]) for m in (1, 2)]
        assert torch.equal(network.from_contexts(images[0], contexts), network(images))


@pytest.mark.parametrize("architecture", SHARING)
def test_context_of_many_targets_moves_with_them(architecture):
    """Where no padding is near, a target's maps cut out of a wide field are those of a field around it alone."""
    of = card(architecture, 64, "full")
    network = network_of(of)
    wide = torch.rand(1, 3, 512, 512, dtype=torch.float64)
    with torch.inference_mode():
        for m in (1, 2):
            whole, part = network.context(m, wide), network.context(m, wide[..., 64:448, 64:448])
            for of_whole, of_part in zip(whole, part, strict=True):
                pixel = 512 // of_whole.shape[-1]
                seen = of_whole[..., 64 // pixel : 448 // pixel, 64 // pixel : 448 // pixel]
                inner = slice(112 // pixel, -112 // pixel)  # beyond what padding reaches
                assert torch.allclose(seen[..., inner, inner], of_part[..., inner, inner], atol=1e-12)
                assert not torch.allclose(seen, of_part, atol=1e-12)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("stem", "size", "magnifications"), [("full", 64, 3), ("quarter", 128, 2)])
@pytest.mark.parametrize("architecture", BORDERLESS)
def test_seamless_block_is_a_piece_of_an_infinite_canvas(architecture, stem, size, magnifications):
    """Whatever lies beyond the halo, and wherever the block begins: float64 but for the order of sums."""
    of = card(architecture, size, stem, magnifications)
    network = network_of(of)
    halo = network.halo
    generator = torch.Generator().manual_seed(3)
    side = 2 * size + 2 * halo
    canvas = [torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8) for _ in range(3)]

    def logits(row, column, rows, columns):
        """Of a block of targets on the canvas."""

        def seen(m):
            y, x, height, width = (n * size >> m for n in (row, column, rows, columns))
            return canvas[m][..., y : y + height + 2 * halo, x : x + width + 2 * halo]

        predictor = Predictor(of, network, CPU, context="seamless")
        with torch.inference_mode():
            fields = [seen(m) for m in range(network.used)]
            bands = inference._seamless(fields, rows * size, columns * size, predictor)
            return torch.cat([band for _, band in bands], 2)

    whole = logits(0, 0, 2, 2)
    assert whole.dtype == torch.float64 and whole.std() > 1e-3
    for row, column, rows, columns in ((0, 0, 1, 1), (1, 0, 1, 2)):
        part = whole[..., row * size : (row + rows) * size, column * size : (column + columns) * size]
        assert (logits(row, column, rows, columns) - part).abs().max() < 1e-14
    for m in range(1, network.used):  # every magnification has a say
        canvas[m] = 255 - canvas[m]
        assert (logits(0, 0, 1, 1) - whole[..., :size, :size]).abs().max() > 1e-6
        canvas[m] = 255 - canvas[m]


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("architecture", ["dmmn-m3", pytest.param("dmmn-ms", marks=pytest.mark.engine)])
def test_seamless_labels_do_not_depend_on_the_block(noise, architecture, monkeypatch):
    of = card(architecture, 64, "full")
    predictor = Predictor(of, network_of(of), CPU, context="seamless", probabilities=True)
    found = []
    for side in (1, 2, 3, 8):
        monkeypatch.setattr(Predictor, "block_targets", side)
        found.append(predict_whole(noise, predictor))
    assert len(np.unique(found[0]["labels"])) > 1
    for other in found[1:]:
        assert all(np.array_equal(other[kind], found[0][kind]) for kind in found[0])


@pytest.mark.usefixtures("in_float64")
def test_a_smaller_halo_does_not_suffice(noise, monkeypatch):
    """16 px less, and pixels that can matter are cut off: the halo of DMMN-M3 is the smallest."""
    of = card("dmmn-m3", 64, "full")
    network = network_of(of)
    predictor = Predictor(of, network, CPU, context="seamless", probabilities=True)
    expected = predict_whole(noise, predictor)
    monkeypatch.setattr(type(network), "halo", network.halo - 16)
    monkeypatch.setattr(Predictor, "block_targets", 1)
    found = predict_whole(noise, predictor)
    assert any(not np.array_equal(found[kind], expected[kind]) for kind in expected)


@pytest.mark.parametrize("context", ["shared", "shared-coarsest"])
@pytest.mark.parametrize("architecture", SHARING)
@pytest.mark.usefixtures("in_float64")
def test_block_of_one_target_is_that_of_the_paper(noise, architecture, context, monkeypatch):
    monkeypatch.setattr(Predictor, "block_targets", 1)
    of = card(architecture, 64, "full")
    network = network_of(of)
    found, expected = (
        predict_whole(noise, Predictor(of, network, CPU, context=which, probabilities=True))
        for which in (context, "patch")
    )
    assert all(np.array_equal(found[kind], expected[kind]) for kind in expected)
    monkeypatch.setattr(Predictor, "block_targets", 4)
    larger = predict_whole(noise, Predictor(of, network, CPU, context=context, probabilities=True))
    assert not np.array_equal(larger["probabilities"], expected["probabilities"])  # it does share
    assert (larger["labels"] == expected["labels"]).mean() > 0.75  # targets are small


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("context", ["patch", "shared", "seamless"])
def test_mean_of_turned_copies_turns_with_the_slide(tmp_path, context):
    """Also of blocks that are no squares."""
    pixels = np.random.default_rng(2).integers(0, 256, (128, 256, 3), np.uint8)
    of = card("dmmn-m3", 64, "full")
    network = network_of(of)
    predictor = Predictor(of, network, CPU, context=context, views=8, probabilities=True)
    slides = {
        name: write_tiff(tmp_path / f"{name}.tif", np.ascontiguousarray(array))
        for name, array in (("upright", pixels), ("turned", np.rot90(pixels)), ("mirrored", pixels[:, ::-1]))
    }
    found = {name: predict_whole(lambda path=path: open_slide(path), predictor) for name, path in slides.items()}
    upright = found["upright"]
    assert upright["probabilities"].std() > 1
    assert np.array_equal(found["turned"]["labels"], np.rot90(upright["labels"]))
    assert np.array_equal(found["mirrored"]["labels"], upright["labels"][:, ::-1])
    as_numbers = found["turned"]["probabilities"].astype(int), np.rot90(upright["probabilities"], axes=(1, 2))
    assert np.abs(as_numbers[0] - as_numbers[1]).max() <= 1
    predictor.views = 1
    once = predict_whole(lambda: open_slide(slides["upright"]), predictor)
    assert not np.array_equal(once["probabilities"], upright["probabilities"])


@pytest.mark.parametrize("turned", [False, True])
def test_probabilities_confidence_and_entropy_belong_together(noise, turned):
    of = card("dmmn-m3", 64, "full")
    predictor = Predictor(
        of,
        network_of(of).float(),
        CPU,
        context="shared",
        probabilities=True,
        uncertainty=True,
        views=8 if turned else 1,
    )
    found = predict_whole(noise, predictor)
    chances = found["probabilities"].astype(int)
    assert chances.shape == (3, 300, 330) and np.abs(chances.sum(0) - 255).max() <= 1.5
    assert np.array_equal(found["confidence"], chances.max(0))
    by_chance = np.sort(chances, axis=0)
    unique = by_chance[-1] > by_chance[-2]
    assert unique.mean() > 0.9
    assert np.array_equal(chances.argmax(0)[unique] + 1, found["labels"][unique])
    shares = np.maximum(chances / 255, 1e-9)
    entropy = -(shares * np.log(shares)).sum(0) / np.log(3) * 255
    assert np.abs(found["entropy"] - entropy).max() < 6  # of rounded shares
    without = predict_whole(noise, Predictor(of, predictor.network, CPU, context="shared", views=8 if turned else 1))
    assert set(without) == {"labels"} and np.array_equal(without["labels"], found["labels"])


@pytest.mark.parametrize(("logits", "entropy", "confidence"), [((50.0, 0, 0), 0, 255), ((1.0, 1, 1), 255, 85)])
def test_entropy_at_its_ends(logits, entropy, confidence):
    of = card("unet", 64, magnifications=1)
    block = inference._Block(Predictor(of, of.build(), CPU, probabilities=True, uncertainty=True), (1, 1))
    block.put([(0, 0)], torch.tensor(logits).reshape(1, 3, 1, 1).expand(1, 3, 64, 64))
    result = block.result(np.ones((1, 1), np.bool_))
    assert (result.entropy == entropy).all() and (result.confidence == confidence).all()
    assert (result.labels == 1).all() and (result.probabilities[0] == confidence).all()


@pytest.mark.parametrize("context", ["patch", "blended", "shared", "seamless"])
def test_targets_that_are_not_wanted_stay_empty(context):
    of = card("dmmn-m3", 64, "full", magnifications=2)
    predictor = Predictor(of, network_of(of).float(), CPU, context=context, probabilities=True, uncertainty=True)
    grid, block = of.patch_spec.grid_of(0.5), Region(0, 0, 192, 128)
    layout = predictor.layout((128, 192))
    place = None if layout is None else (block, layout)
    fields = predictor.fields(grid, block, layout)
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (field.height, field.width, 3), np.uint8) for field in fields]
    wanted = np.array([[True, False, True], [False, True, False]])
    some = inference.predict_fields(pixels, wanted, predictor, place)().arrays()
    everything = inference.predict_fields(pixels, np.ones((2, 3), np.bool_), predictor, place)().arrays()
    inside = wanted.repeat(64, 0).repeat(64, 1)
    for kind, array in some.items():
        assert not array[..., ~inside].any()
        assert np.abs(array[..., inside].astype(int) - everything[kind][..., inside]).max() <= 1


def test_two_devices_give_the_same_as_one(noise):
    of = card("dmmn-m3", 64, "full")
    predictors = [Predictor(of, network_of(of).float(), CPU, context="shared", probabilities=True) for _ in range(2)]
    once, twice = predict_whole(noise, predictors[0]), predict_whole(noise, *predictors)
    assert all(np.array_equal(once[kind], twice[kind]) for kind in once)


def test_error_of_one_device_reaches_the_caller(noise, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("no room")

    of = card("dmmn-m3", 64, "full")
    predictors = [Predictor(of, network_of(of).float(), CPU) for _ in range(2)]
    monkeypatch.setattr(inference, "_of_targets", fail)
    with pytest.raises(MemoryError, match="no room"):
        predict_whole(noise, *predictors)


def test_a_batch_that_does_not_fit_is_halved(noise, monkeypatch):
    of = card("dmmn-m3", 64, "full")
    network = network_of(of).float()
    plain, sizes = inference._of_targets, []

    def limited(pixels, maps, corners, predictor, **how):
        sizes.append(len(corners))
        if len(corners) > 3:
            raise torch.OutOfMemoryError("too many")
        return plain(pixels, maps, corners, predictor, **how)

    expected = predict_whole(noise, Predictor(of, network, CPU, batch_size=2))
    monkeypatch.setattr(inference, "_of_targets", limited)
    predictor = Predictor(of, network, CPU, batch_size=12)
    assert np.array_equal(predict_whole(noise, predictor)["labels"], expected["labels"])
    assert sizes[:3] == [12, 6, 3] and predictor.batch_size == 3


def test_compiled_network_agrees(monkeypatch):
    """Whether torch can compile for this machine is tested with the networks."""
    calls = []

    def compiled(function, **options):
        calls.append((function.__name__, options))
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    of = card("dmmn-m3", 64, "full")
    network = network_of(of).float()
    compile_network(network)
    assert sorted(name for name, _ in calls) == ["coarse_logits", "context", "decide", "forward", "from_contexts"]
    assert all(options == {"dynamic": False} for _, options in calls)


def test_every_pixel_of_a_demo_slide_is_predicted_once():
    of = card("dmmn-ms")
    predictor = Predictor(of, network_of(of).float(), CPU, context="shared")
    found = predict_whole(lambda: open_slide(DEMO / "slides" / "val-1.tif"), predictor)
    assert found["labels"].min() >= 1


def test_every_context_through_the_command(workspace, here):
    """On a slide of several blocks whose size is no multiple of a target; agreement has tests of its own."""
    write_tiff(here / "large.tif", two_tissues(300, 1300))
    found = {}
    for context in ("patch", "blended", "shared", "shared-coarsest", "seamless"):
        command = ("predict", "large.tif", "--model", workspace / "models/dmmn-m3-1", "--context", context)
        result = invoke(*command, "--out", context, "--precision", "fp32")
        assert result.exit_code == 0, result.output
        assert f"context {context}" in result.output
        with LabelRaster(here / context / "large.labels.ome.tif") as raster:
            found[context] = raster.read(Region(0, 0, 1300, 300))
        assert found[context].min() >= 1


def test_what_a_model_cannot(workspace, here):
    (here / "c.toml").write_text(
        '[train]\narchitecture = "dmmn-s2"\nwidth = 2\nepochs = 1\nsteps_per_epoch = 1\nworkers = 0\n'
        'precision = "fp32"\n'
    )
    dataset = workspace / "dataset"
    assert invoke("train", "--dataset", dataset, "--config", "c.toml", "--out", "m").exit_code == 0
    for context in ("shared", "shared-coarsest", "seamless"):
        line = fails("predict", "--dataset", dataset, "--model", "m", "--context", context)
        assert "--context patch" in line
    assert not (here / "predictions").exists()


def test_example_of_the_python_interface(tmp_path, monkeypatch):
    import doctest

    import dmmn_qp.predicting.api

    with open_slide(DEMO / "slides" / "val-1.tif") as slide:
        part = slide.read_level(0, Region(0, 1024, 900, 700))
    example, model, out = Path("examples/demo/slides/val-1.tif"), Path("models/demo"), tmp_path / "out"
    for folder in (example.parent, model.parent):
        (tmp_path / folder).mkdir(parents=True)
    write_tiff(tmp_path / example, part)
    shutil.copytree(REPOSITORY / model, tmp_path / model)
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(predict_slide, "predict_slide", dmmn_qp.predicting.api, globs={"folder": str(out)})
    assert len(test.examples) == 6
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
    (finished,) = out.glob("*.geojson")
    before = finished.stat().st_mtime_ns
    assert predict_slide(example, model, out, PredictOptions(batch_size=2)).polygons == finished
    assert finished.stat().st_mtime_ns == before  # it is there already
