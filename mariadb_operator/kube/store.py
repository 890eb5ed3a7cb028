"""What a reflector last saw, by name and by cluster.

Plain data without I/O. A cache: good for deciding whom to look at, never for deciding what was written last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from mariadb_operator.kube.kinds import Kind, Manifest

CLUSTER_LABEL = "mariadb.fsm.dev/cluster"
"""The label by which a store finds the objects of one cluster."""

Key = tuple[str, str]
"""Namespace ("" for kinds that have none) and name."""


class ChangeType(StrEnum):
    """What happened to an object, as far as it was seen."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the store. The dicts belong to the store: read only."""

    type: ChangeType
    kind: Kind
    object: Manifest
    """The state after the change; the last one known for a deletion."""
    previous: Manifest | None = None
    synthetic: bool = False
    """A deletion that was concluded from a list: the object's last state may never have been seen."""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return key_of(self.object)

    @property
    def cluster(self) -> str | None:
        """The name in the cluster label, if there is one."""
        return cluster_of(self.object)


class Store:
    """The objects of one kind. Replaced by stream order only: a resource version is compared for equality alone."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._objects: dict[Key, Manifest] = {}
        self._clusters: dict[Key, dict[Key, None]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Manifest]:
        return iter(tuple(self._objects.values()))

    def get(self, namespace: str | None, name: str) -> Manifest | None:
        """The object, or None; read only."""
        return self._objects.get((namespace or "", name))

    def by_cluster(self, namespace: str, cluster: str) -> list[Manifest]:
        """The objects in that namespace that carry the cluster's label, in the order in which they appeared."""
        return [self._objects[key] for key in self._clusters.get((namespace, cluster), ())]

    def put(self, manifest: Manifest) -> list[Change]:
        """The object is now this; no change when it is the same version of the same object.

        A deletion and a new object when the name was reused (another uid) without a deletion having been seen.
        """
        key = key_of(manifest)
        previous = self._objects.get(key)
        if previous is None:
            self._insert(key, manifest)
            return [Change(ChangeType.ADDED, self._kind, manifest)]
        if _identity(previous) == _identity(manifest):
            return []
        if _uid(previous) != _uid(manifest):
            return self.remove(previous, synthetic=True) + self.put(manifest)
        self._unindex(key, previous)
        self._insert(key, manifest)
        return [Change(ChangeType.MODIFIED, self._kind, manifest, previous)]

    def put_reply(self, manifest: Manifest, *, before: Manifest | None) -> list[Change]:
        """What a request of ours was answered, unless the stream has told of this object since the request.

        `before`: what was here then. The stream may have told of a later state already, and it tells of ours in any case.
        """
        now = self._objects.get(key_of(manifest))
        if now is not before and now is not None:
            return []
        return self.put(manifest)

    def remove(self, manifest: Manifest, *, synthetic: bool = False) -> list[Change]:
        """The object is gone, its last state is the one given; no change when it was not here."""
        key = key_of(manifest)
        previous = self._objects.get(key)
        if previous is None or _uid(previous) != _uid(manifest):
            return []
        del self._objects[key]
        self._unindex(key, previous)
        return [Change(ChangeType.DELETED, self._kind, manifest, previous, synthetic)]

    def replace(self, manifests: Iterable[Manifest]) -> list[Change]:
        """These are all objects there are; what is not among them was deleted while nobody watched."""
        listed = {key_of(manifest): manifest for manifest in manifests}
        vanished = [known for key, known in self._objects.items() if key not in listed]
        changes = [change for known in vanished for change in self.remove(known, synthetic=True)]
        for manifest in listed.values():
            changes += self.put(manifest)
        return changes

    def _insert(self, key: Key, manifest: Manifest) -> None:
        self._objects[key] = manifest
        cluster = cluster_of(manifest)
        if cluster is not None:
            self._clusters.setdefault((key[0], cluster), {})[key] = None

    def _unindex(self, key: Key, manifest: Manifest) -> None:
        cluster = cluster_of(manifest)
        if cluster is None:
            return
        members = self._clusters[(key[0], cluster)]
        del members[key]
        if not members:
            del self._clusters[(key[0], cluster)]


def key_of(manifest: Manifest) -> Key:
    """Namespace ("" if none) and name of an object."""
    metadata = manifest["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def cluster_of(manifest: Manifest) -> str | None:
    """The cluster that an object is labelled with."""
    labels = manifest["metadata"].get("labels") or {}
    value = labels.get(CLUSTER_LABEL)
    return None if value is None else str(value)


def _uid(manifest: Manifest) -> object:
    return manifest["metadata"].get("uid")


def _identity(manifest: Manifest) -> tuple[object, object]:
    return _uid(manifest), manifest["metadata"].get("resourceVersion")
