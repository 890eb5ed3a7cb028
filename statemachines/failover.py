"""Failover: the substates of FailingOver and their edges.

Each substate owns one kind of effect (plan.py) and is left on observed evidence. Until Committing every step may be
undone; from there only forward. Without a sidecar at hand there is nothing to salvage, and Salvaging is passed at once.
"""

from __future__ import annotations

from statemachines import guards as g
from statemachines import permission as p
from statemachines import updates as u
from statemachines.record import Intent
from statemachines.states import BEFORE_COMMIT, State
from statemachines.tables import Transition

DRAIN_SECONDS = 600.0


def limit(state: State, intent: Intent) -> float:
    """How many seconds a substate may last.

    maxWait is for proof and witnesses; to stop a replica that lost its source's host takes a second or two by itself.
    """
    match state:
        case State.FENCING:
            return intent.max_wait + g.STEP_SECONDS
        case State.SALVAGING | State.DRAINING:
            return DRAIN_SECONDS
        case _:
            return g.STEP_SECONDS


def suspicion_from(state: State) -> Transition:
    """The edge into a failover."""
    return Transition(
        trigger="primary_suspected",
        source=state,
        target=State.CONFIRMING,
        when=(g.primary_suspected, p.nothing_blocks_failover),
        unless=(g.refuted_lately,),
        updates=(u.open_operation,),
        write_ahead=False,
        text="The primary is suspected, and a failover would be allowed.",
    )


def _rollback(state: State) -> tuple[Transition, ...]:
    return (
        Transition(
            trigger="suspended_meanwhile",
            source=state,
            target=State.DEGRADED,
            when=(g.suspend_requested,),
            updates=(u.close_operation,),
            text="spec.suspend was set before anything was promoted: the fence is lifted.",
        ),
        Transition(
            trigger="failover_disabled_meanwhile",
            source=state,
            target=State.DEGRADED,
            unless=(g.failover_enabled,),
            updates=(u.close_operation,),
            text="Failover was disabled before anything was promoted: the fence is lifted.",
        ),
        Transition(
            trigger="primary_answered",
            source=state,
            target=State.DEGRADED,
            when=(g.primary_alive,),
            updates=(u.close_operation,),
            text="The primary lives: nothing was changed that is not undone.",
        ),
        Transition(
            trigger="primary_came_back",
            source=state,
            target=State.DEGRADED,
            when=(g.primary_came_back, g.everybody_asked),
            unless=(g.witnesses_complete,),
            updates=(u.close_operation,),
            text="The primary restarted with its data while a witness is missing: it is reopened instead.",
        ),
    )


def _candidate_lost(state: State) -> Transition:
    return Transition(
        trigger="candidate_lost",
        source=state,
        target=State.FENCING,
        when=(g.candidate_lost,),
        updates=(u.drop_candidate,),
        write_ahead=False,
        text="The candidate died or is not the best any more: elect again behind a standing fence.",
    )


