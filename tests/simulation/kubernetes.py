"""The API server: objects with versions, guarded writes, watch streams that lag; and its client with what can go wrong.

An object is never changed in place: each write makes another, so that nobody needs a copy. Not for kubelets
(kubelets.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.errors import AlreadyExists, Conflict, NotFound
from mariadb_operator.kube.kinds import MARIADB_CLUSTER, Kind, Manifest, kind_of
from mariadb_operator.runtime.errors import OperatorError, Transient, Uncertain
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.network import Network

HOST = "api"
DEADLINE_SECONDS = 10.0
STATUS_KINDS = frozenset({"Pod", "Node", "PersistentVolumeClaim", "MariaDBCluster"})

T = TypeVar("T")
Key = tuple[str, str, str]
Watcher = Callable[[Kind, str, Manifest], None]


class Objects:
    """What etcd holds. `watchers` hear of every change in order; when they hear is theirs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._objects: dict[Key, Manifest] = {}
        self._version = 1000
        self.watchers: list[Watcher] = []
        self.status_watchers: list[Callable[[Manifest, Manifest], None]] = []  # before, after
        self.watched = ""  # the cluster whose status they hear of

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        try:
            return self._objects[kind.kind, namespace or "", name]
        except KeyError:
            raise NotFound(f"{kind.kind} {name}") from None

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        return self._objects.get((kind.kind, namespace or "", name))

    def of(self, kind: Kind) -> list[Manifest]:
        return [each for key, each in self._objects.items() if key[0] == kind.kind]

    def create(self, manifest: Manifest) -> Manifest:
        key = _key(manifest)
        if key in self._objects:
            raise AlreadyExists(f"{key[0]} {key[2]} is there")
        uid = f"{self._rng.getrandbits(64):016x}-{key[2]}"
        metadata = {**manifest["metadata"], "uid": uid, "generation": 1}
        created = {**manifest, "metadata": metadata}
        if key[0] in STATUS_KINDS:
            created.pop("status", None)
        return self._write(key, created, "ADDED")

    def replace(self, manifest: Manifest, *, status: bool = False) -> Manifest:
        key = _key(manifest)
        current = self._current(key)
        self._guard(current, manifest["metadata"].get("resourceVersion"))
        if status:
            after = {**current, "status": manifest.get("status")}
        else:
            after = {**manifest, "metadata": {**manifest["metadata"], **_kept(current)}}
            if "status" in current and key[0] in STATUS_KINDS:
                after["status"] = current["status"]
        return self._write(key, after, "MODIFIED")

    def merge(self, kind: Kind, name: str, patch: Manifest, namespace: str | None = None) -> Manifest:
        """RFC 7386, on everything; the status only when it is somebody else's business than the operator's."""
        key = (kind.kind, namespace or "", name)
        current = self._current(key)
        metadata = patch.get("metadata") or {}
        self._guard(current, metadata.get("resourceVersion"))
        if metadata.get("uid") not in (None, current["metadata"]["uid"]):
            raise Conflict(f"{kind.kind} {name} is another one")
        after = merged(current, patch)
        after["metadata"] = {**after["metadata"], **_kept(current)}
        if patch.get("spec") and kind is MARIADB_CLUSTER:
            after["metadata"]["generation"] = current["metadata"]["generation"] + 1
        return self._write(key, after, "MODIFIED")

    def delete(self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None) -> None:
        key = (kind.kind, namespace or "", name)
        current = self._current(key)
        if uid is not None and uid != current["metadata"]["uid"]:
            raise Conflict(f"{kind.kind} {name} is another one")
        del self._objects[key]
        self._told("DELETED", current)

    def _current(self, key: Key) -> Manifest:
        if key not in self._objects:
            raise NotFound(f"{key[0]} {key[2]}")
        return self._objects[key]

    @staticmethod
    def _guard(current: Manifest, version: str | None) -> None:
        if version is not None and version != current["metadata"]["resourceVersion"]:
            raise Conflict(f"{current['kind']} {current['metadata']['name']} was modified")

    def _write(self, key: Key, manifest: Manifest, change: str) -> Manifest:
        self._version += 1
        manifest["metadata"] = {**manifest["metadata"], "resourceVersion": str(self._version)}
        before = self._objects.get(key, {})
        self._objects[key] = manifest
        if (
            key[2] == self.watched
            and key[0] == MARIADB_CLUSTER.kind
            and before.get("status") != manifest.get("status")
        ):
            for hears in self.status_watchers:
                hears(before.get("status") or {}, manifest["status"])
        self._told(change, manifest)
        return manifest

    def _told(self, change: str, manifest: Manifest) -> None:
        kind = kind_of(manifest)
        for watcher in self.watchers:
            watcher(kind, change, manifest)


def _key(manifest: Manifest) -> Key:
    return manifest["kind"], manifest["metadata"].get("namespace") or "", manifest["metadata"]["name"]


def _kept(current: Manifest) -> Manifest:
    names = ("uid", "generation", "deletionTimestamp")
    return {name: current["metadata"][name] for name in names if name in current["metadata"]}


