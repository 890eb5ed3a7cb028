"""Conditions: questions about a cluster with their answers, and since when the answer stands.

All are positive: True is what one hopes for. Not for finding the answers (controllers do, from the record and facts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mariadb_operator.api.status_model import ConditionStatus
from mariadb_operator.api.text import clip, instant

REASON_BYTES = 128
MESSAGE_BYTES = 1024


class ConditionType(StrEnum):
    """The questions."""

    READY = "Ready"  # clients can write
    PROGRESSING = "Progressing"  # what is missing is being worked on
    REPLICATION_HEALTHY = "ReplicationHealthy"  # every instance follows and acknowledges as asked
    FAILOVER_ALLOWED = (
        "FailoverAllowed"  # a dead primary would be replaced; else the reason is the guard that blocks
    )
    UP_TO_DATE = "UpToDate"  # every instance runs what the spec asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One answer, found just now. `holds` is None when it can't be told."""

    type: ConditionType
    holds: bool | None
    reason: str
    message: str

    @property
    def status(self) -> ConditionStatus:
        """The answer as the API writes it."""
        if self.holds is None:
            return ConditionStatus.UNKNOWN
        return ConditionStatus.TRUE if self.holds else ConditionStatus.FALSE


def merged(
    answers: Iterable[Condition], *, previous: object, generation: int, now: float
) -> list[dict[str, Any]]:
    """The conditions to write: an unchanged answer keeps its time; `previous` may be anything a person wrote."""
    before = _by_type(previous)
    return [_one(each, before.get(each.type), generation=generation, now=now) for each in answers]


def _one(
    answer: Condition, before: Mapping[str, Any] | None, *, generation: int, now: float
) -> dict[str, Any]:
    since = instant(now, timespec="seconds")
    if before is not None and before.get("status") == answer.status:
        known = before.get("lastTransitionTime")
        since = known if isinstance(known, str) else since
    return {
        "type": str(answer.type),
        "status": str(answer.status),
        "reason": clip(answer.reason, REASON_BYTES),
        "message": clip(answer.message, MESSAGE_BYTES),
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def _by_type(previous: object) -> dict[str, Mapping[str, Any]]:
    if not isinstance(previous, list):
        return {}
    readable = (each for each in previous if isinstance(each, Mapping))
    return {each["type"]: each for each in readable if isinstance(each.get("type"), str)}
