"""Replication on real servers: the order of steps that keeps every acknowledged row, and who may follow whom."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import pytest

from mariadb_operator.sql import accounts, durability, replication, roles, terms
from mariadb_operator.sql.certificates import reload_certificates
from mariadb_operator.sql.connection import Connection
from mariadb_operator.sql.errors import ServerPresent, StatementInterrupted, StateRefused, WrongState
from mariadb_operator.sql.terms import Guard
from statemachines.facts import IoThread, ServerFact
from statemachines.gtid import Position
from tests.benchmarks.simulation.server import CAPABILITIES, SSL_FLAG, greeting
from tests.integration.certificates import Authority
from tests.integration.servers import (
    ADMIN_PORT,
    DEADLINE,
    GUARD,
    PASSWORDS,
    Cluster,
    Server,
    Servers,
    attach,
    blocked_commit,
    eventually,
    insert,
    keep_out,
    root,
    rows,
)

NEW_LEADER = Guard(term=2, leader="second")


def _applied(fact: ServerFact) -> bool:
    """It applies, and everything it received is applied."""
    replication = fact.replication
    return replication is not None and replication.sql_running and fact.executed.covers(replication.received)


async def promote(candidate: Server, *, semi_sync: bool = True, epoch: int = 2) -> asyncio.Task[None]:
    """Drain, equalise and open, as a failover does once the IO threads are stopped. The epoch's write is a task."""
    async with await candidate.connect() as connection:
        state = await replication.replica_state(connection)
        assert state.replication is not None
        assert await replication.drain(
            connection, position=state.replication.received, timeout_seconds=DEADLINE
        )
        await replication.equalise(connection, guard=NEW_LEADER)
        await durability.set_locks(
            connection, accounts={f"repl_{n}" for n in range(9)}, locked=set(), guard=NEW_LEADER
        )
        await roles.open_primary(connection, semi_sync=semi_sync, guard=NEW_LEADER)

    async def write() -> None:
        async with await candidate.connect() as connection:
            await roles.write_epoch(
                connection,
                epoch=epoch,
                cluster_id="c",
                primary=f"demo-{candidate.ordinal}",
                guard=NEW_LEADER,
                deadline_seconds=DEADLINE,
            )

    return asyncio.create_task(write())


async def stop_io(*servers: Server) -> list[replication.ReplicaState]:
    async def one(server: Server) -> replication.ReplicaState:
        async with await server.connect() as connection:
            await terms.raise_term(connection, guard=NEW_LEADER)
            return await replication.stop_io(connection, guard=NEW_LEADER)

    return list(await asyncio.gather(*map(one, servers)))


async def test_a_cluster_replicates_what_was_written(cluster: Cluster) -> None:
    async with await cluster.primary.connect("app") as connection:
        for n in range(5):
            await insert(connection, n)
    await cluster.in_step()
    for server in cluster.servers:
        assert await rows(server) == list(range(5))
        fact = await server.look()
        assert fact.read_only == (server is not cluster.primary)
        assert (fact.epoch, fact.cluster_id) == (1, "c")
    fact = await cluster.primary.look()
    assert fact.connected_accounts == {"repl_1", "repl_2"}
    assert fact.semi_sync.clients == 2
    # Off in a replica: on, its applying thread would wait for ever.
    assert not (await cluster.replicas[0].look()).semi_sync.source_enabled


async def test_making_the_first_primary_again_changes_nothing(cluster: Cluster) -> None:
    async with await cluster.primary.connect() as connection:
        with pytest.raises(StateRefused) as caught:
            await accounts.initialise_primary(connection, replication={}, application=None, guard=GUARD)
    assert caught.value.reason is WrongState.READ_WRITE


async def test_the_first_setup_can_be_repeated(server: Server) -> None:
    hashed = accounts.native_password_hash("p")
    application = accounts.Application(database="a`b_c", username="it's", password_hash=hashed)
    async with await server.connect() as connection:
        for _ in range(2):
            await accounts.initialise_primary(
                connection, replication={"repl_0": hashed}, application=application, guard=GUARD
            )
    fact = await server.look()
    assert fact.read_only
    assert fact.semi_sync.source_enabled
    assert fact.semi_sync.waiting_sessions == 0
    assert "a`b_c" in root(server, "SHOW DATABASES").splitlines()
    assert r"`a``b\_c`.*" in root(server, "SHOW GRANTS FOR `it's`@'%'")


