"""What single looks do not show: since when, and up to where. Pure bookkeeping over successive answers.

A replica is *caught up at t* when it holds the primary's position that was read at t; under load it never holds the
latest one, so a target is kept until it is reached. Forgotten with every new start of server or replication.
"""

from __future__ import annotations

from dataclasses import dataclass

from statemachines.election import received
from statemachines.facts import IoThread, ServerFact
from statemachines.gtid import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryProgress:
    """As InstanceFacts has it."""

    acknowledged_at: float | None = None
    unacknowledged_at: float | None = None
    lonely_since: float | None = None


@dataclass(slots=True)
class _Replica:
    incarnation: str = ""
    source: str = ""
    target: Position | None = None
    target_at: float = 0.0
    attached_at: float | None = None  # when both threads were first seen to run
    caught_up_at: float | None = None
    detached_since: float | None = None
    shut_out_since: float | None = None


@dataclass(slots=True)
class _Primary:
    incarnation: str = ""
    acknowledged: int = 0
    acknowledged_at: float | None = None
    unacknowledged: int = 0
    unacknowledged_at: float = 0.0
    lonely_since: float | None = None
    stalled_since: float | None = None


class Progress:
    """Times derived from successive answers of one cluster's servers."""

    def __init__(self) -> None:
        self._replicas: dict[str, _Replica] = {}
        self._primaries: dict[str, _Primary] = {}

    def forget(self, instance: str) -> None:
        """The instance's replication was set up anew, or it is gone: nothing before counts."""
        self._replicas.pop(instance, None)

    def note_primary(self, instance: str, server: ServerFact) -> None:
        """The primary answered."""
        semi_sync = server.semi_sync
        known = self._primaries.get(instance)
        if known is None or known.incarnation != server.incarnation:
            known = self._primaries[instance] = _Primary(
                incarnation=server.incarnation,
                acknowledged=semi_sync.acknowledged,
                unacknowledged=semi_sync.unacknowledged,
                unacknowledged_at=server.asked_at,
            )
        if semi_sync.unacknowledged > known.unacknowledged:
            known.unacknowledged, known.unacknowledged_at = semi_sync.unacknowledged, server.asked_at
        if semi_sync.waiting_sessions == 0 or semi_sync.acknowledged > known.acknowledged:
            known.stalled_since = None
        elif known.stalled_since is None:
            # A frozen replica, or one behind a dead link or with a full disk, stays connected for very long.
            known.stalled_since = server.asked_at
        if not semi_sync.source_enabled:
            known.acknowledged_at = None
        elif semi_sync.acknowledged > known.acknowledged and known.acknowledged_at is None:
            # The first time: under writes the last one would always be later than what any replica holds.
            known.acknowledged_at = server.asked_at
        known.acknowledged = semi_sync.acknowledged
        if semi_sync.clients > 0:
            known.lonely_since = None
        elif known.lonely_since is None:
            known.lonely_since = server.asked_at

    def note_replica(
        self, instance: str, server: ServerFact | None, primary: ServerFact | None, *, now: float
    ) -> None:
        """What is known of a replica and of its primary now; None: does not answer."""
        known = self._replicas.setdefault(instance, _Replica())
        replication = server.replication if server is not None else None
        running = (
            replication is not None and replication.io_thread is IoThread.RUNNING and replication.sql_running
        )
        if not running:
            known.detached_since = known.detached_since if known.detached_since is not None else now
            known.target, known.caught_up_at, known.attached_at = None, None, None
            return
        assert server is not None
        assert replication is not None
        known.detached_since = None
        source = f"{replication.source_host} {primary.incarnation if primary is not None else ''}"
        if (known.incarnation, known.source) != (server.incarnation, source) or known.attached_at is None:
            known.incarnation, known.source = server.incarnation, source
            known.target, known.caught_up_at, known.attached_at = None, None, server.asked_at
        if known.target is not None and received(server).covers(known.target):
            known.caught_up_at, known.target = known.target_at, None
        # What was read before it was attached may have been wiped from it in between.
        if known.target is None and primary is not None and primary.asked_at >= known.attached_at:
            known.target, known.target_at = primary.executed, primary.asked_at
            # Asked later than the primary, it may hold that position already.
            if server.asked_at >= primary.asked_at and received(server).covers(known.target):
                known.caught_up_at, known.target = known.target_at, None

    def note_account(self, instance: str, account: str, primary: ServerFact) -> None:
        """Whether the replica is locked out of the primary."""
        known = self._replicas.setdefault(instance, _Replica())
        out = account in primary.locked_accounts and account not in primary.connected_accounts
        if not out:
            known.shut_out_since = None
        elif known.shut_out_since is None:
            known.shut_out_since = primary.asked_at

    def replica(self, instance: str) -> tuple[float | None, float | None, float | None]:
        """caught_up_at, detached_since, shut_out_since."""
        known = self._replicas.get(instance, _Replica())
        return known.caught_up_at, known.detached_since, known.shut_out_since

    def primary(self, instance: str) -> PrimaryProgress:
        """What spans several looks at a primary."""
        known = self._primaries.get(instance)
        if known is None:
            return PrimaryProgress()
        since = [each for each in (known.lonely_since, known.stalled_since) if each is not None]
        return PrimaryProgress(
            acknowledged_at=known.acknowledged_at,
            unacknowledged_at=known.unacknowledged_at,
            lonely_since=min(since, default=None),
        )
