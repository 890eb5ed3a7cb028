"""`python -m mariadb_operator.node.respawn`: starts the sidecar, and starts it anew when it ends, until SIGTERM.

A lease runs on while the sidecar is away, and the kubelet's back-off (10 s to 5 min) would outlast it. Imports nothing:
it is the container's second process. Not for what a sidecar that can't start needs; that stands in its log.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

LIMIT_SECONDS = 5.0
STEADY_SECONDS = 10.0  # a run of that length was no failure to start
_FIRST_SECONDS = 0.05
_STOP = {signal.SIGTERM, signal.SIGINT}


def run(command: Sequence[str]) -> int:
    """Until a signal to stop, which is handed on; the exit status of the last run, 0 if that signal ended it."""
    # Taken one after the other here, never in the midst of something.
    signals = {*_STOP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    delay = _FIRST_SECONDS
    while True:
        began = time.monotonic()
        child = os.posix_spawn(command[0], list(command), os.environ, setsigmask=())
        stopping = False
        while (status := _ended(child)) is None:
            if signal.sigwait(signals) in _STOP:
                stopping = True
                os.kill(child, signal.SIGTERM)
        if stopping:
            return 0 if status == -signal.SIGTERM else abs(status)
        if time.monotonic() - began > STEADY_SECONDS:
            delay = _FIRST_SECONDS
        os.write(2, f'{{"event": "the sidecar ended with {status}, again in {delay:.2f} s"}}\n'.encode())
        if signal.sigtimedwait(_STOP, delay) is not None:
            return abs(status)
        delay = min(LIMIT_SECONDS, 2 * delay)


def _ended(child: int) -> int | None:
    """Its exit status, negative for a signal; None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    sys.exit(run([sys.executable, "-m", "mariadb_operator.node"]))
