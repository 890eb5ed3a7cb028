"""The model of MariaDB follows FACTS.md: each rule that the simulation leans on, alone on two bare servers.

The same rules on real servers are tests/integration's to show. Not for what the operator does with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from statemachines.facts import IoThread
from tests.simulation.clients import kill
from tests.simulation.judge import Judge
from tests.simulation.kubelets import Sandbox
from tests.simulation.loop import WORLD
from tests.simulation.mariadb import NOT_IN_BINLOG, OUT_OF_ORDER, Server, SqlError
from tests.simulation.statements import INTERRUPTED, Execution, Session
from tests.simulation.volumes import Kind, Source, Volume
from tests.simulation.world import Shape, World


class Pair:
    """A source with accounts and a replica of it, on volumes that outlive them; no operator, no clients."""

    def __init__(self) -> None:
        self.world = World(1, Shape(operators=0, clients=0, replicas=2))
        self.world.judge = cast(
            Judge, SimpleNamespace(written=_nothing, released=_nothing, wiped=_nothing, opened=_nothing)
        )
        self.volumes = [Volume(), Volume()]
        self.servers = [self.start(0), self.start(1)]
        self.heard: list[SqlError | None] = []

    @property
    def source(self) -> Server:
        return self.servers[0]

    @property
    def replica(self) -> Server:
        return self.servers[1]

    def start(self, number: int) -> Server:
        address = f"10.0.0.{number}"
        server = Server(
            self.world, name=f"db-{number}", ordinal=number, volume=self.volumes[number], address=address,
            host=f"node{number}", pod_uid=f"pod-{number}",
        )  # fmt: skip
        place = SimpleNamespace(node=SimpleNamespace(name=server.host), server=server, refuses=False)
        self.world.sandboxes[address] = cast(Sandbox, place)
        return server

    def write(self, session: object = None) -> None:
        self.source.write(Kind.ROW, self.heard.append, privileged=True, session=session)

    async def attach(self) -> None:
        self.source.set_semi_sync(False)
        self.source.write(Kind.SETUP, self.heard.append, privileged=True)
        self.source.set_semi_sync(True)
        self.replica.set_semi_sync(False)
        self.replica.volume.source = Source(host="10.0.0.0", port=3306, user="repl_1")
        self.replica.start_slave(io=True, sql=True)
        await asyncio.sleep(0.1)
        self.heard.clear()

    def run(self, server: Server, text: str, *, limit: float = 5.0) -> list[Any]:
        answers: list[Any] = []
        session = Session(99, "somebody", server, lambda: None, limit=limit)
        server.sessions[99] = session
        server.deliver(Execution, session, text, answers.append)
        return answers


def io_thread(pair: Pair) -> IoThread:
    return pair.replica.io_thread


def _nothing(*_: object, **__: object) -> None:
    pass


def on_a_pair(test: Callable[[Pair], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        pair = Pair()

        async def main() -> None:
            await pair.attach()
            await test(pair)

        pair.world.loop.run(pair.world.loop.spawn(WORLD, main()))
        pair.world.loop.end()

    run.__name__ = test.__name__
    return run


@on_a_pair
async def test_a_commit_is_answered_when_one_replica_has_it_in_its_relay_log(pair: Pair) -> None:
    pair.write()
    assert pair.heard == []
    await asyncio.sleep(0.1)
    assert pair.heard == [None]
    assert pair.source.acknowledged_count == 1


@on_a_pair
async def test_without_a_replica_a_commit_waits_for_ever_and_stays_after_a_crash(pair: Pair) -> None:
    pair.replica.stop_io()
    await asyncio.sleep(0.1)
    pair.write()
    await asyncio.sleep(3600.0)
    assert pair.heard == []
    pair.source.die()
    assert len(pair.start(0).volume.log) == 2


@on_a_pair
async def test_a_query_killed_in_its_wait_answers_ok_and_is_counted(pair: Pair) -> None:
    pair.replica.stop_io()
    await asyncio.sleep(0.1)
    pair.write(session := object())
    kill(pair.source, session)
    assert pair.heard == [None]
    assert (pair.source.acknowledged_count, pair.source.unacknowledged_count) == (0, 1)


@on_a_pair
async def test_turning_semi_sync_off_frees_who_waits_with_ok(pair: Pair) -> None:
    pair.replica.stop_io()
    await asyncio.sleep(0.1)
    pair.write()
    pair.run(pair.source, "SET GLOBAL rpl_semi_sync_master_enabled = OFF")
    assert pair.heard == [None]


@on_a_pair
async def test_read_only_hangs_while_commits_wait_and_writable_does_not(pair: Pair) -> None:
    pair.replica.stop_io()
    pair.run(pair.source, "SET GLOBAL read_only = 0")
    await asyncio.sleep(0.1)
    pair.write()
    answers = pair.run(pair.source, "SET GLOBAL read_only = 1")
    assert pair.run(pair.source, "SET GLOBAL read_only = 0") == [[]]
    await asyncio.sleep(6.0)
    assert [each.errno for each in answers] == [INTERRUPTED]
    assert not pair.source.read_only


@on_a_pair
async def test_the_first_start_after_both_threads_stopped_wipes_what_was_received(pair: Pair) -> None:
    pair.replica.stop_sql()
    pair.write()
    await asyncio.sleep(0.1)
    assert len(pair.replica.volume.relay) == 1
    pair.run(pair.replica, "STOP SLAVE IO_THREAD")
    pair.run(pair.replica, "START SLAVE SQL_THREAD")
    await asyncio.sleep(0.1)
    assert pair.replica.volume.relay == []
    assert len(pair.replica.volume.log) == 1


@on_a_pair
async def test_with_the_sql_thread_running_the_io_thread_stops_and_starts_without_loss(pair: Pair) -> None:
    pair.replica.apply_delay = 1.0
    pair.write()
    await asyncio.sleep(0.1)
    pair.run(pair.replica, "STOP SLAVE IO_THREAD")
    pair.run(pair.replica, "START SLAVE IO_THREAD")
    assert len(pair.replica.volume.relay) == 1
    await asyncio.sleep(3.0)
    assert len(pair.replica.volume.log) == 2


@on_a_pair
async def test_the_sql_thread_started_while_the_io_thread_connects_keeps_all(pair: Pair) -> None:
    pair.replica.stop_sql()
    pair.write()
    await asyncio.sleep(0.1)
    pair.source.die()
    await asyncio.sleep(0.5)
    assert io_thread(pair) == IoThread.CONNECTING
    pair.run(pair.replica, "START SLAVE SQL_THREAD")
    pair.run(pair.replica, "STOP SLAVE IO_THREAD")
    await asyncio.sleep(0.1)
    assert len(pair.replica.volume.log) == 2


@on_a_pair
async def test_after_a_restart_the_relay_log_is_there_and_no_position_shows_it(pair: Pair) -> None:
    pair.replica.stop_sql()
    pair.write()
    await asyncio.sleep(0.1)
    pair.replica.die()
    again = pair.start(1)
    assert again.received is None
    assert len(again.volume.relay) == 1
    assert (again.io_thread, again.sql_running, again.read_only) == (IoThread.STOPPED, False, True)


@on_a_pair
async def test_semi_sync_on_at_a_replica_stops_its_sql_thread_for_ever(pair: Pair) -> None:
    pair.replica.set_semi_sync(True)
    pair.write()
    await asyncio.sleep(60.0)
    assert len(pair.replica.volume.relay) == 1
    pair.replica.set_semi_sync(False)
    await asyncio.sleep(0.1)
    assert pair.replica.volume.relay == []


@on_a_pair
async def test_a_statement_sent_to_a_frozen_server_runs_when_it_thaws(pair: Pair) -> None:
    pair.source.freeze()
    answers = pair.run(pair.source, "SET GLOBAL read_only = 0")
    pair.source.sessions[99].closed = True  # the client is long gone
    await asyncio.sleep(5.0)
    assert (answers, pair.source.read_only) == ([], True)
    pair.source.thaw()
    assert not pair.source.read_only


@on_a_pair
async def test_a_frozen_source_is_noticed_after_seconds_and_a_dead_one_at_once(pair: Pair) -> None:
    pair.source.freeze()
    pair.world.hush()
    pair.replica.listen_for_silence()
    await asyncio.sleep(3.0)
    assert io_thread(pair) == IoThread.RUNNING
    await asyncio.sleep(1.5)
    assert io_thread(pair) == IoThread.CONNECTING
    pair.source.thaw()
    await asyncio.sleep(5.0)
    assert io_thread(pair) == IoThread.RUNNING
    pair.source.die()
    await asyncio.sleep(0.15)
    assert io_thread(pair) == IoThread.CONNECTING


@on_a_pair
async def test_to_stop_a_replica_whose_source_is_frozen_takes_a_second_or_two(pair: Pair) -> None:
    pair.source.freeze()
    answers = pair.run(pair.replica, "STOP SLAVE IO_THREAD")
    await asyncio.sleep(0.9)
    assert answers == []
    await asyncio.sleep(1.2)
    assert answers == [[]]


@on_a_pair
async def test_a_locked_account_is_not_let_in_and_one_that_is_connected_stays(pair: Pair) -> None:
    pair.run(pair.source, "ALTER USER repl_1@'%' ACCOUNT LOCK")
    pair.write()
    await asyncio.sleep(0.1)
    assert pair.heard == [None]
    pair.run(pair.source, "KILL CONNECTION USER repl_1@'%'")
    await asyncio.sleep(3.0)
    assert io_thread(pair) == IoThread.CONNECTING
    assert pair.source.clients == 0


@on_a_pair
async def test_an_errant_write_ends_the_sql_thread_and_is_refused_by_another_source(pair: Pair) -> None:
    pair.replica.write(Kind.ROW, pair.heard.append, privileged=True)
    pair.write()
    await asyncio.sleep(0.1)
    assert pair.replica.sql_errno == OUT_OF_ORDER
    pair.run(pair.replica, "STOP SLAVE")
    pair.run(pair.replica, "SET GLOBAL gtid_slave_pos = '0-2-2'")
    pair.run(pair.replica, "START SLAVE")
    await asyncio.sleep(0.1)
    assert (pair.replica.io_errno, pair.replica.io_thread) == (NOT_IN_BINLOG, IoThread.STOPPED)
