"""An operator that ends, by its own hand and without warning, at chosen points of a failover.

    python -m tests.harness.crashing --cluster NAMESPACE/NAME [--kill-each FILE | --stop-at 'before SwitchPrimary']

Points are passed before and after each status write and each effect, from the write that opens a failover of that
cluster to the one that closes it, be it by rolling it back, and to the end of each effect that is under way then. With --kill-each the operator kills itself at the first
point at which none has died yet, and not beside an effect of TO_BE_ENDED whose end is such a point; the next one, started at once, goes on with that failover, dies at the next such
point, and so on until a failover comes to its end. FILE remembers the points. With --stop-at it stops itself once.
stdout tells `loaded` (it looks after the cluster), each point, `stopping`, `killed`, and `failover over`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mariadb_operator.cli import app
from mariadb_operator.controllers.performer import Performer
from mariadb_operator.controllers.statuses import StatusWriter
from statemachines.states import FAILING_OVER, STEADY
from tests.harness.processes import die_with_parent

TO_BE_ENDED = ("SwitchPrimary", "OpenPrimary")


class Points:
    """Knows which points are passed, and ends the process at one of them."""

    def __init__(self, *, deaths: Path | None, stop_at: str) -> None:
        self._deaths = deaths
        self._stop_at = stop_at
        self._open = False
        self._under_way: dict[object, str] = {}
        self._last: set[object] = set()  # under way when the failover was closed

    def load(self, state: object) -> None:
        """The cluster was taken over in this state."""
        self.enter(state)
        say("loaded")

    def enter(self, state: object) -> None:
        """A failover may be under way from here on."""
        if state in FAILING_OVER:
            self._open = True
            self._last.clear()  # the one before was not over

    def leave(self, state: object) -> None:
        """A failover that ends in a steady state is over."""
        if self._open and state in STEADY and not self._last:
            self._last = set(self._under_way)
            self._close()

    def _close(self) -> None:
        if not self._last:
            self._open = False
            say("failover over")

    def passed(self, what: str) -> None:
        """One point."""
        if not self._open:
            return
        say(f"point {what}")
        if self._deaths is not None:
            died = {*self._deaths.read_text().splitlines()}
            # Dying beside such an effect may leave nothing of it to do for the next one, which then never ends it.
            unended = any(
                effect in TO_BE_ENDED and f"after {effect}" not in died for effect in self._under_way.values()
            )
            if what not in died and not unended:
                with self._deaths.open("a") as deaths:
                    deaths.write(f"{what}\n")
                os.kill(os.getpid(), signal.SIGKILL)
        if self._stop_at and what == self._stop_at:
            self._stop_at = ""
            say("stopping")
            os.kill(os.getpid(), signal.SIGSTOP)

    @contextmanager
    def around(self, effect: str) -> Iterator[None]:
        """The points before and after an effect; one that fails has no point after it."""
        self.passed(f"before {effect}")
        this = object()
        self._under_way[this] = effect
        try:
            yield
            del self._under_way[this]
            self.passed(f"after {effect}")
        finally:
            self._under_way.pop(this, None)
            if this in self._last:
                self._last.remove(this)
                self._close()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def install(points: Points, *, cluster: str) -> None:
    """Puts the points around the status writer and the effects of that cluster."""
    read, write, perform = StatusWriter.read, StatusWriter.write, Performer.perform

    def counted_read(self: StatusWriter, resource: Any) -> Any:
        record = read(self, resource)
        if f"{resource['metadata']['namespace']}/{resource['metadata']['name']}" == cluster:
            points.load(record.state)
        return record

    async def counted_write(self: StatusWriter, resource: Any, record: Any, *rest: Any, **named: Any) -> None:
        metadata = resource["metadata"]
        ours = f"{metadata['namespace']}/{metadata['name']}" == cluster
        if ours:
            points.enter(record.state)
            points.passed(f"before write {record.state}")
        await write(self, resource, record, *rest, **named)
        if ours:
            points.passed(f"after write {record.state}")
            points.leave(record.state)

    async def counted_perform(self: Performer, effect: Any) -> None:
        ours = f"{self._premises.owner.namespace}/{self._premises.owner.name}" == cluster
        with points.around(type(effect).__name__) if ours else nullcontext():
            await perform(self, effect)

    StatusWriter.read = counted_read  # type: ignore[method-assign]
    StatusWriter.write = counted_write  # type: ignore[method-assign]
    Performer.perform = counted_perform  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--kill-each", type=Path)
    parser.add_argument("--stop-at", default="")
    options = parser.parse_args()
    if options.kill_each is not None:
        options.kill_each.touch()
    while True:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            die_with_parent(parent)  # one that survives the tests would hold the Lease for ever
            install(Points(deaths=options.kill_each, stop_at=options.stop_at), cluster=options.cluster)
            app(["run"])
            return
        status = wait_for_end(child)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(os.waitstatus_to_exitcode(status))
        say("killed")


def wait_for_end(child: int) -> int:
    """The child's status when it has ended; SIGTERM is handed on to it."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return status


if __name__ == "__main__":
    main()
