"""What an acknowledgement means when replicas are gone: writes wait, or go on after it was recorded that they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import faults
from tests.harness.cluster import Cluster, timestamp
from tests.harness.kube import Object, holds_for, wait_for
from tests.harness.local import HarnessError
from tests.harness.operators import Operators
from tests.harness.reseed import reseed_kept_out, wait_settled
from tests.harness.shell_operator import shell_operator, wait_leading
from tests.harness.verify import verify
from tests.harness.writing import Writers, writing

WRITTEN = 100
# Waiting statements pile up on the server while nobody acknowledges: no more of them than has to be.
PAUSE_SECONDS = 0.02
FEW_CONNECTIONS = 30
PILED_UP_SECONDS = 12.0  # four writers that give up every second need less to have them all
WAITING_SECONDS = 8.0  # several times the degradeAfter that the tests set


@contextmanager
def frozen(cluster: Cluster, instances: list[str]) -> Iterator[None]:
    try:
        for instance in instances:
            cluster.signal_mariadbd(instance, "STOP")
        yield
    finally:
        for instance in instances:
            thaw(cluster, instance)


def thaw(cluster: Cluster, instance: str) -> None:
    """Lets the instance's server go on; one that was killed meanwhile, or whose Pod is away, has nothing to thaw."""

    def thawed() -> bool:
        try:
            cluster.signal_mariadbd(instance, "CONT")
        except HarnessError:
            return False
        return True

    with suppress(HarnessError):
        wait_for(f"{instance} thawed", thawed, seconds=20)


@contextmanager
def without_power(cluster: Cluster, instances: list[str]) -> Iterator[None]:
    with ExitStack() as nodes:
        for instance in instances:
            nodes.enter_context(cluster.node_fault("stop", cluster.node_of(instance)))
        yield


@contextmanager
def one_frozen_and_one_without_power(cluster: Cluster, instances: list[str]) -> Iterator[None]:
    one, *others = instances
    with without_power(cluster, others), frozen(cluster, [one]):
        yield


def recorded(how: str) -> Callable[[Object], bool]:
    return lambda status: (status.get("durability") or {}).get("recorded") == how


def wait_nobody_acknowledged(writers: Writers) -> None:
    """Waits until commits wait, and sees that they go on waiting."""
    writers.wait_silent(1.5)
    before = writers.acknowledged
    holds_for("commits wait", lambda: writers.acknowledged == before, seconds=WAITING_SECONDS)


