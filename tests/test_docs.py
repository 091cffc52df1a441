"""What the documents say is true: commands, options, links, files and configurations exist."""

import re
import tomllib
from functools import cache

import pytest
import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import import_options, load_config, predict_options, train_options
from dmmn_qp.networks import ARCHITECTURES
from tests.conftest import REPOSITORY


def files_of_ours(pattern):
    """Files of the repository but in hidden folders, where environments may lie."""
    folders = [path for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [*REPOSITORY.glob(pattern), *(path for folder in folders for path in folder.rglob(pattern))]
    return [path for path in found if not any(p.startswith(".") for p in path.relative_to(REPOSITORY).parts)]


DOCUMENTS = sorted(path for path in files_of_ours("*.md") if "tests/data" not in path.as_posix())
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.toml"))

DESIGN_BYTES = 12 * 1024
"""What a newcomer reads at one sitting; how each part works belongs in docs/."""

FOREIGN_OPTIONS = {"--no-crop", "--series", "--save", "--args", "--image", "--shm-size"}
"""Of QuPath, Bio-Formats and Docker."""


def text_of(path) -> str:
    """A document in which no code of a sentence is broken across lines."""
    parts = re.split(r"(^```.*?^```$)", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"`[^`]*`", lambda code: " ".join(code[0].split()), part) for part in parts[::2]]
    return "".join(parts)


def anchors_of(path) -> set[str]:
    """What a link to a heading of a document ends in, as GitHub makes it of the heading's words."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose, re.MULTILINE):
        slug = re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).strip().replace(" ", "-")
        anchors.add(next(s for s in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if s not in anchors))
    return anchors


@cache
def commands() -> dict[str, set[str]]:
    """Command -> its options."""

    def of(group, before: str) -> dict[str, set[str]]:
        found = {}
        for name, command in group.commands.items():
            found[before + name] = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
            found |= of(command, f"{before}{name} ") if hasattr(command, "commands") else {}
        return found

    return of(typer.main.get_command(app), "")


def shown_commands() -> list[tuple[str, list[str]]]:
    """(document, words) of every dmmn-qp command in the documents and in the demo."""
    shown = []
    for path in [*DOCUMENTS, REPOSITORY / "make.py"]:
        for match in re.finditer(r"dmmn-qp ([a-z][^\n`#;|]*)", text_of(path)):
            text = re.split(r"  +|->", match[1])[0]
            words = text.split()
            if " ".join(words[:2]) in commands():
                words[:2] = [" ".join(words[:2])]
            if words[0] in commands() or (match.start() and match.string[match.start() - 1] == "`"):
                shown.append((path.name, words))
    return shown


def test_documents_were_found():
    assert {"README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {p.name for p in DOCUMENTS}
    assert len(shown_commands()) > 10


@pytest.mark.parametrize(("document", "words"), shown_commands())
def test_commands_and_options_exist(document, words):
    assert words[0] in commands(), f"{document}: dmmn-qp {words[0]}"
    for word in words[1:]:
        if word.startswith("--"):
            option = re.split(r"[=,.)]", word)[0]
            assert option in commands()[words[0]], f"{document}: dmmn-qp {' '.join(words)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        assert (document.parent / path).exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in anchors_of(document.parent / path if path else document), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_row_belongs_to_a_table(document):
    for block in re.split(r"\n\s*\n", re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)):
        rows = [line.strip() for line in block.splitlines() if line.lstrip().startswith("|")]
        assert not rows or (len(rows) > 2 and re.fullmatch(r"[|: -]+", rows[1])), f"{document.name}: {rows[0]}"


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# What `--context` changes\n## The [card](x.md), 2.3\n```\n# no heading\n```\n## Twice\n## Twice\n"
    )
    assert anchors_of(page) == {"what---context-changes", "the-card-23", "twice", "twice-1"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_options_named_alone_exist(document):
    known = set().union(*commands().values()) | FOREIGN_OPTIONS
    for option in re.findall(r"`(--[a-z][\w-]*)", text_of(document)):
        assert option in known, f"{document.name}: {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_other_programs_of_ours_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = text_of(document)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"{document.name}: make {target}"
    for program, options in re.findall(r"python (?:-m )?((?:benchmarks|examples)[./][\w./]+)([^`\n#]*)", text):
        path = REPOSITORY / f"{program.removesuffix('.py').replace('.', '/')}.py"
        assert path.is_file(), f"{document.name}: {program}"
        for option in re.findall(r"--[a-z][\w-]*", options):
            assert f'"{option}"' in path.read_text("utf-8"), f"{document.name}: {program} {option}"


FOREIGN_NAMES = {"AWS_PROFILE", "AWS_ENDPOINT_URL", "AZURE_STORAGE_ACCOUNT_NAME", "coverage_simplify", "cd", "activate"}
"""Of fsspec's file systems, shapely and shells."""


