"""The operator's connections: opened ahead, replaced when they or the address change, never used when dead."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import pytest

from mariadb_operator.act.servers import NoAddress, Servers
from mariadb_operator.sql.connection import Endpoint
from tests.unit.virtual_time import settle, virtual_time

ENDPOINT = Endpoint(
    host="10.0.0.1",
    port=3306,
    user="operator",
    password="p",
    tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    server_id=1,
)


class Connection:
    """What Connection.open gives; `end` is the server's doing."""

    opened: list[Connection]

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connection_id = len(self.opened)
        self.incarnation = "a"
        self.is_closed = False
        self.is_busy = False
        self.ended = asyncio.Event()

    @classmethod
    async def open(cls, endpoint: Endpoint, *, deadline_seconds: float) -> Connection:
        await asyncio.sleep(0.01)
        connection = cls(endpoint)
        cls.opened.append(connection)
        return connection

    def close(self) -> None:
        self.is_closed = True
        self.ended.set()

    async def wait_closed(self) -> None:
        await self.ended.wait()


class Bench:
    def __init__(self) -> None:
        self.address: Endpoint | None = ENDPOINT
        self.servers = Servers(lambda _: self.address)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    Connection.opened = []
    monkeypatch.setattr("mariadb_operator.act.servers.Connection", Connection)
    return Bench()


@virtual_time
async def test_the_standing_connection_is_opened_once(bench: Bench) -> None:
    first, second = await asyncio.gather(bench.servers.standing("demo-0"), bench.servers.standing("demo-0"))
    assert first is second
    assert bench.servers.is_warm("demo-0")
    assert bench.servers.own_ids("demo-0") == {0}


@virtual_time
async def test_a_connection_that_the_server_ended_is_not_used_again(bench: Bench) -> None:
    first = await bench.servers.standing("demo-0")
    Connection.opened[0].ended.set()
    await settle()
    assert not bench.servers.is_warm("demo-0")
    assert await bench.servers.standing("demo-0") is not first
    assert bench.servers.is_warm("demo-0")


@virtual_time
async def test_a_statement_under_way_is_left_to_find_out_by_itself(bench: Bench) -> None:
    await bench.servers.standing("demo-0")
    Connection.opened[0].is_busy = True
    Connection.opened[0].ended.set()
    await settle()
    assert not Connection.opened[0].is_closed


@virtual_time
async def test_another_address_gets_another_connection_and_the_old_one_is_closed(bench: Bench) -> None:
    first = await bench.servers.standing("demo-0")
    bench.address = replace(ENDPOINT, host="10.0.0.2")
    assert not bench.servers.is_warm("demo-0")
    second = await bench.servers.standing("demo-0")
    assert second.endpoint == bench.address
    assert first.is_closed


@virtual_time
async def test_without_an_address_there_is_none(bench: Bench) -> None:
    bench.address = None
    with pytest.raises(NoAddress):
        await bench.servers.standing("demo-0")
    with pytest.raises(NoAddress):
        await bench.servers.fresh("demo-0")


@virtual_time
async def test_a_prepared_connection_is_handed_out_once_and_only_to_its_address(bench: Bench) -> None:
    await bench.servers.prepare("demo-0")
    assert bench.servers.is_prepared("demo-0")
    first = await bench.servers.fresh("demo-0")
    assert len(Connection.opened) == 1
    assert not bench.servers.is_prepared("demo-0")
    await bench.servers.prepare("demo-0")
    bench.address = replace(ENDPOINT, host="10.0.0.2")
    moved = await bench.servers.fresh("demo-0")
    assert moved is not first
    assert moved.endpoint == bench.address
    assert Connection.opened[1].is_closed


@virtual_time
async def test_a_fresh_connection_counts_as_our_own_until_it_is_given_back(bench: Bench) -> None:
    fresh = await bench.servers.fresh("demo-0")
    assert bench.servers.own_ids("demo-0") == {fresh.connection_id}
    bench.servers.give_back("demo-0", fresh)
    assert fresh.is_closed
    assert bench.servers.own_ids("demo-0") == frozenset()


@virtual_time
async def test_only_a_closed_standing_connection_was_interrupted(bench: Bench) -> None:
    assert bench.servers.interrupted("demo-0") is None
    connection = await bench.servers.standing("demo-0")
    assert bench.servers.interrupted("demo-0") is None
    connection.close()
    lost = bench.servers.interrupted("demo-0")
    assert lost is not None
    assert (lost.connection_id, lost.incarnation) == (connection.connection_id, "a")


@virtual_time
async def test_all_are_closed_with_their_owner(bench: Bench) -> None:
    await bench.servers.standing("demo-0")
    await bench.servers.prepare("demo-1")
    await bench.servers.fresh("demo-2")
    bench.servers.close()
    await settle()
    assert all(each.is_closed for each in Connection.opened)
    assert not bench.servers._watches
