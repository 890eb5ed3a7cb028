"""A server as a replica: attach it to a source, hold its IO thread, drain it, make it a candidate.

Relay logs are volatile in GTID mode (the first START SLAVE after both threads were stopped wipes what was received
and not applied), so the order of steps here is the protection of acknowledged rows. Not for which server or when.
Source: FACTS.md; https://mariadb.com/kb/en/gtid/
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mariadb_operator.sql.connection import Connection, Row
from mariadb_operator.sql.errors import StateRefused, WrongState
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS, Guard, guarded, refuse
from statemachines.facts import IoThread, ReplicationFact
from statemachines.gtid import Position

_POLL_SECONDS = 0.005
_IO_THREAD_RUNS = "EXISTS (SELECT 1 FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_IO')"
_SQL_THREAD_RUNS = "EXISTS (SELECT 1 FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_SQL')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a replica gets its transactions from."""

    host: str  # an address: nothing is resolved
    port: int
    user: str  # the replica's own replication account
    password: str = field(repr=False)
    ca: str = "/etc/mariadb-operator/tls/ca.crt"  # a path in the server's container


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """Positions of one server and its replication, read in one round trip, executed before received."""

    executed: Position  # gtid_binlog_pos
    slave_position: Position  # gtid_slave_pos
    replication: ReplicationFact | None

    @property
    def drained(self) -> bool:
        """Whether everything received is executed and nothing more comes in.

        With the applying thread stopped only a known position counts: after a restart it shows as empty, whatever
        the relay log holds.
        """
        return (
            self.replication is not None
            and (self.replication.sql_running or bool(self.replication.received))
            and self.replication.io_thread is IoThread.STOPPED
            and self.slave_position.covers(self.replication.received)
        )


def replication_fact(row: Row) -> ReplicationFact:
    """Read a row of SHOW ALL SLAVES STATUS."""
    return ReplicationFact(
        source_host=row["Master_Host"] or "",
        source_port=int(row["Master_Port"]),
        source_user=row["Master_User"] or "",
        io_thread=_io_thread(row["Slave_IO_Running"]),
        sql_running=row["Slave_SQL_Running"] == "Yes",
        received=Position.parse(row["Gtid_IO_Pos"] or ""),
        io_errno=int(row["Last_IO_Errno"]),
        io_error=row["Last_IO_Error"] or "",
        sql_errno=int(row["Last_SQL_Errno"]),
        sql_error=row["Last_SQL_Error"] or "",
        seconds_behind=row["Seconds_Behind_Master"],
    )


def of_primary(rows: list[Row]) -> ReplicationFact | None:
    """The replication from the primary among the rows of SHOW ALL SLAVES STATUS; a tail's has a name (tails.py)."""
    return next((replication_fact(row) for row in rows if not row["Connection_name"]), None)


def _io_thread(text: str) -> IoThread:
    # "Preparing" (10.5+) is a thread that starts: it may yet receive.
    return IoThread(text) if text in {"Yes", "No"} else IoThread.CONNECTING


