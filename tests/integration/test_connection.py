"""The connection on real servers: TLS, deadlines, the sudden end of a server, and what each failure says."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest
import uvloop

from mariadb_operator.sql.connection import Connection, Endpoint, tls_context
from mariadb_operator.sql.errors import (
    ConnectRefused,
    ServerPresent,
    StatementInterrupted,
    StatementLost,
    StatementRefused,
    Unreachable,
)
from mariadb_operator.sql.observe import read_only_admins
from statemachines.facts import IoThread
from tests.integration.certificates import Authority
from tests.integration.servers import (
    DEADLINE,
    OPERATOR,
    PASSWORDS,
    PORT,
    PROBE,
    Cluster,
    Server,
    eventually,
    root,
)


async def test_a_killed_server_ends_an_idle_connection_and_then_refuses(server: Server) -> None:
    async with await server.connect() as connection:
        ended = asyncio.create_task(connection.wait_closed())
        await asyncio.sleep(0)
        assert not ended.done()
        await server.kill_and_hold()
        async with asyncio.timeout(DEADLINE):
            await ended
            await refusal(server)
        with pytest.raises((StatementLost, Unreachable)):
            await connection.query("SELECT 1", deadline_seconds=DEADLINE)


async def refusal(server: Server) -> None:
    """Wait for it: while its sockets are being closed the kernel may reset a connection, which is silence."""
    while True:
        try:
            await server.connect()
        except Unreachable:
            await asyncio.sleep(0.01)
        except ConnectRefused:
            return
        else:
            raise AssertionError("a dead server answered")


async def test_a_statement_under_way_is_lost_with_its_server(server: Server) -> None:
    async with await server.connect(statement_seconds=0) as connection:
        statement = asyncio.create_task(connection.query("SELECT SLEEP(60)", deadline_seconds=90))
        await eventually("it runs", lambda: "SLEEP(60)" in root(server, "SHOW PROCESSLIST"))
        server.signal(signal.SIGKILL)
        with pytest.raises(StatementLost) as caught:
            await statement
    assert caught.value.connection_id == connection.connection_id
    assert caught.value.incarnation == connection.incarnation


async def test_a_frozen_server_holds_nobody_beyond_the_deadline(server: Server) -> None:
    async with await server.connect() as connection:
        server.signal(signal.SIGSTOP)
        with pytest.raises(StatementLost):
            await connection.query("SELECT 1", deadline_seconds=0.2)
        assert connection.is_closed
        # The kernel accepts; the greeting never comes.
        with pytest.raises(Unreachable):
            await Connection.open(server.endpoint(), deadline_seconds=0.2)
        server.signal(signal.SIGCONT)


async def test_cancelling_a_statement_is_not_swallowed_and_closes(server: Server) -> None:
    async with await server.connect() as connection:
        statement = asyncio.create_task(connection.query("SELECT SLEEP(3)", deadline_seconds=DEADLINE))
        await asyncio.sleep(0.05)
        statement.cancel()
        with pytest.raises(asyncio.CancelledError):
            await statement
        assert connection.is_closed


async def test_a_server_of_another_authority_is_not_talked_to(server: Server) -> None:
    with pytest.raises(ServerPresent, match="TLS"):
        await Connection.open(
            server.endpoint(authority=Authority.make("stranger")), deadline_seconds=DEADLINE
        )


async def test_a_server_without_tls_gets_no_password() -> None:
    """A greeting without the TLS capability, as a server of ours never sends: whoever sends it gets nothing."""
    received = asyncio.get_running_loop().create_future()
    greeting = b"\x0a10.11.0\x00" + b"\x01\x00\x00\x00" + b"saltsalt\x00" + b"\x00\xf2\x21\x02\x00\x00\x00"
    greeting += b"\x15" + b"\x00" * 10 + b"saltsaltsalt\x00" + b"mysql_native_password\x00"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(len(greeting).to_bytes(3, "little") + b"\x00" + greeting)
        received.set_result(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        authority = Authority.make("cluster")
        endpoint = dataclasses.replace(_endpoint(authority), port=port)
        with pytest.raises(ServerPresent, match="no TLS"):
            await Connection.open(endpoint, deadline_seconds=DEADLINE)
        assert await received == b""


def _endpoint(authority: Authority) -> Endpoint:
    return Endpoint(
        host="127.0.0.1", port=1, user="u", password="p", tls=tls_context(authority.text), server_id=1
    )


async def test_a_plaintext_client_is_refused(cluster: Cluster) -> None:
    for account in ("mariadb_operator", "mariadb_probe", "app", "repl_1"):
        answer = client(cluster.primary, account, "--skip-ssl")
        assert answer.returncode != 0
        assert "Access denied" in answer.stderr or "insecure transport" in answer.stderr
        assert client(cluster.primary, account, f"--ssl-ca={cluster.primary.ca}").returncode == 0


async def test_an_account_that_does_not_ask_for_tls_is_refused_in_plaintext_too(server: Server) -> None:
    # Logged, it would wait for a replica.
    root(server, f"SET sql_log_bin = 0; CREATE USER app@'%' IDENTIFIED BY '{PASSWORDS['app']}'")
    assert client(server, "app", "--skip-ssl").returncode != 0
    assert client(server, "app", f"--ssl-ca={server.ca}").returncode == 0


def client(server: Server, account: str, option: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["mariadb", f"-u{account}", f"-h{server.address}", f"-P{PORT}", option, "-e", "SELECT 1"],
        env={**os.environ, "MYSQL_PWD": PASSWORDS[account]},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_root_comes_in_locally_only(server: Server) -> None:
    with pytest.raises(ServerPresent) as caught:
        await server.connect("root")
    assert caught.value.errno == 1045


async def test_a_wrong_password_means_present(server: Server) -> None:
    endpoint = dataclasses.replace(server.endpoint(), password="wrong")
    with pytest.raises(ServerPresent) as caught:
        await Connection.open(endpoint, deadline_seconds=DEADLINE)
    assert caught.value.errno == 1045
    assert "wrong" not in str(caught.value)


async def test_a_connection_that_was_not_let_in_leaves_no_socket_behind(server: Server) -> None:
    """The library's close waits for the TLS goodbye of a peer, which may be frozen by then."""
    wrong = dataclasses.replace(server.endpoint(), password="wrong")
    strange = server.endpoint(authority=Authority.make("stranger"))
    before = sockets()
    for endpoint in (wrong, strange):
        with pytest.raises(ServerPresent):
            await Connection.open(endpoint, deadline_seconds=DEADLINE)
        await asyncio.sleep(0)
        assert sockets() == before


