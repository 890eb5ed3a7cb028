"""What the machine makes of a sidecar's word: death at once, the server held, and what only its volume has saved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from statemachines import effects as e
from statemachines import election
from statemachines import guards as g
from statemachines.decide import Decision, decide
from statemachines.detection import Analysis, Proof, analyse, proofs
from statemachines.facts import (
    InstanceFacts,
    IoThread,
    Process,
    Reach,
    SalvagedFact,
    SidecarFact,
    Snapshot,
    Writing,
)
from statemachines.gtid import Position
from statemachines.permission import failover_blocked_by
from statemachines.plan import plan
from statemachines.record import Durability, Record, Recorded, Witness
from statemachines.states import State
from tests.unit.machine_cases import (
    FIRST,
    NOW,
    PRIMARY,
    SECOND,
    UID,
    WALL,
    instance,
    intent,
    met,
    operation,
    record,
    replication,
    server,
    sidecar,
    situation,
    snapshot,
)


def dead(**changes: Any) -> SidecarFact:
    """The sidecar of the primary, whose server ended and is held."""
    return sidecar(
        process=Process.ENDED,
        held=True,
        waiting="start-0-again",
        answers=None,
        **changes,
    )


def replica(number: int, received: str = "0-1-5", **changes: Any) -> InstanceFacts:
    """A replica that lost its source and was stopped from receiving since the operation began."""
    stopped = replication(received, io_thread=IoThread.STOPPED)
    facts = instance(
        number, server=server(number, received, replication=stopped), sidecar=sidecar(number), **changes
    )
    return replace(facts, caught_up_at=None)


def fenced(
    *, primary: SidecarFact | None, replicas: tuple[InstanceFacts, ...] | None = None, **changes: Any
) -> Snapshot:
    """The primary's server is gone, its replicas are stopped."""
    others = (replica(1), replica(2)) if replicas is None else replicas
    lost = instance(0, sidecar=primary, **met(Reach.REFUSED))
    return snapshot(lost, *others, operation_since=NOW - 1.0, **changes)


def failing(state: State = State.FENCING, **changes: Any) -> Record:
    return record(state=state, operation=operation(proven=True, deadline=WALL + 20.0), **changes)


def went_through(facts: Snapshot, known: Record, wall: float = WALL) -> Decision:
    return decide(intent(), facts, known, wall)


# --- death ------------------------------------------------------------------------------------------------------------


def test_the_sidecars_word_of_death_counts_before_any_other_view_has_noticed() -> None:
    facts = snapshot(instance(0, sidecar=sidecar(process=Process.ENDED)), instance(1), instance(2))
    assert analyse(record(), facts) is Analysis.PRIMARY_DEAD
    assert proofs(record(), facts) == (Proof.PROCESS_ENDED,)
    decision = decide(intent(), facts, record(), WALL)
    assert decision.record.state is State.FENCING
    assert decision.record.operation is not None
    assert decision.record.operation.proven


def test_the_end_of_another_start_of_the_server_proves_nothing() -> None:
    for other in (
        sidecar(process=Process.ENDED, incarnation="start-before"),
        sidecar(process=Process.UNKNOWN),
    ):
        facts = snapshot(instance(0, sidecar=other), instance(1), instance(2))
        assert analyse(record(), facts) is Analysis.NO_PROBLEM


def test_a_session_that_breaks_says_nothing_of_the_server() -> None:
    lost = sidecar(connected=False)
    facts = snapshot(instance(0, sidecar=lost), instance(1), instance(2))
    assert analyse(record(), facts) is Analysis.NO_PROBLEM


def test_a_frozen_primary_is_known_by_two_views_before_its_replicas_notice() -> None:
    silent = met(Reach.SILENT, since=NOW - 2.0)
    facts = snapshot(instance(0, sidecar=sidecar(answers=False), **silent), instance(1), instance(2))
    assert analyse(record(), facts) is Analysis.PRIMARY_HUNG
    assert analyse(
        record(), snapshot(instance(0, sidecar=sidecar(), **silent), instance(1), instance(2))
    ) is (Analysis.PRIMARY_UNREACHABLE_BUT_REPLICATING)


