"""One standing session per node sidecar, and what it says as facts.

That a session broke, or never came about, is a fact here and says nothing of the server. Not for what is asked of a
sidecar (act.sidecars) nor for what its word means (statemachines.detection).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from mariadb_operator.node.protocol import NodeState, Phase, Ping, Space, Verb, WatchEvent, Write
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.ssh.connection import Target
from mariadb_operator.ssh.session import Pace, SidecarSession
from statemachines.facts import Process, SalvagedFact, SidecarFact, Writing
from statemachines.gtid import Position

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 1.0  # at most between two attempts: a server may wait for its permit

_SALVAGE = {Verb.TAIL, Verb.STORE, Verb.GIVE}
_ANSWERS = {Ping.ANSWERS: True, Ping.PRESENT: True, Ping.REFUSES: False, Ping.SILENT: False}
_WRITING = {Write.DONE: Writing.WORKS, Write.FAILED: Writing.READ_ONLY, Write.STALLED: Writing.STALLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTarget:
    """The sidecar of a Pod."""

    target: Target
    pod_uid: str


class InstanceSidecar:
    """The sidecar of one instance; run `run()` as an owned task. `changed` is called when its word is news."""

    def __init__(
        self,
        instance: str,
        *,
        target: Callable[[], PodTarget | None],
        changed: Callable[[], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`target` gives the present Pod's sidecar, or None while there is none."""
        self.instance = instance
        self.word: SidecarFact | None = None
        self._find = target
        self._changed = changed
        self._pod_uid = ""
        self._free = False
        self._can_salvage = False
        self._unsalvageable = ""  # the start of the server whose logs can't give what is missing
        self.session = SidecarSession(
            target=self._target, listener=self, clock=clock, rng=rng, pace=Pace(limit=RECONNECT_SECONDS)
        )

    async def run(self) -> NoReturn:
        """Listen for ever."""
        await self.session.run()

    def note_pod(self) -> None:
        """The Pod changed: a session with the one before is of no use."""
        found = self._find()
        if self._pod_uid and (found is None or found.pod_uid != self._pod_uid):
            self.session.reconnect()

    def event(self, event: WatchEvent, *, at: float) -> None:
        """A line of the watch."""
        before = self.word
        if event.greeting is not None:
            self._can_salvage = set(event.greeting.verbs) >= _SALVAGE
        if event.state is not None:
            found = fact(event.state, before=before, pod_uid=self._pod_uid, at=at)
            self._free = self._free and found.held and found.process is not Process.RUNNING
            self.word = replace(found, free=self._free, salvages=self._salvages(found.incarnation))
        elif before is not None:
            self.word = replace(before, at=at)
        if self.word is not None and (before is None or self.word != replace(before, at=at)):
            self._changed()

    def note_fence(self, *, pod_uid: str, freed: bool) -> None:
        """A fence was answered by the sidecar of that Pod: whether nothing has the volume."""
        word = self.word
        if word is None or word.pod_uid != pod_uid or word.process is Process.RUNNING:
            return
        self._free = freed
        if word.free is not freed:
            self.word = replace(word, free=freed)
            self._changed()

    def note_unsalvageable(self, incarnation: str) -> None:
        """The logs of that start of the server were asked for, and can't give what is missing."""
        self._unsalvageable = incarnation
        word = self.word
        if word is not None and word.salvages is not self._salvages(word.incarnation):
            self.word = replace(word, salvages=self._salvages(word.incarnation))
            self._changed()

    def _salvages(self, incarnation: str) -> bool:
        return self._can_salvage and (not incarnation or incarnation != self._unsalvageable)

    def lost(self, reason: OperatorError, *, at: float) -> None:  # noqa: ARG002 - the last word keeps its own time
        """There is no session."""
        if self.word is not None and self.word.connected:
            logger.info("instance %s: its sidecar is out of reach: %s", self.instance, reason)
            self._free = False
            self.word = replace(self.word, connected=False, free=False)
            self._changed()

    def _target(self) -> Target | None:
        found = self._find()
        self._pod_uid = found.pod_uid if found is not None else ""
        return found.target if found is not None else None


def fact(state: NodeState, *, before: SidecarFact | None, pod_uid: str, at: float) -> SidecarFact:
    """What a sidecar knows. Spans are counted from when we first heard of what they are about."""
    process, incarnation = _process(state)
    answers = _ANSWERS.get(state.probes.ping)
    writing = _writing(state)
    known = before if before is not None and before.connected else None
    return SidecarFact(
        at=at,
        connected=True,
        pod_uid=pod_uid,
        process=process,
        incarnation=incarnation,
        held=state.ledger.fenced,
        waiting=state.gate.incarnation
        if state.gate is not None and state.gate.phase is Phase.WAITING
        else "",
        salvaged=_salvaged(state),
        answers=answers,
        answers_since=known.answers_since if known is not None and known.answers is answers else at,
        writing=writing,
        writing_since=known.writing_since if known is not None and known.writing is writing else at,
    )


def _salvaged(state: NodeState) -> SalvagedFact | None:
    found = state.salvaged
    if found is None:
        return None
    return SalvagedFact(
        operation=found.operation, after=Position.parse(found.after), upto=Position.parse(found.upto)
    )


def _process(state: NodeState) -> tuple[Process, str]:
    """The supervisor's word of whom it reaped is the newer one: the sidecar may have been away."""
    if state.server is not None:
        return Process.RUNNING, state.server.incarnation
    if state.gate is not None and state.gate.ended:
        return Process.ENDED, state.gate.ended
    if state.death is not None:
        return Process.ENDED, state.death.incarnation
    return Process.UNKNOWN, ""


def _writing(state: NodeState) -> Writing:
    found = _WRITING.get(state.probes.write, Writing.UNKNOWN)
    if found in (Writing.READ_ONLY, Writing.STALLED) and state.probes.space is Space.NONE:
        return Writing.DISK_FULL
    return found
