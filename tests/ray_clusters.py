"""Several machines of Ray on this one; none of them is heard beyond it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]

OBJECTS = 78_643_200
"""Bytes: the least that Ray takes."""

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(os.path.isabs, sys.path)]),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """A cluster whose head does no work, and two machines of one CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_timeout_ms": 1000}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": OBJECTS, "_system_config": quick},
        )
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def ray_here(ray_cluster: Any) -> Iterator[Any]:
    """This process as one that uses the cluster."""
    import ray

    ray.init(address=ray_cluster.address, log_to_driver=False, logging_level="CRITICAL")
    yield ray
    ray.shutdown()
