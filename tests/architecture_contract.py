"""The contract that every entry of `ARCHITECTURES` keeps: `CONTRACT` holds its checks, each takes a name."""

import tempfile
from itertools import product
from math import lcm
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from dmmn_qp.choices import Norm, Stem
from dmmn_qp.errors import ModelError
from dmmn_qp.folders.model import ModelCard, NetworkOptions, load_model, save_model
from dmmn_qp.networks import ARCHITECTURES, build_network
from dmmn_qp.networks.describe import describe, kept_for_backward
from dmmn_qp.networks.stem import STEM_FACTORS, NamesParts, SharesContexts
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.training.fine_tuning import freeze_encoders, start_from
from tests.contracts import Contract

SIZE = 64
"""Side of the patches in px, or the next multiple of it that the architecture takes."""

CONTRACT = Contract()
"""The checks: each takes a key of `ARCHITECTURES`."""

promise, breaches = CONTRACT.promise, CONTRACT.breaches


def form_of(name, norm="none", stem="full"):
    """The normalisation and the stem that are wanted, or the plain one where the architecture does not take it."""
    if name not in ARCHITECTURES:
        return {"norm": norm, "stem": stem}
    architecture = ARCHITECTURES[name]
    norms, stems = architecture.norms, architecture.stems
    return {"norm": norm if norm in norms else norms[0], "stem": stem if stem in stems else stems[0]}


def build(name, *, classes=3, width=2, magnifications=3, norm="none", stem="full", size_px=SIZE, seed=0, **others):
    torch.manual_seed(seed)
    sizes = {"classes": classes, "width": width, "magnifications": magnifications, "size_px": size_px}
    return build_network(name, **sizes, **form_of(name, norm, stem), **others).eval()


def images(magnifications=3, batch=2, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, 3, size, size, generator=generator) for _ in range(magnifications)]


def largest_difference(found, reference):
    """Relative to the largest logit."""
    return ((found.float() - reference).abs().max() / reference.abs().max()).item()


def bf16_error(name, memory_format=torch.contiguous_format):
    """Difference between bf16 and fp32, relative to the logits' mean size."""
    network, given = made(name, width=8)
    reference = network(given)
    network = network.to(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16):
        found = network([image.contiguous(memory_format=memory_format) for image in given])
    return ((found - reference).norm() / reference.norm()).item()


def magnifications_of(name, wanted=3):
    """As many as wanted, or as the architecture takes; one that looks at a single image is given them all."""
    most = ARCHITECTURES[name].max_magnifications
    return wanted if most in (None, 1) else min(wanted, most)


def side_of(name, stem="full", least=SIZE):
    return lcm(least, ARCHITECTURES[name].divisor * STEM_FACTORS[form_of(name, stem=stem)["stem"]])


def made(name, *, magnifications=3, batch=2, stem="full", **options):
    """A network on small patches, and images for it."""
    count, size = magnifications_of(name, magnifications), side_of(name, stem)
    network = build(name, magnifications=count, size_px=size, stem=stem, **options)
    return network, images(count, batch, size)


@promise
def gives_logits_of_the_images_size(name):
    for norm, stem, width in (("none", "full", 2), ("batch", "quarter", 3), ("group", "half", 12)):
        size = side_of(name, stem, 128)
        for count in sorted({magnifications_of(name, wanted) for wanted in (1, 2, 3, 4)}):
            network = build(name, norm=norm, stem=stem, width=width, magnifications=count, size_px=size)
            logits = network(images(count, size=size))
            assert logits.shape == (2, 3, size, size) and logits.dtype == torch.float32
            assert logits.isfinite().all()


@promise
def takes_any_multiple_of_its_divisor(name):
    count, divisor = magnifications_of(name), ARCHITECTURES[name].divisor
    for size in (3 * divisor, *(n * side_of(name) for n in (1, 2, 3, 5))):
        network = build(name, size_px=size, magnifications=count)
        assert network(images(count, batch=1, size=size)).shape == (1, 3, size, size)


@promise
def takes_images_that_are_wider_than_high(name):
    """Down to as many rows as its divisor: what a network sees is measured on such strips."""
    network, given = made(name)
    divisor = ARCHITECTURES[name].divisor
    strips = [image[..., :divisor, :] for image in given]
    assert network(strips).shape == (2, 3, divisor, given[0].shape[-1]), "rows and columns are any multiples of it"


