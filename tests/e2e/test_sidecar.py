"""Node sidecars beside the servers: death told at once, what only a dead primary has saved, servers that start only when they may, and nothing that a sidecar's
own end harms. Operators of a shell make the Pods, since the deployed one makes them without.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import processes
from tests.harness.cluster import Cluster
from tests.harness.kube import Kube, holds_for, wait_for
from tests.harness.local import HarnessError, Local
from tests.harness.operators import Operators
from tests.harness.reseed import reseed_kept_out, wait_settled
from tests.harness.shell_operator import ShellOperator, shell_operator
from tests.harness.verify import verify
from tests.harness.writing import writing

pytestmark = pytest.mark.node_faults

WRITTEN = 100
PAUSE_SECONDS = 0.0
RESIDENT_BYTES = 60 * 2**20
STAYS_DOWN_SECONDS = (
    2.0  # the supervisor alone would start it again within 0.3 s; a frozen leader leads for 3.3 s
)


@dataclass(frozen=True, slots=True)
class Watched:
    """A cluster of three, each Pod with a sidecar, and the operator that looks after it."""

    cluster: Cluster
    operator: ShellOperator


@pytest.fixture(scope="module")
def whole(
    kube: Kube,
    local: Local,
    module_namespace: str,
    operators: Operators,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    cluster = Cluster(kube=kube, local=local, namespace=module_namespace, name="watched")
    folder = tmp_path_factory.mktemp("sidecars")
    with operators.absent(), shell_operator(cluster, folder, sidecars=True) as operator:
        cluster.apply()
        cluster.wait_healthy()
        yield Watched(cluster, operator)
        cluster.delete()
        cluster.wait_gone()


@pytest.fixture
def watched(whole: Watched) -> Cluster:
    """The cluster, Healthy, whatever the test before left of it."""
    wait_settled(whole.cluster)
    reseed_kept_out(whole.cluster)
    return whole.cluster


def sidecars_of(cluster: Cluster, instance: str) -> list[int]:
    """Its processes on this machine."""
    pod = cluster.pod(instance)
    assert pod is not None
    return processes.of_pod(pod["metadata"]["uid"], program="mariadb_operator.node")


def resident(process: int) -> int:
    """Bytes of memory that are its own or shared."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def test_a_dead_or_frozen_primary_is_replaced_and_joins_again_with_all_that_it_had(watched: Cluster) -> None:
    with writing(watched, pause=PAUSE_SECONDS) as writers:
        for fault in ("KILL", "STOP", "KILL"):
            writers.wait_acknowledged(WRITTEN)
            before = watched.status()
            watched.signal_mariadbd(before["primary"], fault)
            watched.wait_epoch(before["epoch"] + 1)
            writers.wait_acknowledged(WRITTEN)
            wait_settled(watched, epoch=before["epoch"] + 1)
            assert not watched.kept_out(), f"{fault}: what only the dead primary had was not saved"
            proven = [
                each for each in watched.history(before["sequence"]) if "ProcessEnded" in each["evidence"]
            ]
            assert proven, f"{fault}: the sidecar's word proved nothing"
            assert "its volume holds" in proven[-1]["evidence"], f"{fault}: {proven[-1]['evidence']}"
    assert len(verify(watched, writers.result).require().instances) == 3
    assert max(resident(each) for name in watched.instances() for each in sidecars_of(watched, name)) <= (
        RESIDENT_BYTES
    )


def test_a_sidecar_that_dies_takes_nothing_along_and_comes_back(watched: Cluster) -> None:
    before, starts = watched.status(), watched.incarnations()
    with writing(watched, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(WRITTEN)
        killed = {name: sidecars_of(watched, name) for name in watched.instances()}
        assert all(killed.values())
        for found in killed.values():
            for process in found:
                os.kill(process, signal.SIGKILL)
        writers.wait_acknowledged(WRITTEN)
        wait_for(
            "new sidecars",
            lambda: all(
                (now := sidecars_of(watched, name)) and not set(now) & set(old)
                for name, old in killed.items()
            ),
            seconds=90,
        )
    assert watched.incarnations() == starts
    assert watched.epoch == before["epoch"]
    verify(watched, writers.result).require()


def test_a_replicas_server_starts_only_when_an_operator_permits_it(whole: Watched, watched: Cluster) -> None:
    replica, sequence = watched.replicas()[0], int(watched.status()["sequence"])
    whole.operator.freeze()
    try:
        watched.signal_mariadbd(replica, "KILL")
        holds_for("it stays down", lambda: not runs(watched, replica), seconds=STAYS_DOWN_SECONDS)
    finally:
        whole.operator.thaw()
    watched.wait_healthy(after=sequence)
    assert runs(watched, replica)


def runs(cluster: Cluster, instance: str) -> bool:
    try:
        return bool(cluster.value(instance, "1"))
    except HarnessError:
        return False
