"""Tails: what was sent is what arrives or nothing does, and a replica is given the events as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mariadb_operator.node import source_wire as wire
from mariadb_operator.node.relay_log import extract
from mariadb_operator.node.salvage import salvage, unlogged
from mariadb_operator.node.tail_source import TailAddress, serve
from mariadb_operator.node.tails import (
    Summary,
    Tail,
    TailBroken,
    TailTooLong,
    receive,
    summarise,
    transactions_in,
)
from mariadb_operator.node.transactions import Transactions, close_files, open_files
from statemachines.gtid import Gtid, Position
from tests.unit.log_builder import FORMAT, GTID_LIST, ROTATE, TABLE_MAP, WRITE_ROWS, XID, Log, folder_of

ANSWER_SECONDS = 10.0


def gtid(sequence: int) -> Gtid:
    return Gtid(0, 1, sequence)


def up_to(sequence: int) -> Position:
    return Position((gtid(sequence),))


def log_of(count: int, *sizes: int) -> Log:
    log = Log().head()
    for number in range(1, count + 1):
        log.transaction(gtid(number), *(sizes or (20,)))
    return log


async def sent(tail: Tail) -> AsyncIterator[bytes]:
    for piece in tail:
        yield piece


async def take(tail: Tail, path: Path, *, limit_bytes: int = 1 << 30) -> Summary:
    return await receive(
        sent(tail), path, expected=lambda: tail.summary, limit_bytes=limit_bytes, deadline_seconds=5
    )


async def test_a_tail_holds_the_bytes_after_the_position(tmp_path: Path) -> None:
    log = log_of(6)
    index = folder_of(tmp_path, [log])
    summary = await take(salvage(index, received=up_to(4)), tmp_path / "tail")
    assert (summary.after, summary.count, summary.first, summary.last) == (up_to(4), 2, gtid(5), up_to(6))
    assert (tmp_path / "tail").read_bytes().endswith(bytes(log.data[log.ends[4][1] :]))
    assert summarise(tmp_path / "tail") == summary
    assert transactions_in(tmp_path / "tail") == (up_to(4), (gtid(5), gtid(6)))


async def test_a_tail_of_nothing_is_a_tail(tmp_path: Path) -> None:
    summary = await take(salvage(folder_of(tmp_path, [log_of(3)]), received=up_to(3)), tmp_path / "tail")
    assert (summary.count, summary.first, summary.last) == (0, None, Position())


async def test_a_torn_transaction_is_reported_beside_the_tail(tmp_path: Path) -> None:
    log = log_of(3).begin(gtid(4))
    tail = salvage(folder_of(tmp_path, [log]), received=up_to(1))
    summary = await take(tail, tmp_path / "tail")
    assert summary.last == up_to(3)
    assert tail.torn is not None
    assert tail.torn.gtid == gtid(4)


async def test_what_was_changed_on_the_way_is_not_put_in_place(tmp_path: Path) -> None:
    tail = salvage(folder_of(tmp_path, [log_of(6)]), received=up_to(2))

    async def changed() -> AsyncIterator[bytes]:
        for piece in tail:
            yield piece[:-30] + bytes([piece[-30] ^ 1]) + piece[-29:]

    with pytest.raises(TailBroken):
        await receive(
            changed(),
            tmp_path / "tail",
            expected=lambda: tail.summary,
            limit_bytes=1 << 30,
            deadline_seconds=5,
        )
    assert not (tmp_path / "tail").exists()
    await take(tail, tmp_path / "tail")


async def test_a_stream_that_ends_between_two_transactions_is_not_put_in_place(tmp_path: Path) -> None:
    """Such a file is whole in itself: only the sender's summary tells."""
    log = log_of(6)
    tail = salvage(folder_of(tmp_path, [log]), received=up_to(2))

    async def shorter() -> AsyncIterator[bytes]:
        whole = b"".join(tail)
        yield whole[: -(log.ends[-1][2] - log.ends[-1][1])]

    with pytest.raises(TailBroken, match="count=3"):
        await receive(
            shorter(),
            tmp_path / "tail",
            expected=lambda: tail.summary,
            limit_bytes=1 << 30,
            deadline_seconds=5,
        )
    assert not (tmp_path / "tail").exists()


async def test_a_stream_that_stalls_is_given_up(tmp_path: Path) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"\xfebin"
        await asyncio.Event().wait()

    with pytest.raises(TailBroken, match="nothing came"):
        await receive(
            stalled(), tmp_path / "tail", expected=lambda: None, limit_bytes=100, deadline_seconds=0.5
        )


