"""The life of a cluster, step by step, through `decide`: what is written before what is done, and what is not done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from statemachines import effects as e
from statemachines import permission
from statemachines.decide import decide, take_over
from statemachines.facts import Reach, Volume
from statemachines.record import HISTORY_LIMIT, DurabilityMode, Record, Recorded, Situation
from statemachines.states import FAILING_OVER, State
from tests.unit.machine_cases import WALL, instance, met, operation, record, server, snapshot
from tests.unit.machine_cases import intent as wanted
from tests.unit.machine_explorer import Explorer, Outcome, intent
from tests.unit.machine_world import commit, die, put
from tests.unit.machine_world import snapshot as seen


class Life:
    """One cluster in the small world; remembers every pass of the operator."""

    def __init__(self, *, promote: bool = False, **changes: Any) -> None:
        self.explorer = Explorer(intent(promote=promote, **changes))
        self.world = self.explorer.newborn()
        self.passes: list[Outcome] = []

    def record(self) -> Record:
        return self.explorer.records[self.world.memory]

    @property
    def triggers(self) -> list[str]:
        return [trigger for each in self.passes for _, trigger, _ in each.triggers]

    @property
    def effects(self) -> list[e.Effect]:
        return [effect for each in self.passes for effect in each.effects]

    @property
    def situation(self) -> Situation:
        facts = seen(self.world, self.record(), overdue=False)
        return Situation(intent=self.explorer.intent, snapshot=facts, record=self.record(), wall=0.0)

    def want(self, **changes: Any) -> None:
        """The spec is edited."""
        self.explorer.intent = replace(self.explorer.intent, **changes)
        self.explorer.outcomes.clear()

    def step(self, *passes: bool) -> None:
        """A pass and what follows from it; where nothing does, all deadlines pass. `passes`: overdue or not."""
        before = self.world
        for overdue in passes or (False, True):
            outcome = self.explorer.outcome(self.world, overdue=overdue)
            self.passes.append(outcome)
            self.world = self.explorer.run_all(self.explorer.operate(self.world, outcome))
            if self.world != before:
                return

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.step()

    def until_settled(self) -> None:
        self.passes.clear()
        for _ in range(60):
            self.step()
            if self.explorer.settled(self.world):
                return
        raise AssertionError(f"not settled: {self.record()}")

    def crash(self, *numbers: int) -> None:
        for number in numbers:
            self.world = put(self.world, number, die(self.world.nodes[number]))

    def fail(self, kind: str, number: int) -> None:
        self.world = next(
            after for label, after in self.explorer.fault(self.world, kind) if label == f"{kind} {number}"
        )

    def heal(self) -> None:
        self.world = self.world._replace(operator_cut=0, network_cut=0)


def served(**changes: Any) -> Life:
    life = Life(**changes)
    life.until_settled()
    return life


# --- provisioning ---------------------------------------------------------------------------------------------------


def test_a_new_cluster_becomes_healthy_and_each_replica_is_a_witness_before_it_is_attached() -> None:
    life = served()
    assert life.triggers == ["created", "first_primary_initialised", "acknowledgement_seen", "all_attached"]
    assert life.record().durability.recorded is Recorded.SEMI_SYNC
    assert [each.name for each in life.record().durability.witnesses] == ["db-1", "db-2"]
    for outcome in life.passes:
        written = life.explorer.records[outcome.memory]
        for effect in outcome.effects:
            if isinstance(effect, e.Attach):
                assert written.durability.witness(effect.instance) is not None


def test_members_are_named_in_the_status_before_anything_is_made() -> None:
    first = decide(wanted(), snapshot(primary_endpoint=snapshot().primary_endpoint), Record(), WALL)
    assert first.write
    assert first.record.state is State.QUARANTINED, "these instances have volumes"
    empty = replace(snapshot(), instances=())
    first = decide(wanted(), empty, Record(), WALL)
    assert first.write
    assert [each.name for each in first.record.members] == ["db-0", "db-1", "db-2"]
    assert {type(each) for each in first.effects} <= {e.EnsureObjects, e.EnsureInstance}


def test_the_service_points_at_the_primary_before_it_is_opened() -> None:
    life = served()
    kinds = [type(each) for each in life.effects]
    assert kinds.index(e.SwitchPrimary) < kinds.index(e.OpenPrimary)


def test_one_instance_is_asynchronous_and_healthy() -> None:
    life = served(replicas=1)
    assert life.record().state is State.HEALTHY
    assert life.record().durability.recorded is Recorded.ASYNCHRONOUS


def test_a_healthy_cluster_is_left_alone() -> None:
    life = served()
    quiet = life.explorer.outcome(life.world, overdue=False)
    assert not quiet.write
    assert {type(each) for each in quiet.effects} <= {e.SetReplicaEndpoints}


# --- failover -------------------------------------------------------------------------------------------------------

PATH = [
    "primary_suspected",
    "death_proven",
    "fenced",
    "candidate_elected",
    "drained",
    "equalised",
    "committed",
    "switched",
    "opened",
]


def test_a_killed_primary_costs_two_status_writes_until_the_next_one_is_opened() -> None:
    life = served()
    life.passes.clear()
    life.crash(0)
    before_open: list[Outcome] = []
    for _ in range(30):
        outcome = life.explorer.outcome(life.world, overdue=False)
        before_open.append(outcome)
        # The supervisor is slow here: the old primary stays down throughout.
        world = life.explorer.operate(life.world, outcome)
        life.world = world
        if any(isinstance(each, e.OpenPrimary) for each in outcome.effects):
            break
    assert sum(outcome.write for outcome in before_open) == 2
    assert [
        trigger for outcome in before_open for _, trigger, _ in outcome.triggers if trigger in PATH
    ] == PATH[:-1]
    assert (life.record().epoch, life.record().primary) == (2, "db-1")


def test_the_cluster_is_whole_again_after_its_primary_was_killed() -> None:
    life = served()
    life.crash(0)
    life.until_settled()
    assert life.record().state is State.HEALTHY
    assert life.record().operation is None


def test_a_hung_primary_is_killed_through_its_kubelet_before_another_is_elected() -> None:
    life = served()
    life.passes.clear()
    life.fail("freeze", 0)
    deleted = 0
    for _ in range(30):
        life.step()
        last = life.passes[-1]
        deleted += any(isinstance(each, e.DeletePod) and each.instance == "db-0" for each in last.effects)
        if any(trigger == "fenced" for _, trigger, _ in last.triggers):
            break
    assert deleted
    assert life.record().epoch == 2 or life.record().state in FAILING_OVER


def test_a_missing_pod_object_proves_nothing_and_gets_a_successor() -> None:
    life = served()
    life.fail("force_delete", 0)
    outcome = life.explorer.outcome(life.world, overdue=False)
    assert not any(trigger == "fenced" for _, trigger, _ in outcome.triggers)
    life.passes.clear()
    life.until_settled()
    assert any(isinstance(each, e.EnsureInstance) and each.instance == "db-0" for each in life.effects)


def test_a_silent_primary_on_a_lost_node_is_not_replaced_while_uncertainty_waits() -> None:
    life = served()
    life.fail("cut_node", 0)
    life.steps(20)
    assert life.record().epoch == 1
    assert life.record().operation is None
    assert permission.failover_blocked_by(life.situation) == "PrimaryNotProvenDead"
    life.heal()
    life.until_settled()
    assert (life.record().epoch, life.record().primary) == (1, "db-0")


def test_a_silent_primary_on_a_lost_node_is_replaced_where_loss_is_accepted_and_fenced_when_it_returns() -> (
    None
):
    life = served(promote=True)
    life.fail("cut_node", 0)
    life.passes.clear()
    life.steps(20)
    assert "fenced_by_policy" in life.triggers
    assert (life.record().epoch, life.record().primary) == (2, "db-1")
    life.heal()
    life.until_settled()
    assert (life.record().epoch, life.record().primary) == (2, "db-1")
    assert life.world.nodes[0].read_only


def test_a_failover_that_is_forbidden_does_not_begin() -> None:
    life = served(failover_enabled=False)
    life.crash(0)
    outcome = life.explorer.outcome(life.world, overdue=False)
    assert life.explorer.records[outcome.memory].operation is None
    assert permission.failover_blocked_by(life.situation) == "FailoverDisabled"


def test_an_unacknowledged_tail_keeps_the_old_primary_out_and_nothing_on_it_is_erased() -> None:
    life = served()
    for number in (1, 2):
        life.fail("cut_peers", number)
    life.world = commit(life.world._replace(commits=1), 0)
    life.crash(0)
    life.heal()
    tail = life.world.nodes[0].log
    for _ in range(30):
        outcome = life.explorer.outcome(life.world, overdue=False)
        life.world = life.explorer.operate(life.world, outcome)
    assert life.record().epoch == 2
    life.until_settled()
    old = life.record().member("db-0")
    assert old is not None
    assert "errant" in old.kept_out
    assert life.world.nodes[0].log == tail
    assert not any(isinstance(each, e.DeleteVolume) for each in life.effects)


def test_the_whole_cluster_killed_comes_back_with_the_primary_of_its_epoch() -> None:
    life = served()
    life.crash(0, 1, 2)
    life.until_settled()
    assert (life.record().epoch, life.record().primary, life.record().state) == (1, "db-0", State.HEALTHY)


def test_a_new_leader_counts_its_attempt_and_goes_on_with_the_operation() -> None:
    known = record(state=State.FENCING, operation=operation(attempts=1))
    taken = take_over(known, wanted(max_wait=5.0), WALL - 3600.0)
    assert taken.operation is not None
    assert taken.operation.attempts == 2
    assert taken.state is State.FENCING
    assert taken.operation.deadline == WALL - 3600.0 + 15.0, (
        "by the new leader's clock, whatever the former one's"
    )
    assert take_over(record(), wanted(), WALL) == record()


# --- witnesses and durability ---------------------------------------------------------------------------------------


def test_a_restarted_replica_counts_again_only_after_it_caught_up() -> None:
    life = served()
    before = life.record().durability.witness("db-1")
    life.crash(1)
    life.until_settled()
    after = life.record().durability.witness("db-1")
    assert before is not None
    assert after is not None
    assert before.incarnation != after.incarnation


def test_a_lost_witness_is_locked_out_first_and_then_taken_out() -> None:
    life = served()
    life.passes.clear()
    life.fail("cut_node", 2)
    for _ in range(20):
        life.step(True)
        locked = any(isinstance(each, e.SetAccounts) and each.unlocked == (1,) for each in life.effects)
        if life.record().durability.witness("db-2") is None:
            assert locked
            break
        assert life.record().state is State.DEGRADED
    else:
        pytest.fail("it stays a witness")
    life.heal()
    life.until_settled()
    assert life.record().durability.witness("db-2") is not None


def test_asynchronous_is_recorded_before_the_server_stops_waiting_and_undone_after_an_acknowledgement() -> (
    None
):
    life = served()
    life.fail("cut_peers", 0)
    life.passes.clear()
    for _ in range(20):
        life.step()
        for outcome in life.passes:
            written = life.explorer.records[outcome.memory]
            if e.SetSemiSync("db-0", enabled=False) in outcome.effects:
                assert written.durability.recorded is Recorded.ASYNCHRONOUS
                assert written.durability.witness("db-0") is not None
    assert life.record().durability.recorded is Recorded.ASYNCHRONOUS
    assert not life.world.nodes[0].semi
    life.heal()
    life.until_settled()
    assert life.record().durability.recorded is Recorded.SEMI_SYNC
    assert life.record().durability.witness("db-0") is None


def test_guaranteed_never_stops_waiting() -> None:
    life = served(durability=DurabilityMode.GUARANTEED)
    life.fail("cut_peers", 0)
    life.steps(20)
    assert life.record().durability.recorded is Recorded.SEMI_SYNC
    assert life.world.nodes[0].semi


# --- scaling, pausing, quarantine, deletion -------------------------------------------------------------------------


def test_scaling_out_and_in_keeps_the_primary_and_ends_healthy() -> None:
    life = served(replicas=1)
    life.want(replicas=3)
    life.until_settled()
    assert life.record().state is State.HEALTHY
    assert len(life.record().members) == 3
    life.want(replicas=2)
    life.until_settled()
    assert [each.name for each in life.record().members] == ["db-0", "db-1"]
    assert life.record().durability.witness("db-2") is None
    assert life.world.nodes[2].pod == 0
    assert not any(isinstance(each, e.DeleteVolume) for each in life.effects)


def test_a_leaving_instance_is_deleted_only_when_it_can_acknowledge_no_more() -> None:
    life = served()
    life.want(replicas=2)
    life.passes.clear()
    for _ in range(20):
        witness = life.record().durability.witness("db-2")
        life.step()
        deletes = any(
            isinstance(each, e.DeletePod) and each.instance == "db-2" for each in life.passes[-1].effects
        )
        assert not (deletes and life.record().durability.witness("db-2") is not None)
        if deletes:
            assert witness is None or life.record().durability.witness("db-2") is None
            return
    pytest.fail("it is never deleted")


def test_suspend_does_nothing_until_it_is_lifted() -> None:
    life = served()
    life.want(suspend=True)
    life.step()
    assert life.record().state is State.PAUSED
    life.crash(1)
    life.passes.clear()
    life.steps(3)
    assert life.effects == []
    life.want(suspend=False)
    life.until_settled()
    assert life.record().state is State.HEALTHY


def test_volumes_without_a_status_are_quarantined_until_a_person_removes_them() -> None:
    held = instance(0, pod=None, **met(Reach.SILENT, pod_uid=""), volume=Volume.BOUND)
    found = decide(wanted(), snapshot(held), Record(), WALL)
    assert found.write
    assert found.record.state is State.QUARANTINED
    assert "data-db-0" in found.record.message
    assert found.effects == ()
    again = decide(wanted(), snapshot(held), found.record, WALL)
    assert again.record.state is State.QUARANTINED
    freed = decide(wanted(), snapshot(replace(held, volume=Volume.ABSENT)), found.record, WALL)
    assert freed.record.state is State.PROVISIONING
    assert freed.record.message == ""


def test_servers_of_a_later_epoch_than_the_status_are_quarantined_and_released_by_a_person_only() -> None:
    later = snapshot(instance(0, server=server(0, epoch=3, epoch_primary="db-2")), instance(1), instance(2))
    found = decide(wanted(), later, record(), WALL)
    assert found.record.state is State.QUARANTINED
    assert found.effects == ()
    sequence = found.record.sequence
    assert decide(wanted(), snapshot(), found.record, WALL).record.state is State.QUARANTINED
    released = decide(wanted(leave_quarantine=sequence), snapshot(), found.record, WALL)
    assert released.record.state in (State.DEGRADED, State.HEALTHY)
    still = decide(wanted(leave_quarantine=sequence), later, found.record, WALL)
    assert still.record.state is State.QUARANTINED


@pytest.mark.parametrize("state", [each for each in State if each is not State.DELETING])
def test_a_deleted_resource_is_released_from_every_state(state: State) -> None:
    known = record(state=state, operation=operation() if state in FAILING_OVER else None)
    last = decide(wanted(deletion_requested=True), snapshot(), known, WALL)
    assert last.record.state is State.DELETING
    assert last.write
    assert last.record.operation is None
    assert last.effects == (e.Release(False),)


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_history_entry_names_trigger_guards_and_operation_and_the_history_is_bounded() -> None:
    entry = decide(wanted(suspend=True), snapshot(), record(), WALL).entries[0]
    assert (entry.trigger, entry.source, entry.target) == ("suspended", State.HEALTHY, State.PAUSED)
    assert entry.guards == ("suspend_requested", "not never_recorded", "not fence_stands")
    known = record()
    for number in range(HISTORY_LIMIT + 5):
        known = decide(wanted(suspend=number % 2 == 0), snapshot(), known, WALL).record
    assert len(known.history) == HISTORY_LIMIT
    assert [each.sequence for each in known.history] == sorted({each.sequence for each in known.history})


def test_deciding_twice_from_the_same_facts_gives_the_same() -> None:
    facts = snapshot(instance(0, **met(Reach.REFUSED)), instance(1), instance(2))
    assert decide(wanted(), facts, record(), WALL) == decide(wanted(), facts, record(), WALL)
