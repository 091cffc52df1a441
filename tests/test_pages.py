"""All pages fit a screen, a phone and paper: nothing is cut, plots can be read, what is folded prints."""

import re

import pytest

from tests.browser import Browser, needs_chromium
from tests.pages import PAGES

PHONE_PX, SCREEN_PX = 390, 1200
A4_PX = round((210 - 2 * 12) / 25.4 * 96)
"""What the margins leave of a sheet."""

LEAST_TEXT_PX = 9

BEYOND = """(scrolls => [...document.querySelectorAll('main, main *')]
  .filter(e => e.getClientRects().length && !(scrolls && e.closest('.scroll, .beside')))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 90)))"""
"""What ends right of the page; of what can be scrolled, nothing counts if so said."""

CUT = """[...document.querySelectorAll('main *')]
  .filter(e => e.getClientRects().length && getComputedStyle(e).overflowX === 'hidden')
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 90))"""

PLOTTED_PX = """[...document.querySelectorAll('svg:not(.symbol) text')]
  .map(t => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"""

PICTURES = """[...document.images].filter(i => i.src.startsWith('data:image/svg'))
  .map(i => [i.clientWidth, i.naturalWidth, atob(i.src.split(',')[1])])"""


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    return PAGES[request.param](tmp_path_factory.mktemp(request.param))


def least_text_px(browser):
    """Of the plots: those within the page, and those that are pictures."""
    sizes = browser.evaluate(PLOTTED_PX)
    for shown, drawn, svg in browser.evaluate(PICTURES):
        assert "<text" in svg or "<use" in svg
        wide_pt = float(re.search(r'<svg[^>]*width="([\d.]+)pt"', svg)[1])
        assert drawn == pytest.approx(wide_pt * 96 / 72, abs=1)
        sizes.append(10 * 96 / 72 * shown / drawn)  # matplotlib writes at 10 pt
    return min(sizes, default=LEAST_TEXT_PX)


@pytest.mark.engine
@needs_chromium
@pytest.mark.parametrize("width", [SCREEN_PX, PHONE_PX])
def test_pages_on_a_screen_and_on_a_phone(page, width, tmp_path):
    with Browser(tmp_path / "profile", width=width) as browser:
        browser.open(page.as_uri())
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate(f"{BEYOND}(true)") == []
        assert width == SCREEN_PX or browser.evaluate(CUT) == []
        assert least_text_px(browser) >= LEAST_TEXT_PX
        assert browser.problems() == []


@pytest.mark.engine
@needs_chromium
def test_pages_on_paper(page, tmp_path):
    with Browser(tmp_path / "profile", width=A4_PX) as browser:
        browser.open(page.as_uri())
        folded = browser.evaluate("document.querySelectorAll('details:not([open])').length")
        assert folded == (2 if "import" in str(page.parent) else 0)
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.evaluate("document.documentElement.scrollWidth") <= A4_PX
        assert browser.evaluate(f"{BEYOND}(false)") == []
        assert browser.evaluate(CUT) == []
        hidden = "[...document.querySelectorAll('main li, main td, main dd')].filter(e => !e.getClientRects().length)"
        assert browser.evaluate(f"{hidden}.length") == 0
        assert browser.call("Page.printToPDF", preferCSSPageSize=True)["data"]


@pytest.mark.engine
@needs_chromium
def test_a_link_to_a_folded_finding_unfolds_it(tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(PAGES["import"](tmp_path).as_uri())
        shown = "[...document.querySelectorAll('.findings li')].filter(e => e.getClientRects().length).length"
        assert browser.evaluate(shown) == 0
        browser.evaluate("document.querySelector('.pin').click()")
        assert browser.evaluate(shown) > 0
