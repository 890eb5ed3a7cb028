"""The binary log of a data directory whose server may be dead: what it holds, and what somebody else lacks of it.

Costs what is looked at: the file where to begin is found by the lists at the heads of files, the place in it by
halves. Not for a living server's own view (sql/observe.py asks it) nor for relay logs (relay_log.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mariadb_operator.node.log_events import Format, gtid_of
from mariadb_operator.node.log_files import LogFile, LogMissing, Torn, files_of
from mariadb_operator.node.transactions import Transaction, Transactions, close_files
from mariadb_operator.runtime.errors import Permanent
from statemachines.gtid import Gtid, History, Position

# A place found by halves is trusted only when the lengths from another one so many bytes before lead to it: else
# somebody who stores events in a row could make up a transaction.
_MARGIN_BYTES = 16 << 20
# Below this size reading on is faster than looking for a better place.
_FINE_BYTES = 1 << 20


class Purged(Permanent):
    """The log does not reach back to what is asked for: who asks has to be cloned."""


class Diverged(Permanent):
    """Who asks holds a transaction that this log lacks: the two can't be joined by what one of them is missing."""


class Held(Protocol):
    """What somebody holds already."""

    def has(self, gtid: Gtid) -> bool:
        """Whether that transaction is held."""
        ...

    def has_all(self, before: History) -> bool:
        """Whether everything before a file is held."""
        ...


@dataclass(frozen=True, slots=True)
class UpTo:
    """Everything up to a position (gtid_slave_pos, Gtid_IO_Pos), in logs where sequences only grow."""

    position: Position

    def has(self, gtid: Gtid) -> bool:
        """Whether its sequence is not above the position's."""
        ours = self.position.in_domain(gtid.domain)
        return ours is not None and gtid.sequence <= ours.sequence

    def has_all(self, before: History) -> bool:
        """Whether the position covers the list."""
        return self.position.covers(before.position())


@dataclass(frozen=True, slots=True)
class Within:
    """A whole history, by (domain, server): what is beyond it is errant."""

    history: History

    def has(self, gtid: Gtid) -> bool:
        """Whether that server's transactions are known up to it."""
        return gtid.sequence <= self.history.sequences.get((gtid.domain, gtid.server), 0)

    def has_all(self, before: History) -> bool:
        """Whether every entry is known."""
        return not before.errant_against(self.history)


@dataclass(slots=True)
class Missing:
    """The whole transactions that somebody lacks, oldest first; what `torn` says holds after the loop."""

    held: Held
    transactions: Transactions
    format: Format  # of the newest file, for a tail of nothing

    def __iter__(self) -> Iterator[Transaction]:
        return (each for each in self.transactions if not self.held.has(each.gtid))

    @property
    def torn(self) -> Torn | None:
        """What the log ends with, when that is not a whole transaction."""
        return self.transactions.torn


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a binary log holds."""

    files: tuple[str, ...]
    history: History  # of whole transactions; what was before the first file included
    torn: Torn | None

    @property
    def last(self) -> Position:
        """The last whole transaction of each domain."""
        return self.history.position()


def inspect(index: Path) -> Inspection:
    """Read the last file and say what the whole log holds.

    Raises what `files_of` and LogFile.open raise, and LogDamaged.
    """
    paths = files_of(index)
    files = _reaching_back(paths, lambda _: True)
    try:
        history, last = _skimmed(files[0])
        # Whether the newest one is whole is seen by reading it.
        transactions = Transactions(files, last, known=history.position())
        history = History.of([*history.gtids, *(each.gtid for each in transactions)])
        return Inspection(files=tuple(path.name for path in paths), history=history, torn=transactions.torn)
    finally:
        close_files(files)


def _skimmed(file: LogFile) -> tuple[History, int]:
    """Everything up to the file's newest transaction, and where that begins."""
    latest = {(gtid.domain, gtid.server): gtid for gtid in _before(file)}
    newest: Gtid | None = None
    start = file.first
    for offset, gtid in file.skim(file.first):
        if newest is not None:
            latest[newest.domain, newest.server] = newest
        newest, start = gtid, offset
    return History.of(latest.values()), start


def _before(file: LogFile) -> tuple[Gtid, ...]:
    return file.before.gtids if file.before is not None else ()


@contextmanager
def missing_after(index: Path, position: Position) -> Iterator[Missing]:
    """What somebody who received up to `position` lacks of this log, every event's checksum compared.

    Raises:
        Purged: the log begins after it.
        Diverged: at that position this log has another transaction, or none; from the loop, where another domain's
            first missing one shows it.
        LogMissing, LogUnreadable, UnsupportedLog, LogDamaged.
    """
    held = _Joint(position)
    files = _reaching_back(files_of(index), held.has_all)
    try:
        left, start = _last_held(files, held)
        yield Missing(held, Transactions(left, start, known=position, verify=True), files[-1].format)
    finally:
        close_files(files)


