"""The Pod of an instance.

A Pod is created and deleted, never changed: what it should be is compared by `template.template_hash`, and an
operator that would build it otherwise leaves a running one alone.
"""

from __future__ import annotations

from typing import Final

from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.node.protocol import PORT
from mariadb_operator.resources import paths
from mariadb_operator.resources.configuration import admin_port
from mariadb_operator.resources.keys import MOUNTED
from mariadb_operator.resources.labels import (
    SPEC_HASH_ANNOTATION,
    Manifest,
    Owner,
    instance_labels,
    metadata,
)
from mariadb_operator.resources.names import server_id
from mariadb_operator.resources.placement import placement
from mariadb_operator.resources.secrets import OPERATOR_PASSWORD, PROBE_PASSWORD, ROOT_PASSWORD

CONTAINER: Final = "mariadb"
SIDECAR: Final = "node"
SIDECAR_PORT_NAME: Final = "node"
_PYTHON: Final = "/opt/operator/bin/python"  # in the operator's image
PORT_NAME: Final = "mariadb"
ADMIN_PORT_NAME: Final = "admin"
USER_ID: Final = 999  # of mysql, in the official image too
SHUTDOWN_MARGIN_SECONDS: Final = 15  # between the supervisor's own bound and the kubelet's SIGKILL
_READ_BY_GROUP: Final = 0o440


def pod(
    owner: Owner,
    spec: MariaDBClusterSpec,
    *,
    ordinal: int,
    image: str,
    config_map: str,
    template_hash: str,
    node: str = "",
    sidecar: str = "",
) -> Manifest:
    """The Pod of an instance. `node`: where it has to run; empty: anywhere. `sidecar`: image of the node sidecar; empty:
    there is none.
    """
    names = owner.names
    instance = names.instance(ordinal)
    meta = metadata(
        owner,
        instance,
        labels={**spec.pod_labels, **instance_labels(owner.name, instance)},
        annotations={**spec.pod_annotations, SPEC_HASH_ANNOTATION: template_hash},
    )
    pod_spec: Manifest = {
        "hostname": instance,
        "subdomain": names.instances_service,
        "restartPolicy": "Always",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds,
        "securityContext": _pod_security(),
        "containers": [_container(owner, spec, ordinal=ordinal, image=image, gated=bool(sidecar))],
        "volumes": _volumes(owner, spec, ordinal=ordinal, config_map=config_map, sidecar=bool(sidecar)),
        **placement(owner.name, spec, node=node),
    }
    if spec.image_pull_secrets:
        pod_spec["imagePullSecrets"] = [{"name": each.name} for each in spec.image_pull_secrets]
    if sidecar:
        pod_spec["initContainers"] = [_sidecar(ordinal, image=sidecar)]
        # To watch, signal and, with its tools, read a server next to it; both are the same user.
        pod_spec["shareProcessNamespace"] = True
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec}


def _pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def has_sidecar(pod: Manifest) -> bool:
    """Whether a Pod was made with a node sidecar."""
    containers = (pod.get("spec") or {}).get("initContainers") or []
    return any(each.get("name") == SIDECAR for each in containers)


