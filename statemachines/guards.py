"""Guards: one named yes/no question on a situation each; the docstring is the text auditors read.

Guards only look. What they combine lives in detection (is it dead?), election (who is fit?) and gtid. Not for what
follows from an answer: the tables in cluster.py and failover.py.
"""

from __future__ import annotations

from collections.abc import Callable

from statemachines import election
from statemachines.detection import (
    SILENCE_BEFORE_SUSPICION,
    UNABLE_TO_WRITE,
    Analysis,
    analyse,
    proofs,
    serves,
)
from statemachines.facts import InstanceFacts, IoThread, Reach, SalvagedFact, ServerFact, SidecarFact, Volume
from statemachines.gtid import Position
from statemachines.record import OnUncertainData, Recorded, Situation
from statemachines.states import SCHEMA

Guard = Callable[[Situation], bool]

ATTACH_SECONDS = 60.0  # how long Replicating may take before it is called Degraded
STEP_SECONDS = 10.0  # how long a step may take that waits for nobody but ourselves
RETRY_SECONDS = 30.0  # after a failover that led to nothing, while nothing new is proven
UNABLE_SECONDS = 5.0  # how long a primary may be unable to write
SALVAGE_SECONDS = 5.0  # how long what nobody was told is worth an outage


def deletion_requested(s: Situation) -> bool:
    """The resource has a deletionTimestamp."""
    return s.intent.deletion_requested


def suspend_requested(s: Situation) -> bool:
    """spec.suspend is true."""
    return s.intent.suspend


def never_recorded(s: Situation) -> bool:
    """The resource has no status yet."""
    return s.record.sequence == 0


def record_unreadable(s: Situation) -> bool:
    """The persisted status has a schema or state that this operator does not know."""
    return s.record.schema != SCHEMA


def data_without_record(s: Situation) -> bool:
    """Volumes of this cluster hold data, yet there is no status: cold start, never Provisioning."""
    return never_recorded(s) and data_volumes_exist(s)


def data_volumes_exist(s: Situation) -> bool:
    """At least one volume of this cluster is bound."""
    return any(each.volume in (Volume.BOUND, Volume.LOST) for each in s.snapshot.instances)


def unserved(s: Situation) -> bool:
    """No epoch has begun: no client was ever served."""
    return s.record.epoch == 0


def person_released(s: Situation) -> bool:
    """The annotation mariadb.fsm.dev/leave-quarantine names the sequence number at which the quarantine began."""
    return s.intent.leave_quarantine is not None and s.intent.leave_quarantine == s.record.sequence


def primary_facts(s: Situation) -> InstanceFacts | None:
    """What is known of the primary (not a guard)."""
    return s.snapshot.instance(s.record.primary)


def primary_sidecar(s: Situation) -> SidecarFact | None:
    """The word of the primary's sidecar, if it can be asked (not a guard)."""
    primary = primary_facts(s)
    return primary.at_hand if primary is not None else None


def primary_answering(s: Situation) -> bool:
    """The primary of this epoch answers, in the server start that is recorded."""
    primary = primary_facts(s)
    return s.record.epoch > 0 and primary is not None and serves(s.record, primary)


def adoptable(s: Situation) -> bool:
    """The primary's volume came back in a new server start with all that is known to be acknowledged."""
    primary = primary_facts(s)
    server = primary.answering if primary is not None else None
    return (
        server is not None
        and server.cluster_id == s.record.cluster_id
        and s.record.epoch - server.epoch in (0, 1)
        and server.executed.covers(s.record.durability.floor)
        and server.replication is None
        and not _outrun(s, server)
    )


def _outrun(s: Situation, primary: ServerFact) -> bool:
    """Whether a replica holds what the primary itself wrote and does not have: its volume is an older one."""
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        server = facts.answering if facts is not None else None
        if server is None or server.cluster_id != s.record.cluster_id:
            continue
        relayed = server.replication.received.gtids if server.replication is not None else ()
        for gtid in (*server.history.gtids, *relayed):
            known = primary.history.sequences.get((gtid.domain, gtid.server), 0)
            if gtid.server == primary.server_id and gtid.sequence > known:
                return True
    return False


def servers_contradict_record(s: Situation) -> bool:
    """A server holds a later epoch than the status, or another primary for the same one."""
    for member in s.record.members:
        facts = s.snapshot.instance(member.name)
        server = facts.answering if facts is not None else None
        if server is None or server.cluster_id != s.record.cluster_id or member.kept_out:
            continue
        other = server.epoch == s.record.epoch and server.epoch_primary not in ("", s.record.primary)
        if server.epoch > s.record.epoch or other:
            return True
    return False


def primary_open(s: Situation) -> bool:
    """The primary of this epoch answers, is writable and, as far as its sidecar knows, able to write."""
    primary = primary_facts(s)
    server = primary.answering if primary is not None else None
    able = analyse(s.record, s.snapshot) is Analysis.NO_PROBLEM
    return able and server is not None and not server.read_only


