"""Rules of the operator, each broken on purpose, with the faults under which that has to show.

How we know that the simulation can find anything. Not for bugs that were found by it: those are in tests/unit/test_machine_defects.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mariadb_operator.act.sql import SqlEffects
from mariadb_operator.controllers.session import ClusterSession
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.sql import durability, replication, roles, terms
from mariadb_operator.sql.errors import StatementFailed
from statemachines import (
    bookkeeping,
    decide,
    detection,
    election,
    following,
    guards,
    plan,
    updates,
    witnesses,
)
from statemachines import effects as e
from statemachines.election import Unfit
from statemachines.facts import Reach
from statemachines.record import Record, Recorded, Situation
from statemachines.states import State
from tests.simulation import faults as f
from tests.simulation.faults import Fault
from tests.simulation.world import Shape
from tests.unit.broken_rules import Break, always


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A rule that does not hold any more, and when it should."""

    apply: Break
    faults: tuple[Fault, ...]
    violates: str  # the numbers of the invariants of which one is named
    shape: Shape | None = None


def _not_barred_by(patch: pytest.MonkeyPatch, *reasons: Unfit) -> None:
    judge = election._judge

    def lenient(*arguments: Any, **more: Any) -> election.Ranked:
        ranked = judge(*arguments, **more)
        return replace(ranked, unfit=tuple(each for each in ranked.unfit if each not in reasons))

    patch.setattr(election, "_judge", lenient)


def elect_by_lag(patch: pytest.MonkeyPatch) -> None:
    """Whoever has nothing left to apply is promoted, whatever the others have received."""
    _not_barred_by(patch, Unfit.BEHIND_OTHER, Unfit.BEHIND_FLOOR)
    patch.setattr(election, "_weight", lambda position: -sum(gtid.sequence for gtid in position.gtids))


def promote_errant(patch: pytest.MonkeyPatch) -> None:
    _not_barred_by(patch, Unfit.ERRANT, Unfit.KEPT_OUT)
    patch.setattr(election, "errant", lambda record, server: ())


def start_the_sql_thread_late(patch: pytest.MonkeyPatch) -> None:
    """The IO thread is stopped first, then the SQL thread is seen to."""

    async def stop_io(connection: Any, *, guard: Any, deadline_seconds: float = 8.0) -> Any:
        await terms.guarded(connection, "STOP SLAVE IO_THREAD;", guard=guard)
        await terms.guarded(connection, "START SLAVE SQL_THREAD;", guard=guard)
        return await replication.replica_state(connection)

    patch.setattr(replication, "stop_io", stop_io)


def ignore_terms(patch: pytest.MonkeyPatch) -> None:
    """A server obeys whoever speaks, however long ago; a new leader does not end its predecessor's sessions."""

    async def guarded(
        connection: Any,
        body: str,
        args: Any = (),
        *,
        guard: Any,
        logged: bool = False,
        deadline_seconds: float = 8.0,
    ) -> None:
        sql = f"BEGIN NOT ATOMIC SET SESSION sql_log_bin = {int(logged)}; {body} END"
        try:
            await connection.execute(sql, args, deadline_seconds=deadline_seconds)
        except StatementFailed as error:
            raise terms._translated(error, guard=guard) from error

    async def raise_term(self: SqlEffects, instance: str) -> None:
        connection = await self._servers.standing(instance)
        await terms.raise_term(connection, guard=self._guard)
        self._cleared[instance] = connection.incarnation

    for module in (terms, replication, roles, durability):
        patch.setattr(module, "guarded", guarded)
    patch.setattr(SqlEffects, "_raise_term", raise_term)


def fall_back_unrecorded(patch: pytest.MonkeyPatch) -> None:
    """The primary stops waiting for acknowledgements though the status promises that it waits."""
    wanted = plan._semi_sync_wanted
    patch.setattr(
        plan,
        "_semi_sync_wanted",
        lambda s: s.record.durability.recorded is not Recorded.SEMI_SYNC and wanted(s),
    )


def open_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """The candidate is opened as soon as it is drained; the status is written afterwards."""

    def opening(s: Situation) -> Iterable[e.Effect]:
        operation = s.record.operation
        server = plan._candidate(s)
        if operation is not None and operation.candidate is not None and server is not None:
            yield e.Equalise(operation.candidate, operation.target, (0, 1, 2))
            if server.replication is None:
                yield e.OpenPrimary(
                    operation.candidate, s.record.epoch + 1, s.record.cluster_id, True, server.incarnation
                )

    patch.setitem(plan.PLANNERS, State.EQUALISING, (opening,))
    always("candidate_equalised", False)(patch)


def silence_is_death(patch: pytest.MonkeyPatch) -> None:
    """A primary that does not answer counts as dead."""
    proofs = detection.proofs

    def hasty(record: Record, snapshot: Any) -> Any:
        primary = snapshot.instance(record.primary)
        if primary is not None and record.epoch and primary.probe.reach is Reach.SILENT:
            return (*proofs(record, snapshot), detection.Proof.NODE_OFF)
        return proofs(record, snapshot)

    for module in (detection, guards, updates, bookkeeping):
        patch.setattr(module, "proofs", hasty)


