"""A small event loop on virtual time, in which processes can be frozen, killed, and killed at their n-th step.

A process is known by a context variable: every task, timer and callback that it makes inherits it. What belongs to a
frozen process waits in its backlog; what belongs to a dead one never runs, not even its `finally`. Not for sockets,
threads or signals: the world has none.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
RUNNING, COUNTED, FROZEN, DEAD = range(4)


class Process:
    """One process of the simulated world; `host` is the machine it runs on."""

    __slots__ = ("backlog", "countdown", "host", "mode", "name", "on_countdown", "world")

    def __init__(self, name: str, *, host: str, world: Any = None) -> None:
        self.name = name
        self.host = host
        self.world = world
        self.mode = RUNNING
        self.backlog: list[Handle] = []
        self.countdown = 0
        self.on_countdown: Callable[[], None] = lambda: None

    def kill_after(self, steps: int, then: Callable[[], None]) -> None:
        """Call `then`, which kills it, when it has made so many steps more: at whatever await that is."""
        if self.mode == RUNNING:
            self.mode, self.countdown, self.on_countdown = COUNTED, steps, then


WORLD = Process("world", host="world")
_CURRENT: contextvars.ContextVar[Process] = contextvars.ContextVar("process", default=WORLD)


def current_process() -> Process:
    return _CURRENT.get()


class Handle:
    """A callback that waits for its turn; what asyncio cancels."""

    __slots__ = ("args", "callback", "context")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class Timer(Handle):
    """A handle with a time, as asyncio.timeout wants it."""

    __slots__ = ("_when",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        super().__init__(callback, args, context)
        self._when = when

    def when(self) -> float:
        return self._when


class NothingLeft(Exception):
    """Nothing will ever happen again, and what was waited for has not."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Runs what is ready, then lets time jump to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.errors: list[BaseException] = []
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._sequence = 0
        self._plain = contextvars.Context()  # of what the world itself does
        self._tasks: list[asyncio.Task[Any]] = []  # nobody else may hold those of a dead process
        self._most_tasks = 256
        self._processes: list[Process] = []

    # --- what asyncio asks for ---

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_: Any,
    ) -> asyncio.Task[T]:
        return self._keep(asyncio.Task(coro, loop=self, name=name, context=context))

    def _keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.append(task)
        if len(self._tasks) > self._most_tasks:
            self._tasks = [each for each in self._tasks if not each.done()]
            self._most_tasks = max(256, 2 * len(self._tasks))
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Timer:
        timer = Timer(when, callback, args, contextvars.copy_context() if context is None else context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Timer:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A task whose error nobody fetched: a bug of ours, shown at the end of the run."""
        error = context.get("exception")
        if isinstance(error, BaseException) and isinstance(context.get("future"), asyncio.Task):
            self.errors.append(error)

    # --- processes ---

    def in_world(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Something that the world does, whoever asks for it."""
        return self.call_at(self.now + delay, callback, *args, context=self._plain)

    def spawn(
        self, process: Process, coro: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        """Start a task that belongs to that process."""
        context = contextvars.Context()
        context.run(_CURRENT.set, process)
        self._processes.append(process)
        return self._keep(asyncio.Task(coro, loop=self, name=name, context=context))

    def thaw(self, process: Process) -> None:
        """A frozen process goes on with all that has become due meanwhile."""
        if process.mode == FROZEN:
            process.mode = RUNNING
            self._ready.extend(process.backlog)
            process.backlog.clear()

    # --- running ---

    def run(self, main: asyncio.Task[T]) -> T:
        """Until that task is done."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            self._run(main)
        finally:
            events._set_running_loop(before)
        return main.result()

    def end(self) -> None:
        """Cancel whatever there is, also of the dead, and let it come to its end."""

        async def last() -> None:
            me = asyncio.current_task()
            for _ in range(100):
                left = [each for each in self._tasks if not each.done() and each is not me]
                if not left:
                    return
                for task in left:
                    task.cancel()
                await asyncio.sleep(1.0)

        self._timers.clear()
        for process in self._processes:
            process.mode = RUNNING
            self._ready.extend(process.backlog)  # a task whose step was dropped could not even be cancelled
            process.backlog.clear()
        self.run(self.spawn(Process("end", host="end"), last()))
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()

    def _run(self, main: asyncio.Task[Any]) -> None:
        ready, timers = self._ready, self._timers
        while not main.done():
            if not ready:
                if not timers:
                    raise NothingLeft
                when, _, handle = heapq.heappop(timers)
                if handle.callback is None:
                    continue
                if when > self.now:
                    self.now = when
            else:
                handle = ready.popleft()
            callback = handle.callback
            if callback is None:
                continue
            process = handle.context.get(_CURRENT, WORLD)
            if process.mode != RUNNING and not self._may_step(process, handle):
                continue
            self.steps += 1
            handle.context.run(callback, *handle.args)

    def _may_step(self, process: Process, handle: Handle) -> bool:
        if process.mode != COUNTED:
            process.backlog.append(handle)
            return False
        process.countdown -= 1
        if process.countdown > 0:
            return True
        process.mode = RUNNING
        process.on_countdown()
        return self._may_step(process, handle) if process.mode != RUNNING else True
