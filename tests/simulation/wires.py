"""The wire between the operator and a simulated server: what aiomysql's connection is to the real ones.

The operator's own sql.connection.Connection stands on it, deadlines and errors included. What was sent arrives also
when its sender has closed meanwhile. Not for SQL (statements.py).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pymysql.err

from tests.simulation.loop import Process, SimulatedLoop, current_process
from tests.simulation.mariadb import Server, SqlError
from tests.simulation.statements import Execution, Row, Session

if TYPE_CHECKING:
    from tests.simulation.world import World

CLOSING_SECONDS = 0.01  # the goodbye arrives after what was said before it


class Wire:
    """Stands in for mariadb_operator.sql.connection._TlsWire."""

    def __init__(self, *, host: str, user: str, **_: object) -> None:
        self.process: Process = current_process()
        self._world: World = self.process.world
        self._address = host
        self._user = user
        self._session: Session | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._reply: asyncio.Future[Any] | None = None
        self.closed = False
        self._world.wires.append(self)

    @property
    def _loop(self) -> SimulatedLoop:
        return self._world.loop

    @property
    def _host(self) -> str:
        return self.process.host

    async def open(self) -> None:
        opened: asyncio.Future[Session] = self._loop.create_future()
        refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        self._world.dial(
            self._host, self._address, partial(self._welcome, opened), partial(_fail, opened, refused)
        )
        self._session = await opened

    def _welcome(self, opened: asyncio.Future[Session], server: Server) -> None:
        """At the server."""
        answer = partial(self._world.network.send, server.host, self._host)
        if server.too_many_connections:
            answer(_fail, opened, pymysql.err.OperationalError(1040, "Too many connections"))
        elif server.access_denied:
            answer(_fail, opened, pymysql.err.OperationalError(1045, "Access denied"))
        else:
            session = Session(server.new_session_id(), self._user, server, partial(answer, self._broken))
            server.sessions[session.identity] = session
            answer(self._opened, opened, session)

    def _opened(self, opened: asyncio.Future[Session], session: Session) -> None:
        if opened.done():
            self._say_goodbye(session)
        else:
            opened.set_result(session)

    def thread_id(self) -> int:
        assert self._session is not None
        return self._session.identity

    def names(self, address: str) -> bool:
        return True

    async def ended(self) -> None:
        await self._ended

    @staticmethod
    def escape(value: object) -> str:
        return str(value) if isinstance(value, int | float) else f"'{value}'"

    async def run(self, sql: str) -> list[list[Row]]:
        session = self._session
        assert session is not None
        if self.closed:
            raise pymysql.err.InterfaceError(0, "closed")
        if self._ended.done():
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        reply: asyncio.Future[list[list[Row]]] = self._loop.create_future()
        self._reply = reply
        answer = partial(self._world.network.send, session.server.host, self._host, _settle, reply)
        self._world.network.send(
            self._host, session.server.host, session.server.deliver, _start, session, sql, answer
        )
        if not session.server.alive:
            # Nobody is there to receive it: the kernel says so, if there is still one.
            self._world.network.send(session.server.host, self._host, self._broken)
        return await reply

    def quit(self) -> None:
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if not self._ended.done():
            self._ended.set_result(None)
        if self._session is not None:
            self._say_goodbye(self._session)
        if self in self._world.wires:
            self._world.wires.remove(self)

    def _say_goodbye(self, session: Session) -> None:
        server = session.server
        self._loop.in_world(
            CLOSING_SECONDS, self._world.network.send, self._host, server.host, server.deliver, session.leave
        )

    def _broken(self) -> None:
        """The server's end is closed."""
        if not self._ended.done():
            self._ended.set_result(None)
        if self._reply is not None:
            _fail(self._reply, ConnectionResetError(errno.ECONNRESET, "reset"))

    def drop(self) -> None:
        """Its process is dead: the kernel closes the socket."""
        if self._session is not None and not self.closed:
            self.closed = True
            self._say_goodbye(self._session)


def _start(session: Session, sql: str, answer: Callable[[object], None]) -> None:
    if session.identity in session.server.sessions:
        Execution(session, sql, answer)


def _settle(reply: asyncio.Future[Any], result: list[list[Row]] | SqlError) -> None:
    if reply.done():
        return
    if isinstance(result, SqlError):
        reply.set_exception(pymysql.err.OperationalError(result.errno, result.text))
    else:
        reply.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
