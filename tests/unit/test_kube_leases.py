"""The election: never two leaders at once, whatever clocks, network and API server do."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from mariadb_operator.kube.errors import error_of
from mariadb_operator.kube.kinds import LEASE, Kind, Manifest
from mariadb_operator.kube.leases import Leadership, LeadershipLost, LeaseElector
from mariadb_operator.runtime.errors import Transient, Uncertain
from tests.unit.fake_objects import FakeObjects, Refused
from tests.unit.virtual_time import VirtualClock, settle, virtual_time

Work = Callable[[Leadership], Awaitable[None]]


def now() -> float:
    return asyncio.get_running_loop().time()


class Link:
    """One process's way to the API server under virtual time, with latency and faults."""

    def __init__(self, objects: FakeObjects, *, latency: float = 0.005) -> None:
        self.objects = objects
        self.latency = latency
        self.cut = False
        """Nothing arrives: requests end at their deadline."""
        self.deaf = False
        """Requests arrive, replies don't."""
        self.late: float | None = None
        """Writes are done that much later, unseen by the caller."""
        self.calls = 0

    async def get(
        self, kind: Kind, namespace: str | None, name: str, *, deadline: float | None = None
    ) -> Manifest:
        return await self._do(
            lambda: self.objects.get(kind, namespace, name), writes=False, deadline=deadline
        )

    async def create(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        return await self._do(lambda: self.objects.create(LEASE, manifest), writes=True, deadline=deadline)

    async def replace(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        return await self._do(lambda: self.objects.replace(LEASE, manifest), writes=True, deadline=deadline)

    async def _do(self, action: Callable[[], Manifest], *, writes: bool, deadline: float | None) -> Manifest:
        self.calls += 1
        assert deadline is not None
        lost = Uncertain if writes else Transient
        try:
            async with asyncio.timeout(deadline):
                await asyncio.sleep(self.latency)
                if self.cut:
                    await asyncio.Event().wait()
                if writes and self.late is not None:
                    asyncio.get_running_loop().call_later(self.late, _ignore_refusal, action)
                    await asyncio.Event().wait()
                reply = action()
                if self.deaf:
                    await asyncio.Event().wait()
                await asyncio.sleep(self.latency)
                return copy.deepcopy(reply)
        except TimeoutError as error:
            raise lost("no reply") from error
        except Refused as refused:
            body = f'{{"kind": "Status", "reason": "{refused.reason}"}}'.encode()
            raise error_of(code=refused.code, body=body, request="x", writes=writes) from refused


def _ignore_refusal(action: Callable[[], Manifest]) -> None:
    with suppress(Refused):
        action()


@dataclass
class Reign:
    """One run of the work."""

    identity: str
    term: int
    since: float
    until: float = float("inf")


class World:
    """Some processes and their reigns; `stopping` is how long the work takes to end (seconds)."""

    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.reigns: list[Reign] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.links: dict[str, Link] = {}
        self.clocks: dict[str, VirtualClock] = {}
        self.leaderships: list[Leadership] = []
        self.stopping = 0.0

    def start(self, identity: str, *, clock: VirtualClock | None = None, work: Work | None = None) -> Link:
        link = self.links[identity] = Link(self.objects)
        self.clocks[identity] = clock or VirtualClock()
        elector = LeaseElector(
            link, "n", "lease", identity, clock=self.clocks[identity], rng=random.Random(len(self.tasks))
        )
        self.tasks[identity] = asyncio.create_task(elector.run(work or self.work))
        return link

    async def work(self, leadership: Leadership) -> None:
        reign = Reign(leadership.identity, leadership.term, now())
        self.reigns.append(reign)
        self.leaderships.append(leadership)
        try:
            while True:
                leadership.check()
                await asyncio.sleep(0.1)
        finally:
            try:
                await asyncio.sleep(self.stopping)
            finally:
                reign.until = now()

    async def leader(self, *, other_than: str = "") -> Reign:
        while True:
            for reign in self.reigns:
                if reign.until == float("inf") and reign.identity != other_than:
                    return reign
            await asyncio.sleep(0.01)

    async def stop(self, identity: str) -> None:
        task = self.tasks.pop(identity)
        task.cancel()
        await asyncio.wait((task,), timeout=120)
        assert task.cancelled()

    async def end(self) -> None:
        for identity in list(self.tasks):
            await self.stop(identity)
        self.check()

    def check(self) -> None:
        """No two reigns at once, every later one with a higher term."""
        for earlier, later in zip(self.reigns, self.reigns[1:], strict=False):
            assert earlier.until <= later.since, f"two leaders: {earlier} {later}"
            assert earlier.term < later.term, f"term not raised: {earlier} {later}"

    @property
    def lease(self) -> Manifest:
        spec: Manifest = self.objects.get(LEASE, "n", "lease")["spec"]
        return spec


@virtual_time
async def test_one_of_three_leads_and_keeps_leading() -> None:
    world = World()
    for identity in "abc":
        world.start(identity)
    await asyncio.sleep(900)
    assert len(world.reigns) == 1
    await world.end()


@virtual_time
async def test_a_leader_that_stops_hands_over_at_once_and_only_after_its_work_ended() -> None:
    world = World()
    world.stopping = 20.0  # longer than the lease: it has to be renewed meanwhile
    world.start("a")
    first = await world.leader()
    world.start("b")
    await asyncio.sleep(2)
    asked = now()
    await world.stop("a")
    assert first.until == pytest.approx(asked + 20)
    second = await world.leader()
    assert second.since - first.until < 1
    assert second.term > first.term
    world.stopping = 0
    await world.end()
    assert world.lease["holderIdentity"] == ""


@virtual_time
async def test_a_leader_that_is_cut_off_stops_before_another_may_begin() -> None:
    world = World()
    world.start("a")
    first = await world.leader()
    world.start("b")
    await asyncio.sleep(10)
    world.links["a"].cut = True
    cut = now()
    second = await world.leader(other_than="a")
    assert cut + 2 < first.until <= cut + 5 * 2 / 3
    assert cut + 3 < second.since <= cut + 6.5
    await world.end()


@virtual_time
async def test_a_leader_whose_replies_are_lost_does_not_lead_on_hope() -> None:
    world = World()
    world.start("a")
    first = await world.leader()
    await asyncio.sleep(10)
    world.links["a"].deaf = True
    deaf = now()
    await asyncio.sleep(30)
    assert first.until <= deaf + 5 * 2 / 3
    world.links["a"].deaf = False
    await world.leader()
    await world.end()


@virtual_time
async def test_one_lost_reply_does_not_cost_the_leadership() -> None:
    world = World()
    world.start("a")
    await world.leader()
    for _ in range(20):
        await asyncio.sleep(7)
        world.links["a"].deaf = True
        await asyncio.sleep(1.2)  # at least one renewal is done and its reply lost
        world.links["a"].deaf = False
    assert len(world.reigns) == 1
    await world.end()


@virtual_time
async def test_a_leader_regains_its_own_lease_without_waiting_under_a_higher_term() -> None:
    world = World()
    world.start("a")
    first = await world.leader()
    await asyncio.sleep(1)
    world.links["a"].cut = True
    await asyncio.sleep(60)
    world.links["a"].cut = False
    healed = now()
    second = await world.leader()
    assert second.since - healed < 2
    assert second.term > first.term
    await world.end()


@virtual_time
async def test_a_process_that_stood_still_knows_that_it_does_not_lead_before_it_acts() -> None:
    world = World()
    world.start("a")
    await world.leader()
    leadership = world.leaderships[0]
    leadership.check()
    world.clocks["a"].offset += 20  # SIGSTOP, or a suspended machine: time went on elsewhere
    with pytest.raises(LeadershipLost):
        leadership.check()
    await world.end()


@virtual_time
async def test_wall_clocks_do_not_matter() -> None:
    world = World()
    world.start("past", clock=VirtualClock(wall_offset=-3600 * 24 * 365 * 50))
    first = await world.leader()
    world.start("future", clock=VirtualClock(wall_offset=3600 * 24 * 365 * 50))
    await asyncio.sleep(100)
    assert len(world.reigns) == 1
    await world.stop("past")
    second = await world.leader()
    assert first.term < second.term < 2**31
    world.start("today")
    await asyncio.sleep(1)
    await world.stop("future")
    third = await world.leader()
    assert second.term < third.term < 2**31
    await world.end()


@virtual_time
async def test_clocks_of_different_rates_are_survived() -> None:
    world = World()
    world.start("slow", clock=VirtualClock(rate=0.8))
    await world.leader()
    world.start("fast", clock=VirtualClock(rate=1.2))
    await asyncio.sleep(20)
    world.links["slow"].cut = True
    await world.leader(other_than="slow")
    await world.end()


@virtual_time
async def test_a_deleted_lease_ends_the_reign_and_the_next_term_is_higher() -> None:
    world = World()
    world.start("a")
    first = await world.leader()
    await asyncio.sleep(30)
    world.objects.delete(LEASE, "n", "lease")
    world.start("new")  # has never seen the Lease: only the time of day tells it a higher term
    await asyncio.sleep(20)
    second = await world.leader()
    assert second.term > first.term
    await world.end()


@virtual_time
async def test_a_lease_made_anew_by_hand_does_not_lower_the_term() -> None:
    world = World()
    world.start("a")
    await world.leader()
    await asyncio.sleep(30)
    world.objects.delete(LEASE, "n", "lease")
    world.objects.create(LEASE, {"metadata": {"namespace": "n", "name": "lease"}, "spec": {}})
    world.start("new")
    await asyncio.sleep(20)
    assert len(world.reigns) == 2
    await world.end()


@virtual_time
async def test_a_lease_that_was_given_to_somebody_else_is_given_up() -> None:
    world = World()
    world.start("a")
    first = await world.leader()
    await asyncio.sleep(3)
    world.objects.merge(LEASE, "n", "lease", {"spec": {"holderIdentity": "kubectl"}})
    given = now()
    second = await world.leader(other_than="")
    while second is first:
        await asyncio.sleep(0.1)
        second = await world.leader()
    assert first.until <= given + 1.1
    assert second.since >= given + 5
    await world.end()


@virtual_time
async def test_an_annotation_on_the_lease_disturbs_nobody() -> None:
    world = World()
    world.start("a")
    world.start("b")
    await world.leader()
    for number in range(100):
        await asyncio.sleep(0.37)
        world.objects.merge(LEASE, "n", "lease", {"metadata": {"annotations": {"x": str(number)}}})
    assert len(world.reigns) == 1
    await world.end()


@virtual_time
async def test_writes_that_arrive_late_make_no_second_leader() -> None:
    world = World()
    world.start("a")
    await world.leader()
    world.start("b")
    await asyncio.sleep(5)
    world.links["a"].late = 4.0  # its renewals are done, long after it gave up on each
    await asyncio.sleep(60)
    world.links["a"].late = None
    await asyncio.sleep(60)
    assert len(world.reigns) >= 2
    await world.end()


@virtual_time
async def test_two_that_take_at_the_same_moment() -> None:
    world = World()
    for _ in range(20):
        world.start("a")
        world.start("b")
        await asyncio.sleep(12)
        assert sum(reign.until == float("inf") for reign in world.reigns) == 1
        await world.stop("a")
        await world.stop("b")
        world.check()


@pytest.mark.parametrize("seed", range(15))
@virtual_time
async def test_no_two_leaders_under_random_faults(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    world.stopping = rng.choice([0.0, 0.5, 1.0])
    for identity in "abc":
        world.start(
            identity,
            clock=VirtualClock(
                offset=rng.uniform(0, 1e6), wall_offset=rng.uniform(-100, 100), rate=rng.uniform(0.95, 1.05)
            ),
        )
    for _ in range(60):
        await asyncio.sleep(rng.uniform(0.1, 8))
        link = world.links[rng.choice("abc")]
        match rng.randrange(7):
            case 0:
                link.cut = not link.cut
            case 1:
                link.deaf = not link.deaf
            case 2:
                link.late = rng.choice([None, rng.uniform(0.5, 10)])
            case 3:
                link.latency = rng.choice([0.005, rng.uniform(0.01, 0.6)])
            case _:
                link.cut, link.deaf, link.late, link.latency = False, False, None, 0.005
    for link in world.links.values():
        link.cut, link.deaf, link.late, link.latency = False, False, None, 0.005
    await asyncio.sleep(20)
    assert sum(reign.until == float("inf") for reign in world.reigns) == 1
    assert len(world.reigns) > 1
    await world.end()


@virtual_time
async def test_work_that_returns_ends_the_run_and_gives_the_lease_back() -> None:
    world = World()

    async def work(leadership: Leadership) -> None:
        await asyncio.sleep(12)

    world.start("a", work=work)
    await world.tasks["a"]
    assert world.lease["holderIdentity"] == ""


@virtual_time
async def test_work_that_fails_is_not_hidden_and_gives_the_lease_back() -> None:
    world = World()

    async def work(leadership: Leadership) -> None:
        raise RuntimeError("boom")

    world.start("a", work=work)
    with pytest.raises(ExceptionGroup) as caught:
        await world.tasks["a"]
    assert caught.group_contains(RuntimeError, match="boom")
    assert world.lease["holderIdentity"] == ""


@virtual_time
async def test_a_cancelled_candidate_ends() -> None:
    world = World()
    world.start("a")
    await world.leader()
    world.start("b")
    await asyncio.sleep(7)
    await world.stop("b")
    assert len(world.reigns) == 1
    await world.end()


@virtual_time
async def test_a_cancellation_during_the_loss_of_leadership_is_not_swallowed() -> None:
    world = World()
    world.stopping = 2.0
    world.start("a")
    first = await world.leader()
    world.links["a"].cut = True
    await asyncio.sleep(4.5)  # lost by now, the work is winding down
    assert first.until == float("inf")
    await world.stop("a")
    await settle()
    assert len(world.reigns) == 1


def test_a_renewal_that_could_not_be_tried_twice_is_refused() -> None:
    link = Link(FakeObjects())
    with pytest.raises(ValueError, match="renew_every"):
        LeaseElector(
            link, "n", "l", "a", clock=VirtualClock(), rng=random.Random(1), lease_seconds=5, renew_every=2
        )
