"""Where Pods may run: spread, tolerations, node selection."""

from __future__ import annotations

from mariadb_operator.api.spec import MariaDBClusterSpec, Spread, Toleration
from mariadb_operator.resources.labels import Manifest, pod_selector

_HOST = "kubernetes.io/hostname"
_ZONE = "topology.kubernetes.io/zone"
_AWAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def placement(cluster: str, spec: MariaDBClusterSpec, *, node: str = "") -> Manifest:
    """The part of a Pod's spec that places it; on that `node` only, where one is named."""
    result: Manifest = {"tolerations": _tolerations(spec)}
    if spec.node_selector:
        result["nodeSelector"] = dict(spec.node_selector)
    if spec.priority_class_name is not None:
        result["priorityClassName"] = spec.priority_class_name
    if spec.affinity.preset is Spread.SPREAD:
        result |= _spread(cluster)
    if node:
        result["affinity"] = {**result.get("affinity", {}), "nodeAffinity": _only_on(node)}
    return result


def _only_on(node: str) -> Manifest:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _spread(cluster: str) -> Manifest:
    selector = {"matchLabels": pod_selector(cluster)}
    return {
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
            for key in (_HOST, _ZONE)
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 100, "podAffinityTerm": {"topologyKey": _HOST, "labelSelector": selector}}
                ]
            }
        },
    }


def _tolerations(spec: MariaDBClusterSpec) -> list[Manifest]:
    """Not-ready and unreachable nodes evict nothing: a volume local to its node has nowhere else to go."""
    ours: list[Manifest] = [{"key": key, "operator": "Exists", "effect": "NoExecute"} for key in _AWAY]
    return [_toleration(each) for each in spec.tolerations] + ours


def _toleration(toleration: Toleration) -> Manifest:
    return toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
