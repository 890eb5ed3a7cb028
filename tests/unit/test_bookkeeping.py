"""Who joins and who is taken out: found on the real cluster, kept here."""

from __future__ import annotations

from dataclasses import replace

from statemachines import witnesses
from statemachines.decide import decide
from statemachines.detection import Analysis, analyse
from statemachines.effects import DeletePod, StartReceiving
from statemachines.facts import (
    Container,
    InstanceFacts,
    IoThread,
    PodFact,
    ProbeFact,
    Reach,
    ReplicationFact,
    SemiSyncFact,
    ServerFact,
    Snapshot,
    Volume,
)
from statemachines.gtid import History, Position
from statemachines.record import Durability, Intent, Member, Operation, Record, Recorded, Witness
from statemachines.states import State

INTENT = Intent(name="db", cluster_uid="u", replicas=3, term=1)
RECORD = Record(
    state=State.DEGRADED,
    sequence=9,
    epoch=2,
    cluster_id="u",
    primary="db-2",
    primary_incarnation="two",
    primary_pod="pod-2",
    members=tuple(Member(name=f"db-{n}", ordinal=n) for n in range(3)),
    durability=Durability(recorded=Recorded.SEMI_SYNC, witnesses=(Witness(name="db-1", incarnation="one"),)),
)


def _server(
    name: str, *, history: str, asked_at: float, replicates: bool, read_only: bool = True
) -> ServerFact:
    return ServerFact(
        asked_at=asked_at,
        pod_uid=f"pod-{name[-1]}",
        incarnation={"0": "zero", "1": "one", "2": "two"}[name[-1]],
        server_id=int(name[-1]) + 1,
        version="10.11",
        read_only=read_only,
        term=1,
        epoch=2,
        cluster_id="u",
        epoch_primary="db-2",
        history=History.parse(history),
        executed=History.parse(history).position(),
        slave_position=Position(),
        semi_sync=SemiSyncFact(
            source_enabled=True,
            replica_enabled=True,
            clients=1,
            acknowledged=5,
            unacknowledged=0,
            waiting_sessions=0,
        ),
        replication=ReplicationFact(
            source_host="10.0.0.2",
            source_port=3306,
            source_user="repl",
            io_thread=IoThread.RUNNING,
            sql_running=True,
            received=History.parse(history).position(),
        )
        if replicates
        else None,
    )


def _instance(
    server: ServerFact,
    *,
    caught_up_at: float | None = None,
    detached_since: float | None = None,
    shut_out_since: float | None = None,
) -> InstanceFacts:
    ordinal = server.server_id - 1
    return InstanceFacts(
        name=f"db-{ordinal}",
        ordinal=ordinal,
        pod=PodFact(
            uid=server.pod_uid, ip=f"10.0.0.{ordinal}", node="n", deleting=False, container=Container.RUNNING
        ),
        volume=Volume.BOUND,
        node_ready=True,
        probe=ProbeFact(reach=Reach.ANSWERING, at=99.0, since=0.0, pod_uid=server.pod_uid),
        server=server,
        caught_up_at=caught_up_at,
        detached_since=detached_since,
        shut_out_since=shut_out_since,
    )


def _snapshot(returned: InstanceFacts) -> Snapshot:
    witness = _server("db-1", history="0-1-5,0-3-9", asked_at=99.0, replicates=True)
    primary = _server("db-2", history="0-1-5,0-3-9", asked_at=98.0, replicates=False, read_only=False)
    return Snapshot(
        now=100.0,
        instances=(returned, _instance(witness, caught_up_at=97.0), _instance(primary)),
        objects_ready=True,
    )


def test_an_instance_that_was_away_for_long_joins_and_is_not_taken_out_for_its_absence() -> None:
    old = _server("db-0", history="0-1-5", asked_at=99.0, replicates=False)
    snapshot = _snapshot(_instance(old, detached_since=10.0, shut_out_since=20.0))
    decision = decide(INTENT, snapshot, RECORD, 1000.0)
    assert decision.record.durability.witness("db-0") is not None


