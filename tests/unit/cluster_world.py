"""A world for one ClusterSession under virtual time: API objects in memory, servers that are a few variables.

Kubelet and server do at once what they are told; tests break them. The real session, runner, probes, status writer,
journal and object keeper run on it. Not a model of MariaDB: the integration tests have real ones.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mariadb_operator.act.objects import Environment
from mariadb_operator.controllers.session import ClusterSession
from mariadb_operator.controllers.surroundings import Surroundings
from mariadb_operator.kube.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    EVENT,
    MARIADB_CLUSTER,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    PVC,
    SECRET,
    SERVICE,
    Kind,
    Manifest,
)
from mariadb_operator.kube.leases import Leadership
from mariadb_operator.kube.store import Store
from mariadb_operator.observe.snapshot import Caches, Endings
from mariadb_operator.resources.labels import CLUSTER_LABEL, Owner
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.sql.connection import Endpoint
from mariadb_operator.sql.errors import ConnectRefused, StatementLost, Unreachable
from mariadb_operator.telemetry.metrics import Metrics
from statemachines import effects as e
from statemachines.facts import IoThread, ReplicationFact, SemiSyncFact, ServerFact
from statemachines.gtid import Gtid, History, Position
from tests.unit.fake_objects import FakeObjects
from tests.unit.memory_client import MemoryClient
from tests.unit.virtual_time import VirtualClock

NAMESPACE, NAME = "shop", "demo"
KINDS = (POD, PVC, NODE, ENDPOINT_SLICE, SERVICE, CONFIG_MAP, SECRET, POD_DISRUPTION_BUDGET, MARIADB_CLUSTER)


def resource(**spec: Any) -> Manifest:
    """A MariaDBCluster as a person applies it."""
    return {
        "apiVersion": MARIADB_CLUSTER.api_version,
        "kind": MARIADB_CLUSTER.kind,
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"version": "11.8", "replicas": 3, "storage": {"size": "1Gi"}, **spec},
    }


@dataclass(slots=True)
class FakeServer:
    """One mariadbd: what a probe reads of it."""

    address: str
    server_id: int
    incarnation: str = "first"
    alive: bool = True
    hangs: bool = False
    read_only: bool = True
    term: int = 0
    epoch: int = 0
    cluster_id: str = ""
    primary: str = ""
    history: dict[int, int] = field(default_factory=dict)  # sequence by server
    source: str | None = None
    io: IoThread = IoThread.STOPPED
    semi_sync: bool = True
    acknowledged: int = 0
    locked: frozenset[str] = frozenset()
    executed: list[str] = field(default_factory=list)

    @property
    def position(self) -> Position:
        last = max(self.history.items(), key=lambda pair: pair[1], default=None)
        return Position.parse(f"0-{last[0]}-{last[1]}") if last is not None else Position()

    def write(self) -> None:
        self.history[self.server_id] = max(self.history.values(), default=0) + 1


class FakeConnection:
    """A standing connection to a FakeServer."""

    def __init__(self, server: FakeServer, endpoint: Endpoint) -> None:
        self.server = server
        self.endpoint = endpoint
        self.incarnation = server.incarnation
        self.connection_id = 7
        self.is_busy = False
        self._closed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def execute(self, sql: str, *, deadline_seconds: float) -> None:
        self.server.executed.append(sql)


class World:
    """One cluster's surroundings; use `world()`."""

    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.client = MemoryClient(self.objects)
        self.clock = VirtualClock()
        self.stores = {kind: Store(kind) for kind in KINDS}
        self.endings = Endings()
        self.servers: dict[str, FakeServer] = {}  # by address
        self.connections: list[FakeConnection] = []
        self.performed: list[tuple[e.Effect, dict[str, Any]]] = []  # with the status that stood then
        self.refuse_pods = False
        self.refusal: OperatorError | None = None  # of the first setup, by the server
        self.metrics = Metrics(CollectorRegistry())
        self.errors: list[OperatorError] = []
        self._seen: dict[Kind, int] = {}
        self._addresses = 0
        self.session: ClusterSession | None = None
        self._woken = asyncio.Event()
        for node in ("node1", "node2", "node3"):
            self.objects.create(NODE, {"metadata": {"name": node}})
            self.objects.merge(
                NODE,
                None,
                node,
                {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
                status=True,
            )

    # --- what a person sees -----------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        found = self.objects.get(MARIADB_CLUSTER, NAMESPACE, NAME).get("status")
        return dict(found or {})

    def condition(self, kind: str) -> dict[str, Any]:
        return next(each for each in self.status["conditions"] if each["type"] == kind)

    @property
    def events(self) -> list[Manifest]:
        return list(self.objects.of(EVENT).objects.values())

    def server(self, instance: str) -> FakeServer:
        pod = self.objects.get(POD, NAMESPACE, instance)
        return self.servers[pod["status"]["podIP"]]

    # --- caches and kubelet -----------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what changed to the caches, and play kubelet and binder."""
        self._kubelet()
        for kind in KINDS:
            seen = self._seen.get(kind, 0)
            for entry in [each for each in self.objects.of(kind).history if each.version > seen]:
                self._seen[kind] = entry.version
                store = self.stores[kind]
                manifest = copy.deepcopy(entry.object)
                labelled = CLUSTER_LABEL in (manifest["metadata"].get("labels") or {})
                selected = labelled or kind in (NODE, MARIADB_CLUSTER)
                gone = entry.type == "DELETED" or not selected  # as a watch with a selector tells it
                changes = store.remove(manifest) if gone else store.put(manifest)
                for change in changes:
                    if kind is POD:
                        node = self.stores[NODE].get(None, change.object["spec"].get("nodeName") or "")
                        self.endings.note(change.object, node)
                    if self.session is not None and kind in (
                        SERVICE,
                        CONFIG_MAP,
                        SECRET,
                        POD_DISRUPTION_BUDGET,
                    ):
                        self.session.note_change()
                    self._woken.set()

    def _kubelet(self) -> None:
        for pod in list(self.objects.of(POD).objects.values()):
            if pod.get("status") or self.refuse_pods:
                continue
            name = pod["metadata"]["name"]
            self._addresses += 1
            address = f"10.0.0.{self._addresses}"
            ordinal = int(name.rpartition("-")[2])
            before = next((s for s in self.servers.values() if s.server_id == ordinal + 1), None)
            server = FakeServer(address=address, server_id=ordinal + 1)
            if before is not None:
                before.alive = False
                server = replace(
                    before,
                    address=address,
                    incarnation=f"again-{address}",
                    alive=True,
                    read_only=True,
                    io=IoThread.STOPPED,
                )
            self.servers[address] = server
            status = {
                "phase": "Running",
                "podIP": address,
                "containerStatuses": [{"name": "mariadb", "ready": True, "state": {"running": {}}}],
            }
            self.objects.merge(POD, NAMESPACE, name, {"spec": {"nodeName": f"node{ordinal % 3 + 1}"}})
            self.objects.merge(POD, NAMESPACE, name, {"status": status}, status=True)
        for claim in list(self.objects.of(PVC).objects.values()):
            if (claim.get("status") or {}).get("phase") != "Bound":
                self.objects.merge(
                    PVC, NAMESPACE, claim["metadata"]["name"], {"status": {"phase": "Bound"}}, status=True
                )

    # --- faults -------------------------------------------------------------------------------------------------------

    def kill(self, instance: str) -> None:
        """kill -9: connections end, the port refuses, the replicas notice."""
        server = self.server(instance)
        server.alive = False
        for connection in self.connections:
            if connection.server is server:
                connection.close()
        for other in self.servers.values():
            if other.source == server.address:
                other.io = IoThread.CONNECTING

    def restart(self, instance: str) -> None:
        server = self.server(instance)
        server.alive, server.read_only, server.incarnation = True, True, server.incarnation + "+"
        server.semi_sync = True

    # --- the session ------------------------------------------------------------------------------------------------

    def surroundings(self, *, term: int) -> Surroundings:
        leadership = Leadership(identity=f"op-{term}", term=term, until=float("inf"), clock=self.clock)
        return Surroundings(
            client=self.client.as_client(),
            clusters=self.stores[MARIADB_CLUSTER],
            caches=Caches(
                pods=self.stores[POD],
                claims=self.stores[PVC],
                nodes=self.stores[NODE],
                slices=self.stores[ENDPOINT_SLICE],
                services=self.stores[SERVICE],
                config_maps=self.stores[CONFIG_MAP],
                secrets=self.stores[SECRET],
                budgets=self.stores[POD_DISRUPTION_BUDGET],
            ),
            endings=self.endings,
            environment=Environment(
                image_template="mariadb:{version}", cluster_domain="cluster.local", now=self.clock.wall
            ),
            leadership=leadership,
            clock=self.clock,
            rng=random.Random(term),
            metrics=self.metrics,
            reporter=f"op-{term}",
        )

    @asynccontextmanager
    async def leader(self, *, term: int = 1) -> AsyncIterator[ClusterSession]:
        """A session of one leader, worked whenever it is woken or its time has come."""
        self.pump()
        uid = self.objects.get(MARIADB_CLUSTER, NAMESPACE, NAME)["metadata"]["uid"]
        owner = Owner(name=NAME, namespace=NAMESPACE, uid=uid)
        session = ClusterSession(owner, self.surroundings(term=term), wake=lambda _: self._woken.set())
        self.session = session
        tasks = [asyncio.create_task(session.run()), asyncio.create_task(self._work(session))]
        try:
            yield session
        finally:
            self.session = None
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def _work(self, session: ClusterSession) -> None:
        while True:
            self.pump()
            self._woken.clear()
            try:
                delay = await session.work()
            except OperatorError as error:
                self.errors.append(error)
                delay = 0.2
            self.pump()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._woken.wait()

    async def until(self, holds: Any, *, seconds: float = 120.0) -> None:
        """Let time pass until something holds."""
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)

    async def until_state(self, state: str, *, seconds: float = 120.0) -> None:
        await self.until(lambda: self.status.get("state") == state, seconds=seconds)


