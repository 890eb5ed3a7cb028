"""What is ours and what is not: objects of a cluster are read, applied and deleted through here.

An object of the same name that somebody else made is never overwritten nor deleted: it ends as InputProblem. Not for
what objects look like (resources/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mariadb_operator.api.group import FIELD_MANAGER
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.errors import NotFound
from mariadb_operator.kube.kinds import Kind, Manifest, kind_of
from mariadb_operator.kube.store import Store
from mariadb_operator.resources.labels import CLUSTER_LABEL, CLUSTER_UID_ANNOTATION, Owner, belongs_to
from mariadb_operator.runtime.errors import Permanent


class InputProblem(Permanent):
    """Something a person wrote, made, or did not make, stands in the way. The message names field, value and remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_ours(manifest: Mapping[str, Any], owner: Owner) -> bool:
    """Whether this operator made the object for a cluster of that name, also if its labels were taken off since."""
    references = manifest["metadata"].get("ownerReferences") or []
    return belongs_to(manifest, owner.name) or any(each.get("uid") == owner.uid for each in references)


def made_for(manifest: Mapping[str, Any], owner: Owner) -> bool:
    """Whether it was made for this very resource, not for an earlier one of the same name."""
    annotations = manifest["metadata"].get("annotations") or {}
    return is_ours(manifest, owner) and annotations.get(CLUSTER_UID_ANNOTATION) == owner.uid


def check_ours(manifest: Manifest, owner: Owner) -> Manifest:
    """The object, if it is ours. Raises InputProblem."""
    if not is_ours(manifest, owner):
        kind, name = manifest.get("kind"), manifest["metadata"]["name"]
        raise InputProblem(
            "ObjectNotOurs",
            f"{kind} {name} exists in namespace {owner.namespace} and was not made by this operator (it has no label"
            f" {CLUSTER_LABEL}={owner.name}); it is not touched. Delete or rename it, or give the cluster another"
            " metadata.name",
        )
    return manifest


class OwnObjects:
    """The objects of one cluster in the API server."""

    def __init__(self, client: KubeClient, owner: Owner, *, known: Mapping[Kind, Store]) -> None:
        """`known`: caches of objects that carry our label; what is in them needs no request to be told as ours."""
        self._client = client
        self._known = known
        self.owner = owner

    async def read(self, kind: Kind, name: str) -> Manifest | None:
        """Any object, ours or not; None when there is none."""
        try:
            return await self._client.get(kind, self.owner.namespace if kind.namespaced else None, name)
        except NotFound:
            return None

    async def read_ours(self, kind: Kind, name: str) -> Manifest | None:
        """An object of ours; None when there is none. Raises InputProblem for somebody else's."""
        found = await self.read(kind, name)
        return None if found is None else check_ours(found, self.owner)

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the object, or put it right if it is ours. Raises InputProblem for somebody else's."""
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        cached = self._known[kind].get(self.owner.namespace, name) if kind in self._known else None
        if cached is None or not is_ours(cached, self.owner):
            await self.read_ours(kind, name)
        applied = await self._client.apply(manifest, field_manager=FIELD_MANAGER)
        applied["metadata"].pop("managedFields", None)
        return applied

    async def delete(self, manifest: Manifest | None) -> None:
        """Delete an object that was made for this very resource, and no other."""
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            return
        if not made_for(manifest, self.owner):
            return
        metadata = manifest["metadata"]
        try:
            await self._client.delete(
                kind_of(manifest), metadata["namespace"], metadata["name"], uid=metadata["uid"]
            )
        except NotFound:
            return
