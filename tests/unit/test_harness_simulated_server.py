"""The simulated servers of the benchmarks answer the operator's real statements, by the operator's own client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from mariadb_operator.resources.certificates import new_authority, new_server_certificate
from mariadb_operator.resources.names import Names
from mariadb_operator.sql import durability, replication, roles, terms
from mariadb_operator.sql.connection import Connection, Endpoint, tls_context
from mariadb_operator.sql.observe import observe
from mariadb_operator.sql.terms import Guard
from statemachines.gtid import Position
from tests.benchmarks.simulation.server import SimulatedCluster, SimulatedServer, listening

GUARD = Guard(term=7, leader="test")


@asynccontextmanager
async def connected(server: SimulatedServer, folder: Path) -> AsyncIterator[Connection]:
    now = datetime.now(UTC)
    authority = new_authority("shop", now=now)
    pair = new_server_certificate(
        authority, Names("shop", "default"), addresses=(), now=now, cluster_domain="cluster.local"
    )
    (folder / "crt").write_text(pair.certificate)
    (folder / "key").write_text(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    async with listening(port=0, servers={"127.0.0.1": server}, tls=lambda _: context) as port:
        endpoint = Endpoint(
            host="127.0.0.1",
            port=port,
            user="mariadb_operator",
            password="any",
            tls=tls_context(authority.certificate),
            server_id=server.server_id,
        )
        async with await Connection.open(endpoint, deadline_seconds=5) as connection:
            yield connection


async def test_a_first_primary_is_made_as_the_operator_makes_it(tmp_path: Path) -> None:
    server = SimulatedServer(SimulatedCluster(), 1, "0123456789abcdef")
    async with connected(server, tmp_path) as connection:
        await terms.raise_term(connection, guard=GUARD)
        await durability.set_locks(connection, accounts={"repl_1"}, locked={"repl_1"}, guard=GUARD)
        await roles.write_epoch(
            connection, epoch=1, cluster_id="c", primary="shop-0", guard=GUARD, deadline_seconds=5
        )
        await roles.open_primary(connection, semi_sync=True, guard=GUARD)
        seen = await observe(connection, asked_at=0, pod_uid="u", deadline_seconds=5)
    assert (seen.term, seen.epoch, seen.cluster_id, seen.epoch_primary) == (7, 1, "c", "shop-0")
    assert not seen.read_only
    assert seen.semi_sync.source_enabled
    assert seen.locked_accounts == {"repl_1"}
    assert seen.incarnation == "0123456789abcdef"


async def test_a_replica_follows_and_holds_what_its_primary_holds(tmp_path: Path) -> None:
    cluster = SimulatedCluster(uid="c", position=5)
    server = SimulatedServer(cluster, 2, "0123456789abcdef")
    async with connected(server, tmp_path) as connection:
        source = replication.Source(host="10.0.0.1", port=3306, user="repl_1", password="any")
        await replication.attach(connection, source=source, source_position=Position(), guard=GUARD)
        cluster.position = 6
        seen = await observe(connection, asked_at=0, pod_uid="u", deadline_seconds=5)
    assert seen.replication is not None
    assert seen.replication.source_host == "10.0.0.1"
    assert seen.replication.sql_running
    assert seen.executed == Position.parse("0-1-6")


async def test_a_client_that_goes_ends_its_connection_only(tmp_path: Path) -> None:
    server = SimulatedServer(SimulatedCluster(), 1, "0123456789abcdef")
    async with connected(server, tmp_path) as connection:
        connection.close()
        async with await Connection.open(connection.endpoint, deadline_seconds=5) as again:
            assert (
                await again.query("SELECT @@global.server_id AS server_id, 1 AS cipher", deadline_seconds=5)
            )[0]
    await asyncio.sleep(0)