@promise
def refuses_other_sizes(name):
    count, stem = magnifications_of(name), ARCHITECTURES[name].stems[-1]
    divisor = ARCHITECTURES[name].divisor * STEM_FACTORS[stem]
    with pytest.raises(ModelError, match=rf"multiple of {divisor} px, not {divisor * 3 // 2}"):
        build(name, size_px=divisor * 3 // 2, stem=stem, magnifications=count)


@promise
def refuses_the_forms_that_it_does_not_take(name):
    sizes = {"classes": 3, "width": 2, "magnifications": magnifications_of(name), "size_px": side_of(name, least=256)}
    architecture = ARCHITECTURES[name]
    for norm, stem in product(get_args(Norm), get_args(Stem)):
        if norm in architecture.norms and stem in architecture.stems:
            with torch.device("meta"):
                build_network(name, **sizes, norm=norm, stem=stem)
        else:
            with pytest.raises(ModelError, match="neither stem nor normalisation"):
                build_network(name, **sizes, norm=norm, stem=stem)


@promise
def takes_one_class(name):
    network, given = made(name, classes=1)
    assert network(given).shape == (2, 1, *given[0].shape[-2:])


@promise
def refuses_a_wrong_number_of_images(name):
    network, given = made(name)
    with pytest.raises(ValueError, match=f"takes {len(given)} images, not {len(given) + 1}"):
        network([*given, given[0]])


@promise
def learns_with_every_parameter(name):
    network, given = made(name, width=8)
    network(given).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@promise
def looks_at_the_magnifications_that_it_says(name):
    stems = [stem for stem in ("full", "half") if stem in ARCHITECTURES[name].stems]
    for wanted, stem in product((2, 3, 4), stems):
        network, given = made(name, width=8, magnifications=wanted, stem=stem)
        reference, used = network(given), ARCHITECTURES[name].used(len(given))
        for m in range(len(given)):
            changed = [image.flip(-1) if i == m else image for i, image in enumerate(given)]
            assert (largest_difference(network(changed), reference) > 1e-3) == (m < used), f"image {m}"


@promise
def draws_its_weights_from_the_seed(name):
    first, second, other = (made(name, seed=seed)[0] for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@promise
def starts_from_kaiming_weights(name):
    """Standard deviation sqrt(2 / fan-in); the fan-in of a transposed convolution is that of its outputs."""
    for module in made(name, width=8)[0].modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None or not module.bias.any()
            expected = (2 / module.weight[0].numel()) ** 0.5
            tolerance = 5 / (2 * module.weight.numel()) ** 0.5  # five standard errors
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance)


@promise
def is_equal_once_saved_and_loaded(name):
    network, given = made(name, norm="batch", stem="half")
    network.train()(given)  # so that the running statistics are not those of a new network
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), card_of(name, ("a", "b", "c")), network)
        _, loaded = load_model(Path(folder))
    assert torch.equal(loaded(given), network.eval()(given))


@promise
def agrees_channels_last(name):
    network, given = made(name, width=8)
    reference = network(given)
    network = network.to(memory_format=torch.channels_last)
    found = network([image.contiguous(memory_format=torch.channels_last) for image in given])
    assert largest_difference(found, reference) < 1e-5


@promise
def agrees_in_bf16(name):
    """Within 40 % of the logits' mean size on noise, as far as a network that keeps positions of maxima may go."""
    assert bf16_error(name) < 0.4 and bf16_error(name, torch.channels_last) < 0.4


@promise
def compiles_with_gradients(name):
    network, given = made(name, magnifications=2)
    reference = network(given)
    torch.compiler.reset()  # it counts what it compiled before, and gives up after some
    found = torch.compile(network, backend="aot_eager", fullgraph=True)(given)
    assert largest_difference(found, reference) < 1e-5
    found.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@promise
def can_be_exported(name):
    network, given = made(name, stem="half")
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (given,), dynamic_shapes=([{0: batch}] * len(given),))
    for n in (1, 3):
        some = images(len(given), batch=n, size=given[0].shape[-1])
        assert largest_difference(exported.module()(some), network(some)) < 1e-5


@promise
def is_described_as_it_is(name):
    spec = spec_of(name, "half")
    described = describe(name, classes=3, width=2, patch_spec=spec, **form_of(name, "batch", "half"))
    network, given = made(name, norm="batch", stem="half", batch=1)
    parameters = sum(p.numel() for p in network.parameters())
    assert described.parameters == parameters
    assert described.parameter_bytes == described.gradient_bytes == 4 * parameters
    assert described.optimizer_bytes == {"sgd": 4 * parameters, "adamw": 8 * parameters}
    assert 0 < described.context_um <= described.field_um and described.gflop_per_target > 0
    assert kept_for_backward(network.train(), given) == described.activation_bytes


@promise
def shows_no_border_where_it_repeats_it(name):
    """A picture of one colour gets the same logits everywhere, up to rounding.

    For this its transposed convolutions are made such that they enlarge what is even to what is even. What pooling puts
    back among zeros never is.
    """
    if ARCHITECTURES[name].pretrained:
        with pytest.raises(ModelError, match='leave "stem", "norm" and "padding" out'):
            build(name, padding="replicate", magnifications=magnifications_of(name))
        return
    for stem in ("full", "quarter"):
        for padding in ("zeros", "replicate"):
            network, given = made(name, stem=stem, width=8, padding=padding, batch=1)
            for module in network.modules():
                if isinstance(module, nn.ConvTranspose2d):
                    with torch.no_grad():
                        module.weight[:] = module.weight.mean((2, 3), keepdim=True)
                        module.weight[..., 1, :] *= 2
                        module.weight[..., 1] *= 2
                assert not isinstance(module, nn.Conv2d) or module.padding == (0, 0) or module.padding_mode == padding
            if any(isinstance(module, nn.MaxUnpool2d) for module in network.modules()):
                continue
            logits = network([torch.full_like(image, 0.5) for image in given])
            spread = (logits.amax((-2, -1)) - logits.amin((-2, -1))).max() / logits.abs().max()
            assert spread < 1e-4 if padding == "replicate" else spread > 1e-2


