"""Background tasks with an owner: one per key, restarted when it crashes, stopped by name.

For work that stands beside the passes, such as one probe per instance. Not for one-off work: that
belongs straight into a TaskGroup.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import Clock

K = TypeVar("K", bound=Hashable)

logger = logging.getLogger(__name__)


class TaskOwner(Generic[K]):
    """Starts, restarts and stops keyed tasks within the caller's TaskGroup.

    A task that raises is logged with its traceback, reported to `on_crash` and started again after a
    back-off; one that returns is finished. Cancelling the group cancels them all.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        *,
        clock: Clock,
        rng: random.Random,
        on_crash: Callable[[K, Exception], None] | None = None,
        base_delay: float = 0.5,
        max_delay: float = 30.0,
    ) -> None:
        """`base_delay` and `max_delay` in seconds; a run longer than `max_delay` resets the back-off."""
        self._group = group
        self._clock = clock
        self._rng = rng
        self._on_crash = on_crash
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._tasks: dict[K, asyncio.Task[None]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._tasks

    def keys(self) -> frozenset[K]:
        """The keys whose task runs or waits to be restarted."""
        return frozenset(self._tasks)

    def start(self, key: K, factory: Callable[[], Awaitable[None]]) -> bool:
        """Run what the factory makes, again after each crash; False if the key has a task already."""
        if key in self._tasks:
            return False
        task = self._group.create_task(self._supervise(key, factory), name=f"owned {key!r}")
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._ended(key, ended))
        return True

    async def stop(self, key: K) -> None:
        """Cancel the key's task and wait until it ended; nothing happens when there is none."""
        task = self._tasks.get(key)
        if task is None:
            return
        task.cancel()
        if task is not asyncio.current_task():
            # wait() rather than await: the task's own end is not ours, our own cancellation is.
            await asyncio.wait((task,))

    async def _supervise(self, key: K, factory: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(base=self._base_delay, limit=self._max_delay, rng=self._rng)
        while True:
            started = self._clock.monotonic()
            try:
                await factory()
            except Exception as error:
                if self._clock.monotonic() - started > self._max_delay:
                    backoff.reset()
                delay = backoff.next()
                logger.exception("task %r crashed, again in %.1f s", key, delay)
                if self._on_crash is not None:
                    self._on_crash(key, error)
                await self._clock.sleep(delay)
            else:
                return

    def _ended(self, key: K, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is ended:
            del self._tasks[key]