@contextmanager
def beyond(index: Path, history: History) -> Iterator[Missing]:
    """What this log holds beyond a history, by (domain, server). Raises as `missing_after`, but never Diverged."""
    held = Within(history)
    files = _reaching_back(files_of(index), held.has_all)
    try:
        yield Missing(held, Transactions(files, files[0].first, verify=True), files[-1].format)
    finally:
        close_files(files)


def logged_after(index: Path, position: Position) -> frozenset[Gtid]:
    """The transactions after a position that a living server's log holds; it may write meanwhile.

    Raises Purged, LogMissing, LogUnreadable, UnsupportedLog.
    """
    held = UpTo(position)
    files = _reaching_back(files_of(index), held.has_all)
    try:
        starts = [_place(files[0], position), *(file.first for file in files[1:])]
        return frozenset(
            gtid
            for file, start in zip(files, starts, strict=True)
            for _, gtid in file.skim(start)
            if not held.has(gtid)
        )
    finally:
        close_files(files)


class _Joint:
    """A position that has to be found in the log before anything after it is given away."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self._found: set[int] = set()

    def has_all(self, before: History) -> bool:
        return self.position.covers(before.position())

    def listed(self, file: LogFile) -> None:
        """What a file's list says is found."""
        self._found.update(
            gtid.domain for gtid in _before(file) if gtid == self.position.in_domain(gtid.domain)
        )

    def has(self, gtid: Gtid) -> bool:
        ours = self.position.in_domain(gtid.domain)
        if ours is None:
            return False
        if gtid == ours:
            self._found.add(gtid.domain)
        elif gtid.sequence >= ours.sequence and gtid.domain not in self._found:
            raise Diverged(f"this log has {gtid} after, or instead of, {ours}, and not {ours} itself")
        return gtid.sequence <= ours.sequence


def _reaching_back(paths: Sequence[Path], enough: Callable[[History], bool]) -> list[LogFile]:
    """The files from the last one on whose list is enough to begin there, opened, oldest first; at least one."""
    opened: list[LogFile] = []
    try:
        for path in reversed(paths):
            file = LogFile.open(path)
            if file is None:
                continue  # the crash came before its head was written
            opened.insert(0, file)
            if file.before is not None and enough(file.before):
                return opened
    except LogMissing as error:
        close_files(opened)
        raise Purged(f"{error}: what is missing was purged") from error
    except BaseException:
        close_files(opened)
        raise
    first = opened[0].before if opened else None
    close_files(opened)
    if not opened:
        raise LogMissing("the index names no file that a transaction could be in")
    raise Purged(f"the log begins after {first}")


def _last_held(files: list[LogFile], held: _Joint) -> tuple[list[LogFile], int]:
    """The files from the last transaction on that is held, and where it begins in the first of them.

    From there on everything is read and compared with its checksum: lengths alone would not show that what should be
    the first missing one is damaged.
    """
    held.listed(files[0])
    last = (files, _place(files[0], held.position))
    for number, file in enumerate(files):
        for offset, gtid in file.skim(last[1] if number == 0 else file.first):
            if not held.has(gtid):
                return last
            last = (files[number:], offset)
    return last


def _place(file: LogFile, position: Position) -> int:
    """A place in the file before which nothing is missing, near what is.

    Found by halves where the log has one domain, whose sequences only grow, and events say by position and checksum
    that they are some; else it is the file's beginning. A domain that begins before the position and is unknown to it
    would be passed over; there is none, since a replica receives a log from its beginning on, in its order.
    """
    domains = {gtid.domain for gtid in (*position.gtids, *_before(file))}
    ours = position.gtids[0] if len(position.gtids) == 1 else None
    if ours is None or len(domains) != 1 or not file.format.checksum:
        return file.first
    low, high = file.first, file.size
    while high - low > _FINE_BYTES:
        middle = (low + high) // 2
        event = file.find_gtid_event(middle, high)
        if event is None:
            high = middle
            continue
        gtid, _ = gtid_of(event)
        if gtid.domain != ours.domain:
            return file.first
        if gtid.sequence <= ours.sequence:
            low = event.offset
        else:
            high = middle
    if low - _MARGIN_BYTES <= file.first:
        return file.first
    before = file.find_gtid_event(low - _MARGIN_BYTES, low)
    if before is None:
        return file.first
    return low if file.leads_to(before.offset, low) else before.offset