def count_unseen(patch: pytest.MonkeyPatch) -> None:
    """A witness counts as soon as it answers, in whatever server start, with or without its relay log."""

    def present(record: Record, facts: Any) -> bool:
        answers = facts is not None and facts.answering is not None
        return answers and record.durability.witness(facts.name) is not None

    patch.setattr(election, "present", present)
    _not_barred_by(patch, Unfit.APPLIER_STOPPED)
    patch.setattr(replication.ReplicaState, "drained", property(lambda self: True))


def keep_the_old_epoch(patch: pytest.MonkeyPatch) -> None:
    """The commit names another primary and begins no epoch."""
    commit = updates.commit_epoch

    def broken(s: Situation) -> Record:
        return replace(commit(s), epoch=s.record.epoch)

    rows = tuple(
        replace(row, updates=tuple(broken if each is commit else each for each in row.updates))
        for row in vars(decide)["TABLE"]
    )
    patch.setattr(decide, "TABLE", rows)


def believe_unwritten(patch: pytest.MonkeyPatch) -> None:
    """What the status write was refused for is done all the same."""
    write = ClusterSession._write

    async def hasty(self: ClusterSession, resource: Any, decision: Any, situation: Any) -> None:
        try:
            await write(self, resource, decision, situation)
        except OperatorError:
            self._record = decision.record

    patch.setattr(ClusterSession, "_write", hasty)


def promote_undrained(patch: pytest.MonkeyPatch) -> None:
    """The candidate's replica side is ended before it has applied what it received."""
    always("candidate_drained", True)(patch)
    always("candidate_equalised", True)(patch)


def attach_whom_the_status_does_not_name(patch: pytest.MonkeyPatch) -> None:
    """An instance is let in and attached, and not written down as a witness."""

    def forgetful(s: Situation) -> Record | None:
        return witnesses.join_witness(s) if s.record.epoch == 1 else None

    rules = tuple(forgetful if rule is witnesses.join_witness else rule for rule in bookkeeping.RULES)
    patch.setattr(decide, "RULES", rules)
    patch.setattr(following, "_may_attach", lambda s, member, server, primary: server.read_only)
    patch.setattr(plan, "_unlocked", lambda s: (0, 1, 2))


WAIT = Shape(pause=0.2)
PAIR = Shape(pause=0.2, operators=1, replicas=2)
CALM = Shape(pause=0.2, operators=1)

MUTATIONS: dict[str, Mutation] = {
    "skip fencing": Mutation(
        apply=always("death_proven", True), faults=(f.freeze, f.isolate), violates="15", shape=WAIT
    ),
    "elect by lag": Mutation(
        apply=elect_by_lag, faults=(f.crash, f.freeze_replica, f.slow_applier), violates="2", shape=CALM
    ),
    "start the SQL thread late": Mutation(
        apply=start_the_sql_thread_late, faults=(f.crash_unapplied,), violates="23", shape=PAIR
    ),
    "ignore terms": Mutation(
        apply=ignore_terms,
        faults=(f.late_statement,),
        violates="2",
        shape=Shape(pause=0.2, degrade_after=1),
    ),
    "fall back to asynchronous unrecorded": Mutation(
        apply=fall_back_unrecorded, faults=(f.crash,), violates="2", shape=CALM
    ),
    "promote with a missing witness": Mutation(
        apply=always("witnesses_complete", True),
        faults=(f.crash, f.freeze_replica, f.isolate_replica),
        violates="2",
        shape=CALM,
    ),
    "open before the commit write": Mutation(
        apply=open_before_the_commit, faults=(f.crash,), violates="1", shape=CALM
    ),
    "silence is death": Mutation(
        apply=silence_is_death, faults=(f.freeze, f.isolate), violates="15", shape=WAIT
    ),
    "count an unseen witness": Mutation(
        apply=count_unseen, faults=(f.crash_all, f.slow_applier, f.slow_applier), violates="23", shape=PAIR
    ),
    "keep the old epoch": Mutation(apply=keep_the_old_epoch, faults=(f.crash,), violates="1", shape=CALM),
    "believe what is not written": Mutation(
        apply=believe_unwritten, faults=(f.crash, f.bad_api), violates="1", shape=CALM
    ),
    "adopt whatever answers": Mutation(
        apply=always("adoptable", True), faults=(f.lose_disk,), violates="24", shape=CALM
    ),
    "promote an errant instance": Mutation(
        apply=promote_errant, faults=(f.rogue, f.crash), violates="4", shape=CALM
    ),
    "promote before it has applied": Mutation(
        apply=promote_undrained, faults=(f.crash_behind,), violates="234", shape=CALM
    ),
    "attach whom the status does not name": Mutation(
        apply=attach_whom_the_status_does_not_name, faults=(f.crash,), violates="2", shape=CALM
    ),
}
