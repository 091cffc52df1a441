"""A cluster of Ray: one that is there, or one of our own that nobody outside of this machine can reach.

Whoever can talk to a cluster of Ray can run programs on it. One of our own listens on 127.0.0.1 alone, wants a password
that only its processes know, and has neither the dashboard nor the statistics that Ray sends home.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.errors import ClusterError
from dmmn_qp.text import shorten

LOOPBACK: Final = "127.0.0.1"

_OBJECTS: Final = 100 * 2**20
"""Bytes of memory for what is sent: tasks and results are small."""

_ANSWERS_S: Final = 10.0

_LONGEST_FOLDER: Final = 40
"""Characters of a folder in which Ray may have its sockets, whose paths may have 107."""

_QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster.

    Attributes:
        node_id: Its name for Ray.
        host: Its name for people.
        cpus: Its CPU cores.
        gpus: Its GPUs.
        memory: Bytes for workers.
    """

    node_id: str
    host: str
    cpus: float
    gpus: float
    memory: float


def is_installed() -> bool:
    """Whether Ray is there."""
    return find_spec("ray") is not None


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connects with a cluster for a while; where this process is connected with one, with that, which stays so.

    Args:
        address: ``auto`` or host:port of a cluster that is there; None for one of our own.

    Yields:
        The module ``ray``.

    Raises:
        ClusterError: There is none, it cannot be reached, or none can be begun.
        ImportError: Ray is not installed.
    """
    with _environment(_QUIET if address is not None else _QUIET | _own()):
        import ray

        if ray.is_initialized():
            yield ray
            return
        with _sockets() if address is None else nullcontext("") as folder:
            try:
                _connect(ray, address, folder)
                yield ray
            finally:
                ray.shutdown()


def nodes() -> list[Node]:
    """The machines of the cluster that are alive."""
    import ray

    found = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            has = node["Resources"]
            sizes = (float(has.get(name, 0)) for name in ("CPU", "GPU", "memory"))
            found.append(Node(node["NodeID"], shorten(str(node["NodeManagerHostname"]), 80), *sizes))
    return found


def _connect(ray: Any, address: str | None, folder: str) -> None:
    """Connects with a cluster, or begins one.

    Raises:
        ClusterError: That is not possible.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if hasattr(ray._private.worker, "print_to_stdstream"):  # what it says of lost workers is said here, in one line
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        if address is not None:
            _check_answers(ray, address)
            ray.init(address=address, **quiet)
            return
        ray.init(
            address="local",
            num_cpus=available_cores(),
            include_dashboard=False,
            object_store_memory=_OBJECTS,
            _node_ip_address=LOOPBACK,
            _temp_dir=folder,
            **quiet,
        )
    except Exception as error:  # of many kinds, as Ray has no root of them
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 300)
        if address is None:
            raise ClusterError(f"Ray cannot begin on this machine ({reason}); leave out --engine ray") from error
        raise ClusterError(f'Ray cluster "{address}" cannot be used ({reason}); {_way_out(address)}') from error
    place = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(place).is_loopback:
        raise ClusterError(
            f"Ray would listen on {place}, where others can reach it, because it was loaded before; begin a new process"
        )


def _check_answers(ray: Any, address: str) -> None:
    """Checks that somebody listens at an address: Ray itself would try for many minutes.

    Raises:
        OSError: Nobody does.
        Exception: Ray finds no cluster on this machine.
    """
    find = getattr(ray._private.services, "canonicalize_bootstrap_address", None)
    place = find(address) if address == "auto" and find is not None else address
    if place is None:
        raise ConnectionError("none runs on this machine")
    host, _, port = str(place).rpartition(":")
    with suppress(ValueError), socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_S):
        pass


def _way_out(address: str) -> str:
    if address == "auto":
        return 'begin one on this machine ("ray start"), or leave out --address for one of its own'
    return 'check with "ray status" on that machine that it runs, and that Ray and Python are the same there'


@cache
def _own() -> dict[str, str]:
    """What the environment says to a cluster of our own: to stay on this machine, and a password."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # whose name is of where Ray does so anyway
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment for a while; it is where Ray is told what it has no argument for."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _sockets() -> tempfile.TemporaryDirectory[str]:
    """A folder for Ray's sockets; elsewhere than usual if that is too long for them."""
    place = "/tmp" if len(tempfile.gettempdir()) > _LONGEST_FOLDER and Path("/tmp").is_dir() else None
    return tempfile.TemporaryDirectory(prefix="dmmn-qp-ray-", dir=place, ignore_cleanup_errors=True)
