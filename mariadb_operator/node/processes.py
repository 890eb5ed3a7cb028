"""mariadbd in the process namespace: found by what it is, and its death known before the kernel has freed its memory.

A server's sockets and its process's pidfd tell of its end only after its memory is freed, 0.3 s at 2 GB. Its threads
end first: several of them are watched, and what their end says is made certain by a SIGKILL of our own, after which
nothing of it returns to user code. Not for what follows from a death, and not for noticing starts: the supervisor
announces those (gate.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mariadb_operator.node.protocol import Sign
from mariadb_operator.runtime.clock import Clock

PROC = Path("/proc")
WATCHED_THREADS = 6
_PROGRAMS = ("mariadbd", "mysqld")
# Linux 6.9; os.PIDFD_THREAD has no name in Python yet, its value is that of O_EXCL.
_PIDFD_THREAD = os.O_EXCL
_PF_EXITING = 0x4
_PF_SIGNALED = 0x400
_SIGKILL = 1 << (signal.SIGKILL - 1)
# A thread's end is seen a moment before the process is marked; a thread may also end by itself.
_SECOND_LOOKS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """One process of mariadbd; no two are equal before the machine starts anew."""

    pid: int
    started: int  # clock ticks since boot
    incarnation: str  # of the pid file's name, given by the supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """It will run no instruction any more."""

    process: ServerProcess
    at: float  # boot-time clock
    sign: Sign


def find(data: Path, *, uid: int) -> list[ServerProcess]:
    """Servers of this user on this data directory, now; one look through all processes."""
    found = (identify(int(path.name), data=data, uid=uid) for path in PROC.glob("[0-9]*"))
    return [process for process in found if process is not None]


def identify(pid: int, *, data: Path, uid: int) -> ServerProcess | None:
    """The server with this process id; None if it is something else, or dead."""
    folder = PROC / str(pid)
    try:
        if folder.stat().st_uid != uid:
            return None
        program = Path((folder / "exe").readlink()).name.removesuffix(" (deleted)")
        arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        started = int(_stat(pid)[19])
    except (OSError, ValueError, IndexError):
        return None
    if program not in _PROGRAMS or f"--datadir={data}" not in arguments:
        return None
    files = [each.partition("=")[2] for each in arguments if each.startswith("--pid-file=")]
    return ServerProcess(pid=pid, started=started, incarnation=Path(files[0]).stem if files else "")


def threads(pid: int) -> list[int]:
    """Its own threads but the first, oldest first; the kernel's workers in it come and go."""
    aged = []
    for path in (PROC / str(pid) / "task").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if path.name != str(pid) and not (path / "comm").read_text().startswith("iou-"):
                aged.append((int(_fields(path / "stat")[19]), int(path.name)))
    return [number for _, number in sorted(aged)]


def exiting(pid: int) -> bool:
    """Whether all of the process is on its way out: killed, crashed or exited. Its memory may still be there."""
    try:
        fields = _stat(pid)
        if fields[0] in "ZX" or int(fields[6]) & (_PF_EXITING | _PF_SIGNALED):
            return True
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(("SigPnd:", "ShdPnd:")) and int(line.split()[1], 16) & _SIGKILL:
                return True
    except (FileNotFoundError, ProcessLookupError):
        return True
    return False


def _stat(pid: int) -> list[str]:
    return _fields(PROC / str(pid) / "stat")


def _fields(path: Path) -> list[str]:
    """From the state on: the name before it may hold spaces."""
    return path.read_text().rpartition(")")[2].split()


class DeathWatch:
    """Watches one server process, to its end. Close it when done."""

    def __init__(
        self,
        process: ServerProcess,
        *,
        died: Callable[[Death], None],
        gone: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Both are called once, from the event loop.

        Args:
            process: which.
            died: as soon as it runs no instruction any more.
            gone: after that, when its memory, sockets and locks are freed.
            clock: for the moment of death.

        Raises:
            ProcessLookupError: it is gone already.
        """
        self.process = process
        self._died = died
        self._gone = gone
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._threads: dict[int, int] = {}  # pidfd of each watched thread, and its number
        self._looks: asyncio.TimerHandle | None = None
        self._per_thread = True
        self._alive = True
        self._descriptor: int | None = os.pidfd_open(process.pid)
        try:
            started = int(_stat(process.pid)[19])
        except (FileNotFoundError, ProcessLookupError):
            started = -1
        self._loop.add_reader(self._descriptor, self._process_ended)
        # Only now does the number mean one process for good.
        if started != process.started:
            self.close()
            raise ProcessLookupError(f"process {process.pid} is gone")

    @property
    def watched_threads(self) -> int:
        """How many threads are watched; 0 on a kernel that can't."""
        return len(self._threads)

    @property
    def alive(self) -> bool:
        """Whether no death was seen."""
        return self._alive

    def watch_threads(self) -> None:
        """Watch more of its threads, up to the usual number: call it when the server is up. Repeatable."""
        if not self._alive or not self._per_thread or len(self._threads) >= WATCHED_THREADS:
            return
        known = set(self._threads.values())
        self._watch(number for number in threads(self.process.pid) if number not in known)

    def kill(self) -> None:
        """SIGKILL; nothing happens when it is gone."""
        self._send_kill()
        self._look(_SECOND_LOOKS)

    def close(self) -> None:
        """Watch no more."""
        self._alive = False
        self._close_threads()
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _watch(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if len(self._threads) >= WATCHED_THREADS:
                return
            try:
                descriptor = os.pidfd_open(number, _PIDFD_THREAD)
            except ProcessLookupError:
                continue
            except OSError:  # an older kernel
                self._per_thread = False
                return
            self._threads[descriptor] = number
            self._loop.add_reader(descriptor, self._thread_ended, descriptor)

    def _thread_ended(self, descriptor: int) -> None:
        self._drop(descriptor)
        self._look(_SECOND_LOOKS)

    def _look(self, again: tuple[float, ...]) -> None:
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        if not self._alive:
            return
        if exiting(self.process.pid):
            self._conclude(Sign.EXITING)
        elif again:
            self._looks = self._loop.call_later(again[0], self._look, again[1:])
        else:
            # A thread that ended by itself: another takes its place.
            self.watch_threads()

    def _process_ended(self) -> None:
        self._conclude(Sign.PROCESS)
        self.close()
        self._gone()

    def _conclude(self, sign: Sign) -> None:
        if not self._alive:
            return
        self._alive = False
        self._send_kill()
        self._close_threads()
        self._died(Death(process=self.process, at=self._clock.monotonic(), sign=sign))

    def _send_kill(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _close_threads(self) -> None:
        if self._looks is not None:
            self._looks.cancel()
        for descriptor in list(self._threads):
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        del self._threads[descriptor]
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
