"""Runs writer.py against a cluster: in the control machine's network on the local cluster, else in a Pod.

    with writing(cluster) as writers:
        writers.wait_acknowledged(200)
        ...the fault...
    writers.result.outage

Not for what the client does (writer.py) nor for judging it (verify.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.harness.cluster import Cluster
from tests.harness.kube import wait_for
from tests.harness.local import HarnessError
from tests.harness.namespaces import unique
from tests.harness.processes import tied

PROGRAM = Path(__file__).with_name("writer.py")
OPERATOR_IMAGE = os.environ.get("OPERATOR_IMAGE", "mariadb-operator:dev")
STOP_SECONDS = 30
START_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterResult:
    """What one writer knows: each n up to `last` is acknowledged but those that are unknown or refused."""

    writer: int
    last: int
    unknown: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    errors: Mapping[str, int] = field(default_factory=dict)

    def acknowledged(self) -> Iterator[int]:
        """Every n that the server promised to keep."""
        return (n for n in range(1, self.last + 1) if n not in self.unknown and n not in self.refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the client saw, all writers together."""

    table: str
    writers: tuple[WriterResult, ...]
    acknowledged: int
    rate: float
    outage: float
    outage_of_one: float
    silent_at_end: float
    gaps: tuple[Mapping[str, float], ...]
    last_at: float = 0.0  # wall-clock time of the last acknowledgement; 0: there was none
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, run: str, raw: Mapping[str, Any]) -> Result:
        """From writer.py's last line."""
        return cls(
            table=f"writes_{run}",
            writers=tuple(
                WriterResult(
                    writer=each["writer"],
                    last=each["last"],
                    unknown=frozenset(each["unknown"]),
                    refused=frozenset(each["refused"]),
                    errors=each["errors"],
                )
                for each in raw["writers"]
            ),
            acknowledged=raw["acknowledged"],
            rate=raw["rate"],
            outage=raw["outage"] or 0.0,
            outage_of_one=raw["outage_of_one"] or 0.0,
            silent_at_end=raw["silent_at_end"] or 0.0,
            gaps=tuple(raw["gaps"]),
            last_at=raw["last_at"] or 0.0,
            raw=raw,
        )


class Writers:
    """A running client."""

    def __init__(self, run: str, process: subprocess.Popen[str], stop: Any) -> None:
        self.table = f"writes_{run}"
        self.progress: Mapping[str, Any] = {"acknowledged": 0, "unknown": 0, "refused": 0, "silent": None}
        self._run = run
        self._process = process
        self._stop = stop
        self._result: Result | None = None
        self._waiting = ""
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    @property
    def result(self) -> Result:
        """What it saw; known once it has ended."""
        if self._result is None:
            raise HarnessError("the writers have not ended")
        return self._result

    @property
    def acknowledged(self) -> int:
        """Rows acknowledged so far, up to 0.2 s ago."""
        return int(self.progress["acknowledged"])

    def wait_acknowledged(self, more: int, *, seconds: float = START_SECONDS) -> None:
        """Waits until that many more rows are acknowledged."""
        wanted = self.acknowledged + more
        wait_for(
            f"{more} more rows acknowledged (at {self.acknowledged}, {self._waiting})",
            lambda: self._alive() and self.acknowledged >= wanted,
            seconds=seconds,
            every=0.05,
        )

    def wait_silent(self, silence: float, *, seconds: float = START_SECONDS) -> None:
        """Waits until nothing was acknowledged for that many seconds."""
        wait_for(
            f"nothing acknowledged for {silence} s",
            lambda: self._alive() and (self.progress["silent"] or 0.0) >= silence,
            seconds=seconds,
        )

    def stop(self) -> Result:
        """Ends it and returns what it saw."""
        if self._result is not None:
            return self._result
        self._stop()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise HarnessError("the writers did not end") from None
        self._reader.join(STOP_SECONDS)
        if code != 0:
            raise HarnessError(f"the writers ended with {code}: {self._errors()}")
        return self.result

    def _alive(self) -> bool:
        if self._process.poll() is not None and self._result is None:
            raise HarnessError(f"the writers ended early: {self._errors()}")
        return True

    def _errors(self) -> str:
        return self._process.stderr.read()[-2000:] if self._process.stderr is not None else ""

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "progress" in message:
                self.progress = message["progress"]
            elif "waiting" in message:
                self._waiting = message["waiting"]
            elif "result" in message:
                self._result = Result.parse(self._run, message["result"])


