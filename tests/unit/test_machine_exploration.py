"""The machine explored exhaustively, as the product of the real `decide` and a small model of the world.

Three instances; within each plan every fault happens at every moment in every order, once each: death, freeze, cuts,
deletions, an errant write, a wiped volume, an outdated answer, a slow statement (a lost reply), an operator that dies
(also between a write and its effects). MACHINE_EXPLORATION=all explores every pair of faults instead of the most telling ones; that takes hours.

The second half breaks one rule at a time and has to find out: that is how we know that the first half can fail.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from typing import Any

import pytest

from statemachines import bookkeeping, decide, election, following, plan, updates, witnesses
from statemachines.cluster import TABLE
from statemachines.election import Unfit
from statemachines.record import Intent, Record, Situation
from statemachines.states import FAILING_OVER, State
from tests.unit import machine_world
from tests.unit.broken_rules import Break, always
from tests.unit.machine_explorer import ALL_KINDS, Explorer, intent
from tests.unit.machine_world import Node, Violation, World

Plan = tuple[str, ...]

SINGLE: tuple[Plan, ...] = tuple((kind,) for kind in ALL_KINDS)
PAIRS: tuple[tuple[Plan, bool], ...] = (
    (("crash", "restart"), False),
    (("crash", "slow"), False),
    (("cut_node", "restart"), False),
    (("break_applier", "crash"), False),
    (("stop_applier", "crash"), True),
    (("kill_query", "crash"), False),
)
# With sidecars a server that ended stays down, and what only its volume has is brought over.
SIDECAR_PAIRS: tuple[tuple[Plan, bool], ...] = (
    (("crash", "slow"), False),
    (("kill_query", "crash"), False),
)
EVERY_PAIR = tuple(itertools.product(itertools.combinations((*ALL_KINDS, "crash_again"), 2), (False, True)))
CHOSEN = EVERY_PAIR if os.environ.get("MACHINE_EXPLORATION") == "all" else PAIRS


def healthy(explorer: Explorer, *, sidecars: bool = False) -> World:
    """The cluster's life from nothing until every instance is attached and counted, without a fault."""
    world = explorer.newborn(sidecars=sidecars)
    for _ in range(60):
        if explorer.settled(world):
            return world
        world = explorer.step_on(world)
    raise AssertionError(f"never Healthy: {explorer.records[world.memory]}")


def explored(wanted: Intent, *plans: Plan, commits: int = 1, sidecars: bool = False) -> Explorer:
    explorer = Explorer(wanted, forgiving=any(len(kinds) > 1 for kinds in plans))
    start = healthy(explorer, sidecars=sidecars)
    explorer.explore(*(start._replace(faults=kinds, commits=commits) for kinds in plans))
    return explorer


def check_recovery(explorer: Explorer) -> None:
    """From everywhere: once faults stop, the cluster serves again, whole but for what is kept out."""
    for world in explorer.came_from:
        if not explorer.recover(world):
            state = explorer.records[explorer.stuck.memory].state
            raise Violation(f"7: for ever in {state}, no fault left, after\n{explorer.path(world)}")


@pytest.mark.parametrize("sidecars", [False, True], ids=["no sidecars", "sidecars"])
@pytest.mark.parametrize("promote", [False, True], ids=["Wait", "Promote"])
def test_any_one_fault_at_any_moment_breaks_no_invariant_and_is_recovered_from(
    promote: bool, sidecars: bool
) -> None:
    explorer = explored(intent(promote=promote), *SINGLE, sidecars=sidecars)
    check_recovery(explorer)
    reached = {State(target) for _, _, target in explorer.triggers}
    assert reached >= {*FAILING_OVER, State.REPLICATING, State.HEALTHY, State.DEGRADED}
    left = {State(source) for source, _, target in explorer.triggers if source != target}
    assert left >= {*FAILING_OVER, State.HEALTHY, State.DEGRADED, State.REPLICATING}


