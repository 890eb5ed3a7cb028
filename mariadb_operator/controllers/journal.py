"""Events: one per transition, under a name made of its number, so that it exists exactly once; and one per problem.

Written after the status, never awaited by it. What could not be written is written again when the cluster is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from collections import deque

from mariadb_operator.controllers.report import is_warning, sentence, warnings
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.events import EventNotWritten, EventType, Involved, record
from mariadb_operator.kube.kinds import Manifest
from mariadb_operator.runtime.clock import Clock
from statemachines.record import Record, Situation

logger = logging.getLogger(__name__)

REPLAYED = 8  # entries of the history whose Events are made sure of by a new leader
REMEMBERED = 256
HELD_SECONDS = 2.0  # at most: a failover under way does not share the API server with its own Events


class Journal:
    """The Events of one cluster, in a task of their own, in order."""

    def __init__(
        self, group: asyncio.TaskGroup, client: KubeClient, *, clock: Clock, rng: random.Random, reporter: str
    ) -> None:
        self._client = client
        self._clock = clock
        self._rng = rng
        self._reporter = reporter
        self._queue: asyncio.Queue[tuple[Involved, str, str, str, EventType]] = asyncio.Queue()
        self._known: deque[str] = deque(maxlen=REMEMBERED)
        self._free = asyncio.Event()
        self._free.set()
        group.create_task(self._run(), name="journal")

    def hold(self, held: bool) -> None:
        """Whether Events should wait for a moment."""
        if held:
            self._free.clear()
        else:
            self._free.set()

    def replay(self, resource: Manifest, loaded: Record) -> None:
        """Make sure of the latest transitions' Events: an earlier leader may have died between status and Event."""
        self._transitions(resource, loaded)

    def note(self, resource: Manifest, written: Record, situation: Situation) -> None:
        """The status was written: tell what is new in it."""
        self._transitions(resource, written)
        self._problems(resource, situation)

    def _transitions(self, resource: Manifest, written: Record) -> None:
        involved = Involved.of(resource)
        for entry in written.history[-REPLAYED:]:
            kind = EventType.WARNING if is_warning(entry) else EventType.NORMAL
            name = f"{involved.name}.{involved.uid[:8]}.{entry.sequence}"
            self._put(involved, name, _reason(entry.target.value), sentence(entry), kind)

    def _problems(self, resource: Manifest, situation: Situation) -> None:
        """What a user did, or has to do: an Event per text, warning."""
        involved = Involved.of(resource)
        found: list[tuple[str, str]] = []
        if situation.snapshot.problem:
            found.append((situation.snapshot.problem_reason, situation.snapshot.problem))
        if situation.record.message:
            found.append((situation.record.state.top, situation.record.message))
        found += warnings(situation)
        found += [
            ("InstanceKeptOut", f"{m.name}: {m.kept_out}") for m in situation.record.members if m.kept_out
        ]
        status = resource.get("status") or {}
        found += [
            (condition["reason"], condition["message"])
            for condition in status.get("conditions") or []
            if condition.get("status") == "False" and condition.get("type") in ("Ready", "ReplicationHealthy")
            if condition.get("reason") in _TOLD
        ]
        for reason, text in found:
            digest = hashlib.sha256(f"{reason} {text}".encode()).hexdigest()[:10]
            name = f"{involved.name}.{involved.uid[:8]}.{digest}"
            self._put(involved, name, _reason(reason), text, EventType.WARNING)

    def _put(self, involved: Involved, name: str, reason: str, message: str, kind: EventType) -> None:
        if name not in self._known:
            self._known.append(name)
            self._queue.put_nowait((involved, name, reason, message, kind))

    async def _run(self) -> None:
        while True:
            involved, name, reason, message, kind = await self._queue.get()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HELD_SECONDS):
                    await self._free.wait()
            try:
                await record(
                    self._client,
                    involved=involved,
                    name=name,
                    reason=reason,
                    message=message,
                    type=kind,
                    clock=self._clock,
                    rng=self._rng,
                    instance=self._reporter,
                )
            except EventNotWritten:
                if name in self._known:
                    self._known.remove(name)  # told again with the next status


_TOLD = frozenset({
    "ConfigurationRejected",
    "ImageHasNoMariadbd",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerError",
    "RunContainerError",
    "Unschedulable",
    "BinlogPurged",
    "ApplierFailed",
    "GuaranteeVoid",
    "ServerNotStarted",
})  # fmt: skip


def _reason(text: str) -> str:
    return text.replace("_", "")
