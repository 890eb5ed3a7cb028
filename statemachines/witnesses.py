"""Witnesses: who may have acknowledged what, who counts, and how one comes to be none any more. Rules of bookkeeping.py.

A replica is a witness *before* its account is unlocked, and stays one until it is shown that it cannot have acknowledged
more than the others hold (DESIGN.md, Durability). Not for who is a member: members.py.
"""

from __future__ import annotations

from dataclasses import replace

from statemachines import election
from statemachines import guards as g
from statemachines.facts import InstanceFacts, IoThread, ServerFact
from statemachines.gtid import Position
from statemachines.record import Member, Record, Recorded, Situation, Witness

PURGED = 1236  # ER_MASTER_FATAL_ERROR_READING_BINLOG: where it would go on is not in the binary logs any more
EXCLUDE_SECONDS = (
    30.0  # a witness that receives nothing for so long is taken out, so that it blocks no failover
)


def _edit_witness(record: Record, witness: Witness) -> Record:
    rest = tuple(each for each in record.durability.witnesses if each.name != witness.name)
    witnesses = tuple(sorted((*rest, witness), key=lambda each: each.name))
    return replace(record, durability=replace(record.durability, witnesses=witnesses))


def _without_witness(record: Record, name: str) -> Record:
    rest = tuple(each for each in record.durability.witnesses if each.name != name)
    return replace(record, durability=replace(record.durability, witnesses=rest))


def _may_join(s: Situation, member: Member, facts: InstanceFacts, primary: ServerFact) -> bool:
    if facts.answering is None or member.kept_out or member.leaving:
        return False
    if s.record.durability.witness(member.name) is not None:
        return False
    server = facts.answering
    if unable_to_follow(server):
        return False
    # Whenever the two were asked: the primary's history only grows.
    known = not server.history.errant_against(primary.history)
    return known and server.read_only and g.knows_leader(s, facts)


def join_witness(s: Situation) -> Record | None:
    """An instance that is about to be attached may acknowledge from then on: it is a witness first."""
    primary = s.snapshot.server(s.record.primary)
    if primary is None or not g.primary_open(s):
        return None
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        if facts is not None and facts.answering is not None and _may_join(s, member, facts, primary):
            # Nothing of this epoch was acknowledged by it yet: what it will have acknowledged it will hold, as long as
            # its server lives. It counts from now on, if what was acknowledged before is with somebody who counts.
            counts = (
                facts.answering.incarnation
                if _somebody_counts(s) and election.applied(facts.answering)
                else ""
            )
            return _edit_witness(s.record, Witness(name=member.name, incarnation=counts))
    return None


def _somebody_counts(s: Situation) -> bool:
    asynchronous = s.record.durability.recorded is Recorded.ASYNCHRONOUS
    return asynchronous or any(each.incarnation for each in s.record.durability.witnesses)


def uncount_reset_witness(s: Situation) -> Record | None:
    """A witness is about to be attached anew, which wipes what it received and did not apply: it does not count.

    Only when the primary is there to attach to: before that it holds what the failover needs.
    """
    if not g.primary_answering(s):
        return None
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        witness = s.record.durability.witness(member.name)
        if (
            witness is None
            or facts is None
            or facts.answering is None
            or not election.present(s.record, facts)
        ):
            continue
        if wants_attaching(s, facts) and not election.applied(facts.answering):
            return _edit_witness(s.record, replace(witness, incarnation=""))
    return None


def wants_attaching(s: Situation, facts: InstanceFacts) -> bool:
    """Whether it follows nobody, or another address than the primary's, or both its threads were stopped."""
    primary = s.snapshot.instance(s.record.primary)
    address = primary.pod.ip if primary is not None and primary.pod is not None else None
    server = facts.answering
    if server is None or address is None:
        return False
    replication = server.replication
    if replication is None or replication.source_host != address:
        return True
    stopped = replication.io_thread is IoThread.STOPPED and not replication.sql_running
    return stopped and not unable_to_follow(server)


def watch_primary(s: Situation) -> Record | None:
    """Commits came to be acknowledged by nobody (their queries were killed): they may exist on the primary only."""
    primary = s.snapshot.server(s.record.primary)
    durability = s.record.durability
    if primary is None or not g.primary_answering(s):
        return None
    count = primary.semi_sync.unacknowledged
    if count <= durability.unacknowledged:
        return None
    durability = replace(durability, unacknowledged=count)
    if durability.witness(s.record.primary or "") is None:
        durability = replace(
            durability, witnesses=(*durability.witnesses, Witness(name=s.record.primary or ""))
        )
    return replace(s.record, durability=durability)


