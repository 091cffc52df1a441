"""A model folder as a person wants to read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmmn_qp.choices import Norm, Padding, Stem
from dmmn_qp.features.domain import TrainingDomain
from dmmn_qp.folders.acceptance import Loss
from dmmn_qp.folders.calibrated import Calibrated
from dmmn_qp.folders.model import ModelCard, NetworkOptions, load_model
from dmmn_qp.folders.provenance import FINGERPRINTS
from dmmn_qp.networks import ARCHITECTURES
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.describe import Description, describe
from dmmn_qp.networks.encoders import DEFAULT_ENCODER
from dmmn_qp.text import count_of, printable

MIB = 2**20

_NORMS: dict[Norm, str] = {"none": "no normalisation", "batch": "batch norm", "group": "group norm"}
_STEMS: dict[Stem, str] = {
    "full": "full resolution",
    "half": "half the resolution",
    "quarter": "a quarter of the resolution",
}
_PADDINGS: dict[Padding, str] = {"zeros": "zeros beyond borders", "replicate": "borders repeated beyond themselves"}
_LOSSES: dict[Loss, str] = {
    "validation": "worse on validation areas",
    "reviewed": "worse on reviewed predictions",
    "drawn": "worse on annotations for training",
    "contradiction": "labelled so, against all other annotations",
}
_MARGIN = 14  # characters of the left column
_LONGEST = 2000  # characters of a line; what somebody else wrote may have any number
_WIDEST_NAME = 60  # characters to which the names of classes are filled up
_MOST_LINES = 300  # of one part; there may be 254 classes
_DIGEST = 12  # hexadecimal digits that are shown


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What is to be said of a model.

    Attributes:
        folder: The model folder.
        card: Its card.
        described: Size, cost and view of its network.
        size_bytes: The size of all its files.
    """

    folder: Path
    card: ModelCard
    described: Description
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "folder": str(self.folder),
            "parameters": self.described.parameters,
            "gflop_per_target": self.described.gflop_per_target,
            "context_um": self.described.context_um,
            "field_um": self.described.field_um,
            "size_bytes": self.size_bytes,
            "card": self.card.model_dump(mode="json"),
        }

    def lines(self) -> list[str]:
        """The summary as text, the model's name first."""
        card, network, spec = self.card, self.card.network, self.card.patch_spec
        outputs = f"{network.reserved_outputs + len(card.class_map)} outputs"
        if network.reserved_outputs:
            first = "first" if network.reserved_outputs == 1 else f"first {network.reserved_outputs}"
            outputs += f"; the {first} of no class and never predicted"
        longest = min(_WIDEST_NAME, max(len(name) for name in card.class_map.names))
        parts = [
            (
                "network",
                [
                    _form_line(network),
                    f"{self.described.parameters:,} parameters, {outputs}",
                ],
            ),
            (
                "classes",
                [
                    f"{c.label:>3}  {c.name:<{longest}}  #{bytes(c.color).hex().upper()}"
                    f"{'  not exported as polygons' if c.ignored else ''}"
                    for c in card.class_map.classes
                ],
            ),
            (
                "pixels",
                [
                    f"{', '.join(f'{mpp:g}' for mpp in spec.mpps)} um/px, each {spec.size_px} x {spec.size_px} px",
                    f"sees {self.described.context_um:g} of the {self.described.field_um:g} um given, "
                    f"for a target of {spec.size_px * spec.mpps[0]:g} um",
                ],
            ),
            ("input", _input_lines(card.input)),
            ("validation", _validation_lines(card.validation)),
            *([("calibrated", calibrated_lines(card.calibrated))] if card.calibrated is not None else []),
            *([("accepted", lines)] if (lines := _acceptance_lines(card)) else []),
            ("licence", [text for text in (card.licence or "none stated", card.attribution) if text]),
            *([("encoder", _encoder_lines(card))] if card.encoder is not None else []),
            ("made from", _provenance_lines(card.provenance)),
            ("trained on", _domain_lines(card.training_domain)),
            ("created", [card.created]),
            ("on disk", [f"{self.size_bytes / MIB:.1f} MiB in {self.folder}", _digest_line(card.weights_sha256)]),
        ]
        return [_line(card.name)] + [
            f"  {title if i == 0 else '':<{_MARGIN}}{line}"
            for title, lines in parts
            for i, line in enumerate(_bounded(lines))
        ]


def summarise(folder: Path) -> ModelSummary:
    """Reads a model, its weights too, and says what it is.

    Raises:
        ModelError: The folder is missing, foreign or damaged.
    """
    card, _ = load_model(folder)
    described = describe(
        card.network.architecture,
        classes=card.network.reserved_outputs + len(card.class_map),
        width=card.network.width,
        patch_spec=card.patch_spec,
        norm=card.network.norm,
        stem=card.network.stem,
        encoder=card.network.encoder,
        views=card.network.views,
        padding=card.network.padding,
    )
    return ModelSummary(folder, card, described, sum(f.stat().st_size for f in folder.iterdir() if f.is_file()))


def _bounded(lines: list[str]) -> list[str]:
    shown = [_line(line) for line in lines[:_MOST_LINES]]
    return shown if len(lines) <= _MOST_LINES else [*shown, f"... and {len(lines) - _MOST_LINES} more"]


