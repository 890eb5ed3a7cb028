"""The manifests as a real API server takes them: strictly, and in a namespace that enforces the restricted standard."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mariadb_operator.api.cluster import read_spec
from mariadb_operator.resources import (
    budget,
    certificates,
    configmap,
    configuration,
    endpoints,
    pods,
    secrets,
    services,
    volumes,
)
from mariadb_operator.resources.endpoints import Target
from mariadb_operator.resources.labels import Manifest, Owner
from tests.e2e.conftest import Kubectl

NOW = datetime.now(UTC)


def manifests(owner: Owner) -> dict[str, Manifest]:
    spec = read_spec(
        {
            "spec": {
                "version": "11.8",
                "storage": {"size": "1Gi"},
                "database": "app",
                "username": "app",
                "rootPasswordSecretKeyRef": {"name": "mine"},
                "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
                "tolerations": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}],
                "nodeSelector": {"disk": "fast"},
                "podLabels": {"team": "shop"},
                "imagePullSecrets": [{"name": "pull"}],
                "primaryService": {"type": "NodePort", "annotations": {"a": "b"}},
            }
        }
    )
    authority = certificates.new_authority(owner.name, now=NOW)
    server = certificates.new_server_certificate(
        authority, owner.names, addresses=(), cluster_domain="cluster.local", now=NOW
    )
    config = configmap.config_map(
        owner,
        my_cnf=configuration.server_configuration(port=spec.port),
        supervisor=configmap.supervisor_script(),
    )
    target = Target(instance=f"{owner.name}-0", pod_uid="u", address="10.0.0.1", node="n", zone="z")
    slices: dict[str, Any] = {"port": spec.port, "epoch": 1, "resource_version": None}
    app = secrets.app_secret(owner, spec, password="p", ca_certificate=authority.certificate)
    assert app is not None
    return {
        "pod": pods.pod(
            owner,
            spec,
            ordinal=8,
            image="mariadb:11.8",
            config_map=config["metadata"]["name"],
            template_hash="0123456789abcdef",
        ),
        "claim": volumes.volume_claim(owner, spec, ordinal=8),
        "primary service": services.primary_service(owner, spec),
        "replicas service": services.replicas_service(owner, spec),
        "instances service": services.instances_service(owner, spec),
        "primary slice": endpoints.primary_endpoints(owner, target=target, **slices),
        "empty slice": endpoints.primary_endpoints(owner, target=None, **slices),
        "replicas slice": endpoints.replicas_endpoints(owner, targets=[target], **slices),
        "budget": budget.disruption_budget(owner),
        "config": config,
        "credentials": secrets.credentials_secret(
            owner, spec, current=None, new_password=secrets.random_password
        ),
        "authority": certificates.authority_secret(owner, spec, authority),
        "tls": certificates.tls_secret(owner, server, ca_certificate=authority.certificate),
        "app": app,
    }


@pytest.mark.parametrize("name", ["db", "a" * 40], ids=["short name", "longest name"])
def test_the_api_server_takes_every_manifest_strictly(kubectl: Kubectl, namespace: str, name: str) -> None:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    made = manifests(Owner(name=name, namespace=namespace, uid="0b5c0f6e-0000-4000-8000-000000000000"))
    give: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": list(made.values())}
    apply = (
        "apply",
        "--server-side",
        "--field-manager=mariadb-operator",
        "--validate=strict",
        "--dry-run=server",
    )
    answer = kubectl(*apply, "-f", "-", give=give)
    assert len(answer.output.splitlines()) == len(made)
    assert "would violate" not in answer.errors
