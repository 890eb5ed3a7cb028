"""Updates: pure edits of the record that go with a transition.

Each returns a new record; the status write makes it true before any effect runs. Edits that go with no transition
(who joins, who counts) are in bookkeeping.py.
"""

from __future__ import annotations

from dataclasses import replace

from statemachines import election
from statemachines.detection import analyse, proofs
from statemachines.facts import ServerFact, Snapshot
from statemachines.gtid import Position
from statemachines.guards import elected, secured, volume_at_hand
from statemachines.record import (
    Durability,
    DurabilityMode,
    Member,
    Operation,
    Record,
    Recorded,
    Situation,
    Witness,
    account,
)


def adopt_members(s: Situation) -> Record:
    """Name the first members and the first primary."""
    members = tuple(Member(name=f"{s.intent.name}-{n}", ordinal=n) for n in range(s.intent.replicas))
    return replace(s.record, members=members, primary=members[0].name, cluster_id=s.intent.cluster_uid)


def begin_first_epoch(s: Situation) -> Record:
    """Epoch 1 on the first primary; nothing waits for acknowledgements yet, and the record says so."""
    primary = s.snapshot.instance(s.record.primary)
    assert primary is not None
    assert primary.answering is not None
    assert s.record.primary is not None
    return replace(
        s.record,
        epoch=1,
        members=_with_complete(s.record.members, s.record.primary),
        primary_incarnation=primary.answering.incarnation,
        primary_pod=primary.answering.pod_uid,
        primary_node=_node_of(s.snapshot, s.record.primary),
        durability=Durability(recorded=Recorded.ASYNCHRONOUS, witnesses=(Witness(name=s.record.primary),)),
    )


def _with_complete(members: tuple[Member, ...], name: str) -> tuple[Member, ...]:
    return tuple(
        replace(each, complete=True, leaving=False) if each.name == name else each for each in members
    )


def _node_of(snapshot: Snapshot, name: str) -> str:
    facts = snapshot.instance(name)
    return (facts.pod.node or "") if facts is not None and facts.pod is not None else ""


def describe_evidence(s: Situation) -> str:
    """What the suspicion rests on, for the history."""
    found = proofs(s.record, s.snapshot)
    return str(analyse(s.record, s.snapshot)) + (f": {', '.join(found)}" if found else "")


def open_operation(s: Situation) -> Record:
    """Begin a failover of the present primary."""
    assert s.record.primary is not None
    operation = Operation(
        id=f"{s.record.epoch}-{s.record.sequence + 1}",
        old_primary=s.record.primary,
        started=s.wall,
        deadline=s.wall,
        evidence=describe_evidence(s),
    )
    return replace(s.record, operation=operation)


def note_evidence(s: Situation) -> Record:
    """Keep the latest evidence with the operation."""
    if s.record.operation is None:
        return s.record
    proven = s.record.operation.proven or bool(proofs(s.record, s.snapshot))
    return replace(
        s.record, operation=replace(s.record.operation, evidence=describe_evidence(s), proven=proven)
    )


def go_on_by_policy(s: Situation) -> Record:
    """Remember that proof or a witness was missing and that Promote accepted it."""
    assert s.record.operation is not None
    missing = [
        each.name
        for each in s.record.durability.witnesses
        if not election.present(s.record, s.snapshot.instance(each.name))
    ]
    evidence = (
        f"{describe_evidence(s)}; onUncertainData=Promote; witnesses missing: {', '.join(missing) or 'none'}"
    )
    return replace(s.record, operation=replace(s.record.operation, by_policy=True, evidence=evidence))


def choose_candidate(s: Situation) -> Record:
    """Write down who is promoted and up to where it received."""
    best = elected(s)
    assert best is not None
    assert s.record.operation is not None
    target = best.received.merge(s.record.operation.tail)
    return replace(s.record, operation=replace(s.record.operation, candidate=best.name, target=target))


def note_tail(s: Situation) -> Record:
    """What the dead primary's volume holds is where it is needed."""
    assert s.record.operation is not None
    best = elected(s)
    assert best is not None
    everything, operation = secured(s, best.name), s.record.operation
    if not operation.tail:
        saved = "nothing more" if best.received.covers(everything) else f"up to {everything}, saved"
        evidence = f"{operation.evidence}; its volume holds {saved}"
        operation = replace(operation, tail=everything, evidence=evidence)
    return replace(s.record, operation=operation)


def go_on_without_tail(s: Situation) -> Record:
    """What only the dead primary's volume holds stays there: nobody was told of it, or Promote accepts the loss."""
    assert s.record.operation is not None
    what = "was not read in time" if volume_at_hand(s) else "is out of reach"
    evidence = f"{s.record.operation.evidence}; its volume {what}"
    operation = replace(s.record.operation, tail=Position(), without_tail=True, evidence=evidence)
    return replace(s.record, operation=operation)


def drop_candidate(s: Situation) -> Record:
    """Forget a candidate that was lost before the commit point."""
    assert s.record.operation is not None
    return replace(s.record, operation=replace(s.record.operation, candidate=None))


