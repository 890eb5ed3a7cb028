"""Plan: which effects a state calls for, given the facts. Pure; asked at every pass, so an effect that is done is not
asked for again, because its result is a fact.

Not for running them: the runner never runs two effects on one instance at once (mariadb_operator.act).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from statemachines import effects as e
from statemachines import election, following
from statemachines import guards as g
from statemachines.detection import Analysis, analyse
from statemachines.facts import InstanceFacts, IoThread, Process, Reach, ServerFact, Volume
from statemachines.members import deletes_volume
from statemachines.record import DurabilityMode, Member, Recorded, Situation, account
from statemachines.states import State
from statemachines.updates import remaining_witnesses
from statemachines.witnesses import counted, witness_to_exclude


def plan(s: Situation) -> tuple[e.Effect, ...]:
    """The effects that this situation calls for."""
    return tuple(_plan(s))


def _plan(s: Situation) -> Iterator[e.Effect]:
    for planner in PLANNERS.get(s.record.state, ()):
        yield from planner(s)


def _release(s: Situation) -> Iterator[e.Effect]:
    yield e.Release(s.intent.delete_volumes)


def _confirm(s: Situation) -> Iterator[e.Effect]:
    yield e.ProbeNow(tuple(member.name for member in s.record.members))


# --- Provisioning -------------------------------------------------------------------------------------------------


def _provision(s: Situation) -> Iterator[e.Effect]:
    if s.record.sequence == 0:
        return
    if s.snapshot.objects_due or not s.snapshot.objects_ready:
        yield e.EnsureObjects()
    yield from _instances(s)
    yield from _terms(s)
    yield from _certificates(s)
    primary = _facts(s, s.record.primary)
    server = primary.answering if primary is not None else None
    if primary is None or server is None or not g.knows_leader(s, primary):
        return
    if server.epoch == 0 and not server.replication:
        yield e.InitialisePrimary(_name(s.record.primary), s.record.cluster_id)


# --- Replicating, Healthy, Degraded -------------------------------------------------------------------------------


def _keep(s: Situation) -> Iterator[e.Effect]:
    if s.snapshot.objects_due or not s.snapshot.objects_ready:
        yield e.EnsureObjects()
    yield from _instances(s)
    yield from _terms(s)
    yield from _certificates(s)
    yield from _primary_role(s)
    yield from following.demote(s)
    if g.primary_answering(s):
        yield from following.repoint(s)
        yield from following.replica_endpoints(s)
    else:
        yield from following.lift_fence(s)


def _instances(s: Situation) -> Iterator[e.Effect]:
    """Volume claims and Pods, in the order of their ordinals."""
    for member in sorted(s.record.members, key=lambda each: each.ordinal):
        facts = _facts(s, member.name)
        pod = facts.pod if facts is not None else None
        if member.leaving:
            yield from _remove(s, member, facts)
        elif pod is None:
            if s.snapshot.instances_possible and _may_create(s, member, facts):
                yield _ensure(s, member)
        elif pod.failed and not pod.deleting:
            yield e.DeletePod(member.name, pod.uid, None, "its Pod has ended and will not run again")
        elif pod.problem and pod.spec_hash != s.intent.template_hash and not pod.deleting and not pod.ready:
            yield e.DeletePod(member.name, pod.uid, None, "it never ran and the spec has changed since")


def _ensure(s: Situation, member: Member) -> e.EnsureInstance:
    """A primary's successor has to meet the volume's lock, so it is made on the same node until the end is known."""
    home = s.record.primary_node if member.name == s.record.primary and not g.death_proven(s) else ""
    return e.EnsureInstance(member.name, member.ordinal, home)


def _may_create(s: Situation, member: Member, facts: InstanceFacts | None) -> bool:
    """An empty volume is never made for an instance that was a primary: emptiness is never replicated (invariant 4)."""
    volume = facts.volume if facts is not None else Volume.ABSENT
    if s.record.epoch > 0 and member.name == s.record.primary:
        return volume is not Volume.ABSENT
    return volume is not Volume.LOST


def _remove(s: Situation, member: Member, facts: InstanceFacts | None) -> Iterator[e.Effect]:
    if facts is None or s.record.durability.witness(member.name) is not None:
        return
    if s.intent.delete_volumes and not member.redundant and _still_applies(facts.answering):
        return
    if facts.pod is not None:
        if not facts.pod.deleting:
            yield e.DeletePod(member.name, facts.pod.uid, None, "scaled in")
    elif deletes_volume(s, member) and facts.volume is not Volume.ABSENT:
        yield e.DeleteVolume(member.name)


def _certificates(s: Situation) -> Iterator[e.Effect]:
    """Each server shows a certificate that names its address: no replica talks to a source that does not."""
    known = s.snapshot.certified_addresses
    if known is None:
        return
    addresses = frozenset(
        each.pod.ip for each in s.snapshot.instances if each.pod is not None and each.pod.ip
    )
    if addresses - known:
        yield e.Certify(addresses)
    for each in s.snapshot.instances:
        server = each.answering
        if server is not None and not server.certified and each.pod is not None and each.pod.ip in known:
            yield e.ReloadCertificate(each.name)


def _still_applies(server: ServerFact | None) -> bool:
    """Whether it will soon be seen to hold nothing of its own."""
    return server is not None and server.replication is not None and server.replication.sql_running


def _terms(s: Situation) -> Iterator[e.Effect]:
    for member in s.record.members:
        facts = _facts(s, member.name)
        if facts is not None and facts.answering is not None and not g.knows_leader(s, facts):
            yield e.RaiseTerm(member.name, s.intent.term)


def _primary_role(s: Situation) -> Iterator[e.Effect]:
    primary = _facts(s, s.record.primary)
    server = primary.answering if primary is not None else None
    if primary is None or server is None or not g.primary_answering(s) or not g.knows_leader(s, primary):
        return
    name = primary.name
    if (
        primary.pod is not None
        and primary.pod.ip is not None
        and not primary.pod.deleting
        and not g.service_switched(s)
    ):
        yield e.SwitchPrimary(name, primary.pod.ip, s.record.epoch)
    if server.read_only:
        if g.service_switched(s):
            yield _opening(s, name)
        return
    if server.epoch < s.record.epoch:
        yield e.WriteEpoch(name, s.record.epoch, s.record.cluster_id)
    if server.semi_sync.source_enabled != _semi_sync_wanted(s):
        yield e.SetSemiSync(name, _semi_sync_wanted(s))
    elif _needs_acknowledgement(s, primary, server):
        yield e.ProveAcknowledgement(name)
    if s.snapshot.application_due:
        yield e.KeepApplication(name)
    unlocked = _unlocked(s)
    locked = _locked(unlocked)
    if server.locked_accounts != locked or server.connected_accounts & locked:
        yield e.SetAccounts(name, unlocked)


def _opening(s: Situation, name: str) -> e.OpenPrimary:
    return e.OpenPrimary(
        name, s.record.epoch, s.record.cluster_id, _semi_sync_wanted(s), s.record.primary_incarnation
    )


CURRENT_SECONDS = 5.0  # how old the position may be that a replica is known to hold, to be worth waiting for


def _semi_sync_wanted(s: Situation) -> bool:
    if s.record.durability.recorded is Recorded.SEMI_SYNC:
        return True  # never less than what is recorded
    if not s.intent.wants_semi_sync:
        return False
    if s.intent.durability is DurabilityMode.GUARANTEED:
        return True
    return any(
        counted(s, each.name) and _current(s, each.name)
        for each in s.record.durability.witnesses
        if each.name != s.record.primary
    )


def _current(s: Situation, name: str) -> bool:
    facts = _facts(s, name)
    at = facts.caught_up_at if facts is not None else None
    return at is not None and s.snapshot.now - at <= CURRENT_SECONDS


def _needs_acknowledgement(s: Situation, primary: InstanceFacts, server: ServerFact) -> bool:
    recorded = s.record.durability.recorded is Recorded.SEMI_SYNC
    waiting = s.intent.wants_semi_sync and server.semi_sync.source_enabled and server.semi_sync.clients > 0
    return waiting and not recorded and primary.acknowledged_at is None


def _unlocked(s: Situation) -> tuple[int, ...]:
    excluded = witness_to_exclude(s)
    ordinals = (
        member.ordinal
        for each in s.record.durability.witnesses
        if each != excluded and (member := s.record.member(each.name)) is not None
    )
    return tuple(sorted(ordinals))


MAXIMUM_INSTANCES = 9


def _locked(unlocked: tuple[int, ...]) -> frozenset[str]:
    return frozenset(account(number) for number in range(MAXIMUM_INSTANCES) if number not in unlocked)


# --- FailingOver ----------------------------------------------------------------------------------------------------


def _fence(s: Situation) -> Iterator[e.Effect]:
    yield from _terms(s)
    since = s.snapshot.operation_since
    for member in s.record.replicas:
        facts = _facts(s, member.name)
        server = facts.answering if facts is not None else None
        if facts is None or server is None or not g.knows_leader(s, facts):
            continue
        seen = since is not None and server.asked_at >= since
        stopped = server.replication is None or server.replication.io_thread is IoThread.STOPPED
        if not (seen and stopped):
            yield e.StopReceiving(member.name)
    yield from _hold(s)
    yield from _kill(s)


def _hold(s: Situation) -> Iterator[e.Effect]:
    """Keep the old primary's server down by its sidecar, also when it is dead: so nothing changes on its volume."""
    word = g.primary_sidecar(s)
    if word is None or g.primary_alive(s):
        return
    if word.process is Process.RUNNING and word.incarnation != s.record.primary_incarnation:
        return  # another start: read-only, and followed by nobody
    if not (word.held and (word.process is Process.ENDED or word.free)):
        yield e.FenceServer(_name(s.record.primary), s.record.epoch, s.record.cluster_id)