def merged(current: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(current) if isinstance(current, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class Weather:
    """What is the matter with the API server: each an odd between 0 and 1, and whether it is up."""

    def __init__(self) -> None:
        self.up = True
        self.lost_replies = 0.0
        self.errors = 0.0
        self.conflicts = 0.0
        self.slowness = 0.0  # seconds a request takes on top

    @property
    def fine(self) -> bool:
        return self.up and not (self.lost_replies or self.errors or self.conflicts or self.slowness)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


class Client:
    """What KubeClient offers and the operator's parts use, for one process."""

    def __init__(
        self,
        objects: Objects,
        *,
        process: Process,
        loop: SimulatedLoop,
        network: Network,
        weather: Weather,
        rng: random.Random,
    ) -> None:
        self._objects = objects
        self._process = process
        self._loop = loop
        self._network = network
        self._weather = weather
        self._rng = rng
        self.before_status: Callable[[], None] | None = (
            None  # the process dies before, or after, its next one
        )
        self.after_status: Callable[[], None] | None = None

    def as_client(self) -> KubeClient:
        return cast(KubeClient, self)

    async def get(
        self, kind: Kind, namespace: str | None, name: str, *, deadline: float | None = None
    ) -> Manifest:
        return await self._do(
            lambda: self._objects.get(kind, name, namespace), writes=False, deadline=deadline
        )

    async def create(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        return await self._do(lambda: self._objects.create(manifest), deadline=deadline)

    async def apply(
        self, manifest: Manifest, *, field_manager: str, force: bool = True, deadline: float | None = None
    ) -> Manifest:
        def act() -> Manifest:
            kind, metadata = kind_of(manifest), manifest["metadata"]
            if self._objects.find(kind, metadata["name"], metadata.get("namespace")) is None:
                return self._objects.create(manifest)
            return self._objects.merge(kind, metadata["name"], manifest, metadata.get("namespace"))

        return await self._do(act, deadline=deadline)

    async def replace(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        return await self._do(lambda: self._objects.replace(manifest), deadline=deadline)

    async def replace_status(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        if self.before_status is not None:
            self.before_status()
            await asyncio.sleep(0)  # its process is dead
        after, self.after_status = self.after_status, None

        def act() -> Manifest:
            written = self._objects.replace(manifest, status=True)
            if after is not None:
                after()
            return written

        return await self._do(act, deadline=deadline)

    async def patch_merge(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        patch: Manifest,
        field_manager: str,
        deadline: float | None = None,
    ) -> Manifest:
        return await self._do(lambda: self._objects.merge(kind, name, patch, namespace), deadline=deadline)

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace_period_seconds: int | None = None,
        deadline: float | None = None,
    ) -> None:
        if kind.kind != "Pod":
            await self._do(lambda: self._objects.delete(kind, name, namespace, uid=uid), deadline=deadline)
            return

        def act() -> Manifest:
            found = self._objects.get(kind, name, namespace)
            if uid is not None and found["metadata"]["uid"] != uid:
                raise Conflict(f"Pod {name} is another one")
            grace = 300 if grace_period_seconds is None else grace_period_seconds
            return mark_deleted(self._objects, found, grace=grace)

        await self._do(act, deadline=deadline)

    async def _do(self, act: Callable[[], T], *, writes: bool = True, deadline: float | None = None) -> T:
        """A request and its reply; either may be lost."""
        weather, rng, host = self._weather, self._rng, self._process.host
        if not weather.up:
            await asyncio.sleep(self._network.delay())
            raise Transient("no connection to the API server")
        reply: asyncio.Future[T] = self._loop.create_future()
        seconds = DEADLINE_SECONDS if deadline is None else deadline
        self._network.send(host, HOST, self._arrive, act, reply, rng.random(), writes)
        try:
            async with asyncio.timeout(seconds):
                return await reply
        except TimeoutError as error:
            lost: type[OperatorError] = Uncertain if writes else Transient
            raise lost(f"no reply within {seconds:.1f} s") from error

    def _arrive(self, act: Callable[[], Any], reply: asyncio.Future[Any], luck: float, writes: bool) -> None:
        weather = self._weather
        if not weather.up:
            return
        if weather.slowness and luck >= 0:
            delay = weather.slowness * self._rng.uniform(0.2, 1.5)
            self._loop.in_world(delay, self._arrive, act, reply, -luck, writes)
            return
        luck = abs(luck)
        answer = partial(self._network.send, HOST, self._process.host, _settle, reply)
        if luck < weather.errors:
            answer(Transient("429 Too Many Requests"))
            return
        if writes and luck < weather.errors + weather.conflicts:
            answer(Conflict("409: somebody was faster"))
            return
        try:
            outcome: object = act()
        except OperatorError as error:
            outcome = error
        if writes and luck > 1.0 - weather.lost_replies:
            if luck > 1.0 - weather.lost_replies / 2:
                answer(Uncertain("500: etcdserver: request timed out"))
            return
        answer(outcome)


def mark_deleted(objects: Objects, pod: Manifest, *, grace: int) -> Manifest:
    """Deletion is asked for; with no grace the object is gone at once, whatever becomes of the processes."""
    metadata = pod["metadata"]
    kind = kind_of(pod)
    if grace == 0:
        objects.delete(kind, metadata["name"], metadata.get("namespace"))
        return pod
    key = _key(pod)
    before = metadata.get("deletionGracePeriodSeconds", grace)
    marks = {
        "deletionTimestamp": metadata.get("deletionTimestamp") or "2026-11-23T12:00:00Z",
        "deletionGracePeriodSeconds": min(grace, before),
    }
    return objects._write(key, {**pod, "metadata": {**metadata, **marks}}, "MODIFIED")


def _settle(reply: asyncio.Future[Any], outcome: object) -> None:
    if reply.done():
        return
    if isinstance(outcome, Exception):
        reply.set_exception(outcome)
    else:
        reply.set_result(outcome)
