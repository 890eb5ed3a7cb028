"""The status: what the operator wrote it reads again, and what others wrote never crashes it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mariadb_operator.api.conditions import Condition, ConditionType, merged
from mariadb_operator.api.crd import openapi
from mariadb_operator.api.schema import paths
from mariadb_operator.api.status import (
    STATUS_BYTES,
    InstanceStatus,
    Observed,
    StatusUnreadable,
    from_status,
    lag_text,
    to_status,
)
from mariadb_operator.api.status_model import MariaDBClusterStatus, Role
from mariadb_operator.api.text import clip, instant, size
from statemachines.gtid import Gtid, Position
from statemachines.record import Durability, HistoryEntry, Member, Operation, Record, Recorded, Witness
from statemachines.states import FAILING_OVER, State

names = st.from_regex(r"[a-z][-a-z0-9]{0,40}-[0-8]", fullmatch=True)
words = st.from_regex(r"[A-Za-z][-A-Za-z0-9 ]{0,40}", fullmatch=True)
moments = st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)
counters = st.integers(0, 2**53)
gtids = st.builds(Gtid, st.integers(0, 5), st.integers(1, 9), st.integers(0, 2**63))
positions = st.lists(gtids, max_size=3).map(lambda each: Position(tuple(each)))
members = st.lists(
    st.builds(
        Member, name=names, ordinal=st.integers(0, 8), kept_out=st.just("") | words, leaving=st.booleans()
    ),
    max_size=9,
    unique_by=lambda each: each.name,
).map(tuple)
entries = st.builds(
    HistoryEntry,
    sequence=counters,
    source=st.sampled_from(State),
    target=st.sampled_from(State),
    trigger=words,
    guards=st.lists(words, max_size=3).map(tuple),
    at=moments,
    evidence=words,
    operation=words,
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    state = draw(st.sampled_from(State))
    known = draw(members)
    operation = st.builds(
        Operation,
        id=words,
        old_primary=names,
        started=moments,
        deadline=moments,
        candidate=st.none() | names,
        target=positions,
        evidence=words,
        attempts=st.integers(1, 99),
        by_policy=st.booleans(),
        tail=positions,
        without_tail=st.booleans(),
    )
    return Record(
        state=state,
        since=draw(moments),
        sequence=draw(counters),
        epoch=draw(counters),
        cluster_id=draw(st.just("") | words),
        primary=draw(st.sampled_from([each.name for each in known])) if known else None,
        primary_incarnation=draw(st.just("") | words),
        primary_pod=draw(st.just("") | words),
        members=known,
        durability=Durability(
            recorded=draw(st.sampled_from(Recorded)),
            witnesses=tuple(draw(st.lists(st.builds(Witness, name=names, incarnation=words), max_size=3))),
            floor=draw(positions),
        ),
        operation=draw(operation if state in FAILING_OVER else st.none() | operation),
        last_failover=draw(st.none() | moments),
        refuted_at=draw(st.none() | moments),
        refuted_proven=draw(st.booleans()),
        message=draw(st.just("") | words),
        history=tuple(draw(st.lists(entries, max_size=5))),
    )


OBSERVED = Observed(observed_generation=3, image="mariadb:11.8", wanted=3, replicas=3, selector="a=b")


def written(record: Record, observed: Observed = OBSERVED) -> dict[str, Any]:
    status = to_status(record, observed, previous=None, now=0.0)
    read: dict[str, Any] = json.loads(json.dumps(status))
    return read


@given(records())
def test_what_was_written_is_read_again(record: Record) -> None:
    assert from_status(written(record)) == record


def test_no_status_is_a_record_that_was_never_written() -> None:
    assert from_status(None).sequence == 0
    assert from_status({}).sequence == 0
    assert from_status({"conditions": [], "observedGeneration": 4}).sequence == 0


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.just("x" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def unreadable(status: object) -> StatusUnreadable | None:
    """What reading it raised; anything but StatusUnreadable fails the test that asked."""
    try:
        from_status(status)
    except StatusUnreadable as problem:
        return problem
    return None


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(sorted(MariaDBClusterStatus.model_json_schema()["properties"])), hostile)
)
def test_a_status_edited_by_hand_is_read_or_refused_and_nothing_else(edits: dict[str, object]) -> None:
    problem = unreadable(healthy() | edits)
    if problem is not None:
        assert problem.salvaged.state is State.QUARANTINED
        again = unreadable(written(problem.salvaged))
        assert again is None or again.salvaged.state is State.QUARANTINED


@given(hostile)
def test_garbage_instead_of_a_status_is_read_or_refused_and_nothing_else(garbage: object) -> None:
    problem = unreadable(garbage)
    assert problem is None or problem.salvaged.state is State.QUARANTINED


def healthy() -> dict[str, Any]:
    member = Member(name="db-0", ordinal=0)
    return written(
        Record(
            state=State.HEALTHY,
            since=1.0,
            sequence=7,
            epoch=2,
            primary="db-0",
            members=(member,),
            cluster_id="c",
        )
    )


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"state": "Sleeping"}, "'Sleeping' is unknown"),
        ({"substate": "Fencing"}, "'Healthy_Fencing' is unknown"),
        ({"state": "FailingOver", "substate": "Opening"}, "needs an operation"),
        ({"schema": 99}, "schema is 99"),
        ({"schema": None}, "schema is None"),
        ({"epoch": "many"}, "epoch is 'many'"),
        ({"epoch": None}, "epoch is missing"),
        ({"sequence": -1}, "sequence is '-1'"),
        ({"since": "yesterday"}, "since is 'yesterday'"),
        ({"primary": "db-7"}, "'db-7' is none of the members"),
        ({"members": [{"name": "db-0"}]}, "members.0.ordinal"),
        ({"durability": None}, "durability is missing"),
        ({"durability": {"recorded": "Perhaps"}}, "'Perhaps' is unknown"),
        ({"durability": {"recorded": "SemiSync", "floor": "0-1"}}, "not a GTID: '0-1'"),
    ],
)
def test_what_is_wrong_in_a_status_is_named_with_field_and_value(edit: dict[str, Any], named: str) -> None:
    with pytest.raises(StatusUnreadable, match=r"leave-quarantine=[70]$") as problem:
        from_status(healthy() | edit)
    assert named in str(problem.value)
    assert problem.value.salvaged.cluster_id == "c"


def test_history_of_another_version_is_left_out_and_blocks_nothing() -> None:
    status = healthy() | {
        "history": [{"seq": 1, "from": "Dreaming", "to": "Healthy", "at": "2026-01-01T00:00:00Z"}]
    }
    assert from_status(status).history == ()


def test_a_status_never_outgrows_its_bounds() -> None:
    noise = '"\\\n' * 4000
    entry = HistoryEntry(
        sequence=1,
        source=State.CONFIRMING,
        target=State.FENCING,
        trigger=noise,
        guards=(noise,) * 40,
        at=1.0,
        evidence=noise,
        operation="o" * 64,
    )
    record = Record(
        state=State.HEALTHY,
        members=tuple(Member(name=f"db-{each}", ordinal=each, kept_out=noise) for each in range(9)),
        message=noise,
        history=tuple(replace(entry, sequence=each) for each in range(100)),
    )
    instance = InstanceStatus(
        name="db-0", ordinal=0, role=Role.REPLICA, ready=True, gtid=noise, message=noise, node="n" * 253
    )
    answer = Condition(type=ConditionType.READY, holds=True, reason=noise, message=noise)
    observed = replace(OBSERVED, instances=(instance,) * 16, conditions=(answer,) * 5)
    status = written(record, observed)
    assert size(status) <= STATUS_BYTES
    assert 0 < len(status["history"]) <= 32
    assert status["history"][-1]["seq"] == 99
    assert all(size(each) <= 1024 for each in status["history"])
    strings = {path: schema for path, schema in paths(openapi()) if "maxLength" in schema}
    for path, schema in strings.items():
        if path.startswith("status."):
            found = _values(status, path.removeprefix("status."))
            assert all(len(each) <= schema["maxLength"] for each in found), path


def _values(node: Any, path: str) -> list[Any]:
    head, _, rest = path.partition(".")
    items = node.get(head.removesuffix("[]")) if isinstance(node, dict) else None
    found = (items or []) if head.endswith("[]") else [] if items is None else [items]
    return [value for each in found for value in _values(each, rest)] if rest else found


def test_the_ready_column_counts_against_what_is_wanted() -> None:
    one = InstanceStatus(name="db-0", ordinal=0, role=Role.PRIMARY, ready=True)
    other = replace(one, name="db-1", ordinal=1, ready=False)
    assert replace(OBSERVED, instances=(one, other)).ready_instances == "1/3"


def test_unknown_lag_shows_nothing_rather_than_zero() -> None:
    assert (lag_text(None), lag_text(0.0), lag_text(2.4)) == ("", "0s", "2s")


def test_a_condition_keeps_its_time_until_its_answer_changes() -> None:
    def answer(holds: bool | None) -> Condition:
        return Condition(type=ConditionType.READY, holds=holds, reason="Because", message="It is so.")

    first = merged([answer(True)], previous=None, generation=1, now=100.0)
    same = merged([answer(True)], previous=first, generation=2, now=200.0)
    changed = merged([answer(None)], previous=same, generation=2, now=300.0)
    assert [each[0]["lastTransitionTime"] for each in (first, same, changed)] == [
        instant(moment, timespec="seconds") for moment in (100.0, 100.0, 300.0)
    ]
    assert changed[0]["status"] == "Unknown"


@given(hostile)
def test_conditions_survive_whatever_stood_there_before(previous: object) -> None:
    answer = Condition(type=ConditionType.READY, holds=True, reason="Because", message="It is so.")
    assert merged([answer], previous=previous, generation=1, now=0.0)[0]["status"] == "True"


@given(st.text(), st.integers(3, 60))
def test_clipped_text_fits_and_a_short_one_stays(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    assert size(clipped) - 2 <= limit
    if size(text) - 2 <= limit:
        assert clipped == text
