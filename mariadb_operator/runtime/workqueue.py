"""A queue of keys to work on: each waits at most once and is in work at most once.

Level-triggered: a key says "look again", never what happened, so any number of reasons fold into one
pass. Not a task pool: whoever calls `get` runs the work and must call `done`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import Clock

K = TypeVar("K")


class _Pace:
    """A token bucket: how often one key may come through in its ordinary way."""

    __slots__ = ("at", "tokens")

    def __init__(self, *, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class Workqueue(Generic[K]):
    """Keys with deduplication, priority, delays, and per-key back-off and pace.

    Use: `key = await queue.get()`, work, then `forget(key)` on success or `retry(key)` on failure, and
    `done(key)` always. A key added while in work comes again after `done`. Single event loop, no locks.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        rng: random.Random,
        base_delay: float = 0.2,
        max_delay: float = 30.0,
        rate: float = 5.0,
        burst: int = 20,
    ) -> None:
        """`base_delay` and `max_delay` (seconds) bound the back-off of `retry`.

        A key that is not urgent is handed out `burst` times at once, then `rate` times per second: work
        whose own writes wake it again cannot take the processor from the other keys.
        """
        self._clock = clock
        self._rng = rng
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._rate = rate
        self._burst = float(burst)
        self._urgent: OrderedDict[K, None] = OrderedDict()
        self._ordinary: OrderedDict[K, None] = OrderedDict()
        self._in_work: dict[K, bool | None] = {}  # None: not added again; else whether urgently
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._sequence = itertools.count()
        self._backoffs: dict[K, Backoff] = {}
        self._paces: dict[K, _Pace] = {}
        self._getters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """How many keys are ready to be handed out (delayed ones and those in work don't count)."""
        return len(self._urgent) + len(self._ordinary)

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Ask for a pass over the key; urgent ones go before all others and know no pace."""
        if key in self._in_work:
            self._in_work[key] = bool(self._in_work[key]) or urgent
        elif urgent:
            self._ordinary.pop(key, None)
            self._urgent[key] = None
            self._wake()
        elif key not in self._urgent and key not in self._ordinary:
            wait = self._pace_delay(key)
            if wait > 0:
                self._schedule(key, wait)
            else:
                self._ordinary[key] = None
                self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a pass in so many seconds; of several such wishes for one key the earliest is kept."""
        if seconds <= 0:
            self.add(key)
        else:
            self._schedule(key, seconds)

    async def get(self) -> K:
        """The next key, which is in work from now on; waits while there is none."""
        while True:
            next_due = self._release_due()
            if self._urgent:
                return self._hand_out(self._urgent)
            if self._ordinary:
                return self._hand_out(self._ordinary)
            await self._wait(next_due)

    def done(self, key: K) -> None:
        """The work on the key ended, well or not; ValueError if it was not in work."""
        if key not in self._in_work:
            raise ValueError(f"done() for a key that is not in work: {key!r}")
        again = self._in_work.pop(key)
        if again is not None:
            self.add(key, urgent=again)

    def retry(self, key: K) -> float:
        """Ask for another pass after the key's back-off; returns the delay in seconds."""
        backoff = self._backoffs.get(key)
        if backoff is None:
            backoff = Backoff(base=self._base_delay, limit=self._max_delay, rng=self._rng)
            self._backoffs[key] = backoff
        delay = backoff.next()
        self._schedule(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key's work succeeded: its next failure starts with a short delay again."""
        self._backoffs.pop(key, None)

    def drop(self, key: K) -> None:
        """The key is gone for good: nothing of it is kept, and nothing waits for it."""
        self._urgent.pop(key, None)
        self._ordinary.pop(key, None)
        self._due.pop(key, None)
        self._backoffs.pop(key, None)
        self._paces.pop(key, None)
        if key in self._in_work:
            self._in_work[key] = None

    def _hand_out(self, ready: OrderedDict[K, None]) -> K:
        key, _ = ready.popitem(last=False)
        self._in_work[key] = None
        pace = self._refill(key)
        pace.tokens = max(0.0, pace.tokens - 1.0)
        if self._urgent or self._ordinary or self._timers:
            self._wake()  # this getter leaves: another has to look after what remains
        return key

    def _refill(self, key: K) -> _Pace:
        now = self._clock.monotonic()
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = _Pace(tokens=self._burst, at=now)
        pace.tokens = min(self._burst, pace.tokens + (now - pace.at) * self._rate)
        pace.at = now
        return pace

    def _pace_delay(self, key: K) -> float:
        missing = 1.0 - self._refill(key).tokens
        # Rounding must not let a key that has waited its time wait again for ever.
        return missing / self._rate if missing > 1e-6 else 0.0

    def _schedule(self, key: K, seconds: float) -> None:
        due = self._clock.monotonic() + seconds
        known = self._due.get(key)
        if known is None or due < known:
            self._due[key] = due
            heapq.heappush(self._timers, (due, next(self._sequence), key))
            self._wake()

    def _release_due(self) -> float | None:
        """Move what is due to the ready keys; the time of the next one, if any."""
        now = self._clock.monotonic()
        while self._timers:
            due, _, key = self._timers[0]
            if self._due.get(key) != due:  # superseded by an earlier wish, or dropped
                heapq.heappop(self._timers)
            elif due <= now:
                heapq.heappop(self._timers)
                del self._due[key]
                self.add(key)
            else:
                return due
        return None

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    async def _wait(self, next_due: float | None) -> None:
        """Until something was added or the next timer is due."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._getters.append(woken)
        timer: asyncio.Task[None] | None = None
        if next_due is not None:
            timer = asyncio.create_task(self._clock.sleep(next_due - self._clock.monotonic()))
        try:
            waits = (woken,) if timer is None else (woken, timer)
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._wake()  # it may have been chosen, or be the only one that knew of the timer
            raise
        finally:
            woken.cancel()
            if timer is not None:
                timer.cancel()