def primary_initialised(s: Situation) -> bool:
    """The first instance answers and holds the first epoch's transaction of this cluster."""
    primary = primary_facts(s)
    server = primary.answering if primary is not None else None
    return server is not None and server.epoch == 1 and server.cluster_id == s.record.cluster_id


def attached(s: Situation, facts: InstanceFacts | None) -> ServerFact | None:
    """The replica's facts, if both its threads run and it follows the primary's current address."""
    primary = primary_facts(s)
    server = facts.answering if facts is not None else None
    if primary is None or primary.pod is None or server is None or server.replication is None:
        return None
    replication = server.replication
    running = replication.io_thread is IoThread.RUNNING and replication.sql_running
    return server if running and replication.source_host == primary.pod.ip else None


def observed(s: Situation) -> bool:
    """Every member was asked at least once, and the cluster's objects were looked at, by this operator."""
    return (s.snapshot.objects_ready or bool(s.snapshot.problem)) and everybody_asked(s)


def everybody_asked(s: Situation) -> bool:
    """Every member was asked at least once by this operator."""
    asked = (s.snapshot.instance(each.name) for each in s.record.members)
    return all(facts is not None and facts.probe.reach is not Reach.UNKNOWN for facts in asked)


def fully_replicated(s: Situation) -> bool:
    """As many members as the spec asks for; each replica attached, counted, and commits wait for one of them."""
    if len(s.record.members) != s.intent.replicas or not s.snapshot.objects_ready:
        return False
    for member in s.record.replicas:
        facts = s.snapshot.instance(member.name)
        if member.kept_out or member.leaving or not member.complete or attached(s, facts) is None:
            return False
        if s.intent.wants_semi_sync and not election.present(s.record, facts):
            return False
    return not s.intent.wants_semi_sync or (
        s.record.durability.recorded is Recorded.SEMI_SYNC and not unacknowledged(s)
    )


def attach_overdue(s: Situation) -> bool:
    """Instances have been attaching for more than 60 s."""
    return s.wall - s.record.since > ATTACH_SECONDS


def failover_enabled(s: Situation) -> bool:
    """highAvailability and its failover are enabled, and there is a replica."""
    return s.intent.high_availability and s.intent.failover_enabled and bool(s.record.replicas)


def primary_suspected(s: Situation) -> bool:
    """The primary is proven dead, refuses, came back without its data, lost its Pod and its replicas, is silent for 2 s
    to the operator and to its replicas or its own sidecar, or is unable to write for 5 s.
    """
    primary = primary_facts(s)
    match analyse(s.record, s.snapshot):
        case Analysis.PRIMARY_DEAD | Analysis.PRIMARY_REFUSING:
            return True
        case Analysis.PRIMARY_RESTARTED:
            return not adoptable(s)
        case Analysis.PRIMARY_MISSING:
            # What proves the death, its successor, would be reopened if it answered before the replicas were fenced.
            return primary is not None
        case Analysis.PRIMARY_HUNG | Analysis.PRIMARY_UNREACHABLE | Analysis.PRIMARY_TERMINATING:
            return primary is not None and s.snapshot.now - primary.probe.since >= SILENCE_BEFORE_SUSPICION
        case _:
            return unable_to_write(s)


def unable_to_write(s: Situation) -> bool:
    """The primary's sidecar has found for 5 s that its server can't write, while a replica's can."""
    word = primary_sidecar(s)
    if word is None or analyse(s.record, s.snapshot) not in UNABLE_TO_WRITE.values():
        return False
    best = elected(s)
    other = s.snapshot.instance(best.name) if best is not None else None
    theirs = other.at_hand if other is not None else None
    able = theirs is not None and theirs.writing not in UNABLE_TO_WRITE
    return able and s.snapshot.now - word.writing_since >= UNABLE_SECONDS


def primary_alive(s: Situation) -> bool:
    """The primary answers as before; or, unless its death was proven, it refuses our login or feeds a replica."""
    analysis = analyse(s.record, s.snapshot)
    proven = s.record.operation is not None and s.record.operation.proven
    hints = (Analysis.PRIMARY_PRESENT, Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING)
    return analysis is Analysis.NO_PROBLEM or (analysis in hints and not proven)


def death_proven(s: Situation) -> bool:
    """The server start that served this epoch is proven to have ended, now or earlier in this operation."""
    return bool(proofs(s.record, s.snapshot)) or (
        s.record.operation is not None and s.record.operation.proven
    )


def silence_confirmed(s: Situation) -> bool:
    """The primary is silent and every replica that answers has lost it."""
    return analyse(s.record, s.snapshot) in (
        Analysis.PRIMARY_HUNG,
        Analysis.PRIMARY_UNREACHABLE,
        Analysis.PRIMARY_MISSING,
        Analysis.PRIMARY_TERMINATING,
    )


