"""Processes on this machine: those that the tests start end with them, and those of a Pod are found by its cgroup.

Not for what the processes do.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence
from pathlib import Path

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def tied(command: Sequence[str]) -> list[str]:
    """The command so that it is killed when this process ends, however it ends; not what it forks."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


def die_with_parent(parent: int) -> None:
    """Ends this process, a forked one, with its parent; at once when that one is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def of_pod(uid: str, *, program: str) -> list[int]:
    """Ids on this machine of a Pod's processes that run this program; on the local cluster only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if uid not in (folder / "cgroup").read_text():
                continue
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        # The second word for what an interpreter runs, the third for a module of it.
        if program in [Path(word).name for word in words[:3]]:
            found.append(int(folder.name))
    return found
