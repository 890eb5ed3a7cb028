"""The sidecar's respawner: it starts what ended anew, hands a signal to stop on, and is small."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE = 30
# What is respawned: says its process id and waits; ends by itself with 3 when there is a file `fail`.
CHILD = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
print(os.getpid(), flush=True)
if (folder / "fail").exists():
    sys.exit(3)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
while True:
    signal.pause()
"""
RESPAWN = "import sys; from mariadb_operator.node.respawn import run; sys.exit(run(sys.argv[1:]))"


@pytest.fixture
def respawner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", RESPAWN, sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started, too


def said(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def let_fail(process: subprocess.Popen[str], folder: Path) -> None:
    """From now on each child ends by itself, as the present one may have already."""
    (folder / "fail").touch()
    with contextlib.suppress(ProcessLookupError):
        os.kill(said(process), signal.SIGKILL)


def test_what_ended_is_started_anew(respawner: subprocess.Popen[str]) -> None:
    first = said(respawner)
    os.kill(first, signal.SIGKILL)
    second = said(respawner)
    assert second != first
    os.kill(second, 0)


def test_a_signal_to_stop_is_handed_on(respawner: subprocess.Popen[str]) -> None:
    child = said(respawner)
    respawner.terminate()
    assert respawner.wait(DEADLINE) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_signal_to_stop_ends_the_pause_too(respawner: subprocess.Popen[str], tmp_path: Path) -> None:
    let_fail(respawner, tmp_path)
    for _ in range(3):
        said(respawner)
    respawner.terminate()
    assert respawner.wait(DEADLINE) in (0, 3)


def test_pauses_grow(respawner: subprocess.Popen[str], tmp_path: Path) -> None:
    let_fail(respawner, tmp_path)
    for _ in range(3):
        said(respawner)
    assert respawner.stderr is not None
    lines = [respawner.stderr.readline() for _ in range(3)]
    assert [line.split("again in ")[1].split()[0] for line in lines] == ["0.05", "0.10", "0.20"]


def test_it_imports_nothing_of_the_sidecar() -> None:
    loaded = "import sys, mariadb_operator.node.respawn; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert not {"asyncio", "ssl", "asyncssh", "logging"} & set(done.stdout.split())
