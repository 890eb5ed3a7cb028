"""Effects: one at a time per instance, and a statement without a reply holds its place until it is settled."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mariadb_operator.act.runner import EffectRunner, lane
from mariadb_operator.runtime.errors import Transient
from mariadb_operator.sql.errors import StatementLost
from statemachines import effects as e
from statemachines.gtid import Position
from tests.unit.virtual_time import VirtualClock, settle, virtual_time

START, STOP = e.StartReceiving("demo-1"), e.StopReceiving("demo-1")
OTHER = e.StopReceiving("demo-2")


class Bench:
    """A runner whose effects last, fail or get lost as a test says."""

    def __init__(self) -> None:
        self.begun: list[e.Effect] = []
        self.running: set[e.Effect] = set()
        self.seconds = 1.0
        self.error: BaseException | None = None
        self.settled = True
        self.asked: list[tuple[str, StatementLost]] = []
        self.cut: StatementLost | None = None
        self.ended = 0
        self.failures: list[tuple[e.Effect, str]] = []
        self.runner: EffectRunner

    @asynccontextmanager
    async def run(self) -> AsyncIterator[EffectRunner]:
        async with asyncio.TaskGroup() as group:
            self.runner = EffectRunner(
                group,
                perform=self._perform,
                settle=self._settle,
                interrupted=lambda _: self.cut,
                ended=self._ended,
                failed=lambda effect, error: self.failures.append((effect, type(error).__name__)),
                clock=VirtualClock(),
                rng=random.Random(1),
            )
            yield self.runner
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                if " " in task.get_name():
                    task.cancel()

    def _ended(self) -> None:
        self.ended += 1

    async def _perform(self, effect: e.Effect) -> None:
        self.begun.append(effect)
        self.running.add(effect)
        try:
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
        finally:
            self.running.discard(effect)

    async def _settle(self, instance: str, lost: StatementLost) -> bool:
        self.asked.append((instance, lost))
        return self.settled


def lost() -> StatementLost:
    return StatementLost("no reply", connection_id=4, incarnation="a")


@virtual_time
async def test_two_statements_never_run_on_one_instance_at_once_and_two_instances_do_not_wait() -> None:
    bench = Bench()
    async with bench.run() as runner:
        runner.start((START, STOP, OTHER))
        await settle()
        assert bench.running == {START, OTHER}
        assert runner.busy("demo-1")
        await asyncio.sleep(1.5)
        assert not runner.busy("demo-1")
        assert bench.ended == 2
        runner.start((STOP,))
        await settle()
        assert bench.running == {STOP}


def test_what_waits_for_an_acknowledgement_and_what_concerns_pods_has_lanes_of_its_own() -> None:
    effects = (
        START,
        e.WriteEpoch("demo-1", 2, "uid"),
        e.DeletePod("demo-1", "uid", 1, "why"),
        e.SwitchPrimary("demo-1", "10.0.0.1", 2),
        e.EnsureObjects(),
    )
    assert len({lane(each) for each in effects}) == len(effects)
    assert lane(e.Equalise("demo-1", Position(), ())) == lane(START)


@virtual_time
async def test_a_lost_statement_holds_its_instance_until_its_session_is_seen_gone() -> None:
    bench = Bench()
    bench.error, bench.settled = lost(), False
    async with bench.run() as runner:
        runner.start((START,))
        await asyncio.sleep(30)
        assert runner.busy("demo-1")
        runner.start((STOP,))
        await settle()
        assert bench.begun == [START], "something was sent after a statement that may still run"
        bench.settled = True
        await asyncio.sleep(1)
        assert not runner.busy("demo-1")
    assert {instance for instance, _ in bench.asked} == {"demo-1"}


@pytest.mark.parametrize("by_effect", [True, False])
@virtual_time
async def test_a_statement_that_a_deadline_cut_off_counts_as_lost(by_effect: bool) -> None:
    bench = Bench()
    bench.cut, bench.settled = lost(), False
    bench.seconds, bench.error = (1.0, TimeoutError()) if by_effect else (1000.0, None)
    async with bench.run() as runner:
        runner.start((START,))
        await asyncio.sleep(60)
        assert runner.busy("demo-1"), "a cut-off statement was taken for a failed one"
        bench.settled = True
        await asyncio.sleep(1)
        assert not runner.busy("demo-1")


@virtual_time
async def test_a_deadline_before_anything_was_sent_holds_nothing() -> None:
    bench = Bench()
    bench.error = TimeoutError()
    async with bench.run() as runner:
        runner.start((START,))
        await asyncio.sleep(2)
        assert not runner.busy("demo-1")
        assert bench.asked == []


@virtual_time
async def test_a_failed_effect_waits_longer_each_time_and_says_when_it_is_due() -> None:
    bench = Bench()
    bench.seconds, bench.error = 0.0, Transient("no")
    async with bench.run() as runner:
        begun = []
        for _ in range(8):
            runner.start((START,))
            await settle()
            begun.append(asyncio.get_running_loop().time())
            due = runner.start((START,))
            assert due is not None
            await asyncio.sleep(due)
        pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert pauses[0] < 0.2
    assert max(pauses) <= 10.0
    assert pauses[-1] > 3.0
    assert len(bench.begun) == 8
    assert set(bench.failures) == {(START, "Transient")}


@virtual_time
async def test_what_was_mended_is_tried_at_once() -> None:
    bench = Bench()
    bench.seconds, bench.error = 0.0, Transient("no")
    async with bench.run() as runner:
        for _ in range(6):
            due = runner.start((e.EnsureObjects(),))
            await asyncio.sleep(due or 0.0)
        runner.start((e.EnsureObjects(),))
        await settle()
        before = len(bench.begun)
        runner.retry_now(e.EnsureObjects())
        runner.start((e.EnsureObjects(),))
        await settle()
        assert len(bench.begun) == before + 1


@virtual_time
async def test_a_wrong_program_in_one_effect_ends_no_other() -> None:
    bench = Bench()
    bench.error = KeyError("bug")
    async with bench.run() as runner:
        runner.start((START, OTHER))
        await asyncio.sleep(2)
        bench.error = None
        await asyncio.sleep(2)
        runner.start((START,))
        await asyncio.sleep(2)
    assert bench.begun == [START, OTHER, START]


@virtual_time
async def test_cancelling_the_owner_cancels_what_runs() -> None:
    bench = Bench()
    bench.seconds = 1000.0

    async def own() -> None:
        async with bench.run() as runner:
            runner.start((START, OTHER))
            await asyncio.sleep(1000)

    task = asyncio.create_task(own())
    await asyncio.sleep(1)
    assert bench.running == {START, OTHER}
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert bench.running == set()
    assert bench.ended == 0


@virtual_time
async def test_preparing_a_connection_is_no_statement_and_runs_once_at_a_time() -> None:
    bench = Bench()
    opened = 0

    async def prepare() -> None:
        nonlocal opened
        opened += 1
        await asyncio.sleep(1)
        raise Transient("refused")

    async with bench.run() as runner:
        runner.aside("warm demo-1", prepare)
        runner.aside("warm demo-1", prepare)
        await settle()
        assert not runner.busy("demo-1")
        assert opened == 1
        await asyncio.sleep(2)
        assert bench.ended == 0
        assert bench.failures == []
