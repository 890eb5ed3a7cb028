"""A primary that dies, hangs or is cut off under four writers: another takes over, and no acknowledged row is lost.

In each test the rows of all instances are compared with what the client was told, first with the old primary as it came
back (kept out or not), then with every instance again a replica.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.harness import faults
from tests.harness.cluster import Cluster, timestamp
from tests.harness.kube import ApiError, Object, holds_for, wait_for
from tests.harness.operators import Operators
from tests.harness.reseed import reseed_kept_out, wait_settled
from tests.harness.verify import read_rows, verify
from tests.harness.writing import Result, writing, writing_on_node_of

WRITTEN = 150  # rows before and after a fault
# Where a node is away for long: what is written meanwhile has to be applied by who is seeded anew.
PAUSE_SECONDS = 0.02
UNPROVEN_SECONDS = 8.0  # more than twice the maxWait that the tests set
FAST_POLICY = {"maxWait": "3s"}


@dataclass(frozen=True, slots=True)
class Old:
    """The primary before the fault."""

    name: str
    epoch: int
    node: str
    history: str  # its last transaction of each server that wrote, as GTIDs

    @classmethod
    def of(cls, cluster: Cluster) -> Old:
        status = cluster.status()
        name = str(status["primary"])
        history = cluster.value(name, "@@global.gtid_binlog_state")
        return cls(name, int(status["epoch"]), cluster.node_of(name), history)


def kill(cluster: Cluster, primary: str) -> None:
    cluster.kill_primary_until_replaced()


def freeze(cluster: Cluster, primary: str) -> None:
    wait_long_for_proof(cluster)
    cluster.signal_mariadbd(primary, "STOP")


def delete_gracefully(cluster: Cluster, primary: str) -> None:
    cluster.delete_pod(primary)


def wait_long_for_proof(cluster: Cluster) -> None:
    """A busy kubelet may need longer than the default to end a server: without proof of it nothing is promoted."""
    cluster.edit(highAvailability={"failover": {"maxWait": "60s"}})
    cluster.wait_healthy()


def delete_by_force(cluster: Cluster, primary: str) -> None:
    wait_long_for_proof(cluster)
    cluster.delete_pod(primary, force=True)


@pytest.mark.parametrize("fault", [kill, delete_gracefully, delete_by_force, freeze])
def test_a_lost_primary_is_replaced_and_no_acknowledged_row_is_lost(
    trio: Cluster, fault: Callable[[Cluster, str], None]
) -> None:
    with writing(trio) as writers:
        writers.wait_acknowledged(WRITTEN)
        old = Old.of(trio)
        fault(trio, old.name)
        trio.wait_epoch(old.epoch + 1, seconds=90)
        writers.wait_acknowledged(WRITTEN)
    assert trio.primary != old.name
    kept_out = the_old_primary_returns(trio, old, writers.result, epoch=old.epoch + 1)
    if fault is delete_gracefully:
        assert not kept_out, "it was handed over, and yet it holds what nobody else has"


def test_draining_the_primarys_node_hands_over_first_and_no_other_instance_may_go_meanwhile(
    trio: Cluster,
) -> None:
    old = Old.of(trio)
    with writing(trio) as writers:
        writers.wait_acknowledged(WRITTEN)
        with faults.drained(trio.kube, old.node, selector=f"mariadb.fsm.dev/cluster={trio.name}"):
            trio.wait_epoch(old.epoch + 1)
            writers.wait_acknowledged(WRITTEN)
            another = next(each for each in trio.replicas() if each != old.name)
            # One that is not ready may go: it is no redundancy.
            wait_for("the other one ready", lambda: is_ready(trio.pod(another)), seconds=60)
            with pytest.raises(ApiError, match="disruption budget") as refused:
                trio.kube.evict(another, trio.namespace)
            assert refused.value.code == 429
    kept_out = the_old_primary_returns(trio, old, writers.result, epoch=old.epoch + 1)
    assert not kept_out, "it was handed over, and yet it holds what nobody else has"


def is_ready(pod: Object | None) -> bool:
    conditions = (pod or {}).get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.mark.node_faults
@pytest.mark.parametrize("fault", ["cut", pytest.param("stop", marks=pytest.mark.slow)])
def test_an_unreachable_primary_is_not_replaced_while_it_may_live(
    trio: Cluster, operators: Operators, fault: str
) -> None:
    trio.edit(highAvailability={"failover": {**FAST_POLICY, "onUncertainData": "Wait"}})
    trio.wait_healthy()
    operators.lead_away_from(trio.node_of(trio.primary))
    with writing(trio, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(WRITTEN)
        old = Old.of(trio)
        with trio.node_fault(fault, old.node):
            not_replaced(trio, old)
        writers.wait_acknowledged(WRITTEN, seconds=120)
    the_old_primary_returns(trio, old, writers.result, epoch=old.epoch)


@pytest.mark.node_faults
def test_a_primary_without_power_is_replaced_at_once_when_a_person_confirms_it_and_not_before(
    trio: Cluster, operators: Operators
) -> None:
    trio.edit(highAvailability={"failover": {**FAST_POLICY, "onUncertainData": "Wait"}})
    trio.wait_healthy()
    operators.lead_away_from(trio.node_of(trio.primary))
    with writing(trio, pause=PAUSE_SECONDS) as writers:
        writers.wait_acknowledged(WRITTEN)
        old = Old.of(trio)
        with trio.node_fault("stop", old.node):
            not_replaced(trio, old)
            with faults.out_of_service(trio.kube, old.node):
                trio.wait_epoch(old.epoch + 1)
                writers.wait_acknowledged(WRITTEN)
    assert any("NodeOff" in entry.get("evidence", "") for entry in trio.history()), (
        "the proof is not recorded"
    )
    the_old_primary_returns(trio, old, writers.result, epoch=old.epoch + 1)


def not_replaced(cluster: Cluster, old: Old) -> None:
    """Nobody takes its place, however long it stays away, and people are told why."""
    blocked = cluster.wait_condition("FailoverAllowed", "False", reason="PrimaryNotProvenDead")
    assert blocked["message"]
    holds_for("no promotion without proof", lambda: cluster.epoch == old.epoch, seconds=UNPROVEN_SECONDS)


@pytest.mark.node_faults
@pytest.mark.parametrize(
    ("fault", "leader"),
    [
        ("cut", "with the primary"),
        pytest.param("stop", "elsewhere", marks=pytest.mark.slow),
    ],
)
def test_an_unreachable_primary_is_replaced_where_the_owner_accepts_the_risk_and_acknowledges_nothing_more(
    trio: Cluster, operators: Operators, fault: str, leader: str
) -> None:
    """Clients on the lost node go on asking the old primary, until it has come back and long after."""
    trio.edit(highAvailability={"failover": {**FAST_POLICY, "onUncertainData": "Promote"}})
    trio.wait_healthy()
    node = trio.node_of(trio.primary)
    (operators.lead_away_from if leader == "elsewhere" else operators.lead_on)(node)
    with (
        writing(trio, pause=PAUSE_SECONDS) as writers,
        writing_on_node_of(trio, trio.primary, pause=PAUSE_SECONDS) as beside_it,
    ):
        writers.wait_acknowledged(WRITTEN)
        beside_it.wait_acknowledged(WRITTEN)
        old = Old.of(trio)
        with trio.node_fault(fault, node):
            trio.wait_epoch(old.epoch + 1, seconds=90)
            writers.wait_acknowledged(WRITTEN, seconds=60)
        wait_settled(trio, epoch=old.epoch + 1)
    committed = [each for each in trio.history() if each["to"] == "FailingOver_Committing"]
    assert beside_it.result.last_at < timestamp(committed[-1]["at"]), "acknowledged after the promotion"
    assert any("Promote" in entry.get("evidence", "") for entry in trio.history()), "the risk is not recorded"
    verify(trio, beside_it.result).require()
    the_old_primary_returns(trio, old, writers.result, beside_it.result, epoch=old.epoch + 1)
    operators.wait_ready()


def the_old_primary_returns(cluster: Cluster, old: Old, *results: Result, epoch: int) -> bool:
    """By itself as a replica; or it is kept out and reported, with everything that it holds still on it: whether so."""
    wait_settled(cluster, epoch=epoch)
    kept_out = cluster.kept_out()
    assert set(kept_out) <= {old.name}, f"somebody else is kept out: {kept_out}"
    for result in results:
        verdict = verify(cluster, result).require()
        assert kept_out or old.name in verdict.instances
    if kept_out:
        nothing_on_it_is_erased(cluster, old, *results)
        cluster.wait_condition("ReplicationHealthy", "False", old.name, reason="InstanceKeptOut")
    reseed_kept_out(cluster)
    for result in results:
        assert len(verify(cluster, result).require().instances) == 3
    return bool(kept_out)


def nothing_on_it_is_erased(cluster: Cluster, old: Old, *results: Result) -> None:
    """Every transaction that it ever had is in its binary logs, those that only it has are in its tables, too."""
    reason = cluster.kept_out()[old.name]
    assert reason.startswith("errant"), reason
    logged = transactions_in_binary_logs(cluster, old.name)
    had = re.findall(r"\d+-\d+-\d+", f"{old.history} {reason}")
    assert set(had) <= logged, f"{had} were on {old.name} before, and are not all there"
    numbers = sorted(int(each.rpartition("-")[2]) for each in logged)
    assert numbers == list(range(1, numbers[-1] + 1)), f"transactions are missing on {old.name}"
    for result in results:
        here = read_rows(cluster, old.name, result.table)
        extra = set(here) - set(read_rows(cluster, cluster.primary, result.table))
        unknown = {(each.writer, n) for each in result.writers for n in each.unknown}
        strangers = {row for row in extra if (row[1], row[2]) not in unknown}
        assert not strangers, f"acknowledged, and on {old.name} only: {sorted(strangers)[:10]}"


def transactions_in_binary_logs(cluster: Cluster, instance: str) -> set[str]:
    """The GTIDs that the instance's binary logs hold."""
    logs = "/var/lib/mysql/data/binlog." + 6 * "[0-9]"
    script = f'for log in {logs}; do mariadb-binlog "$log"; done | grep -o "GTID [0-9-]*"'
    printed = cluster.kube.execute(cluster.namespace, instance, "sh", "-c", script)
    return {line.removeprefix("GTID ") for line in printed.splitlines()}
