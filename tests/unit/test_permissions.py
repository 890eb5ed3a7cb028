"""The ClusterRole grants what the operator asks of the API server, and no write beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import yaml

from mariadb_operator.kube.kinds import CONFIG_MAP, KINDS, MARIADB_CLUSTER, POD
from tests.unit.cluster_world import NAME, NAMESPACE, World, resource, world
from tests.unit.virtual_time import virtual_time

__all__ = ["world"]

ROLE = Path(__file__).parents[2] / "deploy/kustomize/role.yaml"
READS = {"get", "list", "watch"}
VERBS = {
    "get": {"get"},
    "list_all": {"list"},
    "create": {"create"},
    "apply": {"create", "patch"},
    "replace": {"update"},
    "replace_status": {"update"},
    "patch_merge": {"patch"},
    "delete": {"delete"},
}
NO_REQUEST = {
    "mariadbclusters/finalizers",
    "endpointslices/restricted",
}  # the API server asks for them by itself


def granted() -> set[tuple[str, str]]:
    """(resource, verb) of the ClusterRole."""
    documents = yaml.safe_load_all(ROLE.read_text())
    role = next(each for each in documents if each["kind"] == "ClusterRole")
    return {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}


def asked(made: World) -> set[tuple[str, str]]:
    plural = {kind.kind: kind.plural for kind in KINDS}
    return {
        (plural[call.kind] + ("/status" if call.operation == "replace_status" else ""), verb)
        for call in made.client.calls
        for verb in VERBS[call.operation]
    }


@virtual_time
async def test_a_life_of_a_cluster_needs_every_permission_and_no_other(world: type[World]) -> None:
    made = world()
    spec = {"volumeDeletionPolicy": "Delete", "database": "app", "username": "app"}
    made.objects.create(MARIADB_CLUSTER, resource(**spec))
    async with made.leader():
        await made.until_state("Healthy")
        made.kill("demo-0")
        await made.until(lambda: made.status.get("epoch") == 2, seconds=10)
        made.restart("demo-0")
        await made.until_state("Healthy")
        edits = {"myCnf": "[mariadbd]\nmax_connections = 50\n", "replicas": 2, "storage": {"size": "2Gi"}}
        made.objects.merge(MARIADB_CLUSTER, NAMESPACE, NAME, {"spec": edits})
        await made.until(lambda: len(made.status["members"]) == 2)
        for pod in ("demo-0", "demo-1"):
            made.objects.merge(
                POD, NAMESPACE, pod, {"metadata": {"labels": {"mariadb.fsm.dev/cluster": None}}}
            )
        await asyncio.sleep(20)
        for pod in [name for _, name in made.objects.of(POD).objects]:
            made.objects.delete(POD, NAMESPACE, pod)
        await asyncio.sleep(30)
        await made.until(lambda: len(made.objects.of(CONFIG_MAP).objects) == 1, seconds=900)
        made.objects.delete(MARIADB_CLUSTER, NAMESPACE, NAME)
        await made.until(lambda: not made.objects.of(MARIADB_CLUSTER).objects, seconds=60)
    wanted, role = asked(made), granted()
    assert wanted <= role, f"not granted: {sorted(wanted - role)}"
    writes = {(name, verb) for name, verb in role if verb not in READS and name not in NO_REQUEST}
    assert writes <= wanted, f"granted and never asked for: {sorted(writes - wanted)}"
