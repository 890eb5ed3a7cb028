"""Probes: what an attempt to talk to a server met, how fast its end is seen, and how often it is asked."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mariadb_operator.observe.probes import InstanceProbe, Pace, Target
from mariadb_operator.sql.connection import Endpoint
from mariadb_operator.sql.errors import (
    ConnectRefused,
    ServerPresent,
    StatementLost,
    StatementRefused,
    Unreachable,
)
from statemachines.facts import Reach, SemiSyncFact, ServerFact
from statemachines.gtid import History, Position
from tests.unit.virtual_time import VirtualClock, virtual_time


def fact(*, asked_at: float, pod_uid: str, sequence: int = 1) -> ServerFact:
    return ServerFact(
        asked_at=asked_at,
        pod_uid=pod_uid,
        incarnation="a",
        server_id=1,
        version="11.8",
        read_only=False,
        term=1,
        epoch=1,
        cluster_id="c",
        history=History.parse(f"0-1-{sequence}"),
        executed=Position.parse(f"0-1-{sequence}"),
        slave_position=Position(),
        semi_sync=SemiSyncFact(
            source_enabled=True,
            replica_enabled=True,
            clients=1,
            acknowledged=0,
            unacknowledged=0,
            waiting_sessions=0,
        ),
        replication=None,
    )


class Bench:
    """A probe, and the server it asks."""

    def __init__(self) -> None:
        self.opening: Exception | None = None
        self.asking: Exception | None = None
        self.hangs = False
        self.sequence = 1
        self.opened = 0
        self.asked: list[float] = []
        self.news: list[Reach] = []
        self.took: list[float] = []
        self.connection: Connection | None = None
        self.target: Target | None = Target(
            endpoint=Endpoint(
                host="10.0.0.1",
                port=3306,
                user="probe",
                password="p",
                tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                server_id=1,
            ),
            pod_uid="pod",
        )
        self.pace = Pace(1.0)
        self.probe: InstanceProbe

    @asynccontextmanager
    async def running(self) -> AsyncIterator[InstanceProbe]:
        self.probe = InstanceProbe(
            "demo-0",
            target=lambda: self.target,
            changed=lambda: self.news.append(self.probe.probe.reach),
            took=self.took.append,
            clock=VirtualClock(),
            rng=random.Random(1),
        )
        self.probe.pace = self.pace
        task = asyncio.create_task(self.probe.run())
        await asyncio.sleep(0.001)
        try:
            yield self.probe
        finally:
            task.cancel()
            await asyncio.wait((task,))


class Connection:
    """What Connection.open gives."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ended = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        return self.ended.is_set()

    def close(self) -> None:
        self.ended.set()

    async def wait_closed(self) -> None:
        await self.ended.wait()


async def no_admins(connection: object, *, deadline_seconds: float) -> frozenset[str]:
    return frozenset()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()

    class Opening:
        @staticmethod
        async def open(endpoint: Endpoint, *, deadline_seconds: float) -> Connection:
            made.opened += 1
            if made.hangs:
                await asyncio.sleep(deadline_seconds)
                raise Unreachable("no answer within the deadline")
            if made.opening is not None:
                raise made.opening
            made.connection = Connection(made)
            return made.connection

    async def observe(
        connection: Connection, *, asked_at: float, pod_uid: str, deadline_seconds: float
    ) -> ServerFact:
        made.asked.append(asyncio.get_running_loop().time())
        if made.hangs:
            await asyncio.sleep(deadline_seconds)
        if made.hangs or connection.is_closed:
            connection.close()
            raise StatementLost("lost", connection_id=1, incarnation="a")
        if made.asking is not None:
            raise made.asking
        return fact(asked_at=asked_at, pod_uid=pod_uid, sequence=made.sequence)

    monkeypatch.setattr("mariadb_operator.observe.probes.Connection", Opening)
    monkeypatch.setattr("mariadb_operator.observe.probes.observe", observe)
    monkeypatch.setattr("mariadb_operator.observe.probes.read_only_admins", no_admins)
    return made


@virtual_time
async def test_an_answer_is_kept_with_the_time_of_asking(bench: Bench) -> None:
    async with bench.running() as probe:
        assert probe.probe.reach is Reach.ANSWERING
        assert probe.probe.pod_uid == "pod"
        assert probe.server is not None
        assert bench.took != []


@pytest.mark.parametrize(
    ("error", "reach"),
    [
        (ConnectRefused("nobody listens"), Reach.REFUSED),
        (Unreachable("no route"), Reach.SILENT),
        (ServerPresent("1040 too many connections", errno=1040), Reach.PRESENT),
        (ServerPresent("1045 access denied", errno=1045), Reach.PRESENT),
        (ServerPresent("TLS failed"), Reach.PRESENT),
    ],
)
@virtual_time
async def test_what_connecting_meets_is_told_apart(bench: Bench, error: Exception, reach: Reach) -> None:
    bench.opening = error
    async with bench.running() as probe:
        assert probe.probe.reach is reach


