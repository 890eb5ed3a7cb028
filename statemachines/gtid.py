"""GTID algebra: positions (the last GTID of each domain) and histories (what each server wrote).

Pure. Not for reading GTIDs from a server (mariadb_operator.sql does) nor for ranking (election does).
Source: https://mariadb.com/kb/en/gtid/ (gtid_slave_pos, gtid_binlog_pos, gtid_binlog_state).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, order=True)
class Gtid:
    """One global transaction id `domain-server-sequence`."""

    domain: int
    server: int
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Gtid:
        """Read `0-1-42`. Raises ValueError when the text is no GTID."""
        parts = text.strip().split("-")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"not a GTID: {text!r}")
        return cls(*(int(part) for part in parts))

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"


def _parse_list(text: str) -> tuple[Gtid, ...]:
    return tuple(Gtid.parse(part) for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class Position:
    """How far an instance is: the last GTID per domain (gtid_slave_pos, Gtid_IO_Pos, gtid_binlog_pos).

    Within a domain the sequence only grows (gtid_strict_mode=ON), so it alone tells what comes first; equal
    sequences of different servers are two histories and cover each other never.
    """

    gtids: tuple[Gtid, ...] = ()

    def __post_init__(self) -> None:
        last: dict[int, Gtid] = {}
        for gtid in self.gtids:
            known = last.get(gtid.domain)
            if known is None or gtid.sequence > known.sequence:
                last[gtid.domain] = gtid
        object.__setattr__(self, "gtids", tuple(last[domain] for domain in sorted(last)))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read MariaDB's comma-separated form; empty text is the empty position."""
        return cls(_parse_list(text))

    def __str__(self) -> str:
        return ",".join(str(gtid) for gtid in self.gtids)

    def __bool__(self) -> bool:
        return bool(self.gtids)

    def in_domain(self, domain: int) -> Gtid | None:
        """The last GTID of that domain, or None."""
        return next((gtid for gtid in self.gtids if gtid.domain == domain), None)

    def covers(self, other: Position) -> bool:
        """Whether everything up to `other` is contained here."""
        for theirs in other.gtids:
            ours = self.in_domain(theirs.domain)
            if ours is None or ours.sequence < theirs.sequence:
                return False
            if ours.sequence == theirs.sequence and ours.server != theirs.server:
                return False
        return True

    def merge(self, other: Position) -> Position:
        """The later GTID of each domain; associative, commutative, idempotent for one history."""
        return Position(self.gtids + other.gtids)


@dataclass(frozen=True, slots=True)
class History:
    """What an instance has logged, by (domain, server): gtid_binlog_state.

    The only value that shows an errant transaction: a position hides all but the last per domain (FACTS.md).
    """

    sequences: Mapping[tuple[int, int], int] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, gtids: Iterable[Gtid]) -> History:
        """Build from GTIDs; the highest sequence of each (domain, server) counts."""
        sequences: dict[tuple[int, int], int] = {}
        for gtid in gtids:
            key = (gtid.domain, gtid.server)
            sequences[key] = max(gtid.sequence, sequences.get(key, 0))
        return cls(MappingProxyType(dict(sorted(sequences.items()))))

    @classmethod
    def parse(cls, text: str) -> History:
        """Read gtid_binlog_state."""
        return cls.of(_parse_list(text))

    def __str__(self) -> str:
        return ",".join(f"{domain}-{server}-{last}" for (domain, server), last in self.sequences.items())

    def __bool__(self) -> bool:
        return bool(self.sequences)

    def __hash__(self) -> int:
        return hash(tuple(self.sequences.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and dict(self.sequences) == dict(other.sequences)

    @property
    def gtids(self) -> tuple[Gtid, ...]:
        """The last transaction of each (domain, server)."""
        return tuple(Gtid(domain, server, last) for (domain, server), last in self.sequences.items())

    def errant_against(self, other: History) -> tuple[Gtid, ...]:
        """The last transaction of each (domain, server) that `other` does not have."""
        return tuple(
            Gtid(domain, server, last)
            for (domain, server), last in self.sequences.items()
            if last > other.sequences.get((domain, server), 0)
        )

    def position(self) -> Position:
        """The last GTID of each domain."""
        return Position(self.gtids)
