"""The volume as the sidecar sees it: its lock, and the ledger of what was seen of cluster, epoch and leader.

The lock is of one kernel and frees with the processes that have it: who holds it knows that no mariadbd runs here.
The ledger is on the disk before an answer depends on it. Not for whether a request may be done (admission.py).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mariadb_operator.node.wire import Malformed, Unknown, decode, encode
from mariadb_operator.runtime.errors import Transient, Uncertain

REMEMBERED_REQUESTS = 16


class VolumeBusy(Transient):
    """Another process holds the volume's lock: a server lives, or somebody works on its files."""


class NotRecorded(Uncertain):
    """The volume did not take the record in time; it may yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What is recorded."""

    cluster_id: str = ""  # empty before the first request
    epoch: int = 0
    term: int = 0
    fenced: bool = False
    truncated: str = ""  # the last start that was permitted to cut off unacknowledged transactions
    requests: tuple[str, ...] = ()  # ids of the last recorded requests


class Volume:
    """One volume. What writes to its disk is bounded; `read_ledger` is for the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._path = folder / "node.json"
        self.recorded: Ledger | None = None  # what is known to be on the disk
        self._held = 0
        self._lock: int | None = None
        # One thread: writes reach the disk in their order, and a frozen disk takes no more than one.
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    def close(self) -> None:
        """Wait for no write."""
        self._writer.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; several of this process may at once. Raises VolumeBusy."""
        if self._lock is None:
            self._lock = self._acquire()
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._held == 0:
                os.close(self._lock)
                self._lock = None

    @property
    def held(self) -> bool:
        """Whether this process works on it."""
        return self._held > 0

    def is_free(self) -> bool:
        """Whether no server has the volume; its lock was got, and given back unless it is held."""
        try:
            with self.hold():
                return True
        except VolumeBusy:
            return False

    def read_ledger(self) -> Ledger:
        """What is recorded; an empty one on a volume that was never asked. Raises Malformed."""
        try:
            self.recorded = decode(Ledger, self._path.read_bytes(), unknown=Unknown.IGNORED)
        except FileNotFoundError:
            self.recorded = Ledger()
        except OSError as error:
            raise Malformed(f"{self._path.name} can't be read: {error.strerror}") from error
        return self.recorded

    async def write_ledger(self, ledger: Ledger, *, deadline_seconds: float) -> None:
        """Return when it is on the disk. Raises NotRecorded."""
        writing = asyncio.wrap_future(self._writer.submit(self._write, ledger))
        try:
            async with asyncio.timeout(deadline_seconds):
                # Not taken back at the deadline: an older record would be the last one on the disk.
                await asyncio.shield(writing)
        except TimeoutError as error:
            raise NotRecorded("the volume did not take the record in time") from error
        except OSError as error:
            raise NotRecorded(f"the volume does not take the record: {error.strerror}") from error
        self.recorded = ledger

    def _write(self, ledger: Ledger) -> None:
        path = self._path.with_suffix(".new")
        with path.open("wb") as file:
            file.write(encode(ledger))
            file.flush()
            os.fsync(file.fileno())
        path.rename(self._path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _acquire(self) -> int:
        path = self.folder / "volume.lock"
        try:
            # Not to write: on a frozen file system that would hang, and this is the event loop.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise VolumeBusy("another process holds the volume") from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
