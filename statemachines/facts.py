"""Facts: what was observed of a cluster, with its age, and the snapshot that holds all of them at one moment.

Frozen, pure data; every decision is a function of these. Times are seconds of one monotonic clock (`Snapshot.now`
is the same clock). Not for how facts are got (mariadb_operator.observe) nor what is made of them (guards, detection).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from statemachines.gtid import History, Position


class Reach(StrEnum):
    """What the last attempt to talk to a server met."""

    UNKNOWN = "Unknown"  # nobody asked yet
    ANSWERING = "Answering"  # it answered a query
    PRESENT = "Present"  # it is alive but let us not in: 1040, 1045, a TLS refusal
    REFUSED = "Refused"  # the address answered: nobody listens on the port
    SILENT = "Silent"  # no answer within the deadline, or no route: says nothing


class IoThread(StrEnum):
    """Slave_IO_Running."""

    RUNNING = "Yes"
    CONNECTING = "Connecting"
    STOPPED = "No"


class Container(StrEnum):
    """State of the mariadb container in the Pod's status."""

    WAITING = "Waiting"
    RUNNING = "Running"
    TERMINATED = "Terminated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationFact:
    """SHOW ALL SLAVES STATUS of the one, unnamed connection."""

    source_host: str
    source_port: int
    source_user: str
    io_thread: IoThread
    sql_running: bool
    received: Position  # Gtid_IO_Pos; empty after a restart without START SLAVE
    io_errno: int = 0
    io_error: str = ""
    sql_errno: int = 0
    sql_error: str = ""
    seconds_behind: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SemiSyncFact:
    """Semi-synchronous replication as the server sees it."""

    source_enabled: bool  # rpl_semi_sync_master_enabled
    replica_enabled: bool  # rpl_semi_sync_slave_enabled
    clients: int  # Rpl_semi_sync_master_clients
    acknowledged: int  # Rpl_semi_sync_master_yes_tx
    unacknowledged: int  # Rpl_semi_sync_master_no_tx
    waiting_sessions: int  # Rpl_semi_sync_master_wait_sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFact:
    """One answered probe of one server."""

    asked_at: float
    pod_uid: str  # of the Pod whose address was asked
    incarnation: str  # changes at every start of mariadbd; from the pid file's name, given by the supervisor
    server_id: int
    version: str
    read_only: bool
    term: int  # highest leader's term this server has seen (local table)
    epoch: int  # highest epoch in its (replicated) data, 0 when none
    cluster_id: str  # of that epoch's row, "" when none
    epoch_primary: str = ""  # primary_name of that epoch's row
    answered_at: float | None = None  # when the answer had arrived: it was read between asked_at and this
    history: History  # gtid_binlog_state
    executed: Position  # gtid_binlog_pos (log_slave_updates=ON: what was applied or written here)
    slave_position: Position  # gtid_slave_pos
    semi_sync: SemiSyncFact
    replication: ReplicationFact | None
    locked_accounts: frozenset[str] = frozenset()  # replication accounts locked here
    connected_accounts: frozenset[str] = frozenset()  # accounts with a dump thread here, whoever's they are

    read_only_admins: frozenset[str] = (
        frozenset()
    )  # accounts that write here though it is read-only, as seen lately
    certified: bool = True  # its certificate names its address: replicas talk to no other

    def read_before(self, other: ServerFact) -> bool:
        """Whether this server's answer was read before the other's, whatever the load did to either."""
        return (self.asked_at if self.answered_at is None else self.answered_at) <= other.asked_at


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFact:
    """The last attempt to talk to a server, answered or not."""

    reach: Reach
    at: float  # when the attempt ended
    since: float  # since when every attempt met the same
    pod_uid: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFact:
    """The Pod object of an instance."""

    uid: str
    ip: str | None
    node: str | None
    deleting: bool
    container: Container
    container_id: str = ""
    ready: bool = False
    failed: bool = False  # phase Failed or Succeeded: it will never run again
    problem: str = ""  # why it does not run: image, scheduling, rejected configuration; a sentence
    problem_reason: str = ""  # CamelCase, e.g. ImagePullBackOff, Unschedulable, ConfigurationRejected
    spec_hash: str = ""
    deletion_requested_at: float | None = None


class Process(StrEnum):
    """The server's process, as the sidecar next to it knows it."""

    UNKNOWN = "Unknown"
    RUNNING = "Running"
    ENDED = "Ended"  # seen by pidfds, or proven by the volume's lock


