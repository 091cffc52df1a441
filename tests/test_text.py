"""Names from files of others, on their way to terminals, pages, pictures and tables."""

import ast
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DmmnQpError, PartlyPredictedError
from dmmn_qp.files.tables import TableForm, read_table, write_table
from dmmn_qp.outputs.area_table import read_areas
from dmmn_qp.reports.batch_sheet import SheetCell, draw_batch_sheet
from dmmn_qp.reports.html import page_environment
from dmmn_qp.reports.training_report import draw_curves
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.text import printable, shorten, spreadsheet_cell, text_of_cell
from dmmn_qp.training.log import draw_confusion
from tests.conftest import invoke, two_tissues, write_features, write_tiff

PACKAGE = Path(__file__).parents[1] / "dmmn_qp"

ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no output may hold; line ends are told apart by whoever looks."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 3 µm, 腫瘍, نیم\u200cفاصله", "Größe 3 µm, 腫瘍, نیم\u200cفاصله"),  # a joiner that Persian needs
        ("a  b ", "a  b "),
        ("  indented", "  indented"),
        ("a\nb", "a b"),
        ("a \r\n\n  b\n", "a b"),
        ("a\u2028b\x85c", "a b c"),
        ("\x1b[2J\x9b2J\x07\t\0", "\\x1b[2J\\x9b2J\\x07\\t\\x00"),
        ("CC0\u202e0CC\u2066", "CC0\\u202e0CC\\u2066"),
        ("a\u200bb\ufeff\U000e0041", "a\\u200bb\\ufeff\\U000e0041"),
        ("\udcff.tif", "\\udcff.tif"),
        ("", ""),
        ("\n", ""),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("x" * 10, 10, "x" * 10),
        ("x" * 11, 10, "x" * 7 + "..."),
        ("\x1b" * 3, 10, "\\x1b\\x1..."),
        ("a" + "\n" * 50 + "b", 10, "a b"),
        ("x" * 10**8, 4, "x..."),
    ],
)
def test_what_is_too_long_loses_its_end(text, limit, shown):
    assert printable(text, limit) == shorten(text, limit) == shown


@given(st.text(), st.none() | st.integers(4, 30))
def test_nothing_printable_acts(text, limit):
    shown = printable(text, limit)
    assert not ACTING.search(shown) and "\n" not in shown
    assert limit is None or len(shown) <= limit
    shown.encode()
    assert printable(shown, limit) == shown


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("+1+1", "'+1+1"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\nx", "'\nx"),
        ("a;=1", "a;'=1"),
        ("a\n=1", "a\n'=1"),
        ("'=1", "''=1"),
        ("-1.5", "-1.5"),
        ("+3e-4", "+3e-4"),
        (".5", ".5"),
        ("Tumor", "Tumor"),
        ("a-b=c", "a-b=c"),
        ("'quoted'", "'quoted'"),
        ("", ""),
    ],
)
def test_spreadsheet_cells(text, cell):
    assert spreadsheet_cell(text) == cell
    assert text_of_cell(cell) == text


@given(st.text("a1; '\t\r\n=-@\uff1d"))
def test_cells_give_back_their_text(text):
    assert text_of_cell(spreadsheet_cell(text)) == text


def test_a_table_is_written_without_formulas_and_read_again(tmp_path):
    write_table(tmp_path / "t.csv", ["slide", "=n"], [["=a", -1], ["b\n=c", 0.5], ["-2", None]])
    content = (tmp_path / "t.csv").read_text()
    assert content == "slide,'=n\n'=a,-1\n\"b\n'=c\",0.5\n-2,\n"
    rows = read_table(tmp_path / "t.csv", TableForm(("slide",), ("slide",), DmmnQpError))
    assert [row.cells["slide"] for row in rows] == ["'=a", "b\n'=c", "-2"]


def test_nobody_else_writes_tables_or_prints():
    """Tables are written by one function; what is printed goes through the Reporter, or is JSON in ASCII."""
    calls = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                calls.setdefault(ast.unparse(node.func), set()).add(str(path.relative_to(PACKAGE).as_posix()))
    assert calls["csv.writer"] == {"files/tables.py"}
    assert not calls.keys() & {"csv.DictWriter", "print", "sys.stdout.write", "sys.stderr.write"}
    assert calls["typer.echo"] == {"cli/app.py", "cli/cleaning.py", "cli/doctor.py", "cli/loop.py", "cli/models.py"}
    assert calls["typer.secho"] == {"cli/app.py", "cli/help.py"}
    assert calls["Environment"] == {"reports/html.py"}
    assert not any(name.endswith("isprintable") for name in calls)


def test_errors_are_one_printable_line():
    for error in (DmmnQpError('class "a\x1b[2J\u202e"\n  of\nb '), PartlyPredictedError("a\x1b\nb", {})):
        assert not ACTING.search(str(error)) and "\n" not in str(error) and not ACTING.search(f"{error}")
    assert str(DmmnQpError("two  blanks")) == "two  blanks"


def test_the_note_beside_a_bar_cannot_act_either():
    """Rich would read marks in it, such as links, and let escape codes through."""
    console = Console(force_terminal=True, width=100, color_system=None)
    with console.capture() as captured, Reporter(console).task("[red]slides\x1b[2J", 2) as task:
        task.advance(note="[link=http://x]s\x1b[2J\u202e")
        task._bar.refresh()
    assert "\x1b[2J" not in captured.get() and "\u202e" not in captured.get()
    assert "[red]slides\\x1b[2J" in captured.get() and "[link=http://x]s\\x1b[2J\\u202e" in captured.get()