@pytest.mark.parametrize(
    ("writing", "analysis"),
    [
        (Writing.DISK_FULL, Analysis.DISK_FULL),
        (Writing.READ_ONLY, Analysis.READ_ONLY_FILESYSTEM),
        (Writing.STALLED, Analysis.IO_STALLED),
    ],
)
def test_a_primary_that_can_not_write_is_replaced_after_a_while_by_one_that_can(
    writing: Writing, analysis: Analysis
) -> None:
    def facts(since: float, other: Writing = Writing.WORKS) -> Snapshot:
        return snapshot(
            instance(0, sidecar=sidecar(writing=writing, writing_since=since)),
            instance(1, sidecar=sidecar(1, writing=other)),
            instance(2, sidecar=sidecar(2, writing=other)),
        )

    long_since = NOW - g.UNABLE_SECONDS
    assert analyse(record(), facts(NOW)) is analysis
    assert decide(intent(), facts(NOW), record(), WALL).record.operation is None
    assert decide(intent(), facts(long_since, other=writing), record(), WALL).record.operation is None
    decision = decide(intent(), facts(long_since), record(), WALL)
    assert decision.record.state is State.FENCING
    fencing = situation(facts=replace(facts(long_since), operation_since=NOW - 1.0), known=decision.record)
    assert e.FenceServer(PRIMARY, 1, UID) in plan(fencing)
    assert not [each for each in plan(fencing) if isinstance(each, e.DeletePod)]


# --- fence ------------------------------------------------------------------------------------------------------------


def test_a_dead_primary_is_held_so_that_nothing_changes_on_its_volume() -> None:
    waiting = fenced(primary=sidecar(process=Process.ENDED))
    assert e.FenceServer(PRIMARY, 1, UID) in plan(situation(facts=waiting, known=failing()))
    assert not [each for each in plan(situation(facts=fenced(primary=dead()), known=failing())) if
                isinstance(each, e.FenceServer)]  # fmt: skip


def test_a_hung_primary_is_killed_by_its_sidecar_and_not_through_its_kubelet() -> None:
    hung = instance(0, sidecar=sidecar(answers=False), **met(Reach.SILENT, since=NOW - 3.0))
    facts = snapshot(hung, replica(1), replica(2), operation_since=NOW - 1.0)
    known = record(state=State.FENCING, operation=operation())
    effects = plan(situation(facts=facts, known=known))
    assert e.FenceServer(PRIMARY, 1, UID) in effects
    assert not [each for each in effects if isinstance(each, e.DeletePod)]


def test_servers_that_are_down_may_start_when_no_operation_needs_them_as_they_are() -> None:
    down = instance(
        1,
        sidecar=sidecar(1, process=Process.ENDED, waiting="start-1-again"),
        **met(Reach.REFUSED, pod_uid="pod-1"),
    )
    facts = snapshot(instance(0, sidecar=sidecar()), down, instance(2, sidecar=sidecar(2)))
    for state in (State.DEGRADED, State.PAUSED, State.QUARANTINED):
        effects = plan(situation(facts=facts, known=record(state=state)))
        permits = [each for each in effects if isinstance(each, e.PermitServer)]
        assert permits == [e.PermitServer(FIRST, "start-1-again", 1, UID)], state
    assert not [
        each
        for each in plan(situation(facts=fenced(primary=dead()), known=failing()))
        if isinstance(each, e.PermitServer)
    ]


# --- salvage ----------------------------------------------------------------------------------------------------------


def saved(upto: str = "0-1-7", *, after: str = "0-1-5", of: str = "1-8") -> SidecarFact:
    """The sidecar of a replica that has a file of that failover."""
    there = SalvagedFact(operation=of, after=Position.parse(after), upto=Position.parse(upto))
    return sidecar(1, salvaged=there)


def with_file(upto: str = "0-1-7", **changes: Any) -> tuple[InstanceFacts, InstanceFacts]:
    return replace(replica(1), sidecar=saved(upto, **changes)), replica(2)


GONE = instance(2, **met(Reach.SILENT, pod_uid="pod-2"))


def test_what_only_the_dead_primary_holds_is_brought_over_before_anybody_is_elected() -> None:
    decision = went_through(fenced(primary=dead()), failing())
    assert decision.record.state is State.SALVAGING
    salvage = e.Salvage(FIRST, PRIMARY, Position.parse("0-1-5"), "1-8", 1, UID)
    assert [each for each in decision.effects if isinstance(each, e.Salvage)] == [salvage]


def test_the_candidate_has_to_hold_what_was_salvaged_before_it_is_committed() -> None:
    decision = went_through(fenced(primary=dead(), replicas=with_file()), failing())
    assert decision.record.state is State.EQUALISING
    done, everything = decision.record.operation, Position.parse("0-1-7")
    assert done is not None
    assert (done.candidate, done.target, done.tail) == (FIRST, everything, everything)
    assert decision.effects == (e.ApplySalvaged(FIRST, "1-8", everything, 1, UID),)


def test_an_empty_file_says_that_nothing_is_missing_and_costs_no_write() -> None:
    decision = went_through(fenced(primary=dead(), replicas=with_file("0-1-5")), failing())
    assert decision.record.state is State.EQUALISING
    assert not decision.write
    assert [each.trigger for each in decision.entries][:2] == ["fenced", "salvaged"]
    assert isinstance(decision.effects[0], e.Equalise)


