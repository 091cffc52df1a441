"""Colours of classes, worked out by hand or taken from a project that QuPath wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmmn_qp.qupath.classes import PALETTE, QUPATH_COLORS, argb_to_rgb, default_color, distinct_colors


@pytest.mark.parametrize(
    ("argb", "rgb"),
    [(-1, (255, 255, 255)), (-16777216, (0, 0, 0)), (-3670016, (200, 0, 0)), (-16776961, (0, 0, 255))],
)
def test_packed_colors(argb: int, rgb: tuple[int, int, int]) -> None:
    assert argb_to_rgb(argb) == rgb
    assert argb_to_rgb(argb & 0xFFFFFFFF) == rgb


def test_colors_are_those_of_a_project_that_qupath_wrote(data: Path) -> None:
    content = json.loads((data / "project" / "classifiers" / "classes.json").read_text(encoding="utf-8"))
    for item in content["pathClasses"]:
        assert default_color(item["name"]) == argb_to_rgb(item["color"]), item["name"]


def test_other_classes_get_a_fixed_color() -> None:
    # Fixed for good: people compare pictures made at different times.
    assert default_color("carcinoma") == default_color("carcinoma")
    assert {name: default_color(name) in PALETTE for name in ("carcinoma", "腫瘍", "", "\udc00")} == dict.fromkeys(
        ("carcinoma", "腫瘍", "", "\udc00"), True
    )
    assert default_color("carcinoma: Positive") == QUPATH_COLORS["Positive"]


def test_distinct_colors() -> None:
    names = ["Tumor", "Stroma", *(f"class {number}" for number in range(len(PALETTE)))]
    colors = distinct_colors(names)
    assert list(colors) == names
    assert len(set(colors.values())) == len(names)
    assert len(distinct_colors([*names, "one", "too many"])) == len(names) + 2
