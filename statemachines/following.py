"""What replicas are told: whom to follow, to receive and apply again, and which of them serve reads. Part of plan.py."""

from __future__ import annotations

from collections.abc import Iterator

from statemachines import effects as e
from statemachines import election
from statemachines import guards as g
from statemachines.facts import InstanceFacts, IoThread, ServerFact
from statemachines.record import Member, Situation, account
from statemachines.witnesses import unable_to_follow, wants_attaching


def demote(s: Situation) -> Iterator[e.Effect]:
    """A writable instance that is not the primary of this epoch (it was frozen or cut off): its clients must go."""
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        if facts is None or facts.answering is None or facts.pod is None or facts.answering.read_only:
            continue
        if not facts.pod.deleting:
            yield e.DeletePod(member.name, facts.pod.uid, 1, "writable, but not the primary of this epoch")


def repoint(s: Situation) -> Iterator[e.Effect]:
    """Each witness follows the present primary: attached, or only started again where less does."""
    primary = s.snapshot.instance(s.record.primary)
    address = primary.pod.ip if primary is not None and primary.pod is not None else None
    if primary is None or address is None:
        return
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        server = facts.answering if facts is not None else None
        if facts is None or server is None or not _may_attach(s, member, server, primary):
            continue
        replication = server.replication
        if replication is None or wants_attaching(s, facts):
            yield e.Attach(member.name, member.ordinal, primary.name, address)
        elif election.can_apply(server):
            yield e.StartApplying(member.name)
        elif replication.io_thread is IoThread.STOPPED and not unable_to_follow(server):
            yield e.StartReceiving(member.name)


def _may_attach(s: Situation, member: Member, server: ServerFact, primary: InstanceFacts) -> bool:
    """Only to a live primary: START SLAVE wipes what was received and not applied, and only it can send that again."""
    witness = s.record.durability.witness(member.name)
    if (
        witness is None
        or member.kept_out
        or member.leaving
        or not server.read_only
        or not _ready_to_follow(s, member)
    ):
        return False
    if primary.answering is None or primary.answering.incarnation != s.record.primary_incarnation:
        return False
    if not primary.answering.certified:
        return False
    return account(member.ordinal) not in primary.answering.locked_accounts


def _ready_to_follow(s: Situation, member: Member) -> bool:
    facts = s.snapshot.instance(member.name)
    return facts is not None and g.knows_leader(s, facts)


def lift_fence(s: Situation) -> Iterator[e.Effect]:
    """A rolled-back operation leaves IO threads stopped; they start again, for the same source and server start only."""
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        if facts is not None and g.fenced(s, facts):
            yield e.StartReceiving(member.name)


def replica_endpoints(s: Situation) -> Iterator[e.Effect]:
    """Those that receive and apply serve reads; written after the primary's switch, never just before it."""
    wanted = tuple(
        member.name
        for member in s.record.replicas
        if not member.leaving and g.attached(s, s.snapshot.instance(member.name)) is not None
    )
    if frozenset(wanted) != s.snapshot.replica_endpoints and g.service_switched(s):
        yield e.SetReplicaEndpoints(wanted)
