"""One simulated world: nodes with servers, an API server, operators, clients, and the judge that sees all of it.

Everything random in it comes from its seed. A sidecar, the supervisor's gate and a lease would join as processes of a
node's Sandbox (kubelets.py) with hosts of their own in the network. Not for what happens in it when (scenario.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mariadb_operator.kube.kinds import ENDPOINT_SLICE, MARIADB_CLUSTER, NODE, POD, PVC, Kind, Manifest
from tests.simulation.clients import Client
from tests.simulation.judge import Judge
from tests.simulation.kubelets import Node, Sandbox
from tests.simulation.kubernetes import Objects, Weather, merged
from tests.simulation.loop import SimulatedLoop
from tests.simulation.mariadb import Server
from tests.simulation.network import Network
from tests.simulation.operators import OperatorProcess
from tests.simulation.volumes import Volume
from tests.simulation.wires import Wire

NAMESPACE, NAME = "shop", "db"
KUBE_PROXY = (0.03, 0.063)
RESTART = (0.5, 3.0)  # of an operator's Pod
NODE_CONTROLLER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What kind of cluster it is."""

    replicas: int = 3
    guaranteed: bool = False
    promote: bool = False
    degrade_after: int = 10
    operators: int = 2
    clients: int = 2
    pause: float = 0.3  # of a client between two rows
    drivers_kill: bool = False
    spare_nodes: int = 0  # for instances that a person adds
    delete_volumes: bool = False
    neighbours: bool = False  # two sick clusters beside it, under the same leader

    def spec(self) -> Manifest:
        return {
            "version": "11.8",
            "replicas": self.replicas,
            "storage": {"size": "1Gi"},
            "volumeDeletionPolicy": "Delete" if self.delete_volumes else "Retain",
            "highAvailability": {
                "durability": "Guaranteed" if self.guaranteed else "Preferred",
                "degradeAfter": f"{self.degrade_after}s",
                "failover": {"onUncertainData": "Promote" if self.promote else "Wait"},
            },
        }


