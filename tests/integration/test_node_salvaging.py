"""A dead primary's last transactions from its sidecar to the candidate's, over SSH, and from there into the candidate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mariadb_operator.node.protocol import (
    GiveReply,
    GiveRequest,
    Reason,
    StoreReply,
    StoreRequest,
    TailRequest,
    Verb,
)
from mariadb_operator.sql import tails
from mariadb_operator.sql.tails import TailSource
from mariadb_operator.ssh.connection import SidecarConnection
from mariadb_operator.ssh.errors import AnswerLost, Refused
from statemachines.gtid import Position
from tests.integration.servers import DEADLINE, GUARD, Cluster, Server, Servers, eventually, insert, rows
from tests.integration.sidecars import Sidecar, authority

OPERATION = "1-8"
LARGE = 3_000_000  # bytes: more than any buffer on the way


class Pair:
    """A primary and a replica that stopped receiving, each with its sidecar."""

    def __init__(self, cluster: Cluster, sidecars: dict[int, Sidecar]) -> None:
        self.cluster = cluster
        [self.candidate] = cluster.replicas
        self.source = sidecars[cluster.primary.ordinal]
        self.recipient = sidecars[self.candidate.ordinal]

    async def lose(self, statements: Callable[[int], str] | None = None, *, count: int = 20) -> None:
        """The primary writes what the replica does not receive, and is fenced."""
        async with await self.candidate.connect() as connection:
            await connection.execute("STOP SLAVE IO_THREAD", deadline_seconds=DEADLINE)
            await connection.execute(
                "SET GLOBAL rpl_semi_sync_slave_enabled = OFF", deadline_seconds=DEADLINE
            )
        async with await self.cluster.primary.connect() as connection:
            await connection.execute(
                "SET GLOBAL rpl_semi_sync_master_enabled = OFF", deadline_seconds=DEADLINE
            )
        async with await self.cluster.primary.connect("app") as connection:
            for n in range(count):
                if statements is None:
                    await insert(connection, n)
                else:
                    await connection.execute(statements(n), deadline_seconds=DEADLINE)
        assert (await self.source.fence()).freed

    async def received(self) -> Position:
        fact = await self.candidate.look()
        assert fact.replication is not None
        return fact.executed.merge(fact.replication.received)

    async def bring(self, received: Position, *, operation: str = OPERATION) -> StoreReply:
        async with await self.source.connect() as here, await self.recipient.connect() as there:
            return await self.carry(here, there, received, operation=operation)

    async def carry(
        self,
        here: SidecarConnection,
        there: SidecarConnection,
        received: Position,
        *,
        operation: str = OPERATION,
    ) -> StoreReply:
        return await here.bring_tail(
            TailRequest(authority=authority(), received=str(received)),
            there,
            StoreRequest(authority=authority(), operation=operation),
            silence_seconds=DEADLINE,
        )

    async def give(self, *, operation: str = OPERATION) -> GiveReply:
        async with await self.recipient.connect() as there:
            request = GiveRequest(authority=authority(), operation=operation)
            return await there.ask(Verb.GIVE, request, GiveReply, deadline_seconds=DEADLINE)

    async def apply(self, upto: str) -> Position:
        given = await self.give()
        async with await self.candidate.connect() as connection:
            return await tails.apply_tail(
                connection,
                source=TailSource(port=given.port, user=given.user, password=given.password),
                target=Position.parse(upto),
                guard=GUARD,
                deadline_seconds=3 * DEADLINE,
            )

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.candidate.volume / "salvage").iterdir())


@pytest.fixture
async def pair(servers: Servers) -> AsyncIterator[Pair]:
    sidecars: dict[int, Sidecar] = {}

    async def admit(server: Server) -> None:
        sidecars[server.ordinal] = Sidecar(server)
        sidecars[server.ordinal].start()
        await sidecars[server.ordinal].admit()

    try:
        yield Pair(await Cluster.make(servers, instances=2, admit=admit), sidecars)
    finally:
        for sidecar in sidecars.values():
            sidecar.kill()


async def test_what_only_the_dead_primary_has_arrives_whole_and_is_applied_once(pair: Pair) -> None:
    await pair.lose()
    before = await pair.received()
    kept = await pair.bring(before)
    assert (kept.after, kept.count) == (str(before), 20)
    state = await pair.recipient.state()
    assert state.salvaged is not None
    assert (state.salvaged.operation, state.salvaged.upto) == (OPERATION, kept.upto)
    for _ in range(2):
        assert (await pair.apply(kept.upto)).covers(Position.parse(kept.upto))
    assert await rows(pair.candidate) == list(range(20))
    assert (await pair.candidate.look()).read_only


async def test_nothing_missing_is_an_empty_tail(pair: Pair) -> None:
    await pair.lose(count=0)
    received = await pair.received()
    kept = await pair.bring(received)
    assert (kept.count, kept.after, kept.upto) == (0, str(received), str(received))


async def test_a_tail_that_is_longer_than_every_buffer_arrives_whole(pair: Pair) -> None:
    async with await pair.cluster.primary.connect("app") as connection:
        await connection.execute("CREATE TABLE shop.large (body LONGBLOB)", deadline_seconds=DEADLINE)
    async with await pair.candidate.connect() as connection:
        await eventually("the table", lambda: True)
        await connection.execute(
            "SET STATEMENT max_statement_time = 0 FOR SELECT MASTER_GTID_WAIT(%s, 10)",
            (str((await pair.cluster.primary.look()).executed),),
            deadline_seconds=3 * DEADLINE,
        )
    await pair.lose(lambda n: f"INSERT INTO shop.large VALUES (REPEAT(CHAR(65 + {n}), {LARGE}))", count=3)
    kept = await pair.bring(await pair.received())
    assert kept.count == 3
    await pair.apply(kept.upto)
    async with await pair.candidate.connect("app") as connection:
        answer = await connection.query(
            "SELECT LENGTH(body) AS size FROM shop.large", deadline_seconds=DEADLINE
        )
    assert [row["size"] for row in answer] == [LARGE] * 3


async def test_the_logs_of_a_server_that_may_live_are_not_read(pair: Pair) -> None:
    with pytest.raises(Refused) as refused:
        await pair.bring(await pair.received())
    assert refused.value.reason is Reason.BUSY


async def test_a_position_that_is_not_in_the_log_is_unsalvageable_and_nothing_is_stored(pair: Pair) -> None:
    await pair.lose()
    with pytest.raises(Refused) as refused:
        await pair.bring(Position.parse("0-7-3"))
    assert refused.value.reason is Reason.UNSALVAGEABLE
    assert (await pair.recipient.state()).salvaged is None


async def test_only_the_last_operations_tail_is_kept_and_given(pair: Pair) -> None:
    await pair.lose()
    received = await pair.received()
    await pair.bring(received, operation="1-7")
    await pair.bring(received)
    assert pair.files() == [f"{OPERATION}.tail"]
    with pytest.raises(Refused) as refused:
        await pair.give(operation="1-7")
    assert refused.value.reason is Reason.NOT_STORED


async def test_a_stream_without_its_end_is_not_stored(pair: Pair) -> None:
    await pair.lose()
    received = await pair.received()
    async with await pair.source.connect() as here, await pair.recipient.connect() as there:
        index = pair.cluster.primary.data / "binlog.index"
        damage(index)
        with pytest.raises((Refused, AnswerLost)):
            await pair.carry(here, there, received)
    assert (await pair.recipient.state()).salvaged is None
    assert pair.candidate.pid() is not None


def damage(index: Path) -> None:
    """A byte of the newest log, in the middle of what is missing."""
    name = index.read_text().splitlines()[-1].strip()
    log = index.parent / name
    with log.open("r+b") as file:
        file.seek(log.stat().st_size - 900)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0xFF]))
