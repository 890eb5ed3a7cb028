"""The operator's processes: the real elector, leader, session, probes, runner and statements, on simulated wires.

What begins here: aiomysql's wire, the API client, the objects that need cryptography, Events and metrics. Everything
between is the operator's own code. Not for how processes stop and go on (loop.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import ssl
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from mariadb_operator.act.credentials import Credentials
from mariadb_operator.act.objects import Environment, Objects
from mariadb_operator.act.trust import Trust
from mariadb_operator.api import status
from mariadb_operator.api.status import Observed
from mariadb_operator.controllers import performer, premises, session
from mariadb_operator.controllers.operator import Leader
from mariadb_operator.controllers.surroundings import Surroundings
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
    Kind,
    Manifest,
)
from mariadb_operator.kube.leases import Leadership, LeaseElector
from mariadb_operator.kube.store import Change, Store
from mariadb_operator.observe import snapshot
from mariadb_operator.observe.pods import pod_fact
from mariadb_operator.observe.snapshot import Caches, Endings
from mariadb_operator.resources.labels import CLUSTER_LABEL
from mariadb_operator.sql import connection
from mariadb_operator.telemetry.metrics import Metrics
from statemachines import gtid
from statemachines.facts import PodFact
from statemachines.record import Situation
from tests.simulation import loop as loops
from tests.simulation.kubernetes import HOST, Client
from tests.simulation.loop import DEAD, FROZEN, Process, SimulatedLoop
from tests.simulation.wires import Wire
from tests.unit.virtual_time import EPOCH

if TYPE_CHECKING:
    from tests.simulation.world import World

KINDS = (POD, PVC, NODE, ENDPOINT_SLICE, SERVICE, CONFIG_MAP, SECRET, POD_DISRUPTION_BUDGET, MARIADB_CLUSTER)
WATCH_DELAY = (0.001, 0.03)
LEASE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Trust:
    """A certificate that names these addresses."""

    addresses: frozenset[str]
    server_certificate: str = "certificate"
    fingerprint: str = "fingerprint"
    issued_at: datetime = datetime(2026, 11, 23, tzinfo=UTC)


_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CREDENTIALS = Credentials(
    operator_password="o",
    probe_password="p",
    replication_passwords={f"repl_{number}": "r" for number in range(9)},
    application_password="a",
    tls=_TLS,
)


class _Keeper:
    """Stands in for act.objects.ObjectKeeper: everything stands at once."""

    def __init__(self, client: object, owner: Any, *, environment: object, caches: Any) -> None:
        self._owner = owner
        self._caches = caches

    def _trust(self) -> Trust:
        pods = self._caches.pods.by_cluster(self._owner.namespace, self._owner.name)
        addresses = frozenset(
            address for pod in pods if (address := (pod.get("status") or {}).get("podIP")) is not None
        )
        return cast(Trust, _Trust(addresses))

    async def ensure(self, spec: object, *, known: object, image: str, served: bool) -> Objects:
        await asyncio.sleep(0.002)
        return Objects(
            config_map="configuration",
            image="mariadb:11.8",
            template_hash="template",
            credentials=CREDENTIALS,
            generated={},
            trust=self._trust(),
        )

    async def certify(self, spec: object, *, known: object) -> Trust:
        await asyncio.sleep(0.002)
        return self._trust()


class _Silent:
    """Takes every call and says nothing: for metrics and Events."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> _Silent:
        return self

    def __call__(self, *_: object, **__: object) -> _Silent:
        return self

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _view(situation: Situation, *, image: str, generation: int) -> Observed:
    """What people read is nobody's here."""
    return Observed(
        observed_generation=generation, image=image, wanted=situation.intent.replicas, replicas=0, selector=""
    )