class Writing(StrEnum):
    """What a small local write met, outside the binary log: commits that wait for an acknowledgement don't hinder it."""

    UNKNOWN = "Unknown"
    WORKS = "Works"
    DISK_FULL = "DiskFull"
    READ_ONLY = "ReadOnly"
    STALLED = "Stalled"  # it did not end within its deadline, though the server answers


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvagedFact:
    """Transactions of a dead primary in a file next to an instance: complete, and not applied by itself."""

    operation: str  # for which failover
    after: Position  # who holds this has all that comes before
    upto: Position  # who holds this and the file has everything that the dead primary had


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarFact:
    """The last word of the sidecar in an instance's Pod, over its standing session."""

    at: float  # when it arrived
    connected: (
        bool  # the session stands; a word from before it broke is worth nothing but where it proves an end
    )
    pod_uid: str
    process: Process = Process.UNKNOWN
    incarnation: str = ""  # of the server that runs or, where it ended, ran last
    held: bool = False  # fenced: no server lives or starts there before an operator permits it
    free: bool = (
        False  # since it was fenced, the volume's lock was got: no server of this node has it, of any Pod
    )
    waiting: str = ""  # the start of the server that waits to be permitted; empty: none does
    salvages: bool = False  # it can hand on what the ended server's binary logs hold
    salvaged: SalvagedFact | None = None
    answers: bool | None = None  # whether the server answers over its local socket; None: not asked
    answers_since: float = 0.0
    writing: Writing = Writing.UNKNOWN
    writing_since: float = 0.0


class Volume(StrEnum):
    """The PersistentVolumeClaim of an instance."""

    ABSENT = "Absent"
    PENDING = "Pending"
    BOUND = "Bound"
    LOST = "Lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """Everything known of one instance."""

    name: str
    ordinal: int
    pod: PodFact | None = None
    volume: Volume = Volume.ABSENT
    node_ready: bool | None = None  # the Node's own word (Ready condition); None when unknown
    node_off: bool = False  # tainted out-of-service: a person confirmed that it is off
    ended_pods: frozenset[str] = (
        frozenset()
    )  # UIDs of Pods whose server container a Ready node reported terminated
    probe: ProbeFact = field(default_factory=lambda: ProbeFact(reach=Reach.UNKNOWN, at=0.0, since=0.0))
    server: ServerFact | None = None  # the last answer; only current while probe.reach is ANSWERING
    caught_up_at: float | None = (
        None  # latest time at which the primary's position was read that this one received
    )
    acknowledged_at: float | None = (
        None  # as primary: since when, semi-sync on without a break, its count of acknowledged commits is seen to grow
    )
    lonely_since: float | None = (
        None  # as primary: since when nobody is connected who could acknowledge, or commits wait and nobody does
    )
    unacknowledged_at: float | None = (
        None  # as primary: when its count of commits that nobody acknowledged had last grown, or was first seen
    )
    home_ready: bool | None = None  # as primary: the word of the node where its server is recorded to run
    home_off: bool = False  # as primary: that node is tainted out-of-service
    predecessors: bool = False  # a session of an earlier leader may still run a statement there
    detached_since: float | None = None  # as replica: since when it does not receive from the primary
    shut_out_since: float | None = (
        None  # as replica: since when its account is locked on the primary and unconnected
    )
    busy: bool = False  # an effect of ours is under way on it, or one was lost and may still run
    sidecar: SidecarFact | None = None  # None: there is none, or it was never reached

    @property
    def at_hand(self) -> SidecarFact | None:
        """The sidecar's word, if its session stands and it is in the present Pod."""
        word = self.sidecar
        same = word is not None and self.pod is not None and word.pod_uid == self.pod.uid
        return word if word is not None and word.connected and same else None

    @property
    def answering(self) -> ServerFact | None:
        """The server's facts, if the last attempt was answered."""
        return self.server if self.probe.reach is Reach.ANSWERING else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFact:
    """Where a Service of ours points now."""

    address: str | None = None
    target: str | None = None  # name of the instance
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All facts of a cluster at one moment."""

    now: float
    instances: tuple[InstanceFacts, ...] = ()  # every member and every instance that has a Pod or a volume
    certified_addresses: frozenset[str] | None = (
        None  # named by the certificate in the Secret; None: not known
    )
    primary_endpoint: EndpointFact = field(default_factory=EndpointFact)
    replica_endpoints: frozenset[str] = frozenset()  # names of instances in the replicas' slice
    objects_ready: bool = False  # Secrets, ConfigMaps, Services and the budget stood as the spec wants them
    instances_possible: bool = (
        False  # Pods can be made, of the present spec or of the last one that was possible
    )
    objects_due: bool = False  # they have to be looked at again: the spec or one of them changed
    application_due: bool = False  # the application's account may not be as the spec and its Secret have it
    problem: str = ""  # what a user's input makes impossible: one sentence with field, value and remedy
    problem_reason: str = ""
    operation_since: float | None = None  # when this operator began, or took over, the open operation

    def server(self, name: str | None) -> ServerFact | None:
        """What that instance's server answers, if it does."""
        facts = self.instance(name)
        return facts.answering if facts is not None else None

    def instance(self, name: str | None) -> InstanceFacts | None:
        """The facts of that instance, or None."""
        for each in self.instances:  # asked some dozens of times a decision: a generator costs twice as much
            if each.name == name:
                return each
        return None
