"""Options that say on which machines slides are predicted; none changes what is asked for, so none is recorded."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import Field

from dmmn_qp.errors import ConfigError
from dmmn_qp.flags import Flag
from dmmn_qp.specs import FileModel
from dmmn_qp.text import shorten

CLUSTER_PANEL: Final = "On many machines"

_ALL: Final = ("engine", "address", "ray_workers", "ray_cpus", "ray_memory_gb")

_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9.-]{0,250}):([0-9]{1,5})")


class ClusterOptions(FileModel):
    """Where slides are predicted.

    Attributes:
        engine: ``local`` in this process, one slide after the other; ``ray`` many at once, by workers of Ray.
        address: The cluster of Ray; None for one of our own on this machine.
        ray_workers: How many slides are predicted at once; None for as many as fit.
        ray_cpus: CPU cores of each worker; None fits them to the machines.
        ray_memory_gb: Memory that is reckoned for each worker.
    """

    engine: Annotated[
        Literal["local", "ray"],
        Flag("local: here, one slide after the other; ray: many at once, on GPUs or machines.", panel=CLUSTER_PANEL),
    ] = Field(default="local", exclude=True)
    address: Annotated[
        str | None,
        Flag(
            "Ray cluster: auto, or host:port, on a network that you trust.",
            metavar="HOST:PORT",
            panel=CLUSTER_PANEL,
            default="one of its own on this machine",
        ),
    ] = Field(default=None, exclude=True)
    ray_workers: Annotated[
        int | None, Flag("Slides at once.", metavar="N", panel=CLUSTER_PANEL, default="as many as fit")
    ] = Field(default=None, ge=1, exclude=True)
    ray_cpus: Annotated[
        int | None,
        Flag(
            "CPU cores of each Ray worker.",
            metavar="N",
            panel=CLUSTER_PANEL,
            default="its share beside a GPU, at most 16; else 4",
        ),
    ] = Field(default=None, ge=1, exclude=True)
    ray_memory_gb: Annotated[
        float, Flag("Memory to reckon with for each Ray worker.", metavar="GB", panel=CLUSTER_PANEL)
    ] = Field(default=4.0, ge=0, allow_inf_nan=False, exclude=True)

    def on_this_machine(self) -> Self:
        """The same options without Ray."""
        return self.model_copy(update={name: ClusterOptions.model_fields[name].default for name in _ALL})

    def check_cluster(self, *, has_shard: bool) -> None:
        """Checks that the options go together.

        Args:
            has_shard: Whether only a part of the slides is to be predicted.

        Raises:
            ConfigError: They do not.
        """
        if self.engine != "ray":
            for name in _ALL:
                if name != "engine" and getattr(self, name) != ClusterOptions.model_fields[name].default:
                    option = f"--{name.replace('_', '-')}"
                    raise ConfigError(f"{option} is of Ray alone; pass --engine ray as well, or leave it out")
            return
        if has_shard:
            raise ConfigError(
                "--shard is for machines that know nothing of each other, and --engine ray shares out the slides "
                "itself; leave out one of them"
            )
        if self.address not in (None, "auto"):
            found = _ADDRESS.fullmatch(str(self.address))
            if found is None or not 0 < int(found[2]) < 65536:
                raise ConfigError(
                    f'--address "{shorten(str(self.address), 80)}" is no address of a Ray cluster; pass auto on one of '
                    "its machines, or host:port, such as 10.0.0.5:6379"
                )
