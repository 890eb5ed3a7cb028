"""The PodDisruptionBudget: at most one instance at a time is taken away on purpose."""

from __future__ import annotations

from mariadb_operator.resources.labels import Manifest, Owner, metadata, pod_selector


def disruption_budget(owner: Owner) -> Manifest:
    """The budget; it counts by the scale subresource of the Pods' controller, which is the cluster."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, owner.names.budget),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": pod_selector(owner.name)}},
    }
