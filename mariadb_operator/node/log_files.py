"""One file of a binary or relay log, opened and read event by event, without a server.

Reads with pread, never by mmap: a disk that fails has to raise an error here, not to kill the process. Holds at most
a window in memory, whatever the length of a row. Not for transactions (transactions.py puts them together).
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from mariadb_operator.node.log_events import (
    CHECKSUM_BYTES,
    GTID,
    HEADER,
    HEADER_BYTES,
    LONGEST_GTID_BYTES,
    MAGIC,
    PARTS,
    Event,
    EventType,
    Format,
    UnsupportedLog,
    listed,
    next_gtid_event,
)
from mariadb_operator.runtime.errors import Permanent, Transient
from statemachines.gtid import Gtid, History

WINDOW_BYTES = 1 << 20
_KIND_AND_LENGTH = struct.Struct("<4xBII4x2x")  # a header's type, server_id and length
_LENGTH = struct.Struct("<9xI6x")
_SHORTEST_GTID_BYTES = HEADER_BYTES + GTID.size
_LONGEST_TYPE = 172


class LogMissing(Permanent):
    """A file that the index names, or the index itself, is not there."""


class LogUnreadable(Transient):
    """The volume gave an error instead of data."""


class Damage(StrEnum):
    """Why a file can't be read on."""

    CUT = "Cut"  # it ends inside of an event: a write that the crash interrupted
    CHECKSUM = "Checksum"  # an event is not what was written
    GARBAGE = "Garbage"  # no event begins here
    UNFINISHED = "Unfinished"  # it ends between two events of a transaction


@dataclass(slots=True)
class Reading:
    """The events of a file from an offset on; after the loop `damage` says why it ended early, and `end` where."""

    file: LogFile
    end: int
    verify: bool = False
    format: Format = field(kw_only=True)  # at the beginning; a tail and a relay log have several
    damage: Damage | None = field(default=None, init=False)
    _window: bytes = field(default=b"", init=False, repr=False)
    _base: int = field(default=0, init=False, repr=False)

    def __iter__(self) -> Iterator[Event]:
        while self.end < self.file.size and self.damage is None:
            self._base = self.end
            self._window = self.file.read(self._base, WINDOW_BYTES)
            before = self.end
            yield from self._in_window()
            if self.end == before and self.damage is None:
                yield from self._longer_than_window()

    def _in_window(self) -> Iterator[Event]:
        """The events that are whole in the window. The loop that everything's speed hangs on."""
        window, base, size = self._window, self._base, len(self._window)
        unpack, verify = HEADER.unpack_from, self.verify
        cursor = 0
        while cursor + HEADER_BYTES <= size:
            _, kind, server, length, _, _ = unpack(window, cursor)
            stop = cursor + length
            if length < HEADER_BYTES or kind == 0 or kind >= _LONGEST_TYPE:
                self.damage = Damage.GARBAGE
                break
            if stop > size:
                break
            if kind in PARTS and not verify:
                cursor = stop
                continue
            event = Event(kind, server, base + cursor, length, window[cursor:stop])
            if not self._sound(event):
                break
            cursor = stop
            # Before it is given away: the reader may stop here.
            self.end = base + cursor
            yield event
        self.end = base + cursor

    def _sound(self, event: Event) -> bool:
        if event.kind == EventType.FORMAT_DESCRIPTION:
            try:
                self.format = Format.parse(event.data)
            except UnsupportedLog:
                self.damage = Damage.CHECKSUM
        elif event.kind == EventType.START_ENCRYPTION:
            raise UnsupportedLog(f"{self.file.path} is encrypted: only its server can read it")
        elif (self.verify or event.kind == EventType.GTID) and not self.format.intact(event.data):
            self.damage = Damage.CHECKSUM
        return self.damage is None

    def _longer_than_window(self) -> Iterator[Event]:
        """One event of which the window holds a part only."""
        if len(self._window) < HEADER_BYTES:
            self.damage = Damage.CUT
            return
        _, kind, server, length, _, _ = HEADER.unpack_from(self._window)
        if self.end + length > self.file.size:
            self.damage = Damage.CUT
            return
        event = Event(kind, server, self.end, length, self._window[:HEADER_BYTES])
        if self.verify and self.format.checksum and not self.file.checksum_fits(event):
            self.damage = Damage.CHECKSUM
            return
        self.end += length
        yield event