def test_an_instance_joins_although_it_was_asked_after_the_primary() -> None:
    old = _server("db-0", history="0-1-5", asked_at=99.5, replicates=False)
    decision = decide(INTENT, _snapshot(_instance(old)), RECORD, 1000.0)
    assert decision.record.durability.witness("db-0") is not None


def test_a_silent_witness_is_taken_out_once_it_is_shut_out_and_another_holds_what_came_before() -> None:
    silent = replace(
        _instance(_server("db-0", history="0-1-5", asked_at=50.0, replicates=True)),
        probe=ProbeFact(reach=Reach.SILENT, at=99.0, since=50.0, pod_uid="pod-0"),
        detached_since=100.0 - witnesses.EXCLUDE_SECONDS,
        shut_out_since=96.0,
    )
    record = replace(
        RECORD,
        durability=replace(RECORD.durability, witnesses=(Witness(name="db-0"), *RECORD.durability.witnesses)),
    )
    decision = decide(INTENT, _snapshot(silent), record, 1000.0)
    assert decision.record.durability.witness("db-0") is None


def test_a_replica_that_answered_late_is_not_errant_for_what_the_primary_wrote_meanwhile() -> None:
    asked_early = _server("db-1", history="0-1-5,0-3-12", asked_at=97.0, replicates=True)
    late = replace(asked_early, answered_at=99.0)
    primary = _server("db-2", history="0-1-5,0-3-9", asked_at=98.0, replicates=False, read_only=False)
    snapshot = Snapshot(
        now=100.0,
        instances=(_instance(late, caught_up_at=96.0), _instance(primary)),
        objects_ready=True,
    )
    record = decide(INTENT, snapshot, RECORD, 1000.0).record
    member = record.member("db-1")
    assert member is not None
    assert not member.kept_out


def test_a_successor_that_does_not_answer_yet_is_neither_hung_nor_killed() -> None:
    replica = _server("db-1", history="0-1-5,0-3-9", asked_at=99.0, replicates=True)
    assert replica.replication is not None
    lost = replace(replica, replication=replace(replica.replication, io_thread=IoThread.CONNECTING))
    primary = _server("db-2", history="0-1-5,0-3-9", asked_at=80.0, replicates=False, read_only=False)
    pod = PodFact(uid="successor", ip="10.0.0.9", node="n", deleting=False, container=Container.RUNNING)
    successor = replace(
        _instance(primary),
        pod=pod,
        probe=ProbeFact(reach=Reach.SILENT, at=99.0, since=81.0, pod_uid="successor"),
    )
    snapshot = Snapshot(
        now=100.0,
        instances=(_instance(lost), successor),
        objects_ready=True,
        operation_since=90.0,
    )
    operation = Operation(id="2-9", old_primary="db-2", started=990.0, deadline=1010.0)
    record = replace(RECORD, state=State.FENCING, operation=operation)
    assert analyse(record, snapshot) is Analysis.PRIMARY_MISSING
    effects = decide(INTENT, snapshot, record, 1000.0).effects
    assert not any(isinstance(effect, DeletePod) for effect in effects)


def test_a_replica_that_was_fenced_after_its_link_broke_receives_again_once_the_fence_is_lifted() -> None:
    replica = _server("db-1", history="0-1-5,0-3-9", asked_at=99.0, replicates=True)
    assert replica.replication is not None
    fenced = replace(replica.replication, io_thread=IoThread.STOPPED, io_errno=2003, io_error="can't connect")
    primary = _server("db-2", history="0-1-5,0-3-9", asked_at=98.0, replicates=False, read_only=False)
    snapshot = Snapshot(
        now=100.0,
        instances=(_instance(replace(replica, replication=fenced)), _instance(primary)),
        objects_ready=True,
    )
    assert StartReceiving("db-1") in decide(INTENT, snapshot, RECORD, 1000.0).effects
