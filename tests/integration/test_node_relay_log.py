"""What a restarted replica received and did not apply is taken out of its relay logs before START SLAVE wipes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mariadb_operator.node.binary_log import inspect
from mariadb_operator.node.log_files import Damage, LogMissing
from mariadb_operator.node.relay_log import extract
from mariadb_operator.node.salvage import unlogged
from mariadb_operator.node.tails import Summary
from statemachines.gtid import Position
from tests.integration.salvaging import checksums, give, slave_position, take
from tests.integration.servers import Cluster, Server, Servers, insert, root, rows


async def received_but_not_applied(
    servers: Servers, statements: str = "", *, count: int = 40
) -> tuple[Cluster, Server]:
    """A replica that acknowledged rows, applied none of them, and was restarted; its primary is dead."""
    cluster = await Cluster.make(servers, instances=2)
    [replica] = cluster.replicas
    root(replica, "STOP SLAVE SQL_THREAD")
    async with await cluster.primary.connect("app") as connection:
        for n in range(count):
            await insert(connection, n)
    if statements:
        root(cluster.primary, statements)
    position = (await cluster.primary.look()).executed
    await replica.seen(lambda fact: fact.replication and fact.replication.received.covers(position))
    await cluster.primary.kill_and_hold()
    await replica.kill_and_hold()
    replica.release()
    (await replica.answering()).close()
    return cluster, replica


def index_of(server: Server) -> Path:
    return server.data / "relay.index"


async def test_acknowledged_rows_survive_the_death_of_both_servers(servers: Servers, tmp_path: Path) -> None:
    cluster, replica = await received_but_not_applied(servers)
    fact = await replica.look()
    assert fact.replication is not None
    assert not fact.replication.received  # it does not know itself
    assert not await rows(replica)
    tail = extract(index_of(replica), applied=fact.slave_position)
    summary = await take(tail, tmp_path / "tail")
    assert summary.count == 40
    assert tail.torn is None
    assert summary.last == inspect(cluster.primary.data / "binlog.index").last
    await give(replica, tmp_path / "tail", summary.last)
    assert await rows(replica) == list(range(40))
    assert not unlogged(replica.data / "binlog.index", tmp_path / "tail")


async def test_applying_leaves_the_relay_logs_of_the_primary_as_they_are(
    servers: Servers, tmp_path: Path
) -> None:
    """Until all is applied they are the only other copy."""
    _, replica = await received_but_not_applied(servers)
    before = {path.name: path.read_bytes() for path in replica.data.glob("relay.0*")}
    applied = await slave_position(replica)
    summary = await take(extract(index_of(replica), applied=applied), tmp_path / "tail")
    await give(replica, tmp_path / "tail", summary.last)
    assert {path.name: path.read_bytes() for path in replica.data.glob("relay.0*")} == before
    assert (await take(extract(index_of(replica), applied=applied), tmp_path / "again")) == summary


async def test_transactions_across_relay_log_files_and_formats_are_whole(
    servers: Servers, tmp_path: Path
) -> None:
    cluster, replica = await received_but_not_applied(
        servers,
        "FLUSH BINARY LOGS; CREATE TABLE shop.l (b LONGBLOB); INSERT INTO shop.l VALUES (REPEAT('x', 6000000));"
        " SET GLOBAL binlog_checksum = NONE; INSERT INTO shop.l VALUES (REPEAT('y', 3000000));"
        " FLUSH BINARY LOGS; INSERT INTO shop.l VALUES ('z')",
    )
    assert len(list(replica.data.glob("relay.0*"))) > 2
    summary = await take(extract(index_of(replica), applied=await slave_position(replica)), tmp_path / "tail")
    await give(replica, tmp_path / "tail", summary.last)
    cluster.primary.release()
    (await cluster.primary.answering()).close()
    assert checksums(replica) == checksums(cluster.primary)


@pytest.mark.parametrize("missing_bytes", [1, 30, 100, 300])
async def test_a_torn_relay_log_gives_what_is_whole(
    servers: Servers, tmp_path: Path, missing_bytes: int
) -> None:
    _, replica = await received_but_not_applied(servers)
    newest = max(replica.data.glob("relay.0*"), key=lambda path: (path.stat().st_size > 1000, path.name))
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size - missing_bytes)
    tail = extract(index_of(replica), applied=await slave_position(replica))
    summary = await take(tail, tmp_path / "tail")
    assert tail.torn is None or tail.torn.damage in {Damage.CUT, Damage.UNFINISHED}
    assert 37 <= summary.count < 40
    await give(replica, tmp_path / "tail", summary.last)
    assert await rows(replica) == list(range(summary.count))


async def test_a_replica_that_applied_everything_has_nothing_to_extract(
    cluster: Cluster, tmp_path: Path
) -> None:
    replica = cluster.replicas[0]
    summary: Summary = await take(
        extract(index_of(replica), applied=await slave_position(replica)), tmp_path / "tail"
    )
    assert summary.count == 0


async def test_a_server_without_relay_logs_is_told_from_one_with_nothing_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(LogMissing):
        await asyncio.to_thread(list, extract(index_of(cluster.primary), applied=Position()))
