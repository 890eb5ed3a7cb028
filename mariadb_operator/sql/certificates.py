"""A renewed certificate in a running server: read again from its files, without a restart.

Not for making certificates (resources/certificates.py).
"""

from __future__ import annotations

from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.terms import DEFAULT_DEADLINE_SECONDS


async def reload_certificates(
    connection: Connection, *, deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
) -> None:
    """Have the server read its certificate, key and authority anew; open connections go on with the old ones.

    Changes nothing where the files are the same, or can't be used: the server then keeps what it has.

    Raises:
        StatementFailed: the files can't be used.
    """
    await connection.execute("FLUSH LOCAL SSL", deadline_seconds=deadline_seconds)