def test_pages_escape_markup_and_control_characters():
    page = page_environment().from_string(
        "{% macro m(x) %}<i>{{ x }}</i>{% endmacro %}<b title='{{ a }}'>{{ m(a) }}{{ n }}"
    )
    escaped = "&lt;i&gt;&#39;\\x1b[2J\\u202e x"
    assert page.render(a="<i>'\x1b[2J\u202e\nx", n=3) == f"<b title='{escaped}'><i>{escaped}</i>3"


MATH = ClassMap.from_colors([("a$\\frac$", (255, 0, 0)), ("b\x1b[2J\x00", (0, 255, 0))])


def test_pictures_take_any_name():
    """Matplotlib would read what is between two $ as a formula, and write control characters into SVG."""
    history = [{"epoch": 1, "loss": 1.0, "val_mean_iou": 0.5, **{f"val_iou {name}": 0.5 for name in MATH.names}}]
    svg = b"".join(draw_curves(history, MATH, 1)).decode()
    assert not re.search("[\x00-\x08\x0e-\x1f]", svg)
    assert draw_confusion(np.eye(2, dtype=np.int64), MATH.names).ndim == 3
    cell = SheetCell("as it is", torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(64, 64, dtype=torch.uint8))
    spec = PatchSpec(size_px=64, stride_px=64, mpps=(0.5,))
    assert draw_batch_sheet([[cell]], ["s$\\frac$\x1b"], MATH, spec).startswith(b"\x89PNG")


HOSTILE = "=cmd|'!A1'\x1b[2J\u202e"
FORMULA = "=cmd|'/c calc'!A1"
SMALL = """
[train]
preset = "scratch"
width = 2
stem = "quarter"
epochs = 1
steps_per_epoch = 2
batch_size = 2
jitter_px = 0
workers = 0
precision = "fp32"
"""


def area(x, y, width, height, name, **properties):
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    classification = {"name": name, "color": [200, 30, 30]}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": classification, **properties},
    }


def check(output):
    """That what a command printed holds nothing that acts, and no line that a name has forged."""
    assert not ACTING.search(output), ascii(output)
    assert not any(line.startswith("FORGED") for line in output.splitlines())


def test_hostile_names_from_import_to_evaluate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "slides").mkdir()
    names = {"s0": "train", "-s1": "val", HOSTILE + "\nFORGED": "test"}
    for i, name in enumerate(names):
        write_tiff(tmp_path / "slides" / f"{name}.tif", two_tissues(256, 256, seed=i))
        areas = [
            area(0, 0, 120, 256, f"{HOSTILE}\nFORGED"),
            area(128, 0, 128, 256, FORMULA),
            area(0, 0, 20, 20, f"{HOSTILE} star*"),
            area(5, 5, 40, 40, f"{HOSTILE} twice"),
        ]
        write_features(tmp_path / "geojson" / f"{name}.geojson", areas)
    with (tmp_path / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide", "split"), *names.items()])
    flags = ("--mpps", "0.5,1", "--drop", f"{HOSTILE} twice", "--split-file", "split.csv")
    result = invoke("import", "slides", "--annotations", "geojson", *flags)
    assert result.exit_code == 0, result.output
    check(result.output)
    check((tmp_path / "dataset" / "report.html").read_text("utf-8"))
    with (tmp_path / "dataset" / "patches.csv").open(newline="") as file:
        assert {row[0] for row in csv.reader(file)} >= {"s0", "'-s1"}

    result = invoke("train", "--config", "small.toml", "--out", "models/m")
    assert result.exit_code == 0, result.output
    check(result.output)
    check((tmp_path / "models" / "m" / "report.html").read_text("utf-8"))
    card = json.loads((tmp_path / "models" / "m" / "model.json").read_text())
    card |= {"name": f"{HOSTILE}\nFORGED", "licence": f"CC0\nFORGED{HOSTILE}", "attribution": f"x\nFORGED{HOSTILE}"}
    card["provenance"][f"k\nFORGED{HOSTILE}"] = f"v\nFORGED{HOSTILE}"
    (tmp_path / "models" / "m" / "model.json").write_text(json.dumps(card))
    result = invoke("models", "show", "models/m")
    assert result.exit_code == 0, result.output
    check(result.output)

    for _ in range(2):  # the second time rows are read again
        result = invoke("predict", "slides", "--model", "models/m", "--out", "p", "--overwrite")
        assert result.exit_code == 0, result.output
        check(result.output)
        check((tmp_path / "p" / "README.txt").read_text("utf-8"))
        with (tmp_path / "p" / "areas.csv").open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not any(re.search(r"(^|[;\n]) *[=+@-]", cell) for cell in cells)
        assert f"'{FORMULA}" in cells and len(cells) == 9 * (1 + 3 * 3)
        assert set(read_areas(tmp_path / "p" / "areas.csv")) == {"s0", "-s1", "_cmd___A1___2J__FORGED"}
    result = invoke("evaluate", "--predictions", "p")
    assert result.exit_code == 0, result.output
    check(result.output)

    monkeypatch.setattr("dmmn_qp.labels.class_rules.nearest_name", lambda *_: None)
    for command in (
        ("import", "slides", "--annotations", "geojson", "--drop", "none", "--out", "d2"),
        ("evaluate", "--predictions", "p", "--exclude", f"{HOSTILE}\nFORGED none"),
        ("predict", f"slides/{HOSTILE}", "--model", "models/m"),
    ):
        result = invoke(*command)
        assert result.exit_code == 1, result.output
        check(result.output)
        assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
