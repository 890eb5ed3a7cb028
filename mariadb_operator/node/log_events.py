"""The events of a binary log, as bytes: what has to be read of them to follow transactions, and no more.

Rows and statements are never decoded: they go from log to log as they are. Not for files (binary_log.py reads those).
Source: https://mariadb.com/kb/en/2-binlog-event-header/ and the pages below it; sql/log_event.h of MariaDB 10.11.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mariadb_operator.runtime.errors import Permanent
from statemachines.gtid import Gtid

MAGIC = b"\xfebin"
HEADER_BYTES = 19
CHECKSUM_BYTES = 4
# timestamp, type, server_id, length, position of the next event, flags
HEADER = struct.Struct("<IBIIIH")
GTID = struct.Struct("<QIB")  # sequence, domain, flags
_SHORTEST_GTID_BYTES = HEADER_BYTES + GTID.size + CHECKSUM_BYTES
LONGEST_GTID_BYTES = 64 << 10
_LISTED = struct.Struct("<IIQ")  # domain, server_id, sequence
_FORMAT = struct.Struct("<H50sIB")  # version, server's version, created, header's length
_IN_USE = 0x01  # set in the first event while the server has the file open; not covered by its checksum
_ARTIFICIAL = 0x20
_CREATED_OFFSET = HEADER_BYTES + 2 + 50
_POSITION_OFFSET = 13
_FLAGS_OFFSET = 17
_STANDALONE = 0x01  # of a GTID event's flags
_LIST_COUNT_MASK = 0x0FFF_FFFF


class EventType(IntEnum):
    """The types that mean something here; all others are part of a transaction."""

    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    RAND = 13
    USER_VAR = 14
    FORMAT_DESCRIPTION = 15
    XID = 16
    TABLE_MAP = 19
    HEARTBEAT = 27
    XA_PREPARE = 38
    ANNOTATE_ROWS = 160
    BINLOG_CHECKPOINT = 161
    GTID = 162
    GTID_LIST = 163
    START_ENCRYPTION = 164


# Between transactions; in relay logs also inside of one, where its source or the file changed.
CONTROL = frozenset({
    EventType.STOP, EventType.ROTATE, EventType.FORMAT_DESCRIPTION, EventType.HEARTBEAT,
    EventType.BINLOG_CHECKPOINT, EventType.GTID_LIST, EventType.START_ENCRYPTION,
})  # fmt: skip
# Parts of a transaction that never end it, also where it is of one statement (Log_event::is_part_of_group).
PARTS = frozenset({
    EventType.TABLE_MAP, EventType.ANNOTATE_ROWS, EventType.INTVAR, EventType.RAND, EventType.USER_VAR,
    *range(20, 26),  # rows, as MariaDB writes them
    *range(30, 33),  # rows, as MySQL does
    *range(166, 172),  # rows, compressed
})  # fmt: skip
_ENDS = (b"\0COMMIT", b"\0ROLLBACK")  # a statement's text follows the NUL that ends its database's name


class UnsupportedLog(Permanent):
    """The file is no binary log, or of a kind that can't be read here: encrypted, older than MariaDB 10, other
    checksums.
    """


class Event(NamedTuple):
    """One event. `data` is all of it, or only its header where it is longer than what is read at a time."""

    kind: int
    server: int
    offset: int
    length: int
    data: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Format:
    """A format description: how the events after it are written."""

    raw: bytes
    checksum: bool

    @classmethod
    def parse(cls, data: bytes) -> Format:
        """Read the event. Raises UnsupportedLog when what follows can't be read here."""
        if len(data) < HEADER_BYTES + _FORMAT.size + CHECKSUM_BYTES + 1:
            raise UnsupportedLog("the format description is too short: no binary log of MariaDB 10 or newer")
        version, _, _, header = _FORMAT.unpack_from(data, HEADER_BYTES)
        algorithm = data[-CHECKSUM_BYTES - 1]
        if version != 4 or header != HEADER_BYTES:
            raise UnsupportedLog(f"binary log version {version}, header of {header} bytes: only 4 and 19")
        if algorithm > 1:
            raise UnsupportedLog(f"checksum algorithm {algorithm}: only none and CRC32")
        cleared = bytearray(data)
        cleared[_FLAGS_OFFSET] &= ~_IN_USE
        if _checksum(cleared) != data[-CHECKSUM_BYTES:]:
            raise UnsupportedLog("the format description's checksum is wrong")
        return cls(bytes(cleared), checksum=algorithm == 1)

    @property
    def server_version(self) -> str:
        """Of the server that wrote it."""
        text: bytes = _FORMAT.unpack_from(self.raw, HEADER_BYTES)[1]
        return text.rstrip(b"\0").decode("ascii", "replace")

    @property
    def server(self) -> int:
        """The server_id of who wrote it."""
        return int(HEADER.unpack_from(self.raw)[2])

    def resumed(self) -> bytes:
        """The event as sent to a replica that goes on in the middle of a file: no new start of the server, at which
        it would drop temporary tables, and no position.
        """
        data = bytearray(self.raw)
        data[_CREATED_OFFSET : _CREATED_OFFSET + 4] = bytes(4)
        data[_POSITION_OFFSET : _POSITION_OFFSET + 4] = bytes(4)
        data[-CHECKSUM_BYTES:] = _checksum(data)
        return bytes(data)

    def event(
        self, kind: EventType, body: bytes, *, server: int, position: int = 0, artificial: bool = False
    ) -> bytes:
        """A new event in this format."""
        length = HEADER_BYTES + len(body) + (CHECKSUM_BYTES if self.checksum else 0)
        flags = _ARTIFICIAL if artificial else 0
        data = HEADER.pack(0, kind, server, length, position & 0xFFFF_FFFF, flags) + body
        return data + (zlib.crc32(data).to_bytes(4, "little") if self.checksum else b"")

    def intact(self, data: bytes) -> bool:
        """Whether a whole event's checksum is right; True where there are none."""
        return not self.checksum or zlib.crc32(data[:-4]).to_bytes(4, "little") == data[-4:]

    def ends_transaction(self, event: Event) -> bool:
        """Whether the event is the last of a transaction that is not of one statement."""
        if event.kind in {EventType.XID, EventType.XA_PREPARE}:
            return True
        if event.kind != EventType.QUERY:
            return False
        return event.data.endswith(_ENDS, HEADER_BYTES, -CHECKSUM_BYTES if self.checksum else None)


