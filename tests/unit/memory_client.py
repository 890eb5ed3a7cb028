"""The client of the API server without HTTP, on the same memory as fake_api.py: for tests under virtual time.

client = MemoryClient(FakeObjects())
client.fail("replace_status", Conflict("injected"))            # instead of being done
client.fail("replace_status", Uncertain("lost"), done=True)    # done, but the reply is lost
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.errors import error_of
from mariadb_operator.kube.kinds import Kind, Manifest, kind_of
from mariadb_operator.runtime.errors import OperatorError
from tests.unit.fake_objects import FakeObjects, Refused


@dataclass(slots=True)
class Failure:
    """For the next `times` calls of an operation."""

    operation: str
    error: OperatorError
    done: bool
    times: int
    kind: str


@dataclass(frozen=True, slots=True)
class Call:
    """A request, in the order in which they came."""

    operation: str
    kind: str
    name: str
    body: Manifest | None


class MemoryClient:
    """What KubeClient offers and the operator's parts use."""

    def __init__(self, objects: FakeObjects) -> None:
        self.objects = objects
        self.calls: list[Call] = []
        self._failures: list[Failure] = []

    def as_client(self) -> KubeClient:
        return cast(KubeClient, self)

    def fail(
        self, operation: str, error: OperatorError, *, done: bool = False, times: int = 1, kind: str = ""
    ) -> None:
        self._failures.append(Failure(operation, error, done, times, kind))

    def written(self, operation: str = "", kind: str = "") -> list[Call]:
        """The calls that were no reads."""
        return [
            each
            for each in self.calls
            if each.operation not in ("get", "list_all")
            and operation in ("", each.operation)
            and kind in ("", each.kind)
        ]

    async def get(
        self, kind: Kind, namespace: str | None, name: str, *, deadline: float | None = None
    ) -> Manifest:
        return await self._do("get", kind, name, None, lambda: self.objects.get(kind, namespace, name))

    async def list_all(self, kind: Kind, namespace: str | None = None, **_: Any) -> list[Manifest]:
        self.calls.append(Call("list_all", kind.kind, "", None))
        await asyncio.sleep(0)
        return copy.deepcopy(list(self.objects.of(kind).objects.values()))

    async def create(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        kind = kind_of(manifest)
        return await self._do(
            "create",
            kind,
            manifest["metadata"]["name"],
            manifest,
            lambda: self.objects.create(kind, manifest),
        )

    async def apply(
        self, manifest: Manifest, *, field_manager: str, force: bool = True, deadline: float | None = None
    ) -> Manifest:
        kind, meta = kind_of(manifest), manifest["metadata"]
        return await self._do(
            "apply",
            kind,
            meta["name"],
            manifest,
            lambda: self.objects.apply(
                kind, meta.get("namespace"), meta["name"], manifest, manager=field_manager, status=False
            ),
        )

    async def replace(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        kind = kind_of(manifest)
        return await self._do(
            "replace",
            kind,
            manifest["metadata"]["name"],
            manifest,
            lambda: self.objects.replace(kind, manifest),
        )

    async def replace_status(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        kind = kind_of(manifest)
        return await self._do(
            "replace_status",
            kind,
            manifest["metadata"]["name"],
            manifest,
            lambda: self.objects.replace(kind, manifest, status=True),
        )

    async def patch_merge(
        self, kind: Kind, namespace: str | None, name: str, *, patch: Manifest, field_manager: str, **_: Any
    ) -> Manifest:
        return await self._do(
            "patch_merge", kind, name, patch, lambda: self.objects.merge(kind, namespace, name, patch)
        )

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, uid: str | None = None, **_: Any
    ) -> None:
        wanted = {"uid": uid} if uid is not None else None
        await self._do(
            "delete",
            kind,
            name,
            None,
            lambda: self.objects.delete(kind, namespace, name, preconditions=wanted),
        )

    async def _do(
        self, operation: str, kind: Kind, name: str, body: Manifest | None, act: Callable[[], Manifest]
    ) -> Manifest:
        self.calls.append(Call(operation, kind.kind, name, copy.deepcopy(body)))
        await asyncio.sleep(0)
        failure = self._failure(operation, kind)
        if failure is not None and not failure.done:
            raise failure.error
        try:
            answer = copy.deepcopy(act())
        except Refused as refused:
            status = f'{{"kind":"Status","reason":"{refused.reason}","message":{_quoted(refused.message)}}}'
            raise error_of(
                code=refused.code,
                body=status.encode(),
                request=f"{operation} {kind.kind} {name}",
                writes=operation != "get",
            ) from None
        if failure is not None:
            raise failure.error
        return answer

    def _failure(self, operation: str, kind: Kind) -> Failure | None:
        for each in self._failures:
            if each.times > 0 and each.operation == operation and each.kind in ("", kind.kind):
                each.times -= 1
                return each
        return None


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
