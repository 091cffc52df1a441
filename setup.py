"""Only what pyproject.toml cannot say: the scripts for QuPath, which lie beside the package, go into its wheel."""

import shutil
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


setup(cmdclass={"build_py": BuildWithScripts})
