"""The EndpointSlices behind the two Services for clients, each a whole object for one guarded PUT.

Replacing old by new in one write takes 44 ms through kube-proxy, anything in two steps more than a second
(FACTS.md): so there is no function here that only removes or only adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mariadb_operator.api.group import GROUP
from mariadb_operator.resources.labels import EPOCH_ANNOTATION, Manifest, Owner, metadata
from mariadb_operator.resources.pods import PORT_NAME

SERVICE_LABEL: Final = "kubernetes.io/service-name"
SLICE_MANAGER_LABEL: Final = "endpointslice.kubernetes.io/managed-by"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A Pod that a Service should lead to."""

    instance: str
    pod_uid: str
    address: str  # IPv4
    node: str
    zone: str | None = None


def primary_endpoints(
    owner: Owner, *, port: int, epoch: int, target: Target | None, resource_version: str | None
) -> Manifest:
    """The slice of the read-write Service; `resource_version` of the one it replaces, None to create it."""
    return _slice(
        owner,
        owner.names.primary_service,
        name=owner.names.primary_endpoints,
        port=port,
        epoch=epoch,
        targets=() if target is None else (target,),
        resource_version=resource_version,
    )


def replicas_endpoints(
    owner: Owner, *, port: int, epoch: int, targets: Iterable[Target], resource_version: str | None
) -> Manifest:
    """The slice of the read-only Service; the order of `targets` does not matter."""
    return _slice(
        owner,
        owner.names.replicas_service,
        name=owner.names.replicas_endpoints,
        port=port,
        epoch=epoch,
        targets=sorted(targets, key=lambda each: each.instance),
        resource_version=resource_version,
    )


def epoch_of(endpoint_slice: Mapping[str, Any]) -> int:
    """The epoch for which a slice was written; 0 when it does not say."""
    text = (endpoint_slice.get("metadata", {}).get("annotations") or {}).get(EPOCH_ANNOTATION, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _slice(
    owner: Owner,
    service: str,
    *,
    name: str,
    port: int,
    epoch: int,
    targets: Iterable[Target],
    resource_version: str | None,
) -> Manifest:
    meta = metadata(
        owner,
        name,
        labels={SERVICE_LABEL: service, SLICE_MANAGER_LABEL: GROUP},
        annotations={EPOCH_ANNOTATION: str(epoch)},
    )
    if resource_version is not None:
        meta["resourceVersion"] = resource_version
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [_endpoint(owner, each) for each in targets],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }


def _endpoint(owner: Owner, target: Target) -> Manifest:
    result: Manifest = {
        "addresses": [target.address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": target.node,
        "targetRef": {
            "kind": "Pod",
            "name": target.instance,
            "namespace": owner.namespace,
            "uid": target.pod_uid,
        },
    }
    return result | ({} if target.zone is None else {"zone": target.zone})