def promote_allowed(s: Situation) -> bool:
    """onUncertainData is Promote: possible loss is accepted by the owner of the data."""
    return s.intent.on_uncertain_data is OnUncertainData.PROMOTE


def witnesses_complete(s: Situation) -> bool:
    """Everybody who may have acknowledged a commit answers, in the server start in which it held everything."""
    witnesses = s.record.durability.witnesses
    if not witnesses or s.record.durability.recorded is not Recorded.SEMI_SYNC:
        return False
    return all(
        each.name != s.record.primary and election.present(s.record, s.snapshot.instance(each.name))
        for each in witnesses
    )


def witnesses_heard(s: Situation) -> bool:
    """Everybody who may have acknowledged answers still, or the dead primary's volume has told everything, or Promote has
    accepted that somebody is missing.
    """
    operation = s.record.operation
    return may_go_without_tail(s) or (operation is not None and bool(operation.tail))


def receivers_stopped(s: Situation) -> bool:
    """Every witness that answers refuses earlier leaders and was seen, since the operation began, not to receive."""
    since = s.snapshot.operation_since
    if since is None:
        return False
    for witness in s.record.durability.witnesses:  # nobody else can acknowledge: their accounts are locked
        facts = s.snapshot.instance(witness.name)
        if facts is None or facts.answering is None or witness.name == s.record.primary:
            continue
        replication = facts.answering.replication
        stopped = replication is None or replication.io_thread is IoThread.STOPPED
        current = facts.answering.asked_at >= since and knows_leader(s, facts)
        if facts.busy or not current or not stopped:
            return False
    return True


def knows_leader(s: Situation, facts: InstanceFacts) -> bool:
    """Whether the server refuses earlier leaders, and none of their statements runs there any more (not a guard)."""
    server = facts.answering
    return server is not None and server.term >= s.intent.term and not facts.predecessors


def deadline_passed(s: Situation) -> bool:
    """The substate has lasted longer than it may."""
    return s.record.operation is not None and s.wall >= s.record.operation.deadline


def max_wait_over(s: Situation) -> bool:
    """Proof and witnesses were waited for as long as spec.highAvailability.failover.maxWait says."""
    return s.record.operation is not None and s.wall >= s.record.operation.deadline - STEP_SECONDS


def refuted_lately(s: Situation) -> bool:
    """An operation ended without a promotion less than 30 s ago, and no proof of death has come in since."""
    refuted = s.record.refuted_at
    lately = refuted is not None and 0 <= s.wall - refuted < RETRY_SECONDS
    return lately and (s.record.refuted_proven or not proofs(s.record, s.snapshot))


def fence_stands(s: Situation) -> bool:
    """A replica that answers still does not receive because an operation stopped it."""
    return any(
        fenced(s, facts)
        for member in s.record.replicas
        if (facts := s.snapshot.instance(member.name)) is not None
    )


def fenced(s: Situation, facts: InstanceFacts) -> bool:
    """Whether its IO thread was stopped and can be started again for the same source (not a guard)."""
    primary = primary_facts(s)
    address = primary.pod.ip if primary is not None and primary.pod is not None else None
    replication = facts.answering.replication if facts.answering is not None else None
    return (
        replication is not None
        and replication.io_thread is IoThread.STOPPED
        and not replication.io_errno
        and replication.sql_running
        and replication.source_host == address
        and election.present(s.record, facts)
    )


def candidate_fit(s: Situation) -> bool:
    """A replica exists that received everything the others did, is of this cluster, not empty, not errant."""
    return elected(s) is not None


def elected(s: Situation) -> election.Ranked | None:
    """Who would be promoted now (not a guard)."""
    by_policy = s.record.operation.by_policy if s.record.operation is not None else promote_allowed(s)
    return election.elect(s.record, s.snapshot, by_policy=by_policy, salvaging=salvaging(s))


# --- what the dead primary's volume holds ---------------------------------------------------------------------------


def volume_reachable(s: Situation) -> bool:
    """The primary's sidecar answers, it can bring over what the binary logs hold, and they were not found to hold less
    than is known to be acknowledged.
    """
    word = primary_sidecar(s)
    return word is not None and word.salvages and all(_whole(s, fact.upto) for fact in _salvaged(s))


def volume_at_hand(s: Situation) -> bool:
    """The primary's server has ended and is held by its sidecar, so that nothing changes on its volume, which can be read."""
    word = primary_sidecar(s)
    return word is not None and word.held and volume_reachable(s) and bool(proofs(s.record, s.snapshot))


