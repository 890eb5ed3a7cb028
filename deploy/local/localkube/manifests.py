"""The objects that make the cluster usable: CoreDNS and the default StorageClass. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from localkube.addresses import Addresses
from localkube.machine import DISK_PROGRAM
from localkube.services import COREDNS_IMAGE, HELPER_IMAGE, STORAGE_NAMESPACE, local_path_configuration

Manifest = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
# The provisioner's helper pods run under this account; the name is fixed in its source.
_HELPER_ACCOUNT = "local-path-provisioner-service-account"

_COREFILE = """\
.:53 {
    errors
    health {
        lameduck 2s
    }
    ready
    kubernetes cluster.local in-addr.arpa {
        ttl 5
    }
    cache 5
}
"""

# Privileged and among the machine's processes: it makes the volume from inside the machine, by the machine's programs.
# A Pod waits for it, so it has nothing else that takes time to make.
_HELPER_POD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: helper-pod
spec:
  hostPID: true
  hostNetwork: true
  automountServiceAccountToken: false
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 0
  tolerations:
    - operator: Exists
  containers:
    - name: helper-pod
      image: {HELPER_IMAGE}
      imagePullPolicy: IfNotPresent
      securityContext:
        privileged: true
"""
_HELPER_SCRIPT = """\
#!/bin/sh
exec nsenter --target=1 --mount -- /bin/sh {program} {verb} "$VOL_DIR" "$VOL_SIZE_BYTES"
"""


def render(addresses: Addresses, *, own_disks: bool) -> str:
    """All of them as one YAML stream."""
    return yaml.safe_dump_all([*coredns(addresses), *storage(own_disks=own_disks)], sort_keys=False)


def coredns(addresses: Addresses) -> list[Manifest]:
    """Two servers on two nodes, so that the name service outlives any one node."""
    metadata = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    return [
        *_coredns_account(metadata),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _coredns_pod(labels)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": str(addresses.dns),
                "selector": labels,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        },
    ]


def storage(*, own_disks: bool) -> list[Manifest]:
    """Volumes are file systems, or folders, on the node of the first pod that uses them."""
    verbs = {"setup": "make" if own_disks else "make-folder", "teardown": "remove"}
    scripts = {name: _HELPER_SCRIPT.format(program=DISK_PROGRAM, verb=verb) for name, verb in verbs.items()}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORAGE_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": _HELPER_ACCOUNT, "namespace": STORAGE_NAMESPACE},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": STORAGE_NAMESPACE},
            "data": {"config.json": local_path_configuration(), "helperPod.yaml": _HELPER_POD, **scripts},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "local-path",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
    ]


def _coredns_account(metadata: dict[str, str]) -> list[Manifest]:
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": rules,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
    ]


def _coredns_pod(labels: dict[str, str]) -> Manifest:
    return {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        "containers": [
            {
                "name": "coredns",
                "image": COREDNS_IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                ],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "volumeMounts": [{"name": "configuration", "mountPath": "/etc/coredns"}],
            }
        ],
        "volumes": [{"name": "configuration", "configMap": {"name": "coredns"}}],
    }
