"""Ranking: which replica may be promoted, and why the others may not.

By what was *received* (relay log included), never by lag. Not for when: failover.py. Compare orchestrator's and MHA's
candidate rules (https://github.com/openark/orchestrator, MHA's latest-slave).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from statemachines.facts import InstanceFacts, IoThread, ReplicationFact, ServerFact, Snapshot
from statemachines.gtid import Gtid, Position
from statemachines.record import Member, Record


class Unfit(StrEnum):
    """Why an instance may not be promoted."""

    NOT_ANSWERING = "NotAnswering"
    KEPT_OUT = "KeptOut"
    LEAVING = "Leaving"
    OTHER_CLUSTER = "OtherCluster"
    ERRANT = "Errant"
    EMPTY = "Empty"
    INCOMPLETE = "Incomplete"
    RESTARTED = "Restarted"
    APPLIER_STOPPED = "ApplierStopped"
    BEHIND_FLOOR = "BehindFloor"
    BEHIND_OTHER = "BehindOther"


REASONS: dict[Unfit, str] = {
    Unfit.NOT_ANSWERING: "It does not answer the operator.",
    Unfit.KEPT_OUT: "It holds transactions that the primary's history lacks, or is otherwise kept out.",
    Unfit.LEAVING: "It is being scaled in and can't have acknowledged anything any more.",
    Unfit.OTHER_CLUSTER: "Its data belongs to another cluster.",
    Unfit.ERRANT: "It holds a transaction that no primary wrote: a server's own, behind what the epoch began with.",
    Unfit.EMPTY: "It has no transaction of any epoch of this cluster.",
    Unfit.INCOMPLETE: "It never held everything since its volume was empty: it is still being seeded.",
    Unfit.RESTARTED: "It was not seen to hold everything since its server started: its relay log may have been lost.",
    Unfit.APPLIER_STOPPED: (
        "Its SQL thread was ended by an error; or it does not run, and has received what it did not apply or, after a "
        "restart, may have."
    ),
    Unfit.BEHIND_FLOOR: "It lacks a transaction that is known to be acknowledged.",
    Unfit.BEHIND_OTHER: "Another replica received a transaction that it lacks.",
}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One replica in the election."""

    name: str
    received: Position
    unfit: tuple[Unfit, ...]


def received(server: ServerFact) -> Position:
    """Everything the server holds: applied, or waiting in its relay log."""
    replication = server.replication
    return server.executed.merge(replication.received) if replication is not None else server.executed


def errant(record: Record, server: ServerFact) -> tuple[Gtid, ...]:
    """Transactions that are in no primary's history, told without a primary to ask.

    What goes beyond the position with which this epoch began was written in it, and only the primary's own server id
    writes in its epoch. Server ids are ordinals + 1.
    """
    primary = record.member(record.primary)
    if primary is None:
        return ()
    base = {gtid.domain: gtid.sequence for gtid in record.durability.base.gtids}
    return tuple(
        gtid
        for gtid in server.history.gtids
        if gtid.server != primary.ordinal + 1 and gtid.sequence > base.get(gtid.domain, 0)
    )


def sound(record: Record, server: ServerFact) -> Position:
    """What the server received, without what is errant there."""
    foreign = errant(record, server)
    if not foreign:
        return received(server)
    relayed = server.replication.received.gtids if server.replication is not None else ()
    return Position(tuple(gtid for gtid in (*server.history.gtids, *relayed) if gtid not in foreign))


def drained(server: ServerFact) -> bool:
    """Whether everything received is applied."""
    return server.executed.covers(received(server))


def applied(server: ServerFact) -> bool:
    """Whether everything received is applied, and that is known: after a restart nothing shows as received, whatever the
    relay log holds.
    """
    replication = server.replication
    return replication is None or (bool(replication.received) and drained(server))


def _applies(replication: ReplicationFact | None, server: ServerFact) -> bool:
    if replication is None or replication.sql_running:
        return True
    return not replication.sql_errno and applied(server)


