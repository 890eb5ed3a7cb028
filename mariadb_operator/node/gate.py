"""The folder that supervisor and sidecar share: what the supervisor does, which start is permitted, until when.

Each file is replaced as a whole, and a byte in a pipe says that it was; so either side may be away or start anew at
any moment. Memory only: it lives as long as the Pod. Not for whether a start may be permitted (verbs.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mariadb_operator.node.protocol import LeaseState, Phase, Role

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """The supervisor's last word."""

    phase: Phase
    incarnation: str  # of the start that it is about
    pid: int  # of mariadbd while it runs, else 0
    code: int  # with which the server before ended, -1 when none did


class Gate:
    """The sidecar's side of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pipe: int | None = None

    def open(self, announced: Callable[[], None]) -> None:
        """Call `announced` from the event loop whenever the supervisor said something; look once before."""
        for name in ("announced", "permitted", "leased"):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._folder / name, 0o600)
        # For both ways: it never ends, whoever leaves.
        self._pipe = os.open(self._folder / "announced", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._pipe, self._readable, self._pipe, announced)

    def close(self) -> None:
        """Listen no more."""
        if self._pipe is not None:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = None

    def announcement(self) -> Announcement | None:
        """What the supervisor said last; None before it said anything."""
        words = self._read("server").split()
        try:
            phase, incarnation, pid, code = words
            return Announcement(phase=Phase(phase), incarnation=incarnation, pid=int(pid), code=int(code))
        except ValueError:
            if words:
                logger.warning("the supervisor's announcement can't be read: %d words", len(words))
            return None

    def permit(self, *, incarnation: str, role: Role) -> None:
        """Let that start happen; it counts even if the sidecar ends now."""
        self._replace("permit", f"{incarnation} {role.value}\n")
        self._tell("permitted")

    def revoke(self) -> None:
        """Withdraw the permit. If it was used up already, its start still holds the volume's lock."""
        (self._folder / "permit").unlink(missing_ok=True)

    @property
    def permitted(self) -> str:
        """The start that has an unused permit; empty if none has."""
        return self._read("permit").partition(" ")[0]

    @property
    def used(self) -> str:
        """The start whose permit was used up last: no other mariadbd was begun since."""
        return self._read("permit.used").partition(" ")[0]

    def lease(self) -> LeaseState | None:
        """What the supervisor enforces."""
        incarnation, _, deadline = self._read("lease").partition(" ")
        try:
            return LeaseState(incarnation=incarnation, deadline=int(deadline) / 100)
        except ValueError:
            return None

    def let_live(self, lease: LeaseState) -> LeaseState:
        """The supervisor kills that server at the deadline, unless another one replaces it in time.

        Returns what it enforces: hundredths of seconds, rounded to the early side.
        """
        known = self.lease()
        hundredths = math.floor(lease.deadline * 100 + 1e-6)
        self._replace("lease", f"{lease.incarnation} {hundredths}\n")
        if known is None or known.incarnation != lease.incarnation:
            # Whoever watches a lease looks again by itself; only one that has none yet has to be told.
            self._tell("leased")
        return LeaseState(incarnation=lease.incarnation, deadline=hundredths / 100)

    def end_lease(self) -> None:
        """The server may live without one."""
        (self._folder / "lease").unlink(missing_ok=True)

    def _readable(self, pipe: int, announced: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(pipe, 4096):
                pass
        announced()

    def _tell(self, name: str) -> None:
        try:
            pipe = os.open(self._folder / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            # No supervisor: it looks at the file when it comes.
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            return
        try:
            # A full pipe says it already.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(pipe, b"\n")
        finally:
            os.close(pipe)

    def _read(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _replace(self, name: str, text: str) -> None:
        path = self._folder / f"{name}.new"
        path.write_text(text)
        path.rename(self._folder / name)