def trust_primary(s: Situation) -> Record | None:
    """A replica received the primary's position read after the last such commit: nothing is on the primary only."""
    facts = s.snapshot.instance(s.record.primary)
    durability = s.record.durability
    if facts is None or facts.unacknowledged_at is None or not g.primary_answering(s):
        return None
    if durability.recorded is not Recorded.SEMI_SYNC or durability.witness(facts.name) is None:
        return None
    for witness in durability.witnesses:
        other = s.snapshot.instance(witness.name)
        if other is None or other.name == facts.name or not election.present(s.record, other):
            continue
        # Strictly: one look reads the position before it reads the count.
        if other.caught_up_at is not None and other.caught_up_at > facts.unacknowledged_at:
            return _without_witness(s.record, facts.name)
    return None


def count_witness(s: Situation) -> Record | None:
    """A witness that received the primary's position, read after its replication was started, counts again."""
    if not g.primary_answering(s):
        return None
    for witness in s.record.durability.witnesses:
        facts = s.snapshot.instance(witness.name)
        if witness.name == s.record.primary or facts is None or facts.busy or facts.caught_up_at is None:
            continue
        server = g.attached(s, facts)
        if server is not None and server.incarnation != witness.incarnation:
            return _edit_witness(s.record, replace(witness, incarnation=server.incarnation))
    return None


def _may_exclude(s: Situation, witness: Witness) -> bool:
    member = s.record.member(witness.name)
    if witness.name == s.record.primary:
        return False
    if member is None or member.leaving or member.kept_out:
        return True
    facts = s.snapshot.instance(witness.name)
    if (
        facts is None
        or facts.detached_since is None
        or s.snapshot.now - facts.detached_since < EXCLUDE_SECONDS
    ):
        return False
    # One that answers and can be attached would only join again at once.
    return facts.answering is None or unable_to_follow(facts.answering)


def unable_to_follow(server: ServerFact) -> bool:
    """Whether its replication ended with an error that attaching again does not cure."""
    replication = server.replication
    return replication is not None and bool(replication.sql_errno or replication.io_errno == PURGED)


def witness_to_exclude(s: Situation) -> Witness | None:
    """Who should stop being a witness: leaving, kept out, or receiving nothing while another one could take over."""
    if not g.primary_answering(s):
        return None
    for witness in s.record.durability.witnesses:
        if not _may_exclude(s, witness):
            continue
        if s.record.durability.recorded is Recorded.ASYNCHRONOUS or _others_count(s, witness):
            return witness
    return None


def _others_count(s: Situation, leaving: Witness) -> bool:
    return any(
        each.name not in (leaving.name, s.record.primary) and counted(s, each.name)
        for each in s.record.durability.witnesses
    )


def counted(s: Situation, name: str) -> bool:
    """Whether this witness holds everything it acknowledged, is no joiner that is still seeded, and receives."""
    facts, member = s.snapshot.instance(name), s.record.member(name)
    complete = member is not None and member.complete
    return complete and election.present(s.record, facts) and g.attached(s, facts) is not None


def exclude_witness(s: Situation) -> Record | None:
    """Its account is locked at the primary, and a remaining witness received the primary's position read afterwards."""
    witness = witness_to_exclude(s)
    facts = s.snapshot.instance(witness.name) if witness is not None else None
    if witness is None or facts is None or facts.shut_out_since is None or _unlocking_may_run(s):
        return None
    if s.record.durability.recorded is Recorded.ASYNCHRONOUS:
        return _without_witness(s.record, witness.name)
    for other in s.record.durability.witnesses:
        theirs = s.snapshot.instance(other.name)
        if (
            other.name in (witness.name, s.record.primary)
            or theirs is None
            or not election.present(s.record, theirs)
        ):
            continue
        # Strictly: one look reads the position before it reads the locks.
        if theirs.caught_up_at is not None and theirs.caught_up_at > facts.shut_out_since:
            return _without_witness(s.record, witness.name)
    return None


def _unlocking_may_run(s: Situation) -> bool:
    """Whether a statement of ours, or of an earlier leader, may still let in whom the primary shows locked out."""
    primary = s.snapshot.instance(s.record.primary)
    server = primary.answering if primary is not None else None
    return primary is None or server is None or primary.busy or not g.knows_leader(s, primary)


def raise_floor(s: Situation) -> Record:
    """The highest position that a counted, attached witness holds: known to be acknowledged, or about to be.

    Never what is errant there: nobody could cover such a floor, and the primary itself would not be taken back.
    """
    floor = s.record.durability.floor
    if s.record.durability.recorded is not Recorded.SEMI_SYNC or not g.primary_answering(s):
        return s.record
    held = [
        election.sound(s.record, server)
        for each in s.record.durability.witnesses
        if counted(s, each.name) and (server := s.snapshot.server(each.name)) is not None
    ]
    highest = floor
    for position in held:
        highest = highest.merge(position)
    if highest == floor or not isinstance(highest, Position):
        return s.record
    return replace(s.record, durability=replace(s.record.durability, floor=highest))
