"""A tail: transactions taken out of a log as they are, in a file that is a binary log itself.

It begins with the position after which it continues (as its Gtid_list), so it explains itself to whoever applies it,
and every tool for binary logs reads it. Made as a stream, so that it can go from a volume over a network into a file
without a copy in between. Not for which transactions (salvage.py, relay_log.py, archive.py) nor for applying them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mariadb_operator.node.binary_log import Missing
from mariadb_operator.node.log_events import MAGIC, EventType, Format, UnsupportedLog, gtid_list_body
from mariadb_operator.node.log_files import LogFile, LogUnreadable, Torn
from mariadb_operator.node.transactions import Transaction, Transactions
from mariadb_operator.runtime.errors import Permanent, Transient
from statemachines.gtid import Gtid, Position

# So many bytes at once: handing less from thread to loop costs more than reading it.
PIECE_BYTES = 256 << 10
# A volume below that is not worth waiting for.
_SLOWEST_BYTES_PER_SECOND = 2 << 20


class TailBroken(Transient):
    """What arrived is not what was sent; send it again."""


class TailTooLong(Permanent):
    """There is more than the receiver allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a tail holds: equal at both ends when it arrived whole."""

    after: Position  # who has this has everything before it
    count: int  # transactions
    first: Gtid | None
    last: Position  # the newest of each domain that is in it
    bytes: int
    digest: str  # SHA-256


@dataclass(slots=True)
class _Count:
    """The running sums of a tail."""

    after: Position
    count: int = 0
    first: Gtid | None = None
    last: dict[int, Gtid] = field(default_factory=dict)

    def add(self, gtid: Gtid) -> None:
        self.count += 1
        self.first = self.first or gtid
        self.last[gtid.domain] = gtid

    def summary(self, *, size: int, digest: str) -> Summary:
        return Summary(
            after=self.after,
            count=self.count,
            first=self.first,
            last=Position(tuple(self.last.values())),
            bytes=size,
            digest=digest,
        )


@dataclass(slots=True)
class Tail:
    """The bytes of a tail, made while they are read; `summary` and `torn` are there after the loop.

    Raises from the loop what the opening of its log and the reading of it raise.
    """

    opening: Callable[[], AbstractContextManager[Missing]]
    after: Position
    summary: Summary | None = field(default=None, init=False)
    torn: Torn | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[bytes]:
        count = _Count(self.after)
        digest = hashlib.sha256()
        size = 0
        buffer = bytearray()
        with self.opening() as missing:
            for piece in self._pieces(missing, count):
                buffer += piece
                if len(buffer) >= PIECE_BYTES:
                    digest.update(buffer)
                    size += len(buffer)
                    yield bytes(buffer)
                    buffer.clear()
            self.torn = missing.torn
        digest.update(buffer)
        size += len(buffer)
        self.summary = count.summary(size=size, digest=digest.hexdigest())
        if buffer:
            yield bytes(buffer)

    def _pieces(self, missing: Missing, count: _Count) -> Iterator[bytes]:
        current: Format | None = None
        for transaction in missing:
            if current is None:
                yield self._head(transaction.format)
            elif transaction.format.raw != current.raw:
                yield transaction.format.raw
            current = transaction.format
            count.add(transaction.gtid)
            yield from bytes_of(transaction)
        if current is None:
            yield self._head(missing.format)

    def _head(self, form: Format) -> bytes:
        body = gtid_list_body(self.after.gtids)
        return MAGIC + form.raw + form.event(EventType.GTID_LIST, body, server=form.server)


def bytes_of(transaction: Transaction) -> Iterator[bytes]:
    """A transaction, piece by piece."""
    for part in transaction.parts:
        yield from part.file.pieces(part.start, part.end)


async def in_thread(pieces: Iterator[bytes], *, deadline_seconds: float) -> AsyncIterator[bytes]:
    """The pieces, read in a thread: a disk may make each wait, and nobody else has to wait with it.

    Raises LogUnreadable when a piece takes longer than the deadline. Its thread then ends when the disk answers, and
    so does that of a loop that is cancelled.
    """
    while True:
        try:
            async with asyncio.timeout(deadline_seconds):
                piece = await asyncio.to_thread(next, pieces, None)
        except TimeoutError as error:
            raise LogUnreadable(f"the volume gave nothing for {deadline_seconds} s") from error
        if piece is None:
            return
        yield piece


def summarise(path: Path) -> Summary:
    """Read a tail whole and say what it holds, every checksum compared.

    Raises:
        TailBroken: it is not a whole tail.
        LogMissing, LogUnreadable.
    """
    try:
        with open_tail(path) as file:
            assert file.before is not None, "open_tail compared it"
            count = _Count(file.before.position())
            transactions = Transactions([file], file.first, verify=True)
            for transaction in transactions:
                count.add(transaction.gtid)
            if transactions.torn is not None:
                raise TailBroken(f"{path}: {transactions.torn}")
            digest = hashlib.sha256()
            for piece in file.pieces(0, file.size):
                digest.update(piece)
            return count.summary(size=file.size, digest=digest.hexdigest())
    except UnsupportedLog as error:
        raise TailBroken(f"{path}: {error}") from error


def transactions_in(path: Path) -> tuple[Position, tuple[Gtid, ...]]:
    """What a whole tail continues, and what it holds. Raises TailBroken, LogMissing, LogUnreadable, UnsupportedLog."""
    with open_tail(path) as file:
        assert file.before is not None, "open_tail compared it"
        return file.before.position(), tuple(each.gtid for each in Transactions([file], file.first))


def open_tail(path: Path) -> LogFile:
    """Open a tail. Raises TailBroken, LogMissing, LogUnreadable, UnsupportedLog."""
    file = LogFile.open(path)
    if file is None or file.before is None:
        if file is not None:
            file.close()
        raise TailBroken(f"{path} has no head")
    return file


async def receive(
    pieces: AsyncIterable[bytes],
    path: Path,
    *,
    expected: Callable[[], Summary | None],
    limit_bytes: int,
    deadline_seconds: float,
) -> Summary:
    """Write a tail into a file that is there only when it is whole and on disk.

    `expected` is asked after the last piece for the sender's summary. What an earlier attempt left is replaced.
    `deadline_seconds` is for each piece, the sender's wait included; the check at the end has more for a longer file.

    Raises:
        TailBroken: what arrived is not what was sent, or it did not arrive in time.
        TailTooLong: more than `limit_bytes`.
        LogUnreadable: the volume does not take it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        async with asyncio.timeout(deadline_seconds) as timer:
            with await asyncio.to_thread(partial.open, "wb") as file:
                written = await _write(pieces, file, limit_bytes, timer, deadline_seconds)
                # What is left takes as long as the file is long.
                _extend(timer, deadline_seconds + written / _SLOWEST_BYTES_PER_SECOND)
                await asyncio.to_thread(os.fsync, file.fileno())
            summary = await asyncio.to_thread(summarise, partial)
            if summary != expected():
                raise TailBroken(f"{path} holds {summary}, sent was {expected()}")
            await asyncio.to_thread(put_in_place, partial, path)
    except TimeoutError as error:
        raise TailBroken(f"{path}: nothing came for {deadline_seconds} s") from error
    except OSError as error:
        raise LogUnreadable(f"{path}: {error.strerror}") from error
    return summary


async def _write(
    pieces: AsyncIterable[bytes], file: BinaryIO, limit: int, timer: asyncio.Timeout, seconds: float
) -> int:
    written = 0
    async for piece in pieces:
        written += len(piece)
        if written > limit:
            raise TailTooLong(f"{file.name}: more than {limit} bytes")
        await asyncio.to_thread(file.write, piece)
        _extend(timer, seconds)
    return written


def _extend(timer: asyncio.Timeout, seconds: float) -> None:
    timer.reschedule(asyncio.get_running_loop().time() + seconds)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file or folder its name, durably."""
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
