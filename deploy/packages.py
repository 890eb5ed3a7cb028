"""Installs Debian packages: `python deploy/packages.py PACKAGE...`, as root.

The one way for all that needs some (nox, deploy/images, deploy/local): several of them run at the same time, beside
apt runs of the system's own, and apt-get fails at once when somebody else refreshes its lists. `--for PURPOSE` sees
that the programs of requirements/debian.txt are there. Needs the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_TABLE = Path(__file__).parents[1] / "requirements/debian.txt"
# A root shell that began as somebody else's lacks them.
_SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
# A folder can be locked too, and so no file of ours stays behind.
_LOCKED = Path("/var/lib/apt")
_APT = (
    "apt-get",
    "--quiet",
    "--option=DPkg::Lock::Timeout=60",
    "--option=DPkg::Use-Pty=0",
    "--option=Acquire::Retries=3",
)
_PATIENCE_SECONDS = 900
# What apt-get says of a lock that it does not wait for: that of the lists.
_HELD = "E: Could not get lock"

Pause = Callable[[float], None]


class PackageError(Exception):
    """Packages are not installed; the message says why."""


def provide(purpose: str, table: str) -> None:
    """See that the programs that `table` lists for a purpose are there; install what is not.

    Raises:
        PackageError: one is missing and can't be installed here; names it and its package.
    """
    missing = _absent(purpose, table)
    if not missing:
        return
    packages = sorted(set(missing.values()))
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise PackageError(
            f"{purpose} needs {', '.join(sorted(missing))}, not found on PATH. On Debian, as root: {by_hand}; "
            "elsewhere: the packages of your system that carry these programs."
        )
    _say(f"installing for {purpose}: {', '.join(packages)}")
    install(packages)
    if missing := _absent(purpose, table):
        raise PackageError(f"{', '.join(sorted(missing))} not found on PATH, though `{by_hand}` succeeded")


def _absent(purpose: str, table: str) -> dict[str, str]:
    rows = (line.split() for line in table.splitlines() if line and not line.startswith("#"))
    path = os.pathsep.join([os.environ.get("PATH") or os.defpath, *_SYSTEM_PATHS])
    return {
        program: package
        for program, package, what_for in rows
        if what_for == purpose and shutil.which(program, path=path) is None
    }


def install(packages: Sequence[str], *, locked: Path = _LOCKED, pause: Pause = time.sleep) -> None:
    """Install what dpkg does not have yet; whoever else calls this waits meanwhile.

    Raises:
        PackageError: apt-get failed, or another one held its locks for too long.
    """
    with _one_at_a_time(locked):
        # Whoever held the lock may have installed the same.
        missing = [package for package in packages if not _is_installed(package)]
        if missing:
            _patiently(["update"], pause)
            _patiently(["install", "--yes", "--no-install-recommends", *missing], pause)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another installation of ours")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.returncode == 0 and found.stdout == "installed"


def _patiently(arguments: Sequence[str], pause: Pause) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        code, lines = _apt(arguments)
        if code == 0:
            return
        held = next((line for line in lines if line.startswith(_HELD)), None)
        if held is None or time.monotonic() > deadline:
            said = "\n".join(lines[-20:])
            raise PackageError(f"`{' '.join([*_APT, *arguments])}` ended with {code}:\n{said}")
        _say(f"waiting for another apt: {held.removeprefix('E: ')}")
        pause(3)


def _apt(arguments: Sequence[str]) -> tuple[int, list[str]]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    lines = []
    with subprocess.Popen(
        [*_APT, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            _say(lines[-1])
    return process.returncode, lines


def _say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    match arguments:
        case ["--for", purpose]:
            provide(purpose, _TABLE.read_text())
        case _:
            install(arguments)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (PackageError, OSError) as error:
        sys.exit(f"{error}")
