"""Hands each effect to whoever carries it out, and has the servers asked again afterwards.

Not for when effects run or how often (act.runner), nor for how (act.sql, act.kubernetes, act.objects).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import assert_never

from mariadb_operator.act.kubernetes import KubernetesEffects, NotReady
from mariadb_operator.act.objects import ObjectCaches, ObjectKeeper, Objects
from mariadb_operator.act.ours import InputProblem
from mariadb_operator.act.sidecars import SidecarEffects
from mariadb_operator.act.sql import SqlEffects
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.controllers.contacts import Contacts
from mariadb_operator.controllers.premises import Premises
from mariadb_operator.controllers.surroundings import Surroundings
from mariadb_operator.kube.errors import NotFound
from mariadb_operator.kube.kinds import MARIADB_CLUSTER
from mariadb_operator.runtime.errors import OperatorError, Permanent
from mariadb_operator.sql.errors import StaleTerm, StatementLost
from mariadb_operator.sql.sessions import settle
from mariadb_operator.sql.terms import Guard
from statemachines import effects as e

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # one who hangs must not keep the others from being asked again


def _refusal(effect: e.Effect, error: Permanent) -> InputProblem:
    """What asking again does not change has to be seen by a person."""
    name = type(effect).__name__
    instance = getattr(effect, "instance", None)
    where = f" on {instance}" if instance is not None else ""
    return InputProblem(
        f"{name}Refused",
        f"{name}{where} is refused and is tried again: {error}. Look at what the message names; the operator's log has"
        " the whole of it",
    )


class Performer:
    """The effects of one cluster under one leader."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        around: Surroundings,
        premises: Premises,
        contacts: Contacts,
        *,
        epoch: Callable[[], int],
    ) -> None:
        """`epoch` gives the present one, for what is not bound to it."""
        caches, owner = around.caches, premises.owner
        self._around = around
        self._premises = premises
        self._contacts = contacts
        self._epoch = epoch
        self._guard = Guard(term=around.leadership.term, leader=around.leadership.identity)
        self._sql = SqlEffects(group, contacts.servers, guard=self._guard, target=contacts.sql_target)
        self._sidecars = SidecarEffects(
            contacts.sidecar,
            term=around.leadership.term,
            new_id=lambda: f"{around.rng.getrandbits(128):032x}",
        )
        self._kubernetes = KubernetesEffects(
            around.client,
            owner,
            pods=caches.pods,
            claims=caches.claims,
            slices=caches.slices,
            nodes=caches.nodes,
        )
        self._keeper = ObjectKeeper(
            around.client,
            owner,
            environment=around.environment,
            caches=ObjectCaches(
                pods=caches.pods,
                claims=caches.claims,
                services=caches.services,
                config_maps=caches.config_maps,
                secrets=caches.secrets,
                budgets=caches.budgets,
            ),
        )

    async def perform(self, effect: e.Effect) -> None:
        """Carry out one effect. Raises what the one who does it raises."""
        self._around.leadership.check()
        try:
            await self._perform(effect)
        except InputProblem as problem:
            if not isinstance(effect, e.EnsureObjects):
                self._premises.refused[effect] = problem
            raise
        except StaleTerm:
            raise  # of a newer leader, to whom this cluster belongs
        except Permanent as error:
            self._premises.refused[effect] = _refusal(effect, error)
            raise
        self._premises.refused.pop(effect, None)

    async def _perform(self, effect: e.Effect) -> None:
        match effect:
            case e.EnsureObjects():
                await self._ensure_objects()
            case e.Certify():
                await self._certify()
            case e.ProbeNow():
                await self._contacts.refresh(effect.instances, seconds=LOOK_SECONDS)
            case (
                e.EnsureInstance()
                | e.DeletePod()
                | e.DeleteVolume()
                | e.SwitchPrimary()
                | e.SetReplicaEndpoints()
                | e.Release()
            ):
                await self._perform_on_objects(effect)
            case e.FenceServer() | e.PermitServer() | e.Salvage() | e.ApplySalvaged():
                await self._perform_by_sidecar(effect)
            case _:
                if isinstance(effect, e.InitialisePrimary | e.KeepApplication):
                    self._standing()  # it needs the application's password, which only the objects know
                application = self._premises.application_wanted()
                try:
                    await self._sql.run(effect)
                finally:
                    if isinstance(effect, e.Attach):
                        self._contacts.progress.forget(effect.instance)
                if isinstance(effect, e.KeepApplication):
                    self._premises.note_application(application)
                if isinstance(effect, e.ReloadCertificate):
                    await self._check_certificate(effect.instance)
                await self._contacts.refresh((effect.instance,))

    async def _perform_by_sidecar(
        self, effect: e.FenceServer | e.PermitServer | e.Salvage | e.ApplySalvaged
    ) -> None:
        if isinstance(effect, e.ApplySalvaged):
            await self._sql.apply_salvaged(effect, await self._sidecars.give(effect))
            await self._contacts.refresh((effect.instance,))
        else:
            await self._sidecars.run(effect)

    async def _perform_on_objects(
        self,
        effect: e.EnsureInstance
        | e.DeletePod
        | e.DeleteVolume
        | e.SwitchPrimary
        | e.SetReplicaEndpoints
        | e.Release,
    ) -> None:
        match effect:
            case e.EnsureInstance():
                objects, _ = self._standing()
                premises = self._premises
                if premises.made_for is not premises.spec and premises.blocking is None:
                    raise NotReady("the objects are being brought in line with a new spec")
                assert premises.made_for is not None
                await self._kubernetes.ensure_instance(effect, premises.made_for, objects)
            case e.DeletePod():
                await self._kubernetes.delete_pod(effect)
            case e.DeleteVolume():
                await self._kubernetes.delete_volume(effect)
            case e.SwitchPrimary():
                await self._kubernetes.switch_primary(effect, port=self._spec().port)
            case e.SetReplicaEndpoints():
                await self._kubernetes.set_replica_endpoints(
                    effect, port=self._spec().port, epoch=self._epoch()
                )
            case e.Release():
                await self._release(effect)
            case _:
                assert_never(effect)

    async def _release(self, effect: e.Release) -> None:
        owner = self._premises.owner
        try:
            resource = await self._around.client.get(MARIADB_CLUSTER, owner.namespace, owner.name)
        except NotFound:
            return
        if resource["metadata"]["uid"] == owner.uid:
            await self._kubernetes.release(
                resource, self._premises.spec, delete_volumes=effect.delete_volumes
            )

    def _spec(self) -> MariaDBClusterSpec:
        if self._premises.spec is None:
            raise NotReady("the spec was not read yet")
        return self._premises.spec

    def _standing(self) -> tuple[Objects, MariaDBClusterSpec]:
        if self._premises.objects is None:
            raise NotReady("the cluster's objects are not there yet")
        return self._premises.objects, self._spec()

    async def _ensure_objects(self) -> None:
        premises, spec = self._premises, self._spec()
        premises.objects_due = False
        try:
            objects = await self._keeper.ensure(
                spec, known=premises.objects, image=premises.image, served=self._epoch() > 0
            )
        except InputProblem as problem:
            premises.blocking, premises.objects_due = problem, True
            raise
        except OperatorError:
            premises.objects_due = True
            raise
        premises.stand(spec, objects, now=self._around.clock.monotonic())

    def cleared(self, instance: str, incarnation: str) -> bool:
        """Whether no statement of an earlier leader runs, or will run, in this start of the server."""
        return self._sql.cleared(instance, incarnation)

    async def _certify(self) -> None:
        """A new certificate in the Secret, and a word to the kubelets, who would bring it after a minute only."""
        objects, spec = self._standing()
        trust = await self._keeper.certify(spec, known=objects.trust)
        self._premises.note_trust(trust)
        await self._kubernetes.tell_certificate(trust.fingerprint)

    async def _check_certificate(self, instance: str) -> None:
        """The kubelet may not have brought the new one yet: then the effect has to be tried again."""
        self._contacts.reconnect(instance)
        await self._contacts.refresh((instance,))
        server = self._contacts.last_answer(instance)
        if server is None or not server.certified:
            raise NotReady(f"the certificate that names {instance}'s address is not in its files yet")

    async def settle(self, instance: str, lost: StatementLost) -> bool:
        """Whether a statement without a reply runs no more: its session is gone, or its server is."""
        asked = self._around.clock.monotonic()
        await self._contacts.refresh((instance,))
        server = self._contacts.last_answer(instance)
        if server is not None and server.asked_at >= asked and server.incarnation != lost.incarnation:
            return True
        try:
            connection = await self._contacts.servers.standing(instance)
            gone = await settle(connection, lost=lost, guard=self._guard)
        except OperatorError as error:
            logger.info("%s: a lost statement is not settled yet: %s", instance, error)
            return False
        await self._contacts.refresh((instance,))
        return gone