def sockets() -> set[str]:
    links = (str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return {link for link in links if link.startswith("socket:")}


async def test_clients_that_fill_all_connections_keep_neither_operator_nor_replicas_out(
    cluster: Cluster,
) -> None:
    primary, replica = cluster.primary, cluster.replicas[0]
    root(primary, "SET GLOBAL max_connections = 10")
    held = [await primary.connect("app") for _ in range(10)]
    with pytest.raises(ServerPresent) as caught:
        await primary.connect("app")
    assert caught.value.errno == 1040
    for user in (OPERATOR, PROBE):
        (await primary.connect(user)).close()
    root(replica, "STOP SLAVE IO_THREAD")
    root(replica, "START SLAVE IO_THREAD")
    await replica.seen(lambda fact: fact.replication and fact.replication.io_thread is IoThread.RUNNING)
    for connection in held:
        connection.close()


async def test_another_instance_at_the_address_says_nothing_about_ours(server: Server) -> None:
    with pytest.raises(Unreachable, match="server_id 1, expected 5"):
        await Connection.open(dataclasses.replace(server.endpoint(), server_id=5), deadline_seconds=DEADLINE)


async def test_the_server_ends_statements_at_their_limit(server: Server) -> None:
    async with await server.connect(statement_seconds=0.2) as connection:
        with pytest.raises(StatementInterrupted) as caught:
            await connection.execute(
                # The limit counts for a compound statement as a whole.
                "BEGIN NOT ATOMIC DECLARE n INT DEFAULT 0; WHILE n >= 0 DO SET n = 1; END WHILE; END",
                deadline_seconds=DEADLINE,
            )
        assert caught.value.errno == 1969
        assert await connection.query("SELECT 1 AS one", deadline_seconds=DEADLINE) == [{"one": 1}]


async def test_a_syntax_error_does_not_quote_the_statement(server: Server) -> None:
    async with await server.connect() as connection:
        with pytest.raises(StatementRefused) as caught:
            await connection.execute("ALTER USER IDENTIFIED BY 'secret'", deadline_seconds=DEADLINE)
    assert "secret" not in str(caught.value)


def test_all_of_it_works_on_uvloop_too(server: Server) -> None:
    async def talk() -> None:
        async with await server.connect() as connection:
            assert await connection.query("SELECT %s AS said", ("it's",), deadline_seconds=DEADLINE) == [
                {"said": "it's"}
            ]
            ended = asyncio.create_task(connection.wait_closed())
            server.signal(signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                await ended
        await eventually("respawn", lambda: "starting it again" in server.log())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())


async def test_accounts_that_write_through_read_only_are_seen_and_ours_are_not(server: Server) -> None:
    async with await server.connect(PROBE) as connection:
        assert await read_only_admins(connection, deadline_seconds=DEADLINE) == frozenset()
        root(
            server,
            "SET sql_log_bin = 0; CREATE USER dba@'%'; GRANT ALL ON *.* TO dba@'%';"
            " CREATE USER reader@'%'; GRANT SELECT ON *.* TO reader@'%'",
        )
        assert await read_only_admins(connection, deadline_seconds=DEADLINE) == {"dba@%"}