async def replica_state(
    connection: Connection, *, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> ReplicaState:
    """Read the positions; answers while commits wait."""
    [positions], replication = await connection.query_all(
        "SELECT @@global.gtid_binlog_pos AS executed, @@global.gtid_slave_pos AS slave_position;"
        " SHOW ALL SLAVES STATUS",
        deadline_seconds=deadline_seconds,
    )
    return ReplicaState(
        executed=Position.parse(positions["executed"] or ""),
        slave_position=Position.parse(positions["slave_position"] or ""),
        replication=of_primary(replication),
    )


async def stop_io(
    connection: Connection, *, guard: Guard, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> ReplicaState:
    """Stop receiving, keep applying, keep what was received. The SQL thread is seen running first, where it can run.

    One that an error ended stays ended: nothing is lost by stopping, only by a START SLAVE after it, which the caller
    must not ask for. Takes 3 ms when the source's process is dead, a second when its host is silent. Returns what was
    observed afterwards: its `received` is what this server can offer.

    Raises:
        StateRefused: APPLY_NOT_RUNNING, the SQL thread was stopped and does not start; or NO_REPLICATION.
    """
    async with connection.within(deadline_seconds):
        state = await replica_state(connection)
        if state.replication is None:
            raise StateRefused("it replicates from nobody", reason=WrongState.NO_REPLICATION)
        if state.replication.io_thread is IoThread.STOPPED:
            return state
        try:
            if not state.replication.sql_running and not state.replication.sql_errno:
                await _start_apply(connection, guard=guard)
            unless = f"IF NOT {_SQL_THREAD_RUNS} THEN {refuse(WrongState.APPLY_NOT_RUNNING)} END IF;"
            await guarded(connection, f"{unless} STOP SLAVE IO_THREAD;", guard=guard)
        except StateRefused:
            state = await replica_state(connection)
            if state.replication is None or not state.replication.sql_errno:
                raise
            await guarded(connection, "STOP SLAVE IO_THREAD;", guard=guard)
        return await replica_state(connection)


async def start_apply(connection: Connection, *, guard: Guard) -> None:
    """Start the SQL thread of a replica whose IO thread runs.

    Raises:
        StateRefused: NOT_RECEIVING, started alone it would wipe what was received; or APPLY_NOT_RUNNING.
    """
    async with connection.within(DEFAULT_DEADLINE_SECONDS):
        await _start_apply(connection, guard=guard)


async def _start_apply(connection: Connection, *, guard: Guard) -> None:
    await guarded(
        connection,
        f"IF NOT {_IO_THREAD_RUNS} THEN {refuse(WrongState.NOT_RECEIVING)} END IF; START SLAVE SQL_THREAD;",
        guard=guard,
    )
    for _ in range(40):
        state = await replica_state(connection)
        if state.replication is not None and state.replication.sql_running:
            return
        if state.replication is not None and state.replication.sql_errno:
            break
        await asyncio.sleep(_POLL_SECONDS)
    raise StateRefused("the SQL thread does not start", reason=WrongState.APPLY_NOT_RUNNING)


async def start_io(
    connection: Connection, *, guard: Guard, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> None:
    """The rollback of stop_io. Raises StateRefused when the SQL thread does not run: it would wipe rows."""
    await guarded(
        connection,
        f"IF NOT {_SQL_THREAD_RUNS} THEN {refuse(WrongState.APPLY_NOT_RUNNING)} END IF; START SLAVE IO_THREAD;",
        guard=guard,
        deadline_seconds=deadline_seconds,
    )


async def drain(connection: Connection, *, position: Position, timeout_seconds: float) -> bool:
    """Wait until everything up to `position` is applied; False when it is not within the time."""
    [row] = await connection.query(
        "SET STATEMENT max_statement_time = 0 FOR SELECT MASTER_GTID_WAIT(%s, %s) AS result",
        (str(position), timeout_seconds),
        deadline_seconds=timeout_seconds + DEFAULT_DEADLINE_SECONDS,
    )
    return bool(row["result"] == 0)


async def attach(
    connection: Connection,
    *,
    source: Source,
    source_position: Position,
    guard: Guard,
    deadline_seconds: float = 2 * DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Make the server a replica of `source`: read-only, semi-sync as a replica, following by GTID.

    `source_position` is the source's gtid_binlog_pos: what it holds may be received anew, the rest of what this
    server received has to be applied here first. A former primary goes on from what it wrote. Repeatable; a server
    that already follows that source is left alone.

    The password does not reach the general or the slow log; accounts with PROCESS may see it for milliseconds.

    Raises:
        StateRefused: NOT_DRAINED, received rows that the source lacks would be wiped; APPLY_NOT_RUNNING.
    """
    async with connection.within(deadline_seconds):
        state = await replica_state(connection)
        if _follows(state.replication, source):
            await guarded(connection, "SET GLOBAL read_only = 1;", guard=guard)
            return
        if state.replication is not None and state.replication.io_thread is not IoThread.STOPPED:
            state = await stop_io(connection, guard=guard)
        received = state.replication.received if state.replication is not None else Position()
        if not state.slave_position.merge(source_position).covers(received):
            raise StateRefused(
                f"received {received}, applied {state.slave_position}, the source has {source_position}",
                reason=WrongState.NOT_DRAINED,
            )
        if state.replication is not None and state.replication.sql_running:
            # While it applies, positions move: where to go on is read at rest.
            await guarded(connection, "STOP SLAVE;", guard=guard)
            state = await replica_state(connection)
        async with unwritten(connection):
            await guarded(connection, *_attach_statement(state, source), guard=guard)


@asynccontextmanager
async def unwritten(connection: Connection) -> AsyncIterator[None]:
    """Statements that hold a password stay out of the general and the slow log."""
    # In statements of their own: these logs write a text when it begins.
    await connection.execute(
        "SET ROLE mariadb_operator_quiet; SET SESSION sql_log_off = 1, slow_query_log = 0",
        deadline_seconds=DEFAULT_DEADLINE_SECONDS,
    )
    try:
        yield
    finally:
        if not connection.is_closed:
            await connection.execute(
                "SET SESSION sql_log_off = 0, slow_query_log = DEFAULT; SET ROLE NONE",
                deadline_seconds=DEFAULT_DEADLINE_SECONDS,
            )


def _follows(replication: ReplicationFact | None, source: Source) -> bool:
    return (
        replication is not None
        and (replication.source_host, replication.source_port, replication.source_user)
        == (source.host, source.port, source.user)
        and replication.io_thread is not IoThread.STOPPED
        and replication.sql_running
    )


def _attach_statement(state: ReplicaState, source: Source) -> tuple[str, tuple[object, ...]]:
    start = state.executed.merge(state.slave_position)
    body = (
        "DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN"
        # Half attached it must not acknowledge a privileged client's commit.
        " SET GLOBAL rpl_semi_sync_master_enabled = ON; RESIGNAL; END;"
        " SET GLOBAL read_only = 1;"
        " STOP SLAVE;"
        # What it wrote between our look and read_only is not in `start`.
        f" IF @@global.gtid_binlog_pos <> %s THEN {refuse(WrongState.READ_WRITE)} END IF;"
        " SET GLOBAL gtid_slave_pos = %s;"
        " CHANGE MASTER TO MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s,"
        " MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1,"
        # Without the comparison a source that offers no TLS would be talked to in plaintext, password included.
        " MASTER_SSL = 1, MASTER_SSL_CA = %s, MASTER_SSL_VERIFY_SERVER_CERT = 1;"
        " SET GLOBAL rpl_semi_sync_slave_enabled = ON;"
        # ON in a replica its SQL thread would wait for acknowledgements for ever.
        " SET GLOBAL rpl_semi_sync_master_enabled = OFF;"
        " START SLAVE;"
    )
    args = (
        str(state.executed),
        str(start),
        source.host,
        source.port,
        source.user,
        source.password,
        source.ca,
    )
    return f"BEGIN NOT ATOMIC {body} END;", args


async def equalise(
    connection: Connection, *, guard: Guard, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> Position:
    """Make a drained candidate ready to be opened: receiving ended, replication gone, semi-sync as a source on, still
    read-only.

    Repeatable: a server without replication only gets semi-sync on. Returns its gtid_binlog_pos.

    Raises:
        StateRefused: NOT_DRAINED, received = executed with IO stopped was not observed; nothing was done.
    """
    async with connection.within(deadline_seconds):
        state = await replica_state(connection)
        if state.replication is not None and state.replication.io_thread is not IoThread.STOPPED:
            state = await stop_io(connection, guard=guard)
        if state.replication is not None and not state.drained:
            raise StateRefused(
                f"received {state.replication.received}, applied {state.slave_position},"
                f" IO {state.replication.io_thread}, SQL running {state.replication.sql_running}",
                reason=WrongState.NOT_DRAINED,
            )
        stop = "STOP SLAVE; RESET SLAVE ALL;" if state.replication is not None else ""
        await guarded(
            connection,
            f"SET GLOBAL read_only = 1; {stop} SET GLOBAL rpl_semi_sync_master_enabled = ON;",
            guard=guard,
        )
        return (await replica_state(connection)).executed