class World:
    """Made of a seed and a shape."""

    namespace = NAMESPACE

    def __init__(self, seed: int, shape: Shape) -> None:
        self.rng = random.Random(seed)
        self.shape = shape
        self.loop = SimulatedLoop()  # type: ignore[abstract]  # asyncio's own has no such methods either
        self.network = Network(self.loop, self.rng)
        self.weather = Weather()
        self.objects = Objects(self.rng)
        self.judge = Judge(self)
        self.sandboxes: dict[str, Sandbox] = {}  # by address
        self.wires: list[Wire] = []
        self.service_address: str | None = None
        self.story: list[tuple[float, str]] = []
        self._addresses = 0
        self._operators_made = 0
        self.nodes = [
            Node(self, ordinal=n, instance=f"{NAME}-{n}") for n in range(shape.replicas + shape.spare_nodes)
        ]
        self.clients = [
            Client(self, number, pause=shape.pause, kills=shape.drivers_kill)
            for number in range(shape.clients)
        ]
        self.operators: list[OperatorProcess] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._begin()

    def _begin(self) -> None:
        for node in self.nodes:
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}, "spec": {}}
            self.objects.create(manifest)
            self.objects.merge(NODE, node.name, {"status": ready})
        self.objects.create(
            {
                "apiVersion": MARIADB_CLUSTER.api_version,
                "kind": MARIADB_CLUSTER.kind,
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": self.shape.spec(),
            }
        )
        if self.shape.neighbours:
            self._make_neighbours()
        self.objects.watchers.append(self._changed)
        self.objects.watched = NAME
        self.objects.status_watchers.append(self.judge.status_written)
        for slot in range(self.shape.operators):
            self.start_operator(slot)
        for client in self.clients:
            self.tasks.append(self.loop.spawn(client.process, client.run(), name=client.process.name))
        self.loop.in_world(NODE_CONTROLLER_SECONDS, self._watch_nodes)

    def _make_neighbours(self) -> None:
        """One whose spec nobody can read, and one whose Pods never come up."""
        for name, spec in (("unreadable", {"replicas": "many"}), ("pending", self.shape.spec())):
            self.objects.create(
                {
                    "apiVersion": MARIADB_CLUSTER.api_version,
                    "kind": MARIADB_CLUSTER.kind,
                    "metadata": {"name": name, "namespace": NAMESPACE},
                    "spec": spec,
                }
            )

    def trace(self, text: str) -> None:
        self.story.append((self.loop.now, text))

    def describe(self) -> None:
        """How everybody stands, for the end of a story."""
        for node in self.nodes:
            volume, server = node.volume, node.server
            executed = ", ".join(map(str, volume.last.values()))
            text = f"END {node.instance}: executed {executed}, relay {len(volume.relay)}, term {volume.term}"
            if server is not None:
                text += (
                    f", {server.incarnation} read_only={server.read_only} semi_sync={server.semi_sync}"
                    f" waiting={len(server.waiting)} io={server.io_thread} ({server.io_errno})"
                    f" sql={server.sql_running} ({server.sql_errno}) received={server.received}"
                    f" source={volume.source} locked={sorted(volume.locked)} streams={sorted(server.streams)}"
                    f" frozen={server.frozen} sessions={len(server.sessions)}"
                )
            self.trace(text)

    # --- parts ---

    def node(self, instance: str) -> Node:
        return self.nodes[int(instance.rpartition("-")[2])]

    def new_address(self) -> str:
        self._addresses += 1
        return f"10.0.{self._addresses // 250}.{self._addresses % 250 + 1}"

    @property
    def members(self) -> list[Node]:
        """The nodes of the instances that belong to the cluster; at first all that it is made with."""
        names = {each["name"] for each in self.judge.status.get("members") or ()}
        return [node for node in self.nodes if node.instance in names] or self.nodes[: self.shape.replicas]

    @property
    def servers(self) -> list[Server]:
        return [node.server for node in self.nodes if node.server is not None]

    @property
    def primary(self) -> Node | None:
        """The instance that the status names."""
        name = self.judge.status.get("primary")
        return self.node(name) if name and self.judge.status.get("epoch") else None

    @property
    def leading(self) -> OperatorProcess | None:
        return next((each for each in self.operators if each.leads), None)

    @property
    def hosts(self) -> list[str]:
        return [node.name for node in self.nodes]

    def edit(self, spec: Manifest) -> None:
        """A person edits the resource."""
        before = self.objects.get(MARIADB_CLUSTER, NAME, NAMESPACE)["spec"]
        if merged(before, spec) != before:
            self.objects.merge(MARIADB_CLUSTER, NAME, {"spec": spec}, NAMESPACE)

    # --- processes ---

    def start_operator(self, slot: int) -> None:
        self._operators_made += 1
        process = OperatorProcess(self, slot=slot, generation=self._operators_made)
        self.operators = [each for each in self.operators if each.slot != slot or each.alive]
        self.operators.append(process)

    def kill_operator(self, operator: OperatorProcess) -> None:
        """Its Pod is started again after a while."""
        if operator.alive:
            operator.kill()
            self.operators.remove(operator)
            self.loop.in_world(self.rng.uniform(*RESTART), self.start_operator, operator.slot)

    # --- connections ---

    def dial(
        self, host: str, address: str, accepted: Callable[[Server], None], refused: Callable[[], None]
    ) -> None:
        """A connection attempt: `accepted` is called at the server, `refused` back home, neither in silence."""
        sandbox = self.sandboxes.get(address)
        if sandbox is not None:
            self.network.send(host, sandbox.node.name, self._knock, host, address, accepted, refused)

    def _knock(
        self, host: str, address: str, accepted: Callable[[Server], None], refused: Callable[[], None]
    ) -> None:
        sandbox = self.sandboxes.get(address)
        if sandbox is None:
            return
        if sandbox.server is None or sandbox.refuses:
            self.network.send(sandbox.node.name, host, refused)
        else:
            sandbox.server.deliver(accepted, sandbox.server)

    def hush(self) -> None:
        """A server was frozen, a wire cut, a machine lost: replicas may come to notice the silence."""
        for server in self.servers:
            server.listen_for_silence()

    # --- controllers of Kubernetes ---

    def _changed(self, kind: Kind, change: str, manifest: Manifest) -> None:
        name = manifest["metadata"]["name"]
        if not name.removeprefix("data-").startswith(f"{NAME}-"):
            return
        if kind is POD:
            node = self.node(name)
            self.loop.in_world(self.network.delay() * 5, node.sync)
        elif kind is PVC:
            if change == "DELETED":
                self._lose_volume(name)
            else:
                self.loop.in_world(0.0, partial(self._bind, name))
        elif kind is ENDPOINT_SLICE and name.endswith("-primary-ipv4"):
            endpoints = manifest.get("endpoints") or []
            address = endpoints[0]["addresses"][0] if endpoints else None
            self.loop.in_world(self.rng.uniform(*KUBE_PROXY), self._route, address)

    def _bind(self, claim: str) -> None:
        found = self.objects.find(PVC, claim, NAMESPACE)
        if found is not None:
            self.node(claim).bind(found)

    def _lose_volume(self, claim: str) -> None:
        node = self.node(claim)
        self.judge.deleted(node.volume, node.instance)
        node.volume = Volume(starts=node.volume.starts)

    def _route(self, address: str | None) -> None:
        self.service_address = address

    def _watch_nodes(self) -> None:
        for node in self.nodes:
            node.watch()
        self.loop.in_world(NODE_CONTROLLER_SECONDS, self._watch_nodes)
