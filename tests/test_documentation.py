"""What the pages for users say is true: every command parses, every quoted message exists, and all of it builds."""

import ast
import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import typer

from dmmn_qp.cli import app, config
from dmmn_qp.cli.config import SECTIONS, ConfigFile
from tests.browser import Browser, needs_chromium
from tests.conftest import DEMO, REPOSITORY, invoke
from tests.projects import DARK_AND_LIGHT, make_project, make_slide
from tests.quoted_output import check_quoted, demo_commands
from tests.test_docs import DOCUMENTS, text_of

DOCS = REPOSITORY / "docs"
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
WHOLE_COMMANDS = ("how-to.md", "getting-started.md")
"""Pages in which a command within a sentence is one to be typed, not only its beginning."""

MOST_WISHES_ON_A_PAGE = 46


def typed_commands() -> list[tuple[str, str]]:
    """(document, line) of every command to be typed, without a variable: in code blocks, in the text of some pages."""
    found = []
    for path in DOCUMENTS:
        text = text_of(path)
        for language, block in re.findall(r"^```(console|bash|powershell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                (path.name, line) for line in lines if language and line.startswith("dmmn-qp ") and "$" not in line
            ]
        if path.name in WHOLE_COMMANDS:
            found += [(path.name, code) for code in re.findall(r"`(dmmn-qp [^`]+)`", text)]
    return sorted({(name, re.split(r"  +#| +&$", line)[0].strip()) for name, line in found})


def parse(line: str) -> None:
    """Parses a command as the program does, and its options as the stage does; runs nothing.

    Raises:
        ClickException: The command line is wrong.
        ConfigError: A value is.
    """
    _, *words = shlex.split(re.split(r"  +|->", line)[0] if "  " in line else line)
    command, name = typer.main.get_command(app), ""
    while hasattr(command, "commands"):
        name = words.pop(0)
        if name.startswith("--"):
            return
        command = command.commands[name]
    if "--help" in words:
        return
    given = command.make_context(name, words).params
    if name in SECTIONS:
        resolve = getattr(config, f"{name}_options")
        fields = resolve(ConfigFile(), {}).__class__.model_fields
        resolve(ConfigFile(), {key: value for key, value in given.items() if key in fields and value not in (None, [])})


def test_commands_of_all_pages_were_found():
    assert {"how-to.md", "getting-started.md", "import.md", "README.md", "cluster.md"} <= {
        d for d, _ in typed_commands()
    }


@pytest.mark.parametrize(("document", "line"), typed_commands())
def test_typed_commands_parse(document, line):
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "dmmn-qp imprt project.qpproj",
        "dmmn-qp import",
        "dmmn-qp import project.qpproj --chek",
        "dmmn-qp import project.qpproj --mpps fine",
        "dmmn-qp train --views 2",
        "dmmn-qp predict --simplify-um",
        "dmmn-qp evaluate --boundary-um -1",
        "dmmn-qp models export",
    ],
)
def test_wrong_commands_do_not_parse(line):
    with pytest.raises(Exception, match=r".") as failed:
        parse(line)
    assert type(failed.value).__name__ != "AttributeError"


def rows_of(page: Path) -> list[list[str]]:
    """The cells of the rows of all tables of a page, headings left out."""
    tables = re.findall(r"^\|[-| ]+\|\n((?:\|.*\n)+)", page.read_text("utf-8"), re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for table in tables for row in table.splitlines()]


def test_every_wish_has_a_command_and_a_result_and_all_fit_on_two_pages():
    rows = rows_of(DOCS / "how-to.md")
    assert 60 < len(rows) < 2 * MOST_WISHES_ON_A_PAGE
    for row in rows:
        assert len(row) == 3 and all(row), row
        assert len(re.sub(r"\]\([^)]*\)", "", " ".join(row))) < 140, f"wraps on paper: {row}"


def test_every_command_has_a_wish():
    """But for what is not to be typed, or is of use to few."""
    typed = {tuple(line.split()[1:3]) for document, line in typed_commands() if document == "how-to.md"}
    words = {word for pair in typed for word in (pair[0], " ".join(pair))}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        assert name in words or name in {"serve", "architectures"}, name
        for second in inner or ():
            assert f"{name} {second}" in words or second in {"fetch-encoder", "set-encoder"}, second


