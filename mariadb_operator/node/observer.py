"""All that a sidecar knows, kept up to date by what happens: the supervisor's word, the server's threads, the probes.

Whoever wants to hear of changes is called at once, from the event loop. Not for requests (verbs.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mariadb_operator.node import processes
from mariadb_operator.node.gate import Announcement, Gate
from mariadb_operator.node.probes import Limits, Pace, Probes
from mariadb_operator.node.processes import Death, DeathWatch, ServerProcess
from mariadb_operator.node.protocol import DeathState, GateState, Phase, ProbeState, ServerState
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.sql.connection import LocalEndpoint

logger = logging.getLogger(__name__)

# A server that was just forked is still the supervisor's shell: it becomes mariadbd within milliseconds.
_EXEC_LOOKS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.05, 0.1, 0.2, 0.5, 1.0)
_TICKS = os.sysconf("SC_CLK_TCK")


class Observer:
    """Watches one server. `hold` says whether no server may live here: one that starts nevertheless is killed."""

    def __init__(
        self,
        *,
        gate: Gate,
        data: Path,
        endpoint: Callable[[], LocalEndpoint],
        hold: Callable[[], bool],
        clock: Clock,
        pace: Pace,
        limits: Limits,
    ) -> None:
        self.death: DeathState | None = None
        self._gate = gate
        self._data = data
        self._hold = hold
        self._clock = clock
        self._server: ServerState | None = None
        self._watch: DeathWatch | None = None
        self._listeners: dict[Callable[[], None], None] = {}  # called in this order
        self._changed = asyncio.Event()
        self._probes = Probes(
            endpoint,
            volume=data.parent,
            changed=self.notify,
            answered=self._answered,
            pace=pace,
            limits=limits,
        )

    @property
    def server(self) -> ServerState | None:
        """The mariadbd that lives, if one is known to."""
        return self._server

    @property
    def gate(self) -> GateState | None:
        """What the supervisor announced last."""
        said = self._gate.announcement()
        if said is None:
            return None
        used = self._gate.used
        # A supervisor that is new has seen no end (-1), and the server of the one before may live on.
        over = said.code != -1 and (said.phase in (Phase.ENDED, Phase.LEFT) or used != said.incarnation)
        return GateState(
            phase=said.phase, incarnation=said.incarnation, ended=used if over else "", code=said.code
        )

    @property
    def probes(self) -> ProbeState:
        """What the local probes found."""
        return self._probes.state

    async def run(self) -> NoReturn:
        """Watch for ever."""
        self._gate.open(self._announced)
        try:
            for process in processes.find(self._data, uid=os.getuid()):
                self._adopt(process)
            self._announced()
            await self._probes.run()
        finally:
            self._gate.close()
            if self._watch is not None:
                self._watch.close()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call it at each change, until the function that is returned is called."""
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def notify(self) -> None:
        """Something is another than before."""
        self._changed.set()
        for listener in tuple(self._listeners):
            listener()

    async def change(self, *, timeout: float) -> None:
        """Return at the next change, or when the time is over."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    def kill(self) -> None:
        """SIGKILL to the server that lives."""
        if self._watch is not None:
            self._watch.kill()

    def _announced(self) -> None:
        said = self._gate.announcement()
        if said is not None and said.phase is Phase.RUNNING:
            self._look_for(said, _EXEC_LOOKS)
        self.notify()

    def _look_for(self, said: Announcement, again: tuple[float, ...]) -> None:
        if said != self._gate.announcement() or (
            self._watch is not None and self._watch.process.incarnation == said.incarnation
        ):
            return
        process = processes.identify(said.pid, data=self._data, uid=os.getuid())
        if process is not None and process.incarnation == said.incarnation:
            self._adopt(process)
        elif again:
            asyncio.get_running_loop().call_later(again[0], self._look_for, said, again[1:])
        else:
            logger.warning("no mariadbd is process %d, as was announced", said.pid)

    def _adopt(self, process: ServerProcess) -> None:
        if self._watch is not None:
            self._watch.close()
        try:
            self._watch = DeathWatch(process, died=self._died, gone=self.notify, clock=self._clock)
        except ProcessLookupError:
            self._watch = None
            return
        self._server = ServerState(
            incarnation=process.incarnation,
            pid=process.pid,
            started_at=process.started / _TICKS,
            seen_at=self._clock.monotonic(),
        )
        logger.info("server %s lives, process %d", process.incarnation, process.pid)
        self._watch.watch_threads()
        self._probes.server_started()
        self.notify()
        if self._hold():
            logger.warning("server %s was started where none may live: killing it", process.incarnation)
            self._watch.kill()

    def _answered(self) -> None:
        # All that it has are there by now.
        if self._watch is not None:
            self._watch.watch_threads()

    def _died(self, death: Death) -> None:
        self._server = None
        self.death = DeathState(
            incarnation=death.process.incarnation,
            pid=death.process.pid,
            started_at=death.process.started / _TICKS,
            at=death.at,
            sign=death.sign,
        )
        # Told first of all.
        self.notify()
        logger.warning("server %s died, known by %s", death.process.incarnation, death.sign.value)
        self._probes.server_died()