def _line(text: str) -> str:
    """Text as one line that can be printed."""
    return printable(text, _LONGEST)


def _form_line(network: NetworkOptions) -> str:
    """Architecture, width, and what is on top of the paper's network."""
    line = f"{network.architecture}, width {network.width}, "
    if ARCHITECTURES[network.architecture].pretrained:
        views = f", mean over {network.views} views" if network.views > 1 else ""
        return f"{line}on pretrained encoder {network.encoder or DEFAULT_ENCODER}{views}"
    return f"{line}{_NORMS[network.norm]}, computes at {_STEMS[network.stem]}, {_PADDINGS[network.padding]}"


def _encoder_lines(card: ModelCard) -> list[str]:
    """Licence and author of the pretrained encoder, and where its weights are."""
    origin = card.encoder
    assert origin is not None
    where = "part of this model, from" if origin.copied else "no part of this model, but read from"
    lines = [origin.licence or "licence not stated", origin.attribution or ""]
    return [*filter(None, lines), f"weights {where} {origin.file}, SHA-256 {origin.sha256[:_DIGEST]}"]


def _digest_line(sha256: str | None) -> str:
    return f"weights SHA-256 {sha256[:_DIGEST]}" if sha256 else "no digest of the weights (older card)"


def _input_lines(convention: InputConvention) -> list[str]:
    divisor = 1 / convention.scale
    scaled = f"/ {divisor:g}" if divisor == round(divisor) else f"x {convention.scale:g}"
    text = f"{convention.channels} 0 .. 255 {scaled}"
    for word, values in (("minus mean", convention.mean), ("divided by std", convention.std)):
        if values is not None:
            text += f", {word} {', '.join(f'{value:g}' for value in values)}"
    made = "means of finer pixels" if convention.reduction == "area" else "every 2nd, 4th ... pixel of the finest"
    outside = "the slide mirrored" if convention.beyond == "mirror" else "black"
    return [text, f"coarser magnifications: {made}", f"outside the slide: {outside}"]


def _validation_lines(validation: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in validation.items():
        if isinstance(value, dict):
            lines.append(f"{name}: {', '.join(f'{key} {_shown(of_class)}' for key, of_class in value.items())}")
        else:
            lines.append(f"{name} {_shown(value)}")
    return lines or ["no figures"]


def calibrated_lines(found: Calibrated) -> list[str]:
    """How the logits of a model become probabilities, and how much better these are."""
    on = f"{found.pixels:,} annotated pixels of {count_of(found.slides, 'slide')}"
    views = f", mean over {found.views} views" if found.views > 1 else ""
    return [
        f"temperature {found.temperature:.3f}, fitted to {on}{views}",
        f"expected calibration error {_arrow(found.error_before, found.error_after)}, "
        f"log loss {_arrow(found.loss_before, found.loss_after)}",
    ]


def _acceptance_lines(card: ModelCard) -> list[str]:
    """Whether a model that started from another is accepted, and why not."""
    compared = card.acceptance
    if compared is None:
        return [] if card.accepted else ["no: its training was not ended, or it could not be compared"]
    figures = f"validation mIoU {_arrow(*compared.validation)}"
    if compared.reviewed is not None:
        figures += f", reviewed predictions right {_arrow(*compared.reviewed)}"
    word = "yes" if not compared.by_hand else "yes, by a person"
    lines = [f"{word if card.accepted else 'no'}: compared with {compared.compared_with}, {figures}"]
    for worse in compared.worse:
        what, on = _LOSSES[worse.loss], "all slides" if worse.slide is None else "one slide"
        name = "all classes" if worse.class_name is None else worse.class_name
        lines.append(f"{what}, {name}: {_arrow(worse.before, worse.after)} on {worse.mm2:.3f} mm2 of {on}")
    return lines


def _arrow(before: float, after: float) -> str:
    return f"{before:.3f} -> {after:.3f}"


def _provenance_lines(provenance: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in provenance.items():
        if isinstance(value, dict):  # the model that the training started from
            lines.append(f"{name}: {'; '.join(f'{key} {_shown(told)}' for key, told in value.items())}")
        elif name == FINGERPRINTS and isinstance(value, list):
            lines.append(f"{name}: {len(value)}, by which dmmn-qp evaluate knows them")
        else:
            lines.append(f"{name} {_shown(value)}")
    return lines or ["not stated"]


def _domain_lines(domain: TrainingDomain | None) -> list[str]:
    """What the training slides look like, so far as it says how other slides are judged."""
    if domain is None:
        return ["not known how the training slides look; predictions do not tell how far others are from them"]
    what = "colour" if domain.kind == "color" else "colour, and what the encoder sees,"
    where = f"{count_of(domain.tiles, 'place')} on {count_of(domain.slides, 'slide')}"
    lines = [f"{what} of {where}, to tell how far others are from them"]
    largest = domain.largest_among_themselves
    if largest is not None:
        lines.append(f"they differ by at most {largest:.2f} among themselves")
    if domain.threshold is None:
        return [*lines, "too few for a threshold, so there is a distance without a verdict"]
    return [*lines, f"a slide is unlike them beyond a distance of {domain.threshold:.2f}"]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) if value else "none"
    return "-" if value is None else str(value)
