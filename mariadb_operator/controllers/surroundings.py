"""What every session of one leader shares."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mariadb_operator.act.objects import Environment
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.leases import Leadership
from mariadb_operator.kube.store import Store
from mariadb_operator.observe.snapshot import Caches, Endings
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The process around a cluster, for one period of leadership."""

    client: KubeClient
    clusters: Store
    caches: Caches
    endings: Endings
    environment: Environment
    leadership: Leadership
    clock: Clock
    rng: random.Random
    metrics: Metrics
    reporter: str  # the Pod that writes Events
