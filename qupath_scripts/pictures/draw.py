"""Draws the diagrams of where to click in QuPath. They are drawn after its documentation; no screen was copied.

Run it after a change: python qupath_scripts/pictures/draw.py
"""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
INK, LINE, PAPER, MARK = "#222222", "#9aa0a6", "#ffffff", "#fff1c2"
ROW = 26


class Drawing:
    """An SVG of boxes and words.

    Args:
        width: Its width in px.
        height: Its height in px.
    """

    def __init__(self, width: int, height: int) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{width}" height="{height}" fill="#f3f4f6"/>',
        ]

    def box(self, x: int, y: int, width: int, height: int, fill: str = PAPER) -> None:
        """A box."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{fill}" stroke="{LINE}"/>'
        )

    def text(self, x: int, y: int, words: str, *, bold: bool = False, mono: bool = False) -> None:
        """Words on a line."""
        style = (' font-weight="bold"' if bold else "") + (' font-family="monospace"' if mono else "")
        self._parts.append(f'<text x="{x}" y="{y}" fill="{INK}"{style}>{escape(words)}</text>')

    def menu(self, x: int, y: int, width: int, items: list[str], marked: str) -> None:
        """A menu that is open, with one item marked."""
        self.box(x, y, width, ROW * len(items) + 8)
        for n, item in enumerate(items):
            if item == marked:
                self._parts.append(
                    f'<rect x="{x + 3}" y="{y + 4 + ROW * n}" width="{width - 6}" height="{ROW}" fill="{MARK}"/>'
                )
            self.text(x + 12, y + 22 + ROW * n, item, bold=item == marked)

    def step(self, x: int, y: int, number: int) -> None:
        """A number in a circle."""
        self._parts.append(f'<circle cx="{x}" cy="{y}" r="11" fill="#b45309"/>')
        self._parts.append(
            f'<text x="{x}" y="{y + 5}" fill="#ffffff" text-anchor="middle" font-weight="bold">{number}</text>'
        )

    def write(self, name: str) -> None:
        """Writes the file."""
        (FOLDER / name).write_text("\n".join([*self._parts, "</svg>"]) + "\n", "utf-8")


def project_scripts() -> None:
    """How the script editor gets a script of the project."""
    d = Drawing(760, 270)
    d.text(16, 24, "Diagram, not a screenshot: QuPath's main window, with the project open", bold=True)
    d.box(16, 38, 728, 216)
    d.text(28, 59, "File   Edit   Tools   View   Objects   TMA   Measure")
    d.menu(352, 42, 84, ["Automate"], "Automate")
    d.text(448, 59, "Analyze   Classify   Extensions   Help")
    d.menu(352, 78, 170, ["Script editor", "...", "Project scripts  >"], "Project scripts  >")
    scripts = ["clear_predictions", "export_annotations", "import_predictions", "run_dmmn"]
    d.menu(526, 130, 170, scripts, "import_predictions")
    d.step(340, 56, 1)
    d.step(340, 147, 2)
    d.step(712, 199, 3)
    d.text(28, 240, "The script opens in the script editor.")
    d.write("project-scripts.svg")


def script_editor() -> None:
    """How a script is run for one image or for many."""
    d = Drawing(760, 300)
    d.text(16, 24, "Diagram, not a screenshot: the script editor", bold=True)
    d.box(16, 38, 728, 246)
    d.text(28, 59, "File   Edit   View   Language   Insert")
    d.menu(252, 42, 60, ["Run"], "Run")
    d.menu(252, 78, 190, ["Run", "...", "Run for project"], "Run for project")
    d.text(28, 100, "import static", mono=True)
    d.text(28, 120, "qupath.lib...", mono=True)
    d.box(28, 190, 700, 82, "#fafafa")
    d.text(38, 210, "What the script says appears here:")
    d.text(38, 234, "INFO: S12.svs: 812 added, 790 of earlier runs removed, 3 locked and kept", mono=True)
    d.text(38, 256, "INFO: S13.svs: no S13.geojson in .../predictions; nothing changed", mono=True)
    d.step(240, 56, 1)
    d.step(240, 97, 2)
    d.step(240, 149, 3)
    d.text(456, 100, "2: the open image only. Then File > Save.")
    d.text(456, 152, "3: choose images; each one is saved.")
    d.write("script-editor.svg")


if __name__ == "__main__":
    project_scripts()
    script_editor()
