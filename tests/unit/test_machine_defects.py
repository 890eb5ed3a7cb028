"""Defects of the machine that were found by reading or exploring it, each kept here by a test that failed before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from statemachines import bookkeeping, detection, durability, election, guards, members, updates, witnesses
from statemachines.decide import decide
from statemachines.effects import DeleteVolume, EnsureInstance, Equalise, RaiseTerm
from statemachines.facts import InstanceFacts, IoThread, Reach, ServerFact
from statemachines.gtid import Gtid, History, Position
from statemachines.plan import plan
from statemachines.record import Record, Recorded, Situation, Witness
from statemachines.states import State
from tests.unit.machine_cases import (
    NOW,
    WALL,
    instance,
    intent,
    member,
    met,
    operation,
    pod,
    record,
    replication,
    server,
    situation,
    snapshot,
)


def restarted_replica(*, asked_at: float) -> ServerFact:
    stopped = replication(received="", io_thread=IoThread.STOPPED, sql_running=False)
    return server(1, "0-1-6", incarnation="start-9", replication=stopped, asked_at=asked_at)


def test_a_restarted_replica_that_is_ahead_of_an_older_look_at_the_primary_is_not_kept_out() -> None:
    facts = snapshot(
        instance(0, server=server(0, "0-1-5", asked_at=NOW - 0.9)),
        instance(1, server=restarted_replica(asked_at=NOW)),
        instance(2),
    )
    assert members.keep_out_errant(situation(facts=facts)) is None


def test_an_instance_with_a_transaction_of_its_own_is_kept_out_whenever_it_was_asked() -> None:
    errant = server(1, history=History.parse("0-1-5,0-2-6"), executed=Position.parse("0-2-6"), asked_at=NOW)
    facts = snapshot(
        instance(0, server=server(0, asked_at=NOW - 0.9)), instance(1, server=errant), instance(2)
    )
    edited = members.keep_out_errant(situation(facts=facts))
    assert edited is not None
    kept = edited.member("db-1")
    assert kept is not None
    assert "0-2-6" in kept.kept_out


def test_an_instance_that_the_primary_asked_later_does_not_know_is_kept_out() -> None:
    ahead = server(1, "0-1-6", asked_at=NOW - 0.9)
    facts = snapshot(instance(0), instance(1, server=ahead), instance(2))
    assert members.keep_out_errant(situation(facts=facts)) is not None


def test_a_witness_is_not_taken_out_while_a_statement_that_may_unlock_it_is_under_way() -> None:
    silent = instance(
        1, **met(Reach.SILENT, pod_uid="pod-1"), detached_since=NOW - 60.0, shut_out_since=NOW - 5.0
    )
    quiet, busy = instance(0), instance(0, busy=True)
    assert witnesses.exclude_witness(situation(facts=snapshot(quiet, silent, instance(2)))) is not None
    assert witnesses.exclude_witness(situation(facts=snapshot(busy, silent, instance(2)))) is None


def test_a_witness_is_not_taken_out_before_the_primary_refuses_an_earlier_leader() -> None:
    silent = instance(
        1, **met(Reach.SILENT, pod_uid="pod-1"), detached_since=NOW - 60.0, shut_out_since=NOW - 5.0
    )
    facts = snapshot(instance(0), silent, instance(2))
    assert witnesses.exclude_witness(situation(facts=facts, wanted=intent(term=2))) is None


def fenced(number: int, gtid: str, **changes: Any) -> InstanceFacts:
    """A replica whose IO thread was stopped at that position."""
    stopped: dict[str, Any] = {"replication": replication(gtid, io_thread=IoThread.STOPPED)}
    return instance(number, server=server(number, gtid, **(stopped | changes)))


DEAD = instance(0, **met(Reach.REFUSED))


def elected(known: Record, *replicas: InstanceFacts, by_policy: bool = False) -> str | None:
    best = election.elect(known, snapshot(DEAD, *replicas), by_policy=by_policy)
    return best.name if best is not None else None


def test_what_a_kept_out_witness_acknowledged_is_not_passed_over() -> None:
    members = (member(0), member(1), member(2, kept_out="errant: 0-3-4"))
    assert elected(record(members=members), fenced(1, "0-1-5"), fenced(2, "0-1-6")) is None
    assert elected(record(members=members), fenced(1, "0-1-6"), fenced(2, "0-1-6")) == "db-1"


def test_what_a_witness_acknowledged_before_it_applied_anything_is_not_passed_over() -> None:
    fresh = fenced(
        2, "", epoch=0, cluster_id="", replication=replication("0-1-6", io_thread=IoThread.STOPPED)
    )
    assert elected(record(), fenced(1, "0-1-5"), fresh) is None
    assert elected(record(), fenced(1, "0-1-6"), fresh) == "db-1"


def test_a_leaving_witness_that_received_most_is_promoted_and_stays() -> None:
    members = (member(0), member(1), member(2, leaving=True))
    assert elected(record(members=members), fenced(1, "0-1-5"), fenced(2, "0-1-6")) == "db-2"
    ready = instance(2, server=server(2, "0-1-6", replication=None))
    under_way = operation(candidate="db-2", target=Position.parse("0-1-6"), proven=True)
    known = record(members=members, operation=under_way, state=State.EQUALISING)
    promoted = updates.commit_epoch(situation(facts=snapshot(DEAD, fenced(1, "0-1-5"), ready), known=known))
    candidate = promoted.member("db-2")
    assert candidate is not None
    assert not candidate.leaving


def test_a_replica_with_a_transaction_of_its_own_is_not_promoted_though_no_primary_can_be_asked() -> None:
    errant = fenced(2, "0-3-6", history=History.parse("0-1-5,0-3-6"))
    assert elected(record(), fenced(1, "0-1-5"), errant) == "db-1"
    assert (
        elected(record(), instance(1, **met(Reach.SILENT, pod_uid="pod-1")), errant, by_policy=True) is None
    )


def test_what_earlier_primaries_wrote_is_not_errant() -> None:
    known = record(
        epoch=2,
        primary="db-1",
        durability=replace(record().durability, base=Position.parse("0-1-5"), floor=Position.parse("0-2-9")),
    )
    assert election.errant(known, server(2, "0-1-5", history=History.parse("0-1-5,0-2-9"))) == ()
    assert election.errant(known, server(0, "0-1-6")) == (Gtid(0, 1, 6),)


def test_an_errant_transaction_does_not_become_the_floor_that_nobody_covers() -> None:
    errant = server(1, history=History.parse("0-1-5,0-2-9"), executed=Position.parse("0-2-9"))
    known = record(members=(member(0), member(1, kept_out="errant: 0-2-9"), member(2)))
    raised = witnesses.raise_floor(
        situation(facts=snapshot(instance(0), instance(1, server=errant), instance(2)), known=known)
    )
    assert raised.durability.floor == Position.parse("0-1-5")


def test_the_volume_of_a_kept_out_instance_outlives_it() -> None:
    known = record(
        members=(member(0), member(1), member(2, leaving=True, kept_out="errant: 0-3-9")),
        durability=replace(record().durability, witnesses=(Witness(name="db-1", incarnation="start-1"),)),
        state=State.DEGRADED,
    )
    facts = snapshot(instance(0), instance(1), instance(2, **met(Reach.SILENT, pod_uid=""), pod=None))
    erasing = situation(facts=facts, known=known, wanted=intent(replicas=2, delete_volumes=True))
    assert not any(isinstance(each, DeleteVolume) for each in plan(erasing))
    dropped = members.drop_member(erasing)
    assert dropped is not None
    assert dropped.member("db-2") is None


def equalised(*, locked: frozenset[str]) -> Situation:
    ready = instance(1, server=server(1, replication=None, locked_accounts=locked))
    silent = instance(2, **met(Reach.SILENT, pod_uid="pod-2"))
    under_way = operation(candidate="db-1", target=Position.parse("0-1-5"), proven=True)
    known = record(operation=under_way, state=State.EQUALISING)
    return situation(facts=snapshot(DEAD, ready, silent), known=known)


def test_whoever_the_new_primary_lets_in_is_a_witness_of_its_epoch() -> None:
    everybody = frozenset(f"repl_{number}" for number in range(9))
    let_in = updates.commit_epoch(equalised(locked=everybody - {"repl_2"}))
    assert let_in.durability.witness("db-2") is not None
    assert updates.commit_epoch(equalised(locked=everybody)).durability.witness("db-2") is None


def test_only_instances_that_answer_are_let_in_by_the_candidate() -> None:
    asked = replace(equalised(locked=frozenset()), snapshot=snapshot(DEAD, fenced(1, "0-1-5"), DEAD))
    assert plan(asked) == (Equalise("db-1", Position.parse("0-1-5"), ()),)


def test_a_new_leader_is_known_to_every_replica_before_it_believes_them_fenced() -> None:
    known = record(operation=operation(), state=State.FENCING)
    facts = snapshot(DEAD, fenced(1, "0-1-5"), fenced(2, "0-1-5"), operation_since=NOW - 1.0)
    assert guards.receivers_stopped(situation(facts=facts, known=known))
    successor = situation(facts=facts, known=known, wanted=intent(term=2))
    assert not guards.receivers_stopped(successor)
    assert plan(successor) == (RaiseTerm("db-1", 2), RaiseTerm("db-2", 2))


def test_a_node_that_is_off_proves_nothing_about_a_server_that_ran_elsewhere() -> None:
    elsewhere = instance(0, **met(Reach.SILENT), pod=pod(uid="pod-new"), node_off=True)
    assert detection.proofs(record(), snapshot(elsewhere, instance(1), instance(2))) == ()


def test_a_report_of_the_container_before_does_not_speak_of_the_server_that_answers() -> None:
    again = instance(0, server=server(0, incarnation="start-7"), ended_pods=frozenset({"pod-0"}))
    late = situation(facts=snapshot(again, instance(1), instance(2)))
    assert bookkeeping.adopt_restarted_primary(late) is None
    told = situation(facts=snapshot(replace(again, ended_pods=frozenset()), instance(1), instance(2)))
    assert bookkeeping.adopt_restarted_primary(told) is not None


def test_a_position_read_in_the_look_that_showed_the_lock_is_no_proof_that_nothing_came_in_between() -> None:
    def away(since: float) -> InstanceFacts:
        return instance(
            1, **met(Reach.SILENT, pod_uid="pod-1"), detached_since=NOW - 60.0, shut_out_since=since
        )

    assert witnesses.exclude_witness(situation(facts=snapshot(instance(0), away(NOW), instance(2)))) is None
    assert witnesses.exclude_witness(situation(facts=snapshot(instance(0), away(NOW - 1.0), instance(2))))


def test_a_position_read_in_the_look_that_showed_semi_sync_on_does_not_end_the_primarys_witness() -> None:
    known = record(durability=replace(record().durability, recorded=Recorded.ASYNCHRONOUS))
    for seen, ended in ((NOW, False), (NOW - 1.0, True)):
        facts = snapshot(instance(0, acknowledged_at=seen), instance(1), instance(2))
        assert durability.acknowledgement_seen(situation(facts=facts, known=known)) is ended


def test_a_dead_primary_whose_pod_is_gone_is_made_again_while_a_failover_looks_for_others() -> None:
    """Found by the simulation: under Promote, with nobody fit, it went from failover to failover for ever."""
    gone = instance(0, pod=None, ended_pods=frozenset({"pod-0"}), **met(Reach.SILENT, pod_uid=""))
    known = record(state=State.FENCING, operation=operation(proven=True), primary_ended=True)
    facts = snapshot(gone, instance(1), instance(2), operation_since=NOW - 1.0)
    made = [each for each in plan(situation(facts=facts, known=known)) if isinstance(each, EnsureInstance)]
    assert made == [EnsureInstance("db-0", 0, "")]


def test_a_witness_that_is_lost_after_the_fence_is_not_promoted_over() -> None:
    """Found by the simulation: one held more and was unfit; when it missed a probe, the other one became the best."""
    gone = instance(0, ended_pods=frozenset({"pod-0"}), **met(Reach.REFUSED))
    stopped = replication("0-1-5", io_thread=IoThread.STOPPED)
    left = instance(2, server=server(2, replication=stopped))
    known = record(state=State.ELECTING, operation=operation(proven=True))
    lost = snapshot(gone, instance(1, **met(Reach.SILENT, pod_uid="pod-1")), left, operation_since=NOW - 1.0)
    assert decide(intent(), lost, known, WALL).record.state is State.ELECTING
    accepted = replace(known, operation=operation(proven=True, by_policy=True))
    assert decide(intent(), lost, accepted, WALL).record.state is not State.ELECTING


def test_nobody_waits_at_a_primary_that_came_back_and_is_not_taken_back_yet() -> None:
    """Its predecessor's clients waited; recorded as asynchronous, it could not have been replaced any more."""
    came_back = instance(0, server=server(0, incarnation="start-again"), lonely_since=NOW - 100.0)
    facts = snapshot(came_back, instance(1), instance(2))
    assert not durability.acknowledgements_missing(situation(facts=facts))
    serving = snapshot(instance(0, lonely_since=NOW - 100.0), instance(1), instance(2))
    assert durability.acknowledgements_missing(situation(facts=serving))


def test_a_failover_that_led_to_nothing_though_the_death_was_proven_is_not_begun_again_at_once() -> None:
    """It went from failover to failover within one pass, and nobody could start the primary again meanwhile."""
    gone = instance(0, ended_pods=frozenset({"pod-0"}), **met(Reach.REFUSED))
    facts = snapshot(gone, instance(1), instance(2))
    known = record(state=State.DEGRADED, refuted_at=WALL, refuted_proven=True)
    assert decide(intent(), facts, known, WALL).record.operation is None
    assert decide(intent(), facts, known, WALL + guards.RETRY_SECONDS).record.operation is not None
    news = replace(known, refuted_proven=False)
    assert decide(intent(), facts, news, WALL).record.operation is not None
