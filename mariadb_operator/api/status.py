"""From the record of the state machine, and what is observed, to the status of the resource: at most 64 KiB.

The way back is `from_status`, offered here, written in status_reading.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mariadb_operator.api.conditions import Condition, merged
from mariadb_operator.api.status_model import (
    EVIDENCE_BYTES,
    GUARD_LIMIT,
    HISTORY_LIMIT,
    INSTANCE_GTID_BYTES,
    INSTANCE_LIMIT,
    MESSAGE_BYTES,
    WORD_BYTES,
    Role,
)
from mariadb_operator.api.status_reading import StatusUnreadable, from_status
from mariadb_operator.api.text import clip, instant, size
from statemachines.record import Durability, HistoryEntry, Member, Operation, Record

__all__ = ["InstanceStatus", "Observed", "StatusUnreadable", "from_status", "lag_text", "to_status"]

STATUS_BYTES = 64 * 1024
HISTORY_ENTRY_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    """One instance as status shows it."""

    name: str
    ordinal: int
    role: Role
    ready: bool
    gtid: str = ""
    lag: str = ""
    node: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What status shows beside the record; nothing is ever read back from it."""

    observed_generation: int
    image: str
    wanted: int  # spec.replicas
    replicas: int  # instances that exist
    selector: str
    instances: tuple[InstanceStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()
    version: str = ""
    lag: str = ""

    @property
    def ready_instances(self) -> str:
        """The READY column."""
        return f"{sum(each.ready for each in self.instances)}/{self.wanted}"


def lag_text(seconds: float | None) -> str:
    """Seconds behind the primary as the LAG column shows them; empty when unknown."""
    return "" if seconds is None else f"{seconds:.0f}s"


def to_status(record: Record, observed: Observed, *, previous: object, now: float) -> dict[str, Any]:
    """The status to write. `previous` is the stored one (for the conditions' times), `now` wall-clock seconds."""
    before = previous.get("conditions") if isinstance(previous, Mapping) else None
    status = _record(record) | {
        "observedGeneration": observed.observed_generation,
        "image": clip(observed.image, MESSAGE_BYTES),
        "version": clip(observed.version, WORD_BYTES),
        "replicas": observed.replicas,
        "readyInstances": observed.ready_instances,
        "selector": observed.selector,
        "lag": observed.lag,
        "instances": [_instance(each) for each in observed.instances[:INSTANCE_LIMIT]],
        "conditions": merged(
            observed.conditions, previous=before, generation=observed.observed_generation, now=now
        ),
    }
    history = [_history(each) for each in record.history[-HISTORY_LIMIT:]]
    while history and size(status | {"history": history}) > STATUS_BYTES:
        history.pop(0)
    return {key: value for key, value in (status | {"history": history}).items() if value not in (None, "")}


def _record(record: Record) -> dict[str, Any]:
    return {
        "state": record.state.top,
        "substate": record.state.substate,
        "since": instant(record.since),
        "message": clip(record.message, MESSAGE_BYTES),
        "schema": record.schema,
        "sequence": record.sequence,
        "epoch": record.epoch,
        "clusterId": record.cluster_id,
        "primary": record.primary,
        "primaryIncarnation": record.primary_incarnation,
        "primaryPod": record.primary_pod,
        "primaryNode": record.primary_node,
        "primaryEnded": record.primary_ended or None,
        "members": [_member(each) for each in record.members],
        "durability": _durability(record.durability),
        "operation": None if record.operation is None else _operation(record.operation),
        "lastFailover": None if record.last_failover is None else instant(record.last_failover),
        "refutedAt": None if record.refuted_at is None else instant(record.refuted_at),
        "refutedProven": record.refuted_proven or None,
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "ordinal": member.ordinal,
        "keptOut": clip(member.kept_out, MESSAGE_BYTES),
        "leaving": member.leaving,
        "complete": member.complete,
        "redundant": member.redundant,
    }


def _durability(durability: Durability) -> dict[str, Any]:
    return {
        "recorded": str(durability.recorded),
        "witnesses": [{"name": each.name, "incarnation": each.incarnation} for each in durability.witnesses],
        "floor": str(durability.floor),
        "base": str(durability.base),
        "unacknowledged": durability.unacknowledged,
    }


def _operation(operation: Operation) -> dict[str, Any]:
    result = {
        "id": operation.id,
        "kind": "Failover",
        "oldPrimary": operation.old_primary,
        "startedAt": instant(operation.started),
        "deadline": instant(operation.deadline),
        "targetGtid": str(operation.target),
        "evidence": clip(operation.evidence, EVIDENCE_BYTES),
        "attempts": operation.attempts,
        "proven": operation.proven,
        "byPolicy": operation.by_policy,
        "tailGtid": str(operation.tail),
        "withoutTail": operation.without_tail,
    }
    return result | ({} if operation.candidate is None else {"candidate": operation.candidate})


def _history(entry: HistoryEntry) -> dict[str, Any]:
    result: dict[str, Any] = {
        "seq": entry.sequence,
        "from": str(entry.source),
        "to": str(entry.target),
        "trigger": clip(entry.trigger, WORD_BYTES),
        "guards": [clip(guard, WORD_BYTES) for guard in entry.guards[:GUARD_LIMIT]],
        "at": instant(entry.at),
        "evidence": clip(entry.evidence, EVIDENCE_BYTES),
        "operation": entry.operation,
    }
    while size(result) > HISTORY_ENTRY_BYTES and result["guards"]:
        result["guards"].pop()
    return result


def _instance(instance: InstanceStatus) -> dict[str, Any]:
    return {
        "name": instance.name,
        "ordinal": instance.ordinal,
        "role": str(instance.role),
        "ready": instance.ready,
        "gtid": clip(instance.gtid, INSTANCE_GTID_BYTES),
        "lag": instance.lag,
        "node": instance.node,
        "message": clip(instance.message, MESSAGE_BYTES),
    }
