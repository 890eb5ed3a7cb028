"""What talking to a server can end in: a closed set, each with what it says about the server.

Not for what follows from it: detection (statemachines.detection) reads these through Reach.
"""

from __future__ import annotations

from enum import StrEnum

from mariadb_operator.runtime.errors import OperatorError, Permanent, Transient, Uncertain


class ConnectRefused(Transient):
    """The address answered that nobody listens on the port (ECONNREFUSED)."""


class Unreachable(Transient):
    """Silence: no answer within the deadline, no route, a connection that was cut, or another server answered.

    Says nothing about the server that was meant.
    """


class ServerPresent(Transient):
    """A living server that does not let us in: too many connections, access denied, host blocked, TLS refused."""

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class StatementLost(Uncertain):
    """A statement was sent and no reply came. It may run now or later: a frozen server runs it when it thaws.

    Stays so until its session is seen gone (`sessions.settle`).
    """

    def __init__(self, message: str, *, connection_id: int, incarnation: str) -> None:
        super().__init__(message)
        self.connection_id = connection_id
        self.incarnation = incarnation


class StatementFailed(OperatorError):
    """The server answered a statement with an error; nothing of it runs any more."""

    def __init__(self, message: str, *, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class StatementRefused(StatementFailed, Permanent):
    """The same statement will fail again: syntax, privilege, no such object."""


class StatementInterrupted(StatementFailed, Transient):
    """A time limit, a lock or a busy server ended it; statements of this package may be repeated."""


class StaleTerm(Permanent):
    """The server has seen a leader of a higher term: whoever asked leads no more, and nothing was done."""


class WrongState(StrEnum):
    """Why a server is not in the state that an action needs."""

    APPLY_NOT_RUNNING = "ApplyNotRunning"  # the SQL thread does not run: stopping IO now could cost rows
    NOT_RECEIVING = (
        "NotReceiving"  # the IO thread does not run: starting the SQL thread alone would wipe rows
    )
    NOT_DRAINED = "NotDrained"  # received is not executed
    READ_WRITE = "ReadWrite"  # it takes writes
    NOT_READ_WRITE = "NotReadWrite"  # it takes none
    NO_REPLICATION = "NoReplication"  # it has no source
    SEMI_SYNC_OFF = "SemiSyncOff"  # it would not wait for an acknowledgement
    WAITS_FOR_ACKNOWLEDGEMENT = "WaitsForAcknowledgement"  # sessions wait, killing them would lie to clients


class StateRefused(Transient):
    """The server is not in the state that the action needs; nothing was done. Observe again."""

    def __init__(self, message: str, *, reason: WrongState) -> None:
        super().__init__(message)
        self.reason = reason
