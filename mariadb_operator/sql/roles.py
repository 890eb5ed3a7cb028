"""A server as the primary: first set up, epoch written, opened for writes, closed.

Not for deciding that it may: by the time these are called the state machine has committed it.
"""

from __future__ import annotations

from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.errors import WrongState
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS, Guard, guarded, refuse

_REPLICATES = (
    "EXISTS (SELECT 1 FROM information_schema.PROCESSLIST WHERE COMMAND IN ('Slave_IO', 'Slave_SQL'))"
)


async def open_primary(
    connection: Connection,
    *,
    semi_sync: bool,
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Take writes; with `semi_sync` each commit waits for a replica. Repeatable; works while commits wait.

    Raises:
        StateRefused: NOT_DRAINED, replication threads run: equalise first.
    """
    await guarded(
        connection,
        f"IF {_REPLICATES} THEN {refuse(WrongState.NOT_DRAINED)} END IF;"
        f" SET GLOBAL rpl_semi_sync_master_enabled = {'ON' if semi_sync else 'OFF'};"
        " SET GLOBAL read_only = 0;",
        guard=guard,
        deadline_seconds=deadline_seconds,
    )


async def close_primary(
    connection: Connection, *, guard: Guard, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> None:
    """Take no more writes. Open transactions get error 1290 at their commit.

    Waits behind a running write or a commit that waits for its acknowledgement; the session's own limit ends it.

    Raises:
        StatementInterrupted: it waited too long (1205, 1969); the server is still open.
    """
    await guarded(connection, "SET GLOBAL read_only = 1;", guard=guard, deadline_seconds=deadline_seconds)


async def write_epoch(
    connection: Connection,
    *,
    epoch: int,
    cluster_id: str,
    primary: str,
    guard: Guard,
    deadline_seconds: float,
) -> None:
    """Write the epoch's first transaction, replicated. Repeatable: an epoch that is there stays as it is.

    It may wait for an acknowledgement as long as there is no replica: send it on a connection of its own and await
    it in a task of its own. No time limit of the server ends it, since that would count as acknowledged.
    """
    await connection.execute("SET SESSION max_statement_time = 0", deadline_seconds=deadline_seconds)
    await guarded(
        connection,
        "INSERT IGNORE INTO mariadb_operator.epoch (epoch, cluster_id, primary_name, at)"
        " VALUES (%s, %s, %s, UTC_TIMESTAMP(6));",
        (epoch, cluster_id, primary),
        guard=guard,
        logged=True,
        deadline_seconds=deadline_seconds,
    )


async def touch_epoch(connection: Connection, *, guard: Guard, deadline_seconds: float) -> None:
    """Commit one small replicated change, so that an acknowledgement can be seen. Waits as `write_epoch` does."""
    await connection.execute("SET SESSION max_statement_time = 0", deadline_seconds=deadline_seconds)
    await guarded(
        connection,
        "UPDATE mariadb_operator.epoch SET at = UTC_TIMESTAMP(6) ORDER BY epoch DESC LIMIT 1;",
        guard=guard,
        logged=True,
        deadline_seconds=deadline_seconds,
    )
