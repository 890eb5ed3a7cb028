"""The record: the part of the resource's status that the machine owns, and the intent taken from the spec.

Frozen, pure data. Times are wall-clock seconds since 1970 (they are shown to people and survive restarts; no decision
about safety depends on them). Not for the JSON form (mariadb_operator.api maps it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from statemachines.facts import Snapshot
from statemachines.gtid import Position
from statemachines.states import SCHEMA, State

HISTORY_LIMIT = 32


class DurabilityMode(StrEnum):
    """spec.highAvailability.durability."""

    PREFERRED = "Preferred"
    GUARANTEED = "Guaranteed"


class Recorded(StrEnum):
    """What the record says of the primary: never more optimistic than the server."""

    SEMI_SYNC = "SemiSync"
    ASYNCHRONOUS = "Asynchronous"


def account(ordinal: int) -> str:
    """Name of an instance's replication account."""
    return f"repl_{ordinal}"


class OnUncertainData(StrEnum):
    """spec.highAvailability.failover.onUncertainData."""

    WAIT = "Wait"
    PROMOTE = "Promote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the spec asks for, reduced to what decisions need. Times in seconds."""

    name: str
    cluster_uid: str
    generation: int = 0
    replicas: int = 1
    high_availability: bool = True
    durability: DurabilityMode = DurabilityMode.PREFERRED
    degrade_after: float = 10.0
    failover_enabled: bool = True
    max_wait: float = 10.0
    on_uncertain_data: OnUncertainData = OnUncertainData.WAIT
    suspend: bool = False
    deletion_requested: bool = False
    delete_volumes: bool = False
    template_hash: str = ""
    leave_quarantine: int | None = None  # the sequence number a person confirmed by annotation
    term: int = 0  # of this leader

    @property
    def wants_semi_sync(self) -> bool:
        """Whether commits should wait for a replica's acknowledgement at all."""
        return self.high_availability and self.replicas > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An instance that belongs to the cluster."""

    name: str
    ordinal: int
    kept_out: str = ""  # why it must not replicate: names the errant transactions
    leaving: bool = False
    complete: bool = False  # it held everything the primary had at least once since its volume was empty
    redundant: bool = False  # leaving, and seen to hold nothing that the primary lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """An instance that may have acknowledged commits of this epoch.

    `incarnation` is the server start in which it was seen to hold everything; empty: not yet seen, so what it
    acknowledged earlier may be gone from it.
    """

    name: str
    incarnation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """Who may have acknowledged what."""

    recorded: Recorded = Recorded.ASYNCHRONOUS
    witnesses: tuple[Witness, ...] = ()
    floor: Position = field(default_factory=Position)  # known to be acknowledged; may veto, never permit
    base: Position = field(default_factory=Position)  # what the primary held when the present epoch began
    unacknowledged: int = (
        0  # commits of the primary's server start whose clients heard OK though nobody acknowledged
    )

    def witness(self, name: str) -> Witness | None:
        """That witness, or None."""
        return next((each for each in self.witnesses if each.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A failover under way."""

    id: str
    old_primary: str
    started: float
    deadline: float
    candidate: str | None = None
    target: Position = field(default_factory=Position)  # what it has to hold before it is committed
    evidence: str = ""
    attempts: int = 1
    proven: bool = False  # the old primary's death was proven once in this operation
    by_policy: bool = False  # goes on without proof or witness because onUncertainData is Promote
    tail: Position = field(
        default_factory=Position
    )  # all that the dead primary's volume holds, and the candidate has
    without_tail: bool = False  # what only that volume holds is left there


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One transition, as auditors read it."""

    sequence: int
    source: State
    target: State
    trigger: str
    guards: tuple[str, ...]
    at: float
    evidence: str = ""
    operation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that survives an operator."""

    state: State = State.PROVISIONING
    since: float = 0.0
    schema: int = SCHEMA
    sequence: int = 0  # of the last transition; 0: never written
    epoch: int = 0
    cluster_id: str = ""
    primary: str | None = None
    primary_incarnation: str = ""
    primary_pod: str = ""  # UID of the Pod in which that incarnation ran
    primary_node: str = ""  # the node of that Pod
    primary_ended: bool = False  # that Pod's server was proven to have ended
    members: tuple[Member, ...] = ()
    durability: Durability = field(default_factory=Durability)
    operation: Operation | None = None
    last_failover: float | None = None
    refuted_at: float | None = None  # when an operation ended without a promotion
    refuted_proven: bool = False  # though the primary's death was proven in it
    message: str = ""
    history: tuple[HistoryEntry, ...] = ()

    def member(self, name: str | None) -> Member | None:
        """That member, or None."""
        return next((each for each in self.members if each.name == name), None)

    @property
    def replicas(self) -> tuple[Member, ...]:
        """Members but the primary."""
        return tuple(each for each in self.members if each.name != self.primary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a guard may look at."""

    intent: Intent
    snapshot: Snapshot
    record: Record
    wall: float  # now, in wall-clock seconds
