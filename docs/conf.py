"""Builds the documentation as pages with a search, which need nothing but themselves: ``make docs``.

The pages are plain Markdown that reads well where the repository is browsed. What only the built pages have is made
here: the side bar's list of pages, and the reference, which is read from the program's own options and docstrings.
"""

import sys
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from sphinx.application import Sphinx

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import reference_pages  # noqa: E402  (it lies beside this file)

from dmmn_qp import __version__  # noqa: E402

project = "dmmn-qp"
author = copyright = "The dmmn-qp developers"
version = release = __version__

# The source folder is the repository, so that links from docs/ to what lies beside it are links here too.
root_doc = "docs/README"
include_patterns = ["*.md", "docs/**", "models/README.md", "qupath_scripts/README.md"]
exclude_patterns = ["docs/_build", ".venv", "**/.*"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4
smartquotes = False  # "--" begins an option
default_role = "literal"  # docstrings write code in single backticks
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other projects have no page here, and nothing is fetched
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"dmmn-qp {__version__}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False

SIDE_BAR = {
    "Start": ["docs/getting-started", "docs/how-to", "docs/troubleshooting"],
    "Pages": ["docs/*", "models/README", "qupath_scripts/README"],
    "Reference": ["docs/reference/commands", "docs/reference/configuration", "docs/reference/python"],
    "The project": ["*"],
}
"""Caption -> pages, or patterns of those that are named nowhere else: whoever adds a page need not name it here."""


def _complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Appends what only the built pages have: to the index the side bar's list, to a page of the reference its text."""
    if name == root_doc:
        rest = app.project.docnames - {root_doc, *chain.from_iterable(SIDE_BAR.values())}
        for caption, patterns in SIDE_BAR.items():
            pages = [page for pattern in patterns for page in (pattern, *filter(partial(_fits, pattern), sorted(rest)))]
            source[0] += _toctree(caption, [page for page in pages if page in app.project.docnames])
    source[0] += reference_pages.PAGES.get(name.removeprefix("docs/reference/"), str)()


def _fits(pattern: str, page: str) -> bool:
    return PurePosixPath(page).parent == PurePosixPath(pattern).parent and PurePosixPath(page).match(pattern)


def _toctree(caption: str, pages: list[str]) -> str:
    listed = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n:caption: {caption}\n\n{listed}\n```\n"


def _lead_to_the_index(app: Sphinx, error: Exception | None) -> None:
    """Writes the page that a server, or somebody who opens the folder, takes first."""
    if error is None:
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/README.html">'
        page += '<title>dmmn-qp</title><a href="docs/README.html">dmmn-qp</a>\n'
        Path(app.outdir, "index.html").write_text(page, "utf-8")


def setup(app: Sphinx) -> None:
    """Registers both with Sphinx."""
    app.connect("source-read", _complete)
    app.connect("build-finished", _lead_to_the_index)
