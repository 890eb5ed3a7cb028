"""What the tests of the node's salvage share: tails taken and given, and servers compared row by row."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from mariadb_operator.node.salvage import salvage, unlogged
from mariadb_operator.node.tail_source import serve
from mariadb_operator.node.tails import Summary, Tail, in_thread, receive
from mariadb_operator.sql import tails
from mariadb_operator.sql.tails import TailSource
from mariadb_operator.sql.terms import Guard
from statemachines.gtid import Position
from tests.integration.servers import DEADLINE, GUARD, PASSWORDS, Cluster, Server, root

LIMIT = 1 << 32


async def take(tail: Tail, path: Path) -> Summary:
    """Stream a tail into a file, as over a network."""
    return await receive(
        in_thread(iter(tail), deadline_seconds=3 * DEADLINE),
        path,
        expected=lambda: tail.summary,
        limit_bytes=LIMIT,
        deadline_seconds=3 * DEADLINE,
    )


async def give(
    server: Server,
    path: Path,
    target: Position,
    *,
    guard: Guard = GUARD,
    deadline_seconds: float = 3 * DEADLINE,
) -> Position:
    """Have a server apply a tail; its gtid_slave_pos after it."""
    async with serve(path) as address, await server.connect() as connection:
        return await tails.apply_tail(
            connection,
            source=TailSource(port=address.port, user=address.user, password=address.password),
            target=target,
            guard=guard,
            deadline_seconds=deadline_seconds,
        )


async def slave_position(server: Server) -> Position:
    return (await server.look()).slave_position


async def salvage_onto(server: Server, dead: Server, folder: Path, *, all_logged: bool = True) -> Summary:
    """All of it: what the dead server has and the other lacks is taken and applied."""
    tail = salvage(dead.data / "binlog.index", received=await slave_position(server))
    summary = await take(tail, folder / "tail")
    await give(server, folder / "tail", summary.last)
    assert not all_logged or not unlogged(server.data / "binlog.index", folder / "tail")
    return summary


async def cut_off(cluster: Cluster) -> None:
    """No replica receives any more, and the primary does not wait for one."""
    for replica in cluster.replicas:
        root(replica, "STOP SLAVE IO_THREAD")
    root(cluster.primary, "SET GLOBAL rpl_semi_sync_master_enabled = OFF")


def dump(server: Server) -> str:
    """Every row, table, view, routine, trigger and event of the application's database, and all accounts."""
    text = subprocess.run(
        [
            "mariadb-dump",
            "-uroot",
            f"--socket={server.run}/mysqld.sock",
            *("--routines", "--events", "--triggers", "--hex-blob", "--order-by-primary"),
            *(
                "--skip-dump-date",
                "--skip-extended-insert",
                "--max-allowed-packet=256M",
                "--databases",
                "shop",
            ),
        ],
        env={**os.environ, "MYSQL_PWD": PASSWORDS["root"]},
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE,
        check=True,
    ).stdout
    # Comments say how the server was started. The next number and a replica's events differ in any replication.
    text = re.sub(r" AUTO_INCREMENT=\d+| ON SLAVE", "", text)
    lines = [line for line in text.splitlines() if not line.startswith("-- ")]
    accounts = root(server, "SELECT Host, User, Priv FROM mysql.global_priv ORDER BY Host, User")
    return "\n".join([*lines, accounts])


def checksums(server: Server) -> str:
    """CHECKSUM TABLE of every table of the application's database."""
    tables = root(
        server,
        "SELECT GROUP_CONCAT(CONCAT('`shop`.`', TABLE_NAME, '`')) FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = 'shop' AND TABLE_TYPE = 'BASE TABLE'",
    )
    return root(server, f"CHECKSUM TABLE {tables} EXTENDED")


async def at_rest(*servers: Server) -> None:
    """Wait until all have executed what the first has."""
    target = (await servers[0].look()).executed
    for server in servers[1:]:
        await server.seen(lambda fact: fact.executed.covers(target))