@dataclass(slots=True)
class LogFile:
    """An open file of a log. Its size is what it was when it was opened."""

    path: Path
    size: int
    format: Format
    before: History | None  # what was logged before this file, by its Gtid_list; a relay log has none
    first: int  # where the events after the format description begin
    _descriptor: int = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Open a file and read its head; None when the crash left no whole head in it.

        Raises:
            LogMissing: there is no such file.
            LogUnreadable: the volume does not give it.
            UnsupportedLog: it is encrypted, or no log of MariaDB 10 or newer.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise LogMissing(f"{path} is not there") from error
        except OSError as error:
            raise LogUnreadable(f"{path}: {error.strerror}") from error
        try:
            file = cls._with_head(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if file is None:
            os.close(descriptor)
        return file

    @classmethod
    def _with_head(cls, path: Path, descriptor: int) -> Self | None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedLog(f"{path} is no file")
        size = status.st_size
        head = _read(path, descriptor, 0, WINDOW_BYTES)
        if not head.strip(b"\0"):
            return None  # a power loss can leave the length without the data
        if head[:4] != MAGIC[: len(head)]:
            raise UnsupportedLog(f"{path} is no binary log, or encrypted as a whole")
        if len(head) < 4 + HEADER_BYTES:
            return None
        _, kind, _, length, _, _ = HEADER.unpack_from(head, 4)
        if kind != EventType.FORMAT_DESCRIPTION:
            raise UnsupportedLog(f"{path} does not begin with a format description")
        if 4 + length > len(head):
            return None
        file = cls(path, size, Format.parse(head[4 : 4 + length]), None, 4 + length, descriptor)
        for event in Reading(file, file.first, verify=True, format=file.format):
            if event.kind == EventType.GTID_LIST:
                file.before = History.of(listed(event))
            break
        return file

    def read(self, offset: int, length: int) -> bytes:
        """A piece of the file. Raises LogUnreadable."""
        return _read(self.path, self._descriptor, offset, min(length, self.size - offset))

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """From `start` to `end`, a window at a time. Raises LogUnreadable, also when the file has shrunk."""
        while start < end:
            piece = self.read(start, min(WINDOW_BYTES, end - start))
            if not piece:
                raise LogUnreadable(f"{self.path} has become shorter than {end} bytes")
            start += len(piece)
            yield piece

    def checksum_fits(self, event: Event) -> bool:
        """Whether the checksum of an event of any length is right."""
        value = 0
        for piece in self.pieces(event.offset, event.end - CHECKSUM_BYTES):
            value = zlib.crc32(piece, value)
        return value.to_bytes(4, "little") == self.read(event.end - CHECKSUM_BYTES, CHECKSUM_BYTES)

    def find_gtid_event(self, offset: int, end: int) -> Event | None:
        """The first GTID event at or after `offset`, found without reading what is before it."""
        # So that none is missed between two pieces. A large transaction's has room to spare in it (11.7).
        overlap = LONGEST_GTID_BYTES
        while offset < end:
            piece = self.read(offset, min(WINDOW_BYTES, end - offset + overlap))
            event = next_gtid_event(piece, offset=offset)
            if event is not None:
                return event if event.offset < end else None
            if len(piece) <= overlap:
                return None
            offset += len(piece) - overlap
        return None

    def leads_to(self, start: int, target: int) -> bool:
        """Whether an event begins at `target`, seen from one that begins at `start`: by lengths alone."""
        unpack = _LENGTH.unpack_from
        while start < target:
            window = self.read(start, min(WINDOW_BYTES, target - start + HEADER_BYTES))
            last = len(window) - HEADER_BYTES
            end = target - start
            cursor = 0
            while cursor < end and cursor <= last:
                (length,) = unpack(window, cursor)
                if length < HEADER_BYTES:
                    return False
                cursor += length
            if not cursor:
                return False
            start += cursor
        return start == target

    def skim(self, start: int) -> Iterator[tuple[int, Gtid]]:
        """Offset and GTID of each transaction that begins from `start` on, whole or not, to the first damage.

        Hops from length to length: much faster than a Reading, and all that is needed to find a place. For a file of
        one format, as a server's own binary log is.
        """
        unpack, unpack_gtid, gtid_type = _KIND_AND_LENGTH.unpack_from, GTID.unpack_from, int(EventType.GTID)
        intact = self.format.intact
        while start + HEADER_BYTES <= self.size:
            window = self.read(start, WINDOW_BYTES)
            cursor, last = 0, len(window) - HEADER_BYTES
            while cursor <= last:
                kind, server, length = unpack(window, cursor)
                if kind == gtid_type:
                    event = window[cursor : cursor + length]
                    if len(event) < length and cursor:
                        break  # the rest of it is in the next window
                    if len(event) < length or length < _SHORTEST_GTID_BYTES or not intact(event):
                        return
                    sequence, domain, _ = unpack_gtid(event, HEADER_BYTES)
                    yield start + cursor, Gtid(domain, server, sequence)
                elif length < HEADER_BYTES:
                    return
                cursor += length
            if not cursor:
                return  # the volume gave less than there was
            start += cursor

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(path: Path, descriptor: int, offset: int, length: int) -> bytes:
    try:
        return os.pread(descriptor, max(0, length), offset)
    except OSError as error:
        raise LogUnreadable(f"{path} at {offset}: {error.strerror}") from error


def files_of(index: Path) -> tuple[Path, ...]:
    """The files that an index names, oldest first, beside it whatever folder it names. Raises LogMissing."""
    try:
        text = index.read_bytes()
    except FileNotFoundError as error:
        raise LogMissing(f"{index} is not there") from error
    except OSError as error:
        raise LogUnreadable(f"{index}: {error.strerror}") from error
    # A line without its end was being written; its file has no transaction yet.
    names = [os.fsdecode(line) for line in text.split(b"\n")[:-1] if line]
    return tuple(index.parent / Path(name).name for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Torn:
    """The end of a log that is not a whole transaction."""

    file: str
    offset: int  # where the last whole transaction ends
    damage: Damage
    bytes_left: int  # from there to the end of the file
    gtid: Gtid | None  # of the transaction that is not whole, where that much of it is there
    beyond: Gtid | None  # a transaction after the damage: then it is no torn tail, but a hole