def _salvaged(s: Situation) -> tuple[SalvagedFact, ...]:
    """What was brought over in this operation, next to whomever."""
    operation = s.record.operation
    words = [facts.at_hand for facts in s.snapshot.instances]
    found = [word.salvaged for word in words if word is not None and word.salvaged is not None]
    return tuple(each for each in found if operation is not None and each.operation == operation.id)


def _whole(s: Situation, held: Position) -> bool:
    """Whether a volume that holds this much is not an older one."""
    known = [s.record.durability.floor, s.record.durability.base]
    for member in s.record.replicas:
        server = s.snapshot.server(member.name)
        if server is not None and server.cluster_id == s.record.cluster_id:
            known.append(election.sound(s.record, server))
    return all(held.covers(position) for position in known)


def salvaging(s: Situation) -> bool:
    """Whether a candidate gets what it lacks from the dead primary's volume (not a guard)."""
    operation = s.record.operation
    if operation is None or operation.without_tail:
        return False
    return bool(operation.tail) or volume_at_hand(s)


def secured(s: Situation, name: str) -> Position:
    """Everything that the dead primary's volume holds, if that instance has received it or has the rest in a file
    of this operation; else empty (not a guard).
    """
    facts, operation = s.snapshot.instance(name), s.record.operation
    server = facts.answering if facts is not None else None
    if facts is None or server is None or operation is None:
        return Position()
    if operation.tail and election.received(server).covers(operation.tail):
        return operation.tail
    salvaged = facts.at_hand.salvaged if facts.at_hand is not None else None
    if salvaged is None or salvaged not in _salvaged(s) or not _whole(s, salvaged.upto):
        return Position()
    return salvaged.upto if election.received(server).covers(salvaged.after) else Position()


def tail_secured(s: Situation) -> bool:
    """What the dead primary's binary logs hold was brought to the best replica: it has received it, or has it in a file."""
    best = elected(s)
    return best is not None and bool(secured(s, best.name))


def may_go_without_tail(s: Situation) -> bool:
    """Every witness is present, so that what only the dead primary holds was acknowledged to nobody; or Promote has
    accepted the loss.
    """
    return witnesses_complete(s) or (s.record.operation is not None and s.record.operation.by_policy)


def salvage_overdue(s: Situation) -> bool:
    """The salvage has taken longer than 5 s."""
    return s.wall - s.record.since >= SALVAGE_SECONDS


def candidate_has_tail(s: Situation) -> bool:
    """What was salvaged is with the best replica; or nothing was."""
    operation, best = s.record.operation, elected(s)
    if operation is None or not operation.tail:
        return True
    return best is not None and secured(s, best.name).covers(operation.tail)


def _candidate(s: Situation) -> ServerFact | None:
    operation = s.record.operation
    facts = s.snapshot.instance(operation.candidate) if operation is not None else None
    return facts.answering if facts is not None else None


def candidate_lost(s: Situation) -> bool:
    """The candidate does not answer, or is not fit any more."""
    best = elected(s)
    return s.record.operation is None or best is None or best.name != s.record.operation.candidate


def candidate_drained(s: Situation) -> bool:
    """The candidate applied everything it received."""
    server = _candidate(s)
    return server is not None and election.drained(server)


def candidate_equalised(s: Situation) -> bool:
    """The candidate is no replica any more and its commits will wait for an acknowledgement, if they have to."""
    server = _candidate(s)
    operation = s.record.operation
    facts = s.snapshot.instance(operation.candidate) if operation is not None else None
    if server is None or facts is None or operation is None or facts.busy or not knows_leader(s, facts):
        return False
    return (
        server.replication is None
        and server.pod_uid not in facts.ended_pods
        and server.semi_sync.source_enabled
        and server.executed.covers(operation.target)
    )


def epoch_committed(s: Situation) -> bool:
    """The record names the candidate as primary of the new epoch."""
    operation = s.record.operation
    return operation is not None and s.record.primary == operation.candidate


def service_switched(s: Situation) -> bool:
    """The primary's EndpointSlice carries this epoch and the primary's address."""
    primary = primary_facts(s)
    endpoint = s.snapshot.primary_endpoint
    address = primary.pod.ip if primary is not None and primary.pod is not None else None
    return address is not None and endpoint.address == address and endpoint.epoch == s.record.epoch


def unacknowledged(s: Situation) -> bool:
    """For longer than degradeAfter nobody could acknowledge, or nobody did, while commits waited (not a guard)."""
    primary = primary_facts(s)
    # Another start of the server, not taken for the primary yet, was never waited at.
    if primary is None or not primary_answering(s) or primary.lonely_since is None:
        return False
    return s.snapshot.now - primary.lonely_since >= s.intent.degrade_after


def primary_came_back(s: Situation) -> bool:
    """The primary answers again in a new server start, with its data."""
    return analyse(s.record, s.snapshot) is Analysis.PRIMARY_RESTARTED and adoptable(s)
