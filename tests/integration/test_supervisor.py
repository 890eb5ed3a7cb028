"""The supervisor on real servers: the volume, the first install, starts, the end, and what the kubelet asks."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from mariadb_operator.sql import replication, roles
from tests.integration.servers import (
    DEADLINE,
    GUARD,
    PASSWORDS,
    SMALL,
    Cluster,
    Server,
    Servers,
    eventually,
    insert,
    processes_naming,
    root,
    rows,
)


async def test_a_new_volume_gets_only_our_accounts_and_an_empty_history(servers: Servers) -> None:
    server = servers.make(0, empty=True)
    server.start()
    (await server.answering()).close()
    fact = await server.look()
    assert not fact.history
    assert not fact.executed
    accounts = root(server, "SELECT CONCAT(User, '@', Host) FROM mysql.user WHERE Host <> '' ORDER BY 1")
    assert accounts.split() == [
        "mariadb.sys@localhost",
        "mariadb_operator@%",
        "mariadb_operator_grants@localhost",
        "mariadb_probe@%",
        "mariadb_supervisor@localhost",
        "root@localhost",
    ]
    assert "test" not in root(server, "SHOW DATABASES").split()
    assert root(server, "SHOW BINLOG EVENTS").count("Query") == 0
    never = "SELECT COUNT(*) FROM mysql.global_priv WHERE JSON_VALUE(Priv, '$.password_lifetime') = 0"
    assert root(server, never) == "3"  # ours


async def test_every_boot_is_read_only_with_replication_stopped_and_waiting_for_replicas(
    cluster: Cluster,
) -> None:
    replica = cluster.replicas[0]
    before = (await replica.look()).incarnation
    replica.signal(signal.SIGKILL)
    await eventually(
        "respawn", lambda: replica.pid() is None or replica.log().count("starting it again") == 1
    )
    (await replica.answering()).close()
    fact = await replica.look()
    assert fact.incarnation != before
    assert fact.read_only
    assert fact.semi_sync.source_enabled
    assert fact.replication is not None
    assert not fact.replication.sql_running
    assert fact.replication.io_thread == "No"
    assert root(replica, "SELECT @@event_scheduler") == "OFF"
    assert root(replica, "SELECT @@rpl_semi_sync_master_timeout") == "18446744073709551615"


async def test_a_primary_that_died_comes_back_read_only(cluster: Cluster) -> None:
    cluster.primary.signal(signal.SIGKILL)
    await eventually("respawn", lambda: "starting it again" in cluster.primary.log())
    (await cluster.primary.answering()).close()
    assert (await cluster.primary.look()).read_only


async def test_an_interrupted_install_is_done_anew(servers: Servers) -> None:
    server = servers.make(0, empty=True)
    unfinished = server.volume / "data.new"
    server.start()
    await eventually("the install has begun", (unfinished / "mysql").exists)
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    if server.data.exists():  # a busy machine looked too late: as it is a moment before
        server.data.rename(unfinished)
    assert not server.data.exists()
    (unfinished / "left-over").touch()
    server.start()
    (await server.answering()).close()
    assert not (server.data / "left-over").exists()
    assert not unfinished.exists()
    assert root(server, "SELECT COUNT(*) FROM mariadb_operator.epoch") == "0"


async def test_a_second_supervisor_waits_until_the_first_server_is_gone(server: Server) -> None:
    first = server.process
    assert first is not None
    first.kill()  # the Pod was deleted by force: its mariadbd lives on
    first.wait()
    survivor = server.pid()
    assert survivor is not None
    server.start()
    await eventually("it waits for the volume", lambda: "another server holds the volume" in server.log())
    async with await server.connect() as connection:
        await roles.open_primary(connection, semi_sync=False, guard=GUARD)
    before = (await server.look()).incarnation
    starts = server.log().count("ready for connections")
    os.kill(survivor, signal.SIGKILL)
    await eventually("its own server", lambda: server.log().count("ready for connections") > starts)
    (await server.answering()).close()
    fact = await server.look()
    assert fact.incarnation != before
    assert fact.read_only


async def test_term_while_waiting_for_the_volume_ends_the_supervisor(server: Server) -> None:
    first = server.process
    assert first is not None
    first.kill()
    first.wait()
    server.start()
    await eventually("it waits for the volume", lambda: "another server holds the volume" in server.log())
    assert await server.terminate() == 0


async def test_term_loses_nothing_that_a_client_saw_acknowledged(cluster: Cluster) -> None:
    acknowledged = []

    async def write() -> None:
        async with await cluster.primary.connect("app") as connection:
            for n in range(1_000_000):
                await insert(connection, n)
                acknowledged.append(n)

    writer = asyncio.create_task(write())
    await eventually("some rows", lambda: len(acknowledged) > 20)
    code = await cluster.primary.terminate()
    await asyncio.gather(writer, return_exceptions=True)
    assert code == 0
    assert "after TERM" in cluster.primary.log()
    for replica in cluster.replicas:
        async with await replica.connect() as connection:
            await connection.execute("STOP SLAVE IO_THREAD", deadline_seconds=DEADLINE)
            fact = (await replica.look()).replication
            assert fact is not None
            # Acknowledged means received; on a busy machine it is applied a moment later.
            assert await replication.drain(connection, position=fact.received, timeout_seconds=DEADLINE)
    best = max([await rows(replica) for replica in cluster.replicas], key=len)
    assert set(acknowledged) <= set(best)


@pytest.mark.parametrize("marker", ["", "empty volume", "as process", "ready for connections"])
async def test_term_at_any_moment_ends_everything(servers: Servers, marker: str) -> None:
    server = servers.make(0, empty=True)
    server.start()
    await eventually("it runs", (server.run / "supervisor").exists)
    await eventually(marker, lambda: marker in server.log())
    assert await server.terminate() == 0
    # The install's own processes end by themselves when nobody writes to them any more.
    await eventually("all gone", lambda: not processes_naming(str(server.folder)))


async def test_term_while_it_waits_to_start_again_ends_it(server: Server) -> None:
    server.signal(signal.SIGKILL)
    await eventually("it waits", lambda: "starting it again" in server.log())
    assert await server.terminate() == 0
    assert server.pid() is None


async def test_a_missing_secret_is_named_in_the_termination_message(servers: Servers) -> None:
    server = servers.make(0)
    (server.folder / "secrets/probe-password").unlink()
    server.start()
    assert server.process is not None
    assert await asyncio.to_thread(server.process.wait, DEADLINE) == 1
    assert server.termination_log.read_text().startswith("SecretMissing: ")


async def test_a_shutdown_that_finds_no_end_is_bounded(servers: Servers) -> None:
    server = servers.make(0, shutdown_seconds=1)
    server.start()
    (await server.answering()).close()
    server.signal(signal.SIGSTOP)  # answers nobody
    assert await server.terminate() == 0
    assert "did not shut down within 1 s" in server.log()
    assert server.pid() is None


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("no-such-option=1", "no-such-option"),
        ("innodb-flush-method=sideways", "innodb-flush-method"),
        ("max-connections=sideways", "max_connections"),
    ],
)
async def test_a_rejected_configuration_is_named_in_the_termination_message(
    servers: Servers, line: str, named: str
) -> None:
    server = servers.make(0, user_configuration=f"{SMALL}{line}\n")
    server.start()
    assert server.process is not None
    code = await asyncio.to_thread(server.process.wait, DEADLINE)
    assert code == 1
    message = server.termination_log.read_text()
    assert message.startswith("ConfigurationRejected: ")
    assert named in message


async def test_an_image_without_mariadbd_is_named_in_the_termination_message(servers: Servers) -> None:
    server = servers.make(0)
    programs = server.folder / "programs"
    programs.mkdir()
    for name in ("mkdir", "cat"):
        (programs / name).symlink_to(f"/bin/{name}")
    server.path = str(programs)
    server.start()
    assert server.process is not None
    assert await asyncio.to_thread(server.process.wait, DEADLINE) == 1
    assert server.termination_log.read_text().startswith("ImageHasNoMariadbd: ")


async def test_readiness_means_redundancy(cluster: Cluster) -> None:
    for server in cluster.servers:
        assert server.supervisor("ready").returncode == 0
        assert server.supervisor("alive").returncode == 0
    async with await cluster.replicas[0].connect() as connection:
        await connection.execute("STOP SLAVE IO_THREAD", deadline_seconds=DEADLINE)
    answer = cluster.replicas[0].supervisor("ready")
    assert answer.returncode == 1
    assert "neither takes writes nor replicates" in answer.stdout


async def test_liveness_asks_only_the_supervisor(server: Server) -> None:
    server.signal(signal.SIGSTOP)
    assert server.supervisor("alive").returncode == 0
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    assert server.supervisor("alive").returncode != 0


async def test_a_secret_made_anew_locks_nobody_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await server.terminate() == 0
    (server.folder / "secrets/operator-password").write_text("another\\one's")
    monkeypatch.setitem(PASSWORDS, "mariadb_operator", "another\\one's")
    server.start()
    (await server.answering()).close()


async def test_no_password_is_in_an_argument_or_the_log(cluster: Cluster) -> None:
    for server in cluster.servers:
        for secret in PASSWORDS.values():
            assert secret not in server.log()
            assert not processes_naming(secret)