# --- SQL ----------------------------------------------------------------------------------------------------------------


def _fact(world: World, server: FakeServer, *, asked_at: float, pod_uid: str) -> ServerFact:
    source = world.servers.get(server.source or "")
    if source is not None and server.io is not IoThread.STOPPED:
        let_in = source.alive and f"repl_{server.server_id - 1}" not in source.locked
        server.io = IoThread.RUNNING if let_in else IoThread.CONNECTING
    if source is not None and server.io is IoThread.RUNNING:
        server.history = dict(source.history)
        server.epoch, server.cluster_id, server.primary = source.epoch, source.cluster_id, source.primary
    clients = [
        each
        for each in world.servers.values()
        if each.alive
        and each.source == server.address
        and each.io is IoThread.RUNNING
        and f"repl_{each.server_id - 1}" not in server.locked
    ]
    replication = None
    if server.source is not None:
        replication = ReplicationFact(
            source_host=server.source,
            source_port=3306,
            source_user=f"repl_{server.server_id - 1}",
            io_thread=server.io,
            sql_running=True,
            received=server.position,
        )
    return ServerFact(
        asked_at=asked_at,
        pod_uid=pod_uid,
        incarnation=server.incarnation,
        server_id=server.server_id,
        version="11.8.3-MariaDB",
        read_only=server.read_only,
        term=server.term,
        epoch=server.epoch,
        cluster_id=server.cluster_id,
        epoch_primary=server.primary,
        history=History.of(Gtid(0, *pair) for pair in server.history.items()),
        executed=server.position,
        slave_position=server.position,
        semi_sync=SemiSyncFact(
            source_enabled=server.semi_sync,
            replica_enabled=True,
            clients=len(clients),
            acknowledged=server.acknowledged,
            unacknowledged=0,
            waiting_sessions=0,
        ),
        replication=replication,
        locked_accounts=server.locked,
        connected_accounts=frozenset(f"repl_{each.server_id - 1}" for each in clients),
    )


