"""Kubernetes Events that exist exactly once, for people who run `kubectl describe`.

The caller gives the name, so that writing twice is the same as writing once. Not an audit: Events expire after an
hour; the history in status does not.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from mariadb_operator.kube.errors import AlreadyExists, Rejected
from mariadb_operator.kube.kinds import EVENT, Manifest
from mariadb_operator.runtime.backoff import Backoff
from mariadb_operator.runtime.clock import Clock
from mariadb_operator.runtime.errors import OperatorError, Transient

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 1024
ATTEMPTS = 4
ATTEMPT_SECONDS = 5.0


class EventType(StrEnum):
    """The only two types there are."""

    NORMAL = "Normal"
    WARNING = "Warning"


class EventNotWritten(Transient):
    """The Event is not there, or not for certain. Nobody's work depends on it; record it again with the same name."""


@dataclass(frozen=True, slots=True)
class Involved:
    """The object an Event is about; `kubectl describe` finds Events by the uid."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The object that the manifest, as read from the API server, is."""
        metadata = manifest["metadata"]
        return cls(
            api_version=manifest["apiVersion"],
            kind=manifest["kind"],
            namespace=metadata.get("namespace") or "",
            name=metadata["name"],
            uid=metadata["uid"],
        )


class Creates(Protocol):
    """What recording needs of the client."""

    async def create(
        self, manifest: Manifest, *, field_manager: str, deadline: float | None = None
    ) -> Manifest:
        """Create an object."""
        ...


async def record(
    client: Creates,
    *,
    involved: Involved,
    name: str,
    reason: str,
    message: str,
    clock: Clock,
    rng: random.Random,
    type: EventType = EventType.NORMAL,  # noqa: A002 - the field's name
    component: str = "mariadb-operator",
    instance: str = "",
) -> bool:
    """Write the Event of that name unless it exists; True if it is new.

    Tries four times within about 25 s, then raises EventNotWritten, the only error: catch it, go on, and record
    again later. `instance` names the reporting process (its Pod). The message is cut to 1024 bytes.
    """
    manifest = _manifest(
        involved=involved, name=name, reason=reason, message=message, event_type=type, clock=clock
    )
    manifest |= {
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": instance,
    }
    backoff = Backoff(base=0.2, limit=2.0, rng=rng)
    while True:
        try:
            await client.create(manifest, field_manager=component, deadline=ATTEMPT_SECONDS)
        except AlreadyExists:
            return False
        except OperatorError as error:
            if isinstance(error, Rejected) or backoff.failures + 1 >= ATTEMPTS:
                logger.warning("event %s (%s) was not written: %s", name, reason, error)
                raise EventNotWritten(f"event {name}: {error}") from error
            await clock.sleep(backoff.next())
        else:
            return True


def _manifest(
    *,
    involved: Involved,
    name: str,
    reason: str,
    message: str,
    event_type: EventType,
    clock: Clock,
) -> Manifest:
    # Events about objects without a namespace live in "default": the API server insists.
    namespace = involved.namespace or "default"
    now = clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": involved.api_version,
            "kind": involved.kind,
            "name": involved.name,
            "uid": involved.uid,
            **({"namespace": involved.namespace} if involved.namespace else {}),
        },
        "reason": reason,
        "message": shortened(message, limit=MESSAGE_BYTES),
        "type": event_type.value,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def shortened(text: str, *, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8; an ellipsis says that something is missing."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    ellipsis = "…"
    return encoded[: limit - len(ellipsis.encode())].decode("utf-8", "ignore") + ellipsis
