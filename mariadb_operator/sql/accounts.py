"""Accounts that replicate with the data: one per replica, and the application's with its database.

Written once, on the first primary. Passwords come as hashes, so none is in a statement, the processlist or the
binary log. Not for the operator's, the probe's and root's own accounts: the supervisor makes them on each server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.errors import WrongState
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS, Guard, guarded, refuse

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The application's account and its database."""

    database: str
    username: str
    password_hash: str = field(repr=False)


def native_password_hash(password: str) -> str:
    """The hash that mysql_native_password stores: `*` and 40 hexadecimal digits; empty for no password.

    Source: https://mariadb.com/kb/en/authentication-plugin-mysql_native_password/
    """
    if not password:
        return ""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return f"*{hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()}"


def check_name(account: str) -> str:
    """An account's name that needs no quotes. Raises ValueError for any other: ours are all plain."""
    if not _PLAIN_NAME.fullmatch(account):
        raise ValueError(f"not a plain account name: {account!r}")
    return account


async def initialise_primary(
    connection: Connection,
    *,
    replication: Mapping[str, str],
    application: Application | None,
    guard: Guard,
    deadline_seconds: float = 3 * DEFAULT_DEADLINE_SECONDS,
) -> None:
    """Create the replication accounts (name to password hash) and the application's, replicated. Repeatable.

    The server is the first primary, still read-only and with nobody attached: with semi-sync on each of these
    would wait for ever, so it is off meanwhile.

    Raises:
        StateRefused: READ_WRITE, the server takes writes already.
    """
    accounts = " ".join(
        f"CREATE USER IF NOT EXISTS {check_name(name)}@'%' IDENTIFIED VIA mysql_native_password USING {_hash(value)}"
        f" REQUIRE SSL PASSWORD EXPIRE NEVER; GRANT REPLICATION SLAVE ON *.* TO {name}@'%';"
        for name, value in sorted(replication.items())
    )
    args: tuple[object, ...] = ()
    if application is not None:
        accounts = accounts.replace("%", "%%") + " CALL mariadb_operator.keep_application(%s, %s, %s);"
        args = (application.database, application.username, application.password_hash)
    await connection.execute(
        f"SET SESSION max_statement_time = {deadline_seconds:.3f}", deadline_seconds=deadline_seconds
    )
    await guarded(
        connection,
        "BEGIN NOT ATOMIC"
        " DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN"
        " SET GLOBAL rpl_semi_sync_master_enabled = ON; RESIGNAL; END;"
        f" IF NOT @@global.read_only THEN {refuse(WrongState.READ_WRITE)} END IF;"
        f" SET GLOBAL rpl_semi_sync_master_enabled = OFF; {accounts}"
        " SET GLOBAL rpl_semi_sync_master_enabled = ON; END;",
        args,
        guard=guard,
        logged=True,
        deadline_seconds=deadline_seconds,
    )


async def keep_application(
    connection: Connection, application: Application, *, guard: Guard, deadline_seconds: float
) -> None:
    """Make the application's account, with its database, or give it its present password; nothing where all is so.

    Replicated: it waits for an acknowledgement as any commit, so it wants a connection of its own.
    """
    await connection.execute("SET SESSION max_statement_time = 0", deadline_seconds=deadline_seconds)
    await guarded(
        connection,
        "CALL mariadb_operator.keep_application(%s, %s, %s);",
        (application.database, application.username, application.password_hash),
        guard=guard,
        logged=True,
        deadline_seconds=deadline_seconds,
    )


def _hash(value: str) -> str:
    if not re.fullmatch(r"\*[0-9A-F]{40}", value):
        raise ValueError("not a mysql_native_password hash")
    return f"'{value}'"
