"""The volume claims that exist: they grow with the spec, and outlive the resource or not as it says now.

Not for making the first claim of an instance (kubernetes.py). What stands in the way of a claim is a notice, not an
error: a cluster that runs goes on.
"""

from __future__ import annotations

from mariadb_operator.act.ours import InputProblem, OwnObjects, made_for
from mariadb_operator.api.spec import MariaDBClusterSpec
from mariadb_operator.api.types import amount
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.errors import Rejected
from mariadb_operator.kube.kinds import STORAGE_CLASS, Manifest
from mariadb_operator.kube.store import Store
from mariadb_operator.resources.volumes import volume_claim

DEFAULT_CLASS_ANNOTATION = "storageclass.kubernetes.io/is-default-class"


class VolumeKeeper:
    """The claims of one cluster."""

    def __init__(self, client: KubeClient, own: OwnObjects, *, claims: Store) -> None:
        self._client = client
        self._own = own
        self._claims = claims

    async def check_storage_class(self, spec: MariaDBClusterSpec) -> None:
        """Raises InputProblem when volumes are to be made of a StorageClass that does not exist."""
        name = spec.storage.storage_class_name
        if name is None or self._all_bound(spec):
            return
        if await self._own.read(STORAGE_CLASS, name) is None:
            raise InputProblem(
                "StorageClassMissing",
                f"spec.storage.storageClassName: StorageClass {name!r} does not exist; create it, or delete this"
                " resource and name one that `kubectl get storageclass` lists",
            )

    async def keep(self, spec: MariaDBClusterSpec) -> tuple[InputProblem, ...]:
        """Bring the claims in line with the spec, and say what a person has to do about them."""
        notices = [await self._keep_claim(spec, claim) for claim in self._ours()]
        if spec.storage.storage_class_name is None and not self._all_bound(spec):
            notices.append(await self._default_class_missing())
        return tuple(each for each in notices if each is not None)

    async def follow_policy(self, spec: MariaDBClusterSpec) -> None:
        """Owner references as volumeDeletionPolicy wants them now; sizes stay."""
        for claim in self._ours():
            wanted = self._wanted(spec, claim, grow=False)
            if wanted is not None and _differs(claim, wanted):
                await self._apply(wanted)

    def _ours(self) -> list[Manifest]:
        """Made for this resource: one that an earlier resource left is adopted with its instance, or never."""
        owner = self._own.owner
        found = self._claims.by_cluster(owner.namespace, owner.name)
        return [
            each for each in found if made_for(each, owner) and not each["metadata"].get("deletionTimestamp")
        ]

    def _all_bound(self, spec: MariaDBClusterSpec) -> bool:
        owner = self._own.owner
        found = self._claims.by_cluster(owner.namespace, owner.name)
        bound = [each for each in found if (each.get("status") or {}).get("phase") == "Bound"]
        return len(bound) >= spec.replicas

    def _wanted(self, spec: MariaDBClusterSpec, claim: Manifest, *, grow: bool) -> Manifest | None:
        names = self._own.owner.names
        name = claim["metadata"]["name"]
        ordinal = next((n for n in range(100) if names.volume_claim(n) == name), None)
        if ordinal is None:
            return None
        wanted = volume_claim(self._own.owner, spec, ordinal=ordinal, current=claim)
        if not grow:
            wanted["spec"]["resources"]["requests"]["storage"] = _requested(claim)
        return wanted

    async def _keep_claim(self, spec: MariaDBClusterSpec, claim: Manifest) -> InputProblem | None:
        wanted = self._wanted(spec, claim, grow=True)
        if wanted is None or not _differs(claim, wanted):
            return None
        try:
            await self._apply(wanted)
        except Rejected as error:
            if _requested(wanted) == _requested(claim):
                raise
            smaller = self._wanted(spec, claim, grow=False)
            if smaller is not None and _differs(claim, smaller):
                await self._apply(smaller)
            return _not_expandable(spec, claim, error)
        return None

    async def _apply(self, wanted: Manifest) -> None:
        metadata = wanted["metadata"]
        before = self._claims.get(metadata["namespace"], metadata["name"])
        self._claims.put_reply(await self._own.apply(wanted), before=before)

    async def _default_class_missing(self) -> InputProblem | None:
        classes = await self._client.list_all(STORAGE_CLASS)
        for each in classes:
            if (each["metadata"].get("annotations") or {}).get(DEFAULT_CLASS_ANNOTATION) == "true":
                return None
        return InputProblem(
            "NoDefaultStorageClass",
            "spec.storage.storageClassName is not set and the Kubernetes cluster has no default StorageClass, so the"
            f" volumes stay Pending; mark one as default (annotation {DEFAULT_CLASS_ANNOTATION}=true), or delete this"
            " resource and name one that `kubectl get storageclass` lists",
        )


def _not_expandable(spec: MariaDBClusterSpec, claim: Manifest, error: Rejected) -> InputProblem:
    return InputProblem(
        "VolumeNotExpandable",
        f"spec.storage.size: {spec.storage.size} is more than the {_requested(claim)} of PersistentVolumeClaim"
        f" {claim['metadata']['name']}, and it can't grow; set allowVolumeExpansion: true on StorageClass"
        f" {claim['spec'].get('storageClassName')!r} if its provisioner can expand volumes. The API server said:"
        f" {str(error)[:300]}",
    )


def _requested(claim: Manifest) -> str:
    return str(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0"))


def _differs(claim: Manifest, wanted: Manifest) -> bool:
    """Whether size or ownership is another: nothing else of a claim ever changes."""
    return _essence(claim) != _essence(wanted)


def _essence(claim: Manifest) -> object:
    metadata = claim["metadata"]
    owners = sorted(str(each.get("uid")) for each in metadata.get("ownerReferences") or [])
    return amount(_requested(claim)), owners
