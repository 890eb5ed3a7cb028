"""More defects of the machine that were found by reading it, each kept by a test that failed before the fix.

What is at stake: a failover that never comes, a row that is lost, a volume that is erased. test_machine_defects.py has
the earlier ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from statemachines import effects as e
from statemachines import election, guards, members, permission
from statemachines.decide import Decision, decide
from statemachines.facts import EndpointFact, InstanceFacts, IoThread, ProbeFact, Reach, Snapshot, Volume
from statemachines.gtid import Gtid, History, Position
from statemachines.record import (
    Durability,
    DurabilityMode,
    OnUncertainData,
    Record,
    Recorded,
    Witness,
)
from statemachines.states import State
from tests.unit.machine_cases import (
    NOW,
    PRIMARY,
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

DEAD = instance(0, **met(Reach.REFUSED))
ONLY_FIRST = Durability(
    recorded=Recorded.SEMI_SYNC,
    witnesses=(Witness(name="db-1", incarnation="start-1"),),
    floor=Position.parse("0-1-4"),
)
LOCKED_BUT_FIRST = frozenset(f"repl_{n}" for n in range(9) if n != 1)


def stopped(number: int, gtid: str = "0-1-5", **changes: Any) -> InstanceFacts:
    """A replica whose IO thread was stopped by the fence."""
    return instance(
        number,
        server=server(number, gtid, replication=replication(gtid, io_thread=IoThread.STOPPED, **changes)),
    )


def reconnecting(number: int, gtid: str = "0-1-5", **changes: Any) -> InstanceFacts:
    return instance(
        number,
        server=server(number, gtid, replication=replication(gtid, io_thread=IoThread.CONNECTING, **changes)),
    )


def restarted(number: int) -> InstanceFacts:
    """A replica that was started anew: nothing runs, nothing shows what its relay log holds."""
    nothing = replication("", io_thread=IoThread.STOPPED, sql_running=False)
    return instance(number, server=server(number, incarnation=f"new-{number}", replication=nothing))


def fencing(**changes: Any) -> Record:
    return record(state=State.FENCING, **({"operation": operation(proven=True)} | changes))


def fenced(*instances: InstanceFacts) -> Snapshot:
    return snapshot(*instances, operation_since=NOW - 5)


def triggers(decision: Decision) -> list[str]:
    return [each.trigger for each in decision.entries]


def planned(decision: Decision, kind: type) -> list[Any]:
    return [each for each in decision.effects if isinstance(each, kind)]


# --- a failover comes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(OnUncertainData))
def test_a_kept_out_replica_with_a_broken_applier_holds_up_no_failover(policy: OnUncertainData) -> None:
    broken = reconnecting(2, sql_running=False, sql_errno=1950)
    known = fencing(
        members=(member(0), member(1), member(2, kept_out="errant: 0-3-6")), durability=ONLY_FIRST
    )
    done = decide(intent(on_uncertain_data=policy), fenced(DEAD, stopped(1), broken), known, WALL + 1)
    assert done.record.operation is not None
    assert done.record.operation.candidate == "db-1"


def test_a_replica_that_can_not_take_the_leaders_term_and_is_no_witness_holds_up_no_failover() -> None:
    full_disk = instance(2, server=server(2, term=1, replication=replication(io_thread=IoThread.STOPPED)))
    first = instance(1, server=server(1, term=2, replication=replication(io_thread=IoThread.STOPPED)))
    done = decide(intent(term=2), fenced(DEAD, first, full_disk), fencing(durability=ONLY_FIRST), WALL + 1)
    assert "fenced" in triggers(done)


def test_a_stopped_sql_thread_is_started_again_and_is_no_reason_to_leave_a_dead_primary() -> None:
    idle = instance(1, server=server(1, replication=replication(sql_running=False)))
    steady = decide(intent(), snapshot(instance(0), idle, instance(2)), record(), WALL + 5)
    assert planned(steady, e.StartApplying) == [e.StartApplying("db-1")]
    behind: dict[str, Any] = {"executed": Position.parse("0-1-4"), "history": History.parse("0-1-4")}
    both = [
        instance(n, server=server(n, **behind, replication=replication("0-1-5", sql_running=False, io_thread=IoThread.CONNECTING)))
        for n in (1, 2)
    ]  # fmt: skip
    assert permission.failover_blocked_by(situation(facts=snapshot(DEAD, *both))) == ""


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_a_short_max_wait_leaves_the_fence_the_time_that_it_takes(wait: float) -> None:
    live = fenced(DEAD, reconnecting(1), reconnecting(2))
    begun = decide(intent(max_wait=wait), replace(live, operation_since=None), record(), WALL)
    assert begun.record.state is State.FENCING
    later = decide(intent(max_wait=wait), live, begun.record, WALL + wait + 1.5)
    assert later.record.state is State.FENCING
    done = decide(intent(max_wait=wait), fenced(DEAD, stopped(1), stopped(2)), later.record, WALL + wait + 2)
    assert "fenced" in triggers(done)


def test_a_replica_that_is_being_seeded_holds_up_no_failover_and_is_not_promoted() -> None:
    primary = instance(0, server=server(0, locked_accounts=frozenset(f"repl_{n}" for n in range(3, 9))))
    fresh = instance(
        3,
        caught_up_at=None,
        server=server(
            3, "", epoch=0, cluster_id="", replication=None, history=History(), executed=Position()
        ),
    )
    members = (*record().members, member(3, complete=False))
    joined = decide(
        intent(replicas=4),
        snapshot(primary, instance(1), instance(2), fresh),
        record(members=members),
        WALL + 1,
    ).record
    witness = joined.durability.witness("db-3")
    assert witness is not None
    assert witness.incarnation == "start-3"
    seeding = instance(
        3,
        caught_up_at=None,
        server=server(3, "0-1-2", replication=replication("0-1-2", io_thread=IoThread.STOPPED)),
    )
    facts = snapshot(DEAD, stopped(1), stopped(2), seeding)
    assert guards.witnesses_complete(situation(facts=facts, known=joined))
    alone = snapshot(DEAD, seeding)
    assert election.elect(joined, alone, by_policy=True) is None


# --- a failover does not go round in circles ------------------------------------------------------------------------


def test_with_promote_a_restarted_replica_is_not_preferred_to_one_that_shows_what_it_holds() -> None:
    promote = intent(on_uncertain_data=OnUncertainData.PROMOTE)
    done = decide(promote, fenced(DEAD, restarted(1), stopped(2)), fencing(), WALL + 11)
    assert done.record.operation is not None
    assert done.record.operation.candidate == "db-2"


def test_with_promote_nobody_is_elected_who_could_never_be_made_ready() -> None:
    promote = intent(on_uncertain_data=OnUncertainData.PROMOTE)
    facts = fenced(DEAD, restarted(1), restarted(2))
    assert decide(promote, facts, fencing(), WALL + 11).record.operation is not None
    known = record(state=State.DEGRADED)
    assert (
        permission.failover_blocked_by(situation(facts=facts, known=known, wanted=promote)) == "NoCandidate"
    )


def test_a_lost_primary_whose_pod_is_gone_too_is_not_fenced_over_and_over_while_its_node_is_silent() -> None:
    gone = instance(0, pod=None, home_ready=False, **met(Reach.SILENT, since=NOW - 10, pod_uid=""))
    facts = snapshot(gone, reconnecting(1), reconnecting(2))
    assert permission.failover_blocked_by(situation(facts=facts)) == "PrimaryNotProvenDead"
    home = replace(gone, home_ready=True)
    there = snapshot(home, reconnecting(1), reconnecting(2))
    assert permission.failover_blocked_by(situation(facts=there)) == ""


def test_a_primary_whose_pod_is_gone_is_fenced_at_once_and_its_witnesses_count_until_a_new_pod_serves() -> (
    None
):
    """Its new Pod has another address and does not answer yet: nobody is attached to it, nobody loses anything."""
    successor = instance(
        0,
        pod=pod(0, uid="pod-9", ip="10.0.0.9"),
        home_ready=True,
        **met(Reach.SILENT, since=NOW - 0.1, pod_uid="pod-9"),
    )
    lost = replication("0-1-5", io_thread=IoThread.CONNECTING)
    behind = [instance(n, server=server(n, "0-1-3", replication=lost)) for n in (1, 2)]
    facts = snapshot(successor, *behind)
    done = decide(intent(), facts, record(state=State.DEGRADED), WALL + 5)
    assert triggers(done) == ["primary_suspected", "silence_confirmed"]
    assert done.record.durability.witnesses == record().durability.witnesses
    assert {each for each in done.effects if isinstance(each, e.StopReceiving)} == {
        e.StopReceiving("db-1"),
        e.StopReceiving("db-2"),
    }


def test_a_suspicion_that_led_to_nothing_begins_no_other_failover_until_something_is_proven() -> None:
    silent = instance(0, **met(Reach.SILENT, since=NOW - 10))
    facts = snapshot(silent, reconnecting(1), reconnecting(2))
    known = record(state=State.DEGRADED, refuted_at=WALL)
    assert triggers(decide(intent(), facts, known, WALL + 5)) == []
    assert triggers(decide(intent(), facts, known, WALL + 31))[0] == "primary_suspected"
    proven = snapshot(replace(silent, ended_pods=frozenset({"pod-0"})), reconnecting(1), reconnecting(2))
    assert triggers(decide(intent(), proven, known, WALL + 5))[0] == "primary_suspected"


def test_a_new_leader_reopens_no_restarted_primary_before_it_has_asked_its_witnesses() -> None:
    """The failover of its predecessor was about to succeed: not yet asked is not missing."""
    back = instance(0, server=server(0, incarnation="new-0", read_only=True))
    unasked = instance(2, **met(Reach.UNKNOWN, pod_uid="pod-2"))
    asking = decide(intent(), fenced(back, stopped(1), unasked), fencing(), WALL + 1)
    assert "primary_came_back" not in triggers(asking)
    silent = instance(2, **met(Reach.SILENT, pod_uid="pod-2"))
    missing = decide(intent(), fenced(back, stopped(1), silent), fencing(), WALL + 1)
    assert triggers(missing)[0] == "primary_came_back"


# --- a person's word ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [{"suspend": True}, {"failover_enabled": False}])
def test_who_suspends_or_disables_failover_before_the_commit_is_obeyed(word: dict[str, Any]) -> None:
    done = decide(intent(**word), fenced(DEAD, stopped(1), stopped(2)), fencing(), WALL + 1)
    assert done.record.state is State.DEGRADED
    assert done.record.operation is None


def test_a_cluster_is_suspended_only_when_no_fence_stands() -> None:
    answering = snapshot(instance(0), stopped(1), stopped(2), operation_since=NOW - 1)
    lifted = decide(intent(suspend=True), answering, fencing(operation=operation()), WALL + 1)
    assert lifted.record.state is State.DEGRADED
    assert planned(lifted, e.StartReceiving) == [e.StartReceiving("db-1"), e.StartReceiving("db-2")]
    assert decide(intent(suspend=True), snapshot(), lifted.record, WALL + 2).record.state is State.PAUSED


# --- no row is lost -------------------------------------------------------------------------------------------------


def moved(*, gtid: str = "0-1-50") -> InstanceFacts:
    """The primary in a new Pod, with another address, adopted."""
    return instance(
        0,
        pod=pod(0, uid="pod-0b", ip="10.0.0.9"),
        server=server(0, gtid, incarnation="start-0b", pod_uid="pod-0b"),
        probe=ProbeFact(reach=Reach.ANSWERING, at=NOW, since=100.0, pod_uid="pod-0b"),
    )


def test_a_witness_whose_relay_log_is_about_to_be_wiped_counts_no_more() -> None:
    lagging = instance(
        1, server=server(1, "0-1-5", replication=replication("0-1-50", io_thread=IoThread.CONNECTING))
    )
    known = record(state=State.DEGRADED, primary_incarnation="start-0b", primary_pod="pod-0b")
    facts = snapshot(
        moved(),
        lagging,
        reconnecting(2),
        primary_endpoint=EndpointFact(address="10.0.0.9", target=PRIMARY, epoch=1),
    )
    done = decide(intent(), facts, known, WALL + 5)
    assert done.write
    assert [each.incarnation for each in done.record.durability.witnesses] == ["", "start-2"]
    assert [each.instance for each in planned(done, e.Attach)] == ["db-1", "db-2"]


def test_the_floor_is_in_every_write_also_while_nothing_else_changes() -> None:
    far = snapshot(*(instance(n, server=server(n, "0-1-99999")) for n in range(3)))
    done = decide(intent(), far, record(), WALL + 86400)
    assert not done.write
    assert not done.changed
    assert done.written.durability.floor == Position.parse("0-1-99999")


def test_a_primary_whose_volume_came_back_older_than_its_replicas_is_not_taken_back() -> None:
    older = instance(0, server=server(0, "0-1-4", incarnation="start-0b", read_only=True))
    nothing = replication("", io_thread=IoThread.STOPPED, sql_running=False)
    ahead = [
        instance(n, server=server(n, "0-1-99999", incarnation=f"new-{n}", replication=nothing))
        for n in (1, 2)
    ]
    done = decide(intent(), snapshot(older, *ahead), record(state=State.DEGRADED), WALL + 60)
    assert done.record.primary_incarnation == "start-0"
    assert not planned(done, e.OpenPrimary)
    assert not any(each.kept_out for each in done.record.members)


def test_an_old_primarys_tail_is_errant_however_far_the_floor_has_risen_since() -> None:
    known = record(
        epoch=2,
        primary="db-1",
        durability=replace(
            record().durability, base=Position.parse("0-1-100"), floor=Position.parse("0-2-110")
        ),
    )
    assert election.errant(known, server(0, "0-1-105")) == (Gtid(0, 1, 105),)


def test_the_primary_is_a_witness_while_commits_may_be_on_it_alone() -> None:
    def lied(count: int, at: float) -> Snapshot:
        facts = server(0)
        semi_sync = replace(facts.semi_sync, unacknowledged=count)
        return snapshot(
            instance(0, server=replace(facts, semi_sync=semi_sync), unacknowledged_at=at),
            instance(1),
            instance(2),
        )

    told = decide(intent(), lied(3, NOW), record(), WALL + 5)
    assert told.write
    assert told.record.durability.unacknowledged == 3
    assert told.record.durability.witness(PRIMARY) is not None
    assert not guards.witnesses_complete(situation(facts=lied(3, NOW), known=told.record))
    # A position read in the look that showed the count is no proof; one read later is.
    assert (
        decide(intent(), lied(3, NOW), told.record, WALL + 6).record.durability.witness(PRIMARY) is not None
    )
    assert (
        decide(intent(), lied(3, NOW - 1), told.record, WALL + 6).record.durability.witness(PRIMARY) is None
    )


def test_semi_sync_that_somebody_turned_off_is_recorded_before_it_is_turned_on_again() -> None:
    off = server(0, semi_sync=replace(server(0).semi_sync, source_enabled=False))
    done = decide(intent(), snapshot(instance(0, server=off), instance(1), instance(2)), record(), WALL + 5)
    assert done.write
    assert done.record.durability.recorded is Recorded.ASYNCHRONOUS
    assert done.record.durability.witness(PRIMARY) is not None
    assert planned(done, e.SetSemiSync) == [e.SetSemiSync(PRIMARY, True)]


def test_a_new_primary_waits_for_acknowledgements_as_recorded_whatever_the_spec_says_meanwhile() -> None:
    known = record(
        state=State.OPENING,
        epoch=2,
        primary="db-1",
        primary_incarnation="start-1",
        primary_pod="pod-1",
        operation=operation(candidate="db-1"),
        durability=Durability(recorded=Recorded.SEMI_SYNC, witnesses=(Witness(name="db-2"),)),
    )
    ready = instance(1, server=server(1, replication=None))
    facts = snapshot(
        DEAD, ready, stopped(2), primary_endpoint=EndpointFact(address="10.0.0.2", target="db-1", epoch=2)
    )
    [opening] = planned(decide(intent(high_availability=False), facts, known, WALL + 1), e.OpenPrimary)
    assert opening.semi_sync
    assert opening.incarnation == "start-1"


@pytest.mark.parametrize("state", [State.DRAINING, State.EQUALISING])
def test_a_new_leader_makes_itself_known_before_it_goes_on_with_a_candidate(state: State) -> None:
    under_way = operation(proven=True, candidate="db-1", target=Position.parse("0-1-6"))
    known = record(state=state, operation=under_way)
    done = decide(intent(term=2), fenced(DEAD, stopped(1, "0-1-6"), stopped(2)), known, WALL + 1)
    assert e.RaiseTerm("db-1", 2) in done.effects
    assert not planned(done, e.Equalise)
    predecessors = replace(stopped(1, "0-1-6"), predecessors=True)
    again = decide(intent(), fenced(DEAD, predecessors, stopped(2)), known, WALL + 1)
    assert e.RaiseTerm("db-1", 1) in again.effects
    assert not planned(again, e.Equalise)


# --- two that could acknowledge -------------------------------------------------------------------------------------


def test_a_successor_on_another_node_is_not_taken_for_the_primary_unless_the_end_of_the_first_is_known() -> (
    None
):
    elsewhere = replace(
        moved(gtid="0-1-5"),
        pod=pod(0, uid="pod-0b", ip="10.0.0.9", node="node-7"),
        server=server(0, incarnation="x", pod_uid="pod-0b", read_only=True),
    )
    alone = Durability(
        recorded=Recorded.ASYNCHRONOUS, witnesses=(Witness(name=PRIMARY),), floor=Position.parse("0-1-4")
    )
    facts = snapshot(elsewhere, reconnecting(1), reconnecting(2))
    for ended, incarnation in ((False, "start-0"), (True, "x")):
        known = record(state=State.DEGRADED, durability=alone, primary_ended=ended)
        assert decide(intent(), facts, known, WALL).record.primary_incarnation == incarnation


def test_a_primarys_successor_is_made_on_the_same_node_until_the_end_of_the_first_is_known() -> None:
    gone = instance(0, pod=None, **met(Reach.SILENT, pod_uid=""))
    facts = snapshot(gone, instance(1), instance(2))
    made = planned(decide(intent(), facts, record(state=State.DEGRADED), WALL), e.EnsureInstance)
    assert made == [e.EnsureInstance(PRIMARY, 0, "node-0")]
    known = record(state=State.DEGRADED, primary_ended=True)
    asleep = intent(failover_enabled=False)
    assert planned(decide(asleep, facts, known, WALL), e.EnsureInstance) == [e.EnsureInstance(PRIMARY, 0, "")]


# --- whom a replica talks to ----------------------------------------------------------------------------------------


def test_a_replica_is_attached_only_to_a_source_whose_certificate_names_its_address() -> None:
    fresh = instance(2, server=server(2, replication=None))
    for certified in (True, False):
        primary = instance(0, server=server(0, certified=certified))
        done = decide(intent(), snapshot(primary, instance(1), fresh), record(state=State.DEGRADED), WALL + 1)
        assert bool(planned(done, e.Attach)) is certified


def test_a_new_address_is_certified_and_then_shown() -> None:
    uncertified = instance(0, server=server(0, certified=False))
    known = {
        "known": frozenset({"10.0.0.2", "10.0.0.3"}),
        "all": frozenset({"10.0.0.1", "10.0.0.2", "10.0.0.3"}),
    }
    before = snapshot(uncertified, instance(1), instance(2), certified_addresses=known["known"])
    first = decide(intent(), before, record(), WALL + 1)
    assert planned(first, e.Certify) == [e.Certify(known["all"])]
    assert not planned(first, e.ReloadCertificate)
    after = decide(intent(), replace(before, certified_addresses=known["all"]), record(), WALL + 1)
    assert planned(after, e.ReloadCertificate) == [e.ReloadCertificate(PRIMARY)]
    assert not planned(after, e.Certify)


# --- commits go on where they may, and what is locked out is out ----------------------------------------------------


@pytest.mark.parametrize("state", [State.HEALTHY, State.DEGRADED, State.REPLICATING])
def test_preferred_gives_up_waiting_for_a_replica_that_is_connected_and_silent(state: State) -> None:
    stuck = instance(0, lonely_since=NOW - 11)
    done = decide(intent(), snapshot(stuck, instance(1), instance(2)), record(state=state), WALL + 5)
    assert done.record.durability.recorded is Recorded.ASYNCHRONOUS
    assert done.record.state is State.DEGRADED
    guaranteed = intent(durability=DurabilityMode.GUARANTEED)
    waits = decide(guaranteed, snapshot(stuck, instance(1), instance(2)), record(state=state), WALL + 5)
    assert waits.record.durability.recorded is Recorded.SEMI_SYNC
    assert waits.record.state is not State.HEALTHY


def test_waiting_is_not_tried_again_with_a_replica_that_holds_nothing_new() -> None:
    known = record(
        state=State.DEGRADED,
        durability=replace(
            record().durability,
            recorded=Recorded.ASYNCHRONOUS,
            witnesses=(*record().durability.witnesses, Witness(name=PRIMARY)),
        ),
    )
    off = instance(0, server=server(0, semi_sync=replace(server(0).semi_sync, source_enabled=False)))
    for age, expected in ((60.0, []), (1.0, [e.SetSemiSync(PRIMARY, True)])):
        facts = snapshot(off, *(instance(n, caught_up_at=NOW - age) for n in (1, 2)))
        assert planned(decide(intent(), facts, known, WALL + 5), e.SetSemiSync) == expected


def test_a_stream_that_outlived_its_accounts_lock_is_ended() -> None:
    primary = instance(
        0,
        server=server(
            0, locked_accounts=LOCKED_BUT_FIRST, connected_accounts=frozenset({"repl_1", "repl_2"})
        ),
    )
    known = record(state=State.DEGRADED, members=(member(0), member(1), member(2, leaving=True)))
    done = decide(intent(replicas=2), snapshot(primary, instance(1), instance(2)), known, WALL + 5)
    assert planned(done, e.SetAccounts) == [e.SetAccounts(PRIMARY, (1,))]


# --- nothing is erased that exists once -----------------------------------------------------------------------------


def leaving(facts: InstanceFacts, **changes: Any) -> Decision:
    known = record(
        state=State.DEGRADED,
        members=(member(0), member(1), member(2, leaving=True, **changes)),
        durability=ONLY_FIRST,
    )
    primary = instance(
        0, server=server(0, locked_accounts=LOCKED_BUT_FIRST, connected_accounts=frozenset({"repl_1"}))
    )
    return decide(
        intent(replicas=2, delete_volumes=True), snapshot(primary, instance(1), facts), known, WALL + 1000
    )


def test_the_volume_of_a_leaving_instance_that_was_never_looked_at_is_kept() -> None:
    gone = instance(2, pod=None, **met(Reach.SILENT, pod_uid=""))
    left = leaving(gone)
    assert not planned(left, e.DeleteVolume)
    assert left.record.member("db-2") is None
    assert planned(leaving(gone, redundant=True), e.DeleteVolume) == [e.DeleteVolume("db-2")]


def test_a_leaving_instance_is_looked_at_before_it_goes() -> None:
    applying = instance(
        2, server=server(2, "0-1-4", replication=replication("0-1-5", io_thread=IoThread.CONNECTING))
    )
    assert not planned(leaving(applying), e.DeletePod)
    done = leaving(reconnecting(2))
    found = done.record.member("db-2")
    assert found is not None
    assert found.redundant
    assert planned(done, e.DeletePod)
    own = instance(2, server=server(2, history=History.parse("0-1-5,0-3-6")))
    assert not members.note_redundant(
        situation(
            facts=snapshot(instance(0), instance(1), own),
            known=record(members=(member(0), member(1), member(2, leaving=True))),
        )
    )


def test_pods_are_made_again_though_a_later_spec_is_impossible() -> None:
    gone = replace(instance(2, pod=None, **met(Reach.SILENT, pod_uid="")), volume=Volume.BOUND)
    facts = snapshot(instance(0), instance(1), gone, objects_ready=False, problem="no such Secret")
    done = decide(intent(), facts, record(state=State.DEGRADED), WALL)
    assert planned(done, e.EnsureInstance) == [e.EnsureInstance("db-2", 2, "")]
