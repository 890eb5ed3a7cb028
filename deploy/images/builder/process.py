"""Runs other programs: output to a log file, its last line to whoever shows progress.

Not for shells or interactive programs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class BuildError(Exception):
    """A step failed; the message says which and what to do."""


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `command` to its end, in our environment unless another is given.

    Raises:
        BuildError: it ended with another code than 0; the message carries the log's end.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8", errors="replace") as record,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            record.write(line)
            if line.strip():
                on_line(line.strip())
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-25:])
        raise BuildError(f"{' '.join(command[:4])} ... ended with {process.returncode}; log: {log}\n{tail}")


def output_of(command: Sequence[str], *, timeout: float = 60) -> str | None:
    """Standard output of a short command; None when it fails, is absent or takes over `timeout` seconds."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
