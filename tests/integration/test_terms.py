"""Late effects on real servers: a stale leader is refused, lost statements are ended and seen gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from mariadb_operator.sql import accounts, durability, replication, roles, sessions, terms
from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.errors import StaleTerm, StatementLost, StateRefused
from mariadb_operator.sql.replication import Source
from mariadb_operator.sql.terms import Guard
from statemachines.facts import ServerFact
from statemachines.gtid import Position
from tests.integration.servers import (
    DEADLINE,
    GUARD,
    OPERATOR,
    Cluster,
    Server,
    blocked_commit,
    eventually,
    root,
)

NEWER = Guard(term=2, leader="second")
SOURCE = Source(host="127.0.0.1", port=1, user="repl_0", password="p")

GUARDED: dict[str, Callable[[Connection, Guard], Awaitable[object]]] = {
    "raise_term": lambda c, g: terms.raise_term(c, guard=g),
    "open_primary": lambda c, g: roles.open_primary(c, semi_sync=True, guard=g),
    "close_primary": lambda c, g: roles.close_primary(c, guard=g),
    "write_epoch": lambda c, g: roles.write_epoch(
        c, epoch=1, cluster_id="c", primary="p", guard=g, deadline_seconds=DEADLINE
    ),
    "attach": lambda c, g: replication.attach(c, source=SOURCE, source_position=Position(), guard=g),
    "start_io": lambda c, g: replication.start_io(c, guard=g),
    "equalise": lambda c, g: replication.equalise(c, guard=g),
    "set_semi_sync": lambda c, g: durability.set_semi_sync(c, enabled=False, guard=g),
    "lock_account": lambda c, g: durability.lock_account(c, account=OPERATOR, guard=g),
    "unlock_account": lambda c, g: durability.unlock_account(c, account=OPERATOR, guard=g),
    "kill_dump_threads": lambda c, g: durability.kill_dump_threads(c, account="repl_1", guard=g),
    "initialise_primary": lambda c, g: accounts.initialise_primary(
        c, replication={}, application=None, guard=g
    ),
}


async def test_a_stale_term_is_refused_by_the_server(server: Server) -> None:
    def state(fact: ServerFact) -> tuple[object, ...]:
        return (
            fact.read_only,
            fact.semi_sync,
            fact.replication,
            fact.locked_accounts,
            fact.executed,
            fact.term,
        )

    async with await server.connect() as connection:
        await terms.raise_term(connection, guard=NEWER)
        before = state(await server.look())
        for name, statement in GUARDED.items():
            with pytest.raises(StaleTerm):
                await statement(connection, GUARD)
            assert state(await server.look()) == before, name
        # Nor does a refusal leave a session more powerful than it was.
        assert await connection.query("SELECT CURRENT_ROLE() AS role", deadline_seconds=DEADLINE) == [
            {"role": None}
        ]


async def test_a_replica_refuses_a_stale_stop(cluster: Cluster) -> None:
    replica = cluster.replicas[0]
    async with await replica.connect() as connection:
        await terms.raise_term(connection, guard=NEWER)
        with pytest.raises(StaleTerm):
            await replication.stop_io(connection, guard=GUARD)
    fact = (await replica.look()).replication
    assert fact is not None
    assert fact.io_thread == "Yes"


async def test_two_leaders_of_one_term_do_not_both_act(server: Server) -> None:
    async with await server.connect() as connection:
        await terms.raise_term(connection, guard=GUARD)
        await terms.raise_term(connection, guard=GUARD)
        with pytest.raises(StaleTerm):
            await terms.raise_term(connection, guard=Guard(term=GUARD.term, leader="another"))


async def test_the_term_is_raised_while_commits_wait_and_stays_out_of_the_history(cluster: Cluster) -> None:
    for replica in cluster.replicas:
        async with await replica.connect() as connection:
            await replication.stop_io(connection, guard=GUARD)
    before = (await cluster.primary.look()).history
    async with blocked_commit(cluster.primary, 1) as commit, await cluster.primary.connect() as connection:
        await terms.raise_term(connection, guard=NEWER)
        fact = await cluster.primary.look()
        assert not commit.done()
    assert fact.term == 2
    assert len(fact.history.errant_against(before)) == 1  # the commit that waits


async def test_a_statement_sent_to_a_frozen_server_is_refused_when_it_thaws(server: Server) -> None:
    async with await server.connect() as connection, await server.connect() as other:
        server.signal(signal.SIGSTOP)
        with pytest.raises(StatementLost) as caught:
            await roles.open_primary(connection, semi_sync=True, guard=GUARD, deadline_seconds=0.3)
        # The newer leader's statement is there before the server thaws, but behind the lost one.
        raising = asyncio.create_task(terms.raise_term(other, guard=NEWER))
        await asyncio.sleep(0.05)
        server.signal(signal.SIGCONT)
        await raising
        assert await sessions.settle(other, lost=caught.value, guard=NEWER)
        settled = (await server.look()).read_only
        # Whatever became of it, nothing of the old term happens any more.
        with pytest.raises(StaleTerm):
            await roles.open_primary(other, semi_sync=True, guard=GUARD)
        await roles.close_primary(other, guard=NEWER)
    assert isinstance(settled, bool)
    assert (await server.look()).read_only


async def test_a_new_leader_ends_its_predecessors_sessions(server: Server) -> None:
    async with await server.connect(statement_seconds=0) as old, await server.connect() as new:
        running = asyncio.create_task(old.query("DO SLEEP(60)", deadline_seconds=90))
        await eventually("it runs", lambda: "SLEEP(60)" in root(server, "SHOW PROCESSLIST"))
        await terms.raise_term(new, guard=NEWER)
        assert await sessions.kill_other_sessions(new, guard=NEWER) == frozenset()
        with pytest.raises(Exception, match="127"):
            await running
        assert [each.connection_id for each in await sessions.sessions(new)] == [new.connection_id]


async def test_sessions_to_keep_are_kept(server: Server) -> None:
    async with (
        await server.connect() as mine,
        await server.connect() as probe,
        await server.connect() as third,
    ):
        left = await sessions.kill_other_sessions(mine, guard=GUARD, keep={probe.connection_id})
        assert left == frozenset()
        assert await probe.query("SELECT 1 AS one", deadline_seconds=DEADLINE)
        async with asyncio.timeout(DEADLINE):
            await third.wait_closed()


async def test_a_session_that_waits_for_an_acknowledgement_is_never_killed(cluster: Cluster) -> None:
    for replica in cluster.replicas:
        async with await replica.connect() as connection:
            await replication.stop_io(connection, guard=GUARD)
    async with await cluster.primary.connect() as epoch, await cluster.primary.connect() as connection:
        writing = asyncio.create_task(
            roles.write_epoch(
                epoch, epoch=2, cluster_id="c", primary="demo-0", guard=GUARD, deadline_seconds=DEADLINE
            )
        )
        await cluster.primary.seen(lambda fact: fact.semi_sync.waiting_sessions == 1)
        left = await sessions.kill_other_sessions(connection, guard=GUARD, deadline_seconds=0.5)
        assert left == {epoch.connection_id}
        assert not writing.done()
        async with await cluster.replicas[0].connect() as to_replica:
            await replication.start_io(to_replica, guard=GUARD)
        await writing
    fact = await cluster.primary.look()
    assert fact.epoch == 2
    assert fact.semi_sync.unacknowledged == 0


async def test_a_lost_statement_of_an_earlier_start_is_settled_by_the_restart(server: Server) -> None:
    async with await server.connect() as connection:
        lost = StatementLost("", connection_id=connection.connection_id, incarnation="of an earlier start")
        assert await sessions.settle(connection, lost=lost, guard=GUARD)


async def test_a_lost_statement_that_still_runs_is_ended(server: Server) -> None:
    async with await server.connect(statement_seconds=0) as connection, await server.connect() as second:
        with pytest.raises(StatementLost) as caught:
            await connection.query("SELECT SLEEP(60)", deadline_seconds=0.2)
        assert await sessions.settle(second, lost=caught.value, guard=GUARD)
        assert "SLEEP(60)" not in root(server, "SHOW PROCESSLIST")


async def test_refusals_arrive_as_what_they_are(server: Server) -> None:
    async with await server.connect() as connection:
        with pytest.raises(StateRefused):
            await replication.start_io(connection, guard=GUARD)
