"""Runs effects: never two on one instance at once, each bounded, and a lost one holds its place until it is settled.

Whether an effect worked is told by later facts, so its end only wakes the cluster. Not for choosing effects (plan) nor
for what they do (sql.py, kubernetes.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.sql.errors import StatementLost
from statemachines import effects as e
from statemachines.effects import Effect

logger = logging.getLogger(__name__)

SPACING_SECONDS = 0.01
SETTLE_SECONDS = 0.2
EFFECT_SECONDS = 30.0
LONG_SECONDS = 900.0  # effects that wait for an acknowledgement, or for data, hold nothing up but themselves

STATEMENT_LANE = "sql"

Perform = Callable[[Effect], Awaitable[None]]
Settle = Callable[[str, StatementLost], Awaitable[bool]]
Failed = Callable[[Effect, Exception], None]

_ON_PODS = (e.EnsureInstance, e.DeletePod, e.DeleteVolume)
_WAITING = (e.WriteEpoch, e.ProveAcknowledgement, e.KeepApplication)
_LONG = (*_WAITING, e.Salvage, e.ApplySalvaged)  # these cost what is missing
_ON_SIDECARS = (e.FenceServer, e.PermitServer, e.Salvage)
_GLOBAL = (e.SwitchPrimary, e.SetReplicaEndpoints, e.ProbeNow, e.Release)
# What makes Secrets and the like is one thing at a time: each writes on top of what it has read.
_ON_OBJECTS = (e.EnsureObjects, e.Certify)


def lane(effect: Effect) -> str:
    """What an effect occupies: two of one lane never run at once."""
    if isinstance(effect, _ON_OBJECTS):
        return "objects"
    if isinstance(effect, _GLOBAL):
        return type(effect).__name__
    if isinstance(effect, _ON_PODS):
        return f"pod {effect.instance}"
    if isinstance(effect, _ON_SIDECARS):
        return f"sidecar {effect.instance}"
    if isinstance(effect, _WAITING):
        return f"write {effect.instance}"
    return f"{STATEMENT_LANE} {effect.instance}"


class EffectRunner:
    """Starts effects of one cluster in a TaskGroup of its owner."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        *,
        perform: Perform,
        settle: Settle,
        interrupted: Callable[[str], StatementLost | None],
        ended: Callable[[], None],
        failed: Failed,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`ended` wakes the cluster; `settle(instance, lost)` says whether a lost statement runs no more.

        `interrupted(instance)` gives the statement that a deadline cut off there, if it did.
        """
        self._group = group
        self._perform = perform
        self._settle = settle
        self._interrupted = interrupted
        self._ended = ended
        self._failed = failed
        self._clock = clock
        self._rng = rng
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[Effect, float] = {}
        self._backoffs: dict[Effect, Backoff] = {}

    def busy(self, instance: str) -> bool:
        """Whether a statement of ours is under way on the instance, or was lost and may still run."""
        return f"{STATEMENT_LANE} {instance}" in self._lanes

    def start(self, effects: tuple[Effect, ...]) -> float | None:
        """Start what can be started. Returns in how many seconds something waiting for its back-off is due."""
        now = self._clock.monotonic()
        due: float | None = None
        wanted = set(effects)
        for known in [
            each for each in self._not_before if each not in wanted and self._not_before[each] <= now
        ]:
            self._not_before.pop(known)
            self._backoffs.pop(known, None)
        for effect in effects:
            if lane(effect) in self._lanes:
                continue
            wait = self._not_before.get(effect, now) - now
            if wait > 0:
                due = wait if due is None else min(due, wait)
                continue
            self._start(effect)
        return due

    def _start(self, effect: Effect) -> None:
        occupied = lane(effect)
        task = self._group.create_task(self._run(effect), name=f"{occupied}: {type(effect).__name__}")
        self._lanes[occupied] = task
        task.add_done_callback(lambda done: self._free(occupied, done))

    def _free(self, occupied: str, done: asyncio.Task[None], *, wake: bool = True) -> None:
        if self._lanes.get(occupied) is done:
            del self._lanes[occupied]
        if wake and not done.cancelled():
            self._ended()

    async def _run(self, effect: Effect) -> None:
        try:
            async with asyncio.timeout(LONG_SECONDS if isinstance(effect, _LONG) else EFFECT_SECONDS):
                await self._perform(effect)
        except StatementLost as error:
            self._note(effect, error)
            await self._hold(effect, error)
        except TimeoutError as error:
            self._note(effect, error)
            await self._hold(effect, None)
        except (OperatorError, OSError) as error:
            self._note(effect, error)
        except Exception as error:  # a bug in one effect must not end the others
            logger.exception("%s failed", effect)
            self._note(effect, error)
            await self._hold(effect, None)
        else:
            self._backoffs.pop(effect, None)
            self._not_before[effect] = self._clock.monotonic() + SPACING_SECONDS

    async def _hold(self, effect: Effect, lost: StatementLost | None) -> None:
        """Until the lost statement's session is seen gone: nothing else is sent to that server meanwhile."""
        occupied, _, instance = lane(effect).partition(" ")
        if occupied != STATEMENT_LANE:
            return
        lost = lost if lost is not None else self._interrupted(instance)
        while lost is not None and not await self._settle(instance, lost):
            await self._clock.sleep(SETTLE_SECONDS)

    def _note(self, effect: Effect, error: Exception) -> None:
        backoff = self._backoffs.setdefault(effect, Backoff(base=0.1, limit=10.0, rng=self._rng))
        delay = backoff.next()
        self._not_before[effect] = self._clock.monotonic() + delay
        logger.warning("%s: %s: %s; again in %.1f s", effect, type(error).__name__, error, delay)
        self._failed(effect, error)

    def retry_now(self, effect: Effect) -> None:
        """What made it fail may be mended: forget its back-off."""
        self._not_before.pop(effect, None)
        self._backoffs.pop(effect, None)

    def aside(self, name: str, make: Callable[[], Awaitable[object]]) -> None:
        """Run something that changes no role nor durability, unless that of this lane runs already."""
        if name in self._lanes:
            return
        task = self._group.create_task(self._aside(name, make), name=name)
        self._lanes[name] = task
        task.add_done_callback(lambda done: self._free(name, done, wake=False))

    async def _aside(self, name: str, make: Callable[[], Awaitable[object]]) -> None:
        try:
            await make()
        except OperatorError as error:
            logger.info("%s: not yet: %s", name, error)
        except Exception:  # a bug beside the effects must not end them
            logger.exception("%s failed", name)