def _salvage(s: Situation) -> Iterator[e.Effect]:
    """Bring what the best replica lacks of the dead primary's binary logs into a file next to it."""
    primary, operation, best = _facts(s, s.record.primary), s.record.operation, g.elected(s)
    if primary is None or operation is None or best is None or not g.volume_at_hand(s):
        return
    if not g.secured(s, best.name):
        yield e.Salvage(
            best.name, primary.name, best.received, operation.id, s.record.epoch, s.record.cluster_id
        )


def _permit(s: Situation) -> Iterator[e.Effect]:
    """A server that waits may start: no operation needs it, or its volume, as it is."""
    for member in s.record.members:
        facts = _facts(s, member.name)
        word = facts.at_hand if facts is not None else None
        if word is not None and word.waiting:
            yield e.PermitServer(member.name, word.waiting, s.record.epoch, s.record.cluster_id)


def _kill(s: Situation) -> Iterator[e.Effect]:
    """End the old primary where that is not proven yet: through its kubelet, or by a successor on its volume's lock."""
    primary = _facts(s, s.record.primary)
    if primary is None:
        return
    if primary.pod is None:
        # Also when it is proven dead: where nobody else is fit, it comes back with what it has.
        if primary.volume is not Volume.ABSENT and (member := s.record.member(primary.name)) is not None:
            yield _ensure(s, member)
    elif g.death_proven(s) or primary.at_hand is not None:
        return
    elif primary.pod.uid != s.record.primary_pod or primary.pod.deleting:
        return  # a successor: its answer is the proof; or the kubelet was asked already
    elif primary.probe.reach is Reach.SILENT and g.silence_confirmed(s):
        yield e.DeletePod(
            primary.name, primary.pod.uid, 1, "silent primary: killed before another is promoted"
        )