async def test_passwords_of_replication_are_in_no_log(servers: Servers) -> None:
    server = servers.make(0)
    server.start()
    (await server.answering()).close()
    root(server, "SET GLOBAL general_log_file = 'general.log'; SET GLOBAL general_log = ON;")
    root(server, "SET GLOBAL slow_query_log_file = 'slow.log'; SET GLOBAL slow_query_log = ON;")
    root(server, "SET GLOBAL long_query_time = 0")
    source = replication.Source(host="127.0.0.9", port=1, user="repl_0", password="very-secret", ca=server.ca)
    async with await server.connect() as connection:
        await replication.attach(connection, source=source, source_position=Position(), guard=GUARD)
    assert (await server.look()).replication is not None
    root(server, "SET GLOBAL general_log = OFF; SET GLOBAL slow_query_log = OFF")
    written = (
        (server.data / "general.log").read_text() + (server.data / "slow.log").read_text() + server.log()
    )
    assert "mariadb_operator_quiet" in written  # they were on
    assert "very-secret" not in written


async def test_commits_wait_for_ever_without_a_replica_and_end_when_one_is_back(cluster: Cluster) -> None:
    await stop_io(*cluster.replicas)
    async with blocked_commit(cluster.primary, 1) as commit:
        fact = await cluster.primary.look()  # and a look does not hang
        assert fact.semi_sync.waiting_sessions == 1
        assert fact.read_only is False
        assert not commit.done()
        async with await cluster.replicas[0].connect() as connection:
            await replication.start_io(connection, guard=NEW_LEADER)
        async with asyncio.timeout(DEADLINE):
            await commit
    assert (await cluster.primary.look()).semi_sync.unacknowledged == 0


async def test_turning_semi_sync_off_frees_waiting_commits(cluster: Cluster) -> None:
    await stop_io(*cluster.replicas)
    async with blocked_commit(cluster.primary, 1) as commit, await cluster.primary.connect() as connection:
        await durability.set_semi_sync(connection, enabled=False, guard=GUARD)
        async with asyncio.timeout(DEADLINE):
            await commit


async def test_a_locked_account_keeps_its_replica_out_while_commits_wait(cluster: Cluster) -> None:
    await stop_io(*cluster.replicas)
    async with blocked_commit(cluster.primary, 1) as commit:
        await keep_out(cluster.primary, 1)
        assert (await cluster.primary.look()).locked_accounts == {"repl_1"}
        async with await cluster.replicas[0].connect() as connection:
            await replication.start_io(connection, guard=NEW_LEADER)
        fact = await cluster.replicas[0].seen(
            lambda fact: fact.replication is not None and fact.replication.io_errno != 0
        )
        assert fact.replication is not None
        assert fact.replication.io_thread is IoThread.CONNECTING
        assert not commit.done()
        async with await cluster.primary.connect() as connection:
            await durability.unlock_account(connection, account="repl_1", guard=GUARD)
        async with asyncio.timeout(DEADLINE):
            await commit
    assert (await cluster.primary.look()).locked_accounts == frozenset()


async def test_a_connected_replica_is_gone_after_lock_and_kill(cluster: Cluster) -> None:
    await keep_out(cluster.primary, 2)
    fact = await cluster.primary.seen(lambda fact: "repl_2" not in fact.connected_accounts)
    assert fact.connected_accounts == {"repl_1"}


async def test_locks_stay_on_their_server(cluster: Cluster) -> None:
    async with await cluster.primary.connect() as connection:
        await durability.set_locks(connection, accounts={"repl_1", "repl_2"}, locked={"repl_2"}, guard=GUARD)
    await cluster.in_step()
    assert (await cluster.primary.look()).locked_accounts == {"repl_2"}
    assert (await cluster.replicas[0].look()).locked_accounts == frozenset()


async def _delay_apply(server: Server) -> Connection:
    """Hold the applying thread, running, with received rows unapplied."""
    connection = await server.connect("app")
    await connection.execute("LOCK TABLES shop.orders READ", deadline_seconds=DEADLINE)
    return connection


async def test_fencing_keeps_what_was_received_and_draining_applies_it(cluster: Cluster) -> None:
    held = await _delay_apply(cluster.replicas[0])
    await keep_out(cluster.primary, 2)
    async with await cluster.primary.connect("app") as connection:
        for n in range(10):
            await insert(connection, n)  # acknowledged by replica 1, which can't apply them
    await cluster.primary.kill_and_hold()
    [state] = await stop_io(cluster.replicas[0])
    assert state.replication is not None
    assert not state.slave_position.covers(state.replication.received)
    async with await cluster.replicas[0].connect() as connection:
        with pytest.raises(StateRefused) as caught:
            await replication.equalise(connection, guard=NEW_LEADER)
        assert caught.value.reason is WrongState.NOT_DRAINED
        assert not await replication.drain(
            connection, position=state.replication.received, timeout_seconds=0.2
        )
    held.close()
    writing = await promote(cluster.replicas[0])
    await attach(cluster.replicas[1], cluster.replicas[0], guard=NEW_LEADER)
    await writing
    assert await rows(cluster.replicas[0]) == list(range(10))


