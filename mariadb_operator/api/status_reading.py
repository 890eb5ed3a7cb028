"""From the status of the resource back to the record of the state machine.

Never crashes and never guesses: whatever an older or newer operator or a person wrote, `from_status` returns a Record
or raises StatusUnreadable, which holds what could be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from mariadb_operator.api.group import LEAVE_QUARANTINE_ANNOTATION
from mariadb_operator.api.status_model import (
    MESSAGE_BYTES,
    DurabilityModel,
    HistoryModel,
    MariaDBClusterStatus,
    OperationModel,
)
from mariadb_operator.api.text import clip, seconds_of
from mariadb_operator.runtime.errors import Permanent
from statemachines.gtid import Position
from statemachines.record import Durability, HistoryEntry, Member, Operation, Record, Recorded, Witness
from statemachines.states import FAILING_OVER, SCHEMA, State

_REMEDY = f". Compare the data, correct status, then annotate {LEAVE_QUARANTINE_ANNOTATION}={{sequence}}"


class StatusUnreadable(Permanent):
    """The status can't be trusted: a person or another version wrote what this operator can't read.

    `salvaged` is what could be read, in state Quarantined, with the problem as its message.
    """

    def __init__(self, problem: str, salvaged: Record) -> None:
        super().__init__(problem)
        self.salvaged = salvaged


def from_status(status: object) -> Record:
    """The record in a status; a status that no operator has written gives `Record()`, whose sequence is 0.

    Raises StatusUnreadable.
    """
    model, problems = _parsed({} if status is None else status)
    if not problems and model.state is None and model.sequence is None and model.epoch is None:
        return Record()
    state = _state(model, problems)
    if model.record_version != SCHEMA:
        problems.append(f"schema is {model.record_version}, this operator knows {SCHEMA}")
    problems += [
        f"{name} is missing" for name in ("sequence", "epoch", "since") if getattr(model, name) is None
    ]
    if model.epoch and model.durability is None:
        problems.append("durability is missing: who may have acknowledged is unknown")
    durability = _read_durability(model.durability, problems)
    operation = _read_operation(model.operation, problems)
    record = Record(
        state=state,
        since=0.0 if model.since is None else seconds_of(model.since),
        sequence=model.sequence or 0,
        epoch=model.epoch or 0,
        cluster_id=model.cluster_id or "",
        primary=model.primary,
        primary_incarnation=model.primary_incarnation or "",
        primary_pod=model.primary_pod or "",
        primary_node=model.primary_node or "",
        primary_ended=bool(model.primary_ended),
        members=tuple(
            Member(
                name=each.name,
                ordinal=each.ordinal,
                kept_out=each.kept_out,
                leaving=each.leaving,
                complete=each.complete,
                redundant=each.redundant,
            )
            for each in model.members or ()
        ),
        durability=durability,
        operation=operation,
        last_failover=None if model.last_failover is None else seconds_of(model.last_failover),
        refuted_at=None if model.refuted_at is None else seconds_of(model.refuted_at),
        refuted_proven=bool(model.refuted_proven),
        message=model.message or "",
        history=tuple(entry for each in model.history or () if (entry := _read_history(each)) is not None),
    )
    problems += _contradictions(record)
    return _trusted(record, problems)


def _trusted(record: Record, problems: list[str]) -> Record:
    if not problems:
        return record
    sequence = max(record.sequence, *(entry.sequence for entry in record.history), 0)
    problem = clip("status can't be read: " + "; ".join(problems), MESSAGE_BYTES - len(_REMEDY) - 16)
    message = problem + _REMEDY.format(sequence=sequence)
    salvaged = replace(record, state=State.QUARANTINED, message=message, sequence=sequence, operation=None)
    raise StatusUnreadable(message, salvaged)


def _parsed(status: object) -> tuple[MariaDBClusterStatus, list[str]]:
    """The model of what can be read, and a sentence for each top-level field that can't."""
    if not isinstance(status, Mapping):
        return MariaDBClusterStatus(), [f"it is no object but {str(status)[:80]!r}"]
    fields = {key: value for key, value in status.items() if isinstance(key, str)}
    problems: list[str] = []
    try:
        return MariaDBClusterStatus.model_validate(fields), problems
    except ValidationError as error:
        for each in error.errors(include_url=False):
            path = ".".join(str(part) for part in each["loc"])
            problems.append(f"{path} is {str(each['input'])[:80]!r}: {each['msg']}")
            fields.pop(str(each["loc"][0]), None)
    return MariaDBClusterStatus.model_validate(fields), problems


def _state(model: MariaDBClusterStatus, problems: list[str]) -> State:
    path = f"{model.state or ''}_{model.substate}" if model.substate else model.state or ""
    try:
        return State(path)
    except ValueError:
        problems.append(f"state {path!r} is unknown" if path else "state is missing")
        return State.QUARANTINED


def _position(text: str, field: str, problems: list[str]) -> Position:
    try:
        return Position.parse(text)
    except ValueError as error:
        problems.append(f"{field}: {error}")
        return Position()


def _read_durability(model: DurabilityModel | None, problems: list[str]) -> Durability:
    if model is None:
        return Durability()
    try:
        recorded = Recorded(model.recorded)
    except ValueError:
        problems.append(f"durability.recorded {model.recorded!r} is unknown")
        recorded = Recorded.ASYNCHRONOUS
    return Durability(
        recorded=recorded,
        witnesses=tuple(Witness(name=each.name, incarnation=each.incarnation) for each in model.witnesses),
        floor=_position(model.floor, "durability.floor", problems),
        # Where it is not told, no transaction up to the floor is taken for errant.
        base=_position(model.floor if model.base is None else model.base, "durability.base", problems),
        unacknowledged=model.unacknowledged,
    )


def _read_operation(model: OperationModel | None, problems: list[str]) -> Operation | None:
    if model is None:
        return None
    return Operation(
        id=model.id,
        old_primary=model.old_primary,
        started=seconds_of(model.started_at),
        deadline=seconds_of(model.deadline),
        candidate=model.candidate,
        target=_position(model.target_gtid, "operation.targetGtid", problems),
        evidence=model.evidence,
        attempts=model.attempts,
        proven=model.proven,
        by_policy=model.by_policy,
        tail=_position(model.tail_gtid, "operation.tailGtid", problems),
        without_tail=model.without_tail,
    )


def _read_history(model: HistoryModel) -> HistoryEntry | None:
    """None for an entry of states that this version does not know: history decides nothing."""
    try:
        source, target = State(model.from_state), State(model.to_state)
    except ValueError:
        return None
    return HistoryEntry(
        sequence=model.seq,
        source=source,
        target=target,
        trigger=model.trigger,
        guards=tuple(model.guards),
        at=seconds_of(model.at),
        evidence=model.evidence,
        operation=model.operation,
    )


def _contradictions(record: Record) -> list[str]:
    """What no operator writes, so a person did."""
    problems = []
    names = [member.name for member in record.members]
    if record.primary is not None and record.primary not in names:
        problems.append(f"primary {record.primary!r} is none of the members")
    if len(set(names)) != len(names):
        problems.append("members has a name twice")
    if record.state in FAILING_OVER and record.operation is None:
        problems.append(f"state {record.state} needs an operation")
    return problems