class _Complaints(logging.Handler):
    """What the operator logs as an error is a bug of it."""

    def __init__(self, heard: list[BaseException]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._heard.append(error if error is not None else AssertionError(record.getMessage()))


_parse_list = lru_cache(maxsize=1 << 14)(gtid._parse_list)  # pure, and asked for the same again and again
_history = lru_cache(maxsize=1 << 10)(status._history)
_POD_FACTS: dict[int, tuple[Manifest, PodFact]] = {}


def _pod_fact(pod: Manifest) -> PodFact:
    """As observe.pods has it; objects of this API are never changed in place."""
    known = _POD_FACTS.get(id(pod))
    if known is None or known[0] is not pod:
        if len(_POD_FACTS) > 4096:
            _POD_FACTS.clear()
        known = _POD_FACTS[id(pod)] = (pod, pod_fact(pod))
    return known[1]


@contextlib.contextmanager
def installed(bugs: list[BaseException]) -> Iterator[None]:
    """The seams of this process are the simulated ones; `bugs` takes what the operator logs as errors."""
    places: tuple[tuple[Any, str, Any], ...] = (
        (connection, "_TlsWire", Wire),
        (performer, "ObjectKeeper", _Keeper),
        (premises, "read_credentials", lambda *_, **__: CREDENTIALS),
        (session, "Journal", _Silent),
        (session, "observed", _view),
        (gtid, "_parse_list", _parse_list),
        (snapshot, "pod_fact", _pod_fact),
        (status, "_history", _history),
    )
    before = [getattr(module, name) for module, name, _ in places]
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    complaints = _Complaints(bugs)
    logging.root.addHandler(complaints)
    for module, name, stand_in in places:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        logging.disable(level)
        logging.root.removeHandler(complaints)
        for (module, name, _), original in zip(places, before, strict=True):
            setattr(module, name, original)


class OperatorClock:
    """The clocks of one machine: each has its own zero, and the time of day may jump."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random) -> None:
        self._loop = loop
        self._offset = rng.uniform(10.0, 1e6)
        self.wall_offset = rng.uniform(-1.0, 1.0)

    def monotonic(self) -> float:
        return self._loop.now + self._offset

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.now + self.wall_offset)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class OperatorProcess:
    """One process of the operator, from its start to its death."""

    def __init__(self, world: World, *, slot: int, generation: int) -> None:
        self.world = world
        self.slot = slot
        self.process = Process(f"operator{slot}.{generation}", host=f"operator{slot}", world=world)
        self.rng = random.Random(world.rng.getrandbits(64))
        self.clock = OperatorClock(world.loop, self.rng)
        self.client = Client(
            world.objects,
            process=self.process,
            loop=world.loop,
            network=world.network,
            weather=world.weather,
            rng=self.rng,
        )
        self.leader: Leader | None = None
        self.watch_delay = WATCH_DELAY
        self._context = contextvars.Context()
        self._context.run(loops._CURRENT.set, self.process)
        self._stores = {kind: Store(kind) for kind in KINDS}
        self._endings = Endings()
        self._heard: deque[tuple[Kind, str, Manifest]] = deque()
        self._due = 0.0
        for kind in KINDS:
            self._stores[kind].replace(world.objects.of(kind))
        for pod in self._stores[POD]:
            self._note_pod(pod)
        world.objects.watchers.append(self._hear)
        self.task = world.loop.spawn(self.process, self._run(), name=self.process.name)

    @property
    def alive(self) -> bool:
        return self.process.mode != DEAD

    @property
    def leads(self) -> bool:
        return self.leader is not None

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more; the kernel closes its sockets."""
        if not self.alive:
            return
        self.world.trace(f"{self.process.name} dies")
        self.process.mode = DEAD
        self.world.objects.watchers.remove(self._hear)
        self.leader = None
        for wire in self._wires():
            wire.drop()

    def freeze(self) -> None:
        if self.alive:
            self.process.mode = FROZEN

    def thaw(self) -> None:
        self.world.loop.thaw(self.process)

    def _wires(self) -> list[Wire]:
        return [wire for wire in self.world.wires if wire.process is self.process]

    async def _run(self) -> None:
        elector = LeaseElector(
            self.client.as_client(),
            "system",
            "operator",
            self.process.name,
            clock=self.clock,
            rng=self.rng,
            lease_seconds=LEASE_SECONDS,
        )
        await elector.run(self._lead)

    async def _lead(self, leadership: Leadership) -> None:
        stores = self._stores
        self.world.trace(f"{self.process.name} leads in term {leadership.term}")
        around = Surroundings(
            client=self.client.as_client(),
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
                image_template="mariadb:{version}", cluster_domain="cluster.local", now=self.clock.wall
            ),
            leadership=leadership,
            clock=self.clock,
            rng=self.rng,
            metrics=cast(Metrics, _Silent()),
            reporter=self.process.name,
        )
        self.leader = Leader(around, workers=2)
        try:
            await self.leader.run()
        finally:
            self.leader = None

    # --- watch streams ---

    def _hear(self, kind: Kind, change: str, manifest: Manifest) -> None:
        if kind not in self._stores:
            return
        loop = self.world.loop
        self._heard.append((kind, change, manifest))
        self._due = max(self._due, loop.now + self.rng.uniform(*self.watch_delay))
        loop.in_world(self._due - loop.now, self._arrive)

    def _arrive(self) -> None:
        loop = self.world.loop
        if not self.alive:
            return
        if not self.world.network.passes(HOST, self.process.host) or not self.world.weather.up:
            loop.in_world(0.5, self._arrive)  # the stream is opened again, from where it was
            return
        loop.call_soon(self._apply, context=self._context)

    def _apply(self) -> None:
        if not self._heard:
            return
        kind, change, manifest = self._heard.popleft()
        labelled = CLUSTER_LABEL in (manifest["metadata"].get("labels") or {})
        selected = labelled or kind in (NODE, MARIADB_CLUSTER)
        store = self._stores[kind]
        gone = change == "DELETED" or not selected
        changes: list[Change] = store.remove(manifest) if gone else store.put(manifest)
        for each in changes:
            if kind is POD:
                self._note_pod(each.object)
            if self.leader is not None:
                self.leader.changed(each)

    def _note_pod(self, pod: Manifest) -> None:
        node = self._stores[NODE].get(None, pod["spec"].get("nodeName") or "")
        self._endings.note(pod, node)
