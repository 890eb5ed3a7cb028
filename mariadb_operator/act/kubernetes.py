"""Carries out the effects on objects of Kubernetes: Pods, volume claims, EndpointSlices, and letting a resource go.

Answers of the API server go into the caches at once, so that an effect that is done is not asked for again. Not for
statements (sql.py) nor for the objects a cluster stands on (objects.py).
"""

from __future__ import annotations

from mariadb_operator.act.objects import Objects
from mariadb_operator.act.ours import OwnObjects, check_ours, is_ours, made_for
from mariadb_operator.act.volumes import VolumeKeeper
from mariadb_operator.api.group import FIELD_MANAGER, FINALIZER
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.errors import AlreadyExists, Conflict, NotFound
from mariadb_operator.kube.kinds import ENDPOINT_SLICE, MARIADB_CLUSTER, POD, PVC, SECRET, Manifest
from mariadb_operator.kube.store import Store
from mariadb_operator.resources.endpoints import Target, epoch_of, primary_endpoints, replicas_endpoints
from mariadb_operator.resources.labels import CERTIFICATE_ANNOTATION, Owner, instance_labels, metadata
from mariadb_operator.resources.pods import pod
from mariadb_operator.resources.secrets import opaque_secret
from mariadb_operator.resources.volumes import outlives_resource, volume_claim
from mariadb_operator.runtime.errors import Transient
from statemachines import effects as e

ZONE_LABEL = "topology.kubernetes.io/zone"


class NotReady(Transient):
    """What the effect builds on is not there yet."""