async def test_a_tail_longer_than_allowed_is_refused(tmp_path: Path) -> None:
    index = folder_of(tmp_path, [log_of(3, 100_000)])
    with pytest.raises(TailTooLong):
        await take(salvage(index, received=up_to(1)), tmp_path / "tail", limit_bytes=150_000)
    assert not (tmp_path / "tail").exists()


async def test_a_change_of_format_is_kept(tmp_path: Path) -> None:
    plain = Log(checksum=False).head([gtid(2)]).transaction(gtid(3), 30)
    again = Log().head([gtid(3)]).transaction(gtid(4), 30)
    index = folder_of(tmp_path, [log_of(2), plain, again])
    summary = await take(salvage(index, received=up_to(1)), tmp_path / "tail")
    assert (summary.count, summary.last) == (3, up_to(4))
    assert transactions_in(tmp_path / "tail")[1] == (gtid(2), gtid(3), gtid(4))


async def test_what_a_server_left_out_is_named(tmp_path: Path) -> None:
    await take(salvage(folder_of(tmp_path, [log_of(6)]), received=up_to(2)), tmp_path / "tail")
    own = tmp_path / "own"
    own.mkdir()
    log = Log().head()
    for number in (1, 2, 3, 6):
        log.transaction(gtid(number), 10)
    assert unlogged(folder_of(own, [log]), tmp_path / "tail") == (gtid(4), gtid(5))


def relay_logs() -> list[Log]:
    """Two files; a transaction goes on in the second, where the source's format stands again."""
    first = Log(relay=True).head(None, server=2).event(ROTATE, b"12345678binlog.000001").head(None)
    first.transaction(gtid(1), 10).transaction(gtid(2), 10).begin(gtid(3)).rows(10)
    first.event(ROTATE, b"12345678relay.000002", server=2)
    second = Log(relay=True).head(None, server=2).event(ROTATE, b"12345678binlog.000001").head(None)
    second.event(TABLE_MAP, bytes(20)).event(WRITE_ROWS, bytes(20)).event(XID, bytes(8)).transaction(
        gtid(4), 10
    )
    return [first, second]


async def test_a_transaction_that_goes_on_in_the_next_relay_log_is_whole(tmp_path: Path) -> None:
    index = folder_of(tmp_path, relay_logs(), name="relay")
    summary = await take(extract(index, applied=up_to(1)), tmp_path / "tail")
    assert (summary.count, summary.last) == (3, up_to(4))
    data = (tmp_path / "tail").read_bytes()
    kinds = []
    at = 4
    while at < len(data):
        kinds.append(data[at + 4])
        at += int.from_bytes(data[at + 9 : at + 13], "little")
    assert ROTATE not in kinds
    assert (kinds.count(TABLE_MAP), kinds.count(WRITE_ROWS), kinds.count(XID)) == (4, 4, 3)
    assert kinds[:2] == [FORMAT, GTID_LIST]


def test_it_is_the_same_whether_checksums_are_compared_or_not(tmp_path: Path) -> None:
    logs = relay_logs()
    logs[1].begin(gtid(5)).rows(10)
    logs.append(Log(relay=True).head(None, server=2).rows(10).event(XID, bytes(8)))
    files = open_files([log.write(tmp_path / str(n)) for n, log in enumerate(logs)])
    try:
        quick, careful = (
            [
                [(part.start, part.end) for part in each.parts]
                for each in Transactions(files, files[0].first, verify=v)
            ]
            for v in (False, True)
        )
        assert quick == careful
        assert len(quick) == 5
    finally:
        close_files(files)


async def test_a_transaction_that_was_received_anew_is_taken_once(tmp_path: Path) -> None:
    log = Log(relay=True).head(None, server=2).head(None).transaction(gtid(1), 10)
    log.begin(gtid(2)).rows(10).event(ROTATE, b"12345678binlog.000001").head(None).transaction(gtid(2), 10)
    index = folder_of(tmp_path, [log], name="relay")
    summary = await take(extract(index, applied=Position()), tmp_path / "tail")
    assert (summary.count, summary.last) == (2, up_to(2))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 70), cuts=st.lists(st.integers(0, 70)), limit=st.integers(2, 9))
