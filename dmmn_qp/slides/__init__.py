"""Reading slides."""

from dmmn_qp.slides.base import RgbArray, Slide, SlideInfo, overview_downsample, read_field, read_overview
from dmmn_qp.slides.readers import SLIDE_READERS, SlideReader, open_slide

__all__ = [
    "SLIDE_READERS",
    "RgbArray",
    "Slide",
    "SlideInfo",
    "SlideReader",
    "open_slide",
    "overview_downsample",
    "read_field",
    "read_overview",
]
