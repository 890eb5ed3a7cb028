"""One cluster, as long as this process leads: a pass observes, decides, writes the status, and only then acts.

The decision is statemachines.decide's; what is here is the order of things around it. Not for several clusters
(operator.py), nor for how anything is done (performer.py, act/), nor for whom to ask (contacts.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mariadb_operator.act.runner import EffectRunner
from mariadb_operator.api.cluster import Identity, read_identity
from mariadb_operator.api.group import FINALIZER
from mariadb_operator.api.intent import intent_of
from mariadb_operator.controllers.contacts import BUSY_SECONDS, Contacts
from mariadb_operator.controllers.journal import Journal
from mariadb_operator.controllers.performer import Performer
from mariadb_operator.controllers.premises import Premises
from mariadb_operator.controllers.renewal import CertificateReload
from mariadb_operator.controllers.report import observed
from mariadb_operator.controllers.statuses import NEWS_SECONDS, StatusWriter
from mariadb_operator.controllers.surroundings import Surroundings
from mariadb_operator.kube.errors import Conflict
from mariadb_operator.kube.kinds import MARIADB_CLUSTER, Manifest
from mariadb_operator.observe.snapshot import Remembered, build_snapshot, update_progress
from mariadb_operator.resources.labels import Owner
from mariadb_operator.runtime.errors import Uncertain
from mariadb_operator.runtime.tasks import TaskOwner
from statemachines import effects as e
from statemachines.decide import Decision, decide, take_over
from statemachines.facts import Snapshot
from statemachines.record import Intent, Record, Situation
from statemachines.states import FAILING_OVER, STEADY, State

logger = logging.getLogger(__name__)

READY_SECONDS = 10.0
UNWRITTEN_SECONDS = 1.0  # how long a step that binds nobody may stay out of the status
UNKNOWN_SECONDS = 10.0  # how long a new leader leaves the conditions as they are, until all were asked
FAILOVER_PASS_SECONDS = 0.05  # a pass without a reason, while failing over
SOON_SECONDS = 0.5
LATER_SECONDS = 2.0
PASS_SECONDS = 5.0


class ClusterSession:
    """One cluster under one leader. `run()` owns its tasks; `work()` is one pass, by one task at a time."""

    def __init__(self, owner: Owner, around: Surroundings, *, wake: Callable[[bool], None]) -> None:
        """`wake(urgent)` asks for a pass."""
        self.owner = owner
        self._around = around
        self._names = owner.names
        self._wake = wake
        self._ready = asyncio.Event()
        self._record: Record | None = None
        self._unwritten_since: float | None = None
        self._operation_since: float | None = None
        self._fenced_operation = ""
        self._anchor: float | None = None  # wall clock at zero of the monotonic one
        self._premises = Premises(owner, secrets=around.caches.secrets)
        self._contacts = Contacts(
            self._premises,
            around.caches,
            changed=lambda: self._wake(self.urgent),
            took=around.metrics.probes.observe,
            clock=around.clock,
            rng=around.rng,
        )
        self._certificates = CertificateReload(clock=around.clock)
        self._loaded_at = 0.0
        self._status = StatusWriter(around.client, clock=around.clock)
        self._cleared: Callable[[str, str], bool]
        self._runner: EffectRunner
        self._probe_tasks: TaskOwner[str]
        self._journal: Journal

    async def run(self) -> None:
        """Own this cluster's tasks until cancelled."""
        around = self._around
        try:
            async with asyncio.TaskGroup() as group:
                performer = Performer(group, around, self._premises, self._contacts, epoch=self._epoch)
                self._cleared = performer.cleared
                self._runner = EffectRunner(
                    group,
                    perform=performer.perform,
                    settle=performer.settle,
                    interrupted=self._contacts.servers.interrupted,
                    ended=lambda: self._wake(self.urgent),
                    failed=self._effect_failed,
                    clock=around.clock,
                    rng=around.rng,
                )
                self._probe_tasks = TaskOwner(group, clock=around.clock, rng=around.rng)
                self._journal = Journal(
                    group, around.client, clock=around.clock, rng=around.rng, reporter=around.reporter
                )
                self._ready.set()
                self._wake(True)
                await asyncio.Event().wait()
        finally:
            self._contacts.servers.close()

    def note_change(self) -> None:
        """An object of this cluster that is not a Pod, volume or node changed: look at all of them again."""
        self._premises.objects_due = True

    def note_pod(self, instance: str) -> None:
        """A Pod of this cluster changed."""
        self._contacts.note_pod(instance)

    @property
    def urgent(self) -> bool:
        """Whether a pass should go before those of other clusters."""
        record = self._record
        if record is None or record.state in FAILING_OVER:
            return True
        return (
            record.epoch > 0 and record.primary in self._contacts.probes and self._primary_is_silent(record)
        )

    def _primary_is_silent(self, record: Record) -> bool:
        return not self._contacts.answers(record.primary)

    async def work(self) -> float:
        """Observe, decide, write, act. Returns in how many seconds to come again.

        Raises:
            OperatorError: the pass could not be finished; nothing is assumed about what it wrote.
        """
        async with asyncio.timeout(READY_SECONDS):
            await self._ready.wait()
        around = self._around
        resource = around.clusters.get(self._names.namespace, self._names.cluster)
        if resource is None:
            return PASS_SECONDS
        around.leadership.check()
        try:
            return await self._pass(resource)
        except (Conflict, Uncertain):
            self._forget_record()
            raise

    async def _pass(self, cached: Manifest) -> float:
        premises = self._premises
        if self._record is None or not self._status.is_ours(cached):
            cached = await self._load()
        identity = read_identity(cached)
        self._read_spec(cached)
        if FINALIZER not in identity.finalizers and not identity.deletion_requested and premises.spec:
            cached = await self._status.add_finalizer(cached)
        intent = self._intent(identity)
        assert self._record is not None
        snapshot = self._observe(self._record)
        wall = self._wall()
        decision = self._decide(intent, snapshot, self._record, wall)
        situation = Situation(intent=intent, snapshot=snapshot, record=decision.record, wall=wall)
        await self._write(cached, decision, situation)
        await self._contacts.keep(decision.record, self._probe_tasks, self._runner, wall=wall)
        objects = premises.objects
        if (
            objects is not None
            and decision.record.state in STEADY
            and self._certificates.is_due(objects.trust)
        ):
            self._contacts.reload_certificates(self._runner)
        due = self._runner.start(self._effects(decision))
        return self._next_pass(due, decision.record, wall=wall)

    def _wall(self) -> float:
        """Now, in seconds since 1970; while an operation is open by the monotonic clock, since its deadlines count."""
        clock = self._around.clock
        if self._record is None or self._record.operation is None:
            self._anchor = None
            return clock.wall().timestamp()
        if self._anchor is None:
            self._anchor = clock.wall().timestamp() - clock.monotonic()
        return self._anchor + clock.monotonic()

    def _read_spec(self, resource: Manifest) -> None:
        if self._premises.read(resource):
            self._runner.retry_now(e.EnsureObjects())

    def _intent(self, identity: Identity) -> Intent:
        premises, term = self._premises, self._around.leadership.term
        if premises.spec is None:
            return Intent(
                name=identity.name,
                cluster_uid=identity.uid,
                generation=identity.generation,
                deletion_requested=identity.deletion_requested,
                term=term,
            )
        objects = premises.objects
        return intent_of(
            premises.spec,
            identity,
            template_hash=objects.template_hash if objects is not None else "",
            term=term,
        )

    def _decide(self, intent: Intent, snapshot: Snapshot, record: Record, wall: float) -> Decision:
        if self._premises.spec is None and not intent.deletion_requested:
            # Nothing is known of what is wanted, so nothing is done but to say so.
            return Decision(record=record, written=record, write=False, changed=False, entries=(), effects=())
        return decide(intent, snapshot, record, wall)

    def _effects(self, decision: Decision) -> tuple[e.Effect, ...]:
        effects = decision.effects
        if decision.record.state in FAILING_OVER and self._premises.objects is None and self._premises.spec:
            # A new leader goes on where the last one was, and Pods are made of what the objects say.
            effects = (*effects, e.EnsureObjects())
        refused = self._premises.refused
        for gone in [each for each in refused if each not in effects]:
            del refused[gone]
        return effects

    def _observe(self, record: Record) -> Snapshot:
        around, premises = self._around, self._premises
        now = around.clock.monotonic()
        premises.look_again(now=now)
        problem = premises.problem
        remembered = Remembered(
            probes=self._contacts.probes,
            sidecars=self._contacts.sidecars,
            progress=self._contacts.progress,
            busy=self._runner.busy,
            cleared=self._cleared,
            operation_since=self._operation_since,
            objects_ready=premises.objects is not None and premises.blocking is None,
            instances_possible=premises.objects is not None,
            objects_due=premises.objects_due,
            application_due=premises.application_due,
            certified_addresses=premises.objects.trust.addresses if premises.objects is not None else None,
            problem=str(problem) if problem is not None else "",
            problem_reason=problem.reason if problem is not None else "",
            port=premises.spec.port if premises.spec is not None else 0,
        )
        update_progress(record, remembered, now=now)
        return build_snapshot(self._names, record, around.caches, around.endings, remembered, now=now)

    async def _write(self, resource: Manifest, decision: Decision, situation: Situation) -> None:
        """Write-ahead: what binds is in the status before any effect of it runs, and before we believe it."""
        assert self._record is not None
        around = self._around
        before, now = self._record, around.clock.monotonic()
        if decision.changed and self._unwritten_since is None:
            self._unwritten_since = now
        stale = self._unwritten_since is not None and now - self._unwritten_since >= UNWRITTEN_SECONDS
        view = observed(situation, image=self._premises.image, generation=situation.intent.generation)
        known = (
            self._premises.problem is not None
            or decision.record.epoch == 0
            or self._contacts.all_asked(decision.record)
            or now - self._loaded_at >= UNKNOWN_SECONDS
        )
        news = known and self._status.is_news(view, record=decision.record, now=now)
        record = decision.record
        if decision.write or stale or news:
            around.leadership.check()
            record = decision.written
            await self._status.write(resource, record, view, now=now, known=known)
            self._unwritten_since = None
            self._journal.note(self._status.resource, record, situation)
        self._record = record
        self._journal.hold(decision.record.state in FAILING_OVER)
        self._note_operation(before, now=around.clock.monotonic())
        for entry in decision.entries:
            logger.info(
                "%s/%s: %s -> %s by %s %s", self._names.namespace, self._names.cluster, entry.source, entry.target,
                entry.trigger, entry.evidence,
            )  # fmt: skip
            around.metrics.transition(self._names.namespace, self._names.cluster, entry)
        around.metrics.state(self._names.namespace, self._names.cluster, self._record)

    def _note_operation(self, before: Record, *, now: float) -> None:
        """The fence counts from the write that began it."""
        assert self._record is not None
        operation = self._record.operation
        if operation is None:
            self._operation_since, self._fenced_operation = None, ""
        elif self._record.state is not State.CONFIRMING and self._fenced_operation != operation.id:
            self._operation_since, self._fenced_operation = now, operation.id
            self._wake(True)
        elif before.state is State.CONFIRMING and self._record.state is State.FENCING:
            self._operation_since = now

    async def _load(self) -> Manifest:
        """The record as the API server has it now, not as a cache does; an open operation is taken over by a write."""
        known = self._status.resource.get("status")
        resource = await self._around.client.get(MARIADB_CLUSTER, self._names.namespace, self._names.cluster)
        if resource["metadata"]["uid"] != self.owner.uid:
            raise Conflict(f"MariaDBCluster {self._names.namespace}/{self._names.cluster} was made anew")
        if self._record is not None and resource.get("status") == known:
            self._status.keep(resource)
            return resource  # only the spec or the metadata changed
        self._forget_record()
        record = self._status.read(resource)
        if record.operation is not None:
            self._read_spec(resource)
            intent = self._intent(read_identity(resource))
            record = take_over(record, intent, self._around.clock.wall().timestamp())
            resource = await self._status.take_over(resource, record)
        self._record, self._loaded_at = record, self._around.clock.monotonic()
        self._journal.replay(resource, record)
        return resource

    def _forget_record(self) -> None:
        """Somebody else wrote, or we don't know what was written: observe again."""
        self._record = None
        self._unwritten_since, self._operation_since, self._fenced_operation = None, None, ""
        self._status.forget()

    def _next_pass(self, due: float | None, record: Record, *, wall: float) -> float:
        match record.state:
            case state if state in FAILING_OVER:
                seconds = FAILOVER_PASS_SECONDS
            case State.HEALTHY if (
                self._contacts.progress.primary(record.primary or "").lonely_since is not None
            ):
                seconds = SOON_SECONDS
            case State.HEALTHY | State.PAUSED | State.QUARANTINED:
                seconds = PASS_SECONDS
            case State.DEGRADED if wall - record.since >= BUSY_SECONDS and not self._primary_is_silent(
                record
            ):
                seconds = LATER_SECONDS
            case _:
                seconds = SOON_SECONDS
        if self._status.waits:
            seconds = min(seconds, NEWS_SECONDS)
        return seconds if due is None else min(due, seconds)

    def _epoch(self) -> int:
        return self._record.epoch if self._record is not None else 0

    def _effect_failed(self, effect: e.Effect, error: Exception) -> None:
        self._around.metrics.effect_failed(type(effect).__name__, type(error).__name__)
