"""What an operator with nothing to do costs, with 1 and with 50 clusters whose servers are simulated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figures
from tests.benchmarks.simulation.world import LABEL, STORAGE_CLASS, remove_furniture
from tests.harness.cluster import Cluster
from tests.harness.kube import Kube, wait_for
from tests.harness.local import ROOT, Local
from tests.harness.namespaces import temporary_namespace
from tests.harness.operators import Operators
from tests.harness.processes import tied

pytestmark = pytest.mark.node_faults

SETTLE_SECONDS = 20
MEASURED_SECONDS = 60
STOP_SECONDS = 30
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.timeout(3600)
def test_idle(kube: Kube, local: Local, operators: Operators, figures: Figures, tmp_path: Path) -> None:
    # The order of their ends: the operator of the cluster is back before the clusters are removed.
    with (
        temporary_namespace(kube, "bench-idle") as namespace,
        nothing_left_of_the_simulation(kube, local),
        operators.absent(),
    ):
        environment = {
            **os.environ,
            "KUBECONFIG": str(kube.kubeconfig),
            "MARIADB_OPERATOR_WATCH_NAMESPACE": namespace,
            "MARIADB_OPERATOR_LEASE_NAME": "mariadb-operator",
            "MARIADB_OPERATOR_METRICS_PORT": "0",
            "MARIADB_OPERATOR_HEALTH_PORT": "0",
        }
        with (
            running(local, environment, tmp_path / "world.log", "tests.benchmarks.simulation.world",
                    "--namespace", namespace),
            running(local, environment, tmp_path / "operator.log", "mariadb_operator.cli", "run") as operator,
        ):  # fmt: skip
            made = 0
            for clusters in (1, 50):
                for number in range(made, clusters):
                    simulated(kube, local, namespace, number).apply()
                made = clusters
                wait_healthy(kube, namespace, clusters)
                time.sleep(SETTLE_SECONDS)
                before, at = cpu_seconds(operator.pid), time.monotonic()
                time.sleep(MEASURED_SECONDS)
                cpu = (cpu_seconds(operator.pid) - before) / (time.monotonic() - at)
                figures.add("idle", clusters=clusters, cpu=cpu, rss=rss(operator.pid))


@contextmanager
def nothing_left_of_the_simulation(kube: Kube, local: Local) -> Iterator[None]:
    """Before it, from a run that was killed; and after it, also when the simulation was."""
    remove_furniture(kube, enter=local.enter())
    try:
        yield
    finally:
        remove_furniture(kube, enter=local.enter())


def simulated(kube: Kube, local: Local, namespace: str, number: int) -> Cluster:
    spec = {
        "storage": {"size": "1Gi", "storageClassName": STORAGE_CLASS},
        "nodeSelector": {LABEL: "true"},
        "tolerations": [{"key": LABEL, "operator": "Exists"}],
        "volumeDeletionPolicy": "Delete",
    }
    return Cluster(kube=kube, local=local, namespace=namespace, name=f"idle-{number}", spec=spec)


def wait_healthy(kube: Kube, namespace: str, clusters: int) -> None:
    def healthy() -> bool:
        states = [each.get("status", {}).get("state") for each in kube.list("mariadbclusters", namespace)]
        return states.count("Healthy") == clusters

    wait_for(f"{clusters} simulated clusters Healthy", healthy, seconds=600, every=1.0)


@contextmanager
def running(
    local: Local, environment: dict[str, str], log: Path, module: str, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program in the control machine's network; what starts it becomes it, so its id is the program's."""
    command = [*local.enter(), sys.executable, "-m", module, *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(tied(command), cwd=ROOT, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_seconds(process: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss(process: int) -> int:
    """Resident memory, bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
