"""Effects: the closed union of what may be done to the world, each idempotent, named and bounded.

An effect is a request; whether it worked is told by later facts, never by its return. Not for doing it
(mariadb_operator.act) nor for when (plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from statemachines.gtid import Position


@dataclass(frozen=True, slots=True)
class EnsureInstance:
    """Make the instance's volume claim and Pod if they are absent; on that node, where one is named."""

    instance: str
    ordinal: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete the Pod with that UID, and no other."""

    instance: str
    uid: str
    grace_seconds: int | None
    why: str


@dataclass(frozen=True, slots=True)
class DeleteVolume:
    """Delete the volume claim of an instance that left, where volumeDeletionPolicy says so."""

    instance: str


@dataclass(frozen=True, slots=True)
class RaiseTerm:
    """Tell the server this leader's term and end the sessions of earlier leaders."""

    instance: str
    term: int


@dataclass(frozen=True, slots=True)
class InitialisePrimary:
    """On the first, still read-only instance: accounts, database, and the first epoch's transaction."""

    instance: str
    cluster_id: str


@dataclass(frozen=True, slots=True)
class OpenPrimary:
    """Make the primary writable, in that server start only; its commits wait for a replica or not, as recorded."""

    instance: str
    epoch: int
    cluster_id: str
    semi_sync: bool
    incarnation: str


@dataclass(frozen=True, slots=True)
class WriteEpoch:
    """Log the epoch's own transaction on the open primary."""

    instance: str
    epoch: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class SetSemiSync:
    """Turn waiting for acknowledgements on or off at the primary; off only after the record says so."""

    instance: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class ProveAcknowledgement:
    """Commit one small row at the primary, so that an acknowledgement can be seen."""

    instance: str


@dataclass(frozen=True, slots=True)
class KeepApplication:
    """On the open primary: make the application's account and database, or give the account its present password."""

    instance: str


@dataclass(frozen=True, slots=True)
class SetAccounts:
    """On the primary: unlock the replication accounts of these instances, lock the others and end their streams."""

    instance: str
    unlocked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attach:
    """Make the instance a replica of that address, after it applied what it has received."""

    instance: str
    ordinal: int
    source: str
    source_address: str


@dataclass(frozen=True, slots=True)
class StartApplying:
    """Start the SQL thread of a replica whose IO thread runs: so what it received is kept."""

    instance: str


@dataclass(frozen=True, slots=True)
class StartReceiving:
    """Start the IO thread again; the SQL thread never stopped."""

    instance: str


@dataclass(frozen=True, slots=True)
class StopReceiving:
    """Stop the IO thread with the SQL thread running, or ended by an error: so what was received is kept."""

    instance: str


@dataclass(frozen=True, slots=True)
class FenceServer:
    """By the sidecar: kill that instance's server, and keep it from being started."""

    instance: str
    epoch: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class PermitServer:
    """By the sidecar: let that start of the instance's server begin, read-only."""

    instance: str
    start: str
    epoch: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class Salvage:
    """By both sidecars: bring the source's transactions after a position into a file next to the instance, and apply
    nothing.
    """

    instance: str
    source: str
    after: Position
    operation: str
    epoch: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class ApplySalvaged:
    """Have the drained, read-only candidate take the file of this operation from its sidecar, GTIDs kept."""

    instance: str
    operation: str
    upto: Position
    epoch: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Wait until the candidate applied what it received."""

    instance: str
    target: Position


@dataclass(frozen=True, slots=True)
class Equalise:
    """Stop receiving, end the candidate's replica side, turn waiting for acknowledgements on, set the accounts; stay read-only."""

    instance: str
    target: Position
    unlocked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SwitchPrimary:
    """Point the primary's EndpointSlice at that address, in one guarded write."""

    instance: str
    address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class SetReplicaEndpoints:
    """List these instances in the replicas' EndpointSlice."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbeNow:
    """Ask these instances at once."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Certify:
    """Issue a certificate that names the present addresses of the Pods, and have the kubelets bring it to them."""

    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReloadCertificate:
    """Have the server read its certificate anew."""

    instance: str


@dataclass(frozen=True, slots=True)
class EnsureObjects:
    """Make or mend Secrets, ConfigMap, Services and the budget."""


@dataclass(frozen=True, slots=True)
class Release:
    """Let the deleted resource go: volumes by policy, then our finalizer."""

    delete_volumes: bool


Effect = (
    EnsureInstance
    | DeletePod
    | DeleteVolume
    | RaiseTerm
    | InitialisePrimary
    | OpenPrimary
    | WriteEpoch
    | SetSemiSync
    | ProveAcknowledgement
    | KeepApplication
    | SetAccounts
    | Attach
    | StartApplying
    | StartReceiving
    | StopReceiving
    | FenceServer
    | PermitServer
    | Salvage
    | ApplySalvaged
    | Drain
    | Equalise
    | SwitchPrimary
    | SetReplicaEndpoints
    | ProbeNow
    | Certify
    | ReloadCertificate
    | EnsureObjects
    | Release
)