def _checksum(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data[:-CHECKSUM_BYTES]).to_bytes(4, "little")


def gtid_of(event: Event) -> tuple[Gtid, bool]:
    """The GTID, and whether its transaction is of one statement, without a COMMIT. Raises UnsupportedLog when it is
    too short.
    """
    if len(event.data) < HEADER_BYTES + GTID.size:
        raise UnsupportedLog(f"the GTID event at {event.offset} is too short")
    sequence, domain, flags = GTID.unpack_from(event.data, HEADER_BYTES)
    return Gtid(domain, event.server, sequence), bool(flags & _STANDALONE)


def listed(event: Event) -> tuple[Gtid, ...]:
    """The GTIDs of a Gtid_list event: the history before its file. Raises UnsupportedLog when it is too short."""
    if len(event.data) < HEADER_BYTES + 4:
        raise UnsupportedLog(f"the Gtid_list at {event.offset} is too short or too long")
    count = int.from_bytes(event.data[HEADER_BYTES : HEADER_BYTES + 4], "little") & _LIST_COUNT_MASK
    start = HEADER_BYTES + 4
    if len(event.data) < start + count * _LISTED.size:
        raise UnsupportedLog(f"the Gtid_list at {event.offset} is shorter than its {count} entries")
    entries = _LISTED.iter_unpack(event.data[start : start + count * _LISTED.size])
    return tuple(Gtid(domain, server, sequence) for domain, server, sequence in entries)


def gtid_list_body(gtids: Iterable[Gtid]) -> bytes:
    """The body of a Gtid_list event."""
    entries = [_LISTED.pack(gtid.domain, gtid.server, gtid.sequence) for gtid in gtids]
    return len(entries).to_bytes(4, "little") + b"".join(entries)


def next_gtid_event(data: bytes, *, offset: int) -> Event | None:
    """The first GTID event in a piece of a file that begins at `offset`, anywhere; None when there is none whole.

    It is one when its length, its own position and its checksum fit: only for files with checksums whose positions
    are their own (a relay log's are those of its source).
    """
    for match in _GTID_TYPE.finditer(data, 4):
        start = match.start() - 4
        if start + HEADER_BYTES > len(data):
            break
        _, kind, server, length, position, _ = HEADER.unpack_from(data, start)
        if (
            not _SHORTEST_GTID_BYTES <= length <= LONGEST_GTID_BYTES
            or (offset + start + length) & 0xFFFF_FFFF != position
        ):
            continue
        whole = data[start : start + length]
        if len(whole) == length and _checksum(whole) == whole[-CHECKSUM_BYTES:]:
            return Event(kind, server, offset + start, length, whole)
    return None


_GTID_TYPE = re.compile(re.escape(bytes([EventType.GTID])))
