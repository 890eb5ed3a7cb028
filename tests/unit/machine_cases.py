"""Hand-made facts and records of a cluster of three, for tests that say in a few words what is different.

Not for exploring (machine_world.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from statemachines.facts import (
    Container,
    EndpointFact,
    InstanceFacts,
    IoThread,
    PodFact,
    ProbeFact,
    Process,
    Reach,
    ReplicationFact,
    SemiSyncFact,
    ServerFact,
    SidecarFact,
    Snapshot,
    Volume,
    Writing,
)
from statemachines.gtid import History, Position
from statemachines.record import (
    Durability,
    Intent,
    Member,
    Operation,
    Record,
    Recorded,
    Situation,
    Witness,
)
from statemachines.states import State

NOW = 1000.0
WALL = 5000.0
UID = "uid-1"
PRIMARY, FIRST, SECOND = "db-0", "db-1", "db-2"


def intent(**changes: Any) -> Intent:
    return replace(Intent(name="db", cluster_uid=UID, replicas=3, term=1), **changes)


def replication(received: str = "0-1-5", **changes: Any) -> ReplicationFact:
    fact = ReplicationFact(
        source_host="10.0.0.1",
        source_port=3306,
        source_user="repl",
        io_thread=IoThread.RUNNING,
        sql_running=True,
        received=Position.parse(received),
    )
    return replace(fact, **changes)


def server(number: int = 0, gtid: str = "0-1-5", **changes: Any) -> ServerFact:
    """A server that holds epoch 1 up to that position; the first is the open primary, the others its replicas."""
    fact = ServerFact(
        asked_at=NOW,
        pod_uid=f"pod-{number}",
        incarnation=f"start-{number}",
        server_id=number + 1,
        version="11.8",
        read_only=number != 0,
        term=1,
        epoch=1,
        cluster_id=UID,
        epoch_primary=PRIMARY,
        history=History.parse(gtid),
        executed=Position.parse(gtid),
        slave_position=Position.parse(gtid),
        semi_sync=SemiSyncFact(
            source_enabled=number == 0,
            replica_enabled=True,
            clients=2 if number == 0 else 0,
            acknowledged=1 if number == 0 else 0,
            unacknowledged=0,
            waiting_sessions=0,
        ),
        replication=None if number == 0 else replication(gtid),
        locked_accounts=frozenset(f"repl_{n}" for n in range(9) if n not in (1, 2)),
        connected_accounts=frozenset({"repl_1", "repl_2"}) if number == 0 else frozenset(),
    )
    return replace(fact, **changes)


def pod(number: int = 0, **changes: Any) -> PodFact:
    fact = PodFact(
        uid=f"pod-{number}",
        ip=f"10.0.0.{number + 1}",
        node=f"node-{number}",
        deleting=False,
        container=Container.RUNNING,
        container_id=f"container-{number}",
        ready=True,
    )
    return replace(fact, **changes)


def instance(number: int, **changes: Any) -> InstanceFacts:
    """An instance that answers and, as a replica, holds the primary's position."""
    facts = InstanceFacts(
        name=f"db-{number}",
        ordinal=number,
        pod=pod(number),
        volume=Volume.BOUND,
        node_ready=True,
        probe=ProbeFact(reach=Reach.ANSWERING, at=NOW, since=100.0, pod_uid=f"pod-{number}"),
        server=server(number),
        caught_up_at=None if number == 0 else NOW,
    )
    return replace(facts, **changes)


def sidecar(number: int = 0, **changes: Any) -> SidecarFact:
    """The sidecar of an instance whose server runs, answers and can write."""
    fact = SidecarFact(
        at=NOW,
        connected=True,
        pod_uid=f"pod-{number}",
        process=Process.RUNNING,
        incarnation=f"start-{number}",
        salvages=True,
        answers=True,
        answers_since=100.0,
        writing=Writing.WORKS,
        writing_since=100.0,
    )
    return replace(fact, **changes)


def met(reach: Reach, *, since: float = 100.0, pod_uid: str = "pod-0") -> dict[str, Any]:
    """Changes of an instance that does not answer."""
    return {"probe": ProbeFact(reach=reach, at=NOW, since=since, pod_uid=pod_uid), "server": None}


def snapshot(*instances: InstanceFacts, **changes: Any) -> Snapshot:
    fact = Snapshot(
        now=NOW,
        instances=instances or (instance(0), instance(1), instance(2)),
        primary_endpoint=EndpointFact(address="10.0.0.1", target=PRIMARY, epoch=1),
        replica_endpoints=frozenset({FIRST, SECOND}),
        objects_ready=True,
        instances_possible=True,
    )
    return replace(fact, **changes)


def record(**changes: Any) -> Record:
    """A healthy cluster of three in its first epoch."""
    value = Record(
        state=State.HEALTHY,
        since=WALL,
        sequence=7,
        epoch=1,
        cluster_id=UID,
        primary=PRIMARY,
        primary_incarnation="start-0",
        primary_pod="pod-0",
        primary_node="node-0",
        members=tuple(member(n) for n in range(3)),
        durability=Durability(
            recorded=Recorded.SEMI_SYNC,
            witnesses=(
                Witness(name=FIRST, incarnation="start-1"),
                Witness(name=SECOND, incarnation="start-2"),
            ),
            floor=Position.parse("0-1-4"),
        ),
    )
    return replace(value, **changes)


def operation(**changes: Any) -> Operation:
    return replace(Operation(id="1-8", old_primary=PRIMARY, started=WALL, deadline=WALL + 10.0), **changes)


def situation(
    *,
    facts: Snapshot | None = None,
    known: Record | None = None,
    wanted: Intent | None = None,
    wall: float = WALL,
) -> Situation:
    return Situation(
        intent=wanted if wanted is not None else intent(),
        snapshot=facts if facts is not None else snapshot(),
        record=known if known is not None else record(),
        wall=wall,
    )


def member(number: int, **changes: Any) -> Member:
    return replace(Member(name=f"db-{number}", ordinal=number, complete=True), **changes)