@pytest.mark.parametrize(
    ("kinds", "promote"),
    CHOSEN,
    ids=[f"{' and '.join(kinds)}, {'Promote' if promote else 'Wait'}" for kinds, promote in CHOSEN],
)
def test_two_faults_at_any_moments_break_no_invariant_and_are_recovered_from(
    kinds: Plan, promote: bool
) -> None:
    check_recovery(explored(intent(promote=promote), kinds))


@pytest.mark.parametrize(
    ("kinds", "promote"),
    SIDECAR_PAIRS,
    ids=[" and ".join(kinds) for kinds, _ in SIDECAR_PAIRS],
)
def test_two_faults_beside_sidecars_break_no_invariant_and_are_recovered_from(
    kinds: Plan, promote: bool
) -> None:
    check_recovery(explored(intent(promote=promote), kinds, sidecars=True))


def test_with_sidecars_no_dead_primary_is_ever_kept_out_for_what_only_it_has() -> None:
    explorer = explored(intent(), ("crash",), ("kill_query",), sidecars=True)
    check_recovery(explorer)
    kept_out = [
        member
        for world in explorer.came_from
        for member in explorer.records[world.memory].members
        if member.kept_out
    ]
    assert not kept_out, kept_out[0]


def test_replication_without_faults_is_never_disturbed() -> None:
    explorer = explored(intent(), (), commits=2)
    assert {explorer.records[world.memory].state for world in explorer.came_from} == {State.HEALTHY}


def test_a_cluster_of_one_and_one_without_failover_promote_nobody() -> None:
    explorer = explored(intent(failover_enabled=False), ("crash",))
    epochs = {explorer.records[world.memory].epoch for world in explorer.came_from}
    assert epochs == {1}
    check_recovery(explorer)


def test_every_state_is_reached_and_left_and_every_edge_is_taken_somewhere() -> None:
    explorer = Explorer(intent())
    explorer.explore(explorer.newborn())
    start = healthy(explorer)
    explorer.explore(start._replace(faults=("crash",), commits=1))
    one_of_each = {explorer.records[world.memory].state: world for world in explorer.came_from}
    for change in ({"suspend": True}, {"deletion_requested": True}):
        wish(explorer, **change)
        for world in one_of_each.values():
            explorer.outcome(world, overdue=False)
    wish(explorer)
    lost = explorer.operate(
        start, explorer.outcome(start._replace(memory=explorer.number(Record())), overdue=False)
    )
    assert explorer.records[lost.memory].state is State.QUARANTINED
    explorer.outcome(explorer.newborn()._replace(memory=lost.memory), overdue=False)
    wish(explorer, suspend=True)
    paused = explorer.operate(start, explorer.outcome(start, overdue=False))
    wish(explorer)
    explorer.outcome(paused, overdue=False)

    assert {State(target) for _, _, target in explorer.triggers} | {State.PROVISIONING} == set(State)
    assert {State(source) for source, _, target in explorer.triggers if target != source} == set(State) - {
        State.DELETING
    }


def wish(explorer: Explorer, **changes: Any) -> None:
    """Somebody edits the spec, or takes the edit back."""
    explorer.intent = intent(**changes)
    explorer.outcomes.clear()


# --- one rule broken at a time --------------------------------------------------------------------------------------


def not_barred_by(*reasons: Unfit) -> Break:
    """An election that overlooks these reasons."""
    judge = election._judge

    def apply(patch: pytest.MonkeyPatch) -> None:
        def lenient(*arguments: Any, **more: Any) -> election.Ranked:
            ranked = judge(*arguments, **more)
            return replace(ranked, unfit=tuple(each for each in ranked.unfit if each not in reasons))

        patch.setattr(election, "_judge", lenient)

    return apply


def attach_whom_the_status_does_not_name(patch: pytest.MonkeyPatch) -> None:
    """A new member is let in and attached, and never written down as a witness."""
    rules = tuple(rule for rule in bookkeeping.RULES if rule is not witnesses.join_witness)
    patch.setattr(decide, "RULES", rules)
    patch.setattr(following, "_may_attach", lambda s, member, server, primary: server.read_only)
    patch.setattr(plan, "_unlocked", lambda s: (0, 1, 2))


