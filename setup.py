"""Only what pyproject.toml cannot say: the scripts for QuPath, which lie beside the package, go into its wheel; and the
README becomes a page whose links work away from the repository.
"""

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SCRIPTS = Path("qupath_scripts")


class BuildWithScripts(build_py):
    """Copies the scripts as ``dmmn_qp/qupath_scripts``; an editable install takes them from the checkout."""

    def run(self) -> None:
        """Runs the usual build, then copies."""
        super().run()
        if not self.editable_mode:
            for source, target in self._scripts().items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files of the build."""
        return [*super().get_outputs(include_bytecode), *map(str, self._scripts().values())]

    def _scripts(self) -> dict[Path, Path]:
        folder = Path(self.build_lib) / "dmmn_qp" / SCRIPTS.name
        return {file: folder / file.name for file in sorted(SCRIPTS.glob("*.groovy"))}


def package_page(readme: str, repository: str | None) -> str:
    """The README as the page of the package: links and pictures lead into the repository.

    Args:
        readme: The README, whose links are relative to it.
        repository: The repository's address; without one, links become their words, and pictures go.
    """

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        if repository is None:
            return "" if picture else words
        return f"{picture}[{words}]({repository.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target})"

    return re.sub(r"(!?)\[([^]]*)\]\(([^)\s]+)\)", link, readme)


if __name__ == "__main__":
    urls = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    setup(
        cmdclass={"build_py": BuildWithScripts},
        long_description=package_page(Path("README.md").read_text("utf-8"), urls.get("Repository")),
        long_description_content_type="text/markdown",
    )