def _sidecar(ordinal: int, *, image: str) -> Manifest:
    """An init container that goes on running: it starts before the server and ends after it."""
    return {
        "name": SIDECAR,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": [_PYTHON, "-m", "mariadb_operator.node.respawn"],
        "env": [
            {"name": "SERVER_ID", "value": str(server_id(ordinal))},
            # The image has no name for this uid, and aiomysql asks for one.
            {"name": "USER", "value": "mysql"},
        ],
        "ports": [{"name": SIDECAR_PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _restricted(),
        "volumeMounts": [
            {"name": "secrets", "mountPath": paths.SECRETS_DIRECTORY, "readOnly": True},
            {"name": "ssh", "mountPath": paths.SSH_DIRECTORY, "readOnly": True},
            {"name": "data", "mountPath": paths.VOLUME_DIRECTORY},
            {"name": "run", "mountPath": paths.RUN_DIRECTORY},
            {"name": "gate", "mountPath": paths.GATE_DIRECTORY},
        ],
    }


def _restricted() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _container(owner: Owner, spec: MariaDBClusterSpec, *, ordinal: int, image: str, gated: bool) -> Manifest:
    gate = {"name": "gate", "mountPath": paths.GATE_DIRECTORY}
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": str(spec.image_pull_policy),
        "command": ["/bin/sh", paths.SUPERVISOR],
        "env": _environment(owner, spec, ordinal=ordinal, gated=gated),
        "ports": [
            {"name": PORT_NAME, "containerPort": spec.port, "protocol": "TCP"},
            {"name": ADMIN_PORT_NAME, "containerPort": admin_port(spec.port), "protocol": "TCP"},
        ],
        "resources": _resources(spec),
        "readinessProbe": _probe("ready", period=5, failures=2),
        "livenessProbe": _probe("alive", period=10, failures=6),
        "securityContext": _restricted(),
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "config", "mountPath": paths.CONFIG_DIRECTORY, "readOnly": True},
            {"name": "secrets", "mountPath": paths.SECRETS_DIRECTORY, "readOnly": True},
            {"name": "tls", "mountPath": paths.TLS_DIRECTORY, "readOnly": True},
            {"name": "data", "mountPath": paths.VOLUME_DIRECTORY},
            {"name": "run", "mountPath": paths.RUN_DIRECTORY},
            {"name": "tmp", "mountPath": paths.TEMPORARY_DIRECTORY},
            *([gate] if gated else []),
        ],
    }


def _environment(owner: Owner, spec: MariaDBClusterSpec, *, ordinal: int, gated: bool) -> list[Manifest]:
    shutdown = spec.termination_grace_period_seconds - SHUTDOWN_MARGIN_SECONDS
    values = {
        "INSTANCE_NAME": owner.names.instance(ordinal),
        "CLUSTER_NAME": owner.name,
        "SERVER_ID": str(server_id(ordinal)),
        "MARIADB_PORT": str(spec.port),
        "MARIADB_SHUTDOWN_SECONDS": str(shutdown),
    }
    if gated:
        values["GATE_DIR"] = paths.GATE_DIRECTORY
    fields = {"POD_UID": "metadata.uid", "POD_IP": "status.podIP"}
    return [{"name": name, "value": value} for name, value in values.items()] + [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]


def _resources(spec: MariaDBClusterSpec) -> Manifest:
    asked = {"requests": spec.resources.requests, "limits": spec.resources.limits}
    return {kind: {name: str(value) for name, value in each.items()} for kind, each in asked.items() if each}


def _probe(question: str, *, period: int, failures: int) -> Manifest:
    return {
        "exec": {"command": ["/bin/sh", paths.SUPERVISOR, question]},
        "periodSeconds": period,
        "timeoutSeconds": 6,
        "failureThreshold": failures,
    }


def _volumes(
    owner: Owner, spec: MariaDBClusterSpec, *, ordinal: int, config_map: str, sidecar: bool
) -> list[Manifest]:
    names = owner.names
    keys: Manifest = {
        "secretName": names.ssh_secret,
        "items": [{"key": key, "path": key} for key in MOUNTED],
        "defaultMode": _READ_BY_GROUP,
    }
    extra = [
        {"name": "ssh", "secret": keys},
        {"name": "gate", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    return [
        {"name": "config", "configMap": {"name": config_map}},
        {"name": "secrets", "projected": {"defaultMode": _READ_BY_GROUP, "sources": _secrets(owner, spec)}},
        {"name": "tls", "secret": {"secretName": names.tls_secret, "defaultMode": _READ_BY_GROUP}},
        {"name": "data", "persistentVolumeClaim": {"claimName": names.volume_claim(ordinal)}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        {"name": "tmp", "emptyDir": {}},
        *(extra if sidecar else []),
    ]


def _secrets(owner: Owner, spec: MariaDBClusterSpec) -> list[Manifest]:
    """Only what the supervisor needs; no replication account's password enters a Pod."""
    root = spec.root_password_secret_key_ref
    own = [OPERATOR_PASSWORD, PROBE_PASSWORD] + ([ROOT_PASSWORD] if root is None else [])
    sources: list[Manifest] = [
        {
            "secret": {
                "name": owner.names.credentials_secret,
                "items": [{"key": key, "path": key} for key in own],
            }
        }
    ]
    if root is not None:
        sources.append({"secret": {"name": root.name, "items": [{"key": root.key, "path": ROOT_PASSWORD}]}})
    return sources
