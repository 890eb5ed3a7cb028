"""One connection to one server: TLS on every wire, a deadline on everything, the server's own words turned into our
errors.

Not for pools nor retries: whoever owns a connection decides when to open another. Not for what to say:
observe.py and the statement modules do.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import aiomysql
import pymysql.err
from pymysql.constants import CLIENT

from mariadb_operator.sql.errors import (
    ConnectRefused,
    ServerPresent,
    StatementFailed,
    StatementInterrupted,
    StatementLost,
    StatementRefused,
    Unreachable,
)

Row = dict[str, Any]

# Errors made by the client library, not sent by a server: CR_MIN_ERROR to CR_MAX_ERROR.
_CLIENT_ERRORS = range(2000, 3000)

# Errors after which the same statement may succeed.
_INTERRUPTIONS = frozenset({
    1040,  # too many connections
    1053,  # the server shuts down
    1192,  # locked tables or an active transaction
    1205,  # lock_wait_timeout
    1213,  # deadlock
    1317,  # KILL QUERY
    1927,  # KILL CONNECTION
    1969,  # max_statement_time
    1198,  # replication runs, it has to be stopped first
    1199,  # the reverse
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server is and as whom we come."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext = field(repr=False, compare=False)
    server_id: int  # the instance expected there; another one is not this instance


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpoint:
    """The server next to us, by its socket file: no wire, so no TLS."""

    socket: Path
    user: str
    password: str = field(repr=False)
    server_id: int


def tls_context(ca: Path | str) -> ssl.SSLContext:
    """A context that trusts this CA only (a file, or PEM text).

    Addresses are Pod IPs, so the certificate's names are not compared: the chain is verified here and the
    instance by its server_id after connecting.
    """
    text = ca.read_text() if isinstance(ca, Path) else ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=text)
    return context


class _PlaintextServerError(Exception):
    """The server offers no TLS; nothing was sent to it."""


class _Wire(aiomysql.Connection):  # type: ignore[misc]  # aiomysql has no types
    """aiomysql's connection, giving away whole replies."""

    _reader: Any
    _writer: Any

    async def open(self) -> None:
        await self._connect()

    def thread_id(self) -> int:
        return int(self.server_thread_id[0])

    def names(self, address: str) -> bool:
        """Whether the certificate that the server showed names that address."""
        shown = self._writer.get_extra_info("peercert") or {}
        return ("IP Address", address) in shown.get("subjectAltName", ())

    async def ended(self) -> None:
        """Return as soon as the transport is lost, by either side."""
        writer = self._writer
        if writer is None:
            return
        try:
            await writer.wait_closed()
        except OSError:
            return

    async def run(self, sql: str) -> list[list[Row]]:
        # Not by a cursor: that asks SHOW WARNINGS on its own, a second round trip.
        await self.query(sql)
        replies = [self._rows()]
        while self._result.has_next:
            await self.next_result()
            replies.append(self._rows())
        return replies

    def quit(self) -> None:
        """Say goodbye, so that the server logs no aborted connection, and drop the socket."""
        if self._writer is not None:
            self._writer.write(b"\x01\x00\x00\x00\x01")  # COM_QUIT
        self.close()

    def close(self) -> None:
        # transport.close() would wait for the peer's TLS goodbye: half a minute for a frozen server.
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = None
        self._reader = None

    def _rows(self) -> list[Row]:
        if self._result.rows is None:
            return []
        names = [column[0] for column in self._result.description]
        return [dict(zip(names, row, strict=True)) for row in self._result.rows]


class _TlsWire(_Wire):
    """Over a network: a server without TLS is refused."""

    async def _request_authentication(self) -> None:
        # The library would go on in plaintext, and answer a server that asks for the clear password.
        if not self.server_capabilities & CLIENT.SSL:
            raise _PlaintextServerError
        try:
            await super()._request_authentication()
        except Exception:
            self.close()  # before the library does, which would wait for the peer's TLS goodbye
            raise