async def test_received_drained_equalised_opened_loses_no_acknowledged_row(cluster: Cluster) -> None:
    acknowledged: list[int] = []

    async def write(writer: int) -> None:
        async with await cluster.primary.connect("app") as connection:
            for n in range(writer, 1_000_000, 4):
                await insert(connection, n)
                acknowledged.append(n)

    writers = [asyncio.create_task(write(writer)) for writer in range(4)]
    await eventually("rows", lambda: len(acknowledged) >= 100)
    await cluster.primary.kill_and_hold()
    await asyncio.gather(*writers, return_exceptions=True)
    states = await stop_io(*cluster.replicas)
    received = [state.replication.received for state in states if state.replication is not None]
    best = 0 if received[0].covers(received[1]) else 1
    candidate, other = cluster.replicas[best], cluster.replicas[1 - best]
    writing = await promote(candidate)
    await attach(other, candidate, guard=NEW_LEADER)
    await writing
    kept = await rows(candidate)
    assert set(acknowledged) <= set(kept)
    assert len(kept) == len(set(kept))
    position = (await candidate.look()).executed
    async with await other.connect() as connection:
        assert await replication.drain(connection, position=position, timeout_seconds=DEADLINE)
    assert await rows(other) == kept


async def test_io_is_stopped_where_an_error_ended_the_apply_thread_and_nothing_received_is_lost(
    cluster: Cluster,
) -> None:
    replica = cluster.replicas[0]
    # A row that is already there: the applying thread stops with an error.
    root(
        replica,
        "SET sql_log_bin = 0; ALTER TABLE shop.orders ADD UNIQUE (n); INSERT INTO shop.orders VALUES (7, 0)",
    )
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 7)
        await insert(connection, 8)
    before = await replica.seen(lambda fact: fact.replication and not fact.replication.sql_running)
    async with await replica.connect() as connection:
        state = await replication.stop_io(connection, guard=GUARD)
        assert state.replication is not None
        assert state.replication.io_thread is IoThread.STOPPED
        assert state.replication.sql_errno
        assert before.replication is not None
        assert state.replication.received.covers(before.replication.received)
        root(replica, "DELETE FROM shop.orders WHERE n = 7")
        with pytest.raises(StateRefused) as caught:
            await replication.start_apply(connection, guard=GUARD)
    assert caught.value.reason is WrongState.NOT_RECEIVING


async def test_an_apply_thread_is_started_while_io_runs_and_applies_what_was_received(
    cluster: Cluster,
) -> None:
    replica = cluster.replicas[0]
    root(replica, "STOP SLAVE SQL_THREAD")
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 5)
    async with await replica.connect() as connection:
        await replication.start_apply(connection, guard=GUARD)
    await replica.seen(_applied)
    assert await rows(replica) == await rows(cluster.primary)


async def test_what_was_received_still_shows_when_both_threads_are_stopped_without_a_restart(
    cluster: Cluster,
) -> None:
    replica = cluster.replicas[0]
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 5)
    before = await replica.seen(_applied)
    root(replica, "STOP SLAVE")
    after = await replica.look()
    assert after.replication is not None
    assert before.replication is not None
    assert after.replication.received.covers(before.replication.received)


async def test_the_applications_account_is_made_once_and_gets_another_password_only_when_it_has_one(
    cluster: Cluster,
) -> None:
    def application(password: str) -> accounts.Application:
        return accounts.Application(
            database="shop", username="app", password_hash=accounts.native_password_hash(password)
        )

    async def keep(password: str) -> str:
        async with await cluster.primary.connect() as connection:
            await accounts.keep_application(
                connection, application(password), guard=GUARD, deadline_seconds=DEADLINE
            )
        return str((await cluster.primary.look()).history)

    before = str((await cluster.primary.look()).history)
    assert await keep(PASSWORDS["app"]) == before
    assert await keep("an\\other's") != before
    with pytest.raises(ServerPresent):
        await cluster.primary.connect("app")
    await keep(PASSWORDS["app"])
    (await cluster.primary.connect("app")).close()


