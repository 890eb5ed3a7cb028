"""What the sidecar asks of its own server and volume, and what counts as a change: hysteresis, not every answer.

Ping and write go over connections of their own: a write that hangs must not look like a server that hangs. The write
stays out of the binary log, so it is answered while commits wait for an acknowledgement, and it reaches the disk. Not
for what follows from a stall (statemachines.detection).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from mariadb_operator.node.protocol import Ping, ProbeState, Space, Write
from mariadb_operator.sql.connection import Connection, LocalEndpoint
from mariadb_operator.sql.errors import (
    ConnectRefused,
    ServerPresent,
    StatementFailed,
    StatementInterrupted,
    StatementLost,
    Unreachable,
)

logger = logging.getLogger(__name__)

V = TypeVar("V")

WRITE = (
    "SET SESSION sql_log_bin = 0;"
    " INSERT INTO mariadb_operator.write_probe (id, at) VALUES (1, UTC_TIMESTAMP(6))"
    " ON DUPLICATE KEY UPDATE at = VALUES(at)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the probes look and how long they wait, in seconds."""

    ping: float = 1.0
    ping_deadline: float = 1.0
    starting: float = 0.1  # between pings of a server that has never answered
    write: float = 1.0
    write_deadline: float = 2.0
    lock_wait: int = 1  # shorter than the write's deadline: a lock is no stall
    space: float = 5.0
    space_deadline: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When space is low and when there is none, as shares of the whole; it has to rise by `slack` to be more again."""

    low: float = 0.10
    none: float = 0.01
    slack: float = 0.02


class Settled(Generic[V]):
    """A value that changes when the same other one was seen `needed` times in a row."""

    def __init__(self, value: V, *, needed: Callable[[V], int]) -> None:
        self.value = value
        self._needed = needed
        self._other: V | None = None
        self._seen = 0

    def see(self, value: V) -> bool:
        """Whether the settled value is another one now."""
        if value == self.value:
            self._other, self._seen = None, 0
            return False
        self._seen = self._seen + 1 if value == self._other else 1
        self._other = value
        if self._seen < self._needed(value):
            return False
        self.set(value)
        return True

    def set(self, value: V) -> None:
        """Settle at once."""
        self.value = value
        self._other, self._seen = None, 0


def judge_space(share: float, *, known: Space, limits: Limits) -> Space:
    """What a free share means, seen from what was known: it gets worse at once, and better with some slack."""
    order = (Space.NONE, Space.LOW, Space.ENOUGH)
    plain = order[(share > limits.none) + (share > limits.low)]
    if known is Space.UNKNOWN or order.index(plain) <= order.index(known):
        return plain
    return order[
        max(order.index(known), (share > limits.none + limits.slack) + (share > limits.low + limits.slack))
    ]


def _pings_needed(value: Ping) -> int:
    # Alive is alive; that nothing answers may be one slow moment.
    return 1 if value in (Ping.ANSWERS, Ping.PRESENT, Ping.REFUSES) else 2


def _writes_needed(value: Write) -> int:
    return 1 if value is Write.DONE else 2


class Probes:
    """Looks at one server; `changed` is called when something is another than before, `answered` at each ping."""

    def __init__(
        self,
        endpoint: Callable[[], LocalEndpoint],  # asked for each connection; OSError while there is none
        *,
        volume: Path,
        changed: Callable[[], None],
        answered: Callable[[], None],
        pace: Pace,
        limits: Limits,
    ) -> None:
        self.state = ProbeState()
        self._endpoint = endpoint
        self._volume = volume
        self._changed = changed
        self._answered = answered
        self._pace = pace
        self._limits = limits
        self._ping = Settled(Ping.UNKNOWN, needed=_pings_needed)
        self._write = Settled((Write.UNKNOWN, 0), needed=lambda seen: _writes_needed(seen[0]))
        self._present = asyncio.Event()
        self._lines: dict[str, Connection] = {}

    def server_started(self) -> None:
        """There is a server to ask."""
        self._forget()
        self._present.set()

    def server_died(self) -> None:
        """There is none; nothing that was found is true any more."""
        self._present.clear()
        self._forget()

    async def run(self) -> NoReturn:
        """Look for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(self._look_ping, self._ping_pause))
                group.create_task(self._repeat(self._look_write, lambda: self._pace.write))
                group.create_task(self._look_space())
        finally:
            self._hang_up()
        raise RuntimeError("probes ended by themselves")

    def _forget(self) -> None:
        self._hang_up()
        self._ping.set(Ping.UNKNOWN)
        self._write.set((Write.UNKNOWN, 0))
        self._show()

    def _hang_up(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def _show(self) -> None:
        write, errno = self._write.value
        state = replace(self.state, ping=self._ping.value, write=write, write_error=errno)
        if state != self.state:
            self.state = state
            self._changed()

    def _ping_pause(self) -> float:
        return self._pace.starting if self._ping.value in (Ping.UNKNOWN, Ping.REFUSES) else self._pace.ping

    async def _repeat(self, look: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> NoReturn:
        while True:
            await self._present.wait()
            await look()
            await asyncio.sleep(pause())

    async def _look_ping(self) -> None:
        found = await self._ask_ping()
        if not self._present.is_set():
            return
        if found is Ping.ANSWERS:
            self._answered()
        if self._ping.see(found):
            self._show()

    async def _ask_ping(self) -> Ping:
        try:
            line = await self._line("ping", deadline=self._pace.ping_deadline)
            await line.execute("DO 1", deadline_seconds=self._pace.ping_deadline)
        except ConnectRefused:
            return Ping.REFUSES
        except (ServerPresent, StatementFailed):
            self._drop("ping")
            return Ping.PRESENT
        except (Unreachable, StatementLost):
            self._drop("ping")
            return Ping.SILENT
        return Ping.ANSWERS

    async def _look_write(self) -> None:
        if self._ping.value is not Ping.ANSWERS:
            return  # nothing can be said of the disk
        found = await self._ask_write()
        # A stall is one only next to a server that answers.
        if found is None or not self._present.is_set() or self._ping.value is not Ping.ANSWERS:
            return
        if self._write.see(found):
            self._show()

    async def _ask_write(self) -> tuple[Write, int] | None:
        try:
            line = await self._line("write", deadline=self._pace.write_deadline)
            await line.execute(WRITE, deadline_seconds=self._pace.write_deadline)
        except StatementLost:
            self._drop("write")
            return Write.STALLED, 0
        except StatementInterrupted as error:
            return Write.BLOCKED, error.errno
        except StatementFailed as error:
            return Write.FAILED, error.errno
        except (ConnectRefused, ServerPresent, Unreachable):
            return None  # the ping's to tell
        return Write.DONE, 0

    async def _line(self, name: str, *, deadline: float) -> Connection:
        line = self._lines.get(name)
        if line is None or line.is_closed:
            try:
                endpoint = self._endpoint()
            except OSError as error:
                raise Unreachable(f"the password can't be read: {error.strerror}") from error
            line = await Connection.open(
                endpoint, deadline_seconds=deadline, statement_seconds=self._pace.lock_wait
            )
            self._lines[name] = line
        return line

    def _drop(self, name: str) -> None:
        line = self._lines.pop(name, None)
        if line is not None:
            line.close()

    async def _look_space(self) -> NoReturn:
        while True:
            measuring = asyncio.ensure_future(asyncio.to_thread(os.statvfs, self._volume))
            # A frozen file system holds up one thread, not one more each time.
            while not (await asyncio.wait((measuring,), timeout=self._pace.space_deadline))[0]:
                logger.warning("the volume does not say how much space is free")
            try:
                self._judge(measuring.result())
            except OSError as error:
                logger.warning("the volume's free space is not known: %s", error.strerror)
            await asyncio.sleep(self._pace.space)

    def _judge(self, found: os.statvfs_result) -> None:
        shares = [found.f_bavail / max(1, found.f_blocks)]
        if found.f_files:  # file systems that have no limit say 0
            shares.append(found.f_favail / found.f_files)
        space = judge_space(min(shares), known=self.state.space, limits=self._limits)
        if space is not self.state.space:
            self.state = replace(
                self.state,
                space=space,
                free_bytes=found.f_bavail * found.f_frsize,
                free_inodes=found.f_favail,
            )
            self._changed()