class FakeSql:
    """Stands in for SqlEffects: each effect at once, on the server's variables."""

    world: World

    def __init__(self, group: asyncio.TaskGroup, servers: Any, *, guard: Any, target: Any) -> None:
        self.servers = servers
        self.heard: dict[str, str] = {}

    def cleared(self, instance: str, incarnation: str) -> bool:
        return self.heard.get(instance) == incarnation

    async def run(self, effect: Any) -> None:
        self.world.performed.append((effect, copy.deepcopy(self.world.status)))
        await self.servers.standing(effect.instance)  # its lock, and the lost connection of a frozen one
        server = self.world.server(effect.instance)
        if server.hangs:
            await asyncio.sleep(8)
            raise StatementLost("no reply", connection_id=7, incarnation=server.incarnation)
        if isinstance(effect, e.InitialisePrimary) and self.world.refusal is not None:
            raise self.world.refusal
        match effect:
            case e.RaiseTerm():
                server.term = max(server.term, effect.term)
                self.heard[effect.instance] = server.incarnation
            case e.InitialisePrimary() | e.WriteEpoch():
                server.epoch, server.cluster_id = getattr(effect, "epoch", 1), effect.cluster_id
                server.primary = effect.instance
                server.write()
            case e.OpenPrimary():
                if server.epoch < effect.epoch:
                    server.epoch, server.primary = effect.epoch, effect.instance
                    server.write()
                server.semi_sync, server.read_only = effect.semi_sync, False
            case e.SetSemiSync():
                server.semi_sync = effect.enabled
            case e.ProveAcknowledgement():
                server.acknowledged += 1
                server.write()
            case e.SetAccounts():
                server.locked = _locked(effect.unlocked)
            case e.Attach():
                server.source, server.io, server.semi_sync = effect.source_address, IoThread.RUNNING, False
            case e.StartReceiving():
                server.io = IoThread.RUNNING
            case e.StopReceiving():
                server.io = IoThread.STOPPED
            case e.Equalise():
                server.source, server.io, server.semi_sync = None, IoThread.STOPPED, True
                server.locked = _locked(effect.unlocked)
            case _:
                pass


