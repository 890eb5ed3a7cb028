"""Labels, annotations and owner references: how objects are known as belonging to a cluster.

Never a role label: a label moved on a Pod would touch endpoints in the second before a switch (DESIGN.md, Traffic).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mariadb_operator.api.group import API_VERSION, GROUP, KIND
from mariadb_operator.resources.names import Names

Manifest: TypeAlias = dict[str, Any]
"""A Kubernetes object as the API takes it."""

NAME_LABEL: Final = "app.kubernetes.io/name"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
CERTIFICATE_ANNOTATION: Final = f"{GROUP}/certificate"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
CLUSTER_LABEL: Final = f"{GROUP}/cluster"
MEMBER_LABEL: Final = f"{GROUP}/instance"
MANAGED_BY: Final = "mariadb-operator"

CLUSTER_UID_ANNOTATION: Final = f"{GROUP}/cluster-uid"
SPEC_HASH_ANNOTATION: Final = f"{GROUP}/spec-hash"
EPOCH_ANNOTATION: Final = f"{GROUP}/epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The cluster that an object is built for, by name, namespace and UID."""

    name: str
    namespace: str
    uid: str

    @property
    def names(self) -> Names:
        """The names of this cluster's objects."""
        return Names(self.name, self.namespace)

    def reference(self) -> Manifest:
        """The controller ownerReference: the object goes when the cluster goes."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def cluster_labels(cluster: str) -> dict[str, str]:
    """The labels of every object of a cluster."""
    return {
        NAME_LABEL: "mariadb",
        INSTANCE_LABEL: cluster,
        MANAGED_BY_LABEL: MANAGED_BY,
        CLUSTER_LABEL: cluster,
    }


def instance_labels(cluster: str, instance: str) -> dict[str, str]:
    """The labels of what belongs to one instance: its Pod and its PersistentVolumeClaim."""
    return cluster_labels(cluster) | {MEMBER_LABEL: instance}


def pod_selector(cluster: str) -> dict[str, str]:
    """Selects the Pods of a cluster and nothing else; stable for ever, since selectors can't change."""
    return {CLUSTER_LABEL: cluster, NAME_LABEL: "mariadb"}


def selector_text(cluster: str) -> str:
    """The same selector as text, for lists, watches and the scale subresource."""
    return ",".join(f"{key}={value}" for key, value in sorted(pod_selector(cluster).items()))


def belongs_to(manifest: Mapping[str, Any], cluster: str) -> bool:
    """Whether this operator made the object for a cluster of that name: only such a one may be changed or deleted."""
    labels = manifest.get("metadata", {}).get("labels") or {}
    return bool(labels.get(CLUSTER_LABEL) == cluster and labels.get(MANAGED_BY_LABEL) == MANAGED_BY)


def metadata(
    owner: Owner,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    owned: bool = True,
) -> Manifest:
    """The metadata of an object of this cluster; `owned=False` for what has to outlive the resource."""
    result: Manifest = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {**(labels or {}), **cluster_labels(owner.name)},
        "annotations": {**(annotations or {}), CLUSTER_UID_ANNOTATION: owner.uid},
    }
    if owned:
        result["ownerReferences"] = [owner.reference()]
    return result