class KubernetesEffects:
    """The objects of one cluster."""

    def __init__(
        self, client: KubeClient, owner: Owner, *, pods: Store, claims: Store, slices: Store, nodes: Store
    ) -> None:
        self._client = client
        self._owner = owner
        self._pods = pods
        self._claims = claims
        self._slices = slices
        self._nodes = nodes
        self._own = OwnObjects(client, owner, known={PVC: claims})

    async def ensure_instance(
        self, effect: e.EnsureInstance, spec: MariaDBClusterSpec, objects: Objects
    ) -> None:
        """Make the volume claim and the Pod if they are absent; a Pod is never changed.

        Raises InputProblem where somebody else has an object of that name.
        """
        owner = self._owner
        current = self._claims.get(owner.namespace, owner.names.volume_claim(effect.ordinal))
        claim = volume_claim(owner, spec, ordinal=effect.ordinal, current=current)
        if current is not None and current["metadata"].get("deletionTimestamp"):
            raise NotReady(f"{claim['metadata']['name']} is being deleted: a Pod on it would never start")
        if current is None or not made_for(current, owner):
            self._claims.put_reply(await self._own.apply(claim), before=current)
        manifest = pod(
            owner,
            spec,
            ordinal=effect.ordinal,
            image=objects.image,
            config_map=objects.config_map,
            template_hash=objects.template_hash,
            node=effect.node,
            sidecar=objects.sidecar_image,
        )
        before = self._pods.get(owner.namespace, effect.instance)
        try:
            created = await self._client.create(manifest, field_manager=FIELD_MANAGER)
        except AlreadyExists:
            created = await self._restore_labels(effect.instance)
        self._pods.put_reply(_slim(created), before=before)

    async def _restore_labels(self, instance: str) -> Manifest:
        """A Pod that we don't see: it lost its labels, or is just being made. Raises InputProblem if not ours."""
        owner = self._owner
        found = check_ours(await self._client.get(POD, owner.namespace, instance), owner)
        labels = instance_labels(owner.name, instance)
        if labels.items() <= (found["metadata"].get("labels") or {}).items():
            return found
        patch = {"metadata": {"labels": labels, "uid": found["metadata"]["uid"]}}
        return await self._client.patch_merge(
            POD, owner.namespace, instance, patch=patch, field_manager=FIELD_MANAGER
        )

    async def tell_certificate(self, fingerprint: str) -> None:
        """Annotate the Pods: a kubelet brings a changed Secret into a Pod at once when the Pod itself changes."""
        owner = self._owner
        annotation = {CERTIFICATE_ANNOTATION: fingerprint}
        for known in self._pods.by_cluster(owner.namespace, owner.name):
            metadata = known["metadata"]
            if annotation.items() <= (metadata.get("annotations") or {}).items():
                continue
            patch = {"metadata": {"annotations": annotation, "uid": metadata["uid"]}}
            try:
                changed = await self._client.patch_merge(
                    POD, owner.namespace, metadata["name"], patch=patch, field_manager=FIELD_MANAGER
                )
            except (NotFound, Conflict):
                continue  # another Pod since, which mounts what is there
            self._pods.put_reply(_slim(changed), before=known)

    async def delete_pod(self, effect: e.DeletePod) -> None:
        """Delete the Pod with that UID."""
        try:
            await self._client.delete(
                POD,
                self._owner.namespace,
                effect.instance,
                uid=effect.uid,
                grace_period_seconds=effect.grace_seconds,
            )
        except NotFound:
            return

    async def delete_volume(self, effect: e.DeleteVolume) -> None:
        """Delete the volume claim of an instance that has left, if we made it."""
        ordinal = self._owner.names.ordinal(effect.instance)
        if ordinal is not None:
            await self._own.delete(
                self._claims.get(self._owner.namespace, self._owner.names.volume_claim(ordinal))
            )

    async def switch_primary(self, effect: e.SwitchPrimary, *, port: int) -> None:
        """Point the primary's slice at the instance: exactly one write, guarded by the version we know."""
        known = self._slices.get(self._owner.namespace, self._owner.names.primary_endpoints)
        target = self._target(effect.instance)
        if target.address != effect.address:
            raise NotReady(f"instance {effect.instance} has moved from {effect.address} to {target.address}")
        await self._write_slice(
            primary_endpoints(
                self._owner, port=port, epoch=effect.epoch, target=target, resource_version=_version(known)
            )
        )

    async def set_replica_endpoints(self, effect: e.SetReplicaEndpoints, *, port: int, epoch: int) -> None:
        """List the replicas that serve reads."""
        known = self._slices.get(self._owner.namespace, self._owner.names.replicas_endpoints)
        targets = tuple(self._target(instance) for instance in effect.instances)
        await self._write_slice(
            replicas_endpoints(
                self._owner, port=port, epoch=epoch, targets=targets, resource_version=_version(known)
            )
        )

    async def release(
        self, resource: Manifest, spec: MariaDBClusterSpec | None, *, delete_volumes: bool
    ) -> None:
        """Do with volumes and credentials what the policy says now, then take our finalizer off.

        Pods and the rest go by their owner. Without a spec that can be read nothing but the finalizer is touched.
        """
        if spec is not None:
            await self._follow_policy(spec)
        if delete_volumes:
            for claim in self._claims.by_cluster(self._owner.namespace, self._owner.name):
                await self._own.delete(claim)
            for name in self._retained_secrets:
                await self._own.delete(await self._own.read(SECRET, name))
        present = resource["metadata"]
        rest = [each for each in present.get("finalizers") or [] if each != FINALIZER]
        try:
            await self._client.patch_merge(
                MARIADB_CLUSTER,
                self._owner.namespace,
                self._owner.name,
                patch={"metadata": {"finalizers": rest, "resourceVersion": present["resourceVersion"]}},
                field_manager=FIELD_MANAGER,
            )
        except NotFound:
            return

    @property
    def _retained_secrets(self) -> tuple[str, str]:
        return self._owner.names.credentials_secret, self._owner.names.ca_secret

    async def _follow_policy(self, spec: MariaDBClusterSpec) -> None:
        """What outlives the resource has no owner: the policy may have changed since it was made."""
        await VolumeKeeper(self._client, self._own, claims=self._claims).follow_policy(spec)
        for name in self._retained_secrets:
            secret = await self._own.read(SECRET, name)
            if secret is None or not is_ours(secret, self._owner):
                continue
            owned = not outlives_resource(spec)
            wanted = metadata(self._owner, name, owned=owned).get("ownerReferences")
            if secret["metadata"].get("ownerReferences") != wanted:
                await self._own.apply(
                    opaque_secret(self._owner, name, data=secret.get("data") or {}, owned=owned)
                )

    async def _write_slice(self, manifest: Manifest) -> None:
        before = self._slices.get(self._owner.namespace, manifest["metadata"]["name"])
        if "resourceVersion" in manifest["metadata"]:
            written = await self._client.replace(manifest, field_manager=FIELD_MANAGER)
        else:
            written = await self._create_slice(manifest)
        self._slices.put_reply(_slim(written), before=before)

    async def _create_slice(self, manifest: Manifest) -> Manifest:
        try:
            return await self._client.create(manifest, field_manager=FIELD_MANAGER)
        except AlreadyExists:
            # Ours without its labels, so that no cache shows it, or somebody else's.
            name = manifest["metadata"]["name"]
            found = check_ours(
                await self._client.get(ENDPOINT_SLICE, self._owner.namespace, name), self._owner
            )
            if epoch_of(found) > epoch_of(manifest):
                raise Conflict(f"EndpointSlice {name} is of a later epoch") from None
            manifest["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            return await self._client.replace(manifest, field_manager=FIELD_MANAGER)

    def _target(self, instance: str) -> Target:
        manifest = self._pods.get(self._owner.namespace, instance)
        status = (manifest or {}).get("status") or {}
        if manifest is None or not status.get("podIP"):
            raise NotReady(f"instance {instance} has no address")
        node = manifest["spec"].get("nodeName") or ""
        labels = ((self._nodes.get(None, node) or {}).get("metadata") or {}).get("labels") or {}
        return Target(
            instance=instance,
            pod_uid=manifest["metadata"]["uid"],
            address=status["podIP"],
            node=node,
            zone=labels.get(ZONE_LABEL),
        )


def _version(manifest: Manifest | None) -> str | None:
    return manifest["metadata"]["resourceVersion"] if manifest is not None else None


def _slim(manifest: Manifest) -> Manifest:
    manifest["metadata"].pop("managedFields", None)
    return manifest