def remaining_witnesses(
    record: Record, snapshot: Snapshot, *, candidate: str, old_primary: str
) -> tuple[Witness, ...]:
    """Who shall acknowledge in the next epoch: earlier witnesses that answer, none of them counted yet."""
    return tuple(
        Witness(name=each.name)
        for each in record.durability.witnesses
        if each.name not in (candidate, old_primary)
        and (facts := snapshot.instance(each.name)) is not None
        and facts.answering is not None
        and (member := record.member(each.name)) is not None
        and not member.kept_out
        and not member.leaving
    )


def next_witnesses(s: Situation, candidate: ServerFact, operation: Operation) -> tuple[Witness, ...]:
    """Who may acknowledge in the next epoch: who shall, and whoever the candidate would let in."""
    shall = remaining_witnesses(
        s.record, s.snapshot, candidate=_name(operation.candidate), old_primary=operation.old_primary
    )
    names = {each.name for each in shall} | {
        member.name
        for member in s.record.members
        if member.name != operation.candidate and account(member.ordinal) not in candidate.locked_accounts
    }
    return tuple(Witness(name=name) for name in sorted(names))


def _name(name: str | None) -> str:
    assert name is not None
    return name


def commit_epoch(s: Situation) -> Record:
    """The commit point: the next epoch begins with the candidate as its primary."""
    operation = s.record.operation
    assert operation is not None
    assert operation.candidate is not None
    candidate = s.snapshot.instance(operation.candidate)
    assert candidate is not None
    assert candidate.answering is not None
    witnesses = next_witnesses(s, candidate.answering, operation)
    was_semi_sync = s.record.durability.recorded is Recorded.SEMI_SYNC
    alone_but_preferred = not witnesses and s.intent.durability is DurabilityMode.PREFERRED
    recorded = Recorded.SEMI_SYNC if was_semi_sync and not alone_but_preferred else Recorded.ASYNCHRONOUS
    if recorded is Recorded.ASYNCHRONOUS:
        witnesses = (*witnesses, Witness(name=operation.candidate))
    floor = operation.target if operation.by_policy else s.record.durability.floor.merge(operation.target)
    return replace(
        s.record,
        epoch=s.record.epoch + 1,
        primary=operation.candidate,
        members=_with_complete(s.record.members, operation.candidate),
        primary_incarnation=candidate.answering.incarnation,
        primary_pod=candidate.answering.pod_uid,
        primary_node=_node_of(s.snapshot, operation.candidate),
        primary_ended=False,
        durability=Durability(
            recorded=recorded,
            witnesses=witnesses,
            floor=floor,
            base=candidate.answering.executed,
            unacknowledged=candidate.answering.semi_sync.unacknowledged,
        ),
        last_failover=s.wall,
        refuted_at=None,
        refuted_proven=False,
    )


def close_operation(s: Situation) -> Record:
    """The operation is over."""
    return replace(s.record, operation=None)


def note_refuted(s: Situation) -> Record:
    """It led to nothing: the same suspicion, or the same proof, begins no other one for a while."""
    return replace(s.record, refuted_at=s.wall, refuted_proven=bool(proofs(s.record, s.snapshot)))


def record_asynchronous(s: Situation) -> Record:
    """From now on commits may exist on the primary only: it becomes a witness itself."""
    assert s.record.primary is not None
    durability = s.record.durability
    witnesses = durability.witnesses
    if durability.witness(s.record.primary) is None:
        witnesses = (*witnesses, Witness(name=s.record.primary))
    return replace(
        s.record, durability=replace(durability, recorded=Recorded.ASYNCHRONOUS, witnesses=witnesses)
    )


def record_semi_sync(s: Situation) -> Record:
    """Every commit is again on a replica before its client hears of it; the primary is no witness any more."""
    durability = s.record.durability
    witnesses = tuple(each for each in durability.witnesses if each.name != s.record.primary)
    return replace(s.record, durability=replace(durability, recorded=Recorded.SEMI_SYNC, witnesses=witnesses))


def quarantine_volumes(s: Situation) -> Record:
    """Say what a person can do about volumes without a status."""
    names = ", ".join(f"data-{each.name}" for each in s.snapshot.instances if each.volume.value != "Absent")
    message = (
        f"volumes with data exist but the resource has no status ({names}): nothing is initialised or promoted. "
        "Restore .status of the resource from your backup, or delete these PersistentVolumeClaims if their data "
        "is not needed"
    )
    return replace(s.record, message=message, cluster_id=s.intent.cluster_uid)


def quarantine_contradiction(s: Situation) -> Record:
    """Say that status and servers disagree."""
    message = (
        f"the servers hold a later epoch, or another primary, than .status (epoch {s.record.epoch}, primary "
        f"{s.record.primary}): the status was edited or restored. Correct .status.epoch and .status.primary, then "
        f"annotate the resource with mariadb.fsm.dev/leave-quarantine={s.record.sequence + 1}"
    )
    return replace(s.record, message=message, operation=None)


def clear_message(s: Situation) -> Record:
    """Nothing needs a person any more."""
    return replace(s.record, message="")
