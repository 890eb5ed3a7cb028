"""Salvage on real servers: what only the dead primary has gets to a candidate, everybody joins it, nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path

import pytest

from mariadb_operator.node.binary_log import Diverged, Purged, inspect
from mariadb_operator.node.log_files import Damage
from mariadb_operator.node.salvage import salvage, unlogged
from mariadb_operator.node.tail_source import TailAddress, serve
from mariadb_operator.node.tails import in_thread
from mariadb_operator.runtime.errors import Uncertain
from mariadb_operator.sql import replication, roles, tails, terms
from mariadb_operator.sql.errors import StaleTerm, StatementInterrupted, StateRefused, WrongState
from mariadb_operator.sql.tails import TailRefused, TailSource
from mariadb_operator.sql.terms import Guard
from statemachines.gtid import Gtid, History, Position
from tests.integration.salvaging import (
    at_rest,
    checksums,
    cut_off,
    give,
    salvage_onto,
    slave_position,
    take,
)
from tests.integration.servers import (
    DEADLINE,
    GUARD,
    Cluster,
    Server,
    Servers,
    attach,
    eventually,
    insert,
    root,
    rows,
)

NEW_LEADER = Guard(term=2, leader="second")


class Writers:
    """Clients that write until the server is gone, each on a connection of its own."""

    def __init__(self, server: Server, count: int) -> None:
        self.acknowledged: list[int] = []
        self._server = server
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(count)]

    async def _write(self, writer: int) -> None:
        async with await self._server.connect("app", statement_seconds=0) as connection:
            for n in range(writer * 1_000_000, (writer + 1) * 1_000_000):
                await insert(connection, n)
                self.acknowledged.append(n)

    async def progress(self, count: int) -> None:
        before = len(self.acknowledged)
        await eventually("more rows", lambda: len(self.acknowledged) >= before + count)

    async def ended(self) -> None:
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(result, Exception) for result in results)


async def promote(candidate: Server) -> None:
    async with await candidate.connect() as connection:
        await terms.raise_term(connection, guard=NEW_LEADER)
        await replication.equalise(connection, guard=NEW_LEADER)
        await roles.open_primary(connection, semi_sync=False, guard=NEW_LEADER)


async def rejoin(server: Server, primary: Server) -> None:
    """The untouched old primary comes back and follows from its own position."""
    server.release()
    async with await server.answering() as connection:
        await terms.raise_term(connection, guard=NEW_LEADER)
    await attach(server, primary, guard=NEW_LEADER)


async def joined(primary: Server, *others: Server) -> None:
    """All have the same rows and nobody has one of his own."""
    await at_rest(primary, *others)
    expected = checksums(primary)
    history = (await primary.look()).history
    for other in others:
        fact = await other.seen(lambda fact: fact.replication is not None and fact.replication.sql_running)
        assert fact.replication is not None
        assert not fact.replication.io_errno, fact.replication.io_error
        assert not fact.history.errant_against(history)
        assert checksums(other) == expected


def end_of(server: Server) -> Path:
    """The newest file of its binary log that holds something."""
    name = inspect(server.data / "binlog.index").files[-1]
    return server.data / name


async def test_everything_acknowledged_is_on_a_candidate_that_had_received_none_of_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    candidate, acknowledger = cluster.replicas
    root(candidate, "STOP SLAVE IO_THREAD")
    writers = Writers(cluster.primary, 4)
    await writers.progress(200)
    await cluster.primary.kill_and_hold()
    await writers.ended()
    summary = await salvage_onto(candidate, cluster.primary, tmp_path)
    assert summary.count >= 200
    assert set(writers.acknowledged) <= set(await rows(candidate))
    assert (await candidate.look()).history == inspect(cluster.primary.data / "binlog.index").history
    async with await acknowledger.connect() as connection:
        await terms.raise_term(connection, guard=NEW_LEADER)
        await replication.stop_io(connection, guard=NEW_LEADER)
    await promote(candidate)
    async with await candidate.connect("app") as connection:
        await insert(connection, -1)
    await attach(acknowledger, candidate, guard=NEW_LEADER)
    await rejoin(cluster.primary, candidate)
    await joined(candidate, acknowledger, cluster.primary)


@pytest.mark.parametrize("missing_bytes", [1, 4, 5, 31, 40, 60, 100, 200])
async def test_a_torn_last_transaction_is_left_out_and_the_old_primary_still_joins(
    servers: Servers, tmp_path: Path, missing_bytes: int
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        for n in range(20):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    log = end_of(cluster.primary)
    whole = inspect(cluster.primary.data / "binlog.index").last
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - missing_bytes)
    [candidate] = cluster.replicas
    tail = salvage(cluster.primary.data / "binlog.index", received=await slave_position(candidate))
    summary = await take(tail, tmp_path / "tail")
    assert tail.torn is not None or not summary.last.covers(whole)
    assert tail.torn is None or tail.torn.damage in {Damage.CUT, Damage.UNFINISHED}
    await give(candidate, tmp_path / "tail", summary.last)
    assert await rows(candidate) == list(range(summary.count))
    assert 18 <= summary.count < 20
    await promote(candidate)
    await rejoin(cluster.primary, candidate)
    async with await candidate.connect("app") as connection:
        await insert(connection, 100)
    await joined(candidate, cluster.primary)


async def test_every_cut_of_a_real_log_gives_its_whole_transactions(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    received = await slave_position(cluster.replicas[0])
    async with await cluster.primary.connect("app") as connection:
        for n in range(3):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    log = end_of(cluster.primary)
    shutil.copy(cluster.primary.data / "binlog.index", tmp_path)
    data = log.read_bytes()
    counts = []
    for size in range(len(data) - 700, len(data) + 1):
        (tmp_path / log.name).write_bytes(data[:size])
        tail = salvage(tmp_path / "binlog.index", received=received)
        for _ in tail:
            pass
        assert tail.summary is not None
        counts.append(tail.summary.count)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)
    assert len(counts) - counts.index(3) == 1  # only all of it


async def test_a_second_application_finds_nothing_to_do(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        for n in range(10):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    summary = await salvage_onto(candidate, cluster.primary, tmp_path)
    assert await give(candidate, tmp_path / "tail", summary.last) == summary.last
    assert await rows(candidate) == list(range(10))


async def test_an_interrupted_application_goes_on_where_it_ended(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    root(cluster.primary, "ALTER TABLE shop.orders ADD PRIMARY KEY (n)")
    async with await cluster.primary.connect("app") as connection:
        for n in range(50):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    tail = salvage(cluster.primary.data / "binlog.index", received=await slave_position(candidate))
    summary = await take(tail, tmp_path / "tail")
    blocked = asyncio.create_task(
        asyncio.to_thread(
            root, candidate, "BEGIN; INSERT INTO shop.orders (n) VALUES (30); SELECT SLEEP(5); ROLLBACK"
        )
    )
    await asyncio.sleep(0)
    await candidate.seen(lambda _: "SLEEP" in root(candidate, "SHOW FULL PROCESSLIST"))
    # The table's change waits for the session above, for longer than the deadline.
    with pytest.raises(StatementInterrupted, match="not within"):
        await give(candidate, tmp_path / "tail", summary.last, deadline_seconds=0.5)
    assert not root(candidate, "SHOW ALL SLAVES STATUS").count("127.0.0.1\ttail")
    assert not (await slave_position(candidate)).covers(summary.last)
    await blocked
    await give(candidate, tmp_path / "tail", summary.last)
    assert await rows(candidate) == list(range(50))


async def test_a_statement_that_takes_long_does_not_break_the_connection_to_the_tail(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    root(cluster.primary, "ALTER TABLE shop.orders ADD PRIMARY KEY (n)")
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    # Longer than slave_net_timeout.
    lock = "LOCK TABLES shop.orders WRITE; SELECT SLEEP(6)"
    blocked = asyncio.create_task(asyncio.to_thread(root, candidate, lock))
    await candidate.seen(lambda _: "SLEEP" in root(candidate, "SHOW FULL PROCESSLIST"))
    summary = await salvage_onto(candidate, cluster.primary, tmp_path)
    await blocked
    assert summary.count == 2
    after = candidate.log().partition("Master connection name: 'tail'")[2]
    assert after.count("'tail': Slave I/O thread: Start") == 1
    assert "ERROR" not in after


async def test_a_server_that_dies_while_it_applies_goes_on_after_its_restart(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        for n in range(800):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    start = await slave_position(candidate)
    summary = await take(salvage(cluster.primary.data / "binlog.index", received=start), tmp_path / "tail")
    giving = asyncio.create_task(give(candidate, tmp_path / "tail", summary.last))
    await candidate.seen(lambda fact: fact.slave_position != start)
    await candidate.kill_and_hold()
    result = (await asyncio.gather(giving, return_exceptions=True))[0]
    assert isinstance(result, BaseException)
    candidate.release()
    (await candidate.answering()).close()
    # It was restarted: semi-sync as a source is on, and the SQL thread would wait for ever.
    assert (await candidate.look()).semi_sync.source_enabled
    await give(candidate, tmp_path / "tail", summary.last)
    assert (await candidate.look()).semi_sync.source_enabled
    assert await rows(candidate) == list(range(800))
    assert not unlogged(candidate.data / "binlog.index", tmp_path / "tail")


async def test_a_server_that_freezes_while_it_applies_leaves_the_outcome_uncertain(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        for n in range(400):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    [candidate] = cluster.replicas
    start = await slave_position(candidate)
    summary = await take(salvage(cluster.primary.data / "binlog.index", received=start), tmp_path / "tail")
    giving = asyncio.create_task(give(candidate, tmp_path / "tail", summary.last))
    await candidate.seen(lambda fact: fact.slave_position != start)
    candidate.signal(signal.SIGSTOP)
    with pytest.raises(Uncertain):
        await giving
    candidate.signal(signal.SIGCONT)
    await give(candidate, tmp_path / "tail", summary.last)
    assert await rows(candidate) == list(range(400))
    assert not unlogged(candidate.data / "binlog.index", tmp_path / "tail")


async def test_a_candidate_that_still_receives_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    candidate = cluster.replicas[0]
    tail = salvage(cluster.primary.data / "binlog.index", received=Position())
    summary = await take(tail, tmp_path / "tail")
    beyond = Position((Gtid(0, 1, summary.last.gtids[0].sequence + 1),))
    with pytest.raises(StateRefused) as caught:
        await give(candidate, tmp_path / "tail", beyond)
    assert caught.value.reason is WrongState.NOT_DRAINED


async def test_a_tail_that_begins_later_than_the_candidate_ends_is_refused(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        for n in range(4):
            await insert(connection, n)
    [candidate] = cluster.replicas
    later = Position((Gtid(0, 1, (await slave_position(candidate)).gtids[0].sequence + 2),))
    summary = await take(salvage(cluster.primary.data / "binlog.index", received=later), tmp_path / "tail")
    with pytest.raises(TailRefused, match="begins after") as caught:
        await give(candidate, tmp_path / "tail", summary.last)
    assert caught.value.errno == 1236
    assert not await rows(candidate)


async def test_a_foreign_write_on_the_candidate_is_told_before_anything_is_applied(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    [candidate] = cluster.replicas
    root(candidate, "SET GLOBAL rpl_semi_sync_master_enabled = OFF; INSERT INTO shop.orders (n) VALUES (99)")
    executed = (await candidate.look()).executed
    with pytest.raises(Diverged):
        await take(salvage(cluster.primary.data / "binlog.index", received=executed), tmp_path / "tail")


async def test_an_error_of_the_server_ends_the_application_with_its_number(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    [candidate] = cluster.replicas
    root(candidate, "SET SESSION sql_log_bin = 0; DROP TABLE shop.orders")
    tail = salvage(cluster.primary.data / "binlog.index", received=await slave_position(candidate))
    summary = await take(tail, tmp_path / "tail")
    with pytest.raises(TailRefused, match="orders") as caught:
        await give(candidate, tmp_path / "tail", summary.last)
    assert caught.value.errno == 1146


async def test_a_leader_of_the_past_applies_nothing(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    [candidate] = cluster.replicas
    async with await candidate.connect() as connection:
        await terms.raise_term(connection, guard=NEW_LEADER)
    tail = salvage(cluster.primary.data / "binlog.index", received=await slave_position(candidate))
    summary = await take(tail, tmp_path / "tail")
    with pytest.raises(StaleTerm):
        await give(candidate, tmp_path / "tail", summary.last, guard=GUARD)
    assert not await rows(candidate)


async def test_a_wrong_password_gets_nothing(servers: Servers, tmp_path: Path) -> None:
    cluster = await Cluster.make(servers, instances=2)
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    [candidate] = cluster.replicas
    tail = salvage(cluster.primary.data / "binlog.index", received=await slave_position(candidate))
    summary = await take(tail, tmp_path / "tail")
    async with serve(tmp_path / "tail") as address, await candidate.connect() as connection:
        with pytest.raises(TailRefused) as caught:
            await tails.apply_tail(
                connection,
                source=_source(address, password="guessed"),
                target=summary.last,
                guard=GUARD,
                deadline_seconds=DEADLINE,
            )
        assert caught.value.errno == 1045
        assert address.password not in candidate.log()
        assert address.password not in repr(address)


async def test_a_purged_log_is_told(servers: Servers) -> None:
    cluster = await Cluster.make(servers, instances=2)
    received = await slave_position(cluster.replicas[0])
    await cut_off(cluster)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    root(cluster.primary, "FLUSH BINARY LOGS")
    purge = "PURGE BINARY LOGS TO 'binlog.000002'"  # not while somebody still reads it
    first = cluster.primary.data / "binlog.000001"
    await eventually("purged", lambda: root(cluster.primary, purge) or not first.exists())
    with pytest.raises(Purged):
        for _ in salvage(cluster.primary.data / "binlog.index", received=received):
            pass


async def test_inspection_agrees_with_the_server(cluster: Cluster) -> None:
    async with await cluster.primary.connect("app") as connection:
        for n in range(30):
            await insert(connection, n)
            if n % 10 == 0:
                root(cluster.primary, "FLUSH BINARY LOGS")
    state = root(cluster.primary, "SELECT @@gtid_binlog_state")
    seen = inspect(cluster.primary.data / "binlog.index")
    assert seen.history == History.parse(state)
    assert seen.torn is None
    assert len(seen.files) == 4


async def test_a_stream_from_a_disk_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    class Stuck:
        def __iter__(self) -> Stuck:
            return self

        def __next__(self) -> bytes:
            time.sleep(0.5)
            return b""

    with pytest.raises(Exception, match="gave nothing"):
        async for _ in in_thread(Stuck(), deadline_seconds=0.05):
            pass


def _source(address: TailAddress, *, password: str) -> TailSource:
    return TailSource(port=address.port, user=address.user, password=password)
