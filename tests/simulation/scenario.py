"""One seed: a cluster is made, broken round after round, mended, and has to come back; the judge sees all of it.

Everything follows from the seed, so a seed that fails fails again. Not for many seeds (__main__.py).
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.faults import DEADLY, FAULTS, Fault, mend
from tests.simulation.judge import Counts, Violation
from tests.simulation.loop import WORLD, NothingLeft
from tests.simulation.operators import installed
from tests.simulation.people import ailing, lost, repair
from tests.simulation.world import Shape, World

ROUNDS = 40
FIXED_SECONDS = 30.0  # at most that a round lasts whose faults are given
PLAIN_ODDS = 0.7  # of a round that it has one deadly fault and at most one other
GIVEN_PLAIN_ODDS = 0.6  # the same where faults are given
UNMENDED_ODDS = 0.75  # of a round that the next one begins before all is mended
BUSY_PAUSE = 0.15  # of a client between two rows, while something breaks
DEADLY_ODDS = 0.8  # of a round that its faults include one that ends the primary
PROVISIONING_SECONDS = 120.0
SETTLING_SECONDS = 180.0
LOOK_SECONDS = 0.25


@dataclass(slots=True)
class Result:
    """What came of one seed."""

    seed: int
    shape: Shape
    violation: str = ""
    bug: BaseException | None = None  # the operator's, or the model's
    reasons: Counter[str] = field(default_factory=Counter)
    counts: Counts = field(default_factory=Counts)
    virtual_seconds: float = 0.0
    steps: int = 0
    story: list[tuple[float, str]] = field(default_factory=list)
    outages: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be fixed; None: as the seed has it."""

    rounds: int = ROUNDS
    faults: Sequence[Fault] | None = None
    shape: Shape | None = None


def shape_of(rng: random.Random) -> Shape:
    replicas = rng.choices((2, 3, 5), weights=(1, 10, 1))[0]
    return Shape(
        replicas=replicas,
        guaranteed=replicas > 2 and rng.random() < 0.4,
        promote=rng.random() < 0.2,
        degrade_after=rng.choice((1, 3, 10)),
        operators=rng.choice((1, 2, 2)),
        clients=rng.choice((1, 2, 2, 3)),
        pause=rng.choice((0.3, 1.0, 2.0)),
        drivers_kill=rng.random() < 0.3,
        spare_nodes=rng.choice((0, 1, 2)),
        delete_volumes=rng.random() < 0.5,
        neighbours=rng.random() < 0.25,
    )