@contextmanager
def writing(cluster: Cluster, *, writers: int = 4, pause: float = 0.0) -> Iterator[Writers]:
    """Writes for as long as the block lasts; `result` is known after it."""
    run = unique("r").replace("-", "_")
    options = ["--run", run, "--writers", str(writers), "--pause", str(pause)]
    options += ["--host", cluster.primary_address()]
    start = _beside if cluster.local is not None else _in_pod
    with start(cluster, options, run) as running:
        yield running
        running.stop()


@contextmanager
def writing_on_node_of(cluster: Cluster, instance: str, *, pause: float = 0.0) -> Iterator[Writers]:
    """Two writers on the instance's own node and straight to its address: clients that a cut takes along with it."""
    pod = cluster.pod(instance)
    if pod is None:
        raise HarnessError(f"{instance} has no Pod")
    run = unique("r").replace("-", "_")
    options = ["--run", run, "--writers", "2", "--pause", str(pause), "--host", pod["status"]["podIP"]]
    with _beside(cluster, options, run, machine=pod["spec"]["nodeName"]) as running:
        yield running
        running.stop()


def write_for(cluster: Cluster, seconds: float) -> Result:
    """Writes for a while with nothing else going on."""
    with writing(cluster) as writers:
        writers.wait_acknowledged(1)
        time.sleep(seconds)
    return writers.result


@contextmanager
def _beside(cluster: Cluster, options: list[str], run: str, *, machine: str = "control") -> Iterator[Writers]:
    """In a machine's network: the control machine's kube-proxy knows the ClusterIP, and no node's fault touches it."""
    assert cluster.local is not None
    with tempfile.TemporaryDirectory(prefix="writer-") as folder:
        for name, value in cluster.app_secret().items():
            (Path(folder) / name).write_text(value)
        command = [
            *cluster.local.enter(machine), sys.executable, str(PROGRAM), "--secret", folder, *options,
        ]  # fmt: skip
        with subprocess.Popen(
            tied(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Writers(run, process, lambda: process.send_signal(signal.SIGTERM))
            finally:
                if process.poll() is None:
                    process.kill()


@contextmanager
def _in_pod(cluster: Cluster, options: list[str], run: str) -> Iterator[Writers]:
    """In a Pod of the operator's image, which has Python and PyMySQL."""
    name = unique("writer")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {
                    "name": "mariadb",  # the container that `Kube.execute` means
                    "image": OPERATOR_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/opt/operator/bin/python", "/program/writer.py"],
                    "args": ["--secret", "/secret", *options],
                    "volumeMounts": [
                        {"name": "program", "mountPath": "/program"},
                        {"name": "secret", "mountPath": "/secret"},
                    ],
                }
            ],
            "volumes": [
                {"name": "program", "configMap": {"name": name}},
                {"name": "secret", "secret": {"secretName": f"{cluster.name}-app"}},
            ],
        },
    }
    program = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "data": {"writer.py": PROGRAM.read_text()},
    }
    kube = cluster.kube
    kube.create("configmaps", program, cluster.namespace)
    kube.create("pods", pod, cluster.namespace)

    def started() -> bool:
        found = kube.get("pods", name, cluster.namespace) or {}
        return found.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")

    def stop() -> None:
        script = "import os, signal; os.kill(1, signal.SIGTERM)"
        kube.execute(cluster.namespace, name, "/opt/operator/bin/python", "-c", script)

    try:
        wait_for(f"Pod {name} running", started, seconds=START_SECONDS)
        command = [
            "kubectl", "--kubeconfig", str(kube.kubeconfig), "logs", "--follow",
            "--namespace", cluster.namespace, name,
        ]  # fmt: skip
        with subprocess.Popen(
            tied(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Writers(run, process, stop)
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        kube.delete("pods", name, cluster.namespace, grace=0)
        kube.delete("configmaps", name, cluster.namespace)