@pytest.mark.parametrize(
    "file",
    [{"of": "1-2"}, {"after": "0-1-6"}],
    ids=["of another failover", "it continues what this one has not"],
)
def test_a_file_that_does_not_fit_is_no_salvage(file: dict[str, str]) -> None:
    decision = went_through(fenced(primary=dead(), replicas=with_file(**file)), failing())
    assert decision.record.state is State.SALVAGING


def test_without_a_sidecar_that_salvages_it_is_passed_if_every_witness_is_there() -> None:
    for lost in (None, sidecar(process=Process.ENDED, connected=False), dead(salvages=False)):
        decision = went_through(fenced(primary=lost), failing())
        assert decision.record.state is State.EQUALISING
        assert decision.record.operation is not None
        assert decision.record.operation.without_tail


def test_a_volume_that_is_about_to_be_held_is_waited_for() -> None:
    not_yet = sidecar(process=Process.ENDED, waiting="start-0-again")
    decision = went_through(fenced(primary=not_yet), failing())
    assert decision.record.state is State.SALVAGING
    assert e.FenceServer(PRIMARY, 1, UID) in decision.effects
    assert not [each for each in decision.effects if isinstance(each, e.Salvage)]


def test_an_optional_salvage_ends_after_a_while_and_a_needed_one_is_waited_for() -> None:
    late = WALL + g.SALVAGE_SECONDS
    salvaging = failing(State.SALVAGING)
    assert went_through(fenced(primary=dead()), salvaging, late).record.state is State.EQUALISING
    alone = fenced(primary=dead(), replicas=(replica(1), GONE))
    assert went_through(alone, salvaging, late).record.state is State.SALVAGING


def test_a_missing_witness_is_made_up_for_by_the_volume_of_the_dead_primary() -> None:
    volume = fenced(primary=dead(), replicas=(with_file("0-1-5")[0], GONE))
    assert failover_blocked_by(situation(facts=volume, known=record())) == ""
    assert went_through(volume, failing()).record.state is State.EQUALISING
    no_volume = fenced(primary=None, replicas=(replica(1), GONE))
    assert failover_blocked_by(situation(facts=no_volume, known=record())) == "WitnessMissing"
    assert went_through(no_volume, failing()).record.state is State.FENCING


def test_what_was_asynchronous_is_on_the_volume_too() -> None:
    durability = Durability(
        recorded=Recorded.ASYNCHRONOUS,
        witnesses=(Witness(name=PRIMARY), Witness(name=FIRST, incarnation="start-1")),
        floor=Position.parse("0-1-4"),
    )
    facts = fenced(primary=dead(), replicas=with_file("0-1-9"))
    decision = went_through(facts, failing(durability=durability))
    assert decision.record.state is State.EQUALISING
    assert decision.record.operation is not None
    assert decision.record.operation.target == Position.parse("0-1-9")


def test_a_volume_that_turns_out_to_have_less_than_is_known_to_be_acknowledged_is_not_relied_on() -> None:
    known = record(durability=replace(record().durability, floor=Position.parse("0-1-8")))
    short = fenced(primary=dead(), replicas=(with_file("0-1-7")[0], GONE))
    salvaging = replace(known, state=State.SALVAGING, operation=failing().operation)
    assert not g.volume_at_hand(situation(facts=short, known=salvaging))
    assert went_through(short, salvaging).record.state is State.FENCING


def test_when_another_is_the_best_the_salvage_is_made_anew_next_to_it() -> None:
    facts = fenced(primary=dead(), replicas=(with_file()[0], replica(2, "0-1-6")))
    electing = failing(State.ELECTING)
    assert electing.operation is not None
    electing = replace(electing, operation=replace(electing.operation, tail=Position.parse("0-1-7")))
    decision = went_through(facts, electing)
    assert decision.record.state is State.SALVAGING
    salvage = e.Salvage(SECOND, PRIMARY, Position.parse("0-1-6"), "1-8", 1, UID)
    assert [each for each in decision.effects if isinstance(each, e.Salvage)] == [salvage]


def test_a_salvage_that_leads_to_nothing_lets_the_primary_start_again() -> None:
    facts = fenced(primary=dead(), replicas=(replica(1), GONE))
    decision = went_through(facts, failing(State.SALVAGING), WALL + 20.0)
    assert decision.record.state is State.DEGRADED
    assert decision.record.refuted_proven
    assert e.PermitServer(PRIMARY, "start-0-again", 1, UID) in decision.effects


def test_with_the_volume_at_hand_a_restarted_replica_may_be_promoted() -> None:
    known = record(
        durability=Durability(
            recorded=Recorded.SEMI_SYNC,
            witnesses=(Witness(name=FIRST, incarnation="start-before"),),
            floor=Position.parse("0-1-6"),
        )
    )
    facts = fenced(primary=None, replicas=(replica(1),))
    assert election.elect(known, facts, by_policy=False) is None
    best = election.elect(known, facts, by_policy=False, salvaging=True)
    assert best is not None
    assert best.name == FIRST
