"""Owned tasks: a crash is seen and cured, a stop is waited for, cancellation goes through."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random

import pytest

from mariadb_operator.runtime.tasks import TaskOwner
from tests.unit.virtual_time import VirtualClock, settle, virtual_time


def owner_of(group: asyncio.TaskGroup, **settings: object) -> TaskOwner[str]:
    return TaskOwner(group, clock=VirtualClock(), rng=random.Random(1), **settings)  # type: ignore[arg-type]


@virtual_time
async def test_a_crash_is_logged_reported_and_restarted_with_back_off() -> None:
    starts: list[float] = []
    crashes: list[str] = []
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    async def crash() -> None:
        starts.append(asyncio.get_running_loop().time())
        if len(starts) < 5:
            raise RuntimeError("boom")

    logger = logging.getLogger("mariadb_operator.runtime.tasks")
    handler = Handler()
    logger.addHandler(handler)
    try:
        async with asyncio.TaskGroup() as group:
            owner = owner_of(
                group, base_delay=1, max_delay=4, on_crash=lambda key, error: crashes.append(f"{key} {error}")
            )
            owner.start("a", crash)
    finally:
        logger.removeHandler(handler)
    assert crashes == ["a boom"] * 4
    assert [record.exc_info is not None for record in records] == [True] * 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    for gap, full in zip(gaps, (1, 2, 4, 4), strict=True):
        assert full / 2 <= gap <= full
    assert "a" not in owner


@virtual_time
async def test_a_task_that_ran_long_starts_its_back_off_anew() -> None:
    starts: list[float] = []

    async def crash() -> None:
        starts.append(asyncio.get_running_loop().time())
        if len(starts) == 6:
            return
        await asyncio.sleep(100 if len(starts) == 4 else 0)
        raise RuntimeError("boom")

    async with asyncio.TaskGroup() as group:
        owner_of(group, base_delay=1, max_delay=64).start("a", crash)
    assert starts[3] - starts[2] > 1.9
    assert starts[4] - starts[3] <= 101
    assert starts[5] - starts[4] <= 2


@virtual_time
async def test_a_key_has_one_task_and_can_be_started_again_after_its_stop() -> None:
    running = 0
    most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3)  # takes its time to end
            running -= 1

    async with asyncio.TaskGroup() as group:
        owner = owner_of(group)
        assert owner.start("a", work)
        assert not owner.start("a", work)
        await settle()
        assert owner.keys() == {"a"}
        await owner.stop("a")
        assert running == 0
        assert owner.start("a", work)
        await settle()
        await owner.stop("a")
        await owner.stop("never started")
    assert most == 1


@virtual_time
async def test_a_stop_during_the_back_off_ends_the_task() -> None:
    runs = 0

    async def crash() -> None:
        nonlocal runs
        runs += 1
        raise RuntimeError("boom")

    async with asyncio.TaskGroup() as group:
        owner = owner_of(group, base_delay=10, max_delay=10)
        owner.start("a", crash)
        await settle()
        await owner.stop("a")
    assert runs == 1


@virtual_time
async def test_a_task_may_stop_itself() -> None:
    async with asyncio.TaskGroup() as group:
        owner = owner_of(group)

        async def work() -> None:
            await owner.stop("a")
            await asyncio.Event().wait()

        owner.start("a", work)
    assert owner.keys() == frozenset()


@virtual_time
async def test_cancelling_the_group_cancels_the_tasks_and_is_not_swallowed() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("a")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            owner_of(group).start("a", work)

    task = asyncio.create_task(main())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["a"]