FAILOVER: tuple[Transition, ...] = (
    *(row for state in BEFORE_COMMIT for row in _rollback(state)),
    Transition(
        trigger="death_proven",
        source=State.CONFIRMING,
        target=State.FENCING,
        when=(g.death_proven,),
        updates=(u.note_evidence,),
        text="The server that served this epoch has ended.",
    ),
    Transition(
        trigger="silence_confirmed",
        source=State.CONFIRMING,
        target=State.FENCING,
        when=(g.silence_confirmed,),
        updates=(u.note_evidence,),
        text="Nobody hears the primary; it may still run, so it is killed, by its sidecar or through its kubelet.",
    ),
    Transition(
        trigger="inability_confirmed",
        source=State.CONFIRMING,
        target=State.FENCING,
        when=(g.unable_to_write,),
        updates=(u.note_evidence,),
        text="The primary lives and can't write: it is killed by its sidecar.",
    ),
    Transition(
        trigger="not_confirmed",
        source=State.CONFIRMING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation, u.note_refuted),
        text="The suspicion could not be confirmed in time.",
    ),
    Transition(
        trigger="fenced",
        source=State.FENCING,
        target=State.SALVAGING,
        when=(g.death_proven, g.witnesses_complete, g.receivers_stopped),
        updates=(u.note_evidence,),
        write_ahead=False,
        text="The old primary is dead, everybody who may have acknowledged is here, and nobody receives any more.",
    ),
    Transition(
        trigger="fenced_at_its_volume",
        source=State.FENCING,
        target=State.SALVAGING,
        when=(g.death_proven, g.volume_at_hand, g.receivers_stopped),
        updates=(u.note_evidence,),
        write_ahead=False,
        text="The old primary is dead and held, and its volume has everything that was ever acknowledged.",
    ),
    Transition(
        trigger="fenced_by_policy",
        source=State.FENCING,
        target=State.SALVAGING,
        when=(g.promote_allowed, g.max_wait_over, g.receivers_stopped),
        updates=(u.go_on_by_policy,),
        text="Proof or a witness is missing, maxWait is over, and onUncertainData accepts what may be lost.",
    ),
    Transition(
        trigger="fence_unproven",
        source=State.FENCING,
        target=State.DEGRADED,
        when=(g.max_wait_over, g.receivers_stopped),
        updates=(u.close_operation, u.note_refuted),
        text="Not proven dead, or a witness is missing, within maxWait: nothing is promoted; the fence is lifted.",
    ),
    Transition(
        trigger="fence_overdue",
        source=State.FENCING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation, u.note_refuted),
        text="A replica could not be stopped from receiving: nothing is promoted; the fence is lifted.",
    ),
    Transition(
        trigger="salvaged",
        source=State.SALVAGING,
        target=State.ELECTING,
        when=(g.tail_secured,),
        updates=(u.note_tail,),
        write_ahead=False,
        text="What the dead primary's volume holds is with the replica that received most, applied or in a file.",
    ),
    Transition(
        trigger="nothing_to_salvage_from",
        source=State.SALVAGING,
        target=State.ELECTING,
        when=(g.may_go_without_tail,),
        unless=(g.volume_reachable,),
        updates=(u.go_on_without_tail,),
        write_ahead=False,
        text="The dead primary's volume is out of reach, and not needed.",
    ),
    Transition(
        trigger="salvage_given_up",
        source=State.SALVAGING,
        target=State.ELECTING,
        when=(g.may_go_without_tail, g.salvage_overdue),
        updates=(u.go_on_without_tail,),
        text="What only the dead primary holds was acknowledged to nobody, and takes too long to be waited for.",
    ),
    Transition(
        trigger="volume_lost",
        source=State.SALVAGING,
        target=State.FENCING,
        unless=(g.volume_reachable, g.may_go_without_tail),
        write_ahead=False,
        text="The dead primary's volume is needed, and out of reach again.",
    ),
    Transition(
        trigger="salvage_failed",
        source=State.SALVAGING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation, u.note_refuted),
        text="What only the dead primary holds could not be brought over: nothing is promoted; the fence is lifted.",
    ),
    Transition(
        trigger="recipient_lost",
        source=State.ELECTING,
        target=State.SALVAGING,
        when=(g.candidate_fit,),
        unless=(g.candidate_has_tail,),
        write_ahead=False,
        text="Another replica is the best now, and what was salvaged is not with it.",
    ),
    Transition(
        trigger="candidate_elected",
        source=State.ELECTING,
        target=State.DRAINING,
        when=(g.candidate_fit, g.candidate_has_tail, g.witnesses_heard),
        updates=(u.choose_candidate,),
        write_ahead=False,
        text="The replica that received most is chosen.",
    ),
    Transition(
        trigger="nobody_fit",
        source=State.ELECTING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation, u.note_refuted),
        text="No replica may be promoted; the status says why for each.",
    ),
    _candidate_lost(State.DRAINING),
    Transition(
        trigger="drained",
        source=State.DRAINING,
        target=State.EQUALISING,
        when=(g.candidate_drained,),
        write_ahead=False,
        text="Everything the candidate received is applied.",
    ),
    Transition(
        trigger="drain_overdue",
        source=State.DRAINING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation, u.note_refuted),
        text="The candidate does not apply what it received.",
    ),
    _candidate_lost(State.EQUALISING),
    Transition(
        trigger="equalised",
        source=State.EQUALISING,
        target=State.COMMITTING,
        when=(g.candidate_equalised, g.receivers_stopped),
        updates=(u.commit_epoch,),
        text="The candidate is ready: the next epoch is written, and from here only forward.",
    ),
    Transition(
        trigger="equalise_overdue",
        source=State.EQUALISING,
        target=State.FENCING,
        when=(g.deadline_passed,),
        updates=(u.drop_candidate,),
        text="The candidate did not take its new role in time: fence and elect again.",
    ),
    Transition(
        trigger="committed",
        source=State.COMMITTING,
        target=State.SWITCHING,
        when=(g.epoch_committed,),
        write_ahead=False,
        text="The status names the new primary.",
    ),
    Transition(
        trigger="commit_overdue",
        source=State.COMMITTING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation,),
        text="The status names another primary than the operation: somebody edited it.",
    ),
    Transition(
        trigger="switched",
        source=State.SWITCHING,
        target=State.OPENING,
        when=(g.service_switched,),
        write_ahead=False,
        text="The Service points at the new primary.",
    ),
    Transition(
        trigger="switch_overdue",
        source=State.SWITCHING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation,),
        text="The Service could not be switched in time; it is tried on, and the new primary stays read-only until then.",
    ),
    Transition(
        trigger="opened",
        source=State.OPENING,
        target=State.REPLICATING,
        when=(g.primary_open,),
        updates=(u.close_operation,),
        text="The new primary is writable.",
    ),
    Transition(
        trigger="open_overdue",
        source=State.OPENING,
        target=State.DEGRADED,
        when=(g.deadline_passed,),
        updates=(u.close_operation,),
        text="The new primary could not be opened in time; it is tried on.",
    ),
)
