"""What a sidecar does when requests meet each other, the disk or a start that is under way."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from mariadb_operator.node.admission import Admission, Refused
from mariadb_operator.node.gate import Gate
from mariadb_operator.node.observer import Observer
from mariadb_operator.node.protocol import (
    Authority,
    DeathState,
    FenceReply,
    FenceRequest,
    GateState,
    PermitRequest,
    Phase,
    ProbeState,
    Reason,
    RenewRequest,
    Role,
    ServerState,
    Sign,
)
from mariadb_operator.node.salvaging import Salvaging
from mariadb_operator.node.verbs import Verbs
from mariadb_operator.node.volume import Ledger, NotRecorded, Volume
from mariadb_operator.runtime.clock import SystemClock

WAITING = "0123456789abcdef"
LIVING = "fedcba9876543210"


class SlowVolume(Volume):
    """Its disk takes a record when the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.recorded = Ledger()
        self.written: list[Ledger] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.broken = False

    async def write_ledger(self, ledger: Ledger, *, deadline_seconds: float) -> None:
        await self.takes.wait()
        if self.broken:
            raise NotRecorded("broken")
        self.written.append(ledger)
        self.recorded = ledger


@dataclass
class FakeObserver:
    """A supervisor that waits, and a server that lives if the test says so."""

    gate: GateState | None = field(
        default_factory=lambda: GateState(phase=Phase.WAITING, incarnation=WAITING)
    )
    server: ServerState | None = None
    death: DeathState | None = None
    probes: ProbeState = field(default_factory=ProbeState)
    killed: int = 0

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def notify(self) -> None:
        return

    def kill(self) -> None:
        self.killed += 1

    async def change(self, *, timeout: float) -> None:
        await asyncio.sleep(timeout)


@dataclass
class Bench:
    verbs: Verbs
    gate: Gate
    volume: SlowVolume
    observer: FakeObserver
    admission: Admission
    folder: Path

    def used(self, incarnation: str) -> None:
        (self.folder / "permit.used").write_text(f"{incarnation} primary\n")

    def lives(self) -> None:
        self.observer.server = ServerState(incarnation=LIVING, pid=1, started_at=0, seen_at=0)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    gate = Gate(tmp_path)
    volume = SlowVolume(tmp_path)
    observer = FakeObserver()
    admission = Admission(Ledger())
    verbs = Verbs(
        observer=cast(Observer, observer),
        gate=gate,
        volume=volume,
        admission=admission,
        salvaging=Salvaging(volume, changed=lambda: None),
        readable=True,
        clock=SystemClock(),
        sidecar="s",
        boot_id="b",
    )
    return Bench(verbs, gate, volume, observer, admission, tmp_path)


def by(request_id: str, *, epoch: int = 1, term: int = 1) -> Authority:
    return Authority(cluster_id="c", epoch=epoch, term=term, request_id=request_id)


def permit(authority: Authority, *, incarnation: str = WAITING, role: Role = Role.PRIMARY) -> PermitRequest:
    return PermitRequest(authority=authority, incarnation=incarnation, role=role)


def fence(authority: Authority, *, wait_seconds: float = 0, until_freed: bool = False) -> FenceRequest:
    return FenceRequest(authority=authority, wait_seconds=wait_seconds, until_freed=until_freed)


async def refusal(bench: Bench, request: PermitRequest | FenceRequest | RenewRequest) -> Reason:
    with pytest.raises(Refused) as caught:
        await bench.verbs.answer(request)
    return caught.value.reason


async def overtaken(bench: Bench, then: Callable[[], object]) -> Reason:
    """A permit waits for the disk; meanwhile something happens; the disk answers."""
    bench.volume.takes.clear()
    permitting = asyncio.create_task(bench.verbs.answer(permit(by("permit"))))
    await asyncio.sleep(0)
    then()
    bench.volume.takes.set()
    with pytest.raises(Refused) as caught:
        await permitting
    assert not bench.gate.permitted
    return caught.value.reason


async def test_a_permit_is_on_the_volume_before_it_is_given(bench: Bench) -> None:
    bench.volume.broken = True
    with pytest.raises(NotRecorded):
        await bench.verbs.answer(permit(by("1")))
    assert not bench.gate.permitted
    bench.volume.broken = False
    await bench.verbs.answer(permit(by("2"), role=Role.REPLICA))
    assert bench.gate.permitted == WAITING
    assert bench.volume.written[-1].truncated == WAITING


async def test_a_fence_overtakes_a_permit_that_waits_for_the_disk(bench: Bench) -> None:
    fencing: list[asyncio.Task[object]] = []
    reason = await overtaken(
        bench, lambda: fencing.append(asyncio.create_task(bench.verbs.answer(fence(by("fence")))))
    )
    # Whichever of the two the disk takes last, the fence is what holds.
    await asyncio.gather(*fencing)
    assert reason is Reason.STALE
    assert bench.verbs.holds


