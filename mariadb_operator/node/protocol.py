"""What is asked of a sidecar and what it answers: a closed set of verbs, typed, one line of JSON each way.

Both sides import it: the sidecar and the operator's ssh package, nothing else of `node`. Neighbouring versions work
together: a field that a reply has more is ignored, a verb that is not known is refused by its name, a request holds
only what its verb had in the version of the peer. Not for who may ask (admission.py) nor how it is sent (server.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from mariadb_operator.node.wire import Unknown, build, decode, encode, parse
from statemachines.gtid import Position

VERSION = 1
PORT = 33064  # below all that a client is given by itself
USERNAME = "mariadb-operator"  # as whom the operator logs in
HEARTBEAT_LIMIT_SECONDS = (0.1, 60.0)
LEASE_LIMIT_SECONDS = 120.0
FENCE_LIMIT_SECONDS = 30.0
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,63}", re.ASCII)
_INCARNATION = re.compile(r"[0-9a-f]{16}", re.ASCII)


class Verb(StrEnum):
    """All that can be asked; the command of an SSH exec request is one of these words and nothing else."""

    WATCH = "watch"  # what changes, from now on, until the session ends
    STATE = "state"  # what is known now
    FENCE = "fence"  # kill the server, let none start, and say when it is certain
    PERMIT = "permit"  # let the supervisor make the start that it waits for
    TAIL = "tail"  # what somebody lacks of the held server's binary logs, as a stream after the answer
    STORE = "store"  # keep such a stream, which comes after the request, in a file next to the server
    GIVE = "give"  # offer that file to the server here, as a replication source
    RENEW = "renew"  # the server may live until some time after it was asked for


class Reason(StrEnum):
    """Why a request was refused; nothing was done."""

    MALFORMED = "malformed"
    UNKNOWN_VERB = "unknown verb"
    FOREIGN = "foreign"  # of another cluster than the volume
    STALE = "stale"  # an epoch or a leader's term below one that was seen
    REPEATED = "repeated"  # this request was here before
    ANOTHER_START = "another start"  # not the start of mariadbd that was meant
    NOT_ASKED = "not asked"  # a renewal that answers nothing that was asked lately
    FENCED = "fenced"  # no server may live here
    UNSALVAGEABLE = "unsalvageable"  # the logs can't give it, whoever asks again
    NOT_STORED = "not stored"  # what came was not whole, or there is no such file
    NOT_RECORDED = "not recorded"  # the volume did not take the record in time
    BUSY = "busy"  # too much at once


class Role(StrEnum):
    """As what a start is permitted. Either way mariadbd boots read-only, its replication stopped."""

    PRIMARY = "primary"  # crash recovery keeps all that is in the binary log
    REPLICA = "replica"  # crash recovery cuts off what no replica acknowledged: only after salvage


class Phase(StrEnum):
    """What the supervisor does, by its own word."""

    WAITING = "waiting"  # for the permit of this start
    STARTING = "starting"  # permitted, not running yet
    RUNNING = "running"
    ENDED = "ended"  # the server ended; the next start will be asked for
    LEFT = "left"  # the supervisor was told to end


class Sign(StrEnum):
    """What told of a death."""

    EXITING = "exiting"  # seen on its way out by its threads, made certain by SIGKILL
    PROCESS = "process"  # an old kernel, or no thread was watched yet: late by the time its memory takes


class Ping(StrEnum):
    """Whether the server answers its own sidecar."""

    UNKNOWN = "unknown"  # not asked yet
    ANSWERS = "answers"
    PRESENT = "present"  # it lives but lets us not in
    REFUSES = "refuses"  # nobody listens on its socket
    SILENT = "silent"


class Write(StrEnum):
    """Whether a small write reaches the disk."""

    UNKNOWN = "unknown"
    DONE = "done"
    BLOCKED = "blocked"  # by a lock of somebody, such as a backup's
    FAILED = "failed"  # the server says no: read-only file system, no space
    STALLED = "stalled"  # no answer, while a ping is answered


class Space(StrEnum):
    """How full the volume is, in bytes or in inodes."""

    UNKNOWN = "unknown"
    ENOUGH = "enough"
    LOW = "low"
    NONE = "none"


def _check(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _check_incarnation(text: str) -> None:
    _check(_INCARNATION.fullmatch(text), "an incarnation is 16 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Who asks for a change: of which cluster, in which epoch, as the leader of which term; and the request's own id."""

    cluster_id: str
    epoch: int
    term: int
    request_id: str

    def __post_init__(self) -> None:
        _check(_NAME.fullmatch(self.cluster_id), "cluster_id is no identifier")
        _check(_NAME.fullmatch(self.request_id), "request_id is no identifier")
        _check(self.epoch >= 0 and self.term >= 0, "epoch and term are not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """Of `watch`; a heartbeat comes when nothing else did for so long."""

    protocol: int = VERSION
    heartbeat_seconds: float = 1.0

    def __post_init__(self) -> None:
        least, most = HEARTBEAT_LIMIT_SECONDS
        _check(least <= self.heartbeat_seconds <= most, f"heartbeat_seconds is {least} to {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRequest:
    """Of `state`."""

    protocol: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceRequest:
    """Of `fence`: answer at the latest after `wait_seconds`, certain or not.

    With `until_freed` not before the volume's lock is free too, which takes the time of freeing the memory.
    """

    authority: Authority
    wait_seconds: float
    until_freed: bool = False

    def __post_init__(self) -> None:
        _check(0 <= self.wait_seconds <= FENCE_LIMIT_SECONDS, f"wait_seconds is 0 to {FENCE_LIMIT_SECONDS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitRequest:
    """Of `permit`: that very start, as the supervisor announced it."""

    authority: Authority
    incarnation: str
    role: Role

    def __post_init__(self) -> None:
        _check_incarnation(self.incarnation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRequest:
    """Of `tail`, to a fenced server's sidecar: what somebody lacks who received up to there."""

    authority: Authority
    received: str

    def __post_init__(self) -> None:
        Position.parse(self.received)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """Of `store`: the stream that follows is the tail of this operation."""

    authority: Authority
    operation: str

    def __post_init__(self) -> None:
        _check(_NAME.fullmatch(self.operation), "operation is no identifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveRequest:
    """Of `give`: the tail of this operation."""

    authority: Authority
    operation: str

    def __post_init__(self) -> None:
        _check(_NAME.fullmatch(self.operation), "operation is no identifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """Of `renew`: that server may live for `seconds` after `asked_at`, the time in a heartbeat of this sidecar.

    0 seconds: it needs no lease any more.
    """

    authority: Authority
    incarnation: str
    asked_at: float
    seconds: float

    def __post_init__(self) -> None:
        _check_incarnation(self.incarnation)
        _check(0 <= self.seconds <= LEASE_LIMIT_SECONDS, f"seconds is 0 to {LEASE_LIMIT_SECONDS}")


Request = (
    WatchRequest
    | StateRequest
    | FenceRequest
    | PermitRequest
    | TailRequest
    | StoreRequest
    | GiveRequest
    | RenewRequest
)
REQUESTS: dict[Verb, type[Request]] = {
    Verb.WATCH: WatchRequest,
    Verb.STATE: StateRequest,
    Verb.FENCE: FenceRequest,
    Verb.PERMIT: PermitRequest,
    Verb.TAIL: TailRequest,
    Verb.STORE: StoreRequest,
    Verb.GIVE: GiveRequest,
    Verb.RENEW: RenewRequest,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """A living mariadbd. Times are seconds of the boot-time clock, of the node's kernel (see `Greeting.boot_id`)."""

    incarnation: str
    pid: int
    started_at: float
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeathState:
    """The last mariadbd that was seen to die."""

    incarnation: str
    pid: int
    started_at: float
    at: float
    sign: Sign


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """What the supervisor announced last, and of which start."""

    phase: Phase
    incarnation: str
    ended: str = ""  # the last server, if its supervisor saw it end; empty when that one is gone itself
    code: int = -1  # with which it ended


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeState:
    """What the local probes found, each after it was seen more than once."""

    ping: Ping = Ping.UNKNOWN
    write: Write = Write.UNKNOWN
    write_error: int = 0
    space: Space = Space.UNKNOWN
    free_bytes: int = 0  # when `space` was judged last
    free_inodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """What is recorded on the volume."""

    readable: bool
    cluster_id: str = ""
    epoch: int = 0
    term: int = 0
    fenced: bool = False
    truncated: str = ""  # the last start whose recovery may have cut off transactions


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """The server with this incarnation is killed at that time of the boot-time clock."""

    incarnation: str
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvagedState:
    """A tail that was stored here since this sidecar runs."""

    operation: str
    after: str
    upto: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """All that a sidecar knows."""

    server: ServerState | None
    death: DeathState | None
    gate: GateState | None
    probes: ProbeState
    ledger: LedgerState
    lease: LeaseState | None
    salvaged: SalvagedState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """Who answers: the version it speaks, the run of the sidecar and of the kernel, and what it can be asked."""

    protocol: int
    sidecar: str
    boot_id: str
    now: float
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One line of `watch`: the first has the greeting and the state, each later one the state if it changed.

    With neither it is a heartbeat. `now` is the boot-time clock when it was sent, which a renewal counts from.
    """

    now: float
    sequence: int
    greeting: Greeting | None = None
    state: NodeState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was not let in since the sidecar started."""

    refused: int = 0  # requests
    bad_keys: int = 0
    turned_away: int = 0  # connections and sessions above the limits


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReply:
    """Of `state`."""

    greeting: Greeting
    state: NodeState
    counts: Counts = Counts()


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceReply:
    """Of `fence`.

    `dead`: no server runs here, and none starts before a permit. `freed`: and the volume's lock was got, so that
    nothing of it is left. `recorded`: that it is fenced is on the volume.
    """

    dead: bool
    freed: bool
    recorded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitReply:
    """Of `permit`: given and recorded."""

    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TailReply:
    """Of `tail`, before its stream: pieces, each after its length in 4 bytes, then a length of 0 and a TailEnd."""

    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TailEnd:
    """What was sent, to be compared with what came. `torn`: how the log ended where that was not whole."""

    after: str
    count: int
    first: str
    last: str
    bytes: int
    digest: str
    torn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReply:
    """Of `store`: it is on the disk, whole."""

    after: str
    upto: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveReply:
    """Of `give`: a replication source on the server's own loopback interface, for some minutes."""

    port: int
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewReply:
    """Of `renew`: the deadline that holds now; 0 without one."""

    deadline: float


Reply = (
    WatchEvent
    | StateReply
    | FenceReply
    | PermitReply
    | TailReply
    | TailEnd
    | StoreReply
    | GiveReply
    | RenewReply
)
R = TypeVar("R", bound=Reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """In place of a reply; nothing was done."""

    refused: Reason
    detail: str


def read_request(verb: Verb, line: bytes) -> Request:
    """Raises Malformed."""
    return decode(REQUESTS[verb], line, unknown=Unknown.REFUSED)


def write(message: Request | Reply | Refusal) -> bytes:
    """One line."""
    return encode(message)


def read_reply(kind: type[R], line: bytes) -> R | Refusal:
    """Raises Malformed."""
    parsed = parse(line)
    if "refused" in parsed:
        return build(Refusal, parsed, unknown=Unknown.IGNORED)
    return build(kind, parsed, unknown=Unknown.IGNORED)