@promise
def runs_everywhere_with_borders_repeated(name):
    if ARCHITECTURES[name].pretrained:
        return
    network, given = made(name, norm="batch", stem="half", padding="replicate")
    expected = network(given)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), card_of(name, ("a", "b", "c"), padding="replicate"), network)
        assert torch.equal(load_model(Path(folder))[1](given), expected)
    exported = torch.export.export(network, (given,))
    assert largest_difference(exported.module()(given), expected) < 1e-5
    spec = spec_of(name, "half")
    plain, repeated = (
        describe(name, classes=3, width=2, patch_spec=spec, norm="batch", stem="half", padding=padding)
        for padding in ("zeros", "replicate")
    )
    assert repeated.parameters == plain.parameters and repeated.context_um == plain.context_um


@promise
def compiles_with_borders_repeated(name):
    if ARCHITECTURES[name].pretrained:
        return
    network, given = made(name, norm="batch", stem="half", padding="replicate", magnifications=2)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(given)
    assert largest_difference(compiled, network(given)) < 1e-5


@promise
def shares_contexts_to_the_same_logits(name):
    network, given = made(name)
    if network.shares_contexts:
        assert isinstance(network.network, SharesContexts)
        contexts = [network.context(m, given[m]) for m in range(1, network.used)]
        assert torch.equal(network.from_contexts(given[0], contexts), network(given))


@promise
def ends_with_the_output_that_it_names(name):
    """Filter i of the output is class i's, and no other's: 1 more in its bias is 1 more in its logits."""
    network, given = made(name)
    assert isinstance(network.network, NamesParts), "name `encoders` and `output`"
    output = network.network.output
    assert isinstance(output, nn.Conv2d) and output.out_channels == 3 and output.bias is not None
    reference = network(given)
    for i in range(3):
        with torch.no_grad():
            output.bias[i] += 1
        found, reference = network(given) - reference, network(given)
        expected = torch.zeros_like(found)
        expected[:, i] = 1
        assert torch.allclose(found, expected, atol=1e-4)


@promise
def freezes_its_encoders_alone(name):
    """What is frozen keeps weights and statistics; the output, and every part that is not frozen, learns."""
    network, given = made(name, norm="batch", stem="half", width=8)
    network.train()
    freeze_encoders(network, "encoder")
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen and all(p.requires_grad for p in network.network.output.parameters())
    statistics = {n: b.clone() for n, b in network.named_buffers()}
    network(given).square().sum().backward()
    assert {n for n, p in network.named_parameters() if p.grad is None} == frozen
    kept = {n.rpartition(".")[0] for n, b in network.named_buffers() if torch.equal(b, statistics[n])}
    layers = {n.rpartition(".")[0] for n in frozen}
    normalised = {n.rpartition(".")[0] for n in statistics}
    assert kept & normalised == layers & normalised


@promise
def starts_from_a_model_by_the_names_of_classes(name):
    """Of b, c after a reserved output to c, new, b: every other tensor is the model's, and filters follow names."""
    trained, _ = made(name, norm="batch", stem="half", classes=3, seed=1)
    network, given = made(name, norm="batch", stem="half", classes=3, seed=2)
    output = network.network.output
    random = {key: values.clone() for key, values in output.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), card_of(name, ("b", "c"), reserved=1), trained)
        assert start_from(network, Path(folder), class_map_of(("c", "new", "b"))) == ["new"]
    for key, values in output.state_dict().items():
        old = trained.network.output.state_dict()[key]
        assert torch.equal(values, torch.stack([old[2], random[key][1], old[1]]))
    old, new = trained(given), network(given)
    assert torch.allclose(new[:, [0, 2]], old[:, [2, 1]], atol=1e-5)


def class_map_of(names):
    return ClassMap.from_colors([(name, (40 * i, 0, 255)) for i, name in enumerate(names)])


def spec_of(name, stem):
    return PatchSpec(size_px=side_of(name, stem), mpps=tuple(0.5 * 2**m for m in range(magnifications_of(name))))


def card_of(name, classes, reserved=0, **network):
    built = {"architecture": name, "width": 2, **form_of(name, "batch", "half"), **network}
    return ModelCard(
        name="x",
        network=NetworkOptions(**built, reserved_outputs=reserved),
        class_map=class_map_of(classes),
        patch_spec=spec_of(name, "half"),
        created="now",
    )
