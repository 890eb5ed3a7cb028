"""Probes of, and connections to, the servers of one cluster: who is asked, how often, and with whose account.

Not for what answers mean (observe, statemachines) nor for statements (act.sql).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from mariadb_operator.act.credentials import OPERATOR_ACCOUNT, PROBE_ACCOUNT
from mariadb_operator.act.kubernetes import NotReady
from mariadb_operator.act.runner import STATEMENT_LANE, EffectRunner
from mariadb_operator.act.servers import Servers
from mariadb_operator.act.sql import Target as SqlTarget
from mariadb_operator.controllers.premises import Premises
from mariadb_operator.node.protocol import PORT
from mariadb_operator.observe.probes import InstanceProbe, Pace
from mariadb_operator.observe.probes import Target as ProbeTarget
from mariadb_operator.observe.progress import Progress
from mariadb_operator.observe.sidecars import InstanceSidecar, PodTarget
from mariadb_operator.observe.snapshot import Caches, pod_of
from mariadb_operator.resources.configuration import admin_port
from mariadb_operator.resources.names import server_id
from mariadb_operator.resources.pods import has_sidecar
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.tasks import TaskOwner
from mariadb_operator.sql.certificates import reload_certificates
from mariadb_operator.sql.connection import Endpoint
from mariadb_operator.ssh.connection import Target
from statemachines.facts import Reach, ServerFact
from statemachines.record import Record
from statemachines.states import FAILING_OVER, State

REFRESH_SECONDS = 1.0
STEADY_PACE = Pace(1.0)
BUSY_PACE = Pace(0.2)
QUICK_PACE = Pace(0.05)
QUICK_SECONDS = 5.0  # of a failover's step; one that waits longer waits for a person or a node
BUSY_SECONDS = 60.0  # what is degraded for longer is not repaired by looking more often


class Contacts:
    """Of one cluster."""

    def __init__(
        self,
        premises: Premises,
        caches: Caches,
        *,
        changed: Callable[[], None],
        took: Callable[[float], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`changed`: an answer, or its absence, is news; `took`: the seconds of each answered probe."""
        self.probes: dict[str, InstanceProbe] = {}
        self.sidecars: dict[str, InstanceSidecar] = {}
        self.progress = Progress()
        self.servers = Servers(self._operator_endpoint)
        self._premises = premises
        self._names = premises.owner.names
        self._caches = caches
        self._changed = changed
        self._took = took
        self._clock = clock
        self._rng = rng

    async def keep(self, record: Record, tasks: TaskOwner[str], runner: EffectRunner, *, wall: float) -> None:
        """One probe and one open connection per member, as often as the state wants; none for who left."""
        if self._premises.credentials is None:
            return
        pace = pace_of(record, wall=wall)
        for member in record.members:
            probe = self.probes.get(member.name) or self._begin(member.name, member.ordinal, tasks)
            probe.pace = pace
            if member.name not in self.sidecars and self._premises.ssh is not None:
                self._listen(member.name, member.ordinal, tasks)
            if probe.probe.reach is Reach.ANSWERING and not runner.busy(member.name):
                self._warm(member.name, record, runner)
        members = {member.name for member in record.members}
        for name in [each for each in self.probes if each not in members]:
            await tasks.stop(name)
            await tasks.stop(_sidecar_task(name))
            del self.probes[name]
            self.sidecars.pop(name, None)
            self.servers.forget(name)
            self.progress.forget(name)

    def _begin(self, name: str, ordinal: int, tasks: TaskOwner[str]) -> InstanceProbe:
        probe = InstanceProbe(
            name,
            target=lambda: self._probe_target(ordinal),
            changed=self._changed,
            took=self._took,
            clock=self._clock,
            rng=self._rng,
        )
        self.probes[name] = probe
        tasks.start(name, probe.run)
        return probe

    def _listen(self, name: str, ordinal: int, tasks: TaskOwner[str]) -> None:
        sidecar = InstanceSidecar(
            name,
            target=lambda: self._sidecar_target(ordinal),
            changed=self._changed,
            clock=self._clock,
            rng=self._rng,
        )
        self.sidecars[name] = sidecar
        tasks.start(_sidecar_task(name), sidecar.run)

    def sidecar(self, instance: str) -> InstanceSidecar | None:
        """That of an instance, if it has one."""
        return self.sidecars.get(instance)

    def _sidecar_target(self, ordinal: int) -> PodTarget | None:
        manifest = self._caches.pods.get(self._names.namespace, self._names.instance(ordinal))
        pod, keys = pod_of(self._names, ordinal, self._caches), self._premises.ssh
        if manifest is None or pod is None or pod.ip is None or keys is None or not has_sidecar(manifest):
            return None
        target = Target(host=pod.ip, port=PORT, host_keys=keys.host_keys, client_key=keys.client_key)
        return PodTarget(target=target, pod_uid=pod.uid)

    def _warm(self, name: str, record: Record, runner: EffectRunner) -> None:
        """Open ahead of need: a failover waits for no TLS."""
        if not self.servers.is_warm(name):
            runner.aside(f"warm {name}", lambda: self.servers.standing(name))
        operation = record.operation
        if operation is not None and operation.candidate == name and not self.servers.is_prepared(name):
            runner.aside(f"prepare {name}", lambda: self.servers.prepare(name))

    def reload_certificates(self, runner: EffectRunner) -> None:
        """Have every server that answers read its certificate anew."""
        for name in self.probes:
            if self.answers(name):
                runner.aside(f"{STATEMENT_LANE} {name}", lambda name=name: self._reload(name))  # type: ignore[misc]

    async def _reload(self, name: str) -> None:
        await reload_certificates(await self.servers.standing(name))

    def note_pod(self, instance: str) -> None:
        """A Pod changed: its address may have."""
        if instance in self.sidecars:
            self.sidecars[instance].note_pod()
        probe = self.probes.get(instance)
        if probe is not None and probe.probe.reach is not Reach.ANSWERING:
            probe.poke()

    async def refresh(self, instances: tuple[str, ...], *, seconds: float = REFRESH_SECONDS) -> None:
        """Ask these now; return when each was asked, or after so many seconds."""
        probes = [self.probes[name] for name in instances if name in self.probes]
        await asyncio.gather(*(probe.refresh(deadline_seconds=seconds) for probe in probes))

    def reconnect(self, instance: str) -> None:
        """Ask this one over a new connection from now on."""
        if instance in self.probes:
            self.probes[instance].reconnect()

    def last_answer(self, instance: str) -> ServerFact | None:
        """The latest answer, however old."""
        probe = self.probes.get(instance)
        return probe.server if probe is not None else None

    def all_asked(self, record: Record) -> bool:
        """Whether every member was asked at least once."""
        found = (self.probes.get(member.name) for member in record.members)
        return all(each is not None and each.probe.reach is not Reach.UNKNOWN for each in found)

    def answers(self, instance: str | None) -> bool:
        """Whether the last attempt to ask it was answered."""
        probe = self.probes.get(instance or "")
        return probe is not None and probe.probe.reach is Reach.ANSWERING

    def sql_target(self) -> SqlTarget:
        """What statements need beside their effect. Raises NotReady."""
        credentials, spec = self._premises.credentials, self._premises.spec
        if credentials is None or spec is None:
            raise NotReady("the cluster's Secrets are not there yet")
        return SqlTarget(
            port=admin_port(spec.port),
            database=spec.database,
            username=spec.username,
            credentials=credentials,
            server=self.last_answer,
        )

    def _endpoint(self, ordinal: int, *, user: str) -> tuple[Endpoint, str] | None:
        pod = pod_of(self._names, ordinal, self._caches)
        credentials, spec = self._premises.credentials, self._premises.spec
        if pod is None or pod.ip is None or credentials is None or spec is None:
            return None
        password = credentials.operator_password if user == OPERATOR_ACCOUNT else credentials.probe_password
        endpoint = Endpoint(
            host=pod.ip,
            port=admin_port(spec.port),
            user=user,
            password=password,
            tls=credentials.tls,
            server_id=server_id(ordinal),
        )
        return endpoint, pod.uid

    def _probe_target(self, ordinal: int) -> ProbeTarget | None:
        found = self._endpoint(ordinal, user=PROBE_ACCOUNT)
        return ProbeTarget(endpoint=found[0], pod_uid=found[1]) if found is not None else None

    def _operator_endpoint(self, instance: str) -> Endpoint | None:
        ordinal = self._names.ordinal(instance)
        found = self._endpoint(ordinal, user=OPERATOR_ACCOUNT) if ordinal is not None else None
        return found[0] if found is not None else None


def _sidecar_task(instance: str) -> str:
    return f"sidecar of {instance}"


def pace_of(record: Record, *, wall: float) -> Pace:
    """How often servers that answer are asked: quick where a step waits for it, slow where nothing will follow."""
    age = wall - record.since
    if record.state in FAILING_OVER:
        return QUICK_PACE if age < QUICK_SECONDS else BUSY_PACE
    if record.state in (State.PROVISIONING, State.REPLICATING):
        return BUSY_PACE
    if record.state is State.DEGRADED and age < BUSY_SECONDS:
        return BUSY_PACE
    return STEADY_PACE
