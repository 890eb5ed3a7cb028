"""Looks at and ends processes of this host, by what /proc says of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def everything() -> list[int]:
    """The id of every process."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]  # noqa: PTH208 (names, not paths)


def arguments(process: int) -> list[bytes]:
    """The words of its command line; none when it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def ids(process: int) -> list[str]:
    """Its ids from the host's process namespace inwards; none when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return []
    return next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])


def mount_namespace(process: int) -> int | None:
    """What tells its mount namespace from all others; None when it is gone."""
    try:
        return Path(f"/proc/{process}/ns/mnt").stat().st_ino
    except OSError:
        return None


def mounting(device: str) -> list[int]:
    """Processes in whose mount namespace the device, as MAJOR:MINOR, is mounted."""
    return [process for process in everything() if device in _mounted_devices(process)]


def kill(process: int) -> None:
    """Kill it; one that is gone is no error."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def eventually(holds: Callable[[], bool], *, seconds: float) -> bool:
    """Whether `holds` came true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _mounted_devices(process: int) -> set[str]:
    try:
        lines = Path(f"/proc/{process}/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[2] for line in lines}