async def test_a_newer_leader_overtakes_a_permit_that_waits_for_the_disk(bench: Bench) -> None:
    assert await overtaken(bench, lambda: bench.admission.admit(by("newer", term=2))) is Reason.STALE


async def test_a_start_that_is_given_up_overtakes_its_permit(bench: Bench) -> None:
    def left() -> None:
        bench.observer.gate = GateState(phase=Phase.LEFT, incarnation=WAITING)

    assert await overtaken(bench, left) is Reason.ANOTHER_START


async def test_nothing_is_permitted_on_a_volume_that_is_worked_on(bench: Bench) -> None:
    with bench.volume.hold():
        assert await refusal(bench, permit(by("1"))) is Reason.BUSY
    await bench.verbs.answer(permit(by("2")))


async def test_what_a_refused_request_showed_of_the_present_is_recorded(bench: Bench) -> None:
    assert await refusal(bench, permit(by("1", epoch=5, term=9), incarnation=LIVING)) is Reason.ANOTHER_START
    assert (bench.volume.written[-1].epoch, bench.volume.written[-1].term) == (5, 9)
    assert await refusal(bench, permit(by("2", epoch=4, term=9))) is Reason.STALE


async def test_a_start_under_way_is_not_dead_before_its_lock_is_free(bench: Bench) -> None:
    bench.observer.death = DeathState(incarnation=LIVING, pid=1, started_at=0, at=1, sign=Sign.EXITING)
    starting = os.open(bench.folder / "volume.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(starting, fcntl.LOCK_EX)
    bench.used(WAITING)  # a start after the one that died
    assert await bench.verbs.answer(fence(by("1"))) == FenceReply(dead=False, freed=False, recorded=True)
    bench.used(LIVING)  # the last start that was made is the one that died
    assert await bench.verbs.answer(fence(by("2"))) == FenceReply(dead=True, freed=False, recorded=True)
    os.close(starting)
    assert await bench.verbs.answer(fence(by("3"))) == FenceReply(dead=True, freed=True, recorded=True)


async def test_a_server_that_lives_is_not_dead(bench: Bench) -> None:
    bench.lives()
    reply = await bench.verbs.answer(fence(by("1"), wait_seconds=0.05))
    assert reply == FenceReply(dead=False, freed=False, recorded=True)
    assert bench.observer.killed == 1


async def test_a_fence_waits_until_the_volume_is_free_when_asked_to(bench: Bench) -> None:
    bench.observer.death = DeathState(incarnation=LIVING, pid=1, started_at=0, at=1, sign=Sign.EXITING)
    bench.used(LIVING)
    dying = os.open(bench.folder / "volume.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(dying, fcntl.LOCK_EX)
    fencing = asyncio.create_task(bench.verbs.answer(fence(by("1"), wait_seconds=10, until_freed=True)))
    await asyncio.sleep(0.05)
    assert not fencing.done()
    os.close(dying)
    assert await fencing == FenceReply(dead=True, freed=True, recorded=True)


async def test_a_fence_that_the_disk_does_not_take_holds_nevertheless(bench: Bench) -> None:
    bench.volume.broken = True
    assert await bench.verbs.answer(fence(by("1"))) == FenceReply(dead=True, freed=True, recorded=False)
    assert bench.verbs.holds


async def test_a_renewal_costs_no_disk_unless_epoch_or_term_are_new(bench: Bench) -> None:
    bench.lives()
    heartbeat = bench.verbs.heartbeat()
    for request_id in ("1", "2", "3"):
        await bench.verbs.answer(
            RenewRequest(authority=by(request_id), incarnation=LIVING, asked_at=heartbeat.now, seconds=3)
        )
    assert len(bench.volume.written) == 1
    bench.volume.broken = True
    with pytest.raises(NotRecorded):
        await bench.verbs.answer(
            RenewRequest(authority=by("4", term=2), incarnation=LIVING, asked_at=heartbeat.now, seconds=9)
        )
    lease = bench.gate.lease()
    assert lease is not None
    assert lease.deadline < heartbeat.now + 4


async def test_a_lease_that_was_asked_for_too_long_ago_is_none(bench: Bench) -> None:
    bench.lives()
    heartbeat = bench.verbs.heartbeat()
    await asyncio.sleep(0.02)
    renewal = RenewRequest(authority=by("1"), incarnation=LIVING, asked_at=heartbeat.now, seconds=0.01)
    assert await refusal(bench, renewal) is Reason.NOT_ASKED
    assert bench.gate.lease() is None
