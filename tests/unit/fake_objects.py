"""The memory of the fake API server: objects, versions, history, and what writes do to them.

Simplified where nothing of ours looks: no admission, no defaults, no schemas. Not a server: fake_api.py is.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mariadb_operator.kube.kinds import KINDS, Kind, Manifest

STATUS_KINDS = frozenset(
    {"Pod", "Service", "Node", "PersistentVolumeClaim", "PodDisruptionBudget", "MariaDBCluster"}
)
Key = tuple[str, str]


class Refused(Exception):
    """An answer that is not a success, as the API server words it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of a collection's history."""

    version: int
    type: str
    object: Manifest


@dataclass(slots=True)
class Collection:
    """All objects of one kind."""

    kind: Kind
    objects: dict[Key, Manifest] = field(default_factory=dict)
    history: list[Entry] = field(default_factory=list)
    oldest: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeObjects:
    """What etcd and the registry are to the real one. Use its methods in tests to act as somebody else."""

    def __init__(self, *, now: Callable[[], str] = lambda: "2026-11-23T12:00:00Z") -> None:
        self._now = now
        self._versions = itertools.count(1001)
        self.version = 1000
        self.collections = {(kind.group, kind.version, kind.plural): Collection(kind) for kind in KINDS}
        self._applied: dict[tuple[str, Key, str], Manifest] = {}

    def of(self, kind: Kind) -> Collection:
        return self.collections[kind.group, kind.version, kind.plural]

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        try:
            return self.of(kind).objects[namespace or "", name]
        except KeyError:
            raise Refused(404, "NotFound", f'{kind.plural} "{name}" not found') from None

    def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        created = copy.deepcopy(manifest)
        metadata = created["metadata"]
        key = (metadata.get("namespace") or "", metadata["name"])
        if key in self.of(kind).objects:
            raise Refused(409, "AlreadyExists", f'{kind.plural} "{key[1]}" already exists')
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self._now(), "generation": 1}
        if kind.kind in STATUS_KINDS:
            created.pop("status", None)
        return self._write(kind, key, created, "ADDED")

    def replace(self, kind: Kind, manifest: Manifest, *, status: bool = False) -> Manifest:
        metadata = manifest["metadata"]
        current = self.get(kind, metadata.get("namespace"), metadata["name"])
        self._guard(kind, current, metadata.get("resourceVersion"))
        return self.update(kind, current, manifest, status=status)

    def merge(
        self, kind: Kind, namespace: str | None, name: str, patch: Manifest, *, status: bool = False
    ) -> Manifest:
        current = self.get(kind, namespace, name)
        self._guard(kind, current, (patch.get("metadata") or {}).get("resourceVersion"))
        return self.update(kind, current, merged(current, patch), status=status)

    def apply(
        self, kind: Kind, namespace: str | None, name: str, manifest: Manifest, *, manager: str, status: bool
    ) -> Manifest:
        """Fields of the manifest win, those the manager applied before and left out now go, lists are replaced."""
        key = (namespace or "", name)
        slot = (f"{kind.plural}{'/status' if status else ''}", key, manager)
        before = self._applied.get(slot, {})
        self._applied[slot] = copy.deepcopy(manifest)
        if key not in self.of(kind).objects:
            return self.create(kind, manifest)
        current = self.get(kind, namespace, name)
        self._guard(kind, current, manifest["metadata"].get("resourceVersion"))
        return self.update(
            kind, current, merged(current, merged(_dropped(before, manifest), manifest)), status=status
        )

    def delete(
        self, kind: Kind, namespace: str | None, name: str, *, preconditions: Manifest | None = None
    ) -> Manifest:
        current = self.get(kind, namespace, name)
        for field_name, wanted in (preconditions or {}).items():
            actual = current["metadata"].get(field_name)
            if actual != wanted:
                raise Refused(
                    409, "Conflict", f"the {field_name} in the precondition ({wanted}) is not {actual}"
                )
        if current["metadata"].get("finalizers"):
            marked = copy.deepcopy(current)
            marked["metadata"].setdefault("deletionTimestamp", self._now())
            return self._write(kind, _key(current), marked, "MODIFIED")
        return self._remove(kind, current)

    def compact(self, kind: Kind) -> None:
        """Forget the history: older versions get 410 from now on."""
        collection = self.of(kind)
        self.version = collection.oldest = next(self._versions)
        collection.history.clear()

    def update(self, kind: Kind, current: Manifest, updated: Manifest, *, status: bool) -> Manifest:
        updated = copy.deepcopy(updated)
        if kind.kind in STATUS_KINDS:
            if status:
                updated = {**copy.deepcopy(current), "status": updated.get("status")}
            else:
                updated.pop("status", None)
                updated |= {"status": current["status"]} if "status" in current else {}
        kept = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "resourceVersion")
        updated["metadata"] |= {
            name: current["metadata"][name] for name in kept if name in current["metadata"]
        }
        if updated == current:
            return current
        if updated.get("spec") != current.get("spec"):
            updated["metadata"]["generation"] = current["metadata"]["generation"] + 1
        if updated["metadata"].get("deletionTimestamp") and not updated["metadata"].get("finalizers"):
            return self._remove(kind, updated)
        return self._write(kind, _key(current), updated, "MODIFIED")

    def _guard(self, kind: Kind, current: Manifest, wanted: str | None) -> None:
        if wanted is not None and wanted != current["metadata"]["resourceVersion"]:
            name = current["metadata"]["name"]
            raise Refused(
                409, "Conflict", f'Operation cannot be fulfilled on {kind.plural} "{name}": it was modified'
            )

    def _remove(self, kind: Kind, current: Manifest) -> Manifest:
        gone = self._write(kind, _key(current), copy.deepcopy(current), "DELETED")
        uid = current["metadata"]["uid"]
        for collection in self.collections.values():
            for owned in list(collection.objects.values()):
                owners = owned["metadata"].get("ownerReferences") or ()
                if any(owner["uid"] == uid for owner in owners):
                    self.delete(collection.kind, *_key(owned))
        for slot in [
            slot for slot in self._applied if slot[0].startswith(kind.plural) and slot[1] == _key(current)
        ]:
            del self._applied[slot]
        return gone

    def _write(self, kind: Kind, key: Key, manifest: Manifest, change: str) -> Manifest:
        self.version = next(self._versions)
        manifest["metadata"]["resourceVersion"] = str(self.version)
        manifest["apiVersion"], manifest["kind"] = kind.api_version, kind.kind
        collection = self.of(kind)
        if change == "DELETED":
            collection.objects.pop(key, None)
        else:
            collection.objects[key] = manifest
        collection.history.append(Entry(self.version, change, copy.deepcopy(manifest)))
        collection.changed.set()
        collection.changed = asyncio.Event()
        return manifest


def merged(current: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(current) if isinstance(current, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def matches(manifest: Manifest, *, label_selector: str, field_selector: str) -> bool:
    """Equality, `in`-less: `a=b`, `a!=b`, `a`, and metadata.name / metadata.namespace for fields."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    fields = {"metadata.name": metadata["name"], "metadata.namespace": metadata.get("namespace", "")}
    return all(
        _holds(term, values)
        for selector, values in ((label_selector, labels), (field_selector, fields))
        for term in filter(None, selector.split(","))
    )


def _holds(term: str, values: dict[str, str]) -> bool:
    if "!=" in term:
        name, value = term.split("!=")
        return values.get(name) != value
    if "=" in term:
        name, value = term.replace("==", "=").split("=")
        return values.get(name) == value
    return term in values


def _dropped(before: Manifest, now: Manifest) -> Manifest:
    """A merge patch that removes what was applied before and is left out now."""
    patch: Manifest = {}
    for name, value in before.items():
        if name not in now:
            patch[name] = None
        elif isinstance(value, dict) and isinstance(now[name], dict):
            patch[name] = _dropped(value, now[name])
    return patch


def _key(manifest: Manifest) -> Key:
    return manifest["metadata"].get("namespace") or "", manifest["metadata"]["name"]
