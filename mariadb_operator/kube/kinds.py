"""The kinds of objects the operator reads or writes, and where the API server keeps them.

Data only. Objects themselves stay plain JSON dicts (`Manifest`): models would cost memory and processor for
every watched object, and a field unknown to a model would be lost on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import quote

from mariadb_operator.runtime.errors import Permanent

Manifest: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the Kubernetes API; the empty group is the core one."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """What a manifest says in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The REST path of one object, or of the collection when no name is given.

        A namespaced kind without a namespace means all namespaces, which only a collection has; ValueError
        for what has no path.
        """
        if namespace and not self.namespaced:
            raise ValueError(f"{self.kind} {name or ''} has no namespace, got {namespace!r}")
        if name is not None and (not name or (self.namespaced and not namespace)):
            raise ValueError(f"{self.kind} needs a name and a namespace, got {namespace!r}/{name!r}")
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)


CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", namespaced=True)
EVENT = Kind("", "v1", "events", "Event", namespaced=True)
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
POD = Kind("", "v1", "pods", "Pod", namespaced=True)
PVC = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespaced=True)
SECRET = Kind("", "v1", "secrets", "Secret", namespaced=True)
SERVICE = Kind("", "v1", "services", "Service", namespaced=True)
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", namespaced=True)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
POD_DISRUPTION_BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", namespaced=True)
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
CUSTOM_RESOURCE_DEFINITION = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
MARIADB_CLUSTER = Kind("mariadb.fsm.dev", "v1alpha1", "mariadbclusters", "MariaDBCluster", namespaced=True)

KINDS = (
    CONFIG_MAP,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    PVC,
    SECRET,
    SERVICE,
    ENDPOINT_SLICE,
    LEASE,
    POD_DISRUPTION_BUDGET,
    STORAGE_CLASS,
    CUSTOM_RESOURCE_DEFINITION,
    MARIADB_CLUSTER,
)

_BY_TYPE: Mapping[tuple[str, str], Kind] = MappingProxyType(
    {(kind.api_version, kind.kind): kind for kind in KINDS}
)


def kind_of(manifest: Manifest) -> Kind:
    """The kind that a manifest's `apiVersion` and `kind` name; Permanent for one we have nothing to do with."""
    api_version, name = str(manifest.get("apiVersion")), str(manifest.get("kind"))
    kind = _BY_TYPE.get((api_version, name))
    if kind is None:
        raise Permanent(f"the operator knows no kind {name} of {api_version}")
    return kind
