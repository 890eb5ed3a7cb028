"""How long nobody's write is acknowledged when the primary dies, hangs, loses power or its network.

Each run begins Healthy, with four writers of which one after the other has to reconnect; its data is compared row by
row. The outage is the longest gap between any two acknowledgements, as the writers' own clock saw it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.benchmarks.figures import Figures, runs
from tests.benchmarks.watching import wait_watching
from tests.harness.cluster import Cluster, timestamp
from tests.harness.fixtures import SharedCluster
from tests.harness.operators import Operators
from tests.harness.reseed import reseed_kept_out, wait_settled
from tests.harness.verify import verify
from tests.harness.writing import writing

pytestmark = pytest.mark.node_faults

SERVING = ("Replicating", "Healthy", "Degraded")
BEFORE = 500
AFTER = 500
# Where the death can't be proven the owner has to accept the risk; then maxWait is part of the outage.
PROMOTE = {"failover": {"maxWait": "1s", "onUncertainData": "Promote"}}


@contextmanager
def killed(cluster: Cluster, primary: str) -> Iterator[None]:
    cluster.signal_mariadbd(primary, "KILL")
    yield


@contextmanager
def frozen(cluster: Cluster, primary: str) -> Iterator[None]:
    cluster.signal_mariadbd(primary, "STOP")
    yield


@contextmanager
def powered_off(cluster: Cluster, primary: str) -> Iterator[None]:
    with cluster.node_fault("stop", cluster.node_of(primary)):
        yield


@contextmanager
def cut_off(cluster: Cluster, primary: str) -> Iterator[None]:
    with cluster.node_fault("cut", cluster.node_of(primary)):
        yield


MEASURED: list[tuple[str, Callable[..., Any], int, str, dict[str, Any]]] = [
    ("primary killed", killed, 20, "elsewhere", {}),
    ("primary killed, operator on its node", killed, 20, "there", {}),
    ("primary frozen", frozen, 5, "elsewhere", {}),
    ("primary frozen, operator on its node", frozen, 5, "there", {}),
    ("node powered off", powered_off, 5, "elsewhere", PROMOTE),
    ("node powered off, operator on it", powered_off, 5, "there", PROMOTE),
    ("node cut off", cut_off, 5, "elsewhere", PROMOTE),
    ("node cut off, operator on it", cut_off, 5, "there", PROMOTE),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "fault", "count", "leader", "policy"), MEASURED, ids=[each[0] for each in MEASURED]
)
def test_failover(
    shared: SharedCluster, operators: Operators, figures: Figures,
    name: str, fault: Callable[..., Any], count: int, leader: str, policy: dict[str, Any],
) -> None:  # fmt: skip
    for _ in range(runs(count)):
        cluster = shared.healthy()
        if policy:
            cluster.edit(highAvailability=policy)
        before = cluster.wait_healthy()
        node = cluster.node_of(before["primary"])
        (operators.lead_away_from if leader == "elsewhere" else operators.lead_on)(node)
        operators.wait_ready()
        with writing(cluster) as writers:
            writers.wait_acknowledged(BEFORE)
            at = time.time()
            with fault(cluster, before["primary"]):
                epoch = before["epoch"] + 1
                wait_watching(
                    cluster,
                    f"epoch {epoch} serving",
                    lambda status, epoch=epoch: (  # type: ignore[misc]
                        status.get("epoch") == epoch and status.get("state") in SERVING
                    ),
                    seconds=120,
                )
                writers.wait_acknowledged(AFTER, seconds=120)
                writers.stop()
        wait_settled(cluster, epoch=before["epoch"] + 1)
        verdict = verify(cluster, writers.result).require()
        figures.add(
            name,
            outage=writers.result.outage,
            outage_of_one=writers.result.outage_of_one,
            rate=writers.result.rate,
            acknowledged=writers.result.acknowledged,
            unknown_kept=verdict.unknown_kept,
            unknown_lost=verdict.unknown_lost,
            kept_out=len(cluster.kept_out()),
            steps={
                f"{entry['to']} by {entry['trigger']}": round(timestamp(entry["at"]) - at, 3)
                for entry in cluster.history(before["sequence"])
                if int(entry["seq"]) <= int(before["sequence"]) + 12
            },
        )
        reseed_kept_out(cluster)
