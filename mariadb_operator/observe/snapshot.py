"""Builds the snapshot of one cluster from caches, probes and what this process remembers. No I/O.

Not for judging: everything here is a fact with its age.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mariadb_operator.kube.kinds import Manifest
from mariadb_operator.kube.store import Store
from mariadb_operator.observe.pods import node_off, node_ready, pod_fact, server_ended, volume_fact
from mariadb_operator.observe.probes import InstanceProbe
from mariadb_operator.observe.progress import PrimaryProgress, Progress
from mariadb_operator.observe.sidecars import InstanceSidecar
from mariadb_operator.resources.endpoints import SERVICE_LABEL, epoch_of
from mariadb_operator.resources.names import Names, replication_account
from statemachines.facts import EndpointFact, InstanceFacts, PodFact, ProbeFact, Reach, Snapshot
from statemachines.record import Record

ENDINGS_KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """What the reflectors keep, shared by all clusters."""

    pods: Store
    claims: Store
    nodes: Store
    slices: Store
    services: Store
    config_maps: Store
    secrets: Store
    budgets: Store


class Endings:
    """UIDs of Pods whose server was reported ended by a Ready node, and where Pods ran; both may be gone since."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], list[str]] = {}
        self._ran_on: dict[tuple[str, str], dict[str, str]] = {}  # node by UID of the Pod

    def note(self, pod: Manifest, node: Manifest | None) -> None:
        """A Pod changed."""
        metadata = pod["metadata"]
        uid, key = str(metadata["uid"]), (metadata["namespace"], metadata["name"])
        place = pod["spec"].get("nodeName")
        if place:
            ran_on = self._ran_on.setdefault(key, {})
            ran_on[uid] = place
            for oldest in list(ran_on)[:-ENDINGS_KEPT]:
                del ran_on[oldest]
        ended = self._ended.setdefault(key, [])
        if server_ended(pod) and node_ready(node):
            if uid not in ended:
                ended.append(uid)
                del ended[:-ENDINGS_KEPT]
        elif uid in ended and not server_ended(pod):
            ended.remove(uid)  # its container was started again

    def of(self, namespace: str, instance: str, *, off: Callable[[str], bool]) -> frozenset[str]:
        """The UIDs known for an instance: reported ended, or last seen on a node that a person says is `off`."""
        key = (namespace, instance)
        on_dead_nodes = (uid for uid, node in self._ran_on.get(key, {}).items() if off(node))
        return frozenset((*self._ended.get(key, ()), *on_dead_nodes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What only the running operator knows of a cluster."""

    probes: Mapping[str, InstanceProbe]
    sidecars: Mapping[str, InstanceSidecar]
    progress: Progress
    busy: Callable[[str], bool]
    cleared: Callable[
        [str, str], bool
    ]  # instance and server start: no statement of an earlier leader runs there
    operation_since: float | None = None
    objects_ready: bool = False
    instances_possible: bool = False
    objects_due: bool = True
    application_due: bool = False
    certified_addresses: frozenset[str] | None = None
    problem: str = ""
    problem_reason: str = ""
    port: int = 0  # of the spec; 0 while it is not known


def update_progress(record: Record, remembered: Remembered, *, now: float) -> None:
    """Feed the latest answers into what spans several of them."""
    probe = remembered.probes.get(record.primary or "")
    primary = probe.server if probe is not None and probe.probe.reach is Reach.ANSWERING else None
    if primary is not None and primary.incarnation != record.primary_incarnation:
        primary = None
    if primary is not None and record.primary is not None:
        remembered.progress.note_primary(record.primary, primary)
    for member in record.replicas:
        known = remembered.probes.get(member.name)
        server = known.server if known is not None and known.probe.reach is Reach.ANSWERING else None
        remembered.progress.note_replica(member.name, server, primary, now=now)
        if primary is not None:
            remembered.progress.note_account(member.name, replication_account(member.ordinal), primary)


def build_snapshot(
    names: Names, record: Record, caches: Caches, endings: Endings, remembered: Remembered, *, now: float
) -> Snapshot:
    """All facts of a cluster at this moment: of its members, and of every Pod and volume that carries its label."""
    ordinals = {member.ordinal for member in record.members}
    for store in (caches.pods, caches.claims):
        for manifest in store.by_cluster(names.namespace, names.cluster):
            ordinal = _ordinal(names, manifest)
            if ordinal is not None:
                ordinals.add(ordinal)
    return Snapshot(
        now=now,
        instances=tuple(
            _instance(names, record, ordinal, caches, endings, remembered) for ordinal in sorted(ordinals)
        ),
        primary_endpoint=primary_endpoint(
            caches.slices.get(names.namespace, names.primary_endpoints),
            service=names.primary_service,
            port=remembered.port,
        ),
        replica_endpoints=_replica_endpoints(names, caches, port=remembered.port),
        objects_ready=remembered.objects_ready,
        instances_possible=remembered.instances_possible,
        objects_due=remembered.objects_due,
        application_due=remembered.application_due,
        certified_addresses=remembered.certified_addresses,
        problem=remembered.problem,
        problem_reason=remembered.problem_reason,
        operation_since=remembered.operation_since,
    )


def pod_of(names: Names, ordinal: int, caches: Caches) -> PodFact | None:
    """The Pod of an instance."""
    pod = caches.pods.get(names.namespace, names.instance(ordinal))
    return pod_fact(pod) if pod is not None else None


def _ordinal(names: Names, manifest: Manifest) -> int | None:
    name = manifest["metadata"]["name"]
    prefix = names.volume_claim(0)[: -len(names.instance(0))]
    instance = name.removeprefix(prefix) if manifest.get("kind") == "PersistentVolumeClaim" else name
    return names.ordinal(instance)


def _instance(
    names: Names, record: Record, ordinal: int, caches: Caches, endings: Endings, remembered: Remembered
) -> InstanceFacts:
    name = names.instance(ordinal)
    home = caches.nodes.get(None, record.primary_node) if name == record.primary else None
    pod = pod_of(names, ordinal, caches)
    node = caches.nodes.get(None, pod.node) if pod is not None and pod.node else None
    probe = remembered.probes.get(name)
    primary = remembered.progress.primary(name) if name == record.primary else PrimaryProgress()
    caught_up_at, detached_since, shut_out_since = remembered.progress.replica(name)
    return InstanceFacts(
        name=name,
        ordinal=ordinal,
        pod=pod,
        volume=volume_fact(caches.claims.get(names.namespace, names.volume_claim(ordinal))),
        node_ready=node_ready(node),
        node_off=node_off(node),
        ended_pods=endings.of(
            names.namespace, name, off=lambda place: node_off(caches.nodes.get(None, place))
        )
        | _ended_now(names, name, caches, node),
        probe=probe.probe if probe is not None else ProbeFact(reach=Reach.UNKNOWN, at=0.0, since=0.0),
        server=probe.server if probe is not None else None,
        caught_up_at=caught_up_at,
        acknowledged_at=primary.acknowledged_at,
        unacknowledged_at=primary.unacknowledged_at,
        lonely_since=primary.lonely_since,
        home_ready=node_ready(home),
        home_off=node_off(home),
        predecessors=probe is not None
        and probe.server is not None
        and not remembered.cleared(name, probe.server.incarnation),
        detached_since=detached_since,
        shut_out_since=shut_out_since,
        busy=remembered.busy(name),
        sidecar=remembered.sidecars[name].word if name in remembered.sidecars else None,
    )


def _ended_now(names: Names, instance: str, caches: Caches, node: Manifest | None) -> frozenset[str]:
    """The Pod that is there, if it has ended: its event may have come before its node was known."""
    manifest = caches.pods.get(names.namespace, instance)
    ended = manifest is not None and server_ended(manifest) and node_ready(node)
    return frozenset((str(manifest["metadata"]["uid"]),)) if manifest is not None and ended else frozenset()


def primary_endpoint(manifest: Manifest | None, *, service: str, port: int) -> EndpointFact:
    """Where the primary's EndpointSlice points; nowhere, when somebody made it useless or added to it."""
    endpoints = (manifest or {}).get("endpoints") or []
    if manifest is None or len(endpoints) != 1 or not _serves(manifest, service=service, port=port):
        return EndpointFact()
    [endpoint] = endpoints
    if not (endpoint.get("conditions") or {}).get("ready"):
        return EndpointFact()
    addresses = endpoint.get("addresses") or []
    return EndpointFact(
        address=addresses[0] if len(addresses) == 1 else None,
        target=(endpoint.get("targetRef") or {}).get("name"),
        epoch=epoch_of(manifest),
    )


def _serves(manifest: Manifest, *, service: str, port: int) -> bool:
    """Whether it belongs to the Service and leads to the port of the servers."""
    ports = [each.get("port") for each in manifest.get("ports") or []]
    return (manifest["metadata"].get("labels") or {}).get(SERVICE_LABEL) == service and ports == [port]


def _replica_endpoints(names: Names, caches: Caches, *, port: int) -> frozenset[str]:
    """Who is listed for reads; an entry that is wrong in anything stands under a name that nobody has."""
    manifest = caches.slices.get(names.namespace, names.replicas_endpoints)
    if manifest is None:
        return frozenset()
    right = _serves(manifest, service=names.replicas_service, port=port)
    listed = set()
    for endpoint in manifest.get("endpoints") or []:
        name = str((endpoint.get("targetRef") or {}).get("name"))
        pod = caches.pods.get(names.namespace, name)
        address = ((pod or {}).get("status") or {}).get("podIP")
        same = endpoint.get("addresses") == [address] and bool(
            (endpoint.get("conditions") or {}).get("ready")
        )
        listed.add(name if same and right else f"{name} (stale)")
    return frozenset(listed)
