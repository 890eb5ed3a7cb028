"""decide: from intent, facts and record to the next record and the effects to run. The one entry of this package.

The tables say what may follow; `transitions` executes the edge, so that the machine that runs is the one whose diagram
is exported. The guards are evaluated here, because the library does not tell which one refused. Pure and synchronous.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from transitions.extensions import HierarchicalMachine

from statemachines.bookkeeping import RULES
from statemachines.cluster import TABLE
from statemachines.effects import Effect
from statemachines.facts import Snapshot
from statemachines.failover import limit
from statemachines.plan import plan
from statemachines.record import HISTORY_LIMIT, HistoryEntry, Intent, Record, Situation
from statemachines.states import STEADY, State
from statemachines.tables import Transition
from statemachines.witnesses import raise_floor

_MOST_EDGES = 16  # in one pass; more would be a loop in the tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from a situation.

    `write`: the record must be in the status before any of `effects` runs. `changed`: it differs, and may be written
    with the next write. `written`: what any write now, for whatever reason, has to hold. `entries`: the transitions
    taken, oldest first.
    """

    record: Record
    written: Record
    write: bool
    changed: bool
    entries: tuple[HistoryEntry, ...]
    effects: tuple[Effect, ...]


class _Model:
    """What `transitions` moves: one light object per step."""

    state: str


def machine_states() -> list[str | dict[str, Any]]:
    """The states as `transitions` wants them, from the StrEnum."""
    tops: dict[str, list[str]] = {}
    for state in State:
        children = tops.setdefault(state.top, [])
        if state.substate:
            children.append(state.substate)
    return [{"name": top, "children": children} if children else top for top, children in tops.items()]


def machine_transitions() -> list[dict[str, object]]:
    """The edges as `transitions` wants them, from the tables."""
    return [{"trigger": row.trigger, "source": row.source.value, "dest": row.target.value} for row in TABLE]


@cache
def _machine() -> HierarchicalMachine:
    return HierarchicalMachine(
        model=None,
        states=machine_states(),
        transitions=machine_transitions(),
        initial=State.PROVISIONING.value,
        auto_transitions=False,
        send_event=True,
    )


@cache
def _execute(source: State, trigger: str) -> State:
    """Where the machine goes; kept, because putting a model into `transitions` costs milliseconds."""
    machine, model = _machine(), _Model()
    machine.add_model(model, initial=source.value)
    try:
        model.trigger(trigger)  # type: ignore[attr-defined]  # add_model adds it
        return State(model.state)
    finally:
        machine.remove_model(model)


def _evidence(before: Situation, after: Record) -> str:
    operation = after.operation or before.record.operation
    if operation is None:
        return after.message[:200]
    parts = [operation.evidence]
    if operation.candidate is not None:
        parts.append(f"candidate {operation.candidate} at {operation.target}")
    return "; ".join(parts)[:400]


def _take(s: Situation, row: Transition) -> tuple[Record, HistoryEntry]:
    record = s.record
    for update in row.updates:
        record = update(replace(s, record=record))
    target = _execute(s.record.state, row.trigger)
    under_way = record.operation or s.record.operation
    entry = HistoryEntry(
        sequence=s.record.sequence + 1,
        source=s.record.state,
        target=target,
        trigger=row.trigger,
        guards=row.reasons,
        at=s.wall,
        evidence=_evidence(s, record),
        operation=under_way.id if under_way is not None else "",
    )
    since = s.wall if target is not s.record.state else s.record.since
    operation = record.operation
    if operation is not None:
        operation = replace(operation, deadline=s.wall + limit(target, s.intent))
    history = (*record.history, entry)[-HISTORY_LIMIT:]
    return replace(
        record, state=target, since=since, sequence=entry.sequence, operation=operation, history=history
    ), entry


def _next_edge(s: Situation) -> Transition | None:
    return next((row for row in TABLE if row.source is s.record.state and row.holds(s)), None)


def _keep_books(s: Situation) -> Record:
    """Apply the bookkeeping rules until none has anything to say."""
    if s.record.sequence == 0 or s.record.operation is not None:
        return s.record
    if s.record.state not in (State.PROVISIONING, *STEADY):
        return s.record
    rules = RULES if s.record.epoch > 0 else ()
    for _ in range(_MOST_EDGES):
        edited = next((found for rule in rules if (found := rule(s)) is not None), None)
        if edited is None:
            break
        s = replace(s, record=edited)
    return s.record


def take_over(record: Record, intent: Intent, wall: float) -> Record:
    """What a new leader writes before it runs any effect of an open operation; the step's time begins anew.

    The deadline that stands there is of another clock.
    """
    operation = record.operation
    if operation is None:
        return record
    deadline = wall + limit(record.state, intent)
    return replace(record, operation=replace(operation, attempts=operation.attempts + 1, deadline=deadline))


def decide(intent: Intent, snapshot: Snapshot, record: Record, wall: float) -> Decision:
    """The next step of a cluster.

    `wall`: now, in seconds since 1970, used for what people read and for deadlines of substates; ages of facts are on
    the snapshot's own monotonic clock.
    """
    situation = Situation(intent=intent, snapshot=snapshot, record=record, wall=wall)
    entries: list[HistoryEntry] = []
    write = False
    for _ in range(_MOST_EDGES):
        books = _keep_books(situation)
        write = write or books != situation.record
        situation = replace(situation, record=books)
        row = _next_edge(situation)
        if row is None:
            break
        edited, entry = _take(situation, row)
        entries.append(entry)
        write = write or row.write_ahead
        situation = replace(situation, record=edited)
        if row.write_ahead and row.target is State.FENCING:
            break  # the fence is observed from after this write, never from before it
    written = raise_floor(situation)
    if write:
        situation = replace(situation, record=written)
    return Decision(
        record=situation.record,
        written=written,
        write=write,
        changed=situation.record != record,
        entries=tuple(entries),
        effects=plan(situation),
    )
