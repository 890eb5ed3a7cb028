"""How long it takes from `kubectl apply` to Healthy, three instances, images present; and where the time goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.benchmarks.figures import Figures, runs
from tests.benchmarks.watching import wait_watching
from tests.harness.cluster import Cluster, timestamp
from tests.harness.kube import Kube, Watch
from tests.harness.local import Local
from tests.harness.namespaces import temporary_namespace
from tests.harness.operators import Operators

HEALTHY_SECONDS = 180
ENDED_SECONDS = 10


class Milestones:
    """Notes when each step of the Pods in a namespace was first seen, while another thread waits for Healthy."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    @contextmanager
    def noted(self, kube: Kube, namespace: str) -> Iterator[None]:
        """For as long as the block lasts."""
        with kube.watch("pods", namespace, seconds=HEALTHY_SECONDS) as changes:
            reader = threading.Thread(target=self._note_all, args=(changes,), daemon=True)
            reader.start()
            try:
                yield
            finally:
                changes.end()
                reader.join(ENDED_SECONDS)

    def _note_all(self, changes: Watch) -> None:
        for at, pod in changes:
            self._note(pod, at)

    def _note(self, pod: dict[str, Any], at: float) -> None:
        name = pod["metadata"]["name"].rpartition("-")[2]
        steps = {"created": True, "scheduled": pod["spec"].get("nodeName")}
        status = pod.get("status", {})
        steps["running"] = status.get("phase") == "Running"
        steps["ready"] = any(
            each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or []
        )
        for step, reached in steps.items():
            if reached:
                self.seen.setdefault(f"pod {name} {step}", at)


@pytest.mark.timeout(3600)
def test_apply_to_healthy(kube: Kube, local: Local | None, operators: Operators, figures: Figures) -> None:
    for _ in range(runs(10)):
        # The next run begins when the last one's volumes are gone, too: removing them takes CPU and disk.
        with temporary_namespace(kube, "bench", until_gone=True) as namespace:
            cluster = Cluster(
                kube=kube,
                local=local,
                namespace=namespace,
                name="timed",
                spec={"volumeDeletionPolicy": "Delete"},
            )
            milestones = Milestones()
            with milestones.noted(kube, namespace):
                began = time.time()
                cluster.apply()
                applied = time.time()
                healthy = wait_watching(
                    cluster,
                    "Healthy",
                    lambda status: status.get("state") == "Healthy",
                    seconds=HEALTHY_SECONDS,
                )
            transitions = {
                f"{entry['to']} by {entry['trigger']}": round(timestamp(entry["at"]) - began, 2)
                for entry in cluster.history()
            }
            figures.add(
                "apply to Healthy",
                seconds=healthy - began,
                kubectl=applied - began,
                transitions=transitions,
                steps={step: round(at - began, 2) for step, at in milestones.seen.items()},
            )