class Scenario:
    """The course of one seed."""

    def __init__(self, seed: int, options: Options) -> None:
        self.rng = random.Random(f"scenario {seed}")
        self.options = options
        shape = options.shape if options.shape is not None else shape_of(self.rng)
        self.world = World(seed, shape)
        self.result = Result(seed, shape, counts=self.world.judge.counts, story=self.world.story)

    async def play(self) -> None:
        await self._settle(PROVISIONING_SECONDS)
        for number in range(1, self.options.rounds + 1):
            self._hurry(BUSY_PAUSE)
            await self._break()
            if number < self.options.rounds and self.rng.random() < UNMENDED_ODDS:
                await self._breathe()
                continue
            mend(self.world)
            self._hurry(self.world.shape.pause)
            if not await self._come_back():
                return

    def _hurry(self, pause: float) -> None:
        """Clients write more while something breaks: what is quiet needs no rows."""
        for client in self.world.clients:
            client.pause = pause

    async def _breathe(self) -> None:
        """A moment, or until somebody can be written to again: the next faults meet a cluster that is not whole."""
        world = self.world
        until = world.loop.now + self.rng.uniform(0.1, 4.0)
        since = world.loop.now
        while world.loop.now < until and not self._settled(since):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(LOOK_SECONDS)

    async def _break(self) -> None:
        """Some faults, at instants that lie close together more often than not."""
        world, rng = self.world, self.rng
        kinds = list(self.options.faults or FAULTS)
        weights = [FAULTS.get(each, 1) for each in kinds]
        plain = rng.random() < (PLAIN_ODDS if self.options.faults is None else GIVEN_PLAIN_ODDS)
        number = (
            rng.choices((0, 1), weights=(2, 1))[0]
            if plain
            else rng.choices((1, 2, 3, 4), weights=(4, 4, 2, 1))[0]
        )
        if self.options.faults is not None:
            number = rng.randint(1, len(kinds) + 1)
        chosen = rng.choices(kinds, weights=weights, k=number)
        if self.options.faults is None and (plain or rng.random() < DEADLY_ODDS):
            chosen.insert(rng.randint(0, len(chosen)), rng.choice(DEADLY))
        tasks: list[asyncio.Task[None]] = []
        for fault in chosen:
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0.0, 0.2), rng.uniform(0.0, 1.0))))
            tasks.append(world.loop.spawn(WORLD, fault(world)))  # type: ignore[arg-type]
        spans = ((0.05, 0.5),) if plain else ((0.05, 1.0), (0.5, 4.0), (4.0, 30.0))
        low, high = rng.choices(spans, weights=(5, 4, 1)[: len(spans)])[0]
        if self.options.faults is not None:
            high = FIXED_SECONDS
        await asyncio.wait(tasks, timeout=rng.uniform(low, high))
        for task in tasks:
            task.cancel()
        await asyncio.sleep(rng.choice((0.0, 0.0, rng.uniform(0.0, 1.0))))
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _come_back(self) -> bool:
        """Everything heals: the cluster serves again, by itself or after a person did what only a person does."""
        self.world.trace("everything is mended")
        await self._settle(SETTLING_SECONDS)
        if self._data_is_lost():
            return False
        for node, reason in ailing(self.world).items():
            self.result.reasons[reason] += 1
            repair(self.world, node)
        if ailing(self.world) or not self._healthy():
            await self._settle(SETTLING_SECONDS)
        return not self._data_is_lost()

    def _data_is_lost(self) -> bool:
        reason = lost(self.world)
        if reason is None:
            return False
        self.result.reasons[reason] += 1
        return True

    def _healthy(self) -> bool:
        return bool(self.world.judge.status.get("state") == "Healthy")

    async def _settle(self, seconds: float) -> None:
        """Until it is healthy and clients write, but for what a person has to repair."""
        world = self.world
        since = world.loop.now
        while not self._settled(since):
            if lost(world) is not None and world.loop.now - since > 60.0:
                return
            if world.loop.now - since > seconds:
                state = world.judge.status.get("state")
                raise Violation(f"7: {state} {seconds:.0f} s after the last fault, and nobody is waited for")
            await asyncio.sleep(LOOK_SECONDS)
        self.result.outages.append(world.loop.now - since)
        world.judge.check_settled()

    def _settled(self, since: float) -> bool:
        world = self.world
        primary = world.primary
        server = primary.server if primary is not None else None
        if server is None or server.read_only:
            return False
        sick = ailing(world)
        alone = len(sick) == len(world.members) - 1
        if alone and world.shape.guaranteed and server.waiting:
            return True  # its writes wait for a replica, as promised
        if server.waiting or not any(client.last_ok > since for client in world.clients):
            return False
        status = world.judge.status
        if status.get("state") == "Healthy":
            return True
        if not sick or status.get("state") not in ("Degraded", "Replicating") or status.get("operation"):
            return False
        others = [node for node in world.members if node is not primary and node not in sick]
        return all(
            node.server is not None and node.server.stream is not None and node.server.sql_running
            for node in others
        )


def play(seed: int, options: Options | None = None) -> Result:
    """Run one seed to its end, or to its violation."""
    gc.disable()  # everything of a world goes at once, when it ends
    try:
        return _play(seed, options)
    finally:
        gc.enable()


def _play(seed: int, options: Options | None) -> Result:
    scenario = Scenario(seed, options if options is not None else Options())
    world, result = scenario.world, scenario.result
    bugs = world.loop.errors
    with installed(bugs):
        try:
            world.loop.run(world.loop.spawn(WORLD, scenario.play()))
        except Violation as violation:
            result.violation = str(violation)
        except NothingLeft:
            result.violation = "7: nothing will ever happen again"
        finally:
            if bugs and not isinstance(bugs[0], Violation):
                result.violation = f"0: {type(bugs[0]).__name__}: {bugs[0]}"
                result.bug = bugs[0]
            result.virtual_seconds, result.steps = world.loop.now, world.loop.steps
            if result.violation:
                world.describe()
            world.loop.end()
    return result
