"""Prometheus metrics of the operator: states, transitions, failovers, passes and probes.

Label values are bounded: cluster names, states, class names. Not for logs (logs.py).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from statemachines.record import HistoryEntry, Record
from statemachines.states import State

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        labels = ("namespace", "cluster")
        self._state = Gauge(
            "mariadb_cluster_state",
            "1 for the state that the cluster is in.",
            (*labels, "state"),
            registry=registry,
        )
        self._epoch = Gauge(
            "mariadb_cluster_epoch", "Counts primaries of the cluster.", labels, registry=registry
        )
        self._transitions = Counter(
            "mariadb_cluster_transitions",
            "Transitions taken.",
            (*labels, "source", "target"),
            registry=registry,
        )
        self._failovers = Counter(
            "mariadb_cluster_failovers", "Failovers that were committed.", labels, registry=registry
        )
        self._unacknowledged = Gauge(
            "mariadb_cluster_unacknowledged_commits",
            "Commits since the primary's server started that nobody acknowledged, their queries having been killed.",
            labels,
            registry=registry,
        )
        self._effects = Counter(
            "mariadb_operator_effect_failures", "Effects that failed.", ("effect", "error"), registry=registry
        )
        self.passes = Histogram(
            "mariadb_operator_reconcile_seconds",
            "Duration of a pass over one cluster.",
            buckets=_FAST,
            registry=registry,
        )
        self.probes = Histogram(
            "mariadb_operator_probe_seconds",
            "Duration of a probe of one server.",
            buckets=_FAST,
            registry=registry,
        )
        self._leader = Gauge("mariadb_operator_leader", "1 while this process leads.", registry=registry)
        self._known: dict[tuple[str, str], str] = {}

    def leading(self, *, leads: bool) -> None:
        """Whether this process leads now."""
        self._leader.set(1 if leads else 0)

    def state(self, namespace: str, cluster: str, record: Record) -> None:
        """The state of a cluster."""
        key = (namespace, cluster)
        before = self._known.get(key)
        if before != record.state.value:
            if before is not None:
                self._state.remove(namespace, cluster, before)
            self._known[key] = record.state.value
            self._state.labels(namespace, cluster, record.state.value).set(1)
        self._epoch.labels(namespace, cluster).set(record.epoch)
        self._unacknowledged.labels(namespace, cluster).set(record.durability.unacknowledged)

    def transition(self, namespace: str, cluster: str, entry: HistoryEntry) -> None:
        """A transition was taken."""
        self._transitions.labels(namespace, cluster, entry.source.value, entry.target.value).inc()
        if entry.target is State.COMMITTING:
            self._failovers.labels(namespace, cluster).inc()

    def effect_failed(self, effect: str, error: str) -> None:
        """An effect failed; it is tried again."""
        self._effects.labels(effect, error).inc()

    def forget(self, namespace: str, cluster: str) -> None:
        """The cluster is gone, or another process tells of it from now on."""
        self._known.pop((namespace, cluster), None)
        labels = {"namespace": namespace, "cluster": cluster}
        for each in (self._state, self._epoch, self._unacknowledged, self._transitions, self._failovers):
            each.remove_by_labels(labels)

    def forget_all(self) -> None:
        """This process leads no more."""
        for known in list(self._known):
            self.forget(*known)
