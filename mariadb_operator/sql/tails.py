"""A drained candidate takes a tail of salvaged transactions, from a source on its own loopback interface.

By a replication connection of its own name, so that the one from the primary, its position and relay log stay as
they are. It goes on where an earlier attempt ended (gtid_slave_pos), and does nothing when nothing is missing. Not
for giving the tail: node/tail_source.py does, next to the server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mariadb_operator.runtime.errors import Permanent
from mariadb_operator.sql.connection import Connection, Row
from mariadb_operator.sql.errors import StatementInterrupted, StateRefused, WrongState
from mariadb_operator.sql.replication import of_primary, replication_fact, unwritten
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS, Guard, guarded, refuse
from statemachines.facts import IoThread, ReplicationFact
from statemachines.gtid import Position

NAME = "tail"
_WAIT_SECONDS = 0.2  # between two looks at errors; what is applied is seen at once
# The IO thread of a tail may be coming anew; these are answers.
_REFUSED_BY_SOURCE = frozenset({1045, 1236, 1593})
_RECEIVES = "EXISTS (SELECT 1 FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_IO')"


class TailRefused(Permanent):
    """The server, or the source of the tail, ended it with an error: it can't be applied here as it is."""

    def __init__(self, message: str, *, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True, slots=True, kw_only=True)
class TailSource:
    """Where the tail is given: on the server's own loopback interface, in plaintext, with a password of one time."""

    port: int
    user: str
    password: str = field(repr=False)
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    slave_position: Position
    waits: bool  # semi-sync as a source is on
    primary: ReplicationFact | None
    tail: ReplicationFact | None


async def apply_tail(
    connection: Connection,
    *,
    source: TailSource,
    target: Position,
    guard: Guard,
    deadline_seconds: float,
) -> Position:
    """Apply a tail up to `target`, its last position; returns the server's gtid_slave_pos, which covers it.

    The server stays read-only; receiving from the primary has ended and everything received is applied, or was
    extracted. Semi-sync as a source is off meanwhile: the SQL thread would wait for ever. Repeatable at any point.

    Raises:
        StateRefused: NOT_DRAINED, it receives, or holds something that is not applied; nothing was done.
        TailRefused: an error of the SQL thread, or the source's: with the same tail it will come again.
        StatementInterrupted: not within the deadline; applying was stopped, what is applied stays.
        StatementLost: the outcome is not known; ask again.
    """
    state = await _look(connection)
    if state.tail is not None:
        await _end(connection, guard=guard, waits=state.waits)
    if state.slave_position.covers(target):
        return state.slave_position
    if state.primary is not None and not state.slave_position.covers(state.primary.received):
        raise StateRefused(
            f"received {state.primary.received}, applied {state.slave_position}",
            reason=WrongState.NOT_DRAINED,
        )
    try:
        async with unwritten(connection):
            await guarded(connection, *_start_statement(source), guard=guard)
        return await _applied(connection, target=target, deadline_seconds=deadline_seconds)
    finally:
        if not connection.is_closed and (await _look(connection)).tail is not None:
            await _end(connection, guard=guard, waits=state.waits)


def _start_statement(source: TailSource) -> tuple[str, tuple[object, ...]]:
    body = (
        f"IF {_RECEIVES} THEN {refuse(WrongState.NOT_DRAINED)} END IF;"
        " SET GLOBAL read_only = 1;"
        f" CHANGE MASTER '{NAME}' TO MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s,"
        " MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1,"
        " MASTER_SSL = 0, MASTER_SSL_VERIFY_SERVER_CERT = 0;"
        # From here on there is a tail, and its end turns this on again.
        " SET GLOBAL rpl_semi_sync_master_enabled = OFF;"
        f" START SLAVE '{NAME}';"
    )
    return body, (source.host, source.port, source.user, source.password)


async def _applied(connection: Connection, *, target: Position, deadline_seconds: float) -> Position:
    end = asyncio.get_running_loop().time() + deadline_seconds
    while True:
        await connection.query(
            "SET STATEMENT max_statement_time = 0 FOR SELECT MASTER_GTID_WAIT(%s, %s)",
            (str(target), _WAIT_SECONDS),
            deadline_seconds=_WAIT_SECONDS + DEFAULT_DEADLINE_SECONDS,
        )
        state = await _look(connection)
        if state.slave_position.covers(target):
            return state.slave_position
        _raise_error(state.tail)
        if asyncio.get_running_loop().time() > end:
            raise StatementInterrupted(
                f"not within {deadline_seconds} s: applied {state.slave_position} of {target}", errno=0
            )


def _raise_error(tail: ReplicationFact | None) -> None:
    if tail is None:
        raise StateRefused("the tail's replication was taken away", reason=WrongState.NO_REPLICATION)
    if tail.sql_errno:
        raise TailRefused(tail.sql_error, errno=tail.sql_errno)
    if tail.io_errno in _REFUSED_BY_SOURCE and tail.io_thread is not IoThread.RUNNING:
        raise TailRefused(tail.io_error, errno=tail.io_errno)


async def _end(connection: Connection, *, guard: Guard, waits: bool) -> None:
    """Stop and forget the tail's replication; what it applied stays."""
    await guarded(
        connection,
        f"STOP SLAVE '{NAME}'; RESET SLAVE '{NAME}' ALL;"
        f" SET GLOBAL rpl_semi_sync_master_enabled = {'ON' if waits else 'OFF'};",
        guard=guard,
    )


async def _look(connection: Connection) -> _State:
    [variables], rows = await connection.query_all(
        "SELECT @@global.gtid_slave_pos AS slave_position, @@global.rpl_semi_sync_master_enabled AS waits;"
        " SHOW ALL SLAVES STATUS",
        deadline_seconds=DEFAULT_DEADLINE_SECONDS,
    )
    return _State(
        slave_position=Position.parse(variables["slave_position"] or ""),
        waits=bool(variables["waits"]),
        primary=of_primary(rows),
        tail=_named(rows),
    )


def _named(rows: list[Row]) -> ReplicationFact | None:
    return next((replication_fact(row) for row in rows if row["Connection_name"] == NAME), None)
