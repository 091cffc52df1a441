"""`dmmn-qp doctor`: whether everything is there that the commands need, and what to do about what is not.

`CHECKS` holds what is looked at. To add a check, write a function that yields findings, and give it a line there.
Nothing heavy is imported at the top of a file here: what is missing is what is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmmn_qp.doctor.devices import check_computing, check_devices
from dmmn_qp.doctor.disk_use import check_disk_use
from dmmn_qp.doctor.findings import Check, Finding, isolated
from dmmn_qp.doctor.places import check_places
from dmmn_qp.doctor.qupath import check_qupath
from dmmn_qp.doctor.readers import check_readers
from dmmn_qp.doctor.self_test import check_whole_chain
from dmmn_qp.doctor.software import check_extras, check_libraries, check_network, check_versions
from dmmn_qp.doctor.system import check_memory, check_open_files, check_shared_memory

__all__ = ["CHECKS", "Finding", "examine"]

CHECKS: Final[dict[str, Check]] = {
    "versions": check_versions,
    "libraries": check_libraries,
    "extras": check_extras,
    "slide readers": check_readers,
    "device": check_devices,
    "threads": check_computing,
    "memory": check_memory,
    "shared memory": check_shared_memory,
    "open files": check_open_files,
    "QuPath": check_qupath,
    "folders": check_places,
    "network": check_network,
    "disk use": check_disk_use,
}
"""What is looked at -> the check."""

SELF_TEST: Final = "self-test"


def examine(*, self_test: bool) -> Iterator[Finding]:
    """Looks at everything; no check keeps the others from being made.

    Args:
        self_test: Whether a slide that is made for it is imported, trained on and predicted besides.
    """
    checks = {**CHECKS, SELF_TEST: check_whole_chain} if self_test else CHECKS
    for name, check in checks.items():
        yield from isolated(name, check)
