"""The life of a cluster: the transitions between its stable states. Read this first.

Rows are tried in order; the first whose guards hold is taken. The failover's substates are in failover.py; what is
done in a state is in plan.py; who counts as a member or witness is in bookkeeping.py.
"""

from __future__ import annotations

from statemachines import durability as d
from statemachines import guards as g
from statemachines import updates as u
from statemachines.failover import FAILOVER, suspicion_from
from statemachines.states import AFTER_COMMIT, BEFORE_COMMIT, STEADY, State
from statemachines.tables import Transition


def _deletion() -> tuple[Transition, ...]:
    return tuple(
        Transition(
            trigger="deletion_requested",
            source=state,
            target=State.DELETING,
            when=(g.deletion_requested,),
            updates=(u.close_operation, u.clear_message),
            text="Somebody deleted the resource.",
        )
        for state in State
        if state is not State.DELETING
    )


def _quarantine() -> tuple[Transition, ...]:
    contradiction = tuple(
        Transition(
            trigger="status_contradicted",
            source=state,
            target=State.QUARANTINED,
            when=(g.servers_contradict_record,),
            updates=(u.quarantine_contradiction,),
            text="The servers hold a later epoch, or another primary, than the status says.",
        )
        for state in STEADY
    )
    return (
        Transition(
            trigger="data_without_status",
            source=State.PROVISIONING,
            target=State.QUARANTINED,
            when=(g.data_without_record,),
            updates=(u.quarantine_volumes,),
            text="Volumes hold data but there is no status: a cold start, which a person decides.",
        ),
        *contradiction,
        Transition(
            trigger="volumes_gone",
            source=State.QUARANTINED,
            target=State.PROVISIONING,
            when=(g.unserved,),
            unless=(g.data_volumes_exist,),
            updates=(u.clear_message, u.adopt_members),
            text="The volumes that stood in the way were deleted by a person.",
        ),
        Transition(
            trigger="released",
            source=State.QUARANTINED,
            target=State.DEGRADED,
            when=(g.person_released,),
            unless=(g.unserved, g.servers_contradict_record, g.record_unreadable),
            updates=(u.clear_message,),
            text="A person looked and released the cluster by annotation.",
        ),
    )


def _suspension() -> tuple[Transition, ...]:
    pausing = tuple(
        Transition(
            trigger="suspended",
            source=state,
            target=State.PAUSED,
            when=(g.suspend_requested,),
            unless=(g.never_recorded, g.fence_stands),
            text="spec.suspend was set.",
        )
        for state in (State.PROVISIONING, *STEADY)
    )
    return (
        *pausing,
        Transition(
            trigger="resumed",
            source=State.PAUSED,
            target=State.PROVISIONING,
            when=(g.unserved,),
            unless=(g.suspend_requested,),
            text="spec.suspend was removed before the first epoch began.",
        ),
        Transition(
            trigger="resumed_serving",
            source=State.PAUSED,
            target=State.DEGRADED,
            unless=(g.suspend_requested, g.unserved),
            text="spec.suspend was removed.",
        ),
    )


LIFE: tuple[Transition, ...] = (
    Transition(
        trigger="created",
        source=State.PROVISIONING,
        target=State.PROVISIONING,
        when=(g.never_recorded,),
        updates=(u.adopt_members,),
        text="A new resource: its members are named before anything is made.",
    ),
    Transition(
        trigger="first_primary_initialised",
        source=State.PROVISIONING,
        target=State.REPLICATING,
        when=(g.primary_initialised,),
        updates=(u.begin_first_epoch,),
        text="The first instance holds accounts, database and the first epoch's transaction.",
    ),
    Transition(
        trigger="all_attached",
        source=State.REPLICATING,
        target=State.HEALTHY,
        when=(g.primary_open, g.fully_replicated),
        text="Every instance replicates and is counted; commits wait for an acknowledgement.",
    ),
    Transition(
        trigger="attach_overdue",
        source=State.REPLICATING,
        target=State.DEGRADED,
        when=(g.attach_overdue,),
        text="Something does not attach.",
    ),
    Transition(
        trigger="repaired",
        source=State.DEGRADED,
        target=State.HEALTHY,
        when=(g.primary_open, g.fully_replicated),
        text="All that the spec asks for is there again.",
    ),
    *(
        Transition(
            trigger="acknowledgements_missing",
            source=state,
            target=State.DEGRADED,
            when=(d.acknowledgements_missing,),
            updates=(u.record_asynchronous,),
            text="Nobody could acknowledge for degradeAfter: recorded as asynchronous before it becomes so.",
        )
        for state in STEADY
    ),
    *(
        Transition(
            trigger="semi_sync_unwanted",
            source=state,
            target=state,
            when=(d.semi_sync_unwanted,),
            updates=(u.record_asynchronous,),
            text="The spec asks for one instance, or for no high availability: asynchronous from now on.",
        )
        for state in STEADY
    ),
    *(
        Transition(
            trigger="semi_sync_found_off",
            source=state,
            target=State.DEGRADED,
            when=(d.semi_sync_found_off,),
            updates=(u.record_asynchronous,),
            text="The primary does not wait for replicas, though it should: recorded as asynchronous, then turned on.",
        )
        for state in STEADY
    ),
    *(
        Transition(
            trigger="acknowledgement_seen",
            source=state,
            target=state,
            when=(d.acknowledgement_seen,),
            updates=(u.record_semi_sync,),
            text="Commits wait for a replica, and one was seen to acknowledge: recorded as semi-synchronous.",
        )
        for state in (State.REPLICATING, State.DEGRADED)
    ),
    Transition(
        trigger="less_than_asked",
        source=State.HEALTHY,
        target=State.DEGRADED,
        when=(g.observed,),
        unless=(g.fully_replicated,),
        write_ahead=False,
        text="An instance or a link is missing, or members are being added or removed.",
    ),
    Transition(
        trigger="primary_not_open",
        source=State.HEALTHY,
        target=State.DEGRADED,
        when=(g.observed,),
        unless=(g.primary_open,),
        write_ahead=False,
        text="The primary does not answer, or is read-only.",
    ),
)

TABLE: tuple[Transition, ...] = (
    *_deletion(),
    *_quarantine(),
    *_suspension(),
    *(suspicion_from(state) for state in (*STEADY, State.SWITCHING, State.OPENING)),
    *LIFE,
    *FAILOVER,
)
"""Every edge of the machine, in the order in which edges of one source are tried."""

assert {row.source for row in FAILOVER} <= {*BEFORE_COMMIT, *AFTER_COMMIT}
