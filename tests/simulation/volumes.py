"""What is on an instance's volume: the binary log, relay logs, local tables. It outlives every start of the server.

A transaction is one object wherever it is held, so that two of the same GTID can be told apart. Not for who writes it
when (mariadb.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

Place = tuple[int, int, int]
"""Domain, server and sequence: a GTID."""


class Kind(Enum):
    """What a transaction does."""

    SETUP = auto()  # accounts of the replicas
    EPOCH = auto()
    TOUCH = auto()
    ROW = auto()  # a client's unique row


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction; compared by identity."""

    domain: int
    server: int
    sequence: int
    kind: Kind
    row: str = ""
    epoch: tuple[int, str, str] | None = None  # number, cluster, primary
    rogue: bool = False  # written by a person
    errant: bool = (
        False  # in no primary's history: written where none was open, or left behind by a promotion
    )

    @property
    def place(self) -> Place:
        return self.domain, self.server, self.sequence

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """CHANGE MASTER TO."""

    host: str
    port: int
    user: str


@dataclass(slots=True, eq=False)
class Volume:
    """One instance's data directory. An empty one has not even a term table's row."""

    log: list[Transaction] = field(default_factory=list)
    index: dict[Place, int] = field(default_factory=dict)
    held: set[Transaction] = field(default_factory=set)
    last: dict[int, Transaction] = field(default_factory=dict)
    state: dict[tuple[int, int], int] = field(default_factory=dict)
    slave_position: dict[int, Place] = field(default_factory=dict)
    relay: list[Transaction] = field(default_factory=list)
    source: Source | None = None
    accounts: bool = False
    locked: set[int] = field(default_factory=set)
    epochs: dict[int, Transaction] = field(default_factory=dict)
    term: int = 0
    leader: str = ""
    in_use: object = None  # the server that holds the volume's lock
    starts: int = 0

    def append(self, transaction: Transaction) -> None:
        """Log it (sync_binlog=1: it is there after a crash)."""
        domain, server, sequence = transaction.domain, transaction.server, transaction.sequence
        self.index[domain, server, sequence] = len(self.log)
        self.log.append(transaction)
        self.held.add(transaction)
        self.last[domain] = transaction
        self.state[domain, server] = sequence
        if transaction.kind is Kind.SETUP:
            self.accounts = True
        elif transaction.epoch is not None:
            self.epochs[transaction.epoch[0]] = transaction

    def executed(self) -> dict[int, Place]:
        """gtid_binlog_pos."""
        return {domain: last.place for domain, last in self.last.items()}

    @property
    def empty(self) -> bool:
        return not self.log and not self.relay


def text_of(places: dict[int, Place]) -> str:
    """A position as MariaDB writes it."""
    return ",".join(f"{domain}-{server}-{sequence}" for domain, server, sequence in places.values())


def history_text(state: dict[tuple[int, int], int]) -> str:
    """gtid_binlog_state."""
    return ",".join(f"{domain}-{server}-{last}" for (domain, server), last in state.items())


def parse(text: str) -> dict[int, Place]:
    """A position from its text."""
    places: dict[int, Place] = {}
    for part in filter(None, text.split(",")):
        domain, server, sequence = (int(number) for number in part.split("-"))
        places[domain] = (domain, server, sequence)
    return places
