"""The server itself refuses the past: statements that change a role or durability carry the leader's term.

A statement sent to a frozen server runs when it thaws, long after its sender lost the leadership. So each is one
compound statement that compares terms first, and a new leader raises the term before it does anything else. Not
for choosing the term: the leader's lease gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.errors import StaleTerm, StatementFailed, StateRefused, WrongState

DEFAULT_DEADLINE_SECONDS = 8.0  # above the session's own limit, so that the server ends a statement first

# Our own error numbers, above the server's; the client reads 16 bits with a sign.
_STALE_TERM = 31000
_REFUSALS = {31001 + index: reason for index, reason in enumerate(WrongState)}
_REFUSAL_NUMBERS = {reason: number for number, reason in _REFUSALS.items()}


@dataclass(frozen=True, slots=True)
class Guard:
    """Who acts: the term of its lease (grows with each leader) and its name."""

    term: int
    leader: str


def refuse(reason: WrongState) -> str:
    """The SQL statement that ends a compound statement with StateRefused."""
    return f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {_REFUSAL_NUMBERS[reason]}, MESSAGE_TEXT = '{reason.value}';"


async def guarded(
    connection: Connection,
    body: str,
    args: Sequence[object] = (),
    *,
    guard: Guard,
    logged: bool = False,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Run statements (each ended by `;`) as one compound statement, if the server has seen no higher term.

    Nothing of it reaches the binary log unless `logged`. It may stop half-way on an error: bodies are idempotent.

    Raises:
        StaleTerm: a newer leader has been here; nothing was done.
        StateRefused: a `refuse` in the body was met.
        StatementLost, StatementFailed: as Connection.query.
    """
    sql = (
        f"BEGIN NOT ATOMIC SET SESSION sql_log_bin = {int(logged)};"
        f" IF EXISTS (SELECT 1 FROM mariadb_operator.term WHERE term > {guard.term:d}) THEN"
        f" SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {_STALE_TERM}, MESSAGE_TEXT = 'stale term';"
        f" END IF; {body} END"
    )
    try:
        await connection.execute(sql, args, deadline_seconds=deadline_seconds)
    except StatementFailed as error:
        raise _translated(error, guard=guard) from error


async def raise_term(
    connection: Connection, *, guard: Guard, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> None:
    """Make the server refuse every leader of a lower term from now on. Repeatable; works while commits wait.

    What a predecessor's session had begun before may still run: end it (sessions.kill_other_sessions).

    Raises:
        StaleTerm: the server knows a higher term, or another leader of this one.
    """
    sql = (
        "BEGIN NOT ATOMIC SET SESSION sql_log_bin = 0;"
        " INSERT INTO mariadb_operator.term (id, term, leader) VALUES (1, %s, %s)"
        # Assignments run from left to right: the leader is compared with the old term.
        " ON DUPLICATE KEY UPDATE leader = IF(term < VALUES(term), VALUES(leader), leader),"
        " term = GREATEST(term, VALUES(term));"
        " IF NOT EXISTS (SELECT 1 FROM mariadb_operator.term WHERE term = %s AND leader = %s) THEN"
        f" SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {_STALE_TERM}, MESSAGE_TEXT = 'stale term';"
        " END IF; END"
    )
    args = (guard.term, guard.leader, guard.term, guard.leader)
    try:
        await connection.execute(sql, args, deadline_seconds=deadline_seconds)
    except StatementFailed as error:
        raise _translated(error, guard=guard) from error


def _translated(error: StatementFailed, *, guard: Guard) -> StaleTerm | StateRefused | StatementFailed:
    if error.errno == _STALE_TERM:
        return StaleTerm(f"{error}; a newer leader than {guard.leader} (term {guard.term}) has been here")
    if error.errno in _REFUSALS:
        return StateRefused(str(error), reason=_REFUSALS[error.errno])
    return error
