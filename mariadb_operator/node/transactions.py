"""Whole transactions of a log, file after file, from any offset on; what the crash left half-written is none.

Not for choosing where to begin (binary_log.py) nor for what to do with them (salvage.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mariadb_operator.node.log_events import CONTROL, PARTS, Event, EventType, Format, gtid_of
from mariadb_operator.node.log_files import Damage, LogFile, Reading, Torn
from mariadb_operator.runtime.errors import Permanent
from statemachines.gtid import Gtid, Position


class LogDamaged(Permanent):
    """Transactions are missing in the middle of a log: what is after them is of no use without them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file, by offsets."""

    file: LogFile
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """One whole transaction: where its bytes are, and in which format."""

    gtid: Gtid
    format: Format
    parts: tuple[Part, ...]  # several where a relay log was changed inside of it

    @property
    def length(self) -> int:
        """Its bytes."""
        return sum(part.end - part.start for part in self.parts)


@dataclass(slots=True)
class _Open:
    """A transaction whose end is not read yet."""

    gtid: Gtid
    standalone: bool
    format: Format
    parts: list[Part]

    def goes_on(self, file: LogFile, start: int) -> None:
        """It has a part from here on."""
        self.parts.append(Part(file, start, start))

    def reaches(self, file: LogFile, end: int) -> None:
        """All up to here is part of it, also events that were passed over unseen."""
        self.parts[-1] = Part(file, self.parts[-1].start, end)

    def whole(self) -> Transaction:
        parts = tuple(part for part in self.parts if part.end > part.start)
        return Transaction(self.gtid, self.format, parts)


@dataclass(slots=True)
class Transactions:
    """The whole transactions of open files, oldest first, from `start` in the first file on.

    After the loop `torn` says what the last file ends with, when that is not a whole transaction. What an earlier
    crash left at the end of an older file never became a transaction, and is passed over.
    """

    files: Sequence[LogFile]
    start: int
    known: Position = field(default_factory=Position)  # nothing above it is before `start`
    verify: bool = False  # every event's checksum, not only that of GTIDs
    torn: Torn | None = field(default=None, init=False)
    _open: _Open | None = field(default=None, init=False)
    _seen: dict[tuple[int, int], int] = field(default_factory=dict, init=False)

    def __iter__(self) -> Iterator[Transaction]:
        for file in self.files:
            start = file.first
            if file is self.files[0]:
                start = self.start
                self._seen.update(file.before.sequences if file.before is not None else {})
            else:
                self._follows(file)
            if self._open is not None:
                self._open.goes_on(file, start)
            reading = Reading(file, start, verify=self.verify, format=file.format)
            whole = start  # where the last whole transaction, or what stands between two, ends
            for event in reading:
                done = self._take(file, event, reading.format)
                if self._open is None:
                    whole = event.end
                if done is not None:
                    self._seen[done.gtid.domain, done.gtid.server] = done.gtid.sequence
                    yield done
            if self._open is not None:
                self._open.reaches(file, reading.end)
            self.torn = self._ending(file, reading, whole)

    def _follows(self, file: LogFile) -> None:
        """Raises LogDamaged when the file's list knows transactions that the files before it did not give."""
        if file.before is None:
            return  # a relay log: a transaction may go on in it
        self._open = None  # what a crash left at the end of the file before
        for gtid in file.before.gtids:
            known = self.known.in_domain(gtid.domain)
            highest = max(
                self._seen.get((gtid.domain, gtid.server), 0), known.sequence if known is not None else 0
            )
            if gtid.sequence > highest:
                raise LogDamaged(
                    f"{file.path} begins after {gtid}, but the files before it end at"
                    f" {gtid.domain}-{gtid.server}-{highest}{f' ({self.torn})' if self.torn else ''}"
                )

    def _take(self, file: LogFile, event: Event, form: Format) -> Transaction | None:
        if event.kind == EventType.GTID:
            # One that is still open was given up: by a crash, or received anew from another source.
            gtid, standalone = gtid_of(event)
            self._open = _Open(gtid, standalone, form, [Part(file, event.offset, event.end)])
            return None
        if self._open is None:
            return None
        if event.kind in CONTROL:
            self._open.reaches(file, event.offset)
            self._open.goes_on(file, event.end)
            return None
        self._open.reaches(file, event.end)
        if event.kind in PARTS:
            return None
        if self._open.standalone or form.ends_transaction(event):
            done = self._open.whole()
            self._open = None
            return done
        return None

    def _ending(self, file: LogFile, reading: Reading, whole: int) -> Torn | None:
        damage = reading.damage
        if damage is None and self._open is not None:
            damage = Damage.UNFINISHED
        if damage is None:
            return None
        return Torn(
            file=file.path.name,
            offset=whole,
            damage=damage,
            bytes_left=file.size - whole,
            gtid=self._open.gtid if self._open is not None else None,
            beyond=_beyond(file, reading),
        )


def events_of(transaction: Transaction) -> Iterator[tuple[LogFile, Event]]:
    """Its events, one by one. Raises LogDamaged when they are not what they were when it was found."""
    for part in transaction.parts:
        reading = Reading(part.file, part.start, verify=True, format=transaction.format)
        for event in reading:
            yield part.file, event
            if event.end >= part.end:
                break
        if reading.end != part.end:
            raise LogDamaged(f"{part.file.path} has changed at {reading.end}: {reading.damage}")


def _beyond(file: LogFile, reading: Reading) -> Gtid | None:
    """A transaction that begins after the damage."""
    if reading.damage is None or not file.format.checksum:
        return None
    event = file.find_gtid_event(reading.end + 1, file.size)
    return gtid_of(event)[0] if event is not None else None


def open_files(paths: Sequence[Path]) -> list[LogFile]:
    """Open them all; those that the crash left without a head are left out. Raises what LogFile.open raises."""
    opened: list[LogFile] = []
    try:
        for path in paths:
            file = LogFile.open(path)
            if file is not None:
                opened.append(file)
    except BaseException:
        close_files(opened)
        raise
    return opened


def close_files(files: Sequence[LogFile]) -> None:
    """Close them all."""
    for file in files:
        file.close()
