"""The states of a cluster, each with its sentence, and the version of what is persisted.

One StrEnum of all state paths; inside `transitions` the values are the path strings (restoring a nested enum state
fails in transitions 0.9.3, FACTS.md). Not for how states are left: cluster.py and failover.py hold those tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SCHEMA = 1  # of the persisted record; a newer one is never guessed at


class State(StrEnum):
    """Path of a state; a substate is `Parent_Child`."""

    PROVISIONING = "Provisioning"
    REPLICATING = "Replicating"
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    CONFIRMING = "FailingOver_Confirming"
    FENCING = "FailingOver_Fencing"
    SALVAGING = "FailingOver_Salvaging"
    ELECTING = "FailingOver_Electing"
    DRAINING = "FailingOver_Draining"
    EQUALISING = "FailingOver_Equalising"
    COMMITTING = "FailingOver_Committing"
    SWITCHING = "FailingOver_Switching"
    OPENING = "FailingOver_Opening"
    PAUSED = "Paused"
    QUARANTINED = "Quarantined"
    DELETING = "Deleting"

    @property
    def top(self) -> str:
        """The top state: `FailingOver` for `FailingOver_Fencing`."""
        return self.value.partition("_")[0]

    @property
    def substate(self) -> str:
        """The substate, or empty."""
        return self.value.partition("_")[2]


class Kind(StrEnum):
    """How long a cluster stays in a state."""

    STABLE = "stable"  # derived from facts at every pass
    TRANSIENT = "transient"  # part of an operation; has a deadline
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class StateInfo:
    """What a state means, for people."""

    kind: Kind
    text: str


STATES: dict[State, StateInfo] = {
    State.PROVISIONING: StateInfo(
        Kind.STABLE,
        "Objects and volumes are made and the first primary is initialised; no client was served yet.",
    ),
    State.REPLICATING: StateInfo(
        Kind.STABLE,
        "A writable primary of this epoch serves; not every instance is attached and counted yet.",
    ),
    State.HEALTHY: StateInfo(
        Kind.STABLE,
        "Every instance replicates and, where there is more than one, commits wait for an acknowledgement.",
    ),
    State.DEGRADED: StateInfo(
        Kind.STABLE, "Less than the spec asks for: an instance, a link or the durability is missing."
    ),
    State.CONFIRMING: StateInfo(
        Kind.TRANSIENT,
        "The primary is suspected: the replicas, Kubernetes and the server itself are asked once more.",
    ),
    State.FENCING: StateInfo(
        Kind.TRANSIENT,
        "The old primary is made unable to acknowledge: its death is proven and no replica receives.",
    ),
    State.SALVAGING: StateInfo(
        Kind.TRANSIENT,
        "What only the dead primary's volume holds is brought, as a file, next to the replica that received most.",
    ),
    State.ELECTING: StateInfo(Kind.TRANSIENT, "The replica that received most, and is fit, is chosen."),
    State.DRAINING: StateInfo(Kind.TRANSIENT, "The candidate applies everything it received."),
    State.EQUALISING: StateInfo(
        Kind.TRANSIENT,
        "The candidate applies what was salvaged, stops being a replica and is set to wait for acknowledgements; still"
        " read-only.",
    ),
    State.COMMITTING: StateInfo(
        Kind.TRANSIENT, "The new epoch and its primary are written to the status: from here only forward."
    ),
    State.SWITCHING: StateInfo(
        Kind.TRANSIENT,
        "The primary's Service is pointed at the candidate in one write; the others are repointed.",
    ),
    State.OPENING: StateInfo(Kind.TRANSIENT, "The candidate becomes writable."),
    State.PAUSED: StateInfo(
        Kind.STABLE, "spec.suspend is set: everything is observed and reported, nothing is done."
    ),
    State.QUARANTINED: StateInfo(
        Kind.STABLE, "Something is found that must not be guessed at; a person decides (see the message)."
    ),
    State.DELETING: StateInfo(
        Kind.FINAL, "The resource is being deleted; volumes follow volumeDeletionPolicy."
    ),
}

STEADY = (State.REPLICATING, State.HEALTHY, State.DEGRADED)
BEFORE_COMMIT = (
    State.CONFIRMING,
    State.FENCING,
    State.SALVAGING,
    State.ELECTING,
    State.DRAINING,
    State.EQUALISING,
)
AFTER_COMMIT = (State.COMMITTING, State.SWITCHING, State.OPENING)
FAILING_OVER = BEFORE_COMMIT + AFTER_COMMIT