def drain_nothing(patch: pytest.MonkeyPatch) -> None:
    """The candidate ends its replica side before it has applied what it received; the server does not refuse it."""
    always("candidate_drained", True)(patch)

    def wipe(world: World, number: int, node: Node, effect: Any) -> World:
        stopped = node._replace(relay=(), io=False, sql=True)
        return equalise(world, number, stopped, effect)

    equalise = machine_world._equalise
    patch.setattr(machine_world, "_equalise", wipe)


def pass_over_what_others_received(patch: pytest.MonkeyPatch) -> None:
    """The lowest ordinal is promoted, whatever the others hold."""
    not_barred_by(Unfit.BEHIND_OTHER)(patch)
    patch.setattr(election, "_weight", lambda position: 0)


def keep_the_old_epoch(patch: pytest.MonkeyPatch) -> None:
    """The commit names another primary and does not begin an epoch."""
    commit = updates.commit_epoch

    def broken(s: Situation) -> Record:
        return replace(commit(s), epoch=s.record.epoch)

    rows = tuple(
        replace(row, updates=tuple(broken if each is commit else each for each in row.updates))
        for row in TABLE
    )
    patch.setattr(decide, "TABLE", rows)


def take_out_without_waiting(patch: pytest.MonkeyPatch) -> None:
    """A witness that is to go is none at once, locked out or not."""

    def hasty(s: Situation) -> Record | None:
        witness = witnesses.witness_to_exclude(s)
        return witnesses._without_witness(s.record, witness.name) if witness is not None else None

    rules = tuple(hasty if rule is witnesses.exclude_witness else rule for rule in bookkeeping.RULES)
    patch.setattr(decide, "RULES", rules)


def count_unseen(patch: pytest.MonkeyPatch) -> None:
    """A witness counts as soon as it answers, whatever it holds."""

    def present(record: Record, facts: Any) -> bool:
        return (
            facts is not None
            and facts.answering is not None
            and record.durability.witness(facts.name) is not None
        )

    patch.setattr(election, "present", present)


def stop_waiting_unrecorded(patch: pytest.MonkeyPatch) -> None:
    """The primary stops waiting for acknowledgements though the status promises that it waits."""
    patch.setattr(plan, "_semi_sync_wanted", lambda s: False)


def overlook_errant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(election, "errant", lambda record, server: ())


BROKEN: dict[str, tuple[Break, Plan, bool]] = {
    "death_proven": (always("death_proven", True), ("freeze",), False),
    "witnesses_complete": (always("witnesses_complete", True), ("cut_operator", "crash"), False),
    "receivers_stopped": (always("receivers_stopped", True), ("cut_node", "slow"), True),
    "candidate_drained": (drain_nothing, ("crash",), False),
    "candidate_equalised": (always("candidate_equalised", True), ("crash",), False),
    "BehindOther": (pass_over_what_others_received, ("crash",), False),
    "Errant": (overlook_errant, ("rogue", "crash"), False),
    "adoptable": (always("adoptable", True), ("lose_disk",), False),
    "commit_epoch": (keep_the_old_epoch, ("crash",), False),
    "exclude_witness": (take_out_without_waiting, ("cut_operator", "slow"), False),
    "present": (count_unseen, ("crash", "crash_again"), False),
    "semi_sync": (stop_waiting_unrecorded, (), False),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_found(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it, kinds, promote = BROKEN[rule]
    explorer = Explorer(intent(promote=promote), ordered=True)
    start = healthy(explorer)._replace(faults=kinds, commits=2)
    explorer.outcomes.clear()
    break_it(monkeypatch)
    with pytest.raises(Violation, match=r"^[123457]: "):
        look_for_violation(explorer, start)


def test_an_unrecorded_witness_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = Explorer(intent(replicas=2))
    start = healthy(explorer)._replace(commits=1)
    explorer.outcomes.clear()
    explorer.intent = intent(replicas=3)
    attach_whom_the_status_does_not_name(monkeypatch)
    with pytest.raises(Violation, match="is no witness"):
        look_for_violation(explorer, start)


def look_for_violation(explorer: Explorer, start: World) -> None:
    explorer.explore(start)
    check_recovery(explorer)
