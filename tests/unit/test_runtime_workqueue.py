"""What the workqueue promises: one pass at a time per key, none lost, urgent first, failures spread out."""

from __future__ import annotations

import asyncio
import random

import pytest

from mariadb_operator.runtime.workqueue import Workqueue
from tests.unit.virtual_time import VirtualClock, settle, virtual_time


def queue_of(**settings: float) -> Workqueue[str]:
    return Workqueue(clock=VirtualClock(), rng=random.Random(1), **settings)  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


async def take_all(queue: Workqueue[str]) -> list[str]:
    return [await queue.get() for _ in range(len(queue))]


@virtual_time
async def test_many_reasons_for_one_key_give_one_pass() -> None:
    queue = queue_of()
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert await take_all(queue) == ["a", "b"]


@virtual_time
async def test_urgent_keys_go_before_the_rest_in_their_own_order() -> None:
    queue = queue_of()
    queue.add("a")
    queue.add("b")
    queue.add("c")
    queue.add("x", urgent=True)
    queue.add("b", urgent=True)  # was waiting in the ordinary way: moves, and comes once
    assert await take_all(queue) == ["x", "b", "a", "c"]


@virtual_time
async def test_an_ordinary_wish_does_not_make_an_urgent_key_wait() -> None:
    queue = queue_of()
    queue.add("a")
    queue.add("x", urgent=True)
    queue.add("x")
    assert await take_all(queue) == ["x", "a"]


@virtual_time
async def test_a_key_in_work_is_not_handed_out_again_before_done() -> None:
    queue = queue_of()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    second = asyncio.create_task(queue.get())
    await settle()
    assert not second.done()
    queue.done("a")
    assert await second == "a"


@virtual_time
async def test_urgency_is_kept_for_a_key_in_work() -> None:
    queue = queue_of()
    queue.add("a")
    await queue.get()
    queue.add("a", urgent=True)
    queue.add("a")
    queue.add("b")
    queue.done("a")
    assert await take_all(queue) == ["a", "b"]


@virtual_time
async def test_done_without_a_wish_leaves_the_queue_empty() -> None:
    queue = queue_of()
    queue.add("a")
    await queue.get()
    queue.done("a")
    assert len(queue) == 0
    with pytest.raises(ValueError, match="not in work"):
        queue.done("a")


@virtual_time
async def test_a_delayed_key_comes_when_due_and_the_earliest_wish_counts() -> None:
    queue = queue_of()
    queue.add_after("a", 30)
    queue.add_after("a", 5)
    queue.add_after("a", 60)
    assert await queue.get() == "a"
    assert now() == pytest.approx(5)
    queue.done("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1000):
            await queue.get()


@virtual_time
async def test_a_wish_during_the_wait_for_a_timer_is_served_at_once() -> None:
    queue = queue_of()
    queue.add_after("late", 100)
    getter = asyncio.create_task(queue.get())
    await asyncio.sleep(3)
    queue.add("now")
    assert await getter == "now"
    assert now() == pytest.approx(3)
    assert await queue.get() == "late"
    assert now() == pytest.approx(100)


@virtual_time
async def test_a_key_that_is_due_while_in_work_comes_after_done() -> None:
    queue = queue_of()
    queue.add("a")
    await queue.get()
    queue.add_after("a", 1)
    getter = asyncio.create_task(queue.get())
    await asyncio.sleep(10)
    assert not getter.done()
    queue.done("a")
    assert await getter == "a"


@virtual_time
async def test_retries_back_off_with_jitter_per_key_until_forgotten() -> None:
    queue = queue_of(base_delay=1, max_delay=8)
    delays = [queue.retry("a") for _ in range(6)]
    for delay, full in zip(delays, (1, 2, 4, 8, 8, 8), strict=True):
        assert full / 2 <= delay <= full
    assert len({delay / full for delay, full in zip(delays, (1, 2, 4, 8, 8, 8), strict=True)}) > 1
    assert queue.retry("b") <= 1
    queue.forget("a")
    assert queue.retry("a") <= 1


@virtual_time
async def test_a_retry_comes_by_itself() -> None:
    queue = queue_of(base_delay=1)
    queue.add("a")
    await queue.get()
    delay = queue.retry("a")
    queue.done("a")
    assert await queue.get() == "a"
    assert now() == pytest.approx(delay)


@virtual_time
async def test_a_key_that_always_wakes_itself_is_held_to_its_pace_and_others_are_not() -> None:
    queue = queue_of(rate=2, burst=4)
    passes: list[tuple[str, float]] = []
    queue.add("hot")

    async def work() -> None:
        while True:
            key = await queue.get()
            passes.append((key, now()))
            queue.add(key) if key == "hot" else None
            queue.done(key)

    worker = asyncio.create_task(work())
    await asyncio.sleep(10)
    queue.add("calm")
    await settle()
    worker.cancel()
    assert dict(passes)["calm"] == pytest.approx(10)
    hot = sum(key == "hot" for key, _ in passes)
    assert 4 + 2 * 10 - 1 <= hot <= 4 + 2 * 10 + 1


@virtual_time
async def test_urgent_keys_know_no_pace() -> None:
    queue = queue_of(rate=0.001, burst=1)
    for _ in range(20):
        queue.add("a", urgent=True)
        assert await queue.get() == "a"
        queue.done("a")
    assert now() == 0


@virtual_time
async def test_every_waiting_worker_gets_a_key_when_several_are_due_at_once() -> None:
    queue = queue_of()
    getters = [asyncio.create_task(queue.get()) for _ in range(3)]
    await settle()
    for key in "abc":
        queue.add_after(key, 5)
    assert sorted(await asyncio.gather(*getters)) == ["a", "b", "c"]
    assert now() == pytest.approx(5)


@virtual_time
async def test_a_cancelled_worker_passes_its_turn_on() -> None:
    queue = queue_of()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await settle()
    queue.add("a")  # wakes the first, which is cancelled before it runs
    first.cancel()
    assert await second == "a"
    assert first.cancelled()


@virtual_time
async def test_a_timer_outlives_the_worker_that_waited_for_it() -> None:
    queue = queue_of()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await settle()
    queue.add_after("a", 5)
    await settle()
    first.cancel()
    async with asyncio.timeout(100):
        assert await second == "a"
    assert now() == pytest.approx(5)


@virtual_time
async def test_no_wish_is_lost_among_workers_that_come_and_go() -> None:
    rng = random.Random(7)
    queue = queue_of(rate=1000)
    seen: dict[str, int] = {}
    workers: list[asyncio.Task[None]] = []

    async def work() -> None:
        while True:
            key = await queue.get()
            seen[key] = seen.get(key, 0) + 1
            try:
                await asyncio.sleep(rng.choice([0, 0.3]))
            finally:
                queue.done(key)

    for number in range(300):
        workers.append(asyncio.create_task(work()))
        await asyncio.sleep(rng.choice([0, 0, 0.1]))
        queue.add_after(f"k{number}", rng.uniform(0, 3))
        queue.add(f"u{number}", urgent=rng.random() < 0.5)
        while len(workers) > 3:
            workers.pop(rng.randrange(3)).cancel()
    await asyncio.sleep(10)
    for worker in workers:
        worker.cancel()
    assert len(seen) == 600


@virtual_time
async def test_nothing_remains_of_a_dropped_key() -> None:
    queue = queue_of()
    queue.add("a")
    queue.add_after("a", 5)
    queue.add("b")
    await queue.get()
    await queue.get()
    queue.add("b")
    queue.drop("a")
    queue.drop("b")
    queue.done("a")
    queue.done("b")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await queue.get()
