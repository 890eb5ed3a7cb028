"""The API server with deadlines, in plain JSON and in our own errors.

The operations; how one request is made is transport.py's. Not for keeping state (reflector.py) and not for what an
object should look like (resources/). Nothing is tried again here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubernetes_asyncio.client.configuration import Configuration

from mariadb_operator.kube.kinds import Kind, Manifest, kind_of
from mariadb_operator.kube.transport import (
    APPLY_PATCH,
    JSON,
    MERGE_PATCH,
    Query,
    Transport,
    load_configuration,
)
from mariadb_operator.kube.watch import WatchEvent, WatchQuery, watch_events

_STRICT = ("fieldValidation", "Strict")


class Propagation(StrEnum):
    """What happens to the objects that a deleted one owns."""

    BACKGROUND = "Background"
    FOREGROUND = "Foreground"
    ORPHAN = "Orphan"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: its objects, the version of the whole list, and where the next part begins ("" if last)."""

    items: list[Manifest]
    resource_version: str
    continue_token: str


class KubeClient:
    """Requests to one API server. Use as an async context manager, or call `close`.

    Every operation takes `deadline` (seconds, the client's default otherwise) and raises Conflict, AlreadyExists,
    NotFound, Gone, Rejected, another Transient, or, for writes whose outcome is unknown, Uncertain.
    """

    def __init__(self, configuration: Configuration, *, deadline: float = 10.0) -> None:
        """Connect to what the configuration names; must be called within a running event loop."""
        self._transport = Transport(configuration, deadline=deadline)

    @classmethod
    async def connect(
        cls, *, kubeconfig: Path | None = None, context: str | None = None, deadline: float = 10.0
    ) -> Self:
        """A client for the cluster that `load_configuration` finds."""
        return cls(await load_configuration(kubeconfig=kubeconfig, context=context), deadline=deadline)

    async def close(self) -> None:
        """Close all connections, watches included."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(
        self, kind: Kind, namespace: str | None, name: str, *, deadline: float | None = None
    ) -> Manifest:
        """The object as it is now (a consistent read, no cache)."""
        return await self._call("GET", kind, namespace=namespace, name=name, deadline=deadline)

    async def list_page(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
        continue_token: str = "",
        deadline: float | None = None,
    ) -> Page:
        """One part of a list; Gone when the token of an earlier part is too old."""
        query: Query = [("limit", str(limit))]
        query += [("continue", continue_token)] if continue_token else []
        query += _selectors(label_selector, field_selector)
        reply = await self._call("GET", kind, namespace=namespace, query=query, deadline=deadline)
        metadata = reply.get("metadata") or {}
        items: list[Manifest] = reply.get("items") or []
        for item in items:
            # The server leaves these out in lists of built-in kinds.
            item.setdefault("apiVersion", kind.api_version)
            item.setdefault("kind", kind.kind)
        return Page(
            items=items,
            resource_version=str(metadata.get("resourceVersion", "")),
            continue_token=str(metadata.get("continue") or ""),
        )

    async def list_all(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        deadline: float | None = None,
    ) -> list[Manifest]:
        """All objects that match, page after page; the deadline holds for each page."""
        items: list[Manifest] = []
        token = ""
        while True:
            page = await self.list_page(
                kind,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                continue_token=token,
                deadline=deadline,
            )
            items += page.items
            token = page.continue_token
            if not token:
                return items

    async def create(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        """Create the object; AlreadyExists when there is one of that name."""
        kind, namespace, _ = _address(manifest)
        return await self._call(
            "POST",
            kind,
            namespace=namespace,
            query=[_STRICT, ("fieldManager", field_manager)],
            body=manifest,
            deadline=deadline,
        )

    async def apply(
        self, manifest: Manifest, *, field_manager: str, force: bool = True, deadline: float | None = None
    ) -> Manifest:
        """Server-side apply: the object gets the manifest's fields, others' fields stay.

        Fields that this manager applied before and leaves out now are removed. With `force` fields are taken over
        from other managers (drift is corrected); without it theirs are a Conflict.
        """
        kind, namespace, name = _address(manifest)
        query = [_STRICT, ("fieldManager", field_manager), ("force", "true" if force else "false")]
        return await self._call(
            "PATCH",
            kind,
            namespace=namespace,
            name=name,
            query=query,
            body=manifest,
            content_type=APPLY_PATCH,
            deadline=deadline,
        )

    async def replace(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        """PUT the whole object; Conflict unless its version is still the manifest's metadata.resourceVersion.

        ValueError without a resourceVersion: an unguarded PUT overwrites what nobody has looked at.
        """
        return await self._replace(manifest, subresource="", field_manager=field_manager, deadline=deadline)

    async def replace_status(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        """PUT the object's status, the rest is ignored; guarded by metadata.resourceVersion as `replace` is."""
        return await self._replace(
            manifest, subresource="status", field_manager=field_manager, deadline=deadline
        )

    async def patch_status(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        status: Manifest,
        resource_version: str,
        field_manager: str,
        deadline: float | None = None,
    ) -> Manifest:
        """Merge into the object's status (None removes a field, a list is replaced); Conflict on another version."""
        if not resource_version:
            raise ValueError(f"a status patch of {kind.kind} {namespace}/{name} needs a resourceVersion")
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return await self.patch_merge(
            kind,
            namespace,
            name,
            patch=body,
            field_manager=field_manager,
            subresource="status",
            deadline=deadline,
        )

    async def patch_merge(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        patch: Manifest,
        field_manager: str,
        subresource: str = "",
        deadline: float | None = None,
    ) -> Manifest:
        """JSON merge patch; guarded when the patch itself holds metadata.resourceVersion."""
        return await self._call(
            "PATCH",
            kind,
            namespace=namespace,
            name=name,
            subresource=subresource,
            query=[_STRICT, ("fieldManager", field_manager)],
            body=patch,
            content_type=MERGE_PATCH,
            deadline=deadline,
        )

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_seconds: int | None = None,
        propagation: Propagation = Propagation.BACKGROUND,
        deadline: float | None = None,
    ) -> None:
        """Ask for the object's deletion; Conflict when uid or version is another, NotFound when it is gone.

        The reply means "accepted": with finalizers or a grace period the object stays for a while.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation.value}
        body["preconditions"] = {key: value for key, value in preconditions.items() if value is not None}
        if grace_period_seconds is not None:
            body["gracePeriodSeconds"] = grace_period_seconds
        await self._call("DELETE", kind, namespace=namespace, name=name, body=body, deadline=deadline)

    def watch(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        resource_version: str,
        server_seconds: int,
        silence_seconds: float,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Changes after a version, bookmarks included, as an async context manager over an async iterator.

        The server ends the stream after `server_seconds`; the client ends it 15 s later, or when nothing at all
        came for `silence_seconds`. Gone: the version is too old, list again. Transient: anything else.
        """
        query = WatchQuery(
            resource_version=resource_version,
            server_seconds=server_seconds,
            silence_seconds=silence_seconds,
            connect_seconds=self._transport.deadline,
            selectors=tuple(_selectors(label_selector, field_selector)),
        )
        return watch_events(
            self._transport.api,
            path=kind.path(namespace=namespace),
            query=query,
            request=f"watch {kind.kind}",
        )

    async def _replace(
        self, manifest: Manifest, *, subresource: str, field_manager: str, deadline: float | None
    ) -> Manifest:
        kind, namespace, name = _address(manifest)
        if not manifest["metadata"].get("resourceVersion"):
            raise ValueError(
                f"{kind.kind} {_slashed(namespace, name)} can't be replaced without its resourceVersion"
            )
        return await self._call(
            "PUT",
            kind,
            namespace=namespace,
            name=name,
            subresource=subresource,
            query=[_STRICT, ("fieldManager", field_manager)],
            body=manifest,
            deadline=deadline,
        )

    async def _call(
        self,
        method: str,
        kind: Kind,
        *,
        namespace: str | None,
        name: str | None = None,
        subresource: str = "",
        query: Query | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        deadline: float | None = None,
    ) -> Manifest:
        # A creation's path has no name; its errors shall have one.
        named = name or (body or {}).get("metadata", {}).get("name")
        return await self._transport.request(
            method,
            kind.path(namespace=namespace, name=name, subresource=subresource),
            target=" ".join(filter(None, (kind.kind, _slashed(namespace, named), subresource))),
            query=query,
            body=body,
            content_type=content_type,
            deadline=deadline,
        )


def _selectors(label_selector: str | None, field_selector: str | None) -> Query:
    pairs = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return [(key, value) for key, value in pairs if value]


def _address(manifest: Manifest) -> tuple[Kind, str | None, str]:
    metadata: dict[str, Any] = manifest["metadata"]
    return kind_of(manifest), metadata.get("namespace"), metadata["name"]


def _slashed(namespace: str | None, name: str | None) -> str:
    return "/".join(filter(None, (namespace, name)))
