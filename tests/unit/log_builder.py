"""Binary logs for tests, made event by event as MariaDB writes them; the reader under test is not used for it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from statemachines.gtid import Gtid

GTID, GTID_LIST, FORMAT, ENCRYPTION = 162, 163, 15, 164
QUERY, XID, XA_PREPARE, ROTATE, STOP = 2, 16, 38, 4, 3
TABLE_MAP, WRITE_ROWS, ANNOTATE, INTVAR = 19, 23, 160, 5
STANDALONE = 1


@dataclass
class Log:
    """One file that grows."""

    checksum: bool = True
    relay: bool = False  # positions are another file's
    data: bytearray = field(default_factory=lambda: bytearray(b"\xfebin"))
    ends: list[tuple[Gtid, int, int]] = field(default_factory=list)  # of whole transactions: begin, end

    def event(self, kind: int, body: bytes, *, server: int = 1) -> Log:
        length = 19 + len(body) + (4 if self.checksum or kind == FORMAT else 0)
        position = 0 if self.relay else (len(self.data) + length) & 0xFFFFFFFF
        whole = struct.pack("<IBIIIH", 1_700_000_000, kind, server, length, position, 0) + body
        if self.checksum or kind == FORMAT:
            whole += zlib.crc32(whole).to_bytes(4, "little")
        self.data += whole
        return self

    def head(
        self, before: Iterable[Gtid] | None = (), *, server: int = 1, algorithm: int | None = None
    ) -> Log:
        known = algorithm if algorithm is not None else int(self.checksum)
        version = b"10.11.19-MariaDB-log".ljust(50, b"\0")
        body = struct.pack("<H50sIB", 4, version, 1_700_000_000, 19) + bytes(range(1, 60)) + bytes([known])
        self.event(FORMAT, body, server=server)
        if before is not None:
            self.gtid_list(before)
        return self

    def gtid_list(self, gtids: Iterable[Gtid]) -> Log:
        listed = [struct.pack("<IIQ", gtid.domain, gtid.server, gtid.sequence) for gtid in gtids]
        return self.event(GTID_LIST, len(listed).to_bytes(4, "little") + b"".join(listed))

    def begin(self, gtid: Gtid, flags: int = 0) -> Log:
        body = struct.pack("<QIB", gtid.sequence, gtid.domain, flags) + bytes(6)
        return self.event(GTID, body, server=gtid.server)

    def query(self, text: bytes, *, database: bytes = b"shop") -> Log:
        head = struct.pack("<IIBHH", 1, 0, len(database), 0, 0)
        return self.event(QUERY, head + database + b"\0" + text)

    def rows(self, *sizes: int) -> Log:
        self.event(ANNOTATE, b"INSERT").event(TABLE_MAP, bytes(30))
        for size in sizes:
            self.event(WRITE_ROWS, (b"\xa2row" * (size // 4 + 1))[:size])
        return self

    def transaction(self, gtid: Gtid, *sizes: int, end: str = "xid") -> Log:
        """A whole one: rows of those sizes; or a statement."""
        start = len(self.data)
        if end == "statement":
            self.begin(gtid, STANDALONE).event(INTVAR, bytes(9)).query(b"CREATE TABLE t (n INT)")
        else:
            self.begin(gtid).rows(*sizes)
            if end == "xid":
                self.event(XID, bytes(8))
            elif end == "commit":
                self.query(b"COMMIT")
            elif end == "rollback":
                self.query(b"ROLLBACK", database=b"")
            else:
                self.query(b"XA END X'78',X'',1").event(XA_PREPARE, bytes(16))
        self.ends.append((gtid, start, len(self.data)))
        return self

    def write(self, path: Path) -> Path:
        path.write_bytes(self.data)
        return path


def folder_of(folder: Path, logs: Sequence[Log], *, name: str = "binlog") -> Path:
    """Write them as a server's logs; the index."""
    names = [f"{name}.{number:06}" for number in range(1, len(logs) + 1)]
    for file, log in zip(names, logs, strict=True):
        log.write(folder / file)
    index = folder / f"{name}.index"
    index.write_text("".join(f"/var/lib/mysql/data/{file}\n" for file in names))
    return index
