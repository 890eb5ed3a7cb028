"""The sidecar as a process next to a real server: what it tells, what it does, and whom it lets do what."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from mariadb_operator.node.protocol import (
    Authority,
    FenceReply,
    FenceRequest,
    Phase,
    Ping,
    Reason,
    Role,
    Sign,
    Space,
    StateReply,
    StateRequest,
    Verb,
    Write,
)
from mariadb_operator.runtime.clock import SystemClock
from mariadb_operator.ssh.connection import SidecarConnection
from mariadb_operator.ssh.errors import RefusedForGood, RefusedNow
from tests.integration.servers import DEADLINE, Servers, eventually, root, supervisor_looked
from tests.integration.sidecars import Sidecar, authority, eventually_async, stop, watching


@pytest.fixture
def sidecar(servers: Servers) -> Iterator[Sidecar]:
    """One gated server and its sidecar; nothing is permitted yet."""
    server = servers.make(0, gated=True)
    made = Sidecar(server)
    made.start()
    server.start()
    try:
        yield made
    finally:
        made.kill()


async def test_a_death_is_pushed_with_the_name_of_the_server(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    async with watching(sidecar) as (news, _):
        alive = await news.seen("it lives", lambda state: state.server is not None)
        assert alive.server is not None
        assert alive.server.incarnation == incarnation
        assert alive.server.pid == sidecar.server.pid()
        sidecar.server.signal(signal.SIGKILL)
        dead = await news.seen("it died", lambda state: state.death is not None)
        assert dead.death is not None
        assert dead.death.incarnation == incarnation
        assert dead.death.started_at == alive.server.started_at
        # Killed right after it began, it may have had no thread yet that was watched.
        assert dead.death.sign in (Sign.EXITING, Sign.PROCESS)
        assert dead.server is None
        waits = await news.seen(
            "the next start waits", lambda state: state.gate and state.gate.phase is Phase.WAITING
        )
        assert waits.gate is not None
        assert waits.gate.code == 128 + signal.SIGKILL
    assert sidecar.server.pid() is None


async def test_a_fence_kills_holds_and_is_certain(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    fenced = await sidecar.fence()
    assert (fenced.dead, fenced.freed) == (True, True)
    assert sidecar.server.pid() is None
    ledger = sidecar.server.volume / "node.json"
    await eventually("it is recorded", lambda: '"fenced":true' in ledger.read_text())
    following = await sidecar.waiting(after=incarnation)
    state = await sidecar.state()
    assert state.ledger.fenced
    assert state.death is not None
    assert state.death.incarnation == incarnation
    # It stays so with a sidecar that starts anew.
    sidecar.kill()
    sidecar.start()
    assert (await sidecar.state()).ledger.fenced
    assert (await sidecar.fence(until_freed=False)).dead
    assert sidecar.server.pid() is None
    await sidecar.permit(following)
    (await sidecar.server.answering()).close()
    assert not (await sidecar.state()).ledger.fenced


async def test_a_fence_reaches_a_frozen_server_and_withdraws_an_unused_permit(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    sidecar.server.signal(signal.SIGSTOP)
    assert (await sidecar.fence()).dead
    following = await sidecar.waiting(after=incarnation)
    process = sidecar.server.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)  # it can't use the permit up
    await sidecar.permit(following)
    assert (await sidecar.fence()).dead
    process.send_signal(signal.SIGCONT)
    await supervisor_looked(sidecar.server)
    # Not even begun: that it would be killed is another thing.
    assert (sidecar.server.gate / "permit.used").read_text().split()[0] == incarnation


async def test_a_server_that_starts_where_none_may_live_is_killed(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    sidecar.kill()
    ledger = sidecar.server.volume / "node.json"
    text = ledger.read_text()
    assert '"fenced":false' in text
    ledger.write_text(text.replace('"fenced":false', '"fenced":true'))
    sidecar.start()
    await sidecar.waiting(after=incarnation)
    assert sidecar.server.pid() is None


async def test_a_sidecar_that_starts_anew_finds_the_server_and_harms_nothing(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    pid = sidecar.server.pid()
    for how in ("kill", "term"):
        if how == "kill":
            sidecar.kill()
        else:
            assert sidecar.process is not None
            assert await asyncio.to_thread(stop, sidecar.process) == 0
        sidecar.start()
        state = await sidecar.state()
        assert state.server is not None
        assert state.server.incarnation == incarnation
        assert state.server.pid == pid == sidecar.server.pid()
    sidecar.server.signal(signal.SIGKILL)
    await sidecar.waiting(after=incarnation)


async def test_a_crash_while_the_sidecar_is_away_waits_for_it(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    sidecar.kill()
    sidecar.server.signal(signal.SIGKILL)
    await eventually("it ended", lambda: "ended with code 137" in sidecar.server.log())
    sidecar.start()
    following = await sidecar.waiting(after=incarnation)
    state = await sidecar.state()
    assert state.gate is not None
    assert (state.gate.ended, state.gate.code) == (incarnation, 137)  # by the word of who reaped it
    assert await sidecar.admit(after=incarnation) == following


async def test_a_supervisor_that_is_new_has_seen_no_end(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    process = sidecar.server.process
    assert process is not None
    process.kill()  # its mariadbd lives on
    process.wait()
    sidecar.server.start()
    following = await sidecar.waiting(after=incarnation)
    state = await sidecar.state()
    assert state.gate is not None
    assert state.gate.ended == ""
    assert state.server is not None
    assert state.server.incarnation == incarnation
    # A permit opens nothing as long as the other one has the volume.
    await sidecar.permit(following)
    await eventually(
        "it waits for the lock", lambda: "another server holds the volume" in sidecar.server.log()
    )
    os.kill(state.server.pid, signal.SIGKILL)
    async with watching(sidecar) as (news, _):
        await news.seen(
            "its own server", lambda state: state.server and state.server.incarnation == following
        )
        assert news.state is not None
        assert news.state.death is not None
        assert news.state.death.incarnation == incarnation


async def test_the_first_start_of_an_empty_volume_is_permitted_like_any(servers: Servers) -> None:
    server = servers.make(0, gated=True, empty=True)
    sidecar = Sidecar(server)
    server.start()
    sidecar.start()
    try:
        await sidecar.admit()
        state = await eventually_async(
            "probes answer", sidecar.state, lambda state: state.probes.write is Write.DONE
        )
        assert state.probes.ping is Ping.ANSWERS
        assert state.probes.space is not Space.UNKNOWN
        assert root(server, "SHOW BINLOG EVENTS").count("Query") == 0
    finally:
        sidecar.kill()


async def test_a_frozen_server_is_silent_and_comes_back(sidecar: Sidecar) -> None:
    await sidecar.admit()
    async with watching(sidecar) as (news, _):
        await news.seen("it answers", lambda state: state.probes.ping is Ping.ANSWERS)
        sidecar.server.signal(signal.SIGSTOP)
        await news.seen("it is silent", lambda state: state.probes.ping is Ping.SILENT)
        assert news.state is not None
        assert news.state.server is not None
        sidecar.server.signal(signal.SIGCONT)
        await news.seen("it answers again", lambda state: state.probes.ping is Ping.ANSWERS)


async def test_a_lock_of_somebody_is_no_stall(sidecar: Sidecar) -> None:
    await sidecar.admit()
    async with watching(sidecar) as (news, _), await sidecar.server.connect() as connection:
        await news.seen("it writes", lambda state: state.probes.write is Write.DONE)
        await connection.execute("FLUSH TABLES WITH READ LOCK", deadline_seconds=DEADLINE)
        await news.seen("it is blocked", lambda state: state.probes.write is Write.BLOCKED)
        await connection.execute("UNLOCK TABLES", deadline_seconds=DEADLINE)
        await news.seen("it writes again", lambda state: state.probes.write is Write.DONE)


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        (authority(epoch=5, term=9, cluster_id="another"), Reason.FOREIGN),
        (authority(epoch=4, term=9), Reason.STALE),
        (authority(epoch=5, term=8), Reason.STALE),
        (authority(epoch=5, term=9, request_id="once"), Reason.REPEATED),
    ],
    ids=["cluster", "epoch", "term", "request"],
)
@pytest.mark.parametrize("restarted", [False, True])
async def test_the_past_foreigners_and_repetitions_are_refused_also_after_a_restart(
    sidecar: Sidecar, by: Authority, reason: Reason, restarted: bool
) -> None:
    await sidecar.permit(await sidecar.waiting(), by=authority(epoch=5, term=9, request_id="once"))
    (await sidecar.server.answering()).close()
    if restarted:
        sidecar.kill()
        sidecar.start()
    with pytest.raises(RefusedForGood) as caught:
        await sidecar.fence(by=by)
    assert caught.value.reason is reason
    assert sidecar.server.pid() is not None
    assert f"refused fence from 127.0.0.1: {reason.value}" in sidecar.log()
    ledger = (await sidecar.state()).ledger
    assert (ledger.cluster_id, ledger.epoch, ledger.term, ledger.fenced) == ("c", 5, 9, False)


async def test_a_permit_is_for_the_start_that_waits(sidecar: Sidecar) -> None:
    incarnation = await sidecar.waiting()
    with pytest.raises(RefusedNow) as caught:
        await sidecar.permit("f" * 16)
    assert caught.value.reason is Reason.ANOTHER_START
    await sidecar.admit()
    with pytest.raises(RefusedNow):
        await sidecar.permit(incarnation)


async def test_a_start_that_may_cut_off_transactions_is_recorded(sidecar: Sidecar) -> None:
    incarnation = await sidecar.waiting()
    await sidecar.permit(incarnation, role=Role.REPLICA)
    (await sidecar.server.answering()).close()
    assert (await sidecar.state()).ledger.truncated == incarnation
    await sidecar.fence()
    await sidecar.admit(after=incarnation)
    assert (await sidecar.state()).ledger.truncated == incarnation


async def test_an_unreadable_record_stops_all_but_a_fence(sidecar: Sidecar) -> None:
    await sidecar.admit()
    sidecar.kill()
    ledger = sidecar.server.volume / "node.json"
    ledger.write_text('{"epoch":"five"}')
    sidecar.start()
    assert not (await sidecar.state()).ledger.readable
    fenced = await sidecar.fence()
    assert fenced.dead
    assert not fenced.recorded
    assert ledger.read_text() == '{"epoch":"five"}'
    with pytest.raises(RefusedNow) as caught:
        await sidecar.permit(await sidecar.waiting())
    assert caught.value.reason is Reason.NOT_RECORDED


async def test_a_lease_is_counted_from_the_asking(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    async with watching(sidecar) as (news, _):
        await eventually("a heartbeat", lambda: len(news.events) > 1)
        asked_at = news.events[-1][0].now
        with pytest.raises(RefusedNow) as caught:
            await sidecar.renew(incarnation, asked_at=asked_at - 0.001, seconds=30)
        assert caught.value.reason is Reason.NOT_ASKED
        with pytest.raises(RefusedNow) as caught:
            await sidecar.renew("f" * 16, asked_at=asked_at, seconds=30)
        assert caught.value.reason is Reason.ANOTHER_START
        lease = await sidecar.renew(incarnation, asked_at=asked_at, seconds=30)
        assert 0 <= asked_at + 30 - lease.deadline < 0.011
        # What was granted is not taken back by an answer that comes late.
        assert await sidecar.renew(incarnation, asked_at=asked_at, seconds=20) == lease


async def test_a_lease_that_is_over_kills_without_the_sidecar_and_a_restart_within_harms_nothing(
    sidecar: Sidecar,
) -> None:
    incarnation = await sidecar.admit()
    async with watching(sidecar) as (news, _):
        await eventually("a heartbeat", lambda: len(news.events) > 1)
        await sidecar.renew(incarnation, asked_at=news.events[-1][0].now, seconds=60)
    sidecar.kill()
    sidecar.start()
    async with watching(sidecar) as (news, _):
        await eventually("a heartbeat", lambda: len(news.events) > 1)
        assert news.state is not None
        assert news.state.server is not None
        assert news.state.lease is not None
        asked_at = news.events[-1][0].now
        await sidecar.renew(incarnation, asked_at=asked_at, seconds=0)
        lease = await sidecar.renew(incarnation, asked_at=asked_at, seconds=5)
    sidecar.kill()
    await eventually("it is killed", lambda: "the lease of mariadbd is over" in sidecar.server.log())
    assert SystemClock().monotonic() >= lease.deadline
    await eventually("it ended", lambda: "ended with code 137" in sidecar.server.log())


async def test_a_lease_is_off_until_it_is_asked_for_and_can_be_given_back(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    assert (await sidecar.state()).lease is None
    async with watching(sidecar) as (news, _):
        await eventually("a heartbeat", lambda: len(news.events) > 1)
        asked_at = news.events[-1][0].now
        await sidecar.renew(incarnation, asked_at=asked_at, seconds=60)
        lease = (await news.seen("it has one", lambda state: state.lease is not None)).lease
        assert lease is not None
        assert lease.incarnation == incarnation
        assert 0 <= asked_at + 60 - lease.deadline < 0.011
        assert (await sidecar.renew(incarnation, asked_at=asked_at, seconds=0)).deadline == 0
        await news.seen("it has none", lambda state: state.lease is None)


async def test_a_fenced_server_gets_no_lease(sidecar: Sidecar) -> None:
    incarnation = await sidecar.admit()
    async with watching(sidecar) as (news, _):
        await eventually("a heartbeat", lambda: len(news.events) > 1)
        await sidecar.fence()
        with pytest.raises(RefusedNow) as caught:
            await sidecar.renew(incarnation, asked_at=news.events[-1][0].now, seconds=3)
        assert caught.value.reason is Reason.FENCED


async def test_a_standing_session_comes_back_by_itself(sidecar: Sidecar) -> None:
    async with watching(sidecar) as (news, session):
        first = await news.seen("the first state", lambda state: True)
        assert first.server is None
        runs = {event.greeting.sidecar for event, _ in news.events if event.greeting}
        sidecar.kill()
        await eventually("the loss is told", lambda: news.losses)
        sidecar.start()
        await eventually(
            "another run greets",
            lambda: runs < {event.greeting.sidecar for event, _ in news.events if event.greeting},
        )
        request = FenceRequest(authority=authority(), wait_seconds=5)
        reply = await session.ask(Verb.FENCE, request, FenceReply, deadline_seconds=DEADLINE)
        assert reply.dead


async def test_it_is_small(sidecar: Sidecar) -> None:
    await sidecar.admit()
    connections: list[SidecarConnection] = [await sidecar.connect() for _ in range(8)]
    try:
        for _ in range(20):
            for connection in connections:
                await connection.ask(Verb.STATE, StateRequest(), StateReply, deadline_seconds=DEADLINE)
            await asyncio.sleep(0.1)  # within the rate
        assert sidecar.resident() <= 60 * 2**20
    finally:
        for connection in connections:
            connection.close()
