"""Clients: each writes unique rows through the primary's Service, and knows which of them were acknowledged.

A connection stays with the server it was made to, wherever the Service points meanwhile. A client whose driver has a
query timeout kills its query over a second connection, as drivers do. Not for what an acknowledgement means (judge.py).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tests.simulation.loop import Process
from tests.simulation.mariadb import Server, SqlError, Waiting
from tests.simulation.volumes import Kind

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
TIMEOUT = (2.0, 12.0)
RETRY = (0.02, 0.3)


class Client:
    """One client; `run()` as a task of its own process."""

    def __init__(self, world: World, number: int, *, pause: float, kills: bool) -> None:
        self.world = world
        self.process = Process(f"client{number}", host=f"client{number}")
        self.pause = pause
        self.kills = kills  # its driver kills queries that take too long
        self.active = True
        self.last_ok = -1.0
        self._server: Server | None = None
        self._broken: asyncio.Future[None] | None = None
        self._rows = 0

    async def run(self) -> None:
        rng = self.world.rng
        while True:
            if not self.active:
                await asyncio.sleep(1.0)
                continue
            if self._server is None and not await self._connect():
                await asyncio.sleep(rng.uniform(*RETRY))
                continue
            if await self._write():
                await asyncio.sleep(rng.expovariate(1 / self.pause))
            else:
                await asyncio.sleep(rng.uniform(*RETRY))

    async def _connect(self) -> bool:
        world, loop = self.world, self.world.loop
        address = world.service_address
        if address is None:
            return False
        connected: asyncio.Future[Server | None] = loop.create_future()

        def accepted(server: Server) -> None:
            world.network.send(server.host, self.process.host, _set, connected, server)

        world.dial(self.process.host, address, accepted, partial(_set, connected, None))
        try:
            async with asyncio.timeout(2.0):
                self._server = await connected
        except TimeoutError:
            self._server = None
        if self._server is not None:
            self._broken = loop.create_future()
            self._server.on_death.append(partial(self._lost, self._server))
        return self._server is not None

    def _lost(self, server: Server) -> None:
        """The server's process has ended; its kernel says so, if it still runs."""
        self.world.network.send(server.host, self.process.host, self._hear_end, server)

    def _hear_end(self, server: Server) -> None:
        if self._server is server:
            self._server = None
            if self._broken is not None:
                _set(self._broken, None)

    async def _write(self) -> bool:
        """One row; whether OK was heard."""
        world, server, broken = self.world, self._server, self._broken
        assert server is not None
        assert broken is not None
        self._rows += 1
        row = f"{self.process.name}-{self._rows}"
        reply: asyncio.Future[SqlError | None] = world.loop.create_future()
        waiting = object()

        def answer(error: SqlError | None) -> None:
            world.network.send(server.host, self.process.host, _set, reply, error)

        send = partial(server.write, Kind.ROW, answer, row=row, session=waiting)
        world.network.send(self.process.host, server.host, server.deliver, send)
        await asyncio.wait(
            (reply, broken), timeout=world.rng.uniform(*TIMEOUT), return_when=asyncio.FIRST_COMPLETED
        )
        if reply.done() and reply.result() is None:
            self.last_ok = world.loop.now
            return True
        if not reply.done() and not broken.done() and self.kills:
            world.network.send(self.process.host, server.host, server.deliver, kill, server, waiting)
        self._server = None  # an error, a silence: connect anew
        return False


def kill(server: Server, session: object) -> None:
    """KILL QUERY over a second connection."""
    found: Waiting | None = next((each for each in server.waiting if each.session is session), None)
    if found is not None:
        server.kill_query(found)


def _set(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