class Connection:
    """An open connection; used by one task at a time. After StatementLost it is closed."""

    def __init__(self, wire: _Wire, *, endpoint: Endpoint | LocalEndpoint) -> None:
        self._wire = wire
        self._busy = False
        self._end: asyncio.Future[None] | None = None
        self.endpoint = endpoint
        self.connection_id = wire.thread_id()
        self.incarnation = ""
        # The server's certificate names the address that was connected to.
        self.certified = isinstance(endpoint, LocalEndpoint) or wire.names(endpoint.host)

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint | LocalEndpoint,
        *,
        deadline_seconds: float,
        statement_seconds: float = 5.0,
    ) -> Self:
        """Connect, authenticate, and make sure that it is that server and that the wire, if any, is encrypted.

        On the server statements of this session end by themselves after `statement_seconds`, waits for locks
        included.

        Raises:
            ConnectRefused: nobody listens there.
            Unreachable: silence, or another instance answered.
            ServerPresent: it lives but does not let us in.
        """
        wire = _wire(endpoint, deadline_seconds=deadline_seconds)
        try:
            async with asyncio.timeout(deadline_seconds):
                await wire.open()
                connection = cls(wire, endpoint=endpoint)
                await connection._introduce(statement_seconds)
        except BaseException as error:
            wire.close()
            if isinstance(error, Exception):
                raise _connect_error(endpoint, error) from error
            raise
        return connection

    async def _introduce(self, statement_seconds: float) -> None:
        [row], *_ = await self._wire.run(
            "SELECT @@global.server_id AS server_id, @@global.pid_file AS pid_file,"
            " (SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS"
            "  WHERE VARIABLE_NAME = 'Ssl_cipher') AS cipher;"
            # Whatever the user's my.cnf says: ORACLE, for one, knows no BEGIN NOT ATOMIC.
            " SET SESSION autocommit = 1, sql_mode = 'STRICT_TRANS_TABLES', completion_type = 'NO_CHAIN',"
            f" max_statement_time = {statement_seconds:.3f},"
            f" lock_wait_timeout = {max(1, int(statement_seconds))},"
            f" innodb_lock_wait_timeout = {max(1, int(statement_seconds))}"
        )
        if not row["cipher"] and isinstance(self.endpoint, Endpoint):
            raise _PlaintextServerError
        if row["server_id"] != self.endpoint.server_id:
            raise Unreachable(
                f"{_address(self.endpoint)} is server_id {row['server_id']}, expected {self.endpoint.server_id}"
            )
        self.incarnation = incarnation_of(row["pid_file"])

    async def query(self, sql: str, args: Sequence[object] = (), *, deadline_seconds: float) -> list[Row]:
        """Run one statement and return its rows.

        Raises:
            StatementLost: no reply within the deadline or the wire broke; the connection is closed.
            StatementFailed: the server answered with an error (its subclasses say whether again makes sense).
        """
        return (await self.query_all(sql, args, deadline_seconds=deadline_seconds))[0]

    async def execute(self, sql: str, args: Sequence[object] = (), *, deadline_seconds: float) -> None:
        """Run a statement whose rows do not matter. Raises what `query` raises."""
        await self.query_all(sql, args, deadline_seconds=deadline_seconds)

    async def query_all(
        self, sql: str, args: Sequence[object] = (), *, deadline_seconds: float
    ) -> list[list[Row]]:
        """Run one or several statements in one round trip; the rows of each. Raises what `query` raises."""
        if self._busy:
            raise RuntimeError("a connection serves one task at a time")
        if self.is_closed:
            raise Unreachable(f"the connection to {_address(self.endpoint)} is closed")
        text = sql % tuple(self._wire.escape(arg) for arg in args) if args else sql
        self._busy = True
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._wire.run(text)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise self._lost(error) from error
        except pymysql.err.MySQLError as error:
            failure = _statement_error(self.endpoint, error)
            if failure is None:
                self.close()
                raise self._lost(error) from error
            raise failure from error
        except BaseException:  # a cancelled statement leaves half a reply on the wire
            self.close()
            raise
        finally:
            self._busy = False

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """A deadline around several statements on this connection. Raises StatementLost; it is closed then."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            self.close()
            raise self._lost(error) from error

    def _lost(self, cause: BaseException) -> StatementLost:
        what = (
            "no reply within the deadline" if isinstance(cause, TimeoutError) else f"the wire broke ({cause})"
        )
        return StatementLost(
            f"statement to {_address(self.endpoint)}: {what}",
            connection_id=self.connection_id,
            incarnation=self.incarnation,
        )

    async def wait_closed(self) -> None:
        """Return as soon as the connection ends, also while idle: the server's socket was closed, or we closed it.

        Await it in a task of your own; it needs no polling and sends nothing.
        """
        if self._end is None:
            self._end = asyncio.ensure_future(self._wire.ended())
        # Shielded: the stream has one future for all who wait, and the first to give up would cancel it for ever.
        await asyncio.shield(self._end)

    @property
    def is_closed(self) -> bool:
        """Whether it is known to be closed."""
        return bool(self._wire.closed)

    @property
    def is_busy(self) -> bool:
        """Whether a statement is under way."""
        return self._busy

    def close(self) -> None:
        """Leave; waits for nobody."""
        if self._busy:
            self._wire.close()
        else:
            self._wire.quit()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def incarnation_of(pid_file: str) -> str:
    """The part of the pid file's name that the supervisor makes anew at every start of mariadbd."""
    return PurePosixPath(pid_file).stem


