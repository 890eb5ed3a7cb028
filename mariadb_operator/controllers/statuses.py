"""Writes the status of one resource, guarded by its resourceVersion, and knows which versions are its own.

A conflict or a lost reply is the caller's: it drops what it believed and observes again. Not for what the status says
(report.py) nor for its JSON form (api.status).
"""

from __future__ import annotations

import logging
from collections import deque

from mariadb_operator.api.group import FIELD_MANAGER, FINALIZER
from mariadb_operator.api.status import Observed, StatusUnreadable, from_status, to_status
from mariadb_operator.kube.client import KubeClient
from mariadb_operator.kube.kinds import MARIADB_CLUSTER, Manifest
from mariadb_operator.runtime.clock import Clock
from statemachines.record import Record
from statemachines.states import FAILING_OVER

logger = logging.getLogger(__name__)

TELEMETRY_SECONDS = 30.0  # positions and lag alone are no reason to write more often
NEWS_SECONDS = 1.0
VERSIONS_KEPT = 64


class StatusWriter:
    """The status of one resource."""

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._versions: deque[str] = deque(maxlen=VERSIONS_KEPT)
        self._view: Observed | None = None
        self._written_at = 0.0
        self._other_since: float | None = None
        self.resource: Manifest = {}

    def read(self, resource: Manifest) -> Record:
        """The record in a resource just read from the API server; garbage becomes Quarantined."""
        self.keep(resource)
        try:
            return from_status(resource.get("status"))
        except StatusUnreadable as error:
            logger.warning("%s: %s", resource["metadata"]["name"], error)
            return error.salvaged

    def keep(self, resource: Manifest) -> None:
        """This is the resource now: the next write goes on top of it."""
        self.resource = resource
        self._versions.append(resource["metadata"]["resourceVersion"])

    def is_ours(self, cached: Manifest) -> bool:
        """Whether the cache shows nothing that somebody else wrote."""
        return cached["metadata"]["resourceVersion"] in self._versions

    def forget(self) -> None:
        """The next read decides."""
        self._versions.clear()
        self._view = None

    def is_news(self, view: Observed, *, record: Record, now: float) -> bool:
        """Whether what people see has changed enough to be written for its own sake.

        Only what stays for a second: the first sign of a failover is such a change, and its pass must not wait for the
        write of a view that is over by then.
        """
        if record.state in FAILING_OVER:
            return False
        if self._view is None:
            return True
        if self._essence(view) == self._essence(self._view):
            self._other_since = None
            return view != self._view and now - self._written_at >= TELEMETRY_SECONDS
        if self._other_since is None:
            self._other_since = now
        return now - self._other_since >= NEWS_SECONDS

    @property
    def waits(self) -> bool:
        """Whether something new is to be written unless it passes: come again in a second."""
        return self._other_since is not None

    async def write(
        self, resource: Manifest, record: Record, view: Observed, *, now: float, known: bool = True
    ) -> None:
        """PUT the status on the version that was last seen. Raises Conflict, Uncertain and what the client does.

        `known` is False while not all were asked: the conditions and instances that stand are not replaced by guesses.
        """
        base = self.resource or resource
        status = to_status(record, view, previous=base.get("status"), now=self._clock.wall().timestamp())
        if not known:
            before = base.get("status") or {}
            status |= {name: before[name] for name in ("conditions", "instances") if name in before}
        await self._put(base, status)
        self._view, self._written_at, self._other_since = view, now, None

    async def take_over(self, resource: Manifest, record: Record) -> Manifest:
        """Write only the operation's attempts: from now on it is this leader's."""
        status = dict(resource.get("status") or {})
        operation = dict(status.get("operation") or {})
        assert record.operation is not None
        operation["attempts"] = record.operation.attempts
        status["operation"] = operation
        await self._put(resource, status)
        return self.resource

    async def add_finalizer(self, resource: Manifest) -> Manifest:
        """Keep the resource until what it made is taken care of."""
        metadata = resource["metadata"]
        finalizers = [*(metadata.get("finalizers") or []), FINALIZER]
        written = await self._client.patch_merge(
            MARIADB_CLUSTER,
            metadata["namespace"],
            metadata["name"],
            patch={"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}},
            field_manager=FIELD_MANAGER,
        )
        self.keep(written)
        return written

    async def _put(self, base: Manifest, status: Manifest) -> None:
        metadata = {key: value for key, value in base["metadata"].items() if key != "managedFields"}
        manifest = {
            "apiVersion": base["apiVersion"],
            "kind": base["kind"],
            "metadata": metadata,
            "spec": base["spec"],
            "status": status,
        }
        self.keep(await self._client.replace_status(manifest, field_manager=f"{FIELD_MANAGER}-status"))

    @staticmethod
    def _essence(view: Observed) -> object:
        return (
            view.observed_generation,
            view.image,
            view.wanted,
            tuple((each.type, each.holds, each.reason) for each in view.conditions),
            tuple((each.name, each.role, each.ready, each.node, each.message) for each in view.instances),
        )