@cache
def templates() -> frozenset[str]:
    """All texts of the program, with … where a value is put in."""
    found = set()
    for path in (REPOSITORY / "dmmn_qp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.add(re.sub("…+", "…", "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def quoted_messages() -> list[str]:
    """The messages of ours that the page lists: not those of other programs, and not what has no message."""
    sections = re.split(r"^## ", text_of(DOCS / "troubleshooting.md"), flags=re.MULTILINE)[1:]
    ours = [text for text in sections if not text.startswith(("Installing", "No message"))]
    return re.findall(r"\*\*`([^`]+)`\*\*", "".join(ours))


@pytest.mark.parametrize("message", quoted_messages())
def test_quoted_messages_are_those_of_the_program(message):
    assert any(message in template for template in templates()), "reworded? mend docs/troubleshooting.md"


def test_quoted_messages_are_many_and_each_is_told_once():
    quoted = quoted_messages()
    assert len(quoted) >= 60
    assert len(set(quoted)) == len(quoted)


def test_getting_started_types_what_make_demo_types():
    sources = "".join(path.read_text("utf-8") for path in sorted(REPOSITORY.glob("[Mm]ake*")) if path.is_file())
    model = re.search(r"^DEMO_MODEL :?= \"?([^\"\n]*)", sources, re.MULTILINE)[1]
    typed = re.findall(r"^(?:\t|    f?\")?(dmmn-qp [^\"\n]*)", sources, re.MULTILINE)
    made = [re.sub(r"\$\(DEMO_MODEL\)|\{DEMO_MODEL\}", model, line) for line in typed]
    demo = text_of(DOCS / "getting-started.md").split("## The demo")[1].split("## Your own project")[0]
    assert re.findall(r"^(dmmn-qp .*)$", demo, re.MULTILINE) == made


def test_pages_name_the_tested_torch():
    pinned = re.search(r"^torch==\S+$", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.MULTILINE)[0]
    named = {word for path in DOCUMENTS for word in re.findall(r"\btorch==[\w.]+", path.read_text("utf-8"))}
    assert named == {pinned}


@pytest.mark.engine
def test_getting_started_quotes_what_the_demo_prints(tmp_path, monkeypatch):
    shutil.copytree(DEMO, tmp_path / "examples" / "demo")
    monkeypatch.chdir(tmp_path)
    commands = demo_commands()
    assert [bool(quoted) for _, quoted in commands] == [True] * 4
    for command, quoted in commands:
        words = shlex.split(command)[1:]
        words += ["train-1", "test-1"] if words[0] == "predict" else []  # which is half of the work
        ran = invoke(*words)
        assert ran.exit_code == 0, ran.output
        check_quoted(quoted, ran.output)


@pytest.mark.parametrize(
    ("printed", "is_same"),
    [
        ("  round 1/3  loss 0.003  val mIoU 0.949 (best)  ETA 1 min 02 s", True),
        ("  round 1/3  loss 0.002  val mIoU 0.875 (best)  ETA 44 s", False),
        ("  round 1/3  loss 0.002  val IoU 0.955 (best)  ETA 44 s", False),
    ],
)
def test_what_is_quoted_may_differ_by_times_and_little_more(printed, is_same):
    with nullcontext() if is_same else pytest.raises(AssertionError, match="stale"):
        check_quoted(["  round 1/3  loss 0.002  val mIoU 0.955 (best)  ETA 25 s"], f"before\n{printed}\nafter")


@pytest.mark.engine
def test_getting_started_with_a_project_of_ones_own(tmp_path, monkeypatch):
    splits = ("train", "train", "val", "test")
    slides = [make_slide(tmp_path / "slides" / f"s{i}.tif", seed=i, side=512) for i in range(len(splits))]
    told = {slide.name: {"split": split} for slide, split in zip(slides, splits, strict=True)}
    make_project(tmp_path, dict.fromkeys(slides, DARK_AND_LIGHT), told)
    monkeypatch.chdir(tmp_path)
    own = text_of(DOCS / "getting-started.md").split("## Your own project")[1]
    lines = re.findall(r"^(dmmn-qp [^#\n]*)", own, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        ran = invoke(*shlex.split(line)[1:])
        assert ran.exit_code == 0, f"{line}\n{ran.output}"
    assert (tmp_path / "predictions" / "s3.geojson").is_file()


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Builds the pages by the command of `make docs`."""
    words = shlex.split(re.search(r"^docs: .*\n\t\$\(BIN\)/python (.*)$", MAKEFILE, re.MULTILINE)[1])
    words = [str(out) if word == "docs/_build" else word for word in words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *words], cwd=source, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built pages, which gave no warning."""
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site")
    built = build(REPOSITORY, out)
    assert built.returncode == 0 and not built.stderr, built.stderr
    return out


@pytest.mark.engine
def test_built_pages_have_all_options_and_need_nothing_but_themselves(site):
    pages = {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")}
    assert {f"docs/{path.stem}.html" for path in DOCS.glob("*.md")} <= set(pages)
    for name, html in pages.items():
        assert not re.findall(r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", html), name
    commands = pages["docs/reference/commands.html"]
    for name, command in typer.main.get_command(app).commands.items():
        for option in [o for param in command.params for o in param.opts if o.startswith("--")]:
            assert f'id="cmdoption-dmmn-qp-{name}-{option.strip("-")}"' in commands, (name, option)
    assert "dmmn_qp.train" in pages["docs/reference/python.html"]
    assert "train.preset" in pages["docs/reference/configuration.html"]


@pytest.mark.engine
@needs_chromium
def test_built_pages_fit_a_phone_and_the_wishes_two_sheets(site, tmp_path):
    with Browser(tmp_path / "profile", width=390) as browser:
        for page in sorted((site / "docs").rglob("*.html")):
            browser.events.clear()
            browser.open(page.as_uri())
            width = browser.evaluate("document.scrollingElement.scrollWidth")
            assert width <= 390, f"{page.name} is {width} px wide"
            urls = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
            assert all(url.startswith(("file:", "data:")) for url in urls), urls
        browser.open((site / "docs" / "how-to.html").as_uri())
        browser.call("Emulation.clearDeviceMetricsOverride")
        sheets = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", sheets)) <= 2


DEAD = ("[x](gone.md)", "[x](../gone/)", "[x](README.md#gone)", "[x](#gone)", "![x](gone.png)", "[x](../LICENCE)")


@pytest.mark.engine
def test_dead_links_fail_the_build(tmp_path):
    pytest.importorskip("sphinx")
    (tmp_path / "docs" / "_static").mkdir(parents=True)
    for name in ("conf.py", "reference_pages.py"):
        (tmp_path / "docs" / name).write_bytes((DOCS / name).read_bytes())
    (tmp_path / "docs" / "README.md").write_text("# Pages\n\n" + "\n\n".join(DEAD))
    built = build(tmp_path, tmp_path / "out")
    assert built.returncode != 0
    warned = set(map(int, re.findall(r"README\.md:(\d+): WARNING", built.stderr)))
    assert warned == {3 + 2 * number for number in range(len(DEAD))}, built.stderr
