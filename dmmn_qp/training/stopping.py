"""Stopping between two steps."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric

from dmmn_qp.networks.devices import mean_of_processes


def agreed(requested: bool, fabric: Fabric) -> bool:
    """Whether any of the processes was asked to stop; all stop after the same step."""
    if fabric.world_size == 1:
        return requested
    return bool(mean_of_processes(torch.tensor(float(requested), device=fabric.device), fabric) > 0)


class StopRequest:
    """Turns Ctrl-C and SIGTERM (a cluster's farewell) into a wish that is granted between two steps.

    A second Ctrl-C stops at once; what was saved last then counts.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            with suppress(ValueError):
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