def can_apply(server: ServerFact) -> bool:
    """Whether its SQL thread may be started: without an error, and while the IO thread has not stopped (FACTS.md)."""
    replication = server.replication
    return (
        replication is not None
        and replication.io_thread is not IoThread.STOPPED
        and not replication.sql_running
        and not replication.sql_errno
    )


def present(record: Record, facts: InstanceFacts | None) -> bool:
    """Whether the instance answers in the server start in which it was seen to hold everything it acknowledged."""
    if facts is None or facts.answering is None:
        return False
    witness = record.durability.witness(facts.name)
    return witness is not None and witness.incarnation == facts.answering.incarnation


def rank(
    record: Record, snapshot: Snapshot, *, by_policy: bool, salvaging: bool = False
) -> tuple[Ranked, ...]:
    """Every replica, best first: fit before unfit, then by what it received, then by ordinal.

    `by_policy`: onUncertainData is Promote, so a restarted replica is not barred; an errant, empty or foreign one always
    is (invariant 4). `salvaging`: what a replica lacks is brought to it from the dead primary's volume, so that it need
    not have been seen to hold everything.
    """
    ranked = [
        (member.ordinal, _judge(record, snapshot, member, by_policy=by_policy, salvaging=salvaging))
        for member in record.replicas
    ]
    ranked.sort(key=lambda pair: (len(pair[1].unfit) > 0, -_weight(pair[1].received), pair[0]))
    return tuple(each for _, each in ranked)


def _judge(record: Record, snapshot: Snapshot, member: Member, *, by_policy: bool, salvaging: bool) -> Ranked:
    facts = snapshot.instance(member.name)
    server = facts.answering if facts is not None else None
    if facts is None or server is None:
        return Ranked(member.name, Position(), (Unfit.NOT_ANSWERING,))
    bars = {
        Unfit.KEPT_OUT: bool(member.kept_out),
        Unfit.LEAVING: member.leaving and record.durability.witness(member.name) is None,
        Unfit.OTHER_CLUSTER: server.cluster_id not in ("", record.cluster_id),
        Unfit.ERRANT: bool(errant(record, server)),
        Unfit.EMPTY: not server.executed or server.epoch == 0,
        Unfit.INCOMPLETE: not member.complete,
        Unfit.APPLIER_STOPPED: not _applies(server.replication, server),
        Unfit.RESTARTED: not (by_policy or salvaging) and not present(record, facts),
        Unfit.BEHIND_FLOOR: not (by_policy or salvaging)
        and not received(server).covers(record.durability.floor),
        Unfit.BEHIND_OTHER: not all(
            received(server).covers(position)
            for position in _rivals(record, snapshot, member, by_policy=by_policy)
        ),
    }
    return Ranked(member.name, received(server), tuple(bar for bar, holds in bars.items() if holds))


def _rivals(record: Record, snapshot: Snapshot, member: Member, *, by_policy: bool) -> tuple[Position, ...]:
    """What the other replicas of this cluster hold; also those that go or are kept out, if they may have acknowledged."""
    servers = (
        facts.answering
        for other in record.replicas
        if other.name != member.name
        if not (other.kept_out or other.leaving)
        or (record.durability.witness(other.name) is not None and not by_policy)
        if (facts := snapshot.instance(other.name)) is not None and facts.answering is not None
    )
    # One that has applied nothing yet is in epoch 0, and may have acknowledged all the same.
    return tuple(sound(record, server) for server in servers if server.cluster_id in ("", record.cluster_id))


def _weight(position: Position) -> int:
    return sum(gtid.sequence for gtid in position.gtids)


def elect(record: Record, snapshot: Snapshot, *, by_policy: bool, salvaging: bool = False) -> Ranked | None:
    """The candidate, or None when nobody is fit."""
    best = next(iter(rank(record, snapshot, by_policy=by_policy, salvaging=salvaging)), None)
    return best if best is not None and not best.unfit else None