async def test_a_stopped_apply_thread_is_started_before_io_stops(cluster: Cluster) -> None:
    replica = cluster.replicas[0]
    root(replica, "STOP SLAVE SQL_THREAD")
    await keep_out(cluster.primary, 2)
    async with await cluster.primary.connect("app") as connection:
        for n in range(5):
            await insert(connection, n)
    await cluster.primary.kill_and_hold()
    await replica.seen(lambda fact: fact.replication and fact.replication.io_thread is IoThread.CONNECTING)
    [state] = await stop_io(replica)
    assert state.replication is not None
    async with await replica.connect() as connection:
        assert await replication.drain(
            connection, position=state.replication.received, timeout_seconds=DEADLINE
        )
    assert await rows(replica) == list(range(5))


async def test_an_attach_that_would_wipe_received_rows_is_refused(cluster: Cluster) -> None:
    held = await _delay_apply(cluster.replicas[0])
    await keep_out(cluster.primary, 2)
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    with pytest.raises(StateRefused) as caught:
        await attach(cluster.replicas[0], cluster.replicas[1])  # which lacks that row
    assert caught.value.reason is WrongState.NOT_DRAINED
    held.close()
    state = (await stop_io(cluster.replicas[0]))[0]
    assert state.replication is not None
    async with await cluster.replicas[0].connect() as connection:
        assert await replication.drain(
            connection, position=state.replication.received, timeout_seconds=DEADLINE
        )
    assert await rows(cluster.replicas[0]) == [1]


async def test_a_replica_that_still_applies_is_repointed_without_losing_its_place(cluster: Cluster) -> None:
    async with await cluster.primary.connect("app") as connection:
        for n in range(200):
            await insert(connection, n)
    await cluster.in_step()
    held = await _delay_apply(cluster.replicas[0])
    async with await cluster.primary.connect("app") as connection:
        for n in range(200, 400):
            await insert(connection, n)
    await stop_io(cluster.replicas[0])
    held.close()  # from here on it applies as fast as it can
    await attach(cluster.replicas[0], cluster.primary, guard=NEW_LEADER)
    await cluster.in_step()
    assert await rows(cluster.replicas[0]) == list(range(400))


async def test_a_former_primary_rejoins_from_what_it_wrote(cluster: Cluster) -> None:
    async with await cluster.primary.connect("app") as connection:
        await insert(connection, 1)
    await cluster.in_step()
    cluster.primary.signal(signal.SIGKILL)
    await stop_io(*cluster.replicas)
    writing = await promote(cluster.replicas[0])
    (await cluster.primary.answering()).close()
    await attach(cluster.primary, cluster.replicas[0], guard=NEW_LEADER)
    await attach(cluster.primary, cluster.replicas[0], guard=NEW_LEADER)  # and again changes nothing
    await attach(cluster.replicas[1], cluster.replicas[0], guard=NEW_LEADER)
    await writing
    async with await cluster.replicas[0].connect("app") as connection:
        await insert(connection, 2)
    fact = await cluster.primary.seen(lambda fact: fact.epoch == 2)
    assert fact.replication is not None
    assert fact.replication.io_errno == 0
    assert not fact.semi_sync.source_enabled
    position = (await cluster.replicas[0].look()).executed
    async with await cluster.primary.connect() as connection:
        assert await replication.drain(connection, position=position, timeout_seconds=DEADLINE)
    assert await rows(cluster.primary) == [1, 2]


async def test_an_errant_old_primary_is_seen_and_gets_1236(cluster: Cluster) -> None:
    await stop_io(*cluster.replicas)
    async with blocked_commit(cluster.primary, 99):  # nobody receives it
        cluster.primary.signal(signal.SIGKILL)
    writing = await promote(cluster.replicas[0])
    await attach(cluster.replicas[1], cluster.replicas[0], guard=NEW_LEADER)
    await writing
    (await cluster.primary.answering()).close()
    old, new = await cluster.primary.look(), await cluster.replicas[0].look()
    assert [gtid.server for gtid in old.history.errant_against(new.history)] == [1]
    await attach(cluster.primary, cluster.replicas[0], guard=NEW_LEADER)
    fact = await cluster.primary.seen(
        lambda fact: fact.replication and fact.replication.io_thread is IoThread.STOPPED
    )
    assert fact.replication is not None
    assert fact.replication.io_errno == 1236
    assert 99 not in await rows(cluster.replicas[0])
    assert await rows(cluster.primary) == [99]  # nothing on it is erased


