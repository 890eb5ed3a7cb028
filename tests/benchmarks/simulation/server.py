"""Servers that speak MariaDB's protocol over TLS and answer what the operator asks, with next to no cost.

One process listens once for all of them; which one is meant tells the address that was connected to. They keep the few
values that the operator sets (term, epoch, read_only, semi-sync, source, locks) and replicate instantly. Not a database:
a statement that is not known is answered with OK, which is what a guarded statement without a condition would be.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

COM_QUIT, COM_QUERY = 1, 3
INTEGER, TEXT = 8, 253
UTF8 = 45
SSL_FLAG = 0x800
# LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, MULTI_STATEMENTS, MULTI_RESULTS, PLUGIN_AUTH, CONNECT_WITH_DB
CAPABILITIES = 0x1 | 0x8 | 0x200 | SSL_FLAG | 0x2000 | 0x8000 | 0x10000 | 0x20000 | 0x80000
MORE_RESULTS, AUTOCOMMIT = 0x8, 0x2
SSL_REQUEST_BYTES = 36


@dataclass(slots=True)
class SimulatedCluster:
    """What the instances of one cluster share: a position that all of them hold."""

    uid: str = ""
    position: int = 1
    primary_server_id: int = 1

    @property
    def gtid(self) -> str:
        """gtid_binlog_pos of every instance."""
        return f"0-{self.primary_server_id}-{self.position}"


@dataclass(slots=True)
class SimulatedServer:
    """One instance."""

    cluster: SimulatedCluster
    server_id: int
    incarnation: str
    read_only: bool = True
    term: int = 0
    epoch: int = 0
    epoch_primary: str = ""
    source: str = ""
    source_user: str = ""
    source_enabled: bool = True
    acknowledged: int = 0
    locked: set[str] = field(default_factory=set)

    @property
    def executed(self) -> str:
        """Empty until the first epoch was written, or until it was attached."""
        return self.cluster.gtid if self.epoch or self.source else ""

    def ask(self, text: str) -> list[list[Row]]:
        """The result sets of a query; empty for statements."""
        if "AS cipher" in text:
            return [
                [
                    {
                        "server_id": self.server_id,
                        "pid_file": self._pid_file,
                        "cipher": "TLS_AES_256_GCM_SHA384",
                    }
                ]
            ]
        if "AS history" in text:
            return [[self._variables()], self._replication()]
        if "AS slave_position" in text:
            return [[{"executed": self.executed, "slave_position": self.executed}], self._replication()]
        if "MASTER_GTID_WAIT" in text:
            return [[{"result": 0}]]
        if text.lstrip().startswith("SELECT account FROM"):
            return [[{"account": each} for each in sorted(self.locked)] or [{}]]
        if "FROM information_schema.PROCESSLIST WHERE USER" in text:
            return [[{}]]
        self._apply(text)
        return []

    @property
    def _pid_file(self) -> str:
        return f"/run/mysqld/{self.incarnation}.pid"

    def _variables(self) -> Row:
        served = self.epoch or self.source
        epoch = f"{max(self.epoch, 1)} {self.cluster.uid} {self.epoch_primary}" if served else None
        clients = 2 if not self.read_only else 0
        return {
            "server_id": self.server_id,
            "pid_file": self._pid_file,
            "version": "11.8.3-MariaDB-simulated",
            "read_only": int(self.read_only),
            "history": self.executed,
            "executed": self.executed,
            "slave_position": self.executed if self.source else "",
            "source_enabled": int(self.source_enabled),
            "replica_enabled": 1,
            "term": self.term,
            "epoch": epoch,
            "locked": ",".join(sorted(self.locked)) or None,
            "connected": None,
            "semi_sync": json.dumps({
                "clients": clients, "yes_tx": self.acknowledged, "no_tx": 0, "wait_sessions": 0,
                "status": "ON",
            }),
        }  # fmt: skip

    def _replication(self) -> list[Row]:
        row = {
            "Master_Host": self.source, "Master_Port": 3306, "Master_User": self.source_user,
            "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes", "Gtid_IO_Pos": self.executed,
            "Last_IO_Errno": 0, "Last_IO_Error": "", "Last_SQL_Errno": 0, "Last_SQL_Error": "",
            "Seconds_Behind_Master": 0, "Connection_name": "",
        }  # fmt: skip
        return [row] if self.source else [{}]

    def _apply(self, text: str) -> None:
        if found := re.search(r"mariadb_operator\.term \(id, term, leader\) VALUES \(1, (\d+)", text):
            self.term = max(self.term, int(found[1]))
        if found := re.search(r"mariadb_operator\.epoch \(.*?VALUES \((\d+), '([^']*)', '([^']*)'", text):
            self.epoch, self.cluster.uid, self.epoch_primary = int(found[1]), found[2], found[3]
            self.cluster.primary_server_id = self.server_id
            self.cluster.position += 1
        if "UPDATE mariadb_operator.epoch" in text:
            self.cluster.position += 1
            self.acknowledged += 1
        if found := re.search(r"MASTER_HOST = '([^']+)'.*?MASTER_USER = '([^']+)'", text):
            self.source, self.source_user = found[1], found[2]
        for value in re.findall(r"GLOBAL read_only = (\d)", text):
            self.read_only = value == "1"
        # The last one counts; an error's handler comes first.
        for value in re.findall(r"rpl_semi_sync_master_enabled = (ON|OFF)", text):
            self.source_enabled = value == "ON"
        for account, change in re.findall(r"ALTER USER (\w+)@'%' ACCOUNT (LOCK|UNLOCK)", text):
            (self.locked.add if change == "LOCK" else self.locked.discard)(account)


class Wire:
    """One client's connection, already encrypted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._reader = reader
        self._writer = writer
        self._number = number  # of the next packet

    async def serve(self, server: SimulatedServer) -> None:
        """Let anybody in, answer until the client goes."""
        await self._read()  # who it is; not checked
        self._send(ok())
        while True:
            self._number = 0
            packet = await self._read()
            if not packet or packet[0] == COM_QUIT:
                return
            if packet[0] == COM_QUERY:
                self._answer(server.ask(packet[1:].decode()))
            else:
                self._send(ok())
            await self._writer.drain()

    def _answer(self, results: Sequence[list[Row]]) -> None:
        for index, rows in enumerate(results, start=1):
            for packet in result_set(rows, more=index < len(results)):
                self._send(packet)
        if not results:
            self._send(ok())

    async def _read(self) -> bytes:
        header = await self._reader.readexactly(4)
        self._number = header[3] + 1
        return await self._reader.readexactly(int.from_bytes(header[:3], "little"))

    def _send(self, payload: bytes) -> None:
        self._writer.write(len(payload).to_bytes(3, "little") + bytes([self._number % 256]) + payload)
        self._number += 1


