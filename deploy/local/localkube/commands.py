"""Runs other programs, with a deadline and an error that shows what they said. Not for long-lived ones."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from localkube.errors import LocalClusterError


def run(
    command: Sequence[str], *, timeout: float = 60, stdin: str | None = None, folder: Path | None = None
) -> str:
    """Run `command`, in `folder` if one is given; its standard output.

    Raises:
        LocalClusterError: it is not installed, failed, or took longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise LocalClusterError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LocalClusterError(f"`{' '.join(command)}` took longer than {timeout:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-3000:]
        raise LocalClusterError(f"`{' '.join(command)}` ended with {done.returncode}: {said}")
    return done.stdout


def ourselves() -> str:
    """The command that a person types to call this program again."""
    return shlex.join([sys.executable, *sys.argv[:1]])


def succeeds(command: Sequence[str], *, timeout: float = 60) -> bool:
    """Whether `command` ended with 0: for removing what may already be gone."""
    try:
        run(command, timeout=timeout)
    except LocalClusterError:
        return False
    return True
