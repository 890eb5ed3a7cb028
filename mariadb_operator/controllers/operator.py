"""The operator process: caches for everybody, an election, and, while leading, one session per cluster.

The caches and the HTTP endpoints run without leadership too, so that a standby is warm. Not for one cluster's pass
(session.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from mariadb_operator.act.objects import Environment
from mariadb_operator.controllers.definition import DefinitionCheck
from mariadb_operator.controllers.session import ClusterSession
from mariadb_operator.controllers.surroundings import Surroundings
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    MARIADB_CLUSTER,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    PVC,
    SECRET,
    SERVICE,
    Manifest,
)
from mariadb_operator.kube.leases import Leadership, LeadershipLost, LeaseElector
from mariadb_operator.kube.reflector import Reflector
from mariadb_operator.kube.store import Change, ChangeType, Key
from mariadb_operator.observe.snapshot import Caches, Endings
from mariadb_operator.resources.labels import CLUSTER_LABEL, MEMBER_LABEL, Owner
from mariadb_operator.runtime.clock import Clock, SystemClock
from mariadb_operator.runtime.errors import OperatorError
from mariadb_operator.runtime.workqueue import Workqueue
from mariadb_operator.settings import Settings
from mariadb_operator.telemetry.http import serve_http
from mariadb_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

RETRY_SECONDS = (
    5.0  # at most: an API server that is back should not find a dead primary waiting for a back-off
)
_STANDING = (SERVICE, CONFIG_MAP, SECRET, POD_DISRUPTION_BUDGET)
_OURS = (POD, PVC, ENDPOINT_SLICE, *_STANDING)


class Operator:
    """One process. `run()` until cancelled."""

    def __init__(self, settings: Settings, client: KubeClient, *, clock: Clock, rng: random.Random) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._rng = rng
        self._identity = f"{settings.identity or socket.gethostname()}-{rng.randrange(16**6):06x}"
        self._metrics = Metrics(CollectorRegistry())
        self._endings = Endings()
        self._leader: Leader | None = None
        self._definition = DefinitionCheck(client, clock=clock)
        self._reflectors = {
            kind: Reflector(
                client,
                kind,
                on_change=self._changed,
                clock=clock,
                rng=rng,
                namespace=(settings.watch_namespace or None) if kind.namespaced else None,
                label_selector=CLUSTER_LABEL if kind in _OURS else None,
            )
            for kind in (MARIADB_CLUSTER, NODE, *_OURS)
        }

    async def run(self) -> None:
        """Reflect, take part in the election, and look after the clusters while elected."""
        settings = self._settings
        elector = LeaseElector(
            self._client,
            settings.namespace,
            settings.lease_name,
            self._identity,
            clock=self._clock,
            rng=self._rng,
            lease_seconds=settings.lease_seconds,
        )
        async with (
            serve_http(
                registry=self._metrics.registry,
                unready=self._unready,
                metrics_port=settings.metrics_port,
                health_port=settings.health_port,
            ),
            asyncio.TaskGroup() as group,
        ):
            for kind, reflector in self._reflectors.items():
                group.create_task(reflector.run(), name=f"reflect {kind.plural}")
            group.create_task(self._definition.run(), name="check the definition")
            for reflector in self._reflectors.values():
                await reflector.synced.wait()
            while True:
                await self._definition.fits.wait()
                await elector.run(self._lead)

    def _unready(self) -> str:
        """Why this process is not ready, for people; empty when it is."""
        waiting = [kind.plural for kind, each in self._reflectors.items() if not each.synced.is_set()]
        if waiting:
            return f"caches are not filled yet: {', '.join(waiting)}"
        return self._definition.problem

    async def _lead(self, leadership: Leadership) -> None:
        stores = {kind: reflector.store for kind, reflector in self._reflectors.items()}
        around = Surroundings(
            client=self._client,
            clusters=stores[MARIADB_CLUSTER],
            caches=Caches(
                pods=stores[POD],
                claims=stores[PVC],
                nodes=stores[NODE],
                slices=stores[ENDPOINT_SLICE],
                services=stores[SERVICE],
                config_maps=stores[CONFIG_MAP],
                secrets=stores[SECRET],
                budgets=stores[POD_DISRUPTION_BUDGET],
            ),
            endings=self._endings,
            environment=Environment(
                image_template=self._settings.image_template,
                sidecar_image=self._settings.sidecar_image,
                cluster_domain=self._settings.cluster_domain,
                now=self._clock.wall,
            ),
            leadership=leadership,
            clock=self._clock,
            rng=self._rng,
            metrics=self._metrics,
            reporter=self._identity,
        )
        self._leader = Leader(around, workers=self._settings.workers)
        self._metrics.leading(leads=True)
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._leader.run(), name="lead")
                await self._definition.unfit.wait()
                work.cancel()
        finally:
            self._leader = None
            self._metrics.leading(leads=False)
            self._metrics.forget_all()

    def _changed(self, change: Change) -> None:
        """An object changed: remember what only this event tells, and wake whom it concerns."""
        if change.kind is POD:
            node = self._reflectors[NODE].store.get(None, change.object["spec"].get("nodeName") or "")
            self._endings.note(change.object, node)
        if self._leader is not None:
            self._leader.changed(change)


class Leader:
    """The work of one period of leadership."""

    def __init__(self, around: Surroundings, *, workers: int) -> None:
        self._around = around
        self._workers = workers
        self._queue: Workqueue[Key] = Workqueue(
            clock=around.clock, rng=around.rng, rate=20.0, burst=50, max_delay=RETRY_SECONDS
        )
        self._sessions: dict[Key, ClusterSession] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look after every cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            for resource in self._around.clusters:
                metadata = resource["metadata"]
                self._queue.add((metadata["namespace"], metadata["name"]))
            for number in range(self._workers):
                group.create_task(self._work(group), name=f"worker {number}")

    def changed(self, change: Change) -> None:
        """Wake the clusters that an object concerns."""
        if change.kind is NODE:
            if _node_news(change):
                for key in self._sessions:
                    self._queue.add(key)
            return
        name = change.object["metadata"]["name"] if change.kind is MARIADB_CLUSTER else change.cluster
        if name is None:
            return
        key = (change.object["metadata"]["namespace"], name)
        session = self._sessions.get(key)
        if session is not None:
            self._tell(session, change)
        self._queue.add(key, urgent=session is not None and session.urgent)

    @staticmethod
    def _tell(session: ClusterSession, change: Change) -> None:
        if change.kind in _STANDING:
            if _news(change):
                session.note_change()
        elif change.kind is POD:
            instance = (change.object["metadata"].get("labels") or {}).get(MEMBER_LABEL)
            if instance is not None:
                session.note_pod(instance)

    async def _work(self, group: asyncio.TaskGroup) -> None:
        while True:
            key = await self._queue.get()
            try:
                with self._around.metrics.passes.time():
                    await self._pass(group, key)
            except LeadershipLost as error:
                logger.warning("%s/%s: %s", *key, error)
                self._queue.retry(key)
            except OperatorError as error:
                delay = self._queue.retry(key)
                logger.warning("%s/%s: %s: %s; again in %.1f s", *key, type(error).__name__, error, delay)
            except Exception:  # one sick cluster delays no other (invariant 6)
                delay = self._queue.retry(key)
                logger.exception("%s/%s: the pass failed; again in %.1f s", *key, delay)
            finally:
                self._queue.done(key)

    async def _pass(self, group: asyncio.TaskGroup, key: Key) -> None:
        resource = self._around.clusters.get(*key)
        session = self._sessions.get(key)
        if session is not None and (resource is None or resource["metadata"]["uid"] != session.owner.uid):
            await self._close(key)  # gone, or deleted and made anew: nothing of the old one counts
            session = None
            resource = self._around.clusters.get(*key)
        if resource is None:
            self._queue.drop(key)
            return
        if session is None:
            owner = Owner(namespace=key[0], name=key[1], uid=resource["metadata"]["uid"])
            session = ClusterSession(owner, self._around, wake=self._waker(key))
            self._sessions[key] = session
            self._tasks[key] = group.create_task(self._own(key, session), name=f"cluster {key[0]}/{key[1]}")
        delay = await session.work()
        self._queue.forget(key)
        self._queue.add_after(key, delay)

    async def _own(self, key: Key, session: ClusterSession) -> None:
        """Run a session; a crash of it ends this session only, and another begins at the next pass."""
        try:
            await session.run()
        except Exception:
            logger.exception("%s/%s: the session ended; it begins anew", *key)
            if self._sessions.get(key) is session:
                self._sessions.pop(key, None)
                self._tasks.pop(key, None)
            self._queue.retry(key)

    def _waker(self, key: Key) -> Callable[[bool], None]:
        return lambda urgent: self._queue.add(key, urgent=urgent)

    async def _close(self, key: Key) -> None:
        """The resource is gone."""
        self._sessions.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._around.metrics.forget(*key)


def _news(change: Change) -> bool:
    """Whether more than the status changed, which controllers of others write: a budget's counts, for one."""
    if change.type is not ChangeType.MODIFIED or change.previous is None:
        return True
    return _essence(change.object) != _essence(change.previous)


def _essence(manifest: Manifest) -> object:
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
    return {**manifest, "metadata": metadata, "status": None}


def _node_news(change: Change) -> bool:
    """Whether a node's readiness or taints changed; heartbeats are no news."""
    if change.type is not ChangeType.MODIFIED or change.previous is None:
        return True
    return _node_essence(change.object) != _node_essence(change.previous)


def _node_essence(node: dict[str, object]) -> object:
    status, spec = node.get("status") or {}, node.get("spec") or {}
    assert isinstance(status, dict)
    assert isinstance(spec, dict)
    conditions = [(each.get("type"), each.get("status")) for each in status.get("conditions") or []]
    return conditions, spec.get("taints")


async def run_operator(settings: Settings) -> None:
    """Connect and run until cancelled."""
    clock = SystemClock()
    rng = random.Random(f"{datetime.now(UTC).timestamp()} {socket.gethostname()}")  # jitter and names
    async with await KubeClient.connect() as client:
        await Operator(settings, client, clock=clock, rng=rng).run()
