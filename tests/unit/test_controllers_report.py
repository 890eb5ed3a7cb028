"""What people are told of a situation: the condition that a promise does not hold, whom to take a privilege from."""

from __future__ import annotations

from dataclasses import replace

from mariadb_operator.api.conditions import Condition, ConditionType
from mariadb_operator.controllers.report import conditions, observed, warnings
from statemachines.facts import Snapshot
from statemachines.record import DurabilityMode
from tests.unit.machine_cases import instance, intent, member, pod, record, server, situation, snapshot

GUARANTEED = intent(durability=DurabilityMode.GUARANTEED)


def replication(facts: Snapshot) -> Condition:
    found = conditions(situation(facts=facts, wanted=GUARANTEED))
    return next(each for each in found if each.type is ConditionType.REPLICATION_HEALTHY)


def test_a_witness_on_the_primarys_node_voids_the_guarantee() -> None:
    assert replication(snapshot()).holds
    beside = snapshot(instance(0), instance(1, pod=pod(1, node="node-0")), instance(2))
    told = replication(beside)
    assert (told.holds, told.reason) == (False, "GuaranteeVoid")
    assert "db-1 runs on node-0" in told.message


def test_a_stranger_that_acknowledges_voids_the_guarantee_and_one_that_only_reads_does_not() -> None:
    facts = server(0)
    accounts = frozenset({"repl_1", "repl_2", "cdc"})
    reader = replace(facts, connected_accounts=accounts)
    assert replication(snapshot(instance(0, server=reader), instance(1), instance(2))).holds
    acknowledging = replace(reader, semi_sync=replace(facts.semi_sync, clients=3))
    told = replication(snapshot(instance(0, server=acknowledging), instance(1), instance(2)))
    assert told.reason == "GuaranteeVoid"
    assert "cdc" in told.message


def test_accounts_that_write_through_read_only_are_named_with_what_to_do() -> None:
    loose = instance(1, server=server(1, read_only_admins=frozenset({"dba@%"})))
    told = situation(facts=snapshot(instance(0), loose, instance(2)))
    [(reason, text)] = warnings(told)
    assert reason == "ReadOnlyAdmins"
    assert "dba@%" in text
    assert "REVOKE READ_ONLY ADMIN" in text
    lines = {each.name: each.message for each in observed(told, image="", generation=1).instances}
    assert "dba@%" in lines["db-1"]
    assert lines["db-2"] == ""


def test_who_is_removed_and_may_hold_something_of_its_own_keeps_its_volume_and_says_so() -> None:
    known = record(members=(member(0), member(1), member(2, leaving=True)))
    told = situation(known=known, wanted=intent(replicas=2, delete_volumes=True))
    line = observed(told, image="", generation=1).instances[2]
    assert "data-db-2 is kept" in line.message
