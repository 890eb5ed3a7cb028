"""A standing session with one sidecar: what changes there is told at once, and it comes back by itself when it breaks.

Not for what the news mean: that a session broke, or never came about, says nothing about mariadbd.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn, Protocol

from mariadb_operator.node.protocol import (
    R,
    Request,
    StoreReply,
    StoreRequest,
    TailRequest,
    Verb,
    WatchEvent,
    WatchRequest,
)
from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.ssh.connection import SidecarConnection, Target
from mariadb_operator.ssh.errors import SidecarUnreachable

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
SILENT_HEARTBEATS = 3


class Listener(Protocol):
    """Who is told; neither may block."""

    def event(self, event: WatchEvent, *, at: float) -> None:
        """A line came: the first of a session has the state and the greeting. `at`: our own clock."""
        ...

    def lost(self, reason: OperatorError, *, at: float) -> None:
        """There is no session; it will be tried again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """In seconds.

    A heartbeat costs the operator 0.17 ms of CPU. A lease is renewed from heartbeats, so a primary's come often.
    """

    base: float = 0.1  # between two attempts, at first
    limit: float = 5.0  # and at most
    heartbeat: float = 1.0


class SidecarSession:
    """Watches one sidecar; run `run()` as an owned task. Questions go over the same connection."""

    def __init__(
        self,
        *,
        target: Callable[[], Target | None],
        listener: Listener,
        clock: Clock,
        rng: random.Random,
        pace: Pace,
    ) -> None:
        """`target` gives the present address and keys, or None while there is no Pod to ask."""
        self._target = target
        self._listener = listener
        self._clock = clock
        self._heartbeat = pace.heartbeat
        self._backoff = Backoff(base=pace.base, limit=pace.limit, rng=rng)
        self._connection: SidecarConnection | None = None

    @property
    def is_open(self) -> bool:
        """Whether questions can be asked."""
        return self._connection is not None and not self._connection.is_closed

    async def ask(self, verb: Verb, request: Request, kind: type[R], *, deadline_seconds: float) -> R:
        """One question over the standing session. Raises what SidecarConnection.ask raises."""
        if self._connection is None:
            raise SidecarUnreachable("there is no session with the sidecar")
        return await self._connection.ask(verb, request, kind, deadline_seconds=deadline_seconds)

    async def bring_tail(
        self, ask: TailRequest, recipient: SidecarSession, store: StoreRequest, *, silence_seconds: float
    ) -> StoreReply:
        """Over both standing sessions. Raises what SidecarConnection.bring_tail raises."""
        if self._connection is None or recipient._connection is None:
            raise SidecarUnreachable("there is no session with one of the two sidecars")
        return await self._connection.bring_tail(
            ask,
            recipient._connection,
            store,
            silence_seconds=silence_seconds,
        )

    def reconnect(self) -> None:
        """Keys or address are others from now on: begin anew."""
        if self._connection is not None:
            self._connection.close()

    async def run(self) -> NoReturn:
        """Watch for ever."""
        while True:
            target = self._target()
            try:
                if target is None:
                    raise SidecarUnreachable("no Pod to ask")
                await self._watch(target)
            except OperatorError as error:
                self._listener.lost(error, at=self._clock.monotonic())
                logger.debug("no session with a sidecar: %s", error)
            await self._clock.sleep(self._backoff.next())

    async def _watch(self, target: Target) -> None:
        connection = await SidecarConnection.open(target, deadline_seconds=CONNECT_SECONDS)
        async with connection:
            self._connection = connection
            try:
                request = WatchRequest(heartbeat_seconds=self._heartbeat)
                silence = SILENT_HEARTBEATS * self._heartbeat
                async with aclosing(connection.watch(request, silence_seconds=silence)) as events:
                    async for event in events:
                        self._backoff.reset()
                        self._listener.event(event, at=self._clock.monotonic())
            finally:
                self._connection = None
