"""Semi-synchronous replication and who may acknowledge: replication accounts locked and unlocked on the primary.

Locks are local to the server (sql_log_bin=0) and work while commits wait. Not for when to give up durability:
that is decided and recorded before it is done.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from mariadb_operator.sql.accounts import check_name
from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS, Guard, guarded


async def set_semi_sync(
    connection: Connection,
    *,
    enabled: bool,
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Have commits wait for a replica, or not. Turning it off frees the sessions that wait: they see OK."""
    await guarded(
        connection,
        f"SET GLOBAL rpl_semi_sync_master_enabled = {'ON' if enabled else 'OFF'};",
        guard=guard,
        deadline_seconds=deadline_seconds,
    )


async def lock_account(
    connection: Connection,
    *,
    account: str,
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Let that replica in no more. The one connected already stays: kill_dump_threads."""
    await _alter(connection, account, "LOCK", guard=guard, deadline_seconds=deadline_seconds)


async def unlock_account(
    connection: Connection,
    *,
    account: str,
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Let that replica in again: from now on it may acknowledge."""
    await _alter(connection, account, "UNLOCK", guard=guard, deadline_seconds=deadline_seconds)


async def kill_dump_threads(
    connection: Connection,
    *,
    account: str,
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """End that replica's connections here. Gone is what `connected_accounts` of a later ServerFact says."""
    await guarded(
        connection,
        f"KILL CONNECTION USER {check_name(account)}@'%';",
        guard=guard,
        deadline_seconds=deadline_seconds,
    )


async def set_locks(
    connection: Connection,
    *,
    accounts: AbstractSet[str],
    locked: AbstractSet[str],
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Of the replication `accounts` lock exactly `locked`; those that are right already are not touched."""
    rows = await connection.query(
        "SELECT account FROM mariadb_operator.locked_accounts", deadline_seconds=deadline_seconds
    )
    now = {row["account"] for row in rows}
    statements = [
        f"ALTER USER {check_name(account)}@'%' ACCOUNT {'LOCK' if account in locked else 'UNLOCK'};"
        for account in sorted(accounts)
        if (account in locked) != (account in now)
    ]
    if statements:
        await guarded(connection, " ".join(statements), guard=guard, deadline_seconds=deadline_seconds)


async def _alter(
    connection: Connection, account: str, change: str, *, guard: Guard, deadline_seconds: float
) -> None:
    await guarded(
        connection,
        f"ALTER USER {check_name(account)}@'%' ACCOUNT {change};",
        guard=guard,
        deadline_seconds=deadline_seconds,
    )
