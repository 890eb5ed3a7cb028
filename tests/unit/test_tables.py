"""The tables are well-formed: what runs, what is drawn and what is documented are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from statemachines import diagrams, export
from statemachines.cluster import TABLE
from statemachines.decide import machine_states, machine_transitions
from statemachines.failover import limit
from statemachines.guards import deadline_passed
from statemachines.plan import PLANNERS
from statemachines.states import BEFORE_COMMIT, FAILING_OVER, STATES, Kind, State
from statemachines.tables import Transition
from tests.unit.machine_cases import intent

EXPORTED = Path(__file__).resolve().parents[2] / "docs" / "machine"


def test_a_trigger_leads_from_a_state_to_one_state_only() -> None:
    edges = [(row.source, row.trigger) for row in TABLE]
    assert len(edges) == len(set(edges))


def test_every_state_is_described_and_reached_and_left_unless_final() -> None:
    assert set(STATES) == set(State)
    assert all(info.text.endswith(".") for info in STATES.values())
    assert {row.target for row in TABLE} == set(State)
    final = {state for state, info in STATES.items() if info.kind is Kind.FINAL}
    assert {row.source for row in TABLE} == set(State) - final == set(State) - {State.DELETING}


def test_the_transient_states_are_those_of_the_failover() -> None:
    assert {state for state, info in STATES.items() if info.kind is Kind.TRANSIENT} == set(FAILING_OVER)


@pytest.mark.parametrize("state", [each for each in FAILING_OVER if each is not State.COMMITTING])
def test_every_substate_has_a_deadline(state: State) -> None:
    assert limit(state, intent()) > 0
    overdue = [row for row in TABLE if row.source is state and deadline_passed in row.when]
    assert overdue, "a substate that nothing ends"


def test_committing_is_passed_within_its_own_write() -> None:
    into = [row for row in TABLE if row.target is State.COMMITTING]
    assert all(row.write_ahead for row in into)
    out = next(row for row in TABLE if row.source is State.COMMITTING and row.target is not State.DELETING)
    assert out.trigger == "committed"
    assert not out.write_ahead
    assert State.COMMITTING not in PLANNERS


def test_before_the_commit_every_step_can_be_undone_and_after_it_none() -> None:
    for state in BEFORE_COMMIT:
        assert State.DEGRADED in {
            row.target for row in TABLE if row.source is state and row.trigger == "primary_answered"
        }
    assert not any(row.trigger == "primary_answered" for row in TABLE if row.source not in BEFORE_COMMIT)


def test_what_binds_is_written_before_it_is_done() -> None:
    for row in TABLE:
        if row.target in (State.FENCING, State.COMMITTING, State.DELETING, State.QUARANTINED):
            # Back behind a fence that stands and is written.
            assert row.write_ahead or row.trigger in ("candidate_lost", "volume_lost"), row.trigger


@pytest.mark.parametrize("row", TABLE, ids=[f"{row.source}-{row.trigger}" for row in TABLE])
def test_every_row_explains_itself(row: Transition) -> None:
    assert row.text.endswith(".")
    assert len(row.text) < 160
    for guard in (*row.when, *row.unless):
        assert guard.__doc__, guard.__name__
        assert guard.__doc__.strip().endswith(".")


def test_the_machine_is_made_of_the_table() -> None:
    made = {(each["trigger"], each["source"], each["dest"]) for each in machine_transitions()}
    assert made == {(row.trigger, row.source.value, row.target.value) for row in TABLE}
    names = {
        f"{each['name']}_{child}" if isinstance(each, dict) else each
        for each in machine_states()
        for child in (each["children"] if isinstance(each, dict) else ("",))
    }
    assert names == {state.value for state in State}


def test_what_is_committed_in_docs_is_what_the_tables_give() -> None:
    assert export.stale(EXPORTED) == (), f"run `{export.REMEDY}`"


def test_a_stale_file_is_named(tmp_path: Path) -> None:
    for file in EXPORTED.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    picture = tmp_path / "machine.svg"
    picture.write_text(picture.read_text().replace("Healthy", "Wealthy"))
    (tmp_path / "machine.json").unlink()
    assert set(export.stale(tmp_path)) == {"machine.json", "machine.svg"}


def test_every_edge_is_in_the_picture() -> None:
    drawn = {
        (source, trigger, target)
        for (source, target), triggers in diagrams.edges(failover_only=False).items()
        for trigger in triggers
    }
    for row in TABLE:
        from_all = ("FailingOver", row.trigger, row.target.value)
        assert (row.source.value, row.trigger, row.target.value) in drawn or from_all in drawn
