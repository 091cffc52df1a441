"""The processes that train together: one, those that a launcher started, or those that we start on several devices."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final, Self

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from dmmn_qp.errors import ConfigError, TrainingError
from dmmn_qp.training.options import TrainOptions

_TASKS_OF_SRUN: Final = "SLURM_STEP_NUM_TASKS"
"""Set by srun alone: an allocation of several tasks says nothing about how a program in it was started."""

_FIRST_PORT: Final = 15_000
"""Where processes of srun meet: from here on, by the number of the job, so that two jobs on a machine do not."""

_WAY_OUT: Final = "start it with torchrun or srun, or unset WORLD_SIZE to train in one process"


@dataclass(frozen=True, slots=True)
class Launched:
    """This process among those that a launcher such as torchrun or srun started.

    Attributes:
        world: Their number.
        rank: Number of this one, from 0.
        local_world: Their number on this machine.
        local_rank: Number of this one there, from 0.
        address: Machine of the first one.
        port: Where the first one listens.
    """

    world: int
    rank: int
    local_world: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """What the variables of torchrun say; None where nobody launched anything.

        Raises:
            ConfigError: They contradict each other or are incomplete.
        """
        world = _number(environment, "WORLD_SIZE", 1, least=1)
        if world == 1:
            for name in ("RANK", "LOCAL_RANK"):
                _number(environment, name, 0, below=(1, "WORLD_SIZE"))
            return None if "WORLD_SIZE" not in environment else cls(1, 0, 1, 0, "", 0)
        local_world = _number(environment, "LOCAL_WORLD_SIZE", world, least=1)
        if world % local_world:
            raise ConfigError(
                f"LOCAL_WORLD_SIZE is {local_world}, which does not divide WORLD_SIZE ({world}); {_WAY_OUT}"
            )
        if "RANK" not in environment and "LOCAL_RANK" not in environment:
            raise ConfigError(f"WORLD_SIZE is {world}, but RANK is not set, so no launcher is at work; {_WAY_OUT}")
        node = _number(environment, "NODE_RANK", _number(environment, "GROUP_RANK", 0))
        given = _number(environment, "RANK", 0, below=(world, "WORLD_SIZE"))
        local_rank = _number(environment, "LOCAL_RANK", given % local_world, below=(local_world, "LOCAL_WORLD_SIZE"))
        rank = given if "RANK" in environment else node * local_world + local_rank
        address = environment.get("MASTER_ADDR", "")
        if not address or "MASTER_PORT" not in environment:
            missing = "MASTER_PORT" if address else "MASTER_ADDR"
            raise ConfigError(f"{missing} is not set, so {world} processes cannot find each other; {_WAY_OUT}")
        port = _number(environment, "MASTER_PORT", 0, below=(2**16, "the ports of a machine"))
        return cls(world, rank, local_world, local_rank, address, port)


def launched() -> Launched | None:
    """This process among those that were launched; None where it was started alone, in an allocation of SLURM too.

    Raises:
        ConfigError: The variables of the launcher contradict each other or are incomplete.
    """
    _translate_srun(os.environ)
    return Launched.of(os.environ)


def is_first_process() -> bool:
    """Whether this process is the one that writes.

    Raises:
        ConfigError: As `launched`.
    """
    process = launched()
    return process is None or process.rank == 0


def processes_of(options: TrainOptions) -> int:
    """Number of processes that train together: those of a launcher, else as many as devices are asked for.

    Raises:
        ConfigError: Another number was launched than is asked for.
    """
    process = launched()
    if process is None:
        return options.devices
    if options.devices not in (1, process.world, process.local_world):
        raise ConfigError(
            f"--devices {options.devices} asks for another number of processes than were launched (WORLD_SIZE is "
            f"{process.world}); launch {options.devices}, or leave out --devices or the launcher"
        )
    return process.world


def processes_here(options: TrainOptions) -> int:
    """Number of them on this machine.

    Raises:
        ConfigError: As `processes_of`.
    """
    process = launched()
    return processes_of(options) if process is None else process.local_world


def make_fabric(options: TrainOptions, device: torch.device) -> Fabric:
    """Lightning Fabric for the device, the precision and the processes; it starts those that are missing.

    Raises:
        TrainingError: A batch cannot be divided evenly.
        ConfigError: There are not so many GPUs, or the launcher's variables are wrong.
    """
    world, local, process = processes_of(options), processes_here(options), launched()
    if options.batch_size % world:
        raise TrainingError(
            f"batches of {options.batch_size} cannot be divided among {world} processes; choose a --batch-size that "
            f"is a multiple of {world}"
        )
    if device.type == "mps" and world > 1:
        raise ConfigError(f"{world} processes need a GPU each, and a Mac has one; start one, or pass --device cpu")
    if device.type == "cuda" and local > torch.cuda.device_count():
        raise ConfigError(
            f"{local} processes need a GPU each, but {torch.cuda.device_count()} can be seen; start fewer, or let each "
            "process see all GPUs of the machine"
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce what our own lines say
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        plugins=LightningEnvironment() if process is None or process.world == 1 else _Environment(process),
    )
    if world > 1:
        fabric.launch()
    return fabric


class _Environment(ClusterEnvironment):
    """What was launched, for Fabric; it would else look for SLURM, where an allocation is no launch."""

    def __init__(self, process: Launched) -> None:
        super().__init__()
        self._process = process

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._process.address

    @property
    def main_port(self) -> int:
        return self._process.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._process.world

    def set_world_size(self, size: int) -> None:
        pass  # it is what it is

    def global_rank(self) -> int:
        return self._process.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._process.local_rank

    def node_rank(self) -> int:
        return self._process.rank // self._process.local_world


def _translate_srun(environment: MutableMapping[str, str]) -> None:
    """Says in torchrun's words what srun says, so that all else knows one language.

    Raises:
        ConfigError: A variable of srun is no number.
    """
    tasks = _number(environment, _TASKS_OF_SRUN, 1, least=1)
    if "WORLD_SIZE" in environment or tasks == 1:
        return
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", _number(environment, "SLURM_NNODES", 1, least=1), least=1)
    machines = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "127.0.0.1"))
    environment.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(machines))
    environment.setdefault("MASTER_PORT", str(_FIRST_PORT + _number(environment, "SLURM_JOB_ID", 0) % 1000))
    environment["RANK"] = str(_number(environment, "SLURM_PROCID", 0, below=(tasks, _TASKS_OF_SRUN)))
    environment["LOCAL_WORLD_SIZE"] = str(max(1, tasks // nodes))
    environment["LOCAL_RANK"] = str(_number(environment, "SLURM_LOCALID", 0))
    environment["WORLD_SIZE"] = str(tasks)


def _number(
    environment: Mapping[str, str], name: str, default: int, *, least: int = 0, below: tuple[int, str] | None = None
) -> int:
    """A variable as a number.

    Args:
        environment: The variables.
        name: Which.
        default: What it is where it is not set.
        least: The least that it may be.
        below: What it must be less than, and what says so.

    Raises:
        ConfigError: It is no number, or out of range.
    """
    text = environment.get(name, str(default))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if number < least:
        raise ConfigError(f'{name} is "{text}", but must be a whole number from {least} on; {_WAY_OUT}')
    if below is not None and number >= below[0]:
        raise ConfigError(f"{name} is {number}, but must be less than {below[0]} ({below[1]}); {_WAY_OUT}")
    return number
