"""An event loop whose time jumps to the next timer when nothing else is left to do.

`asyncio.sleep`, `asyncio.timeout` and VirtualClock all follow it, so hours pass in milliseconds and in the same order
every time. Only for tests without sockets: waiting for one would count as nothing to do.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec

P = ParamSpec("P")
EPOCH = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("virtual time: nothing will ever happen again")
            self.now += max(0.0, timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at time 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class VirtualClock:
    """The Clock of a VirtualLoop; `offset` and `wall_offset` (seconds) set one process's clocks apart."""

    def __init__(self, *, offset: float = 1000.0, wall_offset: float = 0.0, rate: float = 1.0) -> None:
        self.offset = offset
        self.wall_offset = wall_offset
        self.rate = rate

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self.rate + self.offset

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time() + self.wall_offset)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self.rate)


class ImpatientClock:
    """For tests with sockets: sleeps take no real time, move `now` and are written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test on a VirtualLoop, for two virtual hours at most: TimeoutError beyond."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            async with asyncio.timeout(7200):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    return run


async def settle(turns: int = 50) -> None:
    """Let everything that is ready run, without letting time pass."""
    for _ in range(turns):
        await asyncio.sleep(0)
