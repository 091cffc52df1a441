"""The layers of the package, as data. A module imports only from lower layers; a new module must be listed here."""

import ast
from pathlib import Path

import pytest

import dmmn_qp

PACKAGE = Path(dmmn_qp.__file__).parent

LAYERS: list[set[str]] = [
    {"", "annotations", "choices", "errors", "regions", "specs"},
    {
        "augment",
        "architectures",
        "class_rules",
        "losses",
        "metrics",
        "outlines",
        "provenance",
        "reporting",
        "splits",
        "tissue",
    },
    {"rasterize", "polygonize", "simplify", "cleaning", "patches", "balance"},
    {
        "slides",
        "qupath",
        "dataset",
        "earlier",
        "checkpoint",
        "config",
        "official",
        "ome_tiff",
        "outputs",
        "predictions",
        "strips",
        "training_state",
    },
    {
        "areas",
        "devices",
        "fine_tuning",
        "inference",
        "model_summary",
        "predict_inputs",
        "slide_prediction",
        "prediction_folder",
        "push_plan",
        "prediction_request",
        "publishing",
        "reports",
        "reviewed",
        "scripts",
        "sources",
        "torch_dataset",
        "training_log",
        "training_plan",
        "vectors",
        "writers",
    },
    {"importing", "training", "training_preview", "prediction", "evaluation", "export", "pushing"},
    {"cli"},
    {"__main__"},
]

OPENS_FILES_FROM_LAYER = 3

INSIDE_LAYER_0 = {
    "regions": {"errors"},
    "specs": {"errors", "regions"},
    "choices": set(),
    "annotations": set(),
    "errors": set(),
    "": set(),
}


def modules() -> dict[str, list[Path]]:
    """Module or subpackage -> its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.setdefault("" if parts == ("__init__",) else parts[0], []).append(path)
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, functions included."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name"
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.split(".")[1] for name in imported if name.startswith("dmmn_qp.") and name.count(".")}
    return {name for name in names if name in modules()} | ({""} if "dmmn_qp" in imported else set())


def layer_of(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


def test_every_module_has_a_layer():
    assert set(modules()) == set().union(*LAYERS)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module):
    for path in modules()[module]:
        for imported in imports_of(path) - {module}:
            here, there = layer_of(module), layer_of(imported)
            same_kind = here == there and here in (2, 3, 4)  # neighbours of one kind may use each other ...
            inside_0 = here == there == 0 and imported in INSIDE_LAYER_0[module] | {""}
            assert there < here or same_kind or inside_0, f"{path}: layer {here} imports {imported} of {there}"


def test_no_import_cycle():
    graph = {name: {i for path in paths for i in imports_of(path)} - {name} for name, paths in modules().items()}
    done: set[str] = set()
    while graph.keys() - done:
        free = {name for name, needs in graph.items() if needs <= done} - done
        assert free, f"cycle among {sorted(graph.keys() - done)}"
        done |= free


@pytest.mark.parametrize("module", sorted(name for layer in LAYERS[:OPENS_FILES_FROM_LAYER] for name in layer))
def test_low_layers_open_no_file(module):
    opening = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "imread", "memmap", "mkdir", "unlink"}
    for path in modules()[module]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called not in opening, f"{path}:{node.lineno} opens a file"
