"""Operators run from a shell in the local cluster's network, while none runs in the cluster: to be killed and frozen at will.

Not for how they die at a chosen point: crashing.py, which this starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.cluster import Cluster
from tests.harness.kube import wait_for
from tests.harness.local import ROOT, HarnessError
from tests.harness.namespaces import unique
from tests.harness.processes import tied

OPERATOR_IMAGE = os.environ.get("OPERATOR_IMAGE", "mariadb-operator:dev")
LEASE_SECONDS = 5  # the default: a loaded machine must not take it from a living one
SHORT_LEASE_SECONDS = 2  # where each operator dies soon
STOP_SECONDS = 20


class ShellOperator:
    """One operator process tree and what it said."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def said(self, text: str) -> int:
        """How many lines begin with this text."""
        if self._process.poll() is not None:
            raise HarnessError(f"the operator ended with {self._process.returncode}: {self.tail()}")
        return sum(line.startswith(text) for line in self.lines)

    def deaths(self) -> list[str]:
        """The points at which its processes killed themselves so far, in order."""
        points, last = [], "no point"
        for line in list(self.lines):
            if line.startswith("point "):
                last = line.removeprefix("point ")
            elif line == "killed":
                points.append(last)
        return points

    def loaded_after(self, deaths: int) -> bool:
        """Whether the process that was started after so many deaths looks after the cluster."""
        after = list(self.lines)
        for _ in range(deaths):
            after = after[after.index("killed") + 1 :] if "killed" in after else []
        return self.said("") > 0 and "loaded" in after

    def logged(self) -> int:
        """How much it has logged so far, in bytes."""
        return self._log.stat().st_size

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-6000:]

    def freeze(self) -> None:
        """Stops every process of it where it is."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets every frozen process of it go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def shell_operator(
    cluster: Cluster, folder: Path, *, kill_each: bool = False, stop_at: str = "", sidecars: bool = False
) -> Iterator[ShellOperator]:
    """An operator that looks after this cluster's namespace; it kills itself at each point of a failover in turn, or stops
    at one. `sidecars`: the Pods that it makes have one.
    """
    assert cluster.local is not None
    name = unique("shell")
    command = [
        *cluster.local.enter(), sys.executable, "-m", "tests.harness.crashing",
        "--cluster", f"{cluster.namespace}/{cluster.name}", "--stop-at", stop_at,
        *(["--kill-each", str(folder / f"{name}.deaths")] if kill_each else []),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "KUBECONFIG": str(cluster.kube.kubeconfig),
        "MARIADB_OPERATOR_IDENTITY": name,
        "MARIADB_OPERATOR_LEASE_SECONDS": str(SHORT_LEASE_SECONDS if kill_each else LEASE_SECONDS),
        "MARIADB_OPERATOR_WATCH_NAMESPACE": cluster.namespace,
        "MARIADB_OPERATOR_SIDECAR_IMAGE": OPERATOR_IMAGE if sidecars else "",
        "MARIADB_OPERATOR_METRICS_PORT": "0",
        "MARIADB_OPERATOR_HEALTH_PORT": "0",
    }
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            tied(command),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        operator = ShellOperator(name, process, log)
        try:
            yield operator
        finally:
            operator.end()


def wait_leading(cluster: Cluster, operator: ShellOperator) -> None:
    """Waits until the operator holds the Lease of this run."""

    def leading() -> bool:
        operator.said("")
        lease = cluster.kube.get("leases", "mariadb-operator", "mariadb-operator-system") or {}
        holder = (lease.get("spec") or {}).get("holderIdentity") or ""
        return operator.name in holder

    wait_for("the operator of the shell leads", leading, seconds=60)
