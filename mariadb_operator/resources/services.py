"""The Services of a cluster.

The two for clients have no selector: their EndpointSlices are ours (endpoints.py). The one with a selector is
headless, so that kube-proxy skips it and a Pod's readiness costs no sync just before a switch.
"""

from __future__ import annotations

from mariadb_operator.api.spec import MariaDBClusterSpec, ServiceSpec
from mariadb_operator.resources.labels import Manifest, Owner, metadata, pod_selector
from mariadb_operator.resources.pods import PORT_NAME


def primary_service(owner: Owner, spec: MariaDBClusterSpec) -> Manifest:
    """The read-write Service."""
    return _client_service(owner, owner.names.primary_service, spec.primary_service, port=spec.port)


def replicas_service(owner: Owner, spec: MariaDBClusterSpec) -> Manifest:
    """The read-only Service."""
    return _client_service(owner, owner.names.replicas_service, spec.replicas_service, port=spec.port)


def instances_service(owner: Owner, spec: MariaDBClusterSpec) -> Manifest:
    """The headless Service that gives each instance its DNS name, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, owner.names.instances_service),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": pod_selector(owner.name),
            "ports": [_port(spec.port)],
        },
    }


def _client_service(owner: Owner, name: str, service: ServiceSpec, *, port: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, name, annotations=service.annotations),
        "spec": {
            "type": str(service.type),
            "ipFamilyPolicy": "SingleStack",
            "ipFamilies": ["IPv4"],
            "ports": [_port(port)],
        },
    }


def _port(port: int) -> Manifest:
    return {"name": PORT_NAME, "port": port, "targetPort": port, "protocol": "TCP"}
