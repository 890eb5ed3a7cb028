"""Gives a tail to the server next to it, as a replication source on the loopback interface.

The server's own IO and SQL threads take the events, so everything arrives as it would have from the dead primary:
any statement and row, any character set and length, original GTIDs, read_only and strict mode no obstacle, and where
it was interrupted it goes on from gtid_slave_pos. Not for telling the server to do so (sql/tails.py).
ADR 0019 says why this and not `mariadb-binlog | mariadb`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mariadb_operator.node import source_wire as wire
from mariadb_operator.node.binary_log import UpTo
from mariadb_operator.node.log_events import EventType, Format, UnsupportedLog
from mariadb_operator.node.log_files import LogFile, LogUnreadable
from mariadb_operator.node.tails import PIECE_BYTES, TailBroken, in_thread, open_tail
from mariadb_operator.node.transactions import LogDamaged, Transaction, Transactions, events_of
from statemachines.gtid import Position

USER = "tail"
_LOG_NAME = b"tail.000001"
_START = 4
_FAR = 0xFFFF_FFFF  # a heartbeat from before the replica's own count, which begins anywhere, would end it
_MOST_SESSIONS = 8  # one IO thread, and those of it that are not known to be gone
_LOGIN_SECONDS = 5.0
_STALL_SECONDS = 60.0  # a server that takes nothing for so long has to come again
_HEARTBEAT_SECONDS = 1.0
_FATAL_READ = 1236  # ER_MASTER_FATAL_ERROR_READING_BINLOG: an IO thread ends with it
_DENIED = 1045
_UNKNOWN = 1295


@dataclass(frozen=True, slots=True, kw_only=True)
class TailAddress:
    """Where the tail is given, and the password of this one time."""

    port: int
    user: str
    password: str = field(repr=False)
    host: str = "127.0.0.1"


@asynccontextmanager
async def serve(tail: Path) -> AsyncIterator[TailAddress]:
    """Give the tail to whoever knows the password, until the block is left.

    Raises:
        TailBroken: the file is no tail.
        LogMissing, LogUnreadable.
    """
    file = await asyncio.to_thread(open_tail, tail)
    sessions: set[asyncio.Task[None]] = set()
    password = secrets.token_urlsafe(24)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(sessions) >= _MOST_SESSIONS:
            writer.transport.abort()
            return
        sessions.add(task)
        try:
            await _Session(file, password, reader, writer).run()
        except (wire.WireError, OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # its IO thread reconnects and goes on from its position
        finally:
            sessions.discard(task)
            writer.transport.abort()

    try:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            yield TailAddress(port=port, user=USER, password=password)
        finally:
            server.close()
            for task in sessions:
                task.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)
    finally:
        file.close()


class _Session:
    """One connection of an IO thread."""

    def __init__(
        self, file: LogFile, password: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._file = file
        self._password = password
        self._reader = reader
        self._writer = writer
        self._state = Position()

    async def run(self) -> None:
        async with asyncio.timeout(_LOGIN_SECONDS):
            await self._log_in()
        while True:
            async with asyncio.timeout(_STALL_SECONDS):
                sequence, request = await wire.read_packet(self._reader)
            command = request[:1]
            if command == bytes([wire.COM_BINLOG_DUMP]):
                await self._stream(sequence + 1)
                return
            if command == bytes([wire.COM_QUIT]):
                return
            if command == bytes([wire.COM_REGISTER_SLAVE]):
                answer = wire.packet(sequence + 1, wire.ok())
            elif command == bytes([wire.COM_QUERY]):
                answer = self._answer(request[1:].decode("utf-8", "replace"), sequence + 1)
            else:
                answer = wire.packet(sequence + 1, wire.failure(_UNKNOWN, "unknown command"))
            await self._send(answer)

    async def _log_in(self) -> None:
        # NUL ends the nonce on the wire, so none may be in it.
        nonce = bytes(secrets.choice(range(1, 128)) for _ in range(wire.NONCE_BYTES))
        greeting = wire.greeting(version=self._file.format.server_version, nonce=nonce)
        await self._send(wire.packet(0, greeting))
        sequence, payload = await wire.read_packet(self._reader)
        if not wire.admitted(payload, user=USER, password=self._password, nonce=nonce):
            await self._send(wire.packet(sequence + 1, wire.failure(_DENIED, "access denied")))
            raise wire.WireError("wrong name or password")
        await self._send(wire.packet(sequence + 1, wire.ok()))

    def _answer(self, text: str, sequence: int) -> bytes:
        """The reply to a question of an IO thread (get_master_version_and_clock in sql/slave.cc)."""
        if found := re.fullmatch(r"SET @slave_connect_state='([-0-9,]*)'", text):
            try:
                self._state = Position.parse(found[1])
            except ValueError as error:
                return wire.packet(sequence, wire.failure(_UNKNOWN, str(error)))
        for pattern, names, answer in self._answers():
            if re.fullmatch(pattern, text):
                return wire.rows(names, answer, sequence=sequence)
        if text.startswith("SET @"):
            return wire.packet(sequence, wire.ok())
        return wire.packet(sequence, wire.failure(_UNKNOWN, "this is not a database"))

    def _answers(self) -> tuple[tuple[str, list[str], list[list[str]]], ...]:
        server = str(self._file.format.server)
        checksum = "CRC32" if self._file.format.checksum else "NONE"
        pair = ["Variable_name", "Value"]
        # The clock is this machine's own, so the answer is never off by more than the way takes.
        return (
            (r"SELECT UNIX_TIMESTAMP\(\)", ["now"], [[str(int(time.time()))]]),
            (r"SHOW VARIABLES LIKE 'SERVER_ID'", pair, [["server_id", server]]),
            (r"SELECT @@GLOBAL\.SERVER_ID", ["server_id"], [[server]]),
            (r"SELECT @master_binlog_checksum", ["checksum"], [[checksum]]),
            (r"SELECT @@GLOBAL\.gtid_domain_id", ["domain"], [["0"]]),
            # No row: it acknowledges to nobody here.
            (r"SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'", pair, []),
        )

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(_STALL_SECONDS):
            await self._writer.drain()

    async def _stream(self, sequence: int) -> None:
        after = self._file.before.position() if self._file.before is not None else Position()
        if not self._state.covers(after):
            message = f"the tail begins after {after}, the replica has {self._state}"
            await self._send(wire.packet(sequence, wire.failure(_FATAL_READ, message)))
            return
        stream = _Stream(self._file, UpTo(self._state), wire.EventFrames(sequence))
        try:
            async for piece in in_thread(_gathered(iter(stream)), deadline_seconds=_STALL_SECONDS):
                await self._send(piece)
        except (LogDamaged, LogUnreadable, UnsupportedLog, TailBroken) as error:
            await self._send(stream.last_word(str(error)))
            return
        while not self._reader.at_eof():
            await self._send(stream.heartbeat())
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await self._reader.read(1024)  # it says no more than that it leaves
            except TimeoutError:
                continue


class _Stream:
    """The packets that give a replica what it lacks of the tail."""

    def __init__(self, file: LogFile, held: UpTo, frames: wire.EventFrames) -> None:
        self._file = file
        self._held = held
        self._frames = frames
        self._format = file.format

    def __iter__(self) -> Iterator[bytes]:
        yield from self._begin(self._format, self._format.resumed())
        transactions = Transactions([self._file], self._file.first, verify=True)
        for transaction in transactions:
            if not self._held.has(transaction.gtid):
                yield from self._transaction(transaction)
        if transactions.torn is not None:
            raise TailBroken(f"the tail is damaged: {transactions.torn}")

    def _transaction(self, transaction: Transaction) -> Iterator[bytes]:
        if transaction.format.raw != self._format.raw:
            yield from self._begin(transaction.format, transaction.format.raw)
        for file, event in events_of(transaction):
            yield from self._frames.frames(event.length, file.pieces(event.offset, event.end))

    def _begin(self, form: Format, description: bytes) -> Iterator[bytes]:
        """A file begins, as the replica sees it."""
        body = _START.to_bytes(8, "little") + _LOG_NAME
        server = self._file.format.server
        yield from self._whole(self._format.event(EventType.ROTATE, body, server=server, artificial=True))
        self._format = form
        yield from self._whole(description)

    def _whole(self, event: bytes) -> Iterator[bytes]:
        return self._frames.frames(len(event), [event])

    def heartbeat(self) -> bytes:
        """Nothing new; without it the replica would connect anew."""
        event = self._format.event(
            EventType.HEARTBEAT, _LOG_NAME, server=self._file.format.server, position=_FAR
        )
        return b"".join(self._whole(event))

    def last_word(self, message: str) -> bytes:
        """The error that ends the IO thread, in place of an event."""
        return self._frames.error(wire.failure(_FATAL_READ, message))


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    failure: Exception | None = None
    try:
        for piece in pieces:
            buffer += piece
            if len(buffer) >= PIECE_BYTES:
                yield bytes(buffer)
                buffer.clear()
    except (LogDamaged, LogUnreadable, UnsupportedLog, TailBroken) as error:
        failure = error  # after what was whole: the packets are numbered
    if buffer:
        yield bytes(buffer)
    if failure is not None:
        raise failure
