"""Keeps a store equal to what the API server has of one kind, and says what changed.

List, replace the store, watch from there; list again when the version is too old. Never gives up: everything the
server may answer only costs a pause. Not for decisions: `on_change` is to queue a key, no more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol

from mariadb_operator.kube.client import Page
from mariadb_operator.kube.errors import Gone
from mariadb_operator.kube.kinds import Kind, Manifest
from mariadb_operator.kube.store import Change, Store
from mariadb_operator.kube.watch import WatchEvent, WatchType
from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError, Permanent

logger = logging.getLogger(__name__)

PAGE_LIMIT = 500
SERVER_SECONDS = (240, 480)
"""Bounds of the random time after which the server is asked to end a watch, so that watches spread."""
SILENCE_SECONDS = 150.0
"""Bookmarks come about once a minute: after two missed ones the connection counts as dead."""
STEADY_SECONDS = 10.0
"""A watch that lived this long was no part of a storm: the back-off starts small again."""


class ListWatch(Protocol):
    """What a reflector needs of the client."""

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
        """One part of a list."""
        ...

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
        """Changes after a version."""
        ...


class Reflector:
    """One kind, all namespaces or one, kept in `store`. Run `run()` as an owned task.

    Attributes:
        store: what was last seen. The dicts are shared, read only, and lack metadata.managedFields.
        synced: set once the first list is in the store.
        last_contact: when the server last said anything, in the clock's monotonic seconds; None before.
        last_error: why the latest try ended; None while all is well.
    """

    def __init__(
        self,
        client: ListWatch,
        kind: Kind,
        *,
        on_change: Callable[[Change], None],
        clock: Clock,
        rng: random.Random,
        namespace: str | None = None,
        label_selector: str | None = None,
        base_delay: float = 0.2,
        max_delay: float = 10.0,
    ) -> None:
        """`base_delay` and `max_delay` (seconds) bound the pause between two tries."""
        self.store = Store(kind)
        self.synced = asyncio.Event()
        self.last_contact: float | None = None
        self.last_error: OperatorError | None = None
        self._client = client
        self._kind = kind
        self._on_change = on_change
        self._clock = clock
        self._rng = rng
        self._namespace = namespace
        self._label_selector = label_selector
        self._backoff = Backoff(base=base_delay, limit=max_delay, rng=rng)
        self._resource_version: str | None = None

    @property
    def kind(self) -> Kind:
        """What is reflected."""
        return self._kind

    async def run(self) -> NoReturn:
        """List and watch until cancelled. Only an error of `on_change` itself ends it otherwise."""
        while True:
            started = self._clock.monotonic()
            try:
                if self._resource_version is None:
                    self._resource_version = await self._list()
                await self._watch(self._resource_version)
            except Gone as error:
                logger.info("%s: listing again: %s", self._kind.plural, error)
                self._resource_version = None
            except OperatorError as error:
                self.last_error = error
                level = logging.ERROR if isinstance(error, Permanent) else logging.WARNING
                logger.log(level, "%s: %s", self._kind.plural, error)
            if self._clock.monotonic() - started >= STEADY_SECONDS:
                self._backoff.reset()
            # Also after a stream that ended properly: a server that closes at once is not to be hammered.
            await self._clock.sleep(self._backoff.next())

    async def _list(self) -> str:
        items: list[Manifest] = []
        token = ""
        while True:
            page = await self._client.list_page(
                self._kind,
                self._namespace,
                label_selector=self._label_selector,
                limit=PAGE_LIMIT,
                continue_token=token,
            )
            self._heard()
            items += (_slim(item) for item in page.items)
            token = page.continue_token
            if not token:
                break
        self._emit(self.store.replace(items))
        self.synced.set()
        return page.resource_version

    async def _watch(self, resource_version: str) -> None:
        stream = self._client.watch(
            self._kind,
            self._namespace,
            resource_version=resource_version,
            server_seconds=self._rng.randint(*SERVER_SECONDS),
            silence_seconds=SILENCE_SECONDS,
            label_selector=self._label_selector,
        )
        async with stream as events:
            self._heard()
            async for event in events:
                self._heard()
                self._resource_version = event.resource_version
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        if event.type is WatchType.DELETED:
            self._emit(self.store.remove(_slim(event.object)))
        elif event.type is not WatchType.BOOKMARK:
            self._emit(self.store.put(_slim(event.object)))

    def _emit(self, changes: list[Change]) -> None:
        for change in changes:
            self._on_change(change)

    def _heard(self) -> None:
        self.last_contact = self._clock.monotonic()
        self.last_error = None


def _slim(manifest: Manifest) -> Manifest:
    """Drop the bookkeeping of field ownership, often half of an object's size."""
    manifest["metadata"].pop("managedFields", None)
    return manifest