def greeting(*, capabilities: int = CAPABILITIES) -> bytes:
    """The server's first packet: protocol 10, TLS offered unless `capabilities` say otherwise."""
    low, high = capabilities & 0xFFFF, capabilities >> 16
    return (
        b"\x0a11.8.3-MariaDB\0" + struct.pack("<I", 1) + b"12345678\0" + struct.pack("<HBHH", low, UTF8, AUTOCOMMIT, high)
        + bytes([21]) + bytes(10) + b"123456789012\0" + b"mysql_native_password\0"
    )  # fmt: skip


def ok() -> bytes:
    """The OK packet."""
    return b"\0\0\0" + struct.pack("<HH", AUTOCOMMIT, 0)


def result_set(rows: list[Row], *, more: bool) -> Iterator[bytes]:
    """Columns from the first row; an empty first row means no rows."""
    columns = list(rows[0]) or ["nothing"]
    yield bytes([len(columns)])
    for name in columns:
        value = rows[0].get(name)
        yield column(name, INTEGER if isinstance(value, int) else TEXT)
    yield end(more=more)
    for row in rows:
        if row:
            yield b"".join(b"\xfb" if value is None else text(str(value)) for value in row.values())
    yield end(more=more)


def column(name: str, kind: int) -> bytes:
    """A column's definition."""
    return (
        text("def") + text("") + text("") + text("") + text(name) + text(name)
        + struct.pack("<BHIBHBH", 12, UTF8, 1024, kind, 0, 0, 0)
    )  # fmt: skip


def end(*, more: bool) -> bytes:
    """EOF; `more` when another result follows."""
    return b"\xfe" + struct.pack("<HH", 0, AUTOCOMMIT | (MORE_RESULTS if more else 0))


def text(value: str) -> bytes:
    """A string with its length before it."""
    data = value.encode()
    return (bytes([len(data)]) if len(data) < 251 else b"\xfc" + struct.pack("<H", len(data))) + data


@asynccontextmanager
async def listening(
    *, port: int, servers: Mapping[str, SimulatedServer], tls: Callable[[str], ssl.SSLContext]
) -> AsyncIterator[int]:
    """Serve every address of `servers` on that port (0: any, which is given); `tls` gives an address its certificate."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("0.0.0.0", port), backlog=512) as accepting:
        accepting.setblocking(False)
        async with asyncio.TaskGroup() as group:
            tasks: set[asyncio.Task[None]] = set()

            async def accept() -> None:
                while True:
                    accepted, _ = await loop.sock_accept(accepting)
                    accepted.setblocking(False)
                    server = servers.get(accepted.getsockname()[0])
                    if server is None:
                        accepted.close()
                    else:
                        tasks.add(task := group.create_task(serve(accepted, server, tls)))
                        task.add_done_callback(tasks.discard)

            accepting_task = group.create_task(accept())
            try:
                yield accepting.getsockname()[1]
            finally:
                for each in (accepting_task, *tasks):
                    each.cancel()


async def serve(
    accepted: socket.socket, server: SimulatedServer, tls: Callable[[str], ssl.SSLContext]
) -> None:
    """One client, from its first packet to its last."""
    loop = asyncio.get_running_loop()
    writer: asyncio.StreamWriter | None = None
    try:
        packet = greeting()
        await loop.sock_sendall(accepted, len(packet).to_bytes(3, "little") + b"\0" + packet)
        left = SSL_REQUEST_BYTES
        # Not a byte more: what follows belongs to TLS.
        while left:
            data = await loop.sock_recv(accepted, left)
            if not data:
                return
            left -= len(data)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        context = tls(accepted.getsockname()[0])
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=context)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        await Wire(reader, writer, 2).serve(server)
    except (asyncio.IncompleteReadError, OSError):
        return
    finally:
        if writer is not None:
            writer.close()
        else:
            accepted.close()
