"""Members: which instances belong to the cluster, which must not follow, what may become of their volumes. Rules of
bookkeeping.py.

Nothing that may exist once is erased (invariant 3): an errant instance is kept out as it is, and a volume goes only when
it was seen to hold nothing of its own. Not for who may acknowledge: witnesses.py.
"""

from __future__ import annotations

from dataclasses import replace

from statemachines import election
from statemachines import guards as g
from statemachines.facts import ServerFact, Volume
from statemachines.gtid import Gtid
from statemachines.record import Member, Record, Situation


def _edit_member(record: Record, member: Member) -> Record:
    return replace(
        record, members=tuple(member if each.name == member.name else each for each in record.members)
    )


def add_members(s: Situation) -> Record | None:
    """The spec asks for more instances: the lowest free ordinals join."""
    staying = [each for each in s.record.members if not each.leaving]
    if len(staying) >= s.intent.replicas:
        return None
    returning = next((each for each in s.record.members if each.leaving), None)
    if returning is not None:
        return _edit_member(s.record, replace(returning, leaving=False, redundant=False))
    taken = {each.ordinal for each in s.record.members}
    ordinal = next(number for number in range(len(taken) + 1) if number not in taken)
    member = Member(name=f"{s.intent.name}-{ordinal}", ordinal=ordinal)
    return replace(s.record, members=(*s.record.members, member))


def retire_member(s: Situation) -> Record | None:
    """The spec asks for fewer: the highest ordinal that is not the primary leaves, one at a time."""
    staying = [each for each in s.record.members if not each.leaving]
    if len(staying) <= s.intent.replicas or len(staying) < len(s.record.members) or not g.primary_open(s):
        return None
    victims = [each for each in staying if each.name != s.record.primary]
    victim = max(victims, key=lambda each: (bool(each.kept_out), each.ordinal), default=None)
    return _edit_member(s.record, replace(victim, leaving=True)) if victim is not None else None


def note_redundant(s: Situation) -> Record | None:
    """A leaving instance holds nothing that the primary lacks: its volume may be deleted, where the policy says so."""
    primary = s.snapshot.server(s.record.primary)
    if primary is None or not g.primary_answering(s):
        return None
    for member in s.record.replicas:
        server = s.snapshot.server(member.name)
        if server is None or not member.leaving or member.redundant or member.kept_out:
            continue
        if election.applied(server) and not server.history.errant_against(primary.history):
            return _edit_member(s.record, replace(member, redundant=True))
    return None


def drop_member(s: Situation) -> Record | None:
    """A leaving member that is no witness, and whose Pod (and volume, by policy) is gone, is no member."""
    for member in s.record.members:
        facts = s.snapshot.instance(member.name)
        volume_done = facts is None or facts.volume is Volume.ABSENT or not deletes_volume(s, member)
        gone = (facts is None or facts.pod is None) and volume_done
        if member.leaving and s.record.durability.witness(member.name) is None and gone:
            rest = tuple(each for each in s.record.members if each.name != member.name)
            return replace(s.record, members=rest)
    return None


def deletes_volume(s: Situation, member: Member) -> bool:
    """Whether the volume goes with its instance: by policy, but never what may exist there only (invariant 3)."""
    return s.intent.delete_volumes and member.redundant and not member.kept_out


def keep_out_errant(s: Situation) -> Record | None:
    """An instance with transactions that the primary's history lacks is kept out; nothing on it is erased."""
    primary = s.snapshot.server(s.record.primary)
    if primary is None or not g.primary_answering(s):
        return None
    for member in s.record.replicas:
        server = s.snapshot.server(member.name)
        if server is None or member.kept_out:
            continue
        foreign = server.cluster_id not in ("", s.record.cluster_id)
        errant = _errant(server, primary)
        if foreign or errant:
            what = f"data of another cluster ({server.cluster_id})" if foreign else ",".join(map(str, errant))
            return _edit_member(s.record, replace(member, kept_out=f"errant: {what}"))
    return None


def _errant(server: ServerFact, primary: ServerFact) -> tuple[Gtid, ...]:
    """What the primary lacks for good: what it wrote itself since it was asked may just have arrived there."""
    return tuple(
        gtid
        for gtid in server.history.errant_against(primary.history)
        if gtid.server != primary.server_id or server.read_before(primary)
    )


def let_in_reseeded(s: Situation) -> Record | None:
    """A kept-out instance whose volume was replaced by a person is empty: it may be seeded again."""
    for member in s.record.replicas:
        server = s.snapshot.server(member.name)
        if member.kept_out and server is not None and _empty(server):
            return _edit_member(s.record, replace(member, kept_out=""))
    return None


def _empty(server: ServerFact) -> bool:
    return not server.history and not server.epoch


def note_completeness(s: Situation) -> Record | None:
    """An instance held everything the primary had, for the first time since its volume was empty; or it is empty."""
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        server = facts.answering if facts is not None else None
        if facts is None or server is None:
            continue
        if member.complete and _empty(server) and server.replication is None:
            return _edit_member(s.record, replace(member, complete=False))
        caught_up = facts.caught_up_at is not None and not facts.busy and g.attached(s, facts) is not None
        if not member.complete and caught_up and g.primary_answering(s):
            return _edit_member(s.record, replace(member, complete=True))
    return None
