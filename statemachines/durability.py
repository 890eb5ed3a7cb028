"""Guards on durability: whether anybody acknowledges commits, and whether the primary waits for it.

Not for who may acknowledge: witnesses.py.
"""

from __future__ import annotations

from statemachines import guards as g
from statemachines.record import DurabilityMode, Recorded, Situation


def acknowledgements_missing(s: Situation) -> bool:
    """durability is Preferred and for longer than degradeAfter nobody could acknowledge, or nobody did."""
    preferred = s.intent.durability is DurabilityMode.PREFERRED
    return preferred and s.record.durability.recorded is Recorded.SEMI_SYNC and g.unacknowledged(s)


def semi_sync_unwanted(s: Situation) -> bool:
    """Commits wait for a replica, yet the spec asks for one instance, or for no high availability."""
    return s.record.durability.recorded is Recorded.SEMI_SYNC and not s.intent.wants_semi_sync


def semi_sync_found_off(s: Situation) -> bool:
    """Commits do not wait at the open primary, though SemiSync is recorded: somebody turned it off."""
    primary = g.primary_facts(s)
    server = primary.answering if primary is not None else None
    if primary is None or server is None or primary.busy or not g.primary_open(s):
        return False
    return s.record.durability.recorded is Recorded.SEMI_SYNC and not server.semi_sync.source_enabled


def acknowledgement_seen(s: Situation) -> bool:
    """Semi-sync is on at the primary, a commit was acknowledged since, and a counted replica holds its position."""
    primary = g.primary_facts(s)
    server = primary.answering if primary is not None else None
    if primary is None or server is None or primary.busy or not s.intent.wants_semi_sync:
        return False
    if not server.semi_sync.source_enabled:
        return False
    seen = primary.acknowledged_at
    if s.record.durability.recorded is Recorded.SEMI_SYNC or seen is None or server.semi_sync.clients == 0:
        return False
    counted = (s.snapshot.instance(each.name) for each in s.record.durability.witnesses)
    return any(
        facts is not None
        and facts.caught_up_at is not None
        and facts.caught_up_at > seen  # one look reads the position before it reads whether semi-sync is on
        and g.attached(s, facts)
        for facts in counted
    )
