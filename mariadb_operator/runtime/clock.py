"""Time as an argument: what waits or measures takes a Clock, so that tests run under virtual time.

Not for deadlines around I/O: those are `asyncio.timeout`, on the event loop's own clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps back, goes on while the machine sleeps."""
        ...

    def wall(self) -> datetime:
        """The time of day in UTC, for people and names; never for measuring, it may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds; at once, but after a turn of the loop, for 0 and less."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ("_clock_id",)

    def __init__(self) -> None:
        # CLOCK_MONOTONIC stands still in a suspended machine: a lease would look alive after it.
        self._clock_id: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic(self) -> float:
        """Seconds since boot, suspension included."""
        return time.clock_gettime(self._clock_id)

    def wall(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(max(0.0, seconds))