def _wire(endpoint: Endpoint | LocalEndpoint, *, deadline_seconds: float) -> _Wire:
    common = {
        "user": endpoint.user,
        "password": endpoint.password,
        "autocommit": None,  # _introduce says it: one round trip less
        "connect_timeout": deadline_seconds,
        "charset": "utf8mb4",
        "program_name": "mariadb-operator",
    }
    if isinstance(endpoint, LocalEndpoint):
        return _Wire(unix_socket=str(endpoint.socket), **common)
    return _TlsWire(host=endpoint.host, port=endpoint.port, ssl=endpoint.tls, **common)


def _address(endpoint: Endpoint | LocalEndpoint) -> str:
    if isinstance(endpoint, LocalEndpoint):
        return str(endpoint.socket)
    return f"{endpoint.host}:{endpoint.port}"


def _connect_error(endpoint: Endpoint | LocalEndpoint, error: Exception) -> Exception:
    """What an exception met while connecting says about the server."""
    where = _address(endpoint)
    if isinstance(error, _PlaintextServerError):
        return ServerPresent(f"{where} offers no TLS; give it a certificate, plaintext is never used")
    cause = error.__cause__ if isinstance(error, pymysql.err.OperationalError) else None
    system = cause if isinstance(cause, OSError) else error
    if isinstance(system, TimeoutError):
        return Unreachable(f"{where}: no answer within the deadline")
    if isinstance(system, OSError):
        return _socket_error(where, system)
    if isinstance(error, pymysql.err.MySQLError):
        code = _server_errno(error)
        text = (
            f"{where}: error {error.args[0] if error.args else '?'}: {error.args[-1] if error.args else ''}"
        )
        return Unreachable(text) if code is None else ServerPresent(text, errno=code)
    return error  # Unreachable (another instance), or a wrong program


def _socket_error(where: str, error: OSError) -> ConnectRefused | ServerPresent | Unreachable:
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ServerPresent(f"{where}: TLS failed: {error}")
    if error.errno in (errno.ECONNREFUSED, errno.ENOENT):  # the latter: no socket file
        return ConnectRefused(f"{where} refuses connections")
    return Unreachable(f"{where}: {type(error).__name__}: {error}")


def _server_errno(error: pymysql.err.MySQLError) -> int | None:
    """The number of an error that the server sent; None when the client library made the error itself."""
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) and code != 0 and code not in _CLIENT_ERRORS else None


def _statement_error(
    endpoint: Endpoint | LocalEndpoint, error: pymysql.err.MySQLError
) -> StatementFailed | None:
    """The server's error, or None when the library made it: then no reply came."""
    code = _server_errno(error)
    if code is None:
        return None
    kind = StatementInterrupted if code in _INTERRUPTIONS else StatementRefused
    # A syntax error quotes the statement, and that may hold a password.
    detail = "syntax error" if code == 1064 else error.args[-1]
    return kind(f"{_address(endpoint)}: error {code}: {detail}", errno=code)
