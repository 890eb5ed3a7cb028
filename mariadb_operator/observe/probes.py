"""One standing connection per instance that asks the server how it is, and whose sudden end is the fast sign of death.

Keeps the last answer and how the last attempt ended. Not for what it means (statemachines.detection): a refused or
silent server is a fact here, not an error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from mariadb_operator.runtime.clock import Clock
from mariadb_operator.sql.connection import Connection, Endpoint
from mariadb_operator.sql.errors import (
    ConnectRefused,
    ServerPresent,
    StatementFailed,
    StatementLost,
    Unreachable,
)
from mariadb_operator.sql.observe import observe, read_only_admins
from statemachines.facts import ProbeFact, Reach, ServerFact

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 1.0
SUSPECT_SECONDS = 0.02
REFUSED_SECONDS = 0.1
QUICK_ATTEMPTS = 25
AUDIT_SECONDS = 60.0  # between looks at what changes by a person's hand only


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server to ask: the address of a Pod, and whose it is."""

    endpoint: Endpoint
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to ask a server that answers, in seconds."""

    seconds: float = 1.0


class InstanceProbe:
    """Asks one instance; run `run()` as an owned task. `changed` is called when an answer or its absence is news."""

    def __init__(
        self,
        instance: str,
        *,
        target: Callable[[], Target | None],
        changed: Callable[[], None],
        took: Callable[[float], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`target` gives the present address, or None while there is no Pod to ask; `took` the seconds of an answer."""
        self.instance = instance
        self.pace = Pace()
        self.server: ServerFact | None = None
        self.probe = ProbeFact(reach=Reach.UNKNOWN, at=clock.monotonic(), since=clock.monotonic())
        self._target = target
        self._changed = changed
        self._took = took
        self._clock = clock
        self._rng = rng
        self._wake = asyncio.Event()
        self._asked = asyncio.Condition()
        self._began = 0.0
        self._attempts = 0
        self._quick = False
        self._stale = False
        self._admins: frozenset[str] = frozenset()
        self._audit_at = 0.0
        self._connection: Connection | None = None
        self._connected_to: Target | None = None

    def poke(self) -> None:
        """Ask now instead of at the next turn."""
        self._wake.set()

    def reconnect(self) -> None:
        """The server shows another certificate from now on: look at it over a new connection."""
        self._stale = True
        self.poke()

    async def refresh(self, *, deadline_seconds: float) -> None:
        """Return when an attempt that began after this call has ended, or at the deadline."""
        since = self._clock.monotonic()
        self.poke()
        try:
            async with asyncio.timeout(deadline_seconds), self._asked:
                await self._asked.wait_for(lambda: self._began >= since)
        except TimeoutError:
            return

    async def run(self) -> NoReturn:
        """Ask for ever."""
        try:
            while True:
                self._wake.clear()
                await self._attempt()
                await self._rest()
        finally:
            self._drop()

    async def _attempt(self) -> None:
        began = self._clock.monotonic()
        target = self._target()
        if target is None:
            self._drop()
            self._conclude(Reach.SILENT, began=began, pod_uid="", detail="no Pod to ask")
        else:
            await self._ask(target, began=began)
        async with self._asked:
            self._began = began
            self._asked.notify_all()

    async def _ask(self, target: Target, *, began: float) -> None:
        if (
            self._stale
            or self._connected_to != target
            or (self._connection is not None and self._connection.is_closed)
        ):
            self._drop()
            self._stale = False
        reused = self._connection is not None
        try:
            server = await self._observe(target, began=began)
        except StatementLost as error:
            self._drop()
            if reused and self._clock.monotonic() - began < DEADLINE_SECONDS / 2:
                # The standing wire broke: what the address says now is the news, not the break.
                await self._ask(target, began=self._clock.monotonic())
                return
            self._conclude(Reach.SILENT, began=began, pod_uid=target.pod_uid, detail=str(error))
        except ConnectRefused as error:
            self._conclude(Reach.REFUSED, began=began, pod_uid=target.pod_uid, detail=str(error))
        except Unreachable as error:
            self._conclude(Reach.SILENT, began=began, pod_uid=target.pod_uid, detail=str(error))
        except (ServerPresent, StatementFailed) as error:
            self._drop()
            self._conclude(Reach.PRESENT, began=began, pod_uid=target.pod_uid, detail=str(error))
        else:
            server = replace(server, answered_at=self._clock.monotonic(), read_only_admins=self._admins)
            known = self.server
            news = known is None or server != replace(
                known, asked_at=server.asked_at, answered_at=server.answered_at
            )
            self.server = server
            self._took(self._clock.monotonic() - began)
            self._conclude(Reach.ANSWERING, began=began, pod_uid=target.pod_uid, detail="", news=news)

    async def _observe(self, target: Target, *, began: float) -> ServerFact:
        if self._connection is None:
            self._connection = await Connection.open(target.endpoint, deadline_seconds=DEADLINE_SECONDS)
            self._connected_to = target
        server = await observe(
            self._connection, asked_at=began, pod_uid=target.pod_uid, deadline_seconds=DEADLINE_SECONDS
        )
        if began >= self._audit_at:
            self._audit_at = began + AUDIT_SECONDS
            try:
                self._admins = await read_only_admins(self._connection, deadline_seconds=DEADLINE_SECONDS)
            except StatementFailed as error:
                logger.info("instance %s: accounts can't be looked at: %s", self.instance, error)
        return server

    def _conclude(self, reach: Reach, *, began: float, pod_uid: str, detail: str, news: bool = False) -> None:
        before = self.probe
        same = before.reach is reach and before.pod_uid == pod_uid
        self._attempts = self._attempts + 1 if same else 0
        if not same:
            # An absent Pod has nothing quick to say.
            self._quick = bool(pod_uid) and (reach is Reach.REFUSED or before.reach is Reach.ANSWERING)
        since = before.since if same else began
        self.probe = ProbeFact(
            reach=reach, at=self._clock.monotonic(), since=since, pod_uid=pod_uid, detail=detail[:200]
        )
        if not same:
            logger.info("instance %s: %s -> %s %s", self.instance, before.reach, reach, detail[:200])
        if news or not same:
            self._changed()

    async def _rest(self) -> None:
        """Until the next turn, a poke, or the end of the standing connection."""
        connection = self._connection
        waits = [
            asyncio.create_task(self._wake.wait()),
            asyncio.create_task(self._clock.sleep(self._pause())),
        ]
        if connection is not None:
            waits.append(asyncio.create_task(connection.wait_closed()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _pause(self) -> float:
        if self.probe.reach is Reach.ANSWERING:
            # Spread: probes of one pace would stay in step for ever, and the same one always be asked last.
            return self.pace.seconds * self._rng.uniform(0.85, 1.15)
        if self._quick and self._attempts < QUICK_ATTEMPTS:
            return SUSPECT_SECONDS  # it answered a moment ago: what its address says now is news
        return REFUSED_SECONDS if self.probe.reach is Reach.REFUSED else max(0.2, self.pace.seconds / 2)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._connected_to = None, None
