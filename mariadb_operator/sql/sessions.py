"""Sessions on a server: what a lost statement or a former leader left behind is ended and seen gone.

Not for clients' sessions: a commit that waits for its acknowledgement returns OK when its session is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.errors import StatementFailed, StatementLost
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS, Guard, guarded

_NO_SUCH_THREAD = 1094
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One connection as the server's processlist shows it."""

    connection_id: int
    user: str
    waits_for_acknowledgement: bool


async def sessions(
    connection: Connection, *, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> tuple[Session, ...]:
    """All sessions of the account that asks, its own included."""
    rows = await connection.query(
        "SELECT ID, USER, STATE LIKE 'Waiting for semi-sync ACK%%' AS waiting"
        " FROM information_schema.PROCESSLIST WHERE USER = %s",
        (connection.endpoint.user,),
        deadline_seconds=deadline_seconds,
    )
    return tuple(
        Session(connection_id=row["ID"], user=row["USER"], waits_for_acknowledgement=bool(row["waiting"]))
        for row in rows
    )


async def kill_other_sessions(
    connection: Connection,
    *,
    guard: Guard,
    keep: AbstractSet[int] = frozenset(),
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> frozenset[int]:
    """End the sessions of this account but `keep` and the own one, and wait until they are gone.

    A session that waits for an acknowledgement is never killed. Returns the connection ids that are still there:
    empty means that no statement of a predecessor runs or will run on this server.
    """
    spared = keep | {connection.connection_id}
    end = asyncio.get_running_loop().time() + deadline_seconds
    while True:
        others = [each for each in await sessions(connection) if each.connection_id not in spared]
        victims = [each.connection_id for each in others if not each.waits_for_acknowledgement]
        if not victims or asyncio.get_running_loop().time() > end:
            return frozenset(each.connection_id for each in others)
        for victim in victims:
            await _kill(connection, victim, guard=guard)
        await asyncio.sleep(_POLL_SECONDS)


async def settle(
    connection: Connection,
    *,
    lost: StatementLost,
    guard: Guard,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> bool:
    """End the session of a lost statement over this second connection; whether it is gone for good.

    True: that statement runs no more and its outcome can be observed. False: it stays uncertain. A server that
    was started anew since has forgotten it.
    """
    if connection.incarnation != lost.incarnation:
        return True
    try:
        async with asyncio.timeout(deadline_seconds):
            while True:
                there = [
                    each for each in await sessions(connection) if each.connection_id == lost.connection_id
                ]
                if not there:
                    return True
                if not there[0].waits_for_acknowledgement:
                    await _kill(connection, lost.connection_id, guard=guard)
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return False


async def _kill(connection: Connection, victim: int, *, guard: Guard) -> None:
    try:
        await guarded(connection, f"KILL CONNECTION {victim:d};", guard=guard)
    except StatementFailed as error:
        if error.errno != _NO_SUCH_THREAD:
            raise
