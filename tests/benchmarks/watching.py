"""Waits by a watch: a benchmark's own looks are no load on what it measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness import diagnose
from tests.harness.cluster import Cluster
from tests.harness.kube import Object
from tests.harness.local import HarnessError


def wait_watching(cluster: Cluster, what: str, holds: Callable[[Object], Any], *, seconds: float) -> float:
    """Waits until `holds(status)`; the wall-clock time at which it was seen.

    Raises:
        HarnessError: not in time.
    """
    with cluster.kube.watch("mariadbclusters", cluster.namespace, cluster.name, seconds=seconds) as changes:
        for at, found in changes:
            if holds(found.get("status") or {}):
                return at
    report = diagnose.report(cluster.kube, cluster.namespace, cluster.name)
    raise HarnessError(f"{cluster.name}: {what}: not within {seconds:.0f} s\n{report}")