def test_guaranteed_loses_nothing_with_the_primary_and_waits_for_as_long_as_every_replica_is_gone(
    trio: Cluster,
) -> None:
    trio.edit(highAvailability={"durability": "Guaranteed", "degradeAfter": "1s"})
    before = trio.wait_healthy()
    with writing(trio, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(WRITTEN)
        trio.kill_primary_until_replaced()
        writers.wait_acknowledged(WRITTEN)
        wait_settled(trio)
        reseed_kept_out(trio)
        one, *others = trio.replicas()
        with frozen(trio, others):
            with frozen(trio, [one]):
                wait_nobody_acknowledged(writers)
                assert trio.status()["durability"]["recorded"] == "SemiSync"
            writers.wait_acknowledged(WRITTEN)
        writers.wait_acknowledged(WRITTEN)
    trio.wait_healthy()
    assert trio.epoch == before["epoch"] + 1
    verify(trio, writers.result).require()


@contextmanager
def few_connections(cluster: Cluster, instance: str) -> Iterator[None]:
    """Fewer than clients need minutes to fill; a restart of the server, where nothing else helps, ends it, too."""
    cluster.sql(instance, f"SET GLOBAL max_connections = {FEW_CONNECTIONS}")
    try:
        yield
    finally:
        try:
            cluster.sql(instance, "SET GLOBAL max_connections = DEFAULT", seconds=20)
        except HarnessError:
            cluster.signal_mariadbd(instance, "KILL")


def test_clients_that_pile_up_while_nobody_acknowledges_keep_no_replica_from_coming_back(
    trio: Cluster,
) -> None:
    """A client that gives up waiting leaves its session waiting on the server, and connects anew: they get many."""
    trio.edit(highAvailability={"durability": "Guaranteed"})
    before = trio.wait_healthy()
    replicas = trio.replicas()
    with writing(trio, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(WRITTEN)
        with few_connections(trio, before["primary"]):
            with frozen(trio, replicas):
                writers.wait_silent(PILED_UP_SECONDS)
                # They return as other starts of their servers: they have to connect to the primary.
                for replica in replicas:
                    trio.signal_mariadbd(replica, "KILL")
            writers.wait_acknowledged(WRITTEN, seconds=60)
    trio.wait_healthy()
    assert trio.epoch == before["epoch"]
    verify(trio, writers.result).require()


@pytest.mark.node_faults
@pytest.mark.parametrize(
    "gone",
    [
        frozen,
        pytest.param(one_frozen_and_one_without_power, marks=pytest.mark.slow),
        pytest.param(without_power, marks=pytest.mark.slow),
    ],
)
def test_preferred_records_that_it_is_asynchronous_before_the_first_write_goes_on_without_replicas(
    trio: Cluster,
    operators: Operators,
    tmp_path: Path,
    gone: Callable[[Cluster, list[str]], AbstractContextManager[None]],
) -> None:
    trio.edit(highAvailability={"durability": "Preferred", "degradeAfter": "2s"})
    before = trio.wait_healthy()
    with operators.absent(), shell_operator(trio, tmp_path) as operator:
        wait_leading(trio, operator)
        with writing(trio, pause=PAUSE_SECONDS) as writers:
            writers.wait_acknowledged(WRITTEN)
            with gone(trio, trio.replicas()):
                trio.wait("recorded as asynchronous", recorded("Asynchronous"), seconds=60)
                writers.wait_acknowledged(WRITTEN)
                trio.wait_condition("FailoverAllowed", "False")
            trio.wait("semi-synchronous again", recorded("SemiSync"), seconds=120)
            trio.wait_healthy()
            writers.wait_acknowledged(WRITTEN)
        assert trio.epoch == before["epoch"]
        written_down = [each for each in trio.history() if each["trigger"] == "acknowledgements_missing"]
        at = timestamp(written_down[-1]["at"])
        pauses = [(gap["from"], gap["from"] + gap["seconds"]) for gap in writers.result.gaps]
        assert any(begin < at < end for begin, end in pauses), f"acknowledged around {at}: {pauses}"
        verify(trio, writers.result).require()
    operators.wait_ready()


@pytest.mark.node_faults
def test_a_primary_that_its_replicas_lost_stays_and_once_asynchronous_nobody_takes_its_place(
    trio: Cluster, operators: Operators, tmp_path: Path
) -> None:
    """First the replicas alone lose it, then the operator, too: now the newest commits exist there only."""
    trio.edit(highAvailability={"degradeAfter": "2s", "failover": {"maxWait": "3s"}})
    before = trio.wait_healthy()
    node = trio.node_of(before["primary"])
    with operators.absent(), shell_operator(trio, tmp_path) as operator:  # beside the nodes: it reaches all
        wait_leading(trio, operator)
        with writing(trio, pause=PAUSE_SECONDS) as writers:
            writers.wait_acknowledged(WRITTEN)
            others = [trio.node_of(replica) for replica in trio.replicas()]
            with faults.links_cut(trio.local, node, others):
                trio.wait("recorded as asynchronous", recorded("Asynchronous"), seconds=60)
                writers.wait_acknowledged(WRITTEN)
                assert trio.epoch == before["epoch"], "replaced while it answered"
                with trio.node_fault("cut", node):
                    trio.wait_condition("FailoverAllowed", "False", reason="Asynchronous")
                    writers.wait_silent(1.5)
                    holds_for(
                        "no promotion without Promote",
                        lambda: trio.epoch == before["epoch"],
                        seconds=WAITING_SECONDS,
                    )
            writers.wait_acknowledged(WRITTEN)
            trio.wait("semi-synchronous again", recorded("SemiSync"), seconds=120)
            trio.wait_healthy()
        assert (trio.primary, trio.epoch) == (before["primary"], before["epoch"])
        verify(trio, writers.result).require()
    operators.wait_ready()