def test_packets_put_together_again_are_the_event(length: int, cuts: list[int], limit: int) -> None:
    whole = bytes(range(length))
    places = sorted({min(cut, length) for cut in cuts} | {0, length})
    pieces = [whole[start:end] for start, end in pairwise(places)]
    data = b"".join(wire.EventFrames(7, longest=limit).frames(length, pieces))
    got, at, number, last = b"", 0, 7, limit
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "little")
        assert data[at + 3] == number % 256
        assert last == limit  # only the last is shorter
        got += data[at + 4 : at + 4 + size]
        at, number, last = at + 4 + size, number + 1, size
    assert last < limit
    assert got == b"\0" + whole


class Client:
    """An IO thread, as far as the source is concerned."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, address: TailAddress, *, password: str | None = None
    ) -> AsyncIterator[tuple[Client, bytes]]:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            client = cls(reader, writer)
            yield client, await client._log_in(address, password)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def _log_in(self, address: TailAddress, password: str | None) -> bytes:
        client = self
        greeting = await client.packet()
        at = greeting.index(b"\0", 1) + 5
        nonce = greeting[at : at + 8] + greeting[at + 8 + 19 : at + 8 + 19 + 12]
        proof = wire.scramble(password if password is not None else address.password, nonce)
        login = bytes(32) + address.user.encode() + b"\0" + bytes([len(proof)]) + proof
        client.send(1, login)
        return await client.packet()

    def send(self, sequence: int, payload: bytes) -> None:
        self.writer.write(wire.packet(sequence, payload))

    async def packet(self) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await self.reader.readexactly(4)
            return await self.reader.readexactly(int.from_bytes(head[:3], "little"))

    async def ask(self, text: str) -> bytes:
        self.send(0, bytes([wire.COM_QUERY]) + text.encode())
        return await self.packet()

    async def dump(self, state: str) -> list[bytes]:
        """The packets up to the first heartbeat or error."""
        assert (await self.ask(f"SET @slave_connect_state='{state}'"))[0] == 0
        self.send(0, bytes([wire.COM_BINLOG_DUMP]) + bytes(10))
        got = []
        while True:
            packet = await self.packet()
            got.append(packet)
            if packet[0] == 255 or packet[5] == 27:
                return got


@pytest.fixture
async def tail(tmp_path: Path) -> Path:
    await take(salvage(folder_of(tmp_path, [log_of(5)]), received=up_to(1)), tmp_path / "tail")
    return tmp_path / "tail"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def gtids_of(packets: list[bytes]) -> list[int]:
    return [int.from_bytes(packet[20:28], "little") for packet in packets if packet[5] == 162]


@pytest.mark.parametrize(("state", "expected"), [("0-1-1", [2, 3, 4, 5]), ("0-1-3", [4, 5]), ("0-1-9", [])])
async def test_a_replica_is_given_what_it_lacks(tail: Path, state: str, expected: list[int]) -> None:
    async with serve(tail) as address, Client.connect(address) as (client, answer):
        assert answer[0] == 0
        packets = await client.dump(state)
    assert gtids_of(packets) == expected
    assert packets[-1][5] == 27


async def test_a_replica_that_lacks_more_than_the_tail_holds_is_told_so(tail: Path) -> None:
    async with serve(tail) as address, Client.connect(address) as (client, _):
        [answer] = await client.dump("")
    assert int.from_bytes(answer[1:3], "little") == 1236


async def test_a_wrong_password_is_refused(tail: Path) -> None:
    async with serve(tail) as address, Client.connect(address, password="other") as (_, answer):
        assert int.from_bytes(answer[1:3], "little") == 1045


async def test_it_is_no_database(tail: Path) -> None:
    async with serve(tail) as address, Client.connect(address) as (client, _):
        assert (await client.ask("SELECT 1"))[0] == 255
        assert (await client.ask("SET @slave_connect_state='x'; DROP TABLE t'"))[0] in {0, 255}
        packets = await client.dump("0-1-5")
    assert gtids_of(packets) == []


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=80))
async def test_junk_ends_only_its_own_connection(tail: Path, junk: bytes) -> None:
    async with serve(tail) as address, Client.connect(address) as (other, _):
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(junk)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        assert gtids_of(await other.dump("0-1-3")) == [4, 5]


async def test_connections_that_say_nothing_are_limited(tail: Path) -> None:
    async with serve(tail) as address, AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(Client.connect(address))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await stack.enter_async_context(Client.connect(address))


async def test_damage_found_while_it_is_given_ends_with_an_error(tail: Path) -> None:
    async with serve(tail) as address, Client.connect(address) as (client, _):
        flip(tail, -40)
        packets = await client.dump("0-1-1")
    assert gtids_of(packets[:-1]) == [2, 3, 4]
    assert int.from_bytes(packets[-1][1:3], "little") == 1236