@virtual_time
async def test_an_error_of_the_server_means_alive(bench: Bench) -> None:
    bench.asking = StatementRefused("1146 no such table", errno=1146)
    async with bench.running() as probe:
        assert probe.probe.reach is Reach.PRESENT


@virtual_time
async def test_the_end_of_the_standing_connection_is_acted_on_at_once(bench: Bench) -> None:
    bench.pace = Pace(3600.0)
    async with bench.running() as probe:
        began = asyncio.get_running_loop().time()
        bench.opening = ConnectRefused("nobody listens")
        assert bench.connection is not None
        bench.connection.close()
        await asyncio.sleep(0.001)
        assert probe.probe.reach is Reach.REFUSED
        assert asyncio.get_running_loop().time() - began < 0.01
        assert bench.news[-1] is Reach.REFUSED


@virtual_time
async def test_a_broken_wire_to_a_living_server_is_no_news(bench: Bench) -> None:
    bench.pace = Pace(3600.0)
    async with bench.running() as probe:
        bench.news.clear()
        assert bench.connection is not None
        bench.connection.close()
        await asyncio.sleep(0.001)
        assert probe.probe.reach is Reach.ANSWERING
        assert bench.news == []


@virtual_time
async def test_a_frozen_server_is_silent_after_the_deadline_and_since_the_question(bench: Bench) -> None:
    async with bench.running() as probe:
        bench.hangs = True
        probe.poke()
        asked = bench.probe._clock.monotonic()
        await asyncio.sleep(1.1)
        assert probe.probe.reach is Reach.SILENT
        assert probe.probe.since == pytest.approx(asked, abs=0.01)
        since = probe.probe.since
        await asyncio.sleep(10)
        assert probe.probe.since == since
        bench.hangs = False
        await asyncio.sleep(3)
        answered = probe.probe
        assert answered.reach is Reach.ANSWERING


@virtual_time
async def test_an_instance_without_a_pod_is_silent_never_refused(bench: Bench) -> None:
    bench.target = None
    async with bench.running() as probe:
        assert probe.probe.reach is Reach.SILENT
        assert probe.probe.pod_uid == ""
    assert bench.opened == 0


@virtual_time
async def test_another_pod_is_asked_over_a_new_connection_and_counts_from_anew(bench: Bench) -> None:
    async with bench.running() as probe:
        first = bench.connection
        assert bench.target is not None
        bench.target = replace(bench.target, pod_uid="successor")
        probe.poke()
        await asyncio.sleep(0.001)
        assert probe.probe.pod_uid == "successor"
        assert probe.server is not None
        assert probe.server.pod_uid == "successor"
        assert bench.connection is not first
        assert first is not None
        assert first.is_closed


@virtual_time
async def test_only_news_wakes_the_cluster(bench: Bench) -> None:
    bench.pace = Pace(0.2)
    async with bench.running():
        await asyncio.sleep(5)
        assert bench.news == [Reach.ANSWERING], "the same answer is no news"
        bench.sequence += 1
        await asyncio.sleep(1)
        assert len(bench.news) == 2


@virtual_time
async def test_refresh_returns_after_an_attempt_that_began_later(bench: Bench) -> None:
    bench.pace = Pace(3600.0)
    async with bench.running() as probe:
        before = len(bench.asked)
        bench.sequence = 9
        await probe.refresh(deadline_seconds=1.0)
        assert len(bench.asked) == before + 1
        assert probe.server is not None
        assert str(probe.server.executed) == "0-1-9"


@virtual_time
async def test_refresh_of_a_frozen_server_ends_at_its_deadline(bench: Bench) -> None:
    async with bench.running() as probe:
        bench.hangs = True
        began = asyncio.get_running_loop().time()
        await probe.refresh(deadline_seconds=0.1)
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.1, abs=0.01)


@virtual_time
async def test_a_server_that_is_gone_is_asked_quickly_at_first_and_slowly_for_ever(bench: Bench) -> None:
    async with bench.running():
        bench.opening = ConnectRefused("nobody listens")
        assert bench.connection is not None
        bench.connection.close()
        bench.opened = 0
        await asyncio.sleep(0.4)
        assert bench.opened >= 15
        await asyncio.sleep(10)
        bench.opened = 0
        await asyncio.sleep(10)
        assert bench.opened <= 110


@virtual_time
async def test_a_cancelled_probe_leaves_no_connection(bench: Bench) -> None:
    async with bench.running():
        pass
    assert bench.connection is not None
    assert bench.connection.is_closed