async def test_a_source_of_another_authority_is_not_followed(cluster: Cluster) -> None:
    replica = cluster.replicas[0]
    await stop_io(replica)
    (replica.folder / "tls/ca.crt").write_text(Authority.make("stranger").text)
    root(replica, "STOP SLAVE; RESET SLAVE ALL")
    await attach(replica, cluster.primary, guard=NEW_LEADER)
    fact = await replica.seen(lambda fact: fact.replication and fact.replication.io_errno != 0)
    assert fact.replication is not None
    assert fact.replication.io_thread is IoThread.CONNECTING
    assert "SSL connection error" in fact.replication.io_error


async def test_a_source_whose_certificate_does_not_name_its_address_is_not_followed(cluster: Cluster) -> None:
    replica = cluster.replicas[0]
    await stop_io(replica)
    cluster.primary.authority.write_server_files(cluster.primary.folder / "tls", address="127.0.0.77")
    cluster.primary._give()
    async with await cluster.primary.connect() as connection:
        assert connection.certified
        await reload_certificates(connection)
    async with await cluster.primary.connect() as connection:
        assert not connection.certified
    root(replica, "STOP SLAVE; RESET SLAVE ALL")
    await attach(replica, cluster.primary, guard=NEW_LEADER)
    fact = await replica.seen(lambda fact: fact.replication and fact.replication.io_errno != 0)
    assert fact.replication is not None
    assert fact.replication.io_thread is IoThread.CONNECTING


async def test_a_source_that_offers_no_tls_is_told_nothing(cluster: Cluster) -> None:
    """Somebody who has got the address of a former primary must not get the replica's login in plaintext."""
    replica = cluster.replicas[0]
    root(replica, "STOP SLAVE; RESET SLAVE ALL")
    told: list[bytes] = []
    asked = asyncio.Event()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain = CAPABILITIES & ~SSL_FLAG
        packet = greeting(capabilities=plain)
        writer.write(len(packet).to_bytes(3, "little") + b"\0" + packet)
        told.append(await reader.read(1024))
        asked.set()
        writer.close()

    address = cluster.primary.address.rpartition(".")[0] + ".99"
    async with await asyncio.start_server(impostor, address, ADMIN_PORT):
        async with await replica.connect() as connection:
            source = replace(cluster.primary.source_for(replica), host=address)
            await replication.attach(connection, source=source, source_position=Position(), guard=NEW_LEADER)
        async with asyncio.timeout(DEADLINE):
            await asked.wait()
        fact = await replica.seen(lambda fact: fact.replication and fact.replication.io_errno != 0)
    assert b"repl_" not in b"".join(told)
    assert fact.replication is not None
    assert "SSL" in fact.replication.io_error


async def test_a_frozen_source_delays_stopping_io_by_a_second_not_for_ever(cluster: Cluster) -> None:
    cluster.primary.signal(signal.SIGSTOP)
    async with asyncio.timeout(DEADLINE):
        states = await stop_io(*cluster.replicas)
    assert all(state.replication and state.replication.io_thread is IoThread.STOPPED for state in states)
    cluster.primary.signal(signal.SIGCONT)


async def test_closing_a_primary_is_bounded_while_a_commit_waits(cluster: Cluster) -> None:
    await stop_io(*cluster.replicas)
    async with (
        blocked_commit(cluster.primary, 1) as commit,
        await cluster.primary.connect(statement_seconds=1) as connection,
    ):
        with pytest.raises(StatementInterrupted):
            await roles.close_primary(connection, guard=GUARD)
        assert not commit.done()
    assert not (await cluster.primary.look()).read_only


async def test_opening_works_while_a_commit_waits(cluster: Cluster) -> None:
    await stop_io(*cluster.replicas)
    async with blocked_commit(cluster.primary, 1), await cluster.primary.connect() as connection:
        await roles.open_primary(connection, semi_sync=True, guard=GUARD)


async def test_a_replica_is_not_opened(cluster: Cluster) -> None:
    async with await cluster.replicas[0].connect() as connection:
        with pytest.raises(StateRefused) as caught:
            await roles.open_primary(connection, semi_sync=True, guard=GUARD)
    assert caught.value.reason is WrongState.NOT_DRAINED
    assert (await cluster.replicas[0].look()).read_only


async def test_an_application_cannot_write_to_a_closed_primary(cluster: Cluster) -> None:
    async with await cluster.primary.connect() as connection:
        await roles.close_primary(connection, guard=GUARD)
    async with await cluster.primary.connect("app") as connection:
        with pytest.raises(Exception, match="1290"):
            await insert(connection, 1)