def _candidate(s: Situation) -> ServerFact | None:
    operation = s.record.operation
    facts = _facts(s, operation.candidate) if operation is not None else None
    return facts.answering if facts is not None else None


def _drain(s: Situation) -> Iterator[e.Effect]:
    operation = s.record.operation
    if operation is not None and operation.candidate is not None and not g.candidate_drained(s):
        server = _candidate(s)
        target = election.received(server) if server is not None else operation.target
        yield e.Drain(operation.candidate, target)


def _equalise(s: Situation) -> Iterator[e.Effect]:
    operation = s.record.operation
    if operation is None or operation.candidate is None or g.candidate_equalised(s):
        return
    facts = _facts(s, operation.candidate)
    if facts is None or facts.answering is None or not g.knows_leader(s, facts):
        return
    if not facts.answering.executed.covers(operation.tail):
        yield e.ApplySalvaged(
            operation.candidate, operation.id, operation.tail, s.record.epoch, s.record.cluster_id
        )
        return
    staying = {
        each.name
        for each in remaining_witnesses(
            s.record, s.snapshot, candidate=operation.candidate, old_primary=operation.old_primary
        )
    }
    unlocked = sorted(member.ordinal for member in s.record.members if member.name in staying)
    yield e.Equalise(operation.candidate, operation.target, tuple(unlocked))


def _switch(s: Situation) -> Iterator[e.Effect]:
    primary = _facts(s, s.record.primary)
    if (
        primary is not None
        and primary.pod is not None
        and primary.pod.ip is not None
        and not g.service_switched(s)
    ):
        yield e.SwitchPrimary(primary.name, primary.pod.ip, s.record.epoch)


def _open(s: Situation) -> Iterator[e.Effect]:
    primary = _facts(s, s.record.primary)
    server = primary.answering if primary is not None else None
    if primary is None or server is None or not g.knows_leader(s, primary):
        return
    if server.read_only and analyse(s.record, s.snapshot) is Analysis.NO_PROBLEM:
        yield _opening(s, primary.name)


def _facts(s: Situation, name: str | None) -> InstanceFacts | None:
    return s.snapshot.instance(name)


def _name(name: str | None) -> str:
    assert name is not None
    return name


PLANNERS: dict[State, tuple[Callable[[Situation], Iterator[e.Effect]], ...]] = {
    State.PROVISIONING: (_provision, _permit),
    State.REPLICATING: (_keep, _permit),
    State.HEALTHY: (_keep, _permit),
    State.DEGRADED: (_keep, _permit),
    State.CONFIRMING: (_confirm,),
    State.FENCING: (_fence,),
    State.SALVAGING: (_fence, _salvage),
    State.DRAINING: (_terms, _drain),
    State.EQUALISING: (_terms, _equalise),
    State.SWITCHING: (_terms, _switch, _certificates, following.repoint),
    State.OPENING: (_terms, _open, _certificates, following.repoint),
    # A supervisor without a gate would start it, too: read-only, and nobody's decision.
    State.PAUSED: (_permit,),
    State.QUARANTINED: (_permit,),
    State.DELETING: (_release,),
}
"""What each state does; a state that is absent does nothing."""