def _locked(unlocked: tuple[int, ...]) -> frozenset[str]:
    return frozenset(f"repl_{number}" for number in range(9) if number not in unlocked)


async def no_admins(connection: object, *, deadline_seconds: float) -> frozenset[str]:
    return frozenset()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> type[World]:
    """The class to make a World of within a test's own loop; servers are found by the world made last."""
    made: list[World] = []

    class Made(World):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)
            FakeSql.world = self

    class Opening:
        @staticmethod
        async def open(endpoint: Endpoint, *, deadline_seconds: float) -> FakeConnection:
            server = made[-1].servers.get(endpoint.host)
            if server is None:
                raise Unreachable("no route")
            if server.hangs:
                await asyncio.sleep(deadline_seconds)
                raise Unreachable("silence")
            if not server.alive:
                raise ConnectRefused(f"{endpoint.host} refuses")
            connection = FakeConnection(server, endpoint)
            made[-1].connections.append(connection)
            return connection

    async def observe(
        connection: FakeConnection, *, asked_at: float, pod_uid: str, deadline_seconds: float
    ) -> ServerFact:
        server = connection.server
        if server.hangs:
            await asyncio.sleep(deadline_seconds)
        if server.hangs or not server.alive or connection.is_closed:
            connection.close()
            raise StatementLost("lost", connection_id=7, incarnation=connection.incarnation)
        await asyncio.sleep(0.001)
        return _fact(made[-1], server, asked_at=asked_at, pod_uid=pod_uid)

    monkeypatch.setattr("mariadb_operator.observe.probes.Connection", Opening)
    monkeypatch.setattr("mariadb_operator.observe.probes.observe", observe)
    monkeypatch.setattr("mariadb_operator.observe.probes.read_only_admins", no_admins)
    monkeypatch.setattr("mariadb_operator.act.servers.Connection", Opening)
    monkeypatch.setattr("mariadb_operator.controllers.performer.SqlEffects", FakeSql)

    async def settled(*_: Any, **__: Any) -> bool:
        return True

    monkeypatch.setattr("mariadb_operator.controllers.performer.settle", settled)
    return Made
