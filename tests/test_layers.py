"""The house, as data. A package imports only from lower floors; a new one must be listed here."""

import ast
from functools import cache
from pathlib import Path

import pytest

import dmmn_qp

PACKAGE = Path(dmmn_qp.__file__).parent

FLOORS: list[set[str]] = [
    {"annotations", "choices", "console", "errors", "flags", "machine", "regions", "text", "version"},
    {"engines", "figures", "files", "specs"},
    {"labels", "networks", "slides", "vectors"},
    {"features"},
    {"folders", "qupath"},
    {"models", "outputs", "pushing", "reports"},
    {"collecting", "evaluating", "importing", "predicting", "suggesting", "training"},
    {"workflows"},
    {"doctor", "serving"},
    {"cli"},
    {"__main__", "api"},
    {""},
]
"""From the ground up: files of the package, and packages in it; "" is the package's own file."""

GROUND = {"console": {"errors", "text"}, "errors": {"text"}, "regions": {"errors"}}
"""What on the ground floor may import what else there."""

OPEN_FILES = {"features", "files", "machine", "slides", "folders", "qupath", "outputs", "reports", "models", "pushing"}
OPEN_FILES |= FLOORS[6] | FLOORS[7] | FLOORS[8] | FLOORS[9]
"""Who may open files."""


@cache
def modules() -> dict[str, list[Path]]:
    """Module or subpackage -> its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.setdefault("" if parts == ("__init__",) else parts[0], []).append(path)
    return found


@cache
def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, functions included."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            for alias in node.names:
                handed_out = node.module == "dmmn_qp" and alias.name in dmmn_qp.__all__
                assert not handed_out, f"{path}: import {alias.name} from where it is"
    names = {name.split(".")[1] for name in imported if name.startswith("dmmn_qp.") and name.count(".")}
    return {name for name in names if name in modules()} | ({""} if "dmmn_qp" in imported else set())


def floor_of(module: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if module in floor)


def test_every_room_has_a_floor():
    assert set(modules()) == set().union(*FLOORS)


@pytest.mark.parametrize("module", sorted(modules().keys() - {""}))  # it hands out names of every floor: test_api
def test_imports_go_down(module):
    for path in modules()[module]:
        for imported in imports_of(path) - {module}:
            here, there = floor_of(module), floor_of(imported)
            on_the_ground = here == there == 0 and imported in GROUND.get(module, set())
            assert there < here or on_the_ground, f"{path}: floor {here} imports {imported} of floor {there}"


def files_of(package):
    """Dotted name -> the files of the same package that it imports as it is loaded, by dotted name."""
    names = {path: ".".join(("dmmn_qp", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in package}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    graph = {}
    for path, name in names.items():
        found = set()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = found & set(names.values()) - {name}
    return graph


@pytest.mark.parametrize("module", sorted(name for name, files in modules().items() if len(files) > 1))
def test_no_circle_inside_a_package(module):
    graph = files_of(modules()[module])
    face = f"dmmn_qp.{module}"  # which gathers what is below it
    graph = {name: needs - {face} for name, needs in graph.items() if name != face}
    done: set[str] = set()
    while graph.keys() - done:
        free = {name for name, needs in graph.items() if needs <= done} - done
        assert free, f"circle among {sorted(graph.keys() - done)}"
        done |= free


@pytest.mark.parametrize("module", sorted(set().union(*FLOORS) - OPEN_FILES))
def test_others_open_no_file(module):
    opening = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "imread", "memmap", "mkdir", "unlink"}
    for path in modules()[module]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called not in opening, f"{path}:{node.lineno} opens a file"


CHANGE_NAMES: dict[str, str] = {
    "files/renaming.py": "which has the patience",
    "files/locks.py": "a lock's file, while it is open, where the system lets it go (not on Windows)",
}
"""Who may rename and remove on its own, and why."""


def changes_a_name(call: ast.Call) -> bool:
    """Whether a call renames or removes a file or folder: of text and of values, `replace` has other arguments."""
    if not isinstance(call.func, ast.Attribute):
        return False
    called, module = call.func.attr, getattr(call.func.value, "id", "")
    if called == "replace":
        return module == "os" or (len(call.args) == 1 and not call.keywords)
    return called in {"unlink", "rename", "renames", "rmdir", "rmtree", "removedirs"} or (
        (module, called) in {("os", "remove"), ("shutil", "move")}
    )


def test_one_file_renames_and_removes():
    """What another program has open for a moment is waited for (Windows): by `dmmn_qp.files.renaming`."""
    found = {
        path.relative_to(PACKAGE).as_posix(): node.lineno
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and changes_a_name(node)
    }
    assert found.keys() == CHANGE_NAMES.keys(), f"call dmmn_qp.files.renaming instead: {found}"