@cache
def words_and_files():
    sources = [*(REPOSITORY / "dmmn_qp").rglob("*.py"), *EXAMPLES, REPOSITORY / "pyproject.toml"]
    words = {word for path in sources for word in re.findall(r"\w+", path.read_text("utf-8"))} | FOREIGN_NAMES
    return words, [f"/{path.relative_to(REPOSITORY).as_posix()}" for path in files_of_ours("*.py")]


@pytest.mark.parametrize(
    "document", [REPOSITORY / "DESIGN.md", *(REPOSITORY / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_files_and_names_in_the_code_exist(document):
    words, files = words_and_files()
    for code in re.findall(r"`([^`\n]+)`", text_of(document)):
        if re.fullmatch(r"[\w/]+\.py", code):
            assert any(name.endswith(f"/{code}") for name in files), f"{document.name}: {code}"
        elif re.fullmatch(r"[A-Za-z_][\w.]*", code) and not code.endswith(".md"):
            assert set(code.split(".")) <= words, f"{document.name}: {code}"


def test_index_lists_every_page():
    index = text_of(REPOSITORY / "docs" / "README.md")
    for page in (REPOSITORY / "docs").rglob("*.md"):
        name = page.relative_to(REPOSITORY / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, name
    assert "](docs/README.md)" in text_of(REPOSITORY / "README.md")


def test_design_is_short():
    assert (REPOSITORY / "DESIGN.md").stat().st_size <= DESIGN_BYTES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_configurations_load(path):
    config = load_config(path)
    import_options(config, {})
    predict_options(config, {})
    assert train_options(config, {}).architecture in ARCHITECTURES


def test_design_lists_every_module():
    from tests.test_layers import FLOORS

    table = (REPOSITORY / "DESIGN.md").read_text("utf-8")
    for module in set().union(*FLOORS) - {""}:
        assert f"`{module}`" in table or f"`{module}/`" in table, module


def test_constraints_pin_every_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    needed += project["optional-dependencies"]["export"]
    pinned = {line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    for requirement in needed:
        name = re.split(r"[\[<>=]", requirement)[0].lower()
        assert name in pinned | {"dmmn-qp"} or name.replace("-", "_") in pinned, requirement


def test_makefile_runs_the_readmes_commands():
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in readme.split("## ")[0]
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    ci = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    assert ci.index("make test-all") < ci.index("make demo")
    assert re.search(r"^test-all:.* test$", makefile, re.MULTILINE)


def test_help_texts_have_no_words_that_the_terminal_takes_for_markup():
    """``[train]`` in a help text would be shown as nothing."""

    def helps(command):
        yield from (p.help for p in command.params if getattr(p, "help", None))
        for inner in getattr(command, "commands", {}).values():
            yield inner.help or ""
            yield from helps(inner)

    texts = list(helps(typer.main.get_command(app)))
    assert len(texts) > 50
    assert not [text for text in texts if re.search(r"\[[a-z#/@][^\[]*\]", text)]


def test_contributing_names_the_files_that_read_torchs_format():
    reading = {}
    for path in sorted((REPOSITORY / "dmmn_qp").rglob("*.py")):
        for call in re.findall(r"torch\.load\(([^)]*)\)", path.read_text("utf-8")):
            assert "weights_only=True" in call, path
            reading[str(path.relative_to(REPOSITORY / "dmmn_qp"))] = path
    said = text_of(REPOSITORY / "CONTRIBUTING.md").split("`torch.load` is in")[1].split("\n-")[0]
    assert set(re.findall(r"`([\w/]+\.py)`", said)) == set(reading)
